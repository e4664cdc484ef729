//! What is declared: exchanges, queues and bindings that are to stay, and those that are to end with the broker's process or with a
//! connection.

use fluxmq::protocol::amqp091::codec::Method;
use fluxmq::protocol::amqp091::codec::method::*;
use tokio::net::TcpStream;

use super::client::{connect_now, open_channel, short};
use super::mover::{FROM, TO};
use super::{ORDERED, SHARED};
use crate::peer::{Peer, Received};
use crate::world::{Link, World};

/// Exchanges that stay.
const EXCHANGES: [(&str, &str); 2] = [("kill.topic", "topic"), ("kill.direct", "direct")];
/// Queues that stay, with the exchange and the key that they are bound by; a queue that nobody publishes to among them.
const BOUND: [(&str, &str, &str); 6] = [
    (ORDERED, "kill.topic", "#.ordered.#"),
    (ORDERED, "amq.topic", "ordered.#"),
    (SHARED, "kill.direct", "shared"),
    ("kill.idle", "kill.direct", "idle"),
    (FROM, "kill.direct", FROM),
    (TO, "kill.direct", TO),
];
/// What ends with the process.
const TRANSIENT: &str = "kill.transient";
/// What ends with the connection.
const EXCLUSIVE: &str = "kill.exclusive";

/// A message that was left in a queue.
pub struct Left {
    pub exchange: String,
    pub key: String,
    pub redelivered: bool,
    pub body: Vec<u8>,
}

/// A connection that owns what ends with it.
pub struct Survey {
    peer: Peer<TcpStream>,
}

impl Survey {
    /// Declares everything.
    pub fn begin(world: &World) -> Survey {
        let beginning = |mut link: Link| async move {
            let peer = connect_now(&mut link).await;
            let mut survey = Survey { peer };
            survey.declare_lasting().await.expect("nobody kills the broker now");
            survey.declare_others().await.expect("nobody kills the broker now");
            survey
        };
        world.join(world.spawn(beginning))
    }

    /// Looks for everything after the broker was killed, and declares again what was to end.
    pub fn after_a_kill(mut self, world: &World) -> Survey {
        let looking = |mut link: Link| async move {
            assert_eq!(self.peer.next().await, None, "its connection is gone");
            self.peer = connect_now(&mut link).await;
            self.look().await.expect("nobody kills the broker now");
            self.declare_others().await.expect("nobody kills the broker now");
            self
        };
        world.join(world.spawn(looking))
    }

    /// Takes what is in a queue that nobody else reads.
    pub fn take_all(mut self, world: &World, queue: &'static str) -> (Vec<Left>, Survey) {
        let taking = |_: Link| async move {
            let mut all = Vec::new();
            while let Some(left) = self.take(queue).await {
                all.push(left);
            }
            (all, self)
        };
        world.join(world.spawn(taking))
    }

    async fn take(&mut self, queue: &str) -> Option<Left> {
        let get = BasicGet { queue: short(queue), no_ack: true, ..BasicGet::default() };
        self.peer.send_on(1, get).await;
        let Received { method, body, .. } = self.peer.next().await.expect("nobody kills it now");
        match method {
            Method::BasicGetOk(ok) => {
                let [exchange, key] =
                    [ok.exchange, ok.routing_key].map(|name| name.as_str().unwrap().to_owned());
                Some(Left { exchange, key, redelivered: ok.redelivered, body })
            }
            Method::BasicGetEmpty(_) => None,
            other => panic!("{queue}: {other:?}"),
        }
    }

    async fn declare_lasting(&mut self) -> Option<()> {
        for (exchange, kind) in EXCHANGES {
            self.declare_exchange(exchange, kind, true).await?;
        }
        for (queue, exchange, key) in BOUND {
            self.declare_queue(queue, (true, false)).await?;
            self.bind(queue, exchange, key).await?;
        }
        Some(())
    }

