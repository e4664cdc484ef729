//! Where the records of topics and queues are, one segment at a time.
//!
//! The active segment has an index in memory that grows as records are applied; it was built from the frames when somebody first
//! asked, or with the segment. A sealed segment has a file beside it ([`fluxmq_log::index_file`]), of which the parts that are asked
//! for are kept. Until that file is there, or when it is wrong, an index in memory answers for it, built from its frames if need be:
//! files make answers quicker and never other ones. What the records say, and questions across segments, are [`super::History`]'s.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::error::Error;

use bytes::Bytes;
use fluxmq_index::sealed::{SealedError, TopicRanges};
use fluxmq_index::segment_index::TopicSelection;
use fluxmq_index::{Offset, SegmentIndex};
use fluxmq_log::disk::Disk;
use fluxmq_log::format::Frame;
use fluxmq_log::{FileError, FrameParts, IndexedSegment, Log, SegmentSpan};

use super::HistoryError;
use crate::model::Filter;
use crate::model::frame::{self, Decoded};

/// Remembered wildcard matches, by filter and segment.
const SELECTIONS_MAX: usize = 1024;
/// Bytes read at a time while an index is built in memory.
const REBUILD_READ_BYTES: u64 = 4 << 20;
/// Segments beside the active one with an index in memory: more than these wait for their file without.
const IN_MEMORY_MAX: usize = 4;
/// Index files that are open, and bytes of them that are kept.
const OPEN_FILES_MAX: usize = 16;
const OPEN_BYTES_MAX: usize = 64 << 20;

/// The indexes of a log's segments: those in memory, and the files that are open.
pub struct SegmentIndexes<D: Disk> {
    /// Base offset of the segment that grows.
    active: Offset,
    /// By base offset of the segment.
    in_memory: BTreeMap<Offset, SegmentIndex>,
    /// By base offset of the segment, those asked last at the end.
    open: VecDeque<(Offset, IndexedSegment<D::File>)>,
    /// Segments whose index file gave no answer.
    distrusted: BTreeSet<u64>,
    selections: HashMap<(Filter, Offset), Selection>,
    /// Long frames of segments that have an index in memory, as they were applied: by base offset of the segment, and their own.
    apart: BTreeMap<Offset, BTreeMap<Offset, FrameParts>>,
}

/// The topics of one segment that match a filter.
enum Selection {
    InMemory(TopicSelection),
    Sealed(TopicRanges),
}

impl<D: Disk> SegmentIndexes<D> {
    /// Begins with no index; the segment that starts at `active` grows.
    pub fn new(active: Offset) -> SegmentIndexes<D> {
        SegmentIndexes {
            active,
            in_memory: BTreeMap::new(),
            open: VecDeque::new(),
            distrusted: BTreeSet::new(),
            selections: HashMap::new(),
            apart: BTreeMap::new(),
        }
    }

    /// Begins the index of a new active segment.
    pub fn roll(&mut self, base: Offset) {
        self.active = base;
        self.in_memory.insert(base, SegmentIndex::new(base));
        self.limit_in_memory();
    }

    /// Adds a message that was just applied. Ignored while the active segment's index is not built: building it reads this record.
    pub fn add(&mut self, offset: Offset, topic: &[u8], queues: &[u64]) {
        if let Some(index) = self.in_memory.get_mut(&self.active) {
            index.add(offset, topic, queues);
        }
    }

    /// Notes where the parts of a frame are that was just applied.
    pub fn take_apart(&mut self, log: &Log<D>, frame: &Frame) {
        if let Some(parts) = log.take_apart(frame) {
            let frames = self.apart.entry(self.active).or_default();
            frames.insert(frame.header.base_offset, parts);
        }
    }

    /// Returns the parts of a record's frame, and its topic, where a segment that has no file knows them.
    pub fn apart(&self, span: SegmentSpan, offset: Offset) -> Option<(&FrameParts, &[u8])> {
        let topic = self.in_memory.get(&span.base)?.topic_of(offset)?;
        let (_, parts) = self.apart.get(&span.base)?.range(..=offset).next_back()?;
        Some((parts, topic))
    }

