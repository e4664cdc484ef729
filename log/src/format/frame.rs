//! A frame: a 96-byte header, a body, zeros up to a multiple of eight bytes. One frame is one batch and one Raft entry.
//!
//! ```text
//!  0 marker       u32 | 32 base_offset  u64 | 64 commit_hint u64 | 80 codec          u8
//!  4 header_crc   u32 | 40 base_ts      u64 | 72 tables_len  u32 | 81 log2 block     u8
//!  8 body_len     u32 | 48 record_count u32 | 76 flags       u16 | 82 topic_count   u16
//! 12 body_crc     u32 | 52 max_ts_delta u32 | 78 kind         u8 | 84 reserved (0)  u32
//! 16 index        u64 | 56 prev_chain   u32 | 79 version      u8 | 88 synced, local u32
//! 24 term         u64 | 60 raw_len      u32 |                    | 92 check, local  u32
//! ```
//!
//! `header_crc` is CRC-32C over 8..88 seeded with the segment's salt, so it binds the frame to its segment; it authenticates
//! `body_crc`. 88..96 belong to this replica alone: canonical bytes are the same with those eight zeroed.

use std::fmt;

use bytes::Bytes;
use fluxmq_index::Offset;

use super::varint::{u16_at, u32_at, u64_at};

/// Bytes of a frame before its body.
pub const FRAME_HEADER_BYTES: usize = 96;
/// The longest body a frame may have, checked before anything is allocated for it.
pub const FRAME_BODY_BYTES_MAX: usize = 64 << 20;
/// Frames start at multiples of this.
pub const FRAME_ALIGNMENT: usize = 8;
/// The first four bytes of every frame, "FxFr": where a scanner that lost its way looks again.
pub const FRAME_MARKER: u32 = u32::from_le_bytes(*b"FxFr");

/// The body defines route sets.
pub const FLAG_ROUTE_DEFS: u16 = 1 << 0;
/// A record carries a producer sequence that must not be applied twice.
pub const FLAG_DEDUP: u16 = 1 << 1;
/// The frame is one transaction.
pub const FLAG_TXN: u16 = 1 << 2;
/// The frame is the first of its segment.
pub const FLAG_ROLL: u16 = 1 << 3;
/// The frame was rewritten by compaction.
pub const FLAG_COMPACTED: u16 = 1 << 4;

const VERSION: u8 = 1;
/// Where the bytes that differ between replicas begin.
pub(crate) const LOCAL_AT: usize = 88;

/// What the body of a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Messages only.
    Data,
    /// Control records only.
    Control,
    /// Messages and control records.
    Mixed,
    /// Nothing: a new leader's first entry. No records.
    Noop,
    /// A change of the voters, in the consensus layer's own bytes. No records.
    ConfChange,
    /// The digests that close a segment ([`Seal`](super::Seal)). No records.
    Seal,
}

impl FrameKind {
    const ALL: [FrameKind; 6] = [
        FrameKind::Data,
        FrameKind::Control,
        FrameKind::Mixed,
        FrameKind::Noop,
        FrameKind::ConfChange,
        FrameKind::Seal,
    ];

    /// Returns true when the body is a batch of records.
    pub fn has_records(self) -> bool {
        matches!(self, FrameKind::Data | FrameKind::Control | FrameKind::Mixed)
    }

    /// Returns the byte that stands for the kind.
    pub fn to_byte(self) -> u8 {
        match self {
            FrameKind::Data => 0,
            FrameKind::Control => 1,
            FrameKind::Mixed => 2,
            FrameKind::Noop => 3,
            FrameKind::ConfChange => 4,
            FrameKind::Seal => 5,
        }
    }

    /// The inverse of [`FrameKind::to_byte`].
    pub fn from_byte(byte: u8) -> Option<FrameKind> {
        FrameKind::ALL.get(usize::from(byte)).copied()
    }
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    None,
    /// LZ4 blocks: reserved, neither written nor read by this release.
    Lz4,
    /// Zstandard blocks: reserved, neither written nor read by this release.
    Zstd,
    /// A number this release has no name for.
    Unknown(u8),
}

