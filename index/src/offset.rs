//! The position of a record in a partition.
//!
//! Dense: every record, message or control, has the offset after its predecessor's.

use std::fmt;
use std::ops::Range;

/// The position of one record in its partition, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

/// Records from `start` up to, not including, `end`.
pub type OffsetRange = Range<Offset>;

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Offset = Offset(0);

    /// Returns the offset `count` records later. Panics on overflow, which 2^64 records would take.
    pub fn plus(self, count: u64) -> Offset {
        Offset(self.0.checked_add(count).expect("offsets fit in 64 bits"))
    }

    /// Returns the next offset.
    pub fn next(self) -> Offset {
        self.plus(1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
