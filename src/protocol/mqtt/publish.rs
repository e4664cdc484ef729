//! Inbound PUBLISH: to the broker, and the answers back in their order.
//!
//! PUBACK and PUBREC wait for the broker's `Confirm`. Confirms of different partitions come in any order; answers go out in
//! the order of the publishes of their QoS [MQTT-4.6.0-2] [MQTT-4.6.0-3], so each QoS has a line of what is awaited.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::codec::{AckKind, encode_ack};
use super::connection::{MqttConnection, TokenKind};
use super::convert::{Parts, detached, parts};
use super::property::PropertyList;
use super::reason::ReasonCode;
use super::refusal::{self, Violation};
use super::settings::{DeniedPublish, Settings};
use super::types::{Ack, Publish};
use super::verb;
use crate::model::address::PublishAddress;
use crate::model::{Command, Message, Properties, QoS, Refusal, Token, Topic};
use crate::planted::{PlantedBug, is_planted};

/// What the client has published and we have not finished.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    at_least_once: Line,
    exactly_once: Line,
    /// QoS 2 packet ids in use. Never iterated.
    exchanges: BTreeMap<u16, Exchange>,
    /// Exchanges begun on this connection: only they count against Receive Maximum (§4.9).
    exchanges_begun: usize,
    aliases: Aliases,
}

/// Publishes of one QoS in their order, each with its answer once there is one.
#[derive(Debug, Default)]
struct Line {
    /// The number of the first entry's token.
    first: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    packet_id: u16,
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Answer {
    reason: ReasonCode,
    /// For the reason string, when there is something to explain.
    text: Option<Box<str>>,
}

/// One QoS 2 publish, from PUBLISH to PUBCOMP.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    stage: Stage,
    /// False when an earlier connection began it.
    is_begun_here: bool,
    /// True when the broker stored the packet id; it does not for settling publishes.
    is_stored: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The broker has not confirmed.
    Awaiting,
    /// PUBREC is out.
    Received,
    /// PUBREL has come, the broker has not released.
    Releasing,
}

/// Topic aliases the client defined (§3.3.2.3.4), from 1 on.
#[derive(Debug, Default)]
struct Aliases {
    topics: Vec<Option<Topic>>,
    bytes: usize,
}

/// Why a publish does not go to the broker.
enum Stop {
    /// The connection ends.
    Violation(Violation),
    /// The publisher is told.
    Refusal(Refusal),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Stop {
        Stop::Violation(violation)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refusal(refusal)
    }
}

impl Line {
    /// Adds an entry and returns the number for its token.
    fn push(&mut self, packet_id: u16) -> u64 {
        self.entries.push_back(Entry { packet_id, answer: None });
        self.first + self.entries.len() as u64 - 1
    }

    fn answer(&mut self, number: u64, answer: Answer) {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(entry) = at.and_then(|at| self.entries.get_mut(at)) {
            entry.answer.get_or_insert(answer);
        }
    }

    /// Takes the first entry when it is answered.
    fn pop(&mut self) -> Option<(u16, Answer)> {
        let answer = self.entries.front_mut()?.answer.take()?;
        let entry = self.entries.pop_front()?;
        self.first += 1;
        Some((entry.packet_id, answer))
    }
}

impl Inbound {
    /// Publishes that wait for the broker.
    pub(super) fn awaiting_count(&self) -> usize {
        self.at_least_once.entries.len() + self.exactly_once.entries.len()
    }

    /// Takes over the QoS 2 publishes that an earlier connection left unreleased [MQTT-4.1.0-1].
    pub(super) fn resume(&mut self, packet_ids: Vec<u16>) {
        let exchange = Exchange { stage: Stage::Received, is_begun_here: false, is_stored: true };
        self.exchanges.extend(packet_ids.into_iter().map(|packet_id| (packet_id, exchange)));
    }

    /// Publishes that count against Receive Maximum.
    fn unacknowledged_count(&self) -> usize {
        self.at_least_once.entries.len() + self.exchanges_begun
    }

    fn begin_exchange(&mut self, packet_id: u16) {
        let exchange = Exchange { stage: Stage::Awaiting, is_begun_here: true, is_stored: true };
        self.exchanges.insert(packet_id, exchange);
        self.exchanges_begun += 1;
    }

