//! Virtual hosts (§1.4.2.8, `connection.open`), and RabbitMQ's permissions in them.

use super::*;

/// A broker that has the virtual host `staging` beside `/`, with this access list.
fn stack(acl: Option<&str>) -> Stack {
    let mut stack = Stack::new();
    let staging = VirtualHost::new(b"staging").expect("a name");
    let settings =
        Settings { guest_is_anonymous: true, virtual_hosts: vec![staging], ..Settings::default() };
    stack.settings = settings.into();
    if let Some(acl) = acl {
        stack.world.rules(acl);
    }
    stack
}

fn bind(exchange: &'static str, queue: &'static str, key: &'static str) -> QueueBind {
    QueueBind {
        queue: short(queue),
        exchange: short(exchange),
        routing_key: short(key),
        ..QueueBind::default()
    }
}

fn to(exchange: &'static str, key: &'static str) -> BasicPublish {
    BasicPublish { exchange: short(exchange), mandatory: true, ..to_queue(key) }
}

fn exchange(name: &'static str, kind: &'static str) -> ExchangeDeclare {
    ExchangeDeclare { exchange: short(name), kind: short(kind), ..ExchangeDeclare::default() }
}

/// §1.4.2.8, 'vhost': a virtual host that is not there, or that its user may not enter, closes the connection with 530.
#[test]
fn connection_open_needs_a_host_and_the_right_to_enter_it() {
    let mut stack = stack(Some("vhost / \"\" \"\" \"\"\n"));
    for (host, expected) in [
        ("nope", "NOT_ALLOWED - vhost nope not found"),
        ("staging", "NOT_ALLOWED - access to vhost 'staging' refused for user 'guest'"),
    ] {
        let client = stack.greet();
        stack.open(client, host);
        stack.assert_connection_closed(client, 530, expected);
    }
    stack.client();
    stack.world.rules("user ann\nvhost / .* .* .*\n");
    let client = stack.greet();
    stack.open(client, "/");
    let expected = "access to vhost '/' refused for user 'guest'";
    stack.assert_connection_closed(client, 530, expected);
}

/// §3.1, virtual hosts: queues and exchanges of one name are different ones in different hosts; so are topics.
#[test]
fn a_host_has_queues_exchanges_and_topics_of_its_own() {
    let mut stack = stack(None);
    let clients = [stack.client(), stack.client_in("staging")];
    for (client, body) in clients.into_iter().zip(["ours", "theirs"]) {
        stack.declare(client, "q", |_| {});
        for (name, kind) in [("orders", "direct"), ("spare", "fanout")] {
            stack.send(client, 1, exchange(name, kind));
            assert_eq!(stack.method(client), ExchangeDeclareOk::default().into());
        }
        for (name, key) in
            [("orders", "k"), ("amq.topic", "site.#"), ("amq.topic", "#.x"), ("amq.fanout", "")]
        {
            stack.send(client, 1, bind(name, "q", key));
            assert_eq!(stack.method(client), QueueBindOk::default().into());
        }
        for publish in [
            to_queue("q"),
            to("orders", "k"),
            to("amq.topic", "site.1"),
            to("amq.topic", "y.x"),
            to("amq.fanout", ""),
        ] {
            stack.publish(client, publish, &Properties::default(), body);
        }
        assert_eq!(stack.methods(client), [], "nothing comes back");
    }
    for (client, body) in clients.into_iter().zip(["ours", "theirs"]) {
        assert_eq!(stack.count(client, "q"), (5, 0), "{body}");
        stack.consume(client, "q", "c", |consume| consume.no_ack = true);
        let received = stack.received(client);
        let seen: Vec<_> = received
            .iter()
            .map(|received| match &received.method {
                Method::BasicDeliver(deliver) => {
                    assert_eq!(text(&received.body), body);
                    (deliver.exchange.as_str().unwrap(), deliver.routing_key.as_str().unwrap())
                }
                other => panic!("{other:?} is no delivery"),
            })
            .collect();
        let expected = [
            ("", "q"),
            ("orders", "k"),
            ("amq.topic", "site.1"),
            ("amq.topic", "y.x"),
            ("amq.fanout", ""),
        ];
        assert_eq!(seen, expected);
    }
    let [ours, theirs] = clients;
    stack.send(theirs, 1, QueueDelete { queue: short("q"), ..QueueDelete::default() });
    stack.methods(theirs);
    assert_eq!(stack.count(ours, "q"), (0, 1), "it is another one");
}

