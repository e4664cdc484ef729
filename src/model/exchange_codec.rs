//! The bytes of the controls of exchanges and of bindings to them; see [`control_codec`](super::control_codec).

use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::format::varint;

use super::control_codec::{Source, put_bytes, take_bytes};
use super::exchange::{ExchangeBinding, ExchangeId, ExchangeKind, ExchangeSettings};
use super::record::Control;

const DURABLE: u8 = 1;
const AUTO_DELETE: u8 = 2;
const INTERNAL: u8 = 4;
const ALTERNATE: u8 = 8;

pub(super) fn put_exchange_control(out: &mut Vec<u8>, control: &Control) {
    match control {
        Control::ExchangeDeclared { name, settings } => {
            put_bytes(out, name);
            settings.encode(out);
        }
        Control::ExchangeDeleted { exchange } => put_id(out, exchange),
        Control::ExchangeBound { binding, to } | Control::ExchangeUnbound { binding, to } => {
            binding.encode(out);
            put_id(out, to);
        }
        Control::QueueBound { queue, binding } | Control::QueueUnbound { queue, binding } => {
            out.extend_from_slice(&queue.to_le_bytes());
            binding.encode(out);
        }
        _ => unreachable!("only controls of exchanges come here"),
    }
}

pub(super) fn take_exchange_control(opcode: u8, input: &mut Source<'_>) -> Option<Control> {
    Some(match opcode {
        32 => Control::ExchangeDeclared {
            name: take_bytes(input)?,
            settings: Arc::new(ExchangeSettings::decode(input)?),
        },
        33 => Control::ExchangeDeleted { exchange: take_id(input)? },
        34 | 35 => {
            let binding = Box::new(ExchangeBinding::decode(input)?);
            let to = take_id(input)?;
            match opcode {
                34 => Control::ExchangeBound { binding, to },
                _ => Control::ExchangeUnbound { binding, to },
            }
        }
        36 | 37 => {
            let queue = input.input.u64()?;
            let binding = Box::new(ExchangeBinding::decode(input)?);
            match opcode {
                36 => Control::QueueBound { queue, binding },
                _ => Control::QueueUnbound { queue, binding },
            }
        }
        _ => return None,
    })
}

impl ExchangeSettings {
    /// Encodes them, as records and snapshots have them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Reads what [`to_bytes`](ExchangeSettings::to_bytes) wrote; `None` for what a newer release wrote.
    pub fn from_bytes(bytes: &Bytes) -> Option<ExchangeSettings> {
        let mut input = Source::new(bytes);
        ExchangeSettings::decode(&mut input).filter(|_| input.input.remaining() == 0)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind as u8);
        let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        out.push(
            flag(self.durable, DURABLE)
                | flag(self.auto_delete, AUTO_DELETE)
                | flag(self.internal, INTERNAL)
                | flag(self.alternate.is_some(), ALTERNATE),
        );
        self.alternate.iter().for_each(|name| put_bytes(out, name));
        put_bytes(out, &self.arguments);
    }

    fn decode(input: &mut Source<'_>) -> Option<ExchangeSettings> {
        let kind = take_kind(input)?;
        let flags = input.input.u8()?;
        if flags & !(DURABLE | AUTO_DELETE | INTERNAL | ALTERNATE) != 0 {
            return None;
        }
        Some(ExchangeSettings {
            kind,
            durable: flags & DURABLE != 0,
            auto_delete: flags & AUTO_DELETE != 0,
            internal: flags & INTERNAL != 0,
            alternate: if flags & ALTERNATE == 0 { None } else { Some(take_bytes(input)?) },
            arguments: take_bytes(input)?,
        })
    }
}

impl ExchangeBinding {
    /// Encodes it, as records and snapshots have it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Reads what [`to_bytes`](ExchangeBinding::to_bytes) wrote; `None` for what a newer release wrote.
    pub fn from_bytes(bytes: &Bytes) -> Option<ExchangeBinding> {
        let mut input = Source::new(bytes);
        ExchangeBinding::decode(&mut input).filter(|_| input.input.remaining() == 0)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_id(out, &self.exchange);
        out.push(self.kind as u8);
        put_bytes(out, &self.routing_key);
        put_bytes(out, &self.arguments);
    }

    fn decode(input: &mut Source<'_>) -> Option<ExchangeBinding> {
        Some(ExchangeBinding {
            exchange: take_id(input)?,
            kind: take_kind(input)?,
            routing_key: take_bytes(input)?,
            arguments: take_bytes(input)?,
        })
    }
}

fn put_id(out: &mut Vec<u8>, exchange: &ExchangeId) {
    put_bytes(out, &exchange.name);
    varint::put(out, exchange.declared.0);
}

fn take_id(input: &mut Source<'_>) -> Option<ExchangeId> {
    Some(ExchangeId { name: take_bytes(input)?, declared: Offset(input.input.varint()?) })
}

fn take_kind(input: &mut Source<'_>) -> Option<ExchangeKind> {
    let number = input.input.u8()?;
    ExchangeKind::ALL.into_iter().find(|kind| *kind as u8 == number)
}
