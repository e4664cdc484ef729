//! What administrators ask and are told, as JSON: publishes below `$management/` and the answers to them (ADR 0051).
//!
//! Fields of a declaration have the names that the configuration has (`queues.declared`). A field that is not known is refused: left
//! out, it would be a rule that somebody believes in.

use bytes::Bytes;
use fluxmq_index::Offset;
use serde_json::{Map, Value, json};

use super::position;
use crate::model::address::ManageAddress;
use crate::model::queue::{
    DELIVERIES_MAX, DeadLetterTarget, DeadLetters, Lifetime, Overflow, QueueKind, QueueLimits,
    QueueSettings,
};
use crate::model::{Filter, Millis, Properties, Property, QueueName, Refusal, base64};
use crate::partition::request::{
    Counts, GroupStats, Peeked, QueueAction, QueueAnswer, QueueStats, QueueSummary,
};

/// Queues in one answer.
const LISTED_MAX: usize = 1000;
/// Entries in one answer, and bytes of their payloads.
const PEEKED_MAX: usize = 256;
const PEEKED_BYTES_MAX: usize = 256 << 10;
/// What can be said of a queue's lifetime. A queue of one connection alone is declared by that connection, and one that asks here is
/// gone before it uses the queue.
const LIFETIMES: &[(&str, Lifetime)] =
    &[("durable", Lifetime::Durable), ("transient", Lifetime::Transient)];

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Which queues there are: those whose names are above one, so many at most.
    Queues {
        /// The name.
        after: Bytes,
        /// How many.
        count_max: usize,
    },
    /// Something of one queue.
    Queue(QueueName, QueueAction),
}

/// Reads a request: its address, and its body, a JSON object or nothing.
pub fn read(address: ManageAddress, body: &[u8], now: Millis) -> Result<Asked, Refusal> {
    let mut fields = Fields::read(body)?;
    let asked = match address {
        ManageAddress::Queues => Asked::Queues {
            after: fields.text("after")?.unwrap_or_default().into(),
            count_max: fields.count("count", LISTED_MAX)?,
        },
        ManageAddress::Queue(queue, operation) => {
            let action = action(&operation, &queue, &mut fields, now)?;
            Asked::Queue(queue, action)
        }
    };
    fields.finish()?;
    Ok(asked)
}

fn action(
    operation: &str,
    queue: &QueueName,
    fields: &mut Fields,
    now: Millis,
) -> Result<QueueAction, Refusal> {
    Ok(match operation {
        "declare" => QueueAction::Declare(settings(fields)?.into()),
        "delete" => QueueAction::Delete { if_unused: true, if_empty: false },
        "purge" => QueueAction::Purge,
        "show" => QueueAction::Stats,
        "peek" => QueueAction::Peek {
            from: Offset(fields.number("from")?.unwrap_or(0)),
            count_max: fields.count("count", PEEKED_MAX)?,
        },
        "redrive" => QueueAction::Redrive {
            filter: redriven(queue, fields.text("filter")?.as_deref())?,
            count_max: fields.count("count", PEEKED_MAX)?,
        },
        "seek" => QueueAction::Seek {
            group: fields.group()?,
            to: position::parse(&fields.needed("to")?, now)?,
        },
        "delete_group" => QueueAction::DeleteGroup { group: fields.group()? },
        other => {
            return Err(invalid(format!(
                "'{other}' is no operation: use declare, delete, purge, show, peek, redrive, seek or delete_group"
            )));
        }
    })
}

/// A filter over the topics that letters had, or all of them.
fn redriven(queue: &QueueName, filter: Option<&str>) -> Result<Filter, Refusal> {
    let address = queue.address();
    let filter = match filter {
        None | Some("#") => format!("{address}/#"),
        Some(filter) if filter.starts_with(&address) => filter.to_owned(),
        Some(filter) => format!("{address}/{filter}"),
    };
    Ok(Filter::new(filter.into())?)
}

