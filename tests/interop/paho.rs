//! paho-mqtt for Python: the script says what it does, the test kills the broker under it.

use std::time::Duration;

use crate::process::{BrokerProcess, Start};
use crate::program::{Program, is_installed};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/paho_client.py");
const KILLS: usize = 3;

fn python() -> String {
    std::env::var("FLUXMQ_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn is_paho_installed() -> bool {
    is_installed(&python(), &["-c", "import paho.mqtt.client"])
}

fn start(broker: &BrokerProcess, scene: &str) -> Program {
    let (host, port) = broker.address().rsplit_once(':').unwrap();
    Program::start(&python(), &["-u", SCRIPT, host, port, scene], "")
}

#[test]
fn every_version_publishes_subscribes_and_carries_properties() {
    if !is_paho_installed() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let broker = BrokerProcess::start(data.path());

    start(&broker, "round-trips").finish();
    start(&broker, "properties").finish();
    start(&broker, "will").finish();
    start(&broker, "goodbye").finish();
}

#[test]
fn a_queue_is_read_from_the_earliest_and_settled() {
    if !is_paho_installed() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let broker = BrokerProcess::start(data.path());
    start(&broker, "queue-publish").finish();
    broker.kill();
    let broker = BrokerProcess::start(data.path());
    start(&broker, "queue-consume").finish();
}

#[test]
fn what_two_workers_settled_is_settled_after_a_kill_and_the_rest_comes_again() {
    if !is_paho_installed() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let broker = BrokerProcess::start(data.path());
    start(&broker, "work").finish();
    broker.kill();
    let broker = BrokerProcess::start(data.path());
    start(&broker, "rest-of-work").finish();
}

/// Both of paho's clients keep their sessions in memory and connect again by themselves, to the same port.
#[test]
fn qos_2_between_two_clients_is_exactly_once_across_kills() {
    if !is_paho_installed() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let mut broker = BrokerProcess::start(data.path());
    let mut script = start(&broker, "exactly-once");
    for kill in 0..KILLS {
        script.expect_count("published", 3 + kill);
        let listen = broker.address().to_owned();
        broker.kill();
        BrokerProcess::start_and_kill(data.path(), &Start::default(), Duration::from_millis(20));
        let start = Start { listen, ..Start::default() };
        broker = BrokerProcess::start_with(data.path(), &start);
    }
    let said = script.finish();
    assert!(said.iter().any(|line| line == "exactly once"), "{}", said.join("\n"));
}
