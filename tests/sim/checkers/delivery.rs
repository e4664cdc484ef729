//! The checkers of what clients were handed: I10, I11, I12, I14, I20.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq::model::{PartitionId, QoS};
use fluxmq::partition::request::ConnectionId;
use fluxmq_index::Offset;

use super::observer::HandedOut;
use super::stored::Places;
use super::{Invariant, Violation, matches, wrong};
use crate::client::Role;
use crate::history::{Delivery, EntryName, History, MessageId, Outcome, Publish};
use crate::plan::{Fault, SECOND};
use crate::world::World;

pub fn check(world: &World, places: &Places) -> Vec<Result<(), Violation>> {
    vec![
        at_least_once(world, places),
        exactly_once(&world.history),
        in_order(world, places),
        no_skips(world, places),
        one_member(world),
        passed_on_once(world),
    ]
}

/// I10: what is stored reaches every durable subscription that stood before it was sent, unless its history is over before; an entry
/// reaches some member.
pub fn at_least_once(world: &World, places: &Places) -> Result<(), Violation> {
    let history = &world.history;
    let got: BTreeSet<(usize, u32, MessageId)> =
        history.deliveries.iter().map(|it| (it.client, it.life, it.id)).collect();
    let in_group: BTreeSet<MessageId> = history.deliveries.iter().map(|it| it.id).collect();
    for subscription in history.subscriptions.iter().filter(|it| it.ended.is_none()) {
        let is_queue = subscription.filter.starts_with('$');
        for publish in &history.publishes {
            if publish.qos == QoS::AtMostOnce
                || publish.invoked <= subscription.granted
                || !places.contains_key(&publish.id)
                || !matches(&subscription.filter, &publish.topic)
            {
                continue;
            }
            let is_there = match is_queue {
                true => in_group.contains(&publish.id),
                false => {
                    got.contains(&(subscription.client, subscription.life, publish.id))
                        || places[&publish.id].iter().all(|place| world.is_over(*place))
                }
            };
            if !is_there {
                let what = format!("{:x} did not reach client {}", publish.id, subscription.client);
                return wrong(Invariant::I10, what);
            }
        }
    }
    Ok(())
}

/// I11.
fn exactly_once(history: &History) -> Result<(), Violation> {
    let mut seen: BTreeMap<(usize, u32, MessageId), u64> = BTreeMap::new();
    let is_meant = |it: &&Delivery| it.qos == QoS::ExactlyOnce && it.entry.is_none() && !it.retain;
    for delivery in history.deliveries.iter().filter(is_meant) {
        let key = (delivery.client, delivery.life, delivery.id);
        if let Some(first) = seen.insert(key, delivery.at) {
            let Delivery { id, client, at, .. } = delivery;
            let what = format!("{id:x} reached client {client} at {first} and at {at}");
            return wrong(Invariant::I11, what);
        }
    }
    Ok(())
}

/// I12: first deliveries of one producer's messages of one QoS and topic are in its order.
fn in_order(world: &World, places: &Places) -> Result<(), Violation> {
    let history = &world.history;
    let mut seen: BTreeSet<(usize, u32, MessageId)> = BTreeSet::new();
    let mut last = BTreeMap::new();
    // What is passed on may overtake what a replay has yet to read: I30 looks at those.
    let replays = |client: usize| matches!(world.clients[client].role, Role::Replayer { .. });
    let plain = |it: &&Delivery| it.entry.is_none() && !it.retain && !replays(it.client);
    for it in history.deliveries.iter().filter(plain) {
        if !seen.insert((it.client, it.life, it.id)) {
            continue;
        }
        // A copy that its publisher sent again comes where that copy is.
        if it.qos == QoS::AtLeastOnce && places.get(&it.id).is_some_and(|at| at.len() > 1) {
            continue;
        }
        // As in I5.
        if world.observer.is_refused(it.id) {
            continue;
        }
        // What is passed on comes from any node, and what a connection said last may come after what the next one says. So may what its
        // client gave up.
        let publish = history.publish(it.id);
        let is_of_connection =
            |publish: &&Publish| publish.qos == QoS::AtMostOnce || publish.outcome == Outcome::Open;
        let connection = publish.filter(is_of_connection).map(|publish| publish.connection);
        let kind = (publish.map_or(it.qos, |it| it.qos), connection);
        let key = (it.client, it.life, it.id >> 32, it.topic.as_str(), kind);
        if let Some(before) = last.insert(key, it.id)
            && before > it.id
        {
            let what = format!("client {} got {before:x} before {:x}", it.client, it.id);
            return wrong(Invariant::I12, what);
        }
    }
    Ok(())
}

