//! The listeners: where clients connect and what stands in front of the protocol there.
//!
//! As soon as one listener of any kind is written, exactly the written ones exist.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::setting::{Address, Choice, File, Flag, Named, Number, OptionalFile, Origins, UrlPath};
use super::walk::{Section, Walk};

/// Where clients connect, a list for each kind. Default: MQTT on port 1883, WebSocket on 8083 and AMQP on 5672, each on both loopback
/// addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// MQTT 3.1, 3.1.1 and 5.0 over TCP.
    pub mqtt: Vec<Listener>,
    /// The same over TLS.
    pub mqtts: Vec<TlsListener>,
    /// The same over WebSocket.
    pub ws: Vec<WebListener>,
    /// The same over WebSocket over TLS.
    pub wss: Vec<SecureWebListener>,
    /// AMQP 0.9.1 over TCP.
    pub amqp: Vec<AmqpListener>,
    /// The same over TLS.
    pub amqps: Vec<SecureAmqpListener>,
}

/// One socket that accepts connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// An IP address and a port; port 0 takes any free one. Default 127.0.0.1:1883.
    pub address: SocketAddr,
    /// Connections that the system keeps until we accept them. Default 4096, minimum 1; the system may allow fewer.
    pub backlog: u32,
    /// Seconds of silence after which the system asks a peer whether it is there; 0 never asks. Default 300.
    pub tcp_keepalive_s: u16,
    /// Small packets leave at once (TCP_NODELAY). Default true.
    pub tcp_nodelay: bool,
    /// Every connection begins with a PROXY protocol header, version 1 or 2; others are closed. Default false.
    pub proxy_protocol: bool,
}

/// One socket that accepts AMQP connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmqpListener {
    /// The socket. Default address 127.0.0.1:5672.
    pub socket: Listener,
}

/// One socket that accepts AMQP connections over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecureAmqpListener {
    /// The socket. Default address 127.0.0.1:5671.
    pub socket: Listener,
    /// What stands on it.
    pub tls: Tls,
}

/// One socket that accepts TLS connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsListener {
    /// The socket. Default address 127.0.0.1:8883.
    pub socket: Listener,
    /// What stands on it.
    pub tls: Tls,
}

/// One socket that accepts WebSocket connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebListener {
    /// The socket. Default address 127.0.0.1:8083.
    pub socket: Listener,
    /// What stands on it.
    pub web: Web,
}

/// One socket that accepts WebSocket connections over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecureWebListener {
    /// The socket. Default address 127.0.0.1:8084.
    pub socket: Listener,
    /// What stands on it.
    pub tls: Tls,
    /// What stands on that.
    pub web: Web,
}

/// TLS of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file with our certificate and those between it and its authority. Needed.
    pub certificate: PathBuf,
    /// PEM file with its private key. Needed.
    pub key: PathBuf,
    /// Whether clients show a certificate. Default `none`.
    pub client_certificates: ClientCertificates,
    /// PEM file with the authorities of clients. Needed unless `client_certificates` is `none`.
    pub client_ca: Option<PathBuf>,
    /// The oldest version of TLS that is spoken. Default `1.2`.
    pub min_version: TlsVersion,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    None,
    /// They may; one that is shown is verified.
    Request,
    /// They must.
    Require,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// WebSocket of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    /// The only path that is served. Default `/mqtt`.
    pub path: String,
    /// Which pages may connect: `same_host`, `any`, or origins with commas between. Default `same_host`.
    pub origins: String,
}

impl Listeners {
    /// Returns no listener at all.
    pub fn none() -> Listeners {
        Listeners {
            mqtt: Vec::new(),
            mqtts: Vec::new(),
            ws: Vec::new(),
            wss: Vec::new(),
            amqp: Vec::new(),
            amqps: Vec::new(),
        }
    }

    /// Returns every socket with its place in the configuration.
    pub fn sockets(&self) -> impl Iterator<Item = (String, &Listener)> {
        let at = |kind: &'static str| {
            move |(index, socket)| (format!("listeners.{kind}.{index}"), socket)
        };
        let mqtts = self.mqtts.iter().map(|listener| &listener.socket);
        let ws = self.ws.iter().map(|listener| &listener.socket);
        let wss = self.wss.iter().map(|listener| &listener.socket);
        let amqp = self.amqp.iter().map(|listener| &listener.socket);
        let amqps = self.amqps.iter().map(|listener| &listener.socket);
        (self.mqtt.iter().enumerate().map(at("mqtt")))
            .chain(mqtts.enumerate().map(at("mqtts")))
            .chain(ws.enumerate().map(at("ws")))
            .chain(wss.enumerate().map(at("wss")))
            .chain(amqp.enumerate().map(at("amqp")))
            .chain(amqps.enumerate().map(at("amqps")))
    }

    /// Tells whether this is the IPv6 half of `localhost`, and another of the sockets is the other half.
    pub fn is_half_of_localhost(&self, address: SocketAddr) -> bool {
        let other = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
        address.ip() == IpAddr::from(Ipv6Addr::LOCALHOST)
            && self.sockets().any(|(_, socket)| socket.address == other)
    }

    /// Returns every TLS section with its place in the configuration.
    pub fn tls(&self) -> impl Iterator<Item = (String, &Tls)> {
        let at =
            |kind: &'static str| move |(index, tls)| (format!("listeners.{kind}.{index}"), tls);
        let mqtts = self.mqtts.iter().map(|listener| &listener.tls);
        let wss = self.wss.iter().map(|listener| &listener.tls);
        let amqps = self.amqps.iter().map(|listener| &listener.tls);
        (mqtts.enumerate().map(at("mqtts")))
            .chain(wss.enumerate().map(at("wss")))
            .chain(amqps.enumerate().map(at("amqps")))
    }
}

