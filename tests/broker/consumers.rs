//! Consumers that their protocols name: credit, stopping and leaving, being the only one, and entries that are asked for one by one.

use bytes::Bytes;
use fluxmq::model::queue::QueueKind;
use fluxmq::model::{
    Command, Consume, Credit, Delivery, DeliveryId, Effect, Got, Outcome, Properties, Property,
    QoS, QueueName, QueueRefusal, QueueSettings, Refusal,
};
use fluxmq::partition::request::{ConnectionId, QueueAction};

use crate::world::{World, certified, message, open_command, text};

const ONCE: QoS = QoS::AtLeastOnce;
const ALL: Credit = Credit::Window(u32::MAX);

pub fn name(text: &str) -> QueueName {
    QueueName::from_text(Bytes::from(text.to_owned())).expect("a name")
}

pub fn consumer_of(world: &mut World, consumer: u32, queue: &str, credit: Credit) -> Consume {
    Consume {
        token: world.token(),
        consumer,
        queue: name(queue),
        group: name("default"),
        own: None,
        credit,
        is_exclusive: false,
        position: None,
    }
}

pub fn consume(
    world: &mut World,
    id: ConnectionId,
    (consumer, queue): (u32, &str),
    credit: Credit,
) -> Result<(), Refusal> {
    let consume = consumer_of(world, consumer, queue, credit);
    begin(world, id, consume)
}

pub fn begin(world: &mut World, id: ConnectionId, consume: Consume) -> Result<(), Refusal> {
    let token = consume.token;
    world.command(id, Command::Consume(Box::new(consume)));
    let answer = world.take(id, |effect| match effect {
        Effect::Consuming { token: of, result } if *of == token => Some(result.clone()),
        _ => None,
    });
    answer.expect("answered")
}

pub fn stop(world: &mut World, id: ConnectionId, consumer: u32) {
    let token = world.token();
    world.command(id, Command::StopConsuming { token, consumer });
    let is_stopped = |effect: &Effect| (*effect == Effect::Stopped { token }).then_some(());
    world.take(id, is_stopped).expect("stopped");
}

pub fn get(
    world: &mut World,
    id: ConnectionId,
    (consumer, queue): (u32, &str),
) -> Result<Option<Box<Got>>, Refusal> {
    let token = world.token();
    let (queue, group) = (name(queue), name("default"));
    world.command(id, Command::Get { token, consumer, queue, group });
    got(world, id).expect("answered")
}

pub fn got(world: &mut World, id: ConnectionId) -> Option<Result<Option<Box<Got>>, Refusal>> {
    world.take(id, |effect| match effect {
        Effect::Got { result, .. } => Some(result.clone()),
        _ => None,
    })
}

/// The entry's text, whether it may have come before, and how many remain.
fn next(world: &mut World, id: ConnectionId, queue: &str) -> Option<(String, bool, u64)> {
    let got = get(world, id, (0, queue)).expect("there is such a queue")?;
    Some((text(&got.delivery), got.delivery.redelivered, got.remaining))
}

fn publish(world: &mut World, queue: &str, texts: std::ops::Range<usize>) {
    let (publisher, _) = world.open("publisher", true, 0);
    for number in texts {
        let message = message(&format!("$queue/{queue}"), number.to_string(), ONCE);
        assert_eq!(world.publish(publisher, message, None), Some(Ok(true)));
    }
}

fn declared(partitions: u16, settings: QueueSettings) -> World {
    let mut world = World::new(partitions);
    world.declare("jobs", settings);
    world
}

/// As AMQP declares: nothing is a dead letter for having come too often.
fn plain(partitions: u16) -> World {
    declared(partitions, QueueSettings { deliveries_max: 0, ..QueueSettings::default() })
}

fn came(world: &mut World, id: ConnectionId) -> Vec<(String, bool)> {
    world.deliveries(id).iter().map(|it| (text(it), it.redelivered)).collect()
}

fn fresh(range: std::ops::Range<usize>) -> Vec<(String, bool)> {
    range.map(|number| (number.to_string(), false)).collect()
}

fn again(numbers: &[usize]) -> Vec<(String, bool)> {
    numbers.iter().map(|number| (number.to_string(), true)).collect()
}

fn ids(deliveries: &[Delivery]) -> Vec<DeliveryId> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

