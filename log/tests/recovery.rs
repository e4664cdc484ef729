//! The rules of recovery, row by row: what is cut, what is refused, what is repaired, and what is never touched.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // All of it is test code.

mod support;

use std::path::{Path, PathBuf};

use fluxmq_log::disk::{Disk, DiskFile};
use fluxmq_log::sim_disk::{Crash, Faults, NameFault, SimDisk, SyncFault, WriteFault};
use fluxmq_log::{
    AppendError, Damage, FlushError, HardState, HardStateError, Life, Log, LogOptions,
    ManifestUnreadable, Offset, OpenError, Proof, Recovery, SnapshotAt, TailDamage, TruncateError,
};
use support::*;

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn damage(disk: &SimDisk) -> Damage {
    let before = disk.contents();
    match try_open(disk) {
        Err(OpenError::Damaged(damage)) => {
            assert_eq!(disk.contents(), before, "a refusal changes nothing");
            *damage
        }
        Err(error) => panic!("refused for another reason: {error}"),
        Ok((_, recovery)) => panic!("opened with {recovery:?}"),
    }
}

fn refusal(disk: &SimDisk) -> OpenError {
    match try_open(disk) {
        Err(error) => error,
        Ok((_, recovery)) => panic!("opened with {recovery:?}"),
    }
}

/// Where a frame begins, by its index, in the first segment.
fn position(disk: &SimDisk, index: u64) -> u64 {
    let log = open(&disk.crash_image(Crash::Process));
    let before = log.entries(1, index + 1, u64::MAX).unwrap();
    let before = before[..index as usize - 1].iter();
    4096 + before.map(|frame| frame.header.frame_bytes()).sum::<u64>()
}

/// A log of two flushes of five entries, of which only the first is proven, by the frames of the second.
fn two_flushes() -> SimDisk {
    let disk = SimDisk::new(1);
    let mut log = open(&disk);
    append_and_flush(&mut log, 5);
    append_and_flush(&mut log, 5);
    disk
}

#[test]
fn a_torn_tail_is_cut_and_said() {
    let disk = two_flushes();
    let at = position(&disk, 8);
    disk.flip_bit(&segment_file(0), (at + 100) * 8).unwrap();

    let (log, recovery) = try_open(&disk).unwrap();

    let cut = recovery.cut.unwrap();
    assert_eq!((cut.from_bytes, cut.first_index, cut.first_offset), (at, 8, Offset(14)));
    assert_eq!(cut.later_frames, 3, "with the damaged one, whose header is intact");
    assert_eq!(log.last_index(), 7);
    drop(log);
    assert_eq!(open_clean(&disk).last_index(), 7);
}

#[test]
fn an_empty_header_before_intact_frames_is_a_torn_tail_too() {
    let disk = two_flushes();
    let at = position(&disk, 6);
    disk.zero(&segment_file(0), at..at + 96).unwrap();

    let (log, recovery) = try_open(&disk).unwrap();

    assert_eq!(recovery.cut.unwrap().later_frames, 4);
    assert_eq!(log.last_index(), 5);
    drop(log);
    assert_eq!(open_clean(&disk).last_index(), 5);
}

#[test]
fn rot_below_the_synced_position_of_a_later_frame_is_refused() {
    for at in [0, 20, 100] {
        let disk = two_flushes();
        let from_bytes = position(&disk, 4);
        disk.flip_bit(&segment_file(0), (from_bytes + at) * 8).unwrap();

        let damage = damage(&disk);

        assert_eq!((damage.proof, damage.from_bytes), (Proof::LaterFrame, from_bytes));
        assert_eq!((damage.first_index, damage.first_offset), (4, Offset(6)));
        assert_eq!(damage.end_offset, Some(Offset(8)));
        let message = damage.to_string();
        assert!(message.contains("offsets from 6 to before 8"), "{message}");
        assert!(message.contains(&damage.hint()), "{message}");
    }
}

