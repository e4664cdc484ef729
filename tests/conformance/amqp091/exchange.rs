//! The class exchange, and what exchanges route where (§1.6, §3.1.3).

use super::*;

impl Stack {
    fn exchange(&mut self, id: ConnectionId, name: &'static str, kind: &'static str) {
        let declare = ExchangeDeclare {
            exchange: short(name),
            kind: short(kind),
            durable: true,
            ..ExchangeDeclare::default()
        };
        self.send(id, 1, declare);
        assert_eq!(self.method(id), ExchangeDeclareOk::default().into());
    }

    fn bind(
        &mut self,
        id: ConnectionId,
        (exchange, queue): (&'static str, &'static str),
        key: &'static str,
        arguments: Table,
    ) {
        let bind = QueueBind {
            queue: short(queue),
            exchange: short(exchange),
            routing_key: short(key),
            arguments,
            ..QueueBind::default()
        };
        self.send(id, 1, bind);
        assert_eq!(self.method(id), QueueBindOk::default().into());
    }

    /// Publishes under each of the keys, which are the bodies too.
    fn route(&mut self, id: ConnectionId, exchange: &'static str, keys: &[&'static str]) {
        for key in keys {
            self.publish(id, to(exchange, key), &Properties::default(), key);
        }
    }

    /// Takes what is in a queue.
    fn take(&mut self, id: ConnectionId, queue: &'static str) -> Vec<String> {
        std::iter::from_fn(|| self.get(id, queue, true)).map(|got| got.body).collect()
    }
}

fn to(exchange: &'static str, key: &'static str) -> BasicPublish {
    BasicPublish { exchange: short(exchange), ..to_queue(key) }
}

/// §3.1.3.1, direct: queues get what has their key, each once.
#[test]
fn exchange_direct_routes_by_the_key() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.exchange(client, "orders", "direct");
    for queue in ["a", "b"] {
        stack.declare(client, queue, |_| {});
        stack.bind(client, ("orders", queue), "both", Table::default());
    }
    stack.bind(client, ("orders", "a"), "mine", Table::default());
    stack.route(client, "orders", &["both", "mine", "none"]);
    assert_eq!(stack.take(client, "a"), ["both", "mine"]);
    assert_eq!(stack.take(client, "b"), ["both"]);
}

/// §3.1.3.2, fanout: queues get everything, whatever its key.
#[test]
fn exchange_fanout_routes_everything() {
    let mut stack = Stack::new();
    let client = stack.client();
    for queue in ["a", "b"] {
        stack.declare(client, queue, |_| {});
        stack.bind(client, ("amq.fanout", queue), "", Table::default());
    }
    stack.route(client, "amq.fanout", &["1", "2"]);
    for queue in ["a", "b"] {
        assert_eq!(stack.take(client, queue), ["1", "2"]);
    }
}

/// §3.1.3.3, topic: words between dots, `*` is one and `#` any number; a queue that matches twice gets one.
#[test]
fn exchange_topic_routes_by_words() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.exchange(client, "logs", "topic");
    stack.declare(client, "q", |_| {});
    for pattern in ["*.orange.*", "lazy.#", "#.rabbit"] {
        stack.bind(client, ("logs", "q"), pattern, Table::default());
    }
    let keys = ["quick.orange.rabbit", "lazy", "lazy.a.b.c", "rabbit", "orange", "quick.fox"];
    stack.route(client, "logs", &keys);
    assert_eq!(stack.take(client, "q"), keys[..4]);
}

/// §3.1.3.4, headers: `x-match` says whether all of the arguments are asked for, or any.
#[test]
fn exchange_headers_routes_by_headers() {
    let mut stack = Stack::new();
    let client = stack.client();
    let wanted = [("colour", Value::from("red")), ("size", Value::I32(3))];
    for (queue, mode) in [("all", "all"), ("any", "any")] {
        stack.declare(client, queue, |_| {});
        let mode = [("x-match", Value::from(mode))];
        let arguments: Table = mode.into_iter().chain(wanted.clone()).collect();
        stack.bind(client, ("amq.headers", queue), "", arguments);
    }
    for (body, headers) in [("both", &wanted[..]), ("one", &wanted[..1]), ("none", &[])] {
        let list = Properties::encode([Property::Headers(arguments(headers))]);
        stack.publish(client, to("amq.headers", "k"), &list, body);
    }
    assert_eq!(stack.take(client, "all"), ["both"]);
    assert_eq!(stack.take(client, "any"), ["both", "one"]);
}

