//! Queues and consumer groups: earliest, resume, settle, and everything again after a crash.

use bytes::Bytes;
use fluxmq::model::command::Subscribe;
use fluxmq::model::queue::QueueLimits;
use fluxmq::model::{
    Command, Delivery, Effect, Millis, Outcome, QoS, QueueName, QueueSettings, Refusal, Token,
};
use fluxmq::partition::request::{ConnectionId, QueueAction};
use fluxmq::partition::{Durability, Options};
use fluxmq_index::Offset;
use fluxmq_log::sim_disk::SimDisk;

use crate::world::{World, message, text, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;

fn fill(world: &mut World, count: usize) -> ConnectionId {
    let (publisher, _) = world.open("publisher", true, 0);
    for number in 0..count {
        let confirmed =
            world.publish(publisher, message("$queue/orders/new", number.to_string(), ONCE), None);
        assert_eq!(confirmed, Some(Ok(true)));
    }
    publisher
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn from(position: &'static str) -> impl Fn(&mut Subscribe) {
    move |subscribe| subscribe.position = Some(Bytes::from_static(position.as_bytes()))
}

#[test]
fn a_queue_is_read_from_the_earliest_entry_in_order_after_a_crash() {
    with_one_and_four(|mut world| {
        fill(&mut world, 1000);

        let mut world = world.crash(1);
        let (consumer, _) = world.open("consumer", true, 0);
        assert_eq!(
            world.subscribe(consumer, "$queue/orders/#", from("earliest")),
            Ok(QoS::ExactlyOnce)
        );

        assert_eq!(world.drain(consumer), numbers(0..1000));
    });
}

#[test]
fn a_stored_session_gets_queue_entries_at_qos_1_at_most() {
    // Their packet ids are not stored: a client that held one at QoS 2 took the next entry under that number for a copy.
    with_one_and_four(|mut world| {
        fill(&mut world, 1);
        let (stored, _) = world.open("stored", false, 60);

        let granted = world.subscribe(stored, "$queue/orders", |_| {});

        assert_eq!(granted, Ok(QoS::AtLeastOnce));
        let qos: Vec<QoS> = world.deliveries(stored).iter().map(|delivery| delivery.qos).collect();
        assert_eq!(qos, [QoS::AtLeastOnce]);
    });
}

#[test]
fn deliveries_say_where_they_come_from() {
    with_one_and_four(|mut world| {
        fill(&mut world, 3);
        let (consumer, _) = world.open("consumer", true, 0);
        world.subscribe(consumer, "$queue/orders", |_| {}).expect("joins");

        let deliveries = world.deliveries(consumer);

        let ids: Vec<_> = deliveries.iter().map(|d| d.annotation("message-id").unwrap()).collect();
        assert_eq!(ids, ["orders:0", "orders:1", "orders:2"]);
        assert_eq!(deliveries[0].annotation("group-id").as_deref(), Some("consumer"));
        assert_eq!(deliveries[0].message.topic.as_str(), "$queue/orders/new");
        assert!(!deliveries[0].redelivered);
    });
}

#[test]
fn a_group_resumes_after_what_it_settled_and_gets_the_rest_again() {
    with_one_and_four(|mut world| {
        fill(&mut world, 10);
        let (consumer, _) = world.open("consumer", true, 0);
        world.subscribe(consumer, "$queue/orders/#", |_| {}).expect("joins");
        let deliveries = world.deliveries(consumer);
        // All but the fourth, out of order.
        for index in [5, 0, 1, 2, 4, 6] {
            world.settle(consumer, deliveries[index].id, Outcome::Accepted);
        }

        let mut world = world.crash(2);
        let (consumer, _) = world.open("consumer", true, 0);
        world.subscribe(consumer, "$queue/orders/#", |_| {}).expect("joins");

        assert_eq!(world.drain(consumer), ["3", "7", "8", "9"]);
    });
}

#[test]
fn two_members_share_and_two_groups_do_not() {
    with_one_and_four(|mut world| {
        let (first, _) = world.open("first", true, 0);
        let (second, _) = world.open("second", true, 0);
        let (other, _) = world.open("other", true, 0);
        for member in [first, second] {
            world.subscribe(member, "$share/workers/$queue/orders/#", |_| {}).expect("joins");
        }
        world.subscribe(other, "$queue/orders/#", |_| {}).expect("joins");
        fill(&mut world, 40);

        let (mine, theirs) = (world.drain(first), world.drain(second));

        assert_eq!(world.drain(other), numbers(0..40));
        assert!(!mine.is_empty() && !theirs.is_empty());
        let mut all: Vec<usize> =
            mine.iter().chain(&theirs).map(|text| text.parse().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..40).collect::<Vec<_>>());
    });
}

#[test]
fn a_released_entry_comes_again_with_its_count() {
    with_one_and_four(|mut world| {
        fill(&mut world, 1);
        let (consumer, _) = world.open("consumer", true, 0);
        world.subscribe(consumer, "$queue/orders/#", |_| {}).expect("joins");
        let first = world.deliveries(consumer).remove(0);

        world.settle(consumer, first.id, Outcome::Released);

        let again = world.deliveries(consumer).remove(0);
        assert!(again.redelivered);
        assert_eq!(again.annotation("delivery-count").as_deref(), Some("1"));
    });
}

#[test]
fn an_entry_held_too_long_goes_to_another_member() {
    with_one_and_four(|mut world| {
        fill(&mut world, 1);
        let (silent, _) = world.open("silent", true, 0);
        world.subscribe(silent, "$share/g/$queue/orders/#", |_| {}).expect("joins");
        assert_eq!(world.deliveries(silent).len(), 1);
        let (eager, _) = world.open("eager", true, 0);
        world.subscribe(eager, "$share/g/$queue/orders/#", |_| {}).expect("joins");

        world.pass(29_000);
        assert_eq!(world.deliveries(eager).len(), 0);
        world.pass(2_000);

        let mine = world.deliveries(eager).len();
        let theirs = world.deliveries(silent).len();
        assert_eq!(mine + theirs, 1, "it is out at one member again");
    });
}

#[test]
fn what_a_leaving_member_held_goes_to_the_others() {
    with_one_and_four(|mut world| {
        let (gone, _) = world.open("gone", true, 0);
        world.subscribe(gone, "$share/g/$queue/orders/#", |_| {}).expect("joins");
        fill(&mut world, 5);
        assert_eq!(world.deliveries(gone).len(), 5);

        world.close(gone, false);
        let (next, _) = world.open("next", true, 0);
        world.subscribe(next, "$share/g/$queue/orders/#", |_| {}).expect("joins");

        assert_eq!(world.drain(next), numbers(0..5));
    });
}

#[test]
fn an_entry_is_settled_by_its_message_id() {
    with_one_and_four(|mut world| {
        fill(&mut world, 2);
        let (consumer, _) = world.open("consumer", true, 0);
        world.subscribe(consumer, "$queue/orders/#", |s| s.settle_explicit = true).expect("joins");
        assert_eq!(world.deliveries(consumer).len(), 2);
        let name =
            |text: &'static str| QueueName::new(Bytes::from_static(text.as_bytes())).unwrap();
        let ack = |world: &mut World, offset| {
            let token = Token(1000 + offset);
            let (queue, group) = (name("orders"), name("consumer"));
            let outcome = Outcome::Accepted;
            world.command(consumer, Command::SettleEntry { token, queue, group, offset, outcome });
            world.take(consumer, |effect| match effect {
                Effect::Confirm { token: answered, result } if *answered == token => {
                    Some(result.clone())
                }
                _ => None,
            })
        };

        assert_eq!(ack(&mut world, 0), Some(Ok(true)));
        assert_eq!(ack(&mut world, 0), Some(Ok(false)), "not pending any more");

        let mut world = world.crash(3);
        let (consumer, _) = world.open("consumer", true, 0);
        world.subscribe(consumer, "$queue/orders/#", |_| {}).expect("joins");
        assert_eq!(world.drain(consumer), ["1"]);
    });
}

#[test]
fn positions_choose_where_a_group_begins() {
    with_one_and_four(|mut world| {
        fill(&mut world, 300);
        let cases =
            [("earliest", 0), ("latest", 300), ("137", 137), ("offset=299", 299), ("last=5", 295)];
        for (index, (position, first)) in cases.into_iter().enumerate() {
            let (consumer, _) = world.open(&format!("c{index}"), true, 0);
            let at = |s: &mut Subscribe| s.position = Some(Bytes::from_static(position.as_bytes()));
            world.subscribe(consumer, "$queue/orders/#", at).expect(position);
            assert_eq!(world.drain(consumer), numbers(first..300), "{position}");
        }
    });
}

#[test]
fn a_time_chooses_the_first_entry_at_or_after_it() {
    with_one_and_four(|mut world| {
        fill(&mut world, 200);
        world.pass(60_000);
        let time = world.now;
        fill(&mut world, 150);
        let (consumer, _) = world.open("consumer", true, 0);
        let at =
            |s: &mut Subscribe| s.position = Some(Bytes::from(format!("timestamp={}", time.0)));

        world.subscribe(consumer, "$queue/orders/#", at).expect("joins");

        assert_eq!(world.drain(consumer), numbers(0..150));
    });
}

/// The log finds the frame of a time; that may have begun earlier.
#[test]
fn a_time_chooses_among_entries_that_were_stored_together() {
    with_one_and_four(|mut world| {
        let publisher = fill(&mut world, 1);
        for number in 0..4 {
            let message = message("$queue/orders/new", format!("together {number}"), ONCE).into();
            world.say(publisher, Command::Publish { token: Token(900), message, packet_id: None });
            // Taken, and not flushed: they go in one frame.
            world.turn(false);
            world.now = world.now.plus(1_000);
        }
        let third = world.now.0 - 2_000;
        world.run();

        let (consumer, _) = world.open("consumer", true, 0);
        let at = |s: &mut Subscribe| s.position = Some(format!("timestamp={third}").into());
        world.subscribe(consumer, "$queue/orders/#", at).expect("joins");

        assert_eq!(world.drain(consumer), ["together 2", "together 3"]);
    });
}

/// Fifteen entries, and ten that are ten seconds younger; those alone are kept.
fn lose_fifteen(world: &mut World) -> Millis {
    let limits = QueueLimits { messages_max: Some(10), ..QueueLimits::default() };
    world.declare("orders", QueueSettings { limits, ..QueueSettings::default() });
    fill(world, 15);
    world.pass(10_000);
    let younger = world.now;
    fill(world, 10);
    world.pass(2_000);
    assert_eq!(world.stats("orders").head, Offset(15));
    younger
}

fn gaps(deliveries: &[Delivery]) -> Vec<Option<String>> {
    deliveries.iter().map(|it| it.annotations.get(it.id.offset, "x-gap")).collect()
}

#[test]
fn a_position_before_the_oldest_entry_says_with_the_first_what_is_missing() {
    with_one_and_four(|mut world| {
        let younger = lose_fifteen(&mut world).0;
        let cases = [
            ("0", 15, Some("15")),
            ("offset=12", 15, Some("3")),
            ("offset=15", 15, None),
            ("offset=20", 20, None),
            ("earliest", 15, None),
            ("resume", 15, None),
            ("last=1000", 15, None),
            ("timestamp=0", 15, Some("unknown")),
            (&format!("timestamp={}", younger - 10_000), 15, Some("unknown")),
            // Everything that is missing is older.
            (&format!("timestamp={younger}"), 15, None),
        ];
        for (index, (position, first, gap)) in cases.into_iter().enumerate() {
            let (consumer, _) = world.open(&format!("c{index}"), true, 0);
            let at = |s: &mut Subscribe| s.position = Some(Bytes::from(position.to_owned()));
            world.subscribe(consumer, "$queue/orders/#", at).expect(position);
            let deliveries = world.deliveries(consumer);
            assert_eq!(deliveries[0].id.offset, Offset(first), "{position}");
            let mut expected = vec![None; deliveries.len()];
            expected[0] = gap.map(str::to_owned);
            assert_eq!(gaps(&deliveries), expected, "{position}");
        }
    });
}

#[test]
fn a_queue_that_is_empty_says_what_is_missing_with_what_comes_next() {
    with_one_and_four(|mut world| {
        let younger = lose_fifteen(&mut world);
        world.manage("orders", QueueAction::Purge).expect("there is one");
        let now = world.now;
        for (index, (time, gap)) in [(now, None), (younger, Some("unknown"))].iter().enumerate() {
            let (consumer, _) = world.open(&format!("c{index}"), true, 0);
            let at = |s: &mut Subscribe| s.position = Some(format!("timestamp={}", time.0).into());
            world.subscribe(consumer, "$queue/orders/#", at).expect("joins");
            assert!(world.deliveries(consumer).is_empty());
            let publisher = world.open("publisher", true, 0).0;
            world.publish(publisher, message("$queue/orders", "next", ONCE), None);
            assert_eq!(gaps(&world.deliveries(consumer)), [gap.map(str::to_owned)], "{time:?}");
            world.close(consumer, false);
            world.manage("orders", QueueAction::Purge).expect("there is one");
        }
    });
}

#[test]
fn a_gap_is_told_to_whom_moved_a_group_and_to_nobody_else() {
    with_one_and_four(|mut world| {
        lose_fifteen(&mut world);
        let (first, _) = world.open("first", true, 0);
        world.subscribe(first, "$share/workers/$queue/orders/#", from("5")).expect("joins");
        let out = world.deliveries(first);
        assert_eq!(gaps(&out[..2]), [Some("10".to_owned()), None]);

        // It joins where the group is, whatever it asks for.
        let (second, _) = world.open("second", true, 0);
        world.subscribe(second, "$share/workers/$queue/orders/#", from("5")).expect("joins");
        world.settle(first, out[0].id, Outcome::Released);
        world.close(first, false);
        let again = world.deliveries(second);
        assert_eq!((again.len(), gaps(&again)), (10, vec![None; 10]));

        // The one that moved it comes back, and finds what there is where the group is.
        world.close(second, false);
        let (first, _) = world.open("first", true, 0);
        world.subscribe(first, "$share/workers/$queue/orders/#", |_| {}).expect("joins");
        assert_eq!(gaps(&world.deliveries(first)), vec![None; 10]);

        // It waits for the first one that is for it.
        let (late, _) = world.open("late", true, 0);
        world.subscribe(late, "$share/late/$queue/orders/x", from("14")).expect("joins");
        assert!(world.deliveries(late).is_empty(), "none is for it");
        let publisher = world.open("publisher", true, 0).0;
        world.publish(publisher, message("$queue/orders/x", "x", ONCE), None);
        assert_eq!(gaps(&world.deliveries(late)), [Some("1".to_owned())]);
    });
}

#[test]
fn a_member_reads_only_what_its_filter_matches() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        for number in 0..20 {
            let topic = if number % 2 == 0 { "$queue/orders/eu" } else { "$queue/orders/us" };
            world.publish(publisher, message(topic, number.to_string(), ONCE), None);
        }
        let (consumer, _) = world.open("consumer", true, 0);

        world.subscribe(consumer, "$queue/orders/eu", from("earliest")).expect("joins");

        let got = world.drain(consumer);
        assert_eq!(got, (0..20).step_by(2).map(|n: usize| n.to_string()).collect::<Vec<_>>());
    });
}

