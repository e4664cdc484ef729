//! Reading the body of a frame back into records; the layout is drawn in [`batch`](super::batch).
//!
//! What a record holds are slices of the body: nothing is copied. Bodies come from a disk, so every length is checked before
//! it is used, and a body that does not read as a batch is an error, never a panic.

use std::ops::Range;

use bytes::Bytes;
use fluxmq_index::Offset;

use super::batch::{
    ATTR_CONTROL, ATTR_EXT, ATTR_KEY, ATTR_PRODUCER, ATTR_PROPS, ATTR_QOS, ATTR_RETAIN_CLEAR,
    ATTR_RETAIN_SET, Batch, EXT_DELIVER_AT, EXT_EXPIRY, EXT_PRIORITY, Producer, Retain,
};
use super::frame::{FrameHeader, FrameKind};
use super::varint::{self, Input, share};

/// Why a body is not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The tables at the start do not read as tables, or are not as long as the header says.
    #[error("tables of {tables_len} bytes do not read as tables at byte {at}")]
    Tables {
        /// What the header says.
        tables_len: u32,
        /// How far they could be read.
        at: usize,
    },
    /// A record does not read as one.
    #[error("record {number} at byte {at} does not read as a record")]
    Record {
        /// Which record of the batch, from 0.
        number: u32,
        /// Where it starts in the body.
        at: usize,
    },
    /// A record names a topic the table does not have.
    #[error("record {number} names topic {topic} of {topic_count}")]
    Topic {
        /// Which record of the batch, from 0.
        number: u32,
        /// The number it names.
        topic: u64,
        /// Entries of the table.
        topic_count: usize,
    },
    /// A record names a producer the table does not have.
    #[error("record {number} names producer {producer} of {producer_count}")]
    Producer {
        /// Which record of the batch, from 0.
        number: u32,
        /// The number it names.
        producer: u64,
        /// Entries of the table.
        producer_count: usize,
    },
    /// The body goes on behind the last record.
    #[error("{extra} bytes follow the last record")]
    Trailing {
        /// Bytes behind the end.
        extra: usize,
    },
}

/// What a body must be read with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMeta {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Log time of the batch in milliseconds.
    pub base_ts: u64,
    /// Records in the body.
    pub record_count: u32,
    /// Length of the tables in bytes.
    pub tables_len: u32,
    /// What the body is; one without records reads as an empty batch.
    pub kind: FrameKind,
}

impl From<&FrameHeader> for BatchMeta {
    fn from(header: &FrameHeader) -> Self {
        BatchMeta {
            base_offset: header.base_offset,
            base_ts: header.base_ts,
            record_count: header.record_count,
            tables_len: header.tables_len,
            kind: header.kind,
        }
    }
}

impl BatchMeta {
    /// Describes a batch that has not been appended yet, as if its first record were at `base_offset`.
    pub fn of(batch: &Batch, base_offset: Offset) -> Self {
        BatchMeta {
            base_offset,
            base_ts: batch.base_ts,
            record_count: batch.record_count,
            tables_len: batch.tables_len,
            kind: batch.kind,
        }
    }
}

/// Which queues a route set stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteDef {
    /// The route set.
    pub id: u32,
    /// Its queues, sorted.
    pub queues: Vec<u64>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchRecord {
    /// A message.
    Message(Message),
    /// A control record.
    Control {
        /// What it says; the meaning is the model's.
        op: u8,
        /// Its content.
        payload: Bytes,
        /// Log time in milliseconds.
        ts: u64,
    },
}

/// One message; the fields are those of [`MessageRecord`](super::MessageRecord), the bytes slices of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: Bytes,
    /// Number of the topic within the batch.
    pub topic_number: u32,
    /// The route set; 0 when no queue is bound.
    pub route_set: u32,
    /// MQTT quality of service, 0 to 2.
    pub qos: u8,
    /// What it does to the retained message.
    pub retain: Retain,
    /// Log time in milliseconds.
    pub ts: u64,
    /// Who sent it, when known.
    pub producer: Option<Producer>,
    /// Seconds from `ts` after which nobody may receive it.
    pub expiry_s: Option<u32>,
    /// 0 is the lowest.
    pub priority: u8,
    /// Log time in milliseconds before which nobody may receive it.
    pub deliver_at: Option<u64>,
    /// The application's key.
    pub key: Option<Bytes>,
    /// Properties in the model's encoding; empty for none.
    pub props: Bytes,
    /// The body.
    pub payload: Bytes,
}

