//! Files of zeros that wait to become segments.

use std::path::Path;

use fluxmq_log::format::{SEGMENT_HEADER_BYTES, SegmentHeader};

use crate::scan::first_nonzero;
use crate::source::{SourceError, SourceFile};

/// Returns the first byte of a spare that is not zero; `None` also when it is gone.
///
/// A broker that begins a segment writes the header before it moves the file to its place: that is no rot.
pub fn stray(path: &Path) -> Result<Option<u64>, SourceError> {
    let Some(file) = SourceFile::open(path)? else {
        return Ok(None);
    };
    let start = SegmentHeader::decode(&file.read_at(0, SEGMENT_HEADER_BYTES)?);
    let from = if start.is_ok() { SEGMENT_HEADER_BYTES as u64 } else { 0 };
    let Some(stray) = first_nonzero(&file, from)? else {
        return Ok(None);
    };
    // One in use by now has frames in it, and another name.
    Ok(path.exists().then_some(stray))
}
