//! Numbers with a meaning.

use fluxmq_index::Offset;

/// One partition: a log, a Raft group and its views. 0 is the meta partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u16);

impl PartitionId {
    /// The partition that knows about the others.
    pub const META: PartitionId = PartitionId(0);
}

/// Chosen by a connection for a command, echoed in the effect that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// A point in time, in milliseconds. Timers count from the start of the process; log time from the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// Returns the time `count` milliseconds later, saturating.
    pub fn plus(self, count: u64) -> Millis {
        Millis(self.0.saturating_add(count))
    }
}

/// Names one delivery to one connection until it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    /// Which reader handed it out.
    pub source: DeliverySource,
    /// Where the record is stored.
    pub partition: PartitionId,
    /// Its position there.
    pub offset: Offset,
}

/// What handed a delivery out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeliverySource {
    /// Passed on without being stored: nothing to settle.
    Live,
    /// One of the connection's readers.
    Reader(ReaderId),
    /// The same, as an answer to a new subscription: a retained message, beside what the reader reads on. The number names the
    /// subscription in its partition.
    Retained(ReaderId, u32),
    /// A consumer group; the number names the membership within its connection.
    Group(u32),
}

impl DeliverySource {
    /// The reader of the session's plain subscriptions.
    pub const SESSION: DeliverySource = DeliverySource::Reader(ReaderId::SESSION);

    /// The reader that handed it out, if one did.
    pub fn reader(self) -> Option<ReaderId> {
        match self {
            DeliverySource::Reader(reader) | DeliverySource::Retained(reader, _) => Some(reader),
            DeliverySource::Live | DeliverySource::Group(_) => None,
        }
    }
}

/// Names a reader among those of its session, in every partition that it reads. A replay has one of its own; never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(pub u32);

impl ReaderId {
    /// The one of all plain subscriptions together.
    pub const SESSION: ReaderId = ReaderId(0);

    /// Returns true for the reader of a replay.
    pub fn is_replay(self) -> bool {
        self != ReaderId::SESSION
    }
}
