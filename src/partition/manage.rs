//! Queues as their administrators see them: declared, deleted, emptied, counted, looked into.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::history::HistoryError;
use super::request::{
    ConnectionId, Counts, Event, GroupStats, Outbox, Peeked, Position, QueueAction, QueueAnswer,
    QueueRequest, QueueStats,
};
use super::stage::Waiting;
use super::{Partition, RECORDS_PER_TURN_MAX};
use crate::model::queue::{Binding, Lifetime, QueueKind};
use crate::model::record::queue_id;
use crate::model::{Control, Millis, QueueName, QueueRefusal, QueueSettings, Refusal};
use crate::view::Group;

/// What was done: at once, or when everything admitted until now is committed.
pub(super) enum Managed {
    Done(QueueAnswer),
    Staged(QueueAnswer),
}

impl<D: Disk> Partition<D> {
    /// What its queues are bound to, each binding once; changes are said to the outbox.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.views.queues.bindings()
    }

    /// Takes a request to a queue.
    pub(super) fn manage(
        &mut self,
        from: ConnectionId,
        request: QueueRequest,
        out: &mut impl Outbox,
    ) {
        let QueueRequest { token, queue, action } = request;
        match self.managed(from, &queue, action) {
            Ok(Managed::Staged(answer)) => {
                self.answer_with_next(Waiting::Queue { to: from, token, answer }, out);
            }
            Ok(Managed::Done(answer)) => out.send(from, Event::Queue { token, result: Ok(answer) }),
            Err(refusal) => out.send(from, Event::Queue { token, result: Err(refusal) }),
        }
    }

    fn managed(
        &mut self,
        from: ConnectionId,
        queue: &QueueName,
        action: QueueAction,
    ) -> Result<Managed, Refusal> {
        let id = queue_id(queue.as_bytes());
        // Who looks after all queues may look at those of one connection, too.
        if action != QueueAction::Stats {
            self.check_owner(from, id)?;
        }
        if let QueueAction::Declare(settings) = action {
            return self.declare_as(from, queue, settings);
        }
        let missing = || QueueRefusal::Missing { queue: queue.to_string() };
        if !self.is_known(queue.as_bytes())? {
            return Err(missing().into());
        }
        match action {
            QueueAction::Delete { if_unused, if_empty } => self.delete(id, (if_unused, if_empty)),
            QueueAction::Purge => self.purge(queue),
            QueueAction::Inspect => self.counts(id).map(QueueAnswer::Counted).map(Managed::Staged),
            // What is on its way out, or in, is not there for who looks into it.
            _ if self.overlay.queues.contains_key(&id) => Err(missing().into()),
            action => self.managed_inside(queue, action),
        }
    }

    fn managed_inside(
        &mut self,
        queue: &QueueName,
        action: QueueAction,
    ) -> Result<Managed, Refusal> {
        let id = queue_id(queue.as_bytes());
        match action {
            QueueAction::Declare(_)
            | QueueAction::Inspect
            | QueueAction::Delete { .. }
            | QueueAction::Purge => unreachable!("taken before"),
            QueueAction::Stats => self.stats(id).map_err(|error| self.unreadable(&error)),
            QueueAction::Peek { from, count_max } => {
                self.peek(id, from, count_max).map_err(|error| self.unreadable(&error))
            }
            QueueAction::Seek { group, to } => self.seek(queue, &group, to),
            QueueAction::DeleteGroup { group } => self.delete_group(queue, &group),
            QueueAction::Redrive { filter, count_max } => self.redrive(queue, &filter, count_max),
        }
    }

    fn declare_as(
        &mut self,
        from: ConnectionId,
        queue: &QueueName,
        settings: Arc<QueueSettings>,
    ) -> Result<Managed, Refusal> {
        let invalid = |reason: String| Refusal::Invalid { reason };
        let settings = QueueSettings::clone(&settings)
            .checked()
            .map_err(|error| invalid(error.to_string()))?;
        let (id, existed) = (queue_id(queue.as_bytes()), self.is_known(queue.as_bytes())?);
        let Some((_, known)) = self.queue(id) else {
            if settings.lifetime == Lifetime::Owned {
                self.owners.declared(id, from);
            }
            self.declare_queue(queue.as_bytes(), Arc::new(settings));
            let counts = Counts { messages: 0, consumers: 0 };
            return Ok(Managed::Staged(QueueAnswer::Declared { existed, counts }));
        };
        if let Some(setting) = settings.difference(known) {
            let (queue, current) = (queue.to_string(), known.clone());
            return Err(QueueRefusal::Differs { queue, setting, current }.into());
        }
        self.queue_used(id);
        let counts = self.counts(id)?;
        Ok(Managed::Staged(QueueAnswer::Declared { existed, counts }))
    }

    fn counts(&mut self, id: u64) -> Result<Counts, Refusal> {
        let messages = self.contents(id)?.ready();
        Ok(Counts { messages, consumers: self.groups.members_of(id) as u64 })
    }

    fn delete(&mut self, id: u64, (if_unused, if_empty): (bool, bool)) -> Result<Managed, Refusal> {
        let Counts { messages, consumers: members } = self.counts(id)?;
        let (name, _) = self.queue(id).expect("looked up by the caller");
        let queue = || String::from_utf8_lossy(name).into_owned();
        if if_unused && members > 0 {
            return Err(QueueRefusal::InUse { queue: queue(), members }.into());
        }
        if if_empty && messages > 0 {
            return Err(QueueRefusal::NotEmpty { queue: queue(), messages }.into());
        }
        self.end_queue(id);
        Ok(Managed::Staged(QueueAnswer::Done { count: messages }))
    }

    fn delete_group(&mut self, queue: &QueueName, group: &QueueName) -> Result<Managed, Refusal> {
        let key = (queue_id(queue.as_bytes()), group.as_bytes().clone());
        let invalid = |reason: String| Err(Refusal::Invalid { reason });
        if self.views.groups.get(key.0, &key.1).is_none() {
            return invalid(format!("queue '{queue}' has no consumer group '{group}'"));
        }
        let members = self.groups.counts(&key).map_or(0, |(members, ..)| members);
        if members > 0 {
            return invalid(format!(
                "group '{group}' is reading ({members} connected): end its members first"
            ));
        }
        let (queue, group) = key.clone();
        if self.overlay.ending_groups.insert(key) {
            self.write(&Control::GroupDeleted { queue, group }, None);
        }
        Ok(Managed::Staged(QueueAnswer::Done { count: 1 }))
    }

    fn purge(&mut self, queue: &QueueName) -> Result<Managed, Refusal> {
        let id = queue_id(queue.as_bytes());
        let (_, settings) = self.queue(id).expect("looked up by the caller");
        if settings.kind == QueueKind::Stream {
            return Err(QueueRefusal::NotPurged { queue: queue.to_string() }.into());
        }
        let mut contents = self.contents(id)?;
        let kept = self.groups.held_of(id);
        contents.hold(kept.iter().flat_map(|(_, entries)| entries.iter().copied()));
        if contents.len() > 0 {
            let lengths = self.lengths_of(id, kept.iter().flat_map(|(_, entries)| entries))?;
            // Its limits are looked at again when it is applied.
            self.overlay.trimming.insert(id);
            let purged = Control::QueuePurged { queue: id, to: contents.end, kept, lengths };
            self.write(&purged, None);
        }
        Ok(Managed::Staged(QueueAnswer::Done { count: contents.ready() }))
    }

    fn stats(&mut self, id: u64) -> Result<Managed, HistoryError> {
        let view = self.views.queues.get(id).expect("looked up by the caller");
        let mut stats = QueueStats {
            settings: view.settings().clone(),
            owner: self.owners.of(id),
            default_group: self.default_group(id),
            head: view.head(),
            end: view.end(),
            messages: view.len(),
            bytes: view.bytes(),
            groups: Vec::new(),
        };
        let groups: Vec<(Bytes, Offset, u64)> = self
            .views
            .groups
            .of(id)
            .map(|((_, name), group)| (name.clone(), group.committed(), lag(group, stats.end)))
            .collect();
        for (name, committed, lag) in groups {
            let oldest = match lag {
                0 => None,
                _ => self.time_of(id, committed)?,
            };
            let (members, pending, cursor) =
                self.groups.counts(&(id, name.clone())).unwrap_or((0, 0, committed));
            let lag_ms = oldest.map_or(0, |time| self.now.0.saturating_sub(time.0));
            stats.groups.push(GroupStats {
                name,
                members,
                committed,
                cursor,
                pending,
                lag,
                lag_ms,
            });
        }
        Ok(Managed::Done(QueueAnswer::Stats(Box::new(stats))))
    }

    fn peek(&mut self, id: u64, from: Offset, count_max: usize) -> Result<Managed, HistoryError> {
        let view = self.views.queues.get(id).expect("looked up by the caller");
        let (mut entry, end) = (from.max(view.head()), view.end());
        let mut entries = Vec::new();
        let count_max = count_max.min(RECORDS_PER_TURN_MAX);
        while entry < end && entries.len() < count_max {
            let count = count_max - entries.len();
            let offsets = self.positions_of(id, entry, count)?;
            if offsets.is_empty() {
                break;
            }
            for (found, offset) in offsets {
                entry = found;
                let is_in = self.views.queues.get(id).is_some_and(|it| !it.is_removed(entry));
                if is_in && let Some(message) = self.history.fetch(self.node.log(), offset)? {
                    let message = message.into_message();
                    entries.push(Peeked { entry, time: message.time, message });
                }
                entry = entry.next();
            }
        }
        Ok(Managed::Done(QueueAnswer::Entries(entries)))
    }

    fn seek(
        &mut self,
        queue: &QueueName,
        group: &QueueName,
        to: Position,
    ) -> Result<Managed, Refusal> {
        let id = queue_id(queue.as_bytes());
        let Some(view) = self.views.groups.get(id, group.as_bytes()) else {
            let reason = format!("queue '{queue}' has no consumer group '{group}'");
            return Err(Refusal::Invalid { reason });
        };
        let committed = view.committed();
        let located = self.locate(id, to).map_err(|error| self.unreadable(&error))?;
        // Where the group is: nothing to do.
        let Some((to, gap)) = located else {
            return Ok(Managed::Done(QueueAnswer::Sought { count: 0, gap: None }));
        };
        let control = Control::CursorSet { queue: id, group: group.as_bytes().clone(), to };
        self.write(&control, None);
        let count = to.0.abs_diff(committed.0);
        Ok(Managed::Staged(QueueAnswer::Sought { count, gap }))
    }

    /// Finds where entries of a queue are stored, from `entry` on: at most `count`, fewer at the end, each with its queue offset. Those
    /// whose records are gone are not among them.
    pub(super) fn positions_of(
        &mut self,
        id: u64,
        entry: Offset,
        count: usize,
    ) -> Result<Vec<(Offset, Offset)>, HistoryError> {
        let Some(queue) = self.views.queues.get(id) else { return Ok(Vec::new()) };
        let in_place = entry.max(queue.first_in_place());
        let moved = queue.moved_from(entry).take_while(|(moved, _)| *moved < in_place);
        let mut found: Vec<(Offset, Offset)> = moved.take(count).collect();
        let rest = count - found.len();
        if let Some((known, at)) = queue.mark_before(in_place).filter(|_| rest > 0) {
            let before = (in_place.0 - known.0) as usize;
            let range = (at, self.applied.end);
            let log = self.node.log();
            let offsets = self.history.select_queue(log, id, range, before + rest)?;
            let numbered = offsets.into_iter().enumerate().skip(before);
            found.extend(numbered.map(|(step, at)| (known.plus(step as u64), at)));
        }
        for (entry, at) in &mut found {
            *at = queue.moved_to(*entry).unwrap_or(*at);
        }
        Ok(found)
    }

    fn time_of(&mut self, id: u64, entry: Offset) -> Result<Option<Millis>, HistoryError> {
        let first = self.positions_of(id, entry, 1)?.first().copied();
        let Some((_, offset)) = first else { return Ok(None) };
        let message = self.history.fetch(self.node.log(), offset)?;
        Ok(message.map(|message| message.time))
    }

    pub(super) fn unreadable(&self, error: &HistoryError) -> Refusal {
        tracing::error!(partition = self.id.0, %error, "cannot read a queue");
        Refusal::Unavailable { partition: self.id.0 }
    }
}

/// Entries that a group has not finished.
pub(super) fn lag(group: &Group, end: Offset) -> u64 {
    end.0.saturating_sub(group.committed().0).saturating_sub(group.finished_count())
}
