//! MQTT over the stepped broker: the real protocol machine, packets in queues where a network would be, and devices that keep their
//! half of the QoS 2 state through anything.
//!
//! A device judges as it goes: what it is sent twice must say so, under the same packet id, and never after it let that id go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fluxmq::model::{PeerInfo, QoS};
use fluxmq::partition::request::ConnectionId;
use fluxmq::protocol::Connection;
use fluxmq::protocol::mqtt::codec::{Limits, decode, encode};
use fluxmq::protocol::mqtt::types::{Ack, Connect, Publish, Subscribe, SubscribeFilter};
use fluxmq::protocol::mqtt::{
    MqttConnection, Packet, Property, PropertyList, ReasonCode, Settings, Version,
};

use crate::world::World;

/// Numbers that follow from a seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    /// 0 to `sides` - 1.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

/// One network connection.
pub struct Link {
    pub id: ConnectionId,
    connection: MqttConnection,
    /// Sent by the device, not taken by the broker.
    up: VecDeque<Packet>,
    input: BytesMut,
    /// Sent by the broker, not taken by the device.
    down: VecDeque<Packet>,
    /// Taken by the device, answers not sent.
    answers: VecDeque<Packet>,
    /// The device has CONNACK.
    connected: bool,
}

/// What a device has published and not finished.
struct Flight {
    packet_id: u16,
    topic: String,
    payload: String,
    released: bool,
}

/// A client with a session for ever, QoS 2 both ways, and a memory that nothing takes away.
pub struct Device {
    client_id: &'static str,
    filter: Option<&'static str>,
    /// Oldest first. It reads the last one only.
    pub links: Vec<Link>,
    /// The connection whose CONNACK was sent last: no other may be sent a message.
    holder: Option<ConnectionId>,
    has_subscribed: bool,
    pub to_publish: VecDeque<(String, String)>,
    flights: Vec<Flight>,
    pub completed: usize,
    /// Packet ids of messages it has and has not been told to let go.
    held: BTreeSet<u16>,
    seen: BTreeMap<String, u16>,
    /// Topic and payload, each when it came first.
    pub got: Vec<(String, String)>,
    /// How far each exchange was seen to be, by direction and packet id.
    half_steps: BTreeMap<(Way, u16), u8>,
    pub connacks: usize,
}

/// Which of the two exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    ToBroker,
    ToDevice,
}

/// Unfinished publishes at a time.
const WINDOW: usize = 3;

impl Device {
    pub fn new(client_id: &'static str, filter: Option<&'static str>) -> Device {
        Device {
            client_id,
            filter,
            links: Vec::new(),
            holder: None,
            has_subscribed: false,
            to_publish: VecDeque::new(),
            flights: Vec::new(),
            completed: 0,
            held: BTreeSet::new(),
            seen: BTreeMap::new(),
            got: Vec::new(),
            half_steps: BTreeMap::new(),
            connacks: 0,
        }
    }

    /// Opens a connection beside those it has.
    pub fn connect(&mut self, world: &mut World) {
        let settings = Settings::default();
        let peer = PeerInfo::tcp(SocketAddr::from(([127, 0, 0, 1], 40_000)));
        let assigned = Bytes::from_static(b"auto");
        let connection = MqttConnection::new(Arc::new(settings), peer, assigned, world.now);
        let connect = Connect {
            version: Version::V5,
            clean_start: false,
            keep_alive_s: 0,
            client_id: Bytes::from_static(self.client_id.as_bytes()),
            will: None,
            username: None,
            password: None,
            properties: [Property::SessionExpiry(u32::MAX)].into_iter().collect(),
        };
        self.links.push(Link {
            id: world.connect(),
            connection,
            up: VecDeque::from([Packet::Connect(Box::new(connect))]),
            input: BytesMut::new(),
            down: VecDeque::new(),
            answers: VecDeque::new(),
            connected: false,
        });
    }

    /// Loses its newest connection, with everything on the way.
    pub fn cut(&mut self, world: &mut World) {
        if let Some(mut link) = self.links.pop() {
            link.end(world);
        }
    }

    /// Loses all of them without the broker's knowledge: that is gone too.
    pub fn forget_links(&mut self) {
        self.links.clear();
        self.holder = None;
    }

    pub fn is_finished(&self) -> bool {
        self.to_publish.is_empty() && self.flights.is_empty() && self.held.is_empty()
    }

    /// Returns true when its newest connection is open and nothing is on the way.
    pub fn is_quiet(&self) -> bool {
        let quiet = |link: &Link| {
            link.connected
                && link.up.is_empty()
                && link.down.is_empty()
                && link.answers.is_empty()
                && link.input.is_empty()
        };
        self.links.last().is_some_and(quiet)
    }

    pub fn is_ready(&self) -> bool {
        self.links.last().is_some_and(|link| link.connected)
            && (self.filter.is_none() || self.has_subscribed)
    }

