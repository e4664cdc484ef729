//! What is derived is derived again and compared; what is wrong is told, and written anew.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fluxmq::view::{Views, digest};
use fluxmq_log::disk::Disk;
use fluxmq_log::os_disk::OsDisk;
use serde_json::Value;

use super::state::content;
use super::stored::{Stored, open};
use super::{exit_code, stderr, stdout, wal_tools};

fn rebuild(path: &Path, options: &[&str]) -> (i32, String) {
    let output = wal_tools(&[&["rebuild"], options].concat(), path);
    (exit_code(&output), stdout(&output))
}

fn json(path: &Path) -> Value {
    let (_, text) = rebuild(path, &["--verify", "--json"]);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn what_the_engine_wrote_is_equal_and_stays_untouched() {
    let stored = Stored::new();
    let before = content(stored.path());

    let (code, text) = rebuild(stored.path(), &["--verify"]);

    assert_eq!(code, 0, "{text}");
    let digest = &stored.states.last().unwrap().2;
    assert!(text.starts_with(&format!("p0001: equal: state {digest} before offset ")), "{text}");
    assert!(text.contains("; 4 snapshots, 4 indexes") && text.lines().count() == 1, "{text}");
    let found = json(&stored.partition());
    assert_eq!(
        (&found["outcome"], &found["whole_log"]),
        (&"equal".into(), &digest.as_str().into())
    );
    assert_eq!(found["newest_snapshot_and_rest"], found["whole_log"]);
    assert_eq!(rebuild(stored.path(), &[]).0, 0);
    assert!(before == content(stored.path()));
}

#[test]
fn a_snapshot_that_is_not_the_fold_is_told_by_its_view_and_written_again() {
    // The groups of the newest snapshot forget what was finished.
    let forget = |index: u64, mut sections: Vec<Bytes>| {
        if index > 100 {
            let none = Views::default().snapshot();
            let name = |section: &Bytes| fluxmq::view::section_name(section).unwrap().to_owned();
            let at = sections.iter().position(|section| name(section) == "groups").unwrap();
            sections[at] = none[at].clone();
        }
        sections
    };
    let stored = Stored::with(forget);
    let newest = stored.snapshots().pop().unwrap();

    let (code, text) = rebuild(stored.path(), &["--verify"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("p0001: DIFFERENT: "), "{text}");
    let wrong =
        format!("{}: its view 'groups' is not the one that the log makes", newest.display());
    assert!(text.contains(&wrong), "{text}");
    let found = json(stored.path());
    assert_eq!(found["outcome"], "different");
    assert_ne!(found["newest_snapshot_and_rest"], found["whole_log"]);

    let (code, text) = rebuild(stored.path(), &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("p0001: rebuilt: ") && text.contains("; built again"), "{text}");
    assert_eq!(rebuild(stored.path(), &["--verify"]).0, 0);
    assert!(starts_right(&stored), "a broker would start with it");
}

#[test]
fn a_snapshot_of_a_release_that_had_fewer_views_is_equal() {
    let name = |section: &Bytes| fluxmq::view::section_name(section).unwrap().to_owned();
    let stored = Stored::with(|_, mut sections| {
        sections.retain(|section| name(section) != "wills");
        sections
    });

    let (code, text) = rebuild(stored.path(), &["--verify"]);

    assert_eq!(code, 0, "{text}");
}

#[test]
fn damaged_snapshots_and_indexes_are_written_again() {
    let stored = Stored::new();
    let before = content(stored.path());
    let index = stored.segment(1).with_extension("six");
    Stored::flip(&stored.snapshots().pop().unwrap(), 30);
    Stored::flip(&index, 300);
    fs::remove_file(stored.segment(0).with_extension("six")).unwrap();

    let (code, text) = rebuild(stored.path(), &["--verify"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the chunk at byte 0 is damaged"), "{text}");
    assert!(text.contains(&format!("{}: wrong: section", index.display())), "{text}");
    let (code, text) = rebuild(stored.path(), &[]);

    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("; built again").count(), 3, "{text}");
    assert!(before == content(stored.path()), "the same bytes as before");
}

#[test]
fn an_index_that_is_only_missing_is_no_difference() {
    let stored = Stored::new();
    fs::remove_file(stored.segment(0).with_extension("six")).unwrap();

    let (code, text) = rebuild(stored.path(), &["--verify"]);

    assert_eq!(code, 0, "{text}");
    assert!(text.contains(".six: missing"), "{text}");
}

#[test]
fn a_trimmed_log_is_rebuilt_from_the_snapshot_it_begins_after() {
    let stored = Stored::new();
    let mut log = open(stored.path());
    log.trim_to_snapshot(u64::MAX).unwrap();
    drop(log);

    let (code, text) = rebuild(stored.path(), &["--verify"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(&stored.states.last().unwrap().2), "{text}");
    Stored::flip(&stored.snapshots()[0], 30);
    Stored::flip(&stored.snapshots()[1], 30);
    let output = wal_tools(&["rebuild", "--verify"], stored.path());
    assert_eq!(exit_code(&output), 2);
    assert!(stderr(&output).contains("wal-tools repair "), "{}", stderr(&output));
}

#[test]
fn a_snapshot_that_a_trim_left_behind_does_not_count() {
    let stored = Stored::new();
    let before: Vec<(PathBuf, Vec<u8>)> = stored
        .snapshots()
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let mut log = open(stored.path());
    log.trim_to_snapshot(u64::MAX).unwrap();
    drop(log);
    // As if the process had ended between the two edits of the manifest: the log begins later, and all snapshots are still listed.
    let gone = before.len() - stored.snapshots().len();
    assert!(gone > 0, "the trim drops snapshots");
    let manifest = manifest(stored.path());
    let cut = fs::metadata(&manifest).unwrap().len() - (16 + 9 * gone as u64);
    File::options().write(true).open(&manifest).unwrap().set_len(cut).unwrap();
    before.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());

    let (code, text) = rebuild(stored.path(), &["--verify"]);

    assert_eq!(code, 0, "{text}");
    assert!(text.contains(&stored.states.last().unwrap().2), "{text}");
    let (offset, ..) = stored.states[stored.states.len() / 4];
    let output = wal_tools(&["state", "--at", &offset.to_string()], stored.path());
    assert!(stderr(&output).contains("nothing is kept any more"), "{}", stderr(&output));
}

/// Returns the only manifest there is.
fn manifest(data: &Path) -> PathBuf {
    let files = fs::read_dir(data.join("p0001")).unwrap().map(|entry| entry.unwrap().path());
    let is_manifest = |path: &PathBuf| path.to_string_lossy().contains("/manifest.");
    let manifests: Vec<PathBuf> = files.filter(is_manifest).collect();
    assert_eq!(manifests.len(), 1, "{manifests:?}");
    manifests.into_iter().next().unwrap()
}

#[test]
fn a_damaged_log_is_told_and_nothing_is_written() {
    let stored = Stored::new();
    Stored::flip(&stored.segment(1), 4096 + 200);
    Stored::flip(&stored.snapshots().pop().unwrap(), 30);
    let before = content(stored.path());

    let (code, text) = rebuild(stored.path(), &[]);

    assert_eq!(code, 2, "{text}");
    assert!(text.starts_with("p0001: DAMAGED: "), "{text}");
    assert!(text.contains(&stored.segment(1).display().to_string()), "{text}");
    assert!(before == content(stored.path()));
}

#[test]
fn a_directory_that_a_broker_uses_is_refused() {
    let stored = Stored::new();
    let disk = OsDisk::new(stored.path().to_owned()).unwrap();
    let _held = disk.lock(&PathBuf::from("LOCK")).unwrap();

    for command in [&["rebuild", "--verify"][..], &["rebuild"]] {
        for path in [stored.path().to_owned(), stored.partition()] {
            let output = wal_tools(command, &path);
            assert_eq!(exit_code(&output), 3);
            assert!(stderr(&output).contains("is in use"), "{}", stderr(&output));
        }
    }
}

fn starts_right(stored: &Stored) -> bool {
    let mut log = open(stored.path());
    let (at, mut sections) = log.newest_snapshot().unwrap().unwrap();
    sections.pop();
    let state = format!("{:032x}", digest(&Views::restore(&sections).unwrap().snapshot()));
    stored.states.iter().any(|(end, _, right)| *end == at.end.0 && *right == state)
}
