//! MQTT 3.1, 3.1.1 and 5.0: one codec and one connection, the version an argument.
//!
//! * [`types`], [`property`], [`reason`]: the words of the specification.
//! * [`codec`]: bytes to packets and back, both directions; clients use it too.
//! * [`connection`]: a broker's side of one connection, sans-IO.
//!
//! Which sections are supported is listed in `docs/protocol/mqtt.md`.

mod alias;
mod authenticate;
pub mod codec;
mod connect;
pub mod connection;
mod convert;
mod deliver;
mod describe;
pub mod property;
mod publish;
pub mod reason;
mod refusal;
pub mod settings;
mod subscribe;
pub mod types;
mod verb;

pub use codec::{DecodeError, EncodeError, Limits, decode, encode};
pub use connection::MqttConnection;
pub use property::{Property, PropertyList};
pub use reason::ReasonCode;
pub use settings::{DeniedPublish, DeniedSubscribe, Settings};
pub use types::{Packet, Version};
