//! Deliveries that the protocol gives back because its client does not take them. The readers that handed them out have them again.
//!
//! ```text
//! GiveBack ─▶ Hold … Held ─▶ Rewind ─GoOn─▶ Credit
//! ```
//!
//! What a reader has sent before it heard is noted with what was given back, and dropped like it: it goes back to the oldest of all.

use std::collections::BTreeMap;

use super::{Client, Phase};
use crate::model::{DeliveryId, DeliverySource, Effect, PartitionId, ReaderId};
use crate::partition::request::{Request, Rewind};

/// A reader in a partition.
type Place = (PartitionId, ReaderId);

/// Readers that wait for the client.
#[derive(Debug, Default)]
pub(super) struct GivenBack {
    readers: BTreeMap<Place, Waits>,
    /// They do not wait any longer: each goes on as soon as it has gone back.
    goes_on: bool,
}

#[derive(Debug, Default)]
struct Waits {
    /// What it is to hand out again, in its order.
    given_back: Vec<DeliveryId>,
    /// It has been told.
    is_rewound: bool,
}

impl GivenBack {
    /// Returns true for a reader that gets no credit for now.
    pub(super) fn holds(&self, place: Place) -> bool {
        self.readers.contains_key(&place)
    }

    /// A reader is gone.
    pub(super) fn ended(&mut self, place: Place) {
        self.readers.remove(&place);
    }

    /// Takes a delivery of a reader that is to go back; false when it is not, and the delivery is for the client.
    pub(super) fn takes(&mut self, id: DeliveryId) -> bool {
        if self.readers.is_empty() {
            return false;
        }
        let held = id.source.reader().and_then(|it| self.readers.get_mut(&(id.partition, it)));
        match held.filter(|held| !held.is_rewound) {
            Some(held) => {
                held.given_back.push(id);
                true
            }
            None => false,
        }
    }
}

impl Client {
    /// The client does not take these: of each reader they are the newest.
    pub(super) fn give_back(&mut self, deliveries: Vec<DeliveryId>) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        self.given_back.goes_on = false;
        for id in deliveries {
            let Some(reader) = id.source.reader() else { continue };
            if self.replays.is_over(id.source) {
                continue;
            }
            let place = (id.partition, reader);
            let is_asked = self.given_back.readers.get(&place).is_some_and(|held| !held.is_rewound);
            if !is_asked {
                self.given_back.readers.insert(place, Waits::default());
                self.request(id.partition, Request::Hold { reader });
            }
            self.given_back.takes(id);
            self.not_out(place);
        }
        // What is on its way to the protocol came after what it gives back.
        for effect in self.effects.take() {
            match &effect {
                Effect::Deliver(delivery) if self.given_back.takes(delivery.id) => {
                    if let Some(reader) = delivery.id.source.reader() {
                        self.not_out((delivery.id.partition, reader));
                    }
                }
                _ => self.effects.push_back(effect),
            }
        }
    }

    /// A reader has heard: nothing of it is on its way.
    pub(super) fn reader_held(&mut self, from: PartitionId, reader: ReaderId) {
        let place = (from, reader);
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        let held = self.given_back.readers.get_mut(&place).filter(|held| !held.is_rewound);
        let Some(held) = held else { return };
        held.is_rewound = true;
        let given_back = std::mem::take(&mut held.given_back);
        let is_read = |id: &&DeliveryId| matches!(id.source, DeliverySource::Reader(_));
        let retained = |id: &DeliveryId| match id.source {
            DeliverySource::Retained(_, subscription) => Some((id.offset, subscription)),
            _ => None,
        };
        let rewind = Rewind {
            reader,
            count: u32::try_from(given_back.len()).unwrap_or(u32::MAX),
            to: given_back.iter().filter(is_read).map(|id| id.offset).min(),
            retained: given_back.iter().filter_map(retained).collect(),
        };
        self.request(from, Request::Rewind(Box::new(rewind)));
        if self.identity.stored {
            given_back.into_iter().for_each(|id| self.outbound.given_back(id));
        }
        if self.given_back.goes_on {
            self.let_go_on(place);
        }
    }

    /// The client takes deliveries again.
    pub(super) fn go_on(&mut self) {
        self.given_back.goes_on = true;
        let readers = self.given_back.readers.iter().filter(|(_, held)| held.is_rewound);
        for place in readers.map(|(place, _)| *place).collect::<Vec<_>>() {
            self.let_go_on(place);
        }
    }

    fn let_go_on(&mut self, place: Place) {
        self.given_back.ended(place);
        let (partition, reader) = place;
        let credit = self.credits.entry(place).or_default();
        let count = std::mem::take(&mut credit.settled);
        credit.out = credit.out.saturating_sub(count);
        self.request(partition, Request::Credit { reader, count });
    }

    /// A delivery that was counted as out is its reader's again.
    fn not_out(&mut self, place: Place) {
        let credit = self.credits.entry(place).or_default();
        credit.out = credit.out.saturating_sub(1);
    }
}
