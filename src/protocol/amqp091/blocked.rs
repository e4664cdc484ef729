//! `connection.blocked`: RabbitMQ's word to those who publish while the broker takes no publishes.
//!
//! Who has published is read no further until it is over; who has not goes on, consumes and acknowledges. The first publish of a
//! connection meanwhile waits here, so nothing that is sent is refused for it.

use super::codec::ShortString;
use super::codec::method::{ConnectionBlocked, ConnectionUnblocked};
use super::connection::AmqpConnection;
use crate::model::{Command, Refusal};

/// Whether a connection publishes, and whether it may.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    has_begun: bool,
    /// What publishes are refused with.
    refused: Option<Refusal>,
    /// Came while they were.
    withheld: Option<Box<Command>>,
}

impl AmqpConnection {
    /// Returns true for one that publishes while no publishes are taken.
    pub(super) fn is_blocked(&self) -> bool {
        self.publishing.has_begun && self.publishing.refused.is_some()
    }

    /// Passes a publish on when publishes are taken.
    pub(super) fn pass_on(&mut self, publish: Command) {
        self.note_publish();
        if !self.is_blocked() {
            return self.commands.push_back(publish);
        }
        // Input ends with it.
        assert!(self.publishing.withheld.replace(Box::new(publish)).is_none(), "one publish waits");
    }

    /// The client publishes: from here on it is told. What a transaction gathers waits there, since its commit is not read.
    pub(super) fn note_publish(&mut self) {
        let was_blocked = self.is_blocked();
        self.publishing.has_begun = true;
        if self.is_blocked() && !was_blocked {
            self.say_blocked();
        }
    }

    /// The broker takes no publishes from here on, or takes them again.
    pub(super) fn on_publishing(&mut self, result: Result<(), Refusal>) {
        let was_blocked = self.is_blocked();
        self.publishing.refused = result.err();
        match (was_blocked, self.is_blocked()) {
            (false, true) => self.say_blocked(),
            (true, false) => {
                self.commands.extend(self.publishing.withheld.take().map(|publish| *publish));
                if self.client.hears_of_blocked {
                    self.send(0, ConnectionUnblocked::default());
                }
            }
            (true, true) | (false, false) => {}
        }
    }

    /// The connection is over.
    pub(super) fn forget_withheld(&mut self) {
        self.publishing.withheld = None;
    }

    fn say_blocked(&mut self) {
        if !self.client.hears_of_blocked {
            return;
        }
        let reason = match self.publishing.refused {
            Some(Refusal::MemoryFull) => "low on memory",
            _ => "low on disk",
        };
        self.send(0, ConnectionBlocked { reason: ShortString::from_static(reason) });
    }
}
