//! What is already in the log: questions across its segments, its records, and recently decoded frames.
//!
//! Where records are, [`SegmentIndexes`] knows, one segment at a time. What they say is read from the log: a frame for those who read
//! on from there, which is kept for who comes next ([`DecodedFrames`]), or one record alone where its frame is long and nobody is near.

mod course;
mod decoded_frames;
mod segment_indexes;

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;
use fluxmq_log::format::Message;
use fluxmq_log::format::frame::Frame;
use fluxmq_log::{Log, ReadError, RecordError, SegmentSpan};
use thiserror::Error;

use self::course::Course;
use self::decoded_frames::{DecodedFrame, DecodedFrames};
use self::segment_indexes::SegmentIndexes;
use crate::model::frame::{self, DecodeError, Decoded};
use crate::model::{Control, Filter, QoS, StoredMessage};

/// Bytes of a frame whose records are kept as they were applied, at most: of a larger one few wait, or each is long.
pub const KEPT_BYTES_MAX: u64 = 256 << 10;

/// Finds and fetches records below the applied end.
pub struct History<D: Disk> {
    /// Where they are.
    pub indexes: SegmentIndexes<D>,
    decoded: DecodedFrames,
    course: Course,
}

/// A message that was read: a part of its frame, or by itself.
#[derive(Debug)]
pub enum Fetched {
    /// The record of that offset; it is, or has, a message.
    InFrame(Arc<DecodedFrame>, Offset),
    /// Read without its frame.
    Alone(StoredMessage),
}

impl Fetched {
    /// The message for itself.
    pub fn into_message(self) -> StoredMessage {
        match self {
            Fetched::InFrame(..) => (*self).clone(),
            Fetched::Alone(message) => message,
        }
    }
}

impl Deref for Fetched {
    type Target = StoredMessage;

    fn deref(&self) -> &StoredMessage {
        match self {
            Fetched::InFrame(frame, offset) => {
                message_in(frame, *offset).expect("it was found there")
            }
            Fetched::Alone(message) => message,
        }
    }
}

/// Why history cannot be read. Final for the partition: its log says one thing and its disk another.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A frame with a right checksum does not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The outcome of a search.
#[derive(Debug)]
pub struct Selected {
    /// What was found, ascending.
    pub offsets: Vec<Offset>,
    /// Everything below that matches is among them.
    pub next: Offset,
}

impl<D: Disk> History<D> {
    /// Begins with no index; the segment that starts at `active` grows.
    pub fn new(active: Offset) -> History<D> {
        History {
            indexes: SegmentIndexes::new(active),
            decoded: DecodedFrames::default(),
            course: Course::default(),
        }
    }

    /// Keeps the records of a frame that was just applied, for those who are about to be handed them.
    pub fn keep(&mut self, frame: &Frame, records: Vec<Decoded>) {
        if records.iter().any(|record| matches!(record, Decoded::Message(..))) {
            let decoded = DecodedFrame::new(frame.header.base_offset, records);
            self.decoded.keep(Arc::new(decoded), frame.header.frame_bytes() as usize);
        }
    }

    /// Time passes: what is in memory and nobody asks for goes.
    pub fn tick(&mut self) {
        self.decoded.tick();
    }

    /// Finds up to `limit` messages in `from..end` that match any of the filters.
    pub fn select(
        &mut self,
        log: &Log<D>,
        filters: &[Filter],
        (from, end): (Offset, Offset),
        limit: usize,
    ) -> Result<Selected, HistoryError> {
        let mut offsets = Vec::new();
        for span in log.spans((from, end)) {
            for filter in filters {
                self.indexes.select(log, span, filter, (from, end), limit, &mut offsets)?;
            }
            offsets.sort_unstable();
            offsets.dedup();
            // The index of a segment knows no end.
            offsets.truncate(offsets.partition_point(|offset| *offset < end));
            if offsets.len() >= limit {
                offsets.truncate(limit);
                let next = offsets.last().map_or(from, |last| last.next());
                return Ok(Selected { offsets, next });
            }
        }
        Ok(Selected { offsets, next: end })
    }

