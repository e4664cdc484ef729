//! Who consumes together: the members of each group, what each of them holds, and what comes next.
//!
//! Volatile. The log remembers outcomes only (`view::group`); what was handed out and not settled is handed out again after a restart.
//! A group over a queue and one over a filter differ in what an entry's offset counts, and in two rules of shared subscriptions: no
//! entry is taken from a member that is there, and one whose QoS 2 delivery has begun stays its member's (MQTT 5 §4.8.2).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq_index::{Offset, TopicTrie, topic_trie};

use super::reader::to_message_at;
use super::request::{ConnectionId, Event, Join, Outbox};
use super::window::Window;
use crate::model::{
    Control, Delivery, DeliveryId, DeliverySource, Millis, Outcome, PartitionId, Selection,
    StoredMessage,
};
use crate::planted::{PlantedBug, is_planted};
use crate::view::{Group, GroupKey};

/// The groups of a partition that have members.
#[derive(Debug, Default)]
pub struct Groups {
    by_key: BTreeMap<GroupKey, Consumers>,
    /// What each membership of each connection is in, from its request on.
    memberships: BTreeMap<(ConnectionId, u32), Membership>,
    /// Groups over filters.
    filters: TopicTrie<GroupKey>,
}

/// Whose a membership is.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The group.
    pub key: GroupKey,
    /// The session, and the seconds it stays; `None` in a queue's group.
    pub client: Option<(Bytes, u32)>,
}

/// The members of one group and what is out at them. Entries are offsets of its selection.
#[derive(Debug)]
pub struct Consumers {
    reads: Selection,
    members: Vec<Member>,
    /// Next entry never looked at.
    cursor: Offset,
    /// Over a filter: after the newest record that matches.
    end: Offset,
    /// Over a queue: a partition offset at or before the cursor's entry, and that entry.
    hint: Option<(Offset, Offset)>,
    pending: BTreeMap<Offset, Pending>,
    /// Whose alone an entry is, present or not.
    claimed: BTreeMap<Offset, Bytes>,
    /// Came back; to be handed out before the cursor moves on.
    returned: BTreeSet<Offset>,
    /// Times an entry was handed out by this process and came back.
    returns: BTreeMap<Offset, u32>,
    turn: usize,
    /// Outcomes not yet written.
    finished: Vec<Offset>,
    released: Vec<Offset>,
}

#[derive(Debug)]
struct Member {
    connection: ConnectionId,
    join: Join,
    window: Window,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    holder: (ConnectionId, u32),
    deadline: Millis,
}

/// What a group wants to read next.
#[derive(Debug)]
pub struct Next {
    /// Which group.
    pub key: GroupKey,
    /// What it reads.
    pub reads: Selection,
    /// Entries to hand out again.
    pub returned: Vec<Offset>,
    /// Then entries from here on.
    pub cursor: Offset,
    /// How many members can take.
    pub credit: usize,
}

impl Groups {
    /// Remembers who is about to be a member: it may leave before it is one.
    pub fn announce(&mut self, connection: ConnectionId, join: &Join) {
        let key = (join.reads.id(), join.group.as_bytes().clone());
        let client = match join.reads {
            Selection::Queue(_) => None,
            Selection::Topics(_) => Some((join.client_id.clone(), join.expiry_s)),
        };
        self.memberships.insert((connection, join.membership), Membership { key, client });
    }

    /// Adds a member, unless it has left already. `stored` is where a group without members goes on; `end` is the partition's.
    pub fn enter(&mut self, connection: ConnectionId, join: Join, stored: &Group, end: Offset) {
        let Some(membership) = self.memberships.get(&(connection, join.membership)) else { return };
        let key = membership.key.clone();
        let consumers = self.by_key.entry(key.clone()).or_insert_with(|| {
            if let Selection::Topics(filter) = &join.reads {
                self.filters.insert(filter.as_bytes(), key);
            }
            Consumers::new(join.reads.clone(), stored, end)
        });
        let same = |member: &Member| {
            member.connection == connection && member.join.membership == join.membership
        };
        match consumers.members.iter_mut().find(|member| same(member)) {
            Some(member) => member.join = Join { credit: member.join.credit, ..join },
            None => consumers.add(connection, join),
        }
    }

