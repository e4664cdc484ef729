//! Queues: what each was declared to be, and which records are in it.
//!
//! A queue counts its entries with dense offsets of its own. It keeps one partition offset for every 128 entries; the index finds the
//! ones between. Entries leave it for everybody, by number, age or purge; what its consumer groups have finished is `group.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::{Offset, OffsetSet, TopicTrie};
use serde::{Deserialize, Serialize};

use super::section::{decode_rows, encode_rows};
use super::{SectionError, View};
use crate::model::record::queue_id;
use crate::model::{Control, Filter, Millis, QueueSettings, Record};

/// Entries between two remembered positions.
pub const MARK_EVERY: u64 = 128;

/// The queues of a partition, by id.
#[derive(Debug, Default)]
pub struct Queues {
    by_id: BTreeMap<u64, Queue>,
    /// Derived: the queues of each binding.
    bindings: TopicTrie<u64>,
    /// Derived: how many queues each binding has.
    bound: BTreeMap<Filter, u32>,
    /// Derived: queues whose entries leave by number or age.
    limited: BTreeSet<u64>,
    /// Derived: queues that follow history.
    retroactive: BTreeSet<u64>,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    name: Bytes,
    settings: Arc<QueueSettings>,
    count: u64,
    bytes: u64,
    head: Offset,
    /// At or above the head.
    removed: OffsetSet,
    /// Of the entries from `head` on, or a few before; the first is of entry `128 * marks_begin`.
    marks: Vec<Offset>,
    marks_begin: u64,
}

impl Queues {
    /// Returns a queue.
    pub fn get(&self, id: u64) -> Option<&Queue> {
        self.by_id.get(&id)
    }

    /// Lists all queues by id.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Queue)> {
        self.by_id.iter().map(|(id, queue)| (*id, queue))
    }

    /// Adds the queues that are bound to a topic, a queue once for each of its bindings that match.
    pub fn bound_to(&self, topic: &[u8], out: &mut Vec<u64>) {
        if !self.bindings.is_empty() {
            self.bindings.for_each_match(topic, |id| out.push(*id));
        }
    }

    /// Lists the filters that queues are bound to, each once.
    pub fn bindings(&self) -> impl Iterator<Item = &Filter> {
        self.bound.keys()
    }

    /// Returns true when a queue is bound to exactly this filter.
    pub fn is_bound(&self, filter: &Filter) -> bool {
        self.bound.contains_key(filter)
    }

    /// Lists the queues that follow history.
    pub fn retroactive(&self) -> impl Iterator<Item = u64> {
        self.retroactive.iter().copied()
    }

    /// Lists the queues whose entries leave by number or age.
    pub fn limited(&self) -> impl Iterator<Item = u64> {
        self.limited.iter().copied()
    }

    fn insert(&mut self, queue: Queue) {
        let id = queue_id(&queue.name);
        if queue.settings.retroactive {
            self.retroactive.insert(id);
        }
        for filter in captured(&queue) {
            self.bindings.insert(filter.as_bytes(), id);
            *self.bound.entry(filter.clone()).or_default() += 1;
        }
        if queue.settings.has_limits() {
            self.limited.insert(id);
        }
        self.by_id.insert(id, queue);
    }

    fn remove(&mut self, id: u64) {
        let Some(queue) = self.by_id.remove(&id) else { return };
        for filter in captured(&queue) {
            self.bindings.remove(filter.as_bytes(), &id);
            if let Some(count) = self.bound.get_mut(filter) {
                *count -= 1;
                if *count == 0 {
                    self.bound.remove(filter);
                }
            }
        }
        self.limited.remove(&id);
        self.retroactive.remove(&id);
    }
}

/// What a queue is bound to that is routed to it when it is stored.
fn captured(queue: &Queue) -> &[Filter] {
    if queue.settings.retroactive { &[] } else { &queue.settings.bindings }
}

impl Queue {
    fn new(name: Bytes, settings: Arc<QueueSettings>) -> Queue {
        Queue {
            name,
            settings,
            count: 0,
            bytes: 0,
            head: Offset::ZERO,
            removed: OffsetSet::default(),
            marks: Vec::new(),
            marks_begin: 0,
        }
    }

