//! The listeners: from their configuration to connections that are served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;

use super::{amqp_settings, assigned_client_id, mqtt_settings};
use crate::config::{self, Config};
use crate::model::{Millis, PeerInfo};
use crate::net::admission::{AddressPlace, Admission, AdmissionLimits, Breach, Place};
use crate::net::arrival::{Arrival, ArrivalError};
use crate::net::drive::{Shared, drive};
use crate::net::listener::{self, Accepted, SocketOptions};
use crate::net::tls::{ClientCertificates, TlsKeeper, TlsOptions};
use crate::net::transport::Transport;
use crate::net::websocket::{Origins, WebOptions};
use crate::protocol::amqp091::AmqpConnection;
use crate::protocol::mqtt::MqttConnection;
use crate::protocol::{amqp091, mqtt};

/// Open files that are kept from connections: for each partition its logs and indexes, and for everything else.
const FILES_PER_PARTITION: u64 = 16;
const FILES_BESIDE: u64 = 32;
/// Connections over a limit that are told so at a time, where the open files allow it.
const TOLD_MAX: u32 = 128;
/// Time that a connection over a limit has for its CONNECT, to be told so.
const TURNING_AWAY_MS: u64 = 2_000;

/// Everything that listens.
pub(super) struct Listeners {
    open: Vec<Open>,
    /// Of the TLS listeners.
    pub(super) keepers: Vec<TlsKeeper>,
    pub(super) admission: Arc<Admission>,
    spoken: Spoken,
}

struct Open {
    listener: TcpListener,
    protocol: &'static str,
    arrival: Arrival,
}

/// What clients are allowed, by what they speak.
#[derive(Clone)]
struct Spoken {
    mqtt: Arc<mqtt::Settings>,
    amqp: Arc<amqp091::Settings>,
}

/// Where a listener is and what is spoken there: `mqtt`, `mqtts`, `ws`, `wss`, `amqp` or `amqps`.
pub type ListeningAt = (SocketAddr, &'static str);

impl Listeners {
    /// Reads certificates and binds; nothing is accepted. `partitions` have files open, too.
    pub(super) fn bind(config: &Config, partitions: usize) -> anyhow::Result<Listeners> {
        let listeners = &config.listeners;
        let mut bound = Listeners {
            open: Vec::new(),
            keepers: Vec::new(),
            admission: Admission::new(admission_limits(config, partitions)),
            spoken: Spoken {
                mqtt: Arc::new(mqtt_settings(config)),
                amqp: Arc::new(amqp_settings(config)?),
            },
        };
        let timeout = Duration::from_secs(config.limits.handshake_timeout_s.into());
        for socket in &listeners.mqtt {
            bound.add("mqtt", listeners, socket, (None, None), timeout)?;
        }
        for listener in &listeners.mqtts {
            bound.add(
                "mqtts",
                listeners,
                &listener.socket,
                (Some(&listener.tls), None),
                timeout,
            )?;
        }
        for listener in &listeners.ws {
            bound.add("ws", listeners, &listener.socket, (None, Some(&listener.web)), timeout)?;
        }
        for listener in &listeners.wss {
            let front = (Some(&listener.tls), Some(&listener.web));
            bound.add("wss", listeners, &listener.socket, front, timeout)?;
        }
        for listener in &listeners.amqp {
            bound.add("amqp", listeners, &listener.socket, (None, None), timeout)?;
        }
        for listener in &listeners.amqps {
            bound.add(
                "amqps",
                listeners,
                &listener.socket,
                (Some(&listener.tls), None),
                timeout,
            )?;
        }
        Ok(bound)
    }

    /// Binds one of `all`, with what stands in front of the protocol. The IPv6 half of `localhost` is left out where the machine has none.
    fn add(
        &mut self,
        protocol: &'static str,
        all: &config::Listeners,
        socket: &config::Listener,
        (tls, web): (Option<&config::Tls>, Option<&config::Web>),
        handshake_timeout: Duration,
    ) -> anyhow::Result<()> {
        let address = socket.address;
        let tls = match tls {
            None => None,
            Some(tls) => {
                let keeper = TlsKeeper::new(tls_options(tls, protocol));
                let (keeper, current) = keeper.with_context(|| {
                    format!("the {protocol} listener on {address} cannot be set up")
                })?;
                self.keepers.push(keeper);
                Some(current)
            }
        };
        let options = SocketOptions {
            backlog: socket.backlog,
            nodelay: socket.tcp_nodelay,
            keepalive: (socket.tcp_keepalive_s > 0)
                .then(|| Duration::from_secs(socket.tcp_keepalive_s.into())),
        };
        let listener = match listener::bind(address, options) {
            Ok(listener) => listener,
            Err(error) if is_missing(&error) && all.is_half_of_localhost(address) => {
                tracing::info!(%address, protocol, "not listening: this machine has no IPv6");
                return Ok(());
            }
            Err(error) => {
                let problem = cannot_listen(protocol, address, &error);
                return Err(anyhow::Error::new(error).context(problem));
            }
        };
        let web = web.map(|web| Arc::new(web_options(web, address)));
        let arrival =
            Arrival { proxy_protocol: socket.proxy_protocol, tls, web, handshake_timeout };
        self.open.push(Open { listener, protocol, arrival });
        Ok(())
    }

    /// Where we listen; a configured port of 0 has become a real one.
    pub(super) fn addresses(&self) -> std::io::Result<Vec<ListeningAt>> {
        self.open.iter().map(|open| Ok((open.listener.local_addr()?, open.protocol))).collect()
    }

    /// Begins to accept, until `shared.stopping`.
    pub(super) fn accept(&mut self, shared: &Shared) {
        for open in self.open.drain(..) {
            let is_proxied = open.arrival.proxy_protocol;
            let door = Arc::new(Door {
                arrival: open.arrival,
                is_amqp: is_amqp(open.protocol),
                spoken: self.spoken.clone(),
                admission: self.admission.clone(),
                shared: shared.clone(),
            });
            let serve = move |accepted| door.serve(accepted);
            let (admission, stopping) = (self.admission.clone(), shared.stopping.clone());
            let accepting = listener::accept(open.listener, is_proxied, admission, stopping, serve);
            tokio::spawn(accepting);
        }
    }

    /// Takes the certificates of all listeners anew: those that changed, or all when `is_asked`. What cannot be taken stays as it was.
    pub(super) fn reload(&mut self, is_asked: bool) {
        for keeper in &mut self.keepers {
            let reloaded = match is_asked {
                true => keeper.reload().map(|()| true),
                false => keeper.reload_if_changed(),
            };
            let certificate = keeper.certificate().display();
            match reloaded {
                Ok(true) => tracing::info!(%certificate, "certificate reloaded"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%certificate, %error, "certificate not reloaded: the one before stays in effect");
                }
            }
        }
    }
}