    /// Finds where the newest `count` messages in `from..end` that match any of the filters begin; `None` when there are no more
    /// than that. Looks at segments from the newest on, and no further than it must.
    pub fn newest(
        &mut self,
        log: &Log<D>,
        filters: &[Filter],
        (from, end): (Offset, Offset),
        count: usize,
    ) -> Result<Option<Offset>, HistoryError> {
        let (mut rest, mut end) = (count, end);
        for span in log.spans((from, end)).rev() {
            let range = (from.max(span.base), end);
            let found = self.select(log, filters, range, usize::MAX)?.offsets;
            if let Some(above) = found.len().checked_sub(rest).filter(|above| *above > 0) {
                return Ok(Some(found.get(above).copied().unwrap_or(end)));
            }
            rest -= found.len();
            end = span.base;
        }
        Ok(None)
    }

    /// Finds where the newest messages in `from..end` that match any of the filters and have `bytes_max` bytes together begin; `None`
    /// when all have no more than that. Reads what fits, and no more than one message beyond; nothing where the log is that small.
    pub fn newest_bytes(
        &mut self,
        log: &Log<D>,
        filters: &[Filter],
        (from, end): (Offset, Offset),
        bytes_max: u64,
    ) -> Result<Option<Offset>, HistoryError> {
        let spans: Vec<_> = log.spans((from, end)).collect();
        let is_read = |base: Offset| spans.iter().any(|span| span.base == base);
        let segments = log.segments();
        let held = segments.iter().filter(|segment| is_read(segment.base_offset));
        if held.map(|segment| segment.end_bytes).sum::<u64>() <= bytes_max {
            return Ok(None);
        }
        let (mut bytes, mut start, mut end) = (0, end, end);
        for span in spans.into_iter().rev() {
            let range = (from.max(span.base), end);
            let found = self.select(log, filters, range, usize::MAX)?.offsets;
            for offset in found.into_iter().rev() {
                let message = self.fetch(log, offset)?;
                bytes += message.map_or(0, |message| message.len_bytes() as u64);
                if bytes > bytes_max {
                    return Ok(Some(start));
                }
                start = offset;
            }
            end = span.base;
        }
        Ok(None)
    }

    /// Finds up to `limit` entries of a queue from the partition offset `from` on, below `end`.
    pub fn select_queue(
        &mut self,
        log: &Log<D>,
        queue: u64,
        (from, end): (Offset, Offset),
        limit: usize,
    ) -> Result<Vec<Offset>, HistoryError> {
        let mut offsets = Vec::new();
        for span in log.spans((from, end)) {
            if offsets.len() >= limit {
                break;
            }
            let rest = limit - offsets.len();
            self.indexes.select_queue(log, span, queue, (from, end), rest, &mut offsets)?;
        }
        Ok(offsets)
    }

    /// Fetches one message, also one that was stored again; `None` where the offset holds another control, or is not kept any more.
    pub fn fetch(&mut self, log: &Log<D>, offset: Offset) -> Result<Option<Fetched>, HistoryError> {
        self.fetch_found(log, offset, &[], true)
    }

    /// The same of one that these filters found, if there are any. Where it is all one who published, that may not be read, and then nobody is
    /// named.
    pub fn fetch_found(
        &mut self,
        log: &Log<D>,
        offset: Offset,
        by: &[Filter],
        with_publisher: bool,
    ) -> Result<Option<Fetched>, HistoryError> {
        if offset < log.first_offset() {
            return Ok(None);
        }
        let frame = match self.decoded.get(offset) {
            Some(frame) => frame.clone(),
            None => match self.fetch_alone(log, offset, by, with_publisher) {
                Some(message) => return Ok(Some(Fetched::Alone(message))),
                None => self.read_frame(log, offset)?,
            },
        };
        let is_there = message_in(&frame, offset).is_some();
        Ok(is_there.then_some(Fetched::InFrame(frame, offset)))
    }

    /// Fetches a message without its frame, where that is long and nobody reads on there ([`Course`]). `None` sends the reader to the frame,
    /// also when it cannot be read this way.
    fn fetch_alone(
        &mut self,
        log: &Log<D>,
        offset: Offset,
        by: &[Filter],
        with_publisher: bool,
    ) -> Option<StoredMessage> {
        let span = log.spans((offset, offset.next())).next()?;
        if self.indexes.sealed(log, span).is_none() {
            return self.fetch_part(log, span, offset, with_publisher);
        }
        let read = self.read_alone(log, span, offset, by, with_publisher);
        match read {
            Ok(message) => to_stored(message?),
            Err(error) => {
                self.indexes.distrust(span, &error);
                None
            }
        }
    }

