//! What one committed record costs the views, and what a snapshot of 100,000 sessions costs.
//!
//! `cargo bench --profile perf --bench view_apply`. No disk and no thread: records go straight into `Views::apply`. Goal: a million
//! sessions in a snapshot of at most 150 MB, so at most 150 bytes each.

use std::time::Duration;

use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fluxmq::model::record::DedupKey;
use fluxmq::model::record::queue_id;
use fluxmq::model::{
    Control, Filter, Millis, OutboundEntry, PartitionId, QoS, ReaderId, Record, RetainHandling,
    SessionProgress, StoredMessage, Subscription,
};
use fluxmq::view::Views;
use fluxmq_index::Offset;
use fluxmq_log::format::Retain;

const SESSION_COUNT: u64 = 100_000;
const TOPIC_COUNT: u64 = 10_000;
/// Entries that one `Settled` finishes: what a group's members settle while a flush runs.
const SETTLED_COUNT: u64 = 256;
const NOW: Millis = Millis(1_000_000);
const QUEUE: Bytes = Bytes::from_static(b"orders");
const GROUP: Bytes = Bytes::from_static(b"workers");

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = messages, settled, session_progress, snapshot
}
criterion_main!(benches);

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply_message");
    group.throughput(Throughput::Elements(TOPIC_COUNT));
    let queue = queue_id(&QUEUE);
    for (name, retain, queues) in [
        ("plain", Retain::No, &[][..]),
        ("retained", Retain::Set, &[][..]),
        ("queued", Retain::No, &[queue][..]),
    ] {
        let messages: Vec<StoredMessage> =
            (0..TOPIC_COUNT).map(|number| message(number, retain)).collect();
        let mut log = Applied::with_queue();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for message in &messages {
                    log.apply(Record::Message(message, queues));
                }
            });
        });
    }
}

/// A group finishes its entries in order, one control for many; or every second one, so that each leaves a hole.
fn settled(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply_settled");
    group.throughput(Throughput::Elements(SETTLED_COUNT));
    let mut log = Applied::with_queue();
    let mut next = Offset::ZERO;
    group.bench_function("in_order", |bencher| {
        bencher.iter(|| {
            log.settle(vec![(next, SETTLED_COUNT)], Vec::new());
            next = next.plus(SETTLED_COUNT);
        });
    });
    let view = log.views.groups.get(queue_id(&QUEUE), &GROUP);
    assert_eq!(view.map(|group| group.committed()), Some(next), "everything is finished");
    let mut log = Applied::with_queue();
    let mut next = Offset(1);
    group.bench_function("every_second", |bencher| {
        bencher.iter(|| {
            let finished = (0..SETTLED_COUNT).map(|step| (next.plus(step * 2), 1)).collect();
            log.settle(finished, Vec::new());
            // Goes round: the holes stay as many as the entries that may be out.
            next = Offset((next.0 + SETTLED_COUNT * 2) % (SETTLED_COUNT * 400));
        });
    });
    // A backlog that came back once, then is finished in order: one control each for 256 of 25,600 entries.
    group.bench_function("of_25600_released", |bencher| {
        bencher.iter_batched_ref(
            || {
                let mut log = Applied::with_queue();
                log.settle(Vec::new(), (0..SETTLED_COUNT * 100).map(Offset).collect());
                log
            },
            |log| {
                let finished = (0..SETTLED_COUNT).map(|step| (Offset(step * 2), 1)).collect();
                log.settle(finished, Vec::new());
            },
            criterion::BatchSize::PerIteration,
        );
    });
}

fn session_progress(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply_session_progress");
    group.throughput(Throughput::Elements(SESSION_COUNT));
    let mut log = Applied::with_sessions();
    log.apply(Record::Control(&progress(0, 1)));
    let session = log.views.sessions.get(&client_id(0)).expect("it was opened");
    assert_eq!(session.outbound.len(), 1, "progress belongs to the session's epoch");
    let mut round = 1;
    group.bench_function(format!("{SESSION_COUNT}_sessions"), |bencher| {
        bencher.iter_batched_ref(
            || {
                round += 1;
                (0..SESSION_COUNT).map(|number| progress(number, round)).collect::<Vec<_>>()
            },
            |controls| {
                for control in controls {
                    log.apply(Record::Control(control));
                }
            },
            criterion::BatchSize::PerIteration,
        );
    });
}

