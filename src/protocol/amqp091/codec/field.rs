//! The types that methods and properties are made of (AMQP 0.9.1 §4.2.5), one after the other, without names.
//!
//! Bits that follow one another share an octet, the first in its lowest bit.

use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::DecodeError;

/// Bytes of a short string, at most.
pub const SHORT_STRING_BYTES_MAX: usize = 255;

/// Up to 255 bytes: names, keys, tags. Text by convention; nobody checks it before it means something.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortString(Bytes);

/// Why bytes are no short string.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{bytes} bytes are more than the {SHORT_STRING_BYTES_MAX} of a short string")]
pub struct TooLong {
    /// How many.
    pub bytes: usize,
}

impl ShortString {
    /// Checks the length.
    pub fn new(bytes: Bytes) -> Result<ShortString, TooLong> {
        match bytes.len() {
            0..=SHORT_STRING_BYTES_MAX => Ok(ShortString(bytes)),
            bytes => Err(TooLong { bytes }),
        }
    }

    /// Wraps a name of ours.
    ///
    /// Panics if it has more than 255 bytes.
    pub fn from_static(text: &'static str) -> ShortString {
        assert!(text.len() <= SHORT_STRING_BYTES_MAX, "our own names are short");
        ShortString(Bytes::from_static(text.as_bytes()))
    }

    /// Keeps of a text what fits, whole characters only: reply texts.
    pub fn truncated(text: &str) -> ShortString {
        let mut end = text.len().min(SHORT_STRING_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        ShortString(Bytes::copy_from_slice(&text.as_bytes()[..end]))
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Gives the bytes away.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Returns the text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Returns true when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Copies it, so that keeping it does not keep what it was read from.
    pub fn detached(&self) -> ShortString {
        ShortString(Bytes::copy_from_slice(&self.0))
    }
}

impl fmt::Debug for ShortString {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

/// A field that earlier versions had: read and forgotten, written as nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved<T>(PhantomData<T>);

/// One type of field. `Bytes` is a long string, `bool` a bit.
pub trait Field: Sized {
    /// Reads it.
    fn take(reader: &mut Reader) -> Result<Self, DecodeError>;
    /// Writes it.
    fn put(&self, writer: &mut Writer<'_>);
}

/// Reads fields off the front of what a frame holds.
#[derive(Debug)]
pub struct Reader {
    rest: Bytes,
    what: &'static str,
    /// The octet that the last bits came from, and how many of them are left.
    bits: (u8, u8),
}

impl Reader {
    /// Begins with `bytes`, which are `what`.
    pub fn new(bytes: Bytes, what: &'static str) -> Reader {
        Reader { rest: bytes, what, bits: (0, 0) }
    }

    /// Takes so many bytes, of the memory they are in.
    pub fn bytes(&mut self, count: usize) -> Result<Bytes, DecodeError> {
        self.require(count)?;
        Ok(self.rest.split_to(count))
    }

    /// Returns what is left and is not read.
    pub fn rest(&self) -> &Bytes {
        &self.rest
    }

    /// Reads a field.
    pub fn field<T: Field>(&mut self) -> Result<T, DecodeError> {
        T::take(self)
    }

    /// Ends: nothing may be left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { what: self.what, bytes }),
        }
    }

    fn require(&mut self, count: usize) -> Result<(), DecodeError> {
        self.bits = (0, 0);
        match self.rest.len() >= count {
            true => Ok(()),
            false => Err(DecodeError::Short { what: self.what }),
        }
    }

    fn bit(&mut self) -> Result<bool, DecodeError> {
        let (octet, left) = match self.bits {
            (_, 0) => (u8::take(self)?, 8),
            bits => bits,
        };
        self.bits = (octet >> 1, left - 1);
        Ok(octet & 1 == 1)
    }
}

/// Writes fields, one after the other.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut BytesMut,
    /// Bits that the last octet has, when it has bits.
    bits: u8,
}

impl Writer<'_> {
    /// Appends to `out`.
    pub fn new(out: &mut BytesMut) -> Writer<'_> {
        Writer { out, bits: 0 }
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bits = 0;
        self.out.extend_from_slice(bytes);
    }

    fn bit(&mut self, is_set: bool) {
        if self.bits.is_multiple_of(8) {
            self.out.put_u8(0);
            self.bits = 0;
        }
        let last = self.out.last_mut().expect("an octet for bits was just written");
        *last |= u8::from(is_set) << self.bits;
        self.bits += 1;
    }
}

