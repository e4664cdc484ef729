//! Clients that leave a will with every connection.

use bytes::Bytes;
use fluxmq::client::WillOptions;
use fluxmq::model::QoS;
use fluxmq::partition::request::ConnectionId;
use fluxmq::protocol::mqtt::property::{Property, PropertyList};

use crate::client::Role;
use crate::history::{MessageId, Outcome, Publish, payload};
use crate::world::World;

/// Seconds that a will waits, at most, if it does.
const DELAY_MAX: u64 = 3;

/// A will as CONNECT has it: every other one waits.
pub fn will_options(name: &str, (will, payload): &(MessageId, Bytes)) -> WillOptions {
    let delay_s = (will / 2 % (DELAY_MAX + 1)) as u32;
    let properties: PropertyList = match will % 2 {
        0 => PropertyList::default(),
        _ => [Property::WillDelay(delay_s)].into_iter().collect(),
    };
    WillOptions {
        topic: topic_of(name),
        payload: payload.clone(),
        qos: QoS::AtMostOnce,
        retain: false,
        properties,
    }
}

/// Nobody subscribes to them: that they are stored is what counts.
fn topic_of(name: &str) -> String {
    format!("w/{name}")
}

impl World {
    /// A client that connects leaves a will, if it is one of those that do.
    pub fn leave_will(&mut self, client: usize, on: ConnectionId) {
        let it = &mut self.clients[client];
        let is_mortal = matches!(it.role, Role::Publisher { .. } | Role::Subscriber { .. });
        if !self.plan.has_wills || !is_mortal {
            return;
        }
        it.next += 1;
        let id = ((client as u64 + 1) << 32) | it.next;
        it.will = Some((id, payload(id, self.plan.filling_max)));
        self.wills.left(id, on);
        self.history.invoke(Publish {
            id,
            client,
            connection: on,
            topic: topic_of(&it.name),
            qos: QoS::AtMostOnce,
            invoked: self.now,
            outcome: Outcome::Open,
            done: u64::MAX,
            is_idempotent: false,
        });
    }
}
