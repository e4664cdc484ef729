//! What is both passed on and stored: a retained publish of QoS 0. Whoever listens has it at once, in its publisher's order
//! [MQTT-4.6.0-5]; who subscribes later has it as retained, while it is; a session that was away does not have it; nobody has it twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxmq::broker::Placement;
use fluxmq::model::command::Subscribe;
use fluxmq::model::{Command, DeliverySource, Filter, Message, QoS, RetainHandling, Token};
use fluxmq::partition::request::ConnectionId;
use proptest::prelude::*;

use crate::world::{World, message, text, with_one_and_four};

const AT_MOST: QoS = QoS::AtMostOnce;
const FOREVER: u32 = u32::MAX;
const TOPIC: &str = "a/b";

fn retained(topic: &str, payload: &str) -> Message {
    Message { retain: true, ..message(topic, payload, AT_MOST) }
}

/// Lets the partition of the topic have a slow disk.
fn slow_down(world: &mut World) {
    let count = world.partitions.len() as u16;
    let topic = message(TOPIC, "", AT_MOST).topic;
    world.slow = Some(Placement::new(count).topic(&topic));
}

fn publish(world: &mut World, publisher: ConnectionId, message: Message) {
    assert_eq!(world.publish(publisher, message, None), None);
}

/// Publishes without anything else happening.
fn say(world: &mut World, publisher: ConnectionId, message: Message) {
    let message = message.into();
    world.say(publisher, Command::Publish { token: Token(0), message, packet_id: None });
}

/// Subscribes without anything else happening.
fn say_subscribe(world: &mut World, id: ConnectionId, filter: &str) {
    let subscribe = Subscribe {
        filter: Filter::new(Bytes::from(filter.to_owned())).unwrap(),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
        subscription_id: 0,
        position: None,
        reports_end: false,
        group: None,
        settle_explicit: false,
    };
    world.say(id, Command::Subscribe { token: Token(9), subscriptions: vec![subscribe] });
}

/// Takes what has come, each with its RETAIN flag.
fn taken(world: &mut World, id: ConnectionId) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    loop {
        let deliveries = world.deliveries(id);
        if deliveries.is_empty() {
            return all;
        }
        for delivery in deliveries {
            all.push((text(&delivery), delivery.retain));
            let outcome = fluxmq::model::Outcome::Accepted;
            world.say(id, Command::Settle { delivery: delivery.id, outcome });
        }
        world.run();
    }
}

fn plain(payloads: &[&str]) -> Vec<(String, bool)> {
    payloads.iter().map(|payload| ((*payload).to_owned(), false)).collect()
}

fn subscriber(world: &mut World, client_id: &str, expiry_s: u32) -> ConnectionId {
    let (id, _) = world.open(client_id, true, expiry_s);
    world.subscribe(id, "a/+", |_| {}).unwrap();
    id
}

#[test]
fn a_retained_message_is_not_overtaken_by_the_next_and_does_not_come_twice() {
    with_one_and_four(|mut world| {
        let reader = subscriber(&mut world, "reader", 0);
        let stored = subscriber(&mut world, "stored", FOREVER);
        let (publisher, _) = world.open("publisher", true, 0);
        slow_down(&mut world);

        publish(&mut world, publisher, retained(TOPIC, "1"));
        publish(&mut world, publisher, message(TOPIC, "2", AT_MOST));
        publish(&mut world, publisher, retained(TOPIC, "3"));
        for id in [reader, stored] {
            assert_eq!(taken(&mut world, id), plain(&["1", "2", "3"]), "before it is stored");
        }

        world.slow = None;
        world.run();
        for id in [reader, stored] {
            assert!(taken(&mut world, id).is_empty());
        }
        assert_eq!(world.stored(TOPIC), ["1", "3"]);
        let late = subscriber(&mut world, "late", 0);
        assert_eq!(taken(&mut world, late), [("3".to_owned(), true)]);
    });
}

