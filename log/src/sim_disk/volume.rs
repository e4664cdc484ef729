//! Files and directories of a simulated disk: what programs see, what is durable, and what is pending between the two.
//!
//! A file has a cached and a durable content and an ordered list of sector writes not yet synced; a directory has cached
//! and durable entries and an ordered list of edits not yet synced. What a crash makes of them is `crash.rs`; permission,
//! faults and counting are the disk's (`../sim_disk.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::content::{Content, SECTOR_BYTES, Sector};

/// The identity of a file or directory, whatever its names.
pub(super) type InodeId = u64;

/// The root directory; it always exists.
pub(super) const ROOT: InodeId = 0;

/// Everything on the medium and in the page cache above it.
#[derive(Clone)]
pub(super) struct Volume {
    /// Ordered, because crash choices are drawn in this order. Shared with images, copied when changed.
    pub(super) inodes: BTreeMap<InodeId, Arc<Inode>>,
    pub(super) next_inode: InodeId,
    next_edit: u64,
    /// The lengths of all files that have a name or are open.
    pub(super) used_bytes: u64,
}

#[derive(Clone)]
pub(super) enum Inode {
    File(FileInode),
    Dir(DirInode),
}

#[derive(Clone, Default)]
pub(super) struct FileInode {
    pub(super) cache: Content,
    pub(super) durable: Content,
    pub(super) pending: Vec<SectorWrite>,
    /// True when cache and durable content differ in more than the pending writes: after a fault.
    pub(super) is_diverged: bool,
    /// How many cached entries name the file.
    pub(super) link_count: u32,
}

/// What the disk was asked to put into one sector, not yet synced.
#[derive(Clone)]
pub(super) struct SectorWrite {
    pub(super) sector: u64,
    /// The whole sector as the page cache had it after the write.
    pub(super) bytes: Arc<Sector>,
    /// The length of the file after this sector.
    pub(super) len_after: u64,
}

/// Where a write really goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Landing {
    /// Where it should.
    Right,
    /// Nowhere; only the page cache has it.
    Nowhere,
    /// So many sectors too far.
    TooFar { sectors: u64 },
}

#[derive(Clone, Default)]
pub(super) struct DirInode {
    pub(super) cache: BTreeMap<String, InodeId>,
    pub(super) durable: BTreeMap<String, InodeId>,
    pub(super) pending: Vec<Edit>,
    /// True when cache and durable entries differ in more than the pending edits: after a fault.
    pub(super) is_diverged: bool,
}

/// One change of a directory that survives a crash whole or not at all. A rename is one edit with both parts.
#[derive(Clone)]
pub(super) struct Edit {
    pub(super) number: u64,
    pub(super) removed: Option<String>,
    pub(super) put: Option<(String, InodeId)>,
    /// The edit of another directory without which this one cannot survive: no file system we run on loses both names
    /// of a file that moves between directories, or removes a directory before what was in it.
    pub(super) requires: Option<EditRef>,
}

/// An edit and the directory it belongs to.
#[derive(Clone, Copy)]
pub(super) struct EditRef {
    pub(super) dir: InodeId,
    pub(super) number: u64,
}

impl Volume {
    pub(super) fn new() -> Volume {
        let root = Arc::new(Inode::Dir(DirInode::default()));
        let inodes = BTreeMap::from([(ROOT, root)]);
        Volume { inodes, next_inode: ROOT + 1, next_edit: 0, used_bytes: 0 }
    }

    /// Creates an empty file that must not exist.
    pub(super) fn create_file(&mut self, path: &[&str]) -> io::Result<InodeId> {
        let (dir, name) = self.parent(path)?;
        if self.dir(dir)?.cache.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = FileInode { link_count: 1, ..FileInode::default() };
        Ok(self.add(dir, name, Inode::File(file)))
    }

