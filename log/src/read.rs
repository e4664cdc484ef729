//! Reading entries and records back: from memory when recent, else from the segment files with every checksum checked.
//!
//! Appended frames can be read before they are durable; what may be shown to whom is the caller's business.

use std::io;
use std::path::PathBuf;

use bytes::{Buf, Bytes};
use fluxmq_index::Offset;

use crate::disk::{Disk, DiskFile};
use crate::format::{FRAME_HEADER_BYTES, Frame, FrameError, FrameHeader, SEGMENT_HEADER_BYTES};
use crate::layout::{AtPath, FileError, segment_path};
use crate::log::{Log, Placed};
use crate::scan::{Expected, FrameFault, Window};
use crate::segment::{FrameAt, FrameMap, Segment};

/// How much is read at once while looking for a frame.
const WALK_BYTES: u64 = 64 << 10;
/// How much is read at once when it was found.
const RUN_BYTES_MIN: u64 = 4 << 10;
const RUN_BYTES_MAX: u64 = 4 << 20;

/// Why frames could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The index was trimmed away, or not appended yet.
    #[error("index {index} is outside {first} to {last}")]
    Index {
        /// What was asked for.
        index: u64,
        /// The first that can be read.
        first: u64,
        /// The last that can be read.
        last: u64,
    },
    /// The offset was trimmed away, or not appended yet.
    #[error("offset {offset} is outside {first} to {end}")]
    Offset {
        /// What was asked for.
        offset: Offset,
        /// The first that can be read.
        first: Offset,
        /// After the last that can be read.
        end: Offset,
    },
    /// What is on disk is not what was written. It was not served.
    #[error("{}: damaged at byte {position}: {fault}", path.display())]
    Damaged {
        /// The segment's file.
        path: PathBuf,
        /// Where the damaged frame begins.
        position: u64,
        /// What is wrong with it.
        fault: FrameFault,
    },
}

impl<D: Disk> Log<D> {
    /// Returns the entries from `from_index` to before `to_index`, as many as fit in `bytes_max`, the first always.
    pub fn entries(
        &self,
        from_index: u64,
        to_index: u64,
        bytes_max: u64,
    ) -> Result<Vec<Frame>, ReadError> {
        let (first, last) = (self.first_index(), self.last_index());
        if from_index < first || to_index > last + 1 {
            let index = if from_index < first { from_index } else { to_index - 1 };
            return Err(ReadError::Index { index, first, last });
        }
        let mut taken = Taken::new(bytes_max, to_index);
        let mut next = from_index;
        while next < to_index && !taken.is_full {
            let before = taken.frames.len();
            self.take_from(next, |header| header.index >= next, &mut taken)?;
            next += (taken.frames.len() - before) as u64;
        }
        Ok(taken.frames)
    }

    /// Returns frames, the first the one that contains `from`, as many as fit in `bytes_max`, the first always. Nothing when
    /// `from` is the end of the log.
    pub fn read(&self, from: Offset, bytes_max: u64) -> Result<Vec<Frame>, ReadError> {
        let (first, end) = (self.first_offset(), self.last().end);
        if from < first || from > end {
            return Err(ReadError::Offset { offset: from, first, end });
        }
        let mut taken = Taken::new(bytes_max, self.last_index() + 1);
        if from == end {
            return Ok(taken.frames);
        }
        self.take_from(self.index_near(from)?, |header| header.end_offset() > from, &mut taken)?;
        while !taken.is_full
            && let Some(last) = taken.frames.last()
            && last.header.index < self.last_index()
        {
            self.take_from(last.header.index + 1, |_| true, &mut taken)?;
        }
        Ok(taken.frames)
    }

    /// Returns the offset of the first record in a frame that reaches log time `ts`, or the end of the log.
    pub fn offset_at_time(&self, ts: u64) -> Result<Offset, ReadError> {
        let candidates = self.segments.partition_point(|segment| segment.header.base_ts < ts);
        for segment in &self.segments[candidates.saturating_sub(1)..] {
            let mut index = segment.header.base_index;
            if self.cached(index).is_none() && segment.last.index >= index {
                let from = self.frame_map(segment)?.walk_from(|frame| frame.base_ts < ts);
                index = from.map_or(index, |frame| frame.index);
            }
            while index <= segment.last.index {
                let mut taken = Taken::new(1 << 20, segment.last.index + 1);
                self.take_from(index, |_| true, &mut taken)?;
                for frame in &taken.frames {
                    if frame.header.record_count > 0 && frame.header.max_ts() >= ts {
                        return Ok(frame.header.base_offset);
                    }
                    index = frame.header.index + 1;
                }
            }
        }
        Ok(self.last().end)
    }

