//! Who is in a partition's group.

use bytes::{Buf, BufMut, Bytes};
use raft::eraftpb::ConfState;
use thiserror::Error;

use super::random::mix;

/// One replica of a partition. Not 0, and never given to another replica of the same partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

impl std::fmt::Display for ReplicaId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// One replica's place in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// This replica.
    pub id: ReplicaId,
    /// Who votes when the group begins. Later changes are in the log, and in snapshots, which then count.
    pub voters: Vec<ReplicaId>,
    /// Who follows without a vote when the group begins.
    pub learners: Vec<ReplicaId>,
    /// True for a replica that takes a place in a group that lives already, on an empty disk: that it knows nothing is no evidence,
    /// so it neither votes nor stands until it has what a leader has. Means nothing once there is a log.
    pub joins: bool,
    /// Election timeouts follow from it, and what tells lives apart that begin at one time: each replica should have another, and
    /// draw it anew whenever its process starts.
    pub seed: u64,
}

impl Member {
    /// A group of one.
    pub fn alone() -> Member {
        let id = ReplicaId(1);
        Member { id, voters: vec![id], learners: Vec::new(), joins: false, seed: 0 }
    }

    /// Returns what tells a life that begins at `now` from others that do (ADR 0025).
    pub(crate) fn draw(&self, now: u64) -> u64 {
        mix(&[self.seed, self.id.0, now])
    }

    /// Returns true when it has no peers to begin with, and does not join some.
    pub fn is_alone(&self) -> bool {
        self.voters == [self.id] && self.learners.is_empty() && !self.joins
    }
}

/// The members of a group at one index of its log. Joint while a change is half done (Raft §6).
#[derive(Clone, Debug, Default)]
pub struct Members(pub(super) ConfState);

/// In whatever order the library lists them.
impl PartialEq for Members {
    fn eq(&self, other: &Members) -> bool {
        self.encode() == other.encode()
    }
}

/// Members that were stored and do not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("members of the group are cut short or followed by something")]
pub struct MembersError;

impl Members {
    /// Those a group begins with.
    pub fn first(member: &Member) -> Members {
        let ids = |ids: &[ReplicaId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
        Members(ConfState::from((ids(&member.voters), ids(&member.learners))))
    }

    /// Who votes; during a joint change also those who will not any more.
    pub fn voters(&self) -> Vec<ReplicaId> {
        let mut voters: Vec<u64> = [self.0.get_voters(), self.0.get_voters_outgoing()].concat();
        voters.sort_unstable();
        voters.dedup();
        voters.into_iter().map(ReplicaId).collect()
    }

    /// Who follows without a vote.
    pub fn learners(&self) -> Vec<ReplicaId> {
        let mut learners = self.0.get_learners().to_vec();
        learners.sort_unstable();
        learners.into_iter().map(ReplicaId).collect()
    }

    /// Returns true while a change is half done.
    pub fn is_joint(&self) -> bool {
        !self.0.get_voters_outgoing().is_empty()
    }

    /// Returns true when it is one of them, with a vote or without.
    pub fn contains(&self, id: ReplicaId) -> bool {
        self.voters().contains(&id) || self.learners().contains(&id)
    }

    /// Takes them out of a snapshot, whose last chunk they are.
    pub fn take_from(chunks: &mut Vec<Bytes>) -> Result<Members, MembersError> {
        Members::decode(&chunks.pop().ok_or(MembersError)?)
    }

    /// Encodes them: `4 × (u32 count, u64 ids) · u8 leaves by itself`, ids ascending, so that equal members give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let lists = [
            self.0.get_voters(),
            self.0.get_learners(),
            self.0.get_voters_outgoing(),
            self.0.get_learners_next(),
        ];
        for list in lists {
            let mut ids = list.to_vec();
            ids.sort_unstable();
            out.put_u32_le(ids.len() as u32);
            ids.into_iter().for_each(|id| out.put_u64_le(id));
        }
        out.put_u8(u8::from(self.0.auto_leave));
        out
    }

    /// Decodes what [`encode`](Members::encode) made.
    pub fn decode(mut bytes: &[u8]) -> Result<Members, MembersError> {
        let mut state = ConfState::default();
        state.set_voters(take_ids(&mut bytes)?);
        state.set_learners(take_ids(&mut bytes)?);
        state.set_voters_outgoing(take_ids(&mut bytes)?);
        state.set_learners_next(take_ids(&mut bytes)?);
        match bytes {
            [leaves @ (0 | 1)] => state.auto_leave = *leaves == 1,
            _ => return Err(MembersError),
        }
        Ok(Members(state))
    }
}

fn take_ids(bytes: &mut &[u8]) -> Result<Vec<u64>, MembersError> {
    let count = bytes.try_get_u32_le().map_err(|_| MembersError)? as usize;
    if count > bytes.len() / 8 {
        return Err(MembersError);
    }
    Ok((0..count).map(|_| bytes.get_u64_le()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_round_trip_and_nothing_else_decodes() {
        let mut state = ConfState::from((vec![3, 1, 2], vec![9]));
        state.set_voters_outgoing(vec![4, 1]);
        state.set_learners_next(vec![4]);
        state.auto_leave = true;
        let members = Members(state);
        let bytes = members.encode();
        let decoded = Members::decode(&bytes).unwrap();
        assert_eq!(decoded.encode(), bytes);
        assert_eq!(decoded.voters(), [1, 2, 3, 4].map(ReplicaId));
        assert!(decoded.is_joint() && decoded.contains(ReplicaId(9)));
        for cut in 0..bytes.len() {
            assert_eq!(Members::decode(&bytes[..cut]), Err(MembersError));
        }
        assert_eq!(Members::decode(&[&bytes[..], &[0]].concat()), Err(MembersError));
    }
}
