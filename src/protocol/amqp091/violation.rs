//! What closes a channel or a connection, with its reply code, and the one table from what the broker refuses to those codes.

use super::ReplyCode;
use super::arguments::{Named, locked};
use super::codec::DecodeError;
use super::convert::lossy;
use crate::model::{ExchangeRefusal, QueueRefusal, Refusal, VirtualHost};

/// The peer broke a rule, or cannot have what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) code: ReplyCode,
    pub(super) text: String,
}

impl Violation {
    pub(super) fn new(code: ReplyCode, text: impl Into<String>) -> Violation {
        Violation { code, text: text.into() }
    }

    /// The reply text: the code's name first, as clients print it.
    pub(super) fn reply_text(&self) -> String {
        format!("{} - {}", self.code, self.text)
    }
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Violation {
        Violation::new(error.reply(), error.to_string())
    }
}

/// The code for a connection that is not opened, or may not go on.
pub(super) fn of_connection(refusal: &Refusal) -> ReplyCode {
    match refusal {
        Refusal::NotAuthorized
        | Refusal::BadCredentials
        | Refusal::CredentialsNeeded
        | Refusal::AuthenticationMethod
        | Refusal::Throttled
        | Refusal::NotOwner => ReplyCode::AccessRefused,
        Refusal::Busy
        | Refusal::Quota { .. }
        | Refusal::DeadLettered
        | Refusal::ConnectionRate { .. } => ReplyCode::NotAllowed,
        Refusal::DiskFull | Refusal::MemoryFull => ReplyCode::ResourceError,
        Refusal::ShuttingDown | Refusal::Administrator { .. } => ReplyCode::ConnectionForced,
        Refusal::Unsupported { .. } => ReplyCode::NotImplemented,
        Refusal::Address(_)
        | Refusal::Input(_)
        | Refusal::Unavailable { .. }
        | Refusal::NotLeader { .. }
        | Refusal::Queue(_)
        | Refusal::Exchange(_)
        | Refusal::Invalid { .. } => ReplyCode::InternalError,
    }
}

/// Why a channel is closed that asked something of a queue, or of an exchange where no queue is named.
pub(super) fn of_request(refusal: &Refusal, named: Named<'_>, user: &[u8]) -> Violation {
    let (code, text) = match refusal {
        Refusal::Queue(refused) => match &**refused {
            QueueRefusal::Missing { .. } => (ReplyCode::NotFound, format!("no {named}")),
            QueueRefusal::Differs { .. } => (ReplyCode::PreconditionFailed, refused.to_string()),
            QueueRefusal::InUse { .. } => {
                (ReplyCode::PreconditionFailed, format!("{named} in use"))
            }
            QueueRefusal::NotEmpty { .. } => {
                (ReplyCode::PreconditionFailed, format!("{named} not empty"))
            }
            QueueRefusal::Locked { .. } => return locked(named),
            QueueRefusal::Stream { .. } => {
                (ReplyCode::NotImplemented, format!("basic.get not supported by stream {named}"))
            }
            QueueRefusal::NotPurged { .. } => {
                (ReplyCode::NotImplemented, format!("queue.purge not supported by stream {named}"))
            }
            QueueRefusal::ExclusiveUse { .. } => {
                (ReplyCode::AccessRefused, format!("{named} in exclusive use"))
            }
        },
        Refusal::NotAuthorized if named.queue.is_empty() => {
            let text = format!("access to the exchange refused for user '{}'", lossy(user));
            (ReplyCode::AccessRefused, text)
        }
        Refusal::NotAuthorized => {
            let text = format!("access to {named} refused for user '{}'", lossy(user));
            (ReplyCode::AccessRefused, text)
        }
        Refusal::Address(_)
        | Refusal::Input(_)
        | Refusal::Invalid { .. }
        | Refusal::Quota { .. }
        | Refusal::DeadLettered
        | Refusal::DiskFull
        | Refusal::MemoryFull => (ReplyCode::PreconditionFailed, format!("{named}: {refusal}")),
        Refusal::Exchange(refused) => return of_exchange(refused, named.host, user),
        Refusal::Unsupported { .. } => (ReplyCode::NotImplemented, refusal.to_string()),
        Refusal::ShuttingDown | Refusal::Administrator { .. } => {
            (ReplyCode::ConnectionForced, refusal.to_string())
        }
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

/// Why a channel is closed whose transaction is not committed.
pub(super) fn of_commit(refusal: &Refusal, host: &VirtualHost, user: &[u8]) -> Violation {
    let violation = of_request(refusal, Named { queue: "", host }, user);
    match (violation.code, refusal) {
        (ReplyCode::PreconditionFailed, Refusal::Exchange(_)) => violation,
        (ReplyCode::PreconditionFailed, _) => {
            Violation { text: format!("the transaction is rolled back: {refusal}"), ..violation }
        }
        (_, Refusal::NotAuthorized) => Violation {
            text: format!(
                "access to what the transaction publishes to refused for user '{}'",
                lossy(user)
            ),
            ..violation
        },
        _ => violation,
    }
}

/// Why a channel is closed that asked something of an exchange, or published to it.
pub(super) fn of_exchange(
    refused: &ExchangeRefusal,
    vhost: &VirtualHost,
    user: &[u8],
) -> Violation {
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
        ExchangeRefusal::Forbidden { exchange } => {
            let exchange = if exchange.is_empty() { "amq.default" } else { exchange };
            let user = lossy(user);
            let text = format!(
                "access to exchange '{exchange}' in vhost '{vhost}' refused for user '{user}'"
            );
            Violation::new(ReplyCode::AccessRefused, text)
        }
        ExchangeRefusal::Internal { exchange } => {
            let text =
                format!("cannot publish to internal exchange '{exchange}' in vhost '{vhost}'");
            Violation::new(ReplyCode::AccessRefused, text)
        }
    }
}
