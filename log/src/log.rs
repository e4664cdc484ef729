//! The log of one partition: a chain of segments, the last one written, and what is in memory of them.
//!
//! Three positions, in this order: durable ≤ written ≤ last. [`Log::append`] only changes memory. A flush makes everything appended
//! durable, in line or in three steps around a syncer thread ([`flush`](crate::flush)). [`Log::write`] only hands it to the
//! operating system: a killed process loses nothing of it, a power cut may. What the files claim of themselves they claim of what
//! is durable, never of what is only written (ADR 0016).
//! Any failed write or sync poisons the log: the kernel may have dropped the pages, so there is never a second try.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use bytes::Bytes;
use fluxmq_index::Offset;

use crate::disk::Disk;
use crate::entry::{AppendError, Entry, SEGMENT_BYTES_LIMIT, SealDifference};
use crate::flush::OpenSegment;
use crate::format::{
    FLAG_ROLL, FRAME_BODY_BYTES_MAX, Frame, FrameHeader, FrameKind, RECORDS_PER_BATCH_MAX, Seal,
    SegmentHeader, TermRun, frame_bytes,
};
use crate::hard_state::{HardState, HardStateFile};
use crate::index_file::Indexes;
use crate::layout::{FileError, segment_path};
use crate::manifest::Manifest;
use crate::segment::{Segment, Tally, next_capacity, push_term};
use crate::snapshot_store::{Origin, SnapshotAt, SnapshotReadError};
use crate::spare::Spares;
use crate::sync_proof::SyncProof;

/// How a log is opened. All replicas of a partition must agree on everything but `cache_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The cluster; a log of another one is refused.
    pub cluster: [u8; 16],
    /// The partition; a log of another one is refused.
    pub partition: u32,
    /// Capacity of the first segment.
    pub segment_bytes_min: u64,
    /// Capacity at which segments stop doubling.
    pub segment_bytes_max: u64,
    /// How many bytes of recent frames stay in memory.
    pub cache_bytes: u64,
    /// What to do about damage at the end of the log that is no torn tail.
    pub tail_damage: TailDamage,
}

/// What to do when the last segment is damaged, or ends, below what was durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TailDamage {
    /// Refuse to open: nobody else has the data.
    #[default]
    Refuse,
    /// Cut from the damage on, because other replicas have what is cut. Until [`Log::must_reach`] says `None` the replica may
    /// neither campaign nor vote: it forgot entries that it may have acknowledged.
    CutAndRefetch,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            cluster: [0; 16],
            partition: 0,
            segment_bytes_min: 4 << 20,
            segment_bytes_max: 128 << 20,
            cache_bytes: 32 << 20,
            tail_damage: TailDamage::Refuse,
        }
    }
}

/// A point between two entries: everything up to `index`, which is everything before the offset `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The last entry before the point.
    pub index: u64,
    /// The offset of the next record.
    pub end: Offset,
}

/// Why a hard state was not saved.
#[derive(Debug, thiserror::Error)]
pub enum HardStateError {
    /// An earlier write or sync failed.
    #[error("log is poisoned by a failed write")]
    Poisoned,
    /// The disk failed; the log is poisoned.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a snapshot was not saved or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// An earlier write or sync failed.
    #[error("log is poisoned by a failed write")]
    Poisoned,
    /// A flush is outstanding; finish it first.
    #[error("a flush is in flight")]
    FlushInFlight,
    /// The snapshot is ahead of what is durable here.
    #[error("snapshot at index {index} is beyond the durable index {durable}")]
    NotDurable {
        /// The snapshot's index.
        index: u64,
        /// The durable index.
        durable: u64,
    },
    /// The snapshot to install is not ahead of the log.
    #[error("snapshot at index {index} is not beyond the last index {last}")]
    NotAhead {
        /// The snapshot's index.
        index: u64,
        /// The last index.
        last: u64,
    },
    /// The disk failed; the log is poisoned.
    #[error(transparent)]
    File(#[from] FileError),
    /// What was written does not read back.
    #[error(transparent)]
    Read(#[from] SnapshotReadError),
    /// There are snapshots, and every one of them is damaged; or there is none, and the log begins after one.
    #[error("none of the {count} snapshots can be read")]
    AllDamaged {
        /// How many there are.
        count: usize,
    },
}

/// What is known of one segment without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub segment_no: u64,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset after its last record.
    pub end_offset: Offset,
    /// Index of its first entry.
    pub base_index: u64,
    /// Index of its last entry.
    pub last_index: u64,
    /// Log time of its first frame, in milliseconds.
    pub base_ts: u64,
    /// Where its frames end in the file.
    pub end_bytes: u64,
    /// True when its last frame is a seal.
    pub is_sealed: bool,
    /// True when more frames may be appended to it.
    pub is_active: bool,
    /// The file, relative to the disk's root.
    pub path: PathBuf,
}

/// A frame in memory, and where it is or will be on disk.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) frame: Frame,
    pub(crate) segment_no: u64,
    pub(crate) position: u64,
}

