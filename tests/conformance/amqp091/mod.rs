//! AMQP 0.9.1: whole brokers below their sockets, and clients made of the codec: real connections, sessions and partitions, a simulated
//! disk.
//!
//! Names carry the class, the method and what the rule is about; each test says where the rule stands: a section of the specification, or
//! RabbitMQ's documentation where it is an extension.

mod acknowledge;
mod blocked;
mod consume;
mod dead;
mod exception;
mod exchange;
mod hosts;
mod memory;
mod names;
mod publish;
mod queue;
mod replies;
mod stream;
mod tx;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::world::World;
use bytes::{Bytes, BytesMut};
use fluxmq::model::{PeerInfo, VirtualHost};
use fluxmq::partition::request::ConnectionId;
use fluxmq::protocol::Connection;
use fluxmq::protocol::amqp091::codec::frame::{self, PROTOCOL_HEADER};
use fluxmq::protocol::amqp091::codec::method::*;
use fluxmq::protocol::amqp091::codec::{
    ContentHeader, FrameKind, Method, Properties, Property, ShortString, Table, Value, content,
};
use fluxmq::protocol::amqp091::{AmqpConnection, Settings};

/// Bytes of a frame, as the clients agree on.
const FRAME_BYTES: u32 = 4_096;

/// A broker, and everybody who ever connected to it.
struct Stack {
    world: World,
    settings: Arc<Settings>,
    ends: BTreeMap<ConnectionId, End>,
}

/// One connection, seen from both of its ends.
struct End {
    machine: AmqpConnection,
    /// What the connection has not consumed.
    input: BytesMut,
    /// What the client received and has not put together.
    output: BytesMut,
    /// What the client received and the test has not taken.
    received: Vec<Received>,
    is_up: bool,
    /// Bytes that it reads in a turn.
    reads: usize,
}

/// A method that a client received, with its content.
#[derive(Clone, Debug, PartialEq)]
struct Received {
    channel: u16,
    method: Method,
    properties: Properties,
    body: Vec<u8>,
}

/// A delivery that a client received.
#[derive(Clone, Debug, PartialEq)]
struct Delivered {
    tag: u64,
    redelivered: bool,
    body: String,
}

impl Stack {
    fn new() -> Stack {
        let settings = Settings { guest_is_anonymous: true, ..Settings::default() };
        Stack { world: World::new(4), settings: settings.into(), ends: BTreeMap::new() }
    }

    /// Kills the broker, cuts the power and starts it again: every connection is gone.
    fn crash(self) -> Stack {
        Stack { world: self.world.crash(5), settings: self.settings, ends: BTreeMap::new() }
    }

    /// A client with an open connection that hears of everything, and channel 1 open.
    fn client(&mut self) -> ConnectionId {
        self.client_in("/")
    }

    /// The same in another virtual host.
    fn client_in(&mut self, host: &'static str) -> ConnectionId {
        let id = self.greet();
        self.open(id, host);
        assert_eq!(self.methods(id).pop(), Some(ConnectionOpenOk::default().into()));
        self.send(id, 1, ChannelOpen::default());
        assert_eq!(self.method(id), ChannelOpenOk::default().into(), "the client is let in");
        id
    }

    fn open(&mut self, id: ConnectionId, host: &'static str) {
        let open = ConnectionOpen { virtual_host: short(host), ..ConnectionOpen::default() };
        self.send(id, 0, open);
    }

    /// A client that is admitted and has opened nothing.
    fn greet(&mut self) -> ConnectionId {
        let id = self.world.connect();
        let peer = PeerInfo::tcp(SocketAddr::from(([127, 0, 0, 1], 40_000)));
        let session_id = Bytes::from(format!("auto-{}", id.0));
        let machine = AmqpConnection::new(self.settings.clone(), peer, session_id, self.world.now);
        let end = End {
            machine,
            input: BytesMut::from(&PROTOCOL_HEADER[..]),
            output: BytesMut::new(),
            received: Vec::new(),
            is_up: true,
            reads: usize::MAX,
        };
        self.ends.insert(id, end);
        self.run();
        let capabilities: Table = ["consumer_cancel_notify", "connection.blocked"]
            .map(|name| (name, Value::Boolean(true)))
            .into_iter()
            .collect();
        let start = ConnectionStartOk {
            client_properties: [("capabilities", Value::Table(capabilities))].into_iter().collect(),
            mechanism: short("PLAIN"),
            response: Bytes::from_static(b"\0guest\0guest"),
            locale: short("en_US"),
        };
        self.send(id, 0, start);
        let tune = ConnectionTuneOk { channel_max: 100, frame_max: FRAME_BYTES, heartbeat: 0 };
        self.send(id, 0, tune);
        self.methods(id);
        id
    }

