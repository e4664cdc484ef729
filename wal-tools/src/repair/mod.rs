//! Puts back what a partition's directory lost, from the directory of another replica, while no broker runs on it (ADR 0035).
//!
//! Everything is done on an overlay first: what is damaged is found, asked from the other directory, and believed when it joins what is
//! intact at both ends, by the code with which brokers repair one another. Only files that came out whole are put in place, each by one
//! rename, and what they replace is kept in `quarantine/`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use fluxmq_log::os_disk::OsDisk;
use fluxmq_log::range::range_in_dir;
use fluxmq_log::{
    Fenced, FileError, Hole, Log, LogOptions, Mended, OpenError, PatchError, RangeAnswer,
};

use crate::arguments::RepairArguments;
use crate::finding::exit_code;
use crate::log_files::LogFiles;
use crate::scan::{Opened, Segment};
use crate::side;
use crate::source::{self, Partition, SourceError};
use crate::{CommandError, EXIT_CORRUPTION, lock, verify};

mod overlay;
mod snapshots;

use overlay::{Overlay, Scratch};

/// How much is asked for at once.
const ASK_BYTES: usize = 1 << 20;

/// Why nothing can be repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// Segments cannot be told from their file alone.
    #[error("{} is no partition's directory: name one, such as data/p0001", path.display())]
    NotAPartition {
        /// What was named.
        path: PathBuf,
    },
    /// A directory cannot repair itself.
    #[error("{} and --from are the same directory", path.display())]
    Same {
        /// Which.
        path: PathBuf,
    },
    /// Neither directory says whose it is.
    #[error("no segment in {} or in --from has an intact header: nothing to begin with", dir.display())]
    Unknown {
        /// The partition's directory.
        dir: PathBuf,
    },
    /// They belong to different clusters or partitions.
    #[error(
        "{} holds partition {theirs} of another cluster, or another partition, than {} (partition {ours})",
        from.display(), dir.display()
    )]
    Foreign {
        /// The partition's directory.
        dir: PathBuf,
        /// Its partition.
        ours: u32,
        /// The other directory.
        from: PathBuf,
        /// Its partition.
        theirs: u32,
    },
    /// A vote is one replica's own, and no other has it.
    #[error(
        "{} is lost, both copies: term and vote of this replica, which no other has; if it has peers, \
         start it as it is: they give it back what it lost, and it does not vote before; if it has none, \
         restore the whole partition from a backup", path.display()
    )]
    HardState {
        /// The file.
        path: PathBuf,
    },
    /// The log cannot be read as far as it must be.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Writing to the overlay failed, or reading below it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The overlay has no room.
    #[error("cannot keep changed files in the directory for temporary files: {0}; set TMPDIR")]
    Scratch(#[source] io::Error),
}

/// Repairs a partition, or says what is damaged, and returns the exit code: 2 when damage stays.
pub fn run(arguments: &RepairArguments, out: &mut impl Write) -> Result<u8, CommandError> {
    let partition = one_partition(&arguments.path)?;
    let Some(from) = &arguments.from else { return tell(&partition, out) };
    let _lock = lock::hold(&arguments.path)?;
    let from = one_partition(from)?;
    let scratch = Scratch::new().map_err(RepairError::Scratch)?;
    let mut repair = Repair::open(&partition, &from, &scratch)?;
    repair.put_back()?;
    let mut places = repair.changed();
    places.extend(snapshots::missing(&LogFiles::open(&partition)?, &LogFiles::open(&from)?)?);
    repair.print(arguments.dry_run, out)?;
    for place in &places {
        match arguments.dry_run {
            true => writeln!(out, "  {} would be replaced", place.to.display())?,
            false => {
                let kept = place.install()?;
                writeln!(out, "  {}: {}", place.to.display(), place.what)?;
                if let Some(kept) = kept {
                    writeln!(out, "    what was there is kept as {}", kept.display())?;
                }
            }
        }
    }
    let opens = repair.opens();
    match &opens {
        Ok(()) if repair.lost.is_empty() => {
            writeln!(out, "  a broker opens it{}", if_done(arguments.dry_run))?;
        }
        Ok(()) => writeln!(
            out,
            "  a broker opens it{}, and meets what is lost when it reads there; one with peers gets it from them",
            if_done(arguments.dry_run)
        )?,
        Err(error) => {
            writeln!(
                out,
                "  a broker does not open it as it is{}: {error}",
                if_done(arguments.dry_run)
            )?;
            writeln!(
                out,
                "    one with peers gets the rest from them when it starts; from another replica's \
                 directory, run this command again with --from"
            )?;
        }
    }
    Ok(if opens.is_err() || !repair.lost.is_empty() { EXIT_CORRUPTION } else { 0 })
}

