//! AMQP 0.9.1 with the extensions that RabbitMQ's clients know. Served so far: publishing to topics (docs/protocol/amqp091.md).
//!
//! * [`reply`]: the codes that close channels and connections.
//! * [`codec`]: bytes to frames, methods, tables and content, and back, both directions.
//! * [`connection`]: a broker's side of one connection, sans-IO: the handshake, channels, heartbeats and every way to end;
//!   publishing to `amq.topic`, which is the topic space, with confirms.

mod assembly;
mod channels;
pub mod codec;
pub mod connection;
mod convert;
mod handshake;
mod publish;
pub mod reply;
mod sasl;
pub mod settings;
#[cfg(test)]
mod tests;
mod violation;

pub use connection::AmqpConnection;
pub use reply::ReplyCode;
pub use settings::Settings;
