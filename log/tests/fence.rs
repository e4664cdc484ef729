//! Damaged logs of replicas that have peers: every kind of damage is put back from the others, byte for byte, and nothing else is.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // All of it is test code.

mod support;

use std::path::PathBuf;

use fluxmq_log::disk::Disk;
use fluxmq_log::format::Frame;
use fluxmq_log::sim_disk::SimDisk;
use fluxmq_log::{
    Entry, Fenced, Hole, Log, Mended, OpenError, PatchError, RangeAnswer, RangeRequest, SnapshotAt,
    SnapshotError,
};
use support::*;

/// Small, so that holes take several answers, and large frames come in parts.
const ANSWER_BYTES: usize = 4096;

/// One log of five segments, the same on each of three disks; the last segment is not sealed.
fn replicas() -> [SimDisk; 3] {
    [1, 2, 3].map(|seed| {
        let disk = SimDisk::new(seed);
        let mut log = open(&disk);
        for segment in 0..5 {
            for number in 0..12 {
                let mut next = entry(&log, 1 + segment, 40 + 997 * (number % 4));
                if number == 7 {
                    next = entry(&log, 1 + segment, 20_000);
                }
                log.append(next).unwrap();
                log.flush().unwrap();
            }
            if segment < 4 {
                seal(&mut log);
                log.flush().unwrap();
            }
        }
        log.note_idle().unwrap();
        disk
    })
}

fn fence(disk: &SimDisk) -> Fenced<SimDisk> {
    let mut fenced = Fenced::open(disk.clone(), PathBuf::from(DIR), options(), (5, 0)).unwrap();
    while fenced.check_next().unwrap() {}
    fenced
}

/// Gives an answer as a replica on this disk would: running when it can, else fenced.
fn answer(disk: &SimDisk, request: &RangeRequest) -> RangeAnswer {
    match try_open(disk) {
        Ok((log, _)) => log.range(request, ANSWER_BYTES).unwrap(),
        Err(_) => fence(disk).range(request, ANSWER_BYTES).unwrap(),
    }
}

/// Asks the others for everything that is missing until nothing is; returns what was put back. `None` when nobody has it.
fn repair(fenced: &mut Fenced<SimDisk>, others: &[&SimDisk]) -> Option<Vec<Mended>> {
    let mut mended = Vec::new();
    while let Some(hole) = fenced.holes().first().cloned() {
        let request = fenced.ask(&hole);
        let mut answers = others.iter().map(|disk| answer(disk, &request));
        let bytes = answers.find_map(|answer| match answer {
            RangeAnswer::Bytes(bytes) => Some(bytes),
            _ => None,
        })?;
        mended.extend(fenced.take(&hole, &request, &bytes).unwrap());
        while fenced.check_next().unwrap() {}
    }
    Some(mended)
}

fn whole(disk: &SimDisk) -> Vec<Frame> {
    canonical(&frames(&open(disk)))
}

/// Repairs the first of three from the others, and compares all they have.
fn heals(what: &str, damage: impl Fn(&SimDisk)) -> Vec<Mended> {
    let disks = replicas();
    let before = whole(&disks[1]);
    damage(&disks[0]);
    let mut fenced = fence(&disks[0]);
    assert!(!fenced.is_whole(), "{what}: found");
    let mended = repair(&mut fenced, &[&disks[1], &disks[2]]).unwrap();
    let (log, recovery) = fenced.finish().unwrap();
    assert_eq!((recovery.cut, recovery.must_reach, log.must_reach()), (None, None, None), "{what}");
    drop(log);
    // What is on the disk, and not in the cache.
    let disk = disks[0].crash(9);
    assert_eq!(whole(&disk), before, "{what}");
    mended
}

fn segment(disk: &SimDisk, number: u64) -> fluxmq_log::SegmentInfo {
    open(disk).segments().into_iter().find(|info| info.segment_no == number).unwrap()
}

