//! The bytes of controls: an opcode, and a body of varints and length-prefixed bytes.
//!
//! What each says is [`record`](super::record)'s. Decoding checks every length before it uses it and never panics.

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::format::varint::{self, Input};

use super::command::{RetainHandling, Will};
use super::exchange_codec::{put_exchange_control, take_exchange_control};
use super::message::publisher_id;
use super::publisher_codec::{put_publisher_control, take_tenure};
use super::queue_codec::{
    put_input, put_member_control, put_queue_control, take_input, take_member_control,
    take_queue_control,
};
use super::record::{
    Control, ControlError, DedupKey, OutboundEntry, Retain, SessionProgress, StoredMessage,
    Subscription,
};
use super::{Filter, Message, Millis, PartitionId, Principal, Properties, QoS, ReaderId, Topic};

impl Control {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Control::QueueDeclared { .. }
            | Control::QueueDeleted { .. }
            | Control::QueueTrimmed { .. }
            | Control::QueueRemoved { .. }
            | Control::QueuePurged { .. }
            | Control::QueueUsed { .. }
            | Control::QueueFollowed { .. }
            | Control::GroupDeleted { .. }
            | Control::GroupCreated { .. }
            | Control::CursorSet { .. }
            | Control::Postponed { .. } => put_queue_control(out, self),
            Control::Settled { selection, group, finished, released } => {
                put_group(out, *selection, group);
                put_list(out, finished, put_run);
                put_list(out, released, |out, offset| varint::put(out, offset.0));
            }
            Control::SessionOpened { client_id, clean, expiry_s, principal } => {
                put_bytes(out, client_id);
                out.push(u8::from(*clean));
                varint::put(out, u64::from(*expiry_s));
                put_principal(out, principal);
            }
            Control::SessionClosed { client_id, epoch, expiry_s: seconds }
            | Control::WillDue { client_id, epoch, delay_s: seconds } => {
                put_bytes(out, client_id);
                varint::put(out, epoch.0);
                varint::put(out, u64::from(*seconds));
            }
            Control::SessionRemoved { client_id, epoch }
            | Control::WillCleared { client_id, epoch } => {
                put_bytes(out, client_id);
                varint::put(out, epoch.0);
            }
            Control::Subscribed { client_id, subscription, starts } => {
                put_bytes(out, client_id);
                put_subscribed(out, subscription, starts);
            }
            Control::Unsubscribed { client_id, filter } => {
                put_bytes(out, client_id);
                put_bytes(out, filter.as_bytes());
            }
            Control::SessionProgress(progress) => put_progress(out, progress),
            Control::Released { .. } | Control::TenureBegun { .. } => {
                put_publisher_control(out, self);
            }
            Control::ExchangeDeclared { .. }
            | Control::ExchangeDeleted { .. }
            | Control::ExchangeBound { .. }
            | Control::ExchangeUnbound { .. }
            | Control::QueueBound { .. }
            | Control::QueueUnbound { .. } => put_exchange_control(out, self),
            Control::PartitionsFixed { count } => varint::put(out, u64::from(*count)),
            Control::HistoryTrimmed { to } => varint::put(out, to.0),
            Control::Moved { from, queues, message } => put_moved(out, *from, queues, message),
            Control::InputNoted { input, until } => put_input(out, input, *until),
            Control::WillSet { client_id, will, principal } => {
                put_bytes(out, client_id);
                put_will(out, will);
                put_principal(out, principal);
            }
            Control::MemberJoined { .. } | Control::MemberLeft { .. } | Control::Claimed { .. } => {
                put_member_control(out, self)
            }
        }
    }

    /// Reads what [`encode`](Control::encode) wrote.
    pub fn decode(opcode: u8, body: &Bytes) -> Result<Control, ControlError> {
        if !matches!(opcode, 1..=28 | 30..=37) {
            return Err(ControlError::UnknownOpcode(opcode));
        }
        let mut input = Source::new(body);
        let control = take_control(opcode, &mut input);
        control.filter(|_| input.input.remaining() == 0).ok_or(ControlError::Malformed(opcode))
    }
}

/// What is left of a body; byte strings are slices of it.
pub(super) struct Source<'a> {
    pub(super) input: Input<'a>,
    whole: &'a Bytes,
}

