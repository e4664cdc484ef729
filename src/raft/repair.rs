//! A replica whose log is damaged: it takes no part, asks its peers for what it lost, and gives away what it has (ADR 0035).
//!
//! One question is on its way at a time: a place in one hole, to one peer. An answer that joins moves the place on and keeps asking
//! the same peer; one that does not, or none in time, asks the next. A hole about which every peer has said no rests while the
//! others are filled, and all are asked again later: a peer may be repaired, or come back. Any peer is asked, and answers, fenced or
//! not. Where a peer's log begins behind the hole, history is over there: this log is made to begin behind it, too, where it has a
//! snapshot of what that led to, and keeps everything else. Only a leader's no means more: what it does not have was never committed, so it is cut. That is so of
//! what was lost, and not of what a peer gave that had another history than both: where somebody has other entries than were collected,
//! that one is asked from the beginning of the hole before anything is given up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use fluxmq_log::disk::Disk;
use fluxmq_log::{
    Damage, Fenced, Hole, Log, Mended, OpenError, PatchError, RangeAnswer, RangeRequest, Recovery,
};
use thiserror::Error;

use super::member::{Member, Members, ReplicaId};
use super::node::{Node, NodeError};
use super::peer::{self, Address, Body, Envelope, PeerError};
use crate::planted::{PlantedBug, is_planted};

/// Bytes of one answer at most.
pub(super) const ANSWER_BYTES_MAX: usize = 512 << 10;
/// Ticks after which an answer counts as lost.
const ASK_AGAIN_TICKS: u32 = 3;
/// Ticks after which peers that said no are asked again.
const RETRY_TICKS: u32 = 20;

/// Why a repair cannot go on.
#[derive(Debug, Error)]
pub enum RepairError {
    /// The log cannot be read, or not be opened when nothing is missing.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What was lost cannot be put back.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The disk failed.
    #[error(transparent)]
    File(#[from] fluxmq_log::FileError),
}

/// What a repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Single frames that were put back.
    pub frames: u64,
    /// Runs of frames, and segments' headers.
    pub blocks: u64,
    /// Whole files.
    pub segments: u64,
    /// Answers given to others while fenced.
    pub given: u64,
    /// Answers that were not what was lost.
    pub refused: u64,
    /// Times that a leader had another history, so that this one was cut.
    pub cuts: u64,
    /// Times that the log was made to begin behind what was lost, because history is over there.
    pub begun: u64,
}

/// What a replica that leaves had still to say, and to whom.
pub type Parting = VecDeque<(ReplicaId, Bytes)>;

/// A replica that waits for repair.
pub struct Repair<D: Disk> {
    log: Fenced<D>,
    address: Address,
    peers: BTreeSet<ReplicaId>,
    outgoing: Parting,
    asked: Option<Asked>,
    /// Who last gave what joined.
    source: Option<ReplicaId>,
    /// Who gave what was collected so far of the hole that is being filled.
    sources: BTreeSet<ReplicaId>,
    /// Who said no at the place that holes have got to, by segment and place of the hole.
    refusals: BTreeMap<(u64, u64), BTreeSet<ReplicaId>>,
    ticks: u32,
    done: Repaired,
}

struct Asked {
    hole: Hole,
    request: RangeRequest,
    to: ReplicaId,
    ticks: u32,
}

impl<D: Disk> Repair<D> {
    /// Begins on a log that was opened fenced.
    pub fn open(log: Fenced<D>, member: &Member) -> Result<Repair<D>, RepairError> {
        let mut peers: BTreeSet<ReplicaId> =
            member.voters.iter().chain(&member.learners).copied().collect();
        let snapshot = log.newest_snapshot()?;
        let members = snapshot.and_then(|mut chunks| Members::take_from(&mut chunks).ok());
        if let Some(members) = members {
            peers.extend(members.voters());
            peers.extend(members.learners());
        }
        peers.remove(&member.id);
        let address = Address {
            cluster: log.options().cluster,
            partition: log.options().partition,
            me: member.id,
            life: log.life(),
        };
        Ok(Repair {
            log,
            address,
            peers,
            outgoing: VecDeque::new(),
            asked: None,
            source: None,
            sources: BTreeSet::new(),
            refusals: BTreeMap::new(),
            ticks: 0,
            done: Repaired::default(),
        })
    }

