//! Letters on their way: to a queue, or to whoever an exchange routes them to.
//!
//! An exchange routes when the letter is carried. Each home that has queues among those found stores it once, under a name that is made of
//! the letter's: a home that has it already does not store it again. Those that have it are said to where the letter comes from, so that what
//! one home refuses is tried there again and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::broker::Placement;
use crate::broker::placement::Found;
use crate::broker::routing::Routed;
use crate::model::address::is_reserved;
use crate::model::death::{self, Certificate};
use crate::model::record::{DedupKey, Tenure};
use crate::model::{
    Input, Message, PartitionId, Published, QoS, QueueName, Refusal, Token, Topic, TopicPattern,
    VirtualHost,
};
use crate::partition::request::{
    Dead, Letter, LetterArrived, LetterId, LetterTarget, Publish, Target,
};

/// What is being stored.
#[derive(Default)]
pub(super) struct Letters {
    /// Requests that are not answered: of which letter, and with whom it is.
    parts: BTreeMap<Token, (Token, PartitionId)>,
    carried: BTreeMap<Token, Carried>,
}

struct Carried {
    from: PartitionId,
    missing: usize,
    /// Partitions that have it, as far as all of it that is for them is there.
    stored_at: BTreeSet<PartitionId>,
    refused_at: BTreeSet<PartitionId>,
    arrived: LetterArrived,
}

/// What to ask of whom.
pub(super) type Part = (PartitionId, Publish);

impl Letters {
    /// Takes a letter; returns what to ask for, or the answer where nobody is to have it.
    pub(super) fn carry(
        &mut self,
        placement: &Placement,
        from: PartitionId,
        letter: Letter,
        mut token: impl FnMut() -> Token,
    ) -> Result<Vec<Part>, Box<LetterArrived>> {
        let Letter { id, target, message, stored_at } = letter;
        let mut parts = match target {
            LetterTarget::Queue(queue) => {
                vec![(placement.queue(&queue), part(message, Target::Queue(queue), None))]
            }
            LetterTarget::Exchange(exchange) => routed(placement, &exchange, message, (from, &id)),
        };
        parts.retain(|(to, _)| !stored_at.contains(to));
        let arrived = LetterArrived { id, result: Ok(()), stored_at };
        if parts.is_empty() {
            return Err(Box::new(arrived));
        }
        let whole = token();
        for (to, part) in &mut parts {
            let token = token();
            part.token = Some(token);
            self.parts.insert(token, (whole, *to));
        }
        let stored_at = arrived.stored_at.iter().copied().collect();
        let carried =
            Carried { from, missing: parts.len(), stored_at, refused_at: BTreeSet::new(), arrived };
        self.carried.insert(whole, carried);
        Ok(parts)
    }

    /// Returns true for what was asked for a letter.
    pub(super) fn is_part(&self, token: Token) -> bool {
        self.parts.contains_key(&token)
    }

    /// One partition has stored its part, or not; returns what became of the letter, for where it comes from, when all have answered.
    pub(super) fn answered(
        &mut self,
        token: Token,
        result: Result<bool, Refusal>,
    ) -> Option<(PartitionId, LetterArrived)> {
        let (whole, at) = self.parts.remove(&token)?;
        let carried = self.carried.get_mut(&whole)?;
        carried.missing -= 1;
        match result {
            // A queue that had no room for it has passed it on as its own letter.
            Ok(_) | Err(Refusal::DeadLettered) => drop(carried.stored_at.insert(at)),
            Err(refusal) => {
                carried.refused_at.insert(at);
                carried.arrived.result = Err(refusal);
            }
        }
        if carried.missing > 0 {
            return None;
        }
        let Carried { from, stored_at, refused_at, arrived, .. } = self.carried.remove(&whole)?;
        let stored_at = stored_at.difference(&refused_at).copied().collect();
        Some((from, LetterArrived { stored_at, ..arrived }))
    }

    /// A partition serves no more: what it was asked for it answers no more. Letters that wait for it are announced again.
    pub(super) fn give_up(&mut self, partition: PartitionId) {
        let lost = self.parts.values().filter(|(_, at)| *at == partition);
        let lost: BTreeSet<Token> = lost.map(|(whole, _)| *whole).collect();
        self.parts.retain(|_, (whole, _)| !lost.contains(whole));
        self.carried.retain(|whole, _| !lost.contains(whole));
    }
}

