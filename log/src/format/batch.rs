//! Building the body of a data, control or mixed frame.
//!
//! ```text
//! body      := route_defs topic_table producer_table block_table record*
//! route_defs     := varint n, n × (varint id, varint queues, sorted queue ids as varint deltas)
//! topic_table    := varint n, n × (varint route_set (0 none), varint len, topic)
//! producer_table := varint n, n × (u64 id, varint epoch, varint base_seq)
//! block_table    := varint 0                                     compression is reserved
//! record    := varint len, message | control                     len counts what follows it
//! message   := u8 attrs, varint topic, zigzag ts - base_ts, [varint producer, zigzag seq - base_seq], [ext],
//!              [varint len, key], [varint len, props], payload
//! control   := u8 attrs = 3, zigzag ts - base_ts, u8 op, payload
//! attrs     := qos 0..2 (3: control) | 4 retain set | 8 retain clear | 16 producer | 32 ext | 64 key | 128 props
//! ext       := u8 bits, [1: u8 priority], [2: varint expiry s], [4: zigzag deliver_at - ts]
//! ```
//!
//! An absent priority is 0. `tables_len` of the frame header is the length of the four tables.

use std::collections::HashMap;

use bytes::Bytes;

use super::frame::{FLAG_DEDUP, FLAG_ROUTE_DEFS, FrameKind};
use super::topic_table::TopicTable;
use super::varint;

/// How many records a batch may have.
pub const RECORDS_PER_BATCH_MAX: u32 = 65_535;

pub(super) const ATTR_QOS: u8 = 3;
pub(super) const ATTR_CONTROL: u8 = 3;
pub(super) const ATTR_RETAIN_SET: u8 = 1 << 2;
pub(super) const ATTR_RETAIN_CLEAR: u8 = 1 << 3;
pub(super) const ATTR_PRODUCER: u8 = 1 << 4;
pub(super) const ATTR_EXT: u8 = 1 << 5;
pub(super) const ATTR_KEY: u8 = 1 << 6;
pub(super) const ATTR_PROPS: u8 = 1 << 7;
pub(super) const EXT_PRIORITY: u8 = 1 << 0;
pub(super) const EXT_EXPIRY: u8 = 1 << 1;
pub(super) const EXT_DELIVER_AT: u8 = 1 << 2;

/// Room kept before the records for the tables, so that finishing a batch usually copies no record.
const TABLES_ROOM: usize = 4096;

/// What a message does to the retained message of its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retain {
    /// Nothing.
    #[default]
    No,
    /// Becomes it.
    Set,
    /// Removes it.
    Clear,
}

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// The producer.
    pub id: u64,
    /// Which of its lives.
    pub epoch: u32,
    /// Number of the message within the epoch; 0 is an identity only, without duplicate detection.
    pub seq: u32,
}

/// One message to be appended; everything is borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageRecord<'a> {
    /// Where it was published.
    pub topic: &'a [u8],
    /// The route set the leader resolved; 0 when no queue is bound.
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
    pub key: Option<&'a [u8]>,
    /// Properties in the model's encoding; empty for none.
    pub props: &'a [u8],
    /// The body.
    pub payload: &'a [u8],
}

/// A finished batch: all that a frame needs except its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The body.
    pub body: Bytes,
    /// Records in it.
    pub record_count: u32,
    /// The latest record's time minus `base_ts`, in milliseconds.
    pub max_ts_delta: u32,
    /// Length of the tables in bytes.
    pub tables_len: u32,
    /// Entries of the topic table.
    pub topic_count: u16,
    /// Data, control or mixed.
    pub kind: FrameKind,
    /// `FLAG_ROUTE_DEFS` and `FLAG_DEDUP` where they apply.
    pub flags: u16,
    /// Log time of the batch in milliseconds.
    pub base_ts: u64,
}

/// Encodes records into a body, one after the other.
#[derive(Debug)]
pub struct BatchBuilder {
    base_ts: u64,
    /// `TABLES_ROOM` free bytes, then the records.
    out: Vec<u8>,
    route_defs: Vec<u8>,
    route_def_count: u64,
    topics: TopicTable,
    producers: Vec<Producer>,
    producer_numbers: HashMap<(u64, u32), u32>,
    max_ts_delta: u64,
    message_count: u32,
    control_count: u32,
    has_sequences: bool,
}

impl BatchBuilder {
    /// Starts a batch of log time `base_ts`, in milliseconds.
    pub fn new(base_ts: u64) -> Self {
        BatchBuilder::with_capacity(base_ts, 16 << 10)
    }

    /// Starts a batch with room for `bytes` of records.
    pub fn with_capacity(base_ts: u64, bytes: usize) -> Self {
        let mut out = Vec::with_capacity(TABLES_ROOM + bytes);
        out.resize(TABLES_ROOM, 0);
        BatchBuilder {
            base_ts,
            out,
            route_defs: Vec::new(),
            route_def_count: 0,
            topics: TopicTable::default(),
            producers: Vec::new(),
            producer_numbers: HashMap::new(),
            max_ts_delta: 0,
            message_count: 0,
            control_count: 0,
            has_sequences: false,
        }
    }

