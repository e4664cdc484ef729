//! What a replica remembers of itself between two lives: how many it had, and what it may have promised and lost.

use crate::disk::Disk;
use crate::hard_state::Life;
use crate::log::{HardStateError, Log};

impl<D: Disk> Log<D> {
    /// Returns which life of this replica this is, so that its peers can tell what it said before a crash from what it says after.
    pub fn life(&self) -> Life {
        self.hard_state.life()
    }

    /// Begins a later life at `now`, in milliseconds of the wall clock, durably; see [`Life::next`].
    pub fn begin_life(&mut self, now: u64, draw: u64) -> Result<(), HardStateError> {
        if self.writer.is_poisoned {
            return Err(HardStateError::Poisoned);
        }
        let saved = self.hard_state.begin_life(self.life().next(now, draw), self.durable.index);
        self.writer.is_poisoned |= saved.is_err();
        Ok(saved?)
    }

    /// Saves that everything up to `index` is committed, synced, as far as it is durable here.
    pub fn save_commit(&mut self, index: u64) -> Result<(), HardStateError> {
        if self.writer.is_poisoned {
            return Err(HardStateError::Poisoned);
        }
        let saved = self.hard_state.save_commit(index, self.durable.index);
        self.writer.is_poisoned |= saved.is_err();
        Ok(saved?)
    }

    /// Sets [`Log::must_reach`], durably; `u64::MAX` until a leader has said where it is, anything that the log has for nothing.
    pub fn require(&mut self, index: u64) -> Result<(), HardStateError> {
        if self.writer.is_poisoned {
            return Err(HardStateError::Poisoned);
        }
        let required = if index > self.durable.index { index } else { 0 };
        let saved = match required == self.sync_proof.must_reach() {
            true => Ok(()),
            false => self.sync_proof.save_both(self.sync_proof.proven(), required),
        };
        self.writer.is_poisoned |= saved.is_err();
        Ok(saved?)
    }
}
