//! Dead letters as RabbitMQ's documentation has them (Dead Letter Exchanges, TTL, Queue Length Limit).

use fluxmq::protocol::amqp091::codec::Array;

use super::*;

/// RabbitMQ, TTL and length: what was acknowledged is gone, and neither expires nor counts for the length.
#[test]
fn what_is_acknowledged_does_not_die() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "dead", |_| {});
    let rules: [(&'static str, &[(&str, Value)]); 3] = [
        ("brief", &[("x-message-ttl", Value::I32(1_000))]),
        ("short", &[("x-max-length", Value::I32(2))]),
        (
            "full",
            &[
                ("x-max-length", Value::I32(2)),
                ("x-overflow", Value::LongString(Bytes::from_static(b"reject-publish"))),
            ],
        ),
    ];
    for (queue, rule) in rules {
        stack.declare(client, queue, |declare| {
            let dlx = [
                ("x-dead-letter-exchange", "".into()),
                ("x-dead-letter-routing-key", "dead".into()),
            ];
            declare.arguments = arguments(&[rule, &dlx[..]].concat());
        });
    }
    stack.send(client, 1, ConfirmSelect { no_wait: false });
    stack.received(client);
    for queue in ["brief", "short", "full"] {
        for number in 0..5 {
            stack.fill(client, queue, &["m"]);
            assert!(matches!(stack.method(client), Method::BasicAck(_)), "{queue} {number}");
            assert!(stack.get(client, queue, true).is_some());
        }
    }
    (0..5).for_each(|_| stack.pass(2_000));
    assert_eq!(stack.count(client, "dead").0, 0);
}

fn long(text: &'static str) -> Value {
    text.into()
}

