//! Queues that begin at the earliest: what history has is in them, once and in order, and what is published meanwhile and afterwards.

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxmq::model::queue::{Overflow, QueueLimits};
use fluxmq::model::{Delivery, Filter, Message, Properties, Property, QoS, QueueSettings};
use fluxmq::partition::Options;
use fluxmq::partition::request::{ConnectionId, QueueAction};
use fluxmq_index::Offset;
use fluxmq_log::sim_disk::SimDisk;

use crate::wire::Dice;
use crate::world::{World, message, text, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;

fn following(filters: &[&str]) -> QueueSettings {
    let filter = |text: &&str| Filter::new(Bytes::from((*text).to_owned())).unwrap();
    let bindings = filters.iter().map(filter).collect();
    QueueSettings { bindings, retroactive: true, ..QueueSettings::default() }
}

fn publish(world: &mut World, publisher: ConnectionId, topic: &str, number: usize) {
    let message = message(topic, number.to_string(), ONCE);
    assert_eq!(world.publish(publisher, message, None), Some(Ok(true)), "{topic}");
}

/// Everything in a queue, in its order.
fn read(world: &mut World, reader: &str, queue: &str) -> Vec<Delivery> {
    let (reader, _) = world.open(reader, true, 0);
    let filter = format!("$queue/{queue}/#");
    world.subscribe(reader, &filter, |s| s.position = Some(Bytes::from("earliest"))).unwrap();
    let mut all = Vec::new();
    loop {
        let some = world.deliveries(reader);
        if some.is_empty() {
            break;
        }
        for delivery in &some {
            world.settle(reader, delivery.id, fluxmq::model::Outcome::Accepted);
        }
        all.extend(some);
    }
    world.close(reader, false);
    all
}

/// Numbers by topic, in the order of the queue.
fn by_topic(entries: &[Delivery]) -> BTreeMap<String, Vec<usize>> {
    let mut topics: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for entry in entries {
        let topic = entry.message.topic.as_str().to_owned();
        topics.entry(topic).or_default().push(text(entry).parse().unwrap());
    }
    topics
}

#[test]
fn a_queue_declared_today_holds_what_was_published_before_and_what_comes_next() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        for number in 0..600 {
            publish(&mut world, publisher, &format!("site/{}/temp", number % 7), number);
            publish(&mut world, publisher, "site/1/other", number);
        }
        world.publish(publisher, message("site/1/temp", "unstored", QoS::AtMostOnce), None);
        let published_at = world.now;
        world.pass(60_000);

        world.declare("temps", following(&["site/+/temp"]));
        for number in 600..700 {
            publish(&mut world, publisher, &format!("site/{}/temp", number % 7), number);
        }

        let entries = read(&mut world, "reader", "temps");
        let offsets: Vec<u64> = entries.iter().map(|entry| entry.id.offset.0).collect();
        assert_eq!(offsets, (0..700).collect::<Vec<u64>>());
        let of = |site: usize| (0..700).filter(|number| number % 7 == site).collect::<Vec<usize>>();
        let expected: BTreeMap<String, Vec<usize>> =
            (0..7).map(|site| (format!("$queue/temps/site/{site}/temp"), of(site))).collect();
        assert_eq!(by_topic(&entries), expected);
        let user = |name: &str| {
            let properties = entries[0].message.properties.iter();
            let mut users = properties.filter_map(|property| match property {
                Property::User(key, value) if key == name => Some(value),
                _ => None,
            });
            users.next()
        };
        assert_eq!(user("x-source-timestamp"), Some(Bytes::from(published_at.0.to_string())));
    });
}

