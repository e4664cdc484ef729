//! Sessions: offline backlog as a cursor over the log, takeover, retained messages, wills, and exactly-once through crashes.

use bytes::Bytes;
use fluxmq::broker::Placement;
use fluxmq::model::command::{Close, Open, Will};
use fluxmq::model::effect::Outbound;
use fluxmq::model::{
    Command, Delivery, DeliverySource, Effect, Message, Outcome, QoS, Refusal, RetainHandling,
    Token, Topic,
};

use crate::world::{World, message, open_command, text, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;
const EXACTLY: QoS = QoS::ExactlyOnce;
const FOREVER: u32 = u32::MAX;

fn publish_numbers(world: &mut World, topics: &[&str], count: usize) {
    let (publisher, _) = world.open("publisher", true, 0);
    for number in 0..count {
        let topic = topics[number % topics.len()];
        let confirmed = world.publish(publisher, message(topic, number.to_string(), ONCE), None);
        assert_eq!(confirmed, Some(Ok(true)));
    }
    world.close(publisher, false);
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn retained(topic: &str, payload: &str) -> Message {
    Message { retain: true, ..message(topic, payload, ONCE) }
}

#[test]
fn a_live_subscriber_gets_every_message_in_order() {
    with_one_and_four(|mut world| {
        let (subscriber, _) = world.open("subscriber", true, 0);
        world.subscribe(subscriber, "a/+", |_| {}).expect("subscribes");

        publish_numbers(&mut world, &["a/b"], 500);

        assert_eq!(world.drain(subscriber), numbers(0..500));
    });
}

#[test]
fn an_unstored_message_reaches_those_who_listen() {
    with_one_and_four(|mut world| {
        let (subscriber, _) = world.open("subscriber", true, 0);
        world.subscribe(subscriber, "a/#", |_| {}).expect("subscribes");
        let before = world.log_bytes();
        let (publisher, _) = world.open("publisher", true, 0);

        assert_eq!(world.publish(publisher, message("a/b", "x", QoS::AtMostOnce), None), None);

        let deliveries = world.deliveries(subscriber);
        assert_eq!(deliveries.len(), 1);
        assert_eq!(deliveries[0].id.source, DeliverySource::Live);
        assert_eq!(world.log_bytes(), before, "nothing was stored");
    });
}

#[test]
fn a_session_that_was_away_reads_on_where_it_was() {
    with_one_and_four(|mut world| {
        let (subscriber, _) = world.open("subscriber", true, FOREVER);
        world.subscribe(subscriber, "a/#", |_| {}).expect("subscribes");
        publish_numbers(&mut world, &["a/b"], 3);
        assert_eq!(world.drain(subscriber), numbers(0..3));
        world.close(subscriber, false);

        publish_numbers(&mut world, &["a/b"], 400);
        let (subscriber, opened) = world.open("subscriber", false, FOREVER);

        assert!(opened.session_present && opened.persistent);
        assert_eq!(world.drain(subscriber), numbers(0..400));
    });
}

#[test]
fn a_session_survives_a_crash_with_its_backlog() {
    with_one_and_four(|mut world| {
        let (subscriber, _) = world.open("subscriber", true, FOREVER);
        world.subscribe(subscriber, "a/#", |_| {}).expect("subscribes");
        world.close(subscriber, false);
        publish_numbers(&mut world, &["a/b", "a/c", "a/d", "a/e"], 200);
        world.snapshot();
        publish_numbers(&mut world, &["a/b"], 50);

        let mut world = world.crash(5);
        let (subscriber, opened) = world.open("subscriber", false, FOREVER);

        assert!(opened.session_present);
        let mut got: Vec<usize> =
            world.drain(subscriber).iter().map(|text| text.parse().unwrap()).collect();
        got.sort_unstable();
        let mut expected: Vec<usize> = (0..200).chain(0..50).collect();
        expected.sort_unstable();
        assert_eq!(got, expected);
    });
}

#[test]
fn offline_sessions_cost_no_byte_of_a_message() {
    let bytes_with = |sessions: usize| {
        let mut world = World::new(1);
        for number in 0..sessions {
            let (id, _) = world.open(&format!("s{number}"), true, FOREVER);
            world.subscribe(id, "a/#", |_| {}).expect("subscribes");
            world.close(id, false);
        }
        let before = world.log_bytes();
        publish_numbers(&mut world, &["a/b"], 100);
        world.log_bytes() - before
    };

    assert_eq!(bytes_with(50), bytes_with(0));
}

#[test]
fn a_clean_start_forgets_and_an_expired_session_is_gone() {
    with_one_and_four(|mut world| {
        let (subscriber, _) = world.open("subscriber", true, 60);
        world.subscribe(subscriber, "a/#", |_| {}).expect("subscribes");
        world.close(subscriber, false);
        publish_numbers(&mut world, &["a/b"], 3);

        let (subscriber, opened) = world.open("subscriber", true, 60);
        assert!(!opened.session_present);
        assert_eq!(world.drain(subscriber), Vec::<String>::new());
        world.close(subscriber, false);

        world.pass(61_000);
        let (_, opened) = world.open("subscriber", false, 60);
        assert!(!opened.session_present);
    });
}

#[test]
fn a_newer_connection_takes_the_session_over() {
    with_one_and_four(|mut world| {
        let (old, _) = world.open("client", true, FOREVER);
        world.subscribe(old, "a/#", |_| {}).expect("subscribes");

        let (new, opened) = world.open("client", false, FOREVER);

        let told = world.take(old, |effect| matches!(effect, Effect::TakenOver).then_some(()));
        assert!(told.is_some() && opened.session_present);
        publish_numbers(&mut world, &["a/b"], 2);
        assert_eq!(world.deliveries(old).len(), 0);
        assert_eq!(world.drain(new), numbers(0..2));
        assert!(world.is_done(old));
    });
}

#[test]
fn three_connections_at_once_leave_one_with_the_session() {
    with_one_and_four(|mut world| {
        let all: Vec<_> = (0..3).map(|_| world.connect()).collect();
        for id in &all {
            world.say(*id, open_command("client", false, FOREVER));
        }
        world.run();

        let opened = |effect: &Effect| matches!(effect, Effect::Opened(_)).then_some(());
        assert!(world.take(all[2], opened).is_some());
        assert!(world.is_done(all[0]) && world.is_done(all[1]) && !world.is_done(all[2]));
    });
}

#[test]
fn the_newest_retained_message_comes_with_a_subscription() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        for payload in ["old", "new"] {
            world.publish(publisher, retained("lamp/1", payload), None);
        }
        world.publish(publisher, retained("lamp/2", "on"), None);
        world.publish(publisher, retained("lamp/3", "gone"), None);
        world.publish(publisher, retained("lamp/3", ""), None);

        let mut world = world.crash(1);
        let (subscriber, _) = world.open("subscriber", true, 0);
        world.subscribe(subscriber, "lamp/#", |_| {}).expect("subscribes");

        let deliveries = world.deliveries(subscriber);
        let mut got: Vec<_> = deliveries.iter().map(|d| (text(d), d.retain)).collect();
        got.sort();
        assert_eq!(got, [("new".to_owned(), true), ("on".to_owned(), true)]);
    });
}

