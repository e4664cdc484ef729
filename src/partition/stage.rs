//! Taking requests into the batch in the making: what is admitted, and who waits for it.
//!
//! Admission sees the views and what is proposed on top of them, so the log holds only what was admitted and applying it is total.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::batch::{Building, Stamp};
use super::exchanges::ExchangeChange;
use super::gap::Gap;
use super::inputs::Judged;
use super::request::{ConnectionId, Event, GetEntry, Join, Outbox, Publish, QueueAnswer, Target};
use super::will::Fate;
use super::{Partition, PartitionError};
use crate::model::queue::PRIORITY_MAX;
use crate::model::record::{DedupKey, Tenure, lane_id, queue_id};
use crate::model::{
    Control, Filter, Input, Message, PartitionId, Properties, Property, QueueName, QueueRefusal,
    QueueSettings, Refusal, StoredMessage, Token,
};
use crate::planted::{PlantedBug, is_planted};
use crate::view::GroupKey;

/// A batch in the making and who waits for it.
pub(super) struct Pending {
    pub(super) building: Building,
    pub(super) waiting: Vec<Waiting>,
}

/// A proposed batch and who waits for it.
pub(super) struct InFlight {
    pub(super) index: u64,
    pub(super) waiting: Vec<Waiting>,
}

/// Who waits for a record to be applied.
pub(super) enum Waiting {
    Confirm {
        to: ConnectionId,
        token: Token,
        result: bool,
        may_be_copy: bool,
    },
    /// A publish that is refused when it is a dead letter.
    DeadLettered {
        to: ConnectionId,
        token: Token,
    },
    Written {
        to: ConnectionId,
        token: Token,
    },
    Queue {
        to: ConnectionId,
        token: Token,
        answer: QueueAnswer,
    },
    Opened {
        to: ConnectionId,
        client_id: Bytes,
        left_groups: bool,
    },
    Joined {
        to: ConnectionId,
        join: Box<Join>,
        gap: Option<Gap>,
    },
    MembershipEnded {
        to: ConnectionId,
        membership: u32,
    },
    Get {
        to: ConnectionId,
        get: Box<GetEntry>,
    },
}

impl Waiting {
    /// Who waits.
    pub(super) fn to(&self) -> ConnectionId {
        match self {
            Waiting::Confirm { to, .. }
            | Waiting::DeadLettered { to, .. }
            | Waiting::Written { to, .. }
            | Waiting::Queue { to, .. }
            | Waiting::Opened { to, .. }
            | Waiting::Joined { to, .. }
            | Waiting::Get { to, .. }
            | Waiting::MembershipEnded { to, .. } => *to,
        }
    }
}

/// What proposed and not yet applied records will have changed: admission must see it.
#[derive(Default)]
pub(super) struct Overlay {
    pub(super) queues: BTreeMap<u64, QueueChange>,
    pub(super) exchanges: BTreeMap<Bytes, ExchangeChange>,
    pub(super) groups: BTreeSet<(u64, Bytes)>,
    /// Groups that are about to be gone.
    pub(super) ending_groups: BTreeSet<(u64, Bytes)>,
    /// Entries that leave their queues for everybody.
    pub(super) leaving: BTreeSet<(u64, Offset)>,
    /// Names of messages that are on their way into the log.
    pub(super) inputs: BTreeSet<Input>,
    /// Retroactive queues that are being given more of a partition's history.
    pub(super) following: BTreeSet<(u64, PartitionId)>,
    /// How many records say of a queue that it is used.
    pub(super) using: BTreeMap<u64, u32>,
    /// Queues whose oldest entries leave.
    pub(super) trimming: BTreeSet<u64>,
    /// Messages and bytes on their way to queues that may be full.
    pub(super) coming: BTreeMap<u64, (u64, u64)>,
    pub(super) publishes: BTreeSet<(u64, DedupKey)>,
    /// Tenures that begin, by publisher.
    pub(super) tenures: BTreeMap<u64, Tenure>,
    /// Retained messages that are proposed and not applied, and their bytes.
    pub(super) retained: (usize, u64),
    /// Messages that were passed on, and whose records are not applied.
    pub(super) passed_on: usize,
    /// Sessions that are about to be members, and the filters they share.
    pub(super) joining: BTreeMap<(GroupKey, Bytes), Filter>,
    /// What was decided last of a will, and how many records that say so are on their way.
    pub(super) wills: BTreeMap<(Bytes, Offset), (Fate, u32)>,
}

