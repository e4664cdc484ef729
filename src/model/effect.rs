//! What the broker tells a connection, in no protocol's words.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;
use thiserror::Error;

use super::{
    Annotations, DeliveryId, ExchangeRefusal, Got, Message, PartitionId, QoS, QueueAnswer,
    QueueRefusal, Token, Topic,
};

/// One thing a connection must know or pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The session is open.
    Opened(Opened),
    /// It is not, and the connection ends.
    OpenRefused(Refusal),
    /// The client's turn in an exchange that says who it is (MQTT 5 AUTH 0x18).
    Challenge {
        /// For the client.
        message: Bytes,
    },
    /// An exchange is over and the client is who it says. Comes before `Opened` when `Open` began it.
    Authenticated {
        /// The exchange's last word, for the client to verify us.
        last: Bytes,
    },
    /// The connection may not go on: its user is gone, or failed to authenticate again. It closes at once.
    Expelled(Refusal),
    /// What was delivered and is not sent yet may be forbidden meanwhile.
    RightsChanged(Recheck),
    /// A publish is committed, or was refused and nothing of it is stored.
    Confirm {
        /// Out of `Publish`, `SettleEntry` or `CommitCursor`.
        token: Token,
        /// `Ok(false)`: nobody subscribes to it, or nothing was pending (reason 0x10).
        result: Result<bool, Refusal>,
    },
    /// The number of a QoS 2 publish is free again.
    Released {
        /// The number.
        packet_id: u16,
    },
    /// How far history goes for the replays of a SUBSCRIBE that asked. Comes before its `Subscribed`.
    ReplayEnds {
        /// Out of `Subscribe`.
        token: Token,
        /// The newest message that the replay finds in each partition; not of those where it finds none.
        ends: Vec<(PartitionId, Offset)>,
    },
    /// Subscriptions stand from here on.
    Subscribed {
        /// Out of `Subscribe`.
        token: Token,
        /// One for each, in order.
        results: Vec<Result<QoS, Refusal>>,
    },
    /// Subscriptions are gone.
    Unsubscribed {
        /// Out of `Unsubscribe`.
        token: Token,
        /// One for each, in order; `Ok(false)` where there was none.
        results: Vec<Result<bool, Refusal>>,
    },
    /// A message for this connection.
    Deliver(Delivery),
    /// Packet ids are stored; their deliveries may go out.
    Assigned {
        /// Out of `Assign`.
        token: Token,
    },
    /// PUBREC is stored; PUBREL may go out.
    ReceivedStored {
        /// The number under which it was sent.
        packet_id: u16,
    },
    /// What became of a request to a queue.
    Queue {
        /// Out of `Queue`.
        token: Token,
        /// What it is now.
        result: Result<QueueAnswer, Refusal>,
    },
    /// What became of a request to an exchange, or of a binding: the next publish, of anybody, finds it so.
    Exchange {
        /// Out of `Exchange` or `Bind`.
        token: Token,
        /// Whether it is so now.
        result: Result<(), Refusal>,
    },
    /// The consumer stands, or not.
    Consuming {
        /// Out of `Consume`.
        token: Token,
        /// What became of it.
        result: Result<(), Refusal>,
    },
    /// Nothing more comes for a consumer.
    Stopped {
        /// Out of `StopConsuming`.
        token: Token,
    },
    /// A consumer's queue is gone, and so is what it had out; or its client may not read it any more, and what it had went back.
    ConsumerEnded {
        /// Which.
        consumer: u32,
    },
    /// An entry that was asked for; `None` where there is none to be had.
    Got {
        /// Out of `Get`.
        token: Token,
        /// What there is.
        result: Result<Option<Box<Got>>, Refusal>,
    },
    /// From here on publishes are refused with this, whoever's they are, or taken again. Said when that changes.
    Publishing(Result<(), Refusal>),
    /// The client may have the names of a virtual host, or not.
    Entered(Result<(), Refusal>),
    /// A transaction is committed, or nothing of it has happened.
    Committed {
        /// Out of `Commit`.
        token: Token,
        /// Which of the publishes came to nobody, ascending, counted from 0.
        result: Result<Vec<usize>, Refusal>,
    },
    /// Another connection took the session (MQTT 5 reason 0x8E). The connection closes at once, without its will.
    TakenOver,
    /// The broker stops (MQTT 5 reason 0x8B).
    ShuttingDown,
}

/// Decides again about what was delivered and is not sent yet: true when a message of this topic may still go out.
#[derive(Clone)]
pub struct Recheck(Arc<dyn Fn(&Topic) -> bool + Send + Sync>);

impl Recheck {
    /// Wraps the decision.
    pub fn new(decide: impl Fn(&Topic) -> bool + Send + Sync + 'static) -> Recheck {
        Recheck(Arc::new(decide))
    }

    /// Decides.
    pub fn may_receive(&self, topic: &Topic) -> bool {
        (self.0)(topic)
    }
}

impl std::fmt::Debug for Recheck {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Recheck")
    }
}

