//! The bytes of the controls of queues and groups, and of what names messages; see [`control_codec`](super::control_codec).

use std::sync::Arc;

use fluxmq_index::Offset;
use fluxmq_log::format::varint;

use super::control_codec::{
    Source, put_bytes, put_group, put_list, put_position, take_bytes, take_list, take_position,
    take_u16, take_u32,
};
use super::input::Input;
use super::queue::QueueSettings;
use super::record::Control;
use super::{Filter, Millis};

pub(super) fn put_queue_control(out: &mut Vec<u8>, control: &Control) {
    match control {
        Control::QueueDeclared { name, settings } => {
            put_bytes(out, name);
            settings.encode(out);
        }
        Control::GroupCreated { queue, group, start: at }
        | Control::CursorSet { queue, group, to: at } => {
            put_group(out, *queue, group);
            varint::put(out, at.0);
        }
        Control::QueueDeleted { queue } => out.extend_from_slice(&queue.to_le_bytes()),
        Control::QueueTrimmed { queue, to, bytes } => {
            out.extend_from_slice(&queue.to_le_bytes());
            varint::put(out, to.0);
            varint::put(out, *bytes);
        }
        Control::QueueRemoved { queue, entries, bytes } => {
            out.extend_from_slice(&queue.to_le_bytes());
            put_list(out, entries, |out, entry| varint::put(out, entry.0));
            varint::put(out, *bytes);
        }
        Control::QueuePurged { queue, to, kept, lengths } => {
            out.extend_from_slice(&queue.to_le_bytes());
            varint::put(out, to.0);
            put_list(out, kept, |out, (group, entries)| {
                put_bytes(out, group);
                put_list(out, entries, |out, entry| varint::put(out, entry.0));
            });
            put_list(out, lengths, |out, length| varint::put(out, *length));
        }
        Control::QueueUsed { queue, goes_on } => {
            out.extend_from_slice(&queue.to_le_bytes());
            out.push(u8::from(*goes_on));
        }
        Control::GroupDeleted { queue, group } => put_group(out, *queue, group),
        Control::QueueFollowed { queue, source, next } => {
            out.extend_from_slice(&queue.to_le_bytes());
            put_position(out, &(*source, *next));
        }
        Control::Postponed { queue, group, entries } => {
            put_group(out, *queue, group);
            put_list(out, entries, |out, (entry, until)| {
                varint::put(out, entry.0);
                varint::put(out, until.0);
            });
        }
        _ => unreachable!("only controls of queues come here"),
    }
}

pub(super) fn take_queue_control(opcode: u8, input: &mut Source<'_>) -> Option<Control> {
    Some(match opcode {
        1 => Control::QueueDeclared {
            name: take_bytes(input)?,
            settings: Arc::new(QueueSettings::decode(input)?),
        },
        19 => Control::QueueDeleted { queue: input.input.u64()? },
        20 => Control::QueueTrimmed {
            queue: input.input.u64()?,
            to: Offset(input.input.varint()?),
            bytes: input.input.varint()?,
        },
        21 => Control::QueueRemoved {
            queue: input.input.u64()?,
            entries: take_list(input, |input| Some(Offset(input.input.varint()?)))?,
            bytes: input.input.varint()?,
        },
        27 => Control::QueuePurged {
            queue: input.input.u64()?,
            to: Offset(input.input.varint()?),
            kept: take_list(input, |input| {
                let group = take_bytes(input)?;
                Some((group, take_list(input, |input| Some(Offset(input.input.varint()?)))?))
            })?,
            lengths: take_list(input, |input| input.input.varint())?,
        },
        28 => Control::QueueUsed {
            queue: input.input.u64()?,
            goes_on: match input.input.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            },
        },
        23 => {
            let queue = input.input.u64()?;
            let (source, next) = take_position(input)?;
            Control::QueueFollowed { queue, source, next }
        }
        25 => Control::GroupDeleted { queue: input.input.u64()?, group: take_bytes(input)? },
        22 => Control::Postponed {
            queue: input.input.u64()?,
            group: take_bytes(input)?,
            entries: take_list(input, |input| {
                Some((Offset(input.input.varint()?), Millis(input.input.varint()?)))
            })?,
        },
        _ => return None,
    })
}

pub(super) fn put_input(out: &mut Vec<u8>, input: &Input, until: Millis) {
    varint::put(out, until.0);
    match input {
        Input::Id(id) => {
            out.push(0);
            out.extend_from_slice(&id.to_le_bytes());
        }
        Input::Sequence { producer, epoch, seq } => {
            out.push(1);
            out.extend_from_slice(&producer.to_le_bytes());
            varint::put(out, u64::from(*epoch));
            varint::put(out, *seq);
        }
    }
}

pub(super) fn take_input(input: &mut Source<'_>) -> Option<Control> {
    let until = Millis(input.input.varint()?);
    let input = match input.input.u8()? {
        0 => {
            let (low, high) = (input.input.u64()?, input.input.u64()?);
            Input::Id(u128::from(low) | u128::from(high) << 64)
        }
        1 => Input::Sequence {
            producer: input.input.u64()?,
            epoch: take_u32(input)?,
            seq: input.input.varint()?,
        },
        _ => return None,
    };
    Some(Control::InputNoted { input, until })
}

pub(super) fn put_member_control(out: &mut Vec<u8>, control: &Control) {
    match control {
        Control::MemberJoined { filter, group, client_id, expiry_s } => {
            put_bytes(out, filter.as_bytes());
            put_member(out, (group, client_id), *expiry_s);
        }
        Control::MemberLeft { selection, group, client_id, expiry_s } => {
            out.extend_from_slice(&selection.to_le_bytes());
            put_member(out, (group, client_id), *expiry_s);
        }
        Control::Claimed { selection, group, client_id, sent, received } => {
            put_group(out, *selection, group);
            put_bytes(out, client_id);
            put_list(out, sent, put_sent);
            put_list(out, received, |out, entry| varint::put(out, entry.0));
        }
        _ => unreachable!("only controls of members come here"),
    }
}

pub(super) fn take_member_control(opcode: u8, input: &mut Source<'_>) -> Option<Control> {
    Some(match opcode {
        16 => Control::MemberJoined {
            filter: Filter::new(take_bytes(input)?).ok()?,
            group: take_bytes(input)?,
            client_id: take_bytes(input)?,
            expiry_s: take_u32(input)?,
        },
        17 => Control::MemberLeft {
            selection: input.input.u64()?,
            group: take_bytes(input)?,
            client_id: take_bytes(input)?,
            expiry_s: take_u32(input)?,
        },
        18 => Control::Claimed {
            selection: input.input.u64()?,
            group: take_bytes(input)?,
            client_id: take_bytes(input)?,
            sent: take_list(input, take_sent)?,
            received: take_list(input, |input| Some(Offset(input.input.varint()?)))?,
        },
        _ => return None,
    })
}

fn put_member(out: &mut Vec<u8>, (group, client_id): (&[u8], &[u8]), expiry_s: u32) {
    put_bytes(out, group);
    put_bytes(out, client_id);
    varint::put(out, u64::from(expiry_s));
}

fn put_sent(out: &mut Vec<u8>, (packet_id, entry): &(u16, Offset)) {
    varint::put(out, u64::from(*packet_id));
    varint::put(out, entry.0);
}

fn take_sent(input: &mut Source<'_>) -> Option<(u16, Offset)> {
    Some((take_u16(input)?, Offset(input.input.varint()?)))
}
