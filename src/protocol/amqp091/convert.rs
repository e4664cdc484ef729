//! A publish as the neutral message: the key of `amq.topic` as a topic, and properties as what other protocols can say of them.
//!
//! Key and topic are one name with `.` and `/` exchanged, which is undone exactly. What neutral properties cannot say exactly is kept beside
//! them, in a property that every publish of AMQP has: see [`published`](crate::model::published).

use bytes::{BufMut, Bytes, BytesMut};

use super::ReplyCode;
use super::arguments::type_name;
use super::assembly::Content;
use super::codec::method::BasicPublish;
use super::codec::{Properties as List, Property, ShortString, Table, Value};
use super::publish::TOPICS;
use super::violation::Violation;
use crate::model::address::PublishAddress;
use crate::model::message::publisher_id;
use crate::model::properties::is_reserved;
use crate::model::published::{ADDRESS, BCC, LIST};
use crate::model::{Message, Properties, Property as Neutral, QoS, Topic, VirtualHost};

/// `delivery-mode` of what is to be stored.
const PERSISTENT: u8 = 2;
/// Headers that have a meaning in other protocols that AMQP has its own means for: transactions, and the priority.
const FOREIGN: [&[u8]; 3] = [b"tx", b"tx-end", PRIORITY];
/// The user property that says the priority.
pub(super) const PRIORITY: &[u8] = b"x-priority";
/// Where a queue is published to in other protocols.
pub(super) const QUEUES: &str = "$queue/";

/// Who publishes.
#[derive(Clone, Copy)]
pub(super) struct Publisher<'a> {
    pub(super) user: &'a [u8],
    pub(super) session_id: &'a [u8],
    /// Where the names are that it says.
    pub(super) host: &'a VirtualHost,
}

/// Reads a publish. One to a topic has the QoS that its delivery mode asks for, unless it `is_answered`: then, and to every other exchange,
/// it is stored.
pub(super) fn read(
    publish: &BasicPublish,
    content: &Content,
    publisher: Publisher<'_>,
    is_answered: bool,
) -> Result<Message, Violation> {
    let is_topic = publish.exchange.as_bytes() == TOPICS;
    let topic = match is_topic {
        true => topic(publisher.host, publish.routing_key.as_bytes())?,
        false => Topic::from_stored(Bytes::new()),
    };
    let said = Said::of(&content.properties, publisher)?;
    let is_stored = !is_topic || is_answered || said.is_persistent;
    let qos = if is_stored { QoS::AtLeastOnce } else { QoS::AtMostOnce };
    // By more than one key it comes to where its topic does not say the first.
    let has_address = !said.has_more_keys && (is_topic || is_said_by_queue(publish));
    let has_list = said.is_all && said.is_persistent == is_stored;
    let address = (!has_address).then_some([&publish.exchange, &publish.routing_key]);
    let list = (!has_list).then_some(&content.properties);
    let (own, mut neutral) = (own(address, list, said.has_bcc), said.neutral);
    let properties = match own.is_empty() && neutral.is_empty() {
        true => Properties::PLAIN_AMQP091,
        false => {
            // First, since it is what its readers look for.
            neutral.insert(0, Neutral::Amqp091(own));
            Properties::encode(&neutral)
        }
    };
    Ok(Message {
        topic,
        payload: content.body.clone(),
        qos,
        retain: false,
        expiry_s: said.expiry_s,
        properties,
        publisher: publisher_id(publisher.session_id),
    })
}

/// Returns true when the topic of a queue's message says where it was published: to the default exchange, by the queue's name.
fn is_said_by_queue(publish: &BasicPublish) -> bool {
    publish.exchange.is_empty() && !publish.routing_key.as_bytes().starts_with(b"$")
}

fn own(address: Option<[&ShortString; 2]>, list: Option<&List>, has_bcc: bool) -> Bytes {
    let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    let what = bit(address.is_some(), ADDRESS) | bit(list.is_some(), LIST) | bit(has_bcc, BCC);
    if what == 0 {
        return Bytes::new();
    }
    let mut out = BytesMut::new();
    out.put_u8(what);
    for name in address.into_iter().flatten() {
        out.put_u8(name.as_bytes().len() as u8);
        out.put_slice(name.as_bytes());
    }
    if let Some(list) = list.filter(|list| !list.is_empty()) {
        list.put(&mut out);
    }
    out.freeze()
}

/// What of a property list the neutral message can say.
#[derive(Default)]
struct Said {
    neutral: Vec<Neutral>,
    is_persistent: bool,
    expiry_s: Option<u32>,
    /// The list can be made of it again.
    is_all: bool,
    /// A header says further routing keys.
    has_more_keys: bool,
    /// One of those is for the broker alone.
    has_bcc: bool,
}

impl Said {
    fn of(list: &List, publisher: Publisher<'_>) -> Result<Said, Violation> {
        let mut said = Said { is_all: true, ..Said::default() };
        for property in list.iter() {
            said.is_all &= said.take(property, publisher)?;
        }
        Ok(said)
    }

