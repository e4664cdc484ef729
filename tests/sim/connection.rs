//! The broker's side of client connections: the protocol's machine and the broker's client, driven as `net::drive` drives them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use fluxmq::broker::{Client, ClientLimits};
use fluxmq::model::peer::{PeerInfo, Transport};
use fluxmq::model::{Command, Effect, Millis, PartitionId};
use fluxmq::partition::request::{ConnectionId, Event as Said, Request};
use fluxmq::protocol::Connection as _;
use fluxmq::protocol::mqtt::{MqttConnection, Settings};
use fluxmq::shard::{Events, Receiver};

use crate::checkers::Invariant;
use crate::history::MessageId;
use crate::world::{Event, World, brief};

/// Time between checkpoints of a stored session, much shorter than the broker's, to see many.
const CHECKPOINT_EVERY: u64 = 5_000_000;
/// Bytes written at a time.
const WRITE_BYTES_MAX: usize = 256 << 10;

/// One connection on its node.
pub struct Connection {
    pub node: usize,
    /// The process of the node that has it.
    pub life: u32,
    pub client: usize,
    protocol: MqttConnection,
    broker: Client,
    input: BytesMut,
    /// False once the peer is gone.
    has_stream: bool,
    /// When what was sent last arrives, by direction: nothing overtakes in a stream.
    up: u64,
    down: u64,
    told: BTreeMap<usize, u64>,
    asked: BTreeMap<usize, u64>,
    /// The node that each partition is asked at, for as long as the connection lasts.
    routes: BTreeMap<PartitionId, usize>,
    /// Nodes to which there is no stream any more.
    lost: BTreeSet<usize>,
    /// Term of its session's home in which it got the session; 0 until it has it.
    term: u64,
    publishes_sent: u64,
    passed_on: Arc<PassedOn>,
}

/// What was passed on to a connection and is not on its way yet.
#[derive(Default)]
struct PassedOn(Mutex<Events>);

impl Receiver for PassedOn {
    fn send(&self, events: Events) {
        self.0.lock().expect("one thread").extend(events);
    }

    fn has_room(&self, _more: usize) -> bool {
        true
    }

    fn wants_time(&self) -> bool {
        false
    }
}

impl Connection {
    /// Takes what was passed on to it.
    pub fn take_passed_on(&self) -> impl Iterator<Item = (PartitionId, Said)> + use<> {
        std::mem::take(&mut *self.passed_on.0.lock().expect("one thread")).into_iter()
    }

    /// When what a node says arrives; `None` when the stream from there is broken.
    pub fn told_at(&mut self, node: usize, wanted: u64) -> Option<u64> {
        if self.lost.contains(&node) {
            return None;
        }
        Some(in_order(self.told.entry(node).or_default(), wanted))
    }

    /// Breaks the stream to a node; returns the partitions asked there, `None` when it was broken before.
    pub fn lose_stream(&mut self, node: usize) -> Option<Vec<PartitionId>> {
        let routed = self.routes.iter().filter(|(_, at)| **at == node);
        let routed: Vec<PartitionId> = routed.map(|(partition, _)| *partition).collect();
        self.lost.insert(node).then_some(routed)
    }

    /// The nodes it has asked something.
    fn asked_nodes(&self) -> BTreeSet<usize> {
        self.routes.values().copied().chain([self.node]).collect()
    }

    pub fn up_at(&mut self, wanted: u64) -> u64 {
        in_order(&mut self.up, wanted)
    }
}

/// Returns the time a stream's next item arrives: not before the one before it.
fn in_order(last: &mut u64, wanted: u64) -> u64 {
    *last = wanted.max(*last + 1);
    *last
}

impl World {
    /// Accepts a connection of a client; `None` when nobody listens.
    pub fn accept_connection(&mut self, client: usize, node: usize) -> Option<ConnectionId> {
        if !self.nodes[node].is_up() {
            return None;
        }
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let now = self.nodes[node].uptime(self.now);
        let settings = Settings::default();
        let peer = PeerInfo {
            address: SocketAddr::from(([127, 0, 0, 1], 1883)),
            proxy: None,
            transport: Transport::Tcp,
            certificate: None,
        };
        let assigned = Bytes::from(format!("auto-{}", id.0));
        let limits = ClientLimits { credit: self.plan.credit, ..ClientLimits::default() };
        let connection = Connection {
            node,
            life: self.nodes[node].life,
            client,
            protocol: MqttConnection::new(Arc::new(settings), peer, assigned, now),
            broker: Client::new(id, self.placement.clone(), limits, Arc::default()),
            input: BytesMut::new(),
            has_stream: true,
            up: 0,
            down: 0,
            told: BTreeMap::new(),
            asked: BTreeMap::new(),
            routes: BTreeMap::new(),
            lost: BTreeSet::new(),
            term: 0,
            publishes_sent: 0,
            passed_on: Arc::default(),
        };
        self.live.connect(id, connection.passed_on.clone());
        self.connections.insert(id, connection);
        self.schedule.at(self.now + CHECKPOINT_EVERY, Event::Checkpoint { to: id });
        Some(id)
    }

