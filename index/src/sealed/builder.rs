//! Building the sealed index of a segment from its frames, in their order.
//!
//! Every topic and route set is named once for each frame that has it, every record costs a few pushes; the rest happens at the end,
//! on numbers. The same segment makes the same bytes.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::header::{Binding, Header, SEALED_HEADER_BYTES, Section};
use super::{BLOCK_BYTES, ascending, dictionary, learn, packed};
use crate::route_set::{EMPTY_ROUTE_SET, RouteSets};
use crate::slab;

/// In the column of the builder: not a message.
const NO_TOPIC: u32 = u32::MAX;

/// A topic of a segment, as its builder counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicId(u32);

/// A route set of a segment, as its builder counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteId(u32);

/// A sealed index in the making.
#[derive(Debug)]
pub struct SealedIndexBuilder {
    /// The topics, one behind the other.
    names: Vec<u8>,
    /// Where each topic ends; it begins where the one before ends.
    ends: Vec<usize>,
    /// A topic's number, and part of its hash: most others are told apart by it, and growing does not look at the names.
    topic_ids: HashTable<(u32, u32)>,
    routes: RouteSets,
    /// The topic of each record, or `NO_TOPIC`.
    topic_column: Vec<u32>,
    /// The route set of each record.
    route_column: Vec<u32>,
    /// Where each record begins.
    positions: Vec<u64>,
    frames: Frames,
    blocks: Blocks,
}

#[derive(Debug, Default)]
struct Frames {
    positions: Vec<u64>,
    /// How many records lie before each.
    records: Vec<u64>,
    times: Vec<u64>,
    producers_at: Vec<u32>,
}

/// Checksums of a segment's bytes, block by block.
#[derive(Debug)]
struct Blocks {
    crcs: Vec<u8>,
    crc: u32,
    filled: usize,
}

impl SealedIndexBuilder {
    /// Begins the index of a segment.
    pub fn new() -> SealedIndexBuilder {
        SealedIndexBuilder {
            names: Vec::new(),
            ends: Vec::new(),
            topic_ids: HashTable::new(),
            routes: RouteSets::new(),
            topic_column: Vec::new(),
            route_column: Vec::new(),
            positions: Vec::new(),
            frames: Frames::default(),
            blocks: Blocks { crcs: Vec::new(), crc: 0, filled: 0 },
        }
    }

    /// Begins the next frame, at byte `position` of the file. Its producers are listed `producers_at` bytes behind that, 0 for none.
    ///
    /// Panics when the frame's position or time is before the last one's.
    pub fn frame(&mut self, position: u64, base_ts: u64, producers_at: u32) {
        self.frames.positions.push(position);
        self.frames.records.push(self.topic_column.len() as u64);
        self.frames.times.push(base_ts);
        self.frames.producers_at.push(producers_at);
    }