/// Cut off anywhere, by the power too, while it fills and others publish.
#[test]
fn every_record_is_in_it_once_and_in_order_whatever_comes_between() {
    for seed in 0..10 {
        let mut dice = Dice::new(seed);
        let mut world = World::new(1 + (seed % 2) as u16 * 3);
        let (mut publisher, _) = world.open("publisher", true, 0);
        let mut published = 0;
        let mut some = |world: &mut World, publisher, count: usize| {
            for _ in 0..count {
                publish(world, publisher, &format!("site/{}", published % 5), published);
                published += 1;
            }
            published
        };
        some(&mut world, publisher, 50 + dice.roll(600));
        world.declare("all", following(&["site/#", "site/3", "#"]));
        let mut count = 0;
        for step in 0..6 {
            for _ in 0..dice.roll(6) {
                world.turn(dice.roll(4) > 0);
            }
            count = some(&mut world, publisher, dice.roll(40));
            if dice.roll(2) == 0 {
                if dice.roll(2) == 0 {
                    world.snapshot();
                }
                world = world.crash(seed * 10 + step);
                (publisher, _) = world.open("publisher", true, 0);
            }
        }
        world.run();

        let entries = read(&mut world, "reader", "all");
        assert_eq!(entries.len(), count, "seed {seed}");
        for (topic, numbers) in by_topic(&entries) {
            assert!(numbers.is_sorted_by(|one, next| one + 5 == *next), "seed {seed}: {topic}");
        }
        assert_eq!(world.stats("all").end, Offset(count as u64), "seed {seed}");
    }
}

/// What is confirmed is in the queue one day, though its history would be over long before: nothing goes that is not there yet.
#[test]
fn history_waits_for_queues_that_follow_it_also_around_a_crash() {
    for (seed, data_partitions) in [(1, 1), (2, 4), (3, 4)] {
        let options = Options { history_age_max_ms: 5_000, ..Options::default() };
        let mut world = World::with(SimDisk::new(seed), data_partitions, options).unwrap();
        let (publisher, _) = world.open("publisher", true, 0);
        world.declare("all", following(&["site/#"]));
        (0..50).for_each(|number| {
            publish(&mut world, publisher, &format!("site/{}", number % 5), number)
        });

        // What is on its way from now on does not arrive, and the log is far over what is kept.
        world.steward_rests = true;
        for number in 50..3_000 {
            publish(&mut world, publisher, &format!("site/{}", number % 5), number);
        }
        (0..600).for_each(|_| world.pass(100));
        let mut world = world.crash(seed);
        (0..600).for_each(|_| world.pass(100));

        let entries = read(&mut world, "reader", "all");
        assert_eq!(entries.len(), 3_000, "seed {seed}");
        for (topic, numbers) in by_topic(&entries) {
            assert!(numbers.is_sorted_by(|one, next| one + 5 == *next), "seed {seed}: {topic}");
        }
        assert!(world.has_let_history_go(), "what everybody has is over, as ever");
    }
}

/// A queue that is gone keeps nothing back.
#[test]
fn history_goes_on_when_a_queue_that_followed_it_is_deleted() {
    let options = Options { history_age_max_ms: 5_000, ..Options::default() };
    let mut world = World::with(SimDisk::new(4), 4, options).unwrap();
    let (publisher, _) = world.open("publisher", true, 0);
    world.declare("all", following(&["site/#"]));
    world.steward_rests = true;
    (0..50).for_each(|number| publish(&mut world, publisher, "site/1", number));
    (0..600).for_each(|_| world.pass(100));
    assert!(!world.has_let_history_go());

    world.steward_rests = false;
    world.manage("all", QueueAction::Delete { if_unused: true, if_empty: false }).unwrap();
    (0..600).for_each(|_| world.pass(100));

    assert!(world.has_let_history_go());
}

/// Whoever brings it is lost with its process, and another one says soon where the queue is.
#[test]
fn history_waits_for_a_while_when_nobody_brings_it_any_more() {
    // Whenever history is looked at next.
    for waited in 0..11 {
        let options = Options { history_age_max_ms: 5_000, ..Options::default() };
        let mut world = World::with(SimDisk::new(4), 1, options).unwrap();
        let (publisher, _) = world.open("publisher", true, 0);
        world.declare("all", following(&["site/#"]));
        world.steward_rests = true;
        (0..50).for_each(|number| publish(&mut world, publisher, "site/1", number));
        (0..150 + 10 * waited).for_each(|_| world.pass(100));
        assert!(!world.has_let_history_go(), "the queue does not have it");

        world.lose_steward();
        (0..99).for_each(|_| world.pass(100));
        assert!(!world.has_let_history_go(), "lost {waited} s later");
        (0..600).for_each(|_| world.pass(100));
        assert!(world.has_let_history_go(), "nobody asks");
    }
}

