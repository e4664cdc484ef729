//! What is counted.

use bytes::Bytes;
use fluxmq::model::record::{Control, Retain as Retained};
use fluxmq::model::{Message, Millis, Properties, QoS, StoredMessage, Topic};
use fluxmq_index::Offset;
use fluxmq_log::Entry;
use fluxmq_log::format::{BatchBuilder, MessageRecord, Retain};

use super::fixture::Data;
use super::stored::{START_MS, Stored, open, seal};
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

/// The line that begins with `what`, its words apart by one space.
fn line(text: &str, what: &str) -> String {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines = text.lines().map(words);
    lines.find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("no {what} in\n{text}"))
}

#[test]
fn what_is_needed_and_by_whom_is_what_the_views_say() {
    let stored = Stored::new();

    let text = stdout(&wal_tools(&["stat"], stored.path()));

    // Entry 1 of the queue is not finished and is found from entry 0: all of history is needed, but for what was before that entry.
    assert_eq!(line(&text, "history begins"), "history begins 3");
    assert_eq!(line(&text, "queue"), "queue \"orders\": from offset 3 on, in segment 0");
    assert!(line(&text, "retained message \"site/").contains("later ones: from offset "), "{text}");
    assert_eq!(line(&text, "dead bytes"), "dead bytes 0", "the frame of entry 0 is needed");
    assert_eq!(number(&text, "live bytes"), number(&text, "stored bytes"));
    let why = "the oldest segment stays: queue \"orders\" needs what is in it";
    assert_eq!(line(&text, "the oldest segment"), why);
}

/// Appends a frame of these, in turn controls and messages.
fn append(
    log: &mut fluxmq_log::Log<fluxmq_log::os_disk::OsDisk>,
    controls: &[Control],
    messages: &[(&str, Retain)],
) {
    let index = log.last_index() + 1;
    let ts = START_MS + index;
    let mut batch = BatchBuilder::new(ts);
    for control in controls {
        let mut body = Vec::new();
        control.encode(&mut body);
        batch.push_control(control.opcode(), &body, ts);
    }
    for (topic, retain) in messages {
        let message = MessageRecord {
            topic: topic.as_bytes(),
            payload: b"payload",
            qos: 1,
            retain: *retain,
            ts,
            ..Default::default()
        };
        batch.push_message(&message);
    }
    log.append(Entry::from_batch(index, 2, index - 1, batch.finish())).unwrap();
    log.flush().unwrap();
}

#[test]
fn what_is_over_is_dead_and_what_was_stored_again_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    // Offsets 0..2, a seal, 2..3, a seal, then what says that history begins at 3.
    append(&mut log, &[], &[("kept", Retain::Set), ("plain", Retain::No)]);
    seal(&mut log);
    append(&mut log, &[], &[("plain", Retain::No)]);
    seal(&mut log);
    let message = Message {
        topic: Topic::new(Bytes::from_static(b"kept")).unwrap(),
        payload: Bytes::from_static(b"payload"),
        qos: QoS::AtLeastOnce,
        retain: true,
        expiry_s: None,
        properties: Properties::default(),
        publisher: 0,
    };
    let message =
        StoredMessage { retain: Retained::Set, ..StoredMessage::of(&message, Millis(START_MS)) };
    let moved = Control::Moved { from: Offset(0), queues: vec![], message: message.into() };
    let mut body = Vec::new();
    moved.encode(&mut body);
    append(&mut log, &[moved, Control::HistoryTrimmed { to: Offset(3) }], &[]);
    append(&mut log, &[], &[("plain", Retain::No)]);
    let frames = log.entries(1, log.last_index() + 1, 1 << 20).unwrap();
    let bytes = |from: usize, to: usize| -> u64 {
        frames[from..to].iter().map(|frame| frame.header.frame_bytes()).sum()
    };
    drop(log);

    let text = stdout(&wal_tools(&["stat"], dir.path()));

    assert_eq!(line(&text, "history begins"), "history begins 3");
    let retained = "retained message \"kept\": from offset 3 on, in segment 2";
    assert_eq!(line(&text, "retained message"), retained);
    assert_eq!(number(&text, "pinned by"), 1.0);
    assert_eq!(
        (number(&text, "moved records"), number(&text, "moved bytes")),
        (1.0, body.len() as f64)
    );
    let dead = [bytes(0, 2) + 4096, bytes(2, 4) + 4096];
    let live = bytes(4, frames.len()) + 4096;
    assert_eq!(number(&text, "dead bytes"), (dead[0] + dead[1]) as f64);
    assert_eq!(number(&text, "live bytes"), live as f64);
    for row in [format!("0 0 {}", dead[0]), format!("1 0 {}", dead[1]), format!("2 {live} 0")] {
        line(&text, &row);
    }
    let why = "it is over, and goes when the log can begin after a snapshot behind it";
    assert!(line(&text, "the oldest segment stays").ends_with(why), "{text}");
}

#[test]
fn a_segment_alone_has_no_views_and_says_so() {
    let stored = Stored::new();

    let output = wal_tools(&["stat"], &stored.segment(1));

    assert_eq!(exit_code(&output), 0);
    let text = stdout(&output);
    assert!(
        text.contains("live and dead bytes are not known: one segment does not say it"),
        "{text}"
    );
    assert!(!text.contains("history begins"), "{text}");
}

#[test]
fn behind_damage_nothing_is_known_of_what_is_needed() {
    let stored = Stored::new();
    Stored::flip(&stored.segment(3), 4096 + 200);
    for snapshot in stored.snapshots().iter().skip(2) {
        Stored::flip(snapshot, 20);
    }

    let output = wal_tools(&["stat"], stored.path());

    assert_eq!(exit_code(&output), 2);
    assert!(stdout(&output).contains("what follows is as of before the damage: "));
}
