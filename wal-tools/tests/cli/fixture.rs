//! Data directories built frame by frame, so that a test knows where every byte is.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use fluxmq_index::Offset;
use fluxmq_log::format::{
    Batch, BatchBuilder, Frame, FrameHeader, FrameKind, MessageRecord, SEGMENT_HEADER_BYTES, Seal,
    SealDigests, SegmentHeader, TermRun,
};

/// Log time of the first batch, 2023-11-14T22:13:20Z.
pub const START_MS: u64 = 1_700_000_000_000;
pub const PARTITION: u32 = 1;
const CAPACITY: usize = 256 << 10;
const TERM: u64 = 3;

/// A data directory with one partition.
pub struct Data {
    pub dir: tempfile::TempDir,
}

/// Builds one segment, in memory.
pub struct SegmentBuilder {
    header: SegmentHeader,
    bytes: Vec<u8>,
    /// Where each frame is.
    pub frames: Vec<Range<usize>>,
    last: Option<FrameHeader>,
    digests: SealDigests,
    /// What the next frames say about those before them.
    pub proof: Proof,
}

/// What a frame says about those before it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// That they are synced and committed.
    Both,
    /// That they are synced.
    Synced,
    /// That they are committed.
    Committed,
    /// Nothing: as in the last group before a crash.
    Nothing,
}

impl Data {
    pub fn new() -> Data {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("p0001/log")).unwrap();
        Data { dir }
    }

    /// A partition of two sealed segments and an active one, ten frames of ten messages each.
    pub fn with_three_segments() -> (Data, Vec<SegmentBuilder>) {
        let data = Data::new();
        let mut segments = vec![SegmentBuilder::first()];
        for number in 0..3u64 {
            let segment = segments.last_mut().unwrap();
            for frame in 0..10 {
                segment.push(batch(number * 10 + frame));
            }
            if number < 2 {
                segment.seal();
                let next = segment.next();
                segments.push(next);
            }
        }
        segments.iter().for_each(|segment| data.write(segment));
        (data, segments)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn partition(&self) -> PathBuf {
        self.path().join("p0001")
    }

    pub fn segment(&self, number: u64) -> PathBuf {
        self.partition().join(format!("log/{number:020}.seg"))
    }

    pub fn write(&self, segment: &SegmentBuilder) {
        fs::write(self.segment(segment.header.segment_no), segment.file()).unwrap();
    }

    /// Flips one bit.
    pub fn flip(&self, segment_no: u64, at: usize) {
        let path = self.segment(segment_no);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 0x10;
        fs::write(path, bytes).unwrap();
    }
}

impl SegmentBuilder {
    pub fn first() -> SegmentBuilder {
        SegmentBuilder::with_header(SegmentHeader {
            flags: 0,
            cluster: *b"0123456789abcdef",
            partition: PARTITION,
            segment_no: 0,
            base_offset: Offset(0),
            base_index: 1,
            prev_term: 0,
            prev_chain: 0,
            capacity_bytes: CAPACITY as u64,
            base_ts: START_MS,
        })
    }

    /// Begins the segment after this one.
    pub fn next(&self) -> SegmentBuilder {
        let last = self.last.unwrap();
        SegmentBuilder::with_header(SegmentHeader {
            segment_no: self.header.segment_no + 1,
            base_offset: last.end_offset(),
            base_index: last.index + 1,
            prev_term: last.term,
            prev_chain: last.crc,
            base_ts: last.base_ts,
            ..self.header
        })
    }

    fn with_header(header: SegmentHeader) -> SegmentBuilder {
        SegmentBuilder {
            bytes: header.encode(),
            header,
            frames: Vec::new(),
            last: None,
            digests: SealDigests::default(),
            proof: Proof::Both,
        }
    }

