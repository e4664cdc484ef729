//! Everything that can be said in a partition's log.
//!
//! A record is a message or a control. Messages have the log's own layout (`fluxmq_log::format::batch`); a control is an opcode and
//! a body of varints and length-prefixed bytes, written here. Opcodes are never reused; a reader that meets one it does not know
//! refuses the partition rather than guess.

use bytes::Bytes;
use fluxmq_index::Offset;
use thiserror::Error;

use super::command::RetainHandling;
use super::{Filter, Millis, PartitionId, QoS};
pub use fluxmq_log::format::batch::Retain;
use fluxmq_log::format::varint::{self, Input};

/// A message as its record has it. Cloning shares the bytes of its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Where it was published.
    pub topic: Bytes,
    /// The body.
    pub payload: Bytes,
    /// Encoded [`Properties`](super::Properties).
    pub properties: Bytes,
    /// As published.
    pub qos: QoS,
    /// Whether it replaces or clears the topic's retained message.
    pub retain: Retain,
    /// Log time, milliseconds since the epoch.
    pub time: Millis,
    /// Seconds from `time` until it must not be delivered any more.
    pub expiry_s: Option<u32>,
    /// Who published; 0 is nobody.
    pub publisher: u64,
    /// For a QoS 2 publish of a persistent session: its incarnation and packet id. Packet id 0 is none.
    pub dedup: (u32, u16),
}

impl StoredMessage {
    /// Returns true when it must not be delivered at `now` any more.
    pub fn is_expired(&self, now: Millis) -> bool {
        self.expires_at().is_some_and(|at| at <= now)
    }

    /// Returns when it expires, if it does.
    pub fn expires_at(&self) -> Option<Millis> {
        self.expiry_s.map(|seconds| self.time.plus(u64::from(seconds) * 1000))
    }
}

/// One record as the views see it.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// A message, and the queues it was routed to when it was appended.
    Message(&'a StoredMessage, &'a [u64]),
    /// A change of state.
    Control(&'a Control),
}

/// One change of state beside messages. Times are the log time of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// A queue exists from here on; its id is [`queue_id`] of its name.
    QueueDeclared {
        /// Its name.
        name: Bytes,
    },
    /// A consumer group exists from here on.
    GroupCreated {
        /// The queue's id.
        queue: u64,
        /// The group's name.
        group: Bytes,
        /// Queue offset at which it begins.
        start: Offset,
    },
    /// Entries of a queue ended for one group. Queue offsets.
    Settled {
        /// The queue's id.
        queue: u64,
        /// The group's name.
        group: Bytes,
        /// Finished, as `(first, count)`.
        finished: Vec<(Offset, u64)>,
        /// To be delivered again; each counts one more delivery.
        released: Vec<Offset>,
    },
    /// A group's committed position was set; everything below is finished.
    CursorSet {
        /// The queue's id.
        queue: u64,
        /// The group's name.
        group: Bytes,
        /// Queue offset.
        to: Offset,
    },
    /// A connection opened a persistent session; the record's own offset is the session's epoch.
    SessionOpened {
        /// Names the session.
        client_id: Bytes,
        /// True discards the earlier state.
        clean: bool,
        /// Seconds it outlives its connection.
        expiry_s: u32,
    },
    /// The connection of a session ended; its expiry runs from here.
    SessionClosed {
        /// Names the session.
        client_id: Bytes,
        /// Of the connection that ended; an older one than the session's says nothing.
        epoch: Offset,
        /// Replaces the session's expiry. 0 removes the session.
        expiry_s: u32,
    },
    /// A session's time ran out, or its client wanted a clean one.
    SessionRemoved {
        /// Names the session.
        client_id: Bytes,
        /// As in `SessionClosed`.
        epoch: Offset,
    },
    /// A session subscribed.
    Subscribed {
        /// Names the session.
        client_id: Bytes,
        /// What.
        subscription: Subscription,
        /// From where on, for every partition that may hold a match.
        starts: Vec<(PartitionId, Offset)>,
    },
    /// A session unsubscribed.
    Unsubscribed {
        /// Names the session.
        client_id: Bytes,
        /// Exactly as subscribed.
        filter: Filter,
    },
    /// How far a session has come.
    SessionProgress(SessionProgress),
    /// Packet ids of QoS 2 publishes are free again.
    Released {
        /// Who published.
        publisher: u64,
        /// The session's incarnation.
        incarnation: u32,
        /// The ids.
        packet_ids: Vec<u16>,
    },
    /// The number of data partitions, fixed at the first start (meta partition only).
    PartitionsFixed {
        /// How many.
        count: u16,
    },
}

