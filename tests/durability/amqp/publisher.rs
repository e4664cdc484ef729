//! A client in confirm mode that publishes as fast as it may, through any number of broken connections. What one left open is not
//! repeated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fluxmq::protocol::amqp091::codec::method::*;
use fluxmq::protocol::amqp091::codec::{Method, Properties, Property};
use tokio::net::TcpStream;

use super::client::{Connected, address_of, connect, short};
use crate::ledger::{Sent, body};
use crate::peer::Peer;
use crate::rng::Rng;
use crate::world::{Link, World};

/// Publishes that are not confirmed, at most.
const WINDOW: usize = 100;
/// Publishes of one connection after which it may break it itself.
const CONNECTION_MIN: u64 = 500;

/// One publisher.
pub struct Publisher {
    sent: Sent,
    rng: Rng,
    progress: Arc<AtomicU64>,
}

impl Publisher {
    /// A publisher to both queues, by a topic exchange, a direct one, the default one and by topics.
    pub fn new(index: usize, world: &World, rng: Rng) -> Publisher {
        let topics = vec![
            format!("{index}:kill.topic/ordered.{index}"),
            format!("{index}:/kill.shared"),
            format!("{index}:amq.topic/ordered.{index}.topic"),
            format!("{index}:kill.direct/shared"),
        ];
        Publisher::of(topics, world, rng)
    }

    /// A publisher to these, in turn.
    pub fn of(topics: Vec<String>, world: &World, rng: Rng) -> Publisher {
        Publisher { sent: Sent::new(topics), rng, progress: world.progress.clone() }
    }

    /// Publishes until told to stop and what is open is answered; returns what became of everything.
    pub async fn run(mut self, mut link: Link) -> Sent {
        while let Some(Connected { mut peer, .. }) = connect(&mut link).await {
            if self.publish(&mut peer, &link).await.is_some() {
                break;
            }
        }
        self.sent
    }

    /// Uses one connection; `None` when it broke.
    async fn publish(&mut self, peer: &mut Peer<TcpStream>, link: &Link) -> Option<()> {
        let selected = peer.ask(1, ConfirmSelect::default()).await?;
        assert_eq!(selected, ConfirmSelectOk::default().into());
        let break_at = match self.rng.chance(30) {
            true => self.sent.count + CONNECTION_MIN + self.rng.below(2_000),
            false => u64::MAX,
        };
        let (mut last_tag, mut open) = (0, BTreeMap::new());
        loop {
            while !link.is_stopping() && open.len() < WINDOW {
                last_tag += 1;
                open.insert(last_tag, self.sent.count);
                self.put(peer);
            }
            if open.is_empty() {
                return Some(());
            }
            peer.flush().await;
            if self.sent.count >= break_at {
                return None;
            }
            match peer.next().await?.method {
                Method::BasicAck(BasicAck { delivery_tag, multiple }) => {
                    self.confirm(&mut open, delivery_tag, multiple);
                }
                other => panic!("{other:?}: everything is routed and has room"),
            }
        }
    }

    fn put(&mut self, peer: &mut Peer<TcpStream>) {
        let number = self.sent.count;
        let topic = self.sent.topic(number).to_owned();
        let (exchange, key) = address_of(&topic);
        let publish = BasicPublish {
            exchange: short(exchange),
            routing_key: short(key),
            mandatory: true,
            ..BasicPublish::default()
        };
        let properties = Properties::encode([Property::DeliveryMode(2)]);
        peer.put_publish(1, publish, &properties, &body(&topic, number));
        self.sent.count += 1;
    }

    fn confirm(&mut self, open: &mut BTreeMap<u64, u64>, tag: u64, multiple: bool) {
        let rest = open.split_off(&(tag + 1));
        let mut answered = std::mem::replace(open, rest);
        if !multiple {
            let this = answered.remove(&tag).expect("a tag is confirmed once");
            open.append(&mut answered);
            answered.insert(tag, this);
        }
        assert!(answered.contains_key(&tag), "a tag is confirmed once");
        self.progress.fetch_add(answered.len() as u64, Ordering::Relaxed);
        self.sent.confirmed.extend(answered.into_values());
    }
}
