//! The checkers of what is folded: I15, I16, I17.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq::model::record::{DedupKey, Retain, Tenure};
use fluxmq::model::{Control, Filter, Millis, PartitionId, QoS, StoredMessage};
use fluxmq::view::Views;
use fluxmq_index::Offset;
use fluxmq_log::format::Message;

use super::{Invariant, Violation, wrong};
use crate::ledger::{Ledger, Record, records};
use crate::node::replica;
use crate::random::Random;
use crate::world::World;

/// Cuts tried in each log.
const CUTS: usize = 3;

pub fn check(world: &World) -> Vec<Result<(), Violation>> {
    let mut random = Random::new(world.plan.seed ^ 0xf01d);
    let mut found = Vec::new();
    for partition in world.ledger.partitions() {
        let whole = fold(&world.ledger, partition, Views::default(), 0, u64::MAX);
        let expected = whole.snapshot();
        for (number, node) in world.nodes.iter().enumerate() {
            let Some(owned) = node.owned.get(&partition) else { continue };
            if !world.members_of(partition).contains(replica(number)) {
                continue;
            }
            if owned.partition.views().snapshot() != expected {
                let what = format!("node {number} p{}: its views are not the fold", partition.0);
                found.push(wrong(Invariant::I15, what));
            }
        }
        let last = world.ledger.frames(partition).len() as u64;
        for _ in 0..CUTS {
            let cut = random.below(last + 1);
            found.push(at_cut(&world.ledger, partition, cut, &expected));
        }
        found.extend(against_oracle(&world.ledger, partition, &whole));
    }
    found
}

/// I16.
fn at_cut(
    ledger: &Ledger,
    partition: PartitionId,
    cut: u64,
    expected: &[Bytes],
) -> Result<(), Violation> {
    let views = fold(ledger, partition, Views::default(), 0, cut);
    let restored = Views::restore(&views.snapshot()).map_err(|error| Violation {
        invariant: Invariant::I16,
        what: format!("p{}: the snapshot at {cut} does not read: {error}", partition.0),
    })?;
    // What is finished by the end no longer shows in it: a snapshot must be whole when it is taken.
    if restored.snapshot() != views.snapshot() {
        let what = format!("p{}: what is restored at {cut} is not what was saved", partition.0);
        return wrong(Invariant::I16, what);
    }
    if fold(ledger, partition, restored, cut, u64::MAX).snapshot() == expected {
        return Ok(());
    }
    let what = format!("p{}: a snapshot at {cut} and the rest are not the whole", partition.0);
    wrong(Invariant::I16, what)
}

/// Applies the entries after `from`, up to `to`.
fn fold(ledger: &Ledger, partition: PartitionId, mut views: Views, from: u64, to: u64) -> Views {
    for frame in ledger.frames(partition) {
        if frame.header.index <= from || frame.header.index > to {
            continue;
        }
        for (offset, time, record) in records(frame) {
            match record {
                Record::Message { message, queues } => {
                    let stored = to_stored(&message);
                    views.apply(
                        offset,
                        Millis(time),
                        fluxmq::model::Record::Message(&stored, &queues),
                    );
                }
                Record::Control(control) => {
                    views.apply(offset, Millis(time), fluxmq::model::Record::Control(&control));
                }
            }
        }
    }
    views
}

fn to_stored(message: &Message) -> StoredMessage {
    StoredMessage {
        topic: message.topic.clone(),
        payload: message.payload.clone(),
        properties: message.props.clone(),
        qos: QoS::from_bits(message.qos).expect("committed: a QoS"),
        retain: message.retain,
        time: Millis(message.ts),
        expiry_s: message.expiry_s,
        deliver_at: message.deliver_at.map(Millis),
        priority: message.priority,
        publisher: message.producer.map_or(0, |producer| producer.id),
        dedup: message.producer.map_or(DedupKey::default(), |producer| DedupKey {
            incarnation: producer.epoch,
            seq: producer.seq,
        }),
    }
}

/// A fold of our own, simple enough to be seen to be right.
#[derive(Default)]
struct Oracle {
    retained: BTreeMap<Bytes, Offset>,
    entries: BTreeMap<u64, u64>,
    finished: BTreeMap<(u64, Bytes), BTreeSet<u64>>,
    seeks: BTreeSet<(u64, Bytes)>,
    open: BTreeSet<(u64, u32, u32)>,
    once_open: BTreeSet<(u64, u32, u32)>,
    tenures: BTreeMap<u64, Tenure>,
    sessions: BTreeMap<Bytes, (Offset, u32, BTreeSet<Bytes>)>,
}

