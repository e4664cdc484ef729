//! What the log keeps in memory of one segment: where it begins and ends, and a sparse map of its frames.
//!
//! Knows nothing of other segments; ordering them is [`log`](crate::log).

use std::sync::OnceLock;

use fluxmq_index::Offset;

use crate::format::{
    FRAME_HEADER_BYTES, FrameHeader, SEAL_BLOCK_BYTES, SEGMENT_HEADER_BYTES, Seal, SealDigests,
    SegmentHeader, TermRun, frame_bytes,
};
use crate::log::Position;

/// One frame in this many bytes is remembered; the others are found by walking from it.
const REMEMBER_EVERY_BYTES: u64 = 16 << 10;

/// One segment, on disk or about to be.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) salt: u32,
    /// Where the next frame goes.
    pub(crate) end_bytes: u64,
    /// Where the last frame begins; 0 when there is none.
    pub(crate) last_frame_at: u64,
    /// The last frame's index, and the offset after its last record.
    pub(crate) last: Position,
    /// The last frame's header checksum.
    pub(crate) last_chain: u32,
    /// The last frame's kind is a seal.
    pub(crate) is_sealed: bool,
    /// Unset for a closed segment that nobody has looked into.
    pub(crate) frames: OnceLock<FrameMap>,
}

impl Segment {
    pub(crate) fn new(header: SegmentHeader) -> Self {
        Segment {
            salt: header.salt(),
            end_bytes: SEGMENT_HEADER_BYTES as u64,
            last_frame_at: 0,
            last: Position { index: header.base_index - 1, end: header.base_offset },
            last_chain: header.prev_chain,
            is_sealed: false,
            frames: OnceLock::new(),
            header,
        }
    }

    /// Notes that `header` is the next frame.
    pub(crate) fn push(&mut self, header: &FrameHeader) {
        self.frames.get_or_init(FrameMap::default);
        if let Some(frames) = self.frames.get_mut() {
            frames.push(FrameAt::of(header, self.end_bytes));
        }
        self.last_frame_at = self.end_bytes;
        self.end_bytes += header.frame_bytes();
        self.last = Position { index: header.index, end: header.end_offset() };
        self.last_chain = header.crc;
        self.is_sealed = header.kind == crate::format::FrameKind::Seal;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.last_frame_at == 0
    }

    pub(crate) fn segment_no(&self) -> u64 {
        self.header.segment_no
    }

    /// Returns room the seal frame of this segment may take.
    pub(crate) fn seal_bytes(&self, tally: &Tally) -> u64 {
        let blocks = (self.header.capacity_bytes / SEAL_BLOCK_BYTES + 2) as usize;
        frame_bytes(64 + 4 * blocks + 20 * (tally.terms.len() + 1))
    }
}

/// Where one frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameAt {
    pub(crate) index: u64,
    pub(crate) base_offset: Offset,
    pub(crate) base_ts: u64,
    pub(crate) position: u64,
}

impl FrameAt {
    pub(crate) fn of(header: &FrameHeader, position: u64) -> Self {
        let FrameHeader { index, base_offset, base_ts, .. } = *header;
        FrameAt { index, base_offset, base_ts, position }
    }
}

/// Some of a segment's frames, the first always among them.
#[derive(Debug, Default)]
pub(crate) struct FrameMap {
    remembered: Vec<FrameAt>,
}

impl FrameMap {
    pub(crate) fn push(&mut self, frame: FrameAt) {
        let is_due = self
            .remembered
            .last()
            .is_none_or(|last| frame.position - last.position >= REMEMBER_EVERY_BYTES);
        if is_due {
            self.remembered.push(frame);
        }
    }

    /// Returns the last remembered frame of which `is_before` says that the frame looked for is not earlier.
    pub(crate) fn walk_from(&self, is_before: impl Fn(&FrameAt) -> bool) -> Option<FrameAt> {
        let after = self.remembered.partition_point(is_before);
        self.remembered.get(after.saturating_sub(1)).copied()
    }
}

/// Counts and digests of the segment being written: what its seal will say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    first_index: u64,
    frame_count: u64,
    record_count: u64,
    ts_min: u64,
    ts_max: u64,
    terms: Vec<TermRun>,
    digests: SealDigests,
}

impl Tally {
    pub(crate) fn new(first_index: u64) -> Self {
        Tally {
            first_index,
            frame_count: 0,
            record_count: 0,
            ts_min: u64::MAX,
            ts_max: 0,
            terms: Vec::new(),
            digests: SealDigests::default(),
        }
    }

    pub(crate) fn push(
        &mut self,
        header: &FrameHeader,
        encoded: &[u8; FRAME_HEADER_BYTES],
        body: &[u8],
    ) {
        self.frame_count += 1;
        self.record_count += u64::from(header.record_count);
        self.ts_min = self.ts_min.min(header.base_ts);
        self.ts_max = self.ts_max.max(header.max_ts());
        push_term(&mut self.terms, header.index, header.term);
        self.digests.push(encoded, body);
    }

    /// Returns the seal of a segment whose frames end at `data_bytes`.
    pub(crate) fn seal(&self, data_bytes: u64) -> Seal {
        Seal {
            first_index: self.first_index,
            record_count: self.record_count,
            frame_count: self.frame_count,
            ts_min: self.ts_min,
            ts_max: self.ts_max,
            data_bytes,
            terms: self.terms.clone(),
            blocks: self.digests.blocks(),
        }
    }

    pub(crate) fn terms(&self) -> &[TermRun] {
        &self.terms
    }
}

/// Notes that the entry after all others has `term`.
pub(crate) fn push_term(terms: &mut Vec<TermRun>, index: u64, term: u64) {
    if terms.last().is_none_or(|run| run.term != term) {
        terms.push(TermRun { first_index: index, term });
    }
}

/// Returns the capacity of the segment after one of `previous` bytes: doubling from `min` to `max`, or what the first frame
/// takes.
pub(crate) fn next_capacity(previous: Option<u64>, first_frame: u64, min: u64, max: u64) -> u64 {
    use crate::format::SEGMENT_CAPACITY_UNIT as UNIT;
    let doubled = previous.map_or(min, |bytes| (bytes * 2).min(max)).max(min);
    let needed = SEGMENT_HEADER_BYTES as u64 + first_frame + frame_bytes(4096);
    doubled.max(needed).next_multiple_of(UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn capacities_double_between_the_limits() {
        let next = |previous| next_capacity(previous, 100, 4 * MIB, 128 * MIB);

        assert_eq!(next(None), 4 * MIB);
        assert_eq!(next(Some(4 * MIB)), 8 * MIB);
        assert_eq!(next(Some(128 * MIB)), 128 * MIB);
        assert_eq!(next(Some(MIB)), 4 * MIB);
    }

    #[test]
    fn a_large_first_frame_gets_a_segment_that_holds_it() {
        let capacity = next_capacity(None, 50 * MIB, 4 * MIB, 128 * MIB);

        assert!(capacity > 50 * MIB && capacity < 51 * MIB);
        assert_eq!(capacity % crate::format::SEGMENT_CAPACITY_UNIT, 0);
    }
}
