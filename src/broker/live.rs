//! Who listens right now, and handing them what is not waited for: QoS 0.
//!
//! A message that nothing stores has no place in a partition, so it does not go there: the task that reads it finds who listens and
//! puts it into their mailboxes itself. Filters come from the very requests that attach a connection to partitions, on their way
//! ([`Live::route`]): nobody can be in one and not in the other. Finding takes a lock for reading, and only when the topic or the
//! subscriptions changed since the connection's last message.
//!
//! A retained message of QoS 0 is given to the same listeners at once, and goes to its partition as well, which does not give it to
//! them again. So both must see it on the same side of every change of who listens: [`Turn`] (ADR 0044).

mod table;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use fluxmq_index::{Offset, SharedFilters};

use self::table::{Listener, Table};
use crate::model::{
    Delivery, DeliveryId, DeliverySource, Message, PartitionId, Properties, QoS, Topic,
};
use crate::partition::request::{
    AskConnections, Asked, Attach, ConnectionId, Event, Request, Told, ToldOf,
};
use crate::shard::{Events, Receiver, passed_on_bytes};

/// The connections of this process that listen, by filter.
#[derive(Default)]
pub struct Live {
    table: RwLock<Table>,
    /// Changes with the table.
    version: AtomicU64,
    dropped: AtomicU64,
    /// Nobody has room: the process is short of memory.
    is_shedding: AtomicBool,
}

/// What one publishing connection remembers between its messages, and what it has for whom.
///
/// Holds on to those who listened to its last topic: drop it when the connection falls silent.
#[derive(Default)]
pub struct Passing {
    looked: Looked,
    topic: Option<Topic>,
    hits: Vec<Hit>,
    /// Groups that listen: one member of each gets it.
    shares: Vec<(Arc<AtomicUsize>, Vec<Hit>)>,
    outgoing: Vec<Outgoing>,
}

/// What the table was when it was looked at, and for what: twice its version, and one more for a message that is stored too. Who
/// reads stored messages in their order waits for the record of such a one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Looked(u64);

struct Hit {
    outgoing: usize,
    subscription_ids: Vec<u32>,
    /// The RETAIN flag goes on as it came [MQTT-3.3.1-13].
    keeps_retain: bool,
}

struct Outgoing {
    slot: u32,
    receiver: Arc<dyn Receiver>,
    events: Events,
    bytes: usize,
}

impl Live {
    /// Returns a table without connections. Partitions know some of the same `filters`.
    pub fn new(filters: &SharedFilters) -> Live {
        Live { table: RwLock::new(Table::new(filters)), ..Live::default() }
    }

    /// Adds a connection that listens to nothing yet.
    pub fn connect(&self, connection: ConnectionId, receiver: Arc<dyn Receiver>) {
        // Nobody's finds change: it listens to nothing.
        self.table.write().unwrap_or_else(PoisonError::into_inner).connect(connection, receiver);
    }

    /// Removes a connection.
    pub fn disconnect(&self, connection: ConnectionId) {
        self.change(|table| table.disconnect(connection));
    }

    /// Takes a request on its way to a partition: notes what it says about who listens, and returns it unless that was all.
    ///
    /// A publish that nothing stores ends here. It is sent with [`send`](Live::send).
    pub fn route(
        &self,
        connection: ConnectionId,
        request: Request,
        passing: &mut Passing,
    ) -> Option<Request> {
        self.begin([&request]).route(connection, request, passing)
    }

