//! Numbers of one width each, as wide as the largest needs: any of them is found at once.
//!
//! ```text
//! packed := u32 count | u8 width, at most 32 | count × width bits, the lowest first | 8 bytes of zeros
//! ```
//!
//! The zeros let a reader take eight bytes wherever a number begins.

use super::bits::BitWriter;
use crate::varint::Input;

const WIDTH_MAX: u32 = u32::BITS;
const PADDING_BYTES: usize = 8;

/// Packed numbers in bytes that somebody else holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed<'a> {
    bits: &'a [u8],
    count: usize,
    width: u32,
}

/// Appends numbers.
pub(crate) fn encode(values: &[u32], out: &mut Vec<u8>) {
    let width = values.iter().max().map_or(0, |max| u32::BITS - max.leading_zeros());
    let count = u32::try_from(values.len()).expect("a segment has fewer than 2^32 records");
    out.extend_from_slice(&count.to_le_bytes());
    out.push(width as u8);
    let mut writer = BitWriter::new(out);
    values.iter().for_each(|value| writer.put(u64::from(*value), width));
    writer.finish();
    out.extend_from_slice(&[0; PADDING_BYTES]);
}

impl<'a> Packed<'a> {
    /// Takes what [`encode`] wrote; `None` when the bytes end too early.
    pub(crate) fn read(input: &mut Input<'a>) -> Option<Packed<'a>> {
        let count = input.u32()? as usize;
        let width = u32::from(input.u8()?);
        if width > WIDTH_MAX {
            return None;
        }
        let len = (count as u64 * u64::from(width)).div_ceil(8) + PADDING_BYTES as u64;
        Some(Packed { bits: input.take(usize::try_from(len).ok()?)?, count, width })
    }

    /// Returns how many numbers there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Returns a number. Panics when there are not so many.
    #[inline]
    pub(crate) fn get(&self, at: usize) -> u32 {
        assert!(at < self.count, "number {at} of {}", self.count);
        let bit = at * self.width as usize;
        let bytes = self.bits[bit / 8..bit / 8 + 8].try_into().expect("eight bytes");
        let mask = (1u64 << self.width) - 1;
        (u64::from_le_bytes(bytes) >> (bit % 8) & mask) as u32
    }

    /// Returns those of `range` in turn. Panics when there are not so many.
    pub(crate) fn iter(self, range: std::ops::Range<usize>) -> impl Iterator<Item = u32> + 'a {
        range.map(move |at| self.get(at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_count_that_the_bytes_do_not_hold_is_refused() {
        let mut bytes = Vec::new();
        encode(&[1, 2, 3], &mut bytes);
        for end in 0..bytes.len() {
            assert!(Packed::read(&mut Input::new(&bytes[..end])).is_none());
        }
        bytes[0] = 0xff;
        assert!(Packed::read(&mut Input::new(&bytes)).is_none());
    }

    proptest! {
        #[test]
        fn numbers_survive_the_round_trip(
            values in prop::collection::vec(any::<u32>(), 0..300), width in 0..33u32,
        ) {
            let mask = (1u64 << width) - 1;
            let values: Vec<u32> = values.iter().map(|value| value & mask as u32).collect();
            let mut bytes = Vec::new();
            encode(&values, &mut bytes);

            let mut input = Input::new(&bytes);
            let packed = Packed::read(&mut input).unwrap();

            prop_assert_eq!(input.remaining(), 0);
            prop_assert_eq!(packed.iter(0..packed.len()).collect::<Vec<_>>(), values);
        }
    }
}