    /// Takes a message. What is not about repair is not answered: this replica takes no part.
    pub fn receive(
        &mut self,
        via: ReplicaId,
        bytes: Bytes,
    ) -> Result<Result<(), PeerError>, RepairError> {
        let Envelope { from, body, .. } = match peer::decode(&self.address, via, bytes) {
            Ok(envelope) => envelope,
            Err(error) => return Ok(Err(error)),
        };
        self.peers.insert(from);
        match body {
            Body::Ask(request) => {
                let answer = self.log.range(&request, ANSWER_BYTES_MAX)?;
                self.done.given += u64::from(matches!(answer, RangeAnswer::Bytes(_)));
                self.post(from, &Body::Range { request, answer, leads: 0 });
            }
            Body::Range { request, answer, leads } => {
                self.on_range(from, request, answer, leads)?
            }
            Body::Raft(message) if is_planted(PlantedBug::FencedVotes) => {
                self.vote(from, &message);
            }
            Body::Raft(_)
            | Body::Rejoin { .. }
            | Body::Welcome { .. }
            | Body::Fetch { .. }
            | Body::Chunk { .. } => {}
        }
        Ok(Ok(()))
    }

    /// The next message to another replica.
    pub fn poll_message(&mut self) -> Option<(ReplicaId, Bytes)> {
        self.outgoing.pop_front()
    }

    /// A tick has passed: the next segment is read, what was lost on the way is asked again.
    pub fn tick(&mut self) -> Result<(), RepairError> {
        self.ticks += 1;
        self.log.check_next()?;
        if self.ticks.is_multiple_of(RETRY_TICKS) {
            self.refusals.clear();
        }
        if let Some(asked) = &mut self.asked {
            asked.ticks += 1;
            if asked.ticks >= ASK_AGAIN_TICKS {
                self.source = self.source.filter(|source| *source != asked.to);
                let asked = self.asked.take().expect("just seen");
                self.refuse(&asked.hole, asked.to);
            }
        }
        self.ask()
    }

    /// Returns true when nothing is missing any more.
    pub fn is_whole(&self) -> bool {
        self.log.is_whole()
    }

    /// Opens the log.
    pub fn finish(self) -> Result<(Log<D>, Recovery), RepairError> {
        Ok(self.log.finish()?)
    }

    /// What is missing, as far as is known.
    pub fn damage(&self) -> Vec<Damage> {
        self.log.holes().into_iter().map(|hole| hole.damage).collect()
    }

    /// What is missing and every peer was asked for in vain.
    pub fn lost(&self) -> Vec<Damage> {
        let is_lost = |hole: &Hole| {
            self.refusals.get(&key(hole)).is_some_and(|refused| refused.is_superset(&self.peers))
        };
        self.log.holes().into_iter().filter(is_lost).map(|hole| hole.damage).collect()
    }

    /// Whom it asks.
    pub fn peers(&self) -> Vec<ReplicaId> {
        self.peers.iter().copied().collect()
    }

    /// Which replica this is.
    pub fn id(&self) -> ReplicaId {
        self.address.me
    }

    /// What was done so far.
    pub fn repaired(&self) -> Repaired {
        self.done
    }

