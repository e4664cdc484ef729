//! The data types of §1.5: integers, variable byte integers, UTF-8 strings, binary data.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{DecodeError, EncodeError, Limits};
use crate::protocol::mqtt::property::{Place, PropertyList};
use crate::protocol::mqtt::types::Version;

/// The largest remaining length (§2.1.4).
pub(super) const REMAINING_MAX: usize = 268_435_455;

pub(super) const NO_PACKET_ID: DecodeError =
    DecodeError::Malformed("a packet identifier must not be 0");

/// The body of one packet, read from its front.
pub(super) struct Reader {
    body: Bytes,
}

impl Reader {
    pub(super) fn new(body: Bytes) -> Reader {
        Reader { body }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.body.first().ok_or(DecodeError::SHORT)?;
        self.body.advance(1);
        Ok(byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        let bytes = self.body.first_chunk().copied().ok_or(DecodeError::SHORT)?;
        self.body.advance(2);
        Ok(u16::from_be_bytes(bytes))
    }

    /// A packet identifier: not 0 [MQTT-2.2.1-3].
    pub(super) fn packet_id(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            0 => Err(NO_PACKET_ID),
            id => Ok(id),
        }
    }

    /// Binary data: two bytes of length, and the bytes.
    pub(super) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }

    /// A UTF-8 string.
    pub(super) fn text(&mut self) -> Result<Bytes, DecodeError> {
        let text = self.binary()?;
        check_text(&text)?;
        Ok(text)
    }

    /// The property list of a 5.0 packet; none before.
    pub(super) fn properties(
        &mut self,
        version: Version,
        place: Place,
        limits: &Limits,
    ) -> Result<PropertyList, DecodeError> {
        if !version.is_v5() {
            return Ok(PropertyList::default());
        }
        let mut rest = &self.body[..];
        let length = take_varint(&mut rest)? as usize;
        let prefix = self.body.len() - rest.len();
        self.body.advance(prefix);
        match length {
            0 => Ok(PropertyList::default()),
            _ => PropertyList::check(self.take(length)?, place, limits),
        }
    }

    /// Everything that is left.
    pub(super) fn rest(self) -> Bytes {
        self.body
    }

    /// Requires that nothing is left.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        match self.body.is_empty() {
            true => Ok(()),
            false => Err(DecodeError::Malformed("bytes follow the last field of the packet")),
        }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        match length <= self.body.len() {
            true => Ok(self.body.split_to(length)),
            false => Err(DecodeError::SHORT),
        }
    }
}

/// [MQTT-1.5.4-1] well-formed UTF-8 without surrogates, [MQTT-1.5.4-2] no U+0000.
///
/// One pass without branches for ASCII, which nearly all topics are.
#[inline]
pub(crate) fn check_text(text: &[u8]) -> Result<(), DecodeError> {
    let (mut all, mut has_nul) = (0, false);
    for byte in text {
        all |= byte;
        has_nul |= *byte == 0;
    }
    if has_nul {
        return Err(DecodeError::Malformed("a string contains U+0000"));
    }
    match all < 0x80 || std::str::from_utf8(text).is_ok() {
        true => Ok(()),
        false => Err(DecodeError::Malformed("a string is not UTF-8")),
    }
}

#[inline]
pub(crate) fn take_u16(rest: &mut &[u8]) -> Result<u16, DecodeError> {
    let (bytes, tail) = rest.split_first_chunk().ok_or(DecodeError::SHORT)?;
    *rest = tail;
    Ok(u16::from_be_bytes(*bytes))
}

#[inline]
pub(crate) fn take_u32(rest: &mut &[u8]) -> Result<u32, DecodeError> {
    let (bytes, tail) = rest.split_first_chunk().ok_or(DecodeError::SHORT)?;
    *rest = tail;
    Ok(u32::from_be_bytes(*bytes))
}

/// A variable byte integer: one to four bytes, no more than needed [MQTT-1.5.5-1].
#[inline]
pub(crate) fn take_varint(rest: &mut &[u8]) -> Result<u32, DecodeError> {
    let mut value = 0;
    for at in 0..4 {
        let byte = *rest.get(at).ok_or(DecodeError::SHORT)?;
        value |= u32::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            if byte == 0 && at > 0 {
                return Err(super::NOT_MINIMAL);
            }
            *rest = &rest[at + 1..];
            return Ok(value);
        }
    }
    Err(DecodeError::Malformed("a variable byte integer has more than four bytes"))
}

/// Appends a variable byte integer of at most four bytes.
pub(crate) fn put_varint(out: &mut BytesMut, value: u32) {
    let (bytes, length) = varint(value);
    out.put_slice(&bytes[..length]);
}

/// Encodes a variable byte integer; the count says how many of the bytes it has.
#[inline]
pub(super) fn varint(mut value: u32) -> ([u8; 4], usize) {
    debug_assert!(value as usize <= REMAINING_MAX, "four bytes hold 28 bits");
    let (mut bytes, mut length) = ([0; 4], 0);
    while value >= 0x80 && length < 3 {
        bytes[length] = value as u8 | 0x80;
        value >>= 7;
        length += 1;
    }
    bytes[length] = value as u8 & 0x7F;
    (bytes, length + 1)
}

#[inline]
pub(super) fn varint_bytes(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Appends binary data or a string.
pub(super) fn put_binary(out: &mut BytesMut, value: &[u8]) -> Result<(), EncodeError> {
    let length = field_length(value)?;
    out.put_u16(length);
    out.put_slice(value);
    Ok(())
}

pub(super) fn field_length(value: &[u8]) -> Result<u16, EncodeError> {
    u16::try_from(value.len()).map_err(|_| EncodeError::FieldTooLong { bytes: value.len() })
}

/// Appends a property list with its length; nothing before 5.0.
pub(super) fn put_properties(
    out: &mut BytesMut,
    version: Version,
    properties: &PropertyList,
) -> Result<(), EncodeError> {
    if version.is_v5() {
        let section = properties.as_bytes();
        if section.len() > REMAINING_MAX {
            return Err(EncodeError::PacketTooLong { bytes: section.len() });
        }
        put_varint(out, section.len() as u32);
        out.put_slice(section);
    }
    Ok(())
}