fn list(texts: &[&'static str]) -> Value {
    let texts: Vec<Value> = texts.iter().map(|text| long(text)).collect();
    Value::Array(Array::encode(&texts))
}

fn to_exchange(exchange: &'static str, key: &'static str) -> BasicPublish {
    BasicPublish { exchange: short(exchange), routing_key: short(key), ..BasicPublish::default() }
}

/// An exchange, and queues that are bound to it by these keys.
fn exchange(
    stack: &mut Stack,
    client: ConnectionId,
    (name, kind): (&'static str, &'static str),
    queues: &[(&'static str, &'static str)],
) {
    let declare =
        ExchangeDeclare { exchange: short(name), kind: short(kind), ..ExchangeDeclare::default() };
    stack.send(client, 1, declare);
    assert_eq!(stack.method(client), ExchangeDeclareOk::default().into());
    for (queue, key) in queues {
        let (queue, exchange, routing_key) = (short(queue), short(name), short(key));
        let bind = QueueBind { queue, exchange, routing_key, ..QueueBind::default() };
        stack.send(client, 1, bind);
        assert_eq!(stack.method(client), QueueBindOk::default().into());
    }
}

/// A queue whose dead letters go to an exchange, with these arguments beside.
fn dying(
    stack: &mut Stack,
    client: ConnectionId,
    queue: &'static str,
    (exchange, key): (&'static str, Option<&'static str>),
    more: &[(&str, Value)],
) {
    let key = key.map(|key| ("x-dead-letter-routing-key", long(key)));
    let exchange = ("x-dead-letter-exchange", long(exchange));
    let all: Vec<(&str, Value)> = more.iter().cloned().chain([exchange]).chain(key).collect();
    stack.declare(client, queue, |declare| declare.arguments = arguments(&all));
}

/// Takes one message out of a queue, which has one; returns how it came, and its properties.
fn take(
    stack: &mut Stack,
    client: ConnectionId,
    queue: &'static str,
) -> ((ShortString, ShortString), Properties) {
    stack.send(client, 1, BasicGet { queue: short(queue), no_ack: true, ..BasicGet::default() });
    let received = stack.received(client);
    let [Received { method: Method::BasicGetOk(ok), properties, .. }] = &received[..] else {
        panic!("{queue}: {received:?}")
    };
    ((ok.exchange.clone(), ok.routing_key.clone()), properties.clone())
}

fn reject(stack: &mut Stack, client: ConnectionId, queue: &'static str) {
    let got = stack.get(client, queue, false).expect("there is one");
    stack.nack(client, got.tag, false);
}

fn deaths(headers: &Table) -> Vec<Table> {
    let Some(Value::Array(deaths)) = headers.get("x-death") else { panic!("an array") };
    let table = |death| match death {
        Value::Table(table) => table,
        other => panic!("{other:?}"),
    };
    deaths.iter().map(table).collect()
}

/// The fields of a death but its time.
fn fields(death: &Table) -> Vec<(String, Value)> {
    let name = |name: ShortString| name.as_str().expect("text").to_owned();
    let all = death.iter().map(|(found, value)| (name(found), value));
    all.filter(|(name, _)| name != "time").collect()
}

fn died(
    count: i64,
    (reason, queue): (&'static str, &'static str),
    (exchange, keys): (&'static str, &[&'static str]),
) -> Vec<(String, Value)> {
    let fields = [
        ("count", Value::I64(count)),
        ("reason", long(reason)),
        ("queue", long(queue)),
        ("exchange", long(exchange)),
        ("routing-keys", list(keys)),
    ];
    fields.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// RabbitMQ, dead letter exchanges: a letter comes by that exchange, with its own keys unless the queue has one, and says how it died.
#[test]
fn letters_go_by_an_exchange_with_their_history() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "orders", |_| {});
    for queue in ["by-own", "by-key", "all"] {
        stack.declare(client, queue, |_| {});
    }
    exchange(
        &mut stack,
        client,
        ("dlx", "direct"),
        &[("by-own", "new.1"), ("by-key", "dead"), ("all", "new.1"), ("all", "dead")],
    );
    dying(&mut stack, client, "own", ("dlx", None), &[]);
    dying(&mut stack, client, "key", ("dlx", Some("dead")), &[]);
    exchange(&mut stack, client, ("in", "topic"), &[("own", "new.*"), ("key", "#")]);
    let properties = Properties::encode([
        Property::Headers(arguments(&[("trace", Value::I64(7)), ("CC", list(&["copy"]))])),
        Property::Priority(3),
        Property::MessageId(short("m")),
    ]);
    stack.publish(client, to_exchange("in", "new.1"), &properties, "body");

    reject(&mut stack, client, "own");
    reject(&mut stack, client, "key");

    let mut stack = stack.crash();
    let client = stack.client();
    assert_eq!(stack.count(client, "all").0, 2);
    for (queue, key, from) in [("by-own", "new.1", "own"), ("by-key", "dead", "key")] {
        let (address, properties) = take(&mut stack, client, queue);
        assert_eq!(address, (short("dlx"), short(key)));
        let headers = properties.headers().expect("headers");
        assert_eq!(headers.get("trace"), Some(Value::I64(7)));
        assert_eq!(headers.get("CC"), Some(list(&["copy"])));
        let all = deaths(&headers);
        assert_eq!(all.len(), 1);
        assert_eq!(fields(&all[0]), died(1, ("rejected", from), ("in", &["new.1", "copy"])));
        assert!(matches!(all[0].get("time"), Some(Value::Timestamp(seconds)) if seconds > 0));
        for which in ["first", "last"] {
            let said = |what: &str| headers.get(&format!("x-{which}-death-{what}"));
            assert_eq!(said("queue"), Some(long(from)));
            assert_eq!(said("reason"), Some(long("rejected")));
            assert_eq!(said("exchange"), Some(long("in")));
        }
        let others: Vec<Property> =
            properties.iter().filter(|it| !matches!(it, Property::Headers(_))).collect();
        assert_eq!(others, [Property::Priority(3), Property::MessageId(short("m"))]);
    }
}

