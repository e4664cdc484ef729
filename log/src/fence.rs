//! A damaged log of a replica that has peers: what it still holds is read, what it lost is put back (ADR 0035).
//!
//! Nothing is appended and nothing counts as there before all of it is: [`Fenced`] knows the [`Hole`]s, gives away what is intact
//! ([`range`](crate::range)) and takes what was lost ([`patch`](crate::patch)). Without holes it is opened as any log. What is
//! missing at the end only is no hole: recovery cuts there and remembers that the replica must not vote
//! ([`TailDamage::CutAndRefetch`]).
//!
//! Segments are read one at a time, by [`Fenced::check_next`], each beginning where the one before it ends.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::fence_scan::{Link, SegmentScan, scan_segment};
use crate::format::{
    FRAME_HEADER_BYTES, FrameHeader, SEGMENT_CAPACITY_UNIT, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use crate::hard_state::{HardState, HardStateFile, Life};
use crate::housekeeping::{Found, quarantine};
use crate::layout::{AtPath, FileError, segment_path, snapshot_path, write_zeros};
use crate::log::{Log, LogOptions, Position, TailDamage};
use crate::manifest::Manifest;
use crate::manifest_edit::{Edit, ManifestState, Truncation};
use crate::patch::Patch;
use crate::range::{RangeAnswer, RangeRequest, read_range};
use crate::recovery::{
    Damage, Evidence, OpenError, Place, Proof, Recovery, SegmentFault, adopt_segment,
    find_manifest, open_hard_state, settle_manifest,
};
use crate::recovery_segments::is_ours;
use crate::scan::{Expected, Window, read_segment_header};
use crate::snapshot_store::{SnapshotAt, SnapshotReadError, read_snapshot};
use crate::sync_proof::SyncProof;

/// A log that waits for repair.
pub struct Fenced<D: Disk> {
    pub(crate) disk: D,
    pub(crate) dir: PathBuf,
    options: LogOptions,
    pub(crate) manifest: Manifest<D>,
    hard_state: HardStateFile<D>,
    sync_proof: SyncProof<D>,
    evidence: Evidence,
    pub(crate) spans: Vec<Span>,
    /// How many of them were read.
    checked: usize,
    pub(crate) patch: Option<Patch>,
}

/// Something durable that is not there, and by what it is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Where, and what is wrong.
    pub damage: Damage,
    /// What the first frame in it must be.
    pub(crate) left: Expected,
    pub(crate) until: Until,
}

/// How the end of a hole is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The frame or segment behind it links to its last frame.
    Link(Link),
    /// A snapshot contains everything up to this entry, which was therefore committed: there is one history up to it.
    Entry(SnapshotAt),
    /// It is a segment's end.
    Seal,
}

/// One segment.
pub(crate) struct Span {
    pub(crate) segment_no: u64,
    pub(crate) header: Option<SegmentHeader>,
    pub(crate) salt: Option<u32>,
    pub(crate) holes: Vec<Hole>,
    /// What the first frame of the next segment must be, when that is known.
    end: Option<Expected>,
    pub(crate) is_missing: bool,
    /// The last segment, of which nothing is left and nobody knows what it held.
    is_lost: bool,
}

