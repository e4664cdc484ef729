//! What a manifest says, edit by edit, and the state the edits add up to. Pure.
//!
//! ```text
//! frame := u32 len | u32 crc | u64 seq | edit*        len counts the edits; crc covers len, seq and the edits
//! edit  := u8 kind | fields, u64 each
//! ```
//!
//! One frame is written by one append and is applied whole or not at all.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq_index::Offset;

use crate::format::varint::{Input, u32_at, u64_at};
use crate::snapshot_store::{Origin, SnapshotAt};

const FRAME_HEAD_BYTES: usize = 16;
/// No append writes more: the cap on what a length may claim.
const FRAME_EDITS_BYTES_MAX: usize = 16 << 20;

/// One statement about the files of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// First edit of every manifest: whose files these are.
    Identity { cluster: [u8; 16], partition: u32 },
    /// The log begins after this entry.
    Base(SnapshotAt),
    /// A segment exists.
    Add { segment_no: u64 },
    /// A segment gets no more frames.
    Close(Closed),
    /// A segment's file may be removed.
    Drop { segment_no: u64 },
    /// A snapshot exists.
    AddSnapshot(SnapshotAt),
    /// A snapshot's file may be removed.
    DropSnapshot { index: u64 },
    /// Everything from here on is being zeroed, and later segments removed.
    Truncate(Truncation),
    /// It has been.
    Truncated,
    /// The log was replaced by a snapshot: no segment is left, and the log begins after it.
    Reset(SnapshotAt),
    /// How the first segment of a log that was reset begins, for as long as there is none.
    Origin(Origin),
}

/// Where a closed segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) segment_no: u64,
    /// Where the last frame begins.
    pub(crate) last_frame_at: u64,
    /// Where it ends.
    pub(crate) end_bytes: u64,
}

/// A cut that must be finished after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncation {
    pub(crate) segment_no: u64,
    /// Where the first frame to go begins.
    pub(crate) from_bytes: u64,
    /// Its header checksum: another frame there was written after the cut.
    pub(crate) chain: u32,
}

/// What the edits of a manifest add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ManifestState {
    pub(crate) identity: Option<([u8; 16], u32)>,
    pub(crate) base: SnapshotAt,
    pub(crate) origin: Option<Origin>,
    pub(crate) segments: BTreeMap<u64, Option<Closed>>,
    /// Segments whose files may be removed, and may be gone already.
    pub(crate) dropped: BTreeSet<u64>,
    pub(crate) snapshots: BTreeMap<u64, SnapshotAt>,
    pub(crate) truncation: Option<Truncation>,
}

impl ManifestState {
    pub(crate) fn apply(&mut self, edit: &Edit) {
        match *edit {
            Edit::Identity { cluster, partition } => self.identity = Some((cluster, partition)),
            Edit::Base(at) => self.base = at,
            Edit::Add { segment_no } => {
                self.dropped.remove(&segment_no);
                self.segments.insert(segment_no, None);
            }
            Edit::Close(closed) => {
                self.segments.insert(closed.segment_no, Some(closed));
            }
            Edit::Drop { segment_no } => {
                self.segments.remove(&segment_no);
                self.dropped.insert(segment_no);
            }
            Edit::AddSnapshot(at) => {
                self.snapshots.insert(at.index, at);
            }
            Edit::DropSnapshot { index } => {
                self.snapshots.remove(&index);
            }
            Edit::Truncate(truncation) => {
                let later = self.segments.split_off(&truncation.segment_no);
                self.dropped.extend(later.into_keys());
                // The segment itself stays, and gets frames again.
                self.dropped.remove(&truncation.segment_no);
                self.segments.insert(truncation.segment_no, None);
                self.truncation = Some(truncation);
            }
            Edit::Truncated => self.truncation = None,
            Edit::Reset(at) => {
                self.dropped.extend(std::mem::take(&mut self.segments).into_keys());
                self.snapshots.insert(at.index, at);
                self.base = at;
                self.origin = None;
            }
            Edit::Origin(origin) => self.origin = Some(origin),
        }
    }

    /// Returns edits that build the same state.
    pub(crate) fn to_edits(&self) -> Vec<Edit> {
        let mut edits = Vec::new();
        edits.extend(
            self.identity.map(|(cluster, partition)| Edit::Identity { cluster, partition }),
        );
        edits.push(Edit::Base(self.base));
        edits.extend(self.origin.map(Edit::Origin));
        for (segment_no, closed) in &self.segments {
            edits.push(match closed {
                Some(closed) => Edit::Close(*closed),
                None => Edit::Add { segment_no: *segment_no },
            });
        }
        edits.extend(self.dropped.iter().map(|segment_no| Edit::Drop { segment_no: *segment_no }));
        edits.extend(self.snapshots.values().map(|at| Edit::AddSnapshot(*at)));
        if let Some(truncation) = self.truncation {
            edits.push(Edit::Truncate(truncation));
        }
        edits
    }
}

