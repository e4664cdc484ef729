//! Outbound PUBLISH: deliveries in, packets out as the client's window and the socket allow.
//!
//! ```text
//! Deliver ─QoS 0───────────────────────────────▶ at_most_once ─┐
//!         └QoS 1, 2─▶ waiting ─packet id──▶ assigning ─Assigned─▶ ready ─┴─▶ PUBLISH
//!                                  └ no QoS 2 of a stored session ─▶ ┘
//! ```
//!
//! What was out when the last connection ended goes before anything else. Between `ready` and `at_most_once` the order
//! of arrival decides.

mod congestion;
mod rights;
mod stall;

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;

use self::stall::Stall;
use super::alias::{ALIAS_BYTES, Naming, TopicAliases};
use super::codec::{AckKind, PublishHeader, encode_publish, publish_bytes};
use super::connection::{MqttConnection, State, TokenKind};
use super::convert::{property_bytes_bound, put_delivery_properties};
use super::property::put_two;
use super::refusal::Violation;
use super::types::{Ack, Version};
use crate::model::effect::Outbound as Unfinished;
use crate::model::{Command, Delivery, DeliveryId, DeliverySource, Millis, Outcome, QoS, Token};
use crate::planted::{PlantedBug, is_planted};
use crate::protocol::mqtt::reason::ReasonCode;

/// Bytes of deliveries that have packet ids before they are written, beside the first: what has a number is not given back.
const NUMBERED_BYTES_MAX: usize = 12 << 10;

/// What goes to the client and is not over.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// PUBLISH packets that may still be begun before one ends (§4.9).
    quota: u16,
    window: u16,
    is_persistent: bool,
    last_packet_id: u16,
    /// By packet id. Never iterated.
    flights: BTreeMap<u16, Flight>,
    unfinished: VecDeque<Unfinished>,
    waiting: VecDeque<Queued>,
    assigning: Option<Assigning>,
    ready: VecDeque<Ready>,
    at_most_once: VecDeque<Queued>,
    arrivals: u64,
    assignments: u64,
    aliases: TopicAliases,
    /// The peer does not read.
    is_congested: bool,
    stall: Stall,
    /// Of `at_most_once`, while it does not.
    held_bytes: usize,
    /// Reused for every property list.
    scratch: BytesMut,
}

/// A delivery that has not been written.
#[derive(Debug)]
struct Queued {
    arrival: u64,
    since: Millis,
    delivery: Delivery,
}

/// A delivery that has a packet id and may be written.
#[derive(Debug)]
struct Ready {
    packet_id: u16,
    dup: bool,
    queued: Queued,
}

/// Deliveries whose packet ids the broker is storing.
#[derive(Debug)]
struct Assigning {
    number: u64,
    batch: VecDeque<Ready>,
}

/// A packet id in use.
#[derive(Clone, Copy, Debug)]
struct Flight {
    delivery: DeliveryId,
    settle_explicit: bool,
    /// Its PUBLISH took a place in this connection's window. One whose PUBREL is all that is sent again did not (§4.9).
    has_place: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Has its packet id, is not written.
    Assigned,
    /// PUBLISH with QoS 1 is out.
    AwaitingAck,
    /// PUBLISH with QoS 2 is out.
    AwaitingReceived,
    /// PUBREC has come, the broker is storing that.
    Storing,
    /// PUBREL is out.
    AwaitingComplete,
}

impl Outbound {
    /// Starts sending: what an earlier connection left unfinished goes first, under its numbers.
    pub(super) fn open(
        &mut self,
        window: u16,
        aliases: u16,
        is_persistent: bool,
        unfinished: Vec<Unfinished>,
    ) {
        self.aliases = TopicAliases::new(aliases);
        self.quota = window;
        self.window = window;
        self.is_persistent = is_persistent;
        for item in &unfinished {
            let (packet_id, flight) = match item {
                Unfinished::Publish { packet_id, delivery } => {
                    (*packet_id, Flight::of(delivery, Stage::Assigned))
                }
                Unfinished::Release { packet_id, delivery } => {
                    let stage = Stage::AwaitingComplete;
                    let (settle_explicit, has_place) = (false, false);
                    (*packet_id, Flight { delivery: *delivery, settle_explicit, has_place, stage })
                }
            };
            self.flights.insert(packet_id, flight);
        }
        self.unfinished = unfinished.into();
    }

    /// Deliveries that are out under a packet id.
    pub(super) fn flight_count(&self) -> usize {
        self.flights.len()
    }

