//! Connecting, through any number of crashes, and names of messages.

use fluxmq::protocol::amqp091::codec::ShortString;
use fluxmq::protocol::amqp091::codec::method::*;
use tokio::net::TcpStream;

use crate::peer::Peer;
use crate::world::Link;

/// A connection with channel 1 open.
pub struct Connected {
    pub peer: Peer<TcpStream>,
    /// Of the broker.
    pub life: u64,
}

/// Connects, as often as it takes; `None` when the run has ended.
pub async fn connect(link: &mut Link) -> Option<Connected> {
    while !link.has_ended() {
        let addresses = link.addresses().await;
        if let Some(peer) = connect_to(&addresses.amqp).await {
            return Some(Connected { peer, life: addresses.life });
        }
        link.breathe().await;
    }
    None
}

/// Connects to a broker that nobody kills meanwhile, also when the run has ended.
pub async fn connect_now(link: &mut Link) -> Peer<TcpStream> {
    connect_to(&link.addresses().await.amqp).await.expect("nobody kills the broker now")
}

/// `None` when the broker went away meanwhile.
async fn connect_to(address: &str) -> Option<Peer<TcpStream>> {
    let stream = TcpStream::connect(address).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (mut peer, _) = Peer::greet(stream).await?;
    peer.start("PLAIN", b"\0guest\0guest").await?;
    peer.try_open().await?;
    open_channel(&mut peer).await?;
    Some(peer)
}

/// Opens channel 1; `None` when the broker went away meanwhile.
pub async fn open_channel(peer: &mut Peer<TcpStream>) -> Option<()> {
    let opened = peer.ask(1, ChannelOpen::default()).await?;
    assert_eq!(opened, ChannelOpenOk::default().into());
    Some(())
}

/// Where a publisher sends what its ledger calls a topic: `publisher:exchange/routing key`.
pub fn address_of(topic: &str) -> (&str, &str) {
    let (_, address) = topic.split_once(':').expect("its publisher comes first");
    address.split_once('/').expect("an exchange and a key")
}

/// A name for methods.
pub fn short(name: &str) -> ShortString {
    ShortString::truncated(name)
}
