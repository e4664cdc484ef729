//! Who the client is: its credentials, an exchange of messages, a check that somebody else runs; and what it may do once that is known.
//!
//! ```text
//! Open ─▶ granted ──────────────────────────────▶ admitted: OpenSession
//!      ├▶ check ─poll_check─▶ handle_verdict ───▶ admitted, or OpenRefused
//!      └▶ Challenge ─Authenticate─▶ check …
//! ```
//!
//! An open connection may go through the exchange again (MQTT 5 §4.12.1): as the same user, or it ends.

use std::sync::Arc;

use bytes::Bytes;

use super::subscribe::Subscribed;
use super::{Client, Phase};
use crate::auth::authority::Challenge;
use crate::auth::{Access, Action, Admission, Authority, Check, Reach, Verified};
use crate::model::address::{SubscribeAddress, exchange_topic};
use crate::model::command::{Credentials, Open};
use crate::model::effect::Recheck;
use crate::model::exchange::is_topics;
use crate::model::queue::{DeadLetterExchange, DeadLetterTarget};
use crate::model::{
    Delivery, DeliverySource, Effect, ExchangeRefusal, Outcome, PeerInfo, Principal, QueueName,
    QueueSettings, Refusal, Topic, TopicPattern, VirtualHost,
};

/// A client that is not admitted yet.
pub(super) struct Admitting {
    open: Open,
    step: Step,
}

/// Where an exchange stands.
pub(super) enum Step {
    /// The client's turn.
    Challenged(Box<Challenge>),
    /// Whoever runs the check.
    Checking,
}

/// What a connection knows of its client's rights.
pub(super) struct Standing {
    pub(super) authority: Arc<Authority>,
    pub(super) principal: Principal,
    pub(super) access: Access,
    /// `None` until it opens.
    peer: Option<Box<PeerInfo>>,
    check: Option<Box<Check>>,
    /// An exchange in an open connection.
    again: Option<Step>,
    /// Names exchanges: the connection's number, and how many it began.
    attempt: [u64; 2],
}

impl Standing {
    /// Knows nothing of a client; `connection` is a number that no other connection of the process has.
    pub(super) fn new(authority: Arc<Authority>, connection: u64) -> Standing {
        Standing {
            authority,
            principal: Principal::ANONYMOUS,
            access: Access::default(),
            peer: None,
            check: None,
            again: None,
            attempt: [connection, 0],
        }
    }

    /// The connection's number.
    pub(super) fn connection(&self) -> u64 {
        self.attempt[0]
    }

    /// The choke point of publishes: wills come here when they are left and when they go out.
    pub(super) fn may_publish(&mut self, topic: &Topic) -> Result<(), Refusal> {
        match self.access.authorize(Action::Publish, topic) {
            true => Ok(()),
            false => Err(Refusal::NotAuthorized),
        }
    }

    /// The choke point of deliveries, whatever path they came (ADR 0021).
    pub(super) fn may_receive(&mut self, topic: &Topic) -> bool {
        self.access.authorize(Action::Receive, topic)
    }

    /// Tells whether a subscription may stand.
    ///
    /// A group's entry goes to one member: one that may not have every entry is none. Anybody else gets what it may have.
    pub(super) fn may_subscribe(&self, address: &SubscribeAddress) -> Result<(), Refusal> {
        let is_refused = match address {
            SubscribeAddress::Filter(filter) | SubscribeAddress::Replay { filter, .. } => {
                self.access.reach(filter.as_str()) == Reach::Nothing
            }
            SubscribeAddress::Queue { filter, .. } | SubscribeAddress::Shared { filter, .. } => {
                self.access.reach(filter.as_str()) != Reach::All
            }
        };
        if is_refused { Err(Refusal::NotAuthorized) } else { Ok(()) }
    }

    /// The choke point of what changes a queue: the right to ask for it below `$management/` (ADR 0051), whatever the protocol.
    pub(super) fn may_manage(&mut self, queue: &QueueName, operation: &str) -> Result<(), Refusal> {
        let address = format!("$management/queue/{queue}/{operation}");
        self.may_publish(&Topic::new(address.into())?)
    }

    /// Tells whether its client may know how much is in a queue: who may read some of it, or ask for it.
    pub(super) fn may_inspect(&mut self, queue: &QueueName) -> Result<(), Refusal> {
        self.may_settle(queue, Reach::Some).or_else(|_| self.may_manage(queue, "inspect"))
    }

    /// Tells whether its client may declare a queue so, or has declared it: whose letters go elsewhere could be read there by others, and who
    /// may not publish somewhere could have letters do so. That needs the right to read the queue, and to publish where they go.
    pub(super) fn may_send_letters(
        &mut self,
        queue: &QueueName,
        settings: &QueueSettings,
    ) -> Result<(), Refusal> {
        match &settings.dead_letters.target {
            DeadLetterTarget::Own | DeadLetterTarget::Nowhere => Ok(()),
            DeadLetterTarget::Queue(target) => {
                self.may_settle(queue, Reach::All)?;
                let by = target.virtual_host().exchange(&Bytes::new())?;
                self.may_publish_by(&by, &Topic::new(target.address().into())?)
            }
            DeadLetterTarget::Exchange(to) => {
                self.may_settle(queue, Reach::All)?;
                self.may_send_letters_by(to)
            }
        }
    }

