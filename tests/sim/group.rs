//! Who is in the groups and who leads them: changes at random, by whoever governs a cluster.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq::model::PartitionId;
use fluxmq::partition::{GroupError, MemberChange, Members, ReplicaId, Status};

use crate::coverage::Point;
use crate::disks::{Image, Truce};
use crate::node::{Post, State, node_of, replica};
use crate::plan::Fault;
use crate::world::World;

/// Voters that a group keeps.
const VOTERS_MIN: usize = 3;

/// What is known of the groups besides what replicas say.
#[derive(Default)]
pub struct Group {
    /// Those that were muted when they were last looked at, or lost their disk since.
    pub doubtful: BTreeSet<(usize, PartitionId)>,
    /// Those that somebody wanted to vote, ever.
    voters: BTreeSet<(usize, PartitionId)>,
    /// Members as of the newest entry that was seen applied.
    newest: BTreeMap<PartitionId, (u64, Members)>,
    /// About up to where the log was when a node became a member, again perhaps. What it acknowledged before its leader need not know.
    pub joined: BTreeMap<(usize, PartitionId), u64>,
    /// An image that somebody took of a disk.
    pub image: Option<Image>,
    /// While an image is put back, nothing else goes wrong.
    pub truce: Option<Truce>,
    /// Chunks of snapshots are lost and damaged, and those who send and fetch them die.
    pub has_chunk_trouble: bool,
    /// Where chunks were in trouble, one more is lost when nothing else goes wrong any more: nobody comes to the help of that transfer.
    pub loses_last_chunk: bool,
    /// Members, as they were last seen.
    members: BTreeMap<PartitionId, Vec<u8>>,
}