    /// Creates a directory and its parents; existing ones are fine.
    pub(super) fn create_dir_all(&mut self, path: &[&str]) -> io::Result<()> {
        let mut dir = ROOT;
        for &name in path {
            let found = self.dir(dir)?.cache.get(name).copied();
            dir = found.unwrap_or_else(|| self.add(dir, name, Inode::Dir(DirInode::default())));
        }
        match self.dir(dir) {
            Ok(_) => Ok(()),
            // As the operating system has it: the name itself is taken, and not by a directory.
            Err(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    /// Removes a file and returns it; its bytes stay while it is open.
    pub(super) fn remove_file(&mut self, path: &[&str]) -> io::Result<InodeId> {
        let (dir, name) = self.parent(path)?;
        let id = self.child(dir, name)?;
        if self.is_dir(id) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        self.edit(dir, Some(name), None, None);
        self.unlink(id);
        Ok(id)
    }

    /// Removes an empty directory.
    pub(super) fn remove_dir(&mut self, path: &[&str]) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        let id = self.child(dir, name)?;
        if !self.dir(id)?.cache.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let requires = self.dir(id)?.pending.last();
        let requires = requires.map(|edit| EditRef { dir: id, number: edit.number });
        self.edit(dir, Some(name), None, requires);
        Ok(())
    }

    /// Renames a file or directory, replacing the target; returns the file that lost its name.
    pub(super) fn rename(&mut self, from: &[&str], to: &[&str]) -> io::Result<Option<InodeId>> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let id = self.child(from_dir, from_name)?;
        if from.len() < to.len() && to.starts_with(from) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if to.len() < from.len() && from.starts_with(to) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let replaced = self.dir(to_dir)?.cache.get(to_name).copied();
        if replaced == Some(id) {
            return Ok(None);
        }
        if let Some(replaced) = replaced {
            self.check_replace(id, replaced)?;
        }
        let put = Some((to_name, id));
        if from_dir == to_dir {
            self.edit(from_dir, Some(from_name), put, None);
        } else {
            let arrival = self.edit(to_dir, None, put, None);
            let requires = Some(EditRef { dir: to_dir, number: arrival });
            self.edit(from_dir, Some(from_name), None, requires);
        }
        let lost = replaced.filter(|&id| !self.is_dir(id));
        if let Some(lost) = lost {
            self.unlink(lost);
        }
        Ok(lost)
    }

    /// Makes the entries of a directory durable, and the edits of other directories those require.
    pub(super) fn sync_dir(&mut self, id: InodeId) -> io::Result<()> {
        self.dir(id)?;
        self.commit(id, u64::MAX);
        Ok(())
    }

    /// Forgets the pending edits of a directory without making them durable: a failed sync.
    pub(super) fn drop_edits(&mut self, id: InodeId) {
        if let Some(dir) = self.dir_mut(id) {
            dir.is_diverged |= !dir.pending.is_empty();
            dir.pending.clear();
        }
    }

    /// Forgets files nobody can name or has open, in any image that could still follow from this one.
    pub(super) fn collect(&mut self, open: &BTreeMap<InodeId, u32>) {
        let mut reachable = BTreeSet::from([ROOT]);
        let mut unread = vec![ROOT];
        while let Some(id) = unread.pop() {
            let Some(Inode::Dir(dir)) = self.inodes.get(&id).map(Arc::as_ref) else { continue };
            let pending = dir.pending.iter().filter_map(|edit| Some(edit.put.as_ref()?.1));
            let named = dir.cache.values().chain(dir.durable.values()).copied();
            unread.extend(named.chain(pending).filter(|&child| reachable.insert(child)));
        }
        self.inodes.retain(|id, _| reachable.contains(id) || open.contains_key(id));
    }

    /// Returns the file or directory of a path.
    pub(super) fn resolve(&self, path: &[&str]) -> io::Result<InodeId> {
        path.iter().try_fold(ROOT, |dir, name| self.child(dir, name))
    }

    pub(super) fn is_dir(&self, id: InodeId) -> bool {
        matches!(self.inodes.get(&id).map(Arc::as_ref), Some(Inode::Dir(_)))
    }

    pub(super) fn dir(&self, id: InodeId) -> io::Result<&DirInode> {
        match self.inodes.get(&id).map(Arc::as_ref) {
            Some(Inode::Dir(dir)) => Ok(dir),
            Some(Inode::File(_)) | None => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Returns a file. Panics if there is none: only open or resolved files are asked for.
    pub(super) fn file(&self, id: InodeId) -> &FileInode {
        match self.inodes.get(&id).map(Arc::as_ref) {
            Some(Inode::File(file)) => file,
            Some(Inode::Dir(_)) | None => panic!("inode {id} is no file"),
        }
    }

    /// Returns a file for changing it. Panics if there is none.
    pub(super) fn file_mut(&mut self, id: InodeId) -> &mut FileInode {
        match self.inodes.get_mut(&id).map(Arc::make_mut) {
            Some(Inode::File(file)) => file,
            Some(Inode::Dir(_)) | None => panic!("inode {id} is no file"),
        }
    }

    fn dir_mut(&mut self, id: InodeId) -> Option<&mut DirInode> {
        match self.inodes.get_mut(&id).map(Arc::make_mut) {
            Some(Inode::Dir(dir)) => Some(dir),
            Some(Inode::File(_)) | None => None,
        }
    }

    fn parent<'a>(&self, path: &[&'a str]) -> io::Result<(InodeId, &'a str)> {
        let (name, dirs) = path.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.resolve(dirs)?;
        self.dir(dir)?;
        Ok((dir, name))
    }

    fn child(&self, dir: InodeId, name: &str) -> io::Result<InodeId> {
        Ok(*self.dir(dir)?.cache.get(name).ok_or(io::ErrorKind::NotFound)?)
    }

    fn add(&mut self, dir: InodeId, name: &str, inode: Inode) -> InodeId {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, Arc::new(inode));
        self.edit(dir, None, Some((name, id)), None);
        id
    }

