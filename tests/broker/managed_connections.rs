//! Connections as administrators see them: each says who it is when it is asked, and one that is ended hears why.

use fluxmq::model::{Effect, Refusal};
use fluxmq::partition::request::ConnectionId;
use serde_json::{Value, json};

use crate::management::{ask, done, refused};
use crate::world::{World, with_one_and_four};

/// Lists page by page.
fn all(world: &mut World, by: ConnectionId, address: &str, count: usize) -> Vec<Value> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let mut page = done(world, by, address, &json!({ "after": after, "count": count }));
        let rows = page[address].as_array_mut().unwrap();
        assert!(rows.len() <= count);
        found.append(rows);
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => return found,
        }
    }
}

#[test]
fn connections_are_listed_by_number_page_by_page_and_each_is_there_once() {
    with_one_and_four(|mut world| {
        let (admin, _) = world.open("admin", true, 0);
        let others: Vec<ConnectionId> =
            (0..6).map(|number| world.open(&format!("c{number}"), true, 0).0).collect();
        world.subscribe(others[2], "a/+", |_| {}).unwrap();
        let expected: Vec<u64> =
            std::iter::once(admin).chain(others.clone()).map(|id| id.0).collect();
        for count in [1, 3, 7, 100] {
            let found = all(&mut world, admin, "connections", count);
            let numbers = found.iter().map(|it| it["connection"].as_u64().unwrap());
            assert_eq!(numbers.collect::<Vec<_>>(), expected, "{count} at a time");
        }
        let found = all(&mut world, admin, "connections", 100);
        assert_eq!(
            (&found[3]["subscriptions"], &found[0]["subscriptions"]),
            (&json!(1), &json!(0))
        );

        world.vanish(others[0]);
        let found = all(&mut world, admin, "connections", 100);
        assert!(found.iter().all(|it| it["connection"] != json!(others[0].0)));
    });
}

#[test]
fn channels_are_listed_by_connection_and_number_page_by_page() {
    let mut world = World::new(4);
    let (admin, _) = world.open("admin", true, 0);
    let (other, _) = world.open("other", true, 0);
    let expected: Vec<[u64; 2]> =
        [admin.0, other.0].into_iter().flat_map(|id| [[id, 1], [id, 2]]).collect();
    for count in [1, 2, 3, 4, 100] {
        let found = all(&mut world, admin, "channels", count);
        let places = found
            .iter()
            .map(|it| ["connection", "channel"].map(|field| it[field].as_u64().unwrap()));
        assert_eq!(places.collect::<Vec<_>>(), expected, "{count} at a time");
    }
    let shown = done(&mut world, admin, &format!("connection/{}/show", other.0), &json!({}));
    assert_eq!(shown["connection"], json!(other.0));
    assert_eq!(shown["channel_list"].as_array().unwrap().len(), 2);
}

#[test]
fn a_connection_that_is_ended_hears_why_and_no_other_does() {
    with_one_and_four(|mut world| {
        let (admin, _) = world.open("admin", true, 0);
        let (other, _) = world.open("other", true, 0);
        let (third, _) = world.open("third", true, 0);

        let reason = json!({ "reason": "moving" });
        let closed = done(&mut world, admin, &format!("connection/{}/close", other.0), &reason);

        assert_eq!(closed["connection"], json!(other.0));
        let expelled = |world: &mut World, id| {
            world.take(id, |effect| match effect {
                Effect::Expelled(refusal) => Some(refusal.clone()),
                _ => None,
            })
        };
        let refusal = Refusal::Administrator { reason: "moving".to_owned() };
        assert_eq!(refusal.to_string(), "closed by an administrator: moving");
        assert_eq!(expelled(&mut world, other), Some(refusal));
        assert_eq!(expelled(&mut world, third), None);
        assert_eq!(expelled(&mut world, admin), None);
    });
}

#[test]
fn who_is_not_there_cannot_be_shown_or_ended_and_who_may_not_ask_hears_nothing() {
    let mut world = World::new(1);
    let (admin, _) = world.open("admin", true, 0);
    for operation in ["show", "close"] {
        let said = refused(&mut world, admin, &format!("connection/999/{operation}"), &json!({}));
        assert_eq!(said, "there is no connection 999");
    }
    let long = json!({ "reason": "x".repeat(201) });
    let own = format!("connection/{}/close", admin.0);
    assert!(refused(&mut world, admin, &own, &long).contains("200 bytes at most"));

    world.rules(
        "user viewer\ntopic write $management/connections\ntopic read answers/#\n\
         user all\ntopic readwrite #\n",
    );
    let [viewer, all] = ["viewer", "all"].map(|user| world.open_as(user, user, 0).unwrap());
    let found = done(&mut world, viewer, "connections", &json!({}));
    let users: Vec<&Value> =
        found["connections"].as_array().unwrap().iter().map(|it| &it["user"]).collect();
    assert_eq!(users[users.len() - 2..], [&json!("viewer"), &json!("all")]);
    for (user, address) in [
        (viewer, format!("connection/{}/close", all.0)),
        (viewer, format!("connection/{}/show", all.0)),
        (viewer, "channels".to_owned()),
        (all, "connections".to_owned()),
    ] {
        let (_, result) = ask(&mut world, user, &address, &json!({}));
        assert_eq!(result, Err(Refusal::NotAuthorized), "{address}");
    }
}
