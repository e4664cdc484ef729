//! Dead letters: by rejection, by number, by age, by length; here and in another partition; and back again.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq::broker::Placement;
use fluxmq::model::queue::{DeadLetterTarget, DeadLetters, Overflow, QueueLimits};
use fluxmq::model::{
    Command, Credit, Delivery, Effect, Filter, Millis, Outcome, PartitionId, Property, QoS,
    QueueName, QueueSettings, Refusal, Token,
};
use fluxmq::partition::request::{ConnectionId, QueueAction, QueueAnswer};
use fluxmq_index::Offset;

use crate::consumers::consume;
use crate::world::{DECLARED, World, message, text, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;

fn name(text: &str) -> QueueName {
    QueueName::from_text(Bytes::from(text.to_owned())).unwrap()
}

fn fill(world: &mut World, queue: &str, range: std::ops::Range<usize>) {
    let (publisher, _) = world.open("publisher", true, 0);
    for number in range {
        let topic = format!("$queue/{queue}/{}", if number % 2 == 0 { "even" } else { "odd" });
        let confirmed = world.publish(publisher, message(&topic, number.to_string(), ONCE), None);
        assert_eq!(confirmed, Some(Ok(true)));
    }
}

fn reader(world: &mut World, group: &str, queue: &str) -> ConnectionId {
    let (reader, _) = world.open(group, true, 0);
    world.subscribe(reader, &format!("{}/#", name(queue).address()), |_| {}).expect("joins");
    reader
}

/// What a delivery says of its last death: queue, reason, count and group.
fn death(delivery: &Delivery) -> (String, String, String, Option<String>) {
    let said = |name: &str| {
        delivery.message.properties.iter().find_map(|property| match property {
            Property::User(key, value) if key == name => {
                Some(String::from_utf8(value.to_vec()).unwrap())
            }
            _ => None,
        })
    };
    assert!(said("x-death-time").is_some_and(|time| time.parse::<u64>().is_ok()));
    (
        said("x-death-queue").unwrap(),
        said("x-death-reason").unwrap(),
        said("x-death-count").unwrap(),
        said("x-death-group"),
    )
}

fn died(
    queue: &str,
    reason: &str,
    count: usize,
    group: Option<&str>,
) -> (String, String, String, Option<String>) {
    (queue.into(), reason.into(), count.to_string(), group.map(Into::into))
}

fn reject(
    world: &mut World,
    by: ConnectionId,
    group: &str,
    offset: u64,
) -> Option<Result<bool, Refusal>> {
    let token = Token(5_000 + offset);
    let (queue, group) = (name("jobs"), name(group));
    let outcome = Outcome::Rejected;
    world.command(by, Command::SettleEntry { token, queue, group, offset, outcome });
    confirmed(world, by, token)
}

fn confirmed(world: &mut World, by: ConnectionId, token: Token) -> Option<Result<bool, Refusal>> {
    world.take(by, |effect| match effect {
        Effect::Confirm { token: answered, result } if *answered == token => Some(result.clone()),
        _ => None,
    })
}

#[test]
fn a_reject_is_confirmed_when_its_letter_is_stored_and_not_before_there_is_room_for_it() {
    let mut world = World::new(1);
    let limits = QueueLimits {
        bytes_max: Some(5),
        overflow: Overflow::RejectPublish,
        ..QueueLimits::default()
    };
    world.declare("morgue", QueueSettings { limits, ..QueueSettings::default() });
    let target = DeadLetterTarget::Queue(name("morgue"));
    let dead_letters = DeadLetters { target, ..DeadLetters::default() };
    world.declare("jobs", QueueSettings { dead_letters, ..QueueSettings::default() });
    fill(&mut world, "jobs", 0..1);
    let (member, _) = world.open("member", true, 0);
    world.subscribe(member, "$share/g/$queue/jobs", |_| {}).expect("joins");
    assert_eq!(world.deliveries(member).len(), 1);

    // Some room there is, and the letter needs more.
    let answer = reject(&mut world, member, "g", 0);

    assert!(matches!(answer, Some(Err(Refusal::Quota { .. }))), "{answer:?}");
    assert_eq!(world.stats("jobs").groups[0].committed, Offset(0));
    assert_eq!(world.stats("morgue").messages, 0);
}

#[test]
fn a_rejected_entry_is_a_dead_letter_with_its_history_and_finished_for_its_group() {
    with_one_and_four(|mut world| {
        fill(&mut world, "jobs", 0..4);
        let workers = reader(&mut world, "workers", "jobs");
        let others = reader(&mut world, "others", "jobs");
        assert_eq!(world.deliveries(workers).len(), 4);

        assert_eq!(reject(&mut world, workers, "workers", 1), Some(Ok(true)));
        assert_eq!(reject(&mut world, workers, "workers", 1), Some(Ok(false)), "not pending");

        assert_eq!(world.drain(others).len(), 4, "another group has it");
        let mut world = world.crash(1);
        let letters = reader(&mut world, "letters", "$dlq/jobs");
        let letter = world.deliveries(letters).remove(0);
        assert_eq!((text(&letter).as_str(), letter.message.topic.as_str()), ("1", "$dlq/jobs/odd"));
        assert_eq!(death(&letter), died("jobs", "rejected", 1, Some("workers")));
        let workers = reader(&mut world, "workers", "jobs");
        assert_eq!(world.drain(workers), ["0", "2", "3"], "it does not come again");
        assert!(world.deliveries(letters).is_empty(), "one letter");
    });
}

#[test]
fn an_error_code_in_puback_rejects_too() {
    with_one_and_four(|mut world| {
        fill(&mut world, "jobs", 0..1);
        let workers = reader(&mut world, "workers", "jobs");
        let delivery = world.deliveries(workers).remove(0);

        world.settle(workers, delivery.id, Outcome::Rejected);

        let letters = reader(&mut world, "letters", "$dlq/jobs");
        assert_eq!(world.drain(letters), ["0"]);
    });
}

#[test]
fn an_entry_that_comes_back_too_often_is_a_dead_letter_also_over_restarts() {
    with_one_and_four(|mut world| {
        world.declare("jobs", QueueSettings { deliveries_max: 5, ..QueueSettings::default() });
        fill(&mut world, "jobs", 0..1);
        for round in 0..5u32 {
            let workers = reader(&mut world, "workers", "jobs");
            let delivery = world.deliveries(workers).remove(0);
            assert_eq!(delivery.redelivered, round > 0);
            match round % 3 {
                0 => world.settle(workers, delivery.id, Outcome::Released),
                1 => world.pass(31_000),
                _ => world.close(workers, false),
            }
            world.run();
            world = world.crash(u64::from(round));
        }

        let workers = reader(&mut world, "workers", "jobs");
        assert!(world.deliveries(workers).is_empty());
        let letters = reader(&mut world, "letters", "$dlq/jobs");
        let letter = world.deliveries(letters).remove(0);
        assert_eq!(death(&letter), died("jobs", "max-deliveries", 1, Some("workers")));
        assert_eq!(world.stats("jobs").groups[0].lag, 0);
    });
}

#[test]
fn a_reject_that_cannot_be_stored_leaves_the_entry_pending() {
    with_one_and_four(|mut world| {
        fill(&mut world, "jobs", 0..1);
        let workers = reader(&mut world, "workers", "jobs");
        let delivery = world.deliveries(workers).remove(0);
        let full = |world: &mut World, full| {
            world.partitions.values_mut().for_each(|partition| partition.set_disk_full(full));
        };

        full(&mut world, true);
        assert_eq!(reject(&mut world, workers, "workers", 0), Some(Err(Refusal::DiskFull)));
        assert_eq!(world.stats("jobs").groups[0].pending, 1);
        // An error code has no answer: the letter waits until there is room for it.
        world.settle(workers, delivery.id, Outcome::Rejected);
        assert_eq!(world.stats("jobs").groups[0].lag, 1);
        full(&mut world, false);
        world.run();

        let letters = reader(&mut world, "letters", "$dlq/jobs");
        assert_eq!(world.drain(letters), ["0"]);
        assert_eq!(world.stats("jobs").groups[0].lag, 0);
    });
}

#[test]
fn letters_go_to_a_queue_in_another_partition_and_the_reject_waits_for_it() {
    // Of these queues some live with `jobs` and some do not.
    for target in ["failed", "morgue", "x", "y", "z"] {
        let mut world = World::new(4);
        let dead_letters =
            DeadLetters { target: DeadLetterTarget::Queue(name(target)), ..DeadLetters::default() };
        world.declare("jobs", QueueSettings { dead_letters, ..QueueSettings::default() });
        fill(&mut world, "jobs", 0..3);
        let workers = reader(&mut world, "workers", "jobs");
        assert_eq!(world.deliveries(workers).len(), 3);

        assert_eq!(reject(&mut world, workers, "workers", 0), Some(Ok(true)), "{target}");

        let mut world = world.crash(9);
        let letters = reader(&mut world, "letters", target);
        let letter = world.deliveries(letters).remove(0);
        assert_eq!(letter.message.topic.as_str(), format!("$queue/{target}/even"));
        assert_eq!(death(&letter), died("jobs", "rejected", 1, Some("workers")), "{target}");
        let workers = reader(&mut world, "workers", "jobs");
        assert_eq!(world.drain(workers), ["1", "2"], "{target}");
    }
}

#[test]
fn a_full_target_elsewhere_refuses_the_reject_and_gets_the_letter_when_there_is_room() {
    let mut world = World::new(4);
    let limits = QueueLimits {
        messages_max: Some(1),
        overflow: Overflow::RejectPublish,
        ..QueueLimits::default()
    };
    for target in ["failed", "morgue", "x", "y"] {
        world.declare(target, QueueSettings { limits: limits.clone(), ..QueueSettings::default() });
        fill(&mut world, target, 0..1);
        let dead_letters =
            DeadLetters { target: DeadLetterTarget::Queue(name(target)), ..DeadLetters::default() };
        world.declare("jobs", QueueSettings { dead_letters, ..QueueSettings::default() });
        fill(&mut world, "jobs", 0..1);
        let workers = reader(&mut world, "workers", "jobs");
        assert_eq!(world.deliveries(workers).len(), 1);

        let refused = reject(&mut world, workers, "workers", 0);
        assert!(matches!(refused, Some(Err(Refusal::Quota { .. }))), "{target}: {refused:?}");
        assert_eq!(world.stats("jobs").groups[0].lag, 1, "{target}");

        assert_eq!(world.manage(target, QueueAction::Purge), Ok(QueueAnswer::Done { count: 1 }));
        world.pass(31_000);
        let token = Token(77);
        let held = world.deliveries(workers);
        if let Some(again) = held.first() {
            // Where the target lives here the entry is as it was: the timeout gave it out again.
            world.settle(workers, again.id, Outcome::Rejected);
        }
        world.pass(6_000);
        assert_eq!(world.stats(target).messages, 1, "{target}");
        assert_eq!(world.stats("jobs").groups[0].lag, 0, "{target}");
        assert_eq!(confirmed(&mut world, workers, token), None);
        world.close(workers, false);
        assert!(
            world.manage("jobs", QueueAction::Delete { if_unused: true, if_empty: false }).is_ok()
        );
    }
}

/// The time of a log stands while the clock has gone back. What is to be tried again is tried all the same (seed 1795300875957).
#[test]
fn a_letter_is_announced_again_also_when_the_clock_has_gone_back() {
    let mut world = World::new(4);
    let limits = QueueLimits {
        messages_max: Some(1),
        overflow: Overflow::RejectPublish,
        ..QueueLimits::default()
    };
    let placement = Placement::new(4);
    let is_elsewhere =
        |target: &str| placement.queue(&name(target)) != placement.queue(&name("jobs"));
    let target =
        ["failed", "morgue", "x", "y"].into_iter().find(|it| is_elsewhere(it)).expect("one");
    world.declare(target, QueueSettings { limits, ..QueueSettings::default() });
    fill(&mut world, target, 0..1);
    let dead_letters =
        DeadLetters { target: DeadLetterTarget::Queue(name(target)), ..DeadLetters::default() };
    world.declare("jobs", QueueSettings { dead_letters, ..QueueSettings::default() });
    fill(&mut world, "jobs", 0..1);
    let workers = reader(&mut world, "workers", "jobs");
    assert_eq!(world.deliveries(workers).len(), 1);
    let refused = reject(&mut world, workers, "workers", 0);
    assert!(matches!(refused, Some(Err(Refusal::Quota { .. }))), "{refused:?}");

    assert_eq!(world.manage(target, QueueAction::Purge), Ok(QueueAnswer::Done { count: 1 }));
    world.now = Millis(world.now.0 - 600_000);
    (0..40).for_each(|_| world.pass(100));
    assert_eq!(world.stats(target).messages, 0, "not yet");
    (0..20).for_each(|_| world.pass(100));

    assert_eq!(world.stats(target).messages, 1);
    assert_eq!(world.stats("jobs").groups[0].lag, 0);
}

#[test]
fn expired_entries_are_never_delivered_and_letters_where_the_queue_says_so() {
    for with_expired in [false, true] {
        with_one_and_four(|mut world| {
            let dead_letters = DeadLetters { with_expired, ..DeadLetters::default() };
            let settings =
                QueueSettings { ttl_ms: Some(10_000), dead_letters, ..QueueSettings::default() };
            world.declare("jobs", settings);
            fill(&mut world, "jobs", 0..2);
            let (publisher, _) = world.open("publisher", true, 0);
            let mut short = message("$queue/jobs/short", "2", ONCE);
            short.expiry_s = Some(3);
            world.publish(publisher, short, None);
            world.pass(5_000);
            fill(&mut world, "jobs", 3..4);
            let early = reader(&mut world, "early", "jobs");
            let second = reader(&mut world, "second", "jobs");
            assert_eq!(world.drain(early), ["0", "1", "3"], "one message was for three seconds");
            world.pass(6_000);
            assert_eq!(world.deliveries(second).len(), 3, "what is out is out");
            world.close(second, false);

            let late = reader(&mut world, "late", "jobs");
            assert_eq!(world.drain(late), ["3"]);
            world.pass(20_000);
            let stats = world.stats("jobs");
            assert_eq!((stats.messages, stats.bytes, stats.head.0), (0, 0, 4));
            assert!(stats.groups.iter().all(|group| group.lag == 0), "{:?}", stats.groups);
            if with_expired {
                let letters = reader(&mut world, "letters", "$dlq/jobs");
                let all = world.deliveries(letters);
                assert_eq!(death(&all[0]), died("jobs", "expired", 1, None));
                let mut all: Vec<String> = all.iter().map(text).collect();
                all.sort_unstable();
                assert_eq!(all, ["0", "1", "2", "3"], "each once, however many groups there are");
            } else {
                assert!(world.manage("$dlq/jobs", QueueAction::Stats).is_err(), "no letters");
            }
        });
    }
}

/// A queue in which entries die of one thing, and whose letters go to another.
fn dying_of(reason: &str, target: &str) -> QueueSettings {
    let dead_letters = DeadLetters {
        target: DeadLetterTarget::Queue(name(target)),
        with_expired: reason == "expired",
        with_overflow: reason == "max-length" || reason == "age",
    };
    let limits = QueueLimits {
        messages_max: Some(1).filter(|_| reason == "max-length"),
        age_max_ms: Some(10_000).filter(|_| reason == "age"),
        ..QueueLimits::default()
    };
    let deliveries_max = if reason == "max-deliveries" { 1 } else { 20 };
    let ttl_ms = Some(10_000).filter(|_| reason == "expired");
    QueueSettings { dead_letters, limits, deliveries_max, ttl_ms, ..QueueSettings::default() }
}

/// Whatever an entry dies of: it stays where it is while the queue for its letter is full, here or in another partition, over a power cut, too.
#[test]
fn an_entry_that_dies_while_its_letter_has_no_room_stays_until_there_is_some() {
    for target in ["failed", "morgue", "x", "y"] {
        for reason in ["expired", "max-deliveries", "max-length", "age"] {
            let case = format!("{reason}, letters to {target}");
            let mut world = World::new(4);
            let full = QueueLimits {
                messages_max: Some(1),
                overflow: Overflow::RejectPublish,
                ..QueueLimits::default()
            };
            world.declare(target, QueueSettings { limits: full, ..QueueSettings::default() });
            fill(&mut world, target, 0..1);
            world.declare("jobs", dying_of(reason, target));
            // Of a queue that is too long the second entry stays.
            let entries = if reason == "max-length" { 2 } else { 1 };
            fill(&mut world, "jobs", 0..entries);
            if reason == "max-deliveries" {
                let workers = reader(&mut world, "workers", "jobs");
                let delivery = world.deliveries(workers).remove(0);
                world.settle(workers, delivery.id, Outcome::Released);
                assert!(world.deliveries(workers).is_empty(), "{case}: that was too often");
                world.close(workers, false);
            }

            for seed in [1, 2] {
                (0..3).for_each(|_| world.pass(7_000));
                assert_eq!(world.stats("jobs").messages, entries as u64, "{case}");
                assert_eq!(world.stats(target).messages, 1, "{case}");
                world = world.crash(seed);
            }
            if reason != "max-length" && reason != "age" {
                let workers = reader(&mut world, "workers", "jobs");
                assert!(world.deliveries(workers).is_empty(), "{case}: nobody gets it");
                assert_eq!(world.stats("jobs").groups[0].lag, 1, "{case}");
            }
            world.manage(target, QueueAction::Purge).expect("it is there");
            (0..10).for_each(|_| world.pass(1_000));

            let letters = reader(&mut world, "letters", target);
            let found = world.deliveries(letters);
            assert_eq!(found.iter().map(text).collect::<Vec<_>>(), ["0"], "{case}");
            let (_, why, ..) = death(&found[0]);
            assert_eq!(why, if reason == "age" { "max-length" } else { reason }, "{case}");
            let stats = world.stats("jobs");
            let left: u64 = if reason == "max-length" { 1 } else { 0 };
            let unfinished = stats.groups.first().map_or(stats.messages, |group| group.lag);
            assert_eq!(unfinished, left, "{case}");
        }
    }
}

#[test]
fn what_is_behind_an_expired_entry_comes_while_its_letter_has_no_room() {
    for (target, priority_max) in [("failed", 0), ("failed", 9), ("morgue", 0), ("x", 0)] {
        let mut world = World::new(4);
        let full = QueueLimits {
            messages_max: Some(1),
            overflow: Overflow::RejectPublish,
            ..QueueLimits::default()
        };
        world.declare(target, QueueSettings { limits: full, ..QueueSettings::default() });
        fill(&mut world, target, 0..1);
        let dead_letters = DeadLetters {
            target: DeadLetterTarget::Queue(name(target)),
            with_expired: true,
            ..DeadLetters::default()
        };
        let ttl_ms = Some(10_000);
        let base = QueueSettings::default();
        world.declare("jobs", QueueSettings { dead_letters, ttl_ms, priority_max, ..base });
        fill(&mut world, "jobs", 0..1);
        world.pass(11_000);
        fill(&mut world, "jobs", 1..3);

        let workers = reader(&mut world, "workers", "jobs");
        assert_eq!(world.drain(workers), ["1", "2"], "{target}");
        assert_eq!(world.stats("jobs").groups[0].lag, 1, "{target}: the expired one is not lost");
        world.manage(target, QueueAction::Purge).expect("it is there");
        (0..10).for_each(|_| world.pass(1_000));

        assert_eq!(world.stats(target).messages, 1, "{target}");
        assert_eq!(world.stats("jobs").groups[0].lag, 0, "{target}");
    }
}

#[test]
fn age_takes_entries_out_where_a_full_queue_refuses_publishers_and_refuses_none() {
    with_one_and_four(|mut world| {
        let limits = QueueLimits {
            messages_max: Some(3),
            age_max_ms: Some(10_000),
            overflow: Overflow::RejectPublish,
            ..QueueLimits::default()
        };
        world.declare("jobs", QueueSettings { limits, ..QueueSettings::default() });
        fill(&mut world, "jobs", 0..2);
        world.pass(9_000);
        fill(&mut world, "jobs", 2..3);
        let (publisher, _) = world.open("publisher", true, 0);
        let publish = |world: &mut World| {
            world.publish(publisher, message("$queue/jobs/x", "more", ONCE), None)
        };
        assert!(matches!(publish(&mut world), Some(Err(Refusal::Quota { .. }))), "three are in it");

        // Two are too old, and leave by that alone; the publisher has their room.
        world.pass(2_000);
        let stats = world.stats("jobs");
        assert_eq!((stats.messages, stats.head, stats.end), (1, Offset(2), Offset(3)));
        assert_eq!(publish(&mut world), Some(Ok(true)));
        assert_eq!(publish(&mut world), Some(Ok(true)));
        assert!(matches!(publish(&mut world), Some(Err(Refusal::Quota { .. }))));
        world.pass(20_000);
        let stats = world.stats("jobs");
        assert_eq!((stats.messages, stats.bytes, stats.end), (0, 0, Offset(5)));
        let late = reader(&mut world, "late", "jobs");
        assert!(world.deliveries(late).is_empty());
    });
}

#[test]
fn a_queue_that_is_too_long_drops_its_oldest_as_letters_where_it_says_so() {
    for with_overflow in [false, true] {
        with_one_and_four(|mut world| {
            let dead_letters = DeadLetters { with_overflow, ..DeadLetters::default() };
            let limits = QueueLimits { messages_max: Some(100), ..QueueLimits::default() };
            let settings = QueueSettings { limits, dead_letters, ..QueueSettings::default() };
            world.declare("jobs", settings);
            fill(&mut world, "jobs", 0..700);

            for _ in 0..5 {
                world.pass(100);
            }

            let stats = world.stats("jobs");
            assert_eq!((stats.messages, stats.head.0, stats.end.0), (100, 600, 700));
            let mut world = world.crash(3);
            let late = reader(&mut world, "late", "jobs");
            assert_eq!(world.drain(late), (600..700).map(|n| n.to_string()).collect::<Vec<_>>());
            if with_overflow {
                let letters = reader(&mut world, "letters", "$dlq/jobs");
                assert_eq!(world.drain(letters).len(), 600);
            }
        });
    }
}

#[test]
fn a_queue_that_is_too_long_loses_no_more_while_its_letters_are_being_stored() {
    // What was leaving counted as if it stayed, with every tick anew.
    let mut world = World::new(1);
    let dead_letters = DeadLetters { with_overflow: true, ..DeadLetters::default() };
    let limits = QueueLimits { messages_max: Some(3), ..QueueLimits::default() };
    world.declare("jobs", QueueSettings { limits, dead_letters, ..QueueSettings::default() });
    fill(&mut world, "jobs", 0..5);

    world.slow = Some(PartitionId(1));
    world.pass(100);
    world.pass(100);
    world.slow = None;
    world.run();

    assert_eq!(world.stats("jobs").messages, 3);
    assert_eq!(world.stats("$dlq/jobs").messages, 2);
}

#[test]
fn a_queue_that_is_too_long_loses_no_more_for_what_is_leaving_behind_its_oldest() {
    // What was leaving counted as if it stayed, for the entries before it (seed 1795328848409).
    let mut world = World::new(1);
    let dead_letters = DeadLetters { with_overflow: true, ..DeadLetters::default() };
    let limits = QueueLimits { messages_max: Some(1), ..QueueLimits::default() };
    world.declare("jobs", QueueSettings { limits, dead_letters, ..QueueSettings::default() });
    let (first, _) = world.open("first", true, 0);
    consume(&mut world, first, (1, "jobs"), Credit::Window(1)).expect("consumes");
    let (second, _) = world.open("second", true, 0);
    consume(&mut world, second, (1, "jobs"), Credit::Window(1)).expect("consumes");
    fill(&mut world, "jobs", 0..4);
    assert_eq!(text(&world.deliveries(first)[0]), "0");
    let held = world.deliveries(second).remove(0);

    // While 0 and 1 are out, 2 makes room for 3, and that does not get to the disk. Then 3 is out, too, and 0 is back.
    world.slow = Some(PartitionId(1));
    world.pass(100);
    world.settle(second, held.id, Outcome::Accepted);
    assert_eq!(text(&world.deliveries(second)[0]), "3");
    world.vanish(first);
    world.pass(100);
    world.slow = None;
    world.run();

    let letters = reader(&mut world, "letters", "$dlq/jobs");
    assert_eq!(world.drain(letters), ["2"]);
}

#[test]
fn a_letter_that_is_on_its_way_elsewhere_is_not_overtaken_by_what_drops_the_oldest() {
    // What was dropped took the entries before it along, or those behind it, whose letters were not stored yet and got lost with the process.
    for (target, with_expired) in
        ["failed", "morgue", "x", "y", "z"].into_iter().flat_map(|it| [(it, true), (it, false)])
    {
        let with_overflow = !with_expired;
        let letters = if with_overflow { 2 } else { 1 };
        for slow in (1..=4).map(PartitionId) {
            let mut world = World::new(4);
            let target_of = DeadLetterTarget::Queue(name(target));
            let dead_letters = DeadLetters { target: target_of, with_expired, with_overflow };
            let limits = QueueLimits { messages_max: Some(2), ..QueueLimits::default() };
            let ttl_ms = Some(10_000);
            let settings =
                QueueSettings { limits, dead_letters, ttl_ms, ..QueueSettings::default() };
            world.declare(target, QueueSettings::default());
            world.declare("jobs", settings);
            fill(&mut world, "jobs", 0..1);
            world.pass(9_950);
            fill(&mut world, "jobs", 1..5);

            world.slow = Some(slow);
            world.pass(100);
            let mut world = world.crash(5);
            (0..4).for_each(|_| world.pass(100));

            // They may come twice after a crash.
            assert!(world.stats(target).messages >= letters, "{target}, {slow:?}");
            assert_eq!(world.stats("jobs").messages, 2, "{target}, {slow:?}");
        }
    }
}

/// A letter is longer than the entry it is of: counted as that, the queue was taken for shorter than it is (seed 1795363795356).
#[test]
fn bytes_are_bounded_also_where_letters_go_elsewhere() {
    for target in ["failed", "morgue", "x", "y", "z"] {
        let mut world = World::new(4);
        let target_of = DeadLetterTarget::Queue(name(target));
        let dead_letters =
            DeadLetters { target: target_of, with_expired: false, with_overflow: true };
        let limits = QueueLimits { bytes_max: Some(3_000), ..QueueLimits::default() };
        world.declare("jobs", QueueSettings { limits, dead_letters, ..QueueSettings::default() });
        let (publisher, _) = world.open("publisher", true, 0);
        for _ in 0..40 {
            world.publish(publisher, message("$queue/jobs", "x".repeat(89), ONCE), None);
        }
        (0..3).for_each(|_| world.pass(100));

        let stats = world.stats("jobs");
        assert_eq!((stats.messages, stats.bytes), (30, 3_000), "{target}");
        assert_eq!(world.stats(target).messages, 10, "{target}");
    }
}

#[test]
fn letters_are_published_again_where_they_died_each_once() {
    for target in [None, Some("failed"), Some("x"), Some("morgue")] {
        let mut world = World::new(4);
        let dead_letters = DeadLetters {
            target: target.map_or(DeadLetterTarget::Own, |it| DeadLetterTarget::Queue(name(it))),
            ..DeadLetters::default()
        };
        world.declare("jobs", QueueSettings { dead_letters, ..QueueSettings::default() });
        fill(&mut world, "jobs", 0..6);
        let workers = reader(&mut world, "workers", "jobs");
        world.deliveries(workers);
        for entry in 0..6 {
            assert_eq!(reject(&mut world, workers, "workers", entry), Some(Ok(true)));
        }
        let graveyard = target.unwrap_or("$dlq/jobs");
        let filter =
            Filter::new(Bytes::from(format!("{}/odd", name(graveyard).address()))).unwrap();

        let action = QueueAction::Redrive { filter: filter.clone(), count_max: 100 };
        assert_eq!(world.manage(graveyard, action.clone()), Ok(QueueAnswer::Done { count: 3 }));
        world.run();
        assert_eq!(world.manage(graveyard, action), Ok(QueueAnswer::Done { count: 0 }));

        assert_eq!(world.stats(graveyard).messages, 3, "the others stay");
        let mut world = world.crash(4);
        let workers = reader(&mut world, "workers", "jobs");
        let again = world.deliveries(workers);
        assert_eq!(again.iter().map(text).collect::<Vec<_>>(), ["1", "3", "5"]);
        assert_eq!(again[0].message.topic.as_str(), "$queue/jobs/odd");
        // It dies again, and its letter counts on.
        world.settle(workers, again[0].id, Outcome::Rejected);
        world.pass(100);
        let letters = reader(&mut world, "letters", graveyard);
        let deaths: Vec<_> = world.deliveries(letters).iter().map(death).collect();
        assert_eq!(deaths[3], died("jobs", "rejected", 2, Some("workers")));
        assert_eq!(deaths.len(), 4);
    }
}

#[test]
fn letters_of_bound_messages_keep_their_topic_and_reach_no_subscriber_of_it() {
    with_one_and_four(|mut world| {
        let filter = Filter::new(Bytes::from("site/#")).unwrap();
        world.declare("jobs", QueueSettings { bindings: vec![filter], ..QueueSettings::default() });
        let (wild, _) = world.open("wild", true, 0);
        world.subscribe(wild, "#", |_| {}).unwrap();
        let (publisher, _) = world.open("publisher", true, 0);
        for number in 0..4 {
            world.publish(publisher, message(&format!("site/{number}"), "x", ONCE), None);
        }
        assert_eq!(world.drain(wild).len(), 4);
        let workers = reader(&mut world, "workers", "jobs");
        for delivery in world.deliveries(workers) {
            world.settle(workers, delivery.id, Outcome::Rejected);
        }

        let letters = reader(&mut world, "letters", "$dlq/jobs");
        let mut topics: Vec<String> =
            world.deliveries(letters).iter().map(|it| it.message.topic.to_string()).collect();
        topics.sort_unstable();
        assert_eq!(
            topics,
            ["$dlq/jobs/site/0", "$dlq/jobs/site/1", "$dlq/jobs/site/2", "$dlq/jobs/site/3"]
        );
        let filter = Filter::new(Bytes::from("$dlq/jobs/#")).unwrap();
        let action = QueueAction::Redrive { filter, count_max: 100 };
        assert_eq!(world.manage("$dlq/jobs", action), Ok(QueueAnswer::Done { count: 4 }));
        let again: Vec<_> = world.deliveries(workers);
        assert!(again.iter().all(|it| it.message.topic.as_str().starts_with("$queue/jobs/site/")));
        assert_eq!(again.len(), 4);
        assert!(world.deliveries(wild).is_empty(), "nobody sees it twice");
    });
}

#[test]
fn a_queue_without_dead_letters_finishes_what_is_rejected() {
    with_one_and_four(|mut world| {
        let dead_letters =
            DeadLetters { target: DeadLetterTarget::Nowhere, ..DeadLetters::default() };
        world.declare("jobs", QueueSettings { dead_letters, ..QueueSettings::default() });
        fill(&mut world, "jobs", 0..1);
        let workers = reader(&mut world, "workers", "jobs");
        world.deliveries(workers);

        assert_eq!(reject(&mut world, workers, "workers", 0), Some(Ok(true)));
        assert_eq!(world.stats("jobs").groups[0].lag, 0);
        assert!(world.manage("$dlq/jobs", QueueAction::Stats).is_err());
        let settings = QueueSettings::of_dead_letters();
        let declared = world.manage("$dlq/jobs", QueueAction::Declare(Arc::new(settings)));
        assert_eq!(declared, Ok(DECLARED));
    });
}
