//! Random histories of a log on a simulated disk, and the oracle that judges every crash in them.
//!
//! The disk's observer is called after every operation that may change it. Each time the power is cut with several seeds, and
//! the process killed once, and what is then recovered must be one of the worlds the oracle allows: everything acknowledged is
//! there, what is there is a prefix of what was submitted, and nothing else is.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fluxmq_index::sealed::{Fault, SealedError};
use fluxmq_log::format::{FLAG_ROLL, Frame, FrameKind};
use fluxmq_log::sim_disk::{Crash, SimDisk};
use fluxmq_log::{Entry, HardState, Log, Offset, Position, Recovery, SnapshotAt};

use super::{Random, canonical, entry, frames, try_open};

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub operations: u64,
    pub seeds_per_point: u64,
    /// One crash in this many is followed by crashes during its recovery.
    pub nested_every: u64,
    /// Entries are acknowledged when they are written, and synced later.
    pub is_lazy: bool,
}

/// What was tried, and what was seen on the way: a campaign that never saw a torn tail proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub crash_points: u64,
    pub cuts: u64,
    pub adopted_segments: u64,
    pub removed_segments: u64,
    pub torn_manifests: u64,
    pub resumed_truncations: u64,
    pub repaired_slots: u64,
    pub crashes_in_recovery: u64,
    pub segments_trimmed: u64,
    pub entries_truncated: u64,
    pub snapshots_installed: u64,
    pub spares_used: u64,
    pub indexes_built: u64,
    /// Power cuts that took what was only written.
    pub unsynced_lost: u64,
    /// Crashes of the process after which it was there.
    pub unsynced_kept: u64,
}

impl Seen {
    pub fn add(&mut self, other: Seen) {
        self.crash_points += other.crash_points;
        self.cuts += other.cuts;
        self.adopted_segments += other.adopted_segments;
        self.removed_segments += other.removed_segments;
        self.torn_manifests += other.torn_manifests;
        self.resumed_truncations += other.resumed_truncations;
        self.repaired_slots += other.repaired_slots;
        self.crashes_in_recovery += other.crashes_in_recovery;
        self.segments_trimmed += other.segments_trimmed;
        self.entries_truncated += other.entries_truncated;
        self.snapshots_installed += other.snapshots_installed;
        self.spares_used += other.spares_used;
        self.indexes_built += other.indexes_built;
        self.unsynced_lost += other.unsynced_lost;
        self.unsynced_kept += other.unsynced_kept;
    }

    /// Returns every count: each must be above zero in a campaign worth the name. Crashes alone never make a segment be
    /// adopted: that takes a manifest that rots.
    pub fn interesting(&self) -> Vec<u64> {
        vec![
            self.cuts,
            self.removed_segments,
            self.torn_manifests,
            self.resumed_truncations,
            self.repaired_slots,
            self.crashes_in_recovery,
            self.segments_trimmed,
            self.entries_truncated,
            self.snapshots_installed,
            self.spares_used,
        ]
    }
}

/// One state a crash may lead to.
#[derive(Clone, Debug)]
struct World {
    /// The first index, before and after a trim.
    first: (u64, u64),
    /// Everything submitted, from `first.0` on.
    submitted: Vec<Frame>,
    /// Everything up to here is synced: no crash may take it.
    acknowledged: u64,
    /// Everything up to here is written: only a power cut may take it.
    written: u64,
    /// The newest snapshot that was acknowledged; 0 for none.
    snapshot: u64,
}

#[derive(Clone, Debug)]
struct Model {
    worlds: Vec<World>,
    /// Term and vote, old and new.
    votes: Vec<(u64, u64)>,
    commit: u64,
    /// All snapshots ever begun.
    snapshots: Vec<(SnapshotAt, Vec<Bytes>)>,
    /// The log is trimmed to snapshots only, and has the one that it begins after.
    keeps_base: bool,
    seen: Seen,
    failure: Option<String>,
}

pub struct History {
    disk: SimDisk,
    log: Option<Log<SimDisk>>,
    model: Arc<Mutex<Model>>,
    random: Random,
    effort: Effort,
    term: u64,
}

