//! The checkers of queues: I21, I27, I28, I29, I31, I32. A fold of our own of what is committed, beside what partitions handed out and what
//! clients said of it.
//!
//! Whatever ends an entry must have a cause: a client that said so, a rule of the queue that was due, or a dead letter that is stored.

mod bounds;
mod follow;
mod order;
mod told;

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq::model::queue::DeadLetterTarget;
use fluxmq::model::record::queue_id;
use fluxmq::model::{Control, PartitionId, Properties, Property, QoS, QueueSettings};
use fluxmq_index::Offset;
use fluxmq_log::format::Message;
use fluxmq_log::format::frame::Frame;

use self::follow::Follows;
use self::order::Order;
pub use self::told::HandOut;
use super::{Invariant, Violation, wrong};
use crate::coverage::{Coverage, Point};
use crate::history::{MessageId, Outcome, id_of};
use crate::ledger::{Record, records};
use crate::plan::Declared;
use crate::world::World;

/// A queue's id, a group, an entry.
type Key = (u64, Bytes, u64);

/// Queues as the oracle has them.
#[derive(Default)]
pub struct Queues {
    by_id: BTreeMap<u64, Queue>,
    groups: BTreeMap<(u64, Bytes), Group>,
    said: BTreeMap<Key, Said>,
    handed: BTreeMap<Key, u32>,
    /// By message, queue in which it died, and group that gave it up.
    letters: BTreeMap<(MessageId, Bytes, Bytes), Letters>,
    /// Letters that went back, by message and queue.
    returned: BTreeMap<(MessageId, u64), Letters>,
    /// The newest term in which anybody served.
    newest: BTreeMap<PartitionId, u64>,
    /// How far groups were seen to be, by node.
    committed: BTreeMap<(usize, u64, Bytes), Offset>,
    /// History has ended somewhere: records that nobody needs are gone.
    has_history_ended: bool,
    order: Order,
    follows: Follows,
    pub found: Vec<Violation>,
    /// Simulated time.
    pub now: u64,
}

#[derive(Debug)]
struct Queue {
    name: Bytes,
    partition: PartitionId,
    settings: Arc<QueueSettings>,
    entries: Vec<Entry>,
    head: u64,
    len: u64,
    bytes: u64,
    /// The end of the queue when it last had too many entries: those below may be on their way out.
    over_end: u64,
}

#[derive(Debug)]
struct Entry {
    id: MessageId,
    time: u64,
    qos: u8,
    priority: u8,
    /// Of its topic, properties and payload.
    bytes: u64,
    /// When it was seen first, in simulated time.
    seen: u64,
    deliver_at: Option<u64>,
    /// Where it died last, if it did.
    died_in: Option<Bytes>,
    is_gone: bool,
    /// Where its message is stored; at first, or again.
    at: Offset,
    is_moved: bool,
    /// History ended over its message when everybody had finished it: for a group that comes later it has ended.
    is_forgotten: bool,
}

#[derive(Debug, Default)]
struct Group {
    finished: BTreeSet<u64>,
    /// Never handed out, the next first: how much less than the highest its priority is, and its number. Some of them are over.
    fresh: BTreeSet<(u8, u64)>,
    returns: BTreeMap<u64, u32>,
    until: BTreeMap<u64, u64>,
}

/// What clients said of an entry.
#[derive(Debug, Default)]
struct Said {
    is_acked: bool,
    is_rejected: bool,
    /// When each nack was sent, and answered; it may take effect at any time between.
    nacked: BTreeMap<u64, u64>,
    /// Of those, how many were answered with success.
    counted: u32,
}

/// Messages that are stored because an entry ends, and how many ends they stood for.
#[derive(Debug, Default)]
struct Letters {
    stored: u64,
    spent: u64,
    /// Of those ends, how many have another cause too: what they stood for may be another entry's.
    in_doubt: u64,
    /// Why, of all of them.
    reasons: BTreeSet<Bytes>,
}

/// How a dead letter says it died last.
struct Death {
    queue: Bytes,
    reason: Bytes,
    group: Bytes,
}

impl Death {
    /// Reads it out of a dead letter, or of one that went back; `None` is any other message.
    fn of(message: &Message) -> Option<Death> {
        let mut death = None;
        for property in Properties::from_encoded(message.props.clone()).iter() {
            let Property::User(key, value) = property else { continue };
            match (&key[..], &mut death) {
                (b"x-death-queue", Some(_)) => break,
                (b"x-death-queue", None) => {
                    death = Some(Death { queue: value, reason: Bytes::new(), group: Bytes::new() });
                }
                (b"x-death-reason", Some(death)) => death.reason = value,
                (b"x-death-group", Some(death)) => death.group = value,
                _ => {}
            }
        }
        death
    }
}

