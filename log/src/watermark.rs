//! When to stop accepting because the disk fills up: long before an append could fail.

use crate::disk::Space;

/// What may still be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watermark {
    /// Everything.
    Normal,
    /// No publishes; acknowledgements, trims and compaction go on.
    LowRefusePublishes,
    /// Nothing but what frees space.
    ReadOnly,
}

/// Where the watermarks lie: each is the larger of a share of the file system and a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatermarkOptions {
    /// Below this share of the whole, in percent, publishes are refused.
    pub low_percent: u64,
    /// Below this many bytes publishes are refused.
    pub low_bytes: u64,
    /// Below this share of the whole, in percent, the log is read-only.
    pub read_only_percent: u64,
    /// Below this many bytes the log is read-only.
    pub read_only_bytes: u64,
}

impl Default for WatermarkOptions {
    fn default() -> Self {
        WatermarkOptions {
            low_percent: 5,
            low_bytes: 1 << 30,
            read_only_percent: 2,
            read_only_bytes: 256 << 20,
        }
    }
}

impl Watermark {
    /// Returns the watermark at the default thresholds: max(5 %, 1 GiB) and max(2 %, 256 MiB).
    pub fn of(space: Space) -> Watermark {
        WatermarkOptions::default().watermark(space)
    }
}

impl WatermarkOptions {
    /// Returns the watermark at these thresholds.
    pub fn watermark(&self, space: Space) -> Watermark {
        let threshold = |percent: u64, bytes: u64| {
            let share = u128::from(space.total) * u128::from(percent) / 100;
            share.max(u128::from(bytes))
        };
        let available = u128::from(space.available);
        if available < threshold(self.read_only_percent, self.read_only_bytes) {
            Watermark::ReadOnly
        } else if available < threshold(self.low_percent, self.low_bytes) {
            Watermark::LowRefusePublishes
        } else {
            Watermark::Normal
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn watermark(available: u64, total: u64) -> Watermark {
        Watermark::of(Space { available, total })
    }

    #[test]
    fn the_larger_of_share_and_bytes_decides() {
        assert_eq!(watermark(50 * GIB, 1000 * GIB), Watermark::Normal);
        assert_eq!(watermark(50 * GIB - 1, 1000 * GIB), Watermark::LowRefusePublishes);
        assert_eq!(watermark(20 * GIB - 1, 1000 * GIB), Watermark::ReadOnly);
        assert_eq!(watermark(GIB, 4 * GIB), Watermark::Normal);
        assert_eq!(watermark(GIB - 1, 4 * GIB), Watermark::LowRefusePublishes);
        assert_eq!(watermark((256 << 20) - 1, 4 * GIB), Watermark::ReadOnly);
    }

    #[test]
    fn the_largest_disks_do_not_overflow() {
        assert_eq!(watermark(u64::MAX, u64::MAX), Watermark::Normal);
        assert_eq!(watermark(0, u64::MAX), Watermark::ReadOnly);
    }
}
