//! The queues that the configuration declares: read, and asked for at every start.

use anyhow::Context;
use bytes::Bytes;

use crate::broker::Broker;
use crate::config::{DeclaredQueue, OverflowPolicy, QueueLifetime, QueueStart, QueueType};
use crate::model::queue::{
    DeadLetterTarget, DeadLetters, Lifetime, Overflow, QueueKind, QueueLimits, QueueSettings,
};
use crate::model::{Filter, QueueName};
use crate::net::steward::ask_of_queues;
use crate::partition::request::QueueAction;

/// What the configuration says of one queue.
pub(super) type Declaration = (QueueName, QueueSettings);

/// Reads the declarations; one that makes no sense stops the start.
pub(super) fn read(declared: &[DeclaredQueue]) -> anyhow::Result<Vec<Declaration>> {
    let mut declarations: Vec<Declaration> = Vec::with_capacity(declared.len());
    for (index, queue) in declared.iter().enumerate() {
        let of = || format!("queues.declared.{index} (name '{}')", queue.name);
        let (name, settings) = declaration(queue).with_context(of)?;
        anyhow::ensure!(
            declarations.iter().all(|(other, _)| *other != name),
            "{}: the queue is declared twice; remove one of the two",
            of()
        );
        declarations.push((name, settings));
    }
    Ok(declarations)
}

fn declaration(queue: &DeclaredQueue) -> anyhow::Result<Declaration> {
    let bytes = |text: &str| Bytes::from(text.to_owned());
    let parts = |text: &str| -> Vec<String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::to_owned).collect()
    };
    let number = |value: u64| Some(value).filter(|value| *value > 0);
    let seconds = |value: u32| number(u64::from(value) * 1000);
    let mut bindings = Vec::new();
    for filter in parts(&queue.bindings) {
        let checked = Filter::new(bytes(&filter));
        bindings.push(checked.with_context(|| format!("binding '{filter}'"))?);
    }
    let mut backoff_ms = Vec::new();
    for step in parts(&queue.backoff_ms) {
        let checked = step.parse();
        backoff_ms.push(checked.with_context(|| format!("backoff_ms: '{step}' is no number"))?);
    }
    let target = DeadLetterTarget::from_text(&queue.dead_letters).context("dead_letters")?;
    let primary_group = match queue.primary_group.as_str() {
        "" => None,
        group => Some(QueueName::new(bytes(group)).context("primary_group")?),
    };
    let settings = QueueSettings {
        kind: match queue.kind {
            QueueType::Classic => QueueKind::Classic,
            QueueType::Stream => QueueKind::Stream,
            QueueType::Ephemeral => QueueKind::Ephemeral,
        },
        bindings,
        visibility_timeout_ms: seconds(queue.visibility_timeout_s),
        deliveries_max: queue.deliveries_max,
        backoff_ms,
        dead_letters: DeadLetters {
            target,
            with_expired: queue.dead_letter_expired,
            with_overflow: queue.dead_letter_overflow,
        },
        ttl_ms: seconds(queue.ttl_s),
        limits: QueueLimits {
            messages_max: number(queue.messages_max.into()),
            bytes_max: number(queue.bytes_max),
            age_max_ms: seconds(queue.age_max_s),
            overflow: match queue.overflow {
                OverflowPolicy::DropHead => Overflow::DropHead,
                OverflowPolicy::RejectPublish => Overflow::RejectPublish,
                OverflowPolicy::RejectPublishDlx => Overflow::RejectPublishDlx,
            },
        },
        single_active: queue.single_active,
        exclusive: queue.exclusive,
        primary_group,
        priority_max: queue.priority_max.try_into().context("priority_max")?,
        retroactive: queue.from == QueueStart::Earliest,
        lifetime: match queue.lifetime {
            QueueLifetime::Durable => Lifetime::Durable,
            QueueLifetime::Transient => Lifetime::Transient,
        },
        auto_delete: queue.auto_delete,
        expires_ms: seconds(queue.expires_s),
    };
    Ok((QueueName::from_text(bytes(&queue.name)).context("name")?, settings.checked()?))
}

/// Declares them. One that was declared otherwise before stays what it is.
pub(super) async fn declare(broker: &Broker, declarations: Vec<Declaration>) {
    let ask =
        |(name, settings): Declaration| (name, QueueAction::Declare(std::sync::Arc::new(settings)));
    let asked = declarations.into_iter().map(ask).collect();
    for (queue, answer) in ask_of_queues(broker, asked).await {
        if let Err(refusal) = answer {
            tracing::error!(%queue, %refusal, "a queue of the configuration is not declared");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str) -> DeclaredQueue {
        DeclaredQueue { name: name.to_owned(), ..DeclaredQueue::default() }
    }

    #[test]
    fn a_queue_of_which_nothing_is_said_is_what_its_first_use_declares() {
        let read = read(&[queue("jobs")]).unwrap();
        assert_eq!(read[0].1, QueueSettings::default());
    }

    #[test]
    fn everything_that_is_said_is_in_the_declaration() {
        let said = DeclaredQueue {
            kind: QueueType::Classic,
            bindings: "site/+/temp, alarm/#".to_owned(),
            backoff_ms: "1000, 5000".to_owned(),
            dead_letters: "failed".to_owned(),
            ttl_s: 60,
            messages_max: 5,
            overflow: OverflowPolicy::RejectPublish,
            ..queue("jobs")
        };

        let (_, settings) = read(&[said]).unwrap().remove(0);

        let bindings: Vec<&str> = settings.bindings.iter().map(Filter::as_str).collect();
        assert_eq!(bindings, ["alarm/#", "site/+/temp"]);
        assert_eq!((settings.backoff_ms, settings.ttl_ms), (vec![1000, 5000], Some(60_000)));
        assert_eq!(settings.limits.messages_max, Some(5));
        assert_eq!(settings.limits.overflow, Overflow::RejectPublish);
        let DeadLetterTarget::Queue(target) = settings.dead_letters.target else { panic!() };
        assert_eq!(target.as_str(), "failed");
    }

    #[test]
    fn what_makes_no_sense_names_its_place() {
        let cases = [
            (vec![queue("a/b")], "queues.declared.0 (name 'a/b')"),
            (vec![queue("a"), queue("a")], "queues.declared.1 (name 'a')"),
            (vec![DeclaredQueue { bindings: "a/#/b".to_owned(), ..queue("a") }], "'a/#/b'"),
            (vec![DeclaredQueue { backoff_ms: "1s".to_owned(), ..queue("a") }], "'1s'"),
            (vec![DeclaredQueue { primary_group: "g".to_owned(), ..queue("a") }], "primary_group"),
        ];
        for (queues, named) in cases {
            let error = format!("{:#}", read(&queues).expect_err(named));
            assert!(error.contains(named), "{error}");
        }
    }
}