impl<'a> Source<'a> {
    pub(super) fn new(whole: &'a Bytes) -> Source<'a> {
        Source { input: Input::new(whole), whole }
    }
}

pub(super) fn take_bytes(input: &mut Source<'_>) -> Option<Bytes> {
    input.input.take_prefixed().map(|range| input.whole.slice(range))
}

fn take_control(opcode: u8, input: &mut Source<'_>) -> Option<Control> {
    Some(match opcode {
        2 => Control::GroupCreated {
            queue: input.input.u64()?,
            group: take_bytes(input)?,
            start: Offset(input.input.varint()?),
        },
        3 => Control::Settled {
            selection: input.input.u64()?,
            group: take_bytes(input)?,
            finished: take_list(input, take_run)?,
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
            principal: take_principal(input)?,
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
        8 => take_subscribed(input)?,
        9 => Control::Unsubscribed {
            client_id: take_bytes(input)?,
            filter: Filter::new(take_bytes(input)?).ok()?,
        },
        10 => Control::SessionProgress(take_progress(input)?),
        11 => Control::Released {
            publisher: input.input.u64()?,
            incarnation: take_u32(input)?,
            packet_ids: take_list(input, take_u32)?,
        },
        12 => Control::PartitionsFixed { count: take_u16(input)? },
        13 => {
            let client_id = take_bytes(input)?;
            let will = Box::new(take_will(input, &client_id)?);
            Control::WillSet { client_id, will, principal: take_principal(input)? }
        }
        14 => Control::WillDue {
            client_id: take_bytes(input)?,
            epoch: Offset(input.input.varint()?),
            delay_s: take_u32(input)?,
        },
        15 => Control::WillCleared {
            client_id: take_bytes(input)?,
            epoch: Offset(input.input.varint()?),
        },
        16..=18 => return take_member_control(opcode, input),
        30 => Control::HistoryTrimmed { to: Offset(input.input.varint()?) },
        31 => take_moved(input)?,
        32..=37 => return take_exchange_control(opcode, input),
        24 => take_input(input)?,
        26 => take_tenure(input)?,
        _ => return take_queue_control(opcode, input),
    })
}

fn put_progress(out: &mut Vec<u8>, progress: &SessionProgress) {
    put_bytes(out, &progress.client_id);
    varint::put(out, progress.epoch.0);
    put_list(out, &progress.cursors, put_position);
    put_list(out, &progress.assigned, |out, entry| {
        varint::put(out, u64::from(entry.packet_id));
        put_position(out, &(entry.partition, entry.offset));
        let is_replay = entry.reader.is_replay();
        let flags = u8::from(entry.retain) << 2 | u8::from(entry.received) << 3;
        out.push(entry.qos as u8 | flags | u8::from(is_replay) << 4);
        put_reader(out, entry.reader);
    });
    put_list(out, &progress.received, |out, id| varint::put(out, u64::from(*id)));
    put_list(out, &progress.done, |out, id| varint::put(out, u64::from(*id)));
    if !progress.replayed.is_empty() {
        put_list(out, &progress.replayed, |out, (reader, partition, offset)| {
            varint::put(out, u64::from(reader.0));
            put_position(out, &(*partition, *offset));
        });
    }
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
            let is_replay = bits & 0x10 != 0;
            Some(OutboundEntry {
                packet_id,
                reader: if is_replay { take_replay(input)? } else { ReaderId::SESSION },
                partition,
                offset,
                qos: QoS::from_bits(bits & 3)?,
                retain: bits & 4 != 0,
                received: bits & 8 != 0,
            })
        })?,
        received: take_list(input, take_u16)?,
        done: take_list(input, take_u16)?,
        replayed: match input.input.remaining() {
            0 => Vec::new(),
            _ => take_list(input, |input| {
                let reader = take_replay(input)?;
                let (partition, offset) = take_position(input)?;
                Some((reader, partition, offset))
            })?,
        },
    })
}

fn put_subscribed(
    out: &mut Vec<u8>,
    subscription: &Subscription,
    starts: &[(PartitionId, Offset)],
) {
    put_subscription(out, subscription);
    put_list(out, starts, put_position);
    put_reader(out, subscription.reader);
}

fn take_subscribed(input: &mut Source<'_>) -> Option<Control> {
    let client_id = take_bytes(input)?;
    let subscription = take_subscription(input)?;
    let starts = take_list(input, take_position)?;
    // A body that ends where the reader would be is a plain subscription's.
    let reader = match input.input.remaining() {
        0 => ReaderId::SESSION,
        _ => take_replay(input)?,
    };
    let subscription = Subscription { reader, ..subscription };
    Some(Control::Subscribed { client_id, subscription, starts })
}

fn put_reader(out: &mut Vec<u8>, reader: ReaderId) {
    if reader.is_replay() {
        varint::put(out, u64::from(reader.0));
    }
}

fn take_replay(input: &mut Source<'_>) -> Option<ReaderId> {
    take_u32(input).map(ReaderId).filter(|reader| reader.is_replay())
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
        reader: ReaderId::SESSION,
    })
}

fn put_will(out: &mut Vec<u8>, will: &Will) {
    let message = &will.message;
    let flags = u8::from(message.retain) << 2 | u8::from(message.expiry_s.is_some()) << 3;
    out.push(message.qos as u8 | flags);
    varint::put(out, u64::from(will.delay_s));
    if let Some(expiry_s) = message.expiry_s {
        varint::put(out, u64::from(expiry_s));
    }
    put_bytes(out, message.topic.as_bytes());
    put_bytes(out, message.properties.as_bytes());
    put_bytes(out, &message.payload);
}

