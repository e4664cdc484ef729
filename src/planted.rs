//! Deliberate defects that the simulator must catch: a checker that never caught one is decoration.
//!
//! Compiled only with the feature `planted-bugs`, and even then off until switched on, for the calling thread: a simulation is one
//! thread, and another beside it may have another defect. Without the feature every question here is a constant `false`. Those of
//! the log are in `fluxmq_log::planted`.

macro_rules! bugs {
    ($($name:ident: $words:literal,)*) => {
        /// One defect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum PlantedBug {
            $(#[doc = $words] $name,)*
        }

        impl PlantedBug {
            /// All of them.
            pub const ALL: &'static [PlantedBug] = &[$(PlantedBug::$name,)*];

            /// Returns what it does.
            pub fn words(self) -> &'static str {
                match self { $(PlantedBug::$name => $words,)* }
            }
        }
    };
}

bugs! {
    PromiseBeforeFlush: "raft: a follower acknowledges entries before they are flushed",
    HintForgotten: "raft: followers forget a part of the header",
    OwnTime: "raft: followers stamp entries with a time of their own",
    VoteForgotten: "raft: term and vote are not saved",
    CommitAlone: "raft: a leader applies what it has flushed alone",
    FencedVotes: "raft: a replica that waits for repair grants votes",
    ChunksUnchecked: "raft: a snapshot is installed without looking at its checksum",
    ChunksForgotten: "raft: a transfer that loses a chunk is not taken up again",
    InstalledViewsKept: "partition: the log is replaced by a snapshot, and the views are not",
    ChangeUnread: "raft: followers do not take over changes of members",
    MembersForgotten: "partition: a replica that starts from a snapshot has the members its group began with",
    StandsUnasked: "raft: replicas ask for votes without asking first, and give them while there is a leader",
    ForgetfulVotes: "raft: a replica whose disk is new votes at once",
    ForgottenUnheard: "raft: a leader does not notice that a replica forgot what it had acknowledged",
    ToldAndNotMuted: "raft: a replica that is told that it forgot something goes on voting",
    MutedForEver: "raft: a replica that forgot stays muted when it has everything again",
    DeliverBeforeCommit: "partition: messages go out before they are committed",
    ConfirmBeforeCommit: "partition: publishes are confirmed before they are committed",
    ConfirmOnResign: "partition: a leader that resigns confirms what is in flight",
    StoreRefused: "partition: what is refused on a full disk is stored",
    CutPayload: "partition: long payloads are cut",
    CreditNotSpent: "partition: live deliveries cost no credit",
    CreditGivenTwice: "partition: credit comes back twice",
    HeldForEver: "partition: a session that was opened once is never let go of",
    BacklogReversed: "partition: a reader that is behind gets what it missed newest first",
    SupersededUnheard: "partition: a connection that has lost its session goes on with its QoS 2 publishes",
    TakeOverUnasked: "partition: a session is granted while another connection has it",
    HandedOutTwice: "partition: an entry goes to two members",
    TakenBackAtOnce: "partition: members lose what they hold at every tick",
    NeighbourSettled: "partition: settling an entry settles the next one",
    RetainedQos0Waits: "partition: a retained message of QoS 0 reaches those who listen when it is stored",
    StreamSkips: "partition: readers of a stream are not given every eighth entry",
    StreamSettlesAhead: "partition: settling an entry of a stream settles the next one",
    StreamSettledAlone: "partition: settling an entry of a stream settles no other",
    StreamGivenBack: "partition: what a reader of a stream gives back is read again",
    DroppedEarly: "partition: a queue that has as much as it may have drops its oldest entry",
    AgedEarly: "partition: entries leave a queue at half of the age that it says",
    BytesUncounted: "partition: what a queue says of its bytes is not looked at",
    BytesShared: "partition: what waits is taken to be as long as what does not",
    FullTakesMore: "partition: a queue that is full refuses nothing",
    LowestFirst: "partition: entries of the lowest priority are handed out first",
    HistoryTakenAgain: "partition: what comes for a queue that follows history is taken wherever the queue is",
    HistoryLeftOut: "partition: the last of several messages of history is not brought to queues that follow it",
    FollowersUnheeded: "partition: history goes before queues that follow it have it",
    VerbUnstored: "partition: a settling verb is answered before it is stored",
    FinishedHandedOut: "partition: a new leader hands out what is finished above the first that is not",
    DiedUnwritten: "partition: what came back too often is finished, and no letter is written",
    LetterUnawaited: "partition: an entry ends before its letter is stored elsewhere",
    ReturnUncounted: "partition: that an entry came back is not stored",
    WokenAtOnce: "partition: what is to wait is handed out at once",
    NeverExpires: "partition: what a queue says of the time of its entries is not looked at",
    ExpiresLate: "partition: entries of a queue live four times as long as it says",
    NotCaptured: "broker: publishes of QoS 2 do not go to queues elsewhere that are bound to their topic",
    ReturnsKept: "view: what is finished stays among what came back",
    RestoreForgetsReturns: "view: groups restored from a snapshot forget how often entries came back",
    GoodbyeUnheard: "partition: a will is due whatever the client said last",
    OrphansForgotten: "partition: a new leader does not make the wills due of connections that it does not have",
    WillUnkeyed: "broker: a will that is announced again is published under another key",
    DispatchedWhenBehind: "partition: a reader that is behind gets what is new first",
    ClosedAtEnd: "partition: a reader that is behind says that it has read everything",
    FollowerSkipsProgress: "partition: followers do not fold sessions' progress",
    RetainedKeepsFirst: "view: the first retained message of a topic stays",
    RetainedSkipsQos0: "view: retained messages of QoS 0 are not kept",
    RestoreForgetsCursors: "view: sessions restored from a snapshot have no cursors",
    RestoreForgetsFinished: "view: groups restored from a snapshot forget what is finished",
    NeedsUnheeded: "view: nothing is needed of history that goes",
    MovedUnseen: "view: retained messages that were moved are looked for where they were",
    DedupFindsNothing: "view: QoS 2 publishes that are open are not found",
    DedupRestoresNothing: "view: QoS 2 publishes that are open are not restored from a snapshot",
    DedupNeverForgets: "view: released packet ids stay open",
    CursorSkipsUnsent: "broker: a session's cursor passes what was not sent",
    ReceivedUnstored: "broker: PUBREL goes out before PUBREC is stored",
    ReleasedUnstored: "broker: PUBCOMP goes out before the release of the packet id is stored",
    KeyedByConnection: "broker: QoS 2 publishes are known by their connection, not by their session",
    AssignedUnstored: "broker: QoS 2 deliveries go out before their packet ids are stored",
    MovedBeside: "view: entries that are stored again are looked for behind their new places",
    ResumedAtStart: "broker: a resumed session reads from where its subscriptions began",
    SubscribedLate: "broker: a stored subscription begins after what it was granted",
    TakeOverHalf: "broker: a connection lets go of its session and reads on",
    AskedInReverse: "broker: publishes are asked of partitions in reverse",
    StoredLaterQos1: "broker: QoS 1 publishes are confirmed and stored later",
    StoredLaterQos2: "broker: QoS 2 publishes are confirmed and stored later",
    AckBeforeConfirm: "mqtt: PUBACK does not wait for the broker",
    PublishesReversed: "mqtt: publishes that came together are passed on in reverse",
    NewestFirst: "mqtt: deliveries that wait go out newest first",
    CopiesTaken: "client: copies of a QoS 2 delivery are taken for new",
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    use crate::planted::PlantedBug;

    thread_local! {
        static ON: Cell<Option<PlantedBug>> = const { Cell::new(None) };
    }

    /// Switches one defect on for the calling thread, and all others off; `None` switches all off.
    pub fn plant(bug: Option<PlantedBug>) {
        ON.set(bug);
    }

    /// Returns the one that is on for the calling thread.
    pub fn planted() -> Option<PlantedBug> {
        ON.get()
    }

    pub(crate) fn is_planted(bug: PlantedBug) -> bool {
        ON.get() == Some(bug)
    }
}

#[cfg(feature = "planted-bugs")]
pub(crate) use switch::is_planted;
#[cfg(feature = "planted-bugs")]
pub use switch::{plant, planted};

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is_planted(_: PlantedBug) -> bool {
    false
}