#[test]
fn rot_is_refused_on_every_proof_there_is() {
    let last_frame_rots = |prove: &dyn Fn(&mut Log<SimDisk>)| {
        let disk = two_flushes();
        let mut log = Log::open(disk.clone(), DIR.into(), options()).unwrap().0;
        append_and_flush(&mut log, 5);
        let flushed = disk.crash_image(Crash::Process);
        prove(&mut log);
        drop(log);
        disk.flip_bit(&segment_file(0), (position(&flushed, 14) + 100) * 8).unwrap();
        damage(&disk).proof
    };

    assert_eq!(last_frame_rots(&|log| log.note_idle().unwrap()), Proof::SyncProof);
    let state = HardState { term: 1, vote: 1, commit: 15 };
    assert_eq!(last_frame_rots(&|log| log.save_hard_state(state).unwrap()), Proof::HardState);
    let at = SnapshotAt { index: 15, term: 1, end: Offset(30) };
    assert_eq!(last_frame_rots(&|log| log.save_snapshot(at, &[]).unwrap()), Proof::Snapshot);
    let roll = |log: &mut Log<SimDisk>| {
        roll(log);
        log.flush().unwrap();
    };
    assert_eq!(last_frame_rots(&roll), Proof::LaterSegment);
}

/// A follower that lags gets entries in one flush with a later one that calls them committed, of which any part may be lost.
#[test]
fn what_a_leader_calls_committed_is_cut_where_it_was_never_synced() {
    let disk = two_flushes();
    let mut log = open(&disk);
    append(&mut log, 2);
    let mut hinting = entry(&log, 1, 10);
    hinting.commit_hint = 11;
    log.append(hinting).unwrap();
    log.flush().unwrap();
    drop(log);
    disk.flip_bit(&segment_file(0), (position(&disk, 11) + 100) * 8).unwrap();

    let (log, recovery) = try_open(&disk).unwrap();

    assert_eq!((log.last_index(), log.must_reach()), (10, None));
    let cut = recovery.cut.unwrap();
    assert_eq!(cut.first_index, 11);
}

/// A replica's own word on what it synced is at least as strong as the hint, so that nothing is lost without the latter.
#[test]
fn what_was_committed_here_is_not_cut() {
    let disk = two_flushes();
    let mut log = open(&disk);
    append_and_flush(&mut log, 1);
    let mut hinting = entry(&log, 1, 10);
    hinting.commit_hint = log.durable().index;
    log.append(hinting).unwrap();
    log.flush().unwrap();
    drop(log);
    disk.flip_bit(&segment_file(0), (position(&disk, 11) + 100) * 8).unwrap();

    assert_eq!(damage(&disk).proof, Proof::LaterFrame);
}

#[test]
fn a_proven_suffix_that_reads_as_zeros_is_refused() {
    let disk = two_flushes();
    open(&disk).note_idle().unwrap();
    let at = position(&disk, 8);
    disk.zero(&segment_file(0), at..at + 4096).unwrap();

    let damage = damage(&disk);

    assert_eq!((damage.proof, damage.first_index), (Proof::SyncProof, 8));
    assert!(damage.to_string().contains("no frame where one was written"), "{damage}");
}

#[test]
fn a_damaged_segment_header_is_refused() {
    let disk = two_flushes();
    disk.flip_bit(&segment_file(0), 3000 * 8).unwrap();

    assert_eq!(damage(&disk).from_bytes, 0);
}

#[test]
fn rot_behind_the_end_of_a_closed_segment_is_wiped_and_said() {
    let disk = SimDisk::new(1);
    let mut log = open(&disk);
    append_and_flush(&mut log, 5);
    seal(&mut log);
    append_and_flush(&mut log, 5);
    roll(&mut log);
    append_and_flush(&mut log, 5);
    append_and_flush(&mut log, 5);
    let ends: Vec<u64> = log.segments().iter().map(|segment| segment.end_bytes).collect();
    drop(log);
    // Of the sealed one directly behind its seal, of the other further on.
    let rot = [(0, ends[0]), (1, ends[1] + 4_000)];
    for (segment_no, at) in rot {
        disk.flip_bit(&segment_file(segment_no), at * 8 + 3).unwrap();
    }
    let before = disk.contents();

    // Not as long as something else refuses the log.
    let refused = disk.crash_image(Crash::Process);
    refused.flip_bit(&segment_file(2), 4_200 * 8).unwrap();
    damage(&refused);
    let (log, recovery) = try_open(&disk).unwrap();

    let wiped = recovery.wiped.iter().map(|wiped| {
        assert!(wiped.to_bytes - wiped.from_bytes <= 4_008, "no more than what rotted");
        (wiped.path.clone(), wiped.from_bytes)
    });
    assert!(wiped.eq([0, 1].map(|number| (segment_file(number), ends[number as usize]))));
    assert_eq!(log.last_index(), 22);
    drop(log);
    assert_ne!(disk.contents(), before);
    open_clean(&disk.crash_image(Crash::LoseUnsynced));
}

