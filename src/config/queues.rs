//! Queues: what they do unless they say otherwise, and those that are declared when the broker starts.

use super::setting::{Choice, Flag, Named, Number, Size, Text};
use super::walk::{Section, Walk};

const TIB: u64 = 1 << 40;
const FOR_EVER: u64 = u32::MAX as u64;

/// What queues do unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Seconds a claimed message may stay unsettled before it is delivered again. Default 30, minimum 1.
    pub visibility_timeout_s: u32,
    /// Claimed and unsettled messages of one consumer group; reaching it stops dispatch. Default 100000, minimum 1.
    pub pending_max: u32,
    /// The first use of `$queue/<name>` declares the queue. Default true.
    pub auto_create: bool,
    /// Seconds in which a second publish with the same `dedup-id` to the same address is not stored again. Default 120, minimum 1.
    pub dedup_window_s: u32,
    /// Queues that are declared at the start. One that is there and was declared otherwise stays what it is, and the log says so.
    pub declared: Vec<DeclaredQueue>,
}

/// A queue that is declared at the start. 0, and nothing, are no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredQueue {
    /// Its name. Needed.
    pub name: String,
    /// How it is read. Default `classic`.
    pub kind: QueueType,
    /// Topic filters with commas between: publishes that match are in the queue. Default none.
    pub bindings: String,
    /// Seconds a member has to settle an entry. Default 0, as `queues.visibility_timeout_s`.
    pub visibility_timeout_s: u32,
    /// Deliveries of one entry to one group, at most. Default 20; 0 is no limit.
    pub deliveries_max: u32,
    /// Milliseconds until a released entry comes again, the first time, the second …, with commas between. Default at once.
    pub backoff_ms: String,
    /// Where dead letters go: `$dlq`, another queue's name, `$exchange/<exchange>` (`…/<routing key>`), or `none`. Default `$dlq`.
    pub dead_letters: String,
    /// Entries whose time was over are dead letters. Default false.
    pub dead_letter_expired: bool,
    /// Entries that were too many are dead letters. Default false.
    pub dead_letter_overflow: bool,
    /// Seconds after which an entry is not delivered any more. Default 0.
    pub ttl_s: u32,
    /// Entries that are kept. Default 0.
    pub messages_max: u32,
    /// Bytes that are kept. Default 0.
    pub bytes_max: u64,
    /// Seconds that entries are kept. Default 0.
    pub age_max_s: u32,
    /// What gives way when it is full. Default `drop_head`.
    pub overflow: OverflowPolicy,
    /// One member of a group gets everything, until it leaves. Default false.
    pub single_active: bool,
    /// One connection at a time may read it. Default false.
    pub exclusive: bool,
    /// Every reader of a stream is told how far this group is. Default none.
    pub primary_group: String,
    /// The highest priority that entries are told apart by. Default 0, one order for all.
    pub priority_max: u32,
    /// Whether it holds what was published before it was declared, too. Default `latest`.
    pub from: QueueStart,
    /// What it outlives. Default `durable`.
    pub lifetime: QueueLifetime,
    /// It ends when the last of its consumers leaves. Default false.
    pub auto_delete: bool,
    /// Seconds without a consumer, an entry asked for and a redeclaration, after which it ends. Default 0, never.
    pub expires_s: u32,
}

/// What a queue outlives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueLifetime {
    /// Everything.
    #[default]
    Durable,
    /// No restart.
    Transient,
}

/// Where a queue begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueStart {
    /// With what is published from its declaration on.
    #[default]
    Latest,
    /// With what history still has of its bindings.
    Earliest,
}

/// How a queue is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueType {
    /// Entries are claimed and settled, each for itself.
    #[default]
    Classic,
    /// Entries are read in order; settling one moves the cursor beyond it.
    Stream,
    /// Nothing is stored: what comes goes to whoever is there.
    Ephemeral,
}

/// What gives way when a queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverflowPolicy {
    /// The oldest entries.
    #[default]
    DropHead,
    /// The publisher.
    RejectPublish,
    /// The publisher, and what it published is a dead letter.
    RejectPublishDlx,
}

impl Default for Queues {
    fn default() -> Queues {
        Queues {
            visibility_timeout_s: 30,
            pending_max: 100_000,
            auto_create: true,
            dedup_window_s: 120,
            declared: Vec::new(),
        }
    }
}

