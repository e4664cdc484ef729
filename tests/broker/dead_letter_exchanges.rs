//! Dead letters to exchanges: who gets them, that none is lost on the way and none comes twice, what does not come round for ever.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq::model::death::{self, Certificate, Death};
use fluxmq::model::queue::{
    DeadLetterExchange, DeadLetterTarget, DeadLetters, Overflow, QueueLimits,
};
use fluxmq::model::{
    Command, ExchangeCommand, ExchangeKind, ExchangeSettings, Filter, Outcome, PartitionId, QoS,
    QueueCommand, QueueSettings, Refusal,
};
use fluxmq::partition::request::{ConnectionId, QueueAction, QueueAnswer};

use crate::exchanges::{bind, bound, declare, exchange, plain, queue, unbound};
use crate::route::{bytes, send};
use crate::wire::Dice;
use crate::world::{World, message, text, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;
const DELETE: QueueCommand = QueueCommand::Delete { if_unused: false, if_empty: false };

fn to(exchange: &str, key: Option<&str>) -> DeadLetters {
    let (exchange, routing_key) = (bytes(exchange), key.map(bytes));
    DeadLetters {
        target: DeadLetterTarget::Exchange(DeadLetterExchange { exchange, routing_key }),
        with_expired: true,
        with_overflow: true,
    }
}

fn dying(dead_letters: DeadLetters) -> QueueSettings {
    QueueSettings { dead_letters, ..QueueSettings::default() }
}

/// A queue whose messages live for a second.
fn brief(dead_letters: DeadLetters) -> QueueSettings {
    QueueSettings { ttl_ms: Some(1_000), ..dying(dead_letters) }
}

fn open(world: &mut World, client: &str) -> ConnectionId {
    world.open(client, true, 0).0
}

fn put(world: &mut World, by: ConnectionId, queue: &str, payload: &str) {
    assert_eq!(send(world, by, ("", queue), (payload, ONCE)), Ok(true), "{queue}");
}

fn reader(world: &mut World, queue: &str) -> ConnectionId {
    let reader = open(world, &format!("reader of {queue}"));
    world.subscribe(reader, &format!("$share/default/$queue/{queue}"), |_| {}).expect("joins");
    reader
}

/// Everything in a queue, with its deaths; it is taken out.
fn read(world: &mut World, queue: &str) -> Vec<(String, Vec<Certificate>)> {
    let by = reader(world, queue);
    let mut all = Vec::new();
    loop {
        let deliveries = world.deliveries(by);
        if deliveries.is_empty() {
            world.close(by, false);
            return all;
        }
        for delivery in deliveries {
            all.push((text(&delivery), death::deaths(&delivery.message.properties)));
            world.settle(by, delivery.id, Outcome::Accepted);
        }
    }
}

fn texts(world: &mut World, queue: &str) -> Vec<String> {
    read(world, queue).into_iter().map(|(text, _)| text).collect()
}

/// Queue and cause of each death, the newest first, and how often.
fn causes(deaths: &[Certificate]) -> Vec<(String, Death, u64)> {
    let cause = |it: &Certificate| (String::from_utf8_lossy(&it.queue).into(), it.death, it.count);
    deaths.iter().map(cause).collect()
}

/// Rejects all that is in a queue.
fn reject_all(world: &mut World, queue: &str) -> usize {
    reject_while(world, queue, None)
}

/// The same while a partition is slow.
fn reject_while(world: &mut World, queue: &str, slow: Option<PartitionId>) -> usize {
    let by = reader(world, queue);
    let deliveries = world.deliveries(by);
    world.slow = slow;
    for delivery in &deliveries {
        let outcome = Outcome::Rejected;
        world.say(by, Command::Settle { delivery: delivery.id, outcome });
    }
    world.run();
    world.slow = None;
    world.close(by, false);
    deliveries.len()
}

fn messages(world: &mut World, queue: &str) -> u64 {
    world.stats(queue).messages
}

#[test]
fn an_exchange_routes_letters_to_all_that_are_bound_when_they_die() {
    with_one_and_four(|mut world| {
        let by = open(&mut world, "client");
        declare(&mut world, by, "dlx", plain(ExchangeKind::Direct)).unwrap();
        let names = ["a", "b", "c", "d"];
        names.iter().for_each(|name| world.declare(name, QueueSettings::default()));
        world.declare("own-key", dying(to("dlx", None)));
        world.declare("late", dying(to("dlx", Some("late"))));
        for name in ["a", "b", "c"] {
            bound(&mut world, by, bind("dlx", queue(name), "late"));
        }
        bound(&mut world, by, bind("dlx", queue("d"), "own-key"));
        put(&mut world, by, "own-key", "1");
        put(&mut world, by, "late", "2");
        unbound(&mut world, by, bind("dlx", queue("c"), "late"));

        assert_eq!(reject_all(&mut world, "own-key"), 1);
        assert_eq!(reject_all(&mut world, "late"), 1);

        let mut world = world.crash(3);
        let counts = names.map(|name| messages(&mut world, name));
        assert_eq!(counts, [1, 1, 0, 1], "c is not bound any more");
        for (name, payload, from) in [("a", "2", "late"), ("b", "2", "late"), ("d", "1", "own-key")]
        {
            let all = read(&mut world, name);
            assert_eq!(all.len(), 1);
            assert_eq!(all[0].0, payload);
            assert_eq!(causes(&all[0].1), [(from.to_owned(), Death::Rejected, 1)]);
        }
        for name in ["own-key", "late"] {
            assert!(world.stats(name).groups.iter().all(|group| group.lag == 0), "{name}");
        }
    });
}

#[test]
fn what_no_exchange_routes_is_dropped_and_an_alternate_one_is_asked_first() {
    with_one_and_four(|mut world| {
        let by = open(&mut world, "client");
        world.declare("jobs", dying(to("dlx", Some("k"))));
        world.declare("rest", QueueSettings::default());
        put(&mut world, by, "jobs", "no exchange");
        assert_eq!(reject_all(&mut world, "jobs"), 1);
        assert_eq!(world.stats("jobs").groups[0].lag, 0, "it is finished");

        let alternate = Some(bytes("spare"));
        let settings = ExchangeSettings { alternate, ..plain(ExchangeKind::Direct) };
        declare(&mut world, by, "dlx", settings).unwrap();
        put(&mut world, by, "jobs", "no spare");
        assert_eq!(reject_all(&mut world, "jobs"), 1);
        let internal = ExchangeSettings { internal: true, ..plain(ExchangeKind::Fanout) };
        declare(&mut world, by, "spare", internal).unwrap();
        bound(&mut world, by, bind("spare", queue("rest"), ""));
        put(&mut world, by, "jobs", "spared");
        assert_eq!(reject_all(&mut world, "jobs"), 1);
        let delete = ExchangeCommand::Delete { if_unused: false };
        crate::exchanges::ask(&mut world, by, "dlx", delete).unwrap();
        put(&mut world, by, "jobs", "deleted");
        assert_eq!(reject_all(&mut world, "jobs"), 1);

        assert_eq!(texts(&mut world, "rest"), ["spared"]);
        assert_eq!(world.stats("jobs").groups[0].lag, 0);
    });
}

#[test]
fn the_default_exchange_takes_letters_to_queues_that_are_there() {
    for key in [Some("dead"), None] {
        with_one_and_four(|mut world| {
            let by = open(&mut world, "client");
            world.declare("jobs", dying(to("", key)));
            put(&mut world, by, "jobs", "1");
            assert_eq!(reject_all(&mut world, "jobs"), 1);
            assert!(world.manage("dead", QueueAction::Stats).is_err(), "none is made");
            world.declare("dead", QueueSettings::default());
            put(&mut world, by, "jobs", "2");
            assert!(reject_all(&mut world, "jobs") > 0);

            match key {
                Some(_) => assert_eq!(texts(&mut world, "dead"), ["2"]),
                // By its own key it comes back: it was rejected, and that is no cycle.
                None => assert_eq!(texts(&mut world, "jobs"), ["1", "2"]),
            }
        });
    }
}

#[test]
fn letters_to_the_exchange_of_the_topics_are_published_to_them() {
    with_one_and_four(|mut world| {
        let by = open(&mut world, "client");
        let listener = open(&mut world, "listener");
        world.subscribe(listener, "failed/#", |_| {}).unwrap();
        let bindings = vec![Filter::new(Bytes::from("failed/+")).unwrap()];
        world.declare("failed", QueueSettings { bindings, ..QueueSettings::default() });
        world.declare("bound", QueueSettings::default());
        bound(&mut world, by, bind("amq.topic", queue("bound"), "#.jobs"));
        world.declare("jobs", dying(to("amq.topic", Some("failed.jobs"))));
        declare(&mut world, by, "dlx", plain(ExchangeKind::Fanout)).unwrap();
        bound(&mut world, by, bind("dlx", exchange("amq.topic"), ""));
        world.declare("other", dying(to("dlx", Some("failed.other"))));
        put(&mut world, by, "jobs", "1");
        put(&mut world, by, "other", "2");

        assert_eq!(reject_all(&mut world, "jobs") + reject_all(&mut world, "other"), 2);

        let heard = world.deliveries(listener);
        let heard: Vec<(String, String)> =
            heard.iter().map(|it| (it.message.topic.to_string(), text(it))).collect();
        let expected = [("failed/jobs", "1"), ("failed/other", "2")];
        assert_eq!(heard, expected.map(|(topic, text)| (topic.to_owned(), text.to_owned())));
        assert_eq!(texts(&mut world, "failed"), ["1", "2"]);
        assert_eq!(texts(&mut world, "bound"), ["1"]);
    });
}

/// A power cut after every turn of a letter's way: it arrives wherever it is to be, and once.
#[test]
fn a_power_cut_on_the_way_loses_no_letter_and_makes_no_second() {
    for turns in 0..14 {
        let mut world = World::new(4);
        let by = open(&mut world, "client");
        declare(&mut world, by, "dlx", plain(ExchangeKind::Fanout)).unwrap();
        let names = ["a", "b", "c", "d", "e"];
        for name in names {
            world.declare(name, QueueSettings::default());
            bound(&mut world, by, bind("dlx", queue(name), ""));
        }
        world.declare("jobs", dying(to("dlx", None)));
        put(&mut world, by, "jobs", "1");
        let member = reader(&mut world, "jobs");
        let delivery = world.deliveries(member).remove(0);
        let outcome = Outcome::Rejected;
        world.say(member, Command::Settle { delivery: delivery.id, outcome });
        for turn in 0..turns {
            world.turn(turn % 3 != 1);
        }

        let mut world = world.crash(turns);
        // Where nothing says that it was rejected, it is still there.
        reject_all(&mut world, "jobs");
        (0..8).for_each(|_| world.pass(1_000));

        for name in names {
            assert_eq!(texts(&mut world, name), ["1"], "{name}, {turns} turns");
        }
        assert_eq!(world.stats("jobs").groups[0].lag, 0, "{turns} turns");
    }
}

#[test]
fn what_one_queue_has_no_room_for_comes_to_the_others_once() {
    let mut world = World::new(4);
    let by = open(&mut world, "client");
    declare(&mut world, by, "dlx", plain(ExchangeKind::Fanout)).unwrap();
    let limits = QueueLimits {
        messages_max: Some(1),
        overflow: Overflow::RejectPublish,
        ..QueueLimits::default()
    };
    world.declare("full", QueueSettings { limits, ..QueueSettings::default() });
    put(&mut world, by, "full", "first");
    let others: Vec<String> = (0..)
        .map(|number| format!("other-{number}"))
        .filter(|name| world.home(name) != world.home("full"))
        .take(3)
        .collect();
    for name in others.iter().map(String::as_str).chain(["full"]) {
        if name != "full" {
            world.declare(name, QueueSettings::default());
        }
        bound(&mut world, by, bind("dlx", queue(name), ""));
    }
    world.declare("jobs", dying(to("dlx", None)));
    put(&mut world, by, "jobs", "late");
    let member = reader(&mut world, "jobs");
    let delivery = world.deliveries(member).remove(0);
    world.settle(member, delivery.id, Outcome::Rejected);
    // For longer than any name of a message is remembered.
    (0..60).for_each(|_| world.pass(6_000));
    for name in &others {
        assert_eq!(messages(&mut world, name), 1, "{name}");
    }
    assert_eq!(world.stats("jobs").groups[0].lag, 1, "it waits");

    assert_eq!(world.manage("full", QueueAction::Purge), Ok(QueueAnswer::Done { count: 1 }));
    world.pass(6_000);

    assert_eq!(texts(&mut world, "full"), ["late"]);
    for name in &others {
        assert_eq!(texts(&mut world, name), ["late"], "{name}");
    }
    assert_eq!(world.stats("jobs").groups[0].lag, 0);
}

#[test]
fn what_comes_round_by_itself_is_dropped_and_what_was_rejected_is_not() {
    with_one_and_four(|mut world| {
        let by = open(&mut world, "client");
        declare(&mut world, by, "again", plain(ExchangeKind::Fanout)).unwrap();
        declare(&mut world, by, "wait", plain(ExchangeKind::Fanout)).unwrap();
        world.declare("alone", brief(to("", Some("alone"))));
        world.declare("one", brief(to("wait", None)));
        world.declare("two", brief(to("again", None)));
        world.declare("witness", QueueSettings::default());
        bound(&mut world, by, bind("wait", queue("two"), ""));
        bound(&mut world, by, bind("again", queue("one"), ""));
        bound(&mut world, by, bind("again", queue("witness"), ""));
        put(&mut world, by, "alone", "0");
        put(&mut world, by, "one", "1");

        (0..10).for_each(|_| world.pass(1_100));

        for name in ["alone", "one", "two"] {
            assert_eq!(messages(&mut world, name), 0, "{name}");
        }
        let all = read(&mut world, "witness");
        assert_eq!(all.len(), 1, "each queue once");
        let expired = |name: &str, count| (name.to_owned(), Death::Expired, count);
        assert_eq!(causes(&all[0].1), [expired("two", 1), expired("one", 1)]);

        // A worker that rejects, and a queue in which that waits: as often as the worker likes.
        world.declare("jobs", dying(to("wait", None)));
        unbound(&mut world, by, bind("again", queue("one"), ""));
        bound(&mut world, by, bind("again", queue("jobs"), ""));
        put(&mut world, by, "jobs", "2");
        for _ in 0..3 {
            assert_eq!(reject_all(&mut world, "jobs"), 1);
            (0..3).for_each(|_| world.pass(1_100));
        }
        let all = read(&mut world, "jobs");
        let rejected = ("jobs".to_owned(), Death::Rejected, 3);
        assert_eq!(causes(&all[0].1), [expired("two", 3), rejected]);
        let first = death::first(&all[0].1).unwrap();
        assert_eq!((&first.queue[..], first.death), (&b"jobs"[..], Death::Rejected));
    });
}

#[test]
fn a_full_queue_makes_dead_letters_of_what_it_refuses() {
    with_one_and_four(|mut world| {
        let by = open(&mut world, "client");
        declare(&mut world, by, "dlx", plain(ExchangeKind::Fanout)).unwrap();
        for (name, dead_letters) in [
            ("by exchange", to("dlx", None)),
            ("by name", to("", Some("dead"))),
            ("its own", DeadLetters { with_overflow: true, ..DeadLetters::default() }),
            ("none", DeadLetters { target: DeadLetterTarget::Nowhere, ..DeadLetters::default() }),
        ] {
            let limits = QueueLimits {
                messages_max: Some(1),
                overflow: Overflow::RejectPublishDlx,
                ..QueueLimits::default()
            };
            world.declare(name, QueueSettings { limits, ..dying(dead_letters) });
        }
        world.declare("dead", QueueSettings::default());
        bound(&mut world, by, bind("dlx", queue("dead"), ""));
        for (name, expected) in [
            ("by exchange", Refusal::DeadLettered),
            ("by name", Refusal::DeadLettered),
            ("its own", Refusal::DeadLettered),
            ("none", Refusal::Quota { limit: "the length of a queue" }),
        ] {
            put(&mut world, by, name, "kept");
            let refused = send(&mut world, by, ("", name), (name, ONCE));
            assert_eq!(refused, Err(expected), "{name}");
        }

        let mut world = world.crash(2);
        let of = |world: &mut World, name: &str| {
            let all = read(world, name).into_iter();
            let mut all: Vec<_> = all.map(|(text, deaths)| (text, causes(&deaths))).collect();
            all.sort_by(|one, other| one.0.cmp(&other.0));
            all
        };
        let letter = |name: &str| (name.to_owned(), vec![(name.to_owned(), Death::Overflow, 1)]);
        assert_eq!(of(&mut world, "dead"), [letter("by exchange"), letter("by name")]);
        for name in ["by exchange", "by name", "its own", "none"] {
            assert_eq!(texts(&mut world, name), ["kept"], "{name}");
        }
        let own = open(&mut world, "own");
        world.subscribe(own, "$dlq/its own/#", |_| {}).unwrap();
        assert_eq!(world.drain(own), ["its own"]);
    });
}

/// A letter that a full queue refuses and makes a letter of has arrived: it is not tried again.
#[test]
fn a_full_queue_passes_letters_on_once() {
    let mut world = World::new(4);
    let by = open(&mut world, "client");
    declare(&mut world, by, "dlx", plain(ExchangeKind::Fanout)).unwrap();
    let limits = QueueLimits {
        messages_max: Some(1),
        overflow: Overflow::RejectPublishDlx,
        ..QueueLimits::default()
    };
    world.declare("full", QueueSettings { limits, ..dying(to("", Some("last"))) });
    world.declare("last", QueueSettings::default());
    bound(&mut world, by, bind("dlx", queue("full"), ""));
    put(&mut world, by, "full", "first");
    world.declare("jobs", dying(to("dlx", None)));
    put(&mut world, by, "jobs", "1");

    assert_eq!(reject_all(&mut world, "jobs"), 1);
    (0..4).for_each(|_| world.pass(6_000));

    let all = read(&mut world, "last");
    assert_eq!(all.len(), 1);
    let (full, jobs) = ("full".to_owned(), "jobs".to_owned());
    assert_eq!(causes(&all[0].1), [(full, Death::Overflow, 1), (jobs, Death::Rejected, 1)]);
    assert_eq!(world.stats("jobs").groups[0].lag, 0);
}

/// The answer for a letter of a queue that was declared again comes when the same entry of the new one has a letter under way.
#[test]
fn a_late_answer_ends_no_entry_of_a_queue_that_was_declared_again() {
    let mut world = World::new(4);
    let by = open(&mut world, "client");
    let target = (0..).map(|number| format!("dead-{number}"));
    let target = target.into_iter().find(|name| world.home(name) != world.home("jobs")).unwrap();
    let full = |max| QueueSettings {
        limits: QueueLimits {
            messages_max: Some(max),
            overflow: Overflow::RejectPublish,
            ..QueueLimits::default()
        },
        ..QueueSettings::default()
    };
    world.declare(&target, full(1));
    let jobs = dying(to("", Some(&target)));
    world.declare("jobs", jobs.clone());
    put(&mut world, by, "jobs", "old");
    let member = reader(&mut world, "jobs");
    let delivery = world.deliveries(member).remove(0);
    world.slow = Some(world.home(&target));
    world.settle(member, delivery.id, Outcome::Rejected);
    assert!(world.queue(by, "jobs", DELETE).is_ok());
    let declare = QueueCommand::Declare(Arc::new(jobs));
    assert!(world.queue(by, "jobs", declare).is_ok());
    world.vanish(member);
    put(&mut world, by, "jobs", "new");
    let member = reader(&mut world, "jobs");
    let delivery = world.deliveries(member).remove(0);
    world.settle(member, delivery.id, Outcome::Rejected);

    world.slow = None;
    world.run();

    assert_eq!(world.stats("jobs").groups[0].lag, 1, "there was room for the old one alone");
    assert_eq!(texts(&mut world, &target), ["old"]);
    world.manage(&target, QueueAction::Purge).unwrap();
    (0..2).for_each(|_| world.pass(6_000));
    assert_eq!(texts(&mut world, &target), ["new"]);
}

#[test]
fn nobody_sends_letters_where_it_may_not_publish() {
    const RULES: &str = "topic write $management/queue/#\ntopic write $exchange/mine/#\ntopic write $queue/dead\n\
                         topic write alarm/#\ntopic read $queue/#\n";
    let mut world = World::new(1);
    let admin = open(&mut world, "admin");
    for name in ["mine", "theirs"] {
        declare(&mut world, admin, name, plain(ExchangeKind::Fanout)).unwrap();
    }
    world.rules(&format!("user ann\n{RULES}"));
    let ann = world.open_as("ann", "ann", 0).unwrap();
    let cases = [
        (to("mine", None), true),
        (to("mine", Some("k")), true),
        (to("theirs", None), false),
        (to("theirs", Some("k")), false),
        (to("", Some("dead")), true),
        (to("", Some("jobs")), false),
        (to("", None), false),
        (to("amq.topic", Some("alarm.fire")), true),
        (to("amq.topic", Some("door.open")), false),
        (to("amq.topic", None), false),
    ];
    for (number, (dead_letters, is_allowed)) in cases.into_iter().enumerate() {
        let what = format!("{:?}", dead_letters.target);
        let declare = QueueCommand::Declare(Arc::new(dying(dead_letters.clone())));
        let declared = world.queue(ann, &format!("q{number}"), declare);
        assert_eq!(declared.is_ok(), is_allowed, "{what}: {declared:?}");
        let said = format!("{{\"dead_letters\":\"{}\"}}", dead_letters.target.text());
        let request = message(&format!("$management/queue/r{number}/declare"), said, ONCE);
        let asked = world.publish(ann, request, None).unwrap();
        let is_there = world.manage(&format!("r{number}"), QueueAction::Stats).is_ok();
        assert_eq!(is_there, is_allowed, "{what}: {asked:?}");
    }
}

const GRAVES: [&str; 4] = ["g0", "g1", "g2", "g3"];
const EXCHANGES: [&str; 2] = ["x0", "x1"];
const KEYS: [&str; 2] = ["a", "b"];

/// Queues whose letters go to an exchange by a key, and who gets those.
#[derive(Default)]
struct Graveyard {
    routes: BTreeMap<(usize, usize), Vec<usize>>,
    sources: Vec<(String, (usize, usize))>,
}

impl Graveyard {
    fn new(world: &mut World, dice: &mut Dice) -> Graveyard {
        let by = open(world, "client");
        let mut graveyard = Graveyard::default();
        GRAVES.iter().for_each(|name| world.declare(name, QueueSettings::default()));
        for (exchange, kind) in
            EXCHANGES.into_iter().zip([ExchangeKind::Direct, ExchangeKind::Topic])
        {
            declare(world, by, exchange, plain(kind)).unwrap();
        }
        for to in (0..2).flat_map(|exchange| (0..2).map(move |key| (exchange, key))) {
            for (grave, name) in GRAVES.into_iter().enumerate() {
                if dice.roll(2) == 0 {
                    bound(world, by, bind(EXCHANGES[to.0], queue(name), KEYS[to.1]));
                    graveyard.routes.entry(to).or_default().push(grave);
                }
            }
            let name = format!("source-{}-{}", to.0, to.1);
            world.declare(&name, Graveyard::source(to, dice.roll(3)));
            graveyard.sources.push((name, to));
        }
        graveyard
    }

    fn source((exchange, key): (usize, usize), kind: usize) -> QueueSettings {
        let dead_letters = to(EXCHANGES[exchange], Some(KEYS[key]));
        let limits = QueueLimits { messages_max: Some(2), ..QueueLimits::default() };
        match kind {
            0 => brief(dead_letters),
            1 => QueueSettings { limits, ..dying(dead_letters) },
            _ => dying(dead_letters),
        }
    }

    /// Lets everything die that has not.
    fn bury_all(&self, world: &mut World) {
        for _ in 0..4 {
            for (name, _) in &self.sources {
                reject_all(world, name);
            }
            world.pass(6_000);
        }
    }
}

/// A random life of letters: exchanges, bindings, queues that reject, expire and overflow, power cuts. Whatever dies is in every queue to which
/// its exchange routed it, once.
#[test]
fn letters_are_where_the_bindings_say_each_once() {
    for seed in 0..16 {
        let mut dice = Dice::new(seed);
        let mut world = World::new(1 + (seed % 4) as u16);
        let graveyard = Graveyard::new(&mut world, &mut dice);
        let mut expected: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for number in 0..40 {
            let (name, to) = &graveyard.sources[dice.roll(graveyard.sources.len())];
            let (publisher, text) = (open(&mut world, "publisher"), number.to_string());
            put(&mut world, publisher, name, &text);
            for grave in graveyard.routes.get(to).into_iter().flatten() {
                expected.entry(*grave).or_default().push(text.clone());
            }
            let slow = (dice.roll(3) == 0).then(|| PartitionId(1 + dice.roll(4) as u16));
            let choice = dice.roll(6);
            world.slow = slow.filter(|_| choice > 0);
            match choice {
                0 => assert!(reject_while(&mut world, name, slow) < 41),
                1 => world.pass(700),
                2 => {
                    for _ in 0..dice.roll(9) {
                        world.turn(dice.roll(2) == 0);
                    }
                }
                3 => world.restart(seed * 100 + number),
                _ => {}
            }
            world.slow = None;
            world.run();
        }
        graveyard.bury_all(&mut world);
        for (name, _) in &graveyard.sources {
            let stats = world.stats(name);
            assert!(stats.groups.iter().all(|group| group.lag == 0), "seed {seed}: {name}");
        }
        for (grave, name) in GRAVES.into_iter().enumerate() {
            let mut found = texts(&mut world, name);
            let mut wanted = expected.remove(&grave).unwrap_or_default();
            found.sort();
            wanted.sort();
            assert_eq!(found, wanted, "seed {seed}: {name}");
        }
    }
}