    /// Asks for what is missing next, unless a question is on its way.
    fn ask(&mut self) -> Result<(), RepairError> {
        if self.asked.is_some() {
            return Ok(());
        }
        for hole in self.log.holes() {
            let refused = self.refusals.get(&key(&hole));
            let is_open = |peer: &ReplicaId| refused.is_none_or(|refused| !refused.contains(peer));
            // Who gave the last one first; then by turns, so that no two replicas ask only one another.
            let turn = self.ticks as usize % self.peers.len().max(1);
            let by_turns = self.peers.iter().cycle().skip(turn).take(self.peers.len());
            let to = self.source.iter().chain(by_turns).copied().find(|peer| is_open(peer));
            let Some(to) = to else { continue };
            let request = self.log.ask(&hole);
            if request.from_bytes == hole.damage.from_bytes && request.skip == 0 {
                self.sources.clear();
            }
            self.post(to, &Body::Ask(request));
            self.asked = Some(Asked { hole, request, to, ticks: 0 });
            return Ok(());
        }
        Ok(())
    }

    fn on_range(
        &mut self,
        from: ReplicaId,
        request: RangeRequest,
        answer: RangeAnswer,
        leads: u64,
    ) -> Result<(), RepairError> {
        let is_answer = |asked: &mut Asked| asked.to == from && asked.request == request;
        let Some(Asked { hole, .. }) = self.asked.take_if(is_answer) else { return Ok(()) };
        // An older leader may not know what was committed since.
        let is_leader = leads > 0 && leads >= self.log.hard_state().term;
        match answer {
            RangeAnswer::Bytes(bytes) => self.on_bytes(from, &hole, &request, &bytes, is_leader)?,
            RangeAnswer::Diverged if self.has_of_others(from) => self.begin_anew(&hole, from),
            RangeAnswer::Absent if is_leader && self.has_of_others(from) => {
                self.begin_anew(&hole, from);
            }
            RangeAnswer::Trimmed { begins } if self.log.begin_after(&hole, begins)? => {
                self.on_begun(from, &hole);
            }
            RangeAnswer::Absent | RangeAnswer::Trimmed { .. } | RangeAnswer::Diverged
                if is_leader =>
            {
                self.cut(from, &hole)?;
            }
            RangeAnswer::Damaged
            | RangeAnswer::Unflushed
            | RangeAnswer::Absent
            | RangeAnswer::Trimmed { .. }
            | RangeAnswer::Diverged => self.refuse(&hole, from),
        }
        self.ask()
    }

    fn on_bytes(
        &mut self,
        from: ReplicaId,
        hole: &Hole,
        request: &RangeRequest,
        bytes: &[u8],
        is_leader: bool,
    ) -> Result<(), RepairError> {
        self.sources.insert(from);
        match self.log.take(hole, request, bytes) {
            Ok(None) => {
                self.source = Some(from);
                self.refusals.remove(&key(hole));
            }
            Ok(Some(mended)) => {
                self.source = Some(from);
                self.refusals.remove(&key(hole));
                match mended {
                    Mended::Frame => self.done.frames += 1,
                    Mended::Block => self.done.blocks += 1,
                    Mended::Segment => self.done.segments += 1,
                }
                let damage = &hole.damage;
                let (path, from_bytes) = (damage.path.display(), damage.from_bytes);
                let partition = self.address.partition;
                tracing::info!(partition, %path, from_bytes, source = from.0, "damage was repaired");
                self.log.check_next()?;
            }
            Err(PatchError::Disjoint { .. }) if is_leader && self.sources.len() == 1 => {
                self.cut(from, hole)?;
            }
            Err(PatchError::Corrupt { .. } | PatchError::Disjoint { .. }) => {
                self.done.refused += 1;
                self.refuse(hole, from);
            }
            Err(PatchError::Unwanted { .. }) => {}
            Err(error @ (PatchError::File(_) | PatchError::Open(_))) => return Err(error.into()),
        }
        Ok(())
    }

    /// Returns true when some of what was collected came from others.
    fn has_of_others(&self, than: ReplicaId) -> bool {
        self.sources.iter().any(|source| *source != than)
    }

    /// Forgets what was collected of a hole from others, and asks this one.
    fn begin_anew(&mut self, hole: &Hole, with: ReplicaId) {
        self.log.forget_collected();
        for source in std::mem::take(&mut self.sources) {
            self.refuse(hole, source);
        }
        self.refusals.entry(key(hole)).or_default().remove(&with);
        self.source = Some(with);
    }

