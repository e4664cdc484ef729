//! Which records of one segment have which topic, and which go to which queue.
//!
//! In memory, for the segment being written or one scanned again. Topics are numbered in order of first use;
//! each has its records as ascending numbers relative to the base, and a column has the topic of every record.
//! A literal filter is one lookup; a wildcard picks topics first, then merges their records or scans the column.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::offset::Offset;
use crate::postings::{Postings, merge};
use crate::slab;
use crate::topic_trie::matches;

/// In the column: not a message.
const NO_TOPIC: u32 = u32::MAX;

/// Topic and queue of every message of a segment.
#[derive(Clone)]
pub struct SegmentIndex {
    base: Offset,
    /// The topics, one behind the other.
    names: Vec<u8>,
    topics: Vec<TopicEntry>,
    topic_ids: HashTable<u32>,
    /// The topic of each record from `base` on, or `NO_TOPIC`.
    column: Vec<u32>,
    lanes: HashTable<(u64, Postings)>,
    seed: u64,
}

#[derive(Clone)]
struct TopicEntry {
    name_start: usize,
    name_len: usize,
    records: Postings,
}

/// The topics that match a filter, remembered between calls; topics added since are looked at in the next.
#[derive(Clone, Debug)]
pub struct TopicSelection {
    filter: Vec<u8>,
    /// How many topics were looked at.
    seen: usize,
    matching: Vec<u32>,
    /// One bit for each topic seen.
    bits: Vec<u64>,
}

impl SegmentIndex {
    /// Returns the empty index of a segment that begins at `base`.
    pub fn new(base: Offset) -> SegmentIndex {
        SegmentIndex::with_seed(base, 0)
    }

    /// Returns the empty index of a segment, with hash tables that depend on `seed`.
    pub fn with_seed(base: Offset, seed: u64) -> SegmentIndex {
        SegmentIndex {
            base,
            names: Vec::new(),
            topics: Vec::new(),
            topic_ids: HashTable::new(),
            column: Vec::new(),
            lanes: HashTable::new(),
            seed,
        }
    }

    /// Adds a message. Lanes are the queues it was routed to, each once.
    ///
    /// Panics unless `offset` is above all before it and less than 2^32 above the base.
    pub fn add(&mut self, offset: Offset, topic: &[u8], lanes: &[u64]) {
        let record = self.relative(offset).expect("the offset is in the segment");
        assert!(record as usize >= self.column.len(), "offset {offset} is not above the last");
        let id = self.topic_id(topic);
        self.topics[id as usize].records.push(record);
        if self.column.len() < record as usize {
            self.column.resize(record as usize, NO_TOPIC);
        }
        self.column.push(id);
        for &lane in lanes {
            let seed = self.seed;
            let hash = slab::fold_hash(lane, seed);
            let rehash = |(lane, _): &(u64, Postings)| slab::fold_hash(*lane, seed);
            let entry = self.lanes.entry(hash, |(found, _)| *found == lane, rehash);
            entry.or_insert((lane, Postings::default())).into_mut().1.push(record);
        }
    }

    /// Forgets the records at and after `from`: the log gave up an unproven suffix.
    pub fn truncate_suffix(&mut self, from: Offset) {
        let length = self.relative_or_end(from);
        for &topic in self.column.iter().skip(length as usize).filter(|&&topic| topic != NO_TOPIC) {
            self.topics[topic as usize].records.truncate(length);
        }
        self.column.truncate(length as usize);
        self.lanes.retain(|(_, records)| {
            records.truncate(length);
            !records.is_empty()
        });
    }

    /// Appends up to `limit` offsets at or after `from` whose topic matches the filter, ascending.
    pub fn select(&self, filter: &[u8], from: Offset, limit: usize, out: &mut Vec<Offset>) {
        if is_literal(filter) {
            if let Some(id) = self.find_topic(filter) {
                let records = self.topics[id as usize].records.from(self.relative_or_end(from));
                out.extend(records.iter().take(limit).map(|&record| self.absolute(record)));
            }
            return;
        }
        self.select_in(&mut TopicSelection::new(filter), from, limit, out);
    }

