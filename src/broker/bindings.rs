//! Which partitions have queues that are bound to a topic: where copies of a publish go.
//!
//! The table has no truth of its own. Partitions say what their queues are bound to, as they apply it and before they answer whoever
//! declared a queue, so a publish after that answer finds the queue (ADR 0038). Without bindings a publish costs one atomic read.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use fluxmq_index::TopicTrie;

use crate::model::{Filter, PartitionId, Topic};

/// The bindings of all queues, by partition.
#[derive(Default)]
pub struct Bindings {
    table: RwLock<TopicTrie<PartitionId>>,
    /// Changes with the table; 0 until there is a binding.
    version: AtomicU64,
}

/// What one publisher found for its last topic.
#[derive(Debug, Default)]
pub struct Found {
    version: u64,
    topic: Option<Topic>,
    partitions: Arc<[PartitionId]>,
}

impl Bindings {
    /// A partition has queues that are bound to a filter, or none any more. Saying it twice changes nothing.
    pub fn change(&self, partition: PartitionId, filter: &Filter, is_bound: bool) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let is_changed = match is_bound {
            true => table.insert(filter.as_bytes(), partition),
            false => table.remove(filter.as_bytes(), &partition),
        };
        if is_changed {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// Returns true when there may be a binding.
    pub fn is_empty(&self) -> bool {
        self.version.load(Ordering::Acquire) == 0
            || self.table.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Finds the partitions whose queues are bound to a topic, ascending; the last answer is remembered.
    pub fn find(&self, topic: &Topic, last: &mut Found) -> Arc<[PartitionId]> {
        let version = self.version.load(Ordering::Acquire);
        if version == 0 {
            return Arc::default();
        }
        if last.version != version || last.topic.as_ref() != Some(topic) {
            let mut partitions = BTreeSet::new();
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            table.for_each_match(topic.as_bytes(), |partition| {
                partitions.insert(*partition);
            });
            let partitions = partitions.into_iter().collect();
            *last = Found { version, topic: Some(topic.clone()), partitions };
        }
        last.partitions.clone()
    }
}

impl std::fmt::Debug for Bindings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "bindings of version {}", self.version.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_change_is_seen_by_whoever_looked_before() {
        let (bindings, mut last) = (Bindings::default(), Found::default());
        let filter = Filter::new(Bytes::from_static(b"a/+")).unwrap();
        let topic = Topic::new(Bytes::from_static(b"a/b")).unwrap();
        assert_eq!(*bindings.find(&topic, &mut last), []);

        bindings.change(PartitionId(2), &filter, true);
        assert_eq!(*bindings.find(&topic, &mut last), [PartitionId(2)]);
        bindings.change(PartitionId(1), &filter, true);
        assert_eq!(*bindings.find(&topic, &mut last), [PartitionId(1), PartitionId(2)]);
        bindings.change(PartitionId(2), &filter, false);
        bindings.change(PartitionId(1), &filter, false);
        assert_eq!(*bindings.find(&topic, &mut last), []);
        assert!(bindings.is_empty());
    }
}
