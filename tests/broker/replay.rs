//! Replays: history first, then what is published, every record once, whatever else the client subscribes to and whatever happens to
//! the broker meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq::model::{
    Command, Delivery, DeliverySource, Effect, Filter, Message, Millis, Outcome, QoS, Refusal,
    RetainHandling, Token,
};
use fluxmq::partition::Options;
use fluxmq::partition::request::ConnectionId;
use fluxmq_index::topic_trie;
use fluxmq_log::sim_disk::SimDisk;

use crate::wire::Dice;
use crate::world::{World, message, text, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;
const EXACTLY: QoS = QoS::ExactlyOnce;
const FOREVER: u32 = u32::MAX;

/// Publishes numbers to topics in turn, a millisecond apart.
fn publish_numbers(world: &mut World, topics: &[&str], range: std::ops::Range<usize>) {
    let (publisher, _) = world.open("publisher", true, 0);
    for number in range {
        let topic = topics[number % topics.len()];
        world.now = world.now.plus(1);
        let confirmed = world.publish(publisher, message(topic, number.to_string(), ONCE), None);
        assert_eq!(confirmed, Some(Ok(true)));
    }
    world.close(publisher, false);
}

fn replay(
    world: &mut World,
    id: ConnectionId,
    filter: &str,
    from: &str,
    qos: QoS,
) -> Result<QoS, Refusal> {
    world.subscribe(id, filter, |subscribe| {
        subscribe.position = Some(Bytes::from(from.to_owned()));
        subscribe.qos = qos;
    })
}

/// Takes deliveries, settling each, until no more come.
fn drain(world: &mut World, id: ConnectionId) -> Vec<Delivery> {
    let mut all = Vec::new();
    loop {
        let deliveries = world.deliveries(id);
        if deliveries.is_empty() {
            return all;
        }
        for delivery in &deliveries {
            let outcome = Outcome::Accepted;
            world.say(id, Command::Settle { delivery: delivery.id, outcome });
        }
        all.extend(deliveries);
        world.run();
    }
}

fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(text).collect()
}

fn sorted(deliveries: &[Delivery]) -> Vec<usize> {
    let mut numbers: Vec<usize> =
        deliveries.iter().map(|it| text(it).parse().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

/// How many are out: some, and no more than there is credit for.
fn in_window(out: &[Delivery]) -> usize {
    assert!((1..=128).contains(&out.len()), "{} are out", out.len());
    out.len()
}

/// Every delivery says where it is, and offsets grow within each partition.
fn assert_in_order(deliveries: &[Delivery]) {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for delivery in deliveries {
        let partition = delivery.annotation("x-stream-partition").expect("says its partition");
        let offset = delivery.annotation("x-stream-offset").expect("says its offset");
        let offset: u64 = offset.parse().expect("a number");
        assert!(delivery.annotation("x-stream-timestamp").is_some());
        assert_eq!(offset, delivery.id.offset.0);
        let before = last.insert(partition, offset);
        assert!(before.is_none_or(|before| before < offset), "{before:?} before {offset}");
    }
}

#[test]
fn history_comes_first_and_then_what_is_published_at_any_qos() {
    for qos in [QoS::AtMostOnce, ONCE, EXACTLY] {
        with_one_and_four(|mut world| {
            publish_numbers(&mut world, &["a/b", "a/c", "a/d", "b"], 0..1200);
            let (reader, _) = world.open("reader", true, 0);

            let granted = replay(&mut world, reader, "a/#", "earliest", qos);
            let history = drain(&mut world, reader);
            publish_numbers(&mut world, &["a/b", "a/c", "a/d", "b"], 1200..1300);
            let tail = drain(&mut world, reader);

            assert_eq!(granted, Ok(qos));
            let expected = |range: std::ops::Range<usize>| -> Vec<usize> {
                range.filter(|number| number % 4 != 3).collect()
            };
            assert_eq!(sorted(&history), expected(0..1200));
            assert_eq!(sorted(&tail), expected(1200..1300));
            let all: Vec<Delivery> = history.into_iter().chain(tail).collect();
            assert_in_order(&all);
            assert!(all.iter().all(|delivery| delivery.qos == qos.min(ONCE)));
        });
    }
}

#[test]
fn what_is_published_while_history_is_read_comes_once_and_after_it() {
    with_one_and_four(|mut world| {
        publish_numbers(&mut world, &["a/b", "a/c"], 0..600);
        let (reader, _) = world.open("reader", true, 0);
        replay(&mut world, reader, "a/+", "earliest", ONCE).expect("replays");

        // Its window is full: nothing of this can be handed out yet.
        publish_numbers(&mut world, &["a/b", "a/c"], 600..700);
        let got = drain(&mut world, reader);

        assert_eq!(sorted(&got), (0..700).collect::<Vec<_>>());
        assert_in_order(&got);
    });
}

/// What was published, in its order.
struct Published {
    topic: String,
    payload: String,
    time: Millis,
}

/// The oracle: a full scan of what was published.
fn scan<'a>(all: &'a [Published], filter: &str) -> Vec<&'a Published> {
    let matches = |it: &&Published| topic_trie::matches(filter.as_bytes(), it.topic.as_bytes());
    all.iter().filter(matches).collect()
}

