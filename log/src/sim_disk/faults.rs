//! The plan of what goes wrong, and when.
//!
//! Counted in calls of one kind since the plan was given, from 1; nothing is left to chance unless asked for.

use std::collections::BTreeMap;

/// What goes wrong on a disk. The default is nothing.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// By number of the `read_at`.
    pub reads: BTreeMap<u64, ReadFault>,
    /// By number of the `write_at`.
    pub writes: BTreeMap<u64, WriteFault>,
    /// By number of the `sync_data` or `sync_dir`, counted together.
    pub syncs: BTreeMap<u64, SyncFault>,
    /// By number of the call that names a path: create, open, list, create_dir_all, rename, remove, remove_dir, lock.
    pub names: BTreeMap<u64, NameFault>,
    /// Every sync answers `Ok` and does nothing. Only shows what breaks on a disk that lies.
    pub all_syncs_lie: bool,
    /// Of 1024 reads and writes, how many move fewer bytes than asked, by the seed of the disk.
    pub short_per_1024: u16,
}

/// What goes wrong with one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// EIO.
    Error,
    /// Interrupted by a signal: the caller has to try again.
    Interrupted,
    /// At most so many bytes are read.
    Short {
        /// The bytes read at most.
        bytes_max: usize,
    },
    /// One bit is wrong in this answer only; the disk is fine.
    FlippedBit {
        /// Which bit of the bytes read, modulo their number.
        bit: u64,
    },
}

/// What goes wrong with one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// EIO, nothing written.
    Error,
    /// Interrupted by a signal, nothing written: the caller has to try again.
    Interrupted,
    /// ENOSPC, nothing written.
    NoSpace,
    /// At most so many bytes are written.
    Short {
        /// The bytes written at most.
        bytes_max: usize,
    },
    /// The page cache shows the write, a sync answers `Ok`, and the disk keeps the old sectors.
    Lost,
    /// The page cache shows the write; the disk puts it elsewhere in the same file.
    Misdirected {
        /// How many sectors too far.
        sectors: u64,
    },
}

/// What goes wrong with one sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncFault {
    /// EIO once: the dirty pages count as clean, the page cache still reads the new bytes, and the next sync answers
    /// `Ok` without writing them. They are gone at the next power cut.
    DropKeepingCache,
    /// EIO once, and the page cache reads the old bytes again.
    DropWithCache,
    /// EIO, and everything stays dirty: an honest disk. The next sync writes it.
    Error,
    /// `Ok`, and everything stays dirty.
    Lie,
}

/// What goes wrong with one call that names a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFault {
    /// EIO, nothing done.
    Error,
    /// ENOSPC, nothing done.
    NoSpace,
    /// EMFILE, nothing done.
    TooManyOpenFiles,
}

/// A plan and how far along it the disk is.
#[derive(Clone, Default)]
pub(super) struct Progress {
    pub(super) plan: Faults,
    reads: u64,
    writes: u64,
    syncs: u64,
    names: u64,
}

impl Progress {
    pub(super) fn new(plan: Faults) -> Progress {
        Progress { plan, ..Progress::default() }
    }

    pub(super) fn next_read(&mut self) -> Option<ReadFault> {
        self.reads += 1;
        self.plan.reads.get(&self.reads).copied()
    }

    pub(super) fn next_write(&mut self) -> Option<WriteFault> {
        self.writes += 1;
        self.plan.writes.get(&self.writes).copied()
    }

    pub(super) fn next_sync(&mut self) -> Option<SyncFault> {
        self.syncs += 1;
        let lie = self.plan.all_syncs_lie.then_some(SyncFault::Lie);
        self.plan.syncs.get(&self.syncs).copied().or(lie)
    }

    pub(super) fn next_name(&mut self) -> Option<NameFault> {
        self.names += 1;
        self.plan.names.get(&self.names).copied()
    }
}
