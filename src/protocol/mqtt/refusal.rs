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

/// What comes nearest, whatever the packet.
fn nearest(refusal: &Refusal) -> ReasonCode {
    match refusal {
        Refusal::Address(_) => ReasonCode::TOPIC_NAME_INVALID,
        Refusal::NotAuthorized | Refusal::CredentialsNeeded | Refusal::NotOwner => {
            ReasonCode::NOT_AUTHORIZED
        }
        Refusal::BadCredentials => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        Refusal::AuthenticationMethod => ReasonCode::BAD_AUTHENTICATION_METHOD,
        Refusal::Throttled | Refusal::ConnectionRate { .. } => ReasonCode::CONNECTION_RATE_EXCEEDED,
        Refusal::Busy => ReasonCode::SERVER_BUSY,
        Refusal::Administrator { .. } => ReasonCode::ADMINISTRATIVE_ACTION,
        Refusal::Quota { .. } | Refusal::DeadLettered | Refusal::DiskFull | Refusal::MemoryFull => {
            ReasonCode::QUOTA_EXCEEDED
        }
        Refusal::Unsupported { .. }
        | Refusal::Invalid { .. }
        | Refusal::Queue(_)
        | Refusal::Exchange(_)
        | Refusal::Input(_) => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
        Refusal::Unavailable { .. } | Refusal::NotLeader { .. } | Refusal::ShuttingDown => {
            ReasonCode::UNSPECIFIED_ERROR
        }
    }
}

/// A code, unless the packet has no such: then that something is wrong.
fn fitting(reason: ReasonCode, fits: fn(ReasonCode) -> bool) -> ReasonCode {
    if fits(reason) { reason } else { ReasonCode::UNSPECIFIED_ERROR }
}

/// PUBACK and PUBREC [MQTT-3.4.2-1].
pub(super) fn of_publish(refusal: &Refusal) -> ReasonCode {
    fitting(nearest(refusal), ReasonCode::fits_puback)
}

/// SUBACK [MQTT-3.9.3-2].
pub(super) fn of_subscribe(refusal: &Refusal) -> ReasonCode {
    match refusal {
        Refusal::Address(_) => ReasonCode::TOPIC_FILTER_INVALID,
        other => fitting(nearest(other), ReasonCode::fits_suback),
    }
}

/// UNSUBACK, which has no code for quotas [MQTT-3.11.3-2].
pub(super) fn of_unsubscribe(refusal: &Refusal) -> ReasonCode {
    fitting(of_subscribe(refusal), ReasonCode::fits_unsuback)
}

/// DISCONNECT, which has no code for credentials that are wrong [MQTT-3.14.2-1].
pub(super) fn of_disconnect(refusal: &Refusal) -> ReasonCode {
    match nearest(refusal) {
        ReasonCode::BAD_USER_NAME_OR_PASSWORD | ReasonCode::BAD_AUTHENTICATION_METHOD => {
            ReasonCode::NOT_AUTHORIZED
        }
        reason => fitting(reason, ReasonCode::fits_disconnect),
    }
}

/// CONNACK of 5.0 [MQTT-3.2.2-8].
pub(super) fn of_connect(refusal: &Refusal) -> ReasonCode {
    match refusal {
        Refusal::DiskFull
        | Refusal::MemoryFull
        | Refusal::Unavailable { .. }
        | Refusal::NotLeader { .. }
        | Refusal::ShuttingDown => ReasonCode::SERVER_UNAVAILABLE,
        other => fitting(nearest(other), ReasonCode::fits_connack),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Authenticating again in vain once ended with a code that DISCONNECT does not have.
    #[test]
    fn every_refusal_has_a_code_of_its_packet() {
        let refusals = [
            Refusal::Address(AddressError::Name),
            Refusal::NotAuthorized,
            Refusal::CredentialsNeeded,
            Refusal::NotOwner,
            Refusal::BadCredentials,
            Refusal::AuthenticationMethod,
            Refusal::Throttled,
            Refusal::ConnectionRate { limit: "it" },
            Refusal::Busy,
            Refusal::Quota { limit: "it" },
            Refusal::DeadLettered,
            Refusal::DiskFull,
            Refusal::MemoryFull,
            Refusal::Unsupported { what: "it" },
            Refusal::Unavailable { partition: 1 },
            Refusal::ShuttingDown,
            Refusal::Administrator { reason: "it".to_owned() },
        ];
        for refusal in &refusals {
            assert!(of_connect(refusal).fits_connack(), "{refusal:?}");
            assert!(of_publish(refusal).fits_puback(), "{refusal:?}");
            assert!(of_subscribe(refusal).fits_suback(), "{refusal:?}");
            assert!(of_unsubscribe(refusal).fits_unsuback(), "{refusal:?}");
            assert!(of_disconnect(refusal).fits_disconnect(), "{refusal:?}");
            let is_error = |reason: ReasonCode| reason.is_error();
            let all = [of_connect, of_publish, of_subscribe, of_unsubscribe, of_disconnect];
            assert!(all.iter().all(|of| is_error(of(refusal))), "{refusal:?}");
        }
        assert_eq!(of_disconnect(&Refusal::BadCredentials), ReasonCode::NOT_AUTHORIZED);
        assert_eq!(of_disconnect(&Refusal::Busy), ReasonCode::SERVER_BUSY);
        let administrator = Refusal::Administrator { reason: String::new() };
        assert_eq!(of_disconnect(&administrator), ReasonCode::ADMINISTRATIVE_ACTION);
    }
}
