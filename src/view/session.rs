//! Persistent MQTT sessions: what they subscribe to, how far they have read, and what is out.
//!
//! Nothing is written per message for a session that is away: its backlog is the log above its cursors.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq_index::Offset;
use serde::{Deserialize, Serialize};

use super::section::{decode_rows, encode_rows};
use super::{SectionError, SmallMap, View};
use crate::model::{
    Control, Filter, Millis, OutboundEntry, PartitionId, Principal, QoS, ReaderId, Record,
    RetainHandling, SessionProgress, Subscription,
};
use crate::planted::{PlantedBug, is_planted};

/// The sessions of a partition, by client id.
#[derive(Debug, Default)]
pub struct Sessions {
    /// Boxed: most places in the nodes of a tree are empty.
    by_client: BTreeMap<Bytes, Box<Session>>,
    /// How many each user has; none of anonymous clients.
    count_by_user: BTreeMap<Principal, usize>,
    /// Closed sessions by the log time at which they end.
    ending: BTreeSet<(Millis, Bytes)>,
    away: Away,
}

/// How much there is of sessions whose connection has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Away {
    /// Such sessions.
    pub sessions: usize,
    /// What they are subscribed to.
    pub subscriptions: usize,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Offset of the record that opened its current or last connection: fences older ones.
    pub epoch: Offset,
    /// Names this life of the session towards duplicate detection; a clean start begins another.
    pub incarnation: u32,
    /// Whose it is.
    pub principal: Principal,
    /// Seconds it outlives its connection; `u32::MAX` is for ever.
    pub expiry_s: u32,
    /// When its connection ended; `None` while it is open.
    pub closed_at: Option<Millis>,
    /// By filter as the client wrote it.
    pub subscriptions: SmallMap<Filter, StoredSubscription>,
    /// Matching records below these are settled or outbound.
    pub cursors: SmallMap<PartitionId, Offset>,
    /// What is out, in sending order.
    pub outbound: Vec<OutboundEntry>,
}

/// A subscription and where it begins in every partition that may hold a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSubscription {
    /// What the client asked for.
    pub subscription: Subscription,
    /// Records below are not for it. Of a replay these are its cursors: matching records below are settled or outbound.
    pub starts: Vec<(PartitionId, Offset)>,
}

impl Sessions {
    /// Returns a session.
    pub fn get(&self, client_id: &[u8]) -> Option<&Session> {
        self.by_client.get(client_id).map(Box::as_ref)
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.by_client.len()
    }

    /// Returns how many of a user's there are; anonymous clients are not counted.
    pub fn count_of(&self, principal: &Principal) -> usize {
        self.count_by_user.get(principal).copied().unwrap_or(0)
    }

    /// Returns how much there is of sessions whose connection has ended.
    pub fn away(&self) -> Away {
        self.away
    }

