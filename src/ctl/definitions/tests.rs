//! A whole file: what becomes of each object of it, and that what was made is written down as it was said.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::export;
use super::file::Definitions;
use super::plan::{Step, plan};
use super::report::{Outcome, Summary};
use super::standing::{BindingKey, Standing};

const FILE: &str = include_str!("../../../tests/interop/rabbitmq_definitions.json");

fn planned(text: &str, standing: &Standing, without: &[&str]) -> Vec<Step> {
    let without: Vec<String> = without.iter().map(|section| (*section).to_owned()).collect();
    plan(Definitions::parse(text).unwrap(), standing, &without)
}

fn outcome_of<'a>(steps: &'a [Step], kind: &str, name: &str) -> (&'a Outcome, &'a [String]) {
    let named = |step: &&Step| step.entry.kind == kind && step.entry.name == name;
    let step = steps.iter().find(named).unwrap_or_else(|| panic!("{kind} '{name}'"));
    (&step.entry.outcome, &step.entry.notes)
}

/// What a broker has that did what it was asked.
fn done(steps: &[Step]) -> Standing {
    let mut standing = Standing::default();
    for (address, body) in steps.iter().filter_map(|step| step.request.as_ref()) {
        let (rest, operation) = address.rsplit_once('/').unwrap();
        let (kind, name) = rest.split_once('/').unwrap();
        let mut row = body.clone();
        match (kind, operation) {
            ("exchange", "declare") => {
                standing.exchanges.insert(name.to_owned(), row);
            }
            ("queue", "declare") => {
                let row = json!({ "settings": body, "owner": null });
                standing.queues.insert(name.to_owned(), row);
            }
            (_, "bind") => {
                row["destination"] = json!(name);
                row["destination_type"] = json!(kind);
                standing.bindings.insert(BindingKey::of(&row), row);
            }
            other => panic!("{other:?}"),
        }
    }
    standing
}

fn summary(steps: &[Step]) -> Summary {
    Summary::of(&steps.iter().map(|step| step.entry.clone()).collect::<Vec<_>>())
}

/// The objects of a section that are made, in an order that does not matter, and as they would be exported: types of queues are said
/// where they are no classic ones, and what a policy gave is among the arguments.
fn by_name(section: &Value) -> BTreeMap<String, Value> {
    let name = |object: &Value| match object["name"].as_str() {
        Some(name) => format!("{name} in {}", object["vhost"]),
        None => object.to_string(),
    };
    section.as_array().unwrap().iter().map(|object| (name(object), object.clone())).collect()
}

#[test]
fn every_object_of_a_file_is_accounted_for() {
    let steps = planned(FILE, &Standing::default(), &[]);
    let file: Map<String, Value> = serde_json::from_str(FILE).unwrap();
    let objects: usize = file.values().filter_map(Value::as_array).map(Vec::len).sum();
    assert_eq!(steps.len(), objects, "one entry for each");
    let expected = Summary {
        made: 8 + 13 + 15,
        there: 3,
        applied: 2,
        skipped: 0,
        differs: 0,
        left: objects - 36 - 5,
        refused: 0,
    };
    assert_eq!(summary(&steps), expected);

    let why = |kind: &str, name: &str| match outcome_of(&steps, kind, name).0 {
        Outcome::Left(why) => why.clone(),
        other => panic!("{kind} '{name}': {other:?}"),
    };
    for (kind, name, expected) in [
        ("user", "guest", "mqttctl users add"),
        ("permissions", "shop in /", "access list"),
        ("topic permissions", "shop in /", "access list"),
        ("parameter", "shovel/to-archive", "no runtime parameters"),
        ("global parameter", "cluster_name", "no runtime parameters"),
        ("exchange", "shop.delayed", "'x-delayed-message'"),
        ("queue", "broken", "{value_negative,-5}"),
        ("policy", "not-replies", "cannot be understood"),
        (
            "policy",
            "ha-two",
            "nothing like ha-mode, ha-params here; the rest of it is applied to 6 queues",
        ),
    ] {
        assert!(why(kind, name).contains(expected), "{kind} {name}: {}", why(kind, name));
    }
    let (outcome, notes) = outcome_of(&steps, "vhost", "staging");
    assert!(*outcome == Outcome::There && notes[0].contains("virtual_hosts"), "{notes:?}");
    assert_eq!(
        outcome_of(&steps, "queue", "shop.lazy").1,
        [
            "policy 'ha-two' gives it x-expires = 86400000",
            "argument 'x-queue-mode' means nothing here",
            "argument 'x-queue-version' means nothing here"
        ]
    );
}

