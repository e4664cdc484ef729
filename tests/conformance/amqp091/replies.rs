//! RabbitMQ's direct reply-to: answers without a queue that anybody declares.

use super::*;

const REPLIES: &str = "amq.rabbitmq.reply-to";

/// Asks a question of queue `rpc`; returns the name that the service sees for the answer.
fn ask(stack: &mut Stack, client: ConnectionId, service: ConnectionId) -> ShortString {
    let list = Properties::encode([
        Property::ReplyTo(short(REPLIES)),
        Property::CorrelationId(short("7")),
    ]);
    stack.publish(client, to_queue("rpc"), &list, "question");
    let received = stack.received(service);
    let [question] = &received[..] else { panic!("{received:?}") };
    let tag = match &question.method {
        Method::BasicDeliver(deliver) => deliver.delivery_tag,
        other => panic!("{other:?} is no question"),
    };
    stack.ack(service, tag);
    question.properties.reply_to().expect("it is to be answered")
}

/// A client that consumes its replies, and a service that consumes questions.
fn both(stack: &mut Stack) -> (ConnectionId, ConnectionId) {
    let (client, service) = (stack.client(), stack.client());
    stack.declare(service, "rpc", |_| {});
    stack.consume(service, "rpc", "s", |_| {});
    stack.consume(client, REPLIES, "c", |consume| consume.no_ack = true);
    (client, service)
}

fn to(queue: &ShortString) -> BasicPublish {
    BasicPublish { routing_key: queue.clone(), ..BasicPublish::default() }
}

/// RabbitMQ, direct reply-to: the answer comes by the default exchange to whoever asked, and to nobody else.
#[test]
fn direct_reply_to_answers_who_asked() {
    let mut stack = Stack::new();
    let (client, service) = both(&mut stack);
    let other = stack.client();
    stack.consume(other, REPLIES, "c", |consume| consume.no_ack = true);
    let reply_to = ask(&mut stack, client, service);
    assert_ne!(reply_to, ask(&mut stack, other, service));

    let list = Properties::encode([Property::CorrelationId(short("7"))]);
    stack.publish(service, to(&reply_to), &list, "answer");
    let received = stack.received(client);
    let [answer] = &received[..] else { panic!("{received:?}") };
    let expected = BasicDeliver {
        consumer_tag: short("c"),
        delivery_tag: 1,
        redelivered: false,
        exchange: short(""),
        routing_key: reply_to,
    };
    assert_eq!(answer.method, expected.into());
    assert_eq!((&answer.properties, &answer.body[..]), (&list, &b"answer"[..]));
    assert_eq!(stack.received(other), []);
}

/// RabbitMQ, direct reply-to: many answers come, in order, without anybody's acknowledgement, and also all at once.
#[test]
fn direct_reply_to_is_not_used_up() {
    let mut stack = Stack::new();
    let (client, service) = both(&mut stack);
    let reply_to = ask(&mut stack, client, service);
    for _ in 0..2 {
        let bodies: Vec<String> = (0..1_000).map(|number| format!("{number:>1000}")).collect();
        let input = &mut stack.end(service).input;
        for body in &bodies {
            Method::from(to(&reply_to)).encode(1, input);
            content::encode(1, &Properties::default(), body.as_bytes(), FRAME_BYTES, input);
        }
        stack.run();
        assert_eq!(stack.bodies(client), bodies);
    }
}

/// RabbitMQ, direct reply-to: whoever is asked can see whether anybody still listens; an answer that comes too late is returned if it is
/// mandatory.
#[test]
fn direct_reply_to_ends_with_its_consumer() {
    let mut stack = Stack::new();
    let (client, service) = both(&mut stack);
    let reply_to = ask(&mut stack, client, service);
    let look = QueueDeclare { queue: reply_to.clone(), ..QueueDeclare::default() };
    stack.send(service, 1, look.clone());
    let expected = QueueDeclareOk { queue: reply_to.clone(), message_count: 0, consumer_count: 1 };
    assert_eq!(stack.method(service), expected.into());

    stack.cut(client);
    let publish = BasicPublish { mandatory: true, ..to(&reply_to) };
    stack.publish(service, publish, &Properties::default(), "too late");
    let received = stack.received(service);
    assert!(
        matches!(&received[..], [Received { method: Method::BasicReturn(returned), .. }] if returned.reply_code == 312),
        "{received:?}"
    );
    stack.send(service, 1, look);
    stack.assert_channel_closed(service, 404, "no queue 'amq.rabbitmq.reply-to.");
}
