//! Nothing is delivered or stored that its user may not have, whatever path it takes; and a session is its user's.
//!
//! One test for each path, then a property over all of them with an oracle of its own (I22).

use bytes::Bytes;
use fluxmq::model::command::{Open, Will};
use fluxmq::model::{Command, Effect, Outcome, QoS, QueueName, Refusal, Token};
use fluxmq::partition::Options;
use fluxmq_log::sim_disk::SimDisk;
use proptest::prelude::*;

use super::world::{World, certified, message, open_command, text};

/// Everybody may do everything but read what is secret; queue and publish rights are whole.
const OPEN: &str = "topic #\ntopic $queue/#\npattern readwrite #\npattern readwrite $queue/#\n";
const SECRET: &str = "pattern readwrite #\npattern readwrite $queue/#\npattern deny read secret/#\n\
                      pattern deny read $queue/secret/#\n";

fn world() -> World {
    let mut world = World::new(3);
    world.rules(OPEN);
    world
}

fn qos_1(topic: &str, payload: &str) -> fluxmq::model::Message {
    message(topic, payload, QoS::AtLeastOnce)
}

fn payloads(world: &mut World, id: fluxmq::partition::request::ConnectionId) -> Vec<String> {
    world.drain(id)
}

#[test]
fn a_publish_that_is_not_allowed_is_refused_and_nothing_of_it_is_stored() {
    let mut world = World::new(3);
    world.rules("user p\ntopic write open/#\nuser r\ntopic read #\n");
    let reader = world.open_as("r", "reader", 60).unwrap();
    world.subscribe(reader, "#", |_| {}).unwrap();
    let publisher = world.open_as("p", "publisher", 60).unwrap();

    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let packet_id = (qos == QoS::ExactlyOnce).then_some(1);
        let refused = world.publish(publisher, message("closed/1", "no", qos), packet_id);
        assert_eq!(refused, Some(Err(Refusal::NotAuthorized)));
    }
    world.publish(publisher, message("closed/1", "no", QoS::AtMostOnce), None);
    let mut retained = qos_1("closed/1", "no");
    retained.retain = true;
    assert_eq!(world.publish(publisher, retained, None), Some(Err(Refusal::NotAuthorized)));
    let refused = world.publish(publisher, qos_1("$queue/jobs/1", "no"), None);
    assert_eq!(refused, Some(Err(Refusal::NotAuthorized)));
    assert_eq!(world.publish(publisher, qos_1("open/1", "yes"), None), Some(Ok(true)));

    assert_eq!(payloads(&mut world, reader), ["yes"]);
    assert_eq!(world.partitions.values().map(|it| it.views().retained.len()).sum::<usize>(), 0);
}

#[test]
fn live_deliveries_stop_when_the_right_does() {
    let mut world = world();
    let reader = world.open_as("r", "reader", 0).unwrap();
    world.subscribe(reader, "#", |_| {}).unwrap();
    let publisher = world.open_as("p", "publisher", 0).unwrap();
    let say = |world: &mut World, payload: &str| {
        world.publish(publisher, message("secret/1", payload, QoS::AtMostOnce), None);
        world.publish(publisher, qos_1("secret/1", payload), None);
        world.publish(publisher, qos_1("open/1", payload), None);
        world.drain(reader).len()
    };

    assert_eq!(say(&mut world, "before"), 3);
    world.rules(SECRET);
    assert_eq!(say(&mut world, "after"), 1);
    world.rules(OPEN);
    assert_eq!(say(&mut world, "again"), 3);
}

#[test]
fn retained_messages_are_checked_when_they_are_delivered() {
    let mut world = world();
    let publisher = world.open_as("p", "publisher", 0).unwrap();
    for topic in ["secret/1", "open/1"] {
        let mut retained = qos_1(topic, topic);
        retained.retain = true;
        world.publish(publisher, retained, None);
    }
    world.rules(SECRET);
    let reader = world.open_as("r", "reader", 60).unwrap();

    world.subscribe(reader, "#", |_| {}).unwrap();
    assert_eq!(payloads(&mut world, reader), ["open/1"]);
    assert_eq!(world.subscribe(reader, "secret/#", |_| {}), Err(Refusal::NotAuthorized));
    assert_eq!(payloads(&mut world, reader), [""; 0]);
}

