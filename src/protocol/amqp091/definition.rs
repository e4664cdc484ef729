//! Queues as definitions say them: what `queue.declare` has, with its arguments as JSON. The shape is that of RabbitMQ's exports.

use serde_json::{Map, Value, json};

use super::arguments::{Named, arguments_of, settings};
use super::codec::method::QueueDeclare;
use super::codec::{ShortString, Table};
use crate::model::queue::{DELIVERIES_MAX, Lifetime, QueueKind};
use crate::model::{QueueSettings, VirtualHost, table_json};

/// A queue of a definition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueDefinition {
    /// It outlives everything.
    pub durable: bool,
    /// It ends with its last consumer.
    pub auto_delete: bool,
    /// The rest.
    pub arguments: Map<String, Value>,
}

/// What is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// Its arguments are no table.
    #[error(transparent)]
    Arguments(#[from] table_json::TableError),
    /// A declaration like this would be refused.
    #[error("{0}")]
    Refused(String),
}

impl QueueDefinition {
    /// What a queue is that is declared so.
    pub fn settings(
        &self,
        queue: &str,
        host: &VirtualHost,
    ) -> Result<QueueSettings, DefinitionError> {
        let table = table_json::from_json(&self.arguments)?;
        let arguments = Table::from_contents(table)
            .map_err(|error| DefinitionError::Refused(error.to_string()))?;
        let declare = QueueDeclare {
            queue: ShortString::truncated(queue),
            durable: self.durable,
            auto_delete: self.auto_delete,
            arguments,
            ..QueueDeclare::default()
        };
        settings(&declare, Named { queue, host })
            .map_err(|violation| DefinitionError::Refused(violation.text))
    }

    /// How a queue that is so could have been declared in a virtual host. `None` where AMQP cannot say all of it.
    pub fn of(settings: &QueueSettings, host: &VirtualHost) -> Option<QueueDefinition> {
        let definition = QueueDefinition::nearest(settings);
        let again = definition.settings("any", host).ok()?;
        (again == *settings).then_some(definition)
    }

    /// The same as far as AMQP can say it.
    pub fn nearest(settings: &QueueSettings) -> QueueDefinition {
        let mut arguments = Map::new();
        for (name, said) in arguments_of(settings) {
            let Some((value, kind)) = said else { continue };
            let value = match kind {
                "bool" => json!(value == "true"),
                "signedint" | "long" => value.parse::<i64>().map_or(json!(value), |it| json!(it)),
                _ => json!(value),
            };
            arguments.insert(name.to_owned(), value);
        }
        // Classic queues deliver for ever, in RabbitMQ.
        let is_counted = settings.kind == QueueKind::Classic && settings.deliveries_max > 0;
        let is_lasting = settings.lifetime == Lifetime::Durable && !settings.auto_delete;
        if is_counted && is_lasting {
            arguments.insert("x-queue-type".to_owned(), json!("quorum"));
            if settings.deliveries_max == DELIVERIES_MAX {
                arguments.remove("x-delivery-limit");
            }
        }
        QueueDefinition {
            durable: settings.lifetime == Lifetime::Durable,
            auto_delete: settings.auto_delete,
            arguments,
        }
    }

    /// Names the arguments that mean nothing here.
    pub fn unknown_arguments(&self) -> impl Iterator<Item = &str> {
        let known = arguments_of(&QueueSettings::default()).map(|(name, _)| name);
        self.arguments.keys().map(String::as_str).filter(move |name| !known.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(arguments: Value) -> QueueDefinition {
        let arguments = arguments.as_object().cloned().unwrap();
        QueueDefinition { durable: true, auto_delete: false, arguments }
    }

    #[test]
    fn what_amqp_can_say_of_a_queue_comes_back() {
        for arguments in [
            json!({}),
            json!({ "x-message-ttl": 60000, "x-max-length": 10, "x-overflow": "reject-publish" }),
            json!({ "x-queue-type": "quorum" }),
            json!({ "x-queue-type": "quorum", "x-delivery-limit": 4 }),
            json!({ "x-queue-type": "stream", "x-max-age": "60s", "x-max-length-bytes": 5_000_000_000u64 }),
            json!({ "x-expires": 1000, "x-max-priority": 5, "x-single-active-consumer": true }),
            json!({ "x-dead-letter-exchange": "dead", "x-dead-letter-routing-key": "here" }),
            json!({ "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "burial" }),
        ] {
            let said = definition(arguments);
            let staging = VirtualHost::new(b"staging").unwrap();
            let there = said.settings("q", &staging).unwrap();
            assert_eq!(QueueDefinition::of(&there, &staging).as_ref(), Some(&said));
            let settings = said.settings("q", &VirtualHost::DEFAULT).unwrap();
            assert_eq!(QueueDefinition::of(&settings, &VirtualHost::DEFAULT), Some(said));
        }
    }

    #[test]
    fn what_amqp_cannot_say_is_seen() {
        let ours = QueueSettings { visibility_timeout_ms: Some(5), ..QueueSettings::default() };
        assert_eq!(QueueDefinition::of(&ours, &VirtualHost::DEFAULT), None);
        assert_eq!(QueueDefinition::nearest(&ours).arguments["x-queue-type"], json!("quorum"));
        let said = definition(json!({ "x-queue-mode": "lazy", "x-expires": 5, "mine": 1 }));
        assert_eq!(said.unknown_arguments().collect::<Vec<_>>(), ["mine", "x-queue-mode"]);
        let refused =
            definition(json!({ "x-message-ttl": -1 })).settings("q", &VirtualHost::DEFAULT);
        assert!(refused.unwrap_err().to_string().contains("{value_negative,-1}"));
    }
}
