//! Wills: published once, when and only when their connection ended abnormally, through crashes at every step.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq::model::command::{Close, Credentials, Open, Will};
use fluxmq::model::record::{DedupKey, Tenure};
use fluxmq::model::{Command, Message, PartitionId, Properties, Property, QoS, Refusal, Token};
use fluxmq::partition::Partition;
use fluxmq::partition::request::{ConnectionId, Publish, Request, Target};
use fluxmq_log::sim_disk::SimDisk;

use crate::world::{World, here, message, text, with_one_and_four};

const FOREVER: u32 = u32::MAX;

/// How a client with a will opens.
#[derive(Clone, Copy)]
struct Mortal {
    clean_start: bool,
    expiry_s: u32,
    delay_s: u32,
    topic: &'static str,
}

const MORTAL: Mortal = Mortal { clean_start: false, expiry_s: 300, delay_s: 10, topic: "will" };

fn open_with(world: &mut World, mortal: Mortal, will: Message) -> ConnectionId {
    let id = world.connect();
    let open = Open {
        peer: here(),
        credentials: Credentials::None,
        client_id: Bytes::from_static(b"mortal"),
        clean_start: mortal.clean_start,
        session_expiry_s: mortal.expiry_s,
        inflight_max: 64,
        will: Some(Will { message: will, delay_s: mortal.delay_s }),
    };
    world.command(id, Command::Open(Box::new(open)));
    id
}

fn open(world: &mut World, mortal: Mortal, payload: &str) -> ConnectionId {
    open_with(world, mortal, message(mortal.topic, payload, QoS::AtLeastOnce))
}

fn lose(world: &mut World, id: ConnectionId) {
    world.close(id, true);
}

#[test]
fn a_will_of_a_connection_that_was_open_goes_out_after_a_crash_and_its_delay() {
    with_one_and_four(|mut world| {
        open(&mut world, MORTAL, "gone");

        let mut world = world.crash(1);
        world.pass(9_000);
        assert_eq!(world.stored("will"), Vec::<String>::new());
        world.pass(1_000);
        assert_eq!(world.stored("will"), ["gone"]);
        world.pass(100_000);
        assert_eq!(world.stored("will"), ["gone"], "once");
        assert!(world.wills_are_over());
    });
}

/// A process that was stopped goes on with what it was told before another one published the will and its home said that it is over.
#[test]
fn a_will_that_is_over_is_not_stored_again_when_a_process_is_late() {
    with_one_and_four(|mut world| {
        let id = open(&mut world, Mortal { delay_s: 0, ..MORTAL }, "gone");
        let open = world.partitions.values().flat_map(|partition| partition.views().wills.open());
        let left: Vec<_> = open.map(|(_, epoch, will)| (epoch, will.message.clone())).collect();
        let [(epoch, will)] = &left[..] else { panic!("{left:?}") };
        lose(&mut world, id);
        world.pass(100);
        assert_eq!(world.stored("will"), ["gone"]);
        assert!(world.wills_are_over());

        let late = Publish {
            is_kept: false,
            token: Some(Token(1)),
            message: Arc::new(will.clone()),
            dedup: DedupKey { incarnation: epoch.0 as u32, seq: DedupKey::WILL },
            tenure: Tenure::default(),
            target: Target::Topic,
            input: None,
        };
        let is_there = |(_, partition): &(&PartitionId, &Partition<SimDisk>)| {
            !partition.views().dedup.is_empty()
        };
        let target = *world.partitions.iter().find(is_there).expect("the will is known").0;
        for _ in 0..2 {
            world.ask(target, Request::Publish(late.clone()));
            assert_eq!(world.stored("will"), ["gone"], "once");
            world.snapshot();
            world = world.crash(5);
        }
        assert!(world.wills_are_over(), "an hour later it is forgotten");
    });
}

#[test]
fn a_client_that_returns_in_time_after_a_crash_cancels_its_will() {
    with_one_and_four(|mut world| {
        open(&mut world, MORTAL, "gone");

        let mut world = world.crash(2);
        world.pass(5_000);
        let back = open(&mut world, MORTAL, "second");
        world.pass(100_000);
        assert_eq!(world.stored("will"), Vec::<String>::new());

        world.close(back, false);
        assert!(world.wills_are_over());
    });
}

