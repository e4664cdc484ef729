//! A delivery as AMQP 0.9.1 has it: exchange, routing key and property list.
//!
//! What an AMQP client published comes as it was published. What came another way is said as far as there are words: its topic as a key
//! of `amq.topic`, its user properties as headers. What the broker says of a delivery is in headers.

use std::borrow::Cow;

use bytes::Bytes;

use super::codec::{Array, Properties, Property, ShortString, Table, Value};
use super::convert::{PRIORITY, QUEUES, exchanged};
use super::publish::TOPICS;
use crate::model::death::{self, Certificate, Death};
use crate::model::published::Own;
use crate::model::{Delivery, Message, Property as Neutral, QoS, QueueName, VirtualHost};

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
pub(super) fn of(delivery: &Delivery, queue: &QueueName, expiry_s: Option<u32>) -> Envelope {
    let message = &delivery.message;
    let (mut own, mut is_dead) = (None, false);
    for property in message.properties.iter() {
        match property {
            Neutral::Amqp091(bytes) => own = Own::decode(bytes),
            Neutral::User(key, _) => is_dead |= key.starts_with(DEATH),
            _ => {}
        }
    }
    let is_ours = own.is_some();
    let Own { address, list, has_bcc, .. } = own.unwrap_or_default();
    let topics = queue.virtual_host().topic_prefix();
    let list = list.and_then(decoded).unwrap_or_else(|| neutral(message, &topics, expiry_s));
    let source = delivery.annotations.source_topic();
    let mut extra = extra_headers(delivery, is_ours);
    if is_dead {
        let deaths = death::deaths(&message.properties);
        extra.extend(death_headers(&deaths, &of_topic(message, source, &topics)));
    }
    let (exchange, routing_key) = match address {
        Some((exchange, routing_key)) => (short_or_cut(exchange), short_or_cut(routing_key)),
        // Letters of other protocols come by the default exchange.
        None if is_dead => (ShortString::default(), ShortString::truncated(&queue.name())),
        None => of_topic(message, source, &topics),
    };
    let properties = match extra.is_empty() && !has_bcc {
        true => list,
        false => with_headers(&list, &extra, (is_dead, has_bcc)),
    };
    Envelope { exchange, routing_key, properties }
}

/// A property list as it was published.
fn decoded(list: Bytes) -> Option<Properties> {
    if list.is_empty() { Some(Properties::default()) } else { Properties::decode(list).ok() }
}

/// Where a message was published, by its topic: a queue's address is the default exchange, everything else the topic space.
fn of_topic(
    message: &Message,
    source: Option<&Bytes>,
    topics: &[u8],
) -> (ShortString, ShortString) {
    let topic = source.unwrap_or(message.topic.as_bytes());
    let Some(level) = topic.strip_prefix(QUEUES.as_bytes()) else {
        return (ShortString::from_static(TOPICS), short_or_cut(key_of(topic, topics)));
    };
    let key = match VirtualHost::of_level(level).1 {
        _ if level.contains(&b'/') => topic.clone(),
        // A part of what the message holds anyway.
        Cow::Borrowed(name) => topic.slice_ref(name),
        Cow::Owned(name) => Bytes::from(name),
    };
    (ShortString::default(), short_or_cut(key))
}

/// The key of a topic in a virtual host whose topics begin so; one of another host is a key as it is.
fn key_of(topic: &[u8], topics: &[u8]) -> Bytes {
    exchanged(topic.strip_prefix(topics).unwrap_or(topic))
}

/// Of what is longer, what fits.
fn short_or_cut(text: Bytes) -> ShortString {
    short(text.clone()).unwrap_or_else(|| ShortString::truncated(&String::from_utf8_lossy(&text)))
}

