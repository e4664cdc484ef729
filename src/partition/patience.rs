//! How long to wait for an answer that may never come, before what was said is said again.

use crate::model::Millis;

pub(super) const PATIENCE_MS: u64 = 5_000;
/// The same in ticks of 100 ms.
const PATIENCE_TICKS: u64 = 50;

/// When something was said: by the log's time, which stands while the clock has gone back, and by ticks, which never do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) at: Millis,
    pub(super) tick: u64,
}

impl Said {
    /// Returns true when it is time to say it again.
    pub(super) fn is_long_ago(self, now: Said) -> bool {
        self.at.plus(PATIENCE_MS) <= now.at || self.tick + PATIENCE_TICKS <= now.tick
    }
}
