//! The order in which queues are handed out: I31. Of a stream nothing is passed over and nothing read twice without a reason, and its
//! groups end where somebody said so.

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxmq::model::PartitionId;
use fluxmq::model::queue::QueueKind;
use fluxmq::model::record::queue_id;
use fluxmq::partition::request::ConnectionId;

use super::super::{Invariant, Violation, wrong};
use super::{HandOut, Key, Queue, Queues};
use crate::history::EntryName;

/// Entries that leave by time may be on their way out so long before they are gone, in milliseconds.
const LATE_MS: u64 = 1_000;

/// A queue and a group.
type Reader = (u64, Bytes);

/// What is known of how groups read.
#[derive(Debug, Default)]
pub struct Order {
    /// By the node that leads, what its group has read in this term.
    readings: BTreeMap<(usize, Reader), Reading>,
    /// Behind the newest entry of a stream that a member of its group acked or rejected.
    settled_to: BTreeMap<Reader, u64>,
}

/// What one leader has handed out to one group of a stream.
#[derive(Debug, Default)]
struct Reading {
    term: u64,
    /// Entries, and where they are or were: without those that came back, as their reader is gone.
    read: BTreeMap<u64, ConnectionId>,
}

impl Queues {
    /// Returns true for an entry of a stream.
    pub fn is_stream(&self, name: &EntryName) -> bool {
        self.by_id.get(&queue_id(name.queue.as_bytes())).is_some_and(Queue::is_stream)
    }

    /// Returns true for an entry that its group was handed before.
    pub fn was_handed(&self, name: &EntryName) -> bool {
        self.handed.contains_key(&name.key())
    }

    /// A member said of an entry that it is done with.
    pub(super) fn settles(&mut self, (queue, group, entry): Key) {
        let newest = self.order.settled_to.entry((queue, group)).or_default();
        *newest = (entry + 1).max(*newest);
    }

    /// A partition is told that a connection is gone: what its members had comes again, but for what they gave back.
    pub fn forgets(&mut self, node: usize, partition: PartitionId, connection: ConnectionId) {
        for ((of, (queue, group)), reading) in &mut self.order.readings {
            let is_here = *of == node
                && self.by_id.get(queue).is_some_and(|queue| queue.partition == partition);
            if !is_here {
                continue;
            }
            reading.read.retain(|entry, holder| {
                let said = self.said.get(&(*queue, group.clone(), *entry));
                *holder != connection || said.is_some_and(|said| !said.nacked.is_empty())
            });
        }
    }

    /// A replica begins again, and what the groups of these queues had is forgotten.
    pub(super) fn forget_readings(&mut self, node: usize, is_here: impl Fn(&u64) -> bool) {
        self.order.readings.retain(|(of, (queue, _)), _| *of != node || !is_here(queue));
    }

    /// I31: whoever leads hands a stream out in its order, from where the group is, and leaves nothing out.
    pub(super) fn look_at_order(&mut self, it: &HandOut<'_>) -> Result<(), Violation> {
        let (queue, group, entry) = it.name.key();
        let (Some(term), Some(view)) = (it.term, self.by_id.get(&queue)) else { return Ok(()) };
        if !view.is_stream() {
            return self.look_at_turn(it, (queue, group), entry);
        }
        let reader = (queue, group);
        let reading = self.order.readings.entry((it.node, reader.clone())).or_default();
        if reading.term != term {
            *reading = Reading { term, ..Reading::default() };
        }
        reading.read.insert(entry, it.to);
        let reading = &self.order.readings[&(it.node, reader.clone())];
        let is_read = |entry: &u64| reading.read.contains_key(entry);
        let passed = self.first_open(&reader, (entry, it.clock), is_read);
        let Some(passed) = passed else { return Ok(()) };
        let EntryName { queue, group, .. } = it.name;
        let what = format!("{queue}:{entry} is handed to {group}, and {passed} was passed over");
        wrong(Invariant::I31, what)
    }

