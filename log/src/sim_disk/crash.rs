//! What a crash leaves of a volume.
//!
//! Pure: the running volume and a seed in, the volume of the next boot out. The running one is not disturbed, and the
//! image shares every page the crash did not change, so that taking one costs microseconds.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::content::SECTOR_BYTES;
use super::random::Random;
use super::volume::{DirInode, FileInode, Inode, InodeId, Volume};

/// How the machine or the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed: the page cache survives with everything written, synced or not, and stays unsynced.
    Process,
    /// The power goes, and with it everything unsynced.
    LoseUnsynced,
    /// The power goes, and the seed chooses what of the unsynced reached the disk.
    ///
    /// Any subset of the sector writes of each file in any order, so that a sector written several times shows any of
    /// its states; at most one sector torn, the first bytes new and the others old; any of the lengths the file went
    /// through; of each directory's edits any prefix, independent of the other directories.
    PowerCut {
        /// The same seed leaves the same image.
        seed: u64,
    },
}

/// Of sixteen unsynced writes, how many survive on average; one of these per file.
const SURVIVOR_SHARES: [u64; 7] = [0, 1, 4, 8, 12, 15, 16];

/// The one write the power cut interrupts in the middle of its sector.
#[derive(Clone, Copy)]
struct Tear {
    write: usize,
    bytes: usize,
}

impl Volume {
    /// Returns what the next boot finds.
    pub(super) fn after(&self, crash: Crash) -> Volume {
        let mut image = self.clone();
        match crash {
            Crash::Process => image.collect(&BTreeMap::new()),
            Crash::LoseUnsynced => image.cut_power(None),
            Crash::PowerCut { seed } => image.cut_power(Some(Random::new(seed))),
        }
        image.count_links();
        image
    }

    /// Replaces what is cached and pending by what reached the disk. Without choices, nothing unsynced does.
    fn cut_power(&mut self, mut random: Option<Random>) {
        let kept = self.choose_edits(random.as_mut());
        for (id, inode) in &mut self.inodes {
            let image = match inode.as_ref() {
                Inode::Dir(dir) if !dir.is_settled() => dir.after(kept.get(id).copied()),
                Inode::Dir(_) | Inode::File(_) => continue,
            };
            *inode = Arc::new(Inode::Dir(image));
        }
        self.collect(&BTreeMap::new());

        let tear = random.as_mut().and_then(|random| self.choose_tear(random));
        for (id, inode) in &mut self.inodes {
            let image = match inode.as_ref() {
                Inode::File(file) if !file.is_settled() => {
                    let tear = tear.filter(|(torn, _)| torn == id).map(|(_, tear)| tear);
                    file.after(random.as_mut(), tear)
                }
                Inode::Dir(_) | Inode::File(_) => continue,
            };
            *inode = Arc::new(Inode::File(image));
        }
    }

    /// Chooses how many edits of each directory survive, for those that have any pending.
    fn choose_edits(&self, mut random: Option<&mut Random>) -> BTreeMap<InodeId, usize> {
        let mut kept = BTreeMap::new();
        for (id, inode) in &self.inodes {
            let Inode::Dir(dir) = inode.as_ref() else { continue };
            let (count, random) = (dir.pending.len(), random.as_deref_mut());
            if count > 0 {
                kept.insert(*id, random.map_or(0, |random| choose_prefix(random, count)));
            }
        }
        // An edit falls with the one it requires, and then those after it; until nothing falls any more.
        while let Some((id, count)) = self.first_unsupported(&kept) {
            kept.insert(id, count);
        }
        kept
    }

    /// Returns a directory that keeps an edit whose required edit is lost, and how many edits it may keep.
    fn first_unsupported(&self, kept: &BTreeMap<InodeId, usize>) -> Option<(InodeId, usize)> {
        kept.iter().find_map(|(&id, &count)| {
            let edits = &self.dir(id).ok()?.pending[..count];
            let lost = edits.iter().position(|edit| {
                edit.requires.is_some_and(|requires| {
                    let Ok(dir) = self.dir(requires.dir) else { return false };
                    let survivors = kept.get(&requires.dir).copied().unwrap_or(0);
                    let mut fallen = dir.pending[survivors..].iter();
                    fallen.any(|edit| edit.number == requires.number)
                })
            })?;
            Some((id, lost))
        })
    }

