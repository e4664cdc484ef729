//! One publisher: keeps its window full, or its rate, and measures every confirmation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::time::{Instant, sleep_until};

use super::Run;
use super::payload::Stamp;
use super::report::latencies;
use crate::client::{Client, Event, PublishRequest};
use crate::ctl::error::CtlError;
use crate::model::QoS;
use crate::protocol::mqtt::property::PropertyList;
use crate::protocol::mqtt::reason::ReasonCode;

/// Bytes waiting for the socket before a QoS 0 publisher waits, too.
const OUTPUT_BYTES_MAX: usize = 256 << 10;

/// What one publisher did.
#[derive(Debug)]
pub(super) struct Published {
    pub sent_count: u64,
    /// For QoS 0, written to the socket.
    pub confirmed_count: u64,
    pub refused_count: u64,
    /// Neither confirmed nor refused in time.
    pub unconfirmed_count: u64,
    /// Microseconds from sending to confirmation.
    pub latency: Histogram<u64>,
}

struct Publisher {
    run: Arc<Run>,
    index: u32,
    topics: Vec<Bytes>,
    /// When each unconfirmed message was sent, or was due.
    sent_ns: BTreeMap<u64, u64>,
    published: Published,
}

/// Publishes until the time or the count is up, then waits for the confirmations.
pub(super) async fn run(run: Arc<Run>, index: u32) -> Result<Published, CtlError> {
    let mut options = run.options.clone();
    options.client_id = format!("bench-{:x}-publisher-{index}", run.id);
    let (mut client, _) = run.arguments.connection.connect(&options).await?;
    let topic = |number| Bytes::from(format!("{}/{number}", run.arguments.topic));
    let topics = (0..run.arguments.topics.max(1)).map(topic).collect();
    let published = Published {
        sent_count: 0,
        confirmed_count: 0,
        refused_count: 0,
        unconfirmed_count: 0,
        latency: latencies(),
    };
    let mut publisher = Publisher { run, index, topics, sent_ns: BTreeMap::new(), published };
    publisher.publish(&mut client).await?;
    publisher.wait_for_confirmations(&mut client).await?;
    let (_, left) = client.disconnect(ReasonCode::SUCCESS, None).await;
    left?;
    Ok(publisher.published)
}

impl Publisher {
    async fn publish(&mut self, client: &mut Client) -> Result<(), CtlError> {
        let run = self.run.clone();
        let began = Instant::now();
        let ends_at = match run.arguments.count {
            Some(_) => None,
            None => Some(began + Duration::from_secs(run.arguments.seconds)),
        };
        let count_max = run.arguments.count.unwrap_or(u64::MAX);
        let patience = Duration::from_secs(run.arguments.drain);
        let mut last_event = began;
        while self.published.sent_count < count_max {
            let due_at = self.due_at(began);
            let now = Instant::now();
            if ends_at.is_some_and(|at| now >= at) {
                break;
            }
            let has_window = run.arguments.qos == QoS::AtMostOnce || client.window() > 0;
            if has_window && due_at <= now {
                self.send(client, due_at.max(began))?;
                if run.arguments.qos == QoS::AtMostOnce {
                    client.flush(OUTPUT_BYTES_MAX).await?;
                }
                continue;
            }
            // A broker that confirms nothing any more must not keep us.
            if !has_window && now >= last_event + patience {
                break;
            }
            let wakes_at = if has_window { due_at } else { last_event + patience };
            let wakes_at = ends_at.map_or(wakes_at, |at| at.min(wakes_at));
            tokio::select! {
                event = client.next() => {
                    self.on_events(client, event?);
                    last_event = Instant::now();
                }
                () = sleep_until(wakes_at) => {}
            }
        }
        Ok(())
    }

    /// When the next message is due: now, unless there is a rate.
    fn due_at(&self, began: Instant) -> Instant {
        match self.run.arguments.rate {
            0 => began,
            rate => {
                let sent_count = self.published.sent_count;
                began + Duration::from_nanos(sent_count.saturating_mul(1_000_000_000) / rate)
            }
        }
    }

    fn send(&mut self, client: &mut Client, due_at: Instant) -> Result<(), CtlError> {
        let sequence = self.published.sent_count;
        let topic = (sequence % self.topics.len() as u64) as u32;
        let now_ns = self.run.now_ns();
        // With a rate, waiting for one's turn is part of the latency: a slow answer must not hide the next one.
        let sent_ns = match self.run.arguments.rate {
            0 => now_ns,
            _ => now_ns.min((due_at - self.run.started).as_nanos() as u64),
        };
        let stamp = Stamp { run: self.run.id, publisher: self.index, topic, sequence, sent_ns };
        let qos = self.run.arguments.qos;
        let request = PublishRequest {
            topic: self.topics[topic as usize].clone(),
            payload: stamp.payload(self.run.arguments.size as usize),
            qos,
            retain: false,
            properties: PropertyList::default(),
        };
        client.publish(sequence, &request)?;
        self.published.sent_count += 1;
        if qos == QoS::AtMostOnce {
            self.published.confirmed_count += 1;
            self.run.published_count.fetch_add(1, Ordering::Relaxed);
        } else {
            self.sent_ns.insert(sequence, sent_ns);
        }
        Ok(())
    }

    async fn wait_for_confirmations(&mut self, client: &mut Client) -> Result<(), CtlError> {
        let patience = Duration::from_secs(self.run.arguments.drain);
        while !self.sent_ns.is_empty() {
            match tokio::time::timeout(patience, client.next()).await {
                Ok(event) => self.on_events(client, event?),
                Err(_) => break,
            }
        }
        self.published.unconfirmed_count = self.sent_ns.len() as u64;
        Ok(())
    }

    fn on_events(&mut self, client: &mut Client, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next {
            if let Event::Published { token, reason, .. } = event {
                self.on_published(token, reason);
            }
            next = client.try_next();
        }
    }

    fn on_published(&mut self, token: u64, reason: ReasonCode) {
        let Some(sent_ns) = self.sent_ns.remove(&token) else { return };
        if reason.is_error() {
            self.published.refused_count += 1;
            return;
        }
        self.published.confirmed_count += 1;
        self.run.published_count.fetch_add(1, Ordering::Relaxed);
        let latency_us = self.run.now_ns().saturating_sub(sent_ns) / 1_000;
        self.published.latency.saturating_record(latency_us);
    }
}
