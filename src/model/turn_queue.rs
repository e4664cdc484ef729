//! What passes between a protocol and the broker in a turn: a queue that is filled and emptied again and again.
//!
//! While it is empty it holds no memory, since most of those there are belong to connections that are quiet. It is filled with room for as
//! much as it had last: growing to that step by step would copy most of it twice.

use std::collections::VecDeque;

/// Items of one turn, in their order.
#[derive(Clone, Debug)]
pub struct TurnQueue<T> {
    items: VecDeque<T>,
    /// The most it has had since it was empty.
    most: u32,
}

/// Room for more is not made at once: one large turn says little about the next, and many connections that have one item each would
/// have the room of hundreds.
const ROOM_MAX: u32 = 32;

impl<T> TurnQueue<T> {
    /// Returns an empty queue.
    pub const fn new() -> TurnQueue<T> {
        TurnQueue { items: VecDeque::new(), most: 0 }
    }

    /// Adds an item behind the others.
    pub fn push_back(&mut self, item: T) {
        if self.items.capacity() == 0 {
            self.items.reserve(self.most.min(ROOM_MAX) as usize);
            self.most = 0;
        }
        self.items.push_back(item);
        self.most = self.most.max(u32::try_from(self.items.len()).unwrap_or(u32::MAX));
    }

    /// Adds an item before the others.
    pub fn push_front(&mut self, item: T) {
        self.items.push_front(item);
    }

    /// Takes the first item; when there is none, the memory is given back.
    pub fn pop_front(&mut self) -> Option<T> {
        let item = self.items.pop_front();
        if item.is_none() && self.items.capacity() > 0 {
            self.items = VecDeque::new();
        }
        item
    }

    /// Takes the last item.
    pub fn pop_back(&mut self) -> Option<T> {
        self.items.pop_back()
    }

    /// Returns the last item.
    pub fn back_mut(&mut self) -> Option<&mut T> {
        self.items.back_mut()
    }

    /// Takes all items, with their memory.
    pub fn take(&mut self) -> VecDeque<T> {
        std::mem::take(&mut self.items)
    }

    /// Keeps the items for which `keeps` returns true.
    pub fn retain(&mut self, keeps: impl FnMut(&T) -> bool) {
        self.items.retain(keeps);
    }

    /// Visits the items in their order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut()
    }

    /// Returns how many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Returns true when there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Returns how many items it has memory for.
    pub fn capacity(&self) -> usize {
        self.items.capacity()
    }
}

impl<T> Default for TurnQueue<T> {
    fn default() -> TurnQueue<T> {
        TurnQueue::new()
    }
}

impl<T> Extend<T> for TurnQueue<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        items.into_iter().for_each(|item| self.push_back(item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_emptied_holds_nothing_and_has_room_for_as_much_when_it_is_filled_again() {
        let mut queue = TurnQueue::new();
        (0..20).for_each(|item| queue.push_back(item));
        assert_eq!((0..100).map_while(|_| queue.pop_front()).collect::<Vec<_>>()[19], 19);
        assert_eq!(queue.pop_front(), None);
        assert_eq!(queue.capacity(), 0);

        queue.push_back(0);
        assert!((20..=64).contains(&queue.capacity()), "{}", queue.capacity());
        queue.pop_front();
        assert_eq!((queue.pop_front(), queue.capacity()), (None, 0));
        queue.push_back(0);
        assert!(queue.capacity() < 20, "the last turn was small");

        (0..1_000).for_each(|item| queue.push_back(item));
        while queue.pop_front().is_some() {}
        queue.push_back(0);
        assert!(queue.capacity() <= 64, "and one that was large says little");
    }
}
