//! Consumer groups: join, seek, hand out.

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::consumers::{Consumers, Handed};
use super::dead_letters::no_rules;
use super::gap::Gap;
use super::group::{Membership, Next};
use super::own::{read_for_itself, without_deaths};
use super::request::{Claimed, ConnectionId, Event, Join, Outbox, Position, Request};
use super::retire::{has_letter, is_expired};
use super::stage::Waiting;
use super::{Partition, PartitionError};
use crate::model::address::SubscribeAddress;
use crate::model::queue::QueueKind;
use crate::model::record::{filter_id, queue_id};
use crate::model::{
    Control, Death, DeliverySource, Filter, OutboundEntry, QoS, QueueName, QueueRefusal,
    QueueSettings, ReaderId, Refusal, Selection, Token, Topic,
};
use crate::planted::{PlantedBug, is_planted};
use crate::view::{Claim, Group, GroupKey};

/// Room for the letter of an expired entry is looked for again after so long.
const LETTER_LOOK_MS: u64 = 1_000;

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
            Request::Consumer(request) => self.handle_consumer(from, request, out),
            Request::Settle { membership, entries, outcome } => {
                for entry in (entries.start.0..entries.end.0).map(Offset) {
                    self.groups.settle(from, membership, entry, outcome, self.now);
                }
            }
            Request::SettleEntry { token, queue, group, entry, outcome } => {
                let key = (queue_id(queue.as_bytes()), group.as_bytes().clone());
                match self.check_owner(from, key.0) {
                    Ok(()) => self.settle_entry((from, token), &key, entry, outcome, out),
                    Err(refusal) => {
                        out.send(from, Event::Confirm { token, result: Err(refusal.into()) });
                    }
                }
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
        mut join: Box<Join>,
        queue: &QueueName,
        out: &mut impl Outbox,
    ) -> Result<(), Refusal> {
        let id = queue_id(queue.as_bytes());
        let kind = self.check_join(from, &join, queue)?;
        read_for_itself(&mut join, kind);
        self.declare(queue)?;
        self.groups.idle.remove(&id);
        let key = (id, join.group.as_bytes().clone());
        if self.overlay.ending_groups.contains(&key) {
            let reason = format!("group '{}' is being deleted: try again", join.group);
            return Err(Refusal::Invalid { reason });
        }
        // The groups of a queue that is on its way out are not those of the one that comes after it.
        let is_new = self.overlay.queues.contains_key(&id);
        let known = !is_new && self.views.groups.get(key.0, &key.1).is_some();
        let alone = self.groups.is_alone(&key, from, &join);
        let start = match is_new {
            true => None,
            false => self.locate(key.0, join.position).map_err(|error| {
                tracing::error!(partition = self.id.0, %error, "cannot find a position");
                Refusal::Unavailable { partition: self.id.0 }
            })?,
        };
        let (start, gap) = start.map_or((None, None), |(start, gap)| (Some(start), gap));
        self.consumer_comes(id);
        self.groups.announce(from, &join);
        let head = self.views.queues.get(key.0).filter(|_| !is_new).map(|queue| queue.head());
        let first = start.or(head).unwrap_or(Offset::ZERO);
        if join.own.is_some() {
            // Nothing of it is stored: it stands as soon as its queue does.
            join.position = Position::At(first);
            let waiting = Waiting::Joined { to: from, join, gap };
            match is_new {
                true => self.answer_with_next(waiting, out),
                false => self.answer(waiting, out),
            }
            return Ok(());
        }
        if !known && self.overlay.groups.insert(key.clone()) {
            let (queue, group) = key;
            let waiting = Waiting::Joined { to: from, join, gap };
            self.write(&Control::GroupCreated { queue, group, start: first }, Some(waiting));
        } else if let (true, Some(to)) = (alone, start) {
            // Nobody else reads with this group: it goes where its only member wants it.
            let (queue, group) = key;
            let waiting = Waiting::Joined { to: from, join, gap };
            self.write(&Control::CursorSet { queue, group, to }, Some(waiting));
        } else if known {
            self.answer(Waiting::Joined { to: from, join, gap: None }, out);
        } else {
            // Being created by somebody else's join: this one follows it.
            self.answer_with_next(Waiting::Joined { to: from, join, gap: None }, out);
        }
        Ok(())
    }

    /// Tells what kind of queue somebody wants to read, or why that may not be.
    fn check_join(
        &self,
        from: ConnectionId,
        join: &Join,
        queue: &QueueName,
    ) -> Result<QueueKind, Refusal> {
        let id = queue_id(queue.as_bytes());
        self.check_owner(from, id)?;
        if join.is_named && !self.is_known(queue.as_bytes())? {
            return Err(QueueRefusal::Missing { queue: queue.to_string() }.into());
        }
        let settings = self.queue(id).map(|(_, settings)| settings.clone()).unwrap_or_default();
        if join.qos == QoS::AtMostOnce && settings.kind == QueueKind::Classic {
            let reason =
                "a queue needs QoS 1 or 2: at QoS 0 nothing settles its entries".to_owned();
            return Err(Refusal::Invalid { reason });
        }
        if settings.exclusive && self.groups.is_read_by_others(id, from) {
            let reason = format!("queue '{queue}' is exclusive, and another connection reads it");
            return Err(Refusal::Invalid { reason });
        }
        if join.is_named && settings.kind == QueueKind::Stream && !join.credit.is_limited() {
            return Err(QueueRefusal::Stream { queue: queue.to_string() }.into());
        }
        if self.groups.is_in_exclusive_use(id, from, join) {
            return Err(QueueRefusal::ExclusiveUse { queue: queue.to_string() }.into());
        }
        Ok(settings.kind)
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
        self.write(&control, Some(Waiting::Joined { to: from, join, gap: None }));
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
        if let Some(left) = self.groups.leave(from, membership, self.now) {
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

    pub(super) fn enter_group(&mut self, to: ConnectionId, join: Join, gap: Option<Gap>) {
        let id = join.reads.id();
        let membership = join.membership;
        let own = match (&join.own, join.position) {
            (Some(_), Position::At(start)) => Some(Group::beginning_at(start)),
            _ => None,
        };
        let stored = own.as_ref().or(self.views.groups.get(id, join.group.as_bytes()));
        let settings = match join.reads {
            Selection::Queue(_) => self.views.queues.get(id).map(|queue| queue.settings().clone()),
            Selection::Topics(_) => Some(no_rules()),
        };
        let settings = settings.map(|settings| match &own {
            Some(_) => without_deaths(&settings),
            None => settings,
        });
        // Gone again when its only member left in the batch it came in.
        if let (Some(stored), Some(settings)) = (stored, settings) {
            self.groups.enter(to, join, (stored, settings), self.applied.end);
        }
        if let Some(gap) = gap {
            self.groups.begins_after(to, membership, gap);
        }
    }

    /// A member of a shared subscription is gone, for as long as its session allows or for good; or one of a queue.
    pub(super) fn left(&mut self, left: Membership, expiry_s: u32) {
        if !left.reads() {
            return;
        }
        let (selection, group) = left.key;
        let Some((client_id, _)) = left.client else { return self.consumer_left(selection) };
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
            reader: ReaderId::SESSION,
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

    fn commit_cursor(
        &mut self,
        from: ConnectionId,
        token: Token,
        (queue, group): (u64, &Bytes),
        to: Offset,
        out: &mut impl Outbox,
    ) {
        if let Err(refusal) = self.check_owner(from, queue) {
            return out.send(from, Event::Confirm { token, result: Err(refusal.into()) });
        }
        let view = self.views.queues.get(queue);
        let known = view.filter(|_| self.views.groups.get(queue, group).is_some());
        let Some((head, end)) = known.map(|queue| (queue.head(), queue.end())) else {
            let reason =
                "no such queue or consumer group: subscribe with the group first".to_owned();
            let result = Err(Refusal::Invalid { reason });
            return out.send(from, Event::Confirm { token, result });
        };
        let to = to.max(head).min(end);
        let control = Control::CursorSet { queue, group: group.clone(), to };
        let waiting = Waiting::Confirm { to: from, token, result: true, may_be_copy: false };
        self.write(&control, Some(waiting));
    }

    /// Hands out what a group has; false where something stays that nobody takes now.
    pub(super) fn hand_out(
        &mut self,
        next: &Next,
        out: &mut impl Outbox,
    ) -> Result<bool, PartitionError> {
        match &next.reads {
            Selection::Queue(_) => self.hand_out_queue(next, out),
            Selection::Topics(filter) => self.hand_out_topics(next, filter, out),
        }
    }

    /// Hands out what a queue has; false where an entry stays that nobody takes now.
    pub(super) fn hand_out_queue(
        &mut self,
        next: &Next,
        out: &mut impl Outbox,
    ) -> Result<bool, PartitionError> {
        if self.consumers(next).lanes.is_some() {
            return self.hand_out_by_priority(next, out);
        }
        let (id, _) = &next.key;
        let end = self.views.queues.get(*id).map_or(Offset::ZERO, |queue| queue.end());
        let fresh = (next.cursor.0..end.0).map(Offset).take(next.credit);
        let mut found = Found::default();
        for entry in next.returned.iter().copied().chain(fresh).take(next.credit) {
            let Some(queue) = self.views.queues.get(*id) else { return Ok(false) };
            let Some(group) = self.group(&next.key) else { return Ok(false) };
            let is_finished =
                group.is_finished(entry) && !is_planted(PlantedBug::FinishedHandedOut);
            let consumers = self.groups.get_mut(&next.key).expect("listed by the groups");
            let is_leaving = self.overlay.leaving.contains(&(*id, entry));
            if is_finished || is_leaving || consumers.is_held_back(entry) {
                consumers.step_over(entry, false);
                continue;
            }
            if queue.is_removed(entry) {
                // Before the group was: it does not know.
                consumers.step_over(entry, true);
                continue;
            }
            if let Some(offset) = queue.moved_to(entry) {
                // Its place says nothing about where the next one is.
                let hint = consumers.hint;
                let is_out = self.hand_out_one(next, entry, offset, out)?;
                self.consumers(next).hint = hint;
                if !is_out {
                    return Ok(false);
                }
                continue;
            }
            if found.place_of(entry).is_none() {
                let known = consumers.hint(entry).into_iter().chain(queue.mark_before(entry)).max();
                let Some((first, at)) = known else { return Ok(false) };
                let range = (at, self.applied.end);
                let count = (entry.0 - first.0) as usize + next.credit;
                let offsets = self.history.select_queue(self.node.log(), *id, range, count)?;
                found = Found { first, offsets };
            }
            let Some(offset) = found.place_of(entry) else { return Ok(false) };
            if !self.hand_out_one(next, entry, offset, out)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn hand_out_topics(
        &mut self,
        next: &Next,
        filter: &Filter,
        out: &mut impl Outbox,
    ) -> Result<bool, PartitionError> {
        let (id, name) = &next.key;
        let fresh = next.credit.saturating_sub(next.returned.len());
        let range = (next.cursor.max(self.history_start()), self.applied.end);
        let filters = std::slice::from_ref(filter);
        let found = match fresh {
            0 => None,
            _ => Some(self.history.select(self.node.log(), filters, range, fresh)?),
        };
        let offsets = found.iter().flat_map(|found| found.offsets.iter().copied());
        for offset in next.returned.iter().copied().take(next.credit).chain(offsets) {
            let Some(group) = self.views.groups.get(*id, name) else { return Ok(false) };
            let consumers = self.groups.get_mut(&next.key).expect("listed by the groups");
            if group.is_finished(offset) || consumers.is_claimed(offset) {
                consumers.step_over(offset, false);
            } else if !self.hand_out_one(next, offset, offset, out)? {
                return Ok(false);
            }
        }
        if let (Some(found), Some(consumers)) = (found, self.groups.get_mut(&next.key)) {
            consumers.looked_at(found.next);
        }
        Ok(true)
    }

    /// Hands out the entry whose record is at `offset`; false when nobody has credit for it.
    pub(super) fn hand_out_one(
        &mut self,
        next: &Next,
        entry: Offset,
        offset: Offset,
        out: &mut impl Outbox,
    ) -> Result<bool, PartitionError> {
        let message = self.history.fetch(self.node.log(), offset)?;
        let ages = &self.options.topic_ages;
        let is_history = matches!(next.reads, Selection::Topics(_));
        let message = message.filter(|it| !(is_history && ages.is_over(it, self.now)));
        let Some(message) = message else {
            self.consumers(next).step_over(entry, true);
            return Ok(true);
        };
        let (id, _) = &next.key;
        let settings = self.views.queues.get(*id).map(|queue| queue.settings().clone());
        if is_expired(settings.as_deref().unwrap_or(&QueueSettings::default()), &message, self.now)
        {
            let has_letter = settings.is_some_and(|it| has_letter(&it, Death::Expired));
            // A letter is written once for all groups: the entry leaves the queue.
            if has_letter && !self.bury((*id, None), entry, &message, Death::Expired) {
                // It stays until there is room for its letter, and holds up nobody.
                let again = self.now.plus(LETTER_LOOK_MS);
                self.consumers(next).delay(entry, again);
                return Ok(true);
            }
            self.consumers(next).step_over(entry, !has_letter);
            return Ok(true);
        }
        if let Some(until) = message.deliver_at.filter(|at| settings.is_some() && *at > self.now) {
            self.consumers(next).delay(entry, until);
            return Ok(true);
        }
        let delivery_count =
            self.views.groups.by_key(&next.key).map_or(0, |group| group.delivery_count(entry));
        let deliveries_max = settings.as_ref().map_or(0, |settings| settings.deliveries_max);
        if deliveries_max > 0 && delivery_count >= deliveries_max {
            self.consumers(next).give_up(entry, Death::Deliveries);
            return Ok(true);
        }
        let topic = match &next.reads {
            Selection::Queue(queue) => queue.topic_of(&message.topic),
            Selection::Topics(_) => Topic::from_stored(message.topic.clone()),
        };
        let is_old = match &next.reads {
            Selection::Queue(_) => self.was_there(&next.key, entry, offset),
            Selection::Topics(_) => false,
        };
        let stream = settings.as_ref().filter(|it| it.kind == QueueKind::Stream);
        let told = stream.map(|settings| self.told_of_work(*id, settings, entry));
        let handed = Handed {
            entry,
            offset,
            message: &message,
            topic: &topic,
            delivery_count,
            partition: self.id,
            now: self.now,
            deadline: self.now.plus(self.options.visibility_timeout_ms),
            is_old,
            told: told.as_deref(),
        };
        Ok(self.consumers(next).hand_out(handed, out))
    }

    /// Returns true for an entry that an earlier leader may have handed out to this group. What was out then nobody knows.
    fn was_there(&self, key: &GroupKey, entry: Offset, offset: Offset) -> bool {
        let queue = self.views.queues.get(key.0);
        let is_old =
            offset < self.led_from || queue.is_some_and(|queue| queue.moved_to(entry).is_some());
        is_old && !self.groups.is_new(key) && self.groups.own(key).is_none()
    }

    pub(super) fn consumers(&mut self, next: &Next) -> &mut Consumers {
        self.groups.get_mut(&next.key).expect("listed by the groups")
    }

    /// What every reader of a stream is told of an entry, where a group works through it.
    fn told_of_work(
        &self,
        id: u64,
        settings: &QueueSettings,
        entry: Offset,
    ) -> Vec<(&'static str, String)> {
        let Some(primary) = &settings.primary_group else { return Vec::new() };
        let group = self.views.groups.get(id, primary.as_bytes());
        let committed = group.map_or(Offset::ZERO, Group::committed);
        let is_acked = group.is_some_and(|group| group.is_finished(entry));
        vec![
            ("x-work-group", primary.to_string()),
            ("x-work-committed-offset", committed.to_string()),
            ("x-work-acked", is_acked.to_string()),
        ]
    }
}

/// Where entries of a queue are that follow one another.
#[derive(Default)]
struct Found {
    first: Offset,
    offsets: Vec<Offset>,
}

impl Found {
    fn place_of(&self, entry: Offset) -> Option<Offset> {
        self.offsets.get(entry.0.checked_sub(self.first.0)? as usize).copied()
    }
}
