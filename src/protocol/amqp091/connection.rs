//! A broker's side of one AMQP 0.9.1 connection: frames and effects in, commands and frames out. Sans-IO; time is an argument.
//!
//! ```text
//! AwaitingHeader ──▶ Starting ──start-ok──▶ Opening ──Opened──▶ Tuning ──tune-ok──▶ AwaitingOpen ──open──▶ Entering ──Entered──▶ Open
//!                                any of them ──close of ours──▶ Closing ──close-ok──▶ Closed
//!                       any of them ──close of the client's──▶ Leaving ──released──▶ Closed
//! ```
//!
//! Here are the states, the timers and the end; `handshake` is the way to `Open`, `channels` what comes after. Nobody is trusted with
//! an explanation before the broker has admitted it: until then a violation closes the socket without a word, as in RabbitMQ.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::ReplyCode;
use super::blocked::Publishing;
use super::channels::Channels;
use super::codec::frame;
use super::codec::method::{ConnectionClose, ConnectionCloseOk, peek_id};
use super::codec::{Frame, FrameKind, Method, ShortString};
use super::consume::Consumer;
use super::deliver::Outbox;
use super::requests::Request;
use super::settings::Settings;
use super::violation::{self, Violation};
use crate::model::command::Close;
use crate::model::{
    Command, ConnectionDescription, Effect, Millis, PeerInfo, Refusal, TurnQueue, VirtualHost,
};
use crate::protocol::{Connection, Counters};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The protocol header is due.
    AwaitingHeader,
    /// `connection.start-ok` is due.
    Starting,
    /// `Open` is with the broker; input waits.
    Opening,
    /// `connection.tune-ok` is due.
    Tuning,
    /// `connection.open` is due.
    AwaitingOpen,
    /// `Enter` is with the broker; input waits.
    Entering,
    /// Everything goes.
    Open,
    /// The client has closed; it hears so when what it had is released, or at that time.
    Leaving(Millis),
    /// We have closed; nothing counts but the answer, which is due at that time.
    Closing(Millis),
    /// The socket closes after what is written.
    Closed,
}

/// What both sides agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuned {
    /// Bytes of a frame.
    pub(super) frame_bytes_max: u32,
    /// The highest number of a channel.
    pub(super) channels_max: u16,
    /// Milliseconds between heartbeats; 0 is none.
    pub(super) heartbeat_ms: u64,
}