#[test]
fn the_backlog_of_a_session_that_was_away_is_checked_too_and_the_session_moves_on() {
    let mut world = world();
    let reader = world.open_as("r", "reader", 600).unwrap();
    world.subscribe(reader, "#", |_| {}).unwrap();
    world.close(reader, false);
    let publisher = world.open_as("p", "publisher", 0).unwrap();
    for n in 0..300 {
        let topic = if n % 3 == 0 { "open/1" } else { "secret/1" };
        world.publish(publisher, qos_1(topic, &n.to_string()), None);
    }

    world.rules(SECRET);
    let reader = world.open_as("r", "reader", 600).unwrap();
    let found = payloads(&mut world, reader);

    assert_eq!(found.len(), 100);
    assert!(found.iter().all(|payload| payload.parse::<u32>().unwrap() % 3 == 0));
    world.close(reader, false);
    world.rules(OPEN);
    let reader = world.open_as("r", "reader", 600).unwrap();
    assert_eq!(payloads(&mut world, reader), [""; 0], "what was withheld is over");
}

#[test]
fn what_an_earlier_connection_left_unfinished_is_not_sent_again() {
    let mut world = world();
    let reader = world.open_as("r", "reader", 600).unwrap();
    world.subscribe(reader, "#", |_| {}).unwrap();
    let publisher = world.open_as("p", "publisher", 0).unwrap();
    world.publish(publisher, qos_1("secret/1", "one"), None);
    world.publish(publisher, message("secret/1", "two", QoS::ExactlyOnce), Some(1));
    world.publish(publisher, qos_1("open/1", "three"), None);
    let entries: Vec<_> = (1..).zip(world.deliveries(reader).iter().map(|it| it.id)).collect();
    assert_eq!(entries.len(), 3);
    world.command(reader, Command::Assign { token: Some(Token(1)), entries });
    world.close(reader, false);

    world.rules(SECRET);
    let id = world.connect();
    let Command::Open(open) = open_command("reader", false, 600) else { unreachable!() };
    world.command(id, Command::Open(Box::new(Open { peer: certified("r"), ..*open })));
    let opened = world.take(id, |effect| match effect {
        Effect::Opened(opened) => Some(opened.clone()),
        _ => None,
    });

    let sent: Vec<String> = opened
        .expect("opens")
        .outbound
        .iter()
        .filter_map(|item| match item {
            fluxmq::model::effect::Outbound::Publish { delivery, .. } => Some(text(delivery)),
            fluxmq::model::effect::Outbound::Release { .. } => None,
        })
        .collect();
    assert_eq!(sent, ["three"]);
}

/// A member of a shared subscription may have begun a delivery: PUBREL lets its client forget the number, the message is not said again.
#[test]
fn what_a_shared_subscription_had_begun_to_send_is_not_sent_again() {
    for (rules, expected) in [(OPEN, "publish"), (SECRET, "release")] {
        let mut world = world();
        let member = world.open_as("m", "member", 600).unwrap();
        world.subscribe(member, "$share/g/secret/#", |_| {}).unwrap();
        let publisher = world.open_as("p", "publisher", 0).unwrap();
        world.publish(publisher, message("secret/1", "one", QoS::ExactlyOnce), Some(1));
        let entries: Vec<_> = world.deliveries(member).iter().map(|it| (7, it.id)).collect();
        assert_eq!(entries.len(), 1);
        world.command(member, Command::Assign { token: Some(Token(1)), entries });
        world.close(member, false);

        world.rules(rules);
        let id = world.connect();
        let Command::Open(open) = open_command("member", false, 600) else { unreachable!() };
        world.command(id, Command::Open(Box::new(Open { peer: certified("m"), ..*open })));
        let opened = world.take(id, |effect| match effect {
            Effect::Opened(opened) => Some(opened.clone()),
            _ => None,
        });

        let outbound = opened.expect("opens").outbound;
        let said: Vec<(u16, &str)> = outbound
            .iter()
            .map(|item| match item {
                fluxmq::model::effect::Outbound::Publish { packet_id, .. } => {
                    (*packet_id, "publish")
                }
                fluxmq::model::effect::Outbound::Release { packet_id, .. } => {
                    (*packet_id, "release")
                }
            })
            .collect();
        assert_eq!(said, [(7, expected)]);
        assert_eq!(payloads(&mut world, id), [""; 0]);
    }
}

