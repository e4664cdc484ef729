//! Group commit: everything appended since the last flush is written and synced at once, one flush at a time.
//!
//! [`Log::begin_flush`] hands out an owned job, [`Flush::run`] does the slow part on any thread, [`Log::finish_flush`] takes
//! the result back. What is appended meanwhile belongs to the next flush.
//!
//! [`Log::write`] writes in line and does not sync. A flush then finds nothing left to write and only syncs, and writing goes on
//! meanwhile; a segment begins in a flush only, so that its existence proves what it always did.
//!
//! Order on disk when a segment begins: old frames, sync · header of the new file, sync, rename, directory sync · manifest
//! edit, sync · new frames, sync. So a segment's existence proves everything before it, and its first frame its manifest edit.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskFile};
use crate::format::{Frame, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::layout::{
    AtPath, FileError, SPARE_DIR, remove_if_there, segment_path, sync_dir, temporary, write_zeros,
};
use crate::log::{Log, Position};
use crate::manifest::Manifest;
use crate::manifest_edit::{Closed, Edit};
use crate::planted::{PlantedBug, is_planted};
use crate::spare::Spare;

/// How far ahead of the frames a file without a spare is filled with zeros: overwriting is faster than growing.
const ZERO_AHEAD_BYTES: u64 = 4 << 20;

/// Why a flush failed. The log is poisoned.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// An earlier write or sync failed.
    #[error("log is poisoned by a failed write")]
    Poisoned,
    /// The disk failed. Nothing appended since the last flush may be counted on, now or after a retry.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A segment file open for writing. Clones share the file.
#[derive(Clone)]
pub(crate) struct OpenSegment<D: Disk> {
    pub(crate) segment_no: u64,
    pub(crate) file: D::File,
    /// The file's length: everything below is written, if only with zeros.
    pub(crate) file_bytes: u64,
}

/// One flush to be run, on any thread. Dropping it leaves the log unable to flush.
#[must_use = "a flush that is not run and finished blocks all later ones"]
pub struct Flush<D: Disk> {
    disk: D,
    dir: PathBuf,
    open: Option<OpenSegment<D>>,
    /// One per segment, oldest first.
    groups: Vec<Group>,
    /// Taken along when a segment begins.
    manifest: Option<Manifest<D>>,
    spare: Option<Spare>,
    /// The open segment has bytes that are written and not synced.
    is_unsynced: bool,
    /// The file to be synced when nothing is to be written; the log goes on with its own handle.
    sync_only: Option<OpenSegment<D>>,
    covered: Position,
}

/// The frames of one flush that go to one segment.
struct Group {
    header: SegmentHeader,
    /// What the manifest says of the segment before, when this one begins.
    begins: Option<Option<Closed>>,
    position: u64,
    /// How much of the segment was synced before: what the frames may claim.
    synced_bytes: u64,
    frames: Vec<Frame>,
}

/// A flush that ran. [`Log::finish_flush`] takes it.
#[must_use = "a flush that is not finished blocks all later ones"]
pub struct Flushed<D: Disk> {
    covered: Position,
    outcome: Result<Flush<D>, FileError>,
}

impl<D: Disk> Flush<D> {
    /// Writes and syncs. Takes as long as the disk does; touches nothing of the log.
    pub fn run(mut self) -> Flushed<D> {
        let covered = self.covered;
        let written = std::mem::take(&mut self.groups)
            .into_iter()
            .try_for_each(|group| self.write_group(group));
        let synced = written.and_then(|()| match &self.sync_only {
            Some(open) => sync(&self.dir, open),
            None => Ok(()),
        });
        Flushed { covered, outcome: synced.map(|()| self) }
    }

    /// Returns what will be durable when it succeeds.
    pub fn covers(&self) -> Position {
        self.covered
    }

    fn write_group(&mut self, group: Group) -> Result<(), FileError> {
        if let Some(closed) = group.begins {
            self.begin_segment(&group.header, closed)?;
        }
        let path = segment_path(&self.dir, group.header.segment_no);
        let open = self.open.as_mut().expect("a segment is open or begins");
        assert_eq!(open.segment_no, group.header.segment_no, "groups follow the segments");
        let (position, capacity_bytes) = (group.position, group.header.capacity_bytes);
        let is_skipped = is_planted(PlantedBug::SyncNowAndThen) && group.position / 512 % 2 == 1;
        let buffer = group.encode();
        open.file.write_all_at(&buffer, position).at(&path)?;
        let end = position + buffer.len() as u64;
        if end > open.file_bytes {
            let ahead = (end + ZERO_AHEAD_BYTES).min(capacity_bytes).max(end);
            write_zeros(&open.file, end..ahead).at(&path)?;
            open.file_bytes = ahead;
        }
        if is_planted(PlantedBug::AckBeforeFlush) || is_skipped {
            return Ok(());
        }
        self.is_unsynced = false;
        open.file.sync_data().at(&path)
    }

    fn begin_segment(
        &mut self,
        header: &SegmentHeader,
        closed: Option<Closed>,
    ) -> Result<(), FileError> {
        if let Some(open) = self.open.as_ref().filter(|_| self.is_unsynced) {
            // The new segment's existence will prove all of the old one.
            sync(&self.dir, open)?;
            self.is_unsynced = false;
        }
        let path = segment_path(&self.dir, header.segment_no);
        let log_dir = crate::layout::parent(&path);
        let spare = self.spare.take_if(|spare| spare.bytes == header.capacity_bytes);
        let source = match &spare {
            Some(spare) => spare.path.clone(),
            None => temporary(&path),
        };
        let file = match &spare {
            Some(_) => self.disk.open(&source).at(&source)?,
            None => {
                remove_if_there(&self.disk, &source)?;
                self.disk.create(&source).at(&source)?
            }
        };
        file.write_all_at(&header.encode(), 0).at(&source)?;
        file.sync_data().at(&source)?;
        self.disk.rename(&source, &path).at(&path)?;
        sync_dir(&self.disk, log_dir)?;
        if spare.is_some() {
            sync_dir(&self.disk, &self.dir.join(SPARE_DIR))?;
        }
        let add = Edit::Add { segment_no: header.segment_no };
        let edits: Vec<_> = closed.map(Edit::Close).into_iter().chain([add]).collect();
        self.manifest.as_mut().expect("taken along when a segment begins").append(&edits)?;
        let file_bytes = spare.map_or(SEGMENT_HEADER_BYTES as u64, |spare| spare.bytes);
        self.open = Some(OpenSegment { segment_no: header.segment_no, file, file_bytes });
        Ok(())
    }
}

impl Group {
    fn encode(self) -> Vec<u8> {
        let salt = self.header.salt();
        let bytes = self.frames.iter().map(|frame| frame.header.frame_bytes()).sum::<u64>();
        let mut buffer = Vec::with_capacity(bytes as usize);
        let claimed = match is_planted(PlantedBug::ClaimUnsynced) {
            true => self.position,
            false => self.synced_bytes,
        };
        for mut frame in self.frames {
            frame.header.synced_bytes = claimed;
            frame.encode_into(salt, &mut buffer);
        }
        buffer
    }
}

fn sync<D: Disk>(dir: &Path, open: &OpenSegment<D>) -> Result<(), FileError> {
    open.file.sync_data().at(&segment_path(dir, open.segment_no))
}

impl<D: Disk> Log<D> {
    /// Hands out the next flush; `None` when nothing is to be flushed, one is outstanding, or the log is poisoned.
    pub fn begin_flush(&mut self) -> Option<Flush<D>> {
        let covered = self.last();
        if self.writer.is_poisoned || self.writer.in_flight.is_some() || covered == self.durable {
            return None;
        }
        let groups = self.unwritten();
        let has_begin = groups.iter().any(|group| group.begins.is_some());
        let is_written = groups.is_empty();
        self.writer.in_flight = Some(covered);
        Some(Flush {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            open: if is_written { None } else { self.writer.open.take() },
            groups,
            manifest: if has_begin { self.manifest.take() } else { None },
            spare: if has_begin { self.writer.spares.take() } else { None },
            is_unsynced: self.written > self.durable,
            sync_only: if is_written { self.writer.open.clone() } else { None },
            covered,
        })
    }

    /// Writes what was appended without syncing it, in line, and returns how far everything is written.
    ///
    /// Never waits for the disk, so it leaves what needs more than overwriting zeros to the next flush: what begins a segment, and
    /// what makes a file longer. It leaves everything while such a flush is outstanding, and writes on while a flush only syncs.
    /// After an error the log is poisoned.
    pub fn write(&mut self) -> Result<Position, FlushError> {
        if self.writer.is_poisoned {
            return Err(FlushError::Poisoned);
        }
        let group = self.unwritten().into_iter().next().filter(|group| group.begins.is_none());
        let (Some(group), Some(open)) = (group, &self.writer.open) else { return Ok(self.written) };
        assert_eq!(open.segment_no, group.header.segment_no, "what is written last is open");
        let last = group.frames.last().expect("groups have frames").header;
        let (position, buffer) = (group.position, group.encode());
        if position + buffer.len() as u64 > open.file_bytes {
            return Ok(self.written);
        }
        let path = segment_path(&self.dir, open.segment_no);
        let outcome = open.file.write_all_at(&buffer, position).at(&path);
        self.writer.is_poisoned |= outcome.is_err();
        outcome?;
        self.written = Position { index: last.index, end: last.end_offset() };
        Ok(self.written)
    }

    /// Returns true when [`Log::write`] may write: a segment is open, and no flush has it.
    pub fn can_write(&self) -> bool {
        self.writer.open.is_some()
    }

    /// Returns how many bytes a sync would make durable.
    pub fn unsynced_bytes(&self) -> u64 {
        let upto = |position: Position| {
            self.tail.frames.partition_point(|placed| placed.index() <= position.index)
        };
        let (first, end) = (upto(self.durable), upto(self.written));
        if first == end {
            return 0;
        }
        // A segment begins in a flush, so what is only written lies in one.
        let (first, last) = (&self.tail.frames[first], &self.tail.frames[end - 1]);
        last.position + last.frame.header.frame_bytes() - first.position
    }

    /// Syncs in line what is written. No flush may be outstanding.
    pub(crate) fn sync_written(&mut self) -> Result<(), FileError> {
        if self.written > self.durable {
            let open = self.writer.open.as_ref().expect("the segment written last is open");
            let outcome = sync(&self.dir, open);
            self.writer.is_poisoned |= outcome.is_err();
            outcome?;
            self.durable = self.written;
            self.tail.evict(self.durable, self.options.cache_bytes);
        }
        Ok(())
    }

    /// Returns what is appended and not written, one group per segment.
    fn unwritten(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let written = self.written.index;
        let first = self.tail.frames.partition_point(|placed| placed.index() <= written);
        for placed in self.tail.frames.range(first..) {
            let is_same = |group: &Group| group.header.segment_no == placed.segment_no;
            if !groups.last().is_some_and(is_same) {
                groups.push(self.begin_group(placed.segment_no, placed.position));
            }
            let group = groups.last_mut().expect("pushed above");
            group.frames.push(placed.frame.clone());
        }
        groups
    }

    /// Takes a flush back and returns the position up to which everything is written; what the flush covered is durable. After an
    /// error the log is poisoned.
    pub fn finish_flush(&mut self, flushed: Flushed<D>) -> Result<Position, FlushError> {
        assert_eq!(self.writer.in_flight.take(), Some(flushed.covered), "one flush at a time");
        match flushed.outcome {
            Err(error) => {
                self.writer.is_poisoned = true;
                Err(error.into())
            }
            Ok(flush) => {
                if flush.sync_only.is_none() {
                    self.writer.open = flush.open;
                }
                if flush.manifest.is_some() {
                    self.manifest = flush.manifest;
                    self.writer.spares.put_back(flush.spare);
                }
                self.durable = flushed.covered;
                self.written = self.written.max(self.durable);
                self.tail.evict(self.durable, self.options.cache_bytes);
                Ok(self.written)
            }
        }
    }

    /// Makes everything appended so far durable, in line. Panics when a flush is outstanding.
    pub fn flush(&mut self) -> Result<Position, FlushError> {
        assert!(self.writer.in_flight.is_none(), "one flush at a time");
        if self.writer.is_poisoned {
            return Err(FlushError::Poisoned);
        }
        match self.begin_flush() {
            None => Ok(self.durable),
            Some(flush) => self.finish_flush(flush.run()),
        }
    }

    fn begin_group(&self, segment_no: u64, position: u64) -> Group {
        let at = self.segments.partition_point(|segment| segment.segment_no() < segment_no);
        let is_begin = position == SEGMENT_HEADER_BYTES as u64;
        let previous = at.checked_sub(1).map(|at| &self.segments[at]);
        let closed = previous.map(|segment| Closed {
            segment_no: segment.segment_no(),
            last_frame_at: segment.last_frame_at,
            end_bytes: segment.end_bytes,
        });
        let durable = self.durable.index;
        let unsynced = self.tail.frames.partition_point(|placed| placed.index() <= durable);
        let unsynced =
            self.tail.frames.get(unsynced).filter(|placed| placed.segment_no == segment_no);
        Group {
            header: self.segments[at].header,
            begins: is_begin.then_some(closed),
            position,
            synced_bytes: unsynced.map_or(position, |placed| placed.position.min(position)),
            frames: Vec::new(),
        }
    }
}
