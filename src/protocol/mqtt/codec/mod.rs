//! Bytes to packets and back.
//!
//! A packet is a type and flags in one byte, the length of the rest as a variable byte integer, and the rest (§2.1). The
//! length is judged before anything is buffered for it; nothing is consumed before a packet is whole.

mod ack;
mod connect;
mod control;
pub(super) mod primitives;
mod publish;
mod subscribe;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use bytes::{Buf, BytesMut};
use thiserror::Error;

use super::reason::ReasonCode;
use super::types::{Packet, Version};
use primitives::{REMAINING_MAX, Reader};

pub use ack::{AckKind, encode_ack};
pub use publish::{PublishHeader, encode_publish, publish_bytes};

/// What a peer may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a packet, its header included.
    pub packet_bytes_max: usize,
    /// Bytes of a CONNECT, its header included.
    pub connect_bytes_max: usize,
    /// User properties in one list.
    pub user_properties_max: usize,
    /// Bytes of their names and values together.
    pub user_property_bytes_max: usize,
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            packet_bytes_max: 1 << 20,
            connect_bytes_max: 64 << 10,
            user_properties_max: 64,
            user_property_bytes_max: 8 << 10,
            filters_max: 1_000,
        }
    }
}

/// Why bytes are no packet. After it the stream has no meaning any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Cannot be parsed.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// Parsed, and not allowed.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The declared length is above the limit.
    #[error("a packet of {bytes} bytes is larger than {bytes_max}")]
    PacketTooLarge {
        /// Declared, header included.
        bytes: usize,
        /// Allowed.
        bytes_max: usize,
    },
    /// CONNECT of a version that is not ours.
    #[error("protocol level {level} is not supported")]
    UnsupportedVersion {
        /// As received.
        level: u8,
    },
    /// [MQTT-3.3.2-8]
    #[error("topic alias {alias} is not valid")]
    TopicAlias {
        /// As received.
        alias: u16,
    },
    /// More than we keep with a message.
    #[error("{count} user properties of {bytes} bytes are more than accepted")]
    UserProperties {
        /// How many.
        count: usize,
        /// Names and values.
        bytes: usize,
    },
    /// More than we answer at once.
    #[error("more than {filters_max} filters in one packet")]
    TooManyFilters {
        /// Allowed.
        filters_max: usize,
    },
}

impl DecodeError {
    /// A field runs past the end of its packet.
    pub(super) const SHORT: DecodeError =
        DecodeError::Malformed("a field runs past the end of the packet");

    /// The reason code to close with [MQTT-4.13.1-1].
    pub fn reason(&self) -> ReasonCode {
        match self {
            DecodeError::Malformed(_) => ReasonCode::MALFORMED_PACKET,
            DecodeError::Protocol(_) => ReasonCode::PROTOCOL_ERROR,
            DecodeError::PacketTooLarge { .. } => ReasonCode::PACKET_TOO_LARGE,
            DecodeError::UnsupportedVersion { .. } => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            DecodeError::TopicAlias { .. } => ReasonCode::TOPIC_ALIAS_INVALID,
            DecodeError::UserProperties { .. } | DecodeError::TooManyFilters { .. } => {
                ReasonCode::QUOTA_EXCEEDED
            }
        }
    }
}

/// Why a packet cannot be written; nothing of it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A string or binary field has two bytes for its length.
    #[error("a field of {bytes} bytes is longer than 65535")]
    FieldTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The length has four bytes of seven bits.
    #[error("a packet of {bytes} bytes is longer than any can be")]
    PacketTooLong {
        /// Its length, header not included.
        bytes: usize,
    },
}

/// The fixed header of §2.1.
struct Header {
    kind: u8,
    flags: u8,
    header_bytes: usize,
    remaining: usize,
    /// False when the length was written with more bytes than needed.
    is_minimal: bool,
}