#[test]
fn a_replay_is_what_a_full_scan_finds_across_segments_and_crashes() {
    const TOPICS: [&str; 9] = ["a", "a/b", "a/b/c", "a/c", "b", "b/b", "$s/a", "/", "a//c"];
    const FILTERS: [&str; 9] = ["#", "a/#", "+/b", "a/b", "+", "$s/#", "a/+/c", "/+", "+/+"];
    for seed in 0..12 {
        let mut dice = Dice::new(seed);
        let mut world = World::new([1, 4][seed as usize % 2]);
        let mut all = Vec::new();
        for round in 0..3 {
            let (publisher, _) = world.open("publisher", true, 0);
            for _ in 0..100 + dice.roll(200) {
                world.now = world.now.plus(1);
                let topic = TOPICS[dice.roll(TOPICS.len())].to_owned();
                // Long enough for segments to roll.
                let payload = format!("{}{}", all.len(), ".".repeat(dice.roll(600)));
                let qos = [ONCE, EXACTLY][dice.roll(2)];
                let packet_id = (qos == EXACTLY).then_some(1);
                let published = message(&topic, payload.clone(), qos);
                assert_eq!(world.publish(publisher, published, packet_id), Some(Ok(true)));
                all.push(Published { topic, payload, time: world.now });
            }
            if dice.roll(2) == 0 {
                world.snapshot();
            }
            world = world.crash(seed * 10 + round);
        }
        let (reader, _) = world.open("reader", true, 0);
        for filter in FILTERS {
            let found = scan(&all, filter);
            let count = dice.roll(found.len().max(1) * 2);
            let time = all[dice.roll(all.len())].time;
            let positions = [
                ("earliest".to_owned(), found.len()),
                (format!("last={count}"), count.min(found.len())),
                (
                    format!("timestamp={}", time.0),
                    found.iter().filter(|it| it.time >= time).count(),
                ),
            ];
            for (from, expected) in positions {
                replay(&mut world, reader, filter, &from, ONCE).expect("replays");
                let got = drain(&mut world, reader);

                let mut expected: Vec<&str> =
                    found[found.len() - expected..].iter().map(|it| &*it.payload).collect();
                let got_payloads = payloads(&got);
                let mut sorted: Vec<&str> = got_payloads.iter().map(|it| &**it).collect();
                expected.sort_unstable();
                sorted.sort_unstable();
                assert_eq!(sorted, expected, "seed {seed}: {filter} from {from}");
                assert_in_order(&got);
            }
        }
    }
}

#[test]
fn replays_stand_beside_each_other_and_beside_a_plain_subscription() {
    with_one_and_four(|mut world| {
        publish_numbers(&mut world, &["a/b", "a/c"], 0..300);
        let (reader, _) = world.open("reader", true, 0);
        let filters =
            [("a/#", 1), ("$replay/earliest/a/#", 2), ("$replay/last=5/a/+", 3), ("a/b", 4)];
        for (filter, id) in filters {
            let subscribed = world.subscribe(reader, filter, |subscribe| {
                subscribe.subscription_id = id;
                subscribe.qos = ONCE;
            });
            assert_eq!(subscribed, Ok(ONCE), "{filter}");
        }
        publish_numbers(&mut world, &["a/b", "a/c"], 300..310);

        let got = drain(&mut world, reader);
        let of = |id: u32| -> Vec<Delivery> {
            got.iter().filter(|it| it.subscription_ids.contains(&id)).cloned().collect()
        };

        assert_eq!(sorted(&of(1)), (300..310).collect::<Vec<_>>());
        assert_eq!(sorted(&of(2)), (0..310).collect::<Vec<_>>());
        assert_eq!(sorted(&of(3)), (295..310).collect::<Vec<_>>());
        assert_eq!(sorted(&of(4)), (300..310).step_by(2).collect::<Vec<_>>());
        assert!(of(1).iter().all(|it| it.annotations.is_empty()), "not a replay");
        assert_in_order(&of(2));
        assert_in_order(&of(3));
    });
}

