//! Scripts of several connections: real connections, sessions and partitions on a simulated disk, stepped as the input says.
//!
//! Nothing panics, what the broker sends is well-formed and as small as asked for, two clients that know nothing of it lose no message
//! and no order, and when everybody is gone, nothing of them is left.

#[path = "../broker/world.rs"]
#[allow(dead_code, reason = "the broker's own tests use all of it")]
mod world;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fluxmq::model::command::RetainHandling;
use fluxmq::model::{PeerInfo, QoS};
use fluxmq::partition::request::ConnectionId;
use fluxmq::protocol::Connection;
use fluxmq::protocol::mqtt::codec::{Limits, decode, encode};
use fluxmq::protocol::mqtt::types::*;
use fluxmq::protocol::mqtt::{
    MqttConnection, Packet, Property, PropertyList, ReasonCode, Settings, Version,
};
use world::World;

/// No input that holds this is tried: it would be a bystander's own.
const SECRET: &str = "0f61d6f5b2";
const STEPS_MAX: usize = 150;
const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const TOPICS: [&str; 16] = [
    "t",
    "t/1",
    "t/1/2",
    "peace/1",
    "$queue/q",
    "$queue/q/k",
    "$queue/q/$ack",
    "$SYS/x",
    "$own/x",
    "",
    "$queue/q/$nack",
    "$queue/q/$reject",
    "$queue/q/$commit",
    "$queue/other/k",
    "$dlq/q",
    "t/1/\u{e9}",
];
const FILTERS: [&str; 19] = [
    "t",
    "t/#",
    "#",
    "+/1",
    "+",
    "$queue/q",
    "$queue/q/k",
    "$share/g/t/#",
    "$share/g/$queue/q",
    "a#",
    "peace/+",
    "$own/#",
    "$replay/earliest/t/#",
    "$replay/last=2/#",
    "$queue/q/#",
    "$queue/other",
    "$dlq/q",
    "$SYS/#",
    "$share/h/#",
];

/// Plays one input.
pub fn check(data: &[u8]) {
    if data.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
        return;
    }
    let mut script = Script { data };
    let mut play = Play::new(if script.byte().is_multiple_of(2) { 1 } else { 4 });
    for _ in 0..STEPS_MAX {
        if script.data.is_empty() {
            break;
        }
        play.step(&mut script);
    }
    play.end();
}

/// What is left of the input.
struct Script<'a> {
    data: &'a [u8],
}

