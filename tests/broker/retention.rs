//! History that is over goes, and nothing goes that somebody will ask for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fluxmq::model::command::Subscribe;
use fluxmq::model::queue::{QueueKind, QueueLimits};
use fluxmq::model::{
    Command, Delivery, Filter, Message, Outcome, PartitionId, Properties, Property, QoS, QueueName,
    QueueSettings, Token,
};
use fluxmq::partition::request::ConnectionId;
use fluxmq::partition::{Moves, Options, TopicAges};
use fluxmq_index::Offset;
use fluxmq_log::sim_disk::SimDisk;

use crate::world::{World, message, text};

const ONCE: QoS = QoS::AtLeastOnce;
const FOREVER: u32 = u32::MAX;
const P1: PartitionId = PartitionId(1);

/// Segments of the world have 64 KiB: this is four of them.
const BYTES_MAX: u64 = 256 << 10;

fn by_bytes() -> Options {
    Options { history_bytes_max: BYTES_MAX, snapshot_every_bytes: 50_000, ..Options::default() }
}

fn world(options: Options) -> World {
    World::with(SimDisk::new(7), 1, options).expect("starts")
}

fn retained(topic: &str, payload: &str) -> Message {
    Message { retain: true, ..message(topic, payload, ONCE) }
}

/// Publishes messages of 600 bytes, a tick after every few.
fn fill(world: &mut World, by: ConnectionId, topic: &str, range: std::ops::Range<usize>) {
    for number in range {
        let payload = format!("{number}{}", ".".repeat(600));
        assert_eq!(world.publish(by, message(topic, payload, ONCE), None), Some(Ok(true)));
        if number % 16 == 15 {
            world.pass(100);
        }
    }
    settle_down(world);
}

/// Time for everything that history waits for.
fn settle_down(world: &mut World) {
    (0..300).for_each(|_| world.pass(100));
}

fn start(world: &World) -> u64 {
    world.partitions[&P1].views().horizon.start().0
}

fn first(world: &World) -> u64 {
    world.partitions[&P1].log().first_offset().0
}

fn said(delivery: &Delivery, name: &str) -> Option<String> {
    delivery.annotation(name)
}

fn read_retained(world: &mut World, filter: &str) -> Vec<String> {
    let (reader, _) = world.open("looks", true, 0);
    world.subscribe(reader, filter, |_| {}).expect("subscribes");
    let found = world.drain(reader);
    world.close(reader, false);
    found
}

/// Takes what a group of a queue is given, without settling: message ids and payloads.
fn given(world: &mut World, queue: &str, group: &str) -> Vec<(String, String)> {
    let (member, _) = world.open(group, true, 0);
    world.subscribe(member, &format!("$queue/{queue}/#"), |_| {}).expect("joins");
    let given = world.deliveries(member);
    let given = given.iter().map(|it| (said(it, "message-id").expect("an id"), text(it)));
    let given = given.collect();
    world.close(member, false);
    given
}

/// Takes all that a queue has, and returns the numbers its payloads begin with.
fn drained(world: &mut World, queue: &str) -> Vec<usize> {
    let (member, _) = world.open("workers", true, 0);
    world.subscribe(member, &format!("$queue/{queue}/#"), |it| it.qos = ONCE).expect("joins");
    let taken = world.drain(member);
    world.close(member, false);
    taken.iter().map(|it| it.trim_end_matches('.').parse().expect("a number")).collect()
}

fn settle(world: &mut World, by: ConnectionId, queue: &str, group: &str, entry: u64) {
    let name = |text: &str| QueueName::from_text(text.to_owned().into()).unwrap();
    world.command(
        by,
        Command::SettleEntry {
            token: Token(9_000 + entry),
            queue: name(queue),
            group: name(group),
            offset: entry,
            outcome: Outcome::Accepted,
        },
    );
}

