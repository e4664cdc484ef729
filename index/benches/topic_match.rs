//! What a match costs with a million subscriptions, and what indexing one record costs.
//!
//! Goals: a match at or below 1 µs, a filter below 200 bytes, a record in the steady state 30 to 60 ns.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fluxmq_index::{Offset, SegmentIndex, TopicTrie};

const SUBSCRIPTION_COUNT: u64 = 1_000_000;
/// Records of 256 bytes in a segment of 128 MiB, about.
const RECORD_COUNT: u64 = 450_000;

criterion_group!(benches, topic_match, segment_index);
criterion_main!(benches);

/// Random topics of a million devices, each with its own filter, under a few wildcards for all.
fn topic_match(criterion: &mut Criterion) {
    let mut trie = TopicTrie::new();
    for device in 0..SUBSCRIPTION_COUNT {
        trie.insert(device_topic(device).as_bytes(), device);
    }
    for (id, filter) in ["site/+/device/+/alarm", "site/7/#", "+/+/device/42/#"].iter().enumerate()
    {
        trie.insert(filter.as_bytes(), SUBSCRIPTION_COUNT + id as u64);
    }
    eprintln!("{} bytes a filter", trie.memory_bytes() / trie.len());
    let topics = shuffled(SUBSCRIPTION_COUNT).map(device_topic).collect::<Vec<_>>();

    let mut topics_in_turn = topics.iter().cycle();
    criterion.bench_function("trie/match/1M_subscriptions", |bencher| {
        bencher.iter(|| {
            let topic = topics_in_turn.next().expect("a cycle does not end");
            let mut sum = 0u64;
            trie.for_each_match(black_box(topic.as_bytes()), |value| sum += value);
            sum
        })
    });
    let mut topics_in_turn = topics[..1000].iter().cycle();
    criterion.bench_function("trie/match/1M_subscriptions_1000_topics_in_use", |bencher| {
        bencher.iter(|| {
            let topic = topics_in_turn.next().expect("a cycle does not end");
            let mut sum = 0u64;
            trie.for_each_match(black_box(topic.as_bytes()), |value| sum += value);
            sum
        })
    });
    let mut topics_in_turn = topics.iter().cycle();
    criterion.bench_function("trie/remove_and_insert/1M_subscriptions", |bencher| {
        bencher.iter(|| {
            let topic = topics_in_turn.next().expect("a cycle does not end").as_bytes();
            trie.insert(topic, u64::MAX);
            trie.remove(topic, &u64::MAX)
        })
    });
}

/// A segment filled from empty, and what it answers then.
fn segment_index(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("segment_index");
    group.sample_size(10).throughput(Throughput::Elements(RECORD_COUNT));
    for topic_count in [50, 1000, RECORD_COUNT] {
        let topics: Vec<String> = (0..topic_count).map(device_topic).collect();
        let index = filled(&topics);
        eprintln!(
            "{topic_count} topics: {} bytes a record",
            index.memory_bytes() as u64 / RECORD_COUNT
        );
        group.bench_function(format!("add/{topic_count}_topics"), |bencher| {
            bencher.iter_batched(|| (), |()| filled(&topics), BatchSize::PerIteration)
        });
        for filter in ["site/7/device/7/temperature", "site/7/#", "+/+/device/#"] {
            group.bench_function(format!("select/{topic_count}_topics/{filter}"), |bencher| {
                let mut found = Vec::new();
                bencher.iter(|| {
                    found.clear();
                    index.select(filter.as_bytes(), Offset(0), usize::MAX, &mut found);
                    found.len()
                })
            });
        }
    }
}

fn filled(topics: &[String]) -> SegmentIndex {
    let mut index = SegmentIndex::new(Offset(0));
    for (record, topic) in (0..RECORD_COUNT).zip(topics.iter().cycle()) {
        index.add(Offset(record), topic.as_bytes(), &[record % 3]);
    }
    index
}

fn device_topic(device: u64) -> String {
    format!("site/{}/device/{device}/temperature", device % 1000)
}

/// Every number below `count`, a power of ten, once, far from its neighbours.
fn shuffled(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |number| number * 7_368_787 % count)
}