    fn refuse(&mut self, hole: &Hole, by: ReplicaId) {
        self.source = self.source.filter(|source| *source != by);
        let refused = self.refusals.entry(key(hole)).or_default();
        let is_new = refused.insert(by);
        if is_new && refused.is_superset(&self.peers) {
            let asked: Vec<u64> = refused.iter().map(|peer| peer.0).collect();
            let (partition, damage) = (self.address.partition, &hole.damage);
            tracing::error!(
                partition,
                ?asked,
                "stopped until a replica has what is lost: {damage}"
            );
        }
    }

    /// The log begins behind a hole now.
    fn on_begun(&mut self, peer: ReplicaId, hole: &Hole) {
        let Damage { first_index, first_offset, .. } = hole.damage;
        tracing::warn!(
            partition = self.address.partition,
            peer = peer.0,
            first_index,
            %first_offset,
            "history is over where entries are damaged; the log begins behind them"
        );
        self.done.begun += 1;
        self.refusals.clear();
    }

    /// Gives up what a leader does not have.
    fn cut(&mut self, leader: ReplicaId, hole: &Hole) -> Result<(), RepairError> {
        let Damage { first_index, first_offset, .. } = hole.damage;
        tracing::warn!(
            partition = self.address.partition,
            leader = leader.0,
            first_index,
            %first_offset,
            "damaged entries are not in the leader's log; they are given up with all behind them"
        );
        self.log.cut(hole)?;
        self.done.cuts += 1;
        self.refusals.clear();
        Ok(())
    }

    fn post(&mut self, to: ReplicaId, body: &Body) {
        let bytes = peer::encode(&self.address, to, body);
        self.outgoing.push_back((to, bytes));
    }

    /// A defect: grants every vote.
    fn vote(&mut self, from: ReplicaId, message: &raft::eraftpb::Message) {
        use raft::eraftpb::{Message, MessageType};
        let kind = match message.get_msg_type() {
            MessageType::MsgRequestVote => MessageType::MsgRequestVoteResponse,
            MessageType::MsgRequestPreVote => MessageType::MsgRequestPreVoteResponse,
            _ => return,
        };
        let mut answer = Message::default();
        answer.set_msg_type(kind);
        answer.term = message.term;
        answer.to = from.0;
        answer.from = self.address.me.0;
        self.post(from, &Body::Raft(Box::new(answer)));
    }
}

fn key(hole: &Hole) -> (u64, u64) {
    (hole.damage.segment_no, hole.damage.from_bytes)
}

impl<D: Disk> Node<D> {
    /// A peer that lost a part of a segment asks for it.
    pub(super) fn on_ask(
        &mut self,
        from: ReplicaId,
        request: RangeRequest,
    ) -> Result<(), NodeError> {
        let answer = self.log().range(&request, ANSWER_BYTES_MAX)?;
        // Whoever is asked looks; what it finds is damage here, too.
        self.is_rotten |= answer == RangeAnswer::Damaged;
        let leads = self.leads().unwrap_or(0);
        self.post(from, &Body::Range { request, answer, leads });
        Ok(())
    }

    /// Returns true when part of the log was found damaged by somebody else's question.
    pub fn is_rotten(&self) -> bool {
        self.is_rotten
    }

    /// Leaves the group for a while: hands leadership to the voter that is furthest, and returns what is still to be said.
    pub fn leave(mut self) -> Result<(Log<D>, Parting), NodeError> {
        let me = self.id();
        let matched =
            |id: &ReplicaId| self.raw.raft.prs().get(id.0).map_or(0, |progress| progress.matched);
        let others = self.members().voters().into_iter().filter(|id| *id != me);
        if let Some(to) = others.max_by_key(matched) {
            // One that cannot take over at once is not waited for: the others elect.
            drop(self.transfer(to)?);
        }
        let outgoing = std::mem::take(&mut self.outgoing);
        Ok((self.into_log(), outgoing))
    }
}
