//! Publishes and outcomes that are stored together or not at all: records of one frame.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq_log::disk::Disk;

use super::Partition;
use super::batch::Stamp;
use super::inputs::Judged;
use super::request::{ConnectionId, Outbox, Publish, Target, Transaction};
use super::stage::Waiting;
use super::stop::refuse_all;
use crate::model::queue::QueueKind;
use crate::model::record::queue_id;
use crate::model::{QueueName, Refusal};

impl<D: Disk> Partition<D> {
    /// Takes a transaction into one frame, or refuses all of it. What of the deliveries went with its queue meanwhile is not settled.
    pub(super) fn transact(
        &mut self,
        from: ConnectionId,
        transaction: Transaction,
        out: &mut impl Outbox,
    ) {
        let new = match self.admit_all(&transaction.publishes) {
            Ok(new) => new,
            Err(refusal) => return refuse_all(from, &transaction, &refusal, out),
        };
        let Transaction { publishes, settled, token } = transaction;
        if !settled.is_empty() {
            // What was settled before may be in a frame of its own; behind it, all outcomes are of this transaction.
            for control in self.groups.take_outcomes() {
                self.write(&control, None);
            }
        }
        let members: BTreeSet<u32> = settled.iter().map(|settled| settled.membership).collect();
        // A message, its name, and the declaration of its queue; of a group what is over, and what is put off.
        self.make_room(3 * publishes.len() + 2 * members.len());
        let mut waiting = Vec::with_capacity(publishes.len());
        for (publish, is_new) in publishes.into_iter().zip(new) {
            let result = !is_new || self.take_in(&publish, out);
            let may_be_copy = false;
            let confirm = publish.token.map(|token| Waiting::Confirm {
                to: from,
                token,
                result,
                may_be_copy,
            });
            waiting.extend(confirm);
            self.counters.duplicates += u64::from(!is_new);
        }
        let now = self.now;
        for settled in settled {
            self.groups.settle(from, settled.membership, settled.entry, settled.outcome, now);
        }
        if !members.is_empty() {
            for control in self.groups.take_outcomes() {
                self.pending().building.control(&control, now);
            }
        }
        self.relieve();
        waiting.extend(token.map(|token| Waiting::Written { to: from, token }));
        for waiting in waiting {
            self.answer_with_next(waiting, out);
        }
    }

    /// Proposes what was gathered unless so many more records fit into its frame.
    fn make_room(&mut self, records: usize) {
        let building = self.building.as_ref();
        let is_full = building.is_some_and(|pending| !pending.building.has_room_for(records));
        if is_full && let Err(error) = self.propose() {
            // Whoever waits is told when `persist` reports this and the partition stops.
            self.failed.get_or_insert(error);
        }
    }

    /// Tells which of them are new, or why none may be stored.
    fn admit_all(&mut self, publishes: &[Publish]) -> Result<Vec<bool>, Refusal> {
        if self.disk_full && !publishes.is_empty() {
            return Err(Refusal::DiskFull);
        }
        if self.memory_full && !publishes.is_empty() {
            return Err(Refusal::MemoryFull);
        }
        let mut new = Vec::with_capacity(publishes.len());
        let mut coming: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (at, publish) in publishes.iter().enumerate() {
            let is_twice = publish.input.is_some()
                && publishes[..at].iter().any(|before| before.input == publish.input);
            let is_new = !is_twice && matches!(self.judge_input(publish)?, Judged::New);
            new.push(is_new);
            if is_new {
                if let Target::Queue(queue) = &publish.target {
                    self.may_use(queue)?;
                }
                for queue in self.routes(publish).0 {
                    let more = coming.entry(queue).or_default();
                    *more = (more.0 + 1, more.1 + publish.message.len_bytes() as u64);
                }
            }
        }
        coming.into_iter().try_for_each(|(id, more)| self.has_room_for(id, more))?;
        Ok(new)
    }

    /// Why a queue cannot store anything; declares nothing yet.
    fn may_use(&self, queue: &QueueName) -> Result<(), Refusal> {
        self.may_declare(queue)?;
        let known = self.queue(queue_id(queue.as_bytes()));
        match known.is_some_and(|(_, settings)| settings.kind == QueueKind::Ephemeral) {
            true => {
                let reason = format!("queue '{queue}' is ephemeral and stores nothing");
                Err(Refusal::Invalid { reason })
            }
            false => Ok(()),
        }
    }

    /// Adds an admitted message to the frame in the making, unless nothing stores it; true when somebody gets it.
    fn take_in(&mut self, publish: &Publish, out: &mut impl Outbox) -> bool {
        if let Target::Queue(queue) = &publish.target {
            self.declare_in_frame(queue);
        }
        let (routes, passing) = self.routes(publish);
        let is_passed_on = self.pass_on(&passing, publish, out);
        if routes.is_empty() && !publish.is_to_topic() {
            return is_passed_on;
        }
        self.overlay_routes(&routes, publish.message.len_bytes());
        let stamp = match routes.is_empty() {
            true => Stamp { now: self.now, deliver_at: None, priority: 0 },
            false => self.stamp(&publish.message.properties),
        };
        let routes = self.with_lanes(routes, stamp.priority);
        self.pending().building.message(publish, &routes, stamp);
        if let Some(input) = publish.input {
            self.note_input(input);
        }
        true
    }
}
