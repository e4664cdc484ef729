//! What the log costs by itself: encoding batches, appending them, and making them durable in groups.
//!
//! `cargo bench --profile perf -p fluxmq-log --bench log_append`, in a temporary directory of `TMPDIR`. As in a broker, one thread owns
//! the logs, each log has a syncer, and spare segments are prepared aside. Goal: 3 million records of 256 bytes a second. Ends with
//! the write amplification of 100,000 messages.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fluxmq_log::format::{Batch, BatchBuilder, FrameKind, MessageRecord};
use fluxmq_log::os_disk::OsDisk;
use fluxmq_log::{Entry, Flush, Flushed, Log, LogOptions, PreparedSpare, SpareJob};
use tempfile::TempDir;

const RECORDS_PER_BATCH: usize = 512;
const PAYLOAD: [u8; 256] = [0x5a; 256];
const PARTITION_COUNT: usize = 4;
/// Batches that each partition takes in one iteration.
const BATCHES_PER_PARTITION: u64 = 64;
/// Entries that gather behind a running flush, at most: what its publishers have out bounds a broker the same way.
const GATHERED_MAX: u64 = 8;
const MESSAGE_COUNT: usize = 100_000;

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = encode, append_in_line, append_side_by_side, write_amplification
}
criterion_main!(benches);

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode_batch");
    group.throughput(Throughput::Elements(RECORDS_PER_BATCH as u64));
    for topic_count in [1, 50, RECORDS_PER_BATCH] {
        let topics = topics(topic_count);
        group.bench_function(format!("{topic_count}_topics"), |bencher| {
            bencher.iter(|| build(black_box(&topics), RECORDS_PER_BATCH));
        });
    }
}

/// One log, one thread: the disk is waited for in line.
fn append_in_line(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append_in_line");
    let topics = topics(50);
    for batch_count in [1, GATHERED_MAX] {
        let records = batch_count * RECORDS_PER_BATCH as u64;
        group.throughput(Throughput::Elements(records));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut log = open(&directory, 0);
        group.bench_function(format!("{batch_count}_batches_a_flush"), |bencher| {
            bencher.iter(|| {
                for _ in 0..batch_count {
                    append(&mut log, build(&topics, RECORDS_PER_BATCH));
                }
                log.flush().expect("the disk works")
            });
        });
    }
}

/// Several logs of one owner, each with its syncer: flushes gather what is appended while the one before runs.
fn append_side_by_side(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append_side_by_side");
    let records = PARTITION_COUNT as u64 * BATCHES_PER_PARTITION * RECORDS_PER_BATCH as u64;
    group.throughput(Throughput::Elements(records));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut engine = Engine::start(&directory);
    group.bench_function(format!("{PARTITION_COUNT}_partitions"), |bencher| {
        bencher.iter(|| engine.run());
    });
    if engine.flush_count > 0 {
        let entries: u64 = engine.logs.iter().map(|log| log.last_index()).sum();
        eprintln!("{:.1} batches a flush", entries as f64 / engine.flush_count as f64);
    }
}

/// Bytes stored, and bytes written with the zeros that go ahead of them, for a byte of payload.
fn write_amplification(_: &mut Criterion) {
    for per_batch in [RECORDS_PER_BATCH, 16] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut log = open_without_spare(&directory, 0);
        let topics = topics(50);
        let before = written_bytes();
        let mut left = MESSAGE_COUNT;
        while left > 0 {
            let count = left.min(per_batch);
            append(&mut log, build(&topics, count));
            left -= count;
            if (MESSAGE_COUNT - left).is_multiple_of(RECORDS_PER_BATCH) {
                log.flush().expect("the disk works");
            }
        }
        log.flush().expect("the disk works");
        let written = before.zip(written_bytes()).map(|(before, after)| after - before);
        let payload = (MESSAGE_COUNT * PAYLOAD.len()) as f64;
        let stored: u64 = log.segments().iter().map(|segment| segment.end_bytes).sum();
        eprintln!("batches of {per_batch}: {:.4} stored for 1", stored as f64 / payload);
        if let Some(written) = written {
            eprintln!("batches of {per_batch}: {:.4} written for 1", written as f64 / payload);
        }
    }
}

/// What this process has passed to `write` so far, where the system tells.
fn written_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("wchar: "))?.parse().ok()
}

enum Done {
    Flushed(usize, Box<Flushed<OsDisk>>),
    Prepared(usize, PreparedSpare),
}

