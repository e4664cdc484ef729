//! What bad input to queues gets, over MQTT: the exact code and words, and nothing is changed by it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fluxmq::model::queue::{
    DeadLetterTarget, DeadLetters, Lifetime, Overflow, QueueKind, QueueLimits,
};
use fluxmq::model::{PeerInfo, QoS, QueueName, QueueSettings};
use fluxmq::partition::Options;
use fluxmq::partition::request::{ConnectionId, QueueAction, QueueStats};
use fluxmq::protocol::Connection;
use fluxmq::protocol::mqtt::codec::{Limits, decode, encode};
use fluxmq::protocol::mqtt::types::{Connect, Publish, Subscribe, SubscribeFilter};
use fluxmq::protocol::mqtt::{
    MqttConnection, Packet, Property, PropertyList, ReasonCode, Settings, Version,
};
use fluxmq_index::Offset;
use fluxmq_log::sim_disk::SimDisk;

use crate::world::World;

/// A topic, what it says in user properties, and the answer: code and words.
type Settling<'a> = (&'a str, Vec<(&'a str, &'a str)>, ReasonCode, &'a str);
/// The same of a filter.
type Subscribing<'a> = (&'a str, QoS, &'a [(&'a str, &'a str)], ReasonCode, &'a str);

/// A client that says one thing at a time and waits for the answer.
struct Talker {
    id: ConnectionId,
    connection: MqttConnection,
    version: Version,
    packet_id: u16,
}

impl Talker {
    fn connect(world: &mut World, client_id: &'static str, version: Version) -> Talker {
        let settings = Arc::new(Settings::default());
        let peer = PeerInfo::tcp(SocketAddr::from(([127, 0, 0, 1], 40_000)));
        let assigned = Bytes::from_static(b"auto");
        let connection = MqttConnection::new(settings, peer, assigned, world.now);
        let mut talker = Talker { id: world.connect(), connection, version, packet_id: 0 };
        let connect = Connect {
            version,
            clean_start: true,
            keep_alive_s: 0,
            client_id: Bytes::from_static(client_id.as_bytes()),
            will: None,
            username: None,
            password: None,
            properties: PropertyList::default(),
        };
        let answers = talker.say(world, &Packet::Connect(Box::new(connect)));
        assert!(matches!(answers[..], [Packet::ConnAck(_)]), "{answers:?}");
        talker
    }

    fn say(&mut self, world: &mut World, packet: &Packet) -> Vec<Packet> {
        let mut input = BytesMut::new();
        encode(packet, self.version, &mut input).expect("short packets");
        self.connection.handle_input(world.now, &mut input);
        let mut answers = Vec::new();
        for _ in 0..8 {
            while let Some(command) = self.connection.poll_command() {
                world.say(self.id, command);
            }
            world.run();
            for effect in world.take_effects(self.id) {
                self.connection.handle_effect(world.now, effect);
            }
            let mut out = BytesMut::new();
            self.connection.poll_transmit(world.now, &mut out, usize::MAX);
            while let Some(packet) =
                decode(&mut out, Some(self.version), &Limits::default()).expect("packets")
            {
                answers.push(packet);
            }
        }
        answers
    }

    /// Publishes at QoS 1; returns the code and the words of PUBACK.
    fn publish(
        &mut self,
        world: &mut World,
        topic: &str,
        said: &[(&str, &str)],
    ) -> (ReasonCode, String) {
        self.packet_id += 1;
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: Bytes::from(topic.to_owned()),
            packet_id: self.packet_id,
            properties: users(said),
            payload: Bytes::from_static(b"x"),
        };
        let answers = self.say(world, &Packet::Publish(publish));
        let mut acks = answers.into_iter().filter_map(|packet| match packet {
            Packet::PubAck(ack) => Some((ack.reason, words(&ack.properties))),
            _ => None,
        });
        acks.next().expect("PUBACK")
    }

    fn subscribe(
        &mut self,
        world: &mut World,
        filter: &str,
        qos: QoS,
        said: &[(&str, &str)],
    ) -> (ReasonCode, String) {
        self.packet_id += 1;
        let subscribe = Subscribe {
            packet_id: self.packet_id,
            properties: users(said),
            filters: vec![SubscribeFilter::new(Bytes::from(filter.to_owned()), qos)],
        };
        let answers = self.say(world, &Packet::Subscribe(subscribe));
        let mut acks = answers.into_iter().filter_map(|packet| match packet {
            Packet::SubAck(ack) => Some((ack.reasons[0], words(&ack.properties))),
            _ => None,
        });
        acks.next().expect("SUBACK")
    }
}

