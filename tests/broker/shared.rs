//! Shared subscriptions (MQTT 5 §4.8.2): consumer groups over topic filters, on one and on four partitions.

use bytes::Bytes;
use fluxmq::model::command::Subscribe;
use fluxmq::model::effect::Outbound;
use fluxmq::model::record::filter_id;
use fluxmq::model::{
    Command, Delivery, DeliverySource, Effect, Filter, Millis, Outcome, QoS, Token,
};
use fluxmq::partition::request::ConnectionId;
use fluxmq::view::View;
use fluxmq_index::Offset;

use crate::world::{World, message, text, with_one_and_four};

const SHARED: &str = "$share/g/a/#";

fn numbers(range: std::ops::Range<usize>) -> Vec<usize> {
    range.collect()
}

/// Publishes numbers to many topics below `a`, and noise that no group wants between them.
fn publish(world: &mut World, range: std::ops::Range<usize>, qos: QoS) {
    let (publisher, _) = world.open("publisher", true, 0);
    for number in range {
        let topic = format!("a/{}", number % 7);
        world.publish(publisher, message(&topic, number.to_string(), qos), None);
        world.publish(publisher, message("noise", "", QoS::AtLeastOnce), None);
    }
    world.close(publisher, false);
}

fn sorted(parts: &[Vec<String>]) -> Vec<usize> {
    let numbers = parts.iter().flatten().map(|text| text.parse().expect("a number"));
    let mut numbers: Vec<usize> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

fn join(world: &mut World, client_id: &str, expiry_s: u32) -> ConnectionId {
    let (id, _) = world.open(client_id, expiry_s == 0, expiry_s);
    world.subscribe(id, SHARED, |_| {}).expect("joins");
    id
}

/// Gives deliveries packet ids, as the protocol does before it sends QoS 2.
fn assign(world: &mut World, id: ConnectionId, deliveries: &[Delivery], first: u16) {
    let entries = (first..).zip(deliveries.iter().map(|delivery| delivery.id)).collect();
    world.command(id, Command::Assign { token: Some(Token(77)), entries });
    let assigned = world
        .take(id, |effect| matches!(effect, Effect::Assigned { token: Token(77) }).then_some(()));
    assert_eq!(assigned, Some(()), "stored before they are sent");
}

fn receive(world: &mut World, id: ConnectionId, number: u16) {
    world.command(id, Command::Received { packet_id: number });
    let stored = world.take(id, |effect| match effect {
        Effect::ReceivedStored { packet_id } => Some(*packet_id),
        _ => None,
    });
    assert_eq!(stored, Some(number));
}

fn group_count(world: &World) -> usize {
    world.partitions.values().map(|partition| partition.views().groups.iter().count()).sum()
}

#[test]
fn every_message_goes_to_exactly_one_member_and_to_every_other_subscriber() {
    with_one_and_four(|mut world| {
        let members = ["one", "two", "three"].map(|name| join(&mut world, name, 0));
        let (other, _) = world.open("other", true, 0);
        world.subscribe(other, "a/#", |_| {}).expect("subscribes");
        publish(&mut world, 0..300, QoS::AtLeastOnce);

        let parts = members.map(|member| world.drain(member));

        assert!(parts.iter().all(|part| part.len() >= 60), "all of them work: {parts:?}");
        assert_eq!(sorted(&parts), numbers(0..300));
        assert_eq!(sorted(&[world.drain(other)]), numbers(0..300));
    });
}

#[test]
fn a_message_of_qos_0_goes_to_one_member() {
    with_one_and_four(|mut world| {
        let members = ["one", "two"].map(|name| join(&mut world, name, 0));
        publish(&mut world, 0..40, QoS::AtMostOnce);

        let parts = members.map(|member| world.drain(member));

        assert!(parts.iter().all(|part| !part.is_empty()));
        assert_eq!(sorted(&parts), numbers(0..40));
    });
}

#[test]
fn a_group_of_stored_sessions_keeps_a_backlog_over_a_crash_while_nobody_is_there() {
    with_one_and_four(|mut world| {
        let member = join(&mut world, "one", 3600);
        publish(&mut world, 0..20, QoS::AtLeastOnce);
        assert_eq!(sorted(&[world.drain(member)]), numbers(0..20));
        world.close(member, false);
        publish(&mut world, 20..50, QoS::AtLeastOnce);
        world.snapshot();
        publish(&mut world, 50..90, QoS::AtLeastOnce);

        let mut world = world.crash(3);
        publish(&mut world, 90..100, QoS::AtLeastOnce);
        let (member, opened) = world.open("one", false, 3600);
        // Another one may come to help with what is there.
        let helper = join(&mut world, "two", 0);

        assert!(opened.session_present);
        let parts = [world.drain(member), world.drain(helper)];
        assert_eq!(sorted(&parts), numbers(20..100));
    });
}

#[test]
fn what_a_member_did_not_settle_goes_to_another_when_it_leaves() {
    with_one_and_four(|mut world| {
        let silent = join(&mut world, "silent", 3600);
        publish(&mut world, 0..30, QoS::AtLeastOnce);
        let held = world.deliveries(silent);
        assert_eq!(held.len(), 30);
        world.settle(silent, held[0].id, Outcome::Accepted);
        let eager = join(&mut world, "eager", 0);
        assert_eq!(world.drain(eager), Vec::<String>::new(), "the silent one is still there");

        // However long it takes: nothing is taken from a member that is connected.
        world.pass(3_600_000);
        assert_eq!(world.drain(eager), Vec::<String>::new());
        world.close(silent, false);

        let mut rest = sorted(&[vec![text(&held[0])], world.drain(eager)]);
        rest.dedup();
        assert_eq!(rest, numbers(0..30));
    });
}

#[test]
fn mqtt_4_8_2_6_a_rejected_message_goes_to_nobody_else() {
    with_one_and_four(|mut world| {
        let member = join(&mut world, "one", 0);
        publish(&mut world, 0..2, QoS::AtLeastOnce);
        let held = world.deliveries(member);
        world.settle(member, held[0].id, Outcome::Rejected);
        let other = join(&mut world, "two", 0);
        world.close(member, false);

        assert_eq!(world.drain(other), [text(&held[1])]);
    });
}

#[test]
fn mqtt_4_8_2_3_each_member_gets_the_quality_and_the_options_it_asked_for() {
    with_one_and_four(|mut world| {
        let (member, _) = world.open("one", true, 0);
        world
            .subscribe(member, SHARED, |subscribe| {
                subscribe.qos = QoS::AtLeastOnce;
                subscribe.subscription_id = 9;
                subscribe.retain_as_published = true;
            })
            .expect("joins");
        // A second filter that matches: its own subscription, its own delivery.
        world.subscribe(member, "a/0", |subscribe| subscribe.subscription_id = 5).expect("ok");
        let (publisher, _) = world.open("publisher", true, 0);
        let mut retained = message("a/0", "x", QoS::ExactlyOnce);
        retained.retain = true;
        world.publish(publisher, retained, None);

        let mut deliveries = world.deliveries(member);
        deliveries.sort_by_key(|delivery| delivery.subscription_ids.clone());

        let [plain, shared] = &deliveries[..] else { panic!("{deliveries:?}") };
        assert_eq!((&plain.subscription_ids[..], plain.qos), (&[5][..], QoS::ExactlyOnce));
        assert_eq!((&shared.subscription_ids[..], shared.qos), (&[9][..], QoS::AtLeastOnce));
        assert!(shared.retain && !plain.retain);
        assert!(shared.annotations.is_empty(), "those are for queues");
    });
}

#[test]
fn retained_messages_are_not_sent_to_a_shared_subscription() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        let mut retained = message("a/0", "old", QoS::AtLeastOnce);
        retained.retain = true;
        world.publish(publisher, retained, None);
        let member = join(&mut world, "one", 0);

        assert_eq!(world.drain(member), Vec::<String>::new());
    });
}

