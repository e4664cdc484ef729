//! The checkers that look on all the time: I4, I7, I8, I9, I13, I14, I19, I24.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq::model::{DeliverySource, PartitionId, ReaderId, Refusal, Token};
use fluxmq::partition::request::{ConnectionId, Event, Publish, Request};
use fluxmq::partition::{Members, ReplicaId};
use fluxmq_index::Offset;
use fluxmq_log::format::frame::{Frame, FrameKind};
use fluxmq_log::sim_disk::{Crash, SimDisk};
use fluxmq_log::{Log, Recovery};

use super::stored::is_copy;
use super::{Invariant, Violation, wrong};
use crate::connection::delivered_id;
use crate::coverage::{Coverage, Point};
use crate::history::{EntryName, MessageId, id_of};
use crate::ledger::{Ledger, Record, canonical, records};
use crate::node::{Node, Owned, dir, log_options, node_of};

/// What a replica was seen to have.
#[derive(Clone, Debug, Default)]
struct Seen {
    applied: u64,
    /// The term of every entry it has flushed, from index 1 on.
    durable: Vec<u64>,
}

/// How far a session was seen to have read, in one of its incarnations.
type Cursors = (u32, BTreeMap<PartitionId, Offset>);

/// Who votes, and who does beside them while a change is half done.
type Quorums = [Vec<u64>; 2];

/// Members of a group that are remembered: one look may see several changes.
const GROUPS_KEPT: usize = 3;

/// An entry of a queue's group, handed out to a connection.
pub struct HandedOut {
    pub partition: PartitionId,
    /// As its annotation names it.
    pub entry: String,
    pub name: EntryName,
    pub to: ConnectionId,
    pub at: u64,
}

/// Looks on.
#[derive(Default)]
pub struct Observer {
    seen: BTreeMap<(usize, PartitionId), Seen>,
    /// Where each committed message is; more than once if it was published again.
    committed: BTreeMap<MessageId, Vec<(PartitionId, Offset)>>,
    /// Messages of which queues have copies.
    copied: BTreeSet<MessageId>,
    /// Entries that were seen committed for the first time since somebody took them.
    pub frames: Vec<(PartitionId, Frame)>,
    /// The newest connection that was told that it has the session, by client.
    opened: BTreeMap<usize, (ConnectionId, u64)>,
    leaders: BTreeMap<(PartitionId, u64), usize>,
    votes: BTreeMap<(PartitionId, u64, usize), u64>,
    /// What disks had flushed that are not there any more: acknowledgements of it may still be on their way.
    replaced: BTreeMap<(usize, PartitionId), Vec<u64>>,
    /// The members of each group when entries were committed, the newest last.
    groups: BTreeMap<PartitionId, Vec<Quorums>>,
    /// Replicas that stopped with an error in their present process.
    pub failed: BTreeSet<(usize, PartitionId)>,
    /// Deliveries handed to a reader and not given back.
    out: BTreeMap<(ConnectionId, PartitionId), i64>,
    /// Cursors by home, client and incarnation.
    cursors: BTreeMap<(usize, PartitionId, Vec<u8>), Cursors>,
    /// Entries of queues in the order in which partitions handed them out.
    pub handed: Vec<HandedOut>,
    /// When a partition was told that a connection is gone; its stream to the leader broke, perhaps before it knew.
    pub forgotten: BTreeMap<(ConnectionId, PartitionId), Vec<u64>>,
    /// When a partition lost what it knew of who has what: a new process or leader.
    pub resets: Vec<(PartitionId, u64)>,
    pub segments_sealed: u64,
    /// What was found in passing, where looking on goes on.
    pub found: Vec<Violation>,
    /// Log time follows the leader's wall clock: whatever is due by it may be due at any time after a jump.
    pub has_clock_jumped: bool,
    /// Publishes that wait for an answer.
    asked: BTreeMap<(ConnectionId, PartitionId, Token), MessageId>,
    /// Publishes that a partition refused while it served: sent again, because the refusal was not heard, they come after others.
    refused: BTreeSet<MessageId>,
    now: u64,
}

