//! Who consumes together: the members of each group, what each of them holds, and what comes next.
//!
//! Volatile. The log remembers outcomes only (`view::group`); what was handed out and not settled is handed out again after a restart.
//! What happens within one group is `consumers.rs`.

mod outcomes;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::{Offset, TopicTrie};

use super::consumers::{Consumers, Handed};
use super::gap::Gap;
use super::member::Member;
use super::priority::Lanes;
use super::request::{ConnectionId, Join, Outbox};
use super::window::Pool;
use crate::model::{Control, Millis, Outcome, QueueSettings, Selection};
use crate::planted::{PlantedBug, is_planted};
use crate::view::{Group, GroupKey};

/// The groups of a partition that have members.
#[derive(Debug, Default)]
pub struct Groups {
    by_key: BTreeMap<GroupKey, Consumers>,
    /// What each membership of each connection is in, from its request on.
    memberships: BTreeMap<(ConnectionId, u32), Membership>,
    /// How many of them read each queue or filter: those that count.
    reading: BTreeMap<u64, Reading>,
    /// Groups that were made since this replica leads: no earlier leader has handed anything out to them.
    created: BTreeSet<GroupKey>,
    /// Groups over filters.
    filters: TopicTrie<GroupKey>,
    /// What connections have out at the consumers that they named, and apart from that at those of what nothing stores.
    pools: BTreeMap<(ConnectionId, bool), Arc<Pool>>,
    /// The group that is next, where a connection had no room for it.
    turn: Option<GroupKey>,
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
    role: Role,
    is_exclusive: bool,
    /// What it was granted before it was a member.
    granted: u32,
}

/// What a membership is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It gets what comes, and counts.
    Reading,
    /// It gets nothing more.
    Stopped,
    /// It asked for this entry, and gets no other.
    Getting(Offset),
}

/// Who reads a queue or a filter.
#[derive(Debug, Default)]
struct Reading {
    members: usize,
    exclusive: usize,
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

impl Membership {
    /// Returns true for one that counts among those who read.
    pub fn reads(&self) -> bool {
        self.role == Role::Reading
    }
}

impl Next {
    /// What a group reads next when so many can be taken.
    pub fn of(key: &GroupKey, consumers: &Consumers, credit: usize) -> Next {
        Next {
            key: key.clone(),
            reads: consumers.reads.clone(),
            returned: consumers.returned.iter().take(credit).copied().collect(),
            cursor: consumers.cursor,
            credit,
        }
    }
}

impl Groups {
    /// Remembers who is about to be a member: it may leave before it is one.
    pub fn announce(&mut self, connection: ConnectionId, join: &Join) {
        let key = (join.reads.id(), join.group.as_bytes().clone());
        let client = match join.reads {
            Selection::Queue(_) => None,
            Selection::Topics(_) => Some((join.client_id.clone(), join.expiry_s)),
        };
        let (role, is_exclusive, granted) = (Role::Reading, join.is_exclusive, 0);
        let reading = self.reading.entry(key.0).or_default();
        reading.members += 1;
        reading.exclusive += usize::from(is_exclusive);
        let membership = Membership { key, client, role, is_exclusive, granted };
        if let Some(before) = self.memberships.insert((connection, join.membership), membership) {
            self.reads_no_more(&before);
        }
    }

    /// Returns true where a member cannot read a queue because it, or another one, is to be the only one.
    pub fn is_in_exclusive_use(&self, queue: u64, connection: ConnectionId, join: &Join) -> bool {
        let Some(reading) = self.reading.get(&queue) else { return false };
        let own = self.memberships.get(&(connection, join.membership));
        let own = own.filter(|own| own.key.0 == queue && own.role == Role::Reading);
        let (mut members, mut exclusive) = (reading.members, reading.exclusive);
        if let Some(own) = own {
            members -= 1;
            exclusive -= usize::from(own.is_exclusive);
        }
        exclusive > 0 || (join.is_exclusive && members > 0)
    }

    /// A membership does not count any more.
    fn reads_no_more(&mut self, membership: &Membership) {
        let Some(reading) = self.reading.get_mut(&membership.key.0) else { return };
        if membership.role == Role::Reading {
            reading.members -= 1;
            reading.exclusive -= usize::from(membership.is_exclusive);
            if reading.members == 0 {
                self.reading.remove(&membership.key.0);
            }
        }
    }

