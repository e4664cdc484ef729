//! The properties of MQTT 5 (§2.2.2): identifier, type, and the packets that may carry each.
//!
//! A list is kept as the bytes that were received, checked once for the packet it came in, so that decoding allocates
//! nothing and passing on loses nothing. `codec` writes the length before it.

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::primitives::{check_text, take_u16, take_u32, take_varint};
use super::codec::{DecodeError, Limits};

/// One property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// 0x01: the payload is UTF-8.
    PayloadFormat(bool),
    /// 0x02: seconds.
    MessageExpiry(u32),
    /// 0x03
    ContentType(Bytes),
    /// 0x08
    ResponseTopic(Bytes),
    /// 0x09
    CorrelationData(Bytes),
    /// 0x0B: 1 to 268,435,455.
    SubscriptionId(u32),
    /// 0x11: seconds; `u32::MAX` never expires.
    SessionExpiry(u32),
    /// 0x12
    AssignedClientId(Bytes),
    /// 0x13: seconds.
    ServerKeepAlive(u16),
    /// 0x15
    AuthenticationMethod(Bytes),
    /// 0x16
    AuthenticationData(Bytes),
    /// 0x17
    RequestProblemInformation(bool),
    /// 0x18: seconds.
    WillDelay(u32),
    /// 0x19
    RequestResponseInformation(bool),
    /// 0x1A
    ResponseInformation(Bytes),
    /// 0x1C
    ServerReference(Bytes),
    /// 0x1F
    ReasonString(Bytes),
    /// 0x21: not 0.
    ReceiveMaximum(u16),
    /// 0x22
    TopicAliasMaximum(u16),
    /// 0x23: not 0.
    TopicAlias(u16),
    /// 0x24: true is QoS 1, false QoS 0.
    MaximumQoS(bool),
    /// 0x25
    RetainAvailable(bool),
    /// 0x26: may repeat, in order.
    User(Bytes, Bytes),
    /// 0x27: bytes, not 0.
    MaximumPacketSize(u32),
    /// 0x28
    WildcardSubscriptionAvailable(bool),
    /// 0x29
    SubscriptionIdsAvailable(bool),
    /// 0x2A
    SharedSubscriptionAvailable(bool),
}

/// Where a property list stands: one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u16);

impl Place {
    pub(super) const CONNECT: Place = Place(1);
    pub(super) const WILL: Place = Place(1 << 1);
    pub(super) const CONNACK: Place = Place(1 << 2);
    pub(super) const PUBLISH: Place = Place(1 << 3);
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK: reason string and user properties.
    pub(super) const ACK: Place = Place(1 << 4);
    pub(super) const SUBSCRIBE: Place = Place(1 << 5);
    pub(super) const UNSUBSCRIBE: Place = Place(1 << 6);
    pub(super) const DISCONNECT: Place = Place(1 << 7);
    pub(super) const AUTH: Place = Place(1 << 8);
    const ANY: u16 = (1 << 9) - 1;
}

/// The data types of §1.5 that properties have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Flag,
    TwoBytes,
    FourBytes,
    Varint,
    Text,
    Binary,
    Pair,
}

/// The table of §2.2.2.2: type, and the places that may have it.
fn definition(id: u8) -> Option<(Shape, u16)> {
    use Shape::{Binary, Flag, FourBytes, Pair, Text, TwoBytes, Varint};
    const CONNECT: u16 = Place::CONNECT.0;
    const WILL: u16 = Place::WILL.0;
    const CONNACK: u16 = Place::CONNACK.0;
    const PUBLISH: u16 = Place::PUBLISH.0;
    const DISCONNECT: u16 = Place::DISCONNECT.0;
    const AUTH: u16 = Place::AUTH.0;
    Some(match id {
        0x01 => (Flag, PUBLISH | WILL),
        0x02 => (FourBytes, PUBLISH | WILL),
        0x03 | 0x08 => (Text, PUBLISH | WILL),
        0x09 => (Binary, PUBLISH | WILL),
        0x0B => (Varint, PUBLISH | Place::SUBSCRIBE.0),
        0x11 => (FourBytes, CONNECT | CONNACK | DISCONNECT),
        0x12 | 0x1A => (Text, CONNACK),
        0x13 => (TwoBytes, CONNACK),
        0x15 => (Text, CONNECT | CONNACK | AUTH),
        0x16 => (Binary, CONNECT | CONNACK | AUTH),
        0x17 | 0x19 => (Flag, CONNECT),
        0x18 => (FourBytes, WILL),
        0x1C => (Text, CONNACK | DISCONNECT),
        0x1F => (Text, CONNACK | Place::ACK.0 | DISCONNECT | AUTH),
        0x21 | 0x22 => (TwoBytes, CONNECT | CONNACK),
        0x23 => (TwoBytes, PUBLISH),
        0x24 | 0x25 | 0x28 | 0x29 | 0x2A => (Flag, CONNACK),
        0x26 => (Pair, Place::ANY),
        0x27 => (FourBytes, CONNECT | CONNACK),
        _ => return None,
    })
}

