//! Who listens right now, and handing them what nothing stores.
//!
//! A message that nothing stores has no place in a partition, so it does not go there: the task that reads it finds who listens and
//! puts it into their mailboxes itself. Filters come from the very requests that attach a connection to partitions, on their way
//! ([`Live::route`]): nobody can be in one and not in the other. Finding takes a lock for reading, and only when the topic or the
//! subscriptions changed since the connection's last message.

use std::cmp::Ordering as Order;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use fluxmq_index::{Offset, TopicTrie};

use crate::model::{
    Delivery, DeliveryId, DeliverySource, Filter, Message, PartitionId, QoS, QueueName, Selection,
    Subscription, Topic,
};
use crate::partition::request::{ConnectionId, Event, Join, Request};
use crate::shard::{Events, Receiver, passed_on_bytes};

/// The connections of this process that listen, by filter.
#[derive(Default)]
pub struct Live {
    table: RwLock<Table>,
    /// Changes with the table.
    version: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Table {
    filters: TopicTrie<Listener>,
    /// Shared subscriptions: those of each filter, and who is in each.
    shared: TopicTrie<Share>,
    shares: BTreeMap<Share, Members>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_connection: HashMap<ConnectionId, u32>,
}

struct Slot {
    receiver: Arc<dyn Receiver>,
    publisher: u64,
    filters: HashSet<Filter>,
    /// By membership.
    shares: BTreeMap<u32, Share>,
}

/// A group and the filter that its members share.
type Share = (QueueName, Filter);

/// Who is in a group. A member is a slot's membership.
#[derive(Default)]
struct Members {
    /// With the subscription id of each.
    by_member: BTreeMap<(u32, u32), u32>,
    /// Whose turn it is, as a count of messages.
    turn: Arc<AtomicUsize>,
}

/// One subscription. A connection has one for each filter, so the slot names it.
#[derive(Clone, Copy, Debug)]
struct Listener {
    slot: u32,
    no_local: bool,
    subscription_id: u32,
}

/// What one publishing connection remembers between its messages, and what it has for whom.
///
/// Holds on to those who listened to its last topic: drop it when the connection falls silent.
#[derive(Default)]
pub struct Passing {
    version: u64,
    topic: Option<Topic>,
    hits: Vec<Hit>,
    /// Groups that listen: one member of each gets it.
    shares: Vec<(Arc<AtomicUsize>, Vec<Hit>)>,
    outgoing: Vec<Outgoing>,
}

struct Hit {
    outgoing: usize,
    subscription_ids: Vec<u32>,
}

struct Outgoing {
    slot: u32,
    receiver: Arc<dyn Receiver>,
    events: Events,
    bytes: usize,
}

impl Live {
    /// Adds a connection that listens to nothing yet.
    pub fn connect(&self, connection: ConnectionId, receiver: Arc<dyn Receiver>) {
        self.change(|table| table.connect(connection, receiver));
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
        let request = match request {
            Request::Publish(publish) if !publish.is_stored() => {
                self.pass_on(passing, publish.message);
                return None;
            }
            request => request,
        };
        match &request {
            Request::Attach(attach) => self.change(|table| {
                for (subscription, _) in &attach.subscriptions {
                    table.subscribe(connection, attach.publisher, subscription);
                }
            }),
            Request::DetachFilter { filter } => {
                self.change(|table| table.unsubscribe(connection, filter));
            }
            Request::Detach => self.change(|table| table.unsubscribe_all(connection)),
            Request::Join(join) => self.change(|table| table.share(connection, join)),
            Request::Leave { membership, .. } => {
                self.change(|table| table.unshare(connection, *membership));
            }
            _ => {}
        }
        Some(request)
    }