#[test]
fn what_is_too_much_goes_and_what_is_needed_stays_through_a_crash() {
    let mut world = world(by_bytes());
    let (publisher, _) = world.open("publisher", true, 0);
    for topic in ["state/1", "state/2", "state/3"] {
        world.publish(publisher, retained(topic, topic), None);
    }
    world.publish(publisher, message("$queue/jobs/a", "job", ONCE), None);
    fill(&mut world, publisher, "a", 0..2_000);
    world.publish(publisher, retained("state/2", "new"), None);
    world.publish(publisher, retained("state/3", ""), None);
    fill(&mut world, publisher, "a", 2_000..3_000);

    let (start, first) = (start(&world), first(&world));
    assert!(start > 2_400, "history begins at {start}");
    assert!(first > 1_600 && first <= start, "the log begins at {first}, history at {start}");
    assert!(world.log_bytes() < 2 * BYTES_MAX, "{} bytes", world.log_bytes());

    for seed in [1, 2] {
        let mut found = read_retained(&mut world, "state/#");
        found.sort();
        assert_eq!(found, ["new", "state/1"], "before restart {seed}");
        assert_eq!(given(&mut world, "jobs", "workers"), [("jobs:0".into(), "job".into())]);
        world.restart(seed);
        settle_down(&mut world);
        assert!(self::start(&world) >= start && self::first(&world) >= first);
    }
}

#[test]
fn what_is_too_old_goes_within_a_thousandth_of_its_age() {
    let hour = 3_600_000;
    let options = Options { history_age_max_ms: hour, ..by_bytes() };
    let mut world = world(Options { history_bytes_max: 0, ..options });
    let (publisher, _) = world.open("publisher", true, 0);
    for number in 0..100 {
        world.publish(publisher, message("a", number.to_string(), ONCE), None);
        world.pass(60_000);
    }

    let oldest = |world: &mut World| {
        let (reader, _) = world.open("reader", true, 0);
        world.subscribe(reader, "$replay/earliest/a", |it| it.qos = ONCE).expect("replays");
        let oldest = world.drain(reader)[0].parse::<u64>().unwrap();
        world.close(reader, false);
        oldest
    };
    // Published an hour ago, or up to four seconds before that.
    let found = oldest(&mut world);
    assert!((39..=40).contains(&found), "{found}");

    // With nothing new, too.
    (0..30).for_each(|_| world.pass(60_000));
    let found = oldest(&mut world);
    assert!((69..=70).contains(&found), "{found}");
}

/// Nobody reads them any more, however history is asked; what others keep of them is theirs.
#[test]
fn topics_of_a_short_life_are_over_before_others() {
    let hour = 3_600_000;
    let filter = |text: &str| Filter::new(text.to_owned().into()).unwrap();
    let ages = vec![(filter("debug/#"), hour), (filter("debug/+/long"), 9 * hour)];
    let mut world = world(Options { topic_ages: TopicAges::new(ages), ..Options::default() });
    let (away, _) = world.open("away", false, FOREVER);
    world.subscribe(away, "#", |it| it.qos = ONCE).expect("subscribes");
    let (shared, _) = world.open("shared", false, FOREVER);
    world.subscribe(shared, "$share/g/#", |it| it.qos = ONCE).expect("joins");
    [away, shared].into_iter().for_each(|session| world.close(session, false));
    let (publisher, _) = world.open("publisher", true, 0);
    let settings = QueueSettings { bindings: vec![filter("debug/#")], ..QueueSettings::default() };
    world.declare("kept", settings);
    let publish = |world: &mut World, round: &str| {
        for topic in ["debug/a", "debug/a/long", "audit/a"] {
            let text = format!("{topic} {round}");
            world.publish(publisher, message(topic, &*text, ONCE), None);
        }
    };
    publish(&mut world, "old");
    world.publish(publisher, retained("debug/state", "kept"), None);
    world.pass(2 * hour);
    publish(&mut world, "new");

    let left = ["audit/a old", "debug/a new", "debug/a/long new", "audit/a new"];
    let replayed = |world: &mut World, position: &'static str| {
        let (reader, _) = world.open("reader", true, 0);
        let history = |it: &mut Subscribe| it.position = Some(position.into());
        world.subscribe(reader, "#", history).expect("reads");
        let found = world.drain(reader);
        world.close(reader, false);
        found
    };
    assert_eq!(replayed(&mut world, "earliest"), left);
    assert_eq!(replayed(&mut world, "last=4"), left);
    let (away, _) = world.open("away", false, FOREVER);
    assert_eq!(world.drain(away), left, "a session that was away");
    let (shared, _) = world.open("shared", false, FOREVER);
    assert_eq!(world.drain(shared), left, "a shared subscription that was away");
    let again = QueueSettings {
        bindings: vec![filter("#")],
        retroactive: true,
        ..QueueSettings::default()
    };
    world.declare("again", again);
    world.pass(1_000);
    let read = |world: &mut World, queue: &str| {
        let (member, _) = world.open("reads", true, 0);
        world.subscribe(member, &format!("$queue/{queue}/#"), |it| it.qos = ONCE).expect("joins");
        let read = world.drain(member);
        world.close(member, false);
        read
    };
    assert_eq!(read(&mut world, "again"), left, "a queue that takes history over");
    let kept = ["debug/a old", "debug/a/long old", "kept", "debug/a new", "debug/a/long new"];
    assert_eq!(read(&mut world, "kept"), kept, "a queue keeps by its own rules");
    assert_eq!(read_retained(&mut world, "debug/#"), ["kept"]);
}

