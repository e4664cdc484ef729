//! What `history.filters` keeps: a publish of QoS 0 that one of them matches is passed on as every other, and stored, for replays, groups and
//! queues over history. All others of QoS 0 are nowhere.

use bytes::Bytes;
use fluxmq::model::consume::Route;
use fluxmq::model::{Command, Delivery, DeliverySource, Filter, QoS, QueueSettings};
use fluxmq::partition::request::ConnectionId;

use crate::world::{World, message, text};

const AT_MOST: QoS = QoS::AtMostOnce;
const FOREVER: u32 = u32::MAX;

fn with_one_and_four(test: impl Fn(World)) {
    for partitions in [1, 4] {
        let mut world = World::new(partitions);
        world.keep(&["kept/#", "+/too"]);
        test(world);
    }
}

fn publisher(world: &mut World) -> ConnectionId {
    world.open("publisher", true, 0).0
}

fn publish(world: &mut World, by: ConnectionId, topic: &str, payload: &str, qos: QoS) {
    let confirmed = world.publish(by, message(topic, payload, qos), None);
    assert_eq!(confirmed.is_some(), qos != AT_MOST, "nobody waits for QoS 0");
}

fn subscriber(world: &mut World, client_id: &str, filter: &str, expiry_s: u32) -> ConnectionId {
    let (id, _) = world.open(client_id, expiry_s == 0, expiry_s);
    world.subscribe(id, filter, |_| {}).expect("subscribes");
    id
}

fn replay(world: &mut World, client_id: &str, filter: &str) -> ConnectionId {
    let (id, _) = world.open(client_id, true, 0);
    let from = |it: &mut fluxmq::model::command::Subscribe| {
        it.position = Some(Bytes::from_static(b"earliest"));
    };
    world.subscribe(id, filter, from).expect("replays");
    id
}

#[test]
fn what_a_filter_matches_is_stored_and_replayed_and_nothing_else_is() {
    with_one_and_four(|mut world| {
        let by = publisher(&mut world);
        publish(&mut world, by, "kept/a", "1", AT_MOST);
        publish(&mut world, by, "b/too", "2", AT_MOST);
        publish(&mut world, by, "other", "3", AT_MOST);
        publish(&mut world, by, "$else/too", "4", AT_MOST);
        publish(&mut world, by, "kept/a", "5", QoS::AtLeastOnce);

        let stored = |topic: &str| world.stored(topic);
        assert_eq!(
            (stored("kept/a"), stored("b/too")),
            (vec!["1".into(), "5".into()], vec!["2".into()])
        );
        assert!(stored("other").is_empty());
        assert!(stored("$else/too").is_empty(), "no wildcard at the first level matches it");
        let mut world = world.crash(7);
        let reader = replay(&mut world, "reader", "#");
        let mut got = world.drain(reader);
        got.sort();
        assert_eq!(got, ["1", "2", "5"], "also after a crash");
    });
}

#[test]
fn a_filter_that_names_a_dollar_topic_keeps_it() {
    with_one_and_four(|mut world| {
        world.keep(&["$plant/#"]);
        let by = publisher(&mut world);
        publish(&mut world, by, "$plant/a", "1", AT_MOST);
        publish(&mut world, by, "$plants/a", "2", AT_MOST);

        assert_eq!(
            (world.stored("$plant/a"), world.stored("$plants/a")),
            (vec!["1".into()], vec![])
        );
        let reader = replay(&mut world, "reader", "$plant/+");
        assert_eq!(world.drain(reader), ["1"]);
    });
}

#[test]
fn who_listens_has_it_at_once_and_once() {
    with_one_and_four(|mut world| {
        let reader = subscriber(&mut world, "reader", "kept/+", 0);
        let stored = subscriber(&mut world, "stored", "#", FOREVER);
        let by = publisher(&mut world);
        let home = world.placement.topic(&message("kept/a", "", AT_MOST).topic);
        world.slow = Some(home);

        publish(&mut world, by, "kept/a", "1", AT_MOST);
        publish(&mut world, by, "kept/a", "2", AT_MOST);
        for id in [reader, stored] {
            let got = world.deliveries(id);
            assert_eq!(got.iter().map(text).collect::<Vec<_>>(), ["1", "2"], "before it is stored");
            let is_live = |it: &Delivery| it.id.source == DeliverySource::Live && it.qos == AT_MOST;
            assert!(got.iter().all(is_live));
        }

        world.slow = None;
        world.run();
        for id in [reader, stored] {
            assert!(world.drain(id).is_empty(), "not again from the log");
        }
        assert_eq!(world.stored("kept/a"), ["1", "2"]);
        let late = subscriber(&mut world, "late", "kept/+", 0);
        assert!(world.drain(late).is_empty(), "it is not retained");
    });
}

