//! The indexes of sealed segments as files beside them: built off the write path, believed only after they were checked.
//!
//! The same shape as a spare: [`Log::prepare_index`] → [`IndexJob::run`] → [`Log::finish_index`]. An index is derived: a failure
//! poisons nothing, a file that is missing, damaged, of another segment or of another version is built again from the segment, and
//! nobody lists it: its header says whose it is. It is built once its segment is closed, committed and synced, so nothing in it is
//! ever taken back.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use fluxmq_index::sealed::{Binding, SealedError, Source};
use fluxmq_index::{Offset, SealedIndex};

use crate::disk::{Disk, DiskFile};
use crate::format::{BatchError, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::layout::{AtPath, FileError, create_durably, index_path, remove_if_there, segment_path};
use crate::log::Log;
use crate::scan::{Expected, FrameFault, Window, scan_frames};
use crate::segment::{FrameAt, FrameMap, Segment};
use crate::segment_indexer::SegmentIndexer;

/// Which segments have an index.
#[derive(Debug, Default)]
pub(crate) struct Indexes {
    /// There is a file. Whether it is right is found out when it is opened.
    present: BTreeSet<u64>,
    /// Building it failed.
    failed: BTreeSet<u64>,
    is_building: bool,
}

impl Indexes {
    pub(crate) fn new(found: BTreeSet<u64>, segments: &[Segment]) -> Indexes {
        let numbers: BTreeSet<u64> = segments.iter().map(Segment::segment_no).collect();
        Indexes { present: &found & &numbers, ..Indexes::default() }
    }

    /// Forgets indexes whose segments go.
    pub(crate) fn forget(&mut self, segments: &[u64]) {
        self.present.retain(|number| !segments.contains(number));
        self.failed.retain(|number| !segments.contains(number));
    }
}

/// An open index file.
#[derive(Clone, Debug)]
pub struct IndexFile<F> {
    file: F,
    path: PathBuf,
}

impl<F: DiskFile> IndexFile<F> {
    pub(crate) fn new(file: F, path: PathBuf) -> IndexFile<F> {
        IndexFile { file, path }
    }
}

/// The index of a segment of a log.
pub type LogIndex<D> = SealedIndex<IndexFile<<D as Disk>::File>>;

impl<F: DiskFile> Source for IndexFile<F> {
    type Error = FileError;

    fn file_bytes(&self) -> Result<u64, FileError> {
        self.file.len().at(&self.path)
    }

    fn read_range(&self, at: u64, len: usize) -> Result<Vec<u8>, FileError> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).at(&self.path)?;
        Ok(bytes)
    }
}

/// A segment that has records, as seen by those who look for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSpan {
    /// Its number.
    pub segment_no: u64,
    /// Offset of its first record.
    pub base: Offset,
    /// Offset after its last record.
    pub end: Offset,
}

/// One index to be built, on any thread.
#[must_use = "a job that is not run and finished blocks all later ones"]
pub struct IndexJob<D: Disk> {
    disk: D,
    dir: PathBuf,
    header: SegmentHeader,
    segment: Binding,
}

/// An index that was built, or was not. [`Log::finish_index`] takes it.
#[must_use = "a job that is not finished blocks all later ones"]
pub struct BuiltIndex {
    segment: Binding,
    outcome: Result<(), BuildIndexError>,
}

/// Why there is no index. Its segment is served without.
#[derive(Debug, thiserror::Error)]
pub enum BuildIndexError {
    /// The disk failed, or is full.
    #[error(transparent)]
    File(#[from] FileError),
    /// The segment is damaged.
    #[error("{}: damaged at byte {position}: {fault}", path.display())]
    Damaged {
        /// The segment's file.
        path: PathBuf,
        /// Where the damaged frame begins.
        position: u64,
        /// What is wrong with it.
        fault: FrameFault,
    },
    /// The segment holds a frame that is no batch.
    #[error("{}: {source}", path.display())]
    Batch {
        /// The segment's file.
        path: PathBuf,
        /// What is wrong with it.
        source: BatchError,
    },
}

impl<D: Disk> IndexJob<D> {
    /// Reads the segment and writes its index, durably. Takes as long as the disk does; touches nothing of the log.
    pub fn run(self) -> BuiltIndex {
        let outcome = self.build().and_then(|bytes| {
            let path = index_path(&self.dir, self.segment.segment_no);
            Ok(create_durably(&self.disk, &path, &bytes).map(drop)?)
        });
        BuiltIndex { segment: self.segment, outcome }
    }

    /// Which segment it is for.
    pub fn segment_no(&self) -> u64 {
        self.segment.segment_no
    }