#[test]
fn a_partition_that_nobody_uses_is_quiet_however_old_its_history_gets() {
    let options = Options { history_age_max_ms: 60_000, ..by_bytes() };
    let mut world = world(options);
    let (publisher, _) = world.open("publisher", true, 0);
    for number in 0..20 {
        world.publish(publisher, message("a", number.to_string(), ONCE), None);
        world.pass(1_000);
    }
    // Who leads waits by ticks, too, for queues that follow.
    (0..100).for_each(|_| world.pass(1_000));
    let end = |world: &World| world.partitions[&P1].applied().end;
    let quiet = end(&world);
    assert_eq!(start(&world), 20, "the messages are gone");

    (0..600).for_each(|_| world.pass(1_000));

    assert_eq!(end(&world), quiet);
}

#[test]
fn a_replay_of_what_is_gone_says_how_much_and_a_session_that_missed_it_is_counted() {
    let mut world = world(by_bytes());
    let (publisher, _) = world.open("publisher", true, 0);
    let (away, _) = world.open("away", false, FOREVER);
    world.subscribe(away, "a", |it| it.qos = ONCE).expect("subscribes");
    fill(&mut world, publisher, "a", 0..10);
    assert_eq!(world.drain(away).len(), 10);
    world.close(away, false);
    fill(&mut world, publisher, "a", 10..2_000);
    let start = start(&world);
    assert!(start > 1_000);

    let (reader, _) = world.open("reader", true, 0);
    world.subscribe(reader, "$replay/offset=3/a", |it| it.qos = ONCE).expect("replays");
    let deliveries = world.deliveries(reader);
    assert_eq!(deliveries[0].id.offset.0, start);
    assert_eq!(said(&deliveries[0], "x-gap"), Some((start - 3).to_string()));

    let (away, _) = world.open("away", false, FOREVER);
    let missed = world.drain(away);
    let newest = missed.last().expect("what is kept").trim_end_matches('.').to_owned();
    assert_eq!(newest, "1999");
    assert!((1_000..1_990).contains(&(2_000 - missed.len())), "{} kept", missed.len());
    let gauges = world.partitions[&P1].gauges();
    assert_eq!((gauges.histories_cut, gauges.backlogs_cut), (1, 0));
    assert!(gauges.history_records_gone == start && gauges.history_bytes_dropped > 0);
}

/// Storing all of it again would make as much as goes, for ever (seed 1795315066015).
#[test]
fn a_backlog_that_is_longer_than_history_stays_where_it_is() {
    let mut world = world(by_bytes());
    let (publisher, _) = world.open("publisher", true, 0);
    fill(&mut world, publisher, "$queue/jobs/a", 0..1_000);

    let end = world.partitions[&P1].log().last().end;
    settle_down(&mut world);

    assert_eq!(world.partitions[&P1].log().last().end, end, "nothing is written");
    assert_eq!(world.partitions[&P1].views().queues.moved_run_count(), 0);
    let (member, _) = world.open("workers", true, 0);
    world.subscribe(member, "$queue/jobs/#", |it| it.qos = ONCE).expect("joins");
    assert_eq!(world.drain(member).len(), 1_000);
    settle_down(&mut world);
    fill(&mut world, publisher, "a", 0..1_000);
    assert!(start(&world) > 1_000, "history goes on: {}", start(&world));
}

