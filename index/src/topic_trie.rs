//! Topic filters and the values subscribed under them.

use std::collections::BTreeSet;
use std::fmt;

use crate::level_trie::{Content, LevelTrie};

const SEPARATOR: u8 = b'/';

/// Tells whether a filter matches a topic.
///
/// `+` matches one level, a final `#` its parent and everything below [MQTT-4.7.1-2], [MQTT-4.7.1-3];
/// neither matches the first level of a topic that begins with `$` [MQTT-4.7.2-1].
pub fn matches(filter: &[u8], topic: &[u8]) -> bool {
    let mut filter_levels = levels(filter).peekable();
    if is_reserved(topic) && matches!(filter_levels.peek(), Some(&b"+") | Some(&b"#")) {
        return false;
    }
    let mut topic_levels = levels(topic);
    loop {
        match (filter_levels.next(), topic_levels.next()) {
            (Some(b"#"), _) if filter_levels.peek().is_none() => return true,
            (Some(b"+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// Topic filters, each with a set of values.
#[derive(Clone)]
pub struct TopicTrie<V> {
    trie: LevelTrie<Values<V>>,
    len: usize,
}

/// The values of one filter. Nearly all filters have one, so one costs no allocation.
#[derive(Clone, Debug, Default)]
pub(crate) enum Values<V> {
    #[default]
    None,
    One(V),
    /// Two or more. A tree: a million clients may subscribe to one filter in any order.
    #[expect(clippy::box_collection, reason = "a third of the node's size otherwise")]
    Many(Box<BTreeSet<V>>),
}

impl<V: Ord + Clone> TopicTrie<V> {
    /// Returns an empty trie.
    pub fn new() -> TopicTrie<V> {
        TopicTrie::with_seed(0)
    }

    /// Returns an empty trie whose hash tables depend on `seed`, so that clients cannot choose
    /// levels that collide.
    pub fn with_seed(seed: u64) -> TopicTrie<V> {
        TopicTrie { trie: LevelTrie::new(seed), len: 0 }
    }

    /// Adds a value under a filter and tells whether it was missing.
    pub fn insert(&mut self, filter: &[u8], value: V) -> bool {
        let at = self.trie.make(filter);
        let added = self.trie.content_mut(at).insert(value);
        self.len += usize::from(added);
        added
    }

    /// Removes a value from a filter and tells whether it was there.
    ///
    /// Frees every node that leads nowhere any more.
    pub fn remove(&mut self, filter: &[u8], value: &V) -> bool {
        let Some(at) = self.trie.find(filter) else {
            return false;
        };
        let removed = self.trie.content_mut(at).remove(value);
        if removed {
            self.len -= 1;
            self.trie.prune(at);
        }
        removed
    }

    /// Returns the value under a filter that equals this one.
    pub fn get(&self, filter: &[u8], value: &V) -> Option<&V> {
        self.trie.content(self.trie.find(filter)?).get(value)
    }

    /// Visits the values of every filter that matches the topic, in no promised order.
    ///
    /// A value under several matching filters is visited once for each.
    pub fn for_each_match(&self, topic: &[u8], mut visit: impl FnMut(&V)) {
        self.trie.for_each_match(topic, |values| values.for_each(&mut visit));
    }

    /// Returns how many values there are, counted once for each filter.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the bytes allocated, sets of many values estimated. Visits every node.
    pub fn memory_bytes(&self) -> usize {
        self.trie.memory_bytes() + self.trie.contents().map(Values::memory_bytes).sum::<usize>()
    }
}

impl<V: Ord + Clone> Default for TopicTrie<V> {
    fn default() -> TopicTrie<V> {
        TopicTrie::new()
    }
}

impl<V> fmt::Debug for TopicTrie<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = formatter.debug_struct("TopicTrie");
        text.field("len", &self.len).field("nodes", &self.trie.node_count());
        text.field("levels", &self.trie.level_count()).finish()
    }
}

impl<V> Content for Values<V> {
    fn is_empty(&self) -> bool {
        matches!(self, Values::None)
    }
}

impl<V: Ord> Values<V> {
    pub(crate) fn insert(&mut self, value: V) -> bool {
        match std::mem::replace(self, Values::None) {
            Values::None => {
                *self = Values::One(value);
                true
            }
            Values::One(only) if only == value => {
                *self = Values::One(only);
                false
            }
            Values::One(only) => {
                *self = Values::Many(Box::new(BTreeSet::from([only, value])));
                true
            }
            Values::Many(mut set) => {
                let added = set.insert(value);
                *self = Values::Many(set);
                added
            }
        }
    }

    /// Puts a value in the place of the one that equals it.
    pub(crate) fn replace(&mut self, value: V) {
        match self {
            Values::None => {}
            Values::One(only) => *only = value,
            Values::Many(set) => drop(set.replace(value)),
        }
    }

    pub(crate) fn remove(&mut self, value: &V) -> bool {
        match self {
            Values::None => false,
            Values::One(only) if only == value => {
                *self = Values::None;
                true
            }
            Values::One(_) => false,
            Values::Many(set) => {
                let removed = set.remove(value);
                if set.len() == 1 {
                    *self = Values::One(set.pop_first().expect("a set of one has a first"));
                }
                removed
            }
        }
    }

    pub(crate) fn get(&self, value: &V) -> Option<&V> {
        match self {
            Values::None => None,
            Values::One(only) => (only == value).then_some(only),
            Values::Many(set) => set.get(value),
        }
    }

    pub(crate) fn for_each(&self, visit: &mut impl FnMut(&V)) {
        match self {
            Values::None => {}
            Values::One(value) => visit(value),
            Values::Many(set) => set.iter().for_each(visit),
        }
    }

    /// Returns the bytes allocated beside itself, estimated.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Values::Many(set) => size_of::<BTreeSet<V>>() + set.len() * size_of::<V>() * 3 / 2,
            Values::None | Values::One(_) => 0,
        }
    }
}

/// Returns the levels of a topic or filter; there is always one.
pub(crate) fn levels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.split(|&byte| byte == SEPARATOR)
}

