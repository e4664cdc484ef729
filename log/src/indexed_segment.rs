//! One segment read through its index: a record without the frame around it.
//!
//! A frame's checksum covers all of its body, so what is read in part is checked against the index's checksums of blocks instead:
//! each block that a record lies in, whole. What the index does not have, producers, is in the frame's tables, a block more.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fluxmq_index::sealed::{BLOCK_BYTES, Binding, Fault, FrameEntry, SealedError};
use fluxmq_index::{Offset, SealedIndex};

use crate::disk::{Disk, DiskFile};
use crate::format::frame::LOCAL_AT;
use crate::format::{
    BatchError, BatchMeta, BatchReader, FRAME_HEADER_BYTES, Frame, FrameHeader, FrameKind, Message,
    Producer, SEGMENT_HEADER_BYTES,
};
use crate::index_file::IndexFile;
use crate::layout::{AtPath, FileError, segment_path};
use crate::log::Log;
use crate::scan::read_segment_header;
use crate::segment_indexer::bind;

/// A segment and its index, open.
#[derive(Debug)]
pub struct IndexedSegment<F> {
    index: SealedIndex<IndexFile<F>>,
    file: F,
    path: PathBuf,
    /// Of the frame read from last, by its number.
    producers: Option<(usize, Vec<Producer>)>,
    bytes_read: u64,
}