/// Returns true for a dead letter, and for one that went back: a copy of what was published.
pub fn is_letter(message: &Message) -> bool {
    Death::of(message).is_some()
}

impl Queue {
    fn is_expired(&self, entry: &Entry, time: u64) -> bool {
        self.settings.ttl_ms.is_some_and(|ttl| entry.time + ttl <= time)
    }

    fn has_own_letters(&self) -> bool {
        self.settings.dead_letters.target == DeadLetterTarget::Own
    }

    fn has_letters_elsewhere(&self) -> bool {
        !self.has_own_letters() && self.settings.dead_letters.target != DeadLetterTarget::Nowhere
    }
}

impl Group {
    /// The first entry that is not finished, as long as there is no hole.
    fn finished_to(&self) -> u64 {
        let count = self.finished.len() as u64;
        let is_whole = self.finished.last().is_none_or(|last| last + 1 == count);
        if is_whole { count } else { 0 }
    }

    /// Going back forgets what is finished; going on finishes what is below.
    fn seek(&mut self, to: u64) {
        if (0..=to).any(|entry| !self.finished.contains(&entry)) {
            self.finished.extend(0..to);
        } else {
            *self = Group { finished: (0..to).collect(), ..Group::default() };
        }
    }
}

impl Letters {
    /// Takes one that stands for no end yet.
    fn spend(&mut self) -> bool {
        let is_there = self.stored > self.spent;
        self.spent += u64::from(is_there);
        is_there
    }

    /// Takes one for an end that may have another cause; one that has none may take what such an end was given.
    fn spend_for(&mut self, has_cause: bool) -> bool {
        if self.spend() {
            self.in_doubt += u64::from(has_cause);
            return true;
        }
        let is_free = !has_cause && self.in_doubt > 0;
        self.in_doubt -= u64::from(is_free);
        is_free
    }
}

/// Looks at the queues at the end.
pub fn check(world: &World) -> Vec<Result<(), Violation>> {
    let declared = world.plan.declared.iter().zip(&world.admin.since);
    let standing = declared.filter_map(|(declared, since)| Some((declared, (*since)?)));
    standing.map(|(declared, since)| captured(world, declared, since)).collect()
}

/// I28: what was acknowledged since a queue stands is in it, and once where copies of it are known.
fn captured(world: &World, declared: &Declared, since: u64) -> Result<(), Violation> {
    let address = format!("$queue/{}/", declared.name);
    let counts = world.queues.counts_of(&declared.name);
    let publishes = world.history.publishes.iter();
    for publish in publishes.filter(|it| it.qos != QoS::AtMostOnce && it.invoked > since) {
        // One that was refused may be in some queues, and once more when its client did not hear of that (ADR 0038).
        let is_once = publish.is_idempotent && !world.observer.is_refused(publish.id);
        let is_bound = declared.settings.is_bound_to(publish.topic.as_bytes());
        if !is_bound && !publish.topic.starts_with(&address) {
            continue;
        }
        let count = counts.get(&publish.id).copied().unwrap_or(0);
        let is_lost = count == 0 && publish.outcome == Outcome::Acked;
        if is_lost || count > 1 && is_once {
            let what = format!(
                "{:x} to {} is in {} {count} times",
                publish.id, publish.topic, declared.name
            );
            return wrong(Invariant::I28, what);
        }
    }
    Ok(())
}

impl Queues {
    /// Takes an entry of a partition's log that is committed.
    pub fn apply(&mut self, partition: PartitionId, frame: &Frame, coverage: &mut Coverage) {
        let mut letters = Vec::new();
        for (at, time, record) in records(frame) {
            match record {
                Record::Message { message, queues } => {
                    letters.extend(self.message((partition, at), &message, &queues, coverage));
                }
                Record::Control(control) => {
                    self.control((partition, at), time, control, coverage);
                }
            }
        }
        for (key, queue) in letters {
            let is_own = self.by_id.get(&queue).is_some_and(Queue::has_own_letters);
            let letters = &self.letters[&key];
            if is_own && letters.stored != letters.spent {
                let what = format!("{:x}: a dead letter of {:?} ends no entry", key.0, key.1);
                self.found.push(Violation { invariant: Invariant::I28, what });
            }
        }
    }