    fn end(&mut self, id: ConnectionId) -> &mut End {
        self.ends.get_mut(&id).expect("it dialled")
    }

    fn send(&mut self, id: ConnectionId, channel: u16, method: impl Into<Method>) {
        let input = &mut self.end(id).input;
        method.into().encode(channel, input);
        self.run();
    }

    fn publish(&mut self, id: ConnectionId, publish: BasicPublish, list: &Properties, body: &str) {
        let input = &mut self.end(id).input;
        Method::from(publish).encode(1, input);
        content::encode(1, list, body.as_bytes(), FRAME_BYTES, input);
        self.run();
    }

    /// Publishes texts to a queue.
    fn fill(&mut self, id: ConnectionId, queue: &'static str, bodies: &[&str]) {
        for body in bodies {
            self.publish(id, to_queue(queue), &Properties::default(), body);
        }
    }

    /// Declares a durable queue as `edit` says; returns messages and consumers.
    fn declare(
        &mut self,
        id: ConnectionId,
        queue: &'static str,
        edit: impl FnOnce(&mut QueueDeclare),
    ) -> (u32, u32) {
        let mut declare =
            QueueDeclare { queue: short(queue), durable: true, ..QueueDeclare::default() };
        edit(&mut declare);
        self.send(id, 1, declare);
        match self.method(id) {
            Method::QueueDeclareOk(ok) => (ok.message_count, ok.consumer_count),
            other => panic!("{other:?} is no queue"),
        }
    }

    /// Counts the messages that are ready and the consumers of a queue.
    fn count(&mut self, id: ConnectionId, queue: &'static str) -> (u32, u32) {
        self.declare(id, queue, |declare| declare.passive = true)
    }

    /// Consumes a queue on channel 1, as `edit` says.
    fn consume(
        &mut self,
        id: ConnectionId,
        queue: &'static str,
        tag: &'static str,
        edit: impl FnOnce(&mut BasicConsume),
    ) {
        let mut consume = BasicConsume {
            queue: short(queue),
            consumer_tag: short(tag),
            ..BasicConsume::default()
        };
        edit(&mut consume);
        self.send(id, 1, consume);
        let ok: Method = BasicConsumeOk { consumer_tag: short(tag) }.into();
        let received = &mut self.end(id).received;
        let at = received.iter().position(|received| received.method == ok);
        received.remove(at.expect("the consumer stands"));
    }

    /// Asks for one message; `None` where there is none.
    fn get(&mut self, id: ConnectionId, queue: &'static str, no_ack: bool) -> Option<Delivered> {
        self.send(id, 1, BasicGet { queue: short(queue), no_ack, ..BasicGet::default() });
        let received = self.received(id);
        let [Received { method, body, .. }] = &received[..] else { panic!("{received:?}") };
        match method {
            Method::BasicGetOk(ok) => Some(Delivered {
                tag: ok.delivery_tag,
                redelivered: ok.redelivered,
                body: text(body),
            }),
            Method::BasicGetEmpty(_) => None,
            other => panic!("{other:?} is no answer"),
        }
    }

    fn ack(&mut self, id: ConnectionId, delivery_tag: u64) {
        self.send(id, 1, BasicAck { delivery_tag, multiple: false });
    }

    fn nack(&mut self, id: ConnectionId, delivery_tag: u64, requeue: bool) {
        self.send(id, 1, BasicNack { delivery_tag, multiple: false, requeue });
    }

    fn qos(&mut self, id: ConnectionId, prefetch_count: u16, global: bool) {
        self.send(id, 1, BasicQos { prefetch_size: 0, prefetch_count, global });
        assert_eq!(self.method(id), BasicQosOk::default().into());
    }

    /// Takes everything a client received.
    fn received(&mut self, id: ConnectionId) -> Vec<Received> {
        std::mem::take(&mut self.end(id).received)
    }

    /// Takes the methods a client received.
    fn methods(&mut self, id: ConnectionId) -> Vec<Method> {
        self.received(id).into_iter().map(|received| received.method).collect()
    }

    /// Takes the only method a client received.
    fn method(&mut self, id: ConnectionId) -> Method {
        let mut methods = self.methods(id);
        assert_eq!(methods.len(), 1, "{methods:?}");
        methods.remove(0)
    }

