//! Everything a simulated disk is behind its mutex: the volume, and what the machine around it knows.
//!
//! Room, open files, locks, power and the progress of the fault plan. No call of the log arrives here directly: the
//! order of checks and effects of each is in `../sim_disk.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::faults::{NameFault, Progress};
use super::random::Random;
use super::volume::{InodeId, Landing, Volume};
use super::{EIO, EMFILE, ENOSPC, Observer, PowerLoss};
use crate::disk_error::names;

/// The state all clones of a disk share.
pub(super) struct State {
    pub(super) volume: Volume,
    pub(super) capacity_bytes: u64,
    pub(super) faults: Progress,
    pub(super) random: Random,
    pub(super) operation_count: u64,
    pub(super) power_loss_at: Option<u64>,
    /// How many handles each open file has.
    pub(super) open: BTreeMap<InodeId, u32>,
    pub(super) locks: BTreeSet<InodeId>,
    pub(super) observer: Option<Observer>,
}

impl State {
    /// A machine just booted: nothing open, locked, planned or counted.
    pub(super) fn new(volume: Volume, capacity_bytes: u64, seed: u64) -> State {
        State {
            volume,
            capacity_bytes,
            faults: Progress::default(),
            random: Random::new(seed),
            operation_count: 0,
            power_loss_at: None,
            open: BTreeMap::new(),
            locks: BTreeSet::new(),
            observer: None,
        }
    }

    /// Writes what there is room for: all, some, or ENOSPC.
    pub(super) fn write(
        &mut self,
        inode: InodeId,
        data: &[u8],
        position: u64,
        landing: Landing,
    ) -> io::Result<usize> {
        let len = self.volume.file(inode).cache.len();
        let end_max = len.saturating_add(self.available());
        let count = data.len().min(end_max.saturating_sub(position) as usize);
        if count == 0 && !data.is_empty() {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        if count > 0 {
            self.volume.used_bytes += (position + count as u64).saturating_sub(len);
            self.volume.file_mut(inode).write(&data[..count], position, landing);
        }
        Ok(count)
    }

    /// Returns how many of so many bytes move: all, or by the plan fewer, never none.
    pub(super) fn short(&mut self, len: usize) -> usize {
        let share = u64::from(self.faults.plan.short_per_1024);
        if share == 0 || len < 2 || !self.random.chance(share, 1024) {
            return len;
        }
        1 + self.random.below(len as u64 - 1) as usize
    }

    /// Gives back the room of a file without name that is not open.
    pub(super) fn release_if_unused(&mut self, inode: InodeId) {
        let file = self.volume.file(inode);
        if file.link_count == 0 && !self.open.contains_key(&inode) {
            self.volume.used_bytes -= file.cache.len();
        }
    }

    pub(super) fn close(&mut self, inode: InodeId) {
        let count = self.open.get_mut(&inode).expect("an open file is counted");
        *count -= 1;
        if *count == 0 {
            self.open.remove(&inode);
            self.release_if_unused(inode);
        }
    }

    pub(super) fn check_power(&self) -> io::Result<()> {
        match self.power_loss_at {
            Some(operation) if self.has_lost_power() => {
                Err(io::Error::other(PowerLoss { operation }))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn check_name_fault(&mut self) -> io::Result<()> {
        match self.faults.next_name() {
            None => Ok(()),
            Some(NameFault::Error) => Err(io::Error::from_raw_os_error(EIO)),
            Some(NameFault::NoSpace) => Err(io::Error::from_raw_os_error(ENOSPC)),
            Some(NameFault::TooManyOpenFiles) => Err(io::Error::from_raw_os_error(EMFILE)),
        }
    }

    pub(super) fn check_room(&self) -> io::Result<()> {
        if self.available() == 0 {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        Ok(())
    }

    pub(super) fn has_lost_power(&self) -> bool {
        self.power_loss_at.is_some_and(|operation| self.operation_count >= operation)
    }

    pub(super) fn available(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.volume.used_bytes)
    }

    pub(super) fn resolve_file(&self, path: &Path) -> io::Result<InodeId> {
        let id = self.volume.resolve(&names(path)?)?;
        if self.volume.is_dir(id) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(id)
    }
}
