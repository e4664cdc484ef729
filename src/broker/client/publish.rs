//! Publishing: to the partition of the topic or the queue, and a copy to every other partition that has queues bound to the topic.
//!
//! Copies and the message itself are stored side by side, and the publisher is told when all are. A QoS 2 publish that must not be
//! stored twice goes to its topic last: only there does its packet id count as open, so a client that comes back in between sends it
//! again, and the partitions that have their copies keep one each.

use std::sync::Arc;

use super::route::LastQueue;
use super::tenure::Announcement;
use super::transaction::Part;
use super::{Client, Waiting, theirs};
use crate::broker::placement::{Beyond, Found, LastRoutes};
use crate::model::address::PublishAddress;
use crate::model::record::DedupKey;
use crate::model::{Effect, Input, Message, PartitionId, QoS, Refusal, Token};
use crate::partition::request::{Publish, Request, Target};
use crate::planted::{PlantedBug, is_planted};

/// What is under way of the client's publishes.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    /// The partitions of its last topic.
    found: Found,
    /// Who got its last publish to an exchange; most connections never have one.
    pub(super) routes: Option<Box<LastRoutes>>,
    /// Which queue got its last publish to one by its name.
    pub(super) queue: Option<Box<LastQueue>>,
    /// Whether QoS 2 exchanges may go on.
    pub(super) announcement: Announcement,
}

/// Where an unreleased QoS 2 publish is.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) home: PartitionId,
    pub(super) copies: Arc<[PartitionId]>,
}

/// A publish that several partitions store.
pub(super) struct Copies {
    token: Token,
    missing: usize,
    result: Result<bool, Refusal>,
    /// What goes out when the copies are stored.
    then: Option<(PartitionId, Publish)>,
    /// Where a refused one leaves its key behind.
    stored_at: Arc<[PartitionId]>,
    key: DedupKey,
}

impl Copies {
    /// One of several parts that are stored once.
    pub(super) fn of_parts(token: Token, missing: usize) -> Copies {
        let (stored_at, key) = (Arc::default(), DedupKey::default());
        Copies { token, missing, result: Ok(false), then: None, stored_at, key }
    }
}

/// A QoS 2 publish that is over in the partitions that have copies of it, before it is in the one that has the message: as long as it is
/// open there, whoever comes back ends it everywhere.
pub(super) struct Releasing {
    missing: usize,
    /// The topic's partition; `None` where it has nothing.
    home: Option<(PartitionId, u32)>,
    then: Effect,
}

impl Client {
    pub(super) fn publish(&mut self, token: Token, message: Arc<Message>, packet_id: Option<u16>) {
        let part = match Part::of(&message.properties) {
            Ok(part) => part,
            Err(refusal) => return self.refuse_publish(token, &message, refusal),
        };
        let (home, target, input) = match (self.target(&message), part) {
            (Ok((home, target, input)), Some(part)) => {
                let dedup = DedupKey::default();
                let tenure = self.tenure();
                let is_kept = false;
                let mut publish =
                    Publish { token: None, message, dedup, tenure, target, input, is_kept };
                self.sign(&mut publish);
                return self.gather_publish(part, token, home, publish);
            }
            (Ok(target), None) => target,
            (Err(refusal), Some(part)) => return self.fail_transaction(part, token, refusal),
            (Err(refusal), None) => return self.refuse_publish(token, &message, refusal),
        };
        let is_kept = target == Target::Topic && self.placement.keeps(&message);
        let beyond = match target {
            Target::Topic if packet_id.is_some() && is_planted(PlantedBug::NotCaptured) => {
                Beyond::default()
            }
            Target::Topic => {
                let is_unstored = message.qos == QoS::AtMostOnce && !message.retain && !is_kept;
                let Publishing { found, routes, .. } = &mut self.publishing;
                self.placement.beyond(&message, is_unstored, (found, routes))
            }
            _ => Beyond::default(),
        };
        let copies = beyond.partitions.clone();
        let dedup = match packet_id.filter(|_| self.identity.stored) {
            Some(packet_id) => {
                self.inbound.insert(packet_id, Open { home, copies: copies.clone() });
                let incarnation = match is_planted(PlantedBug::KeyedByConnection) {
                    false => self.identity.incarnation,
                    true => self.identity.epoch.0 as u32,
                };
                DedupKey { incarnation, seq: u32::from(packet_id) }
            }
            None => DedupKey::default(),
        };
        let tenure = self.tenure();
        let publish = Publish { token: None, message, dedup, tenure, target, input, is_kept };
        match copies.is_empty() {
            true => self.send_publish(home, token, publish),
            false => self.send_copies(home, &beyond, token, publish),
        }
    }

