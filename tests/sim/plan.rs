//! What one seed is about: how many nodes, partitions and clients, what goes wrong, and how hard.

use bytes::Bytes;
use fluxmq::model::queue::{DeadLetterTarget, DeadLetters, Overflow, QueueKind, QueueLimits};
use fluxmq::model::{QueueName, QueueSettings};

use crate::kinds;
use crate::random::Random;

/// Simulated microseconds.
pub const SECOND: u64 = 1_000_000;
/// How long clients work and things go wrong.
pub const WORK: u64 = 60 * SECOND;
/// How long everything may take to come to rest afterwards.
pub const REST: u64 = 30 * SECOND;

/// A kind of fault, in the order of [`Fault::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL, and a start later.
    Kill,
    /// Power loss of one node.
    PowerLoss,
    /// Power loss of all nodes at once.
    Blackout,
    /// SIGSTOP for a while.
    Pause,
    /// Two sides that do not reach each other.
    Split,
    /// One node that is not heard, or does not hear.
    OneWay,
    /// Single links cut.
    Mesh,
    /// Messages lost, late, twice, out of order.
    Weather,
    /// Flushes that take up to a second.
    SlowDisk,
    /// A failed sync.
    SyncError,
    /// A failed write or rename.
    WriteError,
    /// A full disk.
    NoSpace,
    /// The watermark says full: publishes are refused.
    Watermark,
    /// The wall clock jumps.
    ClockJump,
    /// Clients' connections break.
    Cut,
    /// Clients connect a second time.
    TakeOver,
    /// Clients say goodbye and come back.
    Leave,
    /// Snapshots at odd times.
    Snapshot,
    /// Idle spells: nobody publishes.
    Lull,
    /// Logs are trimmed.
    Trim,
    /// Nodes stay away for long.
    Away,
    /// Chunks of snapshots are lost and damaged, and those who send or fetch them die.
    Chunks,
    /// Members come and go.
    Members,
    /// Leadership is handed over.
    Transfer,
    /// A whole disk is lost.
    DiskLost,
    /// An old image of a disk is put back.
    OldImage,
    /// Disks rot. Not one of `ALL`: it is drawn by itself, so that the plans of known seeds stay what they are.
    Rot,
    /// Processes stop before they read what clients publish, who go on elsewhere. Drawn by itself, too.
    Overtaken,
}

impl Fault {
    pub const ALL: [Fault; 19] = [
        Fault::Kill,
        Fault::PowerLoss,
        Fault::Blackout,
        Fault::Pause,
        Fault::Split,
        Fault::OneWay,
        Fault::Mesh,
        Fault::Weather,
        Fault::SlowDisk,
        Fault::SyncError,
        Fault::WriteError,
        Fault::NoSpace,
        Fault::Watermark,
        Fault::ClockJump,
        Fault::Cut,
        Fault::TakeOver,
        Fault::Leave,
        Fault::Snapshot,
        Fault::Lull,
    ];

    /// Those of groups: chosen apart from the others, so that these stay what they were.
    const OF_GROUPS: [Fault; 7] = [
        Fault::Trim,
        Fault::Away,
        Fault::Chunks,
        Fault::Members,
        Fault::Transfer,
        Fault::DiskLost,
        Fault::OldImage,
    ];

    /// Returns true for what clients do, and what is done to them.
    pub fn is_of_clients(self) -> bool {
        matches!(self, Fault::Cut | Fault::TakeOver | Fault::Leave | Fault::Lull)
    }

    /// Returns true for faults that need somebody to talk to.
    fn is_between_nodes(self) -> bool {
        matches!(self, Fault::Split | Fault::OneWay | Fault::Mesh | Fault::Weather)
    }
}

/// A queue that somebody declares.
#[derive(Clone, Debug)]
pub struct Declared {
    pub name: String,
    pub settings: QueueSettings,
    /// When.
    pub at: u64,
}

/// Where dead letters go that do not stay with their queue.
const DEAD: &str = "dead";

