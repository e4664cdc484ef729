//! Which partitions have queues that are bound to a topic: where copies of a publish go. And what exchanges find.
//!
//! The table has no truth of its own. Partitions say what their queues are bound to, as they apply it and before they answer whoever
//! declared a queue, so a publish after that answer finds the queue (ADR 0038). Without bindings a publish costs one atomic read.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use fluxmq_index::TopicTrie;

use super::routing::{Routed, Routes, RoutingTable};
use crate::model::exchange::{TOPIC_EXCHANGE, is_topics};
use crate::model::queue::Binding;
use crate::model::virtual_host::TOPICS;
use crate::model::{Message, PartitionId, Property, Topic, TopicPattern, VirtualHost};
use crate::partition::request::Routing;

/// The bindings of all queues, by partition.
#[derive(Default)]
pub struct Bindings {
    table: RwLock<Topics>,
    /// Changes with the table; 0 until there is a binding.
    version: AtomicU64,
    routing: RwLock<RoutingTable>,
    /// True while exchanges are bound to topics.
    forwards: AtomicBool,
    /// Changes with the routing; the topics of MQTT have nothing to do with it.
    routing_version: AtomicU64,
}

/// Which partitions have queues that are bound to topics.
#[derive(Default)]
struct Topics {
    filters: TopicTrie<(PartitionId, Bound)>,
    /// By what no filter can say: patterns of keys.
    patterns: BTreeSet<(Bytes, PartitionId)>,
}

/// How queues are bound: those that a partition says by themselves come and go by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bound {
    /// By their settings, to everything.
    Always,
    /// By their settings, to what no history has: [`Binding::only_unstored`].
    OnlyUnstored,
    /// To the exchange of the topics.
    Exchange,
}

/// What one publisher found for its last publish to an exchange.
#[derive(Debug, Default)]
pub struct LastRoutes {
    version: u64,
    exchange: Bytes,
    routing_key: Vec<u8>,
    routes: Arc<Routes>,
}

/// What one publisher found for its last topic.
#[derive(Debug, Default)]
pub struct Found {
    version: u64,
    topic: Option<Topic>,
    /// Those that a publish goes to which a history has, and those of one that no history has.
    stored: Arc<[PartitionId]>,
    unstored: Arc<[PartitionId]>,
}

impl Bindings {
    /// A partition has queues with a binding, or none any more. Saying it twice changes nothing.
    pub fn change(&self, partition: PartitionId, binding: &Binding, is_bound: bool) {
        let how = if binding.only_unstored { Bound::OnlyUnstored } else { Bound::Always };
        let filter = binding.filter.as_bytes();
        self.change_topics(|topics| topics.change_filter(filter, (partition, how), is_bound));
    }

    /// A partition says something of exchanges. Saying it twice changes nothing.
    pub fn change_routing(&self, partition: PartitionId, routing: &Routing) {
        if let Routing::Topics(pattern, is_bound) = routing {
            return self.change_topics(|topics| match pattern {
                TopicPattern::Filter(filter) => {
                    let target = (partition, Bound::Exchange);
                    topics.change_filter(filter.as_bytes(), target, *is_bound)
                }
                TopicPattern::Words(words) if *is_bound => {
                    topics.patterns.insert((words.clone(), partition))
                }
                TopicPattern::Words(words) => topics.patterns.remove(&(words.clone(), partition)),
            });
        }
        let mut table = self.routing.write().unwrap_or_else(PoisonError::into_inner);
        if table.change(partition, routing) {
            if let Routing::Binding { binding, .. } = routing
                && is_topics(&binding.exchange.name)
            {
                self.forwards.store(table.forwards_topics(), Ordering::Release);
            }
            self.routing_version.fetch_add(1, Ordering::Release);
        }
    }