    fn read_alone(
        &mut self,
        log: &Log<D>,
        span: SegmentSpan,
        offset: Offset,
        by: &[Filter],
        with_publisher: bool,
    ) -> Result<Option<Message>, RecordError> {
        let topic = self.indexes.only_topic(span, by)?;
        let Some(segment) = self.indexes.sealed(log, span) else { return Ok(None) };
        let places = (segment.index().frame_at(offset)?, segment.index().record_at(offset)?);
        let (Some(frame), Some(place)) = places else { return Ok(None) };
        if self.course.comes_to(span.segment_no, place, frame.bytes) {
            return Ok(None);
        }
        read_as_asked(with_publisher, |named| segment.read_found(offset, topic.clone(), named))
    }

    /// The same in a segment that has no file yet.
    fn fetch_part(
        &mut self,
        log: &Log<D>,
        span: SegmentSpan,
        offset: Offset,
        with_publisher: bool,
    ) -> Option<StoredMessage> {
        let (parts, topic) = self.indexes.apart(span, offset)?;
        let place = parts.place_of(offset).filter(|_| log.is_on_disk_only(parts))?;
        if self.course.comes_to(span.segment_no, place, parts.body()) {
            return None;
        }
        let topic = Bytes::copy_from_slice(topic);
        let read = |named| log.read_part(parts, offset, topic.clone(), named);
        match read_as_asked(with_publisher, read) {
            Ok(message) => to_stored(message?),
            // Reading the frame says what is wrong with the disk.
            Err(RecordError::File(_)) => None,
            Err(error) => {
                tracing::warn!(%offset, %error, "a part of a frame is not as it was: it is read whole");
                self.indexes.forget_parts_of(span, offset);
                None
            }
        }
    }

    fn read_frame(
        &mut self,
        log: &Log<D>,
        offset: Offset,
    ) -> Result<Arc<DecodedFrame>, HistoryError> {
        let frames = log.read(offset, 1)?;
        let Some(frame) = frames.first() else {
            return Ok(Arc::new(DecodedFrame::new(offset, Vec::new())));
        };
        let decoded = Arc::new(decode(frame)?);
        self.decoded.keep(decoded.clone(), frame.header.frame_bytes() as usize);
        Ok(decoded)
    }
}

/// Reads a message with who published it, where somebody asks for that or it has to be known: what came at QoS 0 says in its name whether it
/// was passed on.
fn read_as_asked(
    with_publisher: bool,
    mut read: impl FnMut(bool) -> Result<Option<Message>, RecordError>,
) -> Result<Option<Message>, RecordError> {
    match read(with_publisher)? {
        Some(message) if message.qos == 0 && !with_publisher => read(true),
        found => Ok(found),
    }
}

fn to_stored(message: Message) -> Option<StoredMessage> {
    let qos = QoS::from_bits(message.qos)?;
    Some(frame::to_stored(message, qos))
}

/// The message of a record, also of one that was stored again.
fn message_in(frame: &DecodedFrame, offset: Offset) -> Option<&StoredMessage> {
    match frame.get(offset)? {
        Decoded::Message(message, _) => Some(message),
        Decoded::Control(Control::Moved { message, .. }) => Some(message),
        Decoded::Control(_) => None,
    }
}

