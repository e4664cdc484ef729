//! The index of a sealed segment: bytes beside it, derived from it, bound to it.
//!
//! ```text
//! index    := header (256) frames records topics column postings queues blocks
//! frames   := positions: ascending, and the end | records before: ascending, and all | times: ascending | producers at: packed
//! records  := positions: ascending
//! topics   := dictionary
//! column   := topics: packed, one for each record; what is no message has the number after the last topic
//! postings := ascending of topic × records of the segment + record, for every message
//! queues   := u32 queues | u32 route sets | ids u64, ascending | starts: ascending, and the end | route sets of each: packed
//!             | ascending of route set × records of the segment + record, for every message with a route set
//! blocks   := u32 crc of each 4 KiB of the segment's frames, what belongs to the replica alone read as zeros
//! ```
//!
//! What the parts are is drawn in [`header`], `dictionary`, `ascending` and `packed`. Records are numbered from the segment's first.
//! A reader loads sections when it needs them and checks each: bytes that do not read as what they should be are a [`Fault`], never
//! a panic and never an answer. Whoever meets one has the segment itself, from which everything here can be built again.

mod ascending;
mod bits;
mod builder;
mod dictionary;
pub mod header;
mod learn;
mod packed;
mod reader;
mod select;
#[cfg(test)]
mod tests;

pub use builder::{RouteId, SealedIndexBuilder, TopicId};
pub use header::{Binding, Fault, FrameEntry, Header, SEALED_HEADER_BYTES, Section, SectionAt};
pub use reader::{SealedError, SealedIndex, Source};
pub use select::TopicRanges;

/// A checksum of the segment covers this many bytes.
pub const BLOCK_BYTES: usize = 4096;
