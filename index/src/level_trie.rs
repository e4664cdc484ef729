//! A trie of topic levels, whatever hangs on its nodes.
//!
//! Nodes in one vector, edges in one hash table keyed by (parent, level token), `+` and `#` beside them.
//! A match visits each node whose path matches a prefix of the topic and needs no stack: clients choose
//! how deep a topic is. What a filter may be is checked in `model::address`; here a `#` before the
//! last level is an ordinary level.

use hashbrown::HashTable;

use crate::level_tokens::LevelTokens;
use crate::slab::{self, Slab};
use crate::topic_trie::{is_reserved, levels};

const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;
/// In the place of a token: the node of `+` under its parent.
const PLUS: u32 = u32::MAX - 1;
/// In the place of a token: the node of a final `#` under its parent.
const MULTI: u32 = u32::MAX - 2;

/// What hangs on a node.
pub(crate) trait Content: Default {
    /// Tells whether nothing does.
    fn is_empty(&self) -> bool;
}

/// Topic filters as paths of levels.
#[derive(Clone)]
pub(crate) struct LevelTrie<C> {
    nodes: Slab<Node<C>>,
    free: Vec<u32>,
    /// Literal children by (parent, token), but for the one in `Node::first`; the key is in the child.
    edges: HashTable<u32>,
    tokens: LevelTokens,
    seed: u64,
}

#[derive(Clone)]
struct Node<C> {
    parent: u32,
    token: u32,
    plus: u32,
    multi: u32,
    /// One literal child, found without the table: most nodes have no other.
    first: u32,
    /// How many more are in `edges`.
    more_count: u32,
    content: C,
}

/// The tokens of a topic's levels. Nearly all topics have few levels, so few cost no allocation.
struct Path {
    len: usize,
    inline: [u32; Path::INLINE_LEVELS_MAX],
    rest: Vec<u32>,
}

impl<C: Content> LevelTrie<C> {
    /// Returns an empty trie whose hash tables depend on `seed`.
    pub(crate) fn new(seed: u64) -> LevelTrie<C> {
        let mut nodes = Slab::new();
        nodes.push(Node::new(NONE, NONE));
        LevelTrie {
            nodes,
            free: Vec::new(),
            edges: HashTable::new(),
            tokens: LevelTokens::new(seed),
            seed,
        }
    }

    /// Returns the node of a filter, made if need be. Something must hang on it, or [`prune`](Self::prune) must free it.
    pub(crate) fn make(&mut self, filter: &[u8]) -> u32 {
        let mut at = ROOT;
        let mut rest = levels(filter).peekable();
        while let Some(level) = rest.next() {
            at = match level {
                b"+" => self.wildcard_child(at, PLUS),
                b"#" if rest.peek().is_none() => self.wildcard_child(at, MULTI),
                _ => self.literal_child(at, level),
            };
        }
        at
    }

    /// Returns the node of a filter.
    pub(crate) fn find(&self, filter: &[u8]) -> Option<u32> {
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

    /// Returns what hangs on a node.
    pub(crate) fn content(&self, id: u32) -> &C {
        &self.node(id).content
    }

    /// Returns what hangs on a node, to be changed.
    pub(crate) fn content_mut(&mut self, id: u32) -> &mut C {
        &mut self.node_mut(id).content
    }

    /// Visits what hangs on the node of every filter that matches the topic, in no promised order.
    pub(crate) fn for_each_match(&self, topic: &[u8], mut visit: impl FnMut(&C)) {
        let path = Path::new(levels(topic).map(|level| self.tokens.find(level).unwrap_or(NONE)));
        let is_reserved = is_reserved(topic);
        let mut next = Some((ROOT, 0));
        while let Some((at, depth)) = next {
            let node = self.node(at);
            let is_wild = depth > 0 || !is_reserved;
            if is_wild && node.multi != NONE {
                visit(&self.node(node.multi).content);
            }
            let (literal, plus) = match path.get(depth) {
                Some(token) => (self.child(at, token), if is_wild { node.plus } else { NONE }),
                None => {
                    visit(&node.content);
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

    /// Frees a node and its ancestors as far as they have neither content nor children.
    pub(crate) fn prune(&mut self, from: u32) {
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

    /// Visits what hangs on nodes.
    pub(crate) fn contents(&self) -> impl Iterator<Item = &C> {
        self.nodes.iter().map(|node| &node.content)
    }

    /// Returns how many nodes are in use, with the root.
    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Returns how many children are found by the table of edges.
    #[cfg(test)]
    pub(crate) fn edge_count(&self) -> usize {
        self.edges.len()
    }

    /// Returns how many different levels are in use.
    pub(crate) fn level_count(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the bytes allocated, but for what contents have allocated. Visits every level.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.nodes.memory_bytes()
            + self.free.capacity() * size_of::<u32>()
            + self.edges.allocation_size()
            + self.tokens.memory_bytes()
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
            let node = &nodes[id];
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
                self.nodes[id] = node;
                id
            }
            None => self.nodes.push(node),
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

    fn node(&self, id: u32) -> &Node<C> {
        &self.nodes[id]
    }

    fn node_mut(&mut self, id: u32) -> &mut Node<C> {
        &mut self.nodes[id]
    }
}

impl<C: Content> Node<C> {
    fn new(parent: u32, token: u32) -> Node<C> {
        let (plus, multi, first) = (NONE, NONE, NONE);
        Node { parent, token, plus, multi, first, more_count: 0, content: C::default() }
    }

    /// Tells whether neither content nor children hang on the node.
    fn is_bare(&self) -> bool {
        let is_leaf = self.first == NONE && self.more_count == 0;
        is_leaf && self.plus == NONE && self.multi == NONE && self.content.is_empty()
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

fn edge_hash(parent: u32, token: u32, seed: u64) -> u64 {
    slab::fold_hash(u64::from(parent) << 32 | u64::from(token), seed)
}
