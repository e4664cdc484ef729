//! A client with a session that never ends: it listens, loses the connection, comes back and goes on.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fluxmq::client::{Client, ConnectOptions, Event, Session, SubscribeRequest, user};
use fluxmq::model::QoS;
use fluxmq::protocol::mqtt::reason::ReasonCode;
use fluxmq::protocol::mqtt::types::SubscribeFilter;

use crate::ledger::Heard;
use crate::process::PATIENCE;
use crate::rng::Rng;
use crate::world::{Link, is_crash};

/// How long it stays away at most, now and then: its backlog grows meanwhile.
const AWAY_MAX: Duration = Duration::from_millis(400);

/// One subscriber.
pub struct Subscriber {
    /// Its client id.
    pub client_id: String,
    /// What it listens to.
    pub filter: String,
    /// How surely.
    pub qos: QoS,
    /// User properties of SUBSCRIBE.
    pub properties: Vec<(String, String)>,
    /// Its choices.
    pub rng: Rng,
    /// Where it writes down what it hears.
    pub heard: Arc<Mutex<Heard>>,
    /// Told once it has subscribed.
    pub ready: Sender<()>,
}

impl Subscriber {
    /// Listens until the link ends. The subscription is made once: after that the session has it.
    pub async fn run(mut self, mut link: Link) {
        let mut session = Session::default();
        let (mut was_known, mut is_subscribed) = (false, false);
        while !link.has_ended() {
            let address = link.address().await;
            let connected =
                Client::connect(&address, &self.options(), &mut session, PATIENCE).await;
            let (mut client, connected) = match connected {
                Ok(connected) => connected,
                Err(error) if is_crash(&error) => {
                    link.breathe().await;
                    continue;
                }
                Err(error) => panic!("{}: {error}", self.client_id),
            };
            assert!(
                connected.session_present || !was_known,
                "{}: its session is lost",
                self.client_id
            );
            was_known = true;
            if !is_subscribed {
                client.subscribe(0, &self.request()).unwrap();
            }
            session = self.listen(client, &mut link, &mut is_subscribed).await;
            if self.rng.chance(30) {
                tokio::time::sleep(self.rng.time(AWAY_MAX)).await;
            }
        }
    }

    async fn listen(
        &mut self,
        mut client: Client,
        link: &mut Link,
        is_subscribed: &mut bool,
    ) -> Session {
        let mut left = match self.rng.chance(50) {
            true => 100 + self.rng.below(2_000),
            false => u64::MAX,
        };
        loop {
            let event = tokio::select! {
                event = client.next() => event,
                () = link.ended() => return client.into_session(),
            };
            match event {
                Ok(event) => self.on_event(event, &mut client, is_subscribed),
                Err(error) if is_crash(&error) => return client.into_session(),
                Err(error) => panic!("{}: {error}", self.client_id),
            }
            left -= 1;
            if left == 0 {
                // Acknowledgements that are not written yet are lost with the connection, as they would be.
                while let Some(event) = client.try_next() {
                    self.on_event(event, &mut client, is_subscribed);
                }
                return client.into_session();
            }
        }
    }

    fn on_event(&self, event: Event, client: &mut Client, is_subscribed: &mut bool) {
        match event {
            Event::Subscribed { reasons, text, .. } => {
                assert_eq!(reasons, [ReasonCode(self.qos as u8)], "{}: {text}", self.client_id);
                *is_subscribed = true;
                let _ = self.ready.send(());
            }
            Event::Message(message) => {
                let topic = std::str::from_utf8(&message.topic).unwrap();
                let mut heard = self.heard.lock().unwrap();
                heard.on_message(&self.client_id, topic, &message.payload);
                drop(heard);
                assert_eq!(message.qos, self.qos, "{}: {topic}", self.client_id);
                client.acknowledge(message.handle.unwrap(), ReasonCode::SUCCESS);
            }
            Event::Connected(_) => {}
            other => panic!("{}: {other:?}", self.client_id),
        }
    }

    fn options(&self) -> ConnectOptions {
        ConnectOptions {
            client_id: self.client_id.clone(),
            clean_start: false,
            session_expiry_s: u32::MAX,
            receive_maximum: 100,
            ..ConnectOptions::default()
        }
    }

    fn request(&self) -> SubscribeRequest {
        SubscribeRequest {
            filters: vec![SubscribeFilter::new(Bytes::from(self.filter.clone()), self.qos)],
            properties: user(&self.properties).collect(),
        }
    }
}