#[test]
fn a_will_of_a_session_that_is_not_stored_survives_a_crash_too() {
    with_one_and_four(|mut world| {
        // Its session ends with the connection: no delay counts [MQTT-3.1.3-9].
        open(&mut world, Mortal { clean_start: true, expiry_s: 0, ..MORTAL }, "gone");

        let mut world = world.crash(3);
        world.pass(100);

        assert_eq!(world.stored("will"), ["gone"]);
        assert!(world.wills_are_over());
    });
}

#[test]
fn clients_without_a_will_write_nothing_for_it() {
    with_one_and_four(|mut world| {
        let before = world.log_bytes();
        let (id, _) = world.open("plain", true, 0);
        world.close(id, true);
        assert_eq!(world.log_bytes(), before);
    });
}

#[test]
fn a_disconnect_can_shorten_the_wait() {
    with_one_and_four(|mut world| {
        let id = open(&mut world, Mortal { delay_s: 60, ..MORTAL }, "gone");
        let close = Close { will: true, session_expiry_s: Some(20) };
        world.command(id, Command::Close(close));

        world.pass(19_000);
        assert_eq!(world.stored("will"), Vec::<String>::new());
        world.pass(1_100);
        assert_eq!(world.stored("will"), ["gone"], "the session is over [MQTT-3.1.3-9]");
    });
}

/// MQTT 5 §3.1.4: the old connection's will goes out when it has no delay, or the new connection ends the session.
#[test]
fn a_takeover_publishes_the_will_unless_its_delay_is_cut_short() {
    for (delay_s, expiry_s, clean_start, published) in [
        (0, 300, false, true),
        (0, 300, true, true),
        (10, 300, true, true),
        (10, 300, false, false),
        (10, 0, false, true),
    ] {
        with_one_and_four(|mut world| {
            let old = open(&mut world, Mortal { delay_s, expiry_s, ..MORTAL }, "old");
            // What reads is let go of first: its end came before that, and the protocol's goodbye took the will along.
            world.subscribe(old, "a/#", |_| {}).expect("subscribes");
            let new = open(&mut world, Mortal { clean_start, ..MORTAL }, "new");
            world.pass(100_000);

            let expected: &[&str] = if published { &["old"] } else { &[] };
            let case = (delay_s, expiry_s, clean_start);
            assert_eq!(world.stored("will"), expected, "{case:?}");
            world.close(new, false);
            assert!(world.wills_are_over(), "{case:?}");
        });
    }
}

#[test]
fn a_clean_start_within_the_delay_ends_the_session_and_publishes_the_will() {
    with_one_and_four(|mut world| {
        let lost = open(&mut world, MORTAL, "old");
        lose(&mut world, lost);
        world.pass(1_000);

        open(&mut world, Mortal { clean_start: true, ..MORTAL }, "new");

        assert_eq!(world.stored("will"), ["old"]);
    });
}

#[test]
fn a_connection_that_vanished_while_it_was_opening_leaves_its_will() {
    with_one_and_four(|mut world| {
        let id = world.connect();
        let will = Will { message: message("will", "gone", QoS::AtLeastOnce), delay_s: 0 };
        let open = Open {
            peer: here(),
            credentials: Credentials::None,
            client_id: Bytes::from_static(b"mortal"),
            clean_start: true,
            session_expiry_s: 300,
            inflight_max: 64,
            will: Some(will),
        };
        world.say(id, Command::Open(Box::new(open)));
        world.turn(false);
        world.vanish(id);

        assert_eq!(world.stored("will"), ["gone"]);
        let (_, opened) = world.open("mortal", false, FOREVER);
        assert!(opened.session_present, "the session waits for its expiry");
    });
}

