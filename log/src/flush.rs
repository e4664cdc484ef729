//! Group commit: everything appended since the last flush is written and synced at once, one flush at a time.
//!
//! [`Log::begin_flush`] hands out an owned job, [`Flush::run`] does the slow part on any thread, [`Log::finish_flush`] takes
//! the result back. What is appended meanwhile belongs to the next flush.
//!
//! Order on disk when a segment begins: old frames, sync · header of the new file, sync, rename, directory sync · manifest
//! edit, sync · new frames, sync. So a segment's existence proves everything before it, and its first frame its manifest edit.

use std::path::PathBuf;

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

/// A segment file open for writing.
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
    covered: Position,
}

/// The frames of one flush that go to one segment.
struct Group {
    header: SegmentHeader,
    /// What the manifest says of the segment before, when this one begins.
    begins: Option<Option<Closed>>,
    position: u64,
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
        Flushed { covered, outcome: written.map(|()| self) }
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
        let salt = group.header.salt();
        let bytes = group.frames.iter().map(|frame| frame.header.frame_bytes()).sum::<u64>();
        let mut buffer = Vec::with_capacity(bytes as usize);
        for mut frame in group.frames {
            frame.header.synced_bytes = group.position;
            frame.encode_into(salt, &mut buffer);
        }
        open.file.write_all_at(&buffer, group.position).at(&path)?;
        let end = group.position + bytes;
        if end > open.file_bytes {
            let ahead = (end + ZERO_AHEAD_BYTES).min(group.header.capacity_bytes).max(end);
            write_zeros(&open.file, end..ahead).at(&path)?;
            open.file_bytes = ahead;
        }
        if is_planted(PlantedBug::AckBeforeFlush) {
            return Ok(());
        }
        open.file.sync_data().at(&path)
    }

    fn begin_segment(
        &mut self,
        header: &SegmentHeader,
        closed: Option<Closed>,
    ) -> Result<(), FileError> {
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

impl<D: Disk> Log<D> {
    /// Hands out the next flush; `None` when nothing is to be flushed, one is outstanding, or the log is poisoned.
    pub fn begin_flush(&mut self) -> Option<Flush<D>> {
        let covered = self.last();
        if self.writer.is_poisoned || self.writer.in_flight.is_some() || covered == self.durable {
            return None;
        }
        let mut groups: Vec<Group> = Vec::new();
        let durable = self.durable.index;
        let first = self.tail.frames.partition_point(|placed| placed.frame.header.index <= durable);
        for placed in self.tail.frames.range(first..) {
            let is_same = |group: &Group| group.header.segment_no == placed.segment_no;
            if !groups.last().is_some_and(is_same) {
                groups.push(self.begin_group(placed.segment_no, placed.position));
            }
            let group = groups.last_mut().expect("pushed above");
            group.frames.push(placed.frame.clone());
        }
        let has_begin = groups.iter().any(|group| group.begins.is_some());
        self.writer.in_flight = Some(covered);
        Some(Flush {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            open: self.writer.open.take(),
            groups,
            manifest: if has_begin { self.manifest.take() } else { None },
            spare: if has_begin { self.writer.spares.take() } else { None },
            covered,
        })
    }

    /// Takes a flush back and returns the position up to which everything is durable. After an error the log is poisoned.
    pub fn finish_flush(&mut self, flushed: Flushed<D>) -> Result<Position, FlushError> {
        assert_eq!(self.writer.in_flight.take(), Some(flushed.covered), "one flush at a time");
        match flushed.outcome {
            Err(error) => {
                self.writer.is_poisoned = true;
                Err(error.into())
            }
            Ok(flush) => {
                self.writer.open = flush.open;
                if flush.manifest.is_some() {
                    self.manifest = flush.manifest;
                    self.writer.spares.put_back(flush.spare);
                }
                self.durable = flushed.covered;
                self.tail.evict(self.durable, self.options.cache_bytes);
                Ok(self.durable)
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
        Group {
            header: self.segments[at].header,
            begins: is_begin.then_some(closed),
            position,
            frames: Vec::new(),
        }
    }
}
