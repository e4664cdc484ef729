//! What closes a channel or a connection, with its reply code, and the one table from what the broker refuses to those codes.

use super::ReplyCode;
use super::codec::DecodeError;
use crate::model::Refusal;

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
        Refusal::Busy | Refusal::Quota { .. } | Refusal::ConnectionRate { .. } => {
            ReplyCode::NotAllowed
        }
        Refusal::DiskFull | Refusal::MemoryFull => ReplyCode::ResourceError,
        Refusal::ShuttingDown => ReplyCode::ConnectionForced,
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
