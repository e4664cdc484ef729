//! Which connection of a session may publish at QoS 2 here, and release what was published: the latest one that has said so.
//!
//! A connection that has lost its session need not know: its process was stopped, or its requests are late, or the session's home has
//! another leader, who has never heard of it. What it has on its way is known as a copy only for as long as the number is not released.
//! So whoever resumes a session begins its tenure in every partition before it publishes or releases anything: a record, because the
//! next leader must know it too (ADR 0034).

use fluxmq_log::disk::Disk;

use super::Partition;
use super::request::{ConnectionId, Event, Outbox, Request};
use super::stage::{Overlay, Waiting};
use crate::model::record::Tenure;
use crate::model::{Control, Token};
use crate::planted::{PlantedBug, is_planted};

impl<D: Disk> Partition<D> {
    /// Takes what is asked about QoS 2 publishes that are open.
    pub(super) fn handle_exchange(
        &mut self,
        from: ConnectionId,
        request: Request,
        out: &mut impl Outbox,
    ) {
        match request {
            Request::ListOpenIds { publisher, incarnation } => {
                let open = self.views.dedup.open_ids(publisher, incarnation);
                out.send(from, Event::OpenIds(Ok(open)));
            }
            Request::BeginTenure { token, publisher, tenure } => {
                self.begin_tenure(from, token, (publisher, tenure), out);
            }
            Request::Release { token, publisher, incarnation, packet_ids, tenure } => {
                let released = Control::Released { publisher, incarnation, packet_ids };
                self.release(from, token, &released, tenure, out);
            }
            _ => unreachable!("only requests about exchanges come here"),
        }
    }

    /// Begins a connection's tenure: what earlier ones had on its way is in the log by then, or refused.
    fn begin_tenure(
        &mut self,
        from: ConnectionId,
        token: Token,
        (publisher, tenure): (u64, Tenure),
        out: &mut impl Outbox,
    ) {
        if self.is_superseded(publisher, tenure) {
            return out.send(from, Event::TakenOver);
        }
        self.overlay.tenure_begins(publisher, tenure);
        let waiting = Waiting::Written { to: from, token };
        self.write(&Control::TenureBegun { publisher, tenure }, Some(waiting));
    }

    /// Ends QoS 2 publishes, unless a later connection has taken them over: a number that it has given to another message is not free.
    fn release(
        &mut self,
        from: ConnectionId,
        token: Option<Token>,
        released: &Control,
        tenure: Tenure,
        out: &mut impl Outbox,
    ) {
        let Control::Released { publisher, .. } = released else { return };
        if self.is_superseded(*publisher, tenure) {
            return out.send(from, Event::TakenOver);
        }
        self.write(released, token.map(|token| Waiting::Written { to: from, token }));
    }

    /// Returns true for a connection of a session that a later one has got.
    pub(super) fn is_superseded(&self, publisher: u64, tenure: Tenure) -> bool {
        let known = self.views.dedup.tenure(publisher).max(self.overlay.tenure(publisher));
        known.is_some_and(|known| tenure < known) && !is_planted(PlantedBug::SupersededUnheard)
    }
}

impl Overlay {
    fn tenure_begins(&mut self, publisher: u64, tenure: Tenure) {
        self.tenures.insert(publisher, tenure);
    }

    /// It is in the views now. Another leader's was never in here.
    pub(super) fn tenure_applied(&mut self, publisher: u64, tenure: Tenure) {
        if self.tenure(publisher) == Some(tenure) {
            self.tenures.remove(&publisher);
        }
    }

    fn tenure(&self, publisher: u64) -> Option<Tenure> {
        self.tenures.get(&publisher).copied()
    }
}