/// What the client said about itself.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// The user's name as it said it; empty where a certificate says it, or nobody does.
    pub(super) user: Bytes,
    /// The mechanism it chose.
    pub(super) mechanism: String,
    /// It wants to be told why it is not admitted.
    pub(super) hears_of_refusal: bool,
    /// It wants to be told when a consumer's queue is gone.
    pub(super) hears_of_cancel: bool,
    /// It wants to be told when it is not read because it publishes.
    pub(super) hears_of_blocked: bool,
    /// It has a new secret, which is being checked.
    pub(super) is_renewing: bool,
    /// What it said of itself, as far as it is kept.
    pub(super) properties: Box<[(&'static str, String)]>,
}

/// When things happened.
#[derive(Debug)]
struct Clock {
    now: Millis,
    /// When the connection was accepted.
    started: Millis,
    /// When the client last sent something.
    heard: Millis,
    /// When it was last sent something.
    sent: Millis,
    /// Bytes of the partial frame when `heard` was set.
    partial_bytes: usize,
}

/// One connection of one client. See [`Connection`] for how it is driven.
#[derive(Debug)]
pub struct AmqpConnection {
    pub(super) settings: Arc<Settings>,
    /// Who is at the other end, by what the connection shows.
    pub(super) peer: Box<PeerInfo>,
    /// Names its session with the broker.
    pub(super) session_id: Bytes,
    pub(super) state: State,
    pub(super) client: Client,
    /// Where its names are.
    pub(super) host: VirtualHost,
    pub(super) tuned: Tuned,
    pub(super) channels: Channels,
    /// Channels that began something with the input that is being taken.
    pub(super) begun: Vec<u16>,
    /// Channels that are owed confirms.
    pub(super) unsaid: Vec<u16>,
    pub(super) publishing: Publishing,
    /// Counts publishes, of all channels.
    pub(super) last_publish: u64,
    /// Publishes that the broker has yet to answer, of all channels.
    pub(super) awaiting_count: usize,
    /// Bytes of bodies that were begun and are not whole, of all channels.
    pub(super) unfinished_bytes: usize,
    /// Bytes of publishes that wait for their commit, of all channels.
    pub(super) gathered_bytes: usize,
    /// What input waits for.
    pub(super) request: Option<Request>,
    pub(super) last_request: u64,
    /// Consumers of all channels, by the broker's number. Iterated in its order.
    pub(super) consumers: BTreeMap<u32, Consumer>,
    pub(super) last_consumer: u32,
    /// Channels whose consumers may be granted more.
    pub(super) due: BTreeSet<u16>,
    /// Names that were made for queues and consumers.
    pub(super) names_generated: u64,
    pub(super) commands: TurnQueue<Command>,
    /// What goes before `answers`.
    pub(super) outbox: Outbox,
    /// Encoded, to be sent.
    pub(super) answers: BytesMut,
    pub(super) counters: Counters,
    /// True while the last input was not taken whole because the peer or the broker is behind.
    has_left_input: bool,
    clock: Clock,
}

impl AmqpConnection {
    /// Starts a connection of `peer` that was accepted at `now`.
    ///
    /// `session_id` names its session, which ends with it; the caller makes it unique.
    pub fn new(
        settings: Arc<Settings>,
        peer: PeerInfo,
        session_id: Bytes,
        now: Millis,
    ) -> AmqpConnection {
        let frame_bytes_max = settings.unconnected_frame_bytes_max;
        AmqpConnection {
            settings,
            peer: Box::new(peer),
            session_id,
            state: State::AwaitingHeader,
            client: Client::default(),
            host: VirtualHost::default(),
            tuned: Tuned { frame_bytes_max, channels_max: 0, heartbeat_ms: 0 },
            channels: Channels::default(),
            begun: Vec::new(),
            unsaid: Vec::new(),
            publishing: Publishing::default(),
            last_publish: 0,
            awaiting_count: 0,
            unfinished_bytes: 0,
            gathered_bytes: 0,
            request: None,
            last_request: 0,
            consumers: BTreeMap::new(),
            last_consumer: 0,
            due: BTreeSet::new(),
            names_generated: 0,
            commands: TurnQueue::new(),
            outbox: Outbox::default(),
            answers: BytesMut::new(),
            counters: Counters::default(),
            has_left_input: false,
            clock: Clock { now, started: now, heard: now, sent: now, partial_bytes: 0 },
        }
    }

    /// The time, as it was when something happened last.
    pub(super) fn now(&self) -> Millis {
        self.clock.now
    }

    /// Encodes a method.
    pub(super) fn send(&mut self, channel: u16, method: impl Into<Method>) {
        method.into().encode(channel, &mut self.answers);
        self.counters.packets_sent += 1;
    }

    /// Takes frames from `input` for as long as they may be taken.
    fn take_input(&mut self, input: &mut BytesMut) {
        if self.state == State::AwaitingHeader && !self.take_header(input) {
            return;
        }
        while self.wants_input() && self.state != State::Closed {
            let frame = match frame::decode(input, self.tuned.frame_bytes_max) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    self.fail((0, 0), error.into());
                    // Where the next frame begins is not known: an answer could not be told from anything else.
                    return self.close();
                }
            };
            self.counters.packets_received += 1;
            let method = peek_id(&frame);
            if let Err(violation) = self.on_frame(frame) {
                self.fail(method, violation);
            }
        }
    }

    fn on_frame(&mut self, frame: Frame) -> Result<(), Violation> {
        match self.state {
            State::Closing(_) => {
                self.on_frame_while_closing(frame);
                return Ok(());
            }
            // It said that it would send nothing more.
            State::Leaving(_) => return Ok(()),
            _ => {}
        }
        match (frame.channel, frame.kind) {
            (0, FrameKind::Heartbeat) => Ok(()),
            (0, FrameKind::Method) => {
                let method = Method::decode(frame.payload)?;
                self.on_connection_method(method)
            }
            (0, _) => Err(Violation::new(
                ReplyCode::UnexpectedFrame,
                "channel 0 takes methods and heartbeats only",
            )),
            (channel, _) if self.state != State::Open => Err(Violation::new(
                ReplyCode::UnexpectedFrame,
                format!("a frame on channel {channel} before the connection is open"),
            )),
            (_, _) => {
                self.on_channel_frame(frame);
                Ok(())
            }
        }
    }

    /// §1.4.2.5: whatever the client still sends is for nobody.
    fn on_frame_while_closing(&mut self, frame: Frame) {
        if frame.channel != 0 || frame.kind != FrameKind::Method {
            return;
        }
        match Method::decode(frame.payload) {
            Ok(Method::ConnectionCloseOk(_)) => self.close(),
            Ok(Method::ConnectionClose(_)) => {
                // Both at once: each answers the other.
                self.send(0, ConnectionCloseOk::default());
            }
            _ => {}
        }
    }

    fn on_connection_method(&mut self, method: Method) -> Result<(), Violation> {
        match (self.state, method) {
            (State::Starting, Method::ConnectionStartOk(start)) => self.on_start_ok(start),
            (State::Tuning, Method::ConnectionTuneOk(tune)) => self.on_tune_ok(&tune),
            (State::AwaitingOpen, Method::ConnectionOpen(open)) => self.on_open(&open),
            (_, Method::ConnectionClose(_)) => {
                self.say_all_settled();
                self.leave();
                let end = self.clock.now.plus(self.settings.close_timeout_ms);
                self.state = State::Leaving(end);
                Ok(())
            }
            (State::Open, Method::ConnectionUpdateSecret(update)) => {
                self.on_update_secret(&update.new_secret);
                Ok(())
            }
            (_, method) if method.id().0 != 10 => Err(Violation::new(
                ReplyCode::ChannelError,
                format!("{} needs a channel of its own, and came on channel 0", method.name()),
            )),
            (state, method) => Err(Violation::new(
                ReplyCode::ChannelError,
                format!("unexpected method {} in connection state {}", method.name(), state.name()),
            )),
        }
    }

    /// Ends the connection over a violation, with a word of why to whoever was admitted.
    pub(super) fn fail(&mut self, method: (u16, u16), violation: Violation) {
        match self.state {
            State::Tuning | State::AwaitingOpen | State::Entering | State::Open => {
                self.close_with(method, &violation);
            }
            State::AwaitingHeader | State::Starting | State::Opening => self.close(),
            State::Leaving(_) | State::Closing(_) | State::Closed => {}
        }
    }

    /// Says why it closes, and waits for the answer for a while.
    pub(super) fn close_with(&mut self, method: (u16, u16), violation: &Violation) {
        self.say_all_settled();
        self.send(
            0,
            ConnectionClose {
                reply_code: violation.code.number(),
                reply_text: ShortString::truncated(&violation.reply_text()),
                class_id: method.0,
                method_id: method.1,
            },
        );
        self.leave();
        self.state = State::Closing(self.clock.now.plus(self.settings.close_timeout_ms));
    }

    /// Ends the connection.
    pub(super) fn close(&mut self) {
        self.leave();
        self.state = State::Closed;
    }

    /// The broker hears `Close` once if it ever heard `Open`.
    fn leave(&mut self) {
        let has_opened = match self.state {
            State::Opening | State::Tuning | State::AwaitingOpen => true,
            State::Entering | State::Open => true,
            State::AwaitingHeader | State::Starting => false,
            State::Leaving(_) | State::Closing(_) | State::Closed => false,
        };
        if has_opened {
            for channel in self.channels.numbers() {
                self.leave_consumers(channel);
            }
            self.commands.push_back(Command::Close(Close { will: false, session_expiry_s: None }));
        }
        self.channels.clear();
        self.consumers.clear();
        self.request = None;
        self.outbox.forget_all();
        self.forget_withheld();
        self.unfinished_bytes = 0;
        self.gathered_bytes = 0;
        self.awaiting_count = 0;
    }

    fn on_expelled(&mut self, refusal: &Refusal) {
        if self.client.is_renewing {
            let text = "New secret was refused by one of the backends";
            return self.fail((10, 70), Violation::new(ReplyCode::NotAllowed, text));
        }
        let violation = Violation::new(violation::of_connection(refusal), refusal.to_string());
        self.fail((0, 0), violation);
    }

    /// True while the broker must answer before more input is taken.
    fn is_broker_behind(&self) -> bool {
        self.awaiting_count >= self.settings.publishes_awaiting_max
            || self.request.is_some()
            || self.client.is_renewing
    }

    fn is_handshaking(&self) -> bool {
        match self.state {
            State::AwaitingHeader | State::Starting | State::Tuning | State::AwaitingOpen => true,
            State::Opening | State::Entering | State::Open => false,
            State::Leaving(_) | State::Closing(_) | State::Closed => false,
        }
    }

    /// When a peer that is silent counts as gone: after two intervals (§4.2.7).
    fn silence_end(&self) -> Option<Millis> {
        let interval_ms = self.tuned.heartbeat_ms;
        (interval_ms > 0).then(|| self.clock.heard.plus(2 * interval_ms))
    }

    /// When the peer is to hear something: before one interval is over.
    fn heartbeat_due(&self) -> Option<Millis> {
        let interval_ms = self.tuned.heartbeat_ms;
        (interval_ms > 0).then(|| self.clock.sent.plus(interval_ms / 2))
    }

    fn has_heartbeats(&self) -> bool {
        matches!(self.state, State::AwaitingOpen | State::Open)
    }
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            State::AwaitingHeader | State::Starting => "starting",
            State::Opening => "securing",
            State::Tuning => "tuning",
            State::AwaitingOpen | State::Entering => "opening",
            State::Open => "running",
            State::Leaving(_) | State::Closing(_) => "closing",
            State::Closed => "closed",
        }
    }
}

