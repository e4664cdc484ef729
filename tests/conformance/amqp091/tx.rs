//! Transactions (§1.9, and where that leaves it open as RabbitMQ has them).

use super::*;

/// Live together: what is in braces says where.
const IN: &str = "{t}.in";
const OUT: &str = "{t}.out";

/// A client with an empty queue to publish to, and three messages of another one out, in transactions.
fn transacting(stack: &mut Stack) -> ConnectionId {
    let client = stack.client();
    for queue in [IN, OUT] {
        stack.declare(client, queue, |_| {});
    }
    stack.fill(client, IN, &["1", "2", "3"]);
    stack.consume(client, IN, "c", |_| {});
    assert_eq!(stack.bodies(client), ["1", "2", "3"]);
    select(stack, client);
    client
}

fn select(stack: &mut Stack, client: ConnectionId) {
    stack.send(client, 1, TxSelect::default());
    assert_eq!(stack.method(client), TxSelectOk::default().into());
}

fn commit(stack: &mut Stack, client: ConnectionId) {
    stack.send(client, 1, TxCommit::default());
    assert_eq!(stack.method(client), TxCommitOk::default().into());
}

fn rollback(stack: &mut Stack, client: ConnectionId) {
    stack.send(client, 1, TxRollback::default());
    assert_eq!(stack.method(client), TxRollbackOk::default().into());
}

/// What another client finds in a queue.
fn left(stack: &mut Stack, queue: &'static str) -> Vec<String> {
    let client = stack.client();
    std::iter::from_fn(|| stack.get(client, queue, true)).map(|got| got.body).collect()
}

/// §1.9.2.3: nobody sees what is published before it is committed, and then it is there, also after a power cut.
#[test]
fn tx_commit_publishes() {
    let mut stack = Stack::new();
    let client = transacting(&mut stack);
    stack.fill(client, OUT, &["a", "b"]);
    let other = stack.client();
    assert_eq!(stack.count(other, OUT).0, 0);
    commit(&mut stack, client);
    assert_eq!(stack.count(other, OUT).0, 2);
    // The next transaction begins by itself.
    stack.fill(client, OUT, &["c"]);
    assert_eq!(stack.count(other, OUT).0, 2);
    let mut stack = stack.crash();
    assert_eq!(left(&mut stack, OUT), ["a", "b"]);
}

/// §1.9.2.3: acknowledgements take effect with the commit. Until then what they are of is out.
#[test]
fn tx_commit_acknowledges() {
    let mut stack = Stack::new();
    let client = transacting(&mut stack);
    stack.ack(client, 1);
    stack.send(client, 1, BasicAck { delivery_tag: 2, multiple: true });
    commit(&mut stack, client);
    stack.ack(client, 3);
    stack.cut(client);
    assert_eq!(left(&mut stack, IN), ["3"]);

    let mut stack = stack.crash();
    assert_eq!(left(&mut stack, IN), Vec::<String>::new());
}

/// RabbitMQ: what is given back or dropped is so with the commit, too.
#[test]
fn tx_commit_rejects() {
    let mut stack = Stack::new();
    let client = transacting(&mut stack);
    stack.nack(client, 1, true);
    stack.send(client, 1, BasicReject { delivery_tag: 2, requeue: false });
    assert_eq!(stack.received(client), []);
    stack.send(client, 1, TxCommit::default());
    let received = stack.received(client);
    assert!(received.iter().any(|it| it.method == TxCommitOk::default().into()));
    let again: Vec<&[u8]> = received
        .iter()
        .filter(|it| matches!(&it.method, Method::BasicDeliver(it) if it.redelivered))
        .map(|it| &it.body[..])
        .collect();
    assert_eq!(again, [b"1"]);
    stack.cut(client);
    assert_eq!(left(&mut stack, IN), ["1", "3"]);
}

