//! Scripts of one AMQP 0.9.1 connection: methods, content, bytes, answers of the broker and time, in the order that the input says.
//!
//! Nothing panics; what is sent are frames of methods that servers send; what is left of the input is less than a frame; confirms ascend, and
//! so do delivery tags; each delivery is settled once at most, and none of a consumer that left; consumers leave once;
//! the broker hears of the session once, and of its end once; and after a close of ours nothing follows but an answer to theirs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use fluxmq::model::command::Close;
use fluxmq::model::effect::Opened;
use fluxmq::model::{
    Command, Delivery, DeliveryId, DeliverySource, Effect, Got, Message, Millis, PartitionId,
    PeerInfo, Properties as Neutral, QoS, QueueAnswer, QueueRefusal, Refusal, Token, Topic,
};
use fluxmq::protocol::Connection;
use fluxmq::protocol::amqp091::codec::frame::{self, PROTOCOL_HEADER};
use fluxmq::protocol::amqp091::codec::method::*;
use fluxmq::protocol::amqp091::codec::{
    ContentHeader, FrameKind, Greeting, Method, Properties, Property, ShortString, Table, Value,
    content,
};
use fluxmq::protocol::amqp091::{AmqpConnection, Settings};

const STEPS_MAX: usize = 400;
/// Small, so that scripts reach their limits.
const FRAME_BYTES: u32 = 4096;