/// What becomes of a queue.
pub(super) struct QueueChange {
    /// Its name and what it is; `None` when it ends.
    becomes: Option<(Bytes, Arc<QueueSettings>)>,
    /// Records that say so and are not applied.
    records: u32,
}

impl<D: Disk> Partition<D> {
    pub(super) fn publish(&mut self, from: ConnectionId, publish: Publish, out: &mut impl Outbox) {
        let message = &publish.message;
        debug_assert!(publish.is_stored(), "what nothing stores does not come here");
        if publish.may_be_copy() && self.is_superseded(message.publisher, publish.tenure) {
            // Neither yes nor no: the client asks on its new connection.
            return out.send(from, Event::TakenOver);
        }
        let (routes, passing) = self.routes(&publish);
        if self.is_answered(from, &publish, (&routes, &passing), out) {
            return;
        }
        let admitted = self.admit(&publish);
        let is_full = admitted.is_ok();
        if let Err(refusal) = admitted.and_then(|()| self.admit_to_queues(&routes, &publish)) {
            if !is_full || !self.bury_refused(from, &routes, &publish) {
                self.refuse_publish(from, &publish, refusal, out);
            }
            if !is_planted(PlantedBug::StoreRefused) {
                return;
            }
        }
        #[cfg(feature = "planted-bugs")]
        if self.options.deliver_before_commit || is_planted(PlantedBug::DeliverBeforeCommit) {
            self.readers.dispatch((self.applied.end, self.now), &publish.message, false, out);
        }
        if let Some(token) = publish.token.filter(|_| is_planted(PlantedBug::ConfirmBeforeCommit)) {
            out.send(from, Event::Confirm { token, result: Ok(true) });
        }
        let may_be_copy = publish.may_be_copy();
        let confirm = |token| Waiting::Confirm { to: from, token, result: true, may_be_copy };
        let waiting = publish.token.map(confirm);
        self.overlay.admitted(message.publisher, publish.dedup);
        if publish.retains() {
            self.overlay.retained.0 += 1;
            self.overlay.retained.1 += message.len_bytes() as u64;
        }
        self.overlay.passed_on += usize::from(publish.is_recorded_as_passed_on());
        self.pass_on(&passing, &publish, out);
        self.overlay_routes(&routes, message.len_bytes());
        let stamp = match routes.is_empty() {
            true => Stamp { now: self.now, deliver_at: None, priority: 0 },
            false => self.stamp(&publish.message.properties),
        };
        let routes = self.with_lanes(routes, stamp.priority);
        let pending = self.pending();
        pending.building.message(&publish, &routes, stamp);
        pending.waiting.extend(waiting);
        if let Some(input) = publish.input {
            self.note_input(input);
        }
        self.relieve();
    }