fn users(said: &[(&str, &str)]) -> PropertyList {
    let user = |(key, value): &(&str, &str)| {
        Property::User(Bytes::from((*key).to_owned()), Bytes::from((*value).to_owned()))
    };
    said.iter().map(user).collect()
}

fn words(properties: &PropertyList) -> String {
    let mut reasons = properties.iter().filter_map(|property| match property {
        Property::ReasonString(text) => Some(String::from_utf8_lossy(&text).into_owned()),
        _ => None,
    });
    reasons.next().unwrap_or_default()
}

/// A queue of ten, of which one reader of `workers` has all and has settled two.
fn filled(data_partitions: u16) -> (World, Talker, Talker) {
    let mut world = World::new(data_partitions);
    let mut talker = Talker::connect(&mut world, "talker", Version::V5);
    for _ in 0..10 {
        let (reason, _) = talker.publish(&mut world, "$queue/jobs/key", &[]);
        assert_eq!(reason, ReasonCode::SUCCESS);
    }
    let mut member = Talker::connect(&mut world, "member", Version::V5);
    let said = [("consumer-group", "workers"), ("settle", "explicit")];
    let (granted, _) = member.subscribe(&mut world, "$queue/jobs/#", QoS::AtLeastOnce, &said);
    assert_eq!(granted, ReasonCode::GRANTED_QOS_1);
    for offset in ["0", "1"] {
        let name = format!("jobs:{offset}");
        let said = [("message-id", name.as_str()), ("group-id", "workers")];
        let (reason, _) = talker.publish(&mut world, "$queue/jobs/$ack", &said);
        assert_eq!(reason, ReasonCode::SUCCESS);
    }
    (world, talker, member)
}

fn state(world: &mut World) -> (QueueStats, usize) {
    let queues = world.partitions.values().map(|partition| partition.views().queues.iter().count());
    let count = queues.sum();
    (world.stats("jobs"), count)
}

#[test]
fn settling_what_cannot_be_settled_is_answered_and_settles_nothing() {
    for partitions in [1, 4] {
        let (mut world, mut talker, _member) = filled(partitions);
        let before = state(&mut world);
        let (taken, invalid) =
            (ReasonCode::NO_MATCHING_SUBSCRIBERS, ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR);
        let named = ReasonCode::TOPIC_NAME_INVALID;
        let of = |id, group| [("message-id", id), ("group-id", group)];
        let cases: [Settling; 22] = [
            ("$queue/jobs/$ack", of("jobs:0", "workers").into(), taken, ""),
            ("$queue/jobs/$nack", of("jobs:0", "workers").into(), taken, ""),
            ("$queue/jobs/$reject", of("jobs:1", "workers").into(), taken, ""),
            ("$queue/jobs/$ack", of("jobs:99", "workers").into(), taken, ""),
            ("$queue/jobs/$ack", of("jobs:18446744073709551615", "workers").into(), taken, ""),
            ("$queue/jobs/$ack", of("jobs:3", "nobody").into(), taken, ""),
            ("$queue/none/$ack", of("none:3", "workers").into(), taken, ""),
            ("$queue/jobs/$ack", of("other:3", "workers").into(), invalid, "names queue 'other'"),
            ("$queue/jobs/$ack", of("jobs", "workers").into(), invalid, "'<queue>:<offset>'"),
            ("$queue/jobs/$ack", of("jobs:-1", "workers").into(), invalid, "'<queue>:<offset>'"),
            ("$queue/jobs/$ack", vec![("group-id", "workers")], invalid, "'message-id' is missing"),
            ("$queue/jobs/$ack", vec![("message-id", "jobs:3")], invalid, "'group-id' is missing"),
            ("$queue/jobs/$ack", of("jobs:3", "a/b").into(), named, "a name must have"),
            (
                "$queue/jobs/$nack",
                vec![("message-id", "jobs:3"), ("group-id", "workers"), ("x-delay", "soon")],
                invalid,
                "'x-delay' must be a number",
            ),
            ("$queue/jobs/$ack/3", Vec::new(), named, "'$ack' must be the last level"),
            ("$queue/jobs/$commit/a/$ack", Vec::new(), named, "'$commit' must be the last level"),
            ("$queue//$ack", of("jobs:3", "workers").into(), named, "a name must have"),
            ("$queue", Vec::new(), named, "not an address"),
            ("$share/workers/$queue/jobs", Vec::new(), named, "not an address"),
            ("$dlq/jobs", Vec::new(), named, "not an address"),
            (
                "$queue/jobs/$commit",
                vec![("x-group-id", "nobody"), ("x-offset", "3")],
                invalid,
                "no such queue or consumer group",
            ),
            (
                "$queue/jobs/$commit",
                vec![("x-group-id", "workers"), ("x-offset", "three")],
                invalid,
                "'x-offset' must be a decimal number",
            ),
        ];
        for (topic, said, reason, text) in cases {
            let (answer, why) = talker.publish(&mut world, topic, &said);
            assert_eq!(answer, reason, "{topic} {said:?}: {why}");
            assert!(why.contains(text), "{topic} {said:?}: {why}");
            assert_eq!(state(&mut world), before, "{topic} {said:?}");
        }
    }
}

