//! Queues: what each was declared to be, and which records are in it.
//!
//! A queue counts its entries with dense offsets of its own. It keeps one partition offset for every 128 entries; the index finds the
//! ones between. Entries leave it for everybody, by number, age or purge, or with the history that holds them once nobody needs them;
//! what its consumer groups have finished is `group.rs`.

mod moved;
mod purge;
mod row;
mod weigh;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::{Offset, OffsetRange, OffsetSet, TopicTrie};

use self::moved::MovedEntries;
pub(super) use self::purge::gaps;
use self::row::{from_row, to_row};
pub use self::weigh::Weight;
use super::section::{decode_each, encode_each};
use super::{SectionError, View};
use crate::model::queue::{Binding, QueueKind};
use crate::model::record::queue_id;
use crate::model::{Control, Millis, QueueSettings, Record};
use crate::planted::{PlantedBug, is_planted};

/// Entries between two remembered positions.
pub const MARK_EVERY: u64 = 128;

/// The queues of a partition, by id.
#[derive(Debug, Default)]
pub struct Queues {
    /// Boxed: what is looked up on the way to one of many queues is their ids alone.
    by_id: BTreeMap<u64, Box<Queue>>,
    /// What queues are that their first use declared: once for all of them.
    default: Arc<QueueSettings>,
    /// Derived: the queues of each binding.
    bindings: TopicTrie<u64>,
    /// Derived: how many queues each binding has.
    bound: BTreeMap<Binding, u32>,
    /// Derived: queues whose entries leave by number or age.
    limited: BTreeSet<u64>,
    /// Derived: queues that follow history.
    retroactive: BTreeSet<u64>,
    /// Derived: queues that store nothing.
    ephemeral: BTreeSet<u64>,
    /// Derived: their names, for whoever lists them.
    names: BTreeSet<Bytes>,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    name: Bytes,
    /// Where its declaration is: no other queue of its name has the same.
    declared: Offset,
    settings: Arc<QueueSettings>,
    count: u64,
    bytes: u64,
    head: Offset,
    /// At or above the head.
    removed: OffsetSet,
    /// Of the entries from `first` on: of `first`, then of every one whose number 128 divides.
    marks: Vec<Mark>,
    /// The head's mark is of this entry. The entries below are gone, or moved.
    first: u64,
    /// Entries whose records were stored again where the log goes on.
    moved: MovedEntries,
}

/// A remembered entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Its partition offset.
    at: Offset,
    /// What it and the entries up to the next mark have together, as far as they are in the queue and not moved.
    bytes: u64,
}

impl Queues {
    /// Returns a queue.
    pub fn get(&self, id: u64) -> Option<&Queue> {
        self.by_id.get(&id).map(Box::as_ref)
    }

