//! What a queue's declaration says about handing out: when again, to whom, in which kind.

use bytes::Bytes;
use fluxmq::model::queue::QueueKind;
use fluxmq::model::{
    Command, Effect, Outcome, Properties, Property, QoS, QueueName, QueueSettings, Refusal, Token,
};
use fluxmq::partition::request::ConnectionId;
use fluxmq_index::Offset;

use crate::world::{World, message, text, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;

fn name(text: &str) -> QueueName {
    QueueName::new(Bytes::from(text.to_owned())).unwrap()
}

fn fill(world: &mut World, count: usize) {
    let (publisher, _) = world.open("publisher", true, 0);
    for number in 0..count {
        world.publish(publisher, message("$queue/jobs", number.to_string(), ONCE), None);
    }
}

fn join(world: &mut World, client: &str, group: &str) -> ConnectionId {
    let (member, _) = world.open(client, true, 0);
    world.subscribe(member, &format!("$share/{group}/$queue/jobs"), |_| {}).expect("joins");
    member
}

fn settle_entry(world: &mut World, by: ConnectionId, offset: u64, outcome: Outcome) -> bool {
    let token = Token(9_000 + offset);
    let (queue, group) = (name("jobs"), name("workers"));
    world.command(by, Command::SettleEntry { token, queue, group, offset, outcome });
    let confirmed = world.take(by, |effect| match effect {
        Effect::Confirm { token: answered, result } if *answered == token => Some(result.clone()),
        _ => None,
    });
    confirmed.expect("answered").expect("not refused")
}

#[test]
fn a_nack_with_a_delay_comes_again_after_it_also_over_a_restart() {
    with_one_and_four(|mut world| {
        fill(&mut world, 2);
        let member = join(&mut world, "member", "workers");
        assert_eq!(world.deliveries(member).len(), 2);

        assert!(settle_entry(&mut world, member, 0, Outcome::ReleasedAfter { delay_ms: 10_000 }));
        assert!(settle_entry(&mut world, member, 1, Outcome::Accepted));
        world.pass(8_000);
        assert!(world.deliveries(member).is_empty());
        // A restart takes a second.
        let mut world = world.crash(1);
        let member = join(&mut world, "member", "workers");
        assert!(world.deliveries(member).is_empty(), "it still waits");
        world.pass(1_100);
        let again = world.deliveries(member).remove(0);
        assert_eq!(
            (text(&again).as_str(), again.annotation("delivery-count")),
            ("0", Some("1".into()))
        );
        world.settle(member, again.id, Outcome::Accepted);
        assert_eq!(world.stats("jobs").groups[0].committed, Offset(2));
    });
}

/// Whoever leads next begins at the oldest entry, and knows which of those behind it must wait. The time of one of them may come before it
/// has got there.
#[test]
fn an_entry_whose_wait_ends_before_its_turn_hides_none_and_comes_once() {
    for priority_max in [0, 9] {
        with_one_and_four(|mut world| {
            world.declare("jobs", QueueSettings { priority_max, ..QueueSettings::default() });
            fill(&mut world, 6);
            let member = join(&mut world, "member", "workers");
            assert_eq!(world.deliveries(member).len(), 6);
            let wait = Outcome::ReleasedAfter { delay_ms: 5_000 };
            assert!(settle_entry(&mut world, member, 3, wait));

            let mut world = world.crash(1);
            world.client_limits.credit = 1;
            let member = join(&mut world, "member", "workers");
            let mut got = Vec::new();
            loop {
                let deliveries = world.deliveries(member);
                let Some(delivery) = deliveries.first() else { break };
                assert_eq!(deliveries.len(), 1, "no credit for more");
                got.push(text(delivery));
                world.pass(5_000);
                world.settle(member, delivery.id, Outcome::Accepted);
            }

            got.sort();
            assert_eq!(got, ["0", "1", "2", "3", "4", "5"], "priorities up to {priority_max}");
            assert_eq!(world.stats("jobs").groups[0].committed, Offset(6));
        });
    }
}

#[test]
fn a_backoff_grows_by_its_list_and_the_last_step_stays() {
    with_one_and_four(|mut world| {
        let backoff_ms = vec![1_000, 5_000];
        world.declare("jobs", QueueSettings { backoff_ms, ..QueueSettings::default() });
        fill(&mut world, 1);
        let member = join(&mut world, "member", "workers");
        for wait in [1_000, 5_000, 5_000] {
            let delivery = world.deliveries(member).remove(0);
            world.settle(member, delivery.id, Outcome::Released);
            world.pass(wait - 100);
            assert!(world.deliveries(member).is_empty(), "not before {wait}");
            world.pass(100);
        }
        assert_eq!(world.deliveries(member).len(), 1);
    });
}

#[test]
fn a_queue_has_a_visibility_timeout_of_its_own() {
    with_one_and_four(|mut world| {
        let visibility_timeout_ms = Some(2_000);
        world.declare("jobs", QueueSettings { visibility_timeout_ms, ..QueueSettings::default() });
        fill(&mut world, 1);
        let silent = join(&mut world, "silent", "workers");
        assert_eq!(world.deliveries(silent).len(), 1);

        world.pass(1_900);
        assert!(world.deliveries(silent).is_empty());
        world.pass(200);

        assert_eq!(world.deliveries(silent)[0].annotation("delivery-count").as_deref(), Some("1"));
    });
}

#[test]
fn a_delayed_message_is_handed_out_at_its_time_and_the_others_pass_it() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        for (number, delay) in [("0", Some("5000")), ("1", None), ("2", Some("2000")), ("3", None)]
        {
            let mut message = message("$queue/jobs", number, ONCE);
            if let Some(delay) = delay {
                let delay = Property::User(Bytes::from("x-delay"), Bytes::from(delay));
                message.properties = Properties::encode([&delay]);
            }
            world.publish(publisher, message, None);
        }
        let member = join(&mut world, "member", "workers");
        assert_eq!(world.drain(member), ["1", "3"]);
        world.pass(2_000);
        assert_eq!(world.drain(member), ["2"]);
        assert_eq!(world.stats("jobs").groups[0].committed, Offset(0));

        let mut world = world.crash(1);
        let member = join(&mut world, "member", "workers");
        assert!(world.deliveries(member).is_empty());
        world.pass(2_000);
        assert_eq!(world.drain(member), ["0"]);
        assert_eq!(world.stats("jobs").groups[0].committed, Offset(4));
    });
}

