//! Exchanges as their clients see them, and as records have them: what routes publishes to queues and to other exchanges (ADR 0054).

use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_index::header_match::{HeaderMatch, MatchMode};

use super::virtual_host::local_part;
use super::{QueueName, Refusal, Token, VirtualHost};

/// What an exchange routes by (AMQP 0.9.1 §3.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExchangeKind {
    /// The routing key is the binding's.
    Direct = 0,
    /// Nothing: whatever is bound gets everything.
    Fanout = 1,
    /// The routing key matches the binding's, a pattern of words.
    Topic = 2,
    /// The headers match the binding's arguments.
    Headers = 3,
}

/// What an exchange was declared to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeSettings {
    /// What it routes by.
    pub kind: ExchangeKind,
    /// Outlives the process.
    pub durable: bool,
    /// Ends with the last binding to it.
    pub auto_delete: bool,
    /// Nobody publishes to it; other exchanges route to it.
    pub internal: bool,
    /// The exchange that gets what it routes nowhere.
    pub alternate: Option<Bytes>,
    /// What else was said: a table as AMQP 0.9.1 encodes it, without its length. Not looked at but to compare.
    pub arguments: Bytes,
}

/// What a client wants of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExchangeCommand {
    /// Makes it, unless it is there and just so; refused where it is there and otherwise.
    Declare(Arc<ExchangeSettings>),
    /// Asks whether it is there; refused where there is none.
    Inspect,
    /// Ends it, and the bindings from it and to it.
    Delete {
        /// Only where nothing is bound to it.
        if_unused: bool,
    },
}

/// Who gets what an exchange routes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// A queue.
    Queue(QueueName),
    /// Another exchange.
    Exchange(Bytes),
}

/// A binding that a client makes or ends. Making it twice makes one; ending one that is not there does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Echoed in `Exchange`.
    pub token: Token,
    /// The exchange that routes.
    pub exchange: Bytes,
    /// Who gets it.
    pub destination: Destination,
    /// What it routes by, for all kinds but headers; part of the binding's name for those too.
    pub routing_key: Bytes,
    /// What it routes by where it looks at headers: a table as AMQP 0.9.1 encodes it, without its length.
    pub arguments: Bytes,
    /// True makes it, false ends it.
    pub is_bound: bool,
}

/// One life of an exchange: its name, and the offset of its declaration. What is there without one has the first offset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExchangeId {
    /// Its name.
    pub name: Bytes,
    /// In the meta partition.
    pub declared: Offset,
}

/// A binding, as records have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExchangeBinding {
    /// The exchange that routes.
    pub exchange: ExchangeId,
    /// Its kind.
    pub kind: ExchangeKind,
    /// What it routes by.
    pub routing_key: Bytes,
    /// What it routes headers by, ascending by name.
    pub arguments: Bytes,
}

/// The topics of all protocols, as an exchange.
pub const TOPIC_EXCHANGE: &str = "amq.topic";

/// Returns true for the exchange that is the topics of a virtual host.
pub fn is_topics(name: &[u8]) -> bool {
    local_part(name) == TOPIC_EXCHANGE.as_bytes()
}

/// Exchanges that are there without a record, in every virtual host.
const PREDECLARED: [(&str, ExchangeKind); 5] = [
    ("amq.direct", ExchangeKind::Direct),
    ("amq.fanout", ExchangeKind::Fanout),
    ("amq.headers", ExchangeKind::Headers),
    ("amq.match", ExchangeKind::Headers),
    (TOPIC_EXCHANGE, ExchangeKind::Topic),
];

impl ExchangeKind {
    /// All of them.
    pub const ALL: [ExchangeKind; 4] =
        [ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic, ExchangeKind::Headers];

    /// Reads the type of a declaration.
    pub fn from_name(name: &[u8]) -> Option<ExchangeKind> {
        ExchangeKind::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
    }

    /// Its name in a declaration.
    pub fn name(self) -> &'static str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Headers => "headers",
        }
    }
}

impl ExchangeSettings {
    /// Those of an exchange that is there without a declaration, if this is one.
    pub fn predeclared(name: &[u8]) -> Option<ExchangeSettings> {
        let name = local_part(name);
        let (_, kind) = PREDECLARED.into_iter().find(|(known, _)| known.as_bytes() == name)?;
        Some(ExchangeSettings {
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            alternate: None,
            arguments: Bytes::new(),
        })
    }

