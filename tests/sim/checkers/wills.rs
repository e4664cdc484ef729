//! The checker of wills: I18. A fold of our own of what is committed of them, beside how connections ended.
//!
//! A will is stored before its connection is confirmed, due when that ended without a goodbye, published once, and over after that and
//! not before, unless its client said goodbye or came back in time (docs/adr/0030).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq::model::{Control, PartitionId};
use fluxmq::partition::request::ConnectionId;
use fluxmq_index::Offset;
use fluxmq_log::format::frame::Frame;

use super::{Invariant, Violation, wrong};
use crate::coverage::{Coverage, Point};
use crate::history::{MessageId, id_of};
use crate::ledger::{Record, records};

/// The home of a session, its client id, and the offset at which the will was stored.
type Key = (PartitionId, Bytes, Offset);

/// Wills as the oracle has them.
#[derive(Default)]
pub struct Wills {
    by_key: BTreeMap<Key, Will>,
    by_message: BTreeMap<MessageId, Key>,
    /// On which connection each was left.
    left_on: BTreeMap<MessageId, ConnectionId>,
    /// Connections whose goodbye was heard.
    goodbyes: BTreeSet<ConnectionId>,
    taken_over: BTreeSet<ConnectionId>,
    /// Connections that the broker accepted: the will of any other is nobody's.
    opened: BTreeSet<ConnectionId>,
    /// Connections that ended, for whatever reason.
    ended: BTreeSet<ConnectionId>,
    /// Connections whose node died, or whose stream to a leader broke: a goodbye may not have come through.
    lost: BTreeSet<ConnectionId>,
    pub found: Vec<Violation>,
}

#[derive(Debug)]
struct Will {
    message: MessageId,
    /// Log time.
    due: Option<u64>,
    published: u64,
    is_over: bool,
    /// In which it was stored: whoever leads in another has none of the connections of before.
    term: u64,
    /// Its partition was served by another process or leader since: whoever holds it may be gone, and goodbyes lost.
    is_orphan: bool,
}

impl Wills {
    /// A client connects and leaves a will.
    pub fn left(&mut self, message: MessageId, on: ConnectionId) {
        self.left_on.insert(message, on);
    }

    /// A client's goodbye was heard: nobody is to hear of its will, unless it said so.
    pub fn said_goodbye(&mut self, connection: ConnectionId) {
        if !self.taken_over.contains(&connection) {
            self.goodbyes.insert(connection);
        }
    }

    /// The broker accepts a connection.
    pub fn opened(&mut self, connection: ConnectionId) {
        self.opened.insert(connection);
    }

    /// The broker ends a connection, because its client has a newer one: its goodbye is none (MQTT 5 §3.1.4).
    pub fn taken_over(&mut self, connection: ConnectionId) {
        self.taken_over.insert(connection);
    }

    /// A connection ended, or a partition was told so.
    pub fn ended(&mut self, connection: ConnectionId) {
        self.ended.insert(connection);
    }

    /// What a connection said last may not have come through.
    pub fn lost(&mut self, connection: ConnectionId) {
        self.ended.insert(connection);
        self.lost.insert(connection);
    }

    /// Nobody, or somebody else, serves a partition.
    pub fn reset(&mut self, partition: PartitionId) {
        for (_, will) in self.by_key.iter_mut().filter(|((home, _, _), _)| *home == partition) {
            will.is_orphan = true;
        }
    }

    /// I18: whoever is told that it is connected has its will stored [MQTT-3.1.2-7].
    pub fn confirmed(&self, message: MessageId) -> Result<(), Violation> {
        match self.by_message.contains_key(&message) {
            true => Ok(()),
            false => {
                wrong(Invariant::I18, format!("{message:x}: connected, and its will is not stored"))
            }
        }
    }

    /// Takes an entry of a partition's log that is committed.
    pub fn apply(&mut self, partition: PartitionId, frame: &Frame, coverage: &mut Coverage) {
        let mut resumed = Vec::new();
        for (offset, time, record) in records(frame) {
            let found = match record {
                Record::Message { message, .. } => {
                    let id = id_of(&message.payload).filter(|_| message.topic.starts_with(b"w/"));
                    id.map_or(Ok(()), |id| self.published(id, time))
                }
                Record::Control(Control::SessionOpened { client_id, clean: false, .. }) => {
                    resumed.push((client_id, time));
                    Ok(())
                }
                Record::Control(control) => {
                    let at = (frame.header.term, time);
                    self.control((partition, offset), at, control, coverage)
                }
            };
            self.found.extend(found.err());
        }
        for (client_id, time) in resumed {
            let waits = |(key, will): &(&Key, &Will)| {
                (key.0, &key.1) == (partition, &client_id)
                    && !will.is_over
                    && will.due.is_some_and(|due| due > time)
            };
            if let Some((_, will)) = self.by_key.iter().find(waits) {
                let what = format!("{:x}: its session goes on, and the will waits", will.message);
                self.found.push(Violation { invariant: Invariant::I18, what });
            }
        }
    }

