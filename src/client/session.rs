//! What a client remembers of its session across connections (MQTT 5 §4.1, the client's half).
//!
//! Publishes that are sent and not finished, in their order, and QoS 2 deliveries that were taken and not released. Pure and
//! complete: a client that carries it over a lost connection, and a server that does the same, deliver every QoS 2 message
//! exactly once. Sending and receiving are `machine.rs`.

use std::collections::BTreeMap;

use crate::model::QoS;
use crate::planted::{PlantedBug, is_planted};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::Publish;

/// The state of one session. Cheap when nothing is under way.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Counts connections, so that acknowledgements of an earlier one are known.
    connection: u32,
    last_packet_id: u16,
    next_sequence: u64,
    /// By the order in which they were first sent [MQTT-4.6.0-1].
    outgoing: BTreeMap<u64, Outgoing>,
    /// Packet id to sequence.
    sequences: BTreeMap<u16, u64>,
    /// QoS 2 deliveries between the first PUBLISH and PUBREL, by packet id.
    incoming: BTreeMap<u16, Reception>,
}

/// A publish of QoS 1 or 2 that is not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// The caller's name for it.
    pub token: u64,
    /// As first sent.
    pub publish: Publish,
    /// How far it is.
    pub stage: Stage,
}

/// How far a publish is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// PUBLISH goes out until it is acknowledged.
    Publish,
    /// PUBREC has come with this reason: only PUBREL may go out [MQTT-4.3.3-6].
    Release(ReasonCode),
}

/// How far a QoS 2 delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reception {
    /// The caller has it and did not acknowledge it; it last came in on this connection.
    Delivered { connection: u32 },
    /// The caller acknowledged it: what comes under this number is a copy.
    Taken,
}

/// What to do about a QoS 2 PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Hand it to the caller.
    New,
    /// A copy of what the caller has and did not acknowledge: wait for that.
    Waiting,
    /// A copy of what the caller acknowledged: answer PUBREC [MQTT-4.3.3-10].
    Taken,
}

/// What to do about a PUBREC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterReceived {
    /// Answer PUBREL.
    Release,
    /// The publish ended with an error: nothing to answer.
    Finished(u64),
    /// The number is not known: answer PUBREL with 0x92.
    Unknown,
}

impl Session {
    /// Returns how many publishes are sent and not finished.
    pub fn unfinished_count(&self) -> usize {
        self.outgoing.len()
    }

    /// Returns the tokens of the publishes that are sent and not finished, in their order.
    pub fn unfinished(&self) -> impl Iterator<Item = u64> {
        self.outgoing.values().map(|outgoing| outgoing.token)
    }

    /// Returns the packet ids of QoS 2 publishes that are not finished, each with whether PUBREC has come.
    pub fn exactly_once_publishes(&self) -> impl Iterator<Item = (u16, bool)> {
        let exactly_once = |it: &&Outgoing| it.publish.qos == QoS::ExactlyOnce;
        self.outgoing
            .values()
            .filter(exactly_once)
            .map(|it| (it.publish.packet_id, it.stage != Stage::Publish))
    }

    /// Returns the packet ids of QoS 2 deliveries that have come and are not released.
    pub fn exactly_once_deliveries(&self) -> impl Iterator<Item = u16> {
        self.incoming.keys().copied()
    }

    /// Begins a connection and returns its number.
    pub(super) fn begin_connection(&mut self) -> u32 {
        self.connection += 1;
        self.connection
    }

    /// Forgets everything, because the server has [MQTT-3.2.2-5]; returns the tokens of publishes whose fate is unknown.
    pub(super) fn forget(&mut self) -> Vec<u64> {
        let tokens = self.unfinished().collect();
        self.outgoing.clear();
        self.sequences.clear();
        self.incoming.clear();
        tokens
    }

    /// Returns a packet id that no publish has and `taken` does not know [MQTT-2.2.1-3], `None` when all are used.
    pub(super) fn packet_id(&mut self, taken: impl Fn(u16) -> bool) -> Option<u16> {
        for _ in 0..u16::MAX {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let candidate = self.last_packet_id;
            if !self.sequences.contains_key(&candidate) && !taken(candidate) {
                return Some(candidate);
            }
        }
        None
    }

