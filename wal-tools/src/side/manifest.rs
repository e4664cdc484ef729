//! The manifest: which segments and snapshots there are, as a file of edits.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq_index::Offset;
use fluxmq_log::format::varint::Input;

use crate::scan::Placed;

const FRAME_HEAD_BYTES: usize = 16;
/// Behind damage, an intact frame's sequence number is at most so much higher.
const SEQ_GAP_MAX: u64 = 1 << 20;

/// What the edits of a manifest add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The segments there should be, and where the closed ones end.
    pub segments: BTreeMap<u64, Option<u64>>,
    /// The segments whose files may be there still.
    pub dropped: BTreeSet<u64>,
    /// Indexes of the snapshots there should be.
    pub snapshots: BTreeSet<u64>,
    /// The entry before the first.
    pub base: Base,
    /// A cut that is not finished.
    pub truncation: Option<Truncation>,
    /// Where the last intact frame ends.
    pub end_bytes: usize,
    /// What follows it.
    pub end: End,
}

/// The point at which a log begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// The last entry before the log.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The first offset of the log.
    pub offset: Offset,
}

/// A cut that the broker finishes when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// In which segment.
    pub segment_no: u64,
    /// Everything from here on is being zeroed.
    pub from_bytes: u64,
    /// Header checksum of the frame that was there: another one was written after the cut.
    pub chain: u64,
}

/// What follows the last intact frame of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing.
    Clean,
    /// Bytes that are no frame.
    Torn,
    /// Bytes that are no frame, and frames behind them.
    Damaged,
}

impl Truncation {
    /// Tells by a frame of its segment that the cut was finished, and the place used again.
    pub fn is_over(&self, placed: &Placed) -> bool {
        placed.position == self.from_bytes && u64::from(placed.frame.header.crc) != self.chain
    }
}

impl Manifest {
    /// Reads a manifest up to the first frame that is not intact.
    pub fn read(content: &[u8]) -> Manifest {
        let mut manifest = Manifest {
            segments: BTreeMap::new(),
            dropped: BTreeSet::new(),
            snapshots: BTreeSet::new(),
            base: Base::default(),
            truncation: None,
            end_bytes: 0,
            end: End::Clean,
        };
        let mut next_seq = 1;
        while let Some((seq, edits)) = frame(&content[manifest.end_bytes..])
            && seq == next_seq
            && manifest.apply(edits).is_some()
        {
            manifest.end_bytes += FRAME_HEAD_BYTES + edits.len();
            next_seq += 1;
        }
        let rest = &content[manifest.end_bytes..];
        let is_later = |seq| seq > next_seq && seq - next_seq < SEQ_GAP_MAX;
        let has_later = |at| frame(&rest[at..]).is_some_and(|(seq, _)| is_later(seq));
        manifest.end = if rest.is_empty() {
            End::Clean
        } else if (0..rest.len()).any(has_later) {
            End::Damaged
        } else {
            End::Torn
        };
        manifest
    }

    /// Applies the edits of one frame; `None` if they do not read as edits.
    fn apply(&mut self, edits: &[u8]) -> Option<()> {
        let mut changed = self.clone();
        let mut input = Input::new(edits);
        while input.remaining() > 0 {
            changed.apply_one(&mut input)?;
        }
        *self = changed;
        Some(())
    }

    fn apply_one(&mut self, input: &mut Input<'_>) -> Option<()> {
        let kind = input.u8()?;
        let field_count = match kind {
            0 | 1 | 3 | 5 | 7 | 9 => 3,
            2 | 4 | 6 => 1,
            8 => 0,
            10 => 4,
            _ => return None,
        };
        let mut fields = [0; 4];
        for field in &mut fields[..field_count] {
            *field = input.u64()?;
        }
        let [first, second, third, _] = fields;
        let base = Base { index: first, term: second, offset: Offset(third) };
        match kind {
            1 => self.base = base,
            2 => {
                self.dropped.remove(&first);
                self.segments.insert(first, None);
            }
            3 => {
                self.segments.insert(first, Some(third));
            }
            4 => {
                self.segments.remove(&first);
                self.dropped.insert(first);
            }
            5 => {
                self.snapshots.insert(first);
            }
            6 => {
                self.snapshots.remove(&first);
            }
            7 => {
                self.dropped.extend(self.segments.split_off(&first).into_keys());
                self.dropped.remove(&first);
                self.segments.insert(first, None);
                let cut = Truncation { segment_no: first, from_bytes: second, chain: third };
                self.truncation = Some(cut);
            }
            8 => self.truncation = None,
            9 => {
                self.dropped.extend(std::mem::take(&mut self.segments).into_keys());
                self.snapshots.insert(first);
                self.base = base;
            }
            // Whose files they are: the segments say that themselves.
            _ => {}
        }
        Some(())
    }
}

/// Returns sequence number and edits of the frame at the start of `bytes`.
fn frame(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut input = Input::new(bytes);
    let (len, crc, seq) = (input.u32()?, input.u32()?, input.u64()?);
    let edits = input.take(len as usize)?;
    let computed = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..16]);
    (crc32c::crc32c_append(computed, edits) == crc).then_some((seq, edits))
}