#[test]
fn every_kind_of_damage_is_put_back_byte_for_byte() {
    let flip = |number, byte: u64| {
        move |disk: &SimDisk| disk.flip_bit(&segment_file(number), byte * 8 + 3).unwrap()
    };
    assert_eq!(heals("a body", flip(2, 4096 + 120)), [Mended::Frame]);
    assert_eq!(heals("a header of a frame", flip(2, 4096 + 20)), [Mended::Frame]);
    assert_eq!(heals("a local area", flip(2, 4096 + 90)), [Mended::Frame]);
    assert_eq!(heals("a body of the last segment", flip(4, 4096 + 120)), [Mended::Frame]);
    assert_eq!(heals("a segment's header", flip(2, 50)), [Mended::Block]);
    assert_eq!(heals("the first segment's header", flip(0, 50)), [Mended::Block]);
    assert_eq!(heals("the last segment's header", flip(4, 50)), [Mended::Block]);
    let zero = |number, from, to| {
        move |disk: &SimDisk| disk.zero(&segment_file(number), from..to).unwrap()
    };
    assert_eq!(heals("the beginning", zero(1, 0, 8192)), [Mended::Block]);
    assert_eq!(heals("a part of a large frame", zero(3, 20_000, 24_000)), [Mended::Frame]);
    assert_eq!(heals("all of a segment", zero(1, 0, 64 << 10)), [Mended::Block]);
    let lose = |number| move |disk: &SimDisk| disk.remove(&segment_file(number)).unwrap();
    for number in [0, 1, 3] {
        assert_eq!(heals("a file", lose(number)), [Mended::Segment]);
    }
    let several = |disk: &SimDisk| {
        flip(0, 4096 + 120)(disk);
        lose(1)(disk);
        zero(2, 0, 5000)(disk);
        lose(3)(disk);
        flip(4, 4096 + 20)(disk);
    };
    assert_eq!(heals("several", several).len(), 5);
    let end = |disk: &SimDisk| {
        let info = segment(disk, 2);
        disk.zero(&info.path, info.end_bytes - 3000..64 << 10).unwrap();
        disk.flip_bit(&segment_file(3), 80).unwrap();
    };
    assert_eq!(heals("a seal and the header behind it", end).len(), 2);
}

#[test]
fn a_lost_end_is_no_hole_and_the_replica_must_not_vote() {
    for lost in [true, false] {
        let disks = replicas();
        match lost {
            true => disks[0].remove(&segment_file(4)).unwrap(),
            false => disks[0].zero(&segment_file(4), 4096 + 9000..64 << 10).unwrap(),
        }
        let fenced = fence(&disks[0]);
        assert!(fenced.is_whole());
        let (log, _) = fenced.finish().unwrap();
        assert!(log.must_reach().is_some());
        let kept = log.last_index();
        assert!(kept > 40 && kept < open(&disks[1]).last_index(), "{kept} entries are left");
    }
}

#[test]
fn below_a_snapshot_even_the_end_is_put_back() {
    let disks = replicas();
    for disk in &disks {
        let mut log = open(disk);
        let index = log.last_index() - 2;
        let end = log.entries(index, index + 1, 1).unwrap()[0].header.end_offset();
        let at = SnapshotAt { index, term: log.term(index).unwrap(), end };
        log.save_snapshot(at, &[chunk("views")]).unwrap();
    }
    let before = whole(&disks[1]);
    disks[0].zero(&segment_file(4), 4096..64 << 10).unwrap();
    assert!(matches!(try_open(&disks[0]), Err(OpenError::Damaged(_))));
    let mut fenced = fence(&disks[0]);
    repair(&mut fenced, &[&disks[1]]).unwrap();
    let (log, _) = fenced.finish().unwrap();
    let has = log.last_index() as usize;
    assert!(has >= before.len() - 2, "up to the snapshot");
    assert_eq!(canonical(&frames(&log)), before[..has]);
    assert_eq!(log.must_reach().is_some(), has < before.len(), "the rest may have been promised");
}