    /// Returns true when there is none.
    pub fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }

    /// Lists all sessions by client id.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Session)> {
        self.by_client.iter().map(|(client_id, session)| (client_id, &**session))
    }

    /// Lists the sessions whose connection has not ended, as far as the log knows.
    pub fn open(&self) -> impl Iterator<Item = (&Bytes, &Session)> {
        self.iter().filter(|(_, session)| session.closed_at.is_none())
    }

    fn opened(
        &mut self,
        at: Offset,
        client_id: &Bytes,
        (clean, expiry_s): (bool, u32),
        principal: &Principal,
    ) {
        let old = self.take(client_id).filter(|_| !clean);
        let mut session = old.unwrap_or_else(|| {
            Box::new(Session {
                epoch: at,
                incarnation: at.0 as u32,
                principal: Principal::ANONYMOUS,
                expiry_s,
                closed_at: None,
                subscriptions: SmallMap::default(),
                cursors: SmallMap::default(),
                outbound: Vec::new(),
            })
        });
        session.epoch = at;
        if session.principal != *principal {
            let name = Bytes::copy_from_slice(principal.as_bytes());
            session.principal = Principal::from_stored(name);
        }
        session.expiry_s = expiry_s;
        session.closed_at = None;
        self.put(client_id, session);
    }

    fn closed(&mut self, time: Millis, client_id: &Bytes, epoch: Offset, expiry_s: u32) {
        let Some(mut session) = self.take(client_id) else { return };
        if session.epoch == epoch {
            session.expiry_s = expiry_s;
            session.closed_at = Some(time);
        }
        if session.closed_at.is_none() || session.expiry_s > 0 {
            self.put(client_id, session);
        }
    }

    fn removed(&mut self, client_id: &Bytes, epoch: Offset) {
        if self.by_client.get(client_id).is_some_and(|session| session.epoch == epoch) {
            self.take(client_id);
        }
    }

    fn take(&mut self, client_id: &[u8]) -> Option<Box<Session>> {
        let (key, session) = self.by_client.remove_entry(client_id)?;
        if let Some(count) = self.count_by_user.get_mut(&session.principal) {
            *count -= 1;
            if *count == 0 {
                self.count_by_user.remove(&session.principal);
            }
        }
        if let Some(at) = session.ends_at() {
            self.ending.remove(&(at, key));
        }
        if session.closed_at.is_some() {
            self.away.sessions -= 1;
            self.away.subscriptions -= session.subscriptions.len();
        }
        Some(session)
    }

    fn put(&mut self, client_id: &Bytes, session: Box<Session>) {
        // A copy: the slice would keep its whole frame in memory.
        let key = Bytes::copy_from_slice(client_id);
        if !session.principal.is_anonymous() {
            *self.count_by_user.entry(session.principal.clone()).or_default() += 1;
        }
        if let Some(at) = session.ends_at() {
            self.ending.insert((at, key.clone()));
        }
        if session.closed_at.is_some() {
            self.away.sessions += 1;
            self.away.subscriptions += session.subscriptions.len();
        }
        self.by_client.insert(key, session);
    }
}

impl Session {
    /// Returns the log time at which it ends, once it is closed.
    pub fn ends_at(&self) -> Option<Millis> {
        let closed_at = self.closed_at.filter(|_| self.expiry_s != u32::MAX)?;
        Some(closed_at.plus(u64::from(self.expiry_s) * 1000))
    }

    /// Returns true when it shares a subscription with others: partitions know of it as a member of groups.
    pub fn has_shared(&self) -> bool {
        self.subscriptions.keys().any(Filter::is_shared)
    }

    fn subscribed(&mut self, subscription: &Subscription, starts: &[(PartitionId, Offset)]) {
        let stored =
            StoredSubscription { subscription: subscription.clone(), starts: starts.to_vec() };
        // A replaced subscription goes on from where the old one began: nothing between them is skipped [MQTT-3.8.4-3].
        // One that says where to begin has another reader.
        let old = self.subscriptions.get(&subscription.filter);
        let is_other = old.is_some_and(|old| old.subscription.reader != subscription.reader);
        let stored = match old.filter(|_| !is_other).map(|old| old.starts.clone()) {
            Some(starts) => StoredSubscription { starts, ..stored },
            None => stored,
        };
        if !subscription.reader.is_replay() {
            for (partition, start) in &stored.starts {
                if self.cursors.get(partition).is_none() {
                    self.cursors.insert(*partition, *start);
                }
            }
        }
        self.subscriptions.insert(subscription.filter.clone(), stored);
        if is_other {
            self.drop_unread_cursors();
        }
    }

    fn unsubscribed(&mut self, filter: &Filter) {
        self.subscriptions.remove(filter);
        self.drop_unread_cursors();
    }

    /// A partition that nobody reads has no cursor: a later subscription there begins afresh.
    fn drop_unread_cursors(&mut self) {
        let read: BTreeSet<PartitionId> = self
            .subscriptions
            .values()
            .filter(|stored| !stored.subscription.reader.is_replay())
            .flat_map(|stored| stored.starts.iter().map(|(partition, _)| *partition))
            .collect();
        self.cursors.retain(|partition, _| read.contains(partition));
    }

