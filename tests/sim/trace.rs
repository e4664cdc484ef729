//! What happened, as a hash always and as text when somebody reads it.

use std::fmt::Write;

use xxhash_rust::xxh3::xxh3_64;

/// The trace of one run.
pub struct Trace {
    hash: u64,
    text: Option<String>,
}

impl Trace {
    pub fn new(is_read: bool) -> Trace {
        Trace { hash: 0, text: is_read.then(String::new) }
    }

    /// Notes an event: its numbers go into the hash, its words into the text.
    pub fn note(&mut self, now: u64, kind: &str, numbers: &[u64], words: impl FnOnce() -> String) {
        let mut hash = self.hash ^ now;
        for number in numbers.iter().chain([&xxh3_64(kind.as_bytes())]) {
            hash = (hash.rotate_left(23) ^ number).wrapping_mul(0x9fb2_1c65_1e98_df25);
            hash ^= hash >> 32;
        }
        self.hash = hash;
        if let Some(text) = &mut self.text {
            let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
            let _ = writeln!(text, "{seconds:3}.{micros:06} {kind:<10} {}", words());
        }
    }

    /// True when somebody reads it.
    pub fn is_read(&self) -> bool {
        self.text.is_some()
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}
