//! A session: what it is subscribed to, how far it has read, and what is out.

use bytes::Bytes;
use fluxmq::model::message::publisher_id;
use fluxmq::model::record::OutboundEntry;
use fluxmq::model::{PartitionId, Principal, RetainHandling};
use fluxmq::view::{KeptWill, Session, StoredSubscription};
use fluxmq_index::Offset;

use crate::fold::Fold;
use crate::tree::Tree;

/// Returns the session of a client id; its wills, too, which it may have without being stored.
pub(super) fn find(fold: &Fold, client_id: &[u8]) -> Vec<Tree> {
    let id = Bytes::copy_from_slice(client_id);
    let wills: Vec<Tree> =
        fold.views.wills.of(&id).map(|(epoch, kept)| will(epoch, kept)).collect();
    let session = fold.views.sessions.get(client_id);
    if session.is_none() && wills.is_empty() {
        return Vec::new();
    }
    let mut fields = vec![("session", Tree::bytes(client_id))];
    fields.extend(session.into_iter().flat_map(|session| describe(fold, &id, &session)));
    fields.push(("wills", Tree::List(wills)));
    vec![Tree::Fields(fields)]
}

fn describe(fold: &Fold, client_id: &Bytes, session: &Session) -> Vec<(&'static str, Tree)> {
    let expiry = match session.expiry_s {
        u32::MAX => Tree::Text("never".into()),
        seconds => Tree::Number(u64::from(seconds)),
    };
    vec![
        ("user", user(&session.principal)),
        ("is_connected", Tree::Flag(session.closed_at.is_none())),
        ("closed_at", Tree::time(session.closed_at.map(|at| at.0))),
        ("ends_at", Tree::time(session.ends_at().map(|at| at.0))),
        ("expiry_s", expiry),
        ("epoch", Tree::Number(session.epoch.0)),
        ("incarnation", Tree::Number(u64::from(session.incarnation))),
        ("subscriptions", Tree::list(session.subscriptions.values().map(subscription))),
        ("cursors", positions(session.cursors.iter().map(|(partition, at)| (*partition, *at)))),
        ("outbound", Tree::list(session.outbound.iter().map(outbound))),
        ("open_qos2_publishes", open_ids(fold, client_id, session)),
    ]
}

/// What the client has published with QoS 2 and not released: known here only of topics in this partition.
fn open_ids(fold: &Fold, client_id: &Bytes, session: &Session) -> Tree {
    let ids = fold.views.dedup.open_ids(publisher_id(client_id), session.incarnation);
    Tree::list(ids.into_iter().map(|id| Tree::Number(u64::from(id))))
}

fn user(principal: &Principal) -> Tree {
    principal.name().map_or(Tree::None, |name| Tree::Text(name.to_owned()))
}

fn subscription(stored: &StoredSubscription) -> Tree {
    let subscription = &stored.subscription;
    let mut fields = vec![
        ("filter", Tree::bytes(subscription.filter.as_bytes())),
        ("qos", Tree::Number(subscription.qos as u64)),
    ];
    if let Some(group) = &subscription.group {
        fields.push(("group", Tree::bytes(group)));
    }
    if subscription.subscription_id != 0 {
        fields.push(("subscription_id", Tree::Number(u64::from(subscription.subscription_id))));
    }
    let flags = [
        ("no_local", subscription.no_local),
        ("retain_as_published", subscription.retain_as_published),
        ("settle_explicit", subscription.settle_explicit),
        ("is_replay", subscription.reader.is_replay()),
    ];
    fields.extend(flags.into_iter().filter(|(_, is)| *is).map(|(name, is)| (name, Tree::Flag(is))));
    let handling = match subscription.retain_handling {
        RetainHandling::Send => 0,
        RetainHandling::SendIfNew => 1,
        RetainHandling::DontSend => 2,
    };
    if handling != 0 {
        fields.push(("retain_handling", Tree::Number(handling)));
    }
    fields.push(("starts", positions(stored.starts.iter().copied())));
    Tree::Fields(fields)
}

fn positions(places: impl Iterator<Item = (PartitionId, Offset)>) -> Tree {
    Tree::list(places.map(|(partition, offset)| {
        Tree::Fields(vec![
            ("partition", Tree::Number(u64::from(partition.0))),
            ("offset", Tree::Number(offset.0)),
        ])
    }))
}

fn outbound(entry: &OutboundEntry) -> Tree {
    Tree::Fields(vec![
        ("packet_id", Tree::Number(u64::from(entry.packet_id))),
        ("partition", Tree::Number(u64::from(entry.partition.0))),
        ("offset", Tree::Number(entry.offset.0)),
        ("qos", Tree::Number(entry.qos as u64)),
        ("is_received", Tree::Flag(entry.received)),
    ])
}

fn will(epoch: Offset, kept: &KeptWill) -> Tree {
    let message = &kept.will.message;
    Tree::Fields(vec![
        ("epoch", Tree::Number(epoch.0)),
        ("topic", Tree::bytes(message.topic.as_bytes())),
        ("qos", Tree::Number(message.qos as u64)),
        ("retain", Tree::Flag(message.retain)),
        ("size", Tree::Number(message.payload.len() as u64)),
        ("delay_s", Tree::Number(u64::from(kept.will.delay_s))),
        ("due", Tree::time(kept.due.map(|at| at.0))),
        ("user", user(&kept.principal)),
    ])
}
