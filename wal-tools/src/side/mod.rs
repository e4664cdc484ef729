//! The small files beside a partition's segments: what they prove, and whether they are intact.
//!
//! Their layouts are drawn in `fluxmq-log`; they are read a second time here so that the checker does not share the
//! mistakes of what it checks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fluxmq_log::format::varint::Input;

use crate::finding::{Advice, Finding, Records, Severity};
use crate::source::{self, SourceError, SourceFile};
use manifest::{End, Manifest, Truncation};
use slots::Slots;

pub mod manifest;
mod slots;
pub mod snapshot;
mod spare;

const HARD_STATE_MAGIC: &[u8; 8] = b"FluxHst\x01";
const SYNC_PROOF_MAGIC: &[u8; 8] = b"FluxSyn\x01";
const NODE_ID_MAGIC: &[u8; 8] = b"FluxNod\x01";
const CURRENT_MAGIC: &[u8; 8] = b"FluxCur\x01";
/// A running broker replaces its manifest; the name read from `CURRENT` may be gone a moment later.
const MANIFEST_ATTEMPTS: usize = 3;

/// What the files beside the segments say.
#[derive(Debug, Default)]
pub struct SideFiles {
    /// Everything up to this index was durable here.
    pub proven_index: u64,
    /// Which segments there should be; none without a readable manifest.
    pub manifest: Option<Manifest>,
    /// What is wrong with the files themselves.
    pub findings: Vec<Finding>,
}

impl SideFiles {
    /// Reads the files of a partition's directory.
    pub fn read(dir: &Path) -> Result<SideFiles, SourceError> {
        let mut files = SideFiles::default();
        files.manifest = files.read_manifest(dir)?;
        let hard_state = dir.join("hs.bin");
        let commit = files.read_commit(dir)?;
        if files.manifest.is_some() && !hard_state.exists() {
            files.report(&hard_state, 0, Advice::JoinAgain, "is missing, although there is a log");
        }
        let synced = dir.join("sync.bin");
        let synced = files.read_slots(&synced, SYNC_PROOF_MAGIC, Advice::Rebuilt, |i| i.u64())?;
        let listed = files.manifest.iter().flat_map(|manifest| manifest.snapshots.last().copied());
        files.proven_index = commit.into_iter().chain(synced).chain(listed).max().unwrap_or(0);
        files.check_snapshots(dir)?;
        files.check_spares(dir)?;
        Ok(files)
    }

    /// Reads the file that says whose data directory it is, if it is there.
    pub fn read_node_id(dir: &Path) -> Result<SideFiles, SourceError> {
        let mut files = SideFiles::default();
        let path = dir.join("node.id");
        files.read_slots(&path, NODE_ID_MAGIC, Advice::Restore, |input| input.u64())?;
        Ok(files)
    }

    /// Returns the cut that a crash left unfinished.
    pub fn truncation(&self) -> Option<Truncation> {
        self.manifest.as_ref()?.truncation
    }

    /// Reads the hard state: term, vote, commit. The commit on disk is never beyond what is durable here.
    fn read_commit(&mut self, dir: &Path) -> Result<Option<u64>, SourceError> {
        self.read_slots(&dir.join("hs.bin"), HARD_STATE_MAGIC, Advice::JoinAgain, |input| {
            let (_term, _vote) = (input.u64()?, input.u64()?);
            input.u64()
        })
    }

    fn read_manifest(&mut self, dir: &Path) -> Result<Option<Manifest>, SourceError> {
        let current_path = dir.join("CURRENT");
        let mut missing = None;
        for _ in 0..MANIFEST_ATTEMPTS {
            let Some(current) = read_whole(&current_path)? else {
                if source::names(dir)?.iter().any(|name| name.starts_with("manifest.")) {
                    let what = "is missing, although there is a manifest";
                    self.report(&current_path, 0, Advice::Rebuilt, what);
                }
                return Ok(None);
            };
            let Some(number) = decode_current(&current) else {
                let what = "does not name a manifest: its checksum is wrong";
                self.report(&current_path, current.len(), Advice::Rebuilt, what);
                return Ok(None);
            };
            let path = dir.join(format!("manifest.{number}"));
            match read_whole(&path)? {
                Some(content) => return Ok(self.check_manifest(&path, &content)),
                None => missing = Some(path),
            }
        }
        if let Some(path) = missing {
            self.report(&path, 0, Advice::Rebuilt, "is missing, although CURRENT names it");
        }
        Ok(None)
    }

    fn check_manifest(&mut self, path: &Path, content: &[u8]) -> Option<Manifest> {
        let manifest = Manifest::read(content);
        let at = manifest.end_bytes;
        match manifest.end {
            End::Clean => {}
            End::Torn => {
                let what = format!("ends with an edit that was not finished, at byte {at}");
                self.report_torn(path, content.len(), &what);
            }
            End::Damaged => {
                let what = format!("an edit at byte {at} is damaged, and intact ones follow it");
                self.report(path, content.len(), Advice::Rebuilt, &what);
                return None;
            }
        }
        Some(manifest)
    }