impl Listener {
    /// Returns a listener at `address`, everything else at its default.
    pub fn at(address: SocketAddr) -> Listener {
        Listener {
            address,
            backlog: 4096,
            tcp_keepalive_s: 300,
            tcp_nodelay: true,
            proxy_protocol: false,
        }
    }

    fn local(port: u16) -> Listener {
        Listener::at(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// The same address and its counterpart of IPv6: `localhost` is either of both.
    fn and_its_counterpart(self) -> [Listener; 2] {
        let address = SocketAddr::from((Ipv6Addr::LOCALHOST, self.address.port()));
        [self.clone(), Listener { address, ..self }]
    }
}

impl Default for Listeners {
    fn default() -> Listeners {
        let web = |socket| WebListener { socket, ..WebListener::default() };
        let amqp = |socket| AmqpListener { socket };
        Listeners {
            mqtt: Listener::default().and_its_counterpart().into(),
            ws: WebListener::default().socket.and_its_counterpart().map(web).into(),
            amqp: AmqpListener::default().socket.and_its_counterpart().map(amqp).into(),
            ..Listeners::none()
        }
    }
}

impl Default for Listener {
    fn default() -> Listener {
        Listener::local(1883)
    }
}

impl Default for AmqpListener {
    fn default() -> AmqpListener {
        AmqpListener { socket: Listener::local(5672) }
    }
}

impl Default for SecureAmqpListener {
    fn default() -> SecureAmqpListener {
        SecureAmqpListener { socket: Listener::local(5671), tls: Tls::default() }
    }
}

impl Default for TlsListener {
    fn default() -> TlsListener {
        TlsListener { socket: Listener::local(8883), tls: Tls::default() }
    }
}

impl Default for WebListener {
    fn default() -> WebListener {
        WebListener { socket: Listener::local(8083), web: Web::default() }
    }
}

impl Default for SecureWebListener {
    fn default() -> SecureWebListener {
        SecureWebListener {
            socket: Listener::local(8084),
            tls: Tls::default(),
            web: Web::default(),
        }
    }
}

impl Default for Web {
    fn default() -> Web {
        Web { path: "/mqtt".to_owned(), origins: "same_host".to_owned() }
    }
}

impl Section for Listeners {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Listeners { mqtt, mqtts, ws, wss, amqp, amqps } = self;
        walk.list("mqtt", mqtt);
        walk.list("mqtts", mqtts);
        walk.list("ws", ws);
        walk.list("wss", wss);
        walk.list("amqp", amqp);
        walk.list("amqps", amqps);
    }
}

impl Section for Listener {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Listener { address, backlog, tcp_keepalive_s, tcp_nodelay, proxy_protocol } = self;
        walk.leaf("address", &mut Address(address));
        walk.leaf("backlog", &mut Number(backlog, 1..=65_535));
        walk.leaf("tcp_keepalive_s", &mut Number(tcp_keepalive_s, 0..=32_767));
        walk.leaf("tcp_nodelay", &mut Flag(tcp_nodelay));
        walk.leaf("proxy_protocol", &mut Flag(proxy_protocol));
    }
}

impl Section for AmqpListener {
    fn fields(&mut self, walk: &mut dyn Walk) {
        self.socket.fields(walk);
    }
}

impl Section for SecureAmqpListener {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let SecureAmqpListener { socket, tls } = self;
        socket.fields(walk);
        tls.fields(walk);
    }
}

impl Section for TlsListener {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let TlsListener { socket, tls } = self;
        socket.fields(walk);
        tls.fields(walk);
    }
}

impl Section for WebListener {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let WebListener { socket, web } = self;
        socket.fields(walk);
        web.fields(walk);
    }
}

impl Section for SecureWebListener {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let SecureWebListener { socket, tls, web } = self;
        socket.fields(walk);
        tls.fields(walk);
        web.fields(walk);
    }
}

impl Section for Tls {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Tls { certificate, key, client_certificates, client_ca, min_version } = self;
        walk.leaf("certificate", &mut File(certificate));
        walk.leaf("key", &mut File(key));
        walk.leaf("client_certificates", &mut Choice(client_certificates));
        walk.leaf("client_ca", &mut OptionalFile(client_ca));
        walk.leaf("min_version", &mut Choice(min_version));
    }
}

impl Section for Web {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Web { path, origins } = self;
        walk.leaf("path", &mut UrlPath(path));
        walk.leaf("origins", &mut Origins(origins));
    }
}

impl Named for ClientCertificates {
    const NAMES: &'static [(&'static str, ClientCertificates)] = &[
        ("none", ClientCertificates::None),
        ("request", ClientCertificates::Request),
        ("require", ClientCertificates::Require),
    ];

    fn hint(text: &str) -> Option<&'static str> {
        matches!(text, "true" | "yes" | "on" | "required" | "optional")
            .then_some("request or require, by whether clients without one are refused")
    }
}

impl Named for TlsVersion {
    const NAMES: &'static [(&'static str, TlsVersion)] =
        &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];

    fn hint(text: &str) -> Option<&'static str> {
        matches!(text, "1.0" | "1.1").then_some("1.2 or 1.3: older versions are not secure")
    }
}
