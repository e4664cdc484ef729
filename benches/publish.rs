//! What one partition costs, stepped by hand: publish to confirmation and delivery, a queue's entries to their settlement, and reading
//! again what sealed segments have.
//!
//! `cargo bench --profile perf --bench publish`, in a temporary directory of `TMPDIR`; a `TMPDIR` in memory leaves the disk out. One
//! thread does everything, the flush in line. Goals: 300,000 messages a second with a disk below; 300,000 entries a second claimed and
//! settled; 1,000,000 records a second replayed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fluxmq::model::record::{DedupKey, Tenure};
use fluxmq::model::{
    Credit, Delivery, Filter, Message, Millis, Outcome, Properties, QoS, QueueName, ReaderId,
    RetainHandling, Selection, Subscription, Token, Topic,
};
use fluxmq::partition::request::{
    Attach, ConnectionId, Event, Join, Outbox, Position, Publish, Request, Target,
};
use fluxmq::partition::{Member, Options, Partition};
use fluxmq_log::os_disk::OsDisk;
use fluxmq_log::{Log, LogOptions};
use tempfile::TempDir;

const BATCH: usize = 256;
const PAYLOAD: [u8; 256] = [b'x'; 256];
const CREDIT: u32 = 4096;
/// Records of a log that is replayed: 75 MB.
const REPLAYED: u64 = 1 << 18;
/// Settled before anything is measured: a consumer's window begins small.
const WARM_UP_BATCHES: u64 = 8;
const NOW: Millis = Millis(1_000_000);
const PUBLISHER: ConnectionId = ConnectionId(1);
const CONSUMER: ConnectionId = ConnectionId(2);

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = publish, publish_to_queues, claim_and_settle, replay
}
criterion_main!(benches);

/// Batches of publishes, each flushed, confirmed and delivered to every reader before the next.
fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    group.throughput(Throughput::Elements(BATCH as u64));
    let message = message("site/7/device/temperature");
    for reader_count in [0, 1, 100] {
        let mut bench = Stepped::open();
        for reader in 0..reader_count {
            bench.attach(ConnectionId(10 + reader));
        }
        for _ in 0..WARM_UP_BATCHES {
            bench.publish(&message, None);
            bench.flush();
            bench.catch_up(reader_count);
        }
        group.bench_function(format!("to_{reader_count}_readers"), |bencher| {
            bencher.iter(|| {
                bench.publish(&message, None);
                bench.flush();
                assert_eq!(bench.out.confirmed_count, BATCH, "all are stored");
                let delivered = bench.out.deliveries.len() as u64;
                assert_eq!(delivered, BATCH as u64 * reader_count, "all are live");
                bench.out.confirmed_count = 0;
                bench.out.deliveries.clear();
                bench.credit(reader_count);
            });
        });
    }
}

/// The same total rate over few queues and over many: each batch goes to the next ones in turn, and is flushed and confirmed.
fn publish_to_queues(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish_to_queues");
    group.throughput(Throughput::Elements(BATCH as u64));
    for queue_count in [100, 100_000] {
        let mut bench = Stepped::open();
        let queues: Vec<(QueueName, Message)> = (0..queue_count).map(queue_of).collect();
        let before = resident_bytes();
        let mut next = queues.iter().cycle();
        for _ in 0..queue_count / BATCH + 1 {
            bench.publish_each(&mut next);
            bench.flush();
            bench.out.confirmed_count = 0;
        }
        let more = resident_bytes().saturating_sub(before) >> 20;
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        eprintln!("{queue_count} queues: {more} MiB more resident memory, {files} open files");
        group.bench_function(format!("{queue_count}"), |bencher| {
            bencher.iter(|| {
                bench.publish_each(&mut next);
                bench.flush();
                assert_eq!(bench.out.confirmed_count, BATCH, "all are stored");
                bench.out.confirmed_count = 0;
            });
        });
    }
}

fn queue_of(number: usize) -> (QueueName, Message) {
    let name = QueueName::new(Bytes::from(format!("orders-{number}"))).expect("a name");
    let topic = Topic::new(Bytes::from(format!("$queue/orders-{number}"))).expect("a topic");
    (name, Message { topic, ..message("$queue/orders") })
}

/// What the system says this process has in memory; 0 where it does not say.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// A group's only member works through a backlog: what is handed out in one turn is settled, and outcomes are flushed every so often.
fn claim_and_settle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("claim_and_settle");
    let queue = QueueName::new(Bytes::from_static(b"orders")).expect("a name");
    let message = message("$queue/orders/new");
    for batch_count in [1, 16] {
        let entries = BATCH * batch_count;
        group.throughput(Throughput::Elements(entries as u64));
        let mut bench = Stepped::open();
        bench.join(&queue);
        bench.fill(&message, Some(&queue), WARM_UP_BATCHES);
        while bench.settle_some() > 0 {}
        bench.flush();
        group.bench_function(format!("flush_every_{entries}"), |bencher| {
            bencher.iter_custom(|iterations| {
                bench.fill(&message, Some(&queue), iterations * batch_count as u64);
                let start = Instant::now();
                for _ in 0..iterations {
                    for _ in 0..batch_count {
                        bench.claim_and_settle();
                    }
                    bench.flush();
                }
                let elapsed = start.elapsed();
                bench.assert_settled(&queue);
                elapsed
            });
        });
    }
}

