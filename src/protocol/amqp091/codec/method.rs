//! What is made of the list of methods: their types, their codec and, for tests, a strategy for each.

use bytes::{Bytes, BytesMut};

use super::field::{Field, Reader, Writer};
use super::frame::{self, FrameKind};
use super::{DecodeError, Frame};

/// Defines methods: class, number, type, name, and fields in their order.
macro_rules! methods {
    ($(
        $(#[$doc:meta])*
        $class:literal $number:literal $name:ident $text:literal {
            $( $(#[$field_doc:meta])* $field:ident: $type:ty, )*
        }
    )*) => {
        /// One method, of any class and either direction.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is named after its type, which says what it is")]
        pub enum Method {
            $( $name($name), )*
        }

        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq, Eq)]
            pub struct $name {
                $( $(#[$field_doc])* pub $field: $type, )*
            }

            impl From<$name> for Method {
                fn from(method: $name) -> Method {
                    Method::$name(method)
                }
            }
        )*

        impl Method {
            /// Its class and number.
            pub fn id(&self) -> (u16, u16) {
                match self {
                    $( Method::$name(_) => ($class, $number), )*
                }
            }

            /// Its name in the specification, as in `basic.publish`.
            pub fn name(&self) -> &'static str {
                match self {
                    $( Method::$name(_) => $text, )*
                }
            }

            #[allow(unused_variables, reason = "some methods have no fields")]
            pub(super) fn put(&self, writer: &mut Writer<'_>) {
                match self {
                    $( Method::$name(method) => { $( method.$field.put(writer); )* } )*
                }
            }
        }

        pub(super) fn take(id: (u16, u16), reader: &mut Reader) -> Result<Method, DecodeError> {
            let (class, method) = id;
            Ok(match id {
                $( ($class, $number) => Method::$name($name { $( $field: reader.field()?, )* }), )*
                _ => return Err(DecodeError::UnknownMethod { class, method }),
            })
        }

        /// A strategy for each method, in the order of the list.
        #[cfg(test)]
        pub(in super::super) fn strategies() -> Vec<proptest::strategy::BoxedStrategy<Method>> {
            use crate::protocol::amqp091::codec::strategies::Any;
            use proptest::prelude::*;
            vec![$(
                (Just(()), $( <$type as Any>::any(), )*)
                    .prop_map(|((), $( $field, )*)| Method::from($name { $( $field, )* }))
                    .boxed(),
            )*]
        }
    };
}

mod list;

use list::take;
pub use list::*;

impl Method {
    /// Reads the payload of a method frame.
    pub fn decode(payload: Bytes) -> Result<Method, DecodeError> {
        let mut reader = Reader::new(payload, "a method");
        let id = (reader.field()?, reader.field()?);
        let method = take(id, &mut reader)?;
        reader.finish()?;
        Ok(method)
    }

    /// Appends it as a frame.
    pub fn encode(&self, channel: u16, out: &mut BytesMut) {
        frame::encode(FrameKind::Method, channel, out, |out| {
            let mut writer = Writer::new(out);
            let (class, number) = self.id();
            class.put(&mut writer);
            number.put(&mut writer);
            self.put(&mut writer);
        });
    }
}

/// Which method a frame holds, though its fields may be malformed: for what is said about it when it is refused. Zeros for none.
pub fn peek_id(frame: &Frame) -> (u16, u16) {
    match (frame.kind, &frame.payload[..]) {
        (FrameKind::Method, [class_high, class, method_high, method, ..]) => {
            (u16::from_be_bytes([*class_high, *class]), u16::from_be_bytes([*method_high, *method]))
        }
        _ => (0, 0),
    }
}

#[cfg(test)]
pub(super) use list::strategies;