impl Codec {
    fn from_byte(byte: u8) -> Codec {
        match byte {
            0 => Codec::None,
            1 => Codec::Lz4,
            2 => Codec::Zstd,
            other => Codec::Unknown(other),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Codec::None => formatter.write_str("none"),
            Codec::Lz4 => formatter.write_str("lz4"),
            Codec::Zstd => formatter.write_str("zstd"),
            Codec::Unknown(byte) => write!(formatter, "number {byte}"),
        }
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a header, or than the header announces.
    #[error("frame is cut short: {found} of {expected} bytes")]
    Short {
        /// Bytes that are there.
        found: usize,
        /// Bytes that should be.
        expected: usize,
    },
    /// The first four bytes are not a frame's.
    #[error("bad marker {found:#010x}")]
    Marker {
        /// What is there instead.
        found: u32,
    },
    /// The header was damaged, or belongs to another segment.
    #[error("header checksum {computed:#010x} does not match {stored:#010x}")]
    HeaderCrc {
        /// Written in the header.
        stored: u32,
        /// Of the bytes that are there.
        computed: u32,
    },
    /// The header is intact but from a format this release does not know.
    #[error("frame version {found} is not supported")]
    Version {
        /// The version.
        found: u8,
    },
    /// The header is intact but of no known kind.
    #[error("frame kind {found} is not known")]
    Kind {
        /// The kind's byte.
        found: u8,
    },
    /// The header is intact but the body is compressed.
    #[error("compression {codec} is not supported")]
    Compressed {
        /// By what.
        codec: Codec,
    },
    /// The announced body is longer than any frame's.
    #[error("body of {len} bytes exceeds {max}")]
    BodyTooLong {
        /// Announced length in bytes.
        len: u64,
        /// The limit in bytes.
        max: usize,
    },
    /// The body was damaged; the header says which entry it is.
    #[error("body checksum {computed:#010x} does not match {stored:#010x} of index {index}")]
    BodyCrc {
        /// Written in the header.
        stored: u32,
        /// Of the bytes that are there.
        computed: u32,
        /// The damaged entry.
        index: u64,
    },
    /// The bytes between the body and the next frame are not zero.
    #[error("padding after the body of index {index} is not zero")]
    Padding {
        /// The entry before the padding.
        index: u64,
    },
    /// The replica's own eight bytes are damaged; the frame itself is intact.
    #[error("local check {computed:#010x} does not match {stored:#010x} of index {index}")]
    LocalCheck {
        /// Written behind the header.
        stored: u32,
        /// Of the bytes that are there.
        computed: u32,
        /// The entry.
        index: u64,
    },
}

/// The first 96 bytes of a frame, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The header's checksum: the link the next frame carries as `prev_chain`. [`FrameHeader::encode`] computes it.
    pub crc: u32,
    /// Length of the stored body in bytes.
    pub body_len: u32,
    /// CRC-32C of the stored body.
    pub body_crc: u32,
    /// Position among the Raft entries.
    pub index: u64,
    /// Term of the entry.
    pub term: u64,
    /// Offset of the first record, or of the next one when there is none.
    pub base_offset: Offset,
    /// Log time of the batch, milliseconds since the Unix epoch; never decreases.
    pub base_ts: u64,
    /// Records in the body.
    pub record_count: u32,
    /// The latest record's time minus `base_ts`, in milliseconds.
    pub max_ts_delta: u32,
    /// The previous frame's `crc`.
    pub prev_chain: u32,
    /// Length of the body before compression.
    pub raw_len: u32,
    /// The leader's commit index when the batch was built.
    pub commit_hint: u64,
    /// Length of the tables at the start of the body.
    pub tables_len: u32,
    /// `FLAG_*` bits.
    pub flags: u16,
    /// What the body is.
    pub kind: FrameKind,
    /// Entries of the topic table.
    pub topic_count: u16,
    /// How much of the segment, in bytes, this replica had synced when it wrote the frame. Not canonical.
    pub synced_bytes: u64,
}

