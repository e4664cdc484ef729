//! The flags that every command shares: where the broker is, who we are, and what we leave behind.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use tokio::time::timeout;

use super::error::CtlError;
use crate::client::endpoint::{Endpoint, TlsOptions, TlsVersion, Url};
use crate::client::{
    Client, ConnectOptions, Connected, Event, Session, SubscribeRequest, WillOptions, reason_words,
    user,
};
use crate::model::QoS;
use crate::protocol::mqtt::property::{Property, PropertyList};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::Version;

/// Where and as whom to connect.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct ConnectionArguments {
    /// Broker as URL, HOST:PORT or HOST: mqtt://, mqtts://, ws:// or wss://, with USER:PASSWORD@ before the host if you like.
    #[arg(short = 'a', long, visible_alias = "url", value_name = "URL", conflicts_with_all = ["host", "port"])]
    pub address: Option<String>,
    /// Broker's host.
    #[arg(short = 'H', long, default_value = "127.0.0.1")]
    pub host: String,
    /// Broker's port; by default 1883, with TLS 8883, over WebSocket 8083, with both 8084.
    #[arg(short = 'p', long)]
    pub port: Option<u16>,
    #[command(flatten)]
    pub layers: LayerArguments,
    /// MQTT version: 5, 3.1.1 or 3.1.
    #[arg(short = 'V', long, default_value = "5", value_parser = parse_version, value_name = "VERSION")]
    pub mqtt_version: Version,
    /// Client id; by default the broker chooses one.
    #[arg(short = 'i', long, default_value = "", hide_default_value = true, value_name = "ID")]
    pub client_id: String,
    /// Client id of this and the number of this process.
    #[arg(long, value_name = "PREFIX", conflicts_with = "client_id")]
    pub client_id_prefix: Option<String>,
    /// Address of this machine to connect from.
    #[arg(short = 'A', long, value_name = "ADDRESS")]
    pub bind: Option<std::net::IpAddr>,
    /// User name.
    #[arg(short = 'u', long)]
    pub username: Option<String>,
    /// Password; visible to other users of this machine: prefer --password-file.
    #[arg(short = 'P', long, requires = "username", conflicts_with = "password_file")]
    pub password: Option<String>,
    /// File whose first line is the password.
    #[arg(long, requires = "username", value_name = "FILE")]
    pub password_file: Option<std::path::PathBuf>,
    /// Proves the password with SCRAM-SHA-256 instead of sending it (5.0); the broker proves that it knows it.
    #[arg(long)]
    pub scram: bool,
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
    /// Largest packet in bytes that the broker may send (5.0).
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_packet_size: Option<u32>,
    /// User property of DISCONNECT (5.0); repeat for several.
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::properties::parse_pair)]
    pub disconnect_property: Vec<(String, String)>,
    /// Seconds the session outlives the connection, said at its end in place of --session-expiry (5.0).
    #[arg(long, value_name = "SECONDS", requires = "session_expiry")]
    pub disconnect_session_expiry: Option<u32>,
    /// Wants no reason strings (5.0, Request Problem Information 0).
    #[arg(long)]
    pub no_problem_information: bool,
    #[command(flatten)]
    pub will: WillArguments,
}

/// What carries the bytes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "TLS and WebSocket")]
pub(super) struct LayerArguments {
    /// TLS, believing the system's authorities; the flags below and mqtts:// ask for it, too.
    #[arg(long)]
    pub tls: bool,
    /// PEM file with the authorities to believe instead.
    #[arg(long, value_name = "FILE")]
    pub cafile: Option<PathBuf>,
    /// PEM file with our certificate.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM file with its private key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Believes any certificate: for trying things, nothing else.
    #[arg(long, conflicts_with = "cafile")]
    pub insecure: bool,
    /// Name that the broker's certificate must have, and that we ask for (SNI); the host by default.
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// The one TLS version to speak, 1.2 or 1.3; by default whichever the broker prefers.
    #[arg(long, value_name = "VERSION", value_parser = parse_tls_version)]
    pub tls_version: Option<TlsVersion>,
    /// Protocol to name in the TLS handshake, such as mqtt.
    #[arg(long, value_name = "PROTOCOL", visible_alias = "tls-alpn")]
    pub alpn: Option<String>,
    /// Over WebSocket; ws:// and wss:// ask for it, too.
    #[arg(long)]
    pub ws: bool,
    /// Path of the WebSocket; /mqtt by default.
    #[arg(long, value_name = "PATH")]
    pub ws_path: Option<String>,
}

