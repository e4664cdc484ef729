//! The newest retained message of each topic: where it is, not what it says.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use fluxmq_index::{Offset, topic_trie};

use serde::{Deserialize, Serialize};

use super::section::{decode_rows, encode_rows};
use super::{SectionError, View};
use crate::model::record::Retain;
use crate::model::{Control, Filter, Millis, QoS, Record};
use crate::planted::{PlantedBug, is_planted};

/// Retained messages by topic.
#[derive(Debug, Default)]
pub struct Retained {
    by_topic: BTreeMap<Bytes, RetainedMessage>,
    /// Of all of them: topics, properties and payloads.
    bytes: u64,
}

/// Where a topic's retained message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedMessage {
    offset: u64,
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

    /// Lists the records of unexpired retained messages that match, oldest first [MQTT-3.3.1-9].
    pub fn matching(&self, filter: &Filter, now: Millis) -> Vec<Offset> {
        let alive = |message: &RetainedMessage| message.expires_at.is_none_or(|at| at > now.0);
        if filter.is_literal() {
            let found = self.by_topic.get(filter.as_bytes()).filter(|message| alive(message));
            return found.map(RetainedMessage::offset).into_iter().collect();
        }
        let bytes = filter.as_bytes();
        let wildcard = bytes.iter().position(|byte| matches!(byte, b'+' | b'#')).unwrap_or(0);
        // `a/#` matches `a` too, so the separator before the wildcard is not part of the common prefix.
        let prefix = &bytes[..wildcard.saturating_sub(1)];
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let mut offsets: Vec<Offset> = self
            .by_topic
            .range::<[u8], _>(from)
            .take_while(|(topic, _)| topic.starts_with(prefix))
            .filter(|(topic, message)| alive(message) && topic_trie::matches(bytes, topic))
            .map(|(_, message)| message.offset())
            .collect();
        offsets.sort_unstable();
        offsets
    }
}

impl View for Retained {
    fn name(&self) -> &'static str {
        "retained"
    }

    fn apply(&mut self, at: Offset, _time: Millis, record: Record<'_>) {
        let Record::Message(message, _) = record else { return };
        if message.qos == QoS::AtMostOnce && is_planted(PlantedBug::RetainedSkipsQos0) {
            return;
        }
        match message.retain {
            Retain::No => {}
            Retain::Clear => {
                let old = self.by_topic.remove(&message.topic);
                self.bytes -= old.map_or(0, |old| u64::from(old.bytes));
            }
            Retain::Set => {
                let expires_at = message.expires_at().map(|at| at.0);
                let bytes = u32::try_from(message.len_bytes()).unwrap_or(u32::MAX);
                let retained = RetainedMessage { offset: at.0, expires_at, bytes };
                self.bytes += u64::from(bytes);
                match self.by_topic.get_mut(&message.topic) {
                    Some(_) if is_planted(PlantedBug::RetainedKeepsFirst) => {}
                    Some(old) => self.bytes -= u64::from(std::mem::replace(old, retained).bytes),
                    // A copy: the slice would keep its whole frame in memory for as long as the topic is retained.
                    None => {
                        self.by_topic.insert(Bytes::copy_from_slice(&message.topic), retained);
                    }
                }
            }
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        let rows: Vec<(&[u8], &RetainedMessage)> =
            self.by_topic.iter().map(|(topic, message)| (topic.as_ref(), message)).collect();
        encode_rows(&rows)
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        let rows = decode_rows::<Vec<(Vec<u8>, RetainedMessage)>>(section)?;
        self.bytes = rows.iter().map(|(_, message)| u64::from(message.bytes)).sum();
        self.by_topic = rows.into_iter().map(|(topic, at)| (Bytes::from(topic), at)).collect();
        Ok(())
    }
}
