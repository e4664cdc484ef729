//! Publishes to exchanges: who gets them, and what the publisher hears.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq::model::consume::Route;
use fluxmq::model::queue::{Overflow, QueueKind, QueueLimits};
use fluxmq::model::record::{DedupKey, Tenure};
use fluxmq::model::{
    Command, Effect, PartitionId, Properties, QoS, QueueName, QueueSettings, Refusal, Token,
};
use fluxmq::partition::request::{
    ConnectionId, Event, Outbox, Publish, QueueAction, Request, Target, Transaction,
};

use crate::world::{World, message, with_one_and_four};

const LEVELS: [QoS; 2] = [QoS::AtMostOnce, QoS::AtLeastOnce];

pub fn bytes(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

pub fn send(
    world: &mut World,
    by: ConnectionId,
    (exchange, key): (&str, &str),
    (payload, qos): (&str, QoS),
) -> Result<bool, Refusal> {
    let route = Route {
        token: Token(700_000),
        exchange: bytes(exchange),
        routing_key: bytes(key),
        more_keys: Vec::new(),
        headers: Bytes::new(),
        message: message("anything", payload, qos),
    };
    world.command(by, Command::Route(Box::new(route)));
    let confirmed = world.take(by, |effect| match effect {
        Effect::Confirm { token: Token(700_000), result } => Some(result.clone()),
        _ => None,
    });
    confirmed.expect("answered, whatever the QoS")
}

#[test]
fn the_default_exchange_stores_in_the_queue_of_that_name_and_makes_none() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        for qos in LEVELS {
            let nowhere = send(&mut world, publisher, ("", "jobs"), ("early", qos));
            assert_eq!(nowhere, Ok(false));
        }
        assert!(world.manage("jobs", QueueAction::Stats).is_err(), "none was declared");

        world.declare("jobs", QueueSettings::default());
        for (number, qos) in LEVELS.into_iter().enumerate() {
            let payload = number.to_string();
            assert_eq!(send(&mut world, publisher, ("", "jobs"), (&payload, qos)), Ok(true));
        }
        assert_eq!(world.stats("jobs").messages, 2);
        assert_eq!(world.stored("$queue/jobs"), ["0", "1"]);

        world.manage("jobs", QueueAction::Delete { if_unused: true, if_empty: false }).unwrap();
        let gone = send(&mut world, publisher, ("", "jobs"), ("late", QoS::AtLeastOnce));
        assert_eq!(gone, Ok(false));
        for key in ["", "a/b", "$dlq/jobs", "#", "a+", "a\0b", &"x".repeat(256)] {
            let nowhere = send(&mut world, publisher, ("", key), ("lost", QoS::AtLeastOnce));
            assert_eq!(nowhere, Ok(false), "{key:?} is no queue's name");
        }
        assert_eq!(world.stored("$queue/jobs"), ["0", "1"]);
    });
}

#[test]
fn who_publishes_to_queues_in_turn_reaches_the_one_that_is_named() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        for queue in ["a", "b", "b%25", "a%2Fc"] {
            world.declare(queue, QueueSettings::default());
        }
        // The names that AMQP has for them, and one that is no queue's between.
        for key in ["a", "a", "b", "a", "", "a/c", "b%25", "b"] {
            let result = send(&mut world, publisher, ("", key), (key, QoS::AtLeastOnce));
            assert_eq!(result, Ok(!key.is_empty()), "{key:?}");
        }

        assert_eq!(world.stored("$queue/a"), ["a", "a", "a"]);
        assert_eq!(world.stored("$queue/b"), ["b", "b"]);
        assert_eq!(world.stored("$queue/b%25"), ["b%25"]);
        assert_eq!(world.stored("$queue/a%2Fc"), ["a/c"]);
    });
}

#[test]
fn a_routed_message_survives_a_power_cut_and_is_read_where_others_of_the_queue_are() {
    let mut world = World::new(4);
    let (publisher, _) = world.open("publisher", true, 0);
    world.declare("jobs", QueueSettings::default());
    send(&mut world, publisher, ("", "jobs"), ("kept", QoS::AtMostOnce)).unwrap();

    let mut world = world.crash(11);
    let (reader, _) = world.open("reader", true, 0);
    world.subscribe(reader, "$queue/jobs", |_| {}).unwrap();
    assert_eq!(world.drain(reader), ["kept"]);
}

