//! What a connection asks of the broker, in no protocol's words.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Bind, Commit, Consume, DeliveryId, ExchangeCommand, Filter, Message, PeerInfo, QueueCommand,
    QueueName, Route, Token, VirtualHost,
};

/// One request of one connection. Everything that stores is answered after it is committed, never before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Opens the connection's session; the first command. Answered by `Opened` or `OpenRefused`.
    Open(Box<Open>),
    /// Publishes. Answered by `Confirm` unless the QoS is 0.
    Publish {
        /// Echoed in `Confirm`.
        token: Token,
        /// What.
        message: Arc<Message>,
        /// The protocol's number for a QoS 2 publish: the broker stores one copy until `Release`.
        packet_id: Option<u16>,
    },
    /// Forgets a QoS 2 publish's number (PUBREL). Answered by `Released`, after which the number may be used again.
    Release {
        /// The number.
        packet_id: u16,
    },
    /// Adds subscriptions or replaces those with the same filter. Answered by `Subscribed`, one result each.
    Subscribe {
        /// Echoed in `Subscribed`.
        token: Token,
        /// In the client's order.
        subscriptions: Vec<Subscribe>,
    },
    /// Removes subscriptions. Answered by `Unsubscribed`, one result each.
    Unsubscribe {
        /// Echoed in `Unsubscribed`.
        token: Token,
        /// Exactly as subscribed.
        filters: Vec<Filter>,
    },
    /// Says under which packet ids deliveries go out: those of persistent sessions, and of groups at QoS 2.
    ///
    /// With a token the broker stores them and answers `Assigned`; the connection sends nothing of them before.
    Assign {
        /// Present when a QoS 2 delivery is among them.
        token: Option<Token>,
        /// Packet id and delivery, in sending order.
        entries: Vec<(u16, DeliveryId)>,
    },
    /// The receiver of a QoS 2 delivery that was assigned has it (PUBREC). Answered by `ReceivedStored`.
    Received {
        /// The number under which it was sent.
        packet_id: u16,
    },
    /// A delivery is over: PUBACK, PUBCOMP, an error code, or for QoS 0 that it was written to the socket.
    Settle {
        /// Which.
        delivery: DeliveryId,
        /// How it ended.
        outcome: Outcome,
    },
    /// Gives deliveries of readers back that were not begun, because the client does not take them: of each reader the newest. They
    /// come again, in their order, after `GoOn`.
    GiveBack {
        /// Which, those of each reader in their order.
        deliveries: Vec<DeliveryId>,
    },
    /// The client takes deliveries again: readers that were held up go on.
    GoOn,
    /// Settles entries of a queue by address (`$ack`, `$nack`, `$reject`). Answered by `Confirm`.
    SettleEntry {
        /// Echoed in `Confirm`.
        token: Token,
        /// The queue.
        queue: QueueName,
        /// The consumer group.
        group: QueueName,
        /// The queue offset out of `message-id`.
        offset: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// Moves a group's committed position (`$commit`). Answered by `Confirm`.
    CommitCursor {
        /// Echoed in `Confirm`.
        token: Token,
        /// The queue.
        queue: QueueName,
        /// The consumer group.
        group: QueueName,
        /// Everything below this queue offset is finished.
        offset: u64,
    },
    /// Publishes to an exchange. Answered by `Confirm`, whatever the QoS; `Ok(false)` where it came to no queue and is not stored.
    Route(Box<Route>),
    /// Declares, counts, empties or ends a queue. Answered by `Queue`.
    Queue {
        /// Echoed.
        token: Token,
        /// Which.
        queue: QueueName,
        /// What.
        command: QueueCommand,
    },
    /// Declares, asks for or ends an exchange. Answered by `Exchange`.
    Exchange {
        /// Echoed.
        token: Token,
        /// Its name.
        exchange: Bytes,
        /// What.
        command: ExchangeCommand,
    },
    /// Binds a queue or an exchange to an exchange, or ends that. Answered by `Exchange`.
    Bind(Box<Bind>),
    /// Consumes a queue. Answered by `Consuming`, before its first delivery.
    Consume(Box<Consume>),
    /// A consumer may have more: for one whose credit is granted.
    Grant {
        /// Which.
        consumer: u32,
        /// So many more.
        count: u32,
    },
    /// So many more deliveries of a consumer were written to its client, the oldest first: they are in memory no more, and others may
    /// take their room. One that is settled needs no `Sent`. Without it a consumer has no more out than fits into its window's bytes,
    /// whatever its credit: see [`Credit`](super::Credit).
    Sent {
        /// Which.
        consumer: u32,
        /// How many.
        count: u32,
    },
    /// A consumer gets nothing more; what it has, it keeps until it is settled. Answered by `Stopped`, after its last delivery.
    StopConsuming {
        /// Echoed.
        token: Token,
        /// Which.
        consumer: u32,
    },
    /// A consumer is gone: what it has goes back, in its place. Not answered.
    Leave {
        /// Which.
        consumer: u32,
    },
    /// Asks for one entry of a queue. Answered by `Got`; the entry is out at `consumer` until it is settled or that leaves. A number that
    /// only `Get`s name is a consumer that no count has. The delivery's id names it by a number of the broker's.
    Get {
        /// Echoed.
        token: Token,
        /// Who gets it; the same for many, of whatever queues.
        consumer: u32,
        /// Which queue.
        queue: QueueName,
        /// Which group.
        group: QueueName,
    },
    /// Publishes and settles, all of it or nothing. Answered by `Committed`.
    Commit(Box<Commit>),
    /// Goes on with an exchange that `Challenge` asked about, or begins one again in an open connection. Answered by `Challenge`,
    /// `Authenticated`, or the end of the connection.
    Authenticate {
        /// The method's name.
        method: Bytes,
        /// The client's message.
        message: Secret,
    },
    /// Says again who it is, in an open connection: the same as before. Answered by `Authenticated`, or the end of the connection.
    Renew(Box<Credentials>),
    /// Asks to have the names of a virtual host, where a protocol has several. Answered by `Entered`.
    Enter {
        /// Which.
        host: VirtualHost,
    },
    /// Ends the connection; the last command.
    Close(Close),
}

