//! Checks one segment, frame by frame, and collects what is doubtful.
//!
//! Whether a doubt is a torn tail or corruption is known only at the end: later frames may prove that what is missing was
//! durable.

use fluxmq_log::format::{
    BatchReader, FrameHeader, FrameKind, SEGMENT_HEADER_BYTES, Seal, SegmentHeader,
};

use crate::finding::Records;
use crate::link::Link;
use crate::scan::{Damage, Placed, Tail, is_unsupported};

/// Checks one segment, frame by frame.
pub(super) struct SegmentCheck {
    pub(super) link: Link,
    pub(super) frame_count: u64,
    pub(super) record_count: u64,
    pub(super) used_bytes: u64,
    pub(super) ts_min: Option<u64>,
    pub(super) ts_max: u64,
    pub(super) terms: Vec<(u64, u64)>,
    pub(super) first_index: u64,
    pub(super) is_sealed: bool,
    /// How much of the file intact frames say was synced.
    pub(super) synced_bytes: u64,
    /// Everything up to this index was durable, as the files beside the segments say.
    pub(super) proven_index: u64,
    /// Where the frames end.
    pub(super) tail_at: u64,
    /// The first byte behind them that is not zero, in a segment that gets no more frames.
    pub(super) stray: Option<u64>,
    pub(super) doubts: Vec<Doubt>,
}

/// Something wrong that is not judged yet.
pub(super) struct Doubt {
    pub(super) position: u64,
    pub(super) end: u64,
    /// The lowest index it may concern.
    index: u64,
    pub(super) what: String,
    pub(super) records: Records,
    /// Its header is intact: what it announces was written, whatever became of it.
    is_unsupported: bool,
}

impl SegmentCheck {
    pub(super) fn new(header: &SegmentHeader, proven_index: u64) -> SegmentCheck {
        SegmentCheck {
            link: Link::at_start(header),
            frame_count: 0,
            record_count: 0,
            used_bytes: 0,
            ts_min: None,
            ts_max: 0,
            terms: Vec::new(),
            first_index: header.base_index,
            is_sealed: false,
            synced_bytes: 0,
            proven_index,
            tail_at: SEGMENT_HEADER_BYTES as u64,
            stray: None,
            doubts: Vec::new(),
        }
    }

    pub(super) fn frame(&mut self, placed: &Placed) {
        let header = &placed.frame.header;
        self.settle_extent(header);
        if self.is_sealed {
            self.doubt_frame(placed, "a frame follows the seal".into());
        }
        if let Err(error) = self.link.check_frame(header) {
            self.doubt_frame(placed, error.to_string());
        }
        if let Some(defect) = placed.defect {
            self.doubt_frame(placed, defect.to_string());
            self.last_doubt().records = Records::None;
        }
        if header.commit_hint > header.index {
            let what =
                format!("commit index {} is above its own {}", header.commit_hint, header.index);
            self.doubt_frame(placed, what);
        }
        if header.synced_bytes > placed.position {
            let what = format!("claims {} bytes synced before it", header.synced_bytes);
            self.doubt_frame(placed, what);
        } else {
            self.synced_bytes = self.synced_bytes.max(header.synced_bytes);
        }
        if header.kind == FrameKind::Seal {
            self.seal(placed);
        } else {
            self.count(header);
            self.body(placed);
        }
        self.used_bytes = placed.position + header.frame_bytes();
        self.link = Link::after(header);
    }

    pub(super) fn damage(&mut self, damage: &Damage) {
        let (index, records) = match &damage.header {
            Some(header) => (header.index, records_of(header)),
            None => (self.link.index, Records::From { start: self.link.offset }),
        };
        self.doubts.push(Doubt {
            position: damage.position,
            end: damage.end,
            index,
            what: damage.error.to_string(),
            records,
            is_unsupported: is_unsupported(&damage.error),
        });
        self.link = match &damage.header {
            Some(header) => Link::after(header),
            None => self.link.loosened(),
        };
        if let Some(header) = &damage.header {
            self.count(header);
        }
        self.used_bytes = damage.end;
    }

