//! Consumers, and messages that are asked for one by one (AMQP 0.9.1 §1.8.3).
//!
//! A consumer has out what its prefetch allows, which the broker sees to. Where the channel has a limit its consumers share it: each is
//! granted what is left, and what comes for several of them at once waits here.

use bytes::Bytes;

use super::ReplyCode;
use super::arguments::{self, Arguments, Named, integer};
use super::codec::method::{
    BasicCancel, BasicCancelOk, BasicConsume, BasicConsumeOk, BasicGet, BasicGetEmpty, BasicGetOk,
    BasicQos, BasicQosOk,
};
use super::codec::{ShortString, content};
use super::connection::AmqpConnection;
use super::convert::lossy;
use super::envelope::{self, Envelope};
use super::replies::is_replies;
use super::requests::About;
use super::violation::Violation;
use crate::model::consume::CONSUMERS_END;
use crate::model::{
    Command, Consume, Credit, DeliverySource, Got, Outcome, QueueName, QueueRefusal, Refusal,
    Token, VirtualHost,
};

/// The group that consumers read with, unless they say another.
const GROUP: &[u8] = b"default";
/// Deliveries that a consumer may be about to get whose channel has its limit no more.
const GRANTED_MAX: u32 = 1 << 16;

/// A consumer of a channel.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) channel: u16,
    pub(super) queue: QueueName,
    pub(super) tag: ShortString,
    /// Delivered is settled.
    pub(super) no_ack: bool,
    /// Unsettled deliveries, at most; 0 is no limit.
    prefetch: u16,
    /// Deliveries that it may get and has not, where it shares its channel's limit.
    granted: Option<u32>,
    /// Deliveries that have their tags and are not settled.
    pub(super) out: u32,
    phase: Phase,
}

impl Consumer {
    /// Returns true for one that shares its channel's limit.
    pub(super) fn is_granted(&self) -> bool {
        self.granted.is_some()
    }

    /// Why it cannot read a stream: what RabbitMQ looks at first is said first.
    fn unfit_for_stream(&self, named: Named<'_>) -> Violation {
        if self.prefetch == 0 {
            let text = format!("consumer prefetch count is not set for stream {named}");
            return Violation::new(ReplyCode::PreconditionFailed, text);
        }
        let text = match self.no_ack {
            true => format!("automatic acknowledgement not supported by stream {named}"),
            false => format!("{named} does not support global qos"),
        };
        Violation::new(ReplyCode::NotImplemented, text)
    }

    /// One of those that it was granted has come.
    pub(super) fn note_arrival(&mut self) {
        self.granted = self.granted.map(|granted| granted.saturating_sub(1));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The broker was asked for it, or to end it.
    Asked,
    Open,
    /// Nothing more comes; what it has is still to be settled.
    Stopped,
}

impl AmqpConnection {
    pub(super) fn on_consume(
        &mut self,
        channel: u16,
        consume: &BasicConsume,
    ) -> Result<(), Violation> {
        if is_replies(&consume.queue) {
            return self.on_consume_replies(channel, consume);
        }
        let queue = self.queue_of(channel, &consume.queue)?;
        let tag = match consume.consumer_tag.is_empty() {
            true => self.generate_name("amq.ctag-"),
            false => consume.consumer_tag.detached(),
        };
        let Some(state) = self.channels.get_mut(&channel) else { return Ok(()) };
        if state.tags.contains_key(&tag) {
            let text = format!("attempt to reuse consumer tag '{}'", lossy(tag.as_bytes()));
            return Err(Violation::new(ReplyCode::NotAllowed, text));
        }
        let named = Named { queue: &queue.name(), host: &self.host };
        let arguments = Arguments { table: &consume.arguments, named };
        if let Some(value) = consume.arguments.get("x-priority")
            && integer(&value).is_none()
        {
            return Err(arguments.invalid("x-priority", "expected an integer"));
        }
        let position = arguments::position(arguments)?;
        let (group, own) = match arguments.text("x-consumer-group")? {
            Some(group) => {
                let group = VirtualHost::group(&Bytes::from(group))
                    .map_err(|error| arguments.invalid("x-consumer-group", error))?;
                (group, None)
            }
            // Whoever says where to begin reads for itself, and so does whoever reads a stream.
            None => {
                let own = self.generate_name("amq.group-").into_bytes();
                let group = QueueName::from_stored(Bytes::from_static(GROUP));
                (group, Some(QueueName::from_stored(own)))
            }
        };
        let consumer = self.next_consumer()?;
        let credit = self.add_consumer(consumer, channel, consume.no_ack, (queue.clone(), tag));
        let about = About::Consume { consumer, queue: queue.clone(), no_wait: consume.no_wait };
        let is_exclusive = consume.exclusive;
        self.ask((channel, (60, 20)), about, |token| {
            Command::Consume(Box::new(Consume {
                token,
                consumer,
                queue,
                group,
                own,
                credit,
                is_exclusive,
                position,
            }))
        });
        Ok(())
    }

