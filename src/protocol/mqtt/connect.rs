//! CONNECT and CONNACK: who may open a session, and what we tell it about ourselves.

use std::collections::VecDeque;

use bytes::Bytes;

use super::authenticate::Exchange;
use super::codec::DecodeError;
use super::connection::{MqttConnection, State};
use super::convert::{detached, parts};
use super::property::{Property, PropertyList};
use super::reason::ReasonCode;
use super::refusal::{self, Violation};
use super::types::{ConnAck, Connect, Packet, Version, Will};
use crate::model::address::PublishAddress;
use crate::model::command::{Credentials, Open, Secret, Will as ModelWill};
use crate::model::effect::Opened;
use crate::model::message::publisher_id;
use crate::model::{Command, Message, Refusal, Topic};

impl MqttConnection {
    /// Checks a CONNECT and asks the broker for the session, or answers with what is wrong and closes [MQTT-3.1.4-2].
    pub(super) fn on_connect(&mut self, connect: Connect) {
        self.client.version = connect.version;
        match self.admit(connect) {
            Ok(open) => {
                self.state = State::Opening;
                self.commands.push_back(Command::Open(Box::new(open)));
            }
            Err(violation) => self.refuse_connect(violation.reason, &violation.text),
        }
    }

    fn admit(&mut self, connect: Connect) -> Result<Open, Violation> {
        let claim = self.read_properties(&connect.properties);
        if let Some(refusal) = &self.settings.turned_away {
            let text = refusal.to_string().into();
            return Err(Violation { reason: refusal::of_connect(refusal), text });
        }
        let credentials = self.credentials_of(&connect, claim);
        self.client.id = self.client_id_of(&connect)?;
        self.client.publisher = publisher_id(&self.client.id);
        self.apply_keep_alive(connect.keep_alive_s);
        let will = connect.will.map(|will| to_will(will, self.client.publisher)).transpose()?;
        if !connect.version.is_v5() {
            // Before 5.0 a session either ends with its connection or never.
            self.client.session_expiry_s = if connect.clean_start { 0 } else { u32::MAX };
        }
        Ok(Open {
            peer: self.peer.clone(),
            credentials,
            client_id: self.client.id.clone(),
            clean_start: connect.clean_start,
            session_expiry_s: self.client.session_expiry_s.min(self.settings.session_expiry_max_s),
            inflight_max: self.window(),
            will,
        })
    }

    fn read_properties(&mut self, properties: &PropertyList) -> Claim {
        let mut claim = Claim::default();
        for property in properties.iter() {
            match property {
                Property::SessionExpiry(seconds) => self.client.session_expiry_s = seconds,
                Property::ReceiveMaximum(count) => self.client.receive_max = count,
                Property::MaximumPacketSize(bytes) => self.client.packet_bytes_max = bytes as usize,
                Property::TopicAliasMaximum(count) => self.client.topic_alias_max = count,
                Property::RequestProblemInformation(wanted) => self.client.wants_reasons = wanted,
                Property::AuthenticationMethod(method) => claim.method = Some(detached(&method)),
                Property::AuthenticationData(data) => claim.data = Some(detached(&data)),
                _ => {}
            }
        }
        claim
    }

    /// Who the client says it is: a method of its own goes before user name and password.
    fn credentials_of(&mut self, connect: &Connect, claim: Claim) -> Credentials {
        if let Some(method) = claim.method {
            self.exchange = Exchange::begin(method.clone());
            return Credentials::Exchange { method, first: Secret(claim.data.unwrap_or_default()) };
        }
        match (&connect.username, &connect.password) {
            (None, None) => Credentials::None,
            (user, password) => Credentials::Password {
                user: user.clone().unwrap_or_default(),
                password: Secret(password.clone().unwrap_or_default()),
            },
        }
    }

    /// [MQTT-3.1.3-5] to [MQTT-3.1.3-8]: who may leave the id to us depends on the version.
    fn client_id_of(&mut self, connect: &Connect) -> Result<Bytes, Violation> {
        let invalid = |text| Violation::new(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, text);
        if connect.client_id.len() > self.settings.client_id_bytes_max {
            return Err(invalid("the client identifier is too long"));
        }
        if !connect.client_id.is_empty() {
            self.assigned_id = Bytes::new();
            return Ok(detached(&connect.client_id));
        }
        let may_be_empty = match connect.version {
            Version::V31 => false,
            Version::V311 => connect.clean_start,
            Version::V5 => true,
        };
        if !may_be_empty {
            return Err(invalid("an empty client identifier needs a clean session"));
        }
        self.client.is_id_assigned = true;
        Ok(std::mem::take(&mut self.assigned_id))
    }

    /// [MQTT-3.1.2-21]: only 5.0 clients can be told another keep alive than theirs.
    fn apply_keep_alive(&mut self, asked_s: u16) {
        let cap_s = self.settings.keep_alive_max_s;
        let is_over = cap_s > 0 && (asked_s == 0 || asked_s > cap_s);
        self.client.is_keep_alive_imposed = is_over && self.client.version.is_v5();
        self.client.keep_alive_s = if self.client.is_keep_alive_imposed { cap_s } else { asked_s };
    }

