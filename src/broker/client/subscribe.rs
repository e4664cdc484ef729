//! SUBSCRIBE and UNSUBSCRIBE across partitions: answered when every part of them stands, and is stored where the session is.

use std::collections::BTreeMap;
use std::sync::Arc;

use fluxmq_index::Offset;

use super::{Client, Waiting};
use crate::broker::position;
use crate::model::address::SubscribeAddress;
use crate::model::command::Subscribe;
use crate::model::{
    Control, Effect, Filter, Millis, PartitionId, QoS, QueueName, Refusal, RetainHandling,
    Subscription, Token,
};
use crate::partition::request::{Attach, Join, Position, Request};

/// What a filter of this connection stands for.
#[derive(Clone, Debug)]
pub(super) enum Subscribed {
    /// Readers in these partitions.
    Filter(Vec<PartitionId>),
    /// A membership of a group, in the queue's home.
    Queue(u32, PartitionId),
}

/// A SUBSCRIBE that is not answered yet.
#[derive(Debug)]
pub(super) struct PendingSubscribe {
    token: Token,
    parts: Vec<Part>,
    missing: usize,
}

#[derive(Debug)]
struct Part {
    subscription: Arc<Subscription>,
    starts: Vec<(PartitionId, Offset)>,
    result: Result<QoS, Refusal>,
}

impl Client {
    pub(super) fn subscribe(&mut self, now: Millis, token: Token, subscriptions: Vec<Subscribe>) {
        let pending = self.own_token();
        let mut parts = Vec::with_capacity(subscriptions.len());
        let mut attaches: BTreeMap<PartitionId, (Attach, Vec<usize>)> = BTreeMap::new();
        let mut missing = 0;
        for subscribe in subscriptions {
            let index = parts.len();
            let asked = self.place(now, &subscribe);
            let subscription = Arc::new(to_subscription(subscribe));
            let mut result = Ok(subscription.qos);
            match asked {
                Err(refusal) => result = Err(refusal),
                Ok(Placed::Filter { partitions, retained }) => {
                    for partition in partitions {
                        let (attach, indexes) = attaches
                            .entry(partition)
                            .or_insert_with(|| (self.new_attach(Token(0)), Vec::new()));
                        attach.subscriptions.push((subscription.clone(), None));
                        attach.retained.push(retained);
                        indexes.push(index);
                    }
                }
                Ok(Placed::Queue(partition, mut join)) => {
                    join.token = self.wait_for(Waiting::PartOf(pending, index));
                    self.request(partition, Request::Join(*join));
                    missing += 1;
                }
            }
            parts.push(Part { subscription, starts: Vec::new(), result });
        }
        for (partition, (mut attach, indexes)) in attaches {
            // One answer for all subscriptions of this partition; the first stands for them.
            attach.token = self.wait_for(Waiting::PartOf(pending, indexes[0]));
            for index in &indexes {
                parts[*index].starts.push((partition, Offset(u64::MAX)));
            }
            self.attached.insert(partition, ());
            self.request(partition, Request::Attach(attach));
            missing += 1;
        }
        let pending_subscribe = PendingSubscribe { token, parts, missing };
        match missing {
            0 => self.finish_subscribe(pending_subscribe, Ok(())),
            _ => {
                self.waiting.insert(pending, Waiting::Subscribe(pending_subscribe));
            }
        }
    }

    /// A partition has answered for its part of a SUBSCRIBE, or of a resumed session.
    pub(super) fn part_done(
        &mut self,
        from: PartitionId,
        token: Token,
        answer: Result<Offset, Refusal>,
    ) {
        let (whole, index) = match self.waiting.remove(&token) {
            Some(Waiting::PartOf(whole, index)) => (whole, index),
            // A resumed session that cannot be read everywhere is not served in part: the client comes back later.
            Some(Waiting::Resumed) if answer.is_err() => {
                return self.effects.push_back(Effect::ShuttingDown);
            }
            _ => return,
        };
        let Some(Waiting::Subscribe(pending)) = self.waiting.get_mut(&whole) else { return };
        let reads = |part: &Part| part.starts.iter().any(|(at, _)| *at == from);
        match answer {
            Ok(start) => {
                let starts = pending.parts.iter_mut().flat_map(|part| &mut part.starts);
                starts.filter(|(at, _)| *at == from).for_each(|(_, at)| *at = start);
            }
            Err(refusal) if reads(&pending.parts[index]) => {
                let refused = pending.parts.iter_mut().filter(|part| reads(part));
                refused.for_each(|part| part.result = Err(refusal.clone()));
            }
            Err(refusal) => pending.parts[index].result = Err(refusal),
        }
        pending.missing -= 1;
        if pending.missing > 0 {
            return;
        }
        let Some(Waiting::Subscribe(pending)) = self.waiting.remove(&whole) else { return };
        self.withdraw_refused(&pending);
        self.store_subscribe(pending, whole);
    }

