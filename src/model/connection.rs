//! Connections as their administrators see them: what each says of itself when it is asked, and how one is ended.
//!
//! Nobody keeps a list of this: a connection is asked, and puts together what its protocol, the broker's side of it and its socket know.

use super::{Millis, PeerInfo};

/// What is asked of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionQuestion {
    /// Who it is.
    Describe {
        /// Also what each of its channels is doing.
        with_channels: bool,
    },
    /// Ends it, and says who it was. Its client is told the reason.
    Close {
        /// In words; empty for none.
        reason: String,
    },
}

/// One connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionDescription {
    /// Its number in this process.
    pub id: u64,
    /// What it speaks: `MQTT` or `AMQP`; empty before it said so.
    pub protocol: &'static str,
    /// Which version of it.
    pub version: &'static str,
    /// Where its client is, and how its bytes travel.
    pub peer: Option<Box<PeerInfo>>,
    /// Where it stands.
    pub state: &'static str,
    /// What names its session, where clients choose that.
    pub client_id: Option<String>,
    /// The user it acts for; `None` is nobody in particular.
    pub user: Option<String>,
    /// The virtual host it opened.
    pub virtual_host: Option<String>,
    /// What its client said of itself: names and values.
    pub client: Vec<(&'static str, String)>,
    /// Seconds of silence after which it asks whether its client is there; 0 is never.
    pub keep_alive_s: u32,
    /// When it was accepted, in milliseconds since the process began; since 1970 where it leaves the process.
    pub since: Millis,
    /// Subscriptions of its session.
    pub subscriptions: usize,
    /// Consumers of queues.
    pub consumers: usize,
    /// Publishes that are not confirmed, deliveries that are not acknowledged.
    pub unsettled: Unsettled,
    /// How many channels it has, where there are any.
    pub channel_count: usize,
    /// What each of them is doing, where that was asked for. Ascending by number.
    pub channels: Vec<ChannelDescription>,
    /// What went through it.
    pub traffic: Traffic,
}

/// What is under way, either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Publishes that the broker has yet to confirm.
    pub unconfirmed: usize,
    /// Deliveries that the client has yet to acknowledge.
    pub unacked: usize,
}

/// One channel of a connection (AMQP 0.9.1 §1.5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelDescription {
    /// Its number.
    pub number: u16,
    /// How it publishes: `none`, `confirm` or `transaction`.
    pub mode: &'static str,
    /// Consumers.
    pub consumers: usize,
    /// What is under way.
    pub unsettled: Unsettled,
    /// Unacknowledged deliveries of each consumer to come, at most; 0 is no limit.
    pub prefetch: u16,
    /// Unacknowledged deliveries of all its consumers, at most; 0 is no limit.
    pub limit: u16,
}

/// Packets, or frames, and what was in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that came.
    pub packets_received: u64,
    /// Packets that went.
    pub packets_sent: u64,
    /// Publishes that came.
    pub publishes_received: u64,
    /// Deliveries that went.
    pub publishes_sent: u64,
    /// Bytes of the payloads that came.
    pub payload_bytes_received: u64,
    /// Bytes of the payloads that went.
    pub payload_bytes_sent: u64,
}