#[test]
fn a_missing_segment_is_refused() {
    for (missing, after) in [(0, 0), (1, 6), (2, 7)] {
        let disk = SimDisk::new(1);
        let mut log = open(&disk);
        append(&mut log, 5);
        seal(&mut log);
        append(&mut log, 1);
        roll(&mut log);
        log.flush().unwrap();
        drop(log);
        disk.remove(&segment_file(missing)).unwrap();

        match refusal(&disk) {
            OpenError::Missing { path, .. } => assert_eq!(path, segment_file(missing)),
            other => panic!("segment {missing} after {after}: {other}"),
        }
    }
}

#[test]
fn a_closed_segment_that_became_shorter_is_refused() {
    let disk = SimDisk::new(1);
    let mut log = open(&disk);
    append(&mut log, 5);
    seal(&mut log);
    append(&mut log, 1);
    log.flush().unwrap();
    drop(log);
    let bytes = disk.contents()[&segment_file(0)].clone().unwrap();
    disk.remove(&segment_file(0)).unwrap();
    let file = disk.create(&segment_file(0)).unwrap();
    file.write_all_at(&bytes[..4200], 0).unwrap();

    assert!(damage(&disk).to_string().contains("shorter"));
}

#[test]
fn a_log_without_any_file_but_its_hard_state_is_not_opened_empty() {
    let disk = two_flushes();
    open(&disk).save_hard_state(HardState { term: 2, vote: 1, commit: 9 }).unwrap();
    for name in ["CURRENT", "manifest.1", "sync.bin"] {
        disk.remove(&path(name)).unwrap();
    }
    disk.remove(&segment_file(0)).unwrap();

    let error = refusal(&disk);

    let OpenError::Lost { last_index: 0, proven_index: 9, proof, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(proof, Proof::HardState);
}

#[test]
fn a_hard_state_survives_one_damaged_slot_and_not_two() {
    for slot in [0, 1] {
        let disk = two_flushes();
        let state = HardState { term: 5, vote: 2, commit: 0 };
        open(&disk).save_hard_state(state).unwrap();
        disk.flip_bit(&path("hs.bin"), (slot * 4096 + 30) * 8).unwrap();

        let (log, recovery) = try_open(&disk).unwrap();

        assert_eq!(log.hard_state(), state);
        assert_eq!(recovery.repaired, [path("hs.bin")]);
        drop(log);
        assert_eq!(open_clean(&disk).hard_state(), state);

        disk.flip_bit(&path("hs.bin"), 30 * 8).unwrap();
        disk.flip_bit(&path("hs.bin"), (4096 + 30) * 8).unwrap();
        assert!(matches!(refusal(&disk), OpenError::HardState(_)));
        disk.remove(&path("hs.bin")).unwrap();
        assert!(matches!(refusal(&disk), OpenError::HardStateMissing { .. }));
    }
}

#[test]
fn a_manifest_is_rebuilt_from_the_segments() {
    let rebuild = |harm: &dyn Fn(&SimDisk), reason| {
        let disk = SimDisk::new(1);
        let mut log = open(&disk);
        for _ in 0..3 {
            append(&mut log, 5);
            seal(&mut log);
        }
        append_and_flush(&mut log, 3);
        let at = SnapshotAt { index: 9, term: 1, end: Offset(16) };
        log.save_snapshot(at, &[chunk("x")]).unwrap();
        log.trim_prefix(9).unwrap();
        let before = canonical(&frames(&log));
        drop(log);
        harm(&disk);

        let (mut log, recovery) = try_open(&disk).unwrap();

        assert_eq!(recovery.manifest_rebuilt, Some(reason));
        assert_eq!(canonical(&frames(&log)), before);
        assert_eq!(log.newest_snapshot().unwrap().unwrap().0, at);
        drop(log);
        open_clean(&disk);
    };

    rebuild(&|disk| disk.remove(&path("CURRENT")).unwrap(), ManifestUnreadable::NoCurrent);
    let flip = |disk: &SimDisk| disk.flip_bit(&path("CURRENT"), 70).unwrap();
    rebuild(&flip, ManifestUnreadable::CurrentDamaged);
    rebuild(&|disk| disk.remove(&path("manifest.1")).unwrap(), ManifestUnreadable::NoManifest);
    let flip = |disk: &SimDisk| disk.flip_bit(&path("manifest.1"), 200).unwrap();
    rebuild(&flip, ManifestUnreadable::ManifestDamaged);
}

#[test]
fn a_segment_whose_edit_rotted_is_listed_again() {
    let disk = SimDisk::new(1);
    let mut log = open(&disk);
    append(&mut log, 5);
    seal(&mut log);
    append_and_flush(&mut log, 5);
    let before = canonical(&frames(&log));
    drop(log);
    let manifest = disk.contents()[&path("manifest.1")].clone().unwrap();
    disk.flip_bit(&path("manifest.1"), manifest.len() as u64 * 8 - 1).unwrap();

    let (log, recovery) = try_open(&disk).unwrap();

    assert_eq!(recovery.adopted_segments, [1]);
    assert!(recovery.is_manifest_torn);
    assert_eq!(canonical(&frames(&log)), before);
    drop(log);
    open_clean(&disk);
}

#[test]
fn unknown_files_are_moved_aside_and_kept() {
    let disk = two_flushes();
    for name in ["notes.txt", "log/copy of 7.seg", "snap/x", "log/00000000000000000009.seg"] {
        let file = disk.create(&path(name)).unwrap();
        file.write_all_at(b"precious", 0).unwrap();
    }
    let (log, recovery) = try_open(&disk).unwrap();
    assert_eq!(log.last_index(), 10);
    drop(log);

    assert_eq!(recovery.quarantined.len(), 4);
    for path in &recovery.quarantined {
        assert_eq!(disk.contents()[path].as_deref(), Some(b"precious".as_slice()), "{path:?}");
    }
    open_clean(&disk);
    disk.create(&path("notes.txt")).unwrap();
    let (_, recovery) = try_open(&disk).unwrap();
    assert_eq!(recovery.quarantined, [path("quarantine/notes.txt.1")]);
}

#[test]
fn another_cluster_or_partition_is_refused() {
    let disk = two_flushes();
    let theirs = LogOptions { partition: 2, ..options() };
    let error = Log::open(disk.clone(), DIR.into(), theirs).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { partition: 1, .. }), "{error}");
    let theirs = LogOptions { cluster: [9; 16], ..options() };
    let error = Log::open(disk, DIR.into(), theirs).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

