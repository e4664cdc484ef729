//! Snapshots of the views, one file each: `snap/<index:20>.snap`.
//!
//! ```text
//! file   := chunk* footer
//! chunk  := u32 len | u32 crc of len and bytes | bytes
//! footer := u64 magic | u64 index | u64 term | u64 end | u64 chunks | u64 bytes before the footer
//!           | u32 crc of all chunk heads | u32 crc of the footer so far
//! ```
//!
//! A file comes into being under a temporary name, is synced, renamed and read back before the manifest lists it. The one
//! before it is kept: should the newest rot, the views start from the older one and replay more of the log.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fluxmq_index::Offset;

use crate::disk::{Disk, DiskFile};
use crate::format::SegmentHeader;
use crate::format::varint::{u32_at, u64_at};
use crate::layout::{
    AtPath, FileError, parent, read_if_there, remove_if_there, snapshot_path, sync_dir, temporary,
};
use crate::log::Position;

const MAGIC: u64 = u64::from_le_bytes(*b"FluxSnp\x01");
const FOOTER_BYTES: usize = 56;
const CHUNK_HEAD_BYTES: usize = 8;

/// Which entry a snapshot contains everything up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotAt {
    /// The last entry in it.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The offset after its last record.
    pub end: Offset,
}

/// How the first segment after a snapshot begins, so that it is the same file on every replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its number.
    pub segment_no: u64,
    /// The checksum that its first frame links to.
    pub prev_chain: u32,
    /// Its capacity.
    pub capacity_bytes: u64,
    /// Log time of its first frame.
    pub base_ts: u64,
}

impl Origin {
    /// Returns how a segment begins.
    pub(crate) fn of(header: &SegmentHeader) -> Origin {
        let SegmentHeader { segment_no, prev_chain, capacity_bytes, base_ts, .. } = *header;
        Origin { segment_no, prev_chain, capacity_bytes, base_ts }
    }
}

impl SnapshotAt {
    /// Returns the position without the term.
    pub fn position(self) -> Position {
        Position { index: self.index, end: self.end }
    }
}

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotReadError {
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The manifest lists it but it does not exist.
    #[error("{}: snapshot is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It is not what was written.
    #[error("{}: snapshot is damaged at byte {at} of {len}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense.
        at: u64,
        /// Its length in bytes.
        len: u64,
    },
}

/// Writes a snapshot durably into a partition's directory, in place of the one at the same entry if there is one, then reads it back. Whether
/// it counts is the manifest's business.
pub fn write_snapshot<D: Disk>(
    disk: &D,
    dir: &Path,
    at: SnapshotAt,
    chunks: &[Bytes],
) -> Result<(), SnapshotReadError> {
    let path = snapshot_path(dir, at.index);
    let temporary = temporary(&path);
    remove_if_there(disk, &temporary)?;
    let file = disk.create(&temporary).at(&temporary)?;
    let mut position = 0;
    let mut heads_crc = 0;
    for chunk in chunks {
        let head = encode_chunk_head(chunk);
        heads_crc = crc32c::crc32c_append(heads_crc, &head);
        file.write_all_at(&head, position).at(&temporary)?;
        file.write_all_at(chunk, position + CHUNK_HEAD_BYTES as u64).at(&temporary)?;
        position += (CHUNK_HEAD_BYTES + chunk.len()) as u64;
    }
    let footer = encode_footer(at, chunks.len() as u64, position, heads_crc);
    file.write_all_at(&footer, position).at(&temporary)?;
    file.sync_data().at(&temporary)?;
    disk.rename(&temporary, &path).at(&path)?;
    sync_dir(disk, parent(&path))?;
    read_snapshot(disk, &path, at).map(drop)
}

/// Makes a snapshot that the manifest does not list as durable as one that it does; false when it is not whole.
///
/// Its name may be in the page cache only: had the directory's sync failed, the name would count as clean, and another sync
/// would do nothing. So the file is written and renamed once more.
pub(crate) fn adopt_snapshot<D: Disk>(
    disk: &D,
    dir: &Path,
    at: SnapshotAt,
) -> Result<bool, FileError> {
    let path = snapshot_path(dir, at.index);
    let rewritten =
        read_snapshot(disk, &path, at).and_then(|chunks| write_snapshot(disk, dir, at, &chunks));
    match rewritten {
        Ok(()) => Ok(true),
        Err(SnapshotReadError::File(error)) => Err(error),
        Err(SnapshotReadError::Missing { .. } | SnapshotReadError::Damaged { .. }) => Ok(false),
    }
}