#[test]
fn groups_are_told_apart_by_name_and_by_filter() {
    with_one_and_four(|mut world| {
        let filters = ["$share/g/a/#", "$share/h/a/#", "$share/g/a/+"];
        let members = filters.map(|filter| {
            let (id, _) = world.open(filter, true, 0);
            world.subscribe(id, filter, |_| {}).expect("joins");
            id
        });
        publish(&mut world, 0..20, QoS::AtLeastOnce);
        for member in members {
            assert_eq!(sorted(&[world.drain(member)]), numbers(0..20));
        }
    });
}

#[test]
fn the_group_ends_with_its_last_subscription() {
    with_one_and_four(|mut world| {
        let (one, two) = (join(&mut world, "one", 3600), join(&mut world, "two", 3600));
        let filter = Filter::new(Bytes::from_static(SHARED.as_bytes())).expect("a filter");
        let leave = |world: &mut World, id| {
            let command = Command::Unsubscribe { token: Token(5), filters: vec![filter.clone()] };
            world.command(id, command);
        };
        leave(&mut world, one);
        world.close(two, false);
        publish(&mut world, 0..5, QoS::AtLeastOnce);

        let (two, _) = world.open("two", false, 3600);
        assert_eq!(sorted(&[world.drain(two)]), numbers(0..5), "one was enough to keep it");
        leave(&mut world, two);
        assert_eq!(group_count(&world), 0);
        publish(&mut world, 5..9, QoS::AtLeastOnce);
        world.subscribe(one, SHARED, |_| {}).expect("joins");

        assert_eq!(world.drain(one), Vec::<String>::new(), "a new group begins empty");
    });
}