fn snapshot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("views");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(SESSION_COUNT));
    let mut log = Applied::with_sessions();
    for number in 0..SESSION_COUNT {
        log.apply(Record::Control(&progress(number, 1)));
    }
    let sections = log.views.snapshot();
    let bytes: usize = sections.iter().map(Bytes::len).sum();
    eprintln!("{SESSION_COUNT} sessions: {bytes} bytes, {} each", bytes as u64 / SESSION_COUNT);
    group.bench_function("snapshot", |bencher| bencher.iter(|| log.views.snapshot()));
    group.bench_function("restore", |bencher| {
        // The old views are dropped outside of what is measured.
        bencher.iter_with_large_drop(|| Views::restore(&sections).expect("just encoded"));
    });
    let restored = Views::restore(&sections).expect("just encoded");
    assert_eq!(restored.snapshot(), sections, "the law of views");
}

/// The views, and the offset of the next record.
struct Applied {
    views: Views,
    next: Offset,
}

impl Applied {
    fn with_queue() -> Applied {
        let mut log = Applied { views: Views::default(), next: Offset::ZERO };
        log.apply(Record::Control(&Control::QueueDeclared {
            name: QUEUE,
            settings: Arc::default(),
        }));
        log.apply(Record::Control(&Control::GroupCreated {
            queue: queue_id(&QUEUE),
            group: GROUP,
            start: Offset::ZERO,
        }));
        log
    }

    /// Each with one subscription that is read in four partitions. A session's epoch is its number.
    fn with_sessions() -> Applied {
        let mut log = Applied { views: Views::default(), next: Offset::ZERO };
        for number in 0..SESSION_COUNT {
            let client_id = client_id(number);
            log.apply(Record::Control(&Control::SessionOpened {
                client_id,
                clean: false,
                expiry_s: 3600,
                principal: fluxmq::model::Principal::ANONYMOUS,
            }));
        }
        for number in 0..SESSION_COUNT {
            let filter = Filter::new(Bytes::from(format!("site/{number}/#"))).expect("a filter");
            let subscription = Subscription {
                filter,
                qos: QoS::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::Send,
                subscription_id: 0,
                group: None,
                settle_explicit: false,
                reader: ReaderId::SESSION,
            };
            let starts = (1..=4).map(|id| (PartitionId(id), Offset(number))).collect();
            let client_id = client_id(number);
            log.apply(Record::Control(&Control::Subscribed { client_id, subscription, starts }));
        }
        log
    }

    fn apply(&mut self, record: Record<'_>) {
        self.views.apply(self.next, NOW, record);
        self.next = self.next.next();
    }

    fn settle(&mut self, finished: Vec<(Offset, u64)>, released: Vec<Offset>) {
        let queue = queue_id(&QUEUE);
        let control = Control::Settled { selection: queue, group: GROUP, finished, released };
        self.apply(Record::Control(&control));
    }
}

fn client_id(number: u64) -> Bytes {
    Bytes::from(format!("device-{number:08}"))
}

fn message(number: u64, retain: Retain) -> StoredMessage {
    StoredMessage {
        topic: Bytes::from(format!("site/{number}/device/temperature")),
        payload: Bytes::from_static(&[b'x'; 256]),
        properties: Bytes::new(),
        qos: QoS::AtLeastOnce,
        retain,
        time: NOW,
        expiry_s: None,
        deliver_at: None,
        priority: 0,
        publisher: 7,
        dedup: DedupKey::default(),
    }
}

/// One delivery settled and the next one out, and two cursors moved.
fn progress(number: u64, round: u64) -> Control {
    let packet_id = |round: u64| (round % 60_000) as u16 + 1;
    let at = Offset(SESSION_COUNT + round);
    Control::SessionProgress(SessionProgress {
        client_id: client_id(number),
        epoch: Offset(number),
        cursors: vec![(PartitionId(1), at), (PartitionId(2), at)],
        replayed: Vec::new(),
        assigned: vec![OutboundEntry {
            packet_id: packet_id(round),
            reader: ReaderId::SESSION,
            partition: PartitionId(1),
            offset: at,
            qos: QoS::AtLeastOnce,
            retain: false,
            received: false,
        }],
        received: Vec::new(),
        done: vec![packet_id(round - 1)],
    })
}
