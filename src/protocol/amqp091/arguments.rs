//! What `queue.declare` says, as settings of a queue, and settings as what `queue.declare` could have said.
//!
//! Refusals have RabbitMQ's words, which clients look at.

use std::borrow::Cow;

use bytes::Bytes;

use super::ReplyCode;
use super::codec::method::QueueDeclare;
use super::codec::{ShortString, Table, Value};
use super::convert::lossy;
use super::violation::Violation;
use crate::model::queue::{
    DELIVERIES_MAX, DeadLetterExchange, DeadLetterTarget, DeadLetters, Lifetime, Overflow,
    PRIORITY_MAX, QueueKind, QueueLimits,
};
use crate::model::{QueueSettings, VirtualHost};

const DAY_MS: u64 = 24 * 3_600_000;
/// The highest `x-max-priority` that RabbitMQ takes; what is above ours counts as ours.
const PRIORITY_ARGUMENT_MAX: u64 = 255;

/// A queue, as texts name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) queue: &'a str,
    pub(super) host: &'a VirtualHost,
}

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "queue '{}' in vhost '{}'", self.queue, self.host)
    }
}

/// The types of queues that clients ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Classic,
    /// A classic one whose messages are not delivered for ever: every durable queue is replicated here.
    Quorum,
    Stream,
}

impl Type {
    /// As RabbitMQ's texts name it.
    fn name(self) -> &'static str {
        match self {
            Type::Classic => "rabbit_classic_queue",
            Type::Quorum => "rabbit_quorum_queue",
            Type::Stream => "rabbit_stream_queue",
        }
    }
}

/// Reads a declaration.
pub(super) fn settings(
    declare: &QueueDeclare,
    named: Named<'_>,
) -> Result<QueueSettings, Violation> {
    let arguments = Arguments { table: &declare.arguments, named };
    let kind = match arguments.text("x-queue-type")?.as_deref() {
        None | Some("classic") => Type::Classic,
        Some("quorum") => Type::Quorum,
        Some("stream") => Type::Stream,
        Some(_) => return Err(arguments.invalid("x-queue-type", "invalid_queue_type")),
    };
    if kind != Type::Classic {
        check_lasting(declare, kind, named)?;
    }
    if kind == Type::Stream {
        check_stream(declare, named)?;
    }
    let overflow = arguments.overflow()?;
    let settings = QueueSettings {
        kind: if kind == Type::Stream { QueueKind::Stream } else { QueueKind::Classic },
        deliveries_max: arguments.deliveries_max(kind)?,
        dead_letters: arguments.dead_letters()?,
        // What is to live no time at all still has to be stored and delivered.
        ttl_ms: arguments.count("x-message-ttl")?.map(|ttl_ms| ttl_ms.max(1)),
        limits: QueueLimits {
            messages_max: arguments.positive("x-max-length")?,
            bytes_max: arguments.positive("x-max-length-bytes")?,
            age_max_ms: arguments.age_ms()?,
            overflow: match overflow {
                None | Some("drop-head") => Overflow::DropHead,
                Some("reject-publish") => Overflow::RejectPublish,
                Some(_) => Overflow::RejectPublishDlx,
            },
        },
        single_active: arguments.flag("x-single-active-consumer")?,
        priority_max: arguments.priority_max()?,
        lifetime: match (declare.exclusive, declare.durable) {
            (true, _) => Lifetime::Owned,
            (false, true) => Lifetime::Durable,
            (false, false) => Lifetime::Transient,
        },
        auto_delete: declare.auto_delete,
        expires_ms: arguments.positive("x-expires")?,
        ..QueueSettings::default()
    };
    settings.checked().map_err(|error| {
        let text = format!("invalid arguments for {named}: {error}");
        Violation::new(ReplyCode::PreconditionFailed, text)
    })
}

/// Arguments that other queues know and streams do not.
const NOT_OF_STREAMS: [&str; 11] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-max-length",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-single-active-consumer",
    "x-delivery-limit",
];

