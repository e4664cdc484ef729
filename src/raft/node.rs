//! One member of a Raft group: proposals, peers' messages and time in; frames to flush, messages and a commit position out.
//!
//! Flushing is somebody else's work: [`Node::begin_flush`] hands it out, [`Node::finish_flush`] takes the result. A leader's messages
//! go out while its own flush runs (Raft thesis §10.2.1); what promises entries waits for the flush that holds them. A group of one
//! takes the same path: its own flush is the majority.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use fluxmq_log::disk::Disk;
use fluxmq_log::format::batch::Batch;
use fluxmq_log::format::frame::{FLAG_ROLL, FrameKind};
use fluxmq_log::{
    AppendError, FileError, Flush, FlushError, Flushed, HardState, HardStateError, Log, Position,
    ReadError, SnapshotError, TruncateError,
};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{Config, RawNode, ReadState, StateRole};
use thiserror::Error;

use super::guard::{self, Known};
use super::logger::logger;
use super::member::{Member, Members, ReplicaId};
use super::peer::{self, Address, Body, Envelope, PeerError};
use super::random::mix;
use super::rejoin::{Lives, is_leaders};
use super::store::{Context, Store, committed, to_log_entry};
use super::transfer::{Transfers, is_offer};
use crate::planted::{PlantedBug, is_planted};

/// Ticks between heartbeats, and until a follower that hears none stands for election (Raft §5.2): from so many to twice that.
const HEARTBEAT_TICKS: usize = 2;
const ELECTION_TICKS: usize = 10;

/// One member of the group.
pub struct Node<D: Disk> {
    pub(super) raw: RawNode<Store<D>>,
    pub(super) address: Address,
    pub(super) seed: u64,
    /// How often this replica's patience has ended: the next one differs.
    elections: u64,
    /// Ticks since it was opened, up to those of an election.
    pub(super) age: usize,
    unflushed: VecDeque<Unflushed>,
    is_flushing: bool,
    /// A message that takes entries back which a flush is writing: it waits for the flush.
    parked: Option<Box<Message>>,
    pub(super) outgoing: VecDeque<(ReplicaId, Bytes)>,
    last_ts: u64,
    pub(super) transfers: Transfers,
    /// Questions that a majority answered.
    pub(super) reads: VecDeque<ReadState>,
    /// The latest life that was heard of each peer, and the one with which its progress here began.
    pub(super) lives: BTreeMap<ReplicaId, Lives>,
    /// The term whose leader knows this life.
    pub(super) welcomed: u64,
    /// A peer asked for something that is damaged here.
    pub(super) is_rotten: bool,
    /// The newest term whose leader was told of this life.
    pub(super) introduced: u64,
    /// This life was muted, and a leader has found since that it has all that any life of it may have acknowledged.
    pub(super) is_whole_again: bool,
    /// A majority without this replica has confirmed a leader since this life began.
    pub(super) is_acquainted: bool,
}

/// A ready of the library whose frames are not flushed, and what may be said once they are.
struct Unflushed {
    number: u64,
    last_index: u64,
    messages: Vec<Message>,
}

/// What a member does in its group (Raft §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Proposes.
    Leader,
    /// Asks for votes.
    Candidate,
    /// Takes what the leader sends.
    Follower,
}

