//! What a channel asks the broker and waits for, one request at a time: input waits with it, so that what follows finds what was asked for.
//!
//! A request goes out when the broker has answered all that its channel published before: it counts, gets and empties what is stored.

use std::sync::Arc;

use super::arguments::{Named, inequivalent};
use super::codec::{Method, ShortString};
use super::connection::AmqpConnection;
use super::violation::{self, Violation};
use crate::model::exchange::ExchangeSettings;
use crate::model::{
    Command, ExchangeRefusal, QueueName, QueueRefusal, QueueSettings, Refusal, Token,
};

/// A request that the broker has yet to answer.
#[derive(Debug)]
pub(super) struct Request {
    /// Ascends, and is never used again in the connection.
    number: u64,
    pub(super) channel: u16,
    /// What asked for it, for what is said about it when it is refused.
    pub(super) method: (u16, u16),
    pub(super) about: About,
    /// While publishes are before it.
    unsent: Option<Command>,
}

/// What is to be said when it is answered.
#[derive(Debug)]
pub(super) enum About {
    /// Of a passive declaration without settings.
    Declare {
        queue: QueueName,
        settings: Option<Arc<QueueSettings>>,
        no_wait: bool,
    },
    Purge {
        queue: QueueName,
        no_wait: bool,
    },
    Delete {
        queue: QueueName,
        no_wait: bool,
    },
    Consume {
        consumer: u32,
        queue: QueueName,
        no_wait: bool,
    },
    Cancel {
        consumer: u32,
        tag: ShortString,
        no_wait: bool,
    },
    Get {
        consumer: u32,
        queue: QueueName,
        no_ack: bool,
    },
    /// With settings for a declaration.
    Exchange {
        settings: Option<Arc<ExchangeSettings>>,
        /// What is said when it is so, unless nobody waits.
        ok: Option<Method>,
    },
    Bind {
        /// Where a queue is bound.
        queue: Option<QueueName>,
        ok: Option<Method>,
    },
}

impl About {
    fn queue(&self) -> Option<&QueueName> {
        match self {
            About::Declare { queue, .. }
            | About::Purge { queue, .. }
            | About::Delete { queue, .. }
            | About::Consume { queue, .. }
            | About::Get { queue, .. } => Some(queue),
            About::Bind { queue, .. } => queue.as_ref(),
            About::Cancel { .. } | About::Exchange { .. } => None,
        }
    }
}

impl AmqpConnection {
    /// Asks the broker, now or when it has answered what was published before.
    pub(super) fn ask(
        &mut self,
        (channel, method): (u16, (u16, u16)),
        about: About,
        command: impl FnOnce(Token) -> Command,
    ) {
        assert!(self.request.is_none(), "input waits for one request before it brings another");
        self.last_request += 1;
        let number = self.last_request;
        // Publishes have their channel above the number, and no channel is 0.
        let unsent = Some(command(Token(number)));
        self.request = Some(Request { number, channel, method, about, unsent });
        self.ask_unsent();
    }

    /// Asks what waited for publishes, once they are answered.
    pub(super) fn ask_unsent(&mut self) {
        let Some(request) = &mut self.request else { return };
        let channel = self.channels.get(&request.channel);
        if channel.is_none_or(|channel| channel.publishes.is_answered()) {
            self.commands.extend(request.unsent.take());
        }
    }

    /// Takes the request that an answer is for. Others are for channels that are gone.
    pub(super) fn take_request(&mut self, token: Token) -> Option<Request> {
        self.request.take_if(|request| request.number == token.0)
    }

    /// A channel ends: nobody waits for its answer. Returns the consumer that the broker never heard of.
    pub(super) fn forget_request(&mut self, channel: u16) -> Option<u32> {
        let request = self.request.take_if(|request| request.channel == channel)?;
        match request.about {
            About::Consume { consumer, .. } => request.unsent.map(|_| consumer),
            _ => None,
        }
    }

    /// Closes the channel of a request that was refused.
    pub(super) fn on_request_refused(&mut self, request: &Request, refusal: &Refusal) {
        let queue = request.about.queue().map_or("", QueueName::as_str);
        let vhost = &self.settings.virtual_host;
        let named = Named { queue, vhost };
        let violation = self
            .differing(&request.about, refusal)
            .unwrap_or_else(|| violation::of_request(refusal, named, &self.client.user));
        self.fail_channel(request.channel, request.method, violation);
    }

    /// What is there is not what was declared.
    fn differing(&self, about: &About, refusal: &Refusal) -> Option<Violation> {
        match (about, refusal) {
            (About::Declare { queue, settings: Some(asked), .. }, Refusal::Queue(refused)) => {
                let QueueRefusal::Differs { current, .. } = &**refused else { return None };
                let named = Named { queue: queue.as_str(), vhost: &self.settings.virtual_host };
                Some(inequivalent(asked, current, named, &refusal.to_string()))
            }
            (About::Exchange { settings: Some(asked), .. }, Refusal::Exchange(refused)) => {
                let ExchangeRefusal::Differs { exchange, current, .. } = &**refused else {
                    return None;
                };
                self.inequivalent(asked, current, exchange)
            }
            _ => None,
        }
    }
}