    fn end_exchange(&mut self, packet_id: u16) {
        if self.exchanges.remove(&packet_id).is_some_and(|exchange| exchange.is_begun_here) {
            self.exchanges_begun -= 1;
        }
    }
}

impl Aliases {
    /// Returns what an alias stands for, or makes it stand for `topic`.
    fn resolve(
        &mut self,
        alias: u16,
        topic: Option<&Topic>,
        settings: &Settings,
    ) -> Result<Topic, Violation> {
        if alias == 0 || alias > settings.topic_alias_max {
            // [MQTT-3.3.2-9]
            return Err(Violation::new(
                ReasonCode::TOPIC_ALIAS_INVALID,
                "the topic alias is above the maximum",
            ));
        }
        let at = usize::from(alias) - 1;
        let Some(topic) = topic else {
            let known = self.topics.get(at).cloned().flatten();
            return known.ok_or(Violation::protocol("the topic alias has no topic"));
        };
        if self.topics.len() <= at {
            self.topics.resize(at + 1, None);
        }
        let kept = Topic::from_stored(detached(topic.as_bytes()));
        let old = self.topics[at].replace(kept.clone());
        self.bytes += kept.as_bytes().len();
        self.bytes -= old.map_or(0, |old| old.as_bytes().len());
        match self.bytes <= settings.topic_alias_bytes_max {
            true => Ok(kept),
            false => Err(Violation::new(
                ReasonCode::QUOTA_EXCEEDED,
                "the topics of all aliases together are too long",
            )),
        }
    }
}

impl MqttConnection {
    #[inline]
    pub(super) fn on_publish(&mut self, publish: Publish) -> Result<(), Violation> {
        self.counters.publishes_received += 1;
        self.counters.payload_bytes_received += publish.payload.len() as u64;
        let is_plain = publish.qos == QoS::AtMostOnce
            && publish.properties.is_empty()
            && publish.topic.first().is_some_and(|first| *first != b'$');
        if is_plain { self.on_plain_publish(publish) } else { self.on_any_publish(publish) }
    }

    /// QoS 0, an ordinary topic, no properties: most of what brokers see.
    #[inline]
    fn on_plain_publish(&mut self, publish: Publish) -> Result<(), Violation> {
        let topic = match Topic::new(publish.topic) {
            Ok(topic) => topic,
            Err(error) => {
                refusal::of_topic(error)?;
                self.counters.publishes_dropped += 1;
                return Ok(());
            }
        };
        let message = Arc::new(Message {
            topic,
            payload: publish.payload,
            qos: QoS::AtMostOnce,
            retain: publish.retain,
            expiry_s: None,
            properties: Properties::default(),
            publisher: self.client.publisher,
        });
        let token = TokenKind::Unanswered.token(0);
        self.commands.push_back(Command::Publish { token, message, packet_id: None });
        Ok(())
    }

    fn on_any_publish(&mut self, mut publish: Publish) -> Result<(), Violation> {
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        let parts = parts(&publish.properties)?;
        let name = std::mem::take(&mut publish.topic);
        let topic = match self.topic_of(name, parts.alias) {
            Ok(topic) => Ok(topic),
            Err(Stop::Refusal(refusal)) => Err(refusal),
            Err(Stop::Violation(violation)) => return Err(violation),
        };
        if qos != QoS::AtMostOnce {
            if self.is_repeated(qos, packet_id) {
                return Ok(());
            }
            self.check_receive_maximum()?;
        }
        match topic.and_then(|topic| Ok((PublishAddress::of(&topic)?, topic))) {
            Ok((PublishAddress::Settle(queue, verb), _)) => {
                let token = self.await_confirm(qos, packet_id);
                match verb::command(queue, verb, &publish.properties, token) {
                    Ok(command) => {
                        if let Some(exchange) = self.inbound.exchanges.get_mut(&packet_id)
                            && qos == QoS::ExactlyOnce
                        {
                            exchange.is_stored = false;
                        }
                        self.commands.push_back(command);
                    }
                    Err(refusal) => self.refuse_publish(token, &refusal),
                }
            }
            Ok((_, topic)) => self.forward(publish, topic, parts),
            Err(refusal) => {
                let token = self.await_confirm(qos, packet_id);
                self.refuse_publish(token, &refusal);
            }
        }
        Ok(())
    }

