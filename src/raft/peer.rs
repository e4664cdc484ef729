//! Messages between the replicas of a partition, as bytes: an envelope of ours around what the library says.
//!
//! ```text
//! message  := u8 version | u8 kind | cluster [16] | u32 partition | u64 from | u64 to | life of the sender | body
//!             | u32 crc of all before
//! life     := u64 number | u64 draw
//! body     := kind 0: raft | kind 1, rejoin: u64 term, u64 last, u64 term of last, u8 is_muted
//!             | kind 2, welcome: u64 term, life of_life, life, u8 is_confirmed, u8 is_whole
//!             | kind 3, fetch: u64 index, u64 offset | kind 4, chunk: u64 index, u64 offset, bytes
//!             | kind 5, ask: range | kind 6, range: range, u64 term that the sender leads or 0, u8 answer, bytes
//! range    := u64 segment | u64 from | u64 skip | u64 to | u64 index | u32 chain
//! raft     := u8 type | u8 reject | u64 term | u64 log_term | u64 index | u64 commit | u64 commit_term | u64 reject_hint
//!             | u64 request_snapshot | i64 priority | bytes context | u32 count, entry* | snapshot, when the type says so
//! entry    := u8 type | u64 term | u64 index | bytes context | bytes data
//! snapshot := u64 index | u64 term | bytes members | bytes data
//! bytes    := u32 length | that many
//! ```
//!
//! Numbers are little-endian. A codec of our own and not the library's: nothing that a peer sends is parsed by code that may
//! recurse or allocate by what the sender claims, and bodies of frames are slices of what was received.

use bytes::{Buf, BufMut, Bytes};
use fluxmq_log::{Life, RangeAnswer, RangeRequest};
use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot};
use thiserror::Error;

use super::member::{Members, ReplicaId};

const VERSION: u8 = 2;
/// Bytes of an envelope before its body.
const HEAD_BYTES: usize = 54;
const CRC_BYTES: usize = 4;

/// Which partition of which cluster messages belong to, and whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) cluster: [u8; 16],
    pub(super) partition: u32,
    pub(super) me: ReplicaId,
    /// Which life of this replica speaks.
    pub(super) life: Life,
}

/// A message as it came.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Envelope {
    pub(super) from: ReplicaId,
    pub(super) life: Life,
    pub(super) body: Body,
}

/// What is in an envelope.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    /// What the library says.
    Raft(Box<Message>),
    /// To the leader, until it has answered: this life begins with a log up to `last`, an index and its term.
    Rejoin { term: u64, last: (u64, u64), is_muted: bool },
    /// The leader's answer to what a life said: `life` is the latest there is; that life may answer once a majority has confirmed the
    /// leader since, and vote once it is whole.
    Welcome { term: u64, of_life: Life, life: Life, is_confirmed: bool, is_whole: bool },
    /// Asks for the snapshot that was offered, from `offset` on.
    Fetch { index: u64, offset: u64 },
    /// Part of a snapshot.
    Chunk { index: u64, offset: u64, bytes: Bytes },
    /// Asks for part of a segment.
    Ask(RangeRequest),
    /// What the sender has of it, and the term in which it leads, if it does.
    Range { request: RangeRequest, answer: RangeAnswer, leads: u64 },
}

