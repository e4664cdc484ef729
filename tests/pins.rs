//! What is needed of a partition's history: the views' answer against a model that remembers everything.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq::model::queue::QueueKind;
use fluxmq::model::record::{DedupKey, queue_id};
use fluxmq::model::{Control, Millis, QoS, QueueSettings, Record, StoredMessage};
use fluxmq::view::{Queue, Views, Weight};
use fluxmq_index::{Offset, OffsetSet};
use fluxmq_log::format::Retain;
use proptest::prelude::*;

/// The last one is a stream.
const QUEUES: [&str; 3] = ["a", "b", "s"];
const GROUPS: [&str; 2] = ["one", "two"];
const TOPICS: [&str; 3] = ["x", "y", "z"];

/// Something that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Act {
    Publish { queues: Vec<usize>, count: usize },
    Retain { topic: usize, expiry_s: Option<u32>, queues: Vec<usize> },
    Join { queue: usize, group: usize },
    Settle { queue: usize, group: usize, from: prop::sample::Index, count: u64 },
    Seek { queue: usize, group: usize, to: prop::sample::Index },
    Remove { queue: usize, entry: prop::sample::Index },
    Cut { queue: usize, to: prop::sample::Index },
    Purge { queue: usize, one_in: usize },
    Move { which: prop::sample::Index },
    Trim { to: prop::sample::Index },
}

fn act() -> impl Strategy<Value = Act> {
    let index = any::<prop::sample::Index>;
    let queues = || proptest::sample::subsequence(vec![0, 1, 2], 0..=3);
    let (queue, group) = (|| 0..QUEUES.len(), || 0..GROUPS.len());
    prop_oneof![
        6 => (queues(), 1..90usize).prop_map(|(queues, count)| Act::Publish { queues, count }),
        2 => (0..TOPICS.len(), proptest::option::of(1..900u32), queues())
            .prop_map(|(topic, expiry_s, queues)| Act::Retain { topic, expiry_s, queues }),
        2 => (queue(), group()).prop_map(|(queue, group)| Act::Join { queue, group }),
        6 => (queue(), group(), index(), 1..200u64)
            .prop_map(|(queue, group, from, count)| Act::Settle { queue, group, from, count }),
        1 => (queue(), group(), index())
            .prop_map(|(queue, group, to)| Act::Seek { queue, group, to }),
        1 => (queue(), index()).prop_map(|(queue, entry)| Act::Remove { queue, entry }),
        1 => (queue(), index()).prop_map(|(queue, to)| Act::Cut { queue, to }),
        1 => (queue(), 1..90usize).prop_map(|(queue, one_in)| Act::Purge { queue, one_in }),
        4 => index().prop_map(|which| Act::Move { which }),
        4 => index().prop_map(|to| Act::Trim { to }),
    ]
}

#[derive(Debug)]
struct Entry {
    /// Where it was stored first, and where it is.
    first: u64,
    at: u64,
    bytes: u64,
    is_in: bool,
}

#[derive(Debug, Default)]
struct Model {
    queues: [Vec<Entry>; 3],
    /// What each group has finished.
    groups: BTreeMap<(usize, usize), BTreeSet<u64>>,
    /// Of each topic: where its message is, and when it expires.
    retained: BTreeMap<usize, (u64, Option<u64>)>,
    records: BTreeMap<u64, StoredMessage>,
}

struct World {
    views: Views,
    model: Model,
    next: u64,
}

impl Model {
    fn is_needed(&self, queue: usize, entry: u64) -> bool {
        let groups = || self.groups.iter().filter(|((of, _), _)| *of == queue);
        let is_open = groups().any(|(_, finished)| !finished.contains(&entry));
        self.queues[queue][entry as usize].is_in
            && (QUEUES[queue] == "s" || groups().next().is_none() || is_open)
    }

