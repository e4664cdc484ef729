//! Publishing to exchanges: which queues get a message is found here, and each of their homes stores it once (ADR 0054).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::publish::Copies;
use super::{Client, Waiting, theirs};
use crate::broker::placement::{Beyond, Found};
use crate::broker::routing::{Routed, Routes};
use crate::model::address::exchange_topic;
use crate::model::consume::Route;
use crate::model::exchange::is_topics;
use crate::model::record::DedupKey;
use crate::model::{
    ExchangeRefusal, Input, Message, PartitionId, QoS, QueueName, Refusal, Token, Topic,
    TopicPattern, VirtualHost,
};
use crate::partition::request::{Publish, Request, Target};

/// What partitions are to store, or pass on, of one publish.
pub(super) type Parts = Vec<(PartitionId, Publish)>;

/// Where the last publish to a queue by its name went.
#[derive(Debug)]
pub(super) struct LastQueue {
    host: VirtualHost,
    key: Bytes,
    topic: Topic,
    home: PartitionId,
    queues: Arc<[QueueName]>,
}

impl LastQueue {
    fn is_for(&self, host: &VirtualHost, key: &Bytes) -> bool {
        self.key == key && self.host == *host
    }
}

impl Client {
    /// Finds the queues that a publish to an exchange is for, and stores it there.
    pub(super) fn route(&mut self, route: Route) {
        let token = route.token;
        match self.parts_of(route) {
            Ok(parts) if parts.is_empty() => self.confirm(token, Ok(false)),
            Ok(parts) => self.send_parts(token, parts),
            Err(refusal) => self.confirm(token, Err(refusal)),
        }
    }

    /// What a publish comes to, by partition; nothing where it is for nobody.
    pub(super) fn parts_of(&mut self, route: Route) -> Result<Parts, Refusal> {
        let Route { exchange, routing_key, more_keys, headers, message, .. } = route;
        let (host, name) = VirtualHost::of_level(&exchange);
        if name.is_empty() {
            return self.queue_parts(&host, routing_key, more_keys, message);
        }
        let name = QueueName::new(exchange.clone())?;
        let topic = exchange_topic(&name, &routing_key);
        if !is_topics(&exchange) {
            self.standing.may_publish(&topic)?;
            for key in &more_keys {
                self.standing.may_publish(&exchange_topic(&name, key))?;
            }
        }
        let publish = Routed {
            exchange: &exchange,
            routing_key: &routing_key,
            more_keys: &more_keys,
            headers: &headers,
        };
        let last = self.publishing.routes.get_or_insert_default();
        let found = self.placement.bindings().route(publish, last);
        match &found.entry {
            None => return Err(ExchangeRefusal::missing(&exchange)),
            Some(entry) if entry.internal => return Err(ExchangeRefusal::internal(&exchange)),
            Some(_) => {}
        }
        if found.to_topic {
            return self.topics_parts(&host, (&routing_key, &more_keys), &message, found);
        }
        let part = self.part(topic, message, Target::Queues(Arc::default()))?;
        let to_home = |(home, queues): &(PartitionId, Arc<[QueueName]>)| {
            let target = Target::Queues(queues.clone());
            (*home, Publish { target, ..part.clone() })
        };
        Ok(found.homes.iter().map(to_home).collect())
    }

    /// What a publish to queues by their names comes to: one part for each home. What is no name is no queue's.
    fn queue_parts(
        &mut self,
        host: &VirtualHost,
        routing_key: Bytes,
        more_keys: Vec<Bytes>,
        message: Message,
    ) -> Result<Parts, Refusal> {
        if more_keys.is_empty() {
            return self.one_queue_parts(host, &routing_key, message);
        }
        let keys = std::iter::once(routing_key).chain(more_keys);
        let mut homes: BTreeMap<PartitionId, BTreeSet<QueueName>> = BTreeMap::new();
        let mut first = None;
        for queue in keys.filter_map(|key| named_queue(host, &key)) {
            let topic = Topic::new(queue.address().into())?;
            self.standing.may_publish(&topic)?;
            let to = self.placement.queue(&queue);
            first.get_or_insert(topic);
            homes.entry(to).or_default().insert(queue);
        }
        let Some(topic) = first else { return Ok(Parts::new()) };
        let part = self.part(topic, message, Target::Queues(Arc::default()))?;
        let part_of = |(home, queues): (PartitionId, BTreeSet<QueueName>)| {
            let target = Target::Queues(queues.into_iter().collect());
            (home, Publish { target, ..part.clone() })
        };
        Ok(homes.into_iter().map(part_of).collect())
    }

