//! Who consumes together: the members of each group, what each of them holds, and what comes next.
//!
//! Volatile. The log remembers outcomes only (`view::group`); what was handed out and not settled is handed out again after a restart.
//! What happens within one group is `consumers.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::{Offset, TopicTrie};

use super::consumers::{Consumers, Handed, Member};
use super::priority::Lanes;
use super::request::{ConnectionId, Join, Outbox};
use crate::model::{Control, Millis, Outcome, QueueSettings, Selection};
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
    /// Since when nobody reads a queue that stores nothing.
    pub(super) idle: BTreeMap<u64, Millis>,
}

/// Whose a membership is.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The group.
    pub key: GroupKey,
    /// The session, and the seconds it stays; `None` in a queue's group.
    pub client: Option<(Bytes, u32)>,
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
    pub fn enter(
        &mut self,
        connection: ConnectionId,
        join: Join,
        (stored, settings): (&Group, Arc<QueueSettings>),
        end: Offset,
    ) {
        let Some(membership) = self.memberships.get(&(connection, join.membership)) else { return };
        let key = membership.key.clone();
        let consumers = self.by_key.entry(key.clone()).or_insert_with(|| {
            if let Selection::Topics(filter) = &join.reads {
                self.filters.insert(filter.as_bytes(), key);
            }
            Consumers::new(join.reads.clone(), settings, stored, end)
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
    pub fn leave(
        &mut self,
        connection: ConnectionId,
        membership: u32,
        now: Millis,
    ) -> Option<Membership> {
        let left = self.memberships.remove(&(connection, membership))?;
        let Some(consumers) = self.by_key.get_mut(&left.key) else { return Some(left) };
        let holder = (connection, membership);
        consumers.members.retain(|member| (member.connection, member.join.membership) != holder);
        let held = consumers.pending.iter().filter(|(_, pending)| pending.holder == holder);
        for entry in held.map(|(entry, _)| *entry).collect::<Vec<_>>() {
            match consumers.claimed.contains_key(&entry) {
                true => drop(consumers.pending.remove(&entry)),
                false => consumers.take_back(entry, now),
            }
        }
        Some(left)
    }

    /// Removes every membership of a connection.
    pub fn forget(&mut self, connection: ConnectionId, now: Millis) -> Vec<Membership> {
        let mine = self.memberships.range((connection, 0)..=(connection, u32::MAX));
        let mine: Vec<u32> = mine.map(|((_, membership), _)| *membership).collect();
        mine.into_iter().filter_map(|membership| self.leave(connection, membership, now)).collect()
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
        now: Millis,
    ) -> bool {
        let Some(Membership { key, .. }) = self.memberships.get(&(connection, membership)) else {
            return false;
        };
        self.by_key.get_mut(key).is_some_and(|consumers| consumers.settle(entry, outcome, now))
    }

    /// Settles an entry by address; false when it is not pending.
    pub fn settle_entry(
        &mut self,
        key: &GroupKey,
        entry: Offset,
        outcome: Outcome,
        now: Millis,
    ) -> bool {
        self.by_key.get_mut(key).is_some_and(|consumers| consumers.settle(entry, outcome, now))
    }

    /// Moves a group's cursor, forgetting what is out.
    pub fn seek(&mut self, key: &GroupKey, to: Offset) {
        if let Some(consumers) = self.by_key.get_mut(key) {
            consumers.cursor = to;
            consumers.hint = None;
            consumers.returned.clear();
            consumers.returns.clear();
            consumers.lanes.iter_mut().for_each(Lanes::restart);
            for entry in consumers.pending.keys().copied().collect::<Vec<_>>() {
                consumers.give_credit_back(entry);
            }
            consumers.delayed.clear();
            consumers.dying.clear();
            consumers.finished.clear();
            consumers.released.clear();
            consumers.postponed.clear();
        }
    }

    /// The record of an entry is elsewhere now, where no lane has it.
    pub fn moved(&mut self, queue: u64, entry: Offset) {
        for consumers in self.of_mut(queue) {
            let is_known = consumers.pending.contains_key(&entry) || consumers.is_held_back(entry);
            if let Some(lanes) = consumers.lanes.as_mut().filter(|_| !is_known) {
                lanes.put_back(entry);
            }
        }
    }

    /// Entries below left a queue: they are nobody's any more.
    pub fn trimmed(&mut self, queue: u64, to: Offset) {
        for consumers in self.of_mut(queue) {
            let gone: Vec<Offset> =
                consumers.pending.range(..to).map(|(entry, _)| *entry).collect();
            for entry in gone {
                consumers.give_credit_back(entry);
            }
            consumers.returned = consumers.returned.split_off(&to);
            consumers.lanes.iter_mut().for_each(|lanes| lanes.retain(|entry| *entry >= to));
            consumers.returns = consumers.returns.split_off(&to);
            consumers.cursor = consumers.cursor.max(to);
        }
    }

    /// Everything below left a queue, but for what groups had out. What was handed out since then is settled as if it were there.
    pub fn purged(&mut self, queue: u64, to: Offset, kept: &[(Bytes, Vec<Offset>)]) {
        let range = self.by_key.range_mut((queue, Bytes::new())..);
        for ((_, name), consumers) in range.take_while(|((of, _), _)| *of == queue) {
            let kept = kept.iter().filter(|(group, _)| group == name);
            let kept: BTreeSet<Offset> = kept.flat_map(|(_, it)| it.iter().copied()).collect();
            let stays = |entry: &Offset| *entry >= to || kept.contains(entry);
            consumers.returned.retain(stays);
            consumers.lanes.iter_mut().for_each(|lanes| lanes.retain(stays));
            consumers.returns.retain(|entry, _| stays(entry));
            consumers.delayed.retain(|entry, _| stays(entry));
            consumers.dying.retain(|entry, _| stays(entry));
            consumers.cursor = consumers.cursor.max(to);
        }
    }

    /// The entries of a group that are out at its members, or are to be buried.
    pub fn held_by(&self, key: &GroupKey) -> BTreeSet<Offset> {
        let consumers = self.by_key.get(key).into_iter();
        consumers.flat_map(|it| it.pending.keys().chain(it.dying.keys())).copied().collect()
    }

    /// The same of all groups of a queue, by group.
    pub fn held_of(&self, queue: u64) -> Vec<(Bytes, Vec<Offset>)> {
        let groups = self.by_key.keys().filter(|(reads, _)| *reads == queue);
        let held = groups.map(|key| (key.1.clone(), self.held_by(key).into_iter().collect()));
        held.filter(|(_, entries): &(Bytes, Vec<Offset>)| !entries.is_empty()).collect()
    }

    /// Ends every membership in the groups of a queue, and forgets what is out; returns whose they were.
    pub fn end_queue(&mut self, queue: u64) -> Vec<(ConnectionId, u32)> {
        let members = self.memberships.iter().filter(|(_, membership)| membership.key.0 == queue);
        let members: Vec<(ConnectionId, u32)> = members.map(|(holder, _)| *holder).collect();
        members.iter().for_each(|holder| drop(self.memberships.remove(holder)));
        let groups = self.by_key.range((queue, Bytes::new())..).map(|(key, _)| key);
        let groups = groups.take_while(|(reads, _)| *reads == queue).cloned();
        groups.collect::<Vec<_>>().iter().for_each(|key| drop(self.by_key.remove(key)));
        self.idle.remove(&queue);
        members
    }

    /// Single entries left a queue.
    pub fn removed(&mut self, queue: u64, entries: &[Offset]) {
        for consumers in self.of_mut(queue) {
            entries.iter().for_each(|entry| consumers.forget(*entry));
        }
    }

    /// Lists the groups that have entries to be buried.
    pub fn mourning(&self) -> Vec<GroupKey> {
        let mourning = self.by_key.iter().filter(|(_, consumers)| !consumers.dying.is_empty());
        mourning.map(|(key, _)| key.clone()).collect()
    }

    /// Returns true when somebody else reads a queue.
    pub fn is_read_by_others(&self, queue: u64, connection: ConnectionId) -> bool {
        let mut memberships = self.memberships.iter();
        memberships
            .any(|((reader, _), membership)| membership.key.0 == queue && *reader != connection)
    }

    /// Lists what somebody reads, queues and filters, by id.
    pub fn read_queues(&self) -> BTreeSet<u64> {
        self.memberships.values().map(|membership| membership.key.0).collect()
    }

    /// Hands a message that is not stored to one member of each group of a queue; true when somebody got it.
    pub fn pass_on(&mut self, queue: u64, at: &Handed<'_>, out: &mut impl Outbox) -> bool {
        let offered = self.of_mut(queue).map(|consumers| consumers.pass_on(at, out));
        offered.fold(false, |before, is_passed_on| before | is_passed_on)
    }

    /// Counts the members that read each queue or filter, by id.
    pub fn member_counts(&self) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        for membership in self.memberships.values() {
            *counts.entry(membership.key.0).or_default() += 1;
        }
        counts
    }

    /// Counts the members that read a queue.
    pub fn members_of(&self, queue: u64) -> usize {
        self.memberships.values().filter(|membership| membership.key.0 == queue).count()
    }

    /// Members, entries that are out, and the cursor of a group that has members.
    pub fn counts(&self, key: &GroupKey) -> Option<(usize, usize, Offset)> {
        let consumers = self.by_key.get(key)?;
        Some((consumers.members.len(), consumers.pending.len(), consumers.cursor))
    }

    fn of_mut(&mut self, selection: u64) -> impl Iterator<Item = &mut Consumers> {
        let range = self.by_key.range_mut((selection, Bytes::new())..);
        range.take_while(move |((reads, _), _)| *reads == selection).map(|(_, it)| it)
    }

    /// Takes back what members have held beyond their time.
    pub fn expire(&mut self, now: Millis) {
        for consumers in self.by_key.values_mut() {
            let late = consumers.pending.iter().filter(|(_, pending)| {
                pending.deadline <= now || is_planted(PlantedBug::TakenBackAtOnce)
            });
            for entry in late.map(|(entry, _)| *entry).collect::<Vec<_>>() {
                consumers.take_back(entry, now);
            }
            consumers.wake(now);
        }
    }

    /// Returns true when outcomes wait to be written.
    pub fn has_outcomes(&self) -> bool {
        self.by_key.values().any(Consumers::has_outcomes)
    }

    /// Takes the outcomes that are not written yet, one control for each group.
    pub fn take_outcomes(&mut self) -> Vec<Control> {
        let waiting = self.by_key.iter_mut().filter(|(_, consumers)| consumers.has_outcomes());
        let mut outcomes = Vec::new();
        for ((selection, group), consumers) in waiting {
            let (selection, group) = (*selection, group.clone());
            let entries = std::mem::take(&mut consumers.postponed);
            if !entries.is_empty() {
                let (queue, group) = (selection, group.clone());
                outcomes.push(Control::Postponed { queue, group, entries });
            }
            let finished = std::mem::take(&mut consumers.finished);
            let released = std::mem::take(&mut consumers.released);
            if finished.is_empty() && released.is_empty() {
                continue;
            }
            let finished = match consumers.reads {
                // Who has read an entry of a stream has read all before it.
                Selection::Queue(_) if consumers.is_stream() => {
                    let last = finished.iter().max();
                    last.map(|last| (Offset::ZERO, last.0 + 1)).into_iter().collect()
                }
                Selection::Queue(_) => to_runs(finished),
                Selection::Topics(_) => consumers.to_ranges(finished),
            };
            outcomes.push(Control::Settled { selection, group, finished, released });
        }
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
            let credit = consumers.credit();
            let end = match consumers.reads {
                Selection::Queue(_) => end(key.0),
                Selection::Topics(_) => consumers.end,
            };
            let more = match &consumers.lanes {
                Some(lanes) => lanes.has_more(end),
                None => !consumers.returned.is_empty() || consumers.cursor < end,
            };
            let room = pending_max.saturating_sub(consumers.held_count());
            (credit > 0 && more && room > 0).then(|| Next {
                key: key.clone(),
                reads: consumers.reads.clone(),
                returned: consumers.returned.iter().take(limit).copied().collect(),
                cursor: consumers.cursor,
                credit: credit.min(limit).min(room),
            })
        };
        self.by_key.iter().filter_map(next).collect()
    }

    /// Returns one group.
    pub fn get_mut(&mut self, key: &GroupKey) -> Option<&mut Consumers> {
        self.by_key.get_mut(key)
    }
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
