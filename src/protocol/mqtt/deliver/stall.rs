//! A client that does not take what is sent, because it does not read or because its receive maximum is used up: readers of the log
//! have their deliveries back, and wait.
//!
//! Only what has no packet id and is the newest of its reader goes back, so that nothing is sent twice and the order stays. What is
//! left is copied, so that it keeps no frame in memory. It takes a moment: clients that are merely busy are not taken for stopped.

use std::collections::VecDeque;
use std::sync::Arc;

use super::rights::take_where;
use super::{Outbound, Queued};
use crate::model::{Command, DeliveryId, DeliverySource, Millis};
use crate::protocol::mqtt::connection::MqttConnection;

/// Time that a client may leave deliveries unread, or unacknowledged where its receive maximum is used up, before they go back.
const PATIENCE_MS: u64 = 200;
/// Bytes of unsent deliveries of readers that stay, with what carries them.
const UNSENT_BYTES_MAX: usize = 8 << 10;

/// What is known of a client that does not take what is sent.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// When to look what waits for it.
    look_at: Option<Millis>,
    /// The newest delivery of a stored message, and the newest when it was looked last.
    newest: u64,
    looked_at: u64,
    /// The newest delivery that went out before others that are still here.
    overtook: u64,
    /// Readers wait for `GoOn`.
    holds_readers: bool,
}

impl Outbound {
    /// When `look_at_unsent` is due.
    pub(in crate::protocol::mqtt) fn look_at(&self) -> Option<Millis> {
        self.stall.look_at
    }

    /// A delivery waits.
    pub(super) fn note_arrival(&mut self, queued: &Queued) {
        if queued.delivery.id.source != DeliverySource::Live {
            self.stall.newest = queued.arrival;
        }
    }

    /// A place in the client's window is free again.
    pub(super) fn note_landing(&mut self) {
        // It acknowledges: that its window was full a moment ago says nothing.
        if !self.is_congested {
            self.stall.look_at = None;
        }
    }

    /// What overtakes others of its reader must not come again: those are not given back.
    pub(super) fn note_overtaking(&mut self, queued: &Queued) {
        let is_first = self.waiting.front().is_none_or(|first| first.arrival > queued.arrival);
        if !is_first && queued.delivery.id.source.reader().is_some() {
            self.stall.overtook = queued.arrival;
        }
    }

    /// It looks as soon as it stops reading, whatever was looked at before.
    pub(super) fn note_congestion(&mut self) {
        self.stall.looked_at = 0;
    }

    fn is_empty(&self) -> bool {
        let has_none = self.waiting.is_empty() && self.at_most_once.is_empty();
        has_none && self.ready.is_empty() && self.assigning.is_none()
    }

    /// Takes the deliveries that no reader's later one is out before, unless they are few.
    fn take_unsent(&mut self) -> Vec<DeliveryId> {
        let assigning = self.assigning.as_ref().and_then(|assigning| assigning.batch.back());
        let numbered = self.ready.back().into_iter().chain(assigning);
        let numbered = numbered.map(|ready| ready.queued.arrival).max().unwrap_or(0);
        let begun = self.stall.overtook.max(numbered);
        let is_unsent = |queued: &Queued| {
            queued.arrival > begun && queued.delivery.id.source.reader().is_some()
        };
        let unsent = self.waiting.iter().chain(&self.at_most_once).filter(|it| is_unsent(it));
        if unsent.map(Queued::held_bytes).sum::<usize>() <= UNSENT_BYTES_MAX {
            return Vec::new();
        }
        let lines = [&mut self.waiting, &mut self.at_most_once];
        let mut taken: Vec<(u64, DeliveryId)> = lines
            .into_iter()
            .flat_map(|line| take_where(line, is_unsent))
            .map(|queued| (queued.arrival, queued.delivery.id))
            .collect();
        taken.sort_unstable();
        taken.into_iter().map(|(_, id)| id).collect()
    }

    /// Copies what stays, and keeps no room for more.
    fn detach_unsent(&mut self) {
        [&mut self.waiting, &mut self.at_most_once].into_iter().for_each(VecDeque::shrink_to_fit);
        self.ready.shrink_to_fit();
        let assigning = self.assigning.iter_mut().flat_map(|assigning| &mut assigning.batch);
        let numbered = self.ready.iter_mut().chain(assigning).map(|ready| &mut ready.queued);
        for queued in self.waiting.iter_mut().chain(&mut self.at_most_once).chain(numbered) {
            queued.detach();
        }
    }
}

impl Queued {
    /// Bytes of the delivery, with what carries it.
    pub(super) fn held_bytes(&self) -> usize {
        super::congestion::held_bytes(&self.delivery)
    }

    /// Copies the message out of what else is in memory with it.
    pub(super) fn detach(&mut self) {
        self.delivery.message = Arc::new(self.delivery.message.detached());
    }
}

impl MqttConnection {
    /// Sees to it that what waits is looked at when the client does not take it, and that readers go on when it does.
    pub(in crate::protocol::mqtt) fn watch_stall(&mut self) {
        let now = self.now();
        let outbound = &mut self.outbound;
        let is_full = outbound.room() == 0;
        let is_stalled = outbound.is_congested || (is_full && !outbound.waiting.is_empty());
        let is_new = outbound.stall.newest > outbound.stall.looked_at;
        outbound.stall.look_at = match outbound.stall.look_at {
            _ if !is_stalled || outbound.is_empty() => None,
            None if is_new => Some(now.plus(PATIENCE_MS)),
            look_at => look_at,
        };
        let takes = !is_full && !outbound.is_congested && outbound.is_empty();
        if takes && std::mem::take(&mut outbound.stall.holds_readers) {
            self.commands.push_back(Command::GoOn);
        }
    }

    /// Gives back what the client has left for too long, when it is time.
    pub(in crate::protocol::mqtt) fn look_at_unsent(&mut self) {
        let now = self.now();
        let outbound = &mut self.outbound;
        if outbound.stall.look_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        outbound.stall.looked_at = outbound.stall.newest;
        let deliveries = outbound.take_unsent();
        outbound.detach_unsent();
        if !deliveries.is_empty() {
            outbound.stall.holds_readers = true;
            self.commands.push_back(Command::GiveBack { deliveries });
        }
    }
}
