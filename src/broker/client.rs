//! One connection's side of the broker: commands of its protocol in, requests to partitions out; their events in, effects out.
//!
//! Pure, like the protocol above it: no socket, no clock. It owns what spans partitions: the session's cursors, what is out under
//! which packet id, which partitions are read, which groups were joined. Deliveries pass through without being looked at twice.

mod admission;
mod close;
mod commit;
mod consume;
mod exchanges;
mod given_back;
mod groups;
mod held;
mod manage;
mod open;
mod outbound;
mod publish;
mod queues;
mod replay;
mod route;
mod subscribe;
mod tenure;
mod transaction;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;

use self::admission::{Admitting, Standing};
use self::consume::Consuming;
use self::given_back::GivenBack;
use self::groups::Membership;
use self::held::Held;
use self::open::Opening;
use self::outbound::Outbound;
use self::replay::{Last, Replays};
use self::subscribe::{PendingSubscribe, Subscribed};
use self::tenure::Step;
use super::Placement;
use crate::auth::{Authority, Reach};
use crate::model::consume::CONSUMERS_END;
use crate::model::message::publisher_id;
use crate::model::{
    Command, Control, Delivery, DeliveryId, DeliverySource, Effect, Filter, Millis, Outcome,
    PartitionId, ReaderId, Refusal, Token, TurnQueue,
};
use crate::partition::request::{ConnectionId, Event, Request};

/// Limits of one connection.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// Deliveries handed to a connection and not settled, in each partition.
    pub credit: u32,
    /// Subscriptions of one session.
    pub subscriptions_max: usize,
    /// Replays among them: each has a reader, with its own credit, in every partition it reads.
    pub replays_max: usize,
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits { credit: 128, subscriptions_max: 10_000, replays_max: 16 }
    }
}

/// One connection, between its protocol and the partitions.
pub struct Client {
    placement: Placement,
    limits: ClientLimits,
    phase: Phase,
    standing: Standing,
    identity: Identity,
    subscriptions: BTreeMap<Filter, Subscribed>,
    memberships: BTreeMap<u32, Membership>,
    /// The newest of those that the broker chose.
    next_membership: u32,
    replays: Replays,
    groups: groups::Sharing,
    /// Consumers by name; most clients have none.
    consuming: Option<Box<Consuming>>,
    /// Partitions that this connection has a reader in.
    attached: BTreeMap<PartitionId, ()>,
    /// What is passed on and waits, while subscriptions begin.
    held: Option<Box<Held>>,
    outbound: Outbound,
    /// Where the client's unreleased QoS 2 publishes are.
    inbound: BTreeMap<u16, publish::Open>,
    publishing: publish::Publishing,
    transactions: transaction::Transactions,
    waiting: BTreeMap<Token, Waiting>,
    next_token: u64,
    credits: BTreeMap<(PartitionId, ReaderId), Credit>,
    given_back: GivenBack,
    requests: TurnQueue<(PartitionId, Request)>,
    effects: TurnQueue<Effect>,
    /// Publishes that a deliberate defect has confirmed and not stored.
    #[cfg(feature = "planted-bugs")]
    kept_back: Vec<(PartitionId, Request)>,
}

/// Who the client is, once it has opened its session.
#[derive(Debug, Default)]
struct Identity {
    client_id: Bytes,
    publisher: u64,
    home: Option<PartitionId>,
    stored: bool,
    epoch: Offset,
    /// Of the home, when it granted the session.
    term: u64,
    incarnation: u32,
    expiry_s: u32,
    inflight_max: u16,
    /// Whether the end of the connection makes its will due.
    ends_with_will: bool,
}

/// Deliveries of one partition's reader.
#[derive(Debug, Default)]
struct Credit {
    /// Handed to the protocol; settled ones are still among them until the reader is told.
    out: u32,
    settled: u32,
}

enum Phase {
    /// Waits for `Open`.
    New,
    /// Waits to know who it is.
    Admitting(Box<Admitting>),
    /// Waits for partitions to answer.
    Opening(Box<Opening>),
    /// Serves.
    Open,
    /// Waits for readers and groups to let go: so many of each partition.
    Closing { detaching: BTreeMap<PartitionId, usize> },
    /// Over.
    Done,
}

