//! Topic filters and the values subscribed under them.
//!
//! A trie of levels: nodes in one vector, edges in one hash table keyed by (parent, level token), `+`
//! and `#` beside them. A match visits each node whose path matches a prefix of the topic and needs no
//! stack: clients choose how deep a topic is. What a filter may be is checked in
//! `model::address`; here a `#` before the last level is an ordinary level.

use std::collections::BTreeSet;
use std::fmt;

use hashbrown::HashTable;

use crate::level_tokens::LevelTokens;
use crate::slab;

const SEPARATOR: u8 = b'/';
const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;
/// In the place of a token: the node of `+` under its parent.
const PLUS: u32 = u32::MAX - 1;
/// In the place of a token: the node of a final `#` under its parent.
const MULTI: u32 = u32::MAX - 2;

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
    nodes: Vec<Node<V>>,
    free: Vec<u32>,
    /// Literal children by (parent, token), but for the one in `Node::first`; the key is in the child.
    edges: HashTable<u32>,
    tokens: LevelTokens,
    seed: u64,
    len: usize,
}

#[derive(Clone)]
struct Node<V> {
    parent: u32,
    token: u32,
    plus: u32,
    multi: u32,
    /// One literal child, found without the table: most nodes have no other.
    first: u32,
    /// How many more are in `edges`.
    more_count: u32,
    values: Values<V>,
}

/// The tokens of a topic's levels. Nearly all topics have few levels, so few cost no allocation.
struct Path {
    len: usize,
    inline: [u32; Path::INLINE_LEVELS_MAX],
    rest: Vec<u32>,
}

