//! Bringing a replica that is behind the leader's first entry to where the log begins.
//!
//! The library's snapshot message is an offer: which snapshot, how long, its checksum, and how the first segment after it begins.
//! The follower fetches the sections of the views chunk by chunk, one request at a time, and asks again when an answer is lost.
//! Only when all of it has come and its checksum is right does the library hear of the offer; then the log is replaced and the
//! views with it, at one point of the manifest (`Log::install_snapshot`). All entries after it come as entries, so what the log
//! holds is the same bytes everywhere. A leader that hears of no progress makes the offer again.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;
use fluxmq_log::{Origin, SnapshotAt};
use raft::eraftpb::{Message, MessageType, Snapshot};
use raft::{ProgressState, SnapshotStatus, Storage};

use super::member::{Members, MembersError, ReplicaId};
use super::node::{Node, NodeError, Role};
use super::peer::Body;
use crate::planted::{PlantedBug, is_planted};

/// Ticks after which a follower asks again.
const ASK_AGAIN_TICKS: u32 = 3;
/// Times that a leader is asked for what it cannot give before it hands leadership over; about five seconds. Twice as many after each time.
const ASKED_IN_VAIN_MAX: u32 = 25;
const HAND_OVERS_COUNTED_MAX: u32 = 8;
/// Ticks without a request after which a leader offers again.
const OFFER_AGAIN_TICKS: u32 = 20;

/// A snapshot that this replica gives away.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) at: SnapshotAt,
    /// Who was in the group there.
    members: Members,
    /// Its sections in one piece.
    pub(super) body: Bytes,
    /// What the library's message carries.
    pub(super) terms: Bytes,
}

/// A snapshot on its way to this replica.
pub(super) struct Incoming {
    offer: Box<Message>,
    terms: Terms,
    body: BytesMut,
    quiet_ticks: u32,
}

/// What an offer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terms {
    end: Offset,
    origin: Origin,
    len: u64,
    crc: u32,
}

/// What is under way, in both directions.
#[derive(Default)]
pub(super) struct Transfers {
    incoming: Option<Incoming>,
    /// A whole snapshot that the library has yet to hear of.
    arrived: Option<(u64, Terms, Vec<Bytes>)>,
    /// What was installed, for the views.
    installed: Option<(SnapshotAt, Vec<Bytes>)>,
    /// Ticks since each peer asked for a chunk.
    quiet: BTreeMap<ReplicaId, u32>,
    /// How often leadership was handed over because somebody else may have what is asked for here.
    hand_overs: u32,
    /// Bytes of one chunk.
    chunk_bytes: usize,
}

impl Offer {
    pub(super) fn new(
        at: SnapshotAt,
        origin: Origin,
        sections: &[Bytes],
    ) -> Result<Offer, MembersError> {
        let members = Members::take_from(&mut sections.to_vec())?;
        let mut body = BytesMut::new();
        for section in sections {
            body.put_u32_le(section.len() as u32);
            body.put_slice(section);
        }
        let mut terms = BytesMut::new();
        terms.put_u64_le(at.end.0);
        terms.put_u64_le(origin.segment_no);
        terms.put_u32_le(origin.prev_chain);
        terms.put_u64_le(origin.capacity_bytes);
        terms.put_u64_le(origin.base_ts);
        terms.put_u64_le(body.len() as u64);
        terms.put_u32_le(crc32c::crc32c(&body));
        Ok(Offer { at, members, body: body.freeze(), terms: terms.freeze() })
    }

    /// The library's snapshot for one replica, which is among the members: it may have come after the snapshot was made.
    pub(super) fn snapshot_for(&self, to: u64) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut state = self.members.0.clone();
        if !self.members.contains(ReplicaId(to)) {
            state.mut_learners().push(to);
        }
        snapshot.mut_metadata().index = self.at.index;
        snapshot.mut_metadata().term = self.at.term;
        snapshot.mut_metadata().set_conf_state(state);
        snapshot.data = self.terms.clone();
        snapshot
    }
}

