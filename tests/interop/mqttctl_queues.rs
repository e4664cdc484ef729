//! `mqttctl queue` and `mqttctl group`, each command against a real broker, with what it prints and how it ends when it is refused.

use serde_json::{Value, json};

use crate::mosquitto::Stage;
use crate::program::{Program, run};

const MQTTCTL: &str = env!("CARGO_BIN_EXE_mqttctl");

struct Shell {
    stage: Stage,
}

impl Shell {
    fn new() -> Shell {
        Shell { stage: Stage::new() }
    }

    /// Runs a command, which must succeed.
    fn say(&self, line: &str) -> Vec<String> {
        let port = self.stage.port();
        run(MQTTCTL, &words(line, &port), "")
    }

    /// Runs a command with `--json`, which must print one object.
    fn json(&self, line: &str) -> Value {
        let said = self.say(&format!("{line} --json"));
        assert_eq!(said.len(), 1, "{said:?}");
        serde_json::from_str(&said[0]).unwrap()
    }

    /// Runs a command that must be refused with an exit code and these words.
    fn refuses(&self, line: &str, code: i32, reason: &str) {
        let port = self.stage.port();
        let ((found, name), said) = Program::start(MQTTCTL, &words(line, &port), "").end();
        assert_eq!(found, Some(code), "{name}: {said:?}");
        assert!(said.join("\n").contains(reason), "{name}: {said:?} does not say '{reason}'");
    }

    /// Publishes and waits until it is stored.
    fn publish(&self, topic: &str, payload: &str) {
        self.say(&format!("publish {topic} -m {payload} -q 1"));
    }

    /// Reads with a group, without settling, until `count` entries came.
    fn reader(&self, queue: &str, group: &str, count: usize) -> Program {
        let port = self.stage.port();
        let line =
            format!("subscribe $queue/{queue}/# -q 1 --group {group} -U settle=explicit -vv");
        let mut reader = Program::start(MQTTCTL, &words(&line, &port), "");
        reader.expect_count("message-id", count);
        reader
    }

    /// Says how a group's entry ended.
    fn settle(&self, queue: &str, verb: &str, entry: u64, group: &str) {
        let id = format!("message-id={queue}:{entry}");
        self.say(&format!("publish $queue/{queue}/${verb} -n -q 1 -U {id} -U group-id={group}"));
    }
}

fn words<'a>(line: &'a str, port: &'a str) -> Vec<&'a str> {
    line.split(' ').chain(["-p", port]).collect()
}

