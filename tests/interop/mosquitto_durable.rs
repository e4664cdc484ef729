//! mosquitto_pub and mosquitto_sub around a broker that is killed: sessions with a backlog, and queues.

use std::collections::BTreeSet;

use crate::inspect::{assert_reads, assert_verifies, wal_tools};
use crate::mosquitto::{Stage, VERSIONS, are_clients_installed, messages};
use crate::program::run;

const EARLIEST: [&str; 5] = ["-D", "SUBSCRIBE", "user-property", "cursor", "earliest"];

#[test]
fn an_offline_session_gets_its_backlog_in_order_after_a_kill() {
    if !are_clients_installed() {
        return;
    }
    let mut stage = Stage::new();
    for version in VERSIONS {
        for qos in ["1", "2"] {
            let (topic, id) = (format!("away/{version}/{qos}"), format!("away-{version}-{qos}"));
            let mut session = vec!["-V", version, "-q", qos, "-t", &topic, "-c", "-i", &id];
            if version == "5" {
                session.extend(["-x", "3600"]);
            }
            stage.start("mosquitto_sub", &[&session[..], &["-E"]].concat(), "").finish();

            stage.publish(&["-V", version, "-q", qos, "-t", &topic, "-l"], &lines(50));
            stage.kill_and_start();

            let back = stage.start("mosquitto_sub", &[&session[..], &["-C", "50"]].concat(), "");
            let said = back.finish();
            let expected: Vec<_> = (1..=50).map(|n| format!("{topic} {qos} 0 {n}")).collect();
            assert_eq!(messages(&said), expected, "version {version}, QoS {qos}");
        }
    }
}

/// What a new user tries first: the issue's own words.
#[test]
fn a_thousand_messages_in_a_queue_survive_kill_9_and_are_read_from_the_earliest() {
    if !are_clients_installed() {
        return;
    }
    let mut stage = Stage::new();
    stage.publish(&["-q", "1", "-t", "$queue/orders/new", "-l"], &lines(1000));

    stage.kill_and_start();

    let arguments = ["-V", "5", "-q", "1", "-t", "$queue/orders/#", "-C", "1000"];
    let said = stage.start("mosquitto_sub", &[&arguments[..], &EARLIEST].concat(), "").finish();
    let expected: Vec<_> = (1..=1000).map(|n| format!("$queue/orders/new 1 0 {n}")).collect();
    assert_eq!(messages(&said), expected);
    assert_reads(stage.data.path(), &[0]);
    let data = stage.data.path().to_str().unwrap();
    let dump = run(wal_tools().to_str().unwrap(), &["dump", "--queue", "orders", data], "");
    let printed = dump.iter().filter(|line| line.contains("$queue/orders/new")).count();
    assert_eq!(printed, 1000, "{:?}", dump.first());
    stage.kill();
    assert_verifies(stage.data.path(), &[0, 1]);
}

/// mosquitto_pub says which of its messages were confirmed: those are in the queue, in order, whatever the kill cut off.
#[test]
fn what_mosquitto_pub_saw_confirmed_before_the_kill_is_in_the_queue() {
    if !are_clients_installed() {
        return;
    }
    let mut stage = Stage::new();
    let arguments = ["-q", "1", "-t", "$queue/orders/new", "-l"];
    let mut publisher = stage.start("mosquitto_pub", &arguments, &lines(20_000));
    publisher.expect_count("received PUBACK", 700);
    stage.kill();
    let confirmed = confirmed(publisher);
    assert!(confirmed.len() >= 700 && confirmed.len() < 20_000, "{}", confirmed.len());

    stage.restart();

    let count = confirmed.len().to_string();
    let arguments = ["-V", "5", "-q", "1", "-t", "$queue/orders/#", "-C", &count];
    let said = stage.start("mosquitto_sub", &[&arguments[..], &EARLIEST].concat(), "").finish();
    let read: Vec<u32> = messages(&said)
        .into_iter()
        .map(|message| message.rsplit_once(' ').unwrap().1.parse().unwrap())
        .collect();
    assert!(read.is_sorted(), "in order");
    let read: BTreeSet<u32> = read.into_iter().collect();
    let missing: Vec<_> = confirmed.difference(&read).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Clients of 3.1.1 have no properties: the group is the client id, and begins at the earliest.
#[test]
fn a_client_of_3_1_1_consumes_a_queue_and_goes_on_where_it_was() {
    if !are_clients_installed() {
        return;
    }
    let mut stage = Stage::new();
    stage.publish(&["-V", "311", "-q", "1", "-t", "$queue/jobs/a", "-l"], &lines(40));
    let consumer = ["-V", "311", "-q", "1", "-i", "worker", "-t", "$queue/jobs/#"];

    let first = stage.start("mosquitto_sub", &[&consumer[..], &["-C", "15"]].concat(), "").finish();
    stage.kill_and_start();
    let mut second = stage.start("mosquitto_sub", &consumer, "");
    second.expect("$queue/jobs/a 1 0 40");
    let second: Vec<String> = std::mem::take(&mut second.said).into();

    let number = |message: &&str| message.rsplit_once(' ').unwrap().1.parse::<u32>().unwrap();
    let first: Vec<u32> = messages(&first).iter().map(number).collect();
    let second: Vec<u32> = messages(&second).iter().map(number).collect();
    assert_eq!(first, (1..=15).collect::<Vec<_>>());
    // What the kill cut off from being settled comes again; nothing is skipped.
    assert!(second[0] <= 16, "{second:?}");
    assert_eq!(second, (second[0]..=40).collect::<Vec<_>>());
}

fn lines(count: u32) -> String {
    (1..=count).map(|number| format!("{number}\n")).collect()
}

/// Stops a publisher and returns the numbers of the messages it saw confirmed: message ids count from 1, as the lines do.
fn confirmed(publisher: crate::program::Program) -> BTreeSet<u32> {
    let said = publisher.stop();
    let id = |line: &String| {
        let (_, rest) = line.split_once("received PUBACK (Mid: ")?;
        rest.split([',', ')']).next()?.parse().ok()
    };
    said.iter().filter_map(id).collect()
}
