//! What is needed below the new beginning of history: what is to be stored again before.

use std::collections::{BTreeMap, VecDeque};

use fluxmq_index::{Offset, OffsetRange};
use fluxmq_log::disk::Disk;

use super::Entries;
use crate::partition::history::HistoryError;
use crate::partition::options::Moves;
use crate::partition::{Partition, PartitionError, RECORDS_PER_TURN_MAX};

/// An entry of a queue that is needed.
#[derive(Clone, Copy, Debug)]
struct NeededEntry {
    queue: u64,
    entry: Offset,
    /// Its record.
    at: Offset,
    /// Where history cannot begin behind as long as the record stays there.
    pin: Offset,
}

impl<D: Disk> Partition<D> {
    /// Finds what is needed below `to`, or below where it would be too much for one step: each record with the entries that it is, those
    /// of a queue in their order, so that their places are few runs.
    pub(super) fn needed_below(
        &mut self,
        to: Offset,
    ) -> Result<(Offset, VecDeque<(Offset, Entries)>), PartitionError> {
        let records_max = self.options.moves.records_per_step;
        let (mut to, entries) = self.needed_by_queues(to)?;
        let alive = self.views.retained.alive(self.now).take_while(|offset| *offset < to);
        let mut alive: Vec<Offset> = alive.take(records_max + 1).collect();
        if alive.len() > records_max {
            to = alive.pop().expect("just seen");
        }
        let mut needed: BTreeMap<Offset, Entries> =
            alive.into_iter().map(|offset| (offset, Entries::new())).collect();
        for it in entries.into_iter().filter(|it| it.pin < to) {
            needed.entry(it.at).or_default().push((it.queue, it.entry));
        }
        let mut rest: Vec<(Offset, Entries)> = needed.into_iter().collect();
        rest.sort_by_key(|(_, entries)| entries.first().copied());
        Ok((to, rest.into()))
    }

    fn needed_by_queues(
        &mut self,
        mut to: Offset,
    ) -> Result<(Offset, Vec<NeededEntry>), HistoryError> {
        let queues = self.views.queues.iter();
        let mut old: Vec<(Offset, u64)> =
            queues.filter_map(|(id, queue)| Some((queue.oldest()?, id))).collect();
        old.sort_unstable();
        let Moves { records_per_step, runs_max } = self.options.moves;
        let may_move = self.views.queues.moved_run_count() < runs_max;
        let mut found = Vec::new();
        for (oldest, id) in old {
            if oldest >= to {
                break;
            }
            to = self.needed_moved(id, to, &mut found);
            to = self.needed_in_place(id, to, may_move, &mut found)?;
            if found.len() > 2 * records_per_step {
                to = cut(&mut found, to, records_per_step);
            }
        }
        to = cut(&mut found, to, records_per_step);
        Ok((to, found))
    }

    /// Entries that were moved once and are old again; returns where those begin that are too many.
    fn needed_moved(&self, id: u64, to: Offset, found: &mut Vec<NeededEntry>) -> Offset {
        let Some(queue) = self.views.queues.get(id) else { return to };
        let mut old: Vec<(Offset, OffsetRange)> =
            queue.moved_runs().filter(|(_, at)| *at < to).map(|(run, at)| (at, run)).collect();
        old.sort_unstable_by_key(|(at, _)| *at);
        let full = found.len() + self.options.moves.records_per_step;
        for (at, run) in old {
            let below = run.start.plus(to.0.saturating_sub(at.0)).min(run.end);
            for unfinished in self.views.unfinished_in(id, queue, run.start..below) {
                for entry in (unfinished.start.0..unfinished.end.0).map(Offset) {
                    let at = at.plus(entry.0 - run.start.0);
                    if found.len() >= full {
                        return at;
                    }
                    found.push(NeededEntry { queue: id, entry, at, pin: at });
                }
            }
        }
        to
    }

    /// Entries that are where they were stored first; returns where those begin that are too many.
    fn needed_in_place(
        &mut self,
        id: u64,
        to: Offset,
        may_move: bool,
        found: &mut Vec<NeededEntry>,
    ) -> Result<Offset, HistoryError> {
        let Some(queue) = self.views.queues.get(id) else { return Ok(to) };
        let room = if may_move { self.options.moves.records_per_step } else { 0 };
        let begun = found.len();
        let mut next = self.views.first_needed(id, queue, queue.head());
        loop {
            let entries = self.positions_of(id, next, RECORDS_PER_TURN_MAX)?;
            let Some((last, _)) = entries.last().copied() else { return Ok(to) };
            let queue = self.views.queues.get(id).expect("looked up above");
            for (entry, at) in entries {
                if queue.moved_to(entry).is_some() || !self.views.is_needed(id, queue, entry) {
                    continue;
                }
                // It is found from the remembered entry before it.
                let pin = queue.mark_before(entry).map_or(at, |(_, mark)| mark);
                if pin >= to {
                    return Ok(to);
                }
                let is_apart = found[begun..].last().is_none_or(|before| before.pin < pin);
                if found.len() - begun >= room && is_apart {
                    return Ok(pin);
                }
                found.push(NeededEntry { queue: id, entry, at, pin });
            }
            next = self.views.first_needed(id, queue, last.next());
            if next >= queue.end() {
                return Ok(to);
            }
        }
    }
}

/// Leaves the first so many of what was found, and all that history cannot begin behind alone; returns where the others begin.
fn cut(found: &mut Vec<NeededEntry>, to: Offset, count: usize) -> Offset {
    found.retain(|it| it.pin < to);
    if found.len() <= count {
        return to;
    }
    found.sort_unstable_by_key(|it| it.pin);
    let first = found[0].pin;
    let next = found.iter().map(|it| it.pin).find(|pin| *pin > first).unwrap_or(to);
    let to = found[count].pin.max(next);
    found.truncate(found.partition_point(|it| it.pin < to));
    to
}
