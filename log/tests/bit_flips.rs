//! Every bit of a small store flips, one at a time: each is noticed, and none changes what is served.
//!
//! Noticed means: opening the log refuses, opening it repairs and says so, or reading what rotted is an error. Nothing is left
//! over: zeros behind frames count like frames. A spare segment is not part of it, because opening throws it away unread, and
//! `wal-tools verify` finds all of these and rot in a spare (`wal-tools/src/verify/flips.rs`).
//!
//! `FLUXMQ_FLIP_STRIDE` (default large, 1 for every bit) sets the effort; every bit belongs into a release build.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // All of it is test code.

mod support;

use std::path::Path;

use fluxmq_log::sim_disk::{Crash, SimDisk};
use fluxmq_log::{HardState, Log, LogOptions, SnapshotAt};
use support::history::Healthy;
use support::*;

const OLDER_SNAPSHOT: &str = "snap/00000000000000000010.snap";
const NEWEST_SNAPSHOT: &str = "snap/00000000000000000060.snap";

/// A store with a sealed and an active segment, two snapshots, a hard state, and nothing that is not proven.
fn store() -> SimDisk {
    let disk = SimDisk::new(1);
    let small = LogOptions { segment_bytes_max: 64 << 10, ..options() };
    let (mut log, _) = Log::open(disk.clone(), DIR.into(), small).unwrap();
    append_and_flush(&mut log, 40);
    seal(&mut log);
    append_and_flush(&mut log, 20);
    append_and_flush(&mut log, 20);
    for index in [10, 60] {
        let end = log.entries(index, index + 1, 1).unwrap()[0].header.end_offset();
        let chunks = [chunk("views"), chunk(""), vec![3; 700].into()];
        log.save_snapshot(SnapshotAt { index, term: 1, end }, &chunks).unwrap();
    }
    log.save_hard_state(HardState { term: 3, vote: 2, commit: 60 }).unwrap();
    log.note_idle().unwrap();
    disk
}

#[test]
fn every_flipped_bit_is_noticed_and_none_is_served() {
    let stride = std::env::var("FLUXMQ_FLIP_STRIDE");
    let stride = stride.map_or(4_999, |value| value.parse().expect("a number"));
    let disk = store();
    let healthy = Healthy::of(&disk);
    let older = older_snapshot(&disk);
    let (mut flips, mut noticed) = (0u64, 0u64);
    for (path, bytes) in disk.contents() {
        let bits = bytes.map_or(0, |bytes| bytes.len() as u64 * 8);
        for bit in (0..bits).step_by(stride) {
            let rotten = disk.crash_image(Crash::Process);
            rotten.flip_bit(&path, bit).unwrap();
            flips += 1;
            let judged = if path.ends_with(OLDER_SNAPSHOT) {
                older.judge(&without_newest_snapshot(&rotten))
            } else {
                healthy.judge(&rotten)
            };
            match judged {
                Ok(true) => noticed += 1,
                Ok(false) => panic!("bit {bit} of {} went unnoticed", path.display()),
                Err(what) => panic!("bit {bit} of {}: {what}", path.display()),
            }
        }
    }
    println!("{flips} flips, {noticed} noticed");
    assert!(flips > 100 && noticed == flips);
}

#[test]
fn a_rotten_spare_is_thrown_away_unread() {
    let disk = store();
    let mut log = open(&disk);
    let job = log.prepare_spare().unwrap();
    log.finish_spare(job.run()).unwrap();
    drop(log);
    let healthy = Healthy::of(&disk);
    let is_spare = |path: &Path| path.extension().is_some_and(|end| end == "zero");
    let (spare, bytes) =
        disk.contents().into_iter().find(|(path, _)| is_spare(path)).expect("prepared above");
    for bit in (0..bytes.unwrap().len() as u64 * 8).step_by(7) {
        disk.flip_bit(&spare, bit).unwrap();
    }

    assert_eq!(healthy.judge(&disk), Ok(false), "nothing was lost, nothing had to be done");

    assert!(disk.contents().keys().all(|path| *path != spare));
}

/// The older snapshot is only read when the newest is damaged.
fn older_snapshot(disk: &SimDisk) -> Healthy {
    let healthy = Healthy::of(&without_newest_snapshot(disk));
    assert_ne!(healthy.snapshot_index(), Healthy::of(disk).snapshot_index());
    healthy
}

fn without_newest_snapshot(disk: &SimDisk) -> SimDisk {
    let disk = disk.crash_image(Crash::Process);
    disk.zero(&Path::new(DIR).join(NEWEST_SNAPSHOT), 0..100).unwrap();
    disk
}
