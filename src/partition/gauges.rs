//! How much a partition has, for statistics.

use std::iter::Sum;

use fluxmq_log::disk::Disk;

use super::Partition;
use crate::view::Away;

/// How much there is, and what happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Stored sessions whose connection has ended, and what they are subscribed to.
    pub away: Away,
    /// Topics with a retained message.
    pub retained: usize,
    /// Bytes of all of them.
    pub retained_bytes: u64,
    /// Records in the log.
    pub records: u64,
    /// Records that were there once and are history no more.
    pub history_records_gone: u64,
    /// Bytes of segments that were removed because history is over.
    pub history_bytes_dropped: u64,
    /// Sessions that came back to where history had gone on.
    pub histories_cut: u64,
    /// Sessions that came back to more than they may have missed.
    pub backlogs_cut: u64,
    /// Publishes that were stored before, under the name that they came with.
    pub duplicates: u64,
}

impl Sum for Gauges {
    fn sum<I: Iterator<Item = Gauges>>(all: I) -> Gauges {
        all.fold(Gauges::default(), |sum, one| Gauges {
            away: Away {
                sessions: sum.away.sessions + one.away.sessions,
                subscriptions: sum.away.subscriptions + one.away.subscriptions,
            },
            retained: sum.retained + one.retained,
            retained_bytes: sum.retained_bytes + one.retained_bytes,
            records: sum.records + one.records,
            history_records_gone: sum.history_records_gone + one.history_records_gone,
            history_bytes_dropped: sum.history_bytes_dropped + one.history_bytes_dropped,
            histories_cut: sum.histories_cut + one.histories_cut,
            backlogs_cut: sum.backlogs_cut + one.backlogs_cut,
            duplicates: sum.duplicates + one.duplicates,
        })
    }
}

impl<D: Disk> Partition<D> {
    /// How much there is. Costs nothing worth mentioning.
    pub fn gauges(&self) -> Gauges {
        let retained = &self.views.retained;
        Gauges {
            away: self.views.sessions.away(),
            retained: retained.len(),
            retained_bytes: retained.bytes(),
            records: self.applied.end.0.saturating_sub(self.history_start().0),
            history_records_gone: self.history_start().0,
            history_bytes_dropped: self.counters.history_bytes_dropped,
            histories_cut: self.counters.histories_cut,
            backlogs_cut: self.counters.backlogs_cut,
            duplicates: self.counters.duplicates,
        }
    }
}