    async fn declare_others(&mut self) -> Option<()> {
        self.declare_exchange(TRANSIENT, "fanout", false).await?;
        self.declare_queue(TRANSIENT, (false, false)).await?;
        self.declare_queue(EXCLUSIVE, (true, true)).await?;
        for queue in [TRANSIENT, EXCLUSIVE] {
            self.bind(queue, TRANSIENT, "").await?;
        }
        // What is bound gets it.
        self.publish(TRANSIENT, "").await?;
        for queue in [TRANSIENT, EXCLUSIVE] {
            let left = self.take(queue).await;
            assert!(left.is_some_and(|left| !left.redelivered), "{queue}: it is bound");
        }
        Some(())
    }

    /// What was to stay is there, bound as it was; nothing else is.
    async fn look(&mut self) -> Option<()> {
        for (exchange, _) in EXCHANGES {
            let passive = passive_exchange(exchange);
            assert_eq!(self.peer.ask(1, passive).await?, ExchangeDeclareOk::default().into());
        }
        for (queue, ..) in BOUND {
            let answer = self.peer.ask(1, passive_queue(queue)).await?;
            assert!(matches!(answer, Method::QueueDeclareOk(_)), "{queue}: {answer:?}");
        }
        let purge = QueuePurge { queue: short("kill.idle"), ..QueuePurge::default() };
        self.peer.ask(1, purge.clone()).await?;
        self.publish("kill.direct", "idle").await?;
        let one = QueuePurgeOk { message_count: 1 };
        assert_eq!(self.peer.ask(1, purge).await?, one.into(), "the binding is there");
        for queue in [TRANSIENT, EXCLUSIVE] {
            self.expect_missing(passive_queue(queue)).await?;
        }
        self.expect_missing(passive_exchange(TRANSIENT)).await
    }

    async fn expect_missing(&mut self, method: impl Into<Method>) -> Option<()> {
        let method = method.into();
        match self.peer.ask(1, method.clone()).await? {
            Method::ChannelClose(close) => assert_eq!(close.reply_code, 404, "{method:?}"),
            other => panic!("{method:?}: {other:?}"),
        }
        self.peer.send_on(1, ChannelCloseOk::default()).await;
        open_channel(&mut self.peer).await
    }

    async fn declare_exchange(&mut self, name: &str, kind: &str, durable: bool) -> Option<()> {
        let (exchange, kind) = (short(name), short(kind));
        let declare = ExchangeDeclare { exchange, kind, durable, ..ExchangeDeclare::default() };
        assert_eq!(self.peer.ask(1, declare).await?, ExchangeDeclareOk::default().into());
        Some(())
    }

    async fn declare_queue(
        &mut self,
        name: &str,
        (durable, exclusive): (bool, bool),
    ) -> Option<()> {
        let queue = short(name);
        let declare = QueueDeclare { queue, durable, exclusive, ..QueueDeclare::default() };
        let answer = self.peer.ask(1, declare).await?;
        assert!(matches!(answer, Method::QueueDeclareOk(_)), "{name}: {answer:?}");
        Some(())
    }

    async fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Option<()> {
        let (queue, exchange, routing_key) = (short(queue), short(exchange), short(key));
        let bind = QueueBind { queue, exchange, routing_key, ..QueueBind::default() };
        assert_eq!(self.peer.ask(1, bind).await?, QueueBindOk::default().into());
        Some(())
    }

    /// Publishes what must not come back; the next answer says that it is stored.
    async fn publish(&mut self, exchange: &str, key: &str) -> Option<()> {
        let (exchange, routing_key) = (short(exchange), short(key));
        let publish =
            BasicPublish { exchange, routing_key, mandatory: true, ..BasicPublish::default() };
        self.peer.put_publish(1, publish, &Default::default(), b"survey");
        self.peer.flush().await;
        Some(())
    }
}

fn passive_queue(name: &str) -> QueueDeclare {
    QueueDeclare { queue: short(name), passive: true, ..QueueDeclare::default() }
}

fn passive_exchange(name: &str) -> ExchangeDeclare {
    ExchangeDeclare { exchange: short(name), passive: true, ..ExchangeDeclare::default() }
}
