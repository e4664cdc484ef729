//! Clients that stop reading, or acknowledging, and go on later: readers have their deliveries back meanwhile, and everything comes
//! once and in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fluxmq::broker::{Client, ClientLimits, Placement};
use fluxmq::model::{
    Command, Delivery, DeliveryId, DeliverySource, Effect, Message, Millis, PartitionId, PeerInfo,
    QoS, ReaderId, Token,
};
use fluxmq::partition::request::{ConnectionId, Event, OpenedSession, Request, Rewind};
use fluxmq::protocol::Connection;
use fluxmq::protocol::mqtt::codec::{Limits, decode, encode};
use fluxmq::protocol::mqtt::types::{Ack, Connect, Subscribe, SubscribeFilter};
use fluxmq::protocol::mqtt::{MqttConnection, Packet, Property, PropertyList, Settings, Version};
use fluxmq_index::Offset;
use fluxmq_log::sim_disk::SimDisk;

use crate::wire::Dice;
use crate::world::{World, message, open_command};

const ONCE: QoS = QoS::AtLeastOnce;
/// Bytes encoded at a time.
const WRITE_BYTES_MAX: usize = 4 << 10;
const TOPICS: usize = 3;
const RETAINED: usize = 40;
const PAYLOAD_BYTES: usize = 900;

/// A client, its socket, which takes so much and no more, and the broker's connection behind it.
struct Slow {
    id: ConnectionId,
    connection: MqttConnection,
    input: BytesMut,
    output: BytesMut,
    socket: BytesMut,
    room: usize,
    answers: VecDeque<Packet>,
    /// Topic and payload.
    got: Vec<(String, usize)>,
    gave_back: usize,
    went_on: usize,
}

impl Slow {
    fn connect(world: &mut World, receive_max: u16, expiry_s: u32) -> Slow {
        let peer = PeerInfo::tcp(SocketAddr::from(([127, 0, 0, 1], 40_000)));
        let settings = Arc::new(Settings::default());
        let assigned = Bytes::from_static(b"auto");
        let mut slow = Slow {
            id: world.connect(),
            connection: MqttConnection::new(settings, peer, assigned, world.now),
            input: BytesMut::new(),
            output: BytesMut::new(),
            socket: BytesMut::new(),
            room: usize::MAX,
            answers: VecDeque::new(),
            got: Vec::new(),
            gave_back: 0,
            went_on: 0,
        };
        let properties = [Property::SessionExpiry(expiry_s), Property::ReceiveMaximum(receive_max)];
        slow.say(&Packet::Connect(Box::new(Connect {
            version: Version::V5,
            clean_start: false,
            keep_alive_s: 0,
            client_id: Bytes::from_static(b"slow"),
            will: None,
            username: None,
            password: None,
            properties: properties.into_iter().collect(),
        })));
        slow.exchange(world);
        slow
    }

    fn subscribe(&mut self, world: &mut World, qos: QoS) {
        let filter = |text| SubscribeFilter::new(Bytes::from_static(text), qos);
        self.say(&Packet::Subscribe(Subscribe {
            packet_id: 1,
            properties: PropertyList::default(),
            filters: vec![filter(b"a/+"), filter(b"r/#"), filter(b"$replay/earliest/b/+")],
        }));
        self.exchange(world);
    }

    fn say(&mut self, packet: &Packet) {
        encode(packet, Version::V5, &mut self.input).expect("short packets");
    }

    /// Talks until nobody has anything to say.
    fn exchange(&mut self, world: &mut World) {
        for _ in 0..8 {
            self.drive(world);
            world.run();
        }
    }

    /// One turn of the broker's connection, as `net::drive` has it.
    fn drive(&mut self, world: &mut World) {
        for effect in world.take_effects(self.id) {
            self.connection.handle_effect(world.now, effect);
        }
        if self.connection.poll_timeout().is_some_and(|at| at <= world.now) {
            self.connection.handle_timeout(world.now);
        }
        self.connection.handle_input(world.now, &mut self.input);
        self.pass_commands(world);
        self.transmit(world.now);
        self.pass_commands(world);
        self.read();
    }

    fn pass_commands(&mut self, world: &mut World) {
        while let Some(command) = self.connection.poll_command() {
            match &command {
                Command::GiveBack { deliveries } => self.gave_back += deliveries.len(),
                Command::GoOn => self.went_on += 1,
                _ => {}
            }
            world.say(self.id, command);
        }
    }

    fn transmit(&mut self, now: Millis) {
        loop {
            if self.output.len() < WRITE_BYTES_MAX {
                self.connection.poll_transmit(now, &mut self.output, WRITE_BYTES_MAX);
            }
            if self.output.is_empty() {
                return self.connection.handle_congestion(false);
            }
            let taken = self.output.len().min(self.room);
            self.room -= taken;
            self.socket.extend_from_slice(&self.output.split_to(taken));
            if !self.output.is_empty() {
                return self.connection.handle_congestion(true);
            }
        }
    }

