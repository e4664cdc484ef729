//! Records out of frames: what the log stores as bytes, the views and those who look for messages see as records.

use std::collections::BTreeMap;
use std::sync::Arc;

use fluxmq_index::Offset;
use fluxmq_log::format::frame::Frame;
use fluxmq_log::format::{BatchError, BatchReader, BatchRecord};
use thiserror::Error;

use super::record::{ControlError, DedupKey};
use super::{Control, Millis, QoS, Record, StoredMessage};

/// A decoded record.
#[derive(Clone, Debug)]
pub enum Decoded {
    /// A message and the queues it was routed to.
    Message(StoredMessage, Arc<[u64]>),
    /// A change of state.
    Control(Control),
}

impl Decoded {
    /// Returns it as the views see it.
    pub fn as_record(&self) -> Record<'_> {
        match self {
            Decoded::Message(message, queues) => Record::Message(message, queues),
            Decoded::Control(control) => Record::Control(control),
        }
    }
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
pub fn to_stored(message: fluxmq_log::format::Message, qos: QoS) -> StoredMessage {
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
        priority: message.priority,
        publisher: producer.map_or(0, |producer| producer.id),
        dedup: producer.map_or(DedupKey::default(), |producer| DedupKey {
            incarnation: producer.epoch,
            seq: producer.seq,
        }),
    }
}
