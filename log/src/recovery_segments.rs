//! Recovery, segment by segment: loading the chain, and telling a torn tail from damage by the rules of
//! [`recovery`](crate::recovery).

use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskFile};
use crate::format::{
    FRAME_HEADER_BYTES, FrameHeader, FrameKind, SEGMENT_HEADER_BYTES, Seal, SegmentHeader, TermRun,
};
use crate::layout::{AtPath, FileError, rewrite, segment_path, write_zeros};
use crate::log::{LogOptions, Position, TailDamage};
use crate::manifest_edit::{Closed, Edit, ManifestState};
use crate::planted::{PlantedBug, is_planted};
use crate::recovery::{
    Cut, Damage, Evidence, Glance, OpenError, Place, Proof, Recovery, SegmentFault, Wiped,
};
use crate::scan::{
    Expected, FrameFault, Rest, Stopped, Window, check_frame, read_segment_header, scan_frames,
    survey_rest,
};
use crate::segment::{Segment, Tally, push_term};
use crate::sync_proof::SyncProof;
use crate::truncate::Reloaded;

/// The segments of a log, checked.
pub(crate) struct Chain<D: Disk> {
    pub(crate) segments: Vec<Segment>,
    pub(crate) terms: Vec<TermRun>,
    pub(crate) tally: Tally,
    pub(crate) last_ts: u64,
    /// The last segment's file and length, when more may be appended to it.
    pub(crate) open: Option<(u64, D::File, u64)>,
}

/// A segment read to its end.
struct Scanned<D: Disk> {
    file: D::File,
    file_bytes: u64,
    reloaded: Reloaded,
    stopped: Stopped,
    rest: Rest,
    /// Where the last flush began.
    flush_at: u64,
    /// The largest synced position in any intact frame.
    synced_bytes: u64,
}

/// Loads all segments of `state`. Cuts a torn tail, and takes a segment without frames out of `state`.
pub(crate) fn load_chain<D: Disk>(
    place: &Place<'_, D>,
    state: &mut ManifestState,
    evidence: Evidence,
    sync_proof: &mut SyncProof<D>,
    recovery: &mut Recovery,
) -> Result<Chain<D>, OpenError> {
    let mut numbers: Vec<(u64, Option<Closed>)> =
        state.segments.iter().map(|(segment_no, closed)| (*segment_no, *closed)).collect();
    let mut chain = Chain {
        segments: Vec::new(),
        terms: Vec::new(),
        tally: Tally::new(state.base.index + 1),
        last_ts: 0,
        open: None,
    };
    let Some((last_no, _)) = numbers.pop() else {
        return refuse_loss(place, state, &evidence).map(|()| chain);
    };
    let mut headers = Vec::new();
    for (segment_no, _) in &numbers {
        headers.push(open_header(place, *segment_no, state.base.index)?);
    }
    headers.push(open_header(place, last_no, state.base.index)?);
    for (number, (_, closed)) in numbers.iter().enumerate() {
        let (header, next) = (headers[number], headers[number + 1]);
        check_link(place, state, chain.segments.last(), &header)?;
        load_closed(place, header, *closed, &next, &mut chain, recovery)?;
    }
    let header = headers[numbers.len()];
    check_link(place, state, chain.segments.last(), &header)?;
    let scanned = scan_segment(place, header, recovery)?;
    if let Some(must_reach) = judge_tail(place, &scanned, evidence)? {
        // Remembered before the evidence is cut with the tail.
        let Expected { index, base_offset, .. } = scanned.stopped.expected;
        let kept = Position { index: index - 1, end: base_offset };
        sync_proof.save_both(kept, must_reach.max(sync_proof.must_reach()))?;
        recovery.must_reach = Some(must_reach);
    }
    wipe(place, &recovery.wiped)?;
    cut_tail(place, &scanned, recovery)?;
    if !scanned.reloaded.segment.is_empty() {
        finish_chain(place, scanned, sync_proof.proven(), &mut chain)?;
        return Ok(chain);
    }
    // It had only begun: the frame it begins with may be another one now.
    state.apply(&Edit::Drop { segment_no: last_no });
    recovery.removed_segment = Some(last_no);
    if let Some(previous) = chain.segments.pop() {
        chain.terms.retain(|run| run.first_index < previous.header.base_index);
        let scanned = scan_segment(place, previous.header, recovery)?;
        if scanned.reloaded.segment.last != previous.last {
            return Err(damage(place, &scanned, Proof::LaterSegment));
        }
        if !previous.is_sealed {
            state.apply(&Edit::Add { segment_no: previous.segment_no() });
        }
        finish_chain(place, scanned, sync_proof.proven(), &mut chain)?;
    }
    Ok(chain)
}