#[test]
fn a_queue_that_stores_nothing_passes_on_and_a_full_one_refuses() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        let now = QueueSettings { kind: QueueKind::Ephemeral, ..QueueSettings::default() };
        world.declare("now", now);
        assert_eq!(send(&mut world, publisher, ("", "now"), ("a", LEVELS[1])), Ok(false));
        let (member, _) = world.open("member", true, 0);
        world.subscribe(member, "$queue/now", |_| {}).unwrap();
        assert_eq!(send(&mut world, publisher, ("", "now"), ("b", LEVELS[0])), Ok(true));
        assert_eq!(world.drain(member), ["b"]);

        let overflow = Overflow::RejectPublish;
        let limits = QueueLimits { messages_max: Some(1), overflow, ..QueueLimits::default() };
        let small = QueueSettings { limits, ..QueueSettings::default() };
        world.declare("small", small);
        assert_eq!(send(&mut world, publisher, ("", "small"), ("1", LEVELS[0])), Ok(true));
        let full = send(&mut world, publisher, ("", "small"), ("2", LEVELS[0]));
        assert!(matches!(full, Err(Refusal::Quota { .. })), "{full:?}");
    });
}

#[test]
fn who_may_not_write_to_the_queue_is_refused_and_learns_nothing_of_it() {
    let mut world = World::new(3);
    world.declare("open", QueueSettings::default());
    world.declare("closed", QueueSettings::default());
    world.rules("user p\ntopic write $queue/open\n");
    let publisher = world.open_as("p", "publisher", 0).unwrap();

    assert_eq!(send(&mut world, publisher, ("", "open"), ("1", LEVELS[1])), Ok(true));
    for key in ["closed", "missing"] {
        let refused = send(&mut world, publisher, ("", key), ("2", LEVELS[1]));
        assert_eq!(refused, Err(Refusal::NotAuthorized), "{key}");
    }
    assert_eq!(world.stats("closed").messages, 0);
}

/// What one partition says, and to nobody.
#[derive(Default)]
struct Said(Vec<Event>);

impl Outbox for Said {
    fn send(&mut self, _to: ConnectionId, event: Event) {
        self.0.push(event);
    }
}

#[test]
fn publishes_of_one_frame_say_each_whether_a_queue_was_there() {
    let mut world = World::new(1);
    world.declare("jobs", QueueSettings::default());
    let publish = |number: u64, target: Target| Publish {
        is_kept: false,
        token: Some(Token(number)),
        message: Arc::new(fluxmq::model::Message {
            properties: Properties::default(),
            ..message("$exchange/x/key", number.to_string(), QoS::AtMostOnce)
        }),
        dedup: DedupKey::default(),
        tenure: Tenure::default(),
        target,
        input: None,
    };
    let name = |text: &str| QueueName::new(bytes(text)).unwrap();
    let some = |names: &[&str]| Target::Queues(names.iter().map(|it| name(it)).collect());
    let all = vec![
        publish(1, some(&["missing", "jobs", "jobs"])),
        publish(2, some(&["missing"])),
        publish(3, Target::Queue(name("new"))),
        publish(4, some(&["new", "jobs"])),
    ];

    let (now, mut said) = (world.now, Said::default());
    let partition = world.partitions.get_mut(&PartitionId(1)).unwrap();
    let transaction = Transaction { publishes: all, settled: Vec::new(), token: None };
    partition.handle(ConnectionId(9), Request::Transact(Box::new(transaction)), now, &mut said);
    assert!(said.0.is_empty(), "nothing is said before it is stored");
    while let Some(flush) = partition.persist().unwrap() {
        partition.flushed(flush.run(), &mut said).unwrap();
    }

    let confirmed = said.0.iter().map(|event| match event {
        Event::Confirm { token, result } => (token.0, result.clone()),
        other => panic!("{other:?}"),
    });
    let expected = [(1, Ok(true)), (2, Ok(false)), (3, Ok(true)), (4, Ok(true))];
    assert_eq!(confirmed.collect::<Vec<_>>(), expected);
    assert_eq!((world.stats("jobs").messages, world.stats("new").messages), (2, 2));
    assert_eq!(world.stored("$exchange/x/key"), ["1", "3", "4"], "each message once");
}
