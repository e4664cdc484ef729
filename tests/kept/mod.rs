//! Data that tests leave behind, for `.ci/run rebuild` to look at: where `FLUXMQ_KEEP_DATA` names a directory, it is copied there,
//! but for spares and zeros. Of what is copied more than once the last counts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use fluxmq_log::disk::{Disk, DiskFile};
use fluxmq_log::sim_disk::SimDisk;

/// What is nobody's data.
const LEFT_OUT: [&str; 3] = ["spare", "quarantine", "LOCK"];

/// A simulated disk that is kept when its world ends, unless a planted defect had a part in it.
pub struct KeptDisk(pub SimDisk);

impl Drop for KeptDisk {
    fn drop(&mut self) {
        static KEPT: AtomicU64 = AtomicU64::new(0);
        let Some(root) = root() else { return };
        #[cfg(feature = "planted-bugs")]
        if fluxmq::planted::planted().is_some() {
            return;
        }
        if std::thread::panicking() || self.0.has_lost_power() {
            return;
        }
        let number = KEPT.fetch_add(1, Ordering::Relaxed);
        let target = root.join(format!("disk-{}-{number}", std::process::id()));
        if write_disk(&self.0, Path::new(""), &target).is_err() {
            // A disk on which reading fails as well: that is what its test is about.
            let _ = fs::remove_dir_all(target);
        }
    }
}

/// Keeps a directory whose broker has ended.
#[allow(dead_code, reason = "suites on simulated disks have none")]
pub fn keep_directory(data: &Path) {
    let (Some(root), Some(name)) = (root(), data.file_name()) else { return };
    if std::thread::panicking() || !data.join("node.id").exists() {
        return;
    }
    let name = name.to_string_lossy();
    let target = root.join(format!("directory-{}", name.trim_start_matches('.')));
    let _ = fs::remove_dir_all(&target);
    write_directory(data, &target).expect("keeps the directory");
}

fn root() -> Option<PathBuf> {
    let root = std::env::var_os("FLUXMQ_KEEP_DATA").filter(|root| !root.is_empty())?;
    Some(PathBuf::from(root))
}

fn write_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if LEFT_OUT.iter().any(|left| name == *left) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => write_directory(&entry.path(), &to.join(name))?,
            false => write_file(&fs::read(entry.path())?, &to.join(name))?,
        }
    }
    Ok(())
}

fn write_disk(disk: &SimDisk, from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in disk.list(from)? {
        if LEFT_OUT.contains(&entry.name.as_str()) {
            continue;
        }
        let (path, target) = (from.join(&entry.name), to.join(&entry.name));
        if entry.is_dir {
            write_disk(disk, &path, &target)?;
            continue;
        }
        let file = disk.open_read(&path)?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_exact_at(&mut bytes, 0)?;
        write_file(&bytes, &target)?;
    }
    Ok(())
}

/// Segments are zeros for the most part: those take no room.
fn write_file(bytes: &[u8], to: &Path) -> io::Result<()> {
    let file = File::create(to)?;
    file.set_len(bytes.len() as u64)?;
    for (number, block) in bytes.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, number as u64 * 4096)?;
        }
    }
    Ok(())
}
