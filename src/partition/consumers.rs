//! The members of one group, what each of them holds, and how an entry gets to one.
//!
//! A group over a queue and one over a filter differ in what an entry's offset counts, and in two rules of shared subscriptions: no
//! entry is taken from a member that is there, and one whose QoS 2 delivery has begun stays its member's (MQTT 5 §4.8.2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;

use super::member::Member;
use super::priority::Lanes;
use super::reader::message_at;
use super::request::{ConnectionId, Event, Join, Outbox};
use super::window::{Pool, Window};
use crate::model::address::source_topic;
use crate::model::annotations::{ConsumerNames, StoredAt};
use crate::model::queue::{DeadLetterTarget, QueueKind};
use crate::model::{
    Annotations, Death, Delivery, DeliveryId, DeliverySource, Millis, Outcome, PartitionId,
    QueueSettings, Selection, StoredMessage, Topic,
};
use crate::planted::{PlantedBug, is_planted};
use crate::view::Group;

/// The members of one group and what is out at them. Entries are offsets of its selection.
#[derive(Debug)]
pub struct Consumers {
    pub(super) reads: Selection,
    /// The queue's rules; those of a filter are that there are none.
    settings: Arc<QueueSettings>,
    pub(super) members: Vec<Member>,
    /// They get nothing more, and have something out.
    pub(super) stopped: Vec<Member>,
    /// Who asks for one entry, while it is looked for: it gets it, and no member does.
    pub(super) getter: Option<Member>,
    /// Next entry never looked at.
    pub(super) cursor: Offset,
    /// Over a filter: after the newest record that matches.
    pub(super) end: Offset,
    /// Over a queue: a partition offset at or before the cursor's entry, and that entry.
    pub(super) hint: Option<(Offset, Offset)>,
    pub(super) pending: BTreeMap<Offset, Pending>,
    /// Whose alone an entry is, present or not.
    pub(super) claimed: BTreeMap<Offset, Bytes>,
    /// Came back; to be handed out before the cursor moves on.
    pub(super) returned: BTreeSet<Offset>,
    /// Of a queue with priorities, where all of this is by priority.
    pub(super) lanes: Option<Lanes>,
    /// Times an entry was handed out by this process and came back.
    pub(super) returns: BTreeMap<Offset, u32>,
    pub(super) turn: usize,
    /// Came back, or were looked at, too early: each waits for its log time.
    pub(super) delayed: BTreeMap<Offset, Millis>,
    /// Nobody's any more, and not stored as dead letters yet.
    pub(super) dying: BTreeMap<Offset, Death>,
    /// Outcomes not yet written.
    pub(super) finished: Vec<Offset>,
    pub(super) released: Vec<Offset>,
    pub(super) postponed: Vec<(Offset, Millis)>,
    pub(super) unapplied: Unapplied,
    /// Where it began, of a group that one consumer has to itself: nothing of it is stored.
    pub(super) own: Option<Group>,
}

/// Outcomes that are written and not applied: the view does not know them yet.
#[derive(Debug, Default)]
pub(super) struct Unapplied {
    records: u64,
    /// Entries that are finished with them.
    pub(super) finished: u64,
    /// Which, and those that are finished and not written yet. Of a queue with priorities: whose records move in the meantime, their
    /// lanes must not have them again. And of one that has no more than so many bytes: they do not wait.
    pub(super) entries: BTreeSet<Offset>,
}

/// Who is next.
enum NextMember {
    /// No member wants it.
    Nobody,
    /// Those who want it have no credit.
    Later,
    Is(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) holder: (ConnectionId, u32),
    pub(super) deadline: Millis,
}

impl Consumers {
    pub(super) fn new(
        reads: Selection,
        settings: Arc<QueueSettings>,
        stored: &Group,
        end: Offset,
    ) -> Consumers {
        let claimed = stored.claimed().iter();
        let priority_max = settings.priority_max;
        Consumers {
            reads,
            settings,
            members: Vec::new(),
            stopped: Vec::new(),
            getter: None,
            cursor: stored.committed(),
            end,
            hint: None,
            pending: BTreeMap::new(),
            claimed: claimed.map(|(entry, claim)| (*entry, claim.client_id.clone())).collect(),
            returned: BTreeSet::new(),
            lanes: (priority_max > 0).then(|| Lanes::new(priority_max)),
            returns: BTreeMap::new(),
            turn: 0,
            delayed: stored.postponed().collect(),
            dying: BTreeMap::new(),
            finished: Vec::new(),
            released: Vec::new(),
            postponed: Vec::new(),
            unapplied: Unapplied::default(),
            own: None,
        }
    }