/// Names of other hosts are names as any other: nothing said in one host is of another.
#[test]
fn a_host_is_not_left_by_any_name() {
    let mut stack = stack(None);
    let (ours, theirs) = (stack.client(), stack.client_in("staging"));
    stack.declare(theirs, "q", |_| {});
    stack.send(theirs, 1, bind("amq.topic", "q", "#"));
    stack.methods(theirs);

    for key in ["staging%3Aq", "staging:q"] {
        stack.publish(ours, to("", key), &Properties::default(), "x");
        assert!(matches!(stack.method(ours), Method::BasicReturn(_)), "{key}");
    }
    stack.publish(ours, to("amq.topic", "$vhost.staging.a"), &Properties::default(), "x");
    stack.assert_channel_closed(
        ours,
        406,
        "routing key '$vhost.staging.a' is not one of amq.topic",
    );
    stack.declare(ours, "mine", |_| {});
    for key in ["$vhost.staging.#", "$vhost.#.a", "$vhost"] {
        stack.send(ours, 1, bind("amq.topic", "mine", key));
        let expected = "access to exchange 'amq.topic' in vhost '/' refused for user 'guest'";
        stack.assert_channel_closed(ours, 403, expected);
    }
    assert_eq!(stack.count(theirs, "q"), (0, 0));
}

/// MQTT sees `/` as its topics and queues, and other hosts below `$vhost` and by their prefix.
#[test]
fn other_protocols_see_the_topics_of_a_host_below_a_name_of_its_own() {
    let mut stack = stack(None);
    let theirs = stack.client_in("staging");
    stack.declare(theirs, "q", |_| {});
    let (mqtt, _) = stack.world.open("m", true, 0);
    for filter in ["#", "$vhost/staging/#"] {
        stack.world.subscribe(mqtt, filter, |_| {}).expect("subscribed");
    }
    let list = Properties::encode([Property::DeliveryMode(2), Property::ReplyTo(short("q"))]);
    stack.publish(theirs, to("amq.topic", "a.b"), &list, "x");
    let delivered = stack.world.deliveries(mqtt);
    let [delivery] = &delivered[..] else { panic!("{delivered:?}") };
    assert_eq!(delivery.message.topic.as_str(), "$vhost/staging/a/b");
    let reply = fluxmq::model::Property::ResponseTopic(Bytes::from("$queue/staging%3Aq"));
    assert!(delivery.message.properties.iter().any(|property| property == reply));

    let message = crate::world::message("$queue/staging%3Aq", "y", fluxmq::model::QoS::AtLeastOnce);
    assert_eq!(stack.world.publish(mqtt, message, None), Some(Ok(true)));
    assert_eq!(stack.get(theirs, "q", true).map(|got| got.body), Some("y".to_owned()));
}

fn refused_queue(name: &str) -> String {
    format!("ACCESS_REFUSED - access to queue '{name}' in vhost '/' refused for user 'guest'")
}

fn refused_exchange(name: &str) -> String {
    format!("ACCESS_REFUSED - access to exchange '{name}' in vhost '/' refused for user 'guest'")
}

