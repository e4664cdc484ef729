//! A client program: our own MQTT machine, its session kept over lost connections, and a will of its own.

mod ending;
mod hearing;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use fluxmq::client::{
    AckHandle, ConnectOptions, Machine, PublishRequest, Session, SubscribeRequest,
};
use fluxmq::model::effect::{Opened, Outbound};
use fluxmq::model::{Millis, QoS, RetainHandling};
use fluxmq::partition::request::ConnectionId;
use fluxmq::protocol::mqtt::ReasonCode;
use fluxmq::protocol::mqtt::types::SubscribeFilter;

use crate::checkers::Invariant;
use crate::coverage::{Coverage, Point};
use crate::history::{MessageId, Outcome, Publish, Verb, payload};
use crate::mortal::will_options;
use crate::plan::{Declared, Plan, SECOND};
use crate::random::Random;
use crate::worker::{Said, Task, told_with};
use crate::world::{Event, World};

/// Publishes of QoS 1 and 2 a client has unanswered, at most.
const INFLIGHT_MAX: u16 = 16;
/// A handshake that takes longer is given up.
const HANDSHAKE: u64 = 3 * SECOND;

/// What a client does.
#[derive(Clone, Debug)]
pub enum Role {
    Publisher {
        topics: Vec<String>,
        is_stored: bool,
    },
    Subscriber {
        filters: Vec<(String, QoS)>,
    },
    Consumer {
        filter: String,
        qos: QoS,
    },
    Worker {
        filter: String,
        group: String,
        is_explicit: bool,
        is_stored: bool,
    },
    /// Replays one of these filters, at the address that its connection chose.
    Replayer {
        filters: Vec<String>,
        address: String,
    },
}

/// A client.
pub struct SimClient {
    pub name: String,
    pub role: Role,
    pub machine: Option<Machine>,
    session: Option<Session>,
    pub connection: Option<ConnectionId>,
    /// An earlier connection that was not closed when the present one was opened.
    zombie: Option<ConnectionId>,
    input: BytesMut,
    pub random: Random,
    pub next: u64,
    /// By the machine's token.
    publishing: BTreeMap<u64, MessageId>,
    /// Handed to the program and not acknowledged, with its place in the history.
    unacked: Vec<(AckHandle, usize)>,
    /// What a worker has to settle, and the verbs that are not answered.
    pub tasks: Vec<Task>,
    pub verbs: BTreeMap<u64, Said>,
    /// The will of the newest connection, and its payload.
    pub will: Option<(MessageId, Bytes)>,
    /// Which life of the session.
    pub life: u32,
    pub is_open: bool,
    is_subscribed: bool,
    is_subscribing: bool,
    connecting_since: u64,
    /// Where to connect.
    pub node: usize,
    /// Stays away until then.
    away_until: u64,
    pub silent_until: u64,
}

