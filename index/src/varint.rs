//! Variable-length integers: LEB128, seven bits a byte, low group first, at most ten bytes.
//!
//! [`Input`] is the one bounded reader of every format here: each step says `None` when the bytes end too early.

/// The longest encoding of a 64-bit integer.
pub const VARINT_BYTES_MAX: usize = 10;

/// Appends `value`.
#[inline]
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Returns how many bytes [`put`] writes.
#[inline]
pub fn len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Maps small negative numbers to small positive ones.
#[inline]
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline]
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// A bounded reader over bytes: the only way the decoders of this package move forward.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Input<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Input { bytes, position: 0 }
    }

    /// Starts at `position`, which must not be behind the end.
    pub fn at(bytes: &'a [u8], position: usize) -> Self {
        assert!(position <= bytes.len(), "input starts behind its end");
        Input { bytes, position }
    }

    /// Reads a variable-length integer; `None` when it is cut short or does not fit in 64 bits.
    #[inline]
    pub fn varint(&mut self) -> Option<u64> {
        let first = self.u8()?;
        if first < 0x80 {
            return Some(u64::from(first));
        }
        let mut value = u64::from(first & 0x7f);
        for shift in (7..70).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Reads a variable-length integer of 32 bits.
    #[inline]
    pub fn varint_u32(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    /// Reads one byte.
    #[inline]
    pub fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.position)?;
        self.position += 1;
        Some(byte)
    }

    /// Reads four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// Reads eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    /// Reads `count` bytes.
    #[inline]
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.position.checked_add(count)?;
        let taken = self.bytes.get(self.position..end)?;
        self.position = end;
        Some(taken)
    }

    /// Reads a length and that many bytes, and returns where they are.
    #[inline]
    pub fn take_prefixed(&mut self) -> Option<std::ops::Range<usize>> {
        let count = usize::try_from(self.varint()?).ok()?;
        let start = self.position;
        self.take(count)?;
        Some(start..self.position)
    }

    /// Returns how far the reader is.
    #[inline]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Returns how many bytes are left.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_integer_of_more_than_64_bits_is_refused() {
        let eleven = [0xff; 11];
        let too_big = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];

        assert_eq!(Input::new(&eleven).varint(), None);
        assert_eq!(Input::new(&too_big).varint(), None);
    }

    proptest! {
        #[test]
        fn integers_survive_the_round_trip(value: u64, signed: i64) {
            let mut out = Vec::new();
            put(&mut out, value);
            put(&mut out, zigzag(signed));
            prop_assert_eq!(len(value) + len(zigzag(signed)), out.len());

            let mut input = Input::new(&out);
            prop_assert_eq!(input.varint(), Some(value));
            prop_assert_eq!(input.varint().map(unzigzag), Some(signed));
            prop_assert_eq!(input.remaining(), 0);
        }

        #[test]
        fn a_cut_integer_is_refused(value in 128u64..) {
            let mut out = Vec::new();
            put(&mut out, value);
            for end in 0..out.len() {
                prop_assert_eq!(Input::new(&out[..end]).varint(), None);
            }
        }
    }
}
