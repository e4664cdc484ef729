//! AMQP 0.9.1 with the extensions that RabbitMQ's clients know. Not served yet: no listener speaks it.
//!
//! * [`reply`]: the codes that close channels and connections.
//! * [`codec`]: bytes to frames, methods, tables and content, and back, both directions.

pub mod codec;
pub mod reply;

pub use reply::ReplyCode;
