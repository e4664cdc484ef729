//! Snapshots of a log: saving, finding the newest that is whole, and starting over from another replica's.
//!
//! The bytes are [`snapshot_store`](crate::snapshot_store)'s. Two snapshots are kept, so that one that rots leaves another; and a few
//! older ones, spread over the log, because it can be trimmed only to where one is.

use std::path::PathBuf;

use bytes::Bytes;

use crate::disk::Disk;
use crate::housekeeping::{quarantine, remove_all};
use crate::layout::{FileError, LOG_DIR, segment_files, snapshot_path, sync_dir};
use crate::log::{Log, SnapshotError, Tail};
use crate::manifest_edit::Edit;
use crate::planted::{PlantedBug, is_planted};
use crate::segment::{Segment, Tally};
use crate::snapshot_store::{Origin, SnapshotAt, SnapshotReadError, read_snapshot, write_snapshot};

/// How many whole snapshots are kept for those who start.
const SNAPSHOTS_KEPT: usize = 2;
/// How many older ones are kept for the log to begin after one of them one day: a trim leaves about a fourth of the log too much.
const WAYMARKS_MAX: usize = 4;

/// What a replica needs that is behind the first entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenSnapshot {
    /// The entry that it was saved after.
    pub at: SnapshotAt,
    /// How the segment behind it begins, if that is known.
    pub origin: Option<Origin>,
    /// Its chunks.
    pub chunks: Vec<Bytes>,
}

impl<D: Disk> Log<D> {
    /// Saves a snapshot durably and reads it back; the one before it is kept. `at` must be written here, and no flush
    /// outstanding; what is only written is synced first, because a snapshot proves it.
    pub fn save_snapshot(&mut self, at: SnapshotAt, chunks: &[Bytes]) -> Result<(), SnapshotError> {
        self.check_idle()?;
        self.sync_written()?;
        if at.index > self.durable.index {
            let durable = self.durable.index;
            return Err(SnapshotError::NotDurable { index: at.index, durable });
        }
        write_snapshot(&self.disk, &self.dir, at, chunks)?;
        self.list_snapshot(at, Edit::AddSnapshot(at))
    }

    /// Replaces the whole log by another replica's snapshot: afterwards the log is empty and begins after it.
    ///
    /// Raft §7. `at` must be beyond the committed index; entries beyond it are dropped like those before. `origin` is the other
    /// replica's [`Log::origin`], when its log begins there too.
    pub fn install_snapshot(
        &mut self,
        at: SnapshotAt,
        origin: Option<Origin>,
        chunks: &[Bytes],
    ) -> Result<(), SnapshotError> {
        self.check_idle()?;
        let commit = self.hard_state().commit;
        if at.index <= commit {
            return Err(SnapshotError::NotAhead { index: at.index, last: commit });
        }
        write_snapshot(&self.disk, &self.dir, at, chunks)?;
        let outcome = self.reset_to(at, origin);
        self.writer.is_poisoned |= outcome.is_err();
        outcome?;
        self.list_snapshot(at, Edit::AddSnapshot(at))
    }

    /// Returns how the first segment begins; `None` while there is none and there was none.
    pub fn origin(&self) -> Option<Origin> {
        self.segments.first().map(|first| Origin::of(&first.header)).or(self.origin)
    }

    /// Reads what a replica needs that is behind the first entry: the snapshot that the log begins after, and how the segment behind it
    /// begins, if that is known. `None` when it is not here ([`Fenced::begin_after`](crate::Fenced::begin_after)): a later one would leave
    /// that replica without history that this one has. There is one again after the next [`Log::trim_to_snapshot`].
    pub fn given_snapshot(&self) -> Result<Option<GivenSnapshot>, SnapshotReadError> {
        let Some(at) = self.snapshots.get(&self.base().index) else { return Ok(None) };
        let chunks = read_snapshot(&self.disk, &snapshot_path(&self.dir, at.index), *at)?;
        Ok(Some(GivenSnapshot { at: *at, origin: self.origin(), chunks }))
    }

    /// Returns the newest snapshot that is whole; `None` when none was ever saved. Damaged ones are passed over, and listed by
    /// [`Log::damaged_snapshots`]; when there are only damaged ones that is an error, and when the log begins after one and there is none.
    pub fn newest_snapshot(&mut self) -> Result<Option<(SnapshotAt, Vec<Bytes>)>, SnapshotError> {
        let listed = self.snapshots();
        for at in listed.iter().rev() {
            let path = snapshot_path(&self.dir, at.index);
            match read_snapshot(&self.disk, &path, *at) {
                Ok(chunks) => return Ok(Some((*at, chunks))),
                Err(SnapshotReadError::File(error)) => return Err(error.into()),
                Err(SnapshotReadError::Missing { .. } | SnapshotReadError::Damaged { .. }) => {
                    if !self.damaged_snapshots.contains(&path) {
                        self.damaged_snapshots.push(path);
                    }
                }
            }
        }
        match listed.len() {
            0 if self.base().index == 0 => Ok(None),
            count => Err(SnapshotError::AllDamaged { count }),
        }
    }