/// Why a peer's message is not taken. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// The bytes are not a message, or not the ones that were sent.
    #[error("message of {len} bytes is damaged")]
    Damaged {
        /// How many there are.
        len: usize,
    },
    /// Of a release that this one does not understand.
    #[error("message has version {version}; this release reads {VERSION}")]
    Version {
        /// Its version.
        version: u8,
    },
    /// Of another cluster or partition.
    #[error("message is for partition {partition} of cluster {cluster:02x?}")]
    Foreign {
        /// Whose it is.
        cluster: [u8; 16],
        /// Whose it is.
        partition: u32,
    },
    /// For another replica, or from one that it does not come from.
    #[error("message from replica {from} to replica {to} came to replica {me} from replica {via}")]
    Misdirected {
        /// Who wrote it.
        from: ReplicaId,
        /// For whom.
        to: ReplicaId,
        /// Who got it.
        me: ReplicaId,
        /// From whom.
        via: ReplicaId,
    },
    /// Of an earlier life of the replica that sent it: said before a crash, or by a disk that has forgotten a later one.
    #[error("replica {from} speaks in its life {life}; life {known} is known")]
    EarlierLife {
        /// Who.
        from: ReplicaId,
        /// Which life.
        life: Life,
        /// The latest one that was heard of.
        known: Life,
    },
    /// An answer of a replica that is not a member.
    #[error("replica {from} is not a member of the group")]
    NotMember {
        /// Who answers.
        from: ReplicaId,
    },
    /// Says what no honest replica can say.
    #[error("replica {from} sent {what} {value}, {limit} is the limit")]
    Impossible {
        /// Who.
        from: ReplicaId,
        /// Which field.
        what: &'static str,
        /// What it says.
        value: u64,
        /// What it may say at most.
        limit: u64,
    },
    /// Contradicts what is committed here: one of the two logs is not this group's.
    #[error("replica {from} has another entry at committed index {index}")]
    Diverged {
        /// Who.
        from: ReplicaId,
        /// Where.
        index: u64,
    },
}

/// Encodes a message to one replica.
pub(super) fn encode(address: &Address, to: ReplicaId, body: &Body) -> Bytes {
    let entry_bytes = |entry: &Entry| entry.data.len() + entry.context.len() + 32;
    let (kind, entries) = match body {
        Body::Raft(message) => (0, message.entries.iter().map(entry_bytes).sum::<usize>()),
        Body::Rejoin { .. } => (1, 0),
        Body::Welcome { .. } => (2, 0),
        Body::Fetch { .. } => (3, 0),
        Body::Chunk { bytes, .. } => (4, bytes.len()),
        Body::Ask(_) => (5, 0),
        Body::Range { answer: RangeAnswer::Bytes(bytes), .. } => (6, bytes.len()),
        Body::Range { .. } => (6, 0),
    };
    let mut out = Vec::with_capacity(HEAD_BYTES + 128 + entries);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_slice(&address.cluster);
    out.put_u32_le(address.partition);
    out.put_u64_le(address.me.0);
    out.put_u64_le(to.0);
    put_life(&mut out, address.life);
    match body {
        Body::Raft(message) => put_message(&mut out, message),
        Body::Rejoin { term, last, is_muted } => {
            out.put_u64_le(*term);
            out.put_u64_le(last.0);
            out.put_u64_le(last.1);
            out.put_u8(u8::from(*is_muted));
        }
        Body::Welcome { term, of_life, life, is_confirmed, is_whole } => {
            out.put_u64_le(*term);
            put_life(&mut out, *of_life);
            put_life(&mut out, *life);
            out.put_u8(u8::from(*is_confirmed));
            out.put_u8(u8::from(*is_whole));
        }
        Body::Fetch { index, offset } => {
            out.put_u64_le(*index);
            out.put_u64_le(*offset);
        }
        Body::Chunk { index, offset, bytes } => {
            out.put_u64_le(*index);
            out.put_u64_le(*offset);
            put_bytes(&mut out, bytes);
        }
        Body::Ask(request) => put_range(&mut out, request),
        Body::Range { request, answer, leads } => {
            put_range(&mut out, request);
            out.put_u64_le(*leads);
            put_answer(&mut out, answer);
        }
    }
    let crc = crc32c::crc32c(&out);
    out.put_u32_le(crc);
    Bytes::from(out)
}

