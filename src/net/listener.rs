//! Accepts connections until the server stops, never more at a time than allowed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::admission::{Admission, Breach, Place};

/// Pause after the system refused to give a socket: descriptors come back when connections end.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(100);
/// Time between two of the probes that ask a silent peer whether it is there.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// How a listener's sockets behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Connections that the system keeps for us between two accepts.
    pub backlog: u32,
    /// Small packets leave at once.
    pub nodelay: bool,
    /// Silence after which the system asks a peer whether it is there.
    pub keepalive: Option<Duration>,
}

/// A connection, and whether it may stay.
pub struct Accepted {
    /// Its bytes.
    pub stream: TcpStream,
    /// The other end's address.
    pub address: SocketAddr,
    /// A place, or the limit it is over and a place among those that are told so.
    pub place: Result<Place, (Breach, Place)>,
}

/// Binds a listening socket.
pub fn bind(address: SocketAddr, options: SocketOptions) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    // Accepted sockets have the options of the one that they came in by: no calls for each of them.
    socket.set_nodelay(options.nodelay)?;
    if let Some(silence) = options.keepalive {
        let keepalive = TcpKeepalive::new().with_time(silence).with_interval(PROBE_EVERY);
        SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
    }
    socket.bind(address)?;
    socket.listen(options.backlog)
}

/// Accepts until `stopping`, and gives everything that may stay, or is to be told why not, to `serve`.
///
/// Where `is_proxied`, the other end's address is a proxy's and says nothing about whether a client is local.
pub async fn accept(
    listener: TcpListener,
    is_proxied: bool,
    admission: Arc<Admission>,
    mut stopping: watch::Receiver<bool>,
    serve: impl Fn(Accepted),
) {
    // The log knows that there is something wrong.
    let mut is_reported = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        match accepted {
            Ok((stream, address)) => {
                if std::mem::take(&mut is_reported) {
                    tracing::info!("accepting connections again");
                }
                let is_local = !is_proxied && address.ip().to_canonical().is_loopback();
                let place = match admission.admit(is_local) {
                    Ok(place) => Ok(place),
                    Err(breach) => {
                        report(&admission, breach, address, &breach);
                        // Beyond those that are told, closing at once is all the answer there is.
                        let Some(place) = admission.tell() else { continue };
                        Err((breach, place))
                    }
                };
                serve(Accepted { stream, address, place });
            }
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                if let Some(count) = admission.count(Breach::Accept) {
                    is_reported = true;
                    tracing::warn!(
                        %error,
                        count,
                        "cannot accept connections; they wait, and it is tried again until it works. When these are too many open \
                         files, raise the limit of the process (LimitNOFILE, ulimit -n) or lower limits.connections_max"
                    );
                }
                tokio::select! {
                    () = tokio::time::sleep(OUT_OF_DESCRIPTORS_PAUSE) => {}
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                }
            }
        }
    }
}

/// Returns true when a connection ended before it was accepted: the next one is none the worse for it.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
    )
}

/// Counts a connection that was turned away; the log hears of a burst once, and then of how many there were.
pub fn report(
    admission: &Admission,
    breach: Breach,
    address: SocketAddr,
    why: &dyn std::fmt::Display,
) {
    if let Some(count) = admission.count(breach) {
        tracing::warn!(%address, count, "connections turned away, the last one because: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_have_the_options_of_their_listener() {
        for (nodelay, silence) in [(true, Some(77)), (false, None)] {
            let keepalive = silence.map(Duration::from_secs);
            let options = SocketOptions { backlog: 8, nodelay, keepalive };
            let listener = bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();

            let (accepted, _) = listener.accept().await.unwrap();

            let socket = SockRef::from(&accepted);
            assert_eq!(accepted.nodelay().unwrap(), nodelay);
            assert_eq!(socket.keepalive().unwrap(), silence.is_some());
            if let Some(silence) = keepalive {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), silence);
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), PROBE_EVERY);
            }
        }
    }

    #[test]
    fn only_what_a_peer_did_is_no_reason_to_pause() {
        let kind = |kind: io::ErrorKind| is_the_peers(&kind.into());
        assert!(kind(io::ErrorKind::ConnectionAborted) && kind(io::ErrorKind::ConnectionReset));
        assert!(!kind(io::ErrorKind::OutOfMemory) && !kind(io::ErrorKind::PermissionDenied));
        // EMFILE.
        assert!(!is_the_peers(&io::Error::from_raw_os_error(24)));
    }
}