/// Iterates over the records of a body.
#[derive(Clone, Debug)]
pub struct BatchReader {
    body: Bytes,
    meta: BatchMeta,
    routes: Vec<RouteDef>,
    topics: Vec<(u32, Bytes)>,
    /// Of the only record, when it is read without its tables.
    lone_topic: Option<Bytes>,
    /// `None` when they were not read: then messages name none.
    producers: Option<Vec<Producer>>,
    producers_at: usize,
    position: usize,
    number: u32,
    is_over: bool,
}

impl BatchReader {
    /// Reads the tables. `meta` is the frame's header, or [`BatchMeta::of`] a batch.
    pub fn new(meta: impl Into<BatchMeta>, body: Bytes) -> Result<BatchReader, BatchError> {
        let meta = meta.into();
        let mut reader = BatchReader {
            body,
            meta,
            routes: Vec::new(),
            topics: Vec::new(),
            lone_topic: None,
            producers: Some(Vec::new()),
            producers_at: 0,
            position: 0,
            number: 0,
            is_over: !meta.kind.has_records(),
        };
        if reader.is_over {
            return Ok(reader);
        }
        let body = reader.body.clone();
        let mut input = Input::new(&body);
        let read = reader.read_tables(&mut input);
        if read.is_none() || input.position() != meta.tables_len as usize {
            let at = input.position();
            return Err(BatchError::Tables { tables_len: meta.tables_len, at });
        }
        reader.position = input.position();
        Ok(reader)
    }

    /// Returns the route sets the batch defines.
    pub fn routes(&self) -> &[RouteDef] {
        &self.routes
    }

