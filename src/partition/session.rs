//! Sessions and their readers: open, close, attach.

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::history::HistoryError;
use super::reader::to_message_at;
use super::replay::annotations;
use super::request::{Attach, ConnectionId, Event, OpenedSession, Outbox};
use super::sessions::{Claim, Opening};
use super::stage::Waiting;
use super::{Options, Partition};
use crate::model::{Control, Delivery, OutboundEntry, Principal, Refusal};
use crate::view::Session;

impl<D: Disk> Partition<D> {
    /// Claims a session for a connection, displacing another of the same user. Somebody else's is not touched.
    pub(super) fn claim_session(
        &mut self,
        client_id: &Bytes,
        opening: Opening,
        out: &mut impl Outbox,
    ) {
        let stored = self.views.sessions.get(client_id);
        let owner = stored.as_ref().map(|session| &session.principal);
        let owners: Vec<&Principal> =
            owner.into_iter().chain(self.holders.principal(client_id)).collect();
        let principal = &opening.principal;
        let is_owner = owners.into_iter().all(|owner| principal.may_have_session_of(owner));
        let is_new = stored.is_none() && opening.expiry_s > 0;
        let is_full = self.views.sessions.count_of(principal) >= self.options.sessions_per_user_max;
        if !is_owner || (is_new && is_full) {
            let refusal = match is_owner {
                false => Refusal::NotOwner,
                true => Refusal::Quota { limit: "limits.sessions_per_user_max" },
            };
            return out.send(opening.connection, Event::SessionOpened(Err(refusal)));
        }
        match self.holders.claim(client_id, opening.clone()) {
            Claim::Granted => self.open_session(client_id, &opening, out),
            Claim::Displaces(holder) => out.send(holder, Event::TakenOver),
        }
    }

    pub(super) fn open_session(
        &mut self,
        client_id: &Bytes,
        opening: &Opening,
        out: &mut impl Outbox,
    ) {
        let client_id = client_id.clone();
        let session = self.views.sessions.get(&client_id);
        let stored = session.as_ref().map(|session| session.epoch);
        // One whose time is over is gone, also when no tick has said so yet [MQTT-3.1.2-23].
        let ends_at = session.as_ref().and_then(|session| session.ends_at());
        let clean = opening.clean_start || ends_at.is_some_and(|at| at <= self.now);
        // A session that ends here and now leaves the groups it shares.
        let left_groups = clean && session.as_ref().is_some_and(|session| session.has_shared());
        let resumes = stored.is_some() && !clean;
        self.settle_waiting_wills(&client_id, !clean);
        let mut controls = Vec::new();
        if opening.expiry_s > 0 || resumes {
            controls.push(Control::SessionOpened {
                client_id: client_id.clone(),
                clean,
                expiry_s: opening.expiry_s,
                principal: opening.principal.clone(),
            });
        }
        if let Some(will) = &opening.will {
            controls.push(Control::WillSet {
                client_id: client_id.clone(),
                will: will.clone(),
                principal: opening.principal.clone(),
            });
        }
        if let Some(epoch) = stored.filter(|_| opening.expiry_s == 0 && !resumes) {
            self.write(&Control::SessionRemoved { client_id: client_id.clone(), epoch }, None);
        }
        let Some(last) = controls.pop() else {
            let opened = OpenedSession { left_groups, ..OpenedSession::default() };
            out.send(opening.connection, Event::SessionOpened(Ok(Box::new(opened))));
            return self.session_is_open(&client_id, opening.connection, out);
        };
        controls.iter().for_each(|control| self.write(control, None));
        let waiting = Waiting::Opened { to: opening.connection, client_id, left_groups };
        self.write(&last, Some(waiting));
    }

