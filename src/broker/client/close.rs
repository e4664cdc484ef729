//! Ending a connection: the readers, then the session, whose home sees to the will.

use fluxmq_index::Offset;

use super::{Client, Phase};
use crate::model::command::Close;
use crate::model::{Effect, PartitionId, ReaderId, Refusal};
use crate::partition::request::Request;
use crate::planted::{PlantedBug, is_planted};

impl Client {
    pub(super) fn close(&mut self, close: Close) {
        // What ends already ends as it began to: a session that was taken over has its will due, whatever the protocol says after that.
        if matches!(self.phase, Phase::Closing { .. } | Phase::Done) {
            return;
        }
        if let Some(expiry_s) = close.session_expiry_s {
            self.identity.expiry_s = expiry_s;
        }
        self.identity.ends_with_will = close.will;
        if self.abandon_open(false) {
            return;
        }
        match self.phase {
            Phase::New | Phase::Admitting(_) => self.phase = Phase::Done,
            Phase::Open => self.let_go(),
            Phase::Opening(_) | Phase::Closing { .. } | Phase::Done => {}
        }
    }

    /// Another connection wants the session.
    pub(super) fn taken_over(&mut self) {
        if self.abandon_open(true) {
            return;
        }
        match self.phase {
            Phase::Open if is_planted(PlantedBug::TakeOverHalf) => {
                if let Some(home) = self.identity.home {
                    let client_id = self.identity.client_id.clone();
                    let (expiry_s, will) = (self.identity.expiry_s, true);
                    self.request(home, Request::CloseSession { client_id, expiry_s, will });
                }
            }
            Phase::Open => {
                self.effects.push_back(Effect::TakenOver);
                // The broker closes the connection: its will is due, unless it has a delay that the new one ends (MQTT 5 §3.1.4).
                self.identity.ends_with_will = true;
                self.let_go();
            }
            Phase::New
            | Phase::Admitting(_)
            | Phase::Opening(_)
            | Phase::Closing { .. }
            | Phase::Done => {}
        }
    }

    /// Gives up readers and memberships; the session follows when the readers have said how far they were.
    pub(super) fn let_go(&mut self) {
        let leaving = self.leave_groups(true);
        let attached = std::mem::take(&mut self.attached);
        let mut detaching = leaving;
        for partition in attached.into_keys() {
            self.request(partition, Request::Detach);
            *detaching.entry(partition).or_insert(0) += 1;
        }
        self.phase = Phase::Closing { detaching };
        self.finish_close();
    }

    pub(super) fn detached(
        &mut self,
        from: PartitionId,
        next: Offset,
        replayed: Vec<(ReaderId, Offset)>,
    ) {
        // One that has resigned meanwhile answers for another term, in which nothing was read.
        if matches!(&self.phase, Phase::Closing { detaching } if detaching.contains_key(&from)) {
            self.outbound.detached((ReaderId::SESSION, from), next);
            for (reader, next) in replayed {
                self.outbound.detached((reader, from), next);
            }
            self.part_closed(from);
        }
    }

    /// A partition lost leadership, or the node that led it is gone: what this connection had there is gone too.
    pub(super) fn resigned(&mut self, from: PartitionId, refusal: Refusal) {
        match &mut self.phase {
            // Whatever was granted went with it; the client opens its session again.
            Phase::Opening(_) if self.identity.home == Some(from) => {
                self.phase = Phase::Done;
                self.effects.push_back(Effect::OpenRefused(refusal));
            }
            Phase::Open => {
                self.attached.remove(&from);
                self.is_through_with(from);
                self.effects.push_back(Effect::ShuttingDown);
            }
            Phase::Closing { detaching } => {
                detaching.remove(&from);
                self.finish_close();
            }
            Phase::Opening(_) => self.open_resigned(from, refusal),
            Phase::New | Phase::Admitting(_) | Phase::Done => {}
        }
    }

    pub(super) fn finish_close(&mut self) {
        if !matches!(&self.phase, Phase::Closing { detaching } if detaching.is_empty()) {
            return;
        }
        if self.identity.stored {
            self.write_progress();
        }
        if let Some(home) = self.identity.home {
            let client_id = self.identity.client_id.clone();
            let (expiry_s, will) = (self.identity.expiry_s, self.identity.ends_with_will);
            self.request(home, Request::CloseSession { client_id, expiry_s, will });
        }
        self.phase = Phase::Done;
    }
}
