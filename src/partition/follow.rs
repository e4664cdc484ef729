//! Retroactive queues: what a partition's history has for them, and taking it over where they live (ADR 0049).
//!
//! A connection of the process, the courier, is told which queues follow and where each is, reads the histories, and brings what is new.
//! What it brings and the place behind it are one frame, taken only where the queue is at the place before it: whatever is repeated or
//! lost on the way, the queue has each record once, in the order of its log. History stays until every queue that follows it has it
//! (ADR 0043).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::{Offset, TopicTrie};
use fluxmq_log::disk::Disk;

use super::batch::Stamp;
use super::patience::{PATIENCE_MS, Said};
use super::request::{
    ConnectionId, Event, Followed, Following, Outbox, Publish, ReadHistory, ReadOn, Target,
};
use super::stage::Waiting;
use super::{Partition, PartitionError, RECORDS_PER_TURN_MAX};
use crate::model::address::captured_topic;
use crate::model::record::{DedupKey, Tenure, queue_id};
use crate::model::{
    Control, Message, Millis, Properties, Property, QueueName, QueueSettings, Refusal,
    StoredMessage, Token, Topic,
};
use crate::planted::{PlantedBug, is_planted};

/// For so long a leader that begins, or loses who brings history to queues, lets none of it go, by log time and by ticks of 100 ms, as a
/// clock may jump: it may not have heard yet of all queues that follow it.
const HEARD_AFTER_MS: u64 = 2 * PATIENCE_MS;
const HEARD_AFTER_TICKS: u64 = HEARD_AFTER_MS / 100;
/// Bytes of messages that are brought together, and one more message.
const TAKEN_BYTES_MAX: usize = 1 << 20;

/// Who waits for more of this partition's history.
#[derive(Debug, Default)]
pub(super) struct Follows {
    /// When it was said which queues here follow: whoever brings their history may have lost it on the way.
    called: Option<Said>,
    waiting: BTreeMap<Waits, (Arc<QueueSettings>, Offset)>,
    /// What those wait for that have read everything.
    filters: TopicTrie<Waits>,
    /// Those for whom there may be something.
    ready: BTreeSet<Waits>,
    /// Each queue that follows this history: what it asked last, and where it goes on. It has what is below.
    places: BTreeMap<(ConnectionId, QueueName), (Token, Offset)>,
    /// From when on every queue is among them.
    heard_at: Said,
}

type Waits = (ConnectionId, Token);

impl Follows {
    /// Says in the next turn which queues follow.
    pub(super) fn call(&mut self) {
        self.called = None;
    }

    /// From now on queues say that they follow.
    pub(super) fn begin(&mut self, now: Said) {
        let Said { at, tick } = now;
        self.heard_at = Said { at: at.plus(HEARD_AFTER_MS), tick: tick + HEARD_AFTER_TICKS };
    }

    /// Returns the first offset that a queue may not have yet: no history goes from there on.
    pub(super) fn pinned(&self, now: Said) -> Option<Offset> {
        if is_planted(PlantedBug::FollowersUnheeded) {
            return None;
        }
        if now.at < self.heard_at.at || now.tick < self.heard_at.tick {
            return Some(Offset::ZERO);
        }
        let places = self.places.iter().filter_map(|((connection, _), (token, asked))| {
            let who = (*connection, *token);
            match self.waiting.get(&who) {
                // On its way, or lost there.
                None => Some(*asked),
                Some((_, next)) if self.ready.contains(&who) => Some(*next),
                // It has seen everything that there is.
                Some(_) => None,
            }
        });
        places.min()
    }

    /// A message was applied.
    pub(super) fn applied(&mut self, topic: &[u8]) {
        if !self.waiting.is_empty() {
            let ready = &mut self.ready;
            self.filters.for_each_match(topic, |who| {
                ready.insert(*who);
            });
        }
    }

    /// A connection is gone: whoever brings what a queue follows from now on has to say so first.
    pub(super) fn forget(&mut self, connection: ConnectionId, now: Said) {
        let range = (connection, Token(0))..=(connection, Token(u64::MAX));
        for who in self.waiting.range(range).map(|(who, _)| *who).collect::<Vec<_>>() {
            self.remove(who);
        }
        let known = self.places.len();
        self.places.retain(|(of, _), _| *of != connection);
        if self.places.len() < known {
            self.begin(now);
        }
    }

