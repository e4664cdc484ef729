//! Numbers for the distinct topics of one batch, in the order of first use.
//!
//! The hash is keyed at random, so that clients cannot choose topics that collide; numbers do not depend on it. Entries are
//! kept encoded, as they go into the body, and compared there: no allocation per topic.

use std::hash::{BuildHasher, RandomState};

use super::varint;

/// The topic table of a batch being built.
#[derive(Debug, Default)]
pub(super) struct TopicTable {
    /// Entries as stored: `varint route_set | varint len | topic`.
    encoded: Vec<u8>,
    entries: Vec<TopicEntry>,
    /// Open addressing: 0 is free, anything else the entry's number plus one. A power of two, at most half full.
    slots: Vec<u32>,
    hasher: RandomState,
    last: usize,
}

#[derive(Clone, Copy, Debug)]
struct TopicEntry {
    hash: u64,
    start: u32,
    len: u32,
    route_set: u32,
}

impl TopicTable {
    /// Returns the number of `topic` with `route_set`, giving it the next one at its first use.
    #[inline]
    pub(super) fn intern(&mut self, topic: &[u8], route_set: u32) -> u32 {
        if let Some(entry) = self.entries.get(self.last)
            && self.is(entry, topic, route_set)
        {
            return self.last as u32;
        }
        self.intern_hashed(topic, route_set)
    }

    fn intern_hashed(&mut self, topic: &[u8], route_set: u32) -> u32 {
        if self.entries.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let hash = self.hasher.hash_one(topic);
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        while self.slots[slot] != 0 {
            let number = self.slots[slot] as usize - 1;
            let entry = &self.entries[number];
            if entry.hash == hash && self.is(entry, topic, route_set) {
                self.last = number;
                return number as u32;
            }
            slot = (slot + 1) & mask;
        }
        varint::put(&mut self.encoded, u64::from(route_set));
        varint::put(&mut self.encoded, topic.len() as u64);
        let start = self.encoded.len() as u32;
        self.encoded.extend_from_slice(topic);
        self.entries.push(TopicEntry { hash, start, len: topic.len() as u32, route_set });
        self.last = self.entries.len() - 1;
        self.slots[slot] = self.entries.len() as u32;
        self.last as u32
    }

    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    fn is(&self, entry: &TopicEntry, topic: &[u8], route_set: u32) -> bool {
        let start = entry.start as usize;
        entry.route_set == route_set && &self.encoded[start..start + entry.len as usize] == topic
    }

    fn grow(&mut self) {
        let len = (self.slots.len() * 2).max(64);
        self.slots = vec![0; len];
        for (number, entry) in self.entries.iter().enumerate() {
            let mut slot = entry.hash as usize & (len - 1);
            while self.slots[slot] != 0 {
                slot = (slot + 1) & (len - 1);
            }
            self.slots[slot] = number as u32 + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_first_use_and_stay() {
        let mut table = TopicTable::default();
        for round in 0..3 {
            for number in 0..1_000u32 {
                let topic = format!("site/{number}/temperature");
                assert_eq!(table.intern(topic.as_bytes(), 1), number, "round {round}");
                assert_eq!(table.intern(topic.as_bytes(), 1), number, "round {round}, again");
            }
        }
        assert_eq!(table.count(), 1_000);
    }

    #[test]
    fn one_topic_with_two_route_sets_has_two_numbers() {
        let mut table = TopicTable::default();

        assert_eq!(table.intern(b"a", 1), 0);
        assert_eq!(table.intern(b"a", 2), 1);
        assert_eq!(table.intern(b"a", 1), 0);
        assert_eq!(table.encoded(), [1, 1, b'a', 2, 1, b'a']);
    }
}