fn join(
    world: &mut World,
    user: &str,
) -> (fluxmq::partition::request::ConnectionId, Result<QoS, Refusal>) {
    let id = world.open_as(user, user, 60).unwrap();
    let joined = world.subscribe(id, "$share/g/$queue/secret/#", |_| {});
    (id, joined)
}

#[test]
fn a_member_that_may_not_have_every_entry_leaves_and_its_entries_go_to_others() {
    let mut world = world();
    let (first, joined) = join(&mut world, "first");
    joined.unwrap();
    let publisher = world.open_as("p", "publisher", 0).unwrap();
    world.publish(publisher, qos_1("$queue/secret/1", "one"), None);
    assert_eq!(world.deliveries(first).len(), 1, "handed out and not settled");

    world.rules("pattern readwrite #\npattern write $queue/#\nuser second\ntopic read $queue/#\n");
    world.publish(publisher, qos_1("$queue/secret/1", "two"), None);
    assert_eq!(payloads(&mut world, first), [""; 0]);
    let (second, joined) = join(&mut world, "second");
    joined.unwrap();
    let mut found = payloads(&mut world, second);
    found.sort();

    assert_eq!(found, ["one", "two"]);
    let again = world.subscribe(first, "$share/g/$queue/secret/#", |_| {});
    assert_eq!(again, Err(Refusal::NotAuthorized));
    world.rules(OPEN);
    world.subscribe(first, "$share/g/$queue/secret/#", |_| {}).unwrap();
    world.close(second, false);
    world.publish(publisher, qos_1("$queue/secret/1", "three"), None);
    assert_eq!(payloads(&mut world, first), ["three"]);
}

#[test]
fn a_group_is_joined_only_by_who_may_read_all_of_it_and_settled_by_who_may_read_some() {
    let mut world = World::new(3);
    world.rules(
        "user w\ntopic read $queue/jobs/eu/#\ntopic write $queue/#\nuser p\ntopic write $queue/#\n",
    );
    let worker = world.open_as("w", "worker", 60).unwrap();

    assert_eq!(world.subscribe(worker, "$queue/jobs/#", |_| {}), Err(Refusal::NotAuthorized));
    let joined = world.subscribe(worker, "$queue/jobs/eu/#", |it| it.settle_explicit = true);
    assert_eq!(joined, Ok(QoS::AtLeastOnce));
    let producer = world.open_as("p", "producer", 60).unwrap();
    world.publish(producer, qos_1("$queue/jobs/eu/1", "one"), None);
    assert_eq!(world.deliveries(worker).len(), 1);

    let name = |name: &'static str| QueueName::new(Bytes::from(name)).unwrap();
    let mut settle = |id, token, commit| {
        let (queue, group, token) = (name("jobs"), name("worker"), Token(token));
        let command = match commit {
            true => Command::CommitCursor { token, queue, group, offset: 1 },
            false => {
                let outcome = Outcome::Accepted;
                Command::SettleEntry { token, queue, group, offset: 0, outcome }
            }
        };
        world.command(id, command);
        world.take(id, |effect| match effect {
            Effect::Confirm { token: answered, result } if *answered == token => {
                Some(result.clone())
            }
            _ => None,
        })
    };
    assert_eq!(settle(producer, 900, false), Some(Err(Refusal::NotAuthorized)));
    assert_eq!(settle(worker, 901, true), Some(Err(Refusal::NotAuthorized)));
    assert_eq!(settle(worker, 902, false), Some(Ok(true)));
}

fn open_with_will(
    world: &mut World,
    user: &str,
    topic: &str,
) -> Result<fluxmq::partition::request::ConnectionId, Refusal> {
    let id = world.connect();
    let Command::Open(open) = open_command(user, false, 60) else { unreachable!() };
    let will = Some(Will { message: qos_1(topic, "gone"), delay_s: 0 });
    world.command(id, Command::Open(Box::new(Open { peer: certified(user), will, ..*open })));
    let opened = world.take(id, |effect| match effect {
        Effect::Opened(_) => Some(Ok(id)),
        Effect::OpenRefused(refusal) => Some(Err(refusal.clone())),
        _ => None,
    });
    opened.expect("answered")
}

