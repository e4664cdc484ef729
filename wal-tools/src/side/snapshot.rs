//! Snapshots of the views: chunks, each with its checksum, and a footer.

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::SnapshotAt;
use fluxmq_log::format::varint::Input;

use crate::source::{SourceError, SourceFile};

const MAGIC: &[u8; 8] = b"FluxSnp\x01";
const FOOTER_BYTES: u64 = 56;
const CHUNK_HEAD_BYTES: u64 = 8;

/// What is wrong with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotDamage {
    /// There is no file.
    #[error("is missing")]
    Missing,
    /// The end of the file is not a footer.
    #[error("the footer is damaged or cut off")]
    Footer,
    /// The footer is that of another snapshot.
    #[error("holds a snapshot at index {found}, not {expected}")]
    Index {
        /// In the footer.
        found: u64,
        /// In the name.
        expected: u64,
    },
    /// A chunk's checksum is wrong.
    #[error("the chunk at byte {at} is damaged")]
    Chunk {
        /// Where it begins.
        at: u64,
    },
    /// The chunks are not those the footer counts.
    #[error("the footer does not fit the chunks before it")]
    Chunks,
}

/// Checks every byte of a snapshot, one chunk in memory at a time.
pub fn check(file: &SourceFile, index: u64) -> Result<Result<(), SnapshotDamage>, SourceError> {
    Ok(visit(file, index, drop)?.map(drop))
}

/// Reads a snapshot: what it contains everything up to, and its chunks.
pub fn read(
    file: &SourceFile,
    index: u64,
) -> Result<Result<(SnapshotAt, Vec<Bytes>), SnapshotDamage>, SourceError> {
    let mut chunks = Vec::new();
    let at = visit(file, index, |chunk| chunks.push(Bytes::from(chunk)))?;
    Ok(at.map(|at| (at, chunks)))
}

fn visit(
    file: &SourceFile,
    index: u64,
    mut take: impl FnMut(Vec<u8>),
) -> Result<Result<SnapshotAt, SnapshotDamage>, SourceError> {
    let Some(data_bytes) = file.len().checked_sub(FOOTER_BYTES) else {
        return Ok(Err(SnapshotDamage::Footer));
    };
    let Some(footer) = Footer::decode(&file.read_at(data_bytes, FOOTER_BYTES as usize)?) else {
        return Ok(Err(SnapshotDamage::Footer));
    };
    if footer.at.index != index {
        return Ok(Err(SnapshotDamage::Index { found: footer.at.index, expected: index }));
    }
    let (mut at, mut chunk_count, mut heads_crc) = (0, 0, 0);
    while at < data_bytes {
        let head = file.read_at(at, CHUNK_HEAD_BYTES as usize)?;
        let mut input = Input::new(&head);
        let (Some(len), Some(crc)) = (input.u32(), input.u32()) else {
            return Ok(Err(SnapshotDamage::Chunk { at }));
        };
        let end = at + CHUNK_HEAD_BYTES + u64::from(len);
        if end > data_bytes {
            return Ok(Err(SnapshotDamage::Chunk { at }));
        }
        let chunk = file.read_at(at + CHUNK_HEAD_BYTES, len as usize)?;
        if crc32c::crc32c_append(crc32c::crc32c(&head[..4]), &chunk) != crc {
            return Ok(Err(SnapshotDamage::Chunk { at }));
        }
        heads_crc = crc32c::crc32c_append(heads_crc, &head);
        take(chunk);
        chunk_count += 1;
        at = end;
    }
    let found = (chunk_count, data_bytes, heads_crc);
    let is_counted = found == (footer.chunk_count, footer.data_bytes, footer.heads_crc);
    Ok(if is_counted { Ok(footer.at) } else { Err(SnapshotDamage::Chunks) })
}

struct Footer {
    at: SnapshotAt,
    chunk_count: u64,
    data_bytes: u64,
    heads_crc: u32,
}

impl Footer {
    fn decode(bytes: &[u8]) -> Option<Footer> {
        let mut input = Input::new(bytes);
        let is_ours = input.take(8)? == MAGIC;
        let at = SnapshotAt { index: input.u64()?, term: input.u64()?, end: Offset(input.u64()?) };
        let (chunk_count, data_bytes) = (input.u64()?, input.u64()?);
        let (heads_crc, crc) = (input.u32()?, input.u32()?);
        let is_intact = crc == crc32c::crc32c(&bytes[..52]);
        (is_ours && is_intact).then_some(Footer { at, chunk_count, data_bytes, heads_crc })
    }
}
