//! Queues and their consumer groups: which records are in a queue, and what each group has finished.
//!
//! A queue counts its entries with dense offsets of its own. It keeps one partition offset for every 128 entries; the index finds the
//! ones between. A group is a floor and the finished entries above it, so its size follows the holes, never the backlog.

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxmq_index::{Offset, OffsetSet};
use serde::{Deserialize, Serialize};

use super::section::{decode_rows, encode_rows};
use super::{SectionError, View};
use crate::model::record::queue_id;
use crate::model::{Control, Millis, Record};

/// Entries between two remembered positions.
pub const MARK_EVERY: u64 = 128;

/// The queues of a partition, by id.
#[derive(Debug, Default)]
pub struct Queues {
    by_id: BTreeMap<u64, Queue>,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    name: Bytes,
    count: u64,
    marks: Vec<Offset>,
    groups: BTreeMap<Bytes, Group>,
}

/// One consumer group of a queue. All offsets are queue offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    committed: Offset,
    finished: OffsetSet,
    released: BTreeMap<Offset, u32>,
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

    fn group_mut(&mut self, queue: u64, group: &[u8]) -> Option<&mut Group> {
        self.by_id.get_mut(&queue)?.groups.get_mut(group)
    }
}

impl Queue {
    /// Its name.
    pub fn name(&self) -> &Bytes {
        &self.name
    }

    /// The queue offset of the next entry: how many there have been.
    pub fn end(&self) -> Offset {
        Offset(self.count)
    }

    /// Returns a remembered entry at or before `entry`: its queue offset and its partition offset.
    pub fn mark_before(&self, entry: Offset) -> Option<(Offset, Offset)> {
        let last = self.marks.len().checked_sub(1)? as u64;
        let mark = (entry.0 / MARK_EVERY).min(last);
        Some((Offset(mark * MARK_EVERY), self.marks[mark as usize]))
    }

    /// Returns a consumer group.
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(name)
    }

    /// Lists its consumer groups by name.
    pub fn groups(&self) -> impl Iterator<Item = (&Bytes, &Group)> {
        self.groups.iter()
    }

    fn add(&mut self, at: Offset) {
        if self.count.is_multiple_of(MARK_EVERY) {
            self.marks.push(at);
        }
        self.count += 1;
    }
}

impl Group {
    /// Everything below is finished.
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// Returns true for an entry that this group is done with.
    pub fn is_finished(&self, entry: Offset) -> bool {
        entry < self.committed || self.finished.contains(entry)
    }

    /// How often an entry was handed out and came back.
    pub fn delivery_count(&self, entry: Offset) -> u32 {
        self.released.get(&entry).copied().unwrap_or(0)
    }

    fn finish(&mut self, runs: &[(Offset, u64)]) {
        for (first, count) in runs {
            let end = first.plus(*count);
            self.finished.insert_range(*first..end);
            let gone: Vec<Offset> =
                self.released.range(*first..end).map(|(entry, _)| *entry).collect();
            for entry in gone {
                self.released.remove(&entry);
            }
        }
        self.advance();
    }

    fn release(&mut self, entry: Offset) {
        if !self.is_finished(entry) {
            *self.released.entry(entry).or_default() += 1;
        }
    }

    fn set_cursor(&mut self, to: Offset) {
        // Going back makes everything from there on unfinished, holes or not; going forward keeps what is finished above.
        if to < self.committed {
            self.finished = OffsetSet::default();
            self.released.clear();
        }
        self.committed = to;
        self.advance();
    }

    fn advance(&mut self) {
        self.committed = self.finished.first_gap(self.committed);
        self.finished.remove_range(Offset::ZERO..self.committed);
        self.released = self.released.split_off(&self.committed);
    }
}

impl View for Queues {
    fn name(&self) -> &'static str {
        "queues"
    }

    fn apply(&mut self, at: Offset, _time: Millis, record: Record<'_>) {
        match record {
            Record::Message(_, queues) => {
                for id in queues {
                    if let Some(queue) = self.by_id.get_mut(id) {
                        queue.add(at);
                    }
                }
            }
            Record::Control(Control::QueueDeclared { name }) => {
                self.by_id.entry(queue_id(name)).or_insert_with(|| Queue {
                    name: Bytes::copy_from_slice(name),
                    count: 0,
                    marks: Vec::new(),
                    groups: BTreeMap::new(),
                });
            }
            Record::Control(Control::GroupCreated { queue, group, start }) => {
                if let Some(queue) = self.by_id.get_mut(queue) {
                    let name = Bytes::copy_from_slice(group);
                    let start = Group { committed: *start, ..Group::default() };
                    queue.groups.entry(name).or_insert(start);
                }
            }
            Record::Control(Control::Settled { queue, group, finished, released }) => {
                if let Some(group) = self.group_mut(*queue, group) {
                    group.finish(finished);
                    released.iter().for_each(|entry| group.release(*entry));
                }
            }
            Record::Control(Control::CursorSet { queue, group, to }) => {
                if let Some(group) = self.group_mut(*queue, group) {
                    group.set_cursor(*to);
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
        let rows = decode_rows::<Vec<Row>>(section)?;
        self.by_id = rows.into_iter().map(from_row).collect();
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Row {
    name: Vec<u8>,
    count: u64,
    marks: Vec<u64>,
    groups: Vec<GroupRow>,
}

#[derive(Serialize, Deserialize)]
struct GroupRow {
    name: Vec<u8>,
    committed: u64,
    finished: Vec<(u64, u64)>,
    released: Vec<(u64, u32)>,
}

fn to_row(queue: &Queue) -> Row {
    let group = |(name, group): (&Bytes, &Group)| GroupRow {
        name: name.to_vec(),
        committed: group.committed.0,
        finished: group.finished.iter().map(|range| (range.start.0, range.end.0)).collect(),
        released: group.released.iter().map(|(entry, count)| (entry.0, *count)).collect(),
    };
    Row {
        name: queue.name.to_vec(),
        count: queue.count,
        marks: queue.marks.iter().map(|mark| mark.0).collect(),
        groups: queue.groups.iter().map(group).collect(),
    }
}

fn from_row(row: Row) -> (u64, Queue) {
    let group = |row: GroupRow| {
        let mut group = Group { committed: Offset(row.committed), ..Group::default() };
        for (start, end) in row.finished {
            group.finished.insert_range(Offset(start)..Offset(end));
        }
        group.released =
            row.released.into_iter().map(|(entry, count)| (Offset(entry), count)).collect();
        (Bytes::from(row.name), group)
    };
    let queue = Queue {
        name: Bytes::from(row.name),
        count: row.count,
        marks: row.marks.into_iter().map(Offset).collect(),
        groups: row.groups.into_iter().map(group).collect(),
    };
    (queue_id(&queue.name), queue)
}
