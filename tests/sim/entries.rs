//! What is looked at of queues while the world goes on: what is committed of them, what replicas know, what is handed out.

use fluxmq::model::{Control, PartitionId};
use fluxmq::partition::Partition;
use fluxmq::partition::request::{ConnectionId, Event as Said};
use fluxmq_index::Offset;
use fluxmq_log::format::frame::Frame;
use fluxmq_log::sim_disk::SimDisk;

use crate::checkers::queues::HandOut;
use crate::checkers::{Invariant, wrong};
use crate::connection::delivered_id;
use crate::coverage::Point;
use crate::history::{EntryName, id_of};
use crate::ledger::{Record, records};
use crate::plan::Fault;
use crate::world::{World, brief};

impl World {
    /// A replica begins to take part: publishes find the queues that it knows. All nodes have one table of bindings here.
    pub fn bind(&self, partition: &Partition<SimDisk>) {
        let bindings = self.placement.bindings();
        partition.bindings().for_each(|filter| bindings.change(partition.id(), filter, true));
    }

    /// Takes over what was committed since the last look.
    pub fn learn(&mut self) {
        self.queues.now = self.now;
        for (partition, frame) in std::mem::take(&mut self.observer.frames) {
            self.note_committed(partition, &frame);
            if self.plan.ends_history() {
                self.note_retention(&frame);
            }
            if self.plan.replayers > 0 {
                self.replays.apply(partition, &frame);
            }
            if self.plan.has_wills {
                self.wills.apply(partition, &frame, &mut self.coverage);
            }
            if !self.plan.declared.is_empty() {
                self.queues.apply(partition, &frame, &mut self.coverage);
            }
        }
        let wills = std::mem::take(&mut self.wills.found);
        for violation in std::mem::take(&mut self.queues.found).into_iter().chain(wills) {
            self.accept(Err(violation));
        }
    }

    fn note_retention(&mut self, frame: &Frame) {
        for (.., record) in records(frame) {
            match record {
                Record::Control(Control::HistoryTrimmed { .. }) => {
                    self.coverage.hit(Point::HistoryEnded);
                }
                Record::Control(Control::Moved { .. }) => self.coverage.hit(Point::MovedOn),
                Record::Control(_) | Record::Message { .. } => {}
            }
        }
    }

    /// Returns true for a place below the beginning of history: only queues and retained messages have what was there.
    pub fn is_over(&self, (partition, offset): (PartitionId, Offset)) -> bool {
        let replicas = self.nodes.iter().filter_map(|node| node.owned.get(&partition));
        let starts = replicas.map(|owned| owned.partition.views().horizon.start());
        starts.max().is_some_and(|start| offset < start)
    }

    fn note_committed(&mut self, partition: PartitionId, frame: &Frame) {
        if !self.trace.is_read() {
            return;
        }
        for (offset, time, record) in records(frame) {
            let what = match &record {
                Record::Message { message, queues } => {
                    let id = id_of(&message.payload).unwrap_or_default();
                    let topic = String::from_utf8_lossy(&message.topic);
                    format!("{id:x} to {topic}, in {queues:x?}")
                }
                Record::Control(control) => brief(control),
            };
            self.trace.note(self.now, "committed", &[offset.0], || {
                format!("p{} {offset} at {time}: {what}", partition.0)
            });
        }
    }

    /// Looks at the groups that a node's replicas know; with every tick, entry for entry.
    pub fn look_at_queues(&mut self, node: usize, is_whole: bool) {
        if self.plan.declared.is_empty() {
            return;
        }
        let mut found = Vec::new();
        for (partition, owned) in &self.nodes[node].owned {
            if owned.failed.is_some() {
                continue;
            }
            let all = self.ledger.frames(*partition).len() as u64;
            let is_level = is_whole && owned.partition.applied().index == all;
            let views = owned.partition.views();
            found.push(self.queues.look_at((node, *partition), views, is_level));
            let (first, start) = (owned.partition.log().first_offset(), views.horizon.start());
            if is_level && first > start {
                let at = format!("node {node}, p{}", partition.0);
                let what = format!("{at}: history begins at {start}, and the log at {first}");
                found.push(wrong(Invariant::I15, what));
            }
        }
        found.into_iter().for_each(|found| self.accept(found));
    }

    /// Looks at what a node hands out.
    pub fn look_at_entry(
        &mut self,
        node: usize,
        (to, partition): (ConnectionId, PartitionId),
        event: &Said,
    ) {
        let (Said::Deliver(delivery), Some(id)) = (event, delivered_id(event)) else { return };
        if self.plan.declared.is_empty() {
            return;
        }
        let find = |wanted: &str| delivery.annotation(wanted);
        let Some(name) = EntryName::from_properties(find) else { return };
        let count = find("delivery-count").map_or(0, |count| count.parse().expect("a number"));
        let owned = self.nodes[node].owned.get(&partition);
        // A leader whose disk is slow applies after others what they have flushed: it need not know what is committed.
        let all = self.ledger.frames(partition).len() as u64;
        let is_level = owned.is_some_and(|owned| owned.partition.applied().index == all);
        let term = owned.and_then(|owned| owned.served);
        let leads = self.queues.is_newest(partition, term.filter(|_| is_level));
        let may_sleep = self.plan.faults.iter().any(|(fault, _)| *fault == Fault::Pause);
        let clock = self.nodes[node].wall(self.now).0;
        let clock = (!self.observer.has_clock_jumped).then_some(clock);
        if self.queues.is_stream(&name) {
            let is_again = self.queues.was_handed(&name);
            self.coverage.hit(if is_again { Point::ReadAgain } else { Point::Read });
        }
        let name = &name;
        let found = self.queues.handed(&HandOut {
            node,
            to,
            term,
            name,
            id,
            count,
            leads,
            clock,
            may_sleep,
        });
        self.accept(found);
    }
}