fn missing(queue: &str) -> Refusal {
    QueueRefusal::Missing { queue: queue.to_owned() }.into()
}

fn in_exclusive_use() -> Refusal {
    QueueRefusal::ExclusiveUse { queue: "jobs".to_owned() }.into()
}

#[test]
fn a_queue_that_is_not_there_is_not_made_by_consuming_it() {
    let mut world = World::new(4);
    let (client, _) = world.open("client", true, 0);

    assert_eq!(consume(&mut world, client, (1, "jobs"), ALL), Err(missing("jobs")));
    assert_eq!(get(&mut world, client, (2, "jobs")), Err(missing("jobs")));

    world.subscribe(client, "$queue/jobs", |_| {}).expect("MQTT makes it");
    assert_eq!(consume(&mut world, client, (3, "jobs"), ALL), Ok(()));
}

#[test]
fn a_window_is_filled_and_filled_again_as_it_is_settled() {
    let mut world = plain(4);
    publish(&mut world, "jobs", 0..10);
    let (client, _) = world.open("client", true, 0);

    consume(&mut world, client, (7, "jobs"), Credit::Window(3)).expect("consumes");
    let deliveries = world.deliveries(client);
    assert_eq!(deliveries.iter().map(text).collect::<Vec<_>>(), ["0", "1", "2"]);

    world.settle(client, deliveries[1].id, Outcome::Accepted);
    assert_eq!(came(&mut world, client), fresh(3..4));
    world.settle(client, deliveries[0].id, Outcome::Accepted);
    world.settle(client, deliveries[2].id, Outcome::Accepted);
    assert_eq!(came(&mut world, client), fresh(4..6));
}

#[test]
fn credit_that_is_granted_is_not_given_back_by_settling() {
    let mut world = plain(4);
    publish(&mut world, "jobs", 0..10);
    let (client, _) = world.open("client", true, 0);

    // Granted before it is a member: it counts all the same.
    let consume = consumer_of(&mut world, 1, "jobs", Credit::Granted(1));
    world.say(client, Command::Consume(Box::new(consume)));
    world.command(client, Command::Grant { consumer: 1, count: 2 });
    let deliveries = world.deliveries(client);
    assert_eq!(deliveries.iter().map(text).collect::<Vec<_>>(), ["0", "1", "2"]);

    for delivery in deliveries {
        world.settle(client, delivery.id, Outcome::Accepted);
    }
    assert_eq!(came(&mut world, client), []);
    world.command(client, Command::Grant { consumer: 1, count: 2 });
    assert_eq!(came(&mut world, client), fresh(3..5));
}

#[test]
fn what_was_sent_costs_no_room_and_what_waits_to_be_sent_is_bounded_in_bytes() {
    let mut world = plain(1);
    let (publisher, _) = world.open("publisher", true, 0);
    for _ in 0..600 {
        let message = message("$queue/jobs", "x".repeat(1000), ONCE);
        world.publish(publisher, message, None).expect("confirmed").expect("stored");
    }
    let (client, _) = world.open("client", true, 0);

    consume(&mut world, client, (1, "jobs"), ALL).expect("consumes");
    assert_eq!(world.deliveries(client).len(), 8, "8 KiB");

    // Nothing is settled: all of it goes out as it is sent.
    let (mut sent, mut out) = (8, 8);
    while sent > 0 {
        world.command(client, Command::Sent { consumer: 1, count: sent as u32 });
        sent = world.deliveries(client).len();
        out += sent;
    }
    assert_eq!(out, 600);

    world.command(client, Command::Leave { consumer: 1 });
    consume(&mut world, client, (2, "jobs"), ALL).expect("consumes");
    let mut out = 0;
    loop {
        let deliveries = world.deliveries(client);
        out += deliveries.len();
        assert!(deliveries.len() < 300, "never more than its bytes");
        if deliveries.is_empty() {
            break;
        }
        // Sent and settled, each in its own way and order.
        for (number, delivery) in deliveries.iter().enumerate() {
            if number % 3 == 0 {
                world.say(client, Command::Sent { consumer: 2, count: 1 });
            }
            world
                .say(client, Command::Settle { delivery: delivery.id, outcome: Outcome::Accepted });
        }
        world.run();
    }
    assert_eq!(out, 600);
}

