//! What went wrong with which file: the context both disks put around an error of the operating system.
//!
//! The kind of the outer `io::Error` is the kind of the cause, so callers match on it as if nothing were wrapped; the
//! number of the operating system, which `io::Error` hides once wrapped, is found by [`raw_os_error`].

use std::io;
use std::path::{Path, PathBuf};

/// An error of a disk operation with the operation and the path in its message.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct DiskError {
    /// What was tried, as a verb with its object: "open", "rename to".
    pub operation: &'static str,
    /// The path it was tried on.
    pub path: PathBuf,
    /// What the operating system, or the model of it, answered.
    pub source: io::Error,
}

/// Puts operation and path around an error, keeping its kind.
pub fn at(operation: &'static str, path: &Path, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), DiskError { operation, path: path.to_owned(), source })
}

/// Returns the error number of the operating system behind an error, wrapped by a disk or not.
pub fn raw_os_error(error: &io::Error) -> Option<i32> {
    let wrapped = || raw_os_error(&error.get_ref()?.downcast_ref::<DiskError>()?.source);
    error.raw_os_error().or_else(wrapped)
}

/// Returns the names a path is made of, from the disk's root down.
///
/// `InvalidInput` for a path that could leave the root: absolute, or with `..` in it.
pub(crate) fn names(path: &Path) -> io::Result<Vec<&str>> {
    use std::path::Component;
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => {
                names.push(name.to_str().ok_or(io::ErrorKind::InvalidInput)?);
            }
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOSPC: i32 = 28;

    #[test]
    fn a_wrapped_error_keeps_kind_and_number_and_names_the_path() {
        let full = io::Error::from_raw_os_error(ENOSPC);

        let wrapped = at("write", Path::new("log/7.seg"), full);

        assert_eq!(wrapped.kind(), io::ErrorKind::StorageFull);
        assert_eq!(raw_os_error(&wrapped), Some(ENOSPC));
        assert!(wrapped.to_string().starts_with("cannot write log/7.seg: "));
    }

    #[test]
    fn a_path_cannot_leave_the_root() {
        for path in ["/etc/passwd", "../x", "a/../../x"] {
            let error = names(Path::new(path)).expect_err(path);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        assert_eq!(names(Path::new("./a//b")).unwrap(), ["a", "b"]);
        assert!(names(Path::new("")).unwrap().is_empty());
    }
}
