//! A set of offsets, kept as ranges.
//!
//! Ranges are sorted, not empty, and neither overlap nor touch, so a run of consecutive offsets
//! costs one entry however long it is. Every change is O(log ranges) plus the ranges it swallows;
//! there is no cap, because a forgotten hole is a message delivered twice (storage.md §11.5).

use std::collections::BTreeMap;
use std::fmt;

use crate::offset::{Offset, OffsetRange};

/// Offsets as sorted disjoint ranges: what is settled above a floor, what is still live.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OffsetSet {
    /// Start of each range to its end.
    ranges: BTreeMap<Offset, Offset>,
    /// How many offsets the ranges cover together.
    count: u64,
}

impl OffsetSet {
    /// Returns an empty set.
    pub fn new() -> OffsetSet {
        OffsetSet::default()
    }

    /// Adds one offset and tells whether it was missing. Panics on the last possible offset.
    pub fn insert(&mut self, offset: Offset) -> bool {
        if let Some(mut last) = self.ranges.last_entry()
            && *last.get() == offset
        {
            *last.get_mut() = offset.next();
            self.count += 1;
            return true;
        }
        self.insert_range(offset..offset.next()) == 1
    }

    /// Adds a range and returns how many of its offsets were missing. An empty range adds nothing.
    pub fn insert_range(&mut self, range: OffsetRange) -> u64 {
        if range.start >= range.end {
            return 0;
        }
        let count_before = self.count;
        let mut joined = range.clone();
        if let Some((start, end)) = self.range_from_before(range.start) {
            if end >= range.end {
                return 0;
            }
            if end >= range.start {
                joined.start = start;
            }
        }
        while let Some((start, end)) = self.first_range_in(joined.start, range.end) {
            self.ranges.remove(&start);
            self.count -= end.0 - start.0;
            joined.end = joined.end.max(end);
        }
        self.count += joined.end.0 - joined.start.0;
        self.ranges.insert(joined.start, joined.end);
        self.count - count_before
    }

    /// Removes one offset and tells whether it was there.
    pub fn remove(&mut self, offset: Offset) -> bool {
        self.contains(offset) && self.remove_range(offset..offset.next()) == 1
    }

    /// Removes a range and returns how many of its offsets were there.
    pub fn remove_range(&mut self, range: OffsetRange) -> u64 {
        if range.start >= range.end {
            return 0;
        }
        let count_before = self.count;
        if let Some((start, end)) = self.range_from_before(range.start)
            && end > range.start
        {
            self.replace(start, end, start..range.start);
            self.put(range.end..end);
        }
        while let Some((start, end)) = self.first_range_before(range.start, range.end) {
            self.replace(start, end, range.end..end);
        }
        count_before - self.count
    }

    /// Adds every offset of `other`.
    pub fn union_with(&mut self, other: &OffsetSet) {
        for range in other.iter() {
            self.insert_range(range);
        }
    }

    /// Removes what lies below `upto` and returns it.
    ///
    /// Costs the ranges it touches; what stays is not copied.
    pub fn take_prefix(&mut self, upto: Offset) -> OffsetSet {
        let mut above = self.ranges.split_off(&upto);
        if let Some(mut last) = self.ranges.last_entry() {
            let end = *last.get();
            if end > upto {
                *last.get_mut() = upto;
                above.insert(upto, end);
            }
        }
        let ranges = std::mem::replace(&mut self.ranges, above);
        let count = ranges.iter().map(|(start, end)| end.0 - start.0).sum();
        self.count -= count;
        OffsetSet { ranges, count }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.count = 0;
    }

    /// Tells whether the offset is in the set.
    pub fn contains(&self, offset: Offset) -> bool {
        self.first_gap(offset) != offset
    }

    /// Tells whether the set and the range have an offset in common.
    pub fn intersects(&self, range: &OffsetRange) -> bool {
        self.next_in(range.start).is_some_and(|offset| offset < range.end)
    }

    /// Returns the first offset at or after `from` that is not in the set.
    ///
    /// A committed floor advances to it: everything below is settled.
    pub fn first_gap(&self, from: Offset) -> Offset {
        match self.ranges.range(..=from).next_back() {
            Some((_, &end)) => end.max(from),
            None => from,
        }
    }

    /// Returns the first offset at or after `from` that is in the set.
    pub fn next_in(&self, from: Offset) -> Option<Offset> {
        if self.contains(from) {
            return Some(from);
        }
        self.ranges.range(from..).next().map(|(&start, _)| start)
    }

