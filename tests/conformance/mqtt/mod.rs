//! MQTT: a client made of the codec drives a connection, and the test plays the broker.
//!
//! Names carry the statement's number in MQTT 5; `mqtt_311_` marks those of 3.1.1.

mod alias;
mod authenticate;
mod codes;
mod congestion;
mod connack;
mod connect;
mod deliver;
mod disconnect;
mod format;
mod fuzz;
mod ordering;
mod publish;
mod queue;
mod resume;
mod shared;
mod sizes;
mod stack;
mod subscribe;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fluxmq::model::command::{Credentials, Open};
use fluxmq::model::effect::Opened;
use fluxmq::model::{
    Command, Delivery, DeliveryId, DeliverySource, Effect, Message, Millis, PartitionId, PeerInfo,
    Properties, QoS, Refusal, Token, Topic,
};
use fluxmq::protocol::Connection;
use fluxmq::protocol::mqtt::codec::{Limits, decode, encode};
use fluxmq::protocol::mqtt::types::*;
use fluxmq::protocol::mqtt::{
    DeniedPublish, DeniedSubscribe, MqttConnection, Packet, Property, PropertyList, ReasonCode,
    Settings, Version,
};
use fluxmq_index::Offset;

/// A client, its connection at the broker, and the broker's side of it in the hands of the test.
struct Peer {
    connection: MqttConnection,
    version: Version,
    now: Millis,
    /// What the connection has not consumed.
    input: BytesMut,
}

fn settings() -> Settings {
    Settings::default()
}

impl Peer {
    fn new(version: Version) -> Peer {
        Peer::with(version, settings())
    }

    fn with(version: Version, settings: Settings) -> Peer {
        Peer::from(version, settings, PeerInfo::tcp(SocketAddr::from(([127, 0, 0, 1], 40_000))))
    }

    fn from(version: Version, settings: Settings, peer: PeerInfo) -> Peer {
        let assigned = Bytes::from_static(b"auto-7f");
        let connection = MqttConnection::new(Arc::new(settings), peer, assigned, Millis(1_000));
        Peer { connection, version, now: Millis(1_000), input: BytesMut::new() }
    }

    /// A clean session that is open.
    fn connected(version: Version) -> Peer {
        Peer::connected_with(version, settings(), |_| {})
    }

    fn connected_with(
        version: Version,
        settings: Settings,
        edit: impl FnOnce(&mut Connect),
    ) -> Peer {
        let mut peer = Peer::with(version, settings);
        peer.connect(edit);
        peer.open();
        peer.opened(opened());
        peer
    }

    /// A persistent session that is open.
    fn persistent(version: Version) -> Peer {
        Peer::resumed(version, |_| {})
    }

    fn resumed(version: Version, edit: impl FnOnce(&mut Opened)) -> Peer {
        let mut peer = Peer::new(version);
        peer.connect(|connect| {
            connect.clean_start = false;
            if version.is_v5() {
                connect.properties = list(&[Property::SessionExpiry(60)]);
            }
        });
        peer.open();
        let mut answer = Opened { persistent: true, ..opened() };
        edit(&mut answer);
        peer.opened(answer);
        peer
    }

    fn connect(&mut self, edit: impl FnOnce(&mut Connect)) {
        let mut connect = connect(self.version);
        edit(&mut connect);
        self.send(Packet::Connect(Box::new(connect)));
    }

    /// The command a good CONNECT makes.
    fn open(&mut self) -> Open {
        match self.commands().as_slice() {
            [Command::Open(open)] => Open::clone(open),
            other => panic!("not one Open: {other:?}"),
        }
    }

    /// Answers `Open`; returns the CONNACK.
    fn opened(&mut self, opened: Opened) -> ConnAck {
        self.effect(Effect::Opened(opened));
        let mut bytes = self.bytes();
        match decode(&mut bytes, Some(self.version), &Limits::default()) {
            Ok(Some(Packet::ConnAck(connack))) => connack,
            other => panic!("CONNACK must come first: {other:?}"),
        }
    }

    fn send(&mut self, packet: Packet) {
        encode(&packet, self.version, &mut self.input).expect("the test's packets are short");
        self.connection.handle_input(self.now, &mut self.input);
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.connection.handle_input(self.now, &mut self.input);
    }

    fn effect(&mut self, effect: Effect) {
        self.connection.handle_effect(self.now, effect);
        self.connection.handle_input(self.now, &mut self.input);
    }

    fn confirm(&mut self, token: Token) {
        self.effect(Effect::Confirm { token, result: Ok(true) });
    }

    fn deliver(&mut self, delivery: Delivery) {
        self.effect(Effect::Deliver(delivery));
    }

