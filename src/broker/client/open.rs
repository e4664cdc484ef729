//! Opening a session: claim it, collect what an earlier connection left, then read on.

use std::collections::BTreeMap;
use std::sync::Arc;

use fluxmq_index::{Offset, topic_trie};

use super::tenure::Announcement;
use super::{Client, Identity, Phase, Waiting, identity_of};
use crate::model::command::Open;
use crate::model::effect::{Opened, Outbound as Resend};
use crate::model::{
    Delivery, Effect, Message, OutboundEntry, Outcome, PartitionId, ReaderId, Refusal, Token,
};
use crate::partition::request::{Attach, Claimed, OpenedSession, Request};
use crate::planted::{PlantedBug, is_planted};

/// A session on its way to being open.
#[derive(Default)]
pub(super) struct Opening {
    session: OpenedSession,
    /// Answers that have not come, by partition.
    missing: BTreeMap<PartitionId, usize>,
    found: BTreeMap<u16, Option<Delivery>>,
    inbound: Vec<u16>,
    claimed: Vec<(PartitionId, Claimed)>,
    /// A partition that holds part of the session does not serve: what it has is not given up, the client comes back later.
    refused: Option<Refusal>,
    /// The peer is gone already: close as soon as the session is ours.
    abandoned: bool,
    taken_over: bool,
}

impl Opening {
    fn answered(&mut self, from: PartitionId) {
        if let Some(count) = self.missing.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                self.missing.remove(&from);
            }
        }
    }
}

impl Client {
    pub(super) fn open(&mut self, open: Open) {
        let home = self.placement.session(&open.client_id);
        self.identity = Identity {
            publisher: identity_of(&open.client_id),
            home: Some(home),
            client_id: open.client_id.clone(),
            expiry_s: open.session_expiry_s,
            inflight_max: open.inflight_max,
            ..Identity::default()
        };
        self.phase = Phase::Opening(Box::default());
        let request = Request::OpenSession {
            principal: self.standing.principal.clone(),
            client_id: open.client_id,
            clean_start: open.clean_start,
            expiry_s: open.session_expiry_s,
            will: open.will.map(Box::new),
        };
        self.request(home, request);
    }

    pub(super) fn session_opened(&mut self, result: Result<Box<OpenedSession>, Refusal>) {
        let Phase::Opening(opening) = &mut self.phase else { return };
        let session = match result {
            Ok(session) => session,
            Err(refusal) => {
                self.phase = Phase::Done;
                return self.effects.push_back(Effect::OpenRefused(refusal));
            }
        };
        self.identity.stored = session.stored;
        self.identity.epoch = session.epoch;
        self.identity.term = session.term;
        self.identity.incarnation = session.incarnation;
        if session.left_groups {
            let client_id = self.identity.client_id.clone();
            let leave = |to| (to, Request::LeaveAll { client_id: client_id.clone() });
            self.requests.extend(self.placement.data().map(leave));
        }
        if opening.abandoned {
            self.phase = Phase::Open;
            return self.let_go();
        }
        let mut requests = Vec::new();
        if session.present {
            self.publishing.announcement = Announcement::Due;
            let (publisher, incarnation) = (self.identity.publisher, session.incarnation);
            requests.extend(
                self.placement
                    .data()
                    .map(|to| (to, Request::ListOpenIds { publisher, incarnation })),
            );
            let mut entries: BTreeMap<PartitionId, Vec<OutboundEntry>> = BTreeMap::new();
            for entry in session.outbound.iter().filter(|entry| !entry.received) {
                entries.entry(entry.partition).or_default().push(*entry);
            }
            let fetch = |(to, entries)| (to, Request::FetchOutbound { entries });
            requests.extend(entries.into_iter().map(fetch));
            let filters = session.subscriptions.iter().map(|stored| &stored.subscription.filter);
            requests.extend(self.ask_claimed(filters));
        }
        let Phase::Opening(opening) = &mut self.phase else { return };
        for (to, _) in &requests {
            *opening.missing.entry(*to).or_default() += 1;
        }
        opening.session = *session;
        self.requests.extend(requests);
        self.finish_open();
    }

    pub(super) fn found_outbound(
        &mut self,
        from: PartitionId,
        found: Result<Vec<(OutboundEntry, Option<Delivery>)>, Refusal>,
    ) {
        let Phase::Opening(opening) = &mut self.phase else { return };
        match found {
            Ok(found) => {
                let found = found.into_iter().map(|(entry, found)| (entry.packet_id, found));
                opening.found.extend(found);
            }
            Err(refusal) => opening.refused = Some(refusal),
        }
        opening.answered(from);
        self.finish_open();
    }

    pub(super) fn found_inbound(&mut self, from: PartitionId, found: Result<Vec<u16>, Refusal>) {
        let open = self.open_at(from);
        let Phase::Opening(opening) = &mut self.phase else { return };
        match found {
            Ok(packet_ids) => {
                self.inbound.extend(packet_ids.iter().map(|packet_id| (*packet_id, open.clone())));
                opening.inbound.extend(packet_ids);
            }
            Err(refusal) => opening.refused = Some(refusal),
        }
        opening.answered(from);
        self.finish_open();
    }

    pub(super) fn found_claimed(
        &mut self,
        from: PartitionId,
        found: Result<Vec<Claimed>, Refusal>,
    ) {
        let Phase::Opening(opening) = &mut self.phase else { return };
        match found {
            Ok(found) => opening.claimed.extend(found.into_iter().map(|claimed| (from, claimed))),
            Err(refusal) => opening.refused = Some(refusal),
        }
        opening.answered(from);
        self.finish_open();
    }

