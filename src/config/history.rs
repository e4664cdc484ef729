//! How much history of ordinary topics there is.

use super::setting::{Number, Size, Text};
use super::walk::{Section, Walk};

/// How long, and how much of it, what is stored can be read again. What queues and retained messages need is kept beyond that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Seconds that records are history. Default 86400 (24 hours), minimum 0; 0 is no limit.
    pub age_max_s: u32,
    /// Bytes of log on this node; each partition has its share. Default 4 GiB, minimum 0; 0 is no limit.
    pub bytes_max: u64,
    /// Topics that are history for a shorter time. Default none.
    pub topics: Vec<HistoryTopics>,
    /// Topic filters with commas between, at most 64: what is published at QoS 0 to a topic that one of them matches is history, too.
    /// Default none.
    pub filters: String,
}

/// Topics that are history for a shorter time than others. Where several match, the shortest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryTopics {
    /// Which topics. Needed.
    pub filter: String,
    /// Seconds that their messages are history. Needed, less than `history.age_max_s` unless that is 0.
    pub age_max_s: u32,
}

impl Default for History {
    fn default() -> History {
        let (topics, filters) = (Vec::new(), String::new());
        History { age_max_s: 24 * 3600, bytes_max: 4 << 30, topics, filters }
    }
}

impl Section for History {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let History { age_max_s, bytes_max, topics, filters } = self;
        walk.leaf("age_max_s", &mut Number(age_max_s, 0..=u64::from(u32::MAX)));
        walk.leaf("bytes_max", &mut Size(bytes_max, 0..=1 << 50));
        walk.list("topics", topics);
        walk.leaf("filters", &mut Text(filters, "topic filters with commas between"));
    }
}

impl Section for HistoryTopics {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let HistoryTopics { filter, age_max_s } = self;
        walk.leaf("filter", &mut Text(filter, "a topic filter"));
        walk.leaf("age_max_s", &mut Number(age_max_s, 1..=u64::from(u32::MAX)));
    }
}