/// I14: what a cursor has passed was acknowledged, or is out.
fn no_skips(world: &World, places: &Places) -> Result<(), Violation> {
    let history = &world.history;
    let acked: BTreeSet<(usize, MessageId)> = history
        .deliveries
        .iter()
        .filter(|it| it.acked.is_some())
        .map(|it| (it.client, it.id))
        .collect();
    let homes = world.nodes.iter().flat_map(|node| node.owned.values());
    for (name, session) in homes.flat_map(|owned| owned.partition.views().sessions.iter()) {
        let Some(client) = world.clients.iter().position(|it| it.name.as_bytes() == &name[..])
        else {
            continue;
        };
        let granted: Vec<_> =
            history.subscriptions.iter().filter(|it| it.client == client).collect();
        for publish in history.publishes.iter().filter(|it| it.qos != QoS::AtMostOnce) {
            let wanted = granted.iter().any(|it| {
                it.granted < publish.invoked
                    && !it.filter.starts_with('$')
                    && matches(&it.filter, &publish.topic)
            });
            let copies = places.get(&publish.id).filter(|_| wanted);
            let Some(&(partition, offset)) = copies.and_then(|at| at.first()) else { continue };
            let cursor = session.cursors.get(&partition).copied().unwrap_or(Offset::ZERO);
            let is_out =
                session.outbound.iter().any(|it| (it.partition, it.offset) == (partition, offset));
            let is_over = world.is_over((partition, offset));
            if offset < cursor && !is_out && !is_over && !acked.contains(&(client, publish.id)) {
                let name = &world.clients[client].name;
                let what =
                    format!("{name}: cursor {cursor} has passed {:x} at {offset}", publish.id);
                return wrong(Invariant::I14, what);
            }
        }
    }
    Ok(())
}

/// I20: an entry is handed out again only when the member that had it is gone, took too long, or was forgotten with the leader.
///
/// By when partitions hand out, not by when clients receive: what waits for a client's window, or in a process that is stopped, is out.
fn one_member(world: &World) -> Result<(), Violation> {
    let history = &world.history;
    let mut holder: BTreeMap<(PartitionId, &EntryName), &HandedOut> = BTreeMap::new();
    for it in &world.observer.handed {
        let Some(before) = holder.insert((it.partition, &it.name), it) else { continue };
        let timeout_ms = world.queues.visibility_timeout_ms(&it.name);
        let timeout_ms = timeout_ms.unwrap_or(world.plan.visibility_timeout_ms);
        let visible_again = timeout_ms.saturating_sub(300) * 1000;
        let ended = history.connection_ends.get(&before.to);
        let forgotten = world.observer.forgotten.get(&(before.to, it.partition));
        let mut forgotten = forgotten.into_iter().flatten();
        let is_gone = ended.is_some_and(|at| *at <= it.at)
            || forgotten.any(|at| (before.at..=it.at).contains(at));
        // What a stream's reader has, or gave back, is read: by no other member as long as it is there.
        let is_stream = world.queues.is_stream(&it.name);
        let is_late = !is_stream && it.at - before.at >= visible_again;
        let is_given_back = !is_stream && world.queues.is_given_back(&it.name, (before.at, it.at));
        // A leader that was deposed and does not know it yet hands out what the next one hands out too.
        let is_pause = |fault: &Fault| matches!(fault, Fault::Pause | Fault::Overtaken);
        let may_sleep = world.plan.faults.iter().any(|(fault, _)| is_pause(fault));
        let doubt = match world.nodes.len() {
            1 => 0,
            _ if may_sleep => 12 * SECOND,
            _ => 4 * SECOND,
        };
        let span = before.at.saturating_sub(doubt)..=it.at + doubt;
        let resets = &world.observer.resets;
        let is_reset = resets.iter().any(|(of, at)| *of == it.partition && span.contains(at));
        // Log time follows the wall clock, jumps and all.
        let may_be_due = is_gone || is_late || is_given_back || is_reset;
        if !may_be_due && !world.observer.has_clock_jumped {
            let HandedOut { entry, to, at, .. } = it;
            let what = format!(
                "{entry} was handed to connection {} at {} and to {} at {at}",
                before.to.0, before.at, to.0
            );
            return wrong(Invariant::I20, what);
        }
    }
    Ok(())
}

/// I20: no connection passes an entry on more often than it was handed it.
fn passed_on_once(world: &World) -> Result<(), Violation> {
    let mut balance: BTreeMap<(&str, ConnectionId), i64> = BTreeMap::new();
    for it in &world.observer.handed {
        *balance.entry((&it.entry, it.to)).or_default() += 1;
    }
    for it in &world.history.deliveries {
        let Some(entry) = it.entry.as_deref() else { continue };
        let left = balance.entry((entry, it.connection)).or_default();
        *left -= 1;
        if *left < 0 {
            let what = format!(
                "{entry} reached connection {} once more than it was handed out, at {}",
                it.connection.0, it.at
            );
            return wrong(Invariant::I20, what);
        }
    }
    Ok(())
}
