//! Indexes: listed, compared, built again, and checked by `verify`.

use std::fs;
use std::path::PathBuf;

use super::fixture::Data;
use super::{exit_code, stdout, wal_tools};

fn index(data: &Data, number: u64) -> PathBuf {
    data.segment(number).with_extension("six")
}

#[test]
fn what_is_missing_or_wrong_is_told_and_built_again() {
    let (data, _) = Data::with_three_segments();

    let listed = wal_tools(&["index"], data.path());
    assert_eq!(exit_code(&listed), 1);
    assert_eq!(stdout(&listed).matches(".six: missing").count(), 2);
    assert!(stdout(&listed).contains("00000000000000000002.six: not sealed yet"));
    assert!(!index(&data, 0).exists(), "listing writes nothing");

    let built = wal_tools(&["index", "--rebuild"], data.path());
    assert_eq!(exit_code(&built), 0, "{}", stdout(&built));
    assert_eq!(stdout(&built).matches(".six: missing, built").count(), 2);
    let right = fs::read(index(&data, 0)).unwrap();

    let mut wrong = right.clone();
    wrong[300] ^= 1;
    fs::write(index(&data, 0), &wrong).unwrap();
    fs::copy(index(&data, 0), index(&data, 1)).unwrap();
    let listed = wal_tools(&["index"], data.path());
    assert_eq!(exit_code(&listed), 1);
    let text = stdout(&listed);
    assert!(text.contains("00000000000000000000.six: wrong: section frames checksum"), "{text}");
    assert!(text.contains("00000000000000000001.six: wrong: belongs to segment 0"), "{text}");

    let built = wal_tools(&["index", "--rebuild"], data.path());
    assert_eq!(exit_code(&built), 0);
    assert_eq!(fs::read(index(&data, 0)).unwrap(), right);
    let names = fs::read_dir(data.partition().join("log")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 5, "no temporary file is left: {names:?}");
}

#[test]
fn an_index_shows_what_is_in_it() {
    let (data, _) = Data::with_three_segments();
    wal_tools(&["index", "--rebuild"], data.path());

    let shown = wal_tools(&["index", "--show"], &data.segment(0));

    assert_eq!(exit_code(&shown), 0);
    let text = stdout(&shown);
    for expected in ["100 records", "6 topics in 6 shapes", "postings", "\"$queue/orders/new\""] {
        assert!(text.contains(expected), "no {expected} in\n{text}");
    }
}

#[test]
fn verify_compares_an_index_with_its_segment_and_loses_nothing_over_it() {
    let (data, _) = Data::with_three_segments();
    wal_tools(&["index", "--rebuild"], data.path());
    assert_eq!(exit_code(&wal_tools(&["verify"], data.path())), 0);

    let mut wrong = fs::read(index(&data, 1)).unwrap();
    wrong.pop();
    fs::write(index(&data, 1), &wrong).unwrap();
    let verified = wal_tools(&["verify"], data.path());

    assert_eq!(exit_code(&verified), 1);
    let text = stdout(&verified);
    assert!(text.contains("wrong index") && text.contains("no record is concerned"), "{text}");
    assert_eq!(text.matches(".six").count(), 1, "{text}");
}

#[test]
fn a_damaged_segment_gets_no_index() {
    let (data, _) = Data::with_three_segments();
    data.flip(0, 4096 + 150);

    let built = wal_tools(&["index", "--rebuild"], data.path());

    assert_eq!(exit_code(&built), 2);
    assert!(stdout(&built).contains("its segment is damaged"), "{}", stdout(&built));
    assert!(!index(&data, 0).exists() && index(&data, 1).exists());
}
