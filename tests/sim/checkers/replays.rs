//! The checker of replays: I30. What a replay hands out is exactly what is stored and matches, from its beginning on, in the order of
//! each partition, without a gap where history ends.

use std::collections::BTreeMap;

use fluxmq::model::{PartitionId, QoS};
use fluxmq::partition::request::ConnectionId;
use fluxmq_index::Offset;
use fluxmq_log::format::frame::Frame;

use super::{Invariant, Violation, matches, wrong};
use crate::history::{MessageId, id_of};
use crate::ledger::{Record, records};

/// Where a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Offset(u64),
    /// Milliseconds since 1970. Where nothing is of that time yet it is the end, and what is new may be of an earlier one: clocks differ.
    Time(u64),
}

/// A message that can be replayed.
struct Stored {
    offset: Offset,
    time: u64,
    id: MessageId,
    topic: String,
    /// Nobody acknowledges it: it may overtake those that wait for the client's window.
    is_unacked: bool,
}

/// One replay of one connection.
struct Replay {
    filter: String,
    from: Start,
    /// The newest that came, by partition and whether it is acknowledged.
    last: BTreeMap<(PartitionId, bool), Offset>,
    /// How much was stored when it was asked for.
    ends: BTreeMap<PartitionId, usize>,
    is_granted: bool,
}

/// Replays as the oracle has them.
#[derive(Default)]
pub struct Replays {
    stored: BTreeMap<PartitionId, Vec<Stored>>,
    running: BTreeMap<ConnectionId, Replay>,
}

impl Stored {
    fn is_in(&self, replay: &Replay) -> bool {
        let is_late = match replay.from {
            Start::Earliest => true,
            Start::Offset(offset) => self.offset.0 >= offset,
            Start::Time(time) => self.time >= time,
        };
        is_late && matches(&replay.filter, &self.topic)
    }
}

impl Replays {
    /// Takes an entry of a partition's log that is committed.
    pub fn apply(&mut self, partition: PartitionId, frame: &Frame) {
        let stored = self.stored.entry(partition).or_default();
        for (offset, time, record) in records(frame) {
            let Record::Message { message, .. } = record else { continue };
            let Some(id) = id_of(&message.payload) else { continue };
            let topic = String::from_utf8_lossy(&message.topic).into_owned();
            let is_unacked = message.qos == QoS::AtMostOnce as u8;
            stored.push(Stored { offset, time, id, topic, is_unacked });
        }
    }

    /// A client asks for a replay.
    pub fn begin(&mut self, on: ConnectionId, filter: String, from: Start) {
        let end = |(partition, stored): (&PartitionId, &Vec<Stored>)| (*partition, stored.len());
        let ends = self.stored.iter().map(end).collect();
        let replay = Replay { filter, from, last: BTreeMap::new(), ends, is_granted: false };
        self.running.insert(on, replay);
    }

    /// It has it.
    pub fn granted(&mut self, on: ConnectionId) {
        if let Some(replay) = self.running.get_mut(&on) {
            replay.is_granted = true;
        }
    }

    /// The connection is over.
    pub fn end(&mut self, on: ConnectionId) {
        self.running.remove(&on);
    }

    /// I30: what has come is the next that is stored.
    pub fn delivered(
        &mut self,
        on: ConnectionId,
        (partition, offset): (PartitionId, Offset),
        id: MessageId,
    ) -> Result<(), Violation> {
        let Some(replay) = self.running.get_mut(&on) else { return Ok(()) };
        let stored = self.stored.get(&partition).map_or(&[][..], Vec::as_slice);
        let place = stored.partition_point(|it| it.offset < offset);
        let at = format!("connection {} p{} {offset}, {id:x}", on.0, partition.0);
        let Some(it) = stored.get(place).filter(|it| (it.offset, it.id) == (offset, id)) else {
            return wrong(Invariant::I30, format!("{at}: replayed and not stored there"));
        };
        let is_new = place >= replay.ends.get(&partition).copied().unwrap_or(0);
        let may_be_early = is_new && matches!(replay.from, Start::Time(_));
        let is_early = may_be_early && matches(&replay.filter, &it.topic);
        if !it.is_in(replay) && !is_early {
            return wrong(Invariant::I30, format!("{at}: not part of the replay"));
        }
        let is_unacked = it.is_unacked;
        let last = replay.last.insert((partition, is_unacked), offset);
        if last.is_some_and(|last| last >= offset) {
            return wrong(Invariant::I30, format!("{at}: replayed after {last:?}"));
        }
        let begin = last.map_or(0, |last| stored.partition_point(|it| it.offset <= last));
        let is_skipped = |it: &&Stored| it.is_unacked == is_unacked && it.is_in(replay);
        match stored[begin..place].iter().find(is_skipped) {
            None => Ok(()),
            Some(skipped) => {
                let what = format!("{at}: {:x} at {} was left out", skipped.id, skipped.offset);
                wrong(Invariant::I30, what)
            }
        }
    }

    /// Names a replay that has not handed out everything yet.
    pub fn unfinished(&self) -> Option<String> {
        for (on, replay) in self.running.iter().filter(|(_, replay)| replay.is_granted) {
            for (partition, stored) in &self.stored {
                let newest = |is_unacked: bool| {
                    let mut newest = stored.iter().rev();
                    let last = replay.last.get(&(*partition, is_unacked)).copied();
                    let newest = newest.find(|it| it.is_unacked == is_unacked && it.is_in(replay));
                    newest.filter(|newest| last.is_none_or(|last| last < newest.offset))
                };
                if let Some(missing) = newest(false).or_else(|| newest(true)) {
                    return Some(format!(
                        "the replay of connection {} has not come to {:x} in p{}",
                        on.0, missing.id, partition.0
                    ));
                }
            }
        }
        None
    }
}