    /// Adds a member, unless it has left already. `stored` is where a group without members goes on; `end` is the partition's.
    pub fn enter(
        &mut self,
        connection: ConnectionId,
        join: Join,
        (stored, settings): (&Group, Arc<QueueSettings>),
        end: Offset,
    ) {
        let own = join.own.is_some().then(|| stored.clone());
        let Some(membership) = self.memberships.get(&(connection, join.membership)) else { return };
        let (key, granted) = (membership.key.clone(), membership.granted);
        let consumers = self.by_key.entry(key.clone()).or_insert_with(|| {
            if let Selection::Topics(filter) = &join.reads {
                self.filters.insert(filter.as_bytes(), key);
            }
            Consumers::new(join.reads.clone(), settings, stored, end)
        });
        consumers.own = own;
        let holder = (connection, join.membership);
        match consumers.members.iter_mut().find(|member| member.holder() == holder) {
            Some(member) => {
                let join = Join { credit: member.join.credit, ..join };
                member.rejoin(join, &consumers.reads);
            }
            None => {
                let is_passing = consumers.is_ephemeral();
                let pool = self.pools.entry((connection, is_passing));
                let pool = join
                    .is_named
                    .then(|| pool.or_insert_with(|| Pool::new(is_passing).into()).clone());
                consumers.add(connection, join, pool);
                consumers.members.iter_mut().last().expect("just added").window.grant(granted);
            }
        }
    }

    /// What a member wanted to begin with is missing: its first delivery says so.
    pub fn begins_after(&mut self, connection: ConnectionId, membership: u32, gap: Gap) {
        let Some(joined) = self.memberships.get(&(connection, membership)) else { return };
        let consumers = self.by_key.get_mut(&joined.key);
        if let Some(member) = consumers.and_then(|it| it.member_mut((connection, membership))) {
            member.gap = Some(gap);
        }
    }

    /// Returns the connections that are members.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.memberships.keys().map(|(connection, _)| *connection)
    }

    /// Returns true when moving a group moves it for nobody but one that joins: another connection, or for a named one anybody.
    pub fn is_alone(&self, key: &GroupKey, connection: ConnectionId, join: &Join) -> bool {
        let Some(consumers) = self.by_key.get(key) else { return true };
        match join.is_named {
            true => consumers.members.is_empty() && consumers.pending.is_empty(),
            false => consumers.members.iter().all(|member| member.connection == connection),
        }
    }

    /// Removes a member and says whose it was; what it holds goes to the others.
    pub fn leave(
        &mut self,
        connection: ConnectionId,
        membership: u32,
        now: Millis,
    ) -> Option<Membership> {
        let left = self.memberships.remove(&(connection, membership))?;
        self.reads_no_more(&left);
        let Some(consumers) = self.by_key.get_mut(&left.key) else { return Some(left) };
        let holder = (connection, membership);
        if let Role::Getting(entry) = left.role {
            if consumers.pending.get(&entry).is_some_and(|pending| pending.holder == holder) {
                consumers.take_back(entry, now);
            }
            return Some(left);
        }
        consumers.members.retain(|member| member.holder() != holder);
        consumers.stopped.retain(|member| member.holder() != holder);
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
        [false, true]
            .iter()
            .for_each(|is_passing| drop(self.pools.remove(&(connection, *is_passing))));
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
        let Membership { key, client, .. } = self.memberships.get(&(connection, membership))?;
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
        if self.filters.is_empty() {
            return;
        }
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
        let holder = (connection, membership);
        let Some(Membership { key, role, .. }) = self.memberships.get(&holder) else {
            return false;
        };
        let Some(consumers) = self.by_key.get_mut(key) else { return false };
        let is_settled = consumers.settle(entry, outcome, now);
        let is_over = match role {
            Role::Reading => false,
            Role::Getting(_) => true,
            Role::Stopped => consumers.let_go(holder),
        };
        if is_over {
            self.memberships.remove(&holder);
        }
        is_settled
    }

    /// Gives a member nothing more; what it has it keeps. Returns what it read, and whether it was a member: one that is not yet will not
    /// be. `None` where it read nothing.
    pub fn stop(&mut self, connection: ConnectionId, membership: u32) -> Option<(u64, bool)> {
        let holder = (connection, membership);
        self.memberships.get(&holder).filter(|membership| membership.reads())?;
        let mut stopped = self.memberships.remove(&holder)?;
        self.reads_no_more(&stopped);
        let queue = stopped.key.0;
        let Some(consumers) = self.by_key.get_mut(&stopped.key) else {
            return Some((queue, false));
        };
        let at = consumers.members.iter().position(|member| member.holder() == holder);
        let Some(at) = at else { return Some((queue, false)) };
        let member = consumers.members.remove(at);
        if member.window.out_count() > 0 {
            stopped.role = Role::Stopped;
            consumers.stopped.push(member);
            self.memberships.insert(holder, stopped);
        }
        Some((queue, true))
    }

    /// Lets a member have more.
    pub fn grant(&mut self, connection: ConnectionId, membership: u32, count: u32) {
        let Some(granted) = self.memberships.get_mut(&(connection, membership)) else { return };
        let consumers = self.by_key.get_mut(&granted.key);
        match consumers.and_then(|it| it.member_mut((connection, membership))) {
            Some(member) => member.window.grant(count),
            None => granted.granted = granted.granted.saturating_add(count),
        }
    }

