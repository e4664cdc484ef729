//! Random choices of a run, repeatable by a printed seed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Takes the seed from `FLUXMQ_SEED`, else from the clock, and prints it.
    pub fn of_run(test: &str) -> Rng {
        let from_clock = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            since.as_nanos() as u64
        };
        let seed = match std::env::var("FLUXMQ_SEED") {
            Ok(text) => text.parse().expect("FLUXMQ_SEED is a number"),
            Err(_) => from_clock(),
        };
        eprintln!("{test}: repeat the choices of this run with FLUXMQ_SEED={seed}");
        Rng(seed)
    }

    /// Returns a generator of its own, so that who asks first does not matter.
    pub fn fork(&mut self) -> Rng {
        Rng(self.next())
    }

    /// Returns a number from 0 up to, not including, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Returns true `percent` times out of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Returns a time shorter than `max`.
    pub fn time(&mut self, max: Duration) -> Duration {
        Duration::from_micros(self.below(max.as_micros() as u64))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