    /// The broker has stored a batch of packet ids: they may go out.
    pub(super) fn on_assigned(&mut self, token: Token) {
        let number = TokenKind::Assign.number(token);
        if let Some(assigning) = self.assigning.take_if(|it| Some(it.number) == number) {
            self.ready.extend(assigning.batch);
        }
    }

    /// Takes the next packet id that is not in use [MQTT-2.2.1-4]. There is one while `room` is not 0.
    fn allocate(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if !self.flights.contains_key(&self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }

    /// How many deliveries may be begun now.
    fn room(&self) -> usize {
        let free_packet_ids = usize::from(u16::MAX) - self.flights.len();
        usize::from(self.quota).min(free_packet_ids)
    }

    /// How many of those that wait are begun now: those whose turn it is, as many as the client's window allows and as are soon written.
    fn beginnable(&self) -> usize {
        if !self.ready.is_empty() || self.assigning.is_some() {
            return 0;
        }
        let next = self.at_most_once.front().map_or(u64::MAX, |queued| queued.arrival);
        let mut bytes = 0;
        let in_turn = self.waiting.iter().take(self.room()).take_while(|queued| {
            let is_begun = queued.arrival < next && bytes < NUMBERED_BYTES_MAX;
            bytes += queued.held_bytes();
            is_begun
        });
        in_turn.count()
    }

    /// Returns true when the broker stores under which number a delivery goes out: all of a stored session's, and those of QoS 2 that
    /// a group must give to nobody else [MQTT-4.8.2-5].
    fn is_stored(&self, delivery: &DeliveryId, qos: QoS) -> bool {
        match delivery.source {
            DeliverySource::Live => false,
            DeliverySource::Reader(_) | DeliverySource::Retained(..) => self.is_persistent,
            DeliverySource::Group(_) => qos == QoS::ExactlyOnce,
        }
    }

    /// Ends a flight and gives its place in the window free, if it has one.
    fn land(&mut self, packet_id: u16) -> Option<Flight> {
        let flight = self.flights.remove(&packet_id)?;
        if flight.has_place {
            self.quota = self.window.min(self.quota + 1);
        }
        self.note_landing();
        Some(flight)
    }
}

impl Flight {
    fn of(delivery: &Delivery, stage: Stage) -> Flight {
        let settle_explicit = delivery.settle_explicit;
        Flight { delivery: delivery.id, settle_explicit, has_place: true, stage }
    }
}

impl Queued {
    /// Returns what is left of the message's expiry after the wait here [MQTT-3.3.2-6], or `Err` when nothing is [MQTT-3.3.2-5].
    fn expiry_left_s(&self, now: Millis) -> Result<Option<u32>, ()> {
        let Some(expiry_s) = self.delivery.message.expiry_s else { return Ok(None) };
        let waited_ms = now.0.saturating_sub(self.since.0);
        match waited_ms >= 1_000 * u64::from(expiry_s) {
            true => Err(()),
            false => Ok(Some(expiry_s - (waited_ms / 1_000) as u32)),
        }
    }

    /// What is sent again may have expired meanwhile: a second is the least that can be said.
    fn expiry_to_send_s(&self, now: Millis) -> Option<u32> {
        self.expiry_left_s(now).unwrap_or(Some(1))
    }
}

fn header(delivery: &Delivery, packet_id: u16, dup: bool) -> PublishHeader<'_> {
    PublishHeader {
        topic: delivery.message.topic.as_bytes(),
        qos: delivery.qos,
        retain: delivery.retain,
        dup,
        packet_id,
    }
}

/// Returns more than a delivery can have as a packet.
fn bytes_bound(delivery: &Delivery) -> usize {
    const HEADERS: usize = 1 + 4 + 2 + 2 + 4;
    let message = &delivery.message;
    let body = message.topic.as_bytes().len() + message.payload.len();
    HEADERS + body + property_bytes_bound(delivery)
}

/// Writes a delivery's property list into `scratch`; leaves it empty before 5.0.
fn put_section(
    delivery: &Delivery,
    expiry_s: Option<u32>,
    version: Version,
    scratch: &mut BytesMut,
) {
    scratch.clear();
    if version.is_v5() {
        put_delivery_properties(delivery, expiry_s, scratch);
    }
}

