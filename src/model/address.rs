//! Topics, filters and queue names, checked wherever they enter: a malformed one stored would match nothing for ever.

use bytes::Bytes;
use thiserror::Error;

pub use super::managed::{ManageAddress, ManagedKind};
use super::record::{filter_id, queue_id};
use super::virtual_host::{self, VirtualHost, check_level};

/// Levels of a topic or filter, at most: matching cost grows with them.
pub const LEVELS_MAX: usize = 128;
/// Bytes of a topic or filter, at most.
pub const ADDRESS_BYTES_MAX: usize = 4096;
/// Bytes of a queue's or group's name, at most, before what a level must not contain is escaped.
pub const NAME_BYTES_MAX: usize = 255;

/// Why an address was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// [MQTT-4.7.3-1]
    #[error("an address must have at least one character")]
    Empty,
    /// Longer than we match.
    #[error("an address of {bytes} bytes is longer than {ADDRESS_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Deeper than we match.
    #[error("an address of {levels} levels is deeper than {LEVELS_MAX}")]
    TooDeep {
        /// Its depth.
        levels: usize,
    },
    /// [MQTT-1.5.4-1]
    #[error("an address must be UTF-8")]
    NotUtf8,
    /// [MQTT-4.7.3-2]
    #[error("an address must not contain U+0000")]
    Nul,
    /// [MQTT-3.3.2-2]
    #[error("a topic to publish to must not contain '+' or '#'")]
    Wildcard,
    /// [MQTT-4.7.1-1], [MQTT-4.7.1-2]
    #[error("'+' and '#' must stand alone in their level, '#' in the last")]
    MisplacedWildcard,
    /// A `$` name with a meaning to the broker, in a form that has none.
    #[error("'{name}' is not an address that clients can use here")]
    Reserved {
        /// Its first level.
        name: String,
    },
    /// A replay of what is not an ordinary topic.
    #[error(
        "'{name}' cannot be replayed: a queue is read with 'cursor', a shared subscription goes on where it is, and of $SYS nothing is kept"
    )]
    NotReplayed {
        /// Its first level.
        name: String,
    },
    /// `$share/<group>/$replay/…`.
    #[error(
        "a shared subscription cannot be replayed, it has one place for all its members: subscribe to $replay without $share"
    )]
    SharedReplay,
    /// A queue's or group's name.
    #[error(
        "a name must have 1 to {NAME_BYTES_MAX} bytes; '/', '+' and '#' in it are written %2F, %2B and %23"
    )]
    Name,
    /// A virtual host's name.
    #[error("the name of a virtual host must have 1 to {NAME_BYTES_MAX} bytes of UTF-8 and no '*'")]
    VirtualHost,
    /// A settling verb that is not the last level.
    #[error("'{verb}' must be the last level of a queue address")]
    MisplacedVerb {
        /// The verb.
        verb: String,
    },
}

/// A topic name without wildcards. UTF-8, 1 to 4096 bytes, at most 128 levels, no NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Bytes);

/// A topic filter. Like a topic, with `+` and `#` in their places.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter(Bytes);

/// A queue's name as addresses have it: one level, no wildcards. See [`VirtualHost`] for the name that AMQP has for it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(Bytes);

impl Topic {
    /// Checks a topic name; says nothing about who may publish to it.
    ///
    /// One pass without branches accepts the usual topic: short, of ASCII. The rest is judged rule by rule.
    #[inline]
    pub fn new(bytes: Bytes) -> Result<Topic, AddressError> {
        let (mut all, mut is_odd) = (0, false);
        for byte in bytes.iter() {
            all |= byte;
            is_odd |= (*byte == 0) | (*byte == b'+') | (*byte == b'#');
        }
        // So short that it cannot have too many levels.
        let is_short = (1..LEVELS_MAX).contains(&bytes.len());
        if is_short && all < 0x80 && !is_odd {
            return Ok(Topic(bytes));
        }
        Topic::judge(bytes)
    }

    #[cold]
    fn judge(bytes: Bytes) -> Result<Topic, AddressError> {
        check(&bytes)?;
        if bytes.iter().any(|byte| matches!(byte, b'+' | b'#')) {
            return Err(AddressError::Wildcard);
        }
        Ok(Topic(bytes))
    }

    /// Wraps a topic that was checked before it was stored.
    pub fn from_stored(bytes: Bytes) -> Topic {
        Topic(bytes)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        text(&self.0)
    }