    fn change_topics(&self, change: impl FnOnce(&mut Topics) -> bool) {
        let mut topics = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if change(&mut topics) {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// What is known of exchanges.
    pub fn routing(&self) -> RwLockReadGuard<'_, RoutingTable> {
        self.routing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds who gets a publish; what was found last for the same is remembered.
    pub fn route(&self, publish: Routed<'_>, last: &mut LastRoutes) -> Arc<Routes> {
        if !publish.more_keys.is_empty() {
            return Arc::new(self.routing().route(publish));
        }
        let version = self.routing_version.load(Ordering::Acquire);
        let is_same = last.version == version
            && last.exchange == publish.exchange
            && last.routing_key == publish.routing_key;
        if !is_same || last.routes.by_headers {
            let routes = Arc::new(self.routing().route(publish));
            let (exchange, key) = (publish.exchange.clone(), publish.routing_key.into());
            *last = LastRoutes { version, exchange, routing_key: key, routes };
        }
        last.routes.clone()
    }

    /// Finds the queues that exchanges route a publish to a topic to; `None` where no exchange is bound to topics, which costs one atomic
    /// read.
    pub fn route_on(
        &self,
        message: &Message,
        last: &mut Option<Box<LastRoutes>>,
    ) -> Option<Arc<Routes>> {
        if !self.forwards.load(Ordering::Acquire) {
            return None;
        }
        let topic = message.topic.as_bytes();
        let below = topic.strip_prefix(TOPICS.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        let host = match below {
            Some(rest) => VirtualHost::of_topics(rest)?,
            None => VirtualHost::default(),
        };
        let exchange = host.exchange(&Bytes::from_static(TOPIC_EXCHANGE.as_bytes())).ok()?;
        let key = TopicPattern::key_of(&topic[host.topic_prefix().len()..]);
        let headers = text_headers(message);
        let (exchange, more_keys) = (&exchange, &[][..]);
        let publish = Routed { exchange, routing_key: &key, more_keys, headers: &headers };
        Some(self.route(publish, last.get_or_insert_default()))
    }

    /// Returns true unless there may be a queue that a publish to a topic goes to.
    pub fn is_empty(&self) -> bool {
        let has_topics = self.version.load(Ordering::Acquire) > 0
            && !self.table.read().unwrap_or_else(PoisonError::into_inner).is_empty();
        !has_topics && !self.forwards.load(Ordering::Acquire)
    }

    /// Finds the partitions with queues that are to have a publish, which a history has or none, ascending; the last answer is remembered.
    pub fn find(&self, topic: &Topic, is_unstored: bool, last: &mut Found) -> Arc<[PartitionId]> {
        let version = self.version.load(Ordering::Acquire);
        if version == 0 {
            return Arc::default();
        }
        if last.version != version || last.topic.as_ref() != Some(topic) {
            let (mut stored, mut unstored) = (BTreeSet::new(), BTreeSet::new());
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            table.for_each_match(topic.as_bytes(), |partition, how| {
                unstored.insert(partition);
                if how != Bound::OnlyUnstored {
                    stored.insert(partition);
                }
            });
            let [stored, unstored] = [stored, unstored].map(|it| it.into_iter().collect());
            *last = Found { version, topic: Some(topic.clone()), stored, unstored };
        }
        if is_unstored { last.unstored.clone() } else { last.stored.clone() }
    }
}

/// What exchanges that look at headers see of a message to a topic: its user properties, as text.
fn text_headers(message: &Message) -> Vec<u8> {
    let mut table = Vec::new();
    for property in message.properties.iter() {
        let Property::User(name, value) = property else { continue };
        let lengths = (u8::try_from(name.len()), u32::try_from(value.len()));
        let (Ok(name_bytes), Ok(value_bytes)) = lengths else { continue };
        table.push(name_bytes);
        table.extend_from_slice(&name);
        table.push(b'S');
        table.extend_from_slice(&value_bytes.to_be_bytes());
        table.extend_from_slice(&value);
    }
    table
}

impl Topics {
    fn change_filter(&mut self, filter: &[u8], to: (PartitionId, Bound), is_bound: bool) -> bool {
        match is_bound {
            true => self.filters.insert(filter, to),
            false => self.filters.remove(filter, &to),
        }
    }

    fn is_empty(&self) -> bool {
        self.filters.is_empty() && self.patterns.is_empty()
    }

    fn for_each_match(&self, topic: &[u8], mut found: impl FnMut(PartitionId, Bound)) {
        self.filters.for_each_match(topic, |(partition, how)| found(*partition, *how));
        if !self.patterns.is_empty() {
            let key = TopicPattern::key_of(topic);
            for (words, partition) in &self.patterns {
                if TopicPattern::matches(words, &key) {
                    found(*partition, Bound::Exchange);
                }
            }
        }
    }
}

impl std::fmt::Debug for Bindings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "bindings of version {}", self.version.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::Filter;

    #[test]
    fn a_change_is_seen_by_whoever_looked_before() {
        let (bindings, mut last) = (Bindings::default(), Found::default());
        let filter = Filter::new(Bytes::from_static(b"a/+")).unwrap();
        let [always, unstored] =
            [false, true].map(|only_unstored| Binding { filter: filter.clone(), only_unstored });
        let topic = Topic::new(Bytes::from_static(b"a/b")).unwrap();
        let mut find = |is_unstored| bindings.find(&topic, is_unstored, &mut last).to_vec();
        assert_eq!(find(false), []);

        bindings.change(PartitionId(2), &always, true);
        assert_eq!(find(false), [PartitionId(2)]);
        bindings.change(PartitionId(1), &unstored, true);
        assert_eq!(find(false), [PartitionId(2)], "the other follows what is stored");
        assert_eq!(find(true), [PartitionId(1), PartitionId(2)]);
        bindings.change(PartitionId(1), &always, true);
        assert_eq!(find(false), [PartitionId(1), PartitionId(2)]);
        bindings.change(PartitionId(2), &always, false);
        bindings.change(PartitionId(1), &always, false);
        assert_eq!((find(false), find(true)), (vec![], vec![PartitionId(1)]));
        bindings.change(PartitionId(1), &unstored, false);
        assert_eq!(find(true), []);
        assert!(bindings.is_empty());
    }
}
