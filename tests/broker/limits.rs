//! What is refused or given up when there is too much of it.

use bytes::Bytes;
use fluxmq::model::{Command, Filter, Message, Outcome, QoS, QueueSettings, Refusal, Token};
use fluxmq::partition::Options;
use fluxmq::partition::request::ConnectionId;
use fluxmq_log::sim_disk::SimDisk;

use crate::world::{World, message, text};

const ONCE: QoS = QoS::AtLeastOnce;
const FULL: Option<Result<bool, Refusal>> =
    Some(Err(Refusal::Quota { limit: "retained messages" }));

fn world(data_partitions: u16, options: Options) -> World {
    World::with(SimDisk::new(3), data_partitions, options).expect("the logs recover")
}

fn retained(topic: &str, payload: &str) -> Message {
    Message { retain: true, ..message(topic, payload, ONCE) }
}

#[test]
fn one_topic_too_many_is_refused_and_those_there_are_may_change() {
    let mut world = world(1, Options { retained_max: 2, ..Options::default() });
    let (publisher, _) = world.open("publisher", true, 0);
    for topic in ["a", "b", "a"] {
        assert_eq!(world.publish(publisher, retained(topic, "x"), None), Some(Ok(true)));
    }
    assert_eq!(world.publish(publisher, retained("c", "x"), None), FULL);
    assert_eq!(world.publish(publisher, message("c", "x", ONCE), None), Some(Ok(true)));
    // Clearing needs no place, and makes one.
    assert_eq!(world.publish(publisher, retained("c", ""), None), Some(Ok(true)));
    assert_eq!(world.publish(publisher, retained("a", ""), None), Some(Ok(true)));
    assert_eq!(world.publish(publisher, retained("c", "x"), None), Some(Ok(true)));

    let mut reader = world.open("reader", true, 0).0;
    world.subscribe(reader, "#", |_| {}).expect("subscribes");
    assert_eq!(world.drain(reader).len(), 2);
    reader = world.open("other", true, 0).0;
    world.subscribe(reader, "c", |_| {}).expect("subscribes");
    assert_eq!(world.drain(reader), ["x"]);
}

/// Copies for bound queues retain nothing: they were counted, and never let go.
#[test]
fn what_bound_queues_get_of_retained_messages_takes_no_place_of_one() {
    let mut world = world(4, Options { retained_max: 1, ..Options::default() });
    let (publisher, _) = world.open("publisher", true, 0);
    let bindings = vec![Filter::new(Bytes::from_static(b"+")).expect("a filter")];
    world.declare("q", QueueSettings { bindings, ..QueueSettings::default() });
    let mut copies = 0;
    for topic in ["a", "b", "c", "d", "e", "f"] {
        for payload in ["x", "y", ""] {
            let stored = world.publish(publisher, retained(topic, payload), None);
            assert_eq!(stored, Some(Ok(true)), "{topic} {payload}");
        }
        copies += world.stored(&format!("$queue//{topic}")).len();
    }
    assert!(copies >= 3, "some topics live elsewhere");
    assert_eq!(world.stats("q").messages, 18);
}

#[test]
fn one_subscription_too_many_is_refused_and_those_there_are_may_change() {
    let mut world = world(1, Options::default());
    world.client_limits.subscriptions_max = 3;
    let (mut id, _) = world.open("c", false, 300);
    for filter in ["a", "b/#", "$share/g/c", "a"] {
        world.subscribe(id, filter, |_| {}).expect("subscribes");
    }
    let full = Err(Refusal::Quota { limit: "limits.subscriptions_per_client_max" });
    assert_eq!(world.subscribe(id, "d", |_| {}), full);
    // The session has them, not the connection.
    id = world.open("c", false, 300).0;
    assert_eq!(world.subscribe(id, "d", |_| {}), full);

    let filters = vec![Filter::new(Bytes::from_static(b"a")).expect("a filter")];
    world.command(id, Command::Unsubscribe { token: Token(900), filters });
    assert!(world.subscribe(id, "d", |_| {}).is_ok());
    assert_eq!(world.subscribe(id, "a", |_| {}), full);
}