    /// The name as bytes, shared.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl Filter {
    /// Checks a topic filter.
    pub fn new(bytes: Bytes) -> Result<Filter, AddressError> {
        check(&bytes)?;
        let mut levels = text(&bytes).split('/').peekable();
        while let Some(level) = levels.next() {
            let wild = level.contains(['+', '#']);
            if wild && (level.len() > 1 || (level == "#" && levels.peek().is_some())) {
                return Err(AddressError::MisplacedWildcard);
            }
        }
        Ok(Filter(bytes))
    }

    /// Wraps a filter that was checked before it was stored.
    pub fn from_stored(bytes: Bytes) -> Filter {
        Filter(bytes)
    }

    /// The filter as text.
    pub fn as_str(&self) -> &str {
        text(&self.0)
    }

    /// The filter as bytes, shared.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Returns true for `$share/…`.
    pub fn is_shared(&self) -> bool {
        self.0.starts_with(b"$share/")
    }

    /// Returns true for `$SYS/…`, what the broker says of itself.
    pub fn is_statistics(&self) -> bool {
        self.0.starts_with(b"$SYS/")
    }

    /// Returns true when it names exactly one topic.
    pub fn is_literal(&self) -> bool {
        !self.0.iter().any(|byte| matches!(byte, b'+' | b'#'))
    }
}

/// Before a queue's name, where it is published to.
pub const QUEUES: &str = "$queue/";
/// Before an exchange's name and the routing key, in the topic of what it routed.
pub const EXCHANGES: &str = "$exchange/";
/// The address of the dead-letter queues that queues have of their own.
pub(super) const DEAD_LETTERS: &str = "$dlq/";
/// What the names of AMQP's reply queues begin with, in every virtual host.
pub const REPLY_QUEUES: &str = "amq.rabbitmq.reply-to.";

impl QueueName {
    /// Checks the name of a queue where `$dlq/<queue>` is one too.
    pub fn from_text(bytes: Bytes) -> Result<QueueName, AddressError> {
        match bytes.strip_prefix(DEAD_LETTERS.as_bytes()) {
            Some(inner) => QueueName::new(bytes.slice_ref(inner)).map(|_| QueueName(bytes)),
            None => QueueName::new(bytes),
        }
    }

    /// Wraps a name that was checked before it was stored.
    pub fn from_stored(bytes: Bytes) -> QueueName {
        QueueName(bytes)
    }

    /// The queue of this one's dead letters, unless it says another.
    pub fn dead_letters(&self) -> QueueName {
        QueueName(Bytes::from(format!("{DEAD_LETTERS}{}", self.origin())))
    }

    /// Returns true for `$dlq/<queue>`.
    pub fn is_dead_letters(&self) -> bool {
        self.0.starts_with(DEAD_LETTERS.as_bytes())
    }

    /// Returns true for what answers are sent to (RabbitMQ, direct reply-to): there by its consumer's word alone, never by its first use.
    pub fn is_reply_queue(&self) -> bool {
        let name = VirtualHost::name_in_level(&self.0);
        name.starts_with(REPLY_QUEUES.as_bytes()) && !self.is_dead_letters()
    }

    /// The name that says where the queue lives: a queue and its own dead letters live together.
    pub fn origin(&self) -> &str {
        text(self.origin_bytes())
    }

    fn origin_bytes(&self) -> &[u8] {
        self.0.strip_prefix(DEAD_LETTERS.as_bytes()).unwrap_or(&self.0)
    }

    /// Where it is published to and subscribed to.
    pub fn address(&self) -> String {
        match self.is_dead_letters() {
            true => self.as_str().to_owned(),
            false => format!("$queue/{self}"),
        }
    }

    /// What matches everything that its readers may see.
    pub fn filter(&self) -> Filter {
        Filter(Bytes::from(format!("{}/#", self.address())))
    }

    /// The topic under which its readers see a stored message: below the queue's address, so that it matches what they asked for
    /// [MQTT-3.3.2-3].
    pub fn topic_of(&self, stored: &Bytes) -> Topic {
        let prefix: &[u8] = if self.is_dead_letters() { b"" } else { b"$queue/" };
        let is_own = stored
            .strip_prefix(prefix)
            .and_then(|name| name.strip_prefix(&self.0[..]))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        if is_own {
            return Topic(stored.clone());
        }
        let address = self.address();
        let key = text(source_topic(stored).unwrap_or_else(|| routing_key(stored)));
        match key.is_empty() {
            true => Topic(Bytes::from(address)),
            false => Topic(Bytes::from(format!("{address}/{key}"))),
        }
    }

