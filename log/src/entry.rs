//! What is appended to a log, and why it may be refused.

use bytes::Bytes;

use crate::format::{Batch, FRAME_BODY_BYTES_MAX, FrameKind, SealError};

/// Longer segment files are refused: positions in a frame's local area have 32 bits of eight bytes.
pub(crate) const SEGMENT_BYTES_LIMIT: u64 = 16 << 30;

/// One entry to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Must follow the last one.
    pub index: u64,
    /// Never below the last one's.
    pub term: u64,
    /// What the body is.
    pub kind: FrameKind,
    /// `FLAG_*` bits; `FLAG_ROLL` begins a new segment.
    pub flags: u16,
    /// Log time in milliseconds; never below the last one's.
    pub base_ts: u64,
    /// The leader's commit index when it built the entry.
    pub commit_hint: u64,
    /// Records in the body.
    pub record_count: u32,
    /// The latest record's time minus `base_ts`, in milliseconds.
    pub max_ts_delta: u32,
    /// Length of the body's tables in bytes.
    pub tables_len: u32,
    /// Topics in the body's table.
    pub topic_count: u16,
    /// The body.
    pub body: Bytes,
}

impl Entry {
    /// Makes an entry of a batch.
    pub fn from_batch(index: u64, term: u64, commit_hint: u64, batch: Batch) -> Entry {
        Entry {
            index,
            term,
            kind: batch.kind,
            flags: batch.flags,
            base_ts: batch.base_ts,
            commit_hint,
            record_count: batch.record_count,
            max_ts_delta: batch.max_ts_delta,
            tables_len: batch.tables_len,
            topic_count: batch.topic_count,
            body: batch.body,
        }
    }

    /// Makes an entry without records: a no-op, a change of the voters, or a seal.
    pub fn without_records(
        index: u64,
        term: u64,
        kind: FrameKind,
        base_ts: u64,
        body: Bytes,
    ) -> Entry {
        Entry {
            index,
            term,
            kind,
            flags: 0,
            base_ts,
            commit_hint: 0,
            record_count: 0,
            max_ts_delta: 0,
            tables_len: 0,
            topic_count: 0,
            body,
        }
    }
}

/// Why an entry was not appended. The log is as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// An earlier write or sync failed.
    #[error("log is poisoned by a failed write")]
    Poisoned,
    /// The entry does not follow the last one.
    #[error("entry {index} does not follow {last}")]
    Index {
        /// The entry's index.
        index: u64,
        /// The last one's.
        last: u64,
    },
    /// The entry is of an older term than the last one.
    #[error("term {term} is below {last}")]
    Term {
        /// The entry's term.
        term: u64,
        /// The last one's.
        last: u64,
    },
    /// The entry's log time is before the last one's.
    #[error("log time {base_ts} is below {last}")]
    Time {
        /// The entry's time in milliseconds.
        base_ts: u64,
        /// The last one's.
        last: u64,
    },
    /// The body is too long for a frame.
    #[error("body of {len} bytes exceeds {FRAME_BODY_BYTES_MAX}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The number of records does not fit the kind of the entry.
    #[error("{kind:?} entry with {record_count} records")]
    Records {
        /// The kind.
        kind: FrameKind,
        /// The number.
        record_count: u32,
    },
    /// The segment's file would become too long: the leader did not roll.
    #[error("segment {segment_no} would exceed {SEGMENT_BYTES_LIMIT} bytes")]
    SegmentFull {
        /// The segment.
        segment_no: u64,
    },
    /// The seal's body does not read as one.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The seal does not describe the segment as it is here: this replica's bytes differ from the leader's.
    #[error("seal does not match segment {segment_no}: {difference}")]
    SealMismatch {
        /// The segment.
        segment_no: u64,
        /// The first difference.
        difference: SealDifference,
    },
}

/// Where a seal and a segment differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealDifference {
    /// In counts, times or terms.
    #[error("counts, times or terms differ")]
    Counts,
    /// In the bytes of one block of a MiB.
    #[error("block {number} differs")]
    Block {
        /// The block, from 0.
        number: usize,
    },
}