/// RabbitMQ, exchange to exchange bindings: what the source gets, the destination gets too, and a queue gets it once.
#[test]
fn exchange_bind_routes_on() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.exchange(client, "in", "fanout");
    stack.exchange(client, "out", "direct");
    stack.declare(client, "q", |_| {});
    stack.bind(client, ("out", "q"), "k", Table::default());
    stack.bind(client, ("in", "q"), "", Table::default());
    let bind =
        ExchangeBind { source: short("in"), destination: short("out"), ..ExchangeBind::default() };
    stack.send(client, 1, bind);
    assert_eq!(stack.method(client), ExchangeBindOk::default().into());
    stack.route(client, "in", &["k", "other"]);
    assert_eq!(stack.take(client, "q"), ["k", "other"]);
    let unbind = QueueUnbind { queue: short("q"), exchange: short("in"), ..QueueUnbind::default() };
    stack.send(client, 1, unbind);
    assert_eq!(stack.method(client), QueueUnbindOk::default().into());
    stack.route(client, "in", &["k", "other"]);
    assert_eq!(stack.take(client, "q"), ["k"]);
}

/// RabbitMQ, alternate exchanges: what is routed nowhere goes there, and is not returned.
#[test]
fn exchange_alternate_gets_what_is_routed_nowhere() {
    let mut stack = Stack::new();
    let client = stack.client();
    let declare = ExchangeDeclare {
        exchange: short("orders"),
        kind: short("direct"),
        arguments: arguments(&[("alternate-exchange", "amq.fanout".into())]),
        ..ExchangeDeclare::default()
    };
    stack.send(client, 1, declare);
    assert_eq!(stack.method(client), ExchangeDeclareOk::default().into());
    stack.declare(client, "rest", |_| {});
    stack.bind(client, ("amq.fanout", "rest"), "", Table::default());
    let publish = BasicPublish { mandatory: true, ..to("orders", "none") };
    stack.publish(client, publish, &Properties::default(), "stray");
    assert_eq!(stack.received(client), []);
    assert_eq!(stack.take(client, "rest"), ["stray"]);
}

/// §1.6.2.1, passive: an exchange that is not there is not found; nor is one that is published to.
#[test]
fn exchange_that_is_not_there_is_not_found() {
    let mut stack = Stack::new();
    let client = stack.client();
    let expected = "NOT_FOUND - no exchange 'none' in vhost '/'";
    let passive =
        ExchangeDeclare { exchange: short("none"), passive: true, ..ExchangeDeclare::default() };
    stack.send(client, 1, passive);
    stack.assert_channel_closed(client, 404, expected);
    stack.publish(client, to("none", "k"), &Properties::default(), "body");
    stack.assert_channel_closed(client, 404, expected);
    stack.declare(client, "q", |_| {});
    let bind = QueueBind { queue: short("q"), exchange: short("none"), ..QueueBind::default() };
    stack.send(client, 1, bind);
    stack.assert_channel_closed(client, 404, expected);
}

/// §1.6.2.1, equivalent: who declares an exchange that is there otherwise is refused.
#[test]
fn exchange_declare_again_must_say_the_same() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.exchange(client, "orders", "direct");
    stack.exchange(client, "orders", "direct");
    let other = ExchangeDeclare {
        exchange: short("orders"),
        kind: short("topic"),
        durable: true,
        ..ExchangeDeclare::default()
    };
    stack.send(client, 1, other);
    let expected = "inequivalent arg 'type' for exchange 'orders' in vhost '/': received 'topic' but current is 'direct'";
    stack.assert_channel_closed(client, 406, expected);
}