    /// Does what [`SegmentIndex::select`] does, without matching topics the selection has seen.
    ///
    /// A selection belongs to one index: numbers of topics mean nothing in another.
    pub fn select_in(
        &self,
        selection: &mut TopicSelection,
        from: Offset,
        limit: usize,
        out: &mut Vec<Offset>,
    ) {
        selection.refresh(self);
        let from = self.relative_or_end(from);
        let topics = || selection.matching.iter().map(|&id| &self.topics[id as usize].records);
        if self.is_merge_cheaper(selection.matching.len(), || topics().map(Postings::len).sum()) {
            let lists = topics().map(|records| records.from(from)).collect();
            merge(lists, limit, |record| out.push(self.absolute(record)));
            return;
        }
        let column = self.column.iter().enumerate().skip(from as usize);
        let hits = column.filter(|&(_, &topic)| topic != NO_TOPIC && selection.contains(topic));
        out.extend(hits.take(limit).map(|(record, _)| self.base.plus(record as u64)));
    }

    /// Appends up to `limit` offsets at or after `from` that were routed to the queue, ascending.
    pub fn select_lane(&self, lane: u64, from: Offset, limit: usize, out: &mut Vec<Offset>) {
        if let Some((_, records)) = self.find_lane(lane) {
            let records = records.from(self.relative_or_end(from));
            out.extend(records.iter().take(limit).map(|&record| self.absolute(record)));
        }
    }

    /// Returns the topics and how many records each has, in order of first use.
    pub fn topics(&self) -> impl Iterator<Item = (&[u8], usize)> {
        let used = self.topics.iter().filter(|topic| !topic.records.is_empty());
        used.map(|topic| (topic.name(&self.names), topic.records.len()))
    }

    /// Returns how many records a queue has in the segment.
    pub fn lane_len(&self, lane: u64) -> usize {
        self.find_lane(lane).map_or(0, |(_, records)| records.len())
    }

    /// Returns the offset of the first record the segment may hold.
    pub fn base(&self) -> Offset {
        self.base
    }

    /// Returns the offset after the last message added, or the base.
    pub fn end(&self) -> Offset {
        self.base.plus(self.column.len() as u64)
    }

    /// Returns the bytes allocated. Visits every topic and queue.
    pub fn memory_bytes(&self) -> usize {
        let topic_bytes: usize = self.topics.iter().map(|topic| topic.records.heap_bytes()).sum();
        let lane_bytes: usize = self.lanes.iter().map(|(_, records)| records.heap_bytes()).sum();
        self.names.capacity()
            + self.topics.capacity() * size_of::<TopicEntry>()
            + self.topic_ids.allocation_size()
            + self.column.capacity() * size_of::<u32>()
            + self.lanes.allocation_size()
            + topic_bytes
            + lane_bytes
    }

    /// Returns the topic of a record; `None` where the offset is no message's, or not in the index.
    pub fn topic_of(&self, offset: Offset) -> Option<&[u8]> {
        let topic = *self.column.get(self.relative(offset)? as usize)?;
        Some(self.topics.get(topic as usize)?.name(&self.names))
    }

    /// Returns the number of a topic, given if need be.
    fn topic_id(&mut self, topic: &[u8]) -> u32 {
        let hash = xxh3_64_with_seed(topic, self.seed);
        if let Some(id) = self.find_hashed(hash, topic) {
            return id;
        }
        let entry = TopicEntry {
            name_start: self.names.len(),
            name_len: topic.len(),
            records: Postings::default(),
        };
        self.names.extend_from_slice(topic);
        let id = slab::push(&mut self.topics, entry);
        let (topics, names, seed) = (&self.topics, &self.names, self.seed);
        let rehash = |&id: &u32| xxh3_64_with_seed(topics[id as usize].name(names), seed);
        self.topic_ids.insert_unique(hash, id, rehash);
        id
    }

    fn find_topic(&self, topic: &[u8]) -> Option<u32> {
        self.find_hashed(xxh3_64_with_seed(topic, self.seed), topic)
    }