#[test]
fn policies_give_what_they_say_to_what_they_match_and_the_lower_number_counts() {
    let steps = planned(FILE, &Standing::default(), &[]);
    let body = |name: &str| {
        let address = format!("{name}/declare");
        let bodies = steps.iter().filter_map(|step| step.request.as_ref());
        bodies.into_iter().find(|(at, _)| *at == address).unwrap().1.clone()
    };
    let fields = |name: &str| {
        let body = body(name);
        ["ttl_s", "messages_max", "overflow"].map(|field| body[field].clone())
    };
    assert_eq!(
        fields("queue/mail.welcome"),
        [json!(60.0), json!(100_000), json!("reject_publish")]
    );
    assert_eq!(fields("queue/mail.bulk"), [json!(3600.0), json!(500), json!(null)]);
    assert_eq!(body("queue/shop.carts")["expires_s"], json!(1800.0), "its own is lower");
    assert_eq!(body("exchange/shop.events")["alternate"], json!("shop.unrouted"));
    let applied = outcome_of(&steps, "policy", "mail-limits").0;
    assert!(matches!(applied, Outcome::Applied(detail) if detail.contains("to 2 queues")));
    assert_eq!(
        outcome_of(&steps, "queue", "mail.bulk").1,
        ["policy 'mail-limits' gives it x-message-ttl = 3600000"]
    );
}

#[test]
fn what_was_made_is_exported_as_it_was_said_and_imported_again_it_is_there() {
    let without = ["policies"];
    let steps = planned(FILE, &Standing::default(), &without);
    let standing = done(&steps);

    let (exported, notes) = export::write(&standing);

    assert_eq!(notes, Vec::<String>::new());
    let mut expected: Map<String, Value> = serde_json::from_str(FILE).unwrap();
    for (section, left) in
        [("exchanges", &["shop.delayed"][..]), ("queues", &["broken"]), ("bindings", &[])]
    {
        let objects = expected[section].as_array_mut().unwrap();
        objects.retain(|object| {
            let name = object["name"].as_str().unwrap_or_default();
            !left.contains(&name) && object["source"] != json!("")
        });
        for object in objects.iter_mut() {
            // Said twice by RabbitMQ, and what means nothing here.
            if section == "queues" {
                object.as_object_mut().unwrap().remove("type");
            }
            if let Some(arguments) = object["arguments"].as_object_mut() {
                arguments.remove("x-queue-mode");
                arguments.remove("x-queue-version");
                arguments.retain(|_, value| *value != json!("drop-head"));
            }
        }
        assert_eq!(by_name(&exported[section]), by_name(&expected[section]), "{section}");
    }
    let again = planned(&exported.to_string(), &standing, &[]);
    assert_eq!(
        summary(&again),
        Summary { there: again.len(), ..Summary::default() },
        "{:?}",
        again.iter().map(|step| step.entry.to_string()).collect::<Vec<_>>()
    );
    assert!(again.iter().all(|step| step.request.is_none()));
}

#[test]
fn the_same_name_in_two_virtual_hosts_is_two_things() {
    let dead = json!({ "x-dead-letter-exchange": "dead" });
    let queue =
        |vhost: &str| json!({ "name": "q/1", "vhost": vhost, "durable": true, "arguments": dead });
    let exchange = |vhost: &str| {
        let arguments = json!({ "alternate-exchange": "rest" });
        json!({ "name": "dead", "vhost": vhost, "type": "fanout", "durable": true, "arguments": arguments })
    };
    let binding = |vhost: &str| {
        json!({
            "source": "dead", "vhost": vhost, "destination": "q/1", "destination_type": "queue", "routing_key": "",
            "arguments": {}
        })
    };
    let of = |object: &dyn Fn(&str) -> Value| ["/", "blue team"].map(object);
    let file = json!({
        "vhosts": [{ "name": "/" }, { "name": "blue team" }],
        "queues": of(&queue), "exchanges": of(&exchange), "bindings": of(&binding)
    });
    let steps = planned(&file.to_string(), &Standing::default(), &[]);
    assert_eq!(summary(&steps), Summary { made: 6, there: 2, ..Summary::default() });
    assert_eq!(*outcome_of(&steps, "queue", "q/1 in blue team").0, Outcome::Made);
    let body = |address: &str| {
        let requests = steps.iter().filter_map(|step| step.request.as_ref());
        requests.into_iter().find(|(at, _)| at == address).map(|(_, body)| body.clone())
    };
    let made = body("exchange/blue team%3Adead/declare").expect("made");
    assert_eq!(made["alternate"], json!("blue team%3Arest"));
    assert!(body("queue/q%2F1/declare").is_some(), "{steps:?}");
    let made = body("queue/blue team%3Aq%2F1/bind").expect("made");
    assert_eq!(made["source"], json!("blue team%3Adead"));

    let (exported, notes) = export::write(&done(&steps));

    assert_eq!(notes, Vec::<String>::new());
    for section in ["queues", "exchanges"] {
        assert_eq!(exported[section].as_array().unwrap().len(), 2);
        let arguments = |object: &Value| object["arguments"].clone();
        let said: Vec<Value> =
            exported[section].as_array().unwrap().iter().map(arguments).collect();
        let file: Vec<Value> = file[section].as_array().unwrap().iter().map(arguments).collect();
        assert_eq!(said, file);
    }
    let again = planned(&exported.to_string(), &done(&steps), &[]);
    assert_eq!(summary(&again), Summary { there: 8, ..Summary::default() });
    let bad = json!({ "queues": [{ "name": "q", "vhost": "*" }] }).to_string();
    assert_eq!(summary(&planned(&bad, &Standing::default(), &[])).left, 1);
}