/// Zeroes what an interrupted truncation left, unless a frame was written there since.
pub(crate) fn resume_truncation<D: Disk>(
    place: &Place<'_, D>,
    state: &mut ManifestState,
    recovery: &mut Recovery,
) -> Result<(), OpenError> {
    let Some(cut) = state.truncation else { return Ok(()) };
    state.apply(&Edit::Truncated);
    let header = open_header(place, cut.segment_no, state.base.index)?;
    let path = segment_path(place.dir, cut.segment_no);
    let file = place.disk.open(&path).at(&path)?;
    let mut window = Window::with_step(&file, FRAME_HEADER_BYTES as u64).at(&path)?;
    let bytes = window.get(cut.from_bytes, FRAME_HEADER_BYTES).at(&path)?;
    let there = FrameHeader::decode_canonical(bytes, header.salt());
    if there.is_ok_and(|there| there.crc != cut.chain) {
        return Ok(());
    }
    let file_bytes = file.len().at(&path)?;
    write_zeros(&file, cut.from_bytes..file_bytes).at(&path)?;
    file.sync_data().at(&path)?;
    recovery.has_resumed_truncation = true;
    Ok(())
}

/// Looks at the start of a segment file that the manifest does not list.
pub(crate) fn glance<D: Disk>(place: &Place<'_, D>, path: &Path) -> Result<Glance, FileError> {
    let file = place.disk.open_read(path).at(path)?;
    let header = match read_segment_header(&file).at(path)? {
        Ok(header) if is_ours(&place.options, &header) => header,
        _ => return Ok(Glance::Foreign),
    };
    let mut window = Window::new(&file).at(path)?;
    let start = SEGMENT_HEADER_BYTES as u64;
    let expected = Expected::first_of(&header);
    if check_frame(&mut window, header.salt(), start, &expected).at(path)?.is_ok() {
        return Ok(Glance::Frames);
    }
    let rest = survey_rest(&mut window, header.salt(), start, &expected).at(path)?;
    Ok(if rest.dirty_end.is_none() { Glance::Empty } else { Glance::Foreign })
}

pub(crate) fn is_ours(options: &LogOptions, header: &SegmentHeader) -> bool {
    (header.cluster, header.partition) == (options.cluster, options.partition)
}

fn open_header<D: Disk>(
    place: &Place<'_, D>,
    segment_no: u64,
    after_index: u64,
) -> Result<SegmentHeader, OpenError> {
    let path = segment_path(place.dir, segment_no);
    let file = match place.disk.open_read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(OpenError::Missing { path, after_index });
        }
        opened => opened.at(&path)?,
    };
    match read_segment_header(&file).at(&path)? {
        Ok(header) if !is_ours(&place.options, &header) => {
            let SegmentHeader { cluster, partition, .. } = header;
            Err(OpenError::Foreign { path, cluster, partition })
        }
        Ok(header) if header.segment_no == segment_no => Ok(header),
        Ok(header) => Err(OpenError::Damaged(Box::new(Damage {
            path,
            segment_no,
            from_bytes: 0,
            to_bytes: Some(SEGMENT_HEADER_BYTES as u64),
            first_index: header.base_index,
            first_offset: header.base_offset,
            end_offset: None,
            fault: SegmentFault::Link { expected: segment_no, found: header.segment_no },
            proof: Proof::LaterSegment,
        }))),
        Err(error) => Err(OpenError::Damaged(Box::new(Damage {
            path,
            segment_no,
            from_bytes: 0,
            to_bytes: Some(SEGMENT_HEADER_BYTES as u64),
            first_index: after_index + 1,
            first_offset: fluxmq_index::Offset::ZERO,
            end_offset: None,
            fault: error.into(),
            proof: Proof::LaterSegment,
        }))),
    }
}