    fn find_hashed(&self, hash: u64, topic: &[u8]) -> Option<u32> {
        let is_topic = |&id: &u32| self.topics[id as usize].name(&self.names) == topic;
        self.topic_ids.find(hash, is_topic).copied()
    }

    fn find_lane(&self, lane: u64) -> Option<&(u64, Postings)> {
        self.lanes.find(slab::fold_hash(lane, self.seed), |(found, _)| *found == lane)
    }

    /// Tells whether merging the records of so many topics costs less than scanning the column.
    ///
    /// A step of a merge costs about four times a step of the scan, for each doubling of the topics.
    fn is_merge_cheaper(&self, topic_count: usize, record_count: impl Fn() -> usize) -> bool {
        let steps = |doublings: u32| record_count().saturating_mul(doublings as usize);
        topic_count <= 1 || steps(topic_count.ilog2()) < self.column.len() / 4
    }

    /// Returns an offset relative to the base, if it is in reach.
    fn relative(&self, offset: Offset) -> Option<u32> {
        u32::try_from(offset.0.checked_sub(self.base.0)?).ok().filter(|&record| record < u32::MAX)
    }

    /// Returns an offset relative to the base, moved to the base or to the end if it is outside.
    fn relative_or_end(&self, offset: Offset) -> u32 {
        let end = self.column.len() as u64;
        offset.0.saturating_sub(self.base.0).min(end) as u32
    }

    fn absolute(&self, record: u32) -> Offset {
        self.base.plus(u64::from(record))
    }
}

impl TopicEntry {
    fn name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        &names[self.name_start..self.name_start + self.name_len]
    }
}

impl TopicSelection {
    /// Returns a selection that has seen no topic.
    pub fn new(filter: &[u8]) -> TopicSelection {
        TopicSelection { filter: filter.into(), seen: 0, matching: Vec::new(), bits: Vec::new() }
    }

    /// Matches the topics added since the last call.
    fn refresh(&mut self, index: &SegmentIndex) {
        self.bits.resize(index.topics.len().div_ceil(64), 0);
        for (id, topic) in index.topics.iter().enumerate().skip(self.seen) {
            if matches(&self.filter, topic.name(&index.names)) {
                self.bits[id / 64] |= 1 << (id % 64);
                self.matching.push(id as u32);
            }
        }
        self.seen = index.topics.len();
    }

    fn contains(&self, topic: u32) -> bool {
        self.bits[topic as usize / 64] >> (topic % 64) & 1 == 1
    }
}