impl SimClient {
    /// The clients of a plan.
    pub fn all(plan: &Plan, random: &mut Random) -> Vec<SimClient> {
        let mut clients = Vec::new();
        let topics: Vec<String> = (0..plan.topics).map(|number| format!("t/{number}")).collect();
        let queues: Vec<String> =
            (0..plan.queues).map(|number| format!("$queue/q{number}/x")).collect();
        let declared = plan.worked().map(|it| format!("$queue/{}/x", it.name));
        let addresses: Vec<String> =
            topics.iter().chain(&queues).cloned().chain(declared).collect();
        for number in 0..plan.publishers {
            let is_stored = random.chance(700);
            let role = Role::Publisher { topics: addresses.clone(), is_stored };
            clients.push(SimClient::new(format!("pub{number}"), role, random));
        }
        for number in 0..plan.subscribers {
            let qos = *random.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce]);
            let all = vec![("t/#".to_owned(), qos)];
            let single = topics.iter().map(|topic| (topic.clone(), qos)).collect();
            let filters = if random.chance(600) { all } else { single };
            clients.push(SimClient::new(
                format!("sub{number}"),
                Role::Subscriber { filters },
                random,
            ));
        }
        for number in 0..plan.consumers {
            let queue = number % plan.queues;
            let filter = format!("$queue/q{queue}/#");
            let qos = *random.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce]);
            let role = Role::Consumer { filter, qos };
            clients.push(SimClient::new(format!("con{number}"), role, random));
        }
        for number in 0..plan.replayers {
            let filters = topics.iter().cloned().chain(["t/#".to_owned()]).collect();
            let role = Role::Replayer { filters, address: String::new() };
            clients.push(SimClient::new(format!("rep{number}"), role, random));
        }
        let worked: Vec<String> = plan.classic().map(|it| it.name.clone()).collect();
        for number in 0..plan.workers {
            let filter = format!("$queue/{}/#", random.pick(&worked));
            let group = (*random.pick(&["g", "g", "h"])).to_owned();
            let (is_explicit, is_stored) = (random.chance(700), random.chance(500));
            let role = Role::Worker { filter, group, is_explicit, is_stored };
            clients.push(SimClient::new(format!("work{number}"), role, random));
        }
        let streams: Vec<&Declared> = plan.streams().collect();
        let late: Vec<&Declared> = plan.retroactive().collect();
        for (kind, count, queues) in
            [("read", plan.readers, streams), ("late", plan.latecomers, late)]
        {
            for number in 0..count {
                let filter = format!("$queue/{}/#", random.pick(&queues).name);
                let group = (*random.pick(&["g", "g", "h"])).to_owned();
                let (is_explicit, is_stored) = (random.chance(700), random.chance(500));
                let role = Role::Worker { filter, group, is_explicit, is_stored };
                clients.push(SimClient::new(format!("{kind}{number}"), role, random));
            }
        }
        clients
    }

    fn new(name: String, role: Role, random: &mut Random) -> SimClient {
        SimClient {
            random: random.fork(xxhash_rust::xxh3::xxh3_64(name.as_bytes())),
            name,
            role,
            machine: None,
            session: Some(Session::default()),
            connection: None,
            zombie: None,
            input: BytesMut::new(),
            next: 0,
            publishing: BTreeMap::new(),
            unacked: Vec::new(),
            tasks: Vec::new(),
            verbs: BTreeMap::new(),
            will: None,
            life: 0,
            is_open: false,
            is_subscribed: false,
            is_subscribing: false,
            connecting_since: 0,
            node: 0,
            away_until: 0,
            silent_until: 0,
        }
    }

    /// Returns true when its session outlives its connections.
    pub fn is_stored(&self) -> bool {
        match &self.role {
            Role::Publisher { is_stored, .. } | Role::Worker { is_stored, .. } => *is_stored,
            Role::Subscriber { .. } | Role::Consumer { .. } => true,
            Role::Replayer { .. } => false,
        }
    }

    fn options(&self) -> ConnectOptions {
        ConnectOptions {
            client_id: self.name.clone(),
            clean_start: !self.is_stored(),
            session_expiry_s: if self.is_stored() { 3_600 } else { 0 },
            keep_alive_s: 5,
            receive_maximum: 12,
            inflight_max: INFLIGHT_MAX,
            will: self.will.as_ref().map(|will| will_options(&self.name, will)),
            ..ConnectOptions::default()
        }
    }

    fn filters(&self) -> Vec<(String, QoS)> {
        match &self.role {
            Role::Publisher { .. } => Vec::new(),
            Role::Subscriber { filters } => filters.clone(),
            Role::Consumer { filter, qos } => vec![(filter.clone(), *qos)],
            Role::Worker { filter, .. } => vec![(filter.clone(), QoS::AtLeastOnce)],
            Role::Replayer { address, .. } => vec![(address.clone(), QoS::ExactlyOnce)],
        }
    }

    /// Returns true when everything it began has ended.
    pub fn is_finished(&self) -> bool {
        let session = self.machine.as_ref().map(Machine::session).or(self.session.as_ref());
        self.unacked.is_empty()
            && self.tasks.is_empty()
            && session.is_none_or(|session| session.unfinished_count() == 0)
    }

    /// Notes in which half-step each QoS 2 exchange is that a resumed session goes on with.
    pub fn note_resume(&self, opened: &Opened, coverage: &mut Coverage) {
        let Some(session) = self.machine.as_ref().map(Machine::session) else { return };
        for (packet_id, is_releasing) in session.exactly_once_publishes() {
            let is_stored = opened.inbound.contains(&packet_id);
            coverage.hit(match (is_releasing, is_stored) {
                (false, false) => Point::ResumePublishUnsent,
                (false, true) => Point::ResumePublishStored,
                (true, true) => Point::ResumeReleaseUnsent,
                (true, false) => Point::ResumeReleaseStored,
            });
        }
        let known: BTreeSet<u16> = session.exactly_once_deliveries().collect();
        for unfinished in &opened.outbound {
            match unfinished {
                Outbound::Publish { packet_id, delivery } if delivery.qos == QoS::ExactlyOnce => {
                    coverage.hit(match known.contains(packet_id) {
                        false => Point::ResumeDeliveryUnseen,
                        true => Point::ResumeDeliverySeen,
                    });
                }
                Outbound::Publish { .. } => coverage.hit(Point::ResumeAtLeastOnce),
                Outbound::Release { packet_id, .. } => {
                    coverage.hit(match known.contains(packet_id) {
                        true => Point::ResumeReceivedKept,
                        false => Point::ResumeReceivedGone,
                    })
                }
            }
        }
    }
}