    fn control(
        &mut self,
        (partition, offset): (PartitionId, Offset),
        (term, time): (u64, u64),
        control: Control,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        match control {
            Control::WillSet { client_id, will, .. } => {
                let Some(message) = id_of(&will.message.payload) else { return Ok(()) };
                let key = (partition, client_id, offset);
                self.by_message.insert(message, key.clone());
                let (due, published, is_over, is_orphan) = (None, 0, false, false);
                let will = Will { message, due, published, is_over, term, is_orphan };
                self.by_key.insert(key, will);
                coverage.hit(Point::WillSet);
                Ok(())
            }
            Control::WillDue { client_id, epoch, delay_s } => {
                let Some(will) = self.by_key.get_mut(&(partition, client_id, epoch)) else {
                    return Ok(());
                };
                // What says that it goes out now does not put it off.
                let due = time + u64::from(delay_s) * 1000;
                will.due = Some(will.due.map_or(due, |before| before.min(due)));
                coverage.hit(if delay_s > 0 { Point::WillDelayed } else { Point::WillDue });
                let on = self.left_on.get(&will.message);
                let has_ended = on.is_some_and(|on| self.ended.contains(on));
                let heard =
                    |on: &ConnectionId| self.goodbyes.contains(on) && !self.lost.contains(on);
                let is_discarded = on.is_some_and(heard);
                match will.is_orphan || will.term != term || has_ended && !is_discarded {
                    true => Ok(()),
                    false => wrong(
                        Invariant::I18,
                        format!(
                            "{:x}: due; its connection ended {has_ended}, with a goodbye {is_discarded}",
                            will.message
                        ),
                    ),
                }
            }
            Control::WillCleared { client_id, epoch } => {
                self.cleared(&(partition, client_id, epoch), time, coverage)
            }
            _ => Ok(()),
        }
    }

    fn cleared(&mut self, key: &Key, time: u64, coverage: &mut Coverage) -> Result<(), Violation> {
        let Some(will) = self.by_key.get_mut(key).filter(|will| !will.is_over) else {
            return Ok(());
        };
        will.is_over = true;
        let message = will.message;
        let is_discarded = self
            .left_on
            .get(&message)
            .is_some_and(|on| self.goodbyes.contains(on) || !self.opened.contains(on));
        let is_early = will.due.is_some_and(|due| due > time);
        let point = match (will.published > 0, is_discarded, is_early) {
            (true, _, _) => Point::WillPublished,
            (false, true, _) => Point::WillDiscarded,
            // Its client came back: what opens the session is in the log with this.
            (false, false, true) => Point::WillCancelled,
            (false, false, false) => {
                return wrong(Invariant::I18, format!("{message:x}: over and never published"));
            }
        };
        coverage.hit(point);
        Ok(())
    }

    fn published(&mut self, message: MessageId, time: u64) -> Result<(), Violation> {
        let will = self.by_message.get(&message).and_then(|key| self.by_key.get_mut(key));
        let Some(will) = will else {
            return wrong(Invariant::I18, format!("{message:x}: published and never left"));
        };
        will.published += 1;
        let what = match will.due {
            _ if will.published > 1 => "published twice",
            _ if will.is_over => "published after it was over",
            None => "published and not due",
            Some(_) => return Ok(()),
        };
        wrong(Invariant::I18, format!("{message:x}: {what}, at {time}"))
    }

    /// Names a will that is due and not over.
    pub fn unfinished(&self, time: u64) -> Option<String> {
        let is_due = |will: &&Will| !will.is_over && will.due.is_some_and(|due| due <= time);
        let will = self.by_key.values().find(is_due)?;
        Some(format!("the will {:x} is due and not over", will.message))
    }

    /// Names a will whose connection ended, and of which nothing is said since.
    pub fn undecided(&self) -> Option<MessageId> {
        let mut open = self.by_key.values().filter(|will| !will.is_over && will.due.is_none());
        let is_lost =
            |will: &&Will| self.left_on.get(&will.message).is_none_or(|on| self.ended.contains(on));
        open.find(is_lost).map(|will| will.message)
    }

    /// I18: at the end, wills that nobody made due are those of connections that are open.
    pub fn check(&self) -> Result<(), Violation> {
        let Some(will) = self.undecided() else { return Ok(()) };
        wrong(Invariant::I18, format!("{will:x}: its connection ended, and it is not due"))
    }
}
