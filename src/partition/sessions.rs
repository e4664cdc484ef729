//! Which connection holds which session: one at a time, the newer one wins.
//!
//! Volatile, in the session's home partition. An open waits here until the connection it displaces has let go, so that nothing is
//! delivered to the old one after the new one knows that it has the session.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use fluxmq_index::Offset;

use super::request::ConnectionId;

/// The held sessions of a partition.
#[derive(Debug, Default)]
pub struct Holders {
    by_client: HashMap<Bytes, Holder>,
    /// Which session a connection holds or waits for.
    by_connection: BTreeMap<ConnectionId, Bytes>,
}

#[derive(Debug)]
struct Holder {
    connection: ConnectionId,
    /// Epoch of the stored session, once its record is applied; `None` for one that is not stored.
    epoch: Option<Offset>,
    waiting: VecDeque<Opening>,
}

/// A connection that wants a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Who.
    pub connection: ConnectionId,
    /// Discards what was there.
    pub clean_start: bool,
    /// 0 leaves no session behind.
    pub expiry_s: u32,
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
                let connection = opening.connection;
                let holder = Holder { connection, epoch: None, waiting: VecDeque::new() };
                self.by_client.insert(client_id.clone(), holder);
                Claim::Granted
            }
            Some(holder) => {
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

    /// Returns true when some connection holds the session.
    pub fn is_held(&self, client_id: &[u8]) -> bool {
        self.by_client.contains_key(client_id)
    }

    /// Lets go of a session: returns its stored epoch and the next open that waits, whose connection holds it from here on. `None` when
    /// the connection does not hold it; then it no longer waits for it either.
    pub fn release(&mut self, client_id: &[u8], connection: ConnectionId) -> Option<Released> {
        self.by_connection.remove(&connection);
        let holder = self.by_client.get_mut(client_id)?;
        if holder.connection != connection {
            holder.waiting.retain(|opening| opening.connection != connection);
            return None;
        }
        let epoch = holder.epoch.take();
        let next = holder.waiting.pop_front();
        match &next {
            Some(opening) => holder.connection = opening.connection,
            None => {
                self.by_client.remove(client_id);
            }
        }
        Some(Released { epoch, next })
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

/// A session that was let go.
#[derive(Debug, PartialEq, Eq)]
pub struct Released {
    /// Its epoch, where it is stored.
    pub epoch: Option<Offset>,
    /// The open that is granted now.
    pub next: Option<Opening>,
}
