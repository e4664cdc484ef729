//! The class queue (§1.7).

use super::*;
use fluxmq::partition::Options;
use fluxmq_log::sim_disk::SimDisk;

/// §1.7.2.1, default-name: a queue without a name gets one of the server's, unique.
#[test]
fn queue_declare_without_a_name_makes_one() {
    let mut stack = Stack::new();
    let client = stack.client();
    let mut names = Vec::new();
    for _ in 0..2 {
        stack.send(client, 1, QueueDeclare { exclusive: true, ..QueueDeclare::default() });
        match stack.method(client) {
            Method::QueueDeclareOk(ok) => names.push(ok.queue),
            other => panic!("{other:?}"),
        }
    }
    assert_ne!(names[0], names[1]);
    assert!(names[0].as_str().is_some_and(|name| name.starts_with("amq.gen-")));
}

/// §1.7.2.1, passive: a queue that is not there is not found, and not made.
#[test]
fn queue_declare_passive_does_not_make_a_queue() {
    let mut stack = Stack::new();
    let client = stack.client();
    let passive = QueueDeclare { queue: short("q"), passive: true, ..QueueDeclare::default() };
    for _ in 0..2 {
        stack.send(client, 1, passive.clone());
        stack.assert_channel_closed(client, 404, "NOT_FOUND - no queue 'q' in vhost '/'");
    }
}

/// §1.7.2.1, equivalent: who declares a queue that is there otherwise is refused.
#[test]
fn queue_declare_again_must_say_the_same() {
    let mut stack = Stack::new();
    let client = stack.client();
    assert_eq!(stack.declare(client, "q", |_| {}), (0, 0));
    assert_eq!(stack.declare(client, "q", |_| {}), (0, 0));
    let transient = QueueDeclare { queue: short("q"), ..QueueDeclare::default() };
    stack.send(client, 1, transient);
    let expected = "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'";
    stack.assert_channel_closed(client, 406, expected);
    let with_ttl = QueueDeclare {
        queue: short("q"),
        durable: true,
        arguments: arguments(&[("x-message-ttl", Value::I32(5))]),
        ..QueueDeclare::default()
    };
    stack.send(client, 1, with_ttl);
    let expected = "inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value '5' of type 'signedint' but current is none";
    stack.assert_channel_closed(client, 406, expected);
}

/// §1.7.2.1, equivalent: so is who says other limits, or another way for dead letters; the queue stays as it is.
#[test]
fn queue_declare_again_must_say_the_same_limits_and_dead_letters() {
    let mut stack = Stack::new();
    let client = stack.client();
    let said = [
        ("x-max-length", Value::I32(9)),
        ("x-max-length-bytes", Value::I32(900)),
        ("x-overflow", "reject-publish".into()),
        ("x-dead-letter-exchange", "amq.fanout".into()),
        ("x-dead-letter-routing-key", "dead".into()),
    ];
    stack.declare(client, "q", |it| it.arguments = arguments(&said));
    stack.fill(client, "q", &["0"]);
    let stats = stack.world.stats("q");
    let others = [
        (0, Value::I32(8), "received '8' but current is '9'"),
        (1, Value::I32(901), "received '901' but current is '900'"),
        (2, "drop-head".into(), "received none but current is the value 'reject-publish' of type"),
        (3, "amq.topic".into(), "received 'amq.topic' but current is 'amq.fanout'"),
        (4, "gone".into(), "received 'gone' but current is 'dead'"),
    ];
    for (at, value, expected) in others {
        let mut other = said.clone();
        other[at].1 = value;
        let arguments = arguments(&other);
        let declare =
            QueueDeclare { queue: short("q"), durable: true, arguments, ..Default::default() };
        stack.send(client, 1, declare);
        let name = said[at].0;
        let text = format!("inequivalent arg '{name}' for queue 'q' in vhost '/': {expected}");
        stack.assert_channel_closed(client, 406, &text);
        assert_eq!(stack.world.stats("q"), stats, "{name}");
    }
    assert_eq!(stack.declare(client, "q", |it| it.arguments = arguments(&said)), (1, 0));
}