/// The value of a property, borrowed.
#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u32),
    Bytes(&'a [u8]),
    Pair(&'a [u8], &'a [u8]),
}

/// The properties of one packet, encoded, without the length before them. Empty before 5.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertyList(Bytes);

impl PropertyList {
    /// Checks what was received against the table, the value ranges, and our limits.
    pub(super) fn check(
        section: Bytes,
        place: Place,
        limits: &Limits,
    ) -> Result<PropertyList, DecodeError> {
        if section.is_empty() {
            return Ok(PropertyList::default());
        }
        let (mut seen, mut user_count, mut user_bytes) = (0u64, 0, 0);
        let mut rest = &section[..];
        while let Some(id) = rest.first().copied() {
            rest = &rest[1..];
            let Some((shape, places)) = definition(id) else {
                return Err(DecodeError::Malformed("a property has an unknown identifier"));
            };
            if places & place.0 == 0 {
                return Err(DecodeError::Malformed("a property is not allowed in this packet"));
            }
            // A server may send several subscription identifiers in a PUBLISH (§3.3.2.3.8).
            let repeats = id == 0x26 || (id == 0x0B && place == Place::PUBLISH);
            if seen & (1 << id) != 0 && !repeats {
                return Err(DecodeError::Protocol("a property occurs twice"));
            }
            seen |= 1 << id;
            let value = take_value(&mut rest, shape)?;
            check_value(id, shape, value)?;
            if let Value::Pair(key, value) = value {
                user_count += 1;
                user_bytes += key.len() + value.len();
            }
        }
        if seen & (1 << 0x16) != 0 && seen & (1 << 0x15) == 0 {
            return Err(DecodeError::Protocol("authentication data needs a method"));
        }
        if user_count > limits.user_properties_max || user_bytes > limits.user_property_bytes_max {
            return Err(DecodeError::UserProperties { count: user_count, bytes: user_bytes });
        }
        Ok(PropertyList(section))
    }

    /// Returns true when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The encoded form, without the length before it.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Iterates in the order of the packet. Values share its bytes.
    pub fn iter(&self) -> impl Iterator<Item = Property> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let mut rest = self.0.get(at..)?;
            let (id, value) = take_raw(&mut rest)?;
            at = self.0.len() - rest.len();
            to_property(&self.0, id, value)
        })
    }

    /// Returns the first property for which `pick` returns something.
    pub fn find<T>(&self, pick: impl FnMut(Property) -> Option<T>) -> Option<T> {
        self.iter().find_map(pick)
    }

    /// Returns the value of the first user property with this name.
    pub fn user(&self, name: &[u8]) -> Option<Bytes> {
        self.find(|property| match property {
            Property::User(key, value) if key == name => Some(value),
            _ => None,
        })
    }
}

impl FromIterator<Property> for PropertyList {
    /// Encodes a list in its order. Strings beyond 65,535 bytes are cut: the wire has two bytes for their length.
    fn from_iter<I: IntoIterator<Item = Property>>(list: I) -> PropertyList {
        let mut out = BytesMut::new();
        for property in list {
            put_property(&mut out, &property);
        }
        PropertyList(out.freeze())
    }
}