#[test]
fn subscriptions_that_cannot_be_are_refused_and_nothing_is_declared_or_moved() {
    for partitions in [1, 4] {
        let (mut world, mut talker, _member) = filled(partitions);
        world.declare("mine", QueueSettings { exclusive: true, ..QueueSettings::default() });
        let mut owner = Talker::connect(&mut world, "owner", Version::V5);
        owner.subscribe(&mut world, "$queue/mine", QoS::AtLeastOnce, &[]);
        let before = state(&mut world);
        let (invalid, filter) =
            (ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR, ReasonCode::TOPIC_FILTER_INVALID);
        let cases: [Subscribing; 12] = [
            ("$queue/jobs", QoS::AtMostOnce, &[], invalid, "needs QoS 1 or 2"),
            ("$queue/new", QoS::AtMostOnce, &[], invalid, "needs QoS 1 or 2"),
            ("$queue/mine", QoS::AtLeastOnce, &[], invalid, "is exclusive"),
            (
                "$queue/jobs",
                QoS::AtLeastOnce,
                &[("cursor", "yesterday")],
                invalid,
                "is no position",
            ),
            (
                "$queue/jobs",
                QoS::AtLeastOnce,
                &[("cursor", "offset=-1")],
                invalid,
                "is no position",
            ),
            (
                "$queue/jobs",
                QoS::AtLeastOnce,
                &[("consumer-group", "a/b")],
                invalid,
                "is not a name",
            ),
            ("$queue/jobs", QoS::AtLeastOnce, &[("settle", "never")], invalid, "'settle' must be"),
            ("$queue/", QoS::AtLeastOnce, &[], filter, "a name must have"),
            ("$queue", QoS::AtLeastOnce, &[], filter, "not an address"),
            ("$queue/+/x", QoS::AtLeastOnce, &[], filter, "a name must have"),
            ("$queue/jobs/#/x", QoS::AtLeastOnce, &[], filter, "must stand alone"),
            ("$share//$queue/jobs", QoS::AtLeastOnce, &[], filter, "a name must have"),
        ];
        for (asked, qos, said, reason, text) in cases {
            let (answer, why) = talker.subscribe(&mut world, asked, qos, said);
            assert_eq!(answer, reason, "{asked} {said:?}: {why}");
            assert!(why.contains(text), "{asked} {said:?}: {why}");
            assert_eq!(state(&mut world), before, "{asked} {said:?}");
        }
        let mut old = Talker::connect(&mut world, "old", Version::V311);
        let (answer, _) = old.subscribe(&mut world, "$queue/jobs", QoS::AtMostOnce, &[]);
        assert_eq!(answer, ReasonCode::UNSPECIFIED_ERROR, "3.1.1 has one failure");
    }
}

#[test]
fn positions_out_of_range_mean_the_nearest_there_is() {
    for (position, first) in
        [("offset=7", 7), ("offset=99", 10), ("last=3", 7), ("last=1000", 0), ("timestamp=0", 0)]
    {
        let (mut world, mut talker, _member) = filled(4);
        let said = [("cursor", position), ("consumer-group", "others")];
        let (granted, why) = talker.subscribe(&mut world, "$queue/jobs/#", QoS::AtLeastOnce, &said);
        assert_eq!(granted, ReasonCode::GRANTED_QOS_1, "{position}: {why}");
        let groups = world.stats("jobs").groups;
        let others = groups.iter().find(|group| group.name == "others").expect("joined");
        assert_eq!(others.committed, Offset(first), "{position}");
        let workers = groups.iter().find(|group| group.name == "workers").expect("joined");
        assert_eq!(workers.committed, Offset(2), "{position}");
    }
}

