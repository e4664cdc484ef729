//! What goes to the client, in its order: answers as they were encoded, deliveries as they came, encoded when they are sent.
//!
//! A client that does not read keeps deliveries waiting, as many as the broker has on their way to each consumer: it sends no more before it
//! hears of some that they were sent. What the client sends is read all the same; answers that wait stop that.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;

use super::channels::Channel;
use super::codec::method::BasicDeliver;
use super::codec::{Method, ShortString, content};
use super::connection::AmqpConnection;
use super::envelope::{self, Envelope};
use super::settle::consumer_of;
use crate::model::{
    Command, Delivery, DeliveryId, DeliverySource, Message, Millis, Outcome, QueueName, TurnQueue,
};

/// Bytes of memory that carry one delivery's message.
const CARRIER_BYTES: usize = size_of::<Queued>() + size_of::<Message>();
/// Bytes on the wire beside a message, about: method, header and frames.
const FRAMES_BYTES: usize = 80;

/// What waits to be sent, before what was encoded last.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    lines: TurnQueue<Line>,
    /// Of answers among them.
    answer_bytes: usize,
    /// How many deliveries are among them, and the bytes of their messages.
    deliveries: usize,
    message_bytes: usize,
    /// Of each consumer what was written and the broker has not heard of.
    sent: BTreeMap<u32, u32>,
    is_congested: bool,
}

#[derive(Debug)]
enum Line {
    Answers(BytesMut),
    Delivery(Queued),
}

/// A delivery that has its tag and is not sent.
#[derive(Debug)]
struct Queued {
    channel: u16,
    tag: u64,
    since: Millis,
    consumer_tag: ShortString,
    queue: QueueName,
    /// Nobody acknowledges it.
    no_ack: bool,
    delivery: Delivery,
}

impl Outbox {
    /// Bytes of answers that wait.
    pub(super) fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// Bytes of everything that waits.
    pub(super) fn held_bytes(&self) -> usize {
        self.answer_bytes + self.message_bytes + self.deliveries * CARRIER_BYTES
    }

    /// About as many bytes as what waits has on the wire.
    fn written_bytes(&self) -> usize {
        self.answer_bytes + self.message_bytes + self.deliveries * FRAMES_BYTES
    }

    /// Forgets the deliveries of a channel.
    pub(super) fn forget(&mut self, channel: u16) {
        self.forget_where(|queued| queued.channel == channel);
    }

    /// Forgets those of a channel that would have to be acknowledged.
    pub(super) fn forget_entered(&mut self, channel: u16) {
        self.forget_where(|queued| queued.channel == channel && !queued.no_ack);
    }

    /// Forgets all deliveries.
    pub(super) fn forget_all(&mut self) {
        self.forget_where(|_| true);
    }

    fn forget_where(&mut self, is_forgotten: impl Fn(&Queued) -> bool) {
        let (deliveries, bytes) = (&mut self.deliveries, &mut self.message_bytes);
        self.lines.retain(|line| match line {
            Line::Delivery(queued) if is_forgotten(queued) => {
                *deliveries -= 1;
                *bytes -= queued.delivery.message.len_bytes();
                false
            }
            _ => true,
        });
    }

    fn push(&mut self, queued: Queued) {
        self.deliveries += 1;
        self.message_bytes += queued.delivery.message.len_bytes();
        self.lines.push_back(Line::Delivery(queued));
    }

    fn pop(&mut self) -> Option<Line> {
        let line = self.lines.pop_front()?;
        match &line {
            Line::Answers(answers) => self.answer_bytes -= answers.len(),
            Line::Delivery(queued) => {
                self.deliveries -= 1;
                self.message_bytes -= queued.delivery.message.len_bytes();
            }
        }
        Some(line)
    }
}

impl Queued {
    /// Copies the message out of what else is in memory with it.
    fn detach(&mut self) {
        self.delivery.message = Arc::new(self.delivery.message.detached());
    }
}

impl AmqpConnection {
    /// A delivery has come for a consumer. One whose consumer is gone goes back with it.
    pub(super) fn on_deliver(&mut self, delivery: Delivery) {
        let Some(number) = consumer_of(delivery.id) else { return };
        let Some(consumer) = self.consumers.get_mut(&number) else { return };
        consumer.note_arrival();
        let (channel, no_ack) = (consumer.channel, consumer.no_ack);
        let Some(state) = self.channels.get_mut(&channel) else { return };
        if no_ack || state.has_room() {
            self.hand_out(channel, number, delivery);
        } else {
            state.held.push_back(delivery);
        }
    }

