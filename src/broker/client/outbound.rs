//! What a stored session has out, and how far it has read: the part of its state that this connection moves.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq_index::Offset;

use crate::model::{
    Delivery, DeliveryId, DeliverySource, Effect, OutboundEntry, PartitionId, QoS, ReaderId,
    SessionProgress,
};
use crate::planted::{PlantedBug, is_planted};

/// The moving part of a stored session.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// Handed to the protocol and not yet sent under a packet id.
    unsent: BTreeMap<DeliveryId, Unsent>,
    places: BTreeMap<Place, Reading>,
    /// Out under a packet id. `stored` says whether the log knows it.
    entries: BTreeMap<u16, (OutboundEntry, bool)>,
    packet_ids: BTreeMap<DeliveryId, u16>,
    /// In sending order: assigned, not yet written.
    assigned: Vec<u16>,
    received: Vec<u16>,
    done: Vec<u16>,
    moved: BTreeSet<Place>,
    waiting: Vec<Effect>,
    /// Deliveries settled since progress was last taken.
    settled: usize,
}

/// Deliveries settled after which progress is written although nobody waits: what a crash of the broker hands out again.
const SETTLED_UNWRITTEN_MAX: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Unsent {
    qos: QoS,
    retain: bool,
    /// False for a retained message sent at subscription time: it is not of what the session reads.
    counts: bool,
}

/// A reader in a partition.
type Place = (ReaderId, PartitionId);

/// How far one partition is read.
#[derive(Debug, Default)]
struct Reading {
    /// After the last delivery that was handed over in order.
    next: Offset,
    /// Handed over in order and neither sent under a packet id nor settled.
    unsent: BTreeMap<Offset, ()>,
}

impl Outbound {
    /// A reader stands: it begins at `start`, unless the session had got further.
    pub(super) fn attached(&mut self, place: Place, start: Offset) {
        self.places.entry(place).or_insert(Reading { next: start, ..Reading::default() });
    }

    /// The session reads a partition from its stored cursor.
    pub(super) fn resumed(&mut self, place: Place, cursor: Offset) {
        self.places.insert(place, Reading { next: cursor, ..Reading::default() });
    }

    /// What a partition has below is given up: the session goes on from here, and says so with its next progress.
    pub(super) fn cut(&mut self, partition: PartitionId, start: Offset) {
        let place = (ReaderId::SESSION, partition);
        if let Some(reading) = self.places.get_mut(&place) {
            reading.next = reading.next.max(start);
            self.moved.insert(place);
        }
    }

    /// A replay is over: where it was is of no use to anybody. What it has out stays out.
    pub(super) fn replay_ended(&mut self, reader: ReaderId) {
        self.places.retain(|(of, _), _| *of != reader);
    }

    /// An earlier connection left this out.
    pub(super) fn restored(&mut self, entry: OutboundEntry) {
        self.packet_ids.insert(entry.delivery(), entry.packet_id);
        self.entries.insert(entry.packet_id, (entry, true));
    }

    /// Returns true for a number that an earlier connection left out.
    pub(super) fn is_used(&self, packet_id: u16) -> bool {
        self.entries.contains_key(&packet_id)
    }

    /// A number stands for another delivery by now: what it stood for is over.
    pub(super) fn forget(&mut self, packet_id: u16) {
        if let Some((entry, _)) = self.entries.get(&packet_id) {
            self.settled(entry.delivery());
        }
    }

    /// A delivery goes to the protocol.
    pub(super) fn handed(&mut self, delivery: &Delivery) {
        let Some(place) = place(delivery.id) else { return };
        let offset = delivery.id.offset;
        let reading = self.places.entry(place).or_default();
        // A retained message that answers a subscription is beside what the session reads.
        let is_read = matches!(delivery.id.source, DeliverySource::Reader(_));
        let counts = is_read && offset >= reading.next;
        if counts {
            reading.next = offset.next();
            reading.unsent.insert(offset, ());
        }
        let unsent = Unsent { qos: delivery.qos, retain: delivery.retain, counts };
        self.unsent.insert(delivery.id, unsent);
    }

    /// Everything that matches below `next` was handed over, or passed on as it came.
    pub(super) fn passed(&mut self, place: Place, next: Offset) {
        if let Some(reading) = self.places.get_mut(&place).filter(|reading| reading.next < next) {
            reading.next = next;
            self.moved.insert(place);
            self.settled += 1;
        }
    }

    /// Deliveries go out under packet ids.
    pub(super) fn assign(&mut self, entries: &[(u16, DeliveryId)]) {
        for (packet_id, id) in entries {
            let Some((reader, partition)) = place(*id) else { continue };
            let Some(unsent) = self.take_unsent(*id) else { continue };
            let entry = OutboundEntry {
                packet_id: *packet_id,
                reader,
                partition,
                offset: id.offset,
                qos: unsent.qos,
                retain: unsent.retain,
                received: false,
            };
            // A number used again: what it stood for is settled, and saying so twice is not needed.
            self.done.retain(|done| done != packet_id);
            self.entries.insert(*packet_id, (entry, false));
            self.packet_ids.insert(*id, *packet_id);
            self.assigned.push(*packet_id);
        }
    }

