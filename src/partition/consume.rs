//! Consumer groups: join, seek, hand out.

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::group::{Handed, Membership, Next};
use super::history::HistoryError;
use super::request::{Claimed, ConnectionId, Event, Join, Outbox, Position, Request};
use super::stage::Waiting;
use super::{Partition, PartitionError};
use crate::model::address::SubscribeAddress;
use crate::model::record::{filter_id, queue_id};
use crate::model::{
    Control, DeliverySource, Filter, OutboundEntry, QoS, QueueName, Refusal, Selection, Token,
};
use crate::view::{Claim, Group, GroupKey};

impl<D: Disk> Partition<D> {
    /// Takes a request to a consumer group.
    pub(super) fn handle_group(
        &mut self,
        from: ConnectionId,
        request: Request,
        out: &mut impl Outbox,
    ) {
        match request {
            Request::Join(join) => self.join(from, join, out),
            Request::ListClaimed { client_id, filters } => {
                let claimed = self.list_claimed(&client_id, filters);
                out.send(from, Event::Claimed(claimed));
            }
            Request::Leave { membership, expiry_s, token } => {
                self.leave(from, membership, expiry_s, token, out);
            }
            Request::LeaveAll { client_id } => self.leave_all(&client_id),
            Request::Claim { membership, sent, received, token } => {
                let control = self.groups.claim(from, membership, sent, received);
                self.claim(from, token, control, out);
            }
            Request::Settle { membership, entry, outcome } => {
                self.groups.settle(from, membership, entry, outcome);
            }
            Request::SettleEntry { token, queue, group, entry, outcome } => {
                let key = (queue_id(queue.as_bytes()), group.as_bytes().clone());
                let pending = self.groups.settle_entry(&key, entry, outcome);
                self.confirm_with_next(from, token, pending, out);
            }
            Request::CommitCursor { token, queue, group, to } => {
                self.commit_cursor(
                    from,
                    token,
                    (queue_id(queue.as_bytes()), group.as_bytes()),
                    to,
                    out,
                );
            }
            _ => unreachable!("only requests to groups come here"),
        }
    }

    fn join(&mut self, from: ConnectionId, join: Box<Join>, out: &mut impl Outbox) {
        let token = join.token;
        let joined = match join.reads.clone() {
            Selection::Queue(queue) => self.join_queue(from, join, &queue, out),
            Selection::Topics(filter) => self.join_topics(from, join, &filter),
        };
        if let Err(refusal) = joined {
            out.send(from, Event::Joined { token, result: Err(refusal) });
        }
    }

    fn join_queue(
        &mut self,
        from: ConnectionId,
        join: Box<Join>,
        queue: &QueueName,
        out: &mut impl Outbox,
    ) -> Result<(), Refusal> {
        self.declare(queue.as_bytes())?;
        let key = (queue_id(queue.as_bytes()), join.group.as_bytes().clone());
        let known = self.views.groups.get(key.0, &key.1).is_some();
        let alone = self.groups.others(&key, from) == 0;
        let start = self.locate(key.0, join.position).map_err(|error| {
            tracing::error!(partition = self.id.0, %error, "cannot find a position");
            Refusal::Unavailable { partition: self.id.0 }
        })?;
        self.groups.announce(from, &join);
        let waiting = Waiting::Joined { to: from, join };
        if !known && self.overlay.groups.insert(key.clone()) {
            let start = start.unwrap_or(Offset::ZERO);
            let (queue, group) = key;
            self.write(&Control::GroupCreated { queue, group, start }, Some(waiting));
        } else if let (true, Some(to)) = (alone, start) {
            // Nobody else reads with this group: it goes where its only member wants it.
            let (queue, group) = key;
            self.write(&Control::CursorSet { queue, group, to }, Some(waiting));
        } else if known {
            self.answer(waiting, out);
        } else {
            // Being created by somebody else's join: this one follows it.
            match (&mut self.building, self.in_flight.back_mut()) {
                (Some(pending), _) => pending.waiting.push(waiting),
                (None, Some(in_flight)) => in_flight.waiting.push(waiting),
                (None, None) => self.answer(waiting, out),
            }
        }
        Ok(())
    }

    /// Makes a session a member of a shared subscription, and with its first member the subscription.
    fn join_topics(
        &mut self,
        from: ConnectionId,
        join: Box<Join>,
        filter: &Filter,
    ) -> Result<(), Refusal> {
        let key = (filter_id(filter), join.group.as_bytes().clone());
        let known = self.views.groups.get(key.0, &key.1).and_then(Group::filter);
        if known.or(self.overlay.joining_filter(&key)).is_some_and(|known| known != filter) {
            // Ids are hashes, as those of queues are: a group must not read what another one's filter selects (ADR 0004).
            let reason = format!("'{filter}' has the same id as another shared filter: change it");
            return Err(Refusal::Invalid { reason });
        }
        self.groups.announce(from, &join);
        self.overlay.joining.insert((key, join.client_id.clone()), filter.clone());
        let control = Control::MemberJoined {
            filter: filter.clone(),
            group: join.group.as_bytes().clone(),
            client_id: join.client_id.clone(),
            expiry_s: join.expiry_s,
        };
        self.write(&control, Some(Waiting::Joined { to: from, join }));
        Ok(())
    }