/// Decodes a message that came from `via`.
pub(super) fn decode(
    address: &Address,
    via: ReplicaId,
    bytes: Bytes,
) -> Result<Envelope, PeerError> {
    let len = bytes.len();
    let damaged = || PeerError::Damaged { len };
    let body_end = len.checked_sub(CRC_BYTES).filter(|end| *end >= HEAD_BYTES);
    let (head, crc) = bytes.split_at(body_end.ok_or_else(damaged)?);
    if crc32c::crc32c(head).to_le_bytes() != crc {
        return Err(damaged());
    }
    let mut head = &head[..HEAD_BYTES];
    let (version, kind) = (head.get_u8(), head.get_u8());
    if version != VERSION {
        return Err(PeerError::Version { version });
    }
    let mut cluster = [0; 16];
    head.copy_to_slice(&mut cluster);
    let partition = head.get_u32_le();
    if (cluster, partition) != (address.cluster, address.partition) {
        return Err(PeerError::Foreign { cluster, partition });
    }
    let (from, to) = (ReplicaId(head.get_u64_le()), ReplicaId(head.get_u64_le()));
    if from != via || to != address.me || from == to || from.0 == 0 {
        return Err(PeerError::Misdirected { from, to, me: address.me, via });
    }
    let life = Life { number: head.get_u64_le(), draw: head.get_u64_le() };
    let mut input = bytes.slice(HEAD_BYTES..len - CRC_BYTES);
    let mut body = take_body(kind, &mut input).filter(|_| input.is_empty()).ok_or_else(damaged)?;
    if let Body::Raft(message) = &mut body {
        (message.from, message.to) = (from.0, to.0);
    }
    Ok(Envelope { from, life, body })
}

fn take_body(kind: u8, input: &mut Bytes) -> Option<Body> {
    Some(match kind {
        0 => Body::Raft(Box::new(take_message(input)?)),
        1 => Body::Rejoin {
            term: input.try_get_u64_le().ok()?,
            last: (input.try_get_u64_le().ok()?, input.try_get_u64_le().ok()?),
            is_muted: take_bool(input)?,
        },
        2 => Body::Welcome {
            term: input.try_get_u64_le().ok()?,
            of_life: take_life(input)?,
            life: take_life(input)?,
            is_confirmed: take_bool(input)?,
            is_whole: take_bool(input)?,
        },
        3 => Body::Fetch {
            index: input.try_get_u64_le().ok()?,
            offset: input.try_get_u64_le().ok()?,
        },
        4 => Body::Chunk {
            index: input.try_get_u64_le().ok()?,
            offset: input.try_get_u64_le().ok()?,
            bytes: take_bytes(input)?,
        },
        5 => Body::Ask(take_range(input)?),
        6 => Body::Range {
            request: take_range(input)?,
            leads: input.try_get_u64_le().ok()?,
            answer: take_answer(input)?,
        },
        _ => return None,
    })
}

fn put_life(out: &mut Vec<u8>, life: Life) {
    out.put_u64_le(life.number);
    out.put_u64_le(life.draw);
}

fn take_life(input: &mut Bytes) -> Option<Life> {
    Some(Life { number: input.try_get_u64_le().ok()?, draw: input.try_get_u64_le().ok()? })
}

fn put_range(out: &mut Vec<u8>, request: &RangeRequest) {
    let RangeRequest { segment_no, from_bytes, skip, to_bytes, index, chain } = *request;
    for number in [segment_no, from_bytes, skip, to_bytes, index] {
        out.put_u64_le(number);
    }
    out.put_u32_le(chain);
}

fn take_range(input: &mut Bytes) -> Option<RangeRequest> {
    Some(RangeRequest {
        segment_no: input.try_get_u64_le().ok()?,
        from_bytes: input.try_get_u64_le().ok()?,
        skip: input.try_get_u64_le().ok()?,
        to_bytes: input.try_get_u64_le().ok()?,
        index: input.try_get_u64_le().ok()?,
        chain: input.try_get_u32_le().ok()?,
    })
}

fn put_answer(out: &mut Vec<u8>, answer: &RangeAnswer) {
    let begun;
    let (kind, bytes): (u8, &[u8]) = match answer {
        RangeAnswer::Bytes(bytes) => (0, bytes),
        RangeAnswer::Damaged => (1, &[]),
        RangeAnswer::Absent => (2, &[]),
        RangeAnswer::Trimmed { begins } => {
            begun = begins.to_le_bytes();
            (3, &begun)
        }
        RangeAnswer::Diverged => (4, &[]),
        RangeAnswer::Unflushed => (5, &[]),
    };
    out.put_u8(kind);
    put_bytes(out, bytes);
}

