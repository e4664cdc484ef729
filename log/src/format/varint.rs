//! Integers in the formats of the log: the variable-length ones are [`fluxmq_index::varint`], the others have fixed places.

use bytes::Bytes;
pub use fluxmq_index::varint::{Input, VARINT_BYTES_MAX, len, put, unzigzag, zigzag};

/// Reads a little-endian `u16` at a fixed place of a header whose length is known.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a little-endian `u32` at a fixed place of a header whose length is known.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads a little-endian `u64` at a fixed place of a header whose length is known.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Shares `range` of `body` without copying.
#[inline]
pub(crate) fn share(body: &Bytes, range: std::ops::Range<usize>) -> Bytes {
    if range.is_empty() { Bytes::new() } else { body.slice(range) }
}