impl Observer {
    /// Returns true when a publish was refused at least once for a reason that passes, like a full disk.
    pub fn is_refused(&self, id: MessageId) -> bool {
        self.refused.contains(&id)
    }

    pub fn is_committed(&self, id: MessageId) -> bool {
        self.committed.contains_key(&id)
    }

    /// Where a message was committed.
    pub fn places(&self, id: MessageId) -> &[(PartitionId, Offset)] {
        self.committed.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Looks at what a node has flushed and applied since the last look.
    pub fn observe(
        &mut self,
        node: usize,
        state: &Node,
        ledger: &mut Ledger,
        now: u64,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        self.now = now;
        for (partition, owned) in &state.owned {
            self.flushed((node, *partition), owned, ledger, coverage)?;
            self.applied((node, *partition), owned, ledger, coverage)?;
        }
        Ok(())
    }

    /// I8: what is flushed stays, unless a newer leader has something else there; what is committed stays for ever.
    pub fn flushed(
        &mut self,
        key: (usize, PartitionId),
        owned: &Owned,
        ledger: &Ledger,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        let log = owned.partition.log();
        let durable = log.durable().index;
        let seen = self.seen.entry(key).or_default();
        let first = log.first_index();
        while let Some(term) = seen.durable.last().copied() {
            let index = seen.durable.len() as u64;
            if index < first || (index <= durable && log.term(index) == Some(term)) {
                break;
            }
            let committed = ledger.frames(key.1).get(index as usize - 1);
            if committed.is_some_and(|frame| frame.header.term == term) {
                let what = format!(
                    "node {} p{}: had flushed {index}, committed, and lost it",
                    key.0, key.1.0
                );
                return wrong(Invariant::I8, what);
            }
            seen.durable.pop();
            coverage.hit(Point::ConflictTruncated);
        }
        let known = seen.durable.len() as u64;
        for index in known + 1..=durable {
            // What a snapshot stands for was committed.
            let below = ledger.frames(key.1).get(index as usize - 1).map(|frame| frame.header.term);
            seen.durable.push(log.term(index).or(below).unwrap_or(0));
        }
        Ok(())
    }

    fn applied(
        &mut self,
        key: (usize, PartitionId),
        owned: &Owned,
        ledger: &mut Ledger,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        let (node, partition) = key;
        let log = owned.partition.log();
        let applied = owned.partition.applied().index;
        let before = self.seen.entry(key).or_default().applied;
        if applied < before {
            let what = format!("node {node} p{}: applied {before} and then {applied}", partition.0);
            return wrong(Invariant::I8, what);
        }
        let from = (before + 1).max(log.first_index());
        if from > applied {
            if applied > before {
                // What it applied came as views.
                coverage.hit(Point::SnapshotInstalled);
                self.seen.entry(key).or_default().applied = applied;
            }
            return Ok(());
        }
        // A second look: the disk may have been told to fail at the first.
        let read = || log.entries(from, applied + 1, u64::MAX);
        let frames = read().or_else(|_| read()).map_err(|error| Violation {
            invariant: Invariant::I7,
            what: format!("node {node} p{}: applied entries do not read: {error}", partition.0),
        })?;
        for frame in &frames {
            let is_new = frame.header.index > ledger.frames(partition).len() as u64;
            if let Err(what) = ledger.apply(partition, frame) {
                let what = format!("node {node}: {what}");
                self.found.push(Violation { invariant: Invariant::I4, what });
            }
            if is_new {
                let found = self.commit(partition, frame.header.index, frame.header.term, owned);
                self.found.extend(found.err());
                self.note(partition, frame);
                self.frames.push((partition, frame.clone()));
            }
        }
        self.seen.entry(key).or_default().applied = applied;
        self.look_at_cursors(key, owned)
    }

    /// I13: a committed entry is on the disks of a majority of those who vote. Several entries are looked at together, so those who
    /// voted a little before count, too.
    fn commit(
        &mut self,
        partition: PartitionId,
        index: u64,
        term: u64,
        owned: &Owned,
    ) -> Result<(), Violation> {
        let groups = self.groups.entry(partition).or_default();
        let quorums = quorums(&owned.partition.status().members);
        if groups.last() != Some(&quorums) {
            groups.push(quorums);
            groups.drain(..groups.len().saturating_sub(GROUPS_KEPT));
        }
        let groups = &self.groups[&partition];
        let has = |entries: &[u64]| entries.get(index as usize - 1) == Some(&term);
        let holds = |voter: &&u64| {
            let key = (node_of(ReplicaId(**voter)), partition);
            self.seen.get(&key).is_some_and(|seen| has(&seen.durable))
                || self.replaced.get(&key).is_some_and(|entries| has(entries))
        };
        let is_majority =
            |voters: &Vec<u64>| voters.iter().filter(holds).count() * 2 > voters.len();
        let is_committed = |[voters, outgoing]: &Quorums| {
            is_majority(voters) && (outgoing.is_empty() || is_majority(outgoing))
        };
        if groups.iter().any(is_committed) {
            return Ok(());
        }
        let what = format!(
            "p{} entry {index} is committed and not flushed by a majority of {groups:?}",
            partition.0
        );
        wrong(Invariant::I13, what)
    }

    /// How much a replica was seen to have flushed.
    pub fn durable(&self, node: usize, partition: PartitionId) -> u64 {
        self.seen.get(&(node, partition)).map_or(0, |seen| seen.durable.len() as u64)
    }

    /// A node has another disk, and need not have what was on the old one.
    pub fn disk_replaced(&mut self, node: usize) {
        let keys: Vec<_> = self.seen.keys().copied().filter(|key| key.0 == node).collect();
        keys.into_iter().for_each(|(node, partition)| self.replica_replaced(node, partition));
    }

    /// The same of one replica.
    pub fn replica_replaced(&mut self, node: usize, partition: PartitionId) {
        let key = (node, partition);
        if let Some(seen) = self.seen.remove(&key) {
            self.replaced.insert(key, seen.durable);
        }
    }

    /// I9: one leader appends in a term, and nobody votes twice in one, or before the vote is on disk.
    pub fn said(
        &mut self,
        node: usize,
        partition: PartitionId,
        message: &[u8],
        disk: &SimDisk,
    ) -> Result<(), Violation> {
        const APPEND: u8 = 3;
        const VOTE: u8 = 6;
        let head = message.get(..HEAD_BYTES + 10).filter(|head| head[1] == RAFT);
        let Some(head) = head else { return Ok(()) };
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| head[at + byte]));
        let (kind, reject, term) = (head[HEAD_BYTES], head[HEAD_BYTES + 1], number(HEAD_BYTES + 2));
        match (kind, reject) {
            (APPEND, _) => {
                let leader = *self.leaders.entry((partition, term)).or_insert(node);
                if leader != node {
                    let what = format!(
                        "p{}: nodes {leader} and {node} append in term {term}",
                        partition.0
                    );
                    return wrong(Invariant::I9, what);
                }
            }
            (VOTE, 0) => {
                let to = number(TO_AT);
                let voted = *self.votes.entry((partition, term, node)).or_insert(to);
                if voted != to {
                    let what = format!(
                        "node {node} p{}: votes for {voted} and {to} in term {term}",
                        partition.0
                    );
                    return wrong(Invariant::I9, what);
                }
                return vote_is_on_disk(node, partition, (term, to), disk);
            }
            _ => {}
        }
        Ok(())
    }

    fn note(&mut self, partition: PartitionId, frame: &Frame) {
        if frame.header.kind == FrameKind::Seal {
            self.segments_sealed += 1;
        }
        for (offset, _, record) in records(frame) {
            if let Record::Message { message, .. } = record
                && let Some(id) = id_of(&message.payload)
            {
                match is_copy(&message) {
                    true => drop(self.copied.insert(id)),
                    false => self.committed.entry(id).or_default().push((partition, offset)),
                }
            }
        }
    }

    /// I14: no session's cursor goes back.
    fn look_at_cursors(
        &mut self,
        key: (usize, PartitionId),
        owned: &Owned,
    ) -> Result<(), Violation> {
        for (name, session) in owned.partition.views().sessions.iter() {
            let known = self.cursors.entry((key.0, key.1, name.to_vec())).or_default();
            if known.0 != session.incarnation {
                *known = (session.incarnation, BTreeMap::new());
            }
            for (partition, cursor) in session.cursors.iter() {
                let old = known.1.insert(*partition, *cursor).unwrap_or(Offset::ZERO);
                if old > *cursor {
                    let name = String::from_utf8_lossy(name);
                    let what =
                        format!("{name}: cursor in p{} at {old} and then {cursor}", partition.0);
                    return wrong(Invariant::I14, what);
                }
            }
        }
        Ok(())
    }

    /// A node has started: what it has must be what it had.
    pub fn started(
        &mut self,
        node: usize,
        state: &Node,
        ledger: &mut Ledger,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        for (partition, owned) in &state.owned {
            let key = (node, *partition);
            let log = owned.partition.log();
            let seen = self.seen.entry(key).or_default();
            let (had, has) = (seen.durable.len() as u64, log.durable().index);
            // A replica that failed in the middle of a truncation has begun it.
            // One that died in the middle of an installation has nothing but a snapshot.
            let is_installed = log.first_index() == has + 1;
            if has < had && !self.failed.remove(&key) && !is_installed {
                let what =
                    format!("node {node} p{}: had flushed {had} and starts at {has}", partition.0);
                return wrong(Invariant::I8, what);
            }
            // Everything it applies from here on is compared again, from the first entry it still has.
            seen.applied = 0;
            self.resets.push((*partition, self.now));
        }
        self.observe(node, state, ledger, self.now, coverage)
    }

    /// A replica that waited for repair takes part again: what it has is compared again.
    pub fn unfenced(&mut self, node: usize, partition: PartitionId) {
        self.seen.entry((node, partition)).or_default().applied = 0;
        self.resets.push((partition, self.now));
    }

    pub fn crashed(&mut self, node: usize) {
        self.cursors.retain(|(of, _, _), _| *of != node);
    }

    /// Counts what recovery found.
    pub fn recovered(&self, coverage: &mut Coverage, recovery: &Recovery) {
        let found = [
            (Point::TornTail, recovery.cut.is_some()),
            (
                Point::RecoveredManifest,
                recovery.is_manifest_torn || recovery.manifest_rebuilt.is_some(),
            ),
            (
                Point::RecoveredOther,
                recovery.removed_segment.is_some()
                    || !recovery.adopted_segments.is_empty()
                    || !recovery.repaired.is_empty()
                    || !recovery.quarantined.is_empty(),
            ),
        ];
        found.into_iter().filter(|(_, is)| *is).for_each(|(point, _)| coverage.hit(point));
    }

    /// What a connection asks gives room back.
    pub fn requested(&mut self, from: ConnectionId, partition: PartitionId, request: &Request) {
        match request {
            Request::Credit { count, .. } => {
                let out = self.out.entry((from, partition)).or_default();
                *out = (*out - i64::from(*count)).max(0);
            }
            Request::Rewind(rewind) => {
                let out = self.out.entry((from, partition)).or_default();
                *out = (*out - i64::from(rewind.count)).max(0);
            }
            Request::Forget => {
                self.out.remove(&(from, partition));
                self.forgotten.entry((from, partition)).or_default().push(self.now);
            }
            Request::Publish(Publish { token: Some(token), message, .. }) => {
                let id = id_of(&message.payload);
                self.asked.extend(id.map(|id| ((from, partition, *token), id)));
            }
            _ => {}
        }
    }

    /// I13 and I24: what a partition hands out is committed, and no more than there is credit for.
    pub fn sent(
        &mut self,
        to: ConnectionId,
        from: PartitionId,
        event: &Event,
        credit: u32,
        now: u64,
    ) -> Result<(), Violation> {
        if let Event::Confirm { token, result } = event
            && let Some(id) = self.asked.remove(&(to, from, *token))
            && matches!(result, Err(Refusal::DiskFull | Refusal::Quota { .. }))
        {
            self.refused.insert(id);
        }
        let (Event::Deliver(delivery), Some(id)) = (event, delivered_id(event)) else {
            return Ok(());
        };
        if delivery.id.source == DeliverySource::Live {
            return Ok(());
        }
        if !self.is_committed(id) && !self.copied.contains(&id) {
            return wrong(Invariant::I13, format!("{id:x} is handed out and not committed"));
        }
        let name = EntryName::from_properties(|wanted| delivery.annotation(wanted));
        if let Some(name) = name {
            let entry = name.message_id();
            self.handed.push(HandedOut { partition: from, entry, name, to, at: now });
        }
        if delivery.id.source.reader() == Some(ReaderId::SESSION) {
            let is_there = self.places(id).contains(&(from, delivery.id.offset));
            if !is_there {
                let what = format!("{id:x} is handed out at p{} {}", from.0, delivery.id.offset);
                return wrong(Invariant::I4, what);
            }
            let out = self.out.entry((to, from)).or_default();
            *out += 1;
            if *out > i64::from(credit) {
                let what = format!(
                    "connection {} has {out} out of p{}, with {credit} credit",
                    to.0, from.0
                );
                return wrong(Invariant::I24, what);
            }
        }
        Ok(())
    }

    /// A connection was told by the leader of a term that it has its client's session.
    pub fn opened(&mut self, client: usize, connection: ConnectionId, term: u64) {
        let newest = self.opened.entry(client).or_insert((connection, term));
        *newest = (*newest).max((connection, term));
    }

    /// Returns the newer connection that has the session of this one's client, given away in the same term. A leader tells all its
    /// connections when it is deposed, which may be on its way to a node that does not run; one of a later term does not know them.
    pub fn superseded(
        &self,
        client: usize,
        connection: ConnectionId,
        term: u64,
    ) -> Option<ConnectionId> {
        let newest = self.opened.get(&client).filter(|newest| term > 0 && newest.1 == term)?.0;
        (newest > connection).then_some(newest)
    }

    /// I7: what a replica has, from its first entry on, is what the ledger has.
    pub fn compare(&self, node: usize, state: &Node, ledger: &Ledger) -> Result<(), Violation> {
        for (partition, owned) in &state.owned {
            let log = owned.partition.log();
            let (first, last) = (log.first_index(), owned.partition.applied().index);
            let frames = log.entries(first, last + 1, u64::MAX).map_err(|error| Violation {
                invariant: Invariant::I7,
                what: format!("node {node} p{}: {error}", partition.0),
            })?;
            let known = &ledger.frames(*partition)[first as usize - 1..last as usize];
            let differs = frames.iter().zip(known).find(|(has, known)| canonical(has) != **known);
            if frames.len() != known.len() || differs.is_some() {
                let what =
                    format!("node {node} p{}: its log is not what was committed", partition.0);
                return wrong(Invariant::I7, what);
            }
        }
        Ok(())
    }
}

