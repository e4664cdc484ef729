//! How a message came: to which exchange, by which keys, with which headers.
//!
//! Of what AMQP 0.9.1 published, what neutral properties cannot say is in a property of its own. Of any other message it is what AMQP would
//! have said. A dead letter is published again: its property says so, and of what it was published with before it keeps the list.
//!
//! ```text
//! own     := nothing | what u8 (· address) (· list)
//! what    := 1, an address follows; the topic says it otherwise · 2, a list follows; the neutral properties say it otherwise
//!          · 4, the list has keys of BCC, which no reader sees · 8, the address says all: keys of CC and BCC have no meaning any more
//! address := exchange · routing key, short strings
//! list    := nothing | flags and fields, as published
//! ```

use std::borrow::Cow;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::address::{EXCHANGES, QUEUES, source_topic};
use super::exchange::{TOPIC_EXCHANGE, fields, texts};
use super::properties::is_reserved;
use super::{Properties, Property, TopicPattern, VirtualHost};

/// Before the topics of virtual hosts.
const HOSTS: &str = "$vhost/";
/// Marks an address that follows.
pub const ADDRESS: u8 = 1;
/// Marks a list that follows.
pub const LIST: u8 = 2;
/// Marks a list that has keys of BCC.
pub const BCC: u8 = 4;
const READDRESSED: u8 = 8;
/// The header of further routing keys, and the one of those that readers do not see (RabbitMQ's sender-selected distribution).
const MORE_KEYS: [&[u8]; 2] = [b"CC", b"BCC"];
/// The user property that is a property of its own in AMQP.
const PRIORITY: &[u8] = b"x-priority";

/// What only AMQP 0.9.1 says of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Exchange and routing key, unless the topic says them.
    pub address: Option<(Bytes, Bytes)>,
    /// The property list as published, unless the neutral properties say it.
    pub list: Option<Bytes>,
    /// The list has a header BCC.
    pub has_bcc: bool,
    /// Keys in its headers have no meaning any more.
    pub is_readdressed: bool,
}

/// How a message came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The exchange; empty for the default one.
    pub exchange: Bytes,
    /// The routing key, and those of CC.
    pub routing_keys: Vec<Bytes>,
    /// Those of BCC.
    pub hidden_keys: Vec<Bytes>,
    /// A table as AMQP 0.9.1 encodes it, without its length.
    pub headers: Bytes,
    /// Milliseconds that it was given to live, as text.
    pub expiration: Option<Bytes>,
}

impl Own {
    /// Finds it among the properties of a message. `None` where nothing of AMQP published it.
    pub fn of(properties: &Properties) -> Option<Own> {
        let own = properties.iter().find_map(|property| match property {
            Property::Amqp091(bytes) => Some(bytes),
            _ => None,
        });
        Own::decode(own?)
    }

    /// Reads it; `None` for what is not written so.
    pub fn decode(mut bytes: Bytes) -> Option<Own> {
        let what = take_byte(&mut bytes).unwrap_or(0);
        let has = |bit| what & bit != 0;
        let mut own = Own { has_bcc: has(BCC), is_readdressed: has(READDRESSED), ..Own::default() };
        if has(ADDRESS) {
            own.address = Some((take_name(&mut bytes)?, take_name(&mut bytes)?));
        }
        own.list = has(LIST).then_some(bytes);
        Some(own)
    }

    /// Writes it.
    pub fn encode(&self) -> Bytes {
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        let what = bit(self.address.is_some(), ADDRESS)
            | bit(self.list.is_some(), LIST)
            | bit(self.has_bcc, BCC)
            | bit(self.is_readdressed, READDRESSED);
        if what == 0 {
            return Bytes::new();
        }
        let mut out = BytesMut::new();
        out.put_u8(what);
        for name in self.address.iter().flat_map(|(exchange, key)| [exchange, key]) {
            let name = &name[..name.len().min(usize::from(u8::MAX))];
            out.put_u8(name.len() as u8);
            out.put_slice(name);
        }
        out.put_slice(self.list.as_deref().unwrap_or_default());
        out.freeze()
    }
}

