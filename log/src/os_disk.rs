//! The disk of the operating system, below one root directory.
//!
//! Straight calls, no caching and no retry: what the kernel says is what the caller hears, with operation and path
//! added. Paths that could leave the root are refused.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{DirEntry, Disk, DiskFile, Space};
use crate::disk_error::{at, names};

/// A directory of the operating system. Clones share it.
#[derive(Clone, Debug)]
pub struct OsDisk {
    root: Arc<PathBuf>,
}

/// An open file of the operating system.
#[derive(Clone, Debug)]
pub struct OsFile {
    file: Arc<File>,
    /// The path it was opened under, for messages only: a rename does not change it.
    path: Arc<PathBuf>,
}

/// An exclusive `flock`, held until dropped. Advisory, and not to be trusted on network file systems.
#[derive(Debug)]
pub struct OsLock {
    _file: File,
}

impl OsDisk {
    /// Opens the directory `root`, creating it and its parents when missing.
    pub fn new(root: PathBuf) -> io::Result<OsDisk> {
        fs::create_dir_all(&root).map_err(|error| at("create directory", &root, error))?;
        Ok(OsDisk { root: Arc::new(root) })
    }

    /// Returns the root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn full(&self, operation: &'static str, path: &Path) -> io::Result<PathBuf> {
        let names = names(path).map_err(|error| at(operation, path, error))?;
        let mut full = self.root.to_path_buf();
        full.extend(names);
        Ok(full)
    }

    fn open_with(
        &self,
        operation: &'static str,
        path: &Path,
        options: &OpenOptions,
    ) -> io::Result<OsFile> {
        let full = self.full(operation, path)?;
        let open = || {
            let file = options.open(&full)?;
            // Reading a directory would fail only later, at the first read.
            if file.metadata()?.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            Ok(Arc::new(file))
        };
        let file = open().map_err(|error| at(operation, &full, error))?;
        Ok(OsFile { file, path: Arc::new(full) })
    }
}

impl Disk for OsDisk {
    type File = OsFile;
    type Lock = OsLock;

    fn create(&self, path: &Path) -> io::Result<OsFile> {
        self.open_with("create", path, OpenOptions::new().read(true).write(true).create_new(true))
    }

    fn open(&self, path: &Path) -> io::Result<OsFile> {
        self.open_with("open", path, OpenOptions::new().read(true).write(true))
    }

    fn open_read(&self, path: &Path) -> io::Result<OsFile> {
        self.open_with("open", path, OpenOptions::new().read(true))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let full = self.full("list", dir)?;
        let read = || {
            let mut entries = Vec::new();
            for entry in fs::read_dir(&full)? {
                let entry = entry?;
                let is_dir = entry.file_type()?.is_dir();
                let name =
                    entry.file_name().into_string().map_err(|_| io::ErrorKind::InvalidData)?;
                entries.push(DirEntry { name, is_dir });
            }
            entries.sort_by(|left, right| left.name.cmp(&right.name));
            Ok(entries)
        };
        read().map_err(|error| at("list", &full, error))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let full = self.full("create directory", dir)?;
        fs::create_dir_all(&full).map_err(|error| at("create directory", &full, error))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let from = self.full("rename", from)?;
        let to = self.full("rename to", to)?;
        fs::rename(&from, &to)
            .map_err(|error| at("rename to", &to, error))
            .map_err(|error| at("rename", &from, error))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let full = self.full("remove", path)?;
        fs::remove_file(&full).map_err(|error| at("remove", &full, error))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let full = self.full("remove directory", dir)?;
        fs::remove_dir(&full).map_err(|error| at("remove directory", &full, error))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let full = self.full("sync directory", dir)?;
        let sync = || {
            let opened = File::open(&full)?;
            if !opened.metadata()?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            opened.sync_all()
        };
        sync().map_err(|error| at("sync directory", &full, error))
    }

    fn lock(&self, path: &Path) -> io::Result<OsLock> {
        let full = self.full("lock", path)?;
        let lock = || {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&full)?;
            fs2::FileExt::try_lock_exclusive(&file)?;
            Ok(OsLock { _file: file })
        };
        lock().map_err(|error| at("lock", &full, error))
    }

    fn space(&self) -> io::Result<Space> {
        let space = || {
            let available = fs2::available_space(&*self.root)?;
            Ok(Space { available, total: fs2::total_space(&*self.root)? })
        };
        space().map_err(|error| at("measure", &self.root, error))
    }
}

impl DiskFile for OsFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position).map_err(|error| at("read", &self.path, error))
    }

    fn write_at(&self, data: &[u8], position: u64) -> io::Result<usize> {
        self.file.write_at(data, position).map_err(|error| at("write", &self.path, error))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|error| at("sync", &self.path, error))
    }

    fn len(&self) -> io::Result<u64> {
        let metadata = self.file.metadata().map_err(|error| at("measure", &self.path, error))?;
        Ok(metadata.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk_error::raw_os_error;

    #[test]
    fn what_is_written_is_read_back_after_reopening() {
        let root = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(root.path().join("a/b")).unwrap();
        let file = disk.create(Path::new("x")).unwrap();
        file.write_all_at(b"hello", 3).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("")).unwrap();

        let reopened = OsDisk::new(root.path().join("a/b")).unwrap();
        let file = reopened.open_read(Path::new("x")).unwrap();
        let mut bytes = [1; 8];
        file.read_exact_at(&mut bytes, 0).unwrap();

        assert_eq!(&bytes, b"\0\0\0hello");
        assert_eq!(file.len().unwrap(), 8);
    }

    #[test]
    fn a_held_lock_answers_would_block_until_dropped() {
        let root = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(root.path().to_owned()).unwrap();
        let held = disk.lock(Path::new("LOCK")).unwrap();

        let refused = disk.lock(Path::new("LOCK")).expect_err("the lock is held");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);

        drop(held);
        disk.lock(Path::new("LOCK")).unwrap();
    }

    #[test]
    fn an_error_names_the_file_and_keeps_the_number_of_the_system() {
        const ENOENT: i32 = 2;
        let root = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(root.path().to_owned()).unwrap();

        let error = disk.open(Path::new("log/7.seg")).expect_err("there is no such file");

        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(raw_os_error(&error), Some(ENOENT));
        assert!(error.to_string().contains("log/7.seg"), "{error}");
    }

    #[test]
    fn room_is_reported_and_the_root_cannot_be_left() {
        let root = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(root.path().join("data")).unwrap();

        let space = disk.space().unwrap();
        let escape = disk.create(Path::new("../x")).expect_err("outside of the root");

        assert!(space.total > 0 && space.available <= space.total, "{space:?}");
        assert_eq!(escape.kind(), io::ErrorKind::InvalidInput);
        assert!(!root.path().join("x").exists());
    }
}
