//! Streams: queues that are read and not emptied (RabbitMQ, streams, "Feature comparison" and "Consuming").

use super::*;
use fluxmq::model::QueueSettings;
use fluxmq::model::queue::{QueueKind, QueueLimits};

/// What is other about a declaration.
type Edit<'a> = &'a dyn Fn(&mut QueueDeclare);

const NAMED: &str = "queue 's' in vhost '/'";

/// A client, and a stream with three messages.
fn streaming(stack: &mut Stack) -> ConnectionId {
    let client = stack.client();
    stack.declare(client, "s", |declare| {
        declare.arguments = arguments(&[("x-queue-type", "stream".into())]);
    });
    stack.fill(client, "s", &["0", "1", "2"]);
    client
}

fn from(offset: impl Into<Value>) -> Table {
    arguments(&[("x-stream-offset", offset.into())])
}

/// Each consumer reads everything from where it says, and messages say where they are.
#[test]
fn stream_consumers_read_for_themselves() {
    let mut stack = Stack::new();
    let client = streaming(&mut stack);
    stack.qos(client, 10, false);
    let cases: [(&str, Value, &[&str]); 5] = [
        ("a", "first".into(), &["0", "1", "2"]),
        ("b", "last".into(), &["2"]),
        ("c", Value::I64(1), &["1", "2"]),
        ("d", "next".into(), &[]),
        ("e", "1h".into(), &["0", "1", "2"]),
    ];
    for (tag, offset, expected) in cases {
        stack.consume(client, "s", tag, |consume| consume.arguments = from(offset));
        let received = stack.received(client);
        let told: Vec<Option<Value>> = received
            .iter()
            .map(|it| it.properties.headers().and_then(|it| it.get("x-stream-offset")))
            .collect();
        let bodies: Vec<String> = received.iter().map(|it| text(&it.body)).collect();
        assert_eq!(bodies, expected, "{tag}");
        let offsets: Vec<Option<Value>> = expected
            .iter()
            .map(|body| Some(Value::I64(body.parse().expect("it is one"))))
            .collect();
        assert_eq!(told, offsets, "{tag}");
    }
    stack.fill(client, "s", &["3"]);
    assert_eq!(stack.bodies(client), ["3"; 5], "each of them");
}

/// Ours: who asks for what is not kept any more is told how much that is, with its first message.
#[test]
fn stream_offsets_before_the_oldest_message_say_what_is_missing() {
    for kind in [QueueKind::Stream, QueueKind::Classic] {
        let mut stack = Stack::new();
        let limits = QueueLimits { messages_max: Some(2), ..QueueLimits::default() };
        stack.world.declare("s", QueueSettings { kind, limits, ..QueueSettings::default() });
        let client = stack.client();
        stack.fill(client, "s", &["0", "1", "2", "3", "4", "5"]);
        stack.pass(2_000);
        stack.qos(client, 10, false);
        let cases: [(&str, Value, Option<&str>); 5] = [
            ("a", Value::I64(1), Some("3")),
            ("b", Value::Timestamp(1), Some("unknown")),
            ("c", Value::I64(4), None),
            ("d", "first".into(), None),
            ("e", Value::I64(0), Some("4")),
        ];
        for (tag, offset, gap) in cases {
            stack.consume(client, "s", tag, |consume| consume.arguments = from(offset));
            let received = stack.received(client);
            let said: Vec<Option<Value>> = received
                .iter()
                .map(|it| it.properties.headers().and_then(|it| it.get("x-gap")))
                .collect();
            assert_eq!(said, [gap.map(Value::from), None], "{kind:?} {tag}");
        }
    }
}

/// Without an offset a consumer begins with what comes next.
#[test]
fn stream_consumers_begin_with_what_comes_next() {
    let mut stack = Stack::new();
    let client = streaming(&mut stack);
    stack.qos(client, 10, false);
    for tag in ["a", "b"] {
        stack.consume(client, "s", tag, |_| {});
    }
    assert_eq!(stack.bodies(client), [""; 0]);
    stack.fill(client, "s", &["3"]);
    assert_eq!(stack.bodies(client), ["3", "3"]);
}

