//! The log of one partition as its broker sees it: which files are its own, and their frames, each continuing the one before.
//!
//! Where `walk.rs` steps over damage and goes on, this stops: what lies behind a gap cannot be applied to what is before it.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fluxmq::model::frame::decode;
use fluxmq_index::Offset;
use fluxmq_log::SnapshotAt;
use fluxmq_log::format::{BatchReader, BatchRecord, Message, SEGMENT_HEADER_BYTES};

use crate::CommandError;
use crate::fold::FoldError;
use crate::link::Link;
use crate::record_line::Place;
use crate::scan::{Opened, Placed, Scanned, Segment};
use crate::side::manifest::{Base, Manifest, Truncation};
use crate::side::snapshot::{self, SnapshotDamage};
use crate::side::{self, snapshot_path};
use crate::source::{self, Partition, SourceError, SourceFile};
use crate::walk::Listed;

/// The files of one partition.
pub struct LogFiles {
    /// What to call it.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// The entry before the first.
    pub base: Base,
    /// Indexes of its snapshots. One from before the log begins is left over from a trim: what followed it is gone.
    pub snapshots: BTreeSet<u64>,
    /// Oldest first, up to the first that cannot be read.
    pub segments: Vec<Listed>,
    /// What is in the way behind them.
    broken: Option<Gap>,
    cut: Option<Truncation>,
    /// As it was read.
    manifest: Option<Manifest>,
}

/// Where a log cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub bytes: Range<u64>,
    /// What is wrong.
    pub what: String,
    /// The first offset that cannot be read.
    pub offset: Offset,
    /// Nothing intact follows: a torn tail looks like this.
    pub is_tail: bool,
}

impl fmt::Display for Gap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.bytes;
        let (path, what, offset) = (self.path.display(), &self.what, self.offset);
        write!(formatter, "{path}, bytes {start}..{end}: {what}; read up to before offset {offset}")
    }
}

impl LogFiles {
    /// Lists the files that the manifest lists; without a manifest, those there are.
    pub fn open(partition: &Partition) -> Result<LogFiles, CommandError> {
        let name = partition.name.clone();
        let Some(dir) = partition.dir.clone() else { return Err(FoldError::Alone { name }.into()) };
        let manifest = side::read_manifest(&dir)?;
        let mut log = LogFiles {
            name,
            base: Base::default(),
            snapshots: BTreeSet::new(),
            segments: Vec::new(),
            broken: None,
            cut: manifest.as_ref().and_then(|manifest| manifest.truncation),
            manifest: manifest.clone(),
            dir,
        };
        let there = partition.segments.iter().filter_map(|path| source::segment_number(path));
        let mut numbers: BTreeSet<u64> = there.collect();
        match manifest {
            Some(mut manifest) => {
                // The manifest may be a step behind a broker that was killed: a segment with frames that continues is the log's.
                let next = manifest.segments.last_key_value().map_or(0, |(number, _)| number + 1);
                let is_next = numbers.contains(&next) && !manifest.dropped.contains(&next);
                if is_next && is_segment(&source::segment_path(&log.dir, next))? {
                    manifest.segments.insert(next, None);
                }
                numbers = manifest.segments.into_keys().collect();
                (log.base, log.snapshots) = (manifest.base, manifest.snapshots);
            }
            None => log.snapshots = log.listed_snapshots()?,
        }
        for number in numbers {
            log.add(number)?;
        }
        if let Some(first) = log.segments.first().filter(|_| log.base == Base::default()) {
            let header = first.header;
            log.base = Base {
                index: header.base_index.saturating_sub(1),
                term: header.prev_term,
                offset: header.base_offset,
            };
        }
        log.snapshots.retain(|index| *index >= log.base.index);
        if let (Some(last), None) = (log.segments.last_mut(), &log.broken) {
            last.is_last = true;
        }
        Ok(log)
    }

    /// Tells whether a running broker has begun or removed segments or snapshots since the files were listed: what is missing then is
    /// not lost.
    pub fn has_changed(&self) -> Result<bool, SourceError> {
        Ok(side::read_manifest(&self.dir)? != self.manifest)
    }

    fn add(&mut self, number: u64) -> Result<(), SourceError> {
        if self.broken.is_some() {
            return Ok(());
        }
        let path = source::segment_path(&self.dir, number);
        let what = match Segment::open(&path)? {
            Opened::Segment(Segment { header, .. }) => {
                self.segments.push(Listed { path, header, is_last: false });
                return Ok(());
            }
            // Removed by a running broker since the manifest was read.
            Opened::Gone if !side::is_segment_listed(&self.dir, number)? => return Ok(()),
            Opened::Gone => "the segment is missing".to_owned(),
            Opened::Bad(error) => error.to_string(),
        };
        let bytes = 0..SEGMENT_HEADER_BYTES as u64;
        let offset = self.base.offset;
        self.broken = Some(Gap { path, bytes, what, offset, is_tail: false });
        Ok(())
    }