    fn forward(&mut self, publish: Publish, topic: Topic, parts: Parts) {
        let token = self.await_confirm(publish.qos, publish.packet_id);
        let message = Arc::new(Message {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expiry_s: parts.expiry_s,
            properties: parts.properties,
            publisher: self.client.publisher,
        });
        let packet_id = (publish.qos == QoS::ExactlyOnce).then_some(publish.packet_id);
        if is_planted(PlantedBug::AckBeforeConfirm) && publish.qos == QoS::AtLeastOnce {
            self.on_confirm(token, Ok(true));
        }
        if is_planted(PlantedBug::PublishesReversed) {
            return self.commands.push_front(Command::Publish { token, message, packet_id });
        }
        self.commands.push_back(Command::Publish { token, message, packet_id });
    }

    /// Finds the topic by name or alias, and keeps an alias that comes with a name.
    fn topic_of(&mut self, name: Bytes, alias: Option<u16>) -> Result<Topic, Stop> {
        let topic = match (name.is_empty(), alias) {
            (true, Some(alias)) => {
                return Ok(self.inbound.aliases.resolve(alias, None, &self.settings)?);
            }
            _ => Topic::new(name).map_err(|error| match refusal::of_topic(error) {
                Ok(refusal) => Stop::Refusal(refusal),
                Err(violation) => Stop::Violation(violation),
            })?,
        };
        match alias {
            None => Ok(topic),
            Some(alias) => Ok(self.inbound.aliases.resolve(alias, Some(&topic), &self.settings)?),
        }
    }

    /// Answers a publish whose packet id is in use: QoS 2 was received before [MQTT-4.3.3-10], QoS 1 cannot be.
    fn is_repeated(&mut self, qos: QoS, packet_id: u16) -> bool {
        let Some(exchange) = self.inbound.exchanges.get(&packet_id) else { return false };
        match (qos, exchange.stage) {
            (QoS::ExactlyOnce, Stage::Received) => {
                self.send_ack(AckKind::PubRec, packet_id, ReasonCode::SUCCESS, None);
                true
            }
            // Its PUBREC or PUBCOMP is on the way.
            (QoS::ExactlyOnce, Stage::Awaiting | Stage::Releasing) => true,
            (QoS::AtLeastOnce, _) if self.client.version.is_v5() => {
                let reason = ReasonCode::PACKET_IDENTIFIER_IN_USE;
                self.send_ack(AckKind::PubAck, packet_id, reason, None);
                true
            }
            (QoS::AtLeastOnce | QoS::AtMostOnce, _) => false,
        }
    }

    /// [MQTT-3.3.4-9]; 3.1 and 3.1.1 have no such maximum, their input waits instead.
    fn check_receive_maximum(&self) -> Result<(), Violation> {
        let receive_max = usize::from(self.settings.receive_max);
        match self.client.version.is_v5() && self.inbound.unacknowledged_count() >= receive_max {
            true => Err(Violation::new(
                ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
                "more unacknowledged publishes than the receive maximum",
            )),
            false => Ok(()),
        }
    }

    fn await_confirm(&mut self, qos: QoS, packet_id: u16) -> Token {
        match qos {
            QoS::AtMostOnce => TokenKind::Unanswered.token(0),
            QoS::AtLeastOnce => {
                TokenKind::AtLeastOnce.token(self.inbound.at_least_once.push(packet_id))
            }
            QoS::ExactlyOnce => {
                self.inbound.begin_exchange(packet_id);
                TokenKind::ExactlyOnce.token(self.inbound.exactly_once.push(packet_id))
            }
        }
    }

    fn refuse_publish(&mut self, token: Token, refusal: &Refusal) {
        if token == TokenKind::Unanswered.token(0) {
            self.counters.publishes_dropped += 1;
        }
        self.on_confirm(token, Err(refusal.clone()));
    }

