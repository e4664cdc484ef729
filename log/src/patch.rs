//! Putting back what a hole lost: collected in memory, believed when it joins both ends, and only then written.
//!
//! Frames are taken one after another, each by its own checksums and by its link to the one before. When the hole ends, what is
//! behind it must link to the last of them: so the bytes can only be those that were there, whoever sent them. A segment that ends
//! with a seal and has no other hole is compared with the seal's digests, too. The local area of every frame is written as one that
//! claims nothing. A crash in the middle of writing leaves damage that is found like any other.

use std::io;

use crate::disk::{Disk, DiskFile};
use crate::fence::{Fenced, Hole, Until};
use crate::format::{
    FRAME_HEADER_BYTES, FrameHeader, FrameKind, SEGMENT_HEADER_BYTES, Seal, SegmentHeader,
};
use crate::layout::{AtPath, FileError, create_durably, segment_path};
use crate::planted::{PlantedBug, is_planted};
use crate::range::{RangeRequest, is_good};
use crate::recovery::OpenError;
use crate::recovery_segments::is_ours;
use crate::scan::{Expected, Window, scan_frames};
use crate::segment::Tally;

/// What is collected of one hole.
pub(crate) struct Patch {
    segment_no: u64,
    from_bytes: u64,
    salt: u32,
    header: Option<SegmentHeader>,
    /// What will be written.
    bytes: Vec<u8>,
    frames: u64,
    /// The beginning of the next frame, or of the header.
    partial: Vec<u8>,
    expected: Expected,
    last: Option<FrameHeader>,
}

/// What was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// One frame.
    Frame,
    /// Several, or a segment's header.
    Block,
    /// A whole file.
    Segment,
}

/// Why bytes were not taken. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// They were not asked for.
    #[error("bytes of segment {segment_no} from {from_bytes} are not wanted")]
    Unwanted {
        /// The segment.
        segment_no: u64,
        /// Where they begin.
        from_bytes: u64,
    },
    /// They are not the frame that must be there.
    #[error("bytes at {position} of segment {segment_no} are not its frame {index}")]
    Corrupt {
        /// The segment.
        segment_no: u64,
        /// Where.
        position: u64,
        /// Which entry should be there.
        index: u64,
    },
    /// All are good, and what is intact behind them follows something else: they are of another history. All of them are dropped.
    #[error("frames up to {position} of segment {segment_no} do not join what is behind them")]
    Disjoint {
        /// The segment.
        segment_no: u64,
        /// Where they end.
        position: u64,
    },
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// What was written cannot be read back.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Patch {
    fn begin<D: Disk>(fenced: &Fenced<D>, hole: &Hole) -> Patch {
        let segment_no = hole.damage.segment_no;
        Patch {
            segment_no,
            from_bytes: hole.damage.from_bytes,
            salt: fenced.lost_header(segment_no, &hole.left).salt(),
            header: None,
            bytes: Vec::new(),
            frames: 0,
            partial: Vec::new(),
            expected: hole.left,
            last: None,
        }
    }

    fn is_of(&self, hole: &Hole) -> bool {
        (self.segment_no, self.from_bytes) == (hole.damage.segment_no, hole.damage.from_bytes)
    }

    fn position(&self) -> u64 {
        self.from_bytes + self.bytes.len() as u64
    }

    fn corrupt(&self) -> PatchError {
        let (segment_no, position) = (self.segment_no, self.position());
        PatchError::Corrupt { segment_no, position, index: self.expected.index }
    }
}

impl<D: Disk> Fenced<D> {
    /// What to ask for next to fill a hole. Asking for another hole drops what was collected.
    pub fn ask(&mut self, hole: &Hole) -> RangeRequest {
        if self.patch.as_ref().is_none_or(|patch| !patch.is_of(hole)) {
            let mut patch = Patch::begin(self, hole);
            let span = self.spans.iter().find(|span| span.segment_no == patch.segment_no);
            if let Some(salt) = span.and_then(|span| span.salt) {
                patch.salt = salt;
            }
            self.patch = Some(patch);
        }
        let patch = self.patch.as_ref().expect("it was just begun");
        RangeRequest {
            segment_no: patch.segment_no,
            from_bytes: patch.position(),
            skip: patch.partial.len() as u64,
            to_bytes: hole.damage.to_bytes.unwrap_or(u64::MAX),
            index: patch.expected.index,
            chain: patch.expected.chain,
        }
    }

    /// Drops what was collected: the next question is about the beginning of its hole.
    pub fn forget_collected(&mut self) {
        self.patch = None;
    }

