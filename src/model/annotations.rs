//! What the broker says of a delivery beside the message, by the names of `docs/concepts/queues`.
//!
//! Most of it is the same for all that a consumer is handed, or is in the delivery's id: it is kept as that, and made into text for who
//! writes it.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;

use super::{Millis, PartitionId, QueueName};

/// What is said of a delivery. Cloning shares what is the consumer's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// Of an entry: whose.
    consumer: Option<Arc<ConsumerNames>>,
    /// How often the entry came back.
    delivery_count: u32,
    /// Of what is read of a stream or a history.
    stored_at: Option<StoredAt>,
    more: Option<Box<More>>,
}

/// Where and when something is stored, for those who read streams and histories; its offset is the delivery's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAt {
    /// Its log time.
    pub time: Millis,
    /// Of a history: offsets are a partition's. A stream has its own.
    pub partition: Option<PartitionId>,
}

/// The names that are said of every delivery to a consumer of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerNames {
    /// The queue it reads.
    pub queue: QueueName,
    /// The group it reads with.
    pub group: QueueName,
}

/// What is said of few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    /// Names and values, in their order.
    told: Vec<(&'static str, String)>,
    /// The topic it was published to, where that is not the queue's.
    source_topic: Option<Bytes>,
}

impl Annotations {
    /// Of a queue's entry, handed to a consumer after it came back so often.
    pub fn of_entry(consumer: Arc<ConsumerNames>, delivery_count: u32) -> Annotations {
        Annotations { consumer: Some(consumer), delivery_count, stored_at: None, more: None }
    }

    /// Says where in a stream or a history it is.
    pub fn comes_from(&mut self, place: StoredAt) {
        self.stored_at = Some(place);
    }

    /// Adds something of this delivery.
    pub fn tell(&mut self, name: &'static str, value: String) {
        self.more.get_or_insert_default().told.push((name, value));
    }

    /// Says where it was published.
    pub fn came_by(&mut self, source_topic: Bytes) {
        self.more.get_or_insert_default().source_topic = Some(source_topic);
    }

    /// Returns true when nothing is said.
    pub fn is_empty(&self) -> bool {
        self.consumer.is_none() && self.stored_at.is_none() && self.more.is_none()
    }

    /// How often the entry came back.
    pub fn delivery_count(&self) -> u32 {
        self.delivery_count
    }

    /// Where in a stream or a history it is.
    pub fn stored_at(&self) -> Option<StoredAt> {
        self.stored_at
    }

    /// The topic it was published to, where that is not the queue's.
    pub fn source_topic(&self) -> Option<&Bytes> {
        self.more.as_ref()?.source_topic.as_ref()
    }

    /// What was added of this delivery.
    pub fn told(&self) -> &[(&'static str, String)] {
        self.more.as_ref().map_or(&[], |more| &more.told)
    }

    /// Says everything of a delivery with that offset, in the order in which it is documented.
    pub fn each(&self, offset: Offset, mut say: impl FnMut(&'static str, &str)) {
        let mut text = String::new();
        let mut number = |prefix: &[&str], number: u64, name, say: &mut dyn FnMut(_, &str)| {
            text.clear();
            // Once for all: nothing that comes later is longer than the first.
            text.reserve(prefix.iter().map(|part| part.len()).sum::<usize>() + 20);
            prefix.iter().for_each(|part| text.push_str(part));
            // Writing to a string does not fail.
            let _ = write!(text, "{number}");
            say(name, &text);
        };
        if let Some(names) = &self.consumer {
            let queue = names.queue.as_str();
            number(&[queue, ":"], offset.0, "message-id", &mut say);
            say("group-id", names.group.as_str());
            say("queue", queue);
            number(&[], offset.0, "offset", &mut say);
            if self.delivery_count > 0 {
                number(&[], self.delivery_count.into(), "delivery-count", &mut say);
            }
        }
        if let Some(place) = self.stored_at {
            number(&[], offset.0, "x-stream-offset", &mut say);
            if let Some(partition) = place.partition {
                number(&[], partition.0.into(), "x-stream-partition", &mut say);
            }
            number(&[], place.time.0, "x-stream-timestamp", &mut say);
        }
        for (name, value) in self.told() {
            say(name, value);
        }
        if let Some(topic) = self.source_topic() {
            say("x-source-topic", &String::from_utf8_lossy(topic));
        }
    }

    /// One of them, by its name.
    pub fn get(&self, offset: Offset, name: &str) -> Option<String> {
        let mut found = None;
        self.each(offset, |said, value| {
            if said == name {
                found = Some(value.to_owned());
            }
        });
        found
    }
}

impl FromIterator<(&'static str, String)> for Annotations {
    fn from_iter<T: IntoIterator<Item = (&'static str, String)>>(told: T) -> Annotations {
        let mut annotations = Annotations::default();
        told.into_iter().for_each(|(name, value)| annotations.tell(name, value));
        annotations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &'static str) -> QueueName {
        QueueName::new(Bytes::from_static(name.as_bytes())).expect("a name")
    }

    fn all(annotations: &Annotations) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        annotations.each(Offset(41), |name, value| all.push((name, value.to_owned())));
        all
    }

    #[test]
    fn an_entry_is_named_by_its_queue_and_offset() {
        let names = Arc::new(ConsumerNames { queue: name("jobs"), group: name("workers") });
        let mut first = Annotations::of_entry(names.clone(), 0);
        let said = [("message-id", "jobs:41"), ("group-id", "workers"), ("queue", "jobs")];
        let mut said: Vec<_> = said.map(|(name, value)| (name, value.to_owned())).into();
        said.push(("offset", "41".to_owned()));
        assert_eq!(all(&first), said);

        first.tell("x-gap", "3".to_owned());
        first.came_by(Bytes::from_static(b"a/b"));
        said.push(("x-gap", "3".to_owned()));
        said.push(("x-source-topic", "a/b".to_owned()));
        assert_eq!(all(&first), said);

        first.comes_from(StoredAt { time: Millis(1_000), partition: None });
        let at = said.len() - 2;
        said.insert(at, ("x-stream-timestamp", "1000".to_owned()));
        said.insert(at, ("x-stream-offset", "41".to_owned()));
        assert_eq!(all(&first), said);

        let again = Annotations::of_entry(names, 2);
        assert_eq!(again.get(Offset(41), "delivery-count").as_deref(), Some("2"));
        assert_eq!(again.get(Offset(41), "x-gap"), None);
    }

    #[test]
    fn nothing_is_said_of_what_no_queue_has() {
        assert!(Annotations::default().is_empty());
        assert_eq!(all(&Annotations::default()), []);
        let mut replayed = Annotations::default();
        replayed.comes_from(StoredAt { time: Millis(1), partition: Some(PartitionId(3)) });
        let said =
            [("x-stream-offset", "41"), ("x-stream-partition", "3"), ("x-stream-timestamp", "1")];
        assert_eq!(all(&replayed), said.map(|(name, value)| (name, value.to_owned())));
    }
}