#[test]
fn a_queue_refuses_consumers_that_cannot_settle() {
    with_one_and_four(|mut world| {
        let (consumer, _) = world.open("consumer", true, 0);

        let refused = world.subscribe(consumer, "$queue/orders/#", |s| s.qos = QoS::AtMostOnce);

        assert!(matches!(refused, Err(Refusal::Invalid { .. })), "{refused:?}");
    });
}

#[test]
fn new_entries_reach_a_waiting_consumer() {
    with_one_and_four(|mut world| {
        let (consumer, _) = world.open("consumer", true, 0);
        world.subscribe(consumer, "$queue/orders/#", |_| {}).expect("joins");

        fill(&mut world, 2);

        let got: Vec<String> = world.deliveries(consumer).iter().map(text).collect();
        assert_eq!(got, ["0", "1"]);
    });
}

/// A shard does not rest while there is more to hand out: an entry that its member has no room for is not.
#[test]
fn an_entry_that_waits_for_its_member_keeps_nobody_busy() {
    for durability in [Durability::QuorumSync, Durability::QuorumMem] {
        for settings in [
            QueueSettings::default(),
            QueueSettings { priority_max: 9, ..QueueSettings::default() },
        ] {
            let options = Options { durability, ..Options::default() };
            let mut world = World::with(SimDisk::new(3), 1, options).expect("recovers");
            world.client_limits.credit = 1;
            world.declare("jobs", settings);
            let join = |it: &mut Subscribe| it.group = Some("g".into());
            let (first, _) = world.open("first", true, 0);
            world.subscribe(first, "$queue/jobs/mine", join).expect("joins");
            let (second, _) = world.open("second", true, 0);
            world.subscribe(second, "$queue/jobs/others", join).expect("joins");
            let (publisher, _) = world.open("publisher", true, 0);
            for number in 0..2 {
                let message = message("$queue/jobs/mine", number.to_string(), ONCE).into();
                let (token, packet_id) = (Token(900), None);
                world.say(publisher, Command::Publish { token, message, packet_id });
            }

            assert!((0..50).any(|_| !world.turn(true)), "it is over some time");

            let held = world.deliveries(first);
            assert_eq!(held.iter().map(text).collect::<Vec<_>>(), ["0"]);
            world.settle(first, held[0].id, Outcome::Accepted);
            assert_eq!(world.drain(first), ["1"]);
        }
    }
}
