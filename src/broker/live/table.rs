//! Who is connected, and under which filters each listens.
//!
//! Filters come and go with requests to partitions; a connection has a slot for as long as it is there.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use fluxmq_index::{FilterMap, SharedFilters, TopicTrie, topic_trie};

use crate::model::{Filter, Message, QueueName, ReaderId, Selection, Subscription, Topic};
use crate::partition::request::{ConnectionId, Join, Whom};
use crate::shard::Receiver;

/// Who listens to what.
#[derive(Default)]
pub(super) struct Table {
    pub(super) filters: FilterMap<Listener>,
    /// Subscriptions of everybody; of them, shared ones.
    pub(super) subscription_count: usize,
    pub(super) shared_count: usize,
    /// What the broker says of itself. No log has it.
    pub(super) statistics: BTreeMap<Topic, Arc<Message>>,
    /// Shared subscriptions: those of each filter, and who is in each.
    pub(super) shared: TopicTrie<Share>,
    pub(super) shares: BTreeMap<Share, Members>,
    pub(super) slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_connection: BTreeMap<ConnectionId, u32>,
}

/// One connection.
pub(super) struct Slot {
    pub(super) receiver: Arc<dyn Receiver>,
    pub(super) publisher: u64,
    /// By the numbers of their filters. Few, or added and removed together: a list is enough.
    filters: Vec<(u32, ReaderId)>,
    /// By membership.
    shares: BTreeMap<u32, Share>,
}

/// A group and the filter that its members share.
pub(super) type Share = (QueueName, Filter);

/// Who is in a group. A member is a slot's membership.
#[derive(Default)]
pub(super) struct Members {
    pub(super) by_member: BTreeMap<(u32, u32), Listener>,
    /// Whose turn it is, as a count of messages.
    pub(super) turn: Arc<AtomicUsize>,
}

/// One subscription. A reader of a connection has one for each filter, so slot and reader name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listener {
    pub(super) slot: u32,
    pub(super) reader: ReaderId,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    pub(super) subscription_id: u32,
}

impl Table {
    pub(super) fn new(filters: &SharedFilters) -> Table {
        Table { filters: FilterMap::new(filters), ..Table::default() }
    }

    pub(super) fn connect(&mut self, connection: ConnectionId, receiver: Arc<dyn Receiver>) {
        let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
        let new =
            Some(Slot { receiver, publisher: 0, filters: Vec::new(), shares: BTreeMap::new() });
        match self.slots.get_mut(slot as usize) {
            Some(free) => *free = new,
            None => self.slots.push(new),
        }
        self.by_connection.insert(connection, slot);
    }

    pub(super) fn disconnect(&mut self, connection: ConnectionId) {
        self.unsubscribe_all(connection);
        let shares = self.slot(connection).map(|(_, slot)| slot.shares.clone());
        for membership in shares.unwrap_or_default().into_keys() {
            self.unshare(connection, membership);
        }
        if let Some(slot) = self.by_connection.remove(&connection) {
            self.slots[slot as usize] = None;
            self.free.push(slot);
        }
    }

    /// Lists who of these answers, by number.
    pub(super) fn answering(&self, whom: Whom) -> Vec<(ConnectionId, &Arc<dyn Receiver>)> {
        let (range, count_max) = match whom {
            Whom::One(one) => (one..=one, 1),
            Whom::From(first, count_max) => (first..=ConnectionId(u64::MAX), count_max),
        };
        let all = self.by_connection.range(range);
        let receivers = all.filter_map(|(id, slot)| Some((*id, self.receiver_at(*slot)?)));
        receivers.filter(|(_, receiver)| receiver.answers()).take(count_max).collect()
    }

    pub(super) fn receiver(&self, connection: ConnectionId) -> Option<&Arc<dyn Receiver>> {
        self.receiver_at(*self.by_connection.get(&connection)?)
    }

    fn receiver_at(&self, slot: u32) -> Option<&Arc<dyn Receiver>> {
        Some(&self.slots[slot as usize].as_ref()?.receiver)
    }

    pub(super) fn subscribe(
        &mut self,
        connection: ConnectionId,
        publisher: u64,
        new: &Subscription,
    ) {
        let Some((at, slot)) = self.slot(connection) else { return };
        slot.publisher = publisher;
        let Subscription { no_local, retain_as_published, subscription_id, reader, .. } = *new;
        let listener =
            Listener { slot: at, reader, no_local, retain_as_published, subscription_id };
        // Replaced, not kept: its options may differ.
        let filter = new.filter.as_bytes();
        let was_there = self.filters.replace(filter, listener).is_some();
        let number = self.filters.number(filter);
        if let (false, Some(number), Some((_, slot))) = (was_there, number, self.slot(connection)) {
            slot.filters.push((number, reader));
            self.subscription_count += 1;
        }
    }

