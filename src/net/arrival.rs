//! From an accepted socket to bytes of a protocol: PROXY header, TLS handshake, WebSocket handshake, whichever the listener has.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::proxy::{self, ProxyError};
use super::tls::{self, CurrentTls};
use super::transport::Transport;
use super::websocket::{self, WebOptions, WebSocketError};
use crate::model::{self, PeerInfo};

/// What stands in front of the protocol on one listener.
#[derive(Clone)]
pub struct Arrival {
    /// Every connection begins with a PROXY header.
    pub proxy_protocol: bool,
    /// TLS, and with what.
    pub tls: Option<CurrentTls>,
    /// WebSocket, and which.
    pub web: Option<Arc<WebOptions>>,
    /// What each of these may take.
    pub handshake_timeout: Duration,
}

/// Why a connection did not get as far as its protocol.
#[derive(Debug, Error)]
pub enum ArrivalError {
    /// The peer was too slow.
    #[error("no {what} within {timeout_after:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        timeout_after: Duration,
    },
    /// No PROXY header, or a bad one.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// The WebSocket handshake failed.
    #[error(transparent)]
    WebSocket(#[from] WebSocketError),
}

impl Arrival {
    /// Returns true when there is nothing in front of the protocol.
    pub fn is_plain(&self) -> bool {
        !self.proxy_protocol && self.tls.is_none() && self.web.is_none()
    }

    /// Reads what a proxy says about the client, where one stands in front of the listener.
    pub async fn introduce(
        &self,
        stream: &mut TcpStream,
        address: SocketAddr,
    ) -> Result<PeerInfo, ArrivalError> {
        let mut peer = PeerInfo::tcp(address);
        if self.proxy_protocol {
            let header = self.within("PROXY header", proxy::read(stream)).await??;
            peer.proxy = Some(address);
            peer.address = header.client.unwrap_or(address);
            peer.certificate = header.certificate.map(Arc::new);
            if header.is_encrypted {
                peer.transport = model::Transport::Tls;
            }
        }
        Ok(peer)
    }

    /// Does the handshakes; `peer` learns what they show.
    pub async fn shake_hands(
        &self,
        mut stream: TcpStream,
        peer: &mut PeerInfo,
    ) -> Result<Transport, ArrivalError> {
        let mut is_encrypted = peer.transport.is_encrypted();
        let (mut session, mut web) = (None, None);
        if let Some(tls) = &self.tls {
            let config = tls.borrow().clone();
            let accepting = TlsAcceptor::from(config).accept(stream);
            let accepted = self.within("TLS handshake", accepting).await?;
            let mut accepted = accepted.map_err(ArrivalError::Tls)?;
            is_encrypted = true;
            if let Some(identity) =
                tls::identity(accepted.get_ref().1).map_err(ArrivalError::Tls)?
            {
                peer.certificate = Some(Arc::new(identity));
            }
            if let Some(options) = &self.web {
                let accepting = websocket::accept(&mut accepted, options);
                web = Some(self.within("WebSocket handshake", accepting).await??);
            }
            let (inner, inner_session) = accepted.into_inner();
            (stream, session) = (inner, Some(inner_session));
        } else if let Some(options) = &self.web {
            let accepting = websocket::accept(&mut stream, options);
            web = Some(self.within("WebSocket handshake", accepting).await??);
        }
        peer.transport = match (is_encrypted, web.is_some()) {
            (false, false) => model::Transport::Tcp,
            (true, false) => model::Transport::Tls,
            (false, true) => model::Transport::WebSocket,
            (true, true) => model::Transport::SecureWebSocket,
        };
        Ok(match (session, web) {
            (None, None) => Transport::Tcp(stream),
            (session, web) => Transport::layered(stream, session, web),
        })
    }

    async fn within<T>(
        &self,
        what: &'static str,
        doing: impl Future<Output = T>,
    ) -> Result<T, ArrivalError> {
        let timeout_after = self.handshake_timeout;
        let done = timeout(timeout_after, doing).await;
        done.map_err(|_| ArrivalError::Timeout { what, timeout_after })
    }
}
