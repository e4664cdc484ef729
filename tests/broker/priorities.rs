//! Queues with priorities: the highest first, equals in order, and the laws of groups as everywhere.

use bytes::Bytes;
use fluxmq::model::{Outcome, Properties, Property, QoS, QueueSettings};
use fluxmq::partition::request::{ConnectionId, Position, QueueAction};
use fluxmq_index::Offset;

use crate::wire::Dice;
use crate::world::{World, message, text, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;

fn declared(mut world: World, priority_max: u8) -> World {
    // Members leave often here, and each time counts as a delivery.
    let settings = QueueSettings { priority_max, deliveries_max: 0, ..QueueSettings::default() };
    world.declare("jobs", settings);
    world
}

/// Publishes `priority` as the payload, with a number behind it that ascends.
fn publish(world: &mut World, publisher: ConnectionId, priority: &str, number: usize) {
    let mut message = message("$queue/jobs", format!("{priority}.{number}"), ONCE);
    if !priority.is_empty() {
        let said = Property::User(Bytes::from("x-priority"), Bytes::from(priority.to_owned()));
        message.properties = Properties::encode([&said]);
    }
    assert_eq!(world.publish(publisher, message, None), Some(Ok(true)));
}

fn fill(world: &mut World, priorities: &[&str]) {
    let (publisher, _) = world.open("publisher", true, 0);
    for (number, priority) in priorities.iter().enumerate() {
        publish(world, publisher, priority, number);
    }
}

fn join(world: &mut World, client: &str) -> ConnectionId {
    let (member, _) = world.open(client, true, 0);
    world.subscribe(member, "$share/workers/$queue/jobs", |_| {}).expect("joins");
    member
}

fn payloads(world: &mut World, member: ConnectionId) -> Vec<String> {
    world.deliveries(member).iter().map(text).collect()
}

#[test]
fn the_highest_priority_comes_first_and_equals_in_their_order() {
    with_one_and_four(|world| {
        let mut world = declared(world, 9);
        fill(&mut world, &["", "3", "9", "3", "0", "9", "5"]);
        let member = join(&mut world, "member");

        let expected = ["9.2", "9.5", "5.6", "3.1", "3.3", ".0", "0.4"];
        assert_eq!(payloads(&mut world, member), expected);
        assert_eq!(world.stats("jobs").groups[0].committed, Offset(0));
    });
}

#[test]
fn a_priority_above_the_queues_counts_as_its_highest_and_no_number_as_none() {
    with_one_and_four(|world| {
        let mut world = declared(world, 2);
        fill(&mut world, &["1", "200", "2", "high", "-1", "99999999999999999999999"]);
        let member = join(&mut world, "member");

        assert_eq!(payloads(&mut world, member)[..4], ["200.1", "2.2", "1.0", "high.3"]);
    });
}

#[test]
fn a_queue_without_priorities_keeps_its_order() {
    with_one_and_four(|mut world| {
        fill(&mut world, &["1", "9", "5"]);
        let member = join(&mut world, "member");
        assert_eq!(payloads(&mut world, member), ["1.0", "9.1", "5.2"]);
    });
}

#[test]
fn what_comes_later_and_is_higher_passes_a_backlog() {
    with_one_and_four(|world| {
        let mut world = declared(world, 9);
        let low: Vec<&str> = std::iter::repeat_n("1", 400).collect();
        fill(&mut world, &low);
        let member = join(&mut world, "member");
        let out = world.deliveries(member);
        assert!((20..200).contains(&out.len()), "as much as a member has room for");
        let (publisher, _) = world.open("urgent", true, 0);
        publish(&mut world, publisher, "8", 1000);
        publish(&mut world, publisher, "9", 1001);

        world.settle(member, out[0].id, Outcome::Accepted);
        world.settle(member, out[1].id, Outcome::Accepted);

        let next = payloads(&mut world, member);
        let low = (out.len()..).map(|number| format!("1.{number}"));
        let expected = ["9.1001", "8.1000"].into_iter().map(str::to_owned).chain(low);
        assert_eq!(next, expected.take(next.len()).collect::<Vec<String>>());
        assert!(next.len() >= 2);
    });
}

#[test]
fn what_comes_back_keeps_its_priority_and_its_offset() {
    with_one_and_four(|world| {
        let mut world = declared(world, 9);
        fill(&mut world, &["1", "1", "3", "7"]);
        let member = join(&mut world, "member");
        let out = world.deliveries(member);
        assert_eq!((text(&out[0]).as_str(), out[0].id.offset), ("7.3", Offset(3)));

        world.settle(member, out[0].id, Outcome::Released);
        let again = world.deliveries(member).remove(0);
        assert_eq!((text(&again).as_str(), again.id.offset), ("7.3", Offset(3)));
        let later = Outcome::ReleasedAfter { delay_ms: 5_000 };
        world.settle(member, out[1].id, later);
        world.settle(member, again.id, later);
        assert!(world.deliveries(member).is_empty());

        // What they wait for is in the log, their priorities in their messages.
        let mut world = world.crash(3);
        let member = join(&mut world, "member");
        assert_eq!(payloads(&mut world, member), ["1.0", "1.1"]);
        world.pass(5_000);
        assert_eq!(payloads(&mut world, member), ["7.3", "3.2"]);
    });
}

#[test]
fn every_priority_comes_again_after_a_seek_and_nothing_that_was_purged() {
    with_one_and_four(|world| {
        let mut world = declared(world, 3);
        fill(&mut world, &["1", "3", "2"]);
        let member = join(&mut world, "member");
        assert_eq!(world.drain(member), ["3.1", "2.2", "1.0"]);
        assert_eq!(world.stats("jobs").groups[0].committed, Offset(3));

        let group = fluxmq::model::QueueName::new(Bytes::from("workers")).unwrap();
        let seek = QueueAction::Seek { group, to: Position::Earliest };
        world.manage("jobs", seek).expect("there is such a group");
        assert_eq!(world.drain(member), ["3.1", "2.2", "1.0"]);

        fill(&mut world, &["1", "2"]);
        world.drain(member);
        world.close(member, false);
        fill(&mut world, &["1", "3"]);
        world.manage("jobs", QueueAction::Purge).unwrap();
        fill(&mut world, &["2", "3"]);
        let member = join(&mut world, "member");
        assert_eq!(world.drain(member), ["3.1", "2.0"]);
    });
}

#[test]
fn bound_messages_and_redriven_letters_have_their_priorities_too() {
    with_one_and_four(|mut world| {
        let bindings = vec![fluxmq::model::Filter::new(Bytes::from("site/#")).unwrap()];
        world.declare(
            "jobs",
            QueueSettings { priority_max: 9, bindings, ..QueueSettings::default() },
        );
        let (publisher, _) = world.open("publisher", true, 0);
        for (number, priority) in ["2", "6", "4"].into_iter().enumerate() {
            let said = Property::User(Bytes::from("x-priority"), Bytes::from(priority));
            let mut bound = message(&format!("site/{number}"), priority, ONCE);
            bound.properties = Properties::encode([&said]);
            world.publish(publisher, bound, None);
        }
        let member = join(&mut world, "member");
        let out = world.deliveries(member);
        assert_eq!(out.iter().map(text).collect::<Vec<_>>(), ["6", "4", "2"]);

        for delivery in &out {
            world.settle(member, delivery.id, Outcome::Rejected);
        }
        let filter = fluxmq::model::Filter::new(Bytes::from("#")).unwrap();
        let filter = fluxmq::model::Filter::from_stored(
            [b"$dlq/jobs/", &filter.as_bytes()[..]].concat().into(),
        );
        world.close(member, false);
        world.manage("$dlq/jobs", QueueAction::Redrive { filter, count_max: 10 }).unwrap();
        let member = join(&mut world, "member");
        assert_eq!(payloads(&mut world, member), ["6", "4", "2"]);
    });
}

/// Whatever comes between: an entry is handed out only when no higher one that could be is left, equals in order, none is lost and none
/// is finished twice.
#[test]
fn at_every_step_the_next_entry_is_the_first_of_the_highest() {
    for seed in 0..12 {
        let mut dice = Dice::new(seed);
        let mut world = declared(World::new(1 + (seed % 2) as u16 * 3), 4);
        let (mut publisher, _) = world.open("publisher", true, 0);
        let mut member = join(&mut world, "member");
        let (mut waiting, mut published): (Vec<(u8, usize)>, usize) = (Vec::new(), 0);
        let mut done = 0;
        for step in 0..60 {
            match dice.roll(8) {
                0..4 => {
                    // Nobody listens while they come: what is next is then a choice of all.
                    world.close(member, false);
                    for _ in 0..=dice.roll(30) {
                        let priority = dice.roll(5) as u8;
                        publish(&mut world, publisher, &priority.to_string(), published);
                        waiting.push((priority, published));
                        published += 1;
                    }
                    member = join(&mut world, "member");
                }
                4 => {
                    world = world.crash(seed * 100 + step);
                    (publisher, _) = world.open("publisher", true, 0);
                    member = join(&mut world, "member");
                }
                _ => {
                    waiting
                        .sort_by_key(|(priority, number)| (std::cmp::Reverse(*priority), *number));
                    let expected: Vec<String> = waiting
                        .iter()
                        .map(|(priority, number)| format!("{priority}.{number}"))
                        .collect();
                    let out = world.deliveries(member);
                    let came: Vec<String> = out.iter().map(text).collect();
                    let room = came.len();
                    assert!(room == expected.len() || room >= 20, "seed {seed}, step {step}");
                    assert_eq!(came, expected[..room], "seed {seed}, step {step}");
                    let count = dice.roll(out.len() + 1);
                    for delivery in &out[..count] {
                        world.say(
                            member,
                            fluxmq::model::Command::Settle {
                                delivery: delivery.id,
                                outcome: Outcome::Accepted,
                            },
                        );
                    }
                    // The others go back with their member.
                    world.close(member, false);
                    waiting.drain(..count);
                    done += count;
                    member = join(&mut world, "member");
                }
            }
            let stats = world.stats("jobs");
            let first = waiting.iter().map(|(_, number)| *number).min().unwrap_or(published);
            assert_eq!(stats.groups[0].committed, Offset(first as u64), "seed {seed}, step {step}");
            assert_eq!(stats.groups[0].lag as usize, published - done, "seed {seed}, step {step}");
        }
    }
}