impl FrameHeader {
    /// Returns the 96 bytes, `crc` computed and seeded with the segment's `salt`.
    pub fn encode(&self, salt: u32) -> [u8; FRAME_HEADER_BYTES] {
        debug_assert!(self.synced_bytes.is_multiple_of(8), "synced positions are frame boundaries");
        let mut out = [0; FRAME_HEADER_BYTES];
        out[0..4].copy_from_slice(&FRAME_MARKER.to_le_bytes());
        out[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.index.to_le_bytes());
        out[24..32].copy_from_slice(&self.term.to_le_bytes());
        out[32..40].copy_from_slice(&self.base_offset.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.base_ts.to_le_bytes());
        out[48..52].copy_from_slice(&self.record_count.to_le_bytes());
        out[52..56].copy_from_slice(&self.max_ts_delta.to_le_bytes());
        out[56..60].copy_from_slice(&self.prev_chain.to_le_bytes());
        out[60..64].copy_from_slice(&self.raw_len.to_le_bytes());
        out[64..72].copy_from_slice(&self.commit_hint.to_le_bytes());
        out[72..76].copy_from_slice(&self.tables_len.to_le_bytes());
        out[76..78].copy_from_slice(&self.flags.to_le_bytes());
        out[78] = self.kind.to_byte();
        out[79] = VERSION;
        out[82..84].copy_from_slice(&self.topic_count.to_le_bytes());
        let crc = crc32c::crc32c_append(salt, &out[8..LOCAL_AT]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        let synced = (self.synced_bytes / 8) as u32;
        out[88..92].copy_from_slice(&synced.to_le_bytes());
        out[92..96].copy_from_slice(&local_check(synced, crc).to_le_bytes());
        out
    }

    /// Reads a header, the local area too.
    pub fn decode(bytes: &[u8], salt: u32) -> Result<FrameHeader, FrameError> {
        let header = FrameHeader::decode_canonical(bytes, salt)?;
        let (synced, stored) = (u32_at(bytes, 88), u32_at(bytes, 92));
        let computed = local_check(synced, header.crc);
        if stored != computed {
            return Err(FrameError::LocalCheck { stored, computed, index: header.index });
        }
        Ok(FrameHeader { synced_bytes: u64::from(synced) * 8, ..header })
    }

    /// Reads a header without its local area: `synced_bytes` is 0. For bytes of another replica, and for a frame whose
    /// identity is wanted although its local area is damaged.
    pub fn decode_canonical(bytes: &[u8], salt: u32) -> Result<FrameHeader, FrameError> {
        if bytes.len() < FRAME_HEADER_BYTES {
            return Err(FrameError::Short { found: bytes.len(), expected: FRAME_HEADER_BYTES });
        }
        let marker = u32_at(bytes, 0);
        if marker != FRAME_MARKER {
            return Err(FrameError::Marker { found: marker });
        }
        let (stored, computed) =
            (u32_at(bytes, 4), crc32c::crc32c_append(salt, &bytes[8..LOCAL_AT]));
        if stored != computed {
            return Err(FrameError::HeaderCrc { stored, computed });
        }
        if bytes[79] != VERSION {
            return Err(FrameError::Version { found: bytes[79] });
        }
        let kind = FrameKind::from_byte(bytes[78]).ok_or(FrameError::Kind { found: bytes[78] })?;
        let codec = Codec::from_byte(bytes[80]);
        if codec != Codec::None {
            return Err(FrameError::Compressed { codec });
        }
        let body_len = u32_at(bytes, 8);
        if body_len as usize > FRAME_BODY_BYTES_MAX {
            let len = u64::from(body_len);
            return Err(FrameError::BodyTooLong { len, max: FRAME_BODY_BYTES_MAX });
        }
        Ok(FrameHeader {
            crc: stored,
            body_len,
            body_crc: u32_at(bytes, 12),
            index: u64_at(bytes, 16),
            term: u64_at(bytes, 24),
            base_offset: Offset(u64_at(bytes, 32)),
            base_ts: u64_at(bytes, 40),
            record_count: u32_at(bytes, 48),
            max_ts_delta: u32_at(bytes, 52),
            prev_chain: u32_at(bytes, 56),
            raw_len: u32_at(bytes, 60),
            commit_hint: u64_at(bytes, 64),
            tables_len: u32_at(bytes, 72),
            flags: u16_at(bytes, 76),
            kind,
            topic_count: u16_at(bytes, 82),
            synced_bytes: 0,
        })
    }

    /// Checks the body's checksum.
    pub fn check_body(&self, body: &[u8]) -> Result<(), FrameError> {
        if body.len() != self.body_len as usize {
            let expected = self.body_len as usize;
            return Err(FrameError::Short { found: body.len(), expected });
        }
        let (stored, computed) = (self.body_crc, crc32c::crc32c(body));
        if stored != computed {
            return Err(FrameError::BodyCrc { stored, computed, index: self.index });
        }
        Ok(())
    }

    /// Returns the length of the whole frame in bytes: header, body and padding.
    pub fn frame_bytes(&self) -> u64 {
        frame_bytes(self.body_len as usize)
    }

    /// Returns the offset after the frame's last record.
    pub fn end_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(u64::from(self.record_count)))
    }

    /// Returns the latest log time in the frame, in milliseconds.
    pub fn max_ts(&self) -> u64 {
        self.base_ts.saturating_add(u64::from(self.max_ts_delta))
    }

    /// Returns true when the frame is the first of its segment.
    pub fn is_roll(&self) -> bool {
        self.flags & FLAG_ROLL != 0
    }
}