#[test]
fn a_single_active_consumer_gets_everything_until_it_leaves() {
    with_one_and_four(|mut world| {
        world.declare("jobs", QueueSettings { single_active: true, ..QueueSettings::default() });
        let first = join(&mut world, "first", "workers");
        let second = join(&mut world, "second", "workers");
        fill(&mut world, 5);

        assert_eq!(world.deliveries(first).len(), 5);
        assert!(world.deliveries(second).is_empty());
        world.close(first, false);
        assert_eq!(world.drain(second), ["0", "1", "2", "3", "4"]);
    });
}

#[test]
fn an_exclusive_queue_is_read_by_one_connection_at_a_time() {
    with_one_and_four(|mut world| {
        world.declare("jobs", QueueSettings { exclusive: true, ..QueueSettings::default() });
        let first = join(&mut world, "first", "workers");
        let (second, _) = world.open("second", true, 0);

        let refused = world.subscribe(second, "$queue/jobs", |_| {}).expect_err("one reads it");
        assert!(refused.to_string().contains("exclusive"), "{refused}");
        world.close(first, false);
        assert!(world.subscribe(second, "$queue/jobs", |_| {}).is_ok());
    });
}

#[test]
fn a_stream_is_read_by_cursor_and_settling_moves_it() {
    with_one_and_four(|mut world| {
        world
            .declare("jobs", QueueSettings { kind: QueueKind::Stream, ..QueueSettings::default() });
        fill(&mut world, 10);
        let member = join(&mut world, "member", "workers");
        let all = world.deliveries(member);
        assert_eq!(all.len(), 10);
        assert_eq!(all[3].annotation("x-stream-offset").as_deref(), Some("3"));
        let time: u64 = all[3].annotation("x-stream-timestamp").unwrap().parse().unwrap();
        assert_eq!(time, world.now.0);

        assert!(settle_entry(&mut world, member, 1, Outcome::Released));
        world.pass(60_000);
        assert!(world.deliveries(member).is_empty(), "nothing comes again, by nack or by time");
        assert_eq!(world.stats("jobs").groups[0].committed, Offset(0));
        assert!(settle_entry(&mut world, member, 4, Outcome::Accepted));
        assert_eq!(world.stats("jobs").groups[0].committed, Offset(5), "all before it is read");
        assert!(settle_entry(&mut world, member, 2, Outcome::Accepted));
        assert_eq!(world.stats("jobs").groups[0].committed, Offset(5), "and stays read");
        assert!(settle_entry(&mut world, member, 6, Outcome::Rejected));
        assert_eq!(world.stats("jobs").groups[0].committed, Offset(7), "stepped past");

        let mut world = world.crash(1);
        let member = join(&mut world, "member", "workers");
        assert_eq!(world.drain(member), ["7", "8", "9"]);
        assert!(world.manage("$dlq/jobs", fluxmq::partition::request::QueueAction::Stats).is_err());
    });
}

#[test]
fn a_stream_may_be_read_at_qos_0_and_a_classic_queue_may_not() {
    with_one_and_four(|mut world| {
        world
            .declare("jobs", QueueSettings { kind: QueueKind::Stream, ..QueueSettings::default() });
        fill(&mut world, 3);
        let (reader, _) = world.open("reader", true, 0);

        world.subscribe(reader, "$queue/jobs", |s| s.qos = QoS::AtMostOnce).expect("a stream");
        let refused = world.subscribe(reader, "$queue/other", |s| s.qos = QoS::AtMostOnce);

        assert_eq!(world.drain(reader), ["0", "1", "2"]);
        assert!(matches!(refused, Err(Refusal::Invalid { .. })), "{refused:?}");
    });
}

#[test]
fn every_reader_of_a_stream_is_told_how_far_the_primary_group_is() {
    with_one_and_four(|mut world| {
        let kind = QueueKind::Stream;
        let primary_group = Some(name("workers"));
        world.declare("jobs", QueueSettings { kind, primary_group, ..QueueSettings::default() });
        fill(&mut world, 4);
        let member = join(&mut world, "member", "workers");
        let all = world.deliveries(member);
        world.settle(member, all[1].id, Outcome::Accepted);

        let other = join(&mut world, "other", "auditors");
        let told: Vec<_> = world
            .deliveries(other)
            .iter()
            .map(|it| {
                let of = |name| it.annotation(name).unwrap();
                (of("x-work-group"), of("x-work-committed-offset"), of("x-work-acked"))
            })
            .collect();

        let says = |acked: &str| ("workers".to_owned(), "2".to_owned(), acked.to_owned());
        assert_eq!(told, [says("true"), says("true"), says("false"), says("false")]);
    });
}
