//! Which partition an address lives in: pure, the same on every node. And which others have queues that are bound to a topic.

use std::collections::BTreeSet;
use std::sync::Arc;

use fluxmq_index::topic_trie;

pub use super::bindings::{Bindings, Found, LastRoutes};
use super::routing::Routes;
use crate::model::{Filter, Message, PartitionId, QoS, QueueName, Topic};
use crate::partition::request::Target;

/// Hash slots between keys and partitions: partitions can be moved by slot without hashing anew.
const SLOTS: u64 = 4096;

/// Where queues get a publish to a topic, beside those that are bound to it in its own partition.
#[derive(Clone, Debug, Default)]
pub struct Beyond {
    /// The partitions with such queues, that of the topic among them where exchanges route to queues there.
    pub partitions: Arc<[PartitionId]>,
    routes: Option<Arc<Routes>>,
}

/// The map from addresses to partitions. Clones share the bindings.
#[derive(Clone, Debug)]
pub struct Placement {
    data_partitions: u16,
    bindings: Arc<Bindings>,
    kept: Arc<[Filter]>,
}

impl Placement {
    /// Returns the map over partitions 1 to `data_partitions`. Panics if there is none.
    pub fn new(data_partitions: u16) -> Placement {
        assert!(data_partitions > 0, "a broker has at least one data partition");
        Placement { data_partitions, bindings: Arc::default(), kept: Arc::default() }
    }

    /// Has history keep what is published at QoS 0, too, where one of these matches its topic.
    pub fn keeping(self, filters: Vec<Filter>) -> Placement {
        Placement { kept: filters.into(), ..self }
    }

    /// Returns true for a message that history has only because a filter says so: the one place that decides it.
    pub fn keeps(&self, message: &Message) -> bool {
        let topic = message.topic.as_bytes();
        let matches = |filter: &Filter| topic_trie::matches(filter.as_bytes(), topic);
        !self.kept.is_empty()
            && message.qos == QoS::AtMostOnce
            && !message.retain
            && self.kept.iter().any(matches)
    }

    /// Lists the data partitions.
    pub fn data(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (1..=self.data_partitions).map(PartitionId)
    }

    /// Where messages of a topic are stored.
    pub fn topic(&self, topic: &Topic) -> PartitionId {
        self.place(topic.as_bytes(), 0)
    }

    /// Where messages that match a filter may be stored. The broker's own statistics are stored nowhere: one partition knows who
    /// subscribes to them.
    pub fn filter(&self, filter: &Filter) -> Vec<PartitionId> {
        match filter.is_literal() || filter.is_statistics() {
            true => vec![self.place(filter.as_bytes(), 0)],
            false => self.data().collect(),
        }
    }

    /// The home of a queue: its messages and its groups. Queues that have the same in braces live together.
    pub fn queue(&self, name: &QueueName) -> PartitionId {
        self.place(together(name.origin()).as_bytes(), 1)
    }

    /// What the partitions' queues are bound to.
    pub fn bindings(&self) -> &Arc<Bindings> {
        &self.bindings
    }

    /// Returns true when a queue may be bound to something.
    pub fn has_bindings(&self) -> bool {
        !self.bindings.is_empty()
    }

    /// The partitions that have queues bound to a topic; the last answer is remembered.
    pub fn bound_to(
        &self,
        topic: &Topic,
        is_unstored: bool,
        last: &mut Found,
    ) -> Arc<[PartitionId]> {
        self.bindings.find(topic, is_unstored, last)
    }

    /// Where queues get a publish to its topic; what was found last is remembered.
    pub fn beyond(
        &self,
        message: &Message,
        is_unstored: bool,
        (found, last): (&mut Found, &mut Option<Box<LastRoutes>>),
    ) -> Beyond {
        let partitions = self.bound_to(&message.topic, is_unstored, found);
        Beyond::of(partitions, self.bindings.route_on(message, last))
    }

    /// The home of a session.
    pub fn session(&self, client_id: &[u8]) -> PartitionId {
        self.place(client_id, 2)
    }

    fn place(&self, key: &[u8], seed: u64) -> PartitionId {
        let slot = xxhash_rust::xxh3::xxh3_64_with_seed(key, seed) % SLOTS;
        PartitionId(1 + (slot % u64::from(self.data_partitions)) as u16)
    }
}

impl Beyond {
    /// Partitions with queues that are bound to a topic, and what exchanges found.
    pub fn of(bound: Arc<[PartitionId]>, routes: Option<Arc<Routes>>) -> Beyond {
        let partitions = match &routes {
            None => bound,
            Some(routes) => {
                let homes = routes.homes.iter().map(|(home, _)| *home);
                let all: BTreeSet<PartitionId> = bound.iter().copied().chain(homes).collect();
                all.into_iter().collect()
            }
        };
        Beyond { partitions, routes }
    }

    /// Who gets the message in its topic's partition, where that stores it.
    pub fn topic(&self, home: PartitionId) -> Target {
        self.queues(home).map_or(Target::Topic, Target::TopicAnd)
    }

    /// Who gets a copy in a partition.
    pub fn bound(&self, at: PartitionId) -> Target {
        self.queues(at).map_or(Target::Bound, Target::BoundAnd)
    }

    fn queues(&self, at: PartitionId) -> Option<Arc<[QueueName]>> {
        let routes = self.routes.as_ref()?;
        let (_, queues) = routes.homes.iter().find(|(home, _)| *home == at)?;
        Some(queues.clone())
    }
}

/// What of a queue's name says where it lives: what is in its first braces, if anything is.
fn together(name: &str) -> &str {
    let inside = name.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    inside.map(|(inside, _)| inside).filter(|inside| !inside.is_empty()).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_literal_filter_is_where_its_topic_is() {
        let placement = Placement::new(4);
        for number in 0..100 {
            let text = Bytes::from(format!("a/{number}"));
            let topic = Topic::new(text.clone()).unwrap();
            let filter = Filter::new(text).unwrap();
            assert_eq!(placement.filter(&filter), [placement.topic(&topic)]);
        }
    }

    #[test]
    fn statistics_have_one_partition_whatever_the_wildcards() {
        let filter = |text: &'static str| Filter::new(Bytes::from_static(text.as_bytes())).unwrap();
        let placement = Placement::new(4);
        assert_eq!(placement.filter(&filter("$SYS/#")).len(), 1);
        assert_eq!(placement.filter(&filter("$SYSTEM/#")).len(), 4);
    }

    #[test]
    fn queues_with_the_same_in_braces_live_together() {
        let placement = Placement::new(64);
        let home = |name: &str| {
            placement.queue(&QueueName::from_text(Bytes::from(name.to_owned())).unwrap())
        };
        assert_eq!(home("{orders}.in"), home("out of {orders}{1}"));
        assert_eq!(home("{orders}"), home("orders"));
        assert_eq!(home("$dlq/{orders}.in"), home("orders"));
        for name in ["{}", "{orders", "}orders{", "{}orders"] {
            assert_eq!(home(name), placement.place(name.as_bytes(), 1), "{name}: the whole name");
        }
    }

    #[test]
    fn topics_spread_over_all_partitions() {
        let placement = Placement::new(4);
        let mut counts = [0; 4];
        for number in 0..4000 {
            let topic = Topic::new(Bytes::from(format!("t/{number}"))).unwrap();
            counts[usize::from(placement.topic(&topic).0) - 1] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