    /// Returns the lowest offset.
    pub fn first(&self) -> Option<Offset> {
        self.ranges.first_key_value().map(|(&start, _)| start)
    }

    /// Returns the highest offset.
    pub fn last(&self) -> Option<Offset> {
        self.ranges.last_key_value().map(|(_, end)| Offset(end.0 - 1))
    }

    /// Returns the ranges, lowest first; no two touch.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = OffsetRange> + ExactSizeIterator + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// Returns the offsets one by one, lowest first.
    pub fn offsets(&self) -> impl Iterator<Item = Offset> + '_ {
        self.iter().flat_map(|range| (range.start.0..range.end.0).map(Offset))
    }

    /// Returns how many offsets are in the set.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Returns how many offsets of the range are in the set.
    pub fn count_in(&self, range: OffsetRange) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let begun = self.range_from_before(range.start);
        let others = self.ranges.range(range.start..range.end).map(|(&start, &end)| (start, end));
        let count = |(start, end): (Offset, Offset)| {
            end.min(range.end).0.saturating_sub(start.max(range.start).0)
        };
        begun.into_iter().chain(others).map(count).sum()
    }

    /// Returns how many ranges the set is made of: what it costs in memory.
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// Tells whether the set has no offset.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the last range that starts below `offset`.
    fn range_from_before(&self, offset: Offset) -> Option<(Offset, Offset)> {
        self.ranges.range(..offset).next_back().map(|(&start, &end)| (start, end))
    }

    /// Returns the first range that starts within `from..=upto`.
    fn first_range_in(&self, from: Offset, upto: Offset) -> Option<(Offset, Offset)> {
        self.ranges.range(from..=upto).next().map(|(&start, &end)| (start, end))
    }

    /// Returns the first range that starts within `from..before`.
    fn first_range_before(&self, from: Offset, before: Offset) -> Option<(Offset, Offset)> {
        self.ranges.range(from..before).next().map(|(&start, &end)| (start, end))
    }

    /// Takes the range `start..end` out and puts `rest`, a part of it, in its place.
    fn replace(&mut self, start: Offset, end: Offset, rest: OffsetRange) {
        self.ranges.remove(&start);
        self.count -= end.0 - start.0;
        self.put(rest);
    }

    /// Adds a range that is known to neither overlap nor touch another.
    fn put(&mut self, range: OffsetRange) {
        if range.start < range.end {
            self.count += range.end.0 - range.start.0;
            self.ranges.insert(range.start, range.end);
        }
    }
}

impl FromIterator<Offset> for OffsetSet {
    fn from_iter<I: IntoIterator<Item = Offset>>(offsets: I) -> OffsetSet {
        let mut set = OffsetSet::new();
        for offset in offsets {
            set.insert(offset);
        }
        set
    }
}

impl FromIterator<OffsetRange> for OffsetSet {
    fn from_iter<I: IntoIterator<Item = OffsetRange>>(ranges: I) -> OffsetSet {
        let mut set = OffsetSet::new();
        for range in ranges {
            set.insert_range(range);
        }
        set
    }
}

impl fmt::Debug for OffsetSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_that_touch_become_one() {
        let mut set = OffsetSet::from_iter([range(0, 3), range(5, 8)]);

        assert_eq!(set.insert_range(range(3, 5)), 2);