    /// Names all that are there without a declaration.
    pub fn predeclared_names() -> impl Iterator<Item = &'static str> {
        PREDECLARED.into_iter().map(|(name, _)| name)
    }

    /// The same with its arguments in order, and in memory of their own.
    pub fn checked(&self) -> ExchangeSettings {
        ExchangeSettings {
            alternate: self.alternate.as_ref().map(|name| Bytes::copy_from_slice(name)),
            arguments: in_order(&self.arguments),
            ..self.clone()
        }
    }

    /// Names the first thing in which two declarations differ, both [`checked`](ExchangeSettings::checked).
    pub fn difference(&self, other: &ExchangeSettings) -> Option<&'static str> {
        let same = [
            ("type", self.kind == other.kind),
            ("durable", self.durable == other.durable),
            ("auto-delete", self.auto_delete == other.auto_delete),
            ("internal", self.internal == other.internal),
            ("alternate-exchange", self.alternate == other.alternate),
            ("arguments", self.arguments == other.arguments),
        ];
        same.into_iter().find(|(_, is_same)| !is_same).map(|(setting, _)| setting)
    }
}

impl ExchangeId {
    /// Names an exchange that is there without a declaration, if this is one.
    pub fn predeclared(name: &Bytes) -> Option<ExchangeId> {
        ExchangeSettings::predeclared(name)?;
        Some(ExchangeId { name: name.clone(), declared: Offset::ZERO })
    }

    /// The same in memory of its own.
    pub fn detached(&self) -> ExchangeId {
        ExchangeId { name: Bytes::copy_from_slice(&self.name), declared: self.declared }
    }

    /// Returns true for names that clients cannot give: the default exchange's, and all that begin as the broker's own do.
    pub fn is_reserved(name: &[u8]) -> bool {
        let name = local_part(name);
        name.is_empty() || name.starts_with(b"amq.")
    }
}

impl ExchangeBinding {
    /// A binding to an exchange of this kind, in memory of its own.
    pub fn new(
        exchange: ExchangeId,
        kind: ExchangeKind,
        routing_key: &[u8],
        arguments: &[u8],
    ) -> ExchangeBinding {
        ExchangeBinding {
            exchange: exchange.detached(),
            kind,
            routing_key: Bytes::copy_from_slice(routing_key),
            arguments: in_order(arguments),
        }
    }

    /// The same in memory of its own: keeping it keeps no frame.
    pub fn detached(&self) -> ExchangeBinding {
        ExchangeBinding {
            exchange: self.exchange.detached(),
            kind: self.kind,
            routing_key: Bytes::copy_from_slice(&self.routing_key),
            arguments: Bytes::copy_from_slice(&self.arguments),
        }
    }

    /// What it asks of headers; `None` where it says how in a way that there is not.
    pub fn header_match(&self) -> Option<HeaderMatch> {
        let said = fields(&self.arguments).find(|(name, _)| *name == b"x-match");
        let mode = match said {
            None => MatchMode::default(),
            Some((_, value)) => MatchMode::from_name(long_string(value)?)?,
        };
        // A value of type `V` asks for the header, whatever it says.
        let wanted = fields(&self.arguments)
            .map(|(name, value)| (name, Some(value).filter(|value| *value != b"V")));
        Some(HeaderMatch::new(mode, wanted))
    }
}

/// Iterates over the entries of a table as AMQP 0.9.1 encodes it, without its length: names, and values with their type. Ends where it
/// makes no sense.
pub fn fields(table: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = table;
    std::iter::from_fn(move || {
        let (length, behind) = rest.split_first()?;
        let (name, behind) = behind.split_at_checked(usize::from(*length))?;
        let (value, behind) = behind.split_at_checked(value_bytes(behind)?)?;
        rest = behind;
        Some((name, value))
    })
}

/// Returns true when two values say the same, whatever their types: numbers and texts by what they are, all others by their bytes. So
/// RabbitMQ compares them, and what was written down as JSON has no other way to match what clients send.
pub fn is_same_value(one: &[u8], other: &[u8]) -> bool {
    one == other
        || match (Said::of(one), Said::of(other)) {
            (Said::Integer(one), Said::Integer(other)) => one == other,
            (Said::Float(one), Said::Float(other)) => one == other,
            (Said::Integer(one), Said::Float(other)) | (Said::Float(other), Said::Integer(one)) => {
                one as f64 == other
            }
            (Said::Text(one), Said::Text(other)) => one == other,
            _ => false,
        }
}

/// What a value says that does not depend on its type.
enum Said<'a> {
    Integer(i128),
    Float(f64),
    Text(&'a [u8]),
    Else,
}

impl Said<'_> {
    fn of(value: &[u8]) -> Said<'_> {
        let Some((tag, bytes)) = value.split_first() else { return Said::Else };
        let unsigned = || bytes.iter().fold(0, |number, byte| number << 8 | i128::from(*byte));
        match tag {
            b'b' | b's' | b'I' | b'l' | b'L' => {
                let is_negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
                let beyond = if is_negative { 1 << (8 * bytes.len()) } else { 0 };
                Said::Integer(unsigned() - beyond)
            }
            b'B' | b'u' | b'i' | b'T' => Said::Integer(unsigned()),
            b'f' => bytes
                .first_chunk()
                .map_or(Said::Else, |it| Said::Float(f32::from_be_bytes(*it).into())),
            b'd' => {
                bytes.first_chunk().map_or(Said::Else, |it| Said::Float(f64::from_be_bytes(*it)))
            }
            b'S' | b'x' => bytes.get(4..).map_or(Said::Else, Said::Text),
            _ => Said::Else,
        }
    }
}

