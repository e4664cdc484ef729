//! Requests of administrators: a publish below `$management/`, and its answer to whoever asked, on the same connection (ADR 0051).

use bytes::Bytes;
use fluxmq_index::Offset;
use serde_json::{Value, json};
use std::sync::Arc;

use super::{Client, Waiting};
use crate::broker::management::{self, Asked, ExchangeFound, Page};
use crate::model::address::{ManagedKind, PublishAddress};
use crate::model::{
    ConnectionDescription, ConnectionQuestion, Delivery, DeliveryId, DeliverySource, Effect,
    ExchangeRefusal, Message, Millis, PartitionId, Properties, Property, QoS, QueueName, Refusal,
    Token, Topic,
};
use crate::partition::request::{
    AskConnections, BoundSummary, ConnectionId, List, ListOf, Listed, QueueAction, QueueAnswer,
    QueueRequest, QueueSummary, Request, Told, ToldOf, Whom,
};

/// Who waits for an answer, and where it goes.
pub(super) struct Asker {
    token: Token,
    qos: QoS,
    response: Option<Response>,
}

struct Response {
    topic: Topic,
    correlation: Option<Bytes>,
}

/// A list that partitions are asked for.
pub(super) struct Listing {
    asker: Asker,
    page: Page,
    missing: usize,
    result: Result<(), Refusal>,
    queues: Vec<QueueSummary>,
    bound: Vec<BoundSummary>,
}

/// Connections that are asked.
pub(super) struct Polling {
    asker: Asker,
    about: PollingOf,
    /// Those that have not answered, and the last of them; `None` before it is known who is asked.
    handed: Option<(usize, Option<ConnectionId>)>,
    asked: usize,
    found: Vec<ConnectionDescription>,
}

enum PollingOf {
    List(Page),
    One(ConnectionId),
}

/// Returns true for what is asked and not published.
pub(super) fn is_request(topic: &Topic) -> bool {
    topic.as_bytes().starts_with(b"$management/")
}

impl Client {
    /// Asks for what a publish asks for. The right to publish there is the right to ask.
    pub(super) fn manage(&mut self, now: Millis, token: Token, message: &Message) {
        let asker = match Asker::of(token, message) {
            Ok(asker) => asker,
            Err(refusal) => return self.refuse_publish(token, message, refusal),
        };
        match self.read_request(now, message) {
            Err(refusal) => self.answer_asker(asker, Err(refusal)),
            Ok(Asked::Queue(queue, action)) => {
                let home = self.placement.queue(&queue);
                let token = self.wait_for(Waiting::Managed(Box::new((asker, queue.clone()))));
                self.request(home, Request::Queue(QueueRequest { token, queue, action }));
            }
            Ok(Asked::List(page)) => self.list(asker, page),
            Ok(Asked::ShowExchange(name)) => {
                let answer = self.show_exchange(&name);
                self.answer_asker(asker, answer);
            }
            Ok(Asked::Exchange(name, command)) => self.manage_exchange(asker, &name, command),
            Ok(Asked::Bind(bind)) => self.manage_binding(asker, *bind),
            Ok(Asked::Connection(connection, question)) => {
                self.poll(asker, PollingOf::One(connection), Whom::One(connection), question);
            }
        }
    }

    fn read_request(&mut self, now: Millis, message: &Message) -> Result<Asked, Refusal> {
        self.standing.may_publish(&message.topic)?;
        match PublishAddress::of(&message.topic)? {
            PublishAddress::Manage(address) => {
                let asked = management::read(address, &message.payload, now)?;
                if let Asked::Queue(queue, QueueAction::Declare(settings)) = &asked {
                    self.standing.may_send_letters(queue, settings)?;
                }
                Ok(asked)
            }
            _ => unreachable!("only requests come here"),
        }
    }

