//! The consumer groups that this connection is a member of: joined, left, and what they store before a QoS 2 delivery goes out.

use std::collections::BTreeMap;

use fluxmq_index::Offset;

use super::subscribe::Subscribed;
use super::{Client, Phase, Waiting};
use crate::auth::Reach;
use crate::model::address::SubscribeAddress;
use crate::model::consume::CONSUMERS_END;
use crate::model::effect::Outbound as Resend;
use crate::model::{
    Credit, Delivery, DeliveryId, DeliverySource, Effect, Filter, Outcome, PartitionId, QoS,
    QueueName, Refusal, Selection, Subscription, Token,
};
use crate::partition::request::{Claimed, Join, OpenedSession, Position, Request};
use crate::planted::{PlantedBug, is_planted};

/// One membership, in every partition that may hold a match.
#[derive(Debug)]
pub(super) struct Membership {
    partitions: Vec<PartitionId>,
    /// Over a topic filter, not a queue.
    is_shared: bool,
}

impl Membership {
    /// A membership of a group of one queue.
    pub(super) fn of_queue(partition: PartitionId) -> Membership {
        Membership { partitions: vec![partition], is_shared: false }
    }
}

/// What this connection shares with others.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// QoS 2 deliveries of shared subscriptions, by packet id.
    claims: BTreeMap<u16, DeliveryId>,
    /// Memberships of a resumed session that do not stand yet.
    rejoining: usize,
    /// What is to be said to them once they do.
    held: Vec<(PartitionId, Request)>,
}

impl Client {
    /// Makes the membership that a filter of this connection stands for, or returns the one that does.
    pub(super) fn new_membership(
        &mut self,
        filter: &Filter,
        reads: &Selection,
    ) -> (u32, Vec<PartitionId>) {
        let (partitions, is_shared) = match reads {
            Selection::Queue(name) => (vec![self.placement.queue(name)], false),
            Selection::Topics(filter) => (self.placement.filter(filter), true),
        };
        let membership = match self.subscriptions.get(filter) {
            Some(Subscribed::Group(membership)) => *membership,
            _ => {
                let new = self.new_number();
                self.subscriptions.insert(filter.clone(), Subscribed::Group(new));
                new
            }
        };
        // Again a member, where rules made it leave.
        let joined = Membership { partitions: partitions.clone(), is_shared };
        self.memberships.entry(membership).or_insert(joined);
        (membership, partitions)
    }

    /// A number for a membership that the broker names; above those of protocols. They begin again when all were used.
    pub(super) fn new_number(&mut self) -> u32 {
        loop {
            let number = self.next_membership.checked_add(1).unwrap_or(CONSUMERS_END);
            self.next_membership = number;
            if !self.memberships.contains_key(&number) {
                return number;
            }
        }
    }

    pub(super) fn new_join(
        &self,
        membership: u32,
        (reads, group, filter): (Selection, QueueName, Filter),
        subscription: &Subscription,
    ) -> Join {
        // What one member of a shared subscription has in hand nobody else can do meanwhile.
        let credit = match &reads {
            Selection::Queue(_) => self.limits.credit,
            Selection::Topics(_) => {
                self.limits.credit.min(2 * u32::from(self.identity.inflight_max)).max(1)
            }
        };
        // Packet ids of a queue's entries are not stored. A client that came back holding one at QoS 2 would take the next entry under
        // that number for a copy, and the entry would be settled unseen [MQTT-4.3.3-10].
        let qos = match &reads {
            Selection::Queue(_) if self.identity.stored => subscription.qos.min(QoS::AtLeastOnce),
            Selection::Queue(_) | Selection::Topics(_) => subscription.qos,
        };
        Join {
            membership,
            reads,
            group,
            own: None,
            filter,
            position: Position::Resume,
            client_id: self.identity.client_id.clone(),
            expiry_s: self.identity.expiry_s,
            qos,
            retain_as_published: subscription.retain_as_published,
            subscription_id: subscription.subscription_id,
            settle_explicit: subscription.settle_explicit,
            credit: Credit::Window(credit),
            is_named: false,
            is_exclusive: false,
            token: Token(0),
        }
    }

    /// Joins the group of a resumed session's subscription again.
    pub(super) fn rejoin(&mut self, subscription: &Subscription) {
        let Some(address) = self.group_address(subscription) else { return };
        let (membership, partitions) = self.new_membership(&subscription.filter, &address.0);
        let is_allowed = self.standing.access.reach(address.2.as_str()) == Reach::All;
        let join = self.new_join(membership, address, subscription);
        for partition in partitions {
            let token = self.wait_for(Waiting::Rejoined);
            self.groups.rejoining += 1;
            self.request(partition, Request::Join(Box::new(Join { token, ..join.clone() })));
        }
        if !is_allowed {
            // It joins to leave: what its session held goes to the others.
            self.end_membership(membership);
        }
    }

