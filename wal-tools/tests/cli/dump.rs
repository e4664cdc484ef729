//! Which records are printed, and how.

use std::fs;
use std::process::{Command, Stdio};

use fluxmq::model::{Control, PartitionId, Properties, Property};
use fluxmq_log::format::{BatchBuilder, MessageRecord, Producer, Retain};
use serde_json::Value;

use super::fixture::{Data, START_MS, SegmentBuilder};
use super::{exit_code, stderr, stdout, wal_tools};

/// Returns the offsets printed with these arguments.
fn offsets(data: &Data, arguments: &[&str]) -> Vec<u64> {
    let arguments = [&["dump", "--format", "json"], arguments].concat();
    let output = wal_tools(&arguments, data.path());
    assert_eq!((exit_code(&output), stderr(&output)), (0, String::new()), "{arguments:?}");
    let line =
        |line: &str| serde_json::from_str::<Value>(line).unwrap()["offset"].as_u64().unwrap();
    stdout(&output).lines().map(line).collect()
}

#[test]
fn every_record_is_printed_once_and_in_order() {
    let (data, _) = Data::with_three_segments();

    let output = wal_tools(&["dump"], data.path());

    assert_eq!(exit_code(&output), 0);
    let lines: Vec<String> = stdout(&output).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 300);
    assert_eq!(
        lines[103],
        "p0001 103 2023-11-14T22:13:30.003Z \"site/1/temperature\" qos=1 size=11 \"message 103\""
    );
    for (offset, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!("p0001 {offset} ")), "{line}");
        assert!(line.ends_with(&format!("\"message {offset}\"")), "{line}");
    }
}

#[test]
fn a_partition_and_a_copied_segment_are_read_alone() {
    let (data, _) = Data::with_three_segments();
    let copy = data.path().join("copy-of-a-segment");
    fs::copy(data.segment(1), &copy).unwrap();

    assert_eq!(stdout(&wal_tools(&["dump"], &data.partition())).lines().count(), 300);
    let output = wal_tools(&["dump"], &copy);
    assert_eq!(exit_code(&output), 0);
    assert!(stdout(&output).starts_with("p0001 100 "));
    assert_eq!(stdout(&output).lines().count(), 100);
}

#[test]
fn positions_start_where_they_say() {
    let (data, _) = Data::with_three_segments();
    let from = |position: &str| offsets(&data, &["--from", position]);

    assert_eq!(from("earliest"), (0..300).collect::<Vec<_>>());
    assert_eq!(from("99"), (99..300).collect::<Vec<_>>());
    assert_eq!(from("100"), (100..300).collect::<Vec<_>>());
    assert_eq!(from("offset=255"), (255..300).collect::<Vec<_>>());
    assert_eq!(from("300"), [0u64; 0]);
    let third_of_batch_12 = START_MS + 12_003;
    assert_eq!(from(&format!("timestamp={third_of_batch_12}")), (123..300).collect::<Vec<_>>());
    assert_eq!(from("2023-11-14T22:13:40Z"), (200..300).collect::<Vec<_>>());
    assert_eq!(from("2023-11-14T23:13:40.001+01:00"), (201..300).collect::<Vec<_>>());
    assert_eq!(offsets(&data, &["--from", "95", "--limit", "10"]), (95..105).collect::<Vec<_>>());
}

#[test]
fn filters_and_queues_select_what_they_name() {
    let (data, _) = Data::with_three_segments();
    let expected =
        |is_wanted: fn(u64) -> bool| (0..300).filter(|o| is_wanted(*o)).collect::<Vec<_>>();

    assert_eq!(offsets(&data, &["--queue", "orders"]), expected(|offset| offset % 5 < 2));
    assert_eq!(offsets(&data, &["--queue", "order"]), [0u64; 0]);
    assert_eq!(
        offsets(&data, &["--topic", "site/+/temperature"]),
        expected(|offset| offset % 5 > 2)
    );
    assert_eq!(
        offsets(&data, &["--topic", "site/2/#"]),
        expected(|offset| offset % 5 > 2 && offset % 3 == 2)
    );
    assert_eq!(offsets(&data, &["--topic", "#"]), expected(|offset| offset % 5 > 2));
    assert_eq!(offsets(&data, &["--partition", "1"]).len(), 300);
    assert_eq!(offsets(&data, &["--partition", "2"]), [0u64; 0]);
}

