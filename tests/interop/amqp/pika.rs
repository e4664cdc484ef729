//! pika for Python publishes and consumes, paho-mqtt is at the other end: the script says what each of them does.

use super::python;
use crate::process::BrokerProcess;
use crate::program::{Program, is_installed};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/amqp/pika_client.py");

pub fn is_pika_installed() -> bool {
    is_installed(&python(), &["-c", "import pika, paho.mqtt.client"])
}

pub fn broker(data: &std::path::Path) -> BrokerProcess {
    super::start(data, "127.0.0.1:0")
}

pub fn play(broker: &mut BrokerProcess, scene: &str) {
    start(broker, scene).finish();
}

/// Starts a scene.
pub fn start(broker: &mut BrokerProcess, scene: &str) -> Program {
    let amqp = broker.address_of("amqp");
    let (host, amqp_port) = amqp.rsplit_once(':').unwrap();
    let mqtt = broker.address_of("mqtt");
    let (_, mqtt_port) = mqtt.rsplit_once(':').unwrap();
    Program::start(&python(), &["-uB", SCRIPT, host, amqp_port, mqtt_port, scene], "")
}

#[test]
fn what_an_amqp_client_publishes_an_mqtt_client_receives() {
    if !is_pika_installed() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let mut broker = broker(data.path());
    play(&mut broker, "publish");
    play(&mut broker, "refusals");
}

#[test]
fn amqp_clients_work_through_queues_and_share_them_with_mqtt() {
    if !is_pika_installed() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let mut broker = broker(data.path());
    play(&mut broker, "work");
    play(&mut broker, "die");
    play(&mut broker, "share");
}

#[test]
fn what_an_amqp_client_acknowledged_stays_so_after_a_kill() {
    if !is_pika_installed() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let mut before = broker(data.path());
    play(&mut before, "hold");
    before.kill();
    play(&mut broker(data.path()), "go_on");
}

#[test]
fn what_was_confirmed_to_an_amqp_client_survives_a_kill() {
    if !is_pika_installed() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let mut before = broker(data.path());
    play(&mut before, "store");
    before.kill();
    play(&mut broker(data.path()), "fetch");
}
