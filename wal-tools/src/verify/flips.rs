//! Every bit of a small data directory flips, one at a time, and each flip is found.
//!
//! The other half of `log/tests/bit_flips.rs`: there the broker notices, here the tool, with code of its own, and also where the
//! broker never looks. `FLUXMQ_FLIP_STRIDE` (default large, 1 for every bit) sets the effort.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fluxmq_log::data_dir::{DataDir, NodeIdentity};
use fluxmq_log::format::{BatchBuilder, FrameKind, MessageRecord};
use fluxmq_log::os_disk::OsDisk;
use fluxmq_log::{Entry, HardState, Log, LogOptions, SnapshotAt};

use super::verify;
use crate::side::SideFiles;
use crate::source;

const CLUSTER: [u8; 16] = *b"the test cluster";

/// A data directory of one partition: a sealed segment with room behind the seal and its index, an active one, a spare, two snapshots, a hard
/// state, and nothing that is not proven.
fn data() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let disk = OsDisk::new(data.path().to_owned()).unwrap();
    let identity = NodeIdentity { cluster: CLUSTER, node: 1 };
    drop(DataDir::open(disk.clone(), identity).unwrap());
    let options = LogOptions {
        cluster: CLUSTER,
        partition: 1,
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 64 << 10,
        ..LogOptions::default()
    };
    let (mut log, _) = Log::open(disk, PathBuf::from("p0001"), options).unwrap();
    append(&mut log, 10);
    snapshot(&mut log);
    let seal = log.seal_body();
    let index = log.last_index() + 1;
    log.append(Entry::without_records(index, 1, FrameKind::Seal, 0, seal)).unwrap();
    append(&mut log, 5);
    snapshot(&mut log);
    append(&mut log, 5);
    let state = HardState { term: 1, vote: 1, commit: log.last_index() };
    log.save_hard_state(state).unwrap();
    log.note_idle().unwrap();
    let spare = log.prepare_spare().unwrap().run();
    log.finish_spare(spare).unwrap();
    let index = log.prepare_index(log.last_index()).unwrap().run();
    log.finish_index(index).unwrap();
    data
}

fn append(log: &mut Log<OsDisk>, count: u64) {
    for _ in 0..count {
        let index = log.last_index() + 1;
        let mut batch = BatchBuilder::new(index);
        let (topic, payload) = (b"a/b".as_slice(), vec![index as u8; 41]);
        batch.push_message(&MessageRecord {
            topic,
            payload: &payload,
            ts: index,
            ..Default::default()
        });
        log.append(Entry::from_batch(index, 1, 0, batch.finish())).unwrap();
    }
    log.flush().unwrap();
}

fn snapshot(log: &mut Log<OsDisk>) {
    let last = log.last();
    let at = SnapshotAt { index: last.index, term: 1, end: last.end };
    log.save_snapshot(at, &[vec![1; 300].into()]).unwrap();
}

/// How many things are wrong, as the tool would say.
fn findings(data: &Path) -> usize {
    let partition = &source::partitions(data).unwrap()[0];
    SideFiles::read_node_id(data).unwrap().findings.len()
        + verify(partition).unwrap().findings.len()
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, out) } else { out.push(path) }
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let stride = std::env::var("FLUXMQ_FLIP_STRIDE");
    let stride: usize = stride.map_or(9_973, |value| value.parse().expect("a number"));
    let data = data();
    assert_eq!(findings(data.path()), 0);
    let mut paths = Vec::new();
    files(data.path(), &mut paths);
    let (mut flips, mut kinds) = (0, Vec::new());
    for path in &paths {
        let bytes = fs::read(path).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        // An index is short beside its segment.
        let is_index = path.extension().is_some_and(|end| end == "six");
        let stride = if is_index { stride.min(131) } else { stride };
        for bit in (0..bytes.len() * 8).step_by(stride) {
            let (at, byte) = (bit / 8, bytes[bit / 8]);
            file.write_all_at(&[byte ^ (1 << (bit % 8))], at as u64).unwrap();
            assert_ne!(findings(data.path()), 0, "bit {bit} of {}", path.display());
            file.write_all_at(&[byte], at as u64).unwrap();
            flips += 1;
        }
        kinds.extend(path.extension().filter(|_| !bytes.is_empty()));
    }
    assert_eq!(findings(data.path()), 0);
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds, ["1", "bin", "id", "seg", "six", "snap", "zero"], "beside CURRENT");
    assert!(flips > 100);
}
