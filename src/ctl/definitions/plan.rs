//! What is to be done about a file: for each object what it comes to, and what to ask of the broker for it, in the order that works.
//!
//! Pure: the file and what the broker has in, entries and requests out.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::file::{Binding, Definitions, Exchange, Queue};
use super::policy::{self, Applied};
use super::report::{Entry, Outcome};
use super::standing::{BindingKey, Standing, differences};
use crate::model::exchange::{ExchangeId, ExchangeSettings};
use crate::model::fields::Fields;
use crate::model::{AddressError, ExchangeKind, VirtualHost, queue_json};
use crate::protocol::amqp091::definition::QueueDefinition;

/// The argument of an exchange that is looked at.
const ALTERNATE: &str = "alternate-exchange";

/// One object: what it comes to, if what is asked for is done.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) entry: Entry,
    /// Address and body.
    pub(super) request: Option<(String, Value)>,
}

/// Finds out what is to be done. Sections of `without` are left out.
pub(super) fn plan(
    mut definitions: Definitions,
    standing: &Standing,
    without: &[String],
) -> Vec<Step> {
    let mut steps = Vec::new();
    let is_without = |section: &str| without.iter().any(|it| it == section);
    for (section, objects) in std::mem::take(&mut definitions.rest) {
        let skipped = is_without(&section);
        steps.extend(objects.iter().map(|object| Step::of(rest(&section, object, skipped))));
    }
    if is_without("policies") {
        let policies = definitions.policies.drain(..);
        steps.extend(policies.map(|it| Step::of(Entry::new("policy", it.name, Outcome::Skipped))));
    }
    let Applied { entries, queue_notes, exchange_notes } = policy::apply(&mut definitions);
    steps.extend(entries.into_iter().map(Step::of));
    let kept = |section: &str, step: Step| match is_without(section) {
        false => step,
        true => Step::of(Entry::new(&step.entry.kind, step.entry.name, Outcome::Skipped)),
    };
    for (it, notes) in definitions.exchanges.iter().zip(exchange_notes) {
        steps.push(kept("exchanges", exchange(it, notes, standing)));
    }
    for (it, notes) in definitions.queues.iter().zip(queue_notes) {
        steps.push(kept("queues", queue(it, notes, standing)));
    }
    // What exchanges get of one another first: nothing that is published meanwhile stops half way.
    let (of_exchanges, of_queues): (Vec<_>, Vec<_>) =
        definitions.bindings.iter().partition(|it| it.destination_type == "exchange");
    for it in of_exchanges.into_iter().chain(of_queues) {
        steps.push(kept("bindings", binding(it, standing)));
    }
    steps
}

impl Step {
    fn of(entry: Entry) -> Step {
        Step { entry, request: None }
    }

    fn left(kind: &str, name: impl Into<String>, why: impl Into<String>) -> Step {
        Step::of(Entry::new(kind, name, Outcome::Left(why.into())))
    }
}

/// The level of addresses that stands for a queue, or for an exchange.
fn queue_level(host: &VirtualHost, name: &str) -> Result<String, AddressError> {
    Ok(host.queue(&Bytes::copy_from_slice(name.as_bytes()))?.as_str().to_owned())
}

fn exchange_level(host: &VirtualHost, name: &str) -> Result<String, AddressError> {
    let level = host.exchange(&Bytes::copy_from_slice(name.as_bytes()))?;
    Ok(String::from_utf8_lossy(&level).into_owned())
}

/// The virtual host of an object, `/` where it says none, and what the report calls the object.
fn placed(
    kind: &str,
    vhost: Option<&String>,
    name: &str,
) -> Result<(VirtualHost, String), Box<Step>> {
    let host = vhost.map_or(Ok(VirtualHost::DEFAULT), |vhost| VirtualHost::new(vhost.as_bytes()));
    match host {
        Ok(host) if host.is_default() => Ok((host, name.to_owned())),
        Ok(host) => {
            let label = format!("{name} in {host}");
            Ok((host, label))
        }
        Err(error) => Err(Box::new(Step::left(kind, name, error.to_string()))),
    }
}