impl WillArguments {
    fn properties(&self) -> PropertyList {
        let bytes = |text: &String| Bytes::from(text.clone());
        let mut list = Vec::new();
        list.extend((self.will_delay > 0).then_some(Property::WillDelay(self.will_delay)));
        list.extend(self.will_utf8.then_some(Property::PayloadFormat(true)));
        list.extend(self.will_expiry.map(Property::MessageExpiry));
        list.extend(self.will_content_type.as_ref().map(|it| Property::ContentType(bytes(it))));
        list.extend(self.will_response_topic.as_ref().map(|it| Property::ResponseTopic(bytes(it))));
        let correlation = self.will_correlation_data.as_ref();
        list.extend(correlation.map(|it| Property::CorrelationData(bytes(it))));
        list.extend(user(&self.will_property));
        list.into_iter().collect()
    }
}

impl LayerArguments {
    fn is_encrypted(&self) -> bool {
        let is_implied = self.cafile.is_some() || self.cert.is_some() || self.alpn.is_some();
        let is_named = self.server_name.is_some() || self.tls_version.is_some();
        self.tls || is_implied || self.insecure || is_named
    }

    fn tls_options(&self) -> TlsOptions {
        TlsOptions {
            authorities: self.cafile.clone(),
            certificate: self.cert.clone().zip(self.key.clone()),
            is_insecure: self.insecure,
            server_name: self.server_name.clone(),
            application: self.alpn.clone(),
            version: self.tls_version,
        }
    }
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
        visible_alias = "will-payload",
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
    /// Seconds after which it must not be delivered any more (5.0).
    #[arg(long, requires = "will_topic", value_name = "SECONDS")]
    pub will_expiry: Option<u32>,
    /// Its content type (5.0).
    #[arg(long, requires = "will_topic", value_name = "TYPE")]
    pub will_content_type: Option<String>,
    /// Topic to answer it to (5.0).
    #[arg(long, requires = "will_topic", value_name = "TOPIC")]
    pub will_response_topic: Option<String>,
    /// Ties an answer to it (5.0).
    #[arg(long, requires = "will_topic", value_name = "TEXT")]
    pub will_correlation_data: Option<String>,
    /// Its payload is UTF-8 text (5.0).
    #[arg(long, requires = "will_topic")]
    pub will_utf8: bool,
    /// Its user property (5.0); repeat for several.
    #[arg(long, requires = "will_topic", value_name = "KEY=VALUE", value_parser = super::properties::parse_pair)]
    pub will_property: Vec<(String, String)>,
}

impl ConnectionArguments {
    /// Returns where the broker is, and what its URL says about us.
    pub(super) fn url(&self) -> Result<Url, CtlError> {
        let layers = &self.layers;
        let is_encrypted = layers.is_encrypted();
        let default_port = match (is_encrypted, layers.ws) {
            (false, false) => 1883,
            (true, false) => 8883,
            (false, true) => 8083,
            (true, true) => 8084,
        };
        let port = self.port.unwrap_or(default_port);
        let mut url = match &self.address {
            Some(address) => {
                Url::parse(address, port).map_err(|error| CtlError::Usage(error.to_string()))?
            }
            None => {
                Url { endpoint: Endpoint::tcp(&self.host, port), username: None, password: None }
            }
        };
        if is_encrypted || url.endpoint.tls.is_some() {
            url.endpoint.tls = Some(layers.tls_options());
        }
        if layers.ws && url.endpoint.web_path.is_none() {
            url.endpoint.web_path = Some("/mqtt".to_owned());
        }
        if let Some(path) = &layers.ws_path {
            url.endpoint.web_path = Some(path.clone());
        }
        url.endpoint.local_address = self.bind;
        Ok(url)
    }

    /// Refuses what an older version cannot say, rather than leaving it out.
    fn check_version(&self) -> Result<(), CtlError> {
        let will = &self.will;
        let flags = [
            ("--session-expiry", self.session_expiry > 0),
            ("--scram", self.scram),
            ("--connect-property", !self.connect_property.is_empty()),
            ("--disconnect-property", !self.disconnect_property.is_empty()),
            ("--disconnect-session-expiry", self.disconnect_session_expiry.is_some()),
            ("--max-packet-size", self.max_packet_size.is_some()),
            ("--no-problem-information", self.no_problem_information),
            ("--will-delay", will.will_delay > 0),
            ("--will-expiry", will.will_expiry.is_some()),
            ("--will-content-type", will.will_content_type.is_some()),
            ("--will-response-topic", will.will_response_topic.is_some()),
            ("--will-correlation-data", will.will_correlation_data.is_some()),
            ("--will-utf8", will.will_utf8),
            ("--will-property", !will.will_property.is_empty()),
        ];
        let given = flags.into_iter().filter(|(_, is_given)| *is_given).map(|(flag, _)| flag);
        let given: Vec<&str> = given.collect();
        match given.is_empty() || self.mqtt_version.is_v5() {
            true => Ok(()),
            false => {
                let flags = given.join(", ");
                Err(CtlError::Usage(format!("only MQTT 5 has {flags}: leave -V out, or these")))
            }
        }
    }

