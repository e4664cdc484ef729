//! What partitions hand out of queues, what clients say and are told of it, and what replicas know of groups: I21, I27, I29.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq::model::PartitionId;
use fluxmq::model::record::queue_id;
use fluxmq::partition::request::ConnectionId;
use fluxmq::view::Views;
use fluxmq_index::Offset;

use super::super::{Invariant, Violation, wrong};
use super::{Key, Queues};
use crate::history::{EntryName, MessageId, Verb};

/// Partitions look at the time with every tick: an entry may be handed out so much after its time, in milliseconds.
const LATE_MS: u64 = 1_000;

/// An entry that a partition hands out.
pub struct HandOut<'a> {
    pub node: usize,
    pub to: ConnectionId,
    /// In which it serves.
    pub term: Option<u64>,
    pub name: &'a EntryName,
    pub id: MessageId,
    /// How often it came back before, as the delivery says.
    pub count: u32,
    /// Whoever hands it out leads, as far as anybody knows, and has applied all that is committed.
    pub leads: bool,
    /// Milliseconds since 1970, where all clocks agree on them.
    pub clock: Option<u64>,
    /// Its process may have been stopped, and not have looked at the time since.
    pub may_sleep: bool,
}

impl EntryName {
    pub(super) fn key(&self) -> Key {
        (queue_id(self.queue.as_bytes()), Bytes::from(self.group.clone()), self.entry)
    }
}

impl Queues {
    /// A replica serves in a term.
    pub fn serves(&mut self, partition: PartitionId, term: u64) {
        let newest = self.newest.entry(partition).or_default();
        *newest = term.max(*newest);
    }

    /// Returns true when nobody served in a later term. One that was deposed may not know it yet.
    pub fn is_newest(&self, partition: PartitionId, term: Option<u64>) -> bool {
        term.is_some() && self.newest.get(&partition).copied() == term
    }

    /// I21, I27 and I29: what is handed out is in its queue, not settled, due, and says how often it came back.
    pub fn handed(&mut self, it: &HandOut<'_>) -> Result<(), Violation> {
        let HandOut { name, id, count, leads, clock, may_sleep, .. } = *it;
        let key = name.key();
        let at = format!("{} for {}", name.message_id(), name.group);
        let Some(queue) = self.by_id.get(&key.0) else { return Ok(()) };
        let is_there = queue.entries.get(name.entry as usize).is_some_and(|entry| entry.id == id);
        if !is_there {
            return wrong(Invariant::I13, format!("{at} is handed out and is not committed"));
        }
        let count_of = self.handed.entry(key.clone()).or_default();
        let handed = *count_of;
        *count_of += 1;
        self.look_at_order(it)?;
        let queue = &self.by_id[&key.0];
        let entry = &queue.entries[name.entry as usize];
        let group = self.groups.get(&(key.0, key.1));
        let Some(group) = group.filter(|_| leads) else { return Ok(()) };
        if entry.is_gone || group.finished.contains(&key.2) {
            return wrong(Invariant::I27, format!("{at} is over and is handed out"));
        }
        let counted = group.returns.get(&key.2).copied().unwrap_or(0);
        let max = queue.settings.deliveries_max;
        let max = Some(max).filter(|max| *max > 0 && !queue.is_stream());
        if count < counted || count > handed || max.is_some_and(|max| count >= max) {
            let what = format!(
                "{at} says that it came back {count} times; the log says {counted}, and it was handed out {handed} times"
            );
            return wrong(Invariant::I29, what);
        }
        let Some(clock) = clock else { return Ok(()) };
        let until = group.until.get(&key.2).copied().max(entry.deliver_at);
        if until.is_some_and(|until| clock < until) {
            return wrong(Invariant::I29, format!("{at} is to wait until {until:?} of {clock}"));
        }
        if !may_sleep && queue.is_expired(entry, clock - LATE_MS) {
            return wrong(Invariant::I21, format!("{at} is expired and is handed out"));
        }
        Ok(())
    }

    /// A client says something of an entry.
    pub fn say(&mut self, name: &EntryName, verb: Verb, now: u64) {
        if !matches!(verb, Verb::Nack(_)) {
            self.settles(name.key());
        }
        let said = self.said.entry(name.key()).or_default();
        match verb {
            Verb::Ack => said.is_acked = true,
            Verb::Nack(_) => drop(said.nacked.insert(now, u64::MAX)),
            Verb::Reject => said.is_rejected = true,
        }
    }

    /// A client that said something was answered: it has no effect any more.
    pub fn answered(&mut self, name: &EntryName, said_at: u64, now: u64) {
        let said = self.said.get_mut(&name.key());
        if let Some(answered) = said.and_then(|said| said.nacked.get_mut(&said_at)) {
            *answered = now;
        }
    }

