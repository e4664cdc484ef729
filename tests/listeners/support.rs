//! A broker in this process, certificates for it, and a client that is nothing but the codec.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fluxmq::config::{Config, Listener, Listeners};
use fluxmq::protocol::mqtt::codec::{Limits, decode, encode};
use fluxmq::protocol::mqtt::types::{ConnAck, Connect, Packet};
use fluxmq::protocol::mqtt::{PropertyList, ReasonCode, Version};
use fluxmq::server::Server;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// More than anything here takes, less than anybody's patience.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A broker that listens where its configuration says, until it is stopped or dropped.
pub struct Broker {
    pub addresses: Vec<SocketAddr>,
    _dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    reload: watch::Sender<()>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Broker {
    pub fn start(listeners: Listeners) -> Broker {
        Broker::with(|config| config.listeners = listeners)
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Broker {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { data_dir: dir.path().join("data"), ..Config::default() };
        config.listeners = Listeners { mqtt: vec![local()], ..Listeners::none() };
        config.partitions.data = 1;
        config.storage.segment_bytes_max = 4 << 20;
        // How full the disk of this machine is, is not what is tested.
        config.storage.disk_low_percent = 0;
        config.storage.disk_low_bytes = 0;
        change(&mut config);
        config.validate().unwrap();
        let server = Server::start(&config).unwrap();
        let addresses = server.addresses().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (reload, reloaded) = watch::channel(());
        let stopped = async move { drop(stopped.await) };
        let running = tokio::spawn(server.run(stopped, reloaded));
        let addresses = addresses.into_iter().map(|(address, _)| address).collect();
        Broker { addresses, _dir: dir, stop: Some(stop), reload, running }
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    /// What SIGHUP does.
    pub fn reload(&self) {
        self.reload.send_replace(());
    }

    pub async fn stop(mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        timeout(PATIENCE, self.running).await.unwrap().unwrap().unwrap();
    }
}

/// A listener on any free port.
pub fn local() -> Listener {
    Listener::at("127.0.0.1:0".parse().unwrap())
}

/// A client's end of a connection, whatever carries it.
pub struct Peer<S> {
    pub stream: S,
    input: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub fn on(stream: S) -> Peer<S> {
        Peer { stream, input: BytesMut::new() }
    }

    pub async fn send(&mut self, packet: &Packet) {
        self.stream.write_all(&bytes_of(packet)).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next packet; `None` when the other side closed.
    pub async fn receive(&mut self) -> Option<Packet> {
        loop {
            let packet = decode(&mut self.input, Some(Version::V5), &Limits::default()).unwrap();
            if packet.is_some() {
                return packet;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await.unwrap();
            if !read.is_ok_and(|count| count > 0) {
                return None;
            }
        }
    }

    pub async fn connect(&mut self, client_id: &str) -> Option<ReasonCode> {
        self.send(&connect(client_id)).await;
        match self.receive().await {
            Some(Packet::ConnAck(ConnAck { reason, .. })) => Some(reason),
            Some(other) => panic!("{other:?}"),
            None => None,
        }
    }

    /// Says something that is answered: the connection lives.
    pub async fn ping(&mut self) {
        self.send(&Packet::PingReq).await;
        assert_eq!(self.receive().await, Some(Packet::PingResp));
    }
}

pub fn connect(client_id: &str) -> Packet {
    Packet::Connect(Box::new(Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive_s: 0,
        client_id: Bytes::from(client_id.to_owned()),
        will: None,
        username: None,
        password: None,
        properties: PropertyList::default(),
    }))
}

pub fn bytes_of(packet: &Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode(packet, Version::V5, &mut bytes).unwrap();
    bytes
}

/// An authority and what it signed, as files.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    pub fn new(dir: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("ca.pem"), issuer.pem()).unwrap();
        Authority { issuer, dir }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Writes a certificate for `name`, and its key; returns both files. An existing pair of that name is replaced.
    pub fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .subject_alt_names
            .push(SanType::DnsName(format!("{name}.example").try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = (self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}.key")));
        std::fs::write(&files.0, certificate.pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    /// A client that believes this authority, and shows a certificate if it has one.
    pub fn client(&self, own: Option<&(PathBuf, PathBuf)>) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file()).unwrap()).unwrap();
        Client { roots, own: own.cloned(), versions: rustls::ALL_VERSIONS, alpn: Vec::new() }
    }
}

pub struct Client {
    roots: RootCertStore,
    own: Option<(PathBuf, PathBuf)>,
    pub versions: &'static [&'static rustls::SupportedProtocolVersion],
    pub alpn: Vec<Vec<u8>>,
}

impl Client {
    pub async fn connect(self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        self.over(stream).await
    }

    pub async fn over(self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(self.roots);
        let mut config = match self.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_file(certificate).unwrap()],
                    PrivateKeyDer::from_pem_file(key).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = self.alpn;
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        timeout(PATIENCE, connecting).await.unwrap()
    }
}
