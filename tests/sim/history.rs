//! What clients did and what they were told: the one thing, beside the final state, that checkers believe.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use fluxmq::model::QoS;
use fluxmq::partition::request::ConnectionId;

/// Names one message for ever; it is in its payload.
pub type MessageId = u64;

/// How a publish ended, as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not yet, or its client will never know: it may be stored.
    Open,
    /// The broker said that it has it.
    Acked,
    /// The broker said that it does not have it.
    Failed,
}

/// One publish.
#[derive(Clone, Debug)]
pub struct Publish {
    pub id: MessageId,
    pub client: usize,
    /// On which it was first sent.
    pub connection: ConnectionId,
    pub topic: String,
    pub qos: QoS,
    /// When it was first sent.
    pub invoked: u64,
    pub outcome: Outcome,
    /// When its client learned how it ended.
    pub done: u64,
    /// False once its client had to forget the session it was sent in: it may send it again under another number, or not at all.
    pub is_idempotent: bool,
}

/// Names an entry of a queue as one group has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryName {
    pub queue: String,
    pub group: String,
    pub entry: u64,
}

/// What a client says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Ack,
    /// With milliseconds to wait, or as the queue says.
    Nack(Option<u64>),
    Reject,
}

impl EntryName {
    /// Reads it out of what a delivery says of itself.
    pub fn from_properties(find: impl Fn(&str) -> Option<String>) -> Option<EntryName> {
        let (queue, group) = (find("queue")?, find("group-id")?);
        Some(EntryName { queue, group, entry: find("offset")?.parse().ok()? })
    }

    /// As `message-id` has it.
    pub fn message_id(&self) -> String {
        format!("{}:{}", self.queue, self.entry)
    }
}

/// One message that a client's program was handed.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub id: MessageId,
    pub client: usize,
    /// Which life of the client's session.
    pub life: u32,
    pub connection: ConnectionId,
    pub at: u64,
    pub topic: String,
    pub qos: QoS,
    pub dup: bool,
    pub retain: bool,
    /// For an entry of a queue, its `message-id`.
    pub entry: Option<String>,
    /// The same, with its group.
    pub name: Option<EntryName>,
    /// When the acknowledgement went out.
    pub acked: Option<u64>,
}

/// A subscription of a persistent session that was granted and never taken back.
#[derive(Clone, Debug)]
pub struct Subscription {
    pub client: usize,
    pub life: u32,
    pub filter: String,
    pub granted: u64,
    /// When the session was lost with it, if it was.
    pub ended: Option<u64>,
}

/// Everything that was done and said.
#[derive(Default)]
pub struct History {
    pub publishes: Vec<Publish>,
    by_id: BTreeMap<MessageId, usize>,
    pub deliveries: Vec<Delivery>,
    pub subscriptions: Vec<Subscription>,
    /// When each connection ended, or was told to.
    pub connection_ends: BTreeMap<ConnectionId, u64>,
}

impl History {
    pub fn invoke(&mut self, publish: Publish) {
        self.by_id.insert(publish.id, self.publishes.len());
        self.publishes.push(publish);
    }

    pub fn publish(&self, id: MessageId) -> Option<&Publish> {
        self.by_id.get(&id).map(|at| &self.publishes[*at])
    }

    pub fn publish_mut(&mut self, id: MessageId) -> &mut Publish {
        let at = self.by_id[&id];
        &mut self.publishes[at]
    }
}

/// The payload of a message: its id, and filling that depends on it.
pub fn payload(id: MessageId, filling_max: u64) -> Bytes {
    let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17;
    let filling = if filling_max == 0 { 0 } else { mixed % filling_max };
    let mut payload = BytesMut::with_capacity(8 + filling as usize);
    payload.put_u64(id);
    payload.put_bytes(mixed as u8, filling as usize);
    payload.freeze()
}

/// Reads the id back.
pub fn id_of(payload: &[u8]) -> Option<MessageId> {
    payload.first_chunk().map(|id| u64::from_be_bytes(*id))
}