    fn list(&mut self, asker: Asker, page: Page) {
        let data = self.placement.data();
        let asked: Vec<(PartitionId, ListOf)> = match page.what {
            ManagedKind::Queues => {
                let after = Bytes::from(page.after.clone());
                data.map(|home| (home, ListOf::Queues { after: after.clone() })).collect()
            }
            ManagedKind::Bindings => {
                let from = page.bindings_from().unwrap_or_default();
                let of =
                    |(name, skip): (&Bytes, usize)| ListOf::Bindings { from: name.clone(), skip };
                let here = (&from.name, from.skip);
                match (&page.only, from.to_exchanges) {
                    (_, true) => vec![(PartitionId::META, of(here))],
                    (Some(queue), false) => vec![(self.placement.queue(queue), of(here))],
                    (None, false) => {
                        let to_exchanges = (PartitionId::META, of((&Bytes::new(), 0)));
                        data.map(|home| (home, of(here))).chain([to_exchanges]).collect()
                    }
                }
            }
            ManagedKind::Exchanges => {
                let answer = self.list_exchanges(&page);
                return self.answer_asker(asker, Ok(answer));
            }
            ManagedKind::Connections | ManagedKind::Channels => {
                let with_channels = page.what == ManagedKind::Channels;
                let from = page.channels_from().unwrap_or_default();
                let first = from.connection + u64::from(from.channel.is_none());
                let whom = Whom::From(ConnectionId(first), page.count_max);
                let question = ConnectionQuestion::Describe { with_channels };
                return self.poll(asker, PollingOf::List(page), whom, question);
            }
        };
        let (whole, missing, count_max) = (self.own_token(), asked.len(), page.count_max + 1);
        for (partition, what) in asked {
            let token = self.wait_for(Waiting::ListOf(whole));
            self.request(partition, Request::List(List { token, what, count_max }));
        }
        let (queues, bound) = (Vec::new(), Vec::new());
        let listing = Listing { asker, page, missing, result: Ok(()), queues, bound };
        self.waiting.insert(whole, Waiting::Listing(Box::new(listing)));
    }

    fn list_exchanges(&self, page: &Page) -> Value {
        let table = self.placement.bindings().routing();
        let found: Vec<_> =
            table.list(&page.after.clone().into()).take(page.count_max + 1).collect();
        let found = found.iter().map(|(id, settings)| ExchangeFound {
            name: &id.name,
            settings,
            bindings: table.binding_count(id),
        });
        management::list_exchanges(page, found)
    }

    fn show_exchange(&self, name: &Bytes) -> Result<Value, Refusal> {
        let table = self.placement.bindings().routing();
        let (id, settings) = table.get(name).ok_or_else(|| ExchangeRefusal::missing(name))?;
        let bindings = table.binding_count(&id);
        Ok(management::show_exchange(&ExchangeFound { name, settings: &settings, bindings }))
    }

    /// The home of a queue has answered.
    pub(super) fn managed(&mut self, token: Token, result: Result<QueueAnswer, Refusal>) {
        match self.waiting.remove(&token) {
            Some(Waiting::Asked(token)) => self.asked(token, result),
            Some(Waiting::Managed(asked)) => {
                let (asker, queue) = *asked;
                self.answer_asker(asker, result.map(|answer| management::answer(&queue, &answer)));
            }
            _ => {}
        }
    }

    /// A partition has listed what lives there.
    pub(super) fn listed(&mut self, token: Token, result: Result<Listed, Refusal>) {
        let Some(Waiting::ListOf(whole)) = self.waiting.remove(&token) else { return };
        let Some(Waiting::Listing(listing)) = self.waiting.get_mut(&whole) else { return };
        listing.missing -= 1;
        match result {
            Ok(Listed::Queues(queues)) => listing.queues.extend(queues),
            Ok(Listed::Bindings(bound)) => listing.bound.extend(bound),
            Err(refusal) => listing.result = Err(refusal),
        }
        if listing.missing > 0 {
            return;
        }
        let Some(Waiting::Listing(listing)) = self.waiting.remove(&whole) else { return };
        let Listing { asker, page, result, mut queues, bound, .. } = *listing;
        let answer = result.map(|()| match page.what {
            ManagedKind::Bindings => {
                let table = self.placement.bindings().routing();
                management::list_bindings(&page, bound, |it| table.is_there(&it.exchange))
            }
            _ => {
                queues.sort_unstable_by(|one, other| one.name.cmp(&other.name));
                management::list_queues(&page, &queues)
            }
        });
        self.answer_asker(asker, answer);
    }

    fn poll(&mut self, asker: Asker, about: PollingOf, whom: Whom, question: ConnectionQuestion) {
        let polling = Polling { asker, about, handed: None, asked: 0, found: Vec::new() };
        let token = self.wait_for(Waiting::Polling(Box::new(polling)));
        let ask = AskConnections { token, whom, question };
        self.request(PartitionId::META, Request::Ask(Box::new(ask)));
    }