#[test]
fn one_that_subscribes_while_it_is_on_its_way_into_the_log_has_it_not() {
    with_one_and_four(|mut world| {
        let by = publisher(&mut world);
        let home = world.placement.topic(&message("kept/a", "", AT_MOST).topic);
        world.slow = Some(home);
        publish(&mut world, by, "kept/a", "1", AT_MOST);
        let (late, _) = world.open("late", true, 0);
        let subscribe = fluxmq::model::command::Subscribe {
            filter: Filter::new(Bytes::from_static(b"kept/a")).unwrap(),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: fluxmq::model::RetainHandling::Send,
            subscription_id: 0,
            position: None,
            reports_end: false,
            group: None,
            settle_explicit: false,
        };
        let token = fluxmq::model::Token(9);
        world.command(late, Command::Subscribe { token, subscriptions: vec![subscribe] });
        publish(&mut world, by, "kept/a", "2", AT_MOST);
        world.slow = None;
        world.run();

        assert_eq!(world.drain(late), ["2"], "as with every message of QoS 0");
    });
}

#[test]
fn a_session_that_was_away_misses_it_and_can_replay_it() {
    with_one_and_four(|mut world| {
        let away = subscriber(&mut world, "away", "kept/#", FOREVER);
        world.close(away, false);
        let by = publisher(&mut world);
        publish(&mut world, by, "kept/a", "1", AT_MOST);
        publish(&mut world, by, "kept/a", "2", QoS::AtLeastOnce);

        let (back, _) = world.open("away", false, FOREVER);
        assert_eq!(world.drain(back), ["2"]);
        let reader = replay(&mut world, "reader", "kept/#");
        assert_eq!(world.drain(reader), ["1", "2"]);
        publish(&mut world, by, "kept/a", "3", AT_MOST);
        assert_eq!((world.drain(back), world.drain(reader)), (vec!["3".into()], vec!["3".into()]));
    });
}

#[test]
fn groups_read_it_in_the_log_once_and_queues_hold_it_once() {
    with_one_and_four(|mut world| {
        let bound = |from_earliest| QueueSettings {
            bindings: vec![Filter::new(Bytes::from_static(b"kept/#")).unwrap()],
            retroactive: from_earliest,
            ..QueueSettings::default()
        };
        world.declare("bound", bound(false));
        let members = ["m", "n"].map(|id| subscriber(&mut world, id, "$share/g/kept/#", 0));
        let by = publisher(&mut world);
        for number in 0..20 {
            publish(&mut world, by, "kept/a", &number.to_string(), AT_MOST);
        }
        let copies = world.stored("$queue//kept/a").len();
        let home = world.placement.topic(&message("kept/a", "", AT_MOST).topic);
        assert_eq!(
            copies,
            if world.home("bound") == home { 0 } else { 20 },
            "one record in a partition"
        );
        world.declare("over", bound(true));
        world.run();
        for number in 20..30 {
            publish(&mut world, by, "kept/a", &number.to_string(), AT_MOST);
        }
        world.run();

        let expected: Vec<String> = (0..30).map(|number| number.to_string()).collect();
        let mut shared: Vec<String> = members.iter().flat_map(|id| world.drain(*id)).collect();
        shared.sort_by_key(|text| text.parse::<u32>().unwrap());
        assert_eq!(shared, expected);
        for queue in ["bound", "over"] {
            let reader = subscriber(&mut world, queue, &format!("$queue/{queue}"), 0);
            assert_eq!(world.drain(reader), expected, "{queue}");
        }
    });
}

#[test]
fn what_amqp_publishes_to_topics_is_kept_too() {
    with_one_and_four(|mut world| {
        let reader = subscriber(&mut world, "reader", "kept/+", 0);
        let (by, _) = world.open("publisher", true, 0);
        let route = Route {
            token: fluxmq::model::Token(3),
            exchange: Bytes::from_static(b"amq.topic"),
            routing_key: Bytes::from_static(b"kept.a"),
            more_keys: vec![Bytes::from_static(b"other.b"), Bytes::from_static(b"kept.c")],
            headers: Bytes::new(),
            message: message("unused", "1", AT_MOST),
        };
        world.command(by, Command::Route(Box::new(route)));

        assert_eq!(world.drain(reader), ["1", "1"]);
        let stored = ["kept/a", "kept/c", "other/b"].map(|topic| world.stored(topic).len());
        assert_eq!(stored, [1, 1, 0]);
    });
}