impl PartialEq for Recheck {
    /// The same decision, not one that decides the same.
    fn eq(&self, other: &Recheck) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Recheck {}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// True when state from an earlier connection was found [MQTT-3.2.2-3].
    pub session_present: bool,
    /// True when the session outlives its connection: packet ids are assigned durably.
    pub persistent: bool,
    /// What was out when the last connection ended, in its order, to be sent again [MQTT-4.4.0-1].
    pub outbound: Vec<Outbound>,
    /// QoS 2 publishes of the client that are stored and not released.
    pub inbound: Vec<u16>,
}

/// A delivery that an earlier connection of the session did not finish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// PUBLISH to be sent again with DUP.
    Publish {
        /// Under the same number.
        packet_id: u16,
        /// What.
        delivery: Delivery,
    },
    /// PUBREL to be sent again; `delivery` is what `Settle` names once PUBCOMP has come.
    Release {
        /// Under the same number.
        packet_id: u16,
        /// Which.
        delivery: DeliveryId,
    },
}

impl Outbound {
    /// The number it is sent under.
    pub fn packet_id(&self) -> u16 {
        match self {
            Outbound::Publish { packet_id, .. } | Outbound::Release { packet_id, .. } => *packet_id,
        }
    }
}

/// A message on its way to one connection. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Says what `Settle` refers to.
    pub id: DeliveryId,
    /// As published, except that `expiry_s` is what is left of it. Shared by all its receivers.
    pub message: Arc<Message>,
    /// The lower of what was published and what was subscribed.
    pub qos: QoS,
    /// The RETAIN flag to send: the message answers a new subscription, or the subscription keeps the flag.
    pub retain: bool,
    /// True when it was handed out before, perhaps.
    pub redelivered: bool,
    /// Of every subscription that matched and has one.
    pub subscription_ids: Vec<u32>,
    /// Added to the properties.
    pub annotations: Annotations,
    /// True when the protocol's own acknowledgement does not settle it.
    pub settle_explicit: bool,
}

impl Delivery {
    /// What is said of it by that name.
    pub fn annotation(&self, name: &str) -> Option<String> {
        self.annotations.get(self.id.offset, name)
    }
}

/// Why the broker did not do what it was asked; each protocol maps it to its code, once.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The address is malformed or reserved.
    #[error("{0}")]
    Address(#[from] super::AddressError),
    /// A message's name makes no sense.
    #[error("{0}")]
    Input(#[from] super::InputError),
    /// Not allowed to this client.
    #[error("not authorized")]
    NotAuthorized,
    /// Nobody of this name, or another password: which of both is not said.
    #[error("unknown user name or wrong password")]
    BadCredentials,
    /// Clients without credentials are not admitted here.
    #[error("anonymous clients are not allowed here: send a user name and password")]
    CredentialsNeeded,
    /// An authentication method that is not offered.
    #[error("the authentication method is not supported")]
    AuthenticationMethod,
    /// The address failed to authenticate too often.
    #[error("too many failed attempts from this address: try again in a minute")]
    Throttled,
    /// Too many are connected, or wait to be authenticated.
    #[error("the broker is busy: try again in a moment")]
    Busy,
    /// The client id names a session of somebody else.
    #[error("the session of this client id belongs to another user")]
    NotOwner,
    /// A named limit is reached.
    #[error("{limit} reached")]
    Quota {
        /// Which.
        limit: &'static str,
    },
    /// A queue has no room for a message, and it went where the queue's dead letters go.
    #[error("the queue is full, and the message is a dead letter")]
    DeadLettered,
    /// Connections come faster than a named limit allows.
    #[error("{limit} reached; try again later")]
    ConnectionRate {
        /// Which.
        limit: &'static str,
    },
    /// The disk watermark is reached: reads and settling go on.
    #[error("the disk is full; publishing resumes when there is room")]
    DiskFull,
    /// Memory is nearly used up: reads and settling go on.
    #[error("the broker is short of memory; publishing resumes when there is some")]
    MemoryFull,
    /// The partition stopped after a disk error.
    #[error("partition {partition} is out of service: its disk failed")]
    Unavailable {
        /// Which.
        partition: u16,
    },
    /// Another replica of the partition leads, or none yet: the same request may succeed there, or here a little later.
    #[error("partition {partition} is led {}", hint.map_or("by nobody yet".to_owned(), |id| format!("by replica {id}")))]
    NotLeader {
        /// Which.
        partition: u16,
        /// Who leads, as far as this replica knows.
        hint: Option<u64>,
    },
    /// A feature this release does not deliver.
    #[error("{what} is not supported")]
    Unsupported {
        /// What.
        what: &'static str,
    },
    /// A queue is not there, or not what it was asked to be.
    #[error("{0}")]
    Queue(Box<QueueRefusal>),
    /// An exchange is not what it was asked to be.
    #[error("{0}")]
    Exchange(Box<ExchangeRefusal>),
    /// A request that contradicts itself or the state of what it names.
    #[error("{reason}")]
    Invalid {
        /// What is wrong and what to do instead.
        reason: String,
    },
    /// An administrator has ended the connection.
    #[error("closed by an administrator{}", if reason.is_empty() { String::new() } else { format!(": {reason}") })]
    Administrator {
        /// Why; empty where nothing was said.
        reason: String,
    },
    /// The broker stops.
    #[error("the broker is shutting down")]
    ShuttingDown,
}
