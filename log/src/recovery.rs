//! What is believed after a crash: the one place that decides what is a torn tail, and may be cut, and what is damage, and
//! may not.
//!
//! A flush that did not return may have left any part of itself on disk; cutting it loses nothing that was promised. The same
//! bytes below a point that is *proven* to have been synced are rot, and cutting there would lose what was promised. Proofs,
//! each with a checksum of its own and each written by this replica about itself: the synced position in a later intact frame ·
//! a later segment · a snapshot · the hard state's commit · `sync.bin`. The commit index in a frame is none: its leader wrote
//! it about others, and a follower may have been sent the frame and all it speaks of in one flush.
//!
//! | found                                  | proven | what is done                                              |
//! |----------------------------------------|--------|-----------------------------------------------------------|
//! | good frames, then zeros                | no     | opened                                                    |
//! | a bad frame, nothing or more after it  | no     | zeroed from there on, synced, opened; said in `Recovery`  |
//! | a bad frame, or none                   | yes    | refused with the place and the offsets; nothing is changed |
//! | a bad or missing file                  | yes    | refused                                                   |
//! | bytes behind a closed segment's end    |        | zeroed, synced, opened; said in `Recovery`                |
//! | a file nobody knows                    |        | moved to `quarantine/`                                    |
//! | a manifest that cannot be read         |        | rebuilt from the segments                                 |
//! | an index without its segment           |        | removed; one beside its segment is checked when it is read |

use std::path::{Path, PathBuf};

use fluxmq_index::Offset;

use crate::disk::Disk;
use crate::flush::OpenSegment;
use crate::format::SegmentHeaderError;
use crate::hard_state::HardStateFile;
use crate::housekeeping::{Found, quarantine, remove_all};
use crate::index_file::Indexes;
use crate::layout::{
    AtPath, FileError, HARD_STATE, SYNC_PROOF, index_path, manifest_path, segment_path,
    snapshot_path, sync_dir,
};
use crate::log::{Log, LogOptions, Position, Tail, Writer};
use crate::manifest::{Manifest, ManifestFound, ManifestUnreadable};
use crate::manifest_edit::{Edit, ManifestState};
use crate::recovery_segments::{Chain, load_chain, resume_truncation};
use crate::scan::{FrameFault, read_segment_header};
use crate::slot::SlotError;
use crate::snapshot_store::{adopt_snapshot, read_snapshot_at};
use crate::spare::Spares;
use crate::sync_proof::SyncProof;

/// What opening a log found and did. Empty but for the counts when it was closed in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Frames read and checked.
    pub frames_scanned: u64,
    /// Bytes of them.
    pub bytes_scanned: u64,
    /// The torn tail that was cut.
    pub cut: Option<Cut>,
    /// Bytes behind the last frame of closed segments that were not zero any more, and are again.
    pub wiped: Vec<Wiped>,
    /// A segment that had begun but held no frame yet, and was removed.
    pub removed_segment: Option<u64>,
    /// Segments the manifest did not list although they hold frames, and which are listed again.
    pub adopted_segments: Vec<u64>,
    /// Snapshots the manifest did not list although they are whole, and which are listed again.
    pub adopted_snapshots: Vec<u64>,
    /// Files that could not be placed, where they are now.
    pub quarantined: Vec<PathBuf>,
    /// Small state files of which one copy was damaged, and that were repaired or written anew.
    pub repaired: Vec<PathBuf>,
    /// Why the manifest was rebuilt from the segments.
    pub manifest_rebuilt: Option<ManifestUnreadable>,
    /// The manifest ended in a torn edit, which was dropped.
    pub is_manifest_torn: bool,
    /// Entries were cut that may have been acknowledged: until the log is back at this index, no vote
    /// ([`TailDamage::CutAndRefetch`](crate::TailDamage)).
    pub must_reach: Option<u64>,
    /// A truncation that a crash had interrupted was finished.
    pub has_resumed_truncation: bool,
    /// Snapshots that are listed but missing or damaged at their end.
    pub damaged_snapshots: Vec<PathBuf>,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file.
    pub path: PathBuf,
    /// Zeroed from here.
    pub from_bytes: u64,
    /// Zeroed up to here.
    pub to_bytes: u64,
    /// The first entry that is not there any more.
    pub first_index: u64,
    /// The first offset that is free again.
    pub first_offset: Offset,
    /// What was wrong with the first frame.
    pub fault: FrameFault,
    /// Intact frames that were cut with it.
    pub later_frames: u64,
}