    /// Checks a queue's or group's name.
    pub fn new(bytes: Bytes) -> Result<QueueName, AddressError> {
        let name = std::str::from_utf8(&bytes).map_err(|_| AddressError::NotUtf8)?;
        if name.contains(['/', '+', '#', '\0']) {
            return Err(AddressError::Name);
        }
        // What has no escape is a name of the default host.
        match name.contains('%') {
            true => check_level(&bytes)?,
            false if bytes.is_empty() || bytes.len() > NAME_BYTES_MAX => {
                return Err(AddressError::Name);
            }
            false => {}
        }
        Ok(QueueName(bytes))
    }

    /// The name that AMQP has for it, in its virtual host.
    pub fn name(&self) -> std::borrow::Cow<'_, str> {
        let (_, name) = VirtualHost::of_level(self.origin_bytes());
        let name = virtual_host::text(name);
        match self.is_dead_letters() {
            true => format!("{DEAD_LETTERS}{name}").into(),
            false => name,
        }
    }

    /// The virtual host in which AMQP has it.
    pub fn virtual_host(&self) -> VirtualHost {
        VirtualHost::of_level(self.origin_bytes()).0
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        text(&self.0)
    }

    /// The name as bytes, shared.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Before the topic of a message that is stored for the queues bound to it and for nobody else. No queue has an empty name, so this
/// is no queue's address, and no filter over topics reaches below a `$`.
const CAPTURED: &[u8] = b"$queue//";

/// Returns the topic under which a copy for bound queues is stored.
pub fn captured_topic(topic: &[u8]) -> Bytes {
    [CAPTURED, topic].concat().into()
}

/// Returns the topic under which what an exchange routed is stored: below a `$`, so that no filter over topics meets it. A routing key that
/// is no topic is left out of it, and so is an empty one.
pub fn exchange_topic(exchange: &QueueName, routing_key: &[u8]) -> Topic {
    let address = format!("{EXCHANGES}{exchange}");
    let whole = [address.as_bytes(), b"/", routing_key].concat();
    let with_key = Topic::new(whole.into()).ok().filter(|_| !routing_key.is_empty());
    with_key.unwrap_or_else(|| Topic(address.into()))
}

/// Returns where a stored message was published that came to its queues by bindings; `None` where it was published to a queue.
pub fn source_topic(stored: &[u8]) -> Option<&[u8]> {
    match stored.strip_prefix(CAPTURED) {
        None if stored.starts_with(b"$queue/") => None,
        captured => Some(captured.unwrap_or(stored)),
    }
}

/// Returns what is behind the name in `$queue/<name>/<routing key>`.
fn routing_key(stored: &[u8]) -> &[u8] {
    let levels = stored.strip_prefix(b"$queue/").unwrap_or(stored);
    let name = levels.iter().position(|byte| *byte == b'/');
    name.map_or(&[], |end| &levels[end + 1..])
}

/// Returns true for a stored topic whose first level means something to the broker: what is stored under it is for queues.
pub fn is_reserved_topic(stored: &[u8]) -> bool {
    let first = stored.split(|byte| *byte == b'/').next().unwrap_or(stored);
    stored.first() == Some(&b'$') && OURS.iter().any(|ours| ours.as_bytes() == first)
}

/// Returns true for a filter or topic whose first level means something to the broker.
pub fn is_reserved(text: &str) -> bool {
    OURS.contains(&text.split('/').next().unwrap_or(text))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("addresses are checked when they enter")
}

fn check(bytes: &Bytes) -> Result<(), AddressError> {
    if bytes.is_empty() {
        return Err(AddressError::Empty);
    }
    if bytes.len() > ADDRESS_BYTES_MAX {
        return Err(AddressError::TooLong { bytes: bytes.len() });
    }
    let levels = bytes.iter().filter(|byte| **byte == b'/').count() + 1;
    if levels > LEVELS_MAX {
        return Err(AddressError::TooDeep { levels });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| AddressError::NotUtf8)?;
    if text.contains('\0') { Err(AddressError::Nul) } else { Ok(()) }
}

/// Where a publish goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishAddress {
    /// An ordinary topic.
    Topic,
    /// `$queue/<name>[/<routing key>]`: the whole topic stays the message's topic.
    Queue(QueueName),
    /// `$queue/<name>/…/$ack` and its kin: settles instead of publishing.
    Settle(QueueName, Verb),
    /// `$management/…`: asks instead of publishing.
    Manage(ManageAddress),
}