fn take_raw<'a>(rest: &mut &'a [u8]) -> Option<(u8, Value<'a>)> {
    let id = *rest.first()?;
    *rest = &rest[1..];
    let (shape, _) = definition(id)?;
    take_value(rest, shape).ok().map(|value| (id, value))
}

fn take_value<'a>(rest: &mut &'a [u8], shape: Shape) -> Result<Value<'a>, DecodeError> {
    Ok(match shape {
        Shape::Flag => {
            let (value, tail) = rest.split_first().ok_or(DecodeError::SHORT)?;
            *rest = tail;
            Value::Number(u32::from(*value))
        }
        Shape::TwoBytes => Value::Number(u32::from(take_u16(rest)?)),
        Shape::FourBytes => Value::Number(take_u32(rest)?),
        Shape::Varint => Value::Number(take_varint(rest)?),
        Shape::Text | Shape::Binary => Value::Bytes(take_slice(rest)?),
        Shape::Pair => Value::Pair(take_slice(rest)?, take_slice(rest)?),
    })
}

fn take_slice<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let length = usize::from(take_u16(rest)?);
    let (value, tail) = rest.split_at_checked(length).ok_or(DecodeError::SHORT)?;
    *rest = tail;
    Ok(value)
}

fn check_value(id: u8, shape: Shape, value: Value<'_>) -> Result<(), DecodeError> {
    match (shape, value) {
        (Shape::Flag, Value::Number(2..)) => {
            Err(DecodeError::Protocol("a property of one byte must be 0 or 1"))
        }
        (_, Value::Number(0)) => match id {
            0x0B => Err(DecodeError::Protocol("a subscription identifier must not be 0")),
            0x21 => Err(DecodeError::Protocol("the receive maximum must not be 0")),
            0x23 => Err(DecodeError::TopicAlias { alias: 0 }),
            0x27 => Err(DecodeError::Protocol("the maximum packet size must not be 0")),
            _ => Ok(()),
        },
        (Shape::Text, Value::Bytes(text)) => {
            check_text(text)?;
            let wild = id == 0x08 && text.iter().any(|byte| matches!(byte, b'+' | b'#'));
            match wild {
                // [MQTT-3.3.2-14]
                true => Err(DecodeError::Protocol("a response topic must not have wildcards")),
                false => Ok(()),
            }
        }
        (_, Value::Pair(key, value)) => check_text(key).and_then(|()| check_text(value)),
        _ => Ok(()),
    }
}

fn to_property(section: &Bytes, id: u8, value: Value<'_>) -> Option<Property> {
    let bytes = |slice: &[u8]| section.slice_ref(slice);
    Some(match (id, value) {
        (0x01, Value::Number(number)) => Property::PayloadFormat(number == 1),
        (0x02, Value::Number(number)) => Property::MessageExpiry(number),
        (0x03, Value::Bytes(text)) => Property::ContentType(bytes(text)),
        (0x08, Value::Bytes(text)) => Property::ResponseTopic(bytes(text)),
        (0x09, Value::Bytes(data)) => Property::CorrelationData(bytes(data)),
        (0x0B, Value::Number(number)) => Property::SubscriptionId(number),
        (0x11, Value::Number(number)) => Property::SessionExpiry(number),
        (0x12, Value::Bytes(text)) => Property::AssignedClientId(bytes(text)),
        (0x13, Value::Number(number)) => Property::ServerKeepAlive(number as u16),
        (0x15, Value::Bytes(text)) => Property::AuthenticationMethod(bytes(text)),
        (0x16, Value::Bytes(data)) => Property::AuthenticationData(bytes(data)),
        (0x17, Value::Number(number)) => Property::RequestProblemInformation(number == 1),
        (0x18, Value::Number(number)) => Property::WillDelay(number),
        (0x19, Value::Number(number)) => Property::RequestResponseInformation(number == 1),
        (0x1A, Value::Bytes(text)) => Property::ResponseInformation(bytes(text)),
        (0x1C, Value::Bytes(text)) => Property::ServerReference(bytes(text)),
        (0x1F, Value::Bytes(text)) => Property::ReasonString(bytes(text)),
        (0x21, Value::Number(number)) => Property::ReceiveMaximum(number as u16),
        (0x22, Value::Number(number)) => Property::TopicAliasMaximum(number as u16),
        (0x23, Value::Number(number)) => Property::TopicAlias(number as u16),
        (0x24, Value::Number(number)) => Property::MaximumQoS(number == 1),
        (0x25, Value::Number(number)) => Property::RetainAvailable(number == 1),
        (0x26, Value::Pair(key, value)) => Property::User(bytes(key), bytes(value)),
        (0x27, Value::Number(number)) => Property::MaximumPacketSize(number),
        (0x28, Value::Number(number)) => Property::WildcardSubscriptionAvailable(number == 1),
        (0x29, Value::Number(number)) => Property::SubscriptionIdsAvailable(number == 1),
        (0x2A, Value::Number(number)) => Property::SharedSubscriptionAvailable(number == 1),
        _ => return None,
    })
}

