//! Finds messages: through the indexes of sealed segments where there are any, so that what does not match is not read; by reading
//! everything where there are none.
//!
//! An index that gives no answer costs time, never a result: the rest of its segment is read instead. So is damage found and told.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use fluxmq_index::sealed::{FrameEntry, SealedError};
use fluxmq_index::{Offset, matches};
use fluxmq_log::format::{BatchReader, BatchRecord, FrameHeader, Message};
use fluxmq_log::os_disk::{OsDisk, OsFile};
use fluxmq_log::{FileError, IndexedSegment, RecordError};
use regex::bytes::Regex;

use crate::arguments::{From, SearchArguments};
use crate::index::index_path;
use crate::record_line::Place;
use crate::scan::Placed;
use crate::source::{self, Partition};
use crate::walk::{Listed, Walk};
use crate::{CommandError, warn};

/// A frame shorter than this is read whole: its blocks would be, anyway.
const SHORT_FRAME_BYTES: u64 = 32 << 10;
/// What reading a record alone costs: the blocks it lies in.
const ALONE_BYTES: u64 = 8 << 10;

/// What to find.
pub struct Search<'a> {
    arguments: &'a SearchArguments,
    queue: Option<u64>,
    /// What was read for it.
    pub cost: Cost,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of segments.
    pub bytes_read: u64,
    /// Bytes of segments that may hold matches.
    pub bytes_there: u64,
    /// Segments that were asked through their index.
    pub indexed: u64,
    /// Segments that were read.
    pub scanned: u64,
}

/// A message that was looked for.
pub struct Hit<'a> {
    /// Where it is.
    pub place: Place,
    /// What it says. Its route set is not told.
    pub message: Message,
    /// The segment's file.
    pub segment: &'a Path,
    /// Where its frame is in there.
    pub frame: Range<u64>,
}

/// Takes what is found, until it has enough.
type Visit<'v> = dyn FnMut(Hit<'_>) -> Result<ControlFlow<()>, CommandError> + 'v;