#[test]
fn retained_bytes_are_bounded_also_within_one_batch() {
    let mut world = world(1, Options { retained_bytes_max: 100, ..Options::default() });
    let (publisher, _) = world.open("publisher", true, 0);
    // All in one batch: none of them is applied when the last is admitted.
    for number in 0..9 {
        let message = retained(&format!("t/{number}"), &"x".repeat(17));
        let token = fluxmq::model::Token(1000 + number);
        let command =
            fluxmq::model::Command::Publish { token, message: message.into(), packet_id: None };
        world.say(publisher, command);
    }
    world.run();
    let partition = world.partitions.values().next_back().expect("one");
    assert_eq!((partition.views().retained.len(), partition.views().retained.bytes()), (5, 100));
    assert_eq!(world.publish(publisher, retained("t/0", &"y".repeat(18)), None), FULL);
    assert_eq!(world.publish(publisher, retained("t/0", "y"), None), Some(Ok(true)));

    world.snapshot();
    let world = world.crash(1);
    let partition = world.partitions.values().next_back().expect("one");
    assert_eq!(partition.views().retained.bytes(), 84, "the view knows after a restart too");
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn a_group_with_too_much_out_is_handed_no_more_until_something_is_settled() {
    for partitions in [1, 4] {
        let mut world = world(partitions, Options { pending_max: 5, ..Options::default() });
        let (publisher, _) = world.open("publisher", true, 0);
        for number in numbers(0..20) {
            world.publish(publisher, message("$queue/jobs/a", number, ONCE), None);
        }
        let (first, _) = world.open("first", true, 0);
        world.subscribe(first, "$share/g/$queue/jobs/#", |_| {}).expect("joins");
        let held = world.deliveries(first);
        assert_eq!(held.iter().map(text).collect::<Vec<_>>(), numbers(0..5));

        // It is the group's limit: another member gets nothing, another group everything that it may have.
        let (second, _) = world.open("second", true, 0);
        world.subscribe(second, "$share/g/$queue/jobs/#", |_| {}).expect("joins");
        world.pass(1_000);
        assert!(world.deliveries(first).is_empty() && world.deliveries(second).is_empty());
        let (other, _) = world.open("other", true, 0);
        world.subscribe(other, "$share/others/$queue/jobs/#", |_| {}).expect("joins");
        assert_eq!(world.deliveries(other).len(), 5);
        assert_eq!(
            world.publish(publisher, message("$queue/jobs/a", "20", ONCE), None),
            Some(Ok(true))
        );

        // What waits to come again is held, too: it makes no room.
        world.settle(first, held[0].id, Outcome::ReleasedAfter { delay_ms: 5_000 });
        assert!(world.deliveries(second).is_empty());
        world.settle(first, held[1].id, Outcome::Accepted);
        world.settle(first, held[2].id, Outcome::Accepted);
        let mut came = world.deliveries(first);
        came.extend(world.deliveries(second));
        assert_eq!(came.len(), 2, "as many as were settled");

        // Nothing is lost and nothing comes twice: all that was not accepted is accepted now.
        for member in [first, second, other] {
            world.close(member, false);
        }
        let (last, _) = world.open("last", true, 0);
        world.subscribe(last, "$share/g/$queue/jobs/#", |_| {}).expect("joins");
        let mut rest = Vec::new();
        for _ in 0..10 {
            let some = world.deliveries(last);
            assert!(some.len() <= 5, "{}", some.len());
            some.iter().for_each(|it| world.settle(last, it.id, Outcome::Accepted));
            rest.extend(some.iter().map(text));
            world.pass(1_000);
        }
        rest.sort_by_key(|number| number.parse::<usize>().expect("one"));
        assert_eq!(rest, [numbers(0..1), numbers(3..21)].concat());
        let group = world.stats("jobs").groups.remove(0);
        assert_eq!((group.lag, group.pending), (0, 0));
    }
}

/// A session that is away while so many messages of a kilobyte come: several segments of them, with others between.
fn miss(world: &mut World, count: usize) -> ConnectionId {
    let (subscriber, _) = world.open("subscriber", false, 3600);
    world.subscribe(subscriber, "a/+", |_| {}).expect("subscribes");
    world.close(subscriber, false);
    let (publisher, _) = world.open("publisher", true, 0);
    for number in 0..count {
        let payload = format!("{number:01000}");
        world.publish(publisher, message("a/b", payload, ONCE), None);
        world.publish(publisher, message("noise", "", ONCE), None);
    }
    publisher
}

fn last(payloads: &[String]) -> Vec<usize> {
    payloads.iter().map(|payload| payload.parse().expect("a number")).collect()
}

#[test]
fn a_session_that_missed_too_much_gets_the_newest_and_never_the_rest() {
    for partitions in [1, 4] {
        let mut world = world(partitions, Options { backlog_max: 150, ..Options::default() });
        miss(&mut world, 200);

        // Given up when it comes back, whether it reads then or not.
        let (subscriber, opened) = world.open("subscriber", false, 3600);
        assert!(opened.session_present);
        world.close(subscriber, false);
        let (subscriber, _) = world.open("subscriber", false, 3600);

        assert_eq!(last(&world.drain(subscriber)), (50..200).collect::<Vec<_>>());
        let cut: u64 = world.partitions.values().map(|it| it.counters().backlogs_cut).sum();
        assert_eq!(cut, 1);
    }
}

#[test]
fn a_backlog_within_the_limit_is_whole() {
    let mut world = world(1, Options { backlog_max: 200, ..Options::default() });
    miss(&mut world, 200);
    let (subscriber, _) = world.open("subscriber", false, 3600);
    assert_eq!(last(&world.drain(subscriber)), (0..200).collect::<Vec<_>>());
    let partition = world.partitions.values().next_back().expect("one");
    assert_eq!(partition.counters().backlogs_cut, 0);
}

#[test]
fn bytes_that_are_too_many_are_given_up_from_the_oldest_on() {
    for partitions in [1, 4] {
        // A hundred and fifty messages of a kilobyte, with the three bytes of their topic.
        let options = Options { backlog_bytes_max: 150 * 1_003 + 1_002, ..Options::default() };
        let mut world = world(partitions, options);
        miss(&mut world, 200);

        let (subscriber, _) = world.open("subscriber", false, 3600);

        assert_eq!(last(&world.drain(subscriber)), (50..200).collect::<Vec<_>>());
        let cut: u64 = world.partitions.values().map(|it| it.counters().backlogs_cut).sum();
        assert_eq!(cut, 1);
        world.close(subscriber, false);
        let (subscriber, _) = world.open("subscriber", false, 3600);
        assert!(world.drain(subscriber).is_empty(), "nothing came meanwhile");
    }
}

#[test]
fn a_backlog_of_exactly_the_bytes_is_whole_and_one_message_above_them_all_is_given_up() {
    for (bytes, first) in [(200 * 1_003, 0), (200 * 1_003 - 1, 1), (1_003, 199), (1_002, 200)] {
        let mut world = world(1, Options { backlog_bytes_max: bytes, ..Options::default() });
        miss(&mut world, 200);
        let (subscriber, _) = world.open("subscriber", false, 3600);
        assert_eq!(last(&world.drain(subscriber)), (first..200).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_older_than_a_session_may_miss_is_given_up() {
    let mut world = world(1, Options { backlog_age_max_ms: 60_000, ..Options::default() });
    let publisher = miss(&mut world, 10);
    world.pass(50_000);
    world.publish(publisher, message("a/b", "10", ONCE), None);
    world.pass(20_000);

    let (subscriber, _) = world.open("subscriber", false, 3600);

    assert_eq!(last(&world.drain(subscriber)), [10]);
}

#[test]
fn short_memory_refuses_publishes_and_goes_on_serving_and_settling() {
    for data_partitions in [1, 4] {
        let mut world = world(data_partitions, Options::default());
        let (publisher, _) = world.open("publisher", true, 0);
        let kept = |text: &str| message("$queue/q/x", text, ONCE);
        assert_eq!(world.publish(publisher, kept("before"), None), Some(Ok(true)));
        let full = |world: &mut World, full| {
            world.partitions.values_mut().for_each(|partition| partition.set_memory_full(full));
        };

        full(&mut world, true);
        let refused = Some(Err(Refusal::MemoryFull));
        assert_eq!(world.publish(publisher, kept("refused"), None), refused);
        assert_eq!(world.publish(publisher, message("a", "refused", ONCE), None), refused);
        let (consumer, _) = world.open("consumer", true, 0);
        world.subscribe(consumer, "$queue/q/#", |_| {}).expect("joins");
        assert_eq!(world.drain(consumer), ["before"]);

        full(&mut world, false);
        assert_eq!(world.publish(publisher, kept("after"), None), Some(Ok(true)));
        assert_eq!(world.drain(consumer), ["after"]);
        assert_eq!(world.stored("a"), Vec::<String>::new());
    }
}