/// Tells whether wildcards at the first level keep away from the topic [MQTT-4.7.2-1].
pub(crate) fn is_reserved(topic: &[u8]) -> bool {
    topic.first() == Some(&b'$')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn get_finds_what_is_under_the_very_filter_and_nowhere_else() {
        let mut trie = TopicTrie::new();
        for (filter, value) in [("a/+", 1), ("a/+", 2), ("a/b", 3), ("a/#", 4)] {
            trie.insert(filter.as_bytes(), value);
        }
        assert_eq!(trie.get(b"a/+", &1), Some(&1));
        assert_eq!(trie.get(b"a/+", &2), Some(&2));
        assert_eq!(trie.get(b"a/b", &3), Some(&3));
        assert_eq!(trie.get(b"a/b", &1), None, "it matches, and is another filter");
        assert_eq!(trie.get(b"a", &4), None);
        assert_eq!(trie.get(b"x/y", &4), None);
    }

    #[test]
    fn mqtt_4_7_1_examples_match_as_the_specification_says() {
        let expected = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("sport/+/player1", "sport//player1", true),
        ];
        for (filter, topic, is_match) in expected {
            assert_eq!(matches(filter.as_bytes(), topic.as_bytes()), is_match, "{filter} {topic}");
            assert_eq!(found(&trie(&[filter]), topic).len() == 1, is_match, "{filter} {topic}");
        }
    }

    #[test]
    fn mqtt_4_7_2_1_wildcards_at_the_first_level_leave_dollar_topics_alone() {
        let trie = trie(&["#", "+/monitor/Clients", "$SYS/#", "$SYS/monitor/+"]);

        assert_eq!(found(&trie, "$SYS/monitor/Clients"), [2, 3]);
        assert_eq!(found(&trie, "$"), []);
        assert!(!matches(b"#", b"$SYS/a") && !matches(b"+/a", b"$SYS/a"));
        assert!(matches(b"$SYS/#", b"$SYS") && matches(b"a/+", b"a/$b"));
    }

    #[test]
    fn a_value_subscribed_twice_is_one_value() {
        let mut trie = TopicTrie::new();

        assert!(trie.insert(b"a/+", 7u64));
        assert!(!trie.insert(b"a/+", 7));
        assert!(trie.insert(b"a/+", 8));

        assert_eq!(trie.len(), 2);
        assert_eq!(found(&trie, "a/b"), [7, 8]);
    }

    #[test]
    fn removing_all_filters_leaves_no_node_no_edge_and_no_level() {
        let filters = ["a/b/c", "a/b/#", "a/+/c", "+/+/+", "#", "", "/", "a/b"];
        let mut trie = trie(&filters);
        let node_count = trie.trie.node_count();

        for (id, filter) in filters.iter().enumerate() {
            assert!(!trie.remove(filter.as_bytes(), &99));
            assert!(trie.remove(filter.as_bytes(), &(id as u64)), "{filter}");
            assert!(!trie.remove(filter.as_bytes(), &(id as u64)), "{filter}");
        }

        assert!(trie.is_empty());
        assert_eq!(trie.trie.node_count(), 1, "only the root is left");
        assert_eq!((trie.trie.edge_count(), trie.trie.level_count()), (0, 0));
        let bytes = trie.trie.memory_bytes();
        filters.iter().for_each(|filter| assert!(trie.insert(filter.as_bytes(), 1)));
        assert_eq!(trie.trie.node_count(), node_count);
        assert_eq!(trie.trie.memory_bytes(), bytes, "freed nodes are used again");
    }

    #[test]
    fn a_topic_as_deep_as_a_packet_allows_needs_no_deep_stack() {
        let mut trie = TopicTrie::new();
        let filter = ["+"; 30_000].join("/");
        trie.insert(filter.as_bytes(), 1u64);
        trie.insert(format!("{filter}/#").as_bytes(), 2);

        let topic = ["x"; 30_000].join("/");
        assert_eq!(found(&trie, &topic), [1, 2]);

        assert!(trie.remove(filter.as_bytes(), &1));
        assert!(trie.remove(format!("{filter}/#").as_bytes(), &2));
        assert_eq!(trie.trie.node_count(), 1);
    }

    #[test]
    fn a_hundred_thousand_filters_cost_less_than_two_hundred_bytes_each() {
        let mut trie = TopicTrie::new();
        for id in 0..100_000u64 {
            trie.insert(format!("site/{}/device/{id}/temperature", id % 100).as_bytes(), id);
        }

        let bytes = trie.memory_bytes() / trie.len();

        assert!(bytes < 200, "{bytes} bytes a filter");
    }

    /// The rules of MQTT 5.0 §4.7 once more, recursive and on owned strings: the oracle.
    fn naive(filter: &str, topic: &str) -> bool {
        fn walk(filter: &[&str], topic: &[&str]) -> bool {
            match (filter, topic) {
                (["#"], _) => true,
                ([], []) => true,
                (["+", filter @ ..], [_, topic @ ..]) => walk(filter, topic),
                ([a, filter @ ..], [b, topic @ ..]) => a == b && walk(filter, topic),
                _ => false,
            }
        }
        if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
            return false;
        }
        let (filter, topic) = (filter.split('/'), topic.split('/'));
        walk(&filter.collect::<Vec<_>>(), &topic.collect::<Vec<_>>())
    }

    fn topic() -> impl Strategy<Value = String> {
        let level =
            prop::sample::select(vec!["", "a", "b", "$a", "$", "a-level-longer-than-inline"]);
        prop::collection::vec(level, 1..5).prop_map(|levels| levels.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["", "a", "b", "$a", "+", "+"]);
        let end = prop::sample::select(vec!["", "/#", "/a-level-longer-than-inline"]);
        prop_oneof![
            8 => (prop::collection::vec(level, 1..5), end)
                .prop_map(|(levels, end)| levels.join("/") + end),
            1 => Just("#".to_owned()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn trie_and_single_check_agree_with_the_specification(
            changes in prop::collection::vec((any::<bool>(), filter(), 0..3u64), 0..60),
            topics in prop::collection::vec(topic(), 1..8),
        ) {
            let mut trie = TopicTrie::with_seed(42);
            let mut model = BTreeSet::new();

            for (add, filter, value) in changes {
                if add {
                    let added = trie.insert(filter.as_bytes(), value);
                    prop_assert_eq!(added, model.insert((filter, value)));
                } else {
                    let removed = trie.remove(filter.as_bytes(), &value);
                    prop_assert_eq!(removed, model.remove(&(filter, value)));
                }
                prop_assert_eq!(trie.len(), model.len());
            }

            for topic in topics {
                let matching = model.iter().filter(|(filter, _)| naive(filter, &topic));
                let mut expected: Vec<u64> = matching.map(|&(_, value)| value).collect();
                expected.sort();
                prop_assert_eq!(found(&trie, &topic), expected);
                for (filter, _) in &model {
                    let is_match = matches(filter.as_bytes(), topic.as_bytes());
                    prop_assert_eq!(is_match, naive(filter, &topic), "{} {}", filter, &topic);
                }
            }
        }
    }

    /// A trie in which the value of each filter is its place in the list.
    fn trie(filters: &[&str]) -> TopicTrie<u64> {
        let mut trie = TopicTrie::new();
        for (id, filter) in filters.iter().enumerate() {
            trie.insert(filter.as_bytes(), id as u64);
        }
        trie
    }

    fn found(trie: &TopicTrie<u64>, topic: &str) -> Vec<u64> {
        let mut values = Vec::new();
        trie.for_each_match(topic.as_bytes(), |&value| values.push(value));
        values.sort();
        values
    }
}
