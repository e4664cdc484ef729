//! What a reader has without reading it: stored messages that were passed on to its connection as they came (ADR 0040).
//!
//! A retained publish of QoS 0 is both stored and passed on. Whoever has plain subscriptions has it when it is passed on, or not at all: no
//! reader of such hands out its record. What is retained when a subscription begins comes with that, and replays and groups read everything.

use fluxmq_index::Offset;

use super::request::{ConnectionId, Event, Outbox};
use crate::planted::{PlantedBug, is_planted};

/// How a reader's connection listens.
#[derive(Debug, Default)]
pub struct Listening {
    /// What its subscriptions begin with is stored below; `None` for one that is passed on nothing.
    from: Option<Offset>,
    keeps_place: bool,
    /// Attaches that are not told yet that everything they begin with is handed out.
    beginning: u32,
    /// After the last record that was skipped, where the connection is to be told.
    passed: Option<Offset>,
}

impl Listening {
    /// Plain subscriptions are added at `at`.
    pub fn begin(&mut self, at: Offset, keeps_place: bool) {
        self.from.get_or_insert(at);
        self.keeps_place = keeps_place;
        self.beginning += 1;
    }

    /// Returns true when everything below `next` is all that its subscriptions begin with.
    pub fn is_begun(&self, next: Offset) -> bool {
        self.from.is_some_and(|from| next >= from)
    }

    /// Returns true for the record of a message that was passed on, where it is not handed out again.
    pub fn skips(&mut self, offset: Offset) -> bool {
        let skips = self.from.is_some() && !is_planted(PlantedBug::RetainedQos0Waits);
        if skips && self.keeps_place {
            self.passed = Some(offset.next());
        }
        skips
    }

    /// Returns true when the connection is to be told something, once its reader has handed out what it begins with.
    pub fn is_untold(&self) -> bool {
        self.beginning > 0 || self.passed.is_some()
    }

    /// Returns true when there is something to tell right now.
    pub fn has_news(&self, is_level: bool) -> bool {
        self.passed.is_some() || (self.beginning > 0 && is_level)
    }

    /// Tells what there is to tell right now.
    pub fn tell(&mut self, is_level: bool, to: ConnectionId, out: &mut impl Outbox) {
        if let Some(next) = self.passed.take() {
            out.send(to, Event::Passed { next });
        }
        if is_level {
            (0..self.beginning).for_each(|_| out.send(to, Event::Level));
            self.beginning = 0;
        }
    }
}
