//! Publishing the wills of clients that are gone: announced by their sessions' homes, stored where their topics live.
//!
//! Pure, a connection's machine like [`Client`](super::Client): one in each process, serving all partitions. It keeps nothing that
//! matters. A home announces a will until a record says that it is over; the target stores one copy however often it is asked. So does
//! every partition whose queues are bound to the will's topic, each before the next, and the topic's own last.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;

use super::placement::{Found, Placement};
use crate::auth::{Access, Action, Authority};
use crate::model::address::PublishAddress;
use crate::model::record::{DedupKey, Tenure};
use crate::model::{Control, Message, PartitionId, Principal, Refusal, Token};
use crate::partition::request::{Event, Publish, Request, Target};
use crate::planted::{PlantedBug, is_planted};

/// Publishes wills.
pub struct WillPublisher {
    placement: Placement,
    authority: Arc<Authority>,
    waiting: BTreeMap<Token, Step>,
    next_token: u64,
    requests: VecDeque<(PartitionId, Request)>,
}

/// A will on its way.
struct WillId {
    home: PartitionId,
    client_id: Bytes,
    epoch: Offset,
}

enum Step {
    /// The target is storing it.
    Publishing(Box<Publishing>),
    /// Its home is storing that it is over; then the targets need not know it any more.
    Clearing { home: PartitionId, stored: Stored },
}

/// A will on its way to its targets.
struct Publishing {
    will: WillId,
    target: PartitionId,
    /// Where it still goes, the next one last.
    rest: Vec<(PartitionId, Publish)>,
    stored: Stored,
}

/// Where a will is stored, and under which key.
struct Stored {
    publisher: u64,
    at: Vec<(PartitionId, DedupKey)>,
}

impl WillPublisher {
    /// Returns one that asks every partition for the wills of its sessions.
    pub fn new(placement: Placement, authority: Arc<Authority>) -> WillPublisher {
        let requests = placement.data().map(|home| (home, Request::PublishWills)).collect();
        WillPublisher { placement, authority, waiting: BTreeMap::new(), next_token: 0, requests }
    }

    /// Takes new rules: they hold for every will that is not published yet.
    pub fn handle_authority(&mut self, authority: Arc<Authority>) {
        self.authority = authority;
    }

    /// Takes an event of a partition.
    pub fn handle_event(&mut self, from: PartitionId, event: Event) {
        match event {
            Event::WillDue { client_id, epoch, principal, message } => {
                self.publish(WillId { home: from, client_id, epoch }, &principal, message);
            }
            Event::Confirm { token, result } => self.published(token, result),
            Event::Written { token, result } => {
                if let Some(Step::Clearing { stored, .. }) = self.waiting.remove(&token)
                    && result.is_ok()
                {
                    self.release(&stored);
                }
            }
            // What it waits for there may have been done or not: the wills' homes announce them again.
            Event::Resigned(_) => self.waiting.retain(|_, step| match step {
                Step::Publishing(publishing) => publishing.target != from,
                Step::Clearing { home, .. } => *home != from,
            }),
            // It opens no session, reads nothing and joins no group.
            _ => {}
        }
    }

    /// The next request, with the partition it is for.
    pub fn poll_request(&mut self) -> Option<(PartitionId, Request)> {
        self.requests.pop_front()
    }

    /// The one place that every will passes on its way out: its client may publish it by the rules of now, or nobody does.
    fn publish(&mut self, will: WillId, principal: &Principal, message: Arc<Message>) {
        let mut access = Access::new(self.authority.rights(principal, &will.client_id));
        if !access.authorize(Action::Publish, &message.topic) {
            return self.give_up(will, &Refusal::NotAuthorized);
        }
        let publishes = match self.targets(&will, message) {
            Ok(publishes) => publishes,
            Err(refusal) => return self.give_up(will, &refusal),
        };
        let publisher = publishes.first().map_or(0, |(_, publish)| publish.message.publisher);
        self.publish_next(will, publishes, Stored { publisher, at: Vec::new() });
    }

