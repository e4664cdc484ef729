//! What a listener allows its MQTT clients: limits and policy, from the configuration.

use super::codec::Limits;
use crate::model::Refusal;

/// Shared by all connections of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What one packet may hold.
    pub limits: Limits,
    /// Bytes a connection may hold back before its CONNECT is whole: a larger CONNECT is refused by its declared length.
    pub unconnected_bytes_max: usize,
    /// Set for connections over a limit: what each CONNECT is refused with.
    pub turned_away: Option<Refusal>,
    /// Milliseconds from accepting a connection to its CONNECT.
    pub connect_timeout_ms: u64,
    /// Bytes of a client id.
    pub client_id_bytes_max: usize,
    /// What a 3.x client hears of a publish that it may not make.
    pub denied_publish: DeniedPublish,
    /// What a 5.0 client hears of a subscription that it may not have.
    pub denied_subscribe: DeniedSubscribe,
    /// Seconds a session may outlive its connection; `u32::MAX` is no cap.
    pub session_expiry_max_s: u32,
    /// Seconds of keep alive imposed on 5.0 clients that ask for more or none; 0 imposes nothing.
    pub keep_alive_max_s: u16,
    /// Unacknowledged QoS 1 and 2 publishes of a 5.0 client at a time (Receive Maximum of CONNACK).
    pub receive_max: u16,
    /// Unsettled QoS 1 and 2 deliveries to a client at a time, whatever it allows.
    pub inflight_max: u16,
    /// Aliases a 5.0 client may define (Topic Alias Maximum of CONNACK).
    pub topic_alias_max: u16,
    /// Bytes of all topics of a client's aliases together.
    pub topic_alias_bytes_max: usize,
    /// Publishes that wait for the broker before input is left unread.
    pub publishes_awaiting_max: usize,
    /// SUBSCRIBE and UNSUBSCRIBE packets that wait for the broker before input is left unread.
    pub requests_awaiting_max: usize,
    /// Bytes of answers the client has not taken before input is left unread.
    pub answer_bytes_max: usize,
}

/// What a 3.x client hears of a publish that it may not make: its PUBACK and PUBREC cannot say no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeniedPublish {
    /// That it is done; the message is dropped. What mosquitto does.
    #[default]
    Acknowledge,
    /// Nothing: the connection closes.
    Close,
}

/// What a 5.0 client hears of a subscription that it may not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeniedSubscribe {
    /// 0x87.
    #[default]
    Reason,
    /// 0x80, and no word of why.
    Unspecified,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            limits: Limits::default(),
            unconnected_bytes_max: 16 << 10,
            turned_away: None,
            connect_timeout_ms: 10_000,
            client_id_bytes_max: 256,
            denied_publish: DeniedPublish::Acknowledge,
            denied_subscribe: DeniedSubscribe::Reason,
            session_expiry_max_s: 7 * 24 * 3600,
            keep_alive_max_s: 0,
            receive_max: 64,
            inflight_max: 64,
            topic_alias_max: 32,
            topic_alias_bytes_max: 64 << 10,
            publishes_awaiting_max: 1_024,
            requests_awaiting_max: 64,
            answer_bytes_max: 64 << 10,
        }
    }
}
