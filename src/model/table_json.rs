//! Tables of arguments as JSON, in the shape of RabbitMQ's definitions, and back.
//!
//! JSON knows fewer types: every integer becomes a long one, every other number a double. What comes back from JSON as it was is
//! [`is_plain`]; the rest is the same to whoever reads it, and not to whoever compares bytes.

use bytes::Bytes;
use serde_json::{Map, Number, Value};

use super::exchange::fields;

/// Tables within tables; what is deeper is left out.
const DEPTH_MAX: usize = 32;
/// Bytes of a name, at most (AMQP 0.9.1 §4.2.5.3).
const NAME_BYTES_MAX: usize = 255;

/// Why JSON is no table of arguments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A name that is too long.
    #[error("the argument '{name}' has a name of more than {NAME_BYTES_MAX} bytes")]
    Name {
        /// The name.
        name: String,
    },
    /// A number that no type of AMQP 0.9.1 has.
    #[error("the argument '{name}' is {number}, and integers go up to 2^63 - 1")]
    Number {
        /// The argument's name.
        name: String,
        /// Its value.
        number: Number,
    },
    /// Deeper than anybody looks.
    #[error("the argument '{name}' has more than {DEPTH_MAX} tables or lists within each other")]
    Depth {
        /// The argument's name.
        name: String,
    },
}

/// Reads a table as AMQP 0.9.1 encodes it, without its length.
pub fn to_json(table: &[u8]) -> Map<String, Value> {
    map(table, DEPTH_MAX)
}

/// Encodes a table, ascending by name.
pub fn from_json(said: &Map<String, Value>) -> Result<Bytes, TableError> {
    let mut out = Vec::new();
    put_table(said, DEPTH_MAX, &mut out)?;
    Ok(out.into())
}

/// Returns true when a table that was read and written again has the same bytes.
pub fn is_plain(table: &[u8]) -> bool {
    from_json(&to_json(table)).is_ok_and(|again| again == table)
}

fn map(table: &[u8], depth: usize) -> Map<String, Value> {
    let entry = |(name, value): (&[u8], &[u8])| (text(name), value_of(value, depth));
    let mut said = Map::new();
    // Of two of a name the first counts.
    for (name, value) in fields(table).map(entry) {
        said.entry(name).or_insert(value);
    }
    said
}

/// A value with its type in front; `fields` has seen that it is whole.
fn value_of(encoded: &[u8], depth: usize) -> Value {
    let Some((tag, value)) = encoded.split_first() else { return Value::Null };
    match tag {
        b't' => Value::Bool(value.first().is_some_and(|bit| *bit != 0)),
        b'b' | b's' | b'I' | b'l' | b'L' => signed(value).into(),
        b'B' | b'u' | b'i' | b'T' => unsigned(value).into(),
        b'f' => value.first_chunk().map_or(Value::Null, |bytes| f32::from_be_bytes(*bytes).into()),
        b'd' => value.first_chunk().map_or(Value::Null, |bytes| f64::from_be_bytes(*bytes).into()),
        b'D' => match value.split_first() {
            Some((scale, digits)) => {
                (unsigned(digits) as f64 / 10f64.powi(i32::from(*scale))).into()
            }
            None => Value::Null,
        },
        b'S' | b'x' => text(value.get(4..).unwrap_or_default()).into(),
        b'F' if depth > 0 => map(value.get(4..).unwrap_or_default(), depth - 1).into(),
        b'A' if depth > 0 => list(value.get(4..).unwrap_or_default(), depth - 1).into(),
        _ => Value::Null,
    }
}

/// The items of a list are those of a table without names.
fn list(items: &[u8], depth: usize) -> Vec<Value> {
    let mut rest = items;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let named = [&[0], rest].concat();
        let Some((_, value)) = fields(&named).next() else { break };
        found.push(value_of(value, depth));
        rest = &rest[value.len()..];
    }
    found
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn signed(bytes: &[u8]) -> i64 {
    let sign = bytes.first().map_or(0, |first| if *first & 0x80 == 0 { 0 } else { -1 });
    bytes.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte))
}