/// Saves a snapshot at the end of a segment.
fn save_at_end(disk: &SimDisk, of: usize) -> u64 {
    let index = segment(disk, of as u64).last_index;
    let mut log = open(disk);
    let end = log.segments()[of].end_offset;
    let at = SnapshotAt { index, term: log.term(index).unwrap(), end };
    log.save_snapshot(at, &[chunk("views")]).unwrap();
    index
}

/// What is given away is a snapshot that the log begins after, and no later one: whoever took that would be without history that is here
/// (seed 1795420003033).
#[test]
fn a_log_that_begins_behind_damage_begins_after_a_snapshot_where_it_has_one() {
    // Snapshots at the ends of these segments, up to where history is over, and the segment that the log begins with.
    let cases: [(&[usize], u64, u64); 5] =
        [(&[1, 3], 1, 1), (&[1, 3], 2, 2), (&[1, 3], 3, 2), (&[1, 2, 3], 3, 3), (&[2, 3], 2, 1)];
    for (snapshots, over_to, first) in cases {
        let [disk, ..] = replicas();
        let saved: Vec<u64> = snapshots.iter().map(|of| save_at_end(&disk, *of)).collect();
        let begins = segment(&disk, over_to).base_index;
        let base = segment(&disk, first).base_index - 1;
        disk.flip_bit(&segment_file(0), 6000).unwrap();
        let mut fenced = fence(&disk);
        let hole = fenced.holes()[0].clone();
        assert!(fenced.begin_after(&hole, begins).unwrap());
        while fenced.check_next().unwrap() {}
        let (mut log, _) = fenced.finish().unwrap();

        assert_eq!(log.first_index(), base + 1, "{snapshots:?}, over up to {over_to}");
        let given = log.given_snapshot().unwrap().map(|given| given.at.index);
        assert_eq!(given, saved.contains(&base).then_some(base));
        // There is one as soon as it is trimmed to one.
        let later = log.snapshots().into_iter().rev().nth(1);
        if let Some(later) = later.filter(|later| later.index > base) {
            assert_eq!(log.trim_to_snapshot(later.index + 1).unwrap(), later.index + 1);
            assert_eq!(log.given_snapshot().unwrap().unwrap().at, later);
        }
    }
}

/// The entries behind may never have been committed: where all of them are cut, the next segment is the same file as on the others.
#[test]
fn a_log_that_is_left_with_nothing_behind_its_snapshot_goes_on_as_the_others_do() {
    let disks = replicas();
    let (disk, peer) = (&disks[0], &disks[1]);
    let base = save_at_end(disk, 3);
    let begins = segment(disk, 4).base_index;
    let behind = open(peer).entries(begins, open(peer).last_index() + 1, u64::MAX).unwrap();
    disk.flip_bit(&segment_file(0), 6000).unwrap();
    let mut fenced = fence(disk);
    let hole = fenced.holes()[0].clone();
    assert!(fenced.begin_after(&hole, begins).unwrap());
    while fenced.check_next().unwrap() {}
    let (mut log, _) = fenced.finish().unwrap();
    log.truncate_suffix(base + 1).unwrap();
    assert_eq!((log.first_index(), log.last_index()), (base + 1, base));
    drop(log);

    let mut log = open(disk);
    for Frame { header: it, body } in behind {
        log.append(Entry {
            index: it.index,
            term: it.term,
            kind: it.kind,
            flags: it.flags,
            base_ts: it.base_ts,
            commit_hint: it.commit_hint,
            record_count: it.record_count,
            max_ts_delta: it.max_ts_delta,
            tables_len: it.tables_len,
            topic_count: it.topic_count,
            body,
        })
        .unwrap();
    }
    log.flush().unwrap();
    let head = |disk: &SimDisk| disk.contents()[&segment_file(4)].clone().unwrap()[..4096].to_vec();
    assert_eq!(head(disk), head(peer));
    assert_eq!(canonical(&frames(&log)), canonical(&frames(&open(peer)))[base as usize..]);
}