/// One message with everything a message can have, one bare message, one control record.
fn special() -> Data {
    let data = Data::new();
    let mut batch = BatchBuilder::new(START_MS);
    batch.define_route(7, &[40, 41]);
    let props = Properties::encode(&[
        Property::ContentType("text/plain".into()),
        Property::User("unit".into(), "°C".into()),
    ]);
    batch.push_message(&MessageRecord {
        topic: "a/\u{1b}[2Jb".as_bytes(),
        route_set: 7,
        qos: 2,
        retain: Retain::Set,
        ts: START_MS,
        producer: Some(Producer { id: u64::MAX, epoch: 2, seq: 9 }),
        expiry_s: Some(60),
        priority: 4,
        deliver_at: Some(START_MS + 500),
        key: Some(b"k\n"),
        props: props.as_bytes(),
        payload: &[0xff, 0x00, b'x'],
    });
    batch.push_message(&MessageRecord {
        topic: b"b",
        payload: b"{}",
        ts: START_MS,
        ..Default::default()
    });
    batch.push_control(200, b"12345", START_MS);
    let mut segment = SegmentBuilder::first();
    segment.push(batch.finish());
    data.write(&segment);
    data
}

#[test]
fn json_lines_have_the_documented_fields() {
    let output = wal_tools(&["dump", "--format", "json"], special().path());

    let lines: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let place = |offset: u64| {
        serde_json::json!({
            "partition": 1, "segment": 0, "index": 1, "term": 3, "offset": offset,
            "time": "2023-11-14T22:13:20.000Z", "time_ms": START_MS,
        })
    };
    let with = |offset: u64, mut fields: Value| {
        fields.as_object_mut().unwrap().append(place(offset).as_object_mut().unwrap());
        fields
    };
    let full = serde_json::json!({
        "type": "message", "topic": "a/\u{1b}[2Jb", "qos": 2, "retain": "set",
        "publisher": { "id": "ffffffffffffffff", "epoch": 2, "seq": 9 },
        "priority": 4, "expiry_s": 60, "deliver_at_ms": START_MS + 500, "key": "k\n",
        "route_set": 7, "queues": [40, 41], "size": 3,
        "properties": [
            { "name": "content_type", "value": "text/plain" },
            { "name": "user.unit", "value": "°C" },
        ],
        "payload": "/wB4", "payload_encoding": "base64",
    });
    let bare = serde_json::json!({
        "type": "message", "topic": "b", "qos": 0, "retain": "no", "size": 2, "properties": [],
        "payload": "{}", "payload_encoding": "text",
    });
    let control = serde_json::json!({ "type": "control", "op": 200, "size": 5 });
    assert_eq!(lines, [with(0, full), with(1, bare), with(2, control)]);
}

#[test]
fn controls_that_move_something_say_where_to() {
    let data = Data::new();
    let mut batch = BatchBuilder::new(START_MS);
    let (queue, at) = (0xabc, fluxmq_index::Offset);
    for control in [
        Control::HistoryTrimmed { to: at(40) },
        Control::QueueTrimmed { queue, to: at(7), bytes: 100 },
        Control::QueueFollowed { queue, source: PartitionId(2), next: at(9) },
        Control::QueueDeleted { queue },
        Control::QueuePurged {
            queue,
            to: at(11),
            kept: vec![("default".into(), vec![at(3)])],
            lengths: vec![70],
        },
        Control::QueueUsed { queue, goes_on: true },
    ] {
        let mut body = Vec::new();
        control.encode(&mut body);
        batch.push_control(control.opcode(), &body, START_MS);
    }
    batch.push_control(30, b"", START_MS);
    let mut segment = SegmentBuilder::first();
    segment.push(batch.finish());
    data.write(&segment);

    let text = stdout(&wal_tools(&["dump"], data.path()));
    let said: Vec<&str> =
        text.lines().filter_map(|line| line.split_once("op=")).map(|it| it.1).collect();
    assert_eq!(said[0].split(" size").next(), Some("30 history-trimmed to=40"));
    assert_eq!(said[1].split(" size").next(), Some("20 queue-trimmed queue=0000000000000abc to=7"));
    let followed = "23 queue-followed queue=0000000000000abc source=2 to=9";
    assert_eq!(said[2].split(" size").next(), Some(followed));
    assert_eq!(said[3].split(" size").next(), Some("19 queue-deleted"));
    assert_eq!(said[4].split(" size").next(), Some("27 queue-purged queue=0000000000000abc to=11"));
    assert_eq!(said[5].split(" size").next(), Some("28 queue-used"));
    assert_eq!(said[6], "30 history-trimmed size=0", "what is no control is printed all the same");
    let json = stdout(&wal_tools(&["dump", "--format", "json"], data.path()));
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["to"], &lines[0]["queue"]), (&Value::from(40), &Value::Null));
    let fields = ["queue", "source", "to"].map(|name| lines[2][name].clone());
    assert_eq!(fields, [Value::from("0000000000000abc"), 2.into(), 9.into()]);
}

