//! What is asked of one partition, and what it says to one connection.
//!
//! `broker::client` speaks this language; protocols never see it.

mod connection;
mod consumer;
mod exchange;
mod queue;
mod transaction;

use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::{Offset, OffsetRange};

use crate::model::command::Will;
use crate::model::queue::Binding;
use crate::model::record::{DedupKey, Tenure};
use crate::model::{
    Control, Delivery, Filter, Got, Input, Message, Millis, OutboundEntry, Outcome, PartitionId,
    Principal, QoS, QueueName, ReaderId, Refusal, Subscription, Token, Topic,
};
use crate::planted::{PlantedBug, is_planted};
use crate::view::{Session, StoredSubscription};

pub use super::gap::Gap;
pub use connection::{AskConnections, Asked, Told, ToldOf, Whom};
pub use consumer::{CARRIER_BYTES, ConsumerRequest, GetEntry, Join};
pub use exchange::{ExchangeAction, RoutedTo, Routing, Target};
pub use queue::{
    BoundSource, BoundSummary, Counts, Dead, DefaultGroup, Followed, Following, GroupStats, Letter,
    LetterArrived, LetterId, LetterTarget, List, ListOf, Listed, Peeked, QueueAction, QueueAnswer,
    QueueRequest, QueueStats, QueueSummary, ReadHistory, ReadOn,
};
pub use transaction::{Settled, Transaction};