/// What an answer with one of our own tokens continues.
enum Waiting {
    Subscribe(PendingSubscribe),
    /// Part of a SUBSCRIBE that another token stands for.
    PartOf(Token, usize),
    /// A replay that begins with the last so many messages, and where those are: another token stands for all of it.
    Last(Box<Last>),
    NewestOf(Token),
    /// The newest message that a replay finds in a partition: part of a SUBSCRIBE.
    EndOf(Token, usize, Filter),
    Unsubscribe {
        token: Token,
        results: Vec<Result<bool, Refusal>>,
    },
    /// A reader of a resumed session.
    Resumed,
    /// A membership of a resumed session.
    Rejoined,
    /// A consumer that begins.
    Consuming {
        token: Token,
        consumer: u32,
    },
    /// One that ends.
    Stopping {
        token: Token,
        consumer: u32,
    },
    /// An entry that was asked for.
    Getting {
        token: Token,
        membership: u32,
    },
    /// Part of what groups store before QoS 2 deliveries go out; another token stands for all of it.
    ClaimOf(Token),
    Claiming {
        missing: usize,
        effect: Effect,
        /// The session's home has a part in it too.
        with_session: bool,
    },
    /// Part of a publish that several partitions store; another token stands for all of it.
    CopyOf(Token),
    Copies(Box<publish::Copies>),
    /// A transaction.
    Committing(Box<commit::Committing>),
    /// Part of one of its publishes; another token stands for the transaction.
    PublishOf(Token, usize),
    /// Part of the end of a QoS 2 publish that several partitions know.
    ReleaseOf(Token),
    Releasing(Box<publish::Releasing>),
    /// What a protocol asked of a queue.
    Asked(Token),
    /// What is asked of an exchange.
    Changing(Box<exchanges::Changing>),
    /// The same, while exchanges end with it.
    Ending(Box<exchanges::Changing>),
    /// One of those; another token stands for all of them.
    EndOfExchange(Token),
    /// What an administrator asked of a queue.
    Managed(Box<manage::AskedOf>),
    /// Part of a list; another token stands for all of it.
    ListOf(Token),
    Listing(Box<manage::Listing>),
    /// What an administrator asked of connections.
    Polling(Box<manage::Polling>),
    /// A partition that is told of this connection before its first QoS 2 exchange.
    Tenure,
    /// A group that a connection which ends leaves.
    Left(PartitionId),
    /// Effects that say that something is stored.
    Effects(Vec<Effect>),
}

impl Client {
    /// Returns a connection that has not opened its session; `id` is its own in this process.
    pub fn new(
        id: ConnectionId,
        placement: Placement,
        limits: ClientLimits,
        authority: Arc<Authority>,
    ) -> Client {
        Client {
            placement,
            limits,
            phase: Phase::New,
            standing: Standing::new(authority, id.0),
            identity: Identity::default(),
            subscriptions: BTreeMap::new(),
            memberships: BTreeMap::new(),
            next_membership: CONSUMERS_END,
            replays: Replays::default(),
            groups: groups::Sharing::default(),
            consuming: None,
            attached: BTreeMap::new(),
            held: None,
            outbound: Outbound::default(),
            inbound: BTreeMap::new(),
            publishing: publish::Publishing::default(),
            transactions: transaction::Transactions::default(),
            waiting: BTreeMap::new(),
            next_token: 0,
            credits: BTreeMap::new(),
            given_back: GivenBack::default(),
            requests: TurnQueue::new(),
            effects: TurnQueue::new(),
            #[cfg(feature = "planted-bugs")]
            kept_back: Vec::new(),
        }
    }