#[test]
fn a_misplaced_frame_is_refused_although_it_is_intact() {
    let disk = two_flushes();
    let (from, to) = (position(&disk, 2), position(&disk, 3));
    let bytes = disk.contents()[&segment_file(0)].clone().unwrap();
    let file = disk.open(&segment_file(0)).unwrap();
    file.write_all_at(&bytes[from as usize..to as usize], to).unwrap();
    file.sync_data().unwrap();

    let damage = damage(&disk);

    assert_eq!(damage.first_index, 3);
    assert!(damage.to_string().contains("index 2 instead of 3"), "{damage}");
}

/// A write that the disk lost leaves the frame that was there before: intact, with the right index, offset and link. Only the
/// chain of the frame after it tells.
#[test]
fn a_lost_write_that_leaves_an_older_frame_is_refused() {
    let disk = two_flushes();
    let (from, to) = (position(&disk, 9) as usize, position(&disk, 10) as usize);
    let older = disk.contents()[&segment_file(0)].clone().unwrap();
    let mut log = open(&disk);
    log.truncate_suffix(9).unwrap();
    let newer = entry(&log, 2, 100);
    log.append(newer).unwrap();
    append_and_flush(&mut log, 3);
    log.note_idle().unwrap();
    drop(log);
    let file = disk.open(&segment_file(0)).unwrap();
    file.write_all_at(&older[from..to], from as u64).unwrap();
    file.sync_data().unwrap();
    open_header_at(&disk, from);

    let damage = damage(&disk);

    assert_eq!(damage.first_index, 10);
    assert!(damage.to_string().contains("chain link"), "{damage}");
}

