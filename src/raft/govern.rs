//! Governing a group: who is in it, who leads it, and asking it whether one still does.

use bytes::Bytes;
use fluxmq_log::disk::Disk;
use fluxmq_log::format::frame::Frame;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};
use raft::{Changer, StateRole};
use thiserror::Error;

use super::member::{Members, ReplicaId};
use super::node::{Node, NodeError, Role};
use crate::planted::{PlantedBug, is_planted};

/// What becomes of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// It votes.
    Voter(ReplicaId),
    /// It follows without a vote.
    Learner(ReplicaId),
    /// It leaves.
    Remove(ReplicaId),
}

/// Why a group is not governed so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GovernError {
    /// Only the leader can.
    #[error("this replica does not lead; {}", hint.map_or("nobody does yet".to_owned(), |id| format!("replica {id} does")))]
    NotLeader {
        /// Who does, as far as is known.
        hint: Option<ReplicaId>,
    },
    /// An earlier change, or a transfer of leadership, is not finished.
    #[error("an earlier change is not finished; try again when it is")]
    Pending,
    /// The group cannot be so.
    #[error("impossible members: {reason}")]
    Impossible {
        /// What is wrong.
        reason: String,
    },
    /// Replicas that nobody has heard of yet would be needed for a majority: they answer nobody until a majority without them has
    /// confirmed the leader, so there would be none.
    #[error(
        "{known} of {voters} voters would be known, which is no majority; add the others as learners first, and make them voters when they follow"
    )]
    Unknown {
        /// Voters of the group that would be, that follow or vote now.
        known: usize,
        /// All of them.
        voters: usize,
    },
    /// Not a voter of the group.
    #[error("replica {id} does not vote")]
    NotVoter {
        /// Who.
        id: ReplicaId,
    },
}

impl<D: Disk> Node<D> {
    /// Proposes a change of members. One replica at a time changes at once; several go through a joint group, in which the majorities
    /// of before and after must agree, and which is left by itself (Raft §6).
    pub fn propose_members(
        &mut self,
        changes: &[MemberChange],
    ) -> Result<Result<(), GovernError>, NodeError> {
        if let Err(error) = self.may_govern() {
            return Ok(Err(error));
        }
        let raft = &self.raw.raft;
        if raft.has_pending_conf() || self.members().is_joint() {
            return Ok(Err(GovernError::Pending));
        }
        let mut change = ConfChangeV2::default();
        change.set_transition(ConfChangeTransition::Auto);
        change.set_changes(changes.iter().map(single).collect::<Vec<_>>().into());
        // What is committed must be applied, so what cannot be applied must not be proposed.
        let mut changer = Changer::new(raft.prs());
        let tried = match change.enter_joint() {
            Some(auto_leave) => changer.enter_joint(auto_leave, &change.changes),
            None => changer.simple(&change.changes),
        };
        if let Err(error) = tried {
            return Ok(Err(GovernError::Impossible { reason: error.to_string() }));
        }
        if let Err(error) = self.would_be_known(changes) {
            return Ok(Err(error));
        }
        self.raw.propose_conf_change(Vec::new(), change)?;
        self.advance()?;
        Ok(Ok(()))
    }

    /// Takes a change of members that is committed (Raft §6); to be called as it is applied, before [`Node::applied_to`].
    pub fn change_members(&mut self, frame: &Frame) -> Result<(), NodeError> {
        if is_planted(PlantedBug::ChangeUnread) && self.role() != Role::Leader {
            return Ok(());
        }
        let mut change = ConfChangeV2::default();
        let index = frame.header.index;
        change
            .merge_from_bytes(&frame.body)
            .map_err(|source| NodeError::Change { index, source })?;
        // Whoever acts in the new group must not be found in the old one after a restart, because it no longer knows that the change
        // is committed: with those who left it would be a majority of the old one.
        self.log_mut().save_commit(index)?;
        let members = Members(self.raw.apply_conf_change(&change)?);
        let stays = members.voters().contains(&self.id());
        self.raw.mut_store().members = members;
        if !stays && self.role() == Role::Leader {
            // It led the group up to its own removal; now others elect one of theirs (Raft §6).
            let term = self.term();
            self.raw.raft.become_follower(term, 0);
        }
        self.advance()
    }

    /// Hands leadership to a voter that has everything, or will soon. Until it has taken over, or an election timeout is over,
    /// nothing is proposed here (Raft thesis §3.10).
    pub fn transfer(&mut self, to: ReplicaId) -> Result<Result<(), GovernError>, NodeError> {
        if let Err(error) = self.may_govern() {
            return Ok(Err(error));
        }
        if !self.members().voters().contains(&to) {
            return Ok(Err(GovernError::NotVoter { id: to }));
        }
        self.raw.transfer_leader(to.0);
        self.advance()?;
        Ok(Ok(()))
    }

    /// Who is being handed leadership.
    pub fn transferee(&self) -> Option<ReplicaId> {
        self.raw.raft.lead_transferee.map(ReplicaId)
    }

    /// Asks a majority whether this replica still leads; `name` comes back in [`Node::poll_read`] (Raft §8).
    pub fn ask_read(&mut self, name: u64) -> Result<(), NodeError> {
        debug_assert_eq!(self.role(), Role::Leader, "others would forward it");
        self.raw.read_index(name.to_le_bytes().to_vec());
        self.advance()
    }

    /// The next question that a majority answered, and the index that must be applied before what it was asked for is read.
    pub fn poll_read(&mut self) -> Option<(u64, u64)> {
        let state = self.reads.pop_front()?;
        let name = Bytes::from(state.request_ctx);
        Some((u64::from_le_bytes(name.as_ref().try_into().ok()?), state.index))
    }

    /// Refuses a group whose majority would need replicas that have acknowledged nothing yet.
    fn would_be_known(&self, changes: &[MemberChange]) -> Result<(), GovernError> {
        let mut voters = self.members().voters();
        for change in changes {
            let (MemberChange::Voter(id) | MemberChange::Learner(id) | MemberChange::Remove(id)) =
                *change;
            voters.retain(|voter| *voter != id);
            voters.extend(matches!(change, MemberChange::Voter(_)).then_some(id));
        }
        let before = self.members().voters();
        let follows =
            |id: &ReplicaId| self.raw.raft.prs().get(id.0).is_some_and(|it| it.matched > 0);
        let known = voters.iter().filter(|id| before.contains(id) || follows(id)).count();
        match known * 2 > voters.len() {
            true => Ok(()),
            false => Err(GovernError::Unknown { known, voters: voters.len() }),
        }
    }

    fn may_govern(&self) -> Result<(), GovernError> {
        if self.raw.raft.state != StateRole::Leader || self.leads().is_none() {
            return Err(GovernError::NotLeader {
                hint: self.leader().filter(|id| *id != self.id()),
            });
        }
        match self.transferee() {
            Some(_) => Err(GovernError::Pending),
            None => Ok(()),
        }
    }
}

fn single(change: &MemberChange) -> ConfChangeSingle {
    let mut single = ConfChangeSingle::default();
    let (kind, id) = match change {
        MemberChange::Voter(id) => (ConfChangeType::AddNode, id),
        MemberChange::Learner(id) => (ConfChangeType::AddLearnerNode, id),
        MemberChange::Remove(id) => (ConfChangeType::RemoveNode, id),
    };
    single.node_id = id.0;
    single.set_change_type(kind);
    single
}