    /// Takes a command of the protocol.
    pub fn handle_command(&mut self, now: Millis, command: Command) {
        match command {
            Command::Open(open) => self.admit(*open),
            Command::Authenticate { method, message } => self.authenticate(&method, message.0),
            Command::Publish { token, message, .. } if manage::is_request(&message.topic) => {
                self.manage(now, token, &message);
            }
            Command::Publish { token, message, packet_id: Some(packet_id) } => {
                self.exchange(Step::Publish { token, message, packet_id });
            }
            Command::Publish { token, message, packet_id: None } => {
                self.publish(token, message, None);
            }
            Command::Release { packet_id } => self.exchange(Step::Release { packet_id }),
            Command::Subscribe { token, subscriptions } => {
                self.subscribe(now, token, subscriptions)
            }
            Command::Unsubscribe { token, filters } => self.unsubscribe(token, filters),
            Command::Assign { token, entries } => self.assign(token, entries),
            Command::Received { packet_id } => self.received(packet_id),
            Command::Settle { delivery, outcome } => self.settle(delivery, outcome),
            Command::GiveBack { deliveries } => self.give_back(deliveries),
            Command::GoOn => self.go_on(),
            Command::SettleEntry { token, queue, group, offset, outcome } => {
                if let Err(refusal) = self.standing.may_settle(&queue, Reach::Some) {
                    return self.confirm(token, Err(refusal));
                }
                let to = self.placement.queue(&queue);
                let (token, entry) = (theirs(token), Offset(offset));
                self.request(to, Request::SettleEntry { token, queue, group, entry, outcome });
            }
            Command::CommitCursor { token, queue, group, offset } => {
                if let Err(refusal) = self.standing.may_settle(&queue, Reach::All) {
                    return self.confirm(token, Err(refusal));
                }
                let to = self.placement.queue(&queue);
                let (token, offset) = (theirs(token), Offset(offset));
                self.request(to, Request::CommitCursor { token, queue, group, to: offset });
            }
            Command::Route(route) => self.route(*route),
            Command::Queue { token, queue, command } => self.ask_queue(token, &queue, command),
            Command::Exchange { token, exchange, command } => {
                self.ask_exchange(token, &exchange, command);
            }
            Command::Bind(bind) => self.bind(*bind),
            Command::Consume(consume) => self.consume(now, &consume),
            Command::Grant { consumer, count } => self.grant(consumer, count),
            Command::Sent { consumer, count } => self.sent(consumer, count),
            Command::StopConsuming { token, consumer } => self.stop_consuming(token, consumer),
            Command::Leave { consumer } => self.leave(consumer),
            Command::Get { token, consumer, queue, group } => {
                self.get(token, (consumer, &queue, &group));
            }
            Command::Commit(commit) => self.commit(*commit),
            Command::Renew(credentials) => self.renew(&credentials),
            Command::Enter { host } => {
                let result = self.standing.may_enter(&host);
                self.effects.push_back(Effect::Entered(result));
            }
            Command::Close(close) => self.close(close),
        }
    }

    /// Takes an event of a partition.
    pub fn handle_event(&mut self, from: PartitionId, event: Event) {
        match event {
            Event::Deliver(delivery) => self.take_delivery(from, delivery),
            Event::Got { token, result } => self.has_got(token, result),
            Event::Confirm { token, result } if is_ours(token) => {
                self.copy_confirmed(token, result);
            }
            Event::Confirm { token, result } => {
                self.effects.push_back(Effect::Confirm { token: Token(token.0 >> 1), result });
            }
            Event::Written { token, result } => self.written(token, result),
            Event::SessionOpened(result) => self.session_opened(result),
            Event::TakenOver => self.taken_over(),
            Event::Attached { reader, token, start, cut } => {
                if let Some(cut) = cut {
                    self.outbound.cut(from, cut);
                }
                match &start {
                    Ok(start) => self.outbound.attached((reader, from), *start),
                    Err(_) if reader == ReaderId::SESSION => self.is_through(from),
                    Err(_) => {}
                }
                self.part_done(from, token, start.map(Some));
            }
            Event::Level => self.is_through(from),
            Event::Passed { next } => self.outbound.passed((ReaderId::SESSION, from), next),
            Event::Detached { next, replayed } => self.detached(from, next, replayed),
            Event::Held { reader } => self.reader_held(from, reader),
            Event::Newest { token, result } => self.found_newest(from, token, result),
            Event::Outbound(found) => self.found_outbound(from, found),
            // Only whoever asks hears of wills, of letters, and of what queues follow; what connections are asked, their drivers answer.
            Event::WillDue { .. }
            | Event::Letter(_)
            | Event::Follow(_)
            | Event::FollowEnded(_)
            | Event::BindingsEnded
            | Event::Asked(_)
            | Event::ReadOn { .. } => {}
            Event::Queue { token, result } => self.managed(token, result),
            Event::Listed { token, result } => self.listed(token, result),
            Event::Told(told) => self.told(*told),
            Event::OpenIds(packet_ids) => self.found_inbound(from, packet_ids),
            // What it read and held there is gone: the peer comes back, to whoever leads then, and its session goes on.
            Event::Resigned(refusal) => self.resigned(from, refusal),
            Event::Claimed(claimed) => self.found_claimed(from, claimed),
            Event::Joined { token, result } => {
                self.part_done(from, token, result.map(|()| None));
            }
            Event::MembershipEnded { membership } => self.membership_ended(membership),
        }
    }

