//! One record as one line: text for people, JSON for programs.
//!
//! The names of the JSON fields are an interface, documented in `docs/operating/wal-tools.md`: fields may be added,
//! never renamed. Identifiers of 64 bits are hexadecimal strings, because many JSON readers round numbers.

use std::fmt::Write;

use bytes::Bytes;
use fluxmq::model::{Control, Properties, Property};
use fluxmq_index::Offset;
use fluxmq_log::format::{FrameHeader, Message, Producer, Retain};
use serde::Serialize;

use crate::arguments::{Format, PayloadFormat};
use crate::names::control_name;
use crate::walk::Listed;
use crate::{text, time};

/// Where a record is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The partition.
    pub partition: u32,
    /// The segment.
    pub segment: u64,
    /// Raft index of its frame.
    pub index: u64,
    /// Term of its frame.
    pub term: u64,
    /// Its offset.
    pub offset: Offset,
}

impl Place {
    /// Returns the place of a record in a frame of a segment.
    pub fn of(listed: &Listed, header: &FrameHeader, offset: Offset) -> Place {
        Place {
            partition: listed.header.partition,
            segment: listed.header.segment_no,
            index: header.index,
            term: header.term,
            offset,
        }
    }
}

/// How to print records.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Text or JSON.
    pub format: Format,
    /// How payloads are printed; not at all if none.
    pub payload: Option<PayloadFormat>,
}

#[derive(Serialize)]
struct MessageLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    partition: u32,
    segment: u64,
    index: u64,
    term: u64,
    offset: u64,
    time: String,
    time_ms: u64,
    topic: String,
    qos: u8,
    retain: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    publisher: Option<PublisherField>,
    #[serde(skip_serializing_if = "is_zero")]
    priority: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route_set: Option<u32>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    queues: &'a [u64],
    size: usize,
    properties: Vec<PropertyField>,
    #[serde(flatten)]
    payload: Option<PayloadFields>,
}

#[derive(Serialize)]
struct ControlLine {
    #[serde(rename = "type")]
    kind: &'static str,
    partition: u32,
    segment: u64,
    index: u64,
    term: u64,
    offset: u64,
    time: String,
    time_ms: u64,
    op: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    op_name: Option<&'static str>,
    #[serde(flatten)]
    moves: Moves,
    size: usize,
}

/// What a control moves, and to where.
#[derive(Default, Serialize)]
struct Moves {
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
}

impl Moves {
    /// Reads the controls that say where something begins or goes on; others say nothing here, nor do bytes that are no control.
    fn of(op: u8, payload: &Bytes) -> Moves {
        let id = |queue: u64| Some(format!("{queue:016x}"));
        let text = |name: &Bytes| Some(name.escape_ascii().to_string());
        match Control::decode(op, payload) {
            Ok(Control::HistoryTrimmed { to }) => Moves { to: Some(to.0), ..Moves::default() },
            Ok(
                Control::QueueTrimmed { queue, to, .. } | Control::QueuePurged { queue, to, .. },
            ) => Moves { queue: id(queue), to: Some(to.0), ..Moves::default() },
            Ok(Control::QueueFollowed { queue, source, next }) => Moves {
                queue: id(queue),
                source: Some(source.0),
                to: Some(next.0),
                ..Moves::default()
            },
            Ok(Control::ExchangeDeclared { name, .. }) => {
                Moves { exchange: text(&name), ..Moves::default() }
            }
            Ok(Control::ExchangeDeleted { exchange }) => {
                Moves { exchange: text(&exchange.name), ..Moves::default() }
            }
            Ok(
                Control::ExchangeBound { binding, .. } | Control::ExchangeUnbound { binding, .. },
            ) => Moves { exchange: text(&binding.exchange.name), ..Moves::default() },
            Ok(
                Control::QueueBound { queue, binding } | Control::QueueUnbound { queue, binding },
            ) => Moves {
                exchange: text(&binding.exchange.name),
                queue: id(queue),
                ..Moves::default()
            },
            Ok(Control::Moved { from, .. }) => Moves { from: Some(from.0), ..Moves::default() },
            _ => Moves::default(),
        }
    }

    fn to_text(&self) -> String {
        let number = |name: &str, value: Option<u64>| value.map(|it| format!(" {name}={it}"));
        let queue = self.queue.as_ref().map(|queue| format!(" queue={queue}"));
        let exchange = self.exchange.as_ref().map(|exchange| format!(" exchange={exchange}"));
        let source = number("source", self.source.map(u64::from));
        let parts = [exchange, queue, source, number("from", self.from), number("to", self.to)];
        parts.into_iter().flatten().collect()
    }
}

#[derive(Serialize)]
struct PublisherField {
    id: String,
    epoch: u32,
    seq: u32,
}

#[derive(Serialize)]
struct PropertyField {
    name: String,
    value: String,
}

#[derive(Serialize)]
struct PayloadFields {
    payload: String,
    payload_encoding: &'static str,
}

/// Returns the line of a message, without its end. `queues` are those of its route set, as far as known.
pub fn message(place: Place, message: &Message, queues: &[u64], style: Style) -> String {
    match style.format {
        Format::Text => message_text(place, message, style.payload),
        Format::Json => message_json(place, message, queues, style.payload),
    }
}

