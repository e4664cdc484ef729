//! What a queue was declared to be: its kind, what it is bound to, and its rules.
//!
//! Said once, when the queue is declared, and never rewritten: a second declaration that says something else is refused. The record
//! has the fields that are not at their defaults, each behind its tag:
//!
//! ```text
//! settings := (tag u8, value)*        tags ascend; none at all is a queue that its first use declared
//! value    := varint | varint n, n × bytes | bytes | nothing, by the tag
//! ```

use std::borrow::Cow;

use bytes::Bytes;
use fluxmq_index::topic_trie;
use fluxmq_log::format::varint;

use super::address::{EXCHANGES, SubscribeAddress, is_reserved};
use super::control_codec::{Source, put_bytes, put_list, take_bytes, take_list};
use super::{AddressError, Filter, QueueName, VirtualHost};

/// Deliveries of one entry to one group, unless the queue says otherwise.
pub const DELIVERIES_MAX: u32 = 20;
/// Bindings of one queue.
pub const BINDINGS_MAX: usize = 1024;
/// The highest priority of a message.
pub const PRIORITY_MAX: u8 = 9;
/// Steps of a backoff.
pub const BACKOFF_STEPS_MAX: usize = 32;

/// Everything a declaration says beside the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// How it is read.
    pub kind: QueueKind,
    /// Publishes whose topics match are in the queue. Ascending, each once.
    pub bindings: Vec<Filter>,
    /// Milliseconds a member has to settle an entry; `None` is what the broker's configuration says.
    pub visibility_timeout_ms: Option<u64>,
    /// Deliveries of one entry to one group, at most; then it is a dead letter. 0 is no limit.
    pub deliveries_max: u32,
    /// Milliseconds until an entry that was released comes again: the first time, the second, and so on; the last step stays.
    pub backoff_ms: Vec<u64>,
    /// What becomes of entries that nobody will finish.
    pub dead_letters: DeadLetters,
    /// Milliseconds after which an entry must not be delivered any more.
    pub ttl_ms: Option<u64>,
    /// How much of it is kept.
    pub limits: QueueLimits,
    /// One member of a group gets everything, until it leaves.
    pub single_active: bool,
    /// One connection at a time may read it.
    pub exclusive: bool,
    /// Every reader of a stream is told how far this group is.
    pub primary_group: Option<QueueName>,
    /// The highest priority that entries are told apart by; 0 is one order for all.
    pub priority_max: u8,
    /// It holds what history still has of its bindings, and follows it from there.
    pub retroactive: bool,
    /// How long it is there.
    pub lifetime: Lifetime,
    /// It ends when the last of its consumers leaves.
    pub auto_delete: bool,
    /// Milliseconds without a consumer, an entry asked for and a redeclaration, after which it ends.
    pub expires_ms: Option<u64>,
}

/// What a queue outlives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// Everything.
    #[default]
    Durable,
    /// The connections that use it: it ends when its partition gets another leader, as with every restart.
    Transient,
    /// Nothing: it is for the connection that declared it alone, and ends with it, or as a transient one does.
    Owned,
}

/// A topic filter of a queue, and which of the publishes that match are brought to it when they are published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// The filter.
    pub filter: Filter,
    /// Only those that no history has: the queue follows the histories (ADR 0043, 0049).
    pub only_unstored: bool,
}

/// How a queue is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueKind {
    /// Entries are claimed and settled, each for itself.
    #[default]
    Classic,
    /// Entries are read in order; settling one moves the group's cursor beyond it.
    Stream,
    /// Nothing is stored: what comes goes to whoever is there.
    Ephemeral,
}

/// What becomes of entries that nobody will finish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetters {
    /// Where they go.
    pub target: DeadLetterTarget,
    /// So do those whose time was over.
    pub with_expired: bool,
    /// So do those that were too many.
    pub with_overflow: bool,
}

/// Where dead letters go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeadLetterTarget {
    /// To `$dlq/<queue>`.
    #[default]
    Own,
    /// To this queue.
    Queue(QueueName),
    /// To whoever this exchange routes them to.
    Exchange(DeadLetterExchange),
    /// Nowhere: they are finished.
    Nowhere,
}

/// An exchange that gets dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterExchange {
    /// Its name; empty for the default one.
    pub exchange: Bytes,
    /// What they are routed by; `None` for what they were routed by before.
    pub routing_key: Option<Bytes>,
}

