//! A delivery as AMQP 0.9.1 has it: exchange, routing key and property list.
//!
//! What an AMQP client published comes as it was published. What came another way is said as far as there are words: its topic as a key
//! of `amq.topic`, its user properties as headers. What the broker says of a delivery is in headers.

use bytes::{Buf, Bytes};

use super::codec::{Array, Properties, Property, ShortString, Table, Value};
use super::convert::{ADDRESS, LIST, PRIORITY, QUEUES, exchanged};
use super::publish::TOPICS;
use crate::model::{Delivery, Message, Property as Neutral, QoS};

/// How the user properties begin that say how a letter died. The broker writes them, and nobody else.
const DEATH: &[u8] = b"x-death-";

/// What comes before the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: Properties,
}

/// Reads a delivery from a queue, of which so many seconds of expiry are left.
pub(super) fn of(delivery: &Delivery, queue: &str, expiry_s: Option<u32>) -> Envelope {
    let message = &delivery.message;
    let (mut own, mut told) = (None, Vec::new());
    for property in message.properties.iter() {
        match property {
            Neutral::Amqp091(bytes) => own = Own::decode(bytes),
            Neutral::User(key, value) if key.starts_with(DEATH) => told.push((key, value)),
            _ => {}
        }
    }
    let deaths = Death::all(&told);
    let is_ours = own.is_some();
    let Own { address, list } = own.unwrap_or_default();
    let list = list.unwrap_or_else(|| neutral(message, expiry_s));
    let source = annotation(delivery, "x-source-topic");
    let (exchange, routing_key) = address.unwrap_or_else(|| of_topic(message, source));
    let mut extra = extra_headers(delivery, is_ours);
    extra.extend(death_headers(&deaths, (&exchange, &routing_key)));
    let is_dead = !deaths.is_empty();
    let (exchange, routing_key) = match is_dead {
        // Letters come by the default exchange.
        true => (ShortString::default(), ShortString::truncated(queue)),
        false => (exchange, routing_key),
    };
    let properties = match extra.is_empty() {
        true => list,
        false => with_headers(&list, &extra, is_dead),
    };
    Envelope { exchange, routing_key, properties }
}

/// What an AMQP publisher said and neither topic nor neutral properties do.
#[derive(Default)]
struct Own {
    address: Option<(ShortString, ShortString)>,
    list: Option<Properties>,
}

impl Own {
    /// `None` for what is not written so: nobody but `convert` writes it.
    fn decode(mut bytes: Bytes) -> Option<Own> {
        let what = take_byte(&mut bytes).unwrap_or(0);
        let mut own = Own::default();
        if what & ADDRESS != 0 {
            own.address = Some((take_name(&mut bytes)?, take_name(&mut bytes)?));
        }
        if what & LIST != 0 {
            own.list = Some(match bytes.is_empty() {
                true => Properties::default(),
                false => Properties::decode(bytes).ok()?,
            });
        }
        Some(own)
    }
}

fn take_byte(bytes: &mut Bytes) -> Option<u8> {
    let first = *bytes.first()?;
    bytes.advance(1);
    Some(first)
}

fn take_name(bytes: &mut Bytes) -> Option<ShortString> {
    let count = usize::from(take_byte(bytes)?);
    (count <= bytes.len()).then(|| ShortString::new(bytes.split_to(count)).ok())?
}

/// Where a message was published, by its topic: a queue's address is the default exchange, everything else the topic space.
fn of_topic(message: &Message, source: Option<&str>) -> (ShortString, ShortString) {
    let topic = source.unwrap_or(message.topic.as_str());
    let Some(name) = topic.strip_prefix(QUEUES) else {
        let key = exchanged(topic.as_bytes());
        return (ShortString::from_static(TOPICS), short_or_cut(key));
    };
    let key = if name.contains('/') { topic } else { name };
    let key = match source {
        // A part of what the message holds anyway.
        None => message.topic.as_bytes().slice_ref(key.as_bytes()),
        Some(_) => Bytes::copy_from_slice(key.as_bytes()),
    };
    (ShortString::default(), short_or_cut(key))
}

/// Of what is longer, what fits.
fn short_or_cut(text: Bytes) -> ShortString {
    short(text.clone()).unwrap_or_else(|| ShortString::truncated(&String::from_utf8_lossy(&text)))
}