/// A stream is read in order, by everybody: it has no rules for single messages.
fn check_stream(declare: &QueueDeclare, named: Named<'_>) -> Result<(), Violation> {
    match NOT_OF_STREAMS.iter().find(|name| declare.arguments.get(name).is_some()) {
        None => Ok(()),
        Some(name) => {
            let text =
                format!("invalid arg '{name}' for {named} of queue type {}", Type::Stream.name());
            Err(Violation::new(ReplyCode::PreconditionFailed, text))
        }
    }
}

/// Quorum queues and streams outlive everything, and whoever declared them: they have names.
fn check_lasting(declare: &QueueDeclare, kind: Type, named: Named<'_>) -> Result<(), Violation> {
    if declare.queue.is_empty() {
        let text = format!("Cannot declare a server-named queue for type {}", kind.name());
        return Err(Violation::new(ReplyCode::PreconditionFailed, text));
    }
    let properties = [
        ("auto-delete", declare.auto_delete),
        ("exclusive-owner", declare.exclusive),
        ("non-durable", !declare.durable),
    ];
    match properties.into_iter().find(|(_, is_set)| *is_set) {
        None => Ok(()),
        Some((property, _)) => {
            let text = format!("invalid property '{property}' for {named}");
            Err(Violation::new(ReplyCode::PreconditionFailed, text))
        }
    }
}

/// The arguments of one declaration, or of one consumer.
#[derive(Clone, Copy)]
pub(super) struct Arguments<'a> {
    pub(super) table: &'a Table,
    pub(super) named: Named<'a>,
}