/// Plays one input.
pub fn check(data: &[u8]) {
    let mut script = Script { data };
    let mut play = Play::new();
    if script.byte().is_multiple_of(4) {
        play.open();
    }
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

    fn is_true(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn channel(&mut self) -> u16 {
        u16::from(self.byte() % 5)
    }

    fn name(&mut self) -> ShortString {
        let names =
            ["", "amq.topic", "a.b", "orders", "topic", "/", "PLAIN", "a.#", "$SYS.x", "q", "c"];
        ShortString::from_static(names[usize::from(self.byte()) % names.len()])
    }
}

/// A connection, and what both ends know of it.
struct Play {
    connection: AmqpConnection,
    now: Millis,
    input: BytesMut,
    output: BytesMut,
    /// The answer to a foreign protocol header is no frame.
    is_greeted: bool,
    /// What the broker was asked and has not answered.
    publishes: VecDeque<Token>,
    is_opening: bool,
    opened: usize,
    closed: usize,
    refused: usize,
    /// The last tag that was confirmed on each channel.
    confirmed: BTreeMap<u16, u64>,
    /// The last delivery tag of each channel.
    delivered: BTreeMap<u16, u64>,
    /// What is asked of queues and not answered.
    request: Option<Asked>,
    /// Consumers that stand, and those that only get.
    consumers: BTreeSet<u32>,
    /// Those of them that get nothing more.
    stopped: BTreeSet<u32>,
    /// Deliveries that are out.
    out: BTreeSet<DeliveryId>,
    deliveries: u64,
    has_closed: bool,
}

/// What is to be answered.
enum Asked {
    Queue(Token),
    Exchange(Token),
    Consume(Token, u32),
    Stop(Token, u32),
    Get(Token, u32),
    Commit(Token, usize),
}

/// Numbers of the broker's for what is got one by one: one for each who gets.
const THEIRS: u32 = fluxmq::model::consume::CONSUMERS_END;

impl Play {
    fn new() -> Play {
        let settings = Settings {
            frame_bytes_max: FRAME_BYTES,
            channels_max: 3,
            message_bytes_max: 6_000,
            unfinished_bytes_max: 8_000,
            answer_bytes_max: 300,
            publishes_awaiting_max: 4,
            guest_is_anonymous: true,
            ..Settings::default()
        };
        let peer = PeerInfo::tcp("127.0.0.1:1".parse().unwrap());
        let now = Millis(1_000);
        Play {
            connection: AmqpConnection::new(Arc::new(settings), peer, Bytes::from("id"), now),
            now,
            input: BytesMut::new(),
            output: BytesMut::new(),
            is_greeted: false,
            publishes: VecDeque::new(),
            is_opening: false,
            opened: 0,
            closed: 0,
            refused: 0,
            confirmed: BTreeMap::new(),
            delivered: BTreeMap::new(),
            request: None,
            consumers: BTreeSet::new(),
            stopped: BTreeSet::new(),
            out: BTreeSet::new(),
            deliveries: 0,
            has_closed: false,
        }
    }

    /// Does the handshake.
    fn open(&mut self) {
        self.input.extend_from_slice(&PROTOCOL_HEADER);
        let start = ConnectionStartOk {
            mechanism: ShortString::from_static("PLAIN"),
            response: Bytes::from_static(b"\0guest\0guest"),
            ..ConnectionStartOk::default()
        };
        self.send(0, start);
        self.turn();
        self.admit();
        self.send(0, ConnectionTuneOk { channel_max: 3, frame_max: FRAME_BYTES, heartbeat: 2 });
        let virtual_host = ShortString::from_static("/");
        self.send(0, ConnectionOpen { virtual_host, ..ConnectionOpen::default() });
        self.send(1, ChannelOpen::default());
        self.turn();
        self.transmit();
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 17 {
            0 | 1 => {
                let (channel, method) = (script.channel(), method(script));
                self.send(channel, method);
            }
            2 => self.publish(script),
            3 => {
                let (channel, count) = (script.channel(), usize::from(script.byte()) * 20);
                let kind = if script.is_true() { FrameKind::Body } else { FrameKind::Header };
                let payload = match kind {
                    FrameKind::Body => Bytes::from(vec![7; count]),
                    _ => script.bytes(count),
                };
                frame::encode(kind, channel, &mut self.input, |out| out.put_slice(&payload));
            }
            4 => {
                let (channel, count) = (script.channel(), usize::from(script.byte() % 40));
                let payload = script.bytes(count);
                let kind = FrameKind::Method;
                frame::encode(kind, channel, &mut self.input, |out| out.put_slice(&payload));
            }
            5 => {
                let count = usize::from(script.byte() % 40);
                self.input.extend_from_slice(&script.bytes(count));
            }
            6 | 7 => self.answer(script),
            8 => {
                let effect = match script.byte() % 8 {
                    0 => Effect::ShuttingDown,
                    1 => Effect::TakenOver,
                    2 => Effect::Expelled(Refusal::NotAuthorized),
                    _ => return self.admit(),
                };
                if self.opened > 0 && !self.is_opening {
                    self.effect(effect);
                }
            }
            9 if self.is_opening => {
                self.is_opening = false;
                self.refused += 1;
                self.effect(Effect::OpenRefused(Refusal::BadCredentials));
            }
            9 | 10 => {
                self.now = self.now.plus(u64::from(script.byte()) * 50);
                if self.connection.poll_timeout().is_some_and(|due| due <= self.now) {
                    self.connection.handle_timeout(self.now);
                }
            }
            11 => self.input.extend_from_slice(&PROTOCOL_HEADER),
            12 | 13 => self.answer_request(script),
            14 | 15 => self.deliver(script),
            _ => self.transmit(),
        }
        self.turn();
    }

    fn publish(&mut self, script: &mut Script<'_>) {
        let channel = script.channel();
        let publish = BasicPublish {
            exchange: if script.is_true() { script.name() } else { topics() },
            routing_key: script.name(),
            mandatory: script.is_true(),
            ..BasicPublish::default()
        };
        Method::from(publish).encode(channel, &mut self.input);
        let list = [Property::DeliveryMode(script.byte()), Property::Expiration(script.name())];
        let properties = Properties::encode(list.into_iter().take(usize::from(script.byte() % 3)));
        let body = vec![9; usize::from(script.byte()) * 30];
        content::encode(channel, &properties, &body, FRAME_BYTES, &mut self.input);
    }

    /// The broker answers a publish, in whatever order.
    fn answer(&mut self, script: &mut Script<'_>) {
        let at = usize::from(script.byte()) % self.publishes.len().max(1);
        let Some(token) = self.publishes.remove(at) else { return };
        let result = match script.byte() % 5 {
            0 => Ok(false),
            1 => Err(Refusal::DiskFull),
            2 => Err(Refusal::NotAuthorized),
            _ => Ok(true),
        };
        self.effect(Effect::Confirm { token, result });
    }

    /// The broker answers what was asked of a queue.
    fn answer_request(&mut self, script: &mut Script<'_>) {
        let Some(asked) = self.request.take() else { return };
        let refusal = match script.byte() % 4 {
            0 => Some(QueueRefusal::Missing { queue: "q".to_owned() }.into()),
            1 => Some(Refusal::NotAuthorized),
            _ => None,
        };
        let effect = match asked {
            Asked::Queue(token) => {
                let answer = QueueAnswer { messages: 3, consumers: 1 };
                Effect::Queue { token, result: refusal.map_or(Ok(answer), Err) }
            }
            Asked::Exchange(token) => {
                Effect::Exchange { token, result: refusal.map_or(Ok(()), Err) }
            }
            Asked::Consume(token, consumer) => {
                if refusal.is_some() {
                    self.consumers.remove(&consumer);
                }
                Effect::Consuming { token, result: refusal.map_or(Ok(()), Err) }
            }
            Asked::Commit(token, publishes) => {
                let unrouted = (0..publishes).filter(|_| script.is_true()).collect();
                Effect::Committed { token, result: refusal.map_or(Ok(unrouted), Err) }
            }
            Asked::Stop(token, consumer) => {
                self.stopped.insert(consumer);
                Effect::Stopped { token }
            }
            Asked::Get(token, consumer) => {
                let got = script.is_true().then(|| {
                    let delivery = self.delivery(THEIRS + consumer, script);
                    Box::new(Got { delivery, remaining: 1 })
                });
                let result = refusal.map_or(Ok(got), Err);
                if let Ok(Some(got)) = &result {
                    self.out.insert(got.delivery.id);
                }
                Effect::Got { token, result }
            }
        };
        self.effect(effect);
    }

    /// The broker delivers to a consumer, or ends it.
    fn deliver(&mut self, script: &mut Script<'_>) {
        let at = usize::from(script.byte()) % self.consumers.len().max(1);
        let Some(consumer) = self.consumers.iter().nth(at).copied() else { return };
        if let Some(Asked::Consume(_, asked) | Asked::Get(_, asked)) = self.request
            && asked == consumer
        {
            return;
        }
        if script.byte().is_multiple_of(16) {
            self.leave(consumer);
            return self.effect(Effect::ConsumerEnded { consumer });
        }
        if self.stopped.contains(&consumer) {
            return;
        }
        let delivery = self.delivery(consumer, script);
        self.out.insert(delivery.id);
        self.effect(Effect::Deliver(delivery));
    }

    fn delivery(&mut self, consumer: u32, script: &mut Script<'_>) -> Delivery {
        self.deliveries += 1;
        let message = Message {
            topic: Topic::new(Bytes::from_static(b"$queue/q")).expect("a topic"),
            payload: Bytes::from(vec![8; usize::from(script.byte()) * 40]),
            qos: QoS::AtLeastOnce,
            retain: false,
            expiry_s: script.is_true().then_some(2),
            properties: Neutral::default(),
            publisher: 0,
        };
        Delivery {
            id: DeliveryId {
                source: DeliverySource::Group(consumer),
                partition: PartitionId(1),
                offset: fluxmq_index::Offset(self.deliveries),
            },
            message: Arc::new(message),
            qos: QoS::AtLeastOnce,
            retain: false,
            redelivered: script.is_true(),
            subscription_ids: Vec::new(),
            annotations: [("offset", self.deliveries.to_string())].into_iter().collect(),
            settle_explicit: false,
        }
    }

    /// A consumer is gone, and what it had out.
    fn leave(&mut self, consumer: u32) {
        self.consumers.remove(&consumer);
        let sources = [consumer, THEIRS + consumer].map(DeliverySource::Group);
        self.out.retain(|id| !sources.contains(&id.source));
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Open(_) => {
                self.opened += 1;
                self.is_opening = true;
            }
            Command::Publish { token, message, packet_id } => {
                assert_eq!(packet_id, None);
                assert!(!message.topic.as_str().starts_with("$SYS"), "it was refused");
                if message.qos != QoS::AtMostOnce {
                    self.publishes.push_back(token);
                }
            }
            Command::Route(route) => self.publishes.push_back(route.token),
            Command::Enter { .. } => self.effect(Effect::Entered(Ok(()))),
            Command::Renew(_) => self.effect(Effect::Authenticated { last: Bytes::new() }),
            Command::Queue { token, .. } => self.ask(Asked::Queue(token)),
            Command::Exchange { token, .. } => self.ask(Asked::Exchange(token)),
            Command::Bind(bind) => self.ask(Asked::Exchange(bind.token)),
            Command::Consume(consume) => {
                assert!(self.consumers.insert(consume.consumer), "numbers are used once");
                self.ask(Asked::Consume(consume.token, consume.consumer));
            }
            Command::StopConsuming { token, consumer } => {
                assert!(self.consumers.contains(&consumer));
                self.ask(Asked::Stop(token, consumer));
            }
            Command::Get { token, consumer, .. } => self.ask(Asked::Get(token, consumer)),
            Command::Grant { consumer, count } | Command::Sent { consumer, count } => {
                assert!(count > 0 && self.consumers.contains(&consumer));
            }
            Command::Settle { delivery, .. } => {
                assert!(self.out.remove(&delivery), "{delivery:?} is not out");
            }
            Command::Commit(commit) => {
                for (delivery, _) in &commit.settled {
                    assert!(self.out.remove(delivery), "{delivery:?} is not out");
                }
                self.ask(Asked::Commit(commit.token, commit.publishes.len()));
            }
            Command::Leave { consumer } => self.leave(consumer),
            Command::Close(close) => {
                assert_eq!(close, Close { will: false, session_expiry_s: None });
                self.closed += 1;
            }
            other => panic!("{other:?} is not asked by AMQP 0.9.1 yet"),
        }
    }

    fn ask(&mut self, asked: Asked) {
        self.request = Some(asked);
    }

    fn admit(&mut self) {
        if std::mem::take(&mut self.is_opening) {
            self.effect(Effect::Opened(Opened {
                session_present: false,
                persistent: false,
                outbound: Vec::new(),
                inbound: Vec::new(),
            }));
        }
    }

    fn send(&mut self, channel: u16, method: impl Into<Method>) {
        method.into().encode(channel, &mut self.input);
    }

    fn effect(&mut self, effect: Effect) {
        self.connection.handle_effect(self.now, effect);
    }

    fn turn(&mut self) {
        if !self.input.is_empty() {
            self.connection.handle_input(self.now, &mut self.input);
        }
        if self.connection.wants_input() {
            let room = self.connection.input_bytes_max();
            assert!(self.input.len() < room, "what is left is less than a frame");
        }
        while let Some(command) = self.connection.poll_command() {
            assert_eq!(self.closed, 0, "nothing is asked after the end");
            self.on_command(command);
        }
        assert!(self.opened <= 1 && self.closed <= self.opened);
    }

    fn transmit(&mut self) {
        self.connection.poll_transmit(self.now, &mut self.output, usize::MAX);
        if !self.is_greeted && !self.output.is_empty() {
            self.is_greeted = true;
            if self.output[0] == b'A' {
                assert_eq!(Greeting::take(&mut self.output), Some(Greeting::Amqp091));
            }
        }
        while let Some(frame) = frame::decode(&mut self.output, FRAME_BYTES).expect("frames") {
            match frame.kind {
                FrameKind::Method => {
                    let method = Method::decode(frame.payload).expect("methods are well-formed");
                    self.on_sent(frame.channel, &method);
                }
                FrameKind::Header => {
                    ContentHeader::decode(frame.payload).expect("headers are well-formed");
                }
                FrameKind::Body | FrameKind::Heartbeat => assert!(!self.has_closed),
            }
        }
        assert!(self.output.is_empty(), "frames are whole");
    }

    fn on_sent(&mut self, channel: u16, method: &Method) {
        let is_answer = matches!(method, Method::ConnectionCloseOk(_));
        assert!(!self.has_closed || is_answer, "{method:?} after a close of ours");
        match method {
            Method::ChannelOpenOk(_) => {
                self.confirmed.insert(channel, 0);
                self.delivered.insert(channel, 0);
            }
            Method::BasicDeliver(BasicDeliver { delivery_tag, .. })
            | Method::BasicGetOk(BasicGetOk { delivery_tag, .. }) => {
                let last = self.delivered.insert(channel, *delivery_tag).expect("it is open");
                assert!(*delivery_tag > last, "delivery tags ascend");
            }
            Method::BasicAck(BasicAck { delivery_tag, .. })
            | Method::BasicNack(BasicNack { delivery_tag, .. }) => {
                let last = self.confirmed.insert(channel, *delivery_tag).expect("it is open");
                assert!(*delivery_tag > last, "confirms ascend");
            }
            Method::ConnectionClose(_) => self.has_closed = true,
            _ => {}
        }
    }

    /// The network goes: the broker hears so, if it ever heard of the connection.
    fn end(&mut self) {
        self.turn();
        self.transmit();
        self.connection.handle_disconnect(self.now);
        self.turn();
        assert!(self.connection.is_closing());
        assert_eq!(self.closed, self.opened - self.refused.min(self.opened));
    }
}