    fn after(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
        if self.connection.poll_timeout().is_some_and(|due| due <= self.now) {
            self.connection.handle_timeout(self.now);
        }
    }

    fn commands(&mut self) -> Vec<Command> {
        std::iter::from_fn(|| self.connection.poll_command()).collect()
    }

    /// The only command there is.
    fn command(&mut self) -> Command {
        let mut commands = self.commands();
        assert_eq!(commands.len(), 1, "{commands:?}");
        commands.remove(0)
    }

    /// Tokens of the publishes there are, in order.
    fn publish_tokens(&mut self) -> Vec<Token> {
        let token = |command| match command {
            Command::Publish { token, .. } => token,
            other => panic!("no Publish: {other:?}"),
        };
        self.commands().into_iter().map(token).collect()
    }

    fn bytes(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        self.connection.poll_transmit(self.now, &mut out, usize::MAX);
        out
    }

    fn packets(&mut self) -> Vec<Packet> {
        let mut bytes = self.bytes();
        let version = Some(self.version);
        let mut packets = Vec::new();
        while let Some(packet) =
            decode(&mut bytes, version, &Limits::default()).expect("what we send is well-formed")
        {
            packets.push(packet);
        }
        assert!(bytes.is_empty(), "what we send is whole");
        packets
    }

    /// The only packet there is.
    fn packet(&mut self) -> Packet {
        let mut packets = self.packets();
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets.remove(0)
    }

    fn publishes(&mut self) -> Vec<Publish> {
        let publish = |packet| match packet {
            Packet::Publish(publish) => publish,
            other => panic!("no PUBLISH: {other:?}"),
        };
        self.packets().into_iter().map(publish).collect()
    }

    fn is_closed(&self) -> bool {
        self.connection.is_closing()
    }

    /// The connection ended with DISCONNECT and this reason, as 5.0 wants it [MQTT-4.13.1-1].
    fn assert_disconnected(&mut self, reason: ReasonCode) {
        assert!(self.is_closed(), "the connection must close");
        match self.packets().last() {
            Some(Packet::Disconnect(disconnect)) => assert_eq!(disconnect.reason, reason),
            other => panic!("no DISCONNECT: {other:?}"),
        }
    }

    /// The connection ended without a word, as before 5.0.
    fn assert_closed_silently(&mut self) {
        assert!(self.is_closed(), "the connection must close");
        assert_eq!(self.packets(), []);
    }
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: text("c1"),
        will: None,
        username: None,
        password: None,
        properties: PropertyList::default(),
    }
}

fn opened() -> Opened {
    Opened { session_present: false, persistent: false, outbound: vec![], inbound: vec![] }
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn list(properties: &[Property]) -> PropertyList {
    properties.iter().cloned().collect()
}

fn user(key: &str, value: &str) -> Property {
    Property::User(text(key), text(value))
}

fn publish(qos: QoS, packet_id: u16) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: text("t/1"),
        packet_id,
        properties: PropertyList::default(),
        payload: text("hello"),
    }
}

fn ack(packet_id: u16) -> Ack {
    Ack { packet_id, ..Ack::default() }
}

fn ack_with(packet_id: u16, reason: ReasonCode) -> Ack {
    Ack { packet_id, reason, ..Ack::default() }
}

fn subscribe(packet_id: u16, filters: &[&str]) -> Subscribe {
    let filter = |filter: &&str| SubscribeFilter::new(text(filter), QoS::AtLeastOnce);
    Subscribe {
        packet_id,
        properties: PropertyList::default(),
        filters: filters.iter().map(filter).collect(),
    }
}

fn delivery_id(source: DeliverySource, offset: u64) -> DeliveryId {
    DeliveryId { source, partition: PartitionId(1), offset: Offset(offset) }
}

fn message(topic: &str, qos: QoS) -> Message {
    Message {
        topic: Topic::new(text(topic)).expect("it is a topic"),
        payload: text("hello"),
        qos,
        retain: false,
        expiry_s: None,
        properties: Properties::default(),
        publisher: 9,
    }
}

/// A delivery of the session whose payload is its offset.
fn delivery(offset: u64, qos: QoS) -> Delivery {
    Delivery {
        id: delivery_id(DeliverySource::SESSION, offset),
        message: Arc::new(Message { payload: text(&offset.to_string()), ..message("t/1", qos) }),
        qos,
        retain: false,
        redelivered: false,
        subscription_ids: vec![],
        annotations: Default::default(),
        settle_explicit: false,
    }
}

fn payloads(publishes: &[Publish]) -> Vec<&[u8]> {
    publishes.iter().map(|publish| &publish.payload[..]).collect()
}
