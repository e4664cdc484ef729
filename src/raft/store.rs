//! The partition log as the Raft library reads it.

use std::cell::{Cell, OnceCell};

use bytes::Bytes;
use fluxmq_log::disk::Disk;
use fluxmq_log::format::frame::{Frame, FrameKind};
use fluxmq_log::{Entry as LogEntry, GivenSnapshot, Log, ReadError, SnapshotReadError};
use raft::eraftpb::{Entry, EntryType, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};
use thiserror::Error as ThisError;

use super::member::{Members, MembersError};
use super::transfer::Offer;

/// Bytes of the part of a frame's header that the proposer decides; it travels as the entry's context.
const CONTEXT_BYTES: usize = 33;

/// How much of the log is looked through at a time.
const SCAN_BYTES: u64 = 1 << 20;

/// Owns the log on behalf of the library.
pub(super) struct Store<D: Disk> {
    pub(super) log: Log<D>,
    pub(super) members: Members,
    /// Entries up to here were committed, whatever the hard state says: see [`committed`].
    pub(super) committed: u64,
    /// Why entries could not be read. The library panics on what it cannot explain, so it is told that there are none, and whoever
    /// called it looks here.
    pub(super) failed: OnceCell<ReadError>,
    /// The snapshot that the log begins after, while somebody fetches it.
    pub(super) offer: OnceCell<Offer>,
    /// How often somebody needed it, and it could not be given.
    pub(super) asked_in_vain: Cell<u32>,
}

