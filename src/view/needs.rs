//! What of the log somebody will ask for again, whatever its age (ADR 0046).

use fluxmq_index::{Offset, OffsetRange};

use super::Views;
use super::group::Group;
use super::queue::Queue;
use crate::model::Millis;
use crate::model::queue::QueueKind;
use crate::planted::{PlantedBug, is_planted};

/// Who asks for a record again, whatever its age.
#[derive(Clone, Copy, Debug)]
pub enum Pin<'a> {
    /// A queue, for an entry.
    Queue(&'a Queue),
    /// A retained message.
    Retained,
}

impl Views {
    /// Returns the oldest record that some view will ask for again, whatever its age; `None` when there is none (ADR 0046).
    ///
    /// Retained messages that have not expired, and of each queue the remembered entry before the oldest that is needed: of a stream
    /// what is in it, of a classic queue what some group has not finished. Wills and dead letters are kept by themselves, open packet
    /// ids ask for no record, and sessions and shared subscriptions have what history has.
    pub fn pinned(&self, now: Millis) -> Option<Offset> {
        self.pins(now).map(|(oldest, _)| oldest).min()
    }

    /// Lists who asks for records again, each with the oldest: every queue that does, and retained messages together.
    pub fn pins(&self, now: Millis) -> impl Iterator<Item = (Offset, Pin<'_>)> {
        let queues = self
            .queues
            .iter()
            .filter_map(|(id, queue)| Some((self.pinned_by(id, queue)?, Pin::Queue(queue))));
        queues.chain(self.retained.alive(now).next().map(|oldest| (oldest, Pin::Retained)))
    }

    fn pinned_by(&self, id: u64, queue: &Queue) -> Option<Offset> {
        let needed = self.first_needed(id, queue, queue.head());
        let mark = queue.mark_before(needed).filter(|_| needed < queue.end());
        let moved = queue.moved_runs().filter_map(|(run, at)| {
            let needed = self.first_unfinished(id, queue, run.start);
            (needed < run.end).then(|| at.plus(needed.0 - run.start.0))
        });
        moved.chain(mark.map(|(_, at)| at)).min()
    }

    /// Returns the first entry of a queue, at or above another, that is needed where it was stored first; the queue's end when there
    /// is none.
    pub fn first_needed(&self, id: u64, queue: &Queue, from: Offset) -> Offset {
        queue.first_needed(from, |entry| self.first_unfinished(id, queue, entry))
    }

    /// Returns true for an entry of a queue that somebody will ask for.
    pub fn is_needed(&self, id: u64, queue: &Queue, entry: Offset) -> bool {
        !queue.is_removed(entry) && self.first_unfinished(id, queue, entry) == entry
    }

    /// The first entry at or above another that is not finished: in a stream, what was read stays until its own rules take it out.
    fn first_unfinished(&self, id: u64, queue: &Queue, entry: Offset) -> Offset {
        if is_planted(PlantedBug::NeedsUnheeded) {
            return queue.end();
        }
        let unfinished = match queue.settings().kind {
            QueueKind::Stream | QueueKind::Ephemeral => None,
            QueueKind::Classic => {
                self.groups.of(id).map(|(_, group)| group.first_unfinished(entry)).min()
            }
        };
        // Nobody has read what nobody reads.
        unfinished.unwrap_or(entry)
    }

    /// Returns the first entry at or above another that everybody is done with who reads the queue; `None` when there is none.
    fn first_finished(&self, id: u64, queue: &Queue, entry: Offset) -> Option<Offset> {
        let is_claimed = queue.settings().kind == QueueKind::Classic;
        let mut groups = self.groups.of(id).filter(|_| is_claimed).peekable();
        groups.peek()?;
        let groups: Vec<&Group> = groups.map(|(_, group)| group).collect();
        let mut all = entry;
        loop {
            let firsts = groups.iter().map(|group| group.first_finished(all));
            let next = firsts.collect::<Option<Vec<Offset>>>()?.into_iter().max()?;
            if next == all {
                return Some(all);
            }
            all = next;
        }
    }

    /// Lists the entries among these that are not finished, in ranges.
    pub fn unfinished_in(
        &self,
        id: u64,
        queue: &Queue,
        entries: OffsetRange,
    ) -> impl Iterator<Item = OffsetRange> {
        let mut next = entries.start;
        std::iter::from_fn(move || {
            let start = self.first_unfinished(id, queue, next);
            if start >= entries.end {
                return None;
            }
            let finished = self.first_finished(id, queue, start);
            let end = finished.map_or(entries.end, |finished| finished.min(entries.end));
            next = end;
            Some(start..end)
        })
    }

    /// Returns about how many bytes of the log below `to` are needed.
    pub fn needed_bytes(&self, to: Offset, now: Millis) -> u64 {
        let old = self.queues.iter().filter(|(_, queue)| queue.oldest().is_some_and(|at| at < to));
        let of_queues: u64 = old.map(|(id, queue)| self.needed_bytes_of(id, queue, to)).sum();
        let retained = self.retained.alive(now).take_while(|at| *at < to).count() as u64;
        of_queues + average(self.retained.bytes(), self.retained.len() as u64, retained)
    }

    fn needed_bytes_of(&self, id: u64, queue: &Queue, to: Offset) -> u64 {
        let count = |entries| -> u64 {
            self.unfinished_in(id, queue, entries).map(|range| queue.count_in_place(range)).sum()
        };
        let (entries, bytes) = queue.in_place_below(to);
        let in_place = average(bytes, queue.count_in_place(entries.clone()), count(entries));
        let moved = queue.moved_below(to).map(|(run, bytes)| {
            let unfinished = self.unfinished_in(id, queue, run.clone());
            let count = unfinished.map(|range| range.end.0 - range.start.0).sum();
            average(bytes, run.end.0 - run.start.0, count)
        });
        in_place + moved.sum::<u64>()
    }
}

/// What so many have, of `all` that have `bytes`.
fn average(bytes: u64, all: u64, count: u64) -> u64 {
    (u128::from(bytes) * u128::from(count)).checked_div(u128::from(all)).unwrap_or(0) as u64
}
