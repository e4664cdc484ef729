//! Exchanges that are bound to the topics: what any protocol publishes to a topic goes on to them, and to the queues behind them.

use bytes::Bytes;
use fluxmq::model::command::{Open, Will};
use fluxmq::model::exchange::{Bind, Destination};
use fluxmq::model::queue::{DeadLetterExchange, DeadLetterTarget, DeadLetters};
use fluxmq::model::{
    Command, Effect, ExchangeCommand, ExchangeKind, ExchangeSettings, Properties, Property, QoS,
    QueueName, QueueSettings, Refusal, Token,
};
use fluxmq::partition::request::ConnectionId;
use std::sync::Arc;

use crate::route::{bytes, send};
use crate::world::{World, message, open_command, with_one_and_four};

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const QUEUES: [&str; 4] = ["a", "b", "c", "d"];
const TOKEN: Token = Token(800_000);

fn answer(world: &mut World, by: ConnectionId, command: Command) -> Result<(), Refusal> {
    world.command(by, command);
    let answered = world.take(by, |effect| match effect {
        Effect::Exchange { token: TOKEN, result } => Some(result.clone()),
        _ => None,
    });
    answered.expect("answered")
}

fn declare(
    world: &mut World,
    by: ConnectionId,
    name: &str,
    (kind, alternate): (ExchangeKind, Option<&str>),
) {
    let settings = ExchangeSettings {
        kind,
        durable: true,
        auto_delete: false,
        internal: false,
        alternate: alternate.map(bytes),
        arguments: Bytes::new(),
    };
    let command = ExchangeCommand::Declare(Arc::new(settings));
    let declare = Command::Exchange { token: TOKEN, exchange: bytes(name), command };
    assert_eq!(answer(world, by, declare), Ok(()));
}

fn to_queue(name: &str) -> Destination {
    Destination::Queue(QueueName::new(bytes(name)).unwrap())
}

fn to_exchange(name: &str) -> Destination {
    Destination::Exchange(bytes(name))
}

fn bind(world: &mut World, by: ConnectionId, from: &str, to: Destination, key: &str) {
    bind_with(world, by, (from, to, key), (Bytes::new(), true));
}

fn bind_with(
    world: &mut World,
    by: ConnectionId,
    (from, to, key): (&str, Destination, &str),
    (arguments, is_bound): (Bytes, bool),
) {
    let bind = Bind {
        token: TOKEN,
        exchange: bytes(from),
        destination: to,
        routing_key: bytes(key),
        arguments,
        is_bound,
    };
    assert_eq!(answer(world, by, Command::Bind(Box::new(bind))), Ok(()));
}

/// `site.#` goes to `in`, which fans out to `a`, and on to `keys`, which has `b` under the key `site.1` and hands over to `rest`, which has
/// `c`. `d` is bound to the topics by itself, and behind `in` too.
fn wire(world: &mut World, by: ConnectionId) {
    QUEUES.iter().for_each(|name| world.declare(name, QueueSettings::default()));
    declare(world, by, "in", (ExchangeKind::Fanout, None));
    declare(world, by, "rest", (ExchangeKind::Fanout, None));
    declare(world, by, "keys", (ExchangeKind::Direct, Some("rest")));
    bind(world, by, "amq.topic", to_exchange("in"), "site.#");
    bind(world, by, "in", to_exchange("keys"), "");
    // Around: what goes on comes back, once.
    bind(world, by, "in", to_exchange("amq.topic"), "");
    bind(world, by, "in", to_queue("a"), "");
    bind(world, by, "in", to_queue("d"), "");
    bind(world, by, "keys", to_queue("b"), "site.1");
    bind(world, by, "rest", to_queue("c"), "");
    bind(world, by, "amq.topic", to_queue("d"), "#.1");
}

fn counts(world: &mut World) -> [u64; 4] {
    QUEUES.map(|name| world.stats(name).messages)
}

#[test]
fn topics_go_on_to_exchanges_whatever_the_qos_and_the_partition() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", false, 60);
        wire(&mut world, by);
        let mut expected = [0; 4];
        for (number, qos) in (0..30u16).flat_map(|number| LEVELS.map(|qos| (number, qos))) {
            let key = number % 3;
            let topic = format!("site/{key}");
            let packet_id = (qos == QoS::ExactlyOnce).then_some(number + 1);
            let confirmed = world.publish(by, message(&topic, "mqtt", qos), packet_id);
            assert_eq!(confirmed, (qos != QoS::AtMostOnce).then_some(Ok(true)), "{topic}");
            if let Some(packet_id) = packet_id {
                world.command(by, Command::Release { packet_id });
            }
            let more = if key == 1 { [1, 1, 0, 1] } else { [1, 0, 1, 1] };
            (0..4).for_each(|at| expected[at] += more[at]);
            assert_eq!(counts(&mut world), expected, "{topic} {qos:?}");
        }
        world.publish(by, message("other/1", "d alone", QoS::AtLeastOnce), None);
        expected[3] += 1;
        assert_eq!(counts(&mut world), expected);
        world.publish(by, message("other/2", "nobody", QoS::AtLeastOnce), None);
        assert_eq!(counts(&mut world), expected);

        // The topic has its record once, and after a restart everything is bound as before.
        assert_eq!(world.stored("other/1"), ["d alone"]);
        world.restart(7);
        let (by, _) = world.open("client", false, 60);
        let before = counts(&mut world);
        world.publish(by, message("site/1", "after", QoS::AtLeastOnce), None);
        let grown: Vec<u64> = counts(&mut world).iter().zip(before).map(|(a, b)| a - b).collect();
        assert_eq!(grown, [1, 1, 0, 1]);
        bind_with(
            &mut world,
            by,
            ("amq.topic", to_exchange("in"), "site.#"),
            (Bytes::new(), false),
        );
        let before = counts(&mut world);
        world.publish(by, message("site/2", "unbound", QoS::AtLeastOnce), None);
        assert_eq!(counts(&mut world), before);
    });
}

