//! Checks every checksum and the continuity of the log, and tells a torn tail from lost data.
//!
//! A bad frame is a torn tail only if nothing proves that it was once durable: it lies in the last segment, behind
//! what later frames say was synced, and behind what the hard state, `sync.bin` and snapshots prove. A second
//! implementation of the rules by which the broker opens its log, on purpose: it judges the first.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fluxmq_index::Offset;
use fluxmq_log::format::{SEGMENT_HEADER_BYTES, SegmentHeader};

use crate::arguments::VerifyArguments;
use crate::finding::{Advice, Finding, Records, Severity, exit_code};
use crate::index::{Making, State, index_path, read_index};
use crate::link::Link;
use crate::scan::{Opened, Scanned, Segment};
use crate::side::{self, SideFiles};
use crate::source::{self, Partition, SourceError};
use crate::{CommandError, EXIT_CORRUPTION, text};

#[cfg(test)]
mod flips;
mod seal;
mod segment;

use segment::SegmentCheck;

/// How often damage must be seen before it is reported.
const ATTEMPTS: usize = 4;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// Checks what is under a path and returns the exit code.
pub fn run(arguments: &VerifyArguments, out: &mut impl Write) -> Result<u8, CommandError> {
    let partitions = source::partitions(&arguments.path)?;
    let mut code = 0;
    let node = SideFiles::read_node_id(&arguments.path)?;
    if !node.findings.is_empty() {
        writeln!(out, "node.id: damaged")?;
        node.findings.iter().try_for_each(|finding| finding.print(out))?;
        code = exit_code(node.findings.iter());
    }
    for partition in partitions {
        let report = verify_settled(&partition)?;
        report.print(&partition.name, out)?;
        code = code.max(exit_code(report.findings.iter()));
    }
    Ok(code)
}

/// What is known of a partition after reading it.
#[derive(Debug, Default)]
pub struct Report {
    segment_count: u64,
    frame_count: u64,
    record_count: u64,
    used_bytes: u64,
    /// The first offset and the one behind the last.
    offsets: Option<(Offset, Offset)>,
    /// What is wrong, in the order of the files.
    pub findings: Vec<Finding>,
    /// What is unusual but harmless.
    notes: Vec<String>,
}

impl Report {
    fn print(&self, name: &str, out: &mut impl Write) -> Result<(), CommandError> {
        let verdict = match self.findings.iter().map(|finding| finding.severity).max() {
            None => "clean",
            Some(Severity::Derived) => "wrong index",
            Some(Severity::Unused) => "rot in unused bytes",
            Some(Severity::TornTail) => "torn tail",
            Some(Severity::Corruption) => "CORRUPT",
        };
        let (start, end) = self.offsets.unwrap_or_default();
        writeln!(
            out,
            "{name}: {verdict}: {} segments, {} frames, {} records, offsets {start}..{end}, {}",
            self.segment_count,
            self.frame_count,
            self.record_count,
            text::size(self.used_bytes),
        )?;
        for finding in &self.findings {
            finding.print(out)?;
        }
        for note in &self.notes {
            writeln!(out, "  note: {note}")?;
        }
        Ok(())
    }
}

/// Reads a partition again when it looks damaged: a running broker writes between our reads, and damage is still there afterwards.
fn verify_settled(partition: &Partition) -> Result<Report, SourceError> {
    for _ in 1..ATTEMPTS {
        let report = verify(partition)?;
        if exit_code(report.findings.iter()) < EXIT_CORRUPTION {
            return Ok(report);
        }
        std::thread::sleep(BETWEEN_ATTEMPTS);
    }
    verify(partition)
}

/// Reads a whole partition.
pub fn verify(partition: &Partition) -> Result<Report, SourceError> {
    let side = match &partition.dir {
        Some(dir) => SideFiles::read(dir)?,
        None => SideFiles::default(),
    };
    let mut verifier =
        Verifier { partition, side, link: None, first: None, report: Report::default() };
    verifier.report.findings.append(&mut verifier.side.findings);
    verifier.link = verifier.side.manifest.as_ref().map(|manifest| Link::after_base(manifest.base));
    let paths = verifier.listed()?;
    for (at, path) in paths.iter().enumerate() {
        verifier.file(path, at + 1 == paths.len())?;
    }
    if paths.is_empty() {
        verifier.check_empty();
    }
    Ok(verifier.report)
}

