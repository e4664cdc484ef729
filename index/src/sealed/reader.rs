//! Reading a sealed index: sections are loaded when they are needed, checked, and kept.

use std::cell::OnceCell;
use std::convert::Infallible;
use std::error::Error;
use std::ops::Range;

use super::ascending::Ascending;
use super::dictionary::Dictionary;
use super::header::{Binding, Fault, FrameEntry, Header, SEALED_HEADER_BYTES, Section};
use super::packed::Packed;
use super::select::{PostingLists, TopicRanges, Wanted, scan};
use crate::offset::Offset;
use crate::varint::Input;

/// The bytes of a sealed index, wherever they are.
pub trait Source {
    /// Why bytes cannot be read.
    type Error: Error + 'static;

    /// Returns how many there are.
    fn file_bytes(&self) -> Result<u64, Self::Error>;

    /// Reads `len` bytes from `at` on, which are there; fewer when they are not there any more.
    fn read_range(&self, at: u64, len: usize) -> Result<Vec<u8>, Self::Error>;
}

impl<T: AsRef<[u8]>> Source for T {
    type Error = Infallible;

    fn file_bytes(&self) -> Result<u64, Infallible> {
        Ok(self.as_ref().len() as u64)
    }

    fn read_range(&self, at: u64, len: usize) -> Result<Vec<u8>, Infallible> {
        let rest = self.as_ref().get(at as usize..).unwrap_or_default();
        Ok(rest[..len.min(rest.len())].to_vec())
    }
}