impl<D: Disk> Fenced<D> {
    /// Opens what is there, in a life that begins at `now`; see [`Life::next`].
    pub fn open(
        disk: D,
        dir: PathBuf,
        options: LogOptions,
        (now, draw): (u64, u64),
    ) -> Result<Fenced<D>, OpenError> {
        let place = Place { disk: &disk, dir: &dir, options };
        let mut recovery = Recovery::default();
        let found = Found::list(&disk, &dir)?;
        let (manifest, mut state) = find_manifest(&place, &found, &mut recovery)?;
        let mut sync_proof = match SyncProof::open(&disk, &dir)? {
            (Some(sync_proof), _) => sync_proof,
            (None, _) => SyncProof::create(&disk, &dir, Position::default())?,
        };
        let opened = open_hard_state(&place, &found, manifest.is_some(), &mut recovery);
        let mut hard_state = match opened {
            Err(OpenError::HardState(_) | OpenError::HardStateMissing { .. }) => {
                // Whom it voted for is forgotten: it does not vote before a leader says that it may.
                sync_proof.save_both(sync_proof.proven(), u64::MAX)?;
                HardStateFile::create(&disk, &dir)?
            }
            opened => opened?,
        };
        adopt_segment(&place, &found, &mut state, &mut recovery)?;
        let numbers = state.segments.keys().copied();
        if let (Some(first), Some(last)) = (numbers.clone().min(), numbers.max()) {
            for segment_no in (first..last).filter(|number| !found.segments.contains(number)) {
                state.segments.entry(segment_no).or_insert(None);
                state.dropped.remove(&segment_no);
            }
        }
        let evidence = Evidence::new(sync_proof.proven().index, hard_state.state().commit, &state);
        let manifest = settle_manifest(&place, &found, manifest, state, &recovery)?;
        // The commit stays: it is evidence of what must be repaired.
        let commit = hard_state.state().commit;
        hard_state.begin_life(hard_state.life().next(now, draw), commit)?;
        let spans = manifest.state().segments.keys().map(|segment_no| Span::unread(*segment_no));
        let spans = spans.collect();
        Ok(Fenced {
            disk,
            dir,
            options,
            manifest,
            hard_state,
            sync_proof,
            evidence,
            spans,
            checked: 0,
            patch: None,
        })
    }

    /// Reads the next segment. Returns false when all were read, or when what is missing before it must come first.
    pub fn check_next(&mut self) -> Result<bool, OpenError> {
        if self.checked == self.spans.len() {
            return Ok(false);
        }
        let Some(span) = self.read_span(self.checked)? else { return Ok(false) };
        self.spans[self.checked] = span;
        self.checked += 1;
        Ok(true)
    }

    /// Returns true when all segments were read and nothing of them is missing.
    pub fn is_whole(&self) -> bool {
        self.checked == self.spans.len() && self.spans.iter().all(|span| span.holes.is_empty())
    }

    /// What was found missing and is not put back yet.
    pub fn holes(&self) -> Vec<Hole> {
        self.spans.iter().flat_map(|span| span.holes.iter().cloned()).collect()
    }

    /// The last hard state that can be read.
    pub fn hard_state(&self) -> HardState {
        self.hard_state.state()
    }

    /// Which life this is.
    pub fn life(&self) -> Life {
        self.hard_state.life()
    }

    /// How the log is opened.
    pub fn options(&self) -> &LogOptions {
        &self.options
    }

    /// Returns the newest snapshot that can be read.
    pub fn newest_snapshot(&self) -> Result<Option<Vec<Bytes>>, FileError> {
        Ok(self.newest_readable()?.map(|(_, chunks)| chunks))
    }

    pub(crate) fn newest_readable(&self) -> Result<Option<(SnapshotAt, Vec<Bytes>)>, FileError> {
        for at in self.manifest.state().snapshots.values().rev() {
            if let Some(chunks) = self.readable(*at)? {
                return Ok(Some((*at, chunks)));
            }
        }
        Ok(None)
    }

    /// Returns true for a snapshot that is here and whole.
    pub(crate) fn has_snapshot(&self, at: SnapshotAt) -> Result<bool, FileError> {
        let listed = self.manifest.state().snapshots.get(&at.index).filter(|it| **it == at);
        Ok(listed.is_some() && self.readable(at)?.is_some())
    }

    fn readable(&self, at: SnapshotAt) -> Result<Option<Vec<Bytes>>, FileError> {
        match read_snapshot(&self.disk, &snapshot_path(&self.dir, at.index), at) {
            Ok(chunks) => Ok(Some(chunks)),
            Err(SnapshotReadError::File(error)) => Err(error),
            Err(SnapshotReadError::Missing { .. } | SnapshotReadError::Damaged { .. }) => Ok(None),
        }
    }

