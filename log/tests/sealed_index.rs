//! Indexes beside sealed segments: built once, found again, never believed when wrong, never in the way.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // All of it is test code.

mod support;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fluxmq_log::disk::{Disk, DiskFile};
use fluxmq_log::format::{
    BatchBuilder, BatchReader, BatchRecord, FLAG_ROLL, FrameKind, Message, MessageRecord, Producer,
};
use fluxmq_log::sim_disk::{Crash, SimDisk};
use fluxmq_log::{
    BuildIndexError, Entry, FrameParts, Log, Offset, RecordError, SegmentSpan, SnapshotAt,
};
use support::*;

/// A sealed segment of six frames, in them four topics and two queues, and an active one behind it; all of it committed.
fn store() -> (SimDisk, Log<SimDisk>) {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    for _ in 0..6 {
        log.append(frame(&log)).unwrap();
    }
    seal(&mut log);
    append_and_flush(&mut log, 2);
    (disk, log)
}

/// Four messages, to the topics `a/0` to `a/3`, one with a producer; the first two go to queues.
fn frame(log: &Log<SimDisk>) -> Entry {
    let index = log.last_index() + 1;
    let ts = 1_000 + index * 10;
    let mut batch = BatchBuilder::new(ts);
    batch.define_route(1, &[7]);
    batch.define_route(2, &[7, 8]);
    for number in 0..4u32 {
        batch.push_message(&MessageRecord {
            topic: format!("a/{number}").as_bytes(),
            payload: &[number as u8; 100],
            route_set: if number < 2 { number + 1 } else { 0 },
            ts: ts + u64::from(number),
            ..Default::default()
        });
    }
    Entry::from_batch(index, 1, 0, batch.finish())
}

fn index_file(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("log/{number:020}.six"))
}

fn index_bytes(disk: &SimDisk, number: u64) -> Option<Vec<u8>> {
    disk.contents().remove(&index_file(number)).flatten()
}

fn build(log: &mut Log<SimDisk>) -> Option<SegmentSpan> {
    let job = log.prepare_index(log.last_index())?;
    log.finish_index(job.run()).unwrap()
}

/// What the index of segment 0 finds for a filter and for a queue; an error when it cannot be believed.
fn ask(log: &Log<SimDisk>) -> Result<Option<[Vec<Offset>; 2]>, String> {
    let ask = || {
        let Some(index) = log.open_index(0)? else { return Ok(None) };
        let (mut by_topic, mut by_queue) = (Vec::new(), Vec::new());
        let topics = index.match_topics(b"a/3")?;
        index.select(&topics, Offset(0), usize::MAX, &mut by_topic)?;
        index.select_queue(8, Offset(5), 3, &mut by_queue)?;
        index.load()?;
        Ok(Some([by_topic, by_queue]))
    };
    let asked: Result<_, fluxmq_index::sealed::SealedError<_>> = ask();
    asked.map_err(|error| error.to_string())
}

fn expected() -> [Vec<Offset>; 2] {
    [[3, 7, 11, 15, 19, 23].map(Offset).to_vec(), [5, 9, 13].map(Offset).to_vec()]
}

#[test]
fn an_index_is_built_once_and_found_after_a_restart() {
    let (disk, mut log) = store();
    assert_eq!(ask(&log), Ok(None));

    let span = SegmentSpan { segment_no: 0, base: Offset(0), end: Offset(24) };
    assert_eq!(build(&mut log), Some(span));
    assert_eq!(build(&mut log), None, "the active segment has none");
    assert_eq!(ask(&log), Ok(Some(expected())));
    drop(log);

    let mut log = open_clean(&disk);
    assert_eq!(ask(&log), Ok(Some(expected())));
    assert_eq!(build(&mut log), None, "what is there is not built again");
}

#[test]
fn only_what_is_closed_durable_and_committed_is_indexed() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append(&mut log, 3);
    seal(&mut log);
    assert!(log.prepare_index(4).is_none(), "it is not durable");
    log.flush().unwrap();
    assert!(log.prepare_index(3).is_none(), "its seal is not committed");

    let job = log.prepare_index(4).unwrap();
    assert!(log.prepare_index(4).is_none(), "one at a time");
    assert!(log.finish_index(job.run()).unwrap().is_some());
}

