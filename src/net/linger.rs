//! The end of a connection that we close: what was said last reaches the peer.
//!
//! A socket that is closed while input waits in it answers with a reset, and a reset may destroy at the peer what it has not read yet:
//! the DISCONNECT that says why. So the sending side is closed first, and what still comes is read and thrown away for a moment.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a peer may take to read our last words and close in turn.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes read at a time only to be thrown away.
const IGNORED_BYTES: usize = 4096;

/// Closes a connection over which everything was said: returns when the peer has closed it too, or took too long.
pub async fn linger(mut stream: TcpStream) {
    let part = async {
        let _ = stream.shutdown().await;
        let mut ignored = vec![0; IGNORED_BYTES];
        while matches!(stream.read(&mut ignored).await, Ok(1..)) {}
    };
    let _ = tokio::time::timeout(LINGER, part).await;
}