    /// Answers a publish of which nothing is to be stored: it is stored already, or nobody stores it. False for any other.
    fn is_answered(
        &mut self,
        from: ConnectionId,
        publish: &Publish,
        (routes, passing): (&[u64], &[u64]),
        out: &mut impl Outbox,
    ) -> bool {
        if self.is_duplicate(publish) {
            // Stored already, or about to be: answered with what is under way, at once where nothing is.
            let token = publish.token.expect("QoS 2 publishes and wills wait for their answer");
            let may_be_copy = publish.may_be_copy();
            let waiting = Waiting::Confirm { to: from, token, result: true, may_be_copy };
            self.answer_with_next(waiting, out);
            return true;
        }
        if routes.is_empty() && !publish.is_to_topic() {
            // It was for queues that pass on, that are not there, or for a binding that is not any more.
            let result = self.pass_on(passing, publish, out);
            if let Some(token) = publish.token {
                out.send(from, Event::Confirm { token, result: Ok(result) });
            }
            return true;
        }
        match self.judge_input(publish) {
            Ok(Judged::New) => false,
            Ok(Judged::Stored) => {
                self.counters.duplicates += 1;
                if let Some(token) = publish.token {
                    let may_be_copy = false;
                    let waiting = Waiting::Confirm { to: from, token, result: true, may_be_copy };
                    self.answer_with_next(waiting, out);
                }
                true
            }
            Err(refusal) => {
                self.refuse_publish(from, publish, refusal, out);
                true
            }
        }
    }

    /// Returns true for a QoS 2 publish, or a will, that is stored, or proposed, and not released [MQTT-4.3.3-10].
    fn is_duplicate(&self, publish: &Publish) -> bool {
        let key = (publish.message.publisher, publish.dedup);
        publish.dedup.seq != 0
            && (self.views.dedup.find(key.0, key.1).is_some()
                || self.overlay.publishes.contains(&key))
    }

    /// Decides whether a publish may be stored, and makes sure that there is a queue for it.
    fn admit(&mut self, publish: &Publish) -> Result<(), Refusal> {
        match &publish.target {
            _ if self.disk_full => Err(Refusal::DiskFull),
            _ if self.memory_full => Err(Refusal::MemoryFull),
            _ if publish.retains() && !self.may_retain(&publish.message) => {
                Err(Refusal::Quota { limit: "retained messages" })
            }
            Target::Queue(queue) => self.declare(queue),
            Target::Topic
            | Target::TopicAnd(_)
            | Target::Bound
            | Target::BoundAnd(_)
            | Target::Queues(_) => Ok(()),
        }
    }

    fn admit_to_queues(&mut self, routes: &[u64], publish: &Publish) -> Result<(), Refusal> {
        let bytes = publish.message.len_bytes();
        routes.iter().try_for_each(|queue| self.has_room(*queue, bytes))
    }

    /// Returns true unless a message would be one retained message too many. What is proposed and not applied counts as if it were
    /// new, so that no batch passes the limit; a message that takes no more than the one it replaces always may.
    fn may_retain(&self, message: &Message) -> bool {
        if message.payload.is_empty() {
            return true;
        }
        let retained = &self.views.retained;
        let old = retained.get(message.topic.as_bytes());
        let (count, bytes) = self.overlay.retained;
        let has_place = old.is_some() || retained.len() + count < self.options.retained_max;
        let more = (message.len_bytes() as u64).saturating_sub(old.map_or(0, |old| old.bytes()));
        has_place
            && (more == 0 || retained.bytes() + bytes + more <= self.options.retained_bytes_max)
    }

    /// Adds a change of state to the batch.
    pub(super) fn write(&mut self, control: &Control, waiting: Option<Waiting>) {
        let now = self.now;
        let pending = self.pending();
        pending.building.control(control, now);
        pending.waiting.extend(waiting);
        self.relieve();
    }

    /// Answers with the newest batch that is under way, so that everything admitted before is committed first.
    pub(super) fn answer_with_next(&mut self, waiting: Waiting, out: &mut impl Outbox) {
        for control in self.groups.take_outcomes() {
            self.write(&control, None);
        }
        match (&mut self.building, self.in_flight.back_mut()) {
            (Some(pending), _) => pending.waiting.push(waiting),
            (None, Some(in_flight)) => in_flight.waiting.push(waiting),
            (None, None) => self.answer(waiting, out),
        }
    }