/// What a consumer group reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The entries of a queue, by queue offsets.
    Queue(QueueName),
    /// The messages that match a filter over topics, by partition offsets: a shared subscription (MQTT 5 §4.8.2).
    Topics(Filter),
}

impl Selection {
    /// Its number in records.
    pub fn id(&self) -> u64 {
        match self {
            Selection::Queue(name) => queue_id(name.as_bytes()),
            Selection::Topics(filter) => filter_id(filter),
        }
    }
}

/// What a publish to a verb address does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Done.
    Ack,
    /// Again, later.
    Nack,
    /// Never again.
    Reject,
    /// Moves a group's cursor.
    Commit,
}

/// Where a subscription reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscribeAddress {
    /// An ordinary filter over topics.
    Filter(Filter),
    /// `$queue/<name>[/<filter>]`: the queue, and the filter over whole topics of its messages.
    Queue {
        /// The queue.
        name: QueueName,
        /// Which of its messages; matches the whole topic, `$queue/<name>/…`.
        filter: Filter,
        /// From `$share/<group>/$queue/…`.
        group: Option<QueueName>,
    },
    /// `$share/<group>/<filter>`.
    Shared {
        /// The group.
        group: QueueName,
        /// Its filter.
        filter: Filter,
    },
    /// `$replay/<from>/<filter>`.
    Replay {
        /// A position, unparsed.
        from: String,
        /// What to replay.
        filter: Filter,
    },
}

const VERBS: [(&str, Verb); 4] = [
    ("$ack", Verb::Ack),
    ("$nack", Verb::Nack),
    ("$reject", Verb::Reject),
    ("$commit", Verb::Commit),
];

/// First levels that mean something to the broker, now or by its design: clients cannot make topics of their own below them.
const OURS: [&str; 7] = ["$SYS", "$dlq", "$exchange", "$management", "$queue", "$replay", "$share"];

impl PublishAddress {
    /// Reads what a topic means to a publisher. `$` names that mean something to the broker cannot be published to, except queues;
    /// all others are ordinary topics, which no filter that begins with a wildcard matches [MQTT-4.7.2-1].
    pub fn of(topic: &Topic) -> Result<PublishAddress, AddressError> {
        if !topic.0.starts_with(b"$") {
            return Ok(PublishAddress::Topic);
        }
        let text = topic.as_str();
        let first = text.split('/').next().unwrap_or(text);
        if first == "$management" {
            return ManageAddress::of(topic).map(PublishAddress::Manage);
        }
        let rest = text.strip_prefix("$queue/");
        let Some(rest) = rest.or_else(|| text.strip_prefix(DEAD_LETTERS)) else {
            return match OURS.contains(&first) {
                true => Err(reserved(text)),
                false => Ok(PublishAddress::Topic),
            };
        };
        let (name, key) =
            rest.split_once('/').map_or((rest, None), |(name, key)| (name, Some(key)));
        let is_dead_letters = first != "$queue";
        let name = match is_dead_letters {
            true => name_of(&topic.0, &text[..DEAD_LETTERS.len() + name.len()])?,
            false => name_of(&topic.0, name)?,
        };
        // Nobody publishes to dead letters; settling them is what every queue's are.
        let published = || match is_dead_letters {
            true => Err(reserved(text)),
            false => Ok(PublishAddress::Queue(name.clone())),
        };
        let Some(key) = key else { return published() };
        let last = key.rsplit('/').next().unwrap_or(key);
        for (level, is_last) in key.split('/').map(|level| (level, std::ptr::eq(level, last))) {
            if let Some((verb, meaning)) = VERBS.iter().find(|(verb, _)| *verb == level) {
                return match is_last {
                    true => Ok(PublishAddress::Settle(name, *meaning)),
                    false => Err(AddressError::MisplacedVerb { verb: (*verb).to_owned() }),
                };
            }
        }
        published()
    }
}