    /// Has a frame read whole from now on.
    pub fn forget_parts_of(&mut self, span: SegmentSpan, offset: Offset) {
        let Some(frames) = self.apart.get_mut(&span.base) else { return };
        if let Some(base) = frames.range(..=offset).next_back().map(|(base, _)| *base) {
            frames.remove(&base);
        }
    }

    fn forget_memory_of(&mut self, base: Offset) {
        self.in_memory.remove(&base);
        self.apart.remove(&base);
    }

    /// A segment has an index file: what memory had for it is not needed any more.
    pub fn has_index(&mut self, segment: SegmentSpan) {
        self.distrusted.remove(&segment.segment_no);
        self.open.retain(|(base, _)| *base != segment.base);
        // What begins where a file began may have other numbers for its topics.
        self.selections.retain(|(_, base), _| *base != segment.base);
        // An active segment that begins there too, behind one without records, keeps its own.
        if segment.base < segment.end && segment.base != self.active {
            self.forget_memory_of(segment.base);
        }
    }

    /// Forgets what belongs to segments that are gone.
    pub fn forget_below(&mut self, first: Offset) {
        self.in_memory = self.in_memory.split_off(&first);
        self.apart = self.apart.split_off(&first);
        self.open.retain(|(base, _)| *base >= first);
        self.selections.retain(|(_, base), _| *base >= first);
    }

