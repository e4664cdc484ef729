//! The client's bytes: over TCP, TLS, WebSocket, or WebSocket over TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream as _};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
    version,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::endpoint::{Endpoint, TlsOptions, TlsVersion};
use super::error::ClientError;

/// Where systems keep the authorities that they believe.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

static ONLY_1_2: [&SupportedProtocolVersion; 1] = [&version::TLS12];
static ONLY_1_3: [&SupportedProtocolVersion; 1] = [&version::TLS13];

/// One connection's bytes.
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Web(Box<Framed<TcpStream>>),
    SecureWeb(Box<Framed<TlsStream<TcpStream>>>),
}

impl Stream {
    /// Connects and does the handshakes of the layers.
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Stream, ClientError> {
        let (host, port) = (endpoint.host.as_str(), endpoint.port);
        let connected = match endpoint.local_address {
            None => TcpStream::connect((host, port)).await,
            Some(local) => connect_from(local, host, port).await,
        };
        let stream = connected.map_err(|source| {
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            ClientError::Connect { address: format!("{host}:{port}"), source }
        })?;
        stream.set_nodelay(true)?;
        let tls = match &endpoint.tls {
            None => Err(stream),
            Some(options) => Ok(secure(stream, endpoint, options).await?),
        };
        Ok(match (tls, &endpoint.web_path) {
            (Err(tcp), None) => Stream::Tcp(tcp),
            (Ok(tls), None) => Stream::Tls(Box::new(tls)),
            (Err(tcp), Some(path)) => {
                Stream::Web(Box::new(Framed::open(tcp, endpoint, "ws", path).await?))
            }
            (Ok(tls), Some(path)) => {
                Stream::SecureWeb(Box::new(Framed::open(tls, endpoint, "wss", path).await?))
            }
        })
    }

    /// Returns true when nothing is held back here.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self, Stream::Tcp(_))
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut dyn Duplex> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream),
            Stream::Tls(stream) => Pin::new(&mut **stream),
            Stream::Web(stream) => Pin::new(&mut **stream),
            Stream::SecureWeb(stream) => Pin::new(&mut **stream),
        }
    }
}

/// Connects from one address of this machine to the first of the host's that is of its kind and answers.
async fn connect_from(local: IpAddr, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        format!("{host} has no address of the kind of {local}"),
    );
    for address in lookup_host((host, port)).await? {
        let socket = match (local, address) {
            (IpAddr::V4(_), SocketAddr::V4(_)) => TcpSocket::new_v4()?,
            (IpAddr::V6(_), SocketAddr::V6(_)) => TcpSocket::new_v6()?,
            _ => continue,
        };
        socket.bind(SocketAddr::new(local, 0))?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

async fn secure(
    stream: TcpStream,
    endpoint: &Endpoint,
    options: &TlsOptions,
) -> Result<TlsStream<TcpStream>, ClientError> {
    let name = options.server_name.as_ref().unwrap_or(&endpoint.host);
    let bad_name = |_| ClientError::Tls(format!("'{name}' cannot be a server's name"));
    let server_name = ServerName::try_from(name.clone()).map_err(bad_name)?;
    let config = configuration(options, endpoint.web_path.is_some())?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(server_name, stream);
    connecting.await.map_err(|error| ClientError::Tls(error.to_string()))
}

fn configuration(options: &TlsOptions, is_web: bool) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(ring::default_provider());
    let failed = |error: rustls::Error| ClientError::Tls(error.to_string());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let versions: &[&SupportedProtocolVersion] = match options.version {
        None => rustls::DEFAULT_VERSIONS,
        Some(TlsVersion::V1_2) => &ONLY_1_2,
        Some(TlsVersion::V1_3) => &ONLY_1_3,
    };
    let builder = builder.with_protocol_versions(versions).map_err(failed)?;
    let builder = match options.is_insecure {
        true => {
            let believes_all = Arc::new(BelievesAll(provider));
            builder.dangerous().with_custom_certificate_verifier(believes_all)
        }
        false => builder.with_root_certificates(authorities(options.authorities.as_deref())?),
    };
    let mut config = match &options.certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
            builder.with_client_auth_cert(chain, key).map_err(failed)?
        }
    };
    let application = options.application.as_deref().or(is_web.then_some("http/1.1"));
    config.alpn_protocols = application.into_iter().map(|name| name.into()).collect();
    Ok(config)
}

fn authorities(file: Option<&Path>) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = file {
        for authority in certificates(file)? {
            roots.add(authority).map_err(|error| ClientError::Tls(error.to_string()))?;
        }
        return Ok(roots);
    }
    let variable = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let system = SYSTEM_AUTHORITIES.iter().map(PathBuf::from).filter(|path| path.exists());
    let Some(file) = variable.into_iter().chain(system).next() else {
        let advice = "this system names no authorities to believe; name a file of them";
        return Err(ClientError::Tls(advice.to_owned()));
    };
    // Systems list authorities that nobody can use any more among the others.
    roots.add_parsable_certificates(certificates(&file)?);
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let found: Vec<_> = read.map_err(|error| unreadable(file, error))?;
    match found.is_empty() {
        true => Err(ClientError::Tls(format!("{} holds no certificate", file.display()))),
        false => Ok(found),
    }
}

fn unreadable(file: &Path, error: rustls::pki_types::pem::Error) -> ClientError {
    ClientError::Tls(format!("cannot read {}: {error}", file.display()))
}

/// Believes any certificate; signatures must still fit it.
#[derive(Debug)]
struct BelievesAll(Arc<CryptoProvider>);

impl ServerCertVerifier for BelievesAll {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A stream of bytes in binary messages [MQTT-6.0.0-2].
pub(super) struct Framed<S> {
    frames: WebSocketStream<S>,
    /// Of the last message, what was not read.
    rest: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    async fn open(
        stream: S,
        endpoint: &Endpoint,
        scheme: &str,
        path: &str,
    ) -> Result<Framed<S>, ClientError> {
        let host = match endpoint.host.contains(':') {
            true => format!("[{}]", endpoint.host),
            false => endpoint.host.clone(),
        };
        let url = format!("{scheme}://{host}:{}{path}", endpoint.port);
        let failed = |error: Error| ClientError::WebSocket(described(&error));
        let mut request = url.into_client_request().map_err(failed)?;
        // [MQTT-6.0.0-3]
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
        let (frames, _) = client_async(request, stream).await.map_err(failed)?;
        Ok(Framed { frames, rest: Bytes::new() })
    }
}

/// Returns what went wrong, with what the server wrote beside a status.
fn described(error: &Error) -> String {
    let Error::Http(response) = error else { return error.to_string() };
    let body = response.body().as_deref().unwrap_or_default();
    let body = String::from_utf8_lossy(body);
    let status = response.status();
    match body.lines().next() {
        Some(line) if !line.is_empty() => format!("answered with {status}: {line}"),
        _ => format!("answered with {status}"),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Framed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.frames).poll_next(cx)) {
                None | Some(Err(Error::ConnectionClosed)) => return Poll::Ready(Ok(())),
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Text(_))) => {
                    let text = io::Error::new(io::ErrorKind::InvalidData, "a text frame came");
                    return Poll::Ready(Err(text));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        const FRAME_BYTES_MAX: usize = 64 << 10;
        ready!(Pin::new(&mut self.frames).poll_ready(cx)).map_err(to_io)?;
        let bytes = &bytes[..bytes.len().min(FRAME_BYTES_MAX)];
        let frame = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.frames).start_send(frame).map_err(to_io)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_flush(cx).map_err(to_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_close(cx).map_err(to_io)
    }
}

fn to_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