#[test]
fn flags_identifiers_and_own_messages_are_as_for_every_message() {
    with_one_and_four(|mut world| {
        let (both, _) = world.open("both", true, 0);
        for (filter, id) in [("a/+", 3), ("a/#", 4)] {
            let with = |subscribe: &mut Subscribe| subscribe.subscription_id = id;
            world.subscribe(both, filter, with).unwrap();
        }
        let (keeps, _) = world.open("keeps", true, 0);
        world.subscribe(keeps, "a/b", |it| it.retain_as_published = true).unwrap();
        let (publisher, _) = world.open("publisher", true, 0);
        world.subscribe(publisher, "#", |it| it.no_local = true).unwrap();

        publish(&mut world, publisher, retained(TOPIC, "1"));

        let deliveries = world.deliveries(both);
        assert_eq!(deliveries.len(), 1, "one for all that match");
        assert_eq!(
            (&deliveries[0].subscription_ids[..], deliveries[0].retain),
            (&[3, 4][..], false)
        );
        assert_eq!(deliveries[0].id.source, DeliverySource::Live);
        assert_eq!(taken(&mut world, keeps), [("1".to_owned(), true)]);
        assert!(taken(&mut world, publisher).is_empty());
    });
}

#[test]
fn a_reader_that_is_behind_gets_it_in_order_and_once() {
    with_one_and_four(|mut world| {
        let reader = subscriber(&mut world, "reader", 0);
        let (publisher, _) = world.open("publisher", true, 0);
        for number in 0..300 {
            let stored = message(TOPIC, format!("q{number}"), QoS::AtLeastOnce);
            assert_eq!(world.publish(publisher, stored, None), Some(Ok(true)));
        }
        publish(&mut world, publisher, retained(TOPIC, "1"));
        publish(&mut world, publisher, message(TOPIC, "2", AT_MOST));

        let got: Vec<String> = taken(&mut world, reader).into_iter().map(|it| it.0).collect();

        let (stored, passed_on): (Vec<_>, Vec<_>) =
            got.into_iter().partition(|payload| payload.starts_with('q'));
        assert_eq!(passed_on, ["1", "2"]);
        assert_eq!(stored.len(), 300);
    });
}

#[test]
fn who_subscribes_while_it_is_being_stored_gets_it_as_retained_and_first() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        publish(&mut world, publisher, retained(TOPIC, "old"));
        let (reader, _) = world.open("reader", true, 0);
        slow_down(&mut world);

        publish(&mut world, publisher, retained(TOPIC, "1"));
        say_subscribe(&mut world, reader, "a/#");
        world.run();
        publish(&mut world, publisher, message(TOPIC, "2", AT_MOST));
        assert!(taken(&mut world, reader).is_empty(), "nothing before what is older");
        world.slow = None;
        world.run();
        publish(&mut world, publisher, retained(TOPIC, "3"));

        let mut expected = vec![("1".to_owned(), true)];
        expected.extend(plain(&["2", "3"]));
        assert_eq!(taken(&mut world, reader), expected);
    });
}

#[test]
fn what_is_replaced_before_a_subscription_stands_does_not_come_with_it() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        let (reader, _) = world.open("reader", true, 0);
        slow_down(&mut world);
        publish(&mut world, publisher, retained(TOPIC, "1"));
        say_subscribe(&mut world, reader, "a/#");
        world.run();
        publish(&mut world, publisher, retained(TOPIC, "2"));
        world.slow = None;
        world.run();
        assert_eq!(taken(&mut world, reader), plain(&["2"]));
    });
}

#[test]
fn no_old_state_comes_after_a_newer_one() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        publish(&mut world, publisher, retained(TOPIC, "old"));
        let (reader, _) = world.open("reader", true, 0);
        // In one turn: who listens is known at once, and what is retained when the partition has its turn.
        say_subscribe(&mut world, reader, "a/#");
        say(&mut world, publisher, retained(TOPIC, "new"));
        world.run();
        let got = taken(&mut world, reader);
        assert_eq!(got.last().map(|it| it.0.as_str()), Some("new"), "{got:?}");
        assert_eq!(got.iter().filter(|it| it.0 == "new").count(), 1, "{got:?}");
    });
}

