//! Bytes to frames, methods, tables and content, and back.
//!
//! A connection's bytes are the protocol header and then frames ([`frame`]). A method's frame holds its class, its number and its
//! fields ([`method`]); content is a header frame ([`content`]) and body frames. Nothing is allocated for what is read: strings,
//! tables and bodies are slices of what came in, and tables stay encoded, their nesting checked once ([`table`]).

pub mod content;
pub mod field;
pub mod frame;
pub mod method;
pub mod table;

#[cfg(test)]
mod golden;
#[cfg(test)]
pub(super) mod strategies;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub use content::{ContentHeader, Properties, Property};
pub use field::ShortString;
pub use frame::{Frame, FrameKind, Greeting};
pub use method::Method;
pub use table::{Array, Table, Value};

use super::ReplyCode;

/// Why bytes are not what they should be. After one of these the connection has no meaning any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// §4.2.3: every frame ends with one octet that is always the same.
    #[error("a frame ends with octet {found} instead of 206")]
    FrameEnd {
        /// What is there.
        found: u8,
    },
    /// §4.2.3: method, header, body and heartbeat are all there is.
    #[error("there is no frame of type {kind}")]
    FrameKind {
        /// As received.
        kind: u8,
    },
    /// More than was agreed on.
    #[error("a frame of {bytes} bytes is larger than the agreed {bytes_max}")]
    FrameTooLarge {
        /// Declared, header and end included.
        bytes: u64,
        /// Agreed.
        bytes_max: u32,
    },
    /// §4.2.7: a heartbeat has no channel and says nothing.
    #[error(
        "a heartbeat on channel {channel} with {bytes} bytes: it has neither channel nor payload"
    )]
    Heartbeat {
        /// As received.
        channel: u16,
        /// Of its payload.
        bytes: usize,
    },
    /// A field is longer than what is left.
    #[error("a field runs past the end of {what}")]
    Short {
        /// What it is in.
        what: &'static str,
    },
    /// Bytes that belong to no field.
    #[error("{bytes} bytes are left behind the last field of {what}")]
    Trailing {
        /// What they are in.
        what: &'static str,
        /// How many.
        bytes: usize,
    },
    /// A letter that names no type.
    #[error("a table holds a value of unknown type {tag}")]
    ValueType {
        /// As received.
        tag: u8,
    },
    /// More than anybody means.
    #[error("tables are nested deeper than {depth_max} levels")]
    TooDeep {
        /// Allowed.
        depth_max: usize,
    },
    /// No method of the protocol.
    #[error("class {class} has no method {method}")]
    UnknownMethod {
        /// As received.
        class: u16,
        /// As received.
        method: u16,
    },
    /// Only basic has content.
    #[error("class {class} has no content")]
    ContentClass {
        /// As received.
        class: u16,
    },
    /// §4.2.6.1: it is reserved, and 0.
    #[error("the weight of a content header is {weight} and must be 0")]
    Weight {
        /// As received.
        weight: u16,
    },
    /// Properties that the class does not have.
    #[error("property flags {flags:#06x} name properties that do not exist")]
    PropertyFlags {
        /// The word in which they are.
        flags: u16,
    },
}

impl DecodeError {
    /// The reply code to close the connection with.
    pub fn reply(&self) -> ReplyCode {
        match self {
            DecodeError::FrameEnd { .. }
            | DecodeError::FrameKind { .. }
            | DecodeError::FrameTooLarge { .. }
            | DecodeError::Heartbeat { .. } => ReplyCode::FrameError,
            DecodeError::Short { .. }
            | DecodeError::Trailing { .. }
            | DecodeError::ValueType { .. }
            | DecodeError::TooDeep { .. }
            | DecodeError::Weight { .. }
            | DecodeError::PropertyFlags { .. } => ReplyCode::SyntaxError,
            DecodeError::UnknownMethod { .. } => ReplyCode::NotImplemented,
            DecodeError::ContentClass { .. } => ReplyCode::UnexpectedFrame,
        }
    }
}
