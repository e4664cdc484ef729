//! Consumers of queues by name, and entries that are asked for one by one.
//!
//! Each is a membership of a group, under the number that its protocol chose. An entry that is asked for has a membership of its own,
//! so that the same place in two queues is never one delivery: the protocol's number stands for all of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::groups::Membership;
use super::{Client, Phase, Waiting};
use crate::auth::Reach;
use crate::broker::position;
use crate::model::consume::CONSUMERS_END;
use crate::model::{
    Consume, Delivery, Effect, Got, Millis, PartitionId, QoS, QueueName, Refusal, Selection, Token,
};
use crate::partition::request::{
    CARRIER_BYTES, ConsumerRequest, GetEntry, Join, Position, Request,
};

/// Bytes that were sent and that a group is not told of: a quarter of what its smallest windows have. Fewer hold nothing up.
const UNTOLD_BYTES_MAX: usize = 2 << 10;

/// The same of all consumers of a connection together: of what they may have together, which they would hold up.
const ALL_UNTOLD_BYTES_MAX: usize = 128 << 10;

/// What this connection consumes.
#[derive(Debug, Default)]
pub(super) struct Consuming {
    consumers: BTreeMap<u32, Consumer>,
    /// By membership, the protocol's number for who asked for an entry. Each is out, or on its way.
    gets: BTreeMap<u32, u32>,
    /// Consumers of which groups are to be told that deliveries were sent.
    untold: BTreeSet<u32>,
    /// Bytes that were sent since all groups were told.
    untold_bytes: usize,
}

#[derive(Debug)]
struct Consumer {
    queue: QueueName,
    partition: PartitionId,
    /// Deliveries that are not settled.
    out: usize,
    /// Bytes of those that its group takes for being in memory, in its order. What it does with what it is told of
    /// is done here too, so that both count the same.
    kept: VecDeque<usize>,
    /// How many of them were sent, and their bytes.
    sent: (usize, usize),
    is_stopped: bool,
}

impl Consumer {
    fn delivered(&mut self, delivery: &Delivery) {
        self.out += 1;
        self.kept.push_back(delivery.message.len_bytes() + CARRIER_BYTES as usize);
    }

    fn sent(&mut self, count: u32) {
        let (before, _) = self.sent;
        let count = (count as usize).min(self.kept.len() - before);
        self.sent.0 += count;
        self.sent.1 += self.kept.range(before..before + count).sum::<usize>();
    }

    fn settled(&mut self) {
        self.out = self.out.saturating_sub(1);
        // Its group sees for itself that what is settled was sent.
        while self.kept.len() > self.out {
            self.leaves_memory();
        }
    }

    /// The oldest is known to be sent.
    fn leaves_memory(&mut self) {
        let bytes = self.kept.pop_front().unwrap_or(0);
        if self.sent.0 > 0 {
            self.sent = (self.sent.0 - 1, self.sent.1 - bytes);
        }
    }