impl Arguments<'_> {
    pub(super) fn invalid(&self, name: &str, reason: impl std::fmt::Display) -> Violation {
        let text = format!("invalid arg '{name}' for {}: {reason}", self.named);
        Violation::new(ReplyCode::PreconditionFailed, text)
    }

    fn unacceptable(&self, name: &str, value: &Value) -> Violation {
        self.invalid(name, format_args!("{{unacceptable_type,{}}}", type_name(value)))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Violation> {
        match self.table.get(name) {
            None => Ok(None),
            Some(Value::LongString(text)) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Some(value) => Err(self.unacceptable(name, &value)),
        }
    }

    fn bytes(&self, name: &str) -> Result<Option<Bytes>, Violation> {
        match self.table.get(name) {
            None => Ok(None),
            Some(Value::LongString(bytes)) => Ok(Some(bytes)),
            Some(value) => Err(self.unacceptable(name, &value)),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, Violation> {
        match self.table.get(name) {
            None => Ok(false),
            Some(Value::Boolean(is_true)) => Ok(is_true),
            Some(value) => Err(self.unacceptable(name, &value)),
        }
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Violation> {
        let Some(value) = self.table.get(name) else { return Ok(None) };
        match integer(&value) {
            Some(number) => Ok(Some(number)),
            None => Err(self.unacceptable(name, &value)),
        }
    }

    fn count(&self, name: &str) -> Result<Option<u64>, Violation> {
        let Some(number) = self.number(name)? else { return Ok(None) };
        match u64::try_from(number) {
            Ok(count) => Ok(Some(count)),
            Err(_) => Err(self.invalid(name, format_args!("{{value_negative,{number}}}"))),
        }
    }

    /// A limit of nothing is none here: no queue is empty for ever.
    fn positive(&self, name: &str) -> Result<Option<u64>, Violation> {
        match self.count(name)? {
            Some(0) => Err(self.invalid(name, "{value_zero,0}")),
            count => Ok(count),
        }
    }

    /// A number and its unit, as in `7D`.
    fn age_ms(&self) -> Result<Option<u64>, Violation> {
        const NAME: &str = "x-max-age";
        let Some(text) = self.text(NAME)? else { return Ok(None) };
        interval_ms(&text).map(Some).ok_or_else(|| self.invalid(NAME, "invalid_max_age"))
    }

    fn priority_max(&self) -> Result<u8, Violation> {
        const NAME: &str = "x-max-priority";
        match self.count(NAME)?.unwrap_or(0) {
            max if max > PRIORITY_ARGUMENT_MAX => {
                Err(self.invalid(NAME, format_args!("{{max_value_exceeded,{max}}}")))
            }
            max => Ok(max.min(u64::from(PRIORITY_MAX)) as u8),
        }
    }

    fn overflow(&self) -> Result<Option<&'static str>, Violation> {
        const NAME: &str = "x-overflow";
        const BEHAVIOURS: [&str; 3] = ["drop-head", "reject-publish", "reject-publish-dlx"];
        let Some(text) = self.text(NAME)? else { return Ok(None) };
        match BEHAVIOURS.into_iter().find(|known| *known == text) {
            Some(known) => Ok(Some(known)),
            None => Err(self.invalid(NAME, "invalid_overflow")),
        }
    }

    /// So many times a message may come back, and once more it is delivered.
    fn deliveries_max(&self, kind: Type) -> Result<u32, Violation> {
        let limit = self.number("x-delivery-limit")?;
        Ok(match limit {
            None if kind == Type::Quorum => DELIVERIES_MAX,
            None => 0,
            Some(limit) => u32::try_from(limit).map_or(0, |limit| limit.saturating_add(1)),
        })
    }

    fn dead_letters(&self) -> Result<DeadLetters, Violation> {
        const EXCHANGE: &str = "x-dead-letter-exchange";
        const KEY: &str = "x-dead-letter-routing-key";
        let exchange = self.bytes(EXCHANGE)?;
        let routing_key = self.bytes(KEY)?;
        let target = match (exchange, routing_key) {
            (None, None) => DeadLetterTarget::Nowhere,
            (None, Some(_)) => return Err(self.invalid(KEY, "routing_key_but_no_dlx_defined")),
            (Some(exchange), routing_key) => {
                // Whether there is one is seen when a message dies.
                let exchange = self.named.host.exchange(&exchange);
                let exchange = exchange.map_err(|error| self.invalid(EXCHANGE, error))?;
                let length = routing_key.as_ref().map_or(0, Bytes::len);
                if length > usize::from(u8::MAX) {
                    let reason = format_args!("a routing key has 255 bytes at most, not {length}");
                    return Err(self.invalid(KEY, reason));
                }
                DeadLetterTarget::Exchange(DeadLetterExchange { exchange, routing_key })
            }
        };
        let has_letters = target != DeadLetterTarget::Nowhere;
        Ok(DeadLetters { target, with_expired: has_letters, with_overflow: has_letters })
    }
}

/// Reads a number and its unit: years, months, days, hours, minutes, seconds.
pub(super) fn interval_ms(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let count: u64 = text[..digits].parse().ok().filter(|count| *count > 0)?;
    let unit_ms = match &text[digits..] {
        "Y" => 365 * DAY_MS,
        "M" => 30 * DAY_MS,
        "D" => DAY_MS,
        "h" => 3_600_000,
        "m" => 60_000,
        "s" => 1_000,
        _ => return None,
    };
    count.checked_mul(unit_ms)
}

pub(super) fn integer(value: &Value) -> Option<i64> {
    Some(match value {
        Value::I8(number) => (*number).into(),
        Value::U8(number) => (*number).into(),
        Value::I16(number) => (*number).into(),
        Value::U16(number) => (*number).into(),
        Value::I32(number) => (*number).into(),
        Value::U32(number) => (*number).into(),
        Value::I64(number) => *number,
        _ => return None,
    })
}

/// A type's name in RabbitMQ's texts.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Boolean(_) => "bool",
        Value::I8(_) => "byte",
        Value::U8(_) => "unsignedbyte",
        Value::I16(_) => "short",
        Value::U16(_) => "unsignedshort",
        Value::I32(_) => "signedint",
        Value::U32(_) => "unsignedint",
        Value::I64(_) => "long",
        Value::Float(_) => "float",
        Value::Double(_) => "double",
        Value::Decimal { .. } => "decimal",
        Value::LongString(_) => "longstr",
        Value::Binary(_) => "binary",
        Value::Array(_) => "array",
        Value::Timestamp(_) => "timestamp",
        Value::Table(_) => "table",
        Value::Void => "void",
    }
}

