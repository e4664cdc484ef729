//! A file of two 4 KiB slots: small state that is overwritten in place and survives a crash and one damaged slot.
//!
//! ```text
//! slot := 0 magic u64 | 8 crc of 12..4096 u32 | 12 len u32 | 16 seq u64 | 24 payload, then zeros
//! ```
//!
//! The valid slot with the higher `seq` is the state. [`SlotFile::save_both`] writes the same state twice, one slot after the
//! other, so that at rest no single damaged slot takes the state back in time.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskFile};
use crate::format::varint::{u32_at, u64_at};
use crate::layout::{AtPath, FileError, create_durably, read_if_there};

const SLOT_BYTES: usize = 4096;
const PAYLOAD_AT: usize = 24;

/// Why a slot file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Neither slot is valid: the state is lost.
    #[error("{}: both slots are damaged", path.display())]
    BothDamaged {
        /// The file.
        path: PathBuf,
    },
}

pub(crate) struct SlotFile<D: Disk> {
    file: D::File,
    path: PathBuf,
    magic: u64,
    seq: u64,
}

/// What [`SlotFile::open`] found.
pub(crate) struct OpenedSlots<D: Disk> {
    pub(crate) file: SlotFile<D>,
    pub(crate) payload: Vec<u8>,
    /// One slot was damaged, and the state taken from the other.
    pub(crate) is_half: bool,
}

impl<D: Disk> SlotFile<D> {
    /// Creates the file with `payload` in both slots, durably.
    pub(crate) fn create(
        disk: &D,
        path: &Path,
        magic: u64,
        payload: &[u8],
    ) -> Result<Self, FileError> {
        let slot = encode(magic, 1, payload);
        let file = create_durably(disk, path, &[slot.as_slice(), &slot].concat())?;
        Ok(SlotFile { file, path: path.to_owned(), magic, seq: 1 })
    }

    /// Reads the state and makes what was read durable; `None` when there is no such file.
    pub(crate) fn open(
        disk: &D,
        path: &Path,
        magic: u64,
    ) -> Result<Option<OpenedSlots<D>>, SlotError> {
        let Some(content) = read_if_there(disk, path)? else { return Ok(None) };
        let slot = |number: usize| {
            let at = number * SLOT_BYTES;
            decode(content.get(at..at + SLOT_BYTES)?, magic)
        };
        let (first, second) = (slot(0), slot(1));
        let is_half = first.is_none() || second.is_none();
        let newest = first.into_iter().chain(second).max_by_key(|(seq, _)| *seq);
        let Some((seq, payload)) = newest else {
            return Err(SlotError::BothDamaged { path: path.to_owned() });
        };
        // After a sync that failed in an earlier life of the process the page cache may show bytes, or the name itself, that the
        // disk does not have and that no later sync would write: the same bytes are written and named anew before they count.
        let file = create_durably(disk, path, &content)?;
        let file = SlotFile { file, path: path.to_owned(), magic, seq };
        Ok(Some(OpenedSlots { file, payload, is_half }))
    }

    /// Writes both slots, each synced before the next is touched.
    pub(crate) fn save_both(&mut self, payload: &[u8]) -> Result<(), FileError> {
        self.seq += 1;
        let slot = encode(self.magic, self.seq, payload);
        for number in [0, 1] {
            self.file.write_all_at(&slot, number * SLOT_BYTES as u64).at(&self.path)?;
            self.sync()?;
        }
        Ok(())
    }

    /// Writes the state as it is to both slots.
    pub(crate) fn rewrite(&mut self, payload: &[u8]) -> Result<(), FileError> {
        self.seq -= 1;
        self.save_both(payload)
    }

    /// Writes the second slot only and does not sync it: the first keeps what was last saved in both.
    pub(crate) fn save_lazily(&mut self, payload: &[u8]) -> Result<(), FileError> {
        self.seq += 1;
        let slot = encode(self.magic, self.seq, payload);
        self.file.write_all_at(&slot, SLOT_BYTES as u64).at(&self.path)
    }

    /// Writes the slot not written last, and syncs: the state of before stays in the other.
    pub(crate) fn save_alternating(&mut self, payload: &[u8]) -> Result<(), FileError> {
        self.seq += 1;
        let slot = encode(self.magic, self.seq, payload);
        let at = self.seq % 2 * SLOT_BYTES as u64;
        self.file.write_all_at(&slot, at).at(&self.path)?;
        self.sync()
    }

    fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().at(&self.path)
    }
}

fn encode(magic: u64, seq: u64, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= SLOT_BYTES - PAYLOAD_AT, "slots are for small state");
    let mut slot = vec![0; SLOT_BYTES];
    slot[0..8].copy_from_slice(&magic.to_le_bytes());
    slot[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    slot[16..24].copy_from_slice(&seq.to_le_bytes());
    slot[PAYLOAD_AT..PAYLOAD_AT + payload.len()].copy_from_slice(payload);
    let crc = crc32c::crc32c(&slot[12..]);
    slot[8..12].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8], magic: u64) -> Option<(u64, Vec<u8>)> {
    if u64_at(slot, 0) != magic || u32_at(slot, 8) != crc32c::crc32c(&slot[12..]) {
        return None;
    }
    let len = u32_at(slot, 12) as usize;
    let payload = slot.get(PAYLOAD_AT..PAYLOAD_AT.checked_add(len)?)?;
    Some((u64_at(slot, 16), payload.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_flipped_bit_of_a_slot_is_detected() {
        let slot = encode(7, 3, b"state");
        assert_eq!(decode(&slot, 7), Some((3, b"state".to_vec())));
        for bit in 0..slot.len() * 8 {
            let mut flipped = slot.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped, 7), None, "bit {bit} went unnoticed");
        }
    }
}