impl Oracle {
    fn apply(&mut self, offset: Offset, record: Record) {
        match record {
            Record::Message { message, queues } => {
                match message.retain {
                    Retain::Set => drop(self.retained.insert(message.topic.clone(), offset)),
                    Retain::Clear => drop(self.retained.remove(&message.topic)),
                    Retain::No => {}
                }
                queues.iter().for_each(|queue| *self.entries.entry(*queue).or_default() += 1);
                if let Some(producer) = message.producer.filter(|producer| producer.seq != 0) {
                    let key = (producer.id, producer.epoch, producer.seq);
                    self.open.insert(key);
                    self.once_open.insert(key);
                }
            }
            Record::Control(control) => self.control(offset, control),
        }
    }

    fn control(&mut self, offset: Offset, control: Control) {
        match control {
            Control::Released { publisher, incarnation, packet_ids } => {
                for packet_id in packet_ids {
                    let key = (publisher, incarnation, packet_id);
                    self.open.remove(&key);
                    if packet_id & DedupKey::WILL != 0 {
                        // Known a while longer: it may be published late.
                        self.once_open.remove(&key);
                    }
                }
            }
            Control::TenureBegun { publisher, tenure } => {
                let latest = self.tenures.entry(publisher).or_default();
                *latest = tenure.max(*latest);
            }
            Control::Settled { selection, group, finished, .. } => {
                let entries = self.finished.entry((selection, group)).or_default();
                for (first, count) in finished {
                    // Of a stream all of it is said again and again.
                    let known = entries.len() as u64;
                    let is_whole = entries.last().is_some_and(|last| last + 1 == known);
                    let from = if is_whole { first.0.max(known) } else { first.0 };
                    entries.extend(from..first.0 + count);
                }
            }
            Control::GroupCreated { queue, group, start } => {
                let begun = (0..start.0).collect();
                self.finished.entry((queue, group)).or_insert(begun);
            }
            Control::QueueTrimmed { queue, to, .. } => {
                for (_, finished) in self.finished.iter_mut().filter(|((of, _), _)| *of == queue) {
                    finished.extend(0..to.0);
                }
            }
            Control::QueueRemoved { queue, entries, .. } => {
                for (_, finished) in self.finished.iter_mut().filter(|((of, _), _)| *of == queue) {
                    finished.extend(entries.iter().map(|entry| entry.0));
                }
            }
            Control::CursorSet { queue, group, .. } => drop(self.seeks.insert((queue, group))),
            Control::SessionOpened { client_id, clean, .. } => {
                let fresh = (offset, offset.0 as u32, BTreeSet::new());
                let session = self.sessions.entry(client_id).or_insert_with(|| fresh.clone());
                if clean {
                    *session = fresh;
                }
                session.0 = offset;
            }
            Control::SessionClosed { client_id, epoch, expiry_s: 0 }
            | Control::SessionRemoved { client_id, epoch }
                if self.sessions.get(&client_id).is_some_and(|it| it.0 == epoch) =>
            {
                self.sessions.remove(&client_id);
            }
            Control::Subscribed { client_id, subscription, .. } => {
                if let Some(session) = self.sessions.get_mut(&client_id) {
                    session.2.insert(subscription.filter.as_bytes().clone());
                }
            }
            Control::Unsubscribed { client_id, filter } => {
                if let Some(session) = self.sessions.get_mut(&client_id) {
                    session.2.remove(filter.as_bytes());
                }
            }
            _ => {}
        }
    }
}

/// Views agree with the oracle's fold.
fn against_oracle(
    ledger: &Ledger,
    partition: PartitionId,
    views: &Views,
) -> Vec<Result<(), Violation>> {
    let mut oracle = Oracle::default();
    ledger.records(partition).for_each(|(offset, _, record)| oracle.apply(offset, record));
    let at = format!("p{}", partition.0);
    vec![
        retained(&at, &oracle, views),
        groups(&at, &oracle, views),
        open_ids(&at, &oracle, views),
        tenures(&at, &oracle, views),
        no_id_is_left(&at, &oracle),
        sessions(&at, &oracle, views),
    ]
}