    fn group_address(&self, subscription: &Subscription) -> Option<(Selection, QueueName, Filter)> {
        match SubscribeAddress::of(&subscription.filter).ok()? {
            SubscribeAddress::Queue { name, filter, group } => {
                let asked = subscription.group.clone();
                let group = group.or_else(|| QueueName::new(asked?).ok());
                Some((Selection::Queue(name), group.or_else(|| self.own_group())?, filter))
            }
            SubscribeAddress::Shared { group, filter } => {
                Some((Selection::Topics(filter.clone()), group, filter))
            }
            SubscribeAddress::Filter(_) | SubscribeAddress::Replay { .. } => None,
        }
    }

    /// A membership of a resumed session stands.
    pub(super) fn rejoined(&mut self) {
        self.groups.rejoining -= 1;
        if self.groups.rejoining == 0 {
            self.requests.extend(self.groups.held.drain(..));
        }
    }

    /// Asks a group for something: what an earlier connection left begun is the session's again only once it is a member.
    pub(super) fn group_request(&mut self, to: PartitionId, request: Request) {
        match self.groups.rejoining {
            0 => self.request(to, request),
            _ => self.groups.held.push((to, request)),
        }
    }

    /// Tells a group what became of an entry; of neighbours it is told in one request.
    pub(super) fn settle_entry(&mut self, delivery: DeliveryId, membership: u32, outcome: Outcome) {
        let DeliveryId { partition, offset, .. } = delivery;
        if self.groups.rejoining == 0
            && let Some((to, Request::Settle { membership: of, entries, outcome: before })) =
                self.requests.back_mut()
            && (*to, *of, *before, entries.end) == (partition, membership, outcome, offset)
        {
            entries.end = offset.next();
            return;
        }
        let entries = offset..offset.next();
        self.group_request(partition, Request::Settle { membership, entries, outcome });
    }

    /// Ends a membership for good.
    pub(super) fn end_membership(&mut self, membership: u32) {
        let left = self.memberships.remove(&membership);
        for partition in left.into_iter().flat_map(|left| left.partitions) {
            let request = Request::Leave { membership, expiry_s: 0, token: None };
            self.request(partition, request);
        }
    }

    /// Leaves every group, as a connection that ends does; returns how many answers come from where, if they are waited for.
    pub(super) fn leave_groups(&mut self, wait: bool) -> BTreeMap<PartitionId, usize> {
        let expiry_s = self.identity.expiry_s;
        let mut due = BTreeMap::new();
        for (membership, left) in std::mem::take(&mut self.memberships) {
            for partition in left.partitions {
                let token = wait.then(|| self.wait_for(Waiting::Left(partition)));
                if wait {
                    *due.entry(partition).or_insert(0) += 1;
                }
                self.request(partition, Request::Leave { membership, expiry_s, token });
            }
        }
        due
    }

    /// Says under which packet ids deliveries go out: the session's to its home, a shared subscription's to its group.
    pub(super) fn assign(&mut self, token: Option<Token>, entries: Vec<(u16, DeliveryId)>) {
        let mut mine = Vec::with_capacity(entries.len());
        let mut claims: BTreeMap<(PartitionId, u32), Vec<(u16, Offset)>> = BTreeMap::new();
        for (packet_id, id) in entries {
            // The number may have stood for another delivery, which is over.
            self.groups.claims.remove(&packet_id);
            match id.source {
                DeliverySource::Group(membership) if self.is_shared(membership) => {
                    self.groups.claims.insert(packet_id, id);
                    let claims = claims.entry((id.partition, membership)).or_default();
                    claims.push((packet_id, id.offset));
                }
                DeliverySource::Group(_) | DeliverySource::Live => {}
                DeliverySource::Reader(_) | DeliverySource::Retained(..) => {
                    mine.push((packet_id, id))
                }
            }
        }
        self.outbound.assign(&mine);
        let Some(token) = token else { return };
        let effect = Effect::Assigned { token };
        if is_planted(PlantedBug::AssignedUnstored) {
            return self.effects.push_back(effect);
        }
        if claims.is_empty() {
            return self.outbound.answer_with(effect);
        }
        let whole = self.own_token();
        let (missing, with_session) = (claims.len(), !mine.is_empty());
        self.waiting.insert(whole, Waiting::Claiming { missing, effect, with_session });
        for ((partition, membership), sent) in claims {
            let token = self.wait_for(Waiting::ClaimOf(whole));
            let request = Request::Claim { membership, sent, received: Vec::new(), token };
            self.group_request(partition, request);
        }
    }