/// As a client sees it: with the first delivery, and with no other.
#[test]
fn a_position_before_the_oldest_entry_is_answered_with_what_is_missing() {
    for (position, gap) in [("offset=1", Some("3")), ("timestamp=0", Some("unknown")), ("4", None)]
    {
        let mut world = World::new(4);
        let limits = QueueLimits { messages_max: Some(2), ..QueueLimits::default() };
        world.declare("jobs", QueueSettings { limits, ..QueueSettings::default() });
        let mut talker = Talker::connect(&mut world, "talker", Version::V5);
        for _ in 0..6 {
            talker.publish(&mut world, "$queue/jobs/key", &[]);
        }
        world.pass(2_000);
        assert_eq!(world.stats("jobs").head, Offset(4));

        talker.packet_id += 1;
        let subscribe = Subscribe {
            packet_id: talker.packet_id,
            properties: users(&[("cursor", position)]),
            filters: vec![SubscribeFilter::new(Bytes::from("$queue/jobs/#"), QoS::AtLeastOnce)],
        };
        let answers = talker.say(&mut world, &Packet::Subscribe(subscribe));
        let said = answers.into_iter().filter_map(|packet| match packet {
            Packet::Publish(publish) => Some(publish.properties.iter().find_map(|it| match it {
                Property::User(name, value) if name == "x-gap" => Some(value.clone()),
                _ => None,
            })),
            _ => None,
        });
        let expected = [gap.map(|gap| Bytes::from_static(gap.as_bytes())), None];
        assert_eq!(said.collect::<Vec<_>>(), expected, "{position}");
    }
}

#[test]
fn publishes_that_no_queue_takes_are_refused_and_not_stored() {
    for partitions in [1, 4] {
        let (mut world, mut talker, _member) = filled(partitions);
        let limits = QueueLimits {
            messages_max: Some(1),
            overflow: Overflow::RejectPublish,
            ..QueueLimits::default()
        };
        world.declare("small", QueueSettings { limits, ..QueueSettings::default() });
        talker.publish(&mut world, "$queue/small", &[]);

        let (reason, why) = talker.publish(&mut world, "$queue/small", &[]);
        assert_eq!(reason, ReasonCode::QUOTA_EXCEEDED, "{why}");
        assert_eq!(world.stats("small").messages, 1);

        let before = state(&mut world);
        world.partitions.values_mut().for_each(|partition| partition.set_disk_full(true));
        let (reason, why) = talker.publish(&mut world, "$queue/jobs", &[]);
        assert_eq!(reason, ReasonCode::QUOTA_EXCEEDED, "{why}");
        let of = [("message-id", "jobs:5"), ("group-id", "workers")];
        let (reason, why) = talker.publish(&mut world, "$queue/jobs/$reject", &of);
        assert_eq!(reason, ReasonCode::QUOTA_EXCEEDED, "{why}");
        assert_eq!(state(&mut world), before, "the entry is still pending");
        let (reason, _) = talker.publish(&mut world, "$queue/jobs/$ack", &of);
        assert_eq!(reason, ReasonCode::SUCCESS, "settling goes on");

        let mut old = Talker::connect(&mut world, "old", Version::V311);
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: Bytes::from_static(b"$queue/jobs"),
            packet_id: 1,
            properties: PropertyList::default(),
            payload: Bytes::new(),
        };
        let answers = old.say(&mut world, &Packet::Publish(publish));
        assert!(answers.is_empty() && old.connection.is_closing(), "3.1.1 cannot say no");
    }
}

