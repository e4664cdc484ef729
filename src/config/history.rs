//! How much history of ordinary topics there is.

use super::setting::{Number, Size};
use super::walk::{Section, Walk};

/// How long, and how much of it, what is stored can be read again. What queues and retained messages need is kept beyond that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Seconds that records are history. Default 86400 (24 hours), minimum 0; 0 is no limit.
    pub age_max_s: u32,
    /// Bytes of log on this node; each partition has its share. Default 4 GiB, minimum 0; 0 is no limit.
    pub bytes_max: u64,
}

impl Default for History {
    fn default() -> History {
        History { age_max_s: 24 * 3600, bytes_max: 4 << 30 }
    }
}

impl Section for History {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let History { age_max_s, bytes_max } = self;
        walk.leaf("age_max_s", &mut Number(age_max_s, 0..=u64::from(u32::MAX)));
        walk.leaf("bytes_max", &mut Size(bytes_max, 0..=1 << 50));
    }
}