    /// Notes a publish of QoS 1 or 2 with its packet id; returns its sequence.
    pub(super) fn begin_publish(&mut self, token: u64, publish: Publish) -> u64 {
        debug_assert!(publish.qos != QoS::AtMostOnce, "QoS 0 has no state");
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.sequences.insert(publish.packet_id, sequence);
        self.outgoing.insert(sequence, Outgoing { token, publish, stage: Stage::Publish });
        sequence
    }

    /// Returns every unfinished publish by its sequence.
    pub(super) fn sequences(&self) -> impl Iterator<Item = u64> {
        self.outgoing.keys().copied()
    }

    /// Returns one unfinished publish.
    pub(super) fn outgoing(&self, sequence: u64) -> Option<&Outgoing> {
        self.outgoing.get(&sequence)
    }

    /// PUBACK: returns the token of the publish that is finished, `None` when there is no such QoS 1 publish.
    pub(super) fn on_puback(&mut self, packet_id: u16) -> Option<u64> {
        self.finish(packet_id, |outgoing| outgoing.publish.qos == QoS::AtLeastOnce)
    }

    /// PUBREC: moves a QoS 2 publish on, or ends it when the reason is an error (MQTT 5 §4.3.3).
    pub(super) fn on_pubrec(&mut self, packet_id: u16, reason: ReasonCode) -> AfterReceived {
        let outgoing =
            self.sequences.get(&packet_id).and_then(|sequence| self.outgoing.get_mut(sequence));
        let Some(outgoing) = outgoing.filter(|it| it.publish.qos == QoS::ExactlyOnce) else {
            return AfterReceived::Unknown;
        };
        match outgoing.stage {
            Stage::Release(_) => AfterReceived::Release,
            Stage::Publish if reason.is_error() => {
                let token = self.finish(packet_id, |_| true).expect("it was just found");
                AfterReceived::Finished(token)
            }
            Stage::Publish => {
                outgoing.stage = Stage::Release(reason);
                AfterReceived::Release
            }
        }
    }

    /// PUBCOMP: returns the token of the publish that is finished and the reason of its PUBREC.
    pub(super) fn on_pubcomp(&mut self, packet_id: u16) -> Option<(u64, ReasonCode)> {
        let sequence = self.sequences.get(&packet_id)?;
        let Stage::Release(reason) = self.outgoing.get(sequence)?.stage else { return None };
        let token = self.finish(packet_id, |_| true)?;
        Some((token, reason))
    }

    fn finish(&mut self, packet_id: u16, fits: impl Fn(&Outgoing) -> bool) -> Option<u64> {
        let sequence = *self.sequences.get(&packet_id)?;
        if !fits(self.outgoing.get(&sequence)?) {
            return None;
        }
        self.sequences.remove(&packet_id);
        self.outgoing.remove(&sequence).map(|outgoing| outgoing.token)
    }

    /// A QoS 2 PUBLISH came in. The DUP flag does not matter: until PUBREL the number means one message.
    pub(super) fn on_publish(&mut self, packet_id: u16) -> Arrival {
        let connection = self.connection;
        match self.incoming.get_mut(&packet_id) {
            Some(_) if is_planted(PlantedBug::CopiesTaken) => Arrival::New,
            None => {
                self.incoming.insert(packet_id, Reception::Delivered { connection });
                Arrival::New
            }
            Some(Reception::Delivered { connection: last }) => {
                *last = connection;
                Arrival::Waiting
            }
            Some(Reception::Taken) => Arrival::Taken,
        }
    }

    /// The caller acknowledges a QoS 2 delivery; true when PUBREC may go out now, and not once the server asks again.
    pub(super) fn on_taken(&mut self, packet_id: u16) -> bool {
        let connection = self.connection;
        let Some(reception) = self.incoming.get_mut(&packet_id) else { return false };
        let Reception::Delivered { connection: last } = *reception else { return false };
        *reception = Reception::Taken;
        last == connection
    }

    /// The caller refuses a QoS 2 delivery with an error: the number is free again [MQTT-4.3.3-9]; as [`Session::on_taken`].
    pub(super) fn on_refused(&mut self, packet_id: u16) -> bool {
        match self.incoming.get(&packet_id) {
            Some(Reception::Delivered { connection }) if *connection == self.connection => {
                self.incoming.remove(&packet_id);
                true
            }
            _ => false,
        }
    }

