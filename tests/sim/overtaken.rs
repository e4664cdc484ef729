//! Clients that overtake themselves: what they wrote to a process that is stopped is read after they have gone on elsewhere, and the
//! session's home has another leader, who has never heard of the connection that it was written on.

use fluxmq::partition::request::Request;
use fluxmq::view::Views;

use crate::client::Role;
use crate::node::State;
use crate::plan::{Fault, SECOND};
use crate::world::{Event, World};

impl World {
    /// A process stops before it reads what a client publishes.
    pub fn stop_unread(&mut self) {
        let victims: Vec<(usize, usize)> = (0..self.clients.len())
            .filter_map(|it| Some((it, self.serves_publisher(it)?)))
            .collect();
        if victims.is_empty() {
            return;
        }
        let (client, node) = *self.random.pick(&victims);
        let until = self.now + self.random.between(3 * SECOND, 8 * SECOND);
        self.pause_until(node, until);
        self.publish(client);
        self.hear(client);
        let at = self.now + self.random.between(1_000, SECOND / 2);
        self.schedule.at(at, Event::Mend(Fault::Overtaken, client));
    }

    /// The node that a client is connected to, which is up, when it publishes and has a session to lose.
    fn serves_publisher(&self, client: usize) -> Option<usize> {
        let it = &self.clients[client];
        let is_publisher = matches!(it.role, Role::Publisher { is_stored: true, .. });
        let connection = it.connection.filter(|_| it.is_open && is_publisher)?;
        let node = self.connections.get(&connection)?.node;
        (self.nodes[node].state == State::Up).then_some(node)
    }

    /// The client gives up on it and connects to another, where another leads its session's home.
    pub fn go_on_elsewhere(&mut self, client: usize) {
        let node = self.clients[client].node;
        self.hang_up(client);
        self.clients[client].node = (node + 1) % self.nodes.len();
        let home = self.placement.session(self.clients[client].name.as_bytes());
        let is_calm = self.resting || self.group.truce.is_some();
        if let Some((leader, _)) = self.leader_of(home).filter(|_| !is_calm) {
            self.transfer(leader, home);
        }
    }
}

/// Returns true for a QoS 2 step of a connection when a later one of its session was here before.
pub fn is_late(request: &Request, views: &Views) -> bool {
    let (publisher, tenure) = match request {
        Request::Publish(publish) if publish.may_be_copy() => {
            (publish.message.publisher, publish.tenure)
        }
        Request::Release { publisher, tenure, .. }
        | Request::BeginTenure { publisher, tenure, .. } => (*publisher, *tenure),
        _ => return false,
    };
    views.dedup.tenure(publisher).is_some_and(|known| tenure < known)
}