/// What is in the sections that nothing is made of.
fn rest(section: &str, object: &Value, skipped: bool) -> Entry {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    if section == "vhosts" && !skipped {
        return vhost(text("name"));
    }
    let (kind, name, why) = match section {
        "vhosts" => ("vhost", text("name"), "it is left out"),
        "users" => (
            "user",
            text("name"),
            "password hashes of RabbitMQ are of no use here: add the user with 'mqttctl users add'",
        ),
        "permissions" => (
            "permissions",
            format!("{} in {}", text("user"), text("vhost")),
            "say in the access list what the user may do (authorization.acl_file)",
        ),
        "topic_permissions" => (
            "topic permissions",
            format!("{} in {}", text("user"), text("vhost")),
            "say in the access list what the user may do (authorization.acl_file)",
        ),
        "parameters" => (
            "parameter",
            format!("{}/{}", text("component"), text("name")),
            "there are no runtime parameters here: neither shovels nor federation",
        ),
        "global_parameters" => {
            ("global parameter", text("name"), "there are no runtime parameters here")
        }
        section => (section, text("name"), "nobody here knows this section"),
    };
    let outcome = if skipped { Outcome::Skipped } else { Outcome::Left(why.to_owned()) };
    Entry::new(kind, name, outcome)
}

/// A name space, which is there as soon as something has a name in it.
fn vhost(name: String) -> Entry {
    let note = "clients can open it where the broker's configuration names it (virtual_hosts)";
    let is_always_open = name == VirtualHost::DEFAULT.name();
    let notes = if is_always_open { Vec::new() } else { vec![note.to_owned()] };
    Entry { notes, ..Entry::new("vhost", name, Outcome::There) }
}

fn exchange(it: &Exchange, mut notes: Vec<String>, standing: &Standing) -> Step {
    const KIND: &str = "exchange";
    let (host, label) = match placed(KIND, it.vhost.as_ref(), &it.name) {
        Ok(placed) => placed,
        Err(left) => return *left,
    };
    if ExchangeKind::from_name(it.kind.as_bytes()).is_none() {
        let why =
            format!("its type is '{}', and there are direct, fanout, topic and headers", it.kind);
        return Step::left(KIND, label, why);
    }
    let level = match exchange_level(&host, &it.name) {
        Ok(level) => level,
        Err(error) => return Step::left(KIND, label, error.to_string()),
    };
    let alternate = match it.arguments.get(ALTERNATE) {
        None => None,
        Some(Value::String(name)) => exchange_level(&host, name).ok(),
        Some(_) => return Step::left(KIND, label, format!("its '{ALTERNATE}' is no name")),
    };
    let unknown = it.arguments.keys().filter(|name| *name != ALTERNATE);
    notes.extend(unknown.map(|name| format!("argument '{name}' means nothing here")));
    let lifetime = if it.durable { "durable" } else { "transient" };
    let body = json!({
        "type": it.kind, "lifetime": lifetime, "auto_delete": it.auto_delete, "internal": it.internal,
        "alternate": alternate
    });
    let is_own = ExchangeSettings::predeclared(it.name.as_bytes()).is_some();
    let outcome = match standing.exchanges.get(&level) {
        Some(there) => {
            let fields = body.as_object().cloned().unwrap_or_default();
            let said = there.as_object().into_iter().flatten();
            let there = said.filter(|(field, _)| fields.contains_key(*field));
            let there = there.map(|(field, value)| (field.clone(), value.clone())).collect();
            found(&differences(&fields, &there))
        }
        None if !is_own && ExchangeId::is_reserved(it.name.as_bytes()) => {
            let why = "names of the broker's own begin like this".to_owned();
            return Step::left(KIND, label, why);
        }
        None => Outcome::Made,
    };
    let request = (outcome == Outcome::Made).then(|| (format!("exchange/{level}/declare"), body));
    Step { entry: Entry { notes, ..Entry::new(KIND, label, outcome) }, request }
}

fn found(differences: &[String]) -> Outcome {
    match differences.is_empty() {
        true => Outcome::There,
        false => Outcome::Differs(differences.to_vec()),
    }
}

fn queue(it: &Queue, mut notes: Vec<String>, standing: &Standing) -> Step {
    const KIND: &str = "queue";
    let (host, label) = match placed(KIND, it.vhost.as_ref(), &it.name) {
        Ok(placed) => placed,
        Err(left) => return *left,
    };
    let level = queue_level(&host, &it.name).map_err(|error| error.to_string());
    let settings = |level| Ok((level, settings_of(it, &host, &mut notes)?));
    let (level, body) = match level.and_then(settings) {
        Ok(both) => both,
        Err(why) => return Step::left(KIND, label, why),
    };
    let outcome = match standing.queues.get(&level) {
        Some(there) if !there["owner"].is_null() => {
            let owner = &there["owner"];
            Outcome::Differs(vec![format!("it is connection {owner}'s own here")])
        }
        Some(there) => {
            found(&differences(&body, &there["settings"].as_object().cloned().unwrap_or_default()))
        }
        None => Outcome::Made,
    };
    let request =
        (outcome == Outcome::Made).then(|| (format!("queue/{level}/declare"), Value::Object(body)));
    Step { entry: Entry { notes, ..Entry::new(KIND, label, outcome) }, request }
}