impl MqttConnection {
    pub(super) fn on_deliver(&mut self, delivery: Delivery) {
        if self.may_write_at_once(&delivery) {
            let mut out = std::mem::take(&mut self.answers);
            self.write(&delivery, delivery.message.expiry_s, 0, false, &mut out);
            self.answers = out;
            return;
        }
        self.outbound.arrivals += 1;
        let arrival = self.outbound.arrivals;
        let queued = Queued { arrival, since: self.now(), delivery };
        let Some(queued) = self.afford(queued) else { return };
        self.outbound.note_arrival(&queued);
        match queued.delivery.qos {
            QoS::AtMostOnce => self.outbound.at_most_once.push_back(queued),
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.outbound.waiting.push_back(queued),
        }
    }

    /// Returns true when a delivery need not queue: nobody settles it, nothing is before it, and little is unsent.
    /// The share of `answers` it may take is small so that deliveries alone never stop the input.
    fn may_write_at_once(&self, delivery: &Delivery) -> bool {
        delivery.qos == QoS::AtMostOnce
            && delivery.id.source == DeliverySource::Live
            && self.answers.len() < self.settings.answer_bytes_max / 8
            && !self.outbound.is_congested
            && self.outbound.at_most_once.is_empty()
            && self.outbound.ready.is_empty()
            && self.state == State::Open
            && self.client.packet_bytes_max == usize::MAX
            && delivery.message.expiry_s != Some(0)
    }

    /// Gives packet ids to what is next of what waits, as the window allows.
    pub(super) fn fill_window(&mut self) {
        if !self.outbound.unfinished.is_empty() {
            self.resend_unfinished();
        }
        if !self.outbound.unfinished.is_empty() {
            return;
        }
        let count = self.outbound.beginnable();
        if count == 0 {
            return;
        }
        let outbound = &self.outbound;
        let must_wait = outbound.waiting.iter().take(count).any(|queued| {
            let Delivery { id, qos, .. } = &queued.delivery;
            *qos == QoS::ExactlyOnce && outbound.is_stored(id, *qos)
        });
        let (mut entries, mut batch) = (Vec::new(), VecDeque::new());
        for _ in 0..count {
            let next = match is_planted(PlantedBug::NewestFirst) {
                true => self.outbound.waiting.pop_back(),
                false => self.outbound.waiting.pop_front(),
            };
            let Some(queued) = next else { break };
            if let Some(outcome) = self.undeliverable(&queued) {
                self.give_up(queued.delivery.id, outcome);
                continue;
            }
            let ready = self.assign(queued, &mut entries);
            match must_wait {
                true => batch.push_back(ready),
                false => self.outbound.ready.push_back(ready),
            }
        }
        self.submit_assignment(entries, batch, must_wait);
    }

    fn assign(&mut self, queued: Queued, entries: &mut Vec<(u16, DeliveryId)>) -> Ready {
        let packet_id = self.outbound.allocate();
        self.outbound.quota -= 1;
        let flight = Flight::of(&queued.delivery, Stage::Assigned);
        self.outbound.flights.insert(packet_id, flight);
        if self.outbound.is_stored(&flight.delivery, queued.delivery.qos) {
            entries.push((packet_id, flight.delivery));
        }
        Ready { packet_id, dup: false, queued }
    }

    /// Tells the broker which packet ids a persistent session or a group uses. QoS 2 must not be sent under a number that
    /// is not stored: after a restart the client could take another message for it, or another client get the same.
    fn submit_assignment(
        &mut self,
        entries: Vec<(u16, DeliveryId)>,
        batch: VecDeque<Ready>,
        must_wait: bool,
    ) {
        if entries.is_empty() {
            self.outbound.ready.extend(batch);
            return;
        }
        let token = must_wait.then(|| {
            self.outbound.assignments += 1;
            let number = self.outbound.assignments;
            self.outbound.assigning = Some(Assigning { number, batch });
            TokenKind::Assign.token(number)
        });
        self.commands.push_back(Command::Assign { token, entries });
    }

    /// [MQTT-4.4.0-1]: PUBLISH again with DUP and PUBREL again, under their numbers, in their order.
    fn resend_unfinished(&mut self) {
        while let Some(item) = self.outbound.unfinished.front() {
            if matches!(item, Unfinished::Publish { .. }) && self.outbound.quota == 0 {
                return;
            }
            match self.outbound.unfinished.pop_front() {
                Some(Unfinished::Publish { packet_id, delivery }) => {
                    let queued = Queued { arrival: 0, since: self.now(), delivery };
                    self.outbound.quota -= 1;
                    self.outbound.ready.push_back(Ready { packet_id, dup: true, queued });
                }
                Some(Unfinished::Release { packet_id, .. }) => {
                    self.send_ack(AckKind::PubRel, packet_id, ReasonCode::SUCCESS, None);
                }
                None => return,
            }
        }
    }

