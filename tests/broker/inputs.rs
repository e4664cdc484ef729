//! Publishes that name themselves: stored once, answered always, over connections, restarts and partitions.

use bytes::Bytes;
use fluxmq::model::{Filter, Message, Properties, Property, QoS, QueueSettings, Refusal};
use fluxmq::partition::request::ConnectionId;

use crate::wire::Dice;
use crate::world::{World, message, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;
const LEVELS: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];

fn named(topic: &str, payload: &str, said: &[(&str, &str)]) -> Message {
    let user = |(key, value): &(&str, &str)| {
        Property::User(Bytes::from((*key).to_owned()), Bytes::from((*value).to_owned()))
    };
    let properties = Properties::encode(&said.iter().map(user).collect::<Vec<_>>());
    Message { properties, ..message(topic, payload, ONCE) }
}

fn duplicates(world: &World) -> u64 {
    world.partitions.values().map(|partition| partition.counters().duplicates).sum()
}

fn counted(
    world: &mut World,
    by: ConnectionId,
    payload: &str,
    said: [&str; 3],
) -> Result<bool, Refusal> {
    let [id, epoch, seq] = said;
    let said = [("producer-id", id), ("producer-epoch", epoch), ("producer-seq", seq)];
    world.publish(by, named("$queue/jobs", payload, &said), None).expect("QoS 1 is answered")
}

#[test]
fn a_name_is_stored_once_over_connections_and_restarts() {
    with_one_and_four(|mut world| {
        for (number, qos) in LEVELS.into_iter().enumerate() {
            for address in ["site/1", "$queue/jobs/key"] {
                let name = format!("name-{number}");
                for attempt in 0..4u16 {
                    let (publisher, _) = world.open(&format!("c{attempt}"), true, 0);
                    let message = Message { qos, ..named(address, &name, &[("dedup-id", &name)]) };
                    let packet_id = (qos == QoS::ExactlyOnce).then_some(attempt + 1);
                    assert_eq!(world.publish(publisher, message, packet_id), Some(Ok(true)));
                    if attempt == 1 {
                        world.snapshot();
                    }
                    if attempt > 0 {
                        world = world.crash(u64::from(attempt));
                    }
                }
                let stored = world.stored(address);
                assert_eq!(stored.iter().filter(|it| **it == name).count(), 1, "{address} {name}");
            }
        }
    });
}

#[test]
fn two_addresses_two_users_and_two_windows_have_nothing_in_common() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        let publish = |world: &mut World, by, topic: &str| {
            world.publish(by, named(topic, topic, &[("dedup-id", "x")]), None).unwrap()
        };
        for topic in ["a", "b", "$queue/a", "$queue/a/b"] {
            assert_eq!(publish(&mut world, publisher, topic), Ok(true));
            assert_eq!(world.stored(topic).len(), 1);
        }
        world.rules("user alice\ntopic readwrite #\nuser bob\ntopic readwrite #\n");
        let alice = world.open_as("alice", "one", 0).unwrap();
        let bob = world.open_as("bob", "two", 0).unwrap();
        publish(&mut world, alice, "a").unwrap();
        publish(&mut world, bob, "a").unwrap();
        publish(&mut world, bob, "a").unwrap();
        assert_eq!(world.stored("a").len(), 3);
        assert_eq!(duplicates(&world), 1);

        world.pass(119_999);
        publish(&mut world, bob, "a").unwrap();
        assert_eq!(world.stored("a").len(), 3);
        world.pass(1);
        publish(&mut world, bob, "a").unwrap();
        assert_eq!(world.stored("a").len(), 4, "two minutes are over");
    });
}

#[test]
fn copies_for_bound_queues_are_judged_each_for_itself() {
    with_one_and_four(|mut world| {
        let bindings = || vec![Filter::new(Bytes::from("site/#")).unwrap()];
        for queue in ["one", "two", "three", "four", "five"] {
            world.declare(queue, QueueSettings { bindings: bindings(), ..Default::default() });
        }
        let (publisher, _) = world.open("publisher", true, 0);
        for _ in 0..3 {
            let confirmed =
                world.publish(publisher, named("site/1", "x", &[("dedup-id", "x")]), None);
            assert_eq!(confirmed, Some(Ok(true)));
        }

        assert_eq!(world.stored("site/1"), ["x"]);
        for queue in ["one", "two", "three", "four", "five"] {
            assert_eq!(world.stats(queue).messages, 1, "{queue}");
        }
    });
}

