//! What a publisher says about a message beside its body, in one neutral, compact encoding.
//!
//! A sequence of `tag u8 · length varint · value`, in the order the publisher gave. A user property's value is
//! `key length varint · key · value`. Kept as bytes: most messages are stored and passed on without anyone looking inside.

use bytes::{BufMut, Bytes, BytesMut};

use super::death;

/// The encoded list. Empty for most messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(Bytes);

/// One property. Unknown tags are kept when passed on as bytes and skipped when iterated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// True when the payload is UTF-8 text.
    PayloadFormat(bool),
    /// A MIME type or whatever the two sides agreed on.
    ContentType(Bytes),
    /// Where to answer.
    ResponseTopic(Bytes),
    /// Ties an answer to its request.
    CorrelationData(Bytes),
    /// A name and a value of the application's own; may repeat.
    User(Bytes, Bytes),
    /// What AMQP 0.9.1 says and the others cannot: where it was published and its property list, as they came. For its own readers; other
    /// protocols pass it over.
    Amqp091(Bytes),
}

impl Property {
    fn tag(&self) -> u8 {
        match self {
            Property::PayloadFormat(_) => 1,
            Property::ContentType(_) => 2,
            Property::ResponseTopic(_) => 3,
            Property::CorrelationData(_) => 4,
            Property::User(..) => 5,
            Property::Amqp091(_) => 6,
        }
    }
}

impl Properties {
    /// Those of a message that AMQP 0.9.1 published, and of which it says nothing that is not said otherwise.
    pub const PLAIN_AMQP091: Properties = Properties(Bytes::from_static(&[6, 0]));

    /// Encodes a list in its order.
    pub fn encode<'a>(list: impl IntoIterator<Item = &'a Property>) -> Properties {
        let mut out = BytesMut::new();
        for property in list {
            out.put_u8(property.tag());
            match property {
                Property::PayloadFormat(text) => put_value(&mut out, &[u8::from(*text)]),
                Property::ContentType(value)
                | Property::ResponseTopic(value)
                | Property::CorrelationData(value)
                | Property::Amqp091(value) => put_value(&mut out, value),
                Property::User(key, value) => {
                    let key_prefix = varint_len(key.len());
                    put_varint(&mut out, key_prefix + key.len() + value.len());
                    put_value(&mut out, key);
                    out.put_slice(value);
                }
            }
        }
        Properties(out.freeze())
    }

    /// Wraps bytes that [`Properties::as_bytes`] returned earlier.
    pub fn from_encoded(bytes: Bytes) -> Properties {
        Properties(bytes)
    }

    /// Returns the encoded form, as stored in records.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Returns true when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true when there is none that all protocols know: the usual message, of which nobody need look further.
    pub fn is_plain(&self) -> bool {
        self.0.is_empty() || *self == Properties::PLAIN_AMQP091
    }

    /// Iterates over the known properties; stops at the first malformed byte, which a checksummed record never has.
    pub fn iter(&self) -> impl Iterator<Item = Property> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            loop {
                if let Some(property) = take_property(&self.0, &mut rest)? {
                    return Some(property);
                }
            }
        })
    }
}

/// Returns true for names of user properties that publishers cannot set: the broker's own, and those of delivery properties.
pub fn is_reserved(key: &[u8]) -> bool {
    const NAMES: [&[u8]; 14] = [
        b"message-id",
        b"group-id",
        b"queue",
        b"offset",
        b"delivery-count",
        b"x-source-topic",
        b"x-source-timestamp",
        b"x-stream-offset",
        b"x-stream-partition",
        b"x-gap",
        b"x-stream-timestamp",
        b"x-work-group",
        b"x-work-committed-offset",
        b"x-work-acked",
    ];
    key.starts_with(b"_flux.") || NAMES.contains(&key) || death::NAMES.contains(&key)
}

/// Takes one property of `all` off the front of the rest of it: `None` at the end or at malformed bytes, `Some(None)` for an unknown tag.
fn take_property(all: &Bytes, rest: &mut &[u8]) -> Option<Option<Property>> {
    let (tag, behind) = rest.split_first()?;
    *rest = behind;
    let mut value = take_value(rest)?;
    Some(match tag {
        1 => Some(Property::PayloadFormat(value.first() == Some(&1))),
        2 => Some(Property::ContentType(all.slice_ref(value))),
        3 => Some(Property::ResponseTopic(all.slice_ref(value))),
        4 => Some(Property::CorrelationData(all.slice_ref(value))),
        5 => {
            let key = take_value(&mut value)?;
            Some(Property::User(all.slice_ref(key), all.slice_ref(value)))
        }
        6 => Some(Property::Amqp091(all.slice_ref(value))),
        _ => None,
    })
}

fn take_value<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
        if shift > 28 {
            return None;
        }
    }
    let (value, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(value)
}

fn put_value(out: &mut BytesMut, value: &[u8]) {
    put_varint(out, value.len());
    out.put_slice(value);
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint_len(value: usize) -> usize {
    let bits = usize::BITS - value.max(1).leading_zeros();
    bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn property() -> impl Strategy<Value = Property> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        prop_oneof![
            any::<bool>().prop_map(Property::PayloadFormat),
            bytes().prop_map(Property::ContentType),
            bytes().prop_map(Property::ResponseTopic),
            bytes().prop_map(Property::CorrelationData),
            (bytes(), bytes()).prop_map(|(key, value)| Property::User(key, value)),
            bytes().prop_map(Property::Amqp091),
        ]
    }

    proptest! {
        #[test]
        fn a_list_comes_back_in_its_order(list in proptest::collection::vec(property(), 0..8)) {
            let encoded = Properties::encode(&list);
            prop_assert_eq!(encoded.iter().collect::<Vec<_>>(), list);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let count = Properties::from_encoded(Bytes::from(bytes)).iter().count();
            prop_assert!(count <= 64);
        }
    }
}
