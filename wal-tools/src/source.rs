//! What a path on the command line stands for: partitions, and the segment files of each.
//!
//! A data directory holds partitions `p0000`, `p0001`, …; a partition holds `log/<20 digits>.seg`; a segment
//! file stands for itself. Everything is opened for reading only, and no lock is taken.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where a partition keeps its segments.
const LOG_DIR: &str = "log";
const SEGMENT_SUFFIX: &str = ".seg";

/// Why a path cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Neither a segment file nor a directory with any.
    #[error(
        "{} is neither a data directory (p0000, p0001, …), nor a partition's directory \
         (log/*.seg), nor a segment file", path.display()
    )]
    NotALog {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// One partition, or one segment file alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// What to call it.
    pub name: String,
    /// Its number, when a directory's name says it.
    pub number: Option<u32>,
    /// Its directory; none for a segment file alone.
    pub dir: Option<PathBuf>,
    /// Its segment files, oldest first.
    pub segments: Vec<PathBuf>,
}

/// A file open for reading.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    file: File,
    len: u64,
}

/// Finds the partitions under a path, ordered by number.
pub fn partitions(path: &Path) -> Result<Vec<Partition>, SourceError> {
    let metadata = fs::metadata(path).map_err(|source| failed(path, source))?;
    if !metadata.is_dir() {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let segments = vec![path.to_owned()];
        return Ok(vec![Partition { name, number: None, dir: None, segments }]);
    }
    if let Some(partition) = partition(path)? {
        return Ok(vec![partition]);
    }
    let mut found = Vec::new();
    for name in names(path)? {
        if partition_number(&name).is_some() {
            found.extend(partition(&path.join(&name))?);
        }
    }
    if found.is_empty() {
        return Err(SourceError::NotALog { path: path.to_owned() });
    }
    found.sort_by_key(|partition| partition.number);
    Ok(found)
}

/// Reads a directory as a partition's; `None` if it does not look like one.
fn partition(dir: &Path) -> Result<Option<Partition>, SourceError> {
    let dir_name = dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let number = dir_name.as_deref().and_then(partition_number);
    let log_dir = dir.join(LOG_DIR);
    let has_log_dir = log_dir.is_dir();
    let log_dir = if has_log_dir { &log_dir } else { dir };
    let mut segments: Vec<PathBuf> = names(log_dir)?
        .into_iter()
        .filter(|name| name.ends_with(SEGMENT_SUFFIX))
        .map(|name| log_dir.join(name))
        .collect();
    // Twenty digits: the order of the names is the order of the numbers.
    segments.sort();
    let is_partition = has_log_dir || !segments.is_empty();
    let name = dir_name.unwrap_or_else(|| dir.display().to_string());
    let dir = Some(dir.to_owned());
    Ok(is_partition.then_some(Partition { name, number, dir, segments }))
}

/// Returns the number in `p0001`.
fn partition_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix('p')?;
    let is_number = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// Returns the number in a segment file's name; a copied file may have any.
pub fn segment_number(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(SEGMENT_SUFFIX)?;
    digits.parse().ok().filter(|_| digits.len() == 20)
}

/// Returns the path of a segment of a partition.
pub fn segment_path(dir: &Path, segment_no: u64) -> PathBuf {
    dir.join(LOG_DIR).join(format!("{segment_no:020}{SEGMENT_SUFFIX}"))
}

/// Lists a directory, in no order.
pub fn names(dir: &Path) -> Result<Vec<String>, SourceError> {
    let entries = fs::read_dir(dir).map_err(|source| failed(dir, source))?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(|source| failed(dir, source))
}

impl SourceFile {
    /// Opens a file. `None` if it is gone: a running broker deletes what retention lets go.
    pub fn open(path: &Path) -> Result<Option<SourceFile>, SourceError> {
        let file = match File::open(path) {
            Err(error) if is_gone(&error) => return Ok(None),
            opened => opened.map_err(|source| failed(path, source))?,
        };
        let len = file.metadata().map_err(|source| failed(path, source))?.len();
        Ok(Some(SourceFile { path: path.to_owned(), file, len }))
    }

    /// Reads up to `len` bytes, fewer at the end of the file.
    pub fn read_at(&self, position: u64, len: usize) -> Result<Vec<u8>, SourceError> {
        let mut bytes = vec![0; len.min(self.len.saturating_sub(position) as usize)];
        let mut done = 0;
        while done < bytes.len() {
            match self.file.read_at(&mut bytes[done..], position + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(failed(&self.path, source)),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    /// Returns the length in bytes when the file was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Tells whether there is no such file; a path below a file counts as that.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn failed(path: &Path, source: io::Error) -> SourceError {
    SourceError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_a_partition_and_a_segment_are_told_apart() {
        let data = tempfile::tempdir().unwrap();
        let log = data.path().join("p0002/log");
        fs::create_dir_all(&log).unwrap();
        fs::create_dir_all(data.path().join("p0010/log")).unwrap();
        fs::create_dir_all(data.path().join("quarantine")).unwrap();
        for name in ["00000000000000000010.seg", "00000000000000000009.seg", "CURRENT"] {
            fs::write(log.join(name), b"").unwrap();
        }

        let all = partitions(data.path()).unwrap();
        let one = partitions(&data.path().join("p0002")).unwrap();
        let file = partitions(&log.join("00000000000000000009.seg")).unwrap();

        assert_eq!(all.iter().map(|found| found.number).collect::<Vec<_>>(), [Some(2), Some(10)]);
        assert_eq!(one, [all[0].clone()]);
        assert_eq!(
            one[0].segments.iter().filter_map(|path| segment_number(path)).collect::<Vec<_>>(),
            [9, 10]
        );
        assert_eq!((file[0].dir.clone(), file[0].segments.len()), (None, 1));
    }

    #[test]
    fn a_directory_without_a_log_is_refused_by_name() {
        let data = tempfile::tempdir().unwrap();

        let error = partitions(data.path()).unwrap_err();

        assert!(error.to_string().contains(&data.path().display().to_string()));
    }
}