    /// What a queue is, or is about to be.
    pub(super) fn queue(&self, id: u64) -> Option<(&Bytes, &Arc<QueueSettings>)> {
        match self.overlay.queues.get(&id) {
            Some(change) => change.becomes.as_ref().map(|(name, settings)| (name, settings)),
            None => self.views.queues.get(id).map(|queue| (queue.name(), queue.settings())),
        }
    }

    /// Returns true when there is, or is about to be, a queue of this name.
    ///
    /// Ids are hashes: two names with one id are as unlikely as a forged one is possible (ADR 0004).
    pub(super) fn is_known(&self, name: &Bytes) -> Result<bool, Refusal> {
        match self.queue(queue_id(name)) {
            None => Ok(false),
            Some((known, _)) if known == name => Ok(true),
            Some((known, _)) => Err(Refusal::Invalid {
                reason: format!(
                    "queue '{}' has the same id as queue '{}': use another name",
                    String::from_utf8_lossy(name),
                    String::from_utf8_lossy(known)
                ),
            }),
        }
    }

    /// Makes sure that a queue exists, declaring it at its first use.
    pub(super) fn declare(&mut self, name: &QueueName) -> Result<(), Refusal> {
        if self.may_declare(name)? {
            self.declare_in_frame(name);
            self.relieve();
        }
        Ok(())
    }

    /// Returns true when a queue is still to be declared, and why it may not be.
    pub(super) fn may_declare(&self, name: &QueueName) -> Result<bool, Refusal> {
        if self.is_known(name.as_bytes())? {
            return Ok(false);
        }
        if name.is_reply_queue() {
            return Err(QueueRefusal::Missing { queue: name.to_string() }.into());
        }
        if !self.options.auto_create_queues && !name.is_dead_letters() {
            let reason = format!("there is no queue '{name}', and queues.auto_create is off");
            return Err(Refusal::Invalid { reason });
        }
        Ok(true)
    }

    /// Declares a queue at its first use, unless it is, without proposing what was gathered.
    pub(super) fn declare_in_frame(&mut self, name: &QueueName) {
        if self.queue(queue_id(name.as_bytes())).is_some() {
            return;
        }
        let settings = match name.is_dead_letters() {
            true => QueueSettings::of_dead_letters(),
            false => QueueSettings::default(),
        };
        let settings = Arc::new(settings);
        let now = self.now;
        let becomes = Some((name.as_bytes().clone(), settings.clone()));
        self.overlay.queue_changes(queue_id(name.as_bytes()), becomes);
        let control = Control::QueueDeclared { name: name.as_bytes().clone(), settings };
        self.pending().building.control(&control, now);
    }

    pub(super) fn declare_queue(&mut self, name: &Bytes, settings: Arc<QueueSettings>) {
        let becomes = Some((name.clone(), settings.clone()));
        self.overlay.queue_changes(queue_id(name), becomes);
        self.write(&Control::QueueDeclared { name: name.clone(), settings }, None);
    }

    /// The queues that a publish is addressed to, or those of this partition that are bound to its topic, ascending.
    pub(super) fn all_routes(&self, publish: &Publish) -> Vec<u64> {
        let mut routes = match &publish.target {
            // An answer that comes too late makes no queue.
            Target::Queue(queue) if queue.is_reply_queue() => {
                self.those_here(std::slice::from_ref(queue)).collect()
            }
            Target::Queue(queue) => vec![queue_id(queue.as_bytes())],
            Target::Queues(queues) => self.those_here(queues).collect(),
            Target::Topic | Target::Bound => self.bound_here(publish),
            Target::TopicAnd(queues) | Target::BoundAnd(queues) => {
                let mut routes = self.bound_here(publish);
                routes.extend(self.those_here(queues));
                routes
            }
        };
        routes.sort_unstable();
        routes.dedup();
        routes
    }