#[test]
fn frames_are_found_by_the_index_as_by_walking() {
    let (disk, mut log) = store();
    build(&mut log);
    drop(log);
    let log = open_clean(&disk);
    let image = disk.crash_image(Crash::Process);
    image.zero(&index_file(0), 0..256).unwrap();
    let walking = open_clean(&image);

    for from in 0..28 {
        assert_eq!(log.read(Offset(from), 1).unwrap(), walking.read(Offset(from), 1).unwrap());
    }
    for ts in 900..1_100 {
        assert_eq!(log.offset_at_time(ts).unwrap(), walking.offset_at_time(ts).unwrap());
    }
}

#[test]
fn every_flipped_bit_and_every_cut_of_the_file_is_noticed_and_mended() {
    let (disk, mut log) = store();
    build(&mut log);
    drop(log);
    let right = index_bytes(&disk, 0).unwrap();
    for bit in 0..right.len() as u64 * 8 {
        // The middle of the file in a sample, everything around it bit by bit.
        if bit > 256 * 8 && !bit.is_multiple_of(11) {
            continue;
        }
        let rotten = disk.crash_image(Crash::Process);
        rotten.flip_bit(&index_file(0), bit).unwrap();
        let mut log = open_clean(&rotten);
        assert!(ask(&log).is_err(), "bit {bit}");
        assert_eq!(frames(&log).len(), 9, "bit {bit}: what is stored is served");

        log.distrust_index(0);
        assert!(build(&mut log).is_some(), "bit {bit}");
        assert_eq!(index_bytes(&rotten, 0).as_ref(), Some(&right), "bit {bit}");
    }
}

#[test]
fn the_index_of_another_segment_is_not_believed() {
    let (disk, mut log) = store();
    build(&mut log);
    drop(log);
    // The same numbers, other frames.
    let second = SimDisk::new(2);
    let mut log = open_clean(&second);
    for _ in 0..6 {
        let entry = Entry { term: 2, ..frame(&log) };
        log.append(entry).unwrap();
    }
    seal(&mut log);
    append_and_flush(&mut log, 2);
    build(&mut log);
    let foreign = index_bytes(&second, 0).unwrap();
    write(&disk, &index_file(0), &foreign);

    let log = open_clean(&disk);

    assert!(ask(&log).unwrap_err().contains("another one"));
}

#[test]
fn a_crash_at_any_step_of_building_leaves_a_right_index_or_none() {
    let (disk, log) = store();
    let before = canonical(&frames(&log));
    drop(log);
    let (mut with, mut without) = (0, 0);
    for operation in 0.. {
        let image = disk.crash_image(Crash::Process);
        let mut log = open(&image);
        image.set_crash_after(image.operations() + operation);
        let job = log.prepare_index(log.last_index()).unwrap();
        let is_over = log.finish_index(job.run()).is_ok() && !image.has_lost_power();
        drop(log);
        for crash in (0..8).map(|seed| Crash::PowerCut { seed }).chain([Crash::Process]) {
            let left = image.crash_image(crash);
            let mut log = open_clean(&left);
            match ask(&log) {
                Ok(Some(found)) => {
                    assert_eq!(found, expected());
                    with += 1;
                }
                Ok(None) => without += 1,
                Err(error) => panic!("operation {operation}: {error}"),
            }
            assert_eq!(canonical(&frames(&log)), before);
            build(&mut log);
            assert_eq!(ask(&log), Ok(Some(expected())));
            let temporary = |path: &PathBuf| path.extension().is_some_and(|end| end == "tmp");
            assert!(!left.contents().keys().any(temporary));
        }
        if is_over {
            break;
        }
    }
    assert!(with > 0 && without > 0, "{with} with, {without} without");
}

#[test]
fn an_index_goes_with_its_segment() {
    let (disk, mut log) = store();
    build(&mut log);
    for index in [7, 8] {
        let at = SnapshotAt { index, term: 1, end: Offset(24 + 2 * (index - 7)) };
        log.save_snapshot(at, &[]).unwrap();
    }

    assert_eq!(log.trim_prefix(8).unwrap(), 8);

    assert_eq!(index_bytes(&disk, 0), None);
    assert_eq!(ask(&log), Ok(None));
}

#[test]
fn an_index_that_is_built_while_its_segment_goes_is_removed() {
    let (disk, mut log) = store();
    for index in [7, 8] {
        let at = SnapshotAt { index, term: 1, end: Offset(24 + 2 * (index - 7)) };
        log.save_snapshot(at, &[]).unwrap();
    }
    let job = log.prepare_index(log.last_index()).unwrap();
    log.trim_prefix(8).unwrap();
    let image = disk.crash_image(Crash::Process);

    let built = log.finish_index(job.run());

    assert!(matches!(built, Ok(None)), "the segment is gone");
    assert_eq!(index_bytes(&disk, 0), None);
    // The same, with the file written before the process died.
    write(&image, &index_file(0), b"whatever");
    drop(open_clean(&image));
    assert_eq!(index_bytes(&image, 0), None);
}

