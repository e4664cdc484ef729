//! What building the index of a full segment costs, what it takes on disk, and what it answers how fast.
//!
//! Goals (storage.md §16.4, G9): at or below 500 ns a record in the worst of four mixes of topics, 3 % of the segment's bytes
//! typically and 10 % at worst.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fluxmq_index::sealed::{Binding, Header, Section};
use fluxmq_index::{Offset, SealedIndex, SealedIndexBuilder};

/// Records of 280 bytes in a segment of 128 MiB, about.
const RECORD_COUNT: u64 = 450_000;
const RECORD_BYTES: u64 = 280;
const RECORDS_PER_FRAME: u64 = 500;
const RECORDS_PER_TURN: usize = 256;

/// A name, and the topic of a record.
type Mix = (&'static str, fn(u64) -> String);

criterion_group!(benches, sealed_index);
criterion_main!(benches);

fn sealed_index(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sealed_index");
    group.sample_size(10).throughput(Throughput::Elements(RECORD_COUNT));
    for (mix, topic_of) in mixes() {
        let topics: Vec<String> = (0..RECORD_COUNT).map(topic_of).collect();
        let bytes = filled(&topics).finish(binding());
        report(mix, &bytes);
        group.bench_function(format!("add/{mix}"), |bencher| {
            bencher.iter_batched(|| (), |()| filled(&topics), BatchSize::PerIteration)
        });
        group.bench_function(format!("finish/{mix}"), |bencher| {
            let finish = |builder: SealedIndexBuilder| builder.finish(binding());
            bencher.iter_batched(|| filled(&topics), finish, BatchSize::PerIteration)
        });
        let index = SealedIndex::open(&bytes).expect("it was just built");
        index.load().expect("it was just built");
        group.bench_function(format!("replay_queue/{mix}"), |bencher| {
            let mut found = Vec::new();
            bencher.iter(|| replay_queue(&index, &mut found));
        });
        let first = topics[7].clone();
        let prefix = first.split('/').take(2).collect::<Vec<_>>().join("/");
        for (name, filter) in [
            ("literal", first),
            ("beginning", format!("{prefix}/#")),
            ("last_level", "+/+/+/+/temperature".to_owned()),
            ("all", "#".to_owned()),
        ] {
            let mut found = Vec::new();
            group.bench_function(format!("select/{mix}/{name}"), |bencher| {
                bencher.iter(|| {
                    found.clear();
                    let topics = index.match_topics(black_box(filter.as_bytes()));
                    let topics = topics.expect("the index is whole");
                    let selected = index.select(&topics, Offset(0), usize::MAX, &mut found);
                    selected.expect("the index is whole");
                    found.len()
                })
            });
            eprintln!("{mix}: {} records match {filter}", found.len());
        }
    }
}

/// Reads a queue that has a third of the records, as a group does: in turns, each from where the last one ended.
fn replay_queue(index: &SealedIndex<&Vec<u8>>, found: &mut Vec<Offset>) -> usize {
    let (mut from, mut count) = (Offset(0), 0);
    loop {
        found.clear();
        let selected = index.select_queue(1, from, RECORDS_PER_TURN, found);
        selected.expect("the index is whole");
        let Some(last) = found.last() else { return count };
        count += found.len();
        from = last.next();
    }
}

/// Prints how many bytes a record takes in each section.
fn report(mix: &str, bytes: &Vec<u8>) {
    let index = SealedIndex::open(bytes).expect("it was just built");
    let (topics, shapes) = index.topic_count().expect("it was just built");
    let a_record = |len: u64| len as f64 / RECORD_COUNT as f64;
    let header: &Header = index.header();
    let parts = Section::ALL
        .map(|section| format!("{section} {:.2}", a_record(header.section(section).len)));
    eprintln!(
        "{mix}: {topics} topics, {shapes} shapes, {:.1} bytes a record, {:.1} % of the segment: {}",
        a_record(header.file_bytes()),
        header.file_bytes() as f64 / binding().end_bytes as f64 * 100.0,
        parts.join(", "),
    );
}

/// The mixes of the design's table, each with the topic of a record.
fn mixes() -> [Mix; 4] {
    [
        ("50_topics", |record| format!("site/{}/device/7/temperature", record % 50)),
        ("skewed", |record| {
            // Few topics have most of the records.
            let place = mixed(record) as f64 / u64::MAX as f64;
            let topic = (place.powi(2) * 100_000.0) as u64;
            format!("app{}/kind{}/device-{topic}", topic % 42, topic / 42 % 10)
        }),
        ("mostly_unique", |record| {
            let pair = mixed(record) % 500_000;
            format!("site/{}/device/{}/temperature", pair % 1000, pair / 1000)
        }),
        ("one_topic_a_record", |record| {
            format!("kind{}/request/{:016x}/state", record % 4, mixed(record))
        }),
    ]
}

fn filled(topics: &[String]) -> SealedIndexBuilder {
    let mut builder = SealedIndexBuilder::new();
    let body = vec![7; (RECORDS_PER_FRAME * RECORD_BYTES) as usize];
    for (frame, topics) in topics.chunks(RECORDS_PER_FRAME as usize).enumerate() {
        let frame = 4096 + frame as u64 * RECORDS_PER_FRAME * RECORD_BYTES;
        builder.frame(frame, frame, 96);
        builder.bytes(&body);
        for (number, topic) in topics.iter().enumerate() {
            let number = number as u64;
            let topic = builder.topic(topic.as_bytes());
            let route = builder.route(&[number % 3]);
            builder.message(frame + 96 + number * (RECORD_BYTES - 1), topic, route);
        }
    }
    builder
}

fn binding() -> Binding {
    Binding {
        partition: 0,
        segment_no: 0,
        base_offset: Offset(0),
        end_offset: Offset(RECORD_COUNT),
        base_index: 1,
        last_index: RECORD_COUNT / RECORDS_PER_FRAME,
        end_bytes: 4096 + RECORD_COUNT * RECORD_BYTES,
        salt: 0,
        chain: 0,
    }
}

/// Spreads numbers over 64 bits, each once.
fn mixed(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ number >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ number >> 31
}
