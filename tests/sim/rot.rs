//! Disks that rot: flipped bits, zeroed bytes and files that are gone, in what was durable long ago. No frame, header or file is damaged
//! on two nodes, so whatever happens all of it is somewhere: everything must come back by itself.

use fluxmq::model::PartitionId;
use fluxmq::partition::{Fenced, ReceiveError};
use fluxmq_log::disk::Disk;
use fluxmq_log::sim_disk::SimDisk;

use crate::coverage::Point;
use crate::node::{Owned, Post, State, member, replica};
use crate::plan::Fault;
use crate::world::World;

/// Places damaged at once, at most.
const PLACES_MAX: u64 = 6;

impl World {
    /// Damages one partition on a node, or on all of them at once.
    pub fn rot(&mut self, node: usize) {
        let nodes = self.nodes.len();
        let partition = PartitionId(1 + self.random.below(self.plan.partitions.into()) as u16);
        if self.random.chance(300) {
            let hit: Vec<usize> =
                (0..nodes).filter(|node| self.damage(*node, partition).is_some()).collect();
            hit.into_iter().for_each(|node| self.fence(node, partition));
        } else if self.damage(node, partition).is_some() {
            match self.random.below(4) {
                0 => self.crash(node, true),
                1 => self.fence(node, partition),
                _ => {}
            }
        }
    }

    /// Damages one of a partition's older segments on a node; `None` when there is nothing to damage.
    fn damage(&mut self, node: usize, partition: PartitionId) -> Option<()> {
        let nodes = self.nodes.len();
        if self.nodes[node].state != State::Up || nodes < 3 {
            return None;
        }
        let owned = self.nodes[node].owned.get(&partition)?;
        let log = owned.partition.log();
        let mut segments = log.segments();
        let active = segments.pop()?;
        // Until something of the active segment is durable, the one before is the end on this disk: a file that is lost there is cut, not repaired.
        if log.durable().index < active.base_index {
            segments.pop();
        }
        // What is applied was looked at.
        segments.retain(|segment| segment.last_index <= owned.partition.applied().index);
        if segments.is_empty() || owned.failed.is_some() {
            return None;
        }
        let segment = segments[self.random.below(segments.len() as u64) as usize].clone();
        let frames = log.entries(segment.base_index, segment.last_index + 1, u64::MAX).ok()?;
        let mut at = 4096;
        let mut places = Vec::new();
        for frame in &frames {
            let to = at + frame.header.frame_bytes();
            // Each entry rots on one node only, as does each header.
            if frame.header.index % nodes as u64 == node as u64 {
                places.push((at, to));
            }
            at = to;
        }
        if segment.segment_no % nodes as u64 == node as u64 {
            places.push((0, 4096));
        }
        let owner = self.rotten_files.entry((partition, segment.segment_no)).or_insert(None);
        let is_untouched = !self.rotten.iter().any(|it| it.2 == segment.segment_no);
        if owner.is_some_and(|owner| owner != node) || places.is_empty() {
            return None;
        }
        let disk = self.nodes[node].disk.clone();
        if owner.is_some() || is_untouched && self.random.chance(150) {
            *owner = Some(node);
            disk.remove(&segment.path).ok()?;
        } else {
            for _ in 0..1 + self.random.below(PLACES_MAX) {
                let (from, to) = *self.random.pick(&places);
                let at = from + self.random.below(to - from);
                let damaged = match self.random.chance(500) {
                    true => disk.flip_bit(&segment.path, at * 8 + self.random.below(8)),
                    false => disk.zero(&segment.path, at..to.min(at + 512)),
                };
                damaged.ok()?;
            }
        }
        self.rotten.insert((node, partition, segment.segment_no));
        self.coverage.hit(Point::Rotted);
        let numbers = [node as u64, u64::from(partition.0), segment.segment_no];
        self.trace.note(self.now, "rot", &numbers, || {
            format!("{node} p{} {}", partition.0, segment.path.display())
        });
        Some(())
    }