    /// Adds a message to its queues; returns the letter that it is, and where it died.
    fn message(
        &mut self,
        (partition, at): (PartitionId, Offset),
        message: &Message,
        queues: &[u64],
        coverage: &mut Coverage,
    ) -> Option<((MessageId, Bytes, Bytes), u64)> {
        let id = id_of(&message.payload)?;
        let death = Death::of(message);
        self.note_history((partition, at), (id, message), queues);
        for id_of_queue in queues {
            let Some(queue) = self.by_id.get_mut(id_of_queue) else { continue };
            queue.entries.push(Entry {
                id,
                time: message.ts,
                qos: message.qos,
                priority: message.priority.min(queue.settings.priority_max),
                bytes: (message.topic.len() + message.props.len() + message.payload.len()) as u64,
                seen: self.now,
                deliver_at: message.deliver_at,
                died_in: death.as_ref().map(|death| death.queue.clone()),
                is_gone: false,
                at,
                is_moved: false,
                is_forgotten: false,
            });
            queue.come();
            let entry = queue.entries.len() - 1;
            let rank = queue.rank(entry);
            let groups = self.groups.iter_mut().filter(|((of, _), _)| of == id_of_queue);
            groups.for_each(|(_, group)| group.fresh.extend([rank]));
            self.found.extend(queue.outgrown().err());
        }
        if message.topic.starts_with(b"$queue//") && death.is_none() {
            coverage.hit(Point::Captured);
        }
        let Death { queue, reason, group } = death?;
        let died_in = queue_id(&queue);
        if queues.contains(&died_in) {
            self.returned.entry((id, died_in)).or_default().stored += 1;
            coverage.hit(Point::Redriven);
            return None;
        }
        coverage.hit(match &reason[..] {
            b"rejected" => Point::DiedRejected,
            b"expired" => Point::DiedExpired,
            b"max-deliveries" => Point::DiedDeliveries,
            _ => Point::DiedOverflow,
        });
        let key = (id, queue, group);
        let letters = self.letters.entry(key.clone()).or_default();
        letters.stored += 1;
        letters.reasons.insert(reason);
        Some((key, died_in))
    }

    fn control(
        &mut self,
        (partition, at): (PartitionId, Offset),
        time: u64,
        control: Control,
        coverage: &mut Coverage,
    ) {
        match control {
            Control::QueueDeclared { name, settings } => {
                let queue = Queue {
                    name: name.clone(),
                    partition,
                    settings,
                    entries: Vec::new(),
                    head: 0,
                    len: 0,
                    bytes: 0,
                    over_end: 0,
                };
                let id = queue_id(&name);
                if let btree_map::Entry::Vacant(place) = self.by_id.entry(id) {
                    place.insert(queue);
                }
            }
            Control::HistoryTrimmed { to } => {
                self.end_history(partition, to);
                self.forget_below(partition, to);
            }
            Control::QueueFollowed { queue, source, next } => {
                coverage.hit(Point::Followed);
                let found = self.follow(queue, source, next);
                self.found.extend(found.err());
            }
            Control::Moved { queues, .. } => {
                for (queue, entry) in queues {
                    let queue = self.by_id.get_mut(&queue);
                    let entry = queue.and_then(|queue| queue.entries.get_mut(entry.0 as usize));
                    if let Some(entry) = entry {
                        (entry.at, entry.is_moved) = (at, true);
                    }
                }
            }
            Control::QueueTrimmed { queue, to, .. } => {
                coverage.hit(Point::HeadDropped);
                let found = self.trim(queue, to.0, time);
                self.found.extend(found.err());
            }
            Control::QueueRemoved { queue, entries, .. } => {
                for entry in entries {
                    let found = self.remove(queue, entry.0, time);
                    self.found.extend(found.err());
                }
            }
            _ => self.group_control(time, control, coverage),
        }
    }