/// §1.9.2.5: nothing is published; what was acknowledged is out as before, neither acknowledged nor given back.
#[test]
fn tx_rollback_forgets() {
    let mut stack = Stack::new();
    let client = transacting(&mut stack);
    stack.fill(client, OUT, &["a"]);
    stack.ack(client, 1);
    stack.nack(client, 2, true);
    rollback(&mut stack, client);
    let other = stack.client();
    assert_eq!((stack.count(other, IN).0, stack.count(other, OUT).0), (0, 0));
    // The same tags again.
    stack.send(client, 1, BasicAck { delivery_tag: 2, multiple: true });
    commit(&mut stack, client);
    stack.cut(client);
    assert_eq!(left(&mut stack, IN), ["3"]);
    assert_eq!(left(&mut stack, OUT), Vec::<String>::new());
}

/// A message that is acknowledged in a transaction cannot be acknowledged again in it.
#[test]
fn tx_takes_a_tag_once() {
    let mut stack = Stack::new();
    let client = transacting(&mut stack);
    stack.ack(client, 1);
    stack.ack(client, 1);
    stack.assert_channel_closed(client, 406, "PRECONDITION_FAILED - unknown delivery tag 1");
    assert_eq!(left(&mut stack, IN), ["1", "2", "3"], "nothing was committed");
}

/// What is acknowledged counts for the prefetch until it is committed.
#[test]
fn tx_keeps_the_prefetch_until_the_commit() {
    for global in [false, true] {
        let mut stack = Stack::new();
        let client = stack.client();
        stack.declare(client, "q", |_| {});
        stack.fill(client, "q", &["1", "2"]);
        stack.qos(client, 1, global);
        select(&mut stack, client);
        stack.consume(client, "q", "c", |_| {});
        assert_eq!(stack.bodies(client), ["1"]);
        stack.ack(client, 1);
        assert_eq!(stack.received(client), []);
        stack.send(client, 1, TxCommit::default());
        let received = stack.received(client);
        assert_eq!(received.len(), 2, "in whatever order");
        assert!(received.iter().any(|it| it.method == TxCommitOk::default().into()));
        assert!(received.iter().any(|it| it.body == b"2"));
    }
}

/// A message that was asked for is acknowledged in a transaction like others.
#[test]
fn tx_acknowledges_what_was_got() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.fill(client, "q", &["1", "2"]);
    select(&mut stack, client);
    let got = stack.get(client, "q", false).expect("it is there");
    stack.ack(client, got.tag);
    rollback(&mut stack, client);
    assert_eq!(stack.count(client, "q").0, 1, "it is out");
    stack.ack(client, got.tag);
    commit(&mut stack, client);
    stack.cut(client);
    assert_eq!(left(&mut stack, "q"), ["2"]);
}

/// RabbitMQ: a channel confirms or transacts, and does not do both.
#[test]
fn tx_and_confirms_exclude_one_another() {
    let mut stack = Stack::new();
    let client = stack.client();
    select(&mut stack, client);
    select(&mut stack, client);
    stack.send(client, 1, ConfirmSelect::default());
    stack.assert_channel_closed(client, 406, "cannot switch from tx to confirm mode");
    stack.send(client, 1, ConfirmSelect { no_wait: true });
    stack.send(client, 1, TxSelect::default());
    stack.assert_channel_closed(client, 406, "cannot switch from confirm to tx mode");
}

/// §1.9.2.3 and §1.9.2.5, transacted: there is nothing to commit or to roll back without `tx.select`.
#[test]
fn tx_needs_a_select() {
    let mut stack = Stack::new();
    let client = stack.client();
    let expected = "PRECONDITION_FAILED - channel is not transactional";
    stack.send(client, 1, TxCommit::default());
    stack.assert_channel_closed(client, 406, expected);
    stack.send(client, 1, TxRollback::default());
    stack.assert_channel_closed(client, 406, expected);
}

