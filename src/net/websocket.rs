//! MQTT in WebSocket frames (RFC 6455; MQTT 5 §6, MQTT 3.1.1 §6): the handshake, and what follows it.
//!
//! Binary messages are a stream of bytes: their bounds mean nothing to MQTT [MQTT-6.0.0-1] [MQTT-6.0.0-2]. Frames are the library's
//! work; here is what we accept and what we answer.

use std::io;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, Response, create_response, write_response};
use tungstenite::http::header::{
    HOST, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
};
use tungstenite::http::{StatusCode, Uri};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use super::transport::Carrier;

/// Bytes that the head of a request may have.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Bytes that an idle connection holds for what may come.
const READ_BYTES: usize = 2 << 10;
/// Bytes of a frame of ours: what waits for a slow peer is kept in the library's buffer, which never shrinks.
const FRAME_BYTES_MAX: usize = 16 << 10;
/// Frames without data that a peer may send before others have their turn.
const CONTROLS_MAX: usize = 32;
/// Subprotocols we speak: the one of the standards [MQTT-6.0.0-4], and what clients of MQTT 3.1 ask for.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a listener takes for WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebOptions {
    /// The only path that is served.
    pub path: String,
    /// Which pages may connect.
    pub origins: Origins,
}

/// Which pages may connect from browsers. Programs that are no browser send no origin and are always taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Those of the host that the client reached us under, whatever the port.
    SameHost {
        /// That host must be a name of this machine: for listeners on loopback, where another name is an attempt to get around the
        /// browser's rules (DNS rebinding).
        local_only: bool,
    },
    /// All.
    Any,
    /// Exactly these, `https://example.org` or `https://example.org:8443`.
    Listed(Vec<String>),
}

/// Why a handshake did not lead to a connection.
#[derive(Debug, Error)]
pub enum WebSocketError {
    /// The stream ended or failed.
    #[error("the connection was lost in the WebSocket handshake: {0}")]
    Io(#[from] io::Error),
    /// It was answered with an HTTP status.
    #[error("WebSocket handshake answered with {status}: {reason}")]
    Refused {
        /// The status.
        status: u16,
        /// What is wrong with the request.
        reason: &'static str,
    },
}

/// One connection's frames.
pub(super) struct WebSocket {
    context: WebSocketContext,
    is_flushed: bool,
}

/// Answers the request that opens a connection: with 101, or with what is wrong with it.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    options: &WebOptions,
) -> Result<WebSocket, WebSocketError> {
    let mut head = BytesMut::new();
    let judged = loop {
        match Request::try_parse(&head) {
            Ok(Some((bytes, request))) => {
                let _ = head.split_to(bytes);
                break judge(&request, options);
            }
            Ok(None) if head.len() >= REQUEST_BYTES_MAX => {
                break Err((
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    "the request is too long",
                ));
            }
            Ok(None) => {}
            Err(error) => break Err(refusal_of(&error)),
        }
        head.reserve(1 << 10);
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    };
    match judged {
        Ok(response) => {
            let mut answer = Vec::new();
            write_response(&mut answer, &response).map_err(io::Error::other)?;
            stream.write_all(&answer).await?;
            stream.flush().await?;
            Ok(WebSocket::behind_handshake(head))
        }
        Err((status, reason)) => {
            let answer = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nSec-WebSocket-Version: 13\r\nContent-Type: text/plain\r\n\
                 Content-Length: {}\r\n\r\n{reason}\n",
                reason.len() + 1
            );
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await?;
            Err(WebSocketError::Refused { status: status.as_u16(), reason })
        }
    }
}

