//! The words of the broker: what can be said, without behaviour beyond encode, decode and validate.
//!
//! Protocols and views never see each other; they meet here.

pub mod address;
pub mod annotations;
pub mod base64;
pub mod command;
pub mod connection;
pub mod consume;
mod control_codec;
pub mod death;
pub mod effect;
pub mod exchange;
mod exchange_codec;
pub mod fields;
pub mod frame;
pub mod ids;
pub mod input;
mod managed;
pub mod message;
pub mod moment;
pub mod peer;
pub mod principal;
pub mod properties;
pub mod published;
mod publisher_codec;
pub mod queue;
mod queue_codec;
pub mod queue_json;
pub mod record;
pub mod table_json;
pub mod topic_pattern;
pub mod turn_queue;
pub mod virtual_host;

pub use address::{AddressError, Filter, QueueName, Selection, Topic};
pub use annotations::Annotations;
pub use command::{Command, Outcome, RetainHandling};
pub use connection::{ChannelDescription, ConnectionDescription, ConnectionQuestion};
pub use consume::{Commit, Consume, Credit, Got, QueueAnswer, QueueCommand, QueueRefusal, Route};
pub use death::{Certificate, Death};
pub use effect::{Delivery, Effect, Refusal};
pub use exchange::{
    Bind, Destination, ExchangeBinding, ExchangeCommand, ExchangeId, ExchangeKind, ExchangeRefusal,
    ExchangeSettings,
};
pub use ids::{DeliveryId, DeliverySource, Millis, PartitionId, ReaderId, Token};
pub use input::{Input, InputError};
pub use message::{Message, QoS};
pub use peer::{CertificateIdentity, PeerInfo, Transport};
pub use principal::{Principal, PrincipalError};
pub use properties::{Properties, Property};
pub use published::Published;
pub use queue::QueueSettings;
pub use record::{Control, OutboundEntry, Record, SessionProgress, StoredMessage, Subscription};
pub use topic_pattern::TopicPattern;
pub use turn_queue::TurnQueue;
pub use virtual_host::VirtualHost;