impl Script<'_> {
    /// The next byte; 0 when there is none.
    fn byte(&mut self) -> u8 {
        match self.data.split_first() {
            Some((first, rest)) => {
                self.data = rest;
                *first
            }
            None => 0,
        }
    }

    fn bytes(&mut self, count: usize) -> Bytes {
        let (taken, rest) = self.data.split_at(count.min(self.data.len()));
        self.data = rest;
        Bytes::copy_from_slice(taken)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    fn qos(&mut self) -> QoS {
        self.of(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
    }

    fn packet_id(&mut self) -> u16 {
        u16::from(self.byte() % 5)
    }
}

/// A connection and its client.
struct End {
    id: ConnectionId,
    machine: MqttConnection,
    version: Version,
    /// The largest packet its client takes.
    bytes_max: usize,
    input: BytesMut,
    received: VecDeque<Packet>,
    is_up: bool,
}

/// The broker and everybody.
struct Play {
    world: World,
    settings: Arc<Settings>,
    watcher: End,
    publisher: End,
    /// The connections of the script; a slot that is dialled again lets go of the one before.
    slots: [Option<End>; 3],
    /// Those whose network is gone; they may still have something to finish.
    gone: Vec<End>,
    published: usize,
    seen: usize,
}

impl Play {
    fn new(data_partitions: u16) -> Play {
        let mut world = World::new(data_partitions);
        let settings = Arc::new(Settings::default());
        let watcher = End::dial(&mut world, &settings, Version::V5);
        let publisher = End::dial(&mut world, &settings, Version::V311);
        let gone = Vec::new();
        let slots = [None, None, None];
        let mut play =
            Play { world, settings, watcher, publisher, slots, gone, published: 0, seen: 0 };
        play.watcher.send(&Packet::Connect(Box::new(bystander(Version::V5, "watcher"))));
        play.publisher.send(&Packet::Connect(Box::new(bystander(Version::V311, "publisher"))));
        let filter = SubscribeFilter::new(Bytes::from_static(b"peace/#"), QoS::ExactlyOnce);
        let properties = PropertyList::default();
        let filters = vec![filter];
        play.watcher.send(&Packet::Subscribe(Subscribe { packet_id: 1, properties, filters }));
        play.run();
        play
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let op = script.byte();
        let slot = usize::from(op >> 4) % self.slots.len();
        match op % 13 {
            0 | 1 => {
                let version = script.of(&VERSIONS);
                let mut end = End::dial(&mut self.world, &self.settings, version);
                let connect = connect(version, script, &mut end.bytes_max);
                end.send(&Packet::Connect(Box::new(connect)));
                if let Some(mut old) = self.slots[slot].replace(end) {
                    old.lose(&mut self.world);
                    self.gone.push(old);
                }
            }
            8 => {
                // Seconds, mostly; days, sometimes.
                let ms = match script.byte() {
                    255 => 8 * 24 * 3_600_000,
                    few => u64::from(few) * 500,
                };
                self.pass(ms);
            }
            10 => self.speak(),
            11 => {
                self.world.turn(false);
            }
            12 => {
                let count = usize::from(script.byte());
                let raw = script.bytes(count);
                if let Some(end) = self.slots[slot].as_mut() {
                    end.input.extend_from_slice(&raw);
                }
            }
            kind => {
                let Some(end) = self.slots[slot].as_mut() else { return };
                match kind {
                    2 | 3 => end.send(&publish(script)),
                    4 => end.send(&subscribe(script)),
                    5 => end.send(&leave_or_ask(script)),
                    6 => end.answer(usize::from(script.byte() % 8) + 1),
                    7 => end.send(&answer_of(script)),
                    _ => end.lose(&mut self.world),
                }
            }
        }
        // Half of the time several things happen at once.
        if op < 128 {
            self.run();
        }
    }

    /// A bystander publishes its next number.
    fn speak(&mut self) {
        let payload = Bytes::from(format!("{SECRET} {}", self.published));
        self.published += 1;
        let packet_id = (self.published % 60_000 + 1) as u16;
        self.publisher.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::ExactlyOnce,
            retain: false,
            topic: Bytes::from_static(b"peace/1"),
            packet_id,
            properties: PropertyList::default(),
            payload,
        }));
    }

    fn pass(&mut self, ms: u64) {
        self.run();
        self.world.pass(ms);
        let now = self.world.now;
        let slots = self.slots.iter_mut().flatten();
        for end in slots.chain([&mut self.watcher, &mut self.publisher]).filter(|end| end.is_up) {
            if end.machine.poll_timeout().is_some_and(|due| due <= now) {
                end.machine.handle_timeout(now);
            }
        }
        self.run();
    }

    /// Runs until nothing happens any more; bystanders answer at once.
    fn run(&mut self) {
        loop {
            let mut is_busy = false;
            let slots = self.slots.iter_mut().flatten().chain(&mut self.gone);
            for end in slots.chain([&mut self.watcher, &mut self.publisher]) {
                is_busy |= end.turn(&mut self.world);
            }
            self.listen();
            self.publisher.answer(usize::MAX);
            let waits = !self.watcher.input.is_empty() || !self.publisher.input.is_empty();
            if !self.world.turn(true) && !is_busy && !waits {
                break;
            }
        }
        assert!(self.watcher.is_up && self.publisher.is_up, "bystanders stay connected");
        assert_eq!(self.seen, self.published, "bystanders lose nothing");
    }

    /// The watcher answers what it got, and counts what is of the other bystander.
    fn listen(&mut self) {
        for packet in &self.watcher.received {
            let Packet::Publish(publish) = packet else { continue };
            if publish.payload.starts_with(SECRET.as_bytes()) {
                let expected = format!("{SECRET} {}", self.seen);
                assert_eq!(publish.payload, expected, "once, and in order");
                self.seen += 1;
            }
        }
        self.watcher.answer(usize::MAX);
    }

    /// Everybody goes; nothing of them stays.
    fn end(mut self) {
        self.speak();
        self.run();
        let mut ends: Vec<End> = self.slots.iter_mut().filter_map(Option::take).collect();
        for end in &mut ends {
            end.lose(&mut self.world);
        }
        self.gone.append(&mut ends);
        // The longest life of a session, and of a will after it.
        for _ in 0..2 {
            self.pass(8 * 24 * 3_600_000);
        }
        self.speak();
        self.run();
        self.watcher.lose(&mut self.world);
        self.publisher.lose(&mut self.world);
        while self.world.turn(true) {}
        for end in self.gone.iter().chain([&self.watcher, &self.publisher]) {
            assert!(self.world.is_done(end.id), "{:?} still holds something", end.id);
        }
        for partition in self.world.partitions.values() {
            assert_eq!(partition.views().sessions.len(), 0, "a session outlived everything");
        }
    }
}