#[test]
fn a_message_that_nothing_stores_comes_once_to_a_replay_and_a_plain_subscription_together() {
    with_one_and_four(|mut world| {
        let (reader, _) = world.open("reader", true, 0);
        replay(&mut world, reader, "$replay/latest/a/#", "", ONCE).expect("replays");
        world.subscribe(reader, "a/#", |_| {}).expect("subscribes");
        let (publisher, _) = world.open("publisher", true, 0);

        world.publish(publisher, message("a/b", "x", QoS::AtMostOnce), None);
        let got = drain(&mut world, reader);
        assert_eq!(payloads(&got), ["x"]);
        assert_eq!(got[0].id.source, DeliverySource::Live);

        unsubscribe(&mut world, reader, "a/#");
        world.publish(publisher, message("a/b", "y", QoS::AtMostOnce), None);
        assert_eq!(payloads(&drain(&mut world, reader)), ["y"], "the replay still listens");

        unsubscribe(&mut world, reader, "$replay/latest/a/#");
        world.publish(publisher, message("a/b", "z", QoS::AtMostOnce), None);
        assert!(drain(&mut world, reader).is_empty());
    });
}

fn unsubscribe(world: &mut World, id: ConnectionId, filter: &str) {
    let filters = vec![Filter::new(Bytes::from(filter.to_owned())).expect("a filter")];
    world.command(id, Command::Unsubscribe { token: Token(9), filters });
    let done = world.take(id, |effect| match effect {
        Effect::Unsubscribed { results, .. } => Some(results.clone()),
        _ => None,
    });
    assert_eq!(done, Some(vec![Ok(true)]));
}

#[test]
fn a_replay_has_its_window_out_and_delays_nobody() {
    with_one_and_four(|mut world| {
        publish_numbers(&mut world, &["a/b"], 0..1000);
        let (slow, _) = world.open("slow", true, 0);
        let (live, _) = world.open("live", true, 0);
        world.subscribe(live, "a/b", |_| {}).expect("subscribes");
        world.subscribe(slow, "other", |_| {}).expect("subscribes");
        replay(&mut world, slow, "a/b", "earliest", ONCE).expect("replays");

        publish_numbers(&mut world, &["a/b", "other"], 1000..1010);

        assert_eq!(payloads(&drain(&mut world, live)).len(), 5);
        let out = world.deliveries(slow);
        let (replayed, plain): (Vec<_>, Vec<_>) =
            out.into_iter().partition(|it| it.message.topic.as_str() == "a/b");
        let count = in_window(&replayed);
        assert_eq!(sorted(&replayed), (0..count).collect::<Vec<_>>());
        assert_eq!(
            sorted(&plain),
            [1001, 1003, 1005, 1007, 1009],
            "its own plain ones do not wait"
        );
    });
}

#[test]
fn unsubscribing_ends_a_replay_in_the_middle() {
    with_one_and_four(|mut world| {
        publish_numbers(&mut world, &["a/b"], 0..1000);
        let (reader, _) = world.open("reader", true, FOREVER);
        replay(&mut world, reader, "a/b", "earliest", EXACTLY).expect("replays");
        let out = world.deliveries(reader);
        in_window(&out);

        unsubscribe(&mut world, reader, "a/b");
        for delivery in &out {
            world.settle(reader, delivery.id, Outcome::Accepted);
        }
        publish_numbers(&mut world, &["a/b"], 0..1);
        assert!(drain(&mut world, reader).is_empty());

        world.close(reader, false);
        let (reader, _) = world.open("reader", false, FOREVER);
        assert!(drain(&mut world, reader).is_empty(), "the session forgot it too");
    });
}