    /// Adds a member. What an earlier connection of its session left begun is out at it again.
    pub(super) fn add(&mut self, connection: ConnectionId, join: Join, pool: Option<Arc<Pool>>) {
        let mut window = match pool {
            Some(pool) if self.is_ephemeral() => Window::passing(join.credit, pool),
            Some(pool) => Window::sharing(join.credit, pool),
            None => Window::new(join.credit),
        };
        let holder = (connection, join.membership);
        for (entry, _) in self.claimed.iter().filter(|(_, owner)| **owner == join.client_id) {
            self.pending.insert(*entry, Pending { holder, deadline: Millis(u64::MAX) });
            window.spend_unknown(1);
        }
        self.members.push(Member::new(connection, join, window, &self.reads));
    }

    /// A member, also one that is stopped.
    pub(super) fn member_mut(&mut self, holder: (ConnectionId, u32)) -> Option<&mut Member> {
        let mut members = self.members.iter_mut().chain(&mut self.stopped);
        members.find(|member| member.holder() == holder)
    }

    /// Forgets a member that is stopped once it has nothing out; true when it has not.
    pub(super) fn let_go(&mut self, holder: (ConnectionId, u32)) -> bool {
        let is_over = |member: &Member| member.holder() == holder && member.window.out_count() == 0;
        self.stopped.extract_if(.., |member| is_over(member)).count() > 0
    }

    /// Where the entry nearest before `entry` is known to be: its queue offset and its partition offset.
    pub fn hint(&self, entry: Offset) -> Option<(Offset, Offset)> {
        self.hint.filter(|(known, _)| *known <= entry)
    }

    /// Steps over an entry that is finished, expired or gone.
    pub fn step_over(&mut self, entry: Offset, write: bool) {
        self.returned.remove(&entry);
        self.cursor = self.cursor.max(entry.next());
        if write {
            self.finish(entry);
        }
    }

    /// An entry is done with.
    fn finish(&mut self, entry: Offset) {
        self.finished.push(entry);
        self.note_finished(entry);
    }

    /// An entry is done with, and what says so is written.
    pub(super) fn note_finished(&mut self, entry: Offset) {
        if self.lanes.is_some() || self.settings.limits.bytes_max.is_some() {
            self.unapplied.entries.insert(entry);
        }
    }

    /// Returns true for an entry that is finished, and of which the view does not know that.
    pub(super) fn is_being_finished(&self, entry: Offset) -> bool {
        self.unapplied.entries.contains(&entry)
    }

    /// Returns true for an entry that must wait, or that nobody is to get.
    pub fn is_held_back(&self, entry: Offset) -> bool {
        self.delayed.contains_key(&entry) || self.dying.contains_key(&entry)
    }

    /// Steps over an entry until its time.
    pub fn delay(&mut self, entry: Offset, until: Millis) {
        self.step_over(entry, false);
        self.delayed.insert(entry, until);
    }

    /// Steps over an entry that becomes a dead letter.
    pub fn give_up(&mut self, entry: Offset, death: Death) {
        self.step_over(entry, false);
        self.dying.insert(entry, death);
    }

    /// Entries that are out or wait to be.
    pub fn held_count(&self) -> usize {
        self.pending.len() + self.delayed.len() + self.dying.len()
    }

    /// How many entries can be handed out, of those that the view says are not finished.
    pub fn ready(&self, unfinished: u64, end: Offset) -> u64 {
        if self.is_stream() {
            return end.0.saturating_sub(self.cursor.0);
        }
        let settled = self.unapplied.finished + self.finished.len() as u64;
        unfinished.saturating_sub(self.held_count() as u64).saturating_sub(settled)
    }

    /// Outcomes were written: so many entries are finished with them.
    pub(super) fn outcome_written(&mut self, finished: u64) {
        self.unapplied.records += 1;
        self.unapplied.finished += finished;
    }

    /// A record of outcomes is applied: these runs are finished with it.
    pub(super) fn outcome_applied(&mut self, finished: &[(Offset, u64)]) {
        let count = finished.iter().map(|(_, count)| count).sum();
        self.unapplied.records = self.unapplied.records.saturating_sub(1);
        self.unapplied.finished = self.unapplied.finished.saturating_sub(count);
        let entries = &mut self.unapplied.entries;
        for (first, count) in finished {
            let applied = entries.range(*first..first.plus(*count)).copied();
            for entry in applied.collect::<Vec<Offset>>() {
                entries.remove(&entry);
            }
        }
    }

