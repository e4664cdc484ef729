//! The first hour of a new user, step by step as docs/start/first-hour.md walks it: queues, groups, dead letters and replay with
//! mosquitto's clients, and mqttctl where no client can ask.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::mosquitto::{Stage, are_clients_installed};
use crate::program::{Program, run};

const MQTTCTL: &str = env!("CARGO_BIN_EXE_mqttctl");
/// What a worker prints of a message: where it is, what it is, and its user properties.
const ENTRY: &str = "ENTRY %t|%p|%P";
/// PUBACK of a verb whose entry was pending, and of one whose was not.
const SETTLED: u8 = 0x00;
const NOT_PENDING: u8 = 0x10;

/// What a consumer was given.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    topic: String,
    payload: String,
    properties: String,
}

impl Entry {
    /// The entry's name, `<queue>:<offset>`.
    fn id(&self) -> &str {
        self.property("message-id").expect("every entry has a name")
    }

    fn property(&self, name: &str) -> Option<&str> {
        let mut pairs = self.properties.split(' ').filter_map(|pair| pair.split_once(':'));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

fn entries<'a>(said: impl IntoIterator<Item = &'a String>) -> Vec<Entry> {
    let lines = said.into_iter().filter_map(|line| line.strip_prefix("ENTRY "));
    let entry = |line: &str| {
        let mut fields = line.splitn(3, '|').map(str::to_owned);
        let [topic, payload, properties] = std::array::from_fn(|_| fields.next().unwrap());
        Entry { topic, payload, properties }
    };
    lines.map(entry).collect()
}

fn ids(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(Entry::id).collect()
}

struct Walk {
    stage: Stage,
}

impl Walk {
    fn worker(&self, name: &str) -> Program {
        self.consumer(&["-i", name], &["consumer-group", "workers", "settle", "explicit"])
    }

    fn consumer(&self, arguments: &[&str], said: &[&str]) -> Program {
        let mut all = vec!["-V", "5", "-q", "1", "-t", "$queue/orders/#", "-F", ENTRY];
        all.extend(arguments);
        for pair in said.chunks(2) {
            all.extend(["-D", "SUBSCRIBE", "user-property", pair[0], pair[1]]);
        }
        self.stage.subscriber(&all)
    }

    fn publish(&self, topic: &str, payload: &str) {
        self.stage.publish(&["-q", "1", "-t", topic, "-m", payload], "");
    }

    /// Settles an entry of the workers and returns what PUBACK says.
    fn settle(&self, verb: &str, id: &str) -> u8 {
        let topic = format!("$queue/orders/${verb}");
        let mut arguments = vec!["-V", "5", "-q", "1", "-t", &topic, "-n"];
        for [key, value] in [["message-id", id], ["group-id", "workers"]] {
            arguments.extend(["-D", "PUBLISH", "user-property", key, value]);
        }
        let said = self.stage.start("mosquitto_pub", &arguments, "").finish();
        let code =
            said.iter().find_map(|line| line.split_once("received PUBACK")?.1.split_once("RC:"));
        code.expect("it is acknowledged").1.trim_end_matches(')').parse().unwrap()
    }

    fn ctl(&self, arguments: &[&str]) -> Vec<String> {
        let port = self.stage.port();
        run(MQTTCTL, &[arguments, &["-p", &port]].concat(), "")
    }

