//! The list of a partition's files, as an append-only file of edits, and `CURRENT`, which names it.
//!
//! ```text
//! CURRENT := magic u64 | number u64 | crc of the first 16 bytes u32
//! ```
//!
//! A new manifest is begun, with the whole state in one frame, when the old one is long or did not end clean: stale bytes
//! behind a torn frame could otherwise be taken for later edits. All of it can be rebuilt from the segments' headers.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskFile};
use crate::format::varint::{u32_at, u64_at};
use crate::layout::{
    AtPath, CURRENT, FileError, create_durably, manifest_path, read_if_there, remove_if_there,
};
use crate::manifest_edit::{Edit, ManifestEnd, ManifestState, encode_frame, read_manifest};

const CURRENT_MAGIC: u64 = u64::from_le_bytes(*b"FluxCur\x01");
const CURRENT_BYTES: usize = 20;
/// A longer manifest is replaced.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// The manifest open for appending.
pub(crate) struct Manifest<D: Disk> {
    disk: D,
    dir: PathBuf,
    number: u64,
    file: D::File,
    end_bytes: u64,
    next_seq: u64,
    state: ManifestState,
}

/// What is on the disk in place of a manifest.
pub(crate) enum ManifestFound<D: Disk> {
    /// A manifest that could be read, whole or up to a torn append.
    Readable { manifest: Box<Manifest<D>>, is_torn: bool },
    /// None that may be believed.
    Unreadable(ManifestUnreadable),
}

/// Why a manifest had to be rebuilt from the segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestUnreadable {
    /// There is no `CURRENT`.
    NoCurrent,
    /// `CURRENT` is damaged.
    CurrentDamaged,
    /// `CURRENT` names a file that does not exist.
    NoManifest,
    /// The manifest is damaged before its end.
    ManifestDamaged,
}

impl<D: Disk> Manifest<D> {
    /// Looks for the current manifest in `dir`.
    pub(crate) fn find(disk: &D, dir: &Path) -> Result<ManifestFound<D>, FileError> {
        let unreadable = |reason| Ok(ManifestFound::Unreadable(reason));
        let Some(current) = read_if_there(disk, &dir.join(CURRENT))? else {
            return unreadable(ManifestUnreadable::NoCurrent);
        };
        let Some(number) = decode_current(&current) else {
            return unreadable(ManifestUnreadable::CurrentDamaged);
        };
        let path = manifest_path(dir, number);
        let Some(content) = read_if_there(disk, &path)? else {
            return unreadable(ManifestUnreadable::NoManifest);
        };
        let read = read_manifest(&content);
        if read.end == ManifestEnd::Damaged || read.state.identity.is_none() {
            return unreadable(ManifestUnreadable::ManifestDamaged);
        }
        let manifest = Manifest {
            disk: disk.clone(),
            dir: dir.to_owned(),
            number,
            file: disk.open(&path).at(&path)?,
            end_bytes: read.end_bytes,
            next_seq: read.next_seq,
            state: read.state,
        };
        Ok(ManifestFound::Readable {
            manifest: Box::new(manifest),
            is_torn: read.end == ManifestEnd::Torn,
        })
    }

    /// Begins manifest `number` with `state`, durably, and makes it the current one.
    pub(crate) fn create(
        disk: &D,
        dir: &Path,
        number: u64,
        state: ManifestState,
    ) -> Result<Self, FileError> {
        let frame = encode_frame(1, &state.to_edits());
        let path = manifest_path(dir, number);
        // Durable under its name before CURRENT can name it.
        let file = create_durably(disk, &path, &frame)?;
        create_durably(disk, &dir.join(CURRENT), &encode_current(number))?;
        Ok(Manifest {
            disk: disk.clone(),
            dir: dir.to_owned(),
            number,
            file,
            end_bytes: frame.len() as u64,
            next_seq: 2,
            state,
        })
    }

    /// Appends edits that take effect together, durably.
    pub(crate) fn append(&mut self, edits: &[Edit]) -> Result<(), FileError> {
        let mut state = self.state.clone();
        edits.iter().for_each(|edit| state.apply(edit));
        let frame = encode_frame(self.next_seq, edits);
        if self.end_bytes + frame.len() as u64 > MANIFEST_BYTES_MAX {
            return self.replace(state);
        }
        let path = manifest_path(&self.dir, self.number);
        self.file.write_all_at(&frame, self.end_bytes).at(&path)?;
        self.file.sync_data().at(&path)?;
        self.end_bytes += frame.len() as u64;
        self.next_seq += 1;
        self.state = state;
        Ok(())
    }

    /// Begins the next manifest with `state` and removes this one.
    pub(crate) fn replace(&mut self, state: ManifestState) -> Result<(), FileError> {
        let old = manifest_path(&self.dir, self.number);
        *self = Manifest::create(&self.disk, &self.dir, self.number + 1, state)?;
        remove_if_there(&self.disk, &old)
    }

    /// Makes what was read durable, whatever became of the sync that should have.
    ///
    /// A killed process may have left edits, and the names of the files, in the page cache only; after a failed sync they count
    /// as clean there. So they are written once more, with the same bytes, and renamed once more.
    pub(crate) fn rewrite(&mut self) -> Result<(), FileError> {
        let path = manifest_path(&self.dir, self.number);
        let mut content = vec![0; self.file.len().at(&path)? as usize];
        self.file.read_exact_at(&mut content, 0).at(&path)?;
        self.file = create_durably(&self.disk, &path, &content)?;
        create_durably(&self.disk, &self.dir.join(CURRENT), &encode_current(self.number))?;
        Ok(())
    }

    pub(crate) fn state(&self) -> &ManifestState {
        &self.state
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

fn encode_current(number: u64) -> Vec<u8> {
    let mut out = [CURRENT_MAGIC.to_le_bytes(), number.to_le_bytes()].concat();
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode_current(content: &[u8]) -> Option<u64> {
    if content.len() != CURRENT_BYTES || u64_at(content, 0) != CURRENT_MAGIC {
        return None;
    }
    (u32_at(content, 16) == crc32c::crc32c(&content[..16])).then(|| u64_at(content, 8))
}
