//! Listeners over real sockets on loopback: TLS, WebSocket, the PROXY protocol, limits; `program` has the real binary. Certificates are
//! made for each test.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

mod amqp;
mod client;
mod limits;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod program;
mod proxy;
mod scram;
mod support;
mod tls;
mod websocket;

#[cfg(target_os = "linux")]
#[path = "../durability/process.rs"]
#[allow(dead_code, reason = "the durability tests use all of it")]
mod process;

#[path = "../amqp/mod.rs"]
mod peer;