fn method(script: &mut Script<'_>) -> Method {
    match script.byte() % 32 {
        0..=2 => ChannelOpen::default().into(),
        3 => ChannelClose::default().into(),
        4 => ChannelCloseOk::default().into(),
        5 => ChannelFlow { active: script.is_true() }.into(),
        6 | 7 => ConfirmSelect { no_wait: script.is_true() }.into(),
        8 => BasicPublish { exchange: script.name(), ..BasicPublish::default() }.into(),
        9 => ConnectionClose::default().into(),
        10 => ConnectionCloseOk::default().into(),
        11 => ConnectionStartOk {
            mechanism: script.name(),
            response: script.bytes(12),
            ..ConnectionStartOk::default()
        }
        .into(),
        12 => ConnectionTuneOk {
            channel_max: u16::from(script.byte() % 5),
            frame_max: FRAME_BYTES - 1 + u32::from(script.byte() % 3),
            heartbeat: u16::from(script.byte() % 4),
        }
        .into(),
        13 => ConnectionOpen { virtual_host: script.name(), ..ConnectionOpen::default() }.into(),
        14 => ExchangeDeclare {
            exchange: script.name(),
            kind: script.name(),
            passive: script.is_true(),
            durable: script.is_true(),
            ..ExchangeDeclare::default()
        }
        .into(),
        15 => AccessRequest::default().into(),
        16 => BasicDeliver::default().into(),
        17 => ConnectionUpdateSecret::default().into(),
        _ => queue_method(script),
    }
}