    /// Offers a message to everyone who listens to its topic, once each, whatever matched [MQTT-3.3.4-2..5].
    fn pass_on(&self, passing: &mut Passing, message: Message) {
        self.find(passing, &message);
        let message = Arc::new(message);
        let Passing { hits, shares, outgoing, .. } = passing;
        let mut dropped = hits.iter().filter(|hit| !hit.offer(&message, outgoing)).count();
        for (turn, members) in shares {
            // To the next that has room, beginning with the one whose turn it is.
            let first = turn.fetch_add(1, Ordering::Relaxed) % members.len();
            let mut next = members.iter().cycle().skip(first).take(members.len());
            dropped += usize::from(!next.any(|hit| hit.offer(&message, outgoing)));
        }
        if dropped > 0 {
            self.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
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

    /// Messages that somebody had no room for, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        change(&mut self.table.write().unwrap_or_else(PoisonError::into_inner));
        self.version.fetch_add(1, Ordering::Release);
    }

    fn find(&self, passing: &mut Passing, message: &Message) {
        let version = self.version.load(Ordering::Acquire);
        if passing.topic.as_ref() == Some(&message.topic) && passing.version == version {
            return;
        }
        if passing.version != version {
            self.send(passing);
            passing.outgoing.clear();
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let mut listeners = Vec::new();
        table.filters.for_each_match(message.topic.as_bytes(), |found| listeners.push(*found));
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
            let ids = wanted.map(|listener| listener.subscription_id).filter(|id| *id != 0);
            let subscription_ids = ids.collect();
            let outgoing = passing.outgoing_to(group[0].slot, &slot.receiver);
            passing.hits.push(Hit { outgoing, subscription_ids });
        }
        passing.shares.clear();
        table.shared.for_each_match(message.topic.as_bytes(), |share| {
            let Some(members) = table.shares.get(share) else { return };
            let hit = |((at, _), id): (&(u32, u32), &u32)| {
                let slot = table.slots[*at as usize].as_ref()?;
                let outgoing = passing.outgoing_to(*at, &slot.receiver);
                let subscription_ids = Some(*id).filter(|id| *id != 0).into_iter().collect();
                Some(Hit { outgoing, subscription_ids })
            };
            let hits: Vec<Hit> = members.by_member.iter().filter_map(hit).collect();
            if !hits.is_empty() {
                passing.shares.push((members.turn.clone(), hits));
            }
        });
        passing.topic = Some(message.topic.clone());
        passing.version = version;
    }
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
            retain: false,
            redelivered: false,
            subscription_ids: self.subscription_ids.clone(),
            annotations: Vec::new(),
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
    fn outgoing_to(&mut self, slot: u32, receiver: &Arc<dyn Receiver>) -> usize {
        let known = self.outgoing.iter().position(|outgoing| outgoing.slot == slot);
        known.unwrap_or_else(|| {
            let receiver = receiver.clone();
            self.outgoing.push(Outgoing { slot, receiver, events: Events::new(), bytes: 0 });
            self.outgoing.len() - 1
        })
    }
}

impl Table {
    fn connect(&mut self, connection: ConnectionId, receiver: Arc<dyn Receiver>) {
        let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
        let new =
            Some(Slot { receiver, publisher: 0, filters: HashSet::new(), shares: BTreeMap::new() });
        match self.slots.get_mut(slot as usize) {
            Some(free) => *free = new,
            None => self.slots.push(new),
        }
        self.by_connection.insert(connection, slot);
    }

    fn disconnect(&mut self, connection: ConnectionId) {
        self.unsubscribe_all(connection);
        let shares = self.slot(connection).map(|(_, slot)| slot.shares.clone());
        for membership in shares.unwrap_or_default().into_keys() {
            self.unshare(connection, membership);
        }
        if let Some(slot) = self.by_connection.remove(&connection) {
            self.slots[slot as usize] = None;
            self.free.push(slot);
        }
    }

    fn subscribe(&mut self, connection: ConnectionId, publisher: u64, new: &Subscription) {
        let Some((at, slot)) = self.slot(connection) else { return };
        slot.publisher = publisher;
        slot.filters.insert(new.filter.clone());
        let listener =
            Listener { slot: at, no_local: new.no_local, subscription_id: new.subscription_id };
        // Replaced, not kept: its options may differ.
        self.filters.remove(new.filter.as_bytes(), &listener);
        self.filters.insert(new.filter.as_bytes(), listener);
    }

    fn unsubscribe(&mut self, connection: ConnectionId, filter: &Filter) {
        let Some((at, slot)) = self.slot(connection) else { return };
        if slot.filters.remove(filter) {
            self.filters.remove(filter.as_bytes(), &Listener::named(at));
        }
    }

    fn unsubscribe_all(&mut self, connection: ConnectionId) {
        let Some((at, slot)) = self.slot(connection) else { return };
        for filter in std::mem::take(&mut slot.filters) {
            self.filters.remove(filter.as_bytes(), &Listener::named(at));
        }
    }

    /// Adds a member of a shared subscription; a join of the same membership replaces it. Queues are for their partitions.
    fn share(&mut self, connection: ConnectionId, join: &Join) {
        let Selection::Topics(filter) = &join.reads else { return };
        let share = (join.group.clone(), filter.clone());
        let Some((at, slot)) = self.slot(connection) else { return };
        slot.shares.insert(join.membership, share.clone());
        self.shared.insert(filter.as_bytes(), share.clone());
        let members = self.shares.entry(share).or_default();
        members.by_member.insert((at, join.membership), join.subscription_id);
    }

