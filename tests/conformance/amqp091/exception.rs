//! What an exception leaves of its channel, and of everything else (§1.5.2.5, §4.8.1): what was published is stored and not confirmed, what was out
//! is back in its place, consumers and modes are gone, and other channels go on.

use super::*;

impl Stack {
    /// Writes several methods, which come at once.
    fn put(&mut self, id: ConnectionId, channel: u16, method: impl Into<Method>) {
        let input = &mut self.end(id).input;
        method.into().encode(channel, input);
    }

    fn put_publish(&mut self, id: ConnectionId, publish: BasicPublish, body: &str) {
        self.put(id, 1, publish);
        let input = &mut self.end(id).input;
        content::encode(1, &Properties::default(), body.as_bytes(), FRAME_BYTES, input);
    }
}

fn ack(delivery_tag: u64) -> BasicAck {
    BasicAck { delivery_tag, multiple: false }
}

/// RabbitMQ, publisher confirms: what the broker has taken is stored; the channel that would hear of it is not there.
#[test]
fn exception_leaves_publishes_stored_and_unconfirmed() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.send(client, 1, ConfirmSelect { no_wait: true });
    stack.put_publish(client, to_queue("q"), "before");
    stack.put_publish(client, BasicPublish { mandatory: true, ..to_queue("none") }, "returned");
    stack.put(client, 1, ack(9));
    stack.put_publish(client, to_queue("q"), "after");
    stack.run();
    stack.assert_channel_closed(client, 406, "unknown delivery tag 9");
    assert_eq!(stack.received(client), [], "nothing is said of it later");

    // The next channel of the number confirms nothing before it is asked to, and then from 1 on.
    stack.fill(client, "q", &["plain"]);
    assert_eq!(stack.received(client), []);
    stack.send(client, 1, ConfirmSelect { no_wait: true });
    stack.fill(client, "q", &["confirmed"]);
    assert_eq!(stack.method(client), ack(1).into());
    let bodies: Vec<String> = std::iter::from_fn(|| stack.get(client, "q", true))
        .map(|got| {
            assert!(!got.redelivered);
            got.body
        })
        .collect();
    assert_eq!(bodies, ["before", "plain", "confirmed"], "what came after it is for nobody");
}

/// §1.5.2.5: consumers end with their channel and what they had goes back; those of other channels get it, and keep what they have.
#[test]
fn exception_ends_consumers_of_its_channel_only() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "{e}.q", |_| {});
    stack.declare(client, "{e}.alone", |_| {});
    stack.qos(client, 2, false);
    stack.consume(client, "{e}.q", "first", |_| {});
    stack.consume(client, "{e}.alone", "only", |consume| consume.exclusive = true);
    stack.fill(client, "{e}.q", &["1", "2", "3"]);
    assert_eq!(stack.bodies(client), ["1", "2"]);
    let got = stack.get(client, "{e}.q", false).expect("it is there");
    assert_eq!(got.body, "3");
    stack.ack(client, 1);
    stack.send(client, 2, ChannelOpen::default());
    let consume = BasicConsume {
        queue: short("{e}.q"),
        consumer_tag: short("second"),
        ..BasicConsume::default()
    };
    stack.send(client, 2, consume);
    stack.received(client);
    assert_eq!(stack.count(client, "{e}.q").1, 2);

    stack.put(client, 1, ack(1));
    stack.run();

    let received = stack.received(client);
    assert!(matches!(received[0].method, Method::ChannelClose(_)), "{received:?}");
    let again: Vec<(u16, bool, String)> = received[1..]
        .iter()
        .map(|it| match &it.method {
            Method::BasicDeliver(deliver) => (it.channel, deliver.redelivered, text(&it.body)),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(again, [(2, true, "2".to_owned()), (2, true, "3".to_owned())]);
    let other = stack.client();
    assert_eq!(stack.count(other, "{e}.q"), (0, 1), "one consumer, and it has them");
    // Nobody is alone with the other queue any more, and it has no consumer.
    assert_eq!(stack.count(other, "{e}.alone"), (0, 0));
    stack.consume(other, "{e}.alone", "next", |consume| consume.exclusive = true);
    // The other channel settles what it has; its tags are its own.
    stack.send(client, 2, BasicAck { delivery_tag: 2, multiple: true });
    stack.cut(client);
    assert_eq!(stack.count(other, "{e}.q"), (0, 0));
}

/// What a request waits for is nobody's when its channel is gone, and the connection takes what follows.
#[test]
fn exception_leaves_the_connection_usable_whatever_the_channel_was_doing() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.send(client, 2, ChannelOpen::default());
    stack.received(client);
    for method in [
        Method::from(TxCommit::default()),
        BasicReject { delivery_tag: 7, requeue: true }.into(),
        BasicConsume { queue: short("none"), ..BasicConsume::default() }.into(),
        BasicGet { queue: short("none"), ..BasicGet::default() }.into(),
        QueuePurge { queue: short("none"), ..QueuePurge::default() }.into(),
    ] {
        stack.put_publish(client, to_queue("q"), "m");
        stack.put(client, 1, method.clone());
        // For nobody: the channel is closed, or will be.
        stack.put(client, 1, BasicQos::default());
        stack.put(client, 2, BasicQos::default());
        stack.run();
        let received = stack.received(client);
        let closed = received.iter().filter(|it| matches!(it.method, Method::ChannelClose(_)));
        assert_eq!(closed.map(|it| it.channel).collect::<Vec<_>>(), [1], "{method:?}");
        let others: Vec<u16> = received
            .iter()
            .filter(|it| it.method == BasicQosOk::default().into())
            .map(|it| it.channel)
            .collect();
        assert_eq!(others, [2], "{method:?}");
        stack.send(client, 1, ChannelCloseOk::default());
        stack.send(client, 1, ChannelOpen::default());
        assert_eq!(stack.method(client), ChannelOpenOk::default().into());
    }
    assert_eq!(stack.count(client, "q").0, 5, "each was published before");
}