/// Who gets a letter that goes to an exchange, by the keys and headers that it has.
fn routed(
    placement: &Placement,
    exchange: &Bytes,
    message: Message,
    (from, id): (PartitionId, &LetterId),
) -> Vec<Part> {
    let published = Published::of(message.topic.as_bytes(), &message.properties, message.expiry_s);
    let deaths = death::deaths(&message.properties);
    let found = find(placement, exchange, &published);
    let mut parts = Vec::new();
    for (home, queues) in found.homes {
        let queues: Vec<QueueName> =
            queues.into_iter().filter(|queue| may_come(&deaths, queue)).collect();
        if !queues.is_empty() {
            let input = name((from, id), b"");
            let target = Target::Queues(queues.into());
            parts.push((home, part(message.clone(), target, Some(input))));
        }
    }
    for topic in found.topics {
        let input = Some(name((from, id), topic.as_bytes()));
        let home = placement.topic(&topic);
        let bound = placement.bound_to(&topic, false, &mut Found::default());
        let message = Message { topic, qos: QoS::AtLeastOnce, ..message.clone() };
        let of_topic = part(message, Target::Topic, input);
        let copy = Publish { target: Target::Bound, ..of_topic.clone() };
        let others = bound.iter().filter(|to| **to != home);
        parts.extend(others.map(|to| (*to, copy.clone())));
        parts.push((home, of_topic));
    }
    parts
}

/// A queue that has had a letter before gets it again only if somebody rejected it since.
fn may_come(deaths: &[Certificate], queue: &QueueName) -> bool {
    let is_cycle = death::is_cycle(deaths, queue.as_bytes());
    if is_cycle {
        tracing::warn!(%queue, "a dead letter comes round by itself to a queue where it died, and is dropped");
    }
    !is_cycle
}

#[derive(Default)]
struct FoundBy {
    homes: BTreeMap<PartitionId, BTreeSet<QueueName>>,
    topics: BTreeSet<Topic>,
}

/// Finds queues and topics. An exchange that is not there routes nowhere.
fn find(placement: &Placement, exchange: &Bytes, published: &Published) -> FoundBy {
    let mut found = FoundBy::default();
    let (host, name) = VirtualHost::of_level(exchange);
    if name.is_empty() {
        for queue in published.all_keys().filter_map(|key| host.queue(key).ok()) {
            found.homes.entry(placement.queue(&queue)).or_default().insert(queue);
        }
        return found;
    }
    let mut keys = published.all_keys();
    let first = keys.next().cloned().unwrap_or_default();
    let more: Vec<Bytes> = keys.cloned().collect();
    let routes = placement.bindings().routing().route(Routed {
        exchange,
        routing_key: &first,
        more_keys: &more,
        headers: &published.headers,
    });
    let homes = routes.homes.into_iter();
    found.homes = homes.map(|(home, queues)| (home, queues.iter().cloned().collect())).collect();
    if !routes.to_topic {
        return found;
    }
    let topics = published.all_keys().filter_map(|key| host.topic(TopicPattern::key_of(key)).ok());
    found.topics = topics.filter(|topic| !is_reserved(topic.as_str())).collect();
    found
}

fn part(message: Message, target: Target, input: Option<Input>) -> Publish {
    Publish {
        token: None,
        message: Arc::new(message),
        dedup: DedupKey::default(),
        tenure: Tenure::default(),
        target,
        input,
        is_kept: false,
    }
}

/// The name of a letter, or of what of it goes to one topic: the same whenever it is carried.
fn name((from, id): (PartitionId, &LetterId), part: &[u8]) -> Input {
    let LetterId { queue, declared, dead } = id;
    let (kind, group, number, more) = match dead {
        Dead::Entry(entry) => (0u8, &b""[..], entry.0, 0),
        Dead::EntryOf(group, entry) => (1, &group[..], entry.0, 0),
        Dead::Refused(term, number) => (2, &b""[..], *number, *term),
    };
    let mut all = Vec::with_capacity(64 + group.len() + part.len());
    all.extend_from_slice(b"letter");
    all.push(kind);
    all.extend_from_slice(&from.0.to_le_bytes());
    for number in [*queue, declared.0, number, more, group.len() as u64] {
        all.extend_from_slice(&number.to_le_bytes());
    }
    all.extend_from_slice(group);
    all.extend_from_slice(part);
    Input::Id(xxhash_rust::xxh3::xxh3_128(&all))
}
