//! Whose turn it is to hand out.

use fluxmq_index::Offset;

use super::{Groups, Next};
use crate::model::Selection;
use crate::partition::consumers::Consumers;
use crate::view::GroupKey;

impl Groups {
    /// Lists what groups can hand out: at most `limit` entries each, and none to a group that has `pending_max` out.
    pub fn next(&self, limit: usize, pending_max: usize, end: impl Fn(u64) -> Offset) -> Vec<Next> {
        let next = |(key, consumers): (&GroupKey, &Consumers)| {
            let end = match consumers.reads {
                Selection::Queue(_) => end(key.0),
                Selection::Topics(_) => consumers.end,
            };
            let room = pending_max.saturating_sub(consumers.held_count());
            let credit = consumers.credit().min(limit).min(room);
            (credit > 0 && consumers.has_more(end)).then(|| Next::of(key, consumers, credit))
        };
        self.in_turn().filter_map(next).collect()
    }

    /// All groups, beginning with the one that is next.
    fn in_turn(&self) -> impl Iterator<Item = (&GroupKey, &Consumers)> {
        let (from, before) = match &self.turn {
            None => (self.by_key.range::<GroupKey, _>(..), None),
            Some(turn) => (self.by_key.range(turn..), Some(self.by_key.range(..turn))),
        };
        from.chain(before.into_iter().flatten())
    }

    /// Everything was handed out that there is room for. Where a connection has no room for some of its consumers, they are next: whoever comes
    /// first in the order of groups would take what others wait for.
    pub fn note_turn(&mut self, end: impl Fn(u64) -> Offset) {
        if !self.pools.values().any(|pool| pool.is_used_up()) {
            self.turn = None;
            return;
        }
        let waits = |(key, consumers): &(&GroupKey, &Consumers)| {
            consumers.waits_for_others() && consumers.has_more(end(key.0))
        };
        let next = self.in_turn().find(waits).map(|(key, _)| key.clone());
        self.turn = next;
    }
}
