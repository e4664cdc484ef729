//! Publishes that are stored together or not at all.

use bytes::Bytes;
use fluxmq::model::queue::{Overflow, QueueKind, QueueLimits};
use fluxmq::model::{
    Command, Commit, Consume, Credit, DeliveryId, Effect, Message, Outcome, Properties, Property,
    QoS, QueueName, QueueSettings, Refusal, Route, Token,
};
use fluxmq::partition::request::{ConnectionId, QueueAction};
use std::sync::Arc;

use crate::wire::Dice;
use crate::world::{World, message, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;

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

fn name(text: &str) -> QueueName {
    QueueName::from_text(Bytes::from(text.to_owned())).unwrap()
}

/// A consumer of `{t}.in` as number 1, and what it is delivered.
fn consume(world: &mut World, by: ConnectionId) -> Vec<(DeliveryId, String)> {
    let consume = Consume {
        token: Token(1),
        consumer: 1,
        queue: name("{t}.in"),
        group: name("default"),
        own: None,
        credit: Credit::Window(u32::MAX),
        is_exclusive: false,
        position: None,
    };
    world.say(by, Command::Consume(Box::new(consume)));
    world.run();
    let effects = world.take_effects(by).into_iter();
    let delivered = effects.filter_map(|effect| match effect {
        Effect::Deliver(it) => {
            Some((it.id, String::from_utf8(it.message.payload.to_vec()).unwrap()))
        }
        _ => None,
    });
    delivered.collect()
}

/// Work that goes from queue to queue: taken from one and put into the other at once, wherever it is cut off, by the power too. What the
/// client was told is committed stays so.
#[test]
fn a_crash_leaves_what_moves_in_one_of_both_queues() {
    const COUNT: usize = 24;
    for seed in 0..16 {
        let mut dice = Dice::new(seed);
        let mut world = World::new(1 + (seed % 2) as u16 * 3);
        world.declare("{t}.in", QueueSettings::default());
        world.declare("{t}.out", QueueSettings::default());
        let (publisher, _) = world.open("publisher", true, 0);
        for number in 0..COUNT {
            world.publish(publisher, message("$queue/{t}.in", number.to_string(), ONCE), None);
        }
        let mut committed: Vec<String> = Vec::new();
        for round in 0..5u64 {
            let (mover, _) = world.open("mover", true, 0);
            let mut here = consume(&mut world, mover).into_iter().peekable();
            let mut sent: Vec<Vec<String>> = Vec::new();
            while here.peek().is_some() && dice.roll(5) > 0 {
                let some: Vec<_> = here.by_ref().take(1 + dice.roll(4)).collect();
                let token = Token(900 + sent.len() as u64);
                let route = |(_, payload): &(DeliveryId, String)| Route {
                    token: Token(0),
                    exchange: Bytes::new(),
                    routing_key: Bytes::from_static(b"{t}.out"),
                    more_keys: Vec::new(),
                    headers: Bytes::new(),
                    message: message("any", payload, ONCE),
                };
                let publishes = some.iter().map(route).collect();
                let settled = some.iter().map(|(id, _)| (*id, Outcome::Accepted)).collect();
                let commit = Commit { token, publishes, settled };
                world.say(mover, Command::Commit(Box::new(commit)));
                sent.push(some.into_iter().map(|(_, payload)| payload).collect());
                for _ in 0..dice.roll(4) {
                    world.turn(dice.roll(3) > 0);
                }
            }
            for effect in world.take_effects(mover) {
                if let Effect::Committed { token, result } = effect {
                    assert_eq!(result, Ok(vec![]), "seed {seed}");
                    committed.extend(sent[token.0 as usize - 900].iter().cloned());
                }
            }
            world = world.crash(seed * 100 + round);
            let moved = world.stored("$queue/{t}.out");
            let (checker, _) = world.open("checker", true, 0);
            let left = consume(&mut world, checker).into_iter().map(|(_, payload)| payload);
            let mut all: Vec<usize> =
                left.chain(moved.iter().cloned()).map(|it| it.parse().unwrap()).collect();
            all.sort_unstable();
            assert_eq!(all, (0..COUNT).collect::<Vec<_>>(), "seed {seed}, round {round}");
            assert!(committed.iter().all(|it| moved.contains(it)), "seed {seed}, round {round}");
            world = world.crash(seed * 100 + round + 50);
        }
    }
}