    /// A number that no consumer had.
    fn next_consumer(&mut self) -> Result<u32, Violation> {
        let number = self.last_consumer + 1;
        if number >= CONSUMERS_END {
            let text = "the connection had as many consumers as there are numbers: connect again";
            return Err(Violation::new(ReplyCode::ResourceError, text));
        }
        self.last_consumer = number;
        Ok(number)
    }

    /// Enters a consumer; returns how much it may be sent.
    fn add_consumer(
        &mut self,
        number: u32,
        channel: u16,
        no_ack: bool,
        (queue, tag): (QueueName, ShortString),
    ) -> Credit {
        let Some(state) = self.channels.get_mut(&channel) else { return Credit::Window(0) };
        state.tags.insert(tag.clone(), number);
        let is_limited = state.limit > 0 && !no_ack;
        let consumer = Consumer {
            channel,
            queue,
            tag,
            no_ack,
            prefetch: state.prefetch,
            granted: None,
            out: 0,
            phase: Phase::Asked,
        };
        let window = match consumer.prefetch {
            prefetch if prefetch > 0 && !no_ack => prefetch.into(),
            _ => u32::MAX,
        };
        self.consumers.insert(number, consumer);
        if !is_limited {
            return Credit::Window(window);
        }
        let room = self.room(number);
        if let Some(consumer) = self.consumers.get_mut(&number) {
            consumer.granted = Some(room);
        }
        Credit::Granted(room)
    }

    /// A consumer stands, or not.
    pub(super) fn on_consuming(&mut self, token: Token, result: Result<(), Refusal>) {
        let Some(request) = self.take_request(token) else { return };
        let About::Consume { consumer, no_wait, .. } = request.about else { return };
        match result {
            Err(refusal) => {
                let refused = self.remove_consumer(consumer);
                match refused.filter(|_| is_of_stream(&refusal)) {
                    Some(refused) => {
                        let named = Named { queue: &refused.queue.name(), host: &self.host };
                        let violation = refused.unfit_for_stream(named);
                        self.fail_channel(request.channel, request.method, violation);
                    }
                    None => self.on_request_refused(&request, &refusal),
                }
            }
            Ok(()) => {
                let Some(state) = self.consumers.get_mut(&consumer) else { return };
                state.phase = Phase::Open;
                let consumer_tag = state.tag.clone();
                if !no_wait {
                    self.send(request.channel, BasicConsumeOk { consumer_tag });
                }
                self.due.insert(request.channel);
            }
        }
    }

    pub(super) fn on_cancel(&mut self, channel: u16, cancel: BasicCancel) {
        let BasicCancel { consumer_tag: tag, no_wait } = cancel;
        let Some(state) = self.channels.get_mut(&channel) else { return };
        let Some(consumer) = state.tags.remove(&tag) else {
            // As in RabbitMQ: it has ended.
            if !no_wait {
                self.send(channel, BasicCancelOk { consumer_tag: tag });
            }
            return;
        };
        if let Some(state) = self.consumers.get_mut(&consumer) {
            state.phase = Phase::Asked;
        }
        self.give_back_held(channel, consumer);
        let about = About::Cancel { consumer, tag, no_wait };
        let command = |token| Command::StopConsuming { token, consumer };
        self.ask((channel, (60, 30)), about, command);
    }

