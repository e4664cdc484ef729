//! Which partitions have queues that are bound to a topic: where copies of a publish go.
//!
//! The table has no truth of its own. Partitions say what their queues are bound to, as they apply it and before they answer whoever
//! declared a queue, so a publish after that answer finds the queue (ADR 0038). Without bindings a publish costs one atomic read.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use fluxmq_index::TopicTrie;

use crate::model::queue::Binding;
use crate::model::{PartitionId, Topic};

/// The bindings of all queues, by partition.
#[derive(Default)]
pub struct Bindings {
    table: RwLock<TopicTrie<(PartitionId, OnlyUnstored)>>,
    /// Changes with the table; 0 until there is a binding.
    version: AtomicU64,
}

/// [`Binding::only_unstored`].
type OnlyUnstored = bool;

/// What one publisher found for its last topic.
#[derive(Debug, Default)]
pub struct Found {
    version: u64,
    topic: Option<Topic>,
    /// Those that a publish goes to which a history has, and those of one that no history has.
    stored: Arc<[PartitionId]>,
    unstored: Arc<[PartitionId]>,
}

impl Bindings {
    /// A partition has queues with a binding, or none any more. Saying it twice changes nothing.
    pub fn change(&self, partition: PartitionId, binding: &Binding, is_bound: bool) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let filter = binding.filter.as_bytes();
        let target = (partition, binding.only_unstored);
        let is_changed = match is_bound {
            true => table.insert(filter, target),
            false => table.remove(filter, &target),
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

    /// Finds the partitions with queues that are to have a publish, which a history has or none, ascending; the last answer is remembered.
    pub fn find(&self, topic: &Topic, is_unstored: bool, last: &mut Found) -> Arc<[PartitionId]> {
        let version = self.version.load(Ordering::Acquire);
        if version == 0 {
            return Arc::default();
        }
        if last.version != version || last.topic.as_ref() != Some(topic) {
            let (mut stored, mut unstored) = (BTreeSet::new(), BTreeSet::new());
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            table.for_each_match(topic.as_bytes(), |(partition, only_unstored)| {
                unstored.insert(*partition);
                if !only_unstored {
                    stored.insert(*partition);
                }
            });
            let [stored, unstored] = [stored, unstored].map(|it| it.into_iter().collect());
            *last = Found { version, topic: Some(topic.clone()), stored, unstored };
        }
        if is_unstored { last.unstored.clone() } else { last.stored.clone() }
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
    use crate::model::Filter;

    #[test]
    fn a_change_is_seen_by_whoever_looked_before() {
        let (bindings, mut last) = (Bindings::default(), Found::default());
        let filter = Filter::new(Bytes::from_static(b"a/+")).unwrap();
        let [always, unstored] =
            [false, true].map(|only_unstored| Binding { filter: filter.clone(), only_unstored });
        let topic = Topic::new(Bytes::from_static(b"a/b")).unwrap();
        let mut find = |is_unstored| bindings.find(&topic, is_unstored, &mut last).to_vec();
        assert_eq!(find(false), []);

        bindings.change(PartitionId(2), &always, true);
        assert_eq!(find(false), [PartitionId(2)]);
        bindings.change(PartitionId(1), &unstored, true);
        assert_eq!(find(false), [PartitionId(2)], "the other follows what is stored");
        assert_eq!(find(true), [PartitionId(1), PartitionId(2)]);
        bindings.change(PartitionId(1), &always, true);
        assert_eq!(find(false), [PartitionId(1), PartitionId(2)]);
        bindings.change(PartitionId(2), &always, false);
        bindings.change(PartitionId(1), &always, false);
        assert_eq!((find(false), find(true)), (vec![], vec![PartitionId(1)]));
        bindings.change(PartitionId(1), &unstored, false);
        assert_eq!(find(true), []);
        assert!(bindings.is_empty());
    }
}
