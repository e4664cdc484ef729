//! The lock of a data directory: a broker holds it while it runs, and so does every command here that writes or that needs files which
//! hold still.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fluxmq_log::disk::Disk;
use fluxmq_log::os_disk::{OsDisk, OsLock};

const LOCK: &str = "LOCK";
const NODE_ID: &str = "node.id";

/// Why a data directory is not ours to use.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A broker runs there, or another of these commands.
    #[error(
        "{} is in use: a broker, or another command, holds its lock; stop it, or work on a copy",
        dir.display()
    )]
    Held {
        /// The data directory.
        dir: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot lock {}: {source}", dir.display())]
    Io {
        /// The data directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Takes the lock of the data directory that a path is, or that a partition's directory lies in. `None` for a partition's directory
/// that lies alone: no broker starts there.
pub fn hold(path: &Path) -> Result<Option<OsLock>, LockError> {
    let failed = |dir: &Path, source| LockError::Io { dir: dir.to_owned(), source };
    let path = fs::canonicalize(path).map_err(|source| failed(path, source))?;
    let is_data_dir = |dir: &&Path| dir.join(NODE_ID).exists() || dir.join(LOCK).exists();
    let Some(dir) = path.ancestors().take(2).find(is_data_dir) else { return Ok(None) };
    let disk = OsDisk::new(dir.to_owned()).map_err(|source| failed(dir, source))?;
    match disk.lock(Path::new(LOCK)) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(LockError::Held { dir: dir.to_owned() })
        }
        Err(source) => Err(failed(dir, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partitions_directory_is_locked_with_the_data_directory_it_lies_in() {
        let data = tempfile::tempdir().unwrap();
        let partition = data.path().join("p0001");
        fs::create_dir(&partition).unwrap();
        assert!(hold(&partition).unwrap().is_none(), "a copy alone");
        fs::write(data.path().join(NODE_ID), b"").unwrap();

        let held = hold(&partition).unwrap();

        assert!(held.is_some());
        let refused = hold(data.path()).unwrap_err();
        assert!(matches!(refused, LockError::Held { .. }), "{refused}");
        drop(held);
        assert!(hold(data.path()).unwrap().is_some());
    }
}