/// Recent frames without a gap up to the last: what is not yet flushed, and as much before it as the cache may hold.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    pub(crate) frames: VecDeque<Placed>,
    pub(crate) bytes: u64,
}

impl Tail {
    pub(crate) fn evict(&mut self, durable: Position, cache_bytes: u64) {
        while self.bytes > cache_bytes
            && let Some(first) = self.frames.front()
            && first.frame.header.index <= durable.index
        {
            self.bytes -= first.frame.header.frame_bytes();
            self.frames.pop_front();
        }
    }

    pub(crate) fn truncate(&mut self, from_index: u64) {
        while let Some(last) = self.frames.back()
            && last.frame.header.index >= from_index
        {
            self.bytes -= last.frame.header.frame_bytes();
            self.frames.pop_back();
        }
    }
}

/// The write side's state between flushes.
pub(crate) struct Writer<D: Disk> {
    /// The file the last flush wrote to.
    pub(crate) open: Option<OpenSegment<D>>,
    /// What the outstanding flush will have made durable.
    pub(crate) in_flight: Option<Position>,
    pub(crate) is_poisoned: bool,
    pub(crate) spares: Spares,
}

/// The log of one partition.
pub struct Log<D: Disk> {
    pub(crate) disk: D,
    pub(crate) dir: PathBuf,
    pub(crate) options: LogOptions,
    pub(crate) hard_state: HardStateFile<D>,
    pub(crate) sync_proof: SyncProof<D>,
    /// Away while a flush that begins a segment is outstanding.
    pub(crate) manifest: Option<Manifest<D>>,
    /// Those the manifest lists, by index.
    pub(crate) snapshots: BTreeMap<u64, SnapshotAt>,
    /// Oldest first. Those after the writer's open file exist in memory only.
    pub(crate) segments: Vec<Segment>,
    /// Of the last segment.
    pub(crate) tally: Tally,
    pub(crate) terms: Vec<TermRun>,
    pub(crate) tail: Tail,
    /// Everything up to here is in the files, if only in the page cache.
    pub(crate) written: Position,
    /// Everything up to here is synced.
    pub(crate) durable: Position,
    /// Log time of the last record, or entry.
    pub(crate) last_ts: u64,
    pub(crate) writer: Writer<D>,
    pub(crate) damaged_snapshots: Vec<PathBuf>,
    /// How the first segment begins, while a log that was replaced by a snapshot has none.
    pub(crate) origin: Option<Origin>,
    pub(crate) indexes: Indexes,
}

impl<D: Disk> Log<D> {
    /// Appends one entry in memory, and returns the offset of its first record.
    ///
    /// The entry begins a new segment when it says so, when the log is empty, or when the last one was a seal; it then carries
    /// `FLAG_ROLL` whatever the caller gave. An entry without records whose time is too early gets the last one's time.
    pub fn append(&mut self, entry: Entry) -> Result<Offset, AppendError> {
        self.check_entry(&entry)?;
        let is_roll = entry.flags & FLAG_ROLL != 0
            || self.segments.last().is_none_or(|segment| segment.is_sealed);
        let base_ts = entry.base_ts.max(self.last_ts);
        if entry.kind == FrameKind::Seal && !is_roll {
            self.check_seal(&entry)?;
        }
        if is_roll {
            self.begin_segment(&entry, base_ts);
        }
        let segment = self.segments.last_mut().expect("an empty log rolls first");
        if segment.end_bytes + frame_bytes(entry.body.len()) > SEGMENT_BYTES_LIMIT {
            return Err(AppendError::SegmentFull { segment_no: segment.segment_no() });
        }
        let body_len = entry.body.len() as u32;
        let mut header = FrameHeader {
            crc: 0,
            body_len,
            body_crc: crc32c::crc32c(&entry.body),
            index: entry.index,
            term: entry.term,
            base_offset: segment.last.end,
            base_ts,
            record_count: entry.record_count,
            max_ts_delta: entry.max_ts_delta,
            prev_chain: segment.last_chain,
            raw_len: body_len,
            commit_hint: entry.commit_hint,
            tables_len: entry.tables_len,
            flags: if is_roll { entry.flags | FLAG_ROLL } else { entry.flags },
            kind: entry.kind,
            topic_count: entry.topic_count,
            synced_bytes: 0,
        };
        let encoded = header.encode(segment.salt);
        header.crc = u32::from_le_bytes([encoded[4], encoded[5], encoded[6], encoded[7]]);
        self.tally.push(&header, &encoded, &entry.body);
        push_term(&mut self.terms, header.index, header.term);
        self.last_ts = header.max_ts();
        self.tail.bytes += header.frame_bytes();
        self.tail.frames.push_back(Placed {
            frame: Frame { header, body: entry.body },
            segment_no: segment.segment_no(),
            position: segment.end_bytes,
        });
        segment.push(&header);
        Ok(header.base_offset)
    }