    /// The broker takes a packet of a connection.
    pub fn up(&mut self, world: &mut World, link: usize) {
        let Some(link) = self.links.get_mut(link) else { return };
        if let Some(packet) = link.up.pop_front() {
            self.half_steps.extend(taken_by_broker(&packet));
            encode(&packet, Version::V5, &mut link.input).expect("short packets");
        }
        link.connection.handle_input(world.now, &mut link.input);
        link.pass_commands(world);
    }

    /// It takes a packet of its newest connection.
    pub fn down(&mut self) -> Result<(), String> {
        let Some(link) = self.links.last_mut() else { return Ok(()) };
        let Some(packet) = link.down.pop_front() else { return Ok(()) };
        let answer = match packet {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::SUCCESS => {
                link.connected = true;
                if !connack.session_present && self.connacks > 0 {
                    return Err(format!("{}: the session is gone", self.client_id));
                }
                self.connacks += 1;
                return self.begin();
            }
            Packet::SubAck(_) => {
                self.has_subscribed = true;
                None
            }
            Packet::Publish(publish) => Some(self.take_publish(&publish)?),
            Packet::PubRec(ack) => {
                self.half_steps.insert((Way::ToBroker, ack.packet_id), 3);
                if ack.reason.is_error() {
                    return Err(format!("{}: publish refused: {ack:?}", self.client_id));
                }
                let flight = self.flights.iter_mut().find(|it| it.packet_id == ack.packet_id);
                flight.into_iter().for_each(|flight| flight.released = true);
                Some(Packet::PubRel(Ack { packet_id: ack.packet_id, ..Ack::default() }))
            }
            Packet::PubRel(ack) => {
                self.half_steps.insert((Way::ToDevice, ack.packet_id), 5);
                self.held.remove(&ack.packet_id);
                Some(Packet::PubComp(Ack { packet_id: ack.packet_id, ..Ack::default() }))
            }
            Packet::PubComp(ack) => {
                self.half_steps.insert((Way::ToBroker, ack.packet_id), 7);
                let before = self.flights.len();
                self.flights.retain(|it| it.packet_id != ack.packet_id || !it.released);
                self.completed += before - self.flights.len();
                None
            }
            Packet::Disconnect(_) => None,
            other => return Err(format!("{}: unexpected {other:?}", self.client_id)),
        };
        let link = self.links.last_mut().expect("just read from");
        link.answers.extend(answer);
        Ok(())
    }

    /// It sends what it has to say about what it took.
    pub fn answer(&mut self) {
        let Some(link) = self.links.last_mut() else { return };
        if let Some(packet) = link.answers.pop_front() {
            self.half_steps.extend(sent_by_device(&packet));
            link.up.push_back(packet);
        }
    }

    /// It publishes what is next.
    pub fn publish(&mut self) {
        let Some(link) = self.links.last_mut().filter(|link| link.connected) else { return };
        if self.flights.len() >= WINDOW {
            return;
        }
        let Some((topic, payload)) = self.to_publish.pop_front() else { return };
        // The lowest that is free: a number is used again as soon as it may be.
        let is_free = |id: &u16| !self.flights.iter().any(|it| it.packet_id == *id);
        let packet_id = (1..).find(is_free).expect("the window is small");
        let flight = Flight { packet_id, topic, payload, released: false };
        link.up.push_back(flight.publish(false));
        self.half_steps.insert((Way::ToBroker, flight.packet_id), 0);
        self.flights.push(flight);
    }

    /// What the broker has to say to its connections goes onto the network.
    pub fn pump(&mut self, world: &mut World) -> Result<(), String> {
        for link in &mut self.links {
            for effect in world.take_effects(link.id) {
                link.connection.handle_effect(world.now, effect);
            }
            link.connection.handle_input(world.now, &mut link.input);
            link.pass_commands(world);
            let mut out = BytesMut::new();
            link.connection.poll_transmit(world.now, &mut out, usize::MAX);
            while let Some(packet) = decode(&mut out, Some(Version::V5), &Limits::default())
                .map_err(|error| format!("the broker sends nonsense: {error:?}"))?
            {
                match &packet {
                    Packet::ConnAck(connack) if connack.reason == ReasonCode::SUCCESS => {
                        self.holder = Some(link.id);
                    }
                    Packet::Publish(_) if self.holder != Some(link.id) => {
                        return Err(format!(
                            "{}: delivered to a connection that lost the session",
                            self.client_id
                        ));
                    }
                    _ => {}
                }
                self.half_steps.extend(sent_by_broker(&packet));
                link.down.push_back(packet);
            }
            link.pass_commands(world);
            if link.connection.is_closing() {
                link.end(world);
            }
        }
        // What is still on its way to a device is read when its connection is closed already; nothing of it is answered.
        let newest = self.links.last().map(|link| link.id);
        self.links.retain(|link| {
            !link.connection.is_closing() || Some(link.id) == newest && !link.down.is_empty()
        });
        Ok(())
    }

