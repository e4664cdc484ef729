//! Everything that can be said in a partition's log.
//!
//! A record is a message or a control. Messages have the log's own layout (`fluxmq_log::format::batch`); a control is an opcode and
//! a body (`control_codec`). Opcodes are never reused; a reader that meets one it does not know refuses the partition rather than
//! guess.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;
use thiserror::Error;

use super::address::is_reserved_topic;
use super::command::{RetainHandling, Will};
use super::exchange::{ExchangeBinding, ExchangeId, ExchangeSettings};
use super::queue::QueueSettings;
use super::{
    DeliveryId, DeliverySource, Filter, Input, Message, Millis, PartitionId, Principal, QoS,
    ReaderId,
};
pub use fluxmq_log::format::batch::Retain;

/// A message as its record has it. Cloning shares the bytes of its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Where it was published.
    pub topic: Bytes,
    /// The body.
    pub payload: Bytes,
    /// Encoded [`Properties`](super::Properties).
    pub properties: Bytes,
    /// As published.
    pub qos: QoS,
    /// Whether it replaces or clears the topic's retained message.
    pub retain: Retain,
    /// Log time, milliseconds since the epoch.
    pub time: Millis,
    /// Seconds from `time` until it must not be delivered any more.
    pub expiry_s: Option<u32>,
    /// Log time before which queues must not hand it out.
    pub deliver_at: Option<Millis>,
    /// What queues with priorities order it by; 0 is the lowest.
    pub priority: u8,
    /// Who published; 0 is nobody.
    pub publisher: u64,
    /// With the publisher, what a second copy is known by; see [`DedupKey`].
    pub dedup: DedupKey,
}

/// What a second copy of a publish is known by, beside its publisher. A `seq` of 0 is none.
///
/// For a QoS 2 publish of a persistent session: its incarnation and packet id. For a will: the epoch it was left under and
/// [`DedupKey::WILL`], which no packet id can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DedupKey {
    /// Which life of the session, or which will.
    pub incarnation: u32,
    /// The packet id, or what stands for one.
    pub seq: u32,
}

impl DedupKey {
    /// The `seq` of a will.
    pub const WILL: u32 = 1 << 16;
    /// Set in the `seq` of copies for bound queues: their partitions know them, and no packet id is open by them.
    pub const COPY: u32 = 1 << 17;
}

/// One connection's hold on its session: the term and the offset of the record that opened it, which no two have in common. Of two the
/// later one is greater, also when the unsynced end of a log was lost in between and offsets were given again: the term is another then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenure {
    /// In which the session's home was led.
    pub term: u64,
    /// The session's.
    pub epoch: Offset,
}

impl StoredMessage {
    /// Returns what a record would have of a message that came at `time` and is for queues alone: not retained, not delayed, of the lowest
    /// priority, and with nothing that a second copy is known by.
    pub fn of(message: &Message, time: Millis) -> StoredMessage {
        StoredMessage {
            topic: message.topic.as_bytes().clone(),
            payload: message.payload.clone(),
            properties: message.properties.as_bytes().clone(),
            qos: message.qos,
            retain: Retain::No,
            time,
            expiry_s: message.expiry_s,
            deliver_at: None,
            priority: 0,
            publisher: message.publisher,
            dedup: DedupKey::default(),
        }
    }

    /// Returns the bytes of what the publisher said: topic, properties and payload.
    pub fn len_bytes(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.len()
    }

    /// Returns true for what those who listened were passed on when it came: a message of QoS 0 to a topic that is no will. Its record is
    /// what is retained, and for replays and groups (ADR 0044).
    pub fn was_passed_on(&self) -> bool {
        // Copies for queues, and what was published to one, are of QoS 0 too, below names that are the broker's own.
        self.qos == QoS::AtMostOnce && self.dedup.seq == 0 && !is_reserved_topic(&self.topic)
    }

    /// Returns true when it must not be delivered at `now` any more.
    pub fn is_expired(&self, now: Millis) -> bool {
        self.expires_at().is_some_and(|at| at <= now)
    }

    /// Returns when it expires, if it does.
    pub fn expires_at(&self) -> Option<Millis> {
        self.expiry_s.map(|seconds| self.time.plus(u64::from(seconds) * 1000))
    }
}

/// One record as the views see it.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// A message, and the queues it was routed to when it was appended.
    Message(&'a StoredMessage, &'a [u64]),
    /// A change of state.
    Control(&'a Control),
}