    fn group_control(&mut self, time: u64, control: Control, coverage: &mut Coverage) {
        match control {
            Control::GroupCreated { queue, group, start } => {
                let entries = self.by_id.get(&queue).map(|queue| (queue, queue.entries.len()));
                let fresh = entries.into_iter().flat_map(|(queue, end)| {
                    (start.0 as usize..end).map(|entry| queue.rank(entry))
                });
                let finished = (0..start.0).collect();
                let begun = Group { finished, fresh: fresh.collect(), ..Group::default() };
                self.groups.entry((queue, group)).or_insert(begun);
            }
            Control::Settled { selection, group, finished, released } => {
                let Some(queue) = self.by_id.get(&selection) else { return };
                if queue.is_stream() {
                    let to = finished.iter().map(|(first, count)| first.0 + count).max();
                    let found = self.move_on(&(selection, group), to.unwrap_or(0), time);
                    return self.found.extend(found.err());
                }
                for entry in finished.iter().flat_map(|(first, count)| first.0..first.0 + count) {
                    let found = self.finish(selection, &group, entry, time);
                    self.found.extend(found.err());
                }
                for entry in released {
                    self.come_back(selection, &group, entry.0, 0);
                }
            }
            Control::Postponed { queue, group, entries } => {
                for (entry, until) in entries {
                    coverage.hit(Point::Postponed);
                    self.come_back(queue, &group, entry.0, until.0);
                }
            }
            Control::CursorSet { queue, group, to } => {
                if let Some(group) = self.groups.get_mut(&(queue, group)) {
                    group.seek(to.0);
                }
            }
            _ => {}
        }
    }

    /// History has ended below an offset: what everybody had finished there is not handed to who comes later.
    fn forget_below(&mut self, partition: PartitionId, to: Offset) {
        self.has_history_ended = true;
        let Queues { by_id, groups, .. } = self;
        for (id, queue) in by_id.iter_mut().filter(|(_, queue)| queue.partition == partition) {
            let readers: Vec<&Group> =
                groups.iter().filter(|((of, _), _)| of == id).map(|(_, group)| group).collect();
            for (number, entry) in (0..).zip(&mut queue.entries) {
                let is_finished = readers.iter().all(|group| group.finished.contains(&number));
                entry.is_forgotten |= entry.at < to && is_finished && !readers.is_empty();
            }
        }
    }

    fn come_back(&mut self, queue: u64, group: &Bytes, entry: u64, until: u64) {
        let Some(group) = self.groups.get_mut(&(queue, group.clone())) else { return };
        if !group.finished.contains(&entry) {
            *group.returns.entry(entry).or_default() += 1;
            group.until.insert(entry, until);
        }
    }

    /// I28: an entry ends for a group because somebody said so, or a rule did, or its letter is stored.
    fn finish(&mut self, id: u64, group: &Bytes, entry: u64, time: u64) -> Result<(), Violation> {
        let Some(view) = self.groups.get_mut(&(id, group.clone())) else { return Ok(()) };
        let is_new = view.finished.insert(entry);
        view.returns.remove(&entry);
        view.until.remove(&entry);
        let queue = &self.by_id[&id];
        let at = format!("{:?}:{entry} for {group:?}", queue.name);
        let Some(it) = queue.entries.get(entry as usize) else {
            return wrong(Invariant::I28, format!("{at} is finished and was never there"));
        };
        let key = (id, group.clone(), entry);
        let said = self.said.get(&key);
        let handed = self.handed.get(&key).copied().unwrap_or(0);
        let max = queue.settings.deliveries_max;
        let may_die = |reason: &Bytes| match &reason[..] {
            b"rejected" => said.is_some_and(|said| said.is_rejected),
            b"max-deliveries" => max > 0 && handed >= max,
            _ => false,
        };
        let has_letters = queue.settings.dead_letters.target != DeadLetterTarget::Nowhere;
        let is_due = queue.is_expired(it, time) && !queue.settings.dead_letters.with_expired;
        let is_said = said.is_some_and(|it| it.is_acked || it.is_rejected && !has_letters);
        // A message of QoS 0 is settled when it is written.
        let is_over = it.is_gone || it.is_forgotten || it.qos == 0;
        let has_cause = !is_new || is_over || is_due || is_said;
        // The same message may be another entry, too, whose letter this is.
        let letters = self.letters.get_mut(&(it.id, queue.name.clone(), group.clone()));
        let letters = letters.filter(|it| it.reasons.iter().any(may_die));
        match letters.is_some_and(|it| it.spend_for(has_cause)) || has_cause {
            true => Ok(()),
            false => wrong(
                Invariant::I28,
                format!("{at}, {:x}: ended, handed out {handed} times, not settled", it.id),
            ),
        }
    }

    /// Returns true for an entry that all groups of its queue have finished, of which there is at least one.
    fn is_finished_by_all(&self, id: u64, entry: u64) -> bool {
        let mut groups = self.groups.iter().filter(|((of, _), _)| *of == id).peekable();
        groups.peek().is_some() && groups.all(|(_, group)| group.finished.contains(&entry))
    }

