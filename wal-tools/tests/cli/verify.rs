//! What counts as damage, what as a torn tail, and what is said about it.

use std::fs;
use std::ops::Range;

use bytes::Bytes;
use fluxmq_log::format::{BatchBuilder, Frame, FrameKind, MessageRecord};

use super::fixture::{Data, Proof, START_MS, SegmentBuilder, batch};
use super::{exit_code, stdout, wal_tools};

/// Runs verify and returns the exit code and what it says.
fn verify(data: &Data) -> (i32, String) {
    let output = wal_tools(&["verify"], data.path());
    (exit_code(&output), stdout(&output))
}

/// Asserts that the damage is found and that file, bytes and offsets are named.
fn assert_corrupt(data: &Data, segment_no: u64, bytes: &Range<usize>, offsets: &str) {
    let (code, text) = verify(data);
    assert_eq!(code, 2, "{text}");
    let place =
        format!("{}, bytes {}..{}", data.segment(segment_no).display(), bytes.start, bytes.end);
    assert!(text.contains(&format!("corruption: {place}\n")), "{place} is not in\n{text}");
    assert!(text.contains(&format!("    {offsets}\n")), "{offsets} is not in\n{text}");
}

#[test]
fn what_was_written_is_clean() {
    let (data, _) = Data::with_three_segments();

    let (code, text) = verify(&data);

    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("p0001: clean: 3 segments, 32 frames, 300 records, offsets 0..300, "));
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn every_field_of_a_frame_in_the_middle_is_guarded() {
    let (data, segments) = Data::with_three_segments();
    let frame = segments[1].frames[4].clone();
    // Every byte of the header but the last eight, which are checked below, and some of the body.
    for at in (0..88).chain([96, 97, 150, frame.len() - 1]) {
        data.flip(1, frame.start + at);

        assert_corrupt(
            &data,
            1,
            &frame,
            if is_padding(&frame, at) { "no record is concerned" } else { "offsets 140..150" },
        );

        data.write(&segments[1]);
    }
}

/// The last bytes of a frame are padding if its body does not end at a multiple of eight.
fn is_padding(frame: &Range<usize>, at: usize) -> bool {
    at == frame.len() - 1 && !(batch(14).body.len() + 96).is_multiple_of(8)
}

#[test]
fn a_replicas_own_bytes_are_guarded_without_blaming_the_records() {
    let (data, segments) = Data::with_three_segments();
    let frame = segments[2].frames[3].clone();

    data.flip(2, frame.start + 89);

    assert_corrupt(&data, 2, &frame, "no record is concerned");
}

#[test]
fn a_damaged_segment_header_is_corruption() {
    let (data, _) = Data::with_three_segments();

    data.flip(1, 40);

    assert_corrupt(&data, 1, &(0..4096), "offsets 100 and later");
}

#[test]
fn rot_behind_the_frames_of_a_closed_segment_and_in_a_spare_is_told_and_harmless() {
    let (data, segments) = Data::with_three_segments();
    data.flip(1, segments[1].end() + 1_000);
    let spare = data.partition().join("spare/00000000000000000001.zero");
    fs::create_dir(spare.parent().unwrap()).unwrap();
    let mut zeros = vec![0; 64 << 10];
    zeros[77] = 1;
    fs::write(&spare, zeros).unwrap();

    let (code, text) = verify(&data);

    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("p0001: rot in unused bytes: "), "{text}");
    let place = format!("{}, bytes {}..", data.segment(1).display(), segments[1].end());
    assert!(text.contains(&format!("rot in unused bytes: {place}")), "{text}");
    assert!(text.contains(&format!("{}, bytes 77..78\n", spare.display())), "{text}");
    assert_eq!(text.matches("    no record is concerned\n").count(), 2, "{text}");
}

/// A broker that begins a segment writes its header into the spare first.
#[test]
fn a_spare_that_is_about_to_become_a_segment_is_clean() {
    let (data, segments) = Data::with_three_segments();
    let spare = data.partition().join("spare/00000000000000000001.zero");
    fs::create_dir(spare.parent().unwrap()).unwrap();
    let mut file = segments[2].file();
    file[4096..].fill(0);
    fs::write(&spare, file).unwrap();

    assert_eq!(verify(&data).0, 0);
}