fn if_done(dry_run: bool) -> &'static str {
    if dry_run { ", if it were done" } else { "" }
}

/// Says what is damaged, and what can be done about it.
fn tell(partition: &Partition, out: &mut impl Write) -> Result<u8, CommandError> {
    let report = verify::verify(partition)?;
    let code = exit_code(report.findings.iter());
    if code == 0 {
        writeln!(out, "{}: nothing is damaged", partition.name)?;
        return Ok(code);
    }
    writeln!(out, "{}:", partition.name)?;
    for finding in &report.findings {
        finding.print(out)?;
    }
    if code < EXIT_CORRUPTION {
        writeln!(
            out,
            "nothing that was confirmed is touched: the broker mends this when it starts"
        )?;
        return Ok(code);
    }
    let dir = partition.dir.as_deref().unwrap_or(Path::new("")).display();
    writeln!(
        out,
        "what can be done:
  - with running peers: start the broker; it asks them for what it lost, and takes no part before it has it
  - with the directory of another replica, or a backup of this one, and the broker stopped:
      wal-tools repair {dir} --from ITS-PARTITION-DIRECTORY --dry-run
  - what is intact can be saved: wal-tools extract {dir} --as json -o saved.jsonl
nothing is ever cut off to make a damaged log start"
    )?;
    Ok(code)
}

/// Returns the partition that a path is the directory of.
fn one_partition(path: &Path) -> Result<Partition, CommandError> {
    let mut partitions = source::partitions(path)?;
    match (partitions.len(), partitions.pop()) {
        (1, Some(partition)) if is_its_dir(&partition, path) => Ok(partition),
        _ => Err(RepairError::NotAPartition { path: path.to_owned() }.into()),
    }
}

fn is_its_dir(partition: &Partition, path: &Path) -> bool {
    partition.dir.as_deref() == Some(path) && path.join("log").is_dir()
}

/// A file to be put in place.
struct Replacement {
    /// Its new content.
    content: PathBuf,
    /// Where it goes.
    to: PathBuf,
    /// Where what is there is kept.
    quarantine: PathBuf,
    what: String,
}

/// A repair under way.
struct Repair {
    name: String,
    dir: PathBuf,
    /// Below the root of the overlay.
    at: PathBuf,
    overlay: Overlay,
    log: Fenced<Overlay>,
    options: LogOptions,
    source: OsDisk,
    /// By segment and byte.
    mended: Vec<(Hole, Mended)>,
    lost: BTreeMap<(u64, u64), (Hole, String)>,
}