    /// How far the last exchange under each packet id is.
    pub fn half_steps(&self) -> impl Iterator<Item = (Way, u8)> {
        self.half_steps.iter().map(|((way, _), step)| (*way, *step))
    }

    /// How many of its connections hold the session, as far as each of them knows.
    pub fn open_links(&self) -> usize {
        self.links.iter().filter(|link| !link.connection.is_closing()).count()
    }

    /// CONNACK has come: everything unfinished is sent again, in its order [MQTT-4.4.0-1].
    fn begin(&mut self) -> Result<(), String> {
        let link = self.links.last_mut().expect("CONNACK came on it");
        for flight in &self.flights {
            let packet_id = flight.packet_id;
            link.up.push_back(match flight.released {
                false => flight.publish(true),
                true => Packet::PubRel(Ack { packet_id, ..Ack::default() }),
            });
        }
        if let Some(filter) = self.filter.filter(|_| !self.has_subscribed) {
            link.up.push_back(Packet::Subscribe(Subscribe {
                packet_id: 60_000,
                properties: PropertyList::default(),
                filters: vec![SubscribeFilter::new(
                    Bytes::from_static(filter.as_bytes()),
                    QoS::ExactlyOnce,
                )],
            }));
        }
        Ok(())
    }

    fn take_publish(&mut self, publish: &Publish) -> Result<Packet, String> {
        let packet_id = publish.packet_id;
        self.half_steps.insert((Way::ToDevice, packet_id), 1);
        let payload = String::from_utf8_lossy(&publish.payload).into_owned();
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        if publish.qos != QoS::ExactlyOnce {
            return Err(format!("{payload} came at {:?}", publish.qos));
        }
        match self.seen.get(&payload) {
            None if self.held.contains(&packet_id) => {
                return Err(format!("{payload} came under {packet_id}, which is in use: lost"));
            }
            None => {
                self.seen.insert(payload.clone(), packet_id);
                self.held.insert(packet_id);
                self.got.push((topic, payload));
            }
            Some(first) if *first != packet_id || !self.held.contains(&packet_id) => {
                return Err(format!("{payload} came twice: under {first}, then {packet_id}"));
            }
            Some(_) if !publish.dup => return Err(format!("{payload} came again without DUP")),
            Some(_) => {}
        }
        Ok(Packet::PubRec(Ack { packet_id, ..Ack::default() }))
    }
}

impl Flight {
    fn publish(&self, dup: bool) -> Packet {
        Packet::Publish(Publish {
            dup,
            qos: QoS::ExactlyOnce,
            retain: false,
            topic: Bytes::from(self.topic.clone()),
            packet_id: self.packet_id,
            properties: PropertyList::default(),
            payload: Bytes::from(self.payload.clone()),
        })
    }
}

impl Link {
    /// The network connection is over: the broker finishes what there is to finish.
    fn end(&mut self, world: &mut World) {
        self.connection.handle_disconnect(world.now);
        self.pass_commands(world);
        world.hang_up(self.id);
    }

    fn pass_commands(&mut self, world: &mut World) {
        while let Some(command) = self.connection.poll_command() {
            world.say(self.id, command);
        }
    }
}

/// An exchange, and how far it is.
type HalfStep = ((Way, u16), u8);

/// The half-steps: 0 PUBLISH sent, 1 taken, 2 PUBREC sent, 3 taken, 4 PUBREL sent, 5 taken, 6 PUBCOMP sent, 7 taken.
fn taken_by_broker(packet: &Packet) -> Option<HalfStep> {
    match packet {
        Packet::Publish(publish) => Some(((Way::ToBroker, publish.packet_id), 1)),
        Packet::PubRel(ack) => Some(((Way::ToBroker, ack.packet_id), 5)),
        Packet::PubRec(ack) => Some(((Way::ToDevice, ack.packet_id), 3)),
        Packet::PubComp(ack) => Some(((Way::ToDevice, ack.packet_id), 7)),
        _ => None,
    }
}

fn sent_by_device(packet: &Packet) -> Option<HalfStep> {
    match packet {
        Packet::PubRel(ack) => Some(((Way::ToBroker, ack.packet_id), 4)),
        Packet::PubRec(ack) => Some(((Way::ToDevice, ack.packet_id), 2)),
        Packet::PubComp(ack) => Some(((Way::ToDevice, ack.packet_id), 6)),
        _ => None,
    }
}

fn sent_by_broker(packet: &Packet) -> Option<HalfStep> {
    match packet {
        Packet::Publish(publish) => Some(((Way::ToDevice, publish.packet_id), 0)),
        Packet::PubRel(ack) => Some(((Way::ToDevice, ack.packet_id), 4)),
        Packet::PubRec(ack) => Some(((Way::ToBroker, ack.packet_id), 2)),
        Packet::PubComp(ack) => Some(((Way::ToBroker, ack.packet_id), 6)),
        _ => None,
    }
}
