//! Where in a queue a position is, and what is missing there.

use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::Partition;
use super::gap::Gap;
use super::history::HistoryError;
use super::request::Position;

impl<D: Disk> Partition<D> {
    /// Finds the queue offset that a position means, and what left the queue from there on; `None` is wherever the group is.
    pub(super) fn locate(
        &mut self,
        queue: u64,
        position: Position,
    ) -> Result<Option<(Offset, Option<Gap>)>, HistoryError> {
        let bounds = self.views.queues.get(queue).map(|queue| (queue.head(), queue.end()));
        let (head, end) = bounds.unwrap_or((Offset::ZERO, Offset::ZERO));
        let mut gap = None;
        let found = match position {
            Position::Resume => return Ok(None),
            Position::Earliest => head,
            Position::Latest => end,
            Position::At(offset) => {
                let missing = head.0.checked_sub(offset.0).filter(|count| *count > 0);
                gap = missing.map(Gap::Records);
                offset
            }
            Position::Last(count) => Offset(end.0.saturating_sub(count)),
            Position::Time(time) => {
                let at = self.first_of(time)?;
                let found = self.entry_at(queue, at, end)?;
                if found <= head && self.has_lost(queue, at)? {
                    gap = Some(Gap::Unknown);
                }
                found
            }
        };
        Ok(Some((found.max(head).min(end), gap)))
    }

    /// Returns true when entries left a queue at its head that were stored at a partition offset or later, or may have been.
    fn has_lost(&mut self, queue: u64, at: Offset) -> Result<bool, HistoryError> {
        let Some(view) = self.views.queues.get(queue) else { return Ok(false) };
        let head = view.head();
        if head == Offset::ZERO || at <= self.history_start() {
            return Ok(head > Offset::ZERO);
        }
        let (known, log) = (view.mark_before(head), self.node.log());
        let range = |from| (from, self.applied.end);
        let oldest = match known {
            Some((entry, offset)) => {
                let before = (head.0 - entry.0) as usize;
                let found = self.history.select_queue(log, queue, range(offset), before + 1)?;
                found.get(before).copied()
            }
            None => None,
        };
        let next = self.history.select_queue(log, queue, range(at), 1)?.first().copied();
        Ok(next.is_some_and(|next| oldest.is_none_or(|oldest| next < oldest)))
    }

    /// Finds the first entry of a queue at or after a partition offset.
    fn entry_at(&mut self, queue: u64, at: Offset, end: Offset) -> Result<Offset, HistoryError> {
        let Some(view) = self.views.queues.get(queue) else { return Ok(end) };
        if at <= self.history_start() {
            return Ok(view.head().min(end));
        }
        let first = view.head().max(view.first_in_place());
        let (mut low, mut high) = (first.0, end.0);
        while low < high {
            let middle = u64::midpoint(low, high);
            let Some((mark, offset)) = view.mark_before(Offset(middle)) else { break };
            if offset < at { low = middle + 1 } else { high = mark.0 }
        }
        let low = Offset(low.saturating_sub(1)).max(first);
        let Some((mark, offset)) = view.mark_before(low) else {
            return Ok(end);
        };
        let range = (offset, self.applied.end);
        let entries = self.history.select_queue(self.node.log(), queue, range, 256)?;
        let before = entries.partition_point(|offset| *offset < at);
        Ok(mark.plus(before as u64).min(end))
    }
}
