//! MQTT over WebSocket: the handshake, frames in every shape, and what is refused.

use bytes::Bytes;
use fluxmq::config::{Listeners, SecureWebListener, Tls, Web, WebListener};
use fluxmq::model::QoS;
use fluxmq::protocol::mqtt::types::{Packet, Publish, Subscribe, SubscribeFilter};
use fluxmq::protocol::mqtt::{PropertyList, ReasonCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::support::{Authority, Broker, PATIENCE, Peer, bytes_of, connect, local};

fn listen(web: Web) -> Listeners {
    Listeners { ws: vec![WebListener { socket: local(), web }], ..Listeners::none() }
}

const GOOD: [(&str, &str); 6] = [
    ("Host", "localhost"),
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Protocol", "mqtt"),
];

/// Sends a request made of the good one and changes; returns the status and the head of the answer.
async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    line: &str,
    changes: &[(&str, &str)],
) -> (u16, String) {
    let mut text = format!("{line}\r\n");
    let kept = GOOD.iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    for (name, value) in kept.chain(changes).filter(|(_, value)| !value.is_empty()) {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{text}\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head)
}

/// A client's end of the frames, in blocking form on a socket of the standard library.
async fn open(broker: &Broker) -> WebSocket<std::net::TcpStream> {
    let mut stream = broker.tcp().await;
    let (status, _) = request(&mut stream, "GET /mqtt HTTP/1.1", &[]).await;
    assert_eq!(status, 101);
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    WebSocket::from_raw_socket(stream, Role::Client, Some(WebSocketConfig::default()))
}

/// Runs blocking frames beside the broker's threads.
async fn with_frames<T: Send + 'static>(
    broker: &Broker,
    act: impl FnOnce(&mut WebSocket<std::net::TcpStream>) -> T + Send + 'static,
) -> T {
    let mut frames = open(broker).await;
    tokio::task::spawn_blocking(move || act(&mut frames)).await.unwrap()
}

fn binary(packets: &[Packet]) -> Bytes {
    packets.iter().flat_map(|packet| bytes_of(packet).to_vec()).collect()
}

