//! Dead letters: what becomes of entries that nobody will finish.
//!
//! Where the queue for them lives here, the letter and what ends the entry are records of one frame: both or none. Elsewhere the entry
//! stays until a connection of this process, the courier, says that the letter is stored there; a crash repeats it (ADR 0039).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::{Offset, topic_trie};
use fluxmq_log::disk::Disk;

use super::batch::Stamp;
use super::history::HistoryError;
use super::letter;
use super::manage::Managed;
use super::patience::Said;
use super::request::{
    ConnectionId, Dead, Event, Letter, LetterArrived, LetterId, LetterTarget, Outbox, Publish,
    QueueAnswer, Target,
};
use super::retire::has_letter;
use super::stage::Waiting;
use super::{Partition, PartitionError, RECORDS_PER_TURN_MAX};
use crate::model::queue::{DeadLetterTarget, Overflow};
use crate::model::record::{DedupKey, Tenure, queue_id};
use crate::model::{
    Control, Death, Filter, Message, Outcome, PartitionId, QueueName, QueueSettings, Refusal,
    StoredMessage, Token, VirtualHost,
};
use crate::planted::{PlantedBug, is_planted};
use crate::view::{GroupKey, Queue};

/// Letters on their way at a time.
const LETTERS_MAX: usize = 1_024;

/// The letters on their way to queues elsewhere.
#[derive(Default)]
pub(super) struct Letters {
    courier: Option<ConnectionId>,
    due: BTreeMap<LetterId, Due>,
    /// Publishes that were refused and became letters, in this term.
    refused_count: u64,
}

/// Where a letter goes.
enum Grave {
    /// To a queue here, which is declared at its first use.
    Here(QueueName),
    /// To whom this process's courier brings it.
    Elsewhere(LetterTarget),
}

struct Due {
    target: LetterTarget,
    message: Message,
    /// Of the entry that it is of: the letter is longer.
    entry_bytes: u64,
    /// Partitions that have it, while others refuse it.
    stored_at: Vec<PartitionId>,
    /// One that is not answered in time is announced again.
    announced: Option<Said>,
    /// Who rejected the entry, or published what was refused, and waits.
    waiting: Vec<(ConnectionId, Token)>,
}

impl Letters {
    /// A connection carries letters from here on; what an earlier one was told is told again.
    pub(super) fn register(&mut self, courier: ConnectionId) {
        self.courier = Some(courier);
        self.due.values_mut().for_each(|due| due.announced = None);
    }

    /// Who carries.
    pub(super) fn courier(&self) -> Option<ConnectionId> {
        self.courier
    }

    /// A queue ends, and with it what was to be buried of it: who rejected an entry is answered that it is not pending any more.
    pub(super) fn queue_ended(&mut self, queue: u64) -> Vec<Waiting> {
        let due = std::mem::take(&mut self.due);
        // What was refused was never in it.
        let is_over = |id: &LetterId| id.queue == queue && !matches!(id.dead, Dead::Refused(..));
        let (ended, due): (BTreeMap<_, _>, _) = due.into_iter().partition(|(id, _)| is_over(id));
        self.due = due;
        let waiting = ended.into_values().flat_map(|due| due.waiting);
        let (result, may_be_copy) = (false, false);
        waiting.map(|(to, token)| Waiting::Confirm { to, token, result, may_be_copy }).collect()
    }

    /// Leadership is gone, and with it the part of telling.
    pub(super) fn resign(&mut self) -> Vec<ConnectionId> {
        let due = std::mem::take(&mut self.due);
        due.into_values().flat_map(|due| due.waiting).map(|(to, _)| to).collect()
    }

    /// A connection is gone.
    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.courier = self.courier.filter(|courier| *courier != connection);
        for due in self.due.values_mut() {
            due.waiting.retain(|(to, _)| *to != connection);
        }
    }
}