/// One slow queue keeps its own bytes and not everybody's, however much it has, and so it is when its entries are old again.
#[test]
fn a_long_backlog_goes_on_once_what_is_around_it_is_more() {
    let moves = Moves { records_per_step: 100, ..Moves::default() };
    let mut world = world(Options { moves, ..by_bytes() });
    let (publisher, _) = world.open("publisher", true, 0);
    fill(&mut world, publisher, "$queue/jobs/a", 0..1_000);
    let backlog = world.partitions[&P1].applied().end.0;
    let others = |world: &mut World, publisher| {
        let bytes = |world: &World| -> u64 {
            world.partitions[&P1].log().segments().iter().map(|it| it.end_bytes).sum()
        };
        for round in 0..8 {
            fill(world, publisher, "a", 0..500);
            assert!(bytes(world) < 3 << 20, "round {round}: {} bytes", bytes(world));
        }
    };
    others(&mut world, publisher);

    assert!(start(&world) > backlog, "history begins at {}", start(&world));
    let stats = world.stats("jobs");
    assert_eq!((stats.head.0, stats.end.0), (0, 1_000));
    let places = |world: &World| {
        let queues = &world.partitions[&P1].views().queues;
        let (_, queue) = queues.iter().next().expect("one queue");
        let places: Vec<Offset> = queue.moved_from(queue.head()).map(|(_, at)| at).collect();
        assert_eq!(places.len(), 1_000);
        (places, queues.moved_run_count())
    };
    let (first, runs) = places(&world);
    assert!(runs <= 100, "{runs} runs for 1,000 entries");
    others(&mut world, publisher);
    let (second, _) = places(&world);
    assert!(first.iter().zip(&second).all(|(first, second)| first < second), "moved again");

    world.restart(3);
    assert_eq!(drained(&mut world, "jobs"), (0..1_000).collect::<Vec<usize>>());
    // What everybody is done with is history, wherever it is.
    let (publisher, _) = world.open("publisher", true, 0);
    others(&mut world, publisher);
    let stats = world.stats("jobs");
    assert_eq!((stats.head.0, stats.end.0), (1_000, 1_000));
    assert_eq!(world.partitions[&P1].views().queues.moved_run_count(), 0);
}

/// Many queues with a backlog each are found in the order of the log, none before the others.
#[test]
fn the_backlogs_of_many_queues_go_on_together() {
    let moves = Moves { records_per_step: 64, ..Moves::default() };
    let mut world = world(Options { moves, ..by_bytes() });
    let (publisher, _) = world.open("publisher", true, 0);
    for round in 0..40 {
        for queue in 0..12 {
            let payload = format!("{round}{}", ".".repeat(600));
            world.publish(publisher, message(&format!("$queue/q{queue}/a"), payload, ONCE), None);
        }
        world.pass(100);
    }
    let backlog = world.partitions[&P1].applied().end.0;
    (0..6).for_each(|_| fill(&mut world, publisher, "a", 0..500));

    assert!(start(&world) > backlog, "history begins at {}", start(&world));
    for queue in 0..12 {
        let found = drained(&mut world, &format!("q{queue}"));
        assert_eq!(found, (0..40).collect::<Vec<usize>>(), "q{queue}");
    }
}

/// Places that would be too many to remember: history waits for them, and nothing is lost.
#[test]
fn entries_that_are_too_many_to_be_moved_keep_their_segments() {
    let moves = Moves { runs_max: 3, records_per_step: 2 };
    let mut world = world(Options { moves, ..by_bytes() });
    let (publisher, _) = world.open("publisher", true, 0);
    for number in 0..1_600 {
        let queue = format!("$queue/q{}/a", number / 200);
        let topic = if number % 200 == 0 { &queue } else { "a" };
        let payload = format!("{number}{}", ".".repeat(600));
        world.publish(publisher, message(topic, payload, ONCE), None);
        if number % 16 == 15 {
            world.pass(100);
        }
    }
    (0..3).for_each(|_| fill(&mut world, publisher, "a", 0..500));

    let moved = world.partitions[&P1].views().queues.moved_run_count();
    assert!((3..=4).contains(&moved), "{moved} runs");
    assert!(start(&world) < 1_200, "history begins at {}", start(&world));
    for queue in 0..8 {
        assert_eq!(drained(&mut world, &format!("q{queue}")), [queue * 200]);
    }
}