/// Returns one frame.
pub(crate) fn encode_frame(seq: u64, edits: &[Edit]) -> Vec<u8> {
    let mut body = Vec::new();
    for edit in edits {
        encode_edit(edit, &mut body);
    }
    let len = u32::try_from(body.len()).expect("an append writes few edits").to_le_bytes();
    let crc = frame_crc(&len, seq, &body).to_le_bytes();
    [len.as_slice(), &crc, &seq.to_le_bytes(), &body].concat()
}

/// How a manifest ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ManifestEnd {
    /// With its last frame.
    Clean,
    /// With bytes that are no frame, and no frame after them: an append that a crash cut short.
    Torn,
    /// With bytes that are no frame, but frames after them: damage.
    Damaged,
}

/// What could be read of a manifest.
#[derive(Debug)]
pub(crate) struct ManifestRead {
    pub(crate) state: ManifestState,
    pub(crate) end_bytes: u64,
    pub(crate) next_seq: u64,
    pub(crate) end: ManifestEnd,
}

pub(crate) fn read_manifest(content: &[u8]) -> ManifestRead {
    let mut state = ManifestState::default();
    let mut position = 0;
    let mut next_seq = 1;
    while let Some((len, edits)) = decode_frame(&content[position..], |seq| seq == next_seq) {
        edits.iter().for_each(|edit| state.apply(edit));
        position += len;
        next_seq += 1;
    }
    let rest = &content[position..];
    let later = |seq: u64| seq > next_seq && seq - next_seq < 1 << 20;
    let end = if rest.is_empty() {
        ManifestEnd::Clean
    } else if (0..rest.len()).any(|at| decode_frame(&rest[at..], later).is_some()) {
        ManifestEnd::Damaged
    } else {
        ManifestEnd::Torn
    };
    ManifestRead { state, end_bytes: position as u64, next_seq, end }
}

/// Reads the frame at the start of `bytes`, if there is one with an acceptable sequence number.
fn decode_frame(bytes: &[u8], accept: impl Fn(u64) -> bool) -> Option<(usize, Vec<Edit>)> {
    if bytes.len() < FRAME_HEAD_BYTES {
        return None;
    }
    let len = u32_at(bytes, 0) as usize;
    let seq = u64_at(bytes, 8);
    if len > FRAME_EDITS_BYTES_MAX || !accept(seq) {
        return None;
    }
    let body = bytes.get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + len)?;
    if frame_crc(&bytes[0..4], seq, body) != u32_at(bytes, 4) {
        return None;
    }
    let mut input = Input::new(body);
    let mut edits = Vec::new();
    while input.remaining() > 0 {
        edits.push(decode_edit(&mut input)?);
    }
    Some((FRAME_HEAD_BYTES + len, edits))
}

fn frame_crc(len: &[u8], seq: u64, body: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(len), &seq.to_le_bytes());
    crc32c::crc32c_append(crc, body)
}

fn encode_edit(edit: &Edit, out: &mut Vec<u8>) {
    let mut put = |kind: u8, fields: &[u64]| {
        out.push(kind);
        fields.iter().for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
    };
    match *edit {
        Edit::Identity { cluster, partition } => {
            put(0, &[u64_at(&cluster, 0), u64_at(&cluster, 8), u64::from(partition)]);
        }
        Edit::Base(at) => put(1, &[at.index, at.term, at.end.0]),
        Edit::Add { segment_no } => put(2, &[segment_no]),
        Edit::Close(closed) => {
            put(3, &[closed.segment_no, closed.last_frame_at, closed.end_bytes]);
        }
        Edit::Drop { segment_no } => put(4, &[segment_no]),
        Edit::AddSnapshot(at) => put(5, &[at.index, at.term, at.end.0]),
        Edit::DropSnapshot { index } => put(6, &[index]),
        Edit::Truncate(cut) => put(7, &[cut.segment_no, cut.from_bytes, u64::from(cut.chain)]),
        Edit::Truncated => put(8, &[]),
        Edit::Reset(at) => put(9, &[at.index, at.term, at.end.0]),
        Edit::Origin(Origin { segment_no, prev_chain, capacity_bytes, base_ts }) => {
            put(10, &[segment_no, u64::from(prev_chain), capacity_bytes, base_ts]);
        }
    }
}

