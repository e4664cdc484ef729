//! One MQTT connection from the client's side, without sockets or clocks: bytes, requests and the time in; bytes and events out.
//!
//! Never sends what the server said it does not take, and notices when the server does what we said we do not. After a failure
//! nothing comes out any more; [`Machine::into_session`] returns what the next connection needs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};

use super::authenticate::{authentication_data, prove};
use super::error::{ClientError, RequestError, text_of, unified};
use super::event::{AckHandle, Connected, Event, Incoming, PublishRequest, SubscribeRequest};
use super::options::ConnectOptions;
use super::session::{AfterReceived, Arrival, Session, Stage};
use crate::auth::scram::Prover;
use crate::model::{Millis, QoS};
use crate::protocol::mqtt::codec::{Limits, decode, encode};
use crate::protocol::mqtt::property::{Property, PropertyList};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{
    Ack, ConnAck, Disconnect, Packet, Publish, Subscribe, Unsubscribe,
};

/// One connection.
pub struct Machine {
    options: ConnectOptions,
    session: Session,
    connection: u32,
    state: State,
    server: Server,
    output: BytesMut,
    events: VecDeque<Event>,
    /// Publishes of the session that this connection has not sent, in their order.
    unsent: BTreeSet<u64>,
    requests: BTreeMap<u16, Request>,
    /// Packet ids that the server has in use towards us.
    receiving: BTreeSet<u16>,
    aliases: BTreeMap<u16, Bytes>,
    clock: KeepAlive,
    /// Until the server has shown that it knows the password.
    prover: Option<Prover>,
}

enum State {
    /// CONNECT is out.
    Connecting,
    Open,
    /// DISCONNECT is out.
    Leaving,
    /// The error is there until it is taken.
    Failed(Option<ClientError>),
}

/// What it takes.
struct Server {
    receive_maximum: u16,
    packet_bytes_max: usize,
    qos_max: QoS,
    retain_available: bool,
}

enum Request {
    Subscribe { token: u64, count: usize },
    Unsubscribe { token: u64, count: usize },
}

#[derive(Default)]
struct KeepAlive {
    interval_ms: u64,
    last_sent: Millis,
    ping_sent: Option<Millis>,
}

impl Machine {
    /// Begins a connection: CONNECT is the first output.
    pub fn new(
        options: ConnectOptions,
        mut session: Session,
        now: Millis,
    ) -> Result<Machine, (RequestError, Session)> {
        let mut output = BytesMut::new();
        let prover = options.prover();
        let connect = Packet::Connect(Box::new(options.to_connect(prover.as_ref())));
        if let Err(error) = encode(&connect, options.version, &mut output) {
            return Err((error.into(), session));
        }
        let connection = session.begin_connection();
        Ok(Machine {
            session,
            connection,
            state: State::Connecting,
            server: Server {
                receive_maximum: u16::MAX,
                packet_bytes_max: usize::MAX,
                qos_max: QoS::ExactlyOnce,
                retain_available: true,
            },
            output,
            events: VecDeque::new(),
            unsent: BTreeSet::new(),
            requests: BTreeMap::new(),
            receiving: BTreeSet::new(),
            aliases: BTreeMap::new(),
            clock: KeepAlive {
                interval_ms: u64::from(options.keep_alive_s) * 1000,
                last_sent: now,
                ping_sent: None,
            },
            prover,
            options,
        })
    }

    /// Returns what the next connection needs.
    pub fn into_session(self) -> Session {
        self.session
    }

    /// Returns the session as it stands.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Returns how many more publishes of QoS 1 and 2 may be sent now.
    pub fn window(&self) -> usize {
        match self.state {
            State::Open => self.inflight_max().saturating_sub(self.session.unfinished_count()),
            State::Connecting | State::Leaving | State::Failed(_) => 0,
        }
    }

