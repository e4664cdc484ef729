//! Who reads this partition live: one reader per connection, with its session's plain subscriptions, its place and its credit; and one
//! for each of its replays.
//!
//! Volatile. A reader is live (it gets what is applied, as it is applied) or behind (it gets what the index finds from its place on).
//! It falls behind when its credit is used up and catches up when credit comes back: the log is the only queue.

mod rewind;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fluxmq_index::{FilterMap, Offset, OffsetSet, SharedFilters, topic_trie};

use super::gap::Gap;
use super::listening::Listening;
use super::replay::Replay;
use super::request::{ConnectionId, Event, Outbox};
use super::subscriptions::{Placed, Subscriptions};
use super::window::Window;
use crate::model::record::Retain;
use crate::model::{
    Credit, Delivery, DeliveryId, DeliverySource, Filter, Message, Millis, PartitionId, Properties,
    ReaderId, StoredMessage, Subscription, Topic,
};
use crate::planted::{PlantedBug, is_planted};

/// The readers of a partition.
#[derive(Debug)]
pub struct Readers {
    partition: PartitionId,
    slots: Vec<Option<Reader>>,
    free: Vec<u32>,
    by_connection: BTreeMap<(ConnectionId, ReaderId), u32>,
    filters: FilterMap<Hit>,
    /// Readers that are behind; ordered, so that a simulation repeats.
    behind: BTreeSet<u32>,
    /// Readers whose connections are to be told something beside deliveries.
    untold: BTreeSet<u32>,
    /// The replay whose turn it is: they share what a turn has for them.
    turn: u32,
    /// The readers of the topic dispatched last: a batch often repeats it.
    matched: Matched,
}

#[derive(Debug, Default)]
struct Matched {
    topic: Option<Topic>,
    /// Sorted by reader and subscription.
    hits: Vec<Hit>,
}

/// A subscription in the trie. A reader has one for each filter, so the reader names it there.
#[derive(Clone, Copy, Debug)]
struct Hit {
    reader: u32,
    subscription: u32,
}

/// One place of a connection in the partition.
#[derive(Debug)]
pub struct Reader {
    connection: ConnectionId,
    id: ReaderId,
    publisher: u64,
    subscriptions: Subscriptions,
    place: Place,
    listening: Listening,
    window: Window,
    /// Retained messages still to be handed out, with the subscription that asked.
    retained: VecDeque<(Offset, u32)>,
    /// Records that an earlier connection left out, although they were not below the place: skipped, also when it goes back.
    skip: OffsetSet,
    /// What is only a replay's; of the others there are many.
    replay: Option<Box<Replay>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Live,
    Behind(Offset),
}

/// What a reader that is behind wants to read next.
#[derive(Debug)]
pub struct Wanted {
    /// Its slot.
    pub reader: u32,
    /// What it reads may be long and of no hurry.
    pub is_replay: bool,
    /// Retained records first, each for one subscription.
    pub retained: Vec<(Offset, u32)>,
    /// Then matching records from here on; `None` when it is live.
    pub from: Option<Offset>,
    /// Any of these filters.
    pub filters: Vec<Filter>,
    /// What it published itself it may not get: it asks who published.
    pub no_local: bool,
    /// At most so many.
    pub limit: usize,
}

impl Readers {
    /// Returns an empty set. Others know some of the same `filters`.
    pub fn new(partition: PartitionId, filters: &SharedFilters) -> Readers {
        Readers {
            partition,
            slots: Vec::new(),
            free: Vec::new(),
            by_connection: BTreeMap::new(),
            filters: FilterMap::new(filters),
            behind: BTreeSet::new(),
            untold: BTreeSet::new(),
            turn: 0,
            matched: Matched::default(),
        }
    }

    /// Returns how many readers there are.
    pub fn len(&self) -> usize {
        self.by_connection.len()
    }

