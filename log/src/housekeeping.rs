//! What lies in a partition's directory, and what becomes of files that nothing refers to.
//!
//! Absence of metadata never deletes data: a file that is not ours, or that we cannot place, goes to `quarantine/` and stays
//! there. Only remains of our own unfinished steps are removed.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::layout::{
    AtPath, CURRENT, FileError, HARD_STATE, INDEX_SUFFIX, LOG_DIR, MANIFEST_PREFIX, QUARANTINE_DIR,
    SEGMENT_SUFFIX, SNAPSHOT_DIR, SNAPSHOT_SUFFIX, SPARE_DIR, SYNC_PROOF, TEMPORARY_SUFFIX, parent,
    parse_numbered, remove_if_there, sync_dir,
};

/// The files of a partition, by what their names say.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) manifests: Vec<u64>,
    pub(crate) segments: BTreeSet<u64>,
    pub(crate) snapshots: BTreeSet<u64>,
    /// Indexes, by the numbers of their segments.
    pub(crate) indexes: BTreeSet<u64>,
    /// Remains of unfinished steps, and spares.
    pub(crate) removable: Vec<PathBuf>,
    pub(crate) unknown: Vec<PathBuf>,
}

impl Found {
    /// Creates the directories that are missing, durably, and lists all.
    pub(crate) fn list<D: Disk>(disk: &D, dir: &Path) -> Result<Found, FileError> {
        // A directory whose parent's sync failed counts as clean in the page cache and is not on disk, so it is made once more.
        // The hard state is created after all of these syncs have succeeded: with it they are there.
        if disk.open_read(&dir.join(HARD_STATE)).is_err() {
            for name in [LOG_DIR, SNAPSHOT_DIR, SPARE_DIR, QUARANTINE_DIR] {
                remove_if_empty(disk, &dir.join(name))?;
            }
            remove_if_empty(disk, dir)?;
        }
        for name in [LOG_DIR, SNAPSHOT_DIR, SPARE_DIR, QUARANTINE_DIR] {
            let path = dir.join(name);
            disk.create_dir_all(&path).at(&path)?;
        }
        // Names that a killed process created or renamed must not vanish after they were relied on.
        for path in dir.ancestors() {
            sync_dir(disk, path)?;
        }
        for name in [LOG_DIR, SNAPSHOT_DIR, SPARE_DIR, QUARANTINE_DIR] {
            sync_dir(disk, &dir.join(name))?;
        }
        let mut found = Found::default();
        found.list_dir(disk, dir, |found, name| match name {
            CURRENT | HARD_STATE | SYNC_PROOF => true,
            _ => match name.strip_prefix(MANIFEST_PREFIX).and_then(|number| number.parse().ok()) {
                Some(number) => {
                    found.manifests.push(number);
                    true
                }
                None => false,
            },
        })?;
        found.list_dir(disk, &dir.join(LOG_DIR), |found, name| {
            let segment = parse_numbered(name, SEGMENT_SUFFIX);
            found.segments.extend(segment);
            let index = parse_numbered(name, INDEX_SUFFIX);
            found.indexes.extend(index);
            segment.is_some() || index.is_some()
        })?;
        found.list_dir(disk, &dir.join(SNAPSHOT_DIR), |found, name| {
            let snapshot = parse_numbered(name, SNAPSHOT_SUFFIX);
            found.snapshots.extend(snapshot);
            snapshot.is_some()
        })?;
        let spare_dir = dir.join(SPARE_DIR);
        for entry in disk.list(&spare_dir).at(&spare_dir)? {
            found.removable.push(spare_dir.join(entry.name));
        }
        Ok(found)
    }

    fn list_dir<D: Disk>(
        &mut self,
        disk: &D,
        dir: &Path,
        is_known: impl Fn(&mut Found, &str) -> bool,
    ) -> Result<(), FileError> {
        for entry in disk.list(dir).at(dir)? {
            // Directories of other parts, such as compacted segments, are not looked into.
            if entry.is_dir {
                continue;
            }
            let path = dir.join(&entry.name);
            if entry.name.ends_with(TEMPORARY_SUFFIX) {
                self.removable.push(path);
            } else if !is_known(self, &entry.name) {
                self.unknown.push(path);
            }
        }
        Ok(())
    }
}

/// Removes a directory that holds nothing and need not exist.
fn remove_if_empty<D: Disk>(disk: &D, dir: &Path) -> Result<(), FileError> {
    match disk.remove_dir(dir) {
        Err(error)
            if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) =>
        {
            Err(error).at(dir)
        }
        _ => Ok(()),
    }
}

/// Moves files out of the way, durably, and returns where they are now.
pub(crate) fn quarantine<D: Disk>(
    disk: &D,
    dir: &Path,
    paths: &[PathBuf],
) -> Result<Vec<PathBuf>, FileError> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let quarantine_dir = dir.join(QUARANTINE_DIR);
    let mut taken: BTreeSet<String> =
        disk.list(&quarantine_dir).at(&quarantine_dir)?.into_iter().map(|e| e.name).collect();
    let mut moved = Vec::new();
    for path in paths {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.expect("listed files have names");
        let mut free = name.clone();
        for number in 1.. {
            if !taken.contains(&free) {
                break;
            }
            free = format!("{name}.{number}");
        }
        let target = quarantine_dir.join(&free);
        disk.rename(path, &target).at(path)?;
        taken.insert(free);
        moved.push(target);
    }
    sync_dir(disk, &quarantine_dir)?;
    let sources: BTreeSet<&Path> = paths.iter().map(|path| parent(path)).collect();
    for source in sources {
        sync_dir(disk, source)?;
    }
    Ok(moved)
}

/// Removes files that need not exist. Whether that is durable does not matter: they would be removed again.
pub(crate) fn remove_all<D: Disk>(disk: &D, paths: &[PathBuf]) -> Result<(), FileError> {
    paths.iter().try_for_each(|path| remove_if_there(disk, path))
}