impl Published {
    /// Reads how a message came that is stored under a topic, with so many seconds to live.
    pub fn of(topic: &Bytes, properties: &Properties, expiry_s: Option<u32>) -> Published {
        let own = Own::of(properties);
        let is_readdressed = own.as_ref().is_some_and(|own| own.is_readdressed);
        let (address, list) = own.map_or((None, None), |own| (own.address, own.list));
        let (exchange, routing_key) = address.unwrap_or_else(|| address_of(topic));
        let (headers, expiration) = match list {
            Some(list) => said(list),
            None => {
                let ms = expiry_s.map(|seconds| (u64::from(seconds) * 1_000).to_string());
                (headers_of(properties), ms.map(Bytes::from))
            }
        };
        let [more, hidden_keys] = match is_readdressed {
            true => [Vec::new(), Vec::new()],
            false => MORE_KEYS.map(|name| keys(&headers, name)),
        };
        let routing_keys = std::iter::once(routing_key).chain(more).collect();
        Published { exchange, routing_keys, hidden_keys, headers, expiration }
    }

    /// Iterates over all keys that it is routed by, the first first.
    pub fn all_keys(&self) -> impl Iterator<Item = &Bytes> {
        self.routing_keys.iter().chain(&self.hidden_keys)
    }
}

/// The properties of a message that is published again: by this exchange, by another key, or by those that it has.
pub fn readdressed(
    list: Vec<Property>,
    topic: &Bytes,
    (exchange, routing_key): (Bytes, Option<Bytes>),
) -> Vec<Property> {
    let is_own = |property: &Property| matches!(property, Property::Amqp091(_));
    let own = list.iter().find(|property| is_own(property)).cloned();
    let own = match own {
        Some(Property::Amqp091(bytes)) => Own::decode(bytes),
        _ => None,
    };
    let own = own.unwrap_or_default();
    let is_readdressed = own.is_readdressed || routing_key.is_some();
    let before = || own.address.clone().unwrap_or_else(|| address_of(topic)).1;
    let routing_key = routing_key.unwrap_or_else(before);
    let own = Own { address: Some((exchange, routing_key)), is_readdressed, ..own };
    let others = list.into_iter().filter(|property| !is_own(property));
    std::iter::once(Property::Amqp091(own.encode())).chain(others).collect()
}

/// Where a message was published, by its topic: a queue's address is the default exchange, an exchange's says itself, everything else is
/// the topic space.
fn address_of(topic: &Bytes) -> (Bytes, Bytes) {
    if let Some(rest) = topic.strip_prefix(EXCHANGES.as_bytes()) {
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let key = rest.get(end + 1..).unwrap_or_default();
        return (name_of(topic, &rest[..end]), topic.slice_ref(key));
    }
    match source_topic(topic) {
        Some(source) => {
            let below = source.strip_prefix(HOSTS.as_bytes());
            let host = below.and_then(VirtualHost::of_topics).unwrap_or_default();
            let own = source.strip_prefix(&host.topic_prefix()[..]).unwrap_or(source);
            (Bytes::from_static(TOPIC_EXCHANGE.as_bytes()), TopicPattern::key_of(own))
        }
        None => {
            let level = topic.strip_prefix(QUEUES.as_bytes()).filter(|name| !name.contains(&b'/'));
            (Bytes::new(), level.map_or_else(|| topic.clone(), |level| name_of(topic, level)))
        }
    }
}

/// The name of a level in its virtual host: a part of the topic where it can be.
fn name_of(topic: &Bytes, level: &[u8]) -> Bytes {
    match VirtualHost::of_level(level).1 {
        Cow::Borrowed(name) => topic.slice_ref(name),
        Cow::Owned(name) => Bytes::from(name),
    }
}

/// Headers and expiration of a property list (§4.2.6.1).
fn said(mut list: Bytes) -> (Bytes, Option<Bytes>) {
    said_by(&mut list).unwrap_or_default()
}