    /// Where a publish goes, and what it is named, or why it goes nowhere.
    fn target(
        &mut self,
        message: &Message,
    ) -> Result<(PartitionId, Target, Option<Input>), Refusal> {
        self.standing.may_publish(&message.topic)?;
        let (home, target) = match PublishAddress::of(&message.topic)? {
            PublishAddress::Topic => (self.placement.topic(&message.topic), Target::Topic),
            PublishAddress::Queue(name) => (self.placement.queue(&name), Target::Queue(name)),
            PublishAddress::Settle(..) | PublishAddress::Manage(_) => {
                let reason = "a verb is not a place to publish to".to_owned();
                return Err(Refusal::Invalid { reason });
            }
        };
        let input = Input::of(&self.standing.principal, &message.topic, &message.properties)?;
        Ok((home, target, input))
    }

    fn send_publish(&mut self, to: PartitionId, token: Token, mut publish: Publish) {
        self.sign(&mut publish);
        #[cfg(feature = "planted-bugs")]
        if self.store_later(to, token, &publish) {
            return;
        }
        publish.token = (publish.message.qos != QoS::AtMostOnce).then_some(theirs(token));
        if is_planted(PlantedBug::AskedInReverse) {
            return self.requests.push_front((to, Request::Publish(publish)));
        }
        self.request(to, Request::Publish(publish));
    }

    /// A deliberate defect: confirms a publish and keeps it back until the next checkpoint.
    #[cfg(feature = "planted-bugs")]
    fn store_later(&mut self, to: PartitionId, token: Token, publish: &Publish) -> bool {
        let is_kept_back = match publish.message.qos {
            QoS::AtMostOnce => false,
            QoS::AtLeastOnce => is_planted(PlantedBug::StoredLaterQos1),
            QoS::ExactlyOnce => is_planted(PlantedBug::StoredLaterQos2),
        };
        if is_kept_back {
            self.effects.push_back(Effect::Confirm { token, result: Ok(true) });
            let publish = Publish { token: Some(theirs(token)), ..publish.clone() };
            self.kept_back.push((to, Request::Publish(publish)));
        }
        is_kept_back
    }

    fn sign(&self, publish: &mut Publish) {
        if publish.message.publisher != self.identity.publisher {
            Arc::make_mut(&mut publish.message).publisher = self.identity.publisher;
        }
    }

    fn send_copies(
        &mut self,
        home: PartitionId,
        beyond: &Beyond,
        token: Token,
        mut publish: Publish,
    ) {
        self.sign(&mut publish);
        let key = publish.dedup;
        let copy_key = match key.seq {
            0 => key,
            seq => DedupKey { seq: seq | DedupKey::COPY, ..key },
        };
        let plain = publish.clone();
        let copy = |at, token| {
            let target = beyond.bound(at);
            Request::Publish(Publish { token, dedup: copy_key, target, ..plain.clone() })
        };
        // The partition of the topic stores one record for both, unless nothing but its queues wants the message.
        let is_shared = publish.is_stored();
        let others: Vec<PartitionId> =
            beyond.partitions.iter().copied().filter(|at| *at != home || !is_shared).collect();
        if is_shared {
            publish.target = beyond.topic(home);
        }
        if publish.message.qos == QoS::AtMostOnce {
            others.iter().for_each(|to| self.request(*to, copy(*to, None)));
            return self.request(home, Request::Publish(publish));
        }
        let whole = self.own_token();
        let is_last = key.seq != 0 && !others.is_empty();
        let missing = others.len() + usize::from(!is_last);
        for to in &others {
            let token = Some(self.wait_for(Waiting::CopyOf(whole)));
            self.request(*to, copy(*to, token));
        }
        let mut then = Some((home, publish));
        if !is_last && let Some((home, publish)) = then.take() {
            let token = Some(self.wait_for(Waiting::CopyOf(whole)));
            self.request(home, Request::Publish(Publish { token, ..publish }));
        }
        let stored_at = if key.seq == 0 { Arc::default() } else { others.into() };
        let result = Ok(false);
        let copies = Copies { token, missing, result, then, stored_at, key: copy_key };
        self.waiting.insert(whole, Waiting::Copies(Box::new(copies)));
    }

