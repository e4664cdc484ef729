//! What the engine writes, the checker accepts; what the checker says, the engine does.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fluxmq_log::format::{BatchBuilder, FLAG_ROLL, FrameKind, MessageRecord};
use fluxmq_log::os_disk::OsDisk;
use fluxmq_log::{Entry, HardState, Log, LogOptions, OpenError, Recovery, SnapshotAt};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{exit_code, stdout, wal_tools};

const PARTITION: &str = "p0001";

/// Opens the log of a data directory.
fn open(data: &Path) -> Result<(Log<OsDisk>, Recovery), OpenError> {
    let disk = OsDisk::new(data.to_owned()).unwrap();
    let options = LogOptions {
        cluster: *b"the test cluster",
        partition: 1,
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 64 << 10,
        cache_bytes: 8 << 10,
        ..LogOptions::default()
    };
    Log::open(disk, PathBuf::from(PARTITION), options)
}

/// Appends entries of two messages and a control record each, and flushes after every third.
fn append(log: &mut Log<OsDisk>, count: u64, flags: u16) {
    append_in(log, 2, count, flags);
}

fn append_in(log: &mut Log<OsDisk>, term: u64, count: u64, flags: u16) {
    for number in 0..count {
        let index = log.last_index() + 1;
        let ts = 1_700_000_000_000 + index;
        let mut batch = BatchBuilder::new(ts);
        for topic in ["a/b", "a/c"] {
            let (topic, payload) = (topic.as_bytes(), vec![index as u8; 300]);
            batch.push_message(&MessageRecord {
                topic,
                payload: &payload,
                ts,
                ..Default::default()
            });
        }
        batch.push_control(7, b"control", ts);
        let mut entry = Entry::from_batch(index, term, log.durable().index, batch.finish());
        entry.flags |= if number == 0 { flags } else { 0 };
        log.append(entry).unwrap();
        if number % 3 == 2 {
            log.flush().unwrap();
        }
    }
    log.flush().unwrap();
}

fn seal(log: &mut Log<OsDisk>) {
    let (index, body) = (log.last_index() + 1, log.seal_body());
    log.append(Entry::without_records(index, 2, FrameKind::Seal, 0, body)).unwrap();
    log.flush().unwrap();
}

fn snapshot(log: &mut Log<OsDisk>) {
    let last = log.last();
    let at = SnapshotAt { index: last.index, term: 2, end: last.end };
    log.save_snapshot(at, &[vec![1; 5000].into(), vec![2; 100].into()]).unwrap();
}

fn verify(data: &Path) -> (i32, String) {
    let output = wal_tools(&["verify"], data);
    (exit_code(&output), stdout(&output))
}

/// A data directory with two closed segments, an active one, two snapshots and a hard state.
fn data() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let (mut log, _) = open(data.path()).unwrap();
    append(&mut log, 12, 0);
    snapshot(&mut log);
    seal(&mut log);
    append(&mut log, 12, 0);
    append(&mut log, 6, FLAG_ROLL);
    snapshot(&mut log);
    append(&mut log, 6, 0);
    log.save_hard_state(HardState { term: 2, vote: 1, commit: 36 }).unwrap();
    data
}

#[test]
fn whatever_the_engine_does_is_clean_while_it_runs_and_after() {
    let data = tempfile::tempdir().unwrap();
    let clean = |step: &str| {
        let (code, text) = verify(data.path());
        assert_eq!((code, text.lines().count()), (0, 1), "after {step}: {text}");
    };
    let (mut log, _) = open(data.path()).unwrap();
    clean("creating");
    append(&mut log, 10, 0);
    clean("appending");
    log.save_hard_state(HardState { term: 2, vote: 1, commit: 5 }).unwrap();
    log.note_idle().unwrap();
    clean("proving");
    seal(&mut log);
    clean("sealing");
    append(&mut log, 10, 0);
    append(&mut log, 10, FLAG_ROLL);
    clean("rolling without a seal");
    log.truncate_suffix(28).unwrap();
    clean("cutting within a segment");
    append(&mut log, 5, 0);
    log.truncate_suffix(16).unwrap();
    clean("cutting across segments");
    append(&mut log, 5, FLAG_ROLL);
    snapshot(&mut log);
    append(&mut log, 5, FLAG_ROLL);
    snapshot(&mut log);
    clean("saving snapshots");
    log.trim_prefix(log.last_index()).unwrap();
    assert!(log.first_index() > 1, "something was trimmed");
    clean("trimming");
    let spare = log.prepare_spare().unwrap().run();
    log.finish_spare(spare).unwrap();
    append(&mut log, 5, FLAG_ROLL);
    clean("using a spare");
    let records = 3 * (log.last_index() - log.first_index() + 1);
    let dump = wal_tools(&["dump"], data.path());
    assert_eq!(stdout(&dump).lines().count() as u64, records);
    drop(log);
    drop(open(data.path()).unwrap());
    clean("opening again");
    let (mut log, _) = open(data.path()).unwrap();
    let at = SnapshotAt { index: 100, term: 3, end: fluxmq_log::Offset(300) };
    log.install_snapshot(at, None, &[b"from another replica".as_slice().into()]).unwrap();
    clean("installing a snapshot");
    append_after(&mut log, 3);
    clean("appending behind a snapshot");
}