impl Default for DeclaredQueue {
    fn default() -> DeclaredQueue {
        DeclaredQueue {
            name: String::new(),
            kind: QueueType::Classic,
            bindings: String::new(),
            visibility_timeout_s: 0,
            deliveries_max: 20,
            backoff_ms: String::new(),
            dead_letters: "$dlq".to_owned(),
            dead_letter_expired: false,
            dead_letter_overflow: false,
            ttl_s: 0,
            messages_max: 0,
            bytes_max: 0,
            age_max_s: 0,
            overflow: OverflowPolicy::DropHead,
            single_active: false,
            exclusive: false,
            primary_group: String::new(),
            priority_max: 0,
            from: QueueStart::Latest,
            lifetime: QueueLifetime::Durable,
            auto_delete: false,
            expires_s: 0,
        }
    }
}

impl Section for Queues {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Queues { visibility_timeout_s, pending_max, auto_create, dedup_window_s, declared } =
            self;
        walk.leaf("visibility_timeout_s", &mut Number(visibility_timeout_s, 1..=86_400));
        walk.leaf("pending_max", &mut Number(pending_max, 1..=10_000_000));
        walk.leaf("auto_create", &mut Flag(auto_create));
        walk.leaf("dedup_window_s", &mut Number(dedup_window_s, 1..=86_400));
        walk.list("declared", declared);
    }
}

impl Section for DeclaredQueue {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let DeclaredQueue {
            name,
            kind,
            bindings,
            visibility_timeout_s,
            deliveries_max,
            backoff_ms,
            dead_letters,
            dead_letter_expired,
            dead_letter_overflow,
            ttl_s,
            messages_max,
            bytes_max,
            age_max_s,
            overflow,
            single_active,
            exclusive,
            primary_group,
            priority_max,
            from,
            lifetime,
            auto_delete,
            expires_s,
        } = self;
        walk.leaf("name", &mut Text(name, "a queue's name"));
        walk.leaf("type", &mut Choice(kind));
        walk.leaf("bindings", &mut Text(bindings, "topic filters with commas between"));
        walk.leaf("visibility_timeout_s", &mut Number(visibility_timeout_s, 0..=86_400));
        walk.leaf("deliveries_max", &mut Number(deliveries_max, 0..=1_000_000));
        walk.leaf("backoff_ms", &mut Text(backoff_ms, "milliseconds with commas between"));
        walk.leaf(
            "dead_letters",
            &mut Text(dead_letters, "$dlq, a queue's name, $exchange/<exchange>, or none"),
        );
        walk.leaf("dead_letter_expired", &mut Flag(dead_letter_expired));
        walk.leaf("dead_letter_overflow", &mut Flag(dead_letter_overflow));
        walk.leaf("ttl_s", &mut Number(ttl_s, 0..=FOR_EVER));
        walk.leaf("messages_max", &mut Number(messages_max, 0..=FOR_EVER));
        walk.leaf("bytes_max", &mut Size(bytes_max, 0..=1024 * TIB));
        walk.leaf("age_max_s", &mut Number(age_max_s, 0..=FOR_EVER));
        walk.leaf("overflow", &mut Choice(overflow));
        walk.leaf("single_active", &mut Flag(single_active));
        walk.leaf("exclusive", &mut Flag(exclusive));
        walk.leaf("primary_group", &mut Text(primary_group, "a group's name, or nothing"));
        walk.leaf("priority_max", &mut Number(priority_max, 0..=9));
        walk.leaf("from", &mut Choice(from));
        walk.leaf("lifetime", &mut Choice(lifetime));
        walk.leaf("auto_delete", &mut Flag(auto_delete));
        walk.leaf("expires_s", &mut Number(expires_s, 0..=FOR_EVER));
    }
}

impl Named for QueueType {
    const NAMES: &'static [(&'static str, QueueType)] = &[
        ("classic", QueueType::Classic),
        ("stream", QueueType::Stream),
        ("ephemeral", QueueType::Ephemeral),
    ];
}

impl Named for QueueStart {
    const NAMES: &'static [(&'static str, QueueStart)] =
        &[("latest", QueueStart::Latest), ("earliest", QueueStart::Earliest)];
}

impl Named for QueueLifetime {
    const NAMES: &'static [(&'static str, QueueLifetime)] =
        &[("durable", QueueLifetime::Durable), ("transient", QueueLifetime::Transient)];
}

impl Named for OverflowPolicy {
    const NAMES: &'static [(&'static str, OverflowPolicy)] = &[
        ("drop_head", OverflowPolicy::DropHead),
        ("reject_publish", OverflowPolicy::RejectPublish),
        ("reject_publish_dlx", OverflowPolicy::RejectPublishDlx),
    ];
}