fn said_by(list: &mut Bytes) -> Option<(Bytes, Option<Bytes>)> {
    if list.is_empty() {
        return Some(Default::default());
    }
    let flags = (list.len() >= 2).then(|| list.get_u16())?;
    let has = |bit: u32| flags & 1 << bit != 0;
    // Content type and content encoding.
    for _ in [15, 14].into_iter().filter(|bit| has(*bit)) {
        take_name(list)?;
    }
    let headers = match has(13) {
        true => {
            let length = (list.len() >= 4).then(|| list.get_u32() as usize)?;
            (length <= list.len()).then(|| list.split_to(length))?
        }
        false => Bytes::new(),
    };
    // Delivery mode and priority, correlation id and reply-to.
    for _ in [12, 11].into_iter().filter(|bit| has(*bit)) {
        take_byte(list)?;
    }
    for _ in [10, 9].into_iter().filter(|bit| has(*bit)) {
        take_name(list)?;
    }
    let expiration = if has(8) { Some(take_name(list)?) } else { None };
    Some((headers, expiration))
}

/// User properties as headers: all are text.
fn headers_of(properties: &Properties) -> Bytes {
    let mut out = BytesMut::new();
    for property in properties.iter() {
        let Property::User(key, value) = property else { continue };
        let name = u8::try_from(key.len()).ok().filter(|_| !is_reserved(&key) && key != PRIORITY);
        let (Some(length), Ok(value_length)) = (name, u32::try_from(value.len())) else { continue };
        out.put_u8(length);
        out.put_slice(&key);
        out.put_u8(b'S');
        out.put_u32(value_length);
        out.put_slice(&value);
    }
    out.freeze()
}

fn keys(headers: &Bytes, name: &[u8]) -> Vec<Bytes> {
    let value = fields(headers).find(|(found, _)| *found == name).map(|(_, value)| value);
    value.into_iter().flat_map(texts).map(|text| headers.slice_ref(text)).collect()
}

fn take_byte(bytes: &mut Bytes) -> Option<u8> {
    let first = *bytes.first()?;
    bytes.advance(1);
    Some(first)
}

