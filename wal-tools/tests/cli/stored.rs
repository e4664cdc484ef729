//! A data directory that the log engine wrote, with records that the views know, and the state after every one of them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fluxmq::model::frame::{Decoded, decode};
use fluxmq::model::record::{Control, Subscription, queue_id};
use fluxmq::model::{
    Filter, Input, Millis, PartitionId, Principal, QoS, QueueSettings, ReaderId, RetainHandling,
};
use fluxmq::view::{Views, digest};
use fluxmq_log::format::{Batch, BatchBuilder, FrameKind, MessageRecord, Retain};
use fluxmq_log::os_disk::OsDisk;
use fluxmq_log::{Entry, HardState, Log, LogOptions, Offset, SnapshotAt};

/// Log time of the first entry.
pub const START_MS: u64 = 1_700_000_000_000;
/// Entries of a directory.
pub const ENTRIES: u64 = 120;
/// Segments end, and snapshots are taken, after every so many.
const SEGMENT_ENTRIES: u64 = 25;
/// What a queue's messages say, bytes that no text has included.
pub const BINARY: &[u8] = b"\x00\xff\n\r payload \x1b[2J";

/// The directory.
pub struct Stored {
    pub dir: tempfile::TempDir,
    /// After each record: the offset behind it, its log time, and the state.
    pub states: Vec<(u64, u64, String)>,
}

impl Stored {
    /// Writes a partition: sealed segments with indexes and snapshots, an active one, a hard state.
    pub fn new() -> Stored {
        Stored::with(|_, sections| sections)
    }

    /// Writes one whose snapshots hold something else than they should.
    pub fn with(spoil: impl Fn(u64, Vec<Bytes>) -> Vec<Bytes>) -> Stored {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        let mut stored = Stored { dir, states: Vec::new() };
        let mut views = Views::default();
        for number in 0..ENTRIES {
            let index = log.last_index() + 1;
            let entry = Entry::from_batch(index, 2, index - 1, batch(number));
            log.append(entry).unwrap();
            log.flush().unwrap();
            stored.fold(&log, index, &mut views);
            if number % SEGMENT_ENTRIES == SEGMENT_ENTRIES - 1 {
                seal(&mut log);
                let index = log.last_index();
                let mut sections = spoil(index, views.snapshot());
                sections.push(Bytes::from_static(b"members"));
                let at = SnapshotAt { index, term: 2, end: log.last().end };
                log.save_snapshot(at, &sections).unwrap();
            }
        }
        let commit = log.last_index();
        log.save_hard_state(HardState { term: 2, vote: 1, commit }).unwrap();
        log.note_idle().unwrap();
        while let Some(job) = log.prepare_index(commit) {
            log.finish_index(job.run()).unwrap();
        }
        stored
    }

