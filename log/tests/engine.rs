//! What the engine promises its owner, without crashes: order, positions, reading back, rolling, truncating, trimming.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // All of it is test code.

mod support;

use fluxmq_log::format::{FLAG_ROLL, FrameKind};
use fluxmq_log::sim_disk::{Crash, SimDisk};
use fluxmq_log::{
    AppendError, Entry, HardState, Log, Offset, Position, ReadError, SealDifference, SnapshotAt,
    SnapshotError, TruncateError,
};
use support::*;

#[test]
fn what_was_flushed_is_there_after_reopening() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append_and_flush(&mut log, 10);
    append_and_flush(&mut log, 5);
    let before = canonical(&frames(&log));
    drop(log);

    let log = open_clean(&disk);

    assert_eq!(canonical(&frames(&log)), before);
    assert_eq!(log.last(), Position { index: 15, end: Offset(30) });
    assert_eq!(log.durable(), log.last());
}

#[test]
fn appended_entries_are_readable_and_not_durable() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append_and_flush(&mut log, 2);
    append(&mut log, 3);

    assert_eq!(frames(&log).len(), 5);
    assert_eq!(log.durable(), Position { index: 2, end: Offset(4) });
    assert_eq!(log.last(), Position { index: 5, end: Offset(10) });
}

#[test]
fn a_flush_covers_what_was_appended_before_it_began() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append(&mut log, 2);
    let flush = log.begin_flush().unwrap();
    append(&mut log, 2);
    assert!(log.begin_flush().is_none(), "one flush at a time");

    let covered = log.finish_flush(flush.run()).unwrap();

    assert_eq!(covered.index, 2);
    assert_eq!(log.flush().unwrap().index, 4);
    assert!(log.begin_flush().is_none(), "nothing is left to flush");
}

#[test]
fn entries_that_do_not_follow_are_refused_and_change_nothing() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    let first = entry(&log, 3, 10);
    log.append(first.clone()).unwrap();
    let next = entry(&log, 3, 10);
    let before = canonical(&frames(&log));

    let refuse = |log: &mut fluxmq_log::Log<SimDisk>, entry: Entry| log.append(entry).unwrap_err();
    assert!(matches!(refuse(&mut log, first), AppendError::Index { index: 1, last: 1 }));
    let skip = Entry { index: 3, ..next.clone() };
    assert!(matches!(refuse(&mut log, skip), AppendError::Index { index: 3, last: 1 }));
    let old = Entry { term: 2, ..next.clone() };
    assert!(matches!(refuse(&mut log, old), AppendError::Term { term: 2, last: 3 }));
    let early = Entry { base_ts: 5, ..next.clone() };
    assert!(matches!(refuse(&mut log, early), AppendError::Time { base_ts: 5, .. }));
    let long = Entry { body: vec![0; (64 << 20) + 1].into(), ..next.clone() };
    assert!(matches!(refuse(&mut log, long), AppendError::TooLong { .. }));
    let noop = Entry { kind: FrameKind::Noop, ..next.clone() };
    assert!(matches!(refuse(&mut log, noop), AppendError::Records { record_count: 2, .. }));

    assert_eq!(canonical(&frames(&log)), before);
    log.append(next).unwrap();
}

#[test]
fn an_entry_without_records_takes_no_offset_and_the_time_of_the_last() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append(&mut log, 1);
    let noop = Entry::without_records(2, 2, FrameKind::Noop, 0, Default::default());

    assert_eq!(log.append(noop).unwrap(), Offset(2));
    append(&mut log, 1);

    let frames = frames(&log);
    assert_eq!(frames[1].header.base_ts, frames[0].header.max_ts());
    assert_eq!(frames[2].header.base_offset, Offset(2));
    assert_eq!(
        (log.term(0), log.term(1), log.term(2), log.term(3)),
        (Some(0), Some(1), Some(2), Some(2))
    );
    assert_eq!(log.term(4), None);
}

#[test]
fn the_leader_rolls_and_the_chain_goes_on() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    for _ in 0..400 {
        let next = entry(&log, 1, 1_000);
        if log.should_roll(next.body.len()) {
            seal(&mut log);
            assert!(!log.should_roll(next.body.len()), "a sealed segment rolls by itself");
        }
        append(&mut log, 1);
        let big = entry(&log, 1, 1_000);
        log.append(big).unwrap();
        log.flush().unwrap();
    }
    let segments = log.segments();
    let before = canonical(&frames(&log));
    drop(log);

    assert!(segments.len() > 3, "{segments:?}");
    for (old, new) in segments.iter().zip(&segments[1..]) {
        assert!(old.is_sealed && !old.is_active);
        assert_eq!((old.last_index + 1, old.end_offset), (new.base_index, new.base_offset));
    }
    let log = open_clean(&disk);
    assert_eq!(canonical(&frames(&log)), before);
    assert_eq!(log.segments(), segments);
    let rolls = before.iter().filter(|frame| frame.header.is_roll()).count();
    assert_eq!(rolls, segments.len());
}

