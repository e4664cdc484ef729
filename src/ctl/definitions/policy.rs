//! RabbitMQ's policies, applied once: each queue and exchange of a file has the arguments that its policy gives it.
//!
//! Of the policies that match one, that of the highest priority counts, alone. Where it and an argument say how much, the lower number counts;
//! otherwise the argument does. So RabbitMQ has it ("Policies", "How to Define Operator Policies"). What is declared later knows of no policy.

use regex::bytes::RegexBuilder;
use serde_json::{Map, Value};

use super::file::{Definitions, Exchange, Policy, Queue};
use super::report::{Entry, Outcome};

/// Keys that say the same as an argument, and whether the lower of both counts.
const OF_QUEUES: [(&str, &str, bool); 9] = [
    ("message-ttl", "x-message-ttl", true),
    ("expires", "x-expires", true),
    ("max-length", "x-max-length", true),
    ("max-length-bytes", "x-max-length-bytes", true),
    ("delivery-limit", "x-delivery-limit", true),
    ("max-age", "x-max-age", false),
    ("overflow", "x-overflow", false),
    ("dead-letter-exchange", "x-dead-letter-exchange", false),
    ("dead-letter-routing-key", "x-dead-letter-routing-key", false),
];
/// Those of them that streams have: as in RabbitMQ, the others leave a stream as it is.
const OF_STREAMS: [&str; 2] = ["max-length-bytes", "max-age"];
const OF_EXCHANGES: [(&str, &str, bool); 1] = [("alternate-exchange", "alternate-exchange", false)];

/// Notes of which policy gave what, for each queue and exchange of the file, in its order.
pub(super) struct Applied {
    pub(super) entries: Vec<Entry>,
    pub(super) queue_notes: Vec<Vec<String>>,
    pub(super) exchange_notes: Vec<Vec<String>>,
}

/// What a policy may be applied to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exchange,
    Queue(&'static str),
}

struct Ready {
    policy: Policy,
    pattern: Result<regex::bytes::Regex, String>,
    queues: usize,
    exchanges: usize,
}

/// Applies the policies of a file to what else is in it.
pub(super) fn apply(definitions: &mut Definitions) -> Applied {
    let mut ready: Vec<Ready> = definitions.policies.drain(..).map(Ready::new).collect();
    let mut queue_notes = Vec::new();
    for queue in &mut definitions.queues {
        let (name, kind) = (queue.name.clone(), Kind::Queue(kind_of(queue)));
        let found = best(&mut ready, (&name, queue.vhost.as_deref()), kind);
        let notes = found.map_or_else(Vec::new, |found| {
            found.queues += 1;
            match kind {
                Kind::Queue("streams") => merge_stream(&found.policy, &mut queue.arguments),
                _ => merge(&found.policy, &OF_QUEUES, &mut queue.arguments),
            }
        });
        queue_notes.push(notes);
    }
    let mut exchange_notes = Vec::new();
    for exchange in &mut definitions.exchanges {
        let Exchange { name, vhost, arguments, .. } = exchange;
        let found = best(&mut ready, (name, vhost.as_deref()), Kind::Exchange);
        let notes = found.map_or_else(Vec::new, |found| {
            found.exchanges += 1;
            merge(&found.policy, &OF_EXCHANGES, arguments)
        });
        exchange_notes.push(notes);
    }
    Applied { entries: ready.iter().map(Ready::entry).collect(), queue_notes, exchange_notes }
}

fn kind_of(queue: &Queue) -> &'static str {
    match queue.kind() {
        Some("quorum") => "quorum_queues",
        Some("stream") => "streams",
        _ => "classic_queues",
    }
}

/// The policy that counts for one of this name.
fn best<'a>(
    ready: &'a mut [Ready],
    named: (&str, Option<&str>),
    kind: Kind,
) -> Option<&'a mut Ready> {
    let matching = ready.iter_mut().filter(|it| it.matches(named, kind));
    matching.reduce(|best, it| if it.policy.priority > best.policy.priority { it } else { best })
}

/// Gives an object what its policy says.
fn merge(
    policy: &Policy,
    known: &[(&str, &str, bool)],
    arguments: &mut Map<String, Value>,
) -> Vec<String> {
    let mut notes = Vec::new();
    for (key, argument, is_lower) in known {
        let Some(value) = policy.definition.get(*key) else { continue };
        let counts = match arguments.get(*argument) {
            None => true,
            Some(said) => *is_lower && value.as_f64() < said.as_f64(),
        };
        if counts {
            notes.push(format!("policy '{}' gives it {argument} = {value}", policy.name));
            arguments.insert((*argument).to_owned(), value.clone());
        }
    }
    notes
}

/// The same of a stream.
fn merge_stream(policy: &Policy, arguments: &mut Map<String, Value>) -> Vec<String> {
    let (taken, left): (Vec<_>, Vec<_>) =
        OF_QUEUES.into_iter().partition(|(key, ..)| OF_STREAMS.contains(key));
    let left = left.into_iter().filter(|(key, ..)| policy.definition.contains_key(*key));
    let mut notes: Vec<String> = left
        .map(|(key, ..)| format!("policy '{}' says {key}, which streams have not", policy.name))
        .collect();
    notes.extend(merge(policy, &taken, arguments));
    notes
}

impl Queue {
    /// The queue's type, if it says one.
    pub(super) fn kind(&self) -> Option<&str> {
        let argument = self.arguments.get("x-queue-type").and_then(Value::as_str);
        argument.or(self.kind.as_deref())
    }
}

impl Ready {
    fn new(policy: Policy) -> Ready {
        let pattern = RegexBuilder::new(&policy.pattern).unicode(false).build();
        let pattern = pattern.map_err(|error| error.to_string().replace('\n', " "));
        Ready { policy, pattern, queues: 0, exchanges: 0 }
    }

    fn matches(&self, (name, vhost): (&str, Option<&str>), kind: Kind) -> bool {
        let is_kind = match (self.policy.apply_to.as_str(), kind) {
            ("all", _) => true,
            ("queues", Kind::Queue(_)) | ("exchanges", Kind::Exchange) => true,
            (apply_to, Kind::Queue(kind)) => apply_to == kind,
            (_, Kind::Exchange) => false,
        };
        let is_match = |pattern: &regex::bytes::Regex| pattern.is_match(name.as_bytes());
        is_kind
            && self.policy.vhost.as_deref() == vhost
            && self.pattern.as_ref().is_ok_and(is_match)
    }

    fn entry(&self) -> Entry {
        let Policy { name, definition, pattern, .. } = &self.policy;
        let known = OF_QUEUES.iter().chain(&OF_EXCHANGES);
        let known: Vec<&str> = known.map(|(key, ..)| *key).collect();
        let unknown = definition.keys().map(String::as_str).filter(|key| !known.contains(key));
        let unknown: Vec<&str> = unknown.collect();
        let (queues, exchanges) = (self.queues, self.exchanges);
        let applied = format!(
            "to {queues} queues and {exchanges} exchanges of the file; what is declared later does not get it"
        );
        let outcome = match &self.pattern {
            Err(error) => {
                Outcome::Left(format!("its pattern '{pattern}' cannot be understood here: {error}"))
            }
            Ok(_) if !unknown.is_empty() => Outcome::Left(format!(
                "there is nothing like {} here; the rest of it is applied {applied}",
                unknown.join(", ")
            )),
            Ok(_) => Outcome::Applied(applied),
        };
        Entry::new("policy", name, outcome)
    }
}
