//! How much a queue keeps: by number, bytes and age, and what counts.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq::model::queue::{Overflow, QueueLimits};
use fluxmq::model::{
    Command, Credit, DeliveryId, Effect, Filter, Outcome, QoS, QueueSettings, Refusal, Token,
};
use fluxmq::partition::request::{ConnectionId, Position, QueueAction};
use fluxmq_index::Offset;

use crate::consumers::{consume, name};
use crate::world::{World, message, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;

/// A queue of so many bytes, and who publishes to it.
fn bounded(world: &mut World, bytes_max: u64, overflow: Overflow) -> ConnectionId {
    let limits = QueueLimits { bytes_max: Some(bytes_max), overflow, ..QueueLimits::default() };
    world.declare("jobs", QueueSettings { limits, ..QueueSettings::default() });
    world.open("publisher", true, 0).0
}

/// Publishes a message that takes so many bytes; false where it is refused.
fn publish(world: &mut World, by: ConnectionId, bytes: usize) -> bool {
    let message = message("$queue/jobs", "x".repeat(bytes - 11), ONCE);
    match world.publish(by, message, None).expect("answered") {
        Ok(_) => true,
        Err(Refusal::Quota { .. }) => false,
        Err(other) => panic!("{other:?}"),
    }
}

/// A queue that refuses from 5,000 bytes on, with one message of so many, which a worker has; who publishes, the worker, and what it has.
fn with_one_out(world: &mut World, bytes: usize) -> (ConnectionId, ConnectionId, DeliveryId) {
    let publisher = bounded(world, 5_000, Overflow::RejectPublish);
    assert!(publish(world, publisher, bytes));
    let (worker, _) = world.open("worker", true, 0);
    consume(world, worker, (1, "jobs"), Credit::Granted(1)).expect("consumes");
    let out = world.deliveries(worker).remove(0);
    (publisher, worker, out.id)
}

fn kept(world: &mut World) -> (u64, u64) {
    let stats = world.stats("jobs");
    (stats.messages, stats.bytes)
}

/// By a share of all bytes, 30 small ones that wait behind a long one that is out were too much (seed 1795375700252).
#[test]
fn bytes_that_are_out_make_no_queue_too_long() {
    for overflow in [Overflow::DropHead, Overflow::RejectPublish] {
        with_one_and_four(|mut world| {
            let publisher = bounded(&mut world, 5_000, overflow);
            assert!(publish(&mut world, publisher, 4_000));
            (0..10).for_each(|_| assert!(publish(&mut world, publisher, 100)));
            let (worker, _) = world.open("worker", true, 0);
            consume(&mut world, worker, (1, "jobs"), Credit::Granted(1)).expect("consumes");
            assert_eq!(world.deliveries(worker).len(), 1);

            (0..40).for_each(|_| assert!(publish(&mut world, publisher, 100)));
            (0..3).for_each(|_| world.pass(100));
            assert_eq!(kept(&mut world), (51, 9_000), "5,000 wait");

            let is_taken = publish(&mut world, publisher, 100);
            (0..3).for_each(|_| world.pass(100));
            assert_eq!(is_taken, overflow == Overflow::DropHead);
            assert_eq!(kept(&mut world).0, 51 - u64::from(is_taken), "the oldest");
        });
    }
}

#[test]
fn what_comes_back_waits() {
    with_one_and_four(|mut world| {
        let (publisher, worker, out) = with_one_out(&mut world, 4_000);
        (0..45).for_each(|_| assert!(publish(&mut world, publisher, 100)));

        world.settle(worker, out, Outcome::Released);
        world.pass(100);

        assert!(!publish(&mut world, publisher, 100), "8,500 wait");
        world.manage("jobs", QueueAction::Purge).unwrap();
        assert!(publish(&mut world, publisher, 5_000));
    });
}

/// It was taken for settled until it was settled again.
#[test]
fn what_a_member_settles_while_a_seek_is_on_its_way_waits_again() {
    with_one_and_four(|mut world| {
        let (publisher, worker, out) = with_one_out(&mut world, 4_000);

        world.stalled = Some(world.placement.queue(&name("jobs")));
        let seek = QueueAction::Seek { group: name("default"), to: Position::Earliest };
        let sought = world.begin_to_manage("jobs", seek);
        world.settle(worker, out, Outcome::Accepted);
        assert_eq!(world.managed(sought), None, "it is being flushed");
        world.stalled = None;
        world.run();
        assert!(matches!(world.managed(sought), Some(Ok(_))));

        let group = &world.stats("jobs").groups[0];
        assert_eq!((group.committed, group.pending), (Offset(0), 0), "it waits");
        assert!(publish(&mut world, publisher, 1_000));
        world.pass(100);
        assert!(!publish(&mut world, publisher, 11), "5,000 wait");
    });
}

/// What is out stays with its own bytes, which were a share of those that went.
#[test]
fn a_purge_leaves_what_is_out_as_long_as_it_is() {
    for (out_bytes, others) in [(4_000, 11), (11, 500)] {
        with_one_and_four(|mut world| {
            let (publisher, ..) = with_one_out(&mut world, out_bytes);
            (0..9).for_each(|_| assert!(publish(&mut world, publisher, others)));

            world.manage("jobs", QueueAction::Purge).unwrap();

            assert_eq!(kept(&mut world), (1, out_bytes as u64));
            (0..50).for_each(|_| assert!(publish(&mut world, publisher, 100)));
            world.pass(100);
            assert!(!publish(&mut world, publisher, 11), "5,000 wait");
            let mut world = world.crash(1);
            assert_eq!(kept(&mut world), (51, out_bytes as u64 + 5_000));
        });
    }
}

/// Also where only some between two marks is finished, and a replica that begins has read none of it.
#[test]
fn bytes_that_are_finished_make_no_queue_too_long() {
    with_one_and_four(|mut world| {
        let publisher = bounded(&mut world, 30_000, Overflow::RejectPublish);
        for number in 0..200 {
            assert!(publish(&mut world, publisher, if number % 2 == 0 { 200 } else { 100 }));
        }
        let (worker, _) = world.open("worker", true, 0);
        consume(&mut world, worker, (1, "jobs"), Credit::Granted(180)).expect("consumes");
        let mut out = Vec::new();
        while out.len() < 180 {
            let more = world.deliveries(worker);
            assert!(!more.is_empty(), "{} came", out.len());
            world.command(worker, Command::Sent { consumer: 1, count: more.len() as u32 });
            out.extend(more);
        }
        // All between two marks but the first, and every second long one behind it: 127 and 13, of 19,000 and 2,600 bytes.
        let settled =
            |number: &usize| (1..128).contains(number) || number.is_multiple_of(4) && *number > 0;
        let settled: Vec<usize> = (0..180).filter(settled).collect();
        assert_eq!(settled.len(), 140);
        for number in settled {
            world.settle(worker, out[number].id, Outcome::Accepted);
        }
        let mut world = world.crash(1);
        let publisher = world.open("publisher", true, 0).0;

        for _ in 0..108 {
            assert!(publish(&mut world, publisher, 200), "8,400 wait, and 21,600 do not");
        }
        assert!(!publish(&mut world, publisher, 11));
    });
}

#[test]
fn bytes_and_age_are_bounded_too() {
    with_one_and_four(|mut world| {
        let limits = QueueLimits {
            bytes_max: Some(10_000),
            age_max_ms: Some(60_000),
            ..QueueLimits::default()
        };
        world.declare("jobs", QueueSettings { limits, ..QueueSettings::default() });
        let (publisher, _) = world.open("publisher", true, 0);
        for _ in 0..20 {
            let big = message("$queue/jobs", "x".repeat(989), ONCE);
            world.publish(publisher, big, None);
        }

        world.pass(100);
        let stats = world.stats("jobs");
        assert_eq!((stats.messages, stats.bytes), (10, 10_000));
        world.pass(59_000);
        assert_eq!(world.stats("jobs").messages, 10);
        world.pass(1_000);
        let stats = world.stats("jobs");
        assert_eq!((stats.messages, stats.bytes), (0, 0));
    });
}

/// Taken for a share of all bytes, what waits was too much: the long one that goes first, as nobody wants it any more, was more than its share.
#[test]
fn nothing_that_waits_gives_way_where_what_is_finished_makes_room() {
    with_one_and_four(|mut world| {
        let publisher = bounded(&mut world, 2_500, Overflow::DropHead);
        assert!(publish(&mut world, publisher, 1_000));
        let (worker, _) = world.open("worker", true, 0);
        consume(&mut world, worker, (1, "jobs"), Credit::Granted(1)).expect("consumes");
        let first = world.deliveries(worker).remove(0);
        world.settle(worker, first.id, Outcome::Accepted);
        world.close(worker, false);
        (0..45).for_each(|_| assert!(publish(&mut world, publisher, 40)));

        (0..3).for_each(|_| world.pass(100));

        assert_eq!(kept(&mut world), (45, 1_800));
    });
}

#[test]
fn a_full_queue_that_rejects_refuses_publishers_and_bound_topics_until_there_is_room() {
    with_one_and_four(|mut world| {
        let limits = QueueLimits {
            messages_max: Some(10),
            overflow: Overflow::RejectPublish,
            ..QueueLimits::default()
        };
        let filter = Filter::new(Bytes::from("site/#")).unwrap();
        let settings = QueueSettings { limits, bindings: vec![filter], ..QueueSettings::default() };
        world.declare("jobs", settings);
        let (publisher, _) = world.open("publisher", true, 0);
        // Told at once: what is on its way counts.
        for number in 0..15u64 {
            let message = Arc::new(message("$queue/jobs", number.to_string(), ONCE));
            world.say(
                publisher,
                Command::Publish { token: Token(number), message, packet_id: None },
            );
        }
        world.run();
        let mut answers = Vec::new();
        while let Some(result) = world.take(publisher, |effect| match effect {
            Effect::Confirm { result, .. } => Some(result.clone()),
            _ => None,
        }) {
            answers.push(result);
        }
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 10);
        assert!(
            answers
                .iter()
                .flat_map(|it| it.as_ref().err())
                .all(|it| matches!(it, Refusal::Quota { .. }))
        );
        let refused = world.publish(publisher, message("site/1", "x", ONCE), None);
        assert!(matches!(refused, Some(Err(Refusal::Quota { .. }))), "{refused:?}");

        world.manage("jobs", QueueAction::Purge).unwrap();
        assert_eq!(world.publish(publisher, message("site/1", "x", ONCE), None), Some(Ok(true)));
        assert_eq!(world.stats("jobs").messages, 1);
    });
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_full_queue_that_takes_more_is_caught() {
    let bug = fluxmq::planted::PlantedBug::FullTakesMore;
    let test = a_full_queue_that_rejects_refuses_publishers_and_bound_topics_until_there_is_room;
    assert!(crate::world::catches(bug, test));
}