    fn leave(
        &mut self,
        from: ConnectionId,
        membership: u32,
        expiry_s: u32,
        token: Option<Token>,
        out: &mut impl Outbox,
    ) {
        if let Some(left) = self.groups.leave(from, membership) {
            self.left(left, expiry_s);
        }
        // Whoever joins after this answer joins after the record.
        if let Some(token) = token {
            out.send(from, Event::Written { token, result: Ok(()) });
        }
    }

    fn claim(
        &mut self,
        from: ConnectionId,
        token: Token,
        control: Option<Control>,
        out: &mut impl Outbox,
    ) {
        match control {
            Some(control) => self.write(&control, Some(Waiting::Written { to: from, token })),
            None => out.send(from, Event::Written { token, result: Ok(()) }),
        }
    }

    pub(super) fn enter_group(&mut self, to: ConnectionId, join: Join) {
        let stored = self.views.groups.get(join.reads.id(), join.group.as_bytes());
        // Gone again when its only member left in the batch it came in.
        if let Some(stored) = stored {
            self.groups.enter(to, join, stored, self.applied.end);
        }
    }

    /// A member of a shared subscription is gone, for as long as its session allows or for good.
    pub(super) fn left(&mut self, left: Membership, expiry_s: u32) {
        let ((selection, group), Some((client_id, _))) = (left.key, left.client) else { return };
        self.write(&Control::MemberLeft { selection, group, client_id, expiry_s }, None);
    }

    /// Ends a session's shared subscriptions here, all of them.
    fn leave_all(&mut self, client_id: &Bytes) {
        let groups = self.views.groups.iter();
        let mine = groups.filter(|(_, group)| group.members().contains_key(client_id));
        for (selection, group) in mine.map(|(key, _)| key.clone()).collect::<Vec<GroupKey>>() {
            let client_id = client_id.clone();
            self.write(&Control::MemberLeft { selection, group, client_id, expiry_s: 0 }, None);
        }
    }

    /// Lists what shared subscriptions have begun to send to a session, each group's in its order.
    fn list_claimed(
        &mut self,
        client_id: &Bytes,
        filters: Vec<Filter>,
    ) -> Result<Vec<Claimed>, Refusal> {
        let mut claimed = Vec::new();
        for filter in filters {
            let address = SubscribeAddress::of(&filter)?;
            let SubscribeAddress::Shared { group, filter: selection } = address else { continue };
            let group = self.views.groups.get(filter_id(&selection), group.as_bytes());
            let claims = group.into_iter().flat_map(Group::claimed);
            let mine = claims.filter(|(_, claim)| claim.client_id == *client_id);
            let mine: Vec<_> = mine.map(|(entry, claim)| (*entry, claim.clone())).collect();
            for (entry, claim) in mine {
                claimed.push(self.fetch_claimed(filter.clone(), entry, &claim)?);
            }
        }
        Ok(claimed)
    }

    fn fetch_claimed(
        &mut self,
        filter: Filter,
        entry: Offset,
        claim: &Claim,
    ) -> Result<Claimed, Refusal> {
        let Claim { packet_id, received, .. } = *claim;
        let outbound = OutboundEntry {
            packet_id,
            partition: self.id,
            offset: entry,
            qos: QoS::ExactlyOnce,
            retain: false,
            received,
        };
        let (_, mut delivery) = self.fetch_outbound(outbound)?;
        if let Some(delivery) = &mut delivery {
            // The membership is not known here: the connection that asks fills it in.
            delivery.id.source = DeliverySource::Group(0);
        }
        Ok(Claimed { filter, packet_id, entry, delivery: delivery.filter(|_| !received) })
    }

    /// Finds the queue offset that a position means; `None` is wherever the group is.
    pub(super) fn locate(
        &mut self,
        queue: u64,
        position: Position,
    ) -> Result<Option<Offset>, HistoryError> {
        let end = self.views.queues.get(queue).map_or(Offset::ZERO, |queue| queue.end());
        Ok(match position {
            Position::Resume => None,
            Position::Earliest => Some(Offset::ZERO),
            Position::Latest => Some(end),
            Position::At(offset) => Some(offset.min(end)),
            Position::Last(count) => Some(Offset(end.0.saturating_sub(count))),
            Position::Time(time) => {
                let at = self.node.log().offset_at_time(time.0)?;
                Some(self.entry_at(queue, at, end)?)
            }
        })
    }

    /// Finds the first entry of a queue at or after a partition offset.
    pub(super) fn entry_at(
        &mut self,
        queue: u64,
        at: Offset,
        end: Offset,
    ) -> Result<Offset, HistoryError> {
        let Some(view) = self.views.queues.get(queue) else { return Ok(end) };
        let (mut low, mut high) = (0, end.0);
        while low < high {
            let middle = u64::midpoint(low, high);
            let Some((mark, offset)) = view.mark_before(Offset(middle)) else { break };
            if offset < at { low = middle + 1 } else { high = mark.0 }
        }
        let Some((mark, offset)) = view.mark_before(Offset(low.saturating_sub(1))) else {
            return Ok(end);
        };
        let range = (offset, self.applied.end);
        let entries = self.history.select_queue(self.node.log(), queue, range, 256)?;
        let before = entries.partition_point(|offset| *offset < at);
        Ok(mark.plus(before as u64).min(end))
    }

