//! Walking over the frames of a segment file, believing nothing.
//!
//! Reads in pieces of megabytes. Used by recovery, by cold reads and by tools; decides nothing: what a fault means is
//! [`recovery`](crate::recovery)'s business.

use std::io;

use fluxmq_index::Offset;

use crate::disk::DiskFile;
use crate::format::frame::FRAME_MARKER;
use crate::format::varint::u32_at;
use crate::format::{
    FRAME_HEADER_BYTES, FrameError, FrameHeader, SEGMENT_HEADER_BYTES, SegmentHeader,
};

const WINDOW_BYTES: u64 = 4 << 20;
const ZERO_BLOCK: [u8; 4096] = [0; 4096];

/// A file seen through a buffer that moves over it.
pub struct Window<'a, F: DiskFile> {
    file: &'a F,
    file_bytes: u64,
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
    step: u64,
}

impl<'a, F: DiskFile> Window<'a, F> {
    /// Starts at the beginning of `file`.
    pub fn new(file: &'a F) -> io::Result<Self> {
        Window::with_step(file, WINDOW_BYTES)
    }

    /// Reads at least `step` bytes at once.
    pub fn with_step(file: &'a F, step: u64) -> io::Result<Self> {
        let file_bytes = file.len()?;
        Ok(Window { file, file_bytes, buffer: Vec::new(), start: 0, filled: 0, step })
    }

    /// Returns the length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Returns `count` bytes from `position`, fewer at the end of the file.
    pub fn get(&mut self, position: u64, count: usize) -> io::Result<&[u8]> {
        let end = position.saturating_add(count as u64).min(self.file_bytes);
        if end <= position {
            return Ok(&[]);
        }
        let is_inside = position >= self.start && end <= self.start + self.filled as u64;
        if !is_inside {
            let wanted = (end - position).max(self.step.min(self.file_bytes - position)) as usize;
            if self.buffer.len() < wanted {
                self.buffer = vec![0; wanted];
            }
            self.filled = 0;
            self.file.read_exact_at(&mut self.buffer[..wanted], position)?;
            (self.start, self.filled) = (position, wanted);
        }
        let from = (position - self.start) as usize;
        Ok(&self.buffer[from..from + (end - position) as usize])
    }
}

/// What the next frame must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its index.
    pub index: u64,
    /// Its base offset.
    pub base_offset: Offset,
    /// The checksum of the header before it.
    pub chain: u32,
    /// The term of the entry before it.
    pub term: u64,
}

impl Expected {
    /// Returns what the first frame of a segment must be.
    pub fn first_of(header: &SegmentHeader) -> Self {
        Expected {
            index: header.base_index,
            base_offset: header.base_offset,
            chain: header.prev_chain,
            term: header.prev_term,
        }
    }

    /// Returns what the frame after `header` must be.
    pub fn after(header: &FrameHeader) -> Self {
        Expected {
            index: header.index + 1,
            base_offset: header.end_offset(),
            chain: header.crc,
            term: header.term,
        }
    }

    /// Checks that an intact frame is the expected one.
    pub fn check(&self, header: &FrameHeader) -> Result<(), FrameFault> {
        if header.index != self.index {
            return Err(FrameFault::Index { expected: self.index, found: header.index });
        }
        if header.base_offset != self.base_offset {
            let (expected, found) = (self.base_offset, header.base_offset);
            return Err(FrameFault::Offset { expected, found });
        }
        if header.prev_chain != self.chain {
            return Err(FrameFault::Chain { expected: self.chain, found: header.prev_chain });
        }
        if header.term < self.term {
            return Err(FrameFault::Term { previous: self.term, found: header.term });
        }
        Ok(())
    }
}

/// Why there is no next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// The bytes are not a frame of this segment.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// An intact frame with another index.
    #[error("index {found} instead of {expected}")]
    Index {
        /// The one after the previous.
        expected: u64,
        /// The one in the header.
        found: u64,
    },
    /// An intact frame with another base offset.
    #[error("offset {found} instead of {expected}")]
    Offset {
        /// The one after the previous frame's last.
        expected: Offset,
        /// The one in the header.
        found: Offset,
    },
    /// An intact frame that followed another one when it was written.
    #[error("chain link {found:#010x} instead of {expected:#010x}")]
    Chain {
        /// The previous header's checksum.
        expected: u32,
        /// The one in the header.
        found: u32,
    },
    /// An intact frame of an older term than the one before it.
    #[error("term {found} after {previous}")]
    Term {
        /// The previous frame's.
        previous: u64,
        /// The one in the header.
        found: u64,
    },
    /// There is nothing but zeros, or the end of the file, where evidence says that a frame was.
    #[error("no frame where one was written")]
    Nothing,
}

/// Where a scan stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// After the last good frame.
    pub position: u64,
    /// What a frame there would have to be.
    pub expected: Expected,
    /// Why there is none.
    pub fault: FrameFault,
    /// The header there, when it is intact although the frame is not good.
    pub identity: Option<FrameHeader>,
}