/// Ours: where first use declares no queue, those who declare one have it, and a publish to a name that is no queue is returned as ever.
#[test]
fn queue_declare_makes_a_queue_where_first_use_does_not() {
    let options = Options { auto_create_queues: false, ..Options::default() };
    let mut stack = Stack::new();
    stack.world = World::with(SimDisk::new(5), 4, options).expect("recovers");
    let client = stack.client();
    for _ in 0..2 {
        assert_eq!(stack.declare(client, "q", |_| {}), (0, 0));
    }
    assert_eq!(stack.count(client, "q"), (0, 0), "passive");
    stack.fill(client, "q", &["0"]);
    stack.consume(client, "q", "c", |_| {});
    assert_eq!(stack.bodies(client), ["0"]);

    let unknown = BasicPublish { mandatory: true, ..to_queue("unknown") };
    stack.publish(client, unknown, &Properties::default(), "1");
    let Method::BasicReturn(returned) = stack.method(client) else { panic!("not returned") };
    assert_eq!(returned.reply_code, 312);
    let consume = BasicConsume { queue: short("unknown"), ..BasicConsume::default() };
    stack.send(client, 1, consume);
    stack.assert_channel_closed(client, 404, "NOT_FOUND - no queue 'unknown' in vhost '/'");
}

/// §1.7.2.1, durable: what is in a durable queue is there after a power cut; a queue that is not durable is gone.
#[test]
fn queue_declare_durable_outlives_the_broker() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "kept", |_| {});
    stack.declare(client, "gone", |declare| declare.durable = false);
    stack.send(client, 1, ConfirmSelect { no_wait: false });
    stack.fill(client, "kept", &["1", "2"]);
    stack.fill(client, "gone", &["3"]);
    stack.received(client);
    let mut stack = stack.crash();
    let client = stack.client();
    assert_eq!(stack.count(client, "kept"), (2, 0));
    let passive = QueueDeclare { queue: short("gone"), passive: true, ..QueueDeclare::default() };
    stack.send(client, 1, passive);
    stack.assert_channel_closed(client, 404, "no queue 'gone'");
}

/// §1.7.2.1, exclusive: the queue is its connection's alone, and ends with it.
#[test]
fn queue_declare_exclusive_locks_out_others_and_ends_with_its_connection() {
    let mut stack = Stack::new();
    let (owner, other) = (stack.client(), stack.client());
    stack.declare(owner, "mine", |declare| declare.exclusive = true);
    let passive = QueueDeclare { queue: short("mine"), passive: true, ..QueueDeclare::default() };
    let purge = QueuePurge { queue: short("mine"), ..QueuePurge::default() };
    let get = BasicGet { queue: short("mine"), ..BasicGet::default() };
    let consume = BasicConsume { queue: short("mine"), ..BasicConsume::default() };
    let acts: [Method; 4] = [passive.clone().into(), purge.into(), get.into(), consume.into()];
    for act in acts {
        stack.send(other, 1, act);
        let expected = "cannot obtain exclusive access to locked queue 'mine' in vhost '/'";
        stack.assert_channel_closed(other, 405, expected);
    }
    stack.cut(owner);
    stack.send(other, 1, passive);
    stack.assert_channel_closed(other, 404, "no queue 'mine'");
}

/// §1.7.2.1, exclusive, and RabbitMQ: whoever heard that its connection is closed finds its exclusive queues gone.
#[test]
fn connection_close_comes_after_the_end_of_exclusive_queues() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "mine", |declare| declare.exclusive = true);
    stack.fill(client, "mine", &["1"]);
    stack.send(client, 0, ConnectionClose::default());
    assert_eq!(stack.method(client), ConnectionCloseOk::default().into());
    let next = stack.client();
    assert_eq!(stack.declare(next, "mine", |declare| declare.exclusive = true), (0, 0));
}

/// §1.7.2.1, auto-delete: the queue ends when its last consumer does, and not before it had one.
#[test]
fn queue_declare_auto_delete_ends_with_the_last_consumer() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |declare| declare.auto_delete = true);
    stack.consume(client, "q", "a", |_| {});
    stack.consume(client, "q", "b", |_| {});
    for tag in ["a", "b"] {
        let queue = QueueDeclare { queue: short("q"), passive: true, ..QueueDeclare::default() };
        stack.send(client, 1, queue);
        assert!(matches!(stack.method(client), Method::QueueDeclareOk(_)), "{tag} is there");
        stack.send(client, 1, BasicCancel { consumer_tag: short(tag), no_wait: false });
        assert_eq!(stack.method(client), BasicCancelOk { consumer_tag: short(tag) }.into());
    }
    let queue = QueueDeclare { queue: short("q"), passive: true, ..QueueDeclare::default() };
    stack.send(client, 1, queue);
    stack.assert_channel_closed(client, 404, "no queue 'q'");
}

/// §1.7.2.1, reserved: names that begin with `amq.` are the server's.
#[test]
fn queue_declare_leaves_amq_names_to_the_server() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.send(client, 1, QueueDeclare { queue: short("amq.q"), ..QueueDeclare::default() });
    stack.assert_channel_closed(client, 403, "contains reserved prefix 'amq.*'");
}