#[test]
fn a_will_is_authorized_when_it_is_left_and_again_when_it_goes_out() {
    let mut world = World::new(3);
    world.rules("user w\ntopic write wills/#\nuser r\ntopic read #\n");
    let reader = world.open_as("r", "reader", 0).unwrap();
    world.subscribe(reader, "#", |_| {}).unwrap();

    let refused = open_with_will(&mut world, "w", "other/1");
    assert_eq!(refused, Err(Refusal::NotAuthorized));
    let first = open_with_will(&mut world, "w", "wills/1").unwrap();
    world.close(first, true);
    assert_eq!(payloads(&mut world, reader), ["gone"]);
    let second = open_with_will(&mut world, "w", "wills/1").unwrap();
    world.rules("user r\ntopic read #\n");
    world.close(second, true);
    assert_eq!(payloads(&mut world, reader), [""; 0]);
}

/// The log and its snapshots say whose a will is: it goes out by its owner's rights though nobody is connected as that user.
#[test]
fn a_will_is_its_owners_through_snapshot_and_crash() {
    let allowed = "user w\ntopic write wills/#\nuser r\ntopic read #\n";
    for (snapshots, rules, expected) in [
        (false, allowed, vec!["gone"]),
        (true, allowed, vec!["gone"]),
        (true, "user w\ntopic write other\nuser r\ntopic readwrite #\n", vec![]),
    ] {
        let mut world = World::new(3);
        world.rules(allowed);
        open_with_will(&mut world, "w", "wills/1").unwrap();
        if snapshots {
            world.snapshot();
        }

        world.rules(rules);
        let mut world = world.crash(5);
        world.pass(10_000);

        assert_eq!(world.stored("wills/1"), expected, "snapshots: {snapshots}");
        assert!(world.wills_are_over());
    }
}

#[test]
fn somebody_elses_session_is_refused_and_not_touched() {
    for holder_is_connected in [true, false] {
        let mut world = world();
        let owner = world.open_as("alice", "device", 600).unwrap();
        world.subscribe(owner, "t", |_| {}).unwrap();
        if !holder_is_connected {
            world.close(owner, false);
            world.snapshot();
            world = world.crash(3);
        }

        for user in ["bob", ""] {
            let refused = match user {
                "" => {
                    let id = world.connect();
                    world.command(id, open_command("device", true, 0));
                    world.take(id, |effect| match effect {
                        Effect::OpenRefused(refusal) => Some(refusal.clone()),
                        _ => None,
                    })
                }
                user => world.open_as(user, "device", 0).err(),
            };
            assert_eq!(refused, Some(Refusal::NotOwner), "'{user}'");
        }

        let publisher = world.open_as("p", "publisher", 0).unwrap();
        world.publish(publisher, qos_1("t", "kept"), None);
        let owner = match holder_is_connected {
            true => owner,
            false => world.open_as("alice", "device", 600).unwrap(),
        };
        assert_eq!(payloads(&mut world, owner), ["kept"]);
    }
}

#[test]
fn a_session_that_is_nobodys_becomes_that_of_the_user_who_opens_it() {
    let mut world = world();
    let (anonymous, _) = world.open("device", false, 600);
    world.subscribe(anonymous, "t", |_| {}).unwrap();
    world.close(anonymous, false);
    let publisher = world.open_as("p", "publisher", 0).unwrap();
    world.publish(publisher, qos_1("t", "kept"), None);

    let alice = world.open_as("alice", "device", 600).unwrap();

    assert_eq!(payloads(&mut world, alice), ["kept"]);
    assert_eq!(world.open_as("bob", "device", 600).err(), Some(Refusal::NotOwner));
}

#[test]
fn a_user_has_a_bounded_number_of_sessions() {
    let options = Options { sessions_per_user_max: 3, ..Options::default() };
    let mut world = World::with(SimDisk::new(1), 1, options).unwrap();
    for n in 0..3 {
        let id = world.open_as("alice", &format!("c{n}"), 600).unwrap();
        world.close(id, false);
    }

    let refused = world.open_as("alice", "c3", 600).err();
    let resumed = world.open_as("alice", "c2", 600);
    let unstored = world.open_as("alice", "c4", 0);
    let other = world.open_as("bob", "c5", 600);

    assert!(matches!(refused, Some(Refusal::Quota { .. })), "{refused:?}");
    assert!(resumed.is_ok() && unstored.is_ok() && other.is_ok());
}

/// Topics and who may do what with each, in a table that has nothing to do with filters.
const TOPICS: [&str; 4] = ["a", "b/1", "b/2", "c/1/2"];