/// I17.
fn retained(at: &str, oracle: &Oracle, views: &Views) -> Result<(), Violation> {
    for (topic, offset) in &oracle.retained {
        let filter = Filter::new(topic.clone()).expect("a topic is a filter");
        let found = views.retained.matching(&filter, Millis(0));
        let found: Vec<Offset> = found.into_iter().map(|(published, _)| published).collect();
        if found != [*offset] {
            let what = format!("{at}: {} keeps {found:?}, not {offset}", filter.as_str());
            return wrong(Invariant::I17, what);
        }
    }
    if views.retained.len() != oracle.retained.len() {
        return wrong(Invariant::I17, format!("{at}: {} are retained", views.retained.len()));
    }
    Ok(())
}

/// I14 and I15: what groups have finished is what was settled.
fn groups(at: &str, oracle: &Oracle, views: &Views) -> Result<(), Violation> {
    for (id, queue) in views.queues.iter() {
        let end = oracle.entries.get(&id).copied().unwrap_or(0);
        if queue.end().0 != end {
            let what = format!("{at}: queue {id:x} has {} entries, not {end}", queue.end());
            return wrong(Invariant::I15, what);
        }
    }
    for ((queue, group), finished) in &oracle.finished {
        let view = views.groups.get(*queue, group);
        let is_sought = oracle.seeks.contains(&(*queue, group.clone()));
        let Some(view) = view.filter(|_| !is_sought) else { continue };
        let end = oracle.entries.get(queue).copied().unwrap_or(0);
        let differs = |entry: &u64| view.is_finished(Offset(*entry)) != finished.contains(entry);
        if let Some(entry) = (0..end).find(differs) {
            let is_settled = finished.contains(&entry);
            let what = format!("{at}: entry {entry} of {queue:x}: settled {is_settled}");
            return wrong(Invariant::I14, what);
        }
    }
    Ok(())
}

/// I15: a packet id is open from its publish to its release.
fn open_ids(at: &str, oracle: &Oracle, views: &Views) -> Result<(), Violation> {
    let is_open = |key: &(u64, u32, u32)| {
        views.dedup.find(key.0, DedupKey { incarnation: key.1, seq: key.2 }).is_some()
    };
    let differs = |key: &&(u64, u32, u32)| is_open(key) != oracle.open.contains(key);
    match oracle.once_open.iter().find(differs) {
        None => Ok(()),
        Some(key) => {
            wrong(Invariant::I15, format!("{at}: packet id {key:?}: open {}", is_open(key)))
        }
    }
}

/// I15: the latest connection that published for a session is known.
fn tenures(at: &str, oracle: &Oracle, views: &Views) -> Result<(), Violation> {
    let differs = |known: &(&u64, &Tenure)| views.dedup.tenure(*known.0) != Some(*known.1);
    match oracle.tenures.iter().find(differs) {
        None => Ok(()),
        Some(known) => wrong(Invariant::I15, format!("{at}: the tenure {known:?} is not known")),
    }
}

/// I11 and I28: when every exchange has ended, no packet id is open: the next publish under it would be taken for a copy, and be lost.
fn no_id_is_left(at: &str, oracle: &Oracle) -> Result<(), Violation> {
    let is_packet_id = |seq: u32| seq & !DedupKey::COPY < DedupKey::WILL;
    match oracle.open.iter().find(|(_, _, seq)| is_packet_id(*seq)) {
        None => Ok(()),
        Some(key) if key.2 & DedupKey::COPY != 0 => wrong(
            Invariant::I28,
            format!("{at}: the copy under packet id {key:?} is open for ever"),
        ),
        Some(key) => wrong(Invariant::I11, format!("{at}: packet id {key:?} is open for ever")),
    }
}

/// I15.
fn sessions(at: &str, oracle: &Oracle, views: &Views) -> Result<(), Violation> {
    let session = |(name, it): (&Bytes, Cow<'_, fluxmq::view::Session>)| {
        let filters = it.subscriptions.keys().map(|filter| filter.as_bytes().clone()).collect();
        (name.clone(), (it.epoch, it.incarnation, filters))
    };
    let sessions: BTreeMap<Bytes, (Offset, u32, BTreeSet<Bytes>)> =
        views.sessions.iter().map(session).collect();
    if sessions == oracle.sessions {
        return Ok(());
    }
    wrong(Invariant::I15, format!("{at}: sessions are {sessions:?}, not {:?}", oracle.sessions))
}