fn settings(fields: &mut Fields) -> Result<QueueSettings, Refusal> {
    let some = |value: Option<u64>| value.filter(|value| *value > 0);
    let seconds = |value: Option<u64>| some(value).map(|seconds| seconds.saturating_mul(1000));
    let filter = |text: String| Filter::new(text.into());
    let bindings: Result<_, _> = fields.list("bindings")?.into_iter().map(filter).collect();
    let number = |step: String| {
        step.parse().map_err(|_| invalid(format!("'{step}' is no number of milliseconds")))
    };
    let backoff_ms: Result<_, Refusal> =
        fields.list("backoff_ms")?.into_iter().map(number).collect();
    let target = match fields.text("dead_letters")?.as_deref() {
        None | Some("$dlq") => DeadLetterTarget::Own,
        Some("none") => DeadLetterTarget::Nowhere,
        Some(queue) => DeadLetterTarget::Queue(QueueName::from_text(queue.to_owned().into())?),
    };
    let group = fields.text("primary_group")?.filter(|group| !group.is_empty());
    let narrow = |field: &str, value: Option<u64>, default: u32| match value.map(u32::try_from) {
        None => Ok(default),
        Some(value) => value.map_err(|_| invalid(format!("'{field}' is too large"))),
    };
    Ok(QueueSettings {
        kind: fields.choice(
            "type",
            &[
                ("classic", QueueKind::Classic),
                ("stream", QueueKind::Stream),
                ("ephemeral", QueueKind::Ephemeral),
            ],
        )?,
        bindings: bindings?,
        visibility_timeout_ms: seconds(fields.number("visibility_timeout_s")?),
        deliveries_max: narrow("deliveries_max", fields.number("deliveries_max")?, DELIVERIES_MAX)?,
        backoff_ms: backoff_ms?,
        dead_letters: DeadLetters {
            target,
            with_expired: fields.flag("dead_letter_expired")?,
            with_overflow: fields.flag("dead_letter_overflow")?,
        },
        ttl_ms: seconds(fields.number("ttl_s")?),
        limits: QueueLimits {
            messages_max: some(fields.number("messages_max")?),
            bytes_max: some(fields.number("bytes_max")?),
            age_max_ms: seconds(fields.number("age_max_s")?),
            overflow: fields.choice(
                "overflow",
                &[("drop_head", Overflow::DropHead), ("reject_publish", Overflow::RejectPublish)],
            )?,
        },
        single_active: fields.flag("single_active")?,
        exclusive: fields.flag("exclusive")?,
        primary_group: group.map(|group| QueueName::new(group.into())).transpose()?,
        priority_max: narrow("priority_max", fields.number("priority_max")?, 0)?.min(255) as u8,
        retroactive: fields.choice("from", &[("latest", false), ("earliest", true)])?,
        lifetime: fields.choice("lifetime", LIFETIMES)?,
        auto_delete: fields.flag("auto_delete")?,
        expires_ms: seconds(fields.number("expires_s")?),
    })
}

/// What is left of a request's body.
struct Fields(Map<String, Value>);

impl Fields {
    fn read(body: &[u8]) -> Result<Fields, Refusal> {
        if body.is_empty() {
            return Ok(Fields(Map::new()));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(invalid("the request must be a JSON object".to_owned())),
            Err(error) => Err(invalid(format!("the request is no JSON: {error}"))),
        }
    }

    fn finish(self) -> Result<(), Refusal> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(field) => Err(invalid(format!("'{field}' means nothing here"))),
        }
    }

    fn text(&mut self, field: &str) -> Result<Option<String>, Refusal> {
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(format!("'{field}' must be text"))),
        }
    }

    fn needed(&mut self, field: &str) -> Result<String, Refusal> {
        self.text(field)?.ok_or_else(|| invalid(format!("'{field}' is missing")))
    }

    fn group(&mut self) -> Result<QueueName, Refusal> {
        Ok(QueueName::new(self.needed("group")?.into())?)
    }

    fn number(&mut self, field: &str) -> Result<Option<u64>, Refusal> {
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) if number.is_u64() => Ok(number.as_u64()),
            Some(_) => Err(invalid(format!("'{field}' must be a number, 0 or more"))),
        }
    }

    fn count(&mut self, field: &str, max: usize) -> Result<usize, Refusal> {
        let count = self.number(field)?.map_or(max, |count| usize::try_from(count).unwrap_or(max));
        Ok(count.min(max))
    }

    fn flag(&mut self, field: &str) -> Result<bool, Refusal> {
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(invalid(format!("'{field}' must be true or false"))),
        }
    }

    /// A list, or its items with commas between.
    fn list(&mut self, field: &str) -> Result<Vec<String>, Refusal> {
        let wrong = || invalid(format!("'{field}' must be a list"));
        let item = |value: Value| match value {
            Value::String(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            _ => Err(wrong()),
        };
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => items.into_iter().map(item).collect(),
            Some(Value::String(text)) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(items.map(str::to_owned).collect())
            }
            Some(_) => Err(wrong()),
        }
    }

    /// One of a few words; the first is the default.
    fn choice<T: Copy>(&mut self, field: &str, words: &[(&str, T)]) -> Result<T, Refusal> {
        let Some(said) = self.text(field)? else { return Ok(words[0].1) };
        let known = words.iter().find(|(word, _)| *word == said);
        known.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            invalid(format!("'{field}' is '{said}' and must be one of {}", words.join(", ")))
        })
    }
}