/// What the neutral message says, as a property list.
fn neutral(message: &Message, topics: &[u8], expiry_s: Option<u32>) -> Properties {
    let mut list = Vec::new();
    let mut headers = Vec::new();
    for property in message.properties.iter() {
        match property {
            Neutral::ContentType(text) => list.extend(short(text).map(Property::ContentType)),
            Neutral::CorrelationData(id) => match short(id.clone()) {
                Some(id) => list.push(Property::CorrelationId(id)),
                None => headers.push((name("x-correlation-id"), Value::LongString(id))),
            },
            Neutral::ResponseTopic(topic) => {
                list.extend(reply_to(&topic, topics).map(Property::ReplyTo));
            }
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
        if list.is_empty() && headers.is_empty() && expiry_s.is_none() {
            return Properties::PERSISTENT;
        }
        list.push(Property::DeliveryMode(2));
    }
    if let Some(seconds) = expiry_s {
        let ms = u64::from(seconds) * 1_000;
        list.push(Property::Expiration(ShortString::truncated(&ms.to_string())));
    }
    Properties::encode(list)
}

/// Who publishes to the default exchange by it, or to `amq.topic`, answers where it was asked to.
fn reply_to(topic: &Bytes, topics: &[u8]) -> Option<ShortString> {
    match topic.strip_prefix(QUEUES.as_bytes()) {
        Some(level) if !level.contains(&b'/') => {
            let (_, name) = VirtualHost::of_level(level);
            short(Bytes::copy_from_slice(&name))
        }
        Some(_) => short(topic.clone()),
        None => short(key_of(topic, topics)),
    }
}

fn short(bytes: Bytes) -> Option<ShortString> {
    ShortString::new(bytes).ok()
}

fn name(text: &'static str) -> ShortString {
    ShortString::from_static(text)
}

/// What the broker says of a delivery. Of a message that AMQP published only what it did not know: that it came back, where in a stream it
/// is, how it died.
fn extra_headers(delivery: &Delivery, is_ours: bool) -> Vec<(&'static str, Value)> {
    let annotations = &delivery.annotations;
    let mut headers = Vec::new();
    if !is_ours {
        annotations.each(delivery.id.offset, |key, value| match key {
            "delivery-count" => headers.push(("x-delivery-count", number(value))),
            "offset" | "x-stream-offset" | "x-stream-timestamp" => {
                headers.push((key, number(value)));
            }
            key => headers.push((key, text(value))),
        });
        return headers;
    }
    if annotations.stored_at().is_some() {
        let offset = i64::try_from(delivery.id.offset.0).unwrap_or(i64::MAX);
        headers = vec![("x-stream-offset", Value::I64(offset))];
    }
    if annotations.delivery_count() > 0 {
        headers.push(("x-delivery-count", Value::I64(annotations.delivery_count().into())));
    }
    headers.extend(annotations.told().iter().map(|(key, value)| (*key, text(value))));
    headers
}

fn number(digits: &str) -> Value {
    digits.parse().map_or_else(|_| text(digits), Value::I64)
}

fn text(value: &str) -> Value {
    Value::LongString(Bytes::copy_from_slice(value.as_bytes()))
}

/// `x-death`, the newest first, and the exchange, queue and reason of the first and the last, as RabbitMQ has them. `came` is how a message
/// came that no exchange routed.
fn death_headers(
    deaths: &[Certificate],
    came: &(ShortString, ShortString),
) -> Vec<(&'static str, Value)> {
    let (Some(last), Some(first)) = (deaths.first(), death::first(deaths)) else {
        return Vec::new();
    };
    // To AMQP the same of two groups is the same.
    let is_same = |one: &Certificate, other: &Certificate| {
        (&one.queue, one.death) == (&other.queue, other.death)
    };
    let is_newest = |at: usize| deaths[..at].iter().all(|other| !is_same(other, &deaths[at]));
    let tables = (0..deaths.len()).filter(|at| is_newest(*at)).map(|at| {
        let same: Vec<&Certificate> =
            deaths.iter().filter(|other| is_same(other, &deaths[at])).collect();
        Value::Table(death_table(&same, came))
    });
    let tables: Vec<Value> = tables.collect();
    let long = |bytes: &Bytes| Value::LongString(bytes.clone());
    let exchange_of = |death: &Certificate| match &death.published {
        Some((exchange, _)) => long(exchange),
        None => long(came.0.as_bytes()),
    };
    let last_exchange = last.last_exchange.as_ref().map_or_else(|| exchange_of(last), long);
    vec![
        ("x-death", Value::Array(Array::encode(&tables))),
        ("x-first-death-exchange", exchange_of(first)),
        ("x-first-death-queue", queue_of(first)),
        ("x-first-death-reason", text(reason(first.death))),
        ("x-last-death-exchange", last_exchange),
        ("x-last-death-queue", queue_of(last)),
        ("x-last-death-reason", text(reason(last.death))),
    ]
}

/// The name of the queue where a message died.
fn queue_of(death: &Certificate) -> Value {
    text(&QueueName::from_stored(death.queue.clone()).name())
}

/// Deaths of one cause in one queue: how often, and how the message had come the first time.
fn death_table(same: &[&Certificate], came: &(ShortString, ShortString)) -> Table {
    let first = same.iter().min_by_key(|death| death.time).expect("there is one");
    let count: u64 = same.iter().map(|death| death.count).sum();
    let (exchange, keys) = match &first.published {
        Some((exchange, keys)) => (exchange.clone(), keys.clone()),
        None => (came.0.as_bytes().clone(), vec![came.1.as_bytes().clone()]),
    };
    let keys: Vec<Value> = keys.into_iter().map(Value::LongString).collect();
    let expiration = first.expiration.clone().map(Value::LongString);
    let expiration = expiration.map(|value| ("original-expiration", value));
    let entries = [
        ("count", Value::I64(i64::try_from(count).unwrap_or(i64::MAX))),
        ("reason", text(reason(first.death))),
        ("queue", queue_of(first)),
        ("time", Value::Timestamp(first.time.0 / 1_000)),
        ("exchange", Value::LongString(exchange)),
        ("routing-keys", Value::Array(Array::encode(&keys))),
    ];
    expiration.into_iter().chain(entries).collect()
}

/// RabbitMQ's word for it.
fn reason(death: Death) -> &'static str {
    match death {
        Death::Rejected => "rejected",
        Death::Expired => "expired",
        Death::Deliveries => "delivery_limit",
        Death::Overflow => "maxlen",
    }
}

