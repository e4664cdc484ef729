//! What goes wrong, and how it ends.

use std::collections::BTreeMap;

use fluxmq::model::PartitionId;
use fluxmq_log::disk::Disk;
use fluxmq_log::sim_disk::{Crash, Faults, NameFault, SimDisk, SyncFault, WriteFault};

use crate::coverage::Point;
use crate::network::Weather;
use crate::node::State;
use crate::plan::{Fault, SECOND};
use crate::world::{Event, World};

impl World {
    /// Something goes wrong, and again later.
    pub fn fault(&mut self, fault: Fault, mean: u64) {
        if self.resting {
            return;
        }
        let next = self.now + 1000 + self.random.spread(mean);
        self.schedule.at(next, Event::Fault { fault, mean });
        if self.group.truce.is_some() && !fault.is_of_clients() {
            return;
        }
        let node = self.random.below(self.nodes.len() as u64) as usize;
        self.trace
            .note(self.now, "fault", &[fault as u64, node as u64], || format!("{fault:?} {node}"));
        match fault {
            Fault::Kill => self.crash(node, false),
            Fault::PowerLoss => self.crash(node, true),
            Fault::Blackout => {
                (0..self.nodes.len()).for_each(|node| self.crash(node, true));
                self.coverage.hit(Point::Blackout);
            }
            Fault::Pause => self.pause(node),
            Fault::Split | Fault::OneWay | Fault::Mesh | Fault::Weather => {
                self.disturb(fault, node)
            }
            Fault::SlowDisk => {
                self.flush_max[node] = *self.random.pick(&[50_000, 300_000, SECOND]);
                self.mend_later(fault, node, 5 * SECOND);
            }
            Fault::SyncError | Fault::WriteError => self.fail_disk(fault, node),
            Fault::NoSpace => {
                let room = self.random.below(64 << 10);
                let disk = &self.nodes[node].disk;
                let space = disk.space().expect("it has power");
                disk.set_capacity(space.total - space.available + room);
                self.coverage.hit(Point::NoSpace);
                self.mend_later(fault, node, 5 * SECOND);
            }
            Fault::Watermark => {
                self.set_watermark(node, true);
                self.mend_later(fault, node, 3 * SECOND);
            }
            Fault::ClockJump => {
                let span = *self.random.pick(&[1_000, 60_000, 3_600_000]);
                let ahead = self.random.below(2 * span) as i64 - span as i64;
                // Forward for good would end sessions; a day's jump and back is another matter.
                self.nodes[node].wall_ahead_ms = ahead / 2;
                self.observer.has_clock_jumped = true;
                self.coverage.hit(Point::ClockJumped);
            }
            Fault::Cut | Fault::TakeOver | Fault::Leave | Fault::Lull => self.trouble_client(fault),
            Fault::Snapshot => self.snapshot(node),
            Fault::Trim => self.trim_logs(),
            Fault::Away => self.stay_away(node),
            Fault::Chunks => {
                (self.group.has_chunk_trouble, self.group.loses_last_chunk) = (true, true);
                self.mend_later(fault, node, 8 * SECOND);
            }
            Fault::Members | Fault::Transfer => self.govern(fault),
            Fault::DiskLost => self.lose_disk(node),
            Fault::OldImage => self.take_image(node),
            Fault::Rot => self.rot(node),
            Fault::Overtaken => self.stop_unread(),
        }
    }

    fn trouble_client(&mut self, fault: Fault) {
        let client = self.random.below(self.clients.len() as u64) as usize;
        match fault {
            Fault::Cut => {
                self.coverage.hit(Point::ConnectionCut);
                self.hang_up(client);
            }
            Fault::TakeOver if self.clients[client].is_stored() => self.take_over(client),
            Fault::Leave => {
                self.coverage.hit(Point::Left);
                self.leave(client);
            }
            Fault::Lull => self.clients[client].silent_until = self.now + 4 * SECOND,
            _ => {}
        }
    }

    /// Ends a fault's effect on a node, or on a client.
    pub fn mend(&mut self, fault: Fault, node: usize) {
        match fault {
            Fault::SlowDisk => self.flush_max[node] = 2_000,
            Fault::NoSpace => self.nodes[node].disk.set_capacity(16 << 30),
            Fault::Watermark => self.set_watermark(node, false),
            Fault::Weather => self.network.weather = crate::network::CALM,
            Fault::Split | Fault::OneWay | Fault::Mesh => self.network.mend(),
            Fault::Chunks => self.group.has_chunk_trouble = false,
            Fault::Overtaken => self.go_on_elsewhere(node),
            _ => {}
        }
    }

    fn mend_later(&mut self, fault: Fault, node: usize, most: u64) {
        let at = self.now + self.random.between(100_000, most);
        self.schedule.at(at, Event::Mend(fault, node));
    }

    /// The process or the machine ends here and now; it starts again later.
    pub fn crash(&mut self, node: usize, by_power: bool) {
        if !self.nodes[node].is_up() {
            return;
        }
        self.take_down(node, by_power);
        let back = self.now + self.random.between(20_000, 4 * SECOND);
        self.schedule.at(back, Event::Start { node });
    }