#[test]
fn a_position_is_a_jump_and_none_goes_on() {
    with_one_and_four(|mut world| {
        publish_numbers(&mut world, &["a/b"], 0..300);
        let (reader, _) = world.open("reader", true, 0);
        replay(&mut world, reader, "a/b", "earliest", ONCE).expect("replays");
        let first = world.deliveries(reader);
        let count = in_window(&first);

        world.subscribe(reader, "a/b", |subscribe| subscribe.qos = ONCE).expect("goes on");
        for delivery in &first {
            world.settle(reader, delivery.id, Outcome::Accepted);
        }
        assert_eq!(sorted(&drain(&mut world, reader)), (count..300).collect::<Vec<_>>());

        replay(&mut world, reader, "a/b", "resume", ONCE).expect("goes on");
        publish_numbers(&mut world, &["a/b"], 300..301);
        assert_eq!(sorted(&drain(&mut world, reader)), [300]);

        replay(&mut world, reader, "a/b", "last=2", ONCE).expect("jumps");
        assert_eq!(sorted(&drain(&mut world, reader)), [299, 300]);
    });
}

#[test]
fn resume_begins_at_the_oldest_where_nothing_was_read() {
    with_one_and_four(|mut world| {
        publish_numbers(&mut world, &["a/b", "a/c"], 0..10);
        let (reader, _) = world.open("reader", true, FOREVER);
        world.subscribe(reader, "$replay/resume/a/#", |it| it.qos = ONCE).expect("replays");
        assert_eq!(sorted(&drain(&mut world, reader)), (0..10).collect::<Vec<_>>());
        world.close(reader, false);
        publish_numbers(&mut world, &["a/b", "a/c"], 10..20);

        let mut world = world.crash(3);
        let (reader, _) = world.open("reader", false, FOREVER);
        world.subscribe(reader, "$replay/resume/a/#", |it| it.qos = ONCE).expect("goes on");

        assert_eq!(sorted(&drain(&mut world, reader)), (10..20).collect::<Vec<_>>());
    });
}

#[test]
fn an_offset_is_a_place_in_one_partition() {
    with_one_and_four(|mut world| {
        publish_numbers(&mut world, &["a/b"], 0..10);
        let (reader, _) = world.open("reader", true, 0);
        replay(&mut world, reader, "a/b", "earliest", ONCE).expect("replays");
        let all = drain(&mut world, reader);
        let place = all[7].annotation("x-stream-offset").expect("says its offset");

        replay(&mut world, reader, "a/b", &format!("offset={place}"), ONCE).expect("replays");
        assert_eq!(sorted(&drain(&mut world, reader)), [7, 8, 9]);
        replay(&mut world, reader, "a/b", "99999999", ONCE).expect("replays");
        assert!(drain(&mut world, reader).is_empty(), "beyond the end is the end");
    });
    let mut world = World::new(4);
    let (reader, _) = world.open("reader", true, 0);
    let refused = replay(&mut world, reader, "a/#", "offset=7", ONCE);
    let Err(Refusal::Invalid { reason }) = refused else { panic!("not refused: {refused:?}") };
    assert!(reason.contains("in one partition") && reason.contains("last=N"), "{reason}");
}

#[test]
fn what_cannot_be_replayed_is_refused_and_nothing_stands() {
    with_one_and_four(|mut world| {
        publish_numbers(&mut world, &["a"], 0..1);
        let (reader, _) = world.open("reader", true, 0);
        for (filter, from) in [
            ("a", "soon"),
            ("a", "last=10001"),
            ("$SYS/#", "earliest"),
            ("$replay/earliest/$SYS/#", ""),
            ("$replay/sooner/a", ""),
            ("$replay/earliest/$queue/q", ""),
            ("$share/g/a", "earliest"),
        ] {
            let refused = replay(&mut world, reader, filter, from, ONCE);
            assert!(refused.is_err(), "{filter} from {from}: {refused:?}");
        }
        publish_numbers(&mut world, &["a"], 1..2);
        assert!(drain(&mut world, reader).is_empty());

        for number in 0..16 {
            let filter = format!("$replay/latest/a/{number}");
            world.subscribe(reader, &filter, |_| {}).expect("so many are allowed");
        }
        let refused = replay(&mut world, reader, "a", "latest", ONCE);
        assert!(matches!(refused, Err(Refusal::Quota { .. })), "{refused:?}");
        world.subscribe(reader, "$replay/latest/a/3", |_| {}).expect("that one is there already");
        unsubscribe(&mut world, reader, "$replay/latest/a/3");
        replay(&mut world, reader, "a", "latest", ONCE).expect("there is room for one");
    });
}