    /// Lists all queues by id.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Queue)> {
        self.by_id.iter().map(|(id, queue)| (*id, &**queue))
    }

    /// Lists their names, ascending, from one on.
    pub fn names(&self, from: &Bytes) -> impl Iterator<Item = &Bytes> {
        self.names.range(from.clone()..)
    }

    /// Adds the queues that are bound to a topic, a queue once for each of its bindings that match, those that follow histories among them.
    pub fn bound_to(&self, topic: &[u8], out: &mut Vec<u64>) {
        if !self.bindings.is_empty() {
            self.bindings.for_each_match(topic, |id| out.push(*id));
        }
    }

    /// Lists what queues are bound to, each once.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.bound.keys()
    }

    /// Returns true when a queue has exactly this binding.
    pub fn is_bound(&self, binding: &Binding) -> bool {
        self.bound.contains_key(binding)
    }

    /// Lists the queues that store nothing.
    pub fn ephemeral(&self) -> impl Iterator<Item = u64> {
        self.ephemeral.iter().copied()
    }

    /// Lists the queues that follow history.
    pub fn retroactive(&self) -> impl Iterator<Item = u64> {
        self.retroactive.iter().copied()
    }

    /// Lists the queues whose entries leave by number or age.
    pub fn limited(&self) -> impl Iterator<Item = u64> {
        self.limited.iter().copied()
    }

    /// Returns how many runs of moved entries all queues have: what their places cost.
    pub fn moved_run_count(&self) -> usize {
        self.by_id.values().map(|queue| queue.moved.run_count()).sum()
    }

    fn insert(&mut self, mut queue: Queue) {
        if queue.settings == self.default {
            queue.settings = self.default.clone();
        }
        let id = queue_id(&queue.name);
        if queue.settings.retroactive {
            self.retroactive.insert(id);
        }
        if queue.settings.kind == QueueKind::Ephemeral {
            self.ephemeral.insert(id);
        }
        for binding in queue.settings.bindings() {
            self.bindings.insert(binding.filter.as_bytes(), id);
            *self.bound.entry(binding).or_default() += 1;
        }
        if queue.settings.has_limits() {
            self.limited.insert(id);
        }
        self.names.insert(queue.name.clone());
        self.by_id.insert(id, Box::new(queue));
    }

    fn remove(&mut self, id: u64) {
        let Some(queue) = self.by_id.remove(&id) else { return };
        for binding in queue.settings.bindings() {
            self.bindings.remove(binding.filter.as_bytes(), &id);
            if let Some(count) = self.bound.get_mut(&binding) {
                *count -= 1;
                if *count == 0 {
                    self.bound.remove(&binding);
                }
            }
        }
        self.limited.remove(&id);
        self.retroactive.remove(&id);
        self.ephemeral.remove(&id);
        self.names.remove(&queue.name);
    }
}