#[test]
fn text_lines_cannot_be_broken_by_what_was_published() {
    let output = wal_tools(&["dump"], special().path());

    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "p0001 0 2023-11-14T22:13:20.000Z \"a/\\u{1b}[2Jb\" qos=2 retain=set \
             publisher=ffffffffffffffff/2/9 priority=4 expiry=60s \
             deliver_at=2023-11-14T22:13:20.500Z key=\"k\\n\" route_set=7 \
             content_type=\"text/plain\" user.unit=\"°C\" size=3 \"\\xff\\u{0}x\"",
            "p0001 1 2023-11-14T22:13:20.000Z \"b\" qos=0 size=2 \"{}\"",
            "p0001 2 2023-11-14T22:13:20.000Z control op=200 size=5",
        ]
    );
}

#[test]
fn payloads_are_printed_as_asked() {
    let data = special();
    let first = |arguments: &[&str]| {
        let output = wal_tools(&[&["dump", "--limit", "1"], arguments].concat(), data.path());
        stdout(&output).trim_end().to_owned()
    };

    assert!(first(&["--payload", "hex"]).ends_with(" size=3 ff0078"));
    assert!(first(&["--payload", "base64"]).ends_with(" size=3 /wB4"));
    assert!(first(&["--headers-only"]).ends_with(" size=3"));
    let json: Value =
        serde_json::from_str(&first(&["--format", "json", "--headers-only"])).unwrap();
    assert!(json.get("payload").is_none() && json["size"] == 3);
}

#[test]
fn a_route_set_is_found_by_the_id_of_its_queue() {
    let data = special();

    assert_eq!(offsets(&data, &["--queue-id", "41"]), [0]);
    assert_eq!(offsets(&data, &["--queue-id", "42"]), [0u64; 0]);
}

#[test]
fn damage_is_said_and_the_rest_is_printed() {
    let (data, segments) = Data::with_three_segments();
    let frame = &segments[1].frames[4];
    data.flip(1, frame.start + 120);

    let output = wal_tools(&["dump"], data.path());

    assert_eq!(exit_code(&output), 2);
    assert_eq!(stdout(&output).lines().count(), 290);
    let said = stderr(&output);
    assert!(said.contains(&format!("bytes {}..{}", frame.start, frame.end)), "{said}");
    assert!(said.contains(&data.segment(1).display().to_string()), "{said}");
}

#[test]
fn a_torn_tail_is_no_failure_of_a_dump() {
    let (data, segments) = Data::with_three_segments();
    data.flip(2, segments[2].frames[9].start + 120);

    let output = wal_tools(&["dump"], data.path());

    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 290);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let data = Data::new();
    let mut segment = SegmentBuilder::first();
    for _ in 0..8 {
        let mut batch = BatchBuilder::new(START_MS);
        for _ in 0..1000 {
            batch.push_message(&MessageRecord { topic: b"a", ts: START_MS, ..Default::default() });
        }
        segment.push(batch.finish());
    }
    data.write(&segment);
    let mut child = Command::new(env!("CARGO_BIN_EXE_wal-tools"))
        .arg("dump")
        .arg(data.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    drop(child.stdout.take());

    let output = child.wait_with_output().unwrap();
    assert_eq!((exit_code(&output), stderr(&output)), (0, String::new()));
}
