//! Time: sessions end when they should and not before, through restarts too, and no message is delivered after its expiry.

use fluxmq::model::command::Close;
use fluxmq::model::{Command, Message, QoS, Token};
use fluxmq::partition::request::ConnectionId;

use crate::world::{World, message, text, with_one_and_four};

const FOREVER: u32 = u32::MAX;
const YEAR_MS: u64 = 365 * 24 * 3_600_000;

/// A stored session with a subscription.
fn open(world: &mut World, expiry_s: u32) -> ConnectionId {
    let (id, _) = world.open("client", true, expiry_s);
    world.subscribe(id, "a/#", |_| {}).expect("subscribes");
    id
}

fn is_present(world: &mut World) -> bool {
    world.open("client", false, 60).1.session_present
}

fn publish(world: &mut World, message: Message) {
    let (publisher, _) = world.open("publisher", true, 0);
    assert_eq!(world.publish(publisher, message, None), Some(Ok(true)));
    world.close(publisher, false);
}

fn expiring(payload: &str, expiry_s: u32, retain: bool) -> Message {
    Message { expiry_s: Some(expiry_s), retain, ..message("a/b", payload, QoS::AtLeastOnce) }
}

#[test]
fn a_session_ends_after_its_expiry_and_not_before_also_when_the_broker_restarts_meanwhile() {
    for (waited_ms, present) in [(57_000, true), (60_000, false)] {
        with_one_and_four(|mut world| {
            let id = open(&mut world, 60);
            world.close(id, true);
            world.pass(20_000);
            world.snapshot();

            // A restart takes a second.
            let mut world = world.crash(1);
            world.pass(waited_ms - 21_000);

            assert_eq!(is_present(&mut world), present, "after {waited_ms} ms");
        });
    }
}

#[test]
fn a_session_whose_broker_was_killed_expires_from_the_restart_on() {
    with_one_and_four(|mut world| {
        open(&mut world, 60);
        world.pass(1_000_000);

        let mut world = world.crash(2);
        world.pass(59_000);
        assert!(is_present(&mut world), "while it was connected nothing ran out");

        let mut world = world.crash(3);
        world.pass(61_000);
        assert!(!is_present(&mut world));
    });
}

#[test]
fn a_disconnect_changes_the_expiry() {
    for (new, waited_s, present) in
        [(0, 0, false), (10, 9, true), (10, 11, false), (100, 99, true), (FOREVER, 1_000_000, true)]
    {
        with_one_and_four(|mut world| {
            let id = open(&mut world, 60);
            let close = Close { will: false, session_expiry_s: Some(new) };
            world.command(id, Command::Close(close));
            world.pass(waited_s * 1_000);

            assert_eq!(is_present(&mut world), present, "{new} s, after {waited_s} s");
        });
    }
}

#[test]
fn a_session_for_ever_is_there_after_ten_years_and_a_restart() {
    with_one_and_four(|mut world| {
        let id = open(&mut world, FOREVER);
        world.close(id, true);
        world.pass(5 * YEAR_MS);
        let mut world = world.crash(4);
        world.pass(5 * YEAR_MS);

        assert!(is_present(&mut world));
    });
}

#[test]
fn an_expired_session_leaves_nothing_and_a_new_one_begins_afresh() {
    with_one_and_four(|mut world| {
        let id = open(&mut world, 60);
        publish(&mut world, message("a/b", "old", QoS::ExactlyOnce));
        let delivery = world.deliveries(id).remove(0);
        let entries = vec![(7, delivery.id)];
        world.command(id, Command::Assign { token: Some(Token(1)), entries });
        let own = message("b", "mine", QoS::ExactlyOnce);
        assert_eq!(world.publish(id, own, Some(9)), Some(Ok(true)));
        world.close(id, true);
        world.pass(61_000);

        let kept = world.partitions.values().map(|partition| partition.views().sessions.len());
        assert_eq!(kept.sum::<usize>(), 0);
        publish(&mut world, message("a/b", "new", QoS::ExactlyOnce));
        let (id, opened) = world.open("client", false, 60);
        assert!(!opened.session_present);
        assert_eq!((opened.outbound.len(), opened.inbound.len()), (0, 0));
        assert_eq!(world.drain(id), Vec::<String>::new(), "subscriptions are gone");
        let own = message("b", "again", QoS::ExactlyOnce);
        assert_eq!(world.publish(id, own, Some(9)), Some(Ok(true)));
        assert_eq!(world.stored("b"), ["mine", "again"], "the packet id means another message");
    });
}