    /// Returns the distinct topics of the batch with their route sets, in the order of their numbers.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = (u32, &Bytes)> {
        self.topics.iter().map(|(route_set, topic)| (*route_set, topic))
    }

    /// Returns where the producer table begins in the body; `None` when it is empty.
    pub fn producers_at(&self) -> Option<usize> {
        let has_any = self.producers.as_ref().is_some_and(|producers| !producers.is_empty());
        has_any.then_some(self.producers_at)
    }

    /// Reads one message without its batch: `bytes` begin with it, its topic is known, and `meta` says what its frame says. Its
    /// route set is not known, and without the producers of its frame it names none.
    pub fn read_alone(
        meta: BatchMeta,
        topic: Bytes,
        producers: Option<&[Producer]>,
        bytes: Bytes,
    ) -> Result<Message, BatchError> {
        let mut reader = BatchReader {
            body: bytes,
            meta,
            routes: Vec::new(),
            topics: Vec::new(),
            lone_topic: Some(topic),
            producers: producers.map(<[Producer]>::to_vec),
            producers_at: 0,
            position: 0,
            number: 0,
            is_over: false,
        };
        match reader.read_record()? {
            BatchRecord::Message(message) => Ok(message),
            BatchRecord::Control { .. } => Err(BatchError::Record { number: 0, at: 0 }),
        }
    }

    /// Returns true when the record that `bytes` begin with names a producer.
    pub fn names_producer(bytes: &[u8]) -> bool {
        let mut input = Input::new(bytes);
        let attrs = input.varint().and_then(|_| input.u8());
        attrs.is_some_and(|attrs| attrs & ATTR_PRODUCER != 0)
    }

    /// Steps over records from byte `at` on, by their lengths; ends with the bytes.
    pub fn record_spans(bytes: &[u8], at: usize) -> impl Iterator<Item = Range<usize>> {
        let mut at = at;
        std::iter::from_fn(move || {
            let end = Input::at(bytes, at).take_prefixed()?.end;
            Some(std::mem::replace(&mut at, end)..end)
        })
    }

    /// Reads the producers that a table lists, as far as it can be read.
    pub fn read_producers(table: &[u8]) -> Vec<Producer> {
        let mut input = Input::new(table);
        let mut producers = Vec::new();
        for _ in 0..input.varint().unwrap_or(0) {
            match read_producer(&mut input) {
                Some(producer) => producers.push(producer),
                None => break,
            }
        }
        producers
    }

    /// Steps over the next record, and returns where it begins in the body and the number of its topic, `None` for a control's.
    pub fn next_topic(&mut self) -> Option<Result<(usize, Option<u32>), BatchError>> {
        if self.is_over || self.number == self.meta.record_count {
            return self.next().map(|after| after.map(|_| unreachable!("there is no record left")));
        }
        let at = self.position;
        let read = self.read_topic();
        self.is_over = read.is_err();
        self.number += 1;
        Some(read.map(|topic| (at, topic)))
    }

    fn read_topic(&mut self) -> Result<Option<u32>, BatchError> {
        let malformed = BatchError::Record { number: self.number, at: self.position };
        let mut input = Input::at(&self.body, self.position);
        let record = input.take_prefixed().ok_or(malformed)?;
        self.position = record.end;
        let mut input = Input::at(&self.body[..record.end], record.start);
        if input.u8().ok_or(malformed)? & ATTR_QOS == ATTR_CONTROL {
            return Ok(None);
        }
        let topic = input.varint().ok_or(malformed)?;
        let topic_count = self.topics.len();
        let is_known = topic < topic_count as u64;
        let unknown = BatchError::Topic { number: self.number, topic, topic_count };
        is_known.then_some(Some(topic as u32)).ok_or(unknown)
    }

    fn read_tables(&mut self, input: &mut Input<'_>) -> Option<()> {
        for _ in 0..input.varint()? {
            let id = input.varint_u32()?;
            let count = input.varint()?;
            let mut queues = Vec::new();
            let mut queue = 0u64;
            for _ in 0..count {
                queue = queue.checked_add(input.varint()?)?;
                queues.push(queue);
            }
            self.routes.push(RouteDef { id, queues });
        }
        for _ in 0..input.varint()? {
            let route_set = input.varint_u32()?;
            let topic = input.take_prefixed()?;
            self.topics.push((route_set, share(&self.body, topic)));
        }
        self.producers_at = input.position();
        let mut producers = Vec::new();
        for _ in 0..input.varint()? {
            producers.push(read_producer(input)?);
        }
        self.producers = Some(producers);
        // Block table: compression is reserved.
        (input.varint()? == 0).then_some(())
    }

    fn read_record(&mut self) -> Result<BatchRecord, BatchError> {
        let malformed = BatchError::Record { number: self.number, at: self.position };
        let mut input = Input::at(&self.body, self.position);
        let record = input.take_prefixed().ok_or(malformed)?;
        let end = record.end;
        let mut input = Input::at(&self.body[..end], record.start);
        let attrs = input.u8().ok_or(malformed)?;
        let read = match attrs & ATTR_QOS {
            ATTR_CONTROL if attrs == ATTR_CONTROL => self.read_control(&mut input, end),
            ATTR_CONTROL => None,
            _ => self.read_message(attrs, &mut input, end)?,
        };
        self.position = end;
        read.ok_or(malformed)
    }

    fn read_control(&self, input: &mut Input<'_>, end: usize) -> Option<BatchRecord> {
        let ts = self.read_ts(input)?;
        let op = input.u8()?;
        let payload = share(&self.body, input.position()..end);
        Some(BatchRecord::Control { op, payload, ts })
    }

    /// Returns `Ok(None)` for bytes that do not read as a message.
    fn read_message(
        &self,
        attrs: u8,
        input: &mut Input<'_>,
        end: usize,
    ) -> Result<Option<BatchRecord>, BatchError> {
        let number = self.number;
        let Some(topic) = input.varint() else { return Ok(None) };
        let known = match &self.lone_topic {
            Some(name) => Some((0, name)),
            None => usize::try_from(topic).ok().and_then(|at| self.topics.get(at)).map(by_ref),
        };
        let Some((route_set, name)) = known else {
            let topic_count = self.topics.len();
            return Err(BatchError::Topic { number, topic, topic_count });
        };
        let Some(ts) = self.read_ts(input) else { return Ok(None) };
        let mut named = None;
        if attrs & ATTR_PRODUCER != 0 {
            let Some(producer) = input.varint() else { return Ok(None) };
            let base = self.producer(producer)?;
            let base_seq = base.map_or(0, |base| base.seq);
            let Some(seq) = read_seq(base_seq, input) else { return Ok(None) };
            named = base.map(|base| Producer { seq, ..*base });
        }
        let head = Message {
            topic: name.clone(),
            topic_number: topic as u32,
            route_set,
            qos: attrs & ATTR_QOS,
            retain: Retain::No,
            ts,
            producer: named,
            expiry_s: None,
            priority: 0,
            deliver_at: None,
            key: None,
            props: Bytes::new(),
            payload: Bytes::new(),
        };
        Ok(self.read_rest(attrs, head, input, end).map(BatchRecord::Message))
    }

    /// Looks a producer up; `None` when they were not read.
    fn producer(&self, producer: u64) -> Result<Option<&Producer>, BatchError> {
        let Some(producers) = &self.producers else { return Ok(None) };
        let known = usize::try_from(producer).ok().and_then(|at| producers.get(at));
        let (number, producer_count) = (self.number, producers.len());
        known.map(Some).ok_or(BatchError::Producer { number, producer, producer_count })
    }

    fn read_rest(
        &self,
        attrs: u8,
        mut message: Message,
        input: &mut Input<'_>,
        end: usize,
    ) -> Option<Message> {
        message.retain = match (attrs & ATTR_RETAIN_SET != 0, attrs & ATTR_RETAIN_CLEAR != 0) {
            (false, false) => Retain::No,
            (true, false) => Retain::Set,
            (false, true) => Retain::Clear,
            (true, true) => return None,
        };
        if attrs & ATTR_EXT != 0 {
            let bits = input.u8()?;
            if bits & !(EXT_PRIORITY | EXT_EXPIRY | EXT_DELIVER_AT) != 0 {
                return None;
            }
            if bits & EXT_PRIORITY != 0 {
                message.priority = input.u8()?;
            }
            if bits & EXT_EXPIRY != 0 {
                message.expiry_s = Some(input.varint_u32()?);
            }
            if bits & EXT_DELIVER_AT != 0 {
                let delta = varint::unzigzag(input.varint()?);
                message.deliver_at = Some(message.ts.wrapping_add(delta as u64));
            }
        }
        if attrs & ATTR_KEY != 0 {
            message.key = Some(share(&self.body, input.take_prefixed()?));
        }
        if attrs & ATTR_PROPS != 0 {
            message.props = share(&self.body, input.take_prefixed()?);
        }
        message.payload = share(&self.body, input.position()..end);
        Some(message)
    }

    fn read_ts(&self, input: &mut Input<'_>) -> Option<u64> {
        let delta = varint::unzigzag(input.varint()?);
        Some(self.meta.base_ts.wrapping_add(delta as u64))
    }
}