/// How much of a queue is kept, whatever its groups have read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    /// Entries.
    pub messages_max: Option<u64>,
    /// Bytes of topics, properties and payloads.
    pub bytes_max: Option<u64>,
    /// Milliseconds.
    pub age_max_ms: Option<u64>,
    /// What gives way.
    pub overflow: Overflow,
}

/// What gives way when a queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest entries.
    #[default]
    DropHead,
    /// The publisher, who is told.
    RejectPublish,
    /// The publisher, who is told when what it published is a dead letter.
    RejectPublishDlx,
}

/// Why a declaration makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Nothing is published there, or it is a queue's own address.
    #[error("a queue cannot be bound to '{filter}': bind it to a filter over ordinary topics")]
    Binding {
        /// The filter.
        filter: String,
    },
    /// More than can be matched quickly.
    #[error("{count} bindings are more than {BINDINGS_MAX}: bind a wider filter")]
    Bindings {
        /// How many.
        count: usize,
    },
    /// A list that no entry would reach the end of.
    #[error("{count} backoff steps are more than {BACKOFF_STEPS_MAX}")]
    Backoff {
        /// How many.
        count: usize,
    },
    /// A limit of nothing.
    #[error("{field} must not be 0: leave it out for no limit")]
    Zero {
        /// Which.
        field: &'static str,
    },
    /// More than messages can have.
    #[error("priority_max is {max}, and priorities go from 0 to {PRIORITY_MAX}")]
    Priority {
        /// What was asked for.
        max: u8,
    },
    /// Nothing to look back at.
    #[error(
        "a queue that begins at the earliest needs bindings: name the topics whose history it holds"
    )]
    NothingToFollow,
    /// What it holds was published already.
    #[error("a queue that begins at the earliest cannot refuse publishers: use drop_head")]
    CannotReject,
    /// A rule of another kind of queue.
    #[error("{field} means nothing to queues of type {kind}")]
    Kind {
        /// Which.
        field: &'static str,
        /// The queue's kind.
        kind: &'static str,
    },
    /// Its name has no meaning in an address.
    #[error(transparent)]
    Name(#[from] AddressError),
}

impl DeadLetterTarget {
    /// Reads how configurations write it: `$dlq`, `none`, a queue's name, or `$exchange/<exchange>`, with `/<routing key>` where letters are
    /// not to be routed by the keys that they had.
    pub fn from_text(text: &str) -> Result<DeadLetterTarget, AddressError> {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        Ok(match text {
            "$dlq" => DeadLetterTarget::Own,
            "none" => DeadLetterTarget::Nowhere,
            text => match text.strip_prefix(EXCHANGES) {
                None => DeadLetterTarget::Queue(QueueName::from_text(bytes(text))?),
                Some(rest) => {
                    let (name, key) = match rest.split_once('/') {
                        Some((name, key)) => (name, Some(bytes(key))),
                        None => (rest, None),
                    };
                    // An empty name is the default exchange's.
                    let exchange = match VirtualHost::of_level(name.as_bytes()).1.is_empty() {
                        true => bytes(name),
                        false => QueueName::new(bytes(name))?.as_bytes().clone(),
                    };
                    DeadLetterTarget::Exchange(DeadLetterExchange { exchange, routing_key: key })
                }
            },
        })
    }

    /// Writes it so.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            DeadLetterTarget::Own => "$dlq".into(),
            DeadLetterTarget::Nowhere => "none".into(),
            DeadLetterTarget::Queue(queue) => queue.as_str().into(),
            DeadLetterTarget::Exchange(DeadLetterExchange { exchange, routing_key }) => {
                let mut text = format!("{EXCHANGES}{}", String::from_utf8_lossy(exchange));
                if let Some(key) = routing_key {
                    text.push('/');
                    text.push_str(&String::from_utf8_lossy(key));
                }
                text.into()
            }
        }
    }
}

impl DeadLetterExchange {
    /// The same in memory of its own.
    fn detached(&self) -> DeadLetterExchange {
        DeadLetterExchange {
            exchange: Bytes::copy_from_slice(&self.exchange),
            routing_key: self.routing_key.as_ref().map(|key| Bytes::copy_from_slice(key)),
        }
    }
}

impl Default for QueueSettings {
    /// What a queue is that its first use declared.
    fn default() -> QueueSettings {
        QueueSettings {
            kind: QueueKind::Classic,
            bindings: Vec::new(),
            visibility_timeout_ms: None,
            deliveries_max: DELIVERIES_MAX,
            backoff_ms: Vec::new(),
            dead_letters: DeadLetters::default(),
            ttl_ms: None,
            limits: QueueLimits::default(),
            single_active: false,
            exclusive: false,
            primary_group: None,
            priority_max: 0,
            retroactive: false,
            lifetime: Lifetime::Durable,
            auto_delete: false,
            expires_ms: None,
        }
    }
}