/// The next packet that comes in binary messages; `rest` keeps what came behind it.
fn packet(frames: &mut WebSocket<std::net::TcpStream>, rest: &mut Vec<u8>) -> Vec<u8> {
    loop {
        // Packets of these tests say their length in one byte.
        if let [_, length, ..] = rest[..]
            && rest.len() >= usize::from(length) + 2
        {
            return rest.drain(..usize::from(length) + 2).collect();
        }
        match frames.read().unwrap() {
            Message::Binary(more) => rest.extend_from_slice(&more),
            Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

const PINGRESP: [u8; 2] = [0xD0, 0];

/// Publishes what is larger than any buffer on the way and reads it back, over and over.
pub async fn echo_large_messages<S: AsyncRead + AsyncWrite + Unpin>(peer: &mut Peer<S>) {
    let filters = vec![SubscribeFilter::new(Bytes::from_static(b"t"), QoS::AtMostOnce)];
    let properties = PropertyList::default();
    peer.send(&Packet::Subscribe(Subscribe { packet_id: 1, properties, filters })).await;
    assert!(matches!(peer.receive().await, Some(Packet::SubAck(_))));
    for round in 0..3u8 {
        let payload: Bytes = (0..700_000u32).map(|index| (index as u8) ^ round).collect();
        let publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: Bytes::from_static(b"t"),
            packet_id: 0,
            properties: PropertyList::default(),
            payload: payload.clone(),
        };
        peer.send(&Packet::Publish(publish)).await;
        let Some(Packet::Publish(echo)) = peer.receive().await else { panic!("no PUBLISH") };
        assert!(echo.payload == payload, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_6_0_0_2_packets_may_span_and_share_frames_and_messages() {
    let broker = Broker::start(listen(Web::default()));
    let all = binary(&[connect("a"), Packet::PingReq, Packet::PingReq]);
    let connect_bytes = binary(&[connect("a")]).len();

    let together = all.clone();
    with_frames(&broker, move |frames| {
        let rest = &mut Vec::new();
        frames.send(Message::Binary(together)).unwrap();
        assert_eq!(packet(frames, rest)[0], 0x20);
        assert_eq!([packet(frames, rest), packet(frames, rest)], [PINGRESP; 2]);
    })
    .await;

    with_frames(&broker, move |frames| {
        let rest = &mut Vec::new();
        for byte in &all[..connect_bytes] {
            frames.send(Message::Binary(Bytes::copy_from_slice(&[*byte]))).unwrap();
        }
        assert_eq!(packet(frames, rest)[0], 0x20);
        // A message of three frames, one of them empty, with a ping between them.
        let part = |bytes: &'static [u8], code, last| {
            Message::Frame(Frame::message(Bytes::from_static(bytes), OpCode::Data(code), last))
        };
        frames.send(part(&[0xC0], Data::Binary, false)).unwrap();
        frames.send(Message::Ping(Bytes::from_static(b"?"))).unwrap();
        frames.send(part(&[], Data::Continue, false)).unwrap();
        frames.send(part(&[0, 0xC0, 0], Data::Continue, true)).unwrap();
        assert_eq!([packet(frames, rest), packet(frames, rest)], [PINGRESP; 2]);
    })
    .await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_and_a_goodbye_is_returned() {
    let broker = Broker::start(listen(Web::default()));
    with_frames(&broker, |frames| {
        frames.send(Message::Binary(binary(&[connect("a")]))).unwrap();
        assert_eq!(packet(frames, &mut Vec::new())[0], 0x20);
        for round in 0..100u8 {
            frames.send(Message::Ping(Bytes::copy_from_slice(&[round]))).unwrap();
            assert_eq!(frames.read().unwrap(), Message::Pong(Bytes::copy_from_slice(&[round])));
        }
        // More of them at once than are taken in one turn: the connection was taken for lost.
        for round in 0..200u8 {
            frames.write(Message::Ping(Bytes::copy_from_slice(&[round]))).unwrap();
        }
        frames.send(Message::Binary(Bytes::from_static(&[0xC0, 0]))).unwrap();
        let answer = loop {
            match frames.read().unwrap() {
                Message::Pong(_) => {}
                other => break other,
            }
        };
        assert_eq!(answer, Message::Binary(Bytes::from_static(&[0xD0, 0])));
        frames.close(None).unwrap();
        assert!(matches!(frames.read(), Ok(Message::Close(_)) | Err(Error::ConnectionClosed)));
    })
    .await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_6_0_0_1_text_and_oversized_frames_end_the_connection() {
    let broker = Broker::start(listen(Web::default()));
    for (message, code) in [
        (Message::Text("hello".into()), CloseCode::Unsupported),
        // Nobody who has not connected may make us hold more than 16 KiB.
        (Message::Binary(vec![0; 17 << 10].into()), CloseCode::Size),
    ] {
        let closed = with_frames(&broker, |frames| {
            frames.send(message).unwrap();
            frames.read()
        });
        match closed.await {
            Ok(Message::Close(Some(close))) => assert_eq!(close.code, code),
            other => panic!("{other:?}"),
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_is_no_handshake_of_ours_is_answered_with_why() {
    let web = Web { path: "/bus".to_owned(), ..Web::default() };
    let broker = Broker::start(listen(web));
    let get = "GET /bus HTTP/1.1";
    for (line, changes, status) in [
        (get, &[][..], 101),
        ("GET /bus?x=1 HTTP/1.1", &[], 101),
        (get, &[("Sec-WebSocket-Protocol", "wamp, mqtt")], 101),
        (get, &[("Origin", "http://localhost:3000")], 101),
        ("GET /mqtt HTTP/1.1", &[], 404),
        ("GET /bus/ HTTP/1.1", &[], 404),
        ("GET / HTTP/1.1", &[], 404),
        ("POST /bus HTTP/1.1", &[], 405),
        (get, &[("Origin", "http://evil.example")], 403),
        (get, &[("Origin", "http://evil.example"), ("Host", "evil.example")], 403),
        (get, &[("Sec-WebSocket-Protocol", "")], 400),
        (get, &[("Sec-WebSocket-Protocol", "wamp")], 400),
        (get, &[("Sec-WebSocket-Key", "")], 400),
        (get, &[("Sec-WebSocket-Version", "8")], 426),
        (get, &[("Upgrade", "")], 426),
        ("nonsense", &[], 400),
    ] {
        let mut stream = broker.tcp().await;
        let (found, head) = request(&mut stream, line, changes).await;
        assert_eq!(found, status, "{line} {changes:?}\n{head}");
        let chosen = head.to_lowercase().contains("sec-websocket-protocol: mqtt\r\n");
        assert_eq!(chosen, status == 101, "{head}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_request_without_end_is_cut_off() {
    let broker = Broker::start(listen(Web::default()));
    let mut stream = broker.tcp().await;
    let endless = format!("GET /mqtt HTTP/1.1\r\nX: {}\r\n", "x".repeat(9000));
    stream.write_all(endless.as_bytes()).await.unwrap();

    let mut answer = Vec::new();
    // What was not read makes the end a reset; the answer came before.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();

    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    broker.stop().await;
}

#[tokio::test]
async fn many_bytes_pass_both_ways_whole_over_both_layers() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let (certificate, key) = authority.sign("broker");
    let tls = Tls { certificate, key, ..Tls::default() };
    let secure = SecureWebListener { socket: local(), tls, web: Web::default() };
    let broker = Broker::start(Listeners { wss: vec![secure], ..listen(Web::default()) });

    let mut plain = TcpStream::connect(broker.addresses[0]).await.unwrap();
    assert_eq!(request(&mut plain, "GET /mqtt HTTP/1.1", &[]).await.0, 101);
    let mut peer = Peer::on(framed::Framed::new(plain));
    assert_eq!(peer.connect("plain").await, Some(ReasonCode::SUCCESS));
    echo_large_messages(&mut peer).await;

    let mut tls = authority.client(None).connect(broker.addresses[1]).await.unwrap();
    assert_eq!(request(&mut tls, "GET /mqtt HTTP/1.1", &[]).await.0, 101);
    let mut peer = Peer::on(framed::Framed::new(tls));
    assert_eq!(peer.connect("secure").await, Some(ReasonCode::SUCCESS));
    echo_large_messages(&mut peer).await;
    broker.stop().await;
}

/// Bytes over the smallest WebSocket there is: masked binary frames of any size out, unmasked ones in.
mod framed {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use bytes::{Buf, BufMut, BytesMut};
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    const MASK: [u8; 4] = [0x5A, 0xA5, 0x0F, 0xF0];

    pub struct Framed<S> {
        stream: S,
        input: BytesMut,
        /// Bytes of the current frame that are still to come.
        rest: usize,
        output: BytesMut,
        size: usize,
    }

    impl<S> Framed<S> {
        pub fn new(stream: S) -> Framed<S> {
            Framed { stream, input: BytesMut::new(), rest: 0, output: BytesMut::new(), size: 0 }
        }
    }

    impl<S: AsyncRead + Unpin> AsyncRead for Framed<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let this = &mut *self;
            loop {
                if this.rest == 0 && this.input.len() >= 2 {
                    assert_eq!(this.input[0], 0x82, "whole binary messages come");
                    let (head, length) = match this.input[1] {
                        126 if this.input.len() >= 4 => {
                            (4, usize::from(u16::from_be_bytes([this.input[2], this.input[3]])))
                        }
                        length if length < 126 => (2, usize::from(length)),
                        127 => panic!("frames have at most 16 KiB"),
                        _ => (0, 0),
                    };
                    this.input.advance(head);
                    this.rest = length;
                }
                if this.rest > 0 && !this.input.is_empty() {
                    let count = this.rest.min(this.input.len()).min(out.remaining());
                    out.put_slice(&this.input.split_to(count));
                    this.rest -= count;
                    return Poll::Ready(Ok(()));
                }
                let mut buffer = [0; 4096];
                let mut more = ReadBuf::new(&mut buffer);
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut more))?;
                if more.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                this.input.extend_from_slice(more.filled());
            }
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Framed<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            ready!(self.as_mut().poll_flush(cx))?;
            // Frames of all sizes in turn, up to what is allowed before and after CONNECT.
            self.size = self.size * 7 % 40_009 + 1;
            let bytes = &bytes[..bytes.len().min(self.size)];
            self.output.put_u8(0x82);
            match u16::try_from(bytes.len()).unwrap() {
                length if length < 126 => self.output.put_u8(0x80 | length as u8),
                length => {
                    self.output.put_u8(0x80 | 126);
                    self.output.put_u16(length);
                }
            }
            self.output.put_slice(&MASK);
            let masked = bytes.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
            self.output.extend(masked);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let this = &mut *self;
            while !this.output.is_empty() {
                let count = ready!(Pin::new(&mut this.stream).poll_write(cx, &this.output))?;
                this.output.advance(count);
            }
            Pin::new(&mut this.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }
}