/// What one read brings, and where the next one finds history begun, would else have a gap between them.
#[test]
fn history_that_is_about_to_end_is_not_read() {
    let options = Options { history_age_max_ms: 5_000, ..Options::default() };
    let mut world = World::with(SimDisk::new(4), 4, options).unwrap();
    let (publisher, _) = world.open("publisher", true, 0);
    let source = world.placement.topic(&message("a/1", "", ONCE).topic);
    (0..110).for_each(|_| world.pass(100));
    (0..400).for_each(|number| publish(&mut world, publisher, "a/1", number));
    (0..45).for_each(|_| world.pass(100));
    (400..450).for_each(|number| publish(&mut world, publisher, "a/1", number));
    let names = (0..).map(|number| format!("q{number}"));
    let home = |name: &String| {
        let name = fluxmq::model::QueueName::new(Bytes::from(name.clone())).unwrap();
        world.placement.queue(&name)
    };
    let queue = names.into_iter().find(|name| home(name) != source).unwrap();

    // Log time of the first is over by now, and the record that says so is not flushed.
    world.stalled = Some(source);
    (0..20).for_each(|_| world.pass(100));
    assert!(!world.has_let_history_go());
    world.declare(&queue, following(&["a/#"]));
    assert_eq!(world.stats(&queue).messages, 0, "nothing is read");
    world.stalled = None;
    (0..5).for_each(|_| world.pass(100));
    assert!(world.has_let_history_go());

    let numbers =
        by_topic(&read(&mut world, "reader", &queue)).remove(&format!("$queue/{queue}/a/1"));
    let numbers = numbers.unwrap();
    assert!(
        numbers.ends_with(&[449]) && numbers.is_sorted_by(|one, next| one + 1 == *next),
        "{numbers:?}"
    );
}

/// No history has them, so they are brought when they are published, as to every queue that is bound to their topic.
#[test]
fn messages_of_qos_0_are_in_it_from_its_declaration_on() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        let unstored = |world: &mut World, topic: &str, payload: &str, retain| {
            let message = Message { retain, ..message(topic, payload, QoS::AtMostOnce) };
            world.publish(publisher, message, None);
        };
        unstored(&mut world, "site/1", "before", false);
        world.declare("all", following(&["site/#", "site/1"]));
        world.declare("bound", QueueSettings { retroactive: false, ..following(&["site/#"]) });
        let (listener, _) = world.open("listener", true, 0);
        world.subscribe(listener, "site/#", |_| {}).unwrap();
        for site in 0..20 {
            unstored(&mut world, &format!("site/{site}"), "0", false);
            unstored(&mut world, &format!("site/{site}"), "1", true);
            publish(&mut world, publisher, &format!("site/{site}"), 2);
        }
        unstored(&mut world, "other", "0", false);
        world.run();
        assert_eq!(world.drain(listener).len(), 60, "each once for who listens");

        let mut world = world.crash(5);

        for queue in ["all", "bound"] {
            let topics = by_topic(&read(&mut world, "reader", queue));
            let expected =
                (0..20).map(|site| (format!("$queue/{queue}/site/{site}"), vec![0, 1, 2]));
            let mut sorted = topics;
            sorted.values_mut().for_each(|numbers| numbers.sort_unstable());
            assert_eq!(sorted, expected.collect(), "{queue}");
        }
    });
}