/// Why a queue cannot be declared as it is asked for: it is there, and otherwise.
pub(super) fn inequivalent(
    asked: &QueueSettings,
    current: &QueueSettings,
    named: Named<'_>,
    otherwise: &str,
) -> Violation {
    let is_owned = |settings: &QueueSettings| settings.lifetime == Lifetime::Owned;
    if is_owned(asked) != is_owned(current) {
        return locked(named);
    }
    let differs = said(asked).zip(said(current)).find(|(asked, current)| asked.1 != current.1);
    let text = match differs {
        Some(((name, Some((asked, _))), (_, Some((current, _))))) => {
            format!(
                "inequivalent arg '{name}' for {named}: received '{asked}' but current is '{current}'"
            )
        }
        Some(((name, asked), (_, current))) => {
            let value = |said: Option<(String, &str)>| match said {
                None => "none".to_owned(),
                Some((value, kind)) => format!("the value '{value}' of type '{kind}'"),
            };
            let (asked, current) = (value(asked), value(current));
            format!(
                "inequivalent arg '{name}' for {named}: received {asked} but current is {current}"
            )
        }
        // A rule that AMQP has no argument for.
        None => otherwise.to_owned(),
    };
    Violation::new(ReplyCode::PreconditionFailed, text)
}

/// Everything that AMQP can say of a queue.
fn said(
    settings: &QueueSettings,
) -> impl Iterator<Item = (&'static str, Option<(String, &'static str)>)> + use<> {
    let flags = [
        ("durable", settings.lifetime != Lifetime::Transient),
        ("auto_delete", settings.auto_delete),
    ];
    let flags = flags.map(|(name, is_set)| (name, Some((is_set.to_string(), "bool"))));
    flags.into_iter().chain(arguments_of(settings))
}

pub(super) fn locked(named: Named<'_>) -> Violation {
    let text = format!(
        "cannot obtain exclusive access to locked {named}. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration."
    );
    Violation::new(ReplyCode::ResourceLocked, text)
}

/// The name of an exchange in its host.
fn name_of(level: &[u8]) -> Cow<'static, str> {
    let (_, name) = VirtualHost::of_level(level);
    Cow::Owned(lossy(&name).into_owned())
}

/// The arguments that a queue could have been declared with: the value and its type.
pub(super) fn arguments_of(
    settings: &QueueSettings,
) -> [(&'static str, Option<(String, &'static str)>); 12] {
    let number = |value: Option<u64>| {
        value.map(|value| {
            let kind = if value <= i32::MAX as u64 { "signedint" } else { "long" };
            (value.to_string(), kind)
        })
    };
    let text = |value: Option<&str>| value.map(|value| (value.to_owned(), "longstr"));
    let (exchange, routing_key) = match &settings.dead_letters.target {
        DeadLetterTarget::Exchange(DeadLetterExchange { exchange, routing_key }) => {
            (Some(name_of(exchange)), routing_key.as_ref().map(|key| lossy(key)))
        }
        DeadLetterTarget::Queue(queue) => (Some("".into()), Some(queue.name())),
        DeadLetterTarget::Own | DeadLetterTarget::Nowhere => (None, None),
    };
    let limits = &settings.limits;
    let overflow = match limits.overflow {
        Overflow::DropHead => None,
        Overflow::RejectPublish => Some("reject-publish"),
        Overflow::RejectPublishDlx => Some("reject-publish-dlx"),
    };
    let (kind, limit) = match settings.kind {
        QueueKind::Stream => (Some("stream"), None),
        QueueKind::Ephemeral => (Some("ephemeral"), None),
        QueueKind::Classic => match settings.deliveries_max {
            0 => (None, None),
            DELIVERIES_MAX => (Some("quorum"), None),
            max => (None, Some(u64::from(max) - 1)),
        },
    };
    let single_active = settings.single_active.then(|| ("true".to_owned(), "bool"));
    let priority_max = Some(u64::from(settings.priority_max)).filter(|max| *max > 0);
    [
        ("x-expires", number(settings.expires_ms)),
        ("x-message-ttl", number(settings.ttl_ms)),
        ("x-dead-letter-exchange", text(exchange.as_deref())),
        ("x-dead-letter-routing-key", text(routing_key.as_deref())),
        ("x-max-length", number(limits.messages_max)),
        ("x-max-length-bytes", number(limits.bytes_max)),
        ("x-max-priority", number(priority_max)),
        ("x-overflow", text(overflow)),
        ("x-single-active-consumer", single_active),
        ("x-queue-type", text(kind)),
        ("x-max-age", text(limits.age_max_ms.map(|ms| format!("{}s", ms / 1_000)).as_deref())),
        ("x-delivery-limit", number(limit)),
    ]
}