    /// Takes a property; returns true when it can be made again.
    fn take(&mut self, property: Property, publisher: Publisher<'_>) -> Result<bool, Violation> {
        let Publisher { user, host, .. } = publisher;
        match property {
            Property::DeliveryMode(mode) => {
                self.is_persistent = mode == PERSISTENT;
                return Ok(self.is_persistent);
            }
            // In seconds, which is not the same.
            Property::Expiration(text) => self.expiry_s = Some(expiry_s(&text)?),
            Property::ContentType(text) => {
                self.neutral.push(Neutral::ContentType(text.into_bytes()));
                return Ok(true);
            }
            Property::CorrelationId(id) => {
                self.neutral.push(Neutral::CorrelationData(id.into_bytes()));
                return Ok(true);
            }
            Property::ReplyTo(name) => {
                let address = host.queue(&name.into_bytes()).ok().map(|it| it.address());
                let is_name = address.is_some();
                self.neutral.extend(address.map(|it| Neutral::ResponseTopic(it.into())));
                return Ok(is_name);
            }
            Property::Priority(priority) => {
                let priority = Bytes::from(priority.to_string());
                self.neutral.push(Neutral::User(Bytes::from_static(PRIORITY), priority));
                return Ok(true);
            }
            Property::Headers(table) => return Ok(self.take_headers(&table)),
            Property::UserId(name) if name.as_bytes() != user => {
                let (said, is) = (lossy(name.as_bytes()), lossy(user));
                let text =
                    format!("user_id property set to '{said}' but authenticated user was '{is}'");
                return Err(Violation::new(ReplyCode::PreconditionFailed, text));
            }
            _ => {}
        }
        Ok(false)
    }

    /// Headers that are text, or can be written as such; returns true when all of them are text.
    fn take_headers(&mut self, headers: &Table) -> bool {
        // A table without entries is not the same as no table.
        let mut is_all = !headers.is_empty();
        for (name, value) in headers.iter() {
            let is_text = matches!(value, Value::LongString(_));
            let name = name.into_bytes();
            self.has_bcc |= name == "BCC";
            self.has_more_keys |= name == "BCC" || name == "CC";
            let text =
                text_of(value).filter(|_| !is_reserved(&name) && !FOREIGN.contains(&&name[..]));
            is_all &= is_text && text.is_some();
            self.neutral.extend(text.map(|text| Neutral::User(name, text)));
        }
        is_all
    }
}

/// The routing keys in the headers CC and BCC (RabbitMQ's sender-selected distribution).
pub(super) fn more_keys(list: &List) -> Result<Vec<Bytes>, Violation> {
    let Some(headers) = list.headers() else { return Ok(Vec::new()) };
    let mut keys = Vec::new();
    for name in ["CC", "BCC"] {
        match headers.get(name) {
            None => {}
            Some(Value::Array(values)) => keys.extend(values.iter().filter_map(|key| match key {
                Value::LongString(key) => Some(key),
                _ => None,
            })),
            Some(other) => {
                let kind = type_name(&other);
                let text =
                    format!("invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}");
                return Err(Violation::new(ReplyCode::PreconditionFailed, text));
            }
        }
    }
    Ok(keys)
}

/// The topic that a routing key of `amq.topic` is. Only topics: what `$queue` and its like mean is asked in other ways.
fn topic(host: &VirtualHost, key: &Bytes) -> Result<Topic, Violation> {
    let refused = |error: &dyn std::fmt::Display| {
        let text = format!("routing key '{}' is not one of amq.topic: {error}", lossy(key));
        Violation::new(ReplyCode::PreconditionFailed, text)
    };
    let topic = host.topic(exchanged(key)).map_err(|error| refused(&error))?;
    match PublishAddress::of(&topic) {
        Ok(PublishAddress::Topic) => Ok(topic),
        Ok(_) => Err(refused(&"it names no topic")),
        Err(error) => Err(refused(&error)),
    }
}

/// A key of `amq.topic` as the topic that it is, and the other way round.
pub(super) fn exchanged(name: &[u8]) -> Bytes {
    let exchanged = |byte: &u8| match byte {
        b'.' => b'/',
        b'/' => b'.',
        other => *other,
    };
    name.iter().map(exchanged).collect()
}

/// Milliseconds as text, in seconds, no less than said.
fn expiry_s(text: &ShortString) -> Result<u32, Violation> {
    let ms = text.as_str().and_then(|text| text.parse::<u64>().ok());
    let Some(ms) = ms.filter(|_| text.as_bytes().iter().all(u8::is_ascii_digit)) else {
        let text = format!("invalid expiration '{}': no_integer", lossy(text.as_bytes()));
        return Err(Violation::new(ReplyCode::PreconditionFailed, text));
    };
    Ok(u32::try_from(ms.div_ceil(1_000)).unwrap_or(u32::MAX))
}

