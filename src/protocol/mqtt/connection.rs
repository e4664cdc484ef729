//! A broker's side of one MQTT connection: packets and effects in, commands and packets out. Sans-IO; time is an argument.
//!
//! ```text
//! AwaitingConnect ──CONNECT──▶ Opening ──Opened──▶ Open ──▶ Closed
//!                           AUTH ▲ ▼ Challenge
//!                           Authenticating
//! ```
//!
//! Here are the states, the timers and the end. What a packet means is in the sibling named after it: `connect`, `publish`
//! (inbound), `subscribe`, `deliver` (outbound). Answers are encoded at once into `answers`; deliveries stay messages until the
//! socket has room for them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::authenticate::Exchange;
use super::codec::{self, DecodeError};
use super::deliver::Outbound;
use super::property::{Property, PropertyList};
use super::publish::Inbound;
use super::reason::ReasonCode;
use super::refusal::Violation;
use super::settings::Settings;
use super::subscribe::Requests;
use super::types::{Disconnect, Packet, Version};
use crate::model::command::Close;
use crate::model::{Command, ConnectionDescription, Effect, Millis, PeerInfo, Token};
use crate::protocol::{Connection, Counters};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing but CONNECT is accepted.
    AwaitingConnect,
    /// The client's turn in an exchange that says who it is; nothing but AUTH and DISCONNECT is accepted.
    Authenticating,
    /// `Open` is with the broker; input waits.
    Opening,
    /// Everything goes.
    Open,
    /// The socket closes after what is written.
    Closed,
}

/// What CONNECT said about the client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) version: Version,
    pub(super) id: Bytes,
    /// Stands for the id in messages.
    pub(super) publisher: u64,
    /// True when we gave it its id.
    pub(super) is_id_assigned: bool,
    /// What applies, imposed or asked for; 0 is no limit.
    pub(super) keep_alive_s: u16,
    /// True when `keep_alive_s` is not what it asked for.
    pub(super) is_keep_alive_imposed: bool,
    /// As asked for.
    pub(super) session_expiry_s: u32,
    /// Receive Maximum; 65,535 when not said.
    pub(super) receive_max: u16,
    /// Maximum Packet Size; `usize::MAX` when not said.
    pub(super) packet_bytes_max: usize,
    /// Topic Alias Maximum; 0 when not said [MQTT-3.1.2-27].
    pub(super) topic_alias_max: u16,
    /// False forbids reason strings [MQTT-3.1.2-29].
    pub(super) wants_reasons: bool,
}

/// When things happened.
#[derive(Debug)]
struct Clock {
    now: Millis,
    /// When the connection was accepted.
    started: Millis,
    /// When the client last sent a packet, or enough of a large one.
    heard: Millis,
    /// Bytes of the partial packet when `heard` was set.
    partial_bytes: usize,
}

/// The kinds of token, in their low bits; the rest is a number counted for each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Answered to nobody: QoS 0.
    Unanswered = 0,
    /// A QoS 1 publish.
    AtLeastOnce = 1,
    /// A QoS 2 publish.
    ExactlyOnce = 2,
    /// SUBSCRIBE or UNSUBSCRIBE.
    Request = 3,
    /// Packet ids being stored.
    Assign = 4,
}

impl TokenKind {
    pub(super) fn token(self, number: u64) -> Token {
        Token(number << 3 | self as u64)
    }

    /// Returns the number when the token is of this kind.
    pub(super) fn number(self, token: Token) -> Option<u64> {
        (token.0 & 7 == self as u64).then_some(token.0 >> 3)
    }
}

