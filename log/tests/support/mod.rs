//! What the tests of the engine share: small entries, small segments, seeded choices.

#![allow(dead_code)] // Each test binary uses its part.
#![allow(clippy::unwrap_used)] // All of it is test code.

pub mod history;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fluxmq_log::format::{BatchBuilder, FLAG_ROLL, Frame, FrameKind, MessageRecord};
use fluxmq_log::sim_disk::SimDisk;
use fluxmq_log::{Entry, Log, LogOptions, OpenError, Recovery, TailDamage};

pub const DIR: &str = "p0001";

pub fn options() -> LogOptions {
    LogOptions {
        cluster: *b"the test cluster",
        partition: 1,
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 128 << 10,
        cache_bytes: 8 << 10,
        tail_damage: TailDamage::Refuse,
    }
}

pub fn try_open(disk: &SimDisk) -> Result<(Log<SimDisk>, Recovery), OpenError> {
    Log::open(disk.clone(), PathBuf::from(DIR), options())
}

pub fn open(disk: &SimDisk) -> Log<SimDisk> {
    try_open(disk).unwrap_or_else(|error| panic!("{error}")).0
}

/// Opens a log and makes sure nothing had to be done.
pub fn open_clean(disk: &SimDisk) -> Log<SimDisk> {
    let (log, recovery) = try_open(disk).unwrap_or_else(|error| panic!("{error}"));
    let Recovery { frames_scanned, bytes_scanned, .. } = recovery;
    assert_eq!(recovery, Recovery { frames_scanned, bytes_scanned, ..Recovery::default() });
    log
}

/// The next entry of a log: two records that say their index.
pub fn entry(log: &Log<SimDisk>, term: u64, payload_bytes: usize) -> Entry {
    let index = log.last_index() + 1;
    let ts = 1_000 + index * 10;
    let mut batch = BatchBuilder::new(ts);
    let payload = vec![index as u8; payload_bytes];
    batch.push_message(&MessageRecord {
        topic: b"t/1",
        payload: &payload,
        ts,
        ..Default::default()
    });
    batch.push_control(7, format!("index {index} term {term}").as_bytes(), ts + 5);
    Entry::from_batch(index, term, 0, batch.finish())
}

pub fn append(log: &mut Log<SimDisk>, count: usize) {
    for _ in 0..count {
        let entry = entry(log, log.term(log.last_index()).unwrap().max(1), 100);
        log.append(entry).unwrap();
    }
}

pub fn append_and_flush(log: &mut Log<SimDisk>, count: usize) {
    append(log, count);
    log.flush().unwrap();
}

pub fn seal(log: &mut Log<SimDisk>) {
    let body = log.seal_body();
    let (index, term) = (log.last_index() + 1, log.term(log.last_index()).unwrap());
    log.append(Entry::without_records(index, term, FrameKind::Seal, 0, body)).unwrap();
}

pub fn roll(log: &mut Log<SimDisk>) {
    let mut entry = entry(log, log.term(log.last_index()).unwrap().max(1), 50);
    entry.flags |= FLAG_ROLL;
    log.append(entry).unwrap();
}

/// All frames, read in pieces.
pub fn frames(log: &Log<SimDisk>) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut next = log.first_index();
    while next <= log.last_index() {
        let piece = log.entries(next, log.last_index() + 1, 4096).unwrap();
        next += piece.len() as u64;
        frames.extend(piece);
    }
    frames
}

/// What must be equal on all replicas and after every restart.
pub fn canonical(frames: &[Frame]) -> Vec<Frame> {
    let clear = |frame: &Frame| {
        let mut frame = frame.clone();
        frame.header.synced_bytes = 0;
        frame
    };
    frames.iter().map(clear).collect()
}

pub fn chunk(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn segment_file(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("log/{number:020}.seg"))
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