#[test]
fn the_last_messages_are_those_of_all_partitions_together() {
    let mut world = World::new(4);
    let topics = ["a/0", "a/1", "a/2", "a/3", "a/4", "a/5"];
    publish_numbers(&mut world, &topics, 0..600);
    publish_numbers(&mut world, &["a/0"], 600..900);
    let (reader, _) = world.open("reader", true, 0);
    for (count, expected) in [(1, 899..900), (299, 601..900), (400, 500..900), (5000, 0..900)] {
        replay(&mut world, reader, "a/+", &format!("last={count}"), ONCE).expect("replays");
        assert_eq!(sorted(&drain(&mut world, reader)), expected.collect::<Vec<_>>(), "{count}");
    }
    replay(&mut world, reader, "a/+", "last=0", ONCE).expect("replays");
    publish_numbers(&mut world, &topics, 900..903);
    assert_eq!(sorted(&drain(&mut world, reader)), [900, 901, 902]);
}

/// Subscribes as the tools do, and returns what the broker says of the end of history.
fn ends_of(world: &mut World, id: ConnectionId, filter: &str, from: &str) -> Vec<(u16, u64)> {
    let granted = world.subscribe(id, filter, |subscribe| {
        subscribe.position = Some(Bytes::from(from.to_owned()));
        subscribe.reports_end = true;
        subscribe.retain_handling = RetainHandling::DontSend;
    });
    assert_eq!(granted, Ok(EXACTLY));
    let ends = world.take(id, |effect| match effect {
        Effect::ReplayEnds { ends, .. } => Some(ends.clone()),
        _ => None,
    });
    let mut ends: Vec<_> = ends.expect("reported").iter().map(|(at, end)| (at.0, end.0)).collect();
    ends.sort_unstable();
    ends
}

#[test]
fn a_replay_that_asks_is_told_where_history_ends_in_each_partition() {
    with_one_and_four(|mut world| {
        world.rules("topic readwrite #\nuser alice\ntopic read a/#\ntopic deny a/secret");
        publish_numbers(&mut world, &["a/0", "a/1", "a/2", "b"], 0..300);
        // More than one answer's worth of what is not for it.
        publish_numbers(&mut world, &["a/secret"], 300..900);
        let reader = world.open_as("alice", "reader", 0).expect("opens");
        for (filter, from) in [("a/#", "earliest"), ("a/#", "last=7"), ("a/1", "earliest")] {
            let ends = ends_of(&mut world, reader, filter, from);
            let mut last: BTreeMap<u16, u64> = BTreeMap::new();
            for delivery in drain(&mut world, reader) {
                last.insert(delivery.id.partition.0, delivery.id.offset.0);
            }
            assert_eq!(ends, last.into_iter().collect::<Vec<_>>(), "{filter} from {from}");
        }
        assert_eq!(ends_of(&mut world, reader, "a/none", "earliest"), []);
        assert_eq!(ends_of(&mut world, reader, "a/0", "latest"), [], "all of it is behind");
    });
}

#[test]
fn expired_messages_are_neither_replayed_nor_counted() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        for number in 0..6 {
            let expiry_s = (number % 2 == 1).then_some(1);
            let message = Message { expiry_s, ..message("a", number.to_string(), ONCE) };
            world.publish(publisher, message, None);
        }
        world.pass(2000);
        let (reader, _) = world.open("reader", true, 0);

        replay(&mut world, reader, "a", "last=2", ONCE).expect("replays");
        assert_eq!(sorted(&drain(&mut world, reader)), [2, 4]);
    });
}

