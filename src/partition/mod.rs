//! One partition: its log, its consensus group, its views, and who listens.
//!
//! A value without thread or clock: [`handle`](Partition::handle) takes requests, [`persist`](Partition::persist) hands out one
//! flush for everything taken since the last, [`flushed`](Partition::flushed) applies what that flush committed and answers. A test
//! steps it by hand; the shard steps it in a loop. State changes in one place, `apply`.

mod apply;
mod batch;
mod consume;
mod consumers;
mod contents;
mod dead_letters;
mod ephemeral;
mod exchanges;
mod fenced;
mod follow;
mod fresh;
mod gap;
mod gauges;
mod get;
mod group;
mod history;
mod inputs;
mod jobs;
mod lead;
mod letter;
mod lifetime;
mod list;
mod listening;
mod locate;
mod manage;
mod member;
mod options;
mod own;
mod patience;
mod peers;
mod priority;
mod reader;
mod replay;
pub mod request;
mod retention;
mod retire;
mod room;
mod serve;
mod session;
mod sessions;
mod stage;
mod stop;
mod subscriptions;
mod tenure;
mod topic_ages;
mod transaction;
mod will;
mod window;

use std::collections::{BTreeSet, VecDeque};

use fluxmq_index::Offset;
pub use fluxmq_index::SharedFilters;
use fluxmq_log::disk::Disk;
use fluxmq_log::{Flush, Flushed, HardStateError, Log, ReadError, SnapshotAt, SnapshotError};
use thiserror::Error;

use self::dead_letters::Letters;
pub use self::fenced::{FenceStatus, Fenced, Opened};
use self::follow::Follows;
use self::fresh::Fresh;
pub use self::gauges::Gauges;
use self::group::Groups;
use self::history::{History, HistoryError};
use self::lifetime::Owners;
pub use self::options::{Durability, Moves, Options};
pub use self::peers::{GroupError, ReceiveError, Status};
use self::reader::Readers;
use self::request::{ConnectionId, Event, Outbox, Request};
use self::retention::Retention;
use self::retire::Heads;
use self::room::Waits;
use self::sessions::{Holders, Opening};
use self::stage::{InFlight, Overlay, Pending, Waiting};
use self::stop::refuse;
pub use self::topic_ages::TopicAges;
use self::will::Announcer;
use crate::model::frame::DecodeError;
use crate::model::{Millis, PartitionId, Refusal};
use crate::planted::{PlantedBug, is_planted};
pub use crate::raft::{GovernError, Member, MemberChange, Members, PeerError, ReplicaId, Role};
use crate::raft::{MembersError, Node, NodeError};
pub use crate::raft::{RepairError, Repaired};
use crate::view::{SectionError, Views};

/// Records handed to one reader or group in one turn: a slow replay must not hold up the others.
const RECORDS_PER_TURN_MAX: usize = 256;
/// Frames applied at a time while a partition catches up with its own log.
const APPLY_READ_BYTES: u64 = 4 << 20;

/// What is only written is synced after this many milliseconds.
const SYNC_EVERY_MS: u64 = 10;
/// And after this many bytes.
const SYNC_EVERY_BYTES: u64 = 256 << 10;