    /// Reads a file of two slots, and the number that the newest valid one proves.
    ///
    /// A crash may spoil the slot being written, never both.
    fn read_slots(
        &mut self,
        path: &Path,
        magic: &[u8; 8],
        advice: Advice,
        proof: impl Fn(&mut Input<'_>) -> Option<u64>,
    ) -> Result<Option<u64>, SourceError> {
        let Some(content) = read_whole(path)? else {
            return Ok(None);
        };
        let slots = Slots::read(&content, magic);
        let proven = slots.newest.as_deref().and_then(|state| proof(&mut Input::new(state)));
        if proven.is_none() {
            self.report(path, content.len(), advice, "neither slot is valid");
        } else if slots.damaged_count > 0 {
            self.report_torn(path, content.len(), "one of the two slots is damaged");
        }
        Ok(proven)
    }

    /// Checks the listed snapshots; without a manifest, those there are.
    fn check_snapshots(&mut self, dir: &Path) -> Result<(), SourceError> {
        let snapshot_dir = dir.join("snap");
        let mut indexes = BTreeSet::new();
        match &self.manifest {
            Some(manifest) => indexes.clone_from(&manifest.snapshots),
            None if !snapshot_dir.is_dir() => {}
            None => indexes.extend(source::names(&snapshot_dir)?.iter().filter_map(|name| {
                let digits = name.strip_suffix(".snap")?;
                digits.parse::<u64>().ok()
            })),
        }
        for index in indexes {
            let path = snapshot_path(dir, index);
            let Some(file) = SourceFile::open(&path)? else {
                if self.is_still_listed(dir, index)? {
                    let what = "is missing, although the manifest lists it";
                    self.report(&path, 0, Advice::OtherSnapshot, what);
                }
                continue;
            };
            match snapshot::check(&file, index)? {
                Ok(()) => self.proven_index = self.proven_index.max(index),
                Err(damage) => {
                    let (len, what) = (file.len() as usize, damage.to_string());
                    self.report(&path, len, Advice::OtherSnapshot, &what);
                }
            }
        }
        Ok(())
    }

    /// Checks that files prepared for segments to come hold nothing yet.
    fn check_spares(&mut self, dir: &Path) -> Result<(), SourceError> {
        let spare_dir = dir.join("spare");
        if !spare_dir.is_dir() {
            return Ok(());
        }
        for name in source::names(&spare_dir)? {
            let path = spare_dir.join(name);
            if let Some(stray) = spare::stray(&path)? {
                let what = format!("a spare should hold only zeros: byte {stray}");
                self.report(&path, 0, Advice::Discarded, &what);
                let last = self.findings.last_mut().expect("reported above");
                (last.severity, last.bytes) = (Severity::Unused, stray..stray + 1);
            }
        }
        Ok(())
    }

    /// Tells whether the manifest, read again, still lists a snapshot.
    fn is_still_listed(&self, dir: &Path, index: u64) -> Result<bool, SourceError> {
        let manifest = SideFiles::default().read_manifest(dir)?;
        Ok(manifest.is_some_and(|manifest| manifest.snapshots.contains(&index)))
    }

    fn report_torn(&mut self, path: &Path, len: usize, what: &str) {
        self.report(path, len, Advice::Rebuilt, what);
        if let Some(last) = self.findings.last_mut() {
            last.severity = Severity::TornTail;
        }
    }

    fn report(&mut self, path: &Path, len: usize, advice: Advice, what: &str) {
        self.findings.push(Finding {
            severity: Severity::Corruption,
            file: PathBuf::from(path),
            bytes: 0..len as u64,
            what: what.to_owned(),
            records: Records::None,
            advice,
        });
    }
}

/// Reads the manifest of a partition's directory alone; `None` when there is none that can be read.
pub fn read_manifest(dir: &Path) -> Result<Option<Manifest>, SourceError> {
    SideFiles::default().read_manifest(dir)
}

/// Returns the index up to which the hard state says that entries are committed, which may be older than what was known; `None` when
/// it cannot be read.
pub fn read_commit(dir: &Path) -> Result<Option<u64>, SourceError> {
    SideFiles::default().read_commit(dir)
}

/// Returns where a snapshot is.
pub fn snapshot_path(dir: &Path, index: u64) -> PathBuf {
    dir.join("snap").join(format!("{index:020}.snap"))
}

/// Tells whether the manifest of a directory, read again, still lists a segment.
pub fn is_segment_listed(dir: &Path, segment_no: u64) -> Result<bool, SourceError> {
    let manifest = read_manifest(dir)?;
    Ok(manifest.is_some_and(|manifest| manifest.segments.contains_key(&segment_no)))
}

fn decode_current(content: &[u8]) -> Option<u64> {
    let mut input = Input::new(content);
    let is_current = input.take(8)? == CURRENT_MAGIC;
    let (number, crc) = (input.u64()?, input.u32()?);
    let is_whole = input.remaining() == 0 && crc == crc32c::crc32c(&content[..16]);
    (is_current && is_whole).then_some(number)
}

fn read_whole(path: &Path) -> Result<Option<Vec<u8>>, SourceError> {
    match SourceFile::open(path)? {
        Some(file) => Ok(Some(file.read_at(0, file.len() as usize)?)),
        None => Ok(None),
    }
}