/// The plan of one seed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    pub partitions: u16,
    pub publishers: usize,
    pub subscribers: usize,
    pub consumers: usize,
    /// What may go wrong, each with the mean of microseconds between two of it.
    pub faults: Vec<(Fault, u64)>,
    /// Mean of microseconds between two acts of a client.
    pub act_every: u64,
    /// Bytes of filling in a message, at most.
    pub filling_max: u64,
    /// Deliveries a reader or member may have out.
    pub credit: u32,
    pub snapshot_every_bytes: u64,
    pub visibility_timeout_ms: u64,
    pub topics: usize,
    pub queues: usize,
    /// Nodes that are in no group when it begins.
    pub spares: usize,
    /// Bytes of a snapshot in one message.
    pub chunk_bytes: usize,
    /// Queues with rules; none in most seeds.
    pub declared: Vec<Declared>,
    /// Clients that read those and settle by verbs.
    pub workers: usize,
    /// Clients that read streams.
    pub readers: usize,
    /// Clients that read queues which begin at the earliest.
    pub latecomers: usize,
    /// Clients that replay.
    pub replayers: usize,
    /// Publishers and subscribers leave wills.
    pub has_wills: bool,
    /// How old history gets, in milliseconds, and how many bytes it has; 0 is no limit.
    pub history_age_ms: u64,
    pub history_bytes: u64,
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let mut random = Random::new(seed ^ 0x5eed);
        let nodes = *random.pick(&[1, 3, 3, 3, 3, 5]);
        let share = random.between(150, 600);
        let faults = Fault::ALL.into_iter().filter(|fault| nodes > 1 || !fault.is_between_nodes());
        let faults: Vec<Fault> = faults.filter(|_| random.chance(share)).collect();
        let mean = |random: &mut Random| random.between(2 * SECOND, 20 * SECOND);
        let mut rot = Random::new(seed ^ 0x0b17);
        let rots = (nodes > 1 && rot.chance(200)).then(|| (Fault::Rot, mean(&mut rot)));
        let plan = Plan {
            seed,
            nodes,
            partitions: if nodes > 3 { 1 } else { *random.pick(&[1, 1, 2, 3]) },
            publishers: random.between(1, 3) as usize,
            subscribers: random.between(1, 2) as usize,
            consumers: random.between(0, 2) as usize,
            faults: faults
                .into_iter()
                .map(|fault| (fault, mean(&mut random)))
                .chain(rots)
                .collect(),
            act_every: random.between(100, 600) * 1000,
            filling_max: *random.pick(&[0, 64, 400, 2_000, 6_000]),
            credit: random.between(4, 24) as u32,
            snapshot_every_bytes: random.between(8, 128) << 10,
            visibility_timeout_ms: *random.pick(&[2_000, 30_000]),
            topics: random.between(1, 4) as usize,
            queues: random.between(1, 2) as usize,
            spares: 0,
            chunk_bytes: 256 << 10,
            declared: Vec::new(),
            workers: 0,
            readers: 0,
            latecomers: 0,
            replayers: 0,
            has_wills: Random::new(seed ^ 0x0_dead).chance(300),
            history_age_ms: 0,
            history_bytes: 0,
        };
        let plan =
            plan.with_groups().with_queues().with_replays().with_overtaking().with_retention();
        if kinds::is_from_before(seed) {
            plan
        } else {
            plan.with_streams().with_bounds().with_followers()
        }
    }

    /// Adds what happens to groups, in half of the seeds.
    fn with_groups(mut self) -> Plan {
        let mut random = Random::new(self.seed ^ 0x6709);
        if self.nodes == 1 || random.chance(500) {
            return self;
        }
        // A disk that is lost while others rot may leave a frame to nobody: rot has the seeds without groups that change.
        self.faults.retain(|(fault, _)| *fault != Fault::Rot);
        let share = random.between(200, 700);
        let mut chosen: Vec<Fault> =
            Fault::OF_GROUPS.into_iter().filter(|_| random.chance(share)).collect();
        if chosen.contains(&Fault::Trim) || chosen.contains(&Fault::Chunks) {
            self.trims(&mut random, &mut chosen);
        }
        if chosen.contains(&Fault::Members) && self.nodes == 3 {
            self.spares = random.between(1, 2) as usize;
        }
        self.chunk_bytes = random.between(16, 1_024) as usize;
        for fault in chosen {
            let mean = random.between(2 * SECOND, 10 * SECOND);
            self.faults.push((fault, mean));
        }
        self
    }

    /// Adds clients that overtake themselves, in some of the seeds where a session's home and what is published to it may have leaders
    /// of their own.
    fn with_overtaking(mut self) -> Plan {
        let mut random = Random::new(self.seed ^ 0x1a7e);
        if self.nodes > 1 && self.partitions > 1 && random.chance(500) {
            self.faults.push((Fault::Overtaken, random.between(3 * SECOND, 8 * SECOND)));
        }
        self
    }

    /// Ends history while clients read, in some of the seeds in which anybody does. What replays find then depends on when it ended: they
    /// have seeds of their own.
    fn with_retention(mut self) -> Plan {
        let mut random = Random::new(self.seed ^ 0x4157);
        let trims = self.faults.iter().any(|(fault, _)| *fault == Fault::Trim);
        if trims || self.replayers > 0 || random.chance(600) {
            return self;
        }
        if random.chance(700) {
            self.history_age_ms = random.between(1_000, 8_000);
        }
        if self.history_age_ms == 0 || random.chance(500) {
            self.history_bytes = random.between(64, 512) << 10;
            self.filling_max = self.filling_max.max(random.between(2_000, 8_000));
        }
        self
    }

    /// Logs that grow fast enough to be trimmed. Nobody reads them: what is trimmed is gone, and what readers need is for retention to
    /// know, which there is not yet.
    fn trims(&mut self, random: &mut Random, chosen: &mut Vec<Fault>) {
        for fault in [Fault::Trim, Fault::Away] {
            if !chosen.contains(&fault) {
                chosen.push(fault);
            }
        }
        (self.publishers, self.subscribers, self.consumers) = (3, 0, 0);
        self.partitions = 1;
        self.act_every = random.between(80, 200) * 1000;
        self.filling_max = random.between(4_000, 12_000);
        self.snapshot_every_bytes = random.between(8, 48) << 10;
    }

    /// Adds clients that replay, in a part of the seeds in which anybody reads.
    fn with_replays(mut self) -> Plan {
        let mut random = Random::new(self.seed ^ 0x0_4e91);
        let trims = self.faults.iter().any(|(fault, _)| *fault == Fault::Trim);
        if !trims && random.chance(300) {
            self.replayers = random.between(1, 2) as usize;
        }
        self
    }

    /// Adds queues with rules, in a part of the seeds in which anybody reads.
    fn with_queues(mut self) -> Plan {
        let mut random = Random::new(self.seed ^ 0x0_9e0e);
        let trims = self.faults.iter().any(|(fault, _)| *fault == Fault::Trim);
        if trims || random.chance(600) {
            return self;
        }
        // As its first use would declare it: a letter may come before anybody has.
        let dead = QueueSettings::default();
        self.declared.push(Declared { name: DEAD.to_owned(), settings: dead, at: 0 });
        for number in 0..random.between(1, 2) {
            let settings = rules(&mut random).checked().expect("rules that make sense");
            let at = random.below(5 * SECOND);
            self.declared.push(Declared { name: format!("w{number}"), settings, at });
        }
        self.workers = random.between(2, 4) as usize;
        self
    }

    /// The declared queues that clients publish to and read.
    pub fn worked(&self) -> impl Iterator<Item = &Declared> {
        self.declared.iter().filter(|it| it.name != DEAD)
    }

    /// Those whose entries are settled one by one, but for those that begin at the earliest.
    pub fn classic(&self) -> impl Iterator<Item = &Declared> {
        let is_plain =
            |it: &&Declared| it.settings.kind == QueueKind::Classic && !it.settings.retroactive;
        self.worked().filter(is_plain)
    }

    /// Those that begin at the earliest.
    pub fn retroactive(&self) -> impl Iterator<Item = &Declared> {
        self.worked().filter(|it| it.settings.retroactive)
    }

    /// Those that are read by cursor.
    pub fn streams(&self) -> impl Iterator<Item = &Declared> {
        self.worked().filter(|it| it.settings.kind == QueueKind::Stream)
    }

    /// Returns true when a declared queue that may refuse it holds what is published to a topic.
    pub fn may_be_full(&self, topic: &str) -> bool {
        self.declared.iter().any(|it| {
            let limits = &it.settings.limits;
            let address = format!("$queue/{}/", it.name);
            limits.messages_max.or(limits.bytes_max).is_some()
                && (it.settings.is_bound_to(topic.as_bytes()) || topic.starts_with(&address))
        })
    }

    /// Returns true when history ends by its age or its bytes.
    pub fn ends_history(&self) -> bool {
        self.history_age_ms > 0 || self.history_bytes > 0
    }

    /// Returns true when a declared queue is bound to a topic.
    pub fn is_bound(&self, topic: &str) -> bool {
        self.declared.iter().any(|it| it.settings.is_bound_to(topic.as_bytes()))
    }
}

