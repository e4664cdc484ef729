//! `sync.bin`: how far this replica knows its log to be synced. Two alternating slots; payload
//! `index u64 | end u64 | must_reach u64`.
//!
//! Written when a partition goes idle, because then no later frame will say that the last ones were synced, and at the end of
//! every recovery. Only evidence: without it recovery cuts where it would otherwise refuse to open. `must_reach` is not 0 while
//! the log has yet to get back entries that recovery cut although they may have been acknowledged.

use std::path::Path;

use fluxmq_index::Offset;

use crate::disk::Disk;
use crate::format::varint::Input;
use crate::layout::{FileError, SYNC_PROOF};
use crate::log::Position;
use crate::slot::{SlotError, SlotFile};

const MAGIC: u64 = u64::from_le_bytes(*b"FluxSyn\x01");

pub(crate) struct SyncProof<D: Disk> {
    slots: SlotFile<D>,
    proven: Position,
    must_reach: u64,
}

impl<D: Disk> SyncProof<D> {
    pub(crate) fn create(disk: &D, dir: &Path, proven: Position) -> Result<Self, FileError> {
        let slots = SlotFile::create(disk, &dir.join(SYNC_PROOF), MAGIC, &encode(proven, 0))?;
        Ok(SyncProof { slots, proven, must_reach: 0 })
    }

    /// Opens the file; `None` when there is none or nothing of it can be read, and whether a slot was damaged.
    pub(crate) fn open(disk: &D, dir: &Path) -> Result<(Option<Self>, bool), FileError> {
        let path = dir.join(SYNC_PROOF);
        let opened = match SlotFile::open(disk, &path, MAGIC) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok((None, false)),
            Err(SlotError::BothDamaged { .. }) => return Ok((None, true)),
            Err(SlotError::File(error)) => return Err(error),
        };
        let Some((proven, must_reach)) = decode(&opened.payload) else { return Ok((None, true)) };
        Ok((Some(SyncProof { slots: opened.file, proven, must_reach }), opened.is_half))
    }

    /// Writes and syncs `proven`. Lowering it takes both slots, so that the higher claim is gone.
    pub(crate) fn save(&mut self, proven: Position) -> Result<(), FileError> {
        let must_reach = if proven.index < self.must_reach { self.must_reach } else { 0 };
        if proven.index < self.proven.index || must_reach != self.must_reach {
            return self.save_both(proven, must_reach);
        }
        if proven != self.proven {
            self.slots.save_alternating(&encode(proven, must_reach))?;
        }
        self.proven = proven;
        Ok(())
    }

    /// Writes both slots, so that neither claims more than `proven`, and neither forgets `must_reach`.
    pub(crate) fn save_both(&mut self, proven: Position, must_reach: u64) -> Result<(), FileError> {
        self.slots.save_both(&encode(proven, must_reach))?;
        (self.proven, self.must_reach) = (proven, must_reach);
        Ok(())
    }

    pub(crate) fn proven(&self) -> Position {
        self.proven
    }

    /// Returns the index the log must have again before this replica may vote; 0 for none.
    pub(crate) fn must_reach(&self) -> u64 {
        self.must_reach
    }
}

fn encode(proven: Position, must_reach: u64) -> Vec<u8> {
    [proven.index, proven.end.0, must_reach].iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn decode(payload: &[u8]) -> Option<(Position, u64)> {
    let mut input = Input::new(payload);
    let proven = Position { index: input.u64()?, end: Offset(input.u64()?) };
    Some((proven, input.u64()?))
}
