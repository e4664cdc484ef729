//! What is counted.

use super::fixture::Data;
use super::{exit_code, stdout, wal_tools};

/// Returns the number at the end of the line that begins with `what`.
fn number(text: &str, what: &str) -> f64 {
    let line = text.lines().find(|line| line.trim_start().starts_with(what));
    let line = line.unwrap_or_else(|| panic!("no {what} in\n{text}"));
    line.split_whitespace().last().unwrap().parse().unwrap()
}

#[test]
fn counts_are_those_of_what_was_written() {
    let (data, segments) = Data::with_three_segments();

    let output = wal_tools(&["stat", "--top", "2"], data.path());

    assert_eq!(exit_code(&output), 0);
    let text = stdout(&output);
    let stored: usize = segments.iter().map(|segment| segment.end()).sum();
    let payload: usize = (0..300).map(|offset| format!("message {offset}").len()).sum();
    let topics = 60
        * ("$queue/orders/new".len() + "$queue/orders".len() + "$queue/orders-other".len())
        + 120 * "site/0/temperature".len();
    assert_eq!(number(&text, "segments"), 3.0);
    assert_eq!(number(&text, "stored bytes"), stored as f64);
    assert_eq!(number(&text, "frames"), 32.0);
    assert_eq!(number(&text, "messages"), 300.0);
    assert_eq!(number(&text, "payload bytes"), payload as f64);
    assert_eq!(number(&text, "topic bytes"), topics as f64);
    assert_eq!(number(&text, "overhead bytes"), stored as f64 - (payload + topics) as f64);
    let amplification = stored as f64 / (payload + topics) as f64;
    assert!((number(&text, "write amplification") - amplification).abs() < 0.001);
    assert_eq!(number(&text, "0 "), 2.0, "the seals have no record");
    assert_eq!(number(&text, "8-15"), 30.0);
    assert_eq!(number(&text, "topics"), 6.0);
    let top: Vec<&str> = text.lines().filter(|line| line.contains(" bytes  \"")).collect();
    assert_eq!(top.len(), 2);
    assert!(top[0].contains("60 messages"), "{text}");
}