    /// Takes frames from the one at `from_index` on, beginning with the first that is `wanted`, up to the end of the cache or of
    /// the segment it is in.
    fn take_from(
        &self,
        from_index: u64,
        wanted: impl Fn(&FrameHeader) -> bool,
        taken: &mut Taken,
    ) -> Result<(), ReadError> {
        if let Some(at) = self.cached(from_index) {
            let frames = self.tail.frames.range(at..).map(|placed| &placed.frame);
            for frame in frames.skip_while(|frame| !wanted(&frame.header)) {
                if !taken.push(frame.clone()) {
                    break;
                }
            }
            return Ok(());
        }
        let at = self.segments.partition_point(|segment| segment.last.index < from_index);
        let segment = &self.segments[at];
        let from = self.frame_map(segment)?.walk_from(|frame| frame.index <= from_index);
        let from = from.expect("a segment that is read has frames");
        self.take_from_file(segment, from, wanted, taken)
    }

    fn take_from_file(
        &self,
        segment: &Segment,
        from: FrameAt,
        wanted: impl Fn(&FrameHeader) -> bool,
        taken: &mut Taken,
    ) -> Result<(), ReadError> {
        let path = segment_path(&self.dir, segment.segment_no());
        let file = self.disk.open_read(&path).at(&path)?;
        let mut walk = Walk::new(&file, segment, &path, from)?;
        // What is cached need not be on disk yet.
        while self.cached(walk.next_index()).is_none() {
            let before = (walk.position, walk.expected);
            let Some((header, _)) = walk.next_header()? else { break };
            if wanted(&header) {
                (walk.position, walk.expected) = before;
                return self.take_run(&file, walk, taken);
            }
        }
        Ok(())
    }

    /// Takes frames from where a walk stands, reading many at once; they share the memory they were read into.
    fn take_run<F: DiskFile>(
        &self,
        file: &F,
        mut walk: Walk<'_, F>,
        taken: &mut Taken,
    ) -> Result<(), ReadError> {
        let mut run = Bytes::new();
        let mut wanted_bytes = taken.room().clamp(RUN_BYTES_MIN, RUN_BYTES_MAX);
        while self.cached(walk.next_index()).is_none() && walk.position < walk.segment.end_bytes {
            let needed = match FrameHeader::decode_canonical(&run, walk.segment.salt) {
                Ok(header) if !taken.has_room(&header) => {
                    taken.is_full = true;
                    return Ok(());
                }
                Ok(header) if header.frame_bytes() <= run.len() as u64 => {
                    if !taken.push(walk.take_frame(&mut run)?) {
                        return Ok(());
                    }
                    continue;
                }
                Ok(header) => header.frame_bytes(),
                Err(FrameError::Short { .. }) => FRAME_HEADER_BYTES as u64,
                Err(error) => return Err(walk.damaged(error.into())),
            };
            let left = walk.segment.end_bytes - walk.position;
            let bytes = read_up_to(file, walk.position, wanted_bytes.max(needed).min(left));
            run = Bytes::from(bytes.at(walk.path)?);
            if (run.len() as u64) < needed {
                let (found, expected) = (run.len(), needed as usize);
                return Err(walk.damaged(FrameError::Short { found, expected }.into()));
            }
            wanted_bytes = taken.room().clamp(RUN_BYTES_MIN, RUN_BYTES_MAX);
        }
        Ok(())
    }

    /// Returns the index of an entry at or shortly before the one that contains `offset`.
    fn index_near(&self, offset: Offset) -> Result<u64, ReadError> {
        let cached = &self.tail.frames;
        if cached.front().is_some_and(|placed| placed.frame.header.base_offset <= offset) {
            let at = cached.partition_point(|placed| placed.frame.header.end_offset() <= offset);
            return Ok(cached[at].index());
        }
        let at = self.segments.partition_point(|segment| segment.last.end <= offset);
        let frames = self.frame_map(&self.segments[at])?;
        let from = frames.walk_from(|frame| frame.base_offset <= offset);
        Ok(from.expect("a segment that is read has frames").index)
    }

    /// Returns where in its segment's file an entry begins, and its header.
    pub(crate) fn locate(&self, index: u64) -> Result<(u64, FrameHeader), ReadError> {
        if let Some(at) = self.cached(index) {
            let placed = &self.tail.frames[at];
            return Ok((placed.position, placed.frame.header));
        }
        let at = self.segments.partition_point(|segment| segment.last.index < index);
        let segment = &self.segments[at];
        let from = self.frame_map(segment)?.walk_from(|frame| frame.index <= index);
        let path = segment_path(&self.dir, segment.segment_no());
        let file = self.disk.open_read(&path).at(&path)?;
        let from = from.expect("a segment that is read has frames");
        let mut walk = Walk::new(&file, segment, &path, from)?;
        while let Some((header, position)) = walk.next_header()? {
            if header.index == index {
                return Ok((position, header));
            }
        }
        unreachable!("the segment ends after its last index")
    }

    /// Returns an entry that is in memory.
    pub(crate) fn placed(&self, index: u64) -> Option<&Placed> {
        self.cached(index).map(|at| &self.tail.frames[at])
    }

    /// Returns where in the cache the entry is.
    fn cached(&self, index: u64) -> Option<usize> {
        let first = self.tail.frames.front()?.index();
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        (at < self.tail.frames.len()).then_some(at)
    }