    /// Saves the hard state. Returns after it is synced when term or vote changed; a change of `commit` alone is lazy, and on
    /// disk never beyond what is durable here.
    pub fn save_hard_state(&mut self, state: HardState) -> Result<(), HardStateError> {
        if self.writer.is_poisoned {
            return Err(HardStateError::Poisoned);
        }
        let saved = self.hard_state.save(state, self.durable.index);
        self.writer.is_poisoned |= saved.is_err();
        Ok(saved?)
    }

    /// Notes on disk that everything durable is: to be called when nothing was appended for a while (50 ms), because no later
    /// frame proves it then. One sync, none when it is noted already.
    pub fn note_idle(&mut self) -> Result<(), HardStateError> {
        if self.writer.is_poisoned {
            return Err(HardStateError::Poisoned);
        }
        let saved = self.sync_proof.save(self.durable);
        self.writer.is_poisoned |= saved.is_err();
        Ok(saved?)
    }

    /// Returns whether the leader should seal the segment before an entry with a body of `next_body_len` bytes.
    pub fn should_roll(&self, next_body_len: usize) -> bool {
        let Some(segment) = self.segments.last() else { return false };
        let needed = frame_bytes(next_body_len) + segment.seal_bytes(&self.tally);
        !segment.is_sealed
            && !segment.is_empty()
            && segment.end_bytes + needed > segment.header.capacity_bytes
    }

    /// Returns the body of the seal frame that would close the active segment. Valid only as the very next entry. Panics when
    /// there is no active segment, or it is sealed.
    pub fn seal_body(&self) -> Bytes {
        let segment = self.segments.last().expect("only a segment can be sealed");
        assert!(!segment.is_sealed, "a segment is sealed once");
        Bytes::from(self.tally.seal(segment.end_bytes).encode())
    }

    /// Ends, and says what it was opened with. No flush may be running.
    pub fn into_parts(self) -> (D, PathBuf, LogOptions) {
        (self.disk, self.dir, self.options)
    }

    /// How the log was opened.
    pub fn options(&self) -> &LogOptions {
        &self.options
    }

    /// Returns the position after the last appended entry.
    pub fn last(&self) -> Position {
        self.segments.last().map_or_else(|| self.base().position(), |segment| segment.last)
    }

    /// Returns the position up to which everything survives the end of the process, and perhaps no power cut.
    pub fn written(&self) -> Position {
        self.written
    }

    /// Returns the position up to which everything survives a power cut.
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// Returns the index of the first entry that can be read.
    pub fn first_index(&self) -> u64 {
        self.base().index + 1
    }

    /// Returns the index of the last appended entry, or the one before the first when there is none.
    pub fn last_index(&self) -> u64 {
        self.last().index
    }

    /// Returns the offset of the first record that can be read.
    pub fn first_offset(&self) -> Offset {
        self.base().end
    }

    /// Returns the entry before the first: what a follower must already have to be given the first.
    pub fn base(&self) -> SnapshotAt {
        match (self.segments.first(), &self.manifest) {
            (Some(first), _) => SnapshotAt {
                index: first.header.base_index - 1,
                term: first.header.prev_term,
                end: first.header.base_offset,
            },
            (None, Some(manifest)) => manifest.state().base,
            (None, None) => unreachable!("the manifest is away only while there are segments"),
        }
    }

    /// Returns log time of the last record, or entry, in milliseconds: no later entry may be before it. So a frame that begins before a
    /// time has all records of that time or later in it or behind it.
    pub fn last_ts(&self) -> u64 {
        self.last_ts
    }

    /// Returns the term of an entry, also of the one before the first; `None` for all others.
    pub fn term(&self, index: u64) -> Option<u64> {
        let base = self.base();
        if index == base.index {
            return Some(base.term);
        }
        if index <= base.index || index > self.last_index() {
            return None;
        }
        let after = self.terms.partition_point(|run| run.first_index <= index);
        self.terms.get(after.checked_sub(1)?).map(|run| run.term)
    }

