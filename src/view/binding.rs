//! What the queues of a partition are bound to of exchanges.
//!
//! A binding ends with its queue, in the same log. Its exchange is another partition's: one to an exchange that is gone means nothing, and
//! goes when the queue is bound to a later one of the name. Who finds the way for publishes is told of all of them (ADR 0054); only
//! what is bound to topics is found here as well.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq_index::{Offset, TopicTrie};
use serde::{Deserialize, Serialize};

use super::section::{decode_each, encode_each};
use super::{SectionError, View};
use crate::model::{Control, ExchangeBinding, Millis, Record, TopicPattern};

/// The bindings of all queues, by id.
#[derive(Debug, Default)]
pub struct QueueBindings {
    by_queue: BTreeMap<u64, BTreeSet<ExchangeBinding>>,
    /// Derived: the queues that are bound to topics.
    topics: BTreeMap<TopicPattern, BTreeSet<u64>>,
    /// Derived: those of them whose patterns are filters.
    filters: TopicTrie<u64>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    queue: u64,
    /// As in their records.
    bindings: Vec<Vec<u8>>,
}

impl QueueBindings {
    /// Lists what a queue is bound to.
    pub fn of(&self, queue: u64) -> impl Iterator<Item = &ExchangeBinding> {
        self.by_queue.get(&queue).into_iter().flatten()
    }

    /// Lists all of them.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &ExchangeBinding)> {
        self.by_queue.iter().flat_map(|(queue, bindings)| bindings.iter().map(|it| (*queue, it)))
    }

    /// Returns true when a queue is bound just so.
    pub fn is_bound(&self, queue: u64, binding: &ExchangeBinding) -> bool {
        self.by_queue.get(&queue).is_some_and(|bindings| bindings.contains(binding))
    }

    /// Lists the bindings of a queue to earlier exchanges of the name of a binding's: they end with this one.
    pub fn replaced_by(&self, queue: u64, binding: &ExchangeBinding) -> Vec<ExchangeBinding> {
        let (name, declared) = (&binding.exchange.name, binding.exchange.declared);
        let all = self.of(queue).filter(|it| it.exchange.name == *name);
        all.filter(|it| it.exchange.declared < declared).cloned().collect()
    }

    /// Lists what queues are bound to of the topics, each once.
    pub fn topics(&self) -> impl Iterator<Item = &TopicPattern> {
        self.topics.keys()
    }

    /// Returns true when some queue is bound to topics just so.
    pub fn is_topic_bound(&self, pattern: &TopicPattern) -> bool {
        self.topics.contains_key(pattern)
    }

    /// Adds the queues that are bound to a topic, a queue once for each of its bindings that match.
    pub fn bound_to(&self, topic: &[u8], out: &mut Vec<u64>) {
        if self.topics.is_empty() {
            return;
        }
        self.filters.for_each_match(topic, |queue| out.push(*queue));
        let key = TopicPattern::key_of(topic);
        for (pattern, queues) in self.topics.range(TopicPattern::Words(Bytes::new())..) {
            let TopicPattern::Words(words) = pattern else { continue };
            if TopicPattern::matches(words, &key) {
                out.extend(queues);
            }
        }
    }

    fn insert(&mut self, queue: u64, binding: ExchangeBinding) {
        if let Some(pattern) = TopicPattern::of(&binding) {
            if let TopicPattern::Filter(filter) = &pattern {
                self.filters.insert(filter.as_bytes(), queue);
            }
            self.topics.entry(pattern).or_default().insert(queue);
        }
        self.by_queue.entry(queue).or_default().insert(binding);
    }

    fn remove(&mut self, queue: u64, binding: &ExchangeBinding) {
        let Some(bindings) = self.by_queue.get_mut(&queue) else { return };
        if !bindings.remove(binding) {
            return;
        }
        if bindings.is_empty() {
            self.by_queue.remove(&queue);
        }
        // Two bindings that differ in their arguments want the same topics.
        let pattern = TopicPattern::of(binding);
        let is_left = self.of(queue).any(|other| TopicPattern::of(other) == pattern);
        let Some(pattern) = pattern.filter(|_| !is_left) else { return };
        if let TopicPattern::Filter(filter) = &pattern {
            self.filters.remove(filter.as_bytes(), &queue);
        }
        if let Some(queues) = self.topics.get_mut(&pattern) {
            queues.remove(&queue);
            if queues.is_empty() {
                self.topics.remove(&pattern);
            }
        }
    }
}

impl View for QueueBindings {
    fn name(&self) -> &'static str {
        "bindings"
    }

    fn apply(&mut self, _at: Offset, _time: Millis, record: Record<'_>) {
        match record {
            Record::Control(Control::QueueBound { queue, binding }) => {
                for old in self.replaced_by(*queue, binding) {
                    self.remove(*queue, &old);
                }
                self.insert(*queue, binding.detached());
            }
            Record::Control(Control::QueueUnbound { queue, binding }) => {
                self.remove(*queue, binding);
            }
            Record::Control(Control::QueueDeleted { queue }) => {
                for binding in self.by_queue.get(queue).cloned().unwrap_or_default() {
                    self.remove(*queue, &binding);
                }
            }
            Record::Control(_) | Record::Message(..) => {}
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        let row = |(queue, bindings): (&u64, &BTreeSet<ExchangeBinding>)| Row {
            queue: *queue,
            bindings: bindings.iter().map(ExchangeBinding::to_bytes).collect(),
        };
        encode_each(self.by_queue.iter().map(row))
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        *self = QueueBindings::default();
        for row in decode_each(section)? {
            let Row { queue, bindings } = row?;
            for bytes in bindings {
                let binding = ExchangeBinding::from_bytes(&bytes.into());
                self.insert(queue, binding.ok_or(SectionError::Settings)?.detached());
            }
        }
        Ok(())
    }
}