    pub fn push(&mut self, batch: Batch) {
        let base_offset = self.last.map_or(self.header.base_offset, |last| last.end_offset());
        let mut header = self.frame_header(FrameKind::Data, &batch.body, batch.base_ts);
        header.base_offset = base_offset;
        header.record_count = batch.record_count;
        header.max_ts_delta = batch.max_ts_delta;
        header.tables_len = batch.tables_len;
        header.topic_count = batch.topic_count;
        header.flags = batch.flags;
        header.kind = batch.kind;
        self.push_frame(Frame { header, body: batch.body });
    }

    pub fn seal(&mut self) {
        let last = self.last.unwrap();
        let seal = Seal {
            first_index: self.header.base_index,
            record_count: last.end_offset().0 - self.header.base_offset.0,
            frame_count: self.frames.len() as u64,
            ts_min: self.header.base_ts.max(self.first_ts()),
            ts_max: last.max_ts(),
            data_bytes: self.bytes.len() as u64,
            terms: vec![TermRun { first_index: self.header.base_index, term: TERM }],
            blocks: self.digests.blocks(),
        };
        let body = seal.encode().into();
        let mut header = self.frame_header(FrameKind::Seal, &body, last.base_ts);
        header.base_offset = last.end_offset();
        self.push_frame(Frame { header, body });
    }

    /// Appends a frame as given, with its header's checksum.
    pub fn push_frame(&mut self, frame: Frame) {
        let salt = self.header.salt();
        let start = self.bytes.len();
        frame.encode_into(salt, &mut self.bytes);
        let encoded = frame.header.encode(salt);
        self.digests.push(&encoded, &frame.body);
        self.frames.push(start..self.bytes.len());
        self.last = Some(FrameHeader::decode(&encoded, salt).unwrap());
    }

    /// Returns the header that the next frame with this body should have.
    pub fn frame_header(&self, kind: FrameKind, body: &bytes::Bytes, base_ts: u64) -> FrameHeader {
        let index = self.last.map_or(self.header.base_index, |last| last.index + 1);
        let is_synced = matches!(self.proof, Proof::Both | Proof::Synced);
        let is_committed = matches!(self.proof, Proof::Both | Proof::Committed);
        FrameHeader {
            crc: 0,
            body_len: body.len() as u32,
            body_crc: crc32c::crc32c(body),
            index,
            term: TERM,
            base_offset: self.last.map_or(self.header.base_offset, |last| last.end_offset()),
            base_ts,
            record_count: 0,
            max_ts_delta: 0,
            prev_chain: self.last.map_or(self.header.prev_chain, |last| last.crc),
            raw_len: body.len() as u32,
            commit_hint: if is_committed { index - 1 } else { 0 },
            tables_len: 0,
            flags: 0,
            kind,
            topic_count: 0,
            synced_bytes: if is_synced { self.bytes.len() as u64 } else { 0 },
        }
    }

    /// Returns the file, filled up with zeros as the broker leaves it.
    pub fn file(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(CAPACITY, 0);
        bytes
    }

    /// Returns where the frames end.
    pub fn end(&self) -> usize {
        self.bytes.len()
    }

    fn first_ts(&self) -> u64 {
        let first = &self.bytes[SEGMENT_HEADER_BYTES..];
        FrameHeader::decode(first, self.header.salt()).unwrap().base_ts
    }
}

/// Ten messages, a second after the batch before; number `n` has offsets `10 n` to `10 n + 9` and the payload `message <offset>`.
pub fn batch(number: u64) -> Batch {
    let ts = START_MS + number * 1000;
    let mut batch = BatchBuilder::new(ts);
    for message in 0..10 {
        let offset = number * 10 + message;
        let topic = match offset % 5 {
            0 => "$queue/orders/new".to_owned(),
            1 => "$queue/orders".to_owned(),
            2 => "$queue/orders-other".to_owned(),
            _ => format!("site/{}/temperature", offset % 3),
        };
        batch.push_message(&MessageRecord {
            topic: topic.as_bytes(),
            payload: format!("message {offset}").as_bytes(),
            qos: 1,
            ts: ts + message,
            ..Default::default()
        });
    }
    batch.finish()
}
