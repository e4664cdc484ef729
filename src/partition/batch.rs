//! Records in and out of frames: what the log stores as bytes, the views see as records.

use std::collections::BTreeMap;
use std::sync::Arc;

use fluxmq_index::Offset;
use fluxmq_log::format::frame::Frame;
use fluxmq_log::format::{
    Batch, BatchBuilder, BatchError, BatchReader, BatchRecord, MessageRecord, Producer,
    RECORDS_PER_BATCH_MAX, Retain,
};
use thiserror::Error;

use super::request::Publish;
use crate::model::address::captured_topic;
use crate::model::record::{ControlError, DedupKey};
use crate::model::{Control, Millis, QoS, StoredMessage};
use crate::planted::{PlantedBug, is_planted};

/// Bytes at which a batch is proposed without waiting for the flush before it.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// A decoded record.
#[derive(Clone, Debug)]
pub enum Decoded {
    /// A message and the queues it was routed to.
    Message(StoredMessage, Arc<[u64]>),
    /// A change of state.
    Control(Control),
}

/// Why a frame with a right checksum does not decode: a defect of its writer, or a newer format.
#[derive(Debug, Error)]
#[error("frame at offset {base}: {source}")]
pub struct DecodeError {
    base: Offset,
    source: DecodeCause,
}

#[derive(Debug, Error)]
enum DecodeCause {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("message with QoS {0}")]
    Qos(u8),
}

/// Decodes a frame's records in order, with the offset and log time of each. Frames without records have none.
pub fn decode(
    frame: &Frame,
) -> Result<impl Iterator<Item = Result<(Offset, Millis, Decoded), DecodeError>>, DecodeError> {
    let base = frame.header.base_offset;
    let error = move |source: DecodeCause| DecodeError { base, source };
    let reader = match frame.header.kind.has_records() {
        true => {
            Some(BatchReader::new(&frame.header, frame.body.clone()).map_err(|e| error(e.into()))?)
        }
        false => None,
    };
    let none: Arc<[u64]> = Arc::new([]);
    let routes: BTreeMap<u32, Arc<[u64]>> = reader
        .iter()
        .flat_map(BatchReader::routes)
        .map(|route| (route.id, Arc::from(route.queues.as_slice())))
        .collect();
    let decode = move |item: Result<(Offset, BatchRecord), BatchError>| {
        let (offset, record) = item.map_err(|e| error(e.into()))?;
        let (time, decoded) = match record {
            BatchRecord::Message(message) => {
                let queues = routes.get(&message.route_set).unwrap_or(&none).clone();
                let qos =
                    QoS::from_bits(message.qos).ok_or(error(DecodeCause::Qos(message.qos)))?;
                (Millis(message.ts), Decoded::Message(to_stored(message, qos), queues))
            }
            BatchRecord::Control { op, payload, ts } => {
                let control = Control::decode(op, &payload).map_err(|e| error(e.into()))?;
                (Millis(ts), Decoded::Control(control))
            }
        };
        Ok((offset, time, decoded))
    };
    Ok(reader.into_iter().flatten().map(decode))
}

/// Returns a record's message as views and readers see it.
pub(super) fn to_stored(message: fluxmq_log::format::Message, qos: QoS) -> StoredMessage {
    let producer = message.producer;
    StoredMessage {
        topic: message.topic,
        payload: message.payload,
        properties: message.props,
        qos,
        retain: message.retain,
        time: Millis(message.ts),
        expiry_s: message.expiry_s,
        deliver_at: message.deliver_at.map(Millis),
        publisher: producer.map_or(0, |producer| producer.id),
        dedup: producer.map_or(DedupKey::default(), |producer| DedupKey {
            incarnation: producer.epoch,
            seq: producer.seq,
        }),
    }
}

/// The log times of a message.
#[derive(Clone, Copy, Debug)]
pub struct LogTimes {
    /// Its own.
    pub now: Millis,
    /// Before which queues must not hand it out.
    pub deliver_at: Option<Millis>,
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

    /// Adds a message that goes to these queues, ascending.
    pub fn message(&mut self, publish: &Publish, queues: &[u64], at: LogTimes) {
        let LogTimes { now, deliver_at } = at;
        let message = &publish.message;
        let route_set = self.route(queues);
        let captured = publish.is_copy.then(|| captured_topic(message.topic.as_bytes()));
        let producer = (message.publisher != 0).then_some(Producer {
            id: message.publisher,
            epoch: publish.dedup.incarnation,
            seq: publish.dedup.seq,
        });
        self.builder.push_message(&MessageRecord {
            topic: captured.as_ref().unwrap_or(message.topic.as_bytes()),
            route_set,
            qos: message.qos as u8,
            retain: match (message.retain && !publish.is_copy, message.payload.is_empty()) {
                (false, _) => Retain::No,
                (true, true) => Retain::Clear,
                (true, false) => Retain::Set,
            },
            ts: now.0,
            producer,
            expiry_s: message.expiry_s,
            priority: 0,
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