    /// Begins to hand these requests over, and no others.
    pub fn begin<'a>(&self, requests: impl IntoIterator<Item = &'a Request>) -> Turn<'_> {
        let needs = requests.into_iter().map(Need::of).max().unwrap_or(Need::Nothing);
        let held = match needs {
            Need::Nothing => Guard::None,
            Need::Order => Guard::Read(self.table.read().unwrap_or_else(PoisonError::into_inner)),
            Need::Change => {
                Guard::Write(self.table.write().unwrap_or_else(PoisonError::into_inner))
            }
        };
        Turn { live: self, held }
    }

    /// Returns true for what must come to its partition before anything else changes who listens.
    pub fn is_in_order(request: &Request) -> bool {
        Need::of(request) != Need::Nothing
    }

    /// Offers a message to everyone who listens to its topic, once each, whatever matched [MQTT-3.3.4-2..5].
    fn offer(&self, passing: &mut Passing, message: &Arc<Message>) {
        let Passing { hits, shares, outgoing, .. } = passing;
        if self.is_shedding.load(Ordering::Relaxed) {
            let count = hits.len() + shares.len();
            self.dropped.fetch_add(count as u64, Ordering::Relaxed);
            return;
        }
        let mut dropped = hits.iter().filter(|hit| !hit.offer(message, outgoing)).count();
        for (turn, members) in shares {
            // To the next that has room, beginning with the one whose turn it is.
            let first = turn.fetch_add(1, Ordering::Relaxed) % members.len();
            let mut next = members.iter().cycle().skip(first).take(members.len());
            dropped += usize::from(!next.any(|hit| hit.offer(message, outgoing)));
        }
        if dropped > 0 {
            self.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
        }
    }

    /// While the process is short of memory, what is passed on is dropped, and counted.
    pub fn set_shedding(&self, is_shedding: bool) {
        self.is_shedding.store(is_shedding, Ordering::Relaxed);
    }

    /// Hands a question to the connections that it is for, after telling who asks how many those are.
    fn ask(table: &Table, by: ConnectionId, ask: AskConnections) {
        let AskConnections { token, whom, question } = ask;
        let asked = table.answering(whom);
        let Some(asker) = table.receiver(by) else { return };
        let told = |event| vec![(PartitionId::META, event)];
        let (count, last) = (asked.len(), asked.last().map(|(last, _)| *last));
        let handed = Told { token, answer: ToldOf::HandedTo { count, last } };
        asker.send(told(Event::Told(Box::new(handed))));
        for (_, receiver) in asked {
            let asked = Asked { by, token, question: question.clone() };
            receiver.send(told(Event::Asked(Box::new(asked))));
        }
    }

    /// Answers another connection, if it is still there. Whoever is asked answers once; a connection that ends does so when it was
    /// [disconnected](Live::disconnect), after which nobody asks it any more.
    pub fn tell(&self, asked: &Asked, answer: ToldOf) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = table.receiver(asked.by) {
            let told = Told { token: asked.token, answer };
            asker.send(vec![(PartitionId::META, Event::Told(Box::new(told)))]);
        }
    }

    /// Sends what a turn's messages left for each receiver; returns true when there was something.
    pub fn send(&self, passing: &mut Passing) -> bool {
        let mut has_sent = false;
        for outgoing in passing.outgoing.iter_mut().filter(|outgoing| outgoing.bytes > 0) {
            outgoing.receiver.send(std::mem::take(&mut outgoing.events));
            outgoing.bytes = 0;
            has_sent = true;
        }
        has_sent
    }

    /// Returns true when somebody whom this turn's messages were for will soon have no room, and only for want of processor time.
    pub fn is_crowded(&self, passing: &Passing) -> bool {
        passing.outgoing.iter().any(|outgoing| outgoing.receiver.wants_time())
    }

    /// Replaces what the broker says of itself, below `$SYS/`; what changed goes to whoever listens (ADR 0037).
    pub fn show(&self, statistics: Vec<(Topic, Bytes)>) {
        let mut changed = Vec::new();
        let to_message = |(topic, payload): (Topic, Bytes)| Message {
            topic,
            payload,
            qos: QoS::AtMostOnce,
            retain: true,
            expiry_s: None,
            properties: Properties::default(),
            publisher: 0,
        };
        let new: BTreeMap<Topic, Arc<Message>> = statistics
            .into_iter()
            .map(|statistic| (statistic.0.clone(), Arc::new(to_message(statistic))))
            .collect();
        {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            let old = std::mem::replace(&mut table.statistics, new);
            let is_changed =
                |it: &&Arc<Message>| old.get(&it.topic).is_none_or(|old| old.payload != it.payload);
            changed.extend(table.statistics.values().filter(is_changed).cloned());
        }
        let mut passing = Passing::default();
        for message in changed {
            self.find(&mut passing, &message, false);
            self.offer(&mut passing, &message);
        }
        self.send(&mut passing);
    }

    /// Sends a new subscription the statistics that match [MQTT-3.3.1-9]. Under the lock: a newer value does not overtake them.
    fn show_at_once(&self, table: &Table, connection: ConnectionId, attach: &Attach) {
        let wanted = attach.subscriptions.iter().zip(&attach.retained);
        for ((subscription, _), _) in wanted.filter(|(_, is_wanted)| **is_wanted) {
            let found = table.statistics_of(connection, &subscription.filter);
            let Some((slot, matching)) = found else { continue };
            let id = subscription.subscription_id;
            let hit = Hit { outgoing: 0, subscription_ids: ids([id]), keeps_retain: true };
            let (receiver, events) = (slot.receiver.clone(), Events::new());
            let mut outgoing = [Outgoing { slot: 0, receiver, events, bytes: 0 }];
            let dropped = matching.filter(|message| !hit.offer(message, &mut outgoing)).count();
            self.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
            slot.receiver.send(std::mem::take(&mut outgoing[0].events));
        }
    }

    /// How many subscriptions there are of connected clients, and of them shared ones.
    pub fn subscription_counts(&self) -> (usize, usize) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        (table.subscription_count, table.shared_count)
    }

    /// Messages that somebody had no room for, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut table);
        self.changed();
    }

    /// Under the lock: whoever reads the table knows which version it is.
    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Finds who gets a message, unless that is known from the last one.
    fn find(&self, passing: &mut Passing, message: &Message, is_stored: bool) {
        if !self.is_known(passing, message, is_stored) {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            self.look(&table, passing, message, is_stored);
        }
    }

    fn is_known(&self, passing: &Passing, message: &Message, is_stored: bool) -> bool {
        passing.looked == self.looked(is_stored) && passing.topic.as_ref() == Some(&message.topic)
    }

    fn looked(&self, is_stored: bool) -> Looked {
        Looked(self.version.load(Ordering::Acquire) << 1 | u64::from(is_stored))
    }

    fn look(&self, table: &Table, passing: &mut Passing, message: &Message, is_stored: bool) {
        let looked = self.looked(is_stored);
        if passing.looked.0 >> 1 != looked.0 >> 1 {
            self.send(passing);
            passing.outgoing.clear();
        }
        let mut listeners = Vec::new();
        table.filters.for_each_match(message.topic.as_bytes(), |found| {
            if !(is_stored && found.reader.is_replay()) {
                listeners.push(*found);
            }
        });
        listeners.sort_unstable_by_key(|listener| (listener.slot, listener.subscription_id));
        passing.hits.clear();
        for group in listeners.chunk_by(|left, right| left.slot == right.slot) {
            let Some(slot) = &table.slots[group[0].slot as usize] else { continue };
            let own = slot.publisher == message.publisher;
            let wanted = group.iter().filter(|listener| !(listener.no_local && own));
            let mut wanted = wanted.peekable();
            if wanted.peek().is_none() {
                continue;
            }
            let keeps_retain = wanted.clone().any(|listener| listener.retain_as_published);
            let subscription_ids = ids(wanted.map(|listener| listener.subscription_id));
            let outgoing = passing.outgoing_to(group[0].slot, &slot.receiver);
            passing.hits.push(Hit { outgoing, subscription_ids, keeps_retain });
        }
        passing.shares.clear();
        if !is_stored {
            // What is stored a group reads where it is stored.
            passing.look_for_shares(table, &message.topic);
        }
        passing.topic = Some(message.topic.clone());
        passing.looked = looked;
    }
}

