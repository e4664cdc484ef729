//! Publishes whose publishers name them: a name that is known, or on its way into the log, is answered and not stored again.

use fluxmq_log::disk::Disk;

use super::Partition;
use super::request::{ConnectionId, Event, Outbox, Publish};
use crate::model::{Control, Input, Refusal};
use crate::view::Known;

/// Log time after a producer's last message at which it is forgotten.
const PRODUCER_KEPT_MS: u64 = 7 * 24 * 3600 * 1000;

/// What is to become of a publish.
pub(super) enum Judged {
    /// It is to be stored.
    New,
    /// It is.
    Stored,
}

impl<D: Disk> Partition<D> {
    /// Decides whether a publish is stored already, by what its publisher names it.
    pub(super) fn judge_input(&self, publish: &Publish) -> Result<Judged, Refusal> {
        let Some(input) = &publish.input else { return Ok(Judged::New) };
        if self.overlay.inputs.contains(input) {
            return Ok(Judged::Stored);
        }
        let invalid = |reason: String| Err(Refusal::Invalid { reason });
        if let Input::Sequence { producer, epoch, .. } = *input {
            let later = Input::Sequence { producer, epoch: u32::MAX, seq: u64::MAX };
            let newest = self.overlay.inputs.range(..=later).next_back();
            if let Some(Input::Sequence { producer: of, epoch: newest, .. }) = newest
                && *of == producer
                && *newest > epoch
            {
                return invalid(fenced(*newest));
            }
        }
        match self.views.inputs.find(input, self.now) {
            Known::New => Ok(Judged::New),
            Known::Stored => Ok(Judged::Stored),
            Known::Forgotten(floor) => invalid(format!(
                "the producer's messages below number {floor} are forgotten here: go on above, or begin a later 'producer-epoch'"
            )),
            Known::Fenced(epoch) => invalid(fenced(epoch)),
        }
    }

    /// Says in the frame of a message that it is known by a name.
    pub(super) fn note_input(&mut self, input: Input) {
        let kept_ms = match input {
            Input::Id(_) => self.options.dedup_window_ms,
            Input::Sequence { .. } => PRODUCER_KEPT_MS,
        };
        self.overlay.inputs.insert(input);
        let (now, until) = (self.now, self.now.plus(kept_ms));
        self.pending().building.control(&Control::InputNoted { input, until }, now);
    }

    pub(super) fn refuse_publish(
        &self,
        to: ConnectionId,
        publish: &Publish,
        refusal: Refusal,
        out: &mut impl Outbox,
    ) {
        if let Some(token) = publish.token {
            out.send(to, Event::Confirm { token, result: Err(refusal) });
        }
    }
}

fn fenced(epoch: u32) -> String {
    format!("the producer has begun epoch {epoch}: this one may not publish any more")
}