#[test]
fn a_queue_that_is_not_there_is_refused_where_first_use_declares_none() {
    for partitions in [1, 4] {
        let options = Options { auto_create_queues: false, ..Options::default() };
        let mut world = World::with(SimDisk::new(3), partitions, options).expect("recovers");
        world.declare("jobs", QueueSettings::default());
        let mut talker = Talker::connect(&mut world, "talker", Version::V5);
        talker.publish(&mut world, "$queue/jobs/a", &[]);
        let before = (state(&mut world), world.log_bytes());
        let invalid = ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR;
        let words = "there is no queue 'new', and queues.auto_create is off";

        let (reason, why) = talker.publish(&mut world, "$queue/new/a", &[]);
        assert_eq!((reason, why.as_str()), (invalid, words));
        for filter in ["$queue/new/#", "$share/g/$queue/new"] {
            let (reason, why) = talker.subscribe(&mut world, filter, QoS::AtLeastOnce, &[]);
            assert_eq!((reason, why.as_str()), (invalid, words), "{filter}");
        }
        assert_eq!((state(&mut world), world.log_bytes()), before, "nothing is stored");
        let mut old = Talker::connect(&mut world, "old", Version::V311);
        let (reason, _) = old.subscribe(&mut world, "$queue/new", QoS::AtLeastOnce, &[]);
        assert_eq!(reason, ReasonCode::UNSPECIFIED_ERROR);

        // What is there works as ever, and so does its queue for dead letters, which nobody declares.
        let said = [("consumer-group", "g"), ("settle", "explicit")];
        let (reason, _) = talker.subscribe(&mut world, "$queue/jobs/#", QoS::AtLeastOnce, &said);
        assert_eq!(reason, ReasonCode::GRANTED_QOS_1);
        let of = [("message-id", "jobs:0"), ("group-id", "g")];
        let (reason, why) = talker.publish(&mut world, "$queue/jobs/$reject", &of);
        assert_eq!(reason, ReasonCode::SUCCESS, "{why}");
        assert_eq!(world.stats("$dlq/jobs").messages, 1);
        world.declare("new", QueueSettings::default());
        let (reason, _) = talker.publish(&mut world, "$queue/new/a", &[]);
        assert_eq!(reason, ReasonCode::SUCCESS);
    }
}

#[test]
fn a_declaration_that_says_something_else_is_refused_field_by_field() {
    let (mut world, _talker, _member) = filled(4);
    let before = state(&mut world);
    let base = QueueSettings::default;
    let dead = |dead_letters| QueueSettings { dead_letters, ..base() };
    let limited = |limits| QueueSettings { limits, ..base() };
    let (letters, limits) = (DeadLetters::default, QueueLimits::default);
    let queue = |name: &'static str| QueueName::new(Bytes::from(name)).expect("a name");
    let to = |target| dead(DeadLetters { target, ..letters() });
    let others = [
        ("visibility_timeout", QueueSettings { visibility_timeout_ms: Some(1), ..base() }),
        ("deliveries_max", QueueSettings { deliveries_max: 1, ..base() }),
        ("backoff", QueueSettings { backoff_ms: vec![1], ..base() }),
        ("ttl", QueueSettings { ttl_ms: Some(1), ..base() }),
        ("single_active", QueueSettings { single_active: true, ..base() }),
        ("exclusive", QueueSettings { exclusive: true, ..base() }),
        ("priority_max", QueueSettings { priority_max: 9, ..base() }),
        ("dead_letters", to(DeadLetterTarget::Nowhere)),
        ("dead_letters", to(DeadLetterTarget::Queue(queue("morgue")))),
        ("dead_letter_expired", dead(DeadLetters { with_expired: true, ..letters() })),
        ("dead_letter_overflow", dead(DeadLetters { with_overflow: true, ..letters() })),
        ("messages_max", limited(QueueLimits { messages_max: Some(1), ..limits() })),
        ("bytes_max", limited(QueueLimits { bytes_max: Some(1), ..limits() })),
        ("age_max", limited(QueueLimits { age_max_ms: Some(1), ..limits() })),
        ("overflow", limited(QueueLimits { overflow: Overflow::RejectPublish, ..limits() })),
        ("lifetime", QueueSettings { lifetime: Lifetime::Transient, ..base() }),
        ("auto_delete", QueueSettings { auto_delete: true, ..base() }),
        ("expires", QueueSettings { expires_ms: Some(1), ..base() }),
    ];
    for (field, settings) in others {
        let refused = world.manage("jobs", QueueAction::Declare(Arc::new(settings)));
        let said = refused.expect_err(field).to_string();
        assert!(said.contains(&format!("another '{field}'")), "{said}");
        assert_eq!(state(&mut world), before, "{field}");
    }

    // What a stream says of its readers' progress, and that one is there.
    let primary = |name| QueueSettings {
        kind: QueueKind::Stream,
        primary_group: Some(queue(name)),
        ..base()
    };
    world.declare("audit", primary("work"));
    let stats = world.stats("audit");
    for settings in [primary("others"), QueueSettings { primary_group: None, ..primary("work") }] {
        let refused = world.manage("audit", QueueAction::Declare(Arc::new(settings)));
        let said = refused.expect_err("another group").to_string();
        assert!(said.contains("another 'primary_group'"), "{said}");
        assert_eq!(world.stats("audit"), stats);
    }
    assert!(world.manage("audit", QueueAction::Declare(Arc::new(primary("work")))).is_ok());
}