/// RabbitMQ, dead letter exchanges: the pattern of retries: what is rejected waits in a queue with a TTL and comes back, and counts on.
#[test]
fn what_is_tried_again_counts_its_deaths() {
    let mut stack = Stack::new();
    let client = stack.client();
    dying(&mut stack, client, "work", ("later", None), &[]);
    dying(&mut stack, client, "wait", ("again", None), &[("x-message-ttl", Value::I32(1_000))]);
    exchange(&mut stack, client, ("later", "fanout"), &[("wait", "")]);
    exchange(&mut stack, client, ("again", "fanout"), &[("work", "")]);
    stack.publish(client, to_queue("work"), &Properties::default(), "body");
    for _ in 0..3 {
        reject(&mut stack, client, "work");
        (0..3).for_each(|_| stack.pass(1_000));
    }

    let (address, properties) = take(&mut stack, client, "work");

    assert_eq!(address, (short("again"), short("work")));
    let headers = properties.headers().expect("headers");
    let all: Vec<_> = deaths(&headers).iter().map(fields).collect();
    let expected = [
        died(3, ("expired", "wait"), ("later", &["work"])),
        died(3, ("rejected", "work"), ("", &["work"])),
    ];
    assert_eq!(all, expected);
    let said = |name: &str| headers.get(name);
    assert_eq!(said("x-first-death-queue"), Some(long("work")));
    assert_eq!(said("x-first-death-exchange"), Some(long("")));
    assert_eq!(said("x-last-death-queue"), Some(long("wait")));
    assert_eq!(said("x-last-death-exchange"), Some(long("later")));
}

/// RabbitMQ, dead letter exchanges: of a message with a TTL of its own the letter says it, and has none any more.
#[test]
fn the_expiration_of_a_letter_is_over_and_told() {
    let mut stack = Stack::new();
    let client = stack.client();
    dying(&mut stack, client, "q", ("", Some("dead")), &[]);
    dying(&mut stack, client, "dead", ("", Some("last")), &[]);
    stack.declare(client, "last", |_| {});
    let properties = Properties::encode([Property::Expiration(short("1500"))]);
    stack.publish(client, to_queue("q"), &properties, "body");
    (0..5).for_each(|_| stack.pass(2_000));
    reject(&mut stack, client, "dead");

    let (address, properties) = take(&mut stack, client, "last");

    assert_eq!(address, (short(""), short("last")));
    assert!(properties.iter().all(|it| !matches!(it, Property::Expiration(_))));
    let all = deaths(&properties.headers().expect("headers"));
    assert_eq!(fields(&all[0]), died(1, ("rejected", "dead"), ("", &["dead"])));
    assert_eq!(all[1].get("original-expiration"), Some(long("1500")));
    assert_eq!(fields(&all[1])[1..], died(1, ("expired", "q"), ("", &["q"]))[..]);
}

/// RabbitMQ, queue length limit: what `reject-publish-dlx` refuses is a dead letter, and its publisher hears that it was refused.
#[test]
fn what_a_full_queue_refuses_is_a_dead_letter() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "dead", |_| {});
    exchange(&mut stack, client, ("dlx", "fanout"), &[("dead", "")]);
    let rules = [("x-max-length", Value::I32(1)), ("x-overflow", long("reject-publish-dlx"))];
    dying(&mut stack, client, "q", ("dlx", None), &rules);
    stack.send(client, 1, ConfirmSelect { no_wait: false });
    stack.received(client);
    stack.fill(client, "q", &["kept"]);
    assert_eq!(stack.method(client), BasicAck { delivery_tag: 1, multiple: false }.into());

    stack.fill(client, "q", &["refused"]);

    let nack = BasicNack { delivery_tag: 2, multiple: false, requeue: false };
    assert_eq!(stack.method(client), nack.into());
    let (_, properties) = take(&mut stack, client, "dead");
    let all = deaths(&properties.headers().expect("headers"));
    assert_eq!(fields(&all[0]), died(1, ("maxlen", "q"), ("", &["q"])));
    assert_eq!(stack.get(client, "q", true).map(|got| got.body), Some("kept".to_owned()));
    stack.fill(client, "q", &["again"]);
    assert_eq!(stack.method(client), BasicAck { delivery_tag: 3, multiple: false }.into());
}