impl Field for bool {
    fn take(reader: &mut Reader) -> Result<bool, DecodeError> {
        reader.bit()
    }

    fn put(&self, writer: &mut Writer<'_>) {
        writer.bit(*self);
    }
}

impl Field for u8 {
    fn take(reader: &mut Reader) -> Result<u8, DecodeError> {
        reader.require(1)?;
        Ok(reader.rest.get_u8())
    }

    fn put(&self, writer: &mut Writer<'_>) {
        writer.bytes(&[*self]);
    }
}

impl Field for u16 {
    fn take(reader: &mut Reader) -> Result<u16, DecodeError> {
        reader.require(2)?;
        Ok(reader.rest.get_u16())
    }

    fn put(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.to_be_bytes());
    }
}

impl Field for u32 {
    fn take(reader: &mut Reader) -> Result<u32, DecodeError> {
        reader.require(4)?;
        Ok(reader.rest.get_u32())
    }

    fn put(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.to_be_bytes());
    }
}

impl Field for u64 {
    fn take(reader: &mut Reader) -> Result<u64, DecodeError> {
        reader.require(8)?;
        Ok(reader.rest.get_u64())
    }

    fn put(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.to_be_bytes());
    }
}

impl Field for ShortString {
    fn take(reader: &mut Reader) -> Result<ShortString, DecodeError> {
        let count = u8::take(reader)?;
        reader.bytes(usize::from(count)).map(ShortString)
    }

    fn put(&self, writer: &mut Writer<'_>) {
        writer.bytes(&[self.0.len() as u8]);
        writer.bytes(&self.0);
    }
}

/// Panics on writing more than 4 GiB, which no frame can hold.
impl Field for Bytes {
    fn take(reader: &mut Reader) -> Result<Bytes, DecodeError> {
        let count = u32::take(reader)?;
        reader.bytes(count as usize)
    }

    fn put(&self, writer: &mut Writer<'_>) {
        let count = u32::try_from(self.len()).expect("a long string fits into a frame");
        count.put(writer);
        writer.bytes(self);
    }
}

impl<T: Field + Default> Field for Reserved<T> {
    fn take(reader: &mut Reader) -> Result<Reserved<T>, DecodeError> {
        T::take(reader)?;
        Ok(Reserved(PhantomData))
    }

    fn put(&self, writer: &mut Writer<'_>) {
        T::default().put(writer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_share_octets_and_other_fields_end_them() {
        let mut out = BytesMut::new();
        let mut writer = Writer::new(&mut out);
        for is_set in [true, false, true, false, false, false, false, true, true] {
            is_set.put(&mut writer);
        }
        7u8.put(&mut writer);
        true.put(&mut writer);

        assert_eq!(&out[..], [0b1000_0101, 1, 7, 1]);

        let mut reader = Reader::new(out.freeze(), "a test");
        let bits: Vec<bool> = (0..9).map(|_| reader.field().unwrap()).collect();
        assert_eq!(bits, [true, false, true, false, false, false, false, true, true]);
        assert_eq!(reader.field::<u8>(), Ok(7));
        assert_eq!(reader.field::<bool>(), Ok(true));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let long = format!("{}é", "x".repeat(254));

        assert_eq!(ShortString::truncated(&long).as_bytes().len(), 254);
        assert_eq!(ShortString::new(Bytes::from(long)), Err(TooLong { bytes: 256 }));
    }
}