    /// The same for one name: where that leads is the same every time, and most publishers say it again.
    fn one_queue_parts(
        &mut self,
        host: &VirtualHost,
        routing_key: &Bytes,
        message: Message,
    ) -> Result<Parts, Refusal> {
        let last = self.publishing.queue.take_if(|last| last.is_for(host, routing_key));
        let last = match last {
            Some(last) => last,
            None => {
                // Of its own memory: a slice would keep what it was read with.
                let key = Bytes::copy_from_slice(routing_key);
                let Some(queue) = named_queue(host, &key) else { return Ok(Parts::new()) };
                let topic = Topic::new(queue.address().into())?;
                let (host, home) = (host.clone(), self.placement.queue(&queue));
                Box::new(LastQueue { host, key, topic, home, queues: [queue].into() })
            }
        };
        let LastQueue { topic, home, queues, .. } = &**self.publishing.queue.insert(last);
        let (topic, home, queues) = (topic.clone(), *home, queues.clone());
        self.standing.may_publish(&topic)?;
        Ok(vec![(home, self.part(topic, message, Target::Queues(queues))?)])
    }

    /// What a publish to the topics that keys are comes to.
    fn topics_parts(
        &mut self,
        host: &VirtualHost,
        (routing_key, more_keys): (&Bytes, &[Bytes]),
        message: &Message,
        found: Arc<Routes>,
    ) -> Result<Parts, Refusal> {
        // The queues that were found get it with the first of them.
        let mut parts = self.topic_parts(host, routing_key, message.clone(), Some(found))?;
        let others: BTreeSet<&Bytes> = more_keys.iter().filter(|key| *key != routing_key).collect();
        for key in others {
            parts.extend(self.topic_parts(host, key, message.clone(), None)?);
        }
        Ok(parts)
    }

    /// What a publish to the topic that a key is comes to: the topic's partition, and those with queues that get it, each once.
    fn topic_parts(
        &mut self,
        host: &VirtualHost,
        key: &Bytes,
        message: Message,
        found: Option<Arc<Routes>>,
    ) -> Result<Parts, Refusal> {
        let topic = host.topic(TopicPattern::key_of(key))?;
        self.standing.may_publish(&topic)?;
        if crate::model::address::is_reserved(topic.as_str()) {
            return Err(Refusal::NotAuthorized);
        }
        let mut part = self.part(topic.clone(), message, Target::Topic)?;
        part.is_kept = self.placement.keeps(&part.message);
        let is_unstored = !part.is_in_history();
        let home = self.placement.topic(&topic);
        let bound = self.placement.bound_to(&topic, is_unstored, &mut Found::default());
        let beyond = Beyond::of(bound, found);
        let others = beyond.partitions.iter().filter(|to| **to != home || is_unstored);
        let copy = |to: &PartitionId| Publish { target: beyond.bound(*to), ..part.clone() };
        let mut parts: Parts = others.map(|to| (*to, copy(to))).collect();
        if !is_unstored {
            part.target = beyond.topic(home);
        }
        parts.push((home, part));
        Ok(parts)
    }

    /// The part of one partition.
    fn part(&mut self, topic: Topic, message: Message, target: Target) -> Result<Publish, Refusal> {
        let input = Input::of(&self.standing.principal, &topic, &message.properties)?;
        let publisher = self.identity.publisher;
        let message = Arc::new(Message { topic, publisher, retain: false, ..message });
        let (dedup, tenure) = (DedupKey::default(), self.tenure());
        Ok(Publish { token: None, message, dedup, tenure, target, input, is_kept: false })
    }

    /// Sends the parts of a publish, and has it confirmed when those that are stored are. Topics store nothing at QoS 0.
    fn send_parts(&mut self, token: Token, parts: Parts) {
        let is_answered = |publish: &Publish| match publish.target {
            Target::Queues(_) => true,
            Target::Topic
            | Target::TopicAnd(_)
            | Target::Bound
            | Target::BoundAnd(_)
            | Target::Queue(_) => publish.message.qos != QoS::AtMostOnce,
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

/// The queue of a name, unless it is none, or one for dead letters: nobody publishes to those.
fn named_queue(host: &VirtualHost, key: &Bytes) -> Option<QueueName> {
    host.queue(key).ok().filter(|queue| !queue.is_dead_letters())
}