    /// Sends a message. `token` comes back in [`Event::Published`] unless the QoS is 0.
    pub fn publish(&mut self, token: u64, request: &PublishRequest) -> Result<(), RequestError> {
        self.check_open()?;
        if request.qos > self.server.qos_max {
            return Err(RequestError::Qos { qos: request.qos, qos_max: self.server.qos_max });
        }
        if request.retain && !self.server.retain_available {
            return Err(RequestError::Retain);
        }
        let is_stateful = request.qos != QoS::AtMostOnce;
        if is_stateful && self.window() == 0 {
            return Err(RequestError::WindowFull { inflight_max: self.inflight_max() });
        }
        let packet_id = if is_stateful { self.packet_id()? } else { 0 };
        let publish = Publish {
            dup: false,
            qos: request.qos,
            retain: request.retain,
            topic: request.topic.clone(),
            packet_id,
            properties: request.properties.clone(),
            payload: request.payload.clone(),
        };
        self.send(&Packet::Publish(publish.clone()))?;
        if is_stateful {
            self.session.begin_publish(token, publish);
        }
        Ok(())
    }

    /// Asks for subscriptions; answered by [`Event::Subscribed`].
    pub fn subscribe(
        &mut self,
        token: u64,
        request: &SubscribeRequest,
    ) -> Result<(), RequestError> {
        self.check_open()?;
        let packet_id = self.packet_id()?;
        let (filters, properties) = (request.filters.clone(), request.properties.clone());
        let count = filters.len();
        self.send(&Packet::Subscribe(Subscribe { packet_id, properties, filters }))?;
        self.requests.insert(packet_id, Request::Subscribe { token, count });
        Ok(())
    }

