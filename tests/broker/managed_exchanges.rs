//! Exchanges and bindings as administrators ask for them: what clients of AMQP made is shown, what is made here is theirs.

use bytes::Bytes;
use fluxmq::model::{
    Bind, Command, Destination, Effect, ExchangeCommand, ExchangeKind, ExchangeRefusal,
    ExchangeSettings, QueueName, Refusal, Token,
};
use fluxmq::partition::request::ConnectionId;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::management::{ask, done, refused};
use crate::world::{World, with_one_and_four};

/// Lists page by page.
fn all(world: &mut World, by: ConnectionId, address: &str, count: usize) -> Vec<Value> {
    let field = if address == "exchanges" { "exchanges" } else { "bindings" };
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let mut page = done(world, by, address, &json!({ "after": after, "count": count }));
        let rows = page[field].as_array_mut().unwrap();
        assert!(rows.len() <= count);
        found.append(rows);
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => return found,
        }
    }
}

fn binding(source: &str, destination: &str, key: &str) -> Value {
    json!({ "source": source, "destination": destination, "routing_key": key })
}

fn brief(row: &Value) -> Value {
    match row.get("filter") {
        Some(filter) => json!({ "filter": filter, "destination": row["destination"] }),
        None => json!({
            "source": row["source"], "destination": row["destination"], "routing_key": row["routing_key"]
        }),
    }
}