/// One connection of one client. See [`Connection`] for how it is driven.
#[derive(Debug)]
pub struct MqttConnection {
    pub(super) settings: Arc<Settings>,
    /// Who is at the other end, by what the connection shows.
    pub(super) peer: Box<PeerInfo>,
    /// The client id for a client without one.
    pub(super) assigned_id: Bytes,
    pub(super) state: State,
    pub(super) client: Client,
    pub(super) exchange: Exchange,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    pub(super) requests: Requests,
    pub(super) commands: VecDeque<Command>,
    /// Encoded, to be sent before any delivery.
    pub(super) answers: BytesMut,
    pub(super) counters: Counters,
    /// True while the last input was not taken whole because someone was behind.
    has_left_input: bool,
    clock: Clock,
}

impl MqttConnection {
    /// Starts a connection of `peer` that was accepted at `now`.
    ///
    /// `assigned_id` becomes the client id of a client that has none [MQTT-3.1.3-6]; the caller makes it unique and
    /// hard to guess.
    pub fn new(
        settings: Arc<Settings>,
        peer: PeerInfo,
        assigned_id: Bytes,
        now: Millis,
    ) -> MqttConnection {
        MqttConnection {
            settings,
            peer: Box::new(peer),
            assigned_id,
            state: State::AwaitingConnect,
            client: Client::unknown(),
            exchange: Exchange::default(),
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            requests: Requests::default(),
            commands: VecDeque::new(),
            answers: BytesMut::new(),
            counters: Counters::default(),
            has_left_input: false,
            clock: Clock { now, started: now, heard: now, partial_bytes: 0 },
        }
    }

    /// The client's id, once CONNECT has come.
    pub fn client_id(&self) -> Option<&Bytes> {
        (!self.client.id.is_empty()).then_some(&self.client.id)
    }

    /// The client's version, once CONNECT has come.
    pub fn version(&self) -> Option<Version> {
        self.client_id().map(|_| self.client.version)
    }

    pub(super) fn now(&self) -> Millis {
        self.clock.now
    }

    /// When it was accepted.
    pub(super) fn started(&self) -> Millis {
        self.clock.started
    }

    /// Encodes an answer.
    pub(super) fn send(&mut self, packet: &Packet) {
        let before = self.answers.len();
        let sent = codec::encode(packet, self.client.version, &mut self.answers);
        debug_assert_eq!(sent, Ok(()), "our own packets are short");
        if self.answers.len() - before > self.client.packet_bytes_max {
            // What must be said does not fit into what the client takes: there is no way to go on [MQTT-3.1.2-24].
            self.answers.truncate(before);
            return self.close(true, None);
        }
        self.counters.packets_sent += 1;
    }

    /// Returns a reason string as a property list, unless the client does not want it or it does not fit beside `other_bytes`
    /// [MQTT-3.14.2-3].
    pub(super) fn reason_string(&self, text: &str, other_bytes: usize) -> PropertyList {
        const TEXT_BYTES_MAX: usize = 512;
        let fits = text.len() + other_bytes <= self.client.packet_bytes_max;
        let is_clean = text.len() <= TEXT_BYTES_MAX && !text.contains('\0');
        if !self.client.version.is_v5() || !self.client.wants_reasons || !fits || !is_clean {
            return PropertyList::default();
        }
        let text = Bytes::copy_from_slice(text.as_bytes());
        [Property::ReasonString(text)].into_iter().collect()
    }

    /// Ends the connection because of the peer or of us; tells a 5.0 client why, the will is published [MQTT-3.1.2-8].
    pub(super) fn fail(&mut self, reason: ReasonCode, text: &str) {
        if self.state == State::Authenticating {
            return self.refuse_connect(reason, text);
        }
        self.disconnect(reason, text);
        self.close(true, None);
    }

    fn disconnect(&mut self, reason: ReasonCode, text: &str) {
        if self.state == State::Open && self.client.version.is_v5() {
            let properties = self.reason_string(text, 16);
            self.send(&Packet::Disconnect(Disconnect { reason, properties }));
        }
    }