    fn edit(
        &mut self,
        dir: InodeId,
        removed: Option<&str>,
        put: Option<(&str, InodeId)>,
        requires: Option<EditRef>,
    ) -> u64 {
        let number = self.next_edit;
        self.next_edit += 1;
        let put = put.map(|(name, id)| (name.to_owned(), id));
        let edit = Edit { number, removed: removed.map(str::to_owned), put, requires };
        let dir = self.dir_mut(dir).expect("the caller resolved this directory");
        edit.apply(&mut dir.cache);
        dir.pending.push(edit);
        number
    }

    fn check_replace(&self, id: InodeId, replaced: InodeId) -> io::Result<()> {
        match (self.is_dir(id), self.is_dir(replaced)) {
            (false, false) => Ok(()),
            (false, true) => Err(io::ErrorKind::IsADirectory.into()),
            (true, false) => Err(io::ErrorKind::NotADirectory.into()),
            (true, true) if self.dir(replaced)?.cache.is_empty() => Ok(()),
            (true, true) => Err(io::ErrorKind::DirectoryNotEmpty.into()),
        }
    }

    fn unlink(&mut self, id: InodeId) {
        let file = self.file_mut(id);
        // A crash can leave a moved file with both names; its bytes go with the last.
        file.link_count = file.link_count.checked_sub(1).expect("a named file has a link");
    }

    fn commit(&mut self, id: InodeId, through: u64) {
        let Some(dir) = self.dir_mut(id) else { return };
        let count = dir.pending.partition_point(|edit| edit.number <= through);
        let committed: Vec<Edit> = dir.pending.drain(..count).collect();
        for edit in &committed {
            edit.apply(&mut dir.durable);
        }
        for requires in committed.iter().filter_map(|edit| edit.requires) {
            self.commit(requires.dir, requires.number);
        }
    }
}

impl FileInode {
    /// Writes through the page cache: visible at once, durable after [`FileInode::sync`].
    pub(super) fn write(&mut self, data: &[u8], position: u64, landing: Landing) {
        let (len_before, end) = (self.cache.len(), position + data.len() as u64);
        self.cache.write(data, position);
        let too_far = match landing {
            Landing::Right => 0,
            Landing::Nowhere => {
                self.is_diverged = true;
                return;
            }
            Landing::TooFar { sectors } => {
                self.is_diverged = true;
                sectors
            }
        };
        let sector_bytes = SECTOR_BYTES as u64;
        for sector in position / sector_bytes..end.div_ceil(sector_bytes) {
            let bytes = Arc::new(self.cache.sector(sector));
            let len_after = len_before.max(end.min((sector + 1) * sector_bytes));
            self.pending.push(SectorWrite { sector: sector + too_far, bytes, len_after });
        }
    }

    /// Makes every pending write durable, and the length with them.
    pub(super) fn sync(&mut self) {
        let Some(last) = self.pending.last() else { return };
        let len = last.len_after.max(self.durable.len());
        if self.is_diverged {
            for write in &self.pending {
                self.durable.put_sector(write.sector, write.bytes.as_slice());
            }
            self.durable.set_len(len);
        } else {
            self.durable = self.cache.clone();
        }
        self.pending.clear();
    }

    /// Forgets the pending writes without making them durable: a failed sync.
    ///
    /// The page cache keeps the new bytes, or goes back to the durable ones; the length it knows stays either way.
    pub(super) fn drop_pending(&mut self, cache_keeps_new: bool) {
        self.is_diverged |= !self.pending.is_empty();
        let len = self.cache.len();
        for write in std::mem::take(&mut self.pending) {
            if !cache_keeps_new {
                self.cache.put_sector(write.sector, &self.durable.sector(write.sector));
            }
        }
        self.cache.set_len(len);
    }

    /// Damages the durable bytes of a range, and the cached ones unless their sector is waiting to be written.
    pub(super) fn damage(&mut self, start: u64, end: u64, change: impl Fn(u64, u8) -> u8) {
        let dirty: BTreeSet<u64> = self.pending.iter().map(|write| write.sector).collect();
        self.durable.change(start, end, &change);
        self.cache.change(start, end, |position, byte| {
            let is_dirty = dirty.contains(&(position / SECTOR_BYTES as u64));
            if is_dirty { byte } else { change(position, byte) }
        });
    }

    /// True when a crash cannot change the file.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty() && !self.is_diverged
    }
}

impl DirInode {
    /// True when a crash cannot change the directory.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty() && !self.is_diverged
    }
}

impl Edit {
    pub(super) fn apply(&self, entries: &mut BTreeMap<String, InodeId>) {
        if let Some(name) = &self.removed {
            entries.remove(name);
        }
        if let Some((name, id)) = &self.put {
            entries.insert(name.clone(), *id);
        }
    }
}
