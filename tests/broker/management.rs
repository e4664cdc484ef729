//! What administrators ask over MQTT: who may, what they are told, and that nothing changes where they are refused.

use bytes::Bytes;
use fluxmq::model::{Command, Effect, Message, Outcome, Properties, Property, QoS, Refusal, Token};
use fluxmq::partition::request::ConnectionId;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::world::{World, message, text, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;

/// Asks, and returns the answer with what became of the request.
pub fn ask(
    world: &mut World,
    by: ConnectionId,
    address: &str,
    body: &Value,
) -> (Option<Value>, Result<bool, Refusal>) {
    let said = [
        Property::ResponseTopic(Bytes::from("answers/here")),
        Property::CorrelationData(Bytes::from("c1")),
    ];
    let message = Message {
        properties: Properties::encode(&said),
        ..message(&format!("$management/{address}"), body.to_string(), ONCE)
    };
    let result = world.publish(by, message, None).expect("QoS 1 is answered");
    let mut deliveries = world.deliveries(by);
    let answer = deliveries.pop().map(|delivery| {
        assert_eq!(delivery.message.topic.as_str(), "answers/here");
        let mut properties = delivery.message.properties.iter();
        assert!(properties.any(|it| it == Property::CorrelationData(Bytes::from("c1"))));
        serde_json::from_str(&text(&delivery)).expect("JSON")
    });
    assert!(deliveries.is_empty());
    (answer, result)
}

pub fn done(world: &mut World, by: ConnectionId, address: &str, body: &Value) -> Value {
    let (answer, result) = ask(world, by, address, body);
    assert_eq!(result, Ok(true), "{address}");
    answer.expect("answered")
}

pub fn refused(world: &mut World, by: ConnectionId, address: &str, body: &Value) -> String {
    let (answer, result) = ask(world, by, address, body);
    let said = result.expect_err(address).to_string();
    assert_eq!(answer, Some(json!({ "error": said })));
    said
}

fn fill(world: &mut World, topics: &[&str]) {
    let (publisher, _) = world.open("publisher", true, 0);
    for (number, topic) in topics.iter().enumerate() {
        world.publish(publisher, message(topic, number.to_string(), ONCE), None);
    }
}

#[test]
fn a_queue_is_declared_shown_read_and_deleted() {
    with_one_and_four(|mut world| {
        let (admin, _) = world.open("admin", true, 0);
        let settings =
            json!({ "bindings": ["shop/+/order"], "deliveries_max": 2, "priority_max": 3 });
        let answer = done(&mut world, admin, "queue/orders/declare", &settings);
        assert_eq!(answer, json!({ "queue": "orders", "existed": false }));
        let answer = done(&mut world, admin, "queue/orders/declare", &settings);
        assert_eq!(answer["existed"], json!(true));
        fill(&mut world, &["shop/1/order", "$queue/orders/x", "shop/2/order"]);

        let show = done(&mut world, admin, "queue/orders/show", &json!({}));
        assert_eq!(show["settings"], settings);
        assert_eq!((&show["messages"], &show["end"]), (&json!(3), &json!(3)));
        let peeked =
            done(&mut world, admin, "queue/orders/peek", &json!({ "from": 1, "count": 1 }));
        let entry = &peeked["entries"][0];
        assert_eq!((&entry["offset"], &entry["payload"]), (&json!(1), &json!("1")));
        assert_eq!(entry["topic"], json!("$queue/orders/x"));
        assert_eq!(peeked["entries"].as_array().unwrap().len(), 1);

        let purged = done(&mut world, admin, "queue/orders/purge", &json!({}));
        assert_eq!(purged["count"], json!(3));
        done(&mut world, admin, "queue/orders/delete", &json!({}));
        let said = refused(&mut world, admin, "queue/orders/show", &json!({}));
        assert!(said.contains("there is no queue 'orders'"), "{said}");
    });
}

#[test]
fn groups_are_shown_with_their_lag_moved_and_deleted() {
    with_one_and_four(|mut world| {
        let (admin, _) = world.open("admin", true, 0);
        fill(&mut world, &["$queue/jobs"; 10]);
        world.pass(5_000);
        let (member, _) = world.open("member", true, 0);
        world.subscribe(member, "$share/workers/$queue/jobs", |_| {}).unwrap();
        let out = world.deliveries(member);
        (0..4).for_each(|at| world.settle(member, out[at].id, Outcome::Accepted));

        let show = done(&mut world, admin, "queue/jobs/show", &json!({}));
        let expected = json!({
            "group": "workers", "consumers": 1, "committed": 4, "cursor": 10, "pending": 6, "lag": 6, "lag_s": 5.0
        });
        assert_eq!(show["groups"], json!([expected]));
        let said =
            refused(&mut world, admin, "queue/jobs/delete_group", &json!({ "group": "workers" }));
        assert!(said.contains("is reading (1 connected)"), "{said}");
        let said = refused(&mut world, admin, "queue/jobs/delete", &json!({}));
        assert!(said.contains("is being read (1 connected)"), "{said}");
        world.close(member, false);

        let seek = json!({ "group": "workers", "to": "earliest" });
        assert_eq!(done(&mut world, admin, "queue/jobs/seek", &seek)["count"], json!(4));
        let (member, _) = world.open("member", true, 0);
        world.subscribe(member, "$share/workers/$queue/jobs", |_| {}).unwrap();
        assert_eq!(world.drain(member).len(), 10, "everything again");
        world.close(member, false);
        done(&mut world, admin, "queue/jobs/delete_group", &json!({ "group": "workers" }));
        let mut world = world.crash(1);
        let (admin, _) = world.open("admin", true, 0);
        assert_eq!(done(&mut world, admin, "queue/jobs/show", &json!({}))["groups"], json!([]));
        let (member, _) = world.open("member", true, 0);
        world.subscribe(member, "$share/workers/$queue/jobs", |_| {}).unwrap();
        assert_eq!(world.drain(member).len(), 10, "a new group of the old name begins anew");
    });
}

#[test]
fn a_group_that_is_moved_before_the_oldest_entry_is_told_what_is_missing() {
    with_one_and_four(|mut world| {
        let (admin, _) = world.open("admin", true, 0);
        let settings = json!({ "messages_max": 4 });
        done(&mut world, admin, "queue/jobs/declare", &settings);
        let (member, _) = world.open("member", true, 0);
        world.subscribe(member, "$share/workers/$queue/jobs", |_| {}).unwrap();
        world.close(member, false);
        fill(&mut world, &["$queue/jobs"; 10]);
        world.pass(2_000);

        let cases = [
            ("offset=2", Some(json!(4))),
            ("offset=6", None),
            ("timestamp=0", Some(json!("unknown"))),
            ("1970-01-01T00:00:00Z", Some(json!("unknown"))),
            ("earliest", None),
            ("last=100", None),
            ("resume", None),
        ];
        for (to, gap) in cases {
            let seek = json!({ "group": "workers", "to": to });
            let answer = done(&mut world, admin, "queue/jobs/seek", &seek);
            assert_eq!(answer.get("gap"), gap.as_ref(), "{to}");
            let show = done(&mut world, admin, "queue/jobs/show", &json!({}));
            assert_eq!(show["groups"][0]["committed"], json!(6), "{to}");
        }
    });
}

#[test]
fn queues_are_listed_by_name_from_all_partitions_page_by_page() {
    with_one_and_four(|mut world| {
        let (admin, _) = world.open("admin", true, 0);
        let names: Vec<String> = (0..25).map(|number| format!("q{number:02}")).collect();
        let topics: Vec<String> = names.iter().map(|name| format!("$queue/{name}")).collect();
        fill(&mut world, &topics.iter().map(String::as_str).collect::<Vec<_>>());
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let answer = done(&mut world, admin, "queues", &json!({ "after": after, "count": 10 }));
            let queues = answer["queues"].as_array().unwrap();
            assert!(queues.len() <= 10);
            found.extend(queues.iter().map(|it| it["queue"].as_str().unwrap().to_owned()));
            assert!(queues.iter().all(|it| it["messages"] == json!(1)));
            match answer["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(found, names);
    });
}

#[test]
fn dead_letters_are_brought_back_by_filter() {
    with_one_and_four(|mut world| {
        let (admin, _) = world.open("admin", true, 0);
        fill(&mut world, &["$queue/jobs/eu/1", "$queue/jobs/us/1", "$queue/jobs/eu/2"]);
        let (member, _) = world.open("member", true, 0);
        world.subscribe(member, "$queue/jobs/#", |_| {}).unwrap();
        for delivery in world.deliveries(member) {
            world.settle(member, delivery.id, Outcome::Rejected);
        }
        let show = done(&mut world, admin, "queue/$dlq/jobs/show", &json!({}));
        assert_eq!(show["messages"], json!(3));

        let filter = json!({ "filter": "eu/#" });
        let answer = done(&mut world, admin, "queue/$dlq/jobs/redrive", &filter);

        assert_eq!(answer["count"], json!(2));
        assert_eq!(world.drain(member), ["0", "2"]);
        let show = done(&mut world, admin, "queue/$dlq/jobs/show", &json!({}));
        assert_eq!(show["messages"], json!(1));
    });
}

#[test]
fn who_may_write_the_topic_may_ask_and_who_may_read_the_other_hears() {
    let mut world = World::new(4);
    world.rules(
        "user admin\ntopic readwrite $management/#\ntopic read answers/#\n\
         user viewer\ntopic write $management/queue/jobs/show\ntopic read answers/#\n\
         user deaf\ntopic write $management/#\nuser all\ntopic readwrite #\n",
    );
    let [admin, viewer, deaf, all] =
        ["admin", "viewer", "deaf", "all"].map(|user| world.open_as(user, user, 0).unwrap());
    done(&mut world, admin, "queue/jobs/declare", &json!({}));
    done(&mut world, viewer, "queue/jobs/show", &json!({}));
    for (address, body) in
        [("queue/jobs/purge", json!({})), ("queue/jobs/delete", json!({})), ("queues", json!({}))]
    {
        for user in [viewer, all] {
            let (_, result) = ask(&mut world, user, address, &body);
            assert_eq!(result, Err(Refusal::NotAuthorized), "{address}");
        }
    }
    let (answer, result) = ask(&mut world, deaf, "queue/jobs/show", &json!({}));
    assert_eq!((answer, result), (None, Ok(true)));
    assert_eq!(done(&mut world, admin, "queue/jobs/show", &json!({}))["messages"], json!(0));
}

#[test]
fn a_request_is_not_a_message_and_bad_ones_change_nothing() {
    with_one_and_four(|mut world| {
        let (admin, _) = world.open("admin", true, 0);
        let (listener, _) = world.open("listener", true, 0);
        for filter in ["#", "$management/#", "answers/#"] {
            world.subscribe(listener, filter, |_| {}).unwrap();
        }
        done(&mut world, admin, "queue/jobs/declare", &json!({ "bindings": ["#"] }));
        done(&mut world, admin, "queue/events/declare", &json!({ "type": "stream" }));
        let before = done(&mut world, admin, "queue/jobs/show", &json!({}));
        let cases = [
            ("queue/jobs/declare", json!({ "bindings": ["a"] }), "another 'bindings'"),
            ("queue/other/declare", json!({ "bindngs": ["a"] }), "'bindngs' means nothing"),
            ("queue/other/declare", json!({ "bindings": ["a/#/b"] }), "'#'"),
            ("queue/other/declare", json!({ "bindings": ["$queue/x/#"] }), "cannot be bound"),
            ("queue/other/purge", json!({}), "there is no queue 'other'"),
            ("queue/events/purge", json!({}), "is a stream and is not purged"),
            (
                "queue/jobs/seek",
                json!({ "group": "none", "to": "latest" }),
                "no consumer group 'none'",
            ),
            ("queue/jobs/seek", json!({ "group": "none", "to": "then" }), "is no position"),
            ("queue/jobs/explode", json!({}), "no operation"),
        ];
        for (address, body, expected) in cases {
            let said = refused(&mut world, admin, address, &body);
            assert!(said.contains(expected), "{address}: {said}");
        }
        for address in ["", "queue", "queue/jobs", "group/x/show", "queue/a/b/show", "queue//show"]
        {
            let (_, result) = ask(&mut world, admin, address, &json!({}));
            assert!(matches!(result, Err(Refusal::Address(_))), "{address}: {result:?}");
        }

        assert_eq!(done(&mut world, admin, "queue/jobs/show", &json!({})), before);
        assert!(world.deliveries(listener).is_empty(), "nobody else hears");
        assert!(world.manage("other", fluxmq::partition::request::QueueAction::Stats).is_err());
        // At QoS 2 the number is free again at once.
        let (token, message) = (
            Token(7),
            Arc::new(Message { qos: QoS::ExactlyOnce, ..message("$management/queues", "", ONCE) }),
        );
        world.command(admin, Command::Publish { token, message, packet_id: Some(5) });
        world.command(admin, Command::Release { packet_id: 5 });
        let released = world.take(admin, |effect| match effect {
            Effect::Released { packet_id } => Some(*packet_id),
            _ => None,
        });
        assert_eq!(released, Some(5));
    });
}
