//! Exchanges: what each kind routes, what becomes of them, and that what was answered is so for everybody, also after a power cut.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq::model::consume::Route;
use fluxmq::model::queue::{Lifetime, Overflow, QueueLimits};
use fluxmq::model::{
    Bind, Command, Destination, Effect, ExchangeCommand, ExchangeKind, ExchangeRefusal,
    ExchangeSettings, QoS, QueueCommand, QueueName, QueueRefusal, QueueSettings, Refusal, Token,
};
use fluxmq::partition::request::{ConnectionId, QueueAction};

use crate::route::{bytes, send};
use crate::world::{World, message, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;

pub fn plain(kind: ExchangeKind) -> ExchangeSettings {
    ExchangeSettings {
        kind,
        durable: true,
        auto_delete: false,
        internal: false,
        alternate: None,
        arguments: Bytes::new(),
    }
}

fn answer(world: &mut World, by: ConnectionId, command: Command) -> Result<(), Refusal> {
    world.command(by, command);
    let answered = world.take(by, |effect| match effect {
        Effect::Exchange { token: Token(800_000), result } => Some(result.clone()),
        _ => None,
    });
    answered.expect("answered")
}

pub fn ask(
    world: &mut World,
    by: ConnectionId,
    name: &str,
    command: ExchangeCommand,
) -> Result<(), Refusal> {
    let (token, exchange) = (Token(800_000), bytes(name));
    answer(world, by, Command::Exchange { token, exchange, command })
}

pub fn declare(
    world: &mut World,
    by: ConnectionId,
    name: &str,
    settings: ExchangeSettings,
) -> Result<(), Refusal> {
    ask(world, by, name, ExchangeCommand::Declare(Arc::new(settings)))
}

fn is_there(world: &mut World, by: ConnectionId, name: &str) -> bool {
    match ask(world, by, name, ExchangeCommand::Inspect) {
        Ok(()) => true,
        refused => {
            let exchange = name.to_owned();
            assert_eq!(refused, Err(ExchangeRefusal::Missing { exchange }.into()));
            false
        }
    }
}

pub fn queue(name: &str) -> Destination {
    Destination::Queue(QueueName::new(bytes(name)).unwrap())
}

pub fn exchange(name: &str) -> Destination {
    Destination::Exchange(bytes(name))
}

pub fn bind(from: &str, to: Destination, key: &str) -> Bind {
    Bind {
        token: Token(800_000),
        exchange: bytes(from),
        destination: to,
        routing_key: bytes(key),
        arguments: Bytes::new(),
        is_bound: true,
    }
}

pub fn bound(world: &mut World, by: ConnectionId, bind: Bind) {
    assert_eq!(answer(world, by, Command::Bind(Box::new(bind.clone()))), Ok(()), "{bind:?}");
}

pub fn unbound(world: &mut World, by: ConnectionId, ended: Bind) {
    bound(world, by, Bind { is_bound: false, ..ended });
}

fn queues(world: &mut World, names: &[&str]) {
    names.iter().for_each(|name| world.declare(name, QueueSettings::default()));
}

/// Publishes, and tells which of these queues got it.
fn got(
    world: &mut World,
    by: ConnectionId,
    to: (&str, &str),
    among: &[&'static str],
) -> Vec<&'static str> {
    let count = |world: &mut World| -> Vec<u64> {
        among.iter().map(|name| world.stats(name).messages).collect()
    };
    let before = count(world);
    let confirmed = send(world, by, to, ("m", ONCE));
    let after = count(world);
    let more = among.iter().enumerate().filter(|(at, _)| after[*at] > before[*at]);
    let got: Vec<&str> = more.map(|(_, name)| *name).collect();
    assert!((0..among.len()).all(|at| after[at] - before[at] <= 1), "each at most once");
    assert_eq!(confirmed, Ok(!got.is_empty()), "{to:?}");
    got
}

/// A table as AMQP 0.9.1 encodes it, of texts.
fn table(entries: &[(&str, &str)]) -> Bytes {
    let entry = |(name, value): &(&str, &str)| {
        let length = (value.len() as u32).to_be_bytes();
        let name = [&[name.len() as u8], name.as_bytes(), b"S"].concat();
        [&name[..], &length, value.as_bytes()].concat()
    };
    entries.iter().flat_map(entry).collect::<Vec<u8>>().into()
}

#[test]
fn each_kind_routes_by_what_it_looks_at() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        queues(&mut world, &["a", "b", "c"]);
        for (name, kind) in [
            ("direct", ExchangeKind::Direct),
            ("fanout", ExchangeKind::Fanout),
            ("topic", ExchangeKind::Topic),
            ("headers", ExchangeKind::Headers),
        ] {
            declare(&mut world, by, name, plain(kind)).unwrap();
            assert_eq!(got(&mut world, by, (name, "k"), &["a", "b", "c"]), [""; 0], "unbound");
        }
        for from in ["direct", "amq.direct"] {
            bound(&mut world, by, bind(from, queue("a"), "k"));
            bound(&mut world, by, bind(from, queue("b"), "k"));
            bound(&mut world, by, bind(from, queue("b"), "other"));
            assert_eq!(got(&mut world, by, (from, "k"), &["a", "b", "c"]), ["a", "b"]);
            assert_eq!(got(&mut world, by, (from, "other"), &["a", "b", "c"]), ["b"]);
            assert_eq!(got(&mut world, by, (from, "K"), &["a", "b", "c"]), [""; 0]);
        }
        for from in ["fanout", "amq.fanout"] {
            bound(&mut world, by, bind(from, queue("a"), ""));
            bound(&mut world, by, bind(from, queue("c"), "ignored"));
            bound(&mut world, by, bind(from, queue("c"), "twice"));
            assert_eq!(got(&mut world, by, (from, "x/+/#"), &["a", "b", "c"]), ["a", "c"]);
        }
        bound(&mut world, by, bind("topic", queue("a"), "#.error"));
        bound(&mut world, by, bind("topic", queue("b"), "*.error"));
        bound(&mut world, by, bind("topic", queue("b"), "kernel.#"));
        assert_eq!(got(&mut world, by, ("topic", "kernel.error"), &["a", "b", "c"]), ["a", "b"]);
        assert_eq!(got(&mut world, by, ("topic", "error"), &["a", "b", "c"]), ["a"]);
        assert_eq!(got(&mut world, by, ("topic", "kernel"), &["a", "b", "c"]), ["b"]);

        let red = [("colour", "red"), ("size", "big")];
        let all = Bind { arguments: table(&red), ..bind("headers", queue("a"), "") };
        bound(&mut world, by, all);
        let some = table(&[red[0], red[1], ("x-match", "any")]);
        bound(&mut world, by, Bind { arguments: some, ..bind("headers", queue("b"), "") });
        let odd = table(&[("x-match", "most")]);
        let odd = Bind { arguments: odd, ..bind("headers", queue("c"), "") };
        let refused = answer(&mut world, by, Command::Bind(Box::new(odd)));
        assert!(matches!(refused, Err(Refusal::Invalid { .. })), "{refused:?}");
        for (headers, expected) in [(&red[..], [1, 1]), (&red[..1], [0, 1]), (&[], [0, 0])] {
            let counts = |world: &mut World| ["a", "b"].map(|name| world.stats(name).messages);
            let before = counts(&mut world);
            let route = Route {
                token: Token(1),
                exchange: bytes("headers"),
                routing_key: Bytes::new(),
                more_keys: Vec::new(),
                headers: table(headers),
                message: message("x", "m", ONCE),
            };
            world.command(by, Command::Route(Box::new(route)));
            let after = counts(&mut world);
            assert_eq!([after[0] - before[0], after[1] - before[1]], expected, "{headers:?}");
        }
    });
}

