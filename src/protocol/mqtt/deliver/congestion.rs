//! A peer that does not read: what it may cost.
//!
//! What nothing stores is dropped beyond a few KiB, and counted. What readers of the log have handed out goes back to them soon
//! (`stall`), and entries of groups are bounded by the windows of their members. What is kept is copied, so that a few bytes do not
//! keep a whole frame, or a whole read buffer, in memory.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::Queued;
use crate::model::{Delivery, DeliverySource};
use crate::protocol::mqtt::connection::MqttConnection;

/// Bytes of deliveries that nothing stores, kept for a peer that does not read, with what carries them.
const HELD_BYTES_MAX: usize = 8 << 10;

impl super::Outbound {
    /// One of `at_most_once` goes out.
    pub(super) fn release(&mut self, delivery: &Delivery) {
        if self.is_congested && delivery.id.source == DeliverySource::Live {
            self.held_bytes -= held_bytes(delivery);
        }
    }

    /// Counts what is held of deliveries that nothing stores.
    pub(super) fn recount(&mut self) {
        let queued = self.at_most_once.iter().map(|queued| &queued.delivery);
        let live = queued.filter(|delivery| delivery.id.source == DeliverySource::Live);
        self.held_bytes = live.map(held_bytes).sum();
    }
}

impl MqttConnection {
    /// The peer stopped reading, or began again.
    pub(in crate::protocol::mqtt) fn on_congestion(&mut self, is_congested: bool) {
        if std::mem::replace(&mut self.outbound.is_congested, is_congested) || !is_congested {
            return;
        }
        if self.answers.is_empty() {
            // Without the room that deliveries took in it.
            self.answers = BytesMut::new();
        }
        self.outbound.note_congestion();
        self.outbound.held_bytes = 0;
        let mut kept = VecDeque::new();
        for queued in std::mem::take(&mut self.outbound.at_most_once) {
            kept.extend(self.afford(queued));
        }
        self.outbound.at_most_once = kept;
    }

    /// Returns a delivery that may be kept until the peer reads; what may not is over.
    pub(super) fn afford(&mut self, mut queued: Queued) -> Option<Queued> {
        // What a reader handed out may go back to it, and is shared until that is known.
        if !self.outbound.is_congested || queued.delivery.id.source.reader().is_some() {
            return Some(queued);
        }
        if queued.delivery.id.source == DeliverySource::Live {
            let bytes = self.outbound.held_bytes + queued.held_bytes();
            if bytes > HELD_BYTES_MAX {
                self.counters.deliveries_without_room += 1;
                return None;
            }
            self.outbound.held_bytes = bytes;
        }
        queued.detach();
        Some(queued)
    }

    /// Bytes of deliveries that wait in the connection, with what carries them.
    pub fn held_bytes(&self) -> usize {
        let outbound = &self.outbound;
        let assigning = outbound.assigning.iter().flat_map(|assigning| &assigning.batch);
        let numbered = outbound.ready.iter().chain(assigning).map(|ready| &ready.queued);
        let queued = outbound.waiting.iter().chain(&outbound.at_most_once).chain(numbered);
        self.answers.len() + queued.map(|queued| held_bytes(&queued.delivery)).sum::<usize>()
    }
}

pub(super) fn held_bytes(delivery: &Delivery) -> usize {
    delivery.message.len_bytes() + size_of::<Queued>() + size_of_val(&*delivery.message)
}
