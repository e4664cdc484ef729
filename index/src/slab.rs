//! Numbered entries that grow without waste.

use std::ops::{Index, IndexMut};

/// Entries of a page.
const PAGE_LEN: usize = 1 << PAGE_BITS;
const PAGE_BITS: u32 = 8;

/// Numbered entries in pages: growing moves none but those of the first page, and leaves nothing behind. A vector that grows
/// leaves behind a block of every size that it had, and those together are larger than the last.
#[derive(Clone, Debug)]
pub struct Slab<T> {
    /// All of them full but the last.
    pages: Vec<Vec<T>>,
}

impl<T> Slab<T> {
    /// Returns one without entries.
    pub fn new() -> Slab<T> {
        Slab { pages: Vec::new() }
    }

    /// Adds an entry and returns its number. Panics at 2^32 - 4 entries; the numbers above are markers.
    pub fn push(&mut self, entry: T) -> u32 {
        let id = u32::try_from(self.len()).ok().filter(|&id| id < u32::MAX - 3);
        match self.pages.last_mut() {
            Some(page) if page.len() < PAGE_LEN => page.push(entry),
            // The first begins small: most tables have few entries.
            last => {
                let mut page = Vec::with_capacity(if last.is_some() { PAGE_LEN } else { 1 });
                page.push(entry);
                self.pages.push(page);
            }
        }
        id.expect("fewer than 2^32 - 4 entries")
    }

    /// Returns how many entries there are.
    pub fn len(&self) -> usize {
        let full = self.pages.len().saturating_sub(1) * PAGE_LEN;
        full + self.pages.last().map_or(0, Vec::len)
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Returns an entry.
    pub fn get(&self, id: u32) -> Option<&T> {
        self.pages.get((id >> PAGE_BITS) as usize)?.get(id as usize % PAGE_LEN)
    }

    /// Returns an entry, to be changed.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.pages.get_mut((id >> PAGE_BITS) as usize)?.get_mut(id as usize % PAGE_LEN)
    }

    /// Lists all entries.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten()
    }

    /// Lists all entries, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.iter_mut().flatten()
    }

    /// Returns the bytes allocated, but for what entries have allocated.
    pub fn memory_bytes(&self) -> usize {
        let entries: usize = self.pages.iter().map(Vec::capacity).sum();
        entries * size_of::<T>() + self.pages.capacity() * size_of::<Vec<T>>()
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab::new()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, id: u32) -> &T {
        &self.pages[(id >> PAGE_BITS) as usize][id as usize % PAGE_LEN]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, id: u32) -> &mut T {
        &mut self.pages[(id >> PAGE_BITS) as usize][id as usize % PAGE_LEN]
    }
}

/// Adds an entry and returns its number.
///
/// Grows by a quarter, not by doubling: with millions of entries the unused half would be the largest
/// part of the memory. Panics at 2^32 - 4 entries; the numbers above are markers.
pub(crate) fn push<T>(entries: &mut Vec<T>, entry: T) -> u32 {
    if entries.len() == entries.capacity() {
        entries.reserve_exact((entries.len() / 4).max(4));
    }
    let id = u32::try_from(entries.len()).ok().filter(|&id| id < u32::MAX - 3);
    entries.push(entry);
    id.expect("fewer than 2^32 - 4 entries")
}

/// Spreads a 64-bit key over a hash table: the high half of a multiplication folded into the low one.
pub(crate) fn fold_hash(key: u64, seed: u64) -> u64 {
    let product = u128::from(key ^ seed ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93;
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_numbers_over_pages() {
        let mut slab = Slab::new();
        let count = 3 * PAGE_LEN as u32 + 1;
        (0..count).for_each(|number| assert_eq!(slab.push(number * 2), number));
        slab[PAGE_LEN as u32] = 7;
        assert_eq!((slab.len(), slab[0], slab[PAGE_LEN as u32]), (count as usize, 0, 7));
        assert_eq!((slab.get(count - 1), slab.get(count)), (Some(&(count * 2 - 2)), None));
        assert_eq!(slab.iter().count(), slab.len());
        assert!(slab.memory_bytes() < 5 * PAGE_LEN * size_of::<u32>());
    }
}
