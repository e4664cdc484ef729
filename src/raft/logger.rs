//! Passes the library's log lines on to `tracing`.

use slog::{Drain, Level, Logger, OwnedKVList, Record, o};

/// Returns a logger whose lines become `tracing` events of the partition.
pub(super) fn logger(partition: u32) -> Logger {
    Logger::root(Bridge { partition }.ignore_res(), o!())
}

struct Bridge {
    partition: u32,
}

impl Drain for Bridge {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        let partition = self.partition;
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(partition, "raft: {}", record.msg()),
            Level::Warning => tracing::warn!(partition, "raft: {}", record.msg()),
            // The library announces every state change as information; to an operator that is detail.
            Level::Info | Level::Debug | Level::Trace => {
                tracing::trace!(partition, "raft: {}", record.msg());
            }
        }
        Ok(())
    }
}