/// Everything that a log has is read from its beginning, most of it out of sealed segments: a topic by a replay, and a queue by a group
/// that is new each time, which settles what it is given. Nothing is flushed meanwhile.
fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(REPLAYED));
    let queue = QueueName::new(Bytes::from_static(b"orders")).expect("a name");
    let mut next = 100;
    for (name, topic, queue) in [
        ("of_a_topic", "site/7/device/temperature", None),
        ("of_a_queue", "$queue/orders/new", Some(&queue)),
    ] {
        let mut bench =
            Stepped::with(LogOptions { segment_bytes_max: 16 << 20, ..LogOptions::default() });
        bench.fill(&message(topic), queue, REPLAYED / BATCH as u64);
        while let Some(job) = bench.partition.prepare_index() {
            bench.partition.finish_index(job.run());
        }
        assert!(bench.partition.log().segments().len() > 4, "most are sealed");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                next += 1;
                match queue {
                    None => bench.replay(next),
                    Some(queue) => bench.read_queue(queue, next),
                }
            });
        });
    }
}

/// A partition and what it has said.
struct Stepped {
    partition: Partition<OsDisk>,
    out: Said,
    /// Deleted with it.
    _directory: TempDir,
}

#[derive(Default)]
struct Said {
    confirmed_count: usize,
    deliveries: Vec<Delivery>,
}

impl Outbox for Said {
    fn send(&mut self, _to: ConnectionId, event: Event) {
        match event {
            Event::Confirm { result, .. } => {
                assert_eq!(result, Ok(true), "nothing is refused");
                self.confirmed_count += 1;
            }
            Event::Deliver(delivery) => self.deliveries.push(delivery),
            Event::Attached { .. } | Event::Level | Event::Written { .. } => {}
            Event::Joined { result, .. } => assert_eq!(result, Ok(())),
            other => panic!("nobody asked for {other:?}"),
        }
    }
}

impl Stepped {
    fn open() -> Stepped {
        Stepped::with(LogOptions::default())
    }

    fn with(options: LogOptions) -> Stepped {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = OsDisk::new(directory.path().to_owned()).expect("the directory is there");
        let options = LogOptions { partition: 1, ..options };
        let (log, _) = Log::open(disk, PathBuf::from("p0001"), options).expect("it is new");
        let id = fluxmq::model::PartitionId(1);
        let partition = Partition::open(id, log, Options::default(), &Member::alone(), NOW)
            .expect("it is empty");
        Stepped { partition, out: Said::default(), _directory: directory }
    }

    /// Replays everything, as fast as the connection takes it.
    fn replay(&mut self, connection: u64) {
        let (connection, reader) = (ConnectionId(connection), ReaderId(1));
        self.attach_from(connection, reader, Some(Position::Earliest));
        let mut left = REPLAYED;
        while left > 0 {
            self.partition.pump(&mut self.out).expect("history reads");
            let count = self.out.deliveries.len();
            assert!(count > 0, "{left} do not come");
            self.out.deliveries.clear();
            left -= count as u64;
            self.handle(connection, Request::Credit { reader, count: count as u32 });
        }
        self.handle(connection, Request::EndReplay { reader });
    }

    /// Reads and settles all of a queue, in a group of its own.
    fn read_queue(&mut self, queue: &QueueName, group: u64) {
        let connection = ConnectionId(group);
        self.join_as(connection, queue, &format!("group-{group}"));
        let mut left = REPLAYED;
        while left > 0 {
            let count = self.settle_some_as(connection) as u64;
            assert!(count > 0, "{left} do not come");
            left -= count;
        }
        self.flush();
        self.handle(connection, Request::Forget);
    }

    fn attach(&mut self, reader: ConnectionId) {
        self.attach_from(reader, ReaderId::SESSION, None);
    }

    fn attach_from(&mut self, from: ConnectionId, reader: ReaderId, position: Option<Position>) {
        let subscription = Subscription {
            filter: Filter::new(Bytes::from_static(b"site/+/device/#")).expect("a filter"),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::DontSend,
            subscription_id: 0,
            group: None,
            settle_explicit: false,
            reader,
        };
        let attach = Attach {
            reader,
            position,
            subscriptions: vec![(Arc::new(subscription), None)],
            cursor: None,
            outbound: Vec::new(),
            publisher: from.0,
            credit: CREDIT,
            keeps_place: false,
            retained: vec![false],
            token: Token(0),
        };
        self.handle(from, Request::Attach(Box::new(attach)));
    }

    fn join(&mut self, queue: &QueueName) {
        self.join_as(CONSUMER, queue, "workers");
    }