/// One connection of this process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One request of one connection to one partition. Those with a token are answered with it.
#[derive(Clone, Debug)]
pub enum Request {
    /// Stores a message, or passes it on where nothing stores it.
    Publish(Publish),
    /// Stores messages and settles deliveries, all in one frame or none of it. Each publish is answered by its own `Confirm`, and then
    /// the whole by `Written`, if anybody waits for it.
    Transact(Box<Transaction>),
    /// Stores a change of state: sessions and releases.
    Write {
        /// Echoed in `Written`, if anybody waits.
        token: Option<Token>,
        /// What.
        control: Box<Control>,
    },
    /// Opens a session in its home partition. Answered by `SessionOpened` once an earlier connection has let go.
    OpenSession {
        /// Names the session.
        client_id: Bytes,
        /// Who opens it: nobody gets another user's session (ADR 0023).
        principal: Principal,
        /// Discards what was there.
        clean_start: bool,
        /// 0 leaves no session behind.
        expiry_s: u32,
        /// Left for when the connection ends; stored before the answer [MQTT-3.1.2-7].
        will: Option<Box<Will>>,
    },
    /// Ends the connection's hold on its session.
    CloseSession {
        /// Names the session.
        client_id: Bytes,
        /// Seconds the session outlives it.
        expiry_s: u32,
        /// True makes the connection's will due; false discards it.
        will: bool,
    },
    /// Announces the wills of sessions that are at home here to this connection, whenever one is due, until a record says that it is
    /// over. Answered by `WillDue`, any number of times.
    PublishWills,
    /// Reads the partition for a session: adds the reader, or subscriptions to it.
    Attach(Box<Attach>),
    /// Takes a subscription from the reader.
    DetachFilter {
        /// Exactly as attached.
        filter: Filter,
    },
    /// Ends a replay: takes its reader away.
    EndReplay {
        /// Which.
        reader: ReaderId,
    },
    /// Lists the newest messages that match a filter, from which `last=N` finds where it begins. Answered by `Newest`.
    ListNewest {
        /// Which messages.
        filter: Filter,
        /// Only those below; `None` is the end.
        before: Option<Offset>,
        /// At most so many, and no more than one turn's worth.
        count: usize,
        /// Echoed in `Newest`.
        token: Token,
    },
    /// Stops reading. Answered by `Detached`.
    Detach,
    /// Deliveries of a reader ended; it may have as many more. One that is held goes on, also with 0.
    Credit {
        /// Whose.
        reader: ReaderId,
        /// How many.
        count: u32,
    },
    /// Lets a reader hand out nothing more before it has `Credit`. Answered by `Held`.
    Hold {
        /// Which.
        reader: ReaderId,
    },
    /// Gives deliveries back to a reader that is held: its client does not take them. It goes back to hand them out again.
    Rewind(Box<Rewind>),
    /// Hands out records again that an earlier connection left open. Answered by `Outbound`.
    FetchOutbound {
        /// Which.
        entries: Vec<OutboundEntry>,
    },
    /// Lists a session's unreleased QoS 2 publishes. Answered by `OpenIds`.
    ListOpenIds {
        /// Who publishes.
        publisher: u64,
        /// The session's incarnation.
        incarnation: u32,
    },
    /// A connection that resumed a session begins to publish at QoS 2, or to release: from the answer on nothing of that comes here of an
    /// earlier one. Answered by `Written`; by `TakenOver` when a later one was here before.
    BeginTenure {
        /// Echoed.
        token: Token,
        /// Who publishes.
        publisher: u64,
        /// The connection's.
        tenure: Tenure,
    },
    /// Ends QoS 2 publishes: their numbers are free again. Answered by `Written`, or as `BeginTenure` is.
    Release {
        /// Echoed, if anybody waits.
        token: Option<Token>,
        /// Who published.
        publisher: u64,
        /// The session's incarnation.
        incarnation: u32,
        /// The numbers, or what stands for one: see [`DedupKey`].
        packet_ids: Vec<u32>,
        /// The connection's.
        tenure: Tenure,
    },
    /// Lists the QoS 2 deliveries that groups have begun to a session. Answered by `Claimed`.
    ListClaimed {
        /// Names the session.
        client_id: Bytes,
        /// Its shared subscriptions, as it wrote them.
        filters: Vec<Filter>,
    },
    /// Joins a consumer group. Answered by `Joined`.
    Join(Box<Join>),
    /// Leaves it; what is out goes to others.
    Leave {
        /// As in `Join`.
        membership: u32,
        /// Seconds until a shared subscription is given up too; 0 is at once.
        expiry_s: u32,
        /// Echoed in `Written`, if anybody waits.
        token: Option<Token>,
    },
    /// Gives up every shared subscription of a session that was discarded.
    LeaveAll {
        /// Names the session.
        client_id: Bytes,
    },
    /// QoS 2 deliveries of a shared subscription begin, or were received. Answered by `Written`.
    Claim {
        /// As in `Join`.
        membership: u32,
        /// Packet ids and entries.
        sent: Vec<(u16, Offset)>,
        /// Entries whose PUBREC has come.
        received: Vec<Offset>,
        /// Echoed.
        token: Token,
    },
    /// Something of a consumer that its protocol named, or of one entry.
    Consumer(ConsumerRequest),
    /// Settles entries that follow one another, by delivery. Of those it does not hold nothing is said.
    Settle {
        /// As in `Join`.
        membership: u32,
        /// Queue offsets.
        entries: OffsetRange,
        /// How they ended.
        outcome: Outcome,
    },
    /// Settles one entry by address. Answered by `Confirm`.
    SettleEntry {
        /// Echoed.
        token: Token,
        /// Which queue.
        queue: QueueName,
        /// Which group.
        group: QueueName,
        /// Queue offset.
        entry: Offset,
        /// How it ended.
        outcome: Outcome,
    },
    /// Moves a group's committed position. Answered by `Confirm`.
    CommitCursor {
        /// Echoed.
        token: Token,
        /// Which queue.
        queue: QueueName,
        /// Which group.
        group: QueueName,
        /// Queue offset below which everything is finished.
        to: Offset,
    },
    /// Declares, ends, empties, counts a queue. Answered by `Queue`.
    Queue(QueueRequest),
    /// Declares, ends, binds exchanges. Answered by `Written`.
    Exchange {
        /// Echoed.
        token: Token,
        /// What.
        action: Box<ExchangeAction>,
    },
    /// Lists what lives there, by name. Answered by `Listed`.
    List(List),
    /// Asks connections of this process, and comes to no partition. Answered by `Told`, once by how many there are and once by each.
    Ask(Box<AskConnections>),
    /// Carries letters to queues elsewhere for this connection's process, and reads other partitions' histories for queues here: told by
    /// `Letter` and `Follow`, any number of times.
    CarryLetters,
    /// A letter is stored where it is to be, or was refused there.
    LetterArrived(Box<LetterArrived>),
    /// Reads the partition's history for a retroactive queue. Answered by `ReadOn` once there is something.
    ReadOn(Box<ReadOn>),
    /// A retroactive queue is gone: history is not kept for it any more. Not answered.
    ReadNoMore(QueueName),
    /// Stores what was read for a retroactive queue that lives here. Answered by `Confirm`.
    Follow(Box<Followed>),
    /// The connection is gone: forget it.
    Forget,
}