#[test]
fn exchanges_route_to_exchanges_once_however_they_are_bound() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        queues(&mut world, &["a", "b", "rest"]);
        for name in ["one", "two", "three"] {
            declare(&mut world, by, name, plain(ExchangeKind::Fanout)).unwrap();
        }
        bound(&mut world, by, bind("one", exchange("two"), ""));
        bound(&mut world, by, bind("two", exchange("three"), ""));
        bound(&mut world, by, bind("three", exchange("one"), ""));
        bound(&mut world, by, bind("three", exchange("three"), ""));
        bound(&mut world, by, bind("two", queue("a"), ""));
        bound(&mut world, by, bind("three", queue("a"), ""));
        bound(&mut world, by, bind("one", queue("b"), ""));
        for from in ["one", "two", "three"] {
            assert_eq!(got(&mut world, by, (from, "k"), &["a", "b"]), ["a", "b"], "{from}");
        }
        assert_eq!(world.stored("$exchange/one/k").len(), homes(&world, &["a", "b"]));

        let alternate = Some(bytes("spare"));
        declare(
            &mut world,
            by,
            "main",
            ExchangeSettings { alternate, ..plain(ExchangeKind::Direct) },
        )
        .unwrap();
        bound(&mut world, by, bind("main", queue("a"), "known"));
        assert_eq!(got(&mut world, by, ("main", "other"), &["a", "rest"]), [""; 0], "no spare yet");
        let hidden = ExchangeSettings { internal: true, ..plain(ExchangeKind::Fanout) };
        declare(&mut world, by, "spare", hidden).unwrap();
        bound(&mut world, by, bind("spare", queue("rest"), ""));
        assert_eq!(got(&mut world, by, ("main", "other"), &["a", "rest"]), ["rest"]);
        assert_eq!(got(&mut world, by, ("main", "known"), &["a", "rest"]), ["a"]);
        let refused = send(&mut world, by, ("spare", ""), ("no", ONCE));
        assert_eq!(refused, Err(ExchangeRefusal::Internal { exchange: "spare".into() }.into()));
    });
}