#[test]
fn retain_handling_chooses_when_retained_messages_come() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        world.publish(publisher, retained("lamp/1", "on"), None);
        let (subscriber, _) = world.open("subscriber", true, 0);
        let counts: Vec<usize> = [
            RetainHandling::DontSend,
            RetainHandling::SendIfNew,
            RetainHandling::Send,
            RetainHandling::Send,
        ]
        .into_iter()
        .map(|handling| {
            world
                .subscribe(subscriber, "lamp/1", |s| s.retain_handling = handling)
                .expect("subscribes");
            world.drain(subscriber).len()
        })
        .collect();

        assert_eq!(counts, [0, 0, 1, 1]);
    });
}

#[test]
fn overlapping_subscriptions_give_one_delivery_with_all_their_ids() {
    with_one_and_four(|mut world| {
        let (subscriber, _) = world.open("subscriber", true, 0);
        world.subscribe(subscriber, "a/#", |s| s.subscription_id = 1).expect("subscribes");
        world
            .subscribe(subscriber, "a/b", |s| {
                s.subscription_id = 2;
                s.qos = ONCE;
            })
            .expect("subscribes");
        let (publisher, _) = world.open("publisher", true, 0);

        world.publish(publisher, message("a/b", "x", EXACTLY), Some(1));

        let deliveries = world.deliveries(subscriber);
        assert_eq!(deliveries.len(), 1);
        assert_eq!(deliveries[0].qos, EXACTLY);
        let mut ids = deliveries[0].subscription_ids.clone();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2]);
    });
}