    /// Takes an answer to [`Fenced::ask`]. Returns what was put back when the hole is filled, durably.
    pub fn take(
        &mut self,
        hole: &Hole,
        request: &RangeRequest,
        bytes: &[u8],
    ) -> Result<Option<Mended>, PatchError> {
        if self.ask(hole) != *request {
            let RangeRequest { segment_no, from_bytes, .. } = *request;
            return Err(PatchError::Unwanted { segment_no, from_bytes });
        }
        let mut patch = self.patch.take().expect("it is being asked for");
        patch.partial.extend_from_slice(bytes);
        let taken = self.take_items(&mut patch, hole);
        if let Err(error) = taken {
            if matches!(error, PatchError::Corrupt { .. }) {
                patch.partial.clear();
                self.patch = Some(patch);
            }
            return Err(error);
        }
        if !is_filled(&patch, hole) {
            self.patch = Some(patch);
            return Ok(None);
        }
        self.write(&patch, hole)?;
        let is_missing =
            self.spans.iter().any(|span| span.segment_no == patch.segment_no && span.is_missing);
        self.reread(patch.segment_no)?;
        Ok(Some(match (is_missing, patch.header, patch.frames) {
            (true, _, _) => Mended::Segment,
            (false, None, 1) => Mended::Frame,
            (false, _, _) => Mended::Block,
        }))
    }

    fn take_items(&self, patch: &mut Patch, hole: &Hole) -> Result<(), PatchError> {
        let is_blind = is_planted(PlantedBug::RepairUnverified);
        while !is_filled(patch, hole) {
            if patch.position() == 0 {
                let Some(bytes) = patch.partial.get(..SEGMENT_HEADER_BYTES) else { return Ok(()) };
                let header = SegmentHeader::decode(bytes).map_err(|_| patch.corrupt())?;
                if !self.is_header_of(&header, hole) {
                    return Err(patch.corrupt());
                }
                patch.expected.chain = header.prev_chain;
                patch.bytes.extend_from_slice(bytes);
                patch.salt = header.salt();
                patch.header = Some(header);
                patch.partial.drain(..SEGMENT_HEADER_BYTES);
                check_end(patch, hole)?;
                continue;
            }
            if patch.partial.len() < FRAME_HEADER_BYTES {
                return Ok(());
            }
            let Ok(header) = FrameHeader::decode_canonical(&patch.partial, patch.salt) else {
                return Err(patch.corrupt());
            };
            let len = header.frame_bytes() as usize;
            let room = hole.damage.to_bytes.map_or(u64::MAX, |to| to - patch.position());
            let is_next =
                patch.expected.check(&header).is_ok() || is_planted(PlantedBug::RepairUnchained);
            if !is_next || header.frame_bytes() > room {
                return Err(patch.corrupt());
            }
            let Some(frame) = patch.partial.get(..len) else { return Ok(()) };
            if !is_good(&header, frame) && !is_blind {
                return Err(patch.corrupt());
            }
            patch.bytes.extend_from_slice(&header.encode(patch.salt));
            patch.bytes.extend_from_slice(&patch.partial[FRAME_HEADER_BYTES..len]);
            patch.partial.drain(..len);
            patch.expected = Expected::after(&header);
            patch.last = Some(header);
            patch.frames += 1;
            check_end(patch, hole)?;
        }
        Ok(())
    }

    fn is_header_of(&self, header: &SegmentHeader, hole: &Hole) -> bool {
        let mut first = Expected::first_of(header);
        if header.segment_no == self.spans[0].segment_no && hole.left.chain == 0 {
            // Where a log begins that was trimmed, nothing says what the first frame links to.
            first.chain = 0;
        }
        is_ours(self.options(), header)
            && header.segment_no == hole.damage.segment_no
            && first == hole.left
    }

    fn write(&self, patch: &Patch, hole: &Hole) -> Result<(), PatchError> {
        let path = segment_path(&self.dir, patch.segment_no);
        let span = self.spans.iter().find(|span| span.segment_no == patch.segment_no);
        let span = span.expect("holes are of segments");
        if span.is_missing {
            create_durably(&self.disk, &path, &patch.bytes)?;
            return Ok(());
        }
        let file = self.disk.open(&path).at(&path)?;
        if span.holes.len() == 1 && !is_planted(PlantedBug::RepairUnverified) {
            let header = patch.header.or(span.header);
            let agrees = header.map(|header| agrees(&file, &header, patch)).transpose();
            if agrees.at(&path)? == Some(false) {
                let (segment_no, position) = (patch.segment_no, patch.position());
                return Err(PatchError::Disjoint { segment_no, position });
            }
        }
        debug_assert!(hole.damage.to_bytes.is_none_or(|to| to == patch.position()));
        file.write_all_at(&patch.bytes, patch.from_bytes).at(&path)?;
        file.sync_data().at(&path)?;
        Ok(())
    }
}