#[test]
fn several_segments_in_one_flush_are_all_durable() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append(&mut log, 3);
    roll(&mut log);
    append(&mut log, 3);
    seal(&mut log);
    append(&mut log, 3);
    log.flush().unwrap();
    let before = canonical(&frames(&log));
    drop(log);

    let log = open_clean(&disk);

    assert_eq!(log.segments().len(), 3);
    assert_eq!(canonical(&frames(&log)), before);
}

#[test]
fn what_is_written_is_not_durable_and_claims_nothing() {
    let disk = SimDisk::new(1);
    let mut log = open(&disk);
    append(&mut log, 2);
    assert_eq!(log.write().unwrap().index, 0, "a segment begins in a flush");
    append_and_flush(&mut log, 1);
    let synced = log.durable();

    append(&mut log, 2);
    assert_eq!(log.write().unwrap(), log.last());
    append(&mut log, 1);
    assert_eq!(log.write().unwrap(), log.last());

    assert_eq!((log.written().index, log.durable()), (6, synced));
    let end = |log: &Log<SimDisk>| log.segments()[0].end_bytes;
    let unsynced = log.unsynced_bytes();
    let killed = open(&disk.crash_image(Crash::Process));
    assert_eq!(killed.last_index(), 6);
    let claims: Vec<u64> = read_from_file(&disk, &killed);
    assert_eq!(claims[3..], [end(&log) - unsynced; 3], "as far as the last flush");
    let cut = open(&disk.crash_image(Crash::LoseUnsynced));
    assert_eq!(cut.last(), synced);
}

/// What the frames of the first segment say was synced when they were written.
fn read_from_file(disk: &SimDisk, log: &Log<SimDisk>) -> Vec<u64> {
    let bytes = disk.contents().remove(&segment_file(0)).flatten().unwrap();
    let mut at = 4096;
    let claim = |frame: &fluxmq_log::format::Frame| {
        let local = &bytes[at + 88..at + 92];
        at += frame.header.frame_bytes() as usize;
        u64::from(u32::from_le_bytes(local.try_into().unwrap())) * 8
    };
    frames(log).iter().map(claim).collect()
}

#[test]
fn writing_goes_on_while_a_flush_only_syncs() {
    let disk = SimDisk::new(1);
    let mut log = open(&disk);
    append_and_flush(&mut log, 1);
    append(&mut log, 1);
    log.write().unwrap();

    let flush = log.begin_flush().unwrap();
    assert!(log.can_write() && log.begin_flush().is_none());
    append(&mut log, 1);
    log.write().unwrap();
    let flushed = flush.run();
    assert_eq!(log.finish_flush(flushed).unwrap().index, 3, "all of it is written");

    assert_eq!(log.durable().index, 2, "what was written when it began");
    let flush = {
        seal(&mut log);
        assert_eq!(log.write().unwrap().index, 4, "a seal is a frame like any");
        append(&mut log, 1);
        assert_eq!(log.write().unwrap().index, 4, "and what follows it begins a segment");
        log.begin_flush().unwrap()
    };
    assert!(!log.can_write(), "the file is away");
    append(&mut log, 1);
    assert_eq!(log.write().unwrap().index, 4);
    let flushed = flush.run();
    assert_eq!(log.finish_flush(flushed).unwrap().index, 5);
    assert_eq!((log.durable().index, log.unsynced_bytes()), (5, 0));
    assert_eq!(log.write().unwrap().index, 6);
    assert_eq!(open(&disk.crash_image(Crash::LoseUnsynced)).last_index(), 5);
}

#[test]
fn what_was_only_written_is_synced_before_a_snapshot_and_before_a_cut() {
    let disk = SimDisk::new(1);
    let mut log = open(&disk);
    append_and_flush(&mut log, 1);
    append(&mut log, 3);
    let last = log.write().unwrap();

    log.save_snapshot(SnapshotAt { index: 3, term: 1, end: Offset(6) }, &[]).unwrap();
    assert_eq!(log.durable(), last);
    append(&mut log, 3);
    log.write().unwrap();
    log.truncate_suffix(6).unwrap();
    assert_eq!((log.durable().index, log.written().index), (5, 5));
    append(&mut log, 1);
    log.write().unwrap();

    assert_eq!(open(&disk.crash_image(Crash::Process)).last_index(), 6);
    assert_eq!(open(&disk.crash_image(Crash::LoseUnsynced)).last_index(), 5);
}

