//! Folds the views of a partition up to any place in its log: with the broker's own views, from the newest snapshot that is not behind
//! that place.

use std::ops::ControlFlow;
use std::path::PathBuf;

use fluxmq::model::frame::{DecodeError, decode};
use fluxmq::view::Views;
use fluxmq_index::Offset;
use fluxmq_log::SnapshotAt;

use crate::log_files::{Gap, LogFiles};
use crate::scan::Placed;
use crate::side::snapshot_path;
use crate::source::Partition;
use crate::walk::Listed;
use crate::{CommandError, warn};

/// How often files are read that change while they are.
const ATTEMPTS: usize = 5;

/// Up to where to fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The end of the log.
    End,
    /// With this record.
    Offset(Offset),
    /// With every record that was stamped at this log time or before.
    Time(u64),
}

/// Views, and what is in them.
pub struct Fold {
    /// The views.
    pub views: Views,
    /// The last entry that was applied as a whole.
    pub index: u64,
    /// Everything before this offset was applied.
    pub end: Offset,
    /// The highest index that a snapshot or a frame that was read says to be committed.
    pub committed: u64,
    /// Log time of the last record that was read; `None` when all came from a snapshot.
    pub time: Option<u64>,
    /// The snapshot it began with.
    pub start: Option<SnapshotAt>,
    /// Entries that were read.
    pub entries: u64,
    /// What ended it, when neither the end of the log nor the place that was asked for did.
    pub gap: Option<Gap>,
}

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// A segment without its partition.
    #[error(
        "{name} is one segment: state needs a partition's directory (p0001) or a data directory"
    )]
    Alone {
        /// The file.
        name: String,
    },
    /// What the log and its snapshots hold begins later.
    #[error(
        "{name}: of the state before offset {earliest} nothing is kept any more; \
         ask for {earliest} or later, or look into a backup"
    )]
    Before {
        /// The partition.
        name: String,
        /// The first whose state can be told.
        earliest: Offset,
    },
    /// The log was trimmed, and the snapshot it begins after cannot be read.
    #[error(
        "{name}: the log begins at offset {base} after a snapshot, and no snapshot can be read; \
         take {} from another replica: wal-tools repair {} --from ITS-DIRECTORY",
        path.display(), dir.display()
    )]
    NoSnapshot {
        /// The partition.
        name: String,
        /// The first offset that is kept.
        base: Offset,
        /// The snapshot that should be there.
        path: PathBuf,
        /// The partition's directory.
        dir: PathBuf,
    },
    /// A frame with a right checksum is not understood.
    #[error(
        "{}, byte {position}: {source}; a newer release wrote it: use its wal-tools", path.display()
    )]
    Decode {
        /// The segment.
        path: PathBuf,
        /// Where the frame begins.
        position: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
}

impl FoldError {
    /// Says where a frame is that is not understood.
    pub fn decode(listed: &Listed, placed: &Placed, source: DecodeError) -> FoldError {
        FoldError::Decode { path: listed.path.clone(), position: placed.position, source }
    }
}

impl Fold {
    /// Nothing, which a log that begins with its first entry begins with.
    pub fn empty() -> Fold {
        Fold {
            views: Views::default(),
            index: 0,
            end: Offset::ZERO,
            committed: 0,
            time: None,
            start: None,
            entries: 0,
            gap: None,
        }
    }

    /// Begins with a snapshot.
    pub fn restored(views: Views, at: SnapshotAt) -> Fold {
        let (index, end, committed) = (at.index, at.end, at.index);
        Fold { views, index, end, committed, start: Some(at), ..Fold::empty() }
    }

    /// Folds a partition's views up to a place, again when a running broker has removed meanwhile what was to be read.
    pub fn of_partition(partition: &Partition, to: To) -> Result<(LogFiles, Fold), CommandError> {
        let mut attempts = 1..ATTEMPTS;
        loop {
            let log = LogFiles::open(partition)?;
            let folded = Fold::of(&log, to);
            let is_whole = folded.as_ref().is_ok_and(|fold| fold.gap.is_none());
            if is_whole || attempts.next().is_none() || !log.has_changed()? {
                return Ok((log, folded?));
            }
        }
    }

    /// Folds a log's views up to a place.
    pub fn of(log: &LogFiles, to: To) -> Result<Fold, CommandError> {
        let before = match to {
            To::End => None,
            To::Offset(offset) => Some(Offset(offset.0.saturating_add(1))),
            To::Time(time) => log.first_after(time)?,
        };
        let mut fold = begin(log, before)?;
        fold.gap =
            log.frames(fold.index + 1, |listed, placed| fold.entry(listed, placed, before))?;
        Ok(fold)
    }

    /// Applies one entry, or what of it is before an offset.
    pub fn entry(
        &mut self,
        listed: &Listed,
        placed: &Placed,
        before: Option<Offset>,
    ) -> Result<ControlFlow<()>, CommandError> {
        let failed = |error| FoldError::decode(listed, placed, error);
        for record in decode(&placed.frame).map_err(failed)? {
            let (offset, time, record) = record.map_err(failed)?;
            if before.is_some_and(|before| offset >= before) {
                return Ok(ControlFlow::Break(()));
            }
            self.views.apply(offset, time, record.as_record());
            (self.end, self.time) = (offset.next(), Some(time.0));
        }
        self.entries += 1;
        self.committed = self.committed.max(placed.frame.header.commit_hint);
        (self.index, self.end) = (placed.frame.header.index, placed.frame.header.end_offset());
        Ok(ControlFlow::Continue(()))
    }
}

/// Begins with the newest snapshot that holds nothing from `before` on, or with nothing where all of the log is there.
fn begin(log: &LogFiles, before: Option<Offset>) -> Result<Fold, CommandError> {
    let mut earliest = None;
    for index in log.snapshots.iter().rev() {
        let path = snapshot_path(&log.dir, *index);
        let (at, mut chunks) = match log.snapshot(*index)? {
            Ok(found) => found,
            Err(damage) => {
                warn(&format_args!("{}: {damage}; trying the one before it", path.display()));
                continue;
            }
        };
        if before.is_some_and(|before| at.end > before) {
            earliest = Some(at.end);
            continue;
        }
        // The members of the group, which are no view.
        chunks.pop();
        match Views::restore(&chunks) {
            Ok(views) => return Ok(Fold::restored(views, at)),
            Err(error) => {
                warn(&format_args!("{}: {error}; trying the one before it", path.display()));
            }
        }
    }
    let (name, base) = (log.name.clone(), log.base.offset);
    match (log.base.index, earliest) {
        (0, _) => Ok(Fold::empty()),
        (_, Some(earliest)) => Err(FoldError::Before { name, earliest }.into()),
        (index, None) => {
            let path = snapshot_path(&log.dir, index);
            Err(FoldError::NoSnapshot { name, base, path, dir: log.dir.clone() }.into())
        }
    }
}