/// The list with these headers instead of those of their names, and without BCC, which is for the broker alone. A letter's expiration is
/// over: it would die of it again.
fn with_headers(
    list: &Properties,
    extra: &[(&str, Value)],
    (is_dead, has_bcc): (bool, bool),
) -> Properties {
    if !is_dead && !has_bcc {
        return list.with_more_headers(extra);
    }
    let mut headers = list.headers().unwrap_or_default();
    if has_bcc {
        let kept: Vec<(ShortString, Value)> =
            headers.iter().filter(|(name, _)| name.as_bytes() != "BCC").collect();
        headers = Table::encode(kept.iter().map(|(name, value)| (name, value)));
    }
    let headers = headers.with(extra);
    if !is_dead {
        return list.with_headers(&headers);
    }
    let kept = list.iter().filter(|property| !matches!(property, Property::Expiration(_)));
    Properties::encode(kept).with_headers(&headers)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fluxmq_index::Offset;
    use proptest::prelude::*;

    use super::super::assembly::Content;
    use super::super::codec::method::BasicPublish;
    use super::super::codec::strategies;
    use super::super::convert::{self, Publisher};
    use super::*;
    use crate::model::annotations::ConsumerNames;
    use crate::model::{
        Annotations, DeliveryId, DeliverySource, Millis, PartitionId, QueueName, Topic,
    };

    fn delivery(topic: &str, message: Message, annotations: Annotations) -> Delivery {
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
            annotations,
            settle_explicit: false,
        }
    }

    fn queue(name: &'static str) -> QueueName {
        QueueName::new(Bytes::from(name)).unwrap()
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
        let host = VirtualHost::default();
        let publisher = Publisher { user: b"ann", session_id: b"amqp-1", host: &host };
        convert::read(&publish, &content, publisher, false).unwrap()
    }

    /// A message of another protocol.
    fn foreign(list: &[Neutral]) -> Message {
        let properties = crate::model::Properties::encode(list);
        let message = published(TOPICS, "t", &Properties::default());
        Message { properties, expiry_s: Some(3), qos: QoS::AtLeastOnce, ..message }
    }

    /// Of a consumer of queue `q`.
    fn queued(delivery_count: u32) -> Annotations {
        let [queue, group] =
            ["q", "default"].map(|name| QueueName::new(Bytes::from(name)).expect("a name"));
        Annotations::of_entry(Arc::new(ConsumerNames { queue, group }), delivery_count)
    }

    proptest! {
        #[test]
        fn what_amqp_published_comes_as_it_was((list, _) in strategies::properties(), way in 0..4usize) {
            // Those that are checked have values that pass.
            let list = list.into_iter().map(|property| match property {
                Property::UserId(_) => Property::UserId(name("ann")),
                Property::Expiration(_) => Property::Expiration(name("1500")),
                other => other,
            });
            let list = Properties::encode(list);
            let (exchange, key, topic, source) = [
                ("", "q", "$queue/q", None),
                ("", "a/%2F", "$queue/a%2F%252F", None),
                ("orders", "new.1", "$queue/q/orders/new.1", None),
                (TOPICS, "a.b", "$queue/q/a/b", Some("a/b")),
            ][way];
            let mut told = queued(0);
            source.into_iter().for_each(|source| told.came_by(Bytes::from(source)));
            let delivery = delivery(topic, published(exchange, key, &list), told);

            let found = of(&delivery, &queue("q"), delivery.message.expiry_s);

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
        let mut told = queued(0);
        told.came_by(Bytes::from("site/1.5"));

        let found = of(&delivery("$queue/q/site/1.5", message, told), &queue("q"), Some(3));

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
        for (topic, key) in
            [("$queue/q", "q"), ("$queue/q/eu/1", "$queue/q/eu/1"), ("$queue/a%2Fb", "a/b")]
        {
            let found =
                of(&delivery(topic, foreign(&[]), Annotations::default()), &queue("q"), None);
            assert_eq!((found.exchange, found.routing_key), (name(""), name(key)));
        }
    }

    #[test]
    fn a_delivery_that_came_back_says_how_often() {
        let list = Properties::encode([Property::Priority(1)]);

        let found =
            of(&delivery("$queue/q", published("", "q", &list), queued(2)), &queue("q"), None);

        let headers: Table = [("x-delivery-count", Value::I64(2))].into_iter().collect();
        let expected = [Property::Headers(headers), Property::Priority(1)];
        assert_eq!(found.properties.iter().collect::<Vec<_>>(), expected);
    }

    /// A message that died so, the newest death first.
    fn letter(message: Message, deaths: &[Certificate]) -> Message {
        let mut all: Vec<Neutral> = message.properties.iter().collect();
        deaths.iter().for_each(|death| death.put(&mut all));
        Message { properties: crate::model::Properties::encode(&all), ..message }
    }

    fn died(queue: &'static str, death: Death, ms: u64) -> Certificate {
        Certificate {
            queue: Bytes::from(queue),
            death,
            count: 1,
            time: Millis(ms),
            group: None,
            published: None,
            last_exchange: None,
            expiration: None,
            is_first: false,
        }
    }

    fn tables(headers: &Table) -> Vec<Table> {
        let Some(Value::Array(deaths)) = headers.get("x-death") else { panic!("an array") };
        let table = |death| match death {
            Value::Table(table) => table,
            other => panic!("{other:?}"),
        };
        deaths.iter().map(table).collect()
    }

    fn keys(keys: &[&'static str]) -> Value {
        let keys: Vec<Value> = keys.iter().map(|key| (*key).into()).collect();
        Value::Array(Array::encode(&keys))
    }

    #[test]
    fn a_letter_says_how_it_died_as_rabbitmq_does() {
        let list = Properties::encode([Property::Expiration(name("10"))]);
        let published = |exchange: &'static str, keys: &[&'static str]| {
            Some((Bytes::from(exchange), keys.iter().map(|key| Bytes::from(*key)).collect()))
        };
        let deaths = [
            Certificate {
                count: 2,
                published: published("dlx", &["late"]),
                last_exchange: Some(Bytes::from("again")),
                ..died("late", Death::Deliveries, 1_700_000_000_999)
            },
            Certificate {
                published: published("orders", &["new.1", "copy"]),
                expiration: Some(Bytes::from("10")),
                group: Some(Bytes::from("default")),
                ..died("q", Death::Expired, 1_600_000_000_000)
            },
        ];
        let address = Some((Bytes::from("dlx"), Bytes::from("dead")));
        let message = self::published("orders", "new.1", &list);
        let own = Own { address, ..Own::of(&message.properties).unwrap() };
        let readdressed = |property| match property {
            Neutral::Amqp091(_) => Neutral::Amqp091(own.encode()),
            other => other,
        };
        let all: Vec<Neutral> = message.properties.iter().map(readdressed).collect();
        let message = Message { properties: crate::model::Properties::encode(&all), ..message };

        let letter = letter(message, &deaths);
        let found = of(&delivery("$queue/dead", letter, queued(0)), &queue("dead"), None);

        assert_eq!((found.exchange, found.routing_key), (name("dlx"), name("dead")));
        assert_eq!(found.properties.iter().count(), 1, "it would die of its expiration again");
        let headers = found.properties.headers().unwrap();
        for (name, expected) in [
            ("x-first-death-queue", "q"),
            ("x-first-death-reason", "expired"),
            ("x-first-death-exchange", "orders"),
            ("x-last-death-queue", "late"),
            ("x-last-death-reason", "delivery_limit"),
            ("x-last-death-exchange", "again"),
        ] {
            assert_eq!(headers.get(name), Some(expected.into()), "{name}");
        }
        let expected: [Table; 2] = [
            [
                ("count", Value::I64(2)),
                ("reason", "delivery_limit".into()),
                ("queue", "late".into()),
                ("time", Value::Timestamp(1_700_000_000)),
                ("exchange", "dlx".into()),
                ("routing-keys", keys(&["late"])),
            ]
            .into_iter()
            .collect(),
            [
                ("original-expiration", "10".into()),
                ("count", Value::I64(1)),
                ("reason", "expired".into()),
                ("queue", "q".into()),
                ("time", Value::Timestamp(1_600_000_000)),
                ("exchange", "orders".into()),
                ("routing-keys", keys(&["new.1", "copy"])),
            ]
            .into_iter()
            .collect(),
        ];
        assert_eq!(tables(&headers), expected);
    }

    #[test]
    fn a_letter_of_another_protocol_comes_by_its_queue_and_deaths_of_two_groups_are_one() {
        let of_group = |group: &'static str, count, ms| Certificate {
            group: Some(Bytes::from(group)),
            count,
            ..died("q", Death::Rejected, ms)
        };
        let deaths = [of_group("two", 2, 9_000), of_group("one", 3, 4_000)];
        let letter = letter(foreign(&[]), &deaths);

        let found = of(&delivery("$queue/dead/a/b", letter, queued(0)), &queue("dead"), None);

        assert_eq!((found.exchange, found.routing_key), (name(""), name("dead")));
        let headers = found.properties.headers().unwrap();
        let tables = tables(&headers);
        assert_eq!(tables.len(), 1);
        assert_eq!(tables[0].get("count"), Some(Value::I64(5)));
        assert_eq!(tables[0].get("time"), Some(Value::Timestamp(4)));
        assert_eq!(tables[0].get("routing-keys"), Some(keys(&["$queue/dead/a/b"])));
        assert_eq!(tables[0].get("original-expiration"), None);
    }
}