/// Makes sure that the frame put back fits: same length, and valid here.
fn open_header_at(disk: &SimDisk, at: usize) {
    let bytes = disk.contents()[&segment_file(0)].clone().unwrap();
    let salt = fluxmq_log::format::SegmentHeader::decode(&bytes).unwrap().salt();
    let frame = fluxmq_log::format::FrameHeader::decode(&bytes[at..], salt).unwrap();
    assert_eq!((frame.index, frame.term), (9, 1));
}

#[test]
fn a_failed_sync_poisons_and_the_next_one_is_not_believed() {
    for fault in [SyncFault::DropKeepingCache, SyncFault::DropWithCache, SyncFault::Error] {
        let disk = two_flushes();
        let mut log = open(&disk);
        append(&mut log, 3);
        disk.set_faults(Faults { syncs: [(1, fault)].into(), ..Faults::default() });

        assert!(matches!(log.flush(), Err(FlushError::File(_))));

        assert!(log.is_poisoned());
        assert_eq!(log.durable().index, 10);
        let next = entry(&log, 1, 10);
        assert_eq!(log.append(next), Err(AppendError::Poisoned));
        assert!(matches!(log.flush(), Err(FlushError::Poisoned)));
        assert!(log.begin_flush().is_none());
        let state = HardState { term: 9, vote: 1, commit: 0 };
        assert!(matches!(log.save_hard_state(state), Err(HardStateError::Poisoned)));
        assert!(matches!(log.note_idle(), Err(HardStateError::Poisoned)));
        assert!(matches!(log.truncate_suffix(11), Err(TruncateError::Poisoned)));
        let after = open(&disk.crash_image(Crash::LoseUnsynced));
        assert_eq!(after.last_index(), 10, "nothing of the failed flush was promised");
    }
}

#[test]
fn every_failing_call_of_a_rolling_flush_poisons_and_loses_nothing() {
    let plan = |number| {
        [
            Faults { writes: [(number, WriteFault::Error)].into(), ..Faults::default() },
            Faults { writes: [(number, WriteFault::NoSpace)].into(), ..Faults::default() },
            Faults { syncs: [(number, SyncFault::DropKeepingCache)].into(), ..Faults::default() },
            Faults { names: [(number, NameFault::Error)].into(), ..Faults::default() },
        ]
    };
    let mut failures = 0;
    for number in 1..12 {
        for faults in plan(number) {
            let disk = two_flushes();
            let mut log = open(&disk);
            append(&mut log, 2);
            seal(&mut log);
            append(&mut log, 2);
            let submitted = canonical(&frames(&log));
            disk.set_faults(faults);

            let flushed = log.flush();
            disk.set_faults(Faults::default());

            let acknowledged = match flushed {
                Ok(position) => position.index,
                Err(_) => {
                    failures += 1;
                    assert!(log.is_poisoned());
                    10
                }
            };
            drop(log);
            for seed in 0..8 {
                let image = disk.crash(seed);
                let recovered = canonical(&frames(&open(&image)));
                assert!(recovered.len() as u64 >= acknowledged);
                assert_eq!(recovered, submitted[..recovered.len()]);
            }
        }
    }
    assert!(failures >= 15, "{failures} calls failed");
}

#[test]
fn a_full_disk_refuses_a_spare_without_harm() {
    let disk = two_flushes();
    let mut log = open(&disk);
    let space = disk.space().unwrap();
    disk.set_capacity(space.total - space.available + 1000);

    let job = log.prepare_spare().unwrap();
    assert!(log.finish_spare(job.run()).is_err());

    assert!(!log.is_poisoned() && !log.has_spare());
    append_and_flush(&mut log, 2);
    disk.set_capacity(1 << 30);
    let job = log.prepare_spare().unwrap();
    log.finish_spare(job.run()).unwrap();
    assert!(log.has_spare());
}

#[test]
fn a_failed_vote_is_not_remembered_as_cast() {
    let cast = HardState { term: 3, vote: 1, commit: 0 };
    for number in [1, 2] {
        let disk = two_flushes();
        let mut log = open(&disk);
        log.save_hard_state(cast).unwrap();
        disk.set_faults(Faults { syncs: [(number, SyncFault::Error)].into(), ..Faults::default() });
        assert!(log.save_hard_state(HardState { term: 4, vote: 2, commit: 0 }).is_err());
        assert!(log.is_poisoned());
        assert_eq!(log.hard_state(), cast);
        disk.set_faults(Faults::default());
        let after = open(&disk.crash_image(Crash::LoseUnsynced)).hard_state();
        assert!(after == cast || number == 2, "{after:?}");
    }
}