/// One listener, as its connections see it.
struct Door {
    arrival: Arrival,
    is_amqp: bool,
    spoken: Spoken,
    admission: Arc<Admission>,
    shared: Shared,
}

impl Door {
    fn serve(self: &Arc<Door>, accepted: Accepted) {
        let Accepted { stream, address, place } = accepted;
        let now = self.shared.now();
        match place {
            Ok(place) if self.arrival.is_plain() => {
                let peer = PeerInfo::tcp(address);
                match self.admit_address(&peer) {
                    Ok(of_address) => {
                        self.drive(Transport::Tcp(stream), peer, now, (place, of_address))
                    }
                    Err((breach, told)) => {
                        self.turn_away(Transport::Tcp(stream), peer, now, breach, told)
                    }
                }
            }
            Err((breach, told)) if self.arrival.is_plain() => {
                let peer = PeerInfo::tcp(address);
                self.turn_away(Transport::Tcp(stream), peer, now, breach, Some(told));
            }
            // Handshakes cost more than what they would tell.
            Err(_) => {}
            Ok(place) => {
                let door = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = door.receive(stream, address, place, now).await {
                        listener::report(&door.admission, Breach::Handshake, address, &error);
                        tracing::debug!(%address, %error, "handshake failed");
                    }
                });
            }
        }
    }

    /// Does what stands in front of the protocol, then serves.
    async fn receive(
        &self,
        mut stream: tokio::net::TcpStream,
        address: SocketAddr,
        place: Place,
        now: Millis,
    ) -> Result<(), ArrivalError> {
        let mut peer = self.arrival.introduce(&mut stream, address).await?;
        let of_address = self.admit_address(&peer);
        if let Err((_, None)) = of_address {
            return Ok(());
        }
        let transport = self.arrival.shake_hands(stream, &mut peer).await?;
        match of_address {
            Ok(of_address) => self.drive(transport, peer, now, (place, of_address)),
            Err((breach, told)) => self.turn_away(transport, peer, now, breach, told),
        }
        Ok(())
    }

    /// Takes a place among the connections of the peer's address, or one among those that are told why there is none.
    fn admit_address(
        &self,
        peer: &PeerInfo,
    ) -> Result<Option<Box<AddressPlace>>, (Breach, Option<Place>)> {
        if peer.is_local() {
            return Ok(None);
        }
        self.admission.admit_address(peer.address.ip()).map(|place| Some(Box::new(place))).map_err(
            |breach| {
                listener::report(&self.admission, breach, peer.address, &breach);
                (breach, self.admission.tell())
            },
        )
    }

    fn drive(
        &self,
        transport: Transport,
        peer: PeerInfo,
        now: Millis,
        places: (Place, Option<Box<AddressPlace>>),
    ) {
        self.begin(self.spoken.clone(), (transport, peer), now, places);
    }

    /// Serves a connection just long enough to tell it why it may not stay.
    fn turn_away(
        &self,
        transport: Transport,
        peer: PeerInfo,
        now: Millis,
        breach: Breach,
        told: Option<Place>,
    ) {
        let Some(told) = told else { return };
        let Spoken { mqtt, amqp } = &self.spoken;
        let mqtt = mqtt::Settings {
            turned_away: Some(breach.refusal()),
            connect_timeout_ms: mqtt.connect_timeout_ms.min(TURNING_AWAY_MS),
            ..(**mqtt).clone()
        };
        let amqp = amqp091::Settings {
            turned_away: Some(breach.refusal()),
            handshake_timeout_ms: amqp.handshake_timeout_ms.min(TURNING_AWAY_MS),
            close_timeout_ms: amqp.close_timeout_ms.min(TURNING_AWAY_MS),
            ..(**amqp).clone()
        };
        let spoken = Spoken { mqtt: Arc::new(mqtt), amqp: Arc::new(amqp) };
        self.begin(spoken, (transport, peer), now, told);
    }

    /// Runs a connection in a task of its own.
    fn begin<P: Send + 'static>(
        &self,
        spoken: Spoken,
        (transport, peer): (Transport, PeerInfo),
        now: Millis,
        places: P,
    ) {
        let (address, shared, id) = (peer.address.ip(), self.shared.clone(), assigned_client_id());
        if self.is_amqp {
            let connection = AmqpConnection::new(spoken.amqp, peer, id, now);
            tokio::spawn(drive(transport, connection, address, shared, places));
        } else {
            let connection = MqttConnection::new(spoken.mqtt, peer, id, now);
            tokio::spawn(drive(transport, connection, address, shared, places));
        }
    }
}

