//! Publishes that are stored together or not at all.

use bytes::Bytes;
use fluxmq::model::queue::{Overflow, QueueKind, QueueLimits};
use fluxmq::model::{
    Command, Effect, Message, Properties, Property, QoS, QueueSettings, Refusal, Token,
};
use fluxmq::partition::request::{ConnectionId, QueueAction};
use std::sync::Arc;

use crate::wire::Dice;
use crate::world::{World, message};

const ONCE: QoS = QoS::AtLeastOnce;

fn with_one_and_four(test: impl Fn(World)) {
    test(World::new(1));
    test(World::new(4));
}

fn part(topic: &str, payload: &str, said: &[(&str, &str)]) -> Message {
    let user = |(key, value): &(&str, &str)| {
        Property::User(Bytes::from((*key).to_owned()), Bytes::from((*value).to_owned()))
    };
    let properties = Properties::encode(&said.iter().map(user).collect::<Vec<_>>());
    Message { properties, ..message(topic, payload, ONCE) }
}

fn say(world: &mut World, by: ConnectionId, number: u64, message: Message) {
    let (token, message) = (Token(500_000 + number), Arc::new(message));
    world.say(by, Command::Publish { token, message, packet_id: None });
}

/// The answers that have come, by number.
fn answers(world: &mut World, by: ConnectionId) -> Vec<(u64, Result<bool, Refusal>)> {
    world.run();
    let taken = world.take_effects(by);
    let confirms = taken.into_iter().filter_map(|effect| match effect {
        Effect::Confirm { token, result } => Some((token.0 - 500_000, result)),
        _ => None,
    });
    confirms.collect()
}

fn is_there(world: &mut World, queue: &str) -> bool {
    world.manage(queue, QueueAction::Stats).is_ok()
}

#[test]
fn all_are_stored_when_the_last_one_has_come_and_none_before() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        let said = [("tx", "t1")];
        say(&mut world, publisher, 1, part("$queue/{o}.in", "1", &said));
        say(&mut world, publisher, 2, part("$queue/{o}.out/key", "2", &said));
        assert_eq!(answers(&mut world, publisher), []);
        assert!(!is_there(&mut world, "{o}.in"));
        let aside = world.publish(publisher, message("$queue/{o}.in", "aside", ONCE), None);
        assert_eq!(aside, Some(Ok(true)), "others go on");

        let end = [("tx", "t1"), ("tx-end", "3")];
        say(&mut world, publisher, 3, part("$queue/{o}.in", "3", &end));

        assert_eq!(answers(&mut world, publisher), [(1, Ok(true)), (2, Ok(true)), (3, Ok(true))]);
        let world = world.crash(1);
        assert_eq!(world.stored("$queue/{o}.in"), ["aside", "1", "3"]);
        assert_eq!(world.stored("$queue/{o}.out/key"), ["2"]);
    });
}

#[test]
fn one_that_is_refused_takes_all_with_it() {
    let small = QueueLimits {
        messages_max: Some(1),
        overflow: Overflow::RejectPublish,
        ..QueueLimits::default()
    };
    let kind = QueueKind::Ephemeral;
    let cases: [(&str, Message, &str); 7] = [
        ("full", part("$queue/{o}.full", "x", &[("tx", "t"), ("tx-end", "4")]), "length"),
        ("ephemeral", part("$queue/{o}.now", "x", &[("tx", "t"), ("tx-end", "4")]), "ephemeral"),
        ("a topic", part("o", "x", &[("tx", "t"), ("tx-end", "4")]), "to queues"),
        (
            "a wrong count",
            part("$queue/{o}.a", "x", &[("tx", "t"), ("tx-end", "9")]),
            "9 messages, and 4",
        ),
        ("no count", part("$queue/{o}.a", "x", &[("tx", "t"), ("tx-end", "all")]), "'tx-end'"),
        (
            "a bad name",
            part("$queue/{o}.a", "x", &[("tx", "t"), ("tx-end", "4"), ("dedup-id", "")]),
            "dedup-id",
        ),
        (
            "a verb",
            part("$queue/{o}.a/$ack/b", "x", &[("tx", "t"), ("tx-end", "4")]),
            "'$ack' must be the last",
        ),
    ];
    for (case, last, expected) in cases {
        let mut world = World::new(4);
        let limits = small.clone();
        world.declare("{o}.full", QueueSettings { limits, ..QueueSettings::default() });
        world.declare("{o}.now", QueueSettings { kind, ..QueueSettings::default() });
        let (publisher, _) = world.open("publisher", true, 0);
        let said = [("tx", "t")];
        say(&mut world, publisher, 1, part("$queue/{o}.a", "1", &said));
        say(&mut world, publisher, 2, part("$queue/{o}.b", "2", &said));
        say(&mut world, publisher, 3, part("$queue/{o}.full", "3", &said));
        say(&mut world, publisher, 4, last);

        let answers = answers(&mut world, publisher);
        let refused = answers.iter().find(|(number, _)| *number == 4).expect("answered");
        let said = refused.1.clone().expect_err(case).to_string();
        assert!(said.contains(expected), "{case}: {said}");
        if case != "no count" {
            assert_eq!(answers.len(), 4, "{case}");
            assert!(answers.iter().all(|(_, result)| result.is_err()), "{case}");
        }
        assert!(!is_there(&mut world, "{o}.a") && !is_there(&mut world, "{o}.b"), "{case}");
        assert_eq!(world.stats("{o}.full").end.0, 0, "{case}");
    }
}