    /// Returns what CONNECT says.
    pub(super) fn options(&self) -> Result<ConnectOptions, CtlError> {
        self.check_version()?;
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
            properties: self.will.properties(),
        });
        let url = self.url()?;
        // MQTT 3.1 has no empty client ids.
        let client_id = match (&self.client_id_prefix, self.mqtt_version) {
            (Some(prefix), _) => format!("{prefix}{}", std::process::id()),
            (None, Version::V31) if self.client_id.is_empty() => {
                format!("mqttctl-{:x}", std::process::id())
            }
            _ => self.client_id.clone(),
        };
        let username = self.username.clone().or(url.username);
        if self.scram && username.is_none() {
            return Err(CtlError::Usage("--scram needs a user: write -u NAME too".to_owned()));
        }
        let expiry = self.disconnect_session_expiry.map(Property::SessionExpiry).into_iter();
        let defaults = ConnectOptions::default();
        Ok(ConnectOptions {
            version: self.mqtt_version,
            client_id,
            receive_maximum_enforced: false,
            clean_start: !self.resume,
            session_expiry_s: self.session_expiry,
            keep_alive_s: self.keep_alive,
            will,
            username,
            password: password.or(url.password).map(Bytes::from),
            scram_nonce: self.scram.then(|| uuid::Uuid::new_v4().simple().to_string()),
            user_properties: self.connect_property.clone(),
            disconnect_properties: expiry.chain(user(&self.disconnect_property)).collect(),
            packet_bytes_max: self.max_packet_size.unwrap_or(defaults.packet_bytes_max),
            wants_problem_information: !self.no_problem_information,
            ..defaults
        })
    }

    /// Connects.
    pub(super) async fn connect(
        &self,
        options: &ConnectOptions,
    ) -> Result<(Client, Connected), CtlError> {
        let mut session = Session::default();
        let endpoint = self.url()?.endpoint;
        Ok(Client::connect_to(&endpoint, options, &mut session, self.patience()).await?)
    }

    /// Asks for subscriptions, waits for the answer, and fails when one of them is refused.
    pub(super) async fn subscribe(
        &self,
        client: &mut Client,
        request: &SubscribeRequest,
    ) -> Result<PropertyList, CtlError> {
        client.subscribe(0, request)?;
        let answer = client.wait_for(|event| match event {
            Event::Subscribed { reasons, text, properties, .. } => {
                Some((reasons.clone(), text.clone(), properties.clone()))
            }
            _ => None,
        });
        let Ok(answer) = timeout(self.patience(), answer).await else {
            let seconds = self.patience().as_secs();
            return Err(CtlError::Timeout(format!("no answer to SUBSCRIBE within {seconds} s")));
        };
        let (reasons, text, properties) = answer?;
        for (filter, reason) in request.filters.iter().zip(reasons) {
            if reason.is_error() {
                let filter = String::from_utf8_lossy(&filter.filter);
                let refusal = refusal(reason, &text);
                let said = format!("'{filter}' refused: {refusal}");
                return Err(CtlError::Refused { said, reason: Some(reason) });
            }
        }
        Ok(properties)
    }

    /// Takes subscriptions back and waits for the answer; one that was not there is no error.
    pub(super) async fn unsubscribe(
        &self,
        client: &mut Client,
        filters: &[String],
        properties: &[(String, String)],
    ) -> Result<(), CtlError> {
        let all = filters.iter().cloned().map(Bytes::from).collect();
        client.unsubscribe(0, all, user(properties).collect())?;
        let answer = client.wait_for(|event| match event {
            Event::Unsubscribed { reasons, .. } => Some(reasons.clone()),
            _ => None,
        });
        let Ok(answer) = timeout(self.patience(), answer).await else {
            let seconds = self.patience().as_secs();
            return Err(CtlError::Timeout(format!("no answer to UNSUBSCRIBE within {seconds} s")));
        };
        for (filter, reason) in filters.iter().zip(answer?) {
            if reason.is_error() {
                let said = format!("'{filter}' is not unsubscribed: {}", refusal(reason, ""));
                return Err(CtlError::Refused { said, reason: Some(reason) });
            }
        }
        Ok(())
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.connect_timeout.max(1))
    }
}

/// Returns a reason code, its words, and the broker's own.
pub(super) fn refusal(reason: ReasonCode, text: &str) -> String {
    let separator = if text.is_empty() { "" } else { ": " };
    format!("{reason} {}{separator}{text}", reason_words(reason))
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

/// Reads a version of TLS.
fn parse_tls_version(text: &str) -> Result<TlsVersion, String> {
    match text.strip_prefix("tlsv").unwrap_or(text) {
        "1.2" => Ok(TlsVersion::V1_2),
        "1.3" => Ok(TlsVersion::V1_3),
        _ => Err("write 1.2 or 1.3".to_owned()),
    }
}

/// Reads a QoS.
pub(super) fn parse_qos(text: &str) -> Result<QoS, String> {
    let qos = text.parse().ok().and_then(QoS::from_bits);
    qos.ok_or_else(|| "write 0, 1 or 2".to_owned())
}
