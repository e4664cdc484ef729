//! Why a channel or a connection is closed, or a message returned: the reply codes of AMQP 0.9.1 §1.2.

use std::fmt;

/// A reply code. Its number is what goes over the wire, its name what clients print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum ReplyCode {
    /// Nothing is wrong.
    Success = 200,
    /// The content is larger than the server takes at present.
    ContentTooLarge = 311,
    /// A mandatory message was routed nowhere.
    NoRoute = 312,
    /// An immediate message had nobody to go to.
    NoConsumers = 313,
    /// An operator, or the server's end, closes the connection.
    ConnectionForced = 320,
    /// The virtual host is not known.
    InvalidPath = 402,
    /// No right to it.
    AccessRefused = 403,
    /// It does not exist.
    NotFound = 404,
    /// Somebody else has it alone.
    ResourceLocked = 405,
    /// It is not as the request presumes.
    PreconditionFailed = 406,
    /// The bytes are no frames.
    FrameError = 501,
    /// A frame's fields are malformed.
    SyntaxError = 502,
    /// A method that must not come, or not now.
    CommandInvalid = 503,
    /// A channel that is not open, or is already.
    ChannelError = 504,
    /// A frame that must not come now.
    UnexpectedFrame = 505,
    /// More than the server can hold.
    ResourceError = 506,
    /// Forbidden by how the server is set up, whoever asks.
    NotAllowed = 530,
    /// Not done here.
    NotImplemented = 540,
    /// The server's own fault.
    InternalError = 541,
}

impl ReplyCode {
    /// Every code there is.
    pub const ALL: [ReplyCode; 19] = [
        ReplyCode::Success,
        ReplyCode::ContentTooLarge,
        ReplyCode::NoRoute,
        ReplyCode::NoConsumers,
        ReplyCode::ConnectionForced,
        ReplyCode::InvalidPath,
        ReplyCode::AccessRefused,
        ReplyCode::NotFound,
        ReplyCode::ResourceLocked,
        ReplyCode::PreconditionFailed,
        ReplyCode::FrameError,
        ReplyCode::SyntaxError,
        ReplyCode::CommandInvalid,
        ReplyCode::ChannelError,
        ReplyCode::UnexpectedFrame,
        ReplyCode::ResourceError,
        ReplyCode::NotAllowed,
        ReplyCode::NotImplemented,
        ReplyCode::InternalError,
    ];

    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// Reads the number on the wire.
    pub fn from_number(number: u16) -> Option<ReplyCode> {
        ReplyCode::ALL.into_iter().find(|code| code.number() == number)
    }

    /// The name that a reply text begins with, as in `NOT_FOUND - no queue 'q' in vhost '/'`.
    pub fn name(self) -> &'static str {
        match self {
            ReplyCode::Success => "SUCCESS",
            ReplyCode::ContentTooLarge => "CONTENT_TOO_LARGE",
            ReplyCode::NoRoute => "NO_ROUTE",
            ReplyCode::NoConsumers => "NO_CONSUMERS",
            ReplyCode::ConnectionForced => "CONNECTION_FORCED",
            ReplyCode::InvalidPath => "INVALID_PATH",
            ReplyCode::AccessRefused => "ACCESS_REFUSED",
            ReplyCode::NotFound => "NOT_FOUND",
            ReplyCode::ResourceLocked => "RESOURCE_LOCKED",
            ReplyCode::PreconditionFailed => "PRECONDITION_FAILED",
            ReplyCode::FrameError => "FRAME_ERROR",
            ReplyCode::SyntaxError => "SYNTAX_ERROR",
            ReplyCode::CommandInvalid => "COMMAND_INVALID",
            ReplyCode::ChannelError => "CHANNEL_ERROR",
            ReplyCode::UnexpectedFrame => "UNEXPECTED_FRAME",
            ReplyCode::ResourceError => "RESOURCE_ERROR",
            ReplyCode::NotAllowed => "NOT_ALLOWED",
            ReplyCode::NotImplemented => "NOT_IMPLEMENTED",
            ReplyCode::InternalError => "INTERNAL_ERROR",
        }
    }

    /// Returns true for a hard error: it closes the connection and not only the channel (§1.2).
    pub fn closes_connection(self) -> bool {
        !matches!(
            self,
            ReplyCode::Success
                | ReplyCode::ContentTooLarge
                | ReplyCode::NoRoute
                | ReplyCode::NoConsumers
                | ReplyCode::AccessRefused
                | ReplyCode::NotFound
                | ReplyCode::ResourceLocked
                | ReplyCode::PreconditionFailed
        )
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_on_the_wire_names_the_code() {
        for code in ReplyCode::ALL {
            assert_eq!(ReplyCode::from_number(code.number()), Some(code));
        }
        assert_eq!(ReplyCode::from_number(404), Some(ReplyCode::NotFound));
        assert_eq!(ReplyCode::from_number(0), None);
    }

    #[test]
    fn soft_errors_close_a_channel_and_hard_ones_the_connection() {
        let soft = |number: u16| !ReplyCode::from_number(number).unwrap().closes_connection();

        assert!([311, 313, 403, 404, 405, 406].into_iter().all(soft));
        let hard = [320, 402, 501, 502, 503, 504, 505, 506, 530, 540, 541];
        assert!(!hard.into_iter().any(soft));
    }
}
