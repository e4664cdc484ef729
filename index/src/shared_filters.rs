//! Topic filters that several parts of a process know, each with values of its own under them.
//!
//! A filter is a path of nodes, and nodes are most of what a subscription costs. They are here once ([`SharedFilters`]) and each filter
//! has a number; a part keeps its values by number ([`FilterMap`]). What a part finds depends on its own values alone, whoever
//! else adds or removes filters meanwhile. The lock is held for one filter or one match at a time, and no other is taken under it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::level_trie::{Content, LevelTrie};
use crate::slab::Slab;
use crate::topic_trie::Values;

/// The filters of a process, each for as long as a part has a value under it.
#[derive(Clone)]
pub struct SharedFilters(Arc<RwLock<Filters>>);

struct Filters {
    trie: LevelTrie<FilterNo>,
    /// By number.
    uses: Slab<Use>,
    free: Vec<u32>,
}

/// A filter's number; `NONE` on a node that only leads to others.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FilterNo(u32);

#[derive(Clone, Copy)]
struct Use {
    node: u32,
    /// How many maps have a value under the filter.
    count: u32,
}

/// One part's values under filters that it shares with others.
pub struct FilterMap<V> {
    filters: SharedFilters,
    /// By the filter's number.
    values: Slab<Values<V>>,
    len: usize,
}

impl SharedFilters {
    /// Returns a table without filters, whose hash tables depend on `seed`.
    pub fn with_seed(seed: u64) -> SharedFilters {
        let (uses, free) = (Slab::new(), Vec::new());
        SharedFilters(Arc::new(RwLock::new(Filters { trie: LevelTrie::new(seed), uses, free })))
    }

    /// Returns how many filters there are.
    pub fn len(&self) -> usize {
        let filters = self.read();
        filters.uses.len() - filters.free.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes allocated. Visits every level.
    pub fn memory_bytes(&self) -> usize {
        let filters = self.read();
        filters.trie.memory_bytes()
            + filters.uses.memory_bytes()
            + filters.free.capacity() * size_of::<u32>()
    }

    fn read(&self) -> RwLockReadGuard<'_, Filters> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Filters> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for SharedFilters {
    fn default() -> SharedFilters {
        SharedFilters::with_seed(0)
    }
}

impl fmt::Debug for SharedFilters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} filters", self.len())
    }
}

impl Filters {
    fn find(&self, filter: &[u8]) -> Option<u32> {
        let number = *self.trie.content(self.trie.find(filter)?);
        (!number.is_empty()).then_some(number.0)
    }

    /// Returns the number of a filter, for one more map.
    fn acquire(&mut self, filter: &[u8]) -> u32 {
        let node = self.trie.make(filter);
        let number = *self.trie.content(node);
        if !number.is_empty() {
            self.uses[number.0].count += 1;
            return number.0;
        }
        let new = Use { node, count: 1 };
        let number = match self.free.pop() {
            Some(number) => {
                self.uses[number] = new;
                number
            }
            None => self.uses.push(new),
        };
        *self.trie.content_mut(node) = FilterNo(number);
        number
    }

    /// One map has no value under a filter any more.
    fn release(&mut self, number: u32) {
        let used = &mut self.uses[number];
        assert!(used.count > 0, "filter {number} released more often than acquired");
        used.count -= 1;
        if used.count == 0 {
            let node = used.node;
            *self.trie.content_mut(node) = FilterNo::default();
            self.trie.prune(node);
            self.free.push(number);
        }
    }
}

impl Default for FilterNo {
    fn default() -> FilterNo {
        FilterNo(u32::MAX)
    }
}

impl Content for FilterNo {
    fn is_empty(&self) -> bool {
        *self == FilterNo::default()
    }
}

impl<V: Ord> FilterMap<V> {
    /// Returns a map without values.
    pub fn new(filters: &SharedFilters) -> FilterMap<V> {
        FilterMap { filters: filters.clone(), values: Slab::new(), len: 0 }
    }

    /// Adds a value under a filter and tells whether it was missing.
    pub fn insert(&mut self, filter: &[u8], value: V) -> bool {
        let known = self.number(filter);
        let number = known.unwrap_or_else(|| self.filters.write().acquire(filter));
        while self.values.len() <= number as usize {
            self.values.push(Values::default());
        }
        let added = self.values[number].insert(value);
        self.len += usize::from(added);
        added
    }

    /// Adds a value under a filter in the place of one that equals it, which is returned.
    pub fn replace(&mut self, filter: &[u8], value: V) -> Option<V>
    where
        V: Copy,
    {
        let old = self.get(filter, &value).copied();
        match self.number(filter).filter(|_| old.is_some()) {
            // Without losing the number.
            Some(number) => self.values[number].replace(value),
            None => drop(self.insert(filter, value)),
        }
        old
    }

    /// Removes a value from a filter and tells whether it was there.
    pub fn remove(&mut self, filter: &[u8], value: &V) -> bool {
        self.number(filter).is_some_and(|number| self.remove_at(number, value))
    }

    /// Removes a value from the filter of this number and tells whether it was there.
    pub fn remove_at(&mut self, number: u32, value: &V) -> bool {
        let Some(values) = self.values.get_mut(number) else { return false };
        let removed = values.remove(value);
        if removed {
            self.len -= 1;
            if values.is_empty() {
                self.filters.write().release(number);
            }
        }
        removed
    }

    /// Returns the value under a filter that equals this one.
    pub fn get(&self, filter: &[u8], value: &V) -> Option<&V> {
        self.values[self.number(filter)?].get(value)
    }