fn put_property(out: &mut BytesMut, property: &Property) {
    match property {
        Property::PayloadFormat(value) => put_flag(out, 0x01, *value),
        Property::MessageExpiry(value) => put_four(out, 0x02, *value),
        Property::ContentType(value) => put_bytes(out, 0x03, value),
        Property::ResponseTopic(value) => put_bytes(out, 0x08, value),
        Property::CorrelationData(value) => put_bytes(out, 0x09, value),
        Property::SubscriptionId(value) => put_subscription_id(out, *value),
        Property::SessionExpiry(value) => put_four(out, 0x11, *value),
        Property::AssignedClientId(value) => put_bytes(out, 0x12, value),
        Property::ServerKeepAlive(value) => put_two(out, 0x13, *value),
        Property::AuthenticationMethod(value) => put_bytes(out, 0x15, value),
        Property::AuthenticationData(value) => put_bytes(out, 0x16, value),
        Property::RequestProblemInformation(value) => put_flag(out, 0x17, *value),
        Property::WillDelay(value) => put_four(out, 0x18, *value),
        Property::RequestResponseInformation(value) => put_flag(out, 0x19, *value),
        Property::ResponseInformation(value) => put_bytes(out, 0x1A, value),
        Property::ServerReference(value) => put_bytes(out, 0x1C, value),
        Property::ReasonString(value) => put_bytes(out, 0x1F, value),
        Property::ReceiveMaximum(value) => put_two(out, 0x21, *value),
        Property::TopicAliasMaximum(value) => put_two(out, 0x22, *value),
        Property::TopicAlias(value) => put_two(out, 0x23, *value),
        Property::MaximumQoS(value) => put_flag(out, 0x24, *value),
        Property::RetainAvailable(value) => put_flag(out, 0x25, *value),
        Property::User(key, value) => put_user(out, key, value),
        Property::MaximumPacketSize(value) => put_four(out, 0x27, *value),
        Property::WildcardSubscriptionAvailable(value) => put_flag(out, 0x28, *value),
        Property::SubscriptionIdsAvailable(value) => put_flag(out, 0x29, *value),
        Property::SharedSubscriptionAvailable(value) => put_flag(out, 0x2A, *value),
    }
}

pub(super) fn put_flag(out: &mut BytesMut, id: u8, value: bool) {
    out.put_slice(&[id, u8::from(value)]);
}

pub(super) fn put_two(out: &mut BytesMut, id: u8, value: u16) {
    out.put_u8(id);
    out.put_u16(value);
}

pub(super) fn put_four(out: &mut BytesMut, id: u8, value: u32) {
    out.put_u8(id);
    out.put_u32(value);
}

pub(super) fn put_bytes(out: &mut BytesMut, id: u8, value: &[u8]) {
    out.put_u8(id);
    put_prefixed(out, value);
}

pub(super) fn put_user(out: &mut BytesMut, key: &[u8], value: &[u8]) {
    out.put_u8(0x26);
    put_prefixed(out, key);
    put_prefixed(out, value);
}

pub(super) fn put_subscription_id(out: &mut BytesMut, id: u32) {
    out.put_u8(0x0B);
    super::codec::primitives::put_varint(out, id);
}

fn put_prefixed(out: &mut BytesMut, value: &[u8]) {
    let length = value.len().min(usize::from(u16::MAX));
    out.put_u16(length as u16);
    out.put_slice(&value[..length]);
}
