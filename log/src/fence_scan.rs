//! Finding all damage of a segment, where recovery stops at the first: between two good frames, or behind the last.

use std::io;

use fluxmq_index::Offset;

use crate::disk::DiskFile;
use crate::format::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, SEGMENT_HEADER_BYTES};
use crate::scan::{Expected, FrameFault, Window, check_frame, look_through};

/// The entry that a segment must end before, and the checksum that it links to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u64,
    pub(crate) chain: u32,
    pub(crate) offset: Offset,
}

/// Bytes between good frames that are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// What a frame at its beginning must be.
    pub(crate) left: Expected,
    /// The good frame behind it.
    pub(crate) right: Link,
    pub(crate) fault: FrameFault,
}

/// What was found in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentScan {
    pub(crate) gaps: Vec<Gap>,
    /// Behind the last good frame.
    pub(crate) position: u64,
    /// What a frame there must be.
    pub(crate) expected: Expected,
    /// Why there is none; `None` when the segment ends there as it must.
    pub(crate) fault: Option<FrameFault>,
    /// The largest synced position that a good frame carries.
    pub(crate) synced_bytes: u64,
    pub(crate) frames: u64,
}

/// Reads a whole segment. It ends before `end` when that is known, else with a seal when it `is_closed`, and in any case before
/// the byte `limit`.
pub(crate) fn scan_segment<F: DiskFile>(
    window: &mut Window<'_, F>,
    salt: u32,
    first: Expected,
    (end, is_closed): (Option<Link>, bool),
    limit: u64,
) -> io::Result<SegmentScan> {
    let mut scan = SegmentScan {
        gaps: Vec::new(),
        position: SEGMENT_HEADER_BYTES as u64,
        expected: first,
        fault: None,
        synced_bytes: 0,
        frames: 0,
    };
    let mut is_sealed = false;
    loop {
        let is_end = match end {
            Some(end) => (end.index, end.chain) == (scan.expected.index, scan.expected.chain),
            None => is_closed && is_sealed,
        };
        if is_end {
            return Ok(scan);
        }
        let at = scan.position;
        let checked = match at < limit {
            true => check_frame(window, salt, at, &scan.expected)?,
            false => Err((FrameFault::Nothing, None)),
        };
        let fault = match checked {
            Ok(header) => {
                is_sealed = header.kind == FrameKind::Seal;
                scan.position += header.frame_bytes();
                scan.expected = Expected::after(&header);
                scan.synced_bytes = scan.synced_bytes.max(header.synced_bytes);
                scan.frames += 1;
                continue;
            }
            Err((fault, _)) => fault,
        };
        let Some((to, header)) = next_good(window, salt, at, &scan.expected, limit)? else {
            scan.fault = Some(fault);
            return Ok(scan);
        };
        let right =
            Link { index: header.index, chain: header.prev_chain, offset: header.base_offset };
        scan.gaps.push(Gap { from: at, to, left: scan.expected, right, fault });
        scan.position = to;
        scan.expected = Expected {
            index: header.index,
            base_offset: header.base_offset,
            chain: header.prev_chain,
            term: 0,
        };
    }
}

/// Looks behind `from` for a frame that is good in itself and can follow the expected one.
fn next_good<F: DiskFile>(
    window: &mut Window<'_, F>,
    salt: u32,
    from: u64,
    expected: &Expected,
    limit: u64,
) -> io::Result<Option<(u64, FrameHeader)>> {
    let end = window.file_bytes().min(limit);
    let mut at = from + 8;
    while at < end {
        let piece = window.get(at, 1 << 20)?;
        let Some((_, Some(marker))) = look_through(piece) else {
            at += piece.len() as u64;
            continue;
        };
        at += marker;
        if at >= end {
            break;
        }
        let header = FrameHeader::decode(window.get(at, FRAME_HEADER_BYTES)?, salt);
        if let Ok(header) = header
            && header.index > expected.index
            && header.base_offset >= expected.base_offset
        {
            let alone = Expected {
                index: header.index,
                base_offset: header.base_offset,
                chain: header.prev_chain,
                term: 0,
            };
            if check_frame(window, salt, at, &alone)?.is_ok() {
                return Ok(Some((at, header)));
            }
        }
        at += 8;
    }
    Ok(None)
}
