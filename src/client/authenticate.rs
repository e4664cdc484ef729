//! Enhanced authentication (MQTT 5 §4.12): the messages of SCRAM-SHA-256 in their properties.

use bytes::Bytes;

use super::error::ClientError;
use crate::auth::scram::{Prover, SCRAM_SHA_256};
use crate::protocol::mqtt::property::{Property, PropertyList};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{Auth, Packet};

/// Answers the server's message with the proof [MQTT-4.12.0-3].
pub(super) fn prove(prover: Option<&mut Prover>, auth: &Auth) -> Result<Packet, ClientError> {
    let reason = ReasonCode::CONTINUE_AUTHENTICATION;
    let Some(prover) = prover.filter(|_| auth.reason == reason) else {
        return Err(ClientError::Protocol("AUTH came without being asked for"));
    };
    let proof = prover.prove(&authentication_data(&auth.properties))?;
    Ok(Packet::Auth(Auth { reason, properties: scram_properties(proof) }))
}

/// What one side says next.
pub(super) fn scram_properties(message: String) -> PropertyList {
    let method = Property::AuthenticationMethod(Bytes::from_static(SCRAM_SHA_256.as_bytes()));
    let data = Property::AuthenticationData(Bytes::from(message));
    [method, data].into_iter().collect()
}

/// What the other side said; nothing is no message of any method.
pub(super) fn authentication_data(properties: &PropertyList) -> Bytes {
    let data = properties.find(|property| match property {
        Property::AuthenticationData(data) => Some(data),
        _ => None,
    });
    data.unwrap_or_default()
}