fn text_of(value: Value) -> Option<Bytes> {
    let text = match value {
        Value::LongString(text) => return std::str::from_utf8(&text).is_ok().then_some(text),
        Value::Boolean(is_true) => is_true.to_string(),
        Value::I8(number) => number.to_string(),
        Value::U8(number) => number.to_string(),
        Value::I16(number) => number.to_string(),
        Value::U16(number) => number.to_string(),
        Value::I32(number) => number.to_string(),
        Value::U32(number) => number.to_string(),
        Value::I64(number) => number.to_string(),
        Value::Timestamp(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Decimal { .. }
        | Value::Binary(_)
        | Value::Array(_)
        | Value::Table(_)
        | Value::Void => return None,
    };
    Some(Bytes::from(text))
}

pub(super) fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::codec::{Array, Properties as List};
    use super::*;

    fn short(text: &'static str) -> ShortString {
        ShortString::from_static(text)
    }

    fn said(key: &'static str, list: Vec<Property>) -> Result<Message, String> {
        let exchange = short(TOPICS);
        let publish = BasicPublish { exchange, routing_key: short(key), ..BasicPublish::default() };
        let content = Content { properties: List::encode(list), body: Bytes::from("body") };
        let host = VirtualHost::default();
        let publisher = Publisher { user: b"ann", session_id: b"amqp-1", host: &host };
        read(&publish, &content, publisher, false).map_err(|violation| violation.reply_text())
    }

    #[test]
    fn key_and_topic_are_one_name_with_dot_and_slash_exchanged() {
        for (key, topic) in [("a", "a"), ("a.b.c", "a/b/c"), ("spBv1/0.x", "spBv1.0/x"), (".", "/")]
        {
            assert_eq!(said(key, vec![]).unwrap().topic.as_str(), topic);
        }
        for key in
            ["", "a.#", "a+", "$SYS.x", "$queue.q", "$management.queues", "a\0", "$vhost.x.a"]
        {
            let error = said(key, vec![]).unwrap_err();
            assert!(error.starts_with("PRECONDITION_FAILED - routing key"), "{key:?}: {error}");
        }
    }

    #[test]
    fn what_other_protocols_can_say_is_in_the_neutral_properties() {
        let headers: Table = [
            ("text", "value".into()),
            ("number", Value::I32(-7)),
            ("flag", Value::Boolean(true)),
            ("list", Value::Array(Array::default())),
            ("message-id", "ours".into()),
            ("tx", "1".into()),
        ]
        .into_iter()
        .collect();
        let message = said(
            "t",
            vec![
                Property::ContentType(short("text/plain")),
                Property::CorrelationId(short("7")),
                Property::ReplyTo(short("answers/1")),
                Property::Priority(4),
                Property::Headers(headers),
                Property::DeliveryMode(2),
                Property::Expiration(short("1500")),
                Property::UserId(short("ann")),
            ],
        )
        .unwrap();

        let user = |key, value| Neutral::User(Bytes::from_static(key), Bytes::from_static(value));
        let expected = [
            Neutral::ContentType(Bytes::from("text/plain")),
            user(b"text", b"value"),
            user(b"number", b"-7"),
            user(b"flag", b"true"),
            user(b"x-priority", b"4"),
            Neutral::CorrelationData(Bytes::from("7")),
            Neutral::ResponseTopic(Bytes::from("$queue/answers%2F1")),
        ];
        let neutral: Vec<Neutral> = message.properties.iter().collect();
        assert!(matches!(neutral[0], Neutral::Amqp091(_)), "what cannot be said is beside it");
        assert_eq!(neutral[1..], expected);
        assert_eq!((message.qos, message.expiry_s), (QoS::AtLeastOnce, Some(2)));
        assert_eq!(&message.payload[..], b"body");
    }

    #[test]
    fn what_neutral_properties_say_is_not_said_twice() {
        let headers: Table = [("text", "value".into())].into_iter().collect();
        let said_all = said(
            "t",
            vec![
                Property::ContentType(short("text/plain")),
                Property::Headers(headers),
                Property::DeliveryMode(2),
                Property::Priority(200),
                Property::ReplyTo(short("q")),
            ],
        )
        .unwrap();
        let own = |message: &Message| match message.properties.iter().next() {
            Some(Neutral::Amqp091(own)) => own,
            other => panic!("{other:?} is not what AMQP publishes"),
        };
        assert_eq!(own(&said_all), Bytes::new());
        // The one octet of a delivery mode that is not the message's.
        let transient = said("t", vec![Property::DeliveryMode(1)]).unwrap();
        assert_eq!(&own(&transient)[..], [LIST, 0x10, 0, 1]);
    }

    #[test]
    fn what_makes_no_sense_is_a_failed_precondition() {
        let expiration = |text| said("t", vec![Property::Expiration(short(text))]);
        assert_eq!(expiration("0").unwrap().expiry_s, Some(0));
        let expected = "PRECONDITION_FAILED - invalid expiration '-1': no_integer";
        assert_eq!(expiration("-1").unwrap_err(), expected);
        assert!(expiration("+5").is_err() && expiration("").is_err());

        let expected =
            "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'ann'";
        assert_eq!(said("t", vec![Property::UserId(short("bob"))]).unwrap_err(), expected);
    }
}
