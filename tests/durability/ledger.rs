//! What was sent, what was confirmed, what was heard; and the rules between them.

use std::collections::{BTreeMap, BTreeSet};

/// The messages of one publisher. Message `n` goes to topic `n % topics.len()`, so each topic's numbers increase.
#[derive(Clone, Debug)]
pub struct Sent {
    /// In turn.
    pub topics: Vec<String>,
    /// Messages 0 up to, not including, this were given to the client.
    pub count: u64,
    /// Those the broker has confirmed.
    pub confirmed: BTreeSet<u64>,
}

impl Sent {
    /// A publisher that has not begun.
    pub fn new(topics: Vec<String>) -> Sent {
        Sent { topics, count: 0, confirmed: BTreeSet::new() }
    }

    /// Returns where a message goes.
    pub fn topic(&self, number: u64) -> &str {
        &self.topics[number as usize % self.topics.len()]
    }
}

/// Returns the body of a message: its number, and what only this message has.
pub fn body(topic: &str, number: u64) -> Vec<u8> {
    let mut body = format!("{number} {topic} ").into_bytes();
    let length = body.len() + (number * 37 % 300) as usize;
    body.resize(length, b'a' + (number % 26) as u8);
    body
}

/// How often a message may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Copies may come at any time; first copies come in order.
    AtLeastOnce,
    /// No copies.
    ExactlyOnce,
}

/// What one subscriber was given. Every rule that can be checked when a message comes is checked then.
#[derive(Debug)]
pub struct Heard {
    promise: Promise,
    by_topic: BTreeMap<String, BTreeSet<u64>>,
    /// Messages that came again.
    pub copies: u64,
}

impl Heard {
    /// Nothing yet.
    pub fn new(promise: Promise) -> Heard {
        Heard { promise, by_topic: BTreeMap::new(), copies: 0 }
    }

    /// Takes a delivery. Panics when it is not what was sent, not in order, or not the first where only one may come.
    pub fn on_message(&mut self, who: &str, topic: &str, payload: &[u8]) {
        let text = String::from_utf8_lossy(payload);
        let number = text.split(' ').next().and_then(|number| number.parse::<u64>().ok());
        let number = number.unwrap_or_else(|| panic!("{who}: {topic}: not ours: {text}"));
        assert!(payload == body(topic, number), "{who}: {topic}: {number} is altered: {text}");
        let heard = self.by_topic.entry(topic.to_owned()).or_default();
        let last = heard.last().copied();
        if heard.insert(number) {
            assert!(
                last.is_none_or(|last| last < number),
                "{who}: {topic}: {number} comes first after {last:?}"
            );
        } else {
            assert_eq!(
                self.promise,
                Promise::AtLeastOnce,
                "{who}: {topic}: {number} comes twice; the last new one was {last:?}"
            );
            self.copies += 1;
        }
    }

    /// Returns how many different messages came.
    pub fn count(&self) -> usize {
        self.by_topic.values().map(BTreeSet::len).sum()
    }

    /// Returns confirmed messages of a publisher, on the topics that `wanted` names, that have not come.
    pub fn missing(&self, sent: &Sent, wanted: impl Fn(&str) -> bool) -> Vec<(String, u64)> {
        let nothing = BTreeSet::new();
        let lacks = |number: &u64| {
            let topic = sent.topic(*number);
            wanted(topic) && !self.by_topic.get(topic).unwrap_or(&nothing).contains(number)
        };
        let missing = sent.confirmed.iter().copied().filter(lacks);
        missing.map(|number| (sent.topic(number).to_owned(), number)).collect()
    }

    /// Panics when something came that none of the publishers sent.
    pub fn assert_nothing_invented(&self, who: &str, all: &[Sent]) {
        for (topic, numbers) in &self.by_topic {
            let sent = all.iter().find(|sent| sent.topics.contains(topic));
            let sent = sent.unwrap_or_else(|| panic!("{who}: nobody publishes to {topic}"));
            for number in numbers {
                let is_theirs = *number < sent.count && sent.topic(*number) == topic;
                assert!(is_theirs, "{who}: {topic}: {number} was never published");
            }
        }
    }
}
