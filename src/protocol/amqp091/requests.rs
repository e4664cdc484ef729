//! What a channel asks the broker and waits for, one request at a time: input waits with it, so that what follows finds what was asked for.
//!
//! A request goes out when the broker has answered all that its channel published before: it counts, gets and empties what is stored.

use std::sync::Arc;

use super::arguments::{Named, inequivalent};
use super::codec::method::BasicConsume;
use super::codec::{Method, ShortString};
use super::connection::AmqpConnection;
use super::transaction::Committing;
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
    Commit(Box<Committing>),
    /// With settings for a declaration.
    Exchange {
        settings: Option<Arc<ExchangeSettings>>,
        /// What is said when it is so, unless nobody waits.
        ok: Option<Box<Method>>,
    },
    Bind {
        /// Where a queue is bound.
        queue: Option<QueueName>,
        ok: Option<Box<Method>>,
    },
    /// The queue of a consumer of replies, which consumes it then.
    Replies {
        queue: QueueName,
        consume: Box<BasicConsume>,
    },
    /// The end of the channel. The broker is not asked for it: it comes when the publishes before it are answered.
    Close,
}

impl About {
    fn queue(&self) -> Option<&QueueName> {
        match self {
            About::Declare { queue, .. }
            | About::Purge { queue, .. }
            | About::Delete { queue, .. }
            | About::Consume { queue, .. }
            | About::Get { queue, .. }
            | About::Replies { queue, .. } => Some(queue),
            About::Bind { queue, .. } => queue.as_ref(),
            About::Cancel { .. } | About::Exchange { .. } | About::Commit(_) | About::Close => None,
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
        let number = self.next_request();
        // Publishes have their channel above the number, and no channel is 0.
        let unsent = Some(command(Token(number)));
        self.request = Some(Request { number, channel, method, about, unsent });
        self.ask_unsent();
    }

    /// Closes a channel, now or when the broker has answered what was published before: what is wrong with that is still said.
    pub(super) fn ask_to_close(&mut self, channel: u16) {
        let (number, about) = (self.next_request(), About::Close);
        self.request = Some(Request { number, channel, method: (20, 40), about, unsent: None });
        self.ask_unsent();
    }

    /// Returns true while a channel waits for its end.
    pub(super) fn is_asked_to_close(&self, channel: u16) -> bool {
        let is_close = |it: &Request| it.channel == channel && matches!(it.about, About::Close);
        self.request.as_ref().is_some_and(is_close)
    }

    fn next_request(&mut self) -> u64 {
        assert!(self.request.is_none(), "input waits for one request before it brings another");
        self.last_request += 1;
        self.last_request
    }

    /// Asks what waited for publishes, once they are answered.
    pub(super) fn ask_unsent(&mut self) {
        let Some(request) = &mut self.request else { return };
        let number = request.channel;
        let channel = self.channels.get(&number);
        if channel.is_some_and(|channel| !channel.publishes.is_answered()) {
            return;
        }
        self.commands.extend(request.unsent.take());
        if matches!(request.about, About::Close) {
            self.request = None;
            self.close_channel(number);
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
        let queue = request.about.queue().map(QueueName::name).unwrap_or_default();
        let named = Named { queue: &queue, host: &self.host };
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
                let named = Named { queue: &queue.name(), host: &self.host };
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
