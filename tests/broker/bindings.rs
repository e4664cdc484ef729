//! Declared queues and what they are bound to: declared once, captured everywhere, gone when deleted.

use bytes::Bytes;
use fluxmq::broker::Placement;
use fluxmq::model::queue::{DeadLetters, Overflow, QueueKind, QueueLimits};
use fluxmq::model::{
    Command, Effect, Filter, Outcome, PartitionId, QoS, QueueName, QueueSettings, Refusal, Token,
    Topic,
};
use fluxmq::partition::request::{Counts, Position, QueueAction, QueueAnswer};
use fluxmq_index::Offset;
use std::sync::Arc;

use crate::world::{World, message, text, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;
const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn bound_to(filters: &[&str]) -> QueueSettings {
    let filter = |text: &&str| Filter::new(Bytes::from((*text).to_owned())).unwrap();
    QueueSettings { bindings: filters.iter().map(filter).collect(), ..QueueSettings::default() }
}

/// Everything in a queue, as a new group reads it.
fn read(world: &mut World, reader: &str, queue: &str) -> Vec<String> {
    let (reader, _) = world.open(reader, true, 0);
    let filter = format!("$queue/{queue}/#");
    world.subscribe(reader, &filter, |s| s.position = Some(Bytes::from("earliest"))).unwrap();
    let mut all = world.drain(reader);
    all.sort_by_key(|text| text.parse::<u32>().unwrap_or(0));
    world.close(reader, false);
    all
}

#[test]
fn every_publish_that_matches_is_in_the_queue_whatever_its_qos_and_partition() {
    with_one_and_four(|mut world| {
        world.declare("all", bound_to(&["site/+/temp", "site/7/#"]));
        let (publisher, _) = world.open("publisher", false, 60);
        let mut expected = Vec::new();
        for number in 0..60u16 {
            let qos = LEVELS[usize::from(number) % 3];
            let topic = format!("site/{number}/{}", if number % 5 == 0 { "other" } else { "temp" });
            let packet_id = (qos == QoS::ExactlyOnce).then_some(number + 1);
            let confirmed =
                world.publish(publisher, message(&topic, number.to_string(), qos), packet_id);
            assert_eq!(confirmed, (qos != QoS::AtMostOnce).then_some(Ok(true)), "{topic}");
            if number % 5 != 0 {
                expected.push(number.to_string());
            }
        }

        assert_eq!(read(&mut world, "before", "all"), expected);
        let mut world = world.crash(5);
        assert_eq!(read(&mut world, "after", "all"), expected);
    });
}

#[test]
fn a_bound_message_says_where_it_was_published_and_its_topic_is_the_queues() {
    with_one_and_four(|mut world| {
        world.declare("all", bound_to(&["site/#"]));
        let (publisher, _) = world.open("publisher", true, 0);
        for topic in ["site/1", "site/2", "site/3", "site/4"] {
            world.publish(publisher, message(topic, topic, ONCE), None);
        }
        world.publish(publisher, message("$queue/all/own", "own", ONCE), None);
        let (reader, _) = world.open("reader", true, 0);
        world.subscribe(reader, "$queue/all", |_| {}).unwrap();

        let deliveries = world.deliveries(reader);

        assert_eq!(deliveries.len(), 5);
        for delivery in &deliveries {
            let source = delivery.annotation("x-source-topic");
            let (seen, topic) = (delivery.message.topic.as_str(), text(delivery));
            match source {
                None => assert_eq!((seen, topic.as_str()), ("$queue/all/own", "own")),
                Some(source) => {
                    assert_eq!(seen, format!("$queue/all/{source}"));
                    assert_eq!(source, topic);
                }
            }
        }
    });
}

#[test]
fn subscribers_of_the_topic_get_one_copy_and_queues_each_theirs() {
    with_one_and_four(|mut world| {
        for queue in ["one", "two", "three", "four"] {
            world.declare(queue, bound_to(&["site/#", "#"]));
        }
        let (wild, _) = world.open("wild", true, 0);
        world.subscribe(wild, "#", |_| {}).unwrap();
        let (away, _) = world.open("away", false, 600);
        world.subscribe(away, "site/+", |_| {}).unwrap();
        world.close(away, false);
        let (publisher, _) = world.open("publisher", true, 0);
        for (number, qos) in LEVELS.into_iter().enumerate() {
            world.publish(publisher, message("site/1", number.to_string(), qos), Some(9));
        }

        assert_eq!(world.drain(wild), ["0", "1", "2"]);
        let (away, _) = world.open("away", false, 600);
        assert_eq!(world.drain(away), ["1", "2"], "nobody keeps a message of QoS 0 for it");
        for queue in ["one", "two", "three", "four"] {
            assert_eq!(read(&mut world, queue, queue), ["0", "1", "2"], "{queue}");
        }
    });
}

#[test]
fn a_copy_is_stored_once_for_all_queues_of_a_partition() {
    let mut world = World::new(1);
    for queue in 0..50 {
        world.declare(&format!("q{queue}"), bound_to(&["site/#"]));
    }
    let (publisher, _) = world.open("publisher", true, 0);

    world.publish(publisher, message("site/1", "x", ONCE), None);
    world.publish(publisher, message("site/2", "y", QoS::AtMostOnce), None);

    assert_eq!(world.stored("site/1"), ["x"]);
    assert_eq!(world.stored("$queue//site/2"), ["y"], "for its queues alone");
    assert_eq!(read(&mut world, "reader", "q49"), ["x", "y"]);
}

#[test]
fn a_retained_message_is_retained_once_and_in_the_queue() {
    with_one_and_four(|mut world| {
        world.declare("all", bound_to(&["site/#"]));
        let (publisher, _) = world.open("publisher", true, 0);
        for number in 0..8 {
            let mut retained = message(&format!("site/{number}"), number.to_string(), ONCE);
            retained.retain = true;
            world.publish(publisher, retained, None);
        }

        let (late, _) = world.open("late", true, 0);
        world.subscribe(late, "#", |_| {}).unwrap();
        assert_eq!(world.drain(late).len(), 8);
        assert_eq!(read(&mut world, "reader", "all").len(), 8);
    });
}

#[test]
fn a_qos_2_publish_sent_again_is_in_the_queue_once() {
    with_one_and_four(|mut world| {
        world.declare("all", bound_to(&["site/#"]));
        for step in 0..12u64 {
            let (publisher, _) = world.open("publisher", false, 600);
            let topic = format!("site/{step}");
            let command = |token| fluxmq::model::Command::Publish {
                token: fluxmq::model::Token(token),
                message: Arc::new(message(&topic, step.to_string(), QoS::ExactlyOnce)),
                packet_id: Some(3),
            };
            // Cut off after so many turns, then told again, as a client does that has no PUBREC.
            world.say(publisher, command(1));
            for _ in 0..step % 4 {
                world.turn(true);
            }
            world = world.crash(step);
            let (publisher, opened) = world.open("publisher", false, 600);
            if !opened.inbound.contains(&3) {
                let again = message(&topic, step.to_string(), QoS::ExactlyOnce);
                assert_eq!(world.publish(publisher, again, Some(3)), Some(Ok(true)));
            }
            world.command(publisher, fluxmq::model::Command::Release { packet_id: 3 });
        }

        let expected: Vec<String> = (0..12).map(|step| step.to_string()).collect();
        assert_eq!(read(&mut world, "reader", "all"), expected);
        // What was released is not known any more: the same number carries another message.
        let (publisher, _) = world.open("publisher", false, 600);
        world.publish(publisher, message("site/0", "99", QoS::ExactlyOnce), Some(3));
        assert_eq!(read(&mut world, "again", "all").last().map(String::as_str), Some("99"));
        let (publisher, _) = world.open("publisher", false, 600);
        world.command(publisher, fluxmq::model::Command::Release { packet_id: 3 });
        assert!(world.wills_are_over(), "no key is left behind, here or with the copies");
    });
}

/// The partition of a queue, and a topic that lives in another one.
fn apart(queue: &str) -> (PartitionId, String) {
    let placement = Placement::new(4);
    let home = placement.queue(&QueueName::from_text(Bytes::from(queue.to_owned())).unwrap());
    let mut topics = (0..).map(|number| format!("site/{number}"));
    let is_elsewhere =
        |topic: &String| placement.topic(&Topic::new(Bytes::from(topic.clone())).unwrap()) != home;
    (home, topics.find(is_elsewhere).unwrap())
}

#[test]
fn a_release_that_a_copy_did_not_hear_is_begun_again_and_the_number_is_free_everywhere() {
    let mut world = World::new(4);
    world.declare("all", bound_to(&["site/#"]));
    let (home, topic) = apart("all");
    let (publisher, _) = world.open("publisher", false, 600);
    world.publish(publisher, message(&topic, "0", QoS::ExactlyOnce), Some(3));

    // The topic's partition is as fast as ever; the queue's does not get to write the release down before the power goes.
    world.slow = Some(home);
    world.command(publisher, Command::Release { packet_id: 3 });
    let released = |effect: &Effect| matches!(effect, Effect::Released { .. }).then_some(());
    assert_eq!(world.take(publisher, released), None);
    let mut world = world.crash(1);

    let (publisher, opened) = world.open("publisher", false, 600);
    assert_eq!(opened.inbound, [3], "its client has no PUBCOMP, and is to end it");
    world.command(publisher, Command::Release { packet_id: 3 });
    assert_eq!(world.take(publisher, released), Some(()));
    assert!(world.wills_are_over(), "no key is left behind, here or with the copies");
    world.publish(publisher, message(&topic, "1", QoS::ExactlyOnce), Some(3));
    assert_eq!(read(&mut world, "reader", "all"), ["0", "1"]);
}

#[test]
fn a_refused_publish_is_answered_when_the_copies_that_are_stored_do_not_keep_its_number() {
    let mut world = World::new(4);
    let (home, topic) = apart("all");
    let full = (0..).map(|number| format!("full{number}")).find(|queue| apart(queue).0 != home);
    let full = full.unwrap();
    let limits = QueueLimits {
        messages_max: Some(1),
        overflow: Overflow::RejectPublish,
        ..QueueLimits::default()
    };
    world.declare("all", bound_to(&["site/#"]));
    world.declare(&full, QueueSettings { limits, ..bound_to(&[&topic]) });
    let (publisher, _) = world.open("publisher", false, 600);
    let say = |world: &mut World, topic: &str, text: &str| {
        world.publish(publisher, message(topic, text, QoS::ExactlyOnce), Some(3))
    };
    assert_eq!(say(&mut world, &topic, "0"), Some(Ok(true)));
    world.command(publisher, Command::Release { packet_id: 3 });

    // Stored by one queue and refused by the other, whose answer waits until the first has forgotten the number.
    let token = Token(u64::MAX >> 2);
    let refused = Arc::new(message(&topic, "1", QoS::ExactlyOnce));
    world.say(publisher, Command::Publish { token, message: refused, packet_id: Some(3) });
    let copies = format!("$queue//{topic}");
    while !world.stored(&copies).contains(&"1".to_owned()) {
        assert!(world.turn(true), "a copy is stored");
    }
    world.slow = Some(home);
    world.run();
    let confirmed = |effect: &Effect| match effect {
        Effect::Confirm { token: answered, result } if *answered == token => Some(result.clone()),
        _ => None,
    };
    assert_eq!(world.take(publisher, confirmed), None, "a crash would keep the number");
    world.slow = None;
    world.run();
    let answer = world.take(publisher, confirmed);
    assert!(matches!(answer, Some(Err(Refusal::Quota { .. }))), "{answer:?}");

    assert_eq!(say(&mut world, "site/other", "2"), Some(Ok(true)));
    world.command(publisher, Command::Release { packet_id: 3 });
    assert_eq!(read(&mut world, "reader", "all"), ["0", "1", "2"]);
    assert!(world.wills_are_over(), "no key is left behind");
}

#[test]
fn a_will_is_in_the_queue_too() {
    with_one_and_four(|mut world| {
        world.declare("all", bound_to(&["gone/#"]));
        for number in 0..4 {
            let id = world.connect();
            let command = crate::world::open_command(&format!("c{number}"), true, 0);
            let fluxmq::model::Command::Open(open) = command else { unreachable!() };
            let will = fluxmq::model::command::Will {
                message: message(&format!("gone/{number}"), number.to_string(), QoS::AtMostOnce),
                delay_s: 0,
            };
            let open = fluxmq::model::command::Open { will: Some(will), ..*open };
            world.command(id, fluxmq::model::Command::Open(Box::new(open)));
            world.close(id, true);
        }
        world.pass(1000);

        assert_eq!(read(&mut world, "reader", "all"), ["0", "1", "2", "3"]);
        assert!(world.wills_are_over(), "no key is left behind");
    });
}

#[test]
fn a_declaration_is_never_rewritten() {
    with_one_and_four(|mut world| {
        let settings = bound_to(&["site/#"]);
        world.declare("all", settings.clone());
        let declare = |world: &mut World, settings: QueueSettings| {
            world.manage("all", QueueAction::Declare(Arc::new(settings)))
        };

        assert_eq!(
            declare(&mut world, settings.clone()),
            Ok(QueueAnswer::Declared {
                existed: true,
                counts: Counts { messages: 0, consumers: 0 }
            })
        );
        let others = [
            (bound_to(&["site/+"]), "'bindings'"),
            (QueueSettings { kind: QueueKind::Stream, ..settings.clone() }, "'type'"),
            (QueueSettings { ttl_ms: Some(5), ..settings.clone() }, "'ttl'"),
        ];
        for (other, field) in others {
            let refused = declare(&mut world, other).expect_err(field);
            assert!(refused.to_string().contains(field), "{refused}");
        }
        let mut world = world.crash(2);
        let stats = world.stats("all");
        assert_eq!(*stats.settings, settings, "it is what it was declared to be");
        // What its first use made is what it is.
        let (publisher, _) = world.open("publisher", true, 0);
        world.publish(publisher, message("$queue/plain", "x", ONCE), None);
        let refused = world.manage("plain", QueueAction::Declare(Arc::new(bound_to(&["a"]))));
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("queue 'plain' was declared with another 'bindings'"), "{said}");
    });
}

