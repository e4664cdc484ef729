//! A queue: what it was declared to be, what is in it, and its groups.

use fluxmq::model::QueueSettings;
use fluxmq::model::queue::{DeadLetterTarget, Lifetime, Overflow, QueueKind};
use fluxmq::model::record::queue_id;
use fluxmq::view::Queue;

use super::group;
use crate::fold::Fold;
use crate::tree::Tree;

/// Returns the queue of a name.
pub(super) fn find(fold: &Fold, name: &[u8]) -> Vec<Tree> {
    let id = queue_id(name);
    let Some(queue) = fold.views.queues.get(id) else { return Vec::new() };
    let mark = queue.mark_before(queue.head()).map(|(_, offset)| offset.0);
    let groups = fold.views.groups.iter().filter(|((reads, _), _)| *reads == id);
    vec![Tree::Fields(vec![
        ("queue", Tree::bytes(queue.name())),
        ("id", Tree::Id(id)),
        ("entries", Tree::Number(queue.len())),
        ("bytes", Tree::Number(queue.bytes())),
        ("head", Tree::Number(queue.head().0)),
        ("end", Tree::Number(queue.end().0)),
        ("head_is_at_or_after_offset", mark.map_or(Tree::None, Tree::Number)),
        ("ends_unless_used_before", Tree::time(fold.views.leases.ends_at(id).map(|at| at.0))),
        ("settings", settings(queue.settings())),
        ("follows", follows(fold, id)),
        ("groups", Tree::list(groups.map(|it| group::describe(fold, it)))),
    ])]
}

/// Returns where a queue that follows histories goes on in each; nothing for any other.
fn follows(fold: &Fold, id: u64) -> Tree {
    let places = fold.views.follows.places(id).map(|(partition, next)| {
        Tree::Fields(vec![
            ("partition", Tree::Number(u64::from(partition.0))),
            ("offset", Tree::Number(next.0)),
        ])
    });
    Tree::list(places)
}

/// Returns one of many.
pub(super) fn line(queue: &Queue) -> Tree {
    let head = queue.head();
    Tree::Fields(vec![
        ("queue", Tree::bytes(queue.name())),
        ("entries", Tree::Number(queue.len())),
        ("bytes", Tree::Number(queue.bytes())),
        ("head", Tree::Number(head.0)),
        ("end", Tree::Number(queue.end().0)),
    ])
}

/// Returns what a declaration said that is not the default.
fn settings(settings: &QueueSettings) -> Tree {
    let default = QueueSettings::default();
    let kind = match settings.kind {
        QueueKind::Classic => "classic",
        QueueKind::Stream => "stream",
        QueueKind::Ephemeral => "ephemeral",
    };
    let mut fields = vec![("type", Tree::Text(kind.to_owned()))];
    if !settings.bindings.is_empty() {
        let filters = settings.bindings.iter().map(|filter| Tree::bytes(filter.as_bytes()));
        fields.push(("bindings", Tree::list(filters)));
    }
    if settings.deliveries_max != default.deliveries_max {
        fields.push(("deliveries_max", Tree::Number(u64::from(settings.deliveries_max))));
    }
    if !settings.backoff_ms.is_empty() {
        let steps = settings.backoff_ms.iter().map(|step| Tree::Number(*step));
        fields.push(("backoff_ms", Tree::list(steps)));
    }
    match &settings.dead_letters.target {
        DeadLetterTarget::Own => {}
        DeadLetterTarget::Queue(queue) => {
            fields.push(("dead_letters", Tree::bytes(queue.as_bytes())));
        }
        target @ DeadLetterTarget::Exchange(_) => {
            fields.push(("dead_letters", Tree::Text(target.text().into_owned())));
        }
        DeadLetterTarget::Nowhere => fields.push(("dead_letters", Tree::None)),
    }
    let numbers = [
        ("visibility_timeout_ms", settings.visibility_timeout_ms),
        ("ttl_ms", settings.ttl_ms),
        ("messages_max", settings.limits.messages_max),
        ("bytes_max", settings.limits.bytes_max),
        ("age_max_ms", settings.limits.age_max_ms),
        ("expires_ms", settings.expires_ms),
    ];
    let set = numbers.into_iter().filter_map(|(name, it)| Some((name, Tree::Number(it?))));
    fields.extend(set);
    if settings.priority_max > 0 {
        fields.push(("priority_max", Tree::Number(u64::from(settings.priority_max))));
    }
    let flags = [
        ("retroactive", settings.retroactive),
        ("dead_letters_with_expired", settings.dead_letters.with_expired),
        ("dead_letters_with_overflow", settings.dead_letters.with_overflow),
        ("reject_publish", settings.limits.overflow == Overflow::RejectPublish),
        ("reject_publish_dlx", settings.limits.overflow == Overflow::RejectPublishDlx),
        ("single_active", settings.single_active),
        ("exclusive", settings.exclusive),
        ("transient", settings.lifetime == Lifetime::Transient),
        ("owned", settings.lifetime == Lifetime::Owned),
        ("auto_delete", settings.auto_delete),
    ];
    fields.extend(flags.into_iter().filter(|(_, is)| *is).map(|(name, is)| (name, Tree::Flag(is))));
    if let Some(group) = &settings.primary_group {
        fields.push(("primary_group", Tree::bytes(group.as_bytes())));
    }
    Tree::Fields(fields)
}