    /// Returns the hard state last saved.
    pub fn hard_state(&self) -> HardState {
        self.hard_state.state()
    }

    /// Returns the index the log must reach before this replica may campaign or vote, because recovery cut entries that it may
    /// have acknowledged ([`TailDamage::CutAndRefetch`]). Survives restarts until it is reached.
    pub fn must_reach(&self) -> Option<u64> {
        let index = self.sync_proof.must_reach();
        (index > self.durable.index).then_some(index)
    }

    /// Returns true after a failed write or sync: nothing can be appended, flushed or saved any more.
    pub fn is_poisoned(&self) -> bool {
        self.writer.is_poisoned
    }

    /// Returns what is known of the segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let info = |(number, segment): (usize, &Segment)| SegmentInfo {
            segment_no: segment.segment_no(),
            base_offset: segment.header.base_offset,
            end_offset: segment.last.end,
            base_index: segment.header.base_index,
            last_index: segment.last.index,
            base_ts: segment.header.base_ts,
            end_bytes: segment.end_bytes,
            is_sealed: segment.is_sealed,
            is_active: number + 1 == self.segments.len() && !segment.is_sealed,
            path: segment_path(&self.dir, segment.segment_no()),
        };
        self.segments.iter().enumerate().map(info).collect()
    }

    fn check_entry(&self, entry: &Entry) -> Result<(), AppendError> {
        if self.writer.is_poisoned {
            return Err(AppendError::Poisoned);
        }
        let last = self.last_index();
        if entry.index != last + 1 {
            return Err(AppendError::Index { index: entry.index, last });
        }
        let term = self.term(last).expect("the last entry has a term");
        if entry.term < term {
            return Err(AppendError::Term { term: entry.term, last: term });
        }
        if entry.kind.has_records() && entry.base_ts < self.last_ts {
            return Err(AppendError::Time { base_ts: entry.base_ts, last: self.last_ts });
        }
        if entry.body.len() > FRAME_BODY_BYTES_MAX {
            return Err(AppendError::TooLong { len: entry.body.len() });
        }
        let records_max = if entry.kind.has_records() { RECORDS_PER_BATCH_MAX } else { 0 };
        if entry.record_count > records_max {
            let Entry { kind, record_count, .. } = *entry;
            return Err(AppendError::Records { kind, record_count });
        }
        Ok(())
    }

    /// Compares a seal with the segment it closes. A segment that began with a snapshot here has other frames than the
    /// leader's, and takes the seal as it is.
    fn check_seal(&self, entry: &Entry) -> Result<(), AppendError> {
        let segment = self.segments.last().expect("a seal closes a segment");
        let theirs = Seal::decode(&entry.body)?;
        if theirs.first_index != segment.header.base_index {
            return Ok(());
        }
        let ours = self.tally.seal(segment.end_bytes);
        let difference = if (Seal { blocks: Vec::new(), ..ours.clone() })
            != (Seal { blocks: Vec::new(), ..theirs.clone() })
            || ours.blocks.len() != theirs.blocks.len()
        {
            SealDifference::Counts
        } else {
            let mut blocks = ours.blocks.iter().zip(&theirs.blocks);
            match blocks.position(|(ours, theirs)| ours != theirs) {
                Some(number) => SealDifference::Block { number },
                None => return Ok(()),
            }
        };
        Err(AppendError::SealMismatch { segment_no: segment.segment_no(), difference })
    }

    fn begin_segment(&mut self, entry: &Entry, base_ts: u64) {
        let previous = self.segments.last();
        let last = self.last();
        let origin = self.origin.filter(|_| previous.is_none());
        let header = SegmentHeader {
            flags: 0,
            cluster: self.options.cluster,
            partition: self.options.partition,
            segment_no: previous.map_or(origin.map_or(0, |origin| origin.segment_no), |segment| {
                segment.segment_no() + 1
            }),
            base_offset: last.end,
            base_index: last.index + 1,
            prev_term: self.term(last.index).expect("the last entry has a term"),
            prev_chain: previous
                .map_or(origin.map_or(0, |origin| origin.prev_chain), |segment| segment.last_chain),
            capacity_bytes: match origin {
                Some(origin) => origin.capacity_bytes,
                None => next_capacity(
                    previous.map(|segment| segment.header.capacity_bytes),
                    frame_bytes(entry.body.len()),
                    self.options.segment_bytes_min,
                    self.options.segment_bytes_max,
                ),
            },
            base_ts,
        };
        self.tally = Tally::new(header.base_index);
        self.segments.push(Segment::new(header));
    }
}