/// Checks that a segment begins where the one before it, or the base of the log, ends.
fn check_link<D: Disk>(
    place: &Place<'_, D>,
    state: &ManifestState,
    previous: Option<&Segment>,
    header: &SegmentHeader,
) -> Result<(), OpenError> {
    let path = segment_path(place.dir, header.segment_no);
    let (last, is_linked) = match previous {
        None => {
            let base = state.base;
            (base.position(), header.prev_term == base.term)
        }
        Some(previous) => (previous.last, header.prev_chain == previous.last_chain),
    };
    let expected = last.index + 1;
    if is_linked && header.base_index == expected && header.base_offset == last.end {
        return Ok(());
    }
    if header.base_index > expected {
        let path = match previous {
            Some(_) => segment_path(place.dir, header.segment_no.saturating_sub(1)),
            None => path,
        };
        return Err(OpenError::Missing { path, after_index: last.index });
    }
    Err(OpenError::Damaged(Box::new(Damage {
        path,
        segment_no: header.segment_no,
        from_bytes: 0,
        to_bytes: Some(SEGMENT_HEADER_BYTES as u64),
        first_index: expected,
        first_offset: last.end,
        end_offset: None,
        fault: SegmentFault::Link { expected, found: header.base_index },
        proof: Proof::LaterSegment,
    })))
}

/// Loads a segment that is not the last: by its seal when it has one, else by reading all of it.
fn load_closed<D: Disk>(
    place: &Place<'_, D>,
    header: SegmentHeader,
    closed: Option<Closed>,
    next: &SegmentHeader,
    chain: &mut Chain<D>,
    recovery: &mut Recovery,
) -> Result<(), OpenError> {
    if let Some(closed) = closed
        && let Some((segment, seal, sealed_by)) =
            load_sealed(place, header, closed, next, recovery)?
    {
        for run in &seal.terms {
            push_term(&mut chain.terms, run.first_index, run.term);
        }
        push_term(&mut chain.terms, sealed_by.index, sealed_by.term);
        chain.segments.push(segment);
        return Ok(());
    }
    let scanned = scan_segment(place, header, recovery)?;
    let segment = &scanned.reloaded.segment;
    if segment.last.index + 1 != next.base_index || segment.last_chain != next.prev_chain {
        return Err(damage(place, &scanned, Proof::LaterSegment));
    }
    let path = segment_path(place.dir, segment.segment_no());
    note_stray(path, segment.end_bytes, &scanned.rest, recovery);
    for run in scanned.reloaded.tally.terms() {
        push_term(&mut chain.terms, run.first_index, run.term);
    }
    chain.segments.push(scanned.reloaded.segment);
    Ok(())
}

/// Notes what is not zero behind a segment that another one continues: the next one's header says where the frames end, so it
/// is no frame that counts, and no reason to refuse.
fn note_stray(path: PathBuf, from_bytes: u64, rest: &Rest, recovery: &mut Recovery) {
    if let Some(to_bytes) = rest.dirty_end {
        recovery.wiped.push(Wiped { path, from_bytes, to_bytes });
    }
}

/// Zeroes what was noted, once nothing refuses the log any more.
fn wipe<D: Disk>(place: &Place<'_, D>, wiped: &[Wiped]) -> Result<(), FileError> {
    for Wiped { path, from_bytes, to_bytes } in wiped {
        let file = place.disk.open(path).at(path)?;
        write_zeros(&file, *from_bytes..*to_bytes).and_then(|()| file.sync_data()).at(path)?;
    }
    Ok(())
}