fn take_name(bytes: &mut Bytes) -> Option<Bytes> {
    let count = usize::from(take_byte(bytes)?);
    (count <= bytes.len()).then(|| bytes.split_to(count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn own(own: &Own) -> Properties {
        Properties::encode(&[Property::Amqp091(own.encode())])
    }

    fn text(value: &str) -> Vec<u8> {
        [b"S", &(value.len() as u32).to_be_bytes()[..], value.as_bytes()].concat()
    }

    fn array(values: &[&str]) -> Vec<u8> {
        let inside: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        [b"A", &(inside.len() as u32).to_be_bytes()[..], &inside].concat()
    }

    fn entry(name: &str, value: &[u8]) -> Vec<u8> {
        [&[name.len() as u8], name.as_bytes(), value].concat()
    }

    /// Flags and fields: content type, headers, delivery mode, correlation id, expiration, message id.
    fn list(headers: &[u8]) -> Bytes {
        let table = [&(headers.len() as u32).to_be_bytes()[..], headers].concat();
        let flags = (1u16 << 15 | 1 << 13 | 1 << 12 | 1 << 10 | 1 << 8 | 1 << 7).to_be_bytes();
        [&flags[..], b"\x04text", &table, b"\x02", b"\x01c", b"\x0225", b"\x01m"].concat().into()
    }

    proptest! {
        #[test]
        fn what_amqp_says_comes_back(
            address in proptest::option::of(("[a-z.]{0,9}", "[a-z.]{0,9}")),
            list in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            (has_bcc, is_readdressed) in any::<(bool, bool)>(),
        ) {
            let address = address.map(|(exchange, key)| (exchange.into(), key.into()));
            let own = Own { address, list: list.map(Bytes::from), has_bcc, is_readdressed };
            prop_assert_eq!(Own::decode(own.encode()), Some(own));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let bytes = Bytes::from(bytes);
            said(bytes.clone());
            keys(&bytes, b"CC");
            Own::decode(bytes);
        }
    }

    #[test]
    fn keys_headers_and_expiration_are_read_out_of_the_list() {
        let headers = [
            entry("CC", &array(&["c", "d"])),
            entry("a", &text("1")),
            entry("BCC", &array(&["b"])),
        ];
        let headers = headers.concat();
        let address = Some((Bytes::from("orders"), Bytes::from("new")));
        let said = Own { address, list: Some(list(&headers)), has_bcc: true, ..Own::default() };

        let found = Published::of(&Bytes::from("$exchange/orders/new"), &own(&said), Some(1));

        let expected = Published {
            exchange: Bytes::from("orders"),
            routing_keys: ["new", "c", "d"].map(Bytes::from).to_vec(),
            hidden_keys: vec![Bytes::from("b")],
            headers: headers.into(),
            expiration: Some(Bytes::from("25")),
        };
        assert_eq!(found, expected);
        let all: Vec<&[u8]> = found.all_keys().map(|key| &key[..]).collect();
        assert_eq!(all, [b"new", &b"c"[..], b"d", b"b"]);
    }

    #[test]
    fn what_others_published_is_what_amqp_would_have_said() {
        let user = |key: &str, value: &str| {
            Property::User(Bytes::from(key.to_owned()), Bytes::from(value.to_owned()))
        };
        let said = [user("unit", "C"), user("x-priority", "4"), user("x-death-queue", "q")];
        let properties = Properties::encode(&said);
        for (topic, exchange, key) in [
            ("site/1.5", "amq.topic", "site.1/5"),
            ("$queue//site/1", "amq.topic", "site.1"),
            ("$queue/q", "", "q"),
            ("$queue/staging%3Aa%2Fb", "", "a/b"),
            ("$exchange/staging%3Aa%2Fb/k/1", "a/b", "k/1"),
            ("$vhost/staging/site/1", "amq.topic", "site.1"),
            ("$exchange/orders/new/1", "orders", "new/1"),
            ("$exchange/orders", "orders", ""),
            ("$queue/q/eu", "", "$queue/q/eu"),
        ] {
            let found = Published::of(&Bytes::from(topic), &properties, Some(3));
            assert_eq!(found.exchange, exchange, "{topic}");
            assert_eq!(found.routing_keys, [key], "{topic}");
            assert_eq!(found.headers, entry("unit", &text("C")), "{topic}");
            assert_eq!(found.expiration, Some(Bytes::from("3000")), "{topic}");
        }
    }

    #[test]
    fn what_is_published_again_has_another_address_and_its_list() {
        let headers = entry("CC", &array(&["c"]));
        let first = Own { list: Some(list(&headers)), ..Own::default() };
        let topic = Bytes::from("$queue/q");
        let of = |all: &[Property]| Published::of(&topic, &Properties::encode(all), None);
        let other = Property::ContentType(Bytes::from("text"));
        let all = vec![Property::Amqp091(first.encode()), other.clone()];

        let dead = readdressed(all, &topic, (Bytes::from("dlx"), None));
        let found = of(&dead);
        assert_eq!(
            (&found.exchange[..], &found.routing_keys[..]),
            (&b"dlx"[..], &["q", "c"].map(Bytes::from)[..])
        );
        assert_eq!((&found.headers[..], dead.len()), (&headers[..], 2));

        let again = readdressed(dead, &topic, (Bytes::new(), Some(Bytes::from("late"))));
        let found = of(&again);
        assert_eq!(
            (&found.exchange[..], &found.routing_keys[..]),
            (&b""[..], &["late"].map(Bytes::from)[..])
        );
        let back = of(&readdressed(again, &topic, (Bytes::from("dlx"), None)));
        assert_eq!(
            (&back.exchange[..], &back.routing_keys[..]),
            (&b"dlx"[..], &["late"].map(Bytes::from)[..])
        );
        let foreign = readdressed(vec![other], &topic, (Bytes::from("dlx"), None));
        assert_eq!(of(&foreign).routing_keys, ["q"]);
    }
}