#[test]
fn every_matching_id_is_there_offline_and_when_sent_again_too() {
    with_one_and_four(|mut world| {
        let (subscriber, _) = world.open("subscriber", false, 3600);
        for (filter, id) in [("a/#", 1), ("a/b", 2), ("b", 3), ("+/b", 0)] {
            world.subscribe(subscriber, filter, |s| s.subscription_id = id).expect("subscribes");
        }
        world.close(subscriber, false);
        let (publisher, _) = world.open("publisher", true, 0);
        world.publish(publisher, message("a/b", "x", EXACTLY), Some(1));

        let (subscriber, _) = world.open("subscriber", false, 3600);
        let deliveries = world.deliveries(subscriber);
        let sorted = |delivery: &Delivery| {
            let mut ids = delivery.subscription_ids.clone();
            ids.sort_unstable();
            ids
        };
        assert_eq!(deliveries.iter().map(sorted).collect::<Vec<_>>(), [[1, 2]]);
        let entries = vec![(9, deliveries[0].id)];
        world.command(subscriber, Command::Assign { token: Some(Token(1)), entries });
        world.close(subscriber, false);
        let (_, opened) = world.open("subscriber", false, 3600);

        let [Outbound::Publish { packet_id: 9, delivery }] = &opened.outbound[..] else {
            panic!("{:?}", opened.outbound)
        };
        assert_eq!(sorted(delivery), [1, 2]);
    });
}

#[test]
fn no_local_keeps_a_client_from_its_own_messages_live_and_stored() {
    with_one_and_four(|mut world| {
        let (client, _) = world.open("client", true, FOREVER);
        world.subscribe(client, "a/b", |s| s.no_local = true).expect("subscribes");
        world.publish(client, message("a/b", "live", QoS::AtMostOnce), None);
        world.publish(client, message("a/b", "stored", ONCE), None);

        assert_eq!(world.drain(client), Vec::<String>::new());
    });
}

#[test]
fn an_unsubscribed_filter_brings_nothing() {
    with_one_and_four(|mut world| {
        let (subscriber, _) = world.open("subscriber", true, FOREVER);
        world.subscribe(subscriber, "a/#", |_| {}).expect("subscribes");
        let filter = fluxmq::model::Filter::new(Bytes::from_static(b"a/#")).unwrap();
        world.command(
            subscriber,
            Command::Unsubscribe { token: Token(9), filters: vec![filter.clone(), filter] },
        );
        let results = world.take(subscriber, |effect| match effect {
            Effect::Unsubscribed { results, .. } => Some(results.clone()),
            _ => None,
        });
        assert_eq!(results, Some(vec![Ok(true), Ok(false)]));

        publish_numbers(&mut world, &["a/b"], 2);
        let mut world = world.crash(8);
        let (subscriber, _) = world.open("subscriber", false, FOREVER);

        assert_eq!(world.drain(subscriber), Vec::<String>::new());
    });
}

