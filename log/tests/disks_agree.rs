//! The simulated disk without faults answers every call as the operating system does.
//!
//! Random sequences of calls on both, compared answer by answer and byte by byte: what the log is tested on is what it
//! runs on.

use std::io;
use std::path::{Path, PathBuf};

use fluxmq_log::disk::{DirEntry, Disk, DiskFile};
use fluxmq_log::os_disk::OsDisk;
use fluxmq_log::sim_disk::{Crash, SimDisk};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Call {
    Create(PathBuf),
    Write { path: PathBuf, data: Vec<u8>, position: u64 },
    WriteReadOnly(PathBuf),
    Read { path: PathBuf, len: usize, position: u64 },
    Sync(PathBuf),
    List(PathBuf),
    CreateDirAll(PathBuf),
    Rename { from: PathBuf, to: PathBuf },
    Remove(PathBuf),
    RemoveDir(PathBuf),
    SyncDir(PathBuf),
    LockTwice(PathBuf),
    WriteAfterRemove(PathBuf),
}

/// What a call answers; errors by kind, since messages carry paths.
#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    Bytes(Vec<u8>),
    Entries(Vec<DirEntry>),
    Failed(io::ErrorKind),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_disks_answer_alike(calls in vec(call(), 1..60)) {
        let root = tempfile::tempdir().unwrap();
        let (os, sim) = (OsDisk::new(root.path().to_owned()).unwrap(), SimDisk::new(0));

        for call in &calls {
            prop_assert_eq!(answer(&os, call), answer(&sim, call), "{:?}", call);
        }

        let seen = tree(&os, Path::new("")).unwrap();
        prop_assert_eq!(&seen, &tree(&sim, Path::new("")).unwrap());
        prop_assert_eq!(&seen, &tree(&sim.crash_image(Crash::Process), Path::new("")).unwrap());
    }

    #[test]
    fn a_disk_synced_everywhere_has_one_image_for_all_seeds(
        calls in vec(call(), 1..60),
        seed in any::<u64>(),
    ) {
        let disk = SimDisk::new(0);
        for call in &calls {
            answer(&disk, call);
        }

        sync_tree(&disk, Path::new("")).unwrap();

        let image = disk.crash(seed);
        prop_assert_eq!(image.contents(), disk.contents());
        prop_assert_eq!(image.space().unwrap(), disk.space().unwrap());
        prop_assert_eq!(disk.unsynced_count(), 0);
    }
}

fn call() -> impl Strategy<Value = Call> {
    let data = || vec(1..=255_u8, 0..1500);
    prop_oneof![
        4 => path().prop_map(Call::Create),
        8 => (path(), data(), 0..9000_u64)
            .prop_map(|(path, data, position)| Call::Write { path, data, position }),
        1 => path().prop_map(Call::WriteReadOnly),
        4 => (path(), 0..6000_usize, 0..9000_u64)
            .prop_map(|(path, len, position)| Call::Read { path, len, position }),
        2 => path().prop_map(Call::Sync),
        2 => path().prop_map(Call::List),
        3 => path().prop_map(Call::CreateDirAll),
        5 => (path(), path()).prop_map(|(from, to)| Call::Rename { from, to }),
        2 => path().prop_map(Call::Remove),
        2 => path().prop_map(Call::RemoveDir),
        2 => path().prop_map(Call::SyncDir),
        1 => path().prop_map(Call::LockTwice),
        1 => path().prop_map(Call::WriteAfterRemove),
    ]
}

/// One to three names out of few, so that calls meet.
fn path() -> impl Strategy<Value = PathBuf> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    vec(name, 1..=3).prop_map(|names| names.iter().collect())
}

fn answer<D: Disk>(disk: &D, call: &Call) -> Answer {
    try_call(disk, call).unwrap_or_else(|error| Answer::Failed(error.kind()))
}

fn try_call<D: Disk>(disk: &D, call: &Call) -> io::Result<Answer> {
    match call {
        Call::Create(path) => drop(disk.create(path)?),
        Call::Write { path, data, position } => disk.open(path)?.write_all_at(data, *position)?,
        Call::WriteReadOnly(path) => drop(disk.open_read(path)?.write_at(b"x", 0)?),
        Call::Read { path, len, position } => {
            let file = disk.open_read(path)?;
            let mut bytes = vec![0; *len];
            let count = file.read_at(&mut bytes, *position)?;
            bytes.truncate(count);
            bytes.extend(file.len()?.to_le_bytes());
            return Ok(Answer::Bytes(bytes));
        }
        Call::Sync(path) => disk.open(path)?.sync_data()?,
        Call::List(path) => return disk.list(path).map(Answer::Entries),
        Call::CreateDirAll(path) => disk.create_dir_all(path)?,
        Call::Rename { from, to } => disk.rename(from, to)?,
        Call::Remove(path) => disk.remove(path)?,
        Call::RemoveDir(path) => disk.remove_dir(path)?,
        Call::SyncDir(path) => disk.sync_dir(path)?,
        Call::LockTwice(path) => {
            let _held = disk.lock(path)?;
            drop(disk.lock(path)?);
        }
        Call::WriteAfterRemove(path) => {
            let file = disk.open(path)?;
            disk.remove(path)?;
            file.write_all_at(b"still here", 5)?;
            file.sync_data()?;
            let mut bytes = vec![0; 10];
            file.read_exact_at(&mut bytes, 5)?;
            return Ok(Answer::Bytes(bytes));
        }
    }
    Ok(Answer::Done)
}

/// Every path below a directory with the bytes of the files, read through the seam.
fn tree<D: Disk>(disk: &D, dir: &Path) -> io::Result<Vec<(PathBuf, Option<Vec<u8>>)>> {
    let mut found = Vec::new();
    for entry in disk.list(dir)? {
        let path = dir.join(entry.name);
        if entry.is_dir {
            found.push((path.clone(), None));
            found.extend(tree(disk, &path)?);
        } else {
            let file = disk.open_read(&path)?;
            let mut bytes = vec![0; file.len()? as usize];
            file.read_exact_at(&mut bytes, 0)?;
            found.push((path, Some(bytes)));
        }
    }
    Ok(found)
}

fn sync_tree(disk: &SimDisk, dir: &Path) -> io::Result<()> {
    disk.sync_dir(dir)?;
    for entry in disk.list(dir)? {
        let path = dir.join(entry.name);
        if entry.is_dir {
            sync_tree(disk, &path)?;
        } else {
            disk.open(&path)?.sync_data()?;
        }
    }
    Ok(())
}