/// A log that begins behind damage, and is cut before the only snapshot it had, begins anew: nothing says what the views were (seed 1795362957498).
#[test]
fn a_log_that_is_left_without_the_snapshot_it_begins_after_is_given_up() {
    for crashes in [false, true] {
        let [disk, ..] = replicas();
        let begins = segment(&disk, 1).base_index;
        let mut log = open(&disk);
        let index = log.last_index() - 2;
        let end = log.entries(index, index + 1, 1).unwrap()[0].header.end_offset();
        let at = SnapshotAt { index, term: log.term(index).unwrap(), end };
        log.save_snapshot(at, &[chunk("views")]).unwrap();
        drop(log);
        disk.flip_bit(&segment_file(0), 6000).unwrap();
        disk.flip_bit(&segment_file(2), 30_000).unwrap();
        let mut fenced = fence(&disk);
        let hole = fenced.holes()[0].clone();
        assert!(fenced.begin_after(&hole, begins).unwrap());
        while fenced.check_next().unwrap() {}
        let hole = fenced.holes()[0].clone();
        fenced.cut(&hole).unwrap();
        while fenced.check_next().unwrap() {}
        assert!(fenced.is_whole());

        if crashes {
            drop(fenced);
            let mut log = open(&disk);
            assert!(log.first_index() > 1 && log.last_index() < index);
            let error = log.newest_snapshot().unwrap_err();
            assert!(matches!(error, SnapshotError::AllDamaged { count: 0 }), "{error}");
            drop(log);
            fenced = fence(&disk);
        }
        let (mut log, _) = fenced.finish().unwrap();
        assert_eq!((log.first_index(), log.last_index()), (1, 0));
        assert_eq!(log.newest_snapshot().unwrap(), None);
        assert!(log.must_reach().is_some(), "it may have promised more");
    }
}

#[test]
fn bytes_that_are_not_the_lost_ones_are_refused() {
    let disks = replicas();
    disks[0].zero(&segment_file(2), 4096..4096 + 1500).unwrap();
    let mut fenced = fence(&disks[0]);
    let hole = fenced.holes()[0].clone();
    let request = fenced.ask(&hole);
    let RangeAnswer::Bytes(bytes) = answer(&disks[1], &request) else { panic!("it is there") };
    let image = || disks[0].contents().remove(&segment_file(2));
    let before = image();
    let mut owned = 0;
    for at in (0..bytes.len()).filter(|at| at % 7 == 0) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 4;
        let taken = fenced.take(&hole, &request, &wrong);
        if matches!(taken, Ok(Some(_))) {
            // What is a replica's own is not looked at, and not taken either.
            assert_eq!(whole(&disks[0]), whole(&disks[1]), "byte {at}");
            disks[0].zero(&segment_file(2), 4096..4096 + 1500).unwrap();
            owned += 1;
        }
        // A wrong length may make it wait for more; that never joins.
        assert_eq!(image(), before, "nothing is written");
        let mut again = fence(&disks[0]);
        std::mem::swap(&mut fenced, &mut again);
        assert_eq!(fenced.ask(&hole), request);
    }
    assert!(owned < bytes.len() / 7 / 10, "{owned} of {} bytes are not canonical", bytes.len());
    let elsewhere = RangeRequest { from_bytes: request.from_bytes + 8, ..request };
    let unwanted = fenced.take(&hole, &elsewhere, &bytes);
    assert!(matches!(unwanted, Err(PatchError::Unwanted { .. })));
    assert!(repair(&mut fenced, &[&disks[1]]).is_some());
}