impl Iterator for BatchReader {
    type Item = Result<(Offset, BatchRecord), BatchError>;

    /// Returns the next record. After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        if self.number == self.meta.record_count {
            self.is_over = true;
            let extra = self.body.len() - self.position;
            return (extra > 0).then_some(Err(BatchError::Trailing { extra }));
        }
        let read = self.read_record();
        if read.is_err() {
            self.is_over = true;
        }
        let offset = Offset(self.meta.base_offset.0.wrapping_add(u64::from(self.number)));
        self.number += 1;
        Some(read.map(|record| (offset, record)))
    }

    /// Skips `count` records by their lengths, without decoding them.
    fn nth(&mut self, count: usize) -> Option<Self::Item> {
        for _ in 0..count {
            if self.is_over || self.number == self.meta.record_count {
                self.is_over = true;
                return None;
            }
            let mut input = Input::at(&self.body, self.position);
            if input.take_prefixed().is_none() {
                break;
            }
            self.position = input.position();
            self.number += 1;
        }
        self.next()
    }
}

fn read_producer(input: &mut Input<'_>) -> Option<Producer> {
    Some(Producer { id: input.u64()?, epoch: input.varint_u32()?, seq: input.varint_u32()? })
}

fn by_ref((route_set, topic): &(u32, Bytes)) -> (u32, &Bytes) {
    (*route_set, topic)
}