    fn take_delivery(&mut self, from: PartitionId, delivery: Delivery) {
        if self.replays.is_over(delivery.id.source) {
            return;
        }
        // What a reader hands out before it lets go is below the place it reports: unsent, it holds the cursor back.
        if self.identity.stored && self.is_reading() {
            self.outbound.handed(&delivery);
        }
        if self.given_back.takes(delivery.id) || !matches!(self.phase, Phase::Open) {
            return;
        }
        let delivery = match delivery.id.source {
            DeliverySource::Reader(reader) | DeliverySource::Retained(reader, _) => {
                self.credits.entry((from, reader)).or_default().out += 1;
                Some(delivery)
            }
            DeliverySource::Live => self.hold(delivery),
            DeliverySource::Group(membership) => {
                self.takes_part(membership, &delivery).then_some(delivery)
            }
        };
        let Some(delivery) = delivery else { return };
        match self.standing.may_receive(&delivery.message.topic) {
            true => self.effects.push_back(Effect::Deliver(delivery)),
            false => self.withhold(&delivery),
        }
    }

    /// Tells the client that the broker stops: its protocol says so to the peer.
    pub fn handle_shutdown(&mut self) {
        self.effects.push_back(Effect::ShuttingDown);
    }

    /// The next request, with the partition it is for.
    ///
    /// What gathered since the last call goes out together: credits by partition, session progress in one record.
    pub fn poll_request(&mut self) -> Option<(PartitionId, Request)> {
        if self.requests.is_empty() {
            self.gather();
        }
        self.requests.pop_front()
    }

    /// How many requests there are, beside those that gather.
    pub fn request_count(&self) -> usize {
        self.requests.len()
    }

