//! Reason codes (MQTT 5 §2.4) and the return codes of CONNACK and SUBACK in 3.1 and 3.1.1.
//!
//! One byte with names. Which of them a packet may carry is a table here; what they mean for us is the connection's business.

/// The result of an operation: below 0x80 it succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReasonCode(pub u8);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl ReasonCode {
            $($(#[$doc])* pub const $name: ReasonCode = ReasonCode($value);)*
        }
    };
}

codes! {
    /// Done; also granted QoS 0, and normal disconnection.
    SUCCESS = 0x00;
    /// Granted QoS 1.
    GRANTED_QOS_1 = 0x01;
    /// Granted QoS 2.
    GRANTED_QOS_2 = 0x02;
    /// The client leaves but wants its will published.
    DISCONNECT_WITH_WILL = 0x04;
    /// Accepted, nobody subscribes; for `$ack`: nothing was pending.
    NO_MATCHING_SUBSCRIBERS = 0x10;
    /// There was no such subscription.
    NO_SUBSCRIPTION_EXISTED = 0x11;
    /// Another step of authentication follows.
    CONTINUE_AUTHENTICATION = 0x18;
    /// The client starts authenticating again.
    REAUTHENTICATE = 0x19;
    /// No better code; in SUBACK of 3.1.1 the only failure.
    UNSPECIFIED_ERROR = 0x80;
    /// Cannot be parsed.
    MALFORMED_PACKET = 0x81;
    /// Not allowed here, or now.
    PROTOCOL_ERROR = 0x82;
    /// Valid, not accepted by us.
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83;
    /// We do not speak that version.
    UNSUPPORTED_PROTOCOL_VERSION = 0x84;
    /// A client id we do not accept.
    CLIENT_IDENTIFIER_NOT_VALID = 0x85;
    /// Unknown user or wrong password.
    BAD_USER_NAME_OR_PASSWORD = 0x86;
    /// Not allowed to this client.
    NOT_AUTHORIZED = 0x87;
    /// The server cannot serve.
    SERVER_UNAVAILABLE = 0x88;
    /// Try again later.
    SERVER_BUSY = 0x89;
    /// Banned by an administrator.
    BANNED = 0x8A;
    /// The server stops.
    SERVER_SHUTTING_DOWN = 0x8B;
    /// An authentication method we do not have.
    BAD_AUTHENTICATION_METHOD = 0x8C;
    /// Silent for one and a half times the keep alive.
    KEEP_ALIVE_TIMEOUT = 0x8D;
    /// Another connection uses the client id.
    SESSION_TAKEN_OVER = 0x8E;
    /// A well-formed filter we do not accept.
    TOPIC_FILTER_INVALID = 0x8F;
    /// A well-formed topic we do not accept.
    TOPIC_NAME_INVALID = 0x90;
    /// The packet id is in use.
    PACKET_IDENTIFIER_IN_USE = 0x91;
    /// The packet id is not known.
    PACKET_IDENTIFIER_NOT_FOUND = 0x92;
    /// More unacknowledged publishes than announced.
    RECEIVE_MAXIMUM_EXCEEDED = 0x93;
    /// An alias of 0 or above the announced maximum.
    TOPIC_ALIAS_INVALID = 0x94;
    /// Larger than announced.
    PACKET_TOO_LARGE = 0x95;
    /// Too fast.
    MESSAGE_RATE_TOO_HIGH = 0x96;
    /// A limit of ours is reached.
    QUOTA_EXCEEDED = 0x97;
    /// Closed by an administrator.
    ADMINISTRATIVE_ACTION = 0x98;
    /// The payload is not what its format indicator says.
    PAYLOAD_FORMAT_INVALID = 0x99;
    /// Retained messages are not supported.
    RETAIN_NOT_SUPPORTED = 0x9A;
    /// A QoS above the announced maximum.
    QOS_NOT_SUPPORTED = 0x9B;
    /// Use another server for now.
    USE_ANOTHER_SERVER = 0x9C;
    /// Use another server for good.
    SERVER_MOVED = 0x9D;
    /// Shared subscriptions are not supported.
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E;
    /// Connections come too fast.
    CONNECTION_RATE_EXCEEDED = 0x9F;
    /// Connected for longer than allowed.
    MAXIMUM_CONNECT_TIME = 0xA0;
    /// Subscription identifiers are not supported.
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1;
    /// Wildcard subscriptions are not supported.
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2;
    /// CONNACK 3.x: we do not speak that version.
    V3_UNACCEPTABLE_PROTOCOL_VERSION = 0x01;
    /// CONNACK 3.x: a client id we do not accept.
    V3_IDENTIFIER_REJECTED = 0x02;
    /// CONNACK 3.x: the server cannot serve.
    V3_SERVER_UNAVAILABLE = 0x03;
    /// CONNACK 3.x: unknown user or wrong password.
    V3_BAD_USER_NAME_OR_PASSWORD = 0x04;
    /// CONNACK 3.x: not allowed to this client.
    V3_NOT_AUTHORIZED = 0x05;
}

impl ReasonCode {
    /// Returns true for 0x80 and above.
    pub fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// MQTT 5 §3.2.2.2.
    pub(super) fn fits_connack(self) -> bool {
        matches!(self.0, 0 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
    }

    /// MQTT 5 §3.4.2.1, §3.5.2.1.
    pub(super) fn fits_puback(self) -> bool {
        matches!(self.0, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
    }

    /// MQTT 5 §3.6.2.1, §3.7.2.1.
    pub(super) fn fits_pubrel(self) -> bool {
        matches!(self.0, 0 | 0x92)
    }

    /// MQTT 5 §3.9.3.
    pub(super) fn fits_suback(self) -> bool {
        matches!(self.0, 0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
    }

    /// MQTT 5 §3.11.3.
    pub(super) fn fits_unsuback(self) -> bool {
        matches!(self.0, 0 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
    }

    /// MQTT 5 §3.14.2.1.
    pub(super) fn fits_disconnect(self) -> bool {
        matches!(self.0, 0 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2)
    }

    /// MQTT 5 §3.15.2.1.
    pub(super) fn fits_auth(self) -> bool {
        matches!(self.0, 0 | 0x18 | 0x19)
    }
}

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "0x{:02X}", self.0)
    }
}
