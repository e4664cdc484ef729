//! How much of a queue is kept: what makes room, and for what. I24, and of I28 whether a bound asks for it.

use fluxmq::model::queue::Overflow;

use super::super::{Invariant, Violation, wrong};
use super::{Entry, Queue, Queues};
use crate::node::EPOCH_MS;
use crate::world::World;

/// Queues are within their bounds so soon after they are due, in milliseconds.
const LATE_MS: u64 = 2_000;

/// What the topic of a captured copy has more than the one that it was published to.
const COPY_BYTES: u64 = 8;

impl Queue {
    /// The newest entry has come.
    pub(super) fn come(&mut self) {
        self.len += 1;
        self.bytes += self.entries.last().map_or(0, |entry| entry.bytes);
        if self.is_full((self.len, self.bytes)) {
            self.over_end = self.entries.len() as u64;
        }
    }

    /// An entry is in the queue no more; false when it was not before.
    pub(super) fn leave(&mut self, entry: u64) -> bool {
        let Some(it) = self.entries.get_mut(entry as usize) else { return false };
        let is_new = !std::mem::replace(&mut it.is_gone, true);
        if is_new {
            self.len -= 1;
            self.bytes -= it.bytes;
        }
        is_new
    }

    /// Returns true when so many entries are more than there may be, or their bytes are.
    fn is_full(&self, (count, bytes): (u64, u64)) -> bool {
        let limits = &self.settings.limits;
        let is_long = limits.messages_max.is_some_and(|max| count > max);
        is_long || limits.bytes_max.is_some_and(|max| bytes > max)
    }

    /// Returns true when the oldest entry gives way to others, where so many count, and so many bytes.
    pub(super) fn is_over(&self, entry: u64, counts: (u64, u64)) -> bool {
        // A letter that goes elsewhere is decided on before it is stored, and so is what comes with it.
        let was_over = self.has_letters_elsewhere() && self.was_over(entry);
        let drops = self.settings.limits.overflow == Overflow::DropHead;
        was_over || drops && self.is_full(counts)
    }

    /// Returns true when there was too much once an entry had come.
    pub(super) fn was_over(&self, entry: u64) -> bool {
        self.settings.limits.overflow == Overflow::DropHead && entry < self.over_end
    }

    /// Returns true for an entry that leaves because of its age, however many there are.
    pub(super) fn is_old(&self, entry: &Entry, time: u64) -> bool {
        self.settings.limits.age_max_ms.is_some_and(|age| entry.time + age <= time)
    }

    /// I24: a stream that refuses what is too much never has it.
    pub(super) fn outgrown(&self) -> Result<(), Violation> {
        let rejects = self.settings.limits.overflow != Overflow::DropHead;
        let limits = &self.settings.limits;
        // Room is asked for with the topic that was published to, and a copy that a binding captured is stored under a longer one.
        let more = COPY_BYTES * self.len;
        let is_full = limits.messages_max.is_some_and(|max| self.len > max)
            || limits.bytes_max.is_some_and(|max| self.bytes > max + more);
        if !(self.is_stream() && rejects && is_full) {
            return Ok(());
        }
        let what = format!("{:?} has {} entries, {} bytes", self.name, self.len, self.bytes);
        wrong(Invariant::I24, format!("{what}: more than {:?}", self.settings.limits))
    }
}

impl Queues {
    /// How many entries wait, and their bytes, as far as anybody knows who does not know what is out: of a stream, and where nobody
    /// reads, all of them, or else of each the most that one of the groups has not finished.
    pub(super) fn waiting(&self, id: u64) -> (u64, u64) {
        let Some(queue) = self.by_id.get(&id) else { return (0, 0) };
        let readers = self.groups.iter().filter(|((of, _), _)| *of == id);
        let unfinished = readers.map(|(_, group)| {
            let all = group.finished_to()..queue.entries.len() as u64;
            let open = all.filter(|entry| !group.finished.contains(entry));
            let there = open.map(|entry| &queue.entries[entry as usize]).filter(|it| !it.is_gone);
            there.fold((0, 0), |(count, bytes), it| (count + 1, bytes + it.bytes))
        });
        let most = unfinished.reduce(|one, other| (one.0.max(other.0), one.1.max(other.1)));
        most.filter(|_| !queue.is_stream()).unwrap_or((queue.len, queue.bytes))
    }

    /// I24: soon after nothing more comes there is no more of a queue than it says, where that does not depend on what is out.
    pub fn within_bounds(&self, world: &World) -> Result<(), Violation> {
        let clock = EPOCH_MS + world.now / 1000 - LATE_MS;
        for (id, queue) in &self.by_id {
            let limits = &queue.settings.limits;
            let is_read = self.groups.keys().any(|(of, _)| of == id) && !queue.is_stream();
            let drops = limits.overflow == Overflow::DropHead;
            let is_full = drops && queue.is_full((queue.len, queue.bytes));
            // What all have finished may be gone with history.
            let is_there = |number: u64, entry: &Entry| {
                !(entry.is_gone || self.has_history_ended && self.is_finished_by_all(*id, number))
            };
            let old = (0..)
                .zip(&queue.entries)
                .filter(|(number, entry)| queue.is_old(entry, clock) && is_there(*number, entry));
            let old = old.count();
            let may_wait = world.observer.has_clock_jumped;
            if is_full && !is_read || old > 0 && !may_wait {
                let what = format!(
                    "{:?} has {} entries, {} bytes, {old} of them old: more than {limits:?}",
                    queue.name, queue.len, queue.bytes
                );
                return wrong(Invariant::I24, what);
            }
        }
        Ok(())
    }
}