#[test]
fn a_disk_that_reads_and_writes_less_than_asked_is_no_trouble() {
    let disk = SimDisk::new(7);
    disk.set_faults(Faults { short_per_1024: 400, ..Faults::default() });
    let mut log = open(&disk);
    for _ in 0..5 {
        append_and_flush(&mut log, 10);
        seal(&mut log);
    }
    log.flush().unwrap();
    let before = canonical(&frames(&log));
    drop(log);

    assert_eq!(canonical(&frames(&open_clean(&disk))), before);
}

#[test]
fn reading_a_rotten_closed_segment_is_an_error_and_not_bytes() {
    let disk = SimDisk::new(1);
    let mut log = open(&disk);
    append(&mut log, 40);
    seal(&mut log);
    append_and_flush(&mut log, 1);
    drop(log);
    disk.flip_bit(&segment_file(0), (position(&disk, 20) + 110) * 8).unwrap();

    let log = open_clean(&disk);

    assert!(log.entries(20, 21, 1).is_err());
    assert!(log.read(Offset(38), 1).is_err());
    assert_eq!(log.entries(19, 20, 1).unwrap().len(), 1, "intact ranges are served");
    assert_eq!(log.entries(21, 22, 1).unwrap().len(), 1, "intact ranges are served");
}

#[test]
fn an_untouched_log_is_not_changed_by_opening_it() {
    let disk = two_flushes();
    drop(open(&disk));
    let before = disk.contents();

    let (_, recovery) = try_open(&disk).unwrap();

    assert_eq!(disk.contents(), before);
    assert_eq!(recovery.frames_scanned, 10);
    assert_eq!(recovery.cut, Recovery::default().cut);
}

#[test]
fn a_replica_that_cut_what_it_may_have_acknowledged_knows_until_when_it_is_muted() {
    let options = LogOptions { tail_damage: TailDamage::CutAndRefetch, ..options() };
    let open = |disk: &SimDisk| Log::open(disk.clone(), DIR.into(), options).unwrap();
    let disk = two_flushes();
    let mut log = open(&disk).0;
    log.save_hard_state(HardState { term: 1, vote: 1, commit: 9 }).unwrap();
    drop(log);
    disk.flip_bit(&segment_file(0), (position(&disk, 4) + 120) * 8).unwrap();
    damage(&disk);

    let (log, recovery) = open(&disk);
    assert_eq!((log.last_index(), recovery.must_reach), (3, Some(10)));
    assert_eq!((log.must_reach(), log.hard_state().commit), (Some(10), 3));
    drop(log);

    let mut log = open(&disk.crash_image(Crash::LoseUnsynced)).0;
    assert_eq!(log.must_reach(), Some(10), "a restart does not forget");
    append_and_flush(&mut log, 6);
    log.note_idle().unwrap();
    assert_eq!(log.must_reach(), Some(10));
    append_and_flush(&mut log, 1);
    assert_eq!(log.must_reach(), None);
}

#[test]
fn no_replica_cuts_below_its_newest_snapshot() {
    let disk = two_flushes();
    let at = SnapshotAt { index: 8, term: 1, end: Offset(16) };
    open(&disk).save_snapshot(at, &[]).unwrap();
    disk.flip_bit(&segment_file(0), (position(&disk, 4) + 120) * 8).unwrap();

    let options = LogOptions { tail_damage: TailDamage::CutAndRefetch, ..options() };
    let error = Log::open(disk.clone(), DIR.into(), options).err().unwrap();

    assert!(matches!(error, OpenError::Damaged(_)), "{error}");
}