/// How many partitions these queues live in.
fn homes(world: &World, queues: &[&str]) -> usize {
    let id = |name: &&str| fluxmq::model::record::queue_id(name.as_bytes());
    let has =
        |views: &fluxmq::view::Views| queues.iter().any(|it| views.queues.get(id(it)).is_some());
    world.partitions.values().filter(|partition| has(partition.views())).count()
}

#[test]
fn what_was_answered_survives_a_power_cut_and_what_was_not_durable_does_not() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        queues(&mut world, &["a", "b"]);
        declare(&mut world, by, "kept", plain(ExchangeKind::Topic)).unwrap();
        let brief = ExchangeSettings { durable: false, ..plain(ExchangeKind::Fanout) };
        declare(&mut world, by, "brief", brief.clone()).unwrap();
        bound(&mut world, by, bind("kept", queue("a"), "*.x"));
        bound(&mut world, by, bind("kept", exchange("brief"), "#"));
        bound(&mut world, by, bind("brief", queue("b"), ""));
        assert_eq!(got(&mut world, by, ("kept", "1.x"), &["a", "b"]), ["a", "b"]);
        world.snapshot();
        bound(&mut world, by, bind("kept", queue("b"), "late"));

        let mine = QueueSettings { lifetime: Lifetime::Owned, ..QueueSettings::default() };
        let command = QueueCommand::Declare(Arc::new(mine));
        let name = QueueName::new(bytes("mine")).unwrap();
        world.command(by, Command::Queue { token: Token(1), queue: name, command });
        let ends = ExchangeSettings { auto_delete: true, ..plain(ExchangeKind::Fanout) };
        declare(&mut world, by, "ends", ends).unwrap();
        bound(&mut world, by, bind("ends", queue("mine"), ""));
        let (other, _) = world.open("other", true, 0);
        let theirs = Command::Bind(Box::new(bind("kept", queue("mine"), "")));
        let locked = QueueRefusal::Locked { queue: "mine".into() };
        assert_eq!(answer(&mut world, other, theirs), Err(locked.into()));

        world.restart(5);
        let (by, _) = world.open("client", true, 0);
        assert!(!is_there(&mut world, by, "ends"), "the connection's queue is gone, and so it is");
        assert_eq!(got(&mut world, by, ("kept", "1.x"), &["a", "b"]), ["a"]);
        assert_eq!(got(&mut world, by, ("kept", "late"), &["a", "b"]), ["b"]);
        assert!(is_there(&mut world, by, "kept") && !is_there(&mut world, by, "brief"));
        declare(&mut world, by, "brief", brief).unwrap();
        assert_eq!(got(&mut world, by, ("brief", ""), &["a", "b"]), [""; 0], "another of the name");
        bound(&mut world, by, bind("brief", queue("b"), "again"));
        assert_eq!(got(&mut world, by, ("brief", ""), &["a", "b"]), ["b"]);
        let all = world.partitions.values().flat_map(|it| it.views().bindings.iter());
        let to_brief = all.filter(|(_, it)| it.exchange.name == "brief").count();
        assert_eq!(to_brief, 1, "the one to the earlier exchange is gone");
    });
}

