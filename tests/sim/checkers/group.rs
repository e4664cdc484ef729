//! The checkers of groups: all members agree on who they are (I15), whoever votes has everything, and nobody disturbs a group that is
//! well (I25).

use std::collections::BTreeMap;

use fluxmq::model::PartitionId;

use super::{Invariant, Violation, wrong};
use crate::node::{Node, node_of, replica};
use crate::world::World;

/// I15: members are a fold of the log, like the views.
pub fn check(world: &World) -> Vec<Result<(), Violation>> {
    let mut found = Vec::new();
    for partition in world.partitions() {
        let members = world.members_of(partition);
        for node in (0..world.nodes.len()).filter(|node| members.contains(replica(*node))) {
            let Some(status) = world.status(node, partition) else { continue };
            if status.members != members {
                let what = format!(
                    "node {node} p{}: its members are {:?}, not {members:?}",
                    partition.0, status.members
                );
                found.push(wrong(Invariant::I15, what));
            }
        }
    }
    found
}

/// Says which voter is muted although nothing keeps it from having everything.
pub fn muted(world: &World) -> Option<String> {
    for partition in world.partitions() {
        let voters = world.members_of(partition).voters();
        for node in (0..world.nodes.len()).filter(|node| voters.contains(&replica(*node))) {
            if world.status(node, partition).is_some_and(|status| status.muted) {
                return Some(format!("node {node} p{} is muted", partition.0));
            }
        }
    }
    None
}

/// Returns true where a partition stops, and says so, because nobody has any more what was lost (ADR 0035): history is over there on every
/// replica that is whole, and without those that lost it, and those that are muted until a leader has asked them, nobody is elected. A leader
/// would have had the damaged part given up.
pub fn is_stopped_for_good(world: &World) -> bool {
    world.partitions().any(|partition| {
        let voters = world.members_of(partition).voters();
        let logs = || world.nodes.iter().filter_map(|node| node.owned.get(&partition));
        let is_gone = |index: u64| {
            let (mut is_over, mut is_there) = (false, false);
            for log in logs().map(|owned| owned.partition.log()) {
                is_over |= index < log.first_index();
                is_there |= (log.first_index()..=log.last_index()).contains(&index);
            }
            is_over && !is_there
        };
        let is_over = |node: &Node| {
            let lost = node.fenced.get(&partition).map(|fenced| fenced.status().lost);
            lost.is_some_and(|lost| lost.iter().any(|damage| is_gone(damage.first_index)))
        };
        let lost = voters.iter().filter(|it| is_over(&world.nodes[node_of(**it)])).count();
        let is_muted = |node| world.status(node, partition).is_some_and(|status| status.muted);
        let muted = voters.iter().filter(|it| is_muted(node_of(**it))).count();
        lost > 0 && (voters.len() - lost - muted) <= voters.len() / 2
    })
}

/// Who leads what, in which term.
pub fn leaders(world: &World) -> BTreeMap<PartitionId, Option<(usize, u64)>> {
    world.partitions().map(|partition| (partition, world.leader_of(partition))).collect()
}
