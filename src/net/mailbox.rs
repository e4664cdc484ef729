//! Where a connection receives what shards send it: a list behind a short lock, and a wake-up.
//!
//! Smaller than a channel, and idle connections are many. Bounded by what was granted: credit for stored messages, one answer for each
//! request, and `passed_on_bytes_max` for messages that nothing stores.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::DeliverySource;
use crate::partition::request::Event;
use crate::shard::{Events, Receiver, passed_on_bytes};

/// Bytes of messages passed on that may wait for a connection whose peer does not read.
const CONGESTED_BYTES_MAX: usize = 8 << 10;

/// One connection's mailbox.
#[derive(Debug)]
pub struct Mailbox {
    waiting: Mutex<Events>,
    /// Bytes of those that were passed on without being stored.
    passed_on: AtomicUsize,
    passed_on_bytes_max: usize,
    /// True while the peer does not read.
    is_congested: AtomicBool,
    arrived: Notify,
    /// There is no peer.
    is_own: bool,
}

impl Mailbox {
    /// Returns an empty mailbox.
    pub fn new(passed_on_bytes_max: usize) -> Mailbox {
        Mailbox {
            waiting: Mutex::default(),
            passed_on: AtomicUsize::new(0),
            passed_on_bytes_max,
            is_congested: AtomicBool::new(false),
            arrived: Notify::new(),
            is_own: false,
        }
    }

    /// Returns that of the process itself, which subscribes to nothing: no message is ever passed on to it.
    pub fn own() -> Mailbox {
        Mailbox { is_own: true, ..Mailbox::new(0) }
    }

    /// Takes everything that has come, waiting until something has. Cancel-safe.
    pub async fn receive(&self) -> Events {
        loop {
            // In a scope of its own: held while it waits, it would have its place in the task of every quiet connection.
            {
                let events = self.try_receive();
                if !events.is_empty() {
                    return events;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Takes everything that has come; nothing when nothing has.
    pub fn try_receive(&self) -> Events {
        let events = self.lock(std::mem::take);
        self.passed_on.fetch_sub(passed_on(&events), Ordering::Relaxed);
        events
    }

    /// Says whether the peer reads: for one that does not, little is taken that nothing stores.
    pub fn set_congested(&self, is_congested: bool) {
        self.is_congested.store(is_congested, Ordering::Relaxed);
    }

    /// Bytes of messages passed on that have not been taken.
    pub fn passed_on_bytes(&self) -> usize {
        self.passed_on.load(Ordering::Relaxed)
    }

    fn is_congested(&self) -> bool {
        self.is_congested.load(Ordering::Relaxed)
    }

    fn lock<T>(&self, with: impl FnOnce(&mut Events) -> T) -> T {
        // Nothing panics while it is held, and a list is whole after every step.
        with(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Receiver for Mailbox {
    fn send(&self, events: Events) {
        self.passed_on.fetch_add(passed_on(&events), Ordering::Relaxed);
        self.lock(|waiting| match waiting.is_empty() {
            true => *waiting = events,
            false => waiting.extend(events),
        });
        self.arrived.notify_one();
    }

    fn has_room(&self, more: usize) -> bool {
        let bytes_max = match self.is_congested() {
            true => CONGESTED_BYTES_MAX.min(self.passed_on_bytes_max),
            false => self.passed_on_bytes_max,
        };
        self.passed_on.load(Ordering::Relaxed) + more < bytes_max
    }

    fn wants_time(&self) -> bool {
        self.passed_on.load(Ordering::Relaxed) > self.passed_on_bytes_max / 4
            && !self.is_congested()
    }

    fn answers(&self) -> bool {
        !self.is_own
    }
}

fn passed_on(events: &Events) -> usize {
    let bytes = |event: &Event| match event {
        Event::Deliver(delivery) if delivery.id.source == DeliverySource::Live => {
            passed_on_bytes(delivery)
        }
        _ => 0,
    };
    events.iter().map(|(_, event)| bytes(event)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Delivery, DeliveryId, Message, PartitionId, Properties, QoS, Topic};
    use fluxmq_index::Offset;

    fn events(next: u64) -> Events {
        vec![(PartitionId(1), Event::Detached { next: Offset(next), replayed: Vec::new() })]
    }

    #[tokio::test]
    async fn what_came_before_and_after_the_wait_is_taken_in_order() {
        let mailbox = std::sync::Arc::new(Mailbox::new(1));
        mailbox.send(events(1));
        mailbox.send(events(2));
        assert_eq!(mailbox.receive().await.len(), 2);

        let sender = mailbox.clone();
        let sending = tokio::spawn(async move { sender.send(events(3)) });
        let received = mailbox.receive().await;
        sending.await.expect("sent");

        assert!(matches!(received[..], [(_, Event::Detached { next: Offset(3), .. })]));
    }

    #[test]
    fn a_mailbox_that_fills_wants_time_unless_its_peer_does_not_read() {
        let mailbox = Mailbox::new(1024);
        let live = |_| (PartitionId(0), Event::Deliver(passed_on_delivery()));
        mailbox.send((0..2).map(live).collect());
        assert!(mailbox.wants_time());

        mailbox.set_congested(true);
        assert!(!mailbox.wants_time(), "no pause helps a peer that does not read");
        mailbox.set_congested(false);
        mailbox.try_receive();
        assert!(!mailbox.wants_time());
    }

    fn passed_on_delivery() -> Delivery {
        let message = Message {
            topic: Topic::new(bytes::Bytes::from_static(b"t")).unwrap(),
            payload: bytes::Bytes::from_static(&[0; 64]),
            qos: QoS::AtMostOnce,
            retain: false,
            expiry_s: None,
            properties: Properties::default(),
            publisher: 1,
        };
        Delivery {
            id: DeliveryId {
                source: DeliverySource::Live,
                partition: PartitionId(0),
                offset: Offset::ZERO,
            },
            message: std::sync::Arc::new(message),
            qos: QoS::AtMostOnce,
            retain: false,
            redelivered: false,
            subscription_ids: Vec::new(),
            annotations: Default::default(),
            settle_explicit: false,
        }
    }
}