impl End {
    fn dial(world: &mut World, settings: &Arc<Settings>, version: Version) -> End {
        let id = world.connect();
        let peer = PeerInfo::tcp(SocketAddr::from(([127, 0, 0, 1], 40_000)));
        let assigned = Bytes::from(format!("auto-{}", id.0));
        let machine = MqttConnection::new(settings.clone(), peer, assigned, world.now);
        let (input, received) = (BytesMut::new(), VecDeque::new());
        End { id, machine, version, bytes_max: usize::MAX, input, received, is_up: true }
    }

    /// Puts a packet where the network would; one that cannot be written in this version is no packet.
    fn send(&mut self, packet: &Packet) {
        let before = self.input.len();
        if encode(packet, self.version, &mut self.input).is_err() {
            self.input.truncate(before);
        }
    }

    /// One turn of `net::drive`; true when something happened.
    fn turn(&mut self, world: &mut World) -> bool {
        let now = world.now;
        let mut is_busy = false;
        if self.is_up && !self.input.is_empty() {
            let before = self.input.len();
            self.machine.handle_input(now, &mut self.input);
            is_busy |= self.input.len() != before;
        }
        while let Some(effect) = world.take(self.id, |effect| Some(effect.clone())) {
            self.machine.handle_effect(now, effect);
            is_busy = true;
        }
        let mut bytes = BytesMut::new();
        self.machine.poll_transmit(now, &mut bytes, usize::MAX);
        is_busy |= !bytes.is_empty();
        if self.is_up {
            self.receive(&mut bytes);
        }
        while let Some(command) = self.machine.poll_command() {
            world.say(self.id, command);
            is_busy = true;
        }
        if self.is_up && self.machine.is_closing() {
            self.lose(world);
            is_busy = true;
        }
        is_busy
    }

    fn receive(&mut self, bytes: &mut BytesMut) {
        loop {
            let before = bytes.len();
            let packet = decode(bytes, Some(self.version), &Limits::default());
            let packet = packet.expect("what the broker sends is well-formed");
            let Some(packet) = packet else { break };
            assert!(before - bytes.len() <= self.bytes_max, "too large for its client: {packet:?}");
            self.received.push_back(packet);
        }
        assert!(bytes.is_empty(), "what the broker sends is whole");
    }

    /// Answers the oldest of what was received, as a good client does.
    fn answer(&mut self, count: usize) {
        for _ in 0..count {
            let Some(packet) = self.received.pop_front() else { return };
            let answer = match packet {
                Packet::Publish(publish) => match publish.qos {
                    QoS::AtMostOnce => continue,
                    QoS::AtLeastOnce => Packet::PubAck(ack(publish.packet_id)),
                    QoS::ExactlyOnce => Packet::PubRec(ack(publish.packet_id)),
                },
                Packet::PubRec(pubrec) if !pubrec.reason.is_error() => {
                    Packet::PubRel(ack(pubrec.packet_id))
                }
                Packet::PubRel(pubrel) => Packet::PubComp(ack(pubrel.packet_id)),
                _ => continue,
            };
            self.send(&answer);
        }
    }

    fn lose(&mut self, world: &mut World) {
        if !std::mem::replace(&mut self.is_up, false) {
            return;
        }
        self.input.clear();
        self.machine.handle_disconnect(world.now);
        while let Some(command) = self.machine.poll_command() {
            world.say(self.id, command);
        }
    }
}

fn ack(packet_id: u16) -> Ack {
    Ack { packet_id, ..Ack::default() }
}

fn bystander(version: Version, name: &str) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: Bytes::from(format!("{name} {SECRET}")),
        will: None,
        username: None,
        password: None,
        properties: PropertyList::default(),
    }
}

fn connect(version: Version, script: &mut Script<'_>, bytes_max: &mut usize) -> Connect {
    let flags = script.byte();
    let mut properties = Vec::new();
    if version.is_v5() {
        properties.push(Property::SessionExpiry(script.of(&[0, 5, 3_600, u32::MAX])));
        properties.push(Property::ReceiveMaximum(u16::from(script.byte()).max(1)));
        properties.push(Property::TopicAliasMaximum(script.of(&[0, 1, 10])));
        if flags & 1 != 0 {
            let bytes = u32::from(script.byte()).max(16);
            *bytes_max = bytes as usize;
            properties.push(Property::MaximumPacketSize(bytes));
        }
        properties.push(Property::RequestProblemInformation(flags & 2 != 0));
    }
    let mut will_properties = Vec::new();
    if version.is_v5() && flags & 4 != 0 {
        will_properties.push(Property::WillDelay(script.of(&[0, 3, 100, u32::MAX])));
    }
    let will = (flags & 8 != 0).then(|| Will {
        topic: Bytes::from(script.of(&TOPICS)),
        payload: Bytes::from_static(b"gone"),
        qos: script.qos(),
        retain: flags & 16 != 0,
        properties: will_properties.into_iter().collect(),
    });
    Connect {
        version,
        clean_start: flags & 32 != 0,
        keep_alive_s: script.of(&[0, 1, 60]),
        client_id: Bytes::from(script.of(&["a", "b", "c", ""])),
        will,
        username: None,
        password: None,
        properties: properties.into_iter().collect(),
    }
}