    /// Takes a subscription that one partition refused back from the others.
    fn withdraw_refused(&mut self, pending: &PendingSubscribe) {
        for part in pending.parts.iter().filter(|part| part.result.is_err()) {
            let filter = &part.subscription.filter;
            match self.subscriptions.remove(filter) {
                Some(Subscribed::Filter(partitions)) => {
                    for partition in partitions {
                        let filter = filter.clone();
                        self.request(partition, Request::DetachFilter { filter });
                    }
                }
                Some(Subscribed::Queue(membership, _)) => {
                    self.memberships.remove(&membership);
                }
                None => {}
            }
        }
    }

    /// Stores a stored session's new subscriptions; SUBACK follows their commit.
    fn store_subscribe(&mut self, pending: PendingSubscribe, whole: Token) {
        let Some(home) = self.identity.home.filter(|_| self.identity.stored) else {
            return self.finish_subscribe(pending, Ok(()));
        };
        let controls: Vec<Control> = pending
            .parts
            .iter()
            .filter(|part| part.result.is_ok())
            .map(|part| Control::Subscribed {
                client_id: self.identity.client_id.clone(),
                subscription: Subscription::clone(&part.subscription),
                starts: part.starts.clone(),
            })
            .collect();
        let last = controls.len().checked_sub(1);
        for (index, control) in controls.into_iter().enumerate() {
            let token = (Some(index) == last).then_some(whole);
            self.request(home, Request::Write { token, control });
        }
        match last {
            Some(_) => {
                self.waiting.insert(whole, Waiting::Subscribe(pending));
            }
            None => self.finish_subscribe(pending, Ok(())),
        }
    }

    pub(super) fn finish_subscribe(
        &mut self,
        pending: PendingSubscribe,
        stored: Result<(), Refusal>,
    ) {
        let result = |part: Part| match &stored {
            Ok(()) => part.result,
            Err(refusal) => Err(refusal.clone()),
        };
        let results = pending.parts.into_iter().map(result).collect();
        self.effects.push_back(Effect::Subscribed { token: pending.token, results });
    }

    pub(super) fn unsubscribe(&mut self, token: Token, filters: Vec<Filter>) {
        let mut results = Vec::with_capacity(filters.len());
        let mut removed = Vec::new();
        for filter in filters {
            let known = self.subscriptions.remove(&filter);
            results.push(Ok(known.is_some()));
            match known {
                None => {}
                Some(Subscribed::Queue(membership, partition)) => {
                    self.memberships.remove(&membership);
                    self.request(partition, Request::Leave { membership });
                    removed.push(filter);
                }
                Some(Subscribed::Filter(partitions)) => {
                    for partition in partitions {
                        let filter = filter.clone();
                        self.request(partition, Request::DetachFilter { filter });
                    }
                    removed.push(filter);
                }
            }
        }
        let home = self.identity.home.filter(|_| self.identity.stored && !removed.is_empty());
        let Some(home) = home else {
            return self.effects.push_back(Effect::Unsubscribed { token, results });
        };
        let whole = self.wait_for(Waiting::Unsubscribe { token, results });
        let last = removed.len() - 1;
        for (index, filter) in removed.into_iter().enumerate() {
            let token = (index == last).then_some(whole);
            let client_id = self.identity.client_id.clone();
            let control = Control::Unsubscribed { client_id, filter };
            self.request(home, Request::Write { token, control });
        }
    }

    /// Remembers an ordinary filter of a resumed session.
    pub(super) fn remember_filter(&mut self, subscription: &Subscription) {
        let partitions = self.placement.filter(&subscription.filter);
        let filter = subscription.filter.clone();
        self.subscriptions.insert(filter, Subscribed::Filter(partitions));
    }

    /// Joins the group of a resumed session's queue subscription again.
    pub(super) fn rejoin(&mut self, subscription: &Subscription) {
        let address = SubscribeAddress::of(&subscription.filter);
        let Ok(SubscribeAddress::Queue { name, filter, group }) = address else { return };
        let asked =
            group.or_else(|| subscription.group.clone().and_then(|g| QueueName::new(g).ok()));
        let Some(group) = asked.or_else(|| self.own_group()) else { return };
        let token = self.wait_for(Waiting::Resumed);
        let membership = self.new_membership(&subscription.filter, &name);
        let join = Join {
            membership,
            queue: name.clone(),
            group,
            filter,
            position: Position::Resume,
            qos: subscription.qos,
            subscription_id: subscription.subscription_id,
            settle_explicit: subscription.settle_explicit,
            credit: self.limits.credit,
            token,
        };
        self.request(self.placement.queue(&name), Request::Join(join));
    }

