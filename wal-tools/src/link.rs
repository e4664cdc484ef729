//! How frames and segments continue each other: index, offset, term, chain and time.
//!
//! Behind damage of unknown extent only lower bounds are known, and only those are checked.

use fluxmq_index::Offset;
use fluxmq_log::format::{FrameHeader, SegmentHeader};

use crate::side::manifest::Base;

/// What the next frame must continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Raft index of the next frame; the lowest possible one if not exact.
    pub index: u64,
    /// Offset of the next record; the lowest possible one if not exact.
    pub offset: Offset,
    /// Term of the frame before.
    pub term: u64,
    /// Header checksum of the frame before, if that is known.
    pub chain: Option<u32>,
    /// Log time of the frame before, in milliseconds.
    pub ts: u64,
    /// Nothing is missing between what was read and what comes next.
    pub is_exact: bool,
}

/// How a frame or a segment fails to continue what is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Entries are missing or repeated.
    #[error("index {found} follows where {expected} should")]
    Index {
        /// What is there.
        found: u64,
        /// What should be.
        expected: u64,
    },
    /// Records are missing or repeated.
    #[error("offset {found} follows where {expected} should")]
    Offset {
        /// What is there.
        found: Offset,
        /// What should be.
        expected: Offset,
    },
    /// Terms never go back (Raft §5.3).
    #[error("term {found} follows term {before}")]
    Term {
        /// What is there.
        found: u64,
        /// The one before.
        before: u64,
    },
    /// The frame before is not the one this was written behind.
    #[error("chain {found:#010x} does not link to {expected:#010x}")]
    Chain {
        /// What is there.
        found: u32,
        /// The header checksum of the frame before.
        expected: u32,
    },
    /// Log time never goes back.
    #[error("log time {found} ms follows {before} ms")]
    Time {
        /// What is there.
        found: u64,
        /// The one before.
        before: u64,
    },
}

impl Link {
    /// Returns the link that the first frame of a segment must continue.
    pub fn at_start(header: &SegmentHeader) -> Link {
        Link {
            index: header.base_index,
            offset: header.base_offset,
            term: header.prev_term,
            chain: Some(header.prev_chain),
            ts: header.base_ts,
            is_exact: true,
        }
    }

    /// Returns the link behind a frame.
    pub fn after(header: &FrameHeader) -> Link {
        Link {
            index: header.index.saturating_add(1),
            offset: header.end_offset(),
            term: header.term,
            chain: Some(header.crc),
            ts: header.base_ts,
            is_exact: true,
        }
    }

    /// Returns the link behind damage of unknown extent.
    pub fn loosened(self) -> Link {
        Link { is_exact: false, chain: None, ..self }
    }

    /// Returns the link that the first segment of a log must continue.
    pub fn after_base(base: Base) -> Link {
        Link {
            index: base.index.saturating_add(1),
            offset: base.offset,
            term: base.term,
            chain: None,
            ts: 0,
            is_exact: true,
        }
    }

    /// Checks the frame that comes next.
    pub fn check_frame(&self, header: &FrameHeader) -> Result<(), LinkError> {
        self.check(header.index, header.base_offset, header.prev_chain)?;
        if header.term < self.term {
            return Err(LinkError::Term { found: header.term, before: self.term });
        }
        if header.base_ts < self.ts {
            return Err(LinkError::Time { found: header.base_ts, before: self.ts });
        }
        Ok(())
    }

    /// Checks the header of the segment that comes next.
    pub fn check_segment(&self, header: &SegmentHeader) -> Result<(), LinkError> {
        self.check(header.base_index, header.base_offset, header.prev_chain)?;
        let is_term = if self.is_exact {
            header.prev_term == self.term
        } else {
            header.prev_term >= self.term
        };
        if !is_term {
            return Err(LinkError::Term { found: header.prev_term, before: self.term });
        }
        if header.base_ts < self.ts {
            return Err(LinkError::Time { found: header.base_ts, before: self.ts });
        }
        Ok(())
    }

    fn check(&self, index: u64, offset: Offset, chain: u32) -> Result<(), LinkError> {
        let follows = |found: u64, expected: u64| {
            if self.is_exact { found == expected } else { found >= expected }
        };
        if !follows(index, self.index) {
            return Err(LinkError::Index { found: index, expected: self.index });
        }
        if !follows(offset.0, self.offset.0) {
            return Err(LinkError::Offset { found: offset, expected: self.offset });
        }
        if let Some(expected) = self.chain
            && chain != expected
        {
            return Err(LinkError::Chain { found: chain, expected });
        }
        Ok(())
    }
}