#[test]
fn a_roll_uses_the_spare_that_was_prepared() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append_and_flush(&mut log, 3);
    let job = log.prepare_spare().unwrap();
    assert!(log.prepare_spare().is_none(), "one spare at a time");
    log.finish_spare(job.run()).unwrap();
    assert!(log.has_spare() && log.prepare_spare().is_none());

    seal(&mut log);
    append_and_flush(&mut log, 1);

    assert!(!log.has_spare());
    let contents = disk.contents();
    assert_eq!(contents[&segment_file(1)].as_ref().unwrap().len(), 128 << 10);
    drop(log);
    assert_eq!(open_clean(&disk).last_index(), 5);
}

#[test]
fn a_seal_that_differs_from_the_segment_is_refused() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append(&mut log, 3);
    let mut seal = fluxmq_log::format::Seal::decode(&log.seal_body()).unwrap();
    let entry = |seal: &fluxmq_log::format::Seal| {
        Entry::without_records(4, 1, FrameKind::Seal, 0, seal.encode().into())
    };

    seal.blocks[0] ^= 1;
    let error = log.append(entry(&seal)).unwrap_err();
    let difference = SealDifference::Block { number: 0 };
    assert_eq!(error, AppendError::SealMismatch { segment_no: 0, difference });
    seal.blocks[0] ^= 1;
    seal.record_count += 1;
    assert!(log.append(entry(&seal)).is_err());
    seal.record_count -= 1;
    log.append(entry(&seal)).unwrap();
}

#[test]
fn two_replicas_have_the_same_bytes_but_for_the_local_area() {
    let (left, right) = (SimDisk::new(1), SimDisk::new(2));
    let (mut leader, mut follower) = (open_clean(&left), open_clean(&right));
    for step in 0..60 {
        if step % 20 == 19 {
            seal(&mut leader);
        } else {
            append(&mut leader, 1);
        }
        if step % 7 == 0 {
            leader.flush().unwrap();
        }
    }
    leader.flush().unwrap();
    for frame in frames(&leader) {
        let header = frame.header;
        follower
            .append(Entry {
                index: header.index,
                term: header.term,
                kind: header.kind,
                flags: header.flags & !FLAG_ROLL,
                base_ts: header.base_ts,
                commit_hint: header.commit_hint,
                record_count: header.record_count,
                max_ts_delta: header.max_ts_delta,
                tables_len: header.tables_len,
                topic_count: header.topic_count,
                body: frame.body,
            })
            .unwrap();
        if header.index % 11 == 0 {
            follower.flush().unwrap();
        }
    }
    follower.flush().unwrap();

    assert_eq!(canonical(&frames(&leader)), canonical(&frames(&follower)));
    assert_eq!(leader.segments(), follower.segments());
}

#[test]
fn reads_begin_with_the_frame_that_contains_the_offset() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    for _ in 0..3 {
        append_and_flush(&mut log, 100);
        seal(&mut log);
    }
    append_and_flush(&mut log, 20);
    append(&mut log, 5);
    let all = canonical(&frames(&log));
    for log in [&log, &open(&disk.crash_image(fluxmq_log::sim_disk::Crash::LoseUnsynced))] {
        for offset in (0..log.last().end.0).map(Offset) {
            let read = log.read(offset, 1).unwrap();
            assert_eq!(read.len(), 1);
            let header = read[0].header;
            assert!(header.base_offset <= offset && offset < header.end_offset(), "{offset}");
        }
        assert_eq!(log.read(log.last().end, 1).unwrap(), []);
        let beyond = log.read(log.last().end.next(), 1).unwrap_err();
        assert!(matches!(beyond, ReadError::Offset { .. }), "{beyond}");
        let read = canonical(&log.read(Offset(151), u64::MAX).unwrap());
        let first = all.iter().position(|frame| frame.header.end_offset() > Offset(151)).unwrap();
        assert_eq!(read, all[first..log.last_index() as usize]);
        let limited = log.entries(1, 250, 2_000).unwrap();
        assert!(limited.iter().map(|frame| frame.header.frame_bytes()).sum::<u64>() <= 2_000);
        assert!(limited.len() > 1);
        assert!(matches!(log.entries(0, 2, 1), Err(ReadError::Index { index: 0, .. })));
        let end = log.last_index() + 2;
        assert!(matches!(log.entries(1, end, 1), Err(ReadError::Index { .. })));
    }
}

