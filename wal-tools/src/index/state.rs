//! Whether the index beside a segment is the one that the segment makes.
//!
//! The same segment makes the same bytes, so there is nothing to interpret: an index is right when it is byte for byte the one that
//! is built from the segment again.

use std::fmt;
use std::path::{Path, PathBuf};

use fluxmq_index::SealedIndex;
use fluxmq_index::sealed::{Binding, SealedError};
use fluxmq_log::format::{FrameKind, SEGMENT_HEADER_BYTES};
use fluxmq_log::segment_indexer::SegmentIndexer;

use crate::scan::{Placed, Scanned, Segment};
use crate::source::{SourceError, SourceFile};

/// How an index is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// As its segment makes it.
    Right,
    /// Not there.
    Missing,
    /// Not one that can be read, or that of another segment.
    Unreadable(String),
    /// Readable and bound to the segment, but it says something else than the segment: whoever wrote it was wrong.
    Different,
}

/// An index and what its segment makes of it.
#[derive(Debug)]
pub struct Judged {
    /// How it is.
    pub state: State,
    /// The right bytes; none for a segment that is damaged.
    pub bytes: Option<Vec<u8>>,
    /// The segment ends with a seal.
    pub is_sealed: bool,
    /// How long the segment is, unused room not counted.
    pub segment_bytes: u64,
}

/// What a segment makes, frame by frame.
#[derive(Debug)]
pub struct Making {
    indexer: Option<SegmentIndexer>,
    is_sealed: bool,
    segment_bytes: u64,
}

impl Making {
    /// Begins with a segment.
    pub fn new(segment: &Segment) -> Making {
        let indexer = Some(SegmentIndexer::new(segment.header));
        Making { indexer, is_sealed: false, segment_bytes: SEGMENT_HEADER_BYTES as u64 }
    }

    /// Takes the next frame.
    pub fn frame(&mut self, placed: &Placed) {
        let header = &placed.frame.header;
        let indexer = self.indexer.as_mut();
        let pushed =
            indexer.map(|indexer| indexer.push(placed.position, header, &placed.frame.body));
        if pushed.is_none_or(|pushed| pushed.is_err()) || placed.defect.is_some() {
            self.indexer = None;
        }
        self.is_sealed = header.kind == FrameKind::Seal;
        self.segment_bytes = placed.position + header.frame_bytes();
    }

    /// There is something that is no frame.
    pub fn damage(&mut self) {
        self.indexer = None;
    }

    /// Compares with what is beside the segment.
    pub fn judge(self, segment: &Path) -> Result<Judged, SourceError> {
        let Making { indexer, is_sealed, segment_bytes } = self;
        let made = indexer.and_then(SegmentIndexer::finish);
        let found = read_index(&index_path(segment))?;
        let state = match (&found, &made) {
            (None, _) => State::Missing,
            (Some(found), Some((_, bytes))) if found == bytes => State::Right,
            (Some(found), made) => compare(found, made.as_ref().map(|(binding, _)| binding)),
        };
        Ok(Judged { state, bytes: made.map(|(_, bytes)| bytes), is_sealed, segment_bytes })
    }
}

/// Reads a segment and what is beside it.
pub fn judge(segment: &Segment) -> Result<Judged, SourceError> {
    let mut making = Making::new(segment);
    for step in segment.scan() {
        match step? {
            Scanned::Frame(placed) => making.frame(&placed),
            Scanned::Damage(_) => making.damage(),
            Scanned::End(_) => {}
        }
    }
    making.judge(segment.path())
}

fn compare(found: &Vec<u8>, wanted: Option<&Binding>) -> State {
    let opened = match wanted {
        Some(wanted) => SealedIndex::open_for(found, wanted),
        None => SealedIndex::open(found),
    };
    match opened.and_then(|index| index.load()) {
        Err(SealedError::Fault(fault)) => State::Unreadable(fault.to_string()),
        Err(SealedError::Source(never)) => match never {},
        // With a damaged segment there is nothing to compare it with.
        Ok(()) => State::Different,
    }
}

/// Returns where the index of a segment is.
pub fn index_path(segment: &Path) -> PathBuf {
    segment.with_extension("six")
}

/// Reads an index file; `None` when there is none.
pub fn read_index(path: &Path) -> Result<Option<Vec<u8>>, SourceError> {
    let Some(file) = SourceFile::open(path)? else { return Ok(None) };
    Ok(Some(file.read_at(0, file.len() as usize)?))
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Right => formatter.write_str("right"),
            State::Missing => formatter.write_str("missing"),
            State::Unreadable(fault) => write!(formatter, "wrong: {fault}"),
            State::Different => formatter.write_str("wrong: it does not say what its segment says"),
        }
    }
}
