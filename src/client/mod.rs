//! Our own MQTT client, for `mqttctl`, for tests that kill brokers, and for bridges.
//!
//! Bottom first: [`Session`] is what outlives a connection, [`Machine`] one connection without sockets or clocks,
//! [`Client`] a machine on a stream: TCP, TLS or WebSocket. Reconnecting is the caller's business: it keeps the session and decides when.
//! Acknowledging is the caller's business too: a delivery stays unsettled until it says so.

mod authenticate;
mod driver;
pub mod endpoint;
mod error;
mod event;
mod machine;
mod options;
mod session;
mod stream;

#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod exactly_once_tests;
#[cfg(test)]
mod machine_tests;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
pub(crate) mod tiny_broker;

pub use driver::Client;
pub use endpoint::Endpoint;
pub use error::{ClientError, RequestError, reason_words};
pub use event::{AckHandle, Connected, Event, Incoming, PublishRequest, SubscribeRequest};
pub use machine::Machine;
pub use options::{ConnectOptions, WillOptions, user};
pub use session::Session;