    /// PUBREL: forgets the number; false when it was not known.
    pub(super) fn on_pubrel(&mut self, packet_id: u16) -> bool {
        self.incoming.remove(&packet_id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::mqtt::property::PropertyList;

    fn publish(packet_id: u16, qos: QoS) -> Publish {
        Publish {
            dup: false,
            qos,
            retain: false,
            topic: Bytes::from_static(b"t"),
            packet_id,
            properties: PropertyList::default(),
            payload: Bytes::new(),
        }
    }

    #[test]
    fn packet_ids_skip_zero_and_those_in_use() {
        let mut session = Session { last_packet_id: u16::MAX - 1, ..Session::default() };
        session.begin_publish(7, publish(1, QoS::AtLeastOnce));

        let ids: Vec<Option<u16>> = (0..3).map(|_| session.packet_id(|id| id == 2)).collect();

        assert_eq!(ids, [Some(65_535), Some(3), Some(4)]);
    }

    #[test]
    fn there_is_no_packet_id_when_all_are_in_use() {
        let mut session = Session::default();

        assert_eq!(session.packet_id(|_| true), None);
    }

    #[test]
    fn qos_1_ends_with_puback_and_only_once() {
        let mut session = Session::default();
        session.begin_publish(7, publish(1, QoS::AtLeastOnce));
        session.begin_publish(8, publish(2, QoS::ExactlyOnce));

        assert_eq!(session.on_puback(2), None, "QoS 2 is not acknowledged with PUBACK");
        assert_eq!(session.on_puback(1), Some(7));
        assert_eq!(session.on_puback(1), None);
        assert_eq!(session.unfinished().collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn qos_2_ends_with_pubcomp_after_pubrec_and_reports_the_reason_of_pubrec() {
        let mut session = Session::default();
        let sequence = session.begin_publish(7, publish(1, QoS::ExactlyOnce));

        assert_eq!(session.on_pubcomp(1), None, "PUBCOMP before PUBREC means nothing");
        let reason = ReasonCode::NO_MATCHING_SUBSCRIBERS;
        assert_eq!(session.on_pubrec(1, reason), AfterReceived::Release);
        assert_eq!(session.outgoing(sequence).map(|it| it.stage), Some(Stage::Release(reason)));
        assert_eq!(session.on_pubrec(1, ReasonCode::SUCCESS), AfterReceived::Release);
        assert_eq!(session.on_pubcomp(1), Some((7, reason)));
        assert_eq!(session.on_pubrec(1, reason), AfterReceived::Unknown);
    }

    #[test]
    fn qos_2_ends_at_once_when_pubrec_is_an_error() {
        let mut session = Session::default();
        session.begin_publish(7, publish(1, QoS::ExactlyOnce));

        let after = session.on_pubrec(1, ReasonCode::QUOTA_EXCEEDED);

        assert_eq!(after, AfterReceived::Finished(7));
        assert_eq!(session.unfinished_count(), 0);
    }

    #[test]
    fn a_qos_2_delivery_is_new_once_until_it_is_released() {
        let mut session = Session::default();
        session.begin_connection();

        assert_eq!(session.on_publish(5), Arrival::New);
        assert_eq!(session.on_publish(5), Arrival::Waiting);
        assert!(session.on_taken(5));
        assert_eq!(session.on_publish(5), Arrival::Taken);
        session.begin_connection();
        assert_eq!(session.on_publish(5), Arrival::Taken);
        assert!(session.on_pubrel(5));
        assert!(!session.on_pubrel(5));
        assert_eq!(session.on_publish(5), Arrival::New);
    }

    #[test]
    fn what_the_caller_takes_after_a_reconnect_is_answered_when_the_server_asks_again() {
        let mut session = Session::default();
        session.begin_connection();
        session.on_publish(5);
        session.on_publish(6);

        session.begin_connection();
        assert!(!session.on_taken(5), "the server has not sent it on this connection");
        assert_eq!(session.on_publish(5), Arrival::Taken);
        assert_eq!(session.on_publish(6), Arrival::Waiting);
        assert!(session.on_taken(6), "it was sent again before the caller took it");
    }

    #[test]
    fn forgetting_names_the_publishes_whose_fate_is_unknown() {
        let mut session = Session::default();
        session.begin_publish(9, publish(3, QoS::ExactlyOnce));
        session.begin_publish(4, publish(1, QoS::AtLeastOnce));
        session.on_publish(5);

        assert_eq!(session.forget(), [9, 4]);

        assert_eq!(session.unfinished_count(), 0);
        assert_eq!(session.on_publish(5), Arrival::New);
    }
}
