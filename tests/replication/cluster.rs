//! Replicas with a simulated disk each, a network that loses nothing unless told to, and connections that remember what they heard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fluxmq::model::command::Will;
use fluxmq::model::record::{DedupKey, Tenure};
use fluxmq::model::{
    Message, Millis, PartitionId, Principal, Properties, QoS, Refusal, Token, Topic,
};
use fluxmq::partition::request::{ConnectionId, Event, Outbox, Publish, Request, Target};
use fluxmq::partition::{
    Fenced, Member, Opened, Options, Partition, PartitionError, ReceiveError, ReplicaId,
};
use fluxmq_log::disk::{Disk, DiskFile};
use fluxmq_log::format::frame::Frame;
use fluxmq_log::sim_disk::SimDisk;
use fluxmq_log::{Flush, LogOptions};

const PARTITION: PartitionId = PartitionId(1);
/// Small, so that a few publishes fill a segment.
const SEGMENT_BYTES: u64 = 64 << 10;
const HARD_STATE: &str = "p0001/hs.bin";

/// What one replica's partition says to connections.
#[derive(Default)]
pub struct Heard(pub Vec<(ConnectionId, Event)>);

impl Outbox for Heard {
    fn send(&mut self, to: ConnectionId, event: Event) {
        self.0.push((to, event));
    }
}

/// One replica: its disk outlives its process.
pub struct Replica {
    pub disk: SimDisk,
    pub partition: Option<Partition<SimDisk>>,
    /// In its place while its log is damaged.
    pub fenced: Option<Fenced<SimDisk>>,
    pub heard: Heard,
    /// A flush that is held back.
    pub held: Option<Flush<SimDisk>>,
    pub slow: bool,
}

/// The group.
pub struct Cluster {
    pub replicas: BTreeMap<ReplicaId, Replica>,
    pub voters: Vec<ReplicaId>,
    pub now: Millis,
    pub network: VecDeque<(ReplicaId, ReplicaId, Bytes)>,
    /// Links that lose everything, from one to another.
    pub cut: BTreeSet<(ReplicaId, ReplicaId)>,
    /// Messages that were refused.
    pub refused: Vec<String>,
    pub options: Options,
    /// Replicas whose disk was replaced, or that are new to the group.
    pub joining: BTreeSet<ReplicaId>,
    /// What replicas that start draw from.
    pub seed: u64,
    /// Says which messages are lost.
    pub is_lost: Option<fn(&Bytes) -> bool>,
    next_token: u64,
}

pub fn id(number: u64) -> ReplicaId {
    ReplicaId(number)
}

impl Cluster {
    /// Starts so many voters on empty disks.
    pub fn new(voters: u64) -> Cluster {
        Cluster::with(voters, Options::default())
    }

    /// Starts so many that behave as said.
    pub fn with(voters: u64, options: Options) -> Cluster {
        let mut cluster = Cluster {
            replicas: BTreeMap::new(),
            voters: (1..=voters).map(ReplicaId).collect(),
            now: Millis(1_000_000),
            network: VecDeque::new(),
            cut: BTreeSet::new(),
            refused: Vec::new(),
            options,
            joining: BTreeSet::new(),
            seed: 7,
            is_lost: None,
            next_token: 0,
        };
        for id in cluster.voters.clone() {
            cluster.add(id, SimDisk::new(id.0));
        }
        cluster
    }

    /// Adds a replica on a disk and starts it.
    pub fn add(&mut self, id: ReplicaId, disk: SimDisk) {
        let replica = Replica {
            disk,
            partition: None,
            fenced: None,
            heard: Heard::default(),
            held: None,
            slow: false,
        };
        self.replicas.insert(id, replica);
        self.start(id);
    }

    fn member(&self, id: ReplicaId) -> Member {
        let joins = self.joining.contains(&id);
        let (voters, seed) = (self.voters.clone(), self.seed);
        Member { id, voters, learners: Vec::new(), joins, seed }
    }

    /// Starts a replica on what its disk holds.
    pub fn start(&mut self, id: ReplicaId) {
        let (member, options, now) = (self.member(id), self.options.clone(), self.now);
        let replica = self.replicas.get_mut(&id).expect("known");
        let log_options = LogOptions {
            partition: u32::from(PARTITION.0),
            segment_bytes_min: SEGMENT_BYTES,
            segment_bytes_max: SEGMENT_BYTES,
            cache_bytes: 4 << 10,
            ..LogOptions::default()
        };
        let place = (replica.disk.clone(), PathBuf::from("p0001"), log_options);
        match Opened::open(PARTITION, place, options, &member, now).expect("opens").0 {
            Opened::Running(partition) => replica.partition = Some(*partition),
            Opened::Fenced(fenced) => replica.fenced = Some(*fenced),
        }
    }

