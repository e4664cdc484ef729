//! A model of a disk and the page cache above it, in memory, seeded and deterministic, that does to us what disks do.
//!
//! Sectors of 512 bytes written but not synced may be lost, kept or torn by a power cut, directory entries not synced
//! may be missing, a failed sync drops what it should have written, space ends, bits rot. See [`Crash`] and [`Faults`].
//!
//! Clones of a `SimDisk` are the same disk, as two processes on a machine have the same disk: hence the mutex, which
//! stands for hardware and is no pattern for the log. [`SimDisk::crash`] returns another, independent disk.
//!
//! What a volume is: `sim_disk/volume.rs`. What a crash leaves of it: `sim_disk/crash.rs`.

mod content;
mod crash;
mod faults;
mod random;
mod state;
#[cfg(test)]
mod tests;
mod volume;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::crash::Crash;
pub use self::faults::{Faults, NameFault, ReadFault, SyncFault, WriteFault};

use self::faults::Progress;
use self::state::State;
use self::volume::{Inode, InodeId, Landing, ROOT, Volume};
use crate::disk::{DirEntry, Disk, DiskFile, Space};
use crate::disk_error::{at, names};

/// Room on a disk nobody gave a capacity: a file costs its length, holes included.
const CAPACITY_DEFAULT_BYTES: u64 = 16 << 30;

const EIO: i32 = 5;
const EBADF: i32 = 9;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

/// Called after every operation that may change the disk, also one that failed. It must only read and take images.
pub type Observer = Arc<dyn Fn(&SimDisk) + Send + Sync>;

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// An open file of a simulated disk.
#[derive(Clone)]
pub struct SimFile {
    handle: Arc<Handle>,
}

/// An exclusive lock on a simulated disk, held until dropped.
pub struct SimLock {
    disk: SimDisk,
    inode: InodeId,
}

/// The power went at this operation, by [`SimDisk::set_crash_after`]: nothing works any more, take a crash image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the simulated disk lost power at operation {operation}")]
pub struct PowerLoss {
    /// The operation that failed first, counted from 1.
    pub operation: u64,
}

struct Handle {
    disk: SimDisk,
    inode: InodeId,
    /// The path it was opened under, for messages only.
    path: PathBuf,
    is_writable: bool,
}

/// Returns true for the error of every call after the power went.
pub fn is_power_loss(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<PowerLoss>())
}

