//! Topic levels, each stored once and named by a number.
//!
//! A trie of a million filters repeats few levels a million times; comparing numbers also makes the
//! cost of a match independent of how long a level is. Tokens are counted, so the last filter
//! that uses a level frees it.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::slab::Slab;

/// Bytes of a level that fit beside the length in the space of a boxed slice and a bit.
const INLINE_BYTES_MAX: usize = 22;

/// The levels in use.
#[derive(Clone)]
pub(crate) struct LevelTokens {
    slots: Slab<Slot>,
    free: Vec<u32>,
    ids: HashTable<u32>,
    seed: u64,
}

#[derive(Clone)]
struct Slot {
    level: Level,
    use_count: u32,
}

#[derive(Clone)]
enum Level {
    Inline { len: u8, bytes: [u8; INLINE_BYTES_MAX] },
    Boxed(Box<[u8]>),
}

impl LevelTokens {
    /// Returns an empty table whose hashes depend on `seed`.
    pub(crate) fn new(seed: u64) -> LevelTokens {
        LevelTokens { slots: Slab::new(), free: Vec::new(), ids: HashTable::new(), seed }
    }

    /// Returns the token of a level and counts one more use of it.
    pub(crate) fn acquire(&mut self, level: &[u8]) -> u32 {
        if let Some(id) = self.find(level) {
            self.slots[id].use_count += 1;
            return id;
        }
        let slot = Slot { level: Level::new(level), use_count: 1 };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id] = slot;
                id
            }
            None => self.slots.push(slot),
        };
        let (slots, seed) = (&self.slots, self.seed);
        let rehash = |&id: &u32| xxh3_64_with_seed(slots[id].level.bytes(), seed);
        self.ids.insert_unique(xxh3_64_with_seed(level, seed), id, rehash);
        id
    }

    /// Gives one use of a token back. Panics if there is none.
    pub(crate) fn release(&mut self, id: u32) {
        let slot = &mut self.slots[id];
        assert!(slot.use_count > 0, "token {id} released more often than acquired");
        slot.use_count -= 1;
        if slot.use_count > 0 {
            return;
        }
        let hash = xxh3_64_with_seed(slot.level.bytes(), self.seed);
        slot.level = Level::new(b"");
        let entry = self.ids.find_entry(hash, |&found| found == id);
        entry.expect("a token in use is in the table").remove();
        self.free.push(id);
    }

    /// Returns the token of a level that is in use.
    pub(crate) fn find(&self, level: &[u8]) -> Option<u32> {
        let hash = xxh3_64_with_seed(level, self.seed);
        self.ids.find(hash, |&id| self.slots[id].level.bytes() == level).copied()
    }

    /// Returns how many levels are in use.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns the bytes allocated. Visits every token.
    pub(crate) fn memory_bytes(&self) -> usize {
        let boxed = |slot: &Slot| match &slot.level {
            Level::Inline { .. } => 0,
            Level::Boxed(bytes) => bytes.len(),
        };
        self.slots.memory_bytes()
            + self.free.capacity() * size_of::<u32>()
            + self.ids.allocation_size()
            + self.slots.iter().map(boxed).sum::<usize>()
    }
}

impl Level {
    fn new(level: &[u8]) -> Level {
        if level.len() > INLINE_BYTES_MAX {
            return Level::Boxed(level.into());
        }
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes[..level.len()].copy_from_slice(level);
        Level::Inline { len: level.len() as u8, bytes }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Level::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Level::Boxed(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_forgotten_with_its_last_use_and_its_number_used_again() {
        let mut tokens = LevelTokens::new(0);
        let long = vec![b'x'; INLINE_BYTES_MAX + 1];
        let first = tokens.acquire(&long);
        assert_eq!(tokens.acquire(&long), first);

        tokens.release(first);
        assert_eq!(tokens.find(&long), Some(first));
        tokens.release(first);
        assert_eq!(tokens.find(&long), None);

        assert_eq!(tokens.acquire(b"other"), first);
        assert_eq!(tokens.len(), 1);
    }

    #[test]
    fn a_slot_costs_half_a_cache_line() {
        assert_eq!(size_of::<Slot>(), 32);
    }
}