#[test]
fn the_group_ends_when_its_last_session_does() {
    with_one_and_four(|mut world| {
        for case in ["expires", "clean", "not stored", "not stored, and the broker crashes"] {
            let stored = !case.starts_with("not stored");
            let member = join(&mut world, "one", if stored { 60 } else { 0 });
            assert!(group_count(&world) > 0);
            if case.ends_with("crashes") {
                world = world.crash(9);
                world.pass(1);
                assert_eq!(group_count(&world), 0, "{case}");
                continue;
            }
            world.close(member, false);
            match case {
                "expires" => {
                    world.pass(59_000);
                    assert!(group_count(&world) > 0);
                    world.pass(10_000);
                    world.pass(1);
                }
                "clean" => {
                    let (id, _) = world.open("one", true, 0);
                    world.close(id, false);
                }
                _ => {}
            }
            assert_eq!(group_count(&world), 0, "{case}");
        }
    });
}

#[test]
fn a_session_that_comes_back_in_time_stays_a_member() {
    with_one_and_four(|mut world| {
        let member = join(&mut world, "one", 60);
        world.close(member, false);
        world.pass(50_000);
        let (member, _) = world.open("one", false, 60);
        world.pass(100_000);
        publish(&mut world, 0..3, QoS::AtLeastOnce);
        assert_eq!(sorted(&[world.drain(member)]), numbers(0..3));
        assert!(group_count(&world) > 0);
    });
}

