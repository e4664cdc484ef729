//! A disk that keeps what is written away from the directory it shows: reads fall through to that directory until a file was written,
//! and what was written lies in another one, to be looked at, taken over, or thrown away.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use fluxmq_log::disk::{DirEntry, Disk, DiskFile, Space};
use fluxmq_log::os_disk::{OsDisk, OsFile, OsLock};

/// How much is copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// The directory that is shown, and what was done to it.
#[derive(Clone, Debug)]
pub(super) struct Overlay {
    below: OsDisk,
    /// Files that were created or changed.
    written: OsDisk,
    /// An empty file for each that was removed below.
    gone: OsDisk,
}

/// Where an overlay keeps what is written; removed with all of it when dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a directory that nobody else uses.
    pub(super) fn new() -> io::Result<Scratch> {
        let parent = std::env::temp_dir();
        for number in 0..u32::MAX {
            let dir = parent.join(format!("wal-tools-{}-{number}", std::process::id()));
            match fs::create_dir(&dir) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return made.map(|()| Scratch(dir)),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is in the way of nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Overlay {
    /// Shows a directory.
    pub(super) fn new(below: OsDisk, scratch: &Scratch) -> io::Result<Overlay> {
        let written = OsDisk::new(scratch.0.join("written"))?;
        let gone = OsDisk::new(scratch.0.join("gone"))?;
        Ok(Overlay { below, written, gone })
    }

    /// Returns where the new content of a file is; `None` when it was not written.
    pub(super) fn written(&self, path: &Path) -> Option<PathBuf> {
        let there = has(&self.written, path);
        there.then(|| self.written.root().join(path))
    }

    fn is_below(&self, path: &Path) -> bool {
        has(&self.below, path) && !has(&self.gone, path)
    }

    /// Has a file among those written, copying it if need be.
    fn take_up(&self, path: &Path) -> io::Result<()> {
        if has(&self.written, path) {
            return Ok(());
        }
        if has(&self.gone, path) {
            return Err(ErrorKind::NotFound.into());
        }
        let from = self.below.open_read(path)?;
        self.make_room(path)?;
        let to = self.written.create(path)?;
        let (mut at, len) = (0, from.len()?);
        while at < len {
            let mut piece = vec![0; (len - at).min(COPY_BYTES) as usize];
            from.read_exact_at(&mut piece, at)?;
            to.write_all_at(&piece, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn make_room(&self, path: &Path) -> io::Result<()> {
        if has(&self.gone, path) {
            self.gone.remove(path)?;
        }
        self.written.create_dir_all(path.parent().unwrap_or(Path::new("")))
    }

    fn mark_gone(&self, path: &Path) -> io::Result<()> {
        if self.is_below(path) {
            self.gone.create_dir_all(path.parent().unwrap_or(Path::new("")))?;
            self.gone.create(path)?;
        }
        Ok(())
    }
}

impl Disk for Overlay {
    type File = OsFile;
    type Lock = OsLock;

    fn create(&self, path: &Path) -> io::Result<OsFile> {
        if self.is_below(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.make_room(path)?;
        self.written.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<OsFile> {
        self.take_up(path)?;
        self.written.open(path)
    }

    fn open_read(&self, path: &Path) -> io::Result<OsFile> {
        if has(&self.written, path) {
            return self.written.open_read(path);
        }
        if has(&self.gone, path) {
            return Err(ErrorKind::NotFound.into());
        }
        self.below.open_read(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let list = |disk: &OsDisk| match disk.list(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            listed => listed.map(Some),
        };
        let (below, written) = (list(&self.below)?, list(&self.written)?);
        if below.is_none() && written.is_none() {
            return Err(ErrorKind::NotFound.into());
        }
        let mut entries = BTreeMap::new();
        let kept = below.into_iter().flatten();
        let kept = kept.filter(|entry| !has(&self.gone, &dir.join(&entry.name)));
        for entry in kept.chain(written.into_iter().flatten()) {
            entries.insert(entry.name.clone(), entry);
        }
        Ok(entries.into_values().collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.written.create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.take_up(from)?;
        self.make_room(to)?;
        self.written.rename(from, to)?;
        self.mark_gone(from)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let is_below = self.is_below(path);
        if has(&self.written, path) {
            self.written.remove(path)?;
        } else if !is_below {
            return Err(ErrorKind::NotFound.into());
        }
        self.mark_gone(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        match self.list(dir)?.is_empty() {
            // An empty directory below shows nothing, there or not.
            true => Ok(()),
            false => Err(ErrorKind::DirectoryNotEmpty.into()),
        }
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        // Nothing here must survive a power cut.
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<OsLock> {
        self.written.lock(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.written.space()
    }
}

fn has(disk: &OsDisk, path: &Path) -> bool {
    disk.open_read(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &impl Disk, path: &str) -> io::Result<Vec<u8>> {
        let file = disk.open_read(Path::new(path))?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn names(disk: &impl Disk, dir: &str) -> Vec<String> {
        disk.list(Path::new(dir)).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn what_is_done_is_seen_and_the_directory_below_stays_as_it_is() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("d")).unwrap();
        for name in ["kept", "changed", "removed", "renamed"] {
            fs::write(data.path().join("d").join(name), name).unwrap();
        }
        let scratch = Scratch::new().unwrap();
        let below = OsDisk::new(data.path().to_owned()).unwrap();
        let disk = Overlay::new(below, &scratch).unwrap();

        disk.open(Path::new("d/changed")).unwrap().write_all_at(b"CH", 0).unwrap();
        disk.remove(Path::new("d/removed")).unwrap();
        disk.rename(Path::new("d/renamed"), Path::new("d/new")).unwrap();
        disk.create(Path::new("e/created")).unwrap().write_all_at(b"x", 0).unwrap();

        assert_eq!(names(&disk, "d"), ["changed", "kept", "new"]);
        assert_eq!(names(&disk, "e"), ["created"]);
        assert_eq!(read(&disk, "d/changed").unwrap(), b"CHanged");
        assert_eq!(read(&disk, "d/new").unwrap(), b"renamed");
        for gone in ["d/removed", "d/renamed"] {
            assert_eq!(read(&disk, gone).unwrap_err().kind(), ErrorKind::NotFound);
            assert_eq!(disk.remove(Path::new(gone)).unwrap_err().kind(), ErrorKind::NotFound);
        }
        disk.create(Path::new("d/removed")).unwrap();
        assert_eq!(read(&disk, "d/removed").unwrap(), b"");
        assert!(disk.create(Path::new("d/kept")).is_err());
        assert!(disk.written(Path::new("d/kept")).is_none());

        assert_eq!(fs::read(data.path().join("d/changed")).unwrap(), b"changed");
        assert_eq!(fs::read_dir(data.path().join("d")).unwrap().count(), 4);
        let place = scratch.0.clone();
        drop(scratch);
        assert!(!place.exists());
    }
}
