//! Limits of connections: what is over them is told so, counted, and costs the others nothing.

use fluxmq::config::{Anonymous, Listener, Listeners};
use fluxmq::protocol::mqtt::ReasonCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::support::{Broker, Peer, local};

/// A connection that seems to come from `client`.
async fn from(broker: &Broker, client: &str) -> Peer<TcpStream> {
    let mut stream = broker.tcp().await;
    let header = format!("PROXY TCP4 {client} 198.51.100.1 40000 1883\r\n");
    stream.write_all(header.as_bytes()).await.unwrap();
    Peer::on(stream)
}

fn proxied(change: impl FnOnce(&mut fluxmq::config::Limits)) -> Broker {
    Broker::with(|config| {
        let listener = Listener { proxy_protocol: true, ..local() };
        config.listeners = Listeners { mqtt: vec![listener], ..Listeners::none() };
        config.authentication.anonymous = Anonymous::UnsafeAlways;
        change(&mut config.limits);
    })
}

#[tokio::test]
async fn a_connection_beyond_the_nodes_limit_is_told_that_the_server_is_busy() {
    let broker = Broker::with(|config| config.limits.connections_max = 2);
    let mut first = Peer::on(broker.tcp().await);
    let mut second = Peer::on(broker.tcp().await);
    assert_eq!(first.connect("1").await, Some(ReasonCode::SUCCESS));
    assert_eq!(second.connect("2").await, Some(ReasonCode::SUCCESS));

    let mut third = Peer::on(broker.tcp().await);
    assert_eq!(third.connect("3").await, Some(ReasonCode::SERVER_BUSY));
    assert_eq!(third.receive().await, None);

    first.ping().await;
    drop(second);
    let mut reason = Some(ReasonCode::SERVER_BUSY);
    while reason == Some(ReasonCode::SERVER_BUSY) {
        reason = Peer::on(broker.tcp().await).connect("4").await;
    }
    assert_eq!(reason, Some(ReasonCode::SUCCESS));
    broker.stop().await;
}

#[tokio::test]
async fn one_address_cannot_take_the_places_of_others() {
    let broker = proxied(|limits| limits.connections_per_address_max = 2);
    let (mut one, mut two) = (from(&broker, "192.0.2.1").await, from(&broker, "192.0.2.1").await);
    assert_eq!(one.connect("1").await, Some(ReasonCode::SUCCESS));
    assert_eq!(two.connect("2").await, Some(ReasonCode::SUCCESS));

    let mut three = from(&broker, "192.0.2.1").await;
    let mut other = from(&broker, "192.0.2.2").await;

    assert_eq!(three.connect("3").await, Some(ReasonCode::QUOTA_EXCEEDED));
    assert_eq!(other.connect("4").await, Some(ReasonCode::SUCCESS));
    one.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn an_address_that_comes_too_fast_is_told_so_once_its_burst_is_spent() {
    let broker = proxied(|limits| {
        limits.connect_rate_per_address_max = 1;
        limits.connect_burst_per_address = 3;
    });
    let mut reasons = Vec::new();
    for number in 0..5 {
        let mut peer = from(&broker, "192.0.2.1").await;
        reasons.push(peer.connect(&number.to_string()).await);
    }

    assert_eq!(reasons[..3], [Some(ReasonCode::SUCCESS); 3]);
    assert_eq!(reasons[4], Some(ReasonCode::CONNECTION_RATE_EXCEEDED));
    let mut other = from(&broker, "192.0.2.2").await;
    assert_eq!(other.connect("o").await, Some(ReasonCode::SUCCESS));
    broker.stop().await;
}

#[tokio::test]
async fn the_node_takes_so_many_connections_in_a_second_and_this_machine_is_no_stranger() {
    let strict = |limits: &mut fluxmq::config::Limits| {
        limits.connect_rate_max = 2;
        limits.connections_per_address_max = 1;
        limits.connect_burst_per_address = 1;
        limits.connect_rate_per_address_max = 1;
    };
    let broker = proxied(strict);
    let mut closed = 0;
    for number in 0..6 {
        let mut peer = Peer::on(broker.tcp().await);
        let header = format!("PROXY TCP4 192.0.2.{number} 198.51.100.1 40000 1883\r\n");
        // A connection that is closed at once may refuse the bytes already.
        let _ = peer.stream.write_all(header.as_bytes()).await;
        let bytes = super::support::bytes_of(&super::support::connect("a"));
        let _ = peer.stream.write_all(&bytes).await;
        closed += u32::from(peer.receive().await.is_none());
    }
    assert!(closed >= 2, "{closed}");
    broker.stop().await;

    let broker = Broker::with(|config| strict(&mut config.limits));
    let mut peers = Vec::new();
    for number in 0..20 {
        let mut peer = Peer::on(broker.tcp().await);
        assert_eq!(peer.connect(&number.to_string()).await, Some(ReasonCode::SUCCESS));
        peers.push(peer);
    }
    broker.stop().await;
}