/// What became of a request to a queue.
pub fn answer(queue: &QueueName, answer: &QueueAnswer) -> Value {
    match answer {
        QueueAnswer::Declared { existed, .. } => {
            json!({ "queue": queue.as_str(), "existed": existed })
        }
        QueueAnswer::Counted(Counts { messages, consumers }) => {
            json!({ "queue": queue.as_str(), "messages": messages, "consumers": consumers })
        }
        QueueAnswer::Done { count } => json!({ "queue": queue.as_str(), "count": count }),
        QueueAnswer::Stats(stats) => show(queue, stats),
        QueueAnswer::Entries(entries) => {
            let mut bytes = 0;
            let few = entries.iter().take_while(|entry| {
                let is_first = bytes == 0;
                bytes += entry.message.payload.len() + 1;
                is_first || bytes <= PEEKED_BYTES_MAX
            });
            let entries: Vec<Value> = few.map(|entry| entry_of(queue, entry)).collect();
            json!({ "queue": queue.as_str(), "entries": entries })
        }
    }
}

/// Queues by name; `is_whole` when there are no more.
pub fn list(found: &[QueueSummary], is_whole: bool) -> Value {
    let queue = |queue: &QueueSummary| {
        json!({
            "queue": String::from_utf8_lossy(&queue.name),
            "type": kind(queue.kind),
            "messages": queue.messages,
            "bytes": queue.bytes,
            "groups": queue.groups,
            "consumers": queue.members,
        })
    };
    let queues: Vec<Value> = found.iter().map(queue).collect();
    let last = found.last().filter(|_| !is_whole);
    let next = last.map(|last| String::from_utf8_lossy(&last.name).into_owned());
    json!({ "queues": queues, "next": next })
}

fn show(queue: &QueueName, stats: &QueueStats) -> Value {
    let groups: Vec<Value> = stats.groups.iter().map(group).collect();
    json!({
        "queue": queue.as_str(),
        "type": kind(stats.settings.kind),
        "messages": stats.messages,
        "bytes": stats.bytes,
        "head": stats.head.0,
        "end": stats.end.0,
        "settings": said(&stats.settings),
        "groups": groups,
    })
}

fn group(group: &GroupStats) -> Value {
    json!({
        "group": String::from_utf8_lossy(&group.name),
        "consumers": group.members,
        "committed": group.committed.0,
        "cursor": group.cursor.0,
        "pending": group.pending,
        "lag": group.lag,
        "lag_s": group.lag_ms as f64 / 1000.0,
    })
}

fn entry_of(queue: &QueueName, entry: &Peeked) -> Value {
    let message = &entry.message;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let properties = Properties::from_encoded(message.properties.clone());
    let user = properties.iter().filter_map(|property| match property {
        Property::User(key, value) => Some(json!([text(&key), text(&value)])),
        _ => None,
    });
    let mut said = json!({
        "offset": entry.entry.0,
        "time_ms": entry.time.0,
        "topic": queue.topic_of(&message.topic).as_str(),
        "qos": message.qos as u8,
        "properties": user.collect::<Vec<Value>>(),
    });
    let (field, payload) = match std::str::from_utf8(&message.payload) {
        Ok(text) => ("payload", text.to_owned()),
        Err(_) => ("payload_base64", base64::encode(&message.payload)),
    };
    said[field] = payload.into();
    said
}

fn kind(kind: QueueKind) -> &'static str {
    match kind {
        QueueKind::Classic => "classic",
        QueueKind::Stream => "stream",
        QueueKind::Ephemeral => "ephemeral",
    }
}

