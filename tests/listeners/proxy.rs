//! The PROXY protocol in front of MQTT, of TLS, and where nobody asked for it.

use fluxmq::config::{Anonymous, Listener, Listeners, Tls, TlsListener};
use fluxmq::protocol::mqtt::ReasonCode;
use tokio::io::AsyncWriteExt;

use super::support::{Authority, Broker, Peer, local};

const HEADER: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xC0\0\x02\x01\xC6\x33\x64\x01\x9C\x40\x07\x5B";

fn proxied() -> Listener {
    Listener { proxy_protocol: true, ..local() }
}

fn broker(anonymous: Anonymous) -> Broker {
    Broker::with(|config| {
        config.listeners = Listeners { mqtt: vec![proxied()], ..Listeners::none() };
        config.authentication.anonymous = anonymous;
        config.limits.handshake_timeout_s = 1;
    })
}

#[tokio::test]
async fn the_clients_address_is_the_one_that_the_header_says() {
    for (header, anonymous, reason) in [
        (HEADER, Anonymous::UnsafeAlways, ReasonCode::SUCCESS),
        // Whoever a proxy speaks for is not on this machine, not even if it says so.
        (HEADER, Anonymous::Loopback, ReasonCode::NOT_AUTHORIZED),
        (
            b"PROXY TCP4 127.0.0.1 127.0.0.1 4 5\r\n",
            Anonymous::Loopback,
            ReasonCode::NOT_AUTHORIZED,
        ),
        (b"PROXY UNKNOWN\r\n", Anonymous::UnsafeAlways, ReasonCode::SUCCESS),
    ] {
        let broker = broker(anonymous);
        let mut peer = Peer::on(broker.tcp().await);
        peer.stream.write_all(header).await.unwrap();
        assert_eq!(peer.connect("a").await, Some(reason), "{header:?}");
        broker.stop().await;
    }
}

#[tokio::test]
async fn without_a_header_or_with_a_bad_or_endless_one_nobody_is_served() {
    let broker = broker(Anonymous::UnsafeAlways);
    for header in [&b""[..], b"PROXY TCP4 nonsense\r\n", &[b'x'; 300], &HEADER[..20]] {
        let mut peer = Peer::on(broker.tcp().await);
        peer.stream.write_all(header).await.unwrap();
        assert_eq!(peer.connect("a").await, None, "{header:?}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let broker = broker(Anonymous::UnsafeAlways);
    let mut peer = Peer::on(broker.tcp().await);

    assert_eq!(peer.receive().await, None);
    broker.stop().await;
}

#[tokio::test]
async fn a_header_where_none_is_configured_is_a_malformed_packet() {
    let broker = Broker::with(|_| {});
    let mut peer = Peer::on(broker.tcp().await);
    peer.stream.write_all(HEADER).await.unwrap();

    assert_eq!(peer.connect("a").await, None);
    broker.stop().await;
}

#[tokio::test]
async fn the_header_stands_in_front_of_the_tls_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let (certificate, key) = authority.sign("broker");
    let tls = Tls { certificate, key, ..Tls::default() };
    let broker = Broker::with(|config| {
        config.listeners =
            Listeners { mqtts: vec![TlsListener { socket: proxied(), tls }], ..Listeners::none() };
        config.authentication.anonymous = Anonymous::UnsafeAlways;
    });
    let mut stream = broker.tcp().await;
    stream.write_all(HEADER).await.unwrap();

    let mut peer = Peer::on(authority.client(None).over(stream).await.unwrap());

    assert_eq!(peer.connect("a").await, Some(ReasonCode::SUCCESS));
    peer.ping().await;
    broker.stop().await;
}