#[test]
fn what_a_consumer_has_is_not_taken_from_it_while_its_connection_is_there() {
    let mut world = plain(4);
    publish(&mut world, "jobs", 0..2);
    let (client, _) = world.open("client", true, 0);
    consume(&mut world, client, (1, "jobs"), Credit::Window(1)).expect("consumes");
    let (member, _) = world.open("member", true, 0);
    world.subscribe(member, "$share/default/$queue/jobs", |_| {}).expect("joins");
    assert_eq!(came(&mut world, client), fresh(0..1));
    assert_eq!(came(&mut world, member), fresh(1..2));

    for _ in 0..20 {
        world.pass(60_000);
    }

    // What MQTT clients hold too long goes to others, as ever: here to itself again, the other has no credit.
    assert!(world.deliveries(member).iter().all(|delivery| text(delivery) == "1"));
    assert_eq!(came(&mut world, client), []);
    assert_eq!(world.stats("jobs").groups[0].pending, 2);
}

#[test]
fn what_a_consumer_leaves_goes_back_in_its_place() {
    for way in 0..3 {
        let mut world = plain(4);
        publish(&mut world, "jobs", 0..6);
        let (first, _) = world.open("first", true, 0);
        consume(&mut world, first, (1, "jobs"), Credit::Window(4)).expect("consumes");
        let deliveries = world.deliveries(first);
        world.settle(first, deliveries[1].id, Outcome::Accepted);
        world.deliveries(first);
        let (second, _) = world.open("second", true, 0);
        consume(&mut world, second, (1, "jobs"), ALL).expect("consumes");
        assert_eq!(came(&mut world, second), fresh(5..6));

        match way {
            0 => world.command(first, Command::Leave { consumer: 1 }),
            1 => world.close(first, false),
            _ => world.vanish(first),
        }

        let deliveries = world.deliveries(second);
        let told = |it: &Delivery| (text(it), it.redelivered, count(it));
        let told: Vec<_> = deliveries.iter().map(told).collect();
        let expected = ["0", "2", "3", "4"].map(|text| (text.to_owned(), true, 1));
        assert_eq!(told, expected, "way {way}");
    }
}

fn count(delivery: &Delivery) -> u32 {
    delivery.annotations.delivery_count()
}

#[test]
fn a_delivery_on_its_way_to_a_consumer_that_leaves_does_not_arrive() {
    let mut world = plain(1);
    publish(&mut world, "jobs", 0..1);
    let (client, _) = world.open("client", true, 0);
    let consume = consumer_of(&mut world, 1, "jobs", ALL);
    world.say(client, Command::Consume(Box::new(consume)));

    // Asked for, and left before anything of it is answered.
    world.say(client, Command::Leave { consumer: 1 });
    world.run();

    assert_eq!(came(&mut world, client), []);
    let (other, _) = world.open("other", true, 0);
    assert_eq!(next(&mut world, other, "jobs").map(|(text, ..)| text), Some("0".to_owned()));
}

#[test]
fn entries_that_are_released_come_again_in_their_place_and_say_so() {
    let mut world = plain(4);
    publish(&mut world, "jobs", 0..8);
    let (client, _) = world.open("client", true, 0);
    consume(&mut world, client, (1, "jobs"), Credit::Window(4)).expect("consumes");
    let deliveries = world.deliveries(client);

    for at in [3, 0] {
        let (delivery, outcome) = (deliveries[at].id, Outcome::Released);
        world.say(client, Command::Settle { delivery, outcome });
    }
    world.run();
    assert_eq!(came(&mut world, client), again(&[0, 3]));

    world.settle(client, deliveries[1].id, Outcome::Rejected);
    world.settle(client, deliveries[2].id, Outcome::Accepted);
    assert_eq!(came(&mut world, client), fresh(4..6));
    assert_eq!(world.stats("$dlq/jobs").messages, 1);
}

