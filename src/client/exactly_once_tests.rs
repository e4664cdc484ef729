//! Exactly once over lost connections: a machine and a model of a server that keeps sessions, with the stream cut anywhere.
//!
//! The model keeps what MQTT 5 §4.1 asks of a server. Packets travel in two queues; a cut loses what is in them. Afterwards both
//! sides run undisturbed until nothing moves, and every message must have arrived once and in order, both ways.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;

use super::scripted::{ack, bytes, connack, publish, sent};
use super::*;
use crate::model::{Millis, QoS};
use crate::protocol::mqtt::property::PropertyList;
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{Packet, Publish, Version};

const V5: Version = Version::V5;
const PAYLOADS: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "7"];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The client publishes its next message.
    Publish,
    /// The server sends its next message.
    Deliver,
    /// One packet arrives at the server.
    Up,
    /// One packet arrives at the client.
    Down,
    /// The caller takes the oldest message it has not taken.
    Take,
    /// The connection is lost, and made again.
    Cut,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Publish),
        2 => Just(Step::Deliver),
        6 => Just(Step::Up),
        6 => Just(Step::Down),
        3 => Just(Step::Take),
        2 => Just(Step::Cut),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn every_qos_2_message_arrives_once_and_in_order_both_ways(steps in steps()) {
        let mut world = World::new();

        for step in steps {
            world.step(step);
        }
        world.settle();

        prop_assert_eq!(&world.server.received, &PAYLOADS[..world.published_count]);
        prop_assert_eq!(&world.seen, &PAYLOADS[..world.server.delivered_count]);
        prop_assert!(world.server.outbound.is_empty() && world.server.inbound.is_empty());
        prop_assert_eq!(world.confirmed, (0..world.published_count as u64).collect::<Vec<_>>());
        prop_assert_eq!(world.machine.map(|machine| machine.session().unfinished_count()), Some(0));
    }
}

struct World {
    machine: Option<Machine>,
    server: Server,
    up: VecDeque<Packet>,
    down: VecDeque<Packet>,
    published_count: usize,
    confirmed: Vec<u64>,
    seen: Vec<String>,
    untaken: VecDeque<AckHandle>,
}

impl World {
    fn new() -> World {
        let mut world = World {
            machine: None,
            server: Server::default(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            published_count: 0,
            confirmed: Vec::new(),
            seen: Vec::new(),
            untaken: VecDeque::new(),
        };
        world.connect(Session::default());
        world
    }

    fn connect(&mut self, session: Session) {
        self.up.clear();
        self.down.clear();
        let options = ConnectOptions {
            clean_start: false,
            session_expiry_s: 60,
            client_id: "c".to_owned(),
            ..ConnectOptions::default()
        };
        let machine = Machine::new(options, session, Millis(0));
        self.machine = Some(machine.unwrap_or_else(|(error, _)| panic!("{error}")));
        self.pump();
    }

    fn step(&mut self, step: Step) {
        let machine = self.machine.as_mut().unwrap();
        match step {
            Step::Publish if self.published_count < PAYLOADS.len() && machine.window() > 0 => {
                let request = PublishRequest {
                    topic: Bytes::from_static(b"t"),
                    payload: Bytes::from_static(PAYLOADS[self.published_count].as_bytes()),
                    qos: QoS::ExactlyOnce,
                    ..PublishRequest::default()
                };
                machine.publish(self.published_count as u64, &request).unwrap();
                self.published_count += 1;
            }
            Step::Deliver => self.server.deliver(&mut self.down),
            Step::Up => {
                if let Some(packet) = self.up.pop_front() {
                    self.server.on_packet(packet, &mut self.down);
                }
            }
            Step::Down => {
                if let Some(packet) = self.down.pop_front() {
                    machine.handle_input(Millis(0), &mut bytes(&[packet], V5));
                }
            }
            Step::Take => {
                if let Some(handle) = self.untaken.pop_front() {
                    machine.acknowledge(handle, ReasonCode::SUCCESS);
                }
            }
            Step::Cut => {
                machine.handle_disconnect(None);
                let session = self.machine.take().unwrap().into_session();
                self.server.is_connected = false;
                self.connect(session);
            }
            Step::Publish => {}
        }
        self.pump();
    }

    fn pump(&mut self) {
        let machine = self.machine.as_mut().unwrap();
        self.up.extend(sent(machine, V5));
        while let Some(event) = machine.poll_event() {
            match event {
                Event::Published { token, reason, .. } => {
                    assert_eq!(reason, ReasonCode::SUCCESS);
                    self.confirmed.push(token);
                }
                Event::Message(message) => {
                    self.seen.push(String::from_utf8(message.payload.to_vec()).unwrap());
                    self.untaken.extend(message.handle);
                }
                Event::Connected(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let failure = machine.poll_failure();
        assert!(failure.is_none(), "{failure:?}");
    }

    fn settle(&mut self) {
        while !(self.up.is_empty() && self.down.is_empty() && self.untaken.is_empty()) {
            for step in [Step::Up, Step::Down, Step::Take] {
                self.step(step);
            }
        }
    }
}

#[derive(Default)]
struct Server {
    has_session: bool,
    is_connected: bool,
    received: Vec<String>,
    /// QoS 2 publishes that are stored and not released.
    inbound: BTreeSet<u16>,
    /// Deliveries that are not finished, in their order; true once PUBREC has come.
    outbound: VecDeque<(Publish, bool)>,
    delivered_count: usize,
}

impl Server {
    fn deliver(&mut self, down: &mut VecDeque<Packet>) {
        if !self.is_connected || self.delivered_count == PAYLOADS.len() {
            return;
        }
        // Numbers are used again soon, which is when mistaking one message for another would show.
        let packet_id = (1..).find(|id| self.outbound.iter().all(|(it, _)| it.packet_id != *id));
        let message = publish(packet_id.unwrap(), QoS::ExactlyOnce, PAYLOADS[self.delivered_count]);
        self.delivered_count += 1;
        self.outbound.push_back((message.clone(), false));
        down.push_back(Packet::Publish(message));
    }

    fn on_packet(&mut self, packet: Packet, down: &mut VecDeque<Packet>) {
        match packet {
            Packet::Connect(_) => {
                down.push_back(connack(self.has_session, PropertyList::default()));
                (self.has_session, self.is_connected) = (true, true);
                for (message, is_received) in &self.outbound {
                    down.push_back(match is_received {
                        true => Packet::PubRel(ack(message.packet_id)),
                        false => Packet::Publish(Publish { dup: true, ..message.clone() }),
                    });
                }
            }
            Packet::Publish(message) => {
                if self.inbound.insert(message.packet_id) {
                    self.received.push(String::from_utf8(message.payload.to_vec()).unwrap());
                }
                down.push_back(Packet::PubRec(ack(message.packet_id)));
            }
            Packet::PubRel(release) => {
                self.inbound.remove(&release.packet_id);
                down.push_back(Packet::PubComp(ack(release.packet_id)));
            }
            Packet::PubRec(received) => {
                let id = received.packet_id;
                if let Some(entry) = self.outbound.iter_mut().find(|(it, _)| it.packet_id == id) {
                    entry.1 = true;
                }
                down.push_back(Packet::PubRel(ack(id)));
            }
            Packet::PubComp(complete) => {
                self.outbound.retain(|(it, _)| it.packet_id != complete.packet_id);
            }
            other => panic!("{other:?}"),
        }
    }
}
