//! Taking out of a queue what nobody has in hand.

use std::collections::BTreeSet;

use bytes::Bytes;
use fluxmq_index::{Offset, OffsetRange};

use super::Queue;

impl Queue {
    /// Takes everything below out, but for some entries. What stays has its share of what its mark had.
    pub(super) fn purge(&mut self, to: Offset, kept: &[(Bytes, Vec<Offset>)]) {
        let to = to.min(self.end());
        let is_kept = |entry: &Offset| *entry < to && !self.is_removed(*entry);
        let kept = kept.iter().flat_map(|(_, entries)| entries.iter().copied());
        let kept: BTreeSet<Offset> = kept.filter(is_kept).collect();
        for number in 0..self.marks.len() {
            let first = self.entry_of(number);
            let end =
                if number + 1 < self.marks.len() { self.entry_of(number + 1) } else { self.end() };
            let is_here =
                |entry: &Offset| !self.is_removed(*entry) && self.moved.get(*entry).is_none();
            let all = (first.0..end.0).map(Offset).filter(is_here);
            let (all, staying) = all.fold((0, 0), |(all, staying), entry| {
                (all + 1, staying + u64::from(entry >= to || kept.contains(&entry)))
            });
            let mark = &mut self.marks[number];
            let stays = (mark.bytes * staying).checked_div(all).unwrap_or(0);
            self.bytes -= mark.bytes - stays;
            mark.bytes = stays;
        }
        self.bytes -= self.moved.retain(|entry| entry >= to || kept.contains(&entry));
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
