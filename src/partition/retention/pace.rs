//! How much is stored again at a time: publishers must not notice, and it must not fall behind them.
//!
//! One turn is under way at a time, so that no flush has more than one beside what was published. Turns have what was published since,
//! and a little with each tick: where half of what is old is needed, storing it again is as much as publishing. A disk on which a flush takes
//! longer than a tick has enough to do.

/// Records of one turn, and bytes of them.
const RECORDS_PER_TURN: usize = 256;
const BYTES_PER_TURN: u64 = 256 << 10;
/// Bytes that may be saved up.
const BYTES_MAX: u64 = 4 << 20;

/// How much may be stored again now.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::partition) struct Pace {
    bytes: u64,
    /// A flush was under way at the last tick, and has not ended since.
    flushing: bool,
    is_slow: bool,
}

/// What is stored again at once.
#[derive(Debug)]
pub(super) struct Turn {
    records: usize,
    bytes: u64,
    bytes_max: u64,
}

impl Pace {
    /// A message of so many bytes was published.
    pub(in crate::partition) fn published(&mut self, bytes: usize) {
        self.bytes = (self.bytes + bytes as u64).min(BYTES_MAX);
    }

    /// A flush ended.
    pub(in crate::partition) fn flushed(&mut self) {
        (self.flushing, self.is_slow) = (false, false);
    }

    /// Time passed, with a flush under way or not.
    pub(super) fn tick(&mut self, flushing: bool) {
        self.is_slow = self.flushing && flushing;
        self.flushing = flushing;
        self.bytes = self.bytes.max(BYTES_PER_TURN);
    }

    pub(super) fn turn(&self) -> Turn {
        let bytes_max = if self.is_slow { 0 } else { self.bytes.min(BYTES_PER_TURN) };
        Turn { records: 0, bytes: 0, bytes_max }
    }

    pub(super) fn took(&mut self, turn: &Turn) {
        self.bytes = self.bytes.saturating_sub(turn.bytes);
    }
}

impl Turn {
    /// The last record may be larger than the room that is left: one always fits where there is any.
    pub(super) fn has_room(&self) -> bool {
        self.records < RECORDS_PER_TURN && self.bytes < self.bytes_max
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.records += 1;
        self.bytes += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_as_much_as_was_published_and_a_little_with_each_tick() {
        let mut pace = Pace::default();
        assert!(!pace.turn().has_room(), "nothing was published, and no time passed");
        pace.tick(false);
        assert_eq!(taken(&mut pace, 1 << 10), 256, "256 KiB in all");
        assert_eq!(taken(&mut pace, 1 << 10), 0);

        pace.published(10 << 10);
        assert_eq!(taken(&mut pace, 1 << 10), 10);
        pace.published(usize::MAX >> 1);
        let turns = (0..100).take_while(|_| taken(&mut pace, 1 << 10) > 0).count();
        assert_eq!(turns, 16, "4 MiB are saved up at most");
    }

    #[test]
    fn a_turn_has_few_records_and_a_large_one_is_one_turn() {
        let mut pace = Pace::default();
        pace.tick(false);
        assert_eq!(taken(&mut pace, 1), 256);
        assert_eq!(taken(&mut pace, 100 << 20), 1);
    }

    #[test]
    fn a_flush_that_takes_longer_than_a_tick_is_not_given_more() {
        let mut pace = Pace::default();
        pace.tick(true);
        assert!(pace.turn().has_room(), "it may have begun just now");
        pace.tick(true);
        assert!(!pace.turn().has_room());
        pace.flushed();
        assert!(pace.turn().has_room());
        pace.tick(true);
        assert!(pace.turn().has_room(), "another one");
    }

    fn taken(pace: &mut Pace, record_bytes: usize) -> usize {
        let mut turn = pace.turn();
        while turn.has_room() {
            turn.take(record_bytes);
        }
        pace.took(&turn);
        turn.records
    }
}
