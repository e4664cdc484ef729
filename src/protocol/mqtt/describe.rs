//! What a connection says of itself to an administrator.

use super::connection::{MqttConnection, State};
use super::types::Version;
use crate::model::ConnectionDescription;
use crate::model::connection::Unsettled;

impl MqttConnection {
    pub(super) fn description(&self) -> ConnectionDescription {
        ConnectionDescription {
            protocol: "MQTT",
            version: match self.client.version {
                Version::V31 => "3.1",
                Version::V311 => "3.1.1",
                Version::V5 => "5.0",
            },
            peer: Some(self.peer.clone()),
            state: match self.state {
                State::AwaitingConnect => "starting",
                State::Authenticating => "authenticating",
                State::Opening => "opening",
                State::Open => "running",
                State::Closed => "closed",
            },
            client_id: self.client_id().map(|id| String::from_utf8_lossy(id).into_owned()),
            keep_alive_s: self.client.keep_alive_s.into(),
            since: self.started(),
            unsettled: Unsettled {
                unconfirmed: self.inbound.awaiting_count(),
                unacked: self.outbound.flight_count(),
            },
            ..ConnectionDescription::default()
        }
    }
}
