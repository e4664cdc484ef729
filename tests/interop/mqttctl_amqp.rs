//! `mqttctl` looks at what pika made and at who is connected, ends a connection, and moves a RabbitMQ's topology here.

use serde_json::{Value, json};

use crate::amqp::pika::{self, is_pika_installed};
use crate::process::BrokerProcess;
use crate::program::{Program, run};

const MQTTCTL: &str = env!("CARGO_BIN_EXE_mqttctl");
const DEFINITIONS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/rabbitmq_definitions.json");

struct Shell {
    broker: BrokerProcess,
    port: String,
    _data: tempfile::TempDir,
}

impl Shell {
    fn new() -> Shell {
        let data = tempfile::tempdir().unwrap();
        let mut broker = pika::broker(data.path());
        let address = broker.address_of("mqtt");
        let (_, port) = address.rsplit_once(':').unwrap();
        Shell { port: port.to_owned(), broker, _data: data }
    }

    /// Runs a command, which must end so; returns what it printed.
    fn ends(&self, words: &[&str], code: i32) -> Vec<String> {
        let words = [words, &["-p", &self.port]].concat();
        let ((found, name), said) = Program::start(MQTTCTL, &words, "").end();
        assert_eq!(found, Some(code), "{name}: {said:?}");
        said
    }