/// The configured limits, and what the system allows.
fn admission_limits(config: &Config, partitions: usize) -> AdmissionLimits {
    let limits = &config.limits;
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let (allowed, told_max) = match open_files.current {
        None => (u32::MAX, TOLD_MAX),
        Some(files) => share_of_connections(files, partitions as u64),
    };
    let connections_max = limits.connections_max.min(allowed);
    if connections_max < limits.connections_max {
        tracing::info!(
            configured = limits.connections_max,
            connections_max,
            "limits.connections_max is lowered to what the limit of open files allows"
        );
    }
    AdmissionLimits {
        connections_max,
        per_address_max: limits.connections_per_address_max,
        rate_max: limits.connect_rate_max,
        address_rate_max: limits.connect_rate_per_address_max,
        address_burst: limits.connect_burst_per_address,
        told_max,
    }
}

/// How many of so many open files may be connections, and how many more those that are told why they may not stay.
///
/// Eight tenths and half a tenth, less where that would leave too few for the logs: a log that cannot open its next segment stops.
fn share_of_connections(files: u64, partitions: u64) -> (u32, u32) {
    let told_max = u32::try_from(files / 20).unwrap_or(u32::MAX).clamp(1, TOLD_MAX);
    let kept = FILES_BESIDE + partitions * FILES_PER_PARTITION + u64::from(told_max);
    let allowed = (files / 10 * 8).min(files.saturating_sub(kept)).max(1);
    (u32::try_from(allowed).unwrap_or(u32::MAX), told_max)
}