#[test]
fn of_many_retained_messages_those_that_were_replaced_meanwhile_do_not_come() {
    let mut world = World::new(1);
    let (publisher, _) = world.open("publisher", true, 0);
    let topics: Vec<String> = (0..400).map(|number| format!("a/{number}")).collect();
    for topic in &topics {
        let stored = Message { retain: true, ..message(topic, "old", QoS::AtLeastOnce) };
        assert_eq!(world.publish(publisher, stored, None), Some(Ok(true)));
    }
    let reader = subscriber(&mut world, "reader", 0);
    // It has not settled what came first: the rest waits, and the last of it is replaced.
    publish(&mut world, publisher, retained(&topics[399], "new"));
    let got = taken(&mut world, reader);
    assert_eq!(got.len(), 400);
    assert_eq!(got.last(), Some(&("new".to_owned(), false)), "and behind what is older");
}

#[test]
fn a_session_that_was_away_did_not_miss_it_and_has_as_retained_what_it_subscribes_to_again() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        let session = subscriber(&mut world, "session", FOREVER);
        publish(&mut world, publisher, retained(TOPIC, "1"));
        // The last is on its way into the log when the session ends: it has it.
        slow_down(&mut world);
        publish(&mut world, publisher, retained(TOPIC, "2"));
        assert_eq!(taken(&mut world, session), plain(&["1", "2"]));
        world.close(session, false);
        publish(&mut world, publisher, retained(TOPIC, "3"));
        world.slow = None;
        world.run();
        let stored = message(TOPIC, "stored", QoS::AtLeastOnce);
        assert_eq!(world.publish(publisher, stored, None), Some(Ok(true)));
        publish(&mut world, publisher, retained(TOPIC, "4"));

        let (session, opened) = world.open("session", false, FOREVER);
        assert!(opened.session_present);
        publish(&mut world, publisher, retained(TOPIC, "5"));
        assert_eq!(taken(&mut world, session), plain(&["stored", "5"]));
        world.subscribe(session, "a/+", |_| {}).unwrap();
        assert_eq!(taken(&mut world, session), [("5".to_owned(), true)]);

        world.close(session, false);
        let (session, _) = world.open("session", false, FOREVER);
        assert!(taken(&mut world, session).is_empty());
    });
}

/// The defect this replaced: the reader of a session was behind when its connection ended, so the next one read what was retained before,
/// although the first was passed on something newer.
#[test]
fn a_session_whose_reader_was_behind_gets_nothing_older_than_it_was_passed_on() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        let session = subscriber(&mut world, "session", FOREVER);
        for number in 0..300 {
            let stored = message(TOPIC, format!("q{number}"), QoS::AtLeastOnce);
            assert_eq!(world.publish(publisher, stored, None), Some(Ok(true)));
        }
        publish(&mut world, publisher, retained(TOPIC, "1"));
        world.close(session, false);
        publish(&mut world, publisher, retained(TOPIC, "2"));
        let (session, _) = world.open("session", false, FOREVER);
        publish(&mut world, publisher, retained(TOPIC, "3"));
        // It has acknowledged nothing yet: its reader is behind, and this connection waits no longer.
        world.checkpoint_sessions();
        let passed_on = |world: &mut World| {
            let deliveries = world.deliveries(session);
            let deliveries = deliveries.iter().filter(|it| it.qos == AT_MOST);
            deliveries.map(text).collect::<Vec<_>>()
        };
        assert_eq!(passed_on(&mut world), ["3"]);
        world.close(session, false);

        let (session, _) = world.open("session", false, FOREVER);
        let got = taken(&mut world, session);
        assert_eq!(got.len(), 300, "{got:?}");
        assert!(got.iter().all(|(payload, _)| payload.starts_with('q')), "{got:?}");
    });
}

#[test]
fn after_a_crash_it_does_not_come_again() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        let session = subscriber(&mut world, "session", FOREVER);
        for number in 0..10 {
            publish(&mut world, publisher, retained(TOPIC, &number.to_string()));
        }
        assert_eq!(taken(&mut world, session).len(), 10);

        let mut world = world.crash(3);
        let (session, opened) = world.open("session", false, FOREVER);
        assert!(opened.session_present);
        assert!(taken(&mut world, session).is_empty());
    });
}

