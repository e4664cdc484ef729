//! AMQP 0.9.1 on a listener: who is admitted by what it says or shows, what is said to those who are not, and a goodbye.

use std::net::SocketAddr;

use bytes::Bytes;
use fluxmq::config::{
    AmqpListener, ClientCertificates, Listener, Listeners, SecureAmqpListener, Tls, TlsIdentity,
};
use fluxmq::protocol::amqp091::codec::method::*;
use fluxmq::protocol::amqp091::codec::{Method, Properties, ShortString, Table, Value, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::peer::Peer;
use super::support::{Authority, Broker, PATIENCE, local};

fn listen() -> Listeners {
    Listeners { amqp: vec![AmqpListener { socket: local() }], ..Listeners::none() }
}

/// Publishes to `amq.topic` on channel 1.
async fn publish(peer: &mut Peer<TcpStream>, routing_key: &'static str) {
    let publish = BasicPublish {
        exchange: ShortString::from_static("amq.topic"),
        routing_key: ShortString::from_static(routing_key),
        ..BasicPublish::default()
    };
    peer.put_publish(1, publish, &Properties::default(), b"body");
    peer.flush().await;
}

async fn tcp(address: SocketAddr) -> (Peer<TcpStream>, String) {
    Peer::greet(TcpStream::connect(address).await.unwrap()).await.unwrap()
}

fn closed(method: Option<Method>) -> (u16, String) {
    match method {
        Some(Method::ConnectionClose(close)) => {
            (close.reply_code, close.reply_text.as_str().unwrap().to_owned())
        }
        other => panic!("{other:?} is not connection.close"),
    }
}

#[tokio::test]
async fn guest_is_admitted_on_this_machine_and_nobody_else_without_users() {
    let broker = Broker::start(listen());

    let (mut guest, mechanisms) = tcp(broker.address()).await;
    assert_eq!(mechanisms, "PLAIN AMQPLAIN");
    let tuned = guest.start("PLAIN", b"\0guest\0guest").await;
    assert!(matches!(tuned, Some(Method::ConnectionTune(_))));
    guest.open().await;
    let (mut other, _) = tcp(broker.address()).await;
    let (code, text) = closed(other.start("PLAIN", b"\0ann\0guest").await);
    assert_eq!(code, 403);
    assert!(text.starts_with("ACCESS_REFUSED - Login was refused using"), "{text}");
    other.send(ConnectionCloseOk::default()).await;
    assert_eq!(other.receive().await, None);

    guest.send(ConnectionClose { reply_code: 200, ..ConnectionClose::default() }).await;
    assert_eq!(guest.receive().await, Some(ConnectionCloseOk::default().into()));
    assert_eq!(guest.receive().await, None);
    broker.stop().await;
}

/// `localhost` is either of two addresses, and both are this machine.
#[tokio::test]
async fn guest_is_admitted_on_both_halves_of_localhost() {
    let sockets = ["127.0.0.1:0", "[::1]:0"].map(|it| Listener::at(it.parse().unwrap()));
    let amqp = sockets.map(|socket| AmqpListener { socket }).into();
    let broker = Broker::start(Listeners { amqp, ..Listeners::none() });
    let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    assert_eq!(broker.addresses.len(), if has_ipv6 { 2 } else { 1 });

    for address in broker.addresses.clone() {
        let (mut guest, _) = tcp(address).await;
        let tuned = guest.start("PLAIN", b"\0guest\0guest").await;
        assert!(matches!(tuned, Some(Method::ConnectionTune(_))), "{address}");
        guest.open().await;
    }
    broker.stop().await;
}

/// The disk is taken for full from the start: who publishes is told and not read, who consumes goes on.
#[tokio::test]
async fn a_publisher_is_told_that_the_disk_is_full() {
    let broker = Broker::with(|config| {
        config.listeners = listen();
        config.storage.disk_low_bytes = 1 << 50;
    });
    let (mut peer, _) = tcp(broker.address()).await;
    let capabilities: Table = [("connection.blocked", Value::Boolean(true))].into_iter().collect();
    let properties = [("capabilities", Value::Table(capabilities))];
    let start = ConnectionStartOk {
        client_properties: properties.into_iter().collect(),
        mechanism: ShortString::from_static("PLAIN"),
        response: Bytes::from_static(b"\0guest\0guest"),
        locale: ShortString::default(),
    };
    assert!(matches!(peer.ask(0, start).await, Some(Method::ConnectionTune(_))));
    peer.open().await;
    assert_eq!(peer.ask(1, ChannelOpen::default()).await, Some(ChannelOpenOk::default().into()));
    // The first look at the disk is as the broker begins.
    publish(&mut peer, "a").await;
    let reason = ShortString::from_static("low on disk");
    assert_eq!(peer.receive().await, Some(ConnectionBlocked { reason }.into()));
    peer.send_on(2, ChannelOpen::default()).await;
    let silence = timeout(std::time::Duration::from_millis(500), peer.next()).await;
    assert!(silence.is_err(), "{silence:?}");

    let (mut consumer, _) = tcp(broker.address()).await;
    consumer.start("PLAIN", b"\0guest\0guest").await;
    consumer.open().await;
    let opened = consumer.ask(1, ChannelOpen::default()).await;
    assert_eq!(opened, Some(ChannelOpenOk::default().into()));
    broker.stop().await;
}

#[tokio::test]
async fn a_foreign_protocol_is_answered_with_ours() {
    let broker = Broker::start(listen());
    let mut stream = TcpStream::connect(broker.address()).await.unwrap();
    stream.write_all(b"AMQP\x01\x01\x00\x09").await.unwrap();

    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();

    assert_eq!(answer, frame::PROTOCOL_HEADER);
}

#[tokio::test]
async fn a_certificate_says_who_its_client_is() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let (certificate, key) = authority.sign("broker");
    let tls = Tls {
        certificate,
        key,
        client_certificates: ClientCertificates::Request,
        client_ca: Some(authority.file()),
        ..Tls::default()
    };
    let broker = Broker::with(|config| {
        let amqps = vec![SecureAmqpListener { socket: local(), tls }];
        config.listeners = Listeners { amqps, ..Listeners::none() };
        config.authentication.tls_identity = TlsIdentity::Cn;
    });

    let own = authority.sign("device");
    let stream = authority.client(Some(&own)).connect(broker.address()).await.unwrap();
    let (mut device, mechanisms) = Peer::greet(stream).await.unwrap();
    assert_eq!(mechanisms, "PLAIN AMQPLAIN EXTERNAL");
    assert!(matches!(device.start("EXTERNAL", b"").await, Some(Method::ConnectionTune(_))));
    device.open().await;
    let stream = authority.client(None).connect(broker.address()).await.unwrap();
    let (mut nobody, mechanisms) = Peer::greet(stream).await.unwrap();
    assert_eq!(mechanisms, "PLAIN AMQPLAIN");
    assert_eq!(nobody.start("EXTERNAL", b"").await, None, "it was not offered");
}

