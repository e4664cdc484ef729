//! Handing out by priority: the highest first, equals in the order of their queue.
//!
//! The index lists the entries of each priority on its own, a lane, so that the next one of a lane is found without looking at the
//! others. What a group has looked at is a place in each lane; what came back to it waits beside. As long as higher ones come, lower ones
//! wait. Nothing here is stored: which entries are finished is the group's to say, and lanes are read again from its committed entry on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::group::Next;
use super::history::HistoryError;
use super::request::Outbox;
use super::{Partition, PartitionError, RECORDS_PER_TURN_MAX};
use crate::model::record::lane_id;
use crate::planted::{PlantedBug, is_planted};
use crate::view::MARK_EVERY;

/// How far one group is in each lane of its queue.
#[derive(Debug)]
pub(super) struct Lanes {
    /// By priority.
    lanes: Vec<Lane>,
    /// The priorities of entries that are out, came back or wait.
    ranks: BTreeMap<Offset, u8>,
    /// Entries that came back before their lane was read that far: it still has them, and they are not to come twice.
    early: BTreeSet<Offset>,
    /// The queue's end when the last lane was found empty.
    drained: Offset,
}

#[derive(Debug, Default)]
struct Lane {
    /// Where to read on, a partition offset; `None` is where the group's committed entry is.
    next: Option<Offset>,
    /// Read, and not looked at.
    ahead: VecDeque<Offset>,
    /// Entries that came back.
    back: BTreeSet<Offset>,
}

impl Lanes {
    pub(super) fn new(priority_max: u8) -> Lanes {
        let lanes = (0..=priority_max).map(|_| Lane::default()).collect();
        let (ranks, early) = (BTreeMap::new(), BTreeSet::new());
        Lanes { lanes, ranks, early, drained: Offset::ZERO }
    }

    /// Returns true when there may be something to hand out of a queue that ends there.
    pub(super) fn has_more(&self, end: Offset) -> bool {
        self.drained < end || self.lanes.iter().any(|lane| !lane.back.is_empty())
    }

    /// An entry is to be handed out again. One of which no priority is known is looked at first, and finds its lane then.
    pub(super) fn put_back(&mut self, entry: Offset) {
        let rank = self.ranks.get(&entry).copied();
        if rank.is_none() {
            self.early.insert(entry);
        }
        let rank = rank.unwrap_or(self.top());
        self.lanes[usize::from(rank)].back.insert(entry);
    }

    /// An entry is over.
    pub(super) fn forget(&mut self, entry: Offset) {
        self.ranks.remove(&entry);
        for lane in &mut self.lanes {
            lane.back.remove(&entry);
        }
    }

    /// All entries are over but these.
    pub(super) fn retain(&mut self, stays: impl Fn(&Offset) -> bool) {
        self.ranks.retain(|entry, _| stays(entry));
        self.early.retain(&stays);
        for lane in &mut self.lanes {
            lane.back.retain(&stays);
        }
    }

    /// Begins again where the group is.
    pub(super) fn restart(&mut self) {
        *self = Lanes::new(self.top());
    }

    fn top(&self) -> u8 {
        (self.lanes.len() - 1) as u8
    }
}

impl<D: Disk> Partition<D> {
    /// Hands out what members can take of a queue with priorities; false where an entry stays that nobody takes now.
    pub(super) fn hand_out_by_priority(
        &mut self,
        next: &Next,
        out: &mut impl Outbox,
    ) -> Result<bool, PartitionError> {
        let end = self.views.queues.get(next.key.0).map_or(Offset::ZERO, |queue| queue.end());
        let mut room = next.credit;
        let top = self.lanes(next).top();
        for step in 0..=top {
            let priority = if is_planted(PlantedBug::LowestFirst) { step } else { top - step };
            while let Some((entry, offset)) = self.next_of_lane(next, priority)? {
                if !self.hand_out_of_lane(next, priority, (entry, offset), out)? {
                    return Ok(false);
                }
                room -= 1;
                if room == 0 {
                    return Ok(true);
                }
            }
        }
        self.lanes(next).drained = end;
        Ok(true)
    }

    /// The next entry of a lane, and where it is stored: one that came back, or one that was never looked at.
    fn next_of_lane(
        &mut self,
        next: &Next,
        priority: u8,
    ) -> Result<Option<(Offset, Offset)>, HistoryError> {
        let (id, _) = next.key;
        loop {
            while let Some(entry) = self.lane(next, priority).back.pop_first() {
                let found = self.positions_of(id, entry, 1)?.first().copied();
                if let Some(found) = found.filter(|(found, _)| *found == entry) {
                    return Ok(Some(found));
                }
            }
            if self.lane(next, priority).ahead.is_empty() {
                self.read_ahead(next, priority)?;
                if !self.lane(next, priority).back.is_empty() {
                    continue;
                }
            }
            let Some(offset) = self.lane(next, priority).ahead.pop_front() else { return Ok(None) };
            let Some(entry) = self.entry_stored_at(id, offset)? else { continue };
            if self.lanes(next).early.remove(&entry) {
                continue;
            }
            // What was moved came back to its lane when it was.
            if self.views.queues.get(id).is_some_and(|queue| queue.moved_to(entry).is_none()) {
                return Ok(Some((entry, offset)));
            }
        }
    }