    /// Returns the connections that read.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.slots.iter().flatten().map(|reader| reader.connection)
    }

    /// Returns true when no reader is behind with credit to go on, and none has anything to tell.
    pub fn is_idle(&self) -> bool {
        let has_news = |reader: &Reader| reader.listening.has_news(reader.is_level());
        !self.behind.iter().any(|slot| self.reader(*slot).is_some_and(Reader::has_work))
            && !self.untold.iter().any(|slot| self.reader(*slot).is_some_and(has_news))
    }

    /// Adds a reader, or returns the one that is there.
    pub fn open(
        &mut self,
        (connection, id): (ConnectionId, ReaderId),
        publisher: u64,
        credit: u32,
    ) -> u32 {
        if let Some(slot) = self.by_connection.get(&(connection, id)) {
            return *slot;
        }
        let reader = Reader {
            connection,
            id,
            publisher,
            subscriptions: Subscriptions::default(),
            place: Place::Live,
            listening: Listening::default(),
            window: Window::new(Credit::Window(credit)),
            retained: VecDeque::new(),
            skip: OffsetSet::default(),
            replay: id.is_replay().then(Box::default),
        };
        let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
        match self.slots.get_mut(slot as usize) {
            Some(free) => *free = Some(reader),
            None => self.slots.push(Some(reader)),
        }
        self.by_connection.insert((connection, id), slot);
        slot
    }

    /// Adds or replaces a subscription that begins at `start`; `end` is where applied records end.
    pub fn subscribe(
        &mut self,
        slot: u32,
        subscription: Arc<Subscription>,
        start: Offset,
        end: Offset,
    ) -> u32 {
        self.matched.topic = None;
        let Some(reader) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else {
            return 0;
        };
        let filter = subscription.filter.clone();
        let replaced = self.filters.get(filter.as_bytes(), &Hit::of(slot)).copied();
        if let Some(id) = replaced.map(|hit| hit.subscription)
            && let Some(old) = reader.subscriptions.get_mut(id)
        {
            // The place stays: what the old one has had is not handed out again, what it has not had comes [MQTT-3.8.4-4].
            old.subscription = subscription;
            return id;
        }
        if start < end {
            reader.go_back(start, end);
            self.behind.insert(slot);
        }
        let id = reader.subscriptions.insert(Placed { subscription, start });
        self.filters.insert(filter.as_bytes(), Hit { reader: slot, subscription: id });
        id
    }

    /// Removes a subscription.
    pub fn unsubscribe(&mut self, connection: ConnectionId, filter: &Filter) {
        self.matched.topic = None;
        let slot = self.by_connection.get(&(connection, ReaderId::SESSION)).copied();
        let Some(slot) = slot else { return };
        let Some(reader) = self.slots[slot as usize].as_mut() else { return };
        let Some(hit) = self.filters.get(filter.as_bytes(), &Hit::of(slot)).copied() else {
            return;
        };
        reader.subscriptions.remove(hit.subscription);
        reader.retained.retain(|(_, subscription)| *subscription != hit.subscription);
        self.filters.remove(filter.as_bytes(), &hit);
    }

    /// Tells a reader what an earlier connection of its session left open.
    pub fn resume(&mut self, slot: u32, cursor: Offset, outbound: &[Offset]) {
        let Some(reader) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        outbound.iter().filter(|at| **at >= cursor).for_each(|at| {
            reader.skip.insert(*at);
        });
        // What is out counts against the credit, as it did before.
        reader.window.spend_unknown(outbound.len());
    }

    /// How a reader's connection listens, to be changed: it is told what comes of it.
    pub fn listening_mut(&mut self, slot: u32) -> Option<&mut Listening> {
        let reader = self.slots.get_mut(slot as usize)?.as_mut()?;
        self.untold.insert(slot);
        Some(&mut reader.listening)
    }

    /// Tells connections what they are to know beside deliveries.
    pub fn tell(&mut self, out: &mut impl Outbox) {
        let slots = &mut self.slots;
        self.untold.retain(|slot| {
            let Some(reader) = slots[*slot as usize].as_mut() else { return false };
            reader.listening.tell(reader.is_level(), reader.connection, out);
            reader.listening.is_untold()
        });
    }

    /// Queues retained messages for a subscription.
    pub fn queue_retained(&mut self, slot: u32, subscription: u32, offsets: Vec<Offset>) {
        let Some(reader) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        reader.retained.extend(offsets.into_iter().map(|offset| (offset, subscription)));
        if !reader.retained.is_empty() {
            self.behind.insert(slot);
        }
    }

    /// Gives credit back.
    pub fn credit(&mut self, reader: (ConnectionId, ReaderId), count: u32) {
        let Some(slot) = self.by_connection.get(&reader) else { return };
        let Some(reader) = self.slots[*slot as usize].as_mut() else { return };
        reader.window.give_back(count << u32::from(is_planted(PlantedBug::CreditGivenTwice)));
    }

    /// Removes a connection's readers; returns the offsets below which everything that matches was handed out by each.
    pub fn close(&mut self, connection: ConnectionId, end: Offset) -> Vec<(ReaderId, Offset)> {
        let all = (connection, ReaderId::SESSION)..=(connection, ReaderId(u32::MAX));
        let readers = self.by_connection.range(all).map(|((_, reader), _)| *reader);
        let readers: Vec<ReaderId> = readers.collect();
        let close = |reader| Some((reader, self.close_one((connection, reader), end)?));
        readers.into_iter().filter_map(close).collect()
    }

    /// Removes the reader of a replay.
    pub fn end_replay(&mut self, connection: ConnectionId, reader: ReaderId) {
        self.close_one((connection, reader), Offset::ZERO);
    }

    fn close_one(&mut self, name: (ConnectionId, ReaderId), end: Offset) -> Option<Offset> {
        let slot = self.by_connection.remove(&name)?;
        self.matched.topic = None;
        self.behind.remove(&slot);
        self.untold.remove(&slot);
        let reader = self.slots[slot as usize].take()?;
        for placed in reader.subscriptions.iter() {
            self.filters.remove(placed.subscription.filter.as_bytes(), &Hit::of(slot));
        }
        self.free.push(slot);
        Some(match reader.place {
            Place::Live => end,
            Place::Behind(_) if is_planted(PlantedBug::ClosedAtEnd) => end,
            Place::Behind(next) => next,
        })
    }

    /// Hands a message that was just applied at `offset` to every live reader that wants it, and does not have it already.
    pub fn dispatch(
        &mut self,
        (offset, time): (Offset, Millis),
        message: &Arc<Message>,
        was_passed_on: bool,
        out: &mut impl Outbox,
    ) {
        self.find(&message.topic);
        let hits = std::mem::take(&mut self.matched.hits);
        for group in hits.chunk_by(|left, right| left == right) {
            let slot = group[0].reader;
            let Some(reader) = self.slots[slot as usize].as_mut() else { continue };
            if reader.place != Place::Live && !is_planted(PlantedBug::DispatchedWhenBehind) {
                continue;
            }
            if was_passed_on && reader.listening.skips(offset) {
                if reader.listening.is_untold() {
                    self.untold.insert(slot);
                }
                continue;
            }
            let wanted = group.iter().filter_map(|hit| reader.subscriptions.get(hit.subscription));
            let wanted = wanted.filter(|placed| placed.start <= offset);
            let id = reader.name(self.partition, offset);
            let Some(mut delivery) = reader.delivery(id, message, wanted) else { continue };
            if reader.window.credit() == 0 {
                self.behind.insert(slot);
                reader.place = Place::Behind(offset);
                continue;
            }
            reader.annotate(&mut delivery, time);
            if !is_planted(PlantedBug::CreditNotSpent) {
                reader.window.spend(&delivery.message);
            }
            out.send(reader.connection, Event::Deliver(delivery));
        }
        self.matched.hits = hits;
    }

    /// Lists what readers that are behind may read now: at most `limit` records each, and replays no more than that together, in turn.
    pub fn wanted(&mut self, limit: usize) -> Vec<Wanted> {
        let mut rest = limit;
        let mut served = None;
        let wanted = |slot: &u32| {
            let reader = self.reader(*slot).filter(|reader| reader.has_work())?;
            let is_replay = reader.id.is_replay();
            let credit =
                (reader.window.credit() as usize).min(if is_replay { rest } else { limit });
            if is_replay {
                if credit == 0 {
                    return None;
                }
                rest -= credit;
                served = Some(*slot);
            }
            let retained: Vec<_> = reader.retained.iter().take(credit).copied().collect();
            let from = match reader.place {
                Place::Behind(next) if reader.retained.len() < credit => Some(next),
                Place::Behind(_) | Place::Live => None,
            };
            let filters = reader.subscriptions.iter();
            Some(Wanted {
                reader: *slot,
                is_replay,
                limit: credit - retained.len(),
                retained,
                from,
                no_local: reader.subscriptions.iter().any(|placed| placed.subscription.no_local),
                filters: filters.map(|placed| placed.subscription.filter.clone()).collect(),
            })
        };
        let in_turn = self.behind.range(self.turn..).chain(self.behind.range(..self.turn));
        let wanted = in_turn.filter_map(wanted).collect();
        if let Some(served) = served {
            self.turn = served + 1;
        }
        wanted
    }

    /// What a replay begins with: its gap, and the retained messages that it meets on its way.
    pub fn begin_replay(&mut self, slot: u32, gap: Option<Gap>, retained: OffsetSet) {
        let reader = self.slots.get_mut(slot as usize).and_then(Option::as_mut);
        if let Some(replay) = reader.and_then(|reader| reader.replay.as_mut()) {
            **replay = Replay::new(gap, retained);
        }
    }

    /// Records that a replay wanted are not kept.
    pub fn missed(&mut self, slot: u32, count: u64) {
        let reader = self.slots.get_mut(slot as usize).and_then(Option::as_mut);
        if let Some(replay) = reader.and_then(|reader| reader.replay.as_mut()) {
            replay.missed(count);
        }
    }

    /// Hands out a retained message.
    pub fn send_retained(
        &mut self,
        (slot, subscription): (u32, u32),
        offset: Offset,
        message: Option<&StoredMessage>,
        now: Millis,
        out: &mut impl Outbox,
    ) {
        let Some(reader) = self.slots[slot as usize].as_mut() else { return };
        reader.retained.pop_front();
        let message = message.filter(|message| !message.is_expired(now));
        let Some((message, placed)) = message.zip(reader.subscriptions.get(subscription)) else {
            return;
        };
        // One that was given back may find its subscription gone, and another under the number.
        if !topic_trie::matches(placed.subscription.filter.as_bytes(), &message.topic) {
            return;
        }
        let source = DeliverySource::Retained(reader.id, subscription);
        let id = DeliveryId { source, partition: self.partition, offset };
        let (message, time) = (to_message_at(message, now), message.time);
        if let Some(mut delivery) = reader.delivery(id, &message, std::iter::once(placed)) {
            delivery.retain = true;
            reader.annotate(&mut delivery, time);
            reader.window.spend(&delivery.message);
            out.send(reader.connection, Event::Deliver(delivery));
        }
    }

    /// Hands a record out of the log to a reader that is behind; false when it has no room for one more.
    pub fn send_old(
        &mut self,
        slot: u32,
        offset: Offset,
        message: &StoredMessage,
        now: Millis,
        out: &mut impl Outbox,
    ) -> bool {
        let Some(reader) = self.slots[slot as usize].as_mut() else { return false };
        if reader.window.credit() == 0 {
            return false;
        }
        if message.is_expired(now) || reader.skip.contains(offset) {
            return true;
        }
        if message.was_passed_on() && reader.listening.skips(offset) {
            if reader.listening.is_untold() {
                self.untold.insert(slot);
            }
            return true;
        }
        let wanted = reader.subscriptions.iter().filter(|placed| {
            placed.start <= offset
                && topic_trie::matches(placed.subscription.filter.as_bytes(), &message.topic)
        });
        let id = reader.name(self.partition, offset);
        if let Some(mut delivery) = reader.delivery(id, &to_message_at(message, now), wanted) {
            reader.annotate(&mut delivery, message.time);
            reader.window.spend(&delivery.message);
            out.send(reader.connection, Event::Deliver(delivery));
        }
        true
    }

    /// Moves a reader that is behind: everything that matches below `next` was handed out. At `end` it is live.
    pub fn advance(&mut self, slot: u32, next: Offset, end: Offset) {
        let Some(reader) = self.slots[slot as usize].as_mut() else { return };
        if matches!(reader.place, Place::Behind(_)) {
            reader.place = if next >= end { Place::Live } else { Place::Behind(next) };
        }
        self.settle_place(slot);
    }

    /// Takes a reader off the list of those behind once it has nothing left to catch up with.
    pub fn settle_place(&mut self, slot: u32) {
        let caught_up = |reader: &Reader| reader.place == Place::Live && reader.retained.is_empty();
        if self.reader(slot).is_none_or(caught_up) {
            self.behind.remove(&slot);
        }
    }

    fn reader(&self, slot: u32) -> Option<&Reader> {
        self.slots.get(slot as usize)?.as_ref()
    }

    fn find(&mut self, topic: &Topic) {
        if self.matched.topic.as_ref() == Some(topic) {
            return;
        }
        let hits = &mut self.matched.hits;
        hits.clear();
        self.filters.for_each_match(topic.as_bytes(), |hit| hits.push(*hit));
        hits.sort_unstable_by_key(|hit| (hit.reader, hit.subscription));
        self.matched.topic = Some(topic.clone());
    }
}

