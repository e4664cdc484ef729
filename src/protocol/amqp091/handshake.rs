//! The way to an open connection: protocol header, start, credentials, tune, virtual host (AMQP 0.9.1 §2.2.4).

use bytes::{Bytes, BytesMut};

use super::ReplyCode;
use super::codec::frame::{FRAME_BYTES_MIN, PROTOCOL_HEADER};
use super::codec::method::{
    ConnectionOpen, ConnectionOpenOk, ConnectionStart, ConnectionStartOk, ConnectionTune,
    ConnectionTuneOk, ConnectionUpdateSecretOk,
};
use super::codec::{Greeting, Table, Value};
use super::connection::{AmqpConnection, State};
use super::convert::lossy;
use super::describe::kept;
use super::sasl;
use super::violation::{self, Violation};
use crate::model::command::{Credentials, Open};
use crate::model::{Command, Refusal, VirtualHost};

/// What of RabbitMQ's extensions a client may use.
const CAPABILITIES: [&str; 8] = [
    "authentication_failure_close",
    "publisher_confirms",
    "basic.nack",
    "exchange_exchange_bindings",
    "consumer_cancel_notify",
    "connection.blocked",
    "per_consumer_qos",
    "direct_reply_to",
];

impl AmqpConnection {
    /// Takes the protocol header; returns true when frames follow. Anything else is answered with ours (§4.2.2).
    pub(super) fn take_header(&mut self, input: &mut BytesMut) -> bool {
        match Greeting::take(input) {
            None => false,
            Some(Greeting::Amqp091) => {
                let mechanisms = sasl::mechanisms(&self.settings, &self.peer);
                self.send(
                    0,
                    ConnectionStart {
                        version_major: 0,
                        version_minor: 9,
                        server_properties: server_properties(),
                        mechanisms: Bytes::from_static(mechanisms.as_bytes()),
                        locales: Bytes::from_static(b"en_US"),
                    },
                );
                self.state = State::Starting;
                true
            }
            Some(Greeting::Amqp10 { .. } | Greeting::Unknown) => {
                self.answers.extend_from_slice(&PROTOCOL_HEADER);
                self.close();
                false
            }
        }
    }

    pub(super) fn on_start_ok(&mut self, start: ConnectionStartOk) -> Result<(), Violation> {
        self.client.mechanism = String::from_utf8_lossy(start.mechanism.as_bytes()).into_owned();
        if let Some(Value::Table(capabilities)) = start.client_properties.get("capabilities") {
            self.client.hears_of_refusal = capabilities.is_true("authentication_failure_close");
            self.client.hears_of_cancel = capabilities.is_true("consumer_cancel_notify");
            self.client.hears_of_blocked = capabilities.is_true("connection.blocked");
        }
        self.client.properties = kept(&start.client_properties);
        if let Some(refusal) = self.settings.turned_away.clone() {
            self.on_refused(&refusal);
            return Ok(());
        }
        let credentials = sasl::credentials(
            &self.settings,
            &self.peer,
            start.mechanism.as_bytes(),
            &start.response,
        )?;
        self.client.user = match &credentials {
            Credentials::Password { user, .. } => user.clone(),
            // Nobody in particular, and still the name that it said.
            Credentials::None if start.mechanism.as_bytes() != sasl::EXTERNAL => {
                Bytes::from_static(sasl::GUEST)
            }
            Credentials::None | Credentials::Exchange { .. } => Bytes::new(),
        };
        self.state = State::Opening;
        self.commands.push_back(Command::Open(Box::new(Open {
            peer: self.peer.clone(),
            credentials,
            client_id: self.session_id.clone(),
            clean_start: true,
            session_expiry_s: 0,
            inflight_max: self.settings.inflight_max,
            will: None,
        })));
        Ok(())
    }

    /// The broker lets it in.
    pub(super) fn on_admitted(&mut self) {
        if self.state != State::Opening {
            return;
        }
        self.send(
            0,
            ConnectionTune {
                channel_max: self.settings.channels_max,
                frame_max: self.settings.frame_bytes_max,
                heartbeat: self.settings.heartbeat_s,
            },
        );
        self.state = State::Tuning;
    }