fn publish(script: &mut Script<'_>) -> Packet {
    let (flags, qos, packet_id) = (script.byte(), script.qos(), script.packet_id());
    let mut properties = Vec::new();
    if flags & 1 != 0 {
        properties.push(Property::TopicAlias(u16::from(script.byte() % 40)));
    }
    if flags & 2 != 0 {
        properties.push(Property::MessageExpiry(script.of(&[0, 1, 10])));
    }
    if flags & 4 != 0 {
        // What $ack and its like name, sometimes of something that is there.
        let key = script.of(&["message-id", "group-id", "x-delay", "own"]);
        let value = match script.byte() {
            few @ 0..8 => Bytes::from(format!("q:{few}")),
            _ => script.bytes(usize::from(flags)),
        };
        properties.push(Property::User(Bytes::from(key), value));
    }
    Packet::Publish(Publish {
        dup: flags & 8 != 0 && qos != QoS::AtMostOnce,
        qos,
        retain: flags & 16 != 0,
        topic: Bytes::from(script.of(&TOPICS)),
        packet_id: if qos == QoS::AtMostOnce { 0 } else { packet_id.max(1) },
        properties: properties.into_iter().collect(),
        payload: script.bytes(usize::from(flags >> 5) * 30),
    })
}

fn subscribe(script: &mut Script<'_>) -> Packet {
    let flags = script.byte();
    let mut properties = Vec::new();
    if flags & 1 != 0 {
        properties.push(Property::SubscriptionId(u32::from(script.byte()).max(1)));
    }
    if flags & 2 != 0 {
        let (key, value) = script.of(&[
            ("cursor", "earliest"),
            ("cursor", "latest"),
            ("consumer-group", "g"),
            ("settle", "explicit"),
            ("replay-from", "earliest"),
            ("replay-from", "offset=3"),
            ("cursor", "last=1"),
        ]);
        properties.push(Property::User(Bytes::from(key), Bytes::from(value)));
    }
    let handling = [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DontSend];
    let filters = (0..=usize::from(flags >> 6)).map(|_| SubscribeFilter {
        filter: Bytes::from(script.of(&FILTERS)),
        qos: script.qos(),
        no_local: flags & 4 != 0,
        retain_as_published: flags & 8 != 0,
        retain_handling: handling[usize::from(flags >> 4) % 3],
    });
    let filters = filters.collect();
    let packet_id = script.packet_id().max(1);
    let properties = properties.into_iter().collect();
    Packet::Subscribe(Subscribe { packet_id, properties, filters })
}

fn leave_or_ask(script: &mut Script<'_>) -> Packet {
    let properties = PropertyList::default();
    match script.byte() % 6 {
        0 => {
            let reason = script.of(&[ReasonCode::SUCCESS, ReasonCode::DISCONNECT_WITH_WILL]);
            Packet::Disconnect(Disconnect { reason, properties })
        }
        1 => {
            let expiry = Property::SessionExpiry(script.of(&[0, 1, u32::MAX]));
            let properties = [expiry].into_iter().collect();
            Packet::Disconnect(Disconnect { reason: ReasonCode::SUCCESS, properties })
        }
        2 => Packet::PingReq,
        3 => Packet::Auth(Auth { reason: ReasonCode::REAUTHENTICATE, properties }),
        _ => {
            let filters = vec![Bytes::from(script.of(&FILTERS))];
            Packet::Unsubscribe(Unsubscribe { packet_id: 1, properties, filters })
        }
    }
}

fn answer_of(script: &mut Script<'_>) -> Packet {
    let kind = script.byte();
    let reason = script.of(&[ReasonCode::SUCCESS, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND]);
    let answer = Ack { packet_id: script.packet_id().max(1), reason, ..Ack::default() };
    match kind % 4 {
        0 => Packet::PubAck(Ack { reason: ReasonCode::SUCCESS, ..answer }),
        1 => Packet::PubRec(Ack { reason: ReasonCode::SUCCESS, ..answer }),
        2 => Packet::PubRel(answer),
        _ => Packet::PubComp(answer),
    }
}