    fn window(&self) -> u16 {
        self.client.receive_max.min(self.settings.inflight_max).max(1)
    }

    pub(super) fn on_opened(&mut self, opened: Opened) {
        if self.state != State::Opening {
            return;
        }
        self.state = State::Open;
        self.note_opened();
        let properties = match self.client.version {
            Version::V5 => {
                let exchange = self.authentication_properties();
                self.announcements().into_iter().chain(exchange).collect()
            }
            Version::V31 | Version::V311 => PropertyList::default(),
        };
        // MQTT 3.1 has no Session Present flag: its byte is reserved.
        let session_present = opened.session_present && self.client.version != Version::V31;
        self.send(&Packet::ConnAck(ConnAck {
            session_present,
            reason: ReasonCode::SUCCESS,
            properties,
        }));
        if self.commands.is_empty() {
            // Most connections are quiet from here on: what CONNECT needed is given back.
            self.commands = VecDeque::new();
        }
        self.inbound.resume(opened.inbound);
        let aliases = self.client.topic_alias_max.min(self.settings.topic_alias_max);
        self.outbound.open(self.window(), aliases, opened.persistent, opened.outbound);
    }

    /// What CONNACK says about us (§3.2.2.3): nothing that is not delivered, and what is only when it is not the default.
    fn announcements(&self) -> Vec<Property> {
        let packet_bytes_max = self.settings.limits.packet_bytes_max;
        let packet_bytes_max = u32::try_from(packet_bytes_max).unwrap_or(u32::MAX);
        let mut list = vec![
            Property::ReceiveMaximum(self.settings.receive_max.max(1)),
            Property::MaximumPacketSize(packet_bytes_max),
            Property::TopicAliasMaximum(self.settings.topic_alias_max),
        ];
        if self.client.session_expiry_s > self.settings.session_expiry_max_s {
            list.push(Property::SessionExpiry(self.settings.session_expiry_max_s));
        }
        if self.client.is_keep_alive_imposed {
            list.push(Property::ServerKeepAlive(self.client.keep_alive_s));
        }
        if self.client.is_id_assigned {
            // [MQTT-3.2.2-16]
            list.push(Property::AssignedClientId(self.client.id.clone()));
        }
        list
    }

    pub(super) fn on_open_refused(&mut self, refusal: &Refusal) {
        if !matches!(self.state, State::Opening | State::Authenticating) {
            return;
        }
        // The broker opened nothing: it is not told of the end.
        self.state = State::AwaitingConnect;
        self.refuse_connect(refusal::of_connect(refusal), &refusal.to_string());
    }

    /// Sends a CONNACK that says no, in the client's version, and closes [MQTT-3.1.4-2].
    pub(super) fn refuse_connect(&mut self, reason: ReasonCode, text: &str) {
        let reason = match self.client.version {
            Version::V5 => Some(reason),
            Version::V31 | Version::V311 => refusal::return_code(reason),
        };
        if let Some(reason) = reason {
            let properties = self.reason_string(text, 16);
            // [MQTT-3.2.2-6]: no session is present when it says no.
            self.send(&Packet::ConnAck(ConnAck { session_present: false, reason, properties }));
        }
        self.close(false, None);
    }

    /// Answers a CONNECT of a version that is not ours in the form its sender can read.
    pub(super) fn refuse_version(&mut self, level: u8) {
        let is_newer = (6..0x80).contains(&level) || level == 0x85;
        self.client.version = if is_newer { Version::V5 } else { Version::V311 };
        let error = DecodeError::UnsupportedVersion { level };
        self.refuse_connect(error.reason(), &error.to_string());
    }
}

/// What CONNECT's properties say of who the client is.
#[derive(Default)]
struct Claim {
    method: Option<Bytes>,
    data: Option<Bytes>,
}

/// Checks a will as if it were published now.
fn to_will(will: Will, publisher: u64) -> Result<ModelWill, Violation> {
    let refused = |text| Violation::new(ReasonCode::TOPIC_NAME_INVALID, text);
    let parts = parts(&will.properties)?;
    let topic =
        Topic::new(detached(&will.topic)).map_err(|error| match refusal::of_topic(error) {
            Ok(_) => refused("the will topic is not accepted"),
            Err(violation) => violation,
        })?;
    match PublishAddress::of(&topic) {
        Ok(PublishAddress::Topic | PublishAddress::Queue(_)) => {}
        Ok(PublishAddress::Settle(..) | PublishAddress::Manage(_)) | Err(_) => {
            return Err(refused("the will topic cannot be published to"));
        }
    }
    let message = Message {
        topic,
        payload: detached(&will.payload),
        qos: will.qos,
        retain: will.retain,
        expiry_s: parts.expiry_s,
        properties: parts.properties,
        publisher,
    };
    Ok(ModelWill { message, delay_s: parts.delay_s })
}
