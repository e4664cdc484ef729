//! Compares two replicas of the same partitions: all but the eight bytes per frame that are a replica's own must be equal.
//!
//! One that is shorter, or begins later, is no difference: it lags, or has been trimmed. Each segment is compared by itself, and
//! its first difference is told, with the side that fails its own checks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use fluxmq_log::format::{FRAME_HEADER_BYTES, FrameHeader, SEGMENT_HEADER_BYTES};
use serde::Serialize;

use crate::arguments::DiffArguments;
use crate::scan::{Opened, Scanned, Segment};
use crate::source::{self, Partition, SourceError, SourceFile, segment_number};
use crate::{CommandError, EXIT_CORRUPTION};

/// Where a replica's own eight bytes begin in a frame's header.
const LOCAL_AT: u64 = 88;

/// Prints how the replicas compare, one line for each partition and each segment that differs, and returns the exit code.
pub fn run(arguments: &DiffArguments, out: &mut impl Write) -> Result<u8, CommandError> {
    let both = [source::partitions(&arguments.path)?, source::partitions(&arguments.other)?];
    let pairs = pairs(both);
    let mut code = 0;
    for (name, [one, other]) in pairs {
        let report = match (one, other) {
            (Some(one), Some(other)) => compare(name, &one, &other)?,
            (Some(_), None) => Report::missing(name, "b"),
            (None, _) => Report::missing(name, "a"),
        };
        if !report.is_prefix() {
            code = EXIT_CORRUPTION;
        }
        match arguments.json {
            true => {
                let line = serde_json::to_string(&report).map_err(std::io::Error::from)?;
                writeln!(out, "{line}")?;
            }
            false => report.print(out)?,
        }
    }
    Ok(code)
}

/// Pairs partitions by number; two single ones are a pair whatever they are called.
fn pairs(both: [Vec<Partition>; 2]) -> BTreeMap<String, [Option<Partition>; 2]> {
    let is_one_each = both.iter().all(|side| side.len() == 1);
    let mut pairs: BTreeMap<String, [Option<Partition>; 2]> = BTreeMap::new();
    let first = both[0].first().map(|partition| partition.name.clone());
    for (side, partitions) in both.into_iter().enumerate() {
        for partition in partitions {
            let name = match (&first, is_one_each) {
                (Some(first), true) => first.clone(),
                _ => partition.name.clone(),
            };
            pairs.entry(name).or_default()[side] = Some(partition);
        }
    }
    pairs
}

/// How two replicas of a partition compare.
#[derive(Debug, Serialize)]
struct Report {
    partition: String,
    /// `same`, `shorter`, `later`, or `differs`.
    outcome: &'static str,
    /// Segments that both have.
    segments: u64,
    /// The offset and index after the last frame that both have and that is equal with all before it.
    same_to_offset: u64,
    same_to_index: u64,
    /// Which side ends first, `a` or `b`, and how many frames the other has beyond.
    #[serde(skip_serializing_if = "Option::is_none")]
    shorter: Option<&'static str>,
    frames_beyond: u64,
    /// Which side begins later, and at which segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    later: Option<&'static str>,
    first_segment: u64,
    differences: Vec<Difference>,
}

/// The first difference of a segment.
#[derive(Debug, Serialize)]
struct Difference {
    segment: u64,
    /// Position in the file of the first byte that differs.
    byte: u64,
    /// The entry it is in, and its offsets: of the side that can say.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_offset: Option<u64>,
    /// What fails on each side; absent where its checks hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    a_fails: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b_fails: Option<String>,
    what: &'static str,
}

/// Bytes of a segment that begin like a frame, or should.
struct Item {
    position: u64,
    end: u64,
    header: Option<FrameHeader>,
    fault: Option<String>,
}

/// A segment of one side.
struct Found {
    path: PathBuf,
    header: Result<u64, String>,
    items: Vec<Item>,
    is_last: bool,
}

fn compare(name: String, one: &Partition, other: &Partition) -> Result<Report, CommandError> {
    let sides = [numbered(one), numbered(other)];
    let mut report = Report::new(name);
    let firsts = sides.each_ref().map(|side| side.keys().next().copied().unwrap_or(0));
    report.first_segment = firsts[0].max(firsts[1]);
    if firsts[0] != firsts[1] && sides.iter().all(|side| !side.is_empty()) {
        report.later = Some(if firsts[0] > firsts[1] { "a" } else { "b" });
    }
    let lasts = sides.each_ref().map(|side| side.keys().next_back().copied());
    let numbers: BTreeSet<u64> = sides.iter().flat_map(|side| side.keys().copied()).collect();
    let first = report.first_segment;
    for number in numbers.into_iter().filter(|number| *number >= first) {
        let found = sides.each_ref().map(|side| side.get(&number));
        match found {
            [Some(one), Some(other)] => {
                let one = Found::read(one, lasts[0] == Some(number))?;
                let other = Found::read(other, lasts[1] == Some(number))?;
                report.segments += 1;
                report.segment(number, &one, &other)?;
            }
            [one, other] => {
                let side = usize::from(one.is_none());
                let path = one.or(other).expect("one of them has it");
                let frames = Found::read(path, false)?.items.len() as u64;
                let lacks = 1 - side;
                let is_followed = lasts[lacks].is_some_and(|last| last > number);
                report.alone(number, lacks, is_followed, frames);
            }
        }
    }
    report.settle();
    Ok(report)
}