    /// Deliveries of a member were written to its client.
    pub fn sent(&mut self, connection: ConnectionId, membership: u32, count: u32) {
        let Some(sender) = self.memberships.get(&(connection, membership)) else { return };
        let consumers = self.by_key.get_mut(&sender.key);
        if let Some(member) = consumers.and_then(|it| it.member_mut((connection, membership))) {
            member.window.sent(count);
        }
    }

    /// Returns a group in which an entry is looked for, members or not.
    pub fn look_in(
        &mut self,
        key: &GroupKey,
        reads: Selection,
        (stored, settings): (&Group, Arc<QueueSettings>),
    ) -> &mut Consumers {
        let new = || Consumers::new(reads, settings, stored, Offset::ZERO);
        self.by_key.entry(key.clone()).or_insert_with(new)
    }

    /// An entry that was asked for is out.
    pub fn got(&mut self, connection: ConnectionId, membership: u32, key: &GroupKey, at: Offset) {
        let (client, role) = (None, Role::Getting(at));
        let got = Membership { key: key.clone(), client, role, is_exclusive: false, granted: 0 };
        self.memberships.insert((connection, membership), got);
    }

    /// Returns true when no group has members.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// A group was made.
    pub fn created(&mut self, key: GroupKey) {
        self.created.insert(key);
    }

    /// Returns true for a group that no earlier leader has handed anything out to.
    pub fn is_new(&self, key: &GroupKey) -> bool {
        self.created.contains(key)
    }

    /// A group is gone, and with it what is out.
    pub fn gone(&mut self, key: &GroupKey) {
        self.created.remove(key);
        let Some(consumers) = self.by_key.remove(key) else { return };
        let members = consumers.members.iter().chain(&consumers.stopped).map(Member::holder);
        let holders = consumers.pending.values().map(|pending| pending.holder);
        for holder in members.chain(holders).collect::<BTreeSet<_>>() {
            if let Some(membership) = self.memberships.remove(&holder) {
                self.reads_no_more(&membership);
            }
        }
    }

    /// A queue is gone, and with it its groups.
    pub fn queue_gone(&mut self, queue: u64) {
        let created = self.created.range((queue, Bytes::new())..);
        let created = created.take_while(|(of, _)| *of == queue).cloned();
        for key in created.collect::<Vec<_>>() {
            self.created.remove(&key);
        }
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
            // What is written finishes yet.
            for entry in std::mem::take(&mut consumers.finished) {
                consumers.unapplied.entries.remove(&entry);
            }
            consumers.released.clear();
            consumers.postponed.clear();
        }
    }

    /// The record of an entry is elsewhere now, where no lane has it.
    pub fn moved(&mut self, queue: u64, entry: Offset) {
        for consumers in self.of_mut(queue) {
            let is_known = consumers.pending.contains_key(&entry)
                || consumers.is_held_back(entry)
                || consumers.is_being_finished(entry);
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
            consumers.delayed = consumers.delayed.split_off(&to);
            consumers.dying = consumers.dying.split_off(&to);
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

    /// Ends every membership in the groups of a queue, and forgets what is out; returns whose they were that read it.
    pub fn end_queue(&mut self, queue: u64) -> Vec<(ConnectionId, u32)> {
        let members = self.memberships.iter().filter(|(_, membership)| membership.key.0 == queue);
        let members: Vec<(ConnectionId, u32)> = members.map(|(holder, _)| *holder).collect();
        let ended = members.into_iter().filter(|holder| {
            self.memberships.remove(holder).is_some_and(|membership| membership.reads())
        });
        let members = ended.collect();
        self.reading.remove(&queue);
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
        let mine = self.memberships.range((connection, 0)..=(connection, u32::MAX));
        let mine = mine.filter(|(_, own)| own.key.0 == queue && own.role == Role::Reading).count();
        self.members_of(queue) > mine
    }

    /// Lists what somebody reads, queues and filters, by id.
    pub fn read_queues(&self) -> BTreeSet<u64> {
        self.reading.keys().copied().collect()
    }

    /// Hands a message that is not stored to one member of each group of a queue; true when somebody got it.
    pub fn pass_on(&mut self, queue: u64, at: &Handed<'_>, out: &mut impl Outbox) -> bool {
        let offered = self.of_mut(queue).map(|consumers| consumers.pass_on(at, out));
        offered.fold(false, |before, is_passed_on| before | is_passed_on)
    }

    /// Counts the members that read a queue, or a filter.
    pub fn members_of(&self, queue: u64) -> usize {
        self.reading.get(&queue).map_or(0, |reading| reading.members)
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

    /// Returns one group.
    pub fn get(&self, key: &GroupKey) -> Option<&Consumers> {
        self.by_key.get(key)
    }

    /// Returns where a consumer's own group began; `None` for one that is stored.
    pub fn own(&self, key: &GroupKey) -> Option<&Group> {
        self.by_key.get(key)?.own.as_ref()
    }

    /// Returns one group, to be changed.
    pub fn get_mut(&mut self, key: &GroupKey) -> Option<&mut Consumers> {
        self.by_key.get_mut(key)
    }
}
