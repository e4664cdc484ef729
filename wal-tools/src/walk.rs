//! Visits what is intact in a partition, and says on standard error what is left out.
//!
//! For commands that read as much as they can; judging damage is `verify.rs`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fluxmq_index::Offset;
use fluxmq_log::format::{BatchReader, BatchRecord, SegmentHeader};

use crate::scan::{Damage, Opened, Placed, Scanned, Segment};
use crate::source::{Partition, SourceError};
use crate::{CommandError, warn};

/// A walk over partitions, and the damage met on it.
#[derive(Debug, Default)]
pub struct Walk {
    /// How many places were left out, a torn tail not counted.
    pub damage_count: u64,
}

/// A segment file with an intact header.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The file.
    pub path: PathBuf,
    /// Its header.
    pub header: SegmentHeader,
    /// It is the last of its partition: bytes at its end that are no frame are no damage.
    pub is_last: bool,
}

impl Walk {
    /// Reads the headers of a partition's segments, oldest first.
    pub fn segments(&mut self, partition: &Partition) -> Result<Vec<Listed>, SourceError> {
        let mut listed = Vec::new();
        for (at, path) in partition.segments.iter().enumerate() {
            let is_last = at + 1 == partition.segments.len();
            match Segment::open(path)? {
                Opened::Gone => {}
                Opened::Segment(Segment { header, .. }) => {
                    listed.push(Listed { path: path.clone(), header, is_last });
                }
                Opened::Bad(error) => self.leave_out(path, &error),
            }
        }
        Ok(listed)
    }

    /// Visits the intact frames of a segment until the visitor breaks, and returns the length of the file in bytes.
    pub fn frames(
        &mut self,
        listed: &Listed,
        mut visit: impl FnMut(&mut Walk, &Placed) -> Result<ControlFlow<()>, CommandError>,
    ) -> Result<u64, CommandError> {
        let Opened::Segment(segment) = Segment::open(&listed.path)? else {
            return Ok(0);
        };
        let mut pending: Option<Damage> = None;
        for step in segment.scan() {
            match step? {
                Scanned::Frame(placed) => {
                    if let Some(damage) = pending.take() {
                        self.leave_out(&listed.path, &place(&damage));
                    }
                    if visit(self, &placed)?.is_break() {
                        return Ok(segment.file_bytes());
                    }
                }
                Scanned::Damage(damage) => {
                    if let Some(damage) = pending.replace(damage) {
                        self.leave_out(&listed.path, &place(&damage));
                    }
                }
                Scanned::End(_) => {}
            }
        }
        match pending {
            Some(damage) if listed.is_last => {
                let path = listed.path.display();
                warn(&format_args!("{path}, {}: not proven durable, left out", place(&damage)));
            }
            Some(damage) => self.leave_out(&listed.path, &place(&damage)),
            None => {}
        }
        Ok(segment.file_bytes())
    }

    /// Opens the body of a frame; `None` if it does not read as a batch.
    pub fn batch(&mut self, listed: &Listed, placed: &Placed) -> Option<BatchReader> {
        let reader = BatchReader::new(&placed.frame.header, placed.frame.body.clone());
        if let Err(error) = &reader {
            let what = format!("frame at byte {}: {error}", placed.position);
            self.leave_out(&listed.path, &what);
        }
        reader.ok()
    }

    /// Visits the records of a batch until the visitor breaks.
    pub fn records(
        &mut self,
        listed: &Listed,
        placed: &Placed,
        batch: BatchReader,
        mut visit: impl FnMut(Offset, BatchRecord) -> Result<ControlFlow<()>, CommandError>,
    ) -> Result<ControlFlow<()>, CommandError> {
        for record in batch {
            match record {
                Ok((offset, record)) => {
                    if visit(offset, record)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Err(error) => {
                    let what = format!("frame at byte {}: {error}", placed.position);
                    self.leave_out(&listed.path, &what);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn leave_out(&mut self, path: &Path, what: &dyn std::fmt::Display) {
        self.damage_count += 1;
        warn(&format_args!("{}, {what}; left out", path.display()));
    }
}

fn place(damage: &Damage) -> String {
    format!("bytes {}..{}: {}", damage.position, damage.end, damage.error)
}