#[test]
fn an_exchange_is_what_it_was_declared_to_be_until_it_is_deleted() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        queues(&mut world, &["a"]);
        let arguments = table(&[("b", "2"), ("a", "1")]);
        let settings = ExchangeSettings { arguments, ..plain(ExchangeKind::Direct) };
        declare(&mut world, by, "x", settings.clone()).unwrap();
        let same =
            ExchangeSettings { arguments: table(&[("a", "1"), ("b", "2")]), ..settings.clone() };
        assert_eq!(declare(&mut world, by, "x", same), Ok(()));
        let others = [
            ("type", ExchangeSettings { kind: ExchangeKind::Fanout, ..settings.clone() }),
            ("durable", ExchangeSettings { durable: false, ..settings.clone() }),
            ("auto-delete", ExchangeSettings { auto_delete: true, ..settings.clone() }),
            ("internal", ExchangeSettings { internal: true, ..settings.clone() }),
            (
                "alternate-exchange",
                ExchangeSettings { alternate: Some(bytes("y")), ..settings.clone() },
            ),
            ("arguments", ExchangeSettings { arguments: table(&[("a", "1")]), ..settings.clone() }),
        ];
        for (expected, other) in others {
            let refused = declare(&mut world, by, "x", other);
            let Err(Refusal::Exchange(refusal)) = refused else { panic!("{refused:?}") };
            let ExchangeRefusal::Differs { setting, .. } = *refusal else { panic!("{refusal:?}") };
            assert_eq!(setting, expected);
        }

        bound(&mut world, by, bind("x", queue("a"), "k"));
        let in_use = ask(&mut world, by, "x", ExchangeCommand::Delete { if_unused: true });
        assert_eq!(in_use, Err(ExchangeRefusal::InUse { exchange: "x".into() }.into()));
        ask(&mut world, by, "x", ExchangeCommand::Delete { if_unused: false }).unwrap();
        assert!(!is_there(&mut world, by, "x"));
        let missing: Refusal = ExchangeRefusal::Missing { exchange: "x".into() }.into();
        assert_eq!(send(&mut world, by, ("x", "k"), ("lost", ONCE)), Err(missing.clone()));
        for is_bound in [true, false] {
            let bind = Bind { is_bound, ..bind("x", queue("a"), "k") };
            assert_eq!(answer(&mut world, by, Command::Bind(Box::new(bind))), Err(missing.clone()));
        }
        let again = ask(&mut world, by, "x", ExchangeCommand::Delete { if_unused: false });
        assert_eq!(again, Err(missing));
        declare(&mut world, by, "x", settings).unwrap();
        assert_eq!(got(&mut world, by, ("x", "k"), &["a"]), [""; 0], "the binding was to another");
        ask(&mut world, by, "x", ExchangeCommand::Delete { if_unused: true }).unwrap();
    });
}

#[test]
fn the_brokers_own_exchanges_are_there_and_stay() {
    let mut world = World::new(2);
    let (by, _) = world.open("client", true, 0);
    let kinds = [
        ("amq.direct", ExchangeKind::Direct),
        ("amq.fanout", ExchangeKind::Fanout),
        ("amq.topic", ExchangeKind::Topic),
        ("amq.headers", ExchangeKind::Headers),
        ("amq.match", ExchangeKind::Headers),
    ];
    let reserved = |name: &str| -> Result<(), Refusal> {
        Err(ExchangeRefusal::Reserved { exchange: name.to_owned() }.into())
    };
    for (name, kind) in kinds {
        assert!(is_there(&mut world, by, name));
        assert_eq!(declare(&mut world, by, name, plain(kind)), Ok(()));
        let other = ExchangeSettings { durable: false, ..plain(kind) };
        assert!(matches!(declare(&mut world, by, name, other), Err(Refusal::Exchange(_))));
        let deleted = ask(&mut world, by, name, ExchangeCommand::Delete { if_unused: false });
        assert_eq!(deleted, reserved(name));
    }
    for name in ["", "amq.mine"] {
        let declared = declare(&mut world, by, name, plain(ExchangeKind::Direct));
        assert_eq!(declared, reserved(name));
    }
    queues(&mut world, &["a"]);
    let default = answer(&mut world, by, Command::Bind(Box::new(bind("", queue("a"), "k"))));
    assert_eq!(default, reserved(""));
    let nowhere =
        answer(&mut world, by, Command::Bind(Box::new(bind("amq.fanout", queue("b"), ""))));
    assert_eq!(nowhere, Err(QueueRefusal::Missing { queue: "b".into() }.into()));
    let name = "a/b";
    let odd = declare(&mut world, by, name, plain(ExchangeKind::Direct));
    assert!(matches!(odd, Err(Refusal::Address(_))), "{odd:?}");
}