type Judged = Result<Response, (StatusCode, &'static str)>;

fn judge(request: &Request, options: &WebOptions) -> Judged {
    if request.uri().path() != options.path {
        return Err((StatusCode::NOT_FOUND, "there is nothing at this path"));
    }
    if !options.origins.admit(request.headers()) {
        return Err((StatusCode::FORBIDDEN, "pages of this origin may not connect"));
    }
    let mut response = create_response(request).map_err(|error| refusal_of(&error))?;
    let Some(subprotocol) = subprotocol(request.headers()) else {
        return Err((StatusCode::BAD_REQUEST, "the subprotocol must be mqtt"));
    };
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    debug_assert!(!response.headers().contains_key(SEC_WEBSOCKET_VERSION), "it is said on errors");
    Ok(response)
}

/// The client's first choice among ours [MQTT-6.0.0-3].
fn subprotocol(headers: &HeaderMap) -> Option<&'static str> {
    let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let asked = lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(','));
    let find = |asked: &str| SUBPROTOCOLS.into_iter().find(|ours| *ours == asked.trim());
    asked.map(find).find_map(|found| found)
}

fn refusal_of(error: &Error) -> (StatusCode, &'static str) {
    match error {
        Error::Protocol(ProtocolError::WrongHttpMethod) => {
            (StatusCode::METHOD_NOT_ALLOWED, "WebSocket connections begin with GET")
        }
        Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => {
            (StatusCode::UPGRADE_REQUIRED, "the WebSocket version must be 13")
        }
        Error::Protocol(
            ProtocolError::MissingConnectionUpgradeHeader
            | ProtocolError::MissingUpgradeWebSocketHeader,
        ) => (StatusCode::UPGRADE_REQUIRED, "only WebSocket connections are served here"),
        _ => (StatusCode::BAD_REQUEST, "this is no WebSocket handshake"),
    }
}

impl Origins {
    fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        match self {
            Origins::Any => true,
            Origins::Listed(origins) => {
                origins.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
            }
            Origins::SameHost { local_only } => {
                let host = headers.get(HOST).and_then(|host| host.to_str().ok());
                let host = host.and_then(|host| host.parse::<Uri>().ok());
                let origin = origin.parse::<Uri>().ok();
                match (host.as_ref().and_then(Uri::host), origin.as_ref().and_then(Uri::host)) {
                    (Some(host), Some(origin)) => {
                        let is_local = || names_this_machine(host) && names_this_machine(origin);
                        if *local_only { is_local() } else { host.eq_ignore_ascii_case(origin) }
                    }
                    _ => false,
                }
            }
        }
    }
}

/// Returns true for `localhost` and addresses of the loopback interface.
fn names_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

impl WebSocket {
    fn behind_handshake(rest: BytesMut) -> WebSocket {
        let config = WebSocketConfig::default().read_buffer_size(READ_BYTES).write_buffer_size(0);
        let context =
            WebSocketContext::from_partially_read(rest.to_vec(), Role::Server, Some(config));
        WebSocket { context, is_flushed: true }
    }

