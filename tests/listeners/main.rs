//! Listeners over real sockets on loopback: TLS, WebSocket, the PROXY protocol, limits. Certificates are made for each test.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

mod client;
mod limits;
mod proxy;
mod support;
mod tls;
mod websocket;
