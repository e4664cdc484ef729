//! Folding committed frames into the views: the only place where stored state changes.

use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;
use fluxmq_log::format::frame::{Frame, FrameKind};

use super::history::KEPT_BYTES_MAX;
use super::reader::to_message_at;
use super::request::{Event, OpenedSession, Outbox};
use super::stage::Waiting;
use super::{APPLY_READ_BYTES, Applied, Partition, PartitionError};
use crate::model::frame::{Decoded, decode};
use crate::model::queue::Binding;
use crate::model::record::{Retain, filter_id, queue_id};
use crate::model::{Control, Millis, Record, Refusal};
use crate::planted::{PlantedBug, is_planted};

impl<D: Disk> Partition<D> {
    pub(super) fn apply_committed(&mut self, out: &mut impl Outbox) -> Result<(), PartitionError> {
        while self.applied.index < self.node.appliable() {
            let (from, to) = (self.applied.index + 1, self.node.appliable() + 1);
            for frame in self.node.log().entries(from, to, APPLY_READ_BYTES)? {
                self.apply(&frame, out)?;
                if frame.header.kind == FrameKind::Seal && self.is_snapshot_due() {
                    break;
                }
            }
            self.node.applied_to(self.applied.index)?;
            // At the end of a segment, so that the log can begin there one day.
            let at_end = self.log().ends_segment(self.applied.index);
            if at_end && self.is_snapshot_due() {
                if self.flushing {
                    return Ok(());
                }
                self.checkpoint()?;
            }
        }
        Ok(())
    }

    /// At the end of a segment: those that are due by time end none, and the log could never be trimmed.
    fn is_snapshot_due(&self) -> bool {
        self.since_snapshot.max(self.retention.since_end) >= self.options.snapshot_every_bytes
    }

    /// Folds one committed frame into the views, gives it to those who are live, and answers those who waited for it.
    pub(super) fn apply(
        &mut self,
        frame: &Frame,
        out: &mut impl Outbox,
    ) -> Result<(), PartitionError> {
        if frame.header.is_roll() {
            self.history.indexes.roll(frame.header.base_offset);
        }
        if frame.header.kind == FrameKind::ConfChange {
            self.node.change_members(frame)?;
        }
        // A follower's time is the leader's: a later leader's records are not before it.
        self.now = self.now.max(Millis(frame.header.max_ts()));
        let keeps = !self.groups.is_empty() && frame.header.frame_bytes() <= KEPT_BYTES_MAX;
        let mut kept =
            Vec::with_capacity(if keeps { frame.header.record_count as usize } else { 0 });
        for record in decode(frame)? {
            let (offset, time, record) = record?;
            match &record {
                Decoded::Message(message, queues) => {
                    self.views.apply(offset, time, Record::Message(message, queues));
                    self.history.indexes.add(offset, &message.topic, queues);
                    self.groups.applied(offset, &message.topic);
                    self.follows.applied(&message.topic);
                    let (at, was_passed_on) = ((offset, time), message.was_passed_on());
                    if self.readers.len() > 0 {
                        let message = to_message_at(message, time);
                        self.readers.dispatch(at, &message, was_passed_on, out);
                    }
                    self.overlay.applied(message.publisher, message.dedup);
                    self.overlay.came(queues, message.len_bytes());
                    self.retention.pace.published(message.len_bytes());
                    self.overlay.heard(was_passed_on);
                    if message.retain != Retain::No {
                        self.overlay.retained(message);
                    }
                }
                Decoded::Control(Control::SessionProgress(_))
                    if self.leading.is_none() && is_planted(PlantedBug::FollowerSkipsProgress) => {}
                Decoded::Control(control) => {
                    let gone = self.unbound_by(control);
                    let ended = self.routing_ended_by(control);
                    self.end_following(control, out);
                    self.views.apply(offset, time, Record::Control(control));
                    self.after_control(offset, control);
                    self.announce_bindings(control, &gone, out);
                    self.announce_routing(control, ended, out);
                }
            }
            if keeps {
                kept.push(record);
            }
        }
        if keeps {
            self.history.keep(frame, kept);
        }
        self.history.indexes.take_apart(self.node.log(), frame);
        self.applied = Applied { index: frame.header.index, end: frame.header.end_offset() };
        self.since_snapshot += frame.header.frame_bytes();
        self.retention.since_end += frame.header.frame_bytes();
        while self.in_flight.front().is_some_and(|first| first.index <= self.applied.index) {
            let done = self.in_flight.pop_front().expect("just seen");
            done.waiting.into_iter().for_each(|waiting| self.answer(waiting, out));
        }
        Ok(())
    }

