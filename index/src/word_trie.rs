//! Patterns of topic exchanges and the values bound under them, found by routing key without looking at each pattern.
//!
//! A trie of words. A search goes through the key once with the set of places where it may be, each of them in it once: whatever
//! wildcards are in the patterns, it takes no more steps than the key has words times the trie places.

use std::collections::BTreeMap;

use crate::routing_key::words;

const ROOT: usize = 0;

/// Patterns, each with values. What [`routing_key::matches`](crate::routing_key::matches) says of one pattern, it says of all.
#[derive(Clone, Debug)]
pub struct WordTrie<V> {
    places: Vec<Place<V>>,
    /// Places that are used for nothing.
    free: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Place<V> {
    /// `*` and `#` are words here like others.
    next: BTreeMap<Box<[u8]>, usize>,
    /// Behind a `#`, which goes on over any word.
    is_hash: bool,
    values: Vec<V>,
}

impl<V> Place<V> {
    fn new(is_hash: bool) -> Place<V> {
        Place { next: BTreeMap::new(), is_hash, values: Vec::new() }
    }
}

impl<V: Ord> Default for WordTrie<V> {
    fn default() -> WordTrie<V> {
        WordTrie { places: vec![Place::new(false)], free: Vec::new() }
    }
}

impl<V: Ord> WordTrie<V> {
    /// Adds a value under a pattern and tells whether it was missing.
    pub fn insert(&mut self, pattern: &[u8], value: V) -> bool {
        let mut at = ROOT;
        for word in words(pattern) {
            at = match self.places[at].next.get(word) {
                Some(next) => *next,
                None => {
                    let next = self.place(Place::new(word == b"#"));
                    self.places[at].next.insert(word.into(), next);
                    next
                }
            };
        }
        let values = &mut self.places[at].values;
        match values.binary_search(&value) {
            Ok(_) => false,
            Err(place) => {
                values.insert(place, value);
                true
            }
        }
    }

    /// Removes a value from a pattern and tells whether it was there. Frees every place that leads nowhere any more.
    pub fn remove(&mut self, pattern: &[u8], value: &V) -> bool {
        let mut path = vec![ROOT];
        for word in words(pattern) {
            let Some(next) = self.places[path[path.len() - 1]].next.get(word) else { return false };
            path.push(*next);
        }
        let values = &mut self.places[path[path.len() - 1]].values;
        let Ok(place) = values.binary_search(value) else { return false };
        values.remove(place);
        let steps: Vec<&[u8]> = words(pattern).collect();
        for (step, word) in steps.iter().enumerate().rev() {
            let at = path[step + 1];
            let place = &self.places[at];
            if !place.values.is_empty() || !place.next.is_empty() {
                break;
            }
            self.free.push(at);
            self.places[path[step]].next.remove(*word);
        }
        true
    }

    /// Calls `found` with the values of every pattern that matches; a value once for each of its patterns.
    pub fn for_each_match<'a>(&'a self, key: &[u8], mut found: impl FnMut(&'a V)) {
        let mut here = vec![ROOT];
        self.reach(&mut here);
        for word in words(key) {
            let mut next = Vec::with_capacity(here.len());
            for at in here {
                let place = &self.places[at];
                next.extend(place.is_hash.then_some(at));
                next.extend(place.next.get(&b"*"[..]));
                // A key may have a word that looks like a wildcard: it is the same step then, or `#`, which is taken below.
                if word != b"*" && word != b"#" {
                    next.extend(place.next.get(word));
                }
            }
            self.reach(&mut next);
            here = next;
        }
        here.into_iter().for_each(|at| self.places[at].values.iter().for_each(&mut found));
    }

    /// Returns true when nothing is in it.
    pub fn is_empty(&self) -> bool {
        let root = &self.places[ROOT];
        root.values.is_empty() && root.next.is_empty()
    }

    fn place(&mut self, place: Place<V>) -> usize {
        match self.free.pop() {
            Some(at) => {
                self.places[at] = place;
                at
            }
            None => {
                self.places.push(place);
                self.places.len() - 1
            }
        }
    }

    /// Adds where no word leads as well, behind a `#` that stands for none; each place once.
    fn reach(&self, places: &mut Vec<usize>) {
        let mut at = 0;
        while at < places.len() {
            places.extend(self.places[places[at]].next.get(&b"#"[..]));
            at += 1;
        }
        places.sort_unstable();
        places.dedup();
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::routing_key::matches;

    fn found(trie: &WordTrie<usize>, key: &str) -> Vec<usize> {
        let mut values = Vec::new();
        trie.for_each_match(key.as_bytes(), |value| values.push(*value));
        values.sort_unstable();
        values
    }

    /// As many ways through as a short string allows: whoever goes each of them is not done in a lifetime.
    #[test]
    fn wildcards_do_not_multiply() {
        let mut trie = WordTrie::default();
        trie.insert(format!("{}b", "#.".repeat(127)).as_bytes(), 1);
        trie.insert(format!("{}b", "#.a.".repeat(63)).as_bytes(), 2);
        trie.insert(["*"; 128].join(".").as_bytes(), 3);
        let key = ["a"; 127].join(".");

        assert_eq!(found(&trie, &format!("{key}.a")), [3]);
        assert_eq!(found(&trie, &format!("{key}.b")), [1, 2, 3]);
        assert_eq!(found(&trie, &key), [0; 0]);
    }

    #[test]
    fn what_leads_nowhere_is_freed() {
        let mut trie = WordTrie::default();
        for pattern in ["a.b.c", "a.*", "#", ""] {
            assert!(trie.insert(pattern.as_bytes(), 1) && !trie.insert(pattern.as_bytes(), 1));
        }
        assert!(!trie.remove(b"a", &1) && !trie.remove(b"a.b.c", &2) && !trie.remove(b"b", &1));
        for pattern in ["a.b.c", "a.*", "#", ""] {
            assert!(trie.remove(pattern.as_bytes(), &1) && !trie.remove(pattern.as_bytes(), &1));
        }
        assert!(trie.is_empty());
        assert_eq!(trie.places.len(), trie.free.len() + 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn a_trie_finds_what_each_pattern_matches(
            patterns in vec("[ab*#.]{0,7}", 0..12),
            gone in vec(any::<bool>(), 12),
            keys in vec("[ab*#.]{0,8}", 1..4),
        ) {
            let mut trie = WordTrie::default();
            for (number, pattern) in patterns.iter().enumerate() {
                trie.insert(pattern.as_bytes(), number);
            }
            let mut left: Vec<usize> = (0..patterns.len()).collect();
            left.retain(|number| {
                !gone[*number] || !trie.remove(patterns[*number].as_bytes(), number)
            });
            for key in keys {
                let is_match = |number: &usize| {
                    matches(patterns[*number].as_bytes(), key.as_bytes())
                };
                let expected: Vec<usize> = left.iter().copied().filter(is_match).collect();
                prop_assert_eq!(found(&trie, &key), expected, "{} of {:?}", key, patterns);
            }
        }
    }
}
