//! Leading: only the leader serves connections, from when its own first entry is applied until it hears of a newer term.
//!
//! What serving needs and the log does not hold (readers, groups, holders, the overlay) begins empty with every term and ends with
//! it: whoever waited is refused and may ask the next leader.

use std::collections::BTreeSet;

use fluxmq_log::disk::Disk;

use super::reader::Readers;
use super::request::{ConnectionId, ConsumerRequest, Event, Outbox, Request};
use super::stage::{Overlay, Waiting};
use super::{Partition, PartitionError};
use crate::model::record::DedupKey;
use crate::model::{Control, Millis, Refusal};
use crate::planted::{PlantedBug, is_planted};

impl<D: Disk> Partition<D> {
    /// Applies what was committed meanwhile, and begins or ends to serve as the role has become.
    pub(super) fn follow_up(&mut self, out: &mut impl Outbox) -> Result<(), PartitionError> {
        // A leader that was deposed must not answer: what its batches waited for may be replaced by another's.
        self.settle_role(out);
        self.begin_at_snapshot(out)?;
        self.apply_committed(out)?;
        self.drop_segments()?;
        self.settle_role(out);
        if self.leading.is_some() {
            self.go_on()?;
        }
        self.refresh(out)
    }

    /// Compares the role with what is being served.
    pub(super) fn settle_role(&mut self, out: &mut impl Outbox) {
        let leads = self.node.leads();
        if self.leading.is_some() && leads != self.leading {
            self.resign(out);
        }
        if self.leading.is_none() && leads.is_some() {
            self.leading = leads;
            self.led_from = self.applied.end;
            self.now = self.now.max(Millis(self.log().last_ts()));
            self.follows.begin(self.said_now());
            self.close_orphans();
            self.end_transient_queues();
            self.end_transient_exchanges();
        }
    }

    /// Writes what time has made necessary.
    pub(super) fn write_due(&mut self) {
        for control in self.views.due(self.now) {
            if !self.is_back(&control) {
                self.write(&control, None);
            }
        }
    }

    /// Returns true when what time would end is held, or about to be, by a connection that the views do not know yet.
    fn is_back(&self, control: &Control) -> bool {
        match control {
            Control::SessionRemoved { client_id, .. } => self.holders.is_held(client_id),
            Control::MemberLeft { selection, group, client_id, .. } => {
                let member = ((*selection, group.clone()), client_id.clone());
                self.overlay.joining.contains_key(&member)
            }
            _ => false,
        }
    }