/// The newest deliveries of a reader, all from some one on, none of which was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewind {
    /// Whose.
    pub reader: ReaderId,
    /// How many.
    pub count: u32,
    /// The first of what it reads; `None` when there are only retained messages among them.
    pub to: Option<Offset>,
    /// Retained messages, in their order, each with the subscription that it answers.
    pub retained: Vec<(Offset, u32)>,
}

/// A message to store or pass on.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Echoed in `Confirm`; `None` where nobody waits (QoS 0).
    pub token: Option<Token>,
    /// What.
    pub message: Arc<Message>,
    /// What a second copy is known by: of a persistent session's QoS 2 publish, and of a will.
    pub dedup: DedupKey,
    /// Of the connection that a persistent session's QoS 2 publish comes on. A later one's is taken before it, or it is not taken.
    pub tenure: Tenure,
    /// Who gets it.
    pub target: Target,
    /// What its publisher names it by, beside: under a name that is known it is not stored again.
    pub input: Option<Input>,
    /// History has it though its QoS is 0 and it is not retained: a configured filter matches its topic.
    pub is_kept: bool,
}

impl Publish {
    /// Returns true when the message is a record; otherwise it is only passed on to those who listen.
    ///
    /// A will is a record whatever its QoS: that it is published once must survive a crash.
    pub fn is_stored(&self) -> bool {
        self.is_in_history() || !self.is_to_topic()
    }

    /// Returns true for a message to a topic, where that lives.
    pub fn is_to_topic(&self) -> bool {
        matches!(self.target, Target::Topic | Target::TopicAnd(_))
    }

    /// Returns true when the history of the topic's partition has the message: queues that follow it need no copy.
    pub fn is_in_history(&self) -> bool {
        self.message.qos != QoS::AtMostOnce
            || self.message.retain
            || self.dedup.seq != 0
            || self.is_kept
    }

    /// Returns true when those who listen are given the message at once, whether it is stored or not: QoS 0, but for what goes to one
    /// queue, for copies, and for wills.
    pub fn is_passed_on(&self) -> bool {
        self.message.qos == QoS::AtMostOnce
            && self.is_to_topic()
            && self.dedup.seq == 0
            && !(self.message.retain && is_planted(PlantedBug::RetainedQos0Waits))
    }

    /// Returns true when its record is one of which [`StoredMessage::was_passed_on`] says so.
    ///
    /// [`StoredMessage::was_passed_on`]: crate::model::StoredMessage::was_passed_on
    pub fn is_recorded_as_passed_on(&self) -> bool {
        self.message.qos == QoS::AtMostOnce
            && self.is_to_topic()
            && self.is_stored()
            && self.dedup.seq == 0
    }

    /// Returns true when its record is, or ends, a retained message.
    pub fn retains(&self) -> bool {
        self.message.retain && !self.is_copy()
    }

    /// Returns true for what bound queues get of a message beside its topic.
    pub fn is_copy(&self) -> bool {
        matches!(self.target, Target::Bound | Target::BoundAnd(_))
    }

    /// Returns true for a QoS 2 publish that an earlier copy may be stored of. A refusal would end the exchange for its client, which
    /// may give the number to another message [MQTT-4.3.3-9]; that copy would keep it open here, and the other message be taken for it.
    pub fn may_be_copy(&self) -> bool {
        self.dedup.seq != 0 && self.dedup.seq & DedupKey::WILL == 0
    }
}