/// Runs one history to its end or its first failure.
pub fn run(seed: u64, effort: Effort) -> Result<Seen, String> {
    let mut history = History::new(seed, effort);
    for number in 0..effort.operations {
        let name = history.step();
        let failure = history.lock().failure.take();
        if let Some(failure) = failure {
            return Err(format!("history {seed}, operation {number} ({name}): {failure}"));
        }
    }
    history.disk.set_observer(None);
    let seen = history.lock().seen;
    Ok(seen)
}

impl History {
    fn new(seed: u64, effort: Effort) -> Self {
        let world = World {
            first: (1, 1),
            submitted: Vec::new(),
            acknowledged: 0,
            written: 0,
            snapshot: 0,
        };
        let model = Model {
            worlds: vec![world],
            votes: vec![(0, 0)],
            commit: 0,
            snapshots: Vec::new(),
            keeps_base: seed.is_multiple_of(2),
            seen: Seen::default(),
            failure: None,
        };
        let mut history = History {
            disk: SimDisk::new(seed),
            log: None,
            model: Arc::new(Mutex::new(model)),
            random: Random(seed),
            effort,
            term: 1,
        };
        history.observe();
        history.open();
        history
    }

    fn observe(&mut self) {
        let (model, effort) = (self.model.clone(), self.effort);
        let salt = self.random.next();
        self.disk.set_observer(Some(Arc::new(move |disk: &SimDisk| {
            let mut model = model.lock().unwrap_or_else(PoisonError::into_inner);
            if model.failure.is_none() {
                crash_everywhere(disk, &mut model, effort, salt);
            }
        })));
    }

