//! Queues that follow history: I32. Each record that matches once, in the order of each partition, from where history began when the queue
//! was first asked for it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq::model::{PartitionId, Properties, Property};
use fluxmq_index::Offset;
use fluxmq_log::format::Message;

use super::super::{Invariant, Violation, wrong};
use super::{Queues, is_letter};
use crate::history::MessageId;

/// What is known of histories and of how far queues are in them.
#[derive(Debug, Default)]
pub struct Follows {
    /// By partition, what is published to topics.
    stored: BTreeMap<PartitionId, Vec<Stored>>,
    /// Where history begins.
    starts: BTreeMap<PartitionId, Offset>,
    /// Of queues for which it was asked.
    places: BTreeMap<(u64, PartitionId), Place>,
    /// Of the present frame, what came for which queue.
    brought: Vec<(u64, MessageId)>,
}

/// How far a queue is in the history of a partition.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    next: Offset,
    /// Where history began when it was first asked for: from then on it waits.
    start: Offset,
    /// The end of more of it may have been on its way then: nothing is brought before that has come.
    may_begin_later: bool,
}

#[derive(Debug)]
struct Stored {
    offset: Offset,
    id: MessageId,
    topic: Bytes,
}

/// Returns true for what was stored elsewhere before a queue was brought it; one that died in it and went back was not brought.
fn is_brought(message: &Message) -> bool {
    let is_source =
        |property| matches!(property, Property::User(key, _) if key == "x-source-timestamp");
    let properties = Properties::from_encoded(message.props.clone());
    !is_letter(message) && properties.iter().any(is_source)
}

impl Queues {
    /// Notes a message that is published, or that a queue is brought.
    pub(super) fn note_history(
        &mut self,
        (partition, offset): (PartitionId, Offset),
        (id, message): (MessageId, &Message),
        queues: &[u64],
    ) {
        let topic = message.topic.clone();
        if !topic.starts_with(b"$") {
            let stored = self.follows.stored.entry(partition).or_default();
            stored.push(Stored { offset, id, topic });
        }
        let follows =
            |queue: &&u64| self.by_id.get(queue).is_some_and(|queue| queue.settings.retroactive);
        let brought: Vec<u64> = queues.iter().filter(follows).copied().collect();
        if !brought.is_empty() && is_brought(message) {
            self.follows.brought.extend(brought.into_iter().map(|queue| (queue, id)));
        }
    }

    /// Somebody asks for what a history has for a queue.
    pub fn asks(&mut self, queue: u64, source: PartitionId) {
        let Follows { starts, places, .. } = &mut self.follows;
        let start = starts.get(&source).copied().unwrap_or_default();
        let asked = Place { start, may_begin_later: true, ..Place::default() };
        places.entry((queue, source)).or_insert(asked);
    }

    /// History ends below an offset.
    pub(super) fn end_history(&mut self, partition: PartitionId, to: Offset) {
        let Follows { starts, places, .. } = &mut self.follows;
        let start = starts.entry(partition).or_default();
        *start = to.max(*start);
        let asked = places.iter_mut().filter(|((_, source), _)| *source == partition);
        for (_, place) in asked.filter(|(_, place)| place.may_begin_later) {
            (place.start, place.may_begin_later) = (*start, false);
        }
    }

    /// I32: what a queue is brought is what comes next in the history of a partition.
    pub(super) fn follow(
        &mut self,
        queue: u64,
        source: PartitionId,
        next: Offset,
    ) -> Result<(), Violation> {
        let Follows { stored, places, brought, .. } = &mut self.follows;
        let mine = brought.extract_if(.., |(of, _)| *of == queue);
        let mine: Vec<MessageId> = mine.map(|(_, id)| id).collect();
        let Some(view) = self.by_id.get(&queue) else { return Ok(()) };
        let Some(place) = places.get_mut(&(queue, source)) else {
            return wrong(
                Invariant::I32,
                format!("{:?} is brought what nobody asked for", view.name),
            );
        };
        let from = std::mem::replace(&mut place.next, next);
        place.may_begin_later = false;
        let at = format!("{:?}, p{} from {from} to {next}", view.name, source.0);
        if next <= from {
            return wrong(Invariant::I32, format!("{at}: it goes back"));
        }
        let stored = stored.get(&source).map_or(&[][..], Vec::as_slice);
        let range = stored.partition_point(|it| it.offset < from)
            ..stored.partition_point(|it| it.offset < next);
        let matching = stored[range].iter().filter(|it| view.settings.is_bound_to(&it.topic));
        let wanted: Vec<&Stored> = matching.collect();
        let missing = wanted.len().saturating_sub(mine.len());
        let is_next = wanted[missing..].iter().map(|it| it.id).eq(mine.iter().copied());
        if !is_next {
            let wanted: BTreeSet<String> =
                wanted.iter().map(|it| format!("{:x} at {}", it.id, it.offset)).collect();
            return wrong(Invariant::I32, format!("{at}: brought {mine:x?}, not {wanted:?}"));
        }
        match wanted[..missing].iter().find(|it| it.offset >= place.start) {
            None => Ok(()),
            Some(lost) => {
                let what = format!("{at}: {:x} at {} is not brought", lost.id, lost.offset);
                wrong(Invariant::I32, format!("{what}; history began at {}", place.start))
            }
        }
    }

    /// Names a message of a history that a queue here does not have yet.
    pub fn unfollowed(&self) -> Option<String> {
        for (id, queue) in self.by_id.iter().filter(|(_, queue)| queue.settings.retroactive) {
            for (source, stored) in &self.follows.stored {
                let start = || self.follows.starts.get(source).copied().unwrap_or_default();
                let place = self.follows.places.get(&(*id, *source));
                let from = place.map_or_else(start, |place| place.next.max(place.start));
                let is_missing =
                    |it: &&Stored| it.offset >= from && queue.settings.is_bound_to(&it.topic);
                if let Some(it) = stored.iter().find(is_missing) {
                    let at = format!("{:x} at {} of p{}", it.id, it.offset, source.0);
                    return Some(format!("{:?} does not have {at}", queue.name));
                }
            }
        }
        None
    }
}