impl QueueSettings {
    /// What the queue of another one's dead letters is: who takes a letter out of it has decided.
    pub fn of_dead_letters() -> QueueSettings {
        let target = DeadLetterTarget::Nowhere;
        QueueSettings {
            deliveries_max: 0,
            dead_letters: DeadLetters { target, ..DeadLetters::default() },
            ..QueueSettings::default()
        }
    }

    /// Copies it, so that keeping it does not keep the frame it came in.
    pub fn detached(&self) -> QueueSettings {
        let filter = |it: &Filter| Filter::from_stored(Bytes::copy_from_slice(it.as_bytes()));
        let name = |it: &QueueName| QueueName::from_stored(Bytes::copy_from_slice(it.as_bytes()));
        let target = match &self.dead_letters.target {
            DeadLetterTarget::Queue(queue) => DeadLetterTarget::Queue(name(queue)),
            DeadLetterTarget::Exchange(to) => DeadLetterTarget::Exchange(to.detached()),
            DeadLetterTarget::Own | DeadLetterTarget::Nowhere => self.dead_letters.target.clone(),
        };
        QueueSettings {
            bindings: self.bindings.iter().map(filter).collect(),
            dead_letters: DeadLetters { target, ..self.dead_letters },
            primary_group: self.primary_group.as_ref().map(name),
            ..self.clone()
        }
    }

