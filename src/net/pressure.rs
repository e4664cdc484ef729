//! How short of memory the process is, and what connections make of it (limits.memory_bytes_max).
//!
//! From 60 % on who publishes is read the later the less is left: that gives the others time, and nobody is told. From 80 % on nobody
//! new comes in. From 90 % on publishes are refused, and what nothing stores is dropped. Reading and settling go on: they make room.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Thousandths of the limit at which each level begins.
const BEGINS: [(Level, u64); 3] =
    [(Level::Critical, 900), (Level::Short, 800), (Level::Scarce, 600)];
/// A level ends so many thousandths below where it began, or it would come and go with every reading.
const ENDS_BELOW: u64 = 30;
/// Pauses of one who publishes: where they begin, and what each thousandth above adds.
const PAUSE_MS_MIN: u64 = 5;
const PAUSE_MS_PER_50: u64 = 10;

/// How much is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Enough.
    #[default]
    Enough,
    /// Publishers are read more slowly.
    Scarce,
    /// Nobody new comes in.
    Short,
    /// Publishes are refused, and what nothing stores is dropped.
    Critical,
}

/// The memory of the process. Read by everybody, told by one.
#[derive(Debug, Default)]
pub struct Pressure {
    /// 0 is not known: then there is always enough.
    limit: u64,
    used: AtomicU64,
    used_max: AtomicU64,
    level: AtomicU8,
}

impl Pressure {
    /// Returns one for a process that may have so many bytes; 0 is no limit.
    pub fn new(limit: u64) -> Pressure {
        Pressure { limit, ..Pressure::default() }
    }

    /// Takes how many bytes the process has; returns the level when it changes.
    pub fn note(&self, used: u64) -> Option<Level> {
        self.used.store(used, Ordering::Relaxed);
        self.used_max.fetch_max(used, Ordering::Relaxed);
        let before = self.level();
        let now = Level::of(self.thousandths(), before);
        self.level.store(now as u8, Ordering::Relaxed);
        (now != before).then_some(now)
    }

    /// How much is left.
    pub fn level(&self) -> Level {
        match self.level.load(Ordering::Relaxed) {
            0 => Level::Enough,
            1 => Level::Scarce,
            2 => Level::Short,
            _ => Level::Critical,
        }
    }

    /// Milliseconds for which one who has just published is not read; 0 while there is enough.
    pub fn pause_ms(&self) -> u64 {
        if self.level() == Level::Enough {
            return 0;
        }
        let above = self.thousandths().saturating_sub(600).min(400);
        PAUSE_MS_MIN + above * PAUSE_MS_PER_50 / 50
    }

    /// Bytes of the process, and the most there were.
    pub fn used(&self) -> (u64, u64) {
        (self.used.load(Ordering::Relaxed), self.used_max.load(Ordering::Relaxed))
    }

    /// Bytes that it may have; 0 is no limit.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    fn thousandths(&self) -> u64 {
        let used = u128::from(self.used.load(Ordering::Relaxed));
        used.saturating_mul(1000).checked_div(self.limit.into()).unwrap_or(0) as u64
    }
}

impl Level {
    fn of(thousandths: u64, before: Level) -> Level {
        let holds = |(level, begins): &&(Level, u64)| {
            thousandths >= if *level <= before { begins - ENDS_BELOW } else { *begins }
        };
        BEGINS.iter().find(holds).map_or(Level::Enough, |(level, _)| *level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_begins_at_its_share_of_the_limit_and_ends_a_little_below() {
        let pressure = Pressure::new(1_000_000);
        let levels: Vec<_> = [599, 600, 580, 569, 850, 899, 900, 875, 869, 100]
            .map(|thousandths| {
                pressure.note(thousandths * 1000);
                pressure.level()
            })
            .into();

        use Level::{Critical, Enough, Scarce, Short};
        assert_eq!(
            levels,
            [Enough, Scarce, Scarce, Enough, Short, Short, Critical, Critical, Short, Enough]
        );
        assert_eq!(pressure.used(), (100_000, 900_000));
    }

    #[test]
    fn a_change_is_said_once() {
        let pressure = Pressure::new(100);
        assert_eq!(
            [10, 95, 95, 10].map(|used| pressure.note(used)),
            [None, Some(Level::Critical), None, Some(Level::Enough)]
        );
    }

    #[test]
    fn who_publishes_waits_the_longer_the_less_is_left() {
        let pressure = Pressure::new(1000);
        let pauses = [599, 600, 700, 800, 1000, 5000].map(|used| {
            pressure.note(used);
            pressure.pause_ms()
        });
        assert_eq!(pauses, [0, 5, 25, 45, 85, 85]);
    }

    #[test]
    fn without_a_limit_there_is_always_enough() {
        let pressure = Pressure::new(0);
        assert_eq!(pressure.note(u64::MAX), None);
        assert_eq!((pressure.level(), pressure.pause_ms()), (Level::Enough, 0));
    }
}
