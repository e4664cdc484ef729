//! Who consumes the queues of this partition: the members of each group, what each of them holds, and what comes next.
//!
//! Volatile. The log remembers outcomes only (`view::queue`); what was handed out and not settled is handed out again after a restart.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq_index::{Offset, topic_trie};

use super::reader::to_message_at;
use super::request::{ConnectionId, Event, Join, Outbox};
use super::window::Window;
use crate::model::record::queue_id;
use crate::model::{
    Control, Delivery, DeliveryId, DeliverySource, Millis, Outcome, PartitionId, StoredMessage,
};

/// The groups of a partition that have members, by queue and name.
#[derive(Debug, Default)]
pub struct Groups {
    by_name: BTreeMap<(u64, Bytes), Consumers>,
    /// What each membership of each connection is in.
    memberships: BTreeMap<(ConnectionId, u32), (u64, Bytes)>,
}

/// The members of one group and what is out at them. All entries are queue offsets.
#[derive(Debug)]
pub struct Consumers {
    queue_name: String,
    members: Vec<Member>,
    /// Next entry never handed out.
    cursor: Offset,
    /// A partition offset at or before the cursor's entry, and that entry.
    hint: Option<(Offset, Offset)>,
    pending: BTreeMap<Offset, Pending>,
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
    /// The queue's id.
    pub queue: u64,
    /// The group's name.
    pub group: Bytes,
    /// Entries to hand out again.
    pub returned: Vec<Offset>,
    /// Then entries from here on.
    pub cursor: Offset,
    /// How many members can take.
    pub credit: usize,
}

impl Groups {
    /// Adds a member; `committed` is where a group without members goes on.
    pub fn join(&mut self, connection: ConnectionId, join: Join, committed: Offset) {
        let key = (queue_id(join.queue.as_bytes()), join.group.as_bytes().clone());
        let consumers = self.by_name.entry(key.clone()).or_insert_with(|| Consumers {
            queue_name: join.queue.to_string(),
            members: Vec::new(),
            cursor: committed,
            hint: None,
            pending: BTreeMap::new(),
            returned: BTreeSet::new(),
            returns: BTreeMap::new(),
            turn: 0,
            finished: Vec::new(),
            released: Vec::new(),
        });
        let window = Window::new(join.credit);
        let same = |member: &Member| {
            member.connection == connection && member.join.membership == join.membership
        };
        match consumers.members.iter_mut().find(|member| same(member)) {
            Some(member) => member.join = Join { credit: member.join.credit, ..join },
            None => {
                self.memberships.insert((connection, join.membership), key);
                consumers.members.push(Member { connection, join, window });
            }
        }
    }