/// One change of state beside messages. Times are the log time of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// A queue exists from here on; its id is [`queue_id`] of its name.
    QueueDeclared {
        /// Its name.
        name: Bytes,
        /// What it is. Written behind the name, and not at all where everything is at its default.
        settings: Arc<QueueSettings>,
    },
    /// A queue is gone, and its groups with it.
    QueueDeleted {
        /// Its id.
        queue: u64,
    },
    /// Entries below are not in the queue any more, for nobody: too many, too old, or purged.
    QueueTrimmed {
        /// The queue's id.
        queue: u64,
        /// Queue offset.
        to: Offset,
        /// What they had together.
        bytes: u64,
    },
    /// Single entries are not in the queue any more, for nobody.
    QueueRemoved {
        /// The queue's id.
        queue: u64,
        /// Queue offsets.
        entries: Vec<Offset>,
        /// What they had together.
        bytes: u64,
    },
    /// Everything below is not in the queue any more, for nobody, but for what groups had out: that each of them still has to finish.
    QueuePurged {
        /// The queue's id.
        queue: u64,
        /// Queue offset.
        to: Offset,
        /// By group, what stays: queue offsets, ascending.
        kept: Vec<(Bytes, Vec<Offset>)>,
        /// How long these are, each once, ascending by queue offset.
        lengths: Vec<u64>,
    },
    /// Somebody uses a queue that ends when nobody does.
    QueueUsed {
        /// The queue's id.
        queue: u64,
        /// From here on, until another such record says that nobody does any more; false is once more, here.
        goes_on: bool,
    },
    /// Entries came back to one group and are to be delivered again, not before a time. Each counts one more delivery.
    Postponed {
        /// The queue's id.
        queue: u64,
        /// The group's name.
        group: Bytes,
        /// Queue offsets, each with its log time.
        entries: Vec<(Offset, Millis)>,
    },
    /// A retroactive queue has everything of one partition's history below an offset: what was new of it is before this record, in the
    /// same frame.
    QueueFollowed {
        /// The queue's id.
        queue: u64,
        /// Whose history.
        source: PartitionId,
        /// Where it goes on, an offset of that partition.
        next: Offset,
    },
    /// A consumer group of a queue is gone, and how far it was.
    GroupDeleted {
        /// The queue's id.
        queue: u64,
        /// The group's name.
        group: Bytes,
    },
    /// The message before this record, in the same frame, is known by this name: it is not stored again.
    InputNoted {
        /// The name.
        input: Input,
        /// Log time at which it is forgotten; a producer's, unless it goes on.
        until: Millis,
    },
    /// A consumer group exists from here on.
    GroupCreated {
        /// The queue's id.
        queue: u64,
        /// The group's name.
        group: Bytes,
        /// Queue offset at which it begins.
        start: Offset,
    },
    /// Entries ended for one group. Offsets of its selection.
    Settled {
        /// What the group reads: a queue's id or a filter's.
        selection: u64,
        /// The group's name.
        group: Bytes,
        /// Finished, as `(first, count)`.
        finished: Vec<(Offset, u64)>,
        /// To be delivered again; each counts one more delivery.
        released: Vec<Offset>,
    },
    /// A group's committed position was set; everything below is finished.
    CursorSet {
        /// The queue's id.
        queue: u64,
        /// The group's name.
        group: Bytes,
        /// Queue offset.
        to: Offset,
    },
    /// A connection opened a persistent session; the record's own offset is the session's epoch.
    SessionOpened {
        /// Names the session.
        client_id: Bytes,
        /// True discards the earlier state.
        clean: bool,
        /// Seconds it outlives its connection.
        expiry_s: u32,
        /// Whose it is from here on. Written behind everything else, and not at all for anonymous clients.
        principal: Principal,
    },
    /// The connection of a session ended; its expiry runs from here.
    SessionClosed {
        /// Names the session.
        client_id: Bytes,
        /// Of the connection that ended; an older one than the session's says nothing.
        epoch: Offset,
        /// Replaces the session's expiry. 0 removes the session.
        expiry_s: u32,
    },
    /// A session's time ran out, or its client wanted a clean one.
    SessionRemoved {
        /// Names the session.
        client_id: Bytes,
        /// As in `SessionClosed`.
        epoch: Offset,
    },
    /// A session subscribed.
    Subscribed {
        /// Names the session.
        client_id: Bytes,
        /// What.
        subscription: Subscription,
        /// From where on, for every partition that may hold a match.
        starts: Vec<(PartitionId, Offset)>,
    },
    /// A session unsubscribed.
    Unsubscribed {
        /// Names the session.
        client_id: Bytes,
        /// Exactly as subscribed.
        filter: Filter,
    },
    /// How far a session has come.
    SessionProgress(SessionProgress),
    /// Packet ids of QoS 2 publishes are free again.
    Released {
        /// Who published.
        publisher: u64,
        /// The session's incarnation.
        incarnation: u32,
        /// The ids, or what stands for one: see [`DedupKey`].
        packet_ids: Vec<u32>,
    },
    /// A connection that has got a publisher's session begins to publish at QoS 2: what earlier ones have on their way is not taken
    /// from here on.
    TenureBegun {
        /// Who publishes.
        publisher: u64,
        /// The connection's.
        tenure: Tenure,
    },
    /// The number of data partitions, fixed at the first start (meta partition only).
    PartitionsFixed {
        /// How many.
        count: u16,
    },
    /// An exchange exists from here on; the record's own offset tells it from others of its name (meta partition only).
    ExchangeDeclared {
        /// Its name.
        name: Bytes,
        /// What it is.
        settings: Arc<ExchangeSettings>,
    },
    /// An exchange is gone, and the bindings of exchanges from it and to it (meta partition only).
    ExchangeDeleted {
        /// Which.
        exchange: ExchangeId,
    },
    /// An exchange gets what another routes to it (meta partition only).
    ExchangeBound {
        /// From which, and what.
        binding: Box<ExchangeBinding>,
        /// Which gets it.
        to: ExchangeId,
    },
    /// It does not any more (meta partition only).
    ExchangeUnbound {
        /// From which, and what.
        binding: Box<ExchangeBinding>,
        /// Which got it.
        to: ExchangeId,
    },
    /// A queue gets what an exchange routes to it. Its bindings to earlier exchanges of the name are over.
    QueueBound {
        /// The queue's id.
        queue: u64,
        /// From which, and what.
        binding: Box<ExchangeBinding>,
    },
    /// It does not any more.
    QueueUnbound {
        /// The queue's id.
        queue: u64,
        /// From which, and what.
        binding: Box<ExchangeBinding>,
    },
    /// A connection left a will; the record's own offset is the will's epoch [MQTT-3.1.2-7].
    WillSet {
        /// Whose.
        client_id: Bytes,
        /// What to publish, and how long to wait.
        will: Box<Will>,
        /// In whose name it is published. Written as `SessionOpened` does.
        principal: Principal,
    },
    /// A connection with a will ended otherwise than by DISCONNECT 0x00: the will is due `delay_s` after this record. Said again,
    /// the later one counts.
    WillDue {
        /// Whose.
        client_id: Bytes,
        /// Which.
        epoch: Offset,
        /// Seconds to wait; never longer than the session lasts [MQTT-3.1.3-9].
        delay_s: u32,
    },
    /// A will is over: published, or not to be.
    WillCleared {
        /// Whose.
        client_id: Bytes,
        /// Which.
        epoch: Offset,
    },
    /// A session shares what matches a filter with the others of a group; the group's first member makes the group, from here on.
    MemberJoined {
        /// What the group reads; its id is [`filter_id`].
        filter: Filter,
        /// The group's name.
        group: Bytes,
        /// Names the session.
        client_id: Bytes,
        /// Seconds it stays a member when its connection ends.
        expiry_s: u32,
    },
    /// A member's connection ended, or with an expiry of 0 its session or its subscription.
    MemberLeft {
        /// The filter's id.
        selection: u64,
        /// The group's name.
        group: Bytes,
        /// Names the session.
        client_id: Bytes,
        /// Seconds from here until it is no member any more. 0 ends it.
        expiry_s: u32,
    },
    /// History begins here: records below are given to nobody any more, and their files go. Never above what is still needed.
    HistoryTrimmed {
        /// The oldest record that stays.
        to: Offset,
    },
    /// A record that is needed longer than what is around it is stored again, here, so that its segment can go. For no reader it is
    /// a message; whoever pointed at the record points at this one from here on.
    Moved {
        /// Where it was.
        from: Offset,
        /// The entries of queues that it is.
        queues: Vec<(u64, Offset)>,
        /// What it says, its log time included.
        message: Box<StoredMessage>,
    },
    /// QoS 2 deliveries of entries to one session begin, or were received: nobody else may get them any more.
    Claimed {
        /// The filter's id.
        selection: u64,
        /// The group's name.
        group: Bytes,
        /// Names the session.
        client_id: Bytes,
        /// Packet ids and entries.
        sent: Vec<(u16, Offset)>,
        /// Entries whose PUBREC has come.
        received: Vec<Offset>,
    },
}

