//! SUBSCRIBE and UNSUBSCRIBE across partitions: answered when every part of them stands, and is stored where the session is.

use std::collections::BTreeMap;
use std::sync::Arc;

use fluxmq_index::Offset;

use super::replay::NewReplay;
use super::{Client, Waiting};
use crate::broker::position;
use crate::model::address::SubscribeAddress;
use crate::model::command::Subscribe;
use crate::model::{
    Control, Effect, Filter, Millis, PartitionId, QoS, QueueName, ReaderId, Refusal,
    RetainHandling, Selection, Subscription, Token,
};
use crate::partition::request::{Attach, Join, Position, Request};
use crate::planted::{PlantedBug, is_planted};

/// What a filter of this connection stands for.
#[derive(Clone, Debug)]
pub(super) enum Subscribed {
    /// Readers wherever the placement says.
    Filter,
    /// A reader of its own.
    Replay(ReaderId),
    /// A membership of a group.
    Group(u32),
}

/// A SUBSCRIBE that is not answered yet.
#[derive(Debug)]
pub(super) struct PendingSubscribe {
    token: Token,
    parts: Vec<Part>,
    missing: usize,
    /// Of the parts that asked: the newest message of each partition.
    ends: Option<Vec<(usize, PartitionId, Offset)>>,
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
        let mut ends = None;
        for subscribe in subscriptions {
            let index = parts.len();
            let mut subscription = Arc::new(to_subscription(&subscribe));
            let asked = self.place(now, &subscribe, &subscription);
            let mut result = Ok(subscription.qos);
            let mut starts = Vec::new();
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
                Ok(Placed::Replay(replay)) => {
                    Arc::make_mut(&mut subscription).reader = replay.reader;
                    missing += replay.partitions.len();
                    starts.extend(replay.partitions.iter().map(|at| (*at, Offset(u64::MAX))));
                    if subscribe.reports_end {
                        ends = Some(Vec::new());
                        missing += replay.partitions.len();
                        self.look_for_ends((pending, index), &replay);
                    }
                    self.begin_replay((pending, index), &subscription, replay);
                }
                Ok(Placed::Group(partitions, join)) => {
                    result = Ok(join.qos);
                    for partition in partitions {
                        let token = self.wait_for(Waiting::PartOf(pending, index));
                        let join = Join { token, ..(*join).clone() };
                        self.request(partition, Request::Join(Box::new(join)));
                        missing += 1;
                    }
                }
            }
            parts.push(Part { subscription, starts, result });
        }
        for (partition, (mut attach, indexes)) in attaches {
            // One answer for all subscriptions of this partition; the first stands for them.
            attach.token = self.wait_for(Waiting::PartOf(pending, indexes[0]));
            for index in &indexes {
                parts[*index].starts.push((partition, Offset(u64::MAX)));
            }
            self.begin_reading(partition, attach);
            missing += 1;
        }
        let pending_subscribe = PendingSubscribe { token, parts, missing, ends };
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
        answer: Result<Option<Offset>, Refusal>,
    ) {
        let (whole, index) = match self.waiting.remove(&token) {
            Some(Waiting::PartOf(whole, index)) => (whole, index),
            Some(Waiting::Consuming { token, consumer }) => {
                return self.is_consuming(token, consumer, answer.map(drop));
            }
            // A resumed session that cannot be read everywhere is not served in part: the client comes back later.
            Some(Waiting::Resumed | Waiting::Rejoined) if answer.is_err() => {
                return self.effects.push_back(Effect::ShuttingDown);
            }
            Some(Waiting::Rejoined) => return self.rejoined(),
            _ => return,
        };
        let Some(Waiting::Subscribe(pending)) = self.waiting.get_mut(&whole) else { return };
        let reader = pending.parts[index].subscription.reader;
        let reads = |part: &Part| {
            part.subscription.reader == reader && part.starts.iter().any(|(at, _)| *at == from)
        };
        match answer {
            // A group says nothing about where readers begin.
            Ok(None) => {}
            Ok(Some(start)) => {
                let start = start.plus(64 * u64::from(is_planted(PlantedBug::SubscribedLate)));
                let parts = pending.parts.iter_mut().filter(|part| reads(part));
                let starts = parts.flat_map(|part| &mut part.starts);
                starts.filter(|(at, _)| *at == from).for_each(|(_, at)| *at = start);
            }
            Err(refusal) if reads(&pending.parts[index]) => {
                let refused = pending.parts.iter_mut().filter(|part| reads(part));
                refused.for_each(|part| part.result = Err(refusal.clone()));
            }
            Err(refusal) => pending.parts[index].result = Err(refusal),
        }
        self.one_less(whole);
    }

    /// Notes the newest message that a replay finds in a partition, if there is one.
    pub(super) fn end_found(
        &mut self,
        from: PartitionId,
        (whole, index): (Token, usize),
        end: Option<Offset>,
    ) {
        let Some(Waiting::Subscribe(pending)) = self.waiting.get_mut(&whole) else { return };
        pending.ends.get_or_insert_default().extend(end.map(|end| (index, from, end)));
        self.one_less(whole);
    }

    /// One of the answers that a SUBSCRIBE waits for has come.
    fn one_less(&mut self, whole: Token) {
        let Some(Waiting::Subscribe(pending)) = self.waiting.get_mut(&whole) else { return };
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
            if part.subscription.reader.is_replay() {
                self.withdraw_replay(&part.subscription);
                continue;
            }
            match self.subscriptions.remove(filter) {
                Some(Subscribed::Filter) => self.detach_filter(filter),
                Some(Subscribed::Group(membership)) => self.end_membership(membership),
                Some(Subscribed::Replay(_)) | None => {}
            }
        }
    }

    /// Stores a stored session's new subscriptions; SUBACK follows their commit.
    fn store_subscribe(&mut self, pending: PendingSubscribe, whole: Token) {
        let Some(home) = self.identity.home.filter(|_| self.identity.stored) else {
            return self.finish_subscribe(pending, Ok(()));
        };
        // Of what was handed on before the last partition answered, progress is stored first: no cursor stands for it yet, and what is
        // stored now begins behind it.
        self.write_progress();
        let reached = |part: &Part| {
            let reader = part.subscription.reader;
            let starts = part.starts.iter().copied();
            let outbound = &self.outbound;
            starts.map(|(at, start)| (at, outbound.reached((reader, at)).max(start))).collect()
        };
        let controls: Vec<Control> = pending
            .parts
            .iter()
            .filter(|part| part.result.is_ok())
            .map(|part| Control::Subscribed {
                client_id: self.identity.client_id.clone(),
                subscription: Subscription::clone(&part.subscription),
                starts: reached(part),
            })
            .collect();
        let last = controls.len().checked_sub(1);
        for (index, control) in controls.into_iter().enumerate() {
            let token = (Some(index) == last).then_some(whole);
            self.request(home, Request::Write { token, control: Box::new(control) });
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
        if let Some(ends) = &pending.ends {
            // What is below the beginning is not replayed.
            let is_ahead = |(index, from, end): &&(usize, PartitionId, Offset)| {
                let mut starts = pending.parts[*index].starts.iter();
                starts.any(|(at, start)| at == from && end >= start)
            };
            let ends = ends.iter().filter(is_ahead).map(|(_, from, end)| (*from, *end));
            let (token, ends) = (pending.token, ends.collect());
            self.effects.push_back(Effect::ReplayEnds { token, ends });
        }
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
                Some(Subscribed::Group(membership)) => {
                    self.end_membership(membership);
                    removed.push(filter);
                }
                Some(Subscribed::Replay(reader)) => {
                    self.end_replay(reader);
                    removed.push(filter);
                }
                Some(Subscribed::Filter) => {
                    self.detach_filter(&filter);
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
            self.request(home, Request::Write { token, control: Box::new(control) });
        }
    }

    pub(super) fn detach_filter(&mut self, filter: &Filter) {
        for partition in self.placement.filter(filter) {
            let filter = filter.clone();
            self.request(partition, Request::DetachFilter { filter });
        }
    }

    /// Remembers an ordinary filter of a resumed session.
    pub(super) fn remember_filter(&mut self, subscription: &Subscription) {
        let filter = subscription.filter.clone();
        self.subscriptions.insert(filter, Subscribed::Filter);
    }

    /// Decides where a subscription reads, or why it does not.
    fn place(
        &mut self,
        now: Millis,
        subscribe: &Subscribe,
        subscription: &Subscription,
    ) -> Result<Placed, Refusal> {
        let known = self.subscriptions.contains_key(&subscribe.filter);
        if !known && self.subscriptions.len() >= self.limits.subscriptions_max {
            return Err(Refusal::Quota { limit: "limits.subscriptions_per_client_max" });
        }
        let address = SubscribeAddress::of(&subscribe.filter)?;
        self.standing.may_subscribe(&address)?;
        match address {
            SubscribeAddress::Filter(filter) => {
                let position = subscribe.position.as_ref();
                let position =
                    position.map(|text| position::parse(&String::from_utf8_lossy(text), now));
                let retained = sends_retained(subscribe, known);
                if let Some(replay) =
                    self.place_replay(&subscribe.filter, &filter, position.transpose()?, retained)?
                {
                    return Ok(Placed::Replay(replay));
                }
                let partitions = self.placement.filter(&filter);
                self.subscriptions.insert(filter, Subscribed::Filter);
                Ok(Placed::Filter { partitions, retained })
            }
            SubscribeAddress::Replay { from, filter } => {
                let position = Some(position::parse(&from, now)?);
                let retained = sends_retained(subscribe, known);
                let replay = self.place_replay(&subscribe.filter, &filter, position, retained)?;
                Ok(Placed::Replay(replay.expect("it is never a plain subscription")))
            }
            SubscribeAddress::Queue { name, filter, group } => {
                let position = match &subscribe.position {
                    None => Position::Resume,
                    Some(text) => position::parse(&String::from_utf8_lossy(text), now)?,
                };
                let group = self.queue_group(subscribe, group)?;
                let address = (Selection::Queue(name), group, filter);
                Ok(self.place_group(position, address, subscription))
            }
            SubscribeAddress::Shared { group, filter } => {
                if subscribe.position.is_some() {
                    let reason =
                        "a shared subscription has one place for all its members: replay with a \
                                  subscription of your own"
                            .to_owned();
                    return Err(Refusal::Invalid { reason });
                }
                let address = (Selection::Topics(filter.clone()), group, filter);
                Ok(self.place_group(Position::Resume, address, subscription))
            }
        }
    }

    /// Decides which group of a queue a subscription is in.
    fn queue_group(
        &self,
        subscribe: &Subscribe,
        group: Option<QueueName>,
    ) -> Result<QueueName, Refusal> {
        let asked = subscribe.group.clone().map(QueueName::new).transpose()?;
        group.or(asked).or_else(|| self.own_group()).ok_or_else(|| Refusal::Invalid {
            reason: "this client id cannot name a consumer group: give one as 'consumer-group'"
                .to_owned(),
        })
    }

    fn place_group(
        &mut self,
        position: Position,
        address: (Selection, QueueName, Filter),
        subscription: &Subscription,
    ) -> Placed {
        let (membership, partitions) = self.new_membership(&subscription.filter, &address.0);
        let join = Join { position, ..self.new_join(membership, address, subscription) };
        Placed::Group(partitions, Box::new(join))
    }

    pub(super) fn new_attach(&self, token: Token) -> Attach {
        Attach {
            reader: ReaderId::SESSION,
            position: None,
            subscriptions: Vec::new(),
            cursor: None,
            outbound: Vec::new(),
            publisher: self.identity.publisher,
            credit: self.limits.credit,
            keeps_place: self.identity.stored,
            retained: Vec::new(),
            token,
        }
    }
}

enum Placed {
    Filter { partitions: Vec<PartitionId>, retained: bool },
    Replay(NewReplay),
    Group(Vec<PartitionId>, Box<Join>),
}

fn sends_retained(subscribe: &Subscribe, known: bool) -> bool {
    match subscribe.retain_handling {
        RetainHandling::Send => true,
        RetainHandling::SendIfNew => !known,
        RetainHandling::DontSend => false,
    }
}

fn to_subscription(subscribe: &Subscribe) -> Subscription {
    Subscription {
        filter: subscribe.filter.clone(),
        qos: subscribe.qos,
        no_local: subscribe.no_local,
        retain_as_published: subscribe.retain_as_published,
        retain_handling: subscribe.retain_handling,
        subscription_id: subscribe.subscription_id,
        group: subscribe.group.clone(),
        settle_explicit: subscribe.settle_explicit,
        reader: ReaderId::SESSION,
    }
}
