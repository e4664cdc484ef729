//! Queues that store nothing: what comes goes to whoever is there, one member of each group, and is gone.
//!
//! The queue itself is a record, so that its name means the same to everybody. It ends five minutes after its last consumer.

use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::consumers::Handed;
use super::request::{Outbox, Publish};
use super::{Partition, RECORDS_PER_TURN_MAX};
use crate::model::queue::QueueKind;
use crate::model::{QueueName, StoredMessage};

/// How long one outlives its last consumer.
const IDLE_MAX_MS: u64 = 300_000;

impl<D: Disk> Partition<D> {
    /// The queues that a publish goes to, ascending: those that store it, and those that pass it on.
    pub(super) fn routes(&self, publish: &Publish) -> (Vec<u64>, Vec<u64>) {
        let stores = |id: &u64| {
            self.queue(*id).is_none_or(|(_, settings)| settings.kind != QueueKind::Ephemeral)
        };
        let routes = self.all_routes(publish);
        match routes.iter().all(stores) {
            true => (routes, Vec::new()),
            false => routes.into_iter().partition(stores),
        }
    }

    /// Hands a publish to the members that are there; true when somebody got it.
    pub(super) fn pass_on(
        &mut self,
        queues: &[u64],
        publish: &Publish,
        out: &mut impl Outbox,
    ) -> bool {
        // What is on its way to its readers is in memory, and in no log.
        if self.memory_full {
            return false;
        }
        let mut is_passed_on = false;
        for id in queues {
            let Some((name, _)) = self.queue(*id) else { continue };
            let name = QueueName::from_stored(name.clone());
            let message = StoredMessage::of(&publish.message, self.now);
            let topic = name.topic_of(&message.topic);
            let handed = Handed {
                entry: Offset::ZERO,
                offset: Offset::ZERO,
                message: &message,
                topic: &topic,
                delivery_count: 0,
                partition: self.id,
                now: self.now,
                deadline: self.now,
                is_old: false,
                told: None,
            };
            is_passed_on |= self.groups.pass_on(*id, &handed, out);
        }
        is_passed_on
    }

    /// Ends the queues that nobody has read for a while.
    pub(super) fn end_idle_queues(&mut self) {
        let ids: Vec<u64> = self.views.queues.ephemeral().collect();
        if ids.is_empty() {
            return self.groups.idle.clear();
        }
        let read = self.groups.read_queues();
        self.groups.idle.retain(|id, _| ids.binary_search(id).is_ok() && !read.contains(id));
        let mut ended = 0;
        for id in ids.into_iter().filter(|id| !read.contains(id)) {
            let since = *self.groups.idle.entry(id).or_insert(self.now);
            let is_over = since.plus(IDLE_MAX_MS) <= self.now;
            if is_over && ended < RECORDS_PER_TURN_MAX && !self.overlay.queues.contains_key(&id) {
                self.end_queue(id);
                ended += 1;
            }
        }
    }
}