/// Rot where nothing is stored: behind the end of a segment that another one continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiped {
    /// The segment's file.
    pub path: PathBuf,
    /// Where its frames end; zeroed from here.
    pub from_bytes: u64,
    /// Zeroed up to here.
    pub to_bytes: u64,
}

/// How it is known that something was once durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// An intact frame of the same segment that was written after.
    LaterFrame,
    /// The next segment exists.
    LaterSegment,
    /// A snapshot contains it.
    Snapshot,
    /// The hard state says it is committed.
    HardState,
    /// `sync.bin` says it was synced.
    SyncProof,
}

/// What is wrong with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentFault {
    /// With its header.
    #[error(transparent)]
    Header(#[from] SegmentHeaderError),
    /// With a frame.
    #[error(transparent)]
    Frame(#[from] FrameFault),
    /// It does not begin where the segment before it ends.
    #[error("begins at index {found} instead of {expected}, or with another chain")]
    Link {
        /// After the previous segment's last index.
        expected: u64,
        /// In the header.
        found: u64,
    },
    /// There is no file.
    #[error("file is missing")]
    Missing,
    /// The file is shorter than its frames.
    #[error("file of {found} bytes is shorter than {expected}")]
    Short {
        /// The file's length in bytes.
        found: u64,
        /// Where the frames ended.
        expected: u64,
    },
}

/// Damage to something that was durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment's file.
    pub path: PathBuf,
    /// Its number.
    pub segment_no: u64,
    /// Where the damage begins in the file.
    pub from_bytes: u64,
    /// Where it ends, when that is known.
    pub to_bytes: Option<u64>,
    /// The first damaged entry.
    pub first_index: u64,
    /// The first damaged offset.
    pub first_offset: Offset,
    /// The offset after the damage, when that is known.
    pub end_offset: Option<Offset>,
    /// What is wrong.
    pub fault: SegmentFault,
    /// How it is known that it was durable.
    pub proof: Proof,
}

impl Damage {
    /// Returns the command that shows the damage, to be run in the data directory.
    pub fn hint(&self) -> String {
        format!("wal-tools verify {}", self.path.display())
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Damage { path, from_bytes, first_index, first_offset, fault, proof, .. } = self;
        write!(
            formatter,
            "{}: damaged at byte {from_bytes}, index {first_index}, offsets from {first_offset}",
            path.display()
        )?;
        match self.end_offset {
            Some(end) => write!(formatter, " to before {end}")?,
            None => write!(formatter, " to an unknown end")?,
        }
        write!(formatter, ": {fault}; it was durable ({proof:?}), so it is not cut; ")?;
        write!(formatter, "to look into it: {}", self.hint())
    }
}

/// Why a log cannot be opened. Nothing of what was durable has been changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The hard state is lost: this replica must not vote from memory loss, it must join again as a learner.
    #[error("hard state is lost: {0}")]
    HardState(#[source] SlotError),
    /// There is a log but no hard state.
    #[error("{}: missing, although there is a log", path.display())]
    HardStateMissing {
        /// The file that should be there.
        path: PathBuf,
    },
    /// Something durable is damaged.
    #[error("{0}")]
    Damaged(Box<Damage>),
    /// A segment is missing.
    #[error("{}: segment is missing, with the entries after index {after_index}", path.display())]
    Missing {
        /// The file that should be there.
        path: PathBuf,
        /// The last entry before it.
        after_index: u64,
    },
    /// The log is shorter than what was durable, and no file tells where it went.
    #[error("{}: log ends at index {last_index} but index {proven_index} was durable ({proof:?})", dir.display())]
    Lost {
        /// The partition's directory.
        dir: PathBuf,
        /// Where the log ends.
        last_index: u64,
        /// What was durable.
        proven_index: u64,
        /// How that is known.
        proof: Proof,
    },
    /// The files are those of another cluster or partition.
    #[error("{}: belongs to partition {partition} of cluster {cluster:02x?}", path.display())]
    Foreign {
        /// The file that says so.
        path: PathBuf,
        /// Whose it is.
        cluster: [u8; 16],
        /// Whose it is.
        partition: u32,
    },
}