#[test]
fn a_will_carries_everything_its_publisher_said() {
    let properties = Properties::encode(&[
        Property::PayloadFormat(true),
        Property::ContentType(Bytes::from_static(b"text/plain")),
        Property::ResponseTopic(Bytes::from_static(b"answers")),
        Property::CorrelationData(Bytes::from_static(b"7")),
        Property::User(Bytes::from_static(b"k"), Bytes::from_static(b"v")),
    ]);
    with_one_and_four(|mut world| {
        let will = Message {
            retain: true,
            expiry_s: Some(60),
            properties: properties.clone(),
            ..message("will", "gone", QoS::ExactlyOnce)
        };
        open_with(&mut world, MORTAL, will);
        let mut world = world.crash(4);
        world.pass(10_000);
        // That its time has come is written down by a tick that knows of the crash.
        world.pass(0);
        world.pass(5_000);

        let (late, _) = world.open("late", true, 0);
        world.subscribe(late, "will", |_| {}).expect("subscribes");
        let deliveries = world.deliveries(late);

        let [delivery] = deliveries.as_slice() else { panic!("not one: {deliveries:?}") };
        assert_eq!((text(delivery), delivery.retain), ("gone".to_owned(), true));
        assert_eq!(delivery.qos, QoS::ExactlyOnce);
        assert_eq!(delivery.message.expiry_s, Some(55), "counted from its publication");
        assert_eq!(delivery.message.properties, properties);
    });
}

#[test]
fn a_will_can_go_to_a_queue() {
    with_one_and_four(|mut world| {
        let lost = open(&mut world, Mortal { topic: "$queue/q/x", delay_s: 0, ..MORTAL }, "gone");
        lose(&mut world, lost);

        let (consumer, _) = world.open("consumer", true, 0);
        world
            .subscribe(consumer, "$queue/q/#", |s| {
                s.position = Some(Bytes::from_static(b"earliest"))
            })
            .expect("joins");
        assert_eq!(world.drain(consumer), ["gone"]);
    });
}

#[test]
fn a_will_whose_target_is_full_waits_for_room() {
    with_one_and_four(|mut world| {
        let full = |world: &mut World, full| {
            world.partitions.values_mut().for_each(|partition| partition.set_disk_full(full));
        };
        let lost = open(&mut world, Mortal { delay_s: 0, ..MORTAL }, "gone");
        full(&mut world, true);
        lose(&mut world, lost);
        let (publisher, _) = world.open("publisher", true, 0);
        let refused = world.publish(publisher, message("a", "x", QoS::AtLeastOnce), None);
        assert_eq!(refused, Some(Err(Refusal::DiskFull)));
        world.pass(20_000);
        assert_eq!(world.stored("will"), Vec::<String>::new());

        full(&mut world, false);
        world.pass(10_000);

        assert_eq!(world.stored("will"), ["gone"]);
        assert!(world.wills_are_over());
    });
}

/// The power goes after every single operation on the disk between the connection's end and the last record of its will, once and
/// then again during what follows. The topic is at home in another partition than the session wherever there are several.
#[test]
fn a_will_is_published_once_wherever_the_power_goes() {
    let mut points = 0;
    for data_partitions in [1, 4] {
        for delay_s in [0, 10] {
            let operations = lose_and_crash(data_partitions, delay_s, &[u64::MAX]);
            for point in 0..=operations {
                lose_and_crash(data_partitions, delay_s, &[point]);
                for second in [1, 3, 5, 8, 13] {
                    lose_and_crash(data_partitions, delay_s, &[point, second]);
                }
                points += 6;
            }
        }
    }
    assert!(points > 200, "only {points} crash points");
}

/// Returns how many operations on the disk the end of the connection and its will took.
fn lose_and_crash(data_partitions: u16, delay_s: u32, crashes: &[u64]) -> u64 {
    let mut world = World::new(data_partitions);
    let id = open(&mut world, Mortal { delay_s, ..MORTAL }, "gone");
    let before = world.disk.operations();
    for (number, point) in crashes.iter().enumerate() {
        world.disk.set_crash_after(world.disk.operations().saturating_add(*point));
        if number == 0 {
            lose(&mut world, id);
        }
        for _ in 0..12 {
            world.pass(1_000);
        }
        if *point == u64::MAX {
            break;
        }
        world = world.crash(*point);
    }
    let operations = world.disk.operations() - before.min(world.disk.operations());
    for _ in 0..12 {
        world.pass(1_000);
    }

    assert_eq!(world.stored("will"), ["gone"], "{data_partitions} {delay_s} {crashes:?}");
    // The target may have missed that it can forget the will's key: then that lapses.
    let is_over = world.partitions.values().all(|partition| partition.views().wills.is_empty());
    assert!(is_over, "{data_partitions} {delay_s} {crashes:?}");
    operations
}
