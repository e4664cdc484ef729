//! Scripts of one AMQP 0.9.1 connection: methods, content, bytes, answers of the broker and time, in the order that the input says.
//!
//! Nothing panics; what is sent are frames of methods that servers send; what is left of the input is less than a frame; confirms ascend;
//! the broker hears of the session once, and of its end once; and after a close of ours nothing follows but an answer to theirs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use fluxmq::model::command::Close;
use fluxmq::model::effect::Opened;
use fluxmq::model::{Command, Effect, Millis, PeerInfo, Refusal, Token};
use fluxmq::protocol::Connection;
use fluxmq::protocol::amqp091::codec::frame::{self, PROTOCOL_HEADER};
use fluxmq::protocol::amqp091::codec::method::*;
use fluxmq::protocol::amqp091::codec::{
    ContentHeader, FrameKind, Greeting, Method, Properties, Property, ShortString, content,
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
        let names = ["", "amq.topic", "a.b", "orders", "topic", "/", "PLAIN", "a.#", "$SYS.x"];
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
    has_closed: bool,
}

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
        match script.byte() % 13 {
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
            _ => self.transmit(),
        }
        self.turn();
    }

    fn publish(&mut self, script: &mut Script<'_>) {
        let channel = script.channel();
        let publish = BasicPublish {
            exchange: ShortString::from_static("amq.topic"),
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
            match command {
                Command::Open(_) => {
                    self.opened += 1;
                    self.is_opening = true;
                }
                Command::Publish { token, message, packet_id } => {
                    assert_eq!(packet_id, None);
                    assert!(!message.topic.as_str().starts_with("$SYS"), "it was refused");
                    if message.qos != fluxmq::model::QoS::AtMostOnce {
                        self.publishes.push_back(token);
                    }
                }
                Command::Close(close) => {
                    assert_eq!(close, Close { will: false, session_expiry_s: None });
                    self.closed += 1;
                }
                other => panic!("{other:?} is not asked by AMQP 0.9.1 yet"),
            }
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
    match script.byte() % 20 {
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
        17 => QueueDeclare::default().into(),
        18 => ConnectionUpdateSecret::default().into(),
        _ => BasicAck { delivery_tag: script.byte().into(), multiple: true }.into(),
    }
}
