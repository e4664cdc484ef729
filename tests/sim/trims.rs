//! Logs that begin late: trimmed behind replicas that are away, and snapshots on their way to those, with what may happen to them.

use bytes::Bytes;
use fluxmq::model::PartitionId;

use crate::checkers::observer::HEAD_BYTES;
use crate::coverage::Point;
use crate::disks::Hold;
use crate::node::{Post, State};
use crate::plan::SECOND;
use crate::world::{Event, World};

/// The kind of a message with a chunk of a snapshot, and where its bytes begin: behind index, offset and their length.
const CHUNK: u8 = 4;
const CHUNK_AT: usize = HEAD_BYTES + 20;
const CRC_BYTES: usize = 4;

impl World {
    /// Every node trims its logs as far as it may.
    pub fn trim_logs(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].state != State::Up {
                continue;
            }
            for partition in self.partitions() {
                let mut post = Post::default();
                let mut is_shorter = false;
                self.step(node, partition, &mut post, |partition, _| {
                    let before = partition.log().first_index();
                    is_shorter = partition.trim(partition.applied().index)? > before;
                    Ok(())
                });
                if is_shorter {
                    self.coverage.hit(Point::Trimmed);
                }
                self.deliver(node, post);
            }
        }
    }

    /// A node stays away for so long that the others' logs may begin after what it has.
    pub fn stay_away(&mut self, node: usize) {
        if !self.nodes[node].is_up() {
            return;
        }
        let by_power = self.random.chance(500);
        self.take_down(node, by_power);
        let back = self.now + self.random.between(5 * SECOND, 15 * SECOND);
        self.nodes[node].hold = Hold::Until(back);
        self.schedule.at(back, Event::Start { node });
    }

    /// What becomes of a message between replicas before the network has it: chunks of snapshots may be in trouble.
    pub fn handle_chunk(
        &mut self,
        from: usize,
        to: usize,
        partition: PartitionId,
        bytes: Bytes,
    ) -> Option<Bytes> {
        if bytes[1] != CHUNK {
            return Some(bytes);
        }
        self.coverage.hit(Point::ChunkSent);
        if self.resting && std::mem::take(&mut self.group.loses_last_chunk) {
            self.coverage.hit(Point::ChunkLost);
            return None;
        }
        if !self.group.has_chunk_trouble {
            return Some(bytes);
        }
        match self.random.below(100) {
            0..25 => {
                self.coverage.hit(Point::ChunkLost);
                None
            }
            25..45 if bytes.len() > CHUNK_AT + CRC_BYTES => {
                self.coverage.hit(Point::ChunkDamaged);
                Some(self.damaged(&bytes))
            }
            45..55 => {
                // Whoever gives it away, or fetches it, dies with part of it on its way.
                let (node, point) = match self.random.chance(500) {
                    true => (from, Point::SourceDied),
                    false => (to, Point::FetcherDied),
                };
                self.coverage.hit(point);
                self.trace.note(self.now, "chunk-dies", &[node as u64], || {
                    format!("{node} of {from} to {to} p{}", partition.0)
                });
                self.schedule.at(self.now + 500, Event::Crash { node });
                Some(bytes)
            }
            _ => Some(bytes),
        }
    }

    /// A chunk that was damaged where no checksum of the network sees it: on the disk or in the memory of who sent it.
    fn damaged(&mut self, bytes: &[u8]) -> Bytes {
        let mut bytes = bytes.to_vec();
        let end = bytes.len() - CRC_BYTES;
        let at = self.random.between(CHUNK_AT as u64, end as u64 - 1) as usize;
        bytes[at] ^= 1 << self.random.below(8);
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        Bytes::from(bytes)
    }
}
