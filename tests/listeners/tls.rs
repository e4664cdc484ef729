//! TLS: who is let in with which certificate, and that certificates change while connections go on.

use std::path::PathBuf;

use fluxmq::config::{ClientCertificates, Listeners, Tls, TlsListener, TlsVersion};
use fluxmq::protocol::mqtt::ReasonCode;
use fluxmq::protocol::mqtt::types::Packet;
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::support::{Authority, Broker, PATIENCE, Peer, bytes_of, connect, local};

static ONLY_1_2: &[&SupportedProtocolVersion] = &[&TLS12];
static ONLY_1_3: &[&SupportedProtocolVersion] = &[&TLS13];

fn tls(files: (PathBuf, PathBuf)) -> Tls {
    Tls { certificate: files.0, key: files.1, ..Tls::default() }
}

fn listen(tls: Tls) -> Listeners {
    Listeners { mqtts: vec![TlsListener { socket: local(), tls }], ..Listeners::none() }
}

#[tokio::test]
async fn a_client_that_knows_the_authority_is_served_in_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let broker = Broker::start(listen(tls(authority.sign("broker"))));

    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut client = authority.client(None);
        client.versions = versions;
        let mut peer = Peer::on(client.connect(broker.address()).await.unwrap());
        assert_eq!(peer.connect("a").await, Some(ReasonCode::SUCCESS));
        peer.ping().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn many_bytes_pass_both_ways_whole() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let broker = Broker::start(listen(tls(authority.sign("broker"))));
    let mut peer = Peer::on(authority.client(None).connect(broker.address()).await.unwrap());
    peer.connect("a").await;

    super::websocket::echo_large_messages(&mut peer).await;

    broker.stop().await;
}

#[tokio::test]
async fn tls_1_2_is_refused_where_1_3_is_the_least() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let settings = Tls { min_version: TlsVersion::V1_3, ..tls(authority.sign("broker")) };
    let broker = Broker::start(listen(settings));

    let mut old = authority.client(None);
    old.versions = ONLY_1_2;
    assert!(old.connect(broker.address()).await.is_err());
    let new = authority.client(None).connect(broker.address()).await.unwrap();
    assert_eq!(Peer::on(new).connect("a").await, Some(ReasonCode::SUCCESS));
}

#[tokio::test]
async fn a_client_that_names_another_protocol_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let broker = Broker::start(listen(tls(authority.sign("broker"))));

    for (protocol, good) in [("mqtt", true), ("h2", false)] {
        let mut client = authority.client(None);
        client.alpn = vec![protocol.as_bytes().to_vec()];
        assert_eq!(client.connect(broker.address()).await.is_ok(), good, "{protocol}");
    }
}

#[tokio::test]
async fn client_certificates_are_asked_for_and_verified_as_configured() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, stranger) =
        (Authority::new(dir.path(), "ca"), Authority::new(dir.path(), "other"));
    let (known, unknown) = (authority.sign("device"), stranger.sign("device"));
    for (mode, without, with_unknown) in [
        (ClientCertificates::None, true, true),
        (ClientCertificates::Request, true, false),
        (ClientCertificates::Require, false, false),
    ] {
        let files = authority.sign("broker");
        let client_ca = (mode != ClientCertificates::None).then(|| authority.file());
        let settings = Tls { client_certificates: mode, client_ca, ..tls(files) };
        let broker = Broker::start(listen(settings));
        for (own, good) in [(None, without), (Some(&known), true), (Some(&unknown), with_unknown)] {
            // In 1.3 a client learns with its first read that its certificate was refused.
            let served = match authority.client(own).connect(broker.address()).await {
                Ok(stream) => {
                    let mut peer = Peer::on(stream);
                    let connect = bytes_of(&connect("a"));
                    peer.stream.write_all(&connect).await.is_ok() && peer.receive().await.is_some()
                }
                Err(_) => false,
            };
            assert_eq!(served, good, "{mode:?} {own:?}");
        }
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_peer_that_does_not_speak_tls_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let broker = Broker::start(listen(tls(authority.sign("broker"))));

    let mut stream = broker.tcp().await;
    stream.write_all(&bytes_of(&connect("a"))).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();

    // An alert, and nothing else.
    assert_eq!(answer.first(), Some(&0x15), "{answer:?}");
}

#[tokio::test]
async fn a_changed_certificate_serves_new_connections_and_leaves_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(dir.path(), "old"), Authority::new(dir.path(), "new"));
    let files = old.sign("broker");
    let broker = Broker::start(listen(tls(files.clone())));
    let mut before = Peer::on(old.client(None).connect(broker.address()).await.unwrap());
    before.connect("before").await;

    let renewed = new.sign("broker");
    std::fs::copy(renewed.0, &files.0).unwrap();
    std::fs::copy(renewed.1, &files.1).unwrap();
    broker.reload();

    let reloaded = async { while new.client(None).connect(broker.address()).await.is_err() {} };
    tokio::time::timeout(PATIENCE, reloaded).await.unwrap();
    assert!(old.client(None).connect(broker.address()).await.is_err());
    before.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_leaves_the_one_before_in_effect() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let files = authority.sign("broker");
    let (mut keeper, current) = fluxmq::net::tls::TlsKeeper::new(fluxmq::net::tls::TlsOptions {
        certificate: files.0.clone(),
        key: files.1.clone(),
        clients: fluxmq::net::tls::ClientCertificates::None,
        allows_1_2: true,
        application: b"mqtt",
    })
    .unwrap();
    let before = current.borrow().clone();

    std::fs::write(&files.1, "no key").unwrap();
    let unreadable = keeper.reload_if_changed().unwrap_err().to_string();
    std::fs::copy(authority.sign("other").1, &files.1).unwrap();
    let unpaired = keeper.reload().unwrap_err().to_string();

    assert!(
        unreadable.contains("our private key from") && unreadable.contains("broker.key"),
        "{unreadable}"
    );
    assert!(unpaired.contains("broker.pem cannot be used"), "{unpaired}");
    assert!(std::sync::Arc::ptr_eq(&before, &current.borrow()));
    authority.sign("broker");
    assert!(keeper.reload_if_changed().unwrap());
    assert!(!keeper.reload_if_changed().unwrap());
    assert!(!std::sync::Arc::ptr_eq(&before, &current.borrow()));
}

#[tokio::test]
async fn the_end_of_the_broker_is_said_inside_and_outside() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let broker = Broker::start(listen(tls(authority.sign("broker"))));
    let mut peer = Peer::on(authority.client(None).connect(broker.address()).await.unwrap());
    peer.connect("a").await;

    broker.stop().await;

    let Some(Packet::Disconnect(goodbye)) = peer.receive().await else { panic!("no DISCONNECT") };
    assert_eq!(goodbye.reason, ReasonCode::SERVER_SHUTTING_DOWN);
    // Only a close_notify makes the end of the stream a clean one.
    let mut rest = [0; 1];
    assert_eq!(peer.stream.read(&mut rest).await.unwrap(), 0);
}