    /// A partition that holds part of the session does not answer any more.
    pub(super) fn open_resigned(&mut self, from: PartitionId, refusal: Refusal) {
        let Phase::Opening(opening) = &mut self.phase else { return };
        if opening.missing.remove(&from).is_some() {
            opening.refused = Some(refusal);
            self.finish_open();
        }
    }

    /// The peer or a newer connection ended it before it was open.
    pub(super) fn abandon_open(&mut self, taken_over: bool) -> bool {
        match &mut self.phase {
            Phase::Opening(opening) => {
                opening.taken_over |= taken_over;
                opening.abandoned |= !taken_over;
                true
            }
            _ => false,
        }
    }

    fn finish_open(&mut self) {
        let Phase::Opening(opening) = &mut self.phase else { return };
        if !opening.missing.is_empty() {
            return;
        }
        let opening = std::mem::take(&mut **opening);
        self.phase = Phase::Open;
        if opening.abandoned {
            return self.let_go();
        }
        if let Some(refusal) = opening.refused {
            self.identity.ends_with_will = false;
            self.effects.push_back(Effect::OpenRefused(refusal));
            return self.let_go();
        }
        let mut outbound = self.resend(&opening);
        let claimed = self.resend_claimed(opening.claimed, &opening.session);
        let replaced = |packet_id: u16| claimed.iter().any(|item| item.packet_id() == packet_id);
        outbound.retain(|item| !replaced(item.packet_id()));
        outbound.extend(claimed);
        self.effects.push_back(Effect::Opened(Opened {
            session_present: opening.session.present,
            persistent: self.identity.stored,
            outbound,
            inbound: opening.inbound,
        }));
        self.resume(&opening.session);
        if opening.taken_over {
            self.taken_over();
        }
    }

    /// Lists what to send again, in the session's order [MQTT-4.6.0-1].
    fn resend(&mut self, opening: &Opening) -> Vec<Resend> {
        let mut resend = Vec::new();
        for entry in &opening.session.outbound {
            self.outbound.restored(*entry);
            let id = entry.delivery();
            let packet_id = entry.packet_id;
            // What its client may not have any more counts as gone. Asked as late as this: rules may have changed since it was found.
            let may_have = |it: &&Delivery| self.standing.may_receive(&it.message.topic);
            match opening.found.get(&packet_id).and_then(Option::as_ref).filter(may_have) {
                Some(delivery) if !entry.received => {
                    let subscription_ids =
                        self.matching_ids(&opening.session, &delivery.message, entry.reader);
                    let delivery = Delivery { subscription_ids, ..delivery.clone() };
                    resend.push(Resend::Publish { packet_id, delivery });
                }
                // Received already, or its record is gone: PUBREL lets the client forget the number. A QoS 1 delivery that is
                // gone is over, and its reader, which begins with it out, has its room back.
                _ if entry.qos == crate::model::QoS::ExactlyOnce => {
                    resend.push(Resend::Release { packet_id, delivery: id });
                }
                _ => self.settle(id, Outcome::Accepted),
            }
        }
        resend
    }

    /// Lists the ids of the session's own subscriptions that match a message that is sent again [MQTT-3.3.4-3].
    fn matching_ids(
        &self,
        session: &OpenedSession,
        message: &Message,
        reader: ReaderId,
    ) -> Vec<u32> {
        let own = message.publisher == self.identity.publisher;
        let subscriptions = session.subscriptions.iter().map(|stored| &stored.subscription);
        let matching = subscriptions.filter(|subscription| {
            let filter = subscription.filter.as_bytes();
            subscription.subscription_id != 0
                && subscription.reader == reader
                && !(subscription.no_local && own)
                // A replay has the one subscription.
                && (reader.is_replay() || topic_trie::matches(filter, message.topic.as_bytes()))
        });
        matching.map(|subscription| subscription.subscription_id).collect()
    }

    /// Reads on where the session got to.
    fn resume(&mut self, session: &OpenedSession) {
        self.note_readers(session);
        let mut attaches: BTreeMap<PartitionId, Attach> = BTreeMap::new();
        let cursors: BTreeMap<PartitionId, Offset> = session.cursors.iter().copied().collect();
        for stored in &session.subscriptions {
            let subscription = &stored.subscription;
            if stored.starts.is_empty() {
                self.rejoin(subscription);
                continue;
            }
            if subscription.reader.is_replay() {
                self.resume_replay(subscription, &stored.starts, &session.outbound);
                continue;
            }
            self.remember_filter(subscription);
            let subscription = Arc::new(subscription.clone());
            for (partition, start) in &stored.starts {
                let attach = attaches.entry(*partition).or_insert_with(|| Attach {
                    cursor: cursors
                        .get(partition)
                        .copied()
                        .filter(|_| !is_planted(PlantedBug::ResumedAtStart)),
                    ..self.new_attach(Token(0))
                });
                attach.subscriptions.push((subscription.clone(), Some(*start)));
                attach.retained.push(false);
            }
        }
        for (partition, mut attach) in attaches {
            let mine = session
                .outbound
                .iter()
                .filter(|entry| entry.partition == partition && entry.reader == ReaderId::SESSION);
            attach.outbound = mine.map(|entry| entry.offset).collect();
            attach.token = self.wait_for(Waiting::Resumed);
            let start = attach.subscriptions.iter().filter_map(|(_, start)| *start).min();
            let cursor = attach.cursor.or(start).unwrap_or(Offset::ZERO);
            self.outbound.resumed((ReaderId::SESSION, partition), cursor);
            self.begin_reading(partition, attach);
        }
    }
}