#[test]
fn an_exchange_is_declared_shown_listed_and_deleted() {
    with_one_and_four(|mut world| {
        let (admin, _) = world.open("admin", true, 0);
        let declared = json!({ "type": "headers", "alternate": "rest", "auto_delete": true });
        let answer = done(&mut world, admin, "exchange/orders/declare", &declared);
        assert_eq!(answer, json!({ "exchange": "orders", "existed": false }));
        let answer = done(&mut world, admin, "exchange/orders/declare", &declared);
        assert_eq!(answer["existed"], json!(true));
        let said = refused(&mut world, admin, "exchange/orders/declare", &json!({}));
        assert!(said.contains("was declared with another 'type'"), "{said}");
        done(&mut world, admin, "exchange/a/declare", &json!({ "lifetime": "transient" }));

        let shown = done(&mut world, admin, "exchange/orders/show", &json!({}));
        let expected = json!({
            "exchange": "orders", "type": "headers", "lifetime": "durable", "auto_delete": true, "internal": false,
            "alternate": "rest", "bindings": 0
        });
        assert_eq!(shown, expected);
        let names = |world: &mut World, count| -> Vec<String> {
            let rows = all(world, admin, "exchanges", count);
            rows.iter().map(|row| row["exchange"].as_str().unwrap().to_owned()).collect()
        };
        let expected =
            ["a", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.topic", "orders"];
        for count in [1, 3, 7, 100] {
            assert_eq!(names(&mut world, count), expected, "{count} at a time");
        }

        done(&mut world, admin, "exchange/orders/delete", &json!({}));
        assert_eq!(names(&mut world, 100), expected[..6]);
        let said = refused(&mut world, admin, "exchange/orders/show", &json!({}));
        assert_eq!(said, "there is no exchange 'orders'");
        let said = refused(&mut world, admin, "exchange/amq.topic/delete", &json!({}));
        assert!(said.contains("is the broker's own"), "{said}");
    });
}

#[test]
fn bindings_are_listed_by_who_gets_it_page_by_page() {
    with_one_and_four(|mut world| {
        let (admin, _) = world.open("admin", true, 0);
        for exchange in ["x", "y", "gone"] {
            done(
                &mut world,
                admin,
                &format!("exchange/{exchange}/declare"),
                &json!({ "type": "topic" }),
            );
        }
        let mut expected = Vec::new();
        for queue in ["a", "b", "x"] {
            let filters = if queue == "b" { vec!["t/+", "u/#"] } else { vec![] };
            let declare = json!({ "bindings": filters });
            done(&mut world, admin, &format!("queue/{queue}/declare"), &declare);
            expected.extend(
                filters.iter().map(|filter| json!({ "filter": filter, "destination": queue })),
            );
            for (source, key) in [("amq.topic", "k.*"), ("gone", "k"), ("x", "1"), ("x", "2")] {
                let body = json!({ "source": source, "routing_key": key });
                done(&mut world, admin, &format!("queue/{queue}/bind"), &body);
                if source != "gone" {
                    expected.push(binding(source, queue, key));
                }
            }
        }
        for key in ["1", "2", "3"] {
            let body = json!({ "source": "x", "routing_key": key });
            done(&mut world, admin, "exchange/y/bind", &body);
            expected.push(binding("x", "y", key));
        }
        done(&mut world, admin, "exchange/gone/delete", &json!({}));
        for count in [1, 2, 5, 100] {
            let rows = all(&mut world, admin, "bindings", count);
            let found: Vec<Value> = rows.iter().map(brief).collect();
            assert_eq!(found, expected, "{count} at a time");
        }
        let of_one = all(&mut world, admin, "queue/x/bindings", 2);
        let found: Vec<Value> = of_one.iter().map(brief).collect();
        assert_eq!(found, expected[8..11], "the exchange 'x' is another thing");
        let shown = done(&mut world, admin, "exchange/x/show", &json!({}));
        assert_eq!(shown["bindings"], json!(9));
    });
}

#[test]
fn arguments_are_shown_in_json_and_bindings_end_whatever_types_they_have() {
    let mut world = World::new(4);
    let (admin, _) = world.open("admin", true, 0);
    done(&mut world, admin, "exchange/h/declare", &json!({ "type": "headers" }));
    done(&mut world, admin, "queue/q/declare", &json!({}));
    let arguments = json!({
        "x-match": "any", "n": 1, "deep": { "list": [1, "two", null, 2.5], "bit": true }, "void": null
    });
    let body = json!({ "source": "h", "routing_key": "k", "arguments": arguments });
    done(&mut world, admin, "queue/q/bind", &body);
    done(&mut world, admin, "queue/q/bind", &body);
    // Made by a client: an integer of another type.
    let client = Bind {
        token: Token(900_000),
        exchange: Bytes::from("h"),
        destination: Destination::Queue(QueueName::new(Bytes::from("q")).unwrap()),
        routing_key: Bytes::from("k"),
        arguments: Bytes::from_static(b"\x01nI\x00\x00\x00\x01"),
        is_bound: true,
    };
    world.command(admin, Command::Bind(Box::new(client)));

    let rows = all(&mut world, admin, "queue/q/bindings", 10);
    let said: Vec<&Value> = rows.iter().map(|row| &row["arguments"]).collect();
    assert_eq!(said.len(), 2, "twice the same is once");
    assert!(said.contains(&&arguments) && said.contains(&&json!({ "n": 1 })), "{said:?}");
    let typed = rows.iter().find(|row| row["arguments"] == json!({ "n": 1 })).unwrap();
    let encoded = &typed["arguments_encoded"];
    assert!(encoded.is_string(), "{typed}");
    let plain = json!({ "source": "h", "routing_key": "k", "arguments": { "n": 1 } });
    done(&mut world, admin, "queue/q/unbind", &plain);
    assert_eq!(all(&mut world, admin, "queue/q/bindings", 10).len(), 2, "another binding");
    let exact = json!({ "source": "h", "routing_key": "k", "arguments_encoded": encoded });
    done(&mut world, admin, "queue/q/unbind", &exact);
    done(&mut world, admin, "queue/q/unbind", &body);
    assert!(all(&mut world, admin, "queue/q/bindings", 10).is_empty());
    let odd = json!({ "source": "h", "arguments": { "x-match": "most" } });
    assert!(refused(&mut world, admin, "queue/q/bind", &odd).contains("'x-match' must be"));
    let nowhere = json!({ "source": "none" });
    let said = refused(&mut world, admin, "queue/q/bind", &nowhere);
    assert_eq!(said, "there is no exchange 'none'");
}

#[test]
fn what_a_client_of_amqp_made_is_shown_as_it_is() {
    let mut world = World::new(4);
    let (admin, _) = world.open("admin", true, 0);
    let settings = ExchangeSettings {
        kind: ExchangeKind::Fanout,
        durable: false,
        auto_delete: true,
        internal: true,
        alternate: None,
        arguments: Bytes::new(),
    };
    world.command(
        admin,
        Command::Exchange {
            token: Token(900_001),
            exchange: Bytes::from("theirs"),
            command: ExchangeCommand::Declare(Arc::new(settings)),
        },
    );
    let done_there = world.take(admin, |effect| match effect {
        Effect::Exchange { token: Token(900_001), result } => Some(result.clone()),
        _ => None,
    });
    assert_eq!(done_there, Some(Ok(())));
    let shown = done(&mut world, admin, "exchange/theirs/show", &json!({}));
    let fields = ["type", "lifetime", "auto_delete", "internal", "alternate"];
    let expected = json!(["fanout", "transient", true, true, null]);
    assert_eq!(json!(fields.map(|field| shown[field].clone())), expected);
}

#[test]
fn each_request_is_a_right_of_its_own() {
    let mut world = World::new(4);
    world.rules(
        "user binder\ntopic write $management/queue/q/+\ntopic read $exchange/x/#\ntopic read answers/#\n\
         user maker\ntopic write $management/exchange/+/declare\ntopic write $management/queue/q/declare\n",
    );
    let [binder, maker] = ["binder", "maker"].map(|user| world.open_as(user, user, 0).unwrap());
    let mut may = |user, address: &str, body: Value| {
        let (_, result) = ask(&mut world, user, address, &body);
        let forbidden = |refusal: &Refusal| match refusal {
            Refusal::Exchange(refusal) => matches!(**refusal, ExchangeRefusal::Forbidden { .. }),
            refusal => *refusal == Refusal::NotAuthorized,
        };
        assert!(result.as_ref().err().is_none_or(forbidden), "{address}: {result:?}");
        result.is_ok()
    };
    assert!(may(maker, "exchange/x/declare", json!({ "type": "fanout" })));
    assert!(may(maker, "exchange/y/declare", json!({})));
    assert!(may(maker, "queue/q/declare", json!({})));
    assert!(!may(maker, "queue/q/bind", json!({ "source": "x" })));
    assert!(!may(maker, "exchange/x/delete", json!({})));
    assert!(may(binder, "queue/q/bind", json!({ "source": "x" })));
    assert!(may(binder, "queue/q/bindings", json!({})));
    assert!(
        !may(binder, "queue/q/bind", json!({ "source": "y" })),
        "what it gets is not to be read"
    );
    assert!(!may(binder, "exchanges", json!({})) && !may(binder, "bindings", json!({})));
}