impl World {
    /// How a running replica stands.
    pub fn status(&self, node: usize, partition: PartitionId) -> Option<Status> {
        let owned = self.nodes[node].owned.get(&partition)?;
        owned.failed.is_none().then(|| owned.partition.status())
    }

    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (1..=self.plan.partitions).map(PartitionId)
    }

    /// The node that serves a partition, in the newest term that anybody does, and that term.
    pub fn leader_of(&self, partition: PartitionId) -> Option<(usize, u64)> {
        let running = (0..self.nodes.len()).filter(|node| self.nodes[*node].state == State::Up);
        let serving = running.filter_map(|node| {
            let status = self.status(node, partition).filter(|status| status.serves)?;
            Some((status.term, node))
        });
        serving.max().map(|(term, node)| (node, term))
    }

    /// Who is in a group, as of what is applied anywhere.
    pub fn members_of(&self, partition: PartitionId) -> Members {
        let statuses = (0..self.nodes.len()).filter_map(|node| self.status(node, partition));
        let newest = statuses.max_by_key(|status| (status.applied, status.term));
        let newest = newest.map(|status| (status.applied, status.members));
        let known = self.group.newest.get(&partition).cloned();
        match (newest, known) {
            (Some(newest), Some(known)) if known.0 > newest.0 => known.1,
            (Some(newest), _) => newest.1,
            (None, known) => known.map(|known| known.1).unwrap_or_default(),
        }
    }

    /// Whoever is new is muted until it has what the others have, also where nobody has looked yet.
    pub fn doubt_spares(&mut self) {
        for partition in self.partitions() {
            let spares = self.plan.nodes..self.nodes.len();
            self.group.doubtful.extend(spares.map(|node| (node, partition)));
        }
    }

    /// Returns true when whoever may vote has all that it may have acknowledged.
    pub fn is_sound(&self) -> bool {
        let may_vote =
            |it: &(usize, PartitionId)| it.0 < self.plan.nodes || self.group.voters.contains(it);
        !self.group.doubtful.iter().any(may_vote)
    }

    /// Returns true for a node that might vote in a group once, and is no member of it any more: no leader speaks to it.
    pub fn was_removed(&self, node: usize) -> bool {
        self.partitions().any(|partition| {
            let might_vote =
                node < self.plan.nodes || self.group.voters.contains(&(node, partition));
            might_vote && !self.members_of(partition).contains(replica(node))
        })
    }

    /// Somebody governs a group.
    pub fn govern(&mut self, fault: Fault) {
        let partition = PartitionId(1 + self.random.below(u64::from(self.plan.partitions)) as u16);
        let Some((leader, _)) = self.leader_of(partition) else { return };
        match fault {
            Fault::Transfer => self.transfer(leader, partition),
            _ => self.change_members(leader, partition),
        }
    }

    fn change_members(&mut self, leader: usize, partition: PartitionId) {
        let options = self.possible_changes(leader, partition);
        if options.is_empty() {
            return;
        }
        let changes = self.random.pick(&options).clone();
        let voter = |change: &MemberChange| match change {
            MemberChange::Voter(id) => Some((node_of(*id), partition)),
            MemberChange::Learner(_) | MemberChange::Remove(_) => None,
        };
        self.group.voters.extend(changes.iter().filter_map(voter));
        let is_taken =
            self.ask_group(leader, partition, |partition| partition.change_members(&changes));
        let numbers = [leader as u64, u64::from(partition.0), u64::from(is_taken)];
        self.trace.note(self.now, "members", &numbers, || {
            format!("{leader} p{} {changes:?} taken {is_taken}", partition.0)
        });
        if is_taken && changes.contains(&MemberChange::Remove(replica(leader))) {
            self.coverage.hit(Point::LeaderRemoved);
        }
    }

    /// What somebody sensible would do: whoever is to vote has followed before, unless all others are sound.
    fn possible_changes(
        &mut self,
        leader: usize,
        partition: PartitionId,
    ) -> Vec<Vec<MemberChange>> {
        let status = self.status(leader, partition).expect("it serves");
        let (voters, learners) = (status.members.voters(), status.members.learners());
        let all: Vec<ReplicaId> = (0..self.nodes.len()).map(replica).collect();
        let outside: Vec<ReplicaId> =
            all.into_iter().filter(|id| !status.members.contains(*id)).collect();
        let victim = *self.random.pick(&voters);
        let mut options = Vec::new();
        for id in outside {
            options.push(vec![MemberChange::Learner(id)]);
            if self.is_sound() {
                options.push(vec![MemberChange::Voter(id), MemberChange::Remove(victim)]);
            }
        }
        for id in learners {
            options.push(vec![MemberChange::Remove(id)]);
            let has_all = |status: Status| !status.muted;
            if self.status(node_of(id), partition).is_some_and(has_all) {
                options.push(vec![MemberChange::Voter(id)]);
                options.push(vec![MemberChange::Voter(id), MemberChange::Remove(victim)]);
                options.push(vec![MemberChange::Voter(id), MemberChange::Learner(victim)]);
            }
        }
        if voters.len() > VOTERS_MIN {
            options.push(vec![MemberChange::Remove(victim)]);
            options.push(vec![MemberChange::Learner(victim)]);
        }
        options
    }

    /// Leadership is handed to anybody else.
    pub fn transfer(&mut self, leader: usize, partition: PartitionId) {
        let status = self.status(leader, partition).expect("it serves");
        let others: Vec<ReplicaId> =
            status.members.voters().into_iter().filter(|id| *id != replica(leader)).collect();
        if others.is_empty() {
            return;
        }
        let to = *self.random.pick(&others);
        let is_taken =
            self.ask_group(leader, partition, |partition| partition.transfer_leadership(to));
        let numbers = [leader as u64, u64::from(partition.0), to.0, u64::from(is_taken)];
        self.trace.note(self.now, "transfer", &numbers, || {
            format!("{leader} p{} to {} taken {is_taken}", partition.0, node_of(to))
        });
        if is_taken {
            self.coverage.hit(Point::Transferred);
        }
    }

    /// Asks a leader something about its group; false when it refuses.
    fn ask_group(
        &mut self,
        leader: usize,
        partition: PartitionId,
        ask: impl FnOnce(
            &mut fluxmq::partition::Partition<fluxmq_log::sim_disk::SimDisk>,
        ) -> Result<(), GroupError>,
    ) -> bool {
        let mut post = Post::default();
        let mut is_taken = false;
        self.step(leader, partition, &mut post, |partition, _| match ask(partition) {
            Ok(()) => {
                is_taken = true;
                Ok(())
            }
            Err(GroupError::Refused(_)) => Ok(()),
            Err(GroupError::Failed(error)) => Err(error),
        });
        self.observe(leader);
        self.deliver(leader, post);
        self.turn(leader);
        is_taken
    }

    /// Looks at how a node's replicas stand in their groups.
    pub fn look_at_group(&mut self, node: usize) {
        for partition in self.partitions() {
            let Some(status) = self.status(node, partition) else { continue };
            match status.muted {
                true => drop(self.group.doubtful.insert((node, partition))),
                false if self.group.doubtful.remove(&(node, partition)) => {
                    self.coverage.hit(Point::WholeAgain);
                }
                false => {}
            }
            let newest = self.group.newest.entry(partition).or_default();
            if status.applied >= newest.0 {
                let is_new = |id: ReplicaId| status.members.contains(id) && !newest.1.contains(id);
                let new = (0..self.nodes.len()).filter(|node| is_new(replica(*node)));
                let joined = new.map(|node| ((node, partition), status.applied));
                self.group.joined.extend(joined);
                *newest = (status.applied, status.members.clone());
            }
            if !status.serves {
                continue;
            }
            let (members, is_joint) = (status.members.encode(), status.members.is_joint());
            let before = self.group.members.insert(partition, members.clone());
            if before.is_some_and(|before| before != members) {
                self.coverage.hit(Point::MembersChanged);
            }
            if is_joint {
                self.coverage.hit(Point::JointGroup);
            }
        }
        self.look_at_truce(node);
    }
}