    fn unshare(&mut self, connection: ConnectionId, membership: u32) {
        let Some((at, slot)) = self.slot(connection) else { return };
        let Some(share) = slot.shares.remove(&membership) else { return };
        let Some(members) = self.shares.get_mut(&share) else { return };
        members.by_member.remove(&(at, membership));
        if members.by_member.is_empty() {
            self.shares.remove(&share);
            self.shared.remove(share.1.as_bytes(), &share);
        }
    }

    fn slot(&mut self, connection: ConnectionId) -> Option<(u32, &mut Slot)> {
        let at = *self.by_connection.get(&connection)?;
        Some((at, self.slots[at as usize].as_mut()?))
    }
}

impl Listener {
    fn named(slot: u32) -> Listener {
        Listener { slot, no_local: false, subscription_id: 0 }
    }
}

impl PartialEq for Listener {
    fn eq(&self, other: &Listener) -> bool {
        self.slot == other.slot
    }
}

impl Eq for Listener {}

impl PartialOrd for Listener {
    fn partial_cmp(&self, other: &Listener) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Listener {
    fn cmp(&self, other: &Listener) -> Order {
        self.slot.cmp(&other.slot)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;

    use super::*;
    use crate::model::record::DedupKey;
    use crate::model::{Properties, RetainHandling, Token};
    use crate::partition::request::{Attach, Position, Publish};

    #[derive(Default)]
    struct Inbox {
        sent: Mutex<Vec<Delivery>>,
        full: bool,
    }

    impl Receiver for Inbox {
        fn send(&self, events: Events) {
            let deliveries = events.into_iter().map(|(_, event)| match event {
                Event::Deliver(delivery) => delivery,
                other => panic!("only deliveries are passed on: {other:?}"),
            });
            self.sent.lock().unwrap().extend(deliveries);
        }

        fn has_room(&self, _more: usize) -> bool {
            !self.full
        }

        fn wants_time(&self) -> bool {
            self.full
        }
    }

    struct World {
        live: Live,
        passing: Passing,
    }

    impl World {
        fn new() -> World {
            World { live: Live::default(), passing: Passing::default() }
        }

        fn connect(&self, id: u64) -> Arc<Inbox> {
            let inbox = Arc::new(Inbox::default());
            self.live.connect(ConnectionId(id), inbox.clone());
            inbox
        }

        fn request(&self, id: u64, request: Request) {
            let mut passing = Passing::default();
            let kept = self.live.route(ConnectionId(id), request, &mut passing);
            assert!(kept.is_some(), "partitions must know as well");
        }

        fn subscribe(&self, id: u64, filter: &str, subscription_id: u32, no_local: bool) {
            let subscription = Arc::new(Subscription {
                filter: named(filter),
                qos: QoS::ExactlyOnce,
                no_local,
                retain_as_published: false,
                retain_handling: RetainHandling::Send,
                subscription_id,
                group: None,
                settle_explicit: false,
            });
            let attach = Attach {
                subscriptions: vec![(subscription, None)],
                cursor: None,
                outbound: Vec::new(),
                publisher: id,
                credit: 1,
                retained: vec![false],
                token: Token(0),
            };
            self.request(id, Request::Attach(attach));
        }

        fn join(&self, id: u64, filter: &str) {
            let join = Join {
                membership: 1,
                reads: Selection::Topics(named(filter)),
                group: QueueName::new(Bytes::from_static(b"g")).unwrap(),
                filter: named(filter),
                position: Position::Resume,
                client_id: Bytes::from(id.to_string()),
                expiry_s: 0,
                qos: QoS::AtMostOnce,
                retain_as_published: false,
                subscription_id: 3,
                settle_explicit: false,
                credit: 1,
                token: Token(0),
            };
            self.request(id, Request::Join(join));
        }

        /// Publishes to `topic` as connection 1, and lets it arrive.
        fn publish(&mut self, topic: &str) {
            let publish = publish(topic, QoS::AtMostOnce);
            let request = Request::Publish(publish);
            let kept = self.live.route(ConnectionId(1), request, &mut self.passing);
            assert!(kept.is_none(), "nothing stores it");
            self.live.send(&mut self.passing);
        }
    }

    fn named(filter: &str) -> Filter {
        Filter::new(Bytes::from(filter.to_owned())).unwrap()
    }

    fn publish(topic: &str, qos: QoS) -> Publish {
        let message = Message {
            topic: Topic::new(Bytes::from(topic.to_owned())).unwrap(),
            payload: Bytes::from_static(b"x"),
            qos,
            retain: false,
            expiry_s: None,
            properties: Properties::default(),
            publisher: 1,
        };
        Publish { token: None, message, dedup: DedupKey::default(), queue: None }
    }

    fn taken(inbox: &Inbox) -> Vec<Delivery> {
        std::mem::take(&mut *inbox.sent.lock().unwrap())
    }

    #[test]
    fn everyone_whose_filters_match_gets_one_with_every_subscription_id() {
        let mut world = World::new();
        let (one, two, three) = (world.connect(1), world.connect(2), world.connect(3));
        world.subscribe(2, "a/+", 7, false);
        world.subscribe(2, "a/#", 8, false);
        world.subscribe(3, "b", 9, false);

        world.publish("a/b");

        let got = taken(&two);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].subscription_ids, [7, 8]);
        assert_eq!((got[0].qos, got[0].id.source), (QoS::AtMostOnce, DeliverySource::Live));
        assert!(taken(&one).is_empty() && taken(&three).is_empty());
    }