    /// A connection has been told that the session is its own: another may wait for it already, or it is gone meanwhile.
    pub(super) fn session_is_open(
        &mut self,
        client_id: &Bytes,
        holder: ConnectionId,
        out: &mut impl Outbox,
    ) {
        if !self.holders.opened(client_id) {
            self.end_vanished(holder, client_id, out);
        } else if self.holders.is_contended(client_id) {
            out.send(holder, Event::TakenOver);
        }
    }

    fn end_vanished(&mut self, connection: ConnectionId, client_id: &Bytes, out: &mut impl Outbox) {
        let session = self.views.sessions.get(client_id);
        let expiry_s = session.map_or(0, |session| session.expiry_s);
        self.close_session(connection, client_id, (expiry_s, true), out);
    }

    pub(super) fn close_session(
        &mut self,
        from: ConnectionId,
        client_id: &Bytes,
        (expiry_s, will): (u32, bool),
        out: &mut impl Outbox,
    ) {
        let Some(released) = self.holders.release(client_id, from) else { return };
        if let Some(epoch) = released.will {
            self.end_will(client_id, epoch, expiry_s, will);
        }
        if let Some(epoch) = released.epoch {
            let client_id = client_id.clone();
            self.write(&Control::SessionClosed { client_id, epoch, expiry_s }, None);
        }
        if let Some(next) = released.next {
            self.open_session(client_id, &next, out);
        }
    }

    /// Takes everything from a connection that is gone without having let go: its task failed.
    pub(super) fn forget(&mut self, connection: ConnectionId, out: &mut impl Outbox) {
        self.readers.close(connection, self.applied.end);
        for left in self.groups.forget(connection, self.now) {
            let expiry_s = left.client.as_ref().map_or(0, |(_, expiry_s)| *expiry_s);
            self.left(left, expiry_s);
        }
        self.end_queues_of(connection);
        self.announcer.forget(connection);
        self.letters.forget(connection);
        self.follows.forget(connection, self.said_now());
        if let Some(client_id) = self.holders.held_by(connection)
            && !self.holders.vanishes_opening(&client_id, connection)
        {
            self.end_vanished(connection, &client_id, out);
        }
    }

    /// Ends the connections that the log still believes in: this process has none yet.
    pub(super) fn close_orphans(&mut self) {
        let close = |(client_id, session): (&Bytes, &Session)| Control::SessionClosed {
            client_id: client_id.clone(),
            epoch: session.epoch,
            expiry_s: session.expiry_s,
        };
        let sessions = self.views.sessions.open().map(close);
        let groups = self.views.groups.iter();
        let members = groups.flat_map(|((selection, group), of)| {
            let present = of.members().iter().filter(|(_, member)| member.left_at.is_none());
            present.map(|(client_id, member)| Control::MemberLeft {
                selection: *selection,
                group: group.clone(),
                client_id: client_id.clone(),
                expiry_s: member.expiry_s,
            })
        });
        let orphans: Vec<Control> = sessions.chain(members).collect();
        orphans.iter().for_each(|control| self.write(control, None));
        self.end_orphaned_wills();
    }

    /// Adds a reader, or subscriptions to it, that begin `at`: what is retained there comes first, what is passed on from there the
    /// connection has.
    pub(super) fn attach(
        &mut self,
        from: ConnectionId,
        attach: Attach,
        at: Offset,
        out: &mut impl Outbox,
    ) {
        if attach.reader.is_replay() {
            return self.attach_replay(from, attach, out);
        }
        let end = self.applied.end;
        let (reader, token) = (attach.reader, attach.token);
        let cut = match self.backlog_start(&attach) {
            Ok(cut) => cut,
            Err(error) => {
                tracing::error!(partition = self.id.0, %error, "cannot find a backlog");
                let start = Err(Refusal::Unavailable { partition: self.id.0 });
                return out.send(from, Event::Attached { reader, token, start, cut: None });
            }
        };
        let slot = self.readers.open((from, attach.reader), attach.publisher, attach.credit);
        let cursor = attach.cursor.max(cut).unwrap_or(Offset::ZERO);
        for ((subscription, start), retained) in
            attach.subscriptions.into_iter().zip(attach.retained)
        {
            let filter = subscription.filter.clone();
            let start = start.map_or(at, |start| start.max(cursor));
            let id = self.readers.subscribe(slot, subscription, start, end);
            if retained {
                let mut found = self.views.retained.matching(&filter, self.now);
                // What came behind the subscription comes for it.
                found.retain(|(published, _)| *published < at);
                let stored = found.into_iter().map(|(_, stored)| stored).collect();
                self.readers.queue_retained(slot, id, stored);
            }
        }
        if let Some(listening) = self.readers.listening_mut(slot) {
            listening.begin(at, attach.keeps_place);
        }
        if !attach.outbound.is_empty() {
            self.readers.resume(slot, cursor, &attach.outbound);
        }
        out.send(from, Event::Attached { reader, token, start: Ok(at), cut });
    }