    /// Decides where a subscription reads, or why it does not.
    fn place(&mut self, now: Millis, subscribe: &Subscribe) -> Result<Placed, Refusal> {
        let known = self.subscriptions.contains_key(&subscribe.filter);
        if !known && self.subscriptions.len() >= self.limits.subscriptions_max {
            return Err(Refusal::Quota { limit: "subscriptions of one client" });
        }
        match SubscribeAddress::of(&subscribe.filter)? {
            SubscribeAddress::Filter(filter) => {
                if subscribe.position.is_some() {
                    return Err(Refusal::Unsupported { what: "replay of topics" });
                }
                let partitions = self.placement.filter(&filter);
                self.subscriptions.insert(filter, Subscribed::Filter(partitions.clone()));
                let retained = match subscribe.retain_handling {
                    RetainHandling::Send => true,
                    RetainHandling::SendIfNew => !known,
                    RetainHandling::DontSend => false,
                };
                Ok(Placed::Filter { partitions, retained })
            }
            SubscribeAddress::Queue { name, filter, group } => {
                self.place_queue(now, subscribe, name, filter, group)
            }
            SubscribeAddress::Shared { .. } => {
                Err(Refusal::Unsupported { what: "a shared subscription to topics" })
            }
            SubscribeAddress::Replay { .. } => Err(Refusal::Unsupported { what: "$replay" }),
        }
    }

    fn place_queue(
        &mut self,
        now: Millis,
        subscribe: &Subscribe,
        name: QueueName,
        filter: Filter,
        group: Option<QueueName>,
    ) -> Result<Placed, Refusal> {
        if subscribe.qos == QoS::AtMostOnce {
            let reason =
                "a queue needs QoS 1 or 2: at QoS 0 nothing settles its entries".to_owned();
            return Err(Refusal::Invalid { reason });
        }
        let asked = subscribe.group.clone().map(QueueName::new).transpose()?;
        let group = group.or(asked).or_else(|| self.own_group());
        let group = group.ok_or_else(|| Refusal::Invalid {
            reason: "this client id cannot name a consumer group: give one as 'consumer-group'"
                .to_owned(),
        })?;
        let position = match &subscribe.position {
            None => Position::Resume,
            Some(text) => position::parse(&String::from_utf8_lossy(text), now)?,
        };
        let partition = self.placement.queue(&name);
        let membership = self.new_membership(&subscribe.filter, &name);
        let join = Join {
            membership,
            queue: name,
            group,
            filter,
            position,
            qos: subscribe.qos,
            subscription_id: subscribe.subscription_id,
            settle_explicit: subscribe.settle_explicit,
            credit: self.limits.credit,
            token: Token(0),
        };
        Ok(Placed::Queue(partition, Box::new(join)))
    }

    /// The group of a client that names none: its own.
    fn own_group(&self) -> Option<QueueName> {
        QueueName::new(self.identity.client_id.clone()).ok()
    }

    fn new_membership(&mut self, filter: &Filter, queue: &QueueName) -> u32 {
        if let Some(Subscribed::Queue(membership, _)) = self.subscriptions.get(filter) {
            return *membership;
        }
        self.next_membership += 1;
        let partition = self.placement.queue(queue);
        let subscribed = Subscribed::Queue(self.next_membership, partition);
        self.subscriptions.insert(filter.clone(), subscribed);
        self.memberships.insert(self.next_membership, partition);
        self.next_membership
    }

    fn new_attach(&self, token: Token) -> Attach {
        Attach {
            subscriptions: Vec::new(),
            cursor: None,
            outbound: Vec::new(),
            publisher: self.identity.publisher,
            credit: self.limits.credit,
            retained: Vec::new(),
            token,
        }
    }
}

enum Placed {
    Filter { partitions: Vec<PartitionId>, retained: bool },
    Queue(PartitionId, Box<Join>),
}

fn to_subscription(subscribe: Subscribe) -> Subscription {
    Subscription {
        filter: subscribe.filter,
        qos: subscribe.qos,
        no_local: subscribe.no_local,
        retain_as_published: subscribe.retain_as_published,
        retain_handling: subscribe.retain_handling,
        subscription_id: subscribe.subscription_id,
        group: subscribe.group,
        settle_explicit: subscribe.settle_explicit,
    }
}
