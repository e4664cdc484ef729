//! Why a command did not do what it was asked, and the exit code that says so.

use thiserror::Error;

use crate::client::{ClientError, RequestError};

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
    #[error("{0}")]
    Refused(String),
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
            | CtlError::Refused(_)
            | CtlError::Timeout(_)
            | CtlError::Output(_) => 1,
            CtlError::Connection(_) => 2,
            CtlError::Usage(_) => 3,
        }
    }

    /// Returns the error as one JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": self.to_string(), "exit_code": self.exit_code() })
    }
}