/// The bytes of the value at the front, its type among them (AMQP 0.9.1 §4.2.1, as RabbitMQ writes it).
fn value_bytes(encoded: &[u8]) -> Option<usize> {
    let (tag, behind) = encoded.split_first()?;
    let bytes = match tag {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        b'S' | b'x' | b'A' | b'F' => {
            let length = u32::from_be_bytes(*behind.first_chunk()?);
            usize::try_from(length).ok()?.checked_add(4)?
        }
        _ => return None,
    };
    bytes.checked_add(1)
}

/// Iterates over the texts of an array, as a value of [`fields`] is encoded. Of any other value there are none.
pub fn texts(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = value.strip_prefix(b"A").and_then(|array| array.get(4..)).unwrap_or_default();
    let values = std::iter::from_fn(move || {
        let (value, behind) = rest.split_at_checked(value_bytes(rest)?)?;
        rest = behind;
        Some(value)
    });
    values.filter_map(long_string)
}

fn long_string(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"S").and_then(|text| text.get(4..))
}

/// A table's entries ascending by name, each once: of two of a name the first counts.
fn in_order(table: &[u8]) -> Bytes {
    let mut entries: Vec<(&[u8], &[u8])> = fields(table).collect();
    entries.sort_by_key(|(name, _)| *name);
    entries.dedup_by_key(|(name, _)| *name);
    let mut out = Vec::with_capacity(table.len());
    for (name, value) in entries {
        out.push(name.len() as u8);
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
    out.into()
}

/// Why an exchange is not what it was asked to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeRefusal {
    /// There is none of this name.
    #[error("there is no exchange '{exchange}'")]
    Missing {
        /// The name.
        exchange: String,
    },
    /// A declaration is never rewritten.
    #[error(
        "exchange '{exchange}' was declared with another '{setting}': delete the exchange first, or declare what it is"
    )]
    Differs {
        /// The exchange.
        exchange: String,
        /// What differs.
        setting: &'static str,
        /// What it is.
        current: Arc<ExchangeSettings>,
    },
    /// Something is bound to it.
    #[error("exchange '{exchange}' has bindings: unbind what is bound to it first")]
    InUse {
        /// The exchange.
        exchange: String,
    },
    /// It is the broker's own, or named like one.
    #[error("exchange '{exchange}' is the broker's own, as is every name that begins with 'amq.'")]
    Reserved {
        /// The exchange.
        exchange: String,
    },
    /// Not allowed to this client.
    #[error("not authorized for exchange '{exchange}'")]
    Forbidden {
        /// The exchange.
        exchange: String,
    },
    /// Only exchanges publish to it.
    #[error("exchange '{exchange}' is internal: publish to one that it is bound to")]
    Internal {
        /// The exchange.
        exchange: String,
    },
}

impl ExchangeRefusal {
    /// There is no exchange of a name.
    pub fn missing(exchange: &[u8]) -> Refusal {
        ExchangeRefusal::Missing { exchange: shown(exchange) }.into()
    }

    /// An exchange is the broker's own.
    pub fn reserved(exchange: &[u8]) -> Refusal {
        ExchangeRefusal::Reserved { exchange: shown(exchange) }.into()
    }

    /// Something is bound to an exchange.
    pub fn in_use(exchange: &[u8]) -> Refusal {
        ExchangeRefusal::InUse { exchange: shown(exchange) }.into()
    }

    /// A client may not do that with an exchange.
    pub fn forbidden(exchange: &[u8]) -> Refusal {
        ExchangeRefusal::Forbidden { exchange: shown(exchange) }.into()
    }

    /// Only exchanges publish to an exchange.
    pub fn internal(exchange: &[u8]) -> Refusal {
        ExchangeRefusal::Internal { exchange: shown(exchange) }.into()
    }

    /// An exchange was declared otherwise.
    pub fn differs(
        exchange: &[u8],
        setting: &'static str,
        current: Arc<ExchangeSettings>,
    ) -> Refusal {
        ExchangeRefusal::Differs { exchange: shown(exchange), setting, current }.into()
    }
}

impl From<ExchangeRefusal> for Refusal {
    fn from(refusal: ExchangeRefusal) -> Refusal {
        Refusal::Exchange(Box::new(refusal))
    }
}

/// As AMQP, which nobody but asks, has it.
fn shown(level: &[u8]) -> String {
    let (_, name) = VirtualHost::of_level(level);
    String::from_utf8_lossy(&name).into_owned()
}

