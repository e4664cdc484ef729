//! Exchanges and bindings, as administrators ask for them and are shown them.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Asked, BindingsFrom, Page, text};
use crate::model::exchange::TOPIC_EXCHANGE;
use crate::model::fields::{Fields, invalid};
use crate::model::{
    Bind, Destination, ExchangeBinding, ExchangeCommand, ExchangeKind, ExchangeSettings, QueueName,
    Refusal, Token, base64, table_json,
};
use crate::partition::request::{BoundSource, BoundSummary};

/// An exchange, and how much is bound to it.
pub struct ExchangeFound<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// What it was declared to be.
    pub settings: &'a ExchangeSettings,
    /// Bindings to it that exchanges look through.
    pub bindings: usize,
}

/// Reads what is asked of an exchange.
pub fn read(name: &Bytes, operation: &str, fields: &mut Fields) -> Result<Asked, Refusal> {
    Ok(match operation {
        "show" => Asked::ShowExchange(name.clone()),
        "declare" => {
            let command = ExchangeCommand::Declare(settings(fields)?.into());
            Asked::Exchange(name.clone(), command)
        }
        "delete" => {
            let command = ExchangeCommand::Delete { if_unused: fields.flag("if_unused")? };
            Asked::Exchange(name.clone(), command)
        }
        "bind" | "unbind" => {
            let is_bound = operation == "bind";
            return bind(Destination::Exchange(name.clone()), is_bound, fields);
        }
        other => {
            return Err(invalid(format!(
                "'{other}' is no operation: use declare, delete, show, bind or unbind"
            )));
        }
    })
}

/// Reads what is to be bound to what.
pub fn bind(
    destination: Destination,
    is_bound: bool,
    fields: &mut Fields,
) -> Result<Asked, Refusal> {
    let arguments = match fields.text("arguments_encoded")? {
        Some(encoded) => base64::decode(&encoded)
            .map(Bytes::from)
            .ok_or_else(|| invalid("'arguments_encoded' must be base64".to_owned()))?,
        None => table_json::from_json(&fields.object("arguments")?)
            .map_err(|error| invalid(error.to_string()))?,
    };
    let name = QueueName::new(fields.needed("source")?.into())?;
    Ok(Asked::Bind(Box::new(Bind {
        token: Token(0),
        exchange: name.as_bytes().clone(),
        destination,
        routing_key: fields.text("routing_key")?.unwrap_or_default().into(),
        arguments,
        is_bound,
    })))
}

fn settings(fields: &mut Fields) -> Result<ExchangeSettings, Refusal> {
    let kinds = ExchangeKind::ALL.map(|kind| (kind.name(), kind));
    let alternate = fields.text("alternate")?;
    Ok(ExchangeSettings {
        kind: fields.choice("type", &kinds)?,
        durable: fields.choice("lifetime", &[("durable", true), ("transient", false)])?,
        auto_delete: fields.flag("auto_delete")?,
        internal: fields.flag("internal")?,
        alternate: alternate.map(Bytes::from),
        arguments: Bytes::new(),
    })
}

/// Exchanges by name.
pub fn list_exchanges<'a>(
    page: &Page,
    found: impl IntoIterator<Item = ExchangeFound<'a>>,
) -> Value {
    let rows = found.into_iter().map(|found| (text(found.name), show_exchange(&found)));
    page.answer("exchanges", rows, None)
}

/// One exchange.
pub fn show_exchange(found: &ExchangeFound<'_>) -> Value {
    let ExchangeFound { name, settings, bindings } = *found;
    json!({
        "exchange": text(name),
        "type": settings.kind.name(),
        "lifetime": if settings.durable { "durable" } else { "transient" },
        "auto_delete": settings.auto_delete,
        "internal": settings.internal,
        "alternate": settings.alternate.as_deref().map(text),
        // Those of queues to the topics are looked through elsewhere.
        "bindings": (name != TOPIC_EXCHANGE.as_bytes()).then_some(bindings),
    })
}

/// Bindings, those of queues first, by who gets it; `is_there` tells those that mean nothing any more from the others.
pub fn list_bindings(
    page: &Page,
    mut found: Vec<BoundSummary>,
    is_there: impl Fn(&ExchangeBinding) -> bool,
) -> Value {
    let is_exchange = |found: &BoundSummary| matches!(found.source, BoundSource::Exchange(_));
    // Those of one are in their partition's order.
    found.sort_by(|one, other| (is_exchange(one), &one.to).cmp(&(is_exchange(other), &other.to)));
    if let Some(only) = &page.only {
        found.retain(|found| !is_exchange(found) && found.to == *only.as_bytes());
    }
    let is_more = found.len() > page.count_max;
    found.truncate(page.count_max);
    let mut at = page.bindings_from().unwrap_or_default();
    let mut rows = Vec::new();
    for found in &found {
        let to_exchanges = is_exchange(found);
        if (at.to_exchanges, &at.name) != (to_exchanges, &found.to) {
            at = BindingsFrom { to_exchanges, name: found.to.clone(), skip: 0 };
        }
        at.skip += 1;
        rows.extend(row(found, &is_there).map(|row| (at.to_string(), row)));
    }
    page.answer("bindings", rows, is_more.then(|| at.to_string()))
}

fn row(found: &BoundSummary, is_there: impl Fn(&ExchangeBinding) -> bool) -> Option<Value> {
    let (binding, destination_type) = match &found.source {
        BoundSource::Filter(filter) => {
            return Some(json!({
                "filter": filter.as_str(),
                "destination": text(&found.to),
                "destination_type": "queue",
            }));
        }
        BoundSource::Queue(binding) => (binding, "queue"),
        BoundSource::Exchange(binding) => (binding, "exchange"),
    };
    if !is_there(binding) {
        return None;
    }
    let mut row = json!({
        "source": text(&binding.exchange.name),
        "type": binding.kind.name(),
        "destination": text(&found.to),
        "destination_type": destination_type,
        "routing_key": text(&binding.routing_key),
        "arguments": table_json::to_json(&binding.arguments),
    });
    // Types that JSON does not know are part of the binding's name.
    if !table_json::is_plain(&binding.arguments) {
        row["arguments_encoded"] = base64::encode(&binding.arguments).into();
    }
    Some(row)
}
