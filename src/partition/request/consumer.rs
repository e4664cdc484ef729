//! What is asked of a group: to be in it, and for consumers that their protocols named, and for one entry at a time.

use bytes::Bytes;

use super::Position;
use crate::model::{Credit, Filter, QoS, QueueName, Selection, Token};

/// Bytes that a delivery takes in memory beside its message, as windows count them.
pub const CARRIER_BYTES: u32 = 128;

/// A consumer's wish to be in a group.
#[derive(Clone, Debug)]
pub struct Join {
    /// Chosen by the connection: names this membership in it.
    pub membership: u32,
    /// What the group reads.
    pub reads: Selection,
    /// Which group.
    pub group: QueueName,
    /// Reads for itself under this name instead: see [`Consume`](crate::model::Consume).
    pub own: Option<QueueName>,
    /// Which of its messages.
    pub filter: Filter,
    /// Where a new group of a queue begins.
    pub position: Position,
    /// The session that asks.
    pub client_id: Bytes,
    /// Seconds it keeps a shared subscription when its connection ends.
    pub expiry_s: u32,
    /// The most the consumer wants.
    pub qos: QoS,
    /// Keep the RETAIN flag.
    pub retain_as_published: bool,
    /// Given back on every delivery. 0 is none.
    pub subscription_id: u32,
    /// Only `$ack` and its kin settle.
    pub settle_explicit: bool,
    /// What it may be sent.
    pub credit: Credit,
    /// Its protocol named it: its queue must be there, and what it has is its own until it settles it or leaves.
    pub is_named: bool,
    /// Refused unless it is the only member of all groups of its queue, and so is any other while it is there.
    pub is_exclusive: bool,
    /// Echoed in `Joined`.
    pub token: Token,
}

/// One request to the home partition of a queue.
#[derive(Clone, Debug)]
pub enum ConsumerRequest {
    /// Lets a member have more, where its credit is granted.
    Grant {
        /// As in [`Join`](Join).
        membership: u32,
        /// So many more.
        count: u32,
    },
    /// Deliveries of a member were written to its client: they are in memory no more.
    Sent {
        /// As in [`Join`](Join).
        membership: u32,
        /// How many, the oldest first.
        count: u32,
    },
    /// A member gets nothing more; what it has it keeps. Answered by `Written`, after its last delivery.
    Stop {
        /// As in [`Join`](Join).
        membership: u32,
        /// Echoed.
        token: Token,
    },
    /// Asks for one entry. Answered by [`Event::Got`](super::Event::Got).
    Get(Box<GetEntry>),
}

/// Asks a group for its next entry, whoever is a member of it.
#[derive(Clone, Debug)]
pub struct GetEntry {
    /// Names who has the entry, until it is settled or is left.
    pub membership: u32,
    /// Which queue; it must be there.
    pub queue: QueueName,
    /// Which group.
    pub group: QueueName,
    /// Echoed.
    pub token: Token,
}