    /// Returns how to settle what the client must not get: expired [MQTT-3.3.2-5], or larger than it takes, which counts as
    /// delivered [MQTT-3.1.2-25]. Expired entries of a queue go back to it: it may have to dead-letter them.
    fn undeliverable(&mut self, queued: &Queued) -> Option<Outcome> {
        if queued.expiry_left_s(self.now()).is_err() {
            return Some(match queued.delivery.id.source {
                DeliverySource::Group(_) => Outcome::Released,
                DeliverySource::Live | DeliverySource::Reader(_) | DeliverySource::Retained(..) => {
                    Outcome::Accepted
                }
            });
        }
        (!self.fits(queued)).then_some(Outcome::Accepted)
    }

    fn fits(&mut self, queued: &Queued) -> bool {
        let packet_bytes_max = self.client.packet_bytes_max;
        if packet_bytes_max == usize::MAX || bytes_bound(&queued.delivery) <= packet_bytes_max {
            return true;
        }
        let message = &queued.delivery.message;
        let version = self.client.version;
        let scratch = &mut self.outbound.scratch;
        put_section(&queued.delivery, queued.delivery.message.expiry_s, version, scratch);
        let header = header(&queued.delivery, 0, false);
        publish_bytes(&header, scratch, &message.payload, version) <= packet_bytes_max
    }

    /// Ends a delivery that is not sent.
    fn give_up(&mut self, delivery: DeliveryId, outcome: Outcome) {
        self.counters.deliveries_dropped += 1;
        self.settle(delivery, outcome);
    }

    fn settle(&mut self, delivery: DeliveryId, outcome: Outcome) {
        if delivery.source != DeliverySource::Live {
            self.commands.push_back(Command::Settle { delivery, outcome });
        }
    }

    /// Writes deliveries until `out` holds `limit` bytes.
    pub(super) fn transmit_deliveries(&mut self, out: &mut BytesMut, limit: usize) {
        while out.len() < limit {
            if self.outbound.ready.is_empty() && !self.outbound.waiting.is_empty() {
                self.fill_window();
            }
            let ready = self.outbound.ready.front().map(|ready| ready.queued.arrival);
            let plain = self.outbound.at_most_once.front().map(|queued| queued.arrival);
            match (ready, plain) {
                (None, None) => return,
                (Some(ready), Some(plain)) if ready < plain => self.transmit_ready(out),
                (Some(_), None) => self.transmit_ready(out),
                (_, Some(_)) => self.transmit_at_most_once(out),
            }
        }
    }

    fn transmit_at_most_once(&mut self, out: &mut BytesMut) {
        let Some(queued) = self.outbound.at_most_once.pop_front() else { return };
        self.outbound.release(&queued.delivery);
        self.outbound.note_overtaking(&queued);
        if let Some(outcome) = self.undeliverable(&queued) {
            return self.give_up(queued.delivery.id, outcome);
        }
        let is_written =
            self.write(&queued.delivery, queued.expiry_to_send_s(self.now()), 0, false, out);
        if is_written && !queued.delivery.settle_explicit {
            self.settle(queued.delivery.id, Outcome::Accepted);
        }
    }

    fn transmit_ready(&mut self, out: &mut BytesMut) {
        let Some(Ready { packet_id, dup, queued }) = self.outbound.ready.pop_front() else {
            return;
        };
        // What was begun on an earlier connection does not expire, but may be too large for this one.
        let given_up = match dup {
            true => (!self.fits(&queued)).then_some(Outcome::Accepted),
            false => self.undeliverable(&queued),
        };
        if let Some(outcome) = given_up {
            self.outbound.land(packet_id);
            return self.give_up(queued.delivery.id, outcome);
        }
        if let Some(flight) = self.outbound.flights.get_mut(&packet_id) {
            flight.stage = match queued.delivery.qos {
                QoS::ExactlyOnce => Stage::AwaitingReceived,
                QoS::AtMostOnce | QoS::AtLeastOnce => Stage::AwaitingAck,
            };
        }
        let expiry_s = queued.expiry_to_send_s(self.now());
        self.write(&queued.delivery, expiry_s, packet_id, dup, out);
    }

