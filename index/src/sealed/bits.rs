//! Bits one behind the other, the lowest of a byte first.

/// Appends numbers of any width up to 64.
pub(crate) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    pending: u128,
    pending_bits: u32,
}

impl<'a> BitWriter<'a> {
    /// Begins at the end of `out`.
    pub(crate) fn new(out: &'a mut Vec<u8>) -> BitWriter<'a> {
        BitWriter { out, pending: 0, pending_bits: 0 }
    }

    /// Appends the low `width` bits of a number that has no others.
    #[inline]
    pub(crate) fn put(&mut self, value: u64, width: u32) {
        debug_assert!(width == 64 || value >> width == 0, "{value} is wider than {width} bits");
        self.pending |= u128::from(value) << self.pending_bits;
        self.pending_bits += width;
        if self.pending_bits >= 64 {
            self.out.extend_from_slice(&(self.pending as u64).to_le_bytes());
            self.pending >>= 64;
            self.pending_bits -= 64;
        }
    }

    /// Fills the last byte with zeros.
    pub(crate) fn finish(self) {
        let bytes = self.pending.to_le_bytes();
        self.out.extend_from_slice(&bytes[..self.pending_bits.div_ceil(8) as usize]);
    }
}

/// Takes the `width` bits, at most 64, that begin at bit `at`. Panics unless 16 bytes follow the first.
#[inline]
pub(crate) fn get(bits: &[u8], at: usize, width: u32) -> u64 {
    let bytes = bits[at / 8..at / 8 + 16].try_into().expect("sixteen bytes");
    let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
    (u128::from_le_bytes(bytes) >> (at % 8)) as u64 & mask
}
