//! What a queue was declared to be, as JSON: what administrators write and are shown.

use serde_json::{Map, Value, json};

use super::fields::{Fields, invalid};
use super::queue::{
    DELIVERIES_MAX, DeadLetterTarget, DeadLetters, Lifetime, Overflow, QueueKind, QueueLimits,
    QueueSettings,
};
use super::{Filter, QueueName, Refusal};

const KINDS: &[(&str, QueueKind)] = &[
    ("classic", QueueKind::Classic),
    ("stream", QueueKind::Stream),
    ("ephemeral", QueueKind::Ephemeral),
];
/// What gives way when a queue is full.
const OVERFLOWS: &[(&str, Overflow)] = &[
    ("drop_head", Overflow::DropHead),
    ("reject_publish", Overflow::RejectPublish),
    ("reject_publish_dlx", Overflow::RejectPublishDlx),
];
/// What can be said of a queue's lifetime. A queue of one connection alone is declared by that connection, and one that asks here is
/// gone before it uses the queue.
const LIFETIMES: &[(&str, Lifetime)] =
    &[("durable", Lifetime::Durable), ("transient", Lifetime::Transient)];

/// Reads a declaration: the names of its fields are those of `queues.declared`, and one that is left out is at its default.
pub fn read(fields: &mut Fields) -> Result<QueueSettings, Refusal> {
    let some = |value: Option<u64>| value.filter(|value| *value > 0);
    let filter = |text: String| Filter::new(text.into());
    let bindings: Result<_, _> = fields.list("bindings")?.into_iter().map(filter).collect();
    let number = |step: String| {
        step.parse().map_err(|_| invalid(format!("'{step}' is no number of milliseconds")))
    };
    let backoff_ms: Result<_, Refusal> =
        fields.list("backoff_ms")?.into_iter().map(number).collect();
    let target = fields.text("dead_letters")?;
    let target = target.map_or(Ok(DeadLetterTarget::Own), |it| DeadLetterTarget::from_text(&it))?;
    let group = fields.text("primary_group")?.filter(|group| !group.is_empty());
    let narrow = |field: &str, value: Option<u64>, default: u32| match value.map(u32::try_from) {
        None => Ok(default),
        Some(value) => value.map_err(|_| invalid(format!("'{field}' is too large"))),
    };
    Ok(QueueSettings {
        kind: fields.choice("type", KINDS)?,
        bindings: bindings?,
        visibility_timeout_ms: fields.seconds("visibility_timeout_s")?,
        deliveries_max: narrow("deliveries_max", fields.number("deliveries_max")?, DELIVERIES_MAX)?,
        backoff_ms: backoff_ms?,
        dead_letters: DeadLetters {
            target,
            with_expired: fields.flag("dead_letter_expired")?,
            with_overflow: fields.flag("dead_letter_overflow")?,
        },
        ttl_ms: fields.seconds("ttl_s")?,
        limits: QueueLimits {
            messages_max: some(fields.number("messages_max")?),
            bytes_max: some(fields.number("bytes_max")?),
            age_max_ms: fields.seconds("age_max_s")?,
            overflow: fields.choice("overflow", OVERFLOWS)?,
        },
        single_active: fields.flag("single_active")?,
        exclusive: fields.flag("exclusive")?,
        primary_group: group.map(|group| QueueName::new(group.into())).transpose()?,
        priority_max: narrow("priority_max", fields.number("priority_max")?, 0)?.min(255) as u8,
        retroactive: fields.choice("from", &[("latest", false), ("earliest", true)])?,
        lifetime: fields.choice("lifetime", LIFETIMES)?,
        auto_delete: fields.flag("auto_delete")?,
        expires_ms: fields.seconds("expires_s")?,
    })
}

