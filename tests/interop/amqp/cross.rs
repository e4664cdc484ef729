//! MQTT and AMQP 0.9.1 over the same log, with stock clients of both: pika and paho-mqtt.

use super::{Client, start};

fn play(scene: &str) {
    let packages = "pika, paho.mqtt.client";
    let Some(client) = Client::python("cross_client.py", packages) else { return };
    let data = tempfile::tempdir().unwrap();
    let mut broker = start(data.path(), "127.0.0.1:0");
    let (amqp, mqtt) = (broker.address_of("amqp"), broker.address_of("mqtt"));
    let (host, amqp_port) = amqp.rsplit_once(':').unwrap();
    let (_, mqtt_port) = mqtt.rsplit_once(':').unwrap();
    client.start(&[host, amqp_port, mqtt_port], scene).finish();
}

#[test]
fn both_read_the_same_offsets_and_properties() {
    play("telemetry");
}

#[test]
fn what_amqp_publishes_mqtt_has_now_and_after_it_was_away() {
    play("sessions");
}

#[test]
fn members_of_one_group_settle_for_each_other() {
    play("group");
    play("settle");
}
