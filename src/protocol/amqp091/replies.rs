//! Direct reply-to, RabbitMQ's extension: who asks a question names `amq.rabbitmq.reply-to` for the answer and declares nothing.
//!
//! A consumer of that name has a queue of its own behind it, which stores nothing and ends with it. What its channel publishes with that
//! name in `reply-to` names the queue instead, so that whoever answers publishes to a queue as ever, over any protocol.

use super::ReplyCode;
use super::assembly::Content;
use super::codec::method::{BasicConsume, QueueDeclare, QueueDeclareOk};
use super::codec::{Properties, Property, ShortString};
use super::connection::AmqpConnection;
use super::requests::About;
use super::violation::Violation;
use crate::model::address::REPLY_QUEUES;
use crate::model::queue::{DeadLetterTarget, DeadLetters, Lifetime, QueueKind};
use crate::model::{Command, QueueCommand, QueueSettings};

/// What clients call the queue of their replies.
const REPLIES: &[u8] = b"amq.rabbitmq.reply-to";

/// What a declaration of such a name means.
pub(super) enum Declared {
    /// Nothing: it is another name.
    Other,
    /// The name that clients use, which is always there.
    Replies,
    /// A queue that only its consumer makes: others may ask for it.
    ReplyQueue,
}

impl Declared {
    pub(super) fn of(name: &ShortString) -> Declared {
        match name.as_bytes().strip_prefix(REPLIES) {
            Some(b"") => Declared::Replies,
            Some(_) if name.as_bytes().starts_with(REPLY_QUEUES.as_bytes()) => Declared::ReplyQueue,
            _ => Declared::Other,
        }
    }
}

/// Returns true for the name that clients use.
pub(super) fn is_replies(name: &ShortString) -> bool {
    name.as_bytes() == REPLIES
}

fn settings() -> QueueSettings {
    let target = DeadLetterTarget::Nowhere;
    QueueSettings {
        kind: QueueKind::Ephemeral,
        dead_letters: DeadLetters { target, ..DeadLetters::default() },
        lifetime: Lifetime::Transient,
        auto_delete: true,
        ..QueueSettings::default()
    }
}

impl AmqpConnection {
    /// Declaring the name that clients use says that it is there, with the consumer that it is about to have.
    pub(super) fn on_replies_declared(&mut self, channel: u16, declare: &QueueDeclare) {
        let queue = declare.queue.detached();
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.last_queue = queue.clone();
        }
        if !declare.no_wait {
            self.send(channel, QueueDeclareOk { queue, message_count: 0, consumer_count: 1 });
        }
    }

    /// Makes the queue of a consumer of replies, one for a channel.
    pub(super) fn on_consume_replies(
        &mut self,
        channel: u16,
        consume: &BasicConsume,
    ) -> Result<(), Violation> {
        let failed = |text: &str| Err(Violation::new(ReplyCode::PreconditionFailed, text));
        if !consume.no_ack {
            return failed("reply consumer cannot acknowledge");
        }
        if self.reply_queue(channel).is_some() {
            return failed("reply consumer already set");
        }
        let name = self.generate_name(REPLY_QUEUES);
        let queue = self.queue_of(channel, &name)?;
        let consume = BasicConsume {
            queue: name,
            consumer_tag: consume.consumer_tag.detached(),
            no_ack: true,
            // Nobody else hears answers.
            exclusive: true,
            no_wait: consume.no_wait,
            ..BasicConsume::default()
        };
        let about = About::Replies { queue: queue.clone(), consume: Box::new(consume) };
        let command = QueueCommand::Declare(settings().into());
        let command = |token| Command::Queue { token, queue, command };
        self.ask((channel, (60, 20)), about, command);
        Ok(())
    }

    /// The queue of a consumer of replies is there.
    pub(super) fn consume_replies(&mut self, channel: u16, consume: &BasicConsume) {
        if let Err(violation) = self.on_consume(channel, consume) {
            return self.fail_channel(channel, (60, 20), violation);
        }
        let consumer = self.last_consumer;
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.replies = Some(Box::new((consumer, consume.queue.clone())));
        }
    }

    /// Names the queue of a channel's replies in what it publishes.
    pub(super) fn with_reply_queue(
        &self,
        channel: u16,
        content: Content,
    ) -> Result<Content, Violation> {
        let reply_to = content.properties.reply_to();
        if reply_to.is_none_or(|name| name.as_bytes() != REPLIES) {
            return Ok(content);
        }
        let Some(queue) = self.reply_queue(channel) else {
            let text = "fast reply consumer does not exist";
            return Err(Violation::new(ReplyCode::PreconditionFailed, text));
        };
        let named = content.properties.iter().map(|property| match property {
            Property::ReplyTo(_) => Property::ReplyTo(queue.clone()),
            other => other,
        });
        Ok(Content { properties: Properties::encode(named), ..content })
    }

    /// The queue of a channel's replies, while somebody consumes it.
    fn reply_queue(&self, channel: u16) -> Option<&ShortString> {
        let (consumer, queue) = self.channels.get(&channel)?.replies.as_deref()?;
        self.consumers.contains_key(consumer).then_some(queue)
    }
}
