//! Queues that are read otherwise: what is drawn of them, beside the plan and after it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use bytes::Bytes;
use fluxmq::model::queue::{Overflow, QueueKind, QueueLimits};
use fluxmq::model::{Filter, QueueName, QueueSettings};

use crate::listed;
use crate::plan::{Declared, Plan, SECOND};
use crate::random::Random;

/// In `seeds.txt`, where those begin for which all of this is drawn.
const DRAWN_BELOW: &str = "# kinds:";

/// Returns true for a seed that failed before there was any of this: its history stays what it was.
pub fn is_from_before(seed: u64) -> bool {
    static SEEDS: LazyLock<BTreeSet<u64>> = LazyLock::new(|| {
        let (before, _) = include_str!("seeds.txt").split_once(DRAWN_BELOW).expect("it is there");
        listed(before).into_iter().collect()
    });
    SEEDS.contains(&seed)
}

impl Plan {
    /// Adds a stream and its readers, in some of the seeds that have queues with rules.
    pub fn with_streams(mut self) -> Plan {
        let mut random = Random::new(self.seed ^ 0x57_4ea3);
        if self.declared.is_empty() || random.chance(700) {
            return self;
        }
        let settings = stream(&mut random).checked().expect("rules that make sense");
        let at = random.below(5 * SECOND);
        self.declared.push(Declared { name: "s0".to_owned(), settings, at });
        self.readers = random.between(1, 2) as usize;
        self
    }
}

impl Plan {
    /// Bounds what clients publish to and read by bytes, age and more, and has entries told apart by priority, in some of the seeds that
    /// have queues with rules.
    pub fn with_bounds(mut self) -> Plan {
        let mut random = Random::new(self.seed ^ 0x0b_094d);
        if self.declared.is_empty() || random.chance(650) {
            return self;
        }
        let bytes = self.filling_max.max(100);
        let is_worked = |it: &&mut Declared| it.name.starts_with(['w', 's']);
        for declared in self.declared.iter_mut().filter(is_worked) {
            let settings = &mut declared.settings;
            let is_stream = settings.kind == QueueKind::Stream;
            let limits = &mut settings.limits;
            if is_stream {
                limits.messages_max = *random.pick(&[None, Some(10), Some(40)]);
            }
            limits.bytes_max = random.chance(500).then(|| bytes * random.between(4, 20));
            limits.age_max_ms = random.chance(400).then(|| random.between(2_000, 15_000));
            // As where what is in it has its time: where nothing leaves, a full one stays full.
            if limits.age_max_ms.is_some() && random.chance(400) {
                limits.overflow = Overflow::RejectPublish;
            }
            if !is_stream && random.chance(500) {
                settings.priority_max = *random.pick(&[1, 3, 9]);
            }
        }
        self
    }

    /// Declares a queue in the middle of it that begins at the earliest, in some of the seeds that have queues with rules. In half of them
    /// somebody reads it.
    pub fn with_followers(mut self) -> Plan {
        let mut random = Random::new(self.seed ^ 0x0f_0110);
        if self.declared.is_empty() || random.chance(700) {
            return self;
        }
        const BINDINGS: [&[&str]; 3] = [&["t/#"], &["t/0"], &["t/+", "t/0"]];
        let bindings = *random.pick(&BINDINGS);
        let settings = QueueSettings {
            bindings: filters(bindings),
            visibility_timeout_ms: Some(2_500),
            deliveries_max: 0,
            limits: QueueLimits {
                messages_max: *random.pick(&[None, None, Some(60)]),
                ..QueueLimits::default()
            },
            retroactive: true,
            ..QueueSettings::default()
        };
        let settings = settings.checked().expect("rules that make sense");
        let at = random.between(5 * SECOND, 40 * SECOND);
        self.declared.push(Declared { name: "e0".to_owned(), settings, at });
        self.latecomers = random.below(2) as usize;
        self
    }

    /// Returns true when entries are told apart by priority.
    pub fn has_priorities(&self) -> bool {
        self.declared.iter().any(|it| it.settings.priority_max > 0)
    }
}

/// Some rules for a stream.
fn stream(random: &mut Random) -> QueueSettings {
    const BINDINGS: [&[&str]; 3] = [&["t/#"], &["t/0"], &[]];
    let bindings = *random.pick(&BINDINGS);
    let group = QueueName::new(Bytes::from_static(b"g")).expect("a name");
    QueueSettings {
        kind: QueueKind::Stream,
        bindings: filters(bindings),
        primary_group: random.chance(300).then_some(group),
        single_active: random.chance(200),
        ..QueueSettings::default()
    }
}

/// These texts as filters.
pub fn filters(texts: &[&str]) -> Vec<Filter> {
    let filter = |text: &&str| Filter::new(Bytes::from(text.to_string())).expect("a filter");
    texts.iter().map(filter).collect()
}
