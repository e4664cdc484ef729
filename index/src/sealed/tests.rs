//! The whole index: what it answers is what a look at every record answers, and damaged bytes answer nothing.

use proptest::prelude::*;

use super::*;
use crate::any_topic::{filter, topic};
use crate::offset::Offset;
use crate::topic_trie::matches;

/// A record of the model: its topic and queues, or a control.
type Record = Option<(String, Vec<u64>)>;

const BASE: u64 = 1000;
const RECORD_BYTES: u64 = 40;

fn binding(records: &[Record]) -> Binding {
    Binding {
        partition: 3,
        segment_no: 7,
        base_offset: Offset(BASE),
        end_offset: Offset(BASE + records.len() as u64),
        base_index: 50,
        last_index: 50 + records.len() as u64 / 4,
        end_bytes: 4096 + frame_start(records.len().div_ceil(4) as u64) - frame_start(0),
        salt: 11,
        chain: 12,
    }
}

/// Frames of four records: a head of 100 bytes, then the records.
fn frame_start(number: u64) -> u64 {
    4096 + number * (100 + 4 * RECORD_BYTES)
}

fn record_start(record: u64) -> u64 {
    frame_start(record / 4) + 100 + record % 4 * RECORD_BYTES
}

fn build(records: &[Record]) -> Vec<u8> {
    let mut builder = SealedIndexBuilder::new();
    for (number, record) in records.iter().enumerate() {
        let number = number as u64;
        if number.is_multiple_of(4) {
            builder.frame(frame_start(number / 4), 5000 + number, 96);
            builder.bytes(&[number as u8; 100 + 4 * RECORD_BYTES as usize]);
        }
        match record {
            Some((topic, queues)) => {
                let (topic, route) = (builder.topic(topic.as_bytes()), builder.route(queues));
                builder.message(record_start(number), topic, route);
            }
            None => builder.control(record_start(number)),
        }
    }
    builder.finish(binding(records))
}

fn select(index: &SealedIndex<&Vec<u8>>, filter: &str, from: u64, limit: usize) -> Vec<u64> {
    let mut found = Vec::new();
    let topics = index.match_topics(filter.as_bytes()).unwrap();
    index.select(&topics, Offset(from), limit, &mut found).unwrap();
    found.into_iter().map(|offset| offset.0).collect()
}

fn few() -> Vec<Record> {
    let record = |n: u64| match n % 5 {
        4 => None,
        _ => Some((format!("a/{}/{}", n % 2, n % 12), vec![n % 3, 9])),
    };
    (0..30).map(record).collect()
}

#[test]
fn frames_records_and_topics_are_found_by_offset() {
    let records = few();
    let bytes = build(&records);
    let index = SealedIndex::open_for(&bytes, &binding(&records)).unwrap();

    for (number, record) in records.iter().enumerate() {
        let (offset, number) = (Offset(BASE + number as u64), number as u64);
        let frame = index.frame_at(offset).unwrap().unwrap();
        assert_eq!((frame.number as u64, frame.base_ts), (number / 4, 5000 + number / 4 * 4));
        assert_eq!(frame.base_offset, Offset(BASE + number / 4 * 4));
        assert_eq!(frame.bytes, frame_start(number / 4)..frame_start(number / 4 + 1));
        let place = index.record_at(offset).unwrap().unwrap();
        assert_eq!(place.start, record_start(number));
        assert!(place.end <= frame.bytes.end);
        let topic = index.topic_at(offset).unwrap();
        let expected = record.as_ref().map(|(topic, _)| topic.clone().into_bytes());
        assert_eq!(topic, expected);
    }
    for outside in [0, BASE - 1, BASE + 30, u64::MAX] {
        assert_eq!(index.frame_at(Offset(outside)).unwrap(), None);
        assert_eq!(index.record_at(Offset(outside)).unwrap(), None);
        assert_eq!(index.topic_at(Offset(outside)).unwrap(), None);
    }
    let mut frames = Vec::new();
    index.for_each_frame(|frame| frames.push(frame)).unwrap();
    assert_eq!(frames.len(), 8);
    assert_eq!(index.frames_in(frame_start(2) + 1..frame_start(3)).unwrap(), frames[2..4]);
    assert_eq!(index.block_crcs().unwrap().len(), (8usize * 260).div_ceil(BLOCK_BYTES));
    assert_eq!(index.queue_ids().unwrap(), [0, 1, 2, 9]);
}

#[test]
fn an_index_of_no_record_answers_with_nothing() {
    let bytes = build(&[]);
    let index = SealedIndex::open_for(&bytes, &binding(&[])).unwrap();

    assert_eq!(select(&index, "#", 0, 10), [0u64; 0]);
    assert_eq!(index.queue_len(1).unwrap(), 0);
    index.load().unwrap();
}

