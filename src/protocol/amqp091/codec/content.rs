//! Content: the header of a message, its properties, and its body in frames (AMQP 0.9.1 §4.2.6, §1.8).
//!
//! ```text
//! header := class u16 · weight u16 = 0 · body bytes u64 · flags u16 (· flags u16)* · the properties whose flags are set
//! ```
//!
//! The highest bit is the first property; the lowest says that another word of flags follows. The properties of a message stay as
//! they came, checked once, and are passed on byte for byte.

use bytes::{BufMut, Bytes, BytesMut};

use super::DecodeError;
use super::field::{Field, Reader, ShortString, Writer};
use super::frame::{self, FRAME_BYTES, FrameKind};
use super::table::{self, Table, Value};

/// The one class that has content.
pub const BASIC: u16 = 60;
/// Bit 1 is no property of basic, and bit 0 is a second word.
const NO_PROPERTY: u16 = 0b11;
/// The flag of `headers`.
const HEADERS: u16 = 0x2000;
/// The flag of `delivery-mode`.
const DELIVERY_MODE: u16 = 0x1000;
/// The flag of `reply-to`.
const REPLY_TO: u16 = 0x0200;

/// What comes before the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentHeader {
    /// Bytes of the whole body.
    pub body_bytes: u64,
    /// What is said about it.
    pub properties: Properties,
}

/// What a publisher says about a message, as it wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    flags: u16,
    fields: Bytes,
}

/// One property of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// A MIME type.
    ContentType(ShortString),
    /// How the body is encoded.
    ContentEncoding(ShortString),
    /// The application's own.
    Headers(Table),
    /// 2 is persistent.
    DeliveryMode(u8),
    /// The higher, the earlier.
    Priority(u8),
    /// Ties an answer to its request.
    CorrelationId(ShortString),
    /// Where to answer.
    ReplyTo(ShortString),
    /// Milliseconds to live, as decimal text.
    Expiration(ShortString),
    /// The application's name for it.
    MessageId(ShortString),
    /// Seconds since the epoch, the application's.
    Timestamp(u64),
    /// The application's type.
    Type(ShortString),
    /// The user that published, checked by the broker.
    UserId(ShortString),
    /// The application.
    AppId(ShortString),
    /// Reserved.
    ClusterId(ShortString),
}

impl ContentHeader {
    /// Reads the payload of a header frame.
    pub fn decode(payload: Bytes) -> Result<ContentHeader, DecodeError> {
        let mut reader = Reader::new(payload, "a content header");
        let class = reader.field()?;
        if class != BASIC {
            return Err(DecodeError::ContentClass { class });
        }
        let weight = reader.field()?;
        if weight != 0 {
            return Err(DecodeError::Weight { weight });
        }
        let body_bytes = reader.field()?;
        Ok(ContentHeader { body_bytes, properties: Properties::take(reader)? })
    }
}

/// Appends content: its header frame, and its body in as many frames as it takes.
///
/// Panics if `frame_bytes_max` has no room for a body.
pub fn encode(
    channel: u16,
    properties: &Properties,
    body: &[u8],
    frame_bytes_max: u32,
    out: &mut BytesMut,
) {
    frame::encode(FrameKind::Header, channel, out, |out| {
        // Class, weight and size: one write instead of three.
        let mut head = [0; 12];
        head[..2].copy_from_slice(&BASIC.to_be_bytes());
        head[4..].copy_from_slice(&(body.len() as u64).to_be_bytes());
        out.put_slice(&head);
        properties.put(out);
    });
    for part in body.chunks(frame_bytes_max as usize - FRAME_BYTES) {
        frame::encode(FrameKind::Body, channel, out, |out| out.put_slice(part));
    }
}

impl Properties {
    /// Writes a list; of two of a kind the later counts.
    pub fn encode(list: impl IntoIterator<Item = Property>) -> Properties {
        let mut list: Vec<Property> = list.into_iter().collect();
        // Stable: of two of a kind the later stays the later.
        list.sort_by_key(|property| std::cmp::Reverse(property.flag()));
        let mut flags = 0;
        let mut out = BytesMut::new();
        for (at, property) in list.iter().enumerate() {
            if list.get(at + 1).is_some_and(|next| next.flag() == property.flag()) {
                continue;
            }
            flags |= property.flag();
            property.put(&mut Writer::new(&mut out));
        }
        Properties { flags, fields: out.freeze() }
    }

    /// Of a message that is persistent, and of which nothing else is said.
    pub const PERSISTENT: Properties =
        Properties { flags: DELIVERY_MODE, fields: Bytes::from_static(&[2]) };

    /// Returns true when there are none.
    pub fn is_empty(&self) -> bool {
        self.flags == 0
    }

    /// Appends them as they are on the wire: flags, and then the properties.
    pub fn put(&self, out: &mut BytesMut) {
        out.put_u16(self.flags);
        out.put_slice(&self.fields);
    }

    /// Reads what [`Properties::put`] wrote.
    pub fn decode(bytes: Bytes) -> Result<Properties, DecodeError> {
        Properties::take(Reader::new(bytes, "properties"))
    }

    /// Returns how many bytes they have on the wire.
    pub fn len_bytes(&self) -> usize {
        2 + self.fields.len()
    }

    /// Iterates over them in their order.
    pub fn iter(&self) -> impl Iterator<Item = Property> {
        let mut reader = Reader::new(self.fields.clone(), "properties");
        flags_of(self.flags)
            .map(move |flag| take_property(flag, &mut reader).expect("properties are checked"))
    }