impl Terms {
    fn decode(mut bytes: &[u8]) -> Option<Terms> {
        let terms = Terms {
            end: Offset(bytes.try_get_u64_le().ok()?),
            origin: Origin {
                segment_no: bytes.try_get_u64_le().ok()?,
                prev_chain: bytes.try_get_u32_le().ok()?,
                capacity_bytes: bytes.try_get_u64_le().ok()?,
                base_ts: bytes.try_get_u64_le().ok()?,
            },
            len: bytes.try_get_u64_le().ok()?,
            crc: bytes.try_get_u32_le().ok()?,
        };
        bytes.is_empty().then_some(terms)
    }
}

impl<D: Disk> Node<D> {
    /// Sets how many bytes of a snapshot go to another replica in one message.
    pub fn set_chunk_bytes(&mut self, bytes: usize) {
        self.transfers.chunk_bytes = bytes.max(1);
    }

    /// Takes a snapshot that was installed: the views begin there.
    pub fn take_installed(&mut self) -> Option<(SnapshotAt, Vec<Bytes>)> {
        self.transfers.installed.take()
    }

    /// Removes segments that end before `to_index`, as far as a snapshot allows; returns the first index that is left.
    pub fn trim(&mut self, to_index: u64) -> Result<u64, NodeError> {
        let to_index = to_index.min(self.appliable());
        let first = self.log_mut().trim_to_snapshot(to_index)?;
        self.raw.mut_store().offer.take();
        Ok(first)
    }

    /// Hears an offer. Returns it when the library may: what it offers is here, or is not needed.
    pub(super) fn consider(&mut self, offer: Box<Message>) -> Option<Box<Message>> {
        let index = offer.get_snapshot().get_metadata().index;
        let has_arrived = self.transfers.arrived.as_ref().is_some_and(|(at, ..)| *at == index);
        if has_arrived || index <= self.commit() || offer.term < self.term() {
            return Some(offer);
        }
        let terms = Terms::decode(&offer.get_snapshot().data)?;
        let from = ReplicaId(offer.from);
        // The same snapshot of the same or another leader goes on where it was.
        let same = |incoming: &Incoming| {
            let at = incoming.offer.get_snapshot().get_metadata();
            at.index == index && incoming.terms == terms
        };
        let body = match self.transfers.incoming.take().filter(same) {
            Some(incoming) => incoming.body,
            None => BytesMut::new(),
        };
        let offset = body.len() as u64;
        self.transfers.incoming = Some(Incoming { offer, terms, body, quiet_ticks: 0 });
        self.post(from, &Body::Fetch { index, offset });
        None
    }

    /// A peer asks for a chunk.
    pub(super) fn on_fetch(&mut self, from: ReplicaId, index: u64, offset: u64) {
        if self.role() != Role::Leader || self.raw.store().snapshot(0, from.0).is_err() {
            return;
        }
        let Some(offer) = self.raw.store().offer.get() else { return };
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if offer.at.index != index || at > offer.body.len() {
            // It was offered another one; the next offer says which there is now.
            self.raw.report_snapshot(from.0, SnapshotStatus::Failure);
            return;
        }
        let bytes = offer.body.slice(at..offer.body.len().min(at + self.transfers.chunk_bytes));
        self.transfers.quiet.insert(from, 0);
        self.post(from, &Body::Chunk { index, offset, bytes });
    }

    /// A chunk that was asked for.
    pub(super) fn on_chunk(
        &mut self,
        from: ReplicaId,
        index: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), NodeError> {
        let Some(incoming) = &mut self.transfers.incoming else { return Ok(()) };
        let at = incoming.offer.get_snapshot().get_metadata().index;
        if incoming.offer.from != from.0 || at != index || offset != incoming.body.len() as u64 {
            return Ok(());
        }
        incoming.body.extend_from_slice(bytes);
        incoming.quiet_ticks = 0;
        let len = incoming.body.len() as u64;
        if len < incoming.terms.len {
            self.post(from, &Body::Fetch { index, offset: len });
            return Ok(());
        }
        let incoming = self.transfers.incoming.take().expect("just seen");
        let terms = incoming.terms;
        let is_right = len == terms.len
            && (crc32c::crc32c(&incoming.body) == terms.crc
                || is_planted(PlantedBug::ChunksUnchecked));
        let Some(sections) = is_right.then(|| split(incoming.body.freeze())).flatten() else {
            tracing::warn!(
                partition = self.address.partition,
                index,
                "a snapshot came damaged; fetching it again"
            );
            return Ok(());
        };
        self.transfers.arrived = Some((index, terms, sections));
        self.step(incoming.offer)
    }

