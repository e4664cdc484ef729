//! What is asked of a queue beside reading and settling: by whoever administers the broker.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;

use super::{ConnectionId, Gap, Position};
pub use crate::model::QueueAnswer as Counts;
use crate::model::{
    ExchangeBinding, Filter, Message, Millis, PartitionId, QueueName, QueueSettings, Refusal,
    StoredMessage, Token,
};

/// One request to the home partition of a queue. Answered by [`Event::Queue`](super::Event::Queue), when what it changed is committed.
#[derive(Clone, Debug)]
pub struct QueueRequest {
    /// Echoed.
    pub token: Token,
    /// Which queue.
    pub queue: QueueName,
    /// What.
    pub action: QueueAction,
}

/// What to do with a queue. All but `Declare` are refused where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueAction {
    /// Makes it, unless it is there and just so; refused where it is there and otherwise.
    Declare(Arc<QueueSettings>),
    /// Counts what waits in it, and who reads it.
    Inspect,
    /// Ends it, its groups and its entries. Members are told.
    Delete {
        /// Refused while somebody reads it.
        if_unused: bool,
        /// Refused while something waits in it.
        if_empty: bool,
    },
    /// Takes out what is in it now, but for what is out at members.
    Purge,
    /// Counts.
    Stats,
    /// Reads entries without any group knowing.
    Peek {
        /// From this entry on, or the oldest that is there.
        from: Offset,
        /// So many, at most.
        count_max: usize,
    },
    /// Moves a group; everything below is finished for it, everything from there on is not.
    Seek {
        /// Which.
        group: QueueName,
        /// Where to.
        to: Position,
    },
    /// Ends a group, and forgets how far it was; refused while somebody reads with it.
    DeleteGroup {
        /// Which.
        group: QueueName,
    },
    /// Publishes dead letters again where they died, and takes them out.
    Redrive {
        /// Those whose topics match, as readers of the queue see them.
        filter: Filter,
        /// So many, at most.
        count_max: usize,
    },
}

/// Asks a partition for what lives there, by name. Answered by [`Event::Listed`](super::Event::Listed).
#[derive(Clone, Debug)]
pub struct List {
    /// Echoed.
    pub token: Token,
    /// What.
    pub what: ListOf,
    /// So many, at most.
    pub count_max: usize,
}

/// What is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListOf {
    /// Queues.
    Queues {
        /// Those whose names are above; an empty one is below all.
        after: Bytes,
    },
    /// What is bound, by the name of who gets it.
    Bindings {
        /// Of this name, and those above.
        from: Bytes,
        /// Without so many of the first name's.
        skip: usize,
    },
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// Queues, by name.
    Queues(Vec<QueueSummary>),
    /// Bindings, by the name of who gets it.
    Bindings(Vec<BoundSummary>),
}

/// A binding in a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BoundSummary {
    /// Who gets what matches.
    pub to: Bytes,
    /// To what it is bound.
    pub source: BoundSource,
}

/// What something is bound to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BoundSource {
    /// A queue, by its declaration, to topics.
    Filter(Filter),
    /// A queue, to an exchange.
    Queue(ExchangeBinding),
    /// An exchange, to another.
    Exchange(ExchangeBinding),
}

/// A queue in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSummary {
    /// Its name.
    pub name: Bytes,
    /// What it was declared to be.
    pub settings: Arc<QueueSettings>,
    /// The connection whose own it is.
    pub owner: Option<ConnectionId>,
    /// Entries that are in it, and their bytes.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Consumer groups.
    pub groups: usize,
    /// Members that are connected, of all groups.
    pub members: usize,
    /// How the group of those is that name none.
    pub default_group: DefaultGroup,
}

/// How the group [`GROUP_DEFAULT`](crate::model::consume::GROUP_DEFAULT) of a queue is; without it, nobody has read anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefaultGroup {
    /// Entries that wait for one of its members.
    pub ready: u64,
    /// Those that are out at them.
    pub unacked: u64,
}

/// Names a letter on its way, and no other of its partition, ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetterId {
    /// The queue's id.
    pub queue: u64,
    /// The partition offset of the queue's declaration: another one of its name has another.
    pub declared: Offset,
    /// What died there.
    pub dead: Dead,
}

/// What a letter is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dead {
    /// An entry that leaves its queue for everybody.
    Entry(Offset),
    /// An entry that one group gave up.
    EntryOf(Bytes, Offset),
    /// A publish that its queue had no room for, by a term and a number in it.
    Refused(u64, u64),
}

