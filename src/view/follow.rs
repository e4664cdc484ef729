//! How far retroactive queues are in the histories that they follow.
//!
//! One offset for each queue and partition, moved in the frame that brings what was new: a queue has every record once (ADR 0049).

use std::collections::BTreeMap;

use fluxmq_index::Offset;
use serde::{Deserialize, Serialize};

use super::section::{decode_each, encode_each};
use super::{SectionError, View};
use crate::model::{Control, Millis, PartitionId, Record};

/// The places of all retroactive queues.
#[derive(Debug, Default)]
pub struct Follows {
    places: BTreeMap<(u64, PartitionId), Offset>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    queue: u64,
    source: u16,
    next: u64,
}

impl Follows {
    /// Returns where a queue goes on in the history of a partition.
    pub fn next(&self, queue: u64, source: PartitionId) -> Offset {
        self.places.get(&(queue, source)).copied().unwrap_or(Offset::ZERO)
    }

    /// Lists where a queue goes on, of the partitions that it had something of.
    pub fn places(&self, queue: u64) -> impl Iterator<Item = (PartitionId, Offset)> {
        let range = self.places.range((queue, PartitionId(0))..=(queue, PartitionId(u16::MAX)));
        range.map(|((_, source), next)| (*source, *next))
    }
}

impl View for Follows {
    fn name(&self) -> &'static str {
        "follows"
    }

    fn apply(&mut self, _at: Offset, _time: Millis, record: Record<'_>) {
        match record {
            Record::Control(Control::QueueFollowed { queue, source, next }) => {
                self.places.insert((*queue, *source), *next);
            }
            Record::Control(Control::QueueDeleted { queue }) => {
                self.places.retain(|(of, _), _| of != queue);
            }
            Record::Control(_) | Record::Message(..) => {}
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        let row = |((queue, source), next): (&(u64, PartitionId), &Offset)| Row {
            queue: *queue,
            source: source.0,
            next: next.0,
        };
        encode_each(self.places.iter().map(row))
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        let row = |row: Row| ((row.queue, PartitionId(row.source)), Offset(row.next));
        let rows = decode_each(section)?;
        self.places = rows.map(|it| it.map(row)).collect::<Result<_, _>>()?;
        Ok(())
    }
}