/// How far a session has come; every part adds to what was said before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionProgress {
    /// Names the session.
    pub client_id: Bytes,
    /// As in `SessionClosed`.
    pub epoch: Offset,
    /// Matching records below these are settled or among the outbound.
    pub cursors: Vec<(PartitionId, Offset)>,
    /// The same of replays, each by its reader.
    pub replayed: Vec<(ReaderId, PartitionId, Offset)>,
    /// Sent, or about to be, under these packet ids.
    pub assigned: Vec<OutboundEntry>,
    /// QoS 2 packet ids whose PUBREC has come.
    pub received: Vec<u16>,
    /// Packet ids that are settled.
    pub done: Vec<u16>,
}

/// One delivery that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundEntry {
    /// The number it was sent under.
    pub packet_id: u16,
    /// What handed it out.
    pub reader: ReaderId,
    /// Where the record is.
    pub partition: PartitionId,
    /// Its position there.
    pub offset: Offset,
    /// The delivery's.
    pub qos: QoS,
    /// The RETAIN flag it was sent with.
    pub retain: bool,
    /// True once PUBREC has come (QoS 2).
    pub received: bool,
}

impl OutboundEntry {
    /// Names the delivery.
    pub fn delivery(&self) -> DeliveryId {
        let source = DeliverySource::Reader(self.reader);
        DeliveryId { source, partition: self.partition, offset: self.offset }
    }
}