    fn step(&mut self) -> &'static str {
        match self.random.below(100) {
            0..29 => self.append(),
            29..48 => self.flush(),
            48..53 => self.overlapped_flush(),
            53..58 => self.roll(),
            58..63 => self.seal(),
            63..67 => self.vote(),
            67..75 => self.commit(),
            75..83 => self.save_snapshot(),
            83..87 => self.truncate(),
            87..89 => self.log().note_idle().map(|()| "note_idle").unwrap(),
            89..93 => self.trim(),
            93..94 => self.install(),
            94..96 => self.spare(),
            96..97 => self.reopen(),
            97..98 => self.rot(),
            _ => self.crash_and_go_on(),
        }
    }

    fn append(&mut self) -> &'static str {
        for _ in 0..=self.random.below(4) {
            let payload_bytes = match self.random.below(8) {
                0 => self.random.below(6_000),
                1 => self.random.below(1_000),
                _ => self.random.below(200),
            } as usize;
            let term = self.term;
            let mut entry = entry(self.log(), term, payload_bytes);
            entry.commit_hint = self.lock().commit;
            self.submit(entry);
        }
        "append"
    }

    fn flush(&mut self) -> &'static str {
        if self.effort.is_lazy && self.random.below(4) > 0 {
            return self.write();
        }
        let has_spare = self.log().has_spare();
        self.log().flush().unwrap();
        let durable = self.log().durable();
        let is_used = has_spare && !self.log().has_spare();
        self.lock().seen.spares_used += u64::from(is_used);
        self.acknowledge(durable.index);
        "flush"
    }

    fn overlapped_flush(&mut self) -> &'static str {
        self.append();
        if self.effort.is_lazy {
            self.write();
        }
        let Some(flush) = self.log().begin_flush() else { return "nothing to flush" };
        self.append();
        if self.effort.is_lazy {
            // While a flush only syncs, writing goes on.
            self.write();
        }
        let flushed = flush.run();
        self.log().finish_flush(flushed).unwrap();
        let durable = self.log().durable();
        self.acknowledge(durable.index);
        "overlapped flush"
    }

    /// What a broker that acknowledges from memory does for every batch.
    fn write(&mut self) -> &'static str {
        let written = self.log().write().unwrap();
        self.lock().worlds[0].written = written.index;
        "write"
    }

    fn roll(&mut self) -> &'static str {
        let term = self.term;
        let mut entry = entry(self.log(), term, 20);
        entry.flags |= FLAG_ROLL;
        self.submit(entry);
        "roll"
    }

    fn seal(&mut self) -> &'static str {
        let segments = self.log().segments();
        if segments.last().is_some_and(|segment| !segment.is_sealed) {
            let (index, body) = (self.log().last_index() + 1, self.log().seal_body());
            let entry = Entry::without_records(index, self.term, FrameKind::Seal, 0, body);
            self.submit(entry);
        }
        "seal"
    }

    fn vote(&mut self) -> &'static str {
        self.term += self.random.below(2);
        let state = HardState {
            term: self.term,
            vote: 1 + self.random.below(3),
            commit: self.log().hard_state().commit,
        };
        self.lock().votes.push((state.term, state.vote));
        self.log().save_hard_state(state).unwrap();
        self.lock().votes = vec![(state.term, state.vote)];
        "vote"
    }

    fn commit(&mut self) -> &'static str {
        let durable = self.log().durable().index;
        let old = self.log().hard_state();
        let commit = old.commit.max(durable.saturating_sub(self.random.below(4)));
        self.lock().commit = commit;
        self.log().save_hard_state(HardState { commit, ..old }).unwrap();
        "commit"
    }

    fn save_snapshot(&mut self) -> &'static str {
        let committed = self.lock().commit;
        let segments = self.log().segments();
        let sealed = segments.iter().filter(|it| it.is_sealed && it.last_index <= committed);
        let end = sealed.map(|segment| segment.last_index).next_back();
        let newest = self.log().snapshots().last().map_or(0, |at| at.index);
        let index = match end.filter(|end| *end > newest) {
            Some(end) if self.random.below(2) == 0 => end,
            _ => committed,
        };
        let Some(at) = self.snapshot_at(index) else { return "nothing to snapshot" };
        let chunks = self.begin_snapshot(at);
        self.log().save_snapshot(at, &chunks).unwrap();
        self.lock().worlds[0].snapshot = at.index;
        "save_snapshot"
    }

    fn truncate(&mut self) -> &'static str {
        let newest = self.lock().snapshots.iter().map(|(at, _)| at.index).max().unwrap_or(0);
        let committed = self.lock().commit.max(newest);
        let kept = committed.max(self.log().first_index() - 1);
        let last = self.log().last_index();
        if last <= kept {
            return "nothing to truncate";
        }
        let from = kept + 1 + self.random.below(last - kept);
        let acknowledged = self.lock().worlds[0].acknowledged.min(from - 1);
        self.lock().worlds[0].written = acknowledged;
        self.acknowledge(acknowledged);
        self.log().truncate_suffix(from).unwrap();
        let mut model = self.lock();
        model.seen.entries_truncated += last + 1 - from;
        let world = &mut model.worlds[0];
        world.submitted.truncate((from - world.first.0) as usize);
        drop(model);
        self.term += 1;
        "truncate_suffix"
    }

    fn trim(&mut self) -> &'static str {
        let to_index = self.log().last_index();
        let before = self.log().segments().len();
        self.lock().worlds[0].first.1 = u64::MAX;
        let keeps_base = self.lock().keeps_base;
        let first = match keeps_base {
            true => self.log().trim_to_snapshot(to_index + 1).unwrap(),
            false => self.log().trim_prefix(to_index).unwrap(),
        };
        let trimmed = before - self.log().segments().len();
        let mut model = self.lock();
        model.seen.segments_trimmed += trimmed as u64;
        let world = &mut model.worlds[0];
        world.submitted.drain(..(first - world.first.0) as usize);
        world.first = (first, first);
        "trim"
    }

    fn install(&mut self) -> &'static str {
        let last = self.log().last();
        let index = last.index + 1 + self.random.below(20);
        let end = last.end.plus(self.random.below(30));
        let at = SnapshotAt { index, term: self.term, end };
        let chunks = self.begin_snapshot(at);
        let after = World {
            first: (index + 1, index + 1),
            submitted: Vec::new(),
            acknowledged: index,
            written: index,
            snapshot: index,
        };
        self.lock().worlds.push(after);
        self.log().install_snapshot(at, None, &chunks).unwrap();
        self.lock().worlds.remove(0);
        self.lock().seen.snapshots_installed += 1;
        "install_snapshot"
    }

    fn spare(&mut self) -> &'static str {
        if let Some(job) = self.log().prepare_spare() {
            let prepared = job.run();
            self.log().finish_spare(prepared).unwrap();
        }
        let commit = self.log().hard_state().commit;
        if let Some(job) = self.log().prepare_index(commit) {
            let built = job.run();
            self.log().finish_index(built).unwrap();
            self.lock().seen.indexes_built += 1;
        }
        "spare and index"
    }

    fn reopen(&mut self) -> &'static str {
        self.log = None;
        self.open();
        "reopen"
    }

    /// One bit of one file flips while the log is closed: that is refused, or makes no difference to what is served.
    fn rot(&mut self) -> &'static str {
        let image = self.disk.crash_image(Crash::Process);
        drop(try_open(&image).expect("an image that was judged good before"));
        let healthy = Healthy::of(&image);
        for _ in 0..20 {
            let rotten = image.crash_image(Crash::Process);
            let files = rotten.contents();
            let files: Vec<_> = files
                .iter()
                .filter_map(|(path, bytes)| Some((path, bytes.as_ref()?)))
                .filter(|(_, bytes)| !bytes.is_empty())
                .collect();
            let (path, bytes) = files[self.random.below(files.len() as u64) as usize];
            // Most of a file is zeros that nobody reads: prefer what was written.
            let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
            let bit = self.random.below(written * 8);
            rotten.flip_bit(path, bit).unwrap();
            if let Err(what) = healthy.judge(&rotten) {
                self.lock().failure = Some(format!("bit {bit} of {}: {what}", path.display()));
            }
        }
        "rot"
    }

    /// The history goes on with what a crash left.
    fn crash_and_go_on(&mut self) -> &'static str {
        self.log = None;
        self.disk.set_observer(None);
        let seed = self.random.next();
        let crash = if seed.is_multiple_of(4) { Crash::Process } else { Crash::PowerCut { seed } };
        self.disk = self.disk.crash_image(crash);
        let model = self.lock().after(crash);
        *self.lock() = model;
        self.observe();
        self.open();
        "crash and go on"
    }

    /// Opens the log; what it then holds is acknowledged.
    fn open(&mut self) {
        let (log, _) = match try_open(&self.disk) {
            Ok(opened) => opened,
            Err(error) => panic!("an image that was judged good before: {error}"),
        };
        let frames = canonical(&frames(&log));
        let mut model = self.lock();
        let world = &mut model.worlds[0];
        world.first = (log.first_index(), log.first_index());
        (world.acknowledged, world.written) = (log.last_index(), log.last_index());
        world.submitted = frames;
        let state = log.hard_state();
        model.votes = vec![(state.term, state.vote)];
        drop(model);
        self.term = self.term.max(state.term);
        self.log = Some(log);
    }

    fn submit(&mut self, entry: Entry) {
        let index = entry.index;
        self.log().append(entry).unwrap();
        let frame = self.log().entries(index, index + 1, 1).unwrap();
        self.lock().worlds[0].submitted.extend(canonical(&frame));
    }

    fn acknowledge(&mut self, index: u64) {
        let mut model = self.lock();
        let world = &mut model.worlds[0];
        world.acknowledged = index;
        world.written = world.written.max(index);
    }

    fn snapshot_at(&mut self, index: u64) -> Option<SnapshotAt> {
        let log = self.log();
        let has = index >= log.first_index() && index <= log.last_index();
        let frame = has.then(|| log.entries(index, index + 1, 1).unwrap().remove(0))?;
        Some(SnapshotAt { index, term: frame.header.term, end: frame.header.end_offset() })
    }

    fn begin_snapshot(&mut self, at: SnapshotAt) -> Vec<Bytes> {
        let text = format!("state at {} of term {}", at.index, at.term);
        let mut chunks = vec![Bytes::from(text), Bytes::new()];
        chunks.push(Bytes::from(vec![at.index as u8; self.random.below(3_000) as usize]));
        self.lock().snapshots.push((at, chunks.clone()));
        chunks
    }

    fn log(&mut self) -> &mut Log<SimDisk> {
        self.log.as_mut().expect("open between operations")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Model {
    /// What may be expected when recovery from a crash ends in another one.
    fn after(&self, crash: Crash) -> Model {
        let mut model = self.clone();
        if crash != Crash::Process {
            // What the first crash took, the second cannot bring back.
            model.worlds.iter_mut().for_each(|world| world.written = world.acknowledged);
        }
        model
    }

    fn count_unsynced(&mut self, crash: Crash, last_index: u64) {
        let [world] = &self.worlds[..] else { return };
        if world.acknowledged < world.written {
            let is_lost = last_index < world.written;
            self.seen.unsynced_lost += u64::from(is_lost);
            self.seen.unsynced_kept += u64::from(!is_lost && crash == Crash::Process);
        }
    }
}

fn crash_everywhere(disk: &SimDisk, model: &mut Model, effort: Effort, salt: u64) {
    let operation = disk.operations();
    let mut random = Random(salt ^ operation.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let mut crashes = vec![Crash::LoseUnsynced, Crash::Process];
    crashes.extend((0..effort.seeds_per_point).map(|_| Crash::PowerCut { seed: random.next() }));
    for crash in crashes {
        let is_nested = effort.nested_every > 0 && random.below(effort.nested_every) == 0;
        let image = disk.crash_image(crash);
        let judged = judge(&image, crash, model, is_nested, effort, random.next());
        if let Err(what) = judged {
            model.failure = Some(format!("disk operation {operation}, {crash:?}: {what}"));
            return;
        }
    }
}

/// Opens what a crash left, and compares it with what the model allows.
fn judge(
    image: &SimDisk,
    crash: Crash,
    model: &mut Model,
    is_nested: bool,
    effort: Effort,
    salt: u64,
) -> Result<(), String> {
    model.seen.crash_points += 1;
    let nested = is_nested.then(|| Arc::new(Mutex::new(model.after(crash))));
    if let Some(nested) = &nested {
        let (nested, effort) = (nested.clone(), Effort { nested_every: 0, ..effort });
        image.set_observer(Some(Arc::new(move |disk: &SimDisk| {
            let mut model = nested.lock().unwrap_or_else(PoisonError::into_inner);
            if model.failure.is_none() {
                model.seen.crashes_in_recovery += 1;
                crash_everywhere(disk, &mut model, effort, salt);
            }
        })));
    }
    let (mut log, recovery) = try_open(image).map_err(|error| format!("refused: {error}"))?;
    image.set_observer(None);
    if let Some(nested) = nested {
        let nested = nested.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = &nested.failure {
            return Err(format!("in recovery: {failure}"));
        }
        model.seen = nested.seen;
    }
    let seen = &mut model.seen;
    seen.cuts += u64::from(recovery.cut.is_some());
    seen.adopted_segments += recovery.adopted_segments.len() as u64;
    seen.removed_segments += u64::from(recovery.removed_segment.is_some());
    seen.torn_manifests += u64::from(recovery.is_manifest_torn);
    seen.resumed_truncations += u64::from(recovery.has_resumed_truncation);
    seen.repaired_slots += recovery.repaired.len() as u64;
    // A snapshot that was received whole but not installed is ahead of the log: nothing of ours to remove.
    let is_received =
        |path: &PathBuf| model.worlds.len() > 1 && path.to_string_lossy().contains(".snap");
    if !recovery.quarantined.iter().all(is_received) {
        return Err(format!("quarantined {:?}", recovery.quarantined));
    }
    let frames = canonical(&frames(&log));
    let reasons: Vec<String> = model
        .worlds
        .iter()
        .filter_map(|world| world.judge(crash, &mut log, &frames, &model.snapshots).err())
        .collect();
    if reasons.len() == model.worlds.len() {
        return Err(reasons.join("; or "));
    }
    model.count_unsynced(crash, log.last_index());
    if model.keeps_base {
        judge_base(&log)?;
    }
    judge_indexes(&log)?;
    let state = log.hard_state();
    if !model.votes.contains(&(state.term, state.vote)) {
        return Err(format!("{state:?} instead of one of {:?}", model.votes));
    }
    if state.commit > model.commit || state.commit > log.last_index() {
        return Err(format!("commit {} was never saved", state.commit));
    }
    if salt.is_multiple_of(4) {
        is_durable(image, &frames, state)?;
    }
    if salt.is_multiple_of(16) { is_usable(log, image, salt) } else { Ok(()) }
}

/// A log that begins late has the snapshot that it begins after: what a replica is given that is behind it.
fn judge_base(log: &Log<SimDisk>) -> Result<(), String> {
    match log.given_snapshot() {
        _ if log.first_index() == 1 => Ok(()),
        Ok(Some(given)) if given.at.index + 1 == log.first_index() => Ok(()),
        Ok(_) => Err(format!("begins at {} after no snapshot", log.first_index())),
        Err(error) => Err(format!("begins at {}: {error}", log.first_index())),
    }
}

/// An index that a crash left is whole, or that of another segment; what it says of frames is so.
fn judge_indexes(log: &Log<SimDisk>) -> Result<(), String> {
    for span in log.spans((log.first_offset(), log.last().end)) {
        let index = match log.open_index(span.segment_no) {
            Ok(Some(index)) => index,
            Ok(None) | Err(SealedError::Fault(Fault::Foreign { .. })) => continue,
            Err(error) => return Err(format!("index of {span:?}: {error}")),
        };
        let failed = |error| format!("index of {span:?}: {error}");
        index.load().map_err(failed)?;
        for offset in (span.base.0..span.end.0).map(Offset) {
            let frame = index.frame_at(offset).map_err(failed)?;
            let found = frame.map(|frame| (frame.base_offset, frame.base_ts));
            let header = log.read(offset, 1).map_err(|error| error.to_string())?[0].header;
            if found != Some((header.base_offset, header.base_ts)) {
                return Err(format!("the index has {found:?} for offset {offset}: {header:?}"));
            }
        }
    }
    Ok(())
}

/// What recovery showed once must not be gone after the next power cut.
fn is_durable(image: &SimDisk, shown: &[Frame], state: HardState) -> Result<(), String> {
    let image = image.crash_image(Crash::LoseUnsynced);
    let (log, _) = try_open(&image).map_err(|error| format!("after recovery: {error}"))?;
    if canonical(&frames(&log)) != shown || log.hard_state() != state {
        return Err("what was recovered is gone again".to_owned());
    }
    Ok(())
}

/// What a disk served before it rotted.
pub struct Healthy {
    first: u64,
    last: Position,
    frames: Vec<Frame>,
    state: HardState,
    newest: Option<(SnapshotAt, Vec<Bytes>)>,
}

impl Healthy {
    pub fn of(disk: &SimDisk) -> Self {
        let (mut log, _) = try_open(&disk.crash_image(Crash::Process)).unwrap();
        Healthy {
            first: log.first_index(),
            last: log.last(),
            frames: canonical(&frames(&log)),
            state: log.hard_state(),
            newest: log.newest_snapshot().unwrap(),
        }
    }

    pub fn snapshot_index(&self) -> u64 {
        self.newest.as_ref().map_or(0, |(at, _)| at.index)
    }

    /// Compares what is served from the disk after it rotted, and says whether anybody noticed.
    pub fn judge(&self, rotten: &SimDisk) -> Result<bool, String> {
        let Ok((mut log, recovery)) = try_open(rotten) else { return Ok(true) };
        let Recovery { frames_scanned, bytes_scanned, .. } = recovery;
        let clean = Recovery { frames_scanned, bytes_scanned, ..Recovery::default() };
        let mut is_noticed = recovery != clean;
        let end = self.last.index + 1;
        let all = log.entries(self.first, end, u64::MAX).map(|all| canonical(&all));
        // When something is damaged, all the rest must still be served.
        if all.as_ref().ok() != Some(&self.frames) {
            for (index, expected) in (self.first..end).zip(&self.frames) {
                if index < log.first_index() || index > log.last_index() {
                    return Err(format!("entry {index} is gone, and {recovery:?} is all there is"));
                }
                match log.entries(index, index + 1, 1) {
                    Ok(served) if canonical(&served)[0] != *expected => {
                        return Err(format!("entry {index} is served with other bytes"));
                    }
                    Ok(_) => {}
                    Err(_) => is_noticed = true,
                }
            }
        }
        if log.last() != self.last {
            return Err(format!("ends at {:?} instead of {:?}", log.last(), self.last));
        }
        // The commit index is written to one slot only.
        let state = log.hard_state();
        let vote = (state.term, state.vote);
        if vote != (self.state.term, self.state.vote) || state.commit > self.state.commit {
            return Err(format!("{state:?} instead of {:?}", self.state));
        }
        let served = log.newest_snapshot();
        is_noticed |= served.is_err() || !log.damaged_snapshots().is_empty();
        match (served, &self.newest) {
            (Ok(served), newest) if served == *newest => Ok(is_noticed),
            // The older one is served, and the damaged one named.
            (Ok(Some((at, _))), Some((newest, _))) if at.index < newest.index && is_noticed => {
                Ok(true)
            }
            (Ok(served), _) => Err(format!("snapshot {:?} is served", served.map(|(at, _)| at))),
            (Err(_), _) => Ok(true),
        }
    }
}

impl World {
    fn judge(
        &self,
        crash: Crash,
        log: &mut Log<SimDisk>,
        frames: &[Frame],
        snapshots: &[(SnapshotAt, Vec<Bytes>)],
    ) -> Result<(), String> {
        let (first, last) = (log.first_index(), log.last_index());
        if first < self.first.0 || first > self.first.1 {
            return Err(format!("begins at {first} instead of {:?}", self.first));
        }
        let kept = if crash == Crash::Process { self.written } else { self.acknowledged };
        if last < kept {
            return Err(format!("ends at {last}, acknowledged was {kept}"));
        }
        let skipped = (first - self.first.0) as usize;
        let expected = self.submitted.get(skipped..).unwrap_or_default();
        if expected.get(..frames.len()) != Some(frames) {
            let wrong = frames.iter().zip(expected).find(|(ours, theirs)| ours != theirs);
            return Err(format!("is no prefix of what was submitted: {wrong:?}"));
        }
        let newest = log.newest_snapshot().map_err(|error| error.to_string())?;
        let index = newest.as_ref().map_or(0, |(at, _)| at.index);
        if index < self.snapshot {
            return Err(format!("snapshot at {index}, acknowledged was {}", self.snapshot));
        }
        match newest {
            Some(newest) if !snapshots.contains(&newest) => {
                Err(format!("snapshot {:?} was never saved", newest.0))
            }
            _ => Ok(()),
        }
    }
}

/// What was recovered takes an entry, and keeps it through the next power cut.
fn is_usable(mut log: Log<SimDisk>, image: &SimDisk, salt: u64) -> Result<(), String> {
    let before = canonical(&frames(&log));
    let term = log.term(log.last_index()).expect("the last entry has a term");
    let next = entry(&log, term, 30);
    log.append(next).map_err(|error| format!("after recovery: {error}"))?;
    log.flush().map_err(|error| format!("after recovery: {error}"))?;
    let after = canonical(&frames(&log));
    let image = image.crash_image(Crash::PowerCut { seed: salt });
    let (log, _) = try_open(&image).map_err(|error| format!("after recovery: {error}"))?;
    let again = canonical(&frames(&log));
    if again != after || after[..before.len()] != before {
        return Err("what was appended after recovery is gone".to_owned());
    }
    Ok(())
}
