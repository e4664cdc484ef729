//! What a campaign has seen: one that never saw an interesting state has shown nothing about it, and fails as vacuous.

use std::collections::BTreeMap;

macro_rules! points {
    ($($name:ident: $words:literal,)*) => {
        /// Something worth having seen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Point { $($name,)* }

        impl Point {
            pub const ALL: &'static [Point] = &[$(Point::$name,)*];

            pub fn words(self) -> &'static str {
                match self { $(Point::$name => $words,)* }
            }
        }
    };
}

points! {
    Killed: "process killed",
    PowerLost: "power lost at one node",
    Blackout: "power lost at all nodes",
    FlushTorn: "power lost in the middle of a flush",
    FlushInFlight: "crash with a flush under way",
    TornTail: "torn tail cut",
    RecoveredManifest: "manifest with a torn edit, or rebuilt",
    RecoveredOther: "segment removed or adopted, file repaired or quarantined",
    RestoredSnapshot: "start from a snapshot",
    Paused: "process stopped and continued",
    LogPoisoned: "log poisoned by a failed write or sync",
    PartitionStopped: "partition stopped alone",
    NoSpace: "disk full",
    WatermarkRefused: "publish refused at the watermark",
    ClockJumped: "wall clock jumped",
    SegmentRolled: "segment sealed and rolled",
    SnapshotSaved: "snapshot saved",
    SlowFlush: "flush of more than 200 ms",
    ConnectionCut: "connection cut by the network",
    TakeOver: "session taken over",
    Superseded: "QoS 2 step of a connection that had lost its session came late",
    Left: "client said goodbye",
    ResumePublishUnsent: "QoS 2 in: resumed, PUBLISH not stored",
    ResumePublishStored: "QoS 2 in: resumed, PUBLISH stored, PUBREC not seen",
    ResumeReleaseUnsent: "QoS 2 in: resumed, PUBREC seen, PUBREL not stored",
    ResumeReleaseStored: "QoS 2 in: resumed, PUBREL stored, PUBCOMP not seen",
    ResumeDeliveryUnseen: "QoS 2 out: resumed, PUBLISH not seen",
    ResumeDeliverySeen: "QoS 2 out: resumed, PUBLISH seen, PUBREC not stored",
    ResumeReceivedKept: "QoS 2 out: resumed, PUBREC stored, PUBREL not seen",
    ResumeReceivedGone: "QoS 2 out: resumed, PUBREL seen, PUBCOMP not stored",
    ResumeAtLeastOnce: "QoS 1 out: resumed with a delivery open",
    Redelivered: "delivered again",
    EntryReturned: "queue entry handed to another member",
    WillSet: "will left",
    WillDue: "will due at once",
    WillDelayed: "will due after a while",
    WillPublished: "will published",
    WillDiscarded: "will discarded by a goodbye",
    WillCancelled: "will cancelled by the next connection",
    ReplayedEarliest: "replay from the oldest",
    ReplayedFrom: "replay from an offset or a time",
    QueueDeclared: "queue declared with rules",
    Captured: "copy of a publish captured by a queue elsewhere",
    EntryAcked: "entry acked by a verb",
    EntryNacked: "entry nacked by a verb",
    EntryRejected: "entry rejected by a verb",
    EntryNotPending: "entry settled that was not pending any more",
    VerbRefused: "settling verb refused",
    Postponed: "entry that came back waits for its time",
    Followed: "history brought to a queue that follows it",
    Read: "entry of a stream read by a group",
    ReadAgain: "entry of a stream read again by its group",
    DiedRejected: "dead letter: rejected",
    DiedDeliveries: "dead letter: handed out too often",
    DiedExpired: "dead letter: expired",
    DiedOverflow: "dead letter: queue too long",
    LetterSent: "dead letter announced to a queue elsewhere",
    Redriven: "dead letter sent back",
    HeadDropped: "oldest entries dropped without letters",
    QueueFull: "publish refused by a full queue",
    HistoryEnded: "history ended by the leader's word",
    MovedOn: "record stored again because it is needed longer than history",
    SegmentsGone: "segments gone because history is over",
    MessageRefused: "message of a peer refused",
    StreamBroken: "stream to a partition's leader broken",
    LeaderChanged: "leader changed",
    LeaderChangedInFlight: "leader changed with batches in flight",
    ConflictTruncated: "conflicting entries truncated",
    Trimmed: "log trimmed to a snapshot",
    SnapshotInstalled: "snapshot installed from a leader",
    ChunkSent: "chunk of a snapshot sent",
    ChunkLost: "chunk of a snapshot lost",
    ChunkDamaged: "chunk of a snapshot damaged",
    SourceDied: "replica died while it gave a snapshot away",
    FetcherDied: "replica died while it fetched a snapshot",
    MembersChanged: "members of a group changed",
    JointGroup: "joint group",
    LeaderRemoved: "leader removed from its group",
    Transferred: "leadership handed over",
    DiskLost: "disk lost",
    WholeAgain: "muted replica whole again",
    ImagePutBack: "old image of a disk put back",
    ImageMuted: "old image of a disk found out",
    Rotted: "disk rotted",
    RotFound: "damage found by a replica that runs",
    Fenced: "replica with damage left its group",
    FrameRepaired: "frame repaired by a peer",
    BlockRepaired: "frames or a segment's header repaired by a peer",
    SegmentReshipped: "lost segment shipped by a peer",
    BegunBehindHistory: "log begun behind what was lost because history is over",
    FencedGave: "range given away by a replica that waits for repair itself",
}

/// How often each was seen.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<Point, u64>);

impl Coverage {
    pub fn hit(&mut self, point: Point) {
        *self.0.entry(point).or_default() += 1;
    }

    pub fn count(&self, point: Point) -> u64 {
        self.0.get(&point).copied().unwrap_or(0)
    }

    pub fn add(&mut self, other: &Coverage) {
        for (point, count) in &other.0 {
            *self.0.entry(*point).or_default() += count;
        }
    }

    /// Those never seen.
    pub fn missing(&self) -> Vec<Point> {
        Point::ALL.iter().copied().filter(|point| self.count(*point) == 0).collect()
    }
}
