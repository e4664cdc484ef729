//! QoS 2 publishes that are stored and not released, and wills that their sessions' homes do not know to be published: a second copy
//! of one of them is not stored again.
//!
//! Only persistent sessions are here; the others cannot outlive the connection that remembers their packet ids.
//! [MQTT-4.3.3-10], [MQTT-4.3.3-12]
//!
//! A number that is released is free for another message, so a copy that comes after that is not known by it: the tenure tells that it
//! is of a connection that has lost the session (ADR 0034).

use std::collections::{BTreeMap, BTreeSet};

use fluxmq_index::Offset;
use serde::{Deserialize, Serialize};

use super::section::{decode_rows, encode_rows};
use super::{SectionError, View};
use crate::model::record::{DedupKey, Tenure};
use crate::model::{Control, Millis, Record};
use crate::planted::{PlantedBug, is_planted};

/// Log time after which an open packet id lapses: the longest session expiry and an hour. A session that ended without
/// releasing them never comes back for them. After as long a tenure is forgotten: what earlier connections had on its way is gone.
const LAPSE_MS: u64 = (7 * 24 + 1) * 3600 * 1000;
/// Log time for which a will is known after its home has said that it is over: a process that was stopped goes on and publishes what it
/// was told of before.
const WILL_LINGERS_MS: u64 = 3600 * 1000;

/// The open packet ids.
#[derive(Debug, Default)]
pub struct Dedup {
    /// Ordered: snapshots list it.
    open: BTreeMap<Key, Entry>,
    /// The same by the time they lapse, so that lapsing looks only at the first.
    by_time: BTreeMap<(Millis, Key), ()>,
    /// The latest tenure of each publisher that began one, and when.
    tenures: BTreeMap<u64, (Tenure, Millis)>,
    tenures_by_time: BTreeSet<(Millis, u64)>,
}

type Key = (u64, u32, u32);

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: Offset,
    until: Millis,
}

#[derive(Serialize, Deserialize)]
struct Row {
    publisher: u64,
    incarnation: u32,
    seq: u32,
    offset: u64,
    until: u64,
}

#[derive(Serialize, Deserialize)]
struct TenureRow {
    publisher: u64,
    term: u64,
    epoch: u64,
    time: u64,
}

impl Dedup {
    /// Returns where an open publish is stored.
    pub fn find(&self, publisher: u64, key: DedupKey) -> Option<Offset> {
        if is_planted(PlantedBug::DedupFindsNothing) {
            return None;
        }
        self.open.get(&(publisher, key.incarnation, key.seq)).map(|entry| entry.offset)
    }

    /// Returns how many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Returns true when nothing is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Returns true when nothing is open any more at a time, unless something is added.
    pub fn lapses_by(&self, time: Millis) -> bool {
        self.by_time.last_key_value().is_none_or(|((until, _), ())| *until <= time)
    }

    /// Lists the open packet ids of one incarnation of a session.
    pub fn open_ids(&self, publisher: u64, incarnation: u32) -> Vec<u16> {
        if is_planted(PlantedBug::DedupFindsNothing) {
            return Vec::new();
        }
        let last = u32::from(u16::MAX);
        let range = (publisher, incarnation, 0)..=(publisher, incarnation, last);
        self.open.range(range).map(|((_, _, seq), _)| *seq as u16).collect()
    }

    /// Returns the latest tenure that a publisher's connections have begun.
    pub fn tenure(&self, publisher: u64) -> Option<Tenure> {
        self.tenures.get(&publisher).map(|(tenure, _)| *tenure)
    }

    fn begin(&mut self, publisher: u64, tenure: Tenure, time: Millis) {
        let known = self.tenures.get(&publisher).copied();
        if known.is_some_and(|(known, _)| known >= tenure) {
            return;
        }
        if let Some((_, since)) = known {
            self.tenures_by_time.remove(&(since, publisher));
        }
        self.tenures.insert(publisher, (tenure, time));
        self.tenures_by_time.insert((time, publisher));
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        if let Some(old) = self.open.insert(key, entry) {
            self.by_time.remove(&(old.until, key));
        }
        self.by_time.insert((entry.until, key), ());
    }

    fn remove(&mut self, key: Key) {
        if let Some(entry) = self.open.remove(&key) {
            self.by_time.remove(&(entry.until, key));
        }
    }

    /// A will is over: nobody publishes it any more who has not begun to.
    fn linger(&mut self, key: Key, now: Millis) {
        if let Some(entry) = self.open.get(&key).copied() {
            let until = entry.until.min(now.plus(WILL_LINGERS_MS));
            self.insert(key, Entry { until, ..entry });
        }
    }

    fn lapse(&mut self, now: Millis) {
        while let Some(((until, key), ())) = self.by_time.first_key_value() {
            if *until > now {
                break;
            }
            let key = *key;
            self.remove(key);
        }
        while let Some((since, publisher)) = self.tenures_by_time.first().copied() {
            if since.plus(LAPSE_MS) > now {
                break;
            }
            self.tenures_by_time.pop_first();
            self.tenures.remove(&publisher);
        }
    }
}

impl View for Dedup {
    fn name(&self) -> &'static str {
        "dedup"
    }

    fn apply(&mut self, at: Offset, time: Millis, record: Record<'_>) {
        self.lapse(time);
        match record {
            Record::Message(message, _) => {
                let DedupKey { incarnation, seq } = message.dedup;
                if seq != 0 {
                    let key = (message.publisher, incarnation, seq);
                    let until = time.plus(LAPSE_MS);
                    self.insert(key, Entry { offset: at, until });
                }
            }
            Record::Control(Control::Released { .. })
                if is_planted(PlantedBug::DedupNeverForgets) => {}
            Record::Control(Control::Released { publisher, incarnation, packet_ids }) => {
                for id in packet_ids {
                    let key = (*publisher, *incarnation, *id);
                    match *id & DedupKey::WILL {
                        0 => self.remove(key),
                        _ => self.linger(key, time),
                    }
                }
            }
            Record::Control(Control::TenureBegun { publisher, tenure }) => {
                self.begin(*publisher, *tenure, time);
            }
            Record::Control(_) => {}
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        let row = |(key, entry): (&Key, &Entry)| Row {
            publisher: key.0,
            incarnation: key.1,
            seq: key.2,
            offset: entry.offset.0,
            until: entry.until.0,
        };
        let tenure = |(publisher, (tenure, since)): (&u64, &(Tenure, Millis))| TenureRow {
            publisher: *publisher,
            term: tenure.term,
            epoch: tenure.epoch.0,
            time: since.0,
        };
        let rows: Vec<Row> = self.open.iter().map(row).collect();
        let tenures: Vec<TenureRow> = self.tenures.iter().map(tenure).collect();
        encode_rows(&(rows, tenures))
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        *self = Dedup::default();
        let (rows, tenures) = decode_rows::<(Vec<Row>, Vec<TenureRow>)>(section)?;
        for row in tenures {
            let tenure = Tenure { term: row.term, epoch: Offset(row.epoch) };
            self.begin(row.publisher, tenure, Millis(row.time));
        }
        for row in rows {
            if is_planted(PlantedBug::DedupRestoresNothing) {
                break;
            }
            let entry = Entry { offset: Offset(row.offset), until: Millis(row.until) };
            self.insert((row.publisher, row.incarnation, row.seq), entry);
        }
        Ok(())
    }
}
