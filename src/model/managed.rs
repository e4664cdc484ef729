//! What is asked below `$management/`: of whom, and what (ADR 0051).

use super::address::reserved;
use super::{AddressError, QueueName, Topic};

/// What is asked of whom, below `$management/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManageAddress {
    /// `$management/queues` and its kin: which there are.
    List(ManagedKind),
    /// `$management/queue/<name>/<operation>`.
    Queue(QueueName, String),
    /// `$management/exchange/<name>/<operation>`.
    Exchange(QueueName, String),
    /// `$management/connection/<number>/<operation>`.
    Connection(u64, String),
}

/// What can be listed below `$management/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManagedKind {
    /// Queues.
    Queues,
    /// Exchanges.
    Exchanges,
    /// What is bound to what.
    Bindings,
    /// Connections of clients.
    Connections,
    /// Their channels.
    Channels,
}

/// What is listed by its plural.
const MANAGED: [(&str, ManagedKind); 5] = [
    ("queues", ManagedKind::Queues),
    ("exchanges", ManagedKind::Exchanges),
    ("bindings", ManagedKind::Bindings),
    ("connections", ManagedKind::Connections),
    ("channels", ManagedKind::Channels),
];

impl ManageAddress {
    /// Reads what a topic below `$management` asks for.
    pub fn of(topic: &Topic) -> Result<ManageAddress, AddressError> {
        let text = topic.as_str();
        let (_, rest) = text.split_once('/').ok_or_else(|| reserved(text))?;
        if let Some((_, kind)) = MANAGED.iter().find(|(plural, _)| *plural == rest) {
            return Ok(ManageAddress::List(*kind));
        }
        let (what, rest) = rest.split_once('/').ok_or_else(|| reserved(text))?;
        let (name, operation) = rest.rsplit_once('/').ok_or_else(|| reserved(text))?;
        let (bytes, operation) =
            (topic.as_bytes().slice_ref(name.as_bytes()), operation.to_owned());
        match what {
            "queue" => Ok(ManageAddress::Queue(QueueName::from_text(bytes)?, operation)),
            "exchange" => Ok(ManageAddress::Exchange(QueueName::new(bytes)?, operation)),
            "connection" => match name.parse() {
                Ok(number) => Ok(ManageAddress::Connection(number, operation)),
                Err(_) => Err(reserved(text)),
            },
            _ => Err(reserved(text)),
        }
    }
}
