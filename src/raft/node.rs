//! One member of a Raft group: proposals and time in, frames to flush and a commit position out.
//!
//! Flushing is somebody else's work: [`Node::begin_flush`] hands it out, [`Node::finish_flush`] takes the result. A single node
//! is a group of one voter and takes the same path: its own flush is the majority.

use std::collections::VecDeque;

use bytes::Bytes;
use fluxmq_log::disk::Disk;
use fluxmq_log::format::batch::Batch;
use fluxmq_log::format::frame::{FLAG_ROLL, FrameKind};
use fluxmq_log::{AppendError, Flush, FlushError, Flushed, HardState, HardStateError, Log};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{Config, RawNode, StateRole};
use thiserror::Error;

use super::logger::logger;
use super::store::{Context, Store, to_log_entry};

/// Ticks between heartbeats, and until a follower that hears none stands for election (Raft §5.2).
const HEARTBEAT_TICKS: usize = 2;
const ELECTION_TICKS: usize = 10;

/// One member of the group.
pub struct Node<D: Disk> {
    raw: RawNode<Store<D>>,
    /// Readies whose frames are not flushed: the library's number and the last index it covers.
    unflushed: VecDeque<(u64, u64)>,
    last_ts: u64,
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
}

impl<D: Disk> Node<D> {
    /// Starts on a recovered log whose entries up to `applied` are in the views already.
    pub fn open(
        log: Log<D>,
        id: u64,
        voters: Vec<u64>,
        partition: u32,
        applied: u64,
    ) -> Result<Node<D>, NodeError> {
        let config = Config {
            id,
            applied,
            heartbeat_tick: HEARTBEAT_TICKS,
            election_tick: ELECTION_TICKS,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            // What may wait is bounded where it is admitted, by what each connection may have unconfirmed: a proposal that the
            // library drops here would have been admitted and then refused.
            max_uncommitted_size: raft::NO_LIMIT,
            max_committed_size_per_ready: 8 << 20,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        let last_ts = log.last_ts();
        let alone = voters == [id];
        let store = Store { log, voters, applied };
        let mut raw = RawNode::new(&config, store, &logger(partition))?;
        if alone {
            // Nobody else can win: waiting for the election timeout would only delay the start.
            raw.campaign()?;
        }
        let mut node = Node { raw, unflushed: VecDeque::new(), last_ts };
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

    /// Returns true when this node may propose.
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Everything up to this index is flushed on a majority.
    pub fn commit(&self) -> u64 {
        self.raw.raft.raft_log.committed
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

    /// Takes a message of another member. The caller has checked that it comes from one.
    pub fn step(&mut self, message: Message) -> Result<(), NodeError> {
        self.raw.step(message)?;
        self.advance()
    }

    /// A tick has passed.
    pub fn tick(&mut self) -> Result<(), NodeError> {
        if self.raw.tick() { self.advance() } else { Ok(()) }
    }

    /// Hands out the flush of everything appended, unless one is under way or nothing waits.
    pub fn begin_flush(&mut self) -> Option<Flush<D>> {
        self.log_mut().begin_flush()
    }

    /// Takes the result of a flush. An error is final: the log is poisoned.
    pub fn finish_flush(&mut self, flushed: Flushed<D>) -> Result<(), NodeError> {
        let position = self.log_mut().finish_flush(flushed)?;
        let mut covered = None;
        while self.unflushed.front().is_some_and(|(_, last)| *last <= position.index) {
            covered = self.unflushed.pop_front().map(|(number, _)| number);
        }
        if let Some(number) = covered {
            self.raw.on_persist_ready(number);
        }
        self.advance()
    }

    /// Everything up to this index is in the views.
    pub fn applied_to(&mut self, index: u64) {
        self.raw.advance_apply_to(index);
    }

    fn context(&self, kind: FrameKind, flags: u16) -> Context {
        Context {
            kind,
            flags,
            base_ts: self.last_ts,
            commit_hint: self.commit(),
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

    /// Does what the library wants done: term and vote to disk at once, entries to the log, unflushed.
    fn advance(&mut self) -> Result<(), NodeError> {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            if let Some(state) = ready.hs().filter(|_| ready.must_sync()) {
                let state = HardState { term: state.term, vote: state.vote, commit: state.commit };
                self.log_mut().save_hard_state(state)?;
            }
            let number = ready.number();
            let entries = ready.take_entries();
            for entry in &entries {
                let entry = to_log_entry(entry, self.last_ts);
                self.log_mut().append(entry)?;
            }
            let last = entries.last().map(|entry| entry.index);
            self.raw.advance_append_async(ready);
            match (last, self.unflushed.back()) {
                (Some(last), _) => self.unflushed.push_back((number, last)),
                // Nothing to flush, but readies are persisted in order: this one counts with the one before it.
                (None, Some((_, last))) => {
                    let last = *last;
                    self.unflushed.push_back((number, last));
                }
                (None, None) => self.raw.on_persist_ready(number),
            }
        }
        Ok(())
    }
}