#[cfg(test)]
mod tests {
    use fluxmq_index::header_match::Headers;
    use proptest::prelude::*;

    use super::*;

    fn text(value: &str) -> Vec<u8> {
        [b"S", &(value.len() as u32).to_be_bytes()[..], value.as_bytes()].concat()
    }

    fn table(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let entry =
            |(name, value): &(&str, &[u8])| [&[name.len() as u8], name.as_bytes(), value].concat();
        entries.iter().flat_map(entry).collect()
    }

    fn binding(arguments: &[u8]) -> ExchangeBinding {
        let name = Bytes::from_static(b"amq.headers");
        let exchange = ExchangeId::predeclared(&name).unwrap();
        ExchangeBinding::new(exchange, ExchangeKind::Headers, b"", arguments)
    }

    #[test]
    fn a_table_is_read_entry_by_entry_and_ends_where_it_makes_no_sense() {
        let all: [(&str, &[u8]); 6] = [
            ("void", b"V"),
            ("bit", b"t\x01"),
            ("short", b"s\x00\x02"),
            ("decimal", b"D\x00\x00\x00\x00\x01"),
            ("long", b"l\x00\x00\x00\x00\x00\x00\x00\x07"),
            ("list", b"A\x00\x00\x00\x02t\x01"),
        ];
        let mut encoded = table(&all);
        let found: Vec<_> = fields(&encoded).map(|(name, value)| (name.to_vec(), value)).collect();
        assert_eq!(found, all.map(|(name, value)| (name.as_bytes().to_vec(), value)));

        encoded.extend_from_slice(b"\x01xS\xff\xff\xff\xff");
        assert_eq!(fields(&encoded).count(), 6);
        assert_eq!(fields(&encoded[..encoded.len() - 12]).count(), 5);
    }

    #[test]
    fn two_tables_that_say_the_same_are_the_same_binding() {
        let (one, two) = (text("1"), text("2"));
        let first = binding(&table(&[("b", &one), ("a", &two), ("b", &two)]));
        assert_eq!(first, binding(&table(&[("a", &two), ("b", &one)])));
        assert_ne!(first, binding(&table(&[("a", &two), ("b", &two)])));
    }

    #[test]
    fn values_are_the_same_when_they_say_the_same_whatever_their_types() {
        let same: [(&[u8], &[u8]); 6] = [
            (b"I\x00\x00\x00\x2a", b"l\x00\x00\x00\x00\x00\x00\x00\x2a"),
            (b"b\xff", b"s\xff\xff"),
            (b"B\xff", b"u\x00\xff"),
            (b"b\x02", b"d\x40\x00\x00\x00\x00\x00\x00\x00"),
            (b"f\x3f\xc0\x00\x00", b"d\x3f\xf8\x00\x00\x00\x00\x00\x00"),
            (b"S\x00\x00\x00\x01a", b"x\x00\x00\x00\x01a"),
        ];
        for (one, other) in same {
            assert!(is_same_value(one, other) && is_same_value(other, one), "{one:?} {other:?}");
        }
        let other: [(&[u8], &[u8]); 5] = [
            (b"b\xff", b"B\xff"),
            (b"t\x01", b"b\x01"),
            (b"V", b"b\x00"),
            (b"S\x00\x00\x00\x011", b"b\x01"),
            (b"A\x00\x00\x00\x02b\x01", b"A\x00\x00\x00\x03s\x00\x01"),
        ];
        for (one, other) in other {
            assert!(!is_same_value(one, other) && !is_same_value(other, one), "{one:?} {other:?}");
        }
    }

    #[test]
    fn arguments_say_what_headers_are_asked_for() {
        let (red, any, odd) = (text("red"), text("any"), text("most"));
        let wanted: [(&str, &[u8]); 2] = [("colour", &red), ("size", b"V")];
        let said = |encoded: &[u8], asks: &ExchangeBinding| {
            let headers: Headers<'_> = fields(encoded).collect();
            asks.header_match().unwrap().matches(&headers, is_same_value)
        };
        let both = table(&[("size", b"t\x00"), ("colour", &red)]);
        let one = table(&[("colour", &red)]);
        let all = binding(&table(&wanted));
        assert!(said(&both, &all) && !said(&one, &all));
        let some = binding(&table(&[wanted[0], wanted[1], ("x-match", &any)]));
        assert!(said(&one, &some) && !said(&table(&[("colour", &any)]), &some));
        assert_eq!(binding(&table(&[("x-match", &odd)])).header_match(), None);
        assert_eq!(binding(&table(&[("x-match", b"t\x01")])).header_match(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd_to_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let sorted = in_order(&bytes);
            prop_assert!(sorted.len() <= bytes.len());
            prop_assert_eq!(in_order(&sorted), sorted);
        }
    }
}