    /// Appends the next message. `bytes_max` bounds a message and each of its frames before anything is held for it.
    pub(super) fn try_read(
        &mut self,
        carrier: &mut Carrier,
        input: &mut BytesMut,
        bytes_max: usize,
    ) -> io::Result<usize> {
        if self.context.get_config().max_frame_size != Some(bytes_max) {
            self.context.set_config(|config| {
                config.max_frame_size = Some(bytes_max);
                config.max_message_size = Some(bytes_max);
            });
        }
        for _ in 0..CONTROLS_MAX {
            match self.context.read(carrier) {
                Ok(Message::Binary(bytes)) if !bytes.is_empty() => {
                    input.extend_from_slice(&bytes);
                    return Ok(bytes.len());
                }
                // [MQTT-6.0.0-1]
                Ok(Message::Text(_)) => {
                    return Err(self.fail(carrier, CloseCode::Unsupported, "text frame"));
                }
                // Pings and the peer's goodbye are answered while reading on.
                Ok(_) => {}
                Err(Error::Io(error)) => return Err(error),
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Ok(0),
                Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return Ok(0),
                Err(Error::Capacity(_)) => {
                    return Err(self.fail(carrier, CloseCode::Size, "message too large"));
                }
                Err(_) => {
                    return Err(self.fail(carrier, CloseCode::Protocol, "protocol error"));
                }
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Sends `output` as binary messages, taking from it what fits.
    pub(super) fn try_write(
        &mut self,
        carrier: &mut Carrier,
        output: &mut BytesMut,
    ) -> io::Result<()> {
        loop {
            if !self.is_flushed {
                self.context.flush(carrier).map_err(to_io)?;
                self.is_flushed = true;
            }
            if output.is_empty() {
                return Ok(());
            }
            let frame = output.split_to(output.len().min(FRAME_BYTES_MAX));
            self.is_flushed = false;
            match self.context.write(carrier, Message::Binary(frame.freeze())) {
                // It is in the library's buffer.
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => other.map_err(to_io)?,
            }
        }
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.is_flushed
    }

    /// Says goodbye if the peer takes it now.
    pub(super) fn close(&mut self, carrier: &mut Carrier) {
        self.say_goodbye(carrier, CloseCode::Normal, "");
    }

    fn fail(&mut self, carrier: &mut Carrier, code: CloseCode, reason: &'static str) -> io::Error {
        self.say_goodbye(carrier, code, reason);
        io::Error::new(io::ErrorKind::InvalidData, reason)
    }

    fn say_goodbye(&mut self, carrier: &mut Carrier, code: CloseCode, reason: &'static str) {
        // Nobody waits for the answer: the connection is over.
        let _ = self.context.close(carrier, Some(CloseFrame { code, reason: reason.into() }));
    }
}

fn to_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::BrokenPipe, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_of_the_same_host_are_taken_whatever_the_port() {
        let same = Origins::SameHost { local_only: false };
        for (host, origin, good) in [
            ("broker.example:8083", Some("http://broker.example"), true),
            ("broker.example:8083", Some("https://BROKER.example:8443"), true),
            ("broker.example:8083", Some("http://evil.example"), false),
            ("broker.example", Some("http://broker.example.evil"), false),
            ("[2001:db8::1]:8083", Some("http://[2001:db8::1]:3000"), true),
            ("broker.example", Some("null"), false),
            ("broker.example", None, true),
        ] {
            assert_eq!(same.admit(&headers(host, origin)), good, "{host} {origin:?}");
        }
    }

    #[test]
    fn a_page_that_gave_its_name_our_address_does_not_pass_on_loopback() {
        let local = Origins::SameHost { local_only: true };
        for (host, origin, good) in [
            ("localhost:8083", "http://127.0.0.1:3000", true),
            ("[::1]:8083", "http://localhost", true),
            ("evil.example:8083", "http://evil.example:8083", false),
            ("localhost:8083", "http://evil.example", false),
            ("localhost.evil.example", "http://localhost", false),
        ] {
            assert_eq!(local.admit(&headers(host, Some(origin))), good, "{host} {origin}");
        }
    }

    #[test]
    fn a_list_of_origins_is_exact() {
        let listed = Origins::Listed(vec!["https://app.example".to_owned()]);
        for (origin, good) in [
            ("https://app.example", true),
            ("https://APP.example", true),
            ("http://app.example", false),
            ("https://app.example:444", false),
            ("https://app.example.evil", false),
        ] {
            assert_eq!(listed.admit(&headers("b", Some(origin))), good, "{origin}");
        }
        assert!(Origins::Any.admit(&headers("b", Some("https://evil.example"))));
    }

    #[test]
    fn the_clients_first_subprotocol_that_we_speak_is_chosen() {
        let chosen = |list: &'static str| {
            let list = (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(list));
            subprotocol(&[list].into_iter().collect())
        };
        assert_eq!(chosen("wamp, mqtt"), Some("mqtt"));
        assert_eq!(chosen("mqttv3.1,mqtt"), Some("mqttv3.1"));
        assert_eq!(chosen("MQTT"), None);
        assert_eq!(subprotocol(&HeaderMap::new()), None);
    }

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        headers
    }
}