/// What was out and is gone does not count against what may be out: it would for ever, as nobody acknowledges it (seed 1795311716861).
#[test]
fn a_session_whose_unacknowledged_messages_are_gone_is_given_all_that_is_not() {
    let mut world = world(by_bytes());
    let (publisher, _) = world.open("publisher", true, 0);
    let (away, _) = world.open("away", false, FOREVER);
    world.subscribe(away, "a", |it| it.qos = ONCE).expect("subscribes");
    fill(&mut world, publisher, "a", 0..300);
    let out = world.deliveries(away);
    assert!(out.len() > 4, "{} are out", out.len());
    let entries = out.iter().zip(1..).map(|(delivery, packet_id)| (packet_id, delivery.id));
    world.command(away, Command::Assign { token: None, entries: entries.collect() });
    world.pass(10_000);
    world.close(away, false);
    fill(&mut world, publisher, "a", 300..2_000);

    let (away, opened) = world.open("away", false, FOREVER);
    assert_eq!(opened.outbound, [], "the records are gone");
    let came = world.drain(away);
    assert_eq!(came.last().map(|it| it.trim_end_matches('.')), Some("1999"));
}

#[test]
fn entries_of_queues_stay_where_they_are_until_every_group_has_finished_them() {
    let mut world = world(by_bytes());
    let (publisher, _) = world.open("publisher", true, 0);
    let (first, _) = world.open("first", true, 0);
    let (second, _) = world.open("second", true, 0);
    for member in [first, second] {
        world.subscribe(member, "$queue/jobs/#", |_| {}).expect("joins");
    }
    // One group finishes all, the other leaves three of them, far from one another.
    let kept = [3, 150, 1_111];
    for number in 0..2_000 {
        let payload = format!("{number}{}", ".".repeat(600));
        world.publish(publisher, message("$queue/jobs/a", payload, ONCE), None);
        for member in [first, second] {
            for delivery in world.deliveries(member) {
                let entry = said(&delivery, "offset").unwrap().parse::<u64>().unwrap();
                if member == first || !kept.contains(&entry) {
                    world.settle(member, delivery.id, Outcome::Accepted);
                }
            }
        }
        if number % 16 == 15 {
            world.pass(100);
        }
    }
    let end = world.partitions[&P1].applied().end.0;
    fill(&mut world, publisher, "a", 0..1_000);

    let start = start(&world);
    assert!(start > end, "history begins at {start}, the entries end at {end}");
    let stats = world.stats("jobs");
    assert_eq!((stats.head.0, stats.end.0), (3, 2_000));
    let (_, queue) = world.partitions[&P1].views().queues.iter().next().expect("one queue");
    let moved: Vec<u64> = queue.moved_from(queue.head()).map(|(entry, _)| entry.0).collect();
    assert_eq!(moved, kept);

    for seed in [3, 4] {
        let given: Vec<String> =
            given(&mut world, "jobs", "second").into_iter().map(|(id, _)| id).collect();
        assert_eq!(given, kept.map(|entry| format!("jobs:{entry}")), "before restart {seed}");
        world.restart(seed);
        settle_down(&mut world);
    }
    // The second of them is finished: the others are still there, and go on as history does.
    let (second, _) = world.open("second", true, 0);
    world.subscribe(second, "$queue/jobs/#", |_| {}).expect("joins");
    settle(&mut world, second, "jobs", "second", 150);
    let (publisher, _) = world.open("publisher", true, 0);
    fill(&mut world, publisher, "a", 0..1_500);
    assert!(self::start(&world) > start + 1_000);
    world.close(second, false);
    let given = given(&mut world, "jobs", "second");
    let payload = |entry: u64| format!("{entry}{}", ".".repeat(600));
    assert_eq!(given, [3, 1_111].map(|entry| (format!("jobs:{entry}"), payload(entry))));
}

