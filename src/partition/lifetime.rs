//! How long queues are there: those of one connection, those that end with a term, with their last consumer, or without use (ADR 0054).
//!
//! Who declared a queue for itself alone is not stored: such a queue ends with its connection, and with the term in which it was declared.

use std::collections::BTreeMap;

use fluxmq_log::disk::Disk;

use super::request::ConnectionId;
use super::stage::Waiting;
use super::{Partition, RECORDS_PER_TURN_MAX};
use crate::model::queue::Lifetime;
use crate::model::{Control, QueueRefusal};

/// The connections whose own a queue is, by queue.
#[derive(Debug, Default)]
pub(super) struct Owners(BTreeMap<u64, ConnectionId>);

impl Owners {
    /// A connection has declared a queue for itself.
    pub(super) fn declared(&mut self, queue: u64, owner: ConnectionId) {
        self.0.insert(queue, owner);
    }

    /// The connection whose own a queue is.
    pub(super) fn of(&self, queue: u64) -> Option<ConnectionId> {
        self.0.get(&queue).copied()
    }

    /// Lists who has such queues.
    pub(super) fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.0.values().copied()
    }

    fn queues_of(&self, owner: ConnectionId) -> Vec<u64> {
        let owned = self.0.iter().filter(|(_, connection)| **connection == owner);
        owned.map(|(queue, _)| *queue).collect()
    }
}

impl<D: Disk> Partition<D> {
    /// Refuses a connection what is another's alone.
    pub(super) fn check_owner(&self, from: ConnectionId, id: u64) -> Result<(), QueueRefusal> {
        match (self.owners.0.get(&id), self.queue(id)) {
            (Some(owner), Some((name, _))) if *owner != from => {
                Err(QueueRefusal::Locked { queue: String::from_utf8_lossy(name).into_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Ends a queue, and all that is of it. Its members are told when that is committed; until then they get nothing more.
    pub(super) fn end_queue(&mut self, id: u64) {
        let members = self.groups.end_queue(id);
        self.owners.0.remove(&id);
        self.heads.remove(&id);
        self.waits.remove(&id);
        self.overlay.queue_changes(id, None);
        let mut over: Vec<Waiting> = members
            .into_iter()
            .map(|(to, membership)| Waiting::MembershipEnded { to, membership })
            .collect();
        // A letter that arrives later would end an entry of the next queue of this name.
        over.extend(self.letters.queue_ended(id));
        let now = self.now;
        let pending = self.pending();
        pending.building.control(&Control::QueueDeleted { queue: id }, now);
        pending.waiting.extend(over);
        self.relieve();
    }

    /// Ends what an earlier term leaves of queues that do not outlive it, and the use that its consumers made of others.
    pub(super) fn end_transient_queues(&mut self) {
        let queues = self.views.queues.iter();
        let transient = queues.filter(|(_, it)| it.settings().lifetime != Lifetime::Durable);
        for id in transient.map(|(id, _)| id).collect::<Vec<u64>>() {
            self.end_queue(id);
        }
        for id in self.views.leases.in_use().collect::<Vec<u64>>() {
            if self.queue(id).is_some() {
                self.write_use(id, false);
            }
        }
    }

    /// Ends the queues of a connection that is gone.
    pub(super) fn end_queues_of(&mut self, owner: ConnectionId) {
        for id in self.owners.queues_of(owner) {
            self.end_queue(id);
        }
    }

    /// Ends the queues that nobody has used for as long as they may be unused.
    pub(super) fn end_unused_queues(&mut self) {
        let over = self.views.leases.over(self.now).take(RECORDS_PER_TURN_MAX);
        for id in over.collect::<Vec<u64>>() {
            let is_changing = self.overlay.queues.contains_key(&id);
            let is_used = self.overlay.using.contains_key(&id) || self.groups.members_of(id) > 0;
            if !is_changing && !is_used {
                self.end_queue(id);
            }
        }
    }

    /// A consumer is about to come; it is not a member yet.
    pub(super) fn consumer_comes(&mut self, id: u64) {
        if self.expires(id) && self.groups.members_of(id) == 0 {
            self.write_use(id, true);
        }
    }

    /// A consumer is gone, and no member any more.
    pub(super) fn consumer_left(&mut self, id: u64) {
        let Some((_, settings)) = self.queue(id) else { return };
        let (ends, expires) = (settings.auto_delete, settings.expires_ms.is_some());
        if (!ends && !expires) || self.groups.members_of(id) > 0 {
            return;
        }
        match ends {
            true => self.end_queue(id),
            false => self.write_use(id, false),
        }
    }

    /// Somebody has asked a queue for an entry, or declared it again.
    pub(super) fn queue_used(&mut self, id: u64) {
        if self.expires(id) && self.groups.members_of(id) == 0 {
            self.write_use(id, false);
        }
    }

    fn expires(&self, id: u64) -> bool {
        self.queue(id).is_some_and(|(_, settings)| settings.expires_ms.is_some())
    }

    fn write_use(&mut self, queue: u64, goes_on: bool) {
        *self.overlay.using.entry(queue).or_default() += 1;
        self.write(&Control::QueueUsed { queue, goes_on }, None);
    }
}
