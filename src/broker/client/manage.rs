//! Requests of administrators: a publish below `$management/`, and its answer to whoever asked, on the same connection (ADR 0051).

use bytes::Bytes;
use fluxmq_index::Offset;
use serde_json::{Value, json};
use std::sync::Arc;

use super::{Client, Waiting};
use crate::broker::management::{self, Asked};
use crate::model::address::PublishAddress;
use crate::model::{
    Delivery, DeliveryId, DeliverySource, Effect, Message, Millis, PartitionId, Properties,
    Property, QoS, QueueName, Refusal, Token, Topic,
};
use crate::partition::request::{ListQueues, QueueAnswer, QueueRequest, QueueSummary, Request};

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
    missing: usize,
    count_max: usize,
    result: Result<Vec<QueueSummary>, Refusal>,
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
            Ok(Asked::Queues { after, count_max }) => {
                let whole = self.own_token();
                let mut missing = 0;
                for partition in self.placement.data() {
                    missing += 1;
                    let token = self.wait_for(Waiting::ListOf(whole));
                    let after = after.clone();
                    let list = ListQueues { token, after, count_max: count_max + 1 };
                    self.request(partition, Request::ListQueues(list));
                }
                let result = Ok(Vec::new());
                let listing = Listing { asker, missing, count_max, result };
                self.waiting.insert(whole, Waiting::Listing(Box::new(listing)));
            }
        }
    }

    fn read_request(&mut self, now: Millis, message: &Message) -> Result<Asked, Refusal> {
        self.standing.may_publish(&message.topic)?;
        match PublishAddress::of(&message.topic)? {
            PublishAddress::Manage(address) => management::read(address, &message.payload, now),
            _ => unreachable!("only requests come here"),
        }
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

    /// A partition has listed its queues.
    pub(super) fn listed(&mut self, token: Token, result: Result<Vec<QueueSummary>, Refusal>) {
        let Some(Waiting::ListOf(whole)) = self.waiting.remove(&token) else { return };
        let Some(Waiting::Listing(listing)) = self.waiting.get_mut(&whole) else { return };
        listing.missing -= 1;
        match (&mut listing.result, result) {
            (Ok(all), Ok(some)) => all.extend(some),
            (Ok(_), Err(refusal)) => listing.result = Err(refusal),
            (Err(_), _) => {}
        }
        if listing.missing > 0 {
            return;
        }
        let Some(Waiting::Listing(listing)) = self.waiting.remove(&whole) else { return };
        let Listing { asker, count_max, result, .. } = *listing;
        let answer = result.map(|mut queues| {
            queues.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            let is_whole = queues.len() <= count_max;
            queues.truncate(count_max);
            management::list(&queues, is_whole)
        });
        self.answer_asker(asker, answer);
    }

    /// Sends the answer where the request says, before the request is acknowledged.
    fn answer_asker(&mut self, asker: Asker, answer: Result<Value, Refusal>) {
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
                annotations: Vec::new(),
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