/// Why a sealed index gives no answer. The segment it was made from does.
#[derive(Debug, thiserror::Error)]
pub enum SealedError<E: Error + 'static> {
    /// The bytes cannot be read.
    #[error("{0}")]
    Source(#[source] E),
    /// The bytes are not what they should be.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A sealed index, open.
#[derive(Debug)]
pub struct SealedIndex<S> {
    source: S,
    header: Header,
    sections: [OnceCell<Vec<u8>>; Section::ALL.len()],
    dictionary: OnceCell<Dictionary>,
}

impl<S: Source> SealedIndex<S> {
    /// Reads and checks the header, nothing else.
    pub fn open(source: S) -> Result<SealedIndex<S>, SealedError<S::Error>> {
        let file_bytes = source.file_bytes().map_err(SealedError::Source)?;
        let head = source.read_range(0, SEALED_HEADER_BYTES).map_err(SealedError::Source)?;
        let header = Header::decode(&head, file_bytes)?;
        Ok(SealedIndex {
            source,
            header,
            sections: Default::default(),
            dictionary: OnceCell::new(),
        })
    }

    /// Opens the index of this segment and no other.
    pub fn open_for(source: S, segment: &Binding) -> Result<SealedIndex<S>, SealedError<S::Error>> {
        let index = SealedIndex::open(source)?;
        index.header.check(segment)?;
        Ok(index)
    }

    /// What its header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns how many bytes are held in memory.
    pub fn memory_bytes(&self) -> usize {
        let loaded = self.sections.iter().filter_map(OnceCell::get).map(Vec::capacity);
        loaded.sum::<usize>() + self.dictionary.get().map_or(0, Dictionary::memory_bytes)
    }

    /// Finds the topics that match a filter.
    pub fn match_topics(&self, filter: &[u8]) -> Result<TopicRanges, SealedError<S::Error>> {
        let (bytes, dictionary) = self.dictionary()?;
        let ranges = dictionary.select(bytes, filter).ok_or(malformed(Section::Topics))?;
        Ok(TopicRanges::new(ranges, dictionary.topic_count()))
    }

    /// Appends up to `limit` offsets at or after `from` whose topics are among those that [`match_topics`](Self::match_topics)
    /// found here, ascending.
    pub fn select(
        &self,
        topics: &TopicRanges,
        from: Offset,
        limit: usize,
        out: &mut Vec<Offset>,
    ) -> Result<(), SealedError<S::Error>> {
        let wanted = Wanted { from: self.number_or_end(from), limit };
        if topics.is_empty() {
            return Ok(());
        }
        let topic_count = self.dictionary()?.1.topic_count();
        let lists = self.postings(topic_count)?;
        let mut record_count = 0;
        for range in topics.ranges() {
            record_count += lists.len(range.clone()).ok_or(malformed(Section::Postings))?;
        }
        let mut found = Found::new(self, out);
        if is_merge_cheaper(topics.len(), record_count, self.record_count()) {
            let merged = lists.merge(topics.ranges(), wanted, |record| found.push(record));
            found.is_inside &= merged.is_some();
        } else {
            scan(self.column()?, topics, wanted, |record| found.push(record));
        }
        found.finish(Section::Postings)
    }

    /// Appends up to `limit` offsets at or after `from` that were routed to the queue, ascending.
    pub fn select_queue(
        &self,
        queue: u64,
        from: Offset,
        limit: usize,
        out: &mut Vec<Offset>,
    ) -> Result<(), SealedError<S::Error>> {
        let wanted = Wanted { from: self.number_or_end(from), limit };
        let queues = self.queues()?;
        let lists = queues.find(queue).ok_or(malformed(Section::Queues))?;
        let mut found = Found::new(self, out);
        let merged = queues.postings.merge(&lists, wanted, |record| found.push(record));
        found.is_inside &= merged.is_some();
        found.finish(Section::Queues)
    }

    /// Returns how many records a queue has in the segment.
    pub fn queue_len(&self, queue: u64) -> Result<usize, SealedError<S::Error>> {
        let queues = self.queues()?;
        let lists = queues.find(queue).ok_or(malformed(Section::Queues))?;
        let lens = lists.iter().map(|list| queues.postings.len(list.clone()));
        lens.sum::<Option<usize>>().ok_or(malformed(Section::Queues))
    }

    /// Returns the queues that have records in the segment, ascending.
    pub fn queue_ids(&self) -> Result<Vec<u64>, SealedError<S::Error>> {
        let ids = self.queues()?.ids;
        Ok(ids.iter().map(|id| u64::from_le_bytes(*id)).collect())
    }

    /// Visits the topics and how many records each has, by shape.
    pub fn for_each_topic(
        &self,
        mut visit: impl FnMut(&[u8], usize),
    ) -> Result<(), SealedError<S::Error>> {
        let (bytes, dictionary) = self.dictionary()?;
        let lists = self.postings(dictionary.topic_count())?;
        let mut is_whole = true;
        let walked = dictionary.for_each(bytes, |topic, name| {
            let count = lists.len(topic..topic + 1);
            is_whole &= count.is_some();
            visit(name, count.unwrap_or(0));
        });
        walked.filter(|()| is_whole).ok_or(malformed(Section::Topics))
    }

    /// Visits the shapes of the topics as filters, each with how many topics it has.
    pub fn for_each_shape(
        &self,
        mut visit: impl FnMut(&[u8], u32),
    ) -> Result<(), SealedError<S::Error>> {
        let (bytes, dictionary) = self.dictionary()?;
        dictionary.for_each_shape(bytes, |pattern, topics| visit(pattern, topics));
        Ok(())
    }

    /// Returns how many topics there are, and how many shapes.
    pub fn topic_count(&self) -> Result<(u32, usize), SealedError<S::Error>> {
        let (_, dictionary) = self.dictionary()?;
        Ok((dictionary.topic_count(), dictionary.shape_count()))
    }

    /// Returns the topic of a record; `None` for a control.
    pub fn topic_at(&self, offset: Offset) -> Result<Option<Vec<u8>>, SealedError<S::Error>> {
        let (bytes, dictionary) = self.dictionary()?;
        let Some(number) = self.number(offset) else { return Ok(None) };
        let topic = self.column()?.get(number as usize);
        if topic == dictionary.topic_count() {
            return Ok(None);
        }
        dictionary.topic(bytes, topic).map(Some).ok_or(malformed(Section::Topics))
    }

    /// Returns the name of a topic that is the only one of its selection here: who found a record by it need not look for the record's.
    pub fn only_topic(
        &self,
        topics: &TopicRanges,
    ) -> Result<Option<Vec<u8>>, SealedError<S::Error>> {
        let [range] = topics.ranges() else { return Ok(None) };
        if range.len() != 1 {
            return Ok(None);
        }
        let (bytes, dictionary) = self.dictionary()?;
        dictionary.topic(bytes, range.start).map(Some).ok_or(malformed(Section::Topics))
    }

    /// Visits the places of all frames, in order.
    pub fn for_each_frame(
        &self,
        mut visit: impl FnMut(FrameEntry),
    ) -> Result<(), SealedError<S::Error>> {
        let frames = self.frame_section()?;
        let ends = frames.positions.iter_from(1);
        let places = frames.positions.iter_from(0).zip(ends);
        let entries = places.zip(frames.records.iter_from(0)).zip(frames.times.iter_from(0));
        for (number, (((start, end), records), base_ts)) in entries.enumerate() {
            let base_offset = self.absolute(records);
            let producers_at = frames.producers_at.get(number);
            visit(FrameEntry { number, base_offset, base_ts, bytes: start..end, producers_at });
        }
        Ok(())
    }

    /// Returns where the frame is that holds a record.
    pub fn frame_at(&self, offset: Offset) -> Result<Option<FrameEntry>, SealedError<S::Error>> {
        let frames = self.frame_section()?;
        let Some(number) = self.number(offset) else { return Ok(None) };
        let at = frames.records.count_to(u64::from(number)).checked_sub(1);
        let at = at.filter(|at| *at < frames.len()).ok_or(malformed(Section::Frames))?;
        Ok(Some(self.frame(&frames, at)))
    }

    /// Returns the frames that begin at or before byte `to` of the segment's file, from the one at or before `from` on.
    pub fn frames_in(&self, bytes: Range<u64>) -> Result<Vec<FrameEntry>, SealedError<S::Error>> {
        let frames = self.frame_section()?;
        let first = frames.positions.count_to(bytes.start).saturating_sub(1);
        let end = frames.positions.count_to(bytes.end).min(frames.len());
        Ok((first..end).map(|at| self.frame(&frames, at)).collect())
    }

    /// Returns where a record begins in the segment's file, and where it ends at the latest.
    pub fn record_at(&self, offset: Offset) -> Result<Option<Range<u64>>, SealedError<S::Error>> {
        let records = Ascending::read(&mut Input::new(self.section(Section::Records)?));
        let records = records.filter(|records| records.len() as u64 == self.record_count());
        let records = records.ok_or(malformed(Section::Records))?;
        let (Some(number), Some(frame)) = (self.number(offset), self.frame_at(offset)?) else {
            return Ok(None);
        };
        let start = records.get(number as usize);
        let next = match number as usize + 1 < records.len() {
            true => records.pair(number as usize).1,
            false => frame.bytes.end,
        };
        let end = next.min(frame.bytes.end);
        let is_inside = frame.bytes.start < start && start < end;
        is_inside.then_some(Some(start..end)).ok_or(malformed(Section::Records))
    }

    /// Returns the checksums of blocks of the segment's frames, the first of them at the segment's first frame.
    pub fn block_crcs(&self) -> Result<Vec<u32>, SealedError<S::Error>> {
        let (blocks, _) = self.section(Section::Blocks)?.as_chunks::<4>();
        Ok(blocks.iter().map(|crc| u32::from_le_bytes(*crc)).collect())
    }

    /// Returns the checksum of one of these blocks.
    pub fn block_crc(&self, number: u64) -> Result<Option<u32>, SealedError<S::Error>> {
        let (blocks, _) = self.section(Section::Blocks)?.as_chunks::<4>();
        let at = usize::try_from(number).ok();
        Ok(at.and_then(|at| blocks.get(at)).map(|crc| u32::from_le_bytes(*crc)))
    }

    /// Loads and checks every section.
    pub fn load(&self) -> Result<(), SealedError<S::Error>> {
        Section::ALL.iter().try_for_each(|section| self.section(*section).map(drop))
    }

    fn section(&self, section: Section) -> Result<&[u8], SealedError<S::Error>> {
        let cell = &self.sections[section as usize];
        if let Some(bytes) = cell.get() {
            return Ok(bytes);
        }
        let place = self.header.section(section);
        // Not longer than the file, the header says so and was checked.
        let bytes =
            self.source.read_range(place.at, place.len as usize).map_err(SealedError::Source)?;
        self.header.check_section(section, &bytes)?;
        Ok(cell.get_or_init(|| bytes))
    }

    fn dictionary(&self) -> Result<(&[u8], &Dictionary), SealedError<S::Error>> {
        let bytes = self.section(Section::Topics)?;
        if self.dictionary.get().is_none() {
            let read = Dictionary::read(bytes).ok_or(malformed(Section::Topics))?;
            self.dictionary.get_or_init(|| read);
        }
        Ok((bytes, self.dictionary.get().expect("just set")))
    }

    fn postings(&self, topics: u32) -> Result<PostingLists<'_>, SealedError<S::Error>> {
        let mut input = Input::new(self.section(Section::Postings)?);
        let lists = PostingLists::read(&mut input, topics, self.record_count());
        lists.ok_or(malformed(Section::Postings))
    }

    fn column(&self) -> Result<Packed<'_>, SealedError<S::Error>> {
        let column = Packed::read(&mut Input::new(self.section(Section::Column)?));
        let column = column.filter(|column| column.len() as u64 == self.record_count());
        column.ok_or(malformed(Section::Column))
    }

    fn queues(&self) -> Result<Queues<'_>, SealedError<S::Error>> {
        Queues::read(self.section(Section::Queues)?, self.record_count())
            .ok_or(malformed(Section::Queues))
    }

    fn frame_section(&self) -> Result<Frames<'_>, SealedError<S::Error>> {
        Frames::read(self.section(Section::Frames)?).ok_or(malformed(Section::Frames))
    }

    fn frame(&self, frames: &Frames<'_>, number: usize) -> FrameEntry {
        let (start, end) = frames.positions.pair(number);
        FrameEntry {
            number,
            base_offset: self.absolute(frames.records.get(number)),
            base_ts: frames.times.get(number),
            bytes: start..end,
            producers_at: frames.producers_at.get(number),
        }
    }

    fn record_count(&self) -> u64 {
        let Binding { base_offset, end_offset, .. } = self.header.binding;
        end_offset.0.saturating_sub(base_offset.0)
    }

    fn absolute(&self, number: u64) -> Offset {
        Offset(self.header.binding.base_offset.0.saturating_add(number))
    }

    /// Returns the number of a record in the segment.
    fn number(&self, offset: Offset) -> Option<u32> {
        let number = offset.0.checked_sub(self.header.binding.base_offset.0)?;
        u32::try_from(number).ok().filter(|number| u64::from(*number) < self.record_count())
    }

    /// Returns the number of the record at an offset, moved into the segment or behind its end.
    fn number_or_end(&self, offset: Offset) -> u32 {
        let number = offset.0.saturating_sub(self.header.binding.base_offset.0);
        u32::try_from(number.min(self.record_count())).unwrap_or(u32::MAX)
    }
}

