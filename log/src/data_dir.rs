//! The data directory of a broker: one process at a time, and whose directory it is.
//!
//! `LOCK` is held as long as the [`DataDir`] lives. `node.id` has two copies ([`slot`](crate::slot)); payload
//! `cluster [16] | node u64 | format version u32`.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::format::varint::Input;
use crate::layout::{AtPath, FileError, sync_dir};
use crate::slot::{SlotError, SlotFile};

const LOCK: &str = "LOCK";
const NODE_ID: &str = "node.id";
const MAGIC: u64 = u64::from_le_bytes(*b"FluxNod\x01");

/// The version of the directory's layout that this release writes.
pub const FORMAT_VERSION: u32 = 1;

/// Whose directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The cluster, chosen once when its first node started.
    pub cluster: [u8; 16],
    /// The node within the cluster.
    pub node: u64,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process holds the lock.
    #[error("another broker runs in this data directory: its {LOCK} is held")]
    Running,
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Both copies of `node.id` are damaged.
    #[error(transparent)]
    Identity(SlotError),
    /// There are partitions but no `node.id`: this directory was something else before.
    #[error("{NODE_ID} is missing, although there is {found}")]
    IdentityMissing {
        /// One of the partitions.
        found: String,
    },
    /// The directory belongs to another node or cluster.
    #[error("data directory belongs to {found:?}, not to {expected:?}")]
    Foreign {
        /// What it says.
        found: NodeIdentity,
        /// What was configured.
        expected: NodeIdentity,
    },
    /// The directory was written by a newer release.
    #[error("data directory has format version {found}, this release knows {FORMAT_VERSION}")]
    Version {
        /// The version.
        found: u32,
    },
}

/// A data directory that this process alone may use.
pub struct DataDir<D: Disk> {
    disk: D,
    identity: NodeIdentity,
    is_new: bool,
    _lock: D::Lock,
}

impl<D: Disk> DataDir<D> {
    /// Takes the lock, and reads `node.id`, writing `identity` there when the directory is new.
    ///
    /// An existing directory must be of the same node. Its cluster is taken from the directory when `identity.cluster` is all
    /// zeros, as on a single node that was never told.
    pub fn open(disk: D, identity: NodeIdentity) -> Result<DataDir<D>, DataDirError> {
        let lock_path = Path::new(LOCK);
        let lock = match disk.lock(lock_path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(DataDirError::Running);
            }
            taken => taken.at(lock_path)?,
        };
        let path = Path::new(NODE_ID);
        let opened = match SlotFile::open(&disk, path, MAGIC) {
            Ok(opened) => opened,
            Err(SlotError::File(error)) => return Err(error.into()),
            Err(error) => return Err(DataDirError::Identity(error)),
        };
        let Some(mut opened) = opened else {
            refuse_partitions(&disk)?;
            SlotFile::create(&disk, path, MAGIC, &encode(identity))?;
            return Ok(DataDir { disk, identity, is_new: true, _lock: lock });
        };
        let both = || SlotError::BothDamaged { path: path.to_owned() };
        let (found, version) =
            decode(&opened.payload).ok_or_else(|| DataDirError::Identity(both()))?;
        if version > FORMAT_VERSION {
            return Err(DataDirError::Version { found: version });
        }
        let is_same_cluster = identity.cluster == [0; 16] || identity.cluster == found.cluster;
        if !is_same_cluster || identity.node != found.node {
            return Err(DataDirError::Foreign { found, expected: identity });
        }
        if opened.is_half {
            opened.file.save_both(&encode(found))?;
        }
        sync_dir(&disk, Path::new(""))?;
        Ok(DataDir { disk, identity: found, is_new: false, _lock: lock })
    }

    /// Returns whose directory it is.
    pub fn identity(&self) -> NodeIdentity {
        self.identity
    }

    /// Returns true when nothing was there before.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Returns the disk whose root the directory is.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Returns the directory of a partition.
    pub fn partition_dir(&self, partition: u32) -> PathBuf {
        PathBuf::from(format!("p{partition:04}"))
    }
}