#[test]
fn after_a_crash_what_may_have_been_out_says_so_and_nothing_else_does() {
    let mut world = plain(4);
    world.declare("unread", QueueSettings::default());
    publish(&mut world, "jobs", 0..4);
    publish(&mut world, "unread", 0..1);
    let (client, _) = world.open("client", true, 0);
    consume(&mut world, client, (1, "jobs"), Credit::Window(3)).expect("consumes");
    let deliveries = world.deliveries(client);
    world.settle(client, deliveries[0].id, Outcome::Accepted);

    let mut world = world.crash(3);
    publish(&mut world, "jobs", 4..6);
    let (client, _) = world.open("client", true, 0);
    consume(&mut world, client, (1, "jobs"), ALL).expect("consumes");
    consume(&mut world, client, (2, "unread"), ALL).expect("consumes");

    let mut expected = again(&[1, 2, 3]);
    expected.extend(fresh(4..6));
    let (jobs, unread): (Vec<_>, Vec<_>) =
        world.deliveries(client).into_iter().partition(|it| text(it) != "0");
    let told = |it: &Delivery| (text(it), it.redelivered);
    assert_eq!(jobs.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(unread.iter().map(told).collect::<Vec<_>>(), fresh(0..1), "nobody had read it");
    assert_eq!(jobs.iter().map(count).sum::<u32>(), 0, "what a crash ends is no delivery");
}

#[test]
fn one_that_is_to_be_the_only_consumer_is_refused_beside_another_and_refuses_others() {
    let mut world = plain(4);
    let (first, _) = world.open("first", true, 0);
    let (second, _) = world.open("second", true, 0);
    consume(&mut world, first, (1, "jobs"), ALL).expect("consumes");

    let exclusive = |world: &mut World, number| Consume {
        is_exclusive: true,
        ..consumer_of(world, number, "jobs", ALL)
    };
    let wanted = exclusive(&mut world, 1);
    assert_eq!(begin(&mut world, second, wanted), Err(in_exclusive_use()));
    let wanted = exclusive(&mut world, 2);
    assert_eq!(begin(&mut world, first, wanted), Err(in_exclusive_use()), "nor beside its own");

    // One that is stopped is no consumer, whatever it has out.
    publish(&mut world, "jobs", 0..1);
    stop(&mut world, first, 1);
    let wanted = exclusive(&mut world, 3);
    assert_eq!(begin(&mut world, second, wanted), Ok(()));
    assert_eq!(consume(&mut world, first, (4, "jobs"), ALL), Err(in_exclusive_use()));
    assert_eq!(consume(&mut world, second, (5, "jobs"), ALL), Err(in_exclusive_use()));
    let subscribed = world.subscribe(first, "$queue/jobs", |_| {});
    assert_eq!(subscribed, Err(in_exclusive_use()), "whatever its protocol");

    world.command(second, Command::Leave { consumer: 3 });
    assert_eq!(consume(&mut world, first, (6, "jobs"), ALL), Ok(()));
}

#[test]
fn where_one_is_active_the_next_in_line_takes_over_from_one_that_stops_or_leaves() {
    let settings = QueueSettings { single_active: true, ..QueueSettings::default() };
    let mut world = declared(4, settings);
    let (client, _) = world.open("client", true, 0);
    for number in 1..=3 {
        consume(&mut world, client, (number, "jobs"), ALL).expect("consumes");
    }
    let by = |world: &mut World| -> Vec<(String, String)> {
        let deliveries = world.deliveries(client);
        deliveries.iter().map(|it| (text(it), format!("{:?}", it.id.source))).collect()
    };
    let at = |text: &str, number: u32| (text.to_owned(), format!("Group({number})"));

    publish(&mut world, "jobs", 0..1);
    assert_eq!(by(&mut world), [at("0", 1)]);
    stop(&mut world, client, 1);
    publish(&mut world, "jobs", 1..2);
    assert_eq!(by(&mut world), [at("1", 2)]);
    world.command(client, Command::Leave { consumer: 2 });
    publish(&mut world, "jobs", 2..3);
    assert_eq!(by(&mut world), [at("1", 3), at("2", 3)]);

    // A single entry can be had all the same.
    publish(&mut world, "jobs", 3..4);
    assert_eq!(next(&mut world, client, "jobs"), None, "it went to the active one");
    stop(&mut world, client, 3);
    publish(&mut world, "jobs", 4..5);
    assert_eq!(next(&mut world, client, "jobs"), Some(("4".to_owned(), false, 0)));
}

#[test]
fn a_consumer_that_stops_keeps_what_it_has_and_gets_nothing_more() {
    let mut world = plain(4);
    publish(&mut world, "jobs", 0..4);
    let (client, _) = world.open("client", true, 0);
    consume(&mut world, client, (1, "jobs"), Credit::Window(3)).expect("consumes");
    let token = world.token();
    world.command(client, Command::StopConsuming { token, consumer: 1 });
    let effects = world.take_effects(client);
    assert_eq!(effects.len(), 4);
    assert_eq!(effects.last(), Some(&Effect::Stopped { token }), "after its last delivery");
    let out: Vec<DeliveryId> = effects.iter().filter_map(delivery_id).collect();

    world.settle(client, out[1], Outcome::Accepted);
    publish(&mut world, "jobs", 4..6);
    assert_eq!(came(&mut world, client), []);
    let stats = world.stats("jobs");
    assert_eq!((stats.groups[0].members, stats.groups[0].pending), (0, 2));

    let (other, _) = world.open("other", true, 0);
    consume(&mut world, other, (1, "jobs"), ALL).expect("consumes");
    assert_eq!(came(&mut world, other), fresh(3..6), "not what is out");
    world.settle(client, out[2], Outcome::Released);
    assert_eq!(came(&mut world, other), again(&[2]));
    world.command(client, Command::Leave { consumer: 1 });
    assert_eq!(came(&mut world, other), again(&[0]));
}

fn delivery_id(effect: &Effect) -> Option<DeliveryId> {
    match effect {
        Effect::Deliver(delivery) => Some(delivery.id),
        _ => None,
    }
}

#[test]
fn a_consumer_that_is_stopped_before_it_stands_gets_nothing() {
    let mut world = plain(1);
    publish(&mut world, "jobs", 0..1);
    let (client, _) = world.open("client", true, 0);
    let consume = consumer_of(&mut world, 1, "jobs", ALL);
    let (begun, ended) = (consume.token, world.token());
    world.say(client, Command::Consume(Box::new(consume)));
    world.say(client, Command::StopConsuming { token: ended, consumer: 1 });

    world.run();

    let answers =
        [Effect::Consuming { token: begun, result: Ok(()) }, Effect::Stopped { token: ended }];
    assert_eq!(world.take_effects(client), answers);
    assert_eq!(next(&mut world, client, "jobs"), Some(("0".to_owned(), false, 0)));
}

#[test]
fn entries_are_asked_for_one_by_one_in_order_until_there_is_none() {
    let mut world = plain(4);
    publish(&mut world, "jobs", 0..3);
    let (client, _) = world.open("client", true, 0);

    let first = get(&mut world, client, (9, "jobs")).unwrap().expect("there are three");
    assert_eq!((text(&first.delivery), first.remaining), ("0".to_owned(), 2));
    let second = get(&mut world, client, (9, "jobs")).unwrap().expect("there are two");
    assert_eq!((text(&second.delivery), second.remaining), ("1".to_owned(), 1));
    let stats = world.stats("jobs");
    assert_eq!((stats.groups[0].members, stats.groups[0].pending), (0, 2), "nobody consumes it");

    world.settle(client, first.delivery.id, Outcome::Accepted);
    world.settle(client, second.delivery.id, Outcome::Released);
    world.pass(600_000);
    assert_eq!(next(&mut world, client, "jobs"), Some(("1".to_owned(), true, 1)));
    assert_eq!(next(&mut world, client, "jobs"), Some(("2".to_owned(), false, 0)));
    assert_eq!(next(&mut world, client, "jobs"), None);

    // Both are out at the number that asked, also when the same place of another queue is.
    world.declare("other", QueueSettings { deliveries_max: 0, ..QueueSettings::default() });
    publish(&mut world, "other", 0..2);
    assert_eq!(next(&mut world, client, "other"), Some(("0".to_owned(), false, 1)));
    world.command(client, Command::Leave { consumer: 0 });
    assert_eq!(next(&mut world, client, "jobs"), Some(("1".to_owned(), true, 1)));
    assert_eq!(next(&mut world, client, "other"), Some(("0".to_owned(), true, 1)));
}

#[test]
fn an_entry_that_is_settled_is_not_to_be_had_again_while_that_is_being_written() {
    // The group was forgotten with its last member, and began again with what the log said: what it was about to say was not in it.
    let mut world = plain(1);
    publish(&mut world, "jobs", 0..3);
    let (client, _) = world.open("client", true, 0);
    let (queue, group) = (name("jobs"), name("default"));
    for expected in [("0", 2), ("1", 1), ("2", 0)] {
        let (token, queue, group) = (world.token(), queue.clone(), group.clone());
        world.say(client, Command::Get { token, consumer: 1, queue, group });
        let answer = loop {
            world.turn(expected.0 == "0");
            if let Some(answer) = got(&mut world, client) {
                break answer.unwrap().expect("there is one");
            }
        };
        assert_eq!((text(&answer.delivery).as_str(), answer.remaining), expected);
        let (delivery, outcome) = (answer.delivery.id, Outcome::Accepted);
        world.say(client, Command::Settle { delivery, outcome });
        world.turn(false);
    }
    world.run();
    assert_eq!(next(&mut world, client, "jobs"), None);
    assert_eq!(world.stats("jobs").groups[0].lag, 0);
}

#[test]
fn a_member_that_settles_and_leaves_does_not_leave_the_entry_to_the_next() {
    let mut world = plain(1);
    publish(&mut world, "jobs", 0..2);
    let (client, _) = world.open("client", true, 0);
    consume(&mut world, client, (1, "jobs"), Credit::Window(1)).expect("consumes");
    let delivery = world.deliveries(client)[0].id;

    world.say(client, Command::Settle { delivery, outcome: Outcome::Accepted });
    world.say(client, Command::Leave { consumer: 1 });
    world.turn(false);
    let consume = consumer_of(&mut world, 2, "jobs", ALL);
    world.say(client, Command::Consume(Box::new(consume)));
    world.turn(false);
    world.run();

    let texts: Vec<String> = world.deliveries(client).iter().map(text).collect();
    assert_eq!(texts, ["1"]);
}

#[test]
fn what_is_asked_for_comes_by_priority_not_expired_and_not_too_early() {
    let settings = QueueSettings { priority_max: 9, ..QueueSettings::default() };
    let mut world = declared(4, settings);
    let (client, _) = world.open("client", true, 0);
    for (text, key, value) in
        [("low", "x-priority", "1"), ("later", "x-delay", "50000"), ("high", "x-priority", "7")]
    {
        let mut message = message("$queue/jobs", text, ONCE);
        let said = Property::User(Bytes::from(key), Bytes::from(value));
        message.properties = Properties::encode([&said]);
        assert_eq!(world.publish(client, message, None), Some(Ok(true)));
    }
    let mut expiring = message("$queue/jobs", "expiring", ONCE);
    expiring.expiry_s = Some(10);
    assert_eq!(world.publish(client, expiring, None), Some(Ok(true)));
    world.pass(20_000);

    let texts = |world: &mut World| -> Vec<String> {
        std::iter::from_fn(|| next(world, client, "jobs").map(|(text, ..)| text)).collect()
    };
    assert_eq!(texts(&mut world), ["high", "low"]);
    world.pass(60_000);
    assert_eq!(texts(&mut world), ["later"]);
}

#[test]
fn many_that_are_expired_are_stepped_over_for_who_asks() {
    let mut world = plain(1);
    let (client, _) = world.open("client", true, 0);
    for number in 0..700 {
        let mut message = message("$queue/jobs", number.to_string(), ONCE);
        message.expiry_s = (number != 650).then_some(1);
        assert_eq!(world.publish(client, message, None), Some(Ok(true)));
    }
    world.pass(5_000);

    assert_eq!(next(&mut world, client, "jobs").map(|(text, ..)| text), Some("650".to_owned()));
    assert_eq!(next(&mut world, client, "jobs"), None);
}

#[test]
fn what_was_asked_for_and_not_settled_is_there_again_after_a_crash() {
    let mut world = plain(4);
    publish(&mut world, "jobs", 0..2);
    let (client, _) = world.open("client", true, 0);
    assert_eq!(next(&mut world, client, "jobs"), Some(("0".to_owned(), false, 1)));

    let mut world = world.crash(5);

    let (client, _) = world.open("client", true, 0);
    assert_eq!(next(&mut world, client, "jobs"), Some(("0".to_owned(), true, 1)));
}

#[test]
fn who_has_left_before_it_is_answered_leaves_its_entry() {
    let mut world = plain(1);
    publish(&mut world, "jobs", 0..1);
    let (client, _) = world.open("client", true, 0);
    let (token, queue, group) = (world.token(), name("jobs"), name("default"));
    world.say(client, Command::Get { token, consumer: 1, queue, group });
    world.say(client, Command::Leave { consumer: 1 });
    world.run();

    assert_eq!(got(&mut world, client), Some(Ok(None)));
    assert_eq!(next(&mut world, client, "jobs").map(|(text, ..)| text), Some("0".to_owned()));
}

#[test]
fn a_queue_that_ends_takes_what_is_out_with_it() {
    let mut world = plain(4);
    publish(&mut world, "jobs", 0..2);
    let (client, _) = world.open("client", true, 0);
    let got = get(&mut world, client, (1, "jobs")).unwrap().expect("there are two");
    let delete = QueueAction::Delete { if_unused: true, if_empty: false };
    world.manage("jobs", delete).expect("nobody consumes it");
    world.declare("jobs", QueueSettings::default());
    publish(&mut world, "jobs", 5..6);

    world.settle(client, got.delivery.id, Outcome::Accepted);

    assert_eq!(next(&mut world, client, "jobs"), Some(("5".to_owned(), false, 0)));
}

#[test]
fn consumers_are_told_that_their_queue_is_gone_and_those_that_have_stopped_are_not() {
    let mut world = plain(4);
    let (client, _) = world.open("client", true, 0);
    world.subscribe(client, "$share/default/$queue/jobs", |_| {}).expect("joins");
    publish(&mut world, "jobs", 0..1);
    world.deliveries(client);
    consume(&mut world, client, (1, "jobs"), ALL).expect("consumes");
    consume(&mut world, client, (2, "jobs"), ALL).expect("consumes");
    publish(&mut world, "jobs", 1..3);
    assert_eq!(world.deliveries(client).len(), 2);
    stop(&mut world, client, 1);
    publish(&mut world, "jobs", 3..40);
    world.deliveries(client);

    let delete = QueueAction::Delete { if_unused: false, if_empty: false };
    world.manage("jobs", delete).expect("whoever reads it");

    let effects = world.take_effects(client);
    assert_eq!(effects, [Effect::ConsumerEnded { consumer: 2 }]);
    assert_eq!(get(&mut world, client, (3, "jobs")), Err(missing("jobs")));
}

#[test]
fn a_queue_that_ends_with_its_last_consumer_outlives_who_asks_and_ends_with_who_stops() {
    let settings = QueueSettings { auto_delete: true, ..QueueSettings::default() };
    let mut world = declared(4, settings);
    publish(&mut world, "jobs", 0..3);
    let (client, _) = world.open("client", true, 0);
    assert_eq!(next(&mut world, client, "jobs"), Some(("0".to_owned(), false, 2)));
    world.command(client, Command::Leave { consumer: 0 });
    assert_eq!(next(&mut world, client, "jobs"), Some(("0".to_owned(), true, 2)));

    consume(&mut world, client, (1, "jobs"), Credit::Window(1)).expect("consumes");
    consume(&mut world, client, (2, "jobs"), Credit::Window(1)).expect("consumes");
    stop(&mut world, client, 1);
    world.command(client, Command::Leave { consumer: 1 });
    assert_eq!(next(&mut world, client, "jobs").map(|(text, ..)| text), Some("1".to_owned()));
    stop(&mut world, client, 2);

    assert_eq!(get(&mut world, client, (3, "jobs")), Err(missing("jobs")), "it has ended");
}

#[test]
fn a_stream_is_consumed_from_a_position() {
    let settings = QueueSettings { kind: QueueKind::Stream, ..QueueSettings::default() };
    let mut world = declared(4, settings);
    publish(&mut world, "jobs", 0..5);
    let (client, _) = world.open("client", true, 0);
    let at = |world: &mut World, number, position: &'static str| Consume {
        position: Some(Bytes::from_static(position.as_bytes())),
        ..consumer_of(world, number, "jobs", Credit::Window(100))
    };

    let wanted = at(&mut world, 1, "offset=3");
    assert_eq!(begin(&mut world, client, wanted), Ok(()));
    let texts: Vec<String> = world.deliveries(client).iter().map(text).collect();
    assert_eq!(texts, ["3", "4"]);

    // Another one does not move it under the first.
    let wanted = at(&mut world, 2, "first");
    assert_eq!(begin(&mut world, client, wanted), Ok(()));
    assert_eq!(world.deliveries(client), []);
    let wanted = at(&mut world, 3, "soon");
    assert!(matches!(begin(&mut world, client, wanted), Err(Refusal::Invalid { .. })));
}

