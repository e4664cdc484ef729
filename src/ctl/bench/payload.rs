//! What a message of a benchmark says about itself.
//!
//! `run u64 · publisher u32 · topic u32 · sequence u64 · sent_ns u64`, little-endian, then zeroes up to the size asked for.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of the stamp: no payload is smaller.
pub(super) const PAYLOAD_BYTES_MIN: usize = 32;

/// The beginning of every payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub run: u64,
    pub publisher: u32,
    pub topic: u32,
    /// Counts the publisher's messages from 0, over all its topics.
    pub sequence: u64,
    /// Nanoseconds since the run began.
    pub sent_ns: u64,
}

impl Stamp {
    /// Returns a payload of `bytes` bytes.
    pub(super) fn payload(self, bytes: usize) -> Bytes {
        let mut payload = BytesMut::with_capacity(bytes);
        payload.put_u64_le(self.run);
        payload.put_u32_le(self.publisher);
        payload.put_u32_le(self.topic);
        payload.put_u64_le(self.sequence);
        payload.put_u64_le(self.sent_ns);
        payload.resize(bytes.max(PAYLOAD_BYTES_MIN), 0);
        payload.freeze()
    }

    /// Reads a payload; `None` when it is too short to be ours.
    pub(super) fn read(mut payload: &[u8]) -> Option<Stamp> {
        if payload.len() < PAYLOAD_BYTES_MIN {
            return None;
        }
        Some(Stamp {
            run: payload.get_u64_le(),
            publisher: payload.get_u32_le(),
            topic: payload.get_u32_le(),
            sequence: payload.get_u64_le(),
            sent_ns: payload.get_u64_le(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back_and_the_payload_has_its_size() {
        let stamp = Stamp { run: 1 << 60, publisher: 2, topic: 3, sequence: 4, sent_ns: 5 };

        let payload = stamp.payload(100);

        assert_eq!(payload.len(), 100);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..31]), None);
    }
}