#[test]
fn who_does_not_acknowledge_what_it_missed_is_not_kept_from_what_is_new() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        let session = subscriber(&mut world, "session", FOREVER);
        world.close(session, false);
        for number in 0..300 {
            let stored = message(TOPIC, format!("q{number}"), QoS::AtLeastOnce);
            assert_eq!(world.publish(publisher, stored, None), Some(Ok(true)));
        }
        let (session, _) = world.open("session", false, FOREVER);
        publish(&mut world, publisher, retained(TOPIC, "new"));
        let passed_on = |world: &mut World| {
            let deliveries = world.deliveries(session);
            let deliveries = deliveries.iter().filter(|it| it.qos == AT_MOST);
            deliveries.map(text).collect::<Vec<_>>()
        };
        assert!(passed_on(&mut world).is_empty(), "what it missed comes first");

        world.checkpoint_sessions();
        publish(&mut world, publisher, message(TOPIC, "newer", AT_MOST));

        assert_eq!(passed_on(&mut world), ["new", "newer"]);
    });
}

#[test]
fn much_that_waits_goes_on_before_what_was_missed() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        let session = subscriber(&mut world, "session", FOREVER);
        world.close(session, false);
        for number in 0..300 {
            let stored = message(TOPIC, format!("q{number}"), QoS::AtLeastOnce);
            assert_eq!(world.publish(publisher, stored, None), Some(Ok(true)));
        }
        let (session, _) = world.open("session", false, FOREVER);
        let payload = "x".repeat(1000);
        (0..100).for_each(|_| publish(&mut world, publisher, message(TOPIC, &payload, AT_MOST)));
        let deliveries = world.deliveries(session);
        assert_eq!(deliveries.iter().filter(|it| it.qos == AT_MOST).count(), 100);
    });
}

#[test]
fn a_group_reads_it_from_the_log_once() {
    with_one_and_four(|mut world| {
        let members: Vec<ConnectionId> = (0..2)
            .map(|number| {
                let (id, _) = world.open(&format!("member{number}"), true, 0);
                world.subscribe(id, "$share/g/a/#", |_| {}).unwrap();
                id
            })
            .collect();
        let (publisher, _) = world.open("publisher", true, 0);
        for number in 0..10 {
            publish(&mut world, publisher, retained(TOPIC, &number.to_string()));
        }
        let mut got: Vec<String> = Vec::new();
        for id in members {
            got.extend(taken(&mut world, id).into_iter().map(|it| it.0));
        }
        got.sort();
        assert_eq!(got, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
    });
}

#[test]
fn a_replay_reads_it_from_the_log_and_says_where_it_is() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        publish(&mut world, publisher, retained(TOPIC, "1"));
        let (reader, _) = world.open("reader", true, 0);
        let from = |it: &mut Subscribe| it.position = Some(Bytes::from_static(b"earliest"));
        world.subscribe(reader, "a/#", from).unwrap();
        publish(&mut world, publisher, retained(TOPIC, "2"));
        let deliveries = world.deliveries(reader);
        assert_eq!(deliveries.iter().map(text).collect::<Vec<_>>(), ["1", "2"]);
        for delivery in deliveries {
            assert!(matches!(delivery.id.source, DeliverySource::Reader(it) if it.is_replay()));
            assert!(delivery.annotation("x-stream-offset").is_some());
        }
    });
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish {
        publisher: usize,
        topic: usize,
        retain: bool,
    },
    /// Turns of the broker, with or without flushing.
    Turns {
        count: usize,
        flush: bool,
    },
    /// One that comes and goes unsubscribes and subscribes.
    Renew,
    /// One whose session stays leaves, or comes back.
    Toggle,
}

fn step() -> impl Strategy<Value = Step> {
    let publish = (0..2usize, 0..2usize, any::<bool>())
        .prop_map(|(publisher, topic, retain)| Step::Publish { publisher, topic, retain });
    prop_oneof![
        8 => publish,
        4 => (1..4usize, any::<bool>()).prop_map(|(count, flush)| Step::Turns { count, flush }),
        1 => Just(Step::Renew),
        1 => Just(Step::Toggle),
    ]
}

/// What one client got, in the order in which it got it.
#[derive(Default)]
struct Got {
    /// Its connection.
    id: Option<ConnectionId>,
    all: Vec<(String, bool)>,
}

impl Got {
    fn take(&mut self, world: &mut World) {
        let Some(id) = self.id else { return };
        for delivery in world.deliveries(id) {
            self.all.push((text(&delivery), delivery.retain));
            let outcome = fluxmq::model::Outcome::Accepted;
            world.say(id, Command::Settle { delivery: delivery.id, outcome });
        }
    }