    fn read_ahead(&mut self, next: &Next, priority: u8) -> Result<(), HistoryError> {
        let (id, _) = &next.key;
        let from = match self.lane(next, priority).next {
            Some(from) => from,
            None => {
                let group = self.group(&next.key);
                let committed = group.map_or(Offset::ZERO, |group| group.committed());
                let queue = self.views.queues.get(*id);
                let moved = queue.map_or_else(Vec::new, |queue| {
                    queue.moved_from(committed.max(queue.head())).map(|(entry, _)| entry).collect()
                });
                let mark = queue.and_then(|queue| {
                    let first = queue.head().max(queue.first_in_place());
                    queue.mark_before(committed.max(first))
                });
                let from = mark.map_or(self.applied.end, |(_, offset)| offset);
                let lanes = self.lanes(next);
                if priority == lanes.top() {
                    // Lanes do not have them where they are now.
                    moved.into_iter().for_each(|entry| lanes.put_back(entry));
                }
                from
            }
        };
        let range = (from, self.applied.end);
        let (lane, count) = (lane_id(*id, priority), RECORDS_PER_TURN_MAX);
        let found = self.history.select_queue(self.node.log(), lane, range, count)?;
        let end = self.applied.end;
        let lane = self.lane(next, priority);
        let is_whole = found.len() < count;
        lane.next = found.last().filter(|_| !is_whole).map_or(Some(end), |last| Some(last.next()));
        lane.ahead.extend(found);
        Ok(())
    }

    /// Hands out one entry; false when nobody has credit for it: it stays the first of its lane.
    fn hand_out_of_lane(
        &mut self,
        next: &Next,
        priority: u8,
        (entry, offset): (Offset, Offset),
        out: &mut impl Outbox,
    ) -> Result<bool, PartitionError> {
        let (id, _) = &next.key;
        let Some(queue) = self.views.queues.get(*id) else { return Ok(false) };
        let Some(group) = self.group(&next.key) else { return Ok(false) };
        let is_over = group.is_finished(entry) || self.overlay.leaving.contains(&(*id, entry));
        // Before the group was: it does not know.
        let is_removed = queue.is_removed(entry);
        let consumers = self.consumers(next);
        if is_over || is_removed || consumers.is_held_back(entry) {
            consumers.step_over(entry, is_removed && !is_over);
            return Ok(true);
        }
        if !self.lanes(next).ranks.contains_key(&entry) {
            let message = self.history.fetch(self.node.log(), offset)?;
            let own = message.map_or(0, |message| message.priority);
            let lanes = self.lanes(next);
            let own = own.min(lanes.top());
            lanes.ranks.insert(entry, own);
            if own != priority {
                lanes.put_back(entry);
                return Ok(true);
            }
        }
        let is_handed = self.hand_out_one(next, entry, offset, out)?;
        let consumers = self.consumers(next);
        let is_kept = consumers.is_held_back(entry) || consumers.pending.contains_key(&entry);
        match (is_handed, is_kept) {
            (false, _) => self.lanes(next).put_back(entry),
            (true, true) => {}
            (true, false) => self.lanes(next).forget(entry),
        }
        Ok(is_handed)
    }

    /// Finds the entry of a queue that is stored at a partition offset, if one is.
    fn entry_stored_at(&mut self, id: u64, offset: Offset) -> Result<Option<Offset>, HistoryError> {
        let mark = self.views.queues.get(id).and_then(|queue| queue.mark_at(offset));
        let Some((mark, at)) = mark else { return Ok(None) };
        let (range, count) = ((at, self.applied.end), MARK_EVERY as usize);
        let mut found = self.history.select_queue(self.node.log(), id, range, count)?;
        found.truncate(found.partition_point(|found| *found <= offset));
        let is_entry = found.last() == Some(&offset);
        Ok(is_entry.then(|| mark.plus(found.len() as u64 - 1)))
    }

    fn lanes(&mut self, next: &Next) -> &mut Lanes {
        self.consumers(next).lanes.as_mut().expect("only queues with priorities come here")
    }

    fn lane(&mut self, next: &Next, priority: u8) -> &mut Lane {
        &mut self.lanes(next).lanes[usize::from(priority)]
    }
}