/// Returns the length in bytes of a frame with a body of `body_len` bytes.
pub fn frame_bytes(body_len: usize) -> u64 {
    (FRAME_HEADER_BYTES + body_len).next_multiple_of(FRAME_ALIGNMENT) as u64
}

fn local_check(synced: u32, header_crc: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&synced.to_le_bytes()), &header_crc.to_le_bytes())
}

/// One frame in memory; clones share the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The header.
    pub header: FrameHeader,
    /// The body without padding.
    pub body: Bytes,
}

impl Frame {
    /// Appends header, body and padding.
    pub fn encode_into(&self, salt: u32, out: &mut Vec<u8>) {
        debug_assert_eq!(self.body.len(), self.header.body_len as usize);
        out.extend_from_slice(&self.header.encode(salt));
        out.extend_from_slice(&self.body);
        out.resize(out.len().next_multiple_of(FRAME_ALIGNMENT), 0);
    }

    /// Reads the frame at the start of `bytes`, which may go on behind it. The body shares `bytes`.
    pub fn decode(bytes: &Bytes, salt: u32) -> Result<Frame, FrameError> {
        let header = FrameHeader::decode(bytes, salt)?;
        let end = FRAME_HEADER_BYTES + header.body_len as usize;
        let padded = header.frame_bytes() as usize;
        if bytes.len() < padded {
            return Err(FrameError::Short { found: bytes.len(), expected: padded });
        }
        header.check_body(&bytes[FRAME_HEADER_BYTES..end])?;
        if bytes[end..padded].iter().any(|byte| *byte != 0) {
            return Err(FrameError::Padding { index: header.index });
        }
        Ok(Frame { header, body: bytes.slice(FRAME_HEADER_BYTES..end) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: u32 = 0x5a17_0001;

    fn frame(body: &[u8]) -> Frame {
        let header = FrameHeader {
            crc: 0,
            body_len: body.len() as u32,
            body_crc: crc32c::crc32c(body),
            index: 7,
            term: 3,
            base_offset: Offset(41),
            base_ts: 1_700_000_000_000,
            record_count: 2,
            max_ts_delta: 5,
            prev_chain: 0xdead_beef,
            raw_len: body.len() as u32,
            commit_hint: 6,
            tables_len: 1,
            flags: FLAG_DEDUP,
            kind: FrameKind::Mixed,
            topic_count: 1,
            synced_bytes: 4096,
        };
        let crc = u32_at(&header.encode(SALT), 4);
        Frame { header: FrameHeader { crc, ..header }, body: Bytes::copy_from_slice(body) }
    }

    fn encoded(frame: &Frame) -> Vec<u8> {
        let mut out = Vec::new();
        frame.encode_into(SALT, &mut out);
        out
    }

    #[test]
    fn the_header_lies_where_the_format_says() {
        let bytes = encoded(&frame(b"abc"));

        assert_eq!(bytes.len(), 104);
        assert_eq!(&bytes[0..4], b"FxFr");
        assert_eq!(u32_at(&bytes, 8), 3);
        assert_eq!(u64_at(&bytes, 16), 7);
        assert_eq!(u64_at(&bytes, 24), 3);
        assert_eq!(u64_at(&bytes, 32), 41);
        assert_eq!(u32_at(&bytes, 56), 0xdead_beef);
        assert_eq!(bytes[78..80], [2, 1]);
        assert_eq!(u32_at(&bytes, 88), 4096 / 8);
        assert_eq!(bytes[96..], *b"abc\0\0\0\0\0");
    }

    #[test]
    fn every_single_flipped_bit_is_detected() {
        for len in [0, 1, 8, 100] {
            let bytes = encoded(&frame(&vec![0xa5; len]));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let decoded = Frame::decode(&Bytes::from(flipped), SALT);
                assert!(decoded.is_err(), "bit {bit} of a {len} byte body went unnoticed");
            }
        }
    }

    #[test]
    fn a_frame_of_another_segment_is_refused() {
        let bytes = Bytes::from(encoded(&frame(b"abc")));

        let error = Frame::decode(&bytes, SALT + 1).unwrap_err();

        assert!(matches!(error, FrameError::HeaderCrc { .. }), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = frame(b"abc");
        let recrc = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = encoded(&good);
            change(&mut bytes);
            let crc = crc32c::crc32c_append(SALT, &bytes[8..LOCAL_AT]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            Frame::decode(&Bytes::from(bytes), SALT).unwrap_err()
        };

        assert_eq!(recrc(&|b| b[80] = 1), FrameError::Compressed { codec: Codec::Lz4 });
        assert_eq!(recrc(&|b| b[80] = 2).to_string(), "compression zstd is not supported");
        assert_eq!(recrc(&|b| b[79] = 9), FrameError::Version { found: 9 });
        assert_eq!(recrc(&|b| b[78] = 6), FrameError::Kind { found: 6 });
        assert!(matches!(recrc(&|b| b[11] = 0xff), FrameError::BodyTooLong { .. }));
        assert!(matches!(recrc(&|b| b[0] = 0), FrameError::Marker { .. }));
        let mut bytes = encoded(&good);
        bytes[97] ^= 1;
        let error = Frame::decode(&Bytes::from(bytes), SALT).unwrap_err();
        assert!(matches!(error, FrameError::BodyCrc { index: 7, .. }));
    }

    #[test]
    fn a_damaged_local_area_leaves_the_identity_readable() {
        let mut bytes = encoded(&frame(b"abc"));
        bytes[88] ^= 1;

        assert!(matches!(FrameHeader::decode(&bytes, SALT), Err(FrameError::LocalCheck { .. })));
        assert_eq!(FrameHeader::decode_canonical(&bytes, SALT).unwrap().index, 7);
    }

    proptest! {
        #[test]
        fn frames_survive_the_round_trip(body in proptest::collection::vec(any::<u8>(), 0..600)) {
            let frame = frame(&body);
            let bytes = encoded(&frame);
            prop_assert_eq!(bytes.len() as u64, frame.header.frame_bytes());
            prop_assert_eq!(Frame::decode(&Bytes::from(bytes), SALT), Ok(frame));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::decode(&Bytes::from(bytes.clone()), SALT);
            let mut framed = bytes;
            if framed.len() >= FRAME_HEADER_BYTES {
                framed[0..4].copy_from_slice(&FRAME_MARKER.to_le_bytes());
                let crc = crc32c::crc32c_append(SALT, &framed[8..LOCAL_AT]);
                framed[4..8].copy_from_slice(&crc.to_le_bytes());
            }
            let _ = Frame::decode(&Bytes::from(framed), SALT);
        }
    }
}
