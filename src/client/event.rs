//! What a client asks for and what it is told.

use bytes::Bytes;

use crate::model::QoS;
use crate::protocol::mqtt::property::PropertyList;
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::SubscribeFilter;

/// A message to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishRequest {
    /// Where.
    pub topic: Bytes,
    /// What.
    pub payload: Bytes,
    /// How surely.
    pub qos: QoS,
    /// Retained.
    pub retain: bool,
    /// 5.0 only.
    pub properties: PropertyList,
}

/// Filters to subscribe to, together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// At least one.
    pub filters: Vec<SubscribeFilter>,
    /// 5.0 only.
    pub properties: PropertyList,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server accepted the connection; comes first and once.
    Connected(Connected),
    /// The server had forgotten the session: these publishes may have arrived or not.
    SessionLost {
        /// Tokens, in the order of sending.
        unfinished: Vec<u64>,
    },
    /// A publish of QoS 1 or 2 is finished; an error means it was not taken.
    Published {
        /// The caller's name for it.
        token: u64,
        /// 0x10 when nobody subscribes.
        reason: ReasonCode,
        /// The server's words, if it sent any.
        text: String,
    },
    /// The server answered a subscribe request.
    Subscribed {
        /// The caller's name for it.
        token: u64,
        /// The granted QoS or an error for each filter, in order.
        reasons: Vec<ReasonCode>,
        /// The server's words, if it sent any.
        text: String,
        /// Everything it said beside the codes.
        properties: PropertyList,
    },
    /// The server answered an unsubscribe request.
    Unsubscribed {
        /// The caller's name for it.
        token: u64,
        /// One for each filter, in order; none before 5.0.
        reasons: Vec<ReasonCode>,
    },
    /// A message came in.
    Message(Incoming),
}

/// What the server said when it accepted the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// It has the session of an earlier connection.
    pub session_present: bool,
    /// The client id it chose, or the one it was told.
    pub client_id: String,
    /// Unfinished publishes of QoS 1 and 2 at a time: the lower of ours and the server's.
    pub inflight_max: usize,
    /// Seconds between two packets to the server, at most, as it wants it.
    pub keep_alive_s: u16,
    /// Everything else.
    pub properties: PropertyList,
}

/// A delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// UTF-8, an alias resolved.
    pub topic: Bytes,
    /// The body.
    pub payload: Bytes,
    /// Of the delivery, not of what was published.
    pub qos: QoS,
    /// It answers a new subscription, or the subscription keeps the flag.
    pub retain: bool,
    /// It may have come before.
    pub dup: bool,
    /// 5.0 only.
    pub properties: PropertyList,
    /// What to acknowledge it with; none for QoS 0.
    pub handle: Option<AckHandle>,
}

/// Names a delivery that waits for [`Machine::acknowledge`](super::Machine::acknowledge).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AckHandle {
    pub(super) packet_id: u16,
    pub(super) qos: QoS,
    /// Packet ids mean something on one connection only.
    pub(super) connection: u32,
}