    /// Nothing more comes for a consumer.
    pub(super) fn on_stopped(&mut self, token: Token) {
        let Some(request) = self.take_request(token) else { return };
        let About::Cancel { consumer, tag, no_wait } = request.about else { return };
        // What came meanwhile and was not allowed yet.
        self.give_back_held(request.channel, consumer);
        if let Some(state) = self.consumers.get_mut(&consumer) {
            state.phase = Phase::Stopped;
        }
        self.leave_if_over(consumer);
        if !no_wait {
            self.send(request.channel, BasicCancelOk { consumer_tag: tag });
        }
    }

    /// A consumer's queue is gone, and what it had out with it.
    pub(super) fn on_consumer_ended(&mut self, number: u32) {
        let Some(consumer) = self.remove_consumer(number) else { return };
        let channel = consumer.channel;
        let request = self.request.take_if(
            |request| matches!(&request.about, About::Cancel { consumer, .. } if *consumer == number),
        );
        match request.map(|request| request.about) {
            // It is asked for already: one answer is enough.
            Some(About::Cancel { tag, no_wait: false, .. }) => {
                self.send(channel, BasicCancelOk { consumer_tag: tag });
            }
            None if self.client.hears_of_cancel => {
                self.send(channel, BasicCancel { consumer_tag: consumer.tag, no_wait: true });
            }
            _ => {}
        }
        self.hand_out_held(channel);
    }

    /// Forgets a consumer, and what its channel knows of it.
    fn remove_consumer(&mut self, number: u32) -> Option<Consumer> {
        let consumer = self.consumers.remove(&number)?;
        if let Some(channel) = self.channels.get_mut(&consumer.channel) {
            if channel.tags.get(&consumer.tag) == Some(&number) {
                channel.tags.remove(&consumer.tag);
            }
            if !consumer.no_ack {
                channel.out -= consumer.out;
            }
            channel.held.retain(|held| held.id.source != DeliverySource::Group(number));
            self.due.insert(consumer.channel);
        }
        Some(consumer)
    }

    /// A consumer that gets nothing more and has nothing out is over.
    pub(super) fn leave_if_over(&mut self, number: u32) {
        let Some(consumer) = self.consumers.get(&number) else { return };
        if consumer.phase == Phase::Stopped && consumer.out == 0 {
            self.consumers.remove(&number);
            self.commands.push_back(Command::Leave { consumer: number });
        }
    }

    /// A channel is over: its consumers leave, and what they have goes back.
    pub(super) fn leave_consumers(&mut self, channel: u16) {
        let unheard = self.forget_request(channel);
        let mut gone = Vec::new();
        self.consumers.retain(|number, consumer| {
            let stays = consumer.channel != channel;
            gone.extend(Some(*number).filter(|number| !stays && Some(*number) != unheard));
            stays
        });
        let getter = self.channels.get_mut(&channel).and_then(|it| it.getter.take());
        let leave = |consumer| Command::Leave { consumer };
        self.commands.extend(gone.into_iter().chain(getter).map(leave));
        self.outbox.forget(channel);
    }

    pub(super) fn on_qos(&mut self, channel: u16, qos: &BasicQos) -> Result<(), Violation> {
        if qos.prefetch_size != 0 {
            let text = format!("prefetch_size!=0 ({})", qos.prefetch_size);
            return Err(Violation::new(ReplyCode::NotImplemented, text));
        }
        let Some(state) = self.channels.get_mut(&channel) else { return Ok(()) };
        match qos.global {
            true => state.limit = qos.prefetch_count,
            false => state.prefetch = qos.prefetch_count,
        }
        self.send(channel, BasicQosOk::default());
        self.hand_out_held(channel);
        self.due.insert(channel);
        Ok(())
    }

