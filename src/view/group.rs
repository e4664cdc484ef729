//! Consumer groups: what each has finished of what it reads, and which sessions it serves.
//!
//! A group reads a selection: a queue, by queue offsets, or what matches a topic filter, by partition offsets. Either way it is a
//! floor and the finished entries above it, so its size follows the holes, never the backlog. A group over a queue stays. One over
//! a filter, an MQTT shared subscription, lives as long as one of its sessions does, connected or not (ADR 0015).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq_index::{Offset, OffsetSet};
use serde::{Deserialize, Serialize};

use super::queue::gaps;
use super::section::{decode_each, encode_each};
use super::{SectionError, View};
use crate::model::record::filter_id;
use crate::model::{Control, Filter, Millis, Record};
use crate::planted::{PlantedBug, is_planted};

/// Milliseconds that a member stays beyond its session: the session's home counts on its own, and must not be outlived.
const MEMBER_GRACE_MS: u64 = 5_000;

/// Names a group: the id of its selection and its own name.
pub type GroupKey = (u64, Bytes);

/// The consumer groups of a partition.
#[derive(Debug, Default)]
pub struct Groups {
    by_key: BTreeMap<GroupKey, Group>,
    /// Members that are away, by the log time at which they end.
    ending: BTreeSet<(Millis, GroupKey, Bytes)>,
}

/// One consumer group. Entries are offsets of its selection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// What it reads; `None` is a queue.
    filter: Option<Filter>,
    committed: Offset,
    finished: OffsetSet,
    released: BTreeMap<Offset, Returned>,
    /// By client id; none for a queue's.
    members: BTreeMap<Bytes, Member>,
    claimed: BTreeMap<Offset, Claim>,
}

/// What is known of an entry that came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Returned {
    count: u32,
    /// Log time before which it must not be handed out; 0 is at once.
    until: u64,
}

/// A session that a group over a filter serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Seconds it stays when its connection ends; `u32::MAX` is for ever.
    pub expiry_s: u32,
    /// When that was; `None` while it is connected.
    pub left_at: Option<Millis>,
}

/// An entry whose QoS 2 delivery to one session has begun: nobody else may get it any more [MQTT-4.8.2-5].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The session.
    pub client_id: Bytes,
    /// The number it is sent under.
    pub packet_id: u16,
    /// True once PUBREC has come.
    pub received: bool,
}

impl Groups {
    /// Returns a group.
    pub fn get(&self, selection: u64, name: &Bytes) -> Option<&Group> {
        self.by_key.get(&(selection, name.clone()))
    }

    /// Returns one group.
    pub fn by_key(&self, key: &GroupKey) -> Option<&Group> {
        self.by_key.get(key)
    }

    /// Lists all groups by key.
    pub fn iter(&self) -> impl Iterator<Item = (&GroupKey, &Group)> {
        self.by_key.iter()
    }

    /// Lists the groups that read a selection.
    pub fn of(&self, selection: u64) -> impl Iterator<Item = (&GroupKey, &Group)> {
        let range = self.by_key.range((selection, Bytes::new())..);
        range.take_while(move |((reads, _), _)| *reads == selection)
    }

    fn of_mut(&mut self, selection: u64) -> impl Iterator<Item = &mut Group> {
        let range = self.by_key.range_mut((selection, Bytes::new())..);
        range.take_while(move |((reads, _), _)| *reads == selection).map(|(_, group)| group)
    }

    fn joined(&mut self, at: Offset, filter: &Filter, group: &Bytes, who: (&Bytes, u32)) {
        let (client_id, expiry_s) = who;
        let key = (filter_id(filter), Bytes::copy_from_slice(group));
        let member = self.by_key.get(&key).and_then(|group| group.members.get(client_id));
        if let Some(ends_at) = member.and_then(Member::ends_at) {
            self.ending.remove(&(ends_at, key.clone(), client_id.clone()));
        }
        // A group begins at the record that makes it: what was published before is not its [MQTT-3.8.4-4].
        let group = self.by_key.entry(key).or_insert_with(|| Group {
            filter: Some(Filter::from_stored(Bytes::copy_from_slice(filter.as_bytes()))),
            committed: at,
            ..Group::default()
        });
        let member = Member { expiry_s, left_at: None };
        group.members.insert(Bytes::copy_from_slice(client_id), member);
    }