    #[test]
    fn what_is_stored_goes_to_its_partition() {
        let world = World::new();
        let inbox = world.connect(1);
        world.subscribe(1, "#", 0, false);
        world.request(1, Request::Publish(publish("a", QoS::AtLeastOnce)));
        assert!(taken(&inbox).is_empty());
    }

    #[test]
    fn a_changed_subscription_counts_from_the_next_message_of_the_same_topic() {
        let mut world = World::new();
        world.connect(1);
        let two = world.connect(2);
        world.publish("t");
        world.subscribe(2, "t", 1, false);
        world.publish("t");
        world.subscribe(2, "t", 5, false);
        world.publish("t");
        let ids: Vec<_> = taken(&two).iter().map(|got| got.subscription_ids.clone()).collect();
        assert_eq!(ids, [[1], [5]], "replaced, not doubled");

        world.request(2, Request::DetachFilter { filter: named("t") });
        world.publish("t");
        assert!(taken(&two).is_empty());

        world.subscribe(2, "t", 0, false);
        world.request(2, Request::Detach);
        world.publish("t");
        assert!(taken(&two).is_empty());
    }

    #[test]
    fn a_connection_that_is_gone_gets_nothing_and_its_successor_in_the_slot_only_its_own() {
        let mut world = World::new();
        world.connect(1);
        let two = world.connect(2);
        world.subscribe(2, "t", 0, false);
        world.publish("t");
        world.live.disconnect(ConnectionId(2));
        let three = world.connect(3);
        world.publish("t");
        assert_eq!((taken(&two).len(), taken(&three).len()), (1, 0));
    }

    #[test]
    fn no_local_keeps_a_clients_own_messages_from_it() {
        let mut world = World::new();
        let one = world.connect(1);
        world.subscribe(1, "t", 1, true);
        world.publish("t");
        assert!(taken(&one).is_empty());
        // Another of its subscriptions may still want it [MQTT-3.8.3-3].
        world.subscribe(1, "#", 2, false);
        world.publish("t");
        assert_eq!(taken(&one)[0].subscription_ids, [2]);
    }

    #[test]
    fn one_member_of_a_group_gets_each_and_one_without_room_is_passed_over() {
        let mut world = World::new();
        let one = world.connect(1);
        let (two, three) = (world.connect(2), world.connect(3));
        let full = Arc::new(Inbox { full: true, ..Inbox::default() });
        world.live.connect(ConnectionId(4), full.clone());
        world.subscribe(1, "a/b", 0, false);
        for id in [2, 3, 4] {
            world.join(id, "a/#");
        }

        (0..30).for_each(|_| world.publish("a/b"));

        let (two, three) = (taken(&two), taken(&three));
        assert_eq!((taken(&one).len(), two.len() + three.len()), (30, 30));
        assert!(two.len() >= 10 && three.len() >= 10 && taken(&full).is_empty());
        assert_eq!((two[0].subscription_ids.as_slice(), world.live.dropped()), (&[3][..], 0));

        let leave = Request::Leave { membership: 1, expiry_s: 0, token: None };
        world.request(2, leave.clone());
        world.live.disconnect(ConnectionId(3));
        world.publish("a/b");
        assert_eq!(world.live.dropped(), 1, "only the full one is left");
        world.request(4, leave);
        world.publish("a/b");
        assert_eq!(world.live.dropped(), 1, "nobody listens any more");
    }

    #[test]
    fn a_receiver_without_room_is_passed_over_and_counted() {
        let mut world = World::new();
        world.connect(1);
        let full = Arc::new(Inbox { full: true, ..Inbox::default() });
        world.live.connect(ConnectionId(2), full.clone());
        let three = world.connect(3);
        world.subscribe(2, "t", 0, false);
        world.subscribe(3, "t", 0, false);
        world.publish("t");
        assert_eq!((taken(&full).len(), taken(&three).len()), (0, 1));
        assert_eq!(world.live.dropped(), 1);
        assert!(world.live.is_crowded(&world.passing), "a pause would help");
    }
}
