//! Reads one segment file frame by frame, and goes on behind damage.
//!
//! Judges nothing: whether a bad frame is a torn tail or lost data depends on what else is known of the
//! partition, which is `verify.rs`. Holds one frame in memory, however long the file.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fluxmq_log::format::frame::{FRAME_ALIGNMENT, FRAME_MARKER};
use fluxmq_log::format::{
    FRAME_HEADER_BYTES, Frame, FrameError, FrameHeader, FrameKind, SEGMENT_HEADER_BYTES,
    SealDigests, SegmentHeader, SegmentHeaderError,
};

use crate::source::{SourceError, SourceFile};

/// How much is read at once when looking for the next frame.
const SEARCH_BYTES: usize = 1 << 20;
const ZERO_BLOCK: [u8; 4096] = [0; 4096];

/// A segment file whose header is intact.
#[derive(Debug)]
pub struct Segment {
    file: SourceFile,
    /// Its header.
    pub header: SegmentHeader,
}

/// What opening a segment file found.
#[derive(Debug)]
pub enum Opened {
    /// A segment.
    Segment(Segment),
    /// Nothing: the file was deleted since it was listed.
    Gone,
    /// Its header is bad in this way.
    Bad(SegmentHeaderError),
}

/// One step of a scan.
#[derive(Debug)]
pub enum Scanned {
    /// A frame whose header and body are intact.
    Frame(Placed),
    /// Bytes that should be a frame and are not one.
    Damage(Damage),
    /// No frame starts here or further on. The scan is over.
    End(Tail),
}

/// A frame and where it is.
#[derive(Debug)]
pub struct Placed {
    /// Position of its first byte in the file.
    pub position: u64,
    /// Header and body.
    pub frame: Frame,
    /// What is wrong with the bytes around them: the padding or the replica's own eight.
    pub defect: Option<FrameError>,
    /// For a seal frame, the digests of the blocks before it; none if some of them could not be read as frames.
    pub blocks: Option<Vec<u32>>,
}

/// Longer than a running broker takes to write what it has begun. In unit tests no broker runs.
const WRITE_TAKES: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 20 });

/// Bytes that are no frame.
#[derive(Debug)]
pub struct Damage {
    /// Position of the first.
    pub position: u64,
    /// Position behind the last: the end of the damaged frame, or the start of the next intact one.
    pub end: u64,
    /// What is wrong.
    pub error: FrameError,
    /// The frame's header, if that is intact.
    pub header: Option<FrameHeader>,
}

/// What follows the last frame.
#[derive(Debug)]
pub struct Tail {
    /// Position behind the last frame.
    pub position: u64,
    /// Position of the first byte from there on that is not zero.
    pub stray: Option<u64>,
    /// Why no frame starts there; meaningful if there is a stray byte.
    pub error: FrameError,
}

/// Steps through a segment.
#[derive(Debug)]
pub struct Scan<'a> {
    segment: &'a Segment,
    salt: u32,
    position: u64,
    /// No later frame has a lower one.
    next_index: u64,
    /// None behind bytes that are no frame.
    digests: Option<SealDigests>,
    is_over: bool,
}

impl Segment {
    /// Opens a segment file and reads its header.
    pub fn open(path: &Path) -> Result<Opened, SourceError> {
        let Some(file) = SourceFile::open(path)? else {
            return Ok(Opened::Gone);
        };
        match SegmentHeader::decode(&file.read_at(0, SEGMENT_HEADER_BYTES)?) {
            Ok(header) => Ok(Opened::Segment(Segment { file, header })),
            Err(error) => Ok(Opened::Bad(error)),
        }
    }

    /// Starts at the first frame.
    pub fn scan(&self) -> Scan<'_> {
        let digests = Some(SealDigests::default());
        let position = SEGMENT_HEADER_BYTES as u64;
        let (salt, next_index) = (self.header.salt(), self.header.base_index);
        Scan { segment: self, salt, position, next_index, digests, is_over: false }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Returns the length of the file in bytes, unused room included.
    pub fn file_bytes(&self) -> u64 {
        self.file.len()
    }
}