    /// An exchange would publish each of them, and where their keys are their own that is all that it may get.
    fn may_send_letters_by(&mut self, to: &DeadLetterExchange) -> Result<(), Refusal> {
        let DeadLetterExchange { exchange, routing_key } = to;
        let (host, name) = VirtualHost::of_level(exchange);
        let Some(key) = routing_key else {
            let filter = if name.is_empty() {
                "$queue/#".to_owned()
            } else if is_topics(exchange) {
                format!("{}#", String::from_utf8_lossy(&host.topic_prefix()))
            } else {
                format!("{}/#", exchange_topic(&QueueName::new(exchange.clone())?, b""))
            };
            return match self.access.reach_to(Action::Publish, &filter) {
                Reach::All => Ok(()),
                Reach::Some | Reach::Nothing => Err(ExchangeRefusal::forbidden(exchange)),
            };
        };
        let topic = if name.is_empty() {
            // What is no name is no queue's: nobody gets them.
            let Ok(queue) = host.queue(key) else { return Ok(()) };
            Topic::new(queue.address().into())?
        } else if is_topics(exchange) {
            host.topic(TopicPattern::key_of(key))?
        } else {
            exchange_topic(&QueueName::new(exchange.clone())?, key)
        };
        self.may_publish_by(exchange, &topic)
    }

    /// Tells whether its client may publish by an exchange, which is what it is told where it may not.
    pub(super) fn may_publish_by(&mut self, exchange: &[u8], topic: &Topic) -> Result<(), Refusal> {
        self.may_publish(topic).map_err(|_| ExchangeRefusal::forbidden(exchange))
    }

    /// Tells whether its client may have its names in a virtual host.
    pub(super) fn may_enter(&self, host: &VirtualHost) -> Result<(), Refusal> {
        if self.access.may_enter(host) { Ok(()) } else { Err(Refusal::NotAuthorized) }
    }

    /// How much of a queue its client may read: some is needed to settle, all to move a group.
    pub(super) fn may_settle(&self, queue: &QueueName, needed: Reach) -> Result<(), Refusal> {
        match (self.access.reach(queue.filter().as_str()), needed) {
            (Reach::All, _) | (Reach::Some, Reach::Some) => Ok(()),
            _ => Err(Refusal::NotAuthorized),
        }
    }
}

impl Client {
    pub(super) fn admit(&mut self, open: Open) {
        let attempt = self.next_attempt();
        let admission = self.standing.authority.admit(&open.peer, &open.credentials, attempt);
        self.standing.peer = Some(open.peer.clone());
        match admission {
            Admission::Granted(principal) => self.admitted(open, principal),
            Admission::Refused(refusal) => self.refuse_open(refusal),
            Admission::Check(check) => {
                self.standing.check = Some(check);
                self.phase = Phase::Admitting(Box::new(Admitting { open, step: Step::Checking }));
            }
            Admission::Challenge(challenge) => {
                self.effects.push_back(Effect::Challenge { message: challenge.message() });
                let step = Step::Challenged(challenge);
                self.phase = Phase::Admitting(Box::new(Admitting { open, step }));
            }
        }
    }

    /// Takes a message of an exchange: of the one that the client's CONNECT began, or of another in an open connection.
    pub(super) fn authenticate(&mut self, method: &[u8], message: Bytes) {
        let is_open = matches!(self.phase, Phase::Open);
        let step = match &mut self.phase {
            Phase::Admitting(admitting) => Some(&mut admitting.step),
            Phase::Open => self.standing.again.as_mut(),
            _ => return,
        };
        if let Some(step) = step {
            if let Step::Challenged(challenge) = std::mem::replace(step, Step::Checking) {
                self.standing.check = Some(Box::new(challenge.answered(message)));
            }
        } else if is_open {
            let attempt = self.next_attempt();
            let step = match self.standing.authority.begin(method, &message, attempt) {
                Admission::Challenge(challenge) => {
                    self.effects.push_back(Effect::Challenge { message: challenge.message() });
                    Step::Challenged(challenge)
                }
                Admission::Check(check) => {
                    self.standing.check = Some(check);
                    Step::Checking
                }
                Admission::Refused(refusal) => {
                    return self.effects.push_back(Effect::Expelled(refusal));
                }
                Admission::Granted(_) => unreachable!("an exchange is never over when it begins"),
            };
            self.standing.again = Some(step);
        }
    }