fn refuse_partitions<D: Disk>(disk: &D) -> Result<(), DataDirError> {
    let root = Path::new("");
    let is_partition = |name: &str| {
        name.strip_prefix('p').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let entries = disk.list(root).at(root)?;
    match entries.into_iter().find(|entry| entry.is_dir && is_partition(&entry.name)) {
        Some(entry) => Err(DataDirError::IdentityMissing { found: entry.name }),
        None => Ok(()),
    }
}

fn encode(identity: NodeIdentity) -> Vec<u8> {
    let node = identity.node.to_le_bytes();
    [identity.cluster.as_slice(), &node, &FORMAT_VERSION.to_le_bytes()].concat()
}

fn decode(payload: &[u8]) -> Option<(NodeIdentity, u32)> {
    let mut input = Input::new(payload);
    let cluster = input.take(16)?.try_into().ok()?;
    Some((NodeIdentity { cluster, node: input.u64()? }, input.u32()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim_disk::{Crash, SimDisk};

    const OURS: NodeIdentity = NodeIdentity { cluster: [7; 16], node: 1 };

    #[test]
    fn only_one_broker_runs_in_a_directory() {
        let disk = SimDisk::new(1);
        let first = DataDir::open(disk.clone(), OURS).unwrap();

        let error = DataDir::open(disk.clone(), OURS).err().unwrap();
        assert!(matches!(error, DataDirError::Running), "{error}");
        assert!(error.to_string().contains("another broker runs"));

        drop(first);
        assert!(!DataDir::open(disk, OURS).unwrap().is_new());
    }

    #[test]
    fn a_directory_remembers_whose_it_is() {
        let disk = SimDisk::new(1);
        assert!(DataDir::open(disk.clone(), OURS).unwrap().is_new());
        let disk = disk.crash_image(Crash::LoseUnsynced);

        let unknown = NodeIdentity { cluster: [0; 16], ..OURS };
        assert_eq!(DataDir::open(disk.clone(), unknown).unwrap().identity(), OURS);
        for other in [NodeIdentity { cluster: [8; 16], ..OURS }, NodeIdentity { node: 2, ..OURS }] {
            let error = DataDir::open(disk.clone(), other).err().unwrap();
            assert!(matches!(error, DataDirError::Foreign { found: OURS, .. }), "{error}");
        }
    }

    #[test]
    fn one_damaged_copy_is_repaired_and_two_are_refused() {
        let disk = SimDisk::new(1);
        drop(DataDir::open(disk.clone(), OURS).unwrap());
        for bit in [100, (4096 + 20) * 8] {
            disk.flip_bit(Path::new(NODE_ID), bit).unwrap();
            assert_eq!(DataDir::open(disk.clone(), OURS).unwrap().identity(), OURS);
        }
        disk.flip_bit(Path::new(NODE_ID), 100).unwrap();
        disk.flip_bit(Path::new(NODE_ID), (4096 + 20) * 8).unwrap();

        let error = DataDir::open(disk, OURS).err().unwrap();

        assert!(matches!(error, DataDirError::Identity(_)), "{error}");
    }

    #[test]
    fn partitions_without_an_identity_are_not_taken_over() {
        let disk = SimDisk::new(1);
        disk.create_dir_all(Path::new("p0003")).unwrap();

        let error = DataDir::open(disk, OURS).err().unwrap();

        assert!(matches!(error, DataDirError::IdentityMissing { .. }), "{error}");
    }

    #[test]
    fn a_power_cut_while_it_is_created_leaves_it_new_or_whole() {
        for operation in 1..20 {
            for seed in 0..10 {
                let disk = SimDisk::new(1);
                disk.set_crash_after(operation);
                drop(DataDir::open(disk.clone(), OURS));
                let found = DataDir::open(disk.crash(seed), OURS).unwrap();
                assert_eq!(found.identity(), OURS);
            }
        }
    }
}
