//! Finding records by lists of them, or by looking at each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::ascending::Ascending;
use super::packed::Packed;
use crate::varint::Input;

/// As many lists are merged step by step; of more, all that is left is gathered and sorted.
const MERGED_LISTS_MAX: usize = 64;

/// The topics of one index that match a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRanges {
    ranges: Vec<Range<u32>>,
    /// One bit for each topic of the index, when there is more than one range.
    bits: Vec<u64>,
}

impl TopicRanges {
    pub(crate) fn new(ranges: Vec<Range<u32>>, topic_count: u32) -> TopicRanges {
        let mut bits = Vec::new();
        if ranges.len() > 1 {
            bits.resize(topic_count as usize / 64 + 1, 0);
            for topic in ranges.iter().cloned().flatten() {
                bits[topic as usize / 64] |= 1 << (topic % 64);
            }
        }
        TopicRanges { ranges, bits }
    }

    /// Returns how many topics there are.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn ranges(&self) -> &[Range<u32>] {
        &self.ranges
    }

    fn contains(&self, topic: u32) -> bool {
        match self.ranges.as_slice() {
            [only] => only.contains(&topic),
            _ => {
                self.bits.get(topic as usize / 64).is_some_and(|word| word >> (topic % 64) & 1 == 1)
            }
        }
    }
}

/// Lists of records, numbered: list times the segment's records plus record, all of them ascending.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PostingLists<'a> {
    values: Ascending<'a>,
    list_count: u32,
    record_count: u64,
}

/// The records asked for: numbers of at least `from`, the lowest `limit` of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) from: u32,
    pub(crate) limit: usize,
}

impl<'a> PostingLists<'a> {
    /// Takes the lists of a segment of so many records.
    pub(crate) fn read(
        input: &mut Input<'a>,
        list_count: u32,
        record_count: u64,
    ) -> Option<PostingLists<'a>> {
        (record_count <= u64::from(u32::MAX)).then_some(())?;
        Some(PostingLists { values: Ascending::read(input)?, list_count, record_count })
    }

    /// Returns how many records some lists that follow one another have together; `None` when there are not so many lists.
    pub(crate) fn len(&self, lists: Range<u32>) -> Option<usize> {
        let place = |list: u32| self.place(list, 0);
        (lists.end <= self.list_count).then(|| place(lists.end).saturating_sub(place(lists.start)))
    }

    /// Visits the wanted records of lists that share none, ascending; `None` when one is not of the segment, or a list does not exist.
    pub(crate) fn merge(
        &self,
        lists: &[Range<u32>],
        wanted: Wanted,
        mut visit: impl FnMut(u32),
    ) -> Option<()> {
        if let [only] = lists
            && only.len() == 1
        {
            for record in self.list(only.start, wanted.from).take(wanted.limit) {
                visit(record?);
            }
            return Some(());
        }
        if lists.iter().map(ExactSizeIterator::len).sum::<usize>() > MERGED_LISTS_MAX {
            let mut rest = Vec::new();
            for range in lists {
                self.gather(range.clone(), wanted.from, &mut rest)?;
            }
            rest.sort_unstable();
            rest.into_iter().take(wanted.limit).for_each(visit);
            return Some(());
        }
        let lists = lists.iter().cloned().flatten();
        let mut lists: Vec<_> = lists.map(|list| self.list(list, wanted.from)).collect();
        let mut heads = BinaryHeap::new();
        for (number, list) in lists.iter_mut().enumerate() {
            if let Some(record) = list.next() {
                heads.push(Reverse((record?, number)));
            }
        }
        for _ in 0..wanted.limit {
            let Some(Reverse((record, number))) = heads.pop() else { break };
            if let Some(next) = lists[number].next() {
                heads.push(Reverse((next?, number)));
            }
            visit(record);
        }
        Some(())
    }

    /// Returns the records of a list from one on; `None` for what is no record.
    fn list(&self, list: u32, from: u32) -> impl Iterator<Item = Option<u32>> + 'a {
        let (record_count, base) = (self.record_count, self.base(list));
        let values = self.values.iter_from(self.place(list, from));
        let values = values.take_while(move |value| value.wrapping_sub(base) < record_count);
        values.map(move |value| u32::try_from(value - base).ok())
    }

    /// Adds the records, from one on, of lists that follow one another.
    fn gather(&self, lists: Range<u32>, from: u32, out: &mut Vec<u32>) -> Option<()> {
        (lists.end <= self.list_count).then_some(())?;
        let (mut base, end) = (self.base(lists.start), self.base(lists.end));
        for value in self.values.iter_from(self.place(lists.start, 0)) {
            if value >= end {
                break;
            }
            let mut record = value.checked_sub(base)?;
            if record >= self.record_count {
                base += record / self.record_count * self.record_count;
                record = value - base;
            }
            if record >= u64::from(from) {
                out.push(record as u32);
            }
        }
        Some(())
    }

    fn base(&self, list: u32) -> u64 {
        u64::from(list) * self.record_count
    }

    /// Returns the place of the first value of a list that is not below a record.
    fn place(&self, list: u32, from: u32) -> usize {
        let value = self.base(list) + u64::from(from);
        value.checked_sub(1).map_or(0, |before| self.values.count_to(before))
    }
}

/// Visits the wanted records whose topic is among the ranges.
pub(crate) fn scan(
    column: Packed<'_>,
    topics: &TopicRanges,
    wanted: Wanted,
    visit: impl FnMut(u32),
) {
    let records = wanted.from as usize..column.len();
    let hits = records.filter(|record| topics.contains(column.get(*record)));
    hits.take(wanted.limit).map(|record| record as u32).for_each(visit);
}