#[test]
fn mqtt_4_8_2_4_a_qos_2_delivery_that_has_begun_is_completed_to_its_session() {
    for crash in [false, true] {
        with_one_and_four(|mut world| {
            let (member, _) = world.open("one", false, 3600);
            let with_id = |subscribe: &mut Subscribe| subscribe.subscription_id = 6;
            world.subscribe(member, SHARED, with_id).expect("joins");
            publish(&mut world, 0..3, QoS::ExactlyOnce);
            let held = world.deliveries(member);
            assign(&mut world, member, &held[..2], 11);
            receive(&mut world, member, 12);
            let helper = join(&mut world, "two", 3600);

            let helper = match crash {
                true => {
                    world = world.crash(4);
                    world.open("two", false, 3600).0
                }
                false => {
                    world.close(member, false);
                    helper
                }
            };
            // The third was not begun: it goes to whoever is there. The others do not.
            assert_eq!(world.drain(helper), [text(&held[2])]);
            let (member, opened) = world.open("one", false, 3600);

            let mut resent = opened.outbound;
            resent.sort_by_key(Outbound::packet_id);
            let [Outbound::Publish { packet_id: 11, delivery }, release] = &resent[..] else {
                panic!("{resent:?}")
            };
            assert_eq!(text(delivery), text(&held[0]));
            assert_eq!(
                (delivery.qos, &delivery.subscription_ids[..]),
                (QoS::ExactlyOnce, &[6][..])
            );
            let Outbound::Release { packet_id: 12, delivery: released } = release else {
                panic!("{release:?}")
            };
            receive(&mut world, member, 11);
            world.settle(member, delivery.id, Outcome::Accepted);
            world.settle(member, *released, Outcome::Accepted);
            assert_eq!(world.drain(member), Vec::<String>::new());

            // Over for good: neither this session nor the other one sees any of it again.
            let mut world = world.crash(5);
            let (member, opened) = world.open("one", false, 3600);
            assert_eq!(opened.outbound, []);
            let (helper, _) = world.open("two", false, 3600);
            assert_eq!([world.drain(member), world.drain(helper)], [vec![], Vec::<String>::new()]);
        });
    }
}

#[test]
fn mqtt_4_8_2_5_a_qos_2_delivery_that_has_begun_ends_with_its_session() {
    with_one_and_four(|mut world| {
        for expiry_s in [0, 60] {
            let member = join(&mut world, "one", expiry_s);
            publish(&mut world, 0..2, QoS::ExactlyOnce);
            let held = world.deliveries(member);
            assign(&mut world, member, &held[..1], 1);
            let helper = join(&mut world, "two", 0);
            world.close(member, false);
            assert_eq!(world.drain(helper), [text(&held[1])]);
            world.pass(70_000);
            world.pass(1);
            assert_eq!(world.drain(helper), Vec::<String>::new());
            world.close(helper, false);
            assert_eq!(group_count(&world), 0);
        }
    });
}

#[test]
fn a_slow_member_holds_no_more_than_its_window_and_the_others_go_on() {
    let mut world = World::new(1);
    let (slow, fast) = (join(&mut world, "slow", 0), join(&mut world, "fast", 0));
    let (publisher, _) = world.open("publisher", true, 0);
    let mut done = Vec::new();
    for number in 0..1000 {
        world.publish(publisher, message("a/b", number.to_string(), QoS::AtLeastOnce), None);
        done.extend(world.drain(fast));
    }

    let held = world.deliveries(slow);

    // One that works has nothing out when the next comes; one that does not has, and gets no more than a share of the start.
    assert!((1..=128).contains(&held.len()), "{}", held.len());
    assert_eq!(done.len() + held.len(), 1000);
}

#[test]
fn what_is_finished_takes_no_room_however_much_does_not_match() {
    let mut world = World::new(1);
    let member = join(&mut world, "one", 3600);
    publish(&mut world, 0..200, QoS::AtLeastOnce);
    let held = world.deliveries(member);
    // The credit is used up: settled out of order, all but one.
    for delivery in held.iter().skip(1).rev() {
        world.settle(member, delivery.id, Outcome::Accepted);
    }
    let rest: Vec<_> = world.deliveries(member);
    for delivery in &rest {
        world.settle(member, delivery.id, Outcome::Accepted);
    }

    let filter = Filter::new(Bytes::from_static(b"a/#")).expect("a filter");
    let name = Bytes::from_static(b"g");
    let partition = world.partitions.values().next_back().expect("one");
    let group = partition.views().groups.get(filter_id(&filter), &name).expect("it is there");
    assert!(group.committed() <= held[0].id.offset, "one is out");
    assert!(rest.iter().all(|delivery| group.is_finished(delivery.id.offset)));
    assert!(partition.views().groups.snapshot().len() < 64, "one run above one hole");

    world.settle(member, held[0].id, Outcome::Accepted);
    let partition = world.partitions.values().next_back().expect("one");
    let group = partition.views().groups.get(filter_id(&filter), &name).expect("it is there");
    let last = rest.last().map_or(Offset::ZERO, |delivery| delivery.id.offset);
    assert!(group.committed() > last, "everything is finished in one run");
}

