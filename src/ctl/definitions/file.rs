//! A definitions file: RabbitMQ's sections, each a list of objects. What an object says beyond the fields that are read is kept for the report.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The sections that RabbitMQ writes.
pub(super) const SECTIONS: [&str; 10] = [
    "vhosts",
    "users",
    "permissions",
    "topic_permissions",
    "parameters",
    "global_parameters",
    "policies",
    "exchanges",
    "queues",
    "bindings",
];

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    pub(super) exchanges: Vec<Exchange>,
    pub(super) queues: Vec<Queue>,
    pub(super) bindings: Vec<Binding>,
    pub(super) policies: Vec<Policy>,
    /// Other sections, and what is in them.
    pub(super) rest: Vec<(String, Vec<Value>)>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Exchange {
    pub(super) name: String,
    pub(super) vhost: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) durable: bool,
    #[serde(default)]
    pub(super) auto_delete: bool,
    #[serde(default)]
    pub(super) internal: bool,
    #[serde(default)]
    pub(super) arguments: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Queue {
    pub(super) name: String,
    pub(super) vhost: Option<String>,
    #[serde(default)]
    pub(super) durable: bool,
    #[serde(default)]
    pub(super) auto_delete: bool,
    #[serde(default)]
    pub(super) arguments: Map<String, Value>,
    /// Beside the argument that says it, since RabbitMQ 3.13.
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    /// What AMQP cannot say, as `queues.declared` has it: written by our export.
    pub(super) fluxmq: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Binding {
    pub(super) source: String,
    pub(super) vhost: Option<String>,
    pub(super) destination: String,
    pub(super) destination_type: String,
    #[serde(default)]
    pub(super) routing_key: String,
    #[serde(default)]
    pub(super) arguments: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) vhost: Option<String>,
    pub(super) pattern: String,
    #[serde(rename = "apply-to", default = "everything")]
    pub(super) apply_to: String,
    #[serde(default)]
    pub(super) priority: i64,
    #[serde(default)]
    pub(super) definition: Map<String, Value>,
}

fn everything() -> String {
    "all".to_owned()
}

/// Why a file is none of definitions.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// Not even JSON, or no object.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A section that is no list.
    #[error("'{0}' must be a list")]
    Section(String),
    /// An object without a field, or with another type.
    #[error("number {number} of '{section}': {source}")]
    Object {
        /// Where.
        section: String,
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl Definitions {
    pub(super) fn parse(text: &str) -> Result<Definitions, FileError> {
        let sections: Map<String, Value> = serde_json::from_str(text)?;
        let mut definitions = Definitions::default();
        for (section, value) in sections {
            let objects = match value {
                Value::Array(objects) => objects,
                // Versions, and words about where it is from.
                Value::String(_) if !SECTIONS.contains(&section.as_str()) => continue,
                _ => return Err(FileError::Section(section)),
            };
            match section.as_str() {
                "exchanges" => definitions.exchanges = read(&section, objects)?,
                "queues" => definitions.queues = read(&section, objects)?,
                "bindings" => definitions.bindings = read(&section, objects)?,
                "policies" => definitions.policies = read(&section, objects)?,
                _ => definitions.rest.push((section, objects)),
            }
        }
        Ok(definitions)
    }
}

fn read<T: for<'a> Deserialize<'a>>(
    section: &str,
    objects: Vec<Value>,
) -> Result<Vec<T>, FileError> {
    let object = |(at, object)| {
        serde_json::from_value(object).map_err(|source| FileError::Object {
            section: section.to_owned(),
            number: at + 1,
            source,
        })
    };
    objects.into_iter().enumerate().map(object).collect()
}
