//! AMQP 0.9.1 with the extensions that RabbitMQ's clients know. What of it is served: docs/protocol/amqp091.md.
//!
//! * [`reply`]: the codes that close channels and connections.
//! * [`codec`]: bytes to frames, methods, tables and content, and back, both directions.
//! * [`connection`]: a broker's side of one connection, sans-IO: the handshake, channels, heartbeats and every way to end; publishing with
//!   confirms; queues, and consumers with their acknowledgements; transactions.

mod arguments;
mod assembly;
mod blocked;
mod channels;
pub mod codec;
pub mod connection;
mod consume;
mod convert;
pub mod definition;
mod deliver;
mod describe;
mod envelope;
mod exchange;
mod handshake;
mod publish;
mod queue;
mod replies;
pub mod reply;
mod requests;
mod sasl;
pub mod settings;
mod settle;
#[cfg(test)]
mod tests;
mod transaction;
mod violation;

pub use connection::AmqpConnection;
pub use reply::ReplyCode;
pub use settings::Settings;
