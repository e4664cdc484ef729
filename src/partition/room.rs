//! What a queue has room for: how much of it waits.
//!
//! What is out at a consumer, or finished and kept for others to read again, makes no queue too long. A queue knows how many bytes all
//! its entries have, and those between two of its marks; where only some of those wait, the entries themselves say it.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq_index::{Offset, OffsetSet};
use fluxmq_log::disk::Disk;

use super::consumers::Consumers;
use super::history::HistoryError;
use super::retire::is_over;
use super::{Partition, RECORDS_PER_TURN_MAX};
use crate::model::Refusal;
use crate::model::queue::{Overflow, QueueKind};
use crate::planted::{PlantedBug, is_planted};
use crate::view::{Group, GroupKey, Queue, Weight};

/// How much of a queue waited when that was counted.
#[derive(Debug)]
pub(super) struct Counted {
    /// Where the queue was declared: another one of its name begins anew.
    declared: Offset,
    tick: u64,
    /// Entries that had left the queue.
    gone: u64,
    /// The bytes of the others, and of those of them that waited.
    all: u64,
    waiting: u64,
    /// How long entries are that did not wait, and of which no mark and no run says it.
    lengths: BTreeMap<Offset, u64>,
}

/// By queue.
pub(super) type Waits = BTreeMap<u64, Counted>;

impl Consumers {
    /// How many entries wait, of those that the view says are not finished: not those that are out, or settled, or about to be buried.
    fn waiting(&self, unfinished: u64) -> u64 {
        let settled = self.unapplied.finished + self.finished.len() as u64;
        let held = (self.pending.len() + self.dying.len()) as u64;
        unfinished.saturating_sub(held).saturating_sub(settled)
    }

    /// The same of a queue that has no more than so many bytes: which entries do not wait.
    fn not_waiting(&self) -> OffsetSet {
        let mut entries = OffsetSet::new();
        let settled = &self.unapplied.entries;
        for entry in self.pending.keys().chain(self.dying.keys()).chain(settled) {
            entries.insert(*entry);
        }
        entries
    }
}

impl<D: Disk> Partition<D> {
    /// How many entries wait, and how many bytes they have: of each the most that do for any of the groups. Where there is no group,
    /// and of a stream, that is all of them.
    pub(super) fn waiting(&mut self, id: u64) -> Result<(u64, u64), HistoryError> {
        Ok((self.waiting_count(id), self.waiting_bytes(id)?))
    }

    fn waiting_count(&self, id: u64) -> u64 {
        let Some(queue) = self.views.queues.get(id) else { return 0 };
        if queue.settings().kind == QueueKind::Stream {
            return queue.len();
        }
        let left_of = |(key, group): (&GroupKey, &Group)| {
            let unfinished = queue.end().0.saturating_sub(group.committed().0);
            let unfinished = unfinished.saturating_sub(group.finished_count());
            let consumers = self.groups.get(key);
            consumers.map_or(unfinished, |consumers| consumers.waiting(unfinished))
        };
        let most = self.views.groups.of(id).map(left_of).max();
        most.map_or(queue.len(), |most| most.min(queue.len()))
    }

    /// Counted once a tick, as long as nothing leaves the queue: many of them may be out, each by itself. What comes in between waits.
    fn waiting_bytes(&mut self, id: u64) -> Result<u64, HistoryError> {
        let Some(queue) = self.views.queues.get(id) else { return Ok(0) };
        let (all, gone) = (queue.bytes(), queue.end().0 - queue.len());
        if queue.settings().limits.bytes_max.is_none() {
            return Ok(all);
        }
        if is_planted(PlantedBug::BytesShared) {
            return Ok(all * self.waiting_count(id) / queue.len().max(1));
        }
        let (declared, tick) = (queue.declared(), self.ticks);
        if let Some(counted) = self.waits.get(&id)
            && (counted.declared, counted.tick, counted.gone) == (declared, tick, gone)
        {
            return Ok(counted.waiting + all.saturating_sub(counted.all));
        }
        let rest = self.not_waiting(id, queue);
        let rest = rest.iter().map(|entries| queue.weigh(entries)).collect::<Vec<Weight>>();
        let counted = self.waits.remove(&id).filter(|counted| counted.declared == declared);
        let lengths = counted.map(|counted| counted.lengths).unwrap_or_default();
        let lengths = self.learn_lengths(id, &rest, lengths)?;
        let bytes = |weight: &Weight| {
            let (lacks, exceeds) =
                (sum(&lengths, &weight.lacks).0, sum(&lengths, &weight.exceeds).0);
            (weight.bytes + lacks).saturating_sub(exceeds)
        };
        let waiting = all.saturating_sub(rest.iter().map(bytes).min().unwrap_or(0));
        self.waits.insert(id, Counted { declared, tick, gone, all, waiting, lengths });
        Ok(waiting)
    }