/// The owner of several logs, as a shard is one; its threads end with it.
struct Engine {
    logs: Vec<Log<OsDisk>>,
    topics: Vec<String>,
    syncers: Vec<Sender<Flush<OsDisk>>>,
    preparer: Sender<(usize, SpareJob<OsDisk>)>,
    done: Receiver<Done>,
    /// The last entry of each log that a flush has taken.
    begun: [u64; PARTITION_COUNT],
    flush_count: u64,
}

impl Engine {
    fn start(directory: &TempDir) -> Engine {
        let (results, done) = channel();
        let logs = (0..PARTITION_COUNT).map(|number| open(directory, number as u32)).collect();
        let syncers = (0..PARTITION_COUNT).map(|number| {
            let results = results.clone();
            spawn(results, move |flush: Flush<OsDisk>| Done::Flushed(number, Box::new(flush.run())))
        });
        let syncers = syncers.collect();
        let prepare = |(number, job): (usize, SpareJob<OsDisk>)| Done::Prepared(number, job.run());
        let preparer = spawn(results, prepare);
        let begun = [0; PARTITION_COUNT];
        Engine { logs, topics: topics(50), syncers, preparer, done, begun, flush_count: 0 }
    }

    /// Appends every partition's share; returns when all of it is durable.
    fn run(&mut self) {
        let mut left = [BATCHES_PER_PARTITION; PARTITION_COUNT];
        loop {
            let mut is_done = true;
            for (number, log) in self.logs.iter_mut().enumerate() {
                while left[number] > 0 && log.last_index() - self.begun[number] < GATHERED_MAX {
                    append(log, build(&self.topics, RECORDS_PER_BATCH));
                    left[number] -= 1;
                }
                if let Some(job) = log.prepare_spare() {
                    self.preparer.send((number, job)).expect("the preparer runs");
                }
                if let Some(flush) = log.begin_flush() {
                    self.begun[number] = flush.covers().index;
                    self.syncers[number].send(flush).expect("the syncer runs");
                    self.flush_count += 1;
                }
                is_done &= left[number] == 0 && log.durable() == log.last();
            }
            if is_done {
                return;
            }
            match self.done.recv().expect("the threads run") {
                Done::Flushed(number, flushed) => {
                    self.logs[number].finish_flush(*flushed).expect("the disk works");
                }
                Done::Prepared(number, spare) => {
                    self.logs[number].finish_spare(spare).expect("the disk has room");
                }
            }
        }
    }
}

/// A thread that does one job after the other until nobody can send one.
fn spawn<Job: Send + 'static>(
    results: Sender<Done>,
    work: impl Fn(Job) -> Done + Send + 'static,
) -> Sender<Job> {
    let (jobs, waiting) = channel();
    thread::spawn(move || while waiting.recv().is_ok_and(|job| results.send(work(job)).is_ok()) {});
    jobs
}

fn open(directory: &TempDir, partition: u32) -> Log<OsDisk> {
    let mut log = open_without_spare(directory, partition);
    let job = log.prepare_spare().expect("there is none");
    log.finish_spare(job.run()).expect("the disk has room");
    log
}

fn open_without_spare(directory: &TempDir, partition: u32) -> Log<OsDisk> {
    let disk = OsDisk::new(directory.path().to_owned()).expect("the directory is there");
    let options = LogOptions {
        partition,
        segment_bytes_min: 32 << 20,
        segment_bytes_max: 32 << 20,
        ..LogOptions::default()
    };
    let (log, _) =
        Log::open(disk, PathBuf::from(format!("p{partition:04}")), options).expect("it is new");
    log
}

/// Appends as a leader does: a seal closes a segment that the batch does not fit.
fn append(log: &mut Log<OsDisk>, batch: Batch) {
    if log.should_roll(batch.body.len()) {
        let (index, body) = (log.last_index() + 1, log.seal_body());
        let seal = Entry::without_records(index, 1, FrameKind::Seal, 0, body);
        log.append(seal).expect("the seal is its own");
    }
    let entry = Entry::from_batch(log.last_index() + 1, 1, 0, batch);
    log.append(entry).expect("it follows the last");
}

fn topics(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("site/{number}/device/temperature")).collect()
}

fn build(topics: &[String], count: usize) -> Batch {
    let mut batch = BatchBuilder::with_capacity(1_000, count * (PAYLOAD.len() + 16));
    for number in 0..count {
        batch.push_message(&MessageRecord {
            topic: topics[number % topics.len()].as_bytes(),
            qos: 1,
            ts: 1_000,
            payload: &PAYLOAD,
            ..Default::default()
        });
    }
    batch.finish()
}