    /// Its name.
    pub fn name(&self) -> &Bytes {
        &self.name
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

    /// Bytes of topics, properties and payloads that are in it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns true for an entry that was in it and is not any more.
    pub fn is_removed(&self, entry: Offset) -> bool {
        entry < self.head || self.removed.contains(entry)
    }

    /// Returns a remembered entry at or before `entry`: its queue offset and its partition offset.
    pub fn mark_before(&self, entry: Offset) -> Option<(Offset, Offset)> {
        let last = self.marks.len().checked_sub(1)? as u64;
        let mark = (entry.0 / MARK_EVERY).checked_sub(self.marks_begin)?.min(last);
        Some((Offset((self.marks_begin + mark) * MARK_EVERY), self.marks[mark as usize]))
    }

    /// Returns the last remembered entry that is stored at or before a partition offset: its queue offset and its partition offset.
    pub fn mark_at(&self, offset: Offset) -> Option<(Offset, Offset)> {
        let mark = self.marks.partition_point(|mark| *mark <= offset).checked_sub(1)?;
        Some((Offset((self.marks_begin + mark as u64) * MARK_EVERY), self.marks[mark]))
    }

    fn add(&mut self, at: Offset, bytes: u64) {
        if self.count.is_multiple_of(MARK_EVERY) {
            if self.marks.is_empty() {
                self.marks_begin = self.count / MARK_EVERY;
            }
            self.marks.push(at);
        }
        self.count += 1;
        self.bytes += bytes;
    }

    fn trim(&mut self, to: Offset, bytes: u64) {
        let to = to.min(self.end());
        if to > self.head {
            self.head = self.removed.first_gap(to);
            self.settle_head();
        }
        self.forget(bytes);
    }

    fn remove(&mut self, entries: &[Offset], bytes: u64) {
        for entry in entries {
            if *entry >= self.head && entry.0 < self.count {
                self.removed.insert_range(*entry..entry.next());
            }
        }
        self.head = self.removed.first_gap(self.head);
        self.settle_head();
        self.forget(bytes);
    }

    /// What is below the head is said by the head.
    fn settle_head(&mut self) {
        self.removed.remove_range(Offset::ZERO..self.head);
        // The mark at or before the head stays: entries behind it are found from there.
        let first = (self.head.0 / MARK_EVERY).saturating_sub(self.marks_begin);
        let first = (first as usize).min(self.marks.len().saturating_sub(1));
        self.marks.drain(..first);
        self.marks_begin += first as u64;
    }

    fn forget(&mut self, bytes: u64) {
        self.bytes = match self.is_empty() {
            true => 0,
            false => self.bytes.saturating_sub(bytes),
        };
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
                    self.insert(Queue::new(Bytes::copy_from_slice(name), settings));
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
            Record::Control(_) => {}
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        encode_rows(&self.by_id.values().map(to_row).collect::<Vec<Row>>())
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        *self = Queues::default();
        for row in decode_rows::<Vec<Row>>(section)? {
            self.insert(from_row(row)?);
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Row {
    name: Vec<u8>,
    /// As in the record of its declaration.
    settings: Vec<u8>,
    count: u64,
    bytes: u64,
    head: u64,
    removed: Vec<(u64, u64)>,
    marks: Vec<u64>,
    marks_begin: u64,
}

fn to_row(queue: &Queue) -> Row {
    Row {
        name: queue.name.to_vec(),
        settings: queue.settings.to_bytes(),
        count: queue.count,
        bytes: queue.bytes,
        head: queue.head.0,
        removed: queue.removed.iter().map(|range| (range.start.0, range.end.0)).collect(),
        marks: queue.marks.iter().map(|mark| mark.0).collect(),
        marks_begin: queue.marks_begin,
    }
}

fn from_row(row: Row) -> Result<Queue, SectionError> {
    let settings = QueueSettings::from_bytes(&Bytes::from(row.settings));
    let settings = settings.ok_or(SectionError::Settings)?;
    let mut removed = OffsetSet::default();
    for (start, end) in row.removed {
        removed.insert_range(Offset(start)..Offset(end));
    }
    Ok(Queue {
        name: Bytes::from(row.name),
        settings: Arc::new(settings.detached()),
        count: row.count,
        bytes: row.bytes,
        head: Offset(row.head),
        removed,
        marks: row.marks.into_iter().map(Offset).collect(),
        marks_begin: row.marks_begin,
    })
}