fn unsigned(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn put_table(said: &Map<String, Value>, depth: usize, out: &mut Vec<u8>) -> Result<(), TableError> {
    let mut names: Vec<&String> = said.keys().collect();
    names.sort_unstable();
    for name in names {
        if name.len() > NAME_BYTES_MAX {
            return Err(TableError::Name { name: name.clone() });
        }
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        put_value(name, &said[name], depth, out)?;
    }
    Ok(())
}

fn put_value(name: &str, value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), TableError> {
    let deeper = || {
        let name = name.to_owned();
        depth.checked_sub(1).ok_or(TableError::Depth { name })
    };
    match value {
        Value::Null => out.push(b'V'),
        Value::Bool(bit) => out.extend([b't', u8::from(*bit)]),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => put(b'l', &integer.to_be_bytes(), out),
            (None, Some(double)) if !number.is_u64() => put(b'd', &double.to_be_bytes(), out),
            _ => {
                let (name, number) = (name.to_owned(), number.clone());
                return Err(TableError::Number { name, number });
            }
        },
        Value::String(text) => put_long(b'S', text.as_bytes(), out),
        Value::Array(items) => {
            let (depth, mut inner) = (deeper()?, Vec::new());
            for item in items {
                put_value(name, item, depth, &mut inner)?;
            }
            put_long(b'A', &inner, out);
        }
        Value::Object(said) => {
            let (depth, mut inner) = (deeper()?, Vec::new());
            put_table(said, depth, &mut inner)?;
            put_long(b'F', &inner, out);
        }
    }
    Ok(())
}

fn put(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(value);
}

fn put_long(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    put(tag, &(value.len() as u32).to_be_bytes(), out);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn what_json_can_say_is_a_table_and_comes_back() {
        let said = object(json!({
            "x-match": "any", "void": null, "bit": true, "long": -3, "double": 1.5, "empty": {},
            "list": [1, "two", [null, false], { "deep": 2.25 }], "table": { "a": "ü", "b": [] }
        }));
        let table = from_json(&said).unwrap();
        assert_eq!(to_json(&table), said);
        assert!(is_plain(&table));
        let long = from_json(&object(json!({ "n": 1 }))).unwrap();
        assert_eq!(&long[..], b"\x01nl\x00\x00\x00\x00\x00\x00\x00\x01");
    }

    #[test]
    fn every_type_of_the_wire_can_be_read() {
        let encoded: [(&[u8], Value); 14] = [
            (b"b\xff", json!(-1)),
            (b"B\xff", json!(255)),
            (b"s\xff\xfe", json!(-2)),
            (b"u\xff\xfe", json!(65_534)),
            (b"I\xff\xff\xff\xfd", json!(-3)),
            (b"i\xff\xff\xff\xfd", json!(4_294_967_293u32)),
            (b"l\x80\x00\x00\x00\x00\x00\x00\x00", json!(i64::MIN)),
            (b"L\x80\x00\x00\x00\x00\x00\x00\x00", json!(i64::MIN)),
            (b"T\x00\x00\x00\x00\x00\x00\x00\x05", json!(5)),
            (b"f\x3f\xc0\x00\x00", json!(1.5)),
            (b"D\x02\x00\x00\x00\x7d", json!(1.25)),
            (b"x\x00\x00\x00\x02ab", json!("ab")),
            (b"A\x00\x00\x00\x05t\x01s\x00\x02", json!([true, 2])),
            (b"V", Value::Null),
        ];
        for (value, expected) in encoded {
            let table = [b"\x01n", value].concat();
            assert_eq!(to_json(&table)["n"], expected);
            assert_eq!(is_plain(&table), matches!(value[0], b'V' | b'l'), "{expected}");
        }
    }

    #[test]
    fn what_no_table_can_say_is_refused_with_its_name() {
        let said = |value: Value| from_json(&object(json!({ "n": value }))).unwrap_err();
        assert!(said(json!(u64::MAX)).to_string().contains("'n' is 18446744073709551615"));
        let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(said(deep), TableError::Depth { name: "n".to_owned() });
        let long = "x".repeat(256);
        let named = from_json(&object(json!({ long.clone(): 1 })));
        assert_eq!(named, Err(TableError::Name { name: long }));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd_to_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            let said = to_json(&bytes);
            if let Ok(table) = from_json(&said) {
                prop_assert_eq!(to_json(&table), said);
            }
        }
    }
}