/// Why a record cannot be read by itself. Reading its frame tells whether the segment is damaged or the index.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The index gives no answer.
    #[error(transparent)]
    Index(#[from] SealedError<FileError>),
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The segment's bytes are not those that the index was built from.
    #[error("{}: block at byte {position} is not as it was indexed", path.display())]
    Block {
        /// The segment's file.
        path: PathBuf,
        /// Where the block begins.
        position: u64,
    },
    /// There is no record at the place that the index names.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

impl<D: Disk> Log<D> {
    /// Opens a segment to be read through its index; `None` when it has none. An error says that there is none to be believed.
    pub fn open_indexed(
        &self,
        segment_no: u64,
    ) -> Result<Option<IndexedSegment<D::File>>, SealedError<FileError>> {
        let Some(index) = self.open_index(segment_no)? else { return Ok(None) };
        let path = segment_path(&self.dir, segment_no);
        let file = self.disk.open_read(&path).at(&path).map_err(SealedError::Source)?;
        Ok(Some(IndexedSegment { index, file, path, producers: None, bytes_read: 0 }))
    }
}

impl<F: DiskFile> IndexedSegment<F> {
    /// Opens a segment and its index without their log, as tools do; `None` when there is no index. What the log knows of the segment is
    /// read from it: its header, its last frame, and that none follows.
    pub fn open_alone<D: Disk<File = F>>(
        disk: &D,
        segment: &Path,
        index: &Path,
    ) -> Result<Option<IndexedSegment<F>>, SealedError<FileError>> {
        let failed =
            |path: &Path, source| SealedError::Source(FileError { path: path.to_owned(), source });
        let index_file = match disk.open_read(index) {
            Ok(file) => IndexFile::new(file, index.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(index, error)),
        };
        let index = SealedIndex::open(index_file)?;
        let file = disk.open_read(segment).map_err(|error| failed(segment, error))?;
        let Binding { segment_no, chain, .. } = index.header().binding;
        let found = bound_by(&index, &file).map_err(|error| failed(segment, error))?;
        index.header().check(&found.ok_or(Fault::Foreign { segment_no, chain })?)?;
        let path = segment.to_owned();
        Ok(Some(IndexedSegment { index, file, path, producers: None, bytes_read: 0 }))
    }

    /// Reads the header of a frame.
    pub fn read_header(&mut self, frame: &FrameEntry) -> Result<FrameHeader, RecordError> {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        self.file.read_exact_at(&mut bytes, frame.bytes.start).at(&self.path)?;
        self.bytes_read += bytes.len() as u64;
        let salt = self.index.header().binding.salt;
        FrameHeader::decode_canonical(&bytes, salt).map_err(|_| self.damaged(frame.bytes.start))
    }

    /// Reads a whole frame.
    pub fn read_frame(&mut self, frame: &FrameEntry) -> Result<Frame, RecordError> {
        let header = self.read_header(frame)?;
        if header.frame_bytes() != frame.bytes.end - frame.bytes.start {
            return Err(self.damaged(frame.bytes.start));
        }
        let mut body = vec![0; header.body_len as usize];
        let position = frame.bytes.start + FRAME_HEADER_BYTES as u64;
        self.file.read_exact_at(&mut body, position).at(&self.path)?;
        self.bytes_read += body.len() as u64;
        header.check_body(&body).map_err(|_| self.damaged(frame.bytes.start))?;
        Ok(Frame { header, body: body.into() })
    }

    fn damaged(&self, position: u64) -> RecordError {
        RecordError::Block { path: self.path.clone(), position }
    }

    /// The index.
    pub fn index(&self) -> &SealedIndex<IndexFile<F>> {
        &self.index
    }

    /// Returns how many bytes of the segment were read.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Reads one message; `None` where the offset holds a control or is not in the segment.
    pub fn read(&mut self, offset: Offset) -> Result<Option<Message>, RecordError> {
        self.read_found(offset, None, true)
    }

    /// The same of a record whose topic may be known, as that by which it was found: else the index is asked for all of them. Without its
    /// producer it is a block less.
    pub fn read_found(
        &mut self,
        offset: Offset,
        topic: Option<Bytes>,
        with_producer: bool,
    ) -> Result<Option<Message>, RecordError> {
        let (Some(place), Some(frame)) =
            (self.index.record_at(offset)?, self.index.frame_at(offset)?)
        else {
            return Ok(None);
        };
        let topic = match topic {
            Some(topic) => topic,
            None => match self.index.topic_at(offset)? {
                Some(topic) => topic.into(),
                None => return Ok(None),
            },
        };
        let record = self.read_blocks(place)?;
        let meta = BatchMeta {
            base_offset: offset,
            base_ts: frame.base_ts,
            record_count: 1,
            tables_len: 0,
            kind: FrameKind::Mixed,
        };
        let producers = match with_producer && BatchReader::names_producer(&record) {
            true => Some(self.producers(&frame)?),
            false => None,
        };
        Ok(Some(BatchReader::read_alone(meta, topic, producers, record)?))
    }

    fn producers(&mut self, frame: &FrameEntry) -> Result<&[Producer], RecordError> {
        if self.producers.as_ref().is_none_or(|(of, _)| *of != frame.number) {
            let start = frame.bytes.start + u64::from(frame.producers_at);
            let records = self.index.record_at(frame.base_offset)?;
            let end = records.map_or(frame.bytes.end, |first| first.start);
            let table = match frame.producers_at as usize > FRAME_HEADER_BYTES && start < end {
                true => self.read_blocks(start..end)?,
                false => Bytes::new(),
            };
            self.producers = Some((frame.number, BatchReader::read_producers(&table)));
        }
        Ok(self.producers.as_ref().map_or(&[], |(_, producers)| producers))
    }

    /// Reads the blocks that a range lies in, checks them, and returns the range.
    fn read_blocks(&mut self, range: Range<u64>) -> Result<Bytes, RecordError> {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        let end_bytes = self.index.header().binding.end_bytes;
        let start = range.start / BLOCK * BLOCK;
        let end = range.end.next_multiple_of(BLOCK).min(end_bytes);
        if start < SEGMENT_HEADER_BYTES as u64 || range.end > end_bytes {
            return Err(self.damaged(range.start));
        }
        let mut bytes = vec![0; (end - start) as usize];
        self.file.read_exact_at(&mut bytes, start).at(&self.path)?;
        for frame in self.index.frames_in(start..end)? {
            let local = frame.bytes.start + LOCAL_AT as u64;
            if start <= local && local < end {
                let at = (local - start) as usize;
                bytes[at..at + FRAME_HEADER_BYTES - LOCAL_AT].fill(0);
            }
        }
        let first = (start - SEGMENT_HEADER_BYTES as u64) / BLOCK;
        for (number, block) in (first..).zip(bytes.chunks(BLOCK_BYTES)) {
            if self.index.block_crc(number)? != Some(crc32c::crc32c(block)) {
                return Err(self.damaged(SEGMENT_HEADER_BYTES as u64 + number * BLOCK));
            }
        }
        self.bytes_read += bytes.len() as u64;
        let (from, to) = (range.start - start, range.end - start);
        Ok(Bytes::from(bytes).slice(from as usize..to as usize))
    }
}

/// Returns what binds an index to the segment as it is in a file; `None` where the file is none, or ends otherwise than the index says.
fn bound_by<F: DiskFile>(
    index: &SealedIndex<IndexFile<F>>,
    file: &F,
) -> io::Result<Option<Binding>> {
    let end_bytes = index.header().binding.end_bytes;
    let Ok(segment) = read_segment_header(file)? else { return Ok(None) };
    let last = index.frames_in(end_bytes.saturating_sub(1)..end_bytes).ok();
    let last = last.and_then(|frames| frames.into_iter().rfind(|it| it.bytes.end == end_bytes));
    let Some(last) = last else { return Ok(None) };
    let header_at = |position: u64| -> io::Result<Option<FrameHeader>> {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        match file.read_exact_at(&mut bytes, position) {
            Ok(()) => Ok(FrameHeader::decode_canonical(&bytes, segment.salt()).ok()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    };
    let Some(header) = header_at(last.bytes.start)? else { return Ok(None) };
    let follows = header_at(end_bytes)?.is_some_and(|next| next.index == header.index + 1);
    Ok((!follows).then(|| bind(&segment, &header, last.bytes.end)))
}
