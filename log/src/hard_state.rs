//! `hs.bin`: what a voter must never forget. Two slots ([`slot`](crate::slot)); payload
//! `term u64 | vote u64 | commit u64 | life: number u64, draw u64`. Where the draw is missing it is 0.
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

/// Which running of a replica, from the opening of its log on: of two on one disk the later one is greater, whatever the clock did.
/// None is the default.
///
/// An image of a disk counts on from where it was taken, as the original does: the clock tells their lives apart, and where that has
/// gone back, or stood still, the draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// The wall clock in milliseconds when it began, or one more than that of the life before.
    pub number: u64,
    /// Random.
    pub draw: u64,
}

impl Life {
    /// Returns a life that is later than this one and begins at `now`, or after it.
    pub fn next(self, now: u64, draw: u64) -> Life {
        Life { number: now.max(self.number.saturating_add(1)), draw }
    }
}

impl std::fmt::Display for Life {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}-{:016x}", self.number, self.draw)
    }
}

pub(crate) struct HardStateFile<D: Disk> {
    slots: SlotFile<D>,
    state: HardState,
    life: Life,
}

impl<D: Disk> HardStateFile<D> {
    pub(crate) fn create(disk: &D, dir: &Path) -> Result<Self, FileError> {
        let (state, life) = (HardState::default(), Life::default());
        let slots = SlotFile::create(disk, &dir.join(HARD_STATE), MAGIC, &encode(state, life))?;
        Ok(HardStateFile { slots, state, life })
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
    pub(crate) fn begin_life(&mut self, life: Life, durable_index: u64) -> Result<(), FileError> {
        let commit = self.state.commit.min(durable_index);
        self.slots.save_both(&encode(HardState { commit, ..self.state }, life))?;
        self.life = life;
        Ok(())
    }

    pub(crate) fn life(&self) -> Life {
        self.life
    }

    pub(crate) fn state(&self) -> HardState {
        self.state
    }
}

fn encode(state: HardState, life: Life) -> Vec<u8> {
    [state.term, state.vote, state.commit, life.number, life.draw]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn decode(payload: &[u8]) -> Option<(HardState, Life)> {
    let mut input = Input::new(payload);
    let state = HardState { term: input.u64()?, vote: input.u64()?, commit: input.u64()? };
    let life = Life { number: input.u64()?, draw: input.u64().unwrap_or(0) };
    Some((state, life))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_life_is_greater_whatever_the_clock_says() {
        let first = Life::default().next(1_000, u64::MAX);
        let ahead = first.next(9_000_000, 7);
        let behind = ahead.next(1_001, 0);

        assert!(Life::default() < first && first < ahead && ahead < behind);
        assert_eq!(behind, Life { number: 9_000_001, draw: 0 });
    }

    #[test]
    fn two_lives_that_follow_one_at_one_time_differ_by_their_draws() {
        let before = Life { number: 5_000, draw: 1 };
        for now in [0, 5_000, 6_000] {
            assert_ne!(before.next(now, 2), before.next(now, 3));
        }
    }

    #[test]
    fn a_hard_state_without_a_draw_is_read() {
        let (state, life) =
            (HardState { term: 3, vote: 2, commit: 9 }, Life { number: 4, draw: 5 });
        let payload = encode(state, life);

        assert_eq!(decode(&payload), Some((state, life)));
        assert_eq!(decode(&payload[..32]), Some((state, Life { number: 4, draw: 0 })));
        assert_eq!(decode(&payload[..24]), None);
    }
}