/// Where the log is, whose it is, and what it remembers besides segments.
pub(crate) struct Place<'a, D: Disk> {
    pub(crate) disk: &'a D,
    pub(crate) dir: &'a Path,
    pub(crate) options: LogOptions,
}

impl<D: Disk> Log<D> {
    /// Opens the log in `dir`, creating it when there is nothing, and says what had to be done.
    pub fn open(
        disk: D,
        dir: PathBuf,
        options: LogOptions,
    ) -> Result<(Log<D>, Recovery), OpenError> {
        let place = Place { disk: &disk, dir: &dir, options };
        let mut recovery = Recovery::default();
        let found = Found::list(&disk, &dir)?;
        let (manifest, mut state) = find_manifest(&place, &found, &mut recovery)?;
        let mut hard_state = open_hard_state(&place, &found, manifest.is_some(), &mut recovery)?;
        let (sync_proof, is_half) = SyncProof::open(&disk, &dir)?;
        let mut sync_proof = match sync_proof {
            Some(sync_proof) => sync_proof,
            None => SyncProof::create(&disk, &dir, Position::default())?,
        };
        let proven = sync_proof.proven();

        let strays = adopt_segment(&place, &found, &mut state, &mut recovery)?;
        resume_truncation(&place, &mut state, &mut recovery)?;
        let evidence = Evidence::new(proven.index, hard_state.state().commit, &state);
        let chain = load_chain(&place, &mut state, evidence, &mut sync_proof, &mut recovery)?;
        let last = chain.segments.last().map_or(state.base.position(), |segment| segment.last);
        let stray_snapshots = check_snapshots(&place, &found, &mut state, last, &mut recovery)?;

        let manifest = settle_manifest(&place, &found, manifest, state, &recovery)?;
        if is_half {
            recovery.repaired.push(dir.join(SYNC_PROOF));
            sync_proof.save_both(last, sync_proof.must_reach())?;
        }
        sync_proof.save(last)?;
        hard_state.limit_commit(last.index)?;
        tidy_up(&place, &found, &manifest, &[strays, stray_snapshots].concat(), &mut recovery)?;
        let Chain { segments, terms, tally, last_ts, open } = chain;
        let origin = manifest.state().origin;
        let last_ts = match segments.is_empty() {
            true => origin.map_or(last_ts, |origin| origin.base_ts),
            false => last_ts,
        };
        let writer = Writer {
            open: open.map(|(segment_no, file, file_bytes)| OpenSegment {
                segment_no,
                file,
                file_bytes,
            }),
            in_flight: None,
            is_poisoned: false,
            spares: Spares::default(),
        };
        let log = Log {
            indexes: Indexes::new(found.indexes, &segments),
            disk,
            dir,
            options,
            hard_state,
            sync_proof,
            snapshots: manifest.state().snapshots.clone(),
            manifest: Some(manifest),
            segments,
            tally,
            terms,
            tail: Tail::default(),
            written: last,
            durable: last,
            last_ts,
            writer,
            damaged_snapshots: recovery.damaged_snapshots.clone(),
            origin,
        };
        Ok((log, recovery))
    }
}

/// What besides the segments says how far the log was durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    strongest: (u64, Proof),
    snapshot: u64,
}

impl Evidence {
    pub(crate) fn new(synced: u64, committed: u64, state: &ManifestState) -> Self {
        let snapshot = state.snapshots.keys().next_back().copied().unwrap_or(0);
        let evidence = Evidence { strongest: (synced, Proof::SyncProof), snapshot };
        evidence.with(snapshot, Proof::Snapshot).with(committed, Proof::HardState)
    }

    /// Adds a proof that the log was durable up to `index`.
    pub(crate) fn with(self, index: u64, proof: Proof) -> Self {
        if index > self.strongest.0 { Evidence { strongest: (index, proof), ..self } } else { self }
    }

    /// Returns the proof that an entry was durable.
    pub(crate) fn of(&self, index: u64) -> Option<Proof> {
        (self.strongest.0 >= index).then_some(self.strongest.1)
    }

