//! Consumers, prefetch and messages one by one (§1.8.3).

use super::*;

/// §1.8.3.3: what is in the queue is delivered in its order, and what comes then.
#[test]
fn basic_consume_delivers_in_order() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.fill(client, "q", &["1", "2"]);
    stack.consume(client, "q", "c", |_| {});
    stack.fill(client, "q", &["3"]);
    let delivered = stack.deliveries(client);
    let tags: Vec<u64> = delivered.iter().map(|it| it.tag).collect();
    assert_eq!(tags, [1, 2, 3]);
    let bodies: Vec<&str> = delivered.iter().map(|it| &it.body[..]).collect();
    assert_eq!(bodies, ["1", "2", "3"]);
    assert!(delivered.iter().all(|it| !it.redelivered));
}

/// §1.8.3.3, 01: a queue has many consumers, and each message goes to one of them.
#[test]
fn basic_consume_shares_a_queue_among_consumers() {
    let mut stack = Stack::new();
    let clients: Vec<ConnectionId> = (0..16).map(|_| stack.client()).collect();
    stack.declare(clients[0], "q", |_| {});
    for client in &clients {
        stack.consume(*client, "q", "c", |_| {});
    }
    let bodies: Vec<String> = (0..64).map(|number| number.to_string()).collect();
    let publisher = stack.client();
    for body in &bodies {
        stack.publish(publisher, to_queue("q"), &Properties::default(), body);
    }
    let mut all: Vec<usize> = Vec::new();
    for client in &clients {
        let bodies = stack.bodies(*client);
        assert!(!bodies.is_empty(), "everybody has a turn");
        all.extend(bodies.iter().map(|body| body.parse::<usize>().expect("a number")));
    }
    all.sort_unstable();
    assert_eq!(all, (0..64).collect::<Vec<_>>());
}

/// §1.8.3.3, queue-known: a queue that is not there is not found.
#[test]
fn basic_consume_needs_a_queue() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.send(client, 1, BasicConsume { queue: short("none"), ..BasicConsume::default() });
    stack.assert_channel_closed(client, 404, "NOT_FOUND - no queue 'none' in vhost '/'");
}

/// §1.8.3.3, consumer-tag: tags are of their channel, and used once there.
#[test]
fn basic_consume_tags_are_unique_in_their_channel() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.consume(client, "q", "c", |_| {});
    stack.send(client, 2, ChannelOpen::default());
    let again =
        BasicConsume { queue: short("q"), consumer_tag: short("c"), ..BasicConsume::default() };
    stack.send(client, 2, again.clone());
    let ok: Method = BasicConsumeOk { consumer_tag: short("c") }.into();
    assert_eq!(stack.methods(client), [ChannelOpenOk::default().into(), ok]);
    stack.send(client, 1, again);
    stack.assert_connection_closed(client, 530, "attempt to reuse consumer tag 'c'");
}

/// §1.8.3.3, exclusive: a consumer that is to be the only one has no other beside it.
#[test]
fn basic_consume_exclusive_is_the_only_one() {
    let mut stack = Stack::new();
    let (first, second) = (stack.client(), stack.client());
    stack.declare(first, "q", |_| {});
    stack.consume(first, "q", "c", |consume| consume.exclusive = true);
    let expected = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
    for exclusive in [false, true] {
        let consume = BasicConsume { queue: short("q"), exclusive, ..BasicConsume::default() };
        stack.send(second, 1, consume);
        stack.assert_channel_closed(second, 403, expected);
    }
    stack.send(first, 1, BasicCancel { consumer_tag: short("c"), no_wait: false });
    stack.received(first);
    stack.consume(second, "q", "d", |_| {});
    let consume = BasicConsume { queue: short("q"), exclusive: true, ..BasicConsume::default() };
    stack.send(first, 1, consume);
    stack.assert_channel_closed(first, 403, expected);
}

/// §1.8.3.5: a cancelled consumer gets nothing more and can acknowledge what it has.
#[test]
fn basic_cancel_ends_a_consumer_and_not_what_it_has() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.fill(client, "q", &["1"]);
    stack.consume(client, "q", "c", |_| {});
    assert_eq!(stack.bodies(client), ["1"]);
    stack.send(client, 1, BasicCancel { consumer_tag: short("c"), no_wait: false });
    assert_eq!(stack.method(client), BasicCancelOk { consumer_tag: short("c") }.into());
    stack.fill(client, "q", &["2"]);
    assert_eq!(stack.count(client, "q"), (1, 0), "the first is out");
    stack.ack(client, 1);
    assert_eq!(stack.get(client, "q", true).map(|got| got.body), Some("2".to_owned()));
    assert_eq!(stack.get(client, "q", true), None);
}