        assert_eq!(set.iter().collect::<Vec<_>>(), [range(0, 8)]);
        assert_eq!(set.len(), 8);
    }

    #[test]
    fn removing_the_middle_splits_a_range() {
        let mut set = OffsetSet::from_iter([range(0, 10)]);

        assert_eq!(set.remove_range(range(4, 6)), 2);

        assert_eq!(set.iter().collect::<Vec<_>>(), [range(0, 4), range(6, 10)]);
    }

    #[test]
    fn a_floor_advances_over_what_is_settled_and_stops_at_the_first_hole() {
        let set = OffsetSet::from_iter([range(5, 8), range(9, 12)]);

        assert_eq!(set.first_gap(Offset(5)), Offset(8));
        assert_eq!(set.first_gap(Offset(4)), Offset(4));
        assert_eq!(set.first_gap(Offset(8)), Offset(8));
        assert_eq!(set.first_gap(Offset(20)), Offset(20));
    }

    #[test]
    fn taking_a_prefix_cuts_the_range_that_crosses() {
        let mut set = OffsetSet::from_iter([range(0, 4), range(6, 10)]);

        let prefix = set.take_prefix(Offset(7));

        assert_eq!(prefix, OffsetSet::from_iter([range(0, 4), range(6, 7)]));
        assert_eq!(set, OffsetSet::from_iter([range(7, 10)]));
        assert_eq!((prefix.len(), set.len()), (5, 3));
    }

    #[test]
    fn an_append_in_order_keeps_one_range() {
        let set = OffsetSet::from_iter((0..1000).map(Offset));

        assert_eq!(set.range_count(), 1);
        assert_eq!((set.first(), set.last()), (Some(Offset(0)), Some(Offset(999))));
    }

    /// Small numbers, so that operations meet; the oracle is a plain set of integers.
    #[derive(Clone, Debug)]
    enum Operation {
        Insert(u64),
        InsertRange(u64, u64),
        Remove(u64),
        RemoveRange(u64, u64),
        Union(Vec<u64>),
        TakePrefix(u64),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let at = 0..64u64;
        prop_oneof![
            4 => at.clone().prop_map(Operation::Insert),
            2 => (at.clone(), at.clone()).prop_map(|(a, b)| Operation::InsertRange(a, b)),
            3 => at.clone().prop_map(Operation::Remove),
            2 => (at.clone(), at.clone()).prop_map(|(a, b)| Operation::RemoveRange(a, b)),
            1 => prop::collection::vec(at.clone(), 0..8).prop_map(Operation::Union),
            1 => at.prop_map(Operation::TakePrefix),
        ]
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_set_of_integers(
            operations in prop::collection::vec(operation(), 0..60),
            from in 0..70u64,
            to in 0..70u64,
        ) {
            let mut set = OffsetSet::new();
            let mut model = BTreeSet::new();

            for operation in operations {
                apply_to_both(operation, &mut set, &mut model)?;
                prop_assert_eq!(set.len(), model.len() as u64);
                prop_assert!(set.offsets().map(|offset| offset.0).eq(model.iter().copied()));
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.iter().all(|range| range.start < range.end));
                let counted = model.range(from.min(to)..to).count() as u64;
                prop_assert_eq!(set.count_in(Offset(from)..Offset(to)), counted);
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            }

            let gap = (from..).find(|offset| !model.contains(offset)).map(Offset);
            prop_assert_eq!(Some(set.first_gap(Offset(from))), gap);
            prop_assert_eq!(set.next_in(Offset(from)), model.range(from..).next().map(|&o| Offset(o)));
            prop_assert_eq!(set.contains(Offset(from)), model.contains(&from));
            let meets = (from..to).any(|offset| model.contains(&offset));
            prop_assert_eq!(set.intersects(&range(from, to)), meets);
            prop_assert_eq!(set.first(), model.first().map(|&offset| Offset(offset)));
            prop_assert_eq!(set.last(), model.last().map(|&offset| Offset(offset)));
            prop_assert_eq!(set.is_empty(), model.is_empty());
        }
    }

    fn apply_to_both(
        operation: Operation,
        set: &mut OffsetSet,
        model: &mut BTreeSet<u64>,
    ) -> Result<(), TestCaseError> {
        match operation {
            Operation::Insert(at) => prop_assert_eq!(set.insert(Offset(at)), model.insert(at)),
            Operation::Remove(at) => prop_assert_eq!(set.remove(Offset(at)), model.remove(&at)),
            Operation::InsertRange(start, end) => {
                let added = (start..end).filter(|&at| model.insert(at)).count() as u64;
                prop_assert_eq!(set.insert_range(range(start, end)), added);
            }
            Operation::RemoveRange(start, end) => {
                let removed = (start..end).filter(|at| model.remove(at)).count() as u64;
                prop_assert_eq!(set.remove_range(range(start, end)), removed);
            }
            Operation::Union(offsets) => {
                set.union_with(&offsets.iter().copied().map(Offset).collect());
                model.extend(offsets);
            }
            Operation::TakePrefix(upto) => {
                let above = model.split_off(&upto);
                let prefix = set.take_prefix(Offset(upto));
                prop_assert!(prefix.offsets().map(|offset| offset.0).eq(model.iter().copied()));
                prop_assert_eq!(prefix.len(), model.len() as u64);
                *model = above;
            }
        }
        Ok(())
    }

    fn range(start: u64, end: u64) -> OffsetRange {
        Offset(start)..Offset(end)
    }
}