/// A session's interest in one partition.
#[derive(Clone, Debug)]
pub struct Attach {
    /// What reads: that of the plain subscriptions, or that of one replay.
    pub reader: ReaderId,
    /// What to read, each from its own start in this partition; `None` is from now on, or from `position`. One of a replay, under the
    /// filter that it replays.
    pub subscriptions: Vec<(Arc<Subscription>, Option<Offset>)>,
    /// Where a new replay begins.
    pub position: Option<Position>,
    /// Where an earlier connection of the session got to.
    pub cursor: Option<Offset>,
    /// Records at or above the cursor that are out already.
    pub outbound: Vec<Offset>,
    /// The session's own publisher id, for No Local.
    pub publisher: u64,
    /// Unsettled deliveries at a time, at most; counts for a new reader only.
    pub credit: u32,
    /// The session is stored: it is told of what it has without having read it. See [`Event::Passed`].
    pub keeps_place: bool,
    /// Send matching retained messages first; parallel to `subscriptions`.
    pub retained: Vec<bool>,
    /// Echoed in `Attached`.
    pub token: Token,
}

/// Where to start reading: a queue by its entries, a partition's topics by its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Where the group or the session got to; a new one starts at the oldest.
    Resume,
    /// The oldest.
    Earliest,
    /// The next.
    Latest,
    /// An offset, of the queue or of the partition.
    At(Offset),
    /// The first of this log time or later.
    Time(Millis),
    /// So many before the end. Over topics whoever asks finds where that is: see [`Request::ListNewest`].
    Last(u64),
}

/// What a partition tells a connection.
#[derive(Clone, Debug)]
pub enum Event {
    /// A publish or settlement is committed, or refused.
    Confirm {
        /// Echoed.
        token: Token,
        /// As in [`Effect::Confirm`](crate::model::Effect::Confirm).
        result: Result<bool, Refusal>,
    },
    /// A change of state is committed, or refused.
    Written {
        /// Echoed.
        token: Token,
        /// What became of it.
        result: Result<(), Refusal>,
    },
    /// The session is this connection's.
    SessionOpened(Result<Box<OpenedSession>, Refusal>),
    /// Another connection wants the session, or has got it: close it.
    TakenOver,
    /// The reader stands.
    Attached {
        /// Which.
        reader: ReaderId,
        /// Echoed.
        token: Token,
        /// Where new subscriptions or the replay begin, or why the partition cannot be read.
        start: Result<Offset, Refusal>,
        /// Where the session goes on when it had missed more than it may; what is below is given up.
        cut: Option<Offset>,
    },
    /// What the plain subscriptions begin with, retained messages and what the session missed, is handed out. One for each `Attach`
    /// of them.
    Level,
    /// Records below were handed out to the plain subscriptions of a stored session, or passed on to it as they came.
    Passed {
        /// After the last of them.
        next: Offset,
    },
    /// The readers are gone.
    Detached {
        /// Matching records below were handed out.
        next: Offset,
        /// The same for each replay.
        replayed: Vec<(ReaderId, Offset)>,
    },
    /// The reader hands out nothing more: what it has handed out was sent before this.
    Held {
        /// Which.
        reader: ReaderId,
    },
    /// The newest messages that match a filter.
    Newest {
        /// Echoed.
        token: Token,
        /// What there is, or why the partition cannot be read.
        result: Result<Newest, Refusal>,
    },
    /// A message for the connection.
    Deliver(Delivery),
    /// The entry that was asked for.
    Got {
        /// Echoed.
        token: Token,
        /// The entry, if there is one.
        result: Result<Option<Box<Got>>, Refusal>,
    },
    /// What an earlier connection left open; `None` where the record is gone by policy.
    Outbound(Result<Vec<(OutboundEntry, Option<Delivery>)>, Refusal>),
    /// A will is due. Publishing it is up to the receiver, and so is saying that it is over.
    WillDue {
        /// Whose.
        client_id: Bytes,
        /// Which.
        epoch: Offset,
        /// In whose name.
        principal: Principal,
        /// What to publish.
        message: Arc<Message>,
    },
    /// A session's unreleased packet ids.
    OpenIds(Result<Vec<u16>, Refusal>),
    /// The partition does not serve this connection any more: its reader, its memberships and its hold on a session are gone, and
    /// what waited for an answer was refused. Another replica may lead now.
    Resigned(Refusal),
    /// What groups have begun to send to the session.
    Claimed(Result<Vec<Claimed>, Refusal>),
    /// What became of a request to a queue.
    Queue {
        /// Echoed.
        token: Token,
        /// The answer.
        result: Result<QueueAnswer, Refusal>,
    },
    /// What lives there, by name: no more than was asked for.
    Listed {
        /// Echoed.
        token: Token,
        /// What, or why it cannot be listed.
        result: Result<Listed, Refusal>,
    },
    /// Another connection asks something of this one.
    Asked(Box<Asked>),
    /// What a connection that was asked says.
    Told(Box<Told>),
    /// A message is to be stored in a queue that lives elsewhere. Storing it is up to the receiver, and so is saying that it is.
    Letter(Box<Letter>),
    /// A queue that lives there follows histories. Reading them for it is up to the receiver; told again every few seconds.
    Follow(Box<Following>),
    /// A queue with bindings to exchanges is gone: some of those may end with the last one.
    BindingsEnded,
    /// A retroactive queue that lived here is gone.
    FollowEnded(QueueName),
    /// What a partition's history has.
    ReadOn {
        /// Echoed.
        token: Token,
        /// What there is.
        found: ReadHistory,
    },
    /// The queue that a member read is gone, and so is what it had out.
    MembershipEnded {
        /// As in [`Join`].
        membership: u32,
    },
    /// The membership stands, or not.
    Joined {
        /// Echoed.
        token: Token,
        /// What became of it.
        result: Result<(), Refusal>,
    },
}

