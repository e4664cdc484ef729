//! The first 4096 bytes of a segment file, written and synced once before the first frame.
//!
//! ```text
//!  0 magic + version u64 | 32 partition  u32 | 56 base_index  u64 | 76 capacity, 64 KiB units u32
//!  8 crc of all 4096 u32 | 36 salt       u32 | 64 prev_term   u64 | 80 base_ts                u64
//! 12 flags           u32 | 40 segment_no u64 | 72 prev_chain  u32 | 88 zeros
//! 16 cluster        [16] | 48 base_offset u64
//! ```
//!
//! Every field is a function of the log, so the header is the same on all replicas.

use fluxmq_index::Offset;

use super::varint::{u32_at, u64_at};

/// Bytes before the first frame of a segment.
pub const SEGMENT_HEADER_BYTES: usize = 4096;
/// Capacities are multiples of this.
pub const SEGMENT_CAPACITY_UNIT: u64 = 64 << 10;

/// "FluxSeg" and the format version.
const MAGIC: u64 = u64::from_le_bytes(*b"FluxSeg\x01");
const USED: usize = 88;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Bit 0: compacted. The others are reserved and zero.
    pub flags: u32,
    /// The cluster the bytes belong to.
    pub cluster: [u8; 16],
    /// The partition they belong to.
    pub partition: u32,
    /// The segment's number in its partition, from 0, never used twice for different bytes of a durable log.
    pub segment_no: u64,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Index of the first entry.
    pub base_index: u64,
    /// Term of the entry before the first.
    pub prev_term: u64,
    /// Header checksum of the frame before the first, 0 when there is none.
    pub prev_chain: u32,
    /// How long the file is meant to become, a multiple of [`SEGMENT_CAPACITY_UNIT`].
    pub capacity_bytes: u64,
    /// Log time of the first frame, in milliseconds.
    pub base_ts: u64,
}

/// Why 4096 bytes are not a segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentHeaderError {
    /// The file is shorter than a header.
    #[error("segment header is cut short: {found} bytes")]
    Short {
        /// Bytes that are there.
        found: usize,
    },
    /// Not a segment, or one of another format version.
    #[error("bad segment magic {found:#018x}")]
    Magic {
        /// What is there instead.
        found: u64,
    },
    /// Damaged.
    #[error("segment header checksum {computed:#010x} does not match {stored:#010x}")]
    Crc {
        /// Written in the header.
        stored: u32,
        /// Of the bytes that are there.
        computed: u32,
    },
    /// Intact, but the salt is not the one its own fields give.
    #[error("segment salt {found:#010x} should be {expected:#010x}")]
    Salt {
        /// Written in the header.
        found: u32,
        /// Computed from the fields.
        expected: u32,
    },
}

impl SegmentHeader {
    /// Returns the seed of every frame checksum in this segment: stale bytes of another segment never validate here, nor do
    /// bytes that a client made up: the cluster's number is not told to clients.
    pub fn salt(&self) -> u32 {
        let mut identity = [0; 52];
        identity[0..4].copy_from_slice(&self.partition.to_le_bytes());
        identity[4..12].copy_from_slice(&self.segment_no.to_le_bytes());
        identity[12..20].copy_from_slice(&self.base_offset.0.to_le_bytes());
        identity[20..28].copy_from_slice(&self.prev_term.to_le_bytes());
        identity[28..36].copy_from_slice(&self.base_index.to_le_bytes());
        identity[36..52].copy_from_slice(&self.cluster);
        crc32c::crc32c(&identity)
    }

    /// Returns the 4096 bytes.
    pub fn encode(&self) -> Vec<u8> {
        assert!(
            self.capacity_bytes.is_multiple_of(SEGMENT_CAPACITY_UNIT),
            "capacities are whole units"
        );
        let capacity = u32::try_from(self.capacity_bytes / SEGMENT_CAPACITY_UNIT)
            .expect("capacities fit in 32 bits of units");
        let mut out = vec![0; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        out[12..16].copy_from_slice(&self.flags.to_le_bytes());
        out[16..32].copy_from_slice(&self.cluster);
        out[32..36].copy_from_slice(&self.partition.to_le_bytes());
        out[36..40].copy_from_slice(&self.salt().to_le_bytes());
        out[40..48].copy_from_slice(&self.segment_no.to_le_bytes());
        out[48..56].copy_from_slice(&self.base_offset.0.to_le_bytes());
        out[56..64].copy_from_slice(&self.base_index.to_le_bytes());
        out[64..72].copy_from_slice(&self.prev_term.to_le_bytes());
        out[72..76].copy_from_slice(&self.prev_chain.to_le_bytes());
        out[76..80].copy_from_slice(&capacity.to_le_bytes());
        out[80..USED].copy_from_slice(&self.base_ts.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the first 4096 bytes of a segment file.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, SegmentHeaderError> {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER_BYTES) else {
            return Err(SegmentHeaderError::Short { found: bytes.len() });
        };
        let magic = u64_at(bytes, 0);
        if magic != MAGIC {
            return Err(SegmentHeaderError::Magic { found: magic });
        }
        let stored = u32_at(bytes, 8);
        let computed = crc32c::crc32c_append(crc32c::crc32c(&bytes[..8]), &[0; 4]);
        let computed = crc32c::crc32c_append(computed, &bytes[12..]);
        if stored != computed {
            return Err(SegmentHeaderError::Crc { stored, computed });
        }
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&bytes[16..32]);
        let header = SegmentHeader {
            flags: u32_at(bytes, 12),
            cluster,
            partition: u32_at(bytes, 32),
            segment_no: u64_at(bytes, 40),
            base_offset: Offset(u64_at(bytes, 48)),
            base_index: u64_at(bytes, 56),
            prev_term: u64_at(bytes, 64),
            prev_chain: u32_at(bytes, 72),
            capacity_bytes: u64::from(u32_at(bytes, 76)) * SEGMENT_CAPACITY_UNIT,
            base_ts: u64_at(bytes, 80),
        };
        let (found, expected) = (u32_at(bytes, 36), header.salt());
        if found != expected {
            return Err(SegmentHeaderError::Salt { found, expected });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            flags: 0,
            cluster: *b"0123456789abcdef",
            partition: 3,
            segment_no: 9,
            base_offset: Offset(1_000),
            base_index: 500,
            prev_term: 4,
            prev_chain: 0x1234_5678,
            capacity_bytes: 4 << 20,
            base_ts: 1_700_000_000_000,
        }
    }

    #[test]
    fn headers_survive_the_round_trip() {
        let bytes = header().encode();

        assert_eq!(bytes.len(), 4096);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
    }

    #[test]
    fn every_single_flipped_bit_is_detected() {
        let bytes = header().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn the_salt_depends_on_the_place_of_the_segment() {
        let salt = header().salt();

        assert_ne!(salt, SegmentHeader { partition: 4, ..header() }.salt());
        assert_ne!(salt, SegmentHeader { segment_no: 10, ..header() }.salt());
        assert_ne!(salt, SegmentHeader { base_offset: Offset(1_001), ..header() }.salt());
        assert_ne!(salt, SegmentHeader { prev_term: 5, ..header() }.salt());
        assert_ne!(salt, SegmentHeader { cluster: [0; 16], ..header() }.salt());
    }

    #[test]
    fn a_short_file_is_refused() {
        assert_eq!(SegmentHeader::decode(&[0; 100]), Err(SegmentHeaderError::Short { found: 100 }));
    }
}
