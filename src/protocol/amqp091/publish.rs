//! Publishing to topics and to exchanges, and RabbitMQ's confirms: one answer for each publish, in their order, after the broker's.

use std::collections::VecDeque;

use bytes::Bytes;

use super::ReplyCode;
use super::assembly::Content;
use super::channels::Channel;
use super::codec::method::{BasicAck, BasicNack, BasicPublish, BasicReturn, ConfirmSelectOk};
use super::codec::{ShortString, content};
use super::connection::AmqpConnection;
use super::convert::{self, Publisher, lossy};
use super::violation::{self, Violation};
use crate::model::{Command, QoS, Refusal, Route, Token};

/// The exchange that is the topic space.
pub(super) const TOPICS: &str = "amq.topic";
/// Bits of a token below the channel's number.
const NUMBER_BITS: u32 = 46;

/// A channel's publishes.
#[derive(Debug, Default)]
pub(super) struct Publishes {
    /// The tag of the last publish, in confirm mode.
    last_tag: Option<u64>,
    /// Those that the broker has yet to answer, and those behind one of them.
    awaiting: VecDeque<Awaiting>,
    /// What is to be said of those that are answered.
    settled: Option<Settled>,
}

#[derive(Debug)]
struct Awaiting {
    /// Ascends, and is never used again in the connection.
    number: u64,
    tag: Option<u64>,
    answer: Option<Result<bool, Refusal>>,
    exchange: ShortString,
    routing_key: ShortString,
    /// Of a mandatory one: it may come back.
    content: Option<Content>,
}

/// Publishes of consecutive tags that have one answer.
#[derive(Debug)]
struct Settled {
    last_tag: u64,
    count: u64,
    is_stored: bool,
}

impl Publishes {
    /// Returns true in confirm mode.
    pub(super) fn are_confirmed(&self) -> bool {
        self.last_tag.is_some()
    }

    /// Those that the broker has yet to answer, and those behind one of them.
    pub(super) fn awaiting_count(&self) -> usize {
        self.awaiting.len()
    }

    /// Returns true when the broker has answered all of them.
    pub(super) fn is_answered(&self) -> bool {
        self.awaiting.is_empty()
    }

    /// Takes an answer; one that nobody waits for any more is forgotten.
    fn answer(&mut self, number: u64, answer: Result<bool, Refusal>) {
        // Most come in the order of their publishes.
        let first = self.awaiting.front().filter(|first| first.number == number).map(|_| 0);
        let search =
            || self.awaiting.binary_search_by_key(&number, |awaiting| awaiting.number).ok();
        if let Some(at) = first.or_else(search) {
            self.awaiting[at].answer = Some(answer);
        }
    }

    /// Takes the first one out, if it is answered.
    fn next_answered(&mut self) -> Option<Awaiting> {
        self.awaiting.front()?.answer.as_ref()?;
        self.awaiting.pop_front()
    }
}

impl AmqpConnection {
    pub(super) fn on_confirm_select(
        &mut self,
        channel: u16,
        no_wait: bool,
    ) -> Result<(), Violation> {
        let Some(state) = self.channels.get_mut(&channel) else { return Ok(()) };
        if state.transaction.is_some() {
            let text = "cannot switch from tx to confirm mode";
            return Err(Violation::new(ReplyCode::PreconditionFailed, text));
        }
        state.publishes.last_tag.get_or_insert(0);
        if !no_wait {
            self.send(channel, ConfirmSelectOk::default());
        }
        Ok(())
    }

    pub(super) fn on_publish(
        &mut self,
        channel: u16,
        publish: BasicPublish,
        content: Content,
    ) -> Result<(), Violation> {
        if publish.immediate {
            return Err(Violation::new(ReplyCode::NotImplemented, "immediate=true"));
        }
        let content = self.with_reply_queue(channel, content)?;
        let level = self.exchange_named(publish.exchange.as_bytes())?;
        let Some(Channel { publishes, transaction, .. }) = self.channels.get_mut(&channel) else {
            return Ok(());
        };
        // Only what is stored, or would be, is answered; transactions store.
        let is_gathered = transaction.is_some();
        let is_answered = publishes.last_tag.is_some() || publish.mandatory || is_gathered;
        let more_keys = convert::more_keys(&content.properties)?;
        let publisher =
            Publisher { user: &self.client.user, session_id: &self.session_id, host: &self.host };
        let message = convert::read(&publish, &content, publisher, is_answered)?;
        self.counters.publishes_received += 1;
        self.counters.payload_bytes_received += message.payload.len() as u64;
        if is_gathered {
            self.note_publish();
            return self.gather(channel, publish, (content, more_keys), message);
        }
        let tag = publishes.last_tag.as_mut().map(|last| {
            *last += 1;
            *last
        });
        self.last_publish += 1;
        let number = self.last_publish;
        let BasicPublish { exchange, routing_key, mandatory, .. } = publish;
        let token = Token(u64::from(channel) << NUMBER_BITS | number);
        let is_answered = message.qos != QoS::AtMostOnce;
        let command = match exchange.as_bytes() == TOPICS && more_keys.is_empty() {
            true => Command::Publish { token, message: message.into(), packet_id: None },
            false => Command::Route(Box::new(Route {
                token,
                exchange: level,
                routing_key: routing_key.as_bytes().clone(),
                more_keys,
                headers: headers_of(&exchange, &content),
                message,
            })),
        };
        if is_answered {
            let content = mandatory.then_some(content);
            let awaiting = Awaiting { number, tag, answer: None, exchange, routing_key, content };
            publishes.awaiting.push_back(awaiting);
            self.awaiting_count += 1;
        }
        self.pass_on(command);
        Ok(())
    }