    /// The process or the machine ends here and now.
    pub fn take_down(&mut self, node: usize, by_power: bool) {
        if !self.nodes[node].is_up() {
            return;
        }
        let seed = self.random.next();
        for owned in self.nodes[node].owned.values_mut() {
            let Some(flush) = owned.flush.take() else { continue };
            self.coverage.hit(Point::FlushInFlight);
            // The flush may have got anywhere, none of its steps included.
            let disk = &self.nodes[node].disk;
            disk.set_crash_after(disk.operations() + 1 + seed % 8);
            drop(flush.run());
            self.coverage.hit(Point::FlushTorn);
            break;
        }
        let crash = if by_power { Crash::PowerCut { seed } } else { Crash::Process };
        self.coverage.hit(if by_power { Point::PowerLost } else { Point::Killed });
        let image: SimDisk = self.nodes[node].disk.crash_image(crash);
        image.set_capacity(16 << 30);
        let state = &mut self.nodes[node];
        state.disk = image;
        state.state = State::Down;
        state.owned.clear();
        state.fenced.clear();
        state.waiting.clear();
        let notice = if by_power { self.random.between(1000, 3 * SECOND) } else { 500 };
        self.drop_connections(node, notice);
        self.end_service(node, notice);
        self.observer.crashed(node);
        self.queues.restarted(node);
    }

    /// A process one of whose partitions stopped is started anew: nothing else looks at the disk again.
    pub fn restart_soon(&mut self, node: usize) {
        let life = self.nodes[node].life;
        let at = self.now + self.random.between(50_000, 3 * SECOND);
        self.schedule.at(at, Event::Resume { node, life });
    }

    /// A stopped process continues; one with a stopped partition is restarted.
    pub fn resume(&mut self, node: usize, life: u32) {
        if !self.is_alive(node, life) {
            return;
        }
        if self.nodes[node].owned.values().any(|owned| owned.failed.is_some()) {
            return self.crash(node, false);
        }
        // Its partitions have the time of before until they are told the new one.
        let reset = |partition: &PartitionId| (*partition, self.now);
        self.observer.resets.extend(self.nodes[node].owned.keys().map(reset));
        self.unpause(node);
    }

    fn pause(&mut self, node: usize) {
        if self.nodes[node].state != State::Up {
            return;
        }
        let until = self.now + self.random.between(100_000, 10 * SECOND);
        self.pause_until(node, until);
    }

    /// A process that runs stops for a while.
    pub fn pause_until(&mut self, node: usize, until: u64) {
        self.nodes[node].state = State::Paused;
        self.coverage.hit(Point::Paused);
        let life = self.nodes[node].life;
        self.schedule.at(until, Event::Resume { node, life });
    }

    fn fail_disk(&mut self, fault: Fault, node: usize) {
        if !self.nodes[node].is_up() {
            return;
        }
        let at = self.random.between(1, 12);
        let mut faults = Faults::default();
        if fault == Fault::SyncError {
            let kind = *self.random.pick(&[
                SyncFault::DropKeepingCache,
                SyncFault::DropWithCache,
                SyncFault::Error,
            ]);
            faults.syncs = BTreeMap::from([(at, kind)]);
        } else if self.random.chance(700) {
            let kind =
                *self.random.pick(&[WriteFault::Error, WriteFault::Short { bytes_max: 100 }]);
            faults.writes = BTreeMap::from([(at, kind)]);
        } else {
            let kind = *self.random.pick(&[NameFault::Error, NameFault::NoSpace]);
            faults.names = BTreeMap::from([(at, kind)]);
        }
        self.nodes[node].disk.set_faults(faults);
    }

    pub fn set_watermark(&mut self, node: usize, is_full: bool) {
        for owned in self.nodes[node].owned.values_mut() {
            owned.partition.set_disk_full(is_full);
        }
    }

    fn snapshot(&mut self, node: usize) {
        let State::Up = self.nodes[node].state else { return };
        let mut post = crate::node::Post::default();
        let ids: Vec<_> = self.nodes[node].owned.keys().copied().collect();
        for partition in ids {
            // The log takes none while a flush is under way.
            if self.nodes[node].owned[&partition].flush.is_none() {
                self.step(node, partition, &mut post, |partition, _| partition.checkpoint());
                self.coverage.hit(Point::SnapshotSaved);
            }
        }
        self.deliver(node, post);
    }

    fn disturb(&mut self, fault: Fault, node: usize) {
        let count = self.nodes.len();
        match fault {
            Fault::Split => {
                let side = 1 + self.random.below((1 << count) - 2);
                let is_in = |node: usize| side & (1 << node) != 0;
                for from in 0..count {
                    (0..count)
                        .filter(|to| is_in(from) != is_in(*to))
                        .for_each(|to| self.network.cut(from, to));
                }
            }
            Fault::OneWay => {
                let hears = self.random.chance(500);
                for other in (0..count).filter(|other| *other != node) {
                    let (from, to) = if hears { (node, other) } else { (other, node) };
                    self.network.cut(from, to);
                }
            }
            Fault::Mesh => {
                let other = (node + 1 + self.random.below(count as u64 - 1) as usize) % count;
                self.network.cut(node, other);
                self.network.cut(other, node);
            }
            _ => {
                self.network.weather = Weather {
                    loss: self.random.below(300),
                    twice: self.random.below(200),
                    delay_min: self.random.between(100, 20_000),
                    late: self.random.below(300),
                    late_max: self.random.between(1_000, SECOND),
                };
            }
        }
        self.mend_later(fault, node, 8 * SECOND);
    }

    /// Nothing goes wrong any more, and what is down comes up.
    pub fn heal(&mut self) {
        self.resting = true;
        self.network.heal();
        self.group.has_chunk_trouble = false;
        self.trace.note(self.now, "heal", &[], String::new);
        for node in 0..self.nodes.len() {
            self.flush_max[node] = 2_000;
            self.nodes[node].disk.set_capacity(16 << 30);
            self.nodes[node].disk.set_faults(Faults::default());
            self.set_watermark(node, false);
            self.unpause(node);
            self.scrub(node);
            self.schedule.at(self.now + 1000, Event::Start { node });
        }
    }
}