fn decode_edit(input: &mut Input<'_>) -> Option<Edit> {
    Some(match input.u8()? {
        0 => {
            let (low, high) = (input.u64()?, input.u64()?);
            let mut cluster = [0; 16];
            cluster[..8].copy_from_slice(&low.to_le_bytes());
            cluster[8..].copy_from_slice(&high.to_le_bytes());
            Edit::Identity { cluster, partition: u32::try_from(input.u64()?).ok()? }
        }
        1 => Edit::Base(decode_at(input)?),
        2 => Edit::Add { segment_no: input.u64()? },
        3 => Edit::Close(Closed {
            segment_no: input.u64()?,
            last_frame_at: input.u64()?,
            end_bytes: input.u64()?,
        }),
        4 => Edit::Drop { segment_no: input.u64()? },
        5 => Edit::AddSnapshot(decode_at(input)?),
        6 => Edit::DropSnapshot { index: input.u64()? },
        7 => Edit::Truncate(Truncation {
            segment_no: input.u64()?,
            from_bytes: input.u64()?,
            chain: u32::try_from(input.u64()?).ok()?,
        }),
        8 => Edit::Truncated,
        9 => Edit::Reset(decode_at(input)?),
        10 => Edit::Origin(Origin {
            segment_no: input.u64()?,
            prev_chain: u32::try_from(input.u64()?).ok()?,
            capacity_bytes: input.u64()?,
            base_ts: input.u64()?,
        }),
        _ => return None,
    })
}

fn decode_at(input: &mut Input<'_>) -> Option<SnapshotAt> {
    let (index, term) = (input.u64()?, input.u64()?);
    Some(SnapshotAt { index, term, end: Offset(input.u64()?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edits() -> Vec<Edit> {
        let at = SnapshotAt { index: 5, term: 2, end: Offset(70) };
        vec![
            Edit::Identity { cluster: *b"0123456789abcdef", partition: 4 },
            Edit::Base(at),
            Edit::Add { segment_no: 1 },
            Edit::Close(Closed { segment_no: 1, last_frame_at: 8192, end_bytes: 9000 }),
            Edit::Add { segment_no: 2 },
            Edit::Add { segment_no: 3 },
            Edit::Drop { segment_no: 1 },
            Edit::AddSnapshot(at),
            Edit::DropSnapshot { index: 5 },
            Edit::AddSnapshot(SnapshotAt { index: 6, ..at }),
            Edit::Origin(Origin { segment_no: 9, prev_chain: 8, capacity_bytes: 7, base_ts: 6 }),
            Edit::Truncate(Truncation { segment_no: 2, from_bytes: 4096, chain: 9 }),
        ]
    }

    fn manifest() -> (Vec<u8>, Vec<usize>) {
        let mut content = Vec::new();
        let mut ends = vec![0];
        for (number, edit) in edits().iter().enumerate() {
            content.extend(encode_frame(number as u64 + 1, &[*edit]));
            ends.push(content.len());
        }
        (content, ends)
    }

    #[test]
    fn edits_add_up_and_are_rebuilt_from_their_sum() {
        let read = read_manifest(&manifest().0);

        assert_eq!(read.end, ManifestEnd::Clean);
        assert_eq!(read.state.segments.keys().collect::<Vec<_>>(), [&2]);
        assert_eq!(read.state.snapshots.keys().collect::<Vec<_>>(), [&6]);
        let again = read_manifest(&encode_frame(1, &read.state.to_edits()));
        assert_eq!(again.state, read.state);
    }

    #[test]
    fn a_reset_leaves_no_segment() {
        let at = SnapshotAt { index: 50, term: 2, end: Offset(70) };
        let read = read_manifest(&encode_frame(1, &[Edit::Add { segment_no: 7 }, Edit::Reset(at)]));

        assert!(read.state.segments.is_empty());
        assert_eq!((read.state.base, read.state.snapshots.get(&50)), (at, Some(&at)));
    }

    #[test]
    fn a_cut_manifest_ends_torn_after_its_last_whole_frame() {
        let (content, ends) = manifest();
        for len in 0..content.len() {
            let read = read_manifest(&content[..len]);
            let whole = ends.iter().rev().find(|end| **end <= len).unwrap();
            assert_eq!(read.end_bytes, *whole as u64);
            let end = if *whole == len { ManifestEnd::Clean } else { ManifestEnd::Torn };
            assert_eq!(read.end, end, "cut at {len}");
        }
    }

    #[test]
    fn every_single_flipped_bit_is_detected() {
        let (content, ends) = manifest();
        let last = ends[ends.len() - 2];
        for bit in 0..content.len() * 8 {
            let mut flipped = content.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let end = if bit / 8 < last { ManifestEnd::Damaged } else { ManifestEnd::Torn };
            assert_eq!(read_manifest(&flipped).end, end, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(content in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_manifest(&content);
        }
    }
}
