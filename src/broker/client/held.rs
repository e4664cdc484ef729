//! What is passed on to a connection while its subscriptions begin: it waits until what is older is handed over (ADR 0044).
//!
//! A new subscription begins with retained messages, a session that comes back with what it missed. Both are read in partitions, which
//! takes time; what is passed on comes at once. Together they must come in the order in which they were published [MQTT-4.6.0-6], and no
//! old state of a topic after a newer one.

use std::collections::{BTreeMap, VecDeque};

use super::{Client, Phase};
use crate::model::{Delivery, Effect, PartitionId, ReaderId};
use crate::partition::request::{Attach, Request};

/// Bytes that wait, at most: with more, nothing waits any longer.
const HELD_BYTES_MAX: usize = 64 << 10;
/// What a delivery takes beside its message.
const CARRIER_BYTES: usize = 128;

/// Deliveries that wait, and for what.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// How many attaches of each partition are not through.
    beginning: BTreeMap<PartitionId, usize>,
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    /// True once nothing waits for those attaches any longer.
    is_over: bool,
}

impl Client {
    /// Asks a partition to read for the session.
    pub(super) fn begin_reading(&mut self, partition: PartitionId, attach: Attach) {
        if attach.reader == ReaderId::SESSION {
            let held = self.held.get_or_insert_default();
            *held.beginning.entry(partition).or_default() += 1;
            held.is_over = false;
        }
        self.attached.insert(partition, ());
        self.request(partition, Request::Attach(Box::new(attach)));
    }

    /// What an attach begins with is handed over, or nothing will be.
    pub(super) fn is_through(&mut self, partition: PartitionId) {
        let Some(held) = &mut self.held else { return };
        if let Some(count) = held.beginning.get_mut(&partition) {
            *count -= 1;
            if *count == 0 {
                held.beginning.remove(&partition);
            }
        }
    }

    /// A partition hands out nothing any more.
    pub(super) fn is_through_with(&mut self, partition: PartitionId) {
        if let Some(held) = &mut self.held {
            held.beginning.remove(&partition);
        }
    }

    /// Keeps what was passed on, if it has to wait; gives it back otherwise.
    pub(super) fn hold(&mut self, delivery: Delivery) -> Option<Delivery> {
        let Some(held) = self.held.as_mut().filter(|held| !held.is_over) else {
            return Some(delivery);
        };
        held.bytes += delivery.message.len_bytes() + CARRIER_BYTES;
        held.deliveries.push_back(delivery);
        if held.bytes > HELD_BYTES_MAX {
            self.stop_holding();
        }
        None
    }

    /// Waits no longer: one who acknowledges too little of what its subscriptions begin with is not kept from what is new.
    pub(super) fn stop_holding(&mut self) {
        let Some(held) = &mut self.held else { return };
        held.is_over = true;
        held.bytes = 0;
        let deliveries = std::mem::take(&mut held.deliveries);
        self.hand_over(deliveries);
    }

    /// Hands over what does not wait any more.
    pub(super) fn release_held(&mut self) {
        if let Some(held) = self.held.take_if(|held| held.beginning.is_empty()) {
            self.hand_over(held.deliveries);
        }
    }

    fn hand_over(&mut self, deliveries: VecDeque<Delivery>) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        for delivery in deliveries {
            match self.standing.may_receive(&delivery.message.topic) {
                true => self.effects.push_back(Effect::Deliver(delivery)),
                false => self.withhold(&delivery),
            }
        }
    }
}
