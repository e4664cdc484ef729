//! Publishing the wills of clients that are gone: announced by their sessions' homes, stored where their topics live.
//!
//! Pure, a connection's machine like [`Client`](super::Client): one in each process, serving all partitions. It keeps nothing that
//! matters. A home announces a will until a record says that it is over; the target stores one copy however often it is asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;

use super::Placement;
use crate::auth::{Access, Action, Authority};
use crate::model::address::PublishAddress;
use crate::model::record::DedupKey;
use crate::model::{Control, Message, PartitionId, Principal, QueueName, Refusal, Token};
use crate::partition::request::{Event, Publish, Request};

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
    /// The target is storing it. `target` has it under the key when it succeeds.
    Publishing { will: WillId, target: PartitionId, publisher: u64, key: DedupKey },
    /// Its home is storing that it is over; then the target need not know it any more.
    Clearing { home: PartitionId, target: PartitionId, publisher: u64, key: DedupKey },
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
                if let Some(Step::Clearing { target, publisher, key, .. }) =
                    self.waiting.remove(&token)
                    && result.is_ok()
                {
                    self.release(target, publisher, key);
                }
            }
            // What it waits for there may have been done or not: the wills' homes announce them again.
            Event::Resigned(_) => self.waiting.retain(|_, step| match step {
                Step::Publishing { target, .. } => *target != from,
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
        let (target, queue) = match self.target(&message) {
            Ok(target) => target,
            Err(refusal) => return self.give_up(will, &refusal),
        };
        let key = DedupKey { incarnation: will.epoch.0 as u32, seq: DedupKey::WILL };
        let publisher = message.publisher;
        let token = self.wait_for(Step::Publishing { will, target, publisher, key });
        let publish = Publish { token: Some(token), message, dedup: key, queue };
        self.requests.push_back((target, Request::Publish(publish)));
    }

    fn target(&self, message: &Message) -> Result<(PartitionId, Option<QueueName>), Refusal> {
        match PublishAddress::of(&message.topic)? {
            PublishAddress::Topic => Ok((self.placement.topic(&message.topic), None)),
            PublishAddress::Queue(name) => Ok((self.placement.queue(&name), Some(name))),
            PublishAddress::Settle(..) => {
                let reason = "a settling verb is not a place to publish to".to_owned();
                Err(Refusal::Invalid { reason })
            }
        }
    }

    fn published(&mut self, token: Token, result: Result<bool, Refusal>) {
        let Some(Step::Publishing { will, target, publisher, key }) = self.waiting.remove(&token)
        else {
            return;
        };
        match result {
            Ok(_) => {
                let home = will.home;
                let token = self.wait_for(Step::Clearing { home, target, publisher, key });
                self.clear(will, Some(token));
            }
            // It stays due: its home announces it again.
            Err(
                Refusal::DiskFull
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

    fn release(&mut self, target: PartitionId, publisher: u64, key: DedupKey) {
        let DedupKey { incarnation, seq } = key;
        let control = Control::Released { publisher, incarnation, packet_ids: vec![seq] };
        self.requests
            .push_back((target, Request::Write { token: None, control: Box::new(control) }));
    }

    fn wait_for(&mut self, step: Step) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.waiting.insert(token, step);
        token
    }
}
