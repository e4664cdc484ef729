//! Deliberate defects the crash suite must catch: a checker that never caught one is decoration.
//!
//! Compiled only with the feature `planted-bugs`, and even then off until switched on by name. Without the feature every
//! question here is a constant `false`.

/// One defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedBug {
    /// A flush reports success without syncing.
    AckBeforeFlush,
    /// Directory entries are never synced.
    SkipDirectorySync,
    /// Recovery cuts the log at any bad record, proven or not.
    TruncateAtAnyBadRecord,
    /// A frame claims that what was only written before it is synced.
    ClaimUnsynced,
}

impl PlantedBug {
    /// All of them, for suites that must catch each.
    pub const ALL: [PlantedBug; 4] = [
        PlantedBug::AckBeforeFlush,
        PlantedBug::SkipDirectorySync,
        PlantedBug::TruncateAtAnyBadRecord,
        PlantedBug::ClaimUnsynced,
    ];

    /// Returns the name it is switched on by.
    pub fn name(self) -> &'static str {
        match self {
            PlantedBug::AckBeforeFlush => "ack-before-flush",
            PlantedBug::SkipDirectorySync => "skip-directory-sync",
            PlantedBug::TruncateAtAnyBadRecord => "truncate-at-any-bad-record",
            PlantedBug::ClaimUnsynced => "claim-unsynced",
        }
    }

    /// Returns the defect of a name.
    pub fn from_name(name: &str) -> Option<PlantedBug> {
        PlantedBug::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::PlantedBug;

    /// One bit a defect, for the whole process: flushes run on threads of their own.
    static ON: AtomicU8 = AtomicU8::new(0);

    /// Switches one defect on and all others off; `None` switches all off.
    pub fn plant(bug: Option<PlantedBug>) {
        ON.store(bug.map_or(0, |bug| 1 << bug as u8), Ordering::SeqCst);
    }

    pub(crate) fn is_planted(bug: PlantedBug) -> bool {
        ON.load(Ordering::SeqCst) & (1 << bug as u8) != 0
    }
}

#[cfg(feature = "planted-bugs")]
pub(crate) use switch::is_planted;
#[cfg(feature = "planted-bugs")]
pub use switch::plant;

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is_planted(_: PlantedBug) -> bool {
    false
}
