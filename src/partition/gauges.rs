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
    /// Sessions that came back to more than they may have missed.
    pub backlogs_cut: u64,
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
            backlogs_cut: sum.backlogs_cut + one.backlogs_cut,
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
            records: self.applied.end.0.saturating_sub(self.log().first_offset().0),
            backlogs_cut: self.counters.backlogs_cut,
        }
    }
}
