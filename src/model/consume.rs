//! Queues as their clients see them: declared, consumed, ended, by name and not by topic filter.

use std::sync::Arc;

use bytes::Bytes;

use super::{Delivery, DeliveryId, Message, Outcome, QueueName, QueueSettings, Refusal, Token};

/// What a client wants of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueCommand {
    /// Makes it, unless it is there and just so; refused where it is there and otherwise.
    Declare(Arc<QueueSettings>),
    /// Counts it; refused where there is none.
    Inspect,
    /// Takes everything out that is in it and not handed out.
    Purge,
    /// Ends it; its consumers hear of it.
    Delete {
        /// Only without consumers.
        if_unused: bool,
        /// Only without messages.
        if_empty: bool,
    },
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAnswer {
    /// Messages that are in it and wait for a member of [`GROUP_DEFAULT`]; those that were taken out so, for `Purge` and `Delete`.
    pub messages: u64,
    /// Consumers that are connected.
    pub consumers: u64,
}

/// A consumer of a queue: a member of one of its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consume {
    /// Echoed in `Consuming`.
    pub token: Token,
    /// Names it within its connection, and in [`DeliverySource::Group`](super::DeliverySource::Group). Below [`CONSUMERS_END`], never used
    /// again.
    pub consumer: u32,
    /// Which queue.
    pub queue: QueueName,
    /// Which group.
    pub group: QueueName,
    /// Reads for itself under this name instead, where it says where to begin, and of a stream in any case: there it begins at the end.
    /// Nobody else is in that group, nothing of it is stored, and it ends with the consumer.
    pub own: Option<QueueName>,
    /// How much it may be sent.
    pub credit: Credit,
    /// Refused unless it is the only one of its queue, and so is any other while it is there.
    pub is_exclusive: bool,
    /// Where a new group begins, or whoever reads for itself: a position of `docs/concepts/positions`, unparsed.
    pub position: Option<Bytes>,
}

/// Consumers that protocols name are below; the numbers from there on are the broker's.
pub const CONSUMERS_END: u32 = 1 << 31;

/// The group of who names none, where protocols know of no groups: its members are what they call the consumers of a queue.
pub const GROUP_DEFAULT: &str = "default";

/// How much a consumer may be sent.
///
/// Beside, what is on its way to the client and not [`Sent`](super::Command::Sent) is bounded in bytes: 8 KiB at first, as much more as
/// was sent, up to 256 KiB; the consumers of one connection together have 1 MiB in each partition, and each an equal part of it. A client that does not read costs that; what it was sent and has not settled costs its number only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// So many that are not settled, at a time; `u32::MAX` is as many as it takes.
    Window(u32),
    /// So many, and then as many as it is granted: settling gives nothing back.
    Granted(u32),
}

impl Credit {
    /// Returns true for a number that settling gives back.
    pub fn is_limited(self) -> bool {
        matches!(self, Credit::Window(max) if max < u32::MAX)
    }
}

/// A publish to an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Echoed in `Confirm`, which says whether it came to a queue.
    pub token: Token,
    /// The exchange's name; empty for the one in which every queue is bound by its name.
    pub exchange: Bytes,
    /// What it routes by.
    pub routing_key: Bytes,
    /// What else it routes by: whoever any of them leads to gets it, once. Of topics each is another publish.
    pub more_keys: Vec<Bytes>,
    /// What it routes by where it looks at headers: a table as AMQP 0.9.1 encodes it, without its length.
    pub headers: Bytes,
    /// What; its topic is not looked at.
    pub message: Message,
}

/// Publishes to exchanges, and ends of deliveries, that take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Echoed in `Committed`.
    pub token: Token,
    /// In their order; their own tokens are not looked at.
    pub publishes: Vec<Route>,
    /// Deliveries of consumers and of `Get`s, in the order in which they are settled.
    pub settled: Vec<(DeliveryId, Outcome)>,
}

/// An entry that was asked for, and how many remain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The entry.
    pub delivery: Delivery,
    /// Those that are not handed out.
    pub remaining: u64,
}

/// Why a queue is not what it was asked to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueRefusal {
    /// There is none of this name.
    #[error("there is no queue '{queue}'")]
    Missing {
        /// The name.
        queue: String,
    },
    /// A declaration is never rewritten.
    #[error(
        "queue '{queue}' was declared with another '{setting}': delete the queue first, or declare what it is"
    )]
    Differs {
        /// The queue.
        queue: String,
        /// What differs.
        setting: &'static str,
        /// What it is.
        current: Arc<QueueSettings>,
    },
    /// Somebody consumes it.
    #[error("queue '{queue}' is being read ({members} connected): end its consumers first")]
    InUse {
        /// The queue.
        queue: String,
        /// How many do.
        members: u64,
    },
    /// There is something in it.
    #[error("queue '{queue}' is not empty: it has {messages} messages")]
    NotEmpty {
        /// The queue.
        queue: String,
        /// How many.
        messages: u64,
    },
    /// It belongs to another connection.
    #[error("queue '{queue}' belongs to another connection")]
    Locked {
        /// The queue.
        queue: String,
    },
    /// It is a stream: it is read in order by consumers that have a [`Credit::Window`] of some number, and not by the entry.
    #[error(
        "queue '{queue}' is a stream: its consumers settle what they get and have a limit of what is out"
    )]
    Stream {
        /// The queue.
        queue: String,
    },
    /// It is a stream: what its readers have read is in it until its limits end it.
    #[error(
        "queue '{queue}' is a stream and is not purged: its limits end what is old, and deleting it everything"
    )]
    NotPurged {
        /// The queue.
        queue: String,
    },
    /// It has a consumer that is to be the only one, or others than the one that wants to be.
    #[error("queue '{queue}' has another consumer, and one of both is to be the only one")]
    ExclusiveUse {
        /// The queue.
        queue: String,
    },
}

impl From<QueueRefusal> for Refusal {
    fn from(refusal: QueueRefusal) -> Refusal {
        Refusal::Queue(Box::new(refusal))
    }
}