    /// Does what a shard does when a partition fails: damage fences it, anything else is a failure of the test.
    fn failed(&mut self, id: ReplicaId, error: &PartitionError) {
        assert!(error.is_rot(), "replica {id} failed: {error}");
        self.fence(id);
    }

    /// Has a replica wait for repair.
    pub fn fence(&mut self, id: ReplicaId) {
        let (member, now) = (self.member(id), self.now);
        let replica = self.replicas.get_mut(&id).expect("known");
        replica.held = None;
        let partition = replica.partition.take().expect("it ran");
        let fenced = partition.fence(&member, now, &mut replica.heard).expect("fences");
        replica.fenced = Some(fenced);
    }

    /// Kills a replica's process; `power` also loses what was not synced.
    pub fn kill(&mut self, id: ReplicaId, power: Option<u64>) {
        let replica = self.replicas.get_mut(&id).expect("known");
        replica.partition = None;
        replica.fenced = None;
        replica.held = None;
        if let Some(seed) = power {
            replica.disk = replica.disk.crash(seed);
        }
        self.network.retain(|(from, to, _)| *from != id && *to != id);
    }

    /// Loses everything between one replica and all others, both ways.
    pub fn isolate(&mut self, id: ReplicaId) {
        for other in self.replicas.keys().filter(|other| **other != id) {
            self.cut.extend([(id, *other), (*other, id)]);
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn partition(&self, id: ReplicaId) -> &Partition<SimDisk> {
        self.replicas[&id].partition.as_ref().expect("runs")
    }

    pub fn partition_mut(&mut self, id: ReplicaId) -> &mut Partition<SimDisk> {
        self.replicas.get_mut(&id).expect("known").partition.as_mut().expect("runs")
    }

    /// Asks a replica something for connection 1.
    pub fn ask(&mut self, to: ReplicaId, request: Request) {
        self.ask_for(1, to, request);
    }

    /// Asks a replica something for a connection.
    pub fn ask_for(&mut self, connection: u64, to: ReplicaId, request: Request) {
        let now = self.now;
        let replica = self.replicas.get_mut(&to).expect("known");
        let from = ConnectionId(connection);
        match (&mut replica.partition, &mut replica.fenced) {
            (Some(partition), _) => partition.handle(from, request, now, &mut replica.heard),
            (None, Some(fenced)) => fenced.handle(from, &request, &mut replica.heard),
            (None, None) => panic!("replica {to} is down"),
        }
    }

    /// Opens a session with a will for a connection, and ends it without a goodbye.
    pub fn lose_mortal(&mut self, connection: u64, to: ReplicaId, (expiry_s, delay_s): (u32, u32)) {
        let message = Message {
            topic: Topic::new(Bytes::from_static(b"gone")).expect("a topic"),
            payload: Bytes::new(),
            qos: QoS::AtLeastOnce,
            retain: false,
            expiry_s: None,
            properties: Properties::default(),
            publisher: 0,
        };
        let open = Request::OpenSession {
            client_id: Bytes::from_static(b"mortal"),
            principal: Principal::ANONYMOUS,
            clean_start: true,
            expiry_s,
            will: Some(Box::new(Will { message, delay_s })),
        };
        self.ask_for(connection, to, open);
        self.settle();
        self.ask_for(connection, to, Request::Forget);
        self.settle();
    }

    /// How many wills a replica has told a connection of.
    pub fn wills_told(&self, from: ReplicaId, connection: u64) -> usize {
        let heard = self.replicas[&from].heard.0.iter();
        heard
            .filter(|(to, event)| {
                *to == ConnectionId(connection) && matches!(event, Event::WillDue { .. })
            })
            .count()
    }

    /// Lets one tick pass everywhere, and everything that follows from it.
    pub fn tick(&mut self) {
        self.now = self.now.plus(100);
        self.tick_all();
        self.settle();
    }

    /// Lets everybody know the time.
    pub fn tick_all(&mut self) {
        let now = self.now;
        for id in self.replicas.keys().copied().collect::<Vec<_>>() {
            let replica = self.replicas.get_mut(&id).expect("known");
            if let Some(partition) = &mut replica.partition
                && let Err(error) = partition.tick(now, &mut replica.heard)
            {
                self.failed(id, &error);
            } else if let Some(partition) = &mut replica.partition {
                if let Some(job) = partition.prepare_index() {
                    partition.finish_index(job.run());
                }
            } else if let Some(fenced) = &mut replica.fenced {
                fenced.tick().expect("ticks");
                if fenced.is_whole() {
                    let fenced = replica.fenced.take().expect("just seen");
                    replica.partition = Some(fenced.finish(now).expect("it is repaired").0);
                }
            }
        }
    }

    pub fn ticks(&mut self, count: usize) {
        (0..count).for_each(|_| self.tick());
    }

    /// Runs until nothing happens any more without time passing.
    pub fn settle(&mut self) {
        for _ in 0..20_000 {
            self.flush();
            let Some((from, to, message)) = self.network.pop_front() else { return };
            self.deliver(from, to, message);
        }
        panic!("they never stop talking");
    }

    /// Flushes what can be flushed, and collects messages.
    pub fn flush(&mut self) {
        for id in self.replicas.keys().copied().collect::<Vec<_>>() {
            if let Err(error) = self.flush_one(id) {
                self.failed(id, &error);
            }
            let replica = self.replicas.get_mut(&id).expect("known");
            let Some(fenced) = &mut replica.fenced else { continue };
            while let Some((to, message)) = fenced.poll_message() {
                self.network.push_back((id, to, message));
            }
        }
    }

    fn flush_one(&mut self, id: ReplicaId) -> Result<(), PartitionError> {
        let replica = self.replicas.get_mut(&id).expect("known");
        let Some(partition) = &mut replica.partition else { return Ok(()) };
        loop {
            partition.pump(&mut replica.heard)?;
            replica.held = match replica.held.take() {
                Some(flush) => Some(flush),
                None => partition.persist()?,
            };
            // A leader's messages do not wait for its own flush.
            while let Some((to, message)) = partition.poll_message() {
                self.network.push_back((id, to, message));
            }
            let Some(flush) = replica.held.take_if(|_| !replica.slow) else { return Ok(()) };
            partition.flushed(flush.run(), &mut replica.heard)?;
        }
    }

    pub fn deliver(&mut self, from: ReplicaId, to: ReplicaId, message: Bytes) {
        if self.cut.contains(&(from, to)) || self.is_lost.is_some_and(|is_lost| is_lost(&message)) {
            return;
        }
        let now = self.now;
        let Some(replica) = self.replicas.get_mut(&to) else { return };
        let received = match (&mut replica.partition, &mut replica.fenced) {
            (Some(partition), _) => partition.receive(from, message, now, &mut replica.heard),
            (None, Some(fenced)) => fenced.receive(from, message),
            (None, None) => return,
        };
        match received {
            Ok(()) => {}
            Err(ReceiveError::Refused(error)) => self.refused.push(error.to_string()),
            Err(ReceiveError::Failed(error)) => self.failed(to, &error),
        }
    }

    /// Where the segment headers and frames of a replica's log are in its files, as from and to, and their indexes; 0 for headers.
    pub fn places(&self, id: ReplicaId) -> Vec<(PathBuf, u64, u64, u64)> {
        let log = self.partition(id).log();
        let mut places = Vec::new();
        for info in log.segments() {
            places.push((info.path.clone(), 0, 4096, 0));
            let mut at = 4096;
            let frames = log.entries(info.base_index, info.last_index + 1, u64::MAX);
            for frame in frames.expect("reads") {
                let to = at + frame.header.frame_bytes();
                places.push((info.path.clone(), at, to, frame.header.index));
                at = to;
            }
        }
        places
    }

    /// Turns one bit of the body of each of these entries on a replica's disk.
    pub fn rot(&self, id: ReplicaId, indexes: &[u64]) {
        for (path, from, _, index) in self.places(id) {
            if index > 0 && indexes.contains(&index) {
                self.replicas[&id].disk.flip_bit(&path, (from + 96 + 3) * 8).expect("flips");
            }
        }
    }

    /// Returns the file with a replica's term, vote and position of commitment.
    pub fn hard_state(&self, id: ReplicaId) -> Vec<u8> {
        let file = self.replicas[&id].disk.open_read(Path::new(HARD_STATE)).expect("opens");
        let mut bytes =
            vec![0; usize::try_from(file.len().expect("has a length")).expect("is short")];
        file.read_exact_at(&mut bytes, 0).expect("reads");
        bytes
    }

    /// Puts back what the file held earlier.
    pub fn put_hard_state(&self, id: ReplicaId, bytes: &[u8]) {
        let file = self.replicas[&id].disk.open(Path::new(HARD_STATE)).expect("opens");
        file.write_all_at(bytes, 0).expect("writes");
        file.sync_data().expect("syncs");
    }

    /// Returns who serves; panics when two do in one term.
    pub fn leader(&self) -> Option<ReplicaId> {
        let mut leaders = BTreeMap::new();
        for (id, replica) in &self.replicas {
            let status = replica.partition.as_ref().map(Partition::status);
            if let Some(status) = status.filter(|status| status.serves) {
                assert_eq!(leaders.insert(status.term, *id), None, "one leader in a term");
            }
        }
        leaders.into_values().next_back()
    }

    /// Lets time pass until somebody serves.
    pub fn elect(&mut self) -> ReplicaId {
        for _ in 0..100 {
            if let Some(leader) = self.leader() {
                return leader;
            }
            self.tick();
        }
        panic!("nobody leads after ten seconds");
    }

    /// Asks a replica to store a message; returns the token of the answer.
    pub fn say(&mut self, to: ReplicaId, payload: impl Into<Vec<u8>>) -> Token {
        self.say_on(to, "a/b", false, payload)
    }

    /// Asks a replica to store a message on a topic.
    pub fn say_on(
        &mut self,
        to: ReplicaId,
        topic: &str,
        retain: bool,
        payload: impl Into<Vec<u8>>,
    ) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        let message = Message {
            topic: Topic::new(Bytes::from(topic.to_owned())).expect("a topic"),
            payload: Bytes::from(payload.into()),
            qos: QoS::AtLeastOnce,
            retain,
            expiry_s: None,
            properties: Properties::default(),
            publisher: 0,
        };
        let publish = Publish {
            is_kept: false,
            token: Some(token),
            message: std::sync::Arc::new(message),
            dedup: DedupKey::default(),
            tenure: Tenure::default(),
            target: Target::Topic,
            input: None,
        };
        let now = self.now;
        let replica = self.replicas.get_mut(&to).expect("known");
        let partition = replica.partition.as_mut().expect("runs");
        partition.handle(ConnectionId(1), Request::Publish(publish), now, &mut replica.heard);
        token
    }

    /// Stores messages through a leader, and asserts that each is confirmed.
    pub fn publish(&mut self, to: ReplicaId, count: usize, bytes: usize) {
        for number in 0..count {
            let mut payload = format!("{}-{number}-", to.0).into_bytes();
            payload.resize(payload.len().max(bytes), b'x');
            let token = self.say(to, payload);
            self.settle();
            assert_eq!(self.answer(to, token), Some(Ok(true)));
        }
    }

    /// Returns what a publish was answered, if it was.
    pub fn answer(&self, from: ReplicaId, token: Token) -> Option<Result<bool, Refusal>> {
        self.replicas[&from].heard.0.iter().find_map(|(_, event)| match event {
            Event::Confirm { token: found, result } if *found == token => Some(result.clone()),
            _ => None,
        })
    }

    /// The frames of a replica's log without what is its own.
    pub fn frames(&self, id: ReplicaId) -> Vec<Frame> {
        let log = self.partition(id).log();
        let frames = log.entries(log.first_index(), log.last_index() + 1, u64::MAX);
        let mut frames = frames.expect("reads");
        frames.iter_mut().for_each(|frame| frame.header.synced_bytes = 0);
        frames
    }

    /// Asserts that all running replicas have the same log, byte for byte, and the same views.
    pub fn assert_identical(&self) {
        let running: Vec<_> =
            self.replicas.keys().filter(|id| self.replicas[id].partition.is_some()).collect();
        let first = *running[0];
        let segments = |id| {
            let segments = self.partition(id).log().segments();
            segments
                .iter()
                .map(|segment| (segment.segment_no, segment.base_index, segment.end_bytes))
                .collect::<Vec<_>>()
        };
        for other in running {
            assert_eq!(self.frames(*other), self.frames(first), "{other} and {first}");
            assert_eq!(segments(*other), segments(first), "{other} and {first}");
            let views = |id| self.partition(id).views().snapshot();
            assert_eq!(views(*other), views(first), "{other} and {first}");
        }
    }
}