#[test]
fn a_full_disk_leaves_the_log_as_it_was_and_is_tried_again_when_asked() {
    let (disk, mut log) = store();
    let space = disk.space().unwrap();
    disk.set_capacity(space.total - space.available + 100);
    let job = log.prepare_index(log.last_index()).unwrap();

    let refused = log.finish_index(job.run());

    assert!(matches!(refused, Err(BuildIndexError::File(_))));
    assert!(!log.is_poisoned());
    assert!(log.prepare_index(log.last_index()).is_none(), "not at once");
    disk.set_capacity(1 << 30);
    log.retry_indexes();
    assert!(build(&mut log).is_some());
    assert_eq!(ask(&log), Ok(Some(expected())));
}

#[test]
fn a_damaged_segment_gets_no_index() {
    let (disk, mut log) = store();
    disk.flip_bit(&segment_file(0), (4096 + 300) * 8).unwrap();
    let job = log.prepare_index(log.last_index()).unwrap();

    let refused = log.finish_index(job.run());

    assert!(matches!(refused, Err(BuildIndexError::Damaged { position: 4096, .. })));
    assert_eq!(index_bytes(&disk, 0), None);
}

#[test]
fn a_segment_that_was_rolled_without_a_seal_and_one_without_records_are_indexed_too() {
    let disk = SimDisk::new(1);
    let mut log = open_clean(&disk);
    append(&mut log, 3);
    roll(&mut log);
    seal(&mut log);
    let (index, body) = (log.last_index() + 1, Default::default());
    let noop = Entry::without_records(index, 1, FrameKind::Noop, 0, body);
    log.append(Entry { flags: FLAG_ROLL, ..noop }).unwrap();
    seal(&mut log);
    append_and_flush(&mut log, 1);

    let built: Vec<u64> = std::iter::from_fn(|| build(&mut log)).map(|s| s.segment_no).collect();

    assert_eq!(built, [2, 1, 0], "the newest first");
    let spans: Vec<u64> = log.spans((Offset(0), Offset(100))).map(|s| s.segment_no).collect();
    assert_eq!(spans, [0, 1, 3], "one has no records");
    let spans: Vec<u64> = log.spans((Offset(6), Offset(8))).map(|s| s.segment_no).collect();
    assert_eq!(spans, [1]);
}

/// A sealed segment of three long frames, with every field that a message can have, and controls; an active one behind it.
fn long_frames() -> (SimDisk, Log<SimDisk>) {
    let (disk, log, _) = long_frames_apart();
    (disk, log)
}

/// The same, and the parts of the three.
fn long_frames_apart() -> (SimDisk, Log<SimDisk>, Vec<FrameParts>) {
    let disk = SimDisk::new(1);
    let (mut log, mut parts) = (open_clean(&disk), Vec::new());
    for _ in 0..3 {
        let index = log.last_index() + 1;
        let ts = 1_000 + index * 10;
        let mut batch = BatchBuilder::new(ts);
        batch.define_route(1, &[7]);
        for number in 0..60u32 {
            if number.is_multiple_of(9) {
                batch.push_control(3, &[1; 50], ts);
                continue;
            }
            batch.push_message(&MessageRecord {
                topic: format!("long/{}/{number}", number % 4).as_bytes(),
                payload: &vec![number as u8; 700],
                route_set: number % 2,
                qos: 1,
                ts: ts + u64::from(number / 10),
                producer: (!number.is_multiple_of(5)).then_some(Producer {
                    id: u64::from(number % 7) + 1,
                    epoch: 2,
                    seq: number,
                }),
                expiry_s: number.is_multiple_of(3).then_some(60),
                key: number.is_multiple_of(4).then_some(b"key".as_slice()),
                props: b"properties",
                ..Default::default()
            });
        }
        log.append(Entry::from_batch(index, 1, 0, batch.finish())).unwrap();
        let frame = log.entries(index, index + 1, 1).unwrap().remove(0);
        parts.push(log.take_apart(&frame).unwrap());
    }
    seal(&mut log);
    append_and_flush(&mut log, 1);
    build(&mut log);
    (disk, log, parts)
}