    /// Opens the log, when nothing is missing but perhaps its end.
    pub fn finish(mut self) -> Result<(Log<D>, Recovery), OpenError> {
        let base = self.manifest.state().base;
        let is_unfounded = base.index > 0 && self.newest_snapshot()?.is_none();
        if is_unfounded {
            // Nothing says what the views were where the log begins: it begins anew, with a leader's snapshot.
            self.forget_from(0, Position::default())?;
            let ManifestState { identity, dropped, .. } = self.manifest.state().clone();
            self.manifest.replace(ManifestState { identity, dropped, ..Default::default() })?;
        } else if self.spans.last().is_some_and(|span| span.is_lost) {
            let last = self.spans.len() - 1;
            let left = self.left_of(last).expect("it was read");
            self.forget_from(last, before(&left))?;
        } else if self.spans.is_empty() && self.evidence.of(base.index + 1).is_some() {
            self.forget_from(0, base.position())?;
        }
        let Fenced { disk, dir, options, .. } = self;
        Log::open(disk, dir, LogOptions { tail_damage: TailDamage::CutAndRefetch, ..options })
    }

    /// Gives up everything from a hole on: a leader's log, which has all that is committed, goes on differently there. The replica
    /// does not vote until a leader finds that it has everything.
    pub fn cut(&mut self, hole: &Hole) -> Result<(), OpenError> {
        self.patch = None;
        let at = self.spans.partition_point(|span| span.segment_no < hole.damage.segment_no);
        if hole.damage.from_bytes <= SEGMENT_HEADER_BYTES as u64 {
            self.forget_from(at, before(&hole.left))?;
        } else {
            let keeps = before(&hole.left);
            self.lower_evidence(keeps)?;
            let from_bytes = hole.damage.from_bytes;
            let chain = self.chain_at(at, from_bytes)?;
            let segment_no = hole.damage.segment_no;
            let mut edits = self.drop_snapshots_after(keeps.index);
            edits.push(Edit::Truncate(Truncation { segment_no, from_bytes, chain }));
            self.manifest.append(&edits)?;
            let path = segment_path(&self.dir, segment_no);
            let file = self.disk.open(&path).at(&path)?;
            let len = file.len().at(&path)?;
            write_zeros(&file, from_bytes..len).at(&path)?;
            file.sync_data().at(&path)?;
            self.manifest.append(&[Edit::Truncated])?;
            self.spans.truncate(at + 1);
        }
        self.check_again_from(at);
        Ok(())
    }

    pub(crate) fn check_again_from(&mut self, at: usize) {
        self.evidence = Evidence::new(
            self.sync_proof.proven().index,
            self.hard_state.state().commit,
            self.manifest.state(),
        );
        self.checked = self.checked.min(at).min(self.spans.len());
        let unread = self.spans[self.checked..].iter_mut();
        unread.for_each(|span| *span = Span::unread(span.segment_no));
    }

