//! Which connection holds which session: one at a time, the newer one wins.
//!
//! Volatile, in the session's home partition. An open waits here until the connection it displaces has let go, so that nothing is
//! delivered to the old one after the new one knows that it has the session.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use fluxmq_index::Offset;

use super::request::ConnectionId;
use crate::model::Principal;
use crate::model::command::Will;
use crate::planted::{PlantedBug, is_planted};

/// The held sessions of a partition.
#[derive(Debug, Default)]
pub struct Holders {
    /// Behind a pointer: the table has room for more than there are.
    by_client: HashMap<Bytes, Box<Holder>>,
    /// Which session a connection holds or waits for.
    by_connection: BTreeMap<ConnectionId, Bytes>,
}

#[derive(Debug)]
struct Holder {
    connection: ConnectionId,
    stage: Stage,
    /// Of the newest open: everybody who waits may have the session of those before.
    principal: Principal,
    /// Epoch of the stored session, once its record is applied; `None` for one that is not stored.
    epoch: Option<Offset>,
    /// Epoch of the connection's will, once its record is applied.
    will: Option<Offset>,
    waiting: VecDeque<Opening>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its records are on their way.
    Opening,
    /// So they are, and the connection is gone already.
    Vanished,
    /// The connection knows that it has the session.
    Open,
}

/// A connection that wants a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Who.
    pub connection: ConnectionId,
    /// For whom.
    pub principal: Principal,
    /// Discards what was there.
    pub clean_start: bool,
    /// 0 leaves no session behind.
    pub expiry_s: u32,
    /// What it leaves for when it ends.
    pub will: Option<Box<Will>>,
}

/// What becomes of an open.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// The session is free: open it.
    Granted,
    /// This connection must let go first; the open waits.
    Displaces(ConnectionId),
}

impl Holders {
    /// Claims a session for a connection.
    pub fn claim(&mut self, client_id: &Bytes, opening: Opening) -> Claim {
        self.by_connection.insert(opening.connection, client_id.clone());
        match self.by_client.get_mut(client_id) {
            None => {
                let holder = Holder::new(opening.connection, opening.principal);
                self.by_client.insert(client_id.clone(), Box::new(holder));
                Claim::Granted
            }
            Some(holder) if is_planted(PlantedBug::TakeOverUnasked) => {
                holder.connection = opening.connection;
                Claim::Granted
            }
            Some(holder) => {
                holder.principal = opening.principal.clone();
                holder.waiting.push_back(opening);
                Claim::Displaces(holder.connection)
            }
        }
    }

    /// Remembers the epoch under which the holder's session is stored.
    pub fn stored(&mut self, client_id: &[u8], epoch: Offset) {
        if let Some(holder) = self.by_client.get_mut(client_id) {
            holder.epoch = Some(epoch);
        }
    }

    /// Remembers the epoch of the holder's will.
    pub fn will_set(&mut self, client_id: &[u8], epoch: Offset) {
        if let Some(holder) = self.by_client.get_mut(client_id) {
            holder.will = Some(epoch);
        }
    }

    /// The holder's session is open; false when the connection is gone and its hold is to be ended.
    pub fn opened(&mut self, client_id: &[u8]) -> bool {
        let Some(holder) = self.by_client.get_mut(client_id) else { return false };
        let has_vanished = holder.stage == Stage::Vanished;
        holder.stage = Stage::Open;
        !has_vanished
    }

    /// Notes that a connection is gone whose session is on its way to being open; false when it is not, and can be ended at once.
    pub fn vanishes_opening(&mut self, client_id: &[u8], connection: ConnectionId) -> bool {
        let holder = self.by_client.get_mut(client_id);
        let opening = holder
            .filter(|holder| holder.connection == connection && holder.stage == Stage::Opening);
        match opening {
            Some(holder) => {
                holder.stage = Stage::Vanished;
                true
            }
            None => false,
        }
    }

    /// Whose the session is that some connection holds or waits for.
    pub fn principal(&self, client_id: &[u8]) -> Option<&Principal> {
        self.by_client.get(client_id).map(|holder| &holder.principal)
    }

    /// Returns true when some connection holds the session.
    pub fn is_held(&self, client_id: &[u8]) -> bool {
        self.by_client.contains_key(client_id)
    }

    /// Lets go of a session: returns its stored epoch and the next open that waits, whose connection holds it from here on. `None` when
    /// the connection does not hold it; then it no longer waits for it either.
    pub fn release(&mut self, client_id: &[u8], connection: ConnectionId) -> Option<Released> {
        if is_planted(PlantedBug::HeldForEver) {
            return None;
        }
        self.by_connection.remove(&connection);
        let holder = self.by_client.get_mut(client_id)?;
        if holder.connection != connection {
            holder.waiting.retain(|opening| opening.connection != connection);
            return None;
        }
        let (epoch, will) = (holder.epoch.take(), holder.will.take());
        let next = holder.waiting.pop_front();
        match &next {
            Some(opening) => {
                holder.connection = opening.connection;
                holder.stage = Stage::Opening;
            }
            None => {
                self.by_client.remove(client_id);
            }
        }
        Some(Released { epoch, will, next })
    }

    /// Returns the session that a connection holds or waits for.
    pub fn held_by(&self, connection: ConnectionId) -> Option<Bytes> {
        self.by_connection.get(&connection).cloned()
    }

    /// Returns the connections that hold a session or wait for one.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.by_connection.keys().copied()
    }

    /// Returns true when another connection waits for the session already.
    pub fn is_contended(&self, client_id: &[u8]) -> bool {
        self.by_client.get(client_id).is_some_and(|holder| !holder.waiting.is_empty())
    }
}

impl Holder {
    fn new(connection: ConnectionId, principal: Principal) -> Holder {
        let (stage, waiting) = (Stage::Opening, VecDeque::new());
        Holder { connection, stage, principal, epoch: None, will: None, waiting }
    }
}

/// A session that was let go.
#[derive(Debug, PartialEq, Eq)]
pub struct Released {
    /// Its epoch, where it is stored.
    pub epoch: Option<Offset>,
    /// The epoch of its connection's will.
    pub will: Option<Offset>,
    /// The open that is granted now.
    pub next: Option<Opening>,
}
