//! Why a command did not do what it was asked, and the exit code that says so.

use thiserror::Error;

use crate::client::{ClientError, RequestError};
use crate::protocol::mqtt::reason::ReasonCode;

/// Why a command ended early.
#[derive(Debug, Error)]
pub enum CtlError {
    /// The arguments contradict themselves, or name a file that cannot be read.
    #[error("{0}")]
    Usage(String),
    /// There is no connection, or it was lost.
    #[error("{0}")]
    Connection(#[from] ClientError),
    /// The broker takes no such request.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// The broker refused what was asked.
    #[error("{said}")]
    Refused {
        /// What, and why.
        said: String,
        /// The code it gave; none where the refusal is ours.
        reason: Option<ReasonCode>,
    },
    /// It did not happen in time.
    #[error("{0}")]
    Timeout(String),
    /// Standard output cannot be written.
    #[error("cannot write: {0}")]
    Output(std::io::Error),
}

impl CtlError {
    /// Returns the program's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            CtlError::Request(_)
            | CtlError::Refused { .. }
            | CtlError::Timeout(_)
            | CtlError::Output(_) => 1,
            CtlError::Connection(_) => 2,
            CtlError::Usage(_) => 3,
        }
    }

    /// Returns a refusal without a code.
    pub(super) fn refused(said: String) -> CtlError {
        CtlError::Refused { said, reason: None }
    }

    /// Returns the code that the broker gave, in CONNACK, DISCONNECT or an answer.
    fn reason(&self) -> Option<ReasonCode> {
        match self {
            CtlError::Refused { reason, .. } => *reason,
            CtlError::Connection(
                ClientError::Refused { reason, .. } | ClientError::Disconnected { reason, .. },
            ) => Some(*reason),
            _ => None,
        }
    }

    /// Returns the error as one JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        let mut object =
            serde_json::json!({ "error": self.to_string(), "exit_code": self.exit_code() });
        if let Some(reason) = self.reason() {
            object["reason_code"] = reason.0.into();
        }
        object
    }
}
