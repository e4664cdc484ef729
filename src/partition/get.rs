//! Consumers that their protocols name, and entries that are asked for one by one.
//!
//! What is asked for comes from where members get theirs: the group hands it out to whoever asks, and to nobody else while it is
//! looked for. So it is the next in order, with its priority, neither expired nor delayed; and it is out like any other.

use bytes::Bytes;
use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::group::Next;
use super::manage::lag;
use super::member::Member;
use super::request::{ConnectionId, ConsumerRequest, Event, GetEntry, Join, Outbox, Position};
use super::stage::Waiting;
use super::window::Window;
use super::{Partition, PartitionError, RECORDS_PER_TURN_MAX};
use crate::model::queue::QueueKind;
use crate::model::record::queue_id;
use crate::model::{Control, Credit, Delivery, Got, QoS, QueueRefusal, Refusal, Selection};
use crate::view::GroupKey;

/// Times that a request looks at so many entries before it says that there is none: those before were all expired, or wait.
const LOOKS_MAX: usize = 1024;

/// Keeps the delivery that was asked for, and who gets it hears of it by another event.
#[derive(Default)]
struct Taken(Option<Delivery>);

impl Outbox for Taken {
    fn send(&mut self, _to: ConnectionId, event: Event) {
        if let Event::Deliver(delivery) = event {
            self.0 = Some(delivery);
        }
    }
}

impl<D: Disk> Partition<D> {
    /// Takes a request of a consumer.
    pub(super) fn handle_consumer(
        &mut self,
        from: ConnectionId,
        request: ConsumerRequest,
        out: &mut impl Outbox,
    ) {
        match request {
            ConsumerRequest::Grant { membership, count } => {
                self.groups.grant(from, membership, count);
            }
            ConsumerRequest::Sent { membership, count } => {
                self.groups.sent(from, membership, count);
            }
            ConsumerRequest::Stop { membership, token } => {
                let stopped = self.groups.stop(from, membership);
                match stopped {
                    // Its join is on its way, and is answered before.
                    Some((_, false)) => {
                        self.answer_with_next(Waiting::Written { to: from, token }, out);
                    }
                    _ => out.send(from, Event::Written { token, result: Ok(()) }),
                }
                if let Some((queue, _)) = stopped {
                    self.consumer_left(queue);
                }
            }
            ConsumerRequest::Get(get) => {
                let token = get.token;
                if let Err(refusal) = self.get(from, get, out) {
                    out.send(from, Event::Got { token, result: Err(refusal) });
                }
            }
        }
    }

    /// Looks for the next entry of a group, once there is one.
    fn get(
        &mut self,
        from: ConnectionId,
        get: Box<GetEntry>,
        out: &mut impl Outbox,
    ) -> Result<(), Refusal> {
        let id = queue_id(get.queue.as_bytes());
        if !self.is_known(get.queue.as_bytes())? {
            return Err(QueueRefusal::Missing { queue: get.queue.to_string() }.into());
        }
        self.check_owner(from, id)?;
        let settings = self.queue(id).map(|(_, settings)| settings.clone()).unwrap_or_default();
        if settings.exclusive && self.groups.is_read_by_others(id, from) {
            return Err(QueueRefusal::Locked { queue: get.queue.to_string() }.into());
        }
        if settings.kind == QueueKind::Stream {
            return Err(QueueRefusal::Stream { queue: get.queue.to_string() }.into());
        }
        let key = (id, get.group.as_bytes().clone());
        if self.overlay.ending_groups.contains(&key) {
            let reason = format!("group '{}' is being deleted: try again", get.group);
            return Err(Refusal::Invalid { reason });
        }
        self.queue_used(id);
        // The groups of a queue that is on its way out are not those of the one that comes after it.
        let is_new = self.overlay.queues.contains_key(&id);
        let waiting = Waiting::Get { to: from, get };
        if !is_new && self.views.groups.get(key.0, &key.1).is_some() {
            self.answer(waiting, out);
        } else if self.overlay.groups.insert(key.clone()) {
            let queue = self.views.queues.get(id).filter(|_| !is_new);
            let start = queue.map_or(Offset::ZERO, |queue| queue.head());
            let (queue, group) = key;
            self.write(&Control::GroupCreated { queue, group, start }, Some(waiting));
        } else {
            // Being made by somebody else's request: this one follows it.
            self.answer_with_next(waiting, out);
        }
        Ok(())
    }

