//! Since when nobody uses the queues that end when nobody does.
//!
//! That somebody begins and ends to use one is in the log; who it is, is not. So a lease is exact over restarts, but for consumers whose
//! connections a crash has ended: the next leader says then that they are gone, and the time begins there.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq_index::Offset;
use serde::{Deserialize, Serialize};

use super::section::{decode_each, encode_each};
use super::{SectionError, View};
use crate::model::record::queue_id;
use crate::model::{Control, Millis, Record};

/// The leases of all queues that have `expires_ms`.
#[derive(Debug, Default)]
pub struct Leases {
    by_queue: BTreeMap<u64, Lease>,
    /// Derived: when each ends that nobody uses.
    ends: BTreeSet<(Millis, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    expires_ms: u64,
    /// `None` while somebody uses it.
    unused_since: Option<Millis>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    queue: u64,
    expires_ms: u64,
    unused_since: Option<u64>,
}

impl Leases {
    /// Lists the queues that nobody has used for as long as they may be unused, the longest first.
    pub fn over(&self, now: Millis) -> impl Iterator<Item = u64> {
        self.ends.iter().take_while(move |(at, _)| *at <= now).map(|(_, queue)| *queue)
    }

    /// Lists the queues that somebody uses, as far as the log knows.
    pub fn in_use(&self) -> impl Iterator<Item = u64> {
        let used = self.by_queue.iter().filter(|(_, lease)| lease.unused_since.is_none());
        used.map(|(queue, _)| *queue)
    }

    /// Returns when a queue ends unless somebody uses it before; `None` for one that is used, or that does not end so.
    pub fn ends_at(&self, queue: u64) -> Option<Millis> {
        self.by_queue.get(&queue).and_then(|lease| lease.ends_at())
    }

    fn set(&mut self, queue: u64, lease: Lease) {
        self.remove(queue);
        self.ends.extend(lease.ends_at().map(|at| (at, queue)));
        self.by_queue.insert(queue, lease);
    }

    fn remove(&mut self, queue: u64) {
        let ends_at = self.by_queue.remove(&queue).and_then(|lease| lease.ends_at());
        ends_at.map(|at| self.ends.remove(&(at, queue)));
    }
}

impl Lease {
    fn ends_at(&self) -> Option<Millis> {
        self.unused_since.map(|since| since.plus(self.expires_ms))
    }
}

impl View for Leases {
    fn name(&self) -> &'static str {
        "leases"
    }

    fn apply(&mut self, _at: Offset, time: Millis, record: Record<'_>) {
        match record {
            Record::Control(Control::QueueDeclared { name, settings }) => {
                let queue = queue_id(name);
                if let Some(expires_ms) = settings.expires_ms
                    && !self.by_queue.contains_key(&queue)
                {
                    self.set(queue, Lease { expires_ms, unused_since: Some(time) });
                }
            }
            Record::Control(Control::QueueDeleted { queue }) => self.remove(*queue),
            Record::Control(Control::QueueUsed { queue, goes_on }) => {
                if let Some(lease) = self.by_queue.get(queue).copied() {
                    let unused_since = (!goes_on).then_some(time);
                    self.set(*queue, Lease { unused_since, ..lease });
                }
            }
            Record::Control(_) | Record::Message(..) => {}
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        let row = |(queue, lease): (&u64, &Lease)| Row {
            queue: *queue,
            expires_ms: lease.expires_ms,
            unused_since: lease.unused_since.map(|since| since.0),
        };
        encode_each(self.by_queue.iter().map(row))
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        *self = Leases::default();
        for row in decode_each(section)? {
            let Row { queue, expires_ms, unused_since } = row?;
            self.set(queue, Lease { expires_ms, unused_since: unused_since.map(Millis) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::QueueSettings;

    fn over(leases: &Leases, now: u64) -> bool {
        leases.over(Millis(now)).any(|queue| queue == queue_id(b"q"))
    }

    #[test]
    fn a_lease_is_over_so_long_after_the_last_use_and_never_during_one() {
        let queue = queue_id(b"q");
        let mut leases = Leases::default();
        let say = |leases: &mut Leases, time, control: Control| {
            leases.apply(Offset(0), Millis(time), Record::Control(&control));
        };
        let settings = QueueSettings { expires_ms: Some(100), ..QueueSettings::default() };
        let name = bytes::Bytes::from_static(b"q");
        say(&mut leases, 1000, Control::QueueDeclared { name, settings: settings.into() });
        assert!(!over(&leases, 1099) && over(&leases, 1100));

        say(&mut leases, 1050, Control::QueueUsed { queue, goes_on: false });
        assert!(!over(&leases, 1149) && over(&leases, 1150));

        say(&mut leases, 1060, Control::QueueUsed { queue, goes_on: true });
        assert!(!over(&leases, u64::MAX));
        assert_eq!(leases.in_use().collect::<Vec<u64>>(), [queue]);

        say(&mut leases, 2000, Control::QueueUsed { queue, goes_on: false });
        assert!(!over(&leases, 2099) && over(&leases, 2100));

        say(&mut leases, 2100, Control::QueueDeleted { queue });
        assert!(!over(&leases, u64::MAX) && leases.snapshot() == Leases::default().snapshot());
    }
}
