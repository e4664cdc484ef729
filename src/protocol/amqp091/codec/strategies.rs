//! Anything that can be written, for properties.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::field::{Reserved, ShortString};
use super::{Array, Properties, Property, Table, Value};

/// A type of which there is a strategy for all its values.
pub(super) trait Any: Sized {
    fn any() -> BoxedStrategy<Self>;
}

macro_rules! any_number {
    ($($type:ty)*) => {
        $( impl Any for $type {
            fn any() -> BoxedStrategy<$type> {
                any::<$type>().boxed()
            }
        } )*
    };
}

any_number! { bool u8 u16 u32 u64 }

impl Any for Bytes {
    fn any() -> BoxedStrategy<Bytes> {
        vec(any::<u8>(), 0..40).prop_map(Bytes::from).boxed()
    }
}

impl Any for ShortString {
    fn any() -> BoxedStrategy<ShortString> {
        let few = vec(any::<u8>(), 0..12);
        let many = vec(any::<u8>(), 250..=255);
        prop_oneof![9 => few, 1 => many]
            .prop_map(|bytes| ShortString::new(Bytes::from(bytes)).unwrap())
            .boxed()
    }
}

impl<T: std::fmt::Debug + Default + 'static> Any for Reserved<T> {
    fn any() -> BoxedStrategy<Reserved<T>> {
        Just(()).prop_map(|()| Reserved::default()).boxed()
    }
}

impl Any for Table {
    fn any() -> BoxedStrategy<Table> {
        entries().prop_map(|entries| table(&entries)).boxed()
    }
}

pub(super) fn entries() -> impl Strategy<Value = Vec<(ShortString, Value)>> {
    vec((ShortString::any(), value()), 0..6)
}

pub(super) fn table(entries: &[(ShortString, Value)]) -> Table {
    Table::encode(entries.iter().map(|(name, value)| (name, value)))
}

/// Values of every type. Not-a-number is left out: it is not equal to itself.
pub(super) fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Boolean),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::Float),
        any::<f64>().prop_map(Value::Double),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| Value::Decimal { scale, value }),
        Bytes::any().prop_map(Value::LongString),
        Bytes::any().prop_map(Value::Binary),
        any::<u64>().prop_map(Value::Timestamp),
        Just(Value::Void),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let named = vec((ShortString::any(), inner.clone()), 0..4);
        prop_oneof![
            vec(inner, 0..4).prop_map(|values| Value::Array(Array::encode(&values))),
            named.prop_map(|entries| Value::Table(table(&entries))),
        ]
    })
}

/// One property of each kind, each there or not.
pub(in super::super) fn properties() -> impl Strategy<Value = (Vec<Property>, Properties)> {
    let text = ShortString::any;
    let all: Vec<BoxedStrategy<Property>> = vec![
        text().prop_map(Property::ContentType).boxed(),
        text().prop_map(Property::ContentEncoding).boxed(),
        Table::any().prop_map(Property::Headers).boxed(),
        any::<u8>().prop_map(Property::DeliveryMode).boxed(),
        any::<u8>().prop_map(Property::Priority).boxed(),
        text().prop_map(Property::CorrelationId).boxed(),
        text().prop_map(Property::ReplyTo).boxed(),
        text().prop_map(Property::Expiration).boxed(),
        text().prop_map(Property::MessageId).boxed(),
        any::<u64>().prop_map(Property::Timestamp).boxed(),
        text().prop_map(Property::Type).boxed(),
        text().prop_map(Property::UserId).boxed(),
        text().prop_map(Property::AppId).boxed(),
        text().prop_map(Property::ClusterId).boxed(),
    ];
    (all, vec(any::<bool>(), 14)).prop_map(|(all, is_there)| {
        let some = all.into_iter().zip(is_there).filter(|(_, is_there)| *is_there);
        let list: Vec<Property> = some.map(|(property, _)| property).collect();
        let encoded = Properties::encode(list.iter().rev().cloned());
        (list, encoded)
    })
}