#[test]
fn publishes_to_the_exchange_of_the_topics_go_on_too_and_come_back_once() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        wire(&mut world, by);
        let (reader, _) = world.open("reader", true, 0);
        world.subscribe(reader, "site/#", |_| {}).unwrap();
        for (exchange, expected) in
            [("amq.topic", [1, 1, 0, 1]), ("in", [2, 2, 0, 2]), ("amq.topic", [3, 3, 0, 3])]
        {
            let routed = send(&mut world, by, (exchange, "site.1"), ("amqp", QoS::AtLeastOnce));
            assert_eq!((routed, counts(&mut world)), (Ok(true), expected), "{exchange}");
            assert_eq!(world.drain(reader), ["amqp"]);
        }
        assert_eq!(world.stored("site/1").len(), 3, "once in the topic, each");
    });
}

#[test]
fn exchanges_that_look_at_headers_see_user_properties() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        world.declare("a", QueueSettings::default());
        declare(&mut world, by, "red", (ExchangeKind::Headers, None));
        bind(&mut world, by, "amq.topic", to_exchange("red"), "#");
        let colour = Bytes::from_static(b"\x06colourS\x00\x00\x00\x03red");
        bind_with(&mut world, by, ("red", to_queue("a"), ""), (colour, true));
        for (colour, expected) in [("red", 1), ("blue", 1), ("red", 2)] {
            let said = Property::User(Bytes::from("colour"), Bytes::from(colour));
            let properties = Properties::encode(&[said]);
            let painted = message("site/1", "painted", QoS::AtLeastOnce);
            let painted = fluxmq::model::Message { properties, ..painted };
            assert_eq!(world.publish(by, painted, None), Some(Ok(true)));
            assert_eq!(world.stats("a").messages, expected, "{colour}");
        }
    });
}

#[test]
fn a_will_goes_on_like_any_other_publish() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        wire(&mut world, by);
        for qos in LEVELS {
            let will = Will { message: message("site/1", "gone", qos), delay_s: 0 };
            let Command::Open(open) = open_command("dying", true, 0) else { unreachable!() };
            let open = Open { will: Some(will), ..*open };
            let dying = world.connect();
            world.command(dying, Command::Open(Box::new(open)));
            world.close(dying, true);
            world.run();
        }
        assert_eq!(counts(&mut world), [3, 3, 0, 3]);
        assert!(world.wills_are_over(), "no key is left behind");
    });
}

#[test]
fn a_dead_letter_goes_on_like_any_other_publish() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        wire(&mut world, by);
        let target =
            DeadLetterExchange { exchange: bytes("amq.topic"), routing_key: Some(bytes("site.2")) };
        let dead_letters = DeadLetters {
            target: DeadLetterTarget::Exchange(target),
            with_expired: true,
            ..DeadLetters::default()
        };
        let settings =
            QueueSettings { dead_letters, ttl_ms: Some(1_000), ..QueueSettings::default() };
        world.declare("dying", settings);
        world.publish(by, message("$queue/dying", "old", QoS::AtLeastOnce), None);
        world.pass(5_000);
        assert_eq!(counts(&mut world), [1, 0, 1, 1]);
    });
}

#[test]
fn topics_go_on_in_their_virtual_host_only() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        for host in ["", "acme%3A"] {
            let [queue, exchange, topics] =
                ["q", "in", "amq.topic"].map(|it| format!("{host}{it}"));
            world.declare(&queue, QueueSettings::default());
            declare(&mut world, by, &exchange, (ExchangeKind::Fanout, None));
            bind(&mut world, by, &topics, to_exchange(&exchange), "site.#");
            bind(&mut world, by, &exchange, to_queue(&queue), "");
        }
        for (topic, expected) in [("site/1", [1, 0]), ("$vhost/acme/site/1", [1, 1])] {
            let confirmed = world.publish(by, message(topic, "m", QoS::AtLeastOnce), None);
            assert_eq!(confirmed, Some(Ok(true)));
            let counts = ["q", "acme%3Aq"].map(|name| world.stats(name).messages);
            assert_eq!(counts, expected, "{topic}");
        }
    });
}