/// How a session begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Who asks, as far as the connection shows it.
    pub peer: Box<PeerInfo>,
    /// Who it says it is.
    pub credentials: Credentials,
    /// Names the session; never empty (the protocol assigns one where the client did not).
    pub client_id: Bytes,
    /// Discards what was there.
    pub clean_start: bool,
    /// Seconds the session outlives its connection; 0 ends with it, `u32::MAX` never.
    pub session_expiry_s: u32,
    /// Unsettled QoS 1 and 2 deliveries at a time, at most.
    pub inflight_max: u16,
    /// Published when the connection ends without `Close { will: Discard }`.
    pub will: Option<Will>,
}

/// How a client says who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// It does not.
    #[default]
    None,
    /// By a password that is sent as it is.
    Password {
        /// The user's name, unchecked.
        user: Bytes,
        /// The password.
        password: Secret,
    },
    /// By an exchange of messages (MQTT 5 §4.12, SASL).
    Exchange {
        /// The method's name.
        method: Bytes,
        /// The client's first message.
        first: Secret,
    },
}

/// Bytes that must not be printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub Bytes);

impl From<Bytes> for Secret {
    fn from(bytes: Bytes) -> Secret {
        Secret(bytes)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} secret bytes", self.0.len())
    }
}

/// A message left for when the client is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// What to publish.
    pub message: Message,
    /// Seconds to wait first; a new connection of the client within them cancels it.
    pub delay_s: u32,
}

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// As the client wrote it, prefixes included.
    pub filter: Filter,
    /// The most the client wants.
    pub qos: super::QoS,
    /// [MQTT-3.8.3-3]: not what this client itself published.
    pub no_local: bool,
    /// [MQTT-3.3.1-12]: keep the RETAIN flag on messages passed on.
    pub retain_as_published: bool,
    /// What to do about retained messages at subscription time.
    pub retain_handling: RetainHandling,
    /// Given back on every delivery it caused. 0 is none.
    pub subscription_id: u32,
    /// Where to start reading: a position of `docs/concepts/positions`, unparsed.
    pub position: Option<Bytes>,
    /// True when a replay is to say where history ends as it begins: [`Effect::ReplayEnds`](super::Effect::ReplayEnds).
    pub reports_end: bool,
    /// The consumer group, for queues.
    pub group: Option<Bytes>,
    /// True when only `$ack` and its kin settle, not the protocol's own acknowledgement.
    pub settle_explicit: bool,
}

/// When a subscription brings retained messages (MQTT 5 §3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    Send,
    /// Only when the subscription is new.
    SendIfNew,
    /// Never.
    DontSend,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Accepted,
    /// Back to where it came from, to be delivered again.
    Released,
    /// The same, not before so many milliseconds; for entries of queues.
    ReleasedAfter {
        /// How long.
        delay_ms: u32,
    },
    /// Not to be delivered again.
    Rejected,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// True publishes the will.
    pub will: bool,
    /// Replaces the session's expiry (MQTT 5 DISCONNECT).
    pub session_expiry_s: Option<u32>,
}