#[test]
fn an_expired_message_is_not_delivered() {
    with_one_and_four(|mut world| {
        let (subscriber, _) = world.open("subscriber", true, FOREVER);
        world.subscribe(subscriber, "a/#", |_| {}).expect("subscribes");
        world.close(subscriber, false);
        let (publisher, _) = world.open("publisher", true, 0);
        let short = Message { expiry_s: Some(10), ..message("a/b", "short", ONCE) };
        let long = Message { expiry_s: Some(100), ..message("a/b", "long", ONCE) };
        world.publish(publisher, short, None);
        world.publish(publisher, long, None);

        world.pass(20_000);
        let (subscriber, _) = world.open("subscriber", false, FOREVER);

        let deliveries = world.deliveries(subscriber);
        assert_eq!(deliveries.iter().map(text).collect::<Vec<_>>(), ["long"]);
        assert_eq!(deliveries[0].message.expiry_s, Some(80));
    });
}

fn open_with_will(world: &mut World, delay_s: u32) -> fluxmq::partition::request::ConnectionId {
    let id = world.connect();
    let will = Will { message: message("will", "gone", ONCE), delay_s };
    let Command::Open(open) = open_command("mortal", false, 300) else { unreachable!() };
    world.command(id, Command::Open(Box::new(Open { will: Some(will), ..*open })));
    id
}

/// Readers outlive the connection: while a will waits, and until they have let go. What they handed out meanwhile reached nobody,
/// and yet counted as delivered.
#[test]
fn what_comes_after_the_connection_is_lost_stays_in_the_backlog() {
    with_one_and_four(|mut world| {
        let lost = open_with_will(&mut world, 60);
        world.subscribe(lost, "a/#", |_| {}).expect("subscribes");
        publish_numbers(&mut world, &["a/b", "a/c"], 4);
        world.drain(lost);
        world.close(lost, true);

        publish_numbers(&mut world, &["a/b"], 10);
        world.pass(61_000);
        publish_numbers(&mut world, &["a/d"], 3);
        let back = open_with_will(&mut world, 60);

        let mut got = world.drain(back);
        got.sort();
        let mut expected: Vec<String> = numbers(0..10).into_iter().chain(numbers(0..3)).collect();
        expected.sort();
        assert_eq!(got, expected);
    });
}

#[test]
fn a_will_is_published_when_its_client_is_lost_and_only_then() {
    with_one_and_four(|mut world| {
        let (watcher, _) = world.open("watcher", true, 0);
        world.subscribe(watcher, "will", |_| {}).expect("subscribes");

        let polite = open_with_will(&mut world, 0);
        world.close(polite, false);
        assert_eq!(world.drain(watcher), Vec::<String>::new());

        let lost = open_with_will(&mut world, 0);
        world.close(lost, true);
        assert_eq!(world.drain(watcher), ["gone"]);
    });
}

#[test]
fn a_delayed_will_waits_and_a_new_connection_cancels_it() {
    with_one_and_four(|mut world| {
        let (watcher, _) = world.open("watcher", true, 0);
        world.subscribe(watcher, "will", |_| {}).expect("subscribes");

        let lost = open_with_will(&mut world, 10);
        world.close(lost, true);
        world.pass(9_000);
        let back = open_with_will(&mut world, 10);
        world.pass(9_000);
        assert_eq!(world.drain(watcher), Vec::<String>::new());

        world.close(back, true);
        world.pass(11_000);
        assert_eq!(world.drain(watcher), ["gone"]);
    });
}

#[test]
fn a_repeated_qos_2_publish_is_stored_once_until_it_is_released() {
    with_one_and_four(|mut world| {
        let (watcher, _) = world.open("watcher", true, 0);
        world.subscribe(watcher, "a", |_| {}).expect("subscribes");
        let (publisher, _) = world.open("publisher", true, FOREVER);
        assert_eq!(world.publish(publisher, message("a", "x", EXACTLY), Some(5)), Some(Ok(true)));
        assert_eq!(world.drain(watcher), ["x"]);

        let mut world = world.crash(4);
        let (watcher, _) = world.open("watcher", true, 0);
        world.subscribe(watcher, "a", |_| {}).expect("subscribes");
        let (publisher, opened) = world.open("publisher", false, FOREVER);
        assert_eq!(opened.inbound, [5]);
        assert_eq!(world.publish(publisher, message("a", "x", EXACTLY), Some(5)), Some(Ok(true)));
        assert_eq!(world.drain(watcher), Vec::<String>::new());

        world.command(publisher, Command::Release { packet_id: 5 });
        let released =
            |effect: &Effect| matches!(effect, Effect::Released { packet_id: 5 }).then_some(());
        assert!(world.take(publisher, released).is_some());
        assert_eq!(world.publish(publisher, message("a", "y", EXACTLY), Some(5)), Some(Ok(true)));
        assert_eq!(world.drain(watcher), ["y"]);
    });
}

