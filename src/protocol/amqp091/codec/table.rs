//! Field tables and arrays: typed values, named or not, nested (AMQP 0.9.1 §4.2.5.5, with the types as RabbitMQ writes them).
//!
//! ```text
//! table := (name short string, value)*        array := value*        both behind four bytes of length
//! value := tag u8 · what the tag says         t b B s u I i l L f d T D S x A F V
//! ```
//!
//! A table stays as it came: checked once, kept and passed on byte for byte, and read by walking through it. Whoever asks for a
//! value gets a slice.

use bytes::{Buf, Bytes, BytesMut};

use super::DecodeError;
use super::field::{Field, Reader, SHORT_STRING_BYTES_MAX, ShortString, Writer};

/// Tables and arrays inside one another, at most; what is read walks the stack.
pub const DEPTH_MAX: usize = 32;

/// Named values, in the order they were written. A name may come twice; the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(Bytes);

/// Values without names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Array(Bytes);

/// One value. Two different types are different values, whatever they say.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `t`
    Boolean(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`, and `L`, which is read the same
    I64(i64),
    /// `f`
    Float(f32),
    /// `d`
    Double(f64),
    /// `D`: the number is `value` divided by ten to the power of `scale`.
    Decimal {
        /// Digits behind the point.
        scale: u8,
        /// All digits.
        value: u32,
    },
    /// `S`: text, by convention.
    LongString(Bytes),
    /// `x`
    Binary(Bytes),
    /// `A`
    Array(Array),
    /// `T`: seconds since the epoch.
    Timestamp(u64),
    /// `F`
    Table(Table),
    /// `V`: nothing at all.
    Void,
}

impl Table {
    /// Writes a table.
    ///
    /// Panics if its nesting is deeper than [`DEPTH_MAX`], which nothing that was read can make it by one level.
    pub fn encode<'a>(entries: impl IntoIterator<Item = (&'a ShortString, &'a Value)>) -> Table {
        let mut out = BytesMut::new();
        for (name, value) in entries {
            name.put(&mut Writer::new(&mut out));
            put_value(value, &mut out);
        }
        assert_eq!(check(&out, true, DEPTH_MAX), Ok(()), "what is written can be read");
        Table(out.freeze())
    }

    /// Reads a table that has no length before it: the response of AMQPLAIN.
    pub fn from_contents(contents: Bytes) -> Result<Table, DecodeError> {
        check(&contents, true, DEPTH_MAX)?;
        Ok(Table(contents))
    }

    /// Returns the entries as they are written, without their length.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Returns true when it has no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds the value of a name, the first of that name.
    pub fn get(&self, name: &str) -> Option<Value> {
        self.iter().find(|(found, _)| found.as_bytes() == name.as_bytes()).map(|(_, value)| value)
    }

    /// Finds a value that is true, as capabilities are.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some(Value::Boolean(true))
    }

    /// Iterates over the entries.
    pub fn iter(&self) -> impl Iterator<Item = (ShortString, Value)> {
        self.iter_encoded().map(|(name, value)| (name, read_value(value)))
    }

    /// Iterates over the entries, their values as they are written: two that are equal are of one type and say the same.
    pub fn iter_encoded(&self) -> impl Iterator<Item = (ShortString, Bytes)> {
        let mut rest = self.0.clone();
        std::iter::from_fn(move || {
            let bytes = usize::from(*rest.first()?);
            rest.advance(1);
            let name = ShortString::new(rest.split_to(bytes)).expect("its length had one byte");
            let bytes = value_bytes(&rest).expect("a table is checked when it is read");
            Some((name, rest.split_to(bytes)))
        })
    }

    /// The same with these values instead of those that have their names; what stays is as it was written.
    ///
    /// Panics if a name has more than 255 bytes, or a value is nested deeper than what was read can be.
    pub fn with(&self, entries: &[(&str, Value)]) -> Table {
        let mut out = BytesMut::with_capacity(self.0.len() + entries_bytes(entries));
        for (name, value) in self.iter_encoded() {
            if !entries.iter().any(|(replaced, _)| name.as_bytes() == replaced.as_bytes()) {
                name.put(&mut Writer::new(&mut out));
                out.extend_from_slice(&value);
            }
        }
        put_entries(entries, &mut out);
        Table(out.freeze())
    }

    /// Copies it, so that keeping it does not keep what it was read from.
    pub fn detached(&self) -> Table {
        Table(Bytes::copy_from_slice(&self.0))
    }
}

impl<'a> FromIterator<(&'a str, Value)> for Table {
    /// Panics if a name has more than 255 bytes: names of ours.
    fn from_iter<I: IntoIterator<Item = (&'a str, Value)>>(entries: I) -> Table {
        let mut out = BytesMut::new();
        entries.into_iter().for_each(|(name, value)| put_entry(name, &value, &mut out));
        assert_eq!(check(&out, true, DEPTH_MAX), Ok(()), "what is written can be read");
        Table(out.freeze())
    }
}

impl Array {
    /// Writes an array.
    ///
    /// Panics if its nesting is deeper than [`DEPTH_MAX`].
    pub fn encode<'a>(values: impl IntoIterator<Item = &'a Value>) -> Array {
        let mut out = BytesMut::new();
        values.into_iter().for_each(|value| put_value(value, &mut out));
        assert_eq!(check(&out, false, DEPTH_MAX), Ok(()), "what is written can be read");
        Array(out.freeze())
    }

    /// Iterates over the values.
    pub fn iter(&self) -> impl Iterator<Item = Value> {
        let mut rest = self.0.clone();
        std::iter::from_fn(move || {
            let bytes = (!rest.is_empty())
                .then(|| value_bytes(&rest).expect("an array is checked when it is read"))?;
            Some(read_value(rest.split_to(bytes)))
        })
    }
}

impl Field for Table {
    fn take(reader: &mut Reader) -> Result<Table, DecodeError> {
        Table::from_contents(reader.field()?)
    }

    fn put(&self, writer: &mut Writer<'_>) {
        self.0.put(writer);
    }
}

const SHORT: DecodeError = DecodeError::Short { what: "a table" };

/// Checks that values, named or not, fill `rest`, in a nesting of at most `depth_left`.
fn check(mut rest: &[u8], is_named: bool, depth_left: usize) -> Result<(), DecodeError> {
    let deeper = depth_left.checked_sub(1).ok_or(DecodeError::TooDeep { depth_max: DEPTH_MAX })?;
    while let Some(first) = rest.first() {
        if is_named {
            rest = rest.get(1 + usize::from(*first)..).ok_or(SHORT)?;
        }
        let bytes = value_bytes(rest)?;
        match rest[0] {
            b'F' => check(&rest[5..bytes], true, deeper)?,
            b'A' => check(&rest[5..bytes], false, deeper)?,
            _ => {}
        }
        rest = &rest[bytes..];
    }
    Ok(())
}

/// Returns the bytes of the value at the front, its tag included; they are there.
fn value_bytes(rest: &[u8]) -> Result<usize, DecodeError> {
    let tag = *rest.first().ok_or(SHORT)?;
    let bytes = match tag {
        b'V' => 1,
        b't' | b'b' | b'B' => 2,
        b's' | b'u' => 3,
        b'I' | b'i' | b'f' => 5,
        b'D' => 6,
        b'l' | b'L' | b'd' | b'T' => 9,
        b'S' | b'x' | b'A' | b'F' => {
            let length = rest.get(1..5).ok_or(SHORT)?;
            5 + u32::from_be_bytes(length.try_into().expect("four bytes")) as usize
        }
        tag => return Err(DecodeError::ValueType { tag }),
    };
    if rest.len() < bytes { Err(SHORT) } else { Ok(bytes) }
}

/// Reads a value that was checked.
fn read_value(mut bytes: Bytes) -> Value {
    let tag = bytes.get_u8();
    match tag {
        b't' => Value::Boolean(bytes.get_u8() != 0),
        b'b' => Value::I8(bytes.get_i8()),
        b'B' => Value::U8(bytes.get_u8()),
        b's' => Value::I16(bytes.get_i16()),
        b'u' => Value::U16(bytes.get_u16()),
        b'I' => Value::I32(bytes.get_i32()),
        b'i' => Value::U32(bytes.get_u32()),
        b'l' | b'L' => Value::I64(bytes.get_i64()),
        b'f' => Value::Float(bytes.get_f32()),
        b'd' => Value::Double(bytes.get_f64()),
        b'D' => Value::Decimal { scale: bytes.get_u8(), value: bytes.get_u32() },
        b'T' => Value::Timestamp(bytes.get_u64()),
        b'S' => Value::LongString(bytes.slice(4..)),
        b'x' => Value::Binary(bytes.slice(4..)),
        b'A' => Value::Array(Array(bytes.slice(4..))),
        b'F' => Value::Table(Table(bytes.slice(4..))),
        b'V' => Value::Void,
        tag => unreachable!("a value of type {tag} was checked"),
    }
}

/// Returns the bytes of a value as it is written, its tag included.
fn len_bytes(value: &Value) -> usize {
    match value {
        Value::Void => 1,
        Value::Boolean(_) | Value::I8(_) | Value::U8(_) => 2,
        Value::I16(_) | Value::U16(_) => 3,
        Value::I32(_) | Value::U32(_) | Value::Float(_) => 5,
        Value::Decimal { .. } => 6,
        Value::I64(_) | Value::Double(_) | Value::Timestamp(_) => 9,
        Value::LongString(bytes)
        | Value::Binary(bytes)
        | Value::Array(Array(bytes))
        | Value::Table(Table(bytes)) => 5 + bytes.len(),
    }
}

/// Returns how many bytes entries have in a table.
pub(super) fn entries_bytes(entries: &[(&str, Value)]) -> usize {
    entries.iter().map(|(name, value)| 1 + name.len() + len_bytes(value)).sum()
}

/// Appends entries as a table has them.
///
/// Panics if a name has more than 255 bytes, or a value is nested deeper than what was read can be.
pub(super) fn put_entries(entries: &[(&str, Value)], out: &mut BytesMut) {
    let at = out.len();
    entries.iter().for_each(|(name, value)| put_entry(name, value, out));
    assert_eq!(check(&out[at..], true, DEPTH_MAX), Ok(()), "what is written can be read");
}

/// Panics if the name has more than 255 bytes: one of ours.
fn put_entry(name: &str, value: &Value, out: &mut BytesMut) {
    let length = u8::try_from(name.len()).expect("our own names are short");
    out.extend_from_slice(&[length]);
    out.extend_from_slice(name.as_bytes());
    put_value(value, out);
}

fn put_value(value: &Value, out: &mut BytesMut) {
    let mut writer = Writer::new(out);
    let mut put = |tag: u8, bytes: &[u8]| {
        writer.bytes(&[tag]);
        writer.bytes(bytes);
    };
    match value {
        Value::Boolean(is_true) => put(b't', &[u8::from(*is_true)]),
        Value::I8(number) => put(b'b', &number.to_be_bytes()),
        Value::U8(number) => put(b'B', &number.to_be_bytes()),
        Value::I16(number) => put(b's', &number.to_be_bytes()),
        Value::U16(number) => put(b'u', &number.to_be_bytes()),
        Value::I32(number) => put(b'I', &number.to_be_bytes()),
        Value::U32(number) => put(b'i', &number.to_be_bytes()),
        Value::I64(number) => put(b'l', &number.to_be_bytes()),
        Value::Float(number) => put(b'f', &number.to_be_bytes()),
        Value::Double(number) => put(b'd', &number.to_be_bytes()),
        Value::Decimal { scale, value } => {
            put(b'D', &[*scale]);
            value.put(&mut writer);
        }
        Value::Timestamp(seconds) => put(b'T', &seconds.to_be_bytes()),
        Value::Void => put(b'V', &[]),
        Value::LongString(bytes) => {
            put(b'S', &[]);
            bytes.put(&mut writer);
        }
        Value::Binary(bytes) => {
            put(b'x', &[]);
            bytes.put(&mut writer);
        }
        Value::Array(array) => {
            put(b'A', &[]);
            array.0.put(&mut writer);
        }
        Value::Table(table) => {
            put(b'F', &[]);
            table.0.put(&mut writer);
        }
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Value {
        Value::LongString(Bytes::from_static(text.as_bytes()))
    }
}

// A name has one byte of length.
const _: () = assert!(SHORT_STRING_BYTES_MAX == u8::MAX as usize);