/// RabbitMQ, consumer cancellation: a consumer whose queue is deleted is told.
#[test]
fn basic_cancel_comes_from_the_server_when_the_queue_is_gone() {
    let mut stack = Stack::new();
    let (client, other) = (stack.client(), stack.client());
    stack.declare(client, "q", |_| {});
    stack.fill(client, "q", &["1"]);
    stack.consume(client, "q", "c", |_| {});
    stack.received(client);
    stack.send(other, 1, QueueDelete { queue: short("q"), ..QueueDelete::default() });
    let expected = BasicCancel { consumer_tag: short("c"), no_wait: true };
    assert_eq!(stack.method(client), expected.into());
    stack.ack(client, 1);
    assert_eq!(stack.received(client), [], "it went with its queue");
}

/// §1.8.3.1 and RabbitMQ's reading of `global`: prefetch is of each consumer, or of the channel.
#[test]
fn basic_qos_limits_what_is_out() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.declare(client, "r", |_| {});
    for queue in ["q", "r"] {
        stack.fill(client, queue, &["1", "2", "3"]);
    }
    stack.qos(client, 2, false);
    stack.consume(client, "q", "c", |_| {});
    assert_eq!(stack.bodies(client), ["1", "2"]);
    stack.ack(client, 1);
    assert_eq!(stack.bodies(client), ["3"]);
    stack.send(client, 1, BasicAck { delivery_tag: 3, multiple: true });
    stack.send(client, 1, BasicCancel { consumer_tag: short("c"), no_wait: false });
    stack.received(client);

    stack.fill(client, "q", &["4", "5"]);
    stack.qos(client, 3, true);
    stack.consume(client, "q", "d", |_| {});
    stack.consume(client, "r", "e", |_| {});
    assert_eq!(stack.deliveries(client).len(), 3, "of both together");
    stack.send(client, 1, BasicAck { delivery_tag: 0, multiple: true });
    assert_eq!(stack.deliveries(client).len(), 2);
}

/// §1.8.3.3, no-ack: what is delivered is done.
#[test]
fn basic_consume_no_ack_is_done_as_it_is_delivered() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.fill(client, "q", &["1", "2"]);
    stack.qos(client, 1, false);
    stack.consume(client, "q", "c", |consume| consume.no_ack = true);
    assert_eq!(stack.bodies(client), ["1", "2"], "prefetch is of what is to be acknowledged");
    stack.cut(client);
    let client = stack.client();
    assert_eq!(stack.get(client, "q", false), None);
}

/// §1.8.3.10: messages one by one, and how many are left.
#[test]
fn basic_get_takes_one_and_counts_the_rest() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    assert_eq!(stack.get(client, "q", false), None);
    stack.fill(client, "q", &["1", "2"]);
    stack.send(client, 1, BasicGet { queue: short("q"), no_ack: false, ..BasicGet::default() });
    match stack.method(client) {
        Method::BasicGetOk(ok) => assert_eq!((ok.delivery_tag, ok.message_count), (1, 1)),
        other => panic!("{other:?}"),
    }
    assert_eq!(stack.get(client, "q", true).map(|got| got.body), Some("2".to_owned()));
    assert_eq!(stack.get(client, "q", true), None);
    stack.nack(client, 1, true);
    let again = stack.get(client, "q", true).expect("it was given back");
    assert_eq!((&again.body[..], again.redelivered), ("1", true));
}

/// RabbitMQ, single active consumer: the first gets everything, until it leaves.
#[test]
fn queue_single_active_consumer_is_the_first() {
    let mut stack = Stack::new();
    let (first, second) = (stack.client(), stack.client());
    stack.declare(first, "q", |declare| {
        declare.arguments = arguments(&[("x-single-active-consumer", Value::Boolean(true))]);
    });
    stack.consume(first, "q", "a", |_| {});
    stack.consume(second, "q", "b", |_| {});
    stack.fill(first, "q", &["1", "2"]);
    assert_eq!(stack.bodies(first), ["1", "2"]);
    assert_eq!(stack.received(second), []);
    stack.cut(first);
    let delivered = stack.deliveries(second);
    assert!(delivered.iter().all(|it| it.redelivered) && delivered.len() == 2, "{delivered:?}");
}

/// RabbitMQ, priority queues: the highest first, and equals in their order.
#[test]
fn queue_priorities_are_delivered_highest_first() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |declare| {
        declare.arguments = arguments(&[("x-max-priority", Value::I32(5))]);
    });
    for (body, priority) in [("low", 0), ("high", 5), ("mid", 3), ("high too", 9)] {
        let list = Properties::encode([Property::Priority(priority)]);
        stack.publish(client, to_queue("q"), &list, body);
    }
    stack.consume(client, "q", "c", |_| {});
    assert_eq!(stack.bodies(client), ["high", "high too", "mid", "low"]);
}

/// A consumer group of one's own reads everything again, as streams and `x-consumer-group` have it.
#[test]
fn basic_consume_of_another_group_reads_for_itself() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "log", |declare| {
        declare.arguments = arguments(&[("x-queue-type", "stream".into())]);
    });
    stack.fill(client, "log", &["1", "2"]);
    for tag in ["a", "b"] {
        stack.qos(client, 10, false);
        let with = arguments(&[("x-stream-offset", "first".into())]);
        stack.consume(client, "log", tag, |consume| consume.arguments = with);
        assert_eq!(stack.bodies(client), ["1", "2"]);
    }
}