/// Returns the size of the packet that `input` begins with, header included, once its first bytes tell.
pub fn packet_bytes(input: &[u8]) -> Result<Option<usize>, DecodeError> {
    Ok(read_header(input)?.map(|header| header.header_bytes + header.remaining))
}

/// Takes one packet from the front of `input`; leaves a partial one untouched and returns `None`.
///
/// Without a version only CONNECT is accepted, which brings its own. The caller must close after an error: where the next packet
/// begins is not known. The packet shares the memory of `input`.
#[inline]
pub fn decode(
    input: &mut BytesMut,
    version: Option<Version>,
    limits: &Limits,
) -> Result<Option<Packet>, DecodeError> {
    let Some(header) = read_header(input)? else { return Ok(None) };
    let bytes = header.header_bytes + header.remaining;
    let bytes_max = match header.kind {
        1 => limits.connect_bytes_max.min(limits.packet_bytes_max),
        // [MQTT-3.1.0-1]
        _ if version.is_none() => {
            return Err(DecodeError::Protocol("the first packet must be CONNECT"));
        }
        _ => limits.packet_bytes_max,
    };
    check_flags(&header)?;
    if bytes > bytes_max {
        return Err(DecodeError::PacketTooLarge { bytes, bytes_max });
    }
    // 3.1.1 asks nobody for the shortest form, and small clients write two or four bytes always.
    if !header.is_minimal && version == Some(Version::V5) {
        return Err(NOT_MINIMAL);
    }
    if input.len() < bytes {
        return Ok(None);
    }
    let mut packet = input.split_to(bytes).freeze();
    let version = version.unwrap_or(Version::V311);
    if header.kind == 3 {
        let publish = publish::decode(header.flags, packet, header.header_bytes, version, limits);
        return publish.map(|publish| Some(Packet::Publish(publish)));
    }
    packet.advance(header.header_bytes);
    decode_body(&header, Reader::new(packet), version, limits).map(Some)
}

const NOT_MINIMAL: DecodeError =
    DecodeError::Malformed("a variable byte integer is longer than needed");

fn decode_body(
    header: &Header,
    body: Reader,
    version: Version,
    limits: &Limits,
) -> Result<Packet, DecodeError> {
    match header.kind {
        4 => ack::decode(AckKind::PubAck, body, version, limits).map(Packet::PubAck),
        5 => ack::decode(AckKind::PubRec, body, version, limits).map(Packet::PubRec),
        6 => ack::decode(AckKind::PubRel, body, version, limits).map(Packet::PubRel),
        7 => ack::decode(AckKind::PubComp, body, version, limits).map(Packet::PubComp),
        1 => {
            let connect = connect::decode_connect(body, limits)?;
            match connect.version.is_v5() && !header.is_minimal {
                true => Err(NOT_MINIMAL),
                false => Ok(Packet::Connect(Box::new(connect))),
            }
        }
        2 => connect::decode_connack(body, version, limits).map(Packet::ConnAck),
        8 => subscribe::decode_subscribe(body, version, limits).map(Packet::Subscribe),
        9 => subscribe::decode_suback(body, version, limits).map(Packet::SubAck),
        10 => subscribe::decode_unsubscribe(body, version, limits).map(Packet::Unsubscribe),
        11 => subscribe::decode_unsuback(body, version, limits).map(Packet::UnsubAck),
        12 => body.finish().map(|()| Packet::PingReq),
        13 => body.finish().map(|()| Packet::PingResp),
        14 => control::decode_disconnect(body, version, limits).map(Packet::Disconnect),
        15 if version.is_v5() => control::decode_auth(body, limits).map(Packet::Auth),
        _ => Err(RESERVED_KIND),
    }
}

const RESERVED_KIND: DecodeError = DecodeError::Malformed("the packet type is reserved");