/// What a queue of the file is, as its declaration has it; notes say what of it is not taken as it is.
fn settings_of(
    it: &Queue,
    host: &VirtualHost,
    notes: &mut Vec<String>,
) -> Result<Map<String, Value>, String> {
    if let Some(own) = &it.fluxmq {
        let mut fields = Fields::from(own.clone());
        let settings = queue_json::read(&mut fields).map_err(|error| error.to_string())?;
        fields.finish().map_err(|error| error.to_string())?;
        return Ok(queue_json::write(&settings));
    }
    let mut arguments = it.arguments.clone();
    if let Some(kind) = it.kind() {
        arguments.insert("x-queue-type".to_owned(), json!(kind));
    }
    let said = QueueDefinition { durable: it.durable, auto_delete: it.auto_delete, arguments };
    let settings = said.settings(&it.name, host).map_err(|error| error.to_string())?;
    let unknown: Vec<&str> = said.unknown_arguments().collect();
    notes.extend(unknown.iter().map(|name| format!("argument '{name}' means nothing here")));
    let taken = QueueDefinition::nearest(&settings).arguments;
    for (name, value) in said.arguments.iter().filter(|(name, _)| !unknown.contains(&&***name)) {
        match taken.get(name) {
            Some(taken) if taken == value => {}
            Some(taken) => notes.push(format!("{name} is {value}, and is taken as {taken}")),
            // What RabbitMQ has without being told.
            None if is_default(name, value) => {}
            None => notes.push(format!("{name} is {value}, which is nothing here")),
        }
    }
    Ok(queue_json::write(&settings))
}

fn is_default(name: &str, value: &Value) -> bool {
    let said = match name {
        "x-queue-type" => json!("classic"),
        "x-overflow" => json!("drop-head"),
        "x-single-active-consumer" => json!(false),
        "x-max-priority" => json!(0),
        _ => return false,
    };
    *value == said
}

fn binding(it: &Binding, standing: &Standing) -> Step {
    const KIND: &str = "binding";
    let Binding { source, destination, destination_type, routing_key, arguments, .. } = it;
    let mut name = format!("{source} -> {destination_type} {destination}");
    if !routing_key.is_empty() {
        name.push_str(&format!(" by {routing_key}"));
    }
    if !arguments.is_empty() {
        name.push_str(&format!(" with {}", Value::Object(arguments.clone())));
    }
    let (host, name) = match placed(KIND, it.vhost.as_ref(), &name) {
        Ok(placed) => placed,
        Err(left) => return *left,
    };
    if source.is_empty() {
        let why = "every queue is bound to the default exchange by its name, and by nothing else";
        let is_own = destination_type == "queue" && routing_key == destination;
        let outcome = if is_own { Outcome::There } else { Outcome::Left(why.to_owned()) };
        return Step::of(Entry::new(KIND, name, outcome));
    }
    if !matches!(destination_type.as_str(), "queue" | "exchange") {
        return Step::left(KIND, name, "queues and exchanges are bound, and nothing else");
    }
    let to = match destination_type.as_str() {
        "queue" => queue_level(&host, destination),
        _ => exchange_level(&host, destination),
    };
    let (source, destination) = match (exchange_level(&host, source), to) {
        (Ok(source), Ok(to)) => (source, to),
        (Err(error), _) | (_, Err(error)) => return Step::left(KIND, name, error.to_string()),
    };
    let body = json!({ "source": source, "routing_key": routing_key, "arguments": arguments });
    let key = BindingKey {
        source,
        destination_type: destination_type.clone(),
        destination: destination.clone(),
        routing_key: routing_key.clone(),
        arguments: body["arguments"].to_string(),
    };
    if standing.bindings.contains_key(&key) {
        return Step::of(Entry::new(KIND, name, Outcome::There));
    }
    let address = format!("{destination_type}/{destination}/bind");
    Step { entry: Entry::new(KIND, name, Outcome::Made), request: Some((address, body)) }
}
