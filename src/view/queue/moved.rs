//! Entries whose records were stored again where the log goes on.
//!
//! A backlog is stored again entry by entry in its order, so most places follow from the one before: what is kept are runs, of entries
//! and of records that both go up by one.

use std::collections::BTreeMap;

use fluxmq_index::{Offset, OffsetRange};

/// The moved entries of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MovedEntries {
    /// By their first entries; no two have an entry in common.
    runs: BTreeMap<Offset, Run>,
}

/// Entries one behind the other, and so their records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: Offset,
    pub(super) count: u64,
    /// The record of the first.
    pub(super) at: Offset,
    /// What the entries have together. How it is shared among them is forgotten: parts of a run have as much as they have entries.
    pub(super) bytes: u64,
}

impl MovedEntries {
    /// Where the record of an entry is.
    pub(super) fn get(&self, entry: Offset) -> Option<Offset> {
        self.run_with(entry).map(|run| run.place_of(entry))
    }

    /// Adds an entry that is not among them.
    pub(super) fn put(&mut self, entry: Offset, at: Offset, bytes: u64) {
        debug_assert_eq!(self.get(entry), None);
        match self.runs.range_mut(..entry).next_back() {
            Some((_, run)) if run.end() == entry && run.at.plus(run.count) == at => {
                run.count += 1;
                run.bytes += bytes;
            }
            _ => self.put_run(Run { first: entry, count: 1, at, bytes }),
        }
    }

    /// Adds entries that are not among them.
    pub(super) fn put_run(&mut self, run: Run) {
        if run.count > 0 {
            self.runs.insert(run.first, run);
        }
    }

    /// Takes an entry of so many bytes out; returns how many are fewer now, when it was there.
    pub(super) fn take(&mut self, entry: Offset, bytes: u64) -> Option<u64> {
        let run = *self.run_with(entry)?;
        self.runs.remove(&run.first);
        let own = if run.count == 1 { run.bytes } else { bytes.min(run.bytes) };
        let others = Run { count: run.count - 1, bytes: run.bytes - own, ..run };
        let (before, behind) = others.split(entry);
        self.put_run(before);
        self.put_run(Run { first: behind.first.next(), at: behind.at.next(), ..behind });
        Some(self.even_out(entry, own, bytes))
    }

    /// An entry of so many bytes is gone, and with it what its part had of them. Parts of a run have shares: what one has too much, or too
    /// little, others have less, or more, the nearest first. Returns how many are fewer now.
    pub(super) fn even_out(&mut self, entry: Offset, mut gone: u64, bytes: u64) -> u64 {
        if gone > bytes {
            let behind = self.runs.range(entry..).next();
            let nearest = behind.or_else(|| self.runs.range(..entry).next_back());
            let Some(nearest) = nearest.map(|(first, _)| *first) else { return gone };
            self.give_bytes(nearest, gone - bytes);
            return bytes;
        }
        let mut take = |run: &mut Run| {
            let more = run.bytes.min(bytes - gone);
            run.bytes -= more;
            gone += more;
            gone < bytes
        };
        let lacks = self.runs.range_mut(entry..).all(|(_, run)| take(run));
        if lacks {
            self.runs.range_mut(..entry).rev().all(|(_, run)| take(run));
        }
        gone
    }

    /// Takes the entries below another out; returns their bytes.
    pub(super) fn take_below(&mut self, to: Offset) -> u64 {
        let mut gone = 0;
        while let Some((_, run)) = self.runs.first_key_value().filter(|(first, _)| **first < to) {
            let (below, rest) = run.split(to);
            gone += below.bytes;
            self.runs.pop_first();
            self.put_run(rest);
        }
        gone
    }

    /// Returns true when a run goes on from before an entry to it.
    pub(super) fn is_inside(&self, entry: Offset) -> bool {
        self.run_with(entry).is_some_and(|run| run.first < entry)
    }

    /// Takes bytes off the run that begins with an entry; returns how many there were.
    pub(super) fn take_bytes(&mut self, first: Offset, bytes: u64) -> u64 {
        self.runs.get_mut(&first).map_or(0, |run| {
            let gone = run.bytes.min(bytes);
            run.bytes -= gone;
            gone
        })
    }

    /// Gives bytes to the run that begins with an entry; false where there is none.
    pub(super) fn give_bytes(&mut self, first: Offset, bytes: u64) -> bool {
        self.runs.get_mut(&first).map(|run| run.bytes += bytes).is_some()
    }

    /// Takes the entries whose records are below `to` out.
    pub(super) fn take_stored_below(&mut self, to: Offset) -> Vec<Run> {
        let old: Vec<Run> = self.stored_below(to).collect();
        for below in &old {
            let run = self.runs.remove(&below.first).expect("listed above");
            self.put_run(run.split(below.end()).1);
        }
        old
    }

