//! Enhanced authentication (§4.12): AUTH packets in both directions, before CONNACK and again in an open connection.
//!
//! What the method's messages mean is the broker's; here is whose turn it is.

use bytes::Bytes;

use super::connection::{MqttConnection, State};
use super::convert::detached;
use super::property::{Property, PropertyList};
use super::reason::ReasonCode;
use super::refusal::{self, Violation};
use super::types::{Auth, Packet};
use crate::model::command::Secret;
use crate::model::{Command, Refusal};

/// The exchange of a client that named a method in CONNECT.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// As in CONNECT; every AUTH repeats it [MQTT-4.12.0-5].
    pub(super) method: Option<Bytes>,
    turn: Turn,
    /// The last word, for CONNACK.
    last: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    /// None is under way.
    #[default]
    Nobody,
    Broker,
    Client,
}

impl Exchange {
    /// CONNECT named a method.
    pub(super) fn begin(method: Bytes) -> Exchange {
        Exchange { method: Some(method), turn: Turn::Broker, last: None }
    }
}

impl MqttConnection {
    pub(super) fn on_auth(&mut self, auth: &Auth) -> Result<(), Violation> {
        let Some(method) = self.exchange.method.clone() else {
            // [MQTT-4.12.0-7]
            return Err(Violation::protocol("AUTH needs an authentication method in CONNECT"));
        };
        let named = auth.properties.find(|property| match property {
            Property::AuthenticationMethod(method) => Some(method),
            _ => None,
        });
        if named.as_ref() != Some(&method) {
            // [MQTT-4.12.0-5], [MQTT-4.12.1-1]
            return Err(Violation::protocol("AUTH must name the method of CONNECT"));
        }
        let is_expected = match (auth.reason, self.exchange.turn) {
            (ReasonCode::CONTINUE_AUTHENTICATION, Turn::Client) => true,
            (ReasonCode::REAUTHENTICATE, Turn::Nobody) => self.state == State::Open,
            _ => false,
        };
        if !is_expected {
            return Err(Violation::protocol("AUTH out of turn"));
        }
        let message = auth.properties.find(|property| match property {
            Property::AuthenticationData(message) => Some(detached(&message)),
            _ => None,
        });
        self.exchange.turn = Turn::Broker;
        let message = Secret(message.unwrap_or_default());
        self.commands.push_back(Command::Authenticate { method, message });
        Ok(())
    }

    pub(super) fn on_challenge(&mut self, message: Bytes) {
        self.exchange.turn = Turn::Client;
        if self.state == State::Opening {
            self.state = State::Authenticating;
        }
        self.send_auth(ReasonCode::CONTINUE_AUTHENTICATION, message);
    }

    /// Before CONNACK the last word waits for it; later it is an AUTH of its own (§4.12.1).
    pub(super) fn on_authenticated(&mut self, last: Bytes) {
        self.exchange.turn = Turn::Nobody;
        match self.state {
            State::Open => self.send_auth(ReasonCode::SUCCESS, last),
            _ => {
                self.state = State::Opening;
                self.exchange.last = Some(last);
            }
        }
    }

    /// What CONNACK says of the exchange [MQTT-4.12.0-5].
    pub(super) fn authentication_properties(&mut self) -> impl Iterator<Item = Property> + use<> {
        self.exchange.turn = Turn::Nobody;
        let method = self.exchange.method.clone().map(Property::AuthenticationMethod);
        let last = self.exchange.last.take().filter(|last| !last.is_empty());
        method.into_iter().chain(last.map(Property::AuthenticationData))
    }

    /// The client may not go on [MQTT-4.12.1-2].
    pub(super) fn on_expelled(&mut self, refusal: &Refusal) {
        self.fail(refusal::of_disconnect(refusal), &refusal.to_string());
    }

    fn send_auth(&mut self, reason: ReasonCode, message: Bytes) {
        let method = self.exchange.method.clone().map(Property::AuthenticationMethod);
        let data = (!message.is_empty()).then_some(Property::AuthenticationData(message));
        let properties: PropertyList = method.into_iter().chain(data).collect();
        self.send(&Packet::Auth(Auth { reason, properties }));
    }
}