    /// Ends the connection. The broker hears `Close` once if it ever heard `Open`.
    pub(super) fn close(&mut self, will: bool, session_expiry_s: Option<u32>) {
        if matches!(self.state, State::Authenticating | State::Opening | State::Open) {
            self.commands.push_back(Command::Close(Close { will, session_expiry_s }));
        }
        self.state = State::Closed;
        self.outbound = Outbound::default();
        self.requests.stop();
    }

    /// True while the broker must answer before more input is taken.
    fn is_broker_behind(&self) -> bool {
        self.inbound.awaiting_count() >= self.settings.publishes_awaiting_max
            || self.requests.awaiting_count() >= self.settings.requests_awaiting_max
    }

    /// Takes packets from `input` for as long as they may be taken; returns how many.
    fn take_packets(&mut self, input: &mut BytesMut) -> Result<u64, Violation> {
        let before = self.counters.packets_received;
        while self.wants_input() && self.state != State::Closed {
            let version = match self.state {
                State::AwaitingConnect => {
                    self.check_unconnected(input)?;
                    None
                }
                State::Authenticating => {
                    self.check_unconnected(input)?;
                    Some(self.client.version)
                }
                _ => Some(self.client.version),
            };
            let packet = match self.decode(input, version) {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(DecodeError::UnsupportedVersion { level }) if version.is_none() => {
                    self.refuse_version(level);
                    break;
                }
                // [MQTT-3.1.0-2]
                Err(DecodeError::UnsupportedVersion { .. }) => return Err(second_connect()),
                Err(error) => return Err(error.into()),
            };
            self.counters.packets_received += 1;
            self.on_packet(packet)?;
        }
        Ok(self.counters.packets_received - before)
    }

    /// Decodes one packet. What a connection remembers of it must not keep the whole read buffer in memory: packets whose strings
    /// outlive their turn are decoded from a copy of their own.
    fn decode(
        &self,
        input: &mut BytesMut,
        version: Option<Version>,
    ) -> Result<Option<Packet>, DecodeError> {
        let is_remembered = matches!(input.first().map(|byte| byte >> 4), Some(1 | 8 | 10));
        match codec::packet_bytes(input)? {
            Some(bytes) if is_remembered && bytes <= input.len() => {
                let mut own = BytesMut::from(&input[..bytes]);
                let decoded = codec::decode(&mut own, version, &self.settings.limits);
                input.advance(bytes);
                decoded
            }
            _ => codec::decode(input, version, &self.settings.limits),
        }
    }

    fn check_unconnected(&self, input: &[u8]) -> Result<(), DecodeError> {
        let bytes_max = self.settings.unconnected_bytes_max;
        match codec::packet_bytes(input)? {
            Some(bytes) if bytes > bytes_max => {
                Err(DecodeError::PacketTooLarge { bytes, bytes_max })
            }
            _ => Ok(()),
        }
    }

    fn on_packet(&mut self, packet: Packet) -> Result<(), Violation> {
        let may_come = matches!(packet, Packet::Auth(_) | Packet::Disconnect(_));
        if self.state == State::Authenticating && !may_come {
            // [MQTT-3.1.2-30]
            return Err(Violation::protocol("AUTH or DISCONNECT is due"));
        }
        match packet {
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::PubAck(ack) => self.on_puback(&ack),
            Packet::PubRec(ack) => self.on_pubrec(&ack),
            Packet::PubRel(ack) => self.on_pubrel(&ack),
            Packet::PubComp(ack) => self.on_pubcomp(&ack),
            Packet::Subscribe(subscribe) => self.on_subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(unsubscribe),
            Packet::PingReq => {
                // [MQTT-3.12.4-1]
                self.send(&Packet::PingResp);
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.on_disconnect(&disconnect),
            Packet::Connect(connect) if self.state == State::AwaitingConnect => {
                self.on_connect(*connect);
                Ok(())
            }
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => Err(second_connect()),
            Packet::Auth(auth) => self.on_auth(&auth),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(Violation::protocol("only servers send this packet"))
            }
        }
    }

