//! How a client's connections end: lost, replaced by another one, or with a goodbye.

use fluxmq::client::Machine;
use fluxmq::model::QoS;
use fluxmq::protocol::mqtt::ReasonCode;

use crate::coverage::Point;
use crate::plan::SECOND;
use crate::world::{Event, World};

impl World {
    /// The client's end of its connection closes.
    pub fn hang_up(&mut self, client: usize) {
        let it = &mut self.clients[client];
        let Some(machine) = it.machine.take() else { return };
        it.session = Some(machine.into_session());
        // What a QoS 1 delivery of this connection is acknowledged with means nothing on the next: it comes again.
        it.unacked.retain(|(_, place)| self.history.deliveries[*place].qos == QoS::ExactlyOnce);
        let Some(connection) = it.connection.take() else { return };
        self.replays.end(connection);
        self.history.connection_ends.entry(connection).or_insert(self.now);
        self.wills.ended(connection);
        if !it.is_open {
            it.node = (it.node + 1) % self.nodes.len();
        }
        it.is_open = false;
        it.away_until = self.now + it.random.below(SECOND);
        self.schedule.at(self.now + 300, Event::Hangup { to: connection });
    }

    /// Connects again while the old connection stands.
    pub fn take_over(&mut self, client: usize) {
        let it = &mut self.clients[client];
        if !it.is_open || it.zombie.is_some() {
            return;
        }
        it.is_open = false;
        let (machine, old) = (it.machine.take(), it.connection.take());
        it.session = machine.map(Machine::into_session);
        it.unacked.retain(|(_, place)| self.history.deliveries[*place].qos == QoS::ExactlyOnce);
        it.zombie = old;
        it.away_until = 0;
        if let Some(old) = old {
            self.history.connection_ends.entry(old).or_insert(self.now);
            self.wills.ended(old);
            // It is closed at last, if the broker has not done so before.
            self.schedule.at(self.now + 2 * SECOND, Event::Hangup { to: old });
        }
        self.coverage.hit(Point::TakeOver);
        self.connect(client);
    }

    /// Says goodbye and stays away for a while.
    pub fn leave(&mut self, client: usize) {
        let it = &mut self.clients[client];
        let Some(machine) = &mut it.machine else { return };
        let wants_will = it.will.is_some() && it.random.chance(300);
        let reason = match wants_will {
            true => ReasonCode::DISCONNECT_WITH_WILL,
            false => ReasonCode::SUCCESS,
        };
        machine.disconnect(reason, None);
        self.hear(client);
        let it = &mut self.clients[client];
        let away = it.random.below(8 * SECOND);
        self.hang_up(client);
        self.clients[client].away_until = self.now + away;
    }
}
