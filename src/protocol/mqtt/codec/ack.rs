//! PUBACK, PUBREC, PUBREL and PUBCOMP (§3.4 to §3.7): one layout, four types.

use bytes::{BufMut, BytesMut};

use super::primitives::{self, Reader, varint_bytes};
use super::{DecodeError, EncodeError, Limits};
use crate::protocol::mqtt::property::{Place, PropertyList};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{Ack, Version};

/// Which of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckKind {
    /// QoS 1 done.
    PubAck,
    /// QoS 2: stored.
    PubRec,
    /// QoS 2: the sender has seen PUBREC.
    PubRel,
    /// QoS 2 done.
    PubComp,
}

impl AckKind {
    fn first_byte(self) -> u8 {
        match self {
            AckKind::PubAck => 0x40,
            AckKind::PubRec => 0x50,
            // [MQTT-3.6.1-1]
            AckKind::PubRel => 0x62,
            AckKind::PubComp => 0x70,
        }
    }

    fn allows(self, reason: ReasonCode) -> bool {
        match self {
            AckKind::PubAck | AckKind::PubRec => reason.fits_puback(),
            AckKind::PubRel | AckKind::PubComp => reason.fits_pubrel(),
        }
    }
}

pub(super) fn decode(
    kind: AckKind,
    mut body: Reader,
    version: Version,
    limits: &Limits,
) -> Result<Ack, DecodeError> {
    let packet_id = body.packet_id()?;
    if body.is_empty() || !version.is_v5() {
        body.finish()?;
        return Ok(Ack { packet_id, ..Ack::default() });
    }
    let reason = ReasonCode(body.u8()?);
    if !kind.allows(reason) {
        return Err(DecodeError::Protocol("the reason code is not one of this packet"));
    }
    let properties = match body.is_empty() {
        true => PropertyList::default(),
        false => body.properties(version, Place::ACK, limits)?,
    };
    body.finish()?;
    Ok(Ack { packet_id, reason, properties })
}

/// Appends one of the four, in its shortest form: the reason is left out when it is 0x00 and there are no properties.
pub fn encode_ack(
    kind: AckKind,
    ack: &Ack,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let [high, low] = ack.packet_id.to_be_bytes();
    let first = kind.first_byte();
    if !version.is_v5() || (ack.reason == ReasonCode::SUCCESS && ack.properties.is_empty()) {
        out.put_slice(&[first, 2, high, low]);
        return Ok(());
    }
    if ack.properties.is_empty() {
        out.put_slice(&[first, 3, high, low, ack.reason.0]);
        return Ok(());
    }
    let section = ack.properties.as_bytes().len();
    let remaining = 3 + varint_bytes(section) + section;
    if remaining > primitives::REMAINING_MAX {
        return Err(EncodeError::PacketTooLong { bytes: remaining });
    }
    out.put_u8(first);
    primitives::put_varint(out, remaining as u32);
    out.put_slice(&[high, low, ack.reason.0]);
    primitives::put_properties(out, version, &ack.properties)
}