    fn progressed(&mut self, progress: &SessionProgress) {
        for (partition, cursor) in &progress.cursors {
            // A cursor never goes back, and one without a subscription is not kept.
            if let Some(old) = self.cursors.get_mut(partition) {
                *old = (*old).max(*cursor);
            }
        }
        for (reader, partition, cursor) in &progress.replayed {
            let mut replays = self.subscriptions.values_mut();
            let replay = replays.find(|stored| stored.subscription.reader == *reader);
            let mut starts = replay.into_iter().flat_map(|stored| &mut stored.starts);
            if let Some((_, start)) = starts.find(|(at, _)| at == partition) {
                *start = (*start).max(*cursor);
            }
        }
        let gone = |id: u16| {
            progress.done.contains(&id) || progress.assigned.iter().any(|new| new.packet_id == id)
        };
        self.outbound.retain(|entry| !gone(entry.packet_id));
        self.outbound.extend_from_slice(&progress.assigned);
        for entry in &mut self.outbound {
            entry.received |= progress.received.contains(&entry.packet_id);
        }
    }
}

impl View for Sessions {
    fn name(&self) -> &'static str {
        "sessions"
    }

    fn apply(&mut self, at: Offset, time: Millis, record: Record<'_>) {
        let Record::Control(control) = record else { return };
        match control {
            Control::SessionOpened { client_id, clean, expiry_s, principal } => {
                self.opened(at, client_id, (*clean, *expiry_s), principal);
            }
            Control::SessionClosed { client_id, epoch, expiry_s } => {
                self.closed(time, client_id, *epoch, *expiry_s);
            }
            Control::SessionRemoved { client_id, epoch } => self.removed(client_id, *epoch),
            Control::Subscribed { client_id, subscription, starts } => {
                if let Some(mut session) = self.take(client_id) {
                    session.subscribed(&owned(subscription), starts);
                    self.put(client_id, session);
                }
            }
            Control::Unsubscribed { client_id, filter } => {
                if let Some(mut session) = self.take(client_id) {
                    session.unsubscribed(filter);
                    self.put(client_id, session);
                }
            }
            Control::SessionProgress(progress) => {
                let session = self.by_client.get_mut(&progress.client_id);
                if let Some(session) = session.filter(|session| session.epoch == progress.epoch) {
                    session.progressed(progress);
                }
            }
            _ => {}
        }
    }

    fn due(&self, now: Millis, out: &mut Vec<Control>) {
        let ended = self.ending.iter().take_while(|(at, _)| *at <= now);
        out.extend(ended.filter_map(|(_, client_id)| {
            let epoch = self.by_client.get(client_id)?.epoch;
            Some(Control::SessionRemoved { client_id: client_id.clone(), epoch })
        }));
    }

    fn snapshot(&self) -> Vec<u8> {
        let owner = |session: &Session| session.principal.as_bytes().to_vec();
        let rows = self.iter().map(|(id, session)| (to_row((id, session)), owner(session)));
        encode_rows(&rows.collect::<Vec<(Row, Vec<u8>)>>())
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        *self = Sessions::default();
        for (row, owner) in decode_rows::<Vec<(Row, Vec<u8>)>>(section)? {
            let (client_id, session) = from_row(row);
            let principal = Principal::from_stored(Bytes::from(owner));
            self.put(&client_id, Box::new(Session { principal, ..session }));
        }
        Ok(())
    }
}

/// Copies what would otherwise keep the record's frame in memory for as long as the session lives.
fn owned(subscription: &Subscription) -> Subscription {
    let filter = Bytes::copy_from_slice(subscription.filter.as_bytes());
    Subscription {
        filter: Filter::from_stored(filter),
        group: subscription.group.as_ref().map(|group| Bytes::copy_from_slice(group)),
        ..subscription.clone()
    }
}

#[derive(Serialize, Deserialize)]
struct Row {
    client_id: Vec<u8>,
    epoch: u64,
    incarnation: u32,
    expiry_s: u32,
    closed_at: Option<u64>,
    subscriptions: Vec<SubscriptionRow>,
    cursors: Vec<(u16, u64)>,
    outbound: Vec<OutboundRow>,
}