    /// Says which queues the route set `id` stands for in this segment. Panics unless `queues` is sorted and distinct.
    pub fn define_route(&mut self, id: u32, queues: &[u64]) {
        assert!(queues.is_sorted_by(|low, high| low < high), "queues are sorted and distinct");
        varint::put(&mut self.route_defs, u64::from(id));
        varint::put(&mut self.route_defs, queues.len() as u64);
        let mut previous = 0;
        for queue in queues {
            varint::put(&mut self.route_defs, queue - previous);
            previous = *queue;
        }
        self.route_def_count += 1;
    }

    /// Adds a message. Panics when the batch already has [`RECORDS_PER_BATCH_MAX`] records or `qos` is above 2.
    #[inline]
    pub fn push_message(&mut self, message: &MessageRecord<'_>) {
        assert!(self.count() < RECORDS_PER_BATCH_MAX, "the batch is full");
        assert!(message.qos < ATTR_CONTROL, "quality of service is 0 to 2");
        let topic = self.topics.intern(message.topic, message.route_set);
        // Everything but key, props and payload is shorter than this: encoded on the stack, its length is then known.
        let mut head = Head::default();
        let mut attrs = message.qos;
        head.push(0);
        head.varint(u64::from(topic));
        head.varint(self.ts_delta(message.ts));
        match message.retain {
            Retain::No => {}
            Retain::Set => attrs |= ATTR_RETAIN_SET,
            Retain::Clear => attrs |= ATTR_RETAIN_CLEAR,
        }
        if let Some(producer) = message.producer {
            attrs |= ATTR_PRODUCER;
            self.put_producer(producer, &mut head);
        }
        if message.priority != 0 || message.expiry_s.is_some() || message.deliver_at.is_some() {
            attrs |= ATTR_EXT;
            put_ext(message, &mut head);
        }
        let mut len = head.len + message.payload.len();
        if let Some(key) = message.key {
            attrs |= ATTR_KEY;
            len += varint::len(key.len() as u64) + key.len();
        }
        if !message.props.is_empty() {
            attrs |= ATTR_PROPS;
            len += varint::len(message.props.len() as u64) + message.props.len();
        }
        head.bytes[0] = attrs;
        self.out.reserve(varint::VARINT_BYTES_MAX + len);
        varint::put(&mut self.out, len as u64);
        self.out.extend_from_slice(&head.bytes[..head.len]);
        if let Some(key) = message.key {
            varint::put(&mut self.out, key.len() as u64);
            self.out.extend_from_slice(key);
        }
        if !message.props.is_empty() {
            varint::put(&mut self.out, message.props.len() as u64);
            self.out.extend_from_slice(message.props);
        }
        self.out.extend_from_slice(message.payload);
        self.message_count += 1;
    }

    /// Adds a control record. Panics when the batch already has [`RECORDS_PER_BATCH_MAX`] records.
    pub fn push_control(&mut self, op: u8, payload: &[u8], ts: u64) {
        assert!(self.count() < RECORDS_PER_BATCH_MAX, "the batch is full");
        let mut head = Head::default();
        head.push(ATTR_CONTROL);
        head.varint(self.ts_delta(ts));
        head.push(op);
        varint::put(&mut self.out, (head.len + payload.len()) as u64);
        self.out.extend_from_slice(&head.bytes[..head.len]);
        self.out.extend_from_slice(payload);
        self.control_count += 1;
    }

    /// Ends the batch.
    pub fn finish(mut self) -> Batch {
        let mut tables = Vec::with_capacity(TABLES_ROOM);
        varint::put(&mut tables, self.route_def_count);
        tables.extend_from_slice(&self.route_defs);
        varint::put(&mut tables, self.topics.count() as u64);
        tables.extend_from_slice(self.topics.encoded());
        varint::put(&mut tables, self.producers.len() as u64);
        for producer in &self.producers {
            tables.extend_from_slice(&producer.id.to_le_bytes());
            varint::put(&mut tables, u64::from(producer.epoch));
            varint::put(&mut tables, u64::from(producer.seq));
        }
        varint::put(&mut tables, 0);
        let start = match TABLES_ROOM.checked_sub(tables.len()) {
            Some(start) => start,
            None => {
                self.out.splice(0..0, std::iter::repeat_n(0, tables.len() - TABLES_ROOM));
                0
            }
        };
        self.out[start..start + tables.len()].copy_from_slice(&tables);
        let mut flags = 0;
        if self.route_def_count > 0 {
            flags |= FLAG_ROUTE_DEFS;
        }
        if self.has_sequences {
            flags |= FLAG_DEDUP;
        }
        Batch {
            record_count: self.count(),
            max_ts_delta: u32::try_from(self.max_ts_delta).unwrap_or(u32::MAX),
            tables_len: tables.len() as u32,
            topic_count: self.topics.count() as u16,
            kind: match (self.message_count, self.control_count) {
                (_, 0) => FrameKind::Data,
                (0, _) => FrameKind::Control,
                (_, _) => FrameKind::Mixed,
            },
            flags,
            base_ts: self.base_ts,
            body: exact(self.out, start),
        }
    }