/// How far a session has come; every part adds to what was said before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionProgress {
    /// Names the session.
    pub client_id: Bytes,
    /// As in `SessionClosed`.
    pub epoch: Offset,
    /// Matching records below these are settled or among the outbound.
    pub cursors: Vec<(PartitionId, Offset)>,
    /// Sent, or about to be, under these packet ids.
    pub assigned: Vec<OutboundEntry>,
    /// QoS 2 packet ids whose PUBREC has come.
    pub received: Vec<u16>,
    /// Packet ids that are settled.
    pub done: Vec<u16>,
}

/// One delivery that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundEntry {
    /// The number it was sent under.
    pub packet_id: u16,
    /// Where the record is.
    pub partition: PartitionId,
    /// Its position there.
    pub offset: Offset,
    /// The delivery's.
    pub qos: QoS,
    /// The RETAIN flag it was sent with.
    pub retain: bool,
    /// True once PUBREC has come (QoS 2).
    pub received: bool,
}

/// A stored subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// As the client wrote it, prefixes included.
    pub filter: Filter,
    /// The most the client wants.
    pub qos: QoS,
    /// Not what this client itself published.
    pub no_local: bool,
    /// Keep the RETAIN flag.
    pub retain_as_published: bool,
    /// When retained messages come.
    pub retain_handling: RetainHandling,
    /// 0 is none.
    pub subscription_id: u32,
    /// The consumer group it asked for, for queues.
    pub group: Option<Bytes>,
    /// True when only `$ack` and its kin settle.
    pub settle_explicit: bool,
}

/// Why a control cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// Written by a newer release.
    #[error("control opcode {0} is unknown to this release")]
    UnknownOpcode(u8),
    /// Its checksum was right and its content is not: a defect of the writer.
    #[error("control with opcode {0} is malformed")]
    Malformed(u8),
}

/// Returns the id of the queue with this name: the same everywhere, needing no counter.
pub fn queue_id(name: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(name, 0x7175_6575)
}

