//! What happens when: events by simulated time, and by their order of arrival where the time is the same.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// The future.
pub struct Schedule<E> {
    heap: BinaryHeap<Reverse<At<E>>>,
    next: u64,
}

struct At<E> {
    time: u64,
    number: u64,
    event: E,
}

impl<E> Schedule<E> {
    pub fn new() -> Schedule<E> {
        Schedule { heap: BinaryHeap::new(), next: 0 }
    }

    pub fn at(&mut self, time: u64, event: E) {
        self.next += 1;
        self.heap.push(Reverse(At { time, number: self.next, event }));
    }

    pub fn pop(&mut self) -> Option<(u64, E)> {
        self.heap.pop().map(|Reverse(at)| (at.time, at.event))
    }

    pub fn next_time(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(at)| at.time)
    }
}

impl<E> At<E> {
    fn key(&self) -> (u64, u64) {
        (self.time, self.number)
    }
}

impl<E> Ord for At<E> {
    fn cmp(&self, other: &At<E>) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<E> PartialOrd for At<E> {
    fn partial_cmp(&self, other: &At<E>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for At<E> {
    fn eq(&self, other: &At<E>) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for At<E> {}
