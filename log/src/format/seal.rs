//! The body of a seal frame, the last of a segment: what the segment contains, and a digest of every MiB of it.
//!
//! ```text
//! u64 first_index | u64 record_count | u64 frame_count | u64 ts_min | u64 ts_max | u64 data_bytes
//! varint runs, each: varint first_index, varint term       terms of the segment's entries, run-length
//! varint blocks, each: u32 crc32c                          of each MiB of the file before the seal frame
//! ```
//!
//! The counts do not include the seal frame. Digests are over the frames, with everything read as zeros that depends on what
//! was before them or on the replica: the segment header, and of every frame header its checksum, its link and the local
//! area. So a replica that started from a snapshot can check the seals of all segments it has from their first frame.

use super::frame::{FRAME_ALIGNMENT, FRAME_HEADER_BYTES, LOCAL_AT};
use super::segment_header::SEGMENT_HEADER_BYTES;
use super::varint::{self, Input};

/// One digest covers this many bytes of the segment file.
pub const SEAL_BLOCK_BYTES: u64 = 1 << 20;

/// Entries from `first_index` on have `term`, until the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermRun {
    /// The first entry of the run.
    pub first_index: u64,
    /// Its term.
    pub term: u64,
}

/// What a segment contained when it was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Index of the segment's first entry.
    pub first_index: u64,
    /// Records in the segment.
    pub record_count: u64,
    /// Frames in the segment.
    pub frame_count: u64,
    /// The earliest log time in milliseconds.
    pub ts_min: u64,
    /// The latest log time in milliseconds.
    pub ts_max: u64,
    /// Where the seal frame begins in the file.
    pub data_bytes: u64,
    /// Terms of the entries.
    pub terms: Vec<TermRun>,
    /// Digests of the blocks, the last one possibly of a part.
    pub blocks: Vec<u32>,
}

/// Why bytes are not the body of a seal frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The body ends too early.
    #[error("seal body of {len} bytes is cut short")]
    Short {
        /// Length of the body in bytes.
        len: usize,
    },
    /// The body goes on behind its last digest.
    #[error("seal body has {extra} bytes too many")]
    Trailing {
        /// Bytes behind the end.
        extra: usize,
    },
}

impl Seal {
    /// Returns the body of the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 8 * self.terms.len() + 4 * self.blocks.len());
        let fixed = [self.first_index, self.record_count, self.frame_count];
        for value in fixed.into_iter().chain([self.ts_min, self.ts_max, self.data_bytes]) {
            out.extend_from_slice(&value.to_le_bytes());
        }
        varint::put(&mut out, self.terms.len() as u64);
        for run in &self.terms {
            varint::put(&mut out, run.first_index);
            varint::put(&mut out, run.term);
        }
        varint::put(&mut out, self.blocks.len() as u64);
        for block in &self.blocks {
            out.extend_from_slice(&block.to_le_bytes());
        }
        out
    }

    /// Reads the body of a seal frame.
    pub fn decode(body: &[u8]) -> Result<Seal, SealError> {
        let mut input = Input::new(body);
        let seal = Seal::read(&mut input).ok_or(SealError::Short { len: body.len() })?;
        match input.remaining() {
            0 => Ok(seal),
            extra => Err(SealError::Trailing { extra }),
        }
    }

    fn read(input: &mut Input<'_>) -> Option<Seal> {
        let mut fixed = [0; 6];
        for value in &mut fixed {
            *value = input.u64()?;
        }
        let [first_index, record_count, frame_count, ts_min, ts_max, data_bytes] = fixed;
        let mut terms = Vec::new();
        for _ in 0..input.varint()? {
            terms.push(TermRun { first_index: input.varint()?, term: input.varint()? });
        }
        let mut blocks = Vec::new();
        for _ in 0..input.varint()? {
            blocks.push(input.u32()?);
        }
        Some(Seal {
            first_index,
            record_count,
            frame_count,
            ts_min,
            ts_max,
            data_bytes,
            terms,
            blocks,
        })
    }
}