    fn join_as(&mut self, consumer: ConnectionId, queue: &QueueName, group: &str) {
        let join = Join {
            membership: 1,
            reads: Selection::Queue(queue.clone()),
            group: QueueName::new(Bytes::from(group.to_owned())).expect("a name"),
            own: None,
            filter: Filter::new(Bytes::from(format!("$queue/{queue}/#"))).expect("a filter"),
            position: Position::Earliest,
            client_id: Bytes::from_static(b"worker"),
            expiry_s: 0,
            qos: QoS::AtLeastOnce,
            retain_as_published: false,
            subscription_id: 0,
            settle_explicit: false,
            credit: Credit::Window(CREDIT),
            is_named: false,
            is_exclusive: false,
            token: Token(0),
        };
        self.handle(consumer, Request::Join(Box::new(join)));
        self.flush();
    }

    /// One batch, as the shard takes it from a connection.
    fn publish(&mut self, message: &Message, queue: Option<&QueueName>) {
        for number in 0..BATCH {
            let publish = Publish {
                token: Some(Token(number as u64)),
                message: Arc::new(message.clone()),
                dedup: DedupKey::default(),
                is_kept: false,
                tenure: Tenure::default(),
                target: queue.cloned().map_or(Target::Topic, Target::Queue),
                input: None,
            };
            self.handle(PUBLISHER, Request::Publish(publish));
        }
    }

    /// One batch, each message to the next queue.
    fn publish_each<'a>(&mut self, queues: &mut impl Iterator<Item = &'a (QueueName, Message)>) {
        for (number, (queue, message)) in queues.take(BATCH).enumerate() {
            let publish = Publish {
                token: Some(Token(number as u64)),
                message: Arc::new(message.clone()),
                dedup: DedupKey::default(),
                tenure: Tenure::default(),
                target: Target::Queue(queue.clone()),
                input: None,
                is_kept: false,
            };
            self.handle(PUBLISHER, Request::Publish(publish));
        }
    }

    /// A backlog in frames of a thousand entries: what a group under load commits together.
    fn fill(&mut self, message: &Message, queue: Option<&QueueName>, batch_count: u64) {
        for number in 1..=batch_count {
            self.publish(message, queue);
            if number.is_multiple_of(4) || number == batch_count {
                self.flush();
            }
        }
        self.out.confirmed_count = 0;
    }

    /// Every reader has taken what it got.
    fn credit(&mut self, reader_count: u64) {
        for reader in 0..reader_count {
            let credit = Request::Credit { reader: ReaderId::SESSION, count: BATCH as u32 };
            self.handle(ConnectionId(10 + reader), credit);
        }
    }

    /// Lets readers with small windows get the rest.
    fn catch_up(&mut self, reader_count: u64) {
        while !self.out.deliveries.is_empty() {
            self.out.deliveries.clear();
            self.credit(reader_count);
            self.partition.pump(&mut self.out).expect("history reads");
        }
        self.out.confirmed_count = 0;
    }

    fn handle(&mut self, from: ConnectionId, request: Request) {
        self.partition.handle(from, request, NOW, &mut self.out);
    }

    fn flush(&mut self) {
        let flush = self.partition.persist().expect("it persists").expect("something waits");
        self.partition.flushed(flush.run(), &mut self.out).expect("it applies");
    }

    /// One turn of the shard: the member gets a turn's worth and settles it.
    fn claim_and_settle(&mut self) {
        assert_eq!(self.settle_some(), BATCH, "a turn's worth of the backlog");
    }

    /// The member settles what one turn hands out to it; returns how much that is.
    fn settle_some(&mut self) -> usize {
        self.settle_some_as(CONSUMER)
    }

    fn settle_some_as(&mut self, consumer: ConnectionId) -> usize {
        self.partition.pump(&mut self.out).expect("history reads");
        let deliveries = std::mem::take(&mut self.out.deliveries);
        let count = deliveries.len();
        for delivery in &deliveries {
            let (entry, outcome) = (delivery.id.offset, Outcome::Accepted);
            self.handle(
                consumer,
                Request::Settle { membership: 1, entries: entry..entry.next(), outcome },
            );
        }
        self.out.deliveries = deliveries;
        self.out.deliveries.clear();
        count
    }

    fn assert_settled(&self, queue: &QueueName) {
        let id = fluxmq::model::record::queue_id(queue.as_bytes());
        let queue = self.partition.views().queues.get(id).expect("it was published to");
        let group = self.partition.views().groups.get(id, &Bytes::from_static(b"workers"));
        let group = group.expect("it was joined");
        assert_eq!(group.committed(), queue.end(), "every entry is finished");
    }
}

fn message(topic: &'static str) -> Message {
    Message {
        topic: Topic::new(Bytes::from_static(topic.as_bytes())).expect("a topic"),
        payload: Bytes::from_static(&PAYLOAD),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_s: None,
        properties: Properties::default(),
        publisher: 1,
    }
}
