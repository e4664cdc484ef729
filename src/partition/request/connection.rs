//! What connections of a process ask of one another. It never comes to a partition: [`Live`](crate::broker::Live) hands it over.

use super::ConnectionId;
use crate::model::{ConnectionDescription, ConnectionQuestion, Token};

/// A question to connections of clients.
#[derive(Clone, Debug)]
pub struct AskConnections {
    /// Echoed.
    pub token: Token,
    /// Who is asked.
    pub whom: Whom,
    /// What.
    pub question: ConnectionQuestion,
}

/// Connections of clients that have opened their sessions, or are about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// One.
    One(ConnectionId),
    /// Those from one on, by number, so many at most.
    From(ConnectionId, usize),
}

/// A question as a connection gets it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who asks.
    pub by: ConnectionId,
    /// To be echoed.
    pub token: Token,
    /// What.
    pub question: ConnectionQuestion,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Told {
    /// Echoed.
    pub token: Token,
    /// What is said.
    pub answer: ToldOf,
}

/// What is said of a question.
#[derive(Clone, Debug)]
pub enum ToldOf {
    /// By who was asked to hand it over. Comes first.
    HandedTo {
        /// So many connections.
        count: usize,
        /// The one with the highest number.
        last: Option<ConnectionId>,
    },
    /// By one of them.
    Described(Box<ConnectionDescription>),
    /// One of them has ended.
    Gone,
}
