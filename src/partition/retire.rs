//! Entries that leave a queue for everybody: too many, too old, or no room for more.
//!
//! Looked at with every tick, from each queue's oldest entry on. Where a letter is to be written of an entry, it and the record that
//! takes the entry out are one frame, as far as the letter's queue is here.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::{Partition, PartitionError, RECORDS_PER_TURN_MAX};
use crate::model::queue::{Overflow, QueueKind, QueueLimits};
use crate::model::{Control, Death, Millis, QueueSettings, StoredMessage};
use crate::planted::{PlantedBug, is_planted};
use crate::view::Queue;

/// What is out at members is looked at again after so long.
const HELD_LOOK_MS: u64 = 1_000;

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
        let (head, end) = (queue.head(), queue.end());
        let first = self.first_unfinished(id, head);
        if queue.is_empty() || !self.may_be_due(id, queue, &settings) {
            return Ok(());
        }
        // What is on its way out is counted by the view, and is no reason for another to leave, also where it stands behind that.
        let leaving = self.overlay.leaving.range((id, Offset::ZERO)..=(id, Offset(u64::MAX)));
        let leaving = leaving.count() as u64;
        let stays = |(count, bytes): (u64, u64)| (count.saturating_sub(leaving), bytes);
        let all = stays((queue.len(), queue.bytes()));
        let waiting = match is_over(&settings.limits, all) {
            true => stays(self.waiting(id)?),
            false => all,
        };
        // What is out, and would be a letter, stays out.
        let held = match settings.dead_letters.with_expired || settings.dead_letters.with_overflow {
            true => self.groups.held_of(id).into_iter().flat_map(|(_, entries)| entries).collect(),
            false => BTreeSet::new(),
        };
        let mut course = Course { settings, held, all, waiting, end: head, ..Course::default() };
        let mut next = Some(head);
        while let Some(from) = next.take() {
            let found = self.positions_of(id, from, RECORDS_PER_TURN_MAX)?;
            // Behind what is all out there may be more.
            next = found.last().map(|(last, _)| last.next()).filter(|_| !course.has_begun);
            for (to, offset) in found {
                match self.retire_one(id, (to, offset), &mut course)? {
                    Step::Next => {}
                    Step::Over => {
                        next = Some(self.first_unfinished(id, to.next()));
                        break;
                    }
                    Step::Stop => {
                        next = None;
                        break;
                    }
                }
            }
            next = next.filter(|_| !course.has_begun);
        }
        // What is out may come back.
        let soon = (!course.held.is_empty()).then(|| self.now.plus(HELD_LOOK_MS));
        let never = Millis(u64::MAX);
        let due = match course.has_begun || course.is_hindered {
            true => self.now,
            false => course.due.unwrap_or(never).min(soon.unwrap_or(never)),
        };
        self.heads.insert(id, Head { first, end, due });
        if course.taken > 0 {
            self.overlay.trimming.insert(id);
            let (to, bytes) = (course.end, course.taken);
            self.write(&Control::QueueTrimmed { queue: id, to, bytes }, None);
        }
        Ok(())
    }

    /// Takes one entry out, if it is due.
    fn retire_one(
        &mut self,
        id: u64,
        (to, offset): (Offset, Offset),
        course: &mut Course,
    ) -> Result<Step, PartitionError> {
        if self.views.queues.get(id).is_none_or(|queue| queue.is_removed(to)) {
            course.passes(to);
            return Ok(Step::Next);
        }
        if course.held.contains(&to) {
            course.is_held = true;
            return Ok(Step::Next);
        }
        let is_done = self.is_done(id, to);
        if is_done && course.is_held {
            return Ok(Step::Over);
        }
        let Some(message) = self.history.fetch(self.node.log(), offset)? else {
            return Ok(Step::Stop);
        };
        let bytes = message.len_bytes() as u64;
        let is_leaving = self.overlay.leaving.contains(&(id, to));
        if !is_leaving {
            let counts = if is_done { course.all } else { course.waiting };
            let Some(death) = death(&course.settings, counts, &message, self.now) else {
                let due = due(&course.settings, &message);
                course.due = Some(course.due.map_or(due, |earlier| earlier.min(due)));
                course.is_held = true;
                return Ok(if is_done { Step::Over } else { Step::Stop });
            };
            match has_letter(&course.settings, death) && !is_done {
                // The letter's frame takes it out by itself, or its arrival elsewhere does.
                true if !self.bury((id, None), to, &message, death) => {
                    course.is_hindered = true;
                    return Ok(Step::Stop);
                }
                true => course.is_held |= self.is_on_its_way(id, to),
                // Trimming would take out with it what is before and waits for its letter to arrive.
                false if course.is_held => {
                    course.is_hindered = true;
                    return Ok(Step::Stop);
                }
                false => course.taken += bytes,
            }
        }
        course.leaves((u64::from(!is_leaving), bytes), !is_done && !is_leaving);
        course.passes(to);
        Ok(Step::Next)
    }

    /// Returns the first entry from this one on that some group has not finished; this one where there is no group.
    fn first_unfinished(&self, id: u64, entry: Offset) -> Offset {
        let groups = self.views.groups.of(id);
        groups.map(|(_, group)| group.first_unfinished(entry)).min().unwrap_or(entry)
    }

    /// Returns true for an entry that every group has finished, if there is one: nobody misses it.
    fn is_done(&self, id: u64, entry: Offset) -> bool {
        let is_stream = |queue: &Queue| queue.settings().kind == QueueKind::Stream;
        if self.views.queues.get(id).is_none_or(is_stream) {
            return false;
        }
        let mut groups = self.views.groups.of(id).peekable();
        let is_begun = |(queue, _): &(u64, Bytes)| *queue == id;
        groups.peek().is_some()
            && !self.overlay.groups.iter().any(is_begun)
            && groups.all(|(_, group)| group.is_finished(entry))
    }

    /// Returns false where nothing can be due, as far as that is seen without reading.
    fn may_be_due(&self, id: u64, queue: &Queue, settings: &QueueSettings) -> bool {
        if is_over(&settings.limits, (queue.len(), queue.bytes())) {
            return true;
        }
        let first = self.first_unfinished(id, queue.head());
        match self.heads.get(&id) {
            // Where nothing waited, what came since was not looked at.
            Some(head) if head.first == first && (first < head.end || queue.end() == head.end) => {
                head.due <= self.now
            }
            _ => true,
        }
    }
}