/// Reads who votes out of members as they are stored.
fn quorums(members: &Members) -> Quorums {
    let encoded = members.encode();
    let mut at = 0;
    let mut number = |bytes: usize| {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(&encoded[at..at + bytes]);
        at += bytes;
        u64::from_le_bytes(value)
    };
    let mut ids = || (0..number(4)).map(|_| number(8)).collect::<Vec<u64>>();
    let (voters, _learners, outgoing) = (ids(), ids(), ids());
    [voters, outgoing]
}

/// Bytes of a message before its body: version, kind, cluster, partition, from, to, life.
pub const HEAD_BYTES: usize = 54;
/// Where it says to whom it goes.
const TO_AT: usize = 30;
/// The kind of what is the library's own.
const RAFT: u8 = 0;

fn vote_is_on_disk(
    node: usize,
    partition: PartitionId,
    (term, to): (u64, u64),
    disk: &SimDisk,
) -> Result<(), Violation> {
    let image = disk.crash_image(Crash::LoseUnsynced);
    let log = Log::open(image, dir(partition), log_options(partition));
    // A log that cannot be opened any more votes for nobody else either.
    let Ok((log, _)) = log else { return Ok(()) };
    let state = log.hard_state();
    if state.term > term || (state.term, state.vote) == (term, to) {
        return Ok(());
    }
    let what =
        format!("node {node} p{}: votes for {to} in term {term} before it is on disk", partition.0);
    wrong(Invariant::I9, what)
}
