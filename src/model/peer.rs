//! Who is at the other end of a connection, as far as the connection itself shows it: before a word of any protocol.
//!
//! Facts, not rights: what a peer may do is decided by whoever reads them.

use std::net::SocketAddr;
use std::sync::Arc;

/// The other end of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Where the client is; behind a proxy, as the proxy says.
    pub address: SocketAddr,
    /// The proxy's own address, where one stands between; `None` when the client reached us itself.
    pub proxy: Option<SocketAddr>,
    /// How its bytes travel.
    pub transport: Transport,
    /// The client's certificate, when it showed one that was verified, by us or by the proxy.
    pub certificate: Option<Arc<CertificateIdentity>>,
}

/// How the bytes of a connection travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, readable on the way.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket over TCP, readable on the way.
    WebSocket,
    /// WebSocket over TLS.
    SecureWebSocket,
}

/// The names that a verified client certificate gives its holder, candidates for a principal (RFC 5280 §4.1.2.6 and §4.2.1.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateIdentity {
    /// The subject's last common name.
    pub common_name: Option<String>,
    /// DNS names among the subject's alternative names, in their order.
    pub dns_names: Vec<String>,
    /// E-mail addresses among them.
    pub emails: Vec<String>,
    /// URIs among them.
    pub uris: Vec<String>,
}

impl PeerInfo {
    /// Returns a peer that is directly at `address` over plain TCP.
    pub fn tcp(address: SocketAddr) -> PeerInfo {
        PeerInfo { address, proxy: None, transport: Transport::Tcp, certificate: None }
    }

    /// Returns true when the client is certainly on this machine: what a proxy says of addresses cannot show that.
    pub fn is_local(&self) -> bool {
        self.proxy.is_none() && self.address.ip().to_canonical().is_loopback()
    }
}

impl Transport {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::WebSocket => "ws",
            Transport::SecureWebSocket => "wss",
        }
    }

    /// Returns true when nobody on the way can read it.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Transport::Tls | Transport::SecureWebSocket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_peer_that_came_itself_can_be_local() {
        let local = |text: &str| PeerInfo::tcp(text.parse().unwrap());
        let proxied =
            PeerInfo { proxy: Some(local("127.0.0.1:9").address), ..local("127.0.0.1:1") };

        assert!(local("127.0.0.1:1").is_local());
        assert!(local("[::1]:1").is_local());
        assert!(local("[::ffff:127.0.0.1]:1").is_local());
        assert!(!local("192.0.2.1:1").is_local());
        assert!(!proxied.is_local());
    }
}