    /// Takes subscriptions back, with properties that UNSUBSCRIBE may have; answered by [`Event::Unsubscribed`].
    pub fn unsubscribe(
        &mut self,
        token: u64,
        filters: Vec<Bytes>,
        properties: PropertyList,
    ) -> Result<(), RequestError> {
        self.check_open()?;
        let packet_id = self.packet_id()?;
        let count = filters.len();
        self.send(&Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }))?;
        self.requests.insert(packet_id, Request::Unsubscribe { token, count });
        Ok(())
    }

    /// Acknowledges a delivery: PUBACK or PUBREC with `reason`, which an error settles as refused (5.0 only).
    ///
    /// A QoS 1 delivery of an earlier connection comes again, so acknowledging it does nothing. A QoS 2 delivery of an earlier
    /// connection is remembered as taken, and is not handed out again.
    pub fn acknowledge(&mut self, handle: AckHandle, reason: ReasonCode) {
        let AckHandle { packet_id, qos, connection } = handle;
        let refused = reason.is_error() && self.options.version.is_v5();
        let answer = match qos {
            QoS::AtMostOnce => false,
            QoS::AtLeastOnce => connection == self.connection && self.receiving.remove(&packet_id),
            QoS::ExactlyOnce if refused => self.session.on_refused(packet_id),
            QoS::ExactlyOnce => self.session.on_taken(packet_id),
        };
        if !answer || self.check_open().is_err() {
            return;
        }
        let ack = Ack { packet_id, reason, properties: PropertyList::default() };
        match qos {
            QoS::ExactlyOnce => {
                if refused {
                    self.receiving.remove(&packet_id);
                }
                self.answer(&Packet::PubRec(ack));
            }
            QoS::AtLeastOnce | QoS::AtMostOnce => self.answer(&Packet::PubAck(ack)),
        }
    }

    /// Says goodbye: DISCONNECT is the last output. `session_expiry_s` replaces the one of CONNECT (5.0 only).
    pub fn disconnect(&mut self, reason: ReasonCode, session_expiry_s: Option<u32>) {
        if self.check_open().is_err() {
            return;
        }
        let expiry = session_expiry_s.map(Property::SessionExpiry).into_iter();
        let properties = expiry.chain(self.options.disconnect_properties.iter()).collect();
        self.answer(&Packet::Disconnect(Disconnect { reason, properties }));
        self.state = State::Leaving;
    }

    /// Takes whole packets from the front of `input`.
    pub fn handle_input(&mut self, now: Millis, input: &mut BytesMut) {
        let limits = Limits {
            packet_bytes_max: self.options.packet_bytes_max as usize,
            user_properties_max: usize::MAX,
            user_property_bytes_max: usize::MAX,
            ..Limits::default()
        };
        while !matches!(self.state, State::Failed(_)) {
            match decode(input, Some(self.options.version), &limits) {
                Ok(Some(packet)) => {
                    if let Err(error) = self.on_packet(now, packet) {
                        self.fail(error);
                    }
                }
                Ok(None) => break,
                Err(error) => self.fail(error.into()),
            }
        }
        self.send_unsent();
    }

    /// The stream ended or broke.
    pub fn handle_disconnect(&mut self, error: Option<std::io::Error>) {
        self.fail(error.map_or(ClientError::Closed, ClientError::Io));
    }

    /// The time of [`Machine::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Millis) {
        if !matches!(self.state, State::Open) || self.poll_timeout().is_none_or(|due| due > now) {
            return;
        }
        match self.clock.ping_sent {
            Some(_) => {
                self.fail(ClientError::NoPingResponse { timeout_ms: self.clock.interval_ms })
            }
            None => {
                self.clock.ping_sent = Some(now);
                self.answer(&Packet::PingReq);
            }
        }
    }

    /// When to call [`Machine::handle_timeout`], if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Millis> {
        if !matches!(self.state, State::Open) || self.clock.interval_ms == 0 {
            return None;
        }
        let since = self.clock.ping_sent.unwrap_or(self.clock.last_sent);
        Some(since.plus(self.clock.interval_ms))
    }

    /// Returns the oldest event that was not returned before.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns why the connection is over, once; afterwards it is plainly closed. Events come first.
    pub fn poll_failure(&mut self) -> Option<ClientError> {
        let State::Failed(error) = &mut self.state else { return None };
        Some(error.take().unwrap_or(ClientError::Closed))
    }

    /// Moves what is to be sent to the end of `out`.
    pub fn poll_transmit(&mut self, now: Millis, out: &mut BytesMut) {
        if !self.output.is_empty() {
            self.clock.last_sent = now;
            out.unsplit(self.output.split());
        }
    }

    fn inflight_max(&self) -> usize {
        usize::from(self.options.inflight_max.max(1).min(self.server.receive_maximum))
    }

    fn check_open(&self) -> Result<(), RequestError> {
        match self.state {
            State::Open => Ok(()),
            State::Connecting | State::Leaving | State::Failed(_) => {
                Err(RequestError::NotConnected)
            }
        }
    }

    fn packet_id(&mut self) -> Result<u16, RequestError> {
        let requests = &self.requests;
        self.session.packet_id(|id| requests.contains_key(&id)).ok_or(RequestError::NoPacketId)
    }

    fn fail(&mut self, error: ClientError) {
        if !matches!(self.state, State::Failed(_)) {
            self.state = State::Failed(Some(error));
        }
    }

    /// Appends a packet unless the server would not take it [MQTT-3.2.2-15].
    fn send(&mut self, packet: &Packet) -> Result<(), RequestError> {
        let before = self.output.len();
        encode(packet, self.options.version, &mut self.output)?;
        let bytes = self.output.len() - before;
        if bytes > self.server.packet_bytes_max {
            self.output.truncate(before);
            return Err(RequestError::TooLarge { bytes, bytes_max: self.server.packet_bytes_max });
        }
        Ok(())
    }

    /// Appends a small packet that the protocol makes us send.
    fn answer(&mut self, packet: &Packet) {
        if self.send(packet).is_err() {
            self.fail(ClientError::Protocol("its maximum packet size allows no acknowledgement"));
        }
    }

    fn on_packet(&mut self, now: Millis, packet: Packet) -> Result<(), ClientError> {
        if matches!(self.state, State::Connecting) {
            return match packet {
                Packet::ConnAck(connack) => self.on_connack(now, &connack),
                Packet::Auth(auth) => {
                    let proof = prove(self.prover.as_mut(), &auth)?;
                    self.answer(&proof);
                    Ok(())
                }
                // [MQTT-3.2.0-1]
                _ => Err(ClientError::Protocol("the first packet was not CONNACK")),
            };
        }
        match packet {
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::PubAck(ack) => {
                let token = self.session.on_puback(ack.packet_id);
                self.finished(token, ack.reason, &ack.properties)
            }
            Packet::PubRec(ack) => self.on_pubrec(&ack),
            Packet::PubRel(ack) => self.on_pubrel(ack.packet_id),
            Packet::PubComp(ack) => match self.session.on_pubcomp(ack.packet_id) {
                Some((token, reason)) => self.finished(Some(token), reason, &ack.properties),
                None => Ok(()),
            },
            Packet::SubAck(answer) => {
                self.on_answer(answer.packet_id, answer.reasons, answer.properties)
            }
            Packet::UnsubAck(answer) => {
                self.on_answer(answer.packet_id, answer.reasons, answer.properties)
            }
            Packet::PingResp => {
                self.clock.ping_sent = None;
                Ok(())
            }
            Packet::Disconnect(packet) => Err(ClientError::Disconnected {
                reason: packet.reason,
                text: text_of(&packet.properties),
            }),
            Packet::ConnAck(_) => Err(ClientError::Protocol("CONNACK came twice")),
            Packet::Auth(_) => Err(ClientError::Protocol("AUTH came without being asked for")),
            Packet::Connect(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::PingReq => {
                Err(ClientError::Protocol("it sent a packet that only clients send"))
            }
        }
    }

    fn on_connack(&mut self, now: Millis, connack: &ConnAck) -> Result<(), ClientError> {
        if connack.reason != ReasonCode::SUCCESS {
            let reason = unified(connack.reason, self.options.version);
            return Err(ClientError::Refused { reason, text: text_of(&connack.properties) });
        }
        if let Some(prover) = self.prover.take() {
            prover.check(&authentication_data(&connack.properties))?;
        }
        // [MQTT-3.2.2-2]
        if self.options.clean_start && connack.session_present {
            return Err(ClientError::Protocol("it kept a session that was to begin anew"));
        }
        let mut client_id = self.options.client_id.clone();
        let mut keep_alive_s = self.options.keep_alive_s;
        for property in connack.properties.iter() {
            match property {
                Property::ReceiveMaximum(count) => self.server.receive_maximum = count,
                Property::MaximumPacketSize(bytes) => self.server.packet_bytes_max = bytes as usize,
                Property::MaximumQoS(false) => self.server.qos_max = QoS::AtMostOnce,
                Property::MaximumQoS(true) => self.server.qos_max = QoS::AtLeastOnce,
                Property::RetainAvailable(available) => self.server.retain_available = available,
                Property::ServerKeepAlive(seconds) => keep_alive_s = seconds,
                Property::AssignedClientId(id) => {
                    client_id = String::from_utf8_lossy(&id).into_owned();
                }
                _ => {}
            }
        }
        self.clock.interval_ms = u64::from(keep_alive_s) * 1000;
        (self.clock.last_sent, self.state) = (now, State::Open);
        self.options.client_id.clone_from(&client_id);
        self.events.push_back(Event::Connected(Connected {
            session_present: connack.session_present,
            client_id,
            inflight_max: self.inflight_max(),
            keep_alive_s,
            properties: connack.properties.clone(),
        }));
        if connack.session_present {
            self.unsent = self.session.sequences().collect();
        } else {
            let unfinished = self.session.forget();
            if !unfinished.is_empty() {
                self.events.push_back(Event::SessionLost { unfinished });
            }
        }
        Ok(())
    }

    /// Sends again what earlier connections did not finish [MQTT-4.4.0-1], in its order, as the server's quota allows.
    fn send_unsent(&mut self) {
        while let (State::Open, Some(sequence)) = (&self.state, self.unsent.first().copied()) {
            let Some(outgoing) = self.session.outgoing(sequence) else {
                self.unsent.remove(&sequence);
                continue;
            };
            let sent_count = self.session.unfinished_count().saturating_sub(self.unsent.len());
            let packet = match outgoing.stage {
                Stage::Publish if sent_count >= usize::from(self.server.receive_maximum) => return,
                Stage::Publish => {
                    Packet::Publish(Publish { dup: true, ..outgoing.publish.clone() })
                }
                Stage::Release(_) => {
                    let packet_id = outgoing.publish.packet_id;
                    Packet::PubRel(Ack { packet_id, ..Ack::default() })
                }
            };
            self.unsent.remove(&sequence);
            if self.send(&packet).is_err() {
                self.fail(ClientError::Protocol("it takes smaller packets than it did"));
            }
        }
    }

    fn on_publish(&mut self, publish: Publish) -> Result<(), ClientError> {
        let Publish { dup, qos, retain, topic, packet_id, properties, payload } = publish;
        let topic = self.resolve_alias(topic, &properties)?;
        let is_stateful = qos != QoS::AtMostOnce;
        if is_stateful {
            let is_first = self.receiving.insert(packet_id);
            if !is_first && qos == QoS::AtLeastOnce {
                return Err(ClientError::Protocol("a packet id in use came with another message"));
            }
            // Before 5.0 the server is not told.
            let options = &self.options;
            let receive_maximum = options.receive_maximum.max(1);
            let is_enforced = options.version.is_v5() && options.receive_maximum_enforced;
            if is_enforced && self.receiving.len() > usize::from(receive_maximum) {
                return Err(ClientError::ReceiveMaximum { receive_maximum });
            }
        }
        if qos == QoS::ExactlyOnce {
            match self.session.on_publish(packet_id) {
                Arrival::New => {}
                Arrival::Waiting => return Ok(()),
                Arrival::Taken => {
                    self.answer(&Packet::PubRec(Ack { packet_id, ..Ack::default() }));
                    return Ok(());
                }
            }
        }
        let handle = AckHandle { packet_id, qos, connection: self.connection };
        self.events.push_back(Event::Message(Incoming {
            topic,
            payload,
            qos,
            retain,
            dup,
            properties,
            handle: is_stateful.then_some(handle),
        }));
        Ok(())
    }

    /// MQTT 5 §3.3.2.3.4.
    fn resolve_alias(
        &mut self,
        topic: Bytes,
        properties: &PropertyList,
    ) -> Result<Bytes, ClientError> {
        let alias = properties.find(|property| match property {
            Property::TopicAlias(alias) => Some(alias),
            _ => None,
        });
        match alias {
            None if topic.is_empty() => Err(ClientError::Protocol("a topic is empty")),
            None => Ok(topic),
            Some(alias) if alias == 0 || alias > self.options.topic_alias_max => {
                Err(ClientError::Protocol("a topic alias is above the announced maximum"))
            }
            Some(alias) if topic.is_empty() => match self.aliases.get(&alias) {
                Some(topic) => Ok(topic.clone()),
                None => Err(ClientError::Protocol("a topic alias stands for nothing")),
            },
            Some(alias) => {
                self.aliases.insert(alias, topic.clone());
                Ok(topic)
            }
        }
    }

    fn on_pubrec(&mut self, ack: &Ack) -> Result<(), ClientError> {
        let Ack { packet_id, reason, properties } = ack;
        let reason_of_release = match self.session.on_pubrec(*packet_id, *reason) {
            AfterReceived::Release => ReasonCode::SUCCESS,
            AfterReceived::Unknown => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            AfterReceived::Finished(token) => {
                return self.finished(Some(token), *reason, properties);
            }
        };
        let ack = Ack { packet_id: *packet_id, reason: reason_of_release, ..Ack::default() };
        self.answer(&Packet::PubRel(ack));
        Ok(())
    }

    fn on_pubrel(&mut self, packet_id: u16) -> Result<(), ClientError> {
        self.receiving.remove(&packet_id);
        let reason = match self.session.on_pubrel(packet_id) {
            true => ReasonCode::SUCCESS,
            false => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        };
        self.answer(&Packet::PubComp(Ack { packet_id, reason, ..Ack::default() }));
        Ok(())
    }

    fn finished(
        &mut self,
        token: Option<u64>,
        reason: ReasonCode,
        properties: &PropertyList,
    ) -> Result<(), ClientError> {
        let Some(token) = token else {
            return Err(ClientError::Protocol("it acknowledged what was not sent"));
        };
        self.events.push_back(Event::Published { token, reason, text: text_of(properties) });
        Ok(())
    }

    fn on_answer(
        &mut self,
        packet_id: u16,
        reasons: Vec<ReasonCode>,
        properties: PropertyList,
    ) -> Result<(), ClientError> {
        let event = match self.requests.remove(&packet_id) {
            // [MQTT-3.9.3-1]
            Some(Request::Subscribe { token, count }) if reasons.len() == count => {
                Event::Subscribed { token, reasons, text: text_of(&properties), properties }
            }
            Some(Request::Unsubscribe { token, count })
                if reasons.len() == count || !self.options.version.is_v5() =>
            {
                Event::Unsubscribed { token, reasons }
            }
            Some(_) => {
                return Err(ClientError::Protocol("it answered for other filters than asked"));
            }
            None => return Err(ClientError::Protocol("it answered what was not asked")),
        };
        self.events.push_back(event);
        Ok(())
    }
}