    /// Where a will goes, the first one last.
    fn targets(
        &mut self,
        will: &WillId,
        message: Arc<Message>,
    ) -> Result<Vec<(PartitionId, Publish)>, Refusal> {
        let dedup = match is_planted(PlantedBug::WillUnkeyed) {
            false => DedupKey { incarnation: will.epoch.0 as u32, seq: DedupKey::WILL },
            true => DedupKey { incarnation: self.next_token as u32, seq: DedupKey::WILL },
        };
        let tenure = Tenure::default();
        let target = Target::Topic;
        let (input, is_kept) = (None, false);
        let publish = Publish { token: None, message, dedup, tenure, target, input, is_kept };
        let message = &publish.message;
        match PublishAddress::of(&message.topic)? {
            PublishAddress::Topic => {
                let home = self.placement.topic(&message.topic);
                let looked = (&mut Found::default(), &mut None);
                let beyond = self.placement.beyond(message, false, looked);
                let dedup = DedupKey { seq: dedup.seq | DedupKey::COPY, ..dedup };
                let copy = |at: &PartitionId| {
                    (*at, Publish { dedup, target: beyond.bound(*at), ..publish.clone() })
                };
                let others = beyond.partitions.iter().filter(|partition| **partition != home);
                let copies: Vec<(PartitionId, Publish)> = others.map(copy).collect();
                let publish = Publish { target: beyond.topic(home), ..publish };
                Ok(std::iter::once((home, publish)).chain(copies).collect())
            }
            PublishAddress::Queue(name) => {
                let home = self.placement.queue(&name);
                Ok(vec![(home, Publish { target: Target::Queue(name), ..publish })])
            }
            PublishAddress::Settle(..) | PublishAddress::Manage(_) => {
                let reason = "a will is a message, and this is no place for one".to_owned();
                Err(Refusal::Invalid { reason })
            }
        }
    }

    fn publish_next(
        &mut self,
        will: WillId,
        mut rest: Vec<(PartitionId, Publish)>,
        stored: Stored,
    ) {
        match rest.pop() {
            Some((target, publish)) => {
                let mut stored = stored;
                stored.at.push((target, publish.dedup));
                let publishing = Publishing { will, target, rest, stored };
                let token = Some(self.wait_for(Step::Publishing(Box::new(publishing))));
                let request = Request::Publish(Publish { token, ..publish });
                self.requests.push_back((target, request));
            }
            None => {
                let home = will.home;
                let token = self.wait_for(Step::Clearing { home, stored });
                self.clear(will, Some(token));
            }
        }
    }

    fn published(&mut self, token: Token, result: Result<bool, Refusal>) {
        let Some(Step::Publishing(publishing)) = self.waiting.remove(&token) else { return };
        let Publishing { will, rest, stored, .. } = *publishing;
        match result {
            Ok(_) => self.publish_next(will, rest, stored),
            // It stays due: its home announces it again.
            Err(
                Refusal::DiskFull
                | Refusal::MemoryFull
                | Refusal::Unavailable { .. }
                | Refusal::NotLeader { .. }
                | Refusal::ShuttingDown,
            ) => {}
            Err(refusal) => self.give_up(will, &refusal),
        }
    }

    /// A will that will never be accepted is over.
    fn give_up(&mut self, will: WillId, refusal: &Refusal) {
        let client_id = String::from_utf8_lossy(&will.client_id);
        tracing::warn!(%client_id, %refusal, "a will is refused and dropped");
        self.clear(will, None);
    }

    fn clear(&mut self, will: WillId, token: Option<Token>) {
        let WillId { home, client_id, epoch } = will;
        let control = Control::WillCleared { client_id, epoch };
        self.requests.push_back((home, Request::Write { token, control: Box::new(control) }));
    }

    fn release(&mut self, stored: &Stored) {
        for (target, DedupKey { incarnation, seq }) in stored.at.iter().copied() {
            let publisher = stored.publisher;
            let control = Control::Released { publisher, incarnation, packet_ids: vec![seq] };
            self.requests
                .push_back((target, Request::Write { token: None, control: Box::new(control) }));
        }
    }

    fn wait_for(&mut self, step: Step) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.waiting.insert(token, step);
        token
    }
}