/// §1.7.2.2: messages that are ready, and consumers, are counted.
#[test]
fn queue_declare_ok_counts_what_is_ready() {
    let mut stack = Stack::new();
    let (client, other) = (stack.client(), stack.client());
    stack.declare(client, "q", |_| {});
    stack.fill(client, "q", &["1", "2", "3"]);
    assert_eq!(stack.count(client, "q"), (3, 0));
    stack.qos(other, 1, false);
    stack.consume(other, "q", "c", |_| {});
    assert_eq!(stack.bodies(other), ["1"]);
    assert_eq!(stack.count(client, "q"), (2, 1), "one is out");
}

/// §1.7.2.7: what is not handed out is taken out, and counted; what is out stays out.
#[test]
fn queue_purge_takes_out_what_is_ready() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.fill(client, "q", &["1", "2", "3"]);
    let got = stack.get(client, "q", false).expect("there are some");
    stack.send(client, 1, QueuePurge { queue: short("q"), ..QueuePurge::default() });
    assert_eq!(stack.method(client), QueuePurgeOk { message_count: 2 }.into());
    stack.nack(client, got.tag, true);
    assert_eq!(stack.get(client, "q", true).map(|got| got.body), Some("1".to_owned()));
    assert_eq!(stack.get(client, "q", true), None);
    stack.send(client, 1, QueuePurge { queue: short("none"), ..QueuePurge::default() });
    stack.assert_channel_closed(client, 404, "no queue 'none'");
}

/// §1.7.2.9: a deleted queue is gone with its messages, which are counted; one that is not there is no error (RabbitMQ).
#[test]
fn queue_delete_counts_what_went_and_forgives_what_was_not_there() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.fill(client, "q", &["1", "2"]);
    let delete = QueueDelete { queue: short("q"), ..QueueDelete::default() };
    for message_count in [2, 0] {
        stack.send(client, 1, delete.clone());
        assert_eq!(stack.method(client), QueueDeleteOk { message_count }.into());
    }
    assert_eq!(stack.declare(client, "q", |_| {}), (0, 0), "another one of the name");
}

/// §1.7.2.9, if-unused and if-empty: a queue that is used, or is not empty, is kept.
#[test]
fn queue_delete_keeps_what_is_used_or_not_empty() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.fill(client, "q", &["1"]);
    let delete = QueueDelete { queue: short("q"), ..QueueDelete::default() };
    stack.send(client, 1, QueueDelete { if_empty: true, ..delete.clone() });
    stack.assert_channel_closed(client, 406, "queue 'q' in vhost '/' not empty");
    let reader = stack.client();
    stack.consume(reader, "q", "c", |_| {});
    stack.send(client, 1, QueueDelete { if_unused: true, ..delete });
    stack.assert_channel_closed(client, 406, "queue 'q' in vhost '/' in use");
    assert_eq!(stack.count(client, "q").1, 1);
}

/// §1.7.2.1, queue-known: without a name, the queue that the channel declared last is meant.
#[test]
fn queue_methods_without_a_name_mean_the_last_one() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.send(client, 1, QueuePurge::default());
    stack.assert_channel_closed(client, 404, "no previously declared queue");
    stack.declare(client, "q", |_| {});
    stack.fill(client, "q", &["1"]);
    stack.send(client, 1, QueuePurge::default());
    assert_eq!(stack.method(client), QueuePurgeOk { message_count: 1 }.into());
}

/// RabbitMQ, TTL: messages of a queue with `x-message-ttl` go when their time is over, and to its dead letters.
#[test]
fn queue_message_ttl_makes_dead_letters() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "dead", |_| {});
    stack.declare(client, "q", |declare| {
        declare.arguments = arguments(&[
            ("x-message-ttl", Value::I32(1_000)),
            ("x-dead-letter-exchange", "".into()),
            ("x-dead-letter-routing-key", "dead".into()),
        ]);
    });
    stack.fill(client, "q", &["late"]);
    stack.pass(5_000);
    assert_eq!(stack.count(client, "q").0, 0);
    stack.send(client, 1, BasicGet { queue: short("dead"), ..BasicGet::default() });
    let received = stack.received(client);
    let headers = received[0].properties.headers().expect("it says how it died");
    assert_eq!(headers.get("x-first-death-reason"), Some("expired".into()));
    assert_eq!(headers.get("x-first-death-queue"), Some("q".into()));
    assert_eq!(text(&received[0].body), "late");
}
