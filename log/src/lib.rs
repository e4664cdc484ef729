//! A segmented, checksummed, group-committed append-only log: bytes, offsets, terms and files.
//!
//! Knows no protocol and no view, and never waits for anything but the disk.
//!
//! Bottom up: [`disk`] what may be done to files · [`format`] what the bytes mean · slots, manifest and snapshots, the small
//! files beside the segments · [`index_file`] what finds records in them · [`log`] the segments · [`flush`] group commit · [`recovery`] what is believed after a crash.

pub mod disk;
pub mod disk_error;
pub mod os_disk;
pub mod sim_disk;

pub mod format;

pub mod data_dir;
pub mod entry;
pub mod fence;
mod fence_begin;
mod fence_scan;
pub mod flush;
mod frame_parts;
mod hard_state;
mod housekeeping;
pub mod index_file;
mod indexed_segment;
mod layout;
pub mod log;
mod manifest;
mod manifest_edit;
pub mod patch;
pub mod planted;
pub mod range;
pub mod read;
pub mod recovery;
mod recovery_segments;
mod replica;
pub mod scan;
mod segment;
pub mod segment_indexer;
mod slot;
mod snapshot_store;
pub mod snapshots;
pub mod spare;
mod sync_proof;
pub mod truncate;
pub mod watermark;

pub use entry::{AppendError, Entry, SealDifference};
pub use fence::{Fenced, Hole};
pub use flush::{Flush, FlushError, Flushed};
pub use fluxmq_index::{Offset, OffsetRange};
pub use frame_parts::{FrameParts, LONG_FRAME_BYTES};
pub use hard_state::{HardState, Life};
pub use index_file::{BuildIndexError, BuiltIndex, IndexFile, IndexJob, LogIndex, SegmentSpan};
pub use indexed_segment::{IndexedSegment, RecordError};
pub use layout::FileError;
pub use log::{HardStateError, Log, LogOptions, Position, SegmentInfo, SnapshotError, TailDamage};
pub use manifest::ManifestUnreadable;
pub use patch::{Mended, PatchError};
pub use range::{RangeAnswer, RangeRequest};
pub use read::ReadError;
pub use recovery::{Cut, Damage, OpenError, Proof, Recovery, Wiped};
pub use slot::SlotError;
pub use snapshot_store::{Origin, SnapshotAt, SnapshotReadError, write_snapshot};
pub use snapshots::GivenSnapshot;
pub use spare::{PreparedSpare, SpareError, SpareJob};
pub use truncate::TruncateError;