#[test]
fn many_entries_that_are_settled_at_once_are_one_small_record() {
    let mut world = plain(1);
    publish(&mut world, "jobs", 0..1000);
    let (client, _) = world.open("client", true, 0);
    consume(&mut world, client, (1, "jobs"), ALL).expect("consumes");
    let mut out = Vec::new();
    while out.len() < 1000 {
        let deliveries = world.deliveries(client);
        let count = deliveries.len() as u32;
        out.extend(ids(&deliveries));
        world.command(client, Command::Sent { consumer: 1, count });
    }

    let before = world.log_bytes();
    for delivery in out {
        world.say(client, Command::Settle { delivery, outcome: Outcome::Accepted });
    }
    world.run();

    assert_eq!(world.stats("jobs").groups[0].lag, 0);
    let bytes = world.log_bytes() - before;
    assert!(bytes < 256, "{bytes} bytes for a thousand entries in a row");
}

#[test]
fn who_may_not_read_a_queue_consumes_nothing_of_it_and_stops_when_the_right_does() {
    let rules = "user alice\ntopic readwrite $queue/#\nuser bob\ntopic read other/#\n";
    let mut world = plain(4);
    publish(&mut world, "jobs", 0..3);
    world.rules(rules);
    let open = |world: &mut World, user: &str| {
        let id = world.connect();
        let Command::Open(open) = open_command(user, true, 0) else { unreachable!() };
        let peer = certified(user);
        world.command(id, Command::Open(Box::new(fluxmq::model::command::Open { peer, ..*open })));
        id
    };
    let (alice, bob) = (open(&mut world, "alice"), open(&mut world, "bob"));

    assert_eq!(consume(&mut world, bob, (1, "jobs"), ALL), Err(Refusal::NotAuthorized));
    assert_eq!(get(&mut world, bob, (2, "jobs")), Err(Refusal::NotAuthorized));
    consume(&mut world, alice, (1, "jobs"), Credit::Window(1)).expect("may");
    assert_eq!(came(&mut world, alice), fresh(0..1));

    world.rules("user alice\ntopic read other/#\nuser bob\ntopic readwrite $queue/#\n");

    let ended = |effect: &Effect| (*effect == Effect::ConsumerEnded { consumer: 1 }).then_some(());
    world.take(alice, ended).expect("it is told");
    consume(&mut world, bob, (3, "jobs"), ALL).expect("may now");
    let texts: Vec<String> = world.deliveries(bob).iter().map(text).collect();
    assert_eq!(texts, ["0", "1", "2"]);
}

#[test]
fn what_is_settled_in_one_turn_ends_as_it_was_said_for_each_entry() {
    for partitions in [1, 4] {
        let mut world = plain(partitions);
        publish(&mut world, "jobs", 0..8);
        let (client, _) = world.open("client", true, 0);
        consume(&mut world, client, (1, "jobs"), ALL).unwrap();
        let out = ids(&world.deliveries(client));

        let outcomes = [
            (0, Outcome::Accepted),
            (1, Outcome::Accepted),
            (2, Outcome::Released),
            (3, Outcome::Released),
            // Neighbours of one outcome, and not in their order.
            (7, Outcome::Accepted),
            (6, Outcome::Accepted),
            (4, Outcome::Rejected),
        ];
        for (entry, outcome) in outcomes {
            world.say(client, Command::Settle { delivery: out[entry], outcome });
        }
        world.run();

        assert_eq!(came(&mut world, client), again(&[2, 3]));
        world.vanish(client);
        let (other, _) = world.open("other", true, 0);
        consume(&mut world, other, (1, "jobs"), ALL).unwrap();
        assert_eq!(came(&mut world, other), again(&[2, 3, 5]));
    }
}
