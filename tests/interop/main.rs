//! Clients that nobody here wrote, against the real binary: mosquitto's and amqp-tools from Debian, and those of PyPI, npm and crates.io.
//!
//! Peers that are no clients at all come beside them. A client that is not installed is skipped with the reason on standard error, unless `FLUXMQ_INTEROP=required`: then the
//! test fails. `FLUXMQ_PYTHON` names the Python that has paho-mqtt, and pika, aio-pika, kombu and Celery where AMQP is to be tried (default
//! `python3`), `FLUXMQ_NODE_MODULES` the folder of MQTT.js and amqplib, `FLUXMQ_LAPIN` the program that plays lapin's scenes.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

mod amqp;
mod first_hour;
mod javascript;
mod mosquitto;
mod mosquitto_durable;
mod mosquitto_five;
mod mosquitto_replay;
mod mqttctl;
mod mqttctl_amqp;
mod mqttctl_queues;
mod paho;
mod program;
mod rumqttc;
mod slow;
mod strangers;

#[path = "../durability/inspect.rs"]
mod inspect;
#[path = "../durability/process.rs"]
#[allow(dead_code, reason = "the durability tests use all of it")]
mod process;