fn take_will(input: &mut Source<'_>, client_id: &[u8]) -> Option<Will> {
    let bits = input.input.u8()?;
    if bits & !0xf != 0 {
        return None;
    }
    let delay_s = take_u32(input)?;
    let message = Message {
        expiry_s: if bits & 8 == 0 { None } else { Some(take_u32(input)?) },
        topic: Topic::new(take_bytes(input)?).ok()?,
        properties: Properties::from_encoded(take_bytes(input)?),
        payload: take_bytes(input)?,
        qos: QoS::from_bits(bits & 3)?,
        retain: bits & 4 != 0,
        publisher: publisher_id(client_id),
    };
    Some(Will { message, delay_s })
}

fn put_moved(out: &mut Vec<u8>, from: Offset, queues: &[(u64, Offset)], message: &StoredMessage) {
    varint::put(out, from.0);
    put_list(out, queues, |out, (queue, entry)| {
        out.extend_from_slice(&queue.to_le_bytes());
        varint::put(out, entry.0);
    });
    put_stored(out, message);
}

fn take_moved(input: &mut Source<'_>) -> Option<Control> {
    let from = Offset(input.input.varint()?);
    let queues =
        take_list(input, |input| Some((input.input.u64()?, Offset(input.input.varint()?))))?;
    Some(Control::Moved { from, queues, message: Box::new(take_stored(input)?) })
}

/// A message as it was stored, but for what a second copy is known by: this is none.
fn put_stored(out: &mut Vec<u8>, message: &StoredMessage) {
    let retain = match message.retain {
        Retain::No => 0,
        Retain::Set => 1,
        Retain::Clear => 2,
    };
    let has_expiry = u8::from(message.expiry_s.is_some());
    let has_delay = u8::from(message.deliver_at.is_some());
    let has_priority = u8::from(message.priority > 0);
    let flags = has_expiry << 4 | has_delay << 5 | has_priority << 6;
    out.push(message.qos as u8 | retain << 2 | flags);
    varint::put(out, message.time.0);
    out.extend_from_slice(&message.publisher.to_le_bytes());
    if let Some(expiry_s) = message.expiry_s {
        varint::put(out, u64::from(expiry_s));
    }
    if let Some(deliver_at) = message.deliver_at {
        varint::put(out, deliver_at.0);
    }
    if message.priority > 0 {
        out.push(message.priority);
    }
    put_bytes(out, &message.topic);
    put_bytes(out, &message.properties);
    put_bytes(out, &message.payload);
}

fn take_stored(input: &mut Source<'_>) -> Option<StoredMessage> {
    let bits = input.input.u8()?;
    if bits & !0x7f != 0 {
        return None;
    }
    Some(StoredMessage {
        qos: QoS::from_bits(bits & 3)?,
        retain: match (bits >> 2) & 3 {
            0 => Retain::No,
            1 => Retain::Set,
            2 => Retain::Clear,
            _ => return None,
        },
        time: Millis(input.input.varint()?),
        publisher: input.input.u64()?,
        expiry_s: if bits & 0x10 == 0 { None } else { Some(take_u32(input)?) },
        deliver_at: if bits & 0x20 == 0 { None } else { Some(Millis(input.input.varint()?)) },
        priority: if bits & 0x40 == 0 { 0 } else { input.input.u8()? },
        topic: take_bytes(input)?,
        properties: take_bytes(input)?,
        payload: take_bytes(input)?,
        dedup: DedupKey::default(),
    })
}

fn put_principal(out: &mut Vec<u8>, principal: &Principal) {
    if !principal.is_anonymous() {
        put_bytes(out, principal.as_bytes());
    }
}

/// A body that ends where the principal would be is an anonymous client's.
fn take_principal(input: &mut Source<'_>) -> Option<Principal> {
    match input.input.remaining() {
        0 => Some(Principal::ANONYMOUS),
        _ => Principal::user(take_bytes(input)?).ok(),
    }
}

pub(super) fn put_position(out: &mut Vec<u8>, (partition, offset): &(PartitionId, Offset)) {
    varint::put(out, u64::from(partition.0));
    varint::put(out, offset.0);
}

pub(super) fn take_position(input: &mut Source<'_>) -> Option<(PartitionId, Offset)> {
    Some((PartitionId(take_u16(input)?), Offset(input.input.varint()?)))
}

pub(super) fn put_group(out: &mut Vec<u8>, selection: u64, group: &[u8]) {
    out.extend_from_slice(&selection.to_le_bytes());
    put_bytes(out, group);
}

pub(super) fn put_run(out: &mut Vec<u8>, (first, count): &(Offset, u64)) {
    varint::put(out, first.0);
    varint::put(out, *count);
}

fn take_run(input: &mut Source<'_>) -> Option<(Offset, u64)> {
    Some((Offset(input.input.varint()?), input.input.varint()?))
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_list<T>(out: &mut Vec<u8>, list: &[T], mut put: impl FnMut(&mut Vec<u8>, &T)) {
    varint::put(out, list.len() as u64);
    list.iter().for_each(|item| put(out, item));
}

pub(super) fn take_list<T>(
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

pub(super) fn take_u16(input: &mut Source<'_>) -> Option<u16> {
    input.input.varint()?.try_into().ok()
}

pub(super) fn take_u32(input: &mut Source<'_>) -> Option<u32> {
    input.input.varint()?.try_into().ok()
}