/// Takes a QoS 2 delivery as far as `steps` of its half-steps say: 1 assigned, 2 received, 3 settled.
fn half_steps(world: &mut World, steps: usize) -> u16 {
    let (subscriber, _) = world.open("subscriber", false, FOREVER);
    let delivery = world.deliveries(subscriber).remove(0);
    if steps >= 1 {
        let entries = vec![(11, delivery.id)];
        world.command(subscriber, Command::Assign { token: Some(Token(1)), entries });
        let assigned = |effect: &Effect| matches!(effect, Effect::Assigned { .. }).then_some(());
        assert!(world.take(subscriber, assigned).is_some());
    }
    if steps >= 2 {
        world.command(subscriber, Command::Received { packet_id: 11 });
        let stored =
            |effect: &Effect| matches!(effect, Effect::ReceivedStored { .. }).then_some(());
        assert!(world.take(subscriber, stored).is_some());
    }
    if steps >= 3 {
        world.settle(subscriber, delivery.id, Outcome::Accepted);
    }
    11
}

#[test]
fn a_qos_2_delivery_resumes_at_its_half_step_after_a_crash() {
    for steps in 0..=3 {
        with_one_and_four(|mut world| {
            let (subscriber, _) = world.open("subscriber", true, FOREVER);
            world.subscribe(subscriber, "a", |_| {}).expect("subscribes");
            world.close(subscriber, false);
            let (publisher, _) = world.open("publisher", true, 0);
            world.publish(publisher, message("a", "x", EXACTLY), Some(1));
            let packet_id = half_steps(&mut world, steps);
            if steps == 3 {
                world.checkpoint_sessions();
            }

            let mut world = world.crash(steps as u64);
            let (subscriber, opened) = world.open("subscriber", false, FOREVER);
            let fresh = world.deliveries(subscriber).len();

            match (steps, opened.outbound.as_slice()) {
                (0, []) => assert_eq!(fresh, 1, "never sent: delivered anew"),
                (1, [Outbound::Publish { packet_id: id, delivery }]) => {
                    assert_eq!((*id, text(delivery), fresh), (packet_id, "x".to_owned(), 0));
                }
                (2, [Outbound::Release { packet_id: id, .. }]) => {
                    assert_eq!((*id, fresh), (packet_id, 0));
                }
                (3, []) => assert_eq!(fresh, 0, "settled: nothing comes again"),
                other => panic!("unexpected at step {steps}: {other:?}"),
            }
        });
    }
}

#[test]
fn a_session_ended_in_good_order_repeats_nothing() {
    with_one_and_four(|mut world| {
        let (subscriber, _) = world.open("subscriber", true, FOREVER);
        world.subscribe(subscriber, "a", |s| s.qos = ONCE).expect("subscribes");
        publish_numbers(&mut world, &["a"], 4);
        let deliveries = world.deliveries(subscriber);
        let entries = deliveries.iter().zip(1..).map(|(d, id)| (id, d.id)).collect();
        world.command(subscriber, Command::Assign { token: None, entries });
        world.settle(subscriber, deliveries[0].id, Outcome::Accepted);
        world.settle(subscriber, deliveries[2].id, Outcome::Accepted);
        world.command(subscriber, Command::Close(Close { will: false, session_expiry_s: None }));

        let mut world = world.crash(6);
        let (subscriber, opened) = world.open("subscriber", false, FOREVER);

        let again: Vec<String> = opened
            .outbound
            .iter()
            .map(|outbound| match outbound {
                Outbound::Publish { delivery, .. } => text(delivery),
                Outbound::Release { .. } => panic!("QoS 1 is not released"),
            })
            .collect();
        assert_eq!(again, ["1", "3"]);
        assert_eq!(world.deliveries(subscriber).len(), 0);
    });
}