    /// Leadership is gone.
    pub(super) fn resign(&mut self) -> BTreeSet<ConnectionId> {
        let Follows { waiting, places, .. } = std::mem::take(self);
        let who = waiting.into_keys().map(|(connection, _)| connection);
        who.chain(places.into_keys().map(|(connection, _)| connection)).collect()
    }

    fn remove(&mut self, who: Waits) {
        self.ready.remove(&who);
        let Some((settings, _)) = self.waiting.remove(&who) else { return };
        for filter in &settings.bindings {
            self.filters.remove(filter.as_bytes(), &who);
        }
    }
}

impl<D: Disk> Partition<D> {
    /// Now, as what is said is remembered.
    pub(super) fn said_now(&self) -> Said {
        Said { at: self.now, tick: self.ticks }
    }

    /// Says which queues here follow, when it is time to.
    pub(super) fn call_for_history(&mut self, out: &mut impl Outbox) {
        let Some(courier) = self.letters.courier() else { return };
        let now = self.said_now();
        if self.follows.called.is_some_and(|called| !called.is_long_ago(now)) {
            return;
        }
        self.follows.called = Some(now);
        for id in self.views.queues.retroactive() {
            let Some((name, settings)) = self.queue(id) else { continue };
            let following = Following {
                queue: QueueName::from_stored(name.clone()),
                settings: settings.clone(),
                places: self.views.follows.places(id).collect(),
            };
            out.send(courier, Event::Follow(Box::new(following)));
        }
    }

    /// Notes who wants more of this partition's history.
    pub(super) fn read_on(&mut self, from: ConnectionId, read: ReadOn) {
        let who = (from, read.token);
        self.follows.places.insert((from, read.queue), (read.token, read.from));
        self.follows.waiting.insert(who, (read.settings, read.from));
        self.follows.ready.insert(who);
    }

    /// A queue is gone, and with it what it waited for.
    pub(super) fn read_no_more(&mut self, from: ConnectionId, queue: QueueName) {
        if let Some((token, _)) = self.follows.places.remove(&(from, queue)) {
            self.follows.remove((from, token));
        }
    }

    /// Tells the courier of a retroactive queue that is gone.
    pub(super) fn follow_ended(&self, name: &Bytes, out: &mut impl Outbox) {
        if let Some(courier) = self.letters.courier().filter(|_| self.leading.is_some()) {
            out.send(courier, Event::FollowEnded(QueueName::from_stored(name.clone())));
        }
    }

    /// Reads for those who wait, one segment each in a turn; true when some have not read everything. What history loses now it loses
    /// before they read.
    pub(super) fn serve_followers(
        &mut self,
        out: &mut impl Outbox,
    ) -> Result<bool, PartitionError> {
        if self.retention.is_trimming() {
            return Ok(false);
        }
        for who in std::mem::take(&mut self.follows.ready) {
            let Some((settings, from)) = self.follows.waiting.get(&who).cloned() else { continue };
            let found = self.read_history(&settings, from)?;
            if !found.messages.is_empty() {
                self.follows.remove(who);
                out.send(who.0, Event::ReadOn { token: who.1, found });
                continue;
            }
            if found.next < self.applied.end {
                self.follows.ready.insert(who);
            } else {
                for filter in &settings.bindings {
                    self.follows.filters.insert(filter.as_bytes(), who);
                }
            }
            self.follows.waiting.insert(who, (settings, found.next));
        }
        Ok(!self.follows.ready.is_empty())
    }

