//! The seeded choices of the simulated disk.
//!
//! SplitMix64: small, fast, equally distributed, the same on every machine. Not for secrets.

/// A stream of choices; the same seed gives the same stream.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `limit`. Panics if `limit` is 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "nothing to choose from");
        // The high word of the product: unbiased enough for limits far below 2^64, and no division.
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// Answers yes `count` times out of `of`.
    pub(super) fn chance(&mut self, count: u64, of: u64) -> bool {
        self.below(of) < count
    }
}