    /// Returns how many were sent that its group does not know of.
    fn tell(&mut self) -> u32 {
        let (count, _) = self.sent;
        (0..count).for_each(|_| self.leaves_memory());
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

impl Client {
    pub(super) fn consume(&mut self, now: Millis, consume: &Consume) {
        let position = match self.may_consume(now, consume) {
            Ok(position) => position,
            Err(refusal) => {
                let (token, result) = (consume.token, Err(refusal));
                return self.effects.push_back(Effect::Consuming { token, result });
            }
        };
        let Consume { consumer, queue, group, own, credit, is_exclusive, .. } = consume;
        let partition = self.placement.queue(queue);
        let consuming = self.consuming.get_or_insert_default();
        let new = Consumer {
            queue: queue.clone(),
            partition,
            out: 0,
            kept: VecDeque::new(),
            sent: (0, 0),
            is_stopped: false,
        };
        consuming.consumers.insert(*consumer, new);
        self.memberships.insert(*consumer, Membership::of_queue(partition));
        let answer = Waiting::Consuming { token: consume.token, consumer: *consumer };
        let token = self.wait_for(answer);
        let join = Join {
            membership: *consumer,
            reads: Selection::Queue(queue.clone()),
            group: group.clone(),
            own: own.clone(),
            filter: queue.filter(),
            position,
            client_id: self.identity.client_id.clone(),
            expiry_s: 0,
            qos: QoS::AtLeastOnce,
            retain_as_published: false,
            subscription_id: 0,
            settle_explicit: false,
            credit: *credit,
            is_named: true,
            is_exclusive: *is_exclusive,
            token,
        };
        self.request(partition, Request::Join(Box::new(join)));
    }

    fn may_consume(&self, now: Millis, consume: &Consume) -> Result<Position, Refusal> {
        debug_assert!(consume.consumer < CONSUMERS_END, "numbers from there on are the broker's");
        self.standing.may_settle(&consume.queue, Reach::All)?;
        let consumers = self.consuming.as_ref().map_or(0, |consuming| consuming.consumers.len());
        if self.subscriptions.len() + consumers >= self.limits.subscriptions_max {
            return Err(Refusal::Quota { limit: "limits.subscriptions_per_client_max" });
        }
        match &consume.position {
            None => Ok(Position::Resume),
            Some(text) => position::parse(&String::from_utf8_lossy(text), now),
        }
    }

    /// A consumer stands, or does not.
    pub(super) fn is_consuming(
        &mut self,
        token: Token,
        consumer: u32,
        result: Result<(), Refusal>,
    ) {
        if result.is_err() {
            self.memberships.remove(&consumer);
            self.forget_consumer(consumer);
        }
        self.effects.push_back(Effect::Consuming { token, result });
    }

    pub(super) fn grant(&mut self, consumer: u32, count: u32) {
        let Some(granted) = self.consumer_mut(consumer) else { return };
        let to = granted.partition;
        let grant = ConsumerRequest::Grant { membership: consumer, count };
        self.request(to, Request::Consumer(grant));
    }

    pub(super) fn sent(&mut self, consumer: u32, count: u32) {
        let Some(consuming) = &mut self.consuming else { return };
        let Some(sender) = consuming.consumers.get_mut(&consumer) else { return };
        let (_, before) = sender.sent;
        sender.sent(count);
        let (_, bytes) = sender.sent;
        if bytes >= UNTOLD_BYTES_MAX {
            consuming.untold.insert(consumer);
        }
        consuming.untold_bytes += bytes - before;
        if consuming.untold_bytes >= ALL_UNTOLD_BYTES_MAX {
            consuming.untold_bytes = 0;
            let have_sent = consuming.consumers.iter().filter(|(_, it)| it.sent.0 > 0);
            consuming.untold.extend(have_sent.map(|(consumer, _)| *consumer));
        }
    }

    /// Tells groups what was sent since they were told.
    pub(super) fn tell_sent(&mut self) {
        let Some(consuming) = &mut self.consuming else { return };
        for membership in std::mem::take(&mut consuming.untold) {
            let Some(sender) = consuming.consumers.get_mut(&membership) else { continue };
            let count = sender.tell();
            if count > 0 {
                let sent = ConsumerRequest::Sent { membership, count };
                self.requests.push_back((sender.partition, Request::Consumer(sent)));
            }
        }
    }

    pub(super) fn stop_consuming(&mut self, token: Token, consumer: u32) {
        let Some(stopping) = self.consumer_mut(consumer) else {
            return self.effects.push_back(Effect::Stopped { token });
        };
        let to = stopping.partition;
        let token = self.wait_for(Waiting::Stopping { token, consumer });
        let stop = ConsumerRequest::Stop { membership: consumer, token };
        self.request(to, Request::Consumer(stop));
    }

    /// A consumer gets nothing more.
    pub(super) fn has_stopped(&mut self, token: Token, consumer: u32) {
        if let Some(stopped) = self.consumer_mut(consumer) {
            stopped.is_stopped = true;
        }
        self.forget_if_over(consumer);
        self.effects.push_back(Effect::Stopped { token });
    }

    /// A number is used no more: what it stands for goes back.
    pub(super) fn leave(&mut self, consumer: u32) {
        if self.forget_consumer(consumer) {
            self.end_membership(consumer);
        }
        let Some(consuming) = &self.consuming else { return };
        let got = consuming.gets.iter().filter(|(_, by)| **by == consumer);
        for membership in got.map(|(membership, _)| *membership).collect::<Vec<_>>() {
            self.forget_get(membership);
            self.end_membership(membership);
        }
    }

    pub(super) fn get(
        &mut self,
        token: Token,
        (consumer, queue, group): (u32, &QueueName, &QueueName),
    ) {
        if let Err(refusal) = self.standing.may_settle(queue, Reach::All) {
            return self.effects.push_back(Effect::Got { token, result: Err(refusal) });
        }
        let membership = self.new_number();
        let partition = self.placement.queue(queue);
        self.consuming.get_or_insert_default().gets.insert(membership, consumer);
        self.memberships.insert(membership, Membership::of_queue(partition));
        let token = self.wait_for(Waiting::Getting { token, membership });
        let (queue, group) = (queue.clone(), group.clone());
        let get = ConsumerRequest::Get(Box::new(GetEntry { membership, queue, group, token }));
        self.request(partition, Request::Consumer(get));
    }

    /// An entry that was asked for has come, or there is none.
    pub(super) fn has_got(&mut self, token: Token, result: Result<Option<Box<Got>>, Refusal>) {
        let Some(Waiting::Getting { token, membership }) = self.waiting.remove(&token) else {
            return;
        };
        let is_wanted = matches!(self.phase, Phase::Open)
            && self.consuming.as_ref().is_some_and(|it| it.gets.contains_key(&membership));
        let result = match result {
            // Who asked has left meanwhile; where it is asked of a group that was not there yet, before the entry was out.
            Ok(Some(got)) if !is_wanted => {
                let (to, left) = (got.delivery.id.partition, membership);
                let leave = Request::Leave { membership: left, expiry_s: 0, token: None };
                self.request(to, leave);
                Ok(None)
            }
            Ok(Some(got)) if !self.standing.may_receive(&got.delivery.message.topic) => {
                self.forget_get(membership);
                self.end_membership(membership);
                Err(Refusal::NotAuthorized)
            }
            Ok(Some(got)) => Ok(Some(got)),
            nothing => {
                self.forget_get(membership);
                self.memberships.remove(&membership);
                nothing
            }
        };
        self.effects.push_back(Effect::Got { token, result });
    }

    /// Counts a delivery of a group; false for one that came on its way to a consumer that has left.
    pub(super) fn takes_part(&mut self, membership: u32, delivery: &Delivery) -> bool {
        if membership >= CONSUMERS_END {
            return true;
        }
        match self.consumer_mut(membership) {
            Some(consumer) => {
                consumer.delivered(delivery);
                true
            }
            None => false,
        }
    }

    /// A delivery of a group is over.
    pub(super) fn consumed(&mut self, membership: u32) {
        self.settling(membership);
        self.has_settled(membership);
    }

    /// A delivery of a group is about to be over, as its group is told.
    pub(super) fn settling(&mut self, membership: u32) {
        if let Some(consumer) = self.consumer_mut(membership) {
            consumer.settled();
        }
    }

    /// A delivery of a group was settled: who is stopped and has nothing out is over, and so is who asked for one entry.
    pub(super) fn has_settled(&mut self, membership: u32) {
        if self.consuming.is_none() {
            return;
        }
        if membership < CONSUMERS_END {
            self.forget_if_over(membership);
        } else if self.forget_get(membership) {
            self.memberships.remove(&membership);
        }
    }

    /// The queue that a consumer reads.
    pub(super) fn queue_of(&self, membership: u32) -> Option<&QueueName> {
        Some(&self.consuming.as_ref()?.consumers.get(&membership)?.queue)
    }

    /// A queue is gone that a consumer read, or that an entry was out of.
    pub(super) fn consumer_is_gone(&mut self, membership: u32) {
        let is_stopped = self.consumer_mut(membership).is_some_and(|it| it.is_stopped);
        if self.forget_consumer(membership) {
            self.memberships.remove(&membership);
            if !is_stopped {
                self.effects.push_back(Effect::ConsumerEnded { consumer: membership });
            }
        } else if self.forget_get(membership) {
            self.memberships.remove(&membership);
        }
    }

    /// Ends a consumer whose client may not read its queue any more.
    pub(super) fn end_consumer(&mut self, membership: u32) {
        if self.forget_consumer(membership) {
            self.effects.push_back(Effect::ConsumerEnded { consumer: membership });
        }
        self.end_membership(membership);
    }

    /// Lists the consumers whose client may not read their queues.
    pub(super) fn forbidden_consumers(&self) -> Vec<u32> {
        let consumers = self.consuming.iter().flat_map(|consuming| &consuming.consumers);
        let forbidden =
            consumers.filter(|(_, it)| self.standing.may_settle(&it.queue, Reach::All).is_err());
        forbidden.map(|(consumer, _)| *consumer).collect()
    }

    fn consumer_mut(&mut self, consumer: u32) -> Option<&mut Consumer> {
        self.consuming.as_mut()?.consumers.get_mut(&consumer)
    }

    /// One that is stopped and has nothing out is over, as it is for its group.
    fn forget_if_over(&mut self, consumer: u32) {
        if self.consumer_mut(consumer).is_some_and(|it| it.is_stopped && it.out == 0) {
            self.forget_consumer(consumer);
            self.memberships.remove(&consumer);
        }
    }

    fn forget_consumer(&mut self, consumer: u32) -> bool {
        let consuming = self.consuming.as_mut();
        consuming.is_some_and(|it| it.consumers.remove(&consumer).is_some())
    }

    fn forget_get(&mut self, membership: u32) -> bool {
        self.consuming.as_mut().is_some_and(|it| it.gets.remove(&membership).is_some())
    }
}