#[derive(Clone, Debug)]
enum Step {
    Publish {
        topic: usize,
        qos: u8,
        retain: bool,
    },
    Subscribe {
        reader: usize,
        filter: usize,
    },
    Rules {
        read: [u8; 2],
        write: u8,
    },
    /// Away when it was there, there when it was away.
    ComeOrGo {
        reader: usize,
    },
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..4, 0u8..3, any::<bool>())
            .prop_map(|(topic, qos, retain)| Step::Publish { topic, qos, retain }),
        3 => (0usize..2, 0usize..5).prop_map(|(reader, filter)| Step::Subscribe { reader, filter }),
        2 => (any::<[u8; 2]>(), any::<u8>())
            .prop_map(|(read, write)| Step::Rules { read, write: write | 1 }),
        3 => (0usize..2).prop_map(|reader| Step::ComeOrGo { reader }),
        1 => Just(Step::Crash),
    ]
}

/// Writes the table as an access list.
fn list_of(read: [u8; 2], write: u8) -> String {
    let mut list = String::new();
    for (reader, bits) in read.into_iter().enumerate() {
        list += &format!("user r{reader}\n");
        for topic in (0..4).filter(|topic| bits >> topic & 1 == 1) {
            list += &format!("topic read {}\n", TOPICS[topic]);
        }
    }
    list += "user p\n";
    for topic in (0..4).filter(|topic| write >> topic & 1 == 1) {
        list += &format!("topic write {}\n", TOPICS[topic]);
    }
    list
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// I22: every delivery is allowed by the rules of the moment it is handed over, every stored publish by those of its moment.
    #[test]
    fn nothing_is_delivered_or_stored_that_the_rules_of_the_moment_forbid(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(2);
        let (mut read, mut write) = ([0xff, 0xff], 0xff);
        world.rules(&list_of(read, write));
        let open = |world: &mut World, reader: usize| {
            world.open_as(&format!("r{reader}"), &format!("c{reader}"), 600).expect("opens")
        };
        let mut readers = [0, 1].map(|reader| Some(open(&mut world, reader)));
        let mut publisher = world.open_as("p", "publisher", 0).expect("opens");
        let mut packet_id = 0;
        for step in steps {
            match step {
                Step::Publish { topic, qos, retain } => {
                    packet_id += 1;
                    let qos = QoS::from_bits(qos).expect("0 to 2");
                    let allowed = write >> topic & 1 == 1;
                    let mut sent =
                        message(TOPICS[topic], if allowed { "allowed" } else { "forbidden" }, qos);
                    sent.retain = retain;
                    let number = (qos == QoS::ExactlyOnce).then_some(packet_id);
                    let answer = world.publish(publisher, sent, number);
                    if let Some(answer) = answer {
                        prop_assert_eq!(answer.is_ok(), allowed);
                    }
                }
                Step::Subscribe { reader, filter } => {
                    let filter = ["#", "+/+", "b/#", "c/+/2", "a"][filter];
                    if let Some(id) = readers[reader] {
                        let _ = world.subscribe(id, filter, |_| {});
                    }
                }
                Step::Rules { read: new_read, write: new_write } => {
                    (read, write) = (new_read, new_write);
                    world.rules(&list_of(read, write));
                }
                Step::ComeOrGo { reader } => match readers[reader].take() {
                    Some(id) => world.close(id, false),
                    None => readers[reader] = Some(open(&mut world, reader)),
                },
                Step::Crash => {
                    world = world.crash(u64::from(packet_id));
                    readers = [0, 1].map(|reader| Some(open(&mut world, reader)));
                    publisher = world.open_as("p", "publisher", 0).expect("opens");
                }
            }
            for (reader, id) in readers.into_iter().enumerate() {
                let Some(id) = id else { continue };
                for delivery in world.deliveries(id) {
                    let topic = delivery.message.topic.as_str();
                    let topic = TOPICS.iter().position(|it| *it == topic).expect("one of ours");
                    prop_assert_eq!(text(&delivery), "allowed");
                    prop_assert!(read[reader] >> topic & 1 == 1, "{} got {}", reader, TOPICS[topic]);
                    let outcome = Outcome::Accepted;
                    world.say(id, Command::Settle { delivery: delivery.id, outcome });
                }
                world.run();
            }
        }
    }
}