impl Connection for AmqpConnection {
    fn handle_input(&mut self, now: Millis, input: &mut BytesMut) {
        self.clock.now = now;
        let before = self.counters.packets_received;
        self.take_input(input);
        self.detach_begun();
        // Bytes of a partial frame count: a large one takes its time.
        if self.counters.packets_received > before || input.len() > self.clock.partial_bytes {
            self.clock.heard = now;
        }
        if self.state == State::Closed {
            input.clear();
        }
        self.clock.partial_bytes = input.len();
        self.has_left_input = !input.is_empty() && !self.wants_input();
    }

    fn handle_effect(&mut self, now: Millis, effect: Effect) {
        self.clock.now = now;
        if matches!(self.state, State::Leaving(_) | State::Closing(_) | State::Closed) {
            return;
        }
        match effect {
            Effect::Opened(_) => self.on_admitted(),
            Effect::Authenticated { .. } => self.on_renewed(),
            Effect::Entered(result) => self.on_entered(result),
            Effect::Publishing(result) => self.on_publishing(result),
            Effect::OpenRefused(refusal) => self.on_refused(&refusal),
            Effect::Expelled(refusal) => self.on_expelled(&refusal),
            Effect::TakenOver => {
                let text = "another connection has its session";
                self.fail((0, 0), Violation::new(ReplyCode::ConnectionForced, text));
            }
            Effect::ShuttingDown => {
                let text = "broker forced connection closure with reason 'shutdown'";
                self.fail((0, 0), Violation::new(ReplyCode::ConnectionForced, text));
            }
            Effect::Confirm { token, result } => self.on_confirm(token, result),
            Effect::Deliver(delivery) => self.on_deliver(delivery),
            Effect::Queue { token, result } => self.on_queue_answer(token, result),
            Effect::Exchange { token, result } => self.on_exchange_answer(token, result),
            Effect::Consuming { token, result } => self.on_consuming(token, result),
            Effect::Stopped { token } => self.on_stopped(token),
            Effect::ConsumerEnded { consumer } => self.on_consumer_ended(consumer),
            Effect::Got { token, result } => self.on_got(token, result),
            Effect::Committed { token, result } => self.on_committed(token, result),
            // Answers to what it never asks, and rights, which are checked where messages are.
            Effect::Challenge { .. }
            | Effect::RightsChanged(_)
            | Effect::Released { .. }
            | Effect::ReplayEnds { .. }
            | Effect::Subscribed { .. }
            | Effect::Unsubscribed { .. }
            | Effect::Assigned { .. }
            | Effect::ReceivedStored { .. } => {}
        }
    }

