//! A client that publishes as fast as it may, through any number of broken connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fluxmq::client::{Client, ConnectOptions, Event, PublishRequest, Session};
use fluxmq::model::QoS;

use crate::ledger::{Sent, body};
use crate::process::PATIENCE;
use crate::rng::Rng;
use crate::world::{Link, is_crash};

/// Publishes of one connection after which it may break it itself.
const CONNECTION_MIN: u64 = 500;

/// One publisher.
pub struct Publisher {
    /// Its client id.
    pub client_id: String,
    /// Where it publishes, in turn.
    pub topics: Vec<String>,
    /// How surely.
    pub qos: QoS,
    /// It keeps its session over connections and finishes what it began; else what a lost connection left open is not repeated.
    pub is_persistent: bool,
    /// It publishes so many; else until it is told to stop.
    pub count: Option<u64>,
    /// Its choices.
    pub rng: Rng,
    /// Confirmed publishes of all publishers.
    pub progress: Arc<AtomicU64>,
}

impl Publisher {
    /// Publishes until told to stop; then finishes what it can and returns what became of everything.
    pub async fn run(mut self, mut link: Link) -> Sent {
        let mut sent = Sent::new(self.topics.clone());
        let mut session = Session::default();
        let mut was_known = false;
        loop {
            let address = link.address().await;
            let options = self.options();
            let connected = Client::connect(&address, &options, &mut session, PATIENCE).await;
            let (client, connected) = match connected {
                Ok(connected) => connected,
                Err(error) if is_crash(&error) => {
                    link.breathe().await;
                    continue;
                }
                Err(error) => panic!("{}: {error}", self.client_id),
            };
            if self.is_persistent && was_known {
                assert!(connected.session_present, "{}: its session is lost", self.client_id);
            }
            was_known = true;
            match self.publish(client, &link, &mut sent).await {
                None => return sent,
                Some(left) if self.is_persistent => session = left,
                Some(_) => session = Session::default(),
            }
        }
    }

    /// Uses one connection; returns the session when it broke, `None` when everything is finished.
    async fn publish(
        &mut self,
        mut client: Client,
        link: &Link,
        sent: &mut Sent,
    ) -> Option<Session> {
        let mut open = client.session().unfinished_count() as u64;
        let break_at = match self.rng.chance(30) {
            true => sent.count + CONNECTION_MIN + self.rng.below(2_000),
            false => u64::MAX,
        };
        loop {
            let is_enough = |sent: &Sent| match self.count {
                Some(count) => sent.count >= count,
                None => link.is_stopping(),
            };
            while !is_enough(sent) && client.window() > 0 {
                let topic = sent.topic(sent.count).to_owned();
                let request = PublishRequest {
                    payload: Bytes::from(body(&topic, sent.count)),
                    topic: Bytes::from(topic),
                    qos: self.qos,
                    ..PublishRequest::default()
                };
                client.publish(sent.count, &request).unwrap();
                sent.count += 1;
                open += 1;
            }
            if is_enough(sent) && open == 0 {
                return None;
            }
            if sent.count >= break_at {
                // What has come in is taken; what comes after is as lost as with a broken cable.
                while let Some(event) = client.try_next() {
                    self.on_event(event, sent, &mut open);
                }
                return Some(client.into_session());
            }
            match client.next().await {
                Ok(event) => self.on_event(event, sent, &mut open),
                Err(error) if is_crash(&error) => return Some(client.into_session()),
                Err(error) => panic!("{}: {error}", self.client_id),
            }
        }
    }

    fn on_event(&self, event: Event, sent: &mut Sent, open: &mut u64) {
        match event {
            Event::Published { token, reason, text } => {
                assert!(!reason.is_error(), "{}: {token}: {reason} {text}", self.client_id);
                assert!(
                    sent.confirmed.insert(token),
                    "{}: {token} confirmed twice",
                    self.client_id
                );
                *open -= 1;
                self.progress.fetch_add(1, Ordering::Relaxed);
            }
            Event::Connected(_) => {}
            other => panic!("{}: {other:?}", self.client_id),
        }
    }

    fn options(&self) -> ConnectOptions {
        ConnectOptions {
            client_id: self.client_id.clone(),
            clean_start: !self.is_persistent,
            session_expiry_s: if self.is_persistent { u32::MAX } else { 0 },
            inflight_max: 100,
            ..ConnectOptions::default()
        }
    }
}
