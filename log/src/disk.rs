//! The disk as the log sees it: every file operation goes through here.
//!
//! Two implementations: [`OsDisk`](crate::os_disk::OsDisk) is the operating system, `SimDisk` a seeded model of everything a disk
//! may do to us. The log cannot tell which it has. All paths are relative to the disk's root directory.
//!
//! What survives a power cut: bytes written before a `sync_data` of their file that returned `Ok`, and directory entries
//! created, renamed or removed before a `sync_dir` of their directory that returned `Ok`. Nothing else is promised.

use std::io;
use std::path::Path;

/// A directory tree of files.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file. Clones share the same file.
    type File: DiskFile;
    /// Held while the directory is locked; dropping it unlocks.
    type Lock: Send + 'static;

    /// Creates a file that must not exist, open for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens an existing file for reading only.
    fn open_read(&self, path: &Path) -> io::Result<Self::File>;
    /// Lists a directory, sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Creates a directory and its parents; existing ones are fine. Not durable before the parent's `sync_dir`.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file, replacing the target atomically. Not durable before `sync_dir`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Not durable before `sync_dir`.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory. Not durable before `sync_dir` of its parent.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the exclusive lock named by a file, creating it; `WouldBlock` when another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Self::Lock>;
    /// Returns how much room the file system has.
    fn space(&self) -> io::Result<Space>;
}

/// One open file.
pub trait DiskFile: Clone + Send + Sync + 'static {
    /// Reads up to `buffer.len()` bytes at `position`; fewer at the end of the file, or when the disk feels like it.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes up to `data.len()` bytes at `position`, extending the file; may write fewer.
    fn write_at(&self, data: &[u8], position: u64) -> io::Result<usize>;
    /// Makes everything written so far durable (`fdatasync`). After an error nothing may be assumed of the unsynced bytes.
    fn sync_data(&self) -> io::Result<()>;
    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Returns true for a file of no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads exactly `buffer.len()` bytes; `UnexpectedEof` when the file ends first.
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], position + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `data`.
    fn write_all_at(&self, data: &[u8], position: u64) -> io::Result<()> {
        let mut done = 0;
        while done < data.len() {
            match self.write_at(&data[done..], position + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name without its directory.
    pub name: String,
    /// True for a directory.
    pub is_dir: bool,
}

/// Room on a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What this process may still write.
    pub available: u64,
    /// The whole size.
    pub total: u64,
}