    /// One of several partitions has stored its part of a publish, or not.
    pub(super) fn copy_confirmed(&mut self, token: Token, result: Result<bool, Refusal>) {
        let whole = match self.waiting.remove(&token) {
            Some(Waiting::CopyOf(whole)) => whole,
            Some(Waiting::PublishOf(whole, publish)) => {
                return self.publish_taken(whole, publish, &result);
            }
            _ => return,
        };
        let Some(Waiting::Copies(copies)) = self.waiting.get_mut(&whole) else { return };
        copies.missing -= 1;
        copies.result = match (std::mem::replace(&mut copies.result, Ok(false)), result) {
            (Err(refusal), _) | (Ok(_), Err(refusal)) => Err(refusal),
            (Ok(before), Ok(here)) => Ok(before || here),
        };
        if copies.missing > 0 {
            return;
        }
        if let (Ok(_), Some((home, publish))) = (&copies.result, copies.then.take()) {
            copies.missing = 1;
            let token = Some(self.wait_for(Waiting::CopyOf(whole)));
            return self.request(home, Request::Publish(Publish { token, ..publish }));
        }
        let Some(Waiting::Copies(copies)) = self.waiting.remove(&whole) else { return };
        let Copies { token, result, stored_at, key, .. } = *copies;
        match result {
            // The number is free when the client hears of it: the next publish under it is no copy of this one.
            Err(_) if !stored_at.is_empty() => {
                let copies = stored_at.iter().map(|partition| (*partition, key.seq)).collect();
                self.release_copies(copies, None, Effect::Confirm { token, result });
            }
            result => self.confirm(token, result),
        }
    }

    pub(super) fn refuse_publish(&mut self, token: Token, message: &Message, refusal: Refusal) {
        if message.qos != QoS::AtMostOnce {
            self.confirm(token, Err(refusal));
        }
    }

    pub(super) fn confirm(&mut self, token: Token, result: Result<bool, Refusal>) {
        self.effects.push_back(Effect::Confirm { token, result });
    }

    pub(super) fn release(&mut self, packet_id: u16) {
        let Some(Open { home, copies }) = self.inbound.remove(&packet_id) else {
            return self.effects.push_back(Effect::Released { packet_id });
        };
        let seq = u32::from(packet_id);
        if is_planted(PlantedBug::ReleasedUnstored) {
            self.effects.push_back(Effect::Released { packet_id });
            return self.request(home, self.released(None, seq));
        }
        let others = copies.iter().filter(|partition| **partition != home);
        let others = others.map(|partition| (*partition, seq | DedupKey::COPY)).collect();
        self.release_copies(others, Some((home, seq)), Effect::Released { packet_id });
    }

    fn release_copies(
        &mut self,
        copies: Vec<(PartitionId, u32)>,
        home: Option<(PartitionId, u32)>,
        then: Effect,
    ) {
        let releasing = Releasing { missing: copies.len(), home, then };
        if copies.is_empty() {
            return self.release_home(releasing);
        }
        let whole = self.own_token();
        self.waiting.insert(whole, Waiting::Releasing(Box::new(releasing)));
        for (partition, seq) in copies {
            let token = Some(self.wait_for(Waiting::ReleaseOf(whole)));
            self.request(partition, self.released(token, seq));
        }
    }

    fn release_home(&mut self, releasing: Releasing) {
        let Releasing { home, then, .. } = releasing;
        let Some((home, seq)) = home else { return self.effects.push_back(then) };
        let token = Some(self.wait_for(Waiting::Effects(vec![then])));
        self.request(home, self.released(token, seq));
    }

    /// A partition has forgotten a QoS 2 publish.
    pub(super) fn part_released(&mut self, whole: Token, result: &Result<(), Refusal>) {
        if result.is_err() {
            // What it waits for was not stored: the connection can only end.
            self.waiting.remove(&whole);
            return self.effects.push_back(Effect::ShuttingDown);
        }
        let Some(Waiting::Releasing(releasing)) = self.waiting.get_mut(&whole) else { return };
        releasing.missing -= 1;
        if releasing.missing == 0
            && let Some(Waiting::Releasing(releasing)) = self.waiting.remove(&whole)
        {
            self.release_home(*releasing);
        }
    }

    fn released(&self, token: Option<Token>, seq: u32) -> Request {
        Request::Release {
            token,
            publisher: self.identity.publisher,
            incarnation: self.identity.incarnation,
            packet_ids: vec![seq],
            tenure: self.tenure(),
        }
    }

    /// Where an earlier connection's unreleased publish may be: its home is known, its copies are not.
    pub(super) fn open_at(&self, home: PartitionId) -> Open {
        let copies = match self.placement.has_bindings() {
            true => self.placement.data().collect(),
            false => Arc::default(),
        };
        Open { home, copies }
    }
}