fn take_answer(input: &mut Bytes) -> Option<RangeAnswer> {
    let kind = input.try_get_u8().ok()?;
    let bytes = take_bytes(input)?;
    Some(match kind {
        0 => RangeAnswer::Bytes(bytes.to_vec()),
        3 => RangeAnswer::Trimmed { begins: u64::from_le_bytes(bytes.as_ref().try_into().ok()?) },
        _ if !bytes.is_empty() => return None,
        1 => RangeAnswer::Damaged,
        2 => RangeAnswer::Absent,
        4 => RangeAnswer::Diverged,
        5 => RangeAnswer::Unflushed,
        _ => return None,
    })
}

fn take_bool(input: &mut Bytes) -> Option<bool> {
    match input.try_get_u8().ok()? {
        bit @ (0 | 1) => Some(bit == 1),
        _ => None,
    }
}

fn put_message(out: &mut Vec<u8>, message: &Message) {
    out.put_u8(message.get_msg_type() as u8);
    out.put_u8(u8::from(message.reject));
    for number in [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.request_snapshot,
    ] {
        out.put_u64_le(number);
    }
    out.put_i64_le(message.priority);
    put_bytes(out, &message.context);
    out.put_u32_le(message.entries.len() as u32);
    for entry in message.entries.iter() {
        out.put_u8(entry.get_entry_type() as u8);
        out.put_u64_le(entry.term);
        out.put_u64_le(entry.index);
        put_bytes(out, &entry.context);
        put_bytes(out, &entry.data);
    }
    if message.get_msg_type() == MessageType::MsgSnapshot {
        let snapshot = message.get_snapshot();
        out.put_u64_le(snapshot.get_metadata().index);
        out.put_u64_le(snapshot.get_metadata().term);
        put_bytes(out, &Members(snapshot.get_metadata().get_conf_state().clone()).encode());
        put_bytes(out, &snapshot.data);
    }
}

fn take_message(input: &mut Bytes) -> Option<Message> {
    let mut message = Message::default();
    message.set_msg_type(message_type(input.try_get_u8().ok()?)?);
    message.reject = take_bool(input)?;
    message.term = input.try_get_u64_le().ok()?;
    message.log_term = input.try_get_u64_le().ok()?;
    message.index = input.try_get_u64_le().ok()?;
    message.commit = input.try_get_u64_le().ok()?;
    message.commit_term = input.try_get_u64_le().ok()?;
    message.reject_hint = input.try_get_u64_le().ok()?;
    message.request_snapshot = input.try_get_u64_le().ok()?;
    message.priority = input.try_get_i64_le().ok()?;
    message.context = take_bytes(input)?;
    let count = input.try_get_u32_le().ok()?;
    let entries: Option<Vec<Entry>> = (0..count).map(|_| take_entry(input)).collect();
    message.set_entries(entries?.into());
    if message.get_msg_type() == MessageType::MsgSnapshot {
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = input.try_get_u64_le().ok()?;
        snapshot.mut_metadata().term = input.try_get_u64_le().ok()?;
        let members = Members::decode(&take_bytes(input)?).ok()?;
        snapshot.mut_metadata().set_conf_state(members.0);
        snapshot.data = take_bytes(input)?;
        message.set_snapshot(snapshot);
    }
    Some(message)
}

fn take_entry(input: &mut Bytes) -> Option<Entry> {
    let mut entry = Entry::default();
    entry.set_entry_type(match input.try_get_u8().ok()? {
        0 => EntryType::EntryNormal,
        2 => EntryType::EntryConfChangeV2,
        _ => return None,
    });
    entry.term = input.try_get_u64_le().ok()?;
    entry.index = input.try_get_u64_le().ok()?;
    entry.context = take_bytes(input)?;
    entry.data = take_bytes(input)?;
    Some(entry)
}

/// The types that replicas send one another. Nothing is forwarded, neither proposals nor reads nor transfers of leadership: whoever
/// asks is told who leads. The library panics when it is to forward what carries a term.
fn message_type(byte: u8) -> Option<MessageType> {
    const TYPES: [MessageType; 10] = [
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgSnapshot,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgTimeoutNow,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
    ];
    TYPES.into_iter().find(|known| *known as u8 == byte)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn take_bytes(input: &mut Bytes) -> Option<Bytes> {
    let len = input.try_get_u32_le().ok()? as usize;
    (len <= input.len()).then(|| input.split_to(len))
}