    /// Where everything is that somebody will ask for, with the queue's entry that it is.
    fn needed(&self, now: u64) -> Vec<(u64, Option<(usize, u64)>)> {
        let alive = |expires_at: Option<u64>| expires_at.is_none_or(|at| at > now);
        let retained = self.retained.values().filter(|(_, expires_at)| alive(*expires_at));
        let mut needed: Vec<_> = retained.map(|(at, _)| (*at, None)).collect();
        for (queue, entries) in self.queues.iter().enumerate() {
            let open = (0..entries.len() as u64).filter(|entry| self.is_needed(queue, *entry));
            needed.extend(open.map(|entry| (entries[entry as usize].at, Some((queue, entry)))));
        }
        needed
    }
}

fn id(queue: usize) -> u64 {
    queue_id(QUEUES[queue].as_bytes())
}

fn group(number: usize) -> Bytes {
    Bytes::from_static(GROUPS[number].as_bytes())
}

fn message(topic: &'static str, retain: Retain, expiry_s: Option<u32>, time: u64) -> StoredMessage {
    StoredMessage {
        topic: Bytes::from_static(topic.as_bytes()),
        payload: Bytes::from(vec![b'.'; time as usize % 7]),
        properties: Bytes::new(),
        qos: QoS::AtLeastOnce,
        retain,
        time: Millis(time),
        expiry_s,
        deliver_at: None,
        priority: 0,
        publisher: 7,
        dedup: DedupKey::default(),
    }
}

impl World {
    fn new() -> World {
        let mut world = World { views: Views::default(), model: Model::default(), next: 0 };
        for name in QUEUES {
            let kind = if name == "s" { QueueKind::Stream } else { QueueKind::Classic };
            let settings = Arc::new(QueueSettings { kind, ..QueueSettings::default() });
            world.say(&Control::QueueDeclared { name: name.into(), settings });
        }
        world
    }

    fn now(&self) -> u64 {
        self.next * 1000
    }

    fn say(&mut self, control: &Control) {
        let (at, time) = (Offset(self.next), Millis(self.now()));
        self.views.apply(at, time, Record::Control(control));
        self.next += 1;
    }

    fn publish(&mut self, message: StoredMessage, queues: &[usize]) {
        let at = self.next;
        let mut ids: Vec<u64> = queues.iter().map(|queue| id(*queue)).collect();
        ids.sort_unstable();
        self.views.apply(Offset(at), message.time, Record::Message(&message, &ids));
        for queue in queues {
            let bytes = message.len_bytes() as u64;
            self.model.queues[*queue].push(Entry { first: at, at, bytes, is_in: true });
        }
        if message.retain == Retain::Set {
            let topic = TOPICS.iter().position(|topic| message.topic == topic.as_bytes()).unwrap();
            self.model.retained.insert(topic, (at, message.expires_at().map(|at| at.0)));
        }
        self.model.records.insert(at, message);
        self.next += 1;
    }

    fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match act {
            Act::Publish { queues, count } => {
                for _ in 0..*count {
                    self.publish(message("x", Retain::No, None, self.now()), queues);
                }
            }
            Act::Retain { topic, expiry_s, queues } => {
                let message = message(TOPICS[*topic], Retain::Set, *expiry_s, self.now());
                self.publish(message, queues);
            }
            Act::Join { queue, group: name } => {
                let start = self.views.queues.get(id(*queue)).unwrap().head();
                self.say(&Control::GroupCreated { queue: id(*queue), group: group(*name), start });
                let finished = (0..start.0).collect();
                self.model.groups.entry((*queue, *name)).or_insert(finished);
            }
            Act::Settle { queue, group: name, from, count } => {
                self.settle((*queue, *name), from, *count)
            }
            Act::Seek { queue, group: name, to } => self.seek((*queue, *name), to),
            Act::Remove { queue, entry } => {
                let entries = &mut self.model.queues[*queue];
                if !entries.is_empty() {
                    let number = entry.index(entries.len());
                    entries[number].is_in = false;
                    let (entries, bytes) = (vec![Offset(number as u64)], entries[number].bytes);
                    self.say(&Control::QueueRemoved { queue: id(*queue), entries, bytes });
                }
            }
            Act::Cut { queue, to } => {
                let to = to.index(self.model.queues[*queue].len() + 1);
                let gone = self.model.queues[*queue].iter_mut().take(to).filter(|it| it.is_in);
                let bytes = gone.map(|it| (it.is_in = false, it.bytes).1).sum();
                let to = Offset(to as u64);
                self.say(&Control::QueueTrimmed { queue: id(*queue), to, bytes });
            }
            Act::Purge { queue, one_in } => self.purge(*queue, *one_in),
            Act::Move { which } => self.store_again(which),
            Act::Trim { to } => return self.trim(to.index(self.next as usize + 1) as u64),
        }
        Ok(())
    }

    /// One in so many entries is out at every group, and stays.
    fn purge(&mut self, queue: usize, one_in: usize) {
        let entries = &mut self.model.queues[queue];
        let (mut stay, mut lengths) = (Vec::new(), Vec::new());
        for (number, entry) in entries.iter_mut().enumerate().filter(|(_, entry)| entry.is_in) {
            entry.is_in = number % one_in == 0;
            if entry.is_in {
                stay.push(Offset(number as u64));
                lengths.push(entry.bytes);
            }
        }
        let to = Offset(entries.len() as u64);
        for (_, finished) in self.model.groups.iter_mut().filter(|((of, _), _)| *of == queue) {
            finished.extend((0..to.0).filter(|entry| !stay.contains(&Offset(*entry))));
        }
        let kept = (0..GROUPS.len()).map(|name| (group(name), stay.clone())).collect();
        self.say(&Control::QueuePurged { queue: id(queue), to, kept, lengths });
    }

    fn settle(&mut self, key: (usize, usize), from: &prop::sample::Index, count: u64) {
        let end = self.model.queues[key.0].len() as u64;
        let Some(finished) = self.model.groups.get_mut(&key).filter(|_| end > 0) else { return };
        let from = from.index(end as usize) as u64;
        let count = count.min(end - from);
        finished.extend(from..from + count);
        self.say(&Control::Settled {
            selection: id(key.0),
            group: group(key.1),
            finished: vec![(Offset(from), count)],
            released: Vec::new(),
        });
    }

    fn seek(&mut self, key: (usize, usize), to: &prop::sample::Index) {
        let (queue, name) = (id(key.0), group(key.1));
        let end = self.model.queues[key.0].len();
        let head = self.views.queues.get(queue).unwrap().head();
        let Some(finished) = self.model.groups.get_mut(&key) else { return };
        let to = Offset(to.index(end + 1) as u64).max(head);
        if to < self.views.groups.get(queue, &name).unwrap().committed() {
            finished.clear();
        }
        finished.extend(0..to.0);
        self.say(&Control::CursorSet { queue, group: name, to });
    }

    /// One of the needed records is stored again.
    fn store_again(&mut self, which: &prop::sample::Index) {
        let needed = self.model.needed(self.now());
        if needed.is_empty() {
            return;
        }
        let (from, at) = (needed[which.index(needed.len())].0, self.next);
        let message = self.model.records[&from].clone();
        let mut queues = Vec::new();
        for (queue, entries) in self.model.queues.iter_mut().enumerate() {
            for (number, entry) in entries.iter_mut().enumerate() {
                if entry.at == from && entry.is_in {
                    entry.at = at;
                    queues.push((id(queue), Offset(number as u64)));
                }
            }
        }
        for (place, _) in self.model.retained.values_mut().filter(|(place, _)| *place == from) {
            *place = at;
        }
        self.model.records.insert(at, message.clone());
        self.say(&Control::Moved { from: Offset(from), queues, message: Box::new(message) });
    }

    /// History begins at `to`, or at the last place before it that takes nothing from anybody.
    fn trim(&mut self, to: u64) -> Result<(), TestCaseError> {
        let (now, at) = (self.now(), self.next);
        let needed = self.model.needed(now);
        let before = self.views.horizon.start().0;
        self.say(&Control::HistoryTrimmed { to: Offset(to) });
        let start = self.views.horizon.start().0;
        prop_assert!(start <= to.max(before));
        // Of a queue, what is between the needed entry and the remembered one before it stays, too.
        let stays = needed.iter().map(|(at, entry)| match entry {
            Some((queue, entry)) if self.model.queues[*queue][*entry as usize].first == *at => {
                self.model.queues[*queue][(*entry - *entry % 128) as usize].first
            }
            _ => *at,
        });
        let bound = stays.min().map_or(to, |stays| stays.min(to)).min(at);
        prop_assert!(start >= bound, "begins at {start}, and nothing is needed below {bound}");
        for (number, entries) in self.model.queues.iter_mut().enumerate() {
            let queue = self.views.queues.get(id(number)).unwrap();
            for (entry, known) in entries.iter_mut().enumerate() {
                known.is_in &= !queue.is_removed(Offset(entry as u64));
            }
        }
        let retained = &self.views.retained;
        self.model.retained.retain(|topic, (_, expires_at)| {
            let is_there = retained.get(TOPICS[*topic].as_bytes()).is_some();
            is_there || expires_at.is_none_or(|at| at > now)
        });
        let still: BTreeSet<u64> = self.model.needed(now).into_iter().map(|(at, _)| at).collect();
        let gone = needed.iter().find(|(at, _)| !still.contains(at));
        prop_assert!(gone.is_none(), "{gone:?} is gone, and was needed");
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let (now, start) = (self.now(), self.views.horizon.start());
        let needed = self.model.needed(now);
        let lowest = needed.iter().map(|(at, _)| Offset(*at)).min();
        let pinned = self.views.pinned(Millis(now));
        prop_assert_eq!(pinned.is_some(), lowest.is_some());
        prop_assert!(pinned <= lowest, "pinned {pinned:?}, needed {lowest:?}");
        prop_assert!(lowest.is_none_or(|lowest| lowest >= start), "{lowest:?} below {start}");
        for (topic, (at, expires_at)) in &self.model.retained {
            if expires_at.is_none_or(|at| at > now) {
                let found = self.views.retained.get(TOPICS[*topic].as_bytes());
                prop_assert_eq!(found.map(|it| it.offset()), Some(Offset(*at)));
            }
        }
        let below_all = self.views.needed_bytes(Offset(u64::MAX), Millis(now));
        prop_assert_eq!(below_all > 0, !needed.is_empty());
        for (number, entries) in self.model.queues.iter().enumerate() {
            let queue = self.views.queues.get(id(number)).unwrap();
            prop_assert_eq!(queue.check(), Ok(()));
            let there = || entries.iter().filter(|entry| entry.is_in);
            prop_assert_eq!(queue.len(), there().count() as u64);
            // Of a run of moved entries only the sum is remembered.
            let moved = || entries.iter().filter(|it| it.at != it.first).map(|it| it.bytes);
            let spread = moved().max().unwrap_or(0) - moved().min().unwrap_or(0);
            let bytes: u64 = there().map(|entry| entry.bytes).sum();
            prop_assert!(queue.bytes().abs_diff(bytes) <= spread * moved().count() as u64);
            weigh_all(queue, entries, spread * moved().count() as u64)?;
            let end = Offset(entries.len() as u64);
            let unfinished = self.views.unfinished_in(id(number), queue, Offset(0)..end);
            let unfinished: BTreeSet<u64> =
                unfinished.flat_map(|it| it.start.0..it.end.0).collect();
            for (entry, known) in entries.iter().enumerate().filter(|(_, known)| known.is_in) {
                let is_needed = self.views.is_needed(id(number), queue, Offset(entry as u64));
                prop_assert_eq!(unfinished.contains(&(entry as u64)), is_needed);
                let entry = Offset(entry as u64);
                let moved = queue.moved_to(entry);
                if known.at != known.first {
                    prop_assert_eq!(moved, Some(Offset(known.at)));
                }
                // The index counts entries from a mark on: it must be exactly that entry's, and still there.
                if moved.is_none() {
                    let (mark, at) = queue.mark_before(entry).expect("in place");
                    prop_assert!(mark <= entry && at >= start);
                    prop_assert_eq!(Offset(entries[mark.0 as usize].first), at);
                }
            }
        }
        Ok(())
    }
}