    /// Returns true when nothing is lost by beginning again with what the view knows: nobody reads, has something, or is waited for.
    pub(super) fn is_idle(&self) -> bool {
        self.members.is_empty()
            && self.pending.is_empty()
            && self.dying.is_empty()
            && self.unapplied.records == 0
    }

    /// How many entries members can take now.
    pub fn credit(&self) -> usize {
        let heard = if self.settings.single_active { 1 } else { self.members.len() };
        let credit = |member: &Member| member.window.credit() as usize;
        self.members.iter().take(heard).map(credit).sum()
    }

    /// Returns true when a member could take something if its connection had less of others.
    pub(super) fn waits_for_others(&self) -> bool {
        self.members.iter().any(|member| member.window.waits_for_others())
    }

    /// Returns true when there may be something to hand out of a queue, or of records, that ends there.
    pub(super) fn has_more(&self, end: Offset) -> bool {
        match &self.lanes {
            Some(lanes) => lanes.has_more(end),
            None => !self.returned.is_empty() || self.cursor < end,
        }
    }

    pub(super) fn is_ephemeral(&self) -> bool {
        self.settings.kind == QueueKind::Ephemeral
    }

    pub(super) fn is_stream(&self) -> bool {
        self.settings.kind == QueueKind::Stream
    }

    /// Lets entries go on whose time has come.
    pub(super) fn wake(&mut self, now: Millis) {
        let due = self
            .delayed
            .iter()
            .filter(|(_, until)| **until <= now || is_planted(PlantedBug::WokenAtOnce));
        for entry in due.map(|(entry, _)| *entry).collect::<Vec<_>>() {
            self.delayed.remove(&entry);
            // One that an earlier process put off, and that was not looked at here yet, comes in its turn: handed out before those below
            // it, it would take the cursor past them.
            if self.lanes.is_some() || entry < self.cursor {
                self.put_back(entry);
            }
        }
    }

    /// An entry is to be handed out again.
    fn put_back(&mut self, entry: Offset) {
        match &mut self.lanes {
            Some(lanes) => lanes.put_back(entry),
            None => drop(self.returned.insert(entry)),
        }
    }

    /// An entry left the queue, or is a dead letter now.
    pub(super) fn forget(&mut self, entry: Offset) {
        self.give_credit_back(entry);
        self.lanes.iter_mut().for_each(|lanes| lanes.forget(entry));
        self.returned.remove(&entry);
        self.returns.remove(&entry);
        self.delayed.remove(&entry);
        self.dying.remove(&entry);
    }

    /// Returns true for an entry that is one session's alone.
    pub fn is_claimed(&self, entry: Offset) -> bool {
        self.claimed.contains_key(&entry)
    }

    /// Everything that matches below `next` was looked at.
    pub fn looked_at(&mut self, next: Offset) {
        self.cursor = self.cursor.max(next);
    }

    /// Hands an entry to whoever asks for one, or else to a member that wants it; false when nobody has credit.
    ///
    /// An entry that no member's filter matches is finished: the group has said what it wants.
    pub fn hand_out(&mut self, at: Handed<'_>, out: &mut impl Outbox) -> bool {
        let Handed { entry, offset, topic, .. } = at;
        let index = match &self.getter {
            Some(getter) if getter.window.credit() == 0 => return false,
            Some(_) => None,
            None => match self.next_member(topic) {
                NextMember::Nobody => {
                    self.step_over(entry, true);
                    return true;
                }
                NextMember::Later => return false,
                NextMember::Is(index) => Some(index),
            },
        };
        let returns = self.returns.get(&entry).copied().unwrap_or(0);
        if at.delivery_count > returns {
            // What earlier processes counted.
            self.returns.insert(entry, at.delivery_count);
        }
        let member = match index {
            Some(index) => &mut self.members[index],
            None => self.getter.as_mut().expect("seen above"),
        };
        let holder = member.holder();
        let count = returns.max(at.delivery_count);
        let mut delivery = delivery(member, count, &at);
        if let Some(gap) = member.gap.take() {
            delivery.annotations.tell("x-gap", gap.to_string());
        }
        member.window.spend(&delivery.message);
        out.send(member.connection, Event::Deliver(delivery));
        // A member that is there keeps what it has of a shared subscription, however long it takes. So does one that its protocol
        // named: it has timeouts of its own.
        let is_named = member.join.is_named;
        let deadline = match self.reads {
            Selection::Queue(_) if !is_named && !self.is_stream() && !self.is_ephemeral() => {
                self.settings.visibility_timeout_ms.map_or(at.deadline, |ms| at.now.plus(ms))
            }
            Selection::Queue(_) | Selection::Topics(_) => Millis(u64::MAX),
        };
        self.pending.insert(entry, Pending { holder, deadline });
        self.returned.remove(&entry);
        self.cursor = self.cursor.max(entry.next());
        if self.is_stream() && entry.0 % 8 == 6 && is_planted(PlantedBug::StreamSkips) {
            self.cursor = self.cursor.max(entry.plus(2));
        }
        self.hint = Some((entry, offset));
        if is_planted(PlantedBug::HandedOutTwice) && returns == 0 {
            self.returns.insert(entry, 1);
            self.put_back(entry);
        }
        true
    }