    /// The queues of this partition that are bound to a publish's topic.
    fn bound_here(&self, publish: &Publish) -> Vec<u64> {
        let mut routes = Vec::new();
        let topic = publish.message.topic.as_bytes();
        self.views.queues.bound_to(topic, &mut routes);
        if !self.overlay.queues.is_empty() {
            let changes = &self.overlay.queues;
            routes.retain(|id| !changes.contains_key(id));
            let becomes = changes.iter().filter_map(|(id, it)| Some((*id, it.becomes.as_ref()?)));
            let bound = becomes.filter(|(_, (_, settings))| settings.is_bound_to(topic));
            routes.extend(bound.map(|(id, _)| id));
        }
        if publish.is_in_history() {
            routes.retain(|id| self.queue(*id).is_none_or(|(_, settings)| !settings.retroactive));
        }
        let count = routes.len();
        self.views.bindings.bound_to(topic, &mut routes);
        if routes.len() > count && !self.overlay.queues.is_empty() {
            // What a queue was bound to ends with it, also where another of its name comes in the same flush.
            let bound = routes.split_off(count);
            let stays = |id: &u64| !self.overlay.queues.contains_key(id);
            routes.extend(bound.into_iter().filter(stays));
        }
        routes
    }

    /// Of these queues those that are there, or about to be.
    fn those_here<'a>(&'a self, queues: &'a [QueueName]) -> impl Iterator<Item = u64> + 'a {
        queues.iter().filter_map(|name| {
            let id = queue_id(name.as_bytes());
            self.queue(id).filter(|(known, _)| *known == name.as_bytes()).map(|_| id)
        })
    }

    /// Adds the lanes of the queues that order their entries by priority: the index finds the highest without looking at the others.
    pub(super) fn with_lanes(&self, mut routes: Vec<u64>, priority: u8) -> Vec<u64> {
        for at in 0..routes.len() {
            let max = self.queue(routes[at]).map_or(0, |(_, settings)| settings.priority_max);
            if max > 0 {
                routes.push(lane_id(routes[at], priority.min(max)));
            }
        }
        routes.sort_unstable();
        routes
    }

    /// What a publisher says about how queues hand its message out: `x-delay`, in milliseconds, and `x-priority`, 0 to 9. What is no
    /// number says nothing.
    pub(super) fn stamp(&self, properties: &Properties) -> Stamp {
        let mut stamp = Stamp { now: self.now, deliver_at: None, priority: 0 };
        if properties.is_plain() {
            return stamp;
        }
        let number =
            |value: &[u8]| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        for property in properties.iter() {
            let Property::User(key, value) = property else { continue };
            match &key[..] {
                b"x-delay" if stamp.deliver_at.is_none() => {
                    stamp.deliver_at = number(&value).map(|delay: u64| self.now.plus(delay));
                }
                b"x-priority" if stamp.priority == 0 => {
                    let priority: u64 = number(&value).unwrap_or(0);
                    stamp.priority = priority.min(u64::from(PRIORITY_MAX)) as u8;
                }
                _ => {}
            }
        }
        stamp
    }

    pub(super) fn pending(&mut self) -> &mut Pending {
        let now = self.now;
        self.building
            .get_or_insert_with(|| Pending { building: Building::new(now), waiting: Vec::new() })
    }

    /// Proposes a batch that is full: it is flushed with the ones after it.
    pub(super) fn relieve(&mut self) {
        if self.building.as_ref().is_some_and(|pending| pending.building.is_full())
            && let Err(error) = self.propose()
        {
            // Whoever waits for the batch is told when `persist` reports this and the partition stops.
            self.failed.get_or_insert(error);
        }
    }

    pub(super) fn propose(&mut self) -> Result<(), PartitionError> {
        if self.node.transferee().is_some() {
            // It goes on when the other has taken over, or has not.
            return Ok(());
        }
        let Some(pending) = self.building.take() else { return Ok(()) };
        assert!(!pending.building.is_empty(), "a batch is made for its first record");
        // Pushed first: should the log refuse, whoever waits is still known to `stop`.
        self.in_flight.push_back(InFlight { index: u64::MAX, waiting: pending.waiting });
        let index = self.node.propose(pending.building.finish())?;
        let last = self.in_flight.back_mut().expect("pushed above");
        last.index = index;
        Ok(())
    }
}

