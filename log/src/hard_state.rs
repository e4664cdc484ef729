//! `hs.bin`: what a voter must never forget. Two slots ([`slot`](crate::slot)); payload
//! `term u64 | vote u64 | commit u64 | life u64`.
//!
//! Term and vote are written to both slots and synced before [`save`](HardStateFile::save) returns, so one damaged slot never
//! brings back an older vote. A change of `commit` alone is written to one slot and not synced.

use std::path::Path;

use crate::disk::Disk;
use crate::format::varint::Input;
use crate::layout::{FileError, HARD_STATE};
use crate::planted::{PlantedBug, is_planted};
use crate::slot::{SlotError, SlotFile};

const MAGIC: u64 = u64::from_le_bytes(*b"FluxHst\x01");

/// What a voter must never forget. Raft §5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term seen.
    pub term: u64,
    /// Whom the vote of `term` went to; 0 for nobody.
    pub vote: u64,
    /// Everything up to here is committed. A hint after a restart: it may be older than what was last known.
    pub commit: u64,
}

pub(crate) struct HardStateFile<D: Disk> {
    slots: SlotFile<D>,
    state: HardState,
    life: u64,
}

impl<D: Disk> HardStateFile<D> {
    pub(crate) fn create(disk: &D, dir: &Path) -> Result<Self, FileError> {
        let state = HardState::default();
        let slots = SlotFile::create(disk, &dir.join(HARD_STATE), MAGIC, &encode(state, 1))?;
        Ok(HardStateFile { slots, state, life: 1 })
    }

    /// Opens the file and says whether a damaged slot was repaired; `None` when there is no such file.
    pub(crate) fn open(disk: &D, dir: &Path) -> Result<Option<(Self, bool)>, SlotError> {
        let path = dir.join(HARD_STATE);
        let Some(opened) = SlotFile::open(disk, &path, MAGIC)? else { return Ok(None) };
        let (state, life) = decode(&opened.payload).ok_or(SlotError::BothDamaged { path })?;
        let mut slots = opened.file;
        // One slot alone would be one damage away from an older vote.
        slots.rewrite(&encode(state, life))?;
        Ok(Some((HardStateFile { slots, state, life }, opened.is_half)))
    }

    /// On disk `commit` never exceeds `durable_index`: what is committed elsewhere but not synced here is no evidence that
    /// this disk ever had it.
    pub(crate) fn save(&mut self, state: HardState, durable_index: u64) -> Result<(), FileError> {
        let written = HardState { commit: state.commit.min(durable_index), ..state };
        if (state.term, state.vote) != (self.state.term, self.state.vote) {
            let written = encode(written, self.life);
            match is_planted(PlantedBug::VoteBeforeSync) {
                true => self.slots.save_lazily(&written)?,
                false => self.slots.save_both(&written)?,
            }
        } else if state.commit != self.state.commit {
            self.slots.save_lazily(&encode(written, self.life))?;
        }
        self.state = state;
        Ok(())
    }

    /// Raises `commit` durably, as far as it is durable here: what follows from it must not be forgotten.
    pub(crate) fn save_commit(&mut self, commit: u64, durable_index: u64) -> Result<(), FileError> {
        let state = HardState { commit: commit.max(self.state.commit), ..self.state };
        let written = HardState { commit: state.commit.min(durable_index), ..state };
        self.slots.save_both(&encode(written, self.life))?;
        self.state = state;
        Ok(())
    }

    /// Lowers `commit` to what the log still holds, durably.
    pub(crate) fn limit_commit(&mut self, last_index: u64) -> Result<(), FileError> {
        if self.state.commit > last_index {
            let state = HardState { commit: last_index, ..self.state };
            self.slots.save_both(&encode(state, self.life))?;
            self.state = state;
        }
        Ok(())
    }

    /// Goes on as a later life, durably; `commit` is written as by [`save`](Self::save).
    pub(crate) fn begin_life(&mut self, life: u64, durable_index: u64) -> Result<(), FileError> {
        let commit = self.state.commit.min(durable_index);
        self.slots.save_both(&encode(HardState { commit, ..self.state }, life))?;
        self.life = life;
        Ok(())
    }

    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    pub(crate) fn state(&self) -> HardState {
        self.state
    }
}

fn encode(state: HardState, life: u64) -> Vec<u8> {
    [state.term, state.vote, state.commit, life]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn decode(payload: &[u8]) -> Option<(HardState, u64)> {
    let mut input = Input::new(payload);
    let state = HardState { term: input.u64()?, vote: input.u64()?, commit: input.u64()? };
    Some((state, input.u64()?))
}
