//! The checkers of groups: all members agree on who they are (I15), whoever votes has everything, and nobody disturbs a group that is
//! well (I25).

use std::collections::BTreeMap;

use fluxmq::model::PartitionId;

use super::{Invariant, Violation, wrong};
use crate::node::replica;
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

/// Who leads what, in which term.
pub fn leaders(world: &World) -> BTreeMap<PartitionId, Option<(usize, u64)>> {
    world.partitions().map(|partition| (partition, world.leader_of(partition))).collect()
}