#[test]
fn a_time_finds_the_first_offset_that_reaches_it() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    for _ in 0..3 {
        append_and_flush(&mut log, 50);
        seal(&mut log);
    }
    append(&mut log, 10);
    log.flush().unwrap();
    let all = frames(&log);
    for log in [&log, &open(&disk)] {
        for ts in (0..log.last_ts() + 50).step_by(3) {
            let data = all.iter().filter(|frame| frame.header.record_count > 0);
            let first = data.map(|frame| frame.header).find(|header| header.max_ts() >= ts);
            let expected = first.map_or(log.last().end, |header| header.base_offset);
            assert_eq!(log.offset_at_time(ts).unwrap(), expected, "ts {ts}");
        }
    }
}

#[test]
fn a_time_finds_a_frame_that_takes_long_also_before_entries_without_records() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    for _ in 0..40 {
        let mut long = entry(&log, 1, 20_000);
        long.max_ts_delta = 15;
        log.append(long).unwrap();
        let index = log.last_index() + 1;
        let body = vec![0; 20_000].into();
        log.append(Entry::without_records(index, 1, FrameKind::Noop, 0, body)).unwrap();
    }
    log.flush().unwrap();
    let all = frames(&log);
    let log = open(&disk);
    for ts in 0..log.last_ts() + 50 {
        let mut data =
            all.iter().map(|frame| frame.header).filter(|header| header.record_count > 0);
        let first = data.find(|header| header.max_ts() >= ts);
        let expected = first.map_or(log.last().end, |header| header.base_offset);
        assert_eq!(log.offset_at_time(ts).unwrap(), expected, "ts {ts}");
    }
}

#[test]
fn a_suffix_is_cut_wherever_it_begins() {
    for from in 1..=31 {
        for flushed in [0, 10, 25, 30] {
            let disk = SimDisk::new(1);
            let mut log = open_clean(&disk);
            for number in 1..=30 {
                if number == 11 || number == 21 {
                    seal(&mut log);
                } else {
                    append(&mut log, 1);
                }
                if number == flushed {
                    log.flush().unwrap();
                }
            }
            let before = canonical(&frames(&log));

            log.truncate_suffix(from).unwrap();
            assert_eq!(log.last_index(), from - 1);
            assert_eq!(log.durable().index, (from - 1).min(flushed));
            assert_eq!(canonical(&frames(&log)), before[..from as usize - 1]);
            let next = entry(&log, 2, 40);
            log.append(next).unwrap();
            append_and_flush(&mut log, 2);
            if !log.segments().last().unwrap().is_sealed {
                seal(&mut log);
            }
            append_and_flush(&mut log, 1);
            let after = canonical(&frames(&log));
            drop(log);

            let log = open_clean(&disk);
            assert_eq!(canonical(&frames(&log)), after, "from {from}, flushed {flushed}");
        }
    }
}

#[test]
fn what_is_committed_is_never_cut() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append_and_flush(&mut log, 10);
    log.save_hard_state(HardState { term: 1, vote: 1, commit: 7 }).unwrap();

    let error = log.truncate_suffix(7).unwrap_err();
    assert!(matches!(error, TruncateError::Committed { from_index: 7, commit: 7 }), "{error}");
    log.truncate_suffix(8).unwrap();
    assert_eq!(log.last_index(), 7);
}

#[test]
fn a_prefix_is_trimmed_by_segments_and_no_further_than_the_oldest_snapshot() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    for _ in 0..4 {
        append(&mut log, 9);
        seal(&mut log);
    }
    append_and_flush(&mut log, 5);
    assert_eq!(log.trim_prefix(40).unwrap(), 1, "no snapshot, no trim");
    for index in [15, 25] {
        let end = log.entries(index, index + 1, 1).unwrap()[0].header.end_offset();
        let at = SnapshotAt { index, term: 1, end };
        log.save_snapshot(at, &[chunk("views")]).unwrap();
    }

    assert_eq!(log.trim_prefix(40).unwrap(), 11);
    assert_eq!(log.first_offset(), Offset(18));
    assert_eq!((log.term(9), log.term(10)), (None, Some(1)));
    assert!(matches!(log.read(Offset(0), 1), Err(ReadError::Offset { .. })));
    let before = canonical(&frames(&log));
    drop(log);
    let log = open_clean(&disk);
    assert_eq!((log.first_index(), log.base().term), (11, 1));
    assert_eq!(canonical(&frames(&log)), before);
}