fn append_after(log: &mut Log<OsDisk>, term: u64) {
    let index = log.last_index() + 1;
    let entry = Entry::without_records(index, term, FrameKind::Noop, 0, Vec::new().into());
    log.append(entry).unwrap();
    log.flush().unwrap();
}

/// The engine writes, rolls, snapshots and trims as fast as it can while the checker reads.
#[test]
fn a_log_that_is_being_written_never_looks_corrupt() {
    let data = tempfile::tempdir().unwrap();
    let (mut log, _) = open(data.path()).unwrap();
    append(&mut log, 1, 0);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..60 {
                append(&mut log, 9, if round % 4 == 3 { FLAG_ROLL } else { 0 });
                let commit = log.durable().index;
                log.save_hard_state(HardState { term: 2, vote: 1, commit }).unwrap();
                log.note_idle().unwrap();
                if round % 10 == 9 {
                    snapshot(&mut log);
                    log.trim_prefix(commit).unwrap();
                }
            }
            is_over.store(true, Ordering::Release);
        });
        while !is_over.load(Ordering::Acquire) {
            let (code, text) = verify(data.path());
            assert!(code < 2, "{text}");
            let dump = wal_tools(&["dump", "--headers-only"], data.path());
            assert_eq!(exit_code(&dump), 0, "{}", super::stderr(&dump));
        }
    });
    let (code, text) = verify(data.path());
    assert_eq!(code, 0, "{text}");
}

/// One flipped bit in any file. Where the engine refuses or cuts, the checker must say so; where the checker sees nothing, the
/// engine must find everything.
#[test]
fn checker_and_engine_agree_on_every_flipped_bit() {
    let original = data();
    let files = files(&original.path().join(PARTITION));
    let used: Vec<(PathBuf, u64)> =
        files.iter().map(|path| (path.clone(), used_bytes(path))).collect();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(250));
    let choice = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..8u8);
    let seen = [const { Cell::new(0) }; 3];
    runner
        .run(&choice, |(file, at, bit)| {
            let (path, used) = file.get(&used);
            let at = at.index(*used as usize);
            let copy = copy(original.path());
            let path = copy.path().join(path.strip_prefix(original.path()).unwrap());
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 1 << bit;
            fs::write(&path, bytes).unwrap();

            let (code, text) = verify(copy.path());
            let opened = open(copy.path());

            let what = format!("byte {at} of {}: {text}", path.display());
            let expected_last = 36 + 1;
            match opened {
                Err(_) => prop_assert_eq!(code, 2, "refused, {}", what),
                Ok((log, recovery)) => {
                    let is_cut = recovery.cut.is_some();
                    prop_assert!(!is_cut || code == 1, "cut, {}", what);
                    prop_assert!(is_cut || log.last_index() == expected_last, "lost, {}", what);
                    let is_untouched = recovery.repaired.is_empty()
                        && recovery.manifest_rebuilt.is_none()
                        && !recovery.is_manifest_torn;
                    prop_assert!(is_untouched || code > 0, "repaired, {}", what);
                }
            }
            // The used part of every file is guarded byte for byte.
            prop_assert!(code > 0, "unnoticed, {}", what);
            prop_assert!(text.contains(&path.display().to_string()), "not named, {}", what);
            seen[code as usize].update(|count| count + 1);
            Ok(())
        })
        .unwrap();
    assert!(seen[1].get() > 0 && seen[2].get() > 0, "both verdicts were needed: {seen:?}");
}