    /// Answers who asks for an entry, of a group that is there.
    pub(super) fn get_now(&mut self, to: ConnectionId, get: &GetEntry, out: &mut impl Outbox) {
        let result = match self.take_one(to, get) {
            Ok(result) => result,
            Err(error) => {
                // Whoever waits is told when `persist` reports this and the partition stops.
                self.failed.get_or_insert(error);
                Err(Refusal::Unavailable { partition: self.id.0 })
            }
        };
        out.send(to, Event::Got { token: get.token, result });
    }

    fn take_one(
        &mut self,
        to: ConnectionId,
        get: &GetEntry,
    ) -> Result<Result<Option<Box<Got>>, Refusal>, PartitionError> {
        let key: GroupKey = (queue_id(get.queue.as_bytes()), get.group.as_bytes().clone());
        // One that is on its way out has nothing any more.
        let is_ending = self.overlay.queues.contains_key(&key.0);
        let queue = self.views.queues.get(key.0).filter(|_| !is_ending);
        let group = self.views.groups.get(key.0, &key.1);
        let Some((queue, group)) = queue.zip(group) else {
            return Ok(Err(QueueRefusal::Missing { queue: get.queue.to_string() }.into()));
        };
        if queue.settings().kind == QueueKind::Ephemeral {
            return Ok(Ok(None));
        }
        let join = getter(get);
        let reads = Selection::Queue(get.queue.clone());
        let consumers = self.groups.look_in(&key, reads, (group, queue.settings().clone()));
        consumers.wake(self.now);
        if consumers.lanes.is_none() {
            consumers.looked_at(group.first_unfinished(consumers.cursor));
        }
        let window = Window::new(Credit::Window(1));
        consumers.getter = Some(Member::new(to, join, window, &consumers.reads));
        let mut taken = Taken::default();
        let looked = self.look_for_one(&key, &mut taken);
        if let Some(consumers) = self.groups.get_mut(&key) {
            consumers.getter = None;
        }
        looked?;
        let Some(delivery) = taken.0 else { return Ok(Ok(None)) };
        self.groups.got(to, get.membership, &key, delivery.id.offset);
        let remaining = self.ready(&key);
        Ok(Ok(Some(Box::new(Got { delivery, remaining }))))
    }

    /// Hands out until somebody has got something: first what most probably is the next, then more at a time.
    fn look_for_one(&mut self, key: &GroupKey, taken: &mut Taken) -> Result<(), PartitionError> {
        let mut credit = 1;
        for _ in 0..LOOKS_MAX {
            let end = self.views.queues.get(key.0).map_or(Offset::ZERO, |queue| queue.end());
            let Some(consumers) = self.groups.get_mut(key) else { return Ok(()) };
            let is_full = consumers.held_count() >= self.options.pending_max;
            if is_full || !consumers.has_more(end) {
                return Ok(());
            }
            let next = Next::of(key, consumers, credit);
            if !self.hand_out_queue(&next, taken)? || taken.0.is_some() {
                return Ok(());
            }
            credit = RECORDS_PER_TURN_MAX;
        }
        Ok(())
    }

    /// How many entries a group can be handed.
    pub(super) fn ready(&self, key: &GroupKey) -> u64 {
        let Some(queue) = self.views.queues.get(key.0) else { return 0 };
        let (count, end) = (queue.len(), queue.end());
        let Some(group) = self.views.groups.get(key.0, &key.1) else { return count };
        // What left the queue before the group was made, the group does not know of.
        let unfinished = lag(group, end).min(count);
        self.groups.get(key).map_or(unfinished, |consumers| consumers.ready(unfinished, end))
    }
}

/// Who asks, as a member that wants everything.
fn getter(get: &GetEntry) -> Join {
    Join {
        membership: get.membership,
        reads: Selection::Queue(get.queue.clone()),
        group: get.group.clone(),
        own: None,
        filter: get.queue.filter(),
        position: Position::Resume,
        client_id: Bytes::new(),
        expiry_s: 0,
        qos: QoS::AtLeastOnce,
        retain_as_published: false,
        subscription_id: 0,
        settle_explicit: false,
        credit: Credit::Window(1),
        is_named: true,
        is_exclusive: false,
        token: get.token,
    }
}