    pub(super) fn on_get(&mut self, channel: u16, get: &BasicGet) -> Result<(), Violation> {
        let queue = self.queue_of(channel, &get.queue)?;
        let known = self.channels.get(&channel).and_then(|channel| channel.getter);
        let consumer = match known {
            Some(consumer) => consumer,
            None => self.next_consumer()?,
        };
        if let Some(state) = self.channels.get_mut(&channel) {
            state.getter = Some(consumer);
        }
        let about = About::Get { consumer, queue: queue.clone(), no_ack: get.no_ack };
        self.ask((channel, (60, 70)), about, |token| {
            let group = QueueName::from_stored(Bytes::from_static(GROUP));
            Command::Get { token, consumer, queue, group }
        });
        Ok(())
    }

    /// What was asked for, or that there is none.
    pub(super) fn on_got(&mut self, token: Token, result: Result<Option<Box<Got>>, Refusal>) {
        let Some(request) = self.take_request(token) else { return };
        let About::Get { consumer, ref queue, no_ack } = request.about else { return };
        let channel = request.channel;
        let got = match result {
            Ok(Some(got)) => *got,
            Ok(None) => return self.send(channel, BasicGetEmpty::default()),
            Err(refusal) => return self.on_request_refused(&request, &refusal),
        };
        let Got { delivery, remaining } = got;
        let delivery_tag = match no_ack {
            true => self.next_tag(channel),
            false => self.enter(channel, consumer, delivery.id),
        };
        let Envelope { exchange, routing_key, properties } =
            envelope::of(&delivery, queue, delivery.message.expiry_s);
        self.send(
            channel,
            BasicGetOk {
                delivery_tag,
                redelivered: delivery.redelivered,
                exchange,
                routing_key,
                message_count: u32::try_from(remaining).unwrap_or(u32::MAX),
            },
        );
        let body = &delivery.message.payload;
        let frame_bytes_max = self.tuned.frame_bytes_max;
        content::encode(channel, &properties, body, frame_bytes_max, &mut self.answers);
        self.counters.publishes_sent += 1;
        self.counters.payload_bytes_sent += body.len() as u64;
        if no_ack {
            let outcome = Outcome::Accepted;
            self.commands.push_back(Command::Settle { delivery: delivery.id, outcome });
        }
    }

    /// How many deliveries a consumer may get now that shares its channel's limit, those included that it was granted and has not got.
    fn room(&self, number: u32) -> u32 {
        let Some(consumer) = self.consumers.get(&number) else { return 0 };
        let Some(channel) = self.channels.get(&consumer.channel) else { return 0 };
        let of_channel = match channel.limit {
            0 => GRANTED_MAX,
            limit => {
                let taken = channel.out.saturating_add(channel.held.len() as u32);
                u32::from(limit).saturating_sub(taken)
            }
        };
        match consumer.prefetch {
            0 => of_channel,
            prefetch => of_channel.min(u32::from(prefetch).saturating_sub(consumer.out)),
        }
    }

    /// Grants what there is room for, in channels where something changed.
    pub(super) fn grant_due(&mut self) {
        for channel in std::mem::take(&mut self.due) {
            let of_channel = self.consumers.iter().filter(|(_, it)| {
                it.channel == channel && it.phase == Phase::Open && it.granted.is_some()
            });
            let numbers: Vec<u32> = of_channel.map(|(number, _)| *number).collect();
            for number in numbers {
                let room = self.room(number);
                let Some(Consumer { granted: Some(granted), .. }) = self.consumers.get_mut(&number)
                else {
                    continue;
                };
                let count = room.saturating_sub(*granted);
                if count > 0 {
                    *granted += count;
                    self.commands.push_back(Command::Grant { consumer: number, count });
                }
            }
        }
    }
}

/// Returns true where a stream was refused to a consumer.
fn is_of_stream(refusal: &Refusal) -> bool {
    let Refusal::Queue(refused) = refusal else { return false };
    matches!(**refused, QueueRefusal::Stream { .. })
}
