//! How a client introduces itself.

use bytes::Bytes;

use super::authenticate::scram_properties;
use crate::auth::scram::Prover;
use crate::model::QoS;
use crate::protocol::mqtt::property::{Property, PropertyList};
use crate::protocol::mqtt::types::{Connect, Version, Will};

/// Everything CONNECT says, and how much may be under way. What a version does not have is not sent in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Default 5.0.
    pub version: Version,
    /// Empty lets the server choose one, which needs `clean_start` before 5.0 [MQTT-3.1.3-8].
    pub client_id: String,
    /// Clean Start in 5.0, Clean Session before, where it also ends the session with the connection. Default true.
    pub clean_start: bool,
    /// Seconds the session outlives the connection; `u32::MAX` never ends. 5.0 only. Default 0.
    pub session_expiry_s: u32,
    /// Seconds between two packets to the server, at most; 0 is no limit. Default 60.
    pub keep_alive_s: u16,
    /// Deliveries of QoS 1 and 2 that may wait for acknowledgement; told to the server in 5.0. Default 64.
    pub receive_maximum: u16,
    /// A server that exceeds `receive_maximum` ends the connection [MQTT-3.3.4-9]; some exceed it by a little. Default true.
    pub receive_maximum_enforced: bool,
    /// Publishes of QoS 1 and 2 that may wait for acknowledgement; the server may allow fewer. Default 64.
    pub inflight_max: u16,
    /// Largest packet taken from the server, in bytes; told to it in 5.0. Default 16 MiB.
    pub packet_bytes_max: u32,
    /// Topic aliases the server may use. 5.0 only. Default 0.
    pub topic_alias_max: u16,
    /// False asks the server to leave reason strings out. 5.0 only. Default true.
    pub wants_problem_information: bool,
    /// Asks for a beginning of response topics that nobody else has [MQTT-3.1.2-28]. 5.0 only. Default false.
    pub wants_response_information: bool,
    /// The message for when the client is gone.
    pub will: Option<WillOptions>,
    /// Who.
    pub username: Option<String>,
    /// With which secret.
    pub password: Option<Bytes>,
    /// Proves the password with SCRAM-SHA-256 instead of sending it: a printable text without commas that was never used before.
    /// 5.0 only.
    pub scram_nonce: Option<String>,
    /// 5.0 only.
    pub user_properties: Vec<(String, String)>,
    /// What DISCONNECT says beside its reason: `SessionExpiry`, user properties. 5.0 only.
    pub disconnect_properties: PropertyList,
}

/// The message a client leaves for when it is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WillOptions {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// How surely.
    pub qos: QoS,
    /// Retained.
    pub retain: bool,
    /// 5.0 only: `WillDelay`, `MessageExpiry`, `ContentType` and others that a will may have.
    pub properties: PropertyList,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions {
            version: Version::V5,
            client_id: String::new(),
            clean_start: true,
            session_expiry_s: 0,
            keep_alive_s: 60,
            receive_maximum: 64,
            receive_maximum_enforced: true,
            inflight_max: 64,
            packet_bytes_max: 16 << 20,
            topic_alias_max: 0,
            wants_problem_information: true,
            wants_response_information: false,
            will: None,
            username: None,
            password: None,
            scram_nonce: None,
            user_properties: Vec::new(),
            disconnect_properties: PropertyList::default(),
        }
    }
}

impl ConnectOptions {
    /// Returns what proves the password, when that is asked for.
    pub(super) fn prover(&self) -> Option<Prover> {
        let nonce = self.scram_nonce.as_ref().filter(|_| self.version.is_v5())?;
        let user = self.username.as_deref().unwrap_or_default();
        let password = self.password.as_deref().unwrap_or_default();
        Some(Prover::new(user, password, nonce))
    }

    /// Returns the CONNECT packet. Values that are the protocol's own defaults are left out of its properties, and a password that is
    /// proved is not sent.
    pub(super) fn to_connect(&self, prover: Option<&Prover>) -> Connect {
        let is_v5 = self.version.is_v5();
        let mut properties = if is_v5 { self.properties() } else { PropertyList::default() };
        if let Some(prover) = prover {
            let scram = scram_properties(prover.first());
            properties = properties.iter().chain(scram.iter()).collect();
        }
        let will = self.will.as_ref().map(|will| Will {
            topic: Bytes::from(will.topic.clone()),
            payload: will.payload.clone(),
            qos: will.qos,
            retain: will.retain,
            properties: if is_v5 { will.properties.clone() } else { PropertyList::default() },
        });
        Connect {
            version: self.version,
            clean_start: self.clean_start,
            keep_alive_s: self.keep_alive_s,
            client_id: Bytes::from(self.client_id.clone()),
            will,
            username: self.username.clone().filter(|_| prover.is_none()).map(Bytes::from),
            password: self.password.clone().filter(|_| prover.is_none()),
            properties,
        }
    }

    fn properties(&self) -> PropertyList {
        let mut list = Vec::new();
        if self.session_expiry_s > 0 {
            list.push(Property::SessionExpiry(self.session_expiry_s));
        }
        if self.receive_maximum < u16::MAX {
            list.push(Property::ReceiveMaximum(self.receive_maximum.max(1)));
        }
        list.push(Property::MaximumPacketSize(self.packet_bytes_max.max(1)));
        if self.topic_alias_max > 0 {
            list.push(Property::TopicAliasMaximum(self.topic_alias_max));
        }
        if !self.wants_problem_information {
            list.push(Property::RequestProblemInformation(false));
        }
        if self.wants_response_information {
            list.push(Property::RequestResponseInformation(true));
        }
        list.extend(user(&self.user_properties));
        list.into_iter().collect()
    }
}

/// Returns user properties in their order.
pub fn user(pairs: &[(String, String)]) -> impl Iterator<Item = Property> {
    pairs
        .iter()
        .map(|(key, value)| Property::User(Bytes::from(key.clone()), Bytes::from(value.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_5_says_its_limits_and_3_1_1_says_nothing_it_does_not_have() {
        let options = ConnectOptions {
            session_expiry_s: 60,
            receive_maximum: 5,
            topic_alias_max: 3,
            wants_problem_information: false,
            wants_response_information: true,
            packet_bytes_max: 1000,
            user_properties: vec![("a".to_owned(), "b".to_owned())],
            will: Some(WillOptions {
                topic: "w".to_owned(),
                properties: [Property::WillDelay(9)].into_iter().collect(),
                ..WillOptions::default()
            }),
            ..ConnectOptions::default()
        };

        let five = options.to_connect(None);
        let three = ConnectOptions { version: Version::V311, ..options }.to_connect(None);

        let expected = [
            Property::SessionExpiry(60),
            Property::ReceiveMaximum(5),
            Property::MaximumPacketSize(1000),
            Property::TopicAliasMaximum(3),
            Property::RequestProblemInformation(false),
            Property::RequestResponseInformation(true),
            Property::User(Bytes::from_static(b"a"), Bytes::from_static(b"b")),
        ];
        assert_eq!(five.properties.iter().collect::<Vec<_>>(), expected);
        assert!(!five.will.unwrap().properties.is_empty());
        assert!(three.properties.is_empty());
        assert!(three.will.unwrap().properties.is_empty());
    }
}