    pub fn upstream(&mut self, to: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.living(to) else { return };
        connection.input.extend_from_slice(bytes);
        self.drive(to);
    }

    pub fn hangup(&mut self, to: ConnectionId) {
        if self.living(to).is_some() {
            self.lose(to);
            self.drive(to);
        }
    }

    pub fn told(&mut self, to: ConnectionId, events: Vec<(PartitionId, Said)>) {
        if self.told_service(to, &events) || self.living(to).is_none() {
            return;
        }
        for (from, event) in events {
            self.trace.note(self.now, "told", &[to.0, u64::from(from.0)], || {
                format!("c{} by p{} {}", to.0, from.0, brief(&event))
            });
            if let Said::SessionOpened(Ok(opened)) = &event {
                let connection = &self.connections[&to];
                let home = connection.routes.get(&from).copied().unwrap_or(connection.node);
                let term = match opened.term {
                    // A session that nothing stores does not say.
                    0 => self.status(home, from).map_or(0, |status| status.term),
                    term => term,
                };
                self.connections.get_mut(&to).expect("it lives").term = term;
            }
            let connection = self.connections.get_mut(&to).expect("it lives");
            connection.broker.handle_event(from, event);
        }
        self.drive(to);
    }

    pub fn checkpoint_session(&mut self, to: ConnectionId) {
        let Some(connection) = self.living(to) else { return };
        connection.broker.checkpoint();
        self.schedule.at(self.now + CHECKPOINT_EVERY, Event::Checkpoint { to });
        self.drive(to);
    }

    /// Tells a node's connections that time has passed.
    pub fn tick_connections(&mut self, node: usize) {
        let now = self.nodes[node].uptime(self.now);
        let life = self.nodes[node].life;
        let mine = |(id, connection): (&ConnectionId, &Connection)| {
            (connection.node == node && connection.life == life).then_some(*id)
        };
        let mine: Vec<ConnectionId> = self.connections.iter().filter_map(mine).collect();
        for id in mine {
            let connection = self.connections.get_mut(&id).expect("just listed");
            if connection.protocol.poll_timeout().is_some_and(|at| at <= now) {
                connection.protocol.handle_timeout(now);
                self.drive(id);
            }
        }
    }

    /// The connection, while the process that has it runs.
    fn living(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(&id)?;
        let node = &self.nodes[connection.node];
        (node.is_up() && node.life == connection.life).then_some(connection)
    }

    /// Lets both machines talk until neither has anything to say, then sends what they want sent.
    fn drive(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (node, client) = (connection.node, connection.client);
        let now = self.nodes[node].uptime(self.now);
        loop {
            let mut idle = true;
            if !connection.input.is_empty() && connection.has_stream {
                let before = connection.input.len();
                connection.protocol.handle_input(now, &mut connection.input);
                idle = connection.input.len() == before;
            }
            while let Some(command) = connection.protocol.poll_command() {
                if matches!(&command, Command::Close(close) if !close.will) {
                    self.wills.said_goodbye(id);
                }
                connection.broker.handle_command(now, command);
                idle = false;
            }
            while let Some(effect) = connection.broker.poll_effect() {
                if let Effect::Opened(opened) = &effect {
                    self.observer.opened(client, id, connection.term);
                    self.wills.opened(id);
                    self.clients[client].note_resume(opened, &mut self.coverage);
                }
                if matches!(effect, Effect::TakenOver) {
                    self.wills.taken_over(id);
                }
                connection.protocol.handle_effect(now, effect);
                idle = false;
            }
            if idle {
                break;
            }
        }
        self.transmit(id, now);
        self.ask(id, now);
    }

