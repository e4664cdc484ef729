//! What opening a log after a crash costs: its last segment is read and checked whole, the sealed ones before it are not.
//!
//! `cargo bench --profile perf -p fluxmq-log --bench recovery`, in a temporary directory of `TMPDIR`, with the page cache warm: this is the
//! speed of the scan, not of the disk. Goal: what is scanned is one segment, however long the log is.

use std::path::PathBuf;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fluxmq_log::format::{Batch, BatchBuilder, FrameKind, MessageRecord};
use fluxmq_log::os_disk::OsDisk;
use fluxmq_log::{Entry, Log, LogOptions, Recovery};

const LOG_BYTES: usize = 128 << 20;
const PAYLOAD: [u8; 256] = [0x5a; 256];

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = recovery
}
criterion_main!(benches);

/// The same log as one active segment, and as sealed ones with a short one behind; in large frames and in small ones.
fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    group.sampling_mode(SamplingMode::Flat);
    for (segment_bytes, records) in [(256 << 20, 512), (256 << 20, 16), (16 << 20, 512)] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = OsDisk::new(directory.path().to_owned()).expect("the directory is there");
        let options = LogOptions {
            segment_bytes_min: segment_bytes,
            segment_bytes_max: segment_bytes,
            ..LogOptions::default()
        };
        let (mut log, _) = open(&disk, options);
        fill(&mut log, records);
        let (end, segment_count) = (log.last(), log.segments().len());
        drop(log);
        let (_, recovery) = open(&disk, options);
        group.throughput(Throughput::Bytes(recovery.bytes_scanned));
        let mib = segment_bytes >> 20;
        let name = format!("{segment_count}_segments_of_{mib}MiB/{records}_records_a_frame");
        eprintln!("{name}: {} bytes in {} frames", recovery.bytes_scanned, recovery.frames_scanned);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (log, _) = open(&disk, options);
                assert_eq!(log.last(), end, "everything is found");
                log
            });
        });
    }
}

fn open(disk: &OsDisk, options: LogOptions) -> (Log<OsDisk>, Recovery) {
    Log::open(disk.clone(), PathBuf::from("p0001"), options).expect("the log recovers")
}

fn fill(log: &mut Log<OsDisk>, records: usize) {
    let batch = build(records);
    for number in 0..LOG_BYTES / batch.body.len() {
        if log.should_roll(batch.body.len()) {
            let (index, body) = (log.last_index() + 1, log.seal_body());
            let seal = Entry::without_records(index, 1, FrameKind::Seal, 0, body);
            log.append(seal).expect("the seal is its own");
        }
        let entry = Entry::from_batch(log.last_index() + 1, 1, 0, batch.clone());
        log.append(entry).expect("it follows the last");
        if number % 256 == 0 {
            log.flush().expect("the disk works");
        }
    }
    log.flush().expect("the disk works");
}

fn build(records: usize) -> Batch {
    let mut batch = BatchBuilder::with_capacity(1_000, records * (PAYLOAD.len() + 16));
    for number in 0..records {
        let topic = format!("site/{}/device/temperature", number % 50);
        batch.push_message(&MessageRecord {
            topic: topic.as_bytes(),
            qos: 1,
            ts: 1_000,
            payload: &PAYLOAD,
            ..Default::default()
        });
    }
    batch.finish()
}
