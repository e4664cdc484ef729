//! Whole brokers below their sockets: clients made of the codec, real connections, sessions and partitions, a simulated disk.
//!
//! What one connection alone cannot show: what reaches whom, what is kept, and what is there again. Every test runs for each version
//! of the protocol that has the rule.

mod bad_input;
mod filters;
mod properties;
mod qos;
mod retained;
mod sessions;
mod subscriptions;
mod wills;

use std::collections::{BTreeMap, VecDeque};

use fluxmq::partition::request::ConnectionId;

use super::*;
use crate::world::World;

/// The versions there are.
const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
/// Those with rules of their own number.
const STANDARDS: [Version; 2] = [Version::V311, Version::V5];
const AT_MOST: QoS = QoS::AtMostOnce;
const AT_LEAST: QoS = QoS::AtLeastOnce;
const EXACTLY: QoS = QoS::ExactlyOnce;

/// A broker, and everybody who ever connected to it.
struct Stack {
    world: World,
    settings: Arc<Settings>,
    ends: BTreeMap<ConnectionId, End>,
}

/// One connection, seen from both of its ends.
struct End {
    machine: MqttConnection,
    version: Version,
    /// What the connection has not consumed.
    input: BytesMut,
    /// What the client received and the test has not taken.
    received: VecDeque<Packet>,
    is_up: bool,
    next_packet_id: u16,
}

impl Stack {
    fn new() -> Stack {
        Stack::with(settings())
    }

    fn with(settings: Settings) -> Stack {
        // Several partitions: what holds there holds with one.
        Stack { world: World::new(4), settings: Arc::new(settings), ends: BTreeMap::new() }
    }

    /// Kills the broker, cuts the power and starts it again: every connection is gone.
    fn crash(self) -> Stack {
        Stack { world: self.world.crash(5), settings: self.settings, ends: BTreeMap::new() }
    }

    /// A network connection over which nothing was said.
    fn dial(&mut self, version: Version) -> ConnectionId {
        let id = self.world.connect();
        let assigned = Bytes::from(format!("auto-{}", id.0));
        let peer = PeerInfo::tcp(SocketAddr::from(([127, 0, 0, 1], 40_000)));
        let machine = MqttConnection::new(self.settings.clone(), peer, assigned, self.world.now);
        let end = End {
            machine,
            version,
            input: BytesMut::new(),
            received: VecDeque::new(),
            is_up: true,
            next_packet_id: 1,
        };
        self.ends.insert(id, end);
        id
    }

