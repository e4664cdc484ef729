//! PUBLISH (§3.3): the packet that must be fast.
//!
//! Decoding takes three slices and allocates nothing; encoding writes once into the output, no copy aside.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::primitives::{
    self, NO_PACKET_ID, REMAINING_MAX, check_text, field_length, take_u16, take_varint,
    varint_bytes,
};
use super::{DecodeError, EncodeError, Limits};
use crate::model::QoS;
use crate::protocol::mqtt::property::{Place, PropertyList};
use crate::protocol::mqtt::types::{Publish, Version};

/// What a PUBLISH has before its properties.
#[derive(Clone, Copy, Debug)]
pub struct PublishHeader<'a> {
    /// Empty when an alias stands for it.
    pub topic: &'a [u8],
    /// How surely.
    pub qos: QoS,
    /// Retained.
    pub retain: bool,
    /// Sent before, perhaps.
    pub dup: bool,
    /// Written when the QoS is not 0.
    pub packet_id: u16,
}

/// Reads a PUBLISH whose topic, packet id and properties begin at `at` in `packet`.
///
/// Everything is judged in place; then topic and payload are cut out, one reference count each.
#[inline]
pub(super) fn decode(
    flags: u8,
    mut packet: Bytes,
    at: usize,
    version: Version,
    limits: &Limits,
) -> Result<Publish, DecodeError> {
    let qos = QoS::from_bits((flags >> 1) & 3)
        .ok_or(DecodeError::Malformed("a QoS of 3 does not exist"))?;
    let dup = flags & 8 != 0;
    if dup && qos == QoS::AtMostOnce {
        // [MQTT-3.3.1-2]
        return Err(DecodeError::Malformed("DUP must be 0 when the QoS is 0"));
    }
    let mut rest = &packet[at..];
    let length = usize::from(take_u16(&mut rest)?);
    let (topic, mut rest) = rest.split_at_checked(length).ok_or(DecodeError::SHORT)?;
    check_text(topic)?;
    let packet_id = match qos {
        QoS::AtMostOnce => 0,
        _ => match take_u16(&mut rest)? {
            0 => return Err(NO_PACKET_ID),
            packet_id => packet_id,
        },
    };
    let mut properties = PropertyList::default();
    if version.is_v5() {
        let length = take_varint(&mut rest)? as usize;
        let (section, tail) = rest.split_at_checked(length).ok_or(DecodeError::SHORT)?;
        if !section.is_empty() {
            properties = PropertyList::check(packet.slice_ref(section), Place::PUBLISH, limits)?;
        }
        rest = tail;
    }
    let payload_at = packet.len() - rest.len();
    let topic = match length {
        0 => Bytes::new(),
        _ => packet.slice(at + 2..at + 2 + length),
    };
    packet.advance(payload_at);
    Ok(Publish { dup, qos, retain: flags & 1 != 0, topic, packet_id, properties, payload: packet })
}

/// Returns how many bytes [`encode_publish`] will write.
pub fn publish_bytes(
    header: &PublishHeader<'_>,
    properties: &[u8],
    payload: &[u8],
    version: Version,
) -> usize {
    let remaining = remaining(header, properties, payload, version);
    1 + varint_bytes(remaining) + remaining
}

fn remaining(
    header: &PublishHeader<'_>,
    properties: &[u8],
    payload: &[u8],
    version: Version,
) -> usize {
    let packet_id = if header.qos == QoS::AtMostOnce { 0 } else { 2 };
    let section = match version.is_v5() {
        true => varint_bytes(properties.len()) + properties.len(),
        false => 0,
    };
    2 + header.topic.len() + packet_id + section + payload.len()
}

/// Appends a PUBLISH. `properties` is an encoded list without its length, ignored before 5.0.
#[inline]
pub fn encode_publish(
    header: &PublishHeader<'_>,
    properties: &[u8],
    payload: &[u8],
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let topic_length = field_length(header.topic)?;
    let remaining = remaining(header, properties, payload, version);
    if remaining > REMAINING_MAX {
        return Err(EncodeError::PacketTooLong { bytes: remaining });
    }
    let first =
        0x30 | u8::from(header.dup) << 3 | (header.qos as u8) << 1 | u8::from(header.retain);
    // The head in one piece: every append checks the room again.
    let (length, length_bytes) = primitives::varint(remaining as u32);
    let mut head = [0; 7];
    head[0] = first;
    head[1..=length_bytes].copy_from_slice(&length[..length_bytes]);
    head[1 + length_bytes..3 + length_bytes].copy_from_slice(&topic_length.to_be_bytes());
    out.reserve(1 + length_bytes + remaining);
    out.put_slice(&head[..3 + length_bytes]);
    out.put_slice(header.topic);
    if header.qos != QoS::AtMostOnce {
        out.put_u16(header.packet_id);
    }
    if version.is_v5() {
        primitives::put_varint(out, properties.len() as u32);
        out.put_slice(properties);
    }
    out.put_slice(payload);
    Ok(())
}