    /// PUBREC has come.
    pub(super) fn received(&mut self, packet_id: u16) {
        let effect = Effect::ReceivedStored { packet_id };
        let claim = self.groups.claims.get(&packet_id).copied();
        let Some(DeliveryId { source: DeliverySource::Group(membership), partition, offset }) =
            claim
        else {
            self.outbound.received(packet_id);
            if is_planted(PlantedBug::ReceivedUnstored) {
                return self.effects.push_back(effect);
            }
            return self.outbound.answer_with(effect);
        };
        let token = self.wait_for(Waiting::Effects(vec![effect]));
        let (sent, received) = (Vec::new(), vec![offset]);
        self.group_request(partition, Request::Claim { membership, sent, received, token });
    }

    /// A group has stored its part of an assignment.
    pub(super) fn claimed(&mut self, whole: Token, result: Result<(), Refusal>) {
        if result.is_err() {
            // Nothing of it may be sent: the connection ends, and the session goes on where its groups serve.
            return self.effects.push_back(Effect::ShuttingDown);
        }
        let Some(Waiting::Claiming { missing, .. }) = self.waiting.get_mut(&whole) else { return };
        *missing -= 1;
        if *missing > 0 {
            return;
        }
        if let Some(Waiting::Claiming { effect, with_session, .. }) = self.waiting.remove(&whole) {
            match with_session {
                true => self.outbound.answer_with(effect),
                false => self.effects.push_back(effect),
            }
        }
    }

    /// Lists what shared subscriptions had begun to send, and takes it over.
    pub(super) fn resend_claimed(
        &mut self,
        claimed: Vec<(PartitionId, Claimed)>,
        session: &OpenedSession,
    ) -> Vec<Resend> {
        let mut resend = Vec::with_capacity(claimed.len());
        for (partition, Claimed { filter, packet_id, entry, delivery }) in claimed {
            let mut subscriptions = session.subscriptions.iter().map(|stored| &stored.subscription);
            let subscription = subscriptions.find(|subscription| subscription.filter == filter);
            let Some(subscription) = subscription else { continue };
            let Some((reads, ..)) = self.group_address(subscription) else { continue };
            // What its client may not have any more counts as gone: PUBREL lets it forget the number.
            let delivery = delivery.filter(|it| self.standing.may_receive(&it.message.topic));
            let (membership, _) = self.new_membership(&filter, &reads);
            let source = DeliverySource::Group(membership);
            let id = DeliveryId { source, partition, offset: entry };
            if delivery.is_none() && self.outbound.is_used(packet_id) {
                // Received long ago and not noted as over: the session has used its number again.
                let outcome = Outcome::Accepted;
                let entries = entry..entry.next();
                let settle = Request::Settle { membership, entries, outcome };
                self.groups.held.push((partition, settle));
                continue;
            }
            self.outbound.forget(packet_id);
            self.groups.claims.insert(packet_id, id);
            resend.push(match delivery {
                Some(delivery) => {
                    let retain = subscription.retain_as_published && delivery.message.retain;
                    let subscription_ids = Some(subscription.subscription_id).filter(|id| *id != 0);
                    let subscription_ids = subscription_ids.into_iter().collect();
                    let delivery = Delivery { id, retain, subscription_ids, ..delivery };
                    Resend::Publish { packet_id, delivery }
                }
                None => Resend::Release { packet_id, delivery: id },
            });
        }
        resend
    }

    /// Lists the partitions that may have begun to send to a session's shared subscriptions.
    pub(super) fn ask_claimed<'a>(
        &self,
        filters: impl Iterator<Item = &'a Filter>,
    ) -> Vec<(PartitionId, Request)> {
        let mut asked: BTreeMap<PartitionId, Vec<Filter>> = BTreeMap::new();
        for filter in filters {
            if let Ok(SubscribeAddress::Shared { filter: inner, .. }) = SubscribeAddress::of(filter)
            {
                for partition in self.placement.filter(&inner) {
                    asked.entry(partition).or_default().push(filter.clone());
                }
            }
        }
        let client_id = &self.identity.client_id;
        let ask = |(partition, filters)| {
            (partition, Request::ListClaimed { client_id: client_id.clone(), filters })
        };
        asked.into_iter().map(ask).collect()
    }

    /// The group of a client that names none: its own.
    pub(super) fn own_group(&self) -> Option<QueueName> {
        QueueName::new(self.identity.client_id.clone()).ok()
    }

    fn is_shared(&self, membership: u32) -> bool {
        self.memberships.get(&membership).is_some_and(|membership| membership.is_shared)
    }

    /// A reader or a group of a connection that ends has let go.
    pub(super) fn part_closed(&mut self, from: PartitionId) {
        if let Phase::Closing { detaching } = &mut self.phase {
            if let Some(due) = detaching.get_mut(&from) {
                *due -= 1;
                if *due == 0 {
                    detaching.remove(&from);
                }
            }
            self.finish_close();
        }
    }
}
