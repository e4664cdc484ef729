//! The neutral message: what every protocol publishes and receives.

use bytes::Bytes;

use super::{Properties, Topic};

/// How surely a message is to arrive (MQTT 5 §4.3). AMQP's confirmed publishes are `AtLeastOnce`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// Fire and forget.
    #[default]
    AtMostOnce = 0,
    /// Acknowledged, may come twice.
    AtLeastOnce = 1,
    /// Acknowledged in two steps, comes once.
    ExactlyOnce = 2,
}

impl QoS {
    /// Reads the two-bit form; 3 is no QoS.
    pub fn from_bits(bits: u8) -> Option<QoS> {
        match bits {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// One message. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: Topic,
    /// The body, opaque.
    pub payload: Bytes,
    /// As published.
    pub qos: QoS,
    /// As published: replaces the topic's retained message, or clears it when the payload is empty.
    pub retain: bool,
    /// Seconds from publishing until it must not be delivered any more.
    pub expiry_s: Option<u32>,
    /// Everything else the publisher said about it.
    pub properties: Properties,
    /// Names the publisher for No Local and duplicate detection; 0 is nobody. See [`publisher_id`].
    pub publisher: u64,
}

impl Message {
    /// Returns the bytes of what the publisher said: topic, properties and payload.
    pub fn len_bytes(&self) -> usize {
        self.topic.as_bytes().len() + self.properties.as_bytes().len() + self.payload.len()
    }

    /// Copies it into memory of its own: slices keep what they are of, a frame of the log or what a socket was read into.
    pub fn detached(&self) -> Message {
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        Message {
            topic: Topic::from_stored(copy(self.topic.as_bytes())),
            payload: copy(&self.payload),
            properties: Properties::from_encoded(copy(self.properties.as_bytes())),
            ..*self
        }
    }
}

/// Returns the number that stands for a client id in records.
pub fn publisher_id(client_id: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(client_id).max(1)
}
