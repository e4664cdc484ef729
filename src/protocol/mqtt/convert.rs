//! Properties of PUBLISH and of wills ↔ the neutral message's, without loss.
//!
//! What publishers may not say is stripped here: names beginning with `_flux.` and the broker's own delivery properties.

use bytes::{Bytes, BytesMut};

use super::codec::primitives::check_text;
use super::property::{
    Property, PropertyList, put_bytes, put_flag, put_four, put_subscription_id, put_user,
};
use super::refusal::Violation;
use crate::model::Property as Neutral;
use crate::model::properties::is_reserved;
use crate::model::{Delivery, Properties};

/// What the properties of a PUBLISH or a will say, apart.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) alias: Option<u16>,
    pub(super) expiry_s: Option<u32>,
    pub(super) delay_s: u32,
    pub(super) properties: Properties,
}

/// Takes the properties that a client sent apart.
pub(super) fn parts(list: &PropertyList) -> Result<Parts, Violation> {
    let mut parts = Parts::default();
    if list.is_empty() {
        return Ok(parts);
    }
    let mut neutral = Vec::with_capacity(8);
    for property in list.iter() {
        match property {
            Property::TopicAlias(alias) => parts.alias = Some(alias),
            Property::MessageExpiry(seconds) => parts.expiry_s = Some(seconds),
            Property::WillDelay(seconds) => parts.delay_s = seconds,
            Property::PayloadFormat(is_text) => neutral.push(Neutral::PayloadFormat(is_text)),
            Property::ContentType(value) => neutral.push(Neutral::ContentType(value)),
            Property::ResponseTopic(value) => neutral.push(Neutral::ResponseTopic(value)),
            Property::CorrelationData(value) => neutral.push(Neutral::CorrelationData(value)),
            Property::User(key, value) if !is_reserved(&key) => {
                neutral.push(Neutral::User(key, value));
            }
            Property::User(..) => {}
            Property::SubscriptionId(_) => {
                // [MQTT-3.3.4-6]
                return Err(Violation::protocol("clients must not send subscription identifiers"));
            }
            // The codec lets nothing else into these packets.
            _ => {}
        }
    }
    if !neutral.is_empty() {
        parts.properties = Properties::encode(&neutral);
    }
    Ok(parts)
}

/// Writes the property list of a delivery into `out`: what is left of its expiry, every subscription identifier,
/// what the publisher said in its order, and the broker's annotations as user properties.
pub(super) fn put_delivery_properties(
    delivery: &Delivery,
    expiry_s: Option<u32>,
    out: &mut BytesMut,
) {
    if let Some(seconds) = expiry_s {
        put_four(out, 0x02, seconds);
    }
    for id in delivery.subscription_ids.iter().filter(|id| (1..1 << 28).contains(*id)) {
        put_subscription_id(out, *id);
    }
    if !delivery.message.properties.is_empty() {
        delivery.message.properties.iter().for_each(|property| put_neutral(&property, out));
    }
    delivery.annotations.each(delivery.id.offset, |key, value| {
        if is_text(value.as_bytes()) {
            put_user(out, key.as_bytes(), value.as_bytes());
        }
    });
}

/// Other protocols allow values that MQTT cannot say; one of them would make the whole packet malformed for its receiver.
fn put_neutral(property: &Neutral, out: &mut BytesMut) {
    match property {
        Neutral::PayloadFormat(is_text) => put_flag(out, 0x01, *is_text),
        Neutral::ContentType(value) if is_text(value) => put_bytes(out, 0x03, value),
        Neutral::ResponseTopic(value) if is_text(value) && !is_wild(value) => {
            put_bytes(out, 0x08, value);
        }
        Neutral::CorrelationData(value) if value.len() <= usize::from(u16::MAX) => {
            put_bytes(out, 0x09, value);
        }
        Neutral::User(key, value) if is_text(key) && is_text(value) => put_user(out, key, value),
        Neutral::ContentType(_)
        | Neutral::ResponseTopic(_)
        | Neutral::CorrelationData(_)
        | Neutral::User(..)
        | Neutral::Amqp091(_) => {}
    }
}

fn is_text(value: &[u8]) -> bool {
    value.len() <= usize::from(u16::MAX) && check_text(value).is_ok()
}

fn is_wild(value: &[u8]) -> bool {
    value.iter().any(|byte| matches!(byte, b'+' | b'#'))
}

/// Returns more than the property list of a delivery can have: each neutral property has at least half the bytes it has here.
pub(super) fn property_bytes_bound(delivery: &Delivery) -> usize {
    let mut annotations = 0;
    delivery.annotations.each(delivery.id.offset, |key, value| {
        annotations += 5 + key.len() + value.len();
    });
    5 + 5 * delivery.subscription_ids.len()
        + 2 * delivery.message.properties.as_bytes().len()
        + annotations
}

/// Detaches a small value from the packet it came in, so that keeping it does not keep the packet.
pub(super) fn detached(value: &Bytes) -> Bytes {
    Bytes::copy_from_slice(value)
}