impl Queue {
    fn new(name: Bytes, declared: Offset, settings: Arc<QueueSettings>) -> Queue {
        Queue {
            name,
            declared,
            settings,
            count: 0,
            bytes: 0,
            head: Offset::ZERO,
            removed: OffsetSet::default(),
            marks: Vec::new(),
            first: 0,
            moved: MovedEntries::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Bytes {
        &self.name
    }

    /// The partition offset of its declaration.
    pub fn declared(&self) -> Offset {
        self.declared
    }

    /// What it was declared to be.
    pub fn settings(&self) -> &Arc<QueueSettings> {
        &self.settings
    }

    /// The oldest entry that is in it; its end when it is empty.
    pub fn head(&self) -> Offset {
        self.head
    }

    /// The queue offset of the next entry: how many there have been.
    pub fn end(&self) -> Offset {
        Offset(self.count)
    }

    /// How many entries are in it.
    pub fn len(&self) -> u64 {
        self.count - self.head.0 - self.removed.len()
    }

    /// Returns true when no entry is in it.
    pub fn is_empty(&self) -> bool {
        self.head.0 == self.count
    }

    /// The entries below its end that are not in it.
    pub fn gone(&self) -> OffsetSet {
        let mut gone = self.removed.clone();
        gone.insert_range(Offset::ZERO..self.head);
        gone
    }

    /// Bytes of topics, properties and payloads that are in it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns true for an entry that was in it and is not any more.
    pub fn is_removed(&self, entry: Offset) -> bool {
        entry < self.head || self.removed.contains(entry)
    }

    /// Returns a remembered entry at or before `entry`: its queue offset and its partition offset. `None` where the record of `entry`
    /// is gone, or moved.
    pub fn mark_before(&self, entry: Offset) -> Option<(Offset, Offset)> {
        let number = self.mark_of(entry)?;
        Some((self.entry_of(number), self.marks[number].at))
    }

    /// Returns the oldest record that it may have; `None` when it has none.
    pub fn oldest(&self) -> Option<Offset> {
        let in_place = self.marks.first().map(|mark| mark.at);
        in_place.into_iter().chain(self.moved.oldest()).min().filter(|_| !self.is_empty())
    }

    /// Lists the entries from `entry` on that were moved, each with where its record is.
    pub fn moved_from(&self, entry: Offset) -> impl Iterator<Item = (Offset, Offset)> {
        self.moved.from(entry)
    }

    /// Lists the entries that were moved in runs, each with where its first record is.
    pub fn moved_runs(&self) -> impl Iterator<Item = (OffsetRange, Offset)> {
        self.moved.runs().map(|run| (run.range(), run.at))
    }

    /// Returns the entries whose records are where they were stored first, below `to` and up to 127 more, and what they have together.
    pub fn in_place_below(&self, to: Offset) -> (OffsetRange, u64) {
        let count = self.marks.partition_point(|mark| mark.at < to);
        let end = if count < self.marks.len() { self.entry_of(count) } else { self.end() };
        let bytes = self.marks[..count].iter().map(|mark| mark.bytes).sum();
        match count {
            0 => (self.head..self.head, 0),
            _ => (self.first_in_place().max(self.head)..end, bytes),
        }
    }

    /// Counts the entries among these that are in the queue and were not moved.
    pub fn count_in_place(&self, entries: OffsetRange) -> u64 {
        let gone = self.removed.count_in(entries.clone()) + self.moved.count_in(&entries);
        entries.end.0.saturating_sub(entries.start.0 + gone)
    }

    /// Lists the moved entries whose records are below `to`, in runs, each with what they have together.
    pub fn moved_below(&self, to: Offset) -> impl Iterator<Item = (OffsetRange, u64)> {
        self.moved.stored_below(to).map(|run| (run.range(), run.bytes))
    }

    /// Checks what holds after every record: it has the bytes of its parts, and its oldest entry is in it.
    pub fn check(&self) -> Result<(), String> {
        let in_place: u64 = self.marks.iter().map(|mark| mark.bytes).sum();
        let moved = self.moved.bytes();
        if self.bytes != in_place + moved {
            return Err(format!("{} bytes, {in_place} in place and {moved} moved", self.bytes));
        }
        match self.head {
            head if head.0 > self.count => Err(format!("begins at {head}, behind its end")),
            head if self.removed.contains(head) => Err(format!("begins at {head}, which is gone")),
            _ => Ok(()),
        }
    }

    /// Returns where the record of an entry was moved to.
    pub fn moved_to(&self, entry: Offset) -> Option<Offset> {
        self.moved.get(entry)
    }

    /// Returns the first entry from which on the records are where they were stored first; those below are gone, or moved.
    pub fn first_in_place(&self) -> Offset {
        if self.marks.is_empty() { self.end() } else { Offset(self.first) }
    }

    /// Returns the first entry, at or above another, that is in the queue, is not finished and was not moved; the queue's end when there
    /// is none. `unfinished` says which entry, at or above another, is the first that somebody has not finished.
    pub fn first_needed(&self, from: Offset, unfinished: impl Fn(Offset) -> Offset) -> Offset {
        let mut entry = from.max(self.head);
        while entry < self.end() {
            let next = unfinished(entry);
            let there = self.first_unmoved(next);
            if there == next {
                return next.min(self.end());
            }
            entry = there;
        }
        self.end()
    }

    /// The first entry at or above another that is in the queue and was not moved.
    fn first_unmoved(&self, entry: Offset) -> Offset {
        let mut next = self.removed.first_gap(entry);
        while let Some(end) = self.moved.end_of_run(next) {
            next = self.removed.first_gap(end);
        }
        next
    }

    /// Which mark is at or before an entry.
    fn mark_of(&self, entry: Offset) -> Option<usize> {
        let last = self.marks.len().checked_sub(1).filter(|_| entry.0 >= self.first)?;
        Some(((entry.0 / MARK_EVERY - self.first / MARK_EVERY) as usize).min(last))
    }

    fn entry_of(&self, mark: usize) -> Offset {
        match mark {
            0 => Offset(self.first),
            _ => Offset((self.first / MARK_EVERY + mark as u64) * MARK_EVERY),
        }
    }

    /// Returns the last remembered entry that is stored at or before a partition offset: its queue offset and its partition offset.
    pub fn mark_at(&self, offset: Offset) -> Option<(Offset, Offset)> {
        let mark = self.marks.partition_point(|mark| mark.at <= offset).checked_sub(1)?;
        Some((self.entry_of(mark), self.marks[mark].at))
    }

    fn add(&mut self, at: Offset, bytes: u64) {
        if self.marks.is_empty() {
            self.first = self.count;
        }
        if self.marks.is_empty() || self.count.is_multiple_of(MARK_EVERY) {
            if self.marks.is_empty() {
                self.marks.reserve_exact(1);
            }
            self.marks.push(Mark { at, bytes: 0 });
        }
        self.marks.last_mut().expect("pushed when there was none").bytes += bytes;
        self.count += 1;
        self.bytes += bytes;
    }

    /// Everything below `to` leaves, which has so many bytes together.
    fn trim(&mut self, to: Offset, bytes: u64) {
        let to = to.min(self.end());
        if to <= self.head {
            return;
        }
        let is_run_cut = self.moved.is_inside(to);
        let mut gone = self.moved.take_below(to);
        for number in 0..self.marks.len().saturating_sub(1) {
            if self.entry_of(number + 1) > to {
                break;
            }
            gone += std::mem::take(&mut self.marks[number].bytes);
        }
        self.bytes -= gone;
        // What was counted is right: the difference is of the parts that were cut.
        match bytes.checked_sub(gone) {
            Some(more) => self.bytes -= self.take_bytes(to, more, is_run_cut),
            None => self.bytes += self.give_bytes(to, gone - bytes, is_run_cut),
        }
        self.head = to;
        self.settle_head();
    }

    /// Takes bytes off what was cut before an entry; returns how many there were.
    fn take_bytes(&mut self, before: Offset, bytes: u64, is_run_cut: bool) -> u64 {
        let of_run = if is_run_cut { self.moved.take_bytes(before, bytes) } else { 0 };
        let number = self.mark_of(before).unwrap_or(0);
        let of_mark = self.marks.get_mut(number).map_or(0, |mark| {
            let gone = mark.bytes.min(bytes - of_run);
            mark.bytes -= gone;
            gone
        });
        self.moved.even_out(before, of_run + of_mark, bytes)
    }

    /// Gives bytes to what was cut before an entry; returns how many were taken.
    fn give_bytes(&mut self, before: Offset, bytes: u64, is_run_cut: bool) -> u64 {
        if is_run_cut && self.moved.give_bytes(before, bytes) {
            return bytes;
        }
        let number = self.mark_of(before).filter(|_| before < self.end());
        number.map_or(0, |number| {
            self.marks[number].bytes += bytes;
            bytes
        })
    }

    fn remove(&mut self, entries: &[Offset], bytes: u64) {
        let share = bytes / entries.len().max(1) as u64;
        for entry in entries {
            let is_in = *entry >= self.head && entry.0 < self.count;
            if is_in && self.removed.insert(*entry) {
                self.forget(*entry, share);
            }
        }
        self.settle_head();
    }

    /// An entry is not in the queue any more.
    fn forget(&mut self, entry: Offset, bytes: u64) {
        let gone = match (self.moved.take(entry, bytes), self.mark_of(entry)) {
            (Some(moved), _) => moved,
            (None, Some(number)) => {
                let mark = &mut self.marks[number];
                let own = mark.bytes.min(bytes);
                mark.bytes -= own;
                self.moved.even_out(entry, own, bytes)
            }
            (None, None) => 0,
        };
        self.bytes -= gone;
    }

    /// The record of an entry was stored again at `at`.
    fn move_entry(&mut self, entry: Offset, at: Offset, bytes: u64) {
        if entry.0 >= self.count || self.is_removed(entry) {
            return;
        }
        let bytes = match (self.moved.take(entry, bytes), self.mark_of(entry)) {
            (Some(moved), _) => moved,
            (None, Some(number)) => {
                let mark = &mut self.marks[number];
                let bytes = mark.bytes.min(bytes);
                mark.bytes -= bytes;
                bytes
            }
            (None, None) => return,
        };
        self.moved.put(entry, at, bytes);
    }

    /// History begins at `to`: entries whose records are below are gone, but for those that were moved. Up to 127 above go with
    /// them, because only every 128th entry is remembered; none of them is needed, or history would not begin there.
    fn lose_history(&mut self, to: Offset) {
        for run in self.moved.take_stored_below(to) {
            self.removed.insert_range(run.range());
            self.bytes -= run.bytes;
        }
        self.lose_marks(to);
        self.settle_head();
    }

    fn lose_marks(&mut self, to: Offset) {
        let gone = self.marks.partition_point(|mark| mark.at < to);
        if gone == 0 {
            return;
        }
        let first = if gone == self.marks.len() { self.end() } else { self.entry_of(gone) };
        let bytes: u64 = self.marks.drain(..gone).map(|mark| mark.bytes).sum();
        self.bytes -= bytes;
        self.first = first.0;
        let mut next = self.head;
        for run in self.moved.runs().filter(|run| run.first < first) {
            self.removed.insert_range(next..run.first);
            next = run.end().min(first);
        }
        self.removed.insert_range(next..first);
    }

    /// What is below the head is said by the head.
    fn settle_head(&mut self) {
        self.head = self.removed.first_gap(self.head).min(self.end());
        self.removed.remove_range(Offset::ZERO..self.head);
        self.bytes -= self.moved.take_below(self.head);
        // The mark at or before the head stays: entries behind it are found from there.
        if let Some(number) = self.mark_of(self.head).filter(|number| *number > 0) {
            let first = self.entry_of(number);
            let bytes: u64 = self.marks.drain(..number).map(|mark| mark.bytes).sum();
            self.bytes -= bytes;
            self.first = first.0;
        }
        if self.is_empty() {
            self.marks.iter_mut().for_each(|mark| mark.bytes = 0);
            self.bytes = 0;
        }
    }
}

impl View for Queues {
    fn name(&self) -> &'static str {
        "queues"
    }

    fn apply(&mut self, at: Offset, _time: Millis, record: Record<'_>) {
        match record {
            Record::Message(message, queues) => {
                for id in queues {
                    if let Some(queue) = self.by_id.get_mut(id) {
                        queue.add(at, message.len_bytes() as u64);
                    }
                }
            }
            Record::Control(Control::QueueDeclared { name, settings }) => {
                if !self.by_id.contains_key(&queue_id(name)) {
                    let settings = Arc::new(settings.detached());
                    self.insert(Queue::new(Bytes::copy_from_slice(name), at, settings));
                }
            }
            Record::Control(Control::QueueDeleted { queue }) => self.remove(*queue),
            Record::Control(Control::QueueTrimmed { queue, to, bytes }) => {
                if let Some(queue) = self.by_id.get_mut(queue) {
                    queue.trim(*to, *bytes);
                }
            }
            Record::Control(Control::QueueRemoved { queue, entries, bytes }) => {
                if let Some(queue) = self.by_id.get_mut(queue) {
                    queue.remove(entries, *bytes);
                }
            }
            Record::Control(Control::QueuePurged { queue, to, kept, lengths }) => {
                if let Some(queue) = self.by_id.get_mut(queue) {
                    queue.purge(*to, kept, lengths);
                }
            }
            Record::Control(Control::HistoryTrimmed { to }) => {
                self.by_id.values_mut().for_each(|queue| queue.lose_history(*to));
            }
            Record::Control(Control::Moved { queues, message, .. }) => {
                let at = at.plus(u64::from(is_planted(PlantedBug::MovedBeside)));
                for (queue, entry) in queues {
                    if let Some(queue) = self.by_id.get_mut(queue) {
                        queue.move_entry(*entry, at, message.len_bytes() as u64);
                    }
                }
            }
            Record::Control(_) => {}
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        encode_each(self.by_id.values().map(|queue| to_row(queue)))
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        *self = Queues::default();
        for row in decode_each(section)? {
            self.insert(from_row(row?)?);
        }
        Ok(())
    }
}