/// Returns true when the machine has no such address.
fn is_missing(error: &std::io::Error) -> bool {
    let missing = [rustix::io::Errno::ADDRNOTAVAIL, rustix::io::Errno::AFNOSUPPORT];
    missing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Says what is wrong with a listener, and what to do.
fn cannot_listen(protocol: &str, address: SocketAddr, error: &std::io::Error) -> String {
    let elsewhere = match protocol {
        "mqtt" | "amqp" => format!("pass --{protocol} ADDRESS or write listeners.{protocol}"),
        _ => format!("write another address in listeners.{protocol}"),
    };
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            let port = address.port();
            format!(
                "cannot listen on {address} for {protocol}: another program has port {port}; stop it, or {elsewhere} (as soon as one \
                 listener is written, exactly the written ones exist)"
            )
        }
        _ => format!("cannot listen on {address} for {protocol}; {elsewhere}"),
    }
}

fn is_amqp(protocol: &str) -> bool {
    matches!(protocol, "amqp" | "amqps")
}

fn tls_options(tls: &config::Tls, protocol: &str) -> TlsOptions {
    let authorities = || tls.client_ca.clone().unwrap_or_default();
    TlsOptions {
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
        clients: match tls.client_certificates {
            config::ClientCertificates::None => ClientCertificates::None,
            config::ClientCertificates::Request => ClientCertificates::Request(authorities()),
            config::ClientCertificates::Require => ClientCertificates::Require(authorities()),
        },
        allows_1_2: tls.min_version == config::TlsVersion::V1_2,
        application: match protocol {
            "wss" => b"http/1.1",
            protocol if is_amqp(protocol) => b"amqp",
            _ => b"mqtt",
        },
    }
}

fn web_options(web: &config::Web, address: SocketAddr) -> WebOptions {
    let local_only = address.ip().is_loopback();
    let origins = match web.origins.as_str() {
        "any" => Origins::Any,
        "same_host" => Origins::SameHost { local_only },
        listed => {
            Origins::Listed(listed.split(',').map(|origin| origin.trim().to_owned()).collect())
        }
    };
    WebOptions { path: web.path.clone(), origins }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AmqpListener, Listener};

    fn bind(amqp: &[&str]) -> Result<Vec<String>, String> {
        let listener =
            |address: &&str| AmqpListener { socket: Listener::at(address.parse().unwrap()) };
        let listeners = config::Listeners {
            amqp: amqp.iter().map(listener).collect(),
            ..config::Listeners::none()
        };
        let config = Config { listeners, ..Config::default() };
        let bound = Listeners::bind(&config, 1).map_err(|error| format!("{error:#}"))?;
        let addresses = bound.addresses().unwrap().into_iter();
        Ok(addresses.map(|(address, _)| address.ip().to_string()).collect())
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_what_to_do() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();

        let error = bind(&[&address.to_string()]).unwrap_err();

        let said = format!(
            "cannot listen on {address} for amqp: another program has port {}",
            address.port()
        );
        assert!(error.starts_with(&said), "{error}");
        assert!(error.contains("pass --amqp ADDRESS or write listeners.amqp"), "{error}");
    }

    /// Documentation addresses are no machine's own, as `::1` is not where there is no IPv6.
    #[tokio::test]
    async fn the_half_of_localhost_that_a_machine_has_not_is_left_out() {
        let error = std::net::TcpListener::bind("192.0.2.1:0").unwrap_err();
        assert!(is_missing(&error), "{error}");
        let refused = bind(&["127.0.0.1:0", "192.0.2.1:0"]).unwrap_err();
        assert!(refused.starts_with("cannot listen on 192.0.2.1:0 for amqp"), "{refused}");

        let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
        let expected: &[&str] = if has_ipv6 { &["127.0.0.1", "::1"] } else { &["127.0.0.1"] };
        assert_eq!(bind(&["127.0.0.1:0", "[::1]:0"]).unwrap(), expected);
        assert_eq!(bind(&["[::1]:0"]).is_ok(), has_ipv6);
    }

    #[test]
    fn connections_leave_files_to_the_logs() {
        assert_eq!(share_of_connections(1_000_000, 5), (800_000, 128));
        assert_eq!(share_of_connections(1024, 5), (816, 51));
        assert_eq!(share_of_connections(256, 5), (132, 12));
        assert_eq!(share_of_connections(256, 2), (180, 12));
        assert_eq!(share_of_connections(16, 5), (1, 1));
        assert_eq!(share_of_connections(u64::MAX, 5), (u32::MAX, 128));
    }
}