#[test]
fn a_stream_keeps_what_its_own_rules_keep() {
    let mut world = world(by_bytes());
    let stream = |limits: QueueLimits| QueueSettings {
        kind: QueueKind::Stream,
        limits,
        ..QueueSettings::default()
    };
    world.declare("all", stream(QueueLimits::default()));
    let five = QueueLimits { messages_max: Some(5), ..QueueLimits::default() };
    world.declare("some", stream(five));
    let (publisher, _) = world.open("publisher", true, 0);
    for number in 0..20 {
        for queue in ["all", "some"] {
            let topic = format!("$queue/{queue}/a");
            world.publish(publisher, message(&topic, number.to_string(), ONCE), None);
        }
    }
    fill(&mut world, publisher, "a", 0..2_000);

    assert!(start(&world) > 1_000);
    let payloads = |given: Vec<(String, String)>| {
        given.into_iter().map(|(_, payload)| payload).collect::<Vec<String>>()
    };
    let numbers =
        |range: std::ops::Range<usize>| range.map(|it| it.to_string()).collect::<Vec<_>>();
    for seed in [5, 6] {
        assert_eq!(payloads(given(&mut world, "all", "one")), numbers(0..20));
        assert_eq!(payloads(given(&mut world, "some", "one")), numbers(15..20));
        world.restart(seed);
    }
}

#[test]
fn a_time_before_history_is_the_oldest_entry_of_a_queue() {
    let mut world = world(by_bytes());
    let (publisher, _) = world.open("publisher", true, 0);
    world.publish(publisher, message("$queue/jobs/a", "old", ONCE), None);
    fill(&mut world, publisher, "a", 0..2_000);
    world.publish(publisher, message("$queue/jobs/a", "new", ONCE), None);
    assert!(start(&world) > 1_000);

    let (member, _) = world.open("workers", true, 0);
    let early = |it: &mut Subscribe| it.position = Some("timestamp=1".into());
    world.subscribe(member, "$queue/jobs/#", early).expect("joins");

    assert_eq!(world.drain(member), ["old", "new"]);
}

#[test]
fn what_was_moved_comes_by_its_priority_too() {
    let mut world = world(by_bytes());
    let settings = QueueSettings { priority_max: 9, deliveries_max: 0, ..QueueSettings::default() };
    world.declare("jobs", settings);
    let (publisher, _) = world.open("publisher", true, 0);
    let publish = |world: &mut World, priority: &'static str| {
        let said = Property::User("x-priority".into(), priority.into());
        let properties = Properties::encode(&[said]);
        let message = Message { properties, ..message("$queue/jobs", priority, ONCE) };
        assert_eq!(world.publish(publisher, message, None), Some(Ok(true)));
    };
    let given = |world: &mut World| {
        given(world, "jobs", "workers").into_iter().map(|it| it.1).collect::<Vec<String>>()
    };
    ["1", "9", "5"].iter().for_each(|priority| publish(&mut world, priority));
    assert_eq!(given(&mut world), ["9", "5", "1"], "before they are moved");
    fill(&mut world, publisher, "a", 0..2_000);
    assert!(start(&world) > 1_000);

    publish(&mut world, "7");
    for seed in [8, 9] {
        assert_eq!(given(&mut world), ["9", "7", "5", "1"], "before restart {seed}");
        world.restart(seed);
        settle_down(&mut world);
    }
}