    /// Another connection has said what it was asked, or it is known how many will.
    pub(super) fn told(&mut self, told: Told) {
        let Told { token, answer } = told;
        let Some(Waiting::Polling(polling)) = self.waiting.get_mut(&token) else { return };
        match answer {
            ToldOf::HandedTo { count, last } => polling.handed = Some((count, last)),
            ToldOf::Described(described) => {
                polling.asked += 1;
                polling.found.push(*described);
            }
            ToldOf::Gone => polling.asked += 1,
        }
        if polling.handed.is_none_or(|(count, _)| count > polling.asked) {
            return;
        }
        let Some(Waiting::Polling(polling)) = self.waiting.remove(&token) else { return };
        let Polling { asker, about, handed, asked, mut found } = *polling;
        found.sort_unstable_by_key(|found| found.id);
        let answer = match about {
            PollingOf::List(page) => {
                let last = handed.and_then(|(_, last)| last).filter(|_| asked == page.count_max);
                let last = last.map(|last| last.0);
                Ok(match page.what {
                    ManagedKind::Channels => management::list_channels(&page, &found, last),
                    _ => management::list_connections(&page, &found, last),
                })
            }
            PollingOf::One(connection) => match found.first() {
                Some(found) => Ok(management::describe(found)),
                None => {
                    let reason = format!("there is no connection {}", connection.0);
                    Err(Refusal::Invalid { reason })
                }
            },
        };
        self.answer_asker(asker, answer);
    }

    /// Adds what this side of a connection knows of it.
    pub fn describe(&self, described: &mut ConnectionDescription) {
        described.id = self.standing.connection();
        described.user = self.standing.principal.name().map(str::to_owned);
        described.subscriptions = self.subscriptions.len();
    }

    /// Tells the client that an administrator has ended its connection: its protocol says so to the peer.
    pub fn handle_administrator(&mut self, reason: &str) {
        let refusal = Refusal::Administrator { reason: reason.to_owned() };
        self.effects.push_back(Effect::Expelled(refusal));
    }

    /// Sends the answer where the request says, before the request is acknowledged.
    pub(super) fn answer_asker(&mut self, asker: Asker, answer: Result<Value, Refusal>) {
        let Asker { token, qos, response } = asker;
        if let Some(Response { topic, correlation }) = response
            && self.standing.may_receive(&topic)
        {
            let body = match &answer {
                Ok(answer) => answer.to_string(),
                Err(refusal) => json!({ "error": refusal.to_string() }).to_string(),
            };
            let correlation = correlation.map(Property::CorrelationData);
            let content = Property::ContentType(Bytes::from_static(b"application/json"));
            let said: Vec<Property> = std::iter::once(content).chain(correlation).collect();
            let message = Message {
                topic,
                payload: body.into(),
                qos: QoS::AtMostOnce,
                retain: false,
                expiry_s: None,
                properties: Properties::encode(&said),
                publisher: 0,
            };
            self.effects.push_back(Effect::Deliver(Delivery {
                id: DeliveryId {
                    source: DeliverySource::Live,
                    partition: PartitionId(0),
                    offset: Offset::ZERO,
                },
                message: Arc::new(message),
                qos: QoS::AtMostOnce,
                retain: false,
                redelivered: false,
                subscription_ids: Vec::new(),
                annotations: Default::default(),
                settle_explicit: false,
            }));
        }
        if qos != QoS::AtMostOnce {
            self.confirm(token, answer.map(|_| true));
        }
    }
}

impl Asker {
    fn of(token: Token, message: &Message) -> Result<Asker, Refusal> {
        let (mut topic, mut correlation) = (None, None);
        for property in message.properties.iter() {
            match property {
                Property::ResponseTopic(name) => topic = Some(name),
                Property::CorrelationData(data) => correlation = Some(data),
                _ => {}
            }
        }
        let response = match topic {
            None => None,
            Some(name) => Some(Response { topic: Topic::new(name)?, correlation }),
        };
        Ok(Asker { token, qos: message.qos, response })
    }
}

/// What a queue's answer belongs to.
pub(super) type AskedOf = (Asker, QueueName);