    /// Returns what is intact here of the frames that were asked for.
    pub fn range(
        &self,
        request: &RangeRequest,
        bytes_max: usize,
    ) -> Result<RangeAnswer, FileError> {
        let base = self.manifest.state().base.index;
        if request.index <= base {
            return Ok(RangeAnswer::Trimmed { begins: base + 1 });
        }
        if self.spans.last().is_none_or(|last| last.segment_no < request.segment_no) {
            return Ok(RangeAnswer::Absent);
        }
        let path = segment_path(&self.dir, request.segment_no);
        let file = match self.disk.open_read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(RangeAnswer::Damaged);
            }
            Err(error) => return Err(error).at(&path),
        };
        let span = self.spans.iter().find(|span| span.segment_no == request.segment_no);
        let known = span.and_then(|span| span.salt);
        let salt = match known {
            Some(salt) => salt,
            None => match read_segment_header(&file).at(&path)? {
                Ok(header) => header.salt(),
                Err(_) => return Ok(RangeAnswer::Damaged),
            },
        };
        let found = read_range(&file, salt, request, bytes_max).at(&path)?;
        Ok(found.map_or(RangeAnswer::Damaged, RangeAnswer::Bytes))
    }

    /// Reads a segment again after something in it was put back.
    pub(crate) fn reread(&mut self, segment_no: u64) -> Result<(), OpenError> {
        let at = self.spans.partition_point(|span| span.segment_no < segment_no);
        match self.read_span(at)? {
            Some(span) => self.spans[at] = span,
            None => self.checked = self.checked.min(at),
        }
        Ok(())
    }

    /// Gives up a segment and all behind it. What can be read of them may be of use to somebody: it is kept in `quarantine/`.
    fn forget_from(&mut self, at: usize, keeps: Position) -> Result<(), OpenError> {
        self.lower_evidence(keeps)?;
        let numbers: Vec<u64> = self.spans[at..].iter().map(|span| span.segment_no).collect();
        let paths = numbers.iter().map(|segment_no| segment_path(&self.dir, *segment_no));
        let there: Vec<PathBuf> = paths.filter(|path| self.disk.open_read(path).is_ok()).collect();
        quarantine(&self.disk, &self.dir, &there)?;
        let mut edits = self.drop_snapshots_after(keeps.index);
        edits.extend(numbers.into_iter().map(|segment_no| Edit::Drop { segment_no }));
        self.manifest.append(&edits)?;
        self.spans.truncate(at);
        self.checked = self.checked.min(at);
        Ok(())
    }

    fn lower_evidence(&mut self, keeps: Position) -> Result<(), FileError> {
        let keeps = keeps.min(self.sync_proof.proven());
        self.sync_proof.save_both(keeps, u64::MAX)?;
        self.hard_state.limit_commit(keeps.index)
    }

    fn drop_snapshots_after(&self, index: u64) -> Vec<Edit> {
        let later = self.manifest.state().snapshots.range(index + 1..);
        later.map(|(index, _)| Edit::DropSnapshot { index: *index }).collect()
    }

    /// The checksum in the header at a place that is being cut, by which an interrupted cut is recognised.
    fn chain_at(&self, at: usize, position: u64) -> Result<u32, FileError> {
        let path = segment_path(&self.dir, self.spans[at].segment_no);
        let file = self.disk.open_read(&path).at(&path)?;
        let mut window = Window::with_step(&file, 4096).at(&path)?;
        let bytes = window.get(position, FRAME_HEADER_BYTES).at(&path)?;
        let salt = self.spans[at].salt.unwrap_or(0);
        let header = FrameHeader::decode_canonical(bytes, salt);
        Ok(header.map_or(0, |header| header.crc))
    }

    /// What the first frame of a segment must be, by what is before it.
    fn left_of(&self, at: usize) -> Option<Expected> {
        let Some(before) = at.checked_sub(1) else {
            let ManifestState { base, origin, .. } = self.manifest.state();
            let origin = origin.filter(|origin| origin.segment_no == self.spans[at].segment_no);
            return Some(Expected {
                index: base.index + 1,
                base_offset: base.end,
                chain: origin.map_or(0, |origin| origin.prev_chain),
                term: base.term,
            });
        };
        self.spans[before].end
    }

    pub(crate) fn header_of(
        &self,
        segment_no: u64,
    ) -> Result<Result<SegmentHeader, SegmentFault>, OpenError> {
        let path = segment_path(&self.dir, segment_no);
        let file = match self.disk.open_read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Err(SegmentFault::Missing));
            }
            Err(error) => return Err(FileError { path, source: error }.into()),
        };
        Ok(match read_segment_header(&file).at(&path)? {
            Ok(header) if is_ours(&self.options, &header) && header.segment_no == segment_no => {
                Ok(header)
            }
            Ok(header) => {
                Err(SegmentFault::Link { expected: segment_no, found: header.segment_no })
            }
            Err(error) => Err(error.into()),
        })
    }

    /// Reads a segment; `None` when it cannot be read before what is missing in front of it is there.
    fn read_span(&self, at: usize) -> Result<Option<Span>, OpenError> {
        let segment_no = self.spans[at].segment_no;
        let path = segment_path(&self.dir, segment_no);
        let (header, fault) = match self.header_of(segment_no)? {
            Ok(header) => (Some(header), None),
            Err(fault) => (None, Some(fault)),
        };
        let left = self.left_of(at);
        let first = match (header, left) {
            (Some(header), left) => {
                let first = Expected::first_of(&header);
                // Both are intact, and they are not of one log: nothing says which is right.
                if left.is_some_and(|left| at > 0 && !links(&left, &first)) {
                    return Err(self.unlinked(path, &header, left));
                }
                first
            }
            (None, Some(left)) if at == 0 => self.peek_first(&path, segment_no, left)?,
            (None, Some(left)) => left,
            (None, None) => return Ok(None),
        };
        let salt = header.unwrap_or_else(|| self.lost_header(segment_no, &first)).salt();
        let is_last = at + 1 == self.spans.len();
        let next = match is_last {
            true => None,
            false => self.header_of(self.spans[at + 1].segment_no)?.ok(),
        };
        let end = next.map(|next| Link {
            index: next.base_index,
            chain: next.prev_chain,
            offset: next.base_offset,
        });
        let mut span = Span {
            segment_no,
            header,
            salt: Some(salt),
            holes: Vec::new(),
            end: None,
            is_missing: matches!(fault, Some(SegmentFault::Missing)),
            is_lost: false,
        };
        let until = end.map_or(Until::Seal, Until::Link);
        self.find_holes(&mut span, &path, first, fault, (until, is_last))?;
        Ok(Some(span))
    }

    /// Where the log begins only its first frame says what that links to.
    fn peek_first(
        &self,
        path: &Path,
        segment_no: u64,
        left: Expected,
    ) -> Result<Expected, FileError> {
        let Ok(file) = self.disk.open_read(path) else { return Ok(left) };
        let mut window = Window::with_step(&file, 4096).at(path)?;
        let bytes = window.get(SEGMENT_HEADER_BYTES as u64, FRAME_HEADER_BYTES).at(path)?;
        let salt = self.lost_header(segment_no, &left).salt();
        let header = FrameHeader::decode_canonical(bytes, salt);
        let header = header.ok().filter(|header| header.index == left.index);
        Ok(header.map_or(left, |header| Expected { chain: header.prev_chain, ..left }))
    }

    fn find_holes(
        &self,
        span: &mut Span,
        path: &Path,
        first: Expected,
        header_fault: Option<SegmentFault>,
        (until, is_last): (Until, bool),
    ) -> Result<(), OpenError> {
        let place = (path, span.segment_no);
        let start = SEGMENT_HEADER_BYTES as u64;
        let (mut position, mut expected, mut frames) = (start, first, 0);
        let mut fault = Some(SegmentFault::Missing);
        if !span.is_missing {
            let scan = self.scan(span, path, first, (until, is_last))?;
            for gap in &scan.gaps {
                let proof = match (is_last, gap.from < scan.synced_bytes) {
                    (false, _) => Some(Proof::LaterSegment),
                    (true, true) => Some(Proof::LaterFrame),
                    (true, false) => self.evidence.of(gap.left.index),
                };
                // Not proven: a torn tail, which recovery cuts with all behind it.
                let Some(proof) = proof else { break };
                let (bytes, until) = ((gap.from, Some(gap.to)), Until::Link(gap.right));
                span.holes.push(hole(place, bytes, gap.left, until, (gap.fault.into(), proof)));
            }
            (position, expected, frames) = (scan.position, scan.expected, scan.frames);
            fault = scan.fault.map(SegmentFault::Frame);
        }
        let snapshot = self.manifest.state().snapshots.values().next_back().copied();
        let tail = match (fault, is_last) {
            (None, _) => None,
            (Some(fault), false) => Some((until, fault, Proof::LaterSegment)),
            (Some(fault), true) => snapshot
                .filter(|at| at.index >= expected.index)
                .map(|at| (Until::Entry(at), fault, Proof::Snapshot)),
        };
        span.end = Some(expected).filter(|_| tail.is_none() && (is_last || fault.is_none()));
        if let Some((until, fault, proof)) = tail {
            span.holes.push(hole(place, (position, None), expected, until, (fault, proof)));
        }
        let Some(fault) = header_fault else { return Ok(()) };
        match span.holes.first_mut().filter(|first| first.damage.from_bytes == start) {
            Some(first) => (first.damage.from_bytes, first.damage.fault) = (0, fault),
            None if frames == 0 => span.is_lost = true,
            None => {
                let Expected { index, chain, base_offset: offset, .. } = first;
                let until = Until::Link(Link { index, chain, offset });
                let why = (fault, Proof::LaterFrame);
                span.holes.insert(0, hole(place, (0, Some(start)), first, until, why));
            }
        }
        Ok(())
    }

    fn scan(
        &self,
        span: &Span,
        path: &Path,
        first: Expected,
        (until, is_last): (Until, bool),
    ) -> Result<SegmentScan, FileError> {
        let file = self.disk.open_read(path).at(path)?;
        let mut window = Window::new(&file).at(path)?;
        let truncation = self.manifest.state().truncation;
        let truncation = truncation.filter(|cut| cut.segment_no == span.segment_no);
        let limit = truncation.map_or(u64::MAX, |cut| cut.from_bytes);
        let end = match until {
            Until::Link(link) => Some(link),
            Until::Entry(_) | Until::Seal => None,
        };
        let salt = span.salt.expect("it was just computed");
        scan_segment(&mut window, salt, first, (end, !is_last), limit).at(path)
    }

    fn unlinked(&self, path: PathBuf, header: &SegmentHeader, left: Option<Expected>) -> OpenError {
        let expected = left.map_or(0, |left| left.index);
        OpenError::Damaged(Box::new(Damage {
            path,
            segment_no: header.segment_no,
            from_bytes: 0,
            to_bytes: Some(SEGMENT_HEADER_BYTES as u64),
            first_index: expected,
            first_offset: left.map_or(header.base_offset, |left| left.base_offset),
            end_offset: None,
            fault: SegmentFault::Link { expected, found: header.base_index },
            proof: Proof::LaterSegment,
        }))
    }

    /// A header of which only what the salt is made of is right.
    pub(crate) fn lost_header(&self, segment_no: u64, first: &Expected) -> SegmentHeader {
        SegmentHeader {
            flags: 0,
            cluster: self.options.cluster,
            partition: self.options.partition,
            segment_no,
            base_offset: first.base_offset,
            base_index: first.index,
            prev_term: first.term,
            prev_chain: first.chain,
            capacity_bytes: SEGMENT_CAPACITY_UNIT,
            base_ts: 0,
        }
    }
}

fn hole(
    (path, segment_no): (&Path, u64),
    (from_bytes, to_bytes): (u64, Option<u64>),
    left: Expected,
    until: Until,
    (fault, proof): (SegmentFault, Proof),
) -> Hole {
    let end_offset = match until {
        Until::Link(link) => Some(link.offset),
        Until::Entry(at) => Some(at.end),
        Until::Seal => None,
    };
    let damage = Damage {
        path: path.to_owned(),
        segment_no,
        from_bytes,
        to_bytes,
        first_index: left.index,
        first_offset: left.base_offset,
        end_offset,
        fault,
        proof,
    };
    Hole { damage, left, until }
}

/// The position before an expected frame.
fn before(expected: &Expected) -> Position {
    Position { index: expected.index - 1, end: expected.base_offset }
}

/// Returns true when both expect the same frame.
fn links(one: &Expected, other: &Expected) -> bool {
    (one.index, one.base_offset, one.chain) == (other.index, other.base_offset, other.chain)
}

impl Span {
    fn unread(segment_no: u64) -> Span {
        Span {
            segment_no,
            header: None,
            salt: None,
            holes: Vec::new(),
            end: None,
            is_missing: false,
            is_lost: false,
        }
    }
}