    /// The entries of a queue that are on their way out, and for each of its groups those also that it has finished, or has out, or that are
    /// to be buried.
    fn not_waiting(&self, id: u64, queue: &Queue) -> Vec<OffsetSet> {
        let mut leaving = OffsetSet::new();
        for (_, entry) in self.overlay.leaving.range((id, Offset::ZERO)..=(id, Offset(u64::MAX))) {
            leaving.insert(*entry);
        }
        if queue.settings().kind == QueueKind::Stream {
            return vec![leaving];
        }
        let groups = self.views.groups.of(id).map(|(key, group)| {
            let mut entries = group.finished();
            entries.union_with(&leaving);
            if let Some(consumers) = self.groups.get(key) {
                entries.union_with(&consumers.not_waiting());
            }
            entries
        });
        let groups: Vec<OffsetSet> = groups.collect();
        if groups.is_empty() { vec![leaving] } else { groups }
    }

    /// Reads how long entries of a queue are, as far as that is not known, and forgets about most others.
    fn learn_lengths(
        &mut self,
        id: u64,
        weights: &[Weight],
        mut lengths: BTreeMap<Offset, u64>,
    ) -> Result<BTreeMap<Offset, u64>, HistoryError> {
        let asked = || weights.iter().flat_map(|weight| [&weight.lacks, &weight.exceeds]);
        let count: u64 = asked().map(OffsetSet::len).sum();
        if lengths.len() as u64 > 2 * count {
            lengths.retain(|entry, _| asked().any(|entries| entries.contains(*entry)));
        }
        let others = asked().filter(|entries| sum(&lengths, entries).1 < entries.len());
        let others = others.flat_map(OffsetSet::offsets);
        let mut missing: BTreeSet<Offset> =
            others.filter(|entry| !lengths.contains_key(entry)).collect();
        while let Some(from) = missing.first().copied() {
            for (entry, offset) in self.positions_of(id, from, RECORDS_PER_TURN_MAX)? {
                if missing.remove(&entry) {
                    let message = self.history.fetch(self.node.log(), offset)?;
                    lengths.insert(entry, message.map_or(0, |message| message.len_bytes() as u64));
                }
            }
            if missing.remove(&from) {
                lengths.insert(from, 0);
            }
        }
        Ok(lengths)
    }

    /// How long entries of a queue are, each once, ascending.
    pub(super) fn lengths_of<'a>(
        &mut self,
        id: u64,
        entries: impl Iterator<Item = &'a Offset>,
    ) -> Result<Vec<u64>, Refusal> {
        let mut lacks = OffsetSet::new();
        for entry in entries {
            lacks.insert(*entry);
        }
        let weights = [Weight { lacks, ..Weight::default() }];
        let lengths = self.learn_lengths(id, &weights, BTreeMap::new());
        let lengths = lengths.map_err(|error| self.uncounted(error.into()))?;
        Ok(lengths.into_values().collect())
    }

    /// Refuses what a full queue has no room for, where it is the publisher that gives way.
    pub(super) fn has_room(&mut self, id: u64, bytes: usize) -> Result<(), Refusal> {
        self.has_room_for(id, (1, bytes as u64))
    }

    /// The same of several messages.
    pub(super) fn has_room_for(
        &mut self,
        id: u64,
        (more, bytes): (u64, u64),
    ) -> Result<(), Refusal> {
        let Some((_, settings)) = self.queue(id) else { return Ok(()) };
        let limits = settings.limits.clone();
        if limits.overflow == Overflow::DropHead || is_planted(PlantedBug::FullTakesMore) {
            return Ok(());
        }
        let (coming, coming_bytes) = self.overlay.coming.get(&id).copied().unwrap_or((0, 0));
        let then = |(messages, used)| (messages + coming + more, used + coming_bytes + bytes);
        // What comes after a deletion is not as full as what it deletes.
        let queue = self.views.queues.get(id).filter(|_| !self.overlay.queues.contains_key(&id));
        let all = queue.map_or((0, 0), |queue| (queue.len(), queue.bytes()));
        if !is_over(&limits, then(all)) {
            return Ok(());
        }
        if queue.is_none() {
            return Err(Refusal::Quota { limit: "the length of a queue" });
        }
        let waiting = self.waiting(id).map_err(|error| self.uncounted(error.into()))?;
        match is_over(&limits, then(waiting)) {
            true => Err(Refusal::Quota { limit: "the length of a queue" }),
            false => Ok(()),
        }
    }

    /// Counts what is on its way to queues that may be full.
    pub(super) fn overlay_routes(&mut self, routes: &[u64], bytes: usize) {
        for id in routes {
            let rejects = self
                .queue(*id)
                .is_some_and(|(_, settings)| settings.limits.overflow != Overflow::DropHead);
            if rejects {
                let coming = self.overlay.coming.entry(*id).or_default();
                *coming = (coming.0 + 1, coming.1 + bytes as u64);
            }
        }
    }
}

/// Returns what entries have together, and of how many that is known.
fn sum(lengths: &BTreeMap<Offset, u64>, entries: &OffsetSet) -> (u64, u64) {
    let known = entries.iter().flat_map(|range| lengths.range(range));
    known.fold((0, 0), |(bytes, count), (_, length)| (bytes + length, count + 1))
}