#[test]
fn damage_in_the_active_segment_is_corruption_if_a_later_frame_proves_it_was_durable() {
    for proof in [Proof::Both, Proof::Synced, Proof::Committed, Proof::Nothing] {
        let data = Data::new();
        let mut segment = SegmentBuilder::first();
        segment.proof = proof;
        (0..4).for_each(|number| segment.push(batch(number)));
        data.write(&segment);
        let frame = segment.frames[2].clone();

        data.flip(0, frame.start + 100);

        // What a leader calls committed says nothing of this disk.
        if matches!(proof, Proof::Committed | Proof::Nothing) {
            assert_eq!(verify(&data).0, 1);
        } else {
            assert_corrupt(&data, 0, &frame, "offsets 20..30");
        }
    }
}

/// Behind a damaged header the next frame is looked for; what a client published must not be taken for it.
#[test]
fn a_payload_that_is_a_copy_of_a_frame_is_not_taken_for_one() {
    let data = Data::new();
    let mut segment = SegmentBuilder::first();
    segment.push(batch(0));
    let copied = segment.file()[segment.frames[0].clone()].to_vec();
    // One byte between the copies: one of them begins where a frame could.
    let payload = [copied, vec![0]].concat().repeat(8);
    let mut trap = BatchBuilder::new(START_MS);
    trap.push_message(&MessageRecord {
        topic: b"a",
        payload: &payload,
        ts: START_MS,
        ..Default::default()
    });
    segment.push(trap.finish());
    segment.push(batch(2));
    data.write(&segment);
    let frame = segment.frames[1].clone();

    data.flip(0, frame.start + 8);

    assert_corrupt(&data, 0, &frame, "offsets 10..11");
}

#[test]
fn a_frame_cut_short_at_the_end_is_a_torn_tail() {
    let (data, segments) = Data::with_three_segments();
    let frame = segments[2].frames[9].clone();
    for cut in [frame.start + 8, frame.start + 96, frame.end - 16] {
        let mut file = segments[2].file();
        file[cut..].fill(0);
        fs::write(data.segment(2), file).unwrap();

        let (code, text) = verify(&data);

        assert_eq!(code, 1, "cut at {cut}: {text}");
        assert!(text.contains("p0001: torn tail: "), "{text}");
        assert!(text.contains(&format!("{}, bytes {}..", data.segment(2).display(), frame.start)));
        assert!(!text.contains("corruption"), "{text}");
    }
}

#[test]
fn a_file_that_ends_within_a_frame_is_a_torn_tail() {
    let (data, segments) = Data::with_three_segments();
    let frame = segments[2].frames[9].clone();
    for len in [frame.start + 10, frame.start + 96, frame.end - 1] {
        fs::write(data.segment(2), &segments[2].file()[..len]).unwrap();

        let (code, text) = verify(&data);

        assert_eq!(code, 1, "{len}: {text}");
    }
}

#[test]
fn an_unsynced_group_that_reached_the_disk_out_of_order_is_a_torn_tail() {
    let data = Data::new();
    let mut segment = SegmentBuilder::first();
    (0..3).for_each(|number| segment.push(batch(number)));
    segment.proof = Proof::Nothing;
    (3..6).for_each(|number| segment.push(batch(number)));
    data.write(&segment);

    data.flip(0, segment.frames[4].start + 100);

    let (code, text) = verify(&data);
    assert_eq!(code, 1, "{text}");
}

#[test]
fn zeros_where_synced_frames_were_are_corruption() {
    let (data, segments) = Data::with_three_segments();
    let mut file = segments[1].file();
    let cut = segments[1].frames[5].start;
    file[cut..].fill(0);
    fs::write(data.segment(1), file).unwrap();

    let (code, text) = verify(&data);

    assert_eq!(code, 2, "{text}");
    assert!(text.contains(&data.segment(2).display().to_string()), "{text}");
    assert!(text.contains("index 23 follows where 17 should"), "{text}");
    assert!(text.contains("    offsets 150..200\n"), "{text}");
}

#[test]
fn a_missing_segment_is_corruption() {
    let (data, _) = Data::with_three_segments();
    fs::remove_file(data.segment(1)).unwrap();

    assert_corrupt(&data, 2, &(0..4096), "offsets 100..200");
}

#[test]
fn missing_first_segments_are_retention() {
    let (data, _) = Data::with_three_segments();
    fs::remove_file(data.segment(0)).unwrap();

    let (code, text) = verify(&data);

    assert_eq!(code, 0, "{text}");
    assert!(text.contains("offsets 100..300"), "{text}");
}