impl Overlay {
    /// A message is in its queues now.
    pub(super) fn came(&mut self, queues: &[u64], bytes: usize) {
        if self.coming.is_empty() {
            return;
        }
        for queue in queues {
            if let Some((messages, all)) = self.coming.get(queue).copied() {
                let rest = (messages.saturating_sub(1), all.saturating_sub(bytes as u64));
                match rest.0 {
                    0 => drop(self.coming.remove(queue)),
                    _ => drop(self.coming.insert(*queue, rest)),
                }
            }
        }
    }

    /// A record says that a queue is used, and is in the views now.
    pub(super) fn use_applied(&mut self, id: u64) {
        if let Some(records) = self.using.get_mut(&id) {
            *records -= 1;
            if *records == 0 {
                self.using.remove(&id);
            }
        }
    }

    /// A record says what becomes of a queue. What was to become of its groups ends with it.
    pub(super) fn queue_changes(&mut self, id: u64, becomes: Option<(Bytes, Arc<QueueSettings>)>) {
        if becomes.is_none() {
            self.groups.retain(|(queue, _)| *queue != id);
            self.ending_groups.retain(|(queue, _)| *queue != id);
            self.coming.remove(&id);
        }
        let records = self.queues.get(&id).map_or(0, |change| change.records) + 1;
        self.queues.insert(id, QueueChange { becomes, records });
    }

    /// It is in the views now. Another leader's was never in here.
    pub(super) fn queue_applied(&mut self, id: u64) {
        if let Some(change) = self.queues.get_mut(&id) {
            change.records -= 1;
            if change.records == 0 {
                self.queues.remove(&id);
            }
        }
    }

    /// Returns the filter of a shared subscription that is about to be.
    pub(super) fn joining_filter(&self, key: &GroupKey) -> Option<&Filter> {
        let mut joining = self.joining.range((key.clone(), Bytes::new())..);
        joining.next().filter(|((group, _), _)| group == key).map(|(_, filter)| filter)
    }

    /// A retained message is in the views now. Another leader's was never in here.
    pub(super) fn retained(&mut self, message: &StoredMessage) {
        let (count, all) = self.retained;
        let bytes = message.len_bytes() as u64;
        self.retained = (count.saturating_sub(1), all.saturating_sub(bytes));
    }

    /// A record is in the views now that was passed on, or was not. Another leader's was never in here.
    pub(super) fn heard(&mut self, was_passed_on: bool) {
        self.passed_on = self.passed_on.saturating_sub(usize::from(was_passed_on));
    }

    pub(super) fn fate(&self, client_id: &Bytes, epoch: Offset) -> Option<Fate> {
        // Almost always empty: no key is made for nothing.
        if self.wills.is_empty() {
            return None;
        }
        self.wills.get(&(client_id.clone(), epoch)).map(|(fate, _)| *fate)
    }

    pub(super) fn fate_decided(&mut self, client_id: &Bytes, epoch: Offset, fate: Fate) {
        let entry = self.wills.entry((client_id.clone(), epoch)).or_insert((fate, 0));
        *entry = (fate, entry.1 + 1);
    }

    pub(super) fn fate_applied(&mut self, client_id: &Bytes, epoch: Offset) {
        let key = (client_id.clone(), epoch);
        if let Some((_, records)) = self.wills.get_mut(&key) {
            *records -= 1;
            if *records == 0 {
                self.wills.remove(&key);
            }
        }
    }

    fn admitted(&mut self, publisher: u64, key: DedupKey) {
        if key.seq != 0 {
            self.publishes.insert((publisher, key));
        }
    }

    pub(super) fn applied(&mut self, publisher: u64, key: DedupKey) {
        if key.seq != 0 {
            self.publishes.remove(&(publisher, key));
        }
    }
}