    /// Takes the deliveries a client received, which must be all.
    fn deliveries(&mut self, id: ConnectionId) -> Vec<Delivered> {
        let delivered = |Received { method, body, .. }: Received| match method {
            Method::BasicDeliver(deliver) => Delivered {
                tag: deliver.delivery_tag,
                redelivered: deliver.redelivered,
                body: text(&body),
            },
            other => panic!("{other:?} is no delivery"),
        };
        self.received(id).into_iter().map(delivered).collect()
    }

    /// Takes the bodies of the deliveries a client received.
    fn bodies(&mut self, id: ConnectionId) -> Vec<String> {
        self.deliveries(id).into_iter().map(|delivered| delivered.body).collect()
    }

    /// A channel of a client was closed, with this code and text; it closes what is left of it.
    fn assert_channel_closed(&mut self, id: ConnectionId, code: u16, expected: &str) {
        match self.method(id) {
            Method::ChannelClose(close) => {
                let text = close.reply_text.as_str().expect("text");
                assert!(text.contains(expected), "{text}");
                assert_eq!(close.reply_code, code);
            }
            other => panic!("{other:?} closes no channel"),
        }
        self.send(id, 1, ChannelCloseOk::default());
        self.send(id, 1, ChannelOpen::default());
        assert_eq!(self.method(id), ChannelOpenOk::default().into(), "the connection stands");
    }

    /// A connection was closed, with this code and text.
    fn assert_connection_closed(&mut self, id: ConnectionId, code: u16, expected: &str) {
        match self.method(id) {
            Method::ConnectionClose(close) => {
                let text = close.reply_text.as_str().expect("text");
                assert!(text.contains(expected), "{text}");
                assert_eq!(close.reply_code, code);
            }
            other => panic!("{other:?} closes no connection"),
        }
    }

    /// The network ends the connection.
    fn cut(&mut self, id: ConnectionId) {
        lose(&mut self.world, id, self.ends.get_mut(&id).expect("it dialled"));
        self.run();
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
            is_busy |= self.world.turn(true);
            if !is_busy {
                self.world.drop_done();
                // Others may hear of it.
                if !self.world.turn(true) {
                    return;
                }
            }
        }
    }
}

/// One turn of `net::drive` for one connection; true when something happened.
fn turn(world: &mut World, id: ConnectionId, end: &mut End) -> bool {
    let now = world.now;
    let mut is_busy = false;
    if !end.is_up {
        return false;
    }
    if !end.input.is_empty() {
        let before = end.input.len();
        end.machine.handle_input(now, &mut end.input);
        is_busy |= end.input.len() != before;
    }
    while let Some(effect) = world.take(id, |effect| Some(effect.clone())) {
        end.machine.handle_effect(now, effect);
        is_busy = true;
    }
    let before = end.output.len();
    if end.reads > 0 {
        end.machine.poll_transmit(now, &mut end.output, end.reads);
    }
    is_busy |= end.output.len() != before;
    end.take_output();
    while let Some(command) = end.machine.poll_command() {
        world.say(id, command);
        is_busy = true;
    }
    if end.machine.awaits_release() && world.is_done(id) {
        world.hang_up(id);
        world.drop_done();
        end.machine.handle_released(now);
        end.machine.poll_transmit(now, &mut end.output, usize::MAX);
        end.take_output();
    }
    if end.machine.is_closing() {
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
    world.hang_up(id);
}

impl End {
    /// Puts together what was received: a method, and the content behind it.
    fn take_output(&mut self) {
        while let Some(frame) = frame::decode(&mut self.output, FRAME_BYTES).expect("frames") {
            match frame.kind {
                FrameKind::Method => self.received.push(Received {
                    channel: frame.channel,
                    method: Method::decode(frame.payload).expect("a method"),
                    properties: Properties::default(),
                    body: Vec::new(),
                }),
                FrameKind::Header => {
                    let header = ContentHeader::decode(frame.payload).expect("a header");
                    self.received.last_mut().expect("a method").properties = header.properties;
                }
                FrameKind::Body => {
                    let last = self.received.last_mut().expect("a method");
                    assert_eq!(last.channel, frame.channel);
                    last.body.extend_from_slice(&frame.payload);
                }
                FrameKind::Heartbeat => panic!("nobody asked for heartbeats"),
            }
        }
        assert!(self.output.is_empty(), "what we send is whole");
    }
}

fn short(text: &'static str) -> ShortString {
    ShortString::from_static(text)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn arguments(entries: &[(&str, Value)]) -> Table {
    entries.iter().cloned().collect()
}

fn to_queue(queue: &'static str) -> BasicPublish {
    BasicPublish { routing_key: short(queue), ..BasicPublish::default() }
}
