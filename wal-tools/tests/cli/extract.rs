//! What is taken out is what was published, byte for byte, or nothing is.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fluxmq_log::format::{Frame, SegmentHeader};

use super::stored::{BINARY, Stored};
use super::{exit_code, stderr};

fn extract(path: &Path, options: &[&str], output: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wal-tools"));
    command.arg("extract").arg(path).args(options).arg("-o").arg(output).output().unwrap()
}

/// The offset of the first message of the queue.
const FIRST_ORDER: &str = "3";

#[test]
fn a_payload_has_every_byte() {
    let stored = Stored::new();
    let to = tempfile::tempdir().unwrap();
    let file = to.path().join("payload");

    let output = extract(stored.path(), &["--offset", FIRST_ORDER], &file);
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    assert_eq!(fs::read(&file).unwrap(), BINARY);
    let output = extract(stored.path(), &["--offset", FIRST_ORDER], Path::new("-"));
    assert_eq!(output.stdout, BINARY);

    let again = extract(stored.path(), &["--offset", FIRST_ORDER], &file);
    assert_eq!(exit_code(&again), 3);
    assert!(stderr(&again).contains("--force"), "{}", stderr(&again));
    let forced = extract(stored.path(), &["--offset", "2", "--force"], &file);
    assert_eq!(exit_code(&forced), 0);
    assert!(fs::read(&file).unwrap().starts_with(b"reading 0 "));
}

#[test]
fn many_payloads_need_a_directory() {
    let stored = Stored::new();
    let to = tempfile::tempdir().unwrap();

    let refused = extract(stored.path(), &["$queue/#"], &to.path().join("one"));
    assert_eq!(exit_code(&refused), 3);
    assert!(stderr(&refused).contains("more than one message"), "{}", stderr(&refused));
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0, "nothing is left behind");
    let dir = to.path().join("many/");
    let output = extract(stored.path(), &["$queue/#"], &dir);

    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 120);
    let first = dir.join(format!("p0001-{:020}.payload", 3));
    assert_eq!(fs::read(first).unwrap(), BINARY);
}

#[test]
fn json_lines_have_the_payload_too() {
    let stored = Stored::new();
    let to = tempfile::tempdir().unwrap();
    let file = to.path().join("lines");

    extract(stored.path(), &["--queue", "orders", "--as", "json"], &file);

    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 120);
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["payload_encoding"], "base64");
        assert_eq!(STANDARD.decode(line["payload"].as_str().unwrap()).unwrap(), BINARY);
    }
}

#[test]
fn frames_are_those_of_the_segment() {
    let stored = Stored::new();
    let to = tempfile::tempdir().unwrap();
    let file = to.path().join("frames");

    extract(stored.path(), &["--range", "0..10", "--as", "frames"], &file);

    let frames = fs::read(&file).unwrap();
    let segment = fs::read(stored.segment(0)).unwrap();
    assert_eq!(frames, segment[4096..4096 + frames.len()]);
    let salt = SegmentHeader::decode(&segment[..4096]).unwrap().salt();
    let first = Frame::decode(&Bytes::from(frames), salt).unwrap();
    assert_eq!(first.header.index, 1);
}

#[test]
fn nothing_is_written_where_nothing_matches_and_damage_is_told() {
    let stored = Stored::new();
    let to = tempfile::tempdir().unwrap();
    let file = to.path().join("file");

    let none = extract(stored.path(), &["no/such/topic"], &file);
    assert_eq!(exit_code(&none), 1);
    assert!(!file.exists());
    Stored::flip(&stored.segment(0), 4096 + 300);
    let damaged = extract(stored.path(), &["site/#", "--as", "json"], &file);
    assert_eq!(exit_code(&damaged), 2);
    assert!(stderr(&damaged).contains("left out"), "{}", stderr(&damaged));
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 119);
}
