//! A consumer group: how far it is in what it reads. What its members hold is not in the log: it is handed out again after a restart.

use fluxmq::view::{Group, GroupKey};

use crate::fold::Fold;
use crate::tree::Tree;

/// Entries that came back are listed up to this many.
const RETURNED_SHOWN: usize = 100;

/// Returns the groups of a name; of one queue, if it is given.
pub(super) fn find(fold: &Fold, name: &[u8], queue: Option<u64>) -> Vec<Tree> {
    let groups = fold.views.groups.iter();
    groups
        .filter(|((reads, its_name), _)| {
            its_name == name && queue.is_none_or(|queue| queue == *reads)
        })
        .map(|it| describe(fold, it))
        .collect()
}

/// Returns one of many.
pub(super) fn line(fold: &Fold, (key, group): (&GroupKey, &Group)) -> Tree {
    Tree::Fields(head(fold, key, group))
}

/// Returns everything.
pub(super) fn describe(fold: &Fold, (key, group): (&GroupKey, &Group)) -> Tree {
    let mut fields = head(fold, key, group);
    let returned: Vec<Tree> = group
        .returned()
        .take(RETURNED_SHOWN)
        .map(|(entry, count, until)| {
            let until = (until.0 > 0).then_some(until.0);
            Tree::Fields(vec![
                ("entry", Tree::Number(entry.0)),
                ("deliveries", Tree::Number(u64::from(count))),
                ("not_before", Tree::time(until)),
            ])
        })
        .collect();
    fields.push(("returned_count", Tree::Number(group.returned().count() as u64)));
    fields.push(("returned", Tree::List(returned)));
    let members = group.members().iter().map(|(client_id, member)| {
        Tree::Fields(vec![
            ("client_id", Tree::bytes(client_id)),
            ("expiry_s", Tree::Number(u64::from(member.expiry_s))),
            ("left_at", Tree::time(member.left_at.map(|at| at.0))),
        ])
    });
    let claimed = group.claimed().iter().map(|(entry, claim)| {
        Tree::Fields(vec![
            ("entry", Tree::Number(entry.0)),
            ("client_id", Tree::bytes(&claim.client_id)),
            ("packet_id", Tree::Number(u64::from(claim.packet_id))),
            ("is_received", Tree::Flag(claim.received)),
        ])
    });
    fields.push(("members", Tree::list(members)));
    fields.push(("claimed", Tree::list(claimed)));
    Tree::Fields(fields)
}

fn head(fold: &Fold, (selection, name): &GroupKey, group: &Group) -> Vec<(&'static str, Tree)> {
    let queue = fold.views.queues.get(*selection);
    let reads = match (group.filter(), queue) {
        (Some(filter), _) => ("filter", Tree::bytes(filter.as_bytes())),
        (None, Some(queue)) => ("queue", Tree::bytes(queue.name())),
        (None, None) => ("queue", Tree::Id(*selection)),
    };
    let mut fields = vec![
        ("group", Tree::bytes(name)),
        reads,
        ("committed", Tree::Number(group.committed().0)),
        ("finished_above", Tree::Number(group.finished_count())),
    ];
    if let (None, Some(queue)) = (group.filter(), queue) {
        let ahead = queue.end().0.saturating_sub(group.committed().0);
        fields.push(("lag", Tree::Number(ahead.saturating_sub(group.finished_count()))));
    }
    fields
}
