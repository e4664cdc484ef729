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
use super::consumers::Death;
use super::history::HistoryError;
use super::manage::Managed;
use super::patience::Said;
use super::request::{ConnectionId, Event, Letter, LetterId, Outbox, Publish, QueueAnswer, Target};
use super::stage::Waiting;
use super::{Partition, PartitionError, RECORDS_PER_TURN_MAX};
use crate::model::address::{captured_topic, source_topic};
use crate::model::queue::DeadLetterTarget;
use crate::model::record::{DedupKey, Tenure, queue_id};
use crate::model::{
    Control, Filter, Message, Millis, Outcome, Properties, Property, QoS, QueueName, QueueSettings,
    Refusal, StoredMessage, Token, Topic,
};
use crate::planted::{PlantedBug, is_planted};
use crate::view::GroupKey;

/// Letters on their way at a time.
const LETTERS_MAX: usize = 1_024;

/// The letters on their way to queues elsewhere.
#[derive(Default)]
pub(super) struct Letters {
    courier: Option<ConnectionId>,
    due: BTreeMap<LetterId, Due>,
}

struct Due {
    target: QueueName,
    message: Message,
    /// One that is not answered in time is announced again.
    announced: Option<Said>,
    /// Who rejected the entry, and waits.
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

    /// Returns true while the letter of an entry that leaves its queue is not known to be stored.
    pub(super) fn is_on_its_way(&self, queue: u64, entry: Offset) -> bool {
        self.due.contains_key(&LetterId { queue, group: None, entry })
    }