    /// Runs a command with `--json`, and reads what it prints line by line.
    fn rows(&self, line: &str) -> Vec<Value> {
        let words: Vec<&str> = line.split(' ').chain(["--json", "-p", &self.port]).collect();
        let said = run(MQTTCTL, &words, "");
        said.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn say(&self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split(' ').chain(["-p", &self.port]).collect();
        run(MQTTCTL, &words, "")
    }

    fn exported(&self) -> Value {
        let said = self.say("definitions export").join("\n");
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

fn names(rows: &[Value], field: &str) -> Vec<String> {
    rows.iter().map(|row| row[field].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_pika_made_is_listed_exported_unbound_and_deleted() {
    if !is_pika_installed() {
        return;
    }
    let mut shell = Shell::new();
    pika::play(&mut shell.broker, "topology");

    let exchanges = shell.rows("exchange list");
    let own = names(&exchanges, "exchange").into_iter().filter(|name| !name.starts_with("amq."));
    assert_eq!(own.collect::<Vec<_>>(), ["attributes", "brief", "events", "unrouted"]);
    let events = &shell.rows("exchange show events")[0];
    let expected = json!({
        "exchange": "events", "type": "topic", "lifetime": "durable", "auto_delete": false, "internal": false,
        "alternate": "unrouted", "bindings": 2
    });
    assert_eq!(events, &expected);
    let bindings = shell.rows("binding list");
    let places: Vec<[String; 3]> = bindings
        .iter()
        .map(|row| {
            ["destination", "source", "routing_key"]
                .map(|it| names(std::slice::from_ref(row), it).remove(0))
        })
        .collect();
    let place = |it: [&str; 3]| it.map(str::to_owned);
    let expected = [
        ["jobs", "amq.topic", "iot.*"],
        ["jobs", "brief", "now"],
        ["jobs", "events", "job.#"],
        ["votes", "attributes", "k"],
        ["brief", "events", "now"],
    ];
    assert_eq!(places, expected.map(place));
    let arguments = json!({
        "x-match": "any", "size": 42, "deep": { "list": [1, "two", null, 2.5] }, "flag": true
    });
    assert_eq!(bindings[3]["arguments"], arguments);
    let jobs = &shell.rows("queue show jobs")[0];
    assert_eq!((&jobs["settings"]["ttl_s"], &jobs["lifetime"]), (&json!(1.5), &json!("durable")));

    let exported = shell.exported();
    let queues = json!([
        { "name": "jobs", "vhost": "/", "durable": true, "auto_delete": false,
          "arguments": { "x-message-ttl": 1500, "x-max-length": 10 } },
        { "name": "votes", "vhost": "/", "durable": true, "auto_delete": false,
          "arguments": { "x-queue-type": "quorum" } },
    ]);
    assert_eq!(exported["queues"], queues);
    assert_eq!(exported["exchanges"].as_array().unwrap().len(), 4);
    assert_eq!(exported["bindings"].as_array().unwrap().len(), 5);

    let text = arguments.to_string();
    let unbind = ["queue", "unbind", "votes", "attributes", "--routing-key", "k"];
    let said = shell.ends(&unbind, 1);
    assert!(said.join("").contains("is not bound to 'attributes' by that key"), "{said:?}");
    shell.ends(&[&unbind[..], &["--arguments", &text]].concat(), 0);
    assert!(shell.rows("queue bindings votes").is_empty());
    shell.say("queue unbind jobs brief --routing-key now");
    let gone = shell.ends(&["exchange", "show", "brief"], 1);
    assert!(gone.join("").contains("there is no exchange 'brief'"), "it ended with its binding");
    let used = shell.ends(&["exchange", "delete", "events", "--if-unused"], 1);
    assert!(used.join("").contains("has bindings"), "{used:?}");
    shell.say("exchange delete events");
    shell.say("queue delete jobs");
    assert_eq!(names(&shell.rows("queue list"), "queue"), ["votes"]);
    assert!(shell.rows("binding list").is_empty());
}

#[test]
fn connections_and_channels_are_listed_and_one_is_closed_with_a_reason() {
    if !is_pika_installed() {
        return;
    }
    let mut shell = Shell::new();
    let mut worker = pika::start(&mut shell.broker, "hold_open");
    worker.expect("open ");
    let own = worker.said.back().unwrap().split(' ').next_back().unwrap().to_owned();
    let words = ["subscribe", "nothing", "-i", "device", "-q", "1", "-p", &shell.port];
    let mut device = Program::start(MQTTCTL, &[&words[..], &["-W", "60", "-vv"]].concat(), "");

    let find = |protocol: &str, field: &str, value: &str| {
        let deadline = std::time::Instant::now() + crate::process::PATIENCE;
        loop {
            let rows = shell.rows("connection list");
            let is_it = |row: &&Value| {
                let said = field.split('.').fold(*row, |row, at| &row[at]);
                row["protocol"] == json!(protocol) && *said == json!(value)
            };
            if let Some(row) = rows.iter().find(is_it) {
                return row.clone();
            }
            assert!(std::time::Instant::now() < deadline, "{value} is not there: {rows:?}");
        }
    };
    let row = find("AMQP", "client.connection_name", "the worker");
    let fields = ["version", "transport", "state", "vhost", "channels", "consumers", "unacked"];
    let expected = json!(["0.9.1", "tcp", "running", "/", 2, 1, 2]);
    assert_eq!(json!(fields.map(|field| row[field].clone())), expected);
    assert!(row["client"]["product"].as_str().unwrap().contains("Pika"), "{row}");
    assert!(row["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(row["since_ms"].as_u64().unwrap() > 1_600_000_000_000);
    assert_eq!(row["received"]["publishes"], json!(3));
    let number = row["connection"].as_u64().unwrap();
    let channels = shell.rows("channel list");
    let fields = ["connection", "channel", "mode", "consumers", "unacked", "prefetch"];
    let brief = |row: &Value| json!(fields.map(|field| row[field].clone()));
    let expected = [json!([number, 1, "confirm", 0, 0, 0]), json!([number, 2, "none", 1, 2, 2])];
    assert_eq!(channels.iter().map(brief).collect::<Vec<_>>(), expected);
    assert_eq!(shell.rows(&format!("channel show {number} 2"))[0], channels[1]);
    let held = &shell.rows("queue show held")[0];
    assert_eq!((&held["ready"], &held["unacked"]), (&json!(1), &json!(2)));
    assert_eq!(shell.rows(&format!("queue show {own}"))[0]["owner"], json!(number));
    let text = shell.say(&format!("connection show {number}")).join("\n");
    assert!(text.contains("since ") && text.contains("confirm"), "{text}");

    let close = format!("connection close {number}");
    let closed = shell.say(&format!("{close} --reason maintenance"));
    assert_eq!(closed, [format!("{number}: closed")]);
    worker.finish();
    let again = shell.ends(&close.split(' ').collect::<Vec<_>>(), 1);
    assert!(again.join("").contains(&format!("there is no connection {number}")), "{again:?}");

    let row = find("MQTT", "client_id", "device");
    assert_eq!((&row["version"], &row["subscriptions"]), (&json!("5.0"), &json!(1)));
    shell.say(&format!("connection close {}", row["connection"]));
    device.expect("closed by an administrator");
    let ((code, _), said) = device.end();
    assert!(said.iter().any(|line| line.contains("0x98")), "{said:?}");
    assert_eq!(code, Some(2));
}

#[test]
fn a_rabbitmqs_definitions_are_imported_and_what_is_not_is_said() {
    let mut shell = Shell::new();
    let import = ["definitions", "import", DEFINITIONS];
    let dry = shell.ends(&[&import[..], &["--dry-run"]].concat(), 1);
    assert!(dry.iter().any(|line| line.contains("a dry run, nothing was done")), "{dry:?}");
    assert!(shell.rows("queue list").is_empty(), "nothing was done");

    let said = shell.ends(&import, 1);

    let summary = "36 made, 3 there, 2 applied, 0 skipped, 0 differ, 12 left, 0 refused";
    assert!(said.contains(&summary.to_owned()), "{said:?}");
    let entries = |said: &[String]| -> Vec<String> {
        let is_entry =
            |line: &&String| line.contains('\'') && !line.contains("objects of the file");
        said.iter().filter(is_entry).cloned().collect()
    };
    assert_eq!(entries(&dry), entries(&said), "a dry run says the same");
    let again = shell.ends(&[&import[..], &["--json"]].concat(), 1);
    let counts = again.iter().find(|line| line.contains("\"summary\"")).unwrap();
    let counts: Value = serde_json::from_str(counts).unwrap();
    assert_eq!((&counts["summary"]["made"], &counts["summary"]["there"]), (&json!(0), &json!(39)));
    assert_eq!(counts["summary"]["differs"], json!(0));

    // Out and in again, elsewhere: the same topology.
    let exported = shell.exported();
    let file = shell._data.path().join("exported.json");
    std::fs::write(&file, exported.to_string()).unwrap();
    let elsewhere = Shell::new();
    let file = file.to_str().unwrap();
    let said = elsewhere.ends(&["definitions", "import", file], 0);
    assert!(said.iter().any(|line| line.starts_with("36 made, 2 there")), "{said:?}");
    assert_eq!(elsewhere.exported(), exported);
    elsewhere.ends(&["definitions", "export", file], 0);
    let written: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(written, exported);
    if is_pika_installed() {
        pika::play(&mut shell.broker, "match_imported");
    }

    let rest = "users,permissions,topic_permissions,parameters,global_parameters,vhosts,policies";
    let words = [&import[..], &["--without", rest, "--dry-run"]].concat();
    let said = shell.ends(&words, 1);
    assert!(said.iter().any(|line| line.contains("differs  queue 'mail.welcome'")), "{said:?}");
}