#[test]
fn a_queue_that_is_declared_again_begins_again() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        (0..30).for_each(|number| publish(&mut world, publisher, "a/1", number));
        world.declare("q", following(&["a/#"]));
        world.manage("q", QueueAction::Delete { if_unused: true, if_empty: false }).unwrap();
        (30..40).for_each(|number| publish(&mut world, publisher, "b/1", number));
        assert!(world.manage("q", QueueAction::Stats).is_err(), "nothing brings it back");

        world.declare("q", following(&["b/#", "a/1"]));
        publish(&mut world, publisher, "a/1", 40);

        let topics = by_topic(&read(&mut world, "reader", "q"));
        let expected_a: Vec<usize> = (0..30).chain([40]).collect();
        assert_eq!(topics["$queue/q/a/1"], expected_a);
        assert_eq!(topics["$queue/q/b/1"], (30..40).collect::<Vec<usize>>());
    });
}

#[test]
fn what_is_over_is_not_in_it_and_what_was_delayed_waits_from_when_it_was_published() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        for (number, expiry_s) in [("0", Some(10)), ("1", Some(100)), ("2", None)] {
            let message = fluxmq::model::Message { expiry_s, ..message("a", number, ONCE) };
            world.publish(publisher, message, None);
        }
        let delay = Property::User(Bytes::from("x-delay"), Bytes::from("50000"));
        let mut delayed = message("a", "3", ONCE);
        delayed.properties = Properties::encode([&delay]);
        world.publish(publisher, delayed, None);
        world.pass(40_000);

        world.declare("q", following(&["a"]));

        let entries = read(&mut world, "reader", "q");
        assert_eq!(entries.iter().map(text).collect::<Vec<_>>(), ["1", "2"]);
        let left_s = entries[0].message.expiry_s.unwrap();
        assert!((50..=60).contains(&left_s), "{left_s}");
        world.pass(10_100);
        let later: Vec<String> = read(&mut world, "later", "q").iter().map(text).collect();
        assert_eq!(later, ["1", "2", "3"]);
    });
}

#[test]
fn a_declaration_that_cannot_look_back_is_refused_and_changes_nothing() {
    with_one_and_four(|mut world| {
        let limits = QueueLimits {
            overflow: Overflow::RejectPublish,
            messages_max: Some(5),
            ..Default::default()
        };
        let cases = [
            (following(&[]), "needs bindings"),
            (QueueSettings { limits, ..following(&["a"]) }, "cannot refuse publishers"),
        ];
        for (settings, said) in cases {
            let refused = world.manage("q", QueueAction::Declare(std::sync::Arc::new(settings)));
            assert!(refused.clone().unwrap_err().to_string().contains(said), "{refused:?}");
            assert!(world.manage("q", QueueAction::Stats).is_err());
        }
        world.declare("q", following(&["a"]));
        let otherwise = QueueSettings { retroactive: false, ..following(&["a"]) };
        let refused = world.manage("q", QueueAction::Declare(std::sync::Arc::new(otherwise)));
        assert!(refused.unwrap_err().to_string().contains("another 'from'"));
        assert!(world.stats("q").settings.retroactive);
    });
}

/// Who brings it may bring some of it again.
#[test]
fn history_that_comes_twice_is_taken_once() {
    let mut world = World::new(4);
    let (publisher, _) = world.open("publisher", true, 0);
    (0..50).for_each(|number| publish(&mut world, publisher, &format!("site/{number}"), number));
    world.declare("all", following(&["site/+"]));
    world.steward_stutters = true;
    (50..90).for_each(|number| publish(&mut world, publisher, &format!("site/{number}"), number));
    world.pass(10_000);

    assert_eq!(world.stats("all").messages, 90);
}

#[cfg(feature = "planted-bugs")]
#[test]
fn history_that_is_taken_twice_or_goes_too_soon_is_caught() {
    use fluxmq::planted::PlantedBug;

    let waits: fn() = history_waits_for_queues_that_follow_it_also_around_a_crash;
    let once: fn() = history_that_comes_twice_is_taken_once;
    for (bug, test) in
        [(PlantedBug::FollowersUnheeded, waits), (PlantedBug::HistoryTakenAgain, once)]
    {
        assert!(crate::world::catches(bug, test), "{}", bug.words());
    }
}
