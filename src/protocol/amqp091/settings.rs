//! What a listener allows its AMQP 0.9.1 clients: limits and policy, from the configuration.

use crate::model::{Refusal, VirtualHost};

/// Shared by all connections of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The virtual hosts that there are beside `/`.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Bytes of a frame, header and end included: what clients are offered.
    pub frame_bytes_max: u32,
    /// Bytes of a frame before that is agreed on.
    pub unconnected_frame_bytes_max: u32,
    /// The highest number of a channel: what clients are offered.
    pub channels_max: u16,
    /// Seconds between heartbeats: what clients are offered; 0 is none.
    pub heartbeat_s: u16,
    /// Milliseconds from accepting a connection to its `connection.open`.
    pub handshake_timeout_ms: u64,
    /// Milliseconds that a client has to answer `connection.close`.
    pub close_timeout_ms: u64,
    /// Bytes of the body of one message.
    pub message_bytes_max: u64,
    /// Bytes of bodies that a connection has begun and not finished, of all its channels together.
    pub unfinished_bytes_max: usize,
    /// Unsettled deliveries to a client at a time, whatever it allows.
    pub inflight_max: u16,
    /// Publishes that wait for the broker before input is left unread.
    pub publishes_awaiting_max: usize,
    /// Bytes of answers the client has not taken before input is left unread.
    pub answer_bytes_max: usize,
    /// Milliseconds that a client may leave a delivery unacknowledged before its channel is closed; 0 is no limit.
    pub consumer_timeout_ms: u64,
    /// True when a verified certificate says who the client is: EXTERNAL is offered to those who have one.
    pub certificates_name_users: bool,
    /// True when there are no users: `guest` with the password `guest` is then nobody in particular.
    pub guest_is_anonymous: bool,
    /// Set for connections over a limit: what each is refused with.
    pub turned_away: Option<Refusal>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            virtual_hosts: Vec::new(),
            frame_bytes_max: 128 << 10,
            unconnected_frame_bytes_max: 8 << 10,
            channels_max: 2047,
            heartbeat_s: 60,
            handshake_timeout_ms: 10_000,
            // Less than a broker that stops waits for its connections.
            close_timeout_ms: 3_000,
            message_bytes_max: 16 << 20,
            unfinished_bytes_max: 32 << 20,
            inflight_max: 1_024,
            publishes_awaiting_max: 1_024,
            answer_bytes_max: 64 << 10,
            consumer_timeout_ms: 30 * 60_000,
            certificates_name_users: false,
            guest_is_anonymous: false,
            turned_away: None,
        }
    }
}
