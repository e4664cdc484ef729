//! CONNECT (§3.1) and CONNACK (§3.2).

use bytes::{BufMut, Bytes, BytesMut};

use super::primitives::{Reader, put_binary, put_properties};
use super::{DecodeError, EncodeError, Limits};
use crate::model::QoS;
use crate::protocol::mqtt::property::{Place, PropertyList};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{ConnAck, Connect, Version, Will};

/// The flags of §3.1.2.3.
#[derive(Clone, Copy)]
struct Flags(u8);

impl Flags {
    const RESERVED: u8 = 1;
    const CLEAN_START: u8 = 1 << 1;
    const WILL: u8 = 1 << 2;
    const WILL_RETAIN: u8 = 1 << 5;
    const PASSWORD: u8 = 1 << 6;
    const USERNAME: u8 = 1 << 7;

    fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    fn will_qos(self) -> Result<QoS, DecodeError> {
        // [MQTT-3.1.2-12]
        QoS::from_bits((self.0 >> 3) & 3)
            .ok_or(DecodeError::Malformed("a will with QoS 3 does not exist"))
    }

    fn check(self, version: Version) -> Result<(), DecodeError> {
        if self.has(Flags::RESERVED) {
            // [MQTT-3.1.2-3]
            return Err(DecodeError::Malformed("the reserved connect flag must be 0"));
        }
        let will = self.will_qos()?;
        if !self.has(Flags::WILL) && (will != QoS::AtMostOnce || self.has(Flags::WILL_RETAIN)) {
            // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
            return Err(DecodeError::Malformed("QoS and retain of a will need a will"));
        }
        if !version.is_v5() && self.has(Flags::PASSWORD) && !self.has(Flags::USERNAME) {
            // [MQTT-3.1.2-22] of 3.1.1.
            return Err(DecodeError::Malformed("a password needs a user name before 5.0"));
        }
        Ok(())
    }
}

pub(super) fn decode_connect(mut body: Reader, limits: &Limits) -> Result<Connect, DecodeError> {
    let version = decode_version(&mut body)?;
    let flags = Flags(body.u8()?);
    flags.check(version)?;
    let keep_alive_s = body.u16()?;
    let properties = body.properties(version, Place::CONNECT, limits)?;
    let client_id = body.text()?;
    let will = match flags.has(Flags::WILL) {
        true => Some(decode_will(&mut body, flags, version, limits)?),
        false => None,
    };
    let username = optional(flags.has(Flags::USERNAME), || body.text())?;
    let password = optional(flags.has(Flags::PASSWORD), || body.binary())?;
    body.finish()?;
    let clean_start = flags.has(Flags::CLEAN_START);
    Ok(Connect {
        version,
        clean_start,
        keep_alive_s,
        client_id,
        will,
        username,
        password,
        properties,
    })
}

/// [MQTT-3.1.2-1]: a name that is not ours is not MQTT; a level that is not ours is answered.
fn decode_version(body: &mut Reader) -> Result<Version, DecodeError> {
    let name = body.binary()?;
    let level = body.u8()?;
    match (&name[..], level) {
        (b"MQIsdp", 3) => Ok(Version::V31),
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        (b"MQIsdp" | b"MQTT", level) => Err(DecodeError::UnsupportedVersion { level }),
        _ => Err(DecodeError::Malformed("the protocol name is not one of MQTT")),
    }
}

fn decode_will(
    body: &mut Reader,
    flags: Flags,
    version: Version,
    limits: &Limits,
) -> Result<Will, DecodeError> {
    let properties = body.properties(version, Place::WILL, limits)?;
    let topic = body.text()?;
    let payload = body.binary()?;
    let (qos, retain) = (flags.will_qos()?, flags.has(Flags::WILL_RETAIN));
    Ok(Will { topic, payload, qos, retain, properties })
}

fn optional(
    present: bool,
    read: impl FnOnce() -> Result<Bytes, DecodeError>,
) -> Result<Option<Bytes>, DecodeError> {
    if present { read().map(Some) } else { Ok(None) }
}

pub(super) fn decode_connack(
    mut body: Reader,
    version: Version,
    limits: &Limits,
) -> Result<ConnAck, DecodeError> {
    let flags = body.u8()?;
    if flags > 1 {
        // [MQTT-3.2.2-1]
        return Err(DecodeError::Malformed("reserved connect acknowledge flags must be 0"));
    }
    let reason = ReasonCode(body.u8()?);
    // A server that knows no 5.0 answers in the form of 3.1.1, whatever the client asked for.
    let is_short = body.is_empty();
    let fits = match version.is_v5() && !is_short {
        true => reason.fits_connack(),
        false => reason.0 <= 5 || (version.is_v5() && reason.fits_connack()),
    };
    if !fits {
        return Err(DecodeError::Protocol("the code is not one of CONNACK"));
    }
    let properties = match is_short {
        true => PropertyList::default(),
        false => body.properties(version, Place::CONNACK, limits)?,
    };
    body.finish()?;
    Ok(ConnAck { session_present: flags == 1, reason, properties })
}

pub(super) fn encode_connect(packet: &Connect, out: &mut BytesMut) -> Result<(), EncodeError> {
    let (name, level): (&[u8], u8) = match packet.version {
        Version::V31 => (b"MQIsdp", 3),
        Version::V311 => (b"MQTT", 4),
        Version::V5 => (b"MQTT", 5),
    };
    put_binary(out, name)?;
    let flag = |present: bool, bit: u8| if present { bit } else { 0 };
    let will = packet.will.as_ref().map_or(0, |will| {
        Flags::WILL | (will.qos as u8) << 3 | flag(will.retain, Flags::WILL_RETAIN)
    });
    let flags = flag(packet.clean_start, Flags::CLEAN_START)
        | will
        | flag(packet.username.is_some(), Flags::USERNAME)
        | flag(packet.password.is_some(), Flags::PASSWORD);
    out.put_slice(&[level, flags]);
    out.put_u16(packet.keep_alive_s);
    put_properties(out, packet.version, &packet.properties)?;
    put_binary(out, &packet.client_id)?;
    if let Some(will) = &packet.will {
        put_properties(out, packet.version, &will.properties)?;
        put_binary(out, &will.topic)?;
        put_binary(out, &will.payload)?;
    }
    packet.username.iter().chain(&packet.password).try_for_each(|value| put_binary(out, value))
}

pub(super) fn encode_connack(
    packet: &ConnAck,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    out.put_slice(&[u8::from(packet.session_present), packet.reason.0]);
    put_properties(out, version, &packet.properties)
}
