//! Taking entries away: a conflicting suffix (Raft §5.3), or a prefix that snapshots have made superfluous.
//!
//! A suffix may never be committed. What is on disk of it is zeroed under an intent in the manifest, because a crash half way
//! would otherwise look like damage in the middle of the log; recovery finishes the cut.

use crate::disk::{Disk, DiskFile};
use crate::flush::OpenSegment;
use crate::format::{FrameHeader, SEGMENT_HEADER_BYTES};
use crate::housekeeping::remove_all;
use crate::layout::{
    AtPath, FileError, LOG_DIR, segment_files, segment_path, snapshot_path, sync_dir, write_zeros,
};
use crate::log::{Log, Position};
use crate::manifest_edit::{Edit, Truncation};
use crate::planted::{PlantedBug, is_planted};
use crate::read::ReadError;
use crate::scan::{Expected, Window, scan_frames};
use crate::segment::{Segment, Tally};
use crate::snapshot_store::SnapshotAt;

/// Why nothing was taken away.
#[derive(Debug, thiserror::Error)]
pub enum TruncateError {
    /// An earlier write or sync failed.
    #[error("log is poisoned by a failed write")]
    Poisoned,
    /// A flush is outstanding; finish it first.
    #[error("a flush is in flight")]
    FlushInFlight,
    /// The suffix contains committed entries.
    #[error("entry {from_index} is committed: commit is {commit}")]
    Committed {
        /// The first entry to be taken away.
        from_index: u64,
        /// What is committed.
        commit: u64,
    },
    /// The entries are not in the log any more.
    #[error("entry {from_index} is before the first, {first}")]
    Trimmed {
        /// The first entry to be taken away.
        from_index: u64,
        /// The first of the log.
        first: u64,
    },
    /// The disk failed; the log is poisoned.
    #[error(transparent)]
    File(#[from] FileError),
    /// What stays is damaged; the log is poisoned.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A segment read from its file, with what is needed to append to it.
pub(crate) struct Reloaded {
    pub(crate) segment: Segment,
    pub(crate) tally: Tally,
    pub(crate) last_ts: u64,
}

impl<D: Disk> Log<D> {
    /// Takes away all entries from `from_index` on, durably. Nothing happens when there are none.
    pub fn truncate_suffix(&mut self, from_index: u64) -> Result<(), TruncateError> {
        self.check_truncate()?;
        let (first, last) = (self.first_index(), self.last_index());
        if from_index > last {
            return Ok(());
        }
        if from_index < first {
            return Err(TruncateError::Trimmed { from_index, first });
        }
        let commit = self.committed();
        if from_index <= commit {
            return Err(TruncateError::Committed { from_index, commit });
        }
        // What is cut and what stays is on disk or in memory, and nothing between.
        self.sync_written()?;
        let outcome = self.cut_suffix(from_index);
        self.writer.is_poisoned |= outcome.is_err();
        outcome
    }

    /// Removes whole segments of entries before `to_index`, and returns the first index that is left.
    ///
    /// Keeps the active segment, and everything the oldest snapshot does not contain.
    pub fn trim_prefix(&mut self, to_index: u64) -> Result<u64, TruncateError> {
        self.check_truncate()?;
        let covered = self.snapshots.keys().next().map_or(0, |index| index + 1);
        self.trim(to_index.min(covered))
    }

    /// Removes whole segments of entries before `to_index`, up to a snapshot that ends with a segment and has a newer one beside it,
    /// and the snapshots before that one; returns the first index that is left. A replica that is behind it is given that snapshot
    /// and everything after, so its segments are the same.
    pub fn trim_to_snapshot(&mut self, to_index: u64) -> Result<u64, TruncateError> {
        self.check_truncate()?;
        let newest = self.snapshots.keys().next_back().copied().unwrap_or(0);
        let mut candidates = self.snapshots.keys().copied();
        let at = candidates
            .rfind(|index| *index < newest && *index < to_index && self.ends_segment(*index));
        let Some(at) = at else { return Ok(self.first_index()) };
        let first = self.trim(at + 1)?;
        // Only now: until the manifest says that the log begins later, the one it begins after is what a replica behind it is given.
        let base = self.base().index;
        let older: Vec<u64> = self.snapshots.range(..base).map(|(index, _)| *index).collect();
        if !older.is_empty() {
            let drops: Vec<_> =
                older.iter().map(|index| Edit::DropSnapshot { index: *index }).collect();
            self.edit_manifest(&drops)?;
            self.snapshots.retain(|index, _| *index >= base);
            let files: Vec<_> =
                older.iter().map(|index| snapshot_path(&self.dir, *index)).collect();
            remove_all(&self.disk, &files)?;
        }
        Ok(first)
    }

    /// Returns true for the last entry of a sealed segment.
    pub fn ends_segment(&self, index: u64) -> bool {
        let at = self.segments.partition_point(|segment| segment.last.index < index);
        let segment = self.segments.get(at);
        segment.is_some_and(|segment| segment.is_sealed && segment.last.index == index)
    }

    fn trim(&mut self, to_index: u64) -> Result<u64, TruncateError> {
        let to_index = to_index.min(self.durable.index + 1);
        let closed = &self.segments[..self.segments.len().saturating_sub(1)];
        let count = closed.partition_point(|segment| segment.last.index < to_index);
        if count == 0 {
            return Ok(self.first_index());
        }
        let next = &self.segments[count].header;
        let base =
            SnapshotAt { index: next.base_index - 1, term: next.prev_term, end: next.base_offset };
        let dropped: Vec<u64> = closed[..count].iter().map(Segment::segment_no).collect();
        let drops = dropped.iter().map(|segment_no| Edit::Drop { segment_no: *segment_no });
        let edits: Vec<_> = std::iter::once(Edit::Base(base)).chain(drops).collect();
        if is_planted(PlantedBug::UnlinkBeforeEdit) {
            self.remove_segments(&dropped)?;
        }
        self.edit_manifest(&edits)?;
        self.segments.drain(..count);
        let stale = self.terms.partition_point(|run| run.first_index <= base.index + 1);
        self.terms.drain(..stale.saturating_sub(1));
        let front = |log: &Self| log.tail.frames.front().map(|placed| placed.index());
        while front(self).is_some_and(|index| index <= base.index) {
            let gone = self.tail.frames.pop_front().expect("there is a front");
            self.tail.bytes -= gone.frame.header.frame_bytes();
        }
        self.remove_segments(&dropped)?;
        Ok(self.first_index())
    }

    fn cut_suffix(&mut self, from_index: u64) -> Result<(), TruncateError> {
        let at = self.segments.partition_point(|segment| segment.last.index < from_index);
        let (cut_at, header) = self.locate(from_index)?;
        let keeps = Position { index: from_index - 1, end: header.base_offset };
        if from_index <= self.durable.index {
            self.cut_on_disk(at, cut_at, &header, keeps)?;
        }
        let is_whole = from_index == self.segments[at].header.base_index;
        self.tail.truncate(from_index);
        self.terms.retain(|run| run.first_index < from_index);
        self.durable = self.durable.min(keeps);
        self.written = self.durable;
        self.segments.truncate(if is_whole { at } else { at + 1 });
        self.reload_active()
    }

    /// Zeroes the suffix that begins at `cut_at` of a segment, and removes the segments after it.
    fn cut_on_disk(
        &mut self,
        at: usize,
        cut_at: u64,
        header: &FrameHeader,
        keeps: Position,
    ) -> Result<(), TruncateError> {
        // The proof must not claim what is taken away. Less evidence does no harm, so it goes first.
        if self.sync_proof.proven().index > keeps.index {
            self.sync_proof.save(keeps)?;
        }
        let durable = self.durable.index;
        let is_on_disk = |segment: &&Segment| segment.header.base_index <= durable;
        let later = self.segments[at + 1..].iter().take_while(is_on_disk);
        let mut dropped: Vec<u64> = later.map(Segment::segment_no).collect();
        let segment = &self.segments[at];
        let (segment_no, end_bytes) = (segment.segment_no(), segment.end_bytes);
        if cut_at == SEGMENT_HEADER_BYTES as u64 {
            dropped.insert(0, segment_no);
            let base = (at == 0).then(|| Edit::Base(self.base()));
            let drops = dropped.iter().map(|segment_no| Edit::Drop { segment_no: *segment_no });
            let edits: Vec<_> = base.into_iter().chain(drops).collect();
            self.edit_manifest(&edits)?;
        } else {
            let cut = Truncation { segment_no, from_bytes: cut_at, chain: header.crc };
            self.edit_manifest(&[Edit::Truncate(cut)])?;
            let path = segment_path(&self.dir, segment_no);
            let file = self.disk.open(&path).at(&path)?;
            let end = end_bytes.min(file.len().at(&path)?);
            write_zeros(&file, cut_at..end).and_then(|()| file.sync_data()).at(&path)?;
            self.edit_manifest(&[Edit::Truncated])?;
        }
        self.remove_segments(&dropped)?;
        Ok(())
    }

    /// Reads the last segment again, so that it can be appended to after what followed was taken away.
    fn reload_active(&mut self) -> Result<(), TruncateError> {
        self.last_ts = 0;
        self.reopen_written()?;
        let Some(segment) = self.segments.last() else {
            self.tally = Tally::new(self.first_index());
            return Ok(());
        };
        let header = segment.header;
        let segment_no = header.segment_no;
        let path = segment_path(&self.dir, segment_no);
        let mut reloaded = Reloaded {
            segment: Segment::new(header),
            tally: Tally::new(header.base_index),
            last_ts: 0,
        };
        if header.base_index <= self.durable.index {
            let open = self.writer.open.as_ref().expect("the segment of the last durable entry");
            reloaded.read(&open.file, self.durable.index, &path)?;
        }
        let salt = header.salt();
        for placed in &self.tail.frames {
            let frame = &placed.frame;
            if placed.segment_no == segment_no && frame.header.index > reloaded.segment.last.index {
                reloaded.push(&frame.header, &frame.header.encode(salt), &frame.body);
            }
        }
        self.last_ts = reloaded.last_ts;
        self.tally = reloaded.tally;
        *self.segments.last_mut().expect("there is a last segment") = reloaded.segment;
        Ok(())
    }

    /// Opens the segment of the last durable entry, where the next flush goes on, unless it is open.
    fn reopen_written(&mut self) -> Result<(), FileError> {
        let durable = self.durable.index;
        let at = self.segments.partition_point(|segment| segment.last.index < durable);
        let written = self.segments.get(at).filter(|segment| segment.header.base_index <= durable);
        let Some(segment_no) = written.map(Segment::segment_no) else {
            self.writer.open = None;
            return Ok(());
        };
        if self.writer.open.as_ref().is_none_or(|open| open.segment_no != segment_no) {
            let path = segment_path(&self.dir, segment_no);
            let file = self.disk.open(&path).at(&path)?;
            let file_bytes = file.len().at(&path)?;
            self.writer.open = Some(OpenSegment { segment_no, file, file_bytes });
        }
        Ok(())
    }

    fn remove_segments(&mut self, dropped: &[u64]) -> Result<(), FileError> {
        self.indexes.forget(dropped);
        remove_all(&self.disk, &segment_files(&self.dir, dropped.iter().copied()))?;
        sync_dir(&self.disk, &self.dir.join(LOG_DIR))
    }

    fn committed(&self) -> u64 {
        let snapshot = self.snapshots.keys().next_back().copied().unwrap_or(0);
        self.hard_state().commit.max(snapshot)
    }

    fn check_truncate(&self) -> Result<(), TruncateError> {
        if self.writer.is_poisoned {
            return Err(TruncateError::Poisoned);
        }
        if self.writer.in_flight.is_some() {
            return Err(TruncateError::FlushInFlight);
        }
        Ok(())
    }
}

impl Reloaded {
    pub(crate) fn push(
        &mut self,
        header: &FrameHeader,
        encoded: &[u8; crate::format::FRAME_HEADER_BYTES],
        body: &[u8],
    ) {
        self.tally.push(header, encoded, body);
        self.segment.push(header);
        self.last_ts = header.max_ts();
    }

    /// Reads frames up to the one at `last_index`, which must be there.
    fn read<F: DiskFile>(
        &mut self,
        file: &F,
        last_index: u64,
        path: &std::path::Path,
    ) -> Result<(), ReadError> {
        let header = self.segment.header;
        let mut window = Window::new(file).at(path)?;
        let start = SEGMENT_HEADER_BYTES as u64;
        let expected = Expected::first_of(&header);
        let stopped =
            scan_frames(&mut window, header.salt(), start, expected, |_, head, raw, body| {
                if head.index <= last_index {
                    self.push(head, raw, body);
                }
            });
        let stopped = stopped.at(path)?;
        if self.segment.last.index < last_index {
            let fault = stopped.fault;
            return Err(ReadError::Damaged {
                path: path.to_owned(),
                position: stopped.position,
                fault,
            });
        }
        Ok(())
    }
}