    pub(super) fn unsubscribe(&mut self, connection: ConnectionId, filter: &Filter) {
        let Some(number) = self.filters.number(filter.as_bytes()) else { return };
        self.remove_filters(connection, |of| of == (number, ReaderId::SESSION));
    }

    /// Removes what a replay listens to.
    pub(super) fn end_replay(&mut self, connection: ConnectionId, reader: ReaderId) {
        self.remove_filters(connection, |(_, of)| of == reader);
    }

    pub(super) fn unsubscribe_all(&mut self, connection: ConnectionId) {
        self.remove_filters(connection, |_| true);
    }

    fn remove_filters(
        &mut self,
        connection: ConnectionId,
        is_meant: impl Fn((u32, ReaderId)) -> bool,
    ) {
        let Some((at, slot)) = self.slot(connection) else { return };
        let removed: Vec<_> = slot.filters.extract_if(.., |of| is_meant(*of)).collect();
        self.subscription_count -= removed.len();
        for (number, reader) in removed {
            self.filters.remove_at(number, &Listener::named(at, reader));
        }
    }

    /// Adds a member of a shared subscription; a join of the same membership replaces it. Queues are for their partitions.
    pub(super) fn share(&mut self, connection: ConnectionId, join: &Join) {
        let Selection::Topics(filter) = &join.reads else { return };
        let share = (join.group.clone(), filter.clone());
        let Some((at, slot)) = self.slot(connection) else { return };
        slot.shares.insert(join.membership, share.clone());
        self.shared.insert(filter.as_bytes(), share.clone());
        let members = self.shares.entry(share).or_default();
        let Join { retain_as_published, subscription_id, .. } = *join;
        let listener = Listener {
            retain_as_published,
            subscription_id,
            ..Listener::named(at, ReaderId::SESSION)
        };
        if members.by_member.insert((at, join.membership), listener).is_none() {
            self.subscription_count += 1;
            self.shared_count += 1;
        }
    }

    pub(super) fn unshare(&mut self, connection: ConnectionId, membership: u32) {
        let Some((at, slot)) = self.slot(connection) else { return };
        let Some(share) = slot.shares.remove(&membership) else { return };
        let Some(members) = self.shares.get_mut(&share) else { return };
        if members.by_member.remove(&(at, membership)).is_some() {
            self.subscription_count -= 1;
            self.shared_count -= 1;
        }
        if members.by_member.is_empty() {
            self.shares.remove(&share);
            self.shared.remove(share.1.as_bytes(), &share);
        }
    }

    /// Lists the statistics that match a filter, with who asks for them.
    pub(super) fn statistics_of(
        &self,
        connection: ConnectionId,
        filter: &Filter,
    ) -> Option<(&Slot, impl Iterator<Item = &Arc<Message>>)> {
        let at = self.by_connection.get(&connection).filter(|_| filter.is_statistics())?;
        let slot = self.slots[*at as usize].as_ref()?;
        let all = self.statistics.iter();
        let matching =
            all.filter(|(topic, _)| topic_trie::matches(filter.as_bytes(), topic.as_bytes()));
        Some((slot, matching.map(|(_, message)| message)))
    }

    fn slot(&mut self, connection: ConnectionId) -> Option<(u32, &mut Slot)> {
        let at = *self.by_connection.get(&connection)?;
        Some((at, self.slots[at as usize].as_mut()?))
    }
}

impl Listener {
    fn named(slot: u32, reader: ReaderId) -> Listener {
        let (no_local, retain_as_published) = (false, false);
        Listener { slot, reader, no_local, retain_as_published, subscription_id: 0 }
    }
}

impl PartialEq for Listener {
    fn eq(&self, other: &Listener) -> bool {
        (self.slot, self.reader) == (other.slot, other.reader)
    }
}

impl Eq for Listener {}

impl PartialOrd for Listener {
    fn partial_cmp(&self, other: &Listener) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Listener {
    fn cmp(&self, other: &Listener) -> Ordering {
        (self.slot, self.reader).cmp(&(other.slot, other.reader))
    }
}