/// §1.8.3.7, mandatory: what is routed nowhere comes back as the transaction is committed, and not before.
#[test]
fn tx_returns_at_the_commit() {
    let mut stack = Stack::new();
    let client = transacting(&mut stack);
    let list = Properties::encode([Property::MessageId(short("7"))]);
    for queue in ["{t}.none", OUT] {
        let publish = BasicPublish { mandatory: true, ..to_queue(queue) };
        stack.publish(client, publish, &list, "body");
    }
    stack.publish(client, to_queue("{t}.gone"), &list, "not mandatory");
    assert_eq!(stack.received(client), []);
    stack.send(client, 1, TxCommit::default());
    let received = stack.received(client);
    let [returned, committed] = &received[..] else { panic!("{received:?}") };
    let Method::BasicReturn(it) = &returned.method else { panic!("{returned:?}") };
    assert_eq!((it.reply_code, &it.routing_key), (312, &short("{t}.none")));
    assert_eq!((&returned.properties, &returned.body[..]), (&list, &b"body"[..]));
    assert_eq!(committed.method, TxCommitOk::default().into());
    assert_eq!(left(&mut stack, OUT), ["body"]);
}

/// Ours: a transaction is of one partition, and one that is not is refused, and says what to do.
#[test]
fn tx_of_several_partitions_is_refused_and_rolled_back() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut refused = 0;
    for name in names {
        let mut stack = Stack::new();
        let client = transacting(&mut stack);
        stack.declare(client, name, |_| {});
        stack.fill(client, OUT, &["1"]);
        stack.fill(client, name, &["2"]);
        stack.ack(client, 1);
        stack.send(client, 1, TxCommit::default());
        let [answer] = &stack.methods(client)[..] else { panic!("one answer") };
        let expected = match answer {
            Method::ChannelClose(close) => {
                let text = close.reply_text.as_str().expect("text");
                assert_eq!((close.reply_code, close.class_id, close.method_id), (406, 90, 20));
                assert!(text.contains("live in different partitions"), "{text}");
                assert!(text.contains(OUT) && text.contains(&format!("'{name}'")), "{text}");
                refused += 1;
                (vec![], vec![], vec!["1", "2", "3"])
            }
            other => {
                assert_eq!(*other, TxCommitOk::default().into());
                stack.cut(client);
                (vec!["1"], vec!["2"], vec!["2", "3"])
            }
        };
        let found = [OUT, name, IN].map(|queue| left(&mut stack, queue));
        assert_eq!(found, [expected.0, expected.1, expected.2], "{name}");
    }
    assert!((1..names.len()).contains(&refused), "{refused}: there are four partitions");
}

/// What cannot be stored is refused with all that is in the transaction.
#[test]
fn tx_commit_is_refused_as_a_whole() {
    let mut stack = Stack::new();
    let client = transacting(&mut stack);
    stack.declare(client, "{t}.full", |declare| {
        declare.arguments =
            arguments(&[("x-max-length", Value::I32(1)), ("x-overflow", "reject-publish".into())]);
    });
    stack.fill(client, OUT, &["1"]);
    stack.fill(client, "{t}.full", &["2", "3"]);
    stack.ack(client, 1);
    stack.send(client, 1, TxCommit::default());
    stack.assert_channel_closed(
        client,
        406,
        "PRECONDITION_FAILED - the transaction is rolled back",
    );
    assert_eq!(left(&mut stack, OUT), Vec::<String>::new());
    assert_eq!(left(&mut stack, "{t}.full"), Vec::<String>::new());
    assert_eq!(left(&mut stack, IN), ["1", "2", "3"]);

    let client = stack.client();
    select(&mut stack, client);
    stack.fill(client, OUT, &["1"]);
    let publish = BasicPublish { exchange: short("none"), ..to_queue("k") };
    stack.publish(client, publish, &Properties::default(), "2");
    stack.send(client, 1, TxCommit::default());
    stack.assert_channel_closed(client, 404, "NOT_FOUND - no exchange 'none' in vhost '/'");
    assert_eq!(left(&mut stack, OUT), Vec::<String>::new());
}