/// What the neutral message says, as a property list.
fn neutral(message: &Message, expiry_s: Option<u32>) -> Properties {
    let mut list = Vec::new();
    let mut headers = Vec::new();
    for property in message.properties.iter() {
        match property {
            Neutral::ContentType(text) => list.extend(short(text).map(Property::ContentType)),
            Neutral::CorrelationData(id) => match short(id.clone()) {
                Some(id) => list.push(Property::CorrelationId(id)),
                None => headers.push((name("x-correlation-id"), Value::LongString(id))),
            },
            Neutral::ResponseTopic(topic) => list.extend(reply_to(&topic).map(Property::ReplyTo)),
            Neutral::User(key, value) if key == PRIORITY => {
                let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                list.extend(number.map(Property::Priority));
            }
            Neutral::User(key, _) if key.starts_with(DEATH) => {}
            Neutral::User(key, value) => {
                headers.extend(short(key).map(|key| (key, Value::LongString(value))));
            }
            Neutral::PayloadFormat(_) | Neutral::Amqp091(_) => {}
        }
    }
    if !headers.is_empty() {
        let table = Table::encode(headers.iter().map(|(name, value)| (name, value)));
        list.push(Property::Headers(table));
    }
    if message.qos != QoS::AtMostOnce {
        list.push(Property::DeliveryMode(2));
    }
    if let Some(seconds) = expiry_s {
        let ms = u64::from(seconds) * 1_000;
        list.push(Property::Expiration(ShortString::truncated(&ms.to_string())));
    }
    Properties::encode(list)
}

/// Who publishes to the default exchange by it, or to `amq.topic`, answers where it was asked to.
fn reply_to(topic: &Bytes) -> Option<ShortString> {
    match topic.strip_prefix(QUEUES.as_bytes()) {
        Some(name) if !name.contains(&b'/') => short(topic.slice_ref(name)),
        Some(_) => short(topic.clone()),
        None => short(exchanged(topic)),
    }
}

fn short(bytes: Bytes) -> Option<ShortString> {
    ShortString::new(bytes).ok()
}

fn name(text: &'static str) -> ShortString {
    ShortString::from_static(text)
}

fn annotation<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a str> {
    let mut named = delivery.annotations.iter().filter(|(found, _)| *found == name);
    named.next().map(|(_, value)| value.as_str())
}

/// What the broker says of a delivery. Of a message that AMQP published only what it did not know: that it came back, where in a stream it
/// is, how it died.
fn extra_headers(delivery: &Delivery, is_ours: bool) -> Vec<(&'static str, Value)> {
    let mut headers = Vec::new();
    for (key, value) in &delivery.annotations {
        match *key {
            "delivery-count" => headers.push(("x-delivery-count", number(value))),
            "offset" | "x-stream-timestamp" | "x-source-timestamp" if is_ours => {}
            "message-id" | "group-id" | "queue" | "x-source-topic" if is_ours => {}
            "offset" | "x-stream-offset" | "x-stream-timestamp" | "x-source-timestamp" => {
                headers.push((key, number(value)));
            }
            key => headers.push((key, text(value))),
        }
    }
    headers
}

fn number(digits: &str) -> Value {
    digits.parse().map_or_else(|_| text(digits), Value::I64)
}

fn text(value: &str) -> Value {
    Value::LongString(Bytes::copy_from_slice(value.as_bytes()))
}

/// `x-death`, the newest first, and the queue and reason of the first and the last, as RabbitMQ has them.
fn death_headers(
    deaths: &[Death<'_>],
    (exchange, routing_key): (&ShortString, &ShortString),
) -> Vec<(&'static str, Value)> {
    let (Some(last), Some(first)) = (deaths.first(), deaths.last()) else { return Vec::new() };
    let oldest = deaths.len() - 1;
    let tables = deaths.iter().enumerate().map(|(at, death)| {
        // A letter that died again was published to the default exchange, by its queue's name.
        let (exchange, key) = match at == oldest {
            true => (exchange.as_bytes().clone(), routing_key.as_bytes().clone()),
            false => (Bytes::new(), Bytes::copy_from_slice(death.queue.as_bytes())),
        };
        Value::Table(death.table(exchange, key))
    });
    let tables: Vec<Value> = tables.collect();
    let first_exchange = Value::LongString(exchange.as_bytes().clone());
    let last_exchange = if oldest == 0 { first_exchange.clone() } else { text("") };
    vec![
        ("x-death", Value::Array(Array::encode(&tables))),
        ("x-first-death-exchange", first_exchange),
        ("x-first-death-queue", text(first.queue)),
        ("x-first-death-reason", text(first.reason)),
        ("x-last-death-exchange", last_exchange),
        ("x-last-death-queue", text(last.queue)),
        ("x-last-death-reason", text(last.reason)),
    ]
}

/// How a message died.
struct Death<'a> {
    queue: &'a str,
    reason: &'static str,
    count: &'a str,
    time_ms: &'a str,
}

