//! What a reader has without reading it: stored messages that were passed on to its connection as they came (ADR 0044).
//!
//! A retained publish of QoS 0 is both stored and passed on. Requests that change who listens and such publishes come to the partition
//! in the order in which the one changed what became of the other, so a reader knows which records its connection has: those between
//! its first attach and its detach. The records before are what it missed; they are read like all others.

use fluxmq_index::Offset;

use super::request::{ConnectionId, Event, Outbox};
use crate::planted::{PlantedBug, is_planted};

/// How a reader's connection listens.
#[derive(Debug)]
pub struct Listening {
    /// What was stored from here on
    from: Offset,
    /// and below was passed on.
    until: Offset,
    keeps_place: bool,
    /// Attaches that are not told yet that everything they begin with is handed out.
    beginning: u32,
    /// True when the connection does not wait for that.
    gave_up: bool,
    /// After the last record that was skipped, where the connection is to be told.
    passed: Option<Offset>,
}

impl Default for Listening {
    /// A reader that was passed on nothing: what it has, it reads.
    fn default() -> Listening {
        let never = Offset(u64::MAX);
        let (keeps_place, gave_up) = (false, false);
        Listening { from: never, until: never, keeps_place, beginning: 0, gave_up, passed: None }
    }
}

impl Listening {
    /// Plain subscriptions are added at `at`.
    pub fn begin(&mut self, at: Offset, keeps_place: bool) {
        self.from = self.from.min(at);
        self.keeps_place = keeps_place;
        self.beginning += 1;
        self.gave_up = false;
    }

    /// The connection does not listen any more.
    pub fn end(&mut self, at: Offset) {
        self.until = at;
    }

    /// Gives up what was missed.
    pub fn give_up(&mut self) {
        self.from = Offset::ZERO;
        self.gave_up = true;
    }

    /// Where records that are passed on begin.
    pub fn from(&self) -> Offset {
        self.from
    }

    /// Returns true for the record of a message that was passed on to the connection, of those that are passed on: it is not handed out
    /// again.
    pub fn has(&mut self, offset: Offset) -> bool {
        let has = self.from <= offset
            && offset < self.until
            && !is_planted(PlantedBug::RetainedQos0Waits);
        if has && self.keeps_place {
            self.passed = Some(offset.next());
        }
        has
    }

    /// Returns true when the connection is to be told something, once its reader has handed out what it begins with.
    pub fn is_untold(&self) -> bool {
        self.beginning > 0 || self.passed.is_some()
    }

    /// Returns true when there is something to tell right now.
    pub fn has_news(&self, is_level: bool) -> bool {
        self.passed.is_some() || (self.beginning > 0 && (is_level || self.gave_up))
    }

    /// Tells what there is to tell right now.
    pub fn tell(&mut self, is_level: bool, to: ConnectionId, out: &mut impl Outbox) {
        if let Some(next) = self.passed.take() {
            out.send(to, Event::Passed { next });
        }
        if is_level || self.gave_up {
            (0..self.beginning).for_each(|_| out.send(to, Event::Level));
            self.beginning = 0;
        }
    }
}
