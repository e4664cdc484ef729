//! Names of queues and exchanges: any UTF-8 of up to 255 bytes (§1.2.1 `queue-name`, `exchange-name`; RabbitMQ takes every character), and how
//! other protocols write them.

use super::*;
use fluxmq::model::QoS;

/// Names that have characters with a meaning in addresses, and how addresses have them.
const NAMES: [(&str, &str); 5] = [
    ("celery@host.celery.pidbox", "celery@host.celery.pidbox"),
    ("a/b", "a%2Fb"),
    ("50%+#", "50%%2B%23"),
    ("%2F", "%252F"),
    ("ü/%252F", "ü%2F%25252F"),
];

/// A queue of any name is declared, published to, counted, read and deleted, and said by its name.
#[test]
fn queue_names_have_any_characters() {
    let mut stack = Stack::new();
    let client = stack.client();
    for (name, _) in NAMES {
        stack.send(client, 1, QueueDeclare { queue: short(name), ..QueueDeclare::default() });
        match stack.method(client) {
            Method::QueueDeclareOk(ok) => assert_eq!(ok.queue.as_str(), Some(name)),
            other => panic!("{other:?} is no queue"),
        }
        stack.fill(client, name, &[name]);
        assert_eq!(stack.count(client, name), (1, 0), "{name}");
    }
    for (name, _) in NAMES {
        stack.send(client, 1, BasicGet { queue: short(name), ..BasicGet::default() });
        let received = stack.received(client);
        let [Received { method: Method::BasicGetOk(ok), body, .. }] = &received[..] else {
            panic!("{received:?}")
        };
        assert_eq!(ok.routing_key.as_str(), Some(name));
        assert_eq!((ok.exchange.as_str(), text(body)), (Some(""), name.to_owned()));
        stack.send(client, 1, QueueDelete { queue: short(name), ..QueueDelete::default() });
        let one: Method = QueueDeleteOk { message_count: 0 }.into();
        assert_eq!(stack.method(client), one, "what is out is not counted");
        let passive = QueueDeclare { queue: short(name), passive: true, ..QueueDeclare::default() };
        stack.send(client, 1, passive);
        let expected = format!("no queue '{name}' in vhost '/'");
        stack.assert_channel_closed(client, 404, &expected);
    }
}

/// Over MQTT the same queue has its name as one level, with what a level cannot contain escaped; a reply goes back to it.
#[test]
fn queue_names_are_levels_of_other_protocols() {
    for (name, level) in NAMES {
        let mut stack = Stack::new();
        let client = stack.client();
        stack.declare(client, name, |_| {});
        let list = Properties::encode([Property::ReplyTo(short(name))]);
        stack.publish(client, to_queue(name), &list, "from AMQP");
        let (other, _) = stack.world.open("other", true, 0);

        let address = format!("$queue/{level}");
        let asked = stack.world.subscribe(other, &address, |subscribe| {
            subscribe.qos = QoS::AtLeastOnce;
            subscribe.group = Some(Bytes::from("default"));
        });

        assert_eq!(asked, Ok(QoS::AtLeastOnce));
        let delivered = stack.world.deliveries(other);
        let [delivery] = &delivered[..] else { panic!("{delivered:?}") };
        assert_eq!(delivery.message.topic.as_str(), address);
        let reply = fluxmq::model::Property::ResponseTopic(Bytes::from(address.clone()));
        assert!(delivery.message.properties.iter().any(|property| property == reply), "{address}");

        let message = crate::world::message(&address, "from MQTT", QoS::AtLeastOnce);
        stack.world.close(other, false);
        stack.run();
        let (third, _) = stack.world.open("third", true, 0);
        assert_eq!(stack.world.publish(third, message, None), Some(Ok(true)));
        let bodies = std::iter::from_fn(|| stack.get(client, name, true)).map(|got| got.body);
        assert_eq!(bodies.collect::<Vec<_>>(), ["from AMQP", "from MQTT"]);
    }
}

/// Exchanges, alternate exchanges and dead letters are named in the same way.
#[test]
fn exchange_names_have_any_characters() {
    let mut stack = Stack::new();
    let client = stack.client();
    for (exchange, alternate) in [("a/b", "50%+#"), ("50%+#", "a/b")] {
        let declare = ExchangeDeclare {
            exchange: short(exchange),
            kind: short("direct"),
            arguments: arguments(&[("alternate-exchange", alternate.into())]),
            ..ExchangeDeclare::default()
        };
        stack.send(client, 1, declare);
        assert_eq!(stack.method(client), ExchangeDeclareOk::default().into());
    }
    stack.declare(client, "dead/letters", |_| {});
    stack.declare(client, "q/1", |declare| {
        declare.arguments = arguments(&[
            ("x-dead-letter-exchange", "".into()),
            ("x-dead-letter-routing-key", "dead/letters".into()),
        ]);
    });
    let bind = QueueBind {
        queue: short("q/1"),
        exchange: short("50%+#"),
        routing_key: short("k/1"),
        ..QueueBind::default()
    };
    stack.send(client, 1, bind);
    assert_eq!(stack.method(client), QueueBindOk::default().into());

    let publish = BasicPublish {
        exchange: short("a/b"),
        routing_key: short("k/1"),
        mandatory: true,
        ..BasicPublish::default()
    };
    stack.publish(client, publish, &Properties::default(), "one");

    let got = stack.get(client, "q/1", false).expect("by its alternate");
    stack.nack(client, got.tag, false);
    assert_eq!(stack.get(client, "dead/letters", true).map(|got| got.body), Some("one".to_owned()));
    let other = ExchangeDeclare {
        exchange: short("a/b"),
        kind: short("direct"),
        ..ExchangeDeclare::default()
    };
    stack.send(client, 1, other);
    let expected = "inequivalent arg 'alternate-exchange' for exchange 'a/b' in vhost '/': received none but current is the value '50%+#' of type 'longstr'";
    stack.assert_channel_closed(client, 406, expected);
    let missing =
        ExchangeDeclare { exchange: short("a/c"), passive: true, ..ExchangeDeclare::default() };
    stack.send(client, 1, missing);
    stack.assert_channel_closed(client, 404, "no exchange 'a/c' in vhost '/'");
}

/// What begins as the queues for dead letters do is theirs.
#[test]
fn queue_names_of_dead_letters_are_reserved() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.send(client, 1, QueueDeclare { queue: short("$dlq/a/b"), ..QueueDeclare::default() });
    let expected = "queue name '$dlq/a/b' contains reserved prefix '$dlq/*'";
    stack.assert_channel_closed(client, 403, expected);
    let publish = BasicPublish { mandatory: true, ..to_queue("$dlq/q") };
    stack.publish(client, publish, &Properties::default(), "one");
    assert!(matches!(stack.method(client), Method::BasicReturn(_)), "nobody publishes there");
}
