//! Names of files and the rules that make them durable: the one place that knows the directory of a partition.
//!
//! ```text
//! <partition>/hs.bin  sync.bin  CURRENT  manifest.<n>
//! <partition>/log/<segment_no:20>.seg  .six       <partition>/snap/<index:20>.snap
//! <partition>/spare/<n:20>.zero                   <partition>/quarantine/
//! ```
//!
//! A file comes into being in five steps: create under a temporary name, write, sync, rename, sync the directory. A name
//! that ends in `.tmp` is therefore never anything but the remains of a crash.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskFile};
use crate::planted::{PlantedBug, is_planted};

pub(crate) const CURRENT: &str = "CURRENT";
pub(crate) const HARD_STATE: &str = "hs.bin";
pub(crate) const LOG_DIR: &str = "log";
pub(crate) const MANIFEST_PREFIX: &str = "manifest.";
pub(crate) const QUARANTINE_DIR: &str = "quarantine";
pub(crate) const SEGMENT_SUFFIX: &str = ".seg";
pub(crate) const INDEX_SUFFIX: &str = ".six";
pub(crate) const SNAPSHOT_DIR: &str = "snap";
pub(crate) const SNAPSHOT_SUFFIX: &str = ".snap";
pub(crate) const SPARE_DIR: &str = "spare";
pub(crate) const SYNC_PROOF: &str = "sync.bin";
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct FileError {
    /// The file or directory.
    pub path: PathBuf,
    /// What the disk said.
    pub source: io::Error,
}

/// Adds the path to an error of the disk.
pub(crate) trait AtPath<T> {
    fn at(self, path: &Path) -> Result<T, FileError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError { path: path.to_owned(), source })
    }
}

pub(crate) fn segment_path(dir: &Path, segment_no: u64) -> PathBuf {
    dir.join(LOG_DIR).join(format!("{segment_no:020}{SEGMENT_SUFFIX}"))
}

pub(crate) fn index_path(dir: &Path, segment_no: u64) -> PathBuf {
    dir.join(LOG_DIR).join(format!("{segment_no:020}{INDEX_SUFFIX}"))
}

/// The files of segments: each and its index.
pub(crate) fn segment_files(dir: &Path, numbers: impl IntoIterator<Item = u64>) -> Vec<PathBuf> {
    let files = |segment_no| [segment_path(dir, segment_no), index_path(dir, segment_no)];
    numbers.into_iter().flat_map(files).collect()
}

pub(crate) fn snapshot_path(dir: &Path, index: u64) -> PathBuf {
    dir.join(SNAPSHOT_DIR).join(format!("{index:020}{SNAPSHOT_SUFFIX}"))
}

pub(crate) fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(SPARE_DIR).join(format!("{number:020}.zero"))
}

pub(crate) fn manifest_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{MANIFEST_PREFIX}{number}"))
}

pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}

/// Returns the number in a name of twenty digits and `suffix`.
pub(crate) fn parse_numbered(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir<D: Disk>(disk: &D, dir: &Path) -> Result<(), FileError> {
    if is_planted(PlantedBug::SkipDirectorySync) {
        return Ok(());
    }
    disk.sync_dir(dir).at(dir)
}

/// Creates `path` with `content`, durably and at once: after a crash it has all of it or does not exist.
pub(crate) fn create_durably<D: Disk>(
    disk: &D,
    path: &Path,
    content: &[u8],
) -> Result<D::File, FileError> {
    let temporary = temporary(path);
    remove_if_there(disk, &temporary)?;
    let file = disk.create(&temporary).at(&temporary)?;
    file.write_all_at(content, 0).at(&temporary)?;
    file.sync_data().at(&temporary)?;
    disk.rename(&temporary, path).at(path)?;
    sync_dir(disk, parent(path))?;
    Ok(file)
}

/// Removes a file that need not exist.
pub(crate) fn remove_if_there<D: Disk>(disk: &D, path: &Path) -> Result<(), FileError> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at(path),
        _ => Ok(()),
    }
}

/// Reads a whole file; `None` when it does not exist.
pub(crate) fn read_if_there<D: Disk>(disk: &D, path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let file = match disk.open_read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at(path),
    };
    let len = file.len().at(path)?;
    let mut content = vec![0; len as usize];
    file.read_exact_at(&mut content, 0).at(path)?;
    Ok(Some(content))
}

pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().expect("files of a partition lie in a directory")
}

/// Writes zeros over `range` of a file, in pieces.
pub(crate) fn write_zeros<F: DiskFile>(file: &F, range: std::ops::Range<u64>) -> io::Result<()> {
    let zeros = vec![0; (range.end.saturating_sub(range.start)).min(1 << 20) as usize];
    let mut position = range.start;
    while position < range.end {
        let count = (range.end - position).min(zeros.len() as u64);
        file.write_all_at(&zeros[..count as usize], position)?;
        position += count;
    }
    Ok(())
}

/// Reads `range` of a file and writes it back, so that the next sync has to write it.
pub(crate) fn rewrite<F: DiskFile>(file: &F, range: std::ops::Range<u64>) -> io::Result<()> {
    let mut position = range.start;
    while position < range.end {
        let mut piece = vec![0; (range.end - position).min(1 << 20) as usize];
        file.read_exact_at(&mut piece, position)?;
        file.write_all_at(&piece, position)?;
        position += piece.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_twenty_digits_are_a_number() {
        assert_eq!(parse_numbered("00000000000000000042.seg", ".seg"), Some(42));
        assert_eq!(parse_numbered("42.seg", ".seg"), None);
        assert_eq!(parse_numbered("0000000000000000004x.seg", ".seg"), None);
        assert_eq!(parse_numbered("00000000000000000042.six", ".seg"), None);
        assert_eq!(parse_numbered("99999999999999999999.seg", ".seg"), None);
    }
}
