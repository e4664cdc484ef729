//! Disks that are replaced, and old images of disks that are put back.
//!
//! At most one voter forgets at a time: more is the loss of a majority. An image is put back as an operator would: while all others
//! run and have a leader, and never one of a replica that was removed. One whose leader cannot be heard may vote (ADR 0025); what is
//! checked here is that the leader tells it.

use std::collections::BTreeMap;

use fluxmq::model::PartitionId;
use fluxmq_log::sim_disk::{Crash, Faults, SimDisk};

use crate::checkers::Invariant;
use crate::coverage::Point;
use crate::network::CALM;
use crate::node::{State, replica};
use crate::plan::SECOND;
use crate::world::{Event, World};

/// How long an image is kept at least before it is put back.
const IMAGE_AGE_MIN: u64 = 3 * SECOND;
/// How long all is calm before an image is put back, and after it was.
const CALM_BEFORE: u64 = 3 * SECOND / 2;
const CALM_AFTER: u64 = 5 * SECOND / 2;

/// An image of a disk.
pub struct Image {
    node: usize,
    disk: SimDisk,
    taken: u64,
}

/// An image is being put back.
pub struct Truce {
    node: usize,
    /// Gives up to wait for calm then.
    until: u64,
    /// Who led each partition in which term, and how much of it the disk had flushed before it was replaced.
    before: Option<BTreeMap<PartitionId, (usize, u64, u64)>>,
    /// Whether it forgot something; and whether it was seen muted since.
    after: BTreeMap<PartitionId, (bool, bool)>,
}

impl Truce {
    /// A replica is muted, if only for a moment.
    pub fn saw_muted(&mut self, node: usize, partition: PartitionId) {
        if let Some(seen) = self.after.get_mut(&partition).filter(|_| self.node == node) {
            seen.1 = true;
        }
    }
}

/// Why a node that is down stays down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    No,
    Until(u64),
    /// Until all others have a leader.
    UntilLed,
}

impl World {
    /// Returns true while a node must not be started.
    pub fn is_held(&self, node: usize) -> bool {
        match self.nodes[node].hold {
            Hold::No => false,
            Hold::Until(at) => at > self.now && !self.resting,
            Hold::UntilLed => !self.is_led_without(node),
        }
    }

    /// A node loses its whole disk and comes back on an empty one.
    pub fn lose_disk(&mut self, node: usize) {
        let is_member = |partition| self.members_of(partition).contains(replica(node));
        if !self.is_sound() || !self.partitions().any(is_member) {
            return;
        }
        self.take_down(node, true);
        self.replace_disk(node, SimDisk::new(self.plan.seed ^ self.now));
        self.nodes[node].is_new = true;
        self.coverage.hit(Point::DiskLost);
        for partition in self.partitions() {
            self.group.doubtful.insert((node, partition));
        }
        if self.group.image.as_ref().is_some_and(|image| image.node == node) {
            self.group.image = None;
        }
        let back = self.now + self.random.between(20_000, 4 * SECOND);
        self.schedule.at(back, Event::Start { node });
    }

    fn replace_disk(&mut self, node: usize, disk: SimDisk) {
        disk.set_capacity(16 << 30);
        self.nodes[node].disk = disk;
        self.observer.disk_replaced(node);
    }

    /// Somebody takes an image of a disk; and another time puts it back.
    pub fn take_image(&mut self, node: usize) {
        match &self.group.image {
            None => {
                let crash = Crash::PowerCut { seed: self.random.next() };
                let disk = self.nodes[node].disk.crash_image(crash);
                self.group.image = Some(Image { node, disk, taken: self.now });
            }
            Some(image) if self.now >= image.taken + IMAGE_AGE_MIN && self.is_sound() => {
                let (node, until) = (image.node, self.now + 15 * SECOND);
                let (before, after) = (None, BTreeMap::new());
                self.group.truce = Some(Truce { node, until, before, after });
                self.calm_down();
                self.schedule.at(self.now + CALM_BEFORE, Event::PutBack);
            }
            Some(_) => {}
        }
    }

    fn calm_down(&mut self) {
        self.network.heal();
        self.network.weather = CALM;
        self.group.has_chunk_trouble = false;
        for node in 0..self.nodes.len() {
            self.flush_max[node] = 2_000;
            self.nodes[node].disk.set_capacity(16 << 30);
            self.nodes[node].disk.set_faults(Faults::default());
            self.set_watermark(node, false);
            if self.nodes[node].is_up() {
                self.resume(node, self.nodes[node].life);
            }
        }
    }

