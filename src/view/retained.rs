//! The newest retained message of each topic: where it is, not what it says.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use fluxmq_index::{Offset, topic_trie};

use serde::{Deserialize, Serialize};

use super::section::{decode_each, encode_each};
use super::{SectionError, View};
use crate::model::record::Retain;
use crate::model::{Control, Filter, Millis, QoS, Record};
use crate::planted::{PlantedBug, is_planted};

/// Retained messages by topic.
#[derive(Debug, Default)]
pub struct Retained {
    by_topic: BTreeMap<Bytes, RetainedMessage>,
    /// Derived: the same by record, each with the log time at which it expires.
    by_offset: BTreeMap<Offset, Option<u64>>,
    /// Of all of them: topics, properties and payloads.
    bytes: u64,
}

/// Where a topic's retained message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedMessage {
    offset: u64,
    /// Where it was published: its record may have been stored again since.
    published: u64,
    expires_at: Option<u64>,
    bytes: u32,
}

impl RetainedMessage {
    /// Bytes of its topic, properties and payload.
    pub fn bytes(&self) -> u64 {
        u64::from(self.bytes)
    }

    /// Log time from which on it is not delivered any more; `None` is never.
    pub fn expires_at(&self) -> Option<Millis> {
        self.expires_at.map(Millis)
    }

    /// Its record.
    pub fn offset(&self) -> Offset {
        Offset(self.offset)
    }
}

impl Retained {
    /// Returns how many topics have one.
    pub fn len(&self) -> usize {
        self.by_topic.len()
    }

    /// Returns true when no topic has one.
    pub fn is_empty(&self) -> bool {
        self.by_topic.is_empty()
    }

    /// Returns the bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns a topic's.
    pub fn get(&self, topic: &[u8]) -> Option<&RetainedMessage> {
        self.by_topic.get(topic)
    }

    /// Lists all of them by topic, expired ones that nothing has replaced included.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &RetainedMessage)> {
        self.by_topic.iter()
    }

    /// Lists the records of retained messages that are not expired, oldest first.
    pub fn alive(&self, now: Millis) -> impl Iterator<Item = Offset> {
        let alive = move |(_, expires_at): &(&Offset, &Option<u64>)| {
            expires_at.is_none_or(|at| at > now.0) && !is_planted(PlantedBug::NeedsUnheeded)
        };
        self.by_offset.iter().filter(alive).map(|(offset, _)| *offset)
    }

    fn put(&mut self, topic: &Bytes, retained: RetainedMessage) {
        self.bytes += u64::from(retained.bytes);
        self.by_offset.insert(retained.offset(), retained.expires_at);
        match self.by_topic.get_mut(topic) {
            Some(old) => {
                let old = std::mem::replace(old, retained);
                self.bytes -= u64::from(old.bytes);
                self.by_offset.remove(&old.offset());
            }
            // A copy: the slice would keep its whole frame in memory for as long as the topic is retained.
            None => {
                self.by_topic.insert(Bytes::copy_from_slice(topic), retained);
            }
        }
    }

    fn take(&mut self, topic: &Bytes) {
        if let Some(old) = self.by_topic.remove(topic) {
            self.bytes -= u64::from(old.bytes);
            self.by_offset.remove(&old.offset());
        }
    }

    /// Nobody is given what has expired: it goes with the history that holds it.
    fn lose_history(&mut self, to: Offset, time: Millis) {
        let is_over = |expires_at: &Option<u64>| expires_at.is_some_and(|at| at <= time.0);
        if !self.by_offset.range(..to).any(|(_, expires_at)| is_over(expires_at)) {
            return;
        }
        let gone =
            |message: &RetainedMessage| message.offset() < to && is_over(&message.expires_at);
        let topics = self.by_topic.iter().filter(|(_, message)| gone(message));
        for topic in topics.map(|(topic, _)| topic.clone()).collect::<Vec<Bytes>>() {
            self.take(&topic);
        }
    }

    /// Lists the unexpired retained messages that match, oldest first [MQTT-3.3.1-9]: where each was published, and where its record is.
    pub fn matching(&self, filter: &Filter, now: Millis) -> Vec<(Offset, Offset)> {
        let alive = |message: &RetainedMessage| message.expires_at.is_none_or(|at| at > now.0);
        let places = |message: &RetainedMessage| (Offset(message.published), message.offset());
        if filter.is_literal() {
            let found = self.by_topic.get(filter.as_bytes()).filter(|message| alive(message));
            return found.map(places).into_iter().collect();
        }
        let bytes = filter.as_bytes();
        let wildcard = bytes.iter().position(|byte| matches!(byte, b'+' | b'#')).unwrap_or(0);
        // `a/#` matches `a` too, so the separator before the wildcard is not part of the common prefix.
        let prefix = &bytes[..wildcard.saturating_sub(1)];
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let mut found: Vec<(Offset, Offset)> = self
            .by_topic
            .range::<[u8], _>(from)
            .take_while(|(topic, _)| topic.starts_with(prefix))
            .filter(|(topic, message)| alive(message) && topic_trie::matches(bytes, topic))
            .map(|(_, message)| places(message))
            .collect();
        found.sort_unstable();
        found
    }
}

impl View for Retained {
    fn name(&self) -> &'static str {
        "retained"
    }

    fn apply(&mut self, at: Offset, time: Millis, record: Record<'_>) {
        let message = match record {
            Record::Message(message, _) => message,
            Record::Control(Control::HistoryTrimmed { to }) => return self.lose_history(*to, time),
            Record::Control(Control::Moved { from, message, .. }) => {
                // Another may have replaced it meanwhile.
                let old = self.by_topic.get(&message.topic).filter(|old| old.offset() == *from);
                if let Some(old) = old.copied().filter(|_| !is_planted(PlantedBug::MovedUnseen)) {
                    self.put(&message.topic, RetainedMessage { offset: at.0, ..old });
                }
                return;
            }
            Record::Control(_) => return,
        };
        if message.qos == QoS::AtMostOnce && is_planted(PlantedBug::RetainedSkipsQos0) {
            return;
        }
        match message.retain {
            Retain::No => {}
            Retain::Clear => self.take(&message.topic),
            Retain::Set => {
                let is_first = !self.by_topic.contains_key(&message.topic);
                let expires_at = message.expires_at().map(|at| at.0);
                let bytes = u32::try_from(message.len_bytes()).unwrap_or(u32::MAX);
                if is_first || !is_planted(PlantedBug::RetainedKeepsFirst) {
                    let (offset, published) = (at.0, at.0);
                    let retained = RetainedMessage { offset, published, expires_at, bytes };
                    self.put(&message.topic, retained);
                }
            }
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        encode_each(self.by_topic.iter().map(|(topic, message)| (topic.as_ref(), message)))
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        *self = Retained::default();
        for row in decode_each::<(Vec<u8>, RetainedMessage)>(section)? {
            let (topic, message) = row?;
            self.bytes += u64::from(message.bytes);
            self.by_offset.insert(message.offset(), message.expires_at);
            self.by_topic.insert(Bytes::from(topic), message);
        }
        Ok(())
    }
}