#[test]
fn a_queue_is_declared_listed_shown_peeked_purged_and_deleted() {
    let shell = Shell::new();
    let declare = "queue declare orders --binding shop/+/order --deliveries-max 5 --backoff 10,50";
    assert_eq!(shell.say(declare), ["orders: declared"]);
    assert_eq!(shell.say(declare), ["orders: was there, and is just so"]);
    shell.refuses("queue declare orders --deliveries-max 5", 1, "another 'bindings'");
    shell.say("queue declare more");
    shell.say("queue declare readings --type stream --primary-group work --messages-max 1000");
    let all = "queue type lifetime messages ready unacked bytes groups consumers";
    let listed = |line: &str| -> Vec<String> {
        shell
            .say(line)
            .iter()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    let rows = ["more classic", "orders classic", "readings stream"]
        .map(|queue| format!("{queue} durable 0 0 0 0 0 0"));
    let rows = [&rows[0], &rows[1], &rows[2]].map(String::as_str);
    assert_eq!(listed("queue list"), [&[all], &rows[..]].concat());
    assert_eq!(listed("queue list --limit 1 --after more"), [all, rows[1]]);
    assert_eq!(shell.json("queue list --after orders")["type"], "stream");

    for number in 0..3 {
        shell.publish("shop/eu/order", &format!("shop{number}"));
        shell.publish("$queue/orders/us", &format!("queue{number}"));
    }
    let shown = shell.json("queue show orders");
    let fields = ["queue", "type", "messages", "head", "end"].map(|field| shown[field].clone());
    assert_eq!(fields, [json!("orders"), json!("classic"), json!(6), json!(0), json!(6)]);
    let settings =
        json!({ "bindings": ["shop/+/order"], "deliveries_max": 5, "backoff_ms": [10, 50] });
    assert_eq!(shown["settings"], settings);
    let peeked = shell.say("queue peek orders --from 3 --count 2");
    assert_eq!(peeked, ["3 $queue/orders/us queue1", "4 $queue/orders/shop/eu/order shop2"]);
    let oldest = shell.json("queue peek orders -n 1");
    assert_eq!((&oldest["offset"], &oldest["payload"]), (&json!(0), &json!("shop0")));
    assert!(shell.say("queue peek orders --from 6").is_empty(), "beyond the end");

    let said = "'readings' is a stream and is not purged: its limits end what is old";
    shell.refuses("queue purge readings", 1, said);
    assert_eq!(shell.say("queue purge orders"), ["orders: purged of 6 messages"]);
    assert!(shell.say("queue peek orders").is_empty());
    shell.publish("$queue/orders/us", "after");
    assert_eq!(shell.say("queue peek orders"), ["6 $queue/orders/us after"]);
    assert_eq!(shell.say("queue delete orders"), ["orders: deleted, with 1 message"]);
    assert_eq!(listed("queue list"), [all, rows[0], rows[2]]);
}

#[test]
fn a_queue_that_ends_by_itself_is_declared_shown_and_gone() {
    let shell = Shell::new();
    let declare = "queue declare brief --lifetime transient --auto-delete --expires 60";
    assert_eq!(shell.say(declare), ["brief: declared"]);
    let settings = json!({ "lifetime": "transient", "auto_delete": true, "expires_s": 60.0 });
    assert_eq!(shell.json("queue show brief")["settings"], settings);
    shell.refuses("queue declare brief --expires 61", 1, "another 'lifetime'");
    shell.refuses("queue declare mine --lifetime owned", 3, "durable, transient");
    let reader = shell.reader("brief", "work", 0);
    let consumers = || shell.json("queue list")["consumers"].as_u64().unwrap();
    let deadline = std::time::Instant::now() + crate::process::PATIENCE;
    while consumers() == 0 {
        assert!(std::time::Instant::now() < deadline, "it does not read");
    }

    reader.kill();

    while !shell.say("queue list --json").is_empty() {
        assert!(std::time::Instant::now() < deadline, "the queue outlives its consumer");
    }
}

#[test]
fn groups_are_shown_moved_and_deleted_and_what_is_read_is_not_taken_away() {
    let shell = Shell::new();
    for number in 0..8 {
        shell.publish("$queue/orders/eu", &number.to_string());
    }
    let reader = shell.reader("orders", "work", 8);
    (0..5).for_each(|entry| shell.settle("orders", "ack", entry, "work"));
    let progress = |shell: &Shell| {
        let group = shell.json("group show orders work");
        ["consumers", "committed", "cursor", "pending", "lag"]
            .map(|field| group[field].as_u64().unwrap())
    };
    assert_eq!(progress(&shell), [1, 5, 8, 3, 3]);
    let stats = shell.json("queue stats orders");
    assert_eq!((&stats["messages"], &stats["groups"][0]["committed"]), (&json!(8), &json!(5)));
    assert!(stats["groups"][0]["lag_s"].as_f64().unwrap() > 0.0, "{stats}");
    shell.refuses("queue delete orders", 1, "end its consumers first");
    shell.refuses("group delete orders work", 1, "end its members first");
    reader.kill();

    for (to, moved, committed) in [
        ("earliest", "5 messages", 0),
        ("offset=7", "7 messages", 7),
        ("last=2", "1 message", 6),
        ("latest", "2 messages", 8),
        ("-1h", "8 messages", 0),
    ] {
        let line = format!("group seek orders work --to={to}");
        assert_eq!(shell.say(&line), [format!("work moved over {moved}")], "{to}");
        assert_eq!(progress(&shell), [0, committed, committed, 0, 8 - committed], "{to}");
    }
    let again = shell.reader("orders", "work", 8);
    again.kill();
    let listed = shell.json("group list orders");
    assert_eq!((&listed["group"], &listed["lag"]), (&json!("work"), &json!(8)));

    // The connection that was cut off is gone when the broker has seen it.
    let deadline = std::time::Instant::now() + crate::process::PATIENCE;
    while progress(&shell)[0] > 0 {
        assert!(std::time::Instant::now() < deadline, "a reader stays");
    }
    assert_eq!(shell.say("group delete orders work"), ["work deleted"]);
    shell.refuses("group show orders work", 1, "queue 'orders' has no consumer group 'work'");
    shell.refuses("group seek orders work --to earliest", 1, "has no consumer group 'work'");
}

/// Each entry is published by a process of its own: no two have the same time.
#[test]
fn a_group_is_moved_to_a_time_and_told_what_is_not_kept_any_more() {
    let shell = Shell::new();
    shell.say("queue declare orders --messages-max 3");
    shell.publish("$queue/orders", "0");
    shell.reader("orders", "work", 1).kill();
    for number in 1..5 {
        shell.publish("$queue/orders", &number.to_string());
    }
    let head = |shell: &Shell| shell.json("queue show orders")["head"].as_u64();
    let deadline = std::time::Instant::now() + crate::process::PATIENCE;
    while head(&shell) != Some(2) {
        assert!(std::time::Instant::now() < deadline, "two entries are too many");
    }

    let peeked = shell.say("queue peek orders --from 3 --count 1 --json");
    let fourth: Value = serde_json::from_str(&peeked[0]).unwrap();
    let ms = fourth["time_ms"].as_i64().unwrap();
    let date = jiff::Timestamp::from_millisecond(ms).unwrap();
    for (to, committed, gone) in [
        ("offset=1".to_owned(), 2, "; 1 before it are not kept any more"),
        (format!("timestamp={ms}"), 3, ""),
        ("earliest".to_owned(), 2, ""),
        (date.to_string(), 3, ""),
        ("timestamp=0".to_owned(), 2, "; some before it are not kept any more"),
    ] {
        let said = shell.say(&format!("group seek orders work --to={to}")).join("");
        assert!(said.starts_with("work moved over ") && said.ends_with(gone), "{to}: {said}");
        assert_eq!(said.contains("kept"), !gone.is_empty(), "{to}: {said}");
        assert_eq!(shell.json("group show orders work")["committed"], json!(committed), "{to}");
    }
}

#[test]
fn dead_letters_are_redriven_by_filter_by_count_and_all() {
    let shell = Shell::new();
    for (number, country) in ["eu", "us", "eu", "us", "eu"].iter().enumerate() {
        shell.publish(&format!("$queue/orders/{country}"), &number.to_string());
    }
    shell.refuses(
        "queue redrive orders",
        1,
        "there is no queue '$dlq/orders': nothing of 'orders' has died",
    );
    let reader = shell.reader("orders", "work", 5);
    (0..5).for_each(|entry| shell.settle("orders", "reject", entry, "work"));
    assert_eq!(shell.json("queue show $dlq/orders")["messages"], 5);

    let redrive = "queue redrive orders";
    let again = |count: &str| [format!("$dlq/orders: {count} published again")];
    assert_eq!(shell.say(&format!("{redrive} --filter us")), again("2 messages"));
    assert_eq!(shell.say(&format!("{redrive} --count 1")), again("1 message"));
    assert_eq!(shell.say(&format!("{redrive} --filter asia/#")), again("0 messages"));
    assert_eq!(shell.say("queue redrive $dlq/orders --as-it-is"), again("2 messages"));
    assert_eq!(shell.say(redrive), again("0 messages"));

    let back = shell.say("queue peek orders --from 5");
    let expected = ["5 us 1", "6 us 3", "7 eu 0", "8 eu 2", "9 eu 4"].map(|it| {
        let mut words = it.split(' ');
        let [entry, country, payload] = std::array::from_fn(|_| words.next().unwrap());
        format!("{entry} $queue/orders/{country} {payload}")
    });
    assert_eq!(back, expected);
    drop(reader);
}

#[test]
fn a_queue_is_named_as_addresses_or_as_amqp_have_it() {
    let shell = Shell::new();
    assert_eq!(shell.say("queue declare a/b"), ["a%2Fb: declared"]);
    assert_eq!(shell.say("queue declare a%2Fb"), ["a%2Fb: was there, and is just so"]);
    assert_eq!(shell.say("queue declare staging%3Aq"), ["staging%3Aq: declared"]);
    let listed = shell.say("queue list");
    assert!(listed[1].starts_with("a%2Fb (a/b) "), "{listed:?}");
    assert!(listed[2].starts_with("staging%3Aq (q in staging) "), "{listed:?}");
    assert_eq!(shell.say("queue delete a/b"), ["a%2Fb: deleted, with 0 messages"]);
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason_and_a_code() {
    let shell = Shell::new();
    for command in ["show", "stats", "peek", "purge", "delete"] {
        shell.refuses(&format!("queue {command} nope"), 1, "there is no queue 'nope'");
    }
    for command in ["list nope", "show nope g", "seek nope g --to latest", "delete nope g"] {
        shell.refuses(&format!("group {command}"), 1, "there is no queue 'nope'");
    }
    for (line, reason) in [
        ("q --binding a/#/b", "'#' in the last"),
        ("q --binding $queue/other/#", "bind it to a filter over ordinary topics"),
        ("q --priority-max 12", "priorities go from 0 to 9"),
        ("q --type ephemeral --ttl 5", "ttl_s means nothing to queues of type ephemeral"),
        ("q --primary-group g", "primary_group means nothing to queues of type classic"),
        ("q --from earliest", "name the topics whose history it holds"),
    ] {
        shell.refuses(&format!("queue declare {line}"), 1, reason);
    }
    assert!(shell.say("queue list --json").is_empty(), "nothing was declared");
    shell.say("queue declare q");
    shell.refuses("group seek q g --to yesterday", 1, "'yesterday' is no position: use earliest");
    shell.refuses("queue redrive q --as-it-is --filter a/#/b", 1, "'#' in the last");
    shell.refuses("queue list -V 3.1.1", 3, "managed over MQTT 5");
    shell.refuses("queue declare q --type lifo", 3, "classic, stream, ephemeral");
    shell.refuses("queue show nope --json", 1, "\"reason_code\":");
    let unreachable = ["queue", "list", "-p", "1"];
    let ((code, _), said) = Program::start(MQTTCTL, &unreachable, "").end();
    assert_eq!(code, Some(2), "{said:?}");
}
