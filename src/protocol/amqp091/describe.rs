//! What a connection says of itself to an administrator, and what it keeps of what its client said of itself.

use super::channels::Channel;
use super::codec::{Table, Value};
use super::connection::AmqpConnection;
use super::convert::lossy;
use crate::model::connection::Unsettled;
use crate::model::{ChannelDescription, ConnectionDescription, Millis};

/// Client properties that are kept: who reads a list of connections tells them apart by these.
const KEPT: [&str; 4] = ["connection_name", "product", "version", "platform"];
/// Characters of each.
const CHARACTERS_MAX: usize = 128;

/// What is kept of a client's properties (AMQP 0.9.1 §1.4.2.1).
pub(super) fn kept(properties: &Table) -> Box<[(&'static str, String)]> {
    let text = |name: &'static str| match properties.get(name) {
        Some(Value::LongString(text)) => {
            Some((name, lossy(&text).chars().take(CHARACTERS_MAX).collect()))
        }
        _ => None,
    };
    KEPT.into_iter().filter_map(text).collect()
}

impl AmqpConnection {
    pub(super) fn description(&self, since: Millis, with_channels: bool) -> ConnectionDescription {
        let open = || self.channels.iter().filter(|(_, channel)| !channel.is_closing());
        let unsettled = open().map(|(_, channel)| channel.unsettled());
        let channel = |(number, channel): (u16, &Channel)| channel.describe(number);
        ConnectionDescription {
            protocol: "AMQP",
            version: "0.9.1",
            peer: Some(self.peer.clone()),
            state: self.state.name(),
            virtual_host: Some(self.host.name().into_owned()),
            client: self.client.properties.to_vec(),
            keep_alive_s: u32::try_from(self.tuned.heartbeat_ms / 1_000).unwrap_or(u32::MAX),
            since,
            consumers: open().map(|(_, channel)| channel.tags.len()).sum(),
            unsettled: unsettled.fold(Unsettled::default(), |all, one| Unsettled {
                unconfirmed: all.unconfirmed + one.unconfirmed,
                unacked: all.unacked + one.unacked,
            }),
            channel_count: open().count(),
            channels: if with_channels { open().map(channel).collect() } else { Vec::new() },
            ..ConnectionDescription::default()
        }
    }
}

impl Channel {
    fn unsettled(&self) -> Unsettled {
        Unsettled { unconfirmed: self.publishes.awaiting_count(), unacked: self.ledger.len() }
    }

    fn describe(&self, number: u16) -> ChannelDescription {
        ChannelDescription {
            number,
            mode: match (&self.transaction, self.publishes.are_confirmed()) {
                (Some(_), _) => "transaction",
                (None, true) => "confirm",
                (None, false) => "none",
            },
            consumers: self.tags.len(),
            unsettled: self.unsettled(),
            prefetch: self.prefetch,
            limit: self.limit,
        }
    }
}