    /// The client takes what its socket has.
    fn read(&mut self) {
        let limits = Limits::default();
        while let Some(packet) =
            decode(&mut self.socket, Some(Version::V5), &limits).expect("whole packets")
        {
            match packet {
                Packet::Publish(publish) => {
                    let ack = Ack { packet_id: publish.packet_id, ..Ack::default() };
                    match publish.qos {
                        QoS::AtMostOnce => {}
                        QoS::AtLeastOnce => self.answers.push_back(Packet::PubAck(ack)),
                        QoS::ExactlyOnce => self.answers.push_back(Packet::PubRec(ack)),
                    }
                    let topic = String::from_utf8(publish.topic.to_vec()).expect("text");
                    let number = publish.payload.split(|byte| *byte == b' ').next();
                    let number = String::from_utf8(number.expect("a number").to_vec());
                    let number = number.expect("text").parse().expect("a number");
                    self.got.push((topic, number));
                }
                Packet::PubRel(ack) => self.answers.push_back(Packet::PubComp(ack)),
                Packet::ConnAck(_) | Packet::SubAck(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn answer(&mut self, count: usize) {
        let count = count.min(self.answers.len());
        for packet in self.answers.drain(..count).collect::<Vec<_>>() {
            self.say(&packet);
        }
    }

    /// Reads and acknowledges until nothing more comes.
    fn catch_up(&mut self, world: &mut World) {
        self.room = usize::MAX;
        let mut quiet = 0;
        while quiet < 10 {
            let before = self.got.len();
            self.answer(usize::MAX);
            self.drive(world);
            world.pass(50);
            let is_quiet = self.got.len() == before && self.answers.is_empty();
            quiet = if is_quiet { quiet + 1 } else { 0 };
        }
    }

    /// The numbers that came of each topic.
    fn by_topic(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut by_topic: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (topic, number) in &self.got {
            by_topic.entry(topic).or_default().push(*number);
        }
        by_topic
    }
}

fn numbered(topic: String, number: usize) -> Message {
    message(&topic, format!("{number} {}", "x".repeat(PAYLOAD_BYTES)), ONCE)
}

/// What was published to each topic.
#[derive(Default)]
struct Published(BTreeMap<String, usize>);

impl Published {
    fn say(&mut self, world: &mut World, publisher: ConnectionId, dice: &mut Dice) {
        for _ in 0..=dice.roll(20) {
            let topic = format!("{}/{}", ["a", "b"][dice.roll(2)], dice.roll(TOPICS));
            let count = self.0.entry(topic.clone()).or_default();
            let message = numbered(topic, *count).into();
            *count += 1;
            let token = Token(1_000_000 + dice.roll(1_000) as u64);
            world.say(publisher, Command::Publish { token, message, packet_id: None });
        }
    }

    /// Says what of this did not come exactly so; `more_than_once` allows for copies.
    fn compare(&self, slow: &Slow, more_than_once: bool) -> Result<(), String> {
        let mut by_topic = slow.by_topic();
        for number in 0..RETAINED {
            let topic = format!("r/{number}");
            let got = by_topic.remove(topic.as_str()).unwrap_or_default();
            if got != [number] && !more_than_once {
                return Err(format!("{topic}: {got:?}"));
            }
        }
        for (topic, count) in &self.0 {
            let mut got = by_topic.remove(topic.as_str()).unwrap_or_default();
            if more_than_once {
                let mut seen = BTreeSet::new();
                got.retain(|number| seen.insert(*number));
            }
            let expected: Vec<usize> = (0..*count).collect();
            if got != expected {
                return Err(format!("{topic}: of {count} came {got:?}"));
            }
        }
        Ok(())
    }
}

fn with_retained(seed: u64) -> (World, ConnectionId) {
    let mut world = World::on(SimDisk::new(seed), [1, 4][seed as usize % 2]);
    let (publisher, _) = world.open("publisher", true, 0);
    for number in 0..RETAINED {
        let message = Message { retain: true, ..numbered(format!("r/{number}"), number) };
        world.publish(publisher, message, None);
    }
    (world, publisher)
}

/// What a seed does to a client that reads at `qos`.
fn move_once(
    (world, slow): (&mut World, &mut Slow),
    publisher: ConnectionId,
    published: &mut Published,
    dice: &mut Dice,
) {
    match dice.roll(12) {
        0..=2 => published.say(world, publisher, dice),
        // Fast for a while, then stopped for a while.
        3 => slow.room = [0, 0, dice.roll(9_000), 1 << 20][dice.roll(4)],
        4 => slow.answer(1 + dice.roll(60)),
        5 => slow.answer(1),
        6 => world.pass(20 + dice.roll(300) as u64),
        7 => drop(world.turn(false)),
        _ => drop(world.turn(true)),
    }
    slow.drive(world);
}

#[test]
fn a_client_that_stops_and_goes_on_gets_everything_once_and_in_order() {
    let (mut gave_back, mut went_on) = ([0; 3], [0; 3]);
    for seed in 0..24 {
        let qos = [QoS::AtMostOnce, ONCE, QoS::ExactlyOnce][seed as usize % 3];
        let (mut world, publisher) = with_retained(seed);
        let (mut dice, mut published) = (Dice::new(seed), Published::default());
        let expiry_s = [0, u32::MAX][dice.roll(2)];
        let mut slow = Slow::connect(&mut world, [5, 64][dice.roll(2)], expiry_s);
        slow.room = 9_000;
        slow.subscribe(&mut world, qos);

        for _ in 0..400 {
            move_once((&mut world, &mut slow), publisher, &mut published, &mut dice);
        }
        slow.catch_up(&mut world);

        published.compare(&slow, false).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        gave_back[seed as usize % 3] += slow.gave_back;
        went_on[seed as usize % 3] += slow.went_on;
    }
    eprintln!("given back {gave_back:?}, gone on {went_on:?} times");
    assert!(gave_back.iter().all(|count| *count > 1_000), "{gave_back:?}");
    assert!(went_on.iter().all(|count| *count > 20), "{went_on:?}");
}

#[test]
fn what_was_given_back_is_still_a_stored_sessions_after_a_crash_or_another_connection() {
    let mut gave_back = 0;
    for seed in 0..16 {
        let (mut world, mut publisher) = with_retained(seed);
        let (mut dice, mut published) = (Dice::new(seed), Published::default());
        let mut slow = Slow::connect(&mut world, 64, u32::MAX);
        slow.subscribe(&mut world, ONCE);
        for _ in 0..6 {
            for _ in 0..dice.roll(80) {
                move_once((&mut world, &mut slow), publisher, &mut published, &mut dice);
            }
            if dice.roll(2) == 0 {
                // What was confirmed survives; the rest is not counted on.
                world.run();
                world.restart(seed);
                publisher = world.open("publisher", true, 0).0;
            }
            let next = Slow::connect(&mut world, 64, u32::MAX);
            let before = std::mem::replace(&mut slow, next);
            slow.got.splice(..0, before.got);
            gave_back += before.gave_back;
        }
        slow.catch_up(&mut world);

        published.compare(&slow, true).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    assert!(gave_back > 1_000, "{gave_back}");
}

fn of_reader(offset: u64, source: DeliverySource) -> Delivery {
    Delivery {
        id: DeliveryId { source, partition: PartitionId(1), offset: Offset(offset) },
        message: Arc::new(message("a", "x", ONCE)),
        qos: ONCE,
        retain: false,
        redelivered: false,
        subscription_ids: Vec::new(),
        annotations: Default::default(),
        settle_explicit: false,
    }
}

/// What a client asks of the reader, and nothing else.
fn asked(client: &mut Client) -> Vec<Request> {
    let requests = std::iter::from_fn(|| client.poll_request());
    requests.map(|(_, request)| request).collect()
}

#[test]
fn what_was_on_its_way_goes_back_too_and_the_reader_waits_for_both_words() {
    let at = PartitionId(1);
    let mut client =
        Client::new(ConnectionId(1), Placement::new(1), ClientLimits::default(), Arc::default());
    client.handle_command(Millis(0), open_command("c", true, 0));
    client.handle_event(at, Event::SessionOpened(Ok(Box::new(OpenedSession::default()))));
    while client.poll_effect().is_some() {}
    asked(&mut client);
    let retained = DeliverySource::Retained(ReaderId::SESSION, 3);
    let deliveries: Vec<Delivery> =
        (10..14).map(|offset| of_reader(offset, DeliverySource::SESSION)).collect();
    client.handle_event(at, Event::Deliver(deliveries[0].clone()));
    client.handle_event(at, Event::Deliver(deliveries[1].clone()));
    while client.poll_effect().is_some() {}
    // Between the client and its protocol while that gives back, and between the reader and the client.
    client.handle_event(at, Event::Deliver(of_reader(4, retained)));
    client.handle_event(at, Event::Deliver(deliveries[2].clone()));
    client.handle_command(Millis(1), Command::GiveBack { deliveries: vec![deliveries[1].id] });
    let held = asked(&mut client);
    client.handle_event(at, Event::Deliver(deliveries[3].clone()));
    assert_eq!(client.poll_effect(), None::<Effect>);

    assert!(matches!(held[..], [Request::Hold { reader: ReaderId::SESSION }]), "{held:?}");
    client.handle_event(at, Event::Held { reader: ReaderId::SESSION });

    let rewound = asked(&mut client);
    let [Request::Rewind(rewind)] = &rewound[..] else { panic!("{rewound:?}") };
    let (reader, to) = (ReaderId::SESSION, Some(Offset(11)));
    let expected = Rewind { reader, count: 4, to, retained: vec![(Offset(4), 3)] };
    assert_eq!(**rewind, expected);
    // What ends meanwhile does not let it go on.
    let outcome = fluxmq::model::Outcome::Accepted;
    let settle = Command::Settle { delivery: deliveries[0].id, outcome };
    client.handle_command(Millis(2), settle);
    assert!(asked(&mut client).is_empty());
    client.handle_command(Millis(3), Command::GoOn);
    let went_on = asked(&mut client);
    assert!(matches!(went_on[..], [Request::Credit { count: 1, .. }]), "{went_on:?}");
    client.handle_event(at, Event::Deliver(deliveries[1].clone()));
    assert!(matches!(client.poll_effect(), Some(Effect::Deliver(_))));
}
