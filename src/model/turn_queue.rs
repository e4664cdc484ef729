//! What passes between a protocol and the broker in a turn: a queue that is filled and emptied again and again.
//!
//! While it is empty it holds no memory, since most of those there are belong to connections that are quiet. It is filled with room for as
//! much as it had in each of the last two turns: growing to that step by step would copy most of it twice, and one large turn says little
//! about the next.

use std::collections::VecDeque;

/// Items of one turn, in their order.
#[derive(Clone, Debug)]
pub struct TurnQueue<T> {
    items: VecDeque<T>,
    /// The most it has had since it was empty.
    most: u32,
    /// The same of the turn before.
    most_before: u32,
}

/// Room for more is not made at once.
const ROOM_MAX: u32 = 512;

impl<T> TurnQueue<T> {
    /// Returns an empty queue.
    pub const fn new() -> TurnQueue<T> {
        TurnQueue { items: VecDeque::new(), most: 0, most_before: 0 }
    }

    /// Adds an item behind the others.
    pub fn push_back(&mut self, item: T) {
        if self.items.capacity() == 0 {
            self.items.reserve(self.most.min(self.most_before).min(ROOM_MAX) as usize);
            self.most_before = std::mem::take(&mut self.most);
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

    /// Fills it with so many, and empties it; returns the room it had for the first.
    fn turn(queue: &mut TurnQueue<u32>, count: u32) -> usize {
        queue.push_back(0);
        let room = queue.capacity();
        (1..count).for_each(|item| queue.push_back(item));
        let all: Vec<u32> = std::iter::from_fn(|| queue.pop_front()).collect();
        assert_eq!(all, (0..count).collect::<Vec<_>>());
        assert_eq!(queue.capacity(), 0, "what is emptied holds nothing");
        room
    }

    #[test]
    fn it_has_room_for_as_much_as_it_had_in_each_of_the_last_two_turns() {
        let mut queue = TurnQueue::new();
        let rooms = [100, 200, 300, 1, 400, 5_000, 5_000, 1].map(|count| turn(&mut queue, count));
        let small = |room: usize| room < 20;
        assert!(small(rooms[0]) && small(rooms[1]), "{rooms:?}");
        assert!((100..=128).contains(&rooms[2]) && (200..=256).contains(&rooms[3]), "{rooms:?}");
        assert!(small(rooms[4]) && small(rooms[5]), "after a small one: {rooms:?}");
        assert!((400..=512).contains(&rooms[6]) && rooms[7] == 512, "{rooms:?}");
    }
}