    /// A delivery that was not sent is its reader's again, which goes back to it.
    pub(super) fn given_back(&mut self, id: DeliveryId) {
        let counts = self.take_unsent(id).is_some_and(|unsent| unsent.counts);
        let reading = place(id).and_then(|place| self.places.get_mut(&place));
        if let Some(reading) = reading.filter(|_| counts) {
            reading.next = reading.next.min(id.offset);
        }
    }

    /// PUBREC has come.
    pub(super) fn received(&mut self, packet_id: u16) {
        if let Some((entry, _)) = self.entries.get_mut(&packet_id) {
            entry.received = true;
            self.received.push(packet_id);
        }
    }

    /// A delivery is over.
    pub(super) fn settled(&mut self, id: DeliveryId) {
        self.settled += 1;
        if let Some(packet_id) = self.packet_ids.remove(&id) {
            match self.entries.remove(&packet_id) {
                Some((_, true)) => self.done.push(packet_id),
                _ => self.assigned.retain(|assigned| *assigned != packet_id),
            }
            self.moved.extend(place(id));
        } else if self.take_unsent(id).is_some() {
            self.moved.extend(place(id));
        }
    }

    /// Emits an effect once everything said so far is stored.
    pub(super) fn answer_with(&mut self, effect: Effect) {
        self.waiting.push(effect);
    }

    /// Returns true when somebody waits for progress to be stored, or much of it is not.
    pub(super) fn is_due(&self) -> bool {
        !self.waiting.is_empty() || self.settled >= SETTLED_UNWRITTEN_MAX
    }

    /// Takes the effects that wait for the next progress.
    pub(super) fn take_waiting(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.waiting)
    }

    /// A reader is gone; everything that matches below `next` was handed over.
    pub(super) fn detached(&mut self, place: Place, next: Offset) {
        if let Some(reading) = self.places.get_mut(&place) {
            reading.next = reading.next.max(next);
            self.moved.insert(place);
        }
    }

    /// Takes what changed since the last call as one record; `None` when nothing did.
    pub(super) fn progress(&mut self, client_id: &Bytes, epoch: Offset) -> Option<SessionProgress> {
        self.settled = 0;
        let mut assigned = Vec::with_capacity(self.assigned.len());
        for packet_id in self.assigned.drain(..) {
            if let Some((entry, stored)) = self.entries.get_mut(&packet_id) {
                *stored = true;
                self.moved.insert((entry.reader, entry.partition));
                assigned.push(*entry);
            }
        }
        let is_read = |place: &&Place| self.places.contains_key(place);
        let moved = self.moved.iter().filter(is_read);
        let mut moved: Vec<_> = moved.map(|place| (*place, self.reached(*place))).collect();
        moved.sort_unstable();
        self.moved.clear();
        let (replayed, cursors): (Vec<_>, Vec<_>) =
            moved.into_iter().partition(|((reader, _), _)| reader.is_replay());
        let cursors: Vec<_> = cursors.into_iter().map(|((_, at), to)| (at, to)).collect();
        let replayed: Vec<_> = replayed.into_iter().map(|((of, at), to)| (of, at, to)).collect();
        let received = std::mem::take(&mut self.received);
        let done = std::mem::take(&mut self.done);
        let unmoved = cursors.is_empty() && replayed.is_empty();
        let quiet = assigned.is_empty() && unmoved && received.is_empty() && done.is_empty();
        (!quiet).then(|| SessionProgress {
            client_id: client_id.clone(),
            epoch,
            cursors,
            replayed,
            assigned,
            received,
            done,
        })
    }

    /// Up to where everything that a reader handed over was sent under a packet id, or settled.
    pub(super) fn reached(&self, place: Place) -> Offset {
        let Some(reading) = self.places.get(&place) else { return Offset(0) };
        let first = reading.unsent.first_key_value().map(|(offset, ())| *offset);
        let first = first.filter(|_| !is_planted(PlantedBug::CursorSkipsUnsent));
        first.unwrap_or(reading.next)
    }

    fn take_unsent(&mut self, id: DeliveryId) -> Option<Unsent> {
        let unsent = self.unsent.remove(&id)?;
        let reading = place(id).and_then(|place| self.places.get_mut(&place));
        if let Some(reading) = reading.filter(|_| unsent.counts) {
            reading.unsent.remove(&id.offset);
        }
        Some(unsent)
    }
}

/// Which reader a delivery came from, and where; `None` when the session does not remember such deliveries.
fn place(id: DeliveryId) -> Option<Place> {
    Some((id.source.reader()?, id.partition))
}
