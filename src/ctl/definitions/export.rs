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
const VHOST: &str = "/";
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

/// Writes down what there is.
pub(super) fn write(standing: &Standing) -> (Value, Vec<String>) {
    let (standing, mut notes) = of_host(standing);
    let mut queues = Vec::new();
    for (name, row) in &standing.queues {
        match queue(name, row) {
            Ok((queue, note)) => {
                queues.push(queue);
                notes.extend(note);
            }
            Err(note) => notes.push(note),
        }
    }
    let exchanges = standing
        .exchanges
        .iter()
        .filter(|(name, _)| ExchangeSettings::predeclared(name.as_bytes()).is_none());
    let exchanges: Vec<Value> = exchanges.map(|(name, row)| exchange(name, row)).collect();
    let written: BTreeSet<&str> =
        queues.iter().filter_map(|queue| queue["name"].as_str()).collect();
    let is_written = |row: &&Value| {
        let destination = row["destination"].as_str().unwrap_or_default();
        row["destination_type"] != json!("queue") || written.contains(destination)
    };
    let bindings: Vec<Value> = standing.bindings.values().filter(is_written).map(binding).collect();
    let none: [Value; 0] = [];
    let definitions = json!({
        "rabbit_version": SHAPE,
        "rabbitmq_version": SHAPE,
        "product_name": "FluxMQ",
        "product_version": env!("CARGO_PKG_VERSION"),
        "vhosts": [{ "name": VHOST }],
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

/// A queue, and what is to be known of it; or why it is not written.
fn queue(name: &str, row: &Value) -> Result<(Value, Option<String>), String> {
    if !row["owner"].is_null() {
        return Err(format!("queue '{name}' is one connection's own, and not written"));
    }
    if name.starts_with(DEAD_LETTERS) {
        return Err(format!("queue '{name}' comes by itself, and is not written"));
    }
    let said = row["settings"].as_object().cloned().unwrap_or_default();
    let settings = queue_json::read(&mut Fields::from(said.clone()))
        .map_err(|error| format!("queue '{name}' is not written: {error}"))?;
    let whole = QueueDefinition::of(&settings);
    let is_whole = whole.is_some();
    let QueueDefinition { durable, auto_delete, arguments } =
        whole.unwrap_or_else(|| QueueDefinition::nearest(&settings));
    let mut queue = json!({
        "name": name, "vhost": VHOST, "durable": durable, "auto_delete": auto_delete, "arguments": arguments
    });
    if is_whole {
        return Ok((queue, None));
    }
    queue["fluxmq"] = Value::Object(said);
    let note =
        format!("queue '{name}' has rules that AMQP cannot say: they are in its field 'fluxmq'");
    Ok((queue, Some(note)))
}

/// What is in the virtual host that is written, by the names that it has there; and notes of what is in others.
fn of_host(standing: &Standing) -> (Standing, Vec<String>) {
    let (mut here, mut notes) = (Standing::default(), Vec::new());
    for (level, row) in &standing.queues {
        match named(level) {
            Some(name) => drop(here.queues.insert(name, row.clone())),
            None => {
                notes.push(format!("queue '{level}' is in another virtual host, and not written"))
            }
        }
    }
    for (level, row) in &standing.exchanges {
        let Some(name) = named(level) else {
            notes.push(format!("exchange '{level}' is in another virtual host, and not written"));
            continue;
        };
        let mut row = row.clone();
        row["alternate"] = json!(row["alternate"].as_str().and_then(named));
        here.exchanges.insert(name, row);
    }
    for row in standing.bindings.values() {
        let mut row = row.clone();
        let names = ["source", "destination"].map(|end| row[end].as_str().and_then(named));
        if let [Some(source), Some(destination)] = names {
            (row["source"], row["destination"]) = (json!(source), json!(destination));
            here.bindings.insert(BindingKey::of(&row), row);
        }
    }
    (here, notes)
}

/// The name of a level of the virtual host that is written; `None` for those of others.
fn named(level: &str) -> Option<String> {
    if level.starts_with(DEAD_LETTERS) {
        return Some(level.to_owned());
    }
    let (host, name) = VirtualHost::of_level(level.as_bytes());
    host.is_default().then(|| String::from_utf8_lossy(&name).into_owned())
}

fn exchange(name: &str, row: &Value) -> Value {
    let mut arguments = Map::new();
    if let Value::String(alternate) = &row["alternate"] {
        arguments.insert("alternate-exchange".to_owned(), json!(alternate));
    }
    json!({
        "name": name, "vhost": VHOST, "type": row["type"], "durable": row["lifetime"] == json!("durable"),
        "auto_delete": row["auto_delete"], "internal": row["internal"], "arguments": arguments
    })
}

fn binding(row: &Value) -> Value {
    json!({
        "source": row["source"], "vhost": VHOST, "destination": row["destination"],
        "destination_type": row["destination_type"], "routing_key": row["routing_key"],
        "arguments": row["arguments"]
    })
}
