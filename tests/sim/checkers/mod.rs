//! What must hold, each with the name it has in the design: some looked at all the time, the others at the end.
//!
//! All of them know the history, the oracle's own ledger and what replicas answer when asked; none trusts what the broker thinks.

pub mod delivery;
pub mod group;
pub mod observer;
pub mod queues;
pub mod replays;
pub mod stored;
pub mod views;
pub mod wills;

use std::fmt;

pub use observer::Observer;

/// An invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// No acknowledged loss: what was acknowledged is in the log.
    I1,
    /// No phantom: what is in the log was published, and not refused.
    I2,
    /// No duplicate append of a QoS 2 publish.
    I3,
    /// One offset, one value: for every replica, at all times.
    I4,
    /// One producer's order within a topic.
    I5,
    /// Real-time order: acknowledged before another was begun, stored before it.
    I6,
    /// Committed prefixes are the same on all replicas, byte for byte.
    I7,
    /// Commit and durable positions never go back, nor across a restart.
    I8,
    /// One leader appends in a term, and nobody votes twice in one.
    I9,
    /// At least once: what was acknowledged reaches every durable subscription.
    I10,
    /// Exactly once at QoS 2.
    I11,
    /// Deliveries follow the producer's order.
    I12,
    /// Nothing is delivered before it is committed.
    I13,
    /// Cursors never go back and never skip.
    I14,
    /// Views are the fold of the log.
    I15,
    /// So are a snapshot and what comes after it.
    I16,
    /// The last retained message of a topic is the one that is kept.
    I17,
    /// A will is published once, when its connection ended without a goodbye, and otherwise not.
    I18,
    /// Nothing is sent on a connection once its session belongs to another.
    I19,
    /// An entry of a queue is at one member at a time.
    I20,
    /// Nothing is handed out after its time.
    I21,
    /// Nothing grows beyond its bound.
    I24,
    /// Once nothing goes wrong any more, everything ends and replicas are equal.
    I25,
    /// An entry of a queue that is settled is never handed out again to that group.
    I27,
    /// What a queue captured ends by a client's word, by a rule that was due, or as a dead letter, once.
    I28,
    /// A group's numbers agree with one another and with the log after every step: committed, finished, how often, when again.
    I29,
    /// A replay hands out exactly what matches from its beginning on, in order, and goes on live without a gap.
    I30,
    /// A queue is handed out in its order. A stream's readers are given everything, and are moved on by what they settle alone.
    I31,
    /// A queue that follows history has each record that matches once, in order, from where history began when it was first asked.
    I32,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: Invariant,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}

/// Says what is wrong.
pub fn wrong<T>(invariant: Invariant, what: String) -> Result<T, Violation> {
    Err(Violation { invariant, what })
}

/// Whether a topic matches one of the few shapes of filters that clients here use.
pub fn matches(filter: &str, topic: &str) -> bool {
    match filter.strip_suffix("/#") {
        Some(prefix) => {
            topic.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        None => filter == topic,
    }
}