    /// Returns the connections that are members.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.memberships.keys().map(|(connection, _)| *connection)
    }

    /// Returns how many members a group has beside one connection's.
    pub fn others(&self, key: &GroupKey, connection: ConnectionId) -> usize {
        let consumers = self.by_key.get(key);
        let others = consumers.iter().flat_map(|consumers| &consumers.members);
        others.filter(|member| member.connection != connection).count()
    }

    /// Removes a member and says whose it was; what it holds goes to the others.
    pub fn leave(&mut self, connection: ConnectionId, membership: u32) -> Option<Membership> {
        let left = self.memberships.remove(&(connection, membership))?;
        let Some(consumers) = self.by_key.get_mut(&left.key) else { return Some(left) };
        let holder = (connection, membership);
        consumers.members.retain(|member| (member.connection, member.join.membership) != holder);
        let held = consumers.pending.iter().filter(|(_, pending)| pending.holder == holder);
        for entry in held.map(|(entry, _)| *entry).collect::<Vec<_>>() {
            match consumers.claimed.contains_key(&entry) {
                true => drop(consumers.pending.remove(&entry)),
                false => consumers.take_back(entry),
            }
        }
        Some(left)
    }

    /// Removes every membership of a connection.
    pub fn forget(&mut self, connection: ConnectionId) -> Vec<Membership> {
        let mine = self.memberships.range((connection, 0)..=(connection, u32::MAX));
        let mine: Vec<u32> = mine.map(|((_, membership), _)| *membership).collect();
        mine.into_iter().filter_map(|membership| self.leave(connection, membership)).collect()
    }

    /// A session is no member any more: what was its alone is over.
    pub fn ended(&mut self, key: &GroupKey, client_id: &Bytes) {
        if let Some(consumers) = self.by_key.get_mut(key) {
            consumers.claimed.retain(|_, owner| owner != client_id);
        }
    }

    /// Makes entries that a member holds its session's alone, or notes what it has received; `None` when it holds none of them.
    pub fn claim(
        &mut self,
        connection: ConnectionId,
        membership: u32,
        mut sent: Vec<(u16, Offset)>,
        mut received: Vec<Offset>,
    ) -> Option<Control> {
        let Membership { key, client } = self.memberships.get(&(connection, membership))?;
        let (client_id, _) = client.as_ref()?;
        let consumers = self.by_key.get_mut(key)?;
        let holder = (connection, membership);
        let holds = |entry: &Offset| {
            consumers.pending.get(entry).is_some_and(|pending| pending.holder == holder)
        };
        sent.retain(|(_, entry)| holds(entry));
        received.retain(holds);
        for (_, entry) in &sent {
            consumers.claimed.insert(*entry, client_id.clone());
        }
        let (selection, group) = key.clone();
        let client_id = client_id.clone();
        let says = !sent.is_empty() || !received.is_empty();
        says.then_some(Control::Claimed { selection, group, client_id, sent, received })
    }

    /// A message was applied: groups over filters that match it have more to read.
    pub fn applied(&mut self, offset: Offset, topic: &[u8]) {
        let by_key = &mut self.by_key;
        self.filters.for_each_match(topic, |key| {
            by_key.get_mut(key).expect("filters name groups that exist").end = offset.next();
        });
    }

    /// Settles an entry that a member holds; false when it holds no such entry.
    pub fn settle(
        &mut self,
        connection: ConnectionId,
        membership: u32,
        entry: Offset,
        outcome: Outcome,
    ) -> bool {
        let Some(Membership { key, .. }) = self.memberships.get(&(connection, membership)) else {
            return false;
        };
        self.by_key.get_mut(key).is_some_and(|consumers| consumers.settle(entry, outcome))
    }

    /// Settles an entry by address; false when it is not pending.
    pub fn settle_entry(&mut self, key: &GroupKey, entry: Offset, outcome: Outcome) -> bool {
        self.by_key.get_mut(key).is_some_and(|consumers| consumers.settle(entry, outcome))
    }

    /// Moves a group's cursor, forgetting what is out.
    pub fn seek(&mut self, key: &GroupKey, to: Offset) {
        if let Some(consumers) = self.by_key.get_mut(key) {
            consumers.cursor = to;
            consumers.hint = None;
            consumers.returned.clear();
            consumers.returns.clear();
            for entry in consumers.pending.keys().copied().collect::<Vec<_>>() {
                consumers.give_credit_back(entry);
            }
            consumers.finished.clear();
            consumers.released.clear();
        }
    }

    /// Takes back what members have held beyond their time.
    pub fn expire(&mut self, now: Millis) {
        for consumers in self.by_key.values_mut() {
            let late = consumers.pending.iter().filter(|(_, pending)| {
                pending.deadline <= now || is_planted(PlantedBug::TakenBackAtOnce)
            });
            for entry in late.map(|(entry, _)| *entry).collect::<Vec<_>>() {
                consumers.take_back(entry);
                consumers.released.push(entry);
            }
        }
    }

    /// Returns true when outcomes wait to be written.
    pub fn has_outcomes(&self) -> bool {
        self.by_key.values().any(Consumers::has_outcomes)
    }

    /// Takes the outcomes that are not written yet, one control for each group.
    pub fn take_outcomes(&mut self) -> Vec<Control> {
        let waiting = self.by_key.iter_mut().filter(|(_, consumers)| consumers.has_outcomes());
        let outcomes = waiting.map(|((selection, group), consumers)| {
            let finished = std::mem::take(&mut consumers.finished);
            Control::Settled {
                selection: *selection,
                group: group.clone(),
                finished: match consumers.reads {
                    Selection::Queue(_) => to_runs(finished),
                    Selection::Topics(_) => consumers.to_ranges(finished),
                },
                released: std::mem::take(&mut consumers.released),
            }
        });
        let outcomes = outcomes.collect();
        let filters = &mut self.filters;
        self.by_key.retain(|key, consumers| {
            let stays = !consumers.members.is_empty();
            if let (false, Selection::Topics(filter)) = (stays, &consumers.reads) {
                filters.remove(filter.as_bytes(), key);
            }
            stays
        });
        outcomes
    }

    /// Lists what groups can hand out: at most `limit` entries each, and none to a group that has `pending_max` out.
    pub fn next(&self, limit: usize, pending_max: usize, end: impl Fn(u64) -> Offset) -> Vec<Next> {
        let next = |(key, consumers): (&GroupKey, &Consumers)| {
            let credit: u32 = consumers.members.iter().map(|member| member.window.credit()).sum();
            let end = match consumers.reads {
                Selection::Queue(_) => end(key.0),
                Selection::Topics(_) => consumers.end,
            };
            let more = !consumers.returned.is_empty() || consumers.cursor < end;
            let room = pending_max.saturating_sub(consumers.pending.len());
            (credit > 0 && more && room > 0).then(|| Next {
                key: key.clone(),
                reads: consumers.reads.clone(),
                returned: consumers.returned.iter().take(limit).copied().collect(),
                cursor: consumers.cursor,
                credit: (credit as usize).min(limit).min(room),
            })
        };
        self.by_key.iter().filter_map(next).collect()
    }

    /// Returns one group.
    pub fn get_mut(&mut self, key: &GroupKey) -> Option<&mut Consumers> {
        self.by_key.get_mut(key)
    }
}