#[test]
fn entries_of_another_history_are_refused_although_they_are_intact() {
    // The same up to the hole, and then another leader's entries of the same lengths.
    let histories: [SimDisk; 2] = [1, 2].map(|history| {
        let disk = SimDisk::new(history);
        let mut log = open(&disk);
        for number in 0..10 {
            let mut next = entry(&log, 1, 100);
            if number >= 4 {
                next.base_ts += history;
            }
            log.append(next).unwrap();
            log.flush().unwrap();
        }
        log.note_idle().unwrap();
        disk
    });
    let fifth = {
        let log = open(&histories[0]);
        let bytes: u64 =
            log.entries(1, 5, u64::MAX).unwrap().iter().map(|it| it.header.frame_bytes()).sum();
        4096 + bytes
    };
    let damage = |at| histories[0].flip_bit(&segment_file(0), (fifth + at) * 8).unwrap();
    damage(110);
    let mut fenced = fence(&histories[0]);
    let hole: Hole = fenced.holes()[0].clone();
    let request = fenced.ask(&hole);
    let RangeAnswer::Bytes(bytes) = answer(&histories[1], &request) else { panic!("it links") };
    let taken = fenced.take(&hole, &request, &bytes);
    assert!(matches!(taken, Err(PatchError::Disjoint { .. })), "{taken:?}");
    // Behind the place where they part nothing links at all.
    damage(110);
    let sixth = fifth + bytes.len() as u64;
    histories[0].flip_bit(&segment_file(0), (sixth + 110) * 8).unwrap();
    let mut fenced = fence(&histories[0]);
    let hole = fenced.holes()[0].clone();
    let request = fenced.ask(&hole);
    assert_eq!(answer(&histories[1], &request), RangeAnswer::Diverged);
    // A leader says so: what it does not have was never committed.
    fenced.cut(&hole).unwrap();
    while fenced.check_next().unwrap() {}
    let (log, _) = fenced.finish().unwrap();
    assert_eq!(log.last_index(), hole.damage.first_index - 1);
    assert!(log.must_reach().is_some(), "it does not vote");
}

#[test]
fn a_crash_anywhere_in_a_repair_leaves_what_is_found_and_repaired_again() {
    let disks = replicas();
    let before = whole(&disks[1]);
    let damaged = || {
        let disk = disks[0].crash(1);
        disk.remove(&segment_file(1)).unwrap();
        disk.zero(&segment_file(2), 0..9000).unwrap();
        disk.flip_bit(&segment_file(4), (4096 + 120) * 8).unwrap();
        disk
    };
    let repair_all = |disk: &SimDisk| -> Result<(), String> {
        let mut fenced = Fenced::open(disk.clone(), PathBuf::from(DIR), options(), (5, 0))
            .map_err(|error| error.to_string())?;
        while fenced.check_next().map_err(|error| error.to_string())? {}
        while let Some(hole) = fenced.holes().first().cloned() {
            let request = fenced.ask(&hole);
            let RangeAnswer::Bytes(bytes) = answer(&disks[1], &request) else { panic!("it has") };
            let taken = fenced.take(&hole, &request, &bytes);
            taken.map_err(|error| error.to_string())?;
            while fenced.check_next().map_err(|error| error.to_string())? {}
        }
        fenced.finish().map(drop).map_err(|error| error.to_string())
    };
    let first = damaged();
    let begin = first.operations();
    repair_all(&first).unwrap();
    let operations = first.operations() - begin;
    for at in 1..=operations {
        let disk = damaged();
        disk.set_crash_after(disk.operations() + at);
        assert!(repair_all(&disk).is_err() || at == operations);
        for seed in 0..2 {
            let disk = disk.crash(at * 2 + seed);
            repair_all(&disk).unwrap_or_else(|error| panic!("operation {at}: {error}"));
            assert_eq!(whole(&disk), before, "operation {at}");
        }
    }
}

/// Damages half of all frames and segment headers, each on one of the disks.
fn damage_thirds(places: &[(PathBuf, u64, u64)], disks: &[SimDisk; 3], random: &mut Random) {
    for (path, from, to) in places {
        let disk = &disks[random.below(3) as usize];
        match random.below(4) {
            0 => disk.flip_bit(path, from * 8 + random.below((to - from) * 8)).unwrap(),
            1 => {
                let at = from + random.below(to - from);
                disk.zero(path, at..*to.min(&(at + 1 + random.below(2000)))).unwrap();
            }
            _ => {}
        }
    }
}

