//! Queues that store nothing: who is there gets it, once in each group, and nothing of it is kept.

use bytes::Bytes;
use fluxmq::model::queue::QueueKind;
use fluxmq::model::{Filter, Outcome, QoS, QueueRefusal, QueueSettings, Refusal};
use fluxmq::partition::request::{ConnectionId, QueueAction};
use std::sync::Arc;

use crate::world::{DECLARED, World, message, text, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;
const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn ephemeral(filters: &[&str]) -> QueueSettings {
    let filter = |text: &&str| Filter::new(Bytes::from((*text).to_owned())).unwrap();
    let bindings = filters.iter().map(filter).collect();
    QueueSettings { kind: QueueKind::Ephemeral, bindings, ..QueueSettings::default() }
}

fn join(world: &mut World, client: &str, group: &str) -> ConnectionId {
    let (member, _) = world.open(client, true, 0);
    world.subscribe(member, &format!("$share/{group}/$queue/now"), |_| {}).expect("joins");
    member
}

fn payloads(world: &mut World, member: ConnectionId) -> Vec<String> {
    let deliveries = world.deliveries(member);
    for delivery in &deliveries {
        world.settle(member, delivery.id, Outcome::Accepted);
    }
    deliveries.iter().map(text).collect()
}

#[test]
fn who_is_there_gets_it_and_who_comes_later_does_not() {
    with_one_and_four(|mut world| {
        world.declare("now", ephemeral(&["site/#"]));
        let (publisher, _) = world.open("publisher", true, 0);
        let nobody = world.publish(publisher, message("$queue/now", "early", ONCE), None);
        assert_eq!(nobody, Some(Ok(false)), "0x10: nobody is there");
        let one = join(&mut world, "one", "workers");
        let two = join(&mut world, "two", "workers");
        let auditor = join(&mut world, "auditor", "auditors");
        let before = world.log_bytes();
        for number in 0..6u16 {
            let qos = LEVELS[usize::from(number) % 3];
            let packet_id = (qos == QoS::ExactlyOnce).then_some(number);
            let address = if number < 3 { "$queue/now/key" } else { "site/3" };
            let confirmed =
                world.publish(publisher, message(address, number.to_string(), qos), packet_id);
            assert_eq!(confirmed, (qos != QoS::AtMostOnce).then_some(Ok(true)), "{number}");
        }

        let (one_got, two_got) = (payloads(&mut world, one), payloads(&mut world, two));
        assert_eq!((one_got.len(), two_got.len()), (3, 3), "{one_got:?} {two_got:?}");
        let mut workers = [one_got, two_got].concat();
        workers.sort();
        assert_eq!(workers, ["0", "1", "2", "3", "4", "5"], "each to one of them");
        assert_eq!(payloads(&mut world, auditor), ["0", "1", "2", "3", "4", "5"]);
        let stats = world.stats("now");
        assert_eq!((stats.messages, stats.end.0), (0, 0));
        assert_eq!(world.stored("$queue/now/key"), [""; 0]);
        assert!(world.log_bytes() < before + 4096, "no more than the topic's own two");
        let late = join(&mut world, "late", "late");
        assert_eq!(payloads(&mut world, late), [""; 0]);
    });
}

#[test]
fn nothing_comes_again_and_a_full_member_misses_what_comes() {
    with_one_and_four(|mut world| {
        world.declare("now", ephemeral(&[]));
        let member = join(&mut world, "member", "workers");
        let (publisher, _) = world.open("publisher", true, 0);
        let room = (0..130)
            .take_while(|number| {
                let message = message("$queue/now", number.to_string(), ONCE);
                world.publish(publisher, message, None) == Some(Ok(true))
            })
            .count();
        assert!((20..130).contains(&room), "{room}: as much as a member has room for");
        let confirmed = world.publish(publisher, message("$queue/now", "x", ONCE), None);
        assert_eq!(confirmed, Some(Ok(false)));
        let out = world.deliveries(member);
        assert_eq!(out.len(), room);
        for (number, delivery) in out.iter().enumerate() {
            let outcomes = [
                Outcome::Accepted,
                Outcome::Released,
                Outcome::Rejected,
                Outcome::ReleasedAfter { delay_ms: 5 },
            ];
            world.settle(member, delivery.id, outcomes[number % 4]);
        }
        world.pass(60_000);
        assert!(world.deliveries(member).is_empty());
        assert!(world.manage("$dlq/now", QueueAction::Stats).is_err(), "nothing died");

        let confirmed = world.publish(publisher, message("$queue/now", "more", ONCE), None);
        assert_eq!(confirmed, Some(Ok(true)), "room again");
        world.close(member, false);
        let next = join(&mut world, "next", "workers");
        assert!(world.deliveries(next).is_empty(), "what its member held is gone with it");
    });
}

#[test]
fn it_ends_five_minutes_after_its_last_consumer() {
    with_one_and_four(|mut world| {
        world.declare("now", ephemeral(&["site/#"]));
        let member = join(&mut world, "member", "workers");
        world.pass(600_000);
        assert_eq!(world.stats("now").groups[0].members, 1);
        world.close(member, false);
        world.pass(1_000);
        world.pass(299_000);
        assert_eq!(world.stats("now").groups[0].members, 0);
        let member = join(&mut world, "member", "workers");
        world.close(member, false);
        world.pass(1_000);
        world.pass(301_000);

        assert!(world.manage("now", QueueAction::Stats).is_err());
        let declared = QueueAction::Declare(Arc::new(QueueSettings::default()));
        let declared = world.manage("now", declared);
        assert_eq!(declared, Ok(DECLARED), "its name is free");
    });
}

#[test]
fn an_answer_that_comes_too_late_makes_no_queue() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", false, 100);
        for queue in ["amq.rabbitmq.reply-to.gone", "staging%3Aamq.rabbitmq.reply-to.gone"] {
            let address = format!("$queue/{queue}");
            for (packet_id, qos) in (1..).zip(LEVELS) {
                let packet_id = (qos == QoS::ExactlyOnce).then_some(packet_id);
                let answer = world.publish(publisher, message(&address, "late", qos), packet_id);
                let expected = (qos != QoS::AtMostOnce).then_some(Ok(false));
                assert_eq!(answer, expected, "0x10: nobody is there");
            }
            let joined = world.subscribe(publisher, &address, |_| {});

            let missing = Refusal::from(QueueRefusal::Missing { queue: queue.to_owned() });
            assert_eq!(joined, Err(missing.clone()), "nor does who would hear it make one");
            assert_eq!(world.manage(queue, QueueAction::Stats), Err(missing));
        }
    });
}

#[test]
fn rules_about_what_is_kept_are_refused() {
    let mut world = World::new(1);
    let rules = [
        (QueueSettings { ttl_ms: Some(1), ..ephemeral(&[]) }, "ttl_s"),
        (QueueSettings { priority_max: 3, ..ephemeral(&[]) }, "priority_max"),
        (QueueSettings { retroactive: true, ..ephemeral(&["a"]) }, "from"),
        (QueueSettings { backoff_ms: vec![1], ..ephemeral(&[]) }, "backoff_ms"),
        (
            QueueSettings { visibility_timeout_ms: Some(1), ..ephemeral(&[]) },
            "visibility_timeout_s",
        ),
    ];
    for (settings, field) in rules {
        let refused = world.manage("now", QueueAction::Declare(Arc::new(settings))).unwrap_err();
        let said = refused.to_string();
        assert!(said.contains(field) && said.contains("ephemeral"), "{said}");
    }
    assert!(world.manage("now", QueueAction::Stats).is_err());
}