/// Segment files by number; one alone may have any name.
fn numbered(partition: &Partition) -> BTreeMap<u64, PathBuf> {
    let number = |path: &Path| match partition.dir {
        Some(_) => segment_number(path),
        None => Some(0),
    };
    let segments = partition.segments.iter();
    segments.filter_map(|path| Some((number(path)?, path.clone()))).collect()
}

impl Found {
    fn read(path: &Path, is_last: bool) -> Result<Found, SourceError> {
        let mut found = Found {
            path: path.to_owned(),
            header: Err("file is gone".to_owned()),
            items: Vec::new(),
            is_last,
        };
        let segment = match Segment::open(path)? {
            Opened::Segment(segment) => segment,
            Opened::Gone => return Ok(found),
            Opened::Bad(error) => {
                found.header = Err(error.to_string());
                return Ok(found);
            }
        };
        found.header = Ok(segment.header.base_index);
        for step in segment.scan() {
            match step? {
                Scanned::Frame(placed) => {
                    let header = placed.frame.header;
                    let (position, end) = (placed.position, placed.position + header.frame_bytes());
                    let fault = placed.defect.map(|defect| defect.to_string());
                    found.items.push(Item { position, end, header: Some(header), fault });
                }
                Scanned::Damage(damage) => found.items.push(Item {
                    position: damage.position,
                    end: damage.end,
                    header: damage.header,
                    fault: Some(damage.error.to_string()),
                }),
                Scanned::End(_) => {}
            }
        }
        Ok(found)
    }

    fn end(&self) -> u64 {
        self.items.last().map_or(SEGMENT_HEADER_BYTES as u64, |item| item.end)
    }
}

impl Report {
    fn new(partition: String) -> Report {
        Report {
            partition,
            outcome: "same",
            segments: 0,
            same_to_offset: 0,
            same_to_index: 0,
            shorter: None,
            frames_beyond: 0,
            later: None,
            first_segment: 0,
            differences: Vec::new(),
        }
    }

    fn missing(partition: String, side: &'static str) -> Report {
        let mut report = Report::new(partition);
        let fails = Some("partition is missing".to_owned());
        let (a_fails, b_fails) = if side == "a" { (fails, None) } else { (None, fails) };
        report.differences.push(Difference {
            segment: 0,
            byte: 0,
            index: None,
            offset: None,
            end_offset: None,
            a_fails,
            b_fails,
            what: "partition on one side only",
        });
        report.settle();
        report
    }

    fn is_prefix(&self) -> bool {
        self.differences.is_empty()
    }

    fn settle(&mut self) {
        self.outcome = match (self.differences.is_empty(), self.shorter, self.later) {
            (false, _, _) => "differs",
            (true, Some(_), _) => "shorter",
            (true, None, Some(_)) => "later",
            (true, None, None) => "same",
        };
    }

    /// Notes a segment that only one side has.
    fn alone(&mut self, number: u64, lacks: usize, is_followed: bool, frames: u64) {
        let lacks = ["a", "b"][lacks];
        // Behind its last file it has yet to get them.
        if !is_followed {
            self.shorter = Some(lacks);
            self.frames_beyond += frames;
            return;
        }
        let fails = Some("file is missing".to_owned());
        let (a_fails, b_fails) = if lacks == "a" { (fails, None) } else { (None, fails) };
        let what = "segment on one side only";
        let (index, offset, end_offset) = (None, None, None);
        let segment = number;
        self.differences.push(Difference {
            segment,
            byte: 0,
            index,
            offset,
            end_offset,
            a_fails,
            b_fails,
            what,
        });
    }

    /// Compares a segment that both have.
    fn segment(&mut self, number: u64, one: &Found, other: &Found) -> Result<(), SourceError> {
        let head = [one, other].map(|found| found.header.as_ref().err().cloned());
        let bytes = SEGMENT_HEADER_BYTES as u64;
        let first = first_difference(&one.path, &other.path, 0..bytes, None)?;
        if first.is_some() || head.iter().any(Option::is_some) {
            let [a_fails, b_fails] = head;
            let byte = first.unwrap_or(0);
            let what = "segment header";
            let place = (number, byte);
            self.differences.push(Difference::at(place, None, [a_fails, b_fails], what));
            return Ok(());
        }
        let mut at = 0;
        loop {
            match (one.items.get(at), other.items.get(at)) {
                (None, None) => return Ok(()),
                (Some(a), Some(b)) => {
                    let fault = [a.fault.clone(), b.fault.clone()];
                    let is_same = a.position == b.position
                        && a.end == b.end
                        && fault.iter().all(Option::is_none)
                        && a.header.map(canonical) == b.header.map(canonical);
                    if !is_same {
                        let end = a.end.max(b.end);
                        let range = a.position..end;
                        let first = first_difference(&one.path, &other.path, range, Some(a))?;
                        let intact = [a, b].into_iter().find(|item| item.fault.is_none());
                        let header = intact.and_then(|item| item.header).or(a.header).or(b.header);
                        let what = match first {
                            Some(_) => "bytes differ",
                            None => "equal, and damaged",
                        };
                        let place = (number, first.unwrap_or(a.position));
                        self.differences.push(Difference::at(place, header, fault, what));
                        return Ok(());
                    }
                    if let Some(header) = a.header.filter(|_| self.differences.is_empty()) {
                        self.same_to_offset = header.end_offset().0;
                        self.same_to_index = header.index;
                    }
                    at += 1;
                }
                (a, _) => {
                    let (shorter, longer, name) =
                        if a.is_some() { (other, one, "b") } else { (one, other, "a") };
                    return self.ends(number, at, (shorter, longer, name));
                }
            }
        }
    }

