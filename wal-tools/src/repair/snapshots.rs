//! Snapshots that are damaged or missing, and that another replica has at the same entry. They hold the same on every replica.

use std::ops::ControlFlow;

use fluxmq_log::SnapshotAt;

use super::Replacement;
use crate::CommandError;
use crate::log_files::LogFiles;
use crate::side::snapshot_path;

/// Finds what can be taken from the other directory.
pub(super) fn missing(log: &LogFiles, from: &LogFiles) -> Result<Vec<Replacement>, CommandError> {
    let mut found = Vec::new();
    for index in &log.snapshots {
        if log.snapshot(*index)?.is_ok() {
            continue;
        }
        let Ok((at, _)) = from.snapshot(*index)? else { continue };
        if is_of(log, at)? {
            found.push(Replacement {
                content: snapshot_path(&from.dir, *index),
                to: snapshot_path(&log.dir, *index),
                quarantine: log.dir.join("quarantine"),
                what: "taken over".into(),
            });
        }
    }
    Ok(found)
}

/// Tells whether a snapshot is of this log's history: it ends with an entry that the log has, or begins after.
fn is_of(log: &LogFiles, at: SnapshotAt) -> Result<bool, CommandError> {
    let base = log.base;
    if at.index == base.index {
        return Ok((at.term, at.end) == (base.term, base.offset));
    }
    let mut is_same = false;
    log.frames(at.index, |_, placed| {
        let header = &placed.frame.header;
        is_same = (header.index, header.term, header.end_offset()) == (at.index, at.term, at.end);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(is_same)
}