#[tokio::test]
async fn the_access_list_decides_what_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("acl");
    std::fs::write(&acl, "topic write open/#\n").unwrap();
    let broker = Broker::with(|config| {
        config.listeners = listen();
        config.authorization.acl_file = Some(acl);
    });
    let (mut peer, _) = tcp(broker.address()).await;
    peer.start("PLAIN", b"\0guest\0guest").await;
    peer.open().await;
    peer.send_on(1, ChannelOpen::default()).await;
    peer.send_on(1, ConfirmSelect { no_wait: true }).await;
    assert_eq!(peer.receive().await, Some(ChannelOpenOk::default().into()));

    publish(&mut peer, "open.1").await;
    let ack = BasicAck { delivery_tag: 1, multiple: false };
    assert_eq!(peer.receive().await, Some(ack.into()));
    publish(&mut peer, "closed.1").await;

    let closed = peer.receive().await;
    let Some(Method::ChannelClose(close)) = closed else { panic!("{closed:?}") };
    assert_eq!((close.reply_code, close.class_id, close.method_id), (403, 60, 40));
    // The connection goes on.
    peer.send_on(2, ChannelOpen::default()).await;
    assert_eq!(peer.receive().await, Some(ChannelOpenOk::default().into()));
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let broker = Broker::with(|config| {
        config.listeners = listen();
        config.limits.connections_max = 1;
    });
    let (mut first, _) = tcp(broker.address()).await;
    let tuned = first.start("PLAIN", b"\0guest\0guest").await;
    assert!(matches!(tuned, Some(Method::ConnectionTune(_))));

    let (mut second, _) = tcp(broker.address()).await;
    let (code, text) = closed(second.start("PLAIN", b"\0guest\0guest").await);

    assert_eq!(
        (code, text.as_str()),
        (530, "NOT_ALLOWED - the broker is busy: try again in a moment")
    );
}

#[tokio::test]
async fn a_broker_that_stops_says_so() {
    let broker = Broker::start(listen());
    let (mut peer, _) = tcp(broker.address()).await;
    peer.start("PLAIN", b"\0guest\0guest").await;
    peer.open().await;

    let stopping = tokio::spawn(broker.stop());
    let (code, text) = closed(peer.receive().await);
    assert_eq!(code, 320);
    assert!(text.starts_with("CONNECTION_FORCED - "), "{text}");
    peer.send(ConnectionCloseOk::default()).await;
    assert_eq!(peer.receive().await, None);
    stopping.await.unwrap();
}