#[test]
fn declarations_that_make_no_sense_are_refused_with_the_reason() {
    let mut world = World::new(4);
    let stream = QueueSettings { kind: QueueKind::Stream, ..QueueSettings::default() };
    let cases = [
        (bound_to(&["$queue/other/#"]), "'$queue/other/#'"),
        (bound_to(&["$share/g/a"]), "'$share/g/a'"),
        (bound_to(&["$SYS/#"]), "'$SYS/#'"),
        (QueueSettings { ttl_ms: Some(0), ..QueueSettings::default() }, "ttl_ms"),
        (QueueSettings { backoff_ms: vec![1], ..stream }, "backoff_ms"),
        (
            QueueSettings {
                limits: QueueLimits { bytes_max: Some(0), ..QueueLimits::default() },
                dead_letters: DeadLetters::default(),
                ..QueueSettings::default()
            },
            "bytes_max",
        ),
    ];
    for (settings, named) in cases {
        let refused = world.manage("bad", QueueAction::Declare(Arc::new(settings)));
        let refused = refused.expect_err(named).to_string();
        assert!(refused.contains(named), "{refused}");
    }
    let unknown = world.manage("bad", QueueAction::Stats).expect_err("nothing was declared");
    assert_eq!(unknown.to_string(), "there is no queue 'bad'");
}

