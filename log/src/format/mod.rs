//! Bytes of the log: pure encoders and decoders, no file, no clock.
//!
//! Every format is drawn at the head of its file and in `docs/format.md`. All integers are little-endian; variable-length
//! ones are LEB128 ([`varint`]). Decoders take bytes from a disk that may lie: they never panic and never allocate by a
//! length they have not checked.

pub mod batch;
pub mod batch_reader;
pub mod frame;
pub mod seal;
pub mod segment_header;
mod topic_table;
pub mod varint;

pub use batch::{Batch, BatchBuilder, MessageRecord, Producer, RECORDS_PER_BATCH_MAX, Retain};
pub use batch_reader::{BatchError, BatchMeta, BatchReader, BatchRecord, Message, RouteDef};
pub use frame::{
    Codec, FLAG_COMPACTED, FLAG_DEDUP, FLAG_ROLL, FLAG_ROUTE_DEFS, FLAG_TXN, FRAME_ALIGNMENT,
    FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, Frame, FrameError, FrameHeader, FrameKind,
    frame_bytes,
};
pub use seal::{SEAL_BLOCK_BYTES, Seal, SealDigests, SealError, TermRun};
pub use segment_header::{
    SEGMENT_CAPACITY_UNIT, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentHeaderError,
};
