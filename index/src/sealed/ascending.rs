//! Numbers that never descend: every 128th whole, the steps between packed as wide as the widest of their block.
//!
//! ```text
//! ascending := u32 count | u32 len of steps | blocks × (u64 first | u32 at, where its steps begin | u8 width) | steps
//! ```
//!
//! A block of n numbers has n − 1 steps. The steps end with 16 bytes of zeros, so that a reader may take sixteen anywhere.

use super::bits::{self, BitWriter};
use crate::varint::Input;

const BLOCK: usize = 128;
const ENTRY_BYTES: usize = 13;
const PADDING_BYTES: usize = 16;

/// Ascending numbers in bytes that somebody else holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ascending<'a> {
    blocks: &'a [u8],
    steps: &'a [u8],
    count: usize,
}

/// Appends numbers. Panics when one is below its predecessor.
pub(crate) fn encode(values: &[u64], out: &mut Vec<u8>) {
    let count = u32::try_from(values.len()).expect("a segment has fewer than 2^32 records");
    let mut steps = Vec::new();
    let mut blocks = Vec::with_capacity(values.len().div_ceil(BLOCK) * ENTRY_BYTES);
    for block in values.chunks(BLOCK) {
        let step = |pair: &[u64]| pair[1].checked_sub(pair[0]).expect("the numbers ascend");
        let widest = block.windows(2).map(step).max().unwrap_or(0);
        let width = u64::BITS - widest.leading_zeros();
        let at = u32::try_from(steps.len()).expect("steps take less than 4 GiB");
        blocks.extend_from_slice(&block[0].to_le_bytes());
        blocks.extend_from_slice(&at.to_le_bytes());
        blocks.push(width as u8);
        let mut writer = BitWriter::new(&mut steps);
        block.windows(2).for_each(|pair| writer.put(step(pair), width));
        writer.finish();
    }
    steps.extend_from_slice(&[0; PADDING_BYTES]);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&(steps.len() as u32).to_le_bytes());
    out.extend_from_slice(&blocks);
    out.extend_from_slice(&steps);
}

impl<'a> Ascending<'a> {
    /// Takes what [`encode`] wrote; `None` when the bytes end too early or a block claims steps that are not there.
    pub(crate) fn read(input: &mut Input<'a>) -> Option<Ascending<'a>> {
        let count = input.u32()? as usize;
        let steps_len = input.u32()? as usize;
        let blocks = input.take(count.div_ceil(BLOCK).checked_mul(ENTRY_BYTES)?)?;
        let steps = input.take(steps_len)?;
        let ascending = Ascending { blocks, steps, count };
        let is_inside = |block: usize| {
            let (_, at, width) = ascending.block(block);
            let steps = BLOCK.min(count - block * BLOCK) - 1;
            let end = at as u64 + (steps as u64 * u64::from(width)).div_ceil(8);
            width <= 64 && end + PADDING_BYTES as u64 <= steps_len as u64
        };
        (0..count.div_ceil(BLOCK)).all(is_inside).then_some(ascending)
    }

    /// Returns how many numbers there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Returns a number. Panics when there are not so many.
    pub(crate) fn get(&self, at: usize) -> u64 {
        assert!(at < self.count, "number {at} of {}", self.count);
        let (first, start, width) = self.block(at / BLOCK);
        let steps = (0..at % BLOCK).map(|step| self.step(start, width, step));
        steps.fold(first, u64::wrapping_add)
    }

    /// Returns a number and the one after it. Panics when there are not so many.
    pub(crate) fn pair(&self, at: usize) -> (u64, u64) {
        if (at + 1).is_multiple_of(BLOCK) {
            return (self.get(at), self.get(at + 1));
        }
        let value = self.get(at);
        assert!(at + 1 < self.count, "number {} of {}", at + 1, self.count);
        let (_, start, width) = self.block(at / BLOCK);
        (value, value.wrapping_add(self.step(start, width, at % BLOCK)))
    }

    /// Returns the numbers from place `at` on in turn.
    pub(crate) fn iter_from(self, at: usize) -> impl Iterator<Item = u64> + 'a {
        let mut value =
            if at.is_multiple_of(BLOCK) || at >= self.count { 0 } else { self.get(at - 1) };
        let mut block = (0, 0, 0);
        let mut is_known = false;
        (at..self.count).map(move |at| {
            if at.is_multiple_of(BLOCK) || !is_known {
                block = self.block(at / BLOCK);
                is_known = true;
            }
            let (first, start, width) = block;
            value = match at % BLOCK {
                0 => first,
                step => value.wrapping_add(self.step(start, width, step - 1)),
            };
            value
        })
    }

