//! The fifteen packets of MQTT, for all versions and both directions.
//!
//! Strings, payloads and properties are slices of what was received. Fields that a version does not have are empty in it.

use bytes::Bytes;

use super::property::PropertyList;
use super::reason::ReasonCode;
use crate::model::QoS;
use crate::model::command::RetainHandling;

/// The protocol level of CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1, protocol name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1, level 4.
    V311,
    /// MQTT 5.0, level 5.
    V5,
}

impl Version {
    /// Returns true for 5.0: the version with properties and reason codes.
    pub fn is_v5(self) -> bool {
        self == Version::V5
    }
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Client asks for a session. Boxed: rare and large.
    Connect(Box<Connect>),
    /// Server answers CONNECT.
    ConnAck(ConnAck),
    /// A message, either way.
    Publish(Publish),
    /// QoS 1 done.
    PubAck(Ack),
    /// QoS 2: stored.
    PubRec(Ack),
    /// QoS 2: the sender has seen PUBREC.
    PubRel(Ack),
    /// QoS 2 done.
    PubComp(Ack),
    /// Client adds subscriptions.
    Subscribe(Subscribe),
    /// Server answers SUBSCRIBE.
    SubAck(SubAck),
    /// Client removes subscriptions.
    Unsubscribe(Unsubscribe),
    /// Server answers UNSUBSCRIBE.
    UnsubAck(UnsubAck),
    /// Client is alive.
    PingReq,
    /// Server is alive.
    PingResp,
    /// Either side leaves.
    Disconnect(Disconnect),
    /// A step of authentication (5.0).
    Auth(Auth),
}

/// CONNECT (§3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Out of protocol name and level.
    pub version: Version,
    /// Clean Start in 5.0, Clean Session before.
    pub clean_start: bool,
    /// Seconds between packets of the client, at most; 0 is no limit.
    pub keep_alive_s: u16,
    /// May be empty.
    pub client_id: Bytes,
    /// The message for when the client is gone.
    pub will: Option<Will>,
    /// UTF-8.
    pub username: Option<Bytes>,
    /// Anything.
    pub password: Option<Bytes>,
    /// 5.0 only.
    pub properties: PropertyList,
}

/// The will of a CONNECT (§3.1.3.2 to §3.1.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
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

/// CONNACK (§3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAck {
    /// State of an earlier connection is there.
    pub session_present: bool,
    /// A reason code in 5.0, a return code 0 to 5 before.
    pub reason: ReasonCode,
    /// 5.0 only.
    pub properties: PropertyList,
}

/// PUBLISH (§3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Sent before, perhaps.
    pub dup: bool,
    /// How surely.
    pub qos: QoS,
    /// Retained.
    pub retain: bool,
    /// Empty when an alias stands for it.
    pub topic: Bytes,
    /// 0 exactly when the QoS is 0.
    pub packet_id: u16,
    /// 5.0 only.
    pub properties: PropertyList,
    /// The body.
    pub payload: Bytes,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP (§3.4 to §3.7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// Of the PUBLISH.
    pub packet_id: u16,
    /// 0x00 before 5.0.
    pub reason: ReasonCode,
    /// 5.0 only.
    pub properties: PropertyList,
}

/// SUBSCRIBE (§3.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Echoed in SUBACK.
    pub packet_id: u16,
    /// 5.0 only.
    pub properties: PropertyList,
    /// At least one.
    pub filters: Vec<SubscribeFilter>,
}

/// One filter of a SUBSCRIBE with its options (§3.8.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// UTF-8, otherwise unchecked.
    pub filter: Bytes,
    /// The most the client wants.
    pub qos: QoS,
    /// Not what this client published; 5.0 only.
    pub no_local: bool,
    /// Keep the RETAIN flag; 5.0 only.
    pub retain_as_published: bool,
    /// What to do about retained messages; 5.0 only.
    pub retain_handling: RetainHandling,
}

impl SubscribeFilter {
    /// A filter with the options of 3.1.1.
    pub fn new(filter: Bytes, qos: QoS) -> SubscribeFilter {
        SubscribeFilter {
            filter,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }
}

/// SUBACK (§3.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// Of the SUBSCRIBE.
    pub packet_id: u16,
    /// 5.0 only.
    pub properties: PropertyList,
    /// One for each filter, in order.
    pub reasons: Vec<ReasonCode>,
}

/// UNSUBSCRIBE (§3.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Echoed in UNSUBACK.
    pub packet_id: u16,
    /// 5.0 only.
    pub properties: PropertyList,
    /// At least one.
    pub filters: Vec<Bytes>,
}

/// UNSUBACK (§3.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck {
    /// Of the UNSUBSCRIBE.
    pub packet_id: u16,
    /// 5.0 only.
    pub properties: PropertyList,
    /// One for each filter, in order; none before 5.0.
    pub reasons: Vec<ReasonCode>,
}

/// DISCONNECT (§3.14).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disconnect {
    /// 0x00 before 5.0.
    pub reason: ReasonCode,
    /// 5.0 only.
    pub properties: PropertyList,
}

/// AUTH (§3.15), 5.0 only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// 0x00, 0x18 or 0x19.
    pub reason: ReasonCode,
    /// The method and its data.
    pub properties: PropertyList,
}