    /// Ends its connection, or begins one.
    fn toggle(&mut self, world: &mut World) {
        // What was passed on has arrived, and what of it is stored may be on its way into the log.
        world.turn(false);
        let Some(id) = self.id else {
            self.id = Some(world.open("session", false, FOREVER).0);
            return;
        };
        self.take(world);
        world.close(id, false);
        self.take(world);
        self.id = None;
    }

    /// What did not come as retained, sorted.
    fn plain(&self) -> Vec<String> {
        let plain = self.all.iter().filter(|(_, retain)| !retain);
        let mut plain: Vec<String> = plain.map(|(payload, _)| payload.clone()).collect();
        plain.sort();
        plain
    }

    /// Checks that nothing came twice, nor before what its publisher had published to the topic before. Payloads are
    /// `publisher:topic:number`.
    fn check(&self, who: &str) -> Result<(), TestCaseError> {
        let mut last: BTreeMap<&str, u32> = BTreeMap::new();
        for (payload, _) in self.all.iter().filter(|(_, retain)| !retain) {
            let (lane, number) = payload.rsplit_once(':').unwrap();
            let number: u32 = number.parse().unwrap();
            let before = last.insert(lane, number);
            prop_assert!(before.is_none_or(|it| it < number), "{} {:?}", who, self.all);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// I12 of QoS 0, retained, kept by a filter, or neither, with whatever is stored, flushed or being subscribed to in between.
    #[test]
    fn everyone_gets_each_publishers_messages_in_order_and_none_twice(
        steps in proptest::collection::vec(step(), 1..80),
        partitions in prop::sample::select(vec![1u16, 4]),
        kept in prop::sample::select(vec![&[][..], &["a/1"], &["a/+"]]),
    ) {
        let topics = ["a/0", "a/1"];
        let mut world = World::new(partitions);
        world.keep(kept);
        let publishers = [0, 1].map(|number| world.open(&format!("p{number}"), true, 0).0);
        let [mut steady, mut renewing, mut session] = ["steady", "renewing", "session"].map(|name| {
            let id = Some(subscriber(&mut world, name, if name == "session" { FOREVER } else { 0 }));
            Got { id, all: Vec::new() }
        });
        let (mut sent, mut retained_sent, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Publish { publisher, topic, retain } => {
                    let payload = format!("{publisher}:{topic}:{}", sent.len());
                    let message = Message { retain, ..message(topics[topic], &*payload, AT_MOST) };
                    say(&mut world, publishers[publisher], message);
                    if retain {
                        retained_sent.push(payload.clone());
                    }
                    if session.id.is_some() {
                        expected.push(payload.clone());
                    }
                    sent.push(payload);
                }
                Step::Turns { count, flush } => {
                    (0..count).for_each(|_| {
                        world.turn(flush);
                    });
                }
                Step::Renew => {
                    let id = renewing.id.unwrap();
                    let filters = vec![Filter::new(Bytes::from_static(b"a/+")).unwrap()];
                    world.say(id, Command::Unsubscribe { token: Token(8), filters });
                    say_subscribe(&mut world, id, "a/+");
                }
                Step::Toggle => session.toggle(&mut world),
            }
            for got in [&mut steady, &mut renewing, &mut session] {
                got.take(&mut world);
            }
        }
        if session.id.is_none() {
            session.toggle(&mut world);
        }
        for _ in 0..3 {
            world.run();
            for got in [&mut steady, &mut renewing, &mut session] {
                got.take(&mut world);
            }
        }

        steady.check("steady")?;
        renewing.check("renewing")?;
        session.check("session")?;
        prop_assert_eq!(steady.all.len(), sent.len(), "nothing is lost");
        expected.sort();
        prop_assert_eq!(session.plain(), expected, "what came while it was there");
        // Whoever subscribed anew has each topic's state at last.
        for topic in ["0", "1"] {
            let of_topic = |payload: &&String| payload.split(':').nth(1) == Some(topic);
            let newest = retained_sent.iter().rev().find(of_topic);
            let has = newest.is_none_or(|it| renewing.all.iter().any(|(got, _)| got == it));
            prop_assert!(has, "{:?} is not among {:?}", newest, renewing.all);
        }
    }
}