impl<D: Disk> Partition<D> {
    /// Settles an entry by address; a rejected one is answered when its letter is stored, and stays where it cannot be.
    pub(super) fn settle_entry(
        &mut self,
        (from, token): (ConnectionId, Token),
        key: &GroupKey,
        entry: Offset,
        outcome: Outcome,
        out: &mut impl Outbox,
    ) {
        if outcome == Outcome::Rejected
            && let Err(refusal) = self.may_bury(key.0)
        {
            return out.send(from, Event::Confirm { token, result: Err(refusal) });
        }
        let is_pending = self.groups.settle_entry(key, entry, outcome, self.now);
        if is_planted(PlantedBug::VerbUnstored) {
            return out.send(from, Event::Confirm { token, result: Ok(is_pending) });
        }
        if is_pending && outcome == Outcome::Rejected {
            if let Err(error) = self.bury_dying(key) {
                // Whoever waits for more is told when `persist` reports this and the partition stops.
                self.failed.get_or_insert(error);
            }
            let id = self.letter_id(key.0, Dead::EntryOf(key.1.clone(), entry));
            if let Some(due) = self.letters.due.get_mut(&id) {
                return due.waiting.push((from, token));
            }
            if self.groups.get_mut(key).is_some_and(|it| it.dying.contains_key(&entry)) {
                // Nothing says so in the log: it could not be read, or there is no room for its letter yet.
                let unbroken = Refusal::Quota { limit: "the length of a queue for dead letters" };
                let broken = Refusal::Unavailable { partition: self.id.0 };
                let refusal = if self.failed.is_some() { broken } else { unbroken };
                return out.send(from, Event::Confirm { token, result: Err(refusal) });
            }
        }
        let result = is_pending;
        let waiting = Waiting::Confirm { to: from, token, result, may_be_copy: false };
        self.answer_with_next(waiting, out);
    }

    /// Names a letter of a queue.
    fn letter_id(&self, queue: u64, dead: Dead) -> LetterId {
        // One that is not in the log yet has no entries.
        let known =
            self.views.queues.get(queue).filter(|_| !self.overlay.queues.contains_key(&queue));
        LetterId { queue, declared: known.map_or(Offset(u64::MAX), Queue::declared), dead }
    }

    /// Returns true while the letter of an entry that leaves its queue is not known to be stored.
    pub(super) fn is_on_its_way(&self, queue: u64, entry: Offset) -> bool {
        self.letters.due.contains_key(&self.letter_id(queue, Dead::Entry(entry)))
    }

    /// Why a dead letter of this queue could not be stored now, as far as this partition knows.
    pub(super) fn may_bury(&mut self, queue: u64) -> Result<(), Refusal> {
        let Some((name, settings)) = self.queue(queue) else { return Ok(()) };
        match self.grave(name, settings) {
            None => Ok(()),
            Some(_) if self.disk_full => Err(Refusal::DiskFull),
            Some(Grave::Here(target)) => self.has_room(queue_id(target.as_bytes()), 0),
            Some(Grave::Elsewhere(LetterTarget::Queue(target))) => {
                self.has_room(queue_id(target.as_bytes()), 0)
            }
            Some(Grave::Elsewhere(LetterTarget::Exchange(_))) => Ok(()),
        }
    }

    /// Where dead letters of a queue go; `None` is nowhere.
    fn grave(&self, name: &Bytes, settings: &QueueSettings) -> Option<Grave> {
        let own = || QueueName::from_stored(name.clone()).dead_letters();
        let is_here = |target: &QueueName| self.queue(queue_id(target.as_bytes())).is_some();
        match &settings.dead_letters.target {
            DeadLetterTarget::Nowhere => None,
            DeadLetterTarget::Own => Some(Grave::Here(own())),
            DeadLetterTarget::Queue(target) => Some(match *target == own() || is_here(target) {
                true => Grave::Here(target.clone()),
                false => Grave::Elsewhere(LetterTarget::Queue(target.clone())),
            }),
            DeadLetterTarget::Exchange(to) => {
                // What the default exchange routes to a queue here needs no courier.
                let (host, name) = VirtualHost::of_level(&to.exchange);
                let key = to.routing_key.as_ref().filter(|_| name.is_empty());
                let target = key.and_then(|key| host.queue(key).ok()).filter(is_here);
                let elsewhere = || Grave::Elsewhere(LetterTarget::Exchange(to.exchange.clone()));
                Some(target.map_or_else(elsewhere, Grave::Here))
            }
        }
    }

