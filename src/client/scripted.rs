//! The other side, for tests: a peer that says exactly what the test says.

use bytes::{Bytes, BytesMut};

use super::machine::Machine;
use crate::model::{Millis, QoS};
use crate::protocol::mqtt::codec::{Limits, decode, encode};
use crate::protocol::mqtt::property::PropertyList;
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{Ack, ConnAck, Packet, Publish, Version};

/// Takes everything the machine wants to send, as packets.
pub(crate) fn sent(machine: &mut Machine, version: Version) -> Vec<Packet> {
    let mut output = BytesMut::new();
    machine.poll_transmit(Millis(0), &mut output);
    packets(&mut output, version)
}

/// Decodes whole packets from the front of `input`.
pub(crate) fn packets(input: &mut BytesMut, version: Version) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let Some(packet) = decode(input, Some(version), &Limits::default()).unwrap() {
        packets.push(packet);
    }
    packets
}

/// Encodes packets one after the other.
pub(crate) fn bytes(packets: &[Packet], version: Version) -> BytesMut {
    let mut output = BytesMut::new();
    for packet in packets {
        encode(packet, version, &mut output).unwrap();
    }
    output
}

/// An acceptance with properties.
pub(crate) fn connack(session_present: bool, properties: PropertyList) -> Packet {
    Packet::ConnAck(ConnAck { session_present, reason: ReasonCode::SUCCESS, properties })
}

/// A plain message.
pub(crate) fn publish(packet_id: u16, qos: QoS, payload: &'static str) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Bytes::from_static(b"t"),
        packet_id,
        properties: PropertyList::default(),
        payload: Bytes::from_static(payload.as_bytes()),
    }
}

/// An acknowledgement without anything special.
pub(crate) fn ack(packet_id: u16) -> Ack {
    Ack { packet_id, ..Ack::default() }
}