    /// Checks what an open connection says of its user once more.
    pub(super) fn renew(&mut self, credentials: &Credentials) {
        let attempt = self.next_attempt();
        let Some(peer) = self.standing.peer.as_ref().filter(|_| matches!(self.phase, Phase::Open))
        else {
            return;
        };
        match self.standing.authority.admit(peer, credentials, attempt) {
            Admission::Granted(principal) => self.renewed(Ok(Verified { principal, last: None })),
            Admission::Check(check) => {
                self.standing.check = Some(check);
                self.standing.again = Some(Step::Checking);
            }
            Admission::Challenge(_) => self.renewed(Err(Refusal::AuthenticationMethod)),
            Admission::Refused(refusal) => self.renewed(Err(refusal)),
        }
    }

    /// Who an open connection says it is must be who it was.
    fn renewed(&mut self, verdict: Result<Verified, Refusal>) {
        let effect = match verdict {
            Err(refusal) => Effect::Expelled(refusal),
            Ok(Verified { principal, .. }) if principal != self.standing.principal => {
                Effect::Expelled(Refusal::NotAuthorized)
            }
            Ok(Verified { last, .. }) => Effect::Authenticated { last: last.unwrap_or_default() },
        };
        self.effects.push_back(effect);
    }

    /// The next check that somebody is to run, one at a time; its result comes with [`handle_verdict`](Client::handle_verdict).
    pub fn poll_check(&mut self) -> Option<Box<Check>> {
        self.standing.check.take()
    }

    /// Takes what became of a check.
    pub fn handle_verdict(&mut self, verdict: Result<Verified, Refusal>) {
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Admitting(admitting) => match verdict {
                Err(refusal) => self.refuse_open(refusal),
                Ok(Verified { principal, last }) => {
                    if let Some(last) = last {
                        self.effects.push_back(Effect::Authenticated { last });
                    }
                    self.admitted(admitting.open, principal);
                }
            },
            Phase::Open if self.standing.again.take().is_some() => {
                self.phase = Phase::Open;
                self.renewed(verdict);
            }
            other => self.phase = other,
        }
    }

    /// Takes new rules: they hold for everything that is not delivered or stored yet. Who would not be admitted any more is out.
    pub fn handle_authority(&mut self, authority: Arc<Authority>) {
        let before = std::mem::replace(&mut self.standing.authority, authority);
        if !matches!(self.phase, Phase::Opening(_) | Phase::Open) {
            return;
        }
        let Standing { authority, principal, peer, .. } = &self.standing;
        let is_kept = peer.as_ref().is_some_and(|peer| authority.keeps(&before, peer, principal));
        let rights = authority.rights(principal, &self.identity.client_id);
        self.standing.access = Access::new(rights.clone());
        if !is_kept {
            return self.effects.push_back(Effect::Expelled(Refusal::NotAuthorized));
        }
        self.leave_forbidden_groups();
        if let Some(rights) = rights {
            let recheck = Recheck::new(move |topic| rights.authorize(Action::Receive, topic));
            self.effects.push_back(Effect::RightsChanged(recheck));
        }
    }

    /// Who the client is; anonymous before it is admitted.
    pub fn principal(&self) -> &Principal {
        &self.standing.principal
    }

    fn admitted(&mut self, open: Open, principal: Principal) {
        let rights = self.standing.authority.rights(&principal, &open.client_id);
        self.standing.access = Access::new(rights);
        self.standing.principal = principal;
        // Known now, it is better said now than never.
        let will = open.will.as_ref().map(|will| self.standing.may_publish(&will.message.topic));
        match will {
            Some(Err(refusal)) => self.refuse_open(refusal),
            Some(Ok(())) | None => self.open(open),
        }
    }

    fn refuse_open(&mut self, refusal: Refusal) {
        self.phase = Phase::Done;
        self.effects.push_back(Effect::OpenRefused(refusal));
    }

    fn next_attempt(&mut self) -> [u64; 2] {
        self.standing.attempt[1] += 1;
        self.standing.attempt
    }

    /// A delivery that its client may not have is over, unless it is a group's: then the client is no member any more.
    pub(super) fn withhold(&mut self, delivery: &Delivery) {
        match delivery.id.source {
            DeliverySource::Live => {}
            DeliverySource::Reader(_) | DeliverySource::Retained(..) => {
                self.settle(delivery.id, Outcome::Accepted);
            }
            DeliverySource::Group(membership) => self.end_consumer(membership),
        }
    }

    fn leave_forbidden_groups(&mut self) {
        let mut forbidden: Vec<u32> = Vec::new();
        for (filter, subscribed) in &self.subscriptions {
            let Subscribed::Group(membership) = subscribed else { continue };
            let address = SubscribeAddress::of(filter);
            if address.is_ok_and(|address| self.standing.may_subscribe(&address).is_err()) {
                forbidden.push(*membership);
            }
        }
        forbidden.extend(self.forbidden_consumers());
        forbidden.sort_unstable();
        forbidden.into_iter().for_each(|membership| self.end_consumer(membership));
    }
}