/// Ours: consumers of a group share a stream, and go on where the group got to.
#[test]
fn stream_consumers_of_a_group_share_it() {
    let mut stack = Stack::new();
    let client = streaming(&mut stack);
    stack.qos(client, 10, false);
    let with = arguments(&[("x-consumer-group", "g".into()), ("x-stream-offset", "first".into())]);
    stack.consume(client, "s", "a", |consume| consume.arguments = with.clone());
    assert_eq!(stack.bodies(client), ["0", "1", "2"]);
    stack.send(client, 1, BasicAck { delivery_tag: 3, multiple: true });
    stack.pass(1_000);
    stack.cut(client);
    let client = stack.client();
    stack.fill(client, "s", &["3"]);
    stack.qos(client, 10, false);
    let with = arguments(&[("x-consumer-group", "g".into())]);
    stack.consume(client, "s", "a", |consume| consume.arguments = with);
    assert_eq!(stack.bodies(client), ["3"]);
}

/// A consumer has out what its prefetch allows; acknowledging makes room and takes nothing out.
#[test]
fn stream_acknowledgements_make_room() {
    let mut stack = Stack::new();
    let client = streaming(&mut stack);
    stack.qos(client, 2, false);
    stack.consume(client, "s", "a", |consume| consume.arguments = from("first"));
    assert_eq!(stack.bodies(client), ["0", "1"]);
    stack.ack(client, 1);
    assert_eq!(stack.bodies(client), ["2"]);
    // Refused is read.
    stack.nack(client, 2, false);
    stack.fill(client, "s", &["3"]);
    assert_eq!(stack.bodies(client), ["3"]);
    stack.consume(client, "s", "b", |consume| consume.arguments = from("first"));
    assert_eq!(stack.bodies(client), ["0", "1"]);
}

/// A consumer needs a prefetch of its own, and acknowledges.
#[test]
fn stream_consumers_need_a_prefetch_and_acknowledge() {
    let mut stack = Stack::new();
    let client = streaming(&mut stack);
    let consume = |no_ack| BasicConsume { queue: short("s"), no_ack, ..BasicConsume::default() };
    for no_ack in [false, true] {
        stack.send(client, 1, consume(no_ack));
        let text =
            format!("PRECONDITION_FAILED - consumer prefetch count is not set for stream {NAMED}");
        stack.assert_channel_closed(client, 406, &text);
    }
    stack.qos(client, 5, true);
    stack.send(client, 1, consume(false));
    stack.assert_channel_closed(client, 406, "consumer prefetch count is not set");

    stack.qos(client, 5, false);
    stack.send(client, 1, consume(true));
    let text =
        format!("NOT_IMPLEMENTED - automatic acknowledgement not supported by stream {NAMED}");
    stack.assert_connection_closed(client, 540, &text);

    let client = stack.client();
    stack.qos(client, 5, false);
    stack.qos(client, 5, true);
    stack.send(client, 1, consume(false));
    stack.assert_connection_closed(client, 540, &format!("{NAMED} does not support global qos"));
}

/// Messages of a stream are not asked for one by one.
#[test]
fn stream_is_not_got() {
    let mut stack = Stack::new();
    let client = streaming(&mut stack);
    stack.send(client, 1, BasicGet { queue: short("s"), ..BasicGet::default() });
    let text = format!("NOT_IMPLEMENTED - basic.get not supported by stream {NAMED}");
    stack.assert_connection_closed(client, 540, &text);
}

/// What is in a stream stays until its limits end it, whoever asks.
#[test]
fn stream_is_not_purged() {
    let mut stack = Stack::new();
    let client = streaming(&mut stack);
    stack.send(client, 1, QueuePurge { queue: short("s"), ..QueuePurge::default() });
    let text = format!("NOT_IMPLEMENTED - queue.purge not supported by stream {NAMED}");
    stack.assert_connection_closed(client, 540, &text);

    let client = stack.client();
    let look = QueueDeclare { queue: short("s"), passive: true, ..QueueDeclare::default() };
    stack.send(client, 1, look);
    let Method::QueueDeclareOk(is_there) = stack.method(client) else { panic!("not declared") };
    assert_eq!(is_there.message_count, 3);
}