    /// Returns how many numbers, from the first on, are at or below `value`.
    pub(crate) fn count_to(&self, value: u64) -> usize {
        let (mut low, mut high) = (0, self.count.div_ceil(BLOCK));
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.block(middle).0 <= value { low = middle + 1 } else { high = middle }
        }
        let Some(block) = low.checked_sub(1) else { return 0 };
        let (mut at, (mut found, start, width)) = (block * BLOCK, self.block(block));
        let end = (at + BLOCK).min(self.count);
        while found <= value {
            at += 1;
            if at == end {
                break;
            }
            found = found.wrapping_add(self.step(start, width, (at - 1) % BLOCK));
        }
        at
    }

    #[inline]
    fn step(&self, start: usize, width: u32, step: usize) -> u64 {
        bits::get(self.steps, start * 8 + step * width as usize, width)
    }

    #[inline]
    fn block(&self, block: usize) -> (u64, usize, u32) {
        let entry = &self.blocks[block * ENTRY_BYTES..(block + 1) * ENTRY_BYTES];
        let first = u64::from_le_bytes(entry[..8].try_into().expect("eight bytes"));
        let start = u32::from_le_bytes(entry[8..12].try_into().expect("four bytes"));
        (first, start as usize, u32::from(entry[12]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn claims_that_the_bytes_do_not_hold_are_refused() {
        let mut bytes = Vec::new();
        encode(&(0..300).collect::<Vec<u64>>(), &mut bytes);
        for end in 0..bytes.len() {
            assert!(Ascending::read(&mut Input::new(&bytes[..end])).is_none());
        }
        // The width of the first block, then where its steps begin.
        for at in [8 + 12, 8 + 11] {
            let mut hostile = bytes.clone();
            hostile[at] = 0xff;
            assert!(Ascending::read(&mut Input::new(&hostile)).is_none());
        }
    }

    proptest! {
        #[test]
        fn numbers_survive_the_round_trip(
            first in prop_oneof![Just(0), any::<u64>()],
            steps in prop::collection::vec(prop_oneof![0..3u64, 0..1_000_000u64, any::<u64>()], 0..400),
        ) {
            let mut values = vec![first];
            for step in steps {
                values.push(values[values.len() - 1].saturating_add(step));
            }
            let mut bytes = Vec::new();
            encode(&values, &mut bytes);

            let mut input = Input::new(&bytes);
            let found = Ascending::read(&mut input).unwrap();

            prop_assert_eq!(input.remaining(), 0);
            prop_assert_eq!(found.iter_from(0).collect::<Vec<_>>(), values.clone());
            for at in 0..values.len() {
                prop_assert!(found.iter_from(at).eq(values[at..].iter().copied()));
                prop_assert_eq!(found.get(at), values[at]);
                prop_assert_eq!(found.count_to(values[at]), values.partition_point(|v| *v <= values[at]));
                prop_assert_eq!(found.count_to(values[at] / 2), values.partition_point(|v| *v <= values[at] / 2));
            }
            for at in 1..values.len() {
                prop_assert_eq!(found.pair(at - 1), (values[at - 1], values[at]));
            }
        }
    }
}
