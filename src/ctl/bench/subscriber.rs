//! One subscriber: counts what arrives, and what does not, comes twice, or comes out of order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::{mpsc, watch};

use super::Run;
use super::payload::Stamp;
use super::report::latencies;
use crate::client::{Client, Event, Incoming, SubscribeRequest, user};
use crate::ctl::error::CtlError;
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::SubscribeFilter;

/// What one subscriber saw.
#[derive(Debug)]
pub(super) struct Received {
    /// Different messages of this run.
    pub unique_count: u64,
    /// Copies of what this subscriber had.
    pub duplicate_count: u64,
    /// Older than one of the same publisher and topic before it, and no copy.
    pub out_of_order_count: u64,
    /// Microseconds from sending to arrival.
    pub latency: Histogram<u64>,
    seen: Seen,
}

/// Which messages of which publisher came.
#[derive(Debug, Default)]
struct Seen {
    /// One bit for each sequence, by publisher.
    bits: BTreeMap<u32, Vec<u64>>,
    /// The newest by publisher and topic.
    newest: BTreeMap<(u32, u32), u64>,
}

/// What a message is, after those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    InOrder,
    OutOfOrder,
    Duplicate,
}

/// Subscribes, says so on `ready`, and counts until told to stop.
pub(super) async fn run(
    run: Arc<Run>,
    index: u32,
    ready: mpsc::Sender<()>,
    mut stopped: watch::Receiver<bool>,
) -> Result<Received, CtlError> {
    let mut options = run.options.clone();
    options.client_id = format!("bench-{:x}-subscriber-{index}", run.id);
    let (mut client, _) = run.arguments.connection.connect(&options).await?;
    subscribe(&run, &mut client).await?;
    let _ = ready.send(()).await;
    drop(ready);

    let mut received = Received {
        unique_count: 0,
        duplicate_count: 0,
        out_of_order_count: 0,
        latency: latencies(),
        seen: Seen::default(),
    };
    while !*stopped.borrow() {
        tokio::select! {
            event = client.next() => {
                let mut next = Some(event?);
                while let Some(event) = next {
                    if let Event::Message(message) = event {
                        received.on_message(&run, &mut client, &message);
                    }
                    next = client.try_next();
                }
            }
            changed = stopped.changed() => if changed.is_err() { break },
        }
    }
    let (_, left) = client.disconnect(ReasonCode::SUCCESS, None).await;
    left?;
    Ok(received)
}

async fn subscribe(run: &Run, client: &mut Client) -> Result<(), CtlError> {
    let qos = run.arguments.subscribe_qos.unwrap_or(run.arguments.qos);
    let filter = run.arguments.subscription();
    let group = run.arguments.group.iter().map(|name| ("consumer-group".to_owned(), name.clone()));
    let request = SubscribeRequest {
        filters: vec![SubscribeFilter::new(Bytes::from(filter), qos)],
        properties: user(&group.collect::<Vec<_>>()).collect(),
    };
    run.arguments.connection.subscribe(client, &request).await.map(drop)
}

impl Received {
    fn on_message(&mut self, run: &Run, client: &mut Client, message: &Incoming) {
        if let Some(handle) = message.handle {
            client.acknowledge(handle, ReasonCode::SUCCESS);
        }
        let stamp = Stamp::read(&message.payload).filter(|stamp| stamp.run == run.id);
        let Some(stamp) = stamp else { return };
        match self.seen.note(stamp) {
            Sight::Duplicate => {
                self.duplicate_count += 1;
                return;
            }
            Sight::OutOfOrder => self.out_of_order_count += 1,
            Sight::InOrder => {}
        }
        self.unique_count += 1;
        run.received_count.fetch_add(1, Ordering::Relaxed);
        let latency_us = run.now_ns().saturating_sub(stamp.sent_ns) / 1_000;
        self.latency.saturating_record(latency_us);
    }
}

impl Seen {
    fn note(&mut self, stamp: Stamp) -> Sight {
        let (word, bit) = ((stamp.sequence / 64) as usize, 1u64 << (stamp.sequence % 64));
        let bits = self.bits.entry(stamp.publisher).or_default();
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        if bits[word] & bit != 0 {
            return Sight::Duplicate;
        }
        bits[word] |= bit;
        let newest = self.newest.entry((stamp.publisher, stamp.topic)).or_insert(stamp.sequence);
        if *newest > stamp.sequence {
            return Sight::OutOfOrder;
        }
        *newest = stamp.sequence;
        Sight::InOrder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_judged_within_one_publisher_and_topic() {
        let mut seen = Seen::default();
        let stamp =
            |publisher, topic, sequence| Stamp { run: 1, publisher, topic, sequence, sent_ns: 0 };

        assert_eq!(seen.note(stamp(0, 0, 2)), Sight::InOrder);
        assert_eq!(seen.note(stamp(0, 1, 1)), Sight::InOrder, "another topic");
        assert_eq!(seen.note(stamp(1, 0, 0)), Sight::InOrder, "another publisher");
        assert_eq!(seen.note(stamp(0, 0, 0)), Sight::OutOfOrder);
        assert_eq!(seen.note(stamp(0, 0, 2)), Sight::Duplicate);
        assert_eq!(seen.note(stamp(0, 0, 200)), Sight::InOrder);
        assert_eq!(seen.note(stamp(0, 0, 200)), Sight::Duplicate);
    }
}