/// RabbitMQ, queue length limit: the oldest that waits is dropped, and becomes a letter; what is out at a consumer is not.
#[test]
fn what_is_out_does_not_give_way() {
    let mut stack = Stack::new();
    let client = stack.client();
    stack.declare(client, "dead", |_| {});
    dying(
        &mut stack,
        client,
        "q",
        ("", Some("dead")),
        &[("x-max-length", Value::I32(1)), ("x-message-ttl", Value::I32(10_000))],
    );
    stack.fill(client, "q", &["out"]);
    let out = stack.get(client, "q", false).expect("there is one");
    stack.fill(client, "q", &["dropped", "kept"]);
    (0..3).for_each(|_| stack.pass(1_000));
    assert_eq!(stack.get(client, "dead", true).map(|got| got.body), Some("dropped".to_owned()));
    (0..10).for_each(|_| stack.pass(1_000));
    assert_eq!(stack.get(client, "dead", true).map(|got| got.body), Some("kept".to_owned()));
    stack.ack(client, out.tag);
    (0..3).for_each(|_| stack.pass(10_000));
    assert_eq!(stack.get(client, "dead", true), None, "it was done with");
}

/// RabbitMQ, sender-selected distribution: `CC` and `BCC` are further routing keys, and nobody sees `BCC`; a letter goes by all of them.
#[test]
fn cc_and_bcc_are_routing_keys() {
    let mut stack = Stack::new();
    let client = stack.client();
    for queue in ["to", "cc", "bcc", "late"] {
        dying(&mut stack, client, queue, ("dlx", None), &[]);
    }
    stack.declare(client, "dead", |_| {});
    exchange(&mut stack, client, ("dlx", "direct"), &[("dead", "bcc")]);
    exchange(
        &mut stack,
        client,
        ("in", "direct"),
        &[("to", "to"), ("cc", "cc"), ("to", "cc"), ("bcc", "bcc")],
    );
    let headers = [("CC", list(&["cc", "none"])), ("BCC", list(&["bcc"])), ("x", Value::I64(1))];
    let properties = Properties::encode([Property::Headers(arguments(&headers))]);
    let seen: Table = arguments(&[("CC", list(&["cc", "none"])), ("x", Value::I64(1))]);
    for exchange in ["in", ""] {
        stack.publish(client, to_exchange(exchange, "to"), &properties, "body");
        for queue in ["to", "cc", "bcc"] {
            assert_eq!(stack.count(client, queue).0, 1, "{exchange} {queue}");
            if queue == "cc" {
                reject(&mut stack, client, queue);
                continue;
            }
            let (address, found) = take(&mut stack, client, queue);
            assert_eq!(address, (short(exchange), short("to")), "{queue}");
            assert_eq!(found, Properties::encode([Property::Headers(seen.clone())]));
        }
        let (address, found) = take(&mut stack, client, "dead");
        assert_eq!(address, (short("dlx"), short("to")));
        let headers = found.headers().expect("headers");
        assert_eq!((headers.get("BCC"), headers.get("x")), (None, Some(Value::I64(1))));
        let expected = died(1, ("rejected", "cc"), (exchange, &["to", "cc", "none"]));
        assert_eq!(fields(&deaths(&headers)[0]), expected);
    }

    let wrong = Properties::encode([Property::Headers(arguments(&[("CC", long("cc"))]))]);
    stack.publish(client, to_exchange("in", "to"), &wrong, "body");
    let expected = "invalid message: {unacceptable_type_in_header,\"CC\",longstr}";
    stack.assert_channel_closed(client, 406, expected);
}

/// RabbitMQ, queues, redeclaring: what differs is named.
#[test]
fn another_dead_letter_exchange_is_another_queue() {
    let mut stack = Stack::new();
    let client = stack.client();
    dying(&mut stack, client, "q", ("one", None), &[]);
    dying(&mut stack, client, "q", ("one", None), &[]);
    for (exchange, key, expected) in [
        (
            "two",
            None,
            "'x-dead-letter-exchange' for queue 'q' in vhost '/': received 'two' but current is 'one'",
        ),
        (
            "one",
            Some("k"),
            "'x-dead-letter-routing-key' for queue 'q' in vhost '/': received the value 'k' of type 'longstr' but current is none",
        ),
    ] {
        let key = key.map(|key| ("x-dead-letter-routing-key", long(key)));
        let all: Vec<_> =
            [("x-dead-letter-exchange", long(exchange))].into_iter().chain(key).collect();
        let declare = QueueDeclare {
            queue: short("q"),
            durable: true,
            arguments: arguments(&all),
            ..QueueDeclare::default()
        };
        stack.send(client, 1, declare);
        stack.assert_channel_closed(client, 406, expected);
    }
}
