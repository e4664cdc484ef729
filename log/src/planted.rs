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
    /// Every second flush reports success without syncing.
    SyncNowAndThen,
    /// Term and vote are written and not synced.
    VoteBeforeSync,
    /// What a peer sends to repair a segment is written with whatever body it has.
    RepairUnverified,
    /// What a peer sends to repair a segment is written whether or not it links to what is around it.
    RepairUnchained,
    /// Segments are removed before the manifest says that they may be.
    UnlinkBeforeEdit,
    /// The snapshot that the log begins after goes like any other that is old.
    BaseSnapshotDropped,
}

impl PlantedBug {
    /// All of them, for suites that must catch each.
    pub const ALL: [PlantedBug; 10] = [
        PlantedBug::AckBeforeFlush,
        PlantedBug::SkipDirectorySync,
        PlantedBug::TruncateAtAnyBadRecord,
        PlantedBug::ClaimUnsynced,
        PlantedBug::SyncNowAndThen,
        PlantedBug::VoteBeforeSync,
        PlantedBug::RepairUnverified,
        PlantedBug::RepairUnchained,
        PlantedBug::UnlinkBeforeEdit,
        PlantedBug::BaseSnapshotDropped,
    ];

    /// Returns the name it is switched on by.
    pub fn name(self) -> &'static str {
        match self {
            PlantedBug::AckBeforeFlush => "ack-before-flush",
            PlantedBug::SkipDirectorySync => "skip-directory-sync",
            PlantedBug::TruncateAtAnyBadRecord => "truncate-at-any-bad-record",
            PlantedBug::ClaimUnsynced => "claim-unsynced",
            PlantedBug::SyncNowAndThen => "sync-now-and-then",
            PlantedBug::VoteBeforeSync => "vote-before-sync",
            PlantedBug::RepairUnverified => "repair-unverified",
            PlantedBug::RepairUnchained => "repair-unchained",
            PlantedBug::UnlinkBeforeEdit => "unlink-before-edit",
            PlantedBug::BaseSnapshotDropped => "base-snapshot-dropped",
        }
    }

    /// Returns the defect of a name.
    pub fn from_name(name: &str) -> Option<PlantedBug> {
        PlantedBug::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    use super::PlantedBug;

    thread_local! {
        static ON: Cell<Option<PlantedBug>> = const { Cell::new(None) };
    }

    /// Switches one defect on for the calling thread, and all others off; `None` switches all off. Suites run a history, or a
    /// seed, on one thread, flushes included; another thread may have another defect.
    pub fn plant(bug: Option<PlantedBug>) {
        ON.set(bug);
    }

    pub(crate) fn is_planted(bug: PlantedBug) -> bool {
        ON.get() == Some(bug)
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