/// A message for queues that live elsewhere, or may.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Echoed when it is stored, or is not.
    pub id: LetterId,
    /// For whom.
    pub target: LetterTarget,
    /// What.
    pub message: Message,
    /// Partitions that have it from an earlier time, when others refused it.
    pub stored_at: Vec<PartitionId>,
}

/// For whom a letter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterTarget {
    /// This queue, which is declared at its first use.
    Queue(QueueName),
    /// Whoever this exchange routes it to, by the keys and headers that its message has; of queues in which it died those that it comes
    /// round to by itself do not get it.
    Exchange(Bytes),
}

/// What became of a letter.
#[derive(Clone, Debug)]
pub struct LetterArrived {
    /// Which.
    pub id: LetterId,
    /// Why it is not stored wherever it is to be.
    pub result: Result<(), Refusal>,
    /// The partitions that have it.
    pub stored_at: Vec<PartitionId>,
}

/// A retroactive queue that lives here, and where it goes on in the histories that it follows.
#[derive(Clone, Debug)]
pub struct Following {
    /// Which queue.
    pub queue: QueueName,
    /// What it is; its bindings say what it follows.
    pub settings: Arc<QueueSettings>,
    /// Where it goes on, by partition; those that are not listed it has nothing of.
    pub places: Vec<(PartitionId, Offset)>,
}

/// Asks for the next messages of a partition's history that match a queue's bindings.
#[derive(Clone, Debug)]
pub struct ReadOn {
    /// Echoed.
    pub token: Token,
    /// For which queue; it has everything below `from`, and nothing from there on goes until it asks again.
    pub queue: QueueName,
    /// Its settings: whose bindings.
    pub settings: Arc<QueueSettings>,
    /// From here on, a partition offset.
    pub from: Offset,
}

/// Messages of a partition's history, in its order.
#[derive(Clone, Debug)]
pub struct ReadHistory {
    /// At least one.
    pub messages: Vec<StoredMessage>,
    /// Everything that matches below this partition offset is among them.
    pub next: Offset,
}

/// Messages of a partition's history for a retroactive queue.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Echoed.
    pub token: Token,
    /// Which queue.
    pub queue: QueueName,
    /// What it was when they were asked for.
    pub settings: Arc<QueueSettings>,
    /// Whose history.
    pub source: PartitionId,
    /// Where they begin: refused unless that is where the queue is.
    pub from: Offset,
    /// What there was.
    pub found: ReadHistory,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueAnswer {
    /// The queue stands.
    Declared {
        /// True when it was there.
        existed: bool,
        /// What is in it.
        counts: Counts,
    },
    /// What is in it.
    Counted(Counts),
    /// So many entries were concerned.
    Done {
        /// How many.
        count: u64,
    },
    /// A group is where it was to be, or as near as there is something.
    Sought {
        /// Entries that it was moved over.
        count: u64,
        /// What left the queue from that position on.
        gap: Option<Gap>,
    },
    /// What it is and has.
    Stats(Box<QueueStats>),
    /// Entries, in their order.
    Entries(Vec<Peeked>),
}

/// A queue in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// What it was declared to be.
    pub settings: Arc<QueueSettings>,
    /// The connection whose own it is.
    pub owner: Option<ConnectionId>,
    /// How the group of those is that name none.
    pub default_group: DefaultGroup,
    /// The oldest entry that is in it.
    pub head: Offset,
    /// The queue offset of the next entry.
    pub end: Offset,
    /// Entries that are in it.
    pub messages: u64,
    /// Their topics, properties and payloads together.
    pub bytes: u64,
    /// Every group, by name.
    pub groups: Vec<GroupStats>,
}

/// A consumer group in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStats {
    /// Its name.
    pub name: Bytes,
    /// Members that are connected.
    pub members: usize,
    /// Everything below is finished.
    pub committed: Offset,
    /// The next entry to hand out.
    pub cursor: Offset,
    /// Entries handed out and not settled.
    pub pending: usize,
    /// Entries that are not finished.
    pub lag: u64,
    /// Milliseconds since the oldest of them was stored.
    pub lag_ms: u64,
}

/// An entry that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// Its queue offset.
    pub entry: Offset,
    /// Log time.
    pub time: Millis,
    /// What is stored.
    pub message: StoredMessage,
}