/// Collects records as offsets. When one is outside the segment, nothing is an answer.
struct Found<'a> {
    out: &'a mut Vec<Offset>,
    before: usize,
    base: u64,
    end: u64,
    is_inside: bool,
}

impl<'a> Found<'a> {
    fn new<S>(index: &SealedIndex<S>, out: &'a mut Vec<Offset>) -> Found<'a> {
        let Binding { base_offset, end_offset, .. } = index.header.binding;
        let before = out.len();
        Found { out, before, base: base_offset.0, end: end_offset.0, is_inside: true }
    }

    fn push(&mut self, record: u32) {
        let offset = self.base.saturating_add(u64::from(record));
        self.is_inside &= offset < self.end;
        self.out.push(Offset(offset));
    }

    fn finish<E: Error + 'static>(self, section: Section) -> Result<(), SealedError<E>> {
        if !self.is_inside {
            self.out.truncate(self.before);
            return Err(malformed(section));
        }
        Ok(())
    }
}

struct Frames<'a> {
    positions: Ascending<'a>,
    records: Ascending<'a>,
    times: Ascending<'a>,
    producers_at: Packed<'a>,
}

impl<'a> Frames<'a> {
    fn read(bytes: &'a [u8]) -> Option<Frames<'a>> {
        let mut input = Input::new(bytes);
        let frames = Frames {
            positions: Ascending::read(&mut input)?,
            records: Ascending::read(&mut input)?,
            times: Ascending::read(&mut input)?,
            producers_at: Packed::read(&mut input)?,
        };
        let count = frames.len();
        let is_whole = [frames.positions.len(), frames.records.len()] == [count + 1; 2]
            && frames.producers_at.len() == count;
        is_whole.then_some(frames)
    }

    fn len(&self) -> usize {
        self.times.len()
    }
}

struct Queues<'a> {
    ids: &'a [[u8; 8]],
    starts: Ascending<'a>,
    sets: Packed<'a>,
    set_count: u32,
    postings: PostingLists<'a>,
}