    /// Appends a PUBLISH; false when no MQTT packet can be so long, which ends the delivery.
    fn write(
        &mut self,
        delivery: &Delivery,
        expiry_s: Option<u32>,
        packet_id: u16,
        dup: bool,
        out: &mut BytesMut,
    ) -> bool {
        let version = self.client.version;
        let topic = delivery.message.topic.as_bytes();
        let packet_bytes_max = self.client.packet_bytes_max;
        let may_define = || bytes_bound(delivery) + ALIAS_BYTES <= packet_bytes_max;
        let naming = self.outbound.aliases.name(topic, may_define);
        let scratch = &mut self.outbound.scratch;
        put_section(delivery, expiry_s, version, scratch);
        let mut header = header(delivery, packet_id, dup);
        match naming {
            Naming::Topic => {}
            Naming::Define(alias) => put_two(scratch, 0x23, alias),
            Naming::Alias(alias) => {
                put_two(scratch, 0x23, alias);
                header.topic = &[];
            }
        }
        let is_written =
            encode_publish(&header, scratch, &delivery.message.payload, version, out).is_ok();
        if is_written {
            self.counters.packets_sent += 1;
            self.counters.publishes_sent += 1;
            self.counters.payload_bytes_sent += delivery.message.payload.len() as u64;
        } else {
            self.outbound.aliases.forget();
            self.outbound.land(packet_id);
            self.give_up(delivery.id, Outcome::Accepted);
        }
        is_written
    }

    pub(super) fn on_puback(&mut self, ack: &Ack) -> Result<(), Violation> {
        match self.stage_of(ack.packet_id) {
            None => Ok(()),
            Some(Stage::AwaitingAck) => {
                self.finish(ack.packet_id, outcome_of(ack.reason));
                Ok(())
            }
            Some(_) => Err(Violation::protocol("PUBACK does not answer what was sent")),
        }
    }

    /// [MQTT-4.3.3-4]: PUBREL follows PUBREC, for persistent sessions once that is stored.
    pub(super) fn on_pubrec(&mut self, ack: &Ack) -> Result<(), Violation> {
        let packet_id = ack.packet_id;
        match self.stage_of(packet_id) {
            None if ack.reason.is_error() => {}
            None => {
                let reason = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
                self.send_ack(AckKind::PubRel, packet_id, reason, None);
            }
            Some(Stage::AwaitingReceived) if ack.reason.is_error() => {
                self.finish(packet_id, outcome_of(ack.reason));
            }
            Some(Stage::AwaitingReceived) => self.on_received(packet_id),
            Some(Stage::Storing) => {}
            Some(Stage::AwaitingComplete) => {
                self.send_ack(AckKind::PubRel, packet_id, ReasonCode::SUCCESS, None);
            }
            Some(Stage::Assigned | Stage::AwaitingAck) => {
                return Err(Violation::protocol("PUBREC does not answer what was sent"));
            }
        }
        Ok(())
    }

    fn on_received(&mut self, packet_id: u16) {
        let Some(flight) = self.outbound.flights.get_mut(&packet_id) else { return };
        flight.stage = Stage::Storing;
        let delivery = flight.delivery;
        match self.outbound.is_stored(&delivery, QoS::ExactlyOnce) {
            true => self.commands.push_back(Command::Received { packet_id }),
            false => self.on_received_stored(packet_id),
        }
    }

    pub(super) fn on_received_stored(&mut self, packet_id: u16) {
        if let Some(flight) = self.outbound.flights.get_mut(&packet_id)
            && flight.stage == Stage::Storing
        {
            flight.stage = Stage::AwaitingComplete;
            self.send_ack(AckKind::PubRel, packet_id, ReasonCode::SUCCESS, None);
        }
    }

    pub(super) fn on_pubcomp(&mut self, ack: &Ack) -> Result<(), Violation> {
        match self.stage_of(ack.packet_id) {
            None => Ok(()),
            Some(Stage::AwaitingComplete) => {
                self.finish(ack.packet_id, Outcome::Accepted);
                Ok(())
            }
            Some(_) => Err(Violation::protocol("PUBCOMP does not answer what was sent")),
        }
    }

    fn stage_of(&self, packet_id: u16) -> Option<Stage> {
        self.outbound.flights.get(&packet_id).map(|flight| flight.stage)
    }

    /// Frees the packet id; settles the delivery unless its subscription settles by address.
    fn finish(&mut self, packet_id: u16, outcome: Outcome) {
        if let Some(flight) = self.outbound.land(packet_id)
            && !flight.settle_explicit
        {
            self.settle(flight.delivery, outcome);
        }
    }
}

/// A receiver that answers with an error does not want the message again [MQTT-4.4.0-2].
fn outcome_of(reason: ReasonCode) -> Outcome {
    if reason.is_error() { Outcome::Rejected } else { Outcome::Accepted }
}