/// The values of one filter. Nearly all filters have one, so one costs no allocation.
#[derive(Clone)]
enum Values<V> {
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
        TopicTrie {
            nodes: vec![Node::new(NONE, NONE)],
            free: Vec::new(),
            edges: HashTable::new(),
            tokens: LevelTokens::new(seed),
            seed,
            len: 0,
        }
    }

    /// Adds a value under a filter and tells whether it was missing.
    pub fn insert(&mut self, filter: &[u8], value: V) -> bool {
        let mut at = ROOT;
        let mut rest = levels(filter).peekable();
        while let Some(level) = rest.next() {
            at = match level {
                b"+" => self.wildcard_child(at, PLUS),
                b"#" if rest.peek().is_none() => self.wildcard_child(at, MULTI),
                _ => self.literal_child(at, level),
            };
        }
        let added = self.node_mut(at).values.insert(value);
        self.len += usize::from(added);
        added
    }

    /// Removes a value from a filter and tells whether it was there.
    ///
    /// Frees every node that leads nowhere any more.
    pub fn remove(&mut self, filter: &[u8], value: &V) -> bool {
        let Some(at) = self.find(filter) else {
            return false;
        };
        let removed = self.node_mut(at).values.remove(value);
        if removed {
            self.len -= 1;
            self.prune(at);
        }
        removed
    }

    /// Returns the value under a filter that equals this one.
    pub fn get(&self, filter: &[u8], value: &V) -> Option<&V> {
        self.node(self.find(filter)?).values.get(value)
    }

    /// Visits the values of every filter that matches the topic, in no promised order.
    ///
    /// A value under several matching filters is visited once for each.
    pub fn for_each_match(&self, topic: &[u8], mut visit: impl FnMut(&V)) {
        let path = Path::new(levels(topic).map(|level| self.tokens.find(level).unwrap_or(NONE)));
        let is_reserved = is_reserved(topic);
        let mut next = Some((ROOT, 0));
        while let Some((at, depth)) = next {
            let node = self.node(at);
            let is_wild = depth > 0 || !is_reserved;
            if is_wild && node.multi != NONE {
                self.node(node.multi).values.for_each(&mut visit);
            }
            let (literal, plus) = match path.get(depth) {
                Some(token) => (self.child(at, token), if is_wild { node.plus } else { NONE }),
                None => {
                    node.values.for_each(&mut visit);
                    (NONE, NONE)
                }
            };
            next = match (literal, plus) {
                (NONE, NONE) => self.next_branch(at, depth, is_reserved),
                (NONE, only) => Some((only, depth + 1)),
                (literal, _) => Some((literal, depth + 1)),
            };
        }
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
        let set_bytes = |node: &Node<V>| match &node.values {
            Values::Many(set) => size_of::<BTreeSet<V>>() + set.len() * size_of::<V>() * 3 / 2,
            Values::None | Values::One(_) => 0,
        };
        self.nodes.capacity() * size_of::<Node<V>>()
            + self.free.capacity() * size_of::<u32>()
            + self.edges.allocation_size()
            + self.tokens.memory_bytes()
            + self.nodes.iter().map(set_bytes).sum::<usize>()
    }

    /// Returns the nearest `+` beside the way from the root to a node that is done, and its depth.
    ///
    /// A match takes the literal child of a node before its `+`; climbing back needs no stack.
    fn next_branch(&self, done: u32, depth: usize, is_reserved: bool) -> Option<(u32, usize)> {
        let (mut at, mut depth) = (done, depth);
        while at != ROOT {
            let Node { parent, token, .. } = *self.node(at);
            let plus = self.node(parent).plus;
            if token != PLUS && plus != NONE && (depth > 1 || !is_reserved) {
                return Some((plus, depth));
            }
            (at, depth) = (parent, depth - 1);
        }
        None
    }

    /// Returns the node of `+` or `#` under `parent`, made if need be.
    fn wildcard_child(&mut self, parent: u32, kind: u32) -> u32 {
        let node = self.node(parent);
        let child = if kind == PLUS { node.plus } else { node.multi };
        if child != NONE {
            return child;
        }
        let child = self.add_node(parent, kind);
        let node = self.node_mut(parent);
        *(if kind == PLUS { &mut node.plus } else { &mut node.multi }) = child;
        child
    }

    /// Returns the node of a level under `parent`, made if need be.
    fn literal_child(&mut self, parent: u32, level: &[u8]) -> u32 {
        if let Some(token) = self.tokens.find(level) {
            let child = self.child(parent, token);
            if child != NONE {
                return child;
            }
        }
        let token = self.tokens.acquire(level);
        let child = self.add_node(parent, token);
        if self.node(parent).first == NONE {
            self.node_mut(parent).first = child;
            return child;
        }
        let (nodes, seed) = (&self.nodes, self.seed);
        let rehash = |&id: &u32| {
            let node = &nodes[id as usize];
            edge_hash(node.parent, node.token, seed)
        };
        self.edges.insert_unique(edge_hash(parent, token, seed), child, rehash);
        self.node_mut(parent).more_count += 1;
        child
    }

    fn add_node(&mut self, parent: u32, token: u32) -> u32 {
        let node = Node::new(parent, token);
        match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => slab::push(&mut self.nodes, node),
        }
    }

    /// Frees a node and its ancestors as far as they have neither values nor children.
    fn prune(&mut self, from: u32) {
        let mut at = from;
        while at != ROOT && self.node(at).is_bare() {
            let Node { parent, token, .. } = *self.node(at);
            match token {
                PLUS => self.node_mut(parent).plus = NONE,
                MULTI => self.node_mut(parent).multi = NONE,
                _ => {
                    self.tokens.release(token);
                    self.unlink_literal(parent, token, at);
                }
            }
            self.free.push(at);
            at = parent;
        }
    }

    fn unlink_literal(&mut self, parent: u32, token: u32, child: u32) {
        let seed = self.seed;
        let node = self.node_mut(parent);
        if node.first == child {
            node.first = NONE;
            return;
        }
        node.more_count -= 1;
        let entry = self.edges.find_entry(edge_hash(parent, token, seed), |&id| id == child);
        entry.expect("a literal child that is not the first has an edge").remove();
    }

    /// Returns the node of a filter.
    fn find(&self, filter: &[u8]) -> Option<u32> {
        let mut at = ROOT;
        let mut rest = levels(filter).peekable();
        while let Some(level) = rest.next() {
            at = match level {
                b"+" => self.node(at).plus,
                b"#" if rest.peek().is_none() => self.node(at).multi,
                _ => self.child(at, self.tokens.find(level)?),
            };
            if at == NONE {
                return None;
            }
        }
        Some(at)
    }

    /// Returns the child of a node for a token, or `NONE`.
    fn child(&self, parent: u32, token: u32) -> u32 {
        let Node { first, more_count, .. } = *self.node(parent);
        if first != NONE && self.node(first).token == token {
            return first;
        }
        if token == NONE || more_count == 0 {
            return NONE;
        }
        let is_child = |&id: &u32| {
            let node = self.node(id);
            node.parent == parent && node.token == token
        };
        self.edges.find(edge_hash(parent, token, self.seed), is_child).copied().unwrap_or(NONE)
    }

    fn node(&self, id: u32) -> &Node<V> {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: u32) -> &mut Node<V> {
        &mut self.nodes[id as usize]
    }
}