/// After a failed sync the page cache shows what the disk does not have, as clean pages: a restarted process reads it, and must
/// not take it for durable before it has written it itself.
#[test]
fn what_a_restart_finds_after_a_failed_sync_is_durable_before_it_is_believed() {
    let mut failures = 0;
    for number in 1..14 {
        let disk = two_flushes();
        let mut log = open(&disk);
        append(&mut log, 2);
        seal(&mut log);
        append(&mut log, 2);
        let fault = SyncFault::DropKeepingCache;
        disk.set_faults(Faults { syncs: [(number, fault)].into(), ..Faults::default() });
        let vote = HardState { term: 4, vote: 2, commit: 10 };
        let is_done = log.save_hard_state(vote).is_ok()
            && log.flush().is_ok()
            && log.truncate_suffix(12).is_ok();
        failures += u64::from(!is_done);
        drop(log);

        let disk = disk.crash_image(Crash::Process);
        let log = open(&disk);
        let (found, state) = (canonical(&frames(&log)), log.hard_state());
        assert_eq!(log.durable(), log.last());
        drop(log);
        let log = open(&disk.crash_image(Crash::LoseUnsynced));

        assert_eq!(canonical(&frames(&log)), found, "sync {number} failed");
        assert_eq!(log.hard_state(), state, "sync {number} failed");
    }
    assert!(failures >= 8, "{failures} syncs failed");
}

/// The names of files whose directory could not be synced are in the page cache only, and count as clean there.
#[test]
fn what_is_adopted_after_a_failed_sync_does_not_vanish_later() {
    let at = SnapshotAt { index: 8, term: 1, end: Offset(16) };
    let fail = |disk: &SimDisk, number| {
        let fault = SyncFault::DropKeepingCache;
        disk.set_faults(Faults { syncs: [(number, fault)].into(), ..Faults::default() });
    };
    let (mut adopted, mut failures) = (0, 0);
    for saving in 1..4 {
        for opening in 1..30 {
            let disk = two_flushes();
            let mut log = open(&disk);
            fail(&disk, saving);
            assert!(log.save_snapshot(at, &[chunk("x")]).is_err(), "sync {saving}");
            drop(log);
            let disk = disk.crash_image(Crash::Process);
            fail(&disk, opening);
            failures += u64::from(try_open(&disk).is_err());

            let disk = disk.crash_image(Crash::Process);
            let (log, recovery) = try_open(&disk).unwrap();
            adopted += recovery.adopted_snapshots.len();
            let (found, entries) = (log.snapshots(), canonical(&frames(&log)));
            drop(log);
            let mut log = open(&disk.crash_image(Crash::LoseUnsynced));

            assert_eq!(log.snapshots(), found, "syncs {saving} and {opening} failed");
            let newest = log.newest_snapshot().unwrap().map(|(at, _)| at);
            assert_eq!(newest, found.last().copied(), "syncs {saving} and {opening} failed");
            assert_eq!(canonical(&frames(&log)), entries, "syncs {saving} and {opening} failed");
        }
    }
    assert!(adopted >= 5 && failures >= 30, "{adopted} adopted, {failures} syncs failed");
}

/// The first `hs.bin` and `sync.bin` are two more names whose directory's sync may fail: a restart that finds them must not let them
/// vanish after a vote, or after it was written down that there must be none.
#[test]
fn a_vote_that_was_given_on_a_name_in_the_page_cache_is_not_forgotten() {
    let mut failures = 0;
    for number in 1..30 {
        for fault in [SyncFault::DropKeepingCache, SyncFault::DropWithCache] {
            let disk = SimDisk::new(1);
            disk.set_faults(Faults { syncs: [(number, fault)].into(), ..Faults::default() });
            failures += u64::from(try_open(&disk).is_err());

            let disk = disk.crash_image(Crash::Process);
            let mut log = open(&disk);
            let vote = HardState { term: 3, vote: 2, commit: 0 };
            log.save_hard_state(vote).unwrap();
            log.require(u64::MAX).unwrap();
            drop(log);
            let log = open(&disk.crash_image(Crash::LoseUnsynced));

            assert_eq!(log.hard_state(), vote, "sync {number} failed");
            assert_eq!(log.must_reach(), Some(u64::MAX), "sync {number} failed");
        }
    }
    assert!(failures >= 20, "{failures} syncs failed");
}

/// What is committed elsewhere and not synced here is no proof that this disk ever had it.
#[test]
fn a_later_life_claims_no_more_than_is_durable() {
    let disk = two_flushes();
    let mut log = open(&disk);
    append(&mut log, 5);
    log.save_hard_state(HardState { term: 1, vote: 0, commit: 15 }).unwrap();
    log.begin_life(1_000, 7).unwrap();
    drop(log);

    let (log, recovery) = try_open(&disk.crash_image(Crash::LoseUnsynced)).unwrap();

    assert_eq!(recovery.cut, None);
    assert_eq!((log.last_index(), log.life()), (10, Life { number: 1_000, draw: 7 }));
}
