//! What a queue has, to the last record that was admitted: also what is on its way into the log.
//!
//! Views know what is applied. Who publishes, and counts, empties or ends the queue right after, is told of what it published; and what
//! is taken out is what came before, not what happened to be applied. Read out of the log when it is asked for: nobody else pays.

use std::collections::BTreeSet;

use fluxmq_index::{Offset, OffsetSet};
use fluxmq_log::disk::Disk;

use super::request::DefaultGroup;
use super::{APPLY_READ_BYTES, Partition, PartitionError};
use crate::model::consume::GROUP_DEFAULT;
use crate::model::frame::{Decoded, decode};
use crate::model::queue::QueueKind;
use crate::model::{Control, Refusal};
use crate::view::{Group, Queue};

/// The entries of a queue, as one group sees them.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// How many there have been.
    pub(super) end: Offset,
    removed: OffsetSet,
    /// By the group.
    finished: OffsetSet,
    /// Out at members of the group, or nobody's any more.
    held: BTreeSet<Offset>,
}

impl Contents {
    fn new(queue: Option<&Queue>, group: Option<&Group>) -> Contents {
        Contents {
            end: queue.map_or(Offset::ZERO, Queue::end),
            removed: queue.map_or_else(OffsetSet::default, Queue::gone),
            finished: group.map_or_else(OffsetSet::default, Group::finished),
            held: BTreeSet::new(),
        }
    }

    /// Entries that are in the queue, whatever groups have done with them.
    pub(super) fn len(&self) -> u64 {
        self.left_by(self.removed.clone())
    }

    /// These are out, too, whoever has them.
    pub(super) fn hold(&mut self, entries: impl Iterator<Item = Offset>) {
        self.held.extend(entries);
    }

    /// Entries that wait for a member of the group.
    pub(super) fn ready(&self) -> u64 {
        let mut gone = self.removed.clone();
        gone.union_with(&self.finished);
        for entry in &self.held {
            gone.insert(*entry);
        }
        self.left_by(gone)
    }

    fn left_by(&self, mut gone: OffsetSet) -> u64 {
        gone.remove_range(self.end..Offset(u64::MAX));
        self.end.0 - gone.len()
    }

    fn apply(&mut self, id: u64, record: &Decoded) {
        match record {
            Decoded::Message(_, queues) if queues.contains(&id) => self.end = self.end.next(),
            Decoded::Control(Control::QueueDeleted { queue }) if *queue == id => {
                *self = Contents::default();
            }
            Decoded::Control(Control::QueueTrimmed { queue, to, .. }) if *queue == id => {
                self.removed.insert_range(Offset::ZERO..*to);
            }
            Decoded::Control(Control::QueueRemoved { queue, entries, .. }) if *queue == id => {
                for entry in entries {
                    self.removed.insert(*entry);
                }
            }
            Decoded::Control(Control::QueuePurged { queue, to, kept, .. }) if *queue == id => {
                let stays = |entry: &Offset| !self.removed.contains(*entry);
                let kept = kept.iter().flat_map(|(_, entries)| entries.iter().copied());
                let kept: Vec<Offset> = kept.filter(stays).collect();
                self.removed.insert_range(Offset::ZERO..*to);
                for entry in kept {
                    self.removed.remove(entry);
                }
            }
            Decoded::Control(control) => self.apply_to_group(id, control),
            Decoded::Message(..) => {}
        }
    }

    fn apply_to_group(&mut self, id: u64, control: &Control) {
        match control {
            Control::Settled { selection, group, finished, .. }
                if *selection == id && group == GROUP_DEFAULT =>
            {
                for (first, count) in finished {
                    self.finished.insert_range(*first..first.plus(*count));
                }
            }
            Control::GroupCreated { queue, group, start } if is_default(id, (*queue, group)) => {
                self.finished.insert_range(Offset::ZERO..*start);
            }
            Control::GroupDeleted { queue, group } if is_default(id, (*queue, group)) => {
                self.finished.clear();
            }
            Control::CursorSet { queue, group, to } if is_default(id, (*queue, group)) => {
                if *to < self.finished.first_gap(Offset::ZERO) {
                    self.finished.clear();
                }
                self.finished.insert_range(Offset::ZERO..*to);
            }
            _ => {}
        }
    }
}

fn is_default(id: u64, (queue, group): (u64, &[u8])) -> bool {
    queue == id && group == GROUP_DEFAULT.as_bytes()
}

impl<D: Disk> Partition<D> {
    /// Finds what a queue has for the group [`GROUP_DEFAULT`]; of one that stores nothing, or is not there, that is nothing.
    pub(super) fn contents(&mut self, id: u64) -> Result<Contents, Refusal> {
        let found = self.find_contents(id);
        found.map_err(|error| self.uncounted(error))
    }

    /// A queue cannot be counted. Whoever waits is told when `persist` reports it and the partition stops.
    pub(super) fn uncounted(&mut self, error: PartitionError) -> Refusal {
        tracing::error!(partition = self.id.0, %error, "cannot count a queue");
        self.failed.get_or_insert(error);
        Refusal::Unavailable { partition: self.id.0 }
    }

    /// What is known of a queue's group [`GROUP_DEFAULT`] without a look into the log.
    pub(super) fn default_group(&self, id: u64) -> DefaultGroup {
        let contents = self.with_held(id, self.applied_contents(id));
        DefaultGroup { ready: contents.ready(), unacked: contents.held.len() as u64 }
    }

    fn applied_contents(&self, id: u64) -> Contents {
        let group = self.views.groups.get(id, &GROUP_DEFAULT.into());
        Contents::new(self.views.queues.get(id), group)
    }

    fn find_contents(&mut self, id: u64) -> Result<Contents, PartitionError> {
        for control in self.groups.take_outcomes() {
            self.write(&control, None);
        }
        self.propose()?;
        let mut contents = self.applied_contents(id);
        let (mut next, end) = (self.applied.index + 1, self.log().last_index() + 1);
        while next < end {
            for frame in self.log().entries(next, end, APPLY_READ_BYTES)? {
                next = frame.header.index + 1;
                for record in decode(&frame)? {
                    contents.apply(id, &record?.2);
                }
            }
        }
        Ok(self.with_held(id, contents))
    }

    fn with_held(&self, id: u64, mut contents: Contents) -> Contents {
        let settings = self.queue(id).map(|(_, settings)| settings);
        match settings.is_some_and(|settings| settings.kind == QueueKind::Stream) {
            // What was read of it is there for the next who reads.
            true => contents.finished.clear(),
            false => contents.held = self.groups.held_by(&(id, GROUP_DEFAULT.into())),
        }
        contents
    }
}