impl Consumers {
    fn new(reads: Selection, stored: &Group, end: Offset) -> Consumers {
        let claimed = stored.claimed().iter();
        Consumers {
            reads,
            members: Vec::new(),
            cursor: stored.committed(),
            end,
            hint: None,
            pending: BTreeMap::new(),
            claimed: claimed.map(|(entry, claim)| (*entry, claim.client_id.clone())).collect(),
            returned: BTreeSet::new(),
            returns: BTreeMap::new(),
            turn: 0,
            finished: Vec::new(),
            released: Vec::new(),
        }
    }

    /// Adds a member. What an earlier connection of its session left begun is out at it again.
    fn add(&mut self, connection: ConnectionId, join: Join) {
        let mut window = Window::new(join.credit);
        let holder = (connection, join.membership);
        for (entry, _) in self.claimed.iter().filter(|(_, owner)| **owner == join.client_id) {
            self.pending.insert(*entry, Pending { holder, deadline: Millis(u64::MAX) });
            window.spend_unknown(1);
        }
        self.members.push(Member { connection, join, window });
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
            self.finished.push(entry);
        }
    }

    /// Returns true for an entry that is one session's alone.
    pub fn is_claimed(&self, entry: Offset) -> bool {
        self.claimed.contains_key(&entry)
    }

    /// Everything that matches below `next` was looked at.
    pub fn looked_at(&mut self, next: Offset) {
        self.cursor = self.cursor.max(next);
    }

    /// Hands an entry to the member that wants it and has the least out; false when none has credit. Equals take turns.
    ///
    /// An entry that no member's filter matches is finished: the group has said what it wants.
    pub fn hand_out(&mut self, at: Handed<'_>, out: &mut impl Outbox) -> bool {
        let Handed { entry, offset, message, .. } = at;
        let wants =
            |member: &Member| topic_trie::matches(member.join.filter.as_bytes(), &message.topic);
        if !self.members.iter().any(wants) {
            self.step_over(entry, true);
            return true;
        }
        let count = self.members.len();
        let order = (0..count).map(|step| (self.turn + step) % count);
        let ready = |index: &usize| {
            self.members[*index].window.credit() > 0 && wants(&self.members[*index])
        };
        let load = |index: &usize| self.members[*index].window.out_count();
        let Some(index) = order.filter(ready).min_by_key(load) else { return false };
        self.turn = (index + 1) % count;
        let returns = self.returns.get(&entry).copied().unwrap_or(0);
        let member = &mut self.members[index];
        let holder = (member.connection, member.join.membership);
        let count = returns.max(at.delivery_count);
        let delivery = delivery(member, &self.reads, count, &at);
        member.window.spend(&delivery.message);
        out.send(member.connection, Event::Deliver(delivery));
        // A member that is there keeps what it has of a shared subscription, however long it takes.
        let deadline = match self.reads {
            Selection::Queue(_) => at.deadline,
            Selection::Topics(_) => Millis(u64::MAX),
        };
        self.pending.insert(entry, Pending { holder, deadline });
        self.returned.remove(&entry);
        self.cursor = self.cursor.max(entry.next());
        self.hint = Some((entry, offset));
        if is_planted(PlantedBug::HandedOutTwice) && returns == 0 {
            self.returns.insert(entry, 1);
            self.returned.insert(entry);
        }
        true
    }

    fn settle(&mut self, entry: Offset, outcome: Outcome) -> bool {
        if !self.give_credit_back(entry) {
            return false;
        }
        // What has begun to go to one session goes to no other, whatever became of it.
        let begun = self.claimed.remove(&entry).is_some();
        match outcome {
            _ if begun => self.finished.push(entry),
            Outcome::Accepted | Outcome::Rejected => {
                self.returns.remove(&entry);
                self.finished.push(entry);
                if is_planted(PlantedBug::NeighbourSettled) {
                    self.finished.push(entry.next());
                }
            }
            Outcome::Released => {
                *self.returns.entry(entry).or_default() += 1;
                self.returned.insert(entry);
                self.released.push(entry);
            }
        }
        true
    }

    fn take_back(&mut self, entry: Offset) {
        if self.give_credit_back(entry) {
            *self.returns.entry(entry).or_default() += 1;
            self.returned.insert(entry);
        }
    }

    fn give_credit_back(&mut self, entry: Offset) -> bool {
        let Some(pending) = self.pending.remove(&entry) else { return false };
        let holds =
            |member: &&mut Member| (member.connection, member.join.membership) == pending.holder;
        if let Some(member) = self.members.iter_mut().find(holds) {
            member.window.give_back(1);
        }
        true
    }

    fn has_outcomes(&self) -> bool {
        !self.finished.is_empty() || !self.released.is_empty()
    }

    /// Widens finished partition offsets to everything between the entries that are not: what does not match is nobody's, and without
    /// it no two runs would ever join.
    fn to_ranges(&self, mut entries: Vec<Offset>) -> Vec<(Offset, u64)> {
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
    /// How often the log knows that it came back.
    pub delivery_count: u32,
    /// Where it is stored.
    pub partition: PartitionId,
    /// Log time.
    pub now: Millis,
    /// When the member's time is over.
    pub deadline: Millis,
}

