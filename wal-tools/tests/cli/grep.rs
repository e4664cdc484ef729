//! What is found is what a look at everything finds, with the index, without it, and with one that is wrong.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::fixture::Data;
use super::stored::{BINARY, START_MS, Stored};
use super::{exit_code, stderr, stdout, wal_tools};

fn grep(path: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wal-tools"));
    command.arg("grep").arg(path).args(options).output().unwrap()
}

fn lines(path: &Path, options: &[&str]) -> Vec<String> {
    let output = grep(path, options);
    assert_eq!((exit_code(&output), stderr(&output)), (0, String::new()), "{options:?}");
    stdout(&output).lines().map(str::to_owned).collect()
}

fn dumped(path: &Path, options: &[&str]) -> Vec<String> {
    let output = wal_tools(&[&["dump"], options].concat(), path);
    assert_eq!(exit_code(&output), 0);
    stdout(&output).lines().map(str::to_owned).collect()
}

#[test]
fn with_or_without_an_index_it_finds_what_dump_does() {
    let indexed = Stored::new();
    let plain = indexed.copy();
    for number in 0..4 {
        let index = plain.path().join(format!("p0001/log/{number:020}.six"));
        fs::remove_file(index).unwrap();
    }
    for filter in ["#", "site/+/temp", "site/3/temp", "site/#", "+/+/+", "$queue/#", "nothing/+"] {
        for (from, to) in [("earliest", "100000"), ("70", "171"), ("171", "250")] {
            let expected = dumped(indexed.path(), &["--topic", filter, "--from", from]);
            let to_number: u64 = to.parse().unwrap();
            let offset = |line: &String| line.split(' ').nth(1).unwrap().parse::<u64>().unwrap();
            let expected: Vec<String> = expected
                .into_iter()
                .filter(|line| offset(line) < to_number)
                // Route sets are a matter of frames.
                .map(|line| line.replace(" route_set=1", ""))
                .collect();
            let options = [filter, "--from", from, "--to", to];
            assert_eq!(lines(indexed.path(), &options), expected, "{options:?}");
            assert_eq!(lines(plain.path(), &options), expected, "{options:?} without an index");
        }
    }
}

#[test]
fn times_queues_payloads_and_limits_select() {
    let stored = Stored::new();
    let count = |options: &[&str]| lines(stored.path(), options).len();
    let at = |second: u64| format!("timestamp={}", START_MS + second * 1000);

    assert_eq!(count(&["site/#", "--from", &at(10), "--to", &at(30)]), 20);
    assert_eq!(count(&["--queue", "orders"]), 120);
    assert_eq!(count(&["--queue", "orders", "--to", &at(60)]), 60);
    assert_eq!(count(&["site/#", "--queue", "orders"]), 0);
    assert_eq!(count(&["--queue", "other"]), 0);
    assert_eq!(count(&["site/#", "--payload", r"reading 1\d\b"]), 8, "two of ten are cleared");
    assert_eq!(count(&["$queue/#", "--payload", r"^\x00\xff"]), 120, "bytes that are no text");
    assert_eq!(count(&["site/#", "--limit", "5"]), 5);
    assert_eq!(lines(stored.path(), &["site/#", "--count"]), ["p0001 120"]);
    let json = lines(stored.path(), &["site/#", "--count", "--format", "json"]);
    assert_eq!(json, [r#"{"partition":1,"count":120}"#]);
}

#[test]
fn mosquittos_format_has_every_byte() {
    let stored = Stored::new();

    let output = grep(stored.path(), &["$queue/#", "--format", "mosquitto", "--limit", "1"]);

    assert_eq!(output.stdout, [b"$queue/orders/new ", BINARY, b"\n"].concat());
}

#[test]
fn a_sealed_segment_is_asked_through_its_index_and_little_else_is_read() {
    let (data, _) = Data::with_three_segments();
    wal_tools(&["index", "--rebuild"], data.path());

    let output = grep(data.path(), &["site/1/temperature", "--to", "10", "--stats"]);

    assert_eq!(exit_code(&output), 0);
    assert_eq!(stdout(&output).lines().count(), 1);
    let said = stderr(&output);
    assert!(
        said.contains("found 1 messages") && said.contains("1 through their index, 0 whole"),
        "{said}"
    );
}

#[test]
fn an_index_that_is_wrong_costs_no_result() {
    let stored = Stored::new();
    let expected = lines(stored.path(), &["site/2/temp"]);
    let index = stored.segment(1).with_extension("six");
    let right = fs::read(&index).unwrap();
    for at in (0..right.len()).step_by(right.len() / 30) {
        Stored::flip(&index, at);
        let output = grep(stored.path(), &["site/2/temp"]);
        assert_eq!(exit_code(&output), 0, "{at}: {}", stderr(&output));
        let found: Vec<String> = stdout(&output).lines().map(str::to_owned).collect();
        assert_eq!(found, expected, "byte {at}");
        fs::write(&index, &right).unwrap();
    }
    // That of another segment is none.
    fs::copy(stored.segment(0).with_extension("six"), &index).unwrap();
    let output = grep(stored.path(), &["site/2/temp"]);
    assert!(stderr(&output).contains("reading the segment instead"), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), expected.len());
}

#[test]
fn damage_is_stepped_over_and_told() {
    let stored = Stored::new();
    Stored::flip(&stored.segment(1), 4096 + 300);

    let output = grep(stored.path(), &["site/#"]);

    assert_eq!(exit_code(&output), 2);
    assert!(stderr(&output).contains(&stored.segment(1).display().to_string()));
    assert_eq!(stdout(&output).lines().count(), 119);
}

#[test]
fn what_is_no_filter_or_no_expression_is_refused() {
    let stored = Stored::new();
    for options in [&["a/#/b"][..], &["#", "--payload", "("], &["#", "--to", "tomorrow"]] {
        let output = grep(stored.path(), options);
        assert_eq!(exit_code(&output), 3, "{options:?}");
        assert!(!stderr(&output).is_empty());
    }
}