/// Where a stream is read from, as positions are written here.
pub(super) fn position(arguments: Arguments<'_>) -> Result<Option<Bytes>, Violation> {
    const NAME: &str = "x-stream-offset";
    let Some(value) = arguments.table.get(NAME) else { return Ok(None) };
    let position = match &value {
        Value::LongString(text) => match std::str::from_utf8(text) {
            Ok("first") => "earliest".to_owned(),
            Ok("last") => "last=1".to_owned(),
            Ok("next") => "latest".to_owned(),
            Ok(text) => match interval_ms(text) {
                Some(ms) => format!("-{}s", ms / 1_000),
                None => return Err(arguments.invalid(NAME, "invalid_stream_offset_arg")),
            },
            Err(_) => return Err(arguments.invalid(NAME, "invalid_stream_offset_arg")),
        },
        Value::Timestamp(seconds) => format!("timestamp={}", seconds.saturating_mul(1_000)),
        value => match integer(value).and_then(|offset| u64::try_from(offset).ok()) {
            Some(offset) => format!("offset={offset}"),
            None => return Err(arguments.unacceptable(NAME, value)),
        },
    };
    Ok(Some(Bytes::from(position)))
}

/// A name that nobody else has: `prefix`, and 22 characters out of what names the connection and how many it was given before.
pub(super) fn generated_name(prefix: &str, session_id: &[u8], number: u64) -> ShortString {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bits = xxhash_rust::xxh3::xxh3_128_with_seed(session_id, number);
    let mut name = String::from(prefix);
    for _ in 0..22 {
        name.push(char::from(ALPHABET[(bits & 0x3F) as usize]));
        bits >>= 6;
    }
    ShortString::truncated(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> Named<'static> {
        static HOST: VirtualHost = VirtualHost::DEFAULT;
        Named { queue: "q", host: &HOST }
    }

    fn declared(arguments: &[(&str, Value)]) -> Result<QueueSettings, String> {
        let arguments = arguments.iter().cloned().collect();
        let queue = ShortString::from_static("q");
        let declare = QueueDeclare { queue, durable: true, arguments, ..QueueDeclare::default() };
        settings(&declare, named()).map_err(|violation| violation.reply_text())
    }

    fn refused(name: &str, value: Value) -> String {
        declared(&[(name, value)]).unwrap_err()
    }

    #[test]
    fn a_queue_is_what_its_arguments_say() {
        let settings = declared(&[
            ("x-message-ttl", Value::I32(60_000)),
            ("x-expires", Value::I64(1_000)),
            ("x-max-length", Value::U16(10)),
            ("x-max-length-bytes", Value::I8(100)),
            ("x-max-age", "7D".into()),
            ("x-overflow", "reject-publish".into()),
            ("x-dead-letter-exchange", "".into()),
            ("x-dead-letter-routing-key", "dead".into()),
            ("x-max-priority", Value::I32(10)),
            ("x-single-active-consumer", Value::Boolean(true)),
            ("x-delivery-limit", Value::I32(2)),
            ("x-queue-mode", "lazy".into()),
        ])
        .unwrap();

        let to =
            DeadLetterExchange { exchange: Bytes::new(), routing_key: Some(Bytes::from("dead")) };
        let expected = QueueSettings {
            ttl_ms: Some(60_000),
            expires_ms: Some(1_000),
            limits: QueueLimits {
                messages_max: Some(10),
                bytes_max: Some(100),
                age_max_ms: Some(7 * DAY_MS),
                overflow: Overflow::RejectPublish,
            },
            dead_letters: DeadLetters {
                target: DeadLetterTarget::Exchange(to),
                with_expired: true,
                with_overflow: true,
            },
            priority_max: 9,
            single_active: true,
            deliveries_max: 3,
            ..QueueSettings::default()
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn a_plain_queue_delivers_for_ever_and_a_quorum_queue_twenty_times() {
        let plain = declared(&[]).unwrap();
        assert_eq!((plain.kind, plain.deliveries_max), (QueueKind::Classic, 0));
        assert_eq!(plain.dead_letters.target, DeadLetterTarget::Nowhere);
        assert_eq!(declared(&[("x-queue-type", "classic".into())]), Ok(plain));
        let quorum = declared(&[("x-queue-type", "quorum".into())]).unwrap();
        assert_eq!((quorum.kind, quorum.deliveries_max), (QueueKind::Classic, 20));
        let stream = declared(&[("x-queue-type", "stream".into())]).unwrap();
        assert_eq!(stream.kind, QueueKind::Stream);
    }

    #[test]
    fn how_long_a_queue_is_there_is_said_by_three_flags() {
        let cases = [
            (true, false, Lifetime::Durable),
            (false, false, Lifetime::Transient),
            (false, true, Lifetime::Owned),
            (true, true, Lifetime::Owned),
        ];
        for (durable, exclusive, lifetime) in cases {
            let declare = QueueDeclare {
                durable,
                exclusive,
                auto_delete: exclusive,
                ..QueueDeclare::default()
            };
            let settings = settings(&declare, named()).unwrap();
            assert_eq!((settings.lifetime, settings.auto_delete), (lifetime, exclusive));
        }
        let quorum: Table = [("x-queue-type", "quorum".into())].into_iter().collect();
        let nameless = QueueDeclare { arguments: quorum, ..QueueDeclare::default() };
        assert_eq!(
            settings(&nameless, named()).unwrap_err().reply_text(),
            "PRECONDITION_FAILED - Cannot declare a server-named queue for type rabbit_quorum_queue"
        );
        let declare = QueueDeclare { queue: ShortString::from_static("q"), ..nameless };
        assert_eq!(
            settings(&declare, named()).unwrap_err().reply_text(),
            "PRECONDITION_FAILED - invalid property 'non-durable' for queue 'q' in vhost '/'"
        );
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused_in_rabbitmqs_words() {
        let cases = [
            ("x-message-ttl", "60".into(), "{unacceptable_type,longstr}"),
            ("x-message-ttl", Value::I32(-1), "{value_negative,-1}"),
            ("x-expires", Value::I32(0), "{value_zero,0}"),
            ("x-max-length", Value::Boolean(true), "{unacceptable_type,bool}"),
            ("x-max-priority", Value::I32(256), "{max_value_exceeded,256}"),
            ("x-overflow", "drop-tail".into(), "invalid_overflow"),
            ("x-max-age", "7W".into(), "invalid_max_age"),
            ("x-max-age", "D".into(), "invalid_max_age"),
            ("x-queue-type", "heap".into(), "invalid_queue_type"),
            ("x-dead-letter-routing-key", "dead".into(), "routing_key_but_no_dlx_defined"),
            ("x-dead-letter-exchange", Value::I32(1), "{unacceptable_type,signedint}"),
            ("x-single-active-consumer", Value::I32(1), "{unacceptable_type,signedint}"),
        ];
        for (name, value, reason) in cases {
            let expected = format!(
                "PRECONDITION_FAILED - invalid arg '{name}' for queue 'q' in vhost '/': {reason}"
            );
            assert_eq!(refused(name, value), expected);
        }
        let stream = [("x-queue-type", "stream".into()), ("x-max-priority", Value::I32(3))];
        assert_eq!(
            declared(&stream).unwrap_err(),
            "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_stream_queue"
        );
    }

    #[test]
    fn what_differs_is_named_as_rabbitmq_names_it() {
        let differs = |asked: QueueSettings, current: QueueSettings| {
            inequivalent(&asked, &current, named(), "in other ways").reply_text()
        };
        let plain = declared(&[]).unwrap();
        let transient = QueueSettings { lifetime: Lifetime::Transient, ..plain.clone() };
        assert_eq!(
            differs(plain.clone(), transient),
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'"
        );
        let ttl = |ms| declared(&[("x-message-ttl", Value::I32(ms))]).unwrap();
        assert_eq!(
            differs(plain.clone(), ttl(60_000)),
            "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none but current is the value '60000' of type 'signedint'"
        );
        assert_eq!(
            differs(ttl(1), ttl(2)),
            "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received '1' but current is '2'"
        );
        assert_eq!(
            differs(declared(&[("x-queue-type", "quorum".into())]).unwrap(), plain.clone()),
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received the value 'quorum' of type 'longstr' but current is none"
        );
        let dlx = |exchange: &'static str, key: Option<&'static str>| {
            let exchange = [("x-dead-letter-exchange", exchange.into())];
            let key = key.map(|key| ("x-dead-letter-routing-key", key.into()));
            declared(&exchange.into_iter().chain(key).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(
            differs(dlx("one", None), dlx("two", None)),
            "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost '/': received 'one' but current is 'two'"
        );
        assert_eq!(
            differs(plain.clone(), dlx("", None)),
            "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost '/': received none but current is the value '' of type 'longstr'"
        );
        assert_eq!(
            differs(dlx("one", Some("k")), dlx("one", None)),
            "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': received the value 'k' of type 'longstr' but current is none"
        );
        let rejects = declared(&[("x-overflow", "reject-publish-dlx".into())]).unwrap();
        assert_eq!(
            differs(plain.clone(), rejects),
            "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'q' in vhost '/': received none but current is the value 'reject-publish-dlx' of type 'longstr'"
        );
        let owned = QueueSettings { lifetime: Lifetime::Owned, ..plain.clone() };
        assert!(differs(plain.clone(), owned).starts_with(
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'."
        ));
        let ours = QueueSettings { visibility_timeout_ms: Some(1), ..plain.clone() };
        assert_eq!(differs(plain, ours), "PRECONDITION_FAILED - in other ways");
    }

    #[test]
    fn a_streams_offset_is_a_position() {
        let position = |value: Value| {
            let table: Table = [("x-stream-offset", value)].into_iter().collect();
            position(Arguments { table: &table, named: named() })
        };
        let cases = [
            ("first".into(), "earliest"),
            ("last".into(), "last=1"),
            ("next".into(), "latest"),
            ("1h".into(), "-3600s"),
            (Value::I64(17), "offset=17"),
            (Value::Timestamp(1_700_000_000), "timestamp=1700000000000"),
        ];
        for (value, expected) in cases {
            assert_eq!(position(value), Ok(Some(Bytes::from(expected))));
        }
        for value in ["second".into(), Value::I64(-1), Value::Boolean(true)] {
            assert!(position(value).is_err());
        }
    }

    #[test]
    fn names_that_are_made_are_of_the_form_that_clients_know_and_never_the_same() {
        let names: std::collections::BTreeSet<ShortString> = (0..2_000)
            .flat_map(|number| [&b"a"[..], b"b"].map(|id| generated_name("amq.gen-", id, number)))
            .collect();
        assert_eq!(names.len(), 4_000);
        for name in names {
            let digits = name.as_str().unwrap().strip_prefix("amq.gen-").unwrap();
            let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            assert!(digits.len() == 22 && digits.bytes().all(is_digit), "{digits}");
        }
    }
}