impl Control {
    /// The opcode, as `wal-tools dump` shows it.
    pub fn opcode(&self) -> u8 {
        match self {
            Control::QueueDeclared { .. } => 1,
            Control::GroupCreated { .. } => 2,
            Control::Settled { .. } => 3,
            Control::CursorSet { .. } => 4,
            Control::SessionOpened { .. } => 5,
            Control::SessionClosed { .. } => 6,
            Control::SessionRemoved { .. } => 7,
            Control::Subscribed { .. } => 8,
            Control::Unsubscribed { .. } => 9,
            Control::SessionProgress(_) => 10,
            Control::Released { .. } => 11,
            Control::PartitionsFixed { .. } => 12,
        }
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Control::QueueDeclared { name } => put_bytes(out, name),
            Control::GroupCreated { queue, group, start } => {
                out.extend_from_slice(&queue.to_le_bytes());
                put_bytes(out, group);
                varint::put(out, start.0);
            }
            Control::Settled { queue, group, finished, released } => {
                out.extend_from_slice(&queue.to_le_bytes());
                put_bytes(out, group);
                put_list(out, finished, |out, (first, count)| {
                    varint::put(out, first.0);
                    varint::put(out, *count);
                });
                put_list(out, released, |out, offset| varint::put(out, offset.0));
            }
            Control::CursorSet { queue, group, to } => {
                out.extend_from_slice(&queue.to_le_bytes());
                put_bytes(out, group);
                varint::put(out, to.0);
            }
            Control::SessionOpened { client_id, clean, expiry_s } => {
                put_bytes(out, client_id);
                out.push(u8::from(*clean));
                varint::put(out, u64::from(*expiry_s));
            }
            Control::SessionClosed { client_id, epoch, expiry_s } => {
                put_bytes(out, client_id);
                varint::put(out, epoch.0);
                varint::put(out, u64::from(*expiry_s));
            }
            Control::SessionRemoved { client_id, epoch } => {
                put_bytes(out, client_id);
                varint::put(out, epoch.0);
            }
            Control::Subscribed { client_id, subscription, starts } => {
                put_bytes(out, client_id);
                put_subscription(out, subscription);
                put_list(out, starts, put_position);
            }
            Control::Unsubscribed { client_id, filter } => {
                put_bytes(out, client_id);
                put_bytes(out, filter.as_bytes());
            }
            Control::SessionProgress(progress) => put_progress(out, progress),
            Control::Released { publisher, incarnation, packet_ids } => {
                out.extend_from_slice(&publisher.to_le_bytes());
                varint::put(out, u64::from(*incarnation));
                put_list(out, packet_ids, |out, id| varint::put(out, u64::from(*id)));
            }
            Control::PartitionsFixed { count } => varint::put(out, u64::from(*count)),
        }
    }

    /// Reads what [`encode`](Control::encode) wrote.
    pub fn decode(opcode: u8, body: &Bytes) -> Result<Control, ControlError> {
        if !(1..=12).contains(&opcode) {
            return Err(ControlError::UnknownOpcode(opcode));
        }
        let mut input = Source { input: Input::new(body), whole: body };
        let control = take_control(opcode, &mut input);
        control.filter(|_| input.input.remaining() == 0).ok_or(ControlError::Malformed(opcode))
    }
}

/// What is left of a body; byte strings are slices of it.
struct Source<'a> {
    input: Input<'a>,
    whole: &'a Bytes,
}

fn take_bytes(input: &mut Source<'_>) -> Option<Bytes> {
    input.input.take_prefixed().map(|range| input.whole.slice(range))
}

fn take_control(opcode: u8, input: &mut Source<'_>) -> Option<Control> {
    Some(match opcode {
        1 => Control::QueueDeclared { name: take_bytes(input)? },
        2 => Control::GroupCreated {
            queue: input.input.u64()?,
            group: take_bytes(input)?,
            start: Offset(input.input.varint()?),
        },
        3 => Control::Settled {
            queue: input.input.u64()?,
            group: take_bytes(input)?,
            finished: take_list(input, |input| {
                Some((Offset(input.input.varint()?), input.input.varint()?))
            })?,
            released: take_list(input, |input| Some(Offset(input.input.varint()?)))?,
        },
        4 => Control::CursorSet {
            queue: input.input.u64()?,
            group: take_bytes(input)?,
            to: Offset(input.input.varint()?),
        },
        5 => Control::SessionOpened {
            client_id: take_bytes(input)?,
            clean: take_flag(input)?,
            expiry_s: take_u32(input)?,
        },
        6 => Control::SessionClosed {
            client_id: take_bytes(input)?,
            epoch: Offset(input.input.varint()?),
            expiry_s: take_u32(input)?,
        },
        7 => Control::SessionRemoved {
            client_id: take_bytes(input)?,
            epoch: Offset(input.input.varint()?),
        },
        8 => Control::Subscribed {
            client_id: take_bytes(input)?,
            subscription: take_subscription(input)?,
            starts: take_list(input, take_position)?,
        },
        9 => Control::Unsubscribed {
            client_id: take_bytes(input)?,
            filter: Filter::new(take_bytes(input)?).ok()?,
        },
        10 => Control::SessionProgress(take_progress(input)?),
        11 => Control::Released {
            publisher: input.input.u64()?,
            incarnation: take_u32(input)?,
            packet_ids: take_list(input, take_u16)?,
        },
        12 => Control::PartitionsFixed { count: take_u16(input)? },
        _ => return None,
    })
}

