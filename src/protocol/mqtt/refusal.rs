//! The one table from what the broker refuses to what MQTT says about it.

use std::borrow::Cow;

use super::codec::DecodeError;
use super::reason::ReasonCode;
use crate::model::{AddressError, Refusal};

/// The peer broke the protocol: the connection ends with this reason [MQTT-4.13.1-1].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: ReasonCode,
    pub(super) text: Cow<'static, str>,
}

impl Violation {
    pub(super) fn new(reason: ReasonCode, text: &'static str) -> Violation {
        Violation { reason, text: Cow::Borrowed(text) }
    }

    pub(super) fn protocol(text: &'static str) -> Violation {
        Violation::new(ReasonCode::PROTOCOL_ERROR, text)
    }
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Violation {
        Violation { reason: error.reason(), text: Cow::Owned(error.to_string()) }
    }
}

/// PUBACK and PUBREC.
pub(super) fn of_publish(refusal: &Refusal) -> ReasonCode {
    match refusal {
        Refusal::Address(_) => ReasonCode::TOPIC_NAME_INVALID,
        Refusal::NotAuthorized | Refusal::CredentialsNeeded | Refusal::NotOwner => {
            ReasonCode::NOT_AUTHORIZED
        }
        Refusal::BadCredentials => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        Refusal::AuthenticationMethod => ReasonCode::BAD_AUTHENTICATION_METHOD,
        Refusal::Throttled | Refusal::ConnectionRate { .. } => ReasonCode::CONNECTION_RATE_EXCEEDED,
        Refusal::Busy => ReasonCode::SERVER_BUSY,
        Refusal::Quota { .. } | Refusal::DiskFull => ReasonCode::QUOTA_EXCEEDED,
        Refusal::Unsupported { .. } | Refusal::Invalid { .. } => {
            ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
        }
        Refusal::Unavailable { .. } | Refusal::NotLeader { .. } | Refusal::ShuttingDown => {
            ReasonCode::UNSPECIFIED_ERROR
        }
    }
}

/// SUBACK.
pub(super) fn of_subscribe(refusal: &Refusal) -> ReasonCode {
    match refusal {
        Refusal::Address(_) => ReasonCode::TOPIC_FILTER_INVALID,
        other => of_publish(other),
    }
}

/// UNSUBACK, which has no code for quotas.
pub(super) fn of_unsubscribe(refusal: &Refusal) -> ReasonCode {
    match of_subscribe(refusal) {
        ReasonCode::QUOTA_EXCEEDED => ReasonCode::UNSPECIFIED_ERROR,
        reason => reason,
    }
}

/// CONNACK of 5.0.
pub(super) fn of_connect(refusal: &Refusal) -> ReasonCode {
    match refusal {
        Refusal::DiskFull
        | Refusal::Unavailable { .. }
        | Refusal::NotLeader { .. }
        | Refusal::ShuttingDown => ReasonCode::SERVER_UNAVAILABLE,
        other => of_publish(other),
    }
}

/// The return code of 3.x that says what a reason code of CONNACK says; `None` closes without an answer.
pub(super) fn return_code(reason: ReasonCode) -> Option<ReasonCode> {
    match reason {
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => {
            Some(ReasonCode::V3_UNACCEPTABLE_PROTOCOL_VERSION)
        }
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => Some(ReasonCode::V3_IDENTIFIER_REJECTED),
        ReasonCode::BAD_USER_NAME_OR_PASSWORD => Some(ReasonCode::V3_BAD_USER_NAME_OR_PASSWORD),
        ReasonCode::NOT_AUTHORIZED | ReasonCode::BANNED => Some(ReasonCode::V3_NOT_AUTHORIZED),
        // 3.1.1 has no code for a bad will topic or a malformed packet [MQTT-3.1.4-1].
        ReasonCode::MALFORMED_PACKET
        | ReasonCode::PROTOCOL_ERROR
        | ReasonCode::TOPIC_NAME_INVALID => None,
        _ => Some(ReasonCode::V3_SERVER_UNAVAILABLE),
    }
}

/// Tells a topic that breaks the protocol from one that we do not accept.
pub(super) fn of_topic(error: AddressError) -> Result<Refusal, Violation> {
    match error {
        AddressError::Wildcard => Err(Violation::new(
            ReasonCode::MALFORMED_PACKET,
            "a topic to publish to must not contain '+' or '#'",
        )),
        AddressError::Empty => Err(Violation::protocol("a topic or a topic alias is needed")),
        other => Ok(Refusal::Address(other)),
    }
}