    /// The table of headers.
    pub fn headers(&self) -> Option<Table> {
        if self.flags & HEADERS == 0 {
            return None;
        }
        self.iter().find_map(|property| match property {
            Property::Headers(table) => Some(table),
            _ => None,
        })
    }

    /// The same with these headers, instead of those that there are.
    pub fn with_headers(&self, headers: &Table) -> Properties {
        let bytes = headers.as_bytes();
        self.with_table(bytes.len(), |out| out.put_slice(bytes))
    }

    /// The same with these headers instead of those that have their names.
    ///
    /// Panics as [`Table::with`] does.
    pub fn with_more_headers(&self, added: &[(&str, Value)]) -> Properties {
        match self.headers() {
            Some(headers) => self.with_headers(&headers.with(added)),
            None => self.with_table(table::entries_bytes(added), |out| {
                table::put_entries(added, out);
            }),
        }
    }

    /// The same with headers of so many bytes.
    fn with_table(&self, bytes: usize, put: impl FnOnce(&mut BytesMut)) -> Properties {
        // What comes before them are texts, each behind a byte of length.
        let before = flags_of(self.flags).take_while(|flag| *flag > HEADERS);
        let at = before.fold(0, |at, _| at + 1 + usize::from(self.fields[at]));
        let old = self.headers().map_or(0, |old| 4 + old.as_bytes().len());
        let mut out = BytesMut::with_capacity(self.fields.len() - old + 4 + bytes);
        out.put_slice(&self.fields[..at]);
        out.put_u32(u32::try_from(bytes).expect("a frame has less"));
        put(&mut out);
        out.put_slice(&self.fields[at + old..]);
        Properties { flags: self.flags | HEADERS, fields: out.freeze() }
    }

    /// Where to answer.
    pub fn reply_to(&self) -> Option<ShortString> {
        if self.flags & REPLY_TO == 0 {
            return None;
        }
        self.iter().find_map(|property| match property {
            Property::ReplyTo(name) => Some(name),
            _ => None,
        })
    }

    /// Copies them, so that keeping them does not keep what they were read from.
    pub fn detached(&self) -> Properties {
        Properties { flags: self.flags, fields: Bytes::copy_from_slice(&self.fields) }
    }

    fn take(mut reader: Reader) -> Result<Properties, DecodeError> {
        let flags: u16 = reader.field()?;
        let mut word = flags;
        // Nothing is known of further words but that they end.
        while word & 1 == 1 {
            word = reader.field()?;
            if word & !1 != 0 {
                return Err(DecodeError::PropertyFlags { flags: word });
            }
        }
        let flags = flags & !1;
        if flags & NO_PROPERTY != 0 {
            return Err(DecodeError::PropertyFlags { flags });
        }
        let fields = reader.rest().clone();
        for flag in flags_of(flags) {
            take_property(flag, &mut reader)?;
        }
        reader.finish()?;
        Ok(Properties { flags, fields })
    }
}

/// The flags that are set, from the first property to the last.
fn flags_of(flags: u16) -> impl Iterator<Item = u16> {
    (2..16).rev().map(|bit| 1 << bit).filter(move |flag| flags & flag != 0)
}

fn take_property(flag: u16, reader: &mut Reader) -> Result<Property, DecodeError> {
    Ok(match flag {
        0x8000 => Property::ContentType(reader.field()?),
        0x4000 => Property::ContentEncoding(reader.field()?),
        HEADERS => Property::Headers(reader.field()?),
        DELIVERY_MODE => Property::DeliveryMode(reader.field()?),
        0x0800 => Property::Priority(reader.field()?),
        0x0400 => Property::CorrelationId(reader.field()?),
        REPLY_TO => Property::ReplyTo(reader.field()?),
        0x0100 => Property::Expiration(reader.field()?),
        0x0080 => Property::MessageId(reader.field()?),
        0x0040 => Property::Timestamp(reader.field()?),
        0x0020 => Property::Type(reader.field()?),
        0x0010 => Property::UserId(reader.field()?),
        0x0008 => Property::AppId(reader.field()?),
        0x0004 => Property::ClusterId(reader.field()?),
        flags => return Err(DecodeError::PropertyFlags { flags }),
    })
}

impl Property {
    fn flag(&self) -> u16 {
        match self {
            Property::ContentType(_) => 0x8000,
            Property::ContentEncoding(_) => 0x4000,
            Property::Headers(_) => HEADERS,
            Property::DeliveryMode(_) => DELIVERY_MODE,
            Property::Priority(_) => 0x0800,
            Property::CorrelationId(_) => 0x0400,
            Property::ReplyTo(_) => REPLY_TO,
            Property::Expiration(_) => 0x0100,
            Property::MessageId(_) => 0x0080,
            Property::Timestamp(_) => 0x0040,
            Property::Type(_) => 0x0020,
            Property::UserId(_) => 0x0010,
            Property::AppId(_) => 0x0008,
            Property::ClusterId(_) => 0x0004,
        }
    }

    fn put(&self, writer: &mut Writer<'_>) {
        match self {
            Property::Headers(table) => table.put(writer),
            Property::DeliveryMode(number) | Property::Priority(number) => number.put(writer),
            Property::Timestamp(seconds) => seconds.put(writer),
            Property::ContentType(text)
            | Property::ContentEncoding(text)
            | Property::CorrelationId(text)
            | Property::ReplyTo(text)
            | Property::Expiration(text)
            | Property::MessageId(text)
            | Property::Type(text)
            | Property::UserId(text)
            | Property::AppId(text)
            | Property::ClusterId(text) => text.put(writer),
        }
    }
}