fn read_seq(base: u32, input: &mut Input<'_>) -> Option<u32> {
    let delta = varint::unzigzag(input.varint()?);
    u32::try_from(i64::from(base).checked_add(delta)?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::batch::{BatchBuilder, MessageRecord};
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// A record that owns its bytes.
    #[derive(Clone, Debug)]
    enum Given {
        Message { message: Message },
        Control { op: u8, payload: Vec<u8>, ts: u64 },
    }

    fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), len).prop_map(Bytes::from)
    }

    fn producer() -> impl Strategy<Value = Option<Producer>> {
        let fields = (0..3u64, 0..2u32, any::<u32>());
        proptest::option::of(fields.prop_map(|(id, epoch, seq)| Producer { id, epoch, seq }))
    }

    prop_compose! {
        fn message()(
            (topic, route_set, qos, ts) in (bytes(0..4), 0..3u32, 0..3u8, any::<u64>()),
            retain in prop_oneof![Just(Retain::No), Just(Retain::Set), Just(Retain::Clear)],
            (producer, expiry_s, priority) in (producer(), any::<Option<u32>>(), any::<u8>()),
            deliver_at in any::<Option<u64>>(),
            (key, props, payload) in
                (proptest::option::of(bytes(0..200)), bytes(0..200), bytes(0..300)),
        ) -> Given {
            let topic_number = 0;
            Given::Message { message: Message {
                topic, topic_number, route_set, qos, retain, ts, producer, expiry_s, priority,
                deliver_at, key, props, payload,
            } }
        }
    }

    prop_compose! {
        fn control()(op: u8, payload in vec(any::<u8>(), 0..300), ts: u64) -> Given {
            Given::Control { op, payload, ts }
        }
    }

    fn build(base_ts: u64, given: &[Given]) -> Batch {
        let mut builder = BatchBuilder::new(base_ts);
        for record in given {
            match record {
                Given::Control { op, payload, ts } => builder.push_control(*op, payload, *ts),
                Given::Message { message } => builder.push_message(&MessageRecord {
                    topic: &message.topic,
                    route_set: message.route_set,
                    qos: message.qos,
                    retain: message.retain,
                    ts: message.ts,
                    producer: message.producer,
                    expiry_s: message.expiry_s,
                    priority: message.priority,
                    deliver_at: message.deliver_at,
                    key: message.key.as_deref(),
                    props: &message.props,
                    payload: &message.payload,
                }),
            }
        }
        assert_eq!(builder.count() as usize, given.len());
        builder.finish()
    }

    fn expected(given: &Given, topic_number: u32) -> BatchRecord {
        match given.clone() {
            Given::Message { message } => BatchRecord::Message(Message { topic_number, ..message }),
            Given::Control { op, payload, ts } => {
                BatchRecord::Control { op, payload: payload.into(), ts }
            }
        }
    }

    fn three() -> Batch {
        let mut builder = BatchBuilder::new(5);
        builder.define_route(1, &[3, 9, 1 << 40]);
        builder.define_route(7, &[]);
        for payload in [b"one", b"two"] {
            builder.push_message(&MessageRecord {
                topic: b"t",
                route_set: 1,
                payload,
                ts: 6,
                ..Default::default()
            });
        }
        builder.push_control(9, b"three", 8);
        builder.finish()
    }

    #[test]
    fn a_record_is_found_by_its_number() {
        let batch = three();
        let reader = BatchReader::new(BatchMeta::of(&batch, Offset(10)), batch.body).unwrap();

        let (offset, record) = reader.clone().nth(2).unwrap().unwrap();

        assert_eq!(offset, Offset(12));
        assert_eq!(record, BatchRecord::Control { op: 9, payload: "three".into(), ts: 8 });
        assert_eq!(reader.clone().nth(3), None);
        assert_eq!(reader.routes()[0], RouteDef { id: 1, queues: vec![3, 9, 1 << 40] });
        assert_eq!(reader.routes()[1], RouteDef { id: 7, queues: vec![] });
    }

    #[test]
    fn payloads_are_slices_of_the_body() {
        let batch = three();
        let body = batch.body.clone();
        let mut reader = BatchReader::new(BatchMeta::of(&batch, Offset(0)), batch.body).unwrap();

        let (_, record) = reader.next().unwrap().unwrap();

        let BatchRecord::Message(message) = record else { panic!("a message comes first") };
        assert!(body.as_ptr_range().contains(&message.payload.as_ptr()));
        assert!(body.as_ptr_range().contains(&message.topic.as_ptr()));
    }

    #[test]
    fn a_frame_without_records_reads_as_an_empty_batch() {
        let meta = BatchMeta { kind: FrameKind::Noop, ..BatchMeta::of(&three(), Offset(0)) };

        assert_eq!(BatchReader::new(meta, Bytes::from_static(b"anything")).unwrap().count(), 0);
    }

    #[test]
    fn a_wrong_count_or_table_length_is_an_error() {
        let batch = three();
        let meta = BatchMeta::of(&batch, Offset(0));
        let read = |meta: BatchMeta| -> Result<Vec<_>, BatchError> {
            BatchReader::new(meta, batch.body.clone())?.collect()
        };

        let fewer = read(BatchMeta { record_count: 2, ..meta });
        assert!(matches!(fewer, Err(BatchError::Trailing { .. })), "{fewer:?}");
        let more = read(BatchMeta { record_count: 4, ..meta });
        assert!(matches!(more, Err(BatchError::Record { number: 3, .. })), "{more:?}");
        let tables = read(BatchMeta { tables_len: meta.tables_len + 1, ..meta });
        assert!(matches!(tables, Err(BatchError::Tables { .. })), "{tables:?}");
    }

    #[test]
    fn tables_longer_than_the_room_kept_for_them_move_the_records() {
        let topics: Vec<_> = (0..2_000).map(|number| format!("topic/{number}")).collect();
        let mut builder = BatchBuilder::new(0);
        for topic in &topics {
            let message =
                MessageRecord { topic: topic.as_bytes(), payload: b"x", ..Default::default() };
            builder.push_message(&message);
        }
        let len_bytes = builder.len_bytes();

        let batch = builder.finish();
        let reader = BatchReader::new(BatchMeta::of(&batch, Offset(0)), batch.body.clone());

        assert!(batch.body.len().abs_diff(len_bytes) < 16);
        let read: Vec<_> = reader.unwrap().map(|record| record.unwrap().1).collect();
        for (topic, record) in topics.iter().zip(&read) {
            let BatchRecord::Message(message) = record else { panic!("only messages were pushed") };
            assert_eq!(message.topic, topic.as_bytes());
        }
        assert_eq!(read.len(), topics.len());
    }

    proptest! {
        #[test]
        fn batches_survive_the_round_trip(
            base_ts: u64,
            given in vec(prop_oneof![4 => message(), 1 => control()], 0..40),
        ) {
            let batch = build(base_ts, &given);
            let meta = BatchMeta::of(&batch, Offset(100));
            let reader = BatchReader::new(meta, batch.body).unwrap();
            for (number, read) in reader.enumerate() {
                let (offset, record) = read.unwrap();
                let topic_number = match &record {
                    BatchRecord::Message(message) => message.topic_number,
                    BatchRecord::Control { .. } => 0,
                };
                prop_assert_eq!(offset, Offset(100 + number as u64));
                prop_assert_eq!(record, expected(&given[number], topic_number));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            body in vec(any::<u8>(), 0..200),
            record_count in 0..70_000u32,
            tables_len in 0..20u32,
        ) {
            let meta = BatchMeta {
                base_offset: Offset(u64::MAX), base_ts: 1, record_count, tables_len,
                kind: FrameKind::Mixed,
            };
            if let Ok(reader) = BatchReader::new(meta, Bytes::from(body)) {
                prop_assert!(reader.count() <= 201);
            }
        }

        #[test]
        fn a_damaged_body_never_panics(
            given in vec(message(), 1..10), at: prop::sample::Index, value: u8,
        ) {
            let batch = build(0, &given);
            let mut body = batch.body.to_vec();
            let at = at.index(body.len());
            body[at] = value;
            let meta = BatchMeta::of(&batch, Offset(0));
            if let Ok(reader) = BatchReader::new(meta, Bytes::from(body)) {
                prop_assert!(reader.count() <= given.len() + 1);
            }
        }
    }
}
