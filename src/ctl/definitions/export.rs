//! What there is, in the shape of RabbitMQ's definitions.
//!
//! Queues and exchanges that are the broker's own, or one connection's, are not written, as in RabbitMQ. What AMQP cannot say of a queue is in
//! a field of its own, which RabbitMQ does not look at and our import does.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::standing::{BindingKey, Standing};
use crate::ctl::connection::ConnectionArguments;
use crate::ctl::error::CtlError;
use crate::ctl::manage::Asking;
use crate::model::exchange::ExchangeSettings;
use crate::model::fields::Fields;
use crate::model::{VirtualHost, queue_json};
use crate::protocol::amqp091::definition::QueueDefinition;

/// The release of RabbitMQ whose shape this is.
const SHAPE: &str = "3.13.0";
/// The queues of dead letters that queues have of their own.
const DEAD_LETTERS: &str = "$dlq/";

/// Asks for everything, and writes it down; notes say what is not in it.
pub(super) async fn export(
    connection: &ConnectionArguments,
) -> Result<(Value, Vec<String>), CtlError> {
    let mut asking = Asking::connect(connection).await?;
    let standing = Standing::ask(&mut asking).await?;
    asking.end().await?;
    Ok(write(&standing))
}

/// The objects of the file, section by section.
#[derive(Default)]
struct Written {
    vhosts: Vec<Value>,
    queues: Vec<Value>,
    exchanges: Vec<Value>,
    bindings: Vec<Value>,
    notes: Vec<String>,
}

/// Writes down what there is, one virtual host after the other.
pub(super) fn write(standing: &Standing) -> (Value, Vec<String>) {
    let levels = standing.queues.keys().filter(|level| !level.starts_with(DEAD_LETTERS));
    let levels = levels.chain(standing.exchanges.keys());
    let mut hosts: BTreeSet<VirtualHost> =
        levels.map(|level| VirtualHost::of_level(level.as_bytes()).0).collect();
    hosts.insert(VirtualHost::DEFAULT);
    let mut written = Written::default();
    hosts.iter().for_each(|host| written.add(host, &of_host(standing, host)));
    let Written { vhosts, queues, exchanges, bindings, notes } = written;
    let none: [Value; 0] = [];
    let definitions = json!({
        "rabbit_version": SHAPE,
        "rabbitmq_version": SHAPE,
        "product_name": "FluxMQ",
        "product_version": env!("CARGO_PKG_VERSION"),
        "vhosts": vhosts,
        "users": none,
        "permissions": none,
        "topic_permissions": none,
        "parameters": none,
        "global_parameters": none,
        "policies": none,
        "queues": queues,
        "exchanges": exchanges,
        "bindings": bindings,
    });
    (definitions, notes)
}

impl Written {
    fn add(&mut self, host: &VirtualHost, standing: &Standing) {
        self.vhosts.push(json!({ "name": host.name() }));
        let mut names = BTreeSet::new();
        for (name, row) in &standing.queues {
            match queue((host, name), row) {
                Ok((queue, note)) => {
                    self.queues.push(queue);
                    self.notes.extend(note);
                    names.insert(name.as_str());
                }
                Err(note) => self.notes.push(note),
            }
        }
        let exchanges = standing.exchanges.iter();
        let exchanges = exchanges
            .filter(|(name, _)| ExchangeSettings::predeclared(name.as_bytes()).is_none())
            .map(|(name, row)| exchange((host, name), row));
        self.exchanges.extend(exchanges);
        let is_written = |row: &&Value| {
            let destination = row["destination"].as_str().unwrap_or_default();
            row["destination_type"] != json!("queue") || names.contains(destination)
        };
        let bindings = standing.bindings.values().filter(is_written);
        self.bindings.extend(bindings.map(|row| binding(host, row)));
    }
}

/// A queue, and what is to be known of it; or why it is not written.
fn queue(
    (host, name): (&VirtualHost, &str),
    row: &Value,
) -> Result<(Value, Option<String>), String> {
    if !row["owner"].is_null() {
        return Err(format!("queue '{name}' is one connection's own, and not written"));
    }
    if name.starts_with(DEAD_LETTERS) {
        return Err(format!("queue '{name}' comes by itself, and is not written"));
    }
    let said = row["settings"].as_object().cloned().unwrap_or_default();
    let settings = queue_json::read(&mut Fields::from(said.clone()))
        .map_err(|error| format!("queue '{name}' is not written: {error}"))?;
    let whole = QueueDefinition::of(&settings, host);
    let is_whole = whole.is_some();
    let QueueDefinition { durable, auto_delete, arguments } =
        whole.unwrap_or_else(|| QueueDefinition::nearest(&settings));
    let mut queue = json!({
        "name": name, "vhost": host.name(), "durable": durable, "auto_delete": auto_delete, "arguments": arguments
    });
    if is_whole {
        return Ok((queue, None));
    }
    queue["fluxmq"] = Value::Object(said);
    let note =
        format!("queue '{name}' has rules that AMQP cannot say: they are in its field 'fluxmq'");
    Ok((queue, Some(note)))
}

/// What is in a virtual host, by the names that it has there.
fn of_host(standing: &Standing, host: &VirtualHost) -> Standing {
    let named = |level: &str| named(host, level);
    let mut here = Standing::default();
    for (level, row) in &standing.queues {
        if let Some(name) = named(level) {
            here.queues.insert(name, row.clone());
        }
    }
    for (level, row) in &standing.exchanges {
        if let Some(name) = named(level) {
            let mut row = row.clone();
            row["alternate"] = json!(row["alternate"].as_str().and_then(named));
            here.exchanges.insert(name, row);
        }
    }
    for row in standing.bindings.values() {
        let mut row = row.clone();
        let names = ["source", "destination"].map(|end| row[end].as_str().and_then(named));
        if let [Some(source), Some(destination)] = names {
            (row["source"], row["destination"]) = (json!(source), json!(destination));
            here.bindings.insert(BindingKey::of(&row), row);
        }
    }
    here
}

/// The name of a level of a virtual host; `None` for those of others. What has a level of its own for dead letters is of `/` here.
fn named(host: &VirtualHost, level: &str) -> Option<String> {
    if level.starts_with(DEAD_LETTERS) {
        return host.is_default().then(|| level.to_owned());
    }
    let (of, name) = VirtualHost::of_level(level.as_bytes());
    (of == *host).then(|| String::from_utf8_lossy(&name).into_owned())
}

fn exchange((host, name): (&VirtualHost, &str), row: &Value) -> Value {
    let mut arguments = Map::new();
    if let Value::String(alternate) = &row["alternate"] {
        arguments.insert("alternate-exchange".to_owned(), json!(alternate));
    }
    json!({
        "name": name, "vhost": host.name(), "type": row["type"], "durable": row["lifetime"] == json!("durable"),
        "auto_delete": row["auto_delete"], "internal": row["internal"], "arguments": arguments
    })
}

fn binding(host: &VirtualHost, row: &Value) -> Value {
    json!({
        "source": row["source"], "vhost": host.name(), "destination": row["destination"],
        "destination_type": row["destination_type"], "routing_key": row["routing_key"],
        "arguments": row["arguments"]
    })
}