impl<V: Ord + Clone> Default for TopicTrie<V> {
    fn default() -> TopicTrie<V> {
        TopicTrie::new()
    }
}

impl<V> fmt::Debug for TopicTrie<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node_count = self.nodes.len() - self.free.len();
        let mut text = formatter.debug_struct("TopicTrie");
        text.field("len", &self.len).field("nodes", &node_count);
        text.field("levels", &self.tokens.len()).finish()
    }
}

impl<V> Node<V> {
    fn new(parent: u32, token: u32) -> Node<V> {
        let (plus, multi, first) = (NONE, NONE, NONE);
        Node { parent, token, plus, multi, first, more_count: 0, values: Values::None }
    }

    /// Tells whether neither values nor children hang on the node.
    fn is_bare(&self) -> bool {
        let is_leaf = self.first == NONE && self.more_count == 0;
        is_leaf && self.plus == NONE && self.multi == NONE && matches!(self.values, Values::None)
    }
}

impl Path {
    const INLINE_LEVELS_MAX: usize = 12;

    fn new(mut tokens: impl Iterator<Item = u32>) -> Path {
        let mut inline = [NONE; Path::INLINE_LEVELS_MAX];
        let mut len = 0;
        for (slot, token) in inline.iter_mut().zip(&mut tokens) {
            *slot = token;
            len += 1;
        }
        let rest: Vec<u32> = tokens.collect();
        Path { len: len + rest.len(), inline, rest }
    }

    fn get(&self, depth: usize) -> Option<u32> {
        match self.inline.get(depth) {
            Some(&token) => (depth < self.len).then_some(token),
            None => self.rest.get(depth - Path::INLINE_LEVELS_MAX).copied(),
        }
    }
}

impl<V: Ord> Values<V> {
    fn insert(&mut self, value: V) -> bool {
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

    fn remove(&mut self, value: &V) -> bool {
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

    fn get(&self, value: &V) -> Option<&V> {
        match self {
            Values::None => None,
            Values::One(only) => (only == value).then_some(only),
            Values::Many(set) => set.get(value),
        }
    }

    fn for_each(&self, visit: &mut impl FnMut(&V)) {
        match self {
            Values::None => {}
            Values::One(value) => visit(value),
            Values::Many(set) => set.iter().for_each(visit),
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

fn edge_hash(parent: u32, token: u32, seed: u64) -> u64 {
    slab::fold_hash(u64::from(parent) << 32 | u64::from(token), seed)
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
        let node_count = trie.nodes.len();

        for (id, filter) in filters.iter().enumerate() {
            assert!(!trie.remove(filter.as_bytes(), &99));
            assert!(trie.remove(filter.as_bytes(), &(id as u64)), "{filter}");
            assert!(!trie.remove(filter.as_bytes(), &(id as u64)), "{filter}");
        }

        assert!(trie.is_empty());
        assert_eq!(trie.nodes.len() - trie.free.len(), 1, "only the root is left");
        assert_eq!((trie.edges.len(), trie.tokens.len()), (0, 0));
        assert!(trie.insert(b"x/y/z", 1));
        assert_eq!(trie.nodes.len(), node_count, "freed nodes are used again");
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
        assert_eq!(trie.nodes.len() - trie.free.len(), 1);
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
