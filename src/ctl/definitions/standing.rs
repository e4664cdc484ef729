//! What the broker has: exchanges, queues and bindings, as its lists say.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::ctl::error::CtlError;
use crate::ctl::manage::Asking;
use crate::ctl::{binding, exchange, queue};

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Rows by name.
    pub(super) exchanges: BTreeMap<String, Value>,
    /// Rows by name.
    pub(super) queues: BTreeMap<String, Value>,
    /// By what names them: source, kind and name of who gets it, routing key, arguments.
    pub(super) bindings: BTreeMap<BindingKey, Value>,
}

/// What names a binding, as far as JSON can.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BindingKey {
    pub(super) source: String,
    pub(super) destination_type: String,
    pub(super) destination: String,
    pub(super) routing_key: String,
    /// As text: JSON has no order.
    pub(super) arguments: String,
}

impl BindingKey {
    pub(super) fn of(row: &Value) -> BindingKey {
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        BindingKey {
            source: text("source"),
            destination_type: text("destination_type"),
            destination: text("destination"),
            routing_key: text("routing_key"),
            arguments: row["arguments"].to_string(),
        }
    }
}

impl Standing {
    /// Asks for all of it.
    pub(super) async fn ask(asking: &mut Asking) -> Result<Standing, CtlError> {
        let mut standing = Standing::default();
        let name = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
        exchange::listing()
            .each(asking, "", None, |row| {
                standing.exchanges.insert(name(&row, "exchange"), row);
                Ok(())
            })
            .await?;
        queue::listing()
            .each(asking, "", None, |row| {
                standing.queues.insert(name(&row, "queue"), row);
                Ok(())
            })
            .await?;
        binding::listing("bindings".to_owned())
            .each(asking, "", None, |row| {
                if row["source"].is_string() {
                    standing.bindings.insert(BindingKey::of(&row), row);
                }
                Ok(())
            })
            .await?;
        Ok(standing)
    }
}

/// In what an object of a file differs from what is there, field by field. A field that only one of them has is at its default in the other.
pub(super) fn differences(wanted: &Map<String, Value>, there: &Map<String, Value>) -> Vec<String> {
    let said = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "not said".to_owned(),
        Some(value) => value.to_string(),
    };
    let is_same = |field: &String| {
        let value = |fields: &Map<String, Value>| fields.get(field).cloned().unwrap_or(json!(null));
        value(wanted) == value(there)
    };
    let fields: std::collections::BTreeSet<&String> = wanted.keys().chain(there.keys()).collect();
    let differing = fields.into_iter().filter(|field| !is_same(field));
    differing
        .map(|field| {
            let (wanted, there) = (said(wanted.get(field)), said(there.get(field)));
            format!("{field} is {wanted} in the file, and {there} here")
        })
        .collect()
}