/// The fields of a declaration that are not at their defaults, as they are written.
fn said(settings: &QueueSettings) -> Value {
    let mut said = Map::new();
    let mut note = |field: &str, value: Value, is_said: bool| {
        if is_said {
            said.insert(field.to_owned(), value);
        }
    };
    let seconds = |ms: Option<u64>| json!(ms.map(|ms| ms as f64 / 1000.0));
    let bindings: Vec<&str> = settings.bindings.iter().map(Filter::as_str).collect();
    note("bindings", json!(bindings), !bindings.is_empty());
    let timeout_ms = settings.visibility_timeout_ms;
    note("visibility_timeout_s", seconds(timeout_ms), timeout_ms.is_some());
    let deliveries_max = settings.deliveries_max;
    note("deliveries_max", json!(deliveries_max), deliveries_max != DELIVERIES_MAX);
    note("backoff_ms", json!(settings.backoff_ms), !settings.backoff_ms.is_empty());
    let target = match &settings.dead_letters.target {
        DeadLetterTarget::Own => "$dlq",
        DeadLetterTarget::Queue(queue) => queue.as_str(),
        DeadLetterTarget::Nowhere => "none",
    };
    note("dead_letters", json!(target), settings.dead_letters.target != DeadLetterTarget::Own);
    note("dead_letter_expired", json!(true), settings.dead_letters.with_expired);
    note("dead_letter_overflow", json!(true), settings.dead_letters.with_overflow);
    note("ttl_s", seconds(settings.ttl_ms), settings.ttl_ms.is_some());
    let limits = &settings.limits;
    note("messages_max", json!(limits.messages_max), limits.messages_max.is_some());
    note("bytes_max", json!(limits.bytes_max), limits.bytes_max.is_some());
    note("age_max_s", seconds(limits.age_max_ms), limits.age_max_ms.is_some());
    note("overflow", json!("reject_publish"), limits.overflow == Overflow::RejectPublish);
    note("single_active", json!(true), settings.single_active);
    note("exclusive", json!(true), settings.exclusive);
    let group = settings.primary_group.as_ref().map(QueueName::as_str);
    note("primary_group", json!(group), group.is_some());
    note("priority_max", json!(settings.priority_max), settings.priority_max > 0);
    note("from", json!("earliest"), settings.retroactive);
    let lifetime = match settings.lifetime {
        Lifetime::Durable => "durable",
        Lifetime::Transient => "transient",
        Lifetime::Owned => "owned",
    };
    note("lifetime", json!(lifetime), settings.lifetime != Lifetime::Durable);
    note("auto_delete", json!(true), settings.auto_delete);
    note("expires_s", seconds(settings.expires_ms), settings.expires_ms.is_some());
    Value::Object(said)
}

fn invalid(reason: String) -> Refusal {
    Refusal::Invalid { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(operation: &str, body: &str) -> Result<QueueAction, String> {
        let queue = QueueName::new(Bytes::from("jobs")).unwrap();
        let address = ManageAddress::Queue(queue, operation.to_owned());
        match read(address, body.as_bytes(), Millis(1_000_000)) {
            Ok(Asked::Queue(_, action)) => Ok(action),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    #[test]
    fn a_declaration_comes_back_as_it_was_said() {
        let body = r#"{"bindings":["a/+","b/#"],"deliveries_max":3,"backoff_ms":[5,10],"dead_letters":"none",
            "ttl_s":60,"messages_max":7,"overflow":"reject_publish","single_active":true,"priority_max":9,
            "lifetime":"transient","auto_delete":true,"expires_s":60}"#;
        let Ok(QueueAction::Declare(settings)) = asked("declare", body) else { panic!() };
        let expected: Value = serde_json::from_str(&body.replace("60", "60.0")).unwrap();
        assert_eq!(said(&settings), expected);

        let Ok(QueueAction::Declare(nothing)) = asked("declare", "") else { panic!() };
        assert_eq!(*nothing, QueueSettings::default());
        assert_eq!(said(&nothing), json!({}));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_could() {
        let cases = [
            ("drop", "", "'drop' is no operation: use declare"),
            ("declare", "[]", "must be a JSON object"),
            ("declare", "{", "is no JSON"),
            ("declare", r#"{"bindngs":["a"]}"#, "'bindngs' means nothing here"),
            ("declare", r#"{"bindings":["a/#/b"]}"#, "'#' in the last"),
            ("declare", r#"{"type":"lifo"}"#, "must be one of classic, stream, ephemeral"),
            ("declare", r#"{"lifetime":"owned"}"#, "must be one of durable, transient"),
            ("declare", r#"{"ttl_s":-1}"#, "'ttl_s' must be a number, 0 or more"),
            ("declare", r#"{"exclusive":"yes"}"#, "'exclusive' must be true or false"),
            ("seek", r#"{"group":"g"}"#, "'to' is missing"),
            ("seek", r#"{"to":"earliest"}"#, "'group' is missing"),
            ("seek", r#"{"group":"g","to":"yesterday"}"#, "'yesterday' is no position"),
            ("delete_group", r#"{"group":"a/b"}"#, "a name must have 1 to 255 bytes"),
            ("purge", r#"{"all":true}"#, "'all' means nothing here"),
        ];
        for (operation, body, expected) in cases {
            let refused = asked(operation, body).expect_err(expected);
            assert!(refused.contains(expected), "{operation} {body}: {refused}");
        }
    }

    #[test]
    fn redriven_letters_are_chosen_by_the_topics_they_had() {
        let queue = QueueName::from_text(Bytes::from("$dlq/jobs")).unwrap();
        for (said, filter) in [
            (None, "$dlq/jobs/#"),
            (Some("#"), "$dlq/jobs/#"),
            (Some("eu/+"), "$dlq/jobs/eu/+"),
            (Some("$dlq/jobs/eu"), "$dlq/jobs/eu"),
        ] {
            assert_eq!(redriven(&queue, said).unwrap().as_str(), filter);
        }
    }
}
