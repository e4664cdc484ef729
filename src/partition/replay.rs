//! Replays: readers of their own that begin anywhere in the log and go on live.
//!
//! Reading on is `serve`, as for every reader that is behind. Here is where they begin, and what their deliveries say about themselves.

use fluxmq_index::{Offset, OffsetSet};
use fluxmq_log::disk::Disk;

use super::gap::Gap;
use super::history::{Fetched, HistoryError};
use super::request::{Attach, ConnectionId, Event, Newest, Outbox, Position};
use super::{Partition, RECORDS_PER_TURN_MAX};
use crate::model::annotations::StoredAt;
use crate::model::frame::decode;
use crate::model::{
    Annotations, Delivery, DeliveryId, Filter, Millis, ReaderId, Refusal, Subscription, Topic,
};

/// What a reader has to say for a replay.
#[derive(Debug, Default)]
pub struct Replay {
    /// Not said yet.
    gap: Option<Gap>,
    /// Said with a delivery, the last one that was.
    said: Option<(DeliveryId, Gap)>,
    /// Records ahead that were retained messages when the replay began: they answer its subscription too [MQTT-3.3.1-8].
    retained: OffsetSet,
}

impl Replay {
    /// A replay that begins.
    pub fn new(gap: Option<Gap>, retained: OffsetSet) -> Replay {
        Replay { gap, said: None, retained }
    }

    /// More records are not kept.
    pub fn missed(&mut self, count: u64) {
        self.gap = Some(Gap::Records(count).after(self.gap));
    }

    /// Says a gap again if the delivery that said it comes again.
    pub fn unsay(&mut self, comes_again: impl FnOnce(DeliveryId) -> bool) {
        if let Some((_, gap)) = self.said.take_if(|(id, _)| comes_again(*id)) {
            self.gap = Some(self.gap.map_or(gap, |later| later.after(Some(gap))));
        }
    }

    /// Adds what a replay says beside the message: where it is, and once what is missing before it.
    pub fn annotate(&mut self, delivery: &mut Delivery, time: Millis) {
        delivery.annotations = annotations(delivery.id, time);
        if let Some(gap) = self.gap.take() {
            self.said = Some((delivery.id, gap));
            delivery.annotations.tell("x-gap", gap.to_string());
        }
        if self.retained.contains(delivery.id.offset) {
            delivery.retain = true;
        }
    }
}

/// Says where in the log a replayed message is; nothing about others.
pub fn annotations(id: DeliveryId, time: Millis) -> Annotations {
    let mut annotations = Annotations::default();
    if id.source.reader().is_some_and(ReaderId::is_replay) {
        annotations.comes_from(StoredAt { time, partition: Some(id.partition) });
    }
    annotations
}

impl<D: Disk> Partition<D> {
    /// Begins a replay, goes on with one of an earlier connection, or takes other options for one that is read already.
    pub(super) fn attach_replay(
        &mut self,
        from: ConnectionId,
        attach: Attach,
        out: &mut impl Outbox,
    ) {
        let (reader, token) = (attach.reader, attach.token);
        let start = self.begin(from, attach).map_err(|error| {
            tracing::error!(partition = self.id.0, %error, "cannot begin a replay");
            Refusal::Unavailable { partition: self.id.0 }
        });
        out.send(from, Event::Attached { reader, token, start, cut: None });
    }

    fn begin(&mut self, from: ConnectionId, attach: Attach) -> Result<Offset, HistoryError> {
        let end = self.applied.end;
        let (mut start, mut gap) = (end, None);
        if let Some(position) = attach.position {
            (start, gap) = self.locate_record(position)?;
        }
        let slot = self.readers.open((from, attach.reader), attach.publisher, attach.credit);
        for ((subscription, resumed), retained) in
            attach.subscriptions.into_iter().zip(attach.retained)
        {
            start = resumed.unwrap_or(start);
            let filter = Subscription::clone(&subscription).filter;
            let id = self.readers.subscribe(slot, subscription, start, end);
            let (mut before, mut ahead) = (Vec::new(), OffsetSet::default());
            if retained {
                // Every record comes once: a retained message that the replay meets is sent in its place.
                for (published, stored) in self.views.retained.matching(&filter, self.now) {
                    match published < start {
                        true => before.push(stored),
                        false => drop(ahead.insert(published)),
                    }
                }
            }
            if attach.position.is_some() {
                self.readers.begin_replay(slot, gap, ahead);
            }
            self.readers.queue_retained(slot, id, before);
        }
        if !attach.outbound.is_empty() {
            self.readers.resume(slot, start, &attach.outbound);
        }
        Ok(start)
    }

    /// Finds the offset that a position means, and what is missing there.
    fn locate_record(&self, position: Position) -> Result<(Offset, Option<Gap>), HistoryError> {
        let (first, end) = (self.history_start(), self.applied.end);
        Ok(match position {
            Position::Earliest | Position::Resume => (first, None),
            Position::Latest => (end, None),
            // Below the first record is a gap, and reading finds it.
            Position::At(offset) => (offset.min(end), None),
            Position::Last(count) => (Offset(end.0.saturating_sub(count)).max(first), None),
            Position::Time(time) => {
                let at = self.first_of(time)?.max(first).min(end);
                (at, (at == first && first > Offset::ZERO).then_some(Gap::Unknown))
            }
        })
    }

    /// Finds the first record of a time or later.
    pub(super) fn first_of(&self, time: Millis) -> Result<Offset, HistoryError> {
        let at = self.log().offset_at_time(time.0)?;
        // The log finds the frame that reaches this time; it may have begun earlier.
        for frame in self.log().read(at, 1)? {
            for record in decode(&frame)? {
                let (offset, recorded, _) = record?;
                if recorded >= time {
                    return Ok(offset);
                }
            }
        }
        Ok(at)
    }

    /// Lists the newest messages below `before` that match a filter.
    pub(super) fn newest(
        &mut self,
        filter: &Filter,
        before: Option<Offset>,
        count: usize,
    ) -> Result<Newest, Refusal> {
        let end = self.applied.end;
        let below = before.map_or(end, |before| before.min(end));
        let listed = self.list_newest(filter, below, count.clamp(1, RECORDS_PER_TURN_MAX));
        listed.map_err(|error| {
            tracing::error!(partition = self.id.0, %error, "cannot find the newest messages");
            Refusal::Unavailable { partition: self.id.0 }
        })
    }

    fn list_newest(
        &mut self,
        filter: &Filter,
        below: Offset,
        count: usize,
    ) -> Result<Newest, HistoryError> {
        let first = self.history_start();
        let log = self.node.log();
        let filters = std::slice::from_ref(filter);
        let from = self.history.newest(log, filters, (first, below), count)?;
        let range = (from.unwrap_or(first), below);
        let mut found = Vec::with_capacity(count);
        for offset in self.history.select(log, filters, range, usize::MAX)?.offsets {
            let message = self.history.fetch(log, offset)?;
            let ages = &self.options.topic_ages;
            let is_gone = |it: &Fetched| it.is_expired(self.now) || ages.is_over(it, self.now);
            if let Some(message) = message.filter(|message| !is_gone(message)) {
                found.push((message.time, offset, Topic::from_stored(message.topic.clone())));
            }
        }
        found.reverse();
        Ok(Newest { found, before: from, end: self.applied.end })
    }
}