#[test]
fn two_snapshots_are_kept_and_the_newest_whole_one_is_served() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append_and_flush(&mut log, 10);
    assert_eq!(log.newest_snapshot().unwrap(), None);
    let at = |index: u64| SnapshotAt { index, term: 1, end: Offset(index * 2) };
    for index in [2, 4, 6] {
        log.save_snapshot(at(index), &[chunk("a"), chunk(""), chunk(&index.to_string())]).unwrap();
    }
    assert_eq!(log.snapshots(), [at(4), at(6)]);
    let error = log.save_snapshot(at(11), &[]).unwrap_err();
    assert!(matches!(error, SnapshotError::NotDurable { index: 11, durable: 10 }), "{error}");
    drop(log);

    let mut log = open_clean(&disk);
    let newest = log.newest_snapshot().unwrap().unwrap();
    assert_eq!(newest, (at(6), vec![chunk("a"), chunk(""), chunk("6")]));
    disk.flip_bit(&std::path::Path::new(DIR).join("snap/00000000000000000006.snap"), 64).unwrap();
    assert_eq!(log.newest_snapshot().unwrap().unwrap().0, at(4));
    assert_eq!(log.damaged_snapshots().len(), 1);
    disk.flip_bit(&std::path::Path::new(DIR).join("snap/00000000000000000004.snap"), 64).unwrap();
    let error = log.newest_snapshot().unwrap_err();
    assert!(matches!(error, SnapshotError::AllDamaged { count: 2 }), "{error}");
}

#[test]
fn snapshots_at_ends_of_segments_stay_spread_over_the_log_so_that_it_can_begin_there() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    for _ in 0..12 {
        append(&mut log, 9);
        seal(&mut log);
        log.flush().unwrap();
        let Position { index, end } = log.last();
        log.save_snapshot(SnapshotAt { index, term: 1, end }, &[chunk("views")]).unwrap();
    }

    let kept: Vec<u64> = log.snapshots().iter().map(|at| at.index).collect();
    assert_eq!((kept.len(), &kept[4..]), (6, &[110, 120][..]), "{kept:?}");
    let far = kept.windows(2).find(|pair| pair[1] - pair[0] > 40);
    assert_eq!((far, kept[0] <= 40), (None, true), "{kept:?}");

    let base = *kept.iter().rfind(|index| **index <= 75).unwrap();
    assert_eq!(log.trim_to_snapshot(76).unwrap(), base + 1);
    drop(log);
    let log = open_clean(&disk);
    assert_eq!(log.first_index(), base + 1);
    assert_eq!(log.given_snapshot().unwrap().unwrap().at.index, base);
}

#[test]
fn a_snapshot_of_another_replica_replaces_the_log() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append_and_flush(&mut log, 30);
    let at = SnapshotAt { index: 100, term: 7, end: Offset(250) };

    log.install_snapshot(at, None, &[chunk("theirs")]).unwrap();
    assert_eq!((log.first_index(), log.last(), log.durable()), (101, at.position(), at.position()));
    drop(log);
    let mut log = open_clean(&disk);
    assert_eq!((log.base(), log.term(100)), (at, Some(7)));
    assert_eq!(log.newest_snapshot().unwrap(), Some((at, vec![chunk("theirs")])));
    let next = entry(&log, 7, 10);
    assert_eq!(log.append(next).unwrap(), Offset(250));
    append_and_flush(&mut log, 3);
    drop(log);
    assert_eq!(open_clean(&disk).last_index(), 104);
}

#[test]
fn a_hard_state_is_what_was_saved_last() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    assert_eq!(log.hard_state(), HardState::default());
    append_and_flush(&mut log, 5);
    for number in 1..5 {
        let state = HardState { term: number, vote: number * 2, commit: number };
        log.save_hard_state(state).unwrap();
        assert_eq!(open(&disk.crash(number)).hard_state(), state);
    }
    let lazy = HardState { term: 4, vote: 8, commit: 5 };
    log.save_hard_state(lazy).unwrap();
    drop(log);
    assert_eq!(open_clean(&disk).hard_state(), lazy);
}

#[test]
fn a_commit_beyond_what_is_durable_here_is_no_evidence() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append_and_flush(&mut log, 5);
    append(&mut log, 5);
    log.save_hard_state(HardState { term: 2, vote: 1, commit: 9 }).unwrap();
    assert_eq!(log.hard_state().commit, 9);

    let log = open(&disk.crash(1));

    assert_eq!(log.hard_state(), HardState { term: 2, vote: 1, commit: 5 });
}
