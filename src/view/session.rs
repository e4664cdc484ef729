//! Persistent MQTT sessions: what they subscribe to, how far they have read, and what is out.
//!
//! Nothing is written per message for a session that is away: its backlog is the log above its cursors.

mod row;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq_index::Offset;

use super::section::{decode_each, encode_rows};
use super::{SectionError, SmallMap, View};
use crate::model::{
    Control, Filter, Millis, OutboundEntry, PartitionId, Principal, Record, SessionProgress,
    Subscription,
};
use crate::planted::{PlantedBug, is_planted};

/// The sessions of a partition, by client id.
#[derive(Debug, Default)]
pub struct Sessions {
    by_client: BTreeMap<Bytes, Kept>,
    /// How many each user has; none of anonymous clients.
    count_by_user: BTreeMap<Principal, usize>,
    /// Closed sessions by the log time at which they end.
    ending: BTreeSet<(Millis, Box<[u8]>)>,
    away: Away,
}

/// How a session is in memory. Boxed: most places in the nodes of a tree are empty.
#[derive(Debug)]
enum Kept {
    /// Its connection is open.
    Open(Box<Session>),
    /// Its connection has ended: the row of a snapshot, a quarter of what it is otherwise. A million of them are away and do nothing.
    Away(Box<[u8]>),
}

impl Kept {
    fn get(&self) -> Cow<'_, Session> {
        match self {
            Kept::Open(session) => Cow::Borrowed(session),
            Kept::Away(packed) => Cow::Owned(row::unpack(packed)),
        }
    }
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
    pub fn get(&self, client_id: &[u8]) -> Option<Cow<'_, Session>> {
        self.by_client.get(client_id).map(Kept::get)
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
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, Cow<'_, Session>)> {
        self.by_client.iter().map(|(client_id, kept)| (client_id, kept.get()))
    }

    /// Lists the sessions whose connection has not ended, as far as the log knows.
    pub fn open(&self) -> impl Iterator<Item = (&Bytes, &Session)> {
        self.by_client.iter().filter_map(|(client_id, kept)| match kept {
            Kept::Open(session) => Some((client_id, &**session)),
            Kept::Away(_) => None,
        })
    }

    fn opened(
        &mut self,
        at: Offset,
        client_id: &Bytes,
        (clean, expiry_s): (bool, u32),
        principal: &Principal,
    ) {
        let old = self.take(client_id).filter(|_| !clean);
        let mut session = old.unwrap_or_else(|| Session {
            epoch: at,
            incarnation: at.0 as u32,
            principal: Principal::ANONYMOUS,
            expiry_s,
            closed_at: None,
            subscriptions: SmallMap::default(),
            cursors: SmallMap::default(),
            outbound: Vec::new(),
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

    fn progressed(&mut self, progress: &SessionProgress) {
        match self.by_client.get_mut(&progress.client_id) {
            Some(Kept::Open(session)) if session.epoch == progress.epoch => {
                session.progressed(progress);
            }
            Some(kept @ Kept::Away(_)) if kept.get().epoch == progress.epoch => {
                let mut session = kept.get().into_owned();
                session.progressed(progress);
                *kept = Kept::Away(row::pack(&progress.client_id, &session));
            }
            _ => {}
        }
    }

    fn removed(&mut self, client_id: &Bytes, epoch: Offset) {
        if self.get(client_id).is_some_and(|session| session.epoch == epoch) {
            self.take(client_id);
        }
    }

    fn take(&mut self, client_id: &[u8]) -> Option<Session> {
        let (key, kept) = self.by_client.remove_entry(client_id)?;
        let session = match kept {
            Kept::Open(session) => *session,
            Kept::Away(packed) => row::unpack(&packed),
        };
        if let Some(count) = self.count_by_user.get_mut(&session.principal) {
            *count -= 1;
            if *count == 0 {
                self.count_by_user.remove(&session.principal);
            }
        }
        if let Some(at) = session.ends_at() {
            self.ending.remove(&(at, key[..].into()));
        }
        if session.closed_at.is_some() {
            self.away.sessions -= 1;
            self.away.subscriptions -= session.subscriptions.len();
        }
        Some(session)
    }

    fn put(&mut self, client_id: &Bytes, session: Session) {
        // A copy: the slice would keep its whole frame in memory.
        let key = Bytes::copy_from_slice(client_id);
        if !session.principal.is_anonymous() {
            *self.count_by_user.entry(session.principal.clone()).or_default() += 1;
        }
        if let Some(at) = session.ends_at() {
            self.ending.insert((at, key[..].into()));
        }
        let kept = match session.closed_at {
            None => Kept::Open(Box::new(session)),
            Some(_) => {
                self.away.sessions += 1;
                self.away.subscriptions += session.subscriptions.len();
                Kept::Away(row::pack(&key, &session))
            }
        };
        self.by_client.insert(key, kept);
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
            Control::SessionProgress(progress) => self.progressed(progress),
            _ => {}
        }
    }

    fn due(&self, now: Millis, out: &mut Vec<Control>) {
        let ended = self.ending.iter().take_while(|(at, _)| *at <= now);
        out.extend(ended.filter_map(|(_, client_id)| {
            let (client_id, kept) = self.by_client.get_key_value(&client_id[..])?;
            let epoch = kept.get().epoch;
            Some(Control::SessionRemoved { client_id: client_id.clone(), epoch })
        }));
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut out = encode_rows(&self.by_client.len());
        for (client_id, kept) in &self.by_client {
            match kept {
                Kept::Open(session) => out.extend_from_slice(&row::pack(client_id, session)),
                Kept::Away(packed) => out.extend_from_slice(packed),
            }
        }
        out
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        *self = Sessions::default();
        for row in decode_each::<row::Row>(section)? {
            let (client_id, mut session) = row?.into_session();
            if is_planted(PlantedBug::RestoreForgetsCursors) {
                session.cursors = SmallMap::default();
            }
            self.put(&client_id, session);
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
