//! The class queue: declared, emptied and ended, by name (AMQP 0.9.1 §1.7).

use std::sync::Arc;

use bytes::Bytes;

use super::ReplyCode;
use super::arguments::{self, Named, generated_name};
use super::codec::ShortString;
use super::codec::method::{
    QueueDeclare, QueueDeclareOk, QueueDelete, QueueDeleteOk, QueuePurge, QueuePurgeOk,
};
use super::connection::AmqpConnection;
use super::convert::lossy;
use super::replies::Declared;
use super::requests::{About, Request};
use super::violation::Violation;
use crate::model::{Command, QueueAnswer, QueueCommand, QueueName, QueueRefusal, Refusal, Token};

/// What names of clients do not begin with: the broker's own, and those of queues for dead letters, which are there with others.
const RESERVED: [&str; 2] = ["amq.", "$dlq/"];

impl AmqpConnection {
    pub(super) fn on_queue_declare(
        &mut self,
        channel: u16,
        declare: &QueueDeclare,
    ) -> Result<(), Violation> {
        let declared = Declared::of(&declare.queue);
        if matches!(declared, Declared::Replies) {
            self.on_replies_declared(channel, declare);
            return Ok(());
        }
        if declare.passive || matches!(declared, Declared::ReplyQueue) {
            let queue = self.queue_of(channel, &declare.queue)?;
            let about =
                About::Declare { queue: queue.clone(), settings: None, no_wait: declare.no_wait };
            self.ask_queue((channel, 10), about, queue, QueueCommand::Inspect);
            return Ok(());
        }
        let name = match declare.queue.is_empty() {
            true => self.generate_name("amq.gen-"),
            false => declare.queue.clone(),
        };
        let is_reserved = |prefix: &&&str| name.as_bytes().starts_with(prefix.as_bytes());
        if let Some(prefix) =
            RESERVED.iter().find(is_reserved).filter(|_| !declare.queue.is_empty())
        {
            let name = lossy(name.as_bytes());
            let text = format!("queue name '{name}' contains reserved prefix '{prefix}*'");
            return Err(Violation::new(ReplyCode::AccessRefused, text));
        }
        let queue = self.queue_named(&name)?;
        let named = Named { queue: &queue.name(), host: &self.host };
        let settings = Arc::new(arguments::settings(declare, named)?);
        let about = About::Declare {
            queue: queue.clone(),
            settings: Some(settings.clone()),
            no_wait: declare.no_wait,
        };
        self.ask_queue((channel, 10), about, queue, QueueCommand::Declare(settings));
        Ok(())
    }

    pub(super) fn on_queue_purge(
        &mut self,
        channel: u16,
        purge: &QueuePurge,
    ) -> Result<(), Violation> {
        let queue = self.queue_of(channel, &purge.queue)?;
        let about = About::Purge { queue: queue.clone(), no_wait: purge.no_wait };
        self.ask_queue((channel, 30), about, queue, QueueCommand::Purge);
        Ok(())
    }

    pub(super) fn on_queue_delete(
        &mut self,
        channel: u16,
        delete: &QueueDelete,
    ) -> Result<(), Violation> {
        let queue = self.queue_of(channel, &delete.queue)?;
        let about = About::Delete { queue: queue.clone(), no_wait: delete.no_wait };
        let QueueDelete { if_unused, if_empty, .. } = *delete;
        self.ask_queue((channel, 40), about, queue, QueueCommand::Delete { if_unused, if_empty });
        Ok(())
    }

    fn ask_queue(
        &mut self,
        (channel, method): (u16, u16),
        about: About,
        queue: QueueName,
        command: QueueCommand,
    ) {
        let command = |token| Command::Queue { token, queue, command };
        self.ask((channel, (50, method)), about, command);
    }

    /// The broker has done what was asked of a queue, or not.
    pub(super) fn on_queue_answer(&mut self, token: Token, result: Result<QueueAnswer, Refusal>) {
        let Some(request) = self.take_request(token) else { return };
        let is_missing = |refusal: &Refusal| matches!(refusal, Refusal::Queue(refused) if matches!(**refused, QueueRefusal::Missing { .. }));
        let answer = match result {
            Ok(answer) => answer,
            // As in RabbitMQ: it is gone, which is what was asked for.
            Err(refusal)
                if is_missing(&refusal) && matches!(request.about, About::Delete { .. }) =>
            {
                QueueAnswer { messages: 0, consumers: 0 }
            }
            Err(refusal) => return self.on_request_refused(&request, &refusal),
        };
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let message_count = count(answer.messages);
        let Request { channel, about, .. } = request;
        match about {
            About::Declare { queue, no_wait, .. } => {
                let queue = ShortString::truncated(&queue.name());
                if let Some(channel) = self.channels.get_mut(&channel) {
                    channel.last_queue = queue.clone();
                }
                if !no_wait {
                    let consumer_count = count(answer.consumers);
                    self.send(channel, QueueDeclareOk { queue, message_count, consumer_count });
                }
            }
            About::Replies { consume, .. } => self.consume_replies(channel, &consume),
            About::Purge { no_wait: false, .. } => {
                self.send(channel, QueuePurgeOk { message_count });
            }
            About::Delete { no_wait: false, .. } => {
                self.send(channel, QueueDeleteOk { message_count });
            }
            _ => {}
        }
    }

    /// Reads a queue's name; none is the one that the channel declared last. §1.7.2.1
    pub(super) fn queue_of(
        &self,
        channel: u16,
        name: &ShortString,
    ) -> Result<QueueName, Violation> {
        let last = self.channels.get(&channel).map(|channel| &channel.last_queue);
        let name = match last {
            Some(last) if name.is_empty() => last,
            _ => name,
        };
        if name.is_empty() {
            return Err(Violation::new(ReplyCode::NotFound, "no previously declared queue"));
        }
        self.queue_named(name)
    }

    fn queue_named(&self, name: &ShortString) -> Result<QueueName, Violation> {
        self.host.queue(&Bytes::copy_from_slice(name.as_bytes())).map_err(|error| {
            let text = format!("queue name '{}': {error}", lossy(name.as_bytes()));
            Violation::new(ReplyCode::PreconditionFailed, text)
        })
    }

    /// A name that nobody else has.
    pub(super) fn generate_name(&mut self, prefix: &str) -> ShortString {
        self.names_generated += 1;
        generated_name(prefix, &self.session_id, self.names_generated)
    }
}