/// The last flush reached the disk in part: any of its 512-byte sectors may be missing.
#[test]
fn a_power_cut_in_the_last_flush_is_a_torn_tail_and_is_cut() {
    let original = tempfile::tempdir().unwrap();
    let (mut log, _) = open(original.path()).unwrap();
    append(&mut log, 9, 0);
    let segment = log.segments().pop().unwrap();
    append(&mut log, 3, 0);
    drop(log);
    let path = original.path().join(&segment.path);
    let whole = fs::read(&path).unwrap();
    let start = segment.end_bytes as usize;
    let sectors: Vec<usize> = (start / 512..used_bytes(&path) as usize / 512 + 1).collect();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(60));
    let missing = prop::collection::vec(any::<bool>(), sectors.len());
    runner
        .run(&missing, |missing| {
            let copy = copy(original.path());
            let mut bytes = whole.clone();
            for (sector, _) in sectors.iter().zip(&missing).filter(|(_, missing)| **missing) {
                bytes[(sector * 512).max(start)..(sector + 1) * 512].fill(0);
            }
            fs::write(copy.path().join(&segment.path), &bytes).unwrap();

            let (code, text) = verify(copy.path());
            let (log, recovery) = open(copy.path()).unwrap();

            prop_assert_eq!(code, i32::from(recovery.cut.is_some()), "{}", text);
            prop_assert!(log.last_index() >= 9);
            drop(log);
            let (code, text) = verify(copy.path());
            prop_assert_eq!(code, 0, "after recovery: {}", text);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_damaged_file_beside_the_segments_is_named_with_what_to_do() {
    let expected = [
        ("hs.bin", vec![100], 1, "one of the two slots is damaged"),
        ("hs.bin", vec![100, 5000], 2, "let the node join again"),
        ("sync.bin", vec![100, 5000], 2, "the broker repairs this"),
        ("CURRENT", vec![9], 2, "does not name a manifest"),
        ("manifest.1", vec![30], 2, "intact ones follow it"),
        ("snap/00000000000000000012.snap", vec![100], 2, "the chunk at byte 0 is damaged"),
        ("snap/00000000000000000031.snap", vec![5010], 2, "the chunk at byte 5008 is damaged"),
        ("snap/00000000000000000031.snap", vec![5130], 2, "the footer is damaged"),
    ];
    for (name, positions, code, what) in expected {
        let data = data();
        let path = data.path().join(PARTITION).join(name);
        let mut bytes = fs::read(&path).unwrap();
        positions.iter().for_each(|at| bytes[*at] ^= 1);
        fs::write(&path, bytes).unwrap();

        let (found, text) = verify(data.path());

        assert_eq!(found, code, "{name}: {text}");
        assert!(text.contains(what) && text.contains(&path.display().to_string()), "{text}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let missing = [
        ("hs.bin", "is missing, although there is a log"),
        ("CURRENT", "is missing, although there is a manifest"),
        ("manifest.1", "is missing, although CURRENT names it"),
        ("snap/00000000000000000012.snap", "is missing, although the manifest lists it"),
        ("log/00000000000000000000.seg", "is missing, although the manifest lists it"),
        ("log/00000000000000000002.seg", "is missing, although the manifest lists it"),
    ];
    for (name, what) in missing {
        let data = data();
        let path = data.path().join(PARTITION).join(name);
        fs::remove_file(&path).unwrap();

        let (code, text) = verify(data.path());

        assert_eq!(code, 2, "{name}: {text}");
        let line = text.lines().position(|line| line.contains(&path.display().to_string()));
        assert!(text.lines().nth(line.unwrap() + 1).unwrap().contains(what), "{text}");
    }
}

#[test]
fn a_log_cut_behind_what_the_hard_state_knows_is_corruption() {
    let data = data();
    let path = data.path().join(PARTITION).join("log/00000000000000000002.seg");
    let mut bytes = fs::read(&path).unwrap();
    let end = used_bytes(&path) as usize;
    bytes[4096..end].fill(0);
    fs::write(&path, bytes).unwrap();

    let (code, text) = verify(data.path());

    assert_eq!(code, 2, "{text}");
    assert!(text.contains("frames that were durable are missing"), "{text}");
    assert!(matches!(open(data.path()), Err(OpenError::Damaged(_))));
}

/// Bytes of the manifest's last edit, which says that a cut is finished.
const TRUNCATED_EDIT_BYTES: usize = 17;

/// A log of twelve entries cut back to six, but for the edit that says so, and its segment as it was before the cut.
fn interrupted_cut() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let data = tempfile::tempdir().unwrap();
    let (mut log, _) = open(data.path()).unwrap();
    append(&mut log, 12, 0);
    let path = data.path().join(&log.segments()[0].path);
    let before = fs::read(&path).unwrap();
    log.truncate_suffix(7).unwrap();
    let manifest = data.path().join(PARTITION).join("manifest.1");
    let edits = fs::read(&manifest).unwrap();
    fs::write(&manifest, &edits[..edits.len() - TRUNCATED_EDIT_BYTES]).unwrap();
    (data, path, before)
}

#[test]
fn a_cut_that_was_interrupted_is_a_torn_tail() {
    // The zeros may reach the disk in any order: of the first frame to go, or only of the next.
    for zeroed in [0..200, 1000..1200] {
        let (data, path, before) = interrupted_cut();
        let kept = used_bytes(&path) as usize;
        let mut half_zeroed = before;
        half_zeroed[kept + zeroed.start..kept + zeroed.end].fill(0);
        fs::write(&path, half_zeroed).unwrap();

        let (code, text) = verify(data.path());

        assert_eq!(code, 1, "{zeroed:?}: {text}");
        let (log, recovery) = open(data.path()).unwrap();
        assert!(recovery.has_resumed_truncation);
        assert_eq!(log.last_index(), 6);
    }
}

#[test]
fn what_was_written_behind_a_finished_cut_is_judged_like_all_else() {
    let (data, path, _) = interrupted_cut();
    let unfinished = fs::read(data.path().join(PARTITION).join("manifest.1")).unwrap();
    let (mut log, _) = open(data.path()).unwrap();
    let at = log.segments()[0].end_bytes as usize;
    // Only a conflict cuts entries away: what replaces them is of another term.
    append_in(&mut log, 3, 6, 0);
    drop(log);
    // The edit that ended the cut was lost; the frames behind it were not.
    let manifest = fs::read(data.path().join(PARTITION).join("CURRENT")).unwrap()[8];
    fs::write(data.path().join(PARTITION).join(format!("manifest.{manifest}")), unfinished)
        .unwrap();
    let (code, text) = verify(data.path());
    assert_eq!(code, 0, "{text}");

    let mut bytes = fs::read(&path).unwrap();
    bytes[at + 1500] ^= 1;
    fs::write(&path, bytes).unwrap();

    let (code, text) = verify(data.path());
    assert_eq!(code, 2, "{text}");
    assert!(matches!(open(data.path()), Err(OpenError::Damaged(_))));
}

#[test]
fn the_manifest_tells_where_a_closed_segment_ends_even_if_the_next_is_gone() {
    let data = tempfile::tempdir().unwrap();
    let (mut log, _) = open(data.path()).unwrap();
    append(&mut log, 3, 0);
    append(&mut log, 3, FLAG_ROLL);
    let segments = log.segments();
    drop(log);
    fs::remove_file(data.path().join(&segments[1].path)).unwrap();
    let path = data.path().join(&segments[0].path);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0);
    fs::write(&path, bytes).unwrap();

    let (code, text) = verify(data.path());

    assert_eq!(code, 2, "{text}");
    let what = format!("frames end at 4096, the manifest says {}", segments[0].end_bytes);
    assert!(text.contains(&what), "{text}");
}

#[test]
fn a_listed_snapshot_proves_what_it_contained_even_if_it_is_damaged() {
    let data = tempfile::tempdir().unwrap();
    let (mut log, _) = open(data.path()).unwrap();
    append(&mut log, 3, 0);
    let end = log.segments()[0].end_bytes as usize;
    append(&mut log, 3, 0);
    snapshot(&mut log);
    let path = data.path().join(&log.segments()[0].path);
    drop(log);
    let mut bytes = fs::read(&path).unwrap();
    bytes[end..].fill(0);
    fs::write(&path, bytes).unwrap();
    fs::write(data.path().join(PARTITION).join("snap/00000000000000000006.snap"), b"").unwrap();

    let (code, text) = verify(data.path());

    assert_eq!(code, 2, "{text}");
    assert!(text.contains("frames that were durable are missing"), "{text}");
    assert!(matches!(open(data.path()), Err(OpenError::Damaged(_))));
}

#[test]
fn a_segment_whose_listing_was_lost_is_read_as_the_engine_would() {
    let data = tempfile::tempdir().unwrap();
    let (mut log, _) = open(data.path()).unwrap();
    append(&mut log, 3, 0);
    append(&mut log, 3, FLAG_ROLL);
    drop(log);
    let manifest = data.path().join(PARTITION).join("manifest.1");
    let mut bytes = fs::read(&manifest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&manifest, bytes).unwrap();

    let (code, text) = verify(data.path());

    assert_eq!(code, 1, "{text}");
    assert!(text.contains("is not listed in the manifest, although it holds frames"), "{text}");
    assert!(text.contains("2 segments, 6 frames"), "{text}");
    assert_eq!(open(data.path()).unwrap().1.adopted_segments, [1]);
}

#[test]
fn a_file_that_is_none_of_the_logs_is_noted_and_not_read() {
    let data = data();
    let log = data.path().join(PARTITION).join("log");
    fs::copy(log.join("00000000000000000001.seg"), log.join("00000000000000000009.seg")).unwrap();

    let (code, text) = verify(data.path());

    assert_eq!(code, 0, "{text}");
    assert!(text.contains("00000000000000000009.seg is not listed in the manifest; not read"));
    assert_eq!(open(data.path()).unwrap().1.quarantined.len(), 1);
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).collect();
    entries.sort_by_key(|entry| entry.path());
    for entry in entries {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// Returns where the zeros at the end of a segment begin, rounded up to a frame; other files are used up to their end.
fn used_bytes(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    match path.extension().is_some_and(|extension| extension == "seg") {
        true => (bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1).next_multiple_of(8),
        false => bytes.len() as u64,
    }
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for path in files(from) {
        let target = to.path().join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&path, &target).unwrap();
    }
    to
}