impl<'a> Search<'a> {
    /// Prepares a search.
    pub fn new(arguments: &'a SearchArguments) -> Search<'a> {
        let queue = arguments.queue.as_ref();
        let queue = queue.map(|name| fluxmq::model::record::queue_id(name.as_bytes()));
        Search { arguments, queue, cost: Cost::default() }
    }

    /// Visits the matches under a path, in the order of partitions and offsets.
    pub fn run(&mut self, walk: &mut Walk, visit: &mut Visit<'_>) -> Result<(), CommandError> {
        for partition in source::partitions(&self.arguments.path)? {
            if self.partition(&partition, walk, visit)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn partition(
        &mut self,
        partition: &Partition,
        walk: &mut Walk,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, CommandError> {
        let wanted = self.arguments.partition;
        let is_wanted = |number| wanted.is_none_or(|wanted| wanted == number);
        if partition.number.is_some_and(|number| !is_wanted(number)) {
            return Ok(ControlFlow::Continue(()));
        }
        let mut segments = walk.segments(partition)?;
        segments.retain(|listed| is_wanted(listed.header.partition));
        let first = segments.partition_point(|listed| self.begins_before(listed));
        for listed in &segments[first.saturating_sub(1)..] {
            if self.is_over(listed.header.base_offset, listed.header.base_ts) {
                break;
            }
            if self.segment(listed, walk, visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Tells whether all that is wanted may lie in this segment or later.
    fn begins_before(&self, listed: &Listed) -> bool {
        match self.arguments.from {
            From::Earliest => false,
            From::Offset(offset) => listed.header.base_offset <= offset,
            // The last records of a segment may be as young as the first of the next.
            From::Time(ms) => listed.header.base_ts < ms,
        }
    }

    /// Tells whether nothing that is wanted lies at a place or behind it.
    fn is_over(&self, base: Offset, base_ts: u64) -> bool {
        match self.arguments.to {
            None | Some(From::Earliest) => false,
            Some(From::Offset(to)) => base >= to,
            Some(From::Time(to)) => base_ts >= to,
        }
    }

    fn is_inside(&self, offset: Offset, ts: u64) -> bool {
        let has_begun = match self.arguments.from {
            From::Earliest => true,
            From::Offset(from) => offset >= from,
            From::Time(from) => ts >= from,
        };
        has_begun && !self.is_over(offset, ts)
    }

    fn segment(
        &mut self,
        listed: &Listed,
        walk: &mut Walk,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, CommandError> {
        let mut reached = listed.header.base_offset;
        if let Some(mut segment) = self.open(listed) {
            let end_bytes = segment.index().header().binding.end_bytes;
            let asked = self.ask(listed, &mut segment, &mut reached, visit);
            self.cost.bytes_read += segment.bytes_read();
            match asked {
                Ok(flow) => {
                    self.cost.indexed += 1;
                    self.cost.bytes_there += end_bytes;
                    return flow;
                }
                Err(error) => {
                    let path = listed.path.display();
                    warn(&format_args!("{path}: {error}; reading the segment without its index"));
                }
            }
        }
        self.scan(listed, reached, walk, visit)
    }

    /// Opens the index of a segment that has one worth asking.
    fn open(&self, listed: &Listed) -> Option<IndexedSegment<OsFile>> {
        if self.arguments.filter.is_none() && self.queue.is_none() {
            return None;
        }
        let (dir, name) = (listed.path.parent()?, listed.path.file_name()?);
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let index = index_path(Path::new(name));
        let opened = OsDisk::new(dir.to_owned())
            .map(|disk| IndexedSegment::open_alone(&disk, Path::new(name), &index));
        match opened {
            Ok(Ok(segment)) => segment,
            Ok(Err(error)) => {
                let path = index_path(&listed.path);
                warn(&format_args!("{}: {error}; reading the segment instead", path.display()));
                None
            }
            // The directory was there a moment ago; reading the segment will tell.
            Err(_) => None,
        }
    }

    /// Visits the matches that the index of a segment finds. `reached` is the first offset that was not visited.
    fn ask(
        &self,
        listed: &Listed,
        segment: &mut IndexedSegment<OsFile>,
        reached: &mut Offset,
        visit: &mut Visit<'_>,
    ) -> Result<Result<ControlFlow<()>, CommandError>, RecordError> {
        let mut offsets = self.candidates(segment)?.into_iter().peekable();
        while let Some(first) = offsets.next() {
            let Some(frame) = segment.index().frame_at(first)? else { continue };
            let mut wanted = vec![first];
            while let Some(next) = offsets.peek()
                && segment.index().frame_at(*next)?.is_some_and(|it| it.number == frame.number)
            {
                wanted.extend(offsets.next());
            }
            let (header, messages) = read(segment, &frame, &wanted)?;
            for (offset, message) in messages {
                *reached = offset.next();
                if !self.wants(offset, &message) {
                    continue;
                }
                let place = Place::of(listed, &header, offset);
                let message = Message { route_set: 0, ..message };
                let frame = frame.bytes.clone();
                match visit(Hit { place, message, segment: &listed.path, frame }) {
                    Ok(ControlFlow::Continue(())) => {}
                    ended => return Ok(ended),
                }
            }
        }
        Ok(Ok(ControlFlow::Continue(())))
    }

    /// Returns the offsets that the index finds, ascending; those near the ends of the range may be beyond them.
    fn candidates(
        &self,
        segment: &IndexedSegment<OsFile>,
    ) -> Result<Vec<Offset>, SealedError<FileError>> {
        let index = segment.index();
        let binding = index.header().binding;
        let (mut from, mut end) = (binding.base_offset, binding.end_offset);
        match self.arguments.from {
            From::Earliest => {}
            From::Offset(offset) => from = from.max(offset),
            // The last frame that begins before may reach that time.
            From::Time(ms) => index.for_each_frame(|frame| {
                if frame.base_ts < ms {
                    from = frame.base_offset;
                }
            })?,
        }
        match self.arguments.to {
            None | Some(From::Earliest) => {}
            Some(From::Offset(offset)) => end = end.min(offset),
            Some(From::Time(ms)) => index.for_each_frame(|frame| {
                if frame.base_ts >= ms {
                    end = end.min(frame.base_offset);
                }
            })?,
        }
        let mut found = Vec::new();
        match self.queue {
            Some(queue) => index.select_queue(queue, from, usize::MAX, &mut found)?,
            None => {
                let filter = self.arguments.filter.as_deref().unwrap_or("#");
                let topics = index.match_topics(filter.as_bytes())?;
                index.select(&topics, from, usize::MAX, &mut found)?;
            }
        }
        found.truncate(found.partition_point(|offset| *offset < end));
        Ok(found)
    }

    /// Reads a segment from an offset on, and visits what matches.
    fn scan(
        &mut self,
        listed: &Listed,
        reached: Offset,
        walk: &mut Walk,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, CommandError> {
        let mut flow = ControlFlow::Continue(());
        let mut bytes = 0;
        let this = &*self;
        walk.frames(listed, |walk, placed| {
            let header = &placed.frame.header;
            bytes = placed.position + header.frame_bytes();
            if header.record_count > 0 && this.is_over(header.base_offset, header.base_ts) {
                return Ok(ControlFlow::Break(()));
            }
            if header.end_offset() > reached {
                flow = this.frame(listed, placed, reached, walk, visit)?;
            }
            Ok(flow)
        })?;
        self.cost.scanned += 1;
        self.cost.bytes_read += bytes;
        self.cost.bytes_there += bytes;
        Ok(flow)
    }

    fn frame(
        &self,
        listed: &Listed,
        placed: &Placed,
        reached: Offset,
        walk: &mut Walk,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, CommandError> {
        let header = &placed.frame.header;
        let Some(batch) = walk.batch(listed, placed) else {
            return Ok(ControlFlow::Continue(()));
        };
        let routes: Vec<u32> = match self.queue {
            Some(queue) => {
                let has = batch.routes().iter().filter(|route| route.queues.contains(&queue));
                has.map(|route| route.id).collect()
            }
            None => Vec::new(),
        };
        walk.records(listed, placed, batch, |offset, record| {
            let BatchRecord::Message(message) = record else {
                return Ok(ControlFlow::Continue(()));
            };
            let is_queued = self.queue.is_none() || routes.contains(&message.route_set);
            if offset < reached || !is_queued || !self.wants(offset, &message) {
                return Ok(ControlFlow::Continue(()));
            }
            let place = Place::of(listed, header, offset);
            let message = Message { route_set: 0, ..message };
            let frame = placed.position..placed.position + header.frame_bytes();
            visit(Hit { place, message, segment: &listed.path, frame })
        })
    }

    /// Tells whether a message matches, which may be in the queue.
    fn wants(&self, offset: Offset, message: &Message) -> bool {
        let filter = self.arguments.filter.as_deref();
        let payload: Option<&Regex> = self.arguments.payload.as_ref();
        self.is_inside(offset, message.ts)
            && filter.is_none_or(|filter| matches(filter.as_bytes(), &message.topic))
            && payload.is_none_or(|payload| payload.is_match(&message.payload))
    }
}

/// Reads messages of one frame: alone, where that is less than the frame.
fn read(
    segment: &mut IndexedSegment<OsFile>,
    frame: &FrameEntry,
    wanted: &[Offset],
) -> Result<(FrameHeader, Vec<(Offset, Message)>), RecordError> {
    let len = frame.bytes.end - frame.bytes.start;
    if len > SHORT_FRAME_BYTES && wanted.len() as u64 * ALONE_BYTES < len {
        let header = segment.read_header(frame)?;
        let mut messages = Vec::new();
        for offset in wanted {
            messages.extend(segment.read(*offset)?.map(|message| (*offset, message)));
        }
        return Ok((header, messages));
    }
    let read = segment.read_frame(frame)?;
    let mut messages = Vec::new();
    for record in BatchReader::new(&read.header, read.body)? {
        if let (offset, BatchRecord::Message(message)) = record?
            && wanted.binary_search(&offset).is_ok()
        {
            messages.push((offset, message));
        }
    }
    Ok((read.header, messages))
}