/// Where segment headers and frames are.
fn places(log: &Log<SimDisk>) -> Vec<(PathBuf, u64, u64)> {
    let mut places = Vec::new();
    for info in log.segments() {
        places.push((info.path.clone(), 0, 4096));
        let mut at = 4096;
        for frame in log.entries(info.base_index, info.last_index + 1, u64::MAX).unwrap() {
            places.push((info.path.clone(), at, at + frame.header.frame_bytes()));
            at += frame.header.frame_bytes();
        }
    }
    places
}

/// Each asks the others, which are fenced, too, until nobody can get on.
fn repair_one_another(fenced: &mut [Fenced<SimDisk>; 3]) {
    let (mut idle, mut turn) = (0, 0);
    while idle < 4 && fenced.iter().any(|fenced| !fenced.holes().is_empty()) {
        turn += 1;
        idle += 1;
        let me = turn % 3;
        for hole in fenced[me].holes() {
            let mut is_done = false;
            while !is_done {
                let request = fenced[me].ask(&hole);
                let others = [(me + 1) % 3, (me + 2) % 3];
                let answers = others.map(|it| fenced[it].range(&request, ANSWER_BYTES).unwrap());
                let bytes = answers.into_iter().find_map(|answer| match answer {
                    RangeAnswer::Bytes(bytes) => Some(bytes),
                    _ => None,
                });
                let Some(bytes) = bytes else { break };
                is_done = fenced[me].take(&hole, &request, &bytes).unwrap().is_some();
            }
            idle *= u64::from(!is_done);
            while fenced[me].check_next().unwrap() {}
        }
    }
}

#[test]
fn disjoint_damage_on_all_replicas_is_put_back_from_one_another() {
    let pristine = replicas();
    let before = open(&pristine[0].crash(7));
    let (all, places) = (canonical(&frames(&before)), places(&before));
    for seed in 0..60 {
        let disks = [0, 1, 2].map(|disk| pristine[disk].crash(seed));
        damage_thirds(&places, &disks, &mut Random(seed));
        let mut fenced = [0, 1, 2].map(|disk| fence(&disks[disk]));
        assert!(fenced.iter().all(|fenced| !fenced.is_whole()), "seed {seed}");
        repair_one_another(&mut fenced);
        let mut longest = 0;
        for fenced in fenced {
            assert!(fenced.is_whole(), "seed {seed}: {:?}", fenced.holes().first());
            let log = fenced.finish().unwrap().0;
            let has = log.last_index() as usize;
            assert_eq!(canonical(&frames(&log)), all[..has], "seed {seed}");
            assert!(has == all.len() || log.must_reach().is_some(), "seed {seed}");
            longest = longest.max(has);
        }
        assert_eq!(longest, all.len(), "seed {seed}");
    }
}

#[test]
fn a_record_that_is_damaged_everywhere_stays_a_hole_and_all_others_come_back() {
    let pristine = replicas();
    let before = open(&pristine[0].crash(7));
    let (places, index) = (places(&before), 17);
    let disks = [0, 1, 2].map(|disk| pristine[disk].crash(3));
    damage_thirds(&places, &disks, &mut Random(3));
    // Of the first two segments: thirteen entries and a header each.
    let (path, from, _) = &places[index + 1];
    for (number, disk) in disks.iter().enumerate() {
        disk.flip_bit(path, (from + 100 + number as u64) * 8).unwrap();
    }
    let mut fenced = [0, 1, 2].map(|disk| fence(&disks[disk]));
    repair_one_another(&mut fenced);
    for fenced in fenced {
        let holes = fenced.holes();
        assert_eq!(holes.len(), 1, "{holes:?}");
        let damage = &holes[0].damage;
        assert!(damage.first_index <= index as u64 && damage.path == *path, "{damage}");
    }
}
