//! What is already in the log: the index of every segment, and recently decoded frames.
//!
//! The index of a sealed segment is rebuilt from its frames when somebody first asks for it; the active one grows as records are
//! applied. Derived and disposable: a restart begins with none.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use fluxmq_index::segment_index::TopicSelection;
use fluxmq_index::{Offset, SegmentIndex};
use fluxmq_log::disk::Disk;
use fluxmq_log::format::frame::Frame;
use fluxmq_log::{Log, ReadError};
use thiserror::Error;

use super::batch::{self, DecodeError, Decoded};
use crate::model::{Filter, StoredMessage};

/// Decoded frames kept for readers that follow one another.
const DECODED_FRAMES_MAX: usize = 2;
/// Remembered wildcard matches, by filter and segment.
const SELECTIONS_MAX: usize = 1024;
/// Bytes read at a time while an index is rebuilt.
const REBUILD_READ_BYTES: u64 = 4 << 20;

/// Finds and fetches records below the applied end.
#[derive(Default)]
pub struct History {
    /// Base offset of the segment that grows.
    active: Offset,
    /// By base offset of the segment.
    segments: BTreeMap<Offset, SegmentIndex>,
    decoded: VecDeque<Arc<DecodedFrame>>,
    selections: HashMap<(Filter, Offset), TopicSelection>,
}

#[derive(Debug)]
struct DecodedFrame {
    base: Offset,
    records: Vec<Decoded>,
}

/// Why history cannot be read. Final for the partition: its log says one thing and its disk another.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A frame with a right checksum does not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The outcome of a search.
#[derive(Debug)]
pub struct Selected {
    /// What was found, ascending.
    pub offsets: Vec<Offset>,
    /// Everything below that matches is among them.
    pub next: Offset,
}

impl History {
    /// Begins with no index; the segment that starts at `active` grows.
    pub fn new(active: Offset) -> History {
        History { active, ..History::default() }
    }

    /// Begins the index of a new active segment.
    pub fn roll(&mut self, base: Offset) {
        self.active = base;
        self.segments.insert(base, SegmentIndex::new(base));
    }

    /// Adds a message that was just applied. Ignored while the active segment's index is not built: building it reads this record.
    pub fn add(&mut self, offset: Offset, topic: &[u8], queues: &[u64]) {
        if let Some(index) = self.segments.get_mut(&self.active) {
            index.add(offset, topic, queues);
        }
    }

    /// Finds up to `limit` messages in `from..end` that match any of the filters.
    pub fn select<D: Disk>(
        &mut self,
        log: &Log<D>,
        filters: &[Filter],
        (from, end): (Offset, Offset),
        limit: usize,
    ) -> Result<Selected, HistoryError> {
        let mut offsets = Vec::new();
        for base in bases(log, from, end) {
            self.ensure(log, base, end)?;
            let index = &self.segments[&base];
            for filter in filters {
                if filter.is_literal() {
                    index.select(filter.as_bytes(), from, limit, &mut offsets);
                    continue;
                }
                if self.selections.len() >= SELECTIONS_MAX {
                    self.selections.clear();
                }
                let selection = self.selections.entry((filter.clone(), base));
                let selection = selection.or_insert_with(|| TopicSelection::new(filter.as_bytes()));
                index.select_in(selection, from, limit, &mut offsets);
            }
            offsets.sort_unstable();
            offsets.dedup();
            if offsets.len() >= limit {
                offsets.truncate(limit);
                let next = offsets.last().map_or(from, |last| last.next());
                return Ok(Selected { offsets, next });
            }
        }
        Ok(Selected { offsets, next: end })
    }

    /// Finds where the newest `count` messages in `from..end` that match any of the filters begin; `None` when there are no more
    /// than that. Looks at segments from the newest on, and no further than it must.
    pub fn newest<D: Disk>(
        &mut self,
        log: &Log<D>,
        filters: &[Filter],
        (from, end): (Offset, Offset),
        count: usize,
    ) -> Result<Option<Offset>, HistoryError> {
        let (mut rest, mut end) = (count, end);
        for base in bases(log, from, end).into_iter().rev() {
            let found = self.select(log, filters, (from.max(base), end), usize::MAX)?.offsets;
            if let Some(above) = found.len().checked_sub(rest).filter(|above| *above > 0) {
                return Ok(Some(found.get(above).copied().unwrap_or(end)));
            }
            rest -= found.len();
            end = base;
        }
        Ok(None)
    }