    /// Returns the map of a segment's frames, from its index or by walking over their headers when nobody
    /// did before.
    fn frame_map<'a>(&self, segment: &'a Segment) -> Result<&'a FrameMap, ReadError> {
        if let Some(frames) = segment.frames.get() {
            return Ok(frames);
        }
        if let Some(frames) = self.indexed_frames(segment) {
            return Ok(segment.frames.get_or_init(|| frames));
        }
        let path = segment_path(&self.dir, segment.segment_no());
        let file = self.disk.open_read(&path).at(&path)?;
        let header = &segment.header;
        let first = FrameAt {
            index: header.base_index,
            base_offset: header.base_offset,
            base_ts: header.base_ts,
            position: SEGMENT_HEADER_BYTES as u64,
        };
        let mut frames = FrameMap::default();
        let mut walk = Walk::new(&file, segment, &path, first)?;
        while let Some((header, position)) = walk.next_header()? {
            frames.push(FrameAt::of(&header, position));
        }
        Ok(segment.frames.get_or_init(|| frames))
    }
}

/// What a read has collected.
struct Taken {
    frames: Vec<Frame>,
    bytes: u64,
    bytes_max: u64,
    to_index: u64,
    is_full: bool,
}

impl Taken {
    fn new(bytes_max: u64, to_index: u64) -> Self {
        Taken { frames: Vec::new(), bytes: 0, bytes_max, to_index, is_full: false }
    }

    fn room(&self) -> u64 {
        self.bytes_max.saturating_sub(self.bytes)
    }

    fn has_room(&self, header: &FrameHeader) -> bool {
        let fits = self.bytes.saturating_add(header.frame_bytes()) <= self.bytes_max;
        header.index < self.to_index && (fits || self.frames.is_empty())
    }

    /// Returns false when nothing more fits.
    fn push(&mut self, frame: Frame) -> bool {
        if !self.has_room(&frame.header) {
            self.is_full = true;
            return false;
        }
        self.bytes += frame.header.frame_bytes();
        self.frames.push(frame);
        true
    }
}

/// A walk over the headers of a segment file, from a frame whose place is known.
struct Walk<'a, D: DiskFile> {
    window: Window<'a, D>,
    segment: &'a Segment,
    path: &'a std::path::Path,
    position: u64,
    expected: Option<Expected>,
    first: FrameAt,
}

impl<'a, F: DiskFile> Walk<'a, F> {
    fn new(
        file: &'a F,
        segment: &'a Segment,
        path: &'a std::path::Path,
        first: FrameAt,
    ) -> Result<Self, ReadError> {
        let window = Window::with_step(file, WALK_BYTES).at(path)?;
        Ok(Walk { window, segment, path, position: first.position, expected: None, first })
    }

    fn next_index(&self) -> u64 {
        self.expected.map_or(self.first.index, |expected| expected.index)
    }

    /// Returns the next header and where it is, `None` at the end of the segment.
    fn next_header(&mut self) -> Result<Option<(FrameHeader, u64)>, ReadError> {
        let position = self.position;
        if position >= self.segment.end_bytes {
            return Ok(None);
        }
        let bytes = self.window.get(position, FRAME_HEADER_BYTES).at(self.path)?;
        let header = FrameHeader::decode(bytes, self.segment.salt);
        let header = header.map_err(|error| self.damaged(error.into()))?;
        self.pass(&header)?;
        Ok(Some((header, position)))
    }

    /// Takes the frame at the start of `run`, which was read from where the walk stands.
    fn take_frame(&mut self, run: &mut Bytes) -> Result<Frame, ReadError> {
        let frame = Frame::decode(run, self.segment.salt);
        let frame = frame.map_err(|error| self.damaged(error.into()))?;
        self.pass(&frame.header)?;
        run.advance(frame.header.frame_bytes() as usize);
        Ok(frame)
    }

    fn pass(&mut self, header: &FrameHeader) -> Result<(), ReadError> {
        let expected = self.expected.unwrap_or(Expected {
            index: self.first.index,
            base_offset: self.first.base_offset,
            chain: header.prev_chain,
            term: 0,
        });
        expected.check(header).map_err(|fault| self.damaged(fault))?;
        self.expected = Some(Expected::after(header));
        self.position += header.frame_bytes();
        Ok(())
    }

    fn damaged(&self, fault: FrameFault) -> ReadError {
        ReadError::Damaged { path: self.path.to_owned(), position: self.position, fault }
    }
}

/// Reads `count` bytes, fewer at the end of the file.
fn read_up_to<F: DiskFile>(file: &F, position: u64, count: u64) -> io::Result<Vec<u8>> {
    let count = count.min(file.len()?.saturating_sub(position));
    let mut bytes = vec![0; count as usize];
    file.read_exact_at(&mut bytes, position)?;
    Ok(bytes)
}

impl crate::log::Placed {
    pub(crate) fn index(&self) -> u64 {
        self.frame.header.index
    }
}