    /// Gives a delivery its tag and its place behind what is to be sent.
    fn hand_out(&mut self, channel: u16, number: u32, delivery: Delivery) {
        let Some(consumer) = self.consumers.get_mut(&number) else { return };
        let consumer_tag = consumer.tag.clone();
        let (queue, no_ack) = (consumer.queue.clone(), consumer.no_ack);
        let tag = match no_ack {
            true => {
                consumer.out += 1;
                self.next_tag(channel)
            }
            false => self.enter(channel, number, delivery.id),
        };
        let since = self.now();
        let mut queued = Queued { channel, tag, since, consumer_tag, queue, no_ack, delivery };
        if self.outbox.is_congested {
            queued.detach();
        }
        if !self.answers.is_empty() {
            let answers = std::mem::take(&mut self.answers);
            self.outbox.answer_bytes += answers.len();
            self.outbox.lines.push_back(Line::Answers(answers));
        }
        self.outbox.push(queued);
    }

    /// Hands out what waited for room in its channel.
    pub(super) fn hand_out_held(&mut self, channel: u16) {
        while let Some(state) = self.channels.get_mut(&channel)
            && state.has_room()
            && let Some(delivery) = state.held.pop_front()
        {
            if let Some(number) = consumer_of(delivery.id) {
                self.hand_out(channel, number, delivery);
            }
        }
    }

    /// Gives back what a consumer was delivered and the client has not been.
    pub(super) fn give_back_held(&mut self, channel: u16, number: u32) {
        let Some(Channel { held, .. }) = self.channels.get_mut(&channel) else { return };
        let of_consumer = |id: DeliveryId| id.source == DeliverySource::Group(number);
        let ids: Vec<DeliveryId> =
            held.iter().map(|it| it.id).filter(|id| of_consumer(*id)).collect();
        held.retain(|it| !of_consumer(it.id));
        for delivery in ids {
            self.commands.push_back(Command::Settle { delivery, outcome: Outcome::Released });
        }
    }

    /// Writes what waits, until there is enough.
    pub(super) fn transmit(&mut self, out: &mut BytesMut, limit: usize) {
        out.reserve(self.outbox.written_bytes().min(limit.saturating_sub(out.len())));
        while out.len() < limit {
            match self.outbox.pop() {
                Some(Line::Answers(answers)) => out.extend_from_slice(&answers),
                Some(Line::Delivery(queued)) => self.write(queued, out),
                None => {
                    out.extend_from_slice(&self.answers);
                    self.answers = BytesMut::new();
                    break;
                }
            }
        }
        self.tell_sent();
    }

    /// Tells the broker what was written, of those that are still out.
    fn tell_sent(&mut self) {
        for (consumer, count) in std::mem::take(&mut self.outbox.sent) {
            if self.consumers.contains_key(&consumer) {
                self.commands.push_back(Command::Sent { consumer, count });
            }
        }
    }

    fn write(&mut self, queued: Queued, out: &mut BytesMut) {
        let Queued { channel, tag, since, consumer_tag, queue, no_ack, delivery } = queued;
        let waited_s = self.now().0.saturating_sub(since.0) / 1_000;
        let message = &delivery.message;
        let expiry_s = message
            .expiry_s
            .map(|left| left.saturating_sub(u32::try_from(waited_s).unwrap_or(u32::MAX)));
        let Envelope { exchange, routing_key, properties } =
            envelope::of(&delivery, &queue, expiry_s);
        let redelivered = delivery.redelivered;
        let method =
            BasicDeliver { consumer_tag, delivery_tag: tag, redelivered, exchange, routing_key };
        Method::from(method).encode(channel, out);
        content::encode(channel, &properties, &message.payload, self.tuned.frame_bytes_max, out);
        self.counters.packets_sent += 1;
        self.counters.publishes_sent += 1;
        self.counters.payload_bytes_sent += message.payload.len() as u64;
        if no_ack {
            self.settle_written(delivery.id);
        } else if self.is_out(channel, tag)
            && let Some(consumer) = consumer_of(delivery.id)
        {
            *self.outbox.sent.entry(consumer).or_default() += 1;
        }
    }

    /// What nobody acknowledges is settled as it is written.
    fn settle_written(&mut self, delivery: DeliveryId) {
        let Some(number) = consumer_of(delivery) else { return };
        let Some(consumer) = self.consumers.get_mut(&number) else { return };
        consumer.out -= 1;
        self.commands.push_back(Command::Settle { delivery, outcome: Outcome::Accepted });
        self.leave_if_over(number);
    }

    /// The peer stopped reading, or began again: what waits keeps nothing else in memory.
    pub(super) fn on_congestion(&mut self, is_congested: bool) {
        self.outbox.is_congested = is_congested;
        if !is_congested {
            return;
        }
        for line in self.outbox.lines.iter_mut() {
            if let Line::Delivery(queued) = line {
                queued.detach();
            }
        }
        for channel in self.channels.values_mut() {
            for held in &mut channel.held {
                held.message = Arc::new(held.message.detached());
            }
        }
    }
}