    /// Chooses the write to interrupt in half of the power cuts, preferring the last of a file.
    fn choose_tear(&self, random: &mut Random) -> Option<(InodeId, Tear)> {
        let dirty = || {
            self.inodes.iter().filter_map(|(id, inode)| match inode.as_ref() {
                Inode::File(file) if !file.pending.is_empty() => Some((*id, file.pending.len())),
                Inode::File(_) | Inode::Dir(_) => None,
            })
        };
        let file_count = dirty().count() as u64;
        if file_count == 0 || random.chance(1, 2) {
            return None;
        }
        let (id, count) = dirty().nth(random.below(file_count) as usize)?;
        let prefers_last = random.chance(1, 2);
        let write = if prefers_last { count - 1 } else { random.below(count as u64) as usize };
        let bytes = 1 + random.below(SECTOR_BYTES as u64 - 1) as usize;
        Some((id, Tear { write, bytes }))
    }

    /// Counts the names of every file and the room they take.
    fn count_links(&mut self) {
        let mut links: BTreeMap<InodeId, u32> = BTreeMap::new();
        for inode in self.inodes.values() {
            if let Inode::Dir(dir) = inode.as_ref() {
                dir.cache.values().for_each(|child| *links.entry(*child).or_default() += 1);
            }
        }
        self.used_bytes = 0;
        for (id, inode) in &mut self.inodes {
            let Inode::File(file) = inode.as_ref() else { continue };
            let link_count = links.get(id).copied().unwrap_or(0);
            if link_count > 0 {
                self.used_bytes += file.cache.len();
            }
            if file.link_count != link_count
                && let Inode::File(file) = Arc::make_mut(inode)
            {
                file.link_count = link_count;
            }
        }
    }
}

impl FileInode {
    fn after(&self, random: Option<&mut Random>, tear: Option<Tear>) -> FileInode {
        let mut content = self.durable.clone();
        if let Some(random) = random
            && !self.pending.is_empty()
        {
            let count = self.pending.len();
            let certain =
                if random.chance(1, 3) { random.below(count as u64 + 1) as usize } else { 0 };
            let share = SURVIVOR_SHARES[random.below(SURVIVOR_SHARES.len() as u64) as usize];
            let mut len_kept = content.len();
            for (index, write) in self.pending.iter().enumerate() {
                let is_kept = index < certain || random.chance(share, 16);
                let bytes = match tear {
                    Some(tear) if tear.write == index => &write.bytes[..tear.bytes],
                    Some(_) | None if is_kept => write.bytes.as_slice(),
                    Some(_) | None => continue,
                };
                content.put_sector(write.sector, bytes);
                len_kept = write.len_after;
            }
            content.set_len(self.choose_len(random, len_kept));
        }
        FileInode { cache: content.clone(), durable: content, ..FileInode::default() }
    }

    /// Chooses the length: the last one, that of the last write kept, or any the file went through.
    fn choose_len(&self, random: &mut Random, len_kept: u64) -> u64 {
        let count = self.pending.len();
        let len_after = |index: usize| self.pending[index].len_after;
        match random.below(3) {
            0 => len_after(count - 1),
            1 => len_kept,
            _ => match random.below(count as u64 + 1) as usize {
                0 => self.durable.len(),
                any => len_after(any - 1),
            },
        }
    }
}

impl DirInode {
    fn after(&self, kept: Option<usize>) -> DirInode {
        let mut entries = self.durable.clone();
        for edit in &self.pending[..kept.unwrap_or(0)] {
            edit.apply(&mut entries);
        }
        DirInode { cache: entries.clone(), durable: entries, ..DirInode::default() }
    }
}

/// Keeps all, none, or any number: a third of the time each.
fn choose_prefix(random: &mut Random, count: usize) -> usize {
    match random.below(3) {
        0 => 0,
        1 => count,
        _ => random.below(count as u64 + 1) as usize,
    }
}