impl<'a> Queues<'a> {
    fn read(bytes: &'a [u8], record_count: u64) -> Option<Queues<'a>> {
        let mut input = Input::new(bytes);
        let (count, set_count) = (input.u32()? as usize, input.u32()?);
        let (ids, _) = input.take(count.checked_mul(8)?)?.as_chunks();
        let starts = Ascending::read(&mut input)?;
        let sets = Packed::read(&mut input)?;
        let postings = PostingLists::read(&mut input, set_count, record_count)?;
        let is_whole = starts.len() == count + 1 && starts.get(count) == sets.len() as u64;
        is_whole.then_some(Queues { ids, starts, sets, set_count, postings })
    }

    /// Returns the route sets of a queue, none for one without records; `None` when they do not read as such.
    fn find(&self, queue: u64) -> Option<Vec<Range<u32>>> {
        let found = self.ids.binary_search_by_key(&queue, |id| u64::from_le_bytes(*id));
        let Ok(at) = found else { return Some(Vec::new()) };
        let (start, end) = self.starts.pair(at);
        if start > end || end > self.sets.len() as u64 {
            return None;
        }
        let sets = self.sets.iter(start as usize..end as usize);
        sets.map(|set| (set < self.set_count).then(|| set..set + 1)).collect()
    }
}

/// Tells whether merging the lists of so many topics costs less than looking at the topic of every record.
///
/// A step of a merge costs about four times a look, for each doubling of the lists.
fn is_merge_cheaper(topic_count: usize, record_count: usize, all: u64) -> bool {
    let steps = |doublings: u32| (record_count as u64).saturating_mul(u64::from(doublings));
    topic_count <= 1 || steps(topic_count.ilog2().max(1)) < all / 4
}

fn malformed<E: Error + 'static>(section: Section) -> SealedError<E> {
    SealedError::Fault(Fault::Malformed { section })
}
