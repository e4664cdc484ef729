//! What a client is told, and what it makes of it.

use fluxmq::client::{Event as Heard, Incoming};
use fluxmq::model::QoS;
use fluxmq::protocol::mqtt::ReasonCode;

use super::Role;
use crate::checkers::Invariant;
use crate::coverage::Point;
use crate::history::{Delivery, EntryName, Outcome, Subscription, id_of, payload};
use crate::replayer::place_of;
use crate::worker::{entry_of, is_topic_of, is_verb};
use crate::world::World;

impl World {
    pub(super) fn heard(&mut self, client: usize, event: Heard) {
        match event {
            Heard::Connected(connected) => {
                let it = &mut self.clients[client];
                it.is_open = true;
                let found = it.will.as_ref().map_or(Ok(()), |will| self.wills.confirmed(will.0));
                self.accept(found);
                let it = &mut self.clients[client];
                if !connected.session_present {
                    it.life += 1;
                    it.is_subscribed = false;
                    if it.life > 1 && it.is_stored() {
                        let what = format!("{}: its session was stored and is forgotten", it.name);
                        self.violate(Invariant::I10, what);
                    }
                }
            }
            Heard::SessionLost { unfinished } => {
                for token in unfinished {
                    self.clients[client].publishing.remove(&token);
                    self.clients[client].verbs.remove(&token);
                }
            }
            Heard::Published { token, reason, .. } => {
                match is_verb(token) {
                    true => self.settled(client, token, reason),
                    false => self.published(client, token, reason),
                }
                if reason == ReasonCode::UNSPECIFIED_ERROR
                    || reason == ReasonCode::SERVER_UNAVAILABLE
                {
                    self.hang_up(client);
                }
            }
            Heard::Subscribed { reasons, .. } => {
                let it = &mut self.clients[client];
                it.is_subscribing = false;
                if reasons.iter().any(|reason| reason.is_error()) {
                    return self.hang_up(client);
                }
                it.is_subscribed = true;
                match it.role {
                    // What its queue does with what it does not take is for the checkers of queues.
                    Role::Worker { .. } => return,
                    Role::Replayer { .. } => {
                        return self.replays.granted(it.connection.expect("it was told on one"));
                    }
                    Role::Publisher { .. } | Role::Subscriber { .. } | Role::Consumer { .. } => {}
                }
                let (life, granted) = (it.life, self.now);
                let grant =
                    |(filter, _)| Subscription { client, life, filter, granted, ended: None };
                self.history.subscriptions.extend(it.filters().into_iter().map(grant));
            }
            Heard::Unsubscribed { .. } => {}
            Heard::Message(incoming) => self.received(client, &incoming),
        }
    }

    fn published(&mut self, client: usize, token: u64, reason: ReasonCode) {
        let Some(id) = self.clients[client].publishing.remove(&token) else { return };
        let (now, is_error) = (self.now, reason.is_error());
        self.trace
            .note(now, "published", &[id, u64::from(reason.0)], || format!("{id:x} {reason:?}"));
        if reason == ReasonCode::QUOTA_EXCEEDED {
            let publish = self.history.publish(id);
            self.coverage.hit(match publish.is_some_and(|it| self.plan.may_be_full(&it.topic)) {
                true => Point::QueueFull,
                false => Point::WatermarkRefused,
            });
        }
        let connection = self.clients[client].connection;
        let publish = self.history.publish_mut(id);
        let is_repeated = publish.qos == QoS::AtLeastOnce && connection != Some(publish.connection);
        publish.done = now;
        publish.outcome = match is_error {
            false => Outcome::Acked,
            // "Unspecified" says that its fate is not known: a partition that stopped may have it. So may one that refuses a
            // second copy of QoS 1 and has the first.
            true if reason == ReasonCode::UNSPECIFIED_ERROR => Outcome::Open,
            true if is_repeated => Outcome::Open,
            true => Outcome::Failed,
        };
        if !is_error && !self.observer.is_committed(id) {
            self.violate(Invariant::I1, format!("{id:x} is acknowledged and not committed"));
        }
    }

    fn received(&mut self, client: usize, incoming: &Incoming) {
        let it = &mut self.clients[client];
        let name = it.name.clone();
        let Some(id) = id_of(&incoming.payload) else {
            return self.violate(Invariant::I2, format!("{name}: a payload that nobody sent"));
        };
        self.trace.note(self.now, "received", &[id, client as u64], || {
            format!("{name} {id:x} {:?} dup {}", incoming.qos, incoming.dup)
        });
        let entry = entry_of(incoming);
        let is_explicit = matches!(it.role, Role::Worker { is_explicit: true, .. });
        let delivery = Delivery {
            id,
            client,
            life: it.life,
            connection: it.connection.expect("it came on one"),
            at: self.now,
            topic: String::from_utf8_lossy(&incoming.topic).into_owned(),
            qos: incoming.qos,
            dup: incoming.dup,
            retain: incoming.retain,
            entry: entry.as_ref().map(EntryName::message_id),
            name: entry,
            acked: None,
        };
        let known = self.history.publish(id).is_some_and(|publish| {
            is_topic_of(&publish.topic, &delivery.topic, delivery.name.is_some())
                && incoming.payload == payload(id, self.plan.filling_max)
        });
        if let Some(place) = place_of(incoming) {
            let found = self.replays.delivered(delivery.connection, place, id);
            self.accept(found);
        }
        let it = &mut self.clients[client];
        let place = self.history.deliveries.len();
        let task = delivery.name.clone().filter(|_| is_explicit);
        self.history.deliveries.push(delivery);
        match (task, incoming.handle) {
            (Some(task), handle) => {
                // To have it is one thing, to settle it another.
                if let (Some(handle), Some(machine)) = (handle, &mut it.machine) {
                    machine.acknowledge(handle, ReasonCode::SUCCESS);
                }
                self.take_task(client, task);
            }
            (None, Some(handle)) => it.unacked.push((handle, place)),
            (None, None) => {}
        }
        if !known {
            self.violate(Invariant::I2, format!("{name}: {id:x} is not what anybody published"));
        }
    }
}