    /// Replaces a disk by an older image of it, once all is calm.
    pub fn put_back(&mut self) {
        let Some(truce) = &self.group.truce else { return };
        let (node, until) = (truce.node, truce.until);
        if self.resting || self.now > until || self.group.image.is_none() {
            self.group.truce = None;
            return;
        }
        if self.was_removed(node) {
            self.group.image = None;
            self.group.truce = None;
            return;
        }
        // Who has just started may yet be told that it forgot.
        let has_settled = self.nodes.iter().all(|node| self.now >= node.started + SECOND);
        if !self.is_led_without(usize::MAX) || !self.is_sound() || !has_settled {
            self.schedule.at(self.now + SECOND / 2, Event::PutBack);
            return;
        }
        let before = |partition: PartitionId| {
            let (leader, term) = self.leader_of(partition)?;
            let had = self.observer.durable(node, partition);
            // What it acknowledged to earlier leaders this one never heard, nor what it did as a member that was removed since.
            let log = self.nodes[node].owned.get(&partition)?.partition.log();
            let joined = self.group.joined.get(&(node, partition)).copied().unwrap_or(0);
            (log.term(had) == Some(term) && had > joined)
                .then_some((partition, (leader, term, had)))
        };
        let before = self.partitions().filter_map(before).collect();
        let image = self.group.image.take().expect("just seen");
        self.take_down(node, false);
        self.replace_disk(node, image.disk);
        self.nodes[node].hold = Hold::UntilLed;
        self.schedule.at(self.now + SECOND / 5, Event::Start { node });
        self.coverage.hit(Point::ImagePutBack);
        self.group.truce.as_mut().expect("just seen").before = Some(before);
    }

    /// Returns true when all voters but this node run and follow one leader, in each partition.
    fn is_led_without(&self, node: usize) -> bool {
        self.partitions().all(|partition| {
            let Some((leader, term)) = self.leader_of(partition) else { return false };
            let voters = self.members_of(partition).voters();
            let others = (0..self.nodes.len()).filter(|other| *other != node);
            let follows = |other: usize| {
                let status = self.status(other, partition);
                self.nodes[other].state == State::Up
                    && status
                        .is_some_and(|it| it.term == term && it.leader == Some(replica(leader)))
            };
            leader != node && others.filter(|other| voters.contains(&replica(*other))).all(follows)
        })
    }

    /// A node has started; what its image lacks must be noticed.
    pub fn note_image(&mut self, node: usize) {
        self.nodes[node].hold = Hold::No;
        let Some(truce) = self.group.truce.as_ref().filter(|truce| truce.node == node) else {
            return;
        };
        let Some(before) = &truce.before else { return };
        let compare = |(partition, (leader, term, had)): (&PartitionId, &(usize, u64, u64))| {
            // A later leader has what counts from others. It is not told of what it never heard.
            let is_same = *leader != node && self.leader_of(*partition) == Some((*leader, *term));
            let has = self.status(node, *partition)?.last;
            let is_voter = self.members_of(*partition).voters().contains(&replica(node));
            Some((*partition, (is_same && is_voter && has < *had, false)))
        };
        let after = before.iter().filter_map(compare).collect();
        self.group.truce.as_mut().expect("just seen").after = after;
    }

    /// Ends the truce when the image has caught up; says so when it was never muted although it should have been. I9: a voter that
    /// forgot would vote again.
    pub fn look_at_truce(&mut self, node: usize) {
        let started = self.nodes[node].started;
        let statuses: Vec<_> =
            self.partitions().filter_map(|it| Some((it, self.status(node, it)?.muted))).collect();
        let Some(truce) = self.group.truce.as_mut().filter(|truce| truce.node == node) else {
            return;
        };
        if truce.after.is_empty() || self.now < started + 100_000 {
            return;
        }
        let is_over = self.now > started + CALM_AFTER && statuses.iter().all(|(_, muted)| !muted);
        if !is_over && self.now < started + 10 * SECOND {
            return;
        }
        let truce = self.group.truce.take().expect("just seen");
        for (partition, (has_forgotten, was_muted)) in truce.after {
            if was_muted {
                self.coverage.hit(Point::ImageMuted);
            }
            let then = truce.before.as_ref().and_then(|before| before.get(&partition)).copied();
            let is_same = then
                .is_some_and(|(leader, term, _)| self.leader_of(partition) == Some((leader, term)));
            if has_forgotten && !was_muted && is_same {
                let what = format!(
                    "node {node} p{}: its disk was set back behind what it had acknowledged, and it votes",
                    partition.0
                );
                self.violate(Invariant::I9, what);
            }
        }
    }
}
