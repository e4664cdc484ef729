//! What was committed, as the first replica that applied it had it: the oracle's own copy of every log.

use std::collections::BTreeMap;

use fluxmq::model::{Control, PartitionId};
use fluxmq_index::Offset;
use fluxmq_log::format::frame::Frame;
use fluxmq_log::format::{BatchReader, BatchRecord, Message};

/// Committed entries by partition, from index 1 on without a gap.
#[derive(Default)]
pub struct Ledger {
    partitions: BTreeMap<PartitionId, Vec<Frame>>,
}

/// One record of a committed entry.
pub enum Record {
    Message { message: Box<Message>, queues: Vec<u64> },
    Control(Control),
}

impl Ledger {
    /// The committed entries of a partition.
    pub fn frames(&self, partition: PartitionId) -> &[Frame] {
        self.partitions.get(&partition).map_or(&[], Vec::as_slice)
    }

    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.partitions.keys().copied()
    }

    /// Notes an entry that a replica applied; says what is wrong when another one was there, or one is missing before it.
    pub fn apply(&mut self, partition: PartitionId, frame: &Frame) -> Result<(), String> {
        let frames = self.partitions.entry(partition).or_default();
        let frame = canonical(frame);
        let (index, next) = (frame.header.index, frames.len() as u64 + 1);
        if index > next {
            return Err(format!("entry {index} of partition {} before {next}", partition.0));
        }
        if index == next {
            frames.push(frame);
            return Ok(());
        }
        let known = &frames[index as usize - 1];
        if *known == frame {
            return Ok(());
        }
        let (old, new) = (&known.header, &frame.header);
        Err(format!(
            "entry {index} of partition {} was term {} offset {} crc {:08x} and is term {} offset {} crc {:08x}",
            partition.0, old.term, old.base_offset, old.crc, new.term, new.base_offset, new.crc
        ))
    }

    /// Every record of a partition.
    pub fn records(&self, partition: PartitionId) -> impl Iterator<Item = (Offset, u64, Record)> {
        self.frames(partition).iter().flat_map(records)
    }
}

/// The part of a frame that is the same on all replicas.
pub fn canonical(frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    frame.header.synced_bytes = 0;
    frame
}

/// The records of a frame: offset, log time, what.
pub fn records(frame: &Frame) -> Vec<(Offset, u64, Record)> {
    if !frame.header.kind.has_records() {
        return Vec::new();
    }
    let reader = BatchReader::new(&frame.header, frame.body.clone()).expect("committed: a batch");
    let routes: BTreeMap<u32, Vec<u64>> =
        reader.routes().iter().map(|route| (route.id, route.queues.clone())).collect();
    let record = |item: Result<(Offset, BatchRecord), _>| {
        let Ok((offset, record)) = item else { panic!("committed: a record") };
        match record {
            BatchRecord::Message(message) => {
                let queues = routes.get(&message.route_set).cloned().unwrap_or_default();
                (offset, message.ts, Record::Message { message: Box::new(message), queues })
            }
            BatchRecord::Control { op, payload, ts } => {
                let control = Control::decode(op, &payload).expect("committed: read");
                (offset, ts, Record::Control(control))
            }
        }
    };
    reader.into_iter().map(record).collect()
}