    /// [MQTT-3.14.4-3]: after reason 0x00 the will is not published. [MQTT-3.14.2-2]: an expiry of 0 cannot be raised.
    fn on_disconnect(&mut self, disconnect: &Disconnect) -> Result<(), Violation> {
        let asked = disconnect.properties.find(|property| match property {
            Property::SessionExpiry(seconds) => Some(seconds),
            _ => None,
        });
        if self.client.session_expiry_s == 0 && asked.is_some_and(|seconds| seconds != 0) {
            return Err(Violation::protocol("a session expiry of 0 cannot be raised"));
        }
        let capped = asked.map(|seconds| seconds.min(self.settings.session_expiry_max_s));
        self.close(disconnect.reason != ReasonCode::SUCCESS, capped);
        Ok(())
    }

    /// Notes that the client is alive. Bytes of a partial packet count when they are many: a large packet takes its time.
    fn note_heard(&mut self, packets: u64, partial_bytes: usize) {
        const PROGRESS_BYTES: usize = 1_000;
        if packets > 0 || partial_bytes >= self.clock.partial_bytes + PROGRESS_BYTES {
            self.clock.heard = self.clock.now;
            self.clock.partial_bytes = partial_bytes;
        }
    }

    /// Starts the keep alive: the time it took to open the session is ours.
    pub(super) fn note_opened(&mut self) {
        self.clock.heard = self.clock.now;
    }

    /// [MQTT-3.1.2-22]
    fn keep_alive_end(&self) -> Option<Millis> {
        let keep_alive_s = u64::from(self.client.keep_alive_s);
        (keep_alive_s > 0).then(|| self.clock.heard.plus(keep_alive_s * 1_500))
    }
}

fn second_connect() -> Violation {
    Violation::protocol("CONNECT must not be sent twice")
}

impl Client {
    fn unknown() -> Client {
        Client {
            version: Version::V311,
            id: Bytes::new(),
            publisher: 0,
            is_id_assigned: false,
            keep_alive_s: 0,
            is_keep_alive_imposed: false,
            session_expiry_s: 0,
            receive_max: u16::MAX,
            packet_bytes_max: usize::MAX,
            topic_alias_max: 0,
            wants_reasons: true,
        }
    }
}

impl Connection for MqttConnection {
    fn held_bytes(&self) -> usize {
        MqttConnection::held_bytes(self)
    }

    fn handle_input(&mut self, now: Millis, input: &mut BytesMut) {
        self.clock.now = now;
        match self.take_packets(input) {
            Ok(packets) => self.note_heard(packets, input.len()),
            Err(violation) => self.fail(violation.reason, &violation.text),
        }
        if self.state == State::Closed {
            input.clear();
        }
        self.has_left_input = !input.is_empty() && !self.wants_input();
    }

    fn handle_effect(&mut self, now: Millis, effect: Effect) {
        self.clock.now = now;
        if self.state == State::Closed {
            return;
        }
        match effect {
            Effect::Deliver(delivery) => self.on_deliver(delivery),
            Effect::Confirm { token, result } => self.on_confirm(token, result),
            Effect::Assigned { token } => self.outbound.on_assigned(token),
            Effect::ReceivedStored { packet_id } => self.on_received_stored(packet_id),
            Effect::Released { packet_id } => self.on_released(packet_id),
            Effect::ReplayEnds { token, ends } => {
                let ends = ends.iter().map(|(at, end)| format!("{}:{}", at.0, end.0));
                self.requests.note_ends(token, ends.collect());
            }
            Effect::Subscribed { token, results } => self.on_subscribed(token, results),
            Effect::Unsubscribed { token, results } => self.on_unsubscribed(token, results),
            Effect::Opened(opened) => self.on_opened(opened),
            Effect::Challenge { message } => self.on_challenge(message),
            Effect::Authenticated { last } => self.on_authenticated(last),
            Effect::Expelled(refusal) => self.on_expelled(&refusal),
            Effect::RightsChanged(recheck) => self.on_rights_changed(&recheck),
            Effect::OpenRefused(refusal) => self.on_open_refused(&refusal),
            // Answers to what it never asks.
            Effect::Queue { .. }
            | Effect::Entered(_)
            | Effect::Publishing(_)
            | Effect::Exchange { .. }
            | Effect::Consuming { .. }
            | Effect::Stopped { .. }
            | Effect::ConsumerEnded { .. }
            | Effect::Got { .. }
            | Effect::Committed { .. } => {}
            Effect::TakenOver => {
                self.disconnect(
                    ReasonCode::SESSION_TAKEN_OVER,
                    "another connection uses the client id",
                );
                self.close(false, None);
            }
            Effect::ShuttingDown => {
                self.fail(ReasonCode::SERVER_SHUTTING_DOWN, "the broker is shutting down");
            }
        }
    }