impl SubscribeAddress {
    /// Reads what a filter means to a subscriber.
    pub fn of(filter: &Filter) -> Result<SubscribeAddress, AddressError> {
        let text = filter.as_str();
        let Some((first, rest)) = text.split_once('/').filter(|(first, _)| first.starts_with('$'))
        else {
            return Ok(SubscribeAddress::Filter(filter.clone()));
        };
        match first {
            "$queue" | "$dlq" => queue_address(filter, rest, None),
            "$share" => {
                let (group, inner) = rest.split_once('/').ok_or_else(|| reserved(text))?;
                let group = QueueName::new(filter.0.slice_ref(group.as_bytes()))?;
                let inner_filter = Filter::new(filter.0.slice_ref(inner.as_bytes()))?;
                match inner.split('/').next() {
                    Some("$share") => return Err(reserved(inner)),
                    Some("$replay") => return Err(AddressError::SharedReplay),
                    _ => {}
                }
                let queue = inner.strip_prefix("$queue/");
                match queue.or_else(|| inner.strip_prefix(DEAD_LETTERS)) {
                    Some(rest) => queue_address(&inner_filter, rest, Some(group)),
                    None => Ok(SubscribeAddress::Shared { group, filter: inner_filter }),
                }
            }
            "$replay" => {
                let (from, inner) = rest.split_once('/').ok_or_else(|| reserved(text))?;
                let filter = Filter::new(filter.0.slice_ref(inner.as_bytes()))?;
                check_replayed(&filter)?;
                Ok(SubscribeAddress::Replay { from: from.to_owned(), filter })
            }
            _ => Ok(SubscribeAddress::Filter(filter.clone())),
        }
    }
}

/// Tells whether a filter is of topics whose history is kept in the place that the filter says.
pub fn check_replayed(filter: &Filter) -> Result<(), AddressError> {
    let text = filter.as_str();
    let first = text.split('/').next().unwrap_or(text);
    match OURS.contains(&first) {
        true => Err(AddressError::NotReplayed { name: first.to_owned() }),
        false => Ok(()),
    }
}

fn queue_address(
    filter: &Filter,
    rest: &str,
    group: Option<QueueName>,
) -> Result<SubscribeAddress, AddressError> {
    let name = rest.split('/').next().unwrap_or(rest);
    if let Some((verb, _)) =
        VERBS.iter().find(|(verb, _)| rest.split('/').any(|level| level == *verb))
    {
        return Err(AddressError::MisplacedVerb { verb: (*verb).to_owned() });
    }
    let whole = rest == name;
    let name = match filter.as_str().starts_with(DEAD_LETTERS) {
        true => name_of(&filter.0, &filter.as_str()[..DEAD_LETTERS.len() + name.len()])?,
        false => name_of(&filter.0, name)?,
    };
    let filter = match whole {
        // `$queue/<name>` reads the whole queue, as `$queue/<name>/#` does.
        true => Filter::new(Bytes::from(format!("{}/#", filter.as_str())))?,
        false => filter.clone(),
    };
    Ok(SubscribeAddress::Queue { name, filter, group })
}

fn name_of(whole: &Bytes, name: &str) -> Result<QueueName, AddressError> {
    QueueName::from_text(whole.slice_ref(name.as_bytes()))
}