    /// Notes what is behind the last frame. Bytes there mean nothing in a segment that is sealed, or that another follows.
    pub(super) fn end(&mut self, tail: &Tail, is_last: bool, file_bytes: u64) {
        self.tail_at = tail.position;
        self.stray = tail.stray.filter(|_| self.is_sealed || !is_last);
        if !is_last {
            return;
        }
        let is_short = tail.position < self.synced_bytes || self.link.index <= self.proven_index;
        let (what, end) = match tail.stray {
            Some(stray) if !self.is_sealed => {
                let what = format!("bytes that are no frame, the first at {stray}: {}", tail.error);
                (what, file_bytes)
            }
            _ if is_short => {
                let what = "frames that were durable are missing".to_owned();
                (what, self.synced_bytes.max(tail.position))
            }
            _ => return,
        };
        self.doubts.push(Doubt {
            position: tail.position,
            end,
            index: self.link.index,
            what,
            records: Records::From { start: self.link.offset },
            is_unsupported: false,
        });
    }

    /// Compares the end with what the manifest says of a segment that gets no more frames.
    pub(super) fn closed(&mut self, end_bytes: u64) {
        if self.tail_at != end_bytes {
            let tail_at = self.tail_at;
            self.doubts.push(Doubt {
                position: tail_at.min(end_bytes),
                end: tail_at.max(end_bytes),
                index: self.link.index,
                what: format!("frames end at {tail_at}, the manifest says {end_bytes}"),
                records: Records::From { start: self.link.offset },
                is_unsupported: false,
            });
        }
    }

    fn count(&mut self, header: &FrameHeader) {
        self.frame_count += 1;
        self.record_count += u64::from(header.record_count);
        self.ts_min = Some(self.ts_min.map_or(header.base_ts, |ts| ts.min(header.base_ts)));
        self.ts_max = self.ts_max.max(header.max_ts());
        if self.terms.last().is_none_or(|&(_, term)| term != header.term) {
            self.terms.push((header.index, header.term));
        }
    }

    /// Checks that the body reads as what the header says it is.
    fn body(&mut self, placed: &Placed) {
        let header = &placed.frame.header;
        let reader = match BatchReader::new(header, placed.frame.body.clone()) {
            Ok(reader) => reader,
            Err(error) => return self.doubt_frame(placed, error.to_string()),
        };
        let topic_count = reader.topics().len();
        if header.kind.has_records() && topic_count != usize::from(header.topic_count) {
            let what = format!("{topic_count} topics where {} are announced", header.topic_count);
            self.doubt_frame(placed, what);
        }
        if let Some(error) = reader.filter_map(Result::err).next() {
            self.doubt_frame(placed, error.to_string());
        }
    }

    fn seal(&mut self, placed: &Placed) {
        self.is_sealed = true;
        match Seal::decode(&placed.frame.body) {
            Err(error) => self.doubt_frame(placed, error.to_string()),
            Ok(seal) => {
                for (bytes, what) in self.compare(&seal, placed) {
                    self.doubt_frame(placed, what);
                    let doubt = self.last_doubt();
                    (doubt.position, doubt.end) = (bytes.start, bytes.end);
                }
            }
        }
    }

    /// Gives the records of a damage of unknown extent an end: an intact frame follows it.
    fn settle_extent(&mut self, next: &FrameHeader) {
        if let Some(doubt) = self.doubts.last_mut()
            && let Records::From { start } = doubt.records
        {
            let end = next.base_offset;
            doubt.records = if start < end { Records::Known { start, end } } else { Records::None };
        }
    }

    fn doubt_frame(&mut self, placed: &Placed, what: String) {
        let header = &placed.frame.header;
        let (position, end) = (placed.position, placed.position + header.frame_bytes());
        let (index, records) = (header.index, records_of(header));
        self.doubts.push(Doubt { position, end, index, what, records, is_unsupported: false });
    }

    fn last_doubt(&mut self) -> &mut Doubt {
        self.doubts.last_mut().expect("a doubt was just added")
    }

    /// Tells whether what is doubtful was once durable.
    pub(super) fn is_proven(&self, doubt: &Doubt) -> bool {
        let is_synced = doubt.position < self.synced_bytes;
        is_synced || doubt.index <= self.proven_index || doubt.is_unsupported
    }
}

fn records_of(header: &FrameHeader) -> Records {
    match header.record_count {
        0 => Records::None,
        _ => Records::Known { start: header.base_offset, end: header.end_offset() },
    }
}
