//! The sealed index of a segment from its frames: what is in a batch, told to the index's builder.

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxmq_index::SealedIndexBuilder;
use fluxmq_index::sealed::{Binding, RouteId, TopicId};

use crate::format::frame::LOCAL_AT;
use crate::format::{
    BatchError, BatchReader, FRAME_ALIGNMENT, FRAME_HEADER_BYTES, FrameHeader, RouteDef,
    SegmentHeader,
};

/// Takes the frames of a segment in their order, checked by whoever reads them.
#[derive(Debug)]
pub struct SegmentIndexer {
    header: SegmentHeader,
    salt: u32,
    builder: SealedIndexBuilder,
    end_bytes: u64,
    last: Option<FrameHeader>,
    /// Of the frame at hand, by their numbers in it.
    topics: Vec<(TopicId, RouteId)>,
}

impl SegmentIndexer {
    /// Begins the index of a segment.
    pub fn new(header: SegmentHeader) -> SegmentIndexer {
        SegmentIndexer {
            salt: header.salt(),
            header,
            builder: SealedIndexBuilder::new(),
            end_bytes: 0,
            last: None,
            topics: Vec::new(),
        }
    }

    /// Adds the next frame, which begins at byte `position` of the file. After an error there is no index.
    pub fn push(
        &mut self,
        position: u64,
        header: &FrameHeader,
        body: &Bytes,
    ) -> Result<(), BatchError> {
        let mut batch = BatchReader::new(header, body.clone())?;
        let body_at = position + FRAME_HEADER_BYTES as u64;
        let producers_at = batch.producers_at().map_or(0, |at| at + FRAME_HEADER_BYTES);
        self.builder.frame(position, header.base_ts, producers_at as u32);
        let mut canonical = header.encode(self.salt);
        canonical[LOCAL_AT..].fill(0);
        let padding = header.frame_bytes() as usize - FRAME_HEADER_BYTES - body.len();
        self.builder.bytes(&canonical);
        self.builder.bytes(body);
        self.builder.bytes(&[0; FRAME_ALIGNMENT][..padding]);
        self.name_topics(&batch);
        while let Some(record) = batch.next_topic() {
            let (at, topic) = record?;
            match topic.map(|topic| self.topics[topic as usize]) {
                Some((topic, route)) => self.builder.message(body_at + at as u64, topic, route),
                None => self.builder.control(body_at + at as u64),
            }
        }
        self.end_bytes = position + header.frame_bytes();
        self.last = Some(*header);
        Ok(())
    }

    /// Returns the index, and the segment it is bound to: the one that ends with the last frame. `None` when there was none.
    pub fn finish(self) -> Option<(Binding, Vec<u8>)> {
        let last = self.last?;
        let binding = bind(&self.header, &last, self.end_bytes);
        Some((binding, self.builder.finish(binding)))
    }

    fn name_topics(&mut self, batch: &BatchReader) {
        let none = self.builder.route(&[]);
        let mut routes = BTreeMap::new();
        for RouteDef { id, queues } in batch.routes() {
            let mut queues = queues.clone();
            queues.dedup();
            routes.insert(*id, self.builder.route(&queues));
        }
        self.topics.clear();
        for (route_set, topic) in batch.topics() {
            // What a frame does not define goes to no queue: its readers see it so, too.
            let route = routes.get(&route_set).copied().unwrap_or(none);
            self.topics.push((self.builder.topic(topic), route));
        }
    }
}

/// Returns what binds an index to the segment that ends with this frame.
pub(crate) fn bind(header: &SegmentHeader, last: &FrameHeader, end_bytes: u64) -> Binding {
    Binding {
        partition: header.partition,
        segment_no: header.segment_no,
        base_offset: header.base_offset,
        end_offset: last.end_offset(),
        base_index: header.base_index,
        last_index: last.index,
        end_bytes,
        salt: header.salt(),
        chain: last.crc,
    }
}