    /// The member that wants a message and has the least out. Equals take turns.
    fn next_member(&mut self, topic: &Topic) -> NextMember {
        let wants = |member: &Member| member.wants(topic);
        // The member that came first gets everything, where only one is to.
        let heard = if self.settings.single_active { 1 } else { self.members.len() };
        if !self.members.iter().take(heard).any(wants) {
            return NextMember::Nobody;
        }
        let order = (0..heard).map(|step| (self.turn + step) % heard);
        let ready = |index: &usize| {
            self.members[*index].window.credit() > 0 && wants(&self.members[*index])
        };
        let load = |index: &usize| self.members[*index].window.out_count();
        let Some(index) = order.filter(ready).min_by_key(load) else { return NextMember::Later };
        self.turn = (index + 1) % heard;
        NextMember::Is(index)
    }

    /// Hands a message that is not stored to the member that wants it and has the least out; false where nobody wants it or has room.
    pub(super) fn pass_on(&mut self, at: &Handed<'_>, out: &mut impl Outbox) -> bool {
        let wants = |member: &Member| member.wants(at.topic);
        let heard = if self.settings.single_active { 1 } else { self.members.len() };
        let is_wanted = self.members.iter().take(heard).any(wants);
        is_wanted && self.hand_out(Handed { entry: self.cursor, ..*at }, out)
    }

    pub(super) fn settle(&mut self, entry: Offset, outcome: Outcome, now: Millis) -> bool {
        if !self.give_credit_back(entry) {
            return false;
        }
        if self.is_ephemeral() {
            return true;
        }
        // What has begun to go to one session goes to no other, whatever became of it.
        let begun = self.claimed.remove(&entry).is_some();
        let is_stream = self.is_stream();
        let has_letters = self.settings.dead_letters.target != DeadLetterTarget::Nowhere;
        match outcome {
            _ if begun => self.finished.push(entry),
            Outcome::Released if is_stream && is_planted(PlantedBug::StreamGivenBack) => {
                self.put_back(entry);
            }
            // A stream is read in order: nothing comes again, and a rejected entry is one that was read.
            Outcome::Released | Outcome::ReleasedAfter { .. } if is_stream => {}
            Outcome::Rejected if has_letters && !is_stream => {
                self.dying.insert(entry, Death::Rejected);
            }
            Outcome::Accepted | Outcome::Rejected => {
                self.returns.remove(&entry);
                self.lanes.iter_mut().for_each(|lanes| lanes.forget(entry));
                self.finish(entry);
                if is_planted(PlantedBug::NeighbourSettled) {
                    self.finished.push(entry.next());
                }
            }
            Outcome::Released => self.come_back(entry, None, now),
            Outcome::ReleasedAfter { delay_ms } => self.come_back(entry, Some(delay_ms), now),
        }
        true
    }

    /// Takes an entry from whoever has it.
    pub(super) fn take_back(&mut self, entry: Offset, now: Millis) {
        if !self.give_credit_back(entry) || self.is_ephemeral() {
            return;
        }
        match (&self.reads, self.is_stream()) {
            (Selection::Queue(_), false) => self.come_back(entry, Some(0), now),
            (Selection::Queue(_), true) | (Selection::Topics(_), _) => {
                *self.returns.entry(entry).or_default() += 1;
                self.put_back(entry);
            }
        }
    }

    /// An entry is to be delivered again, unless that was too often: after its delay, or the one that the queue has for it.
    fn come_back(&mut self, entry: Offset, delay_ms: Option<u32>, now: Millis) {
        let returns = self.returns.entry(entry).or_default();
        *returns += 1;
        let count = *returns;
        let QueueSettings { deliveries_max, .. } = *self.settings;
        if is_planted(PlantedBug::ReturnUncounted) {
            self.returned.insert(entry);
            return;
        }
        if deliveries_max > 0 && count >= deliveries_max {
            if is_planted(PlantedBug::DiedUnwritten) {
                return self.finished.push(entry);
            }
            self.dying.insert(entry, Death::Deliveries);
            return self.released.push(entry);
        }
        match delay_ms.map_or_else(|| self.settings.backoff(count), u64::from) {
            0 => {
                self.put_back(entry);
                self.released.push(entry);
            }
            delay => {
                self.delayed.insert(entry, now.plus(delay));
                self.postponed.push((entry, now.plus(delay)));
            }
        }
    }

