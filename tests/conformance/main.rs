//! One test per normative statement of each protocol, named by it. Sans-IO: real bytes, no sockets, no clock.

mod amqp091;
mod mqtt;

#[path = "../broker/world.rs"]
#[allow(dead_code, reason = "the broker's own tests use all of it")]
mod world;