impl Scan<'_> {
    fn step(&mut self) -> Result<Scanned, SourceError> {
        let head = self.file().read_at(self.position, FRAME_HEADER_BYTES)?;
        match FrameHeader::decode_canonical(&head, self.salt) {
            Ok(header) => self.frame(header),
            Err(error) => self.search(error),
        }
    }

    /// Reads the frame that an intact header announces.
    fn frame(&mut self, header: FrameHeader) -> Result<Scanned, SourceError> {
        let position = self.position;
        let mut bytes = self.file().read_at(position, header.frame_bytes() as usize)?;
        if decode(&bytes, header, self.salt).is_err() {
            // A running broker may be in the middle of writing it.
            std::thread::sleep(WRITE_TAKES);
            bytes = self.file().read_at(position, header.frame_bytes() as usize)?;
        }
        self.position += bytes.len() as u64;
        self.next_index = self.next_index.max(header.index.saturating_add(1));
        let is_seal = header.kind == FrameKind::Seal;
        let blocks = self.digests.as_ref().filter(|_| is_seal).map(SealDigests::blocks);
        self.digest(&bytes, &header);
        Ok(match decode(&bytes, header, self.salt) {
            Ok((frame, defect)) => Scanned::Frame(Placed { position, frame, defect, blocks }),
            Err(error) => {
                let end = position + header.frame_bytes();
                Scanned::Damage(Damage { position, end, error, header: Some(header) })
            }
        })
    }

    /// Looks for the next frame behind bytes that are none.
    fn search(&mut self, error: FrameError) -> Result<Scanned, SourceError> {
        let position = self.position;
        let next = self.next_header(position)?;
        // What lies behind was written after: if it is there, a running broker has written here since we looked.
        let head = self.file().read_at(position, FRAME_HEADER_BYTES)?;
        if let Ok(header) = FrameHeader::decode_canonical(&head, self.salt) {
            return self.frame(header);
        }
        match next {
            Some(end) => {
                self.pass_to(end);
                Ok(Scanned::Damage(Damage { position, end, error, header: None }))
            }
            None if is_unsupported(&error) => {
                let end = self.file().len();
                self.pass_to(end);
                Ok(Scanned::Damage(Damage { position, end, error, header: None }))
            }
            None => {
                self.is_over = true;
                let stray = first_nonzero(self.file(), position)?;
                Ok(Scanned::End(Tail { position, stray, error }))
            }
        }
    }

    /// Returns the position of the first intact header behind `from`.
    fn next_header(&self, from: u64) -> Result<Option<u64>, SourceError> {
        let mut at = from + FRAME_ALIGNMENT as u64;
        loop {
            let bytes = self.file().read_at(at, SEARCH_BYTES)?;
            let words = bytes.chunks_exact(FRAME_ALIGNMENT).enumerate();
            let marked = words.filter(|(_, word)| word[..4] == FRAME_MARKER.to_le_bytes());
            for (word, _) in marked {
                let candidate = at + (word * FRAME_ALIGNMENT) as u64;
                let head = self.file().read_at(candidate, FRAME_HEADER_BYTES)?;
                // A payload may be a copy of an earlier frame; it is never one that is still to come.
                let found = FrameHeader::decode_canonical(&head, self.salt);
                if found.is_ok_and(|header| header.index >= self.next_index) {
                    return Ok(Some(candidate));
                }
            }
            if bytes.len() < SEARCH_BYTES {
                return Ok(None);
            }
            at += SEARCH_BYTES as u64;
        }
    }

    /// Adds a frame, damaged or not, to the digests.
    fn digest(&mut self, bytes: &[u8], header: &FrameHeader) {
        let body = bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + header.body_len as usize);
        match (bytes.first_chunk(), body, &mut self.digests) {
            (Some(head), Some(body), Some(digests)) => digests.push(head, body),
            _ => self.digests = None,
        }
    }

    fn pass_to(&mut self, end: u64) {
        self.position = end;
        self.digests = None;
    }

    fn file(&self) -> &SourceFile {
        &self.segment.file
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Scanned, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let step = self.step();
        self.is_over |= step.is_err();
        Some(step)
    }
}

/// Reads header and body; a defect around them does not make the frame unreadable.
fn decode(
    bytes: &[u8],
    header: FrameHeader,
    salt: u32,
) -> Result<(Frame, Option<FrameError>), FrameError> {
    let body_end = FRAME_HEADER_BYTES + header.body_len as usize;
    let padded = header.frame_bytes() as usize;
    if bytes.len() < padded {
        return Err(FrameError::Short { found: bytes.len(), expected: padded });
    }
    let body = &bytes[FRAME_HEADER_BYTES..body_end];
    header.check_body(body)?;
    let body = Bytes::copy_from_slice(body);
    if bytes[body_end..].iter().any(|&byte| byte != 0) {
        let defect = FrameError::Padding { index: header.index };
        return Ok((Frame { header, body }, Some(defect)));
    }
    match FrameHeader::decode(bytes, salt) {
        Ok(header) => Ok((Frame { header, body }, None)),
        Err(defect) => Ok((Frame { header, body }, Some(defect))),
    }
}

/// Tells whether a header is intact although it could not be used: a release that knows more wrote it.
pub fn is_unsupported(error: &FrameError) -> bool {
    match error {
        FrameError::Version { .. }
        | FrameError::Kind { .. }
        | FrameError::Compressed { .. }
        | FrameError::BodyTooLong { .. } => true,
        FrameError::Short { .. }
        | FrameError::Marker { .. }
        | FrameError::HeaderCrc { .. }
        | FrameError::BodyCrc { .. }
        | FrameError::Padding { .. }
        | FrameError::LocalCheck { .. } => false,
    }
}

/// Returns the position of the first byte from `from` on that is not zero.
pub fn first_nonzero(file: &SourceFile, from: u64) -> Result<Option<u64>, SourceError> {
    let mut at = from;
    loop {
        let bytes = file.read_at(at, SEARCH_BYTES)?;
        // Compared at once, zeros cost next to nothing.
        let blocks = bytes.chunks(ZERO_BLOCK.len()).enumerate();
        for (number, block) in blocks.filter(|(_, block)| **block != ZERO_BLOCK[..block.len()]) {
            if let Some(offset) = block.iter().position(|&byte| byte != 0) {
                return Ok(Some(at + (number * ZERO_BLOCK.len() + offset) as u64));
            }
        }
        if bytes.len() < SEARCH_BYTES {
            return Ok(None);
        }
        at += SEARCH_BYTES as u64;
    }
}