fn put_progress(out: &mut Vec<u8>, progress: &SessionProgress) {
    put_bytes(out, &progress.client_id);
    varint::put(out, progress.epoch.0);
    put_list(out, &progress.cursors, put_position);
    put_list(out, &progress.assigned, |out, entry| {
        varint::put(out, u64::from(entry.packet_id));
        put_position(out, &(entry.partition, entry.offset));
        let flags = u8::from(entry.retain) << 2 | u8::from(entry.received) << 3;
        out.push(entry.qos as u8 | flags);
    });
    put_list(out, &progress.received, |out, id| varint::put(out, u64::from(*id)));
    put_list(out, &progress.done, |out, id| varint::put(out, u64::from(*id)));
}

fn take_progress(input: &mut Source<'_>) -> Option<SessionProgress> {
    Some(SessionProgress {
        client_id: take_bytes(input)?,
        epoch: Offset(input.input.varint()?),
        cursors: take_list(input, take_position)?,
        assigned: take_list(input, |input| {
            let packet_id = take_u16(input)?;
            let (partition, offset) = take_position(input)?;
            let bits = input.input.u8()?;
            Some(OutboundEntry {
                packet_id,
                partition,
                offset,
                qos: QoS::from_bits(bits & 3)?,
                retain: bits & 4 != 0,
                received: bits & 8 != 0,
            })
        })?,
        received: take_list(input, take_u16)?,
        done: take_list(input, take_u16)?,
    })
}

fn put_subscription(out: &mut Vec<u8>, subscription: &Subscription) {
    put_bytes(out, subscription.filter.as_bytes());
    let handling = match subscription.retain_handling {
        RetainHandling::Send => 0,
        RetainHandling::SendIfNew => 1,
        RetainHandling::DontSend => 2,
    };
    let flags = u8::from(subscription.no_local) << 2
        | u8::from(subscription.retain_as_published) << 3
        | handling << 4
        | u8::from(subscription.settle_explicit) << 6
        | u8::from(subscription.group.is_some()) << 7;
    out.push(subscription.qos as u8 | flags);
    varint::put(out, u64::from(subscription.subscription_id));
    if let Some(group) = &subscription.group {
        put_bytes(out, group);
    }
}

fn take_subscription(input: &mut Source<'_>) -> Option<Subscription> {
    let filter = Filter::new(take_bytes(input)?).ok()?;
    let bits = input.input.u8()?;
    Some(Subscription {
        filter,
        qos: QoS::from_bits(bits & 3)?,
        no_local: bits & 4 != 0,
        retain_as_published: bits & 8 != 0,
        retain_handling: match (bits >> 4) & 3 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DontSend,
            _ => return None,
        },
        subscription_id: take_u32(input)?,
        settle_explicit: bits & 0x40 != 0,
        group: if bits & 0x80 == 0 { None } else { Some(take_bytes(input)?) },
    })
}

fn put_position(out: &mut Vec<u8>, (partition, offset): &(PartitionId, Offset)) {
    varint::put(out, u64::from(partition.0));
    varint::put(out, offset.0);
}

fn take_position(input: &mut Source<'_>) -> Option<(PartitionId, Offset)> {
    Some((PartitionId(take_u16(input)?), Offset(input.input.varint()?)))
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_list<T>(out: &mut Vec<u8>, list: &[T], mut put: impl FnMut(&mut Vec<u8>, &T)) {
    varint::put(out, list.len() as u64);
    list.iter().for_each(|item| put(out, item));
}

fn take_list<T>(
    input: &mut Source<'_>,
    mut take: impl FnMut(&mut Source<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let count = input.input.varint()?;
    // Every item takes a byte at least: a count beyond what is left is a lie, and nothing is allocated for it.
    if count > input.input.remaining() as u64 {
        return None;
    }
    (0..count).map(|_| take(input)).collect()
}

fn take_flag(input: &mut Source<'_>) -> Option<bool> {
    match input.input.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn take_u16(input: &mut Source<'_>) -> Option<u16> {
    input.input.varint()?.try_into().ok()
}

fn take_u32(input: &mut Source<'_>) -> Option<u32> {
    input.input.varint()?.try_into().ok()
}