/// A stored subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// As the client wrote it, prefixes included.
    pub filter: Filter,
    /// The most the client wants.
    pub qos: QoS,
    /// Not what this client itself published.
    pub no_local: bool,
    /// Keep the RETAIN flag.
    pub retain_as_published: bool,
    /// When retained messages come.
    pub retain_handling: RetainHandling,
    /// 0 is none.
    pub subscription_id: u32,
    /// The consumer group it asked for, for queues.
    pub group: Option<Bytes>,
    /// True when only `$ack` and its kin settle.
    pub settle_explicit: bool,
    /// What reads for it: a replay has a reader of its own.
    pub reader: ReaderId,
}

/// Why a control cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// Written by a newer release.
    #[error("control opcode {0} is unknown to this release")]
    UnknownOpcode(u8),
    /// Its checksum was right and its content is not: a defect of the writer.
    #[error("control with opcode {0} is malformed")]
    Malformed(u8),
}

/// Returns the id of the queue with this name: the same everywhere, needing no counter.
pub fn queue_id(name: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(name, 0x7175_6575)
}

/// Returns the id under which the index lists the entries of a queue that have one priority. It stands beside the queue's own in the
/// route set of a message; no view knows it.
pub fn lane_id(queue: u64, priority: u8) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(&queue.to_le_bytes(), 0x6c61_6e65 + u64::from(priority))
}

/// Returns the id of a topic filter as what a group reads; see [`queue_id`].
pub fn filter_id(filter: &Filter) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(filter.as_bytes(), 0x7368_6172)
}

impl Control {
    /// The opcode, as `wal-tools dump` shows it.
    pub fn opcode(&self) -> u8 {
        match self {
            Control::QueueDeclared { .. } => 1,
            Control::GroupCreated { .. } => 2,
            Control::Settled { .. } => 3,
            Control::CursorSet { .. } => 4,
            Control::SessionOpened { .. } => 5,
            Control::SessionClosed { .. } => 6,
            Control::SessionRemoved { .. } => 7,
            Control::Subscribed { .. } => 8,
            Control::Unsubscribed { .. } => 9,
            Control::SessionProgress(_) => 10,
            Control::Released { .. } => 11,
            Control::PartitionsFixed { .. } => 12,
            Control::WillSet { .. } => 13,
            Control::WillDue { .. } => 14,
            Control::WillCleared { .. } => 15,
            Control::MemberJoined { .. } => 16,
            Control::MemberLeft { .. } => 17,
            Control::Claimed { .. } => 18,
            Control::QueueDeleted { .. } => 19,
            Control::QueueTrimmed { .. } => 20,
            Control::QueueRemoved { .. } => 21,
            Control::Postponed { .. } => 22,
            Control::QueueFollowed { .. } => 23,
            Control::TenureBegun { .. } => 26,
            Control::QueuePurged { .. } => 27,
            Control::QueueUsed { .. } => 28,
            Control::HistoryTrimmed { .. } => 30,
            Control::Moved { .. } => 31,
            Control::ExchangeDeclared { .. } => 32,
            Control::ExchangeDeleted { .. } => 33,
            Control::ExchangeBound { .. } => 34,
            Control::ExchangeUnbound { .. } => 35,
            Control::QueueBound { .. } => 36,
            Control::QueueUnbound { .. } => 37,
            Control::InputNoted { .. } => 24,
            Control::GroupDeleted { .. } => 25,
        }
    }
}
