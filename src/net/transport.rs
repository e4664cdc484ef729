//! The bytes of one connection, whatever carries them: TCP, TLS over it, WebSocket over either.
//!
//! Nothing here waits, except [`Transport::ready`]: what cannot be done at once is `WouldBlock`. Plain TCP passes straight through;
//! the layers that need memory of their own are behind one pointer.

use std::io::{self, BufRead, Read, Write};

use bytes::{Buf, BytesMut};
use rustls::ServerConnection;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

use super::websocket::WebSocket;

/// A connection's way in and out.
pub enum Transport {
    /// Nothing between us and the system.
    Tcp(TcpStream),
    /// TLS, WebSocket, or one over the other.
    Layered(Box<Layered>),
}

/// A stream with layers on it.
pub struct Layered {
    carrier: Carrier,
    web: Option<WebSocket>,
    /// False once everything that the system had for us was taken: only then does its word count on whether there is more.
    may_have_more: bool,
}

/// What WebSocket frames, or MQTT packets, travel in. Reads and writes like a file that never blocks.
pub(super) struct Carrier {
    pub(super) stream: TcpStream,
    pub(super) tls: Option<ServerConnection>,
}

impl Transport {
    /// Returns a connection whose handshakes are done.
    pub(super) fn layered(
        stream: TcpStream,
        tls: Option<ServerConnection>,
        web: Option<WebSocket>,
    ) -> Transport {
        // What came in behind the handshakes is in the layers already.
        let carrier = Carrier { stream, tls };
        Transport::Layered(Box::new(Layered { carrier, web, may_have_more: true }))
    }

    /// Appends what has come, about `bytes_max` bytes; 0 is the end. A WebSocket message is at most `unit_bytes_max` bytes.
    pub fn try_read(
        &mut self,
        input: &mut BytesMut,
        bytes_max: usize,
        unit_bytes_max: usize,
    ) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => {
                input.reserve(bytes_max);
                stream.try_read_buf(input)
            }
            Transport::Layered(layered) => layered.try_read(input, bytes_max, unit_bytes_max),
        }
    }

    /// Takes from the front of `output` what can be sent now.
    pub fn try_write(&mut self, output: &mut BytesMut) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => {
                let count = stream.try_write(output)?;
                output.advance(count);
                Ok(())
            }
            Transport::Layered(layered) => layered.try_write(output),
        }
    }

    /// Returns true when nothing that [`Transport::try_write`] took waits in a layer.
    pub fn is_flushed(&self) -> bool {
        match self {
            Transport::Tcp(_) => true,
            Transport::Layered(layered) => layered.is_flushed(),
        }
    }

    /// Waits until something of `interest` may be worth trying. Cancel-safe.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Transport::Tcp(stream) => stream.ready(interest).await,
            Transport::Layered(layered) if layered.may_have_more && interest.is_readable() => {
                // Whoever always has more must not keep the thread.
                tokio::task::coop::consume_budget().await;
                Ok(Ready::READABLE)
            }
            Transport::Layered(layered) => layered.carrier.stream.ready(interest).await,
        }
    }

    /// Says goodbye in the words of the layers, as far as that is possible without waiting.
    pub fn close(&mut self) {
        if let Transport::Layered(layered) = self {
            layered.close();
        }
    }

    /// The socket below everything: the layers have nothing more to say.
    pub fn into_stream(self) -> TcpStream {
        match self {
            Transport::Tcp(stream) => stream,
            Transport::Layered(layered) => layered.carrier.stream,
        }
    }
}

impl Layered {
    fn try_read(
        &mut self,
        input: &mut BytesMut,
        bytes_max: usize,
        unit_bytes_max: usize,
    ) -> io::Result<usize> {
        let before = input.len();
        self.may_have_more = true;
        while input.len() - before < bytes_max {
            let taken = match &mut self.web {
                Some(web) => web.try_read(&mut self.carrier, input, unit_bytes_max),
                None => self.carrier.try_read(input, bytes_max),
            };
            match taken {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    self.may_have_more = error.kind() != io::ErrorKind::WouldBlock;
                    // What came before the error is read first; a lasting error comes back.
                    if input.len() > before {
                        break;
                    }
                    return Err(error);
                }
            }
        }
        Ok(input.len() - before)
    }

    fn try_write(&mut self, output: &mut BytesMut) -> io::Result<()> {
        match &mut self.web {
            Some(web) => web.try_write(&mut self.carrier, output),
            None => {
                if !output.is_empty() {
                    let count = self.carrier.write(output)?;
                    output.advance(count);
                }
                self.carrier.flush()
            }
        }
    }

    fn is_flushed(&self) -> bool {
        let web = self.web.as_ref().is_none_or(WebSocket::is_flushed);
        web && self.carrier.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    fn close(&mut self) {
        if let Some(web) = &mut self.web {
            web.close(&mut self.carrier);
        }
        if let Some(tls) = &mut self.carrier.tls {
            tls.send_close_notify();
            // The peer may be gone: it is told if it listens.
            let _ = self.carrier.flush();
        }
    }
}

impl Carrier {
    /// Appends what has come, of one TLS record at a time.
    fn try_read(&mut self, input: &mut BytesMut, bytes_max: usize) -> io::Result<usize> {
        let Carrier { stream, tls } = self;
        let Some(tls) = tls else {
            input.reserve(bytes_max);
            return stream.try_read_buf(input);
        };
        loop {
            let mut plain = tls.reader();
            match plain.fill_buf() {
                Ok(chunk) => {
                    let count = chunk.len();
                    input.extend_from_slice(chunk);
                    plain.consume(count);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    receive(tls, stream)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Read for Carrier {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Carrier { stream, tls } = self;
        let Some(tls) = tls else { return stream.try_read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    receive(tls, stream)?;
                }
                other => return other,
            }
        }
    }
}

impl Write for Carrier {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.try_write(bytes) };
        // A session takes a limited number of bytes, none before the earlier ones are gone.
        send(tls, &self.stream)?;
        let count = tls.writer().write(bytes)?;
        match send(tls, &self.stream) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| send(tls, &self.stream))
    }
}

/// Takes records from the system into the session.
fn receive(tls: &mut ServerConnection, stream: &TcpStream) -> io::Result<()> {
    tls.read_tls(&mut Unblocked(stream))?;
    let processed = tls.process_new_packets();
    if tls.wants_write() {
        // An alert, or an answer of the protocol's own: it goes out with what is sent next if it cannot go now.
        match send(tls, stream) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    processed.map(drop).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn send(tls: &mut ServerConnection, stream: &TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(&mut Unblocked(stream))?;
    }
    Ok(())
}

/// A socket as the standard library's traits see it.
struct Unblocked<'a>(&'a TcpStream);

impl Read for Unblocked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Unblocked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