    /// The broker does not. Only a client that said so hears of it: others take any answer for a network that fails.
    pub(super) fn on_refused(&mut self, refusal: &Refusal) {
        if !matches!(self.state, State::Starting | State::Opening) {
            return;
        }
        // The broker opened nothing: it is not told of the end.
        self.state = State::Starting;
        if !self.client.hears_of_refusal {
            return self.close();
        }
        let code = violation::of_connection(refusal);
        let text = match refusal {
            // As clients know it, whichever of both was wrong.
            Refusal::BadCredentials => format!(
                "Login was refused using authentication mechanism {}. For details see the broker logfile.",
                self.client.mechanism
            ),
            refusal => refusal.to_string(),
        };
        self.close_with((0, 0), &Violation::new(code, text));
    }

    /// RabbitMQ, `connection.update-secret`: the same user has a new password. Whoever's certificate says who it is has none, nor has who
    /// needs no account: any is right.
    pub(super) fn on_update_secret(&mut self, secret: &Bytes) {
        self.client.is_renewing = true;
        let is_nobody = self.settings.guest_is_anonymous && self.client.user == sasl::GUEST;
        let credentials = match self.client.user.is_empty() || is_nobody {
            true => Credentials::None,
            false => {
                let secret = Bytes::copy_from_slice(secret);
                sasl::password(&self.settings, self.client.user.clone(), secret)
            }
        };
        self.commands.push_back(Command::Renew(Box::new(credentials)));
    }

    /// The new secret is right.
    pub(super) fn on_renewed(&mut self) {
        if std::mem::take(&mut self.client.is_renewing) {
            self.send(0, ConnectionUpdateSecretOk::default());
        }
    }

    /// The client may take less than it was offered, and no more. §1.4.2.6
    pub(super) fn on_tune_ok(&mut self, tune: &ConnectionTuneOk) -> Result<(), Violation> {
        let offered = &self.settings;
        check_tuned("channel_max", tune.channel_max.into(), 1, offered.channels_max.into())?;
        check_tuned("frame_max", tune.frame_max, FRAME_BYTES_MIN, offered.frame_bytes_max)?;
        self.tuned.channels_max = tune.channel_max;
        self.tuned.frame_bytes_max = tune.frame_max;
        self.tuned.heartbeat_ms = u64::from(tune.heartbeat) * 1_000;
        self.state = State::AwaitingOpen;
        Ok(())
    }

    pub(super) fn on_open(&mut self, open: &ConnectionOpen) -> Result<(), Violation> {
        let name = open.virtual_host.as_bytes();
        let known = VirtualHost::new(name).ok();
        let is_there =
            |host: &VirtualHost| host.is_default() || self.settings.virtual_hosts.contains(host);
        let Some(host) = known.filter(is_there) else {
            let text = format!("vhost {} not found", lossy(name));
            return Err(Violation::new(ReplyCode::NotAllowed, text));
        };
        self.host = host.clone();
        self.state = State::Entering;
        self.commands.push_back(Command::Enter { host });
        Ok(())
    }

    /// The client may have the names of the virtual host that it asked for, or not.
    pub(super) fn on_entered(&mut self, result: Result<(), Refusal>) {
        if self.state != State::Entering {
            return;
        }
        self.state = State::Open;
        match result {
            Ok(()) => self.send(0, ConnectionOpenOk::default()),
            Err(_) => {
                let user = lossy(&self.client.user);
                let text = format!("access to vhost '{}' refused for user '{user}'", self.host);
                self.fail((10, 40), Violation::new(ReplyCode::NotAllowed, text));
            }
        }
    }
}

/// Checks a value that the client chose against what it was offered; 0 asks for no limit, which is more than any.
fn check_tuned(field: &str, asked: u32, least: u32, offered: u32) -> Result<(), Violation> {
    let text = if asked == 0 {
        format!(
            "negotiated {field} = 0 (no limit) is higher than the maximum allowed value ({offered})"
        )
    } else if asked > offered {
        format!("negotiated {field} = {asked} is higher than the maximum allowed value ({offered})")
    } else if asked < least {
        format!("negotiated {field} = {asked} is lower than the minimum allowed value ({least})")
    } else {
        return Ok(());
    };
    Err(Violation::new(ReplyCode::NotAllowed, text))
}

fn server_properties() -> Table {
    let capabilities = CAPABILITIES.map(|name| (name, Value::Boolean(true)));
    let properties = [
        ("capabilities", Value::Table(capabilities.into_iter().collect())),
        ("product", "FluxMQ".into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("platform", "Rust".into()),
    ];
    properties.into_iter().collect()
}
