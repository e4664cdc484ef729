//! The table stepped by hand: who gets what, and who is passed over.

use std::sync::Mutex;

use bytes::Bytes;

use super::*;
use crate::model::record::{DedupKey, Tenure};
use crate::model::{
    Credit, Filter, Properties, QueueName, ReaderId, RetainHandling, Selection, Subscription, Token,
};
use crate::partition::request::{Attach, Join, Position, Publish, Target};

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
            reader: ReaderId::SESSION,
        });
        let attach = Attach {
            reader: ReaderId::SESSION,
            position: None,
            subscriptions: vec![(subscription, None)],
            cursor: None,
            outbound: Vec::new(),
            publisher: id,
            credit: 1,
            keeps_place: false,
            retained: vec![false],
            token: Token(0),
        };
        self.request(id, Request::Attach(Box::new(attach)));
    }

    fn join(&self, id: u64, filter: &str) {
        let join = Join {
            membership: 1,
            reads: Selection::Topics(named(filter)),
            group: QueueName::new(Bytes::from_static(b"g")).unwrap(),
            own: None,
            filter: named(filter),
            position: Position::Resume,
            client_id: Bytes::from(id.to_string()),
            expiry_s: 0,
            qos: QoS::AtMostOnce,
            retain_as_published: false,
            subscription_id: 3,
            settle_explicit: false,
            credit: Credit::Window(1),
            is_named: false,
            is_exclusive: false,
            token: Token(0),
        };
        self.request(id, Request::Join(Box::new(join)));
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
    Publish {
        token: None,
        message: Arc::new(message),
        dedup: DedupKey::default(),
        tenure: Tenure::default(),
        target: Target::Topic,
        is_kept: false,
        input: None,
    }
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

#[test]
fn while_memory_is_short_nobody_is_given_anything_and_all_of_it_is_counted() {
    let mut world = World::new();
    world.connect(1);
    let two = world.connect(2);
    world.subscribe(2, "t", 0, false);

    world.live.set_shedding(true);
    world.publish("t");
    world.publish("t");
    assert!(taken(&two).is_empty());
    assert_eq!(world.live.dropped(), 2);

    world.live.set_shedding(false);
    world.publish("t");
    assert_eq!(taken(&two).len(), 1);
}