/// Refuses what reaches the end of a hole and does not join what is there.
fn check_end(patch: &Patch, hole: &Hole) -> Result<(), PatchError> {
    let is_over = hole.damage.to_bytes == Some(patch.position())
        || match hole.until {
            Until::Link(_) if is_planted(PlantedBug::RepairUnchained) => false,
            Until::Link(link) => link.index <= patch.expected.index && patch.last.is_some(),
            Until::Entry(at) => at.index < patch.expected.index,
            Until::Seal => false,
        };
    if is_over && !is_filled(patch, hole) {
        let (segment_no, position) = (patch.segment_no, patch.position());
        return Err(PatchError::Disjoint { segment_no, position });
    }
    Ok(())
}

/// Returns true when what was collected ends where the hole does, with what is behind it.
fn is_filled(patch: &Patch, hole: &Hole) -> bool {
    if patch.bytes.is_empty() {
        return false;
    }
    let expected = &patch.expected;
    let is_there = hole.damage.to_bytes.is_none_or(|to| to == patch.position());
    if is_there && is_planted(PlantedBug::RepairUnchained) && hole.damage.to_bytes.is_some() {
        return true;
    }
    is_there
        && match hole.until {
            Until::Link(link) => (link.index, link.chain) == (expected.index, expected.chain),
            Until::Entry(at) => patch.last.is_some_and(|last| {
                (last.index, last.term, last.end_offset()) == (at.index, at.term, at.end)
            }),
            Until::Seal => patch.last.is_some_and(|last| last.kind == FrameKind::Seal),
        }
}

/// Returns whether a segment with the patch in it is what its seal says; true when it has none.
fn agrees<F: DiskFile>(file: &F, header: &SegmentHeader, patch: &Patch) -> io::Result<bool> {
    let patched = Patched { file: file.clone(), at: patch.from_bytes, bytes: &patch.bytes };
    let mut tally = Tally::new(header.base_index);
    let (mut is_right, mut first_ts) = (true, None);
    let start = SEGMENT_HEADER_BYTES as u64;
    let mut position = start;
    let mut visit = |head: &FrameHeader, raw: &[u8; FRAME_HEADER_BYTES], body: &[u8]| {
        first_ts.get_or_insert(head.base_ts);
        if head.kind == FrameKind::Seal
            && let Ok(seal) = Seal::decode(body)
            && seal.first_index == header.base_index
        {
            is_right &= seal == tally.seal(position);
        }
        tally.push(head, raw, body);
        position += head.frame_bytes();
    };
    patched.frames(header.salt(), start, Expected::first_of(header), &mut visit)?;
    Ok(is_right && first_ts.is_none_or(|ts| ts == header.base_ts))
}

/// A file as it will be.
struct Patched<'a, F: DiskFile> {
    file: F,
    at: u64,
    bytes: &'a [u8],
}

impl<F: DiskFile> Patched<'_, F> {
    /// Visits all frames: those in front of the patch, in it, and behind it.
    fn frames(
        &self,
        salt: u32,
        start: u64,
        mut expected: Expected,
        visit: &mut impl FnMut(&FrameHeader, &[u8; FRAME_HEADER_BYTES], &[u8]),
    ) -> io::Result<()> {
        let mut window = Window::new(&self.file)?;
        if self.at > start {
            let (mut seen, mut next) = (start, expected);
            scan_frames(&mut window, salt, start, expected, |at, head, raw, body| {
                if at < self.at {
                    visit(head, raw, body);
                    (seen, next) = (at + head.frame_bytes(), Expected::after(head));
                }
            })?;
            if seen != self.at {
                return Ok(());
            }
            expected = next;
        }
        let mut rest = self.bytes.get((start.saturating_sub(self.at)) as usize..).unwrap_or(&[]);
        while let Ok(head) = FrameHeader::decode(rest, salt) {
            let (frame, later) = rest.split_at(head.frame_bytes() as usize);
            let (raw, tail) = frame.split_first_chunk().expect("a frame has a header");
            visit(&head, raw, &tail[..head.body_len as usize]);
            (expected, rest) = (Expected::after(&head), later);
        }
        let behind = (self.at + self.bytes.len() as u64).max(start);
        scan_frames(&mut window, salt, behind, expected, |_, head, raw, body| {
            visit(head, raw, body);
        })?;
        Ok(())
    }
}