    fn left(&mut self, time: Millis, key: GroupKey, client_id: &Bytes, expiry_s: u32) {
        // The stored key: the record's slice would keep its whole frame in memory.
        let Some((key, _)) = self.by_key.get_key_value(&key) else { return };
        let key = key.clone();
        let group = self.by_key.get_mut(&key).expect("just found");
        let Some((client_id, old)) = group.members.remove_entry(client_id) else { return };
        if let Some(ends_at) = old.ends_at() {
            self.ending.remove(&(ends_at, key.clone(), client_id.clone()));
        }
        if expiry_s > 0 {
            let member = Member { expiry_s, left_at: Some(time) };
            if let Some(ends_at) = member.ends_at() {
                self.ending.insert((ends_at, key, client_id.clone()));
            }
            group.members.insert(client_id, member);
            return;
        }
        group.give_up_claims(&client_id);
        if group.members.is_empty() {
            self.by_key.remove(&key);
        }
    }
}

impl Member {
    /// Returns the log time at which it ends, once it is away.
    fn ends_at(&self) -> Option<Millis> {
        let left_at = self.left_at.filter(|_| self.expiry_s != u32::MAX)?;
        Some(left_at.plus(u64::from(self.expiry_s) * 1000 + MEMBER_GRACE_MS))
    }
}

impl Group {
    /// A group of a queue that begins at an entry.
    pub fn beginning_at(start: Offset) -> Group {
        Group { committed: start, ..Group::default() }
    }

    /// What it reads; `None` is a queue.
    pub fn filter(&self) -> Option<&Filter> {
        self.filter.as_ref()
    }

    /// Everything below is finished.
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// Returns true for an entry that this group is done with.
    pub fn is_finished(&self, entry: Offset) -> bool {
        entry < self.committed || self.finished.contains(entry)
    }

    /// The entries that this group is done with.
    pub fn finished(&self) -> OffsetSet {
        let mut finished = self.finished.clone();
        finished.insert_range(Offset::ZERO..self.committed);
        finished
    }

    /// Returns the first entry at or above another that this group is not done with.
    pub fn first_unfinished(&self, entry: Offset) -> Offset {
        self.finished.first_gap(entry.max(self.committed))
    }

    /// Returns the first entry at or above another that this group is done with; `None` when there is none.
    pub fn first_finished(&self, entry: Offset) -> Option<Offset> {
        if entry < self.committed { Some(entry) } else { self.finished.next_in(entry) }
    }

    /// How often an entry was handed out and came back.
    pub fn delivery_count(&self, entry: Offset) -> u32 {
        self.released.get(&entry).map_or(0, |returned| returned.count)
    }

    /// Lists the entries that came back and must wait, each with the log time it waits for.
    pub fn postponed(&self) -> impl Iterator<Item = (Offset, Millis)> {
        let waits = self.released.iter().filter(|(_, returned)| returned.until > 0);
        waits.map(|(entry, returned)| (*entry, Millis(returned.until)))
    }

    /// Lists the entries that came back, each with how often and the log time before which it must wait; 0 is none.
    pub fn returned(&self) -> impl Iterator<Item = (Offset, u32, Millis)> {
        let returned = self.released.iter();
        returned.map(|(entry, returned)| (*entry, returned.count, Millis(returned.until)))
    }

    /// How many entries above [`committed`](Group::committed) are finished.
    pub fn finished_count(&self) -> u64 {
        self.finished.len()
    }

    /// Checks what holds after every record: committed is the first entry that is not finished, and nothing finished is to come again.
    pub fn check(&self) -> Result<(), String> {
        let committed = self.committed;
        let first = self.finished.first();
        if first.is_some_and(|first| first <= committed) {
            return Err(format!("committed is {committed}, and {first:?} is finished"));
        }
        let wrong =
            self.released.keys().chain(self.claimed.keys()).find(|it| self.is_finished(**it));
        match wrong {
            Some(entry) => Err(format!("{entry} is finished and to come again")),
            None => Ok(()),
        }
    }

    /// The sessions it serves, by client id.
    pub fn members(&self) -> &BTreeMap<Bytes, Member> {
        &self.members
    }

    /// The entries that are one session's alone.
    pub fn claimed(&self) -> &BTreeMap<Offset, Claim> {
        &self.claimed
    }

    fn finish(&mut self, runs: &[(Offset, u64)]) {
        for (first, count) in runs {
            let end = first.plus(*count);
            self.finished.insert_range(*first..end);
            if !is_planted(PlantedBug::ReturnsKept) {
                remove_range(&mut self.released, *first..end);
            }
            remove_range(&mut self.claimed, *first..end);
        }
        self.advance();
    }