    /// I31: what was never handed out is handed out in its turn: the most urgent first, and of those the oldest.
    fn look_at_turn(
        &mut self,
        it: &HandOut<'_>,
        reader: Reader,
        entry: u64,
    ) -> Result<(), Violation> {
        let queue = &self.by_id[&reader.0];
        let Some(group) = self.groups.get_mut(&reader) else { return Ok(()) };
        let rank = queue.rank(entry as usize);
        let is_fresh = group.fresh.remove(&rank);
        let Some(clock) = it.clock.filter(|_| is_fresh && it.leads) else { return Ok(()) };
        let finished = &group.finished;
        let is_over =
            |entry: u64| queue.entries[entry as usize].is_gone || finished.contains(&entry);
        while group.fresh.first().is_some_and(|(_, first)| is_over(*first)) {
            group.fresh.pop_first();
        }
        let is_due = |entry: u64| {
            let it = &queue.entries[entry as usize];
            let may_leave = queue.is_expired(it, clock + LATE_MS)
                || queue.is_old(it, clock + LATE_MS)
                || queue.is_over(entry, (queue.len, queue.bytes));
            let is_late = it.seen < self.now && it.deliver_at.is_none() && !it.is_moved;
            is_late && !may_leave && !is_over(entry)
        };
        let before = group.fresh.range(..rank).map(|(_, entry)| *entry);
        let Some(before) = before.into_iter().find(|entry| is_due(*entry)) else { return Ok(()) };
        let EntryName { queue, group, .. } = it.name;
        let what = format!("{queue}:{entry} is handed to {group}, and it is the turn of {before}");
        wrong(Invariant::I31, what)
    }

    /// The first entry of a stream below another that a group has neither finished nor read, as far as anybody knows.
    fn first_open(
        &self,
        reader: &Reader,
        (end, clock): (u64, Option<u64>),
        is_read: impl Fn(&u64) -> bool,
    ) -> Option<u64> {
        let (queue, group) = (&self.by_id[&reader.0], self.groups.get(reader)?);
        let settled_to = self.order.settled_to.get(reader).copied().unwrap_or(0);
        let is_open = |entry: &u64| {
            let it = &queue.entries[*entry as usize];
            // One of QoS 0 is settled when it is written.
            let is_over = it.is_gone
                || it.qos == 0
                || *entry < settled_to
                || clock.is_some_and(|clock| queue.is_expired(it, clock + LATE_MS));
            !is_over && !group.finished.contains(entry) && !is_read(entry)
        };
        (group.finished_to()..end).find(is_open)
    }

    /// I31: a group of a stream is moved beyond an entry that a member of it is done with, and only over what it was handed.
    pub(super) fn move_on(&mut self, reader: &Reader, to: u64, time: u64) -> Result<(), Violation> {
        let queue = &self.by_id[&reader.0];
        let Some(group) = self.groups.get_mut(reader) else { return Ok(()) };
        let name = String::from_utf8_lossy(&queue.name);
        let key = |entry: u64| (reader.0, reader.1.clone(), entry);
        let from = group.finished_to();
        for entry in from..to {
            let Some(it) = queue.entries.get(entry as usize) else {
                let what = format!("{name}:{entry} is read, and was never there");
                return wrong(Invariant::I31, what);
            };
            let is_over = it.is_gone || queue.is_expired(it, time);
            let was_handed = self.handed.contains_key(&key(entry));
            let said = self.said.get(&key(entry));
            let is_said = said.is_some_and(|said| said.is_acked || said.is_rejected);
            let is_last = entry + 1 == to;
            if is_over || was_handed && (!is_last || is_said || it.qos == 0) {
                continue;
            }
            let what = format!(
                "{:?} is behind {name}:{entry}; handed to it {was_handed}, settled {is_said}",
                reader.1
            );
            return wrong(Invariant::I31, what);
        }
        group.finished.extend(from..to);
        Ok(())
    }

    /// Names an entry of a stream that a group of it has yet to read.
    pub(super) fn unread(&self, queue: u64) -> Option<String> {
        let view = self.by_id.get(&queue)?;
        for (reader, _) in self.groups.iter().filter(|((of, _), _)| *of == queue) {
            let readings = self.order.readings.iter().filter(|((_, of), _)| of == reader);
            let newest = readings.map(|(_, reading)| reading).max_by_key(|reading| reading.term);
            let is_read = |entry: &u64| newest.is_some_and(|it| it.read.contains_key(entry));
            if let Some(entry) = self.first_open(reader, (view.entries.len() as u64, None), is_read)
            {
                let name = String::from_utf8_lossy(&view.name);
                return Some(format!("{name}:{entry} is not read by {:?}", reader.1));
            }
        }
        None
    }
}

impl Queue {
    /// Which of two entries is handed out first: that of the lower rank.
    pub(super) fn rank(&self, entry: usize) -> (u8, u64) {
        (u8::MAX - self.entries[entry].priority, entry as u64)
    }

    pub(super) fn is_stream(&self) -> bool {
        self.settings.kind == QueueKind::Stream
    }
}