#[test]
fn the_index_of_another_segment_or_version_is_refused() {
    let records = few();
    let mut bytes = build(&records);
    let mine = binding(&records);
    for other in [
        Binding { chain: 13, ..mine },
        Binding { segment_no: 8, ..mine },
        Binding { end_bytes: mine.end_bytes + 8, ..mine },
    ] {
        let refused = SealedIndex::open_for(&bytes, &other).err();
        assert!(matches!(refused, Some(SealedError::Fault(Fault::Foreign { segment_no: 7, .. }))));
    }
    bytes[7] = 2;
    let refused = SealedIndex::open_for(&bytes, &mine).err();
    assert!(matches!(refused, Some(SealedError::Fault(Fault::Version { found: 2 }))));
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let records = few();
    let bytes = build(&records);
    let is_refused = |bytes: &Vec<u8>| {
        SealedIndex::open_for(bytes, &binding(&records)).and_then(|index| index.load()).is_err()
    };
    assert!(!is_refused(&bytes));

    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(is_refused(&flipped), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(is_refused(&bytes[..len].to_vec()), "cut at {len}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(is_refused(&longer));
}

/// Topics of one shape each: few, many, and those of which the first level is all they are told apart by.
fn shapes() -> [BoxedStrategy<String>; 4] {
    let few = (0..8u32).prop_map(|n| match n {
        0 => "$SYS/a".to_owned(),
        1 => "/a".to_owned(),
        n => format!("a/{}/{n}", n % 3),
    });
    let many = (0..30u32, 0..200u32).prop_map(|(x, y)| format!("s/{x}/d/{y}"));
    let first = (0..300u32).prop_map(|n| format!("{n}/a"));
    let reserved = (0..300u32).prop_map(|n| format!("${n}/a"));
    [few.boxed(), many.boxed(), first.boxed(), reserved.boxed()]
}

/// All of them among each other, and any others.
fn mixed() -> impl Strategy<Value = String> {
    let [few, many, first, reserved] = shapes();
    prop_oneof![few, many, first, reserved, topic()]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let of = |topic: BoxedStrategy<String>| {
        let queues = prop::collection::btree_set(0..6u64, 0..3);
        let queues = queues.prop_map(|queues| queues.into_iter().collect::<Vec<u64>>());
        prop::collection::vec(prop::option::weighted(0.9, (topic, queues)), 0..600)
    };
    let [few, many, ..] = shapes();
    prop_oneof![of(few), of(many), of(topic().boxed()), of(mixed().boxed())]
}

proptest! {
    #[test]
    fn what_the_index_finds_is_what_a_look_at_every_record_finds(
        records in records(),
        filters in prop::collection::vec(filter(mixed()), 1..6),
        queue in 0..7u64,
        skip in 0..700u64,
        limit in prop_oneof![0..20usize, Just(usize::MAX)],
    ) {
        let bytes = build(&records);
        prop_assert_eq!(&bytes, &build(&records), "the same segment, the same bytes");
        let index = SealedIndex::open_for(&bytes, &binding(&records)).unwrap();
        let from = (BASE + skip).saturating_sub(50);
        let numbered = || (BASE..).zip(&records).filter(move |(offset, _)| *offset >= from);

        for filter in filters {
            let by_topic = |record: &Record| {
                let topic = record.as_ref().map(|(topic, _)| topic.as_bytes());
                topic.is_some_and(|topic| matches(filter.as_bytes(), topic))
            };
            let expected = numbered().filter(|(_, record)| by_topic(record)).map(|(at, _)| at);
            let expected: Vec<u64> = expected.take(limit).collect();
            prop_assert_eq!(select(&index, &filter, from, limit), expected, "{}", filter);
        }
        let by_queue = |record: &Record| {
            record.as_ref().is_some_and(|(_, queues)| queues.contains(&queue))
        };
        let expected = numbered().filter(|(_, record)| by_queue(record)).map(|(at, _)| Offset(at));
        let mut found = Vec::new();
        index.select_queue(queue, Offset(from), limit, &mut found).unwrap();
        prop_assert_eq!(found, expected.take(limit).collect::<Vec<_>>());
        let all = records.iter().filter(|record| by_queue(record)).count();
        prop_assert_eq!(index.queue_len(queue).unwrap(), all);
    }

    /// Bytes with right checksums that nobody honest wrote: no answer is demanded, only no panic and no memory beyond reason.
    #[test]
    fn hostile_bytes_with_right_checksums_never_panic(
        records in records(),
        changes in prop::collection::vec((0..7usize, any::<prop::sample::Index>(), any::<u8>()), 1..6),
        filter in filter(mixed()),
    ) {
        let bytes = build(&records);
        let index = SealedIndex::open(&bytes).unwrap();
        let header = *index.header();
        let mut contents = header.sections.map(|place| {
            bytes[place.at as usize..(place.at + place.len) as usize].to_vec()
        });
        for (section, at, byte) in changes {
            let content = &mut contents[section];
            if !content.is_empty() {
                let at = at.index(content.len());
                content[at] = byte;
            }
        }
        let mut hostile = Header::of(header.binding, &contents).encode().to_vec();
        contents.iter().for_each(|content| hostile.extend_from_slice(content));

        let index = SealedIndex::open(&hostile).unwrap();
        let mut found = Vec::new();
        if let Ok(topics) = index.match_topics(filter.as_bytes()) {
            let _ = index.select(&topics, Offset(0), 100, &mut found);
        }
        let _ = index.select_queue(1, Offset(0), 100, &mut found);
        let _ = index.for_each_topic(|_, _| {});
        let _ = index.for_each_frame(|_| {});
        let _ = index.for_each_shape(|_, _| {});
        let _ = index.frames_in(5000..9000);
        for offset in [BASE, BASE + 100] {
            let _ = index.record_at(Offset(offset));
            let _ = index.topic_at(Offset(offset));
        }
        prop_assert!(found.iter().all(|offset| (BASE..BASE + 600).contains(&offset.0)));
        prop_assert!(index.memory_bytes() < 100 * hostile.len());
    }
}
