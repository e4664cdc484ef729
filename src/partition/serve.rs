//! Giving readers that are behind what the log has for them.

use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::reader::Wanted;
use super::request::Outbox;
use super::{Partition, PartitionError, RECORDS_PER_TURN_MAX};
use crate::planted::{PlantedBug, is_planted};

impl<D: Disk> Partition<D> {
    /// Gives readers that are behind, and groups, what the log has for them. Returns true when there is more than one turn's worth.
    pub fn pump(&mut self, out: &mut impl Outbox) -> Result<bool, PartitionError> {
        if self.stopped.is_some() {
            return Ok(false);
        }
        self.announce_wills(out);
        if self.leading.is_some() {
            self.bury_all(out)?;
            self.call_for_history(out);
        }
        let is_behind = self.serve_followers(out)?;
        for wanted in self.readers.wanted(RECORDS_PER_TURN_MAX) {
            self.serve(wanted, out)?;
        }
        self.readers.tell(out);
        let queues = &self.views.queues;
        let end = |queue| queues.get(queue).map_or(Offset::ZERO, |queue| queue.end());
        let mut goes_on = false;
        for next in self.groups.next(RECORDS_PER_TURN_MAX, self.options.pending_max, end) {
            goes_on |= self.hand_out(&next, out)?;
        }
        self.groups_wait = !goes_on;
        let queues = &self.views.queues;
        let end = |queue| queues.get(queue).map_or(Offset::ZERO, |queue| queue.end());
        self.groups.note_turn(end);
        Ok(is_behind || self.has_more())
    }

    /// Returns true when [`pump`](Partition::pump) would have something for readers or groups.
    pub(super) fn has_more(&self) -> bool {
        let queues = &self.views.queues;
        let end = |queue| queues.get(queue).map_or(Offset::ZERO, |queue| queue.end());
        let has_next = || !self.groups.next(1, self.options.pending_max, end).is_empty();
        !self.readers.is_idle() || (!self.groups_wait && has_next())
    }

    pub(super) fn serve(
        &mut self,
        wanted: Wanted,
        out: &mut impl Outbox,
    ) -> Result<(), PartitionError> {
        let first = self.history_start();
        let log = self.node.log();
        for (offset, subscription) in &wanted.retained {
            let message = self.history.fetch(log, *offset)?;
            // One that was replaced meanwhile is not what is retained: its successor came, or comes, for the subscription.
            let message = message.filter(|message| {
                let newest = self.views.retained.get(&message.topic);
                wanted.is_replay || newest.is_some_and(|newest| newest.offset() == *offset)
            });
            let asked = (wanted.reader, *subscription);
            self.readers.send_retained(asked, *offset, message.as_deref(), self.now, out);
        }
        if let Some(from) = wanted.from {
            if from < first {
                match wanted.is_replay {
                    true => self.readers.missed(wanted.reader, first.0 - from.0),
                    false => self.counters.histories_cut += 1,
                }
            }
            let range = (from.max(first), self.turn_end(&wanted, from.max(first)));
            let mut found = self.history.select(log, &wanted.filters, range, wanted.limit)?;
            let mut next = found.next;
            if is_planted(PlantedBug::BacklogReversed) {
                found.offsets.reverse();
            }
            for offset in &found.offsets {
                let by = &wanted.filters;
                let message = self.history.fetch_found(log, *offset, by, wanted.no_local)?;
                let Some(message) = message else { continue };
                if self.options.topic_ages.is_over(&message, self.now) {
                    continue;
                }
                if !self.readers.send_old(wanted.reader, *offset, &message, self.now, out) {
                    next = *offset;
                    break;
                }
            }
            self.readers.advance(wanted.reader, next, self.applied.end);
        }
        self.readers.settle_place(wanted.reader);
        Ok(())
    }

    /// Where a reader's turn ends: a replay looks at one segment in a turn, however little it finds there.
    fn turn_end(&self, wanted: &Wanted, from: Offset) -> Offset {
        let end = self.applied.end;
        let segments = self.node.log().segments();
        let next = segments.iter().map(|segment| segment.base_offset).find(|base| *base > from);
        next.filter(|_| wanted.is_replay).map_or(end, |next| next.min(end))
    }
}