/// RabbitMQ, since 3.2: what is not there is bound to nothing, so that ending that twice is no error.
#[test]
fn queue_unbind_of_what_is_not_there_is_done() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.exchange(client, "orders", "direct");
    stack.declare(client, "q", |_| {});
    for (queue, exchange) in [("q", "orders"), ("none", "orders"), ("q", "none")] {
        let (queue, exchange) = (short(queue), short(exchange));
        stack.send(client, 1, QueueUnbind { queue, exchange, ..QueueUnbind::default() });
        assert_eq!(stack.method(client), QueueUnbindOk::default().into());
    }
    for (source, destination) in [("orders", "none"), ("none", "orders")] {
        let (source, destination) = (short(source), short(destination));
        stack.send(client, 1, ExchangeUnbind { source, destination, ..ExchangeUnbind::default() });
        assert_eq!(stack.method(client), ExchangeUnbindOk::default().into());
    }
}

/// RabbitMQ, exchanges: a type that is not there closes the channel, and not the connection.
#[test]
fn exchange_declare_knows_four_types() {
    let mut stack = Stack::new();
    let client = stack.client();
    let kind = short("x-delayed-message");
    let declare = ExchangeDeclare { exchange: short("x"), kind, ..ExchangeDeclare::default() };
    stack.send(client, 1, declare);
    stack.assert_channel_closed(client, 406, "invalid exchange type 'x-delayed-message'");
}

/// §1.6.2.3, if-unused: an exchange that something is bound to is kept.
#[test]
fn exchange_delete_keeps_what_is_used() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.exchange(client, "orders", "direct");
    stack.declare(client, "q", |_| {});
    stack.bind(client, ("orders", "q"), "k", Table::default());
    let delete =
        ExchangeDelete { exchange: short("orders"), if_unused: true, ..ExchangeDelete::default() };
    stack.send(client, 1, delete.clone());
    stack.assert_channel_closed(client, 406, "exchange 'orders' in vhost '/' in use");
    stack.send(client, 1, ExchangeDelete { if_unused: false, ..delete });
    assert_eq!(stack.method(client), ExchangeDeleteOk::default().into());
    stack.exchange(client, "orders", "direct");
    stack.route(client, "orders", &["k"]);
    assert_eq!(stack.take(client, "q"), Vec::<String>::new(), "the binding was to the one before");
}

/// What exchanges route comes with their name and the key, and properties as published.
#[test]
fn basic_deliver_says_which_exchange_and_key() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    let list = Properties::encode([Property::MessageId(short("7"))]);
    for (exchange, pattern) in [("amq.direct", "a.b"), ("amq.topic", "a.#")] {
        stack.bind(client, (exchange, "q"), pattern, Table::default());
        stack.publish(client, to(exchange, "a.b"), &list, "body");
    }
    stack.consume(client, "q", "c", |_| {});
    let received = stack.received(client);
    assert_eq!(received.len(), 2);
    for (received, exchange) in received.iter().zip(["amq.direct", "amq.topic"]) {
        let Method::BasicDeliver(deliver) = &received.method else { panic!("{received:?}") };
        assert_eq!((&deliver.exchange, &deliver.routing_key), (&short(exchange), &short("a.b")));
        assert_eq!(received.properties, list);
    }
}

/// RabbitMQ, exchange to exchange bindings: `amq.topic` is a source as others are, and what comes around comes once.
#[test]
fn exchange_bind_to_the_topics_routes_on() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.exchange(client, "logs", "fanout");
    stack.declare(client, "q", |_| {});
    stack.bind(client, ("logs", "q"), "", Table::default());
    for (source, destination, key) in [("amq.topic", "logs", "a.#"), ("logs", "amq.topic", "")] {
        let bind = ExchangeBind {
            source: short(source),
            destination: short(destination),
            routing_key: short(key),
            ..ExchangeBind::default()
        };
        stack.send(client, 1, bind);
        assert_eq!(stack.method(client), ExchangeBindOk::default().into());
    }
    stack.route(client, "amq.topic", &["a.b", "b", "a"]);
    stack.route(client, "logs", &["c"]);
    assert_eq!(stack.take(client, "q"), ["a.b", "a", "c"]);
    assert_eq!(stack.world.stored("c"), ["c"], "it is published to the topic, too");
    stack.route(client, "amq.topic", &["a.b"]);
    stack.consume(client, "q", "c", |_| {});
    let received = stack.received(client);
    let Method::BasicDeliver(deliver) = &received[0].method else { panic!("{received:?}") };
    let expected = (&short("amq.topic"), &short("a.b"));
    assert_eq!((&deliver.exchange, &deliver.routing_key), expected);
}