/// Some rules for a queue.
fn rules(random: &mut Random) -> QueueSettings {
    const BINDINGS: [&[&str]; 4] = [&[], &["t/#"], &["t/0"], &["t/+", "t/0"]];
    const BACKOFFS: [&[u64]; 3] = [&[], &[], &[300, 1_500]];
    let (bindings, backoff_ms) = (*random.pick(&BINDINGS), *random.pick(&BACKOFFS));
    let dead = QueueName::new(Bytes::from_static(DEAD.as_bytes())).expect("a name");
    let target = match random.below(3) {
        0 => DeadLetterTarget::Queue(dead),
        _ => DeadLetterTarget::Own,
    };
    let ttl_ms = *random.pick(&[None, None, Some(4_000), Some(12_000)]);
    // Where nothing ever leaves, a queue that is full stays so.
    let rejects = ttl_ms.is_some() && random.chance(500);
    QueueSettings {
        bindings: kinds::filters(bindings),
        visibility_timeout_ms: Some(*random.pick(&[1_000, 2_500])),
        deliveries_max: *random.pick(&[0, 2, 3, 5]),
        backoff_ms: backoff_ms.to_vec(),
        dead_letters: DeadLetters {
            target,
            with_expired: random.chance(500),
            with_overflow: random.chance(500),
        },
        ttl_ms,
        limits: QueueLimits {
            messages_max: *random.pick(&[None, None, Some(15), Some(40)]),
            overflow: if rejects { Overflow::RejectPublish } else { Overflow::DropHead },
            ..QueueLimits::default()
        },
        single_active: random.chance(150),
        ..QueueSettings::default()
    }
}
