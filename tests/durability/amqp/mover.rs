//! A client that takes from one queue and puts into another in transactions, through any number of broken connections.

use fluxmq::protocol::amqp091::codec::Method;
use fluxmq::protocol::amqp091::codec::method::*;
use tokio::net::TcpStream;

use super::client::{Connected, connect, short};
use crate::peer::{Peer, Received};
use crate::rng::Rng;
use crate::world::Link;

/// Where it takes from; named so that both live together.
pub const FROM: &str = "{kill.move}.from";
/// Where it puts.
pub const TO: &str = "{kill.move}.to";

/// Moves of a transaction, at most.
const MOVES_MAX: u64 = 20;

/// One such client.
pub struct Mover {
    /// Its choices.
    pub rng: Rng,
}

impl Mover {
    /// Moves until the run has ended.
    pub async fn run(mut self, mut link: Link) {
        while let Some(Connected { mut peer, .. }) = connect(&mut link).await {
            let mut is_going_on = true;
            while is_going_on && !link.has_ended() {
                is_going_on = self.transact(&mut peer).await.is_some();
            }
        }
    }

    /// One transaction, which is now and then rolled back; `None` when the connection broke.
    async fn transact(&mut self, peer: &mut Peer<TcpStream>) -> Option<()> {
        assert_eq!(peer.ask(1, TxSelect::default()).await?, TxSelectOk::default().into());
        let count = 1 + self.rng.below(MOVES_MAX);
        let mut last_tag = 0;
        for _ in 0..count {
            peer.send_on(1, BasicGet { queue: short(FROM), ..BasicGet::default() }).await;
            let Received { method, body, properties, .. } = peer.next().await?;
            match method {
                Method::BasicGetOk(ok) => {
                    let publish = BasicPublish { routing_key: short(TO), ..Default::default() };
                    peer.put_publish(1, publish, &properties, &body);
                    peer.put(1, BasicAck { delivery_tag: ok.delivery_tag, multiple: false });
                    last_tag = ok.delivery_tag;
                }
                Method::BasicGetEmpty(_) => break,
                other => panic!("{other:?}: the queue is there"),
            }
        }
        if self.rng.chance(10) && last_tag > 0 {
            assert_eq!(peer.ask(1, TxRollback::default()).await?, TxRollbackOk::default().into());
            // What it has again goes back.
            peer.put(1, BasicNack { delivery_tag: last_tag, multiple: true, requeue: true });
        }
        assert_eq!(peer.ask(1, TxCommit::default()).await?, TxCommitOk::default().into());
        Some(())
    }
}

/// The number of a message.
pub fn number_of(body: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(body);
    text.split(' ').next().and_then(|number| number.parse().ok()).expect("it begins with it")
}