/// Loads a segment by its last frame; `None` when that is no seal.
fn load_sealed<D: Disk>(
    place: &Place<'_, D>,
    header: SegmentHeader,
    closed: Closed,
    next: &SegmentHeader,
    recovery: &mut Recovery,
) -> Result<Option<(Segment, Seal, FrameHeader)>, OpenError> {
    let path = segment_path(place.dir, header.segment_no);
    let file = place.disk.open_read(&path).at(&path)?;
    let damaged = |fault: SegmentFault| {
        OpenError::Damaged(Box::new(Damage {
            path: path.clone(),
            segment_no: header.segment_no,
            from_bytes: closed.last_frame_at,
            to_bytes: Some(closed.end_bytes),
            first_index: next.base_index - 1,
            first_offset: next.base_offset,
            end_offset: Some(next.base_offset),
            fault,
            proof: Proof::LaterSegment,
        }))
    };
    let (found, expected) = (file.len().at(&path)?, closed.end_bytes);
    if found < expected {
        return Err(damaged(SegmentFault::Short { found, expected }));
    }
    let step = closed.end_bytes.saturating_sub(closed.last_frame_at);
    let mut window = Window::with_step(&file, step).at(&path)?;
    let expected = Expected {
        index: next.base_index - 1,
        base_offset: next.base_offset,
        // The link to the frame before it is not known here; reading the segment checks it.
        chain: read_chain(&mut window, &path, &header, closed.last_frame_at)?,
        term: 0,
    };
    let last_at = closed.last_frame_at;
    let last = match check_frame(&mut window, header.salt(), last_at, &expected).at(&path)? {
        Ok(last) => last,
        // A last frame with records has another base offset: it is no seal.
        Err((FrameFault::Offset { .. }, _)) => return Ok(None),
        Err((fault, _)) => return Err(damaged(fault.into())),
    };
    if last.kind != FrameKind::Seal {
        return Ok(None);
    }
    if last.crc != next.prev_chain {
        let fault = FrameFault::Chain { expected: next.prev_chain, found: last.crc };
        return Err(damaged(fault.into()));
    }
    let body_at = last_at + FRAME_HEADER_BYTES as u64;
    let body = window.get(body_at, last.body_len as usize).at(&path)?;
    let Ok(seal) = Seal::decode(body) else { return Ok(None) };
    if seal.first_index != header.base_index {
        return Ok(None);
    }
    recovery.frames_scanned += 1;
    recovery.bytes_scanned += last.frame_bytes();
    let mut segment = Segment::new(header);
    segment.last_frame_at = last_at;
    segment.end_bytes = last_at + last.frame_bytes();
    let after = Expected::after(&last);
    let rest = survey_rest(&mut window, segment.salt, segment.end_bytes, &after).at(&path)?;
    note_stray(path, segment.end_bytes, &rest, recovery);
    segment.last = crate::log::Position { index: last.index, end: last.end_offset() };
    segment.last_chain = last.crc;
    segment.is_sealed = true;
    Ok(Some((segment, seal, last)))
}

fn read_chain<F: DiskFile>(
    window: &mut Window<'_, F>,
    path: &Path,
    header: &SegmentHeader,
    position: u64,
) -> Result<u32, OpenError> {
    let bytes = window.get(position, FRAME_HEADER_BYTES).at(path)?;
    Ok(FrameHeader::decode_canonical(bytes, header.salt()).map_or(0, |frame| frame.prev_chain))
}

fn scan_segment<D: Disk>(
    place: &Place<'_, D>,
    header: SegmentHeader,
    recovery: &mut Recovery,
) -> Result<Scanned<D>, OpenError> {
    let path = segment_path(place.dir, header.segment_no);
    let file = place.disk.open(&path).at(&path)?;
    let mut window = Window::new(&file).at(&path)?;
    let file_bytes = window.file_bytes();
    let mut reloaded = Reloaded {
        segment: Segment::new(header),
        tally: Tally::new(header.base_index),
        last_ts: 0,
    };
    let start = SEGMENT_HEADER_BYTES as u64;
    let (mut flush_at, mut synced_bytes) = (start, 0);
    let expected = Expected::first_of(&header);
    let visit = |_, head: &FrameHeader, raw: &[u8; FRAME_HEADER_BYTES], body: &[u8]| {
        reloaded.push(head, raw, body);
        flush_at = head.synced_bytes.max(start);
        synced_bytes = synced_bytes.max(head.synced_bytes);
        recovery.frames_scanned += 1;
        recovery.bytes_scanned += head.frame_bytes();
    };
    let salt = header.salt();
    let stopped = scan_frames(&mut window, salt, start, expected, visit).at(&path)?;
    let rest = survey_rest(&mut window, salt, stopped.position, &stopped.expected).at(&path)?;
    synced_bytes = synced_bytes.max(rest.synced_bytes);
    drop(window);
    Ok(Scanned { file, file_bytes, reloaded, stopped, rest, flush_at, synced_bytes })
}