impl Hit {
    /// Finds what a reader has under a filter.
    fn of(reader: u32) -> Hit {
        Hit { reader, subscription: 0 }
    }
}

impl PartialEq for Hit {
    fn eq(&self, other: &Hit) -> bool {
        self.reader == other.reader
    }
}

impl Eq for Hit {}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Hit) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Hit {
    fn cmp(&self, other: &Hit) -> Ordering {
        self.reader.cmp(&other.reader)
    }
}

impl Reader {
    fn name(&self, partition: PartitionId, offset: Offset) -> DeliveryId {
        DeliveryId { source: DeliverySource::Reader(self.id), partition, offset }
    }

    /// Adds what a replay says beside the message.
    fn annotate(&mut self, delivery: &mut Delivery, time: Millis) {
        if let Some(replay) = &mut self.replay {
            replay.annotate(delivery, time);
        }
    }

    /// Returns true when it has handed out what its subscriptions began with.
    fn is_level(&self) -> bool {
        let has_read = match self.place {
            Place::Live => true,
            Place::Behind(next) => self.listening.is_begun(next),
        };
        has_read && self.retained.is_empty()
    }

    fn has_work(&self) -> bool {
        self.window.credit() > 0 && (!self.retained.is_empty() || self.place != Place::Live)
    }