/// One partition.
pub struct Partition<D: Disk> {
    id: PartitionId,
    options: Options,
    node: Node<D>,
    views: Views,
    applied: Applied,
    building: Option<Pending>,
    in_flight: VecDeque<InFlight>,
    flushing: bool,
    /// Since when there is something that is written and not synced, and no flush under way that covers it.
    unsynced_since: Option<Millis>,
    overlay: Overlay,
    history: History<D>,
    /// When indexes are tried again that could not be built.
    retry_indexes_at: Option<Millis>,
    readers: Readers,
    groups: Groups,
    /// What groups had left to hand out in the last turn waits: nobody who wants it has room.
    groups_wait: bool,
    holders: Holders,
    /// The term in which this replica serves connections.
    leading: Option<u64>,
    /// Where the log ended when it began to.
    led_from: Offset,
    /// Connections that have lost something here: what they publish is refused until they are gone.
    parted: BTreeSet<ConnectionId>,
    announcer: Announcer,
    letters: Letters,
    follows: Follows,
    heads: Heads,
    waits: Waits,
    owners: Owners,
    retention: Retention,
    fresh: Fresh,
    now: Millis,
    /// Ticks since it was opened.
    ticks: u64,
    stopped: Option<Refusal>,
    /// A batch that could not be appended between two flushes.
    failed: Option<PartitionError>,
    disk_full: bool,
    memory_full: bool,
    /// Bytes of frames applied since the last snapshot, and when that was.
    since_snapshot: u64,
    snapshot_at: Millis,
    activity: Activity,
    counters: Counters,
}

/// Whether a flush has happened since the last tick, and whether the last one is proven on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Busy,
    Idle,
    Proven,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Sessions that came back to more than they may have missed.
    pub backlogs_cut: u64,
    /// Sessions that came back to where history had gone on: what they missed before is not kept.
    pub histories_cut: u64,
    /// Bytes of segments that were removed because history is over.
    pub history_bytes_dropped: u64,
    /// Publishes that were stored before, under the name that they came with.
    pub duplicates: u64,
}

/// How far the views are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Raft index of the last applied frame.
    pub index: u64,
    /// Offset after the last applied record.
    pub end: Offset,
}