    fn release(&mut self, entry: Offset, until: Millis) {
        if !self.is_finished(entry) {
            let returned = self.released.entry(entry).or_default();
            *returned = Returned { count: returned.count + 1, until: until.0 };
        }
    }

    fn claim(&mut self, client_id: &Bytes, entries: &[(u16, Offset)]) {
        let Some((client_id, _)) = self.members.get_key_value(client_id) else { return };
        let client_id = client_id.clone();
        for (packet_id, entry) in entries {
            if !self.is_finished(*entry) {
                let client_id = client_id.clone();
                let claim = Claim { client_id, packet_id: *packet_id, received: false };
                self.claimed.insert(*entry, claim);
            }
        }
    }

    fn receive(&mut self, entries: &[Offset]) {
        for entry in entries {
            if let Some(claim) = self.claimed.get_mut(entry) {
                claim.received = true;
            }
        }
    }

    /// What a session that is over was being sent goes to nobody else [MQTT-4.8.2-5].
    fn give_up_claims(&mut self, client_id: &Bytes) {
        let mine = self.claimed.iter().filter(|(_, claim)| claim.client_id == *client_id);
        let runs: Vec<(Offset, u64)> = mine.map(|(entry, _)| (*entry, 1)).collect();
        self.finish(&runs);
    }

    /// Entries below left the queue.
    fn finish_to(&mut self, to: Offset) {
        if to > self.committed {
            self.finish(&[(self.committed, to.0 - self.committed.0)]);
        }
    }

    fn set_cursor(&mut self, to: Offset) {
        // Going back makes everything from there on unfinished, holes or not; going forward keeps what is finished above.
        if to < self.committed {
            self.finished = OffsetSet::default();
            self.released.clear();
        }
        self.committed = to;
        self.advance();
    }

    fn advance(&mut self) {
        self.committed = self.finished.first_gap(self.committed);
        self.finished.remove_range(Offset::ZERO..self.committed);
        self.released = self.released.split_off(&self.committed);
    }
}

fn remove_range<T>(map: &mut BTreeMap<Offset, T>, range: std::ops::Range<Offset>) {
    let gone: Vec<Offset> = map.range(range).map(|(entry, _)| *entry).collect();
    for entry in gone {
        map.remove(&entry);
    }
}

