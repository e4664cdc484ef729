//! Sessions as rows of a snapshot.

use bytes::Bytes;
use fluxmq_index::Offset;
use serde::{Deserialize, Serialize};

use super::{Session, StoredSubscription};
use crate::model::{
    Filter, Millis, OutboundEntry, PartitionId, Principal, QoS, ReaderId, RetainHandling,
    Subscription,
};
use crate::view::section::{decode_rows, encode_rows};

/// One session, as a snapshot has it.
#[derive(Serialize, Deserialize)]
pub(super) struct Row {
    client_id: Vec<u8>,
    epoch: u64,
    incarnation: u32,
    expiry_s: u32,
    closed_at: Option<u64>,
    subscriptions: Vec<SubscriptionRow>,
    cursors: Vec<(u16, u64)>,
    outbound: Vec<OutboundRow>,
    principal: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct SubscriptionRow {
    filter: Vec<u8>,
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    retain_handling: u8,
    subscription_id: u32,
    group: Option<Vec<u8>>,
    settle_explicit: bool,
    reader: u32,
    starts: Vec<(u16, u64)>,
}

#[derive(Serialize, Deserialize)]
struct OutboundRow {
    packet_id: u16,
    reader: u32,
    partition: u16,
    offset: u64,
    qos: u8,
    retain: bool,
    received: bool,
}

/// Encodes a session as one of the rows of a snapshot.
pub(super) fn pack(client_id: &[u8], session: &Session) -> Box<[u8]> {
    encode_rows(&to_row(client_id, session)).into()
}

/// Decodes what was packed here.
pub(super) fn unpack(packed: &[u8]) -> Session {
    let row: Row = decode_rows(packed).expect("it was packed in this process");
    row.into_session().1
}

fn to_row(client_id: &[u8], session: &Session) -> Row {
    let outbound = |entry: &OutboundEntry| OutboundRow {
        packet_id: entry.packet_id,
        reader: entry.reader.0,
        partition: entry.partition.0,
        offset: entry.offset.0,
        qos: entry.qos as u8,
        retain: entry.retain,
        received: entry.received,
    };
    Row {
        client_id: client_id.to_vec(),
        epoch: session.epoch.0,
        incarnation: session.incarnation,
        expiry_s: session.expiry_s,
        closed_at: session.closed_at.map(|at| at.0),
        subscriptions: session.subscriptions.values().map(to_subscription_row).collect(),
        cursors: session.cursors.iter().map(|(partition, at)| (partition.0, at.0)).collect(),
        outbound: session.outbound.iter().map(outbound).collect(),
        principal: session.principal.as_bytes().to_vec(),
    }
}

fn to_subscription_row(stored: &StoredSubscription) -> SubscriptionRow {
    let subscription = &stored.subscription;
    SubscriptionRow {
        filter: subscription.filter.as_bytes().to_vec(),
        qos: subscription.qos as u8,
        no_local: subscription.no_local,
        retain_as_published: subscription.retain_as_published,
        retain_handling: match subscription.retain_handling {
            RetainHandling::Send => 0,
            RetainHandling::SendIfNew => 1,
            RetainHandling::DontSend => 2,
        },
        subscription_id: subscription.subscription_id,
        group: subscription.group.as_ref().map(|group| group.to_vec()),
        settle_explicit: subscription.settle_explicit,
        reader: subscription.reader.0,
        starts: stored.starts.iter().map(|(partition, at)| (partition.0, at.0)).collect(),
    }
}

impl Row {
    /// Returns the session and its client id.
    pub(super) fn into_session(self) -> (Bytes, Session) {
        let row = self;
        let qos = |bits| QoS::from_bits(bits).expect("snapshots hold what records held");
        let outbound = |row: OutboundRow| OutboundEntry {
            packet_id: row.packet_id,
            reader: ReaderId(row.reader),
            partition: PartitionId(row.partition),
            offset: Offset(row.offset),
            qos: qos(row.qos),
            retain: row.retain,
            received: row.received,
        };
        let subscriptions = row.subscriptions.into_iter().map(from_subscription_row);
        let cursors =
            row.cursors.into_iter().map(|(partition, at)| (PartitionId(partition), Offset(at)));
        let session = Session {
            epoch: Offset(row.epoch),
            incarnation: row.incarnation,
            principal: Principal::from_stored(Bytes::from(row.principal)),
            expiry_s: row.expiry_s,
            closed_at: row.closed_at.map(Millis),
            subscriptions: subscriptions
                .map(|stored| (stored.subscription.filter.clone(), stored))
                .collect(),
            cursors: cursors.collect(),
            outbound: row.outbound.into_iter().map(outbound).collect(),
        };
        (Bytes::from(row.client_id), session)
    }
}

fn from_subscription_row(row: SubscriptionRow) -> StoredSubscription {
    let starts = row.starts.into_iter();
    StoredSubscription {
        subscription: Subscription {
            filter: Filter::from_stored(Bytes::from(row.filter)),
            qos: QoS::from_bits(row.qos).expect("snapshots hold what records held"),
            no_local: row.no_local,
            retain_as_published: row.retain_as_published,
            retain_handling: match row.retain_handling {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                _ => RetainHandling::DontSend,
            },
            subscription_id: row.subscription_id,
            group: row.group.map(Bytes::from),
            settle_explicit: row.settle_explicit,
            reader: ReaderId(row.reader),
        },
        starts: starts.map(|(partition, at)| (PartitionId(partition), Offset(at))).collect(),
    }
}