/// The fields of a declaration that are not at their defaults, as they are written.
pub fn write(settings: &QueueSettings) -> Map<String, Value> {
    let mut said = Map::new();
    let mut note = |field: &str, value: Value, is_said: bool| {
        if is_said {
            said.insert(field.to_owned(), value);
        }
    };
    let seconds = |ms: Option<u64>| json!(ms.map(|ms| ms as f64 / 1000.0));
    note("type", json!(kind(settings.kind)), settings.kind != QueueKind::Classic);
    let bindings: Vec<&str> = settings.bindings.iter().map(Filter::as_str).collect();
    note("bindings", json!(bindings), !bindings.is_empty());
    let timeout_ms = settings.visibility_timeout_ms;
    note("visibility_timeout_s", seconds(timeout_ms), timeout_ms.is_some());
    let deliveries_max = settings.deliveries_max;
    note("deliveries_max", json!(deliveries_max), deliveries_max != DELIVERIES_MAX);
    note("backoff_ms", json!(settings.backoff_ms), !settings.backoff_ms.is_empty());
    let target = settings.dead_letters.target.text();
    note("dead_letters", json!(target), settings.dead_letters.target != DeadLetterTarget::Own);
    note("dead_letter_expired", json!(true), settings.dead_letters.with_expired);
    note("dead_letter_overflow", json!(true), settings.dead_letters.with_overflow);
    note("ttl_s", seconds(settings.ttl_ms), settings.ttl_ms.is_some());
    let limits = &settings.limits;
    note("messages_max", json!(limits.messages_max), limits.messages_max.is_some());
    note("bytes_max", json!(limits.bytes_max), limits.bytes_max.is_some());
    note("age_max_s", seconds(limits.age_max_ms), limits.age_max_ms.is_some());
    let overflow = word(OVERFLOWS, limits.overflow);
    note("overflow", json!(overflow), limits.overflow != Overflow::DropHead);
    note("single_active", json!(true), settings.single_active);
    note("exclusive", json!(true), settings.exclusive);
    let group = settings.primary_group.as_ref().map(QueueName::as_str);
    note("primary_group", json!(group), group.is_some());
    note("priority_max", json!(settings.priority_max), settings.priority_max > 0);
    note("from", json!("earliest"), settings.retroactive);
    note("lifetime", json!(lifetime(settings.lifetime)), settings.lifetime != Lifetime::Durable);
    note("auto_delete", json!(true), settings.auto_delete);
    note("expires_s", seconds(settings.expires_ms), settings.expires_ms.is_some());
    said
}

/// A kind's name.
pub fn kind(kind: QueueKind) -> &'static str {
    word(KINDS, kind)
}

/// A lifetime's name.
pub fn lifetime(lifetime: Lifetime) -> &'static str {
    match lifetime {
        Lifetime::Owned => "owned",
        lifetime => word(LIFETIMES, lifetime),
    }
}

fn word<T: PartialEq>(words: &[(&'static str, T)], meaning: T) -> &'static str {
    words.iter().find(|(_, known)| *known == meaning).map_or("", |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_comes_back_as_it_was_said() {
        let said = json!({
            "type": "stream", "bindings": ["a/+", "b/#"], "dead_letters": "none", "ttl_s": 1.5, "messages_max": 7,
            "bytes_max": 9, "age_max_s": 60.0, "primary_group": "g", "lifetime": "transient", "auto_delete": true,
            "expires_s": 0.001, "deliveries_max": 3, "backoff_ms": [5, 10], "visibility_timeout_s": 2.0
        });
        let said = said.as_object().cloned().unwrap();
        let mut fields = Fields::from(said.clone());
        let settings = read(&mut fields).unwrap();
        assert_eq!((settings.ttl_ms, settings.expires_ms), (Some(1_500), Some(1)));
        assert_eq!(write(&settings), said);
        fields.finish().unwrap();

        assert_eq!(read(&mut Fields::default()), Ok(QueueSettings::default()));
        assert_eq!(write(&QueueSettings::default()), Map::new());
    }
}