impl<D: Disk> Storage for Store<D> {
    fn initial_state(&self) -> Result<RaftState> {
        let state = self.log.hard_state();
        let mut hard_state = HardState::default();
        hard_state.set_term(state.term);
        hard_state.set_vote(state.vote);
        // The commit position is written lazily: it may be older than what is known, and name more than a cut tail has left.
        hard_state.set_commit(state.commit.max(self.committed).min(self.log.last_index()));
        Ok(RaftState::new(hard_state, self.members.0.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low < self.log.first_index() {
            return Err(Error::Store(StorageError::Compacted));
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        match self.log.entries(low, high, bytes_max) {
            Ok(frames) => Ok(frames.into_iter().map(to_entry).collect()),
            Err(error) => {
                self.failed.get_or_init(|| error);
                match context.can_async() {
                    true => Err(Error::Store(StorageError::LogTemporarilyUnavailable)),
                    false => Ok(Vec::new()),
                }
            }
        }
    }

    fn term(&self, index: u64) -> Result<u64> {
        match index {
            0 => Ok(0),
            _ => self.log.term(index).ok_or(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.log.first_index())
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.log.last_index())
    }

    fn snapshot(&self, _request_index: u64, to: u64) -> Result<Snapshot> {
        if self.offer.get().is_none() {
            match self.make_offer() {
                Ok(offer) => drop(self.offer.set(offer)),
                Err(error) => {
                    let asked = self.asked_in_vain.get();
                    if asked == 0 {
                        tracing::error!(%error, to, "a replica cannot be brought to where the log begins");
                    }
                    self.asked_in_vain.set(asked + 1);
                }
            }
        }
        let offer = self.offer.get().map(|offer| offer.snapshot_for(to));
        offer.ok_or(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

/// Why a snapshot cannot be given away.
#[derive(Debug, ThisError)]
enum OfferError {
    #[error(transparent)]
    Read(#[from] SnapshotReadError),
    #[error(transparent)]
    Members(#[from] MembersError),
    #[error("the snapshot of entry {base}, which the log begins after, is not here")]
    Missing { base: u64 },
}

impl<D: Disk> Store<D> {
    /// Owns a log from here on, of a group of these members, committed up to there.
    pub(super) fn new(log: Log<D>, members: Members, committed: u64) -> Store<D> {
        let (failed, offer, asked_in_vain) = Default::default();
        Store { log, members, committed, failed, offer, asked_in_vain }
    }

    /// Reads the snapshot that the log begins after.
    fn make_offer(&self) -> std::result::Result<Offer, OfferError> {
        let missing = OfferError::Missing { base: self.log.base().index };
        let given = self.log.given_snapshot()?.ok_or(missing)?;
        let GivenSnapshot { at, origin: Some(origin), chunks: sections } = given else {
            return Err(OfferError::Missing { base: given.at.index });
        };
        Ok(Offer::new(at, origin, &sections)?)
    }
}

/// Returns up to where a log was committed for certain: up to `applied`, which a snapshot of the views holds, and up to the last but
/// one of the changes of members behind it.
///
/// A leader proposes a change once it has applied the one before, so whoever has the later one knew then that the earlier one was
/// committed. A restart may forget that, as the position is written lazily, and the group in which this replica stands for election
/// with it: with those who have left since it would be a majority of the old one, while the new one goes on without them.
pub(super) fn committed<D: Disk>(
    log: &Log<D>,
    applied: u64,
) -> std::result::Result<u64, ReadError> {
    let mut committed = applied.max(log.hard_state().commit.min(log.last_index()));
    let (mut next, mut latest) = ((committed + 1).max(log.first_index()), None);
    while next <= log.last_index() {
        for frame in log.entries(next, log.last_index() + 1, SCAN_BYTES)? {
            next = frame.header.index + 1;
            if frame.header.kind == FrameKind::ConfChange {
                committed = latest.replace(frame.header.index).unwrap_or(committed);
            }
        }
    }
    Ok(committed)
}

/// What a proposer decides about its frame; the log adds index, term, offset and chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) kind: FrameKind,
    pub(super) flags: u16,
    pub(super) base_ts: u64,
    pub(super) commit_hint: u64,
    pub(super) record_count: u32,
    pub(super) max_ts_delta: u32,
    pub(super) tables_len: u32,
    pub(super) topic_count: u16,
}

impl Context {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(CONTEXT_BYTES);
        out.push(self.kind.to_byte());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.base_ts.to_le_bytes());
        out.extend_from_slice(&self.commit_hint.to_le_bytes());
        out.extend_from_slice(&self.record_count.to_le_bytes());
        out.extend_from_slice(&self.max_ts_delta.to_le_bytes());
        out.extend_from_slice(&self.tables_len.to_le_bytes());
        out.extend_from_slice(&self.topic_count.to_le_bytes());
        Bytes::from(out)
    }

    fn decode(bytes: &[u8]) -> Option<Context> {
        let bytes: &[u8; CONTEXT_BYTES] = bytes.try_into().ok()?;
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let u16_at = |at: usize| u16::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        Some(Context {
            kind: FrameKind::from_byte(bytes[0])?,
            flags: u16_at(1),
            base_ts: u64_at(3),
            commit_hint: u64_at(11),
            record_count: u32_at(19),
            max_ts_delta: u32_at(23),
            tables_len: u32_at(27),
            topic_count: u16_at(31),
        })
    }
}

/// Turns an entry of the library into one for the log. An entry without context is the library's own: a new leader's empty one, or
/// a change of members. Its log time is that of the entry before it, which the log fills in: the same on every replica.
pub(super) fn to_log_entry(entry: &Entry) -> LogEntry {
    let own = Context {
        kind: match entry.get_entry_type() {
            EntryType::EntryNormal => FrameKind::Noop,
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => FrameKind::ConfChange,
        },
        flags: 0,
        base_ts: 0,
        commit_hint: 0,
        record_count: 0,
        max_ts_delta: 0,
        tables_len: 0,
        topic_count: 0,
    };
    let context = Context::decode(&entry.context).unwrap_or(own);
    LogEntry {
        index: entry.index,
        term: entry.term,
        kind: context.kind,
        flags: context.flags,
        base_ts: context.base_ts,
        commit_hint: context.commit_hint,
        record_count: context.record_count,
        max_ts_delta: context.max_ts_delta,
        tables_len: context.tables_len,
        topic_count: context.topic_count,
        body: entry.data.clone(),
    }
}

fn to_entry(frame: Frame) -> Entry {
    let header = &frame.header;
    let mut entry = Entry {
        index: header.index,
        term: header.term,
        data: frame.body.clone(),
        ..Entry::default()
    };
    match header.kind {
        FrameKind::ConfChange => entry.set_entry_type(EntryType::EntryConfChangeV2),
        FrameKind::Noop => {}
        FrameKind::Data | FrameKind::Control | FrameKind::Mixed | FrameKind::Seal => {
            let context = Context {
                kind: header.kind,
                flags: header.flags,
                base_ts: header.base_ts,
                commit_hint: header.commit_hint,
                record_count: header.record_count,
                max_ts_delta: header.max_ts_delta,
                tables_len: header.tables_len,
                topic_count: header.topic_count,
            };
            entry.context = context.encode();
        }
    }
    entry
}
