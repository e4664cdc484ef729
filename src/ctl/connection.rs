//! The flags that every command shares: where the broker is, who we are, and what we leave behind.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use tokio::time::timeout;

use super::error::CtlError;
use crate::client::{
    Client, ConnectOptions, Connected, Event, Session, SubscribeRequest, WillOptions, reason_words,
};
use crate::model::QoS;
use crate::protocol::mqtt::property::Property;
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::Version;

/// Where and as whom to connect.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct ConnectionArguments {
    /// Broker as HOST:PORT, HOST or mqtt://HOST:PORT; instead of --host and --port.
    #[arg(short = 'a', long, value_name = "ADDRESS", conflicts_with_all = ["host", "port"])]
    pub address: Option<String>,
    /// Broker's host.
    #[arg(short = 'H', long, default_value = "127.0.0.1")]
    pub host: String,
    /// Broker's port.
    #[arg(short = 'p', long, default_value_t = 1883)]
    pub port: u16,
    /// MQTT version: 5, 3.1.1 or 3.1.
    #[arg(short = 'V', long, default_value = "5", value_parser = parse_version, value_name = "VERSION")]
    pub mqtt_version: Version,
    /// Client id; by default the broker chooses one.
    #[arg(short = 'i', long, default_value = "", hide_default_value = true, value_name = "ID")]
    pub client_id: String,
    /// User name.
    #[arg(short = 'u', long)]
    pub username: Option<String>,
    /// Password; visible to other users of this machine: prefer --password-file.
    #[arg(short = 'P', long, requires = "username", conflicts_with = "password_file")]
    pub password: Option<String>,
    /// File whose first line is the password.
    #[arg(long, requires = "username", value_name = "FILE")]
    pub password_file: Option<std::path::PathBuf>,
    /// Continues the session of this client id instead of beginning anew.
    #[arg(long, requires = "client_id")]
    pub resume: bool,
    /// Seconds the session outlives the connection (5.0); with 3.1.1, --resume alone keeps it.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub session_expiry: u32,
    /// Seconds between packets to the broker, at most; 0 is no limit.
    #[arg(short = 'k', long, default_value_t = 60, value_name = "SECONDS")]
    pub keep_alive: u16,
    /// Seconds to wait for the connection, and for the answer to a subscription.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub connect_timeout: u64,
    /// User property of CONNECT (5.0); repeat for several.
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::properties::parse_pair)]
    pub connect_property: Vec<(String, String)>,
    #[command(flatten)]
    pub will: WillArguments,
}

/// The message that the broker publishes when we vanish.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Will")]
pub(super) struct WillArguments {
    /// Topic of the message the broker publishes when this client vanishes.
    #[arg(long, value_name = "TOPIC")]
    pub will_topic: Option<String>,
    /// Its payload.
    #[arg(
        long,
        requires = "will_topic",
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT"
    )]
    pub will_message: String,
    /// Its QoS.
    #[arg(long, requires = "will_topic", default_value = "0", value_parser = parse_qos, value_name = "QOS")]
    pub will_qos: QoS,
    /// It is retained.
    #[arg(long, requires = "will_topic")]
    pub will_retain: bool,
    /// Seconds the broker waits for us to come back before it publishes it (5.0).
    #[arg(long, requires = "will_topic", default_value_t = 0, value_name = "SECONDS")]
    pub will_delay: u32,
}

impl ConnectionArguments {
    /// Returns `host:port`.
    pub(super) fn address(&self) -> String {
        let Some(address) = &self.address else { return join(&self.host, self.port) };
        let address = address.strip_prefix("mqtt://").unwrap_or(address).trim_end_matches('/');
        let (_, tail) = address.rsplit_once(']').unwrap_or(("", address));
        match tail.contains(':') {
            true => address.to_owned(),
            false => format!("{address}:{}", self.port),
        }
    }

    /// Returns what CONNECT says.
    pub(super) fn options(&self) -> Result<ConnectOptions, CtlError> {
        let password = match &self.password_file {
            None => self.password.clone(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    CtlError::Usage(format!("cannot read {}: {error}", path.display()))
                })?;
                text.lines().next().map(str::to_owned)
            }
        };
        let will = self.will.will_topic.clone().map(|topic| WillOptions {
            topic,
            payload: Bytes::from(self.will.will_message.clone()),
            qos: self.will.will_qos,
            retain: self.will.will_retain,
            properties: (self.will.will_delay > 0)
                .then_some(Property::WillDelay(self.will.will_delay))
                .into_iter()
                .collect(),
        });
        // MQTT 3.1 has no empty client ids.
        let client_id = match self.mqtt_version {
            Version::V31 if self.client_id.is_empty() => {
                format!("mqttctl-{:x}", std::process::id())
            }
            _ => self.client_id.clone(),
        };
        Ok(ConnectOptions {
            version: self.mqtt_version,
            client_id,
            receive_maximum_enforced: false,
            clean_start: !self.resume,
            session_expiry_s: self.session_expiry,
            keep_alive_s: self.keep_alive,
            will,
            username: self.username.clone(),
            password: password.map(Bytes::from),
            user_properties: self.connect_property.clone(),
            ..ConnectOptions::default()
        })
    }

    /// Connects.
    pub(super) async fn connect(
        &self,
        options: &ConnectOptions,
    ) -> Result<(Client, Connected), CtlError> {
        let mut session = Session::default();
        Ok(Client::connect(&self.address(), options, &mut session, self.patience()).await?)
    }

    /// Asks for subscriptions, waits for the answer, and fails when one of them is refused.
    pub(super) async fn subscribe(
        &self,
        client: &mut Client,
        request: &SubscribeRequest,
    ) -> Result<(), CtlError> {
        client.subscribe(0, request)?;
        let answer = client.wait_for(|event| match event {
            Event::Subscribed { reasons, text, .. } => Some((reasons.clone(), text.clone())),
            _ => None,
        });
        let Ok(answer) = timeout(self.patience(), answer).await else {
            let seconds = self.patience().as_secs();
            return Err(CtlError::Timeout(format!("no answer to SUBSCRIBE within {seconds} s")));
        };
        let (reasons, text) = answer?;
        for (filter, reason) in request.filters.iter().zip(reasons) {
            if reason.is_error() {
                let filter = String::from_utf8_lossy(&filter.filter);
                let refusal = refusal(reason, &text);
                return Err(CtlError::Refused(format!("'{filter}' refused: {refusal}")));
            }
        }
        Ok(())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.connect_timeout.max(1))
    }
}

/// Returns a reason code, its words, and the broker's own.
pub(super) fn refusal(reason: ReasonCode, text: &str) -> String {
    let separator = if text.is_empty() { "" } else { ": " };
    format!("{reason} {}{separator}{text}", reason_words(reason))
}

fn join(host: &str, port: u16) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Reads a protocol version as people write it.
fn parse_version(text: &str) -> Result<Version, String> {
    match text.strip_prefix("mqttv").unwrap_or(text) {
        "5" | "5.0" => Ok(Version::V5),
        "4" | "311" | "3.1.1" => Ok(Version::V311),
        "3" | "31" | "3.1" => Ok(Version::V31),
        _ => Err("write 5, 3.1.1 or 3.1".to_owned()),
    }
}

/// Reads a QoS.
pub(super) fn parse_qos(text: &str) -> Result<QoS, String> {
    let qos = text.parse().ok().and_then(QoS::from_bits);
    qos.ok_or_else(|| "write 0, 1 or 2".to_owned())
}