    fn commit_cursor(
        &mut self,
        from: ConnectionId,
        token: Token,
        (queue, group): (u64, &Bytes),
        to: Offset,
        out: &mut impl Outbox,
    ) {
        let view = self.views.queues.get(queue);
        let known = view.filter(|_| self.views.groups.get(queue, group).is_some());
        let Some(end) = known.map(|queue| queue.end()) else {
            let reason =
                "no such queue or consumer group: subscribe with the group first".to_owned();
            let result = Err(Refusal::Invalid { reason });
            return out.send(from, Event::Confirm { token, result });
        };
        let control = Control::CursorSet { queue, group: group.clone(), to: to.min(end) };
        self.write(&control, Some(Waiting::Confirm { to: from, token, result: true }));
    }

    pub(super) fn hand_out(
        &mut self,
        next: &Next,
        out: &mut impl Outbox,
    ) -> Result<(), PartitionError> {
        match &next.reads {
            Selection::Queue(_) => self.hand_out_queue(next, out),
            Selection::Topics(filter) => self.hand_out_topics(next, filter, out),
        }
    }

    fn hand_out_queue(&mut self, next: &Next, out: &mut impl Outbox) -> Result<(), PartitionError> {
        let (id, name) = &next.key;
        let end = self.views.queues.get(*id).map_or(Offset::ZERO, |queue| queue.end());
        let fresh = (next.cursor.0..end.0).map(Offset).take(next.credit);
        let mut found: BTreeMap<Offset, Offset> = BTreeMap::new();
        for entry in next.returned.iter().copied().chain(fresh).take(next.credit) {
            let Some(queue) = self.views.queues.get(*id) else { break };
            let Some(group) = self.views.groups.get(*id, name) else { break };
            let consumers = self.groups.get_mut(&next.key).expect("listed by the groups");
            if group.is_finished(entry) {
                consumers.step_over(entry, false);
                continue;
            }
            let known = consumers.hint(entry).into_iter().chain(queue.mark_before(entry)).max();
            let Some((known, at)) = known else { break };
            if !found.contains_key(&entry) {
                let range = (at, self.applied.end);
                let count = (entry.0 - known.0) as usize + next.credit;
                let offsets = self.history.select_queue(self.node.log(), *id, range, count)?;
                found.extend(
                    offsets.into_iter().enumerate().map(|(step, at)| (known.plus(step as u64), at)),
                );
            }
            let Some(offset) = found.get(&entry).copied() else { break };
            if !self.hand_out_one(next, entry, offset, out)? {
                break;
            }
        }
        Ok(())
    }

    fn hand_out_topics(
        &mut self,
        next: &Next,
        filter: &Filter,
        out: &mut impl Outbox,
    ) -> Result<(), PartitionError> {
        let (id, name) = &next.key;
        let fresh = next.credit.saturating_sub(next.returned.len());
        let range = (next.cursor, self.applied.end);
        let filters = std::slice::from_ref(filter);
        let found = match fresh {
            0 => None,
            _ => Some(self.history.select(self.node.log(), filters, range, fresh)?),
        };
        let offsets = found.iter().flat_map(|found| found.offsets.iter().copied());
        for offset in next.returned.iter().copied().take(next.credit).chain(offsets) {
            let Some(group) = self.views.groups.get(*id, name) else { return Ok(()) };
            let consumers = self.groups.get_mut(&next.key).expect("listed by the groups");
            if group.is_finished(offset) || consumers.is_claimed(offset) {
                consumers.step_over(offset, false);
            } else if !self.hand_out_one(next, offset, offset, out)? {
                return Ok(());
            }
        }
        if let (Some(found), Some(consumers)) = (found, self.groups.get_mut(&next.key)) {
            consumers.looked_at(found.next);
        }
        Ok(())
    }

    /// Hands out the entry whose record is at `offset`; false when nobody has credit for it.
    fn hand_out_one(
        &mut self,
        next: &Next,
        entry: Offset,
        offset: Offset,
        out: &mut impl Outbox,
    ) -> Result<bool, PartitionError> {
        let message = self.history.fetch(self.node.log(), offset)?;
        let group = self.views.groups.get(next.key.0, &next.key.1);
        let consumers = self.groups.get_mut(&next.key).expect("listed by the groups");
        let Some(message) = message.filter(|message| !message.is_expired(self.now)) else {
            consumers.step_over(entry, true);
            return Ok(true);
        };
        let handed = Handed {
            entry,
            offset,
            message: &message,
            delivery_count: group.map_or(0, |group| group.delivery_count(entry)),
            partition: self.id,
            now: self.now,
            deadline: self.now.plus(self.options.visibility_timeout_ms),
        };
        Ok(consumers.hand_out(handed, out))
    }
}
