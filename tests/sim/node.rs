//! One node: a disk, clocks, and the partitions it has. What the shard's thread does in a loop is done here when something happened.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fluxmq::model::queue::Binding;
use fluxmq::model::{Millis, PartitionId};
use fluxmq::partition::request::{ConnectionId, Event, Outbox};
use fluxmq::partition::{Fenced, Member, Opened, Options, Partition, PartitionError, ReplicaId};
use fluxmq_log::sim_disk::SimDisk;
use fluxmq_log::{Flush, LogOptions, Recovery};

use crate::disks::Hold;

/// Simulated time begins here on every wall clock.
pub const EPOCH_MS: u64 = 1_700_000_000_000;

/// Whether a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Down,
    Up,
    /// Stopped in the middle, as by SIGSTOP; everything for it waits.
    Paused,
}

/// A node.
pub struct Node {
    pub disk: SimDisk,
    pub state: State,
    /// Counts processes: what was meant for an earlier one is void.
    pub life: u32,
    pub owned: BTreeMap<PartitionId, Owned>,
    /// Those that wait for repair.
    pub fenced: BTreeMap<PartitionId, Fenced<SimDisk>>,
    /// What came for it while it was stopped.
    pub waiting: Vec<crate::world::Event>,
    /// Milliseconds that its wall clock is ahead of simulated time.
    pub wall_ahead_ms: i64,
    /// When the process started: connections' timers count from here.
    pub started: u64,
    /// Not there when the groups began, or not with this disk.
    pub is_new: bool,
    /// Why it stays down.
    pub hold: Hold,
}

/// A partition and the flush that is under way.
pub struct Owned {
    pub partition: Partition<SimDisk>,
    pub flush: Option<Flush<SimDisk>>,
    /// Why it stopped.
    pub failed: Option<String>,
    /// The term it served connections in when it was last looked at.
    pub served: Option<u64>,
    /// The first entry of its log then.
    pub first_index: u64,
}

impl Owned {
    /// A replica that was just opened.
    pub fn new(partition: Partition<SimDisk>) -> Owned {
        let first_index = partition.log().first_index();
        Owned { partition, flush: None, failed: None, served: None, first_index }
    }
}

/// What a turn of a node had to say to connections.
#[derive(Default)]
pub struct Post {
    pub from: PartitionId,
    pub sent: Vec<(ConnectionId, PartitionId, Event)>,
    /// What queues of partitions are bound to, or not any more.
    pub bound: Vec<(PartitionId, Binding, bool)>,
}

impl Outbox for Post {
    fn send(&mut self, to: ConnectionId, event: Event) {
        self.sent.push((to, self.from, event));
    }

    fn bound(&mut self, binding: &Binding, is_bound: bool) {
        self.bound.push((self.from, binding.clone(), is_bound));
    }
}

impl Node {
    pub fn new(seed: u64) -> Node {
        Node {
            disk: SimDisk::new(seed),
            state: State::Down,
            life: 0,
            owned: BTreeMap::new(),
            fenced: BTreeMap::new(),
            waiting: Vec::new(),
            wall_ahead_ms: 0,
            started: 0,
            is_new: false,
            hold: Hold::No,
        }
    }

    pub fn is_up(&self) -> bool {
        self.state != State::Down
    }

    /// The wall clock.
    pub fn wall(&self, now: u64) -> Millis {
        Millis((EPOCH_MS as i64 + (now / 1000) as i64 + self.wall_ahead_ms) as u64)
    }

    /// The clock of its connections' timers.
    pub fn uptime(&self, now: u64) -> Millis {
        Millis((now - self.started) / 1000)
    }

    /// Takes a step with one partition, unless it has stopped; an error stops it. Returns what it said.
    pub fn step(
        &mut self,
        partition: PartitionId,
        post: &mut Post,
        step: impl FnOnce(&mut Partition<SimDisk>, &mut Post) -> Result<(), PartitionError>,
    ) -> Option<(String, bool)> {
        let owned = self.owned.get_mut(&partition)?;
        post.from = partition;
        if owned.failed.is_some() {
            return None;
        }
        let error = step(&mut owned.partition, post).err()?;
        let (words, is_rot) = (error.to_string(), error.is_rot());
        owned.failed = Some(words.clone());
        if !is_rot {
            owned.partition.stop(post);
        }
        Some((words, is_rot))
    }
}

/// Where a partition's log is on its node's disk.
pub fn dir(partition: PartitionId) -> PathBuf {
    PathBuf::from(format!("p{:04}", partition.0))
}

/// Small segments and a small cache, so that a minute sees many of them.
pub fn log_options(partition: PartitionId) -> LogOptions {
    LogOptions {
        cluster: *b"a simulated one!",
        partition: u32::from(partition.0),
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 128 << 10,
        cache_bytes: 24 << 10,
        ..LogOptions::default()
    }
}

/// The replica of a partition that a node has, of a group that the first nodes began.
pub fn member(node: usize, nodes: usize, joins: bool, seed: u64) -> Member {
    let voters = (0..nodes).map(replica).collect();
    Member { id: replica(node), voters, learners: Vec::new(), joins, seed }
}

/// The replica that a node has of every partition.
pub fn replica(node: usize) -> ReplicaId {
    ReplicaId(node as u64 + 1)
}

/// The node that has a replica.
pub fn node_of(replica: ReplicaId) -> usize {
    replica.0 as usize - 1
}

/// Opens a partition on what its disk holds; says whether that includes a snapshot.
pub fn open(
    disk: &SimDisk,
    id: PartitionId,
    options: &Options,
    member: &Member,
    now: Millis,
) -> Result<(Opened<SimDisk>, Recovery, bool), String> {
    let place = (disk.clone(), dir(id), log_options(id));
    let (opened, recovery) =
        Opened::open(id, place, options.clone(), member, now).map_err(|error| error.to_string())?;
    let has_snapshot = match &opened {
        Opened::Running(partition) => !partition.log().snapshots().is_empty(),
        Opened::Fenced(_) => false,
    };
    Ok((opened, recovery, has_snapshot))
}
