//! Queues: which records are in each.
//!
//! A queue counts its entries with dense offsets of its own. It keeps one partition offset for every 128 entries; the index finds the
//! ones between. What its consumer groups have finished is `group.rs`.

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxmq_index::Offset;
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

    fn add(&mut self, at: Offset) {
        if self.count.is_multiple_of(MARK_EVERY) {
            self.marks.push(at);
        }
        self.count += 1;
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
                });
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
}

fn to_row(queue: &Queue) -> Row {
    Row {
        name: queue.name.to_vec(),
        count: queue.count,
        marks: queue.marks.iter().map(|mark| mark.0).collect(),
    }
}

fn from_row(row: Row) -> (u64, Queue) {
    let queue = Queue {
        name: Bytes::from(row.name),
        count: row.count,
        marks: row.marks.into_iter().map(Offset).collect(),
    };
    (queue_id(&queue.name), queue)
}