    pub(crate) fn snapshot(&self) -> u64 {
        self.snapshot
    }

    pub(crate) fn strongest(&self) -> (u64, Proof) {
        self.strongest
    }
}

/// Reads the manifest, or makes up its state from the files there are.
pub(crate) fn find_manifest<D: Disk>(
    place: &Place<'_, D>,
    found: &Found,
    recovery: &mut Recovery,
) -> Result<(Option<Manifest<D>>, ManifestState), OpenError> {
    let identity = (place.options.cluster, place.options.partition);
    match Manifest::find(place.disk, place.dir)? {
        ManifestFound::Readable { mut manifest, is_torn } => {
            // What is acted on below must not vanish after that.
            manifest.rewrite()?;
            recovery.is_manifest_torn = is_torn;
            let state = manifest.state().clone();
            match state.identity {
                Some(theirs) if theirs != identity => Err(OpenError::Foreign {
                    path: manifest_path(place.dir, manifest.number()),
                    cluster: theirs.0,
                    partition: theirs.1,
                }),
                _ => Ok((Some(*manifest), state)),
            }
        }
        ManifestFound::Unreadable(reason) => {
            let state = rebuild_manifest(place, found, identity)?;
            if !(state.segments.is_empty() && state.snapshots.is_empty()) {
                recovery.manifest_rebuilt = Some(reason);
            } else if reason != ManifestUnreadable::NoCurrent {
                // No file is left that could contradict, but the hard state and the proof still can.
                recovery.manifest_rebuilt = Some(reason);
            }
            Ok((None, state))
        }
    }
}

fn rebuild_manifest<D: Disk>(
    place: &Place<'_, D>,
    found: &Found,
    identity: ([u8; 16], u32),
) -> Result<ManifestState, OpenError> {
    let mut state = ManifestState { identity: Some(identity), ..ManifestState::default() };
    for index in &found.snapshots {
        let path = snapshot_path(place.dir, *index);
        let at = read_snapshot_at(place.disk, &path)?.filter(|at| at.index == *index);
        if let Some(at) = at {
            state.apply(&Edit::AddSnapshot(at));
        }
    }
    for segment_no in &found.segments {
        state.apply(&Edit::Add { segment_no: *segment_no });
    }
    let Some(first) = found.segments.first() else {
        if let Some(newest) = state.snapshots.values().next_back().copied() {
            state.apply(&Edit::Base(newest));
        }
        return Ok(state);
    };
    let path = segment_path(place.dir, *first);
    let file = place.disk.open_read(&path).at(&path)?;
    // When it is unreadable, loading the segment says so.
    if let Ok(header) = read_segment_header(&file).at(&path)? {
        state.apply(&Edit::Base(crate::snapshot_store::SnapshotAt {
            index: header.base_index.saturating_sub(1),
            term: header.prev_term,
            end: header.base_offset,
        }));
    }
    Ok(state)
}

pub(crate) fn open_hard_state<D: Disk>(
    place: &Place<'_, D>,
    found: &Found,
    has_manifest: bool,
    recovery: &mut Recovery,
) -> Result<HardStateFile<D>, OpenError> {
    let path = place.dir.join(HARD_STATE);
    match HardStateFile::open(place.disk, place.dir).map_err(OpenError::HardState)? {
        Some((hard_state, is_repaired)) => {
            recovery.repaired.extend(is_repaired.then_some(path));
            Ok(hard_state)
        }
        // It is created before the first manifest becomes current.
        None if has_manifest || !found.segments.is_empty() || !found.snapshots.is_empty() => {
            Err(OpenError::HardStateMissing { path })
        }
        None => Ok(HardStateFile::create(place.disk, place.dir)?),
    }
}