    /// Returns about how long the body would be, in bytes; never less than it will be by more than the table counts.
    pub fn len_bytes(&self) -> usize {
        let tables = self.route_defs.len() + self.topics.encoded().len();
        self.out.len() - TABLES_ROOM + tables + 18 * self.producers.len() + 4
    }

    /// Returns the number of records.
    pub fn count(&self) -> u32 {
        self.message_count + self.control_count
    }

    fn ts_delta(&mut self, ts: u64) -> u64 {
        self.max_ts_delta = self.max_ts_delta.max(ts.saturating_sub(self.base_ts));
        varint::zigzag(ts.wrapping_sub(self.base_ts) as i64)
    }

    fn put_producer(&mut self, producer: Producer, head: &mut Head) {
        let identity = (producer.id, producer.epoch);
        let number = match self.producers.last() {
            Some(last) if (last.id, last.epoch) == identity => self.producers.len() as u32 - 1,
            _ => *self.producer_numbers.entry(identity).or_insert_with(|| {
                self.producers.push(producer);
                self.producers.len() as u32 - 1
            }),
        };
        let base = self.producers[number as usize].seq;
        head.varint(u64::from(number));
        head.varint(varint::zigzag(i64::from(producer.seq) - i64::from(base)));
        self.has_sequences |= producer.seq != 0;
    }
}

/// Shares the bytes from `start` on. A small batch is copied out of its buffer: frames stay in memory for a while, and the cache counts
/// what they hold, not the room they were built in.
fn exact(out: Vec<u8>, start: usize) -> Bytes {
    let used = out.len() - start;
    match out.capacity() - used > used / 4 {
        true => Bytes::copy_from_slice(&out[start..]),
        false => Bytes::from(out).slice(start..),
    }
}

fn put_ext(message: &MessageRecord<'_>, head: &mut Head) {
    let bits_at = head.len;
    let mut bits = 0;
    head.push(0);
    if message.priority != 0 {
        bits |= EXT_PRIORITY;
        head.push(message.priority);
    }
    if let Some(expiry_s) = message.expiry_s {
        bits |= EXT_EXPIRY;
        head.varint(u64::from(expiry_s));
    }
    if let Some(deliver_at) = message.deliver_at {
        bits |= EXT_DELIVER_AT;
        head.varint(varint::zigzag(deliver_at.wrapping_sub(message.ts) as i64));
    }
    head.bytes[bits_at] = bits;
}

/// The short first part of a record: attrs, five varints, the ext bits and the priority at most.
struct Head {
    bytes: [u8; 64],
    len: usize,
}

impl Default for Head {
    fn default() -> Self {
        Head { bytes: [0; 64], len: 0 }
    }
}

impl Head {
    #[inline]
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_message_costs_seven_bytes_beside_its_topic() {
        let mut batch = BatchBuilder::new(1_000);
        let message =
            MessageRecord { topic: b"a/b", payload: b"hello", ts: 1_000, ..Default::default() };
        batch.push_message(&message);
        batch.push_message(&message);

        let batch = batch.finish();

        let tables = [0, 1, 0, 3, b'a', b'/', b'b', 0, 0];
        let record = [8, 0, 0, 0, b'h', b'e', b'l', b'l', b'o'];
        assert_eq!(batch.body, [tables.as_slice(), &record, &record].concat());
        assert_eq!((batch.tables_len, batch.topic_count, batch.record_count), (9, 1, 2));
        assert_eq!(batch.kind, FrameKind::Data);
    }

    #[test]
    fn the_kind_follows_the_records() {
        let kind = |messages: u32, controls: u32| {
            let mut batch = BatchBuilder::new(0);
            (0..messages).for_each(|_| batch.push_message(&MessageRecord::default()));
            (0..controls).for_each(|_| batch.push_control(1, b"x", 0));
            batch.finish().kind
        };

        assert_eq!(kind(1, 0), FrameKind::Data);
        assert_eq!(kind(0, 1), FrameKind::Control);
        assert_eq!(kind(1, 1), FrameKind::Mixed);
    }

    #[test]
    fn a_sequence_marks_the_batch_for_duplicate_detection() {
        let flags = |seq| {
            let mut batch = BatchBuilder::new(0);
            let producer = Some(Producer { id: 1, epoch: 1, seq });
            batch.push_message(&MessageRecord { producer, ..Default::default() });
            batch.finish().flags
        };

        assert_eq!(flags(0), 0);
        assert_eq!(flags(1), FLAG_DEDUP);
    }

    #[test]
    #[should_panic(expected = "sorted")]
    fn unsorted_queues_are_our_own_mistake() {
        BatchBuilder::new(0).define_route(1, &[2, 1]);
    }
}