/// Something that is asked: expressions with which it is refused, each with all others allowed, and what is said.
type Asked = (Method, Vec<(&'static str, String)>);

/// What is asked of queues `q`, `n` and `m`.
fn asked_of_queues() -> Vec<Asked> {
    let declare = |name, arguments| {
        let queue = short(name);
        Method::from(QueueDeclare { queue, arguments, ..QueueDeclare::default() })
    };
    let dead_letters = arguments(&[
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "d".into()),
    ]);
    let queue = || short("q");
    let delete = QueueDelete { queue: queue(), ..QueueDelete::default() };
    let purge = QueuePurge { queue: queue(), ..QueuePurge::default() };
    let get = BasicGet { queue: queue(), ..BasicGet::default() };
    let consume =
        BasicConsume { queue: queue(), consumer_tag: short("c"), ..BasicConsume::default() };
    vec![
        (declare("n", Table::default()), vec![("^m .* .*", refused_queue("n"))]),
        (
            declare("m", dead_letters),
            vec![(".* ^x .*", refused_exchange("amq.default")), (".* .* ^x", refused_queue("m"))],
        ),
        (delete.into(), vec![("^m .* .*", refused_queue("q"))]),
        (purge.into(), vec![(".* .* ^m", refused_queue("q"))]),
        (get.into(), vec![(".* .* ^m", refused_queue("q"))]),
        (consume.into(), vec![(".* .* ^m", refused_queue("q"))]),
    ]
}

/// What is asked of exchanges `n`, `x`, `y` and `z`, and of what is bound to them.
fn asked_of_exchanges() -> Vec<Asked> {
    let with_alternate = ExchangeDeclare {
        arguments: arguments(&[("alternate-exchange", "x".into())]),
        ..exchange("y", "fanout")
    };
    let delete = ExchangeDelete { exchange: short("x"), ..ExchangeDelete::default() };
    let (destination, source) = (short("z"), short("x"));
    let bind_exchange = ExchangeBind {
        destination: destination.clone(),
        source: source.clone(),
        ..ExchangeBind::default()
    };
    let unbind_exchange = ExchangeUnbind { destination, source, ..ExchangeUnbind::default() };
    let unbind = QueueUnbind { queue: short("q"), exchange: short("x"), ..QueueUnbind::default() };
    let of_queue = || vec![(".* ^x .*", refused_queue("q")), (".* .* ^q", refused_exchange("x"))];
    let of_exchange =
        || vec![(".* ^x .*", refused_exchange("z")), (".* .* ^z", refused_exchange("x"))];
    vec![
        (exchange("n", "direct").into(), vec![("^m .* .*", refused_exchange("n"))]),
        (
            with_alternate.into(),
            vec![
                ("^m .* .*", refused_exchange("y")),
                (".* ^y .*", refused_exchange("x")),
                (".* .* ^x", refused_exchange("y")),
            ],
        ),
        (delete.into(), vec![("^m .* .*", refused_exchange("x"))]),
        (bind("x", "q", "k").into(), of_queue()),
        (unbind.into(), of_queue()),
        (bind_exchange.into(), of_exchange()),
        (unbind_exchange.into(), of_exchange()),
        (bind("amq.topic", "q", "a.#").into(), vec![(".* .* ^q", refused_exchange("amq.topic"))]),
    ]
}

/// RabbitMQ, access control: which operation needs which right on what, and in which words it is refused.
#[test]
fn permissions_say_who_configures_writes_and_reads_what() {
    const ALL: &str = "vhost / .* .* .*\n";
    let cases: Vec<Asked> = asked_of_queues().into_iter().chain(asked_of_exchanges()).collect();
    let mut stack = stack(Some(ALL));
    let client = stack.client();
    stack.declare(client, "q", |declare| declare.durable = false);
    for name in ["x", "z"] {
        stack.send(client, 1, exchange(name, "fanout"));
        stack.method(client);
    }

    for (asked, refusals) in &cases {
        for (expressions, said) in refusals {
            stack.world.rules(&format!("vhost / {expressions}\n"));
            stack.send(client, 1, asked.clone());
            stack.assert_channel_closed(client, 403, said);
        }
    }

    // With all of them everything goes, and passively nothing is needed.
    stack.world.rules("vhost / \"\" \"\" \"\"\n");
    assert_eq!(stack.count(client, "q"), (0, 0));
    stack.send(client, 1, ExchangeDeclare { passive: true, ..exchange("x", "") });
    assert_eq!(stack.method(client), ExchangeDeclareOk::default().into());
    stack.world.rules(ALL);
    for (asked, _) in cases.iter().filter(|(asked, _)| !asked.name().ends_with("delete")) {
        stack.send(client, 1, asked.clone());
        let answer = stack.methods(client).remove(0);
        assert!(!matches!(answer, Method::ChannelClose(_)), "{asked:?}: {answer:?}");
    }
}

/// RabbitMQ, access control: a publish needs write on its exchange, the default one too, and whatever the queue is.
#[test]
fn permissions_say_who_publishes() {
    let mut stack = stack(Some("vhost / .* ^(x|amq\\.topic)$ .*\nuser ann\nvhost / .* .* .*\n"));
    let client = stack.client();
    for name in ["x", "y"] {
        stack.send(client, 1, exchange(name, "fanout"));
        stack.method(client);
    }
    stack.declare(client, "q", |_| {});
    for (publish, name) in [(to("", "q"), "amq.default"), (to("y", "k"), "y")] {
        stack.publish(client, publish, &Properties::default(), "no");
        let expected = format!(
            "ACCESS_REFUSED - access to exchange '{name}' in vhost '/' refused for user 'guest'"
        );
        stack.assert_channel_closed(client, 403, &expected);
    }
    stack.publish(client, to("x", "k"), &Properties::default(), "returned");
    assert!(matches!(stack.method(client), Method::BasicReturn(_)));
    stack.publish(client, to("amq.topic", "k"), &Properties::default(), "stored");
    assert_eq!(stack.methods(client), []);
    stack.world.rules("vhost / .* .* .*\ntopic deny write secret/#\n");
    stack.publish(client, to("amq.topic", "secret.1"), &Properties::default(), "no");
    let expected = "ACCESS_REFUSED - access to topic 'secret.1' in exchange 'amq.topic' in vhost '/' refused for user 'guest'";
    stack.assert_channel_closed(client, 403, expected);
}

/// Rights are looked at when something is delivered, and a consumer that may not read any more ends.
#[test]
fn permissions_that_are_taken_away_end_consumers() {
    let mut stack = stack(Some("vhost / .* .* .*\n"));
    let client = stack.client();
    stack.declare(client, "q", |_| {});
    stack.consume(client, "q", "c", |_| {});
    stack.world.rules("vhost / .* .* \"\"\n");
    stack.run();
    let cancelled = BasicCancel { consumer_tag: short("c"), no_wait: true };
    assert_eq!(stack.method(client), cancelled.into());
    stack.fill(client, "q", &["later"]);
    assert_eq!(stack.methods(client), []);
}