impl Repair {
    fn open(
        partition: &Partition,
        from: &Partition,
        scratch: &Scratch,
    ) -> Result<Repair, CommandError> {
        let canonical = |partition: &Partition| {
            let dir = partition.dir.clone().unwrap_or_default();
            fs::canonicalize(&dir).map_err(|source| SourceError::Io { path: dir, source })
        };
        let (dir, other) = (canonical(partition)?, canonical(from)?);
        if dir == other {
            return Err(RepairError::Same { path: dir }.into());
        }
        let options = owner(partition, from, &dir)?;
        let hard_state = dir.join("hs.bin");
        if side::read_commit(&dir)?.is_none() {
            return Err(RepairError::HardState { path: hard_state }.into());
        }
        let scratched = RepairError::Scratch;
        let parent = dir.parent().unwrap_or(&dir).to_owned();
        let at = PathBuf::from(dir.file_name().unwrap_or_default());
        let below = OsDisk::new(parent).map_err(scratched)?;
        let overlay = Overlay::new(below, scratch).map_err(scratched)?;
        let source = OsDisk::new(other).map_err(scratched)?;
        // The number of a life is asked for where replicas talk to one another; here it stays on the overlay.
        let log = Fenced::open(overlay.clone(), at.clone(), options, (0, 0));
        let log = log.map_err(RepairError::from)?;
        let (name, lost) = (partition.name.clone(), BTreeMap::new());
        Ok(Repair { name, dir, at, overlay, log, options, source, mended: Vec::new(), lost })
    }

    /// Fills every hole that the other directory has the content of.
    fn put_back(&mut self) -> Result<(), CommandError> {
        loop {
            while self.log.check_next().map_err(RepairError::from)? {}
            let mut holes = self.log.holes().into_iter();
            let Some(hole) = holes.find(|hole| !self.lost.contains_key(&key(hole))) else {
                return Ok(());
            };
            match self.fill(&hole)? {
                Ok(mended) => self.mended.push((hole, mended)),
                Err(why) => {
                    self.lost.insert(key(&hole), (hole, why));
                }
            }
        }
    }

    fn fill(&mut self, hole: &Hole) -> Result<Result<Mended, String>, CommandError> {
        loop {
            let request = self.log.ask(hole);
            let answer = range_in_dir(&self.source, Path::new(""), &request, ASK_BYTES);
            let bytes = match answer.map_err(RepairError::from)? {
                RangeAnswer::Bytes(bytes) => bytes,
                RangeAnswer::Absent => return Ok(Err("--from does not have the segment".into())),
                _ => {
                    let index = request.index;
                    let why = format!("--from does not have entry {index} there, or damaged too");
                    return Ok(Err(why));
                }
            };
            match self.log.take(hole, &request, &bytes) {
                Ok(None) => {}
                Ok(Some(mended)) => return Ok(Ok(mended)),
                Err(PatchError::File(error)) => return Err(RepairError::from(error).into()),
                Err(PatchError::Open(error)) => return Err(RepairError::from(error).into()),
                Err(
                    refused @ (PatchError::Unwanted { .. }
                    | PatchError::Corrupt { .. }
                    | PatchError::Disjoint { .. }),
                ) => return Ok(Err(format!("what --from has there does not fit: {refused}"))),
            }
        }
    }

    /// Returns the segments that were written.
    fn changed(&self) -> Vec<Replacement> {
        let mut numbers: Vec<u64> =
            self.mended.iter().map(|(hole, _)| hole.damage.segment_no).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let replacement = |number: u64| {
            let to = source::segment_path(&self.dir, number);
            let below = source::segment_path(&self.at, number);
            let content = self.overlay.written(&below)?;
            let quarantine = self.dir.join("quarantine");
            Some(Replacement { content, to, quarantine, what: "put back".into() })
        };
        numbers.into_iter().filter_map(replacement).collect()
    }

    fn print(&self, dry_run: bool, out: &mut impl Write) -> Result<(), CommandError> {
        let (mended, lost) = (self.mended.len(), self.lost.len());
        if mended + lost == 0 {
            writeln!(out, "{}: no frame is damaged", self.name)?;
            return Ok(());
        }
        let done = if dry_run { "can be put back" } else { "are put back" };
        writeln!(out, "{}: {} places are damaged, {mended} {done}", self.name, mended + lost)?;
        for (hole, mended) in &self.mended {
            let what = match mended {
                Mended::Frame => "one frame",
                Mended::Block => "several frames, or the header",
                Mended::Segment => "the whole segment",
            };
            writeln!(out, "  {}: {what}", place(hole))?;
        }
        for (hole, why) in self.lost.values() {
            writeln!(out, "  {}: LOST: {why}", place(hole))?;
            writeln!(out, "    try the directory of another replica; nothing there was touched")?;
        }
        Ok(())
    }