    /// Finds where the newest messages in `from..end` that match any of the filters and have `bytes_max` bytes together begin; `None`
    /// when all have no more than that. Reads what fits, and no more than one message beyond; nothing where the log is that small.
    pub fn newest_bytes<D: Disk>(
        &mut self,
        log: &Log<D>,
        filters: &[Filter],
        (from, end): (Offset, Offset),
        bytes_max: u64,
    ) -> Result<Option<Offset>, HistoryError> {
        let bases = bases(log, from, end);
        let segments = log.segments();
        let held = segments.iter().filter(|segment| bases.contains(&segment.base_offset));
        if held.map(|segment| segment.end_bytes).sum::<u64>() <= bytes_max {
            return Ok(None);
        }
        let (mut bytes, mut start, mut end) = (0, end, end);
        for base in bases.into_iter().rev() {
            let found = self.select(log, filters, (from.max(base), end), usize::MAX)?.offsets;
            for offset in found.into_iter().rev() {
                let message = self.fetch(log, offset)?;
                bytes += message.map_or(0, |message| message.len_bytes() as u64);
                if bytes > bytes_max {
                    return Ok(Some(start));
                }
                start = offset;
            }
            end = base;
        }
        Ok(None)
    }

    /// Finds up to `limit` entries of a queue from the partition offset `from` on, below `end`.
    pub fn select_queue<D: Disk>(
        &mut self,
        log: &Log<D>,
        queue: u64,
        (from, end): (Offset, Offset),
        limit: usize,
    ) -> Result<Vec<Offset>, HistoryError> {
        let mut offsets = Vec::new();
        for base in bases(log, from, end) {
            if offsets.len() >= limit {
                break;
            }
            self.ensure(log, base, end)?;
            let rest = limit - offsets.len();
            self.segments[&base].select_lane(queue, from, rest, &mut offsets);
        }
        Ok(offsets)
    }

    /// Fetches one message; `None` where the offset holds a control.
    pub fn fetch<D: Disk>(
        &mut self,
        log: &Log<D>,
        offset: Offset,
    ) -> Result<Option<StoredMessage>, HistoryError> {
        let frame = self.frame(log, offset)?;
        let record =
            offset.0.checked_sub(frame.base.0).and_then(|at| frame.records.get(at as usize));
        Ok(match record {
            Some(Decoded::Message(message, _)) => Some(message.clone()),
            Some(Decoded::Control(_)) | None => None,
        })
    }

    fn frame<D: Disk>(
        &mut self,
        log: &Log<D>,
        offset: Offset,
    ) -> Result<Arc<DecodedFrame>, HistoryError> {
        let holds = |frame: &&Arc<DecodedFrame>| {
            frame.base <= offset && offset < frame.base.plus(frame.records.len() as u64)
        };
        if let Some(frame) = self.decoded.iter().rev().find(holds) {
            return Ok(frame.clone());
        }
        let frames = log.read(offset, 1)?;
        let frame = frames.into_iter().next().map(|frame| decode(&frame)).transpose()?;
        let frame = Arc::new(frame.unwrap_or(DecodedFrame { base: offset, records: Vec::new() }));
        if self.decoded.len() >= DECODED_FRAMES_MAX {
            self.decoded.pop_front();
        }
        self.decoded.push_back(frame.clone());
        Ok(frame)
    }

    /// Builds the index of the segment at `base` from its frames below `end`, unless it is there.
    fn ensure<D: Disk>(
        &mut self,
        log: &Log<D>,
        base: Offset,
        end: Offset,
    ) -> Result<(), HistoryError> {
        if self.segments.contains_key(&base) {
            return Ok(());
        }
        let bases: Vec<Offset> = log.segments().iter().map(|segment| segment.base_offset).collect();
        let next = bases.iter().copied().find(|other| *other > base);
        let end = next.map_or(end, |next| next.min(end));
        let mut index = SegmentIndex::new(base);
        let mut at = base;
        while at < end {
            let frames = log.read(at, REBUILD_READ_BYTES)?;
            let Some(last) = frames.last() else { break };
            let upto = last.header.end_offset();
            for frame in &frames {
                let decoded = decode(frame)?;
                for (step, record) in decoded.records.iter().enumerate() {
                    let offset = decoded.base.plus(step as u64);
                    match record {
                        Decoded::Message(message, queues) if offset < end && offset >= base => {
                            index.add(offset, &message.topic, queues);
                        }
                        Decoded::Message(..) | Decoded::Control(_) => {}
                    }
                }
            }
            at = upto;
        }
        self.segments.insert(base, index);
        Ok(())
    }
}

/// The base offsets of the segments that hold records in `from..end`, ascending.
fn bases<D: Disk>(log: &Log<D>, from: Offset, end: Offset) -> Vec<Offset> {
    let all: Vec<Offset> = log.segments().iter().map(|segment| segment.base_offset).collect();
    let first = all.partition_point(|base| *base <= from).saturating_sub(1);
    let mut bases: Vec<Offset> = all[first..].iter().copied().filter(|base| *base < end).collect();
    // A segment that holds frames without records shares its base with the next: one index serves both.
    bases.dedup();
    bases
}

fn decode(frame: &Frame) -> Result<DecodedFrame, DecodeError> {
    let records: Result<Vec<Decoded>, DecodeError> =
        batch::decode(frame)?.map(|record| record.map(|(_, _, decoded)| decoded)).collect();
    Ok(DecodedFrame { base: frame.header.base_offset, records: records? })
}