    /// The next effect for the protocol.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty() && self.held.is_some() {
            self.release_held();
        }
        self.effects.pop_front()
    }

    /// Writes down how far the session is, without anybody waiting: called now and then so that a crash repeats little.
    pub fn checkpoint(&mut self) {
        #[cfg(feature = "planted-bugs")]
        self.requests.extend(self.kept_back.drain(..));
        if matches!(self.phase, Phase::Open) {
            self.stop_holding();
            self.write_progress();
        }
    }

    /// Returns true when nothing is left to do for this connection, or nothing was begun.
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::New | Phase::Done) && self.requests.is_empty()
    }

    fn is_reading(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Closing { .. })
    }

    fn settle(&mut self, delivery: DeliveryId, outcome: Outcome) {
        match delivery.source {
            DeliverySource::Live => {}
            DeliverySource::Reader(reader) | DeliverySource::Retained(reader, _) => {
                if self.identity.stored {
                    self.outbound.settled(delivery);
                }
                if !self.replays.is_over(delivery.source) {
                    self.credits.entry((delivery.partition, reader)).or_default().settled += 1;
                }
            }
            DeliverySource::Group(membership) => {
                self.consumed(membership);
                self.settle_entry(delivery, membership, outcome);
            }
        }
    }

    fn written(&mut self, token: Token, result: Result<(), Refusal>) {
        match self.waiting.remove(&token) {
            None => {}
            // A partition that stopped answers with a refusal, and the connection can only end: what it waits for was not stored.
            Some(Waiting::Effects(effects)) => match result {
                Ok(()) => self.effects.extend(effects),
                Err(_) => self.effects.push_back(Effect::ShuttingDown),
            },
            Some(Waiting::Subscribe(pending)) => self.finish_subscribe(pending, result),
            Some(Waiting::Unsubscribe { token, results }) => {
                let results = match result {
                    Ok(()) => results,
                    Err(refusal) => results.iter().map(|_| Err(refusal.clone())).collect(),
                };
                self.effects.push_back(Effect::Unsubscribed { token, results });
            }
            Some(Waiting::ReleaseOf(whole)) => self.part_released(whole, &result),
            Some(Waiting::ClaimOf(whole)) => self.claimed(whole, result),
            Some(Waiting::Tenure) => self.tenure_begun(&result),
            Some(Waiting::Left(from)) => self.part_closed(from),
            // A partition that does not serve says so to everybody.
            Some(Waiting::Stopping { token, consumer }) => self.has_stopped(token, consumer),
            Some(Waiting::Changing(changing)) => self.exchange_changed(changing, result),
            Some(Waiting::EndOfExchange(whole)) => self.unused_ended(whole),
            Some(Waiting::Committing(committing)) => self.committed(*committing, result),
            Some(
                Waiting::PartOf(..)
                | Waiting::Resumed
                | Waiting::Rejoined
                | Waiting::Consuming { .. }
                | Waiting::Getting { .. }
                | Waiting::CopyOf(_)
                | Waiting::PublishOf(..)
                | Waiting::Copies(_)
                | Waiting::Releasing(_)
                | Waiting::Last(_)
                | Waiting::NewestOf(_)
                | Waiting::EndOf(..)
                | Waiting::Asked(_)
                | Waiting::Managed(_)
                | Waiting::ListOf(_)
                | Waiting::Listing(_)
                | Waiting::Polling(_)
                | Waiting::Ending(_)
                | Waiting::Claiming { .. },
            ) => {
                unreachable!("parts are answered by readers, groups and confirmations")
            }
        }
    }

    fn gather(&mut self) {
        let requests = &mut self.requests;
        for ((partition, reader), credit) in &mut self.credits {
            // A quarter of what is out at a time: fewer requests under load, and never a reader that waits for what is settled.
            let is_due = credit.settled > 0 && credit.settled * 4 >= credit.out;
            // One that is held would go on.
            if is_due && !self.given_back.holds((*partition, *reader)) {
                let (reader, count) = (*reader, credit.settled);
                requests.push_back((*partition, Request::Credit { reader, count }));
                credit.out = credit.out.saturating_sub(credit.settled);
                credit.settled = 0;
            }
        }
        self.tell_sent();
        if self.outbound.is_due() {
            self.write_progress();
        }
    }

    fn write_progress(&mut self) {
        let effects = self.outbound.take_waiting();
        let progress = self.outbound.progress(&self.identity.client_id, self.identity.epoch);
        let Some((home, progress)) = self.identity.home.zip(progress) else {
            return self.effects.extend(effects);
        };
        let token = (!effects.is_empty()).then(|| self.wait_for(Waiting::Effects(effects)));
        let control = Control::SessionProgress(progress);
        self.requests.push_back((home, Request::Write { token, control: Box::new(control) }));
    }

    fn request(&mut self, to: PartitionId, request: Request) {
        self.requests.push_back((to, request));
    }

    fn wait_for(&mut self, waiting: Waiting) -> Token {
        let token = self.own_token();
        self.waiting.insert(token, waiting);
        token
    }

    fn own_token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token << 1 | 1)
    }
}

/// Tells the protocol's tokens from our own.
fn theirs(token: Token) -> Token {
    Token(token.0 << 1)
}

fn is_ours(token: Token) -> bool {
    token.0 & 1 == 1
}

fn identity_of(client_id: &Bytes) -> u64 {
    publisher_id(client_id)
}