    /// Moves back to `start` for a new subscription, without handing out again what the others have had.
    fn go_back(&mut self, start: Offset, end: Offset) {
        let next = match self.place {
            Place::Live => end,
            Place::Behind(next) => next,
        };
        if start < next {
            self.subscriptions.iter_mut().for_each(|placed| placed.start = placed.start.max(next));
            self.place = Place::Behind(start);
        }
    }

    /// Joins every matching subscription into one delivery [MQTT-3.3.4-2..5]; `None` when none wants it.
    fn delivery<'a>(
        &self,
        id: DeliveryId,
        message: &Arc<Message>,
        wanted: impl Iterator<Item = &'a Placed>,
    ) -> Option<Delivery> {
        let mut qos = None;
        let mut retain = false;
        let mut subscription_ids = Vec::new();
        let own = message.publisher != 0 && message.publisher == self.publisher;
        for placed in wanted {
            let subscription = &placed.subscription;
            if subscription.no_local && own {
                continue;
            }
            qos = qos.max(Some(subscription.qos.min(message.qos)));
            retain |= subscription.retain_as_published && message.retain;
            if subscription.subscription_id != 0 {
                subscription_ids.push(subscription.subscription_id);
            }
        }
        Some(Delivery {
            id,
            message: message.clone(),
            qos: qos?,
            retain,
            redelivered: false,
            subscription_ids,
            annotations: Default::default(),
            settle_explicit: false,
        })
    }
}

/// Turns a record into a message, with what is left of its expiry at `now`.
pub fn to_message_at(stored: &StoredMessage, now: Millis) -> Arc<Message> {
    Arc::new(message_at(stored, Topic::from_stored(stored.topic.clone()), now))
}

/// The same, as published to another topic.
pub fn message_at(stored: &StoredMessage, topic: Topic, now: Millis) -> Message {
    Message {
        topic,
        payload: stored.payload.clone(),
        qos: stored.qos,
        retain: stored.retain != Retain::No,
        expiry_s: stored.expires_at().map(|at| at.0.saturating_sub(now.0).div_ceil(1000) as u32),
        properties: Properties::from_encoded(stored.properties.clone()),
        publisher: stored.publisher,
    }
}