fn queue_method(script: &mut Script<'_>) -> Method {
    match script.byte() % 20 {
        0 | 1 => QueueDeclare {
            queue: script.name(),
            passive: script.is_true(),
            durable: script.is_true(),
            arguments: arguments(script),
            ..QueueDeclare::default()
        }
        .into(),
        2 => QueuePurge { queue: script.name(), ..QueuePurge::default() }.into(),
        3 => QueueDelete { queue: script.name(), ..QueueDelete::default() }.into(),
        4 => BasicQos {
            prefetch_size: 0,
            prefetch_count: u16::from(script.byte() % 4),
            global: script.is_true(),
        }
        .into(),
        5..=8 => BasicConsume {
            queue: ShortString::from_static("q"),
            consumer_tag: script.name(),
            no_ack: script.is_true(),
            arguments: arguments(script),
            ..BasicConsume::default()
        }
        .into(),
        9 => BasicCancel { consumer_tag: script.name(), no_wait: script.is_true() }.into(),
        10 | 11 => BasicGet {
            queue: ShortString::from_static("q"),
            no_ack: script.is_true(),
            ..BasicGet::default()
        }
        .into(),
        12 => BasicNack {
            delivery_tag: u64::from(script.byte() % 8),
            multiple: script.is_true(),
            requeue: script.is_true(),
        }
        .into(),
        13 => ExchangeBind {
            source: script.name(),
            destination: script.name(),
            ..ExchangeBind::default()
        }
        .into(),
        14 => QueueBind {
            queue: script.name(),
            exchange: script.name(),
            arguments: arguments(script),
            ..QueueBind::default()
        }
        .into(),
        15 => ExchangeDelete { exchange: script.name(), ..ExchangeDelete::default() }.into(),
        16 => QueueUnbind { exchange: script.name(), ..QueueUnbind::default() }.into(),
        18 => match script.byte() % 4 {
            0 => TxSelect::default().into(),
            1 => TxRollback::default().into(),
            _ => TxCommit::default().into(),
        },
        17 => BasicRecover { requeue: !script.byte().is_multiple_of(8) }.into(),
        _ => BasicAck { delivery_tag: u64::from(script.byte() % 8), multiple: script.is_true() }
            .into(),
    }
}

/// Arguments that queues and consumers know, of types that they are or are not.
fn arguments(script: &mut Script<'_>) -> Table {
    let names = ["x-message-ttl", "x-queue-type", "x-stream-offset", "x-max-age", "x-priority"];
    let values = [
        Value::I32(i32::from(script.byte()) - 3),
        Value::LongString(script.name().into_bytes()),
        Value::Boolean(true),
        Value::Void,
    ];
    let count = usize::from(script.byte() % 3);
    let entries = (0..count).map(|_| {
        let name = names[usize::from(script.byte()) % names.len()];
        (name, values[usize::from(script.byte()) % values.len()].clone())
    });
    entries.collect()
}

fn topics() -> ShortString {
    ShortString::from_static("amq.topic")
}