#[test]
fn a_deleted_queue_captures_nothing_and_another_of_its_name_is_empty() {
    with_one_and_four(|mut world| {
        world.declare("all", bound_to(&["site/#"]));
        world.declare("other", bound_to(&["site/#"]));
        let (publisher, _) = world.open("publisher", true, 0);
        let say = |world: &mut World, number: usize| {
            let message = message(&format!("site/{number}"), number.to_string(), ONCE);
            assert_eq!(world.publish(publisher, message, None), Some(Ok(true)));
        };
        (0..5).for_each(|number| say(&mut world, number));
        let (reader, _) = world.open("reader", true, 0);
        world.subscribe(reader, "$queue/all/#", |_| {}).unwrap();
        assert_eq!(world.drain(reader).len(), 5);

        let refused = world
            .manage("all", QueueAction::Delete { if_unused: true, if_empty: false })
            .expect_err("it has a reader");
        assert!(refused.to_string().contains("1 connected"), "{refused}");
        world.close(reader, false);
        assert_eq!(
            world.manage("all", QueueAction::Delete { if_unused: true, if_empty: false }),
            Ok(QueueAnswer::Done { count: 5 })
        );
        (5..10).for_each(|number| say(&mut world, number));
        world.declare("all", bound_to(&["site/+"]));
        (10..12).for_each(|number| say(&mut world, number));

        assert_eq!(read(&mut world, "one", "all"), ["10", "11"]);
        assert_eq!(read(&mut world, "two", "other").len(), 12);
        let mut world = world.crash(3);
        assert_eq!(read(&mut world, "three", "all"), ["10", "11"]);
    });
}