    /// What is said of the workers: committed, pending, lag.
    fn progress(&self) -> [u64; 3] {
        let said = self.ctl(&["group", "show", "orders", "workers", "--json"]);
        let group: serde_json::Value = serde_json::from_str(&said[0]).unwrap();
        ["committed", "pending", "lag"].map(|field| group[field].as_u64().unwrap())
    }
}

#[test]
fn a_queue_is_shared_settled_killed_rejected_redriven_and_read_again() {
    if !are_clients_installed() {
        return;
    }
    let mut walk = Walk { stage: Stage::new() };
    let (workers, mut all) = share_six_orders(&walk);
    for id in &all[..4] {
        assert_eq!(walk.settle("ack", id), SETTLED, "{id}");
        assert_eq!(walk.settle("ack", id), NOT_PENDING, "{id} again");
    }
    assert_eq!(walk.settle("ack", "orders:99"), NOT_PENDING);

    walk.stage.kill();
    drop(workers);
    walk.stage.restart();

    assert_eq!(walk.progress(), [4, 0, 2], "what was settled is, what was not waits");
    assert_eq!(walk.settle("ack", "orders:5"), NOT_PENDING, "nobody has it");
    let mut worker = walk.worker("one");
    worker.expect_count("ENTRY", 2);
    assert_eq!(ids(&entries(&worker.said)), ["orders:4", "orders:5"]);

    assert_eq!(walk.settle("nack", "orders:4"), SETTLED);
    worker.expect("ENTRY");
    let again = entries(&worker.said).pop().unwrap();
    assert_eq!((again.id(), again.property("delivery-count")), ("orders:4", Some("1")));

    assert_eq!(walk.settle("ack", "orders:5"), SETTLED);
    bring_a_dead_letter_back(&walk, &mut worker);
    all.push("orders:6".to_owned());

    let audit = ["consumer-group", "audit", "cursor", "earliest"];
    let said = walk.consumer(&["-C", "7"], &audit).finish();
    assert_eq!(ids(&entries(&said)), all, "settled long ago, and there for another group");
    assert_eq!(walk.progress(), [7, 0, 0]);
}

/// Two workers get what is published, each message one of them. Returns them, because one that leaves gives back what it has, and the
/// entries' names in order.
fn share_six_orders(walk: &Walk) -> ([Program; 2], Vec<String>) {
    let [mut one, mut two] = ["one", "two"].map(|name| walk.worker(name));
    for number in 0..6 {
        let country = if number % 2 == 0 { "eu" } else { "us" };
        walk.publish(&format!("$queue/orders/{country}"), &format!("order {number}"));
    }
    one.expect_count("ENTRY", 3);
    two.expect_count("ENTRY", 3);
    assert_eq!(walk.progress(), [0, 6, 6]);
    let got = [entries(&one.said), entries(&two.said)].concat();
    let shared: BTreeSet<&str> = got.iter().map(Entry::id).collect();
    let expected: Vec<String> = (0..6).map(|number| format!("orders:{number}")).collect();
    assert_eq!(shared.into_iter().collect::<Vec<_>>(), expected);
    assert!(got.iter().all(|entry| entry.property("group-id") == Some("workers")));
    ([one, two], expected)
}

/// What is rejected is a dead letter; redriven, it is in its queue again and says how it died.
fn bring_a_dead_letter_back(walk: &Walk, worker: &mut Program) {
    assert_eq!(walk.settle("reject", "orders:4"), SETTLED);

    let letter = walk.ctl(&["queue", "peek", "$dlq/orders", "--json"]);
    let letter: serde_json::Value = serde_json::from_str(&letter[0]).unwrap();
    assert_eq!(
        (&letter["topic"], &letter["payload"]),
        (&"$dlq/orders/eu".into(), &"order 4".into())
    );
    assert_eq!(
        walk.ctl(&["queue", "redrive", "orders"]),
        ["$dlq/orders: 1 message published again"]
    );

    worker.expect("ENTRY");
    let back = entries(&worker.said).pop().unwrap();
    assert_eq!(
        (back.id(), &back.payload[..], &back.topic[..]),
        ("orders:6", "order 4", "$queue/orders/eu")
    );
    let died = ["x-death-queue", "x-death-reason", "x-death-group"].map(|name| back.property(name));
    assert_eq!(died, [Some("orders"), Some("rejected"), Some("workers")]);
    assert_eq!(walk.settle("ack", "orders:6"), SETTLED);
    assert!(walk.ctl(&["queue", "peek", "$dlq/orders"]).is_empty());
}

#[test]
fn a_plain_topic_is_replayed_by_time_and_held_by_a_queue_that_is_declared_later() {
    if !are_clients_installed() {
        return;
    }
    let mut walk = Walk { stage: Stage::new() };
    for site in 1..=3 {
        walk.publish(&format!("sensors/{site}/temp"), &format!("2{site}"));
    }
    walk.publish("sensors/1/humidity", "60");
    walk.stage.kill_and_start();
    let older = ["sensors/1/temp 21", "sensors/2/temp 22", "sensors/3/temp 23"];
    let read = |from: &str, count: &str| {
        let options =
            ["-V", "5", "-q", "1", "-t", "sensors/+/temp", "-F", "ENTRY %t %p", "-C", count];
        let from = ["-D", "SUBSCRIBE", "user-property", "replay-from", from];
        let said = walk.stage.start("mosquitto_sub", &[&options[..], &from].concat(), "").finish();
        let lines = said.iter().filter_map(|line| line.strip_prefix("ENTRY "));
        lines.map(str::to_owned).collect::<BTreeSet<String>>()
    };
    assert_eq!(read("-24h", "3"), older.map(str::to_owned).into());

    // Between is a moment: log time is in milliseconds.
    let said = walk.ctl(&["replay", "sensors/+/temp", "--json"]);
    let times = said.iter().map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        let pairs = message["properties"]["user"].as_array().unwrap().clone();
        let time = pairs.into_iter().find(|pair| pair[0] == "x-stream-timestamp").unwrap();
        time[1].as_str().unwrap().parse::<u64>().unwrap()
    });
    let later = times.max().unwrap() + 1;
    while now_ms() <= later {
        std::thread::yield_now();
    }
    walk.publish("sensors/4/temp", "24");
    let newer = format!("timestamp={later}");
    assert_eq!(read(&newer, "1"), ["sensors/4/temp 24".to_owned()].into());

    let declare =
        ["queue", "declare", "temps", "--binding", "sensors/+/temp", "--from", "earliest"];
    assert_eq!(walk.ctl(&declare), ["temps: declared"]);
    walk.publish("sensors/5/temp", "25");
    let options = ["-V", "5", "-q", "1", "-t", "$queue/temps/#", "-F", ENTRY, "-C", "5"];
    let said = walk.stage.subscriber(&options).finish();
    let held = entries(&said);
    let offsets: Vec<&str> = held.iter().filter_map(|entry| entry.property("offset")).collect();
    assert_eq!(offsets, ["0", "1", "2", "3", "4"]);
    let sources: BTreeSet<String> = held
        .iter()
        .map(|entry| format!("{} {}", entry.property("x-source-topic").unwrap(), entry.payload))
        .collect();
    let all = older.iter().chain(&["sensors/4/temp 24", "sensors/5/temp 25"]);
    assert_eq!(sources, all.map(|it| (*it).to_owned()).collect());
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}