#[test]
fn a_producer_that_counts_is_remembered_and_a_later_one_ends_it() {
    with_one_and_four(|mut world| {
        let (one, _) = world.open("one", true, 0);
        for seq in ["1", "2", "2", "5", "1"] {
            assert_eq!(counted(&mut world, one, seq, ["p", "0", seq]), Ok(true));
        }
        assert_eq!(world.stored("$queue/jobs"), ["1", "2", "5"]);
        assert_eq!(duplicates(&world), 2);

        // Days later, and after a restart.
        world.pass(3 * 24 * 3600 * 1000);
        let mut world = world.crash(1);
        let (one, _) = world.open("one", true, 0);
        let (two, _) = world.open("two", true, 0);
        assert_eq!(counted(&mut world, one, "again", ["p", "0", "5"]), Ok(true));
        assert_eq!(counted(&mut world, one, "4", ["p", "0", "4"]), Ok(true), "a gap is filled");
        assert_eq!(counted(&mut world, two, "later", ["p", "1", "0"]), Ok(true));
        let refused = counted(&mut world, one, "6", ["p", "0", "6"]).unwrap_err().to_string();
        assert!(refused.contains("has begun epoch 1"), "{refused}");
        assert_eq!(counted(&mut world, one, "other", ["q", "0", "0"]), Ok(true));
        assert_eq!(world.stored("$queue/jobs"), ["1", "2", "5", "4", "later", "other"]);
    });
}

#[test]
fn an_old_number_that_nobody_can_judge_is_refused_and_not_dropped() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        for seq in (0..200).step_by(2) {
            let seq = seq.to_string();
            counted(&mut world, publisher, &seq, ["p", "0", &seq]).unwrap();
        }

        let refused = counted(&mut world, publisher, "1", ["p", "0", "1"]).unwrap_err();

        assert!(refused.to_string().contains("forgotten"), "{refused}");
        assert!(!world.stored("$queue/jobs").contains(&"1".to_owned()));
    });
}

#[test]
fn names_that_make_no_sense_are_refused_and_nothing_is_stored() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        let cases: [&[(&str, &str)]; 4] = [
            &[("dedup-id", "")],
            &[("producer-id", "p")],
            &[("producer-id", "p"), ("producer-seq", "one")],
            &[("producer-id", "p"), ("producer-seq", "1"), ("dedup-id", "x")],
        ];
        for said in cases {
            let refused = world.publish(publisher, named("$queue/jobs", "x", said), None);
            assert!(matches!(refused, Some(Err(Refusal::Input(_)))), "{refused:?}");
        }
        assert!(world.stored("$queue/jobs").is_empty());
    });
}

/// A producer that is cut off anywhere and sends everything again that it has no answer for.
#[test]
fn a_producer_that_is_cut_off_stores_everything_once_and_in_order() {
    for seed in 0..12 {
        let mut dice = Dice::new(seed);
        let mut world = World::new(1 + (seed % 2) as u16 * 3);
        let mut confirmed = 0;
        let total = 60;
        for step in 0.. {
            assert!(step < 200, "seed {seed}: it gets on");
            let (publisher, _) = world.open("producer", true, 0);
            let window = (confirmed..total.min(confirmed + 8)).collect::<Vec<usize>>();
            for number in &window {
                let (seq, name) = (number.to_string(), format!("n{number}"));
                let said: &[(&str, &str)] = match seed % 3 {
                    0 => &[("dedup-id", &name)],
                    _ => &[("producer-id", "p"), ("producer-seq", &seq)],
                };
                let command = fluxmq::model::Command::Publish {
                    token: fluxmq::model::Token(100_000 + *number as u64),
                    message: std::sync::Arc::new(named("$queue/jobs", &seq, said)),
                    packet_id: None,
                };
                world.say(publisher, command);
            }
            for _ in 0..dice.roll(5) {
                world.turn(dice.roll(3) > 0);
            }
            for number in window {
                let token = fluxmq::model::Token(100_000 + number as u64);
                let answer = world.take(publisher, |effect| match effect {
                    fluxmq::model::Effect::Confirm { token: of, result } if *of == token => {
                        Some(result.clone())
                    }
                    _ => None,
                });
                match answer {
                    Some(result) => assert_eq!(result, Ok(true), "seed {seed}"),
                    None => break,
                }
                confirmed = number + 1;
            }
            if confirmed == total {
                break;
            }
            match dice.roll(3) {
                0 => world = world.crash(seed * 1000 + step),
                1 => world.vanish(publisher),
                _ => world.close(publisher, false),
            }
        }
        world.run();
        let expected: Vec<String> = (0..total).map(|number| number.to_string()).collect();
        assert_eq!(world.stored("$queue/jobs"), expected, "seed {seed}");
    }
}
