//! A client that consumes with manual acknowledgements, loses the connection, comes back and goes on.
//!
//! An acknowledgement is not answered. What tells a client that it is stored is the answer to a request for the same queue, sent on the
//! same channel after it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fluxmq::protocol::amqp091::codec::Method;
use fluxmq::protocol::amqp091::codec::method::*;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{Connected, connect, open_channel, short};
use super::record::{Consumed, Name, Turn};
use crate::peer::{Peer, Received};
use crate::rng::Rng;
use crate::world::Link;

/// Deliveries that are not acknowledged, at most.
const PREFETCH: u16 = 50;
/// How long it waits for more before it acknowledges what it has.
const IDLE: Duration = Duration::from_millis(10);

/// What a consumer does with what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Acknowledges everything.
    Acknowledges,
    /// Now and then gives something back, which comes again.
    GivesBack,
    /// Says that it has acknowledged, and has not: a planted violation.
    ForgetsToAcknowledge,
}

/// One consumer.
pub struct Consumer {
    /// Of which queue.
    pub queue: &'static str,
    /// No other is to be there, one of its own among them that the broker has not missed yet.
    pub is_alone: bool,
    pub habit: Habit,
    pub rng: Rng,
    /// Where it writes down what it hears, with the others of its queue.
    pub consumed: Arc<Mutex<Consumed>>,
}

/// What it has of one connection.
struct Hand {
    turn: Turn,
    open: BTreeMap<u64, Name>,
    /// Acknowledged, and no request after that.
    acked: Vec<Name>,
    /// Acknowledged before the request that is not answered.
    asked: Option<Vec<Name>>,
}

impl Consumer {
    /// Consumes until the run has ended, or a rule is broken.
    pub async fn run(mut self, mut link: Link) -> Result<(), String> {
        while let Some(Connected { mut peer, life }) = connect(&mut link).await {
            if self.consume(&mut peer, &link).await.is_some() {
                let turn = self.consumed.lock().unwrap().begin(life);
                let hand = Hand { turn, open: BTreeMap::new(), acked: Vec::new(), asked: None };
                self.listen(peer, hand, &mut link).await?;
            }
        }
        Ok(())
    }

    /// Begins to consume; `None` when the broker went away.
    async fn consume(&self, peer: &mut Peer<TcpStream>, link: &Link) -> Option<()> {
        loop {
            let qos = BasicQos { prefetch_count: PREFETCH, ..BasicQos::default() };
            assert_eq!(peer.ask(1, qos).await?, BasicQosOk::default().into());
            let consume = BasicConsume {
                queue: short(self.queue),
                consumer_tag: short("consumer"),
                exclusive: self.is_alone,
                ..BasicConsume::default()
            };
            match peer.ask(1, consume).await? {
                Method::BasicConsumeOk(_) => return Some(()),
                Method::ChannelClose(close) if close.reply_code == 403 && self.is_alone => {
                    peer.send_on(1, ChannelCloseOk::default()).await;
                    link.breathe().await;
                    open_channel(peer).await?;
                }
                other => panic!("{other:?}: the queue is there"),
            }
        }
    }

    /// Takes what comes on one connection, until it breaks.
    async fn listen(
        &mut self,
        mut peer: Peer<TcpStream>,
        mut hand: Hand,
        link: &mut Link,
    ) -> Result<(), String> {
        let mut left = match self.rng.chance(50) {
            true => 100 + self.rng.below(2_000),
            false => u64::MAX,
        };
        while left > 0 {
            let next = tokio::select! {
                next = timeout(IDLE, peer.next()) => next,
                () = link.ended() => return Ok(()),
            };
            match next {
                Ok(Some(received)) => self.take(received, &mut hand)?,
                Ok(None) => return Ok(()),
                Err(_) => self.settle(&mut peer, &mut hand, true).await,
            }
            if self.rng.chance(10) || hand.open.len() >= usize::from(PREFETCH) {
                self.settle(&mut peer, &mut hand, false).await;
            }
            left -= 1;
        }
        // What it has is as lost as with a broken cable.
        Ok(())
    }

    fn take(&self, received: Received, hand: &mut Hand) -> Result<(), String> {
        let mut consumed = self.consumed.lock().unwrap();
        match received.method {
            Method::BasicDeliver(deliver) => {
                let address =
                    [&deliver.exchange, &deliver.routing_key].map(|it| it.as_str().unwrap());
                let at = ((address[0], address[1]), deliver.redelivered);
                let name = consumed.delivered(&mut hand.turn, at, &received.body)?;
                hand.open.extend(name.map(|name| (deliver.delivery_tag, name)));
            }
            Method::QueueDeclareOk(_) => {
                for name in hand.asked.take().expect("it asked") {
                    consumed.flushed(&name);
                }
            }
            other => panic!("{other:?}: nothing else was asked for"),
        }
        Ok(())
    }

    /// Acknowledges some of what it has, or all; and asks, now and then, or when it has nothing else to do, for an answer.
    async fn settle(&mut self, peer: &mut Peer<TcpStream>, hand: &mut Hand, is_idle: bool) {
        let last = hand.open.keys().next_back().copied();
        if let Some(last) = last {
            let first = *hand.open.keys().next().expect("there is a last");
            match self.rng.below(3) {
                0 if self.habit == Habit::GivesBack => {
                    hand.open.remove(&first);
                    peer.put(1, BasicReject { delivery_tag: first, requeue: true });
                }
                1 if !is_idle => self.ack(peer, hand, (first, false)),
                _ => self.ack(peer, hand, (last, true)),
            }
        }
        if hand.asked.is_none() && !hand.acked.is_empty() && (is_idle || self.rng.chance(30)) {
            let queue = short(self.queue);
            peer.put(1, QueueDeclare { queue, passive: true, ..QueueDeclare::default() });
            hand.asked = Some(std::mem::take(&mut hand.acked));
        }
        peer.flush().await;
    }

    fn ack(&self, peer: &mut Peer<TcpStream>, hand: &mut Hand, (tag, multiple): (u64, bool)) {
        if self.habit != Habit::ForgetsToAcknowledge {
            peer.put(1, BasicAck { delivery_tag: tag, multiple });
        }
        let rest = hand.open.split_off(&(tag + 1));
        let mut acked = std::mem::replace(&mut hand.open, rest);
        if !multiple {
            let this = acked.remove(&tag).expect("it is open");
            hand.open.append(&mut acked);
            acked.insert(tag, this);
        }
        let mut consumed = self.consumed.lock().unwrap();
        acked.values().for_each(|name| consumed.acked(name));
        hand.acked.extend(acked.into_values());
    }
}