#[test]
fn what_a_client_may_not_read_is_not_in_its_history() {
    with_one_and_four(|mut world| {
        world.rules("topic readwrite #\nuser alice\ntopic read a/#\ntopic deny a/secret");
        publish_numbers(&mut world, &["a/b", "a/secret", "b"], 0..300);
        let reader = world.open_as("alice", "reader", 0).expect("opens");

        replay(&mut world, reader, "#", "earliest", ONCE).expect("some of it may be read");
        assert_eq!(sorted(&drain(&mut world, reader)), (0..300).step_by(3).collect::<Vec<_>>());
        replay(&mut world, reader, "#", "last=2", ONCE).expect("some of it may be read");
        assert_eq!(sorted(&drain(&mut world, reader)), [294, 297], "of those it may read");
        for filter in ["a/secret", "b"] {
            let refused = replay(&mut world, reader, filter, "earliest", ONCE);
            assert_eq!(refused, Err(Refusal::NotAuthorized), "{filter}");
            let refused =
                replay(&mut world, reader, &format!("$replay/earliest/{filter}"), "", ONCE);
            assert_eq!(refused, Err(Refusal::NotAuthorized), "{filter}");
        }
    });
}

#[test]
fn a_right_that_is_taken_away_ends_what_is_left_of_a_replay() {
    with_one_and_four(|mut world| {
        world.rules("topic readwrite #\nuser alice\ntopic read a/#");
        publish_numbers(&mut world, &["a/b"], 0..400);
        let reader = world.open_as("alice", "reader", 0).expect("opens");
        replay(&mut world, reader, "a/#", "earliest", ONCE).expect("replays");
        let before = world.deliveries(reader);
        in_window(&before);

        world.rules("topic readwrite #\nuser alice\ntopic read c/#");
        for delivery in before {
            world.settle(reader, delivery.id, Outcome::Accepted);
        }

        assert!(drain(&mut world, reader).is_empty());
    });
}

fn retained(topic: &str, payload: &str) -> Message {
    Message { retain: true, ..message(topic, payload, ONCE) }
}

#[test]
fn retained_messages_come_once_and_say_so_where_they_are() {
    with_one_and_four(|mut world| {
        let (publisher, _) = world.open("publisher", true, 0);
        world.publish(publisher, retained("a", "old"), None);
        world.publish(publisher, message("a", "1", ONCE), None);
        world.now = world.now.plus(10);
        let middle = world.now;
        world.publish(publisher, message("a", "2", ONCE), None);
        world.publish(publisher, retained("b", "new"), None);
        world.publish(publisher, message("b", "3", ONCE), None);
        let (reader, _) = world.open("reader", true, 0);
        let flags = |deliveries: Vec<Delivery>| -> BTreeMap<String, bool> {
            let count = deliveries.len();
            let flags: BTreeMap<_, _> = deliveries.iter().map(|it| (text(it), it.retain)).collect();
            assert_eq!(flags.len(), count, "each once");
            flags
        };
        let of = |pairs: &[(&str, bool)]| -> BTreeMap<String, bool> {
            pairs.iter().map(|(text, retain)| ((*text).to_owned(), *retain)).collect()
        };

        replay(&mut world, reader, "+", "earliest", ONCE).expect("replays");
        let all = flags(drain(&mut world, reader));
        assert_eq!(
            all,
            of(&[("old", true), ("1", false), ("2", false), ("new", true), ("3", false)])
        );

        let from = format!("timestamp={}", middle.0);
        replay(&mut world, reader, "+", &from, ONCE).expect("replays");
        let got = drain(&mut world, reader);
        let first = got.iter().position(|it| text(it) == "old");
        let second = got.iter().position(|it| text(it) == "2");
        assert!(first < second, "the state at the beginning comes first");
        assert_eq!(flags(got), of(&[("old", true), ("2", false), ("new", true), ("3", false)]));

        let never = world.subscribe(reader, "$replay/earliest/+", |subscribe| {
            subscribe.retain_handling = RetainHandling::DontSend;
        });
        assert_eq!(never, Ok(EXACTLY));
        let got = flags(drain(&mut world, reader));
        assert_eq!(got, all.into_keys().map(|text| (text, false)).collect());
    });
}

