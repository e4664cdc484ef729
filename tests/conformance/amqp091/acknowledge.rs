//! Acknowledgements (§1.8.3.13 to §1.8.3.17, and RabbitMQ's `basic.nack`).

use super::*;

/// A client with three messages of `q` out.
fn holding(stack: &mut Stack) -> ConnectionId {
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.fill(client, "q", &["1", "2", "3"]);
    stack.consume(client, "q", "c", |_| {});
    assert_eq!(stack.bodies(client), ["1", "2", "3"]);
    client
}

/// What another client finds in `q`.
fn left(stack: &mut Stack) -> Vec<Delivered> {
    let client = stack.client();
    std::iter::from_fn(|| stack.get(client, "q", true)).collect()
}

fn delivered(tag: u64, body: &str) -> Delivered {
    Delivered { tag, redelivered: true, body: body.to_owned() }
}

/// §1.8.3.13, multiple: everything up to the tag, and 0 is everything.
#[test]
fn basic_ack_multiple_is_everything_before() {
    let mut stack = Stack::new();
    let client = holding(&mut stack);
    stack.send(client, 1, BasicAck { delivery_tag: 2, multiple: true });
    stack.cut(client);
    assert_eq!(left(&mut stack), [delivered(1, "3")]);

    let mut stack = Stack::new();
    let client = holding(&mut stack);
    stack.send(client, 1, BasicAck { delivery_tag: 0, multiple: true });
    stack.cut(client);
    assert_eq!(left(&mut stack), []);
}

/// §1.8.3.13, delivery-tag: one that is not out is a failed precondition, and what was out goes back.
#[test]
fn basic_ack_of_an_unknown_tag_closes_the_channel() {
    let mut stack = Stack::new();
    let client = holding(&mut stack);
    stack.ack(client, 1);
    stack.ack(client, 1);
    stack.assert_channel_closed(client, 406, "PRECONDITION_FAILED - unknown delivery tag 1");
    assert_eq!(left(&mut stack), [delivered(1, "2"), delivered(2, "3")]);
}

/// §1.8.3.14: what is rejected comes again, in its place, or never.
#[test]
fn basic_reject_gives_back_or_drops() {
    let mut stack = Stack::new();
    let client = holding(&mut stack);
    stack.send(client, 1, BasicReject { delivery_tag: 2, requeue: false });
    stack.send(client, 1, BasicReject { delivery_tag: 1, requeue: true });
    assert_eq!(stack.deliveries(client), [delivered(4, "1")]);
    stack.cut(client);
    assert_eq!(left(&mut stack), [delivered(1, "1"), delivered(2, "3")]);
}

/// RabbitMQ, dead lettering: what is rejected goes to the queue's dead letters, and says how it died.
#[test]
fn basic_nack_without_requeue_makes_dead_letters() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "dead", |_| {});
    stack.declare(client, "q", |declare| {
        declare.arguments = arguments(&[
            ("x-dead-letter-exchange", "".into()),
            ("x-dead-letter-routing-key", "dead".into()),
        ]);
    });
    let list = Properties::encode([Property::MessageId(short("7"))]);
    stack.publish(client, to_queue("q"), &list, "bad");
    let got = stack.get(client, "q", false).expect("it is there");
    stack.nack(client, got.tag, false);
    stack.pass(2_000);
    stack.consume(client, "dead", "c", |_| {});
    let received = stack.received(client);
    let [letter] = &received[..] else { panic!("{received:?}") };
    let Method::BasicDeliver(deliver) = &letter.method else { panic!("{letter:?}") };
    assert_eq!((&deliver.exchange, &deliver.routing_key), (&short(""), &short("dead")));
    let headers = letter.properties.headers().expect("it says how it died");
    assert_eq!(headers.get("x-last-death-reason"), Some("rejected".into()));
    let Some(Value::Array(deaths)) = headers.get("x-death") else { panic!("{headers:?}") };
    let Some(Value::Table(death)) = deaths.iter().next() else { panic!("one death") };
    assert_eq!((death.get("queue"), death.get("count")), (Some("q".into()), Some(Value::I64(1))));
    assert!(letter.properties.iter().any(|it| it == Property::MessageId(short("7"))));
}

/// RabbitMQ, quorum queues: a message that came back more often than `x-delivery-limit` is dropped, and says meanwhile how often it did.
#[test]
fn queue_delivery_limit_ends_what_keeps_coming_back() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |declare| {
        declare.arguments =
            arguments(&[("x-queue-type", "quorum".into()), ("x-delivery-limit", Value::I32(2))]);
    });
    stack.fill(client, "q", &["bad"]);
    for returns in 0..=2 {
        stack.send(client, 1, BasicGet { queue: short("q"), ..BasicGet::default() });
        let received = stack.received(client);
        let Method::BasicGetOk(ok) = &received[0].method else { panic!("{received:?}") };
        let count = received[0].properties.headers().and_then(|it| it.get("x-delivery-count"));
        assert_eq!(count, (returns > 0).then_some(Value::I64(returns)));
        let tag = ok.delivery_tag;
        stack.nack(client, tag, true);
    }
    assert_eq!(stack.get(client, "q", false), None);
}

/// §1.8.3.16: what is out is delivered again, under other tags.
#[test]
fn basic_recover_delivers_again() {
    let mut stack = Stack::new();
    let client = holding(&mut stack);
    stack.ack(client, 2);
    stack.send(client, 1, BasicRecover { requeue: true });
    let received = stack.received(client);
    assert_eq!(received[0].method, BasicRecoverOk::default().into());
    let again: Vec<(u64, bool)> = received[1..]
        .iter()
        .map(|received| match &received.method {
            Method::BasicDeliver(deliver) => (deliver.delivery_tag, deliver.redelivered),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(again, [(4, true), (5, true)]);
    stack.send(client, 1, BasicRecover { requeue: false });
    stack.assert_connection_closed(client, 540, "requeue=false");
}

/// §1.5.2.5 and §1.4.2.5: when a channel or a connection ends, what it had out goes back, in its place and marked.
#[test]
fn what_was_out_goes_back_when_its_channel_or_connection_ends() {
    for ends_connection in [false, true] {
        let mut stack = Stack::new();
        let client = holding(&mut stack);
        stack.ack(client, 1);
        match ends_connection {
            true => stack.send(client, 0, ConnectionClose::default()),
            false => stack.send(client, 1, ChannelClose::default()),
        }
        assert_eq!(left(&mut stack), [delivered(1, "2"), delivered(2, "3")]);
    }
}

/// What was acknowledged does not come back after a power cut; what was not does, marked.
#[test]
fn what_is_acknowledged_stays_so() {
    let mut stack = Stack::new();
    let client = holding(&mut stack);
    stack.ack(client, 2);
    stack.pass(1_000);
    let mut stack = stack.crash();
    let bodies: Vec<String> = left(&mut stack).into_iter().map(|it| it.body).collect();
    assert_eq!(bodies, ["1", "3"]);
}

/// RabbitMQ, consumer timeout: who holds a delivery for too long loses its channel.
#[test]
fn a_delivery_that_is_never_acknowledged_closes_its_channel() {
    let mut stack = Stack::new();
    let client = holding(&mut stack);
    stack.pass(30 * 60_000);
    stack.assert_channel_closed(client, 406, "delivery acknowledgement on channel 1 timed out");
    assert_eq!(left(&mut stack).len(), 3);
}
