//! Connections and their channels, as administrators are shown them.

use serde_json::{Map, Value, json};

use super::Page;
use crate::model::connection::Traffic;
use crate::model::{ChannelDescription, ConnectionDescription};

/// Connections by number; `last` is where the list goes on behind them.
pub fn list_connections(page: &Page, found: &[ConnectionDescription], last: Option<u64>) -> Value {
    let rows = found.iter().map(|found| (found.id.to_string(), row(found)));
    page.answer("connections", rows, last.map(|last| last.to_string()))
}

/// Channels by connection and number; `last` is the last connection that was asked, where there may be more.
pub fn list_channels(page: &Page, found: &[ConnectionDescription], last: Option<u64>) -> Value {
    let from = page.channels_from().unwrap_or_default();
    let rows = found.iter().flat_map(|found| {
        let is_first = found.id == from.connection;
        let channels = found.channels.iter().filter(move |channel| {
            !is_first || from.channel.is_some_and(|listed| channel.number > listed)
        });
        channels.map(|of| (format!("{}/{}", found.id, of.number), channel(found.id, of)))
    });
    page.answer("channels", rows, last.map(|last| last.to_string()))
}

/// One connection, with its channels.
pub fn describe(found: &ConnectionDescription) -> Value {
    let mut shown = row(found);
    let channels = found.channels.iter().map(|of| channel(found.id, of));
    shown["channel_list"] = channels.collect();
    shown
}

fn row(found: &ConnectionDescription) -> Value {
    let peer = found.peer.as_deref();
    let client: Map<String, Value> = found
        .client
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
        .collect();
    let Traffic {
        packets_received,
        packets_sent,
        publishes_received,
        publishes_sent,
        payload_bytes_received,
        payload_bytes_sent,
    } = found.traffic;
    json!({
        "connection": found.id,
        "protocol": found.protocol,
        "version": found.version,
        "address": peer.map(|peer| peer.address.to_string()),
        "proxy": peer.and_then(|peer| peer.proxy).map(|proxy| proxy.to_string()),
        "transport": peer.map(|peer| peer.transport.name()),
        "state": found.state,
        "user": found.user,
        "client_id": found.client_id,
        "vhost": found.virtual_host,
        "client": client,
        "keep_alive_s": found.keep_alive_s,
        "since_ms": found.since.0,
        "subscriptions": found.subscriptions,
        "consumers": found.consumers,
        "channels": found.channel_count,
        "unconfirmed": found.unsettled.unconfirmed,
        "unacked": found.unsettled.unacked,
        "received": {
            "packets": packets_received, "publishes": publishes_received, "payload_bytes": payload_bytes_received
        },
        "sent": { "packets": packets_sent, "publishes": publishes_sent, "payload_bytes": payload_bytes_sent },
    })
}

fn channel(connection: u64, channel: &ChannelDescription) -> Value {
    json!({
        "connection": connection,
        "channel": channel.number,
        "mode": channel.mode,
        "consumers": channel.consumers,
        "unconfirmed": channel.unsettled.unconfirmed,
        "unacked": channel.unsettled.unacked,
        "prefetch": channel.prefetch,
        "channel_prefetch": channel.limit,
    })
}