#[test]
fn a_connection_that_comes_as_the_session_expires_gets_a_whole_one_or_none() {
    for first_ms in 59_900..60_100 {
        let mut world = World::new(1);
        let id = open(&mut world, 60);
        world.close(id, true);
        world.pass(first_ms);

        let (id, opened) = world.open("client", false, 60);
        publish(&mut world, message("a/b", "x", QoS::AtLeastOnce));

        let expected: &[&str] = if opened.session_present { &["x"] } else { &[] };
        assert_eq!(world.drain(id), expected, "after {first_ms} ms");
        assert_eq!(opened.session_present, first_ms < 60_000);
    }
}

#[test]
fn a_session_whose_time_is_over_is_gone_also_when_no_tick_has_said_so() {
    for (waited_ms, present) in [(59_999, true), (60_000, false)] {
        with_one_and_four(|mut world| {
            let id = open(&mut world, 60);
            world.close(id, true);
            world.now = world.now.plus(waited_ms);

            assert_eq!(is_present(&mut world), present, "after {waited_ms} ms");
        });
    }
}

#[test]
fn what_is_left_of_an_expiry_is_said_live_offline_retained_and_after_a_restart() {
    with_one_and_four(|mut world| {
        let away = open(&mut world, FOREVER);
        world.close(away, false);
        let (live, _) = world.open("live", true, 0);
        world.subscribe(live, "a/#", |_| {}).expect("subscribes");
        publish(&mut world, expiring("x", 60, true));
        let left = |world: &mut World, id| {
            let deliveries = world.deliveries(id);
            deliveries.iter().map(|it| (text(it), it.message.expiry_s)).collect::<Vec<_>>()
        };
        assert_eq!(left(&mut world, live), [("x".to_owned(), Some(60))]);

        world.pass(20_000);
        let (late, _) = world.open("late", true, 0);
        world.subscribe(late, "a/#", |_| {}).expect("subscribes");
        assert_eq!(left(&mut world, late), [("x".to_owned(), Some(40))]);

        let mut world = world.crash(5);
        world.pass(9_000);
        let (back, _) = world.open("client", false, FOREVER);
        assert_eq!(left(&mut world, back), [("x".to_owned(), Some(30))]);
    });
}

#[test]
fn nothing_is_delivered_after_its_expiry() {
    with_one_and_four(|mut world| {
        let away = open(&mut world, FOREVER);
        world.close(away, false);
        publish(&mut world, expiring("x", 10, true));
        world.pass(9_000);

        // A restart takes a second: it is over at the moment that nothing is left.
        let mut world = world.crash(6);
        let (back, _) = world.open("client", false, FOREVER);
        assert_eq!(world.drain(back), Vec::<String>::new());
        let (late, _) = world.open("late", true, 0);
        world.subscribe(late, "a/#", |_| {}).expect("subscribes");
        assert_eq!(world.drain(late), Vec::<String>::new());
    });
}

#[test]
fn a_delivery_that_was_out_when_it_expired_is_not_sent_again() {
    with_one_and_four(|mut world| {
        let id = open(&mut world, FOREVER);
        publish(&mut world, Message { qos: QoS::ExactlyOnce, ..expiring("x", 10, false) });
        let delivery = world.deliveries(id).remove(0);
        let entries = vec![(7, delivery.id)];
        world.command(id, Command::Assign { token: Some(Token(1)), entries });

        let mut world = world.crash(7);
        world.pass(10_000);
        let (back, opened) = world.open("client", false, FOREVER);

        // PUBREL lets the client forget the number; the message itself does not go out.
        let [fluxmq::model::effect::Outbound::Release { packet_id: 7, .. }] = &opened.outbound[..]
        else {
            panic!("{:?}", opened.outbound)
        };
        assert_eq!(world.deliveries(back).len(), 0);
    });
}