    /// Adds the next bytes of the segment's frames, what belongs to the replica alone read as zeros.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.blocks.feed(bytes);
    }

    /// Returns the number of a topic.
    pub fn topic(&mut self, topic: &[u8]) -> TopicId {
        let part = (xxh3_64(topic) >> 32) as u32;
        let is_topic = |(id, other): &(u32, u32)| {
            *other == part && name(&self.names, &self.ends, *id) == topic
        };
        if let Some((id, _)) = self.topic_ids.find(spread(part), is_topic) {
            return TopicId(*id);
        }
        self.names.extend_from_slice(topic);
        let id = slab::push(&mut self.ends, self.names.len());
        self.topic_ids.insert_unique(spread(part), (id, part), |(_, part)| spread(*part));
        TopicId(id)
    }

    /// Returns the number of the set of these queues, whose ids ascend.
    pub fn route(&mut self, queues: &[u64]) -> RouteId {
        RouteId(self.routes.intern(queues))
    }

    /// Adds the next record, a message, at byte `position` of the file.
    pub fn message(&mut self, position: u64, topic: TopicId, route: RouteId) {
        self.topic_column.push(topic.0);
        self.route_column.push(route.0);
        self.positions.push(position);
    }

    /// Adds the next record, a control.
    pub fn control(&mut self, position: u64) {
        self.topic_column.push(NO_TOPIC);
        self.route_column.push(EMPTY_ROUTE_SET);
        self.positions.push(position);
    }

    /// Returns how many records were added.
    pub fn record_count(&self) -> u64 {
        self.topic_column.len() as u64
    }

    /// Returns the index.
    ///
    /// Panics unless the records are those from the segment's base to its end.
    pub fn finish(mut self, binding: Binding) -> Vec<u8> {
        let expected = binding.end_offset.0 - binding.base_offset.0;
        assert_eq!(self.record_count(), expected, "a segment's records are all added");
        let frames = self.encode_frames(&binding);
        let mut records = Vec::new();
        ascending::encode(&std::mem::take(&mut self.positions), &mut records);
        let queues = self.encode_queues();
        let (topics, column, postings) = self.encode_topics();
        let blocks = self.blocks.finish();
        let contents = [frames, records, topics, column, postings, queues, blocks];
        let header = Header::of(binding, &contents);
        let mut out = Vec::with_capacity(header.file_bytes() as usize);
        out.extend_from_slice(&header.encode());
        contents.iter().for_each(|content| out.extend_from_slice(content));
        debug_assert_eq!(header.section(Section::Frames).at, SEALED_HEADER_BYTES as u64);
        out
    }

    fn encode_frames(&mut self, binding: &Binding) -> Vec<u8> {
        let mut frames = std::mem::take(&mut self.frames);
        frames.positions.push(binding.end_bytes);
        frames.records.push(self.record_count());
        let mut out = Vec::new();
        for ascending in [&frames.positions, &frames.records, &frames.times] {
            ascending::encode(ascending, &mut out);
        }
        packed::encode(&frames.producers_at, &mut out);
        out
    }

    /// Returns the dictionary, the column and the postings, topics numbered as the dictionary has them.
    fn encode_topics(&mut self) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let names: Vec<&[u8]> =
            (0..self.ends.len() as u32).map(|id| name(&self.names, &self.ends, id)).collect();
        let mut topics = Vec::new();
        let mut numbers = dictionary::encode(&names, &learn::learn(&names), &mut topics);
        // Behind the topics: the number of what is no message.
        let topic_count = numbers.len() as u32;
        numbers.push(topic_count);
        let mut column = std::mem::take(&mut self.topic_column);
        for topic in &mut column {
            *topic = numbers[(*topic).min(topic_count) as usize];
        }
        let mut postings = Vec::new();
        encode_postings(&column, topic_count, &mut postings);
        let mut packed_column = Vec::new();
        packed::encode(&column, &mut packed_column);
        (topics, packed_column, postings)
    }

    fn encode_queues(&mut self) -> Vec<u8> {
        let set_count = self.routes.len() as u32 - 1;
        let mut column = std::mem::take(&mut self.route_column);
        for set in &mut column {
            // The empty set is what has no postings.
            *set = set.checked_sub(1).unwrap_or(set_count);
        }
        let mut refs: Vec<(u64, u32)> = (0..set_count)
            .flat_map(|set| self.routes.get(set + 1).iter().map(move |queue| (*queue, set)))
            .collect();
        refs.sort_unstable();
        let mut out = Vec::new();
        let mut starts = Vec::new();
        let mut ids = Vec::new();
        for (at, (queue, _)) in refs.iter().enumerate() {
            if at == 0 || refs[at - 1].0 != *queue {
                starts.push(at as u64);
                ids.extend_from_slice(&queue.to_le_bytes());
            }
        }
        out.extend_from_slice(&(starts.len() as u32).to_le_bytes());
        out.extend_from_slice(&set_count.to_le_bytes());
        out.extend_from_slice(&ids);
        starts.push(refs.len() as u64);
        ascending::encode(&starts, &mut out);
        packed::encode(&refs.iter().map(|(_, set)| *set).collect::<Vec<_>>(), &mut out);
        encode_postings(&column, set_count, &mut out);
        out
    }
}

impl Default for SealedIndexBuilder {
    fn default() -> SealedIndexBuilder {
        SealedIndexBuilder::new()
    }
}

impl Blocks {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.filled));
            self.crc = crc32c::crc32c_append(self.crc, now);
            self.filled += now.len();
            if self.filled == BLOCK_BYTES {
                self.close();
            }
            bytes = later;
        }
    }

    fn close(&mut self) {
        self.crcs.extend_from_slice(&self.crc.to_le_bytes());
        (self.crc, self.filled) = (0, 0);
    }

    fn finish(&mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.close();
        }
        std::mem::take(&mut self.crcs)
    }
}

/// Appends, for each number below `count`, the places in the column that have it.
fn encode_postings(column: &[u32], count: u32, out: &mut Vec<u8>) {
    let mut next = vec![0u32; count as usize + 1];
    for &number in column.iter().filter(|number| **number < count) {
        next[number as usize + 1] += 1;
    }
    for at in 1..next.len() {
        next[at] += next[at - 1];
    }
    let mut values = vec![0; next[count as usize] as usize];
    for (place, &number) in column.iter().enumerate().filter(|(_, number)| **number < count) {
        let at = &mut next[number as usize];
        values[*at as usize] = u64::from(number) * column.len() as u64 + place as u64;
        *at += 1;
    }
    ascending::encode(&values, out);
}

/// Makes a hash of half of one.
fn spread(part: u32) -> u64 {
    slab::fold_hash(u64::from(part), 0)
}

fn name<'a>(names: &'a [u8], ends: &[usize], id: u32) -> &'a [u8] {
    let at = id as usize;
    let start = at.checked_sub(1).map_or(0, |before| ends[before]);
    &names[start..ends[at]]
}