#[test]
fn a_session_that_is_taken_over_goes_on_in_its_groups() {
    with_one_and_four(|mut world| {
        let old = join(&mut world, "one", 3600);
        publish(&mut world, 0..10, QoS::AtLeastOnce);
        world.deliveries(old);

        let (new, opened) = world.open("one", false, 3600);

        assert!(opened.session_present);
        assert_eq!(sorted(&[world.drain(new)]), numbers(0..10));
        publish(&mut world, 10..12, QoS::AtLeastOnce);
        assert_eq!(sorted(&[world.drain(new)]), numbers(10..12));
        world.pass(4_000_000);
        assert!(group_count(&world) > 0, "the old connection's end is not the session's");
    });
}

#[test]
fn a_member_that_leaves_before_it_was_one_leaves_nothing_behind() {
    with_one_and_four(|mut world| {
        let (id, _) = world.open("one", true, 0);
        let subscribe = Subscribe {
            filter: Filter::new(Bytes::from_static(SHARED.as_bytes())).expect("a filter"),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: fluxmq::model::RetainHandling::Send,
            subscription_id: 0,
            position: None,
            reports_end: false,
            group: None,
            settle_explicit: false,
        };
        world.say(id, Command::Subscribe { token: Token(1), subscriptions: vec![subscribe] });
        world.turn(false);
        world.close(id, false);
        assert!(world.is_done(id));
        assert_eq!(group_count(&world), 0);

        let other = join(&mut world, "two", 0);
        publish(&mut world, 0..4, QoS::AtLeastOnce);
        assert_eq!(sorted(&[world.drain(other)]), numbers(0..4));
    });
}

#[test]
fn a_subscribe_to_a_filter_and_a_group_reads_each_from_now_on() {
    // Fixed: the group's answer was taken for the place where the filter's reader begins, the very first record.
    let mut world = World::new(1);
    publish(&mut world, 0..5, QoS::AtLeastOnce);
    let (id, _) = world.open("one", false, 3600);
    let subscribe = |filter: &'static str| Subscribe {
        filter: Filter::new(Bytes::from_static(filter.as_bytes())).expect("a filter"),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: fluxmq::model::RetainHandling::Send,
        subscription_id: 0,
        position: None,
        reports_end: false,
        group: None,
        settle_explicit: false,
    };
    let subscriptions = vec![subscribe("a/#"), subscribe("$queue/q"), subscribe(SHARED)];
    world.command(id, Command::Subscribe { token: Token(1), subscriptions });
    world.close(id, false);

    let (id, _) = world.open("one", false, 3600);

    assert_eq!(world.drain(id), Vec::<String>::new());
}

#[test]
fn an_expired_message_is_over_for_the_group() {
    with_one_and_four(|mut world| {
        let member = join(&mut world, "one", 3600);
        world.close(member, false);
        let (publisher, _) = world.open("publisher", true, 0);
        let mut short = message("a/1", "short", QoS::AtLeastOnce);
        short.expiry_s = Some(10);
        world.publish(publisher, short, None);
        world.publish(publisher, message("a/1", "long", QoS::AtLeastOnce), None);
        world.pass(11_000);
        assert!(world.now > Millis(0));

        let (member, _) = world.open("one", false, 3600);

        let deliveries = world.deliveries(member);
        assert_eq!(deliveries.iter().map(text).collect::<Vec<_>>(), ["long"]);
        assert!(matches!(deliveries[0].id.source, DeliverySource::Group(_)));
    });
}
