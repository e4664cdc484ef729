//! Ascending record numbers, and their merge.
//!
//! Many topics have one record in a segment, so one record costs no allocation.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// Record numbers relative to a segment's base, ascending, each once.
#[derive(Clone)]
pub(crate) enum Postings {
    /// Exactly one.
    One(u32),
    /// None, two or more; one only after a truncation.
    Many(Vec<u32>),
}

impl Postings {
    /// Adds a record. Panics unless it is above the last.
    pub(crate) fn push(&mut self, record: u32) {
        let last = self.as_slice().last();
        assert!(last.is_none_or(|&last| last < record), "records are added in order, each once");
        match self {
            Postings::One(first) => *self = Postings::Many(vec![*first, record]),
            Postings::Many(records) if records.capacity() == 0 => *self = Postings::One(record),
            Postings::Many(records) => records.push(record),
        }
    }

    /// Forgets the records at and above `end`.
    pub(crate) fn truncate(&mut self, end: u32) {
        match self {
            Postings::One(record) if *record >= end => *self = Postings::default(),
            Postings::One(_) => {}
            Postings::Many(records) => {
                records.truncate(records.partition_point(|&record| record < end));
            }
        }
    }

    /// Returns the records at and above `start`.
    pub(crate) fn from(&self, start: u32) -> &[u32] {
        let records = self.as_slice();
        &records[records.partition_point(|&record| record < start)..]
    }

    /// Returns how many records there are.
    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Tells whether there is no record.
    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// Returns the bytes allocated beside the value itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Postings::One(_) => 0,
            Postings::Many(records) => records.capacity() * size_of::<u32>(),
        }
    }

    fn as_slice(&self) -> &[u32] {
        match self {
            Postings::One(record) => std::slice::from_ref(record),
            Postings::Many(records) => records,
        }
    }
}

impl Default for Postings {
    fn default() -> Postings {
        Postings::Many(Vec::new())
    }
}

/// Visits up to `limit` records of lists that share none, lowest first.
pub(crate) fn merge(lists: Vec<&[u32]>, limit: usize, mut visit: impl FnMut(u32)) {
    let heads = lists.into_iter().filter_map(|list| list.split_first()).map(Reverse);
    let mut heads: BinaryHeap<Reverse<(&u32, &[u32])>> = heads.collect();
    for _ in 0..limit {
        let Some(mut lowest) = heads.peek_mut() else {
            return;
        };
        let Reverse((&record, rest)) = *lowest;
        match rest.split_first() {
            Some(head) => *lowest = Reverse(head),
            None => {
                PeekMut::pop(lowest);
            }
        }
        visit(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_ascends_and_stops_at_the_limit() {
        let lists: [&[u32]; 4] = [&[1, 4, 9], &[], &[2, 3], &[5]];
        let mut merged = Vec::new();

        merge(lists.to_vec(), 5, |record| merged.push(record));

        assert_eq!(merged, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_truncated_list_takes_records_again() {
        let mut records = Postings::default();
        for record in [3, 5, 8] {
            records.push(record);
        }

        records.truncate(5);
        records.push(6);

        assert_eq!(records.from(0), [3, 6]);
        records.truncate(0);
        assert!(records.is_empty());
        records.push(1);
        assert_eq!(records.from(1), [1]);
    }

    #[test]
    fn one_record_needs_no_allocation() {
        let mut records = Postings::default();
        records.push(3);

        assert_eq!((records.len(), records.heap_bytes()), (1, 0));
        assert_eq!(size_of::<Postings>(), 24);
    }
}