/// What becomes of a connection's requests between two moments in which nobody else changes who listens.
///
/// Whoever hands requests to other threads does it before the turn ends: then partitions take what changes who listens, and what is
/// both passed on and stored, in the order in which it happened here.
pub struct Turn<'a> {
    live: &'a Live,
    held: Guard<'a>,
}

enum Guard<'a> {
    None,
    Read(RwLockReadGuard<'a, Table>),
    Write(RwLockWriteGuard<'a, Table>),
}

/// What a request needs of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// That it is looked at, if at all.
    Nothing,
    /// That it does not change meanwhile.
    Order,
    /// To change it.
    Change,
}

impl Need {
    fn of(request: &Request) -> Need {
        match request {
            Request::Publish(publish) if publish.is_passed_on() && publish.is_stored() => {
                Need::Order
            }
            Request::Ask(_) => Need::Order,
            Request::Attach(_)
            | Request::DetachFilter { .. }
            | Request::EndReplay { .. }
            | Request::Detach
            | Request::Join(_)
            | Request::Leave { .. } => Need::Change,
            _ => Need::Nothing,
        }
    }
}

impl Turn<'_> {
    /// As [`Live::route`].
    pub fn route(
        &mut self,
        connection: ConnectionId,
        request: Request,
        passing: &mut Passing,
    ) -> Option<Request> {
        match &request {
            Request::Ask(ask) => {
                match &self.held {
                    Guard::None => unreachable!("a question needs the table"),
                    Guard::Read(table) => Live::ask(table, connection, (**ask).clone()),
                    Guard::Write(table) => Live::ask(table, connection, (**ask).clone()),
                }
                return None;
            }
            Request::Publish(publish) if publish.is_passed_on() => {
                let is_stored = publish.is_stored();
                self.find(passing, &publish.message, is_stored);
                self.live.offer(passing, &publish.message);
                return is_stored.then_some(request);
            }
            request => self.note(connection, request),
        }
        Some(request)
    }

    fn find(&self, passing: &mut Passing, message: &Message, is_stored: bool) {
        let table = match &self.held {
            Guard::None => return self.live.find(passing, message, is_stored),
            Guard::Read(table) => &**table,
            Guard::Write(table) => &**table,
        };
        if !self.live.is_known(passing, message, is_stored) {
            self.live.look(table, passing, message, is_stored);
        }
    }

    fn note(&mut self, connection: ConnectionId, request: &Request) {
        let Guard::Write(table) = &mut self.held else { return };
        match request {
            Request::Attach(attach) => {
                for (subscription, _) in &attach.subscriptions {
                    table.subscribe(connection, attach.publisher, subscription);
                }
                self.live.show_at_once(table, connection, attach);
            }
            Request::DetachFilter { filter } => table.unsubscribe(connection, filter),
            Request::EndReplay { reader } => table.end_replay(connection, *reader),
            Request::Detach => table.unsubscribe_all(connection),
            Request::Join(join) => table.share(connection, join),
            Request::Leave { membership, .. } => table.unshare(connection, *membership),
            _ => return,
        }
        self.live.changed();
    }
}

