//! Where in a queue a position is.

use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::Partition;
use super::history::HistoryError;
use super::request::Position;

impl<D: Disk> Partition<D> {
    /// Finds the queue offset that a position means; `None` is wherever the group is.
    pub(super) fn locate(
        &mut self,
        queue: u64,
        position: Position,
    ) -> Result<Option<Offset>, HistoryError> {
        let bounds = self.views.queues.get(queue).map(|queue| (queue.head(), queue.end()));
        let (head, end) = bounds.unwrap_or((Offset::ZERO, Offset::ZERO));
        let found = match position {
            Position::Resume => return Ok(None),
            Position::Earliest => head,
            Position::Latest => end,
            Position::At(offset) => offset,
            Position::Last(count) => Offset(end.0.saturating_sub(count)),
            Position::Time(time) => {
                let at = self.first_of(time)?;
                self.entry_at(queue, at, end)?
            }
        };
        Ok(Some(found.max(head).min(end)))
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