/// Tells whether a filter names exactly one topic. A stray wildcard character counts as a wildcard.
fn is_literal(filter: &[u8]) -> bool {
    !filter.iter().any(|byte| matches!(byte, b'+' | b'#'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::any_topic::{filter, topic};

    #[test]
    fn control_records_occupy_offsets_and_match_nothing() {
        let mut index = SegmentIndex::new(Offset(100));
        index.add(Offset(102), b"a", &[7]);
        index.add(Offset(105), b"b", &[]);

        assert_eq!(select(&index, "#", 0, 10), [102, 105]);
        assert_eq!(select(&index, "+", 103, 10), [105]);
        assert_eq!(index.end(), Offset(106));
    }

    #[test]
    fn a_truncated_suffix_is_found_no_more_and_its_offsets_can_be_given_again() {
        let mut index = SegmentIndex::new(Offset(10));
        index.add(Offset(10), b"a", &[1]);
        index.add(Offset(11), b"b", &[1, 2]);
        index.add(Offset(12), b"a", &[2]);

        index.truncate_suffix(Offset(11));
        index.add(Offset(11), b"c", &[2]);

        assert_eq!(select(&index, "#", 0, 10), [10, 11]);
        assert_eq!(select(&index, "b", 0, 10), [0u64; 0]);
        assert_eq!(select_lane(&index, 1, 0, 10), [10]);
        assert_eq!(select_lane(&index, 2, 0, 10), [11]);
        let topics: Vec<_> = index.topics().collect();
        assert_eq!(topics, [(&b"a"[..], 1), (&b"c"[..], 1)]);
    }

    #[test]
    fn a_selection_sees_topics_added_after_it_was_made() {
        let mut index = SegmentIndex::new(Offset(0));
        let mut selection = TopicSelection::new(b"a/+");
        index.add(Offset(0), b"a/x", &[]);
        let mut found = Vec::new();
        index.select_in(&mut selection, Offset(0), 10, &mut found);

        index.add(Offset(1), b"b/x", &[]);
        index.add(Offset(2), b"a/y", &[]);
        index.select_in(&mut selection, Offset(1), 10, &mut found);

        assert_eq!(found, [Offset(0), Offset(2)]);
    }

    #[test]
    #[should_panic(expected = "is not above the last")]
    fn an_offset_given_twice_is_refused() {
        let mut index = SegmentIndex::new(Offset(0));
        index.add(Offset(1), b"a", &[]);
        index.add(Offset(1), b"a", &[]);
    }

    /// A record of the model: how many control records lie before it, its topic and its lanes.
    type Added = (u64, String, Vec<u64>);

    fn name(topic_count: u32) -> impl Strategy<Value = String> {
        let counted = (0..topic_count).prop_map(|number| match number % 8 {
            0 => format!("$SYS/{number}"),
            1 => format!("/{number}"),
            _ => format!("a/{}/{number}", number % 3),
        });
        prop_oneof![3 => counted, 1 => topic()]
    }

    fn added(topic_count: u32) -> impl Strategy<Value = Vec<Added>> {
        let name = name(topic_count);
        let lanes = prop::collection::btree_set(0..5u64, 0..3);
        let lanes = lanes.prop_map(|lanes| lanes.into_iter().collect());
        prop::collection::vec((0..3u64, name, lanes), 0..300)
    }

    proptest! {
        /// Rare topics take the merge, common ones the scan of the column.
        #[test]
        fn what_the_index_finds_is_what_a_full_scan_finds(
            added in prop_oneof![added(8), added(40), added(4000)],
            filter in filter(name(40)),
            lane in 0..6u64,
            base in 0..1000u64,
            skip in 0..500u64,
            limit in prop_oneof![0..20usize, Just(usize::MAX)],
            cut in prop::option::of(0..600u64),
        ) {
            let mut index = SegmentIndex::with_seed(Offset(base), 5);
            let mut records = Vec::new();
            let mut next = base;
            for (gap, topic, lanes) in added {
                index.add(Offset(next + gap), topic.as_bytes(), &lanes);
                records.push((next + gap, topic, lanes));
                next += gap + 1;
            }
            if let Some(cut) = cut {
                index.truncate_suffix(Offset(base + cut));
                records.retain(|&(offset, ..)| offset < base + cut);
            }
            let from = (base + skip).saturating_sub(50);

            let by_topic = |(offset, topic, _): &&Added| {
                *offset >= from && matches(filter.as_bytes(), topic.as_bytes())
            };
            let expected = records.iter().filter(by_topic).map(|record| record.0).take(limit);
            prop_assert_eq!(select(&index, &filter, from, limit), expected.collect::<Vec<_>>());
            let by_lane = |(offset, _, lanes): &&Added| *offset >= from && lanes.contains(&lane);
            let expected = records.iter().filter(by_lane).map(|record| record.0).take(limit);
            prop_assert_eq!(select_lane(&index, lane, from, limit), expected.collect::<Vec<_>>());
            let all = records.iter().filter(|(_, _, lanes)| lanes.contains(&lane)).count();
            prop_assert_eq!(index.lane_len(lane), all);
            prop_assert_eq!(index.topics().map(|(_, count)| count).sum::<usize>(), records.len());
        }
    }

    fn select(index: &SegmentIndex, filter: &str, from: u64, limit: usize) -> Vec<u64> {
        let mut found = Vec::new();
        index.select(filter.as_bytes(), Offset(from), limit, &mut found);
        found.into_iter().map(|offset| offset.0).collect()
    }

    fn select_lane(index: &SegmentIndex, lane: u64, from: u64, limit: usize) -> Vec<u64> {
        let mut found = Vec::new();
        index.select_lane(lane, Offset(from), limit, &mut found);
        found.into_iter().map(|offset| offset.0).collect()
    }
}