    fn build(&self) -> Result<Vec<u8>, BuildIndexError> {
        let path = segment_path(&self.dir, self.segment.segment_no);
        let file = self.disk.open_read(&path).at(&path)?;
        let mut window = Window::new(&file).at(&path)?;
        let mut indexer = SegmentIndexer::new(self.header);
        let mut failed = None;
        let start = SEGMENT_HEADER_BYTES as u64;
        let expected = Expected::first_of(&self.header);
        let visit = |position, head: &_, _: &_, body: &[u8]| {
            if failed.is_none() {
                failed = indexer.push(position, head, &Bytes::copy_from_slice(body)).err();
            }
        };
        let stopped = scan_frames(&mut window, self.segment.salt, start, expected, visit);
        let stopped = stopped.at(&path)?;
        if let Some(source) = failed {
            return Err(BuildIndexError::Batch { path, source });
        }
        match indexer.finish() {
            Some((segment, bytes)) if segment == self.segment => Ok(bytes),
            _ => {
                let (position, fault) = (stopped.position, stopped.fault);
                Err(BuildIndexError::Damaged { path, position, fault })
            }
        }
    }
}

impl<D: Disk> Log<D> {
    /// Hands out the building of one index: of the newest segment that is closed, durable, committed (its last entry is not beyond
    /// `committed`), and has none. `None` when there is no such segment, or one is being built.
    pub fn prepare_index(&mut self, committed: u64) -> Option<IndexJob<D>> {
        if self.indexes.is_building {
            return None;
        }
        let upto = committed.min(self.durable.index);
        let is_wanted = |(at, segment): &(usize, &Segment)| {
            let number = segment.segment_no();
            let is_closed = segment.is_sealed || at + 1 < self.segments.len();
            is_closed
                && !segment.is_empty()
                && segment.last.index <= upto
                && !self.indexes.present.contains(&number)
                && !self.indexes.failed.contains(&number)
        };
        let (_, segment) = self.segments.iter().enumerate().rev().find(is_wanted)?;
        let (header, segment) = (segment.header, binding(segment));
        self.indexes.is_building = true;
        Some(IndexJob { disk: self.disk.clone(), dir: self.dir.clone(), header, segment })
    }

    /// Takes an index that was built, and returns which records it finds; `None` when its segment is gone meanwhile.
    pub fn finish_index(
        &mut self,
        built: BuiltIndex,
    ) -> Result<Option<SegmentSpan>, BuildIndexError> {
        assert!(self.indexes.is_building, "one index at a time");
        self.indexes.is_building = false;
        let number = built.segment.segment_no;
        let segment = self.segments.iter().find(|segment| binding(segment) == built.segment);
        let Some(span) = segment.map(span) else {
            // Its segment was removed while it was built.
            remove_if_there(&self.disk, &index_path(&self.dir, number))?;
            return Ok(None);
        };
        if let Err(error) = built.outcome {
            self.indexes.failed.insert(number);
            return Err(error);
        }
        self.indexes.present.insert(number);
        Ok(Some(span))
    }

    /// Lets indexes be tried again that could not be built.
    pub fn retry_indexes(&mut self) {
        self.indexes.failed.clear();
    }

    /// Has the index of a segment built again: what is there gives no answers.
    pub fn distrust_index(&mut self, segment_no: u64) {
        self.indexes.present.remove(&segment_no);
    }

    /// Returns true when there is an index file for the segment, right or wrong.
    pub fn has_index(&self, segment_no: u64) -> bool {
        self.indexes.present.contains(&segment_no)
    }

    /// Opens the index of a segment; `None` when there is none. An error says that there is none that can be believed.
    pub fn open_index(
        &self,
        segment_no: u64,
    ) -> Result<Option<LogIndex<D>>, SealedError<FileError>> {
        let at = self.segments.partition_point(|segment| segment.segment_no() < segment_no);
        let segment = self.segments.get(at).filter(|found| found.segment_no() == segment_no);
        let Some(segment) = segment.filter(|_| self.has_index(segment_no)) else { return Ok(None) };
        let path = index_path(&self.dir, segment_no);
        let file = self.disk.open_read(&path).at(&path).map_err(SealedError::Source)?;
        SealedIndex::open_for(IndexFile { file, path }, &binding(segment)).map(Some)
    }

    /// Returns the segments that have records from `from` on and below `end`, oldest first.
    pub fn spans(
        &self,
        (from, end): (Offset, Offset),
    ) -> impl DoubleEndedIterator<Item = SegmentSpan> {
        let first = self.segments.partition_point(|segment| segment.last.end <= from);
        let after = self.segments.partition_point(|segment| segment.header.base_offset < end);
        let inside = self.segments[first.min(after)..after].iter().map(span);
        inside.filter(|span| span.base < span.end)
    }

    /// Returns the frames of a segment as its index has them; `None` when there is no index that can be believed.
    pub(crate) fn indexed_frames(&self, segment: &Segment) -> Option<FrameMap> {
        let index = self.open_index(segment.segment_no()).ok()??;
        let mut frames = FrameMap::default();
        let walked = index.for_each_frame(|frame| {
            frames.push(FrameAt {
                index: segment.header.base_index + frame.number as u64,
                base_offset: frame.base_offset,
                base_ts: frame.base_ts,
                position: frame.bytes.start,
            });
        });
        walked.ok().map(|()| frames)
    }
}

fn span(segment: &Segment) -> SegmentSpan {
    let (segment_no, base) = (segment.segment_no(), segment.header.base_offset);
    SegmentSpan { segment_no, base, end: segment.last.end }
}

/// Returns what binds an index to a segment as it is now.
fn binding(segment: &Segment) -> Binding {
    Binding {
        partition: segment.header.partition,
        segment_no: segment.segment_no(),
        base_offset: segment.header.base_offset,
        end_offset: segment.last.end,
        base_index: segment.header.base_index,
        last_index: segment.last.index,
        end_bytes: segment.end_bytes,
        salt: segment.salt,
        chain: segment.last_chain,
    }
}