    /// Returns the snapshots there are, oldest first, without reading them.
    pub fn snapshots(&self) -> Vec<SnapshotAt> {
        self.snapshots.values().copied().collect()
    }

    /// Returns the files of snapshots that were found damaged or missing since the log was opened.
    pub fn damaged_snapshots(&self) -> &[PathBuf] {
        &self.damaged_snapshots
    }

    /// Writes the edit that makes a snapshot count, and drops those that are no longer needed: all but the newest whole ones, and
    /// what is kept for the beginning of the log.
    fn list_snapshot(&mut self, at: SnapshotAt, edit: Edit) -> Result<(), SnapshotError> {
        self.snapshots.insert(at.index, at);
        let listed: Vec<u64> = self.snapshots.keys().copied().collect();
        let is_damaged = |index: &u64| {
            *index != at.index && self.damaged_snapshots.contains(&snapshot_path(&self.dir, *index))
        };
        let (damaged, mut whole): (Vec<u64>, Vec<u64>) = listed.into_iter().partition(is_damaged);
        let mut superseded: Vec<u64> =
            whole.drain(..whole.len().saturating_sub(SNAPSHOTS_KEPT)).collect();
        let waymarks = self.waymarks(&superseded, whole.first().copied().unwrap_or(at.index));
        // The one that the log begins after is what a replica that is behind the log is given.
        let base = self.base().index;
        let is_base = |index: u64| index == base && !is_planted(PlantedBug::BaseSnapshotDropped);
        superseded.retain(|index| !is_base(*index) && !waymarks.contains(index));
        let gone: Vec<u64> = damaged.iter().chain(&superseded).copied().collect();
        let edits: Vec<_> = std::iter::once(edit)
            .chain(gone.iter().map(|index| Edit::DropSnapshot { index: *index }))
            .collect();
        let path_of = |index: &u64| snapshot_path(&self.dir, *index);
        let superseded: Vec<_> = superseded.iter().map(path_of).collect();
        let damaged: Vec<_> = damaged.iter().map(path_of).collect();
        self.edit_manifest(&edits)?;
        self.snapshots.retain(|index, _| *index == at.index || !gone.contains(index));
        remove_all(&self.disk, &superseded)?;
        let there = damaged.into_iter().filter(|path| self.disk.open_read(path).is_ok());
        quarantine(&self.disk, &self.dir, &there.collect::<Vec<_>>())?;
        Ok(())
    }

    /// Which of the `older` snapshots stay because they end a segment: no more than a few, as far from one another as they can be.
    fn waymarks(&self, older: &[u64], newer: u64) -> Vec<u64> {
        let base = self.base().index;
        let ends = older.iter().filter(|index| **index > base && self.ends_segment(**index));
        let mut marks: Vec<(u64, u64)> =
            ends.map(|index| (*index, self.bytes_before(*index))).collect();
        let end = self.bytes_before(newer);
        while marks.len() > WAYMARKS_MAX {
            let gap = |number: &usize| {
                let before = number.checked_sub(1).map_or(0, |before| marks[before].1);
                marks.get(number + 1).map_or(end, |after| after.1) - before
            };
            let least = (0..marks.len()).min_by_key(gap).expect("there are some");
            marks.remove(least);
        }
        marks.into_iter().map(|(index, _)| index).collect()
    }

    /// Bytes of the log up to the end of the segment that has an entry.
    fn bytes_before(&self, index: u64) -> u64 {
        let until = self.segments.iter().take_while(|segment| segment.header.base_index <= index);
        until.map(|segment| segment.end_bytes).sum()
    }

    fn reset_to(&mut self, at: SnapshotAt, origin: Option<Origin>) -> Result<(), FileError> {
        if self.sync_proof.proven().index > at.index {
            self.sync_proof.save(at.position())?;
        }
        let reset = std::iter::once(Edit::Reset(at));
        let edits: Vec<_> = reset.chain(origin.map(Edit::Origin)).collect();
        let numbers: Vec<u64> = self.segments.iter().map(Segment::segment_no).collect();
        self.manifest.as_mut().expect("no flush is outstanding").append(&edits)?;
        self.segments.clear();
        self.terms.clear();
        self.tail = Tail::default();
        self.tally = Tally::new(at.index + 1);
        self.last_ts = origin.map_or(0, |origin| origin.base_ts);
        self.origin = origin;
        (self.written, self.durable) = (at.position(), at.position());
        self.writer.open = None;
        self.indexes.forget(&numbers);
        remove_all(&self.disk, &segment_files(&self.dir, numbers))?;
        sync_dir(&self.disk, &self.dir.join(LOG_DIR))?;
        self.sync_proof.save(at.position())
    }

    pub(crate) fn edit_manifest(&mut self, edits: &[Edit]) -> Result<(), FileError> {
        let outcome = self.manifest.as_mut().expect("no flush is outstanding").append(edits);
        self.writer.is_poisoned |= outcome.is_err();
        outcome
    }

    fn check_idle(&self) -> Result<(), SnapshotError> {
        if self.writer.is_poisoned {
            return Err(SnapshotError::Poisoned);
        }
        if self.writer.in_flight.is_some() {
            return Err(SnapshotError::FlushInFlight);
        }
        Ok(())
    }
}
