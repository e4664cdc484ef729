//! Consumer groups: join, seek, hand out.

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::group::{Handed, Next};
use super::history::HistoryError;
use super::request::{ConnectionId, Event, Join, Outbox, Position};
use super::stage::Waiting;
use super::{Partition, PartitionError};
use crate::model::record::queue_id;
use crate::model::{Control, Refusal, Token};

impl<D: Disk> Partition<D> {
    pub(super) fn join(&mut self, from: ConnectionId, join: Join, out: &mut impl Outbox) {
        let queue = queue_id(join.queue.as_bytes());
        let group = join.group.as_bytes().clone();
        if let Err(refusal) = self.declare(join.queue.as_bytes()) {
            return out.send(from, Event::Joined { token: join.token, result: Err(refusal) });
        }
        let key = (queue, group.clone());
        let known = self.views.queues.get(queue).is_some_and(|queue| queue.group(&group).is_some());
        let alone = self.groups.others(queue, &group, from) == 0;
        let start = match self.locate(queue, join.position) {
            Ok(start) => start,
            Err(error) => {
                tracing::error!(partition = self.id.0, %error, "cannot find a position");
                let result = Err(Refusal::Unavailable { partition: self.id.0 });
                return out.send(from, Event::Joined { token: join.token, result });
            }
        };
        let waiting = Waiting::Joined { to: from, join: Box::new(join.clone()) };
        if !known && self.overlay.groups.insert(key) {
            let start = start.unwrap_or(Offset::ZERO);
            self.write(&Control::GroupCreated { queue, group, start }, Some(waiting));
        } else if let (true, Some(to)) = (alone, start) {
            // Nobody else reads with this group: it goes where its only member wants it.
            self.write(&Control::CursorSet { queue, group, to }, Some(waiting));
        } else if known {
            self.answer(waiting, out);
        } else {
            // Being created by somebody else's join: this one follows it.
            match (&mut self.building, self.in_flight.back_mut()) {
                (Some(pending), _) => pending.waiting.push(waiting),
                (None, Some(in_flight)) => in_flight.waiting.push(waiting),
                (None, None) => self.answer(waiting, out),
            }
        }
    }

    pub(super) fn enter_group(&mut self, to: ConnectionId, join: Join) {
        let queue = queue_id(join.queue.as_bytes());
        let view = self.views.queues.get(queue);
        let group = view.and_then(|queue| queue.group(join.group.as_bytes()));
        let committed = group.map_or(Offset::ZERO, |group| group.committed());
        self.groups.join(to, join, committed);
    }

    /// Finds the queue offset that a position means; `None` is wherever the group is.
    pub(super) fn locate(
        &mut self,
        queue: u64,
        position: Position,
    ) -> Result<Option<Offset>, HistoryError> {
        let end = self.views.queues.get(queue).map_or(Offset::ZERO, |queue| queue.end());
        Ok(match position {
            Position::Resume => None,
            Position::Earliest => Some(Offset::ZERO),
            Position::Latest => Some(end),
            Position::At(offset) => Some(offset.min(end)),
            Position::Last(count) => Some(Offset(end.0.saturating_sub(count))),
            Position::Time(time) => {
                let at = self.node.log().offset_at_time(time.0)?;
                Some(self.entry_at(queue, at, end)?)
            }
        })
    }

    /// Finds the first entry of a queue at or after a partition offset.
    pub(super) fn entry_at(
        &mut self,
        queue: u64,
        at: Offset,
        end: Offset,
    ) -> Result<Offset, HistoryError> {
        let Some(view) = self.views.queues.get(queue) else { return Ok(end) };
        let (mut low, mut high) = (0, end.0);
        while low < high {
            let middle = u64::midpoint(low, high);
            let Some((mark, offset)) = view.mark_before(Offset(middle)) else { break };
            if offset < at { low = middle + 1 } else { high = mark.0 }
        }
        let Some((mark, offset)) = view.mark_before(Offset(low.saturating_sub(1))) else {
            return Ok(end);
        };
        let range = (offset, self.applied.end);
        let entries = self.history.select_queue(self.node.log(), queue, range, 256)?;
        let before = entries.partition_point(|offset| *offset < at);
        Ok(mark.plus(before as u64).min(end))
    }

    pub(super) fn commit_cursor(
        &mut self,
        from: ConnectionId,
        token: Token,
        (queue, group): (u64, &Bytes),
        to: Offset,
        out: &mut impl Outbox,
    ) {
        let view = self.views.queues.get(queue);
        let known = view.filter(|queue| queue.group(group).is_some());
        let Some(end) = known.map(|queue| queue.end()) else {
            let reason =
                "no such queue or consumer group: subscribe with the group first".to_owned();
            let result = Err(Refusal::Invalid { reason });
            return out.send(from, Event::Confirm { token, result });
        };
        let control = Control::CursorSet { queue, group: group.clone(), to: to.min(end) };
        self.write(&control, Some(Waiting::Confirm { to: from, token, result: true }));
    }

    pub(super) fn hand_out(
        &mut self,
        next: &Next,
        out: &mut impl Outbox,
    ) -> Result<(), PartitionError> {
        let Some(queue) = self.views.queues.get(next.queue) else { return Ok(()) };
        let Some(group) = queue.group(&next.group) else { return Ok(()) };
        let fresh = (next.cursor.0..queue.end().0).map(Offset).take(next.credit);
        let mut found: BTreeMap<Offset, Offset> = BTreeMap::new();
        for entry in next.returned.iter().copied().chain(fresh).take(next.credit) {
            let consumers =
                self.groups.get_mut(next.queue, &next.group).expect("listed by the groups");
            if group.is_finished(entry) {
                consumers.step_over(entry, false);
                continue;
            }
            let known = consumers.hint(entry).into_iter().chain(queue.mark_before(entry)).max();
            let Some((known, at)) = known else { break };
            if !found.contains_key(&entry) {
                let range = (at, self.applied.end);
                let count = (entry.0 - known.0) as usize + next.credit;
                let offsets =
                    self.history.select_queue(self.node.log(), next.queue, range, count)?;
                found.extend(
                    offsets.into_iter().enumerate().map(|(step, at)| (known.plus(step as u64), at)),
                );
            }
            let Some(offset) = found.get(&entry).copied() else { break };
            let message = self.history.fetch(self.node.log(), offset)?;
            let Some(message) = message.filter(|message| !message.is_expired(self.now)) else {
                consumers.step_over(entry, true);
                continue;
            };
            let handed = Handed {
                entry,
                offset,
                message: &message,
                delivery_count: group.delivery_count(entry),
                partition: self.id,
                now: self.now,
                deadline: self.now.plus(self.options.visibility_timeout_ms),
            };
            if !consumers.hand_out(handed, out) {
                break;
            }
        }
        Ok(())
    }
}