    /// Why no connection is served here; `None` while this replica leads.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match (&self.stopped, self.leading) {
            (Some(refusal), _) => Some(refusal.clone()),
            (None, Some(_)) if self.node.transferee().is_none() => None,
            (None, _) => Some(self.not_leader()),
        }
    }

    /// Why a request is not taken; `None` when it is.
    pub(super) fn refusal_of(&self, from: ConnectionId, request: &Request) -> Option<Refusal> {
        let is_parted =
            self.parted.contains(&from) && (is_in_order(request) || is_holders(request));
        let is_handing_over = self.stopped.is_none() && self.leading.is_some();
        match self.refusal() {
            Some(_) if is_noted(request) => None,
            // Nobody says it twice, and handing over may come to nothing: what is served here would be held for ever.
            Some(_) if is_handing_over && !is_parted && lets_go(request) => None,
            None if is_parted => Some(self.not_leader()),
            refusal => refusal,
        }
    }

    /// After one publish of a connection is lost or refused here, none that is on its way is taken, also when this replica leads again
    /// by then: the client sends the first again, and its order would be another [MQTT-4.6.0-6]. Nor is what builds on a write of its
    /// session that was refused. The connection ends, and comes back.
    pub(super) fn part_with(
        &mut self,
        from: ConnectionId,
        request: &Request,
        refusal: Refusal,
        out: &mut impl Outbox,
    ) {
        let builds = is_in_order(request) || is_holders(request);
        let is_new = builds && self.stopped.is_none() && self.parted.insert(from);
        // One that may be a copy was answered so.
        let is_told = matches!(request, Request::Publish(publish) if publish.may_be_copy());
        if is_new && !is_told {
            out.send(from, Event::Resigned(refusal));
        }
    }

    fn not_leader(&self) -> Refusal {
        let leader = self.node.transferee().or(self.node.leader());
        let hint = leader.filter(|leader| *leader != self.node.id());
        Refusal::NotLeader { partition: self.id.0, hint: hint.map(|leader| leader.0) }
    }

    /// Ends serving: whoever waits is refused, and everybody who had something here is told that it is gone.
    pub(super) fn resign(&mut self, out: &mut impl Outbox) {
        let refusal = self.not_leader();
        self.leading = None;
        let mut connections = self.dismiss(&refusal, out);
        connections.extend(self.fresh.refuse(&refusal, out));
        self.overlay = Overlay::default();
        self.waits.clear();
        connections.extend(std::mem::take(&mut self.owners).connections());
        self.retention.resign();
        self.announcer.resign();
        let rejecters = self.letters.resign();
        connections.extend(self.follows.resign());
        let readers =
            std::mem::replace(&mut self.readers, Readers::new(self.id, &self.options.filters));
        let groups = std::mem::take(&mut self.groups);
        let holders = std::mem::take(&mut self.holders);
        connections.extend(rejecters);
        connections.extend(readers.connections());
        connections.extend(groups.connections());
        connections.extend(holders.connections());
        for connection in connections {
            self.parted.insert(connection);
            out.send(connection, Event::Resigned(refusal.clone()));
        }
    }

    /// Refuses whoever waits for what was not proposed, and returns who must hear that it is over here: who waits for what was, which
    /// another leader may commit yet, or for what may be a copy, can be told neither yes nor no; and what a publisher sent after one
    /// that is refused would overtake it.
    pub(super) fn dismiss(
        &mut self,
        refusal: &Refusal,
        out: &mut impl Outbox,
    ) -> BTreeSet<ConnectionId> {
        let mut over = BTreeSet::new();
        for waiting in self.building.take().into_iter().flat_map(|pending| pending.waiting) {
            let refusal = refusal.clone();
            match waiting {
                Waiting::Confirm { to, token, may_be_copy, .. } => {
                    over.insert(to);
                    if !may_be_copy {
                        out.send(to, Event::Confirm { token, result: Err(refusal) });
                    }
                }
                Waiting::Written { to, token } => {
                    out.send(to, Event::Written { token, result: Err(refusal) });
                }
                Waiting::Queue { to, token, .. } => {
                    out.send(to, Event::Queue { token, result: Err(refusal) });
                }
                Waiting::Opened { to, .. } => out.send(to, Event::SessionOpened(Err(refusal))),
                Waiting::Get { to, get } => {
                    out.send(to, Event::Got { token: get.token, result: Err(refusal) });
                }
                Waiting::Joined { to, join, .. } => {
                    out.send(to, Event::Joined { token: join.token, result: Err(refusal) });
                }
                Waiting::DeadLettered { to, token } => {
                    out.send(to, Event::Confirm { token, result: Err(refusal) });
                }
                // It is no member any more, and the queue may stand.
                Waiting::MembershipEnded { to, .. } => drop(over.insert(to)),
            }
        }
        let in_flight = self.in_flight.drain(..).flat_map(|in_flight| in_flight.waiting);
        if is_planted(PlantedBug::ConfirmOnResign) {
            for waiting in in_flight {
                if let Waiting::Confirm { to, token, .. } = waiting {
                    out.send(to, Event::Confirm { token, result: Ok(true) });
                }
            }
            return over;
        }
        over.extend(in_flight.map(|waiting| waiting.to()));
        over
    }
}

/// Returns true for what a client publishes; wills are alone, and announced again.
pub(super) fn is_in_order(request: &Request) -> bool {
    match request {
        Request::Publish(publish) => publish.dedup.seq & DedupKey::WILL == 0,
        Request::Transact(_) => true,
        _ => false,
    }
}

/// Returns true for what is noted whoever leads, and waits for nothing: who publishes wills and who carries letters. This replica may be
/// the next to lead, and what waits behind a question is lost when nobody answers it.
pub(super) fn is_noted(request: &Request) -> bool {
    matches!(request, Request::PublishWills | Request::CarryLetters)
}

/// Returns true for what gives something back, or tells of it, and begins nothing.
fn lets_go(request: &Request) -> bool {
    matches!(
        request,
        Request::CloseSession { .. }
            | Request::Forget
            | Request::Detach
            | Request::DetachFilter { .. }
            | Request::EndReplay { .. }
            | Request::Credit { .. }
            | Request::Hold { .. }
            | Request::Rewind(_)
            | Request::Settle { .. }
            | Request::Consumer(
                ConsumerRequest::Grant { .. }
                    | ConsumerRequest::Sent { .. }
                    | ConsumerRequest::Stop { .. }
            )
            | Request::ReadNoMore(_)
            | Request::Leave { .. }
            | Request::LeaveAll { .. }
            | Request::Write { token: None, .. }
            | Request::Release { token: None, .. }
    )
}

/// Returns true for what only the connection may write that has the session: what it wrote before may be lost, and this builds on it.
fn is_holders(request: &Request) -> bool {
    let Request::Write { control, .. } = request else { return false };
    matches!(
        **control,
        Control::SessionProgress(_) | Control::Subscribed { .. } | Control::Unsubscribed { .. }
    )
}