    /// Returns the connections that are members.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.memberships.keys().map(|(connection, _)| *connection)
    }

    /// Returns how many members a group has beside one connection's.
    pub fn others(&self, queue: u64, group: &Bytes, connection: ConnectionId) -> usize {
        let consumers = self.by_name.get(&(queue, group.clone()));
        let others = consumers.iter().flat_map(|consumers| &consumers.members);
        others.filter(|member| member.connection != connection).count()
    }

    /// Removes a member; what it holds goes to the others.
    pub fn leave(&mut self, connection: ConnectionId, membership: u32) {
        let Some(key) = self.memberships.remove(&(connection, membership)) else { return };
        let Some(consumers) = self.by_name.get_mut(&key) else { return };
        let holder = (connection, membership);
        consumers.members.retain(|member| (member.connection, member.join.membership) != holder);
        let held = consumers.pending.iter().filter(|(_, pending)| pending.holder == holder);
        for entry in held.map(|(entry, _)| *entry).collect::<Vec<_>>() {
            consumers.take_back(entry);
        }
    }

    /// Removes every membership of a connection.
    pub fn forget(&mut self, connection: ConnectionId) {
        let mine = self.memberships.range((connection, 0)..=(connection, u32::MAX));
        for membership in mine.map(|((_, membership), _)| *membership).collect::<Vec<_>>() {
            self.leave(connection, membership);
        }
    }

    /// Settles an entry that a member holds; false when it holds no such entry.
    pub fn settle(
        &mut self,
        connection: ConnectionId,
        membership: u32,
        entry: Offset,
        outcome: Outcome,
    ) -> bool {
        let Some(key) = self.memberships.get(&(connection, membership)) else { return false };
        let consumers = self.by_name.get_mut(key).expect("memberships name groups that exist");
        consumers.settle(entry, outcome)
    }

    /// Settles an entry by address; false when it is not pending.
    pub fn settle_entry(
        &mut self,
        queue: u64,
        group: &Bytes,
        entry: Offset,
        outcome: Outcome,
    ) -> bool {
        let consumers = self.by_name.get_mut(&(queue, group.clone()));
        consumers.is_some_and(|consumers| consumers.settle(entry, outcome))
    }

    /// Moves a group's cursor, forgetting what is out.
    pub fn seek(&mut self, queue: u64, group: &Bytes, to: Offset) {
        if let Some(consumers) = self.by_name.get_mut(&(queue, group.clone())) {
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
        for consumers in self.by_name.values_mut() {
            let late = consumers.pending.iter().filter(|(_, pending)| pending.deadline <= now);
            for entry in late.map(|(entry, _)| *entry).collect::<Vec<_>>() {
                consumers.take_back(entry);
                consumers.released.push(entry);
            }
        }
    }

    /// Returns true when outcomes wait to be written.
    pub fn has_outcomes(&self) -> bool {
        let waiting = |consumers: &Consumers| {
            !consumers.finished.is_empty() || !consumers.released.is_empty()
        };
        self.by_name.values().any(waiting)
    }

    /// Takes the outcomes that are not written yet, one control for each group.
    pub fn take_outcomes(&mut self) -> Vec<Control> {
        let outcomes = self.by_name.iter_mut().filter_map(|((queue, group), consumers)| {
            if consumers.finished.is_empty() && consumers.released.is_empty() {
                return None;
            }
            Some(Control::Settled {
                queue: *queue,
                group: group.clone(),
                finished: to_runs(std::mem::take(&mut consumers.finished)),
                released: std::mem::take(&mut consumers.released),
            })
        });
        let outcomes = outcomes.collect();
        self.by_name.retain(|_, consumers| !consumers.is_abandoned());
        outcomes
    }

    /// Lists what groups can hand out: at most `limit` entries each, and none to a group that has `pending_max` out.
    pub fn next(&self, limit: usize, pending_max: usize, end: impl Fn(u64) -> Offset) -> Vec<Next> {
        let next = |((queue, group), consumers): (&(u64, Bytes), &Consumers)| {
            let credit: u32 = consumers.members.iter().map(|member| member.window.credit()).sum();
            let more = !consumers.returned.is_empty() || consumers.cursor < end(*queue);
            let room = pending_max.saturating_sub(consumers.pending.len());
            (credit > 0 && more && room > 0).then(|| Next {
                queue: *queue,
                group: group.clone(),
                returned: consumers.returned.iter().take(limit).copied().collect(),
                cursor: consumers.cursor,
                credit: (credit as usize).min(limit).min(room),
            })
        };
        self.by_name.iter().filter_map(next).collect()
    }

    /// Returns one group.
    pub fn get_mut(&mut self, queue: u64, group: &Bytes) -> Option<&mut Consumers> {
        self.by_name.get_mut(&(queue, group.clone()))
    }
}

impl Consumers {
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

    /// Hands an entry to the next member that wants it and has credit; false when none has credit.
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
        let Some(index) = order.into_iter().find(ready) else { return false };
        self.turn = (index + 1) % count;
        let returns = self.returns.get(&entry).copied().unwrap_or(0);
        let member = &mut self.members[index];
        let holder = (member.connection, member.join.membership);
        let count = returns.max(at.delivery_count);
        let delivery = delivery(member, &self.queue_name, count, &at);
        member.window.spend(&delivery.message);
        out.send(member.connection, Event::Deliver(delivery));
        self.pending.insert(entry, Pending { holder, deadline: at.deadline });
        self.returned.remove(&entry);
        self.cursor = self.cursor.max(entry.next());
        self.hint = Some((entry, offset));
        true
    }

    fn settle(&mut self, entry: Offset, outcome: Outcome) -> bool {
        if !self.give_credit_back(entry) {
            return false;
        }
        match outcome {
            Outcome::Accepted | Outcome::Rejected => {
                self.returns.remove(&entry);
                self.finished.push(entry);
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

    fn is_abandoned(&self) -> bool {
        self.members.is_empty() && self.finished.is_empty() && self.released.is_empty()
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

fn delivery(member: &Member, queue: &str, count: u32, at: &Handed<'_>) -> Delivery {
    let mut annotations = vec![
        ("message-id", format!("{queue}:{}", at.entry)),
        ("group-id", member.join.group.to_string()),
        ("queue", queue.to_owned()),
        ("offset", at.entry.to_string()),
    ];
    if count > 0 {
        annotations.push(("delivery-count", count.to_string()));
    }
    Delivery {
        id: DeliveryId {
            source: DeliverySource::Group(member.join.membership),
            partition: at.partition,
            offset: at.entry,
        },
        message: to_message_at(at.message, at.now),
        qos: at.message.qos.min(member.join.qos),
        retain: false,
        redelivered: count > 0,
        subscription_ids: Some(member.join.subscription_id)
            .filter(|id| *id != 0)
            .into_iter()
            .collect(),
        annotations,
        settle_explicit: member.join.settle_explicit,
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