/// Refuses when something that was durable is not there, or returns the index up to which it must be fetched again.
fn judge_tail<D: Disk>(
    place: &Place<'_, D>,
    scanned: &Scanned<D>,
    evidence: Evidence,
) -> Result<Option<u64>, OpenError> {
    if is_planted(PlantedBug::TruncateAtAnyBadRecord) {
        return Ok(None);
    }
    let first_gone = scanned.stopped.expected.index;
    let proof = if scanned.synced_bytes > scanned.stopped.position {
        Proof::LaterFrame
    } else {
        match evidence.of(first_gone) {
            None => return Ok(None),
            Some(proof) => proof,
        }
    };
    // The log must go on from its newest snapshot: cutting below it would leave a hole.
    let is_cuttable = evidence.snapshot() < first_gone;
    match place.options.tail_damage {
        TailDamage::CutAndRefetch if is_cuttable => {
            let identity = scanned.stopped.identity.map_or(0, |header| header.index);
            let seen = scanned.rest.last_index.max(identity).max(first_gone);
            Ok(Some(seen.max(evidence.strongest().0)))
        }
        _ => Err(damage(place, scanned, proof)),
    }
}

fn refuse_loss<D: Disk>(
    place: &Place<'_, D>,
    state: &ManifestState,
    evidence: &Evidence,
) -> Result<(), OpenError> {
    let last_index = state.base.index;
    if evidence.of(last_index + 1).is_none() || is_planted(PlantedBug::TruncateAtAnyBadRecord) {
        return Ok(());
    }
    let (proven_index, proof) = evidence.strongest();
    Err(OpenError::Lost { dir: place.dir.to_owned(), last_index, proven_index, proof })
}

fn cut_tail<D: Disk>(
    place: &Place<'_, D>,
    scanned: &Scanned<D>,
    recovery: &mut Recovery,
) -> Result<(), OpenError> {
    let Scanned { file, stopped, rest, .. } = scanned;
    let path = segment_path(place.dir, scanned.reloaded.segment.segment_no());
    if let Some(dirty_end) = rest.dirty_end {
        write_zeros(file, stopped.position..dirty_end).at(&path)?;
        recovery.cut = Some(Cut {
            path: path.clone(),
            from_bytes: stopped.position,
            to_bytes: dirty_end,
            first_index: stopped.expected.index,
            first_offset: stopped.expected.base_offset,
            fault: stopped.fault,
            later_frames: rest.later_frames,
        });
    }
    Ok(())
}

/// Makes the last segment durable as it was read, and ends the chain with it.
///
/// A killed process may have left its last flush in the page cache only. Had that flush failed, its pages would even count as
/// clean, and a sync would do nothing: so the frames are written once more. Earlier flushes are proven by the last one.
fn finish_chain<D: Disk>(
    place: &Place<'_, D>,
    scanned: Scanned<D>,
    proven: Position,
    chain: &mut Chain<D>,
) -> Result<(), OpenError> {
    let Scanned { file, file_bytes, reloaded, flush_at, .. } = scanned;
    let path = segment_path(place.dir, reloaded.segment.segment_no());
    if reloaded.segment.last.index > proven.index {
        rewrite(&file, flush_at..reloaded.segment.end_bytes).at(&path)?;
    }
    file.sync_data().at(&path)?;
    for run in reloaded.tally.terms() {
        push_term(&mut chain.terms, run.first_index, run.term);
    }
    chain.open = Some((reloaded.segment.segment_no(), file, file_bytes));
    chain.tally = reloaded.tally;
    chain.last_ts = reloaded.last_ts;
    chain.segments.push(reloaded.segment);
    Ok(())
}

fn damage<D: Disk>(place: &Place<'_, D>, scanned: &Scanned<D>, proof: Proof) -> OpenError {
    let Scanned { reloaded, stopped, rest, .. } = scanned;
    let is_nothing = rest.dirty_end.is_none();
    let identity = stopped.identity.filter(|header| stopped.expected.check(header).is_ok());
    OpenError::Damaged(Box::new(Damage {
        path: segment_path(place.dir, reloaded.segment.segment_no()),
        segment_no: reloaded.segment.segment_no(),
        from_bytes: stopped.position,
        to_bytes: match (identity, rest.next) {
            (Some(header), _) => Some(stopped.position + header.frame_bytes()),
            (None, next) => next.map(|(position, _, _)| position),
        },
        first_index: stopped.expected.index,
        first_offset: stopped.expected.base_offset,
        end_offset: match (identity, rest.next) {
            (Some(header), _) => Some(header.end_offset()),
            (None, next) => next.map(|(_, _, offset)| offset),
        },
        fault: if is_nothing { FrameFault::Nothing.into() } else { stopped.fault.into() },
        proof,
    }))
}