/// Reads and checks the snapshot that should be `at`.
pub(crate) fn read_snapshot<D: Disk>(
    disk: &D,
    path: &Path,
    at: SnapshotAt,
) -> Result<Vec<Bytes>, SnapshotReadError> {
    let Some(content) = read_if_there(disk, path)? else {
        return Err(SnapshotReadError::Missing { path: path.to_owned() });
    };
    let content = Bytes::from(content);
    let damaged = |at: usize| SnapshotReadError::Damaged {
        path: path.to_owned(),
        at: at as u64,
        len: content.len() as u64,
    };
    let footer_at = content.len().saturating_sub(FOOTER_BYTES);
    let footer = decode_footer(&content[footer_at..]).ok_or_else(|| damaged(footer_at))?;
    if footer.at != at || footer.data_bytes != footer_at as u64 {
        return Err(damaged(footer_at));
    }
    let mut chunks = Vec::new();
    let mut position = 0;
    let mut heads_crc = 0;
    while position < footer_at {
        let chunk = content.get(position..footer_at).and_then(decode_chunk);
        let range = chunk.ok_or_else(|| damaged(position))?;
        let head = &content[position..position + CHUNK_HEAD_BYTES];
        heads_crc = crc32c::crc32c_append(heads_crc, head);
        chunks.push(content.slice(position + range.start..position + range.end));
        position += range.end;
    }
    if chunks.len() as u64 != footer.chunk_count || heads_crc != footer.heads_crc {
        return Err(damaged(footer_at));
    }
    Ok(chunks)
}

/// Reads the footer of a snapshot; `None` when it has no valid one.
pub(crate) fn read_snapshot_at<D: Disk>(
    disk: &D,
    path: &Path,
) -> Result<Option<SnapshotAt>, FileError> {
    let file = disk.open_read(path).at(path)?;
    let len = file.len().at(path)?;
    let Some(footer_at) = len.checked_sub(FOOTER_BYTES as u64) else { return Ok(None) };
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(&mut footer, footer_at).at(path)?;
    let footer = decode_footer(&footer).filter(|footer| footer.data_bytes == footer_at);
    Ok(footer.map(|footer| footer.at))
}

struct Footer {
    at: SnapshotAt,
    chunk_count: u64,
    data_bytes: u64,
    heads_crc: u32,
}

fn encode_footer(at: SnapshotAt, chunk_count: u64, data_bytes: u64, heads_crc: u32) -> Vec<u8> {
    let fields = [MAGIC, at.index, at.term, at.end.0, chunk_count, data_bytes];
    let mut out: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    out.extend_from_slice(&heads_crc.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode_footer(bytes: &[u8]) -> Option<Footer> {
    let is_whole = bytes.len() == FOOTER_BYTES
        && u64_at(bytes, 0) == MAGIC
        && u32_at(bytes, 52) == crc32c::crc32c(&bytes[..52]);
    is_whole.then(|| Footer {
        at: SnapshotAt {
            index: u64_at(bytes, 8),
            term: u64_at(bytes, 16),
            end: Offset(u64_at(bytes, 24)),
        },
        chunk_count: u64_at(bytes, 32),
        data_bytes: u64_at(bytes, 40),
        heads_crc: u32_at(bytes, 48),
    })
}

fn encode_chunk_head(chunk: &[u8]) -> [u8; CHUNK_HEAD_BYTES] {
    let len = u32::try_from(chunk.len()).expect("snapshot chunks are below 4 GiB").to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&len), chunk).to_le_bytes();
    [len[0], len[1], len[2], len[3], crc[0], crc[1], crc[2], crc[3]]
}

/// Returns where the bytes of the chunk at the start of `bytes` are.
fn decode_chunk(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    if bytes.len() < CHUNK_HEAD_BYTES {
        return None;
    }
    let end = CHUNK_HEAD_BYTES.checked_add(u32_at(bytes, 0) as usize)?;
    let chunk = bytes.get(CHUNK_HEAD_BYTES..end)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[0..4]), chunk);
    (crc == u32_at(bytes, 4)).then_some(CHUNK_HEAD_BYTES..end)
}