/// Every settling comes while what is said before it is on its way to the disk: the record by which its entry moves, too.
#[test]
fn what_is_settled_while_it_moves_comes_no_more() {
    let mut world = world(by_bytes());
    let settings = QueueSettings { priority_max: 9, deliveries_max: 0, ..QueueSettings::default() };
    world.declare("jobs", settings);
    let (publisher, _) = world.open("publisher", true, 0);
    for number in 0..60 {
        let message = message("$queue/jobs", format!("job {number}"), ONCE);
        assert_eq!(world.publish(publisher, message, None), Some(Ok(true)));
    }
    settle_down(&mut world);
    let (member, _) = world.open("workers", true, 0);
    world.subscribe(member, "$queue/jobs/#", |_| {}).expect("joins");

    let (mut open, mut given) = (VecDeque::new(), Vec::new());
    for number in 0..2_000 {
        let payload = format!("{number}{}", ".".repeat(600));
        assert_eq!(world.publish(publisher, message("a", payload, ONCE), None), Some(Ok(true)));
        for delivery in world.deliveries(member) {
            given.push(text(&delivery));
            open.push_back(delivery.id);
        }
        if number % 32 == 31 {
            world.stalled = Some(P1);
            world.pass(100);
            if let Some(delivery) = open.pop_front() {
                world.say(member, Command::Settle { delivery, outcome: Outcome::Accepted });
                world.run();
            }
            world.stalled = None;
            world.run();
        }
    }

    assert!(start(&world) > 1_000, "history has ended, and what was open was moved");
    let all: BTreeSet<&String> = given.iter().collect();
    assert_eq!(given.len(), all.len(), "handed out again: {given:?}");
}

/// Publishes, retains, queues and settles at random, with crashes; then asks for everything that must be there.
fn anything(seed: u64) -> Result<(), String> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = move |count: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % count
    };
    let mut world = world(by_bytes());
    let mut kept: BTreeMap<String, String> = BTreeMap::new();
    let mut open: BTreeMap<u64, String> = BTreeMap::new();
    let mut next = 0;
    for round in 0..12u64 {
        let (publisher, _) = world.open("publisher", true, 0);
        let (member, _) = world.open("workers", true, 0);
        world.subscribe(member, "$queue/jobs/#", |_| {}).expect("joins");
        for number in 0..150u64 {
            let payload = format!("{round}-{number}{}", ".".repeat(below(900) as usize));
            match below(8) {
                0 => {
                    let topic = format!("state/{}", below(40));
                    kept.insert(topic.clone(), payload.clone());
                    world.publish(publisher, retained(&topic, &payload), None);
                }
                1 | 2 => {
                    open.insert(next, payload.clone());
                    next += 1;
                    world.publish(publisher, message("$queue/jobs/a", payload, ONCE), None);
                }
                _ => drop(world.publish(publisher, message("a", payload, ONCE), None)),
            }
            for delivery in world.deliveries(member) {
                let entry = said(&delivery, "offset").unwrap().parse::<u64>().unwrap();
                if below(12) > 0 {
                    world.settle(member, delivery.id, Outcome::Accepted);
                    open.remove(&entry);
                }
            }
            if number % 8 == 7 {
                world.pass(100);
            }
        }
        settle_down(&mut world);
        if below(2) == 0 {
            world.restart(seed + round);
        } else {
            world.close(member, false);
            world.close(publisher, false);
        }
    }
    settle_down(&mut world);
    let mut found = read_retained(&mut world, "state/#");
    let mut expected: Vec<String> = kept.into_values().collect();
    found.sort();
    expected.sort();
    if found != expected {
        return Err(format!("{} retained messages of {}", found.len(), expected.len()));
    }
    let (member, _) = world.open("workers", true, 0);
    world.subscribe(member, "$queue/jobs/#", |_| {}).expect("joins");
    let found = world.drain(member);
    let expected: Vec<String> = open.into_values().collect();
    if found != expected {
        return Err(format!("{} entries of {}", found.len(), expected.len()));
    }
    match start(&world) {
        0..500 => Err(format!("history begins at {}", start(&world))),
        _ => Ok(()),
    }
}

#[test]
fn nothing_that_is_needed_goes_whatever_happens() {
    for seed in 1..=4 {
        assert_eq!(anything(seed), Ok(()), "seed {seed}");
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_retention_that_takes_too_much_is_caught() {
    use fluxmq::planted::{PlantedBug, plant};

    for bug in [PlantedBug::NeedsUnheeded, PlantedBug::MovedUnseen] {
        plant(Some(bug));
        let caught = (1..=4).find_map(|seed| anything(seed).err());
        plant(None);
        assert!(caught.is_some(), "{}", bug.words());
    }
}