#[test]
fn a_purged_queue_has_nothing_for_anybody_but_what_is_out_and_counts_on() {
    with_one_and_four(|mut world| {
        world.client_limits.credit = 2;
        let (publisher, _) = world.open("publisher", true, 0);
        let say = |world: &mut World, number: usize| {
            world.publish(publisher, message("$queue/jobs", number.to_string(), ONCE), None);
        };
        (0..300).for_each(|number| say(&mut world, number));
        let (reader, _) = world.open("reader", true, 0);
        world.subscribe(reader, "$queue/jobs", |_| {}).unwrap();
        let held = world.deliveries(reader);
        assert_eq!(held.len(), 2);
        let (other, _) = world.open("other", true, 0);
        world.subscribe(other, "$share/others/$queue/jobs", |_| {}).unwrap();
        for delivery in world.deliveries(other) {
            world.settle(other, delivery.id, Outcome::Accepted);
        }
        let others: Vec<String> = world.deliveries(other).iter().map(text).collect();
        assert_eq!(others, ["2", "3"]);

        assert_eq!(world.manage("jobs", QueueAction::Purge), Ok(QueueAnswer::Done { count: 296 }));
        world.settle(reader, held[0].id, Outcome::Released);
        assert_eq!(world.drain(reader), ["0"], "what is out is its group's to finish");
        world.settle(reader, held[1].id, Outcome::Accepted);
        (300..303).for_each(|number| say(&mut world, number));

        assert_eq!(world.drain(reader), ["300", "301", "302"], "and 2 and 3 are not");
        let stats = world.stats("jobs");
        assert_eq!((stats.head, stats.end, stats.messages), (Offset(0), Offset(303), 7));
        world.close(reader, false);
        world.close(other, false);
        let again = world.manage("jobs", QueueAction::Purge);
        assert_eq!(again, Ok(QueueAnswer::Done { count: 7 }), "finished by some is not gone");
        assert_eq!(read(&mut world, "new", "jobs"), [""; 0]);
        say(&mut world, 303);
        let mut world = world.crash(4);
        let stats = world.stats("jobs");
        assert_eq!((stats.head, stats.end, stats.messages), (Offset(303), Offset(304), 1));
        for client in ["newer", "reader"] {
            assert_eq!(read(&mut world, client, "jobs"), ["303"]);
        }
    });
}