    fn handle_timeout(&mut self, now: Millis) {
        self.clock.now = now;
        let is_over = |end: Option<Millis>| end.is_some_and(|end| end <= now);
        match self.state {
            State::Closing(end) if is_over(Some(end)) => return self.close(),
            State::Leaving(end) if is_over(Some(end)) => return self.handle_released(now),
            State::Leaving(_) | State::Closing(_) => return,
            _ => {}
        }
        if self.is_handshaking()
            && is_over(Some(self.clock.started.plus(self.settings.handshake_timeout_ms)))
        {
            return self.close();
        }
        self.end_timed_out();
        if !self.has_heartbeats() {
            return;
        }
        if is_over(self.silence_end()) {
            if !self.is_broker_behind() && !self.is_blocked() {
                // Whoever is gone is not told.
                return self.close();
            }
            // Its frames wait unread, heartbeats perhaps among them: the silence is ours.
            self.clock.heard = now;
        }
        if is_over(self.heartbeat_due()) {
            if self.answers.is_empty() && self.outbox.held_bytes() == 0 {
                frame::encode_heartbeat(&mut self.answers);
            }
            self.clock.sent = now;
        }
    }

    fn handle_disconnect(&mut self, now: Millis) {
        self.clock.now = now;
        self.close();
    }