    /// Takes the segments whose index file gave no answer, to be built again.
    pub fn take_distrusted(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.distrusted)
    }

    /// Finds up to `limit` messages of one segment that match a filter, below `end`.
    pub fn select(
        &mut self,
        log: &Log<D>,
        span: SegmentSpan,
        filter: &Filter,
        (from, end): (Offset, Offset),
        limit: usize,
        offsets: &mut Vec<Offset>,
    ) -> Result<(), HistoryError> {
        let found = offsets.len();
        if self.sealed(log, span).is_some() {
            match self.select_sealed(span, filter, from, limit, offsets) {
                Ok(()) => {
                    cut(offsets, found, end);
                    return Ok(());
                }
                Err(error) => self.distrust(span, &error),
            }
        }
        self.ensure(log, span, end)?;
        let index = &self.in_memory[&span.base];
        if filter.is_literal() {
            index.select(filter.as_bytes(), from, limit, offsets);
            return Ok(());
        }
        if self.selections.len() >= SELECTIONS_MAX {
            self.selections.clear();
        }
        let selection = self
            .selections
            .entry((filter.clone(), span.base))
            .or_insert_with(|| Selection::InMemory(TopicSelection::new(filter.as_bytes())));
        if let Selection::Sealed(_) = selection {
            // Of the file that gives no answer any more.
            *selection = Selection::InMemory(TopicSelection::new(filter.as_bytes()));
        }
        if let Selection::InMemory(selection) = selection {
            index.select_in(selection, from, limit, offsets);
        }
        Ok(())
    }

    /// Finds up to `limit` entries of a queue in one segment from the partition offset `from` on, below `end`.
    pub fn select_queue(
        &mut self,
        log: &Log<D>,
        span: SegmentSpan,
        queue: u64,
        (from, end): (Offset, Offset),
        limit: usize,
        offsets: &mut Vec<Offset>,
    ) -> Result<(), HistoryError> {
        let found = offsets.len();
        if let Some(segment) = self.sealed(log, span) {
            match segment.index().select_queue(queue, from, limit, offsets) {
                Ok(()) => {
                    cut(offsets, found, end);
                    return Ok(());
                }
                Err(error) => self.distrust(span, &error),
            }
        }
        self.ensure(log, span, end)?.select_lane(queue, from, limit, offsets);
        Ok(())
    }

    /// Returns a segment that has an index file, opened if need be; `None` when memory has to answer.
    pub fn sealed(
        &mut self,
        log: &Log<D>,
        span: SegmentSpan,
    ) -> Option<&mut IndexedSegment<D::File>> {
        if self.distrusted.contains(&span.segment_no) || !log.has_index(span.segment_no) {
            return None;
        }
        let at = self.open.iter().position(|(base, segment)| {
            *base == span.base && segment.index().header().binding.segment_no == span.segment_no
        });
        let opened = match at {
            Some(at) => self.open.remove(at),
            None => match log.open_indexed(span.segment_no) {
                Ok(segment) => segment.map(|segment| (span.base, segment)),
                Err(error) => {
                    self.distrust(span, &error);
                    None
                }
            },
        };
        self.limit_open();
        self.open.push_back(opened?);
        self.open.back_mut().map(|(_, segment)| segment)
    }

    /// Returns the topic of what a filter found in the segment that was asked or opened last, when it is of one.
    pub fn only_topic(
        &self,
        span: SegmentSpan,
        filters: &[Filter],
    ) -> Result<Option<Bytes>, SealedError<FileError>> {
        let ([filter], Some((_, segment))) = (filters, self.open.back()) else { return Ok(None) };
        match self.selections.get(&(filter.clone(), span.base)) {
            Some(Selection::Sealed(topics)) => {
                Ok(segment.index().only_topic(topics)?.map(Bytes::from))
            }
            Some(Selection::InMemory(_)) | None => Ok(None),
        }
    }

    /// Answers from memory until the file of a segment is built again.
    pub fn distrust(&mut self, span: SegmentSpan, error: &dyn Error) {
        let segment = span.segment_no;
        tracing::warn!(segment, %error, "index of a segment is not used, and will be built again");
        self.distrusted.insert(segment);
        self.open.retain(|(base, _)| *base != span.base);
    }

    /// Asks the index file that was asked or opened last.
    fn select_sealed(
        &mut self,
        span: SegmentSpan,
        filter: &Filter,
        from: Offset,
        limit: usize,
        offsets: &mut Vec<Offset>,
    ) -> Result<(), SealedError<FileError>> {
        let Some((_, segment)) = self.open.back() else { return Ok(()) };
        let index = segment.index();
        let key = (filter.clone(), span.base);
        if let Some(Selection::Sealed(topics)) = self.selections.get(&key) {
            return index.select(topics, from, limit, offsets);
        }
        let topics = index.match_topics(filter.as_bytes())?;
        index.select(&topics, from, limit, offsets)?;
        if self.selections.len() >= SELECTIONS_MAX {
            self.selections.clear();
        }
        self.selections.insert(key, Selection::Sealed(topics));
        Ok(())
    }

    /// Closes the files that were asked longest ago, as many as must be.
    fn limit_open(&mut self) {
        let bytes = |open: &VecDeque<(Offset, IndexedSegment<D::File>)>| -> usize {
            open.iter().map(|(_, segment)| segment.index().memory_bytes()).sum()
        };
        while self.open.len() >= OPEN_FILES_MAX || bytes(&self.open) > OPEN_BYTES_MAX {
            self.open.pop_front();
        }
    }

    /// Gives up indexes in memory, oldest first, but for the active segment's.
    fn limit_in_memory(&mut self) {
        while self.in_memory.len() > IN_MEMORY_MAX + 1 {
            let oldest = self.in_memory.keys().copied().find(|base| *base != self.active);
            let Some(oldest) = oldest else { break };
            self.forget_memory_of(oldest);
        }
    }

    /// Builds the index of a segment from its frames below `end`, unless it is there.
    fn ensure(
        &mut self,
        log: &Log<D>,
        span: SegmentSpan,
        end: Offset,
    ) -> Result<&SegmentIndex, HistoryError> {
        let base = span.base;
        if let Entry::Vacant(vacant) = self.in_memory.entry(base) {
            vacant.insert(build(log, span, end)?);
            // What begins where a file began has other numbers for its topics.
            self.selections.retain(|(_, of), _| *of != base);
            if self.in_memory.len() > IN_MEMORY_MAX + 1 {
                let others = |of: &&Offset| **of != base && **of != self.active;
                let oldest = self.in_memory.keys().find(others).copied();
                if let Some(oldest) = oldest {
                    self.forget_memory_of(oldest);
                }
            }
        }
        Ok(&self.in_memory[&base])
    }

    /// Bytes read of the file that was asked last.
    #[cfg(test)]
    pub(super) fn bytes_read(&self) -> Option<u64> {
        self.open.back().map(|(_, segment)| segment.bytes_read())
    }
}

