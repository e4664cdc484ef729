//! Lists the indexes beside sealed segments, shows what is in them, and builds those again that are missing or wrong.
//!
//! The one command that writes. What it writes is derived from the segments and put in place by a rename, so it may run beside a
//! broker: who has the old file open keeps it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fluxmq_index::SealedIndex;
use fluxmq_index::sealed::{SealedError, Section};

use crate::arguments::IndexArguments;
use crate::scan::{Opened, Segment};
use crate::source::{self, Partition, SourceError};
use crate::{CommandError, EXIT_CORRUPTION, text, warn};

mod state;

pub use state::{Making, State, index_path, judge, read_index};

/// How many shapes are listed, those with the most topics first.
const SHAPES_SHOWN: usize = 10;

/// Lists what is under a path and returns the exit code: 1 when an index is wrong or missing and stays so, 2 when a segment is
/// damaged.
pub fn run(arguments: &IndexArguments, out: &mut impl Write) -> Result<u8, CommandError> {
    let mut code = 0;
    for partition in source::partitions(&arguments.path)? {
        let mut listing = Listing { arguments, out, code, index_bytes: 0, segment_bytes: 0 };
        listing.partition(&partition)?;
        code = listing.code;
    }
    Ok(code)
}

struct Listing<'a, W> {
    arguments: &'a IndexArguments,
    out: &'a mut W,
    code: u8,
    index_bytes: u64,
    segment_bytes: u64,
}

impl<W: Write> Listing<'_, W> {
    fn partition(&mut self, partition: &Partition) -> Result<(), CommandError> {
        writeln!(self.out, "{}:", partition.name)?;
        for (at, path) in partition.segments.iter().enumerate() {
            let is_last = partition.dir.is_some() && at + 1 == partition.segments.len();
            match Segment::open(path)? {
                Opened::Gone => {}
                Opened::Bad(error) => {
                    self.code = EXIT_CORRUPTION;
                    writeln!(self.out, "  {}: {error}", name(path))?;
                }
                Opened::Segment(segment) => self.segment(&segment, is_last)?,
            }
        }
        let share = self.index_bytes as f64 / self.segment_bytes.max(1) as f64 * 100.0;
        let (indexes, segments) = (text::size(self.index_bytes), text::size(self.segment_bytes));
        writeln!(self.out, "  together {indexes}, {share:.1} % of the {segments} they index")?;
        Ok(())
    }

    fn segment(&mut self, segment: &Segment, is_last: bool) -> Result<(), CommandError> {
        let path = index_path(segment.path());
        let judged = judge(segment)?;
        if is_last && !judged.is_sealed {
            writeln!(self.out, "  {}: not sealed yet", name(&path))?;
            return Ok(());
        }
        match (judged.state, judged.bytes) {
            (State::Right, Some(bytes)) => {
                self.show(&path, "right", bytes, judged.segment_bytes)?
            }
            (state, Some(bytes)) if self.arguments.rebuild => {
                write_index(&path, &bytes)
                    .map_err(|source| SourceError::Io { path: path.clone(), source })?;
                self.show(&path, &format!("{state}, built"), bytes, judged.segment_bytes)?;
            }
            (state, Some(_)) => {
                self.code = self.code.max(1);
                writeln!(self.out, "  {}: {state}", name(&path))?;
            }
            (state, None) => {
                self.code = EXIT_CORRUPTION;
                writeln!(
                    self.out,
                    "  {}: {state}; its segment is damaged, see verify",
                    name(&path)
                )?;
            }
        }
        Ok(())
    }

    fn show(
        &mut self,
        path: &Path,
        state: &str,
        bytes: Vec<u8>,
        segment_bytes: u64,
    ) -> Result<(), CommandError> {
        self.index_bytes += bytes.len() as u64;
        self.segment_bytes += segment_bytes;
        let size = text::size(bytes.len() as u64);
        match describe(&bytes, self.arguments.show) {
            Ok(description) => {
                writeln!(self.out, "  {}: {state}, {size}, {description}", name(path))?
            }
            // It was just built or compared with what was.
            Err(error) => warn(&error),
        }
        Ok(())
    }
}

/// Says what is in an index, in many lines if `all` of it is wanted.
fn describe(bytes: &Vec<u8>, all: bool) -> Result<String, SealedError<std::convert::Infallible>> {
    let index = SealedIndex::open(bytes)?;
    let header = *index.header();
    let records = header.binding.end_offset.0.saturating_sub(header.binding.base_offset.0);
    let (topics, shapes) = index.topic_count()?;
    let queues = index.queue_ids()?;
    let mut said =
        format!("{records} records, {topics} topics in {shapes} shapes, {} queues", queues.len());
    if !all {
        return Ok(said);
    }
    for section in Section::ALL {
        let place = header.section(section);
        said +=
            &format!("\n    {:<9} {:>12} bytes at {}", section.to_string(), place.len, place.at);
    }
    let mut shapes = Vec::new();
    index.for_each_shape(|pattern, topics| shapes.push((topics, text::quoted(pattern))))?;
    shapes.sort_by(|left, right| right.0.cmp(&left.0).then_with(|| left.1.cmp(&right.1)));
    for (topics, pattern) in shapes.iter().take(SHAPES_SHOWN) {
        said += &format!("\n    shape     {topics:>12} topics {pattern}");
    }
    for queue in queues.iter().take(SHAPES_SHOWN) {
        said += &format!("\n    queue     {:>12} records {queue}", index.queue_len(*queue)?);
    }
    Ok(said)
}

/// Puts an index in place, durably.
pub fn write_index(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("six.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let dir: PathBuf = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    File::open(if dir.as_os_str().is_empty() { Path::new(".") } else { &dir })?.sync_all()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
