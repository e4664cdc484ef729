//! Spare segment files, filled with zeros ahead of time and off the hot path, so that a roll does not wait for it.
//!
//! The same shape as a flush: [`Log::prepare_spare`] → [`SpareJob::run`] → [`Log::finish_spare`]. A failure does not poison
//! the log: it is the first sign of a full disk. Spares hold nothing, and recovery removes what it finds of them.

use std::path::PathBuf;

use crate::disk::{Disk, DiskFile};
use crate::layout::{AtPath, FileError, parent, spare_path, sync_dir, write_zeros};
use crate::log::Log;
use crate::segment::next_capacity;

/// A file of zeros.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// The spare of a log, ready, in preparation, or neither.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    ready: Option<Spare>,
    is_preparing: bool,
    next_number: u64,
}

impl Spares {
    pub(crate) fn take(&mut self) -> Option<Spare> {
        self.ready.take()
    }

    /// Takes back a spare that was not used.
    pub(crate) fn put_back(&mut self, spare: Option<Spare>) {
        if self.ready.is_none() {
            self.ready = spare;
        }
    }
}

/// One spare to be prepared, on any thread.
#[must_use = "a job that is not run and finished blocks all later ones"]
pub struct SpareJob<D: Disk> {
    disk: D,
    spare: Spare,
    /// A spare of another size than the next segment's.
    unfit: Option<PathBuf>,
}

/// A spare that was prepared, or was not. [`Log::finish_spare`] takes it.
#[must_use = "a job that is not finished blocks all later ones"]
pub struct PreparedSpare {
    outcome: Result<Spare, FileError>,
}

/// Why there is no spare: most likely the disk is full.
#[derive(Debug, thiserror::Error)]
#[error("spare segment could not be prepared: {0}")]
pub struct SpareError(#[from] pub FileError);

impl<D: Disk> SpareJob<D> {
    /// Creates, fills and syncs the file.
    pub fn run(self) -> PreparedSpare {
        let outcome = self.prepare();
        PreparedSpare { outcome: outcome.map(|()| self.spare) }
    }

    fn prepare(&self) -> Result<(), FileError> {
        let Spare { path, bytes } = &self.spare;
        for old in self.unfit.iter().chain([path]) {
            crate::layout::remove_if_there(&self.disk, old)?;
        }
        let file = self.disk.create(path).at(path)?;
        let filled = write_zeros(&file, 0..*bytes).and_then(|()| file.sync_data()).at(path);
        if filled.is_err() {
            // Gives the space back; the error that matters is the one before.
            let _ = self.disk.remove(path);
            return filled;
        }
        sync_dir(&self.disk, parent(path))
    }
}

impl<D: Disk> Log<D> {
    /// Hands out the preparation of a spare for the segment after the active one; `None` when one is ready or under way.
    pub fn prepare_spare(&mut self) -> Option<SpareJob<D>> {
        let active = self.segments.last().map(|segment| segment.header.capacity_bytes);
        let LogOptions { segment_bytes_min: min, segment_bytes_max: max, .. } = self.options;
        let bytes = next_capacity(active, 0, min, max);
        let spares = &mut self.writer.spares;
        let is_ready = spares.ready.as_ref().is_some_and(|spare| spare.bytes == bytes);
        // While a flush has it, the spare may still come back.
        if is_ready || spares.is_preparing || self.writer.in_flight.is_some() {
            return None;
        }
        spares.is_preparing = true;
        spares.next_number += 1;
        let path = spare_path(&self.dir, spares.next_number);
        let unfit = spares.ready.take().map(|spare| spare.path);
        Some(SpareJob { disk: self.disk.clone(), spare: Spare { path, bytes }, unfit })
    }

    /// Takes a prepared spare.
    pub fn finish_spare(&mut self, prepared: PreparedSpare) -> Result<(), SpareError> {
        assert!(self.writer.spares.is_preparing, "one spare at a time");
        self.writer.spares.is_preparing = false;
        self.writer.spares.ready = Some(prepared.outcome?);
        Ok(())
    }

    /// Returns true when the next roll finds a file that is ready.
    pub fn has_spare(&self) -> bool {
        self.writer.spares.ready.is_some()
    }
}

use crate::log::LogOptions;