impl World {
    /// A client's turn: it connects, or works on its connection.
    pub fn act(&mut self, client: usize) {
        let every = if self.resting { 50_000 } else { self.plan.act_every };
        let it = &mut self.clients[client];
        let next = self.now + 1_000 + it.random.spread(every).min(20 * SECOND);
        self.schedule.at(next, Event::Act { client });
        if self.clients[client].machine.is_none() {
            return self.connect(client);
        }
        let now = Millis(self.now / 1000);
        let it = &mut self.clients[client];
        if !it.is_open {
            if self.now > it.connecting_since + HANDSHAKE {
                self.hang_up(client);
            }
            return;
        }
        it.machine.as_mut().expect("just seen").handle_timeout(now);
        self.acknowledge(client);
        self.subscribe(client);
        self.work(client);
        self.publish(client);
        self.hear(client);
    }

    fn connect(&mut self, client: usize) {
        let it = &self.clients[client];
        if it.away_until > self.now && !self.resting {
            return;
        }
        let node = it.node;
        self.clients[client].node = (node + 1) % self.nodes.len();
        let Some(connection) = self.accept_connection(client, node) else { return };
        self.leave_will(client, connection);
        self.choose_replay(client, connection);
        let it = &mut self.clients[client];
        it.node = node;
        let session = it.session.take().expect("no machine has it");
        let machine = Machine::new(it.options(), session, Millis(self.now / 1000));
        it.machine = Some(machine.unwrap_or_else(|(error, _)| panic!("CONNECT: {error}")));
        it.connection = Some(connection);
        it.connecting_since = self.now;
        (it.is_open, it.is_subscribing) = (false, false);
        it.input.clear();
        self.trace.note(self.now, "connect", &[client as u64, connection.0], || {
            format!("{} to {node} as c{}", self.clients[client].name, connection.0)
        });
        self.hear(client);
    }

    fn acknowledge(&mut self, client: usize) {
        let resting = self.resting;
        let it = &mut self.clients[client];
        let Some(machine) = &mut it.machine else { return };
        let mut kept = Vec::new();
        for (handle, place) in std::mem::take(&mut it.unacked) {
            if !resting && it.random.chance(250) {
                kept.push((handle, place));
                continue;
            }
            let is_refused = match &it.role {
                Role::Worker { .. } => !resting && it.random.chance(60),
                _ => false,
            };
            let (reason, verb) = match is_refused {
                true => (ReasonCode::UNSPECIFIED_ERROR, Verb::Reject),
                false => (ReasonCode::SUCCESS, Verb::Ack),
            };
            machine.acknowledge(handle, reason);
            let delivery = &mut self.history.deliveries[place];
            delivery.acked = Some(self.now);
            if let Some(name) = &delivery.name {
                self.queues.say(name, verb, self.now);
            }
        }
        it.unacked = kept;
    }

    fn subscribe(&mut self, client: usize) {
        let filters = self.clients[client].filters();
        if filters.iter().any(|(filter, _)| self.is_undeclared(filter)) {
            return;
        }
        let properties = self.subscription_properties(client);
        let it = &mut self.clients[client];
        if it.is_subscribed || it.is_subscribing {
            return;
        }
        let filter = |(filter, qos): (String, QoS)| SubscribeFilter {
            filter: Bytes::from(filter),
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::DontSend,
        };
        let filters: Vec<SubscribeFilter> = filters.into_iter().map(filter).collect();
        if filters.is_empty() {
            it.is_subscribed = true;
            return;
        }
        let request = SubscribeRequest { filters, properties };
        let Some(machine) = &mut it.machine else { return };
        it.is_subscribing = machine.subscribe(0, &request).is_ok();
    }