    pub(super) fn on_confirm(&mut self, token: Token, result: Result<bool, Refusal>) {
        let answer = match result {
            Ok(true) => Answer { reason: ReasonCode::SUCCESS, text: None },
            Ok(false) => Answer { reason: ReasonCode::NO_MATCHING_SUBSCRIBERS, text: None },
            // PUBACK and PUBREC of 3.x cannot say no, and its client would send the message again for ever.
            Err(Refusal::NotAuthorized) if self.is_denial_acknowledged() => {
                self.counters.publishes_dropped += 1;
                Answer { reason: ReasonCode::SUCCESS, text: None }
            }
            Err(refusal) => Answer {
                reason: refusal::of_publish(&refusal),
                text: Some(refusal.to_string().into_boxed_str()),
            },
        };
        if let Some(number) = TokenKind::AtLeastOnce.number(token) {
            self.inbound.at_least_once.answer(number, answer);
        } else if let Some(number) = TokenKind::ExactlyOnce.number(token) {
            self.inbound.exactly_once.answer(number, answer);
        }
        self.send_answers();
    }

    fn send_answers(&mut self) {
        while let Some((packet_id, answer)) = self.inbound.at_least_once.pop() {
            if self.is_unsayable(&answer) {
                return;
            }
            self.send_ack(AckKind::PubAck, packet_id, answer.reason, answer.text.as_deref());
        }
        while let Some((packet_id, answer)) = self.inbound.exactly_once.pop() {
            if self.is_unsayable(&answer) {
                return;
            }
            if answer.reason.is_error() {
                self.inbound.end_exchange(packet_id);
            } else if let Some(exchange) = self.inbound.exchanges.get_mut(&packet_id) {
                exchange.stage = Stage::Received;
            }
            self.send_ack(AckKind::PubRec, packet_id, answer.reason, answer.text.as_deref());
        }
    }

    fn is_denial_acknowledged(&self) -> bool {
        !self.client.version.is_v5() && self.settings.denied_publish == DeniedPublish::Acknowledge
    }

    /// PUBACK and PUBREC of 3.1.1 cannot say no: closing without one is the only way not to claim the message.
    fn is_unsayable(&mut self, answer: &Answer) -> bool {
        let is_unsayable = answer.reason.is_error() && !self.client.version.is_v5();
        if is_unsayable {
            self.fail(answer.reason, "a publish was refused");
        }
        is_unsayable
    }

    /// [MQTT-4.3.3-11]: PUBCOMP follows PUBREL, once the broker has forgotten the number.
    pub(super) fn on_pubrel(&mut self, ack: &Ack) -> Result<(), Violation> {
        let packet_id = ack.packet_id;
        let Some(exchange) = self.inbound.exchanges.get_mut(&packet_id) else {
            self.send_ack(
                AckKind::PubComp,
                packet_id,
                ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
                None,
            );
            return Ok(());
        };
        match exchange.stage {
            Stage::Awaiting => return Err(Violation::protocol("PUBREL came before PUBREC")),
            Stage::Releasing => {}
            Stage::Received if exchange.is_stored => {
                exchange.stage = Stage::Releasing;
                self.commands.push_back(Command::Release { packet_id });
            }
            Stage::Received => {
                exchange.stage = Stage::Releasing;
                self.on_released(packet_id);
            }
        }
        Ok(())
    }

    pub(super) fn on_released(&mut self, packet_id: u16) {
        let is_releasing = |exchange: &Exchange| exchange.stage == Stage::Releasing;
        if self.inbound.exchanges.get(&packet_id).is_some_and(is_releasing) {
            self.inbound.end_exchange(packet_id);
            self.send_ack(AckKind::PubComp, packet_id, ReasonCode::SUCCESS, None);
        }
    }

    /// Encodes one of the four acknowledgements.
    pub(super) fn send_ack(
        &mut self,
        kind: AckKind,
        packet_id: u16,
        reason: ReasonCode,
        text: Option<&str>,
    ) {
        let properties =
            text.map_or_else(PropertyList::default, |text| self.reason_string(text, 16));
        let ack = Ack { packet_id, reason, properties };
        let sent = encode_ack(kind, &ack, self.client.version, &mut self.answers);
        debug_assert_eq!(sent, Ok(()), "our own packets are short");
        self.counters.packets_sent += 1;
    }
}