    /// A queue ends, and with it what was to be buried of it: who rejected an entry is answered that it is not pending any more.
    pub(super) fn queue_ended(&mut self, queue: u64) -> Vec<Waiting> {
        let due = std::mem::take(&mut self.due);
        let (ended, due): (BTreeMap<_, _>, _) =
            due.into_iter().partition(|(id, _)| id.queue == queue);
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

/// What a letter says about how it died.
struct Certificate<'a> {
    queue: &'a Bytes,
    group: Option<&'a Bytes>,
    death: Death,
    time: Millis,
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
            let id = LetterId { queue: key.0, group: Some(key.1.clone()), entry };
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

    /// Why a dead letter of this queue could not be stored now, as far as this partition knows.
    pub(super) fn may_bury(&self, queue: u64) -> Result<(), Refusal> {
        let Some((name, settings)) = self.queue(queue) else { return Ok(()) };
        match self.grave(name, settings) {
            None => Ok(()),
            Some(_) if self.disk_full => Err(Refusal::DiskFull),
            Some((target, _)) => self.has_room(queue_id(target.as_bytes()), 0),
        }
    }

    /// Where dead letters of a queue go, and whether that is here; `None` is nowhere.
    fn grave(&self, name: &Bytes, settings: &QueueSettings) -> Option<(QueueName, bool)> {
        let own = || QueueName::from_stored(name.clone()).dead_letters();
        match &settings.dead_letters.target {
            DeadLetterTarget::Nowhere => None,
            DeadLetterTarget::Own => Some((own(), true)),
            DeadLetterTarget::Queue(target) => {
                let is_here = *target == own() || self.queue(queue_id(target.as_bytes())).is_some();
                Some((target.clone(), is_here))
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
            let id = LetterId { queue: key.0, group: Some(key.1.clone()), entry };
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
        let id = LetterId { queue, group: group.cloned(), entry };
        let Some((name, settings)) = self.queue(queue) else { return true };
        let (name, grave) = (name.clone(), self.grave(name, settings));
        let Some((target, is_here)) = grave else {
            self.end_entry(&id, message.len_bytes() as u64);
            return true;
        };
        if self.letters.due.contains_key(&id) {
            return true;
        }
        if self.disk_full
            || self.has_room(queue_id(target.as_bytes()), message.len_bytes()).is_err()
        {
            return false;
        }
        let certificate = Certificate { queue: &name, group, death, time: self.now };
        let letter = to_letter(message, &certificate);
        if !is_here {
            return self.send_letter(id, target, letter);
        }
        // Its own queue for dead letters needs no leave to be.
        if self.declare(&target).is_err() {
            return false;
        }
        self.store_letter(&target, letter, &ending(&id, message.len_bytes() as u64));
        self.entry_ended(&id);
        true
    }

    /// Stores a message for one queue together with a change of state: both or none.
    fn store_letter(&mut self, target: &QueueName, message: Message, control: &Control) {
        let routes = [queue_id(target.as_bytes())];
        self.overlay_routes(&routes, message.len_bytes());
        let publish = Publish {
            token: None,
            message: Arc::new(message),
            dedup: DedupKey::default(),
            tenure: Tenure::default(),
            target: Target::Queue(target.clone()),
            input: None,
        };
        let now = self.now;
        // What it waited for is over; what it goes before is not.
        let stamp = Stamp { deliver_at: None, ..self.stamp(&publish.message.properties) };
        let routes = self.with_lanes(routes.to_vec(), stamp.priority);
        let pending = self.pending();
        pending.building.message(&publish, &routes, stamp);
        pending.building.control(control, now);
        self.relieve();
    }

    fn end_entry(&mut self, id: &LetterId, bytes: u64) {
        self.write(&ending(id, bytes), None);
        self.entry_ended(id);
    }

    /// What ends the entry is on its way: nobody is to get it.
    fn entry_ended(&mut self, id: &LetterId) {
        match &id.group {
            Some(group) => {
                if let Some(consumers) = self.groups.get_mut(&(id.queue, group.clone())) {
                    consumers.outcome_written(1);
                    consumers.forget(id.entry);
                }
            }
            None => drop(self.overlay.leaving.insert((id.queue, id.entry))),
        }
    }

    fn send_letter(&mut self, id: LetterId, target: QueueName, message: Message) -> bool {
        if self.letters.due.len() >= LETTERS_MAX {
            return false;
        }
        if is_planted(PlantedBug::LetterUnawaited) {
            self.end_entry(&id, message.len_bytes() as u64);
        }
        let due = Due { target, message, announced: None, waiting: Vec::new() };
        self.letters.due.insert(id, due);
        true
    }

    fn announce_letters(&mut self, out: &mut impl Outbox) {
        let Some(courier) = self.letters.courier else { return };
        let now = Said { at: self.now, tick: self.ticks };
        for (id, due) in &mut self.letters.due {
            if due.announced.is_none_or(|said| said.is_long_ago(now)) {
                due.announced = Some(now);
                let (target, message) = (due.target.clone(), due.message.clone());
                out.send(
                    courier,
                    Event::Letter(Box::new(Letter { id: id.clone(), target, message })),
                );
            }
        }
    }

    /// The courier says what became of a letter.
    pub(super) fn letter_arrived(
        &mut self,
        id: &LetterId,
        result: Result<(), Refusal>,
        out: &mut impl Outbox,
    ) {
        match result {
            Ok(()) => {
                let Some(due) = self.letters.due.remove(id) else { return };
                self.end_entry(id, due.message.len_bytes() as u64);
                for (to, token) in due.waiting {
                    let waiting = Waiting::Confirm { to, token, result: true, may_be_copy: false };
                    self.answer_with_next(waiting, out);
                }
            }
            // It stays due, and is announced again.
            Err(refusal) => {
                let due = self.letters.due.get_mut(id);
                for (to, token) in due.into_iter().flat_map(|due| due.waiting.drain(..)) {
                    let result = Err(refusal.clone());
                    out.send(to, Event::Confirm { token, result });
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
            let Some(origin) = origin_of(&message) else { continue };
            let letter = LetterId { queue: id, group: None, entry };
            let is_here = self.queue(queue_id(origin.as_bytes())).is_some()
                || origin.origin() == queue.origin();
            let bytes = message.len_bytes() as u64;
            let again = to_message(&message, message.properties.clone());
            if self.disk_full {
                return Err(Refusal::DiskFull);
            }
            match is_here {
                true => {
                    self.declare(&origin)?;
                    self.has_room(queue_id(origin.as_bytes()), message.len_bytes())?;
                    self.store_letter(&origin, again, &ending(&letter, bytes));
                    self.entry_ended(&letter);
                }
                false if !self.send_letter(letter, origin, again) => break,
                false => {}
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
                let letter = LetterId { queue: id, group: None, entry };
                let is_gone = self.views.queues.get(id).is_none_or(|it| it.is_removed(entry))
                    || self.overlay.leaving.contains(&(id, entry))
                    || self.letters.due.contains_key(&letter);
                if !is_gone
                    && found.len() < count_max
                    && let Some(message) = self.history.fetch(self.node.log(), offset)?
                {
                    let topic = queue.topic_of(&message.topic);
                    if topic_trie::matches(filter.as_bytes(), topic.as_bytes()) {
                        found.push((entry, message));
                    }
                }
                entry = entry.next();
            }
        }
        Ok(found)
    }
}

impl Death {
    /// As `x-death-reason` says it.
    fn reason(self) -> &'static str {
        match self {
            Death::Rejected => "rejected",
            Death::Expired => "expired",
            Death::Deliveries => "max-deliveries",
            Death::Overflow => "max-length",
        }
    }
}

/// The record that ends an entry, for its group or for everybody.
fn ending(id: &LetterId, bytes: u64) -> Control {
    let (queue, entry) = (id.queue, id.entry);
    match id.group.clone() {
        Some(group) => Control::Settled {
            selection: queue,
            group,
            finished: vec![(entry, 1)],
            released: Vec::new(),
        },
        None => Control::QueueRemoved { queue, entries: vec![entry], bytes },
    }
}

fn to_message(stored: &StoredMessage, properties: Bytes) -> Message {
    let topic = match source_topic(&stored.topic) {
        // What is in a queue for a binding alone must not be read as a message of its topic again.
        Some(source) => captured_topic(source),
        None => stored.topic.clone(),
    };
    Message {
        topic: Topic::from_stored(topic),
        payload: stored.payload.clone(),
        // A letter is settled by who reads it, not by the socket that took it.
        qos: stored.qos.max(QoS::AtLeastOnce),
        retain: false,
        expiry_s: None,
        properties: Properties::from_encoded(properties),
        publisher: stored.publisher,
    }
}

/// A message with how it died before all of its earlier deaths. The same death again counts on.
fn to_letter(stored: &StoredMessage, certificate: &Certificate<'_>) -> Message {
    let reason = certificate.death.reason();
    let group = certificate.group.map_or(&b""[..], |group| group);
    let (mut others, mut deaths): (Vec<Property>, Vec<Vec<Property>>) = (Vec::new(), Vec::new());
    for property in Properties::from_encoded(stored.properties.clone()).iter() {
        match (&property, deaths.last_mut()) {
            (Property::User(key, _), _) if key == "x-death-queue" => deaths.push(vec![property]),
            (Property::User(key, _), Some(death)) if key.starts_with(b"x-death-") => {
                death.push(property);
            }
            _ => others.push(property),
        }
    }
    let said = |death: &[Property], name: &str| {
        let value = death.iter().find_map(|property| match property {
            Property::User(key, value) if key == name => Some(value.clone()),
            _ => None,
        });
        value.unwrap_or_default()
    };
    let is_same = |death: &Vec<Property>| {
        said(death, "x-death-queue") == certificate.queue
            && said(death, "x-death-reason") == reason
            && said(death, "x-death-group") == group
    };
    let before = deaths.iter().position(is_same).map(|at| deaths.remove(at));
    let count = before.map_or(0, |death| {
        let count = said(&death, "x-death-count");
        std::str::from_utf8(&count).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
    });
    let user =
        |key: &'static str, value: Bytes| Property::User(Bytes::from_static(key.as_bytes()), value);
    others.extend([
        user("x-death-queue", certificate.queue.clone()),
        user("x-death-reason", Bytes::from_static(reason.as_bytes())),
        user("x-death-count", Bytes::from((count + 1).to_string())),
        user("x-death-time", Bytes::from(certificate.time.0.to_string())),
    ]);
    others.extend(certificate.group.map(|group| user("x-death-group", group.clone())));
    others.extend(deaths.into_iter().flatten());
    to_message(stored, Properties::encode(&others).as_bytes().clone())
}

/// The queue in which a dead letter died last.
fn origin_of(message: &StoredMessage) -> Option<QueueName> {
    let properties = Properties::from_encoded(message.properties.clone());
    let queue = properties.iter().find_map(|property| match property {
        Property::User(key, value) if key == "x-death-queue" => Some(value),
        _ => None,
    });
    QueueName::from_text(queue?).ok()
}

/// Settings of a group over a filter: no rules.
pub(super) fn no_rules() -> Arc<QueueSettings> {
    Arc::new(QueueSettings::of_dead_letters())
}