    pub(super) fn after_control(&mut self, offset: Offset, control: &Control) {
        match control {
            Control::QueueDeclared { name, settings } => {
                self.overlay.queue_applied(queue_id(name));
                if settings.retroactive {
                    self.follows.call();
                }
            }
            Control::QueueDeleted { queue } => {
                self.overlay.queue_applied(*queue);
                self.groups.queue_gone(*queue);
                self.waits.remove(queue);
            }
            Control::ExchangeDeclared { name, .. } => self.exchange_applied(name),
            Control::ExchangeDeleted { exchange } => self.exchange_applied(&exchange.name),
            Control::InputNoted { input, .. } => drop(self.overlay.inputs.remove(input)),
            Control::QueueFollowed { queue, source, .. } => {
                self.overlay.following.remove(&(*queue, *source));
            }
            Control::SessionOpened { client_id, .. } => self.holders.stored(client_id, offset),
            Control::WillSet { client_id, .. } => self.holders.will_set(client_id, offset),
            Control::WillDue { .. } | Control::WillCleared { .. } => {
                self.after_will_control(control);
            }
            Control::HistoryTrimmed { .. } => self.retention.trimmed(),
            Control::Moved { queues, .. } => {
                queues.iter().for_each(|(queue, entry)| self.groups.moved(*queue, *entry));
                self.retention.moved();
            }
            Control::TenureBegun { publisher, tenure } => {
                self.overlay.tenure_applied(*publisher, *tenure);
            }
            Control::QueueTrimmed { queue, to, .. } => {
                self.overlay.trimming.remove(queue);
                self.groups.trimmed(*queue, *to);
            }
            Control::QueueRemoved { queue, entries, .. } => {
                for entry in entries {
                    self.overlay.leaving.remove(&(*queue, *entry));
                }
                self.groups.removed(*queue, entries);
            }
            Control::QueuePurged { queue, to, kept, .. } => {
                self.overlay.trimming.remove(queue);
                self.groups.purged(*queue, *to, kept);
            }
            Control::QueueUsed { queue, .. } => self.overlay.use_applied(*queue),
            _ => self.after_group_control(control),
        }
    }

    /// Follows what a record says of a group.
    fn after_group_control(&mut self, control: &Control) {
        match control {
            Control::GroupCreated { queue, group, .. } => {
                let key = (*queue, group.clone());
                self.overlay.groups.remove(&key);
                if self.leading.is_some() {
                    self.groups.created(key);
                }
            }
            Control::GroupDeleted { queue, group } => {
                let key = (*queue, group.clone());
                self.overlay.ending_groups.remove(&key);
                self.groups.gone(&key);
            }
            Control::Settled { selection, group, finished, .. } => {
                self.groups.outcome_applied(&(*selection, group.clone()), finished);
            }
            Control::Postponed { queue, group, .. } => {
                self.groups.outcome_applied(&(*queue, group.clone()), &[]);
            }
            Control::CursorSet { queue, group, to } => {
                self.groups.seek(&(*queue, group.clone()), *to);
            }
            Control::MemberJoined { filter, group, client_id, .. } => {
                let key = (filter_id(filter), group.clone());
                self.overlay.joining.remove(&(key, client_id.clone()));
            }
            Control::MemberLeft { selection, group, client_id, expiry_s: 0 } => {
                self.groups.ended(&(*selection, group.clone()), client_id);
            }
            _ => {}
        }
    }

    /// Says before a queue is deleted that it follows nothing any more.
    fn end_following(&self, control: &Control, out: &mut impl Outbox) {
        let Control::QueueDeleted { queue } = control else { return };
        if let Some(queue) = self.views.queues.get(*queue).filter(|it| it.settings().retroactive) {
            self.follow_ended(queue.name(), out);
        }
    }

    /// The bindings that a record may end.
    fn unbound_by(&self, control: &Control) -> Vec<Binding> {
        match control {
            Control::QueueDeleted { queue } => {
                let queue = self.views.queues.get(*queue);
                queue.map_or_else(Vec::new, |queue| queue.settings().bindings().collect())
            }
            _ => Vec::new(),
        }
    }

    /// Says what queues are bound to since a record, before anybody is answered who waited for it.
    fn announce_bindings(&self, control: &Control, gone: &[Binding], out: &mut impl Outbox) {
        let queues = &self.views.queues;
        if let Control::QueueDeclared { settings, .. } = control {
            settings.bindings().for_each(|binding| out.bound(&binding, true));
        }
        for binding in gone.iter().filter(|binding| !queues.is_bound(binding)) {
            out.bound(binding, false);
        }
    }

    pub(super) fn answer(&mut self, waiting: Waiting, out: &mut impl Outbox) {
        match waiting {
            Waiting::Confirm { to, token, result, .. } => {
                out.send(to, Event::Confirm { token, result: Ok(result) });
            }
            Waiting::DeadLettered { to, token } => {
                let result = Err(Refusal::DeadLettered);
                out.send(to, Event::Confirm { token, result });
            }
            Waiting::Written { to, token } => {
                out.send(to, Event::Written { token, result: Ok(()) });
            }
            Waiting::Queue { to, token, answer } => {
                out.send(to, Event::Queue { token, result: Ok(answer) });
            }
            Waiting::Opened { to, client_id, left_groups } => {
                let session = self.views.sessions.get(&client_id);
                // Who waits is dismissed with the term in which the record was proposed.
                let term = self.node.term();
                let opened = session.map(|session| OpenedSession::of(&session, term));
                let opened = opened.unwrap_or_default();
                let opened = OpenedSession { left_groups, ..opened };
                out.send(to, Event::SessionOpened(Ok(Box::new(opened))));
                self.session_is_open(&client_id, to, out);
            }
            Waiting::Get { to, get } => self.get_now(to, &get, out),
            Waiting::Joined { to, join, gap } => {
                let token = join.token;
                self.enter_group(to, *join, gap);
                out.send(to, Event::Joined { token, result: Ok(()) });
            }
            Waiting::MembershipEnded { to, membership } => {
                out.send(to, Event::MembershipEnded { membership });
            }
        }
    }
}
