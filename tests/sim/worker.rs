//! A worker: a client that reads a declared queue and says of each entry what becomes of it, late, wrongly or not at all.

use bytes::Bytes;
use fluxmq::client::{Incoming, PublishRequest};
use fluxmq::model::QoS;
use fluxmq::protocol::mqtt::ReasonCode;
use fluxmq::protocol::mqtt::property::{Property, PropertyList};

use crate::client::Role;
use crate::coverage::Point;
use crate::history::{EntryName, Verb};
use crate::plan::SECOND;
use crate::random::Random;
use crate::world::World;

/// Set in the tokens of verbs: all others are of messages.
const VERB: u64 = 1 << 63;

/// An entry that a worker works on.
#[derive(Clone, Debug)]
pub struct Task {
    pub name: EntryName,
    /// Not settled before.
    pub until: u64,
}

/// A verb that is not answered.
#[derive(Clone, Debug)]
pub struct Said {
    verb: Verb,
    name: EntryName,
    at: u64,
}

/// Returns true for the token of a verb.
pub fn is_verb(token: u64) -> bool {
    token & VERB != 0
}

/// Reads which entry of a queue a delivery is.
pub fn entry_of(incoming: &Incoming) -> Option<EntryName> {
    EntryName::from_properties(|name| {
        let value = incoming.properties.user(name.as_bytes())?;
        Some(String::from_utf8_lossy(&value).into_owned())
    })
}

/// Whether a delivery has the topic that its message was published to: behind the address of its queue, where a binding captured it.
pub fn is_topic_of(published: &str, delivered: &str, is_entry: bool) -> bool {
    delivered == published || is_entry && delivered.ends_with(&format!("/{published}"))
}

/// What a publish says beside its message: to a queue with rules now and then, that it is to wait; and how urgent it is.
pub fn told_with(topic: &str, has_priorities: bool, random: &mut Random) -> PropertyList {
    let user = |name: &'static str, value: u64| {
        Property::User(Bytes::from_static(name.as_bytes()), Bytes::from(value.to_string()))
    };
    let may_wait = topic.starts_with("$queue/w") && random.chance(100);
    let delay = may_wait.then(|| user("x-delay", random.between(200, 3_000)));
    let says = has_priorities && random.chance(700);
    let priority = says.then(|| user("x-priority", random.below(10)));
    delay.into_iter().chain(priority).collect()
}

/// What a worker does about an entry; `None` is nothing, until its time is over.
fn decide(random: &mut Random) -> Option<Verb> {
    match random.below(100) {
        0..68 => Some(Verb::Ack),
        68..78 => Some(Verb::Nack(None)),
        78..86 => Some(Verb::Nack(Some(random.between(100, 2_000)))),
        86..93 => Some(Verb::Reject),
        _ => None,
    }
}

fn request(name: &EntryName, verb: Verb) -> PublishRequest {
    let user = |key: &'static str, value: String| {
        Property::User(Bytes::from_static(key.as_bytes()), Bytes::from(value))
    };
    let (word, delay) = match verb {
        Verb::Ack => ("$ack", None),
        Verb::Nack(delay) => ("$nack", delay),
        Verb::Reject => ("$reject", None),
    };
    let named = [user("message-id", name.message_id()), user("group-id", name.group.clone())];
    let delay = delay.map(|delay| user("x-delay", delay.to_string()));
    PublishRequest {
        topic: Bytes::from(format!("$queue/{}/{word}", name.queue)),
        qos: QoS::AtLeastOnce,
        properties: named.into_iter().chain(delay).collect(),
        ..PublishRequest::default()
    }
}

impl World {
    /// Returns true when a queue with rules is not declared yet: its first use would declare it without.
    pub fn is_undeclared(&self, address: &str) -> bool {
        let name = address.strip_prefix("$queue/").and_then(|rest| rest.split('/').next());
        let declared = self.plan.declared.iter().position(|it| Some(it.name.as_str()) == name);
        declared.is_some_and(|queue| self.admin.since[queue].is_none())
    }

    /// What a subscription to a queue says beside its filter.
    pub fn subscription_properties(&self, client: usize) -> PropertyList {
        let user = |key: &'static str, value: &str| {
            Property::User(Bytes::from_static(key.as_bytes()), Bytes::from(value.to_owned()))
        };
        match &self.clients[client].role {
            Role::Consumer { .. } => [user("consumer-group", "g")].into_iter().collect(),
            Role::Worker { group, is_explicit: true, .. } => {
                [user("consumer-group", group), user("settle", "explicit")].into_iter().collect()
            }
            Role::Worker { group, .. } => [user("consumer-group", group)].into_iter().collect(),
            Role::Publisher { .. } | Role::Subscriber { .. } | Role::Replayer { .. } => {
                PropertyList::default()
            }
        }
    }

    /// A worker that settles by verbs has been handed an entry.
    pub fn take_task(&mut self, client: usize, name: EntryName) {
        let it = &mut self.clients[client];
        let wait = if it.random.chance(150) { it.random.below(4 * SECOND) } else { 0 };
        it.tasks.push(Task { name, until: self.now + wait });
    }

    /// Settles what is due, as far as the window goes.
    pub fn work(&mut self, client: usize) {
        let mut kept = Vec::new();
        for task in std::mem::take(&mut self.clients[client].tasks) {
            let it = &mut self.clients[client];
            let Some(machine) = it.machine.as_mut().filter(|machine| machine.window() > 0) else {
                kept.push(task);
                continue;
            };
            if task.until > self.now && !self.resting {
                kept.push(task);
                continue;
            }
            let is_stream = self.queues.is_stream(&task.name);
            let verb = match self.resting {
                true => Some(Verb::Ack),
                // What a stream's reader says nothing of it has for as long as it is there.
                false => decide(&mut it.random).or(is_stream.then_some(Verb::Nack(None))),
            };
            let Some(verb) = verb else { continue };
            it.next += 1;
            let token = VERB | it.next;
            if machine.publish(token, &request(&task.name, verb)).is_err() {
                kept.push(task);
                continue;
            }
            it.verbs.insert(token, Said { verb, name: task.name.clone(), at: self.now });
            self.queues.say(&task.name, verb, self.now);
            self.trace.note(self.now, "verb", &[client as u64, token], || {
                format!("{} {verb:?} {:?}", self.clients[client].name, task.name)
            });
        }
        self.clients[client].tasks = kept;
    }

    /// The broker has answered a verb.
    pub fn settled(&mut self, client: usize, token: u64, reason: ReasonCode) {
        let Some(said) = self.clients[client].verbs.remove(&token) else { return };
        let Said { verb, name, at } = said;
        self.queues.answered(&name, at, self.now);
        self.trace.note(self.now, "settled", &[client as u64, token, u64::from(reason.0)], || {
            format!("{} {verb:?} {name:?} {reason:?}", self.clients[client].name)
        });
        self.coverage.hit(match (reason, verb) {
            (ReasonCode::SUCCESS, Verb::Ack) => Point::EntryAcked,
            (ReasonCode::SUCCESS, Verb::Nack(_)) => Point::EntryNacked,
            (ReasonCode::SUCCESS, Verb::Reject) => Point::EntryRejected,
            (ReasonCode::NO_MATCHING_SUBSCRIBERS, _) => Point::EntryNotPending,
            _ => Point::VerbRefused,
        });
        if reason == ReasonCode::SUCCESS {
            let found = self.queues.confirmed(&name, verb);
            self.accept(found);
        }
    }
}
