//! How much some entries of a queue have together.

use fluxmq_index::{Offset, OffsetRange, OffsetSet};

use super::Queue;

impl Queue {
    /// Weighs entries: returns what those have together of which that is known, between two marks or in a run of moved ones, and which
    /// others of them are in the queue.
    pub fn weigh(&self, entries: &OffsetSet) -> (u64, OffsetSet) {
        let mut entries = entries.clone();
        entries.remove_range(Offset::ZERO..self.head);
        entries.remove_range(self.end()..Offset(u64::MAX));
        let (mut bytes, mut others, mut cut) = (0, entries.clone(), Vec::new());
        for range in entries.iter() {
            for run in self.moved.runs_in(&range) {
                let moved = run.range().start.max(range.start)..run.end().min(range.end);
                if moved == run.range() {
                    bytes += run.bytes;
                    others.remove_range(moved);
                } else {
                    cut.push(moved);
                }
            }
            for (marked, known) in self.marks_within(&range) {
                bytes += known;
                others.remove_range(marked);
            }
        }
        // A mark does not count what was moved.
        for moved in cut {
            others.insert_range(moved);
        }
        for gone in self.removed.iter() {
            others.remove_range(gone);
        }
        (bytes, others)
    }

    /// Lists what each mark counts whose entries are all among these, and that.
    fn marks_within(&self, range: &OffsetRange) -> impl Iterator<Item = (OffsetRange, u64)> {
        let first = self.mark_of(range.start).unwrap_or(0);
        let numbers = (first..self.marks.len()).take_while(|at| self.entry_of(*at) < range.end);
        let marked = numbers.map(|at| {
            let end = if at + 1 < self.marks.len() { self.entry_of(at + 1) } else { self.end() };
            (self.entry_of(at).max(self.head)..end, self.marks[at].bytes)
        });
        marked.filter(|(it, _)| range.start <= it.start && it.start < it.end && it.end <= range.end)
    }
}
