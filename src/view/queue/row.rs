//! Queues as rows of a snapshot.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::{Offset, OffsetSet};
use serde::{Deserialize, Serialize};

use super::moved::Run;
use super::{Mark, Queue};
use crate::model::QueueSettings;
use crate::view::SectionError;

/// One queue.
#[derive(Serialize, Deserialize)]
pub(super) struct Row {
    name: Vec<u8>,
    declared: u64,
    /// As in the record of its declaration.
    settings: Vec<u8>,
    count: u64,
    bytes: u64,
    head: u64,
    removed: Vec<(u64, u64)>,
    marks: Vec<(u64, u64)>,
    first: u64,
    /// First entry, how many, the first record, bytes.
    moved: Vec<(u64, u64, u64, u64)>,
}

pub(super) fn to_row(queue: &Queue) -> Row {
    Row {
        name: queue.name.to_vec(),
        declared: queue.declared.0,
        settings: queue.settings.to_bytes(),
        count: queue.count,
        bytes: queue.bytes,
        head: queue.head.0,
        removed: queue.removed.iter().map(|range| (range.start.0, range.end.0)).collect(),
        marks: queue.marks.iter().map(|mark| (mark.at.0, mark.bytes)).collect(),
        first: queue.first,
        moved: queue.moved.runs().copied().map(Run::into_row).collect(),
    }
}

pub(super) fn from_row(row: Row) -> Result<Queue, SectionError> {
    let settings = QueueSettings::from_bytes(&Bytes::from(row.settings));
    let settings = settings.ok_or(SectionError::Settings)?;
    let mut removed = OffsetSet::default();
    for (start, end) in row.removed {
        removed.insert_range(Offset(start)..Offset(end));
    }
    let mark = |(at, bytes)| Mark { at: Offset(at), bytes };
    Ok(Queue {
        name: Bytes::from(row.name),
        declared: Offset(row.declared),
        settings: Arc::new(settings.detached()),
        count: row.count,
        bytes: row.bytes,
        head: Offset(row.head),
        removed,
        marks: row.marks.into_iter().map(mark).collect(),
        first: row.first,
        moved: row.moved.into_iter().map(Run::from_row).collect(),
    })
}