    /// Time passes: ask again for what was lost, offer again to who went quiet, keep no snapshot that nobody fetches.
    pub(super) fn tick_transfers(&mut self) -> Result<(), NodeError> {
        if let Some(incoming) = &mut self.transfers.incoming {
            incoming.quiet_ticks += 1;
            let is_due = incoming.quiet_ticks.is_multiple_of(ASK_AGAIN_TICKS);
            if is_due && !is_planted(PlantedBug::ChunksForgotten) {
                let (from, offset) = (ReplicaId(incoming.offer.from), incoming.body.len() as u64);
                let index = incoming.offer.get_snapshot().get_metadata().index;
                self.post(from, &Body::Fetch { index, offset });
            }
        }
        let progress = self.raw.raft.prs().iter();
        let mut fetching: Vec<ReplicaId> = progress
            .filter(|(_, progress)| progress.state == ProgressState::Snapshot)
            .map(|(id, _)| ReplicaId(*id))
            .collect();
        fetching.sort_unstable();
        self.transfers.quiet.retain(|id, _| fetching.contains(id));
        if fetching.is_empty() || self.role() != Role::Leader {
            self.raw.mut_store().offer.take();
            return Ok(());
        }
        for id in fetching {
            let quiet = self.transfers.quiet.entry(id).or_default();
            *quiet += 1;
            let is_due = quiet.is_multiple_of(OFFER_AGAIN_TICKS);
            if is_due && !is_planted(PlantedBug::ChunksForgotten) {
                self.raw.report_snapshot(id.0, SnapshotStatus::Failure);
            }
        }
        self.advance()
    }

    /// Returns to whom a leader hands over that cannot bring a replica to where its log begins: a voter that has everything, each time another.
    /// Its log may begin after a snapshot that it has (ADR 0035).
    pub fn who_may_give(&mut self) -> Option<ReplicaId> {
        let asked = &self.raw.store().asked_in_vain;
        let patience = ASKED_IN_VAIN_MAX << self.transfers.hand_overs.min(HAND_OVERS_COUNTED_MAX);
        if self.role() != Role::Leader || asked.get() < patience {
            return None;
        }
        asked.set(0);
        let has_all = |id: &ReplicaId| {
            let progress = self.raw.raft.prs().get(id.0);
            *id != self.id() && progress.is_some_and(|it| it.matched >= self.commit())
        };
        let able: Vec<ReplicaId> = self.members().voters().into_iter().filter(has_all).collect();
        let next = (self.transfers.hand_overs as usize).checked_rem(able.len())?;
        self.transfers.hand_overs += 1;
        Some(able[next])
    }

    /// Replaces log and views by a snapshot that has arrived. No flush is under way.
    pub(super) fn install(&mut self, snapshot: &Snapshot) -> Result<(), NodeError> {
        let metadata = snapshot.get_metadata();
        let (index, terms, sections) =
            self.transfers.arrived.take().expect("the library hears of what has arrived");
        assert_eq!(index, metadata.index, "one snapshot at a time");
        let at = SnapshotAt { index, term: metadata.term, end: terms.end };
        self.log_mut().install_snapshot(at, Some(terms.origin), &sections)?;
        self.raw.mut_store().members = Members(metadata.get_conf_state().clone());
        self.forget_unflushed();
        self.transfers.installed = Some((at, sections));
        Ok(())
    }
}

/// Returns true for an offer, which must not be taken while a flush is under way.
pub(super) fn is_offer(message: &Message) -> bool {
    message.get_msg_type() == MessageType::MsgSnapshot
}

fn split(mut body: Bytes) -> Option<Vec<Bytes>> {
    let mut sections = Vec::new();
    while !body.is_empty() {
        let len = body.try_get_u32_le().ok()? as usize;
        if len > body.len() {
            return None;
        }
        sections.push(body.split_to(len));
    }
    Some(sections)
}