/// The messages of a segment by their offsets, read with their frames. Route sets are known to frames only.
fn by_frames(log: &Log<SimDisk>) -> Vec<(Offset, Option<Message>)> {
    let frames = log.entries(1, 4, u64::MAX).unwrap();
    let records = frames.iter().flat_map(|frame| {
        BatchReader::new(&frame.header, frame.body.clone()).unwrap().map(Result::unwrap)
    });
    let message = |record| match record {
        BatchRecord::Message(message) => Some(Message { route_set: 0, ..message }),
        BatchRecord::Control { .. } => None,
    };
    records.map(|(offset, record)| (offset, message(record))).collect()
}

#[test]
fn a_record_is_read_without_its_frame_and_with_all_it_has() {
    let (_, log) = long_frames();
    let mut segment = log.open_indexed(0).unwrap().unwrap();

    for (offset, expected) in by_frames(&log) {
        assert_eq!(segment.read(offset).unwrap(), expected, "offset {offset}");
    }
    assert_eq!(segment.read(Offset(180)).unwrap(), None, "of the next segment");

    let mut segment = log.open_indexed(0).unwrap().unwrap();
    segment.read(Offset(30)).unwrap();
    assert!(segment.bytes_read() <= 3 * 4096, "{} bytes", segment.bytes_read());
}

/// Reads records of a segment with one bit flipped, here and there: what is read is right, and some of it is not.
fn check_rotten(
    disk: &SimDisk,
    right: &[(Offset, Option<Message>)],
    read: impl Fn(&Log<SimDisk>, Offset, Option<&Message>) -> Result<Option<Message>, RecordError>,
) {
    let (mut noticed, mut served) = (0, 0);
    for byte in (4096..45_000).step_by(331) {
        let rotten = disk.crash_image(Crash::Process);
        rotten.flip_bit(&segment_file(0), byte * 8 + byte % 8).unwrap();
        let log = open(&rotten);
        for (offset, expected) in right.iter().skip(20).step_by(13) {
            match read(&log, *offset, expected.as_ref()) {
                Ok(found) => {
                    assert_eq!(&found, expected, "byte {byte}");
                    served += 1;
                }
                Err(error) => {
                    assert!(matches!(error, RecordError::Block { .. }), "{error}");
                    noticed += 1;
                }
            }
        }
    }
    assert!(noticed > 20 && served > 20, "{noticed} noticed, {served} served");
}

#[test]
fn rot_in_the_blocks_of_a_record_is_noticed_and_elsewhere_is_not_looked_at() {
    let (disk, log) = long_frames();
    check_rotten(&disk, &by_frames(&log), |log, offset, _| {
        log.open_indexed(0).unwrap().unwrap().read(offset)
    });
}

#[test]
fn a_record_of_a_frame_that_was_taken_apart_is_read_with_all_it_has() {
    let (_, mut log, parts) = long_frames_apart();
    for (offset, expected) in by_frames(&log) {
        let frame = (offset.0 / 60) as usize;
        for (number, parts) in parts.iter().enumerate() {
            assert_eq!(parts.place_of(offset).is_some(), number == frame, "offset {offset}");
        }
        let topic = expected.as_ref().map_or(Bytes::new(), |message| message.topic.clone());
        let read =
            |with_producer| log.read_part(&parts[frame], offset, topic.clone(), with_producer);
        let Some(expected) = expected else {
            assert!(matches!(read(true), Err(RecordError::Batch(_))), "offset {offset}: a control");
            continue;
        };
        let place = parts[frame].place_of(offset).unwrap();
        assert!(
            (4096..4096 + 900).contains(&(place.end - place.start)) || offset.0 % 60 > 50,
            "{place:?}"
        );
        assert_eq!(read(false).unwrap(), Some(Message { producer: None, ..expected.clone() }));
        assert_eq!(read(true).unwrap(), Some(expected), "offset {offset}");
        assert_eq!(log.read_part(&parts[(frame + 1) % 3], offset, topic, true).unwrap(), None);
    }
    append(&mut log, 1);
    let last = log.last_index();
    assert!(log.take_apart(&log.entries(last, last + 1, 1).unwrap()[0]).is_none(), "a short one");
}

#[test]
fn rot_in_a_part_is_noticed_and_elsewhere_is_not_looked_at() {
    let (disk, log, parts) = long_frames_apart();
    check_rotten(&disk, &by_frames(&log), |log, offset, message| {
        let Some(message) = message else { return Ok(None) };
        log.read_part(&parts[(offset.0 / 60) as usize], offset, message.topic.clone(), true)
    });
}

fn write(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    if disk.open_read(path).is_ok() {
        disk.remove(path).unwrap();
    }
    disk.create(path).unwrap().write_all_at(bytes, 0).unwrap();
}