pub(super) fn reserved(text: &str) -> AddressError {
    AddressError::Reserved { name: text.split('/').next().unwrap_or(text).to_owned() }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(formatter, "{:?}", self.as_str())
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    )*};
}
as_text!(Topic, Filter, QueueName);

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &'static str) -> Topic {
        Topic::new(Bytes::from_static(text.as_bytes())).expect(text)
    }

    fn filter(text: &'static str) -> Result<Filter, AddressError> {
        Filter::new(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn wildcards_stand_alone_and_hash_is_last() {
        for good in ["#", "+", "a/+/b", "a/#", "+/+", "/", "/+", "a//b"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["a#", "#/a", "a/b+", "+a/b", "a/#/b"] {
            assert_eq!(filter(bad), Err(AddressError::MisplacedWildcard), "{bad}");
        }
    }

    #[test]
    fn verbs_count_only_in_the_last_level() {
        let name = QueueName::new(Bytes::from_static(b"q")).unwrap();
        let of = |text| PublishAddress::of(&topic(text));
        assert_eq!(of("$queue/q/$ack"), Ok(PublishAddress::Settle(name.clone(), Verb::Ack)));
        assert_eq!(of("$queue/q/a/b/$nack"), Ok(PublishAddress::Settle(name.clone(), Verb::Nack)));
        assert_eq!(of("$queue/q/a"), Ok(PublishAddress::Queue(name.clone())));
        assert_eq!(of("$queue/q"), Ok(PublishAddress::Queue(name)));
        assert_eq!(
            of("$queue/q/$ack/a"),
            Err(AddressError::MisplacedVerb { verb: "$ack".to_owned() })
        );
    }

    #[test]
    fn dollar_names_of_the_broker_cannot_be_published_and_others_are_topics() {
        for text in ["$SYS/x", "$SYS", "$share/g/a", "$queue", "$replay/a/b", "$dlq/q"] {
            let refused = PublishAddress::of(&topic(text));
            assert!(matches!(refused, Err(AddressError::Reserved { .. })), "{text}");
        }
        for text in ["$foo", "$sparkplug/certificates/x", "$SYSTEM", "$", "$/a", "$queues/q"] {
            assert_eq!(PublishAddress::of(&topic(text)), Ok(PublishAddress::Topic), "{text}");
        }
    }

    #[test]
    fn only_ordinary_topics_are_replayed() {
        let of = |text| SubscribeAddress::of(&filter(text).unwrap());
        let Ok(SubscribeAddress::Replay { from, filter: inner }) = of("$replay/-15m/a/+/#") else {
            panic!("no replay")
        };
        assert_eq!((from.as_str(), inner.as_str()), ("-15m", "a/+/#"));
        assert!(of("$replay/earliest/$sparkplug/#").is_ok());
        for name in ["$SYS", "$queue", "$share", "$replay", "$dlq"] {
            let text = Bytes::from(format!("$replay/earliest/{name}/a/#"));
            let refused = SubscribeAddress::of(&Filter::new(text).unwrap());
            assert_eq!(refused, Err(AddressError::NotReplayed { name: name.to_owned() }));
        }
        assert!(matches!(of("$replay/earliest"), Err(AddressError::Reserved { .. })));
        assert_eq!(of("$share/g/$replay/earliest/a"), Err(AddressError::SharedReplay));
    }

    #[test]
    fn share_can_name_a_queue_group() {
        let address = SubscribeAddress::of(&filter("$share/g/$queue/q/a/#").unwrap()).unwrap();
        let SubscribeAddress::Queue { name, filter, group } = address else { panic!("no queue") };
        assert_eq!((name.as_str(), filter.as_str()), ("q", "$queue/q/a/#"));
        assert_eq!(group.map(|group| group.to_string()), Some("g".to_owned()));
    }

    #[test]
    fn dead_letters_are_read_and_settled_and_never_published_to() {
        let name = QueueName::from_text(Bytes::from_static(b"$dlq/orders")).unwrap();
        let of = |text| PublishAddress::of(&topic(text));
        assert_eq!(of("$dlq/orders/$ack"), Ok(PublishAddress::Settle(name.clone(), Verb::Ack)));
        assert!(matches!(of("$dlq/orders"), Err(AddressError::Reserved { .. })));
        assert!(matches!(of("$dlq/orders/eu"), Err(AddressError::Reserved { .. })));

        for text in ["$dlq/orders", "$share/g/$dlq/orders/#"] {
            let address = SubscribeAddress::of(&filter(text).unwrap()).unwrap();
            let SubscribeAddress::Queue { name: found, filter, .. } = address else { panic!() };
            assert_eq!((found, filter.as_str()), (name.clone(), "$dlq/orders/#"));
        }
        assert_eq!(name.origin(), "orders");
        assert_eq!(QueueName::new(Bytes::from_static(b"orders")).unwrap().dead_letters(), name);
    }

    #[test]
    fn readers_of_a_queue_see_topics_below_its_address() {
        let queue = |text: &'static str| QueueName::from_text(Bytes::from(text)).unwrap();
        let cases = [
            ("q", "$queue/q", "$queue/q"),
            ("q", "$queue/q/eu", "$queue/q/eu"),
            ("q", "$queue/qq/eu", "$queue/q/eu"),
            ("q", "site/1/temp", "$queue/q/site/1/temp"),
            ("q", "$queue//site/1", "$queue/q/site/1"),
            ("q", "$queue///site", "$queue/q//site"),
            ("$dlq/q", "$queue/q", "$dlq/q"),
            ("$dlq/q", "$queue/q/eu", "$dlq/q/eu"),
            ("$dlq/q", "$queue//site/1", "$dlq/q/site/1"),
        ];
        for (name, stored, seen) in cases {
            let topic = queue(name).topic_of(&Bytes::from(stored));
            assert_eq!(topic.as_str(), seen, "{name} {stored}");
        }
    }

    #[test]
    fn a_bare_queue_address_reads_the_whole_queue() {
        let address = SubscribeAddress::of(&filter("$queue/q").unwrap()).unwrap();
        let SubscribeAddress::Queue { filter, .. } = address else { panic!("no queue") };
        assert_eq!(filter.as_str(), "$queue/q/#");
    }
}