#[test]
fn an_exchange_ends_with_the_last_binding_to_it_and_others_with_it() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        queues(&mut world, &["a", "b"]);
        let brief = ExchangeSettings { auto_delete: true, ..plain(ExchangeKind::Fanout) };
        for name in ["first", "second", "third"] {
            declare(&mut world, by, name, brief.clone()).unwrap();
        }
        bound(&mut world, by, bind("first", exchange("second"), ""));
        bound(&mut world, by, bind("second", queue("a"), ""));
        bound(&mut world, by, bind("second", queue("b"), ""));
        unbound(&mut world, by, bind("second", queue("a"), "never bound"));
        unbound(&mut world, by, bind("second", queue("a"), ""));
        assert!(is_there(&mut world, by, "second"));
        unbound(&mut world, by, bind("second", queue("b"), ""));
        let left = ["first", "second", "third"].map(|name| is_there(&mut world, by, name));
        assert_eq!(left, [false, false, true], "one that never had a binding stays");

        bound(&mut world, by, bind("third", queue("a"), ""));
        bound(&mut world, by, bind("amq.fanout", queue("a"), ""));
        world.manage("a", QueueAction::Delete { if_unused: false, if_empty: false }).unwrap();
        assert!(!is_there(&mut world, by, "third"), "a queue's end ends its bindings");
        queues(&mut world, &["a"]);
        assert_eq!(got(&mut world, by, ("amq.fanout", ""), &["a"]), [""; 0]);
    });
}

#[test]
fn topics_and_their_exchange_are_one() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        queues(&mut world, &["a", "b", "c"]);
        bound(&mut world, by, bind("amq.topic", queue("a"), "site.*.temperature"));
        bound(&mut world, by, bind("amq.topic", queue("b"), "#.temperature"));
        bound(&mut world, by, bind("amq.topic", queue("c"), "#"));
        let counts = |world: &mut World| ["a", "b", "c"].map(|name| world.stats(name).messages);
        let mqtt = |world: &mut World, topic: &str| {
            let confirmed = world.publish(by, message(topic, "mqtt", ONCE), None);
            assert_eq!(confirmed, Some(Ok(true)));
            counts(world)
        };
        assert_eq!(mqtt(&mut world, "site/1/temperature"), [1, 1, 1]);
        assert_eq!(mqtt(&mut world, "other/temperature"), [1, 2, 2]);
        assert_eq!(mqtt(&mut world, "$x/temperature"), [1, 2, 2], "hidden from a first wildcard");

        let (reader, _) = world.open("reader", true, 0);
        world.subscribe(reader, "site/#", |_| {}).unwrap();
        for qos in [ONCE, QoS::AtMostOnce] {
            let routed = send(&mut world, by, ("amq.topic", "site.2.temperature"), ("amqp", qos));
            assert_eq!(routed, Ok(true));
        }
        assert_eq!(counts(&mut world), [3, 4, 4]);
        assert_eq!(world.drain(reader), ["amqp", "amqp"]);

        declare(&mut world, by, "in", plain(ExchangeKind::Fanout)).unwrap();
        bound(&mut world, by, bind("in", exchange("amq.topic"), ""));
        bound(&mut world, by, bind("in", queue("a"), ""));
        let routed = send(&mut world, by, ("in", "site.3"), ("through", ONCE));
        assert_eq!((routed, counts(&mut world)), (Ok(true), [4, 4, 5]));
        assert_eq!(world.drain(reader), ["through"]);

        world.restart(3);
        let (by, _) = world.open("client", true, 0);
        let again = world.publish(by, message("site/1/temperature", "after", ONCE), None);
        assert_eq!((again, counts(&mut world)), (Some(Ok(true)), [5, 5, 6]));
        for (name, key) in [("a", "site.*.temperature"), ("b", "#.temperature"), ("c", "#")] {
            unbound(&mut world, by, bind("amq.topic", queue(name), key));
        }
        world.publish(by, message("site/1/temperature", "nobody", ONCE), None);
        assert_eq!(counts(&mut world), [5, 5, 6]);
    });
}

#[test]
fn one_queue_that_refuses_refuses_the_publish() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        let limits = QueueLimits {
            messages_max: Some(1),
            overflow: Overflow::RejectPublish,
            ..QueueLimits::default()
        };
        world.declare("small", QueueSettings { limits, ..QueueSettings::default() });
        queues(&mut world, &["a", "b", "c", "d"]);
        for name in ["small", "a", "b", "c", "d"] {
            bound(&mut world, by, bind("amq.fanout", queue(name), ""));
        }
        assert_eq!(send(&mut world, by, ("amq.fanout", ""), ("1", ONCE)), Ok(true));
        let full = send(&mut world, by, ("amq.fanout", ""), ("2", ONCE));
        assert!(matches!(full, Err(Refusal::Quota { .. })), "{full:?}");
        assert_eq!(world.stats("small").messages, 1);
    });
}

