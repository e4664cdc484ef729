//! Work on the log's files that other threads do: the next segment, and the index of one that is full.

use fluxmq_log::disk::Disk;
use fluxmq_log::{BuiltIndex, IndexJob, PreparedSpare, SpareJob};

use super::Partition;

/// An index that could not be built is tried again after this many milliseconds.
const RETRY_INDEXES_AFTER_MS: u64 = 60_000;

impl<D: Disk> Partition<D> {
    /// Hands out the preparation of a spare segment, when there is none.
    pub fn prepare_spare(&mut self) -> Option<SpareJob<D>> {
        self.node.log_mut().prepare_spare()
    }

    /// Takes a prepared spare. A failure is the first sign of a full disk and no more: rolling goes on without.
    pub fn finish_spare(&mut self, prepared: PreparedSpare) {
        if let Err(error) = self.node.log_mut().finish_spare(prepared) {
            tracing::warn!(partition = self.id.0, %error, "no spare segment");
        }
    }

    /// Hands out the building of an index beside a sealed segment, when one has none that can be believed.
    pub fn prepare_index(&mut self) -> Option<IndexJob<D>> {
        let log = self.node.log_mut();
        for segment_no in self.history.indexes.take_distrusted() {
            log.distrust_index(segment_no);
        }
        if self.retry_indexes_at.is_some_and(|at| at <= self.now) {
            self.retry_indexes_at = None;
            log.retry_indexes();
        }
        log.prepare_index(self.applied.index)
    }

    /// Takes an index that was built. Without it the segment is served as before, only more slowly.
    pub fn finish_index(&mut self, built: BuiltIndex) {
        match self.node.log_mut().finish_index(built) {
            Ok(Some(segment)) => self.history.indexes.has_index(segment),
            Ok(None) => {}
            Err(error) => {
                self.retry_indexes_at = Some(self.now.plus(RETRY_INDEXES_AFTER_MS));
                tracing::warn!(partition = self.id.0, %error, "no index for a segment");
            }
        }
    }
}