/// Computes the digests of a segment, frame by frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealDigests {
    finished: Vec<u32>,
    crc: u32,
    position: u64,
}

impl Default for SealDigests {
    fn default() -> Self {
        SealDigests { finished: Vec::new(), crc: 0, position: SEGMENT_HEADER_BYTES as u64 }
    }
}

impl SealDigests {
    /// Adds the next frame of the segment.
    pub fn push(&mut self, header: &[u8; FRAME_HEADER_BYTES], body: &[u8]) {
        let mut canonical = *header;
        canonical[4..8].fill(0);
        canonical[56..60].fill(0);
        canonical[LOCAL_AT..].fill(0);
        self.feed(&canonical);
        self.feed(body);
        let padding = (FRAME_HEADER_BYTES + body.len()).next_multiple_of(FRAME_ALIGNMENT)
            - (FRAME_HEADER_BYTES + body.len());
        self.feed(&[0; FRAME_ALIGNMENT][..padding]);
    }

    /// Returns the digests of the blocks so far, the last one possibly of a part.
    pub fn blocks(&self) -> Vec<u32> {
        let mut blocks = self.finished.clone();
        if !self.position.is_multiple_of(SEAL_BLOCK_BYTES) {
            blocks.push(self.crc);
        }
        blocks
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = SEAL_BLOCK_BYTES - self.position % SEAL_BLOCK_BYTES;
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            self.crc = crc32c::crc32c_append(self.crc, now);
            self.position += now.len() as u64;
            if self.position.is_multiple_of(SEAL_BLOCK_BYTES) {
                self.finished.push(self.crc);
                self.crc = 0;
            }
            bytes = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seal() -> Seal {
        Seal {
            first_index: 5,
            record_count: 100,
            frame_count: 7,
            ts_min: 1,
            ts_max: 2,
            data_bytes: 3 << 20,
            terms: vec![TermRun { first_index: 5, term: 1 }, TermRun { first_index: 9, term: 3 }],
            blocks: vec![1, 2, u32::MAX],
        }
    }

    #[test]
    fn seals_survive_the_round_trip() {
        assert_eq!(Seal::decode(&seal().encode()), Ok(seal()));
    }

    #[test]
    fn a_cut_or_longer_body_is_refused() {
        let body = seal().encode();
        for end in 0..body.len() {
            assert_eq!(Seal::decode(&body[..end]), Err(SealError::Short { len: end }));
        }
        let longer = [body.as_slice(), &[0]].concat();
        assert_eq!(Seal::decode(&longer), Err(SealError::Trailing { extra: 1 }));
    }

    #[test]
    fn digests_ignore_the_chain_and_the_local_area_and_nothing_else() {
        let digest = |changed: Option<usize>| {
            let mut header = [7; FRAME_HEADER_BYTES];
            if let Some(at) = changed {
                header[at] = 8;
            }
            let mut digests = SealDigests::default();
            digests.push(&header, b"body");
            digests.blocks()
        };
        for at in 0..FRAME_HEADER_BYTES {
            let is_ignored = (4..8).contains(&at) || (56..60).contains(&at) || at >= LOCAL_AT;
            assert_eq!(digest(Some(at)) == digest(None), is_ignored, "byte {at}");
        }
    }

    #[test]
    fn every_mebibyte_of_the_file_has_a_digest() {
        let mut digests = SealDigests::default();
        let body = vec![1; (1 << 20) - SEGMENT_HEADER_BYTES - FRAME_HEADER_BYTES];
        digests.push(&[0; FRAME_HEADER_BYTES], &body);
        assert_eq!(digests.blocks().len(), 1);
        digests.push(&[0; FRAME_HEADER_BYTES], &[]);
        assert_eq!(digests.blocks().len(), 2);
        digests.push(&[0; FRAME_HEADER_BYTES], &vec![0; 3 << 20]);
        assert_eq!(digests.blocks().len(), 5);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Seal::decode(&bytes);
        }
    }
}
