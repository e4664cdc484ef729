//! Entries that leave a queue for everybody: too many, too old, or no room for more.
//!
//! Looked at with every tick, from each queue's oldest entry on. Where a letter is to be written of an entry, it and the record that
//! takes the entry out are one frame, as far as the letter's queue is here.

use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::consumers::Death;
use super::{Partition, PartitionError, RECORDS_PER_TURN_MAX};
use crate::model::queue::{Overflow, QueueLimits};
use crate::model::{Control, Millis, QueueSettings, Refusal, StoredMessage};
use crate::planted::{PlantedBug, is_planted};
use crate::view::Queue;

impl<D: Disk> Partition<D> {
    /// Takes out what is due of every queue that has limits.
    pub(super) fn retire(&mut self) -> Result<(), PartitionError> {
        for id in self.views.queues.limited().collect::<Vec<u64>>() {
            // What is under way for it is counted when it is applied.
            if !self.overlay.trimming.contains(&id) && !self.overlay.queues.contains_key(&id) {
                self.retire_from(id)?;
            }
        }
        Ok(())
    }

    fn retire_from(&mut self, id: u64) -> Result<(), PartitionError> {
        let Some(queue) = self.views.queues.get(id) else { return Ok(()) };
        let settings = queue.settings().clone();
        let (mut messages, mut bytes) = (queue.len(), queue.bytes());
        let head = queue.head();
        if messages == 0 || !self.may_be_due(id, queue, &settings) {
            return Ok(());
        }
        let (mut end, mut taken, mut is_held) = (head, 0, false);
        for (to, offset) in self.positions_of(id, head, RECORDS_PER_TURN_MAX)? {
            if self.views.queues.get(id).is_none_or(|queue| queue.is_removed(to)) {
                end = if is_held { end } else { to.next() };
                continue;
            }
            let Some(message) = self.history.fetch(self.node.log(), offset)? else { break };
            // What is on its way out is counted by the view, and is no reason for another to leave.
            if !self.overlay.leaving.contains(&(id, to)) {
                let Some(death) = death(&settings, (messages, bytes), &message, self.now) else {
                    self.heads.insert(id, (to, message.time));
                    break;
                };
                match has_letter(&settings, death) {
                    // The letter's frame takes it out by itself, or its arrival elsewhere does.
                    true if !self.bury((id, None), to, &message, death) => break,
                    true => is_held |= self.letters.is_on_its_way(id, to),
                    // Trimming would take out with it what is before and waits for its letter to arrive.
                    false if is_held => break,
                    false => taken += message.len_bytes() as u64,
                }
            }
            messages -= 1;
            bytes = bytes.saturating_sub(message.len_bytes() as u64);
            end = if is_held { end } else { to.next() };
        }
        if taken > 0 {
            self.overlay.trimming.insert(id);
            self.write(&Control::QueueTrimmed { queue: id, to: end, bytes: taken }, None);
        }
        Ok(())
    }

    /// Returns false where nothing can be due, as far as that is seen without reading.
    fn may_be_due(&self, id: u64, queue: &Queue, settings: &QueueSettings) -> bool {
        if is_over(&settings.limits, (queue.len(), queue.bytes())) {
            return true;
        }
        let Some(age) = age_max(settings) else { return false };
        match self.heads.get(&id) {
            Some((head, time)) if *head == queue.head() => time.plus(age) <= self.now,
            _ => true,
        }
    }

    /// Refuses what a full queue has no room for, where it is the publisher that gives way.
    pub(super) fn has_room(&self, id: u64, bytes: usize) -> Result<(), Refusal> {
        self.has_room_for(id, (1, bytes as u64))
    }

    /// The same of several messages.
    pub(super) fn has_room_for(&self, id: u64, (more, bytes): (u64, u64)) -> Result<(), Refusal> {
        let Some((_, settings)) = self.queue(id) else { return Ok(()) };
        let limits = &settings.limits;
        if limits.overflow == Overflow::DropHead {
            return Ok(());
        }
        // What comes after a deletion is not as full as what it deletes.
        let queue = self.views.queues.get(id).filter(|_| !self.overlay.queues.contains_key(&id));
        let (messages, used) = queue.map_or((0, 0), |queue| (queue.len(), queue.bytes()));
        let (coming, coming_bytes) = self.overlay.coming.get(&id).copied().unwrap_or((0, 0));
        let then = (messages + coming + more, used + coming_bytes + bytes);
        match is_over(limits, then) {
            true => Err(Refusal::Quota { limit: "the length of a queue" }),
            false => Ok(()),
        }
    }

    /// Counts what is on its way to queues that may be full.
    pub(super) fn overlay_routes(&mut self, routes: &[u64], bytes: usize) {
        for id in routes {
            let rejects = self
                .queue(*id)
                .is_some_and(|(_, settings)| settings.limits.overflow == Overflow::RejectPublish);
            if rejects {
                let coming = self.overlay.coming.entry(*id).or_default();
                *coming = (coming.0 + 1, coming.1 + bytes as u64);
            }
        }
    }
}

fn is_over(limits: &QueueLimits, (messages, bytes): (u64, u64)) -> bool {
    limits.messages_max.is_some_and(|max| messages > max)
        || limits.bytes_max.is_some_and(|max| bytes > max)
}

/// The age at which the first of the queue's rules takes an entry out.
fn age_max(settings: &QueueSettings) -> Option<u64> {
    settings.ttl_ms.into_iter().chain(settings.limits.age_max_ms).min()
}

/// Why the oldest entry leaves, if it does.
fn death(
    settings: &QueueSettings,
    (messages, bytes): (u64, u64),
    message: &StoredMessage,
    now: Millis,
) -> Option<Death> {
    if is_expired(settings, message, now) {
        return Some(Death::Expired);
    }
    let is_old = settings.limits.age_max_ms.is_some_and(|age| message.time.plus(age) <= now);
    let drops = settings.limits.overflow == Overflow::DropHead;
    (is_old || (drops && is_over(&settings.limits, (messages, bytes)))).then_some(Death::Overflow)
}

/// Returns true for an entry that must not be delivered any more.
pub(super) fn is_expired(settings: &QueueSettings, message: &StoredMessage, now: Millis) -> bool {
    let ttl_ms = match settings.ttl_ms {
        Some(_) if is_planted(PlantedBug::NeverExpires) => None,
        Some(ttl_ms) if is_planted(PlantedBug::ExpiresLate) => Some(4 * ttl_ms),
        ttl_ms => ttl_ms,
    };
    message.is_expired(now) || ttl_ms.is_some_and(|ttl| message.time.plus(ttl) <= now)
}

/// Returns true where a letter is written of an entry that leaves the queue.
pub(super) fn has_letter(settings: &QueueSettings, death: Death) -> bool {
    match death {
        Death::Rejected | Death::Deliveries => true,
        Death::Expired => settings.dead_letters.with_expired,
        Death::Overflow => settings.dead_letters.with_overflow,
    }
}

/// The oldest entries of queues, and when they were stored: what was looked at last.
pub(super) type Heads = std::collections::BTreeMap<u64, (Offset, Millis)>;
