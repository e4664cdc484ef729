//! The network between nodes: every message may be lost, late, early or twice, and links may be cut in one direction.

use std::collections::BTreeSet;

use crate::random::Random;

/// How messages travel at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Of a thousand messages, how many are lost.
    pub loss: u64,
    /// Of a thousand, how many arrive twice.
    pub twice: u64,
    /// Microseconds on the way, at least.
    pub delay_min: u64,
    /// Of a thousand, how many take up to `late_max` more, overtaken by others.
    pub late: u64,
    pub late_max: u64,
}

/// All links.
pub struct Network {
    pub weather: Weather,
    /// From, to.
    cut: BTreeSet<(usize, usize)>,
}

pub const CALM: Weather = Weather { loss: 0, twice: 0, delay_min: 200, late: 0, late_max: 1 };

impl Network {
    pub fn new() -> Network {
        Network { weather: CALM, cut: BTreeSet::new() }
    }

    /// Returns after how many microseconds each copy of a message arrives.
    pub fn send(&self, from: usize, to: usize, random: &mut Random) -> Vec<u64> {
        let Weather { loss, twice, delay_min, late, late_max } = self.weather;
        if self.is_cut(from, to) || random.chance(loss) {
            return Vec::new();
        }
        let copies = 1 + u64::from(random.chance(twice));
        let delay = |random: &mut Random| {
            let lateness = if random.chance(late) { random.below(late_max) } else { 0 };
            delay_min + random.below(delay_min) + lateness
        };
        (0..copies).map(|_| delay(random)).collect()
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Cuts a link in one direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Mends all links.
    pub fn mend(&mut self) {
        self.cut.clear();
    }

    pub fn heal(&mut self) {
        self.mend();
        self.weather = CALM;
    }
}