#[test]
fn a_connection_that_vanished_gives_its_session_up() {
    with_one_and_four(|mut world| {
        let (lost, _) = world.open("client", true, FOREVER);
        world.subscribe(lost, "a/#", |_| {}).expect("subscribes");
        world.vanish(lost);
        publish_numbers(&mut world, &["a/b"], 2);

        let (back, opened) = world.open("client", false, FOREVER);

        assert!(opened.session_present);
        assert_eq!(world.drain(back), numbers(0..2));
    });
}

#[test]
fn a_slow_reader_has_at_most_its_window_of_bytes_out() {
    with_one_and_four(|mut world| {
        let (slow, _) = world.open("slow", true, 0);
        world.subscribe(slow, "a", |_| {}).expect("subscribes");
        let (publisher, _) = world.open("publisher", true, 0);
        for _ in 0..400 {
            world.publish(publisher, message("a", "x".repeat(4 << 10), ONCE), None);
        }

        // Small as long as nothing is settled, larger with what is, and never more than a quarter of a mebibyte.
        let mut sizes = Vec::new();
        let mut count = 0;
        while count < 400 {
            let out = world.deliveries(slow);
            count += out.len();
            sizes.push(out.len());
            for delivery in out {
                let outcome = Outcome::Accepted;
                world.say(slow, Command::Settle { delivery: delivery.id, outcome });
            }
            world.run();
        }
        assert_eq!(sizes[0], 2, "8 KiB");
        assert!(sizes.windows(2).all(|pair| pair[1] <= 2 * pair[0] + 1), "{sizes:?}");
        assert!(sizes.iter().all(|size| *size <= 64) && sizes.contains(&63), "{sizes:?}");
    });
}

#[test]
fn a_session_whose_partition_stopped_is_refused_and_loses_nothing() {
    let mut world = World::new(4);
    let placement = Placement::new(4);
    let home = placement.session(b"subscriber");
    let topic = (0..100)
        .map(|number| format!("t/{number}"))
        .find(|topic| placement.topic(&Topic::new(Bytes::from(topic.clone())).unwrap()) != home)
        .expect("topics spread");
    let (subscriber, _) = world.open("subscriber", true, FOREVER);
    world.subscribe(subscriber, "t/#", |_| {}).expect("subscribes");
    let (publisher, _) = world.open("publisher", true, 0);
    world.publish(publisher, message(&topic, "x", EXACTLY), Some(1));
    let delivery = world.deliveries(subscriber).remove(0);
    let entries = vec![(7, delivery.id)];
    world.command(subscriber, Command::Assign { token: Some(Token(1)), entries });
    world.close(subscriber, false);

    world.stop_partition(delivery.id.partition);
    let refused = world.connect();
    world.command(refused, open_command("subscriber", false, FOREVER));
    let effect = world.take(refused, |effect| Some(effect.clone()));
    assert!(matches!(effect, Some(Effect::OpenRefused(Refusal::Unavailable { .. }))), "{effect:?}");
    let (other, _) = world.open("other", true, 0);
    let subscribed = world.subscribe(other, "t/#", |_| {});
    assert!(matches!(subscribed, Err(Refusal::Unavailable { .. })), "{subscribed:?}");

    let mut world = world.crash(1);
    let (_, opened) = world.open("subscriber", false, FOREVER);
    assert!(
        matches!(&opened.outbound[..], [Outbound::Publish { packet_id: 7, delivery }] if text(delivery) == "x"),
        "{:?}",
        opened.outbound
    );
}