/// Returns the line of a control record, without its end.
pub fn control(place: Place, op: u8, payload: &Bytes, ts: u64, format: Format) -> String {
    let op_name = control_name(op);
    if format == Format::Text {
        let name = op_name.map(|name| format!(" {name}")).unwrap_or_default();
        let (head, moves, size) =
            (head(place, ts), Moves::of(op, payload).to_text(), payload.len());
        return format!("{head} control op={op}{name}{moves} size={size}");
    }
    to_json(&ControlLine {
        kind: "control",
        partition: place.partition,
        segment: place.segment,
        index: place.index,
        term: place.term,
        offset: place.offset.0,
        time: time::to_rfc3339(ts),
        time_ms: ts,
        op,
        op_name,
        moves: Moves::of(op, payload),
        size: payload.len(),
    })
}

fn message_text(place: Place, message: &Message, payload: Option<PayloadFormat>) -> String {
    let mut line = head(place, message.ts);
    let mut put = |part: std::fmt::Arguments<'_>| {
        line.push(' ');
        line.write_fmt(part).expect("writing to a string cannot fail");
    };
    put(format_args!("{}", text::quoted(&message.topic)));
    put(format_args!("qos={}", message.qos));
    if message.retain != Retain::No {
        put(format_args!("retain={}", retain_name(message.retain)));
    }
    if let Some(Producer { id, epoch, seq }) = message.producer {
        put(format_args!("publisher={id:016x}/{epoch}/{seq}"));
    }
    if message.priority != 0 {
        put(format_args!("priority={}", message.priority));
    }
    if let Some(expiry_s) = message.expiry_s {
        put(format_args!("expiry={expiry_s}s"));
    }
    if let Some(deliver_at) = message.deliver_at {
        put(format_args!("deliver_at={}", time::to_rfc3339(deliver_at)));
    }
    if let Some(key) = &message.key {
        put(format_args!("key={}", text::quoted(key)));
    }
    if message.route_set != 0 {
        put(format_args!("route_set={}", message.route_set));
    }
    for (name, value) in properties(message) {
        put(format_args!("{}={}", text::escaped(&name), text::quoted(&value)));
    }
    put(format_args!("size={}", message.payload.len()));
    match payload {
        None => {}
        Some(PayloadFormat::Text) => put(format_args!("{}", text::quoted(&message.payload))),
        Some(PayloadFormat::Hex) => put(format_args!("{}", text::hex(&message.payload))),
        Some(PayloadFormat::Base64) => put(format_args!("{}", text::base64(&message.payload))),
    }
    line
}

fn message_json(
    place: Place,
    message: &Message,
    queues: &[u64],
    payload: Option<PayloadFormat>,
) -> String {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let field =
        |(name, value): (Bytes, Bytes)| PropertyField { name: lossy(&name), value: lossy(&value) };
    to_json(&MessageLine {
        kind: "message",
        partition: place.partition,
        segment: place.segment,
        index: place.index,
        term: place.term,
        offset: place.offset.0,
        time: time::to_rfc3339(message.ts),
        time_ms: message.ts,
        topic: lossy(&message.topic),
        qos: message.qos,
        retain: retain_name(message.retain),
        publisher: message.producer.map(|Producer { id, epoch, seq }| PublisherField {
            id: format!("{id:016x}"),
            epoch,
            seq,
        }),
        priority: message.priority,
        expiry_s: message.expiry_s,
        deliver_at_ms: message.deliver_at,
        key: message.key.as_deref().map(lossy),
        route_set: (message.route_set != 0).then_some(message.route_set),
        queues,
        size: message.payload.len(),
        properties: properties(message).into_iter().map(field).collect(),
        payload: payload.map(|format| payload_fields(&message.payload, format)),
    })
}

fn payload_fields(payload: &[u8], format: PayloadFormat) -> PayloadFields {
    let (payload, payload_encoding) = match (format, std::str::from_utf8(payload)) {
        (PayloadFormat::Text, Ok(text)) => (text.to_owned(), "text"),
        (PayloadFormat::Hex, _) => (text::hex(payload), "hex"),
        (PayloadFormat::Text | PayloadFormat::Base64, _) => (text::base64(payload), "base64"),
    };
    PayloadFields { payload, payload_encoding }
}

/// What every line of text begins with.
fn head(place: Place, ts: u64) -> String {
    format!("p{:04} {} {}", place.partition, place.offset, time::to_rfc3339(ts))
}

/// Returns names and values; an application's own names are told from ours by a prefix.
fn properties(message: &Message) -> Vec<(Bytes, Bytes)> {
    let named = |name: &'static str, value: Bytes| (Bytes::from_static(name.as_bytes()), value);
    let field = |property: Property| match property {
        Property::PayloadFormat(is_text) => {
            let value = if is_text { "text" } else { "bytes" };
            named("payload_format", Bytes::from_static(value.as_bytes()))
        }
        Property::ContentType(value) => named("content_type", value),
        Property::ResponseTopic(value) => named("response_topic", value),
        Property::CorrelationData(value) => named("correlation_data", value),
        Property::User(name, value) => ([b"user.", name.as_ref()].concat().into(), value),
        Property::Amqp091(encoded) => (Bytes::from_static(b"amqp091"), encoded),
    };
    Properties::from_encoded(message.props.clone()).iter().map(field).collect()
}

fn retain_name(retain: Retain) -> &'static str {
    match retain {
        Retain::No => "no",
        Retain::Set => "set",
        Retain::Clear => "clear",
    }
}

fn to_json(line: &impl Serialize) -> String {
    serde_json::to_string(line).expect("strings and numbers always serialize")
}

fn is_zero(number: &u8) -> bool {
    *number == 0
}