    /// I27 and I29: what was confirmed to a client is in the log.
    pub fn confirmed(&mut self, name: &EntryName, verb: Verb) -> Result<(), Violation> {
        let key = name.key();
        let at = format!("{} for {}", name.message_id(), name.group);
        let group = self.groups.get(&(key.0, key.1.clone()));
        let is_finished = group.is_some_and(|group| group.finished.contains(&key.2));
        let returns = group.and_then(|group| group.returns.get(&key.2)).copied().unwrap_or(0);
        let is_stream = self.is_stream(name);
        let Verb::Nack(_) = verb else {
            // Who is done with an entry of a stream is done with all before it.
            let is_all = group.is_some_and(|group| group.finished_to() > key.2);
            return match is_finished && (is_all || !is_stream) {
                true => Ok(()),
                false => {
                    wrong(Invariant::I27, format!("{at}: {verb:?} is confirmed and not stored"))
                }
            };
        };
        if is_stream {
            return Ok(());
        }
        let said = self.said.entry(key).or_default();
        said.counted += 1;
        if is_finished || returns >= said.counted {
            return Ok(());
        }
        let counted = said.counted;
        wrong(Invariant::I29, format!("{at} came back {counted} times, and {returns} are stored"))
    }

    /// Returns true when a client may have given an entry back in this time.
    pub fn is_given_back(&self, name: &EntryName, (from, to): (u64, u64)) -> bool {
        let nacked = self.said.get(&name.key()).into_iter().flat_map(|said| &said.nacked);
        nacked.into_iter().any(|(sent, answered)| *sent <= to && *answered >= from)
    }

    /// How long a member may hold an entry of a queue, where the queue says so.
    pub fn visibility_timeout_ms(&self, name: &EntryName) -> Option<u64> {
        self.by_id.get(&name.key().0)?.settings.visibility_timeout_ms
    }

    /// A replica begins again from what is on its disk.
    pub fn restarted(&mut self, node: usize) {
        self.committed.retain(|(of, _, _), _| *of != node);
        self.forget_readings(node, |_| true);
    }

    /// One of a node's replicas does, while its process goes on.
    pub fn reopened(&mut self, node: usize, partition: PartitionId) {
        let by_id = &self.by_id;
        let here: BTreeSet<u64> =
            by_id.iter().filter(|it| it.1.partition == partition).map(|it| *it.0).collect();
        self.committed.retain(|(of, queue, _), _| *of != node || !here.contains(queue));
        self.forget_readings(node, |queue| here.contains(queue));
    }

    /// I29: what a replica knows of its groups makes sense, goes forward, and is what was committed, once it has all of that.
    pub fn look_at(
        &mut self,
        (node, partition): (usize, PartitionId),
        views: &Views,
        is_level: bool,
    ) -> Result<(), Violation> {
        let groups = views.groups.iter().filter(|(_, group)| group.filter().is_none());
        for ((queue, name), group) in groups {
            let at = || format!("node {node} p{} group {name:?} of {queue:x}", partition.0);
            if let Err(what) = group.check() {
                return wrong(Invariant::I29, format!("{}: {what}", at()));
            }
            let seen = self.committed.entry((node, *queue, name.clone())).or_default();
            if *seen > group.committed() {
                let what = format!("{}: committed {seen} and then {}", at(), group.committed());
                return wrong(Invariant::I29, what);
            }
            *seen = group.committed();
            let (Some(known), Some(entries)) =
                (self.groups.get(&(*queue, name.clone())), self.by_id.get(queue))
            else {
                continue;
            };
            let differs = |entry: &u64| {
                let returns = known.returns.get(entry).copied().unwrap_or(0);
                group.is_finished(Offset(*entry)) != known.finished.contains(entry)
                    || group.delivery_count(Offset(*entry)) != returns
            };
            // Both have finished what is below.
            let begin = known.finished_to().min(group.committed().0);
            let end = entries.entries.len() as u64;
            if let Some(entry) = (begin..end).filter(|_| is_level).find(differs) {
                let what = format!(
                    "{}: entry {entry} finished {}, came back {}",
                    at(),
                    group.is_finished(Offset(entry)),
                    group.delivery_count(Offset(entry))
                );
                return wrong(Invariant::I29, what);
            }
        }
        Ok(())
    }

    /// Names an entry that a group of one of these queues has not finished.
    pub fn unfinished<'a>(&self, queues: impl Iterator<Item = &'a str>) -> Option<String> {
        for name in queues {
            let id = queue_id(name.as_bytes());
            let Some(queue) = self.by_id.get(&id) else { continue };
            if queue.is_stream() {
                if let Some(what) = self.unread(id) {
                    return Some(what);
                }
                continue;
            }
            for ((_, group), it) in self.groups.iter().filter(|((of, _), _)| *of == id) {
                let end = queue.entries.len() as u64;
                if let Some(entry) = (0..end).find(|entry| !it.finished.contains(entry)) {
                    return Some(format!("{name}:{entry} is not finished for {group:?}"));
                }
            }
        }
        None
    }

    /// How often each message came to a queue, not counting its ways back from dead letters.
    pub fn counts_of(&self, queue: &str) -> BTreeMap<MessageId, usize> {
        let queue = self.by_id.get(&queue_id(queue.as_bytes()));
        let entries = queue.into_iter().flat_map(|queue| &queue.entries);
        let mut counts = BTreeMap::new();
        for entry in entries.filter(|entry| entry.died_in.is_none()) {
            *counts.entry(entry.id).or_default() += 1;
        }
        counts
    }
}