    fn fold(&mut self, log: &Log<OsDisk>, index: u64, views: &mut Views) {
        for frame in log.entries(index, index + 1, 1 << 20).unwrap() {
            for record in decode(&frame).unwrap() {
                let (offset, time, record): (Offset, Millis, Decoded) = record.unwrap();
                views.apply(offset, time, record.as_record());
                let state = format!("{:032x}", digest(&views.snapshot()));
                self.states.push((offset.0 + 1, time.0, state));
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn partition(&self) -> PathBuf {
        self.path().join("p0001")
    }

    pub fn segment(&self, number: u64) -> PathBuf {
        self.partition().join(format!("log/{number:020}.seg"))
    }

    /// The snapshots there are, oldest first.
    pub fn snapshots(&self) -> Vec<PathBuf> {
        let names = std::fs::read_dir(self.partition().join("snap")).unwrap();
        let mut paths: Vec<PathBuf> = names.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    /// Flips one bit of a file.
    pub fn flip(path: &Path, at: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 0x10;
        std::fs::write(path, bytes).unwrap();
    }

    /// Copies the directory, as another replica's.
    pub fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(self.path(), copy.path());
        copy
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Opens its log.
pub fn open(data: &Path) -> Log<OsDisk> {
    let disk = OsDisk::new(data.to_owned()).unwrap();
    let options = LogOptions {
        cluster: *b"the test cluster",
        partition: 1,
        segment_bytes_min: 128 << 10,
        segment_bytes_max: 128 << 10,
        cache_bytes: 8 << 10,
        ..LogOptions::default()
    };
    Log::open(disk, PathBuf::from("p0001"), options).unwrap().0
}

/// Goes on writing: so many segments more, with a snapshot after each, and what is older removed.
pub fn go_on(data: &Path, segments: u64) {
    let mut log = open(data);
    let (at, mut sections) = log.newest_snapshot().unwrap().unwrap();
    sections.pop();
    let mut views = Views::restore(&sections).unwrap();
    let mut stored = Stored { dir: tempfile::tempdir().unwrap(), states: Vec::new() };
    for index in at.index + 1..=log.last_index() {
        stored.fold(&log, index, &mut views);
    }
    for number in ENTRIES..ENTRIES + 5 * segments {
        let index = log.last_index() + 1;
        log.append(Entry::from_batch(index, 2, index - 1, batch(number))).unwrap();
        log.flush().unwrap();
        stored.fold(&log, index, &mut views);
        if number % 5 == 4 {
            seal(&mut log);
            let at = SnapshotAt { index: log.last_index(), term: 2, end: log.last().end };
            let mut sections = views.snapshot();
            sections.push(Bytes::from_static(b"members"));
            log.save_snapshot(at, &sections).unwrap();
            log.trim_to_snapshot(u64::MAX).unwrap();
        }
    }
}

pub fn seal(log: &mut Log<OsDisk>) {
    let (index, body) = (log.last_index() + 1, log.seal_body());
    log.append(Entry::without_records(index, 2, FrameKind::Seal, index - 1, body)).unwrap();
    log.flush().unwrap();
}

/// Three or four records, a second after the entry before.
fn batch(number: u64) -> Batch {
    let ts = START_MS + number * 1000;
    let mut batch = BatchBuilder::new(ts);
    let orders = queue_id(b"orders");
    batch.define_route(1, &[orders]);
    for control in controls(number, orders) {
        let mut body = Vec::new();
        control.encode(&mut body);
        batch.push_control(control.opcode(), &body, ts);
    }
    let topic = format!("site/{}/temp", number % 7);
    let retain = match number % 5 {
        0 => Retain::Set,
        3 => Retain::Clear,
        _ => Retain::No,
    };
    let payload = format!("reading {number} {}", "x".repeat(400));
    let payload = if retain == Retain::Clear { "" } else { &payload };
    batch.push_message(&MessageRecord {
        topic: topic.as_bytes(),
        payload: payload.as_bytes(),
        qos: 1,
        retain,
        ts,
        ..Default::default()
    });
    batch.push_message(&MessageRecord {
        topic: b"$queue/orders/new",
        route_set: 1,
        payload: BINARY,
        qos: 1,
        ts: ts + 1,
        ..Default::default()
    });
    batch.finish()
}

/// What happens beside messages: a queue and a group at first, a session that comes and goes, entries that are finished or come back.
fn controls(number: u64, orders: u64) -> Vec<Control> {
    let (client_id, group) = (Bytes::from_static(b"dash"), Bytes::from_static(b"workers"));
    match number {
        0 => vec![
            Control::QueueDeclared {
                name: Bytes::from_static(b"orders"),
                settings: QueueSettings::default().into(),
            },
            Control::GroupCreated { queue: orders, group, start: Offset(0) },
        ],
        10 => vec![
            Control::SessionOpened {
                client_id: client_id.clone(),
                clean: true,
                expiry_s: 3600,
                principal: Principal::from_stored(Bytes::from_static(b"alice")),
            },
            Control::Subscribed { client_id, subscription: subscription(), starts: starts() },
        ],
        102 => {
            vec![Control::QueueFollowed { queue: orders, source: PartitionId(2), next: Offset(77) }]
        }
        105 => vec![
            Control::InputNoted { input: Input::Id(7), until: Millis(u64::MAX) },
            Control::InputNoted {
                input: Input::Sequence { producer: 5, epoch: 1, seq: 3 },
                until: Millis(u64::MAX),
            },
        ],
        // Entry 1 of the queue is not finished, and is found from entry 0: history begins there, whatever this says.
        108 => vec![Control::HistoryTrimmed { to: Offset(40) }],
        100 => vec![Control::SessionClosed { client_id, epoch: epoch(), expiry_s: 3600 }],
        number if number % 3 == 1 => vec![Control::Settled {
            selection: orders,
            group,
            finished: vec![(Offset(number / 2), 1)],
            released: vec![Offset(number - 1)],
        }],
        _ => Vec::new(),
    }
}

/// Where the session is opened: behind ten entries of two messages each, two controls of the first, and one of entries 1, 4 and 7.
pub fn epoch() -> Offset {
    Offset(10 * 2 + 2 + 3)
}

fn starts() -> Vec<(PartitionId, Offset)> {
    vec![(PartitionId(1), Offset(27))]
}

fn subscription() -> Subscription {
    Subscription {
        filter: Filter::from_stored(Bytes::from_static(b"site/+/temp")),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
        subscription_id: 7,
        group: None,
        settle_explicit: false,
        reader: ReaderId::SESSION,
    }
}