#[test]
fn what_differs_is_named_and_left_as_it_is() {
    let mut standing = done(&planned(FILE, &Standing::default(), &["policies"]));
    standing.exchanges.get_mut("shop.events").unwrap()["type"] = json!("direct");
    standing.queues.get_mut("shop.carts").unwrap()["settings"]["ttl_s"] = json!(30.0);
    standing.queues.get_mut("cache").unwrap()["owner"] = json!(17);
    standing.queues.get_mut("unrouted").unwrap()["settings"]["bindings"] = json!(["a/#"]);

    let steps = planned(FILE, &standing, &["policies"]);

    let differs = |kind: &str, name: &str| match outcome_of(&steps, kind, name).0 {
        Outcome::Differs(differences) => differences.join("; "),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        differs("exchange", "shop.events"),
        "type is \"topic\" in the file, and \"direct\" here"
    );
    assert_eq!(differs("queue", "shop.carts"), "ttl_s is 60.0 in the file, and 30.0 here");
    assert_eq!(differs("queue", "cache"), "it is connection 17's own here");
    assert_eq!(
        differs("queue", "unrouted"),
        "bindings is not said in the file, and [\"a/#\"] here"
    );
    assert_eq!(summary(&steps).made, 0);
    assert!(steps.iter().all(|step| step.request.is_none()));
}

#[test]
fn what_amqp_cannot_say_of_a_queue_is_exported_beside_and_comes_back() {
    let mut standing = Standing::default();
    let settings = json!({ "bindings": ["sensors/+/temp"], "visibility_timeout_s": 5.0 });
    let row = |owner: Value| json!({ "settings": settings, "owner": owner });
    standing.queues.insert("temps".to_owned(), row(json!(null)));
    standing.queues.insert("mine".to_owned(), row(json!(3)));
    standing.queues.insert("$dlq/temps".to_owned(), row(json!(null)));

    let (exported, notes) = export::write(&standing);

    assert_eq!(exported["queues"].as_array().unwrap().len(), 1);
    let temps = &exported["queues"][0];
    assert_eq!((&temps["name"], &temps["fluxmq"]), (&json!("temps"), &settings));
    assert_eq!(notes.len(), 3);
    assert!(notes.iter().any(|note| note.contains("'mine' is one connection's own")), "{notes:?}");
    let again = planned(&exported.to_string(), &Standing::default(), &[]);
    let request = again.iter().find_map(|step| step.request.clone());
    assert_eq!(request, Some(("queue/temps/declare".to_owned(), settings)));
}

#[test]
fn sections_are_left_out_where_that_is_asked_for() {
    let without = ["users", "permissions", "queues"];
    let steps = planned(FILE, &Standing::default(), &without);
    let summary = summary(&steps);
    assert_eq!(summary.skipped, 2 + 2 + 14);
    assert!(steps.iter().all(|step| step.entry.kind != "queue" || step.request.is_none()));
}

#[test]
fn a_file_of_one_virtual_host_says_none_and_files_that_are_none_are_refused() {
    let file = json!({ "queues": [{ "name": "q", "durable": true }] }).to_string();
    let steps = planned(&file, &Standing::default(), &[]);
    assert_eq!(summary(&steps), Summary { made: 1, ..Summary::default() });
    for (text, expected) in [
        ("[]", "invalid type"),
        ("{\"queues\": {}}", "'queues' must be a list"),
        ("{\"queues\": [{\"name\": \"a\"}, {}]}", "number 2 of 'queues': missing field `name`"),
        ("{\"users\": \"guest\"}", "'users' must be a list"),
    ] {
        let error = Definitions::parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