/// What some entries have together is what is known of them and what those have that it names; the parts of runs are known as exactly as
/// `more` bytes.
fn weigh_all(queue: &Queue, entries: &[Entry], more: u64) -> Result<(), TestCaseError> {
    let end = entries.len() as u64;
    for (first, step, count) in [(0, end.max(1), end / 2), (3, 150, 140), (1, 300, 257), (0, 9, 2)]
    {
        let mut some = OffsetSet::new();
        for start in (first..end).step_by(step as usize) {
            some.insert_range(Offset(start)..Offset((start + count).min(end)));
        }
        let weight = queue.weigh(&some);
        let bytes = |entry: Offset| entries[entry.0 as usize].bytes;
        let moved = entries.iter().filter(|it| it.at != it.first).count() as u64;
        let Weight { bytes: known, lacks, exceeds } = &weight;
        prop_assert!(lacks.offsets().all(|it| some.contains(it) && !queue.is_removed(it)));
        prop_assert!(exceeds.offsets().all(|it| !some.contains(it) && !queue.is_removed(it)));
        let all: u64 = some.offsets().filter(|it| !queue.is_removed(*it)).map(bytes).sum();
        let sum = |entries: &OffsetSet| entries.offsets().map(bytes).sum::<u64>();
        let weighed = known + sum(lacks);
        prop_assert!(
            (weighed).abs_diff(all + sum(exceeds)) <= more,
            "{weight:?} of {all}: {some:?}"
        );
        // Of a mark half of its entries, and of a run those of its ends.
        let (marks, asked) = (end / 128 + 2, lacks.len() + exceeds.len());
        prop_assert!(asked <= marks * 64 + moved, "{weight:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn history_never_begins_above_what_is_needed_nor_far_below_it(
        acts in proptest::collection::vec(act(), 0..40),
    ) {
        let mut world = World::new();
        for act in &acts {
            world.act(act)?;
            world.check()?;
        }
        let snapshot = world.views.snapshot();
        prop_assert_eq!(Views::restore(&snapshot).unwrap().snapshot(), snapshot);
    }
}

/// Entries of any length that were moved together leave with the bytes they have: a bound would ask for one too many, or one too few
/// (seeds 1795372901771 and 1795372901257).
#[test]
fn moved_entries_leave_a_queue_with_their_own_bytes() {
    let mut world = World::new();
    for number in 0..20 {
        world.publish(message("q", Retain::No, None, number * number), &[0]);
    }
    let places: Vec<u64> = world.model.queues[0].iter().map(|entry| entry.at).collect();
    for (entry, at) in (0..).zip(places) {
        let (from, message) = (Offset(at), Box::new(world.model.records[&at].clone()));
        world.say(&Control::Moved { from, queues: vec![(id(0), Offset(entry))], message });
    }
    let bytes: Vec<u64> = world.model.queues[0].iter().map(|entry| entry.bytes).collect();
    for to in [1, 2, 7, 19, 20] {
        let queue = world.views.queues.get(id(0)).unwrap();
        let head = queue.head().0 as usize;
        assert_eq!(world.views.queues.moved_run_count(), 1);
        let gone = bytes[head..to].iter().sum();
        world.say(&Control::QueueTrimmed { queue: id(0), to: Offset(to as u64), bytes: gone });
        let queue = world.views.queues.get(id(0)).unwrap();
        assert_eq!(queue.bytes(), bytes[to..].iter().sum::<u64>(), "below {to}");
        assert_eq!(queue.check(), Ok(()));
    }
}
