//! A client of AMQP 0.9.1 on a socket, which knows methods and content and nothing else: what tests of the real thing speak with.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fluxmq::protocol::amqp091::codec::method::*;
use fluxmq::protocol::amqp091::codec::{
    ContentHeader, Frame, FrameKind, Method, Properties, ShortString, Table, Value, content, frame,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Bytes of a frame that the client takes.
const FRAME_BYTES_MAX: u32 = 131_072;
/// Bytes of the frames that it sends.
const FRAME_BYTES: u32 = 4096;

/// A client's end of a connection.
pub struct Peer<S> {
    stream: S,
    input: BytesMut,
    output: BytesMut,
    /// What has come without all of its content, and the bytes that are missing.
    partial: Option<(Received, u64)>,
}

/// A method, and its content if it has some.
#[derive(Clone, Debug, PartialEq)]
#[allow(dead_code, reason = "not every suite looks at all of it")]
pub struct Received {
    pub channel: u16,
    pub method: Method,
    pub properties: Properties,
    pub body: Vec<u8>,
}

#[allow(dead_code, reason = "not every suite says everything")]
impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Greets, and returns what it is offered to say who it is; `None` when the other side closed.
    pub async fn greet(stream: S) -> Option<(Peer<S>, String)> {
        let (input, output) = (BytesMut::new(), BytesMut::from(&frame::PROTOCOL_HEADER[..]));
        let mut peer = Peer { stream, input, output, partial: None };
        peer.flush().await;
        match peer.receive().await? {
            Method::ConnectionStart(start) => {
                Some((peer, String::from_utf8(start.mechanisms.to_vec()).expect("text")))
            }
            other => panic!("{other:?} is no greeting"),
        }
    }

    /// Says who it is, and that it wants to hear why it is not admitted.
    pub async fn start(
        &mut self,
        mechanism: &'static str,
        response: &'static [u8],
    ) -> Option<Method> {
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

    /// Opens the connection, once it is admitted.
    pub async fn open(&mut self) {
        assert_eq!(self.try_open().await, Some(ConnectionOpenOk::default().into()));
    }

    /// Asks for the connection to be open, and returns the answer.
    pub async fn try_open(&mut self) -> Option<Method> {
        self.put(0, ConnectionTuneOk { channel_max: 10, frame_max: 8192, heartbeat: 0 });
        let virtual_host = ShortString::from_static("/");
        self.ask(0, ConnectionOpen { virtual_host, ..ConnectionOpen::default() }).await
    }

    /// Says something of the connection.
    pub async fn send(&mut self, method: impl Into<Method>) {
        self.send_on(0, method).await;
    }

    /// Says something on a channel. What cannot be sent is found out by who waits for an answer.
    pub async fn send_on(&mut self, channel: u16, method: impl Into<Method>) {
        self.put(channel, method);
        self.flush().await;
    }

    /// Says something that is answered, and returns the next method.
    pub async fn ask(&mut self, channel: u16, method: impl Into<Method>) -> Option<Method> {
        self.send_on(channel, method).await;
        self.receive().await
    }

    /// Writes a method that `flush` sends.
    pub fn put(&mut self, channel: u16, method: impl Into<Method>) {
        method.into().encode(channel, &mut self.output);
    }

    /// Writes a publish with its content that `flush` sends.
    pub fn put_publish(
        &mut self,
        channel: u16,
        publish: BasicPublish,
        properties: &Properties,
        body: &[u8],
    ) {
        self.put(channel, publish);
        content::encode(channel, properties, body, FRAME_BYTES, &mut self.output);
    }

    /// Sends what was written.
    pub async fn flush(&mut self) {
        let output = std::mem::take(&mut self.output);
        if self.stream.write_all(&output).await.is_ok() {
            let _ = self.stream.flush().await;
        }
    }

    /// The next method, which comes in time; `None` when the other side closed.
    pub async fn receive(&mut self) -> Option<Method> {
        let next = timeout(ANSWER_MAX, self.next()).await.expect("it says something in time");
        next.map(|received| received.method)
    }

    /// The next method with its content; `None` when the other side closed. Nothing is lost when it is given up on.
    pub async fn next(&mut self) -> Option<Received> {
        loop {
            while let Some(frame) =
                frame::decode(&mut self.input, FRAME_BYTES_MAX).expect("what we send are frames")
            {
                if let Some(received) = self.put_together(frame) {
                    return Some(received);
                }
            }
            let read = self.stream.read_buf(&mut self.input).await;
            if !read.is_ok_and(|count| count > 0) {
                return None;
            }
        }
    }

    fn put_together(&mut self, frame: Frame) -> Option<Received> {
        let (mut received, missing) = match frame.kind {
            FrameKind::Heartbeat => return None,
            FrameKind::Method => {
                let method = Method::decode(frame.payload).expect("a method");
                let has_content = matches!(
                    method,
                    Method::BasicDeliver(_) | Method::BasicGetOk(_) | Method::BasicReturn(_)
                );
                let (properties, body) = (Properties::default(), Vec::new());
                let received = Received { channel: frame.channel, method, properties, body };
                if !has_content {
                    return Some(received);
                }
                self.partial = Some((received, u64::MAX));
                return None;
            }
            FrameKind::Header | FrameKind::Body => {
                self.partial.take().expect("content follows a method that has some")
            }
        };
        let missing = match frame.kind {
            FrameKind::Header => {
                let header = ContentHeader::decode(frame.payload).expect("a header");
                received.properties = header.properties;
                header.body_bytes
            }
            _ => {
                received.body.extend_from_slice(&frame.payload);
                missing - frame.payload.len() as u64
            }
        };
        if missing == 0 {
            return Some(received);
        }
        self.partial = Some((received, missing));
        None
    }
}