/// A message as a member subscribed to it [MQTT-4.8.2-3].
fn delivery(member: &Member, reads: &Selection, count: u32, at: &Handed<'_>) -> Delivery {
    let join = &member.join;
    let message = to_message_at(at.message, at.now);
    let annotations = match reads {
        Selection::Topics(_) => Vec::new(),
        Selection::Queue(queue) => annotations(queue.as_str(), join, at.entry, count),
    };
    Delivery {
        id: DeliveryId {
            source: DeliverySource::Group(join.membership),
            partition: at.partition,
            offset: at.entry,
        },
        qos: at.message.qos.min(join.qos),
        retain: join.retain_as_published && message.retain,
        message,
        redelivered: count > 0,
        subscription_ids: Some(join.subscription_id).filter(|id| *id != 0).into_iter().collect(),
        annotations,
        settle_explicit: join.settle_explicit,
    }
}

fn annotations(queue: &str, join: &Join, entry: Offset, count: u32) -> Vec<(&'static str, String)> {
    let mut annotations = vec![
        ("message-id", format!("{queue}:{entry}")),
        ("group-id", join.group.to_string()),
        ("queue", queue.to_owned()),
        ("offset", entry.to_string()),
    ];
    if count > 0 {
        annotations.push(("delivery-count", count.to_string()));
    }
    annotations
}

/// Joins neighbouring entries into `(first, count)`.
fn to_runs(mut entries: Vec<Offset>) -> Vec<(Offset, u64)> {
    entries.sort_unstable();
    entries.dedup();
    let mut runs: Vec<(Offset, u64)> = Vec::new();
    for entry in entries {
        match runs.last_mut() {
            Some((first, count)) if first.plus(*count) == entry => *count += 1,
            _ => runs.push((entry, 1)),
        }
    }
    runs
}
