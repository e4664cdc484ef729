//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK (§3.8 to §3.11).

use bytes::{BufMut, BytesMut};

use super::primitives::{Reader, put_binary, put_properties};
use super::{DecodeError, EncodeError, Limits};
use crate::model::QoS;
use crate::model::command::RetainHandling;
use crate::protocol::mqtt::property::Place;
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{
    SubAck, Subscribe, SubscribeFilter, UnsubAck, Unsubscribe, Version,
};

pub(super) fn decode_subscribe(
    mut body: Reader,
    version: Version,
    limits: &Limits,
) -> Result<Subscribe, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = body.properties(version, Place::SUBSCRIBE, limits)?;
    let mut filters = Vec::new();
    while !body.is_empty() {
        check_count(filters.len(), limits)?;
        let filter = body.text()?;
        filters.push(with_options(filter, body.u8()?, version)?);
    }
    match filters.is_empty() {
        // [MQTT-3.8.3-2]
        true => Err(DecodeError::Protocol("SUBSCRIBE must have at least one filter")),
        false => Ok(Subscribe { packet_id, properties, filters }),
    }
}

fn with_options(
    filter: bytes::Bytes,
    options: u8,
    version: Version,
) -> Result<SubscribeFilter, DecodeError> {
    let reserved = if version.is_v5() { 0xC0 } else { 0xFC };
    if options & reserved != 0 {
        // [MQTT-3.8.3-5]
        return Err(DecodeError::Malformed("reserved bits of the subscription options are set"));
    }
    let qos = QoS::from_bits(options & 3)
        .ok_or(DecodeError::Protocol("a subscription cannot ask for QoS 3"))?;
    let retain_handling = match options >> 4 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DontSend,
        _ => return Err(DecodeError::Protocol("a retain handling of 3 does not exist")),
    };
    Ok(SubscribeFilter {
        filter,
        qos,
        no_local: options & 4 != 0,
        retain_as_published: options & 8 != 0,
        retain_handling,
    })
}

fn check_count(count: usize, limits: &Limits) -> Result<(), DecodeError> {
    match count < limits.filters_max {
        true => Ok(()),
        false => Err(DecodeError::TooManyFilters { filters_max: limits.filters_max }),
    }
}

pub(super) fn decode_suback(
    mut body: Reader,
    version: Version,
    limits: &Limits,
) -> Result<SubAck, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = body.properties(version, Place::ACK, limits)?;
    let reasons: Vec<_> = body.rest().iter().map(|byte| ReasonCode(*byte)).collect();
    let fits = |reason: &ReasonCode| match version.is_v5() {
        true => reason.fits_suback(),
        // [MQTT-3.9.3-2] of 3.1.1.
        false => matches!(reason.0, 0..=2 | 0x80),
    };
    match reasons.iter().all(fits) {
        true => Ok(SubAck { packet_id, properties, reasons }),
        false => Err(DecodeError::Protocol("a reason code is not one of SUBACK")),
    }
}

pub(super) fn decode_unsubscribe(
    mut body: Reader,
    version: Version,
    limits: &Limits,
) -> Result<Unsubscribe, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = body.properties(version, Place::UNSUBSCRIBE, limits)?;
    let mut filters = Vec::new();
    while !body.is_empty() {
        check_count(filters.len(), limits)?;
        filters.push(body.text()?);
    }
    match filters.is_empty() {
        // [MQTT-3.10.3-2]
        true => Err(DecodeError::Protocol("UNSUBSCRIBE must have at least one filter")),
        false => Ok(Unsubscribe { packet_id, properties, filters }),
    }
}

pub(super) fn decode_unsuback(
    mut body: Reader,
    version: Version,
    limits: &Limits,
) -> Result<UnsubAck, DecodeError> {
    let packet_id = body.packet_id()?;
    if !version.is_v5() {
        body.finish()?;
    }
    let properties = body.properties(version, Place::ACK, limits)?;
    let reasons: Vec<_> = body.rest().iter().map(|byte| ReasonCode(*byte)).collect();
    match reasons.iter().all(|reason| reason.fits_unsuback()) {
        true => Ok(UnsubAck { packet_id, properties, reasons }),
        false => Err(DecodeError::Protocol("a reason code is not one of UNSUBACK")),
    }
}

pub(super) fn encode_subscribe(
    packet: &Subscribe,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    out.put_u16(packet.packet_id);
    put_properties(out, version, &packet.properties)?;
    for filter in &packet.filters {
        put_binary(out, &filter.filter)?;
        let handling = match filter.retain_handling {
            RetainHandling::Send => 0,
            RetainHandling::SendIfNew => 1 << 4,
            RetainHandling::DontSend => 2 << 4,
        };
        let options =
            u8::from(filter.no_local) << 2 | u8::from(filter.retain_as_published) << 3 | handling;
        out.put_u8(filter.qos as u8 | if version.is_v5() { options } else { 0 });
    }
    Ok(())
}

pub(super) fn encode_suback(
    packet: &SubAck,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    out.put_u16(packet.packet_id);
    put_properties(out, version, &packet.properties)?;
    for reason in &packet.reasons {
        // Before 5.0 there is one failure.
        let failed = reason.is_error() && !version.is_v5();
        out.put_u8(if failed { ReasonCode::UNSPECIFIED_ERROR.0 } else { reason.0 });
    }
    Ok(())
}

pub(super) fn encode_unsubscribe(
    packet: &Unsubscribe,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    out.put_u16(packet.packet_id);
    put_properties(out, version, &packet.properties)?;
    packet.filters.iter().try_for_each(|filter| put_binary(out, filter))
}

pub(super) fn encode_unsuback(
    packet: &UnsubAck,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    out.put_u16(packet.packet_id);
    if version.is_v5() {
        put_properties(out, version, &packet.properties)?;
        packet.reasons.iter().for_each(|reason| out.put_u8(reason.0));
    }
    Ok(())
}