fn decode(frame: &Frame) -> Result<DecodedFrame, DecodeError> {
    let mut records = Vec::with_capacity(frame.header.record_count as usize);
    for record in frame::decode(frame)? {
        let (_, _, decoded) = record?;
        records.push(decoded);
    }
    Ok(DecodedFrame::new(frame.header.base_offset, records))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use fluxmq_index::sealed::Section;
    use fluxmq_index::topic_trie::matches;
    use fluxmq_log::format::{BatchBuilder, FrameKind, MessageRecord, Producer};
    use fluxmq_log::sim_disk::SimDisk;
    use fluxmq_log::{Entry, LogOptions, SegmentSpan};
    use proptest::prelude::*;

    use super::*;

    /// A message of the model: its topic and queue, or a control.
    pub(super) type Given = Option<(String, u64)>;

    /// Each list is a segment, in frames of three records.
    pub(super) fn store(segments: &[Vec<Given>]) -> (SimDisk, Log<SimDisk>) {
        let disk = SimDisk::new(1);
        let mut log = open(&disk);
        for (number, records) in segments.iter().enumerate() {
            for records in records.chunks(3) {
                let index = log.last_index() + 1;
                let mut batch = BatchBuilder::new(index);
                (1..4).for_each(|queue| batch.define_route(queue, &[u64::from(queue)]));
                for record in records {
                    match record {
                        Some((topic, queue)) => batch.push_message(&MessageRecord {
                            topic: topic.as_bytes(),
                            route_set: *queue as u32,
                            ts: index,
                            ..MessageRecord::default()
                        }),
                        None => {
                            let control = Control::QueueDeclared {
                                name: "q".into(),
                                settings: Arc::default(),
                            };
                            let mut payload = Vec::new();
                            control.encode(&mut payload);
                            batch.push_control(control.opcode(), &payload, index);
                        }
                    }
                }
                log.append(Entry::from_batch(index, 1, 0, batch.finish())).unwrap();
            }
            let is_open = log.segments().last().is_some_and(|segment| !segment.is_sealed);
            if number + 1 < segments.len() && is_open {
                let (index, body) = (log.last_index() + 1, log.seal_body());
                log.append(Entry::without_records(index, 1, FrameKind::Seal, 0, body)).unwrap();
            }
        }
        log.flush().unwrap();
        (disk, log)
    }

    pub(super) fn open(disk: &SimDisk) -> Log<SimDisk> {
        Log::open(disk.clone(), PathBuf::from("p0001"), LogOptions::default()).unwrap().0
    }

    /// Builds the index of the newest segment that has none.
    pub(super) fn build(log: &mut Log<SimDisk>) -> Option<SegmentSpan> {
        let job = log.prepare_index(log.last_index())?;
        log.finish_index(job.run()).unwrap()
    }

    fn rot(disk: &SimDisk, segment_no: u64, place: f64) {
        let path = Path::new("p0001").join(format!("log/{segment_no:020}.six"));
        let len = disk.contents()[&path].as_ref().unwrap().len() as f64;
        disk.flip_bit(&path, (len * 8.0 * place) as u64).unwrap();
    }

    fn filters() -> Vec<Filter> {
        let names = ["a/1", "a/+", "a/#", "+/2", "#", "$SYS/#", "$SYS/3", "b/+/c", "x"];
        names.map(|name| Filter::new(name.into()).unwrap()).to_vec()
    }

    /// Asks for everything in pieces, and compares with a look at every record.
    fn check(history: &mut History<SimDisk>, log: &Log<SimDisk>, all: &[Given]) {
        let end = Offset(all.len() as u64);
        let numbered = || all.iter().enumerate();
        for filter in filters() {
            let is_match = |given: &Given| {
                given
                    .as_ref()
                    .is_some_and(|(topic, _)| matches(filter.as_bytes(), topic.as_bytes()))
            };
            let found = numbered().filter(|(_, given)| is_match(given));
            let expected: Vec<u64> = found.map(|(offset, _)| offset as u64).collect();
            let (mut found, mut from) = (Vec::new(), Offset::ZERO);
            while from < end {
                let some = std::slice::from_ref(&filter);
                let selected = history.select(log, some, (from, end), 7).unwrap();
                found.extend(selected.offsets.iter().map(|offset| offset.0));
                from = selected.next;
            }
            assert_eq!(found, expected, "{filter}");
        }
        for queue in 1..4 {
            let is_match = |given: &Given| given.as_ref().is_some_and(|(_, of)| *of == queue);
            let expected = numbered().filter(|(_, given)| is_match(given));
            let expected: Vec<u64> = expected.map(|(offset, _)| offset as u64).collect();
            let found = history.select_queue(log, queue, (Offset::ZERO, end), usize::MAX).unwrap();
            assert_eq!(found.into_iter().map(|offset| offset.0).collect::<Vec<_>>(), expected);
        }
    }

    fn segments() -> impl Strategy<Value = Vec<Vec<Given>>> {
        let topic = prop_oneof![
            (0..4u32).prop_map(|n| format!("a/{n}")),
            (0..4u32).prop_map(|n| format!("$SYS/{n}")),
            (0..30u32).prop_map(|n| format!("b/{n}/c")),
        ];
        let record = prop::option::weighted(0.9, (topic, 0..4u64));
        prop::collection::vec(prop::collection::vec(record, 0..40), 1..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whether files answer, memory, or one for the other because a file is damaged.
        #[test]
        fn files_and_memory_answer_what_a_look_at_every_record_does(
            segments in segments(),
            built in 0..6usize,
            asked_before in any::<bool>(),
            rotten in prop::option::of(0.0..1.0f64),
        ) {
            let all: Vec<Given> = segments.iter().flatten().cloned().collect();
            let (disk, mut log) = store(&segments);
            let active = log.segments().last().map_or(Offset::ZERO, |segment| segment.base_offset);
            let mut history = History::new(active);
            if asked_before {
                check(&mut history, &log, &all);
            }
            let mut sealed = Vec::new();
            for _ in 0..built {
                let Some(span) = build(&mut log) else { break };
                history.indexes.has_index(span);
                sealed.push(span);
            }
            check(&mut history, &log, &all);

            if let (Some(place), Some(span)) = (rotten, sealed.first()) {
                rot(&disk, span.segment_no, place);
                history.indexes.has_index(*span);
                check(&mut history, &log, &all);
                for segment_no in history.indexes.take_distrusted() {
                    log.distrust_index(segment_no);
                }
                while let Some(span) = build(&mut log) {
                    history.indexes.has_index(span);
                }
                check(&mut history, &log, &all);
                prop_assert!(history.indexes.take_distrusted().is_empty());
            }
        }
    }

    /// Appends a frame of a hundred records of a kibibyte.
    fn append_long(log: &mut Log<SimDisk>) {
        let index = log.last_index() + 1;
        let mut batch = BatchBuilder::new(index);
        for number in 0..100u64 {
            batch.push_message(&MessageRecord {
                topic: format!("a/{number}").as_bytes(),
                payload: &[number as u8; 1000],
                qos: u8::from(number != 60),
                ts: index,
                producer: Some(Producer { id: 1 + number % 3, epoch: 1, seq: 1 }),
                ..MessageRecord::default()
            });
        }
        log.append(Entry::from_batch(index, 1, 0, batch.finish())).unwrap();
    }

    /// One segment of ten long frames, and an active one.
    fn long_frames() -> Log<SimDisk> {
        long_frames_on(&SimDisk::new(1))
    }

    fn long_frames_on(disk: &SimDisk) -> Log<SimDisk> {
        let mut log = open(disk);
        (0..10).for_each(|_| append_long(&mut log));
        let (index, body) = (log.last_index() + 1, log.seal_body());
        log.append(Entry::without_records(index, 1, FrameKind::Seal, 0, body)).unwrap();
        log.flush().unwrap();
        log
    }

    /// A segment of ten long frames that grows, applied and not in memory any more.
    fn growing() -> (SimDisk, Log<SimDisk>, History<SimDisk>) {
        let disk = SimDisk::new(1);
        let options = LogOptions { cache_bytes: 0, ..LogOptions::default() };
        let (mut log, _) = Log::open(disk.clone(), PathBuf::from("p0001"), options).unwrap();
        let mut history = History::new(Offset::ZERO);
        history.indexes.roll(Offset::ZERO);
        for _ in 0..10 {
            append_long(&mut log);
            let frame = log.entries(log.last_index(), log.last_index() + 1, 1).unwrap().remove(0);
            for (offset, _, record) in frame::decode(&frame).unwrap().map(Result::unwrap) {
                let Decoded::Message(message, queues) = record else { unreachable!() };
                history.indexes.add(offset, &message.topic, &queues);
            }
            history.indexes.take_apart(&log, &frame);
        }
        log.flush().unwrap();
        (disk, log, history)
    }

    /// Where in the segment's file each payload is.
    fn payloads(disk: &SimDisk) -> Vec<usize> {
        let bytes = disk.contents()[&segment_path()].clone().unwrap();
        let (mut at, mut found) = (0, Vec::new());
        for number in (0..1000).map(|offset| (offset % 100) as u8) {
            at += bytes[at..].windows(1000).position(|it| *it == [number; 1000]).unwrap();
            found.push(at);
            at += 1000;
        }
        found
    }

    fn segment_path() -> PathBuf {
        PathBuf::from(format!("p0001/log/{:020}.seg", 0))
    }

    #[test]
    fn records_of_a_segment_that_grows_are_read_without_the_others() {
        let (disk, log, mut history) = growing();
        let payloads = payloads(&disk);
        let flip = |offset: u64| {
            let bit = payloads[offset as usize] as u64 * 8 + 77;
            disk.flip_bit(&segment_path(), bit).unwrap();
        };
        let mut whole = History::new(Offset::ZERO);
        let wanted: Vec<u64> = (0..10).map(|frame| 100 * frame + 11 * frame).collect();
        let expected: Vec<_> =
            wanted.iter().map(|at| whole.fetch(&log, Offset(*at)).unwrap().unwrap()).collect();
        // Of each frame nothing is as it was but the five records of a part, or twice that, and the tables.
        for at in &wanted {
            let of_frame = at / 100 * 100..at / 100 * 100 + 100;
            of_frame.filter(|other| other.abs_diff(*at) > 5).for_each(flip);
        }

        for (at, expected) in wanted.iter().zip(&expected) {
            let found = history.fetch(&log, Offset(*at)).unwrap().unwrap();
            assert!(matches!(found, Fetched::Alone(_)), "{at}");
            assert_eq!(*found, **expected);
        }
        assert_eq!(history.decoded.bytes(), 0);
        // A part that is not as it was is looked for in its frame, which is damaged.
        history.course = Course::default();
        flip(wanted[4]);
        let found = history.fetch(&log, Offset(wanted[4]));
        assert!(matches!(found, Err(HistoryError::Read(ReadError::Damaged { .. }))));
        assert!(
            history
                .indexes
                .apart(span_of(&log), Offset(wanted[4]))
                .unwrap()
                .0
                .place_of(Offset(wanted[4]))
                .is_none()
        );
    }

    #[test]
    fn frames_in_memory_are_not_read_and_nothing_is_kept_for_what_has_a_file() {
        let mut log = open(&SimDisk::new(1));
        let mut history = History::new(Offset::ZERO);
        history.indexes.roll(Offset::ZERO);
        for _ in 0..3 {
            append_long(&mut log);
            let frame = log.entries(log.last_index(), log.last_index() + 1, 1).unwrap().remove(0);
            history.indexes.take_apart(&log, &frame);
            (0..100)
                .for_each(|at| history.indexes.add(frame.header.base_offset.plus(at), b"a", &[]));
        }
        let span = span_of(&log);
        assert!(history.indexes.apart(span, Offset(150)).is_some());
        assert!(matches!(history.fetch(&log, Offset(150)), Ok(Some(Fetched::InFrame(..)))));
        let (index, body) = (log.last_index() + 1, log.seal_body());
        log.append(Entry::without_records(index, 1, FrameKind::Seal, 0, body)).unwrap();
        log.flush().unwrap();
        let built = build(&mut log).unwrap();
        history.indexes.roll(built.end);
        assert!(history.indexes.apart(built, Offset(150)).is_some());
        history.indexes.has_index(built);
        history.indexes.roll(built.base);
        history.indexes.add(Offset(299), b"a", &[]);
        assert!(history.indexes.apart(built, Offset(299)).is_none());
    }

    fn span_of(log: &Log<SimDisk>) -> SegmentSpan {
        log.spans((Offset::ZERO, Offset(1))).next().unwrap()
    }

    #[test]
    fn few_records_of_many_are_read_without_the_others() {
        let mut log = long_frames();
        let (mut with, mut without) = (History::new(Offset(1000)), History::new(Offset(1000)));
        let wanted: Vec<Offset> = (0..10).map(|frame| Offset(frame * 100 + 50)).collect();
        let expected: Vec<_> =
            wanted.iter().map(|at| without.fetch(&log, *at).unwrap().unwrap()).collect();
        build(&mut log).unwrap();

        let found: Vec<_> =
            wanted.iter().map(|at| with.fetch(&log, *at).unwrap().unwrap()).collect();

        for (found, expected) in found.iter().zip(&expected) {
            assert!(matches!(found, Fetched::Alone(_)));
            assert_eq!(**found, **expected);
        }
        assert_eq!(with.decoded.bytes(), 0);
        let read = with.indexes.bytes_read().unwrap();
        // A record and the producers of its frame, each in one block or two.
        assert!(read <= 10 * 4 * 4096, "{read} bytes of a megabyte");
    }

    #[test]
    fn who_published_is_not_read_where_nobody_asks() {
        let mut log = long_frames();
        build(&mut log).unwrap();
        let mut history = History::new(Offset(1000));
        for (at, is_named) in [(50, false), (160, true), (250, false), (360, true)] {
            let unnamed = history.fetch_found(&log, Offset(at), &[], false).unwrap().unwrap();
            let named = History::new(Offset(1000)).fetch(&log, Offset(at)).unwrap().unwrap();
            let expected = match is_named {
                true => (*named).clone(),
                false => {
                    StoredMessage { publisher: 0, dedup: Default::default(), ..(*named).clone() }
                }
            };
            assert!(matches!(unnamed, Fetched::Alone(_)));
            assert_eq!(*unnamed, expected, "{at}");
            assert!(named.publisher != 0);
        }
        let mut history = History::new(Offset(1000));
        for frame in 0..10 {
            history.fetch_found(&log, Offset(frame * 100 + 50), &[], false).unwrap();
        }
        let read = history.indexes.bytes_read().unwrap();
        assert!(read <= 10 * 2 * 4096, "{read} bytes: a record in one block or two");
    }

    #[test]
    fn the_topics_of_others_are_not_read_where_one_filter_found_one_topic() {
        for (filter, is_one) in [("a/50", true), ("+/50", true), ("a/+", false)] {
            let disk = SimDisk::new(1);
            let mut log = long_frames_on(&disk);
            let span = build(&mut log).unwrap();
            let column = log.open_index(0).unwrap().unwrap().header().section(Section::Column);
            let path = PathBuf::from(format!("p0001/log/{:020}.six", 0));
            disk.flip_bit(&path, column.at * 8 + 5).unwrap();

            let by = [Filter::new(filter.into()).unwrap()];
            let mut history = History::new(span.end);
            let found = history.select(&log, &by, (Offset::ZERO, span.end), usize::MAX).unwrap();
            assert_eq!(found.offsets.len(), if is_one { 10 } else { 1000 });
            for at in (0..10).map(|frame| Offset(100 * frame + 50)) {
                let found = history.fetch_found(&log, at, &by, true).unwrap().unwrap();
                let expected = History::new(span.end).fetch(&log, at).unwrap().unwrap();
                assert_eq!(*found, *expected);
            }
            let distrusted = history.indexes.take_distrusted().contains(&span.segment_no);
            assert_eq!((distrusted, history.decoded.bytes() > 0), (!is_one, !is_one), "{filter}");
        }
    }

    #[test]
    fn neighbours_are_read_with_their_frame() {
        let mut log = long_frames();
        build(&mut log).unwrap();
        let mut history = History::new(Offset(1000));

        for offset in 100..200 {
            let message = history.fetch(&log, Offset(offset)).unwrap().unwrap();
            assert_eq!(message.payload[0], (offset - 100) as u8);
        }

        assert!(
            history.decoded.get(Offset(199)).is_some()
                && history.decoded.get(Offset(200)).is_none()
        );
        assert!(history.indexes.bytes_read().unwrap() <= 4 * 4096, "only the first");
    }

    #[test]
    fn the_newest_frames_are_kept_as_they_were_applied_and_others_are_read() {
        let log = long_frames();
        let mut history = History::new(Offset(1000));
        for frame in log.read(Offset(0), 1 << 20).unwrap().iter().take(3) {
            let records = frame::decode(frame).unwrap().map(|record| record.unwrap().2).collect();
            history.keep(frame, records);
        }
        let bytes = history.decoded.bytes();

        let payload = |history: &mut History<SimDisk>, offset: u64| {
            history.fetch(&log, Offset(offset)).unwrap().unwrap().payload[0]
        };
        assert!((0..300).all(|at| payload(&mut history, at) == (at % 100) as u8));
        assert_eq!(history.decoded.bytes(), bytes, "nothing was read");
        assert_eq!(payload(&mut history, 300), 0);
        assert!(history.decoded.bytes() > bytes);
    }
}