/// Why a node stopped.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The library refused: not the leader, or too much is uncommitted.
    #[error("consensus refused: {0}")]
    Raft(#[from] raft::Error),
    /// The frame cannot be appended.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The frames cannot be made durable.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// Term or vote cannot be made durable.
    #[error(transparent)]
    HardState(#[from] HardStateError),
    /// Entries that conflict with the leader's cannot be taken back.
    #[error(transparent)]
    Truncate(#[from] TruncateError),
    /// A leader's snapshot cannot be installed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Entries cannot be read back.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What a peer asked for cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A committed change of members does not decode.
    #[error("change of members at index {index}: {source}")]
    Change {
        /// Where.
        index: u64,
        /// What is wrong with it.
        source: protobuf::ProtobufError,
    },
}

impl<D: Disk> Node<D> {
    /// Starts on a recovered log whose entries up to `applied` are in the views already, and `members` with them. `now` is the
    /// wall clock in milliseconds.
    pub fn open(
        mut log: Log<D>,
        member: &Member,
        members: Members,
        applied: u64,
        now: u64,
    ) -> Result<Node<D>, NodeError> {
        log.begin_life(now, member.draw(now))?;
        let is_new = log.last_index() == 0 && log.hard_state() == HardState::default();
        if member.joins && is_new && !is_planted(PlantedBug::ForgetfulVotes) {
            log.require(u64::MAX)?;
        }
        let address = Address {
            cluster: log.options().cluster,
            partition: log.options().partition,
            me: member.id,
            life: log.life(),
        };
        let config = Config {
            id: member.id.0,
            applied,
            heartbeat_tick: HEARTBEAT_TICKS,
            election_tick: ELECTION_TICKS,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            // What may wait is bounded where it is admitted, by what each connection may have unconfirmed: a proposal that the
            // library drops here would have been admitted and then refused.
            max_uncommitted_size: raft::NO_LIMIT,
            max_committed_size_per_ready: 8 << 20,
            check_quorum: !is_planted(PlantedBug::StandsUnasked),
            pre_vote: !is_planted(PlantedBug::StandsUnasked),
            ..Config::default()
        };
        let last_ts = log.last_ts();
        let alone = members.voters() == [member.id];
        let committed = committed(&log, applied)?;
        let store = Store::new(log, members, committed);
        let raw = RawNode::new(&config, store, &logger(address.partition))?;
        let mut node = Node {
            raw,
            address,
            seed: mix(&[member.seed, member.id.0, u64::from(address.partition)]),
            elections: 0,
            age: 0,
            unflushed: VecDeque::new(),
            is_flushing: false,
            parked: None,
            outgoing: VecDeque::new(),
            last_ts,
            transfers: Transfers::default(),
            reads: VecDeque::new(),
            lives: BTreeMap::new(),
            welcomed: 0,
            is_rotten: false,
            introduced: 0,
            is_whole_again: false,
            is_acquainted: false,
        };
        if alone && !node.is_muted() {
            // Nobody else can win: waiting for the election timeout would only delay the start.
            node.raw.campaign()?;
        }
        node.advance()?;
        Ok(node)
    }

    /// The log, to read from.
    pub fn log(&self) -> &Log<D> {
        &self.raw.store().log
    }

    /// The log, for what is not replicated: snapshots, spares, proofs.
    pub fn log_mut(&mut self) -> &mut Log<D> {
        &mut self.raw.mut_store().log
    }

    /// Ends, and leaves the log.
    pub(super) fn into_log(self) -> Log<D> {
        self.raw.raft.r.raft_log.store.log
    }

    /// Which replica this is.
    pub fn id(&self) -> ReplicaId {
        self.address.me
    }

    /// What this replica does.
    pub fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower => Role::Follower,
        }
    }

    /// The newest term that this replica has seen.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Who leads, as far as is known here.
    pub fn leader(&self) -> Option<ReplicaId> {
        Some(ReplicaId(self.raw.raft.leader_id)).filter(|leader| leader.0 != 0)
    }

    /// Returns the term in which this replica leads and may propose: an entry of that term is applied here, so everything that
    /// earlier leaders committed is (Raft §8).
    pub fn leads(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        (raft.state == StateRole::Leader && raft.apply_to_current_term()).then_some(raft.term)
    }

    /// Who is in the group, as of what is applied here.
    pub fn members(&self) -> &Members {
        &self.raw.store().members
    }

    /// Returns true while this replica must not vote: it does not have all that it may have acknowledged.
    pub fn is_muted(&self) -> bool {
        self.log().must_reach().is_some()
    }

    /// Everything up to this index is flushed on a majority.
    pub fn commit(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// Everything up to this index is committed, and flushed here: it may be applied.
    pub fn appliable(&self) -> u64 {
        let persisted = self.raw.raft.raft_log.persisted;
        if is_planted(PlantedBug::CommitAlone) && self.role() == Role::Leader {
            return persisted;
        }
        self.commit().min(persisted)
    }

    /// Proposes a batch and appends it here, unflushed; returns its index.
    ///
    /// Rolls the segment first when the batch does not fit: a seal closes the old one, and the batch carries the flag that opens the next.
    pub fn propose(&mut self, batch: Batch) -> Result<u64, NodeError> {
        let mut flags = batch.flags;
        if self.log().should_roll(batch.body.len()) {
            let seal = self.log().seal_body();
            let context = self.context(FrameKind::Seal, 0);
            self.step_proposal(context, seal)?;
            flags |= FLAG_ROLL;
        }
        let context = Context {
            base_ts: batch.base_ts,
            record_count: batch.record_count,
            max_ts_delta: batch.max_ts_delta,
            tables_len: batch.tables_len,
            topic_count: batch.topic_count,
            ..self.context(batch.kind, flags)
        };
        self.step_proposal(context, batch.body)?;
        Ok(self.log().last_index())
    }

    /// Decodes a message that came from a replica, and refuses what no honest one sends. Changes nothing.
    pub fn check(&self, via: ReplicaId, bytes: Bytes) -> Result<Checked, PeerError> {
        let envelope = peer::decode(&self.address, via, bytes)?;
        let Body::Raft(message) = &envelope.body else { return Ok(Checked(envelope)) };
        let known = Known {
            log: self.log(),
            term: self.term(),
            commit: self.commit(),
            is_leader: self.role() == Role::Leader,
        };
        guard::check(message, &known)?;
        Ok(Checked(envelope))
    }

    /// Takes a checked message; refuses one of an earlier life of its sender, unless that leads.
    pub fn receive(&mut self, message: Checked) -> Result<Result<(), PeerError>, NodeError> {
        let Checked(Envelope { from, life, body }) = message;
        if let Err(error) = self.meet(from, life)
            && !is_leaders(&body)
        {
            return Ok(Err(error));
        }
        match body {
            Body::Raft(message) => self.step(message)?,
            Body::Rejoin { term, last, is_muted } => {
                self.on_rejoin((from, life), term, last, is_muted)?;
            }
            Body::Welcome { term, of_life, life, is_confirmed, is_whole } => {
                self.on_welcome(term, (of_life, life), is_confirmed, is_whole)?;
            }
            Body::Fetch { index, offset } => self.on_fetch(from, index, offset),
            Body::Chunk { index, offset, bytes } => self.on_chunk(from, index, offset, &bytes)?,
            Body::Ask(request) => self.on_ask(from, request)?,
            // Answers to what this replica asked before it was whole.
            Body::Range { .. } => {}
        }
        Ok(Ok(()))
    }

    pub(super) fn step(&mut self, mut message: Box<Message>) -> Result<(), NodeError> {
        self.introduce(&message);
        if message.get_msg_type() == MessageType::MsgHeartbeat {
            self.object(&message);
        }
        if is_offer(&message) {
            let Some(offer) = self.consider(message) else { return Ok(()) };
            message = offer;
        }
        if self.is_flushing && (self.takes_back(&message) || is_offer(&message)) {
            // Losing an older one is what networks do.
            self.parked = Some(message);
            return Ok(());
        }
        match message.get_msg_type() {
            MessageType::MsgRequestVote
            | MessageType::MsgRequestPreVote
            | MessageType::MsgTimeoutNow
                if self.is_muted() =>
            {
                return Ok(());
            }
            // Whoever leads is to find out first what this disk has forgotten (ADR 0025).
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote if self.is_young() => {
                return Ok(());
            }
            // To stand while entries are not flushed would be to claim them.
            MessageType::MsgTimeoutNow if !self.unflushed.is_empty() => return Ok(()),
            // What it knows of this log may be what an earlier life acknowledged: entries that are lost, or others in their place. How
            // far they are committed means nothing before this life is known to have them.
            MessageType::MsgHeartbeat
                if message.term != self.welcomed || message.commit > self.log().last_index() =>
            {
                message.commit = self.commit();
            }
            _ => {}
        }
        match self.raw.step(*message) {
            Ok(()) | Err(raft::Error::StepPeerNotFound) => self.advance(),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns true while a leader that there may be has not had the time to be heard from since this replica was opened, as it is for
    /// one that was heard from (Raft, dissertation §4.2.3).
    fn is_young(&self) -> bool {
        self.age < ELECTION_TICKS
    }

    /// The next message to another replica.
    pub fn poll_message(&mut self) -> Option<(ReplicaId, Bytes)> {
        self.outgoing.pop_front()
    }

    /// A tick has passed.
    pub fn tick(&mut self) -> Result<(), NodeError> {
        self.age = ELECTION_TICKS.min(self.age + 1);
        self.tick_transfers()?;
        // A replica that has forgotten something does not stand, nor one whose disk is behind.
        if self.role() != Role::Leader && (self.is_muted() || !self.unflushed.is_empty()) {
            return Ok(());
        }
        let patience = mix(&[self.seed, self.term(), self.elections]) % ELECTION_TICKS as u64;
        self.raw.raft.set_randomized_election_timeout(ELECTION_TICKS + patience as usize);
        let was_waiting = self.role() != Role::Leader;
        if !self.raw.tick() {
            return Ok(());
        }
        self.elections += u64::from(was_waiting);
        self.advance()
    }

    /// Hands out the flush of everything appended, unless one is under way or nothing waits.
    pub fn begin_flush(&mut self) -> Option<Flush<D>> {
        let flush = self.log_mut().begin_flush();
        self.is_flushing |= flush.is_some();
        flush
    }

    /// Takes the result of a flush. An error is final: the log is poisoned.
    pub fn finish_flush(&mut self, flushed: Flushed<D>) -> Result<(), NodeError> {
        self.is_flushing = false;
        let position = self.log_mut().finish_flush(flushed)?;
        self.persisted(position)?;
        match self.parked.take() {
            Some(message) => self.step(message),
            None => Ok(()),
        }
    }

    /// Writes what was appended without syncing it, and counts that as persisted: what this member acknowledges survives its
    /// process, and perhaps no power cut. What a flush must do is left to it. An error is final.
    pub fn write(&mut self) -> Result<(), NodeError> {
        let position = self.log_mut().write()?;
        self.persisted(position)
    }

    fn persisted(&mut self, position: Position) -> Result<(), NodeError> {
        let mut covered = None;
        while self.unflushed.front().is_some_and(|first| first.last_index <= position.index) {
            let first = self.unflushed.pop_front().expect("just seen");
            covered = Some(first.number);
            self.send(first.messages);
        }
        if let Some(number) = covered {
            self.raw.on_persist_ready(number);
        }
        self.advance()
    }

    /// Everything up to this index is in the views.
    pub fn applied_to(&mut self, index: u64) -> Result<(), NodeError> {
        self.raw.advance_apply_to(index.min(self.commit()));
        self.advance()
    }

    fn context(&self, kind: FrameKind, flags: u16) -> Context {
        Context {
            kind,
            flags,
            base_ts: self.last_ts.max(self.log().last_ts()),
            // On disk it proves that everything below was durable, so it claims no more than is.
            commit_hint: self.commit().min(self.log().durable().index),
            record_count: 0,
            max_ts_delta: 0,
            tables_len: 0,
            topic_count: 0,
        }
    }

    fn step_proposal(&mut self, context: Context, body: Bytes) -> Result<(), NodeError> {
        let entry = Entry { context: context.encode(), data: body, ..Entry::default() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raw.raft.id;
        message.set_entries(vec![entry].into());
        self.raw.raft.step(message)?;
        self.last_ts = context.base_ts + u64::from(context.max_ts_delta);
        self.advance()
    }

    /// Does what the library wants done: term and vote to disk at once, entries to the log, unflushed, messages to where they wait.
    pub(super) fn advance(&mut self) -> Result<(), NodeError> {
        while self.raw.has_ready() && self.raw.store().failed.get().is_none() {
            let mut ready = self.raw.ready();
            // First: what follows may say that what replaces them is committed.
            if !ready.snapshot().is_empty() {
                self.install(ready.snapshot())?;
            }
            if let Some(first) = ready.entries().first().map(|first| first.index) {
                self.take_back(first)?;
            }
            if let Some(state) = ready.hs().filter(|_| ready.must_sync()) {
                let state = HardState { term: state.term, vote: state.vote, commit: state.commit };
                if !is_planted(PlantedBug::VoteForgotten) {
                    self.log_mut().save_hard_state(state)?;
                }
            }
            for state in ready.take_read_states() {
                match self.confirmed(&state) {
                    true => {}
                    false => self.reads.push_back(state),
                }
            }
            self.send(ready.take_messages());
            let (promises, others): (Vec<_>, Vec<_>) =
                ready.take_persisted_messages().into_iter().partition(promises_entries);
            self.send(others);
            let promises = match is_planted(PlantedBug::PromiseBeforeFlush) {
                true => {
                    self.send(promises);
                    Vec::new()
                }
                false => promises,
            };
            let entries = ready.take_entries();
            for entry in &entries {
                let mut entry = to_log_entry(entry);
                if self.role() != Role::Leader {
                    entry.commit_hint *= u64::from(!is_planted(PlantedBug::HintForgotten));
                    entry.base_ts += u64::from(is_planted(PlantedBug::OwnTime));
                }
                self.log_mut().append(entry)?;
            }
            let number = ready.number();
            self.raw.advance_append_async(ready);
            let last_index = entries.last().map(|entry| entry.index);
            // Readies are persisted in order: one without entries counts with the one before it.
            match last_index.or(self.unflushed.back().map(|last| last.last_index)) {
                Some(last_index) => {
                    self.unflushed.push_back(Unflushed { number, last_index, messages: promises });
                }
                None => {
                    self.send(promises);
                    self.raw.on_persist_ready(number);
                }
            }
        }
        match self.raw.mut_store().failed.take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Nothing of what is not flushed is there any more.
    pub(super) fn forget_unflushed(&mut self) {
        self.unflushed.clear();
        self.last_ts = self.log().last_ts();
    }

    /// Takes back entries from `index` on that the leader replaces (Raft §5.3). No flush is under way.
    fn take_back(&mut self, index: u64) -> Result<(), NodeError> {
        if index > self.log().last_index() {
            return Ok(());
        }
        self.log_mut().truncate_suffix(index)?;
        self.last_ts = self.log().last_ts();
        // What they waited for is gone with them; what is left counts with what it was flushed with.
        for waiting in &mut self.unflushed {
            waiting.last_index = waiting.last_index.min(index - 1);
        }
        Ok(())
    }

    /// Returns true for a message whose entries replace some of ours.
    fn takes_back(&self, message: &Message) -> bool {
        let differs = |entry: &Entry| {
            entry.index <= self.log().last_index()
                && self.log().term(entry.index) != Some(entry.term)
        };
        message.get_msg_type() == MessageType::MsgAppend && message.entries.iter().any(differs)
    }

    fn send(&mut self, messages: Vec<Message>) {
        let is_silent = self.is_silent();
        for message in messages.into_iter().filter(|message| !(is_silent && is_answer(message))) {
            self.post(ReplicaId(message.to), &Body::Raft(Box::new(message)));
        }
    }

    pub(super) fn post(&mut self, to: ReplicaId, body: &Body) {
        let bytes = peer::encode(&self.address, to, body);
        self.outgoing.push_back((to, bytes));
    }
}

/// A message that was decoded and found possible.
pub struct Checked(Envelope);

/// Returns true for what tells a leader that it is heard.
fn is_answer(message: &Message) -> bool {
    matches!(
        message.get_msg_type(),
        MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse
    )
}

/// Returns true for what may be said only once entries are flushed: that they are there, and that they make a candidate. Term and
/// vote are on disk before anything is sent.
fn promises_entries(message: &Message) -> bool {
    !matches!(
        message.get_msg_type(),
        MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVoteResponse
    )
}
