//! Queues and their consumer groups, as administrators are shown them.

use serde_json::{Value, json};

use super::{PEEKED_BYTES_MAX, Page, text};
use crate::model::{Properties, Property, QueueName, QueueSettings, base64, queue_json};
use crate::partition::request::{
    ConnectionId, Counts, DefaultGroup, Gap, GroupStats, Peeked, QueueAnswer, QueueStats,
    QueueSummary,
};

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
        QueueAnswer::Sought { count, gap } => {
            let mut answer = json!({ "queue": queue.as_str(), "count": count });
            if let Some(gap) = gap {
                answer["gap"] = match gap {
                    Gap::Records(count) => json!(count),
                    Gap::Unknown => json!(gap.to_string()),
                };
            }
            answer
        }
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

/// Queues by name.
pub fn list_queues(page: &Page, found: &[QueueSummary]) -> Value {
    let rows = found.iter().map(|queue| {
        let name = text(&queue.name);
        let mut row = head(&name, &queue.settings, queue.owner, queue.default_group);
        row["messages"] = queue.messages.into();
        row["bytes"] = queue.bytes.into();
        row["groups"] = queue.groups.into();
        row["consumers"] = queue.members.into();
        (name, row)
    });
    page.answer("queues", rows, None)
}

/// What a list and a queue of its own have in common.
fn head(
    queue: &str,
    settings: &QueueSettings,
    owner: Option<ConnectionId>,
    DefaultGroup { ready, unacked }: DefaultGroup,
) -> Value {
    json!({
        "queue": queue,
        "type": queue_json::kind(settings.kind),
        "lifetime": queue_json::lifetime(settings.lifetime),
        "owner": owner.map(|owner| owner.0),
        "ready": ready,
        "unacked": unacked,
        "settings": queue_json::write(settings),
    })
}

fn show(queue: &QueueName, stats: &QueueStats) -> Value {
    let mut shown = head(queue.as_str(), &stats.settings, stats.owner, stats.default_group);
    shown["messages"] = stats.messages.into();
    shown["bytes"] = stats.bytes.into();
    shown["head"] = stats.head.0.into();
    shown["end"] = stats.end.0.into();
    shown["groups"] = stats.groups.iter().map(group).collect();
    shown
}

fn group(group: &GroupStats) -> Value {
    json!({
        "group": text(&group.name),
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