/// Lists a segment again that the manifest does not know although it holds frames: frames are only written after the edit was
/// durable, so the edit was lost, not the segment. Returns the other unlisted files that are not remains of our own.
pub(crate) fn adopt_segment<D: Disk>(
    place: &Place<'_, D>,
    found: &Found,
    state: &mut ManifestState,
    recovery: &mut Recovery,
) -> Result<Vec<PathBuf>, OpenError> {
    let mut strays = Vec::new();
    for segment_no in &found.segments {
        if state.segments.contains_key(segment_no) || state.dropped.contains(segment_no) {
            continue;
        }
        let follows = state.segments.keys().next_back().map_or(0, |last| last + 1);
        let path = segment_path(place.dir, *segment_no);
        let content = crate::recovery_segments::glance(place, &path)?;
        match content {
            Glance::Frames if *segment_no == follows => {
                state.apply(&Edit::Add { segment_no: *segment_no });
                recovery.adopted_segments.push(*segment_no);
            }
            Glance::Empty => state.apply(&Edit::Drop { segment_no: *segment_no }),
            Glance::Frames | Glance::Foreign => strays.push(path),
        }
    }
    Ok(strays)
}

/// What an unlisted segment file holds.
pub(crate) enum Glance {
    /// A valid header and a valid first frame.
    Frames,
    /// A valid header and only zeros.
    Empty,
    /// Anything else.
    Foreign,
}

/// Compares the listed snapshots with those there are, and lists whole ones that are not; returns files that are no snapshot of
/// this log.
fn check_snapshots<D: Disk>(
    place: &Place<'_, D>,
    found: &Found,
    state: &mut ManifestState,
    last: Position,
    recovery: &mut Recovery,
) -> Result<Vec<PathBuf>, OpenError> {
    let mut strays = Vec::new();
    for index in &found.snapshots {
        let path = snapshot_path(place.dir, *index);
        let at = read_snapshot_at(place.disk, &path)?;
        match (state.snapshots.get(index), at) {
            (Some(listed), Some(at)) if *listed == at => {}
            (Some(_), _) => recovery.damaged_snapshots.push(path),
            (None, Some(at))
                if at.index == *index
                    && at.position() <= last
                    && adopt_snapshot(place.disk, place.dir, at)? =>
            {
                state.apply(&Edit::AddSnapshot(at));
                recovery.adopted_snapshots.push(*index);
            }
            (None, _) => strays.push(path),
        }
    }
    let missing = state.snapshots.keys().filter(|index| !found.snapshots.contains(index));
    recovery.damaged_snapshots.extend(missing.map(|index| snapshot_path(place.dir, *index)));
    Ok(strays)
}

/// Makes the manifest say what was found out.
pub(crate) fn settle_manifest<D: Disk>(
    place: &Place<'_, D>,
    found: &Found,
    manifest: Option<Manifest<D>>,
    state: ManifestState,
    recovery: &Recovery,
) -> Result<Manifest<D>, OpenError> {
    let Some(mut manifest) = manifest else {
        let number = found.manifests.iter().max().map_or(1, |last| last + 1);
        return Ok(Manifest::create(place.disk, place.dir, number, state)?);
    };
    if recovery.is_manifest_torn || *manifest.state() != state {
        manifest.replace(state)?;
    }
    Ok(manifest)
}

/// Removes what is left of unfinished steps, and quarantines what is not ours.
fn tidy_up<D: Disk>(
    place: &Place<'_, D>,
    found: &Found,
    manifest: &Manifest<D>,
    strays: &[PathBuf],
    recovery: &mut Recovery,
) -> Result<(), OpenError> {
    let unknown = [found.unknown.as_slice(), strays].concat();
    recovery.quarantined = quarantine(place.disk, place.dir, &unknown)?;
    let stale = found.manifests.iter().filter(|number| **number != manifest.number());
    let stale: Vec<_> = stale.map(|number| manifest_path(place.dir, *number)).collect();
    let dropped = manifest.state().dropped.iter().filter(|number| found.segments.contains(number));
    let dropped: Vec<_> = dropped.map(|number| segment_path(place.dir, *number)).collect();
    // An index without its segment is of no use, and can be built again: nothing is lost with it.
    let listed = &manifest.state().segments;
    let indexes = found.indexes.iter().filter(|number| !listed.contains_key(number));
    let indexes: Vec<_> = indexes.map(|number| index_path(place.dir, *number)).collect();
    let removable = [found.removable.as_slice(), &stale, &dropped, &indexes].concat();
    remove_all(place.disk, &removable)?;
    if !dropped.is_empty() {
        sync_dir(place.disk, crate::layout::parent(&dropped[0]))?;
    }
    Ok(())
}
