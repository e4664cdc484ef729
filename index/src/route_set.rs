//! Sets of queues, each stored once and named by a number.
//!
//! What a message is routed to is nearly always what an earlier one was, so a hundred thousand queues bound
//! to one exchange cost one definition, not one list for each message (storage.md §8.1).
//! Numbers are local to the table: they are never written where another table reads them.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::slab;

/// The id of the empty set, in every table.
pub const EMPTY_ROUTE_SET: u32 = 0;

/// Interned sorted lists of queue ids.
#[derive(Clone, Debug)]
pub struct RouteSets {
    /// The lists, one behind the other.
    queues: Vec<u64>,
    /// Where each list ends; it starts where the one before ends.
    ends: Vec<usize>,
    ids: HashTable<u32>,
    seed: u64,
}

impl RouteSets {
    /// Returns a table with the empty set alone.
    pub fn new() -> RouteSets {
        RouteSets::with_seed(0)
    }

    /// Returns a table whose hashes depend on `seed`.
    pub fn with_seed(seed: u64) -> RouteSets {
        RouteSets { queues: Vec::new(), ends: vec![0], ids: HashTable::new(), seed }
    }

    /// Returns the id of a set of queues, the same for the same set.
    ///
    /// Panics unless the ids ascend without repetition.
    pub fn intern(&mut self, queues: &[u64]) -> u32 {
        if queues.is_empty() {
            return EMPTY_ROUTE_SET;
        }
        assert!(queues.is_sorted_by(|left, right| left < right), "queue ids ascend");
        let hash = hash(queues, self.seed);
        if let Some(&id) = self.ids.find(hash, |&id| self.get(id) == queues) {
            return id;
        }
        self.queues.extend_from_slice(queues);
        let id = slab::push(&mut self.ends, self.queues.len());
        let (all, ends, seed) = (&self.queues, &self.ends, self.seed);
        self.ids.insert_unique(hash, id, |&id| self::hash(list(all, ends, id), seed));
        id
    }

    /// Returns the queues of a set, ascending. Panics if the id is not from this table.
    pub fn get(&self, id: u32) -> &[u64] {
        list(&self.queues, &self.ends, id)
    }

    /// Returns how many sets there are, the empty one included.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Tells whether there is no set but the empty one.
    pub fn is_empty(&self) -> bool {
        self.len() == 1
    }

    /// Returns the bytes allocated.
    pub fn memory_bytes(&self) -> usize {
        self.queues.capacity() * size_of::<u64>()
            + self.ends.capacity() * size_of::<usize>()
            + self.ids.allocation_size()
    }
}

impl Default for RouteSets {
    fn default() -> RouteSets {
        RouteSets::new()
    }
}

fn list<'a>(queues: &'a [u64], ends: &[usize], id: u32) -> &'a [u64] {
    let at = id as usize;
    let start = at.checked_sub(1).map_or(0, |before| ends[before]);
    &queues[start..ends[at]]
}

fn hash(queues: &[u64], seed: u64) -> u64 {
    if let [only] = queues {
        return slab::fold_hash(*only, seed);
    }
    let mut chunk = [0; 256];
    let mut hash = seed;
    for queues in queues.chunks(chunk.len() / size_of::<u64>()) {
        for (bytes, queue) in chunk.chunks_exact_mut(size_of::<u64>()).zip(queues) {
            bytes.copy_from_slice(&queue.to_le_bytes());
        }
        hash = xxh3_64_with_seed(&chunk[..size_of_val(queues)], hash);
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_empty_set_is_zero_and_needs_no_definition() {
        let mut sets = RouteSets::new();

        assert_eq!(sets.intern(&[]), EMPTY_ROUTE_SET);
        assert_eq!(sets.get(EMPTY_ROUTE_SET), [0u64; 0]);
        assert!(sets.is_empty());
    }

    #[test]
    #[should_panic(expected = "queue ids ascend")]
    fn a_list_with_a_queue_twice_is_refused() {
        RouteSets::new().intern(&[1, 1]);
    }

    #[test]
    fn a_fanout_to_a_hundred_thousand_queues_is_stored_once() {
        let queues: Vec<u64> = (0..100_000).map(|queue| queue * 3).collect();
        let mut sets = RouteSets::new();

        let id = sets.intern(&queues);

        assert_eq!(sets.intern(&queues), id);
        assert_ne!(sets.intern(&queues[1..]), id);
        assert_eq!(sets.get(id), queues);
    }

    proptest! {
        #[test]
        fn equal_sets_and_only_equal_sets_share_an_id(
            lists in prop::collection::vec(prop::collection::btree_set(0..40u64, 0..40), 0..60),
        ) {
            let mut sets = RouteSets::with_seed(9);
            let mut ids = BTreeMap::new();

            for list in lists {
                let list: Vec<u64> = list.into_iter().collect();
                let id = sets.intern(&list);
                prop_assert_eq!(*ids.entry(list.clone()).or_insert(id), id);
                prop_assert_eq!(sets.get(id), list);
            }

            ids.insert(Vec::new(), EMPTY_ROUTE_SET);
            prop_assert_eq!(sets.len(), ids.len());
            for (list, id) in ids {
                prop_assert_eq!(sets.get(id), list);
            }
        }
    }
}