    /// One side has no more frames in a segment.
    fn ends(
        &mut self,
        number: u64,
        at: usize,
        (shorter, longer, name): (&Found, &Found, &'static str),
    ) -> Result<(), SourceError> {
        let beyond = &longer.items[at..];
        let fault = beyond.iter().find_map(|item| item.fault.clone());
        if shorter.is_last && fault.is_none() && !is_dirty(&shorter.path, shorter.end())? {
            self.shorter = Some(name);
            self.frames_beyond += beyond.len() as u64;
            return Ok(());
        }
        let ours = (!shorter.is_last).then(|| "frames are missing".to_owned());
        let ours = ours.or_else(|| fault.is_none().then(|| "no frame".to_owned()));
        let fails = if name == "a" { [ours, fault] } else { [fault, ours] };
        let place = (number, beyond[0].position);
        let what = "one side ends";
        self.differences.push(Difference::at(place, beyond[0].header, fails, what));
        Ok(())
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Report { partition, segments, same_to_offset, same_to_index, .. } = self;
        write!(
            out,
            "{partition} {}: equal to before offset {same_to_offset}, index {same_to_index}, in {segments} segments",
            self.outcome
        )?;
        if let Some(side) = self.later {
            write!(out, "; {} begins later, with segment {}", name(side), self.first_segment)?;
        }
        if let Some(side) = self.shorter {
            write!(out, "; {} is shorter by {} frames", name(side), self.frames_beyond)?;
        }
        writeln!(out)?;
        for difference in &self.differences {
            let Difference { segment, byte, what, .. } = difference;
            write!(out, "{partition} segment {segment} byte {byte}: {what}")?;
            if let (Some(index), Some(offset), Some(end)) =
                (difference.index, difference.offset, difference.end_offset)
            {
                write!(out, ", index {index}, offsets {offset}..{end}")?;
            }
            for (side, fails) in [("a", &difference.a_fails), ("b", &difference.b_fails)] {
                if let Some(fails) = fails {
                    write!(out, "; {} fails its own check: {fails}", name(side))?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

impl Difference {
    fn at(
        (segment, byte): (u64, u64),
        header: Option<FrameHeader>,
        [a_fails, b_fails]: [Option<String>; 2],
        what: &'static str,
    ) -> Difference {
        Difference {
            segment,
            byte,
            index: header.map(|header| header.index),
            offset: header.map(|header| header.base_offset.0),
            end_offset: header.map(|header| header.end_offset().0),
            a_fails,
            b_fails,
            what,
        }
    }
}

fn name(side: &str) -> &'static str {
    if side == "a" { "DIR_A" } else { "DIR_B" }
}

fn canonical(header: FrameHeader) -> FrameHeader {
    FrameHeader { synced_bytes: 0, ..header }
}

/// Returns where the first byte is that differs, a frame's local area left out.
fn first_difference(
    one: &Path,
    other: &Path,
    range: std::ops::Range<u64>,
    frame: Option<&Item>,
) -> Result<Option<u64>, SourceError> {
    let len = (range.end - range.start) as usize;
    let read = |path: &Path| -> Result<Vec<u8>, SourceError> {
        let mut bytes = match SourceFile::open(path)? {
            Some(file) => file.read_at(range.start, len)?,
            None => Vec::new(),
        };
        bytes.resize(len, 0);
        Ok(bytes)
    };
    let (ours, theirs) = (read(one)?, read(other)?);
    let is_local = |at: u64| {
        frame.is_some_and(|frame| {
            let from = frame.position + LOCAL_AT;
            (from..frame.position + FRAME_HEADER_BYTES as u64).contains(&at)
        })
    };
    let mut pairs = ours.iter().zip(&theirs).zip(range.start..);
    Ok(pairs.find(|((a, b), at)| a != b && !is_local(*at)).map(|(_, at)| at))
}

/// Returns true when anything but zeros follows the last frame: then a frame was there.
fn is_dirty(path: &Path, from: u64) -> Result<bool, SourceError> {
    let Some(file) = SourceFile::open(path)? else { return Ok(false) };
    let mut at = from;
    loop {
        let bytes = file.read_at(at, 1 << 20)?;
        if bytes.is_empty() {
            return Ok(false);
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        at += bytes.len() as u64;
    }
}