    fn transmit(&mut self, id: ConnectionId, now: Millis) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !connection.has_stream {
            return;
        }
        let mut output = BytesMut::new();
        connection.protocol.poll_transmit(now, &mut output, WRITE_BYTES_MAX);
        let (client, sent) = (connection.client, connection.protocol.counters().publishes_sent);
        let is_sending = sent > std::mem::replace(&mut connection.publishes_sent, sent);
        if !output.is_empty() {
            let delay = 50 + self.random.below(400);
            let at = in_order(&mut connection.down, self.now + delay);
            let bytes = output.freeze();
            let digest = xxhash_rust::xxh3::xxh3_64(&bytes);
            self.trace.note(self.now, "down", &[id.0, digest], || {
                format!("c{} to {} {} bytes", id.0, self.clients[client].name, bytes.len())
            });
            self.schedule.at(at, Event::Downstream { from: id, bytes });
        }
        let (is_closing, term) = (connection.protocol.is_closing(), connection.term);
        let home = self.placement.session(self.clients[client].name.as_bytes());
        let leader = connection.routes.get(&home).copied().unwrap_or(connection.node);
        // Nobody tells a node that its stream to the leader broke while the node was stopped: it learns of that and of the other at once.
        let may_know = !connection.lost.contains(&leader);
        if is_sending
            && may_know
            && let Some(newer) = self.observer.superseded(client, id, term)
        {
            let name = &self.clients[client].name;
            let what = format!("{name}: connection {} sends after {} was opened", id.0, newer.0);
            self.violate(Invariant::I19, what);
        }
        if is_closing {
            self.lose(id);
        }
    }

    /// Sends what the client of the broker asks to the partitions, in its order.
    fn ask(&mut self, id: ConnectionId, now: Millis) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // Writing settles QoS 0 deliveries, and losing the peer closes: those commands belong to this turn.
        while let Some(command) = connection.protocol.poll_command() {
            connection.broker.handle_command(now, command);
        }
        let mut requests = Vec::new();
        while let Some(request) = connection.broker.poll_request() {
            requests.push(request);
        }
        let mut by_node: BTreeMap<usize, Vec<(PartitionId, Request)>> = BTreeMap::new();
        for (partition, request) in requests {
            let node = self.route(id, partition);
            by_node.entry(node).or_default().push((partition, request));
        }
        for (node, requests) in by_node {
            let here = self.connections[&id].node;
            if self.connections[&id].lost.contains(&node) {
                // Asked after the stream broke, and maybe after that was noticed: answered like the rest.
                self.resign(id, requests.iter().map(|(partition, _)| *partition));
                continue;
            }
            if !self.is_linked(here, node) {
                self.break_stream(id, node);
                continue;
            }
            let delay = 20 + self.random.below(200) + if here == node { 0 } else { 300 };
            let connection = self.connections.get_mut(&id).expect("it asks");
            let at = in_order(connection.asked.entry(node).or_default(), self.now + delay);
            let life = self.nodes[node].life;
            self.schedule.at(at, Event::Requests { node, life, from: id, requests });
        }
        let connection = &self.connections[&id];
        if connection.broker.is_done() && !connection.has_stream {
            self.finish(id);
        }
    }

    /// The connection is over: what it held goes to others.
    fn finish(&mut self, id: ConnectionId) {
        let Some(mut connection) = self.connections.remove(&id) else { return };
        self.live.disconnect(id);
        for node in connection.asked_nodes() {
            let delay = 20 + self.random.below(200);
            let at = in_order(connection.asked.entry(node).or_default(), self.now + delay);
            self.forget_at(id, node, at);
        }
    }

    /// The node that a connection asks about a partition: the leader its own node knew when it first asked.
    fn route(&mut self, id: ConnectionId, partition: PartitionId) -> usize {
        let connection = &self.connections[&id];
        if let Some(node) = connection.routes.get(&partition) {
            return *node;
        }
        let leader = self.leader_seen_from(connection.node, partition);
        let connection = self.connections.get_mut(&id).expect("just seen");
        connection.routes.insert(partition, leader);
        leader
    }

    /// The peer is gone, or is to go.
    fn lose(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !std::mem::replace(&mut connection.has_stream, false) {
            return;
        }
        let now = self.nodes[connection.node].uptime(self.now);
        connection.protocol.handle_disconnect(now);
        connection.input.clear();
        while let Some(command) = connection.protocol.poll_command() {
            connection.broker.handle_command(now, command);
        }
        let at = in_order(&mut connection.down, self.now + 200);
        self.schedule.at(at, Event::Closed { from: id });
        self.history.connection_ends.entry(id).or_insert(self.now);
        self.wills.ended(id);
    }

    /// The process that had them is gone: clients notice after a while.
    pub fn drop_connections(&mut self, node: usize, notice: u64) {
        let gone: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.node == node)
            .map(|(id, _)| *id)
            .collect();
        let served: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| {
                connection.node != node && connection.asked_nodes().contains(&node)
            })
            .map(|(id, _)| *id)
            .collect();
        served.into_iter().for_each(|id| self.break_stream(id, node));
        for id in gone {
            let connection = self.connections.remove(&id).expect("just listed");
            self.live.disconnect(id);
            for other in connection.asked_nodes().into_iter().filter(|other| *other != node) {
                self.forget_at(id, other, self.now + notice);
            }
            self.history.connection_ends.entry(id).or_insert(self.now);
            self.wills.lost(id);
            self.schedule.at(self.now + notice, Event::Closed { from: id });
        }
    }
}

/// Reads the id of the message a partition hands out.
pub fn delivered_id(event: &Said) -> Option<MessageId> {
    match event {
        Said::Deliver(delivery) => crate::history::id_of(&delivery.message.payload),
        _ => None,
    }
}