    /// I28: entries leave a queue when they are due, and those of which letters are written with them; not those that went with history,
    /// which everybody has finished.
    fn trim(&mut self, id: u64, to: u64, time: u64) -> Result<(), Violation> {
        let Some(queue) = self.by_id.get(&id) else { return Ok(()) };
        let leaving = queue.head..to.min(queue.entries.len() as u64);
        let is_stream = queue.is_stream();
        let is_done = |entry: &u64| !is_stream && self.is_finished_by_all(id, *entry);
        let done: BTreeSet<u64> = leaving.filter(is_done).collect();
        let has_history_ended = self.has_history_ended;
        let mut waiting = self.waiting(id);
        let queue = self.by_id.get_mut(&id).expect("just seen");
        let mut found = Ok(());
        for entry in queue.head..to.min(queue.entries.len() as u64) {
            let it = &queue.entries[entry as usize];
            let is_expired = queue.is_expired(it, time);
            let all = (queue.len, queue.bytes);
            let counts = if done.contains(&entry) { all } else { waiting };
            let is_over = queue.is_over(entry, counts) || queue.is_old(it, time);
            let dead_letters = &queue.settings.dead_letters;
            let has_letters = dead_letters.target != DeadLetterTarget::Nowhere;
            // What all have finished makes no letter.
            let is_done = done.contains(&entry);
            // At one look letters are stored first, and then those go that make none: there was more when it was decided.
            let is_over = is_over || is_done && queue.was_over(entry);
            let is_due = match is_expired {
                true => is_done || !(dead_letters.with_expired && has_letters),
                false => is_over && (is_done || !(dead_letters.with_overflow && has_letters)),
            };
            let may_be_gone = has_history_ended && is_done;
            if !it.is_gone && !is_due && !may_be_gone && found.is_ok() {
                let what = format!(
                    "{:?}:{entry}, {:x}: dropped; expired {is_expired}, too many {is_over}: {} entries, {} bytes, {waiting:?} wait",
                    queue.name, it.id, queue.len, queue.bytes
                );
                found = wrong(Invariant::I28, what);
            }
            let bytes = it.bytes;
            if queue.leave(entry) && !is_done {
                waiting = (waiting.0.saturating_sub(1), waiting.1.saturating_sub(bytes));
            }
        }
        queue.head = queue.head.max(to);
        for (_, group) in self.groups.iter_mut().filter(|((of, _), _)| *of == id) {
            group.finished.extend(0..to);
            group.returns.retain(|entry, _| *entry >= to);
            group.until.retain(|entry, _| *entry >= to);
        }
        found
    }

    /// I28: an entry leaves its queue by itself when its letter is stored, or it is a letter and went back.
    fn remove(&mut self, id: u64, entry: u64, time: u64) -> Result<(), Violation> {
        let waiting = self.waiting(id);
        let Some(queue) = self.by_id.get_mut(&id) else { return Ok(()) };
        let Some(it) = queue.entries.get(entry as usize) else { return Ok(()) };
        let is_expired = queue.is_expired(it, time);
        let is_over = queue.is_over(entry, waiting) || queue.is_old(it, time);
        let (message, died_in) = (it.id, it.died_in.as_ref().map(|queue| queue_id(queue)));
        let what = format!("{:?}:{entry}, {message:x}", queue.name);
        queue.leave(entry);
        let key = (message, queue.name.clone(), Bytes::new());
        for (_, group) in self.groups.iter_mut().filter(|((of, _), _)| *of == id) {
            group.finished.insert(entry);
            group.returns.remove(&entry);
            group.until.remove(&entry);
        }
        let went_back = died_in.filter(|queue| *queue != id);
        let returned = went_back.and_then(|queue| self.returned.get_mut(&(message, queue)));
        if returned.is_some_and(Letters::spend) {
            return Ok(());
        }
        let Some(letters) = self.letters.get_mut(&key).filter(|it| it.stored > it.spent) else {
            return wrong(Invariant::I28, format!("{what} was removed without a letter"));
        };
        letters.spent += 1;
        let is_due = |reason: &Bytes| if reason == "expired" { is_expired } else { is_over };
        match letters.reasons.iter().any(is_due) {
            true => Ok(()),
            false => wrong(Invariant::I28, format!("{what} was removed: {:?}", letters.reasons)),
        }
    }
}