/// Reads a replay of a stored session through connections that end anyhow, `steps` deliveries each.
fn read_in_pieces(world: &mut World, dice: &mut Dice, crashes: bool) -> Vec<String> {
    let mut got = Vec::new();
    let mut packet_id = 0;
    for round in 0..200 {
        let (reader, opened) = world.open("reader", false, FOREVER);
        // QoS 2 out from before: the client has it already, or gets it now.
        for resend in &opened.outbound {
            let (id, delivery) = match resend {
                fluxmq::model::effect::Outbound::Publish { packet_id, delivery } => {
                    got.push(text(delivery));
                    assert!(delivery.annotation("x-stream-offset").is_some());
                    world.command(reader, Command::Received { packet_id: *packet_id });
                    (*packet_id, delivery.id)
                }
                fluxmq::model::effect::Outbound::Release { packet_id, delivery } => {
                    (*packet_id, *delivery)
                }
            };
            assert!(id > 0);
            world.settle(reader, delivery, Outcome::Accepted);
        }
        let fresh = world.deliveries(reader);
        if fresh.is_empty() && opened.outbound.is_empty() {
            return got;
        }
        let steps = dice.roll(fresh.len() + 1);
        for delivery in &fresh[..steps] {
            packet_id = packet_id % 60_000 + 1;
            let entries = vec![(packet_id, delivery.id)];
            world.command(reader, Command::Assign { token: Some(Token(1)), entries });
            match dice.roll(3) {
                // Stored, and the broker dies before it is sent.
                0 => {}
                // Sent and received.
                1 => {
                    got.push(text(delivery));
                    world.command(reader, Command::Received { packet_id });
                }
                _ => {
                    got.push(text(delivery));
                    world.command(reader, Command::Received { packet_id });
                    world.settle(reader, delivery.id, Outcome::Accepted);
                }
            }
        }
        match dice.roll(3) {
            0 if crashes => world.restart(round),
            1 => world.vanish(reader),
            _ => world.close(reader, false),
        }
    }
    panic!("it does not end");
}

#[test]
fn a_stored_session_goes_on_with_its_replay_exactly_once_through_anything() {
    for seed in 0..8 {
        let mut dice = Dice::new(seed);
        let mut world = World::new([1, 4][seed as usize % 2]);
        let (publisher, _) = world.open("publisher", true, 0);
        for number in 0..300 {
            let topic = ["a/b", "a/c", "b"][number % 3];
            world.publish(publisher, message(topic, number.to_string(), EXACTLY), Some(1));
            world.command(publisher, Command::Release { packet_id: 1 });
        }
        let (reader, _) = world.open("reader", true, FOREVER);
        replay(&mut world, reader, "a/#", "earliest", EXACTLY).expect("replays");
        world.subscribe(reader, "a/c", |_| {}).expect("a plain one beside it");
        world.close(reader, false);

        let got = read_in_pieces(&mut world, &mut dice, seed >= 2);

        let mut got: Vec<usize> = got.iter().map(|text| text.parse().unwrap()).collect();
        got.sort_unstable();
        let expected: Vec<usize> = (0..300).filter(|number| number % 3 != 2).collect();
        assert_eq!(got, expected, "seed {seed}");
    }
}

#[test]
fn a_partition_that_stopped_refuses_a_replay_and_the_others_forget_it() {
    let mut world = World::new(4);
    publish_numbers(&mut world, &["a/0", "a/1", "a/2", "a/3"], 0..40);
    let stopped = *world.partitions.keys().next_back().expect("four");
    world.stop_partition(stopped);
    let (reader, _) = (0..20)
        .map(|number| format!("reader{number}"))
        .find(|id| fluxmq::broker::Placement::new(4).session(id.as_bytes()) != stopped)
        .map(|id| world.open(&id, true, 0))
        .expect("sessions spread");
    for from in ["earliest", "last=3"] {
        let refused = replay(&mut world, reader, "a/#", from, ONCE);
        assert!(matches!(refused, Err(Refusal::Unavailable { .. })), "{from}: {refused:?}");
        assert!(drain(&mut world, reader).is_empty(), "{from}");
    }
}

/// Deletes the oldest segments; returns the first offset that is left.
fn trim(world: &mut World) -> u64 {
    let partition = world.partitions.values_mut().next_back().expect("one");
    let last = partition.status().last;
    partition.trim(last).expect("trims");
    partition.log().first_offset().0
}

