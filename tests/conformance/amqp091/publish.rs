//! Publishing and its confirms (§1.8.3.7, and RabbitMQ's publisher confirms).

use super::*;

/// §1.8.3.7, default: the default exchange routes to the queue that the key names.
#[test]
fn basic_publish_to_the_default_exchange_reaches_the_queue_of_the_key() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.declare(client, "other", |_| {});
    stack.fill(client, "q", &["1"]);
    assert_eq!((stack.count(client, "q").0, stack.count(client, "other").0), (1, 0));
    // It makes none.
    stack.fill(client, "none", &["2"]);
    let passive = QueueDeclare { queue: short("none"), passive: true, ..QueueDeclare::default() };
    stack.send(client, 1, passive);
    stack.assert_channel_closed(client, 404, "no queue 'none'");
}

/// §1.8.3.7, mandatory: what is routed nowhere comes back, whole, and in confirm mode before it is confirmed.
#[test]
fn basic_publish_mandatory_comes_back_when_it_is_routed_nowhere() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.send(client, 1, ConfirmSelect { no_wait: true });
    let list = Properties::encode([Property::MessageId(short("7"))]);
    let publish = BasicPublish { mandatory: true, ..to_queue("none") };
    stack.publish(client, publish, &list, "body");
    let received = stack.received(client);
    let [returned, acked] = &received[..] else { panic!("{received:?}") };
    let expected = BasicReturn {
        reply_code: 312,
        reply_text: short("NO_ROUTE"),
        exchange: short(""),
        routing_key: short("none"),
    };
    assert_eq!(returned.method, expected.into());
    assert_eq!((&returned.properties, &returned.body[..]), (&list, &b"body"[..]));
    assert_eq!(acked.method, BasicAck { delivery_tag: 1, multiple: false }.into());

    stack.declare(client, "q", |_| {});
    stack.publish(client, BasicPublish { mandatory: true, ..to_queue("q") }, &list, "body");
    let expected = BasicAck { delivery_tag: 2, multiple: false };
    assert_eq!(stack.method(client), expected.into());
}

/// RabbitMQ, publisher confirms: what was confirmed is there after a power cut.
#[test]
fn confirm_select_confirms_what_is_stored() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.send(client, 1, ConfirmSelect { no_wait: false });
    assert_eq!(stack.method(client), ConfirmSelectOk::default().into());
    stack.fill(client, "q", &["1", "2", "3"]);
    let confirmed: u64 = stack
        .methods(client)
        .into_iter()
        .map(|method| match method {
            Method::BasicAck(ack) => ack.delivery_tag,
            other => panic!("{other:?}"),
        })
        .max()
        .expect("they are confirmed");
    assert_eq!(confirmed, 3);
    let mut stack = stack.crash();
    let client = stack.client();
    assert_eq!(stack.count(client, "q").0, 3);
}

/// §1.8, content: properties and headers come as they were published, byte for byte.
#[test]
fn basic_properties_come_as_they_were_published() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    let headers = arguments(&[
        ("text", "value".into()),
        ("number", Value::I16(-7)),
        ("nothing", Value::Void),
        ("message-id", "mine".into()),
    ]);
    let lists = [
        Properties::default(),
        Properties::encode([Property::DeliveryMode(2)]),
        Properties::encode([Property::DeliveryMode(1), Property::Timestamp(7)]),
        Properties::encode([
            Property::ContentType(short("text/plain")),
            Property::Headers(headers),
            Property::ReplyTo(short("answers")),
            Property::Expiration(short("60001")),
        ]),
    ];
    for list in &lists {
        stack.publish(client, to_queue("q"), list, &"x".repeat(10_000));
    }
    stack.consume(client, "q", "c", |_| {});
    let received = stack.received(client);
    assert_eq!(received.len(), lists.len());
    for (received, list) in received.iter().zip(&lists) {
        let Method::BasicDeliver(deliver) = &received.method else { panic!("{received:?}") };
        assert_eq!((&deliver.exchange, &deliver.routing_key), (&short(""), &short("q")));
        assert_eq!((&received.properties, received.body.len()), (list, 10_000));
    }
}

/// §1.5.2.5, and RabbitMQ: a channel is closed when what was published on it is done, so that who comes after finds it.
#[test]
fn channel_close_comes_after_what_was_published() {
    let mut stack = Stack::new();
    let (client, other) = (stack.client(), stack.client());
    stack.declare(client, "q", |_| {});
    let input = &mut stack.end(client).input;
    Method::from(to_queue("q")).encode(1, input);
    content::encode(1, &Properties::default(), b"1", FRAME_BYTES, input);
    stack.send(client, 1, ChannelClose::default());
    assert_eq!(stack.method(client), ChannelCloseOk::default().into());
    assert_eq!(stack.count(other, "q").0, 1);

    stack.send(client, 1, ChannelOpen::default());
    stack.methods(client);
    let input = &mut stack.end(client).input;
    let publish = BasicPublish { exchange: short("gone"), ..BasicPublish::default() };
    Method::from(publish).encode(1, input);
    content::encode(1, &Properties::default(), b"2", FRAME_BYTES, input);
    stack.send(client, 1, ChannelClose::default());
    let methods = stack.methods(client);
    let [Method::ChannelClose(close), Method::ChannelCloseOk(_)] = &methods[..] else {
        panic!("{methods:?}")
    };
    assert_eq!(close.reply_code, 404);
}

/// RabbitMQ, validated user-id: `guest` is who logged in as `guest`, also where that needs no account.
#[test]
fn basic_properties_user_id_is_who_logged_in() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    let said = |name| Properties::encode([Property::UserId(short(name))]);
    stack.publish(client, to_queue("q"), &said("guest"), "1");
    assert_eq!(stack.count(client, "q").0, 1);
    stack.publish(client, to_queue("q"), &said("ann"), "2");
    let expected = "user_id property set to 'ann' but authenticated user was 'guest'";
    stack.assert_channel_closed(client, 406, expected);
}

/// §1.8.3.7, 02: `immediate` is not served, as in RabbitMQ.
#[test]
fn basic_publish_immediate_is_not_implemented() {
    let mut stack = Stack::new();
    let client = stack.client();
    let publish = BasicPublish { immediate: true, ..to_queue("q") };
    stack.publish(client, publish, &Properties::default(), "body");
    stack.assert_connection_closed(client, 540, "immediate=true");
}

/// RabbitMQ, queue length limit: with `reject-publish` the publisher is told.
#[test]
fn basic_publish_to_a_full_queue_is_not_confirmed() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |declare| {
        declare.arguments =
            arguments(&[("x-max-length", Value::I32(1)), ("x-overflow", "reject-publish".into())]);
    });
    stack.send(client, 1, ConfirmSelect { no_wait: true });
    stack.fill(client, "q", &["1", "2"]);
    let expected: [Method; 2] = [
        BasicAck { delivery_tag: 1, multiple: false }.into(),
        BasicNack { delivery_tag: 2, multiple: false, requeue: false }.into(),
    ];
    assert_eq!(stack.methods(client), expected);
    assert_eq!(stack.count(client, "q").0, 1);
}