    /// Visits the values of every filter that matches the topic, in no promised order.
    ///
    /// A value under several matching filters is visited once for each.
    pub fn for_each_match(&self, topic: &[u8], mut visit: impl FnMut(&V)) {
        self.filters.read().trie.for_each_match(topic, |number| {
            if let Some(values) = self.values.get(number.0) {
                values.for_each(&mut visit);
            }
        });
    }

    /// Returns how many values there are, counted once for each filter.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the bytes allocated, sets of many values estimated, without the filters. Visits every filter.
    pub fn memory_bytes(&self) -> usize {
        self.values.memory_bytes() + self.values.iter().map(Values::memory_bytes).sum::<usize>()
    }

    /// Returns the number of a filter under which this map has a value: it stays that filter's for as long.
    pub fn number(&self, filter: &[u8]) -> Option<u32> {
        let number = self.filters.read().find(filter)?;
        self.values.get(number).filter(|values| !values.is_empty()).map(|_| number)
    }
}

impl<V: Ord> Default for FilterMap<V> {
    /// Returns a map that shares its filters with nobody.
    fn default() -> FilterMap<V> {
        FilterMap::new(&SharedFilters::default())
    }
}

impl<V> Drop for FilterMap<V> {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        let mut filters = self.filters.write();
        let used = self.values.iter().enumerate().filter(|(_, values)| !values.is_empty());
        used.for_each(|(number, _)| filters.release(number as u32));
    }
}

impl<V> fmt::Debug for FilterMap<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} values under {:?}", self.len, self.filters)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic_trie::TopicTrie;

    #[test]
    fn what_one_part_removes_the_others_keep() {
        let filters = SharedFilters::default();
        let (mut one, mut two) = (FilterMap::new(&filters), FilterMap::new(&filters));
        assert!(one.insert(b"a/+", 1) && two.insert(b"a/+", 1) && two.insert(b"a/+", 2));
        assert_eq!((filters.len(), one.len(), two.len()), (1, 1, 2));

        assert!(two.remove(b"a/+", &1));
        assert_eq!((found(&one, "a/b"), found(&two, "a/b")), (vec![1], vec![2]));
        assert!(one.remove(b"a/+", &1) && !one.remove(b"a/+", &1));
        assert_eq!((found(&one, "a/b"), found(&two, "a/b")), (vec![], vec![2]));

        drop(two);
        assert!(filters.is_empty());
        assert!(one.is_empty() && one.insert(b"x", 3));
        assert_eq!(found(&one, "x"), [3]);
    }

    #[test]
    fn a_part_that_is_gone_leaves_no_filter() {
        let filters = SharedFilters::default();
        let mut map = FilterMap::new(&filters);
        for id in 0..100 {
            map.insert(format!("a/{id}/+").as_bytes(), id);
        }
        assert_eq!(filters.len(), 100);
        drop(map);
        assert_eq!(filters.len(), 0);
        let used = filters.read().trie.node_count();
        assert_eq!(used, 1, "only the root is left");
    }

    #[test]
    fn five_parts_cost_less_than_two_tries() {
        let filters = SharedFilters::default();
        let mut trie = TopicTrie::new();
        let mut maps: Vec<_> = (0..5).map(|_| FilterMap::new(&filters)).collect();
        for id in 0..10_000u64 {
            let filter = format!("w/d{id}/+/temp");
            trie.insert(filter.as_bytes(), id);
            maps.iter_mut().for_each(|map| assert!(map.insert(filter.as_bytes(), id)));
        }
        let shared: usize = maps.iter().map(FilterMap::memory_bytes).sum();
        let bytes = (filters.memory_bytes() + shared) / 10_000;
        assert!(bytes < 2 * trie.memory_bytes() / 10_000, "{bytes} bytes a filter");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever the others do.
        #[test]
        fn each_part_finds_what_a_trie_of_its_own_would(
            changes in prop::collection::vec(
                (0..3usize, any::<bool>(), filter(), 0..3u64), 0..80
            ),
            topics in prop::collection::vec("[ab](/[ab]){0,3}", 1..6),
        ) {
            let filters = SharedFilters::with_seed(7);
            let mut maps: Vec<FilterMap<u64>> = (0..3).map(|_| FilterMap::new(&filters)).collect();
            let mut tries: Vec<TopicTrie<u64>> = (0..3).map(|_| TopicTrie::new()).collect();
            for (part, add, filter, value) in changes {
                let (map, trie) = (&mut maps[part], &mut tries[part]);
                let filter = filter.as_bytes();
                match add {
                    true => prop_assert_eq!(map.insert(filter, value), trie.insert(filter, value)),
                    false => prop_assert_eq!(map.remove(filter, &value), trie.remove(filter, &value)),
                }
                prop_assert_eq!(map.get(filter, &value), trie.get(filter, &value));
                prop_assert_eq!(map.len(), trie.len());
            }
            for topic in &topics {
                for (map, trie) in maps.iter().zip(&tries) {
                    let mut expected = Vec::new();
                    trie.for_each_match(topic.as_bytes(), |value| expected.push(*value));
                    expected.sort_unstable();
                    prop_assert_eq!(found(map, topic), expected);
                }
            }
        }
    }

    fn filter() -> impl Strategy<Value = String> {
        prop_oneof![Just("#".to_owned()), "[ab+](/[ab+]){0,3}(/#)?"]
    }

    fn found(map: &FilterMap<u64>, topic: &str) -> Vec<u64> {
        let mut values = Vec::new();
        map.for_each_match(topic.as_bytes(), |value| values.push(*value));
        values.sort_unstable();
        values
    }
}