#[test]
fn queues_of_different_partitions_are_refused_with_both_their_names() {
    let mut world = World::new(4);
    let (publisher, _) = world.open("publisher", true, 0);
    let mut numbers = 0;
    let mut refused = 0;
    for other in 0..8 {
        let (first, second) = ("$queue/a".to_owned(), format!("$queue/b{other}"));
        say(&mut world, publisher, numbers, part(&first, "1", &[("tx", "t")]));
        let end = [("tx", "t"), ("tx-end", "2")];
        say(&mut world, publisher, numbers + 1, part(&second, "2", &end));
        numbers += 2;
        let answers = answers(&mut world, publisher);
        assert_eq!(answers.len(), 2);
        if let Err(refusal) = &answers[1].1 {
            refused += 1;
            let said = refusal.to_string();
            assert!(said.contains("'a'") && said.contains(&format!("'b{other}'")), "{said}");
            assert_eq!(answers[0].1, answers[1].1);
            assert!(!is_there(&mut world, &format!("b{other}")));
        }
    }
    assert!((1..8).contains(&refused), "{refused} of 8: four partitions");
}

#[test]
fn what_comes_after_a_refusal_is_refused_up_to_the_end() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        say(&mut world, publisher, 1, part("$queue/a", "1", &[("tx", "t")]));
        say(&mut world, publisher, 2, part("topic", "2", &[("tx", "t")]));
        say(&mut world, publisher, 3, part("$queue/a", "3", &[("tx", "t")]));
        say(&mut world, publisher, 4, part("$queue/a", "4", &[("tx", "t"), ("tx-end", "4")]));
        let all = answers(&mut world, publisher);
        assert_eq!(all.iter().filter(|(_, result)| result.is_err()).count(), 4);
        assert!(world.stored("$queue/a").is_empty());

        say(&mut world, publisher, 5, part("$queue/a", "5", &[("tx", "t"), ("tx-end", "1")]));
        assert_eq!(answers(&mut world, publisher), [(5, Ok(true))], "the name is free again");
    });
}

/// Cut off anywhere, by the power too: all of a transaction or nothing, and sent again with names it is there once.
#[test]
fn a_crash_leaves_all_of_it_or_nothing() {
    for seed in 0..16 {
        let mut dice = Dice::new(seed);
        let mut world = World::new(1 + (seed % 2) as u16 * 3);
        for round in 0..6u64 {
            let count = 2 + dice.roll(20);
            let send = |world: &mut World, by| {
                for number in 0..count {
                    let (payload, name) =
                        (format!("{round}.{number}"), format!("{round}.{number}"));
                    let (tx, end) = (round.to_string(), count.to_string());
                    let mut said = vec![("tx", tx.as_str()), ("dedup-id", name.as_str())];
                    if number + 1 == count {
                        said.push(("tx-end", end.as_str()));
                    }
                    let topic = format!("$queue/{{t}}.{}", number % 3);
                    say(world, by, round * 100 + number as u64, part(&topic, &payload, &said));
                }
            };
            let (publisher, _) = world.open("publisher", true, 0);
            send(&mut world, publisher);
            for _ in 0..dice.roll(5) {
                world.turn(dice.roll(3) > 0);
            }
            world = world.crash(seed * 100 + round);
            let stored = |world: &World| -> Vec<String> {
                let queues =
                    (0..3).flat_map(|queue| world.stored(&format!("$queue/{{t}}.{queue}")));
                queues.filter(|payload| payload.starts_with(&format!("{round}."))).collect()
            };
            let before = stored(&world).len();
            assert!(before == 0 || before == count, "seed {seed}: {before} of {count}");

            let (publisher, _) = world.open("publisher", true, 0);
            send(&mut world, publisher);
            let answers = answers(&mut world, publisher);
            assert_eq!(answers.iter().filter(|(_, it)| *it == Ok(true)).count(), count);
            assert_eq!(stored(&world).len(), count, "seed {seed}");
        }
    }
}