    /// Lists the entries whose records are below `to`.
    pub(super) fn stored_below(&self, to: Offset) -> impl Iterator<Item = Run> {
        let old = self.runs().filter(move |run| run.at < to);
        old.map(move |run| run.split(run.first.plus(to.0 - run.at.0)).0)
    }

    /// Counts those among these entries.
    pub(super) fn count_in(&self, entries: &OffsetRange) -> u64 {
        let count =
            |run: &Run| run.end().min(entries.end).0.saturating_sub(run.first.max(entries.start).0);
        self.runs_in(entries).map(count).sum()
    }

    /// Lists the runs that have some of these entries, each whole.
    pub(super) fn runs_in(&self, entries: &OffsetRange) -> impl Iterator<Item = &Run> {
        let first = self.run_with(entries.start).map_or(entries.start, |run| run.first);
        self.runs.range(first..entries.end.max(first)).map(|(_, run)| run)
    }

    /// Takes the entries out that do not stay. Who stays is asked with the share that an entry has, and says how many bytes it is to have.
    pub(super) fn retain(&mut self, stays: impl Fn(Offset, u64) -> Option<u64>) {
        for run in std::mem::take(&mut self.runs).into_values() {
            let mut rest = run;
            for entry in run.entries() {
                let (one, behind) = rest.split(entry.next());
                rest = behind;
                if let Some(bytes) = stays(entry, one.bytes) {
                    self.put(entry, one.at, bytes);
                }
            }
        }
    }

    /// The end of the run that has an entry.
    pub(super) fn end_of_run(&self, entry: Offset) -> Option<Offset> {
        self.run_with(entry).map(Run::end)
    }

    /// The oldest record of any.
    pub(super) fn oldest(&self) -> Option<Offset> {
        self.runs().map(|run| run.at).min()
    }

    /// What they have together.
    pub(super) fn bytes(&self) -> u64 {
        self.runs().map(|run| run.bytes).sum()
    }

    /// Lists them in runs.
    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// In how many runs they are: what they cost in memory.
    pub(super) fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Lists them from an entry on, each with where its record is.
    pub(super) fn from(&self, entry: Offset) -> impl Iterator<Item = (Offset, Offset)> {
        let begun =
            self.run_with(entry).filter(|run| run.first < entry).map(|run| run.split(entry).1);
        let runs = begun.into_iter().chain(self.runs.range(entry..).map(|(_, run)| *run));
        runs.flat_map(|run| run.entries().map(move |entry| (entry, run.place_of(entry))))
    }

    fn run_with(&self, entry: Offset) -> Option<&Run> {
        self.runs.range(..=entry).next_back().map(|(_, run)| run).filter(|run| entry < run.end())
    }
}

impl Run {
    /// The entry behind the last.
    pub(super) fn end(&self) -> Offset {
        self.first.plus(self.count)
    }

    /// Its entries.
    pub(super) fn range(&self) -> OffsetRange {
        self.first..self.end()
    }

    /// Where the record of one of its entries is.
    pub(super) fn place_of(&self, entry: Offset) -> Offset {
        self.at.plus(entry.0 - self.first.0)
    }

    fn entries(&self) -> impl Iterator<Item = Offset> + use<> {
        (self.first.0..self.end().0).map(Offset)
    }

    /// Returns what is below an entry and the rest.
    fn split(&self, entry: Offset) -> (Run, Run) {
        let entry = entry.clamp(self.first, self.end());
        let count = entry.0 - self.first.0;
        let bytes = self.bytes.checked_div(self.count).unwrap_or(0) * count;
        let bytes = if count == self.count { self.bytes } else { bytes };
        let below = Run { count, bytes, ..*self };
        let rest = Run {
            first: entry,
            count: self.count - count,
            at: self.at.plus(count),
            bytes: self.bytes - bytes,
        };
        (below, rest)
    }

    pub(super) fn into_row(self) -> (u64, u64, u64, u64) {
        (self.first.0, self.count, self.at.0, self.bytes)
    }

    pub(super) fn from_row((first, count, at, bytes): (u64, u64, u64, u64)) -> Run {
        Run { first: Offset(first), count, at: Offset(at), bytes }
    }
}