    fn read_history(
        &mut self,
        settings: &QueueSettings,
        from: Offset,
    ) -> Result<ReadHistory, PartitionError> {
        let from = from.max(self.history_start()).min(self.applied.end);
        let log = self.node.log();
        let bases = log.segments().into_iter().map(|segment| segment.base_offset);
        let end = bases.filter(|base| *base > from).fold(self.applied.end, Offset::min);
        let limit = RECORDS_PER_TURN_MAX;
        let found = self.history.select(log, &settings.bindings, (from, end), limit)?;
        let (mut messages, mut bytes, mut next) = (Vec::new(), 0, found.next);
        for offset in found.offsets {
            if bytes > TAKEN_BYTES_MAX {
                next = offset;
                break;
            }
            let message = self.history.fetch(log, offset)?;
            let ages = &self.options.topic_ages;
            if let Some(message) = message.filter(|message| !ages.is_over(message, self.now)) {
                bytes += message.len_bytes();
                messages.push(message.into_message());
            }
        }
        if messages.len() > 1 && is_planted(PlantedBug::HistoryLeftOut) {
            messages.pop();
        }
        Ok(ReadHistory { messages, next })
    }

    /// Takes over what a history has for a queue here.
    pub(super) fn follow(&mut self, from: ConnectionId, followed: Followed, out: &mut impl Outbox) {
        let token = followed.token;
        if let Err(refusal) = self.may_follow(&followed) {
            return out.send(from, Event::Confirm { token, result: Err(refusal) });
        }
        self.store_followed(followed);
        let waiting = Waiting::Confirm { to: from, token, result: true, may_be_copy: false };
        self.answer_with_next(waiting, out);
    }

    fn may_follow(&self, followed: &Followed) -> Result<(), Refusal> {
        let Followed { queue, settings, source, from, .. } = followed;
        let id = queue_id(queue.as_bytes());
        let is_there = self.views.queues.get(id).is_some_and(|view| {
            view.settings().retroactive && view.settings().bindings == settings.bindings
        });
        let is_changing = self.overlay.queues.contains_key(&id);
        let is_next = is_planted(PlantedBug::HistoryTakenAgain)
            || self.views.follows.next(id, *source) == *from
                && !self.overlay.following.contains(&(id, *source));
        if self.disk_full {
            return Err(Refusal::DiskFull);
        }
        if is_there && !is_changing && is_next {
            return Ok(());
        }
        let reason = format!("queue '{queue}' is not at offset {from} of partition {}", source.0);
        Err(Refusal::Invalid { reason })
    }

    /// Stores messages and the place behind them: all in one frame.
    fn store_followed(&mut self, followed: Followed) {
        let Followed { queue, source, found, .. } = followed;
        let id = queue_id(queue.as_bytes());
        if !self.pending().building.has_room_for(found.messages.len() + 1)
            && let Err(error) = self.propose()
        {
            // Whoever waits is told when `persist` reports this and the partition stops.
            self.failed.get_or_insert(error);
        }
        let now = self.now;
        for stored in found.messages.iter().filter(|stored| !stored.is_expired(now)) {
            let said = self.stamp(&Properties::from_encoded(stored.properties.clone()));
            // The delay runs from when it was published.
            let at = said.deliver_at.map(|at| stored.time.plus(at.0.saturating_sub(now.0)));
            let stamp = Stamp { deliver_at: at.filter(|at| *at > now), ..said };
            let routes = self.with_lanes(vec![id], stamp.priority);
            let publish = Publish {
                token: None,
                message: Arc::new(to_captured(stored, now)),
                dedup: DedupKey::default(),
                tenure: Tenure::default(),
                target: Target::Queue(queue.clone()),
                input: None,
                is_kept: false,
            };
            self.pending().building.message(&publish, &routes, stamp);
        }
        self.overlay.following.insert((id, source));
        let control = Control::QueueFollowed { queue: id, source, next: found.next };
        self.write(&control, None);
    }
}

/// A message as a queue has it that was bound to its topic later: stored for the queue alone, and saying when it was published.
fn to_captured(stored: &StoredMessage, now: Millis) -> Message {
    let properties = Properties::from_encoded(stored.properties.clone());
    let time = Property::User(
        Bytes::from_static(b"x-source-timestamp"),
        Bytes::from(stored.time.0.to_string()),
    );
    let left_s = |at: Millis| at.0.saturating_sub(now.0).div_ceil(1000) as u32;
    Message {
        topic: Topic::from_stored(captured_topic(&stored.topic)),
        payload: stored.payload.clone(),
        qos: stored.qos,
        retain: false,
        expiry_s: stored.expires_at().map(left_s),
        properties: Properties::encode(&properties.iter().chain([time]).collect::<Vec<_>>()),
        publisher: stored.publisher,
    }
}