#[test]
fn a_queue_is_counted_looked_into_and_moved() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        for number in 0..200 {
            world.publish(publisher, message("$queue/jobs", number.to_string(), ONCE), None);
        }
        let (reader, _) = world.open("reader", true, 0);
        world.subscribe(reader, "$share/workers/$queue/jobs", |_| {}).unwrap();
        let held = world.deliveries(reader);
        for delivery in [&held[0], &held[1], &held[3]] {
            world.settle(reader, delivery.id, Outcome::Accepted);
        }
        world.pass(7_000);

        let stats = world.stats("jobs");
        let group = &stats.groups[0];
        assert_eq!((group.name.as_ref(), group.members), (&b"workers"[..], 1));
        assert_eq!((group.committed, group.lag, group.lag_ms), (Offset(2), 197, 7_000));
        assert_eq!(group.cursor.0, 3 + group.pending as u64, "what is out and what is settled");

        let action = QueueAction::Peek { from: Offset(150), count_max: 3 };
        let Ok(QueueAnswer::Entries(peeked)) = world.manage("jobs", action) else { panic!() };
        let peeked: Vec<_> =
            peeked.iter().map(|it| (it.entry.0, &it.message.payload[..])).collect();
        assert_eq!(peeked, [(150, &b"150"[..]), (151, b"151"), (152, b"152")]);
        assert_eq!(world.stats("jobs").groups[0], stats.groups[0], "nobody knows of it");

        let group = fluxmq::model::QueueName::new(Bytes::from("workers")).unwrap();
        let to = Position::Last(2);
        world.deliveries(reader);
        let moved = world.manage("jobs", QueueAction::Seek { group: group.clone(), to });
        assert_eq!(moved, Ok(QueueAnswer::Sought { count: 196, gap: None }));
        assert_eq!(world.drain(reader), ["198", "199"]);
        let group = fluxmq::model::QueueName::new(Bytes::from("nobody")).unwrap();
        let refused = world.manage("jobs", QueueAction::Seek { group, to }).expect_err("unknown");
        assert_eq!(refused.to_string(), "queue 'jobs' has no consumer group 'nobody'");
    });
}