impl FromIterator<Run> for MovedEntries {
    /// Takes runs that have no entry in common.
    fn from_iter<I: IntoIterator<Item = Run>>(runs: I) -> MovedEntries {
        let mut moved = MovedEntries::default();
        runs.into_iter().for_each(|run| moved.put_run(run));
        moved
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Put(u64, u64),
        Take(u64),
        TakeBelow(u64),
        TakeStoredBelow(u64),
        Retain(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..40u64, 0..3u64).prop_map(|(entry, skip)| Step::Put(entry, skip)),
            2 => (0..40u64).prop_map(Step::Take),
            1 => (0..12u64).prop_map(Step::TakeBelow),
            1 => (0..60u64).prop_map(Step::TakeStoredBelow),
            1 => (2..5u64).prop_map(Step::Retain),
        ]
    }

    proptest! {
        #[test]
        fn runs_are_what_single_places_would_be(steps in vec(step(), 0..80)) {
            let mut moved = MovedEntries::default();
            let mut places: BTreeMap<u64, u64> = BTreeMap::new();
            let (mut end, mut bytes) = (0, 0);
            for step in steps {
                match step {
                    Step::Put(first, skip) => {
                        end += skip;
                        for entry in (first..first + 4).filter(|entry| !places.contains_key(entry)).collect::<Vec<_>>() {
                            moved.put(Offset(entry), Offset(end), 7 + entry);
                            places.insert(entry, end);
                            bytes += 7 + entry;
                            end += 1;
                        }
                    }
                    Step::Take(entry) => {
                        let gone = moved.take(Offset(entry), 7 + entry);
                        prop_assert_eq!(gone.is_some(), places.remove(&entry).is_some());
                        bytes -= gone.unwrap_or(0);
                    }
                    Step::TakeBelow(to) => {
                        bytes -= moved.take_below(Offset(to));
                        places = places.split_off(&to);
                    }
                    Step::TakeStoredBelow(to) => {
                        for run in moved.take_stored_below(Offset(to)) {
                            bytes -= run.bytes;
                            for entry in run.entries() {
                                let at = places.remove(&entry.0);
                                prop_assert_eq!(at, Some(run.place_of(entry).0));
                            }
                        }
                        prop_assert!(places.values().all(|at| *at >= to));
                    }
                    Step::Retain(one_in) => {
                        moved.retain(|entry, share| entry.0.is_multiple_of(one_in).then_some(share));
                        prop_assert!(moved.bytes() <= bytes);
                        bytes = moved.bytes();
                        places.retain(|entry, _| entry % one_in == 0);
                    }
                }
                let listed: Vec<(u64, u64)> =
                    moved.from(Offset(0)).map(|(entry, at)| (entry.0, at.0)).collect();
                prop_assert_eq!(listed, places.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(moved.bytes(), bytes);
                prop_assert_eq!(moved.oldest().map(|at| at.0), places.values().min().copied());
                for entry in 0..50 {
                    prop_assert_eq!(moved.get(Offset(entry)).map(|at| at.0), places.get(&entry).copied());
                    let rest = moved.from(Offset(entry)).count();
                    prop_assert_eq!(rest, places.range(entry..).count());
                    let range = Offset(entry / 2)..Offset(entry);
                    let counted = moved.count_in(&range);
                    prop_assert_eq!(counted as usize, places.range(entry / 2..entry).count());
                }
                let again: MovedEntries = moved.runs().copied().map(Run::into_row).map(Run::from_row).collect();
                prop_assert_eq!(&again, &moved);
            }
        }
    }

    #[test]
    fn entries_that_are_moved_in_their_order_are_one_run() {
        let mut moved = MovedEntries::default();
        for entry in 0..1_000 {
            moved.put(Offset(entry), Offset(5_000 + entry), 1);
        }
        assert_eq!(moved.run_count(), 1);
        assert_eq!(moved.end_of_run(Offset(7)), Some(Offset(1_000)));

        moved.take(Offset(500), 1);
        moved.put(Offset(500), Offset(9_000), 1);
        assert_eq!(moved.run_count(), 3);
    }

    proptest! {
        /// In parts of a run all entries are as long: what one has more, or less, is in others (seed 1795390003057).
        #[test]
        fn entries_of_any_length_are_taken_with_their_own_bytes(
            lengths in vec((0..2_000u64, any::<u32>()), 1..60),
        ) {
            let mut moved = MovedEntries::default();
            for (entry, (length, _)) in (0..).zip(&lengths) {
                moved.put(Offset(entry), Offset(40 + entry), *length);
            }
            let mut left: u64 = lengths.iter().map(|(length, _)| length).sum();
            let mut order: Vec<usize> = (0..lengths.len()).collect();
            order.sort_by_key(|entry| lengths[*entry].1);
            for entry in order {
                let length = lengths[entry].0;
                prop_assert_eq!(moved.take(Offset(entry as u64), length), Some(length));
                left -= length;
                prop_assert_eq!(moved.bytes(), left);
            }
        }
    }
}