/// 0 is none.
fn ids(all: impl IntoIterator<Item = u32>) -> Vec<u32> {
    all.into_iter().filter(|id| *id != 0).collect()
}

impl Hit {
    /// Offers a message; false when the receiver has no room for it.
    fn offer(&self, message: &Arc<Message>, outgoing: &mut [Outgoing]) -> bool {
        let delivery = Delivery {
            id: DeliveryId {
                source: DeliverySource::Live,
                partition: PartitionId(0),
                offset: Offset::ZERO,
            },
            message: message.clone(),
            qos: QoS::AtMostOnce,
            retain: self.keeps_retain && message.retain,
            redelivered: false,
            subscription_ids: self.subscription_ids.clone(),
            annotations: Default::default(),
            settle_explicit: false,
        };
        let outgoing = &mut outgoing[self.outgoing];
        if !outgoing.receiver.has_room(outgoing.bytes) {
            return false;
        }
        outgoing.bytes += passed_on_bytes(&delivery);
        outgoing.events.push((PartitionId(0), Event::Deliver(delivery)));
        true
    }
}

impl Passing {
    fn look_for_shares(&mut self, table: &Table, topic: &Topic) {
        table.shared.for_each_match(topic.as_bytes(), |share| {
            let Some(members) = table.shares.get(share) else { return };
            let hit = |member: &Listener| {
                let slot = table.slots[member.slot as usize].as_ref()?;
                let outgoing = self.outgoing_to(member.slot, &slot.receiver);
                let subscription_ids = ids([member.subscription_id]);
                Some(Hit { outgoing, subscription_ids, keeps_retain: member.retain_as_published })
            };
            let hits: Vec<Hit> = members.by_member.values().filter_map(hit).collect();
            if !hits.is_empty() {
                self.shares.push((members.turn.clone(), hits));
            }
        });
    }

    fn outgoing_to(&mut self, slot: u32, receiver: &Arc<dyn Receiver>) -> usize {
        let known = self.outgoing.iter().position(|outgoing| outgoing.slot == slot);
        known.unwrap_or_else(|| {
            let receiver = receiver.clone();
            self.outgoing.push(Outgoing { slot, receiver, events: Events::new(), bytes: 0 });
            self.outgoing.len() - 1
        })
    }
}

#[cfg(test)]
mod tests;
