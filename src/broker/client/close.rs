//! Ending a connection: the will, then the readers, then the session.

use fluxmq_index::Offset;

use super::{Client, Phase};
use crate::model::command::Close;
use crate::model::{Effect, Millis, PartitionId, Refusal, Token};
use crate::partition::request::Request;

impl Client {
    pub(super) fn close(&mut self, now: Millis, close: Close) {
        if let Some(expiry_s) = close.session_expiry_s {
            self.identity.expiry_s = expiry_s;
        }
        if !close.will {
            self.identity.will = None;
        }
        if self.abandon_open(false) {
            return;
        }
        match self.phase {
            Phase::New => self.phase = Phase::Done,
            Phase::Open => {
                let delay_s = self.identity.will.as_ref().map_or(0, |will| will.delay_s);
                // The will goes out when its delay or the session is over, whichever comes first [MQTT-3.1.3-9].
                let delay_s = delay_s.min(self.identity.expiry_s);
                if delay_s > 0 {
                    let will_at = now.plus(u64::from(delay_s) * 1000);
                    self.phase = Phase::Lingering { will_at };
                    // The session waits for its will; queue entries go to those who are there.
                    self.leave_groups(false);
                } else {
                    self.publish_will();
                    self.let_go();
                }
            }
            Phase::Opening(_) | Phase::Lingering { .. } | Phase::Closing { .. } | Phase::Done => {}
        }
    }

    /// Another connection wants the session.
    pub(super) fn taken_over(&mut self) {
        if self.abandon_open(true) {
            return;
        }
        match self.phase {
            Phase::Open => {
                self.effects.push_back(Effect::TakenOver);
                // A delayed will is cancelled by the connection that comes instead; an undelayed one is due (MQTT 5 §3.1.2.5).
                if self.identity.will.as_ref().is_some_and(|will| will.delay_s == 0) {
                    self.publish_will();
                }
                self.identity.will = None;
                self.let_go();
            }
            Phase::Lingering { .. } => {
                self.identity.will = None;
                self.let_go();
            }
            Phase::New | Phase::Opening(_) | Phase::Closing { .. } | Phase::Done => {}
        }
    }

    pub(super) fn publish_will(&mut self) {
        let Some(will) = self.identity.will.take() else { return };
        self.publish(Token(0), will.message, None);
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

    pub(super) fn detached(&mut self, from: PartitionId, next: Offset) {
        if matches!(self.phase, Phase::Closing { .. }) {
            self.outbound.detached(from, next);
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
                self.effects.push_back(Effect::ShuttingDown);
            }
            Phase::Lingering { .. } => {
                self.attached.remove(&from);
            }
            Phase::Closing { detaching } => {
                detaching.remove(&from);
                self.finish_close();
            }
            Phase::New | Phase::Opening(_) | Phase::Done => {}
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
            let expiry_s = self.identity.expiry_s;
            self.request(home, Request::CloseSession { client_id, expiry_s });
        }
        self.phase = Phase::Done;
    }
}
