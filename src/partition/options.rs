//! How a partition behaves.

use fluxmq_index::SharedFilters;

use super::TopicAges;

/// When a record counts as stored: it is applied, delivered and acknowledged then (ADR 0016).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When a majority has synced it: it survives power cuts.
    #[default]
    QuorumSync,
    /// When a majority has written it to its page cache: it survives the end of processes. Synced within 10 ms or 256 KiB; a power
    /// cut loses what was not, from its end.
    QuorumMem,
}

/// How much is stored again because it is needed longer than history.
#[derive(Clone, Copy, Debug)]
pub struct Moves {
    /// Records that are looked for at once, before history is said to begin later. What cannot go apart is more.
    pub records_per_step: usize,
    /// Runs of moved entries, of all queues, from which on no other entry is moved: the segments of the others stay.
    pub runs_max: usize,
}

impl Default for Moves {
    fn default() -> Moves {
        Moves { records_per_step: 16_384, runs_max: 65_536 }
    }
}

/// How a partition behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time a consumer has to settle an entry before it goes to another.
    pub visibility_timeout_ms: u64,
    /// Entries out at one group's members at a time: reaching it stops handing out, and nothing is dropped.
    pub pending_max: usize,
    /// True declares a queue at its first use; false refuses queues that nobody declared.
    pub auto_create_queues: bool,
    /// How long the names of single messages are remembered.
    pub dedup_window_ms: u64,
    /// Topics with a retained message; more are refused, those there are may be replaced.
    pub retained_max: usize,
    /// Bytes of all retained messages.
    pub retained_bytes_max: u64,
    /// Messages that a session which comes back may have missed; the oldest above are given up. 0 is no limit.
    pub backlog_max: usize,
    /// Bytes of them: topics, properties and payloads; 0 is no limit.
    pub backlog_bytes_max: u64,
    /// How old, in milliseconds, they may be. 0 is no limit.
    pub backlog_age_max_ms: u64,
    /// How old history gets, in milliseconds; what queues and retained messages need is kept. 0 is no limit.
    pub history_age_max_ms: u64,
    /// Bytes of segments that history has, but for the newest. 0 is no limit.
    pub history_bytes_max: u64,
    /// Topics whose messages are history for a shorter time.
    pub topic_ages: TopicAges,
    /// How much is stored again for that.
    pub moves: Moves,
    /// Stored sessions of one user in this partition.
    pub sessions_per_user_max: usize,
    /// Bytes of log after which the views are snapshotted.
    pub snapshot_every_bytes: u64,
    /// Milliseconds after which they are, when anything changed.
    pub snapshot_every_ms: u64,
    /// Bytes of a snapshot that go to another replica in one message.
    pub snapshot_chunk_bytes: usize,
    /// When a record counts as stored.
    pub durability: Durability,
    /// What the subscriptions of all partitions of the process are to: each filter is in memory once.
    pub filters: SharedFilters,
    /// A deliberate defect that the crash suite must catch: messages go out before they are committed.
    #[cfg(feature = "planted-bugs")]
    pub deliver_before_commit: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            visibility_timeout_ms: 30_000,
            pending_max: 100_000,
            auto_create_queues: true,
            dedup_window_ms: 120_000,
            retained_max: 1_000_000,
            retained_bytes_max: 64 << 20,
            backlog_max: 100_000,
            backlog_bytes_max: 64 << 20,
            backlog_age_max_ms: 0,
            history_age_max_ms: 0,
            history_bytes_max: 0,
            topic_ages: TopicAges::default(),
            moves: Moves::default(),
            sessions_per_user_max: 1_000,
            snapshot_every_bytes: 64 << 20,
            snapshot_every_ms: 300_000,
            snapshot_chunk_bytes: 256 << 10,
            durability: Durability::QuorumSync,
            filters: SharedFilters::default(),
            #[cfg(feature = "planted-bugs")]
            deliver_before_commit: false,
        }
    }
}
