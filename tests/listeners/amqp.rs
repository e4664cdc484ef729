//! AMQP 0.9.1 on a listener: who is admitted by what it says or shows, what is said to those who are not, and a goodbye.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use fluxmq::config::{
    AmqpListener, ClientCertificates, Listeners, SecureAmqpListener, Tls, TlsIdentity,
};
use fluxmq::protocol::amqp091::codec::method::*;
use fluxmq::protocol::amqp091::codec::{
    Method, Properties, ShortString, Table, Value, content, frame,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::support::{Authority, Broker, PATIENCE, local};

fn listen() -> Listeners {
    Listeners { amqp: vec![AmqpListener { socket: local() }], ..Listeners::none() }
}

/// A client's end, which knows methods and nothing else.
struct Peer<S> {
    stream: S,
    input: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Greets, and returns what it is offered to say who it is.
    async fn greet(stream: S) -> (Peer<S>, String) {
        let mut peer = Peer { stream, input: BytesMut::new() };
        peer.stream.write_all(&frame::PROTOCOL_HEADER).await.unwrap();
        match peer.receive().await {
            Some(Method::ConnectionStart(start)) => {
                (peer, String::from_utf8(start.mechanisms.to_vec()).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Says who it is, and that it wants to hear why it is not admitted.
    async fn start(&mut self, mechanism: &'static str, response: &'static [u8]) -> Option<Method> {
        let capabilities: Table =
            [("authentication_failure_close", Value::Boolean(true))].into_iter().collect();
        let properties = [("capabilities", Value::Table(capabilities))];
        self.send(ConnectionStartOk {
            client_properties: properties.into_iter().collect(),
            mechanism: ShortString::from_static(mechanism),
            response: Bytes::from_static(response),
            locale: ShortString::default(),
        })
        .await;
        self.receive().await
    }

    async fn open(&mut self) {
        self.send(ConnectionTuneOk { channel_max: 10, frame_max: 8192, heartbeat: 0 }).await;
        let virtual_host = ShortString::from_static("/");
        self.send(ConnectionOpen { virtual_host, ..ConnectionOpen::default() }).await;
        assert_eq!(self.receive().await, Some(ConnectionOpenOk::default().into()));
    }

    async fn send(&mut self, method: impl Into<Method>) {
        self.send_on(0, method).await;
    }

    /// Publishes to `amq.topic` on channel 1.
    async fn publish(&mut self, routing_key: &'static str) {
        self.send_on(
            1,
            BasicPublish {
                exchange: ShortString::from_static("amq.topic"),
                routing_key: ShortString::from_static(routing_key),
                ..BasicPublish::default()
            },
        )
        .await;
        let mut out = BytesMut::new();
        content::encode(1, &Properties::default(), b"body", 4096, &mut out);
        self.stream.write_all(&out).await.unwrap();
    }

    async fn send_on(&mut self, channel: u16, method: impl Into<Method>) {
        let mut out = BytesMut::new();
        method.into().encode(channel, &mut out);
        self.stream.write_all(&out).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next method; `None` when the other side closed.
    async fn receive(&mut self) -> Option<Method> {
        loop {
            if let Some(frame) = frame::decode(&mut self.input, 131_072).unwrap() {
                return Some(Method::decode(frame.payload).unwrap());
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await.unwrap();
            if !read.is_ok_and(|count| count > 0) {
                return None;
            }
        }
    }
}

async fn tcp(address: SocketAddr) -> (Peer<TcpStream>, String) {
    Peer::greet(TcpStream::connect(address).await.unwrap()).await
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
    let (mut device, mechanisms) = Peer::greet(stream).await;
    assert_eq!(mechanisms, "PLAIN AMQPLAIN EXTERNAL");
    assert!(matches!(device.start("EXTERNAL", b"").await, Some(Method::ConnectionTune(_))));
    device.open().await;
    let stream = authority.client(None).connect(broker.address()).await.unwrap();
    let (mut nobody, mechanisms) = Peer::greet(stream).await;
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

    peer.publish("open.1").await;
    let ack = BasicAck { delivery_tag: 1, multiple: false };
    assert_eq!(peer.receive().await, Some(ack.into()));
    peer.publish("closed.1").await;

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
