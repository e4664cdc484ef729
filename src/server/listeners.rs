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
                amqp: Arc::new(amqp_settings(config)),
            },
        };
        let timeout = Duration::from_secs(config.limits.handshake_timeout_s.into());
        for socket in &listeners.mqtt {
            bound.add("mqtt", socket, None, None, timeout)?;
        }
        for listener in &listeners.mqtts {
            bound.add("mqtts", &listener.socket, Some(&listener.tls), None, timeout)?;
        }
        for listener in &listeners.ws {
            bound.add("ws", &listener.socket, None, Some(&listener.web), timeout)?;
        }
        for listener in &listeners.wss {
            let (tls, web) = (Some(&listener.tls), Some(&listener.web));
            bound.add("wss", &listener.socket, tls, web, timeout)?;
        }
        for listener in &listeners.amqp {
            bound.add("amqp", &listener.socket, None, None, timeout)?;
        }
        for listener in &listeners.amqps {
            bound.add("amqps", &listener.socket, Some(&listener.tls), None, timeout)?;
        }
        Ok(bound)
    }

    fn add(
        &mut self,
        protocol: &'static str,
        socket: &config::Listener,
        tls: Option<&config::Tls>,
        web: Option<&config::Web>,
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
        let listener = listener::bind(address, options).with_context(|| {
            format!("cannot listen on {address} for {protocol}; write another address in listeners.{protocol}, or pass --mqtt")
        })?;
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