    /// Names a field in which another declaration says something else.
    pub fn difference(&self, other: &QueueSettings) -> Option<&'static str> {
        let (limits, others) = (&self.limits, &other.limits);
        let (dead, others_dead) = (&self.dead_letters, &other.dead_letters);
        let fields = [
            ("type", self.kind == other.kind),
            ("bindings", self.bindings == other.bindings),
            ("visibility_timeout", self.visibility_timeout_ms == other.visibility_timeout_ms),
            ("deliveries_max", self.deliveries_max == other.deliveries_max),
            ("backoff", self.backoff_ms == other.backoff_ms),
            ("dead_letters", dead.target == others_dead.target),
            ("dead_letter_expired", dead.with_expired == others_dead.with_expired),
            ("dead_letter_overflow", dead.with_overflow == others_dead.with_overflow),
            ("ttl", self.ttl_ms == other.ttl_ms),
            ("messages_max", limits.messages_max == others.messages_max),
            ("bytes_max", limits.bytes_max == others.bytes_max),
            ("age_max", limits.age_max_ms == others.age_max_ms),
            ("overflow", limits.overflow == others.overflow),
            ("single_active", self.single_active == other.single_active),
            ("exclusive", self.exclusive == other.exclusive),
            ("primary_group", self.primary_group == other.primary_group),
            ("priority_max", self.priority_max == other.priority_max),
            ("from", self.retroactive == other.retroactive),
            ("lifetime", self.lifetime == other.lifetime),
            ("auto_delete", self.auto_delete == other.auto_delete),
            ("expires", self.expires_ms == other.expires_ms),
        ];
        fields.into_iter().find(|(_, is_same)| !is_same).map(|(field, _)| field)
    }

    /// What publishers have to know of its bindings.
    pub fn bindings(&self) -> impl Iterator<Item = Binding> {
        let only_unstored = self.retroactive;
        self.bindings.iter().map(move |filter| Binding { filter: filter.clone(), only_unstored })
    }

    /// Returns true when a publish to this topic is in the queue.
    pub fn is_bound_to(&self, topic: &[u8]) -> bool {
        self.bindings.iter().any(|filter| topic_trie::matches(filter.as_bytes(), topic))
    }

    /// Returns true when entries leave the queue by time or number. A message's own time makes a letter of it, if any does.
    pub fn has_limits(&self) -> bool {
        let QueueLimits { messages_max, bytes_max, age_max_ms, .. } = &self.limits;
        let has_own_time = self.dead_letters.with_expired;
        has_own_time || messages_max.or(*bytes_max).or(*age_max_ms).or(self.ttl_ms).is_some()
    }

    /// Milliseconds until an entry comes again that has come back `count` times.
    pub fn backoff(&self, count: u32) -> u64 {
        let step = (count.max(1) as usize - 1).min(self.backoff_ms.len().saturating_sub(1));
        self.backoff_ms.get(step).copied().unwrap_or(0)
    }

    /// Puts the bindings in order and checks that the declaration makes sense.
    pub fn checked(mut self) -> Result<QueueSettings, SettingsError> {
        self.bindings.sort_unstable();
        self.bindings.dedup();
        if self.bindings.len() > BINDINGS_MAX {
            return Err(SettingsError::Bindings { count: self.bindings.len() });
        }
        for filter in &self.bindings {
            let is_plain = matches!(SubscribeAddress::of(filter), Ok(SubscribeAddress::Filter(_)));
            if !is_plain || is_reserved(filter.as_str()) {
                return Err(SettingsError::Binding { filter: filter.as_str().to_owned() });
            }
        }
        if self.backoff_ms.len() > BACKOFF_STEPS_MAX {
            return Err(SettingsError::Backoff { count: self.backoff_ms.len() });
        }
        let QueueLimits { messages_max, bytes_max, age_max_ms, .. } = self.limits;
        let numbers = [
            ("visibility_timeout_s", self.visibility_timeout_ms),
            ("ttl_ms", self.ttl_ms),
            ("messages_max", messages_max),
            ("bytes_max", bytes_max),
            ("age_max_ms", age_max_ms),
            ("expires_ms", self.expires_ms),
        ];
        if let Some((field, _)) = numbers.iter().find(|(_, value)| *value == Some(0)) {
            return Err(SettingsError::Zero { field });
        }
        if self.priority_max > PRIORITY_MAX {
            return Err(SettingsError::Priority { max: self.priority_max });
        }
        if self.retroactive && self.bindings.is_empty() {
            return Err(SettingsError::NothingToFollow);
        }
        if self.retroactive && self.limits.overflow != Overflow::DropHead {
            return Err(SettingsError::CannotReject);
        }
        self.check_kind()?;
        Ok(self)
    }

    fn check_kind(&self) -> Result<(), SettingsError> {
        let (kind, foreign) = match self.kind {
            QueueKind::Classic => {
                ("classic", vec![("primary_group", self.primary_group.is_some())])
            }
            QueueKind::Stream => (
                "stream",
                vec![
                    ("backoff_ms", !self.backoff_ms.is_empty()),
                    ("priority_max", self.priority_max > 0),
                ],
            ),
            QueueKind::Ephemeral => (
                "ephemeral",
                vec![
                    ("visibility_timeout_s", self.visibility_timeout_ms.is_some()),
                    ("backoff_ms", !self.backoff_ms.is_empty()),
                    ("ttl_s", self.ttl_ms.is_some()),
                    ("messages_max", self.limits.messages_max.is_some()),
                    ("bytes_max", self.limits.bytes_max.is_some()),
                    ("age_max_s", self.limits.age_max_ms.is_some()),
                    ("overflow", self.limits.overflow != Overflow::DropHead),
                    ("primary_group", self.primary_group.is_some()),
                    ("priority_max", self.priority_max > 0),
                    ("from", self.retroactive),
                ],
            ),
        };
        match foreign.into_iter().find(|(_, is_set)| *is_set) {
            Some((field, _)) => Err(SettingsError::Kind { field, kind }),
            None => Ok(()),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let number = |out: &mut Vec<u8>, tag: u8, value: Option<u64>| {
            if let Some(value) = value {
                out.push(tag);
                varint::put(out, value);
            }
        };
        let flag = |out: &mut Vec<u8>, tag: u8, is_set: bool| {
            if is_set {
                out.push(tag);
            }
        };
        flag(out, 1, self.kind == QueueKind::Stream);
        if !self.bindings.is_empty() {
            out.push(2);
            put_list(out, &self.bindings, |out, filter| put_bytes(out, filter.as_bytes()));
        }
        number(out, 3, self.visibility_timeout_ms);
        let deliveries_max = Some(self.deliveries_max).filter(|max| *max != DELIVERIES_MAX);
        number(out, 4, deliveries_max.map(u64::from));
        if !self.backoff_ms.is_empty() {
            out.push(5);
            put_list(out, &self.backoff_ms, |out, step| varint::put(out, *step));
        }
        match &self.dead_letters.target {
            DeadLetterTarget::Own => {}
            DeadLetterTarget::Queue(name) => {
                out.push(6);
                put_bytes(out, name.as_bytes());
            }
            DeadLetterTarget::Nowhere => out.push(7),
            // Said below, where its tag comes.
            DeadLetterTarget::Exchange(_) => {}
        }
        flag(out, 8, self.dead_letters.with_expired);
        flag(out, 9, self.dead_letters.with_overflow);
        number(out, 10, self.ttl_ms);
        number(out, 11, self.limits.messages_max);
        number(out, 12, self.limits.bytes_max);
        number(out, 13, self.limits.age_max_ms);
        flag(out, 14, self.limits.overflow == Overflow::RejectPublish);
        flag(out, 15, self.single_active);
        flag(out, 16, self.exclusive);
        if let Some(group) = &self.primary_group {
            out.push(17);
            put_bytes(out, group.as_bytes());
        }
        number(out, 18, Some(u64::from(self.priority_max)).filter(|max| *max > 0));
        flag(out, 19, self.retroactive);
        flag(out, 20, self.kind == QueueKind::Ephemeral);
        flag(out, 21, self.lifetime == Lifetime::Transient);
        flag(out, 22, self.lifetime == Lifetime::Owned);
        flag(out, 23, self.auto_delete);
        number(out, 24, self.expires_ms);
        if let DeadLetterTarget::Exchange(to) = &self.dead_letters.target {
            out.push(25);
            put_bytes(out, &to.exchange);
            if let Some(key) = &to.routing_key {
                out.push(26);
                put_bytes(out, key);
            }
        }
        flag(out, 27, self.limits.overflow == Overflow::RejectPublishDlx);
    }

    /// Encodes it as its record has it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Reads what [`to_bytes`](QueueSettings::to_bytes) wrote; `None` where that was something else.
    pub fn from_bytes(bytes: &Bytes) -> Option<QueueSettings> {
        QueueSettings::decode(&mut Source::new(bytes))
    }

    /// Reads what `encode` wrote, to the end of the input.
    pub(super) fn decode(input: &mut Source<'_>) -> Option<QueueSettings> {
        let mut settings = QueueSettings::default();
        let mut last = 0;
        while input.input.remaining() > 0 {
            let tag = input.input.u8()?;
            if tag <= last {
                return None;
            }
            last = tag;
            settings.take(tag, input)?;
        }
        Some(settings)
    }

    fn take(&mut self, tag: u8, input: &mut Source<'_>) -> Option<()> {
        match tag {
            1 => self.kind = QueueKind::Stream,
            2 => {
                self.bindings = take_list(input, |input| Filter::new(take_bytes(input)?).ok())?;
                self.bindings.is_sorted_by(|low, high| low < high).then_some(())?;
            }
            3 => self.visibility_timeout_ms = Some(input.input.varint()?),
            4 => self.deliveries_max = input.input.varint()?.try_into().ok()?,
            5 => self.backoff_ms = take_list(input, |input| input.input.varint())?,
            6 => {
                let name = QueueName::from_text(take_bytes(input)?).ok()?;
                self.dead_letters.target = DeadLetterTarget::Queue(name);
            }
            7 => self.dead_letters.target = DeadLetterTarget::Nowhere,
            8 => self.dead_letters.with_expired = true,
            9 => self.dead_letters.with_overflow = true,
            10 => self.ttl_ms = Some(input.input.varint()?),
            11 => self.limits.messages_max = Some(input.input.varint()?),
            12 => self.limits.bytes_max = Some(input.input.varint()?),
            13 => self.limits.age_max_ms = Some(input.input.varint()?),
            14 => self.limits.overflow = Overflow::RejectPublish,
            15 => self.single_active = true,
            16 => self.exclusive = true,
            17 => self.primary_group = Some(QueueName::new(take_bytes(input)?).ok()?),
            18 => self.priority_max = input.input.varint()?.try_into().ok()?,
            19 => self.retroactive = true,
            20 if self.kind == QueueKind::Classic => self.kind = QueueKind::Ephemeral,
            21 => self.lifetime = Lifetime::Transient,
            22 if self.lifetime == Lifetime::Durable => self.lifetime = Lifetime::Owned,
            23 => self.auto_delete = true,
            24 => self.expires_ms = Some(input.input.varint()?),
            25 if self.dead_letters.target == DeadLetterTarget::Own => {
                let to = DeadLetterExchange { exchange: take_bytes(input)?, routing_key: None };
                self.dead_letters.target = DeadLetterTarget::Exchange(to);
            }
            26 => match &mut self.dead_letters.target {
                DeadLetterTarget::Exchange(to) => to.routing_key = Some(take_bytes(input)?),
                _ => return None,
            },
            27 if self.limits.overflow == Overflow::DropHead => {
                self.limits.overflow = Overflow::RejectPublishDlx;
            }
            _ => return None,
        }
        Some(())
    }
}
