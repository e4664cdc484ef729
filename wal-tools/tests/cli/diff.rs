//! Two replicas side by side.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::fixture::Data;
use super::{exit_code, stdout};

fn diff(one: &Path, other: &Path, options: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wal-tools"));
    let output: Output = command.arg("diff").arg(one).arg(other).args(options).output().unwrap();
    (exit_code(&output), stdout(&output))
}

fn json(one: &Data, other: &Data) -> serde_json::Value {
    let (_, text) = diff(one.path(), other.path(), &["--json"]);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn replicas_are_equal_whatever_their_own_bytes_are() {
    let (one, segments) = Data::with_three_segments();
    let (other, _) = Data::with_three_segments();
    let (code, text) = diff(one.path(), other.path(), &[]);
    assert_eq!(code, 0);
    assert_eq!(text, "p0001 same: equal to before offset 300, index 32, in 3 segments\n");
    // What a frame of another replica says of what was synced there.
    let at = segments[1].frames[4].start;
    let path = other.segment(1);
    let mut bytes = fs::read(&path).unwrap();
    let crc = bytes[at + 4..at + 8].to_vec();
    bytes[at + 88..at + 92].fill(0);
    let check = crc32c::crc32c(&[&[0; 4], &crc[..]].concat());
    bytes[at + 92..at + 96].copy_from_slice(&check.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert_eq!(diff(one.path(), other.path(), &[]).0, 0);
    assert_eq!(diff(&one.partition(), &other.partition(), &[]).0, 0);
    assert_eq!(diff(&one.segment(1), &other.segment(1), &[]).0, 0);
}

#[test]
fn one_that_lags_or_was_trimmed_is_no_difference() {
    let (one, segments) = Data::with_three_segments();
    let (other, _) = Data::with_three_segments();
    fs::remove_file(other.segment(0)).unwrap();
    let (code, text) = diff(one.path(), other.path(), &[]);
    assert_eq!(code, 0);
    assert!(
        text.contains("later: ") && text.contains("DIR_B begins later, with segment 1"),
        "{text}"
    );

    let path = one.segment(2);
    let mut bytes = fs::read(&path).unwrap();
    bytes[segments[2].frames[7].start..].fill(0);
    fs::write(&path, bytes).unwrap();
    let (code, text) = diff(one.path(), other.path(), &[]);
    assert_eq!(code, 0);
    assert!(text.contains("equal to before offset 270, index 29"), "{text}");
    assert!(text.contains("DIR_A is shorter by 3 frames"), "{text}");
    fs::remove_file(path).unwrap();
    let found = json(&one, &other);
    assert_eq!((&found["outcome"], &found["shorter"]), (&"shorter".into(), &"a".into()));
    assert_eq!((&found["later"], &found["frames_beyond"]), (&"b".into(), &10.into()));
}

#[test]
fn the_first_difference_of_each_segment_is_told_with_the_side_that_fails() {
    let (one, segments) = Data::with_three_segments();
    let (other, _) = Data::with_three_segments();
    let body = segments[0].frames[3].start + 120;
    other.flip(0, body);
    other.flip(0, segments[0].frames[5].start + 120);
    let header = segments[1].frames[2].start + 20;
    one.flip(1, header);
    one.flip(2, 50);
    let (code, text) = diff(one.path(), other.path(), &[]);
    assert_eq!(code, 2);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].starts_with("p0001 differs: equal to before offset 30, index 3,"), "{text}");
    assert!(lines[1].contains(&format!("segment 0 byte {body}: bytes differ")), "{text}");
    assert!(
        lines[1].contains("index 4, offsets 30..40; DIR_B fails its own check: body"),
        "{text}"
    );
    assert!(lines[2].contains(&format!("segment 1 byte {header}: ")), "{text}");
    assert!(lines[2].contains("DIR_A fails its own check: header"), "{text}");
    assert!(lines[3].contains("segment 2 byte 50: segment header; DIR_A fails"), "{text}");
    let found = json(&one, &other);
    assert_eq!(found["differences"][0]["byte"], body);
    assert_eq!(found["differences"][0]["index"], 4);
    assert!(found["differences"][0].get("a_fails").is_none());
}

#[test]
fn what_is_intact_on_both_sides_and_differs_is_another_history() {
    let (one, segments) = Data::with_three_segments();
    let other = Data::new();
    // As long, and not the same: the last segment's frames in another order of batches.
    let mut wrong = segments[1].next();
    for number in [21, 20] {
        wrong.push(super::fixture::batch(number));
    }
    segments[..2].iter().for_each(|segment| other.write(segment));
    other.write(&wrong);
    let (code, text) = diff(one.path(), other.path(), &[]);
    assert_eq!(code, 2);
    assert!(text.contains("segment 2 byte") && !text.contains("fails its own check"), "{text}");
}

#[test]
fn a_segment_or_a_partition_that_is_missing_is_a_difference() {
    let (one, _) = Data::with_three_segments();
    let (other, _) = Data::with_three_segments();
    fs::remove_file(other.segment(1)).unwrap();
    let (code, text) = diff(one.path(), other.path(), &[]);
    assert_eq!(code, 2);
    assert!(text.contains("segment 1 byte 0: segment on one side only; DIR_B fails"), "{text}");

    fs::create_dir_all(one.path().join("p0002/log")).unwrap();
    fs::create_dir_all(other.path().join("p0003/log")).unwrap();
    let (code, text) = diff(one.path(), other.path(), &[]);
    assert_eq!(code, 2);
    assert!(text.contains("p0002 differs") && text.contains("p0003 differs"), "{text}");
    assert_eq!(diff(one.path(), &one.path().join("nothing"), &[]).0, 3);
}