#[test]
fn who_publishes_binds_and_declares_needs_the_right_to() {
    let mut world = World::new(3);
    let (admin, _) = world.open("admin", true, 0);
    queues(&mut world, &["a"]);
    declare(&mut world, admin, "x", plain(ExchangeKind::Fanout)).unwrap();
    world.rules(
        "user writer\ntopic write $exchange/x/open\ntopic write closed\n\
         user binder\ntopic write $management/queue/a/bind\ntopic read $exchange/x/#\n\
         user maker\ntopic write $management/exchange/mine/#\n",
    );
    let not: Result<(), Refusal> = Err(Refusal::NotAuthorized);
    let not_by = |name: &str| Err(ExchangeRefusal::forbidden(name.as_bytes()));
    let writer = world.open_as("writer", "w", 0).unwrap();
    let binder = world.open_as("binder", "b", 0).unwrap();
    let maker = world.open_as("maker", "m", 0).unwrap();

    assert_eq!(send(&mut world, writer, ("x", "open"), ("1", ONCE)), Ok(false));
    for (exchange, key) in [("x", "closed"), ("x", ""), ("y", "open"), ("amq.topic", "open")] {
        let refused = send(&mut world, writer, (exchange, key), ("1", ONCE));
        assert_eq!(refused, Err(Refusal::NotAuthorized), "{exchange} {key}");
    }
    let bind_a = |from: &str| Command::Bind(Box::new(bind(from, queue("a"), "")));
    assert_eq!(answer(&mut world, writer, bind_a("x")), not);
    assert_eq!(
        answer(&mut world, binder, bind_a("amq.fanout")),
        not_by("amq.fanout"),
        "reading it"
    );
    assert_eq!(answer(&mut world, binder, bind_a("x")), Ok(()));
    let ended = Bind { is_bound: false, ..bind("x", queue("a"), "") };
    assert_eq!(answer(&mut world, binder, Command::Bind(Box::new(ended))), not);
    assert_eq!(declare(&mut world, maker, "mine", plain(ExchangeKind::Direct)), Ok(()));
    assert_eq!(declare(&mut world, maker, "yours", plain(ExchangeKind::Direct)), not_by("yours"));
    let alternate = |name: &str| ExchangeSettings {
        alternate: Some(bytes(name)),
        ..plain(ExchangeKind::Direct)
    };
    let hands_over = declare(&mut world, maker, "mine", alternate("x"));
    assert_eq!(hands_over, not_by("mine"), "what it routes would go to another");
    assert_eq!(send(&mut world, writer, ("x", "open"), ("2", ONCE)), Ok(true));
}

/// A queue that is deleted and declared again within one flush got what the one before was bound to.
#[test]
fn a_queue_that_is_declared_again_has_no_bindings_of_the_one_before() {
    with_one_and_four(|mut world| {
        let (by, _) = world.open("client", true, 0);
        queues(&mut world, &["jobs"]);
        bound(&mut world, by, bind("amq.topic", queue("jobs"), "site.#"));
        bound(&mut world, by, bind("amq.topic", queue("jobs"), "#.1"));
        let home = world.home("jobs");

        world.slow = Some(home);
        let delete = QueueCommand::Delete { if_unused: false, if_empty: false };
        let declare = QueueCommand::Declare(Arc::new(QueueSettings::default()));
        let deleted = world.say_queue(by, "jobs", delete);
        let declared = world.say_queue(by, "jobs", declare);
        world.run();
        world.say(by, publish("site/1", "theirs"));
        world.run();
        world.slow = None;
        world.run();

        assert!(world.queue_answer(by, deleted).unwrap().is_ok());
        assert!(world.queue_answer(by, declared).unwrap().is_ok());
        assert_eq!(world.stats("jobs").messages, 0);
        bound(&mut world, by, bind("amq.topic", queue("jobs"), "site.#"));
        world.command(by, publish("site/1", "its own"));
        assert_eq!(world.stats("jobs").messages, 1);
    });
}

fn publish(topic: &str, payload: &str) -> Command {
    let message = Arc::new(message(topic, payload, ONCE));
    Command::Publish { token: Token(600_000), message, packet_id: None }
}