#[test]
fn what_is_not_kept_any_more_is_a_gap_and_the_first_delivery_says_so() {
    let options = Options { snapshot_every_bytes: 50_000, ..Options::default() };
    let mut world = World::with(SimDisk::new(7), 1, options).expect("starts");
    let (publisher, _) = world.open("publisher", true, 0);
    let publish = |world: &mut World, range: std::ops::Range<usize>| {
        for number in range {
            world.now = world.now.plus(1);
            let payload = format!("{number}{}", ".".repeat(600));
            world.publish(publisher, message("a", payload, ONCE), None);
        }
    };
    publish(&mut world, 0..400);
    let (reader, _) = world.open("reader", true, FOREVER);
    world.subscribe(reader, "$replay/earliest/a", |it| it.qos = ONCE).expect("replays");
    let before = world.deliveries(reader);
    in_window(&before);
    let first = trim(&mut world);
    let next = before.last().expect("some").id.offset.0 + 1;
    assert!(first > next, "the log begins at {first}, after {next}");
    let gap = |delivery: &Delivery| delivery.annotation("x-gap");
    assert!(before.iter().all(|it| gap(it).is_none()), "earliest has none");

    // In the middle of a replay.
    for delivery in &before {
        world.settle(reader, delivery.id, Outcome::Accepted);
    }
    let after = drain(&mut world, reader);
    assert_eq!(after[0].id.offset.0, first);
    assert_eq!(gap(&after[0]), Some((first - next).to_string()));
    assert!(after[1..].iter().all(|it| gap(it).is_none()), "said once");

    // Where it begins.
    let time = after[0].annotation("x-stream-timestamp").expect("says its time");
    let later = time.parse::<u64>().expect("a number") + 1;
    for (from, expected) in [
        ("offset=3".to_owned(), Some((first - 3).to_string())),
        (format!("offset={first}"), None),
        ("timestamp=1".to_owned(), Some("unknown".to_owned())),
        (format!("timestamp={later}"), None),
        ("earliest".to_owned(), None),
        ("last=9999".to_owned(), None),
    ] {
        replay(&mut world, reader, "a", &from, ONCE).expect("replays");
        let got = drain(&mut world, reader);
        let skipped = u64::from(from == format!("timestamp={later}"));
        assert_eq!(got[0].id.offset.0, first + skipped, "{from}");
        assert_eq!(gap(&got[0]), expected, "{from}");
        assert!(got[1..].iter().all(|it| gap(it).is_none()), "{from}: said once");
    }

    // In a session that was away for too long.
    world.close(reader, false);
    publish(&mut world, 400..800);
    let first = trim(&mut world);
    let (reader, _) = world.open("reader", false, FOREVER);
    let got = drain(&mut world, reader);
    let of = |it: &&Delivery| it.id.offset.0 == first;
    assert_eq!(got.iter().filter(of).count(), 2, "both replays go on");
    assert!(got.iter().filter(of).all(|it| gap(it).is_some()));
}

/// Records far apart in long frames are read without their frames, and without who published them unless somebody asks.
#[test]
fn a_replay_out_of_sealed_segments_keeps_its_own_publishes_back_where_it_is_to() {
    let mut world = World::new(1);
    let (own, _) = world.open("own", true, 0);
    let (other, _) = world.open("other", true, 0);
    for round in 0..30u64 {
        for number in 0..40u64 {
            let by = if number % 2 == 0 { own } else { other };
            let topic = if number < 2 { "rare" } else { "a" };
            let text = format!("{round}-{number}{}", ".".repeat(1_000));
            let message = Arc::new(message(topic, &*text, ONCE));
            let token = Token(100_000 + round * 40 + number);
            world.say(by, Command::Publish { token, message, packet_id: None });
        }
        world.run();
        world.pass(100);
    }
    for (no_local, expected) in [(true, 30), (false, 60)] {
        let subscribed = world.subscribe(own, "rare", |it| {
            it.position = Some("earliest".into());
            it.no_local = no_local;
            it.qos = ONCE;
        });
        assert_eq!(subscribed, Ok(ONCE));
        let found = drain(&mut world, own);
        assert_eq!(found.len(), expected);
        let is_own = |it: &Delivery| text(it).split('.').next().unwrap().ends_with("-0");
        assert_eq!(found.iter().filter(|it| is_own(it)).count(), expected - 30);
    }
}