/// Why a partition cannot go on.
#[derive(Debug, Error)]
pub enum PartitionError {
    /// Consensus or its log failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A committed frame cannot be read back.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A committed frame cannot be understood.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// History cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A snapshot cannot be written or read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The proof of what is flushed cannot be written.
    #[error(transparent)]
    Proof(#[from] HardStateError),
    /// A snapshot cannot be understood.
    #[error(transparent)]
    Section(#[from] SectionError),
    /// A snapshot's members cannot be understood.
    #[error(transparent)]
    Members(#[from] MembersError),
    /// A damaged log cannot be opened, or not be repaired.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// A peer asked for a part of the log, and it is damaged.
    #[error("the log is damaged where a peer asked for it")]
    Rotten,
}

/// Reads what the newest snapshot of a log holds; a replica without one begins with nothing, in the group that it was configured with.
fn restore<D: Disk>(
    log: &mut Log<D>,
    member: &Member,
) -> Result<(Views, Applied, Members), PartitionError> {
    let first = Members::first(member);
    let newest = match log.newest_snapshot() {
        // All of the log is there: it says what they said.
        Err(SnapshotError::AllDamaged { .. }) if log.first_index() == 1 => None,
        newest => newest?,
    };
    let Some((at, mut sections)) = newest else {
        return Ok((Views::default(), Applied { index: 0, end: Offset::ZERO }, first));
    };
    let stored = Members::take_from(&mut sections)?;
    let members = if is_planted(PlantedBug::MembersForgotten) { first } else { stored };
    Ok((Views::restore(&sections)?, Applied { index: at.index, end: at.end }, members))
}

impl<D: Disk> Partition<D> {
    /// Opens a replica of a partition on its recovered log: newest snapshot, then replay, the same whether it stopped or crashed.
    pub fn open(
        id: PartitionId,
        mut log: Log<D>,
        options: Options,
        member: &Member,
        now: Millis,
    ) -> Result<Partition<D>, PartitionError> {
        let (views, applied, members) = restore(&mut log, member)?;
        let clock = now;
        let now = now.max(Millis(log.last_ts()));
        let active = log.segments().last().map_or(Offset::ZERO, |segment| segment.base_offset);
        let retention = Retention::new(&log, applied);
        let mut node = Node::open(log, member, members, applied.index, clock.0)?;
        node.set_chunk_bytes(options.snapshot_chunk_bytes);
        let readers = Readers::new(id, &options.filters);
        let mut partition = Partition {
            id,
            options,
            node,
            views,
            applied,
            building: None,
            in_flight: VecDeque::new(),
            flushing: false,
            unsynced_since: None,
            overlay: Overlay::default(),
            history: History::new(active),
            retry_indexes_at: None,
            readers,
            groups: Groups::default(),
            groups_wait: false,
            holders: Holders::default(),
            leading: None,
            led_from: Offset::ZERO,
            parted: BTreeSet::new(),
            announcer: Announcer::default(),
            letters: Letters::default(),
            follows: Follows::default(),
            heads: Heads::default(),
            waits: Waits::new(),
            owners: Owners::default(),
            retention,
            fresh: Fresh::default(),
            now,
            ticks: 0,
            stopped: None,
            failed: None,
            disk_full: false,
            memory_full: false,
            since_snapshot: 0,
            snapshot_at: now,
            activity: Activity::Busy,
            counters: Counters::default(),
        };
        // Alone, what is flushed is committed once its own first entry of the term is. With others there is nothing to flush yet.
        while let Some(flush) = partition.node.begin_flush() {
            partition.node.finish_flush(flush.run())?;
        }
        partition.apply_committed(&mut Nobody)?;
        partition.settle_role(&mut Nobody);
        Ok(partition)
    }

    /// Which one it is.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// The views, for queries.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// How far the views are.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// What happened since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The log, to read from.
    pub fn log(&self) -> &Log<D> {
        self.node.log()
    }

    /// Refuses publishes while the disk watermark is reached; everything else goes on.
    pub fn set_disk_full(&mut self, full: bool) {
        self.disk_full = full;
    }

    /// Refuses what clients publish while memory is nearly used up; everything else goes on.
    pub fn set_memory_full(&mut self, full: bool) {
        self.memory_full = full;
    }

    /// Takes a request. Answers come from here, when nothing is to be stored, or after the flush that commits it.
    pub fn handle(
        &mut self,
        from: ConnectionId,
        request: Request,
        now: Millis,
        out: &mut impl Outbox,
    ) {
        self.now = self.now.max(now);
        if matches!(request, Request::Forget) {
            self.parted.remove(&from);
        }
        if let Some(refusal) = self.refusal_of(from, &request) {
            refuse(from, &request, &refusal, out);
            return self.part_with(from, &request, refusal, out);
        }
        let at = self.comes_at(&request);
        if at <= self.applied.end && !self.fresh.holds(from, &request) {
            return self.take(from, request, at, out);
        }
        self.fresh.push(from, request, at);
        if let Err(error) = self.refresh(out) {
            // Whoever waits is told when `persist` reports this and the partition stops.
            self.failed.get_or_insert(error);
        }
    }

    /// Takes a request that may be answered; `at` is where it came.
    fn take(&mut self, from: ConnectionId, request: Request, at: Offset, out: &mut impl Outbox) {
        match request {
            Request::Publish(publish) => self.publish(from, publish, out),
            Request::Transact(transaction) => self.transact(from, *transaction, out),
            Request::Write { token, control } => {
                let waiting = token.map(|token| Waiting::Written { to: from, token });
                self.write(&control, waiting);
            }
            Request::OpenSession { client_id, principal, clean_start, expiry_s, will } => {
                let opening = Opening { connection: from, principal, clean_start, expiry_s, will };
                self.claim_session(&client_id, opening, out);
            }
            Request::CloseSession { client_id, expiry_s, will } => {
                self.close_session(from, &client_id, (expiry_s, will), out);
            }
            Request::PublishWills => self.announcer.register(from),
            Request::CarryLetters => {
                // Letters have no order: what it lost here it is told again.
                self.parted.remove(&from);
                self.letters.register(from);
                self.follows.call();
                // Queues may have ended while nobody was there to be told.
                out.send(from, Event::BindingsEnded);
            }
            Request::LetterArrived(arrived) => self.letter_arrived(*arrived, out),
            Request::Attach(attach) => self.attach(from, *attach, at, out),
            Request::DetachFilter { filter } => self.readers.unsubscribe(from, &filter),
            Request::EndReplay { reader } => self.readers.end_replay(from, reader),
            Request::ListNewest { filter, before, count, token } => {
                let result = self.newest(&filter, before, count);
                out.send(from, Event::Newest { token, result });
            }
            Request::Detach => self.detach(from, out),
            Request::Credit { reader, count } => self.readers.credit((from, reader), count),
            Request::Hold { reader } => {
                self.readers.hold((from, reader));
                out.send(from, Event::Held { reader });
            }
            Request::Rewind(rewind) => self.readers.rewind(from, *rewind),
            Request::FetchOutbound { entries } => {
                let found = entries.into_iter().map(|entry| self.fetch_outbound(entry)).collect();
                out.send(from, Event::Outbound(found));
            }
            request @ (Request::ListOpenIds { .. }
            | Request::BeginTenure { .. }
            | Request::Release { .. }) => self.handle_exchange(from, request, out),
            request @ (Request::ListClaimed { .. }
            | Request::Join(_)
            | Request::Leave { .. }
            | Request::LeaveAll { .. }
            | Request::Claim { .. }
            | Request::Consumer(_)
            | Request::Settle { .. }
            | Request::SettleEntry { .. }
            | Request::CommitCursor { .. }) => self.handle_group(from, request, out),
            Request::Queue(request) => self.manage(from, request, out),
            Request::Exchange { token, action } => self.exchange((from, token), *action, out),
            Request::List(list) => self.list(from, list, out),
            // Connections answer one another.
            Request::Ask(_) => {}
            Request::ReadOn(read) => self.read_on(from, *read),
            Request::ReadNoMore(queue) => self.read_no_more(from, queue),
            Request::Follow(followed) => self.follow(from, *followed, out),
            Request::Forget => self.forget(from, out),
        }
    }

    /// Proposes what was taken and hands out the flush that makes it durable, unless one is under way.
    ///
    /// While one is under way requests gather, and the next flush covers them all: the group grows with the load.
    pub fn persist(&mut self) -> Result<Option<Flush<D>>, PartitionError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.stopped.is_some() || self.flushing {
            return Ok(None);
        }
        self.gather()?;
        if !self.is_flush_due() {
            return Ok(None);
        }
        let flush = self.node.begin_flush();
        self.flushing = flush.is_some();
        self.unsynced_since = None;
        Ok(flush)
    }

    /// Proposes what was taken, where this replica leads.
    fn gather(&mut self) -> Result<(), PartitionError> {
        if self.leading.is_none() {
            return Ok(());
        }
        for control in self.groups.take_outcomes() {
            self.write(&control, None);
        }
        self.propose()
    }

    /// Under [`Durability::QuorumMem`]: proposes and writes what was taken, applies it and answers, all at once. What needs more than
    /// a write, a segment that begins above all, is left to [`persist`](Self::persist), as everything is under the other class.
    ///
    /// Returns true when there is something to hand out now: [`pump`](Self::pump) is to be called again, without waiting for anything.
    pub fn persist_in_memory(
        &mut self,
        now: Millis,
        out: &mut impl Outbox,
    ) -> Result<bool, PartitionError> {
        self.now = self.now.max(now);
        if self.stopped.is_some() || self.failed.is_some() || !self.node.log().can_write() {
            return Ok(false);
        }
        self.gather()?;
        self.node.write()?;
        if self.node.log().unsynced_bytes() > 0 {
            self.activity = Activity::Busy;
            self.unsynced_since.get_or_insert(self.now);
        }
        let before = self.applied.end;
        self.follow_up(out)?;
        // What is new may be for somebody who does not wait.
        self.groups_wait &= self.applied.end == before;
        Ok(self.has_more())
    }

    /// When what is only written must be synced, unless a flush is under way.
    pub fn sync_due(&self) -> Option<Millis> {
        let since = self.unsynced_since.filter(|_| !self.flushing && self.stopped.is_none())?;
        Some(Millis(since.0 + SYNC_EVERY_MS))
    }

    /// Returns true when a flush should not wait any longer: at once where nothing counts that is not synced.
    fn is_flush_due(&self) -> bool {
        let log = self.node.log();
        match self.options.durability {
            Durability::QuorumSync => true,
            Durability::QuorumMem => {
                log.written() < log.last()
                    || log.unsynced_bytes() >= SYNC_EVERY_BYTES
                    || self.sync_due().is_some_and(|due| due <= self.now)
            }
        }
    }

    /// Takes the result of a flush: applies what it committed, and answers.
    pub fn flushed(
        &mut self,
        flushed: Flushed<D>,
        out: &mut impl Outbox,
    ) -> Result<(), PartitionError> {
        self.flushing = false;
        self.retention.pace.flushed();
        self.activity = Activity::Busy;
        self.node.finish_flush(flushed)?;
        self.follow_up(out)
    }

    /// Lets time pass: elections, heartbeats; a leader ends expired sessions and gives entries held too long to others; a quiet log
    /// writes down what is proven.
    pub fn tick(&mut self, now: Millis, out: &mut impl Outbox) -> Result<(), PartitionError> {
        self.now = self.now.max(now);
        self.ticks += 1;
        if self.stopped.is_some() {
            return Ok(());
        }
        self.node.tick()?;
        self.follow_up(out)?;
        if self.leading.is_some() {
            self.make_way()?;
            self.groups.expire(self.now);
            self.retire()?;
            self.retain_history()?;
            self.end_idle_queues();
            self.end_unused_queues();
            self.write_due();
            self.let_wills_out();
        }
        let old = self.now.0 - self.snapshot_at.0 >= self.options.snapshot_every_ms;
        if old && self.since_snapshot > 0 && !self.flushing {
            self.checkpoint()?;
        }
        self.history.tick();
        self.drop_segments()?;
        self.prove()
    }

    /// After two ticks without a flush, proves on disk what the last one covered: no later frame will.
    fn prove(&mut self) -> Result<(), PartitionError> {
        self.activity = match self.activity {
            _ if self.flushing => Activity::Busy,
            Activity::Busy => Activity::Idle,
            Activity::Idle => {
                self.node.log_mut().note_idle()?;
                Activity::Proven
            }
            Activity::Proven => Activity::Proven,
        };
        Ok(())
    }

    /// Writes a snapshot of the views, so that a restart replays only what comes after.
    pub fn checkpoint(&mut self) -> Result<(), PartitionError> {
        let Applied { index, end } = self.applied;
        if index == 0 {
            return Ok(());
        }
        let term = self.node.log().term(index).expect("applied entries are in the log");
        let mut sections = self.views.snapshot();
        sections.push(self.node.members().encode().into());
        self.node.log_mut().save_snapshot(SnapshotAt { index, term, end }, &sections)?;
        self.since_snapshot = 0;
        self.snapshot_at = self.now;
        self.retention.snapshot_saved(self.node.log().ends_segment(index));
        Ok(())
    }

    /// Returns true when requests wait for a flush that `persist` would hand out.
    pub fn wants_flush(&self) -> bool {
        let unflushed = self.log().last() != self.log().durable();
        !self.flushing && (self.building.is_some() || self.groups.has_outcomes() || unflushed)
    }

    /// Returns true when nothing waits to be proposed, flushed or applied.
    pub fn is_quiet(&self) -> bool {
        !self.flushing && self.in_flight.is_empty() && !self.wants_flush()
    }
}

/// The outbox of a replay: effects belong to the process that caused them.
struct Nobody;

impl Outbox for Nobody {
    fn send(&mut self, _to: ConnectionId, _event: Event) {}
}