    fn poll_command(&mut self) -> Option<Command> {
        if self.commands.is_empty() {
            self.grant_due();
        }
        self.commands.pop_front()
    }

    fn poll_transmit(&mut self, now: Millis, out: &mut BytesMut, limit: usize) {
        self.clock.now = now;
        self.say_all_settled();
        let before = out.len();
        self.transmit(out, limit);
        if out.len() > before {
            self.clock.sent = now;
        }
    }

    fn handle_congestion(&mut self, is_congested: bool) {
        self.on_congestion(is_congested);
    }

    fn held_bytes(&self) -> usize {
        self.answers.len() + self.outbox.held_bytes()
    }

    fn poll_timeout(&self) -> Option<Millis> {
        let handshake_end = self
            .is_handshaking()
            .then(|| self.clock.started.plus(self.settings.handshake_timeout_ms));
        let heartbeats = self
            .has_heartbeats()
            .then(|| [self.silence_end(), self.heartbeat_due()])
            .into_iter()
            .flatten()
            .flatten();
        match self.state {
            // The driver is to come back for the input it left, now that there is room.
            _ if self.has_left_input && self.wants_input() => Some(self.clock.now),
            State::Leaving(end) | State::Closing(end) => Some(end),
            _ => {
                let consumers = self.consumer_timeout().map(|(due, _)| due);
                handshake_end.into_iter().chain(heartbeats).chain(consumers).min()
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.state == State::Closed
    }

    fn awaits_release(&self) -> bool {
        matches!(self.state, State::Leaving(_))
    }

    /// Exclusive queues are gone with their connection when its client hears of its end (§2.2.4): who connects again declares them anew.
    fn handle_released(&mut self, now: Millis) {
        self.clock.now = now;
        if self.awaits_release() {
            self.send(0, ConnectionCloseOk::default());
            self.close();
        }
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn describe(&self, with_channels: bool) -> ConnectionDescription {
        self.description(self.clock.started, with_channels)
    }

    fn wants_input(&self) -> bool {
        !matches!(self.state, State::Opening | State::Entering)
            && self.outbox.answer_bytes() + self.answers.len() < self.settings.answer_bytes_max
            && !self.is_broker_behind()
            && !self.is_blocked()
    }

    fn hears_of_publishing(&self) -> bool {
        true
    }

    fn input_bytes_max(&self) -> usize {
        self.tuned.frame_bytes_max as usize
    }
}
