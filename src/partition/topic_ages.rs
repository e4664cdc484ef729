//! Topics whose messages are history for a shorter time than others.

use std::sync::Arc;

use fluxmq_index::topic_trie;

use crate::model::{Filter, Millis, StoredMessage};

/// How long messages of some topics are history. Of those that match a topic the shortest counts.
///
/// It is looked at when history is read, so it needs no record and may be changed at every start; the bytes go with the segments they are in.
/// What is retained, and what queues have, is not history.
#[derive(Clone, Debug, Default)]
pub struct TopicAges(Arc<[(Filter, u64)]>);

impl TopicAges {
    /// Takes filters, each with milliseconds.
    pub fn new(ages: Vec<(Filter, u64)>) -> TopicAges {
        TopicAges(ages.into())
    }

    /// Returns true for a message that its topic's age has taken out of history.
    pub(super) fn is_over(&self, message: &StoredMessage, now: Millis) -> bool {
        self.0.iter().any(|(filter, age_ms)| {
            now.0.saturating_sub(message.time.0) > *age_ms
                && topic_trie::matches(filter.as_bytes(), &message.topic)
        })
    }
}