/// Builds the index of a segment from its frames below `end`.
fn build<D: Disk>(
    log: &Log<D>,
    span: SegmentSpan,
    end: Offset,
) -> Result<SegmentIndex, HistoryError> {
    let end = span.end.min(end);
    let mut index = SegmentIndex::new(span.base);
    let mut at = span.base;
    while at < end {
        let frames = log.read(at, REBUILD_READ_BYTES)?;
        let Some(last) = frames.last() else { break };
        let upto = last.header.end_offset();
        for frame in &frames {
            for record in frame::decode(frame)? {
                match record? {
                    (offset, _, Decoded::Message(message, queues))
                        if offset < end && offset >= span.base =>
                    {
                        index.add(offset, &message.topic, &queues);
                    }
                    (_, _, Decoded::Message(..) | Decoded::Control(_)) => {}
                }
            }
        }
        at = upto;
    }
    Ok(index)
}

/// Forgets what was found at or behind `end`, of what is behind `before`: a file knows more than is asked for.
fn cut(offsets: &mut Vec<Offset>, before: usize, end: Offset) {
    let inside = offsets[before..].partition_point(|offset| *offset < end);
    offsets.truncate(before + inside);
}

#[cfg(test)]
mod tests {
    use fluxmq_log::sim_disk::SimDisk;

    use super::super::tests::{Given, build, open, store};
    use super::*;

    #[test]
    fn what_has_a_file_needs_no_memory_and_no_frames() {
        let given: Vec<Given> = (0..30).map(|n| Some((format!("a/{n}"), n % 3))).collect();
        let (disk, mut log) = store(&vec![given.clone(); 8]);
        let mut indexes = SegmentIndexes::new(Offset(7 * 30));
        let filter = Filter::new("a/17".into()).unwrap();
        let select = |indexes: &mut SegmentIndexes<SimDisk>, log: &Log<SimDisk>| {
            let (all, mut found) = ((Offset(0), Offset(240)), Vec::new());
            for span in log.spans(all) {
                indexes.select(log, span, &filter, all, 100, &mut found).unwrap();
            }
            found
        };
        let expected: Vec<Offset> = (0..8).map(|segment| Offset(segment * 30 + 17)).collect();
        assert_eq!(select(&mut indexes, &log), expected);
        assert_eq!(indexes.in_memory.len(), IN_MEMORY_MAX + 1, "the oldest are given up");

        while let Some(span) = build(&mut log) {
            indexes.has_index(span);
        }
        drop(log);
        let log = open(&disk);
        let mut reopened = SegmentIndexes::new(Offset(7 * 30));
        assert_eq!(select(&mut indexes, &log), expected);
        assert_eq!(select(&mut reopened, &log), expected);

        let in_memory = |indexes: &SegmentIndexes<SimDisk>| {
            indexes.in_memory.keys().copied().collect::<Vec<_>>()
        };
        assert_eq!(in_memory(&indexes), [Offset(7 * 30)], "the active one");
        assert_eq!(in_memory(&reopened), [Offset(7 * 30)], "nothing is built that is on disk");
        assert_eq!(reopened.open.len(), 7);
    }

    #[test]
    fn open_files_are_limited() {
        let given: Vec<Given> = vec![Some(("a/1".to_owned(), 1))];
        let (_, mut log) = store(&vec![given; 40]);
        while build(&mut log).is_some() {}
        let mut indexes = SegmentIndexes::new(Offset(39));

        let (all, mut found) = ((Offset(0), Offset(40)), Vec::new());
        for span in log.spans(all) {
            indexes.select_queue(&log, span, 1, all, usize::MAX, &mut found).unwrap();
        }

        assert_eq!(found.len(), 40);
        assert!(indexes.open.len() <= OPEN_FILES_MAX);
    }
}