/// A stream outlives everything, has a name, and has no rules for single messages.
#[test]
fn stream_declare_takes_what_streams_have() {
    let mut stack = Stack::new();
    let client = stack.client();
    let stream = |edit: Edit<'_>| {
        let mut declare = QueueDeclare {
            queue: short("s"),
            durable: true,
            arguments: arguments(&[("x-queue-type", "stream".into())]),
            ..QueueDeclare::default()
        };
        edit(&mut declare);
        declare
    };
    let refused: [(Edit<'_>, &str); 4] = [
        (&|it| it.durable = false, "invalid property 'non-durable' for queue 's' in vhost '/'"),
        (&|it| it.exclusive = true, "invalid property 'exclusive-owner' for"),
        (&|it| it.auto_delete = true, "invalid property 'auto-delete' for"),
        (&|it| it.queue = short(""), "server-named queue for type rabbit_stream_queue"),
    ];
    for (edit, expected) in refused {
        stack.send(client, 1, stream(edit));
        stack.assert_channel_closed(client, 406, expected);
    }
    for name in ["x-message-ttl", "x-expires", "x-max-length", "x-max-priority", "x-overflow"] {
        let with = arguments(&[("x-queue-type", "stream".into()), (name, Value::I32(1))]);
        stack.send(client, 1, stream(&|it| it.arguments = with.clone()));
        let text = format!("invalid arg '{name}' for {NAMED} of queue type rabbit_stream_queue");
        stack.assert_channel_closed(client, 406, &text);
    }
    let with = arguments(&[
        ("x-queue-type", "stream".into()),
        ("x-max-length-bytes", Value::I64(1_000_000)),
        ("x-max-age", "7D".into()),
        ("x-stream-max-segment-size-bytes", Value::I32(1_000)),
        ("x-initial-cluster-size", Value::I32(1)),
    ]);
    stack.send(client, 1, stream(&|it| it.arguments = with.clone()));
    assert!(matches!(stack.method(client), Method::QueueDeclareOk(_)));
}

/// What only newer streams filter by is not looked at: everything comes.
#[test]
fn stream_filters_are_ignored() {
    let mut stack = Stack::new();
    let client = streaming(&mut stack);
    stack.qos(client, 10, false);
    let with = arguments(&[
        ("x-stream-offset", "first".into()),
        ("x-stream-filter", "one".into()),
        ("x-stream-match-unfiltered", Value::Boolean(false)),
    ]);
    stack.consume(client, "s", "a", |consume| consume.arguments = with);
    assert_eq!(stack.bodies(client), ["0", "1", "2"]);
}

/// What a consumer reads for itself is its own, and over with it: by a cancel, with its channel or connection, and with the broker.
#[test]
fn stream_readers_leave_nothing() {
    for kind in ["stream", "classic"] {
        let mut stack = Stack::new();
        let client = stack.client();
        stack.declare(client, "s", |declare| {
            declare.arguments = arguments(&[("x-queue-type", kind.into())]);
        });
        stack.fill(client, "s", &["0", "1", "2"]);
        for how in 0..4 {
            let reader = stack.client();
            stack.qos(reader, 2, false);
            stack.consume(reader, "s", "r", |consume| consume.arguments = from("first"));
            assert_eq!(stack.bodies(reader), ["0", "1"], "{kind} {how}");
            stack.ack(reader, 1);
            assert_eq!(stack.bodies(reader), ["2"]);
            assert_eq!(stack.world.stats("s").groups.len(), 0, "{kind}: nothing of it is stored");
            match how {
                0 => {
                    let cancel = BasicCancel { consumer_tag: short("r"), no_wait: false };
                    stack.send(reader, 1, cancel);
                    let ok = BasicCancelOk { consumer_tag: short("r") };
                    assert_eq!(stack.method(reader), ok.into());
                    stack.ack(reader, 2);
                    stack.nack(reader, 3, true);
                    assert_eq!(stack.received(reader), []);
                }
                1 => stack.send(reader, 1, ChannelClose::default()),
                2 => stack.cut(reader),
                _ => stack = stack.crash(),
            }
            stack.pass(1_000);
            assert_eq!(stack.world.stats("s").groups.len(), 0, "{kind} {how}");
        }
        let client = stack.client();
        assert_eq!(stack.count(client, "s"), (3, 0), "{kind}: they took nothing out");
    }
}
