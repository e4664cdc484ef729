//! What a channel asks the broker and waits for, one request at a time: input waits with it, so that what follows finds what was asked for.
//!
//! A request goes out when the broker has answered all that its channel published before: it counts, gets and empties what is stored.

use std::sync::Arc;

use super::ReplyCode;
use super::arguments::{Named, inequivalent, locked};
use super::codec::ShortString;
use super::connection::AmqpConnection;
use super::convert::lossy;
use super::violation::Violation;
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
}

impl About {
    fn queue(&self) -> Option<&QueueName> {
        match self {
            About::Declare { queue, .. }
            | About::Purge { queue, .. }
            | About::Delete { queue, .. }
            | About::Consume { queue, .. }
            | About::Get { queue, .. } => Some(queue),
            About::Cancel { .. } => None,
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
            About::Consume { consumer, .. } | About::Get { consumer, .. } => {
                request.unsent.map(|_| consumer)
            }
            _ => None,
        }
    }

    /// Closes the channel of a request that was refused.
    pub(super) fn on_request_refused(&mut self, request: &Request, refusal: &Refusal) {
        let queue = request.about.queue().map_or("", QueueName::as_str);
        let vhost = &self.settings.virtual_host;
        let named = Named { queue, vhost };
        let differing = match refusal {
            Refusal::Queue(refused) => match &**refused {
                QueueRefusal::Differs { current, .. } => Some(current),
                _ => None,
            },
            _ => None,
        };
        let violation = match (&request.about, differing) {
            (About::Declare { settings: Some(settings), .. }, Some(current)) => {
                inequivalent(settings, current, named, &refusal.to_string())
            }
            _ => of_queue(refusal, named, &self.client.user),
        };
        self.fail_channel(request.channel, request.method, violation);
    }
}

/// Why a channel is closed that asked something of a queue.
fn of_queue(refusal: &Refusal, named: Named<'_>, user: &[u8]) -> Violation {
    let (code, text) = match refusal {
        Refusal::Queue(refused) => match &**refused {
            QueueRefusal::Missing { .. } => (ReplyCode::NotFound, format!("no {named}")),
            QueueRefusal::Differs { .. } => (ReplyCode::PreconditionFailed, refused.to_string()),
            QueueRefusal::InUse { .. } => {
                (ReplyCode::PreconditionFailed, format!("{named} in use"))
            }
            QueueRefusal::NotEmpty { .. } => {
                (ReplyCode::PreconditionFailed, format!("{named} is not empty"))
            }
            QueueRefusal::Locked { .. } => return locked(named),
            QueueRefusal::ExclusiveUse { .. } => {
                (ReplyCode::AccessRefused, format!("{named} in exclusive use"))
            }
        },
        Refusal::NotAuthorized => {
            let text = format!("access to {named} refused for user '{}'", lossy(user));
            (ReplyCode::AccessRefused, text)
        }
        Refusal::Address(_)
        | Refusal::Input(_)
        | Refusal::Invalid { .. }
        | Refusal::Quota { .. }
        | Refusal::DiskFull
        | Refusal::MemoryFull => (ReplyCode::PreconditionFailed, format!("{named}: {refusal}")),
        Refusal::Exchange(refused) => return of_exchange(refused, named.vhost),
        Refusal::Unsupported { .. } => (ReplyCode::NotImplemented, refusal.to_string()),
        Refusal::ShuttingDown => (ReplyCode::ConnectionForced, refusal.to_string()),
        Refusal::BadCredentials
        | Refusal::CredentialsNeeded
        | Refusal::AuthenticationMethod
        | Refusal::Throttled
        | Refusal::Busy
        | Refusal::NotOwner
        | Refusal::ConnectionRate { .. }
        | Refusal::Unavailable { .. }
        | Refusal::NotLeader { .. } => (ReplyCode::InternalError, format!("{named}: {refusal}")),
    };
    Violation::new(code, text)
}

/// Why a channel is closed that asked something of an exchange, or published to it.
pub(super) fn of_exchange(refused: &ExchangeRefusal, vhost: &str) -> Violation {
    let failed = |text| Violation::new(ReplyCode::PreconditionFailed, text);
    match refused {
        ExchangeRefusal::Missing { exchange } => {
            let text = format!("no exchange '{exchange}' in vhost '{vhost}'");
            Violation::new(ReplyCode::NotFound, text)
        }
        ExchangeRefusal::InUse { exchange } => {
            failed(format!("exchange '{exchange}' in vhost '{vhost}' in use"))
        }
        ExchangeRefusal::Differs { .. } => failed(refused.to_string()),
        ExchangeRefusal::Reserved { .. } => {
            Violation::new(ReplyCode::AccessRefused, refused.to_string())
        }
        ExchangeRefusal::Internal { exchange } => {
            let text =
                format!("cannot publish to internal exchange '{exchange}' in vhost '{vhost}'");
            Violation::new(ReplyCode::AccessRefused, text)
        }
    }
}