/// Exchanges and topics are published to in transactions, too.
#[test]
fn tx_commit_routes() {
    let mut stack = Stack::new();
    let client = transacting(&mut stack);
    for (exchange, key) in [("amq.direct", "k"), ("amq.fanout", "")] {
        let bind = QueueBind {
            queue: short(OUT),
            exchange: short(exchange),
            routing_key: short(key),
            ..QueueBind::default()
        };
        stack.send(client, 1, bind);
        assert_eq!(stack.method(client), QueueBindOk::default().into());
    }
    for (exchange, key, body) in
        [("amq.direct", "k", "1"), ("amq.direct", "other", "2"), ("amq.fanout", "any", "3")]
    {
        let publish = BasicPublish { exchange: short(exchange), ..to_queue(key) };
        stack.publish(client, publish, &Properties::default(), body);
    }
    commit(&mut stack, client);
    assert_eq!(left(&mut stack, OUT), ["1", "3"]);
    // A topic has a partition of its own: alone it is a transaction.
    let publish = BasicPublish { exchange: short("amq.topic"), ..to_queue("a.b") };
    stack.publish(client, publish, &Properties::default(), "4");
    commit(&mut stack, client);
    assert_eq!(stack.world.stored("a/b"), ["4"]);
}

/// §1.5.2.5: a channel that is closed, by whomever, has published nothing, and acknowledged nothing, of what it has not committed; nor has one
/// whose connection ends.
#[test]
fn tx_ends_with_its_channel() {
    for how in 0..4 {
        let mut stack = Stack::new();
        let client = transacting(&mut stack);
        stack.fill(client, OUT, &["1"]);
        stack.ack(client, 1);
        match how {
            0 => stack.send(client, 1, ChannelClose::default()),
            1 => {
                let queue = short("none");
                stack.send(client, 1, QueueDeclare { queue, passive: true, ..Default::default() });
                stack.assert_channel_closed(client, 404, "no queue 'none'");
                // The channel that is opened under its number transacts no more.
                stack.send(client, 1, TxCommit::default());
                stack.assert_channel_closed(client, 406, "channel is not transactional");
            }
            2 => stack.send(client, 0, ConnectionClose::default()),
            _ => stack.cut(client),
        }
        assert_eq!(left(&mut stack, OUT), Vec::<String>::new(), "{how}");
        assert_eq!(left(&mut stack, IN), ["1", "2", "3"], "{how}");
    }
}

/// RabbitMQ: `basic.recover` is part of no transaction.
#[test]
fn tx_does_not_hold_back_a_recover() {
    let mut stack = Stack::new();
    let client = transacting(&mut stack);
    stack.ack(client, 1);
    stack.send(client, 1, BasicRecover { requeue: true });
    let received = stack.received(client);
    assert_eq!(received[0].method, BasicRecoverOk::default().into());
    let bodies: Vec<&[u8]> = received[1..].iter().map(|it| &it.body[..]).collect();
    assert_eq!(bodies, [b"2", b"3"]);
    commit(&mut stack, client);
    stack.cut(client);
    assert_eq!(left(&mut stack, IN), ["2", "3"]);
}

/// What a queue takes along as it is deleted is no part of a transaction any more.
#[test]
fn tx_commits_without_what_is_gone() {
    let mut stack = Stack::new();
    let client = transacting(&mut stack);
    let other = stack.client();
    stack.ack(client, 1);
    stack.fill(client, OUT, &["1"]);
    stack.send(other, 1, QueueDelete { queue: short(IN), ..QueueDelete::default() });
    let cancelled = BasicCancel { consumer_tag: short("c"), no_wait: true };
    assert_eq!(stack.method(client), cancelled.into());
    commit(&mut stack, client);
    assert_eq!(left(&mut stack, OUT), ["1"]);
}