#[derive(Serialize, Deserialize)]
struct SubscriptionRow {
    filter: Vec<u8>,
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    retain_handling: u8,
    subscription_id: u32,
    group: Option<Vec<u8>>,
    settle_explicit: bool,
    reader: u32,
    starts: Vec<(u16, u64)>,
}

#[derive(Serialize, Deserialize)]
struct OutboundRow {
    packet_id: u16,
    reader: u32,
    partition: u16,
    offset: u64,
    qos: u8,
    retain: bool,
    received: bool,
}

fn to_row((client_id, session): (&Bytes, &Session)) -> Row {
    let outbound = |entry: &OutboundEntry| OutboundRow {
        packet_id: entry.packet_id,
        reader: entry.reader.0,
        partition: entry.partition.0,
        offset: entry.offset.0,
        qos: entry.qos as u8,
        retain: entry.retain,
        received: entry.received,
    };
    Row {
        client_id: client_id.to_vec(),
        epoch: session.epoch.0,
        incarnation: session.incarnation,
        expiry_s: session.expiry_s,
        closed_at: session.closed_at.map(|at| at.0),
        subscriptions: session.subscriptions.values().map(to_subscription_row).collect(),
        cursors: session.cursors.iter().map(|(partition, at)| (partition.0, at.0)).collect(),
        outbound: session.outbound.iter().map(outbound).collect(),
    }
}

fn to_subscription_row(stored: &StoredSubscription) -> SubscriptionRow {
    let subscription = &stored.subscription;
    SubscriptionRow {
        filter: subscription.filter.as_bytes().to_vec(),
        qos: subscription.qos as u8,
        no_local: subscription.no_local,
        retain_as_published: subscription.retain_as_published,
        retain_handling: match subscription.retain_handling {
            RetainHandling::Send => 0,
            RetainHandling::SendIfNew => 1,
            RetainHandling::DontSend => 2,
        },
        subscription_id: subscription.subscription_id,
        group: subscription.group.as_ref().map(|group| group.to_vec()),
        settle_explicit: subscription.settle_explicit,
        reader: subscription.reader.0,
        starts: stored.starts.iter().map(|(partition, at)| (partition.0, at.0)).collect(),
    }
}

fn from_row(row: Row) -> (Bytes, Session) {
    let qos = |bits| QoS::from_bits(bits).expect("snapshots hold what records held");
    let outbound = |row: OutboundRow| OutboundEntry {
        packet_id: row.packet_id,
        reader: ReaderId(row.reader),
        partition: PartitionId(row.partition),
        offset: Offset(row.offset),
        qos: qos(row.qos),
        retain: row.retain,
        received: row.received,
    };
    let subscriptions = row.subscriptions.into_iter().map(from_subscription_row);
    let cursors =
        row.cursors.into_iter().map(|(partition, at)| (PartitionId(partition), Offset(at)));
    let session = Session {
        epoch: Offset(row.epoch),
        incarnation: row.incarnation,
        principal: Principal::ANONYMOUS,
        expiry_s: row.expiry_s,
        closed_at: row.closed_at.map(Millis),
        subscriptions: subscriptions
            .map(|stored| (stored.subscription.filter.clone(), stored))
            .collect(),
        cursors: cursors.filter(|_| !is_planted(PlantedBug::RestoreForgetsCursors)).collect(),
        outbound: row.outbound.into_iter().map(outbound).collect(),
    };
    (Bytes::from(row.client_id), session)
}

fn from_subscription_row(row: SubscriptionRow) -> StoredSubscription {
    let starts = row.starts.into_iter();
    StoredSubscription {
        subscription: Subscription {
            filter: Filter::from_stored(Bytes::from(row.filter)),
            qos: QoS::from_bits(row.qos).expect("snapshots hold what records held"),
            no_local: row.no_local,
            retain_as_published: row.retain_as_published,
            retain_handling: match row.retain_handling {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                _ => RetainHandling::DontSend,
            },
            subscription_id: row.subscription_id,
            group: row.group.map(Bytes::from),
            settle_explicit: row.settle_explicit,
            reader: ReaderId(row.reader),
        },
        starts: starts.map(|(partition, at)| (PartitionId(partition), Offset(at))).collect(),
    }
}
