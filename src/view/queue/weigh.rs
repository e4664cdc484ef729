//! How much some entries of a queue have together.

use fluxmq_index::{Offset, OffsetRange, OffsetSet};

use super::Queue;

/// What entries have together, as far as that is known: between two marks, or in a run of moved ones.
#[derive(Debug, Default)]
pub struct Weight {
    /// What is known.
    pub bytes: u64,
    /// Entries that it does not have and should.
    pub lacks: OffsetSet,
    /// Entries that it has and should not.
    pub exceeds: OffsetSet,
}

impl Queue {
    /// Weighs those of some entries that are in the queue: of each mark either they are named, or the others of it, whichever are fewer.
    pub fn weigh(&self, entries: &OffsetSet) -> Weight {
        let mut entries = entries.clone();
        entries.remove_range(Offset::ZERO..self.head);
        entries.remove_range(self.end()..Offset(u64::MAX));
        for gone in self.removed.iter() {
            entries.remove_range(gone);
        }
        let (mut weight, mut in_place) = (Weight::default(), entries.clone());
        for range in entries.iter() {
            for run in self.moved.runs_in(&range) {
                let moved = run.range().start.max(range.start)..run.end().min(range.end);
                in_place.remove_range(moved.clone());
                if moved == run.range() {
                    weight.bytes += run.bytes;
                } else {
                    weight.lacks.insert_range(moved);
                }
            }
        }
        let mut next = 0;
        for range in in_place.iter() {
            let first = self.mark_of(range.start).unwrap_or(0).max(next);
            for number in (first..self.marks.len()).take_while(|it| self.entry_of(*it) < range.end)
            {
                self.weigh_mark(number, &in_place, &mut weight);
                next = number + 1;
            }
        }
        weight
    }

    /// Weighs the entries of one mark, of those that were not moved.
    fn weigh_mark(&self, number: usize, in_place: &OffsetSet, weight: &mut Weight) {
        let marked = self.entries_of(number);
        let all = self.count_in_place(marked.clone());
        let some = in_place.count_in(marked.clone());
        let takes_all = 2 * some > all;
        if takes_all {
            weight.bytes += self.marks[number].bytes;
        }
        if some == all {
            return;
        }
        for entry in (marked.start.0..marked.end.0).map(Offset) {
            match in_place.contains(entry) {
                true if !takes_all => {
                    weight.lacks.insert(entry);
                }
                false if takes_all && self.is_in_place(entry) => {
                    weight.exceeds.insert(entry);
                }
                _ => {}
            }
        }
    }

    /// The entries of a mark, but for those below the head.
    pub(super) fn entries_of(&self, number: usize) -> OffsetRange {
        let is_last = number + 1 == self.marks.len();
        let end = if is_last { self.end() } else { self.entry_of(number + 1) };
        self.entry_of(number).max(self.head)..end
    }

    fn is_in_place(&self, entry: Offset) -> bool {
        !self.removed.contains(entry) && self.moved.get(entry).is_none()
    }
}