    pub(super) fn give_credit_back(&mut self, entry: Offset) -> bool {
        let Some(pending) = self.pending.remove(&entry) else { return false };
        if let Some(member) = self.member_mut(pending.holder) {
            member.window.give_back(1);
        }
        true
    }

    /// What is finished here is so for nobody else, and for no longer.
    pub(super) fn forget_outcomes(&mut self) {
        self.finished.clear();
        self.released.clear();
        self.postponed.clear();
        self.unapplied.entries.clear();
    }

    pub(super) fn has_outcomes(&self) -> bool {
        !self.finished.is_empty() || !self.released.is_empty() || !self.postponed.is_empty()
    }

    /// Widens finished partition offsets to everything between the entries that are not: what does not match is nobody's, and without
    /// it no two runs would ever join.
    pub(super) fn to_ranges(&self, mut entries: Vec<Offset>) -> Vec<(Offset, u64)> {
        entries.sort_unstable();
        let mut ranges: Vec<(Offset, u64)> = Vec::new();
        for entry in entries {
            if ranges.last().is_some_and(|(first, count)| entry < first.plus(*count)) {
                continue;
            }
            if entry >= self.cursor {
                // An earlier connection began it: what is between here and the cursor was not looked at.
                ranges.push((entry, 1));
                continue;
            }
            let below = [
                self.pending.range(..entry).next_back().map(|(open, _)| *open),
                self.claimed.range(..entry).next_back().map(|(open, _)| *open),
                self.returned.range(..entry).next_back().copied(),
            ];
            let above = [
                self.pending.range(entry..).next().map(|(open, _)| *open),
                self.claimed.range(entry..).next().map(|(open, _)| *open),
                self.returned.range(entry..).next().copied(),
                Some(self.cursor),
            ];
            let first = below.into_iter().flatten().max().map_or(Offset::ZERO, Offset::next);
            let end = above.into_iter().flatten().min().expect("the cursor is among them");
            assert!(first <= entry && entry < end, "a finished entry is below the cursor, not out");
            ranges.push((first, end.0 - first.0));
        }
        ranges
    }
}

/// An entry on its way to a member.
#[derive(Clone, Copy, Debug)]
pub struct Handed<'a> {
    /// Its queue offset.
    pub entry: Offset,
    /// Its partition offset.
    pub offset: Offset,
    /// Its record.
    pub message: &'a StoredMessage,
    /// Its topic, as the group's members see it.
    pub topic: &'a Topic,
    /// How often the log knows that it came back.
    pub delivery_count: u32,
    /// Where it is stored.
    pub partition: PartitionId,
    /// Log time.
    pub now: Millis,
    /// When the member's time is over.
    pub deadline: Millis,
    /// Stored before this replica began to lead: an earlier leader, of whom nothing else is known, may have handed it out.
    pub is_old: bool,
    /// Of a stream: what its readers are told of how far its primary group is.
    pub told: Option<&'a [(&'static str, String)]>,
}

/// A message as a member subscribed to it [MQTT-4.8.2-3].
fn delivery(member: &Member, count: u32, at: &Handed<'_>) -> Delivery {
    let join = &member.join;
    let message = Arc::new(message_at(at.message, at.topic.clone(), at.now));
    let names = member.names.clone();
    let annotations = names.map_or_else(Annotations::default, |it| annotations(it, at, count));
    Delivery {
        id: DeliveryId {
            source: DeliverySource::Group(join.membership),
            partition: at.partition,
            offset: at.entry,
        },
        qos: at.message.qos.min(join.qos),
        retain: join.retain_as_published && message.retain,
        message,
        redelivered: count > 0 || at.is_old,
        subscription_ids: Some(join.subscription_id).filter(|id| *id != 0).into_iter().collect(),
        annotations,
        settle_explicit: join.settle_explicit,
    }
}

fn annotations(names: Arc<ConsumerNames>, at: &Handed<'_>, count: u32) -> Annotations {
    let mut annotations = Annotations::of_entry(names, count);
    if let Some(told) = at.told {
        annotations.comes_from(StoredAt { time: at.message.time, partition: None });
        told.iter().for_each(|(name, value)| annotations.tell(name, value.clone()));
    }
    if let Some(source) = source_topic(&at.message.topic) {
        annotations.came_by(at.message.topic.slice_ref(source));
    }
    annotations
}