    /// The broker has stored a publish, or not.
    pub(super) fn on_confirm(&mut self, token: Token, answer: Result<bool, Refusal>) {
        let number = token.0 & ((1 << NUMBER_BITS) - 1);
        let Ok(channel) = u16::try_from(token.0 >> NUMBER_BITS) else { return };
        if let Some(Channel { publishes, .. }) = self.channels.get_mut(&channel) {
            publishes.answer(number, answer);
        }
        while let Some(awaiting) =
            self.channels.get_mut(&channel).and_then(|it| it.publishes.next_answered())
        {
            self.awaiting_count -= 1;
            self.on_answered(channel, awaiting);
        }
        self.ask_unsent();
    }

    fn on_answered(&mut self, channel: u16, awaiting: Awaiting) {
        let Awaiting { tag, answer, exchange, routing_key, content, .. } = awaiting;
        let is_stored = match answer {
            Some(Ok(is_routed)) => {
                if let Some(content) = content.filter(|_| !is_routed) {
                    self.return_unrouted(channel, (exchange, routing_key), &content);
                }
                true
            }
            Some(Err(Refusal::NotAuthorized)) => {
                let violation = self.forbidden(&exchange, &routing_key);
                return self.fail_channel(channel, (60, 40), violation);
            }
            Some(Err(Refusal::Exchange(refused))) => {
                let violation = violation::of_exchange(&refused, &self.host, &self.client.user);
                return self.fail_channel(channel, (60, 40), violation);
            }
            Some(Err(_)) | None => {
                self.counters.publishes_dropped += u64::from(tag.is_none());
                false
            }
        };
        if let Some(tag) = tag {
            self.settle_publish(channel, tag, is_stored);
        }
    }

    fn forbidden(&self, exchange: &ShortString, routing_key: &ShortString) -> Violation {
        let vhost = &self.host;
        let (name, key) = (lossy(exchange.as_bytes()), lossy(routing_key.as_bytes()));
        let user = lossy(&self.client.user);
        let text = match exchange.as_bytes() == TOPICS {
            true => format!(
                "access to topic '{key}' in exchange '{name}' in vhost '{vhost}' refused for user '{user}'"
            ),
            false => {
                let name = if name.is_empty() { "amq.default" } else { &name };
                format!("access to exchange '{name}' in vhost '{vhost}' refused for user '{user}'")
            }
        };
        Violation::new(ReplyCode::AccessRefused, text)
    }

    /// §1.8.3.10: what is mandatory and reaches nobody comes back; in confirm mode before it is acknowledged.
    pub(super) fn return_unrouted(
        &mut self,
        channel: u16,
        (exchange, routing_key): (ShortString, ShortString),
        content: &Content,
    ) {
        self.send(
            channel,
            BasicReturn {
                reply_code: ReplyCode::NoRoute.number(),
                reply_text: ShortString::from_static(ReplyCode::NoRoute.name()),
                exchange,
                routing_key,
            },
        );
        let Content { properties, body } = content;
        let frame_bytes_max = self.tuned.frame_bytes_max;
        content::encode(channel, properties, body, frame_bytes_max, &mut self.answers);
    }

    /// Neighbours with one answer are answered together, when something is sent anyway.
    fn settle_publish(&mut self, channel: u16, tag: u64, is_stored: bool) {
        let Some(Channel { publishes, .. }) = self.channels.get_mut(&channel) else { return };
        if publishes.settled.as_ref().is_some_and(|settled| settled.is_stored != is_stored) {
            self.say_settled(channel);
        }
        let Some(Channel { publishes, .. }) = self.channels.get_mut(&channel) else { return };
        match &mut publishes.settled {
            Some(settled) => {
                settled.last_tag = tag;
                settled.count += 1;
            }
            None => {
                publishes.settled = Some(Settled { last_tag: tag, count: 1, is_stored });
                self.unsaid.push(channel);
            }
        }
    }

    /// Says what is to be said of all channels' publishes.
    pub(super) fn say_all_settled(&mut self) {
        for channel in std::mem::take(&mut self.unsaid) {
            self.say_settled(channel);
        }
    }

    fn say_settled(&mut self, channel: u16) {
        let settled = self.channels.get_mut(&channel).and_then(|it| it.publishes.settled.take());
        let Some(Settled { last_tag: delivery_tag, count, is_stored }) = settled else { return };
        let multiple = count > 1;
        match is_stored {
            true => self.send(channel, BasicAck { delivery_tag, multiple }),
            false => self.send(channel, BasicNack { delivery_tag, multiple, requeue: false }),
        }
    }

    /// A channel that ends is not answered any more.
    pub(super) fn forget_publishes(&mut self, channel: u16) {
        if let Some(Channel { publishes, .. }) = self.channels.get_mut(&channel) {
            self.awaiting_count -= std::mem::take(publishes).awaiting.len();
        }
    }
}

/// What an exchange may route by beside the key. The default one does not look at it.
pub(super) fn headers_of(exchange: &ShortString, content: &Content) -> Bytes {
    match exchange.is_empty() {
        true => Bytes::new(),
        false => content.properties.headers().unwrap_or_default().as_bytes().clone(),
    }
}