impl<'a> Death<'a> {
    /// Reads what the broker wrote of a letter, the newest death first.
    fn all(told: &'a [(Bytes, Bytes)]) -> Vec<Death<'a>> {
        let is_next = |_: &(Bytes, Bytes), (key, _): &(Bytes, Bytes)| key != "x-death-queue";
        told.chunk_by(is_next).filter_map(Death::of).collect()
    }

    fn of(told: &'a [(Bytes, Bytes)]) -> Option<Death<'a>> {
        let find = |name| {
            let (_, value) = told.iter().find(|(key, _)| key == name)?;
            std::str::from_utf8(value).ok()
        };
        Some(Death {
            queue: find("x-death-queue")?,
            reason: match find("x-death-reason")? {
                "max-deliveries" => "delivery_limit",
                "max-length" => "maxlen",
                "expired" => "expired",
                _ => "rejected",
            },
            count: find("x-death-count").unwrap_or("1"),
            time_ms: find("x-death-time").unwrap_or("0"),
        })
    }

    fn table(&self, exchange: Bytes, routing_key: Bytes) -> Table {
        let seconds = self.time_ms.parse::<u64>().unwrap_or(0) / 1_000;
        let entries = [
            ("count", number(self.count)),
            ("reason", text(self.reason)),
            ("queue", text(self.queue)),
            ("time", Value::Timestamp(seconds)),
            ("exchange", Value::LongString(exchange)),
            ("routing-keys", Value::Array(Array::encode([&Value::LongString(routing_key)]))),
        ];
        entries.into_iter().collect()
    }
}

/// The list with these headers instead of those of their names. A letter's expiration is over: it would die of it again.
fn with_headers(list: &Properties, extra: &[(&str, Value)], is_dead: bool) -> Properties {
    let headers = list.headers().unwrap_or_default().with(extra);
    let kept = list.iter().filter(|property| match property {
        Property::Headers(_) => false,
        Property::Expiration(_) => !is_dead,
        _ => true,
    });
    Properties::encode(kept.chain([Property::Headers(headers)]))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fluxmq_index::Offset;
    use proptest::prelude::*;

    use super::super::assembly::Content;
    use super::super::codec::method::BasicPublish;
    use super::super::codec::strategies;
    use super::super::convert;
    use super::*;
    use crate::model::{DeliveryId, DeliverySource, PartitionId, Topic};

    fn delivery(topic: &str, message: Message, told: &[(&'static str, &str)]) -> Delivery {
        let told = told.iter().map(|(name, value)| (*name, (*value).to_owned()));
        Delivery {
            id: DeliveryId {
                source: DeliverySource::Group(1),
                partition: PartitionId(1),
                offset: Offset(7),
            },
            qos: message.qos,
            message: Arc::new(Message { topic: topic_of(topic), ..message }),
            retain: false,
            redelivered: false,
            subscription_ids: Vec::new(),
            annotations: told.collect(),
            settle_explicit: false,
        }
    }

    fn topic_of(text: &str) -> Topic {
        Topic::from_stored(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn published(exchange: &'static str, key: &'static str, properties: &Properties) -> Message {
        let publish = BasicPublish {
            exchange: name(exchange),
            routing_key: name(key),
            ..BasicPublish::default()
        };
        let content = Content { properties: properties.clone(), body: Bytes::from("body") };
        convert::read(&publish, &content, b"ann", (b"amqp-1", false)).unwrap()
    }

    /// A message of another protocol.
    fn foreign(list: &[Neutral]) -> Message {
        let properties = crate::model::Properties::encode(list);
        let message = published(TOPICS, "t", &Properties::default());
        Message { properties, expiry_s: Some(3), qos: QoS::AtLeastOnce, ..message }
    }

    const QUEUED: [(&str, &str); 4] =
        [("message-id", "q:7"), ("group-id", "default"), ("queue", "q"), ("offset", "7")];

    proptest! {
        #[test]
        fn what_amqp_published_comes_as_it_was((list, _) in strategies::properties(), way in 0..3usize) {
            // Those that are checked have values that pass.
            let list = list.into_iter().map(|property| match property {
                Property::UserId(_) => Property::UserId(name("ann")),
                Property::Expiration(_) => Property::Expiration(name("1500")),
                other => other,
            });
            let list = Properties::encode(list);
            let (exchange, key, topic, source) = [
                ("", "q", "$queue/q", None),
                ("orders", "new.1", "$queue/q/orders/new.1", None),
                (TOPICS, "a.b", "$queue/q/a/b", Some(("x-source-topic", "a/b"))),
            ][way];
            let told: Vec<_> = QUEUED.into_iter().chain(source).collect();
            let delivery = delivery(topic, published(exchange, key, &list), &told);

            let found = of(&delivery, "q", delivery.message.expiry_s);

            prop_assert_eq!((found.exchange, found.routing_key), (name(exchange), name(key)));
            let all: Vec<Property> = found.properties.iter().collect();
            prop_assert_eq!(all, list.iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_came_another_way_is_said_as_far_as_there_are_words() {
        let message = foreign(&[
            Neutral::ContentType(Bytes::from("text/plain")),
            Neutral::ResponseTopic(Bytes::from("answers/1")),
            Neutral::CorrelationData(Bytes::from("7")),
            Neutral::User(Bytes::from("unit"), Bytes::from("C")),
            Neutral::User(Bytes::from("x-priority"), Bytes::from("4")),
        ]);
        let told: Vec<_> = QUEUED.into_iter().chain([("x-source-topic", "site/1.5")]).collect();

        let found = of(&delivery("$queue/q/site/1.5", message, &told), "q", Some(3));

        assert_eq!((found.exchange, found.routing_key), (name(TOPICS), name("site.1/5")));
        let headers: Table = [
            ("unit", "C".into()),
            ("message-id", "q:7".into()),
            ("group-id", "default".into()),
            ("queue", "q".into()),
            ("offset", Value::I64(7)),
            ("x-source-topic", "site/1.5".into()),
        ]
        .into_iter()
        .collect();
        let expected = [
            Property::ContentType(name("text/plain")),
            Property::Headers(headers),
            Property::DeliveryMode(2),
            Property::Priority(4),
            Property::CorrelationId(name("7")),
            Property::ReplyTo(name("answers.1")),
            Property::Expiration(name("3000")),
        ];
        assert_eq!(found.properties.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_queues_own_address_is_the_default_exchange() {
        for (topic, key) in [("$queue/q", "q"), ("$queue/q/eu/1", "$queue/q/eu/1")] {
            let found = of(&delivery(topic, foreign(&[]), &[]), "q", None);
            assert_eq!((found.exchange, found.routing_key), (name(""), name(key)));
        }
    }

    #[test]
    fn a_delivery_that_came_back_says_how_often() {
        let told: Vec<_> = QUEUED.into_iter().chain([("delivery-count", "2")]).collect();
        let list = Properties::encode([Property::Priority(1)]);

        let found = of(&delivery("$queue/q", published("", "q", &list), &told), "q", None);

        let headers: Table = [("x-delivery-count", Value::I64(2))].into_iter().collect();
        let expected = [Property::Headers(headers), Property::Priority(1)];
        assert_eq!(found.properties.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_letter_says_how_it_died_as_rabbitmq_does() {
        let list = Properties::encode([Property::Expiration(name("10"))]);
        let told = [
            ("x-death-queue", "late"),
            ("x-death-reason", "max-deliveries"),
            ("x-death-count", "2"),
            ("x-death-time", "1700000000999"),
            ("x-death-group", "default"),
            ("x-death-queue", "q"),
            ("x-death-reason", "expired"),
            ("x-death-count", "1"),
            ("x-death-time", "1600000000000"),
        ];
        let message = published("orders", "new.1", &list);
        let told = told.map(|(key, value)| Neutral::User(Bytes::from(key), Bytes::from(value)));
        let all: Vec<Neutral> = told.into_iter().chain(message.properties.iter()).collect();
        let properties = crate::model::Properties::encode(&all);

        let letter = Message { properties, ..message };
        let found = of(&delivery("$queue/dead", letter, &QUEUED), "dead", None);

        assert_eq!((found.exchange, found.routing_key), (name(""), name("dead")));
        assert_eq!(found.properties.iter().count(), 1, "it would die of its expiration again");
        let headers = found.properties.headers().unwrap();
        let text = |name| match headers.get(name) {
            Some(Value::LongString(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (&text("x-first-death-queue")[..], &text("x-last-death-queue")[..]),
            (&b"q"[..], &b"late"[..])
        );
        assert_eq!(&text("x-first-death-exchange")[..], b"orders");
        assert_eq!(&text("x-first-death-reason")[..], b"expired");
        assert_eq!(&text("x-last-death-reason")[..], b"delivery_limit");
        let Some(Value::Array(deaths)) = headers.get("x-death") else { panic!("an array") };
        let deaths: Vec<Table> = deaths
            .iter()
            .map(|death| match death {
                Value::Table(table) => table,
                other => panic!("{other:?}"),
            })
            .collect();
        let keys = |key| Value::Array(Array::encode([&Value::LongString(Bytes::from_static(key))]));
        let expected: Table = [
            ("count", Value::I64(2)),
            ("reason", "delivery_limit".into()),
            ("queue", "late".into()),
            ("time", Value::Timestamp(1_700_000_000)),
            ("exchange", "".into()),
            ("routing-keys", keys(b"late")),
        ]
        .into_iter()
        .collect();
        assert_eq!((deaths.len(), &deaths[0]), (2, &expected));
        assert_eq!(deaths[1].get("exchange"), Some("orders".into()));
        assert_eq!(deaths[1].get("routing-keys"), Some(keys(b"new.1")));
        assert_eq!(deaths[1].get("time"), Some(Value::Timestamp(1_600_000_000)));
    }
}
