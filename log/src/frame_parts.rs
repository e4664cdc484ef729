//! A long frame in parts that can be read, and checked, without the rest: what an index file does for a sealed segment, for the one that grows.
//!
//! A frame's checksum covers all of its body. Who has it in memory, checked, takes it apart: runs of whole records, each with a checksum of its
//! own. Nothing of that is stored.

use std::ops::Range;

use bytes::Bytes;
use fluxmq_index::Offset;

use crate::disk::{Disk, DiskFile};
use crate::format::{
    BatchError, BatchMeta, BatchReader, FRAME_HEADER_BYTES, Frame, FrameKind, Message, Producer,
};
use crate::indexed_segment::RecordError;
use crate::layout::{AtPath, segment_path};
use crate::log::Log;

/// Bytes of a part, and of a record more.
const PART_BYTES: usize = 4096;
/// Frames are taken apart from so many bytes on: shorter ones are read whole.
pub const LONG_FRAME_BYTES: u64 = 32 << 10;

/// Where the parts of one frame are.
#[derive(Clone, Debug)]
pub struct FrameParts {
    index: u64,
    segment_no: u64,
    /// Where the body begins in the file.
    body_at: u64,
    meta: BatchMeta,
    /// The tables, and then runs of records; ascending.
    parts: Vec<Part>,
    body_len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    /// Its first record's number in the frame; of the tables 0, too.
    record: u32,
    /// Where it begins in the body.
    at: u32,
    crc: u32,
}

impl FrameParts {
    fn new(frame: &Frame, segment_no: u64, position: u64) -> FrameParts {
        let (header, body) = (&frame.header, &frame.body);
        let mut begins = vec![(0, 0), (0, header.tables_len as usize)];
        let records = BatchReader::record_spans(body, header.tables_len as usize);
        for (number, record) in (0..header.record_count).zip(records) {
            let (_, last) = begins[begins.len() - 1];
            if record.start - last >= PART_BYTES {
                begins.push((number, record.start));
            }
        }
        let ends = begins.iter().skip(1).map(|(_, at)| *at).chain([body.len()]);
        let parts = begins.iter().zip(ends).map(|((record, at), end)| Part {
            record: *record,
            at: *at as u32,
            crc: crc32c::crc32c(&body[*at..end]),
        });
        FrameParts {
            index: header.index,
            segment_no,
            body_at: position + FRAME_HEADER_BYTES as u64,
            meta: header.into(),
            parts: parts.collect(),
            body_len: header.body_len,
        }
    }

    /// Returns where in the segment's file the body is.
    pub fn body(&self) -> Range<u64> {
        self.body_at..self.body_at + u64::from(self.body_len)
    }

    /// Returns where in the segment's file a record's part is; `None` when the record is not in the frame.
    pub fn place_of(&self, offset: Offset) -> Option<Range<u64>> {
        let (part, _) = self.part_of(offset)?;
        Some(self.bytes_of(part))
    }

    fn bytes_of(&self, part: usize) -> Range<u64> {
        let end = self.parts.get(part + 1).map_or(self.body_len, |next| next.at);
        self.body_at + u64::from(self.parts[part].at)..self.body_at + u64::from(end)
    }

    /// Finds the part that a record is in, and its number there.
    fn part_of(&self, offset: Offset) -> Option<(usize, usize)> {
        let number = offset.0.checked_sub(self.meta.base_offset.0)?;
        let number = u32::try_from(number).ok().filter(|it| *it < self.meta.record_count)?;
        let part = self.parts.partition_point(|part| part.record <= number) - 1;
        Some((part, (number - self.parts[part].record) as usize))
    }
}

impl<D: Disk> Log<D> {
    /// Takes a frame apart that was appended lately; `None` for a short one, and when it is not in memory any more.
    pub fn take_apart(&self, frame: &Frame) -> Option<FrameParts> {
        if frame.header.frame_bytes() < LONG_FRAME_BYTES || !frame.header.kind.has_records() {
            return None;
        }
        let placed = self.placed(frame.header.index)?;
        Some(FrameParts::new(frame, placed.segment_no, placed.position))
    }

    /// Returns true when the frame has to be read from its file.
    pub fn is_on_disk_only(&self, parts: &FrameParts) -> bool {
        self.placed(parts.index).is_none()
    }

    /// Reads one message, of which the topic is known, out of its segment's file. Without its producer it is a part less; `None` where the
    /// offset is not in the frame. After an error, as for a control, the frame must be asked.
    pub fn read_part(
        &self,
        parts: &FrameParts,
        offset: Offset,
        topic: Bytes,
        with_producer: bool,
    ) -> Result<Option<Message>, RecordError> {
        let Some((part, number)) = parts.part_of(offset) else { return Ok(None) };
        let bytes = self.read_checked(parts, part)?;
        let malformed = BatchError::Record { number: number as u32, at: 0 };
        let span = BatchReader::record_spans(&bytes, 0).nth(number).ok_or(malformed)?;
        let record = bytes.slice(span);
        let producers = match with_producer && BatchReader::names_producer(&record) {
            true => Some(self.read_producers(parts)?),
            false => None,
        };
        let meta = BatchMeta {
            base_offset: offset,
            record_count: 1,
            tables_len: 0,
            kind: FrameKind::Mixed,
            ..parts.meta
        };
        Ok(Some(BatchReader::read_alone(meta, topic, producers.as_deref(), record)?))
    }

    fn read_producers(&self, parts: &FrameParts) -> Result<Vec<Producer>, RecordError> {
        let tables = self.read_checked(parts, 0)?;
        let frame = BatchReader::new(parts.meta, tables.clone())?;
        let at = frame.producers_at().unwrap_or(tables.len());
        Ok(BatchReader::read_producers(&tables[at..]))
    }

    fn read_checked(&self, parts: &FrameParts, part: usize) -> Result<Bytes, RecordError> {
        let Range { start: position, end } = parts.bytes_of(part);
        let path = segment_path(&self.dir, parts.segment_no);
        let file = self.disk.open_read(&path).at(&path)?;
        let mut bytes = vec![0; (end - position) as usize];
        file.read_exact_at(&mut bytes, position).at(&path)?;
        match crc32c::crc32c(&bytes) == parts.parts[part].crc {
            true => Ok(bytes.into()),
            false => Err(RecordError::Block { path, position }),
        }
    }
}
