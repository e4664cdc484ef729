//! Publishing to exchanges: which queues get a message is found here, and each of their homes stores it once (ADR 0054).

use std::sync::Arc;

use bytes::Bytes;

use super::publish::Copies;
use super::{Client, Waiting, theirs};
use crate::broker::placement::Found;
use crate::broker::routing::Routed;
use crate::model::address::exchange_topic;
use crate::model::consume::Route;
use crate::model::exchange::TOPIC_EXCHANGE;
use crate::model::record::DedupKey;
use crate::model::{
    ExchangeRefusal, Input, Message, PartitionId, QoS, QueueName, Refusal, Token, Topic,
    TopicPattern,
};
use crate::partition::request::{Publish, Request, Target};

impl Client {
    /// Finds the queues that a publish to an exchange is for, and stores it there.
    pub(super) fn route(&mut self, route: Route) {
        let token = route.token;
        match self.routed(route) {
            Ok(true) => {}
            Ok(false) => self.confirm(token, Ok(false)),
            Err(refusal) => self.confirm(token, Err(refusal)),
        }
    }

    /// Sends a publish to whom it is for; false when that is nobody.
    fn routed(&mut self, route: Route) -> Result<bool, Refusal> {
        let Route { token, exchange, routing_key, headers, message } = route;
        if exchange.is_empty() {
            // What is no name is no queue's.
            let Ok(queue) = QueueName::new(routing_key) else { return Ok(false) };
            let topic = Topic::new(queue.address().into())?;
            self.standing.may_publish(&topic)?;
            let to = self.placement.queue(&queue);
            let part = self.part(topic, message, Target::Queues([queue].into()))?;
            self.send_parts(token, vec![(to, part)]);
            return Ok(true);
        }
        if exchange == TOPIC_EXCHANGE {
            let parts = self.topic_parts(&routing_key, message)?;
            self.send_parts(token, parts);
            return Ok(true);
        }
        let topic = exchange_topic(&QueueName::new(exchange.clone())?, &routing_key);
        self.standing.may_publish(&topic)?;
        let publish = Routed { exchange: &exchange, routing_key: &routing_key, headers: &headers };
        let found = self
            .placement
            .bindings()
            .route(publish, self.publishing.routes.get_or_insert_default());
        match &found.entry {
            None => return Err(ExchangeRefusal::missing(&exchange)),
            Some(entry) if entry.internal => return Err(ExchangeRefusal::internal(&exchange)),
            Some(_) if found.homes.is_empty() && !found.to_topic => return Ok(false),
            Some(_) => {}
        }
        let mut parts = match found.to_topic {
            true => self.topic_parts(&routing_key, message.clone())?,
            false => Vec::with_capacity(found.homes.len()),
        };
        let part = self.part(topic, message, Target::Queues(Arc::default()))?;
        for (home, queues) in &found.homes {
            let target = Target::Queues(queues.clone());
            parts.push((*home, Publish { target, ..part.clone() }));
        }
        self.send_parts(token, parts);
        Ok(true)
    }

    /// What a publish to the topic that a key is comes to: the topic's partition, and those with queues bound to it.
    fn topic_parts(
        &mut self,
        key: &Bytes,
        message: Message,
    ) -> Result<Vec<(PartitionId, Publish)>, Refusal> {
        let topic = Topic::new(TopicPattern::key_of(key))?;
        self.standing.may_publish(&topic)?;
        if crate::model::address::is_reserved(topic.as_str()) {
            return Err(Refusal::NotAuthorized);
        }
        let is_unstored = message.qos == QoS::AtMostOnce;
        let home = self.placement.topic(&topic);
        let bound = self.placement.bound_to(&topic, is_unstored, &mut Found::default());
        let part = self.part(topic, message, Target::Topic)?;
        let copy = Publish { target: Target::Bound, ..part.clone() };
        let others = bound.iter().filter(|to| **to != home || is_unstored);
        let copies = others.map(|to| (*to, copy.clone()));
        Ok(copies.chain([(home, part)]).collect())
    }

    /// The part of one partition.
    fn part(&mut self, topic: Topic, message: Message, target: Target) -> Result<Publish, Refusal> {
        let input = Input::of(&self.standing.principal, &topic, &message.properties)?;
        let publisher = self.identity.publisher;
        let message = Arc::new(Message { topic, publisher, retain: false, ..message });
        let (dedup, tenure) = (DedupKey::default(), self.tenure());
        Ok(Publish { token: None, message, dedup, tenure, target, input })
    }

    /// Sends the parts of a publish, and has it confirmed when those that are stored are. Topics store nothing at QoS 0.
    fn send_parts(&mut self, token: Token, parts: Vec<(PartitionId, Publish)>) {
        let is_answered = |publish: &Publish| match publish.target {
            Target::Queues(_) => true,
            Target::Topic | Target::Bound | Target::Queue(_) => {
                publish.message.qos != QoS::AtMostOnce
            }
        };
        let missing = parts.iter().filter(|(_, part)| is_answered(part)).count();
        let whole = (missing > 1)
            .then(|| self.wait_for(Waiting::Copies(Box::new(Copies::of_parts(token, missing)))));
        for (to, mut part) in parts {
            part.token = match (is_answered(&part), whole) {
                (false, _) => None,
                (true, None) => Some(theirs(token)),
                (true, Some(whole)) => Some(self.wait_for(Waiting::CopyOf(whole))),
            };
            self.request(to, Request::Publish(part));
        }
        if missing == 0 {
            self.confirm(token, Ok(true));
        }
    }
}