    fn listed_snapshots(&self) -> Result<BTreeSet<u64>, SourceError> {
        let dir = self.dir.join("snap");
        if !dir.is_dir() {
            return Ok(BTreeSet::new());
        }
        let names = source::names(&dir)?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".snap")?.parse().ok()).collect())
    }

    /// Visits the frames from index `from` on until the visitor breaks, and returns what else ended it: the end of the log is `None`.
    pub fn frames(
        &self,
        from: u64,
        mut visit: impl FnMut(&Listed, &Placed) -> Result<ControlFlow<()>, CommandError>,
    ) -> Result<Option<Gap>, CommandError> {
        let first = self.segments.partition_point(|listed| listed.header.base_index <= from);
        let mut link: Option<Link> = None;
        for listed in &self.segments[first.saturating_sub(1)..] {
            if let Some(Err(error)) = link.map(|link| link.check_segment(&listed.header)) {
                return Ok(Some(header_gap(listed, link, error.to_string())));
            }
            let Opened::Segment(segment) = Segment::open(&listed.path)? else {
                return Ok(Some(header_gap(
                    listed,
                    link,
                    "the segment is gone: a running broker trimmed it while it was read".into(),
                )));
            };
            let mut next = Link::at_start(&listed.header);
            let mut gap: Option<Gap> = None;
            for step in segment.scan() {
                let placed = match step? {
                    Scanned::Frame(placed) => placed,
                    Scanned::Damage(damage) => {
                        let bytes = damage.position..damage.end;
                        let what = damage.error.to_string();
                        gap.get_or_insert_with(|| self.gap(listed, bytes, what, next.offset));
                        continue;
                    }
                    Scanned::End(_) => continue,
                };
                if let Some(gap) = gap {
                    return Ok(Some(Gap { is_tail: false, ..gap }));
                }
                let header = &placed.frame.header;
                if self.is_cut(listed, &placed) {
                    return Ok(None);
                }
                if let Err(error) = next.check_frame(header) {
                    let bytes = placed.position..placed.position + header.frame_bytes();
                    let gap = self.gap(listed, bytes, error.to_string(), next.offset);
                    return Ok(Some(Gap { is_tail: false, ..gap }));
                }
                next = Link::after(header);
                if header.index >= from && visit(listed, &placed)?.is_break() {
                    return Ok(None);
                }
            }
            if gap.is_some() {
                return Ok(gap);
            }
            link = Some(next);
        }
        let offset = link.map_or(self.base.offset, |link| link.offset);
        Ok(self.broken.clone().map(|gap| Gap { offset, ..gap }))
    }

    fn gap(&self, listed: &Listed, bytes: Range<u64>, what: String, offset: Offset) -> Gap {
        Gap { path: listed.path.clone(), bytes, what, offset, is_tail: listed.is_last }
    }

    /// Tells whether a crash has interrupted the cutting of this frame and all behind it.
    fn is_cut(&self, listed: &Listed, placed: &Placed) -> bool {
        self.cut.is_some_and(|cut| {
            cut.segment_no == listed.header.segment_no
                && placed.position >= cut.from_bytes
                && !(placed.position == cut.from_bytes && cut.is_over(placed))
        })
    }

    /// Reads a snapshot: what it contains everything up to, and its chunks.
    pub fn snapshot(
        &self,
        index: u64,
    ) -> Result<Result<(SnapshotAt, Vec<Bytes>), SnapshotDamage>, SourceError> {
        match SourceFile::open(&snapshot_path(&self.dir, index))? {
            Some(file) => snapshot::read(&file, index),
            None => Ok(Err(SnapshotDamage::Missing)),
        }
    }

    /// Finds the first record that is younger than `time`; `None` where none is.
    pub fn first_after(&self, time: u64) -> Result<Option<Offset>, CommandError> {
        let first = self.segments.partition_point(|listed| listed.header.base_ts <= time);
        let Some(listed) = self.segments.get(first.saturating_sub(1)) else { return Ok(None) };
        let mut found = None;
        self.frames(listed.header.base_index, |listed, placed| {
            if placed.frame.header.max_ts() <= time {
                return Ok(ControlFlow::Continue(()));
            }
            for record in decode(&placed.frame).map_err(|e| FoldError::decode(listed, placed, e))? {
                let (offset, stamped, _) =
                    record.map_err(|error| FoldError::decode(listed, placed, error))?;
                if stamped.0 > time {
                    found = Some(offset);
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// Reads one message; `None` where the log does not have it any more, or something else.
    pub fn message(&self, offset: Offset) -> Result<Option<(Place, Message)>, CommandError> {
        let after = self.segments.partition_point(|listed| listed.header.base_offset <= offset);
        let Some(at) = after.checked_sub(1) else { return Ok(None) };
        let mut found = None;
        self.frames(self.segments[at].header.base_index, |listed, placed| {
            let header = &placed.frame.header;
            if header.end_offset() <= offset {
                return Ok(ControlFlow::Continue(()));
            }
            let records = BatchReader::new(header, placed.frame.body.clone());
            for (at, record) in records.into_iter().flatten().flatten() {
                if let (true, BatchRecord::Message(message)) = (at == offset, record) {
                    found = Some((Place::of(listed, header, offset), message));
                }
            }
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }
}

fn is_segment(path: &Path) -> Result<bool, SourceError> {
    Ok(matches!(Segment::open(path)?, Opened::Segment(_)))
}

fn header_gap(listed: &Listed, link: Option<Link>, what: String) -> Gap {
    let offset = link.map_or(listed.header.base_offset, |link| link.offset);
    let bytes = 0..SEGMENT_HEADER_BYTES as u64;
    Gap { path: listed.path.clone(), bytes, what, offset, is_tail: false }
}