impl SimDisk {
    /// Returns an empty disk without faults. The seed decides nothing but which reads and writes are short.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::boot(Volume::new(), CAPACITY_DEFAULT_BYTES, seed)
    }

    /// Returns the disk as the next boot finds it if the power goes now. The running disk goes on undisturbed.
    pub fn crash(&self, seed: u64) -> SimDisk {
        self.crash_image(Crash::PowerCut { seed })
    }

    /// Returns the disk as it is found after a crash at this moment.
    ///
    /// The image is independent, has no locks, open files, faults or observer, counts its operations from 0 and keeps
    /// the capacity. Costs microseconds: what the crash did not change is shared.
    pub fn crash_image(&self, crash: Crash) -> SimDisk {
        let state = self.state();
        let seed = match crash {
            Crash::PowerCut { seed } => seed,
            Crash::Process | Crash::LoseUnsynced => 0,
        };
        SimDisk::boot(state.volume.after(crash), state.capacity_bytes, seed)
    }

    /// Replaces the plan of faults; its counts start with the next call.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = Progress::new(faults);
    }

    /// Sets how many bytes fit on the disk. Less than is used only refuses more.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity_bytes = bytes;
    }

    /// Lets the power go at the n-th operation of this disk, counted from 1 as by [`SimDisk::operations`].
    ///
    /// That operation does nothing, and it and every later call fail with [`PowerLoss`].
    pub fn set_crash_after(&self, operation: u64) {
        self.state().power_loss_at = Some(operation);
    }

    /// Calls `observer` after every operation that may change the disk; `None` stops it.
    pub fn set_observer(&self, observer: Option<Observer>) {
        self.state().observer = observer;
    }

    /// Flips one bit of a file on the disk. A reader sees it, unless the sector waits in the page cache to be written.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        let position = bit / 8;
        self.damage("flip a bit of", path, position..position + 1, |_, byte| {
            byte ^ (1 << (bit % 8))
        })
    }

    /// Zeroes a range of a file on the disk, as a lost block reads.
    pub fn zero(&self, path: &Path, range: Range<u64>) -> io::Result<()> {
        self.damage("zero a block of", path, range, |_, _| 0)
    }

    /// Returns how many operations that may change the disk were tried, failed ones included.
    pub fn operations(&self) -> u64 {
        self.state().operation_count
    }

    /// Returns true once the power went by [`SimDisk::set_crash_after`].
    pub fn has_lost_power(&self) -> bool {
        self.state().has_lost_power()
    }

    /// Returns how many sector writes and directory edits a power cut could lose now. At 0 all seeds leave one image.
    pub fn unsynced_count(&self) -> usize {
        let count = |inode: &Arc<Inode>| match inode.as_ref() {
            Inode::File(file) => file.pending.len(),
            Inode::Dir(dir) => dir.pending.len(),
        };
        self.state().volume.inodes.values().map(count).sum()
    }

    /// Returns every file with its bytes as a reader sees them, and every directory without.
    pub fn contents(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let state = self.state();
        let mut contents = BTreeMap::new();
        let mut unread = vec![(PathBuf::new(), ROOT)];
        while let Some((path, id)) = unread.pop() {
            let bytes = match state.volume.dir(id) {
                Ok(dir) => {
                    unread.extend(dir.cache.iter().map(|(name, id)| (path.join(name), *id)));
                    None
                }
                Err(_) => {
                    let cache = &state.volume.file(id).cache;
                    let mut bytes = vec![0; cache.len() as usize];
                    cache.read(&mut bytes, 0);
                    Some(bytes)
                }
            };
            contents.insert(path, bytes);
        }
        contents.remove(Path::new(""));
        contents
    }

    fn boot(volume: Volume, capacity_bytes: u64, seed: u64) -> SimDisk {
        let state = State::new(volume, capacity_bytes, seed);
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    fn damage(
        &self,
        operation: &'static str,
        path: &Path,
        range: Range<u64>,
        change: impl Fn(u64, u8) -> u8,
    ) -> io::Result<()> {
        let mut state = self.state();
        let damage = || {
            let id = state.resolve_file(path)?;
            state.volume.file_mut(id).damage(range.start, range.end, change);
            Ok(())
        };
        damage().map_err(|error| at(operation, path, error))
    }

    /// Runs a call that changes nothing.
    fn ask<T>(
        &self,
        operation: &'static str,
        path: &Path,
        call: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        state.check_power()?;
        call(&mut state).map_err(|error| at(operation, path, error))
    }

    /// Runs a call that may change the disk: counted, refused without power, and observed.
    fn change<T>(
        &self,
        operation: &'static str,
        path: &Path,
        call: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        state.check_power()?;
        state.operation_count += 1;
        state.check_power()?;
        let result = call(&mut state).map_err(|error| at(operation, path, error));
        let observer = state.observer.clone();
        drop(state);
        if let Some(observer) = observer {
            observer(self);
        }
        result
    }

    fn open_handle(
        &self,
        operation: &'static str,
        path: &Path,
        is_writable: bool,
    ) -> io::Result<SimFile> {
        let inode = self.ask(operation, path, |state| {
            state.check_name_fault()?;
            let inode = state.resolve_file(path)?;
            *state.open.entry(inode).or_default() += 1;
            Ok(inode)
        })?;
        Ok(self.handle(inode, path, is_writable))
    }

    fn handle(&self, inode: InodeId, path: &Path, is_writable: bool) -> SimFile {
        let path = path.to_owned();
        SimFile { handle: Arc::new(Handle { disk: self.clone(), inode, path, is_writable }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a failed assertion of a test; others may still look at the disk.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        let inode = self.change("create", path, |state| {
            state.check_name_fault()?;
            state.check_room()?;
            let inode = state.volume.create_file(&names(path)?)?;
            state.open.insert(inode, 1);
            Ok(inode)
        })?;
        Ok(self.handle(inode, path, true))
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        self.open_handle("open", path, true)
    }

    fn open_read(&self, path: &Path) -> io::Result<SimFile> {
        self.open_handle("open", path, false)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.ask("list", dir, |state| {
            state.check_name_fault()?;
            let volume = &state.volume;
            let id = volume.resolve(&names(dir)?)?;
            let entry = |(name, id): (&String, &InodeId)| DirEntry {
                name: name.clone(),
                is_dir: volume.is_dir(*id),
            };
            Ok(volume.dir(id)?.cache.iter().map(entry).collect())
        })
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.change("create directory", dir, |state| {
            state.check_name_fault()?;
            let names = names(dir)?;
            if state.volume.resolve(&names).is_err() {
                state.check_room()?;
            }
            state.volume.create_dir_all(&names)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let result = self.change("rename to", to, |state| {
            state.check_name_fault()?;
            if let Some(lost) = state.volume.rename(&names(from)?, &names(to)?)? {
                state.release_if_unused(lost);
            }
            Ok(())
        });
        result.map_err(
            |error| {
                if is_power_loss(&error) { error } else { at("rename", from, error) }
            },
        )
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change("remove", path, |state| {
            state.check_name_fault()?;
            let inode = state.volume.remove_file(&names(path)?)?;
            state.release_if_unused(inode);
            Ok(())
        })
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.change("remove directory", dir, |state| {
            state.check_name_fault()?;
            state.volume.remove_dir(&names(dir)?)
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change("sync directory", dir, |state| {
            let fault = state.faults.next_sync();
            let id = state.volume.resolve(&names(dir)?)?;
            state.volume.dir(id)?;
            match fault {
                None => state.volume.sync_dir(id)?,
                Some(SyncFault::Lie) => return Ok(()),
                Some(SyncFault::Error) => return Err(io::Error::from_raw_os_error(EIO)),
                // Directory entries have no second copy to go back to: the cached ones stay.
                Some(SyncFault::DropKeepingCache | SyncFault::DropWithCache) => {
                    state.volume.drop_edits(id);
                    return Err(io::Error::from_raw_os_error(EIO));
                }
            }
            let State { volume, open, .. } = state;
            volume.collect(open);
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<SimLock> {
        self.change("lock", path, |state| {
            state.check_name_fault()?;
            let inode = match state.resolve_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    state.check_room()?;
                    state.volume.create_file(&names(path)?)?
                }
                found => found?,
            };
            if !state.locks.insert(inode) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            *state.open.entry(inode).or_default() += 1;
            Ok(SimLock { disk: self.clone(), inode })
        })
    }

    fn space(&self) -> io::Result<Space> {
        self.ask("measure", Path::new(""), |state| {
            Ok(Space { available: state.available(), total: state.capacity_bytes })
        })
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let Handle { disk, inode, path, .. } = &*self.handle;
        disk.ask("read", path, |state| {
            let fault = state.faults.next_read();
            let mut limit = state.short(buffer.len());
            match fault {
                Some(ReadFault::Error) => return Err(io::Error::from_raw_os_error(EIO)),
                Some(ReadFault::Interrupted) => return Err(io::ErrorKind::Interrupted.into()),
                Some(ReadFault::Short { bytes_max }) => limit = limit.min(bytes_max),
                Some(ReadFault::FlippedBit { .. }) | None => {}
            }
            let count = state.volume.file(*inode).cache.read(&mut buffer[..limit], position);
            if let Some(ReadFault::FlippedBit { bit }) = fault
                && count > 0
            {
                let bit = bit % (count as u64 * 8);
                buffer[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
            Ok(count)
        })
    }

    fn write_at(&self, data: &[u8], position: u64) -> io::Result<usize> {
        let Handle { disk, inode, path, is_writable } = &*self.handle;
        disk.change("write", path, |state| {
            if !is_writable {
                return Err(io::Error::from_raw_os_error(EBADF));
            }
            let fault = state.faults.next_write();
            let mut limit = state.short(data.len());
            let mut landing = Landing::Right;
            match fault {
                Some(WriteFault::Error) => return Err(io::Error::from_raw_os_error(EIO)),
                Some(WriteFault::Interrupted) => return Err(io::ErrorKind::Interrupted.into()),
                Some(WriteFault::NoSpace) => return Err(io::Error::from_raw_os_error(ENOSPC)),
                Some(WriteFault::Short { bytes_max }) => limit = limit.min(bytes_max),
                Some(WriteFault::Lost) => landing = Landing::Nowhere,
                Some(WriteFault::Misdirected { sectors }) => {
                    landing = Landing::TooFar { sectors };
                }
                None => {}
            }
            state.write(*inode, &data[..limit], position, landing)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let Handle { disk, inode, path, .. } = &*self.handle;
        disk.change("sync", path, |state| {
            let fault = state.faults.next_sync();
            let file = state.volume.file_mut(*inode);
            match fault {
                None => file.sync(),
                Some(SyncFault::Lie) => return Ok(()),
                Some(SyncFault::Error) => return Err(io::Error::from_raw_os_error(EIO)),
                Some(dropping @ (SyncFault::DropKeepingCache | SyncFault::DropWithCache)) => {
                    file.drop_pending(dropping == SyncFault::DropKeepingCache);
                    return Err(io::Error::from_raw_os_error(EIO));
                }
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        let Handle { disk, inode, path, .. } = &*self.handle;
        disk.ask("measure", path, |state| Ok(state.volume.file(*inode).cache.len()))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.disk.state().close(self.inode);
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        state.locks.remove(&self.inode);
        state.close(self.inode);
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation_count = self.operations();
        formatter.debug_struct("SimDisk").field("operation_count", &operation_count).finish()
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SimFile").field("path", &self.handle.path).finish()
    }
}

impl fmt::Debug for SimLock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SimLock").field("inode", &self.inode).finish()
    }
}
