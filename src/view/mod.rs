//! Materialized views: folds over a partition's committed records, nothing else.
//!
//! `apply` is total and deterministic: no clock, no randomness, no I/O, no hash-map order. The law of views: for every cut, restoring
//! a snapshot and applying the rest equals applying everything, and both snapshots are byte-equal.

mod binding;
mod dedup;
mod exchange;
mod follow;
mod group;
mod horizon;
mod inputs;
mod lease;
mod needs;
mod queue;
mod retained;
mod section;
mod session;
mod small_map;
mod topology;
mod will;

pub use binding::QueueBindings;
pub use dedup::Dedup;
pub use exchange::{Exchange, Exchanges};
pub use follow::Follows;
pub use group::{Claim, Group, GroupKey, Groups, Member};
pub use horizon::Horizon;
pub use inputs::{Inputs, Known};
pub use lease::Leases;
pub use needs::Pin;
pub use queue::{MARK_EVERY, Queue, Queues, Weight};
pub use retained::{Retained, RetainedMessage};
pub use section::{SectionError, section_name};
pub use session::{Away, Session, Sessions, StoredSubscription};
pub use small_map::SmallMap;
pub use topology::Topology;
pub use will::{KeptWill, Wills};

use bytes::Bytes;
use fluxmq_index::Offset;
use xxhash_rust::xxh3::Xxh3Default;

use crate::model::{Control, Millis, Record};

/// One fold over the log.
pub trait View {
    /// Names its section in snapshots.
    fn name(&self) -> &'static str;
    /// Takes the record at `at`, whose log time is `time`.
    fn apply(&mut self, at: Offset, time: Millis, record: Record<'_>);
    /// Adds what the leader has to say at `now` because time has passed.
    fn due(&self, now: Millis, out: &mut Vec<Control>);
    /// Encodes the state; equal states give equal bytes.
    fn snapshot(&self) -> Vec<u8>;
    /// Replaces the state with what [`snapshot`](View::snapshot) encoded.
    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError>;
}

/// All views of one partition, at one offset.
#[derive(Debug, Default)]
pub struct Views {
    /// MQTT sessions.
    pub sessions: Sessions,
    /// Retained messages.
    pub retained: Retained,
    /// Queues.
    pub queues: Queues,
    /// Consumer groups of queues, and shared subscriptions.
    pub groups: Groups,
    /// QoS 2 publishes that are not released.
    pub dedup: Dedup,
    /// What the meta partition knows of the others.
    pub topology: Topology,
    /// Wills that are not over.
    pub wills: Wills,
    /// How far retroactive queues are.
    pub follows: Follows,
    /// Where history begins.
    pub horizon: Horizon,
    /// Names of messages that are stored.
    pub inputs: Inputs,
    /// Since when queues are not used.
    pub leases: Leases,
    /// What the meta partition knows of exchanges.
    pub exchanges: Exchanges,
    /// What queues are bound to of exchanges.
    pub bindings: QueueBindings,
}

impl Views {
    /// Applies one record to every view.
    pub fn apply(&mut self, at: Offset, time: Millis, record: Record<'_>) {
        if let Record::Control(Control::HistoryTrimmed { to }) = record {
            // Whatever was said between the leader's decision and here may need more than it knew of.
            let to = (*to).min(self.pinned(time).unwrap_or(*to)).min(at);
            let trimmed = Control::HistoryTrimmed { to };
            return self.apply_to_all(at, time, Record::Control(&trimmed));
        }
        self.apply_to_all(at, time, record);
    }

    fn apply_to_all(&mut self, at: Offset, time: Millis, record: Record<'_>) {
        self.all_mut().into_iter().for_each(|view| view.apply(at, time, record));
    }

    /// Collects what time has made necessary.
    pub fn due(&self, now: Millis) -> Vec<Control> {
        let mut out = Vec::new();
        self.all().into_iter().for_each(|view| view.due(now, &mut out));
        out
    }

    /// Encodes every view as one named section each.
    pub fn snapshot(&self) -> Vec<Bytes> {
        let encode = |view: &dyn View| section::encode(view.name(), &view.snapshot());
        self.all().into_iter().map(encode).collect()
    }

    /// Restores every view from its section. A section this release does not know is refused: dropping it would lose state.
    pub fn restore(sections: &[Bytes]) -> Result<Views, SectionError> {
        let mut views = Views::default();
        for bytes in sections {
            let (name, body) = section::decode(bytes)?;
            let view = views.all_mut().into_iter().find(|view| view.name() == name);
            let view = view.ok_or_else(|| SectionError::Unknown { name: name.to_owned() })?;
            view.restore(body)?;
        }
        Ok(views)
    }

    fn all(&self) -> [&dyn View; 13] {
        [
            &self.sessions,
            &self.retained,
            &self.queues,
            &self.groups,
            &self.dedup,
            &self.topology,
            &self.wills,
            &self.follows,
            &self.horizon,
            &self.inputs,
            &self.leases,
            &self.exchanges,
            &self.bindings,
        ]
    }

    fn all_mut(&mut self) -> [&mut dyn View; 13] {
        [
            &mut self.sessions,
            &mut self.retained,
            &mut self.queues,
            &mut self.groups,
            &mut self.dedup,
            &mut self.topology,
            &mut self.wills,
            &mut self.follows,
            &mut self.horizon,
            &mut self.inputs,
            &mut self.leases,
            &mut self.exchanges,
            &mut self.bindings,
        ]
    }
}

/// Returns a digest of what [`Views::snapshot`] encoded: equal states have equal digests, on every replica and in every release that
/// writes the same schema.
pub fn digest(sections: &[Bytes]) -> u128 {
    let mut digest = Xxh3Default::new();
    for section in sections {
        digest.update(&(section.len() as u64).to_le_bytes());
        digest.update(section);
    }
    digest.digest128()
}