/// Walks from segment to segment.
struct Verifier<'a> {
    partition: &'a Partition,
    side: SideFiles,
    /// What the next segment must continue; none before the first, and behind one that is gone.
    link: Option<Link>,
    /// The header of the first segment: all others belong to the same partition and cluster.
    first: Option<SegmentHeader>,
    report: Report,
}

impl Verifier<'_> {
    /// Returns the files that the manifest lists; all of them without a manifest.
    fn listed(&mut self) -> Result<Vec<PathBuf>, SourceError> {
        let paths = &self.partition.segments;
        let (Some(manifest), Some(dir)) = (self.side.manifest.clone(), &self.partition.dir) else {
            return Ok(paths.clone());
        };
        let mut listed = Vec::new();
        let mut missing = manifest.segments.clone();
        let mut unlisted = Vec::new();
        for path in paths {
            match source::segment_number(path) {
                Some(number) if missing.remove(&number).is_some() => listed.push(path.clone()),
                Some(number) if manifest.dropped.contains(&number) => {}
                number => unlisted.push((number, path)),
            }
        }
        let next = manifest.segments.last_key_value().map_or(0, |(number, _)| number + 1);
        for segment_no in missing.into_keys() {
            let path = source::segment_path(dir, segment_no);
            // A running broker may have created or dropped it since the directory was listed.
            if path.exists() {
                listed.push(path);
            } else if side::is_segment_listed(dir, segment_no)? {
                let what = "is missing, although the manifest lists it";
                let records = Records::From { start: manifest.base.offset };
                self.report_lost(&path, 0..0, what.to_owned(), records);
            }
        }
        listed.sort();
        for (number, path) in unlisted {
            self.unlisted(path, number == Some(next), &mut listed)?;
        }
        Ok(listed)
    }

    /// Takes a file into account that the manifest does not list, as the broker would: frames are only written after
    /// the segment was listed, so with frames in it not the segment is too much but the manifest too short.
    fn unlisted(
        &mut self,
        path: &Path,
        is_next: bool,
        listed: &mut Vec<PathBuf>,
    ) -> Result<(), SourceError> {
        let has_frames = match Segment::open(path)? {
            Opened::Gone => return Ok(()),
            Opened::Bad(_) => false,
            Opened::Segment(segment) => {
                matches!(segment.scan().next().transpose()?, Some(Scanned::Frame(_)))
            }
        };
        if has_frames && is_next {
            self.report.findings.push(Finding {
                severity: Severity::TornTail,
                file: path.to_owned(),
                bytes: 0..0,
                what: "is not listed in the manifest, although it holds frames".into(),
                records: Records::None,
                advice: Advice::Rebuilt,
            });
            listed.push(path.to_owned());
        } else {
            let path = path.display();
            self.report.notes.push(format!("{path} is not listed in the manifest; not read"));
        }
        Ok(())
    }

    /// Checks that a log without segments is one that never had more than its base.
    fn check_empty(&mut self) {
        let base = self.side.manifest.as_ref().map(|manifest| manifest.base).unwrap_or_default();
        if self.side.proven_index > base.index
            && let Some(dir) = self.partition.dir.clone()
        {
            let proven = self.side.proven_index;
            let what = format!("there is no segment, although index {proven} was durable");
            self.report_lost(&dir, 0..0, what, Records::From { start: base.offset });
        }
    }

    fn file(&mut self, path: &Path, is_last: bool) -> Result<(), SourceError> {
        match Segment::open(path)? {
            // Retention deletes from the front: what follows has no predecessor any more.
            Opened::Gone => self.link = None,
            Opened::Bad(error) => {
                let start = self.link.map(|link| link.offset).unwrap_or_default();
                let bytes = 0..SEGMENT_HEADER_BYTES as u64;
                self.report_lost(path, bytes, error.to_string(), Records::From { start });
                self.link = self.link.map(Link::loosened);
            }
            Opened::Segment(segment) => self.segment(&segment, is_last)?,
        }
        Ok(())
    }

    fn segment(&mut self, segment: &Segment, is_last: bool) -> Result<(), SourceError> {
        self.check_place(segment);
        let mut check = SegmentCheck::new(&segment.header, self.side.proven_index);
        let number = segment.header.segment_no;
        let mut cut = self.side.truncation().filter(|cut| cut.segment_no == number);
        let mut making = self.making(segment);
        for step in segment.scan() {
            let step = step?;
            if let (Some(making), Scanned::Frame(placed)) = (&mut making, &step) {
                making.frame(placed);
            }
            match step {
                Scanned::Frame(placed) => {
                    check.frame(&placed);
                    cut = cut.filter(|cut| !cut.is_over(&placed));
                }
                Scanned::Damage(damage) => check.damage(&damage),
                Scanned::End(tail) => check.end(&tail, is_last, segment.file_bytes()),
            }
        }
        self.report.segment_count += 1;
        self.report.frame_count += check.frame_count + u64::from(check.is_sealed);
        self.report.record_count += check.record_count;
        self.report.used_bytes += check.used_bytes;
        let start = self.report.offsets.map_or(segment.header.base_offset, |(start, _)| start);
        self.report.offsets = Some((start, check.link.offset));
        let listed =
            self.side.manifest.as_ref().and_then(|manifest| manifest.segments.get(&number));
        let closed_at = listed.copied().flatten();
        if let Some(end_bytes) = closed_at {
            check.closed(end_bytes);
        }
        let is_open = is_last && !check.is_sealed && closed_at.is_none();
        for doubt in check.doubts.iter() {
            let is_being_cut = cut.is_some_and(|cut| doubt.position >= cut.from_bytes);
            let is_torn = is_being_cut || is_open && !check.is_proven(doubt);
            self.report.findings.push(Finding {
                severity: if is_torn { Severity::TornTail } else { Severity::Corruption },
                file: segment.path().to_owned(),
                bytes: doubt.position..doubt.end,
                what: doubt.what.clone(),
                records: doubt.records,
                advice: if is_torn { Advice::Cut } else { Advice::Restore },
            });
        }
        // If frames are missing at the end, the bytes there are what is left of them.
        let stray = check.stray.filter(|_| closed_at.is_none_or(|end| end == check.tail_at));
        if let Some(first) = stray {
            self.report.findings.push(Finding {
                severity: Severity::Unused,
                file: segment.path().to_owned(),
                bytes: check.tail_at..segment.file_bytes(),
                what: format!("behind the last frame there are not only zeros: byte {first}"),
                records: Records::None,
                advice: Advice::Wiped,
            });
        }
        self.link = Some(check.link);
        match making.filter(|_| check.doubts.is_empty()) {
            Some(making) => self.check_index(making, segment.path()),
            None => Ok(()),
        }
    }

    /// Begins the index of a segment that has one beside it.
    fn making(&self, segment: &Segment) -> Option<Making> {
        index_path(segment.path()).exists().then(|| Making::new(segment))
    }

    /// Compares an index with its segment. A damaged segment is told by itself.
    fn check_index(&mut self, making: Making, segment: &Path) -> Result<(), SourceError> {
        let judged = making.judge(segment)?;
        if let (State::Unreadable(_) | State::Different, Some(_)) = (&judged.state, &judged.bytes) {
            let file = index_path(segment);
            let len = read_index(&file)?.map_or(0, |bytes| bytes.len() as u64);
            self.report.findings.push(Finding {
                severity: Severity::Derived,
                file,
                bytes: 0..len,
                what: judged.state.to_string(),
                records: Records::None,
                advice: Advice::Indexed,
            });
        }
        Ok(())
    }

    /// Checks that the segment is where it belongs.
    fn check_place(&mut self, segment: &Segment) {
        let header = &segment.header;
        let mut wrong = Vec::new();
        if let Some(number) = source::segment_number(segment.path())
            && number != header.segment_no
        {
            wrong.push(format!("the file holds segment {}, not {number}", header.segment_no));
        }
        if let Some(number) = self.partition.number
            && number != header.partition
        {
            wrong.push(format!("the file belongs to partition {}, not {number}", header.partition));
        }
        let first = *self.first.get_or_insert(*header);
        if first.cluster != header.cluster || first.partition != header.partition {
            wrong.push("the file belongs to another cluster or partition than the first".into());
        }
        if let Some(link) = self.link
            && let Err(error) = link.check_segment(header)
        {
            wrong.push(format!("does not continue the segment before: {error}"));
        }
        let start = self.link.map_or(header.base_offset, |link| link.offset);
        let records = if start < header.base_offset {
            Records::Known { start, end: header.base_offset }
        } else {
            Records::None
        };
        for what in wrong {
            self.report_lost(segment.path(), 0..SEGMENT_HEADER_BYTES as u64, what, records);
        }
    }

    fn report_lost(&mut self, path: &Path, bytes: Range<u64>, what: String, records: Records) {
        let (file, severity) = (path.to_owned(), Severity::Corruption);
        let advice = Advice::Restore;
        self.report.findings.push(Finding { severity, file, bytes, what, records, advice });
    }
}
