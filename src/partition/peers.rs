//! The other replicas: messages in and out, and how this one stands among them.

use bytes::Bytes;
use fluxmq_log::disk::Disk;
use thiserror::Error;

use super::history::History;
use super::request::Outbox;
use super::{Applied, Partition, PartitionError};
use crate::model::Millis;
use crate::planted::{PlantedBug, is_planted};
use crate::raft::{GovernError, MemberChange, Members, PeerError, ReplicaId, Role};
use crate::view::Views;

/// What became of a message that was not taken.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// It was refused. Nothing has changed; the sender is at fault, or the network.
    #[error(transparent)]
    Refused(#[from] PeerError),
    /// Taking it failed: the partition must stop.
    #[error(transparent)]
    Failed(#[from] PartitionError),
}

/// Why a group is not governed so.
#[derive(Debug, Error)]
pub enum GroupError {
    /// It cannot be. Nothing has changed.
    #[error(transparent)]
    Refused(#[from] GovernError),
    /// Trying failed: the partition must stop.
    #[error(transparent)]
    Failed(#[from] PartitionError),
}

/// How a replica stands in its group.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Which replica.
    pub id: ReplicaId,
    /// What it does.
    pub role: Role,
    /// The newest term it has seen.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<ReplicaId>,
    /// True while it serves connections: it leads, and has applied an entry of its own term.
    pub serves: bool,
    /// True while it must not vote, because it does not have all that it may have acknowledged.
    pub muted: bool,
    /// Raft index of the last entry, flushed or not.
    pub last: u64,
    /// Raft index up to which its own log is flushed.
    pub durable: u64,
    /// Raft index up to which a majority has flushed, as far as it knows.
    pub commit: u64,
    /// Raft index up to which its views are.
    pub applied: u64,
    /// Who is in the group, as of what it has applied.
    pub members: Members,
}

impl<D: Disk> Partition<D> {
    /// Takes a message that another replica's [`poll_message`](Partition::poll_message) gave out for this one.
    pub fn receive(
        &mut self,
        from: ReplicaId,
        message: Bytes,
        now: Millis,
        out: &mut impl Outbox,
    ) -> Result<(), ReceiveError> {
        self.now = self.now.max(now);
        if self.stopped.is_some() {
            return Ok(());
        }
        let message = self.node.check(from, message)?;
        self.node.receive(message).map_err(PartitionError::from)??;
        self.follow_up(out)?;
        match self.node.is_rotten() {
            true => Err(PartitionError::Rotten.into()),
            false => Ok(()),
        }
    }

    /// The next message for another replica. To be drained after every call that takes something in: requests, messages, time,
    /// and the beginning and the end of flushes.
    pub fn poll_message(&mut self) -> Option<(ReplicaId, Bytes)> {
        self.node.poll_message().filter(|_| self.stopped.is_none())
    }

    /// Removes whole segments of entries before `to_index` that nothing needs any more, as far as snapshots allow; returns the first
    /// index that is left. A replica that is behind it is given a snapshot.
    pub fn trim(&mut self, to_index: u64) -> Result<u64, PartitionError> {
        match self.flushing {
            true => Ok(self.log().first_index()),
            false => Ok(self.node.trim(to_index)?),
        }
    }

    /// Replaces the views by a snapshot that the leader sent, if it did.
    pub(super) fn begin_at_snapshot(
        &mut self,
        out: &mut impl Outbox,
    ) -> Result<(), PartitionError> {
        let Some((at, mut sections)) = self.node.take_installed() else { return Ok(()) };
        Members::take_from(&mut sections).map_err(PartitionError::from)?;
        if !is_planted(PlantedBug::InstalledViewsKept) {
            let before = std::mem::replace(&mut self.views, Views::restore(&sections)?);
            for binding in before.queues.bindings().filter(|it| !self.views.queues.is_bound(it)) {
                out.bound(binding, false);
            }
            self.views.queues.bindings().for_each(|binding| out.bound(binding, true));
            self.announce_all_routing(&before, out);
        }
        self.applied = Applied { index: at.index, end: at.end };
        self.history = History::new(at.end);
        self.since_snapshot = 0;
        self.retention.snapshot_saved(true);
        self.snapshot_at = self.now;
        Ok(self.node.applied_to(at.index)?)
    }

    /// Changes who is in the group; only the leader can. Done when [`status`](Partition::status) says so.
    pub fn change_members(&mut self, changes: &[MemberChange]) -> Result<(), GroupError> {
        Ok(self.node.propose_members(changes).map_err(PartitionError::from)??)
    }

    /// Hands leadership to another voter; connections are refused until it has it, or an election timeout is over.
    pub fn transfer_leadership(&mut self, to: ReplicaId) -> Result<(), GroupError> {
        // What was admitted goes with it.
        self.propose()?;
        Ok(self.node.transfer(to).map_err(PartitionError::from)??)
    }

    /// Hands leadership over where that may help a replica which cannot be brought up to date from here.
    pub(super) fn make_way(&mut self) -> Result<(), PartitionError> {
        let Some(to) = self.node.who_may_give() else { return Ok(()) };
        self.propose()?;
        // Who may not be handed it now may be another time.
        let _refused = self.node.transfer(to)?;
        Ok(())
    }

    /// How this replica stands in its group.
    pub fn status(&self) -> Status {
        Status {
            id: self.node.id(),
            role: self.node.role(),
            term: self.node.term(),
            leader: self.node.leader(),
            serves: self.leading.is_some(),
            muted: self.node.is_muted(),
            last: self.log().last_index(),
            durable: self.log().durable().index,
            commit: self.node.commit(),
            applied: self.applied.index,
            members: self.node.members().clone(),
        }
    }
}