    /// Opens the log as a broker that is alone would.
    fn opens(&self) -> Result<(), OpenError> {
        Log::open(self.overlay.clone(), self.at.clone(), self.options).map(drop)
    }
}

fn key(hole: &Hole) -> (u64, u64) {
    (hole.damage.segment_no, hole.damage.from_bytes)
}

fn place(hole: &Hole) -> String {
    let damage = &hole.damage;
    let to = damage.to_bytes.map_or("its end".to_owned(), |to| to.to_string());
    let end = damage.end_offset.map_or("an unknown end".to_owned(), |end| end.to_string());
    let (path, from, first) = (damage.path.display(), damage.from_bytes, damage.first_offset);
    format!("{path}, bytes {from}..{to}, offsets {first}..{end} ({})", damage.fault)
}

/// Returns whose log it is, by the first intact segments, which must agree.
fn owner(partition: &Partition, from: &Partition, dir: &Path) -> Result<LogOptions, CommandError> {
    let first = |partition: &Partition| -> Result<Option<_>, CommandError> {
        for path in &partition.segments {
            if let Opened::Segment(Segment { header, .. }) = Segment::open(path)? {
                return Ok(Some(header));
            }
        }
        Ok(None)
    };
    let (ours, theirs) = (first(partition)?, first(from)?);
    if let (Some(ours), Some(theirs)) = (&ours, &theirs)
        && (ours.cluster, ours.partition) != (theirs.cluster, theirs.partition)
    {
        let (ours, theirs) = (ours.partition, theirs.partition);
        let from = from.dir.clone().unwrap_or_default();
        return Err(RepairError::Foreign { dir: dir.to_owned(), ours, from, theirs }.into());
    }
    let Some(header) = ours.or(theirs) else {
        return Err(RepairError::Unknown { dir: dir.to_owned() }.into());
    };
    let (cluster, partition) = (header.cluster, header.partition);
    Ok(LogOptions { cluster, partition, cache_bytes: 1 << 20, ..LogOptions::default() })
}

impl Replacement {
    /// Puts the content in place, durably and at once, and returns where what was there is kept.
    fn install(&self) -> Result<Option<PathBuf>, CommandError> {
        let failed = |path: &Path, source| CommandError::Write { path: path.to_owned(), source };
        let mut part = self.to.clone().into_os_string();
        part.push(".tmp");
        let part = PathBuf::from(part);
        let written = fs::copy(&self.content, &part).and_then(|_| File::open(&part)?.sync_all());
        written.map_err(|source| failed(&part, source))?;
        let kept = match self.to.exists() {
            true => Some(self.keep().map_err(|source| failed(&self.quarantine, source))?),
            false => None,
        };
        let dir = self.to.parent().unwrap_or(Path::new("."));
        fs::rename(&part, &self.to)
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(|source| failed(&self.to, source))?;
        Ok(kept)
    }

    /// Keeps what is there under another name.
    fn keep(&self) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.quarantine)?;
        let name = self.to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for number in 1..u32::MAX {
            let kept = self.quarantine.join(format!("{name}.before-repair-{number}"));
            if kept.exists() {
                continue;
            }
            // Not every file system has links.
            if fs::hard_link(&self.to, &kept).is_err() {
                fs::copy(&self.to, &kept)?;
                File::open(&kept)?.sync_all()?;
            }
            File::open(&self.quarantine)?.sync_all()?;
            return Ok(kept);
        }
        Err(ErrorKind::AlreadyExists.into())
    }
}