/// What of a queue has been looked at, and what it has left: messages and bytes.
#[derive(Default)]
struct Course {
    settings: Arc<QueueSettings>,
    /// Out at members, or about to be buried.
    held: BTreeSet<Offset>,
    all: (u64, u64),
    /// What counts for its length: what is finished stays as long as there is room.
    waiting: (u64, u64),
    /// Trimmed up to here, of so many bytes.
    end: Offset,
    taken: u64,
    /// Something stays: nothing behind it can be trimmed.
    is_held: bool,
    /// Something leaves: the rest has time.
    has_begun: bool,
    /// Something would leave, and cannot yet.
    is_hindered: bool,
    /// When what was looked at and is not due will be.
    due: Option<Millis>,
}

/// How to go on in a queue.
enum Step {
    Next,
    /// Behind all that is finished.
    Over,
    Stop,
}

impl Course {
    fn passes(&mut self, to: Offset) {
        if !self.is_held {
            self.end = to.next();
        }
    }

    fn leaves(&mut self, (count, bytes): (u64, u64), has_waited: bool) {
        let less = |(messages, all): (u64, u64)| {
            (messages.saturating_sub(count), all.saturating_sub(bytes))
        };
        self.has_begun = true;
        self.all = less(self.all);
        if has_waited {
            self.waiting = less(self.waiting);
        }
    }
}

/// When time alone takes an entry out.
fn due(settings: &QueueSettings, message: &StoredMessage) -> Millis {
    let own = message.expiry_s.map(|seconds| u64::from(seconds) * 1_000);
    age_max(settings)
        .into_iter()
        .chain(own)
        .min()
        .map_or(Millis(u64::MAX), |age| message.time.plus(age))
}

pub(super) fn is_over(limits: &QueueLimits, (messages, bytes): (u64, u64)) -> bool {
    let bytes = if is_planted(PlantedBug::BytesUncounted) { 0 } else { bytes };
    limits.messages_max.is_some_and(|max| messages > max)
        || limits.bytes_max.is_some_and(|max| bytes > max)
}

/// The age at which the first of the queue's rules takes an entry out.
fn age_max(settings: &QueueSettings) -> Option<u64> {
    settings.ttl_ms.into_iter().chain(oldest_ms(settings)).min()
}

/// The age at which entries leave, however many there are.
fn oldest_ms(settings: &QueueSettings) -> Option<u64> {
    let share = if is_planted(PlantedBug::AgedEarly) { 2 } else { 1 };
    settings.limits.age_max_ms.map(|age| age / share)
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
    let is_old = oldest_ms(settings).is_some_and(|age| message.time.plus(age) <= now);
    let messages = messages + u64::from(is_planted(PlantedBug::DroppedEarly));
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

/// What was looked at of queues.
pub(super) type Heads = std::collections::BTreeMap<u64, Head>;

/// What was looked at of one queue.
#[derive(Debug)]
pub(super) struct Head {
    /// The first entry that is not finished.
    first: Offset,
    /// Where the queue ended.
    end: Offset,
    /// When something is due of what there was.
    due: Millis,
}