    /// Connects as said; returns CONNACK, which must accept.
    fn connect(
        &mut self,
        version: Version,
        edit: impl FnOnce(&mut Connect),
    ) -> (ConnectionId, ConnAck) {
        let id = self.dial(version);
        let mut connect = connect(version);
        edit(&mut connect);
        self.send(id, Packet::Connect(Box::new(connect)));
        match self.end(id).received.pop_front() {
            Some(Packet::ConnAck(connack)) if connack.reason == ReasonCode::SUCCESS => {
                (id, connack)
            }
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// A clean session.
    fn client(&mut self, version: Version, client_id: &str) -> ConnectionId {
        self.connect(version, |connect| connect.client_id = text(client_id)).0
    }

    /// A session that outlives its connection by five minutes, or as long as 3.x has it.
    fn lasting(&mut self, version: Version, client_id: &str) -> (ConnectionId, ConnAck) {
        self.connect(version, |connect| {
            connect.client_id = text(client_id);
            connect.clean_start = false;
            if version.is_v5() {
                connect.properties = list(&[Property::SessionExpiry(300)]);
            }
        })
    }

    fn end(&mut self, id: ConnectionId) -> &mut End {
        self.ends.get_mut(&id).expect("it dialled")
    }

    fn version(&self, id: ConnectionId) -> Version {
        self.ends[&id].version
    }

    fn is_up(&self, id: ConnectionId) -> bool {
        self.ends[&id].is_up
    }

    fn send(&mut self, id: ConnectionId, packet: Packet) {
        let mut bytes = BytesMut::new();
        encode(&packet, self.version(id), &mut bytes).expect("the test's packets are short");
        self.send_bytes(id, &bytes);
    }

    fn send_bytes(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.end(id).input.extend_from_slice(bytes);
        self.run();
    }

    /// The network ends the connection.
    fn cut(&mut self, id: ConnectionId) {
        lose(&mut self.world, id, self.ends.get_mut(&id).expect("it dialled"));
        self.run();
    }

    /// The client leaves in good order.
    fn leave(&mut self, id: ConnectionId) {
        self.send(id, Packet::Disconnect(Disconnect::default()));
        assert!(!self.is_up(id));
    }

    /// Lets time pass for everybody.
    fn pass(&mut self, ms: u64) {
        self.world.pass(ms);
        let now = self.world.now;
        for end in self.ends.values_mut().filter(|end| end.is_up) {
            if end.machine.poll_timeout().is_some_and(|due| due <= now) {
                end.machine.handle_timeout(now);
            }
        }
        self.run();
    }

    /// Runs until nothing happens any more, as `net::drive` would.
    fn run(&mut self) {
        loop {
            let mut is_busy = false;
            for (id, end) in &mut self.ends {
                is_busy |= turn(&mut self.world, *id, end);
            }
            if !self.world.turn(true) && !is_busy {
                return;
            }
        }
    }

    /// Takes everything a client received.
    fn packets(&mut self, id: ConnectionId) -> Vec<Packet> {
        self.end(id).received.drain(..).collect()
    }

    /// Takes the only packet a client received.
    fn packet(&mut self, id: ConnectionId) -> Packet {
        let mut packets = self.packets(id);
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets.remove(0)
    }

    /// Takes the messages a client received, answering each until no more come.
    fn messages(&mut self, id: ConnectionId) -> Vec<Publish> {
        let mut messages = Vec::new();
        loop {
            let packets = self.packets(id);
            if packets.is_empty() {
                return messages;
            }
            for packet in packets {
                match packet {
                    Packet::Publish(publish) => {
                        match publish.qos {
                            QoS::AtMostOnce => {}
                            QoS::AtLeastOnce => {
                                self.send(id, Packet::PubAck(ack(publish.packet_id)));
                            }
                            QoS::ExactlyOnce => {
                                self.send(id, Packet::PubRec(ack(publish.packet_id)));
                            }
                        }
                        messages.push(publish);
                    }
                    Packet::PubRel(pubrel) => {
                        self.send(id, Packet::PubComp(ack(pubrel.packet_id)));
                    }
                    other => panic!("no message: {other:?}"),
                }
            }
        }
    }

    /// Takes the messages a client received as text.
    fn texts(&mut self, id: ConnectionId) -> Vec<String> {
        let text = |publish: Publish| String::from_utf8(publish.payload.to_vec()).expect("text");
        self.messages(id).into_iter().map(text).collect()
    }

    fn packet_id(&mut self, id: ConnectionId) -> u16 {
        let end = self.end(id);
        end.next_packet_id += 1;
        end.next_packet_id - 1
    }

    /// Subscribes to one filter; returns its code. Deliveries that come with it stay.
    fn subscribe(&mut self, id: ConnectionId, filter: &str, qos: QoS) -> ReasonCode {
        self.subscribe_with(id, SubscribeFilter::new(text(filter), qos), &[])
    }

    fn subscribe_with(
        &mut self,
        id: ConnectionId,
        filter: SubscribeFilter,
        properties: &[Property],
    ) -> ReasonCode {
        let packet_id = self.packet_id(id);
        let properties = list(properties);
        self.send(
            id,
            Packet::Subscribe(Subscribe { packet_id, properties, filters: vec![filter] }),
        );
        let end = self.end(id);
        let is_suback = |packet: &Packet| matches!(packet, Packet::SubAck(_));
        let at = end.received.iter().position(is_suback).expect("SUBACK comes");
        match end.received.remove(at) {
            Some(Packet::SubAck(suback)) if suback.packet_id == packet_id => suback.reasons[0],
            other => panic!("another's: {other:?}"),
        }
    }

    /// Removes one subscription; the answer must come.
    fn unsubscribe(&mut self, id: ConnectionId, filter: &str) {
        let packet_id = self.packet_id(id);
        let properties = PropertyList::default();
        let filters = vec![text(filter)];
        self.send(id, Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
        let end = self.end(id);
        let is_unsuback = |packet: &Packet| matches!(packet, Packet::UnsubAck(_));
        let at = end.received.iter().position(is_unsuback).expect("UNSUBACK comes");
        end.received.remove(at);
    }

    /// Publishes to the end of the exchange; returns the first answer's code, if there is an answer.
    fn publish(
        &mut self,
        id: ConnectionId,
        topic: &str,
        payload: &str,
        qos: QoS,
    ) -> Option<ReasonCode> {
        self.publish_with(id, |publish| {
            publish.topic = text(topic);
            publish.payload = text(payload);
            publish.qos = qos;
        })
    }

    fn publish_with(
        &mut self,
        id: ConnectionId,
        edit: impl FnOnce(&mut Publish),
    ) -> Option<ReasonCode> {
        let mut packet = publish(QoS::AtMostOnce, 0);
        edit(&mut packet);
        if packet.qos != QoS::AtMostOnce {
            packet.packet_id = self.packet_id(id);
        }
        let (qos, packet_id) = (packet.qos, packet.packet_id);
        self.send(id, Packet::Publish(packet));
        match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(self.answer(id, packet_id)),
            QoS::ExactlyOnce => {
                let reason = self.answer(id, packet_id);
                if !reason.is_error() {
                    self.send(id, Packet::PubRel(ack(packet_id)));
                    self.answer(id, packet_id);
                }
                Some(reason)
            }
        }
    }

    /// Takes the answer to one of the client's own packets; messages that came before it stay.
    fn answer(&mut self, id: ConnectionId, packet_id: u16) -> ReasonCode {
        let end = self.end(id);
        let of_ours = |packet: &Packet| match packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => {
                (ack.packet_id == packet_id).then_some(ack.reason)
            }
            _ => None,
        };
        let at = end.received.iter().position(|packet| of_ours(packet).is_some());
        let at = at.unwrap_or_else(|| panic!("no answer among {:?}", end.received));
        of_ours(&end.received.remove(at).expect("found")).expect("found")
    }

    /// The connection ended, and this is what was said last.
    fn assert_ended(&mut self, id: ConnectionId, reason: ReasonCode) {
        assert!(!self.is_up(id), "the connection must close");
        let last = self.packets(id).pop();
        match (self.version(id), last) {
            (Version::V5, Some(Packet::Disconnect(disconnect))) => {
                assert_eq!(disconnect.reason, reason);
            }
            (Version::V31 | Version::V311, None) => {}
            (_, other) => panic!("not what ends a connection: {other:?}"),
        }
    }
}

/// One turn of `net::drive` for one connection; true when something happened.
fn turn(world: &mut World, id: ConnectionId, end: &mut End) -> bool {
    let now = world.now;
    let mut is_busy = false;
    if end.is_up && !end.input.is_empty() {
        let before = end.input.len();
        end.machine.handle_input(now, &mut end.input);
        is_busy |= end.input.len() != before;
    }
    while let Some(effect) = world.take(id, |effect| Some(effect.clone())) {
        end.machine.handle_effect(now, effect);
        is_busy = true;
    }
    let mut bytes = BytesMut::new();
    end.machine.poll_transmit(now, &mut bytes, usize::MAX);
    is_busy |= !bytes.is_empty();
    if end.is_up {
        while let Some(packet) = decode(&mut bytes, Some(end.version), &Limits::default())
            .expect("what we send is well-formed")
        {
            end.received.push_back(packet);
        }
        assert!(bytes.is_empty(), "what we send is whole");
    }
    while let Some(command) = end.machine.poll_command() {
        world.say(id, command);
        is_busy = true;
    }
    if end.is_up && end.machine.is_closing() {
        lose(world, id, end);
        is_busy = true;
    }
    is_busy
}

fn lose(world: &mut World, id: ConnectionId, end: &mut End) {
    end.is_up = false;
    end.input.clear();
    end.machine.handle_disconnect(world.now);
    while let Some(command) = end.machine.poll_command() {
        world.say(id, command);
    }
}