    /// A replica looks through all of its log, as one that found damage does.
    pub fn fence(&mut self, node: usize, partition: PartitionId) {
        let seed = self.random.next();
        let wall = self.nodes[node].wall(self.now);
        let member = member(node, self.plan.nodes, self.nodes[node].is_new, seed);
        let Some(owned) = self.nodes[node].owned.remove(&partition) else { return };
        // A flush may have ended with what found the damage.
        if owned.partition.log().durable().index > self.observer.durable(node, partition) {
            let key = (node, partition);
            let found = self.observer.flushed(key, &owned, &self.ledger, &mut self.coverage);
            self.accept(found);
        }
        let mut post = Post { from: partition, ..Post::default() };
        match owned.partition.fence(&member, wall, &mut post) {
            Ok(fenced) => {
                self.nodes[node].fenced.insert(partition, fenced);
            }
            // The disk fails, as it was told to: the process is started anew.
            Err(error) => {
                self.trace.note(self.now, "no-fence", &[node as u64], || error.to_string());
                self.crash(node, false);
                return;
            }
        }
        self.coverage.hit(Point::Fenced);
        let numbers = [node as u64, u64::from(partition.0)];
        self.trace.note(self.now, "fenced", &numbers, || format!("{node} p{}", partition.0));
        self.observer.crashed(node);
        self.deliver(node, post);
        self.send_messages(node);
    }

    /// Lets time pass for a node's replicas that wait for repair; those that are whole take part again.
    pub fn tick_fenced(&mut self, node: usize) {
        let wall = self.nodes[node].wall(self.now);
        let ids: Vec<PartitionId> = self.nodes[node].fenced.keys().copied().collect();
        for partition in ids {
            let Some(fenced) = self.nodes[node].fenced.get_mut(&partition) else { continue };
            let outcome = fenced.tick();
            let is_whole = outcome.is_ok() && fenced.is_whole();
            if outcome.is_err() {
                return self.crash(node, false);
            }
            if !is_whole {
                continue;
            }
            let fenced = self.nodes[node].fenced.remove(&partition).expect("it just ticked");
            self.count_repairs(&fenced);
            match fenced.finish(wall) {
                Ok((partition_again, _)) => {
                    // Where history has ended everywhere behind what it lost, and it has no snapshot to begin behind, it is cut there, by this process or the one before, and has
                    // no vote until it has all again.
                    if self.plan.ends_history() && partition_again.status().muted {
                        self.observer.replica_replaced(node, partition);
                    }
                    self.bind(&partition_again);
                    self.queues.reopened(node, partition);
                    self.nodes[node].owned.insert(partition, Owned::new(partition_again));
                    // A repair whose sync failed is in the page cache: a power cut may bring the damage back after a restart.
                    if !self.plan.faults.iter().any(|(fault, _)| *fault == Fault::SyncError) {
                        self.rotten.retain(|it| (it.0, it.1) != (node, partition));
                    }
                    self.observer.unfenced(node, partition);
                    self.observe(node);
                }
                Err(_) => return self.crash(node, false),
            }
        }
        self.send_messages(node);
    }

    fn count_repairs(&mut self, fenced: &Fenced<SimDisk>) {
        let repaired = fenced.status().repaired;
        let seen = [
            (Point::FrameRepaired, repaired.frames),
            (Point::BlockRepaired, repaired.blocks),
            (Point::SegmentReshipped, repaired.segments),
            (Point::FencedGave, repaired.given),
            (Point::BegunBehindHistory, repaired.begun),
        ];
        for (point, count) in seen {
            (0..count).for_each(|_| self.coverage.hit(point));
        }
    }

    /// A message for a replica that waits for repair; false when it does not.
    pub fn receive_fenced(
        &mut self,
        to: usize,
        from: usize,
        partition: PartitionId,
        bytes: &bytes::Bytes,
    ) -> bool {
        let Some(fenced) = self.nodes[to].fenced.get_mut(&partition) else { return false };
        match fenced.receive(replica(from), bytes.clone()) {
            Ok(()) => self.send_messages(to),
            Err(ReceiveError::Refused(_)) => self.coverage.hit(Point::MessageRefused),
            Err(ReceiveError::Failed(_)) => self.crash(to, false),
        }
        true
    }

    /// What rots unseen is looked for before everything is compared.
    pub fn scrub(&mut self, node: usize) {
        let rotten: Vec<PartitionId> =
            self.rotten.iter().filter(|it| it.0 == node).map(|it| it.1).collect();
        for partition in rotten {
            self.fence(node, partition);
        }
    }
}