#[inline]
fn read_header(input: &[u8]) -> Result<Option<Header>, DecodeError> {
    let Some((first, rest)) = input.split_first() else { return Ok(None) };
    let (mut remaining, mut length) = (0, 0);
    loop {
        let Some(byte) = rest.get(length) else { return Ok(None) };
        remaining |= usize::from(byte & 0x7F) << (7 * length);
        length += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if length == 4 {
            return Err(DecodeError::Malformed("the remaining length has more than four bytes"));
        }
    }
    let is_minimal = length == 1 || rest[length - 1] != 0;
    Ok(Some(Header {
        kind: first >> 4,
        flags: first & 0x0F,
        header_bytes: 1 + length,
        remaining,
        is_minimal,
    }))
}

/// [MQTT-2.1.3-1]: reserved flag bits have one value. Those of PUBLISH are not reserved.
#[inline]
fn check_flags(header: &Header) -> Result<(), DecodeError> {
    match (header.kind, header.flags) {
        (0, _) => Err(RESERVED_KIND),
        (3, flags) if flags & 0x06 == 0x06 => {
            // [MQTT-3.3.1-4]
            Err(DecodeError::Malformed("a QoS of 3 does not exist"))
        }
        (3, _) | (6 | 8 | 10, 0x02) => Ok(()),
        (6 | 8 | 10, _) | (_, 1..) => {
            Err(DecodeError::Malformed("reserved flags of the fixed header are not as required"))
        }
        _ => Ok(()),
    }
}

/// Appends a packet. What the version does not have is left out: properties, reason codes, AUTH.
pub fn encode(packet: &Packet, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
    match packet {
        Packet::Publish(publish) => {
            let header = PublishHeader {
                topic: &publish.topic,
                qos: publish.qos,
                retain: publish.retain,
                dup: publish.dup,
                packet_id: publish.packet_id,
            };
            encode_publish(&header, publish.properties.as_bytes(), &publish.payload, version, out)
        }
        Packet::PubAck(ack) => encode_ack(AckKind::PubAck, ack, version, out),
        Packet::PubRec(ack) => encode_ack(AckKind::PubRec, ack, version, out),
        Packet::PubRel(ack) => encode_ack(AckKind::PubRel, ack, version, out),
        Packet::PubComp(ack) => encode_ack(AckKind::PubComp, ack, version, out),
        Packet::Connect(packet) => framed(0x10, out, |body| connect::encode_connect(packet, body)),
        Packet::ConnAck(packet) => {
            framed(0x20, out, |body| connect::encode_connack(packet, version, body))
        }
        Packet::Subscribe(packet) => {
            framed(0x82, out, |body| subscribe::encode_subscribe(packet, version, body))
        }
        Packet::SubAck(packet) => {
            framed(0x90, out, |body| subscribe::encode_suback(packet, version, body))
        }
        Packet::Unsubscribe(packet) => {
            framed(0xA2, out, |body| subscribe::encode_unsubscribe(packet, version, body))
        }
        Packet::UnsubAck(packet) => {
            framed(0xB0, out, |body| subscribe::encode_unsuback(packet, version, body))
        }
        Packet::PingReq => framed(0xC0, out, |_| Ok(())),
        Packet::PingResp => framed(0xD0, out, |_| Ok(())),
        Packet::Disconnect(packet) => {
            framed(0xE0, out, |body| control::encode_disconnect(packet, version, body))
        }
        Packet::Auth(packet) => framed(0xF0, out, |body| control::encode_auth(packet, body)),
    }
}

/// Writes the body aside, then type, length and body: the rare packets, where a copy does not matter.
fn framed(
    first: u8,
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let mut body = BytesMut::new();
    write(&mut body)?;
    if body.len() > REMAINING_MAX {
        return Err(EncodeError::PacketTooLong { bytes: body.len() });
    }
    out.extend_from_slice(&[first]);
    primitives::put_varint(out, body.len() as u32);
    out.extend_from_slice(&body);
    Ok(())
}
