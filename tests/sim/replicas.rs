//! Messages between nodes: what replicas say to one another, and the streams between a client's node and the partitions' leaders.

use bytes::Bytes;
use fluxmq::model::{PartitionId, Refusal};
use fluxmq::partition::ReceiveError;
use fluxmq::partition::request::{ConnectionId, Event as Said, Request};

use crate::checkers::observer::HEAD_BYTES;
use crate::coverage::Point;
use crate::node::{Post, node_of, replica};
use crate::world::{Event, World};

impl World {
    /// Sends what a node's replicas have to say.
    pub fn send_messages(&mut self, node: usize) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let mut messages = Vec::new();
        for (partition, owned) in &mut state.owned {
            while let Some((to, bytes)) = owned.partition.poll_message() {
                messages.push((*partition, node_of(to), bytes));
            }
        }
        for (partition, fenced) in &mut state.fenced {
            while let Some((to, bytes)) = fenced.poll_message() {
                messages.push((*partition, node_of(to), bytes));
            }
        }
        for (partition, to, bytes) in messages {
            let found = self.observer.said(node, partition, &bytes, &self.nodes[node].disk);
            self.accept(found);
            let digest = xxhash_rust::xxh3::xxh3_64(&bytes);
            let numbers = [node as u64, to as u64, u64::from(partition.0), digest];
            self.trace.note(self.now, "message", &numbers, || {
                format!(
                    "{node} to {to} p{} kind {} {} bytes",
                    partition.0,
                    bytes[HEAD_BYTES],
                    bytes.len()
                )
            });
            let Some(bytes) = self.handle_chunk(node, to, partition, bytes) else { continue };
            for delay in self.network.send(node, to, &mut self.random) {
                let (from, bytes) = (node, bytes.clone());
                self.schedule.at(self.now + delay, Event::Message { to, from, partition, bytes });
            }
        }
    }

    /// A message has arrived.
    pub fn receive(&mut self, to: usize, from: usize, partition: PartitionId, bytes: Bytes) {
        let wall = self.nodes[to].wall(self.now);
        let mut post = Post::default();
        if self.receive_fenced(to, from, partition, &bytes) {
            return;
        }
        if !self.nodes[to].owned.contains_key(&partition) {
            return;
        }
        let mut refused = None;
        self.step(to, partition, &mut post, |partition, post| {
            match partition.receive(replica(from), bytes, wall, post) {
                Ok(()) => Ok(()),
                Err(ReceiveError::Refused(error)) => {
                    refused = Some(error.to_string());
                    Ok(())
                }
                Err(ReceiveError::Failed(error)) => Err(error),
            }
        });
        if let Some(error) = refused {
            self.coverage.hit(Point::MessageRefused);
            self.trace.note(self.now, "refused", &[to as u64, from as u64], || error);
        }
        self.observe(to);
        self.deliver(to, post);
        self.turn(to);
    }

    /// Returns true when two nodes can hold a stream between them.
    pub fn is_linked(&self, one: usize, other: usize) -> bool {
        one == other
            || !(self.network.is_cut(one, other) || self.network.is_cut(other, one))
                && self.nodes[one].is_up()
                && self.nodes[other].is_up()
    }

    /// Where a connection's node believes the leader of a partition to be. One that is not in the group hears nothing of it, and asks one
    /// that is.
    pub fn leader_seen_from(&self, node: usize, partition: PartitionId) -> usize {
        let leader = |node: usize| {
            let owned = self.nodes[node].owned.get(&partition)?;
            owned.partition.status().leader
        };
        let members = self.members_of(partition);
        let mut others = (0..self.nodes.len())
            .filter(|other| members.contains(replica(*other)) && self.is_linked(node, *other));
        let seen = match members.contains(replica(node)) {
            true => leader(node),
            false => others.find_map(leader),
        };
        seen.map_or(node, node_of)
    }

    /// Writes into the trace how each replica stands, for who reads why nothing goes on.
    pub fn note_standing(&mut self) {
        for (number, node) in self.nodes.iter().enumerate() {
            for (partition, owned) in &node.owned {
                let status = owned.partition.status();
                self.trace
                    .note(self.now, "stands", &[], || format!("{number} {partition:?} {status:?}"));
            }
            for (partition, fenced) in &node.fenced {
                let status = fenced.status();
                self.trace
                    .note(self.now, "stands", &[], || format!("{number} {partition:?} {status:?}"));
            }
        }
    }

    /// The stream between a connection's node and a leader breaks: both ends learn of it.
    pub fn break_stream(&mut self, id: ConnectionId, leader: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let partitions = connection.lose_stream(leader);
        let Some(partitions) = partitions else { return };
        self.coverage.hit(Point::StreamBroken);
        // A connection that has nothing there goes on.
        if !partitions.is_empty() {
            self.wills.lost(id);
        }
        let notice = self.resign(id, partitions.into_iter());
        self.forget_at(id, leader, notice);
    }

    /// Tells a connection that it has nothing at partitions any more whose leader it lost; returns when it learns of it.
    pub fn resign(
        &mut self,
        id: ConnectionId,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> u64 {
        let notice = self.now + self.random.between(300, 500_000);
        let resigned = |partition: PartitionId| {
            let refusal = Refusal::NotLeader { partition: partition.0, hint: None };
            (partition, Said::Resigned(refusal))
        };
        let events = partitions.map(resigned).collect();
        self.schedule.at(notice, Event::Told { to: id, events });
        notice
    }

    /// Tells a node that a connection is gone.
    pub fn forget_at(&mut self, from: ConnectionId, node: usize, at: u64) {
        let forget = |partition| (PartitionId(partition), Request::Forget);
        let requests = (1..=self.plan.partitions).map(forget).collect();
        let life = self.nodes[node].life;
        self.schedule.at(at, Event::Requests { node, life, from, requests });
    }
}