/// The newest messages that match a filter, or those before them.
#[derive(Clone, Debug)]
pub struct Newest {
    /// Newest first. Without those that are expired.
    pub found: Vec<(Millis, Offset, Topic)>,
    /// Where to go on: everything at or above it, and below what was asked for, was looked at. `None` when nothing is left.
    pub before: Option<Offset>,
    /// Where the partition ended when it was asked.
    pub end: Offset,
}

/// A QoS 2 delivery that a shared subscription has begun.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The subscription, as the client wrote it.
    pub filter: Filter,
    /// The number it is sent under.
    pub packet_id: u16,
    /// Partition offset.
    pub entry: Offset,
    /// The delivery; `None` once PUBREC has come, or where the record is gone by policy.
    pub delivery: Option<Delivery>,
}

/// An open session, as its home partition knows it.
#[derive(Clone, Debug, Default)]
pub struct OpenedSession {
    /// True when there was one.
    pub present: bool,
    /// True when it outlives its connection.
    pub stored: bool,
    /// True when a clean start discarded shared subscriptions: their groups do not know yet.
    pub left_groups: bool,
    /// Epoch of this connection; 0 for a session that is not stored.
    pub epoch: Offset,
    /// Term of its home in which it was opened; see [`Tenure`].
    pub term: u64,
    /// Names this life of the session towards duplicate detection; 0 where it is not stored.
    pub incarnation: u32,
    /// What it is subscribed to.
    pub subscriptions: Vec<StoredSubscription>,
    /// How far it has read.
    pub cursors: Vec<(PartitionId, Offset)>,
    /// What is out.
    pub outbound: Vec<OutboundEntry>,
}

impl OpenedSession {
    /// Copies a stored session for its new connection, which got it in a term of its home.
    pub fn of(session: &Session, term: u64) -> OpenedSession {
        OpenedSession {
            // A session that its own opening record began was not there before.
            present: session.epoch.0 as u32 != session.incarnation,
            stored: true,
            left_groups: false,
            epoch: session.epoch,
            term,
            incarnation: session.incarnation,
            subscriptions: session.subscriptions.values().cloned().collect(),
            cursors: session.cursors.iter().map(|(partition, at)| (*partition, *at)).collect(),
            outbound: session.outbound.clone(),
        }
    }
}

/// Where events go. The shard's is the mailboxes of its connections; a test's is a list.
pub trait Outbox {
    /// Sends an event that credit or a pending request has room for.
    fn send(&mut self, to: ConnectionId, event: Event);
    /// Tells whoever finds the way for publishes that queues of the partition have a binding, or none any more. Takes effect
    /// before anything that is sent later is heard: who is told that a queue is declared may publish to it.
    fn bound(&mut self, _binding: &Binding, _is_bound: bool) {}
    /// Tells them of exchanges and bindings, in the same way.
    fn routed(&mut self, _routing: &Routing) {}
}
