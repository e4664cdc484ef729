//! The state as of any place is that of the records before it, whatever snapshot it was folded from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::stored::{ENTRIES, START_MS, Stored, epoch, go_on, open};
use super::{exit_code, stderr, stdout, wal_tools};

fn state(path: &Path, options: &[&str]) -> Vec<Value> {
    let arguments = [&["state", "--format", "json"], options].concat();
    let output = wal_tools(&arguments, path);
    assert_eq!((exit_code(&output), stderr(&output)), (0, String::new()), "{options:?}");
    stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_offset_and_time_has_the_state_of_the_records_before_it() {
    let stored = Stored::new();
    let end = stored.states.last().unwrap();
    assert_eq!(state(stored.path(), &[])[0]["digest"], end.2.as_str());
    for (offset, time, digest) in stored.states.iter().step_by(7) {
        let found = &state(stored.path(), &["--at", &(offset - 1).to_string()])[0];
        assert_eq!(
            (&found["digest"], &found["before_offset"]),
            (&digest.as_str().into(), &(*offset).into())
        );

        let later = stored.states.iter().rfind(|(_, at, _)| at <= time).unwrap();
        let found = &state(stored.path(), &["--at", &format!("timestamp={time}")])[0];
        assert_eq!(found["digest"], later.2.as_str());
    }
    let newest = &state(stored.path(), &[])[0];
    assert!(newest["from_snapshot"].as_u64().is_some_and(|index| index > 90), "{newest}");
    assert_eq!(newest["committed_for_certain_to_index"], Value::Null);
    let counts = ["remembered_ids", "remembered_producers", "history_begins_at"];
    let first_of_orders = 3;
    let counts = counts.map(|name| newest[name].as_u64().unwrap());
    assert_eq!(counts, [1, 1, first_of_orders]);
}

#[test]
fn a_session_is_told_as_it_was() {
    let stored = Stored::new();
    let session = |at: u64| {
        let at = format!("timestamp={}", START_MS + at * 1000 + 999);
        state(stored.path(), &["--session", "dash", "--at", &at]).remove(0)
    };

    let open = session(50);
    assert_eq!((&open["user"], &open["is_connected"]), (&"alice".into(), &true.into()));
    assert_eq!(open["epoch"], epoch().0);
    assert_eq!(open["subscriptions"][0]["filter"], "site/+/temp");
    assert_eq!(open["subscriptions"][0]["subscription_id"], 7);
    assert_eq!(open["cursors"][0]["offset"], 27);
    let closed = session(110);
    assert_eq!((&closed["is_connected"], &closed["expiry_s"]), (&false.into(), &3600.into()));
    assert_eq!(closed["closed_at"], "2023-11-14T22:15:00.000Z");
    assert_eq!(closed["ends_at"], "2023-11-14T23:15:00.000Z");

    let before = wal_tools(&["state", "--session", "dash", "--at", "5"], stored.path());
    assert_eq!(exit_code(&before), 1);
    assert!(stderr(&before).contains("nothing of that name"), "{}", stderr(&before));
}

#[test]
fn queues_groups_and_retained_messages_are_told() {
    let stored = Stored::new();

    let queue = &state(stored.path(), &["--queue", "orders"])[0];
    assert_eq!((&queue["entries"], &queue["end"]), (&ENTRIES.into(), &ENTRIES.into()));
    assert_eq!(queue["settings"]["type"], "classic");
    assert_eq!(queue["follows"], serde_json::json!([{ "partition": 2, "offset": 77 }]));
    let group = &queue["groups"][0];
    assert_eq!((&group["group"], &group["queue"]), (&"workers".into(), &"orders".into()));
    let finished = group["committed"].as_u64().unwrap() + group["finished_above"].as_u64().unwrap();
    assert_eq!(group["lag"].as_u64().unwrap() + finished, ENTRIES);
    assert!(group["returned_count"].as_u64().unwrap() > 0);
    for options in [&["--group", "workers"][..], &["--group", "workers", "--queue", "orders"]] {
        assert_eq!(&state(stored.path(), options)[0]["committed"], &group["committed"]);
    }
    let other = wal_tools(&["state", "--group", "workers", "--queue", "other"], stored.path());
    assert_eq!(exit_code(&other), 1);

    // Entry 5 sets site/5/temp, entry 33 clears it, entry 40 sets it again.
    let at = |number: u64| format!("timestamp={}", START_MS + number * 1000);
    let retained = state(stored.path(), &["--retained", "site/5/#", "--at", &at(20)]).remove(0);
    assert_eq!(retained["topic"], "site/5/temp");
    let record = &retained["record"];
    assert_eq!((&record["topic"], &record["retain"]), (&"site/5/temp".into(), &"set".into()));
    assert!(record["payload"].as_str().unwrap().starts_with("reading 5 "), "{record}");
    let cleared =
        wal_tools(&["state", "--retained", "site/5/temp", "--at", &at(33)], stored.path());
    assert_eq!(exit_code(&cleared), 1);
}

#[test]
fn people_get_lines() {
    let stored = Stored::new();

    let text = stdout(&wal_tools(&["state"], stored.path()));

    for line in ["partition: p0001", "sessions: 1", "retained: ", "queues:", "  - queue: orders"] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    assert!(text.contains(&stored.states.last().unwrap().2));
}

#[test]
fn damage_behind_a_snapshot_is_stepped_over_and_before_it_is_told() {
    let stored = Stored::new();
    let end = stored.states.last().unwrap();
    Stored::flip(&stored.segment(3), 4096 + 200);

    assert_eq!(state(stored.path(), &[])[0]["digest"], end.2.as_str(), "the snapshot is behind it");
    // The newest snapshot gone, the fold begins before the damage.
    Stored::flip(stored.snapshots().last().unwrap(), 20);
    let output = wal_tools(&["state", "--format", "json"], stored.path());
    assert_eq!(exit_code(&output), 2, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains(&stored.segment(3).display().to_string()), "{said}");
    assert!(said.contains("the state is that before the damage"), "{said}");
}

#[test]
fn the_state_before_a_trimmed_log_is_refused_with_the_first_that_is_kept() {
    let stored = Stored::new();
    let mut log = open(stored.path());
    let first = log.trim_to_snapshot(u64::MAX).unwrap();
    assert!(first > 1);
    let kept = log.first_offset();
    drop(log);

    let refused = wal_tools(&["state", "--at", "3"], stored.path());
    assert_eq!(exit_code(&refused), 3);
    assert!(stderr(&refused).contains(&format!("ask for {kept}")), "{}", stderr(&refused));
    let (_, _, digest) = stored.states.iter().find(|(end, ..)| *end == kept.0 + 1).unwrap();
    assert_eq!(state(stored.path(), &["--at", &kept.to_string()])[0]["digest"], digest.as_str());
}

#[test]
fn a_log_that_is_written_and_trimmed_has_a_state_at_any_time() {
    let stored = Stored::new();
    let is_over = AtomicBool::new(false);
    let mut newest = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            go_on(stored.path(), 60);
            is_over.store(true, Ordering::Release);
        });
        while !is_over.load(Ordering::Acquire) {
            let output = wal_tools(&["state", "--format", "json"], stored.path());
            assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
            let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
            let index = found["index"].as_u64().unwrap();
            assert!(index >= newest, "{index} after {newest}");
            newest = index;
        }
    });
    assert!(newest > ENTRIES, "it was looked at while it grew");
    assert_eq!(exit_code(&wal_tools(&["rebuild", "--verify"], stored.path())), 0);
}

#[test]
fn nothing_is_written() {
    let stored = Stored::new();
    let before = content(stored.path());

    for options in [&["state"][..], &["state", "--queue", "orders"], &["state", "--at", "30"]] {
        wal_tools(options, stored.path());
    }

    assert!(before == content(stored.path()));
}

/// Returns the content of every file below a directory.
pub fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(content(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}
