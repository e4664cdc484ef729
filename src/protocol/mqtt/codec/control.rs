//! DISCONNECT (§3.14) and AUTH (§3.15): a reason and properties, both of which may be missing.

use bytes::{BufMut, BytesMut};

use super::primitives::{Reader, put_properties};
use super::{DecodeError, EncodeError, Limits};
use crate::protocol::mqtt::property::{Place, PropertyList};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{Auth, Disconnect, Version};

pub(super) fn decode_disconnect(
    mut body: Reader,
    version: Version,
    limits: &Limits,
) -> Result<Disconnect, DecodeError> {
    if !version.is_v5() {
        body.finish()?;
        return Ok(Disconnect::default());
    }
    let (reason, properties) = decode(&mut body, Place::DISCONNECT, limits)?;
    match reason.fits_disconnect() {
        true => Ok(Disconnect { reason, properties }),
        false => Err(DecodeError::Protocol("the reason code is not one of DISCONNECT")),
    }
}

pub(super) fn decode_auth(mut body: Reader, limits: &Limits) -> Result<Auth, DecodeError> {
    let (reason, properties) = decode(&mut body, Place::AUTH, limits)?;
    match reason.fits_auth() {
        true => Ok(Auth { reason, properties }),
        // [MQTT-3.15.2-1]
        false => Err(DecodeError::Protocol("the reason code is not one of AUTH")),
    }
}

fn decode(
    body: &mut Reader,
    place: Place,
    limits: &Limits,
) -> Result<(ReasonCode, PropertyList), DecodeError> {
    if body.is_empty() {
        return Ok((ReasonCode::SUCCESS, PropertyList::default()));
    }
    let reason = ReasonCode(body.u8()?);
    let properties = match body.is_empty() {
        true => PropertyList::default(),
        false => body.properties(Version::V5, place, limits)?,
    };
    body.finish()?;
    Ok((reason, properties))
}

pub(super) fn encode_disconnect(
    packet: &Disconnect,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    match version.is_v5() {
        true => encode(packet.reason, &packet.properties, out),
        false => Ok(()),
    }
}

pub(super) fn encode_auth(packet: &Auth, out: &mut BytesMut) -> Result<(), EncodeError> {
    encode(packet.reason, &packet.properties, out)
}

fn encode(
    reason: ReasonCode,
    properties: &PropertyList,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    if properties.is_empty() {
        if reason != ReasonCode::SUCCESS {
            out.put_u8(reason.0);
        }
        return Ok(());
    }
    out.put_u8(reason.0);
    put_properties(out, Version::V5, properties)
}
