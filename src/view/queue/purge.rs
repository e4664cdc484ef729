//! Taking out of a queue what nobody has in hand.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq_index::{Offset, OffsetRange};

use super::Queue;

impl Queue {
    /// Takes everything below out, but for some entries of these lengths.
    pub(super) fn purge(&mut self, to: Offset, kept: &[(Bytes, Vec<Offset>)], lengths: &[u64]) {
        let to = to.min(self.end());
        let kept: BTreeSet<Offset> =
            kept.iter().flat_map(|(_, entries)| entries.iter().copied()).collect();
        let lengths: BTreeMap<Offset, u64> =
            kept.iter().copied().zip(lengths.iter().copied()).collect();
        let is_kept = |entry: &Offset| *entry < to && !self.is_removed(*entry);
        let kept: BTreeSet<Offset> = kept.into_iter().filter(is_kept).collect();
        let length = |entry: Offset| lengths.get(&entry).copied().unwrap_or(0);
        for number in 0..self.marks.len() {
            let marked = self.entries_of(number);
            let in_place = |entry: &&Offset| self.moved.get(**entry).is_none();
            let stay = kept.range(marked.clone()).filter(in_place);
            // What comes behind has its share: where this was said, there was none.
            let all = self.count_in_place(marked.clone());
            let behind = self.count_in_place(marked.start.max(to)..marked.end.max(to));
            let share = (self.marks[number].bytes * behind).checked_div(all).unwrap_or(0);
            self.marks[number].bytes = stay.map(|entry| length(*entry)).sum::<u64>() + share;
        }
        self.moved.retain(|entry, share| match entry < to {
            true => kept.contains(&entry).then(|| length(entry)),
            false => Some(share),
        });
        self.bytes = self.marks.iter().map(|mark| mark.bytes).sum::<u64>() + self.moved.bytes();
        for range in gaps(self.head..to, &kept) {
            self.removed.insert_range(range);
        }
        self.settle_head();
    }
}

/// Lists what lies between these offsets, in order.
pub(in crate::view) fn gaps(
    within: OffsetRange,
    kept: &BTreeSet<Offset>,
) -> impl Iterator<Item = OffsetRange> {
    let ends = kept.range(within.clone()).copied().chain([within.end]);
    ends.scan(within.start, |next, end| Some(std::mem::replace(next, end.next())..end))
}