    /// Makes dead letters of what groups gave up, as far as they can be stored.
    pub(super) fn bury_all(&mut self, out: &mut impl Outbox) -> Result<(), PartitionError> {
        if !self.disk_full {
            for key in self.groups.mourning() {
                self.bury_dying(&key)?;
            }
        }
        self.announce_letters(out);
        Ok(())
    }

    fn bury_dying(&mut self, key: &GroupKey) -> Result<(), PartitionError> {
        let consumers = self.groups.get_mut(key);
        let dying = consumers.map(|it| it.dying.clone().into_iter().collect::<Vec<_>>());
        for (entry, death) in dying.unwrap_or_default() {
            let id = self.letter_id(key.0, Dead::EntryOf(key.1.clone(), entry));
            if self.letters.due.contains_key(&id) {
                continue;
            }
            let found = self.positions_of(key.0, entry, 1)?.first().copied();
            let Some((_, offset)) = found.filter(|(found, _)| *found == entry) else { continue };
            let Some(message) = self.history.fetch(self.node.log(), offset)? else { continue };
            if !self.bury((key.0, Some(&key.1)), entry, &message, death) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Makes a dead letter of an entry: for one group, or of the queue. False where there is no room for it now.
    pub(super) fn bury(
        &mut self,
        (queue, group): (u64, Option<&Bytes>),
        entry: Offset,
        message: &StoredMessage,
        death: Death,
    ) -> bool {
        if self.overlay.queues.contains_key(&queue) {
            // What is in it goes with it.
            return true;
        }
        let dead = match group {
            Some(group) => Dead::EntryOf(group.clone(), entry),
            None => Dead::Entry(entry),
        };
        let id = self.letter_id(queue, dead);
        let Some((name, settings)) = self.queue(queue) else { return true };
        if self.letters.due.contains_key(&id) {
            return true;
        }
        let (name, settings) = (name.clone(), settings.clone());
        let Some(grave) = self.grave(&name, &settings) else {
            self.end_entry(&id, message.len_bytes() as u64);
            return true;
        };
        let certificate = letter::certificate(message, name, death, (group, self.now));
        let (letter, deaths) = letter::of(message, certificate, &settings.dead_letters.target);
        match grave {
            Grave::Elsewhere(target) => {
                self.send_letter(id, target, (letter, message.len_bytes() as u64))
            }
            Grave::Here(target) if letter::goes_round(&settings, &deaths, &target) => {
                self.end_entry(&id, message.len_bytes() as u64);
                true
            }
            Grave::Here(target) => {
                // Its own queue for dead letters needs no leave to be.
                if !self.has_room_for_letter(&target, &letter) || self.declare(&target).is_err() {
                    return false;
                }
                self.store_letter(&target, letter, ending(&id, message.len_bytes() as u64));
                self.entry_ended(&id);
                true
            }
        }
    }

    fn has_room_for_letter(&mut self, target: &QueueName, letter: &Message) -> bool {
        !self.disk_full && self.has_room(queue_id(target.as_bytes()), letter.len_bytes()).is_ok()
    }

    /// Makes a dead letter of a publish for which one of its queues has no room, where that queue says so; its publisher is refused when
    /// the letter is stored. False where there is no letter.
    pub(super) fn bury_refused(
        &mut self,
        from: ConnectionId,
        routes: &[u64],
        publish: &Publish,
    ) -> bool {
        let bytes = publish.message.len_bytes();
        let full = routes.iter().copied().find(|queue| self.has_room(*queue, bytes).is_err());
        let Some((queue, (name, settings))) = full.and_then(|id| Some((id, self.queue(id)?)))
        else {
            return false;
        };
        let (name, settings) = (name.clone(), settings.clone());
        if settings.limits.overflow != Overflow::RejectPublishDlx
            || !has_letter(&settings, Death::Overflow)
        {
            return false;
        }
        let Some(grave) = self.grave(&name, &settings) else { return false };
        let stored = letter::as_stored(publish, self.now);
        let certificate = letter::certificate(&stored, name, Death::Overflow, (None, self.now));
        let (letter, deaths) = letter::of(&stored, certificate, &settings.dead_letters.target);
        let to = publish.token.map(|token| (from, token));
        match grave {
            Grave::Here(target) => {
                if letter::goes_round(&settings, &deaths, &target)
                    || !self.has_room_for_letter(&target, &letter)
                    || self.declare(&target).is_err()
                {
                    return false;
                }
                self.store_letter(&target, letter, None);
                let waiting = to.map(|(to, token)| Waiting::DeadLettered { to, token });
                self.pending().waiting.extend(waiting);
                true
            }
            Grave::Elsewhere(target) => {
                self.letters.refused_count += 1;
                let dead = Dead::Refused(self.node.term(), self.letters.refused_count);
                let id = self.letter_id(queue, dead);
                let is_sent = self.send_letter(id.clone(), target, (letter, 0));
                if let Some(due) = self.letters.due.get_mut(&id) {
                    due.waiting.extend(to);
                }
                is_sent
            }
        }
    }

    /// Stores a message for one queue together with a change of state: both or none.
    fn store_letter(&mut self, target: &QueueName, message: Message, control: Option<Control>) {
        let routes = [queue_id(target.as_bytes())];
        self.overlay_routes(&routes, message.len_bytes());
        let publish = Publish {
            token: None,
            message: Arc::new(message),
            dedup: DedupKey::default(),
            tenure: Tenure::default(),
            target: Target::Queue(target.clone()),
            input: None,
            is_kept: false,
        };
        let now = self.now;
        // What it waited for is over; what it goes before is not.
        let stamp = Stamp { deliver_at: None, ..self.stamp(&publish.message.properties) };
        let routes = self.with_lanes(routes.to_vec(), stamp.priority);
        let pending = self.pending();
        pending.building.message(&publish, &routes, stamp);
        control.iter().for_each(|control| pending.building.control(control, now));
        self.relieve();
    }

    fn end_entry(&mut self, id: &LetterId, bytes: u64) {
        if let Some(ending) = ending(id, bytes) {
            self.write(&ending, None);
        }
        self.entry_ended(id);
    }

    /// What ends the entry is on its way: nobody is to get it.
    fn entry_ended(&mut self, id: &LetterId) {
        match &id.dead {
            Dead::EntryOf(group, entry) => {
                if let Some(consumers) = self.groups.get_mut(&(id.queue, group.clone())) {
                    consumers.outcome_written(1);
                    consumers.forget(*entry);
                    consumers.note_finished(*entry);
                }
            }
            Dead::Entry(entry) => drop(self.overlay.leaving.insert((id.queue, *entry))),
            Dead::Refused(..) => {}
        }
    }

    /// Has a letter carried to another partition, with the bytes of the entry that it is of; false when that cannot be now.
    fn send_letter(
        &mut self,
        id: LetterId,
        target: LetterTarget,
        (message, entry_bytes): (Message, u64),
    ) -> bool {
        if self.disk_full || self.letters.due.len() >= LETTERS_MAX {
            return false;
        }
        if is_planted(PlantedBug::LetterUnawaited) {
            self.end_entry(&id, entry_bytes);
        }
        let (stored_at, waiting) = (Vec::new(), Vec::new());
        let due = Due { target, message, entry_bytes, stored_at, announced: None, waiting };
        self.letters.due.insert(id, due);
        true
    }

    fn announce_letters(&mut self, out: &mut impl Outbox) {
        let Some(courier) = self.letters.courier else { return };
        let now = Said { at: self.now, tick: self.ticks };
        for (id, due) in &mut self.letters.due {
            if due.announced.is_none_or(|said| said.is_long_ago(now)) {
                due.announced = Some(now);
                let letter = Letter {
                    id: id.clone(),
                    target: due.target.clone(),
                    message: due.message.clone(),
                    stored_at: due.stored_at.clone(),
                };
                out.send(courier, Event::Letter(Box::new(letter)));
            }
        }
    }

    /// The courier says what became of a letter.
    pub(super) fn letter_arrived(&mut self, arrived: LetterArrived, out: &mut impl Outbox) {
        let LetterArrived { id, result, stored_at } = arrived;
        let Some(due) = self.letters.due.get_mut(&id) else { return };
        let is_refused = matches!(id.dead, Dead::Refused(..));
        if let (Err(refusal), false) = (&result, is_refused) {
            // It stays due, and is announced again.
            due.stored_at = stored_at;
            for (to, token) in due.waiting.drain(..) {
                let result = Err(refusal.clone());
                out.send(to, Event::Confirm { token, result });
            }
            return;
        }
        let Some(due) = self.letters.due.remove(&id) else { return };
        self.end_entry(&id, due.entry_bytes);
        for (to, token) in due.waiting {
            match is_refused {
                true => {
                    let refusal = result.clone().err().unwrap_or(Refusal::DeadLettered);
                    out.send(to, Event::Confirm { token, result: Err(refusal) });
                }
                false => {
                    let waiting = Waiting::Confirm { to, token, result: true, may_be_copy: false };
                    self.answer_with_next(waiting, out);
                }
            }
        }
    }

    /// Publishes dead letters again where they died.
    pub(super) fn redrive(
        &mut self,
        queue: &QueueName,
        filter: &Filter,
        count_max: usize,
    ) -> Result<Managed, Refusal> {
        let id = queue_id(queue.as_bytes());
        let letters = self.letters_in(queue, filter, count_max.min(RECORDS_PER_TURN_MAX));
        let mut count = 0;
        for (entry, message) in letters.map_err(|error| self.unreadable(&error))? {
            let Some(origin) = letter::origin(&message) else { continue };
            let letter = self.letter_id(id, Dead::Entry(entry));
            let is_here = self.queue(queue_id(origin.as_bytes())).is_some()
                || origin.origin() == queue.origin();
            let bytes = message.len_bytes() as u64;
            let again = letter::again(&message, &origin);
            if self.disk_full {
                return Err(Refusal::DiskFull);
            }
            match is_here {
                true => {
                    self.declare(&origin)?;
                    self.has_room(queue_id(origin.as_bytes()), message.len_bytes())?;
                    self.store_letter(&origin, again, ending(&letter, bytes));
                    self.entry_ended(&letter);
                }
                false => {
                    let target = LetterTarget::Queue(origin);
                    if !self.send_letter(letter, target, (again, bytes)) {
                        break;
                    }
                }
            }
            count += 1;
        }
        Ok(Managed::Staged(QueueAnswer::Done { count }))
    }

    /// Lists entries of a queue that match a filter, oldest first, without those that are leaving it.
    fn letters_in(
        &mut self,
        queue: &QueueName,
        filter: &Filter,
        count_max: usize,
    ) -> Result<Vec<(Offset, StoredMessage)>, HistoryError> {
        let id = queue_id(queue.as_bytes());
        let mut found = Vec::new();
        let Some(view) = self.views.queues.get(id) else { return Ok(found) };
        let (mut entry, end) = (view.head(), view.end());
        while entry < end && found.len() < count_max {
            let offsets = self.positions_of(id, entry, RECORDS_PER_TURN_MAX)?;
            if offsets.is_empty() {
                break;
            }
            for (found_at, offset) in offsets {
                entry = found_at;
                let letter = self.letter_id(id, Dead::Entry(entry));
                let is_gone = self.views.queues.get(id).is_none_or(|it| it.is_removed(entry))
                    || self.overlay.leaving.contains(&(id, entry))
                    || self.letters.due.contains_key(&letter);
                if !is_gone
                    && found.len() < count_max
                    && let Some(message) = self.history.fetch(self.node.log(), offset)?
                {
                    let topic = queue.topic_of(&message.topic);
                    if topic_trie::matches(filter.as_bytes(), topic.as_bytes()) {
                        found.push((entry, message.into_message()));
                    }
                }
                entry = entry.next();
            }
        }
        Ok(found)
    }
}

/// The record that ends an entry, for its group or for everybody; `None` where there never was one.
fn ending(id: &LetterId, bytes: u64) -> Option<Control> {
    let queue = id.queue;
    match &id.dead {
        Dead::EntryOf(group, entry) => Some(Control::Settled {
            selection: queue,
            group: group.clone(),
            finished: vec![(*entry, 1)],
            released: Vec::new(),
        }),
        Dead::Entry(entry) => Some(Control::QueueRemoved { queue, entries: vec![*entry], bytes }),
        Dead::Refused(..) => None,
    }
}

/// Settings of a group over a filter: no rules.
pub(super) fn no_rules() -> Arc<QueueSettings> {
    Arc::new(QueueSettings::of_dead_letters())
}