/// Visits the good frames from `position` on, up to the first that is not.
pub fn scan_frames<F: DiskFile>(
    window: &mut Window<'_, F>,
    salt: u32,
    mut position: u64,
    mut expected: Expected,
    mut visit: impl FnMut(u64, &FrameHeader, &[u8; FRAME_HEADER_BYTES], &[u8]),
) -> io::Result<Stopped> {
    loop {
        let checked = check_frame(window, salt, position, &expected)?;
        let (fault, identity) = match checked {
            Ok(header) => {
                let frame = window.get(position, header.frame_bytes() as usize)?;
                let (encoded, rest) =
                    frame.split_first_chunk().expect("a checked frame has a whole header");
                visit(position, &header, encoded, &rest[..header.body_len as usize]);
                position += header.frame_bytes();
                expected = Expected::after(&header);
                continue;
            }
            Err(bad) => bad,
        };
        return Ok(Stopped { position, expected, fault, identity });
    }
}

type BadFrame = (FrameFault, Option<FrameHeader>);

/// Checks header, place, body and padding of the frame at `position`.
pub fn check_frame<F: DiskFile>(
    window: &mut Window<'_, F>,
    salt: u32,
    position: u64,
    expected: &Expected,
) -> io::Result<Result<FrameHeader, BadFrame>> {
    let bytes = window.get(position, FRAME_HEADER_BYTES)?;
    let header = match FrameHeader::decode(bytes, salt) {
        Ok(header) => header,
        Err(error) => {
            let identity = FrameHeader::decode_canonical(bytes, salt).ok();
            return Ok(Err((error.into(), identity)));
        }
    };
    if let Err(fault) = expected.check(&header) {
        return Ok(Err((fault, None)));
    }
    let bytes = window.get(position, header.frame_bytes() as usize)?;
    if (bytes.len() as u64) < header.frame_bytes() {
        let (found, expected) = (bytes.len(), header.frame_bytes() as usize);
        return Ok(Err((FrameError::Short { found, expected }.into(), Some(header))));
    }
    let (body, padding) = bytes[FRAME_HEADER_BYTES..].split_at(header.body_len as usize);
    if let Err(error) = header.check_body(body) {
        return Ok(Err((error.into(), Some(header))));
    }
    if padding.iter().any(|byte| *byte != 0) {
        let error = FrameError::Padding { index: header.index };
        return Ok(Err((error.into(), Some(header))));
    }
    Ok(Ok(header))
}

/// What lies behind the last good frame of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// After the last byte that is not zero; `None` when all are.
    pub dirty_end: Option<u64>,
    /// Intact headers of later frames.
    pub later_frames: u64,
    /// The largest index they carry.
    pub last_index: u64,
    /// The first of them.
    pub next: Option<(u64, u64, Offset)>,
    /// The largest synced position they carry.
    pub synced_bytes: u64,
}

/// Looks at everything from `position` to the end of the file, for frames that went on after the last good one.
pub fn survey_rest<F: DiskFile>(
    window: &mut Window<'_, F>,
    salt: u32,
    mut position: u64,
    expected: &Expected,
) -> io::Result<Rest> {
    let mut rest = Rest::default();
    while position < window.file_bytes() {
        let piece = window.get(position, 1 << 20)?;
        let Some((dirty, marker)) = look_through(piece) else {
            position += piece.len() as u64;
            continue;
        };
        rest.dirty_end = rest.dirty_end.max(dirty.map(|end| position + end));
        let Some(marker) = marker else {
            position += piece.len() as u64;
            continue;
        };
        position += marker;
        let header = FrameHeader::decode(window.get(position, FRAME_HEADER_BYTES)?, salt);
        match header {
            Ok(header) if header.index >= expected.index && header.synced_bytes <= position => {
                if header.index > expected.index {
                    rest.next.get_or_insert((position, header.index, header.base_offset));
                }
                rest.later_frames += 1;
                rest.last_index = rest.last_index.max(header.index);
                rest.synced_bytes = rest.synced_bytes.max(header.synced_bytes);
                let end = (position + header.frame_bytes()).min(window.file_bytes());
                rest.dirty_end = rest.dirty_end.max(Some(end));
                position = end;
            }
            _ => {
                rest.dirty_end = rest.dirty_end.max(Some(position + 4));
                position += 8;
            }
        }
    }
    Ok(rest)
}

/// Returns the end of what is not zero before the first possible marker, and that marker; `None` when all is zero.
pub(crate) fn look_through(piece: &[u8]) -> Option<(Option<u64>, Option<u64>)> {
    let mut dirty = None;
    for (block_no, block) in piece.chunks(ZERO_BLOCK.len()).enumerate() {
        // Nearly all of a file is zeros: compared at once, they cost next to nothing.
        if *block == ZERO_BLOCK[..block.len()] {
            continue;
        }
        for (word_no, word) in block.chunks(8).enumerate() {
            let at = (block_no * ZERO_BLOCK.len() + word_no * 8) as u64;
            if *word == ZERO_BLOCK[..word.len()] {
                continue;
            }
            if word.len() == 8 && u32_at(word, 0) == FRAME_MARKER {
                return Some((dirty, Some(at)));
            }
            dirty = Some(at + word.len() as u64);
        }
    }
    dirty.map(|end| (Some(end), None))
}

/// Reads and checks the header of a segment file.
pub fn read_segment_header<F: DiskFile>(
    file: &F,
) -> io::Result<Result<SegmentHeader, crate::format::SegmentHeaderError>> {
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    let len = file.len()?.min(SEGMENT_HEADER_BYTES as u64) as usize;
    file.read_exact_at(&mut bytes[..len], 0)?;
    Ok(SegmentHeader::decode(&bytes[..len]))
}