#[test]
fn a_segment_of_another_place_is_corruption() {
    let (data, segments) = Data::with_three_segments();
    fs::write(data.segment(2), segments[1].file()).unwrap();

    let (code, text) = verify(&data);

    assert_eq!(code, 2, "{text}");
    assert!(text.contains("the file holds segment 1, not 2"), "{text}");
}

#[test]
fn a_frame_with_good_checksums_in_the_wrong_place_is_corruption() {
    let wrong = [
        ("index 9 follows where 4 should", 9, 30, 3),
        ("offset 31 follows where 30 should", 4, 31, 3),
        ("term 2 follows term 3", 4, 30, 2),
    ];
    for (what, index, offset, term) in wrong {
        let data = Data::new();
        let mut segment = SegmentBuilder::first();
        (0..3).for_each(|number| segment.push(batch(number)));
        let body = Bytes::new();
        let good = segment.frame_header(FrameKind::Noop, &body, batch(3).base_ts);
        let mut header = good;
        (header.index, header.base_offset.0, header.term) = (index, offset, term);
        segment.push_frame(Frame { header, body: body.clone() });
        (4..6).for_each(|number| segment.push(batch(number)));
        data.write(&segment);

        let (code, text) = verify(&data);

        assert_eq!(code, 2, "{what}: {text}");
        assert!(text.contains(what), "{text}");
    }
}

#[test]
fn a_body_that_is_no_batch_is_corruption_although_its_checksum_is_right() {
    let data = Data::new();
    let mut segment = SegmentBuilder::first();
    segment.push(batch(0));
    let mut wrong = batch(1);
    wrong.body = [&wrong.body[..], b"more"].concat().into();
    segment.push(wrong);
    segment.push(batch(2));
    data.write(&segment);

    let (code, text) = verify(&data);

    assert_eq!(code, 2, "{text}");
    assert!(text.contains("4 bytes follow the last record"), "{text}");
}

/// Every checksum of the frame is right: only the digests of the seal can tell that it is not the frame that was sealed.
#[test]
fn a_frame_rewritten_after_the_seal_is_found_by_its_digest() {
    let (data, segments) = Data::with_three_segments();
    let sealed = segments[0].file();
    let mut forged = SegmentBuilder::first();
    for number in 0..10 {
        let mut batch = batch(number);
        if number == 9 {
            let mut body = batch.body.to_vec();
            *body.last_mut().unwrap() ^= 1;
            batch.body = body.into();
        }
        forged.push(batch);
    }
    let mut file = sealed.clone();
    let last = segments[0].frames[9].clone();
    file[last.clone()].copy_from_slice(&forged.file()[last]);
    fs::write(data.segment(0), file).unwrap();

    let (code, text) = verify(&data);

    assert_eq!(code, 2, "{text}");
    assert!(text.contains("does not link to"), "{text}");
    assert!(text.contains("block digest"), "{text}");
}

#[test]
fn a_copied_segment_is_verified_alone() {
    let (data, segments) = Data::with_three_segments();
    let copy = data.path().join("copy.seg");
    fs::copy(data.segment(1), &copy).unwrap();
    assert_eq!(exit_code(&wal_tools(&["verify"], &copy)), 0);

    let mut file = segments[1].file();
    file[segments[1].frames[9].start + 100] ^= 1;
    fs::write(&copy, file).unwrap();

    let output = wal_tools(&["verify"], &copy);
    assert_eq!(exit_code(&output), 2, "a seal follows: {}", stdout(&output));
}

#[test]
fn all_damage_is_told_not_only_the_first() {
    let (data, segments) = Data::with_three_segments();
    data.flip(0, segments[0].frames[2].start + 100);
    data.flip(1, segments[1].frames[7].start + 8);

    assert_corrupt(&data, 0, &segments[0].frames[2], "offsets 20..30");
    assert_corrupt(&data, 1, &segments[1].frames[7], "offsets 170..180");
}

#[test]
fn verify_changes_nothing() {
    let (data, segments) = Data::with_three_segments();
    data.flip(2, segments[2].frames[9].start + 100);
    let before = fs::read(data.segment(2)).unwrap();

    verify(&data);

    assert_eq!(fs::read(data.segment(2)).unwrap(), before);
    assert_eq!(fs::read_dir(data.partition()).unwrap().count(), 1, "no file was added");
}
