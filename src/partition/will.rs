//! Wills of the sessions at home here: set with the session, due when its connection ends, announced until they are over.
//!
//! The will's topic may live in another partition. So a will goes out in three steps, each safe to repeat: it is announced to the
//! connection that publishes wills; the target partition stores it under a key of its own, once; a record here says that it is over.
//! A crash between any two repeats from the first.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::Partition;
use super::patience::Said;
use super::request::{ConnectionId, Event, Outbox};
use crate::model::{Control, Millis};
use crate::planted::{PlantedBug, is_planted};

/// Wills announced and not over at a time: a restart makes many due at once.
const ANNOUNCED_MAX: usize = 1_024;

/// Who publishes the wills of this partition's sessions, and which are on their way.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    publisher: Option<ConnectionId>,
    /// One that is not over in time is announced again: its target was full or out of service.
    announced: BTreeMap<(Bytes, Offset), Said>,
}

/// What proposed and not yet applied records say of a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its time.
    Due(Millis),
    /// It is over.
    Cleared,
}

impl Announcer {
    /// A connection publishes wills from here on; what an earlier one was told is told again.
    pub(super) fn register(&mut self, publisher: ConnectionId) {
        *self = Announcer { publisher: Some(publisher), announced: BTreeMap::new() };
    }

    /// Who publishes.
    pub(super) fn publisher(&self) -> Option<ConnectionId> {
        self.publisher
    }

    /// Leadership is gone, and with it the part of telling: what is due is told again by who leads next.
    pub(super) fn resign(&mut self) {
        self.announced.clear();
    }

    /// A connection is gone.
    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.publisher = self.publisher.filter(|publisher| *publisher != connection);
    }

    fn over(&mut self, client_id: &Bytes, epoch: Offset) {
        self.announced.remove(&(client_id.clone(), epoch));
    }

    fn has_room(&self) -> bool {
        self.announced.len() < ANNOUNCED_MAX
    }

    /// Returns true when a will that is due is to be announced, and remembers that it was.
    fn announces(&mut self, client_id: &Bytes, epoch: Offset, now: Said) -> bool {
        let key = (client_id.clone(), epoch);
        match self.announced.get(&key) {
            Some(said) if !said.is_long_ago(now) => false,
            Some(_) => self.announced.insert(key, now).is_some(),
            None => self.has_room() && self.announced.insert(key, now).is_none(),
        }
    }
}

impl<D: Disk> Partition<D> {
    /// A connection with a will ended. Unless it ended by DISCONNECT 0x00 [MQTT-3.1.2-8], [MQTT-3.14.4-3], the will is due after its
    /// delay or with the session's end, whichever is first [MQTT-3.1.3-9].
    pub(super) fn end_will(
        &mut self,
        client_id: &Bytes,
        epoch: Offset,
        expiry_s: u32,
        wanted: bool,
    ) {
        let kept = self.views.wills.get(client_id, epoch);
        match kept.map(|kept| kept.will.delay_s.min(expiry_s)) {
            Some(delay_s) if wanted || is_planted(PlantedBug::GoodbyeUnheard) => {
                self.write_will_due(client_id, epoch, delay_s)
            }
            Some(_) => self.write_will_cleared(client_id, epoch),
            None => {}
        }
    }

    /// A new connection got the session: wills that wait for their time are cancelled when the session goes on, and due when it does
    /// not [MQTT-3.1.3-9]. What is due already is past recall.
    pub(super) fn settle_waiting_wills(&mut self, client_id: &Bytes, session_goes_on: bool) {
        let waiting: Vec<Offset> = self
            .views
            .wills
            .of(client_id)
            .filter(|(epoch, kept)| match self.overlay.fate(client_id, *epoch) {
                Some(Fate::Due(at)) => at > self.now,
                Some(Fate::Cleared) => false,
                None => kept.due.is_some_and(|at| at > self.now),
            })
            .map(|(epoch, _)| epoch)
            .collect();
        for epoch in waiting {
            match session_goes_on {
                true => self.write_will_cleared(client_id, epoch),
                false => self.write_will_due(client_id, epoch, 0),
            }
        }
    }

    /// Makes the wills due whose connections the log still believes in: this process has none yet, and a crash is no DISCONNECT.
    pub(super) fn end_orphaned_wills(&mut self) {
        if is_planted(PlantedBug::OrphansForgotten) {
            return;
        }
        let orphaned: Vec<(Bytes, Offset, u32)> = self
            .views
            .wills
            .open()
            .map(|(client_id, epoch, will)| {
                let session = self.views.sessions.get(client_id);
                let expiry_s = session.map_or(0, |session| session.expiry_s);
                (client_id.clone(), epoch, will.delay_s.min(expiry_s))
            })
            .collect();
        for (client_id, epoch, delay_s) in orphaned {
            self.write_will_due(&client_id, epoch, delay_s);
        }
    }

    /// Writes down that wills go out whose delay is over: whoever comes back is before that record, or too late. A leader that was deposed
    /// and does not know it lets none out that another has cancelled.
    pub(super) fn let_wills_out(&mut self) {
        let wills = &self.views.wills;
        let waits = |client_id: &Bytes, epoch: Offset| {
            wills.get(client_id, epoch).is_some_and(|kept| !kept.goes_out)
                && self.overlay.fate(client_id, epoch).is_none()
        };
        let over = wills.due(self.now).filter(|(client_id, epoch)| waits(client_id, *epoch));
        let over: Vec<_> = over.map(|(client_id, epoch)| (client_id.clone(), epoch)).collect();
        for (client_id, epoch) in over {
            self.write_will_due(&client_id, epoch, 0);
        }
    }

    /// Tells whoever publishes wills which are due.
    pub(super) fn announce_wills(&mut self, out: &mut impl Outbox) {
        let publisher = self.announcer.publisher.filter(|_| self.leading.is_some());
        let Some(publisher) = publisher else { return };
        let now = Said { at: self.now, tick: self.ticks };
        for (client_id, epoch) in self.views.wills.due(self.now) {
            let kept = self.views.wills.get(client_id, epoch).filter(|kept| kept.goes_out);
            let Some(kept) = kept else { continue };
            if self.overlay.fate(client_id, epoch) == Some(Fate::Cleared)
                || !self.announcer.announces(client_id, epoch, now)
            {
                continue;
            }
            let principal = kept.principal.clone();
            let message = Arc::new(kept.will.message.clone());
            let client_id = client_id.clone();
            out.send(publisher, Event::WillDue { client_id, epoch, principal, message });
            if !self.announcer.has_room() {
                break;
            }
        }
    }

    /// A record about a will is applied.
    pub(super) fn after_will_control(&mut self, control: &Control) {
        match control {
            Control::WillDue { client_id, epoch, .. } => {
                self.overlay.fate_applied(client_id, *epoch);
            }
            Control::WillCleared { client_id, epoch } => {
                self.overlay.fate_applied(client_id, *epoch);
                self.announcer.over(client_id, *epoch);
            }
            _ => {}
        }
    }

    fn write_will_due(&mut self, client_id: &Bytes, epoch: Offset, delay_s: u32) {
        let at = self.now.plus(u64::from(delay_s) * 1000);
        self.overlay.fate_decided(client_id, epoch, Fate::Due(at));
        self.write(&Control::WillDue { client_id: client_id.clone(), epoch, delay_s }, None);
    }

    fn write_will_cleared(&mut self, client_id: &Bytes, epoch: Offset) {
        self.overlay.fate_decided(client_id, epoch, Fate::Cleared);
        self.write(&Control::WillCleared { client_id: client_id.clone(), epoch }, None);
    }
}
