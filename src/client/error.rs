//! Why a connection ended, and why a request was not sent.

use thiserror::Error;

use super::endpoint::UrlError;
use crate::auth::scram::ProofError;
use crate::model::QoS;
use crate::protocol::mqtt::codec::{DecodeError, EncodeError};
use crate::protocol::mqtt::property::{Property, PropertyList};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::Version;

/// Why a connection was not made or is over. The session is kept.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers at the address.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server did not complete the handshake.
    #[error("no answer to CONNECT within {timeout_ms} ms")]
    ConnectTimeout {
        /// How long was waited.
        timeout_ms: u64,
    },
    /// TLS could not be set up, or the server is not who it should be.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The server does not open a WebSocket for us.
    #[error("the WebSocket was not opened: {0}")]
    WebSocket(String),
    /// The address is none.
    #[error("{0}")]
    Address(#[from] UrlError),
    /// The server refused the connection.
    #[error("the connection was refused: {}", described(*.reason, .text))]
    Refused {
        /// CONNACK's code.
        reason: ReasonCode,
        /// The server's words, if it sent any.
        text: String,
    },
    /// The server ended the connection and said why.
    #[error("the server disconnected: {}", described(*.reason, .text))]
    Disconnected {
        /// DISCONNECT's code.
        reason: ReasonCode,
        /// The server's words, if it sent any.
        text: String,
    },
    /// The server closed the stream without a word.
    #[error("the server closed the connection")]
    Closed,
    /// The stream broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The server sent what is not MQTT.
    #[error("the server sent an invalid packet: {0}")]
    Decode(#[from] DecodeError),
    /// The server sent what MQTT does not allow here.
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    /// The server could not be convinced, or could not convince us.
    #[error("authentication failed: {0}")]
    Authentication(#[from] ProofError),
    /// The server sent more unacknowledged deliveries than allowed.
    #[error("the server has more than {receive_maximum} deliveries unacknowledged")]
    ReceiveMaximum {
        /// What was announced.
        receive_maximum: u16,
    },
    /// The server is silent.
    #[error("no answer to PINGREQ within {timeout_ms} ms")]
    NoPingResponse {
        /// How long was waited.
        timeout_ms: u64,
    },
}

/// Why a request was not sent; nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The connection is not open.
    #[error("not connected")]
    NotConnected,
    /// As many publishes are unfinished as allowed: wait for one to finish.
    #[error("{inflight_max} publishes are unfinished")]
    WindowFull {
        /// The lower of ours and the server's.
        inflight_max: usize,
    },
    /// All 65535 packet ids are in use.
    #[error("no packet id is free")]
    NoPacketId,
    /// Above what the server takes.
    #[error("a packet of {bytes} bytes is larger than the server's maximum of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What the server announced.
        bytes_max: usize,
    },
    /// The server does not do this QoS.
    #[error("QoS {} is above the server's maximum of {}", *.qos as u8, *.qos_max as u8)]
    Qos {
        /// Asked for.
        qos: QoS,
        /// What the server announced.
        qos_max: QoS,
    },
    /// The server keeps no retained messages.
    #[error("the server does not support retained messages")]
    Retain,
    /// A field is too long for MQTT.
    #[error("{0}")]
    Encode(#[from] EncodeError),
}

/// The reason string of a packet.
pub(super) fn text_of(properties: &PropertyList) -> String {
    let text = properties.find(|property| match property {
        Property::ReasonString(text) => Some(String::from_utf8_lossy(&text).into_owned()),
        _ => None,
    });
    text.unwrap_or_default()
}

/// Returns the code of 5.0 that means what a CONNACK return code of 3.1.1 means (§3.2.2.3).
pub(super) fn unified(reason: ReasonCode, version: Version) -> ReasonCode {
    match reason.0 {
        _ if version.is_v5() => reason,
        1 => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        2 => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
        3 => ReasonCode::SERVER_UNAVAILABLE,
        4 => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        5 => ReasonCode::NOT_AUTHORIZED,
        _ => ReasonCode::UNSPECIFIED_ERROR,
    }
}

fn described(reason: ReasonCode, text: &str) -> String {
    match (reason_words(reason), text) {
        (words, "") => format!("{reason} {words}"),
        (words, text) => format!("{reason} {words}: {text}"),
    }
}

/// Returns a reason code in words. The codes 1 to 5 of a 3.1.1 CONNACK are not among them: [`Machine`](super::Machine)
/// translates those.
pub fn reason_words(reason: ReasonCode) -> &'static str {
    match reason.0 {
        0x00 => "success",
        0x01 => "granted QoS 1",
        0x02 => "granted QoS 2",
        0x04 => "disconnect with will",
        0x10 => "no matching subscribers",
        0x11 => "no subscription existed",
        0x18 => "continue authentication",
        0x19 => "re-authenticate",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorized",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8A => "banned",
        0x8B => "server shutting down",
        0x8C => "bad authentication method",
        0x8D => "keep alive timeout",
        0x8E => "session taken over",
        0x8F => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x92 => "packet identifier not found",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9A => "retain not supported",
        0x9B => "QoS not supported",
        0x9C => "use another server",
        0x9D => "server moved",
        0x9E => "shared subscriptions not supported",
        0x9F => "connection rate exceeded",
        0xA0 => "maximum connect time",
        0xA1 => "subscription identifiers not supported",
        0xA2 => "wildcard subscriptions not supported",
        _ => "unknown reason",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_its_code_in_words_and_what_the_server_added() {
        let bare = ClientError::Refused { reason: ReasonCode(0x87), text: String::new() };
        let told = ClientError::Refused { reason: ReasonCode(0x97), text: "full".to_owned() };

        assert_eq!(bare.to_string(), "the connection was refused: 0x87 not authorized");
        assert_eq!(told.to_string(), "the connection was refused: 0x97 quota exceeded: full");
    }
}
