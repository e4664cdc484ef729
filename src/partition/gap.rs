//! What is missing where somebody wanted to begin.

use std::fmt::{Display, Formatter, Result};

/// What somebody should have begun with and what is not kept any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// So many, whatever would have matched: records of the partition for a replay, entries of the queue for a consumer.
    Records(u64),
    /// Asked for by time: there is no telling how many were of that time.
    Unknown,
}

impl Gap {
    /// Joins it with one that was there before.
    pub(super) fn after(self, before: Option<Gap>) -> Gap {
        match (before, self) {
            (None, gap) => gap,
            (Some(Gap::Records(before)), Gap::Records(count)) => Gap::Records(before + count),
            (Some(Gap::Unknown), _) | (_, Gap::Unknown) => Gap::Unknown,
        }
    }
}

/// As deliveries say it.
impl Display for Gap {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        match self {
            Gap::Records(count) => write!(formatter, "{count}"),
            Gap::Unknown => formatter.write_str("unknown"),
        }
    }
}