impl View for Groups {
    fn name(&self) -> &'static str {
        "groups"
    }

    fn apply(&mut self, at: Offset, time: Millis, record: Record<'_>) {
        let Record::Control(control) = record else { return };
        match control {
            Control::GroupCreated { queue, group, start } => {
                let key = (*queue, Bytes::copy_from_slice(group));
                self.by_key.entry(key).or_insert_with(|| Group::beginning_at(*start));
            }
            Control::Settled { selection, group, finished, released } => {
                if let Some(group) = self.by_key.get_mut(&(*selection, group.clone())) {
                    group.finish(finished);
                    released.iter().for_each(|entry| group.release(*entry, Millis(0)));
                }
            }
            Control::Postponed { queue, group, entries } => {
                if let Some(group) = self.by_key.get_mut(&(*queue, group.clone())) {
                    entries.iter().for_each(|(entry, until)| group.release(*entry, *until));
                }
            }
            Control::GroupDeleted { queue, group } => {
                self.by_key.remove(&(*queue, group.clone()));
            }
            Control::QueueDeleted { queue } => {
                let groups: Vec<GroupKey> = self.of(*queue).map(|(key, _)| key.clone()).collect();
                groups.iter().for_each(|key| drop(self.by_key.remove(key)));
            }
            Control::QueueTrimmed { queue, to, .. } => {
                for group in self.of_mut(*queue) {
                    group.finish_to(*to);
                }
            }
            Control::QueuePurged { queue, to, kept, .. } => {
                let range = self.by_key.range_mut((*queue, Bytes::new())..);
                for ((_, name), group) in range.take_while(|((of, _), _)| of == queue) {
                    let kept = kept.iter().filter(|(group, _)| group == name);
                    let kept = kept.flat_map(|(_, entries)| entries.iter().copied()).collect();
                    let gone = gaps(group.committed.min(*to)..*to, &kept);
                    group.finish(
                        &gone.map(|it| (it.start, it.end.0 - it.start.0)).collect::<Vec<_>>(),
                    );
                }
            }
            Control::QueueRemoved { queue, entries, .. } => {
                let runs: Vec<(Offset, u64)> = entries.iter().map(|entry| (*entry, 1)).collect();
                for group in self.of_mut(*queue) {
                    group.finish(&runs);
                }
            }
            Control::CursorSet { queue, group, to } => {
                if let Some(group) = self.by_key.get_mut(&(*queue, group.clone())) {
                    group.set_cursor(*to);
                }
            }
            Control::MemberJoined { filter, group, client_id, expiry_s } => {
                self.joined(at, filter, group, (client_id, *expiry_s));
            }
            Control::MemberLeft { selection, group, client_id, expiry_s } => {
                self.left(time, (*selection, group.clone()), client_id, *expiry_s);
            }
            Control::Claimed { selection, group, client_id, sent, received } => {
                if let Some(group) = self.by_key.get_mut(&(*selection, group.clone())) {
                    group.claim(client_id, sent);
                    group.receive(received);
                }
            }
            _ => {}
        }
    }

    fn due(&self, now: Millis, out: &mut Vec<Control>) {
        let ended = self.ending.iter().take_while(|(at, _, _)| *at <= now);
        out.extend(ended.map(|(_, (selection, group), client_id)| Control::MemberLeft {
            selection: *selection,
            group: group.clone(),
            client_id: client_id.clone(),
            expiry_s: 0,
        }));
    }

    fn snapshot(&self) -> Vec<u8> {
        encode_each(self.by_key.iter().map(to_row))
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        *self = Groups::default();
        for row in decode_each(section)? {
            let (key, group) = from_row(row?);
            for (client_id, member) in &group.members {
                if let Some(at) = member.ends_at() {
                    self.ending.insert((at, key.clone(), client_id.clone()));
                }
            }
            self.by_key.insert(key, group);
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Row {
    selection: u64,
    name: Vec<u8>,
    filter: Option<Vec<u8>>,
    committed: u64,
    finished: Vec<(u64, u64)>,
    released: Vec<(u64, Returned)>,
    members: Vec<(Vec<u8>, u32, Option<u64>)>,
    claimed: Vec<ClaimRow>,
}

#[derive(Serialize, Deserialize)]
struct ClaimRow {
    entry: u64,
    client_id: Vec<u8>,
    packet_id: u16,
    received: bool,
}

fn to_row(((selection, name), group): (&GroupKey, &Group)) -> Row {
    let member = |(client_id, member): (&Bytes, &Member)| {
        (client_id.to_vec(), member.expiry_s, member.left_at.map(|at| at.0))
    };
    let claim = |(entry, claim): (&Offset, &Claim)| ClaimRow {
        entry: entry.0,
        client_id: claim.client_id.to_vec(),
        packet_id: claim.packet_id,
        received: claim.received,
    };
    Row {
        selection: *selection,
        name: name.to_vec(),
        filter: group.filter.as_ref().map(|filter| filter.as_bytes().to_vec()),
        committed: group.committed.0,
        finished: group.finished.iter().map(|range| (range.start.0, range.end.0)).collect(),
        released: group.released.iter().map(|(entry, returned)| (entry.0, *returned)).collect(),
        members: group.members.iter().map(member).collect(),
        claimed: group.claimed.iter().map(claim).collect(),
    }
}

fn from_row(row: Row) -> (GroupKey, Group) {
    let mut finished = OffsetSet::default();
    let is_forgotten = is_planted(PlantedBug::RestoreForgetsFinished);
    for (start, end) in row.finished.into_iter().filter(|_| !is_forgotten) {
        finished.insert_range(Offset(start)..Offset(end));
    }
    let member = |(client_id, expiry_s, left_at): (Vec<u8>, u32, Option<u64>)| {
        (Bytes::from(client_id), Member { expiry_s, left_at: left_at.map(Millis) })
    };
    let claim = |row: ClaimRow| {
        let ClaimRow { entry, client_id, packet_id, received } = row;
        (Offset(entry), Claim { client_id: Bytes::from(client_id), packet_id, received })
    };
    let is_forgotten = is_planted(PlantedBug::RestoreForgetsReturns);
    let released = row.released.into_iter().filter(|_| !is_forgotten);
    let released = released.map(|(entry, returned)| (Offset(entry), returned));
    let group = Group {
        filter: row.filter.map(|filter| Filter::from_stored(Bytes::from(filter))),
        committed: Offset(row.committed),
        finished,
        released: released.collect(),
        members: row.members.into_iter().map(member).collect(),
        claimed: row.claimed.into_iter().map(claim).collect(),
    };
    ((row.selection, Bytes::from(row.name)), group)
}
