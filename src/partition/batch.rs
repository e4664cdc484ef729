//! Records into frames. How they come out again is [`model::frame`](crate::model::frame)'s.

use std::collections::BTreeMap;

use fluxmq_log::format::{
    Batch, BatchBuilder, MessageRecord, Producer, RECORDS_PER_BATCH_MAX, Retain,
};

use super::request::Publish;
use crate::model::address::captured_topic;
use crate::model::{Control, Millis};
use crate::planted::{PlantedBug, is_planted};

/// Bytes at which a batch is proposed without waiting for the flush before it.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What the leader says of a message beside what its publisher did.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// Its log time.
    pub now: Millis,
    /// Before which queues must not hand it out.
    pub deliver_at: Option<Millis>,
    /// What queues with priorities order it by.
    pub priority: u8,
}

/// A batch in the making.
#[derive(Debug)]
pub struct Building {
    builder: BatchBuilder,
    /// Route sets of this frame, by their queues: a frame explains itself.
    routes: BTreeMap<Box<[u64]>, u32>,
    scratch: Vec<u8>,
}

impl Building {
    /// Begins a batch at log time `now`.
    pub fn new(now: Millis) -> Building {
        Building { builder: BatchBuilder::new(now.0), routes: BTreeMap::new(), scratch: Vec::new() }
    }

    /// Returns true when nothing was added.
    pub fn is_empty(&self) -> bool {
        self.builder.count() == 0
    }

    /// Returns true when it should be proposed before anything else is added.
    pub fn is_full(&self) -> bool {
        self.builder.len_bytes() >= BATCH_BYTES_MAX
            || self.builder.count() + 16 > RECORDS_PER_BATCH_MAX
    }

    /// Returns true when so many more records fit into it.
    pub fn has_room_for(&self, records: usize) -> bool {
        self.builder.count() as usize + records <= RECORDS_PER_BATCH_MAX as usize
    }

    /// Adds a message that goes to these queues and lanes of queues, ascending.
    pub fn message(&mut self, publish: &Publish, queues: &[u64], stamp: Stamp) {
        let Stamp { now, deliver_at, priority } = stamp;
        let message = &publish.message;
        let route_set = self.route(queues);
        let captured = publish.is_copy().then(|| captured_topic(message.topic.as_bytes()));
        let producer = (message.publisher != 0).then_some(Producer {
            id: message.publisher,
            epoch: publish.dedup.incarnation,
            seq: publish.dedup.seq,
        });
        self.builder.push_message(&MessageRecord {
            topic: captured.as_ref().unwrap_or(message.topic.as_bytes()),
            route_set,
            qos: message.qos as u8,
            retain: match (publish.retains(), message.payload.is_empty()) {
                (false, _) => Retain::No,
                (true, true) => Retain::Clear,
                (true, false) => Retain::Set,
            },
            ts: now.0,
            producer,
            expiry_s: message.expiry_s,
            priority,
            deliver_at: deliver_at.map(|at| at.0),
            key: None,
            props: message.properties.as_bytes(),
            payload: match is_planted(PlantedBug::CutPayload) {
                true => &message.payload[..message.payload.len().min(50)],
                false => &message.payload,
            },
        });
    }

    /// Adds a change of state.
    pub fn control(&mut self, control: &Control, now: Millis) {
        self.scratch.clear();
        control.encode(&mut self.scratch);
        self.builder.push_control(control.opcode(), &self.scratch, now.0);
    }

    /// Closes the batch.
    pub fn finish(self) -> Batch {
        self.builder.finish()
    }

    fn route(&mut self, queues: &[u64]) -> u32 {
        if queues.is_empty() {
            return 0;
        }
        if let Some(id) = self.routes.get(queues) {
            return *id;
        }
        let id = self.routes.len() as u32 + 1;
        self.routes.insert(queues.into(), id);
        self.builder.define_route(id, queues);
        id
    }
}