    fn handle_timeout(&mut self, now: Millis) {
        self.clock.now = now;
        if self.state == State::Open {
            self.look_at_unsent();
        }
        match self.state {
            State::AwaitingConnect | State::Authenticating
                if self.poll_timeout().is_some_and(|end| end <= now) =>
            {
                self.close(false, None);
            }
            State::Open if self.keep_alive_end().is_some_and(|end| end <= now) => {
                if self.is_broker_behind() {
                    // Its packets wait unread, PINGREQ perhaps among them: the silence is ours.
                    self.clock.heard = now;
                } else {
                    self.fail(ReasonCode::KEEP_ALIVE_TIMEOUT, "no packet within the keep alive");
                }
            }
            _ => {}
        }
    }

    fn handle_disconnect(&mut self, now: Millis) {
        self.clock.now = now;
        self.close(true, None);
    }

    fn poll_command(&mut self) -> Option<Command> {
        if self.commands.is_empty() && self.state == State::Open {
            self.fill_window();
            self.watch_stall();
        }
        let command = self.commands.pop_front();
        if command.is_none() {
            // A quiet connection holds no list.
            self.commands = VecDeque::new();
        }
        command
    }

    fn poll_transmit(&mut self, now: Millis, out: &mut BytesMut, limit: usize) {
        self.clock.now = now;
        if !self.answers.is_empty() {
            out.extend_from_slice(&self.answers);
            self.answers.clear();
        }
        if self.state == State::Open {
            self.transmit_deliveries(out, limit);
        }
    }

    fn handle_congestion(&mut self, is_congested: bool) {
        self.on_congestion(is_congested);
    }

    fn poll_timeout(&self) -> Option<Millis> {
        match self.state {
            // Writing settled something: the driver is to come back for the commands.
            _ if !self.commands.is_empty() => Some(self.clock.now),
            // So it is for the input it left, now that there is room.
            State::Open if self.has_left_input && self.wants_input() => Some(self.clock.now),
            State::AwaitingConnect | State::Authenticating => {
                Some(self.clock.started.plus(self.settings.connect_timeout_ms))
            }
            State::Open => {
                [self.keep_alive_end(), self.outbound.look_at()].into_iter().flatten().min()
            }
            State::Opening | State::Closed => None,
        }
    }

    fn is_closing(&self) -> bool {
        self.state == State::Closed
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn describe(&self, _with_channels: bool) -> ConnectionDescription {
        self.description()
    }

    fn wants_input(&self) -> bool {
        match self.state {
            State::AwaitingConnect | State::Authenticating | State::Closed => true,
            State::Opening => false,
            State::Open => {
                !self.is_broker_behind() && self.answers.len() < self.settings.answer_bytes_max
            }
        }
    }

    fn input_bytes_max(&self) -> usize {
        match self.state {
            State::AwaitingConnect | State::Authenticating => self.settings.unconnected_bytes_max,
            _ => self.settings.limits.packet_bytes_max,
        }
    }
}
