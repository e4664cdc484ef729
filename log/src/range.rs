//! Giving away parts of segments, to replicas that have lost theirs: the bytes are the same on all of them (ADR 0035).
//!
//! Every frame is checked before it is given away, and again by whoever gets it: what it is worth is decided there.

use std::io;
use std::path::Path;

use crate::disk::{Disk, DiskFile};
use crate::format::frame::LOCAL_AT;
use crate::format::{FRAME_HEADER_BYTES, FrameHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::layout::{AtPath, FileError, segment_path};
use crate::log::Log;
use crate::planted::{PlantedBug, is_planted};
use crate::read::ReadError;
use crate::scan::{Window, read_segment_header};

/// What is asked for: frames of one segment, from one place on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeRequest {
    /// The segment.
    pub segment_no: u64,
    /// Where the first frame begins in the file; 0 asks for the segment's header first.
    pub from_bytes: u64,
    /// So many bytes of that frame are there already.
    pub skip: u64,
    /// Frames that begin here or later are not wanted.
    pub to_bytes: u64,
    /// The first frame's index.
    pub index: u64,
    /// The header checksum that it links to; means nothing when the header is asked for.
    pub chain: u32,
}

/// What a replica has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeAnswer {
    /// Whole frames, or a part of one, with zeros where a replica keeps what is its own.
    Bytes(Vec<u8>),
    /// It is damaged here, too, or this replica cannot tell.
    Damaged,
    /// It is there and not durable yet.
    Unflushed,
    /// The log ends before.
    Absent,
    /// The log begins after, with this entry: what is before it is over.
    Trimmed {
        /// Its first index.
        begins: u64,
    },
    /// There is another entry, or it is elsewhere.
    Diverged,
}

impl<D: Disk> Log<D> {
    /// Returns what is durable here of the frames that were asked for, at most `bytes_max` of it.
    pub fn range(
        &self,
        request: &RangeRequest,
        bytes_max: usize,
    ) -> Result<RangeAnswer, FileError> {
        let RangeRequest { segment_no, from_bytes, index, .. } = *request;
        if index <= self.base().index {
            return Ok(RangeAnswer::Trimmed { begins: self.first_index() });
        }
        if index > self.last_index() {
            return Ok(RangeAnswer::Absent);
        }
        if index > self.durable.index {
            return Ok(RangeAnswer::Unflushed);
        }
        let at = self.segments.partition_point(|segment| segment.last.index < index);
        let segment = &self.segments[at];
        if segment.segment_no() != segment_no {
            return Ok(RangeAnswer::Diverged);
        }
        let path = segment_path(&self.dir, segment_no);
        let file = match self.disk.open_read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(RangeAnswer::Damaged);
            }
            Err(error) => return Err(error).at(&path),
        };
        let found = read_range(&file, segment.salt, request, bytes_max).at(&path)?;
        if let Some(bytes) = found {
            return Ok(RangeAnswer::Bytes(bytes));
        }
        if from_bytes == 0 {
            let is_same = segment.header.base_index == index;
            return Ok(if is_same { RangeAnswer::Damaged } else { RangeAnswer::Diverged });
        }
        // Not there as asked: because it is damaged, or because the entry before it is another one.
        match self.locate(index) {
            Ok((position, header))
                if (position, header.prev_chain) == (from_bytes, request.chain) =>
            {
                Ok(RangeAnswer::Damaged)
            }
            Ok(_) => Ok(RangeAnswer::Diverged),
            Err(ReadError::File(error)) => Err(error),
            Err(_) => Ok(RangeAnswer::Damaged),
        }
    }
}

/// Returns what a replica's directory holds of the frames that were asked for, whether or not its log could be opened: for repair while
/// nobody runs. Damage there and another history look the same.
pub fn range_in_dir<D: Disk>(
    disk: &D,
    dir: &Path,
    request: &RangeRequest,
    bytes_max: usize,
) -> Result<RangeAnswer, FileError> {
    let path = segment_path(dir, request.segment_no);
    let file = match disk.open_read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(RangeAnswer::Absent),
        Err(error) => return Err(error).at(&path),
    };
    let Ok(header) = read_segment_header(&file).at(&path)? else { return Ok(RangeAnswer::Damaged) };
    let found = read_range(&file, header.salt(), request, bytes_max).at(&path)?;
    Ok(found.map_or(RangeAnswer::Damaged, RangeAnswer::Bytes))
}

/// Reads good frames from where the request says, as long as they link; `None` when not even the first is there.
pub(crate) fn read_range<F: DiskFile>(
    file: &F,
    salt: u32,
    request: &RangeRequest,
    bytes_max: usize,
) -> io::Result<Option<Vec<u8>>> {
    let RangeRequest { mut index, mut chain, from_bytes: mut at, .. } = *request;
    let mut out = Vec::new();
    if at == 0 {
        let Some(header) = read_header(file, request)? else { return Ok(None) };
        out = header.encode();
        (index, chain, at) = (header.base_index, header.prev_chain, SEGMENT_HEADER_BYTES as u64);
    }
    let mut window = Window::with_step(file, bytes_max as u64)?;
    while at < request.to_bytes {
        let bytes = window.get(at, FRAME_HEADER_BYTES)?;
        let Ok(header) = FrameHeader::decode_canonical(bytes, salt) else { break };
        let bytes = window.get(at, header.frame_bytes() as usize)?;
        let is_next = (header.index, header.prev_chain) == (index, chain);
        let is_given = is_good(&header, bytes) || is_planted(PlantedBug::RepairUnverified);
        if !is_next || !is_given {
            break;
        }
        let from = match out.is_empty() {
            true => request.skip.min(header.frame_bytes()) as usize,
            false => 0,
        };
        let is_partial = bytes.len() - from > bytes_max;
        if out.len() + bytes.len() - from > bytes_max && !(out.is_empty() && is_partial) {
            break;
        }
        let to = bytes.len().min(from + bytes_max);
        out.extend_from_slice(&bytes[from..to]);
        if from == 0 {
            let local = out.len() - to + LOCAL_AT;
            out[local..local + FRAME_HEADER_BYTES - LOCAL_AT].fill(0);
        }
        if to < bytes.len() {
            break;
        }
        (index, chain, at) = (index + 1, header.crc, at + header.frame_bytes());
    }
    Ok(Some(out).filter(|out| !out.is_empty()))
}

fn read_header<F: DiskFile>(file: &F, request: &RangeRequest) -> io::Result<Option<SegmentHeader>> {
    let header = read_segment_header(file)?.ok();
    Ok(header.filter(|header| {
        (header.segment_no, header.base_index) == (request.segment_no, request.index)
    }))
}

/// Returns true when `bytes` are all of the frame that `header` begins.
pub(crate) fn is_good(header: &FrameHeader, bytes: &[u8]) -> bool {
    if (bytes.len() as u64) < header.frame_bytes() {
        return false;
    }
    let (body, padding) = bytes[FRAME_HEADER_BYTES..].split_at(header.body_len as usize);
    let is_zero = padding[..header.frame_bytes() as usize - FRAME_HEADER_BYTES - body.len()]
        .iter()
        .all(|byte| *byte == 0);
    is_zero && header.check_body(body).is_ok()
}