    pub fn publish(&mut self, client: usize) {
        if self.resting || self.clients[client].silent_until > self.now {
            return;
        }
        let Role::Publisher { topics, .. } = self.clients[client].role.clone() else { return };
        let burst = 1 + self.clients[client].random.spread(2);
        for _ in 0..burst {
            let it = &mut self.clients[client];
            if it.machine.as_ref().is_none_or(|machine| machine.window() == 0) {
                return;
            }
            it.next += 1;
            let id = ((client as u64 + 1) << 32) | it.next;
            let topic = it.random.pick(&topics).clone();
            if self.is_undeclared(&topic) {
                continue;
            }
            let it = &mut self.clients[client];
            let Some(machine) = &mut it.machine else { return };
            let qos = *it.random.pick(&[
                QoS::AtMostOnce,
                QoS::AtLeastOnce,
                QoS::ExactlyOnce,
                QoS::ExactlyOnce,
            ]);
            let retain = it.random.chance(100) && !topic.starts_with('$');
            let request = PublishRequest {
                topic: Bytes::from(topic.clone()),
                payload: payload(id, self.plan.filling_max),
                qos,
                retain,
                properties: told_with(&topic, self.plan.has_priorities(), &mut it.random),
            };
            if machine.publish(id, &request).is_err() {
                return;
            }
            self.trace
                .note(self.now, "publish", &[id], || format!("{} {id:x} {qos:?} {topic}", it.name));
            if qos != QoS::AtMostOnce {
                it.publishing.insert(id, id);
            }
            self.history.invoke(Publish {
                id,
                client,
                connection: it.connection.expect("its machine is connected"),
                topic,
                qos,
                invoked: self.now,
                outcome: Outcome::Open,
                done: u64::MAX,
                is_idempotent: qos == QoS::ExactlyOnce,
            });
        }
    }

    /// Takes what the broker sent.
    pub fn downstream(&mut self, from: ConnectionId, bytes: &[u8]) {
        let Some(client) = self.clients.iter().position(|it| it.connection == Some(from)) else {
            return;
        };
        let now = Millis(self.now / 1000);
        let it = &mut self.clients[client];
        let Some(machine) = &mut it.machine else { return };
        it.input.extend_from_slice(bytes);
        machine.handle_input(now, &mut it.input);
        self.hear(client);
    }

    /// The broker's end is closed.
    pub fn closed(&mut self, from: ConnectionId) {
        if let Some(it) = self.clients.iter_mut().find(|it| it.zombie == Some(from)) {
            it.zombie = None;
        }
        let Some(client) = self.clients.iter().position(|it| it.connection == Some(from)) else {
            return;
        };
        if let Some(machine) = &mut self.clients[client].machine {
            machine.handle_disconnect(None);
        }
        self.hear(client);
    }

    /// Takes what the machine has heard, sends what it wants sent, and notices its end.
    pub fn hear(&mut self, client: usize) {
        while let Some(event) = self.clients[client].machine.as_mut().and_then(Machine::poll_event)
        {
            self.heard(client, event);
        }
        if self.resting {
            // Whatever is left of a long backlog is finished in time.
            self.work(client);
        }
        let it = &mut self.clients[client];
        let Some(machine) = &mut it.machine else { return };
        let mut output = BytesMut::new();
        machine.poll_transmit(Millis(self.now / 1000), &mut output);
        let failure = machine.poll_failure();
        if let (false, Some(to)) = (output.is_empty(), it.connection) {
            let delay = 50 + it.random.below(400);
            if let Some(connection) = self.connections.get_mut(&to) {
                let at = connection.up_at(self.now + delay);
                self.schedule.at(at, Event::Upstream { to, bytes: output.freeze() });
            }
        }
        if let Some(failure) = failure {
            let text = failure.to_string();
            self.trace.note(self.now, "ended", &[client as u64], || {
                format!("{}: {text}", self.clients[client].name)
            });
            if let fluxmq::client::ClientError::Protocol(what) = failure {
                let name = &self.clients[client].name;
                self.violate(
                    Invariant::I12,
                    format!("{name}: the broker broke the protocol: {what}"),
                );
            }
            self.hang_up(client);
        }
    }
}
