//! What members have settled, on its way into the log.
//!
//! A group that nobody reads is forgotten once all of it is applied, and no earlier: who came meanwhile would begin with what the view
//! knows, and be handed what is settled.

use fluxmq_index::Offset;

use super::Groups;
use crate::model::{Control, Selection};
use crate::partition::consumers::Consumers;
use crate::planted::{PlantedBug, is_planted};
use crate::view::GroupKey;

impl Groups {
    /// Returns true when outcomes wait to be written.
    pub fn has_outcomes(&self) -> bool {
        self.by_key.values().any(Consumers::has_outcomes)
    }

    /// Takes the outcomes that are not written yet, one control for each group.
    pub fn take_outcomes(&mut self) -> Vec<Control> {
        let waiting = self.by_key.iter_mut().filter(|(_, consumers)| consumers.has_outcomes());
        let mut outcomes = Vec::new();
        for ((selection, group), consumers) in waiting {
            if consumers.own.is_some() {
                // It ends with its consumer, and what comes after it begins anew.
                consumers.forget_outcomes();
                continue;
            }
            let (selection, group) = (*selection, group.clone());
            let entries = std::mem::take(&mut consumers.postponed);
            if !entries.is_empty() {
                let (queue, group) = (selection, group.clone());
                outcomes.push(Control::Postponed { queue, group, entries });
                consumers.outcome_written(0);
            }
            let finished = std::mem::take(&mut consumers.finished);
            let released = std::mem::take(&mut consumers.released);
            if finished.is_empty() && released.is_empty() {
                continue;
            }
            let finished = match consumers.reads {
                // Who has read an entry of a stream has read all before it.
                Selection::Queue(_)
                    if consumers.is_stream() && !is_planted(PlantedBug::StreamSettledAlone) =>
                {
                    let ahead = u64::from(is_planted(PlantedBug::StreamSettlesAhead));
                    let last = finished.iter().max();
                    last.map(|last| (Offset::ZERO, last.0 + 1 + ahead)).into_iter().collect()
                }
                Selection::Queue(_) => to_runs(finished),
                Selection::Topics(_) => consumers.to_ranges(finished),
            };
            consumers.outcome_written(finished.iter().map(|(_, count)| count).sum());
            outcomes.push(Control::Settled { selection, group, finished, released });
        }
        let filters = &mut self.filters;
        self.by_key.retain(|key, consumers| {
            let stays = !consumers.is_idle();
            if let (false, Selection::Topics(filter)) = (stays, &consumers.reads) {
                filters.remove(filter.as_bytes(), key);
            }
            stays
        });
        outcomes
    }

    /// A record of outcomes is applied: these runs of entries are finished with it.
    pub fn outcome_applied(&mut self, key: &GroupKey, finished: &[(Offset, u64)]) {
        if let Some(consumers) = self.by_key.get_mut(key) {
            consumers.outcome_applied(finished);
        }
    }
}

/// Joins neighbouring entries into `(first, count)`.
fn to_runs(mut entries: Vec<Offset>) -> Vec<(Offset, u64)> {
    entries.sort_unstable();
    entries.dedup();
    let mut runs: Vec<(Offset, u64)> = Vec::new();
    for entry in entries {
        match runs.last_mut() {
            Some((first, count)) if first.plus(*count) == entry => *count += 1,
            _ => runs.push((entry, 1)),
        }
    }
    runs
}
