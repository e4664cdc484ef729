//! Wills that are not over: of connections that are open, and those that wait for their time.
//!
//! A will is set when its connection opens, due when that ends abnormally, cleared when it is published or not to be. What is due is
//! announced by the partition until a record says that it is over; its target partition stores one copy (`view::Dedup`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq_index::Offset;
use serde::{Deserialize, Serialize};

use super::section::{decode_each, encode_each};
use super::{SectionError, View};
use crate::model::command::Will;
use crate::model::message::publisher_id;
use crate::model::{Control, Message, Millis, Principal, Properties, QoS, Record, Topic};

/// The wills of a partition's sessions, stored or not.
#[derive(Debug, Default)]
pub struct Wills {
    /// By client id and epoch: a will may still wait for its publication when the client's next connection sets another.
    kept: BTreeMap<(Bytes, Offset), KeptWill>,
    by_time: BTreeSet<(Millis, Bytes, Offset)>,
}

/// A will that is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptWill {
    /// What to publish.
    pub will: Will,
    /// In whose name: what it may publish is asked when it goes out.
    pub principal: Principal,
    /// When; `None` while its connection is open.
    pub due: Option<Millis>,
    /// True from the record on that says that it goes out now: nothing cancels it any more.
    pub goes_out: bool,
}

impl Wills {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Returns true when there is none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Returns one.
    pub fn get(&self, client_id: &Bytes, epoch: Offset) -> Option<&KeptWill> {
        self.kept.get(&(client_id.clone(), epoch))
    }

    /// Lists a client's, oldest first.
    pub fn of(&self, client_id: &Bytes) -> impl Iterator<Item = (Offset, &KeptWill)> {
        let range = (client_id.clone(), Offset::ZERO)..=(client_id.clone(), Offset(u64::MAX));
        self.kept.range(range).map(|((_, epoch), kept)| (*epoch, kept))
    }

    /// Lists those whose connection has not ended, as far as the log knows.
    pub fn open(&self) -> impl Iterator<Item = (&Bytes, Offset, &Will)> {
        let open = self.kept.iter().filter(|(_, kept)| kept.due.is_none());
        open.map(|((client_id, epoch), kept)| (client_id, *epoch, &kept.will))
    }

    /// Lists those whose time has come, in the order of their times.
    pub fn due(&self, now: Millis) -> impl Iterator<Item = (&Bytes, Offset)> {
        let due = self.by_time.iter().take_while(move |(at, _, _)| *at <= now);
        due.map(|(_, client_id, epoch)| (client_id, *epoch))
    }

    fn put(&mut self, key: (Bytes, Offset), kept: KeptWill) {
        if let Some(at) = kept.due {
            self.by_time.insert((at, key.0.clone(), key.1));
        }
        self.kept.insert(key, kept);
    }

    fn take(&mut self, key: &(Bytes, Offset)) -> Option<((Bytes, Offset), KeptWill)> {
        let (key, kept) = self.kept.remove_entry(key)?;
        if let Some(at) = kept.due {
            self.by_time.remove(&(at, key.0.clone(), key.1));
        }
        Some((key, kept))
    }
}

impl View for Wills {
    fn name(&self) -> &'static str {
        "wills"
    }

    fn apply(&mut self, at: Offset, time: Millis, record: Record<'_>) {
        let Record::Control(control) = record else { return };
        match control {
            Control::WillSet { client_id, will, principal } => {
                let copy = Bytes::copy_from_slice;
                let principal = Principal::from_stored(copy(principal.as_bytes()));
                let kept = KeptWill { will: owned(will), principal, due: None, goes_out: false };
                self.put((copy(client_id), at), kept);
            }
            Control::WillDue { client_id, epoch, delay_s } => {
                if let Some((key, kept)) = self.take(&(client_id.clone(), *epoch)) {
                    let due = Some(time.plus(u64::from(*delay_s) * 1000));
                    let goes_out = kept.goes_out || *delay_s == 0;
                    self.put(key, KeptWill { due, goes_out, ..kept });
                }
            }
            Control::WillCleared { client_id, epoch } => {
                self.take(&(client_id.clone(), *epoch));
            }
            _ => {}
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        encode_each(self.kept.iter().map(to_row))
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        *self = Wills::default();
        for row in decode_each(section)? {
            let (key, kept) = from_row(row?);
            self.put(key, kept);
        }
        Ok(())
    }
}

/// Copies what would otherwise keep the record's frame in memory for as long as the connection lives.
fn owned(will: &Will) -> Will {
    let message = &will.message;
    let copy = Bytes::copy_from_slice;
    let message = Message {
        topic: Topic::from_stored(copy(message.topic.as_bytes())),
        payload: copy(&message.payload),
        properties: Properties::from_encoded(copy(message.properties.as_bytes())),
        ..message.clone()
    };
    Will { message, delay_s: will.delay_s }
}

#[derive(Serialize, Deserialize)]
struct Row {
    client_id: Vec<u8>,
    epoch: u64,
    principal: Vec<u8>,
    due: Option<u64>,
    goes_out: bool,
    delay_s: u32,
    topic: Vec<u8>,
    payload: Vec<u8>,
    properties: Vec<u8>,
    qos: u8,
    retain: bool,
    expiry_s: Option<u32>,
}

fn to_row(((client_id, epoch), kept): (&(Bytes, Offset), &KeptWill)) -> Row {
    let message = &kept.will.message;
    Row {
        client_id: client_id.to_vec(),
        epoch: epoch.0,
        principal: kept.principal.as_bytes().to_vec(),
        due: kept.due.map(|at| at.0),
        goes_out: kept.goes_out,
        delay_s: kept.will.delay_s,
        topic: message.topic.as_bytes().to_vec(),
        payload: message.payload.to_vec(),
        properties: message.properties.as_bytes().to_vec(),
        qos: message.qos as u8,
        retain: message.retain,
        expiry_s: message.expiry_s,
    }
}

fn from_row(row: Row) -> ((Bytes, Offset), KeptWill) {
    let message = Message {
        topic: Topic::from_stored(Bytes::from(row.topic)),
        payload: Bytes::from(row.payload),
        qos: QoS::from_bits(row.qos).expect("snapshots hold what records held"),
        retain: row.retain,
        expiry_s: row.expiry_s,
        properties: Properties::from_encoded(Bytes::from(row.properties)),
        publisher: publisher_id(&row.client_id),
    };
    let will = Will { message, delay_s: row.delay_s };
    let key = (Bytes::from(row.client_id), Offset(row.epoch));
    let principal = Principal::from_stored(Bytes::from(row.principal));
    let (due, goes_out) = (row.due.map(Millis), row.goes_out);
    (key, KeptWill { will, principal, due, goes_out })
}
