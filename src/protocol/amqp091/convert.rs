//! A publish to `amq.topic` as the neutral message: its key as a topic, its properties as what other protocols can say of them.
//!
//! Key and topic are one name with `.` and `/` exchanged, which is undone exactly.

use bytes::Bytes;

use super::ReplyCode;
use super::assembly::Content;
use super::codec::method::BasicPublish;
use super::codec::{Property, ShortString, Table, Value};
use super::violation::Violation;
use crate::model::address::PublishAddress;
use crate::model::message::publisher_id;
use crate::model::properties::is_reserved;
use crate::model::{Message, Properties, Property as Neutral, QoS, Topic};

/// `delivery-mode` of what is to be stored.
const PERSISTENT: u8 = 2;
/// Headers that would make a publish a part of something that AMQP has its own methods for.
const TRANSACTIONS: [&[u8]; 2] = [b"tx", b"tx-end"];

/// Reads a publish of `user` by a session; its QoS is what its delivery mode asks for.
pub(super) fn read(
    publish: &BasicPublish,
    content: &Content,
    user: &[u8],
    session_id: &[u8],
) -> Result<Message, Violation> {
    let topic = topic(publish.routing_key.as_bytes())?;
    let mut message = Message {
        topic,
        payload: content.body.clone(),
        qos: QoS::AtMostOnce,
        retain: false,
        expiry_s: None,
        properties: Properties::default(),
        publisher: publisher_id(session_id),
    };
    let mut neutral = Vec::new();
    for property in content.properties.iter() {
        match property {
            Property::DeliveryMode(PERSISTENT) => message.qos = QoS::AtLeastOnce,
            Property::Expiration(text) => message.expiry_s = Some(expiry_s(&text)?),
            Property::ContentType(text) => neutral.push(Neutral::ContentType(text.into_bytes())),
            Property::CorrelationId(id) => neutral.push(Neutral::CorrelationData(id.into_bytes())),
            Property::Headers(table) => neutral.extend(user_properties(&table)),
            Property::UserId(name) if name.as_bytes() != user => {
                let (said, is) = (lossy(name.as_bytes()), lossy(user));
                let text =
                    format!("user_id property set to '{said}' but authenticated user was '{is}'");
                return Err(Violation::new(ReplyCode::PreconditionFailed, text));
            }
            _ => {}
        }
    }
    if !neutral.is_empty() {
        message.properties = Properties::encode(&neutral);
    }
    Ok(message)
}

/// The topic that a routing key of `amq.topic` is. Only topics: what `$queue` and its like mean is asked in other ways.
fn topic(key: &Bytes) -> Result<Topic, Violation> {
    let exchanged = |byte: &u8| match byte {
        b'.' => b'/',
        b'/' => b'.',
        other => *other,
    };
    let refused = |error: &dyn std::fmt::Display| {
        let text = format!("routing key '{}' is not one of amq.topic: {error}", lossy(key));
        Violation::new(ReplyCode::PreconditionFailed, text)
    };
    let topic = Topic::new(key.iter().map(exchanged).collect()).map_err(|error| refused(&error))?;
    match PublishAddress::of(&topic) {
        Ok(PublishAddress::Topic) => Ok(topic),
        Ok(_) => Err(refused(&"it names no topic")),
        Err(error) => Err(refused(&error)),
    }
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

/// Headers that are text, or can be written as such.
fn user_properties(headers: &Table) -> impl Iterator<Item = Neutral> {
    headers.iter().filter_map(|(name, value)| {
        let name = name.into_bytes();
        if is_reserved(&name) || TRANSACTIONS.contains(&&name[..]) {
            return None;
        }
        Some(Neutral::User(name, text_of(value)?))
    })
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

fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
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
        let publish = BasicPublish { routing_key: short(key), ..BasicPublish::default() };
        let content = Content { properties: List::encode(list), body: Bytes::from("body") };
        read(&publish, &content, b"ann", b"amqp-1").map_err(|violation| violation.reply_text())
    }

    #[test]
    fn key_and_topic_are_one_name_with_dot_and_slash_exchanged() {
        for (key, topic) in [("a", "a"), ("a.b.c", "a/b/c"), ("spBv1/0.x", "spBv1.0/x"), (".", "/")]
        {
            assert_eq!(said(key, vec![]).unwrap().topic.as_str(), topic);
        }
        for key in ["", "a.#", "a+", "$SYS.x", "$queue.q", "$management.queues", "a\0"] {
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
            Neutral::CorrelationData(Bytes::from("7")),
        ];
        assert_eq!(message.properties.iter().collect::<Vec<_>>(), expected);
        assert_eq!((message.qos, message.expiry_s), (QoS::AtLeastOnce, Some(2)));
        assert_eq!(&message.payload[..], b"body");
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