    /// Ends the readers of a connection and says how far each was.
    pub(super) fn detach(&mut self, from: ConnectionId, out: &mut impl Outbox) {
        let mut replayed = self.readers.close(from, self.applied.end);
        let plain = replayed.extract_if(.., |(reader, _)| !reader.is_replay()).next();
        // The reader of an earlier term is gone with it: how far it was nobody knows here.
        let next = plain.map_or(Offset::ZERO, |(_, next)| next);
        out.send(from, Event::Detached { next, replayed });
    }

    /// Finds where the backlog of a session that comes back begins, if it has missed more than it may: the oldest are given up.
    fn backlog_start(&mut self, attach: &Attach) -> Result<Option<Offset>, HistoryError> {
        let Some(cursor) = attach.cursor else { return Ok(None) };
        let Options { backlog_max, backlog_bytes_max, backlog_age_max_ms, .. } = self.options;
        let end = self.applied.end;
        // What history does not have any more is not limited further: it is gone.
        let kept = cursor.max(self.history_start());
        self.counters.histories_cut += u64::from(kept > cursor);
        let mut start = kept;
        if backlog_age_max_ms > 0 {
            let oldest = self.now.0.saturating_sub(backlog_age_max_ms);
            start = start.max(self.node.log().offset_at_time(oldest)?.min(end));
        }
        let filters = attach.subscriptions.iter();
        let filters: Vec<_> = filters.map(|(it, _)| it.filter.clone()).collect();
        let log = self.node.log();
        if backlog_max > 0 && end.0 - start.0.min(end.0) > backlog_max as u64 {
            let newest = self.history.newest(log, &filters, (start, end), backlog_max)?;
            start = start.max(newest.unwrap_or(start));
        }
        if backlog_bytes_max > 0 && start < end {
            let range = (start, end);
            let newest = self.history.newest_bytes(log, &filters, range, backlog_bytes_max)?;
            start = start.max(newest.unwrap_or(start));
        }
        self.counters.backlogs_cut += u64::from(start > kept);
        Ok(Some(start).filter(|start| *start > cursor))
    }

    pub(super) fn fetch_outbound(
        &mut self,
        entry: OutboundEntry,
    ) -> Result<(OutboundEntry, Option<Delivery>), Refusal> {
        let stored = self.history.fetch(self.node.log(), entry.offset).map_err(|error| {
            let (partition, offset) = (self.id.0, entry.offset.0);
            tracing::error!(partition, offset, %error, "cannot read a record");
            Refusal::Unavailable { partition }
        })?;
        let delivery =
            stored.filter(|message| !message.is_expired(self.now)).map(|message| Delivery {
                id: entry.delivery(),
                message: to_message_at(&message, self.now),
                qos: entry.qos,
                retain: entry.retain,
                redelivered: true,
                subscription_ids: Vec::new(),
                annotations: annotations(entry.delivery(), message.time),
                settle_explicit: false,
            });
        Ok((entry, delivery))
    }
}
