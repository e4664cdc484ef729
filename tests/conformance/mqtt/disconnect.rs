//! §3.14 DISCONNECT, §3.15 AUTH, and the other ends of a connection.

use super::*;
use fluxmq::model::command::Close;

fn disconnect(reason: ReasonCode, properties: &[Property]) -> Packet {
    Packet::Disconnect(Disconnect { reason, properties: list(properties) })
}

fn close(peer: &mut Peer) -> Close {
    match peer.command() {
        Command::Close(close) => close,
        other => panic!("no Close: {other:?}"),
    }
}

fn expiring(seconds: u32) -> Peer {
    let properties = list(&[Property::SessionExpiry(seconds)]);
    Peer::connected_with(Version::V5, settings(), |connect| connect.properties = properties)
}

#[test]
fn mqtt_3_14_4_3_a_normal_disconnect_discards_the_will() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut peer = Peer::connected(version);
        peer.send(disconnect(ReasonCode::SUCCESS, &[]));
        assert_eq!(close(&mut peer), Close { will: false, session_expiry_s: None });
        peer.assert_closed_silently();
    }
}

#[test]
fn mqtt_3_1_2_8_disconnect_0x04_and_errors_publish_the_will() {
    for reason in [ReasonCode::DISCONNECT_WITH_WILL, ReasonCode::UNSPECIFIED_ERROR] {
        let mut peer = Peer::connected(Version::V5);
        peer.send(disconnect(reason, &[]));
        assert!(close(&mut peer).will);
    }
}

#[test]
fn mqtt_3_1_2_8_a_connection_that_breaks_publishes_the_will() {
    let mut peer = Peer::connected(Version::V311);
    peer.connection.handle_disconnect(peer.now);
    assert_eq!(close(&mut peer), Close { will: true, session_expiry_s: None });
    peer.connection.handle_disconnect(peer.now);
    assert_eq!(peer.commands(), [], "it ends once");
}

#[test]
fn a_connection_that_never_opened_has_nothing_to_close() {
    let mut peer = Peer::new(Version::V5);
    peer.connection.handle_disconnect(peer.now);
    assert_eq!(peer.commands(), []);
    assert!(peer.is_closed());
}

#[test]
fn mqtt_3_14_2_2_the_session_expiry_can_change_but_not_from_0() {
    let mut peer = expiring(30);
    peer.send(disconnect(ReasonCode::SUCCESS, &[Property::SessionExpiry(0)]));
    assert_eq!(close(&mut peer).session_expiry_s, Some(0));
    let mut peer = expiring(30);
    peer.send(disconnect(ReasonCode::SUCCESS, &[Property::SessionExpiry(u32::MAX)]));
    let cap = settings().session_expiry_max_s;
    assert_eq!(close(&mut peer).session_expiry_s, Some(cap));
    let mut peer = expiring(0);
    peer.send(disconnect(ReasonCode::SUCCESS, &[Property::SessionExpiry(1)]));
    peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
    assert!(close(&mut peer).will);
}

#[test]
fn mqtt_3_14_1_1_reserved_bits_are_malformed() {
    let mut peer = Peer::connected(Version::V5);
    peer.send_bytes(b"\xE1\x00");
    peer.assert_disconnected(ReasonCode::MALFORMED_PACKET);
}

#[test]
fn mqtt_3_14_4_1_nothing_after_disconnect_is_processed() {
    let mut peer = Peer::connected(Version::V5);
    peer.deliver(delivery(1, QoS::AtMostOnce));
    peer.send_bytes(b"\xE0\x00\xC0\x00");
    peer.assert_closed_silently();
    assert!(peer.input.is_empty());
    peer.send(Packet::PingReq);
    peer.deliver(delivery(2, QoS::AtMostOnce));
    peer.assert_closed_silently();
}

#[test]
fn mqtt_3_1_4_3_a_taken_session_is_told_0x8e() {
    let mut peer = Peer::connected(Version::V5);
    peer.effect(Effect::TakenOver);
    peer.assert_disconnected(ReasonCode::SESSION_TAKEN_OVER);
    assert!(!close(&mut peer).will);
    let mut old = Peer::connected(Version::V311);
    old.effect(Effect::TakenOver);
    old.assert_closed_silently();
}

#[test]
fn mqtt_3_14_2_1_a_shutdown_is_told_0x8b() {
    let mut peer = Peer::connected(Version::V5);
    peer.effect(Effect::ShuttingDown);
    peer.assert_disconnected(ReasonCode::SERVER_SHUTTING_DOWN);
    let mut old = Peer::connected(Version::V311);
    old.effect(Effect::ShuttingDown);
    old.assert_closed_silently();
}

#[test]
fn mqtt_3_14_2_3_a_protocol_error_is_explained_to_those_who_want_it() {
    for wanted in [true, false] {
        let mut peer = Peer::connected_with(Version::V5, settings(), |connect| {
            connect.properties = list(&[Property::RequestProblemInformation(wanted)]);
        });
        peer.send(Packet::PingResp);
        let Packet::Disconnect(disconnect) = peer.packet() else { panic!("no DISCONNECT") };
        assert_eq!(disconnect.reason, ReasonCode::PROTOCOL_ERROR);
        assert_eq!(!disconnect.properties.is_empty(), wanted);
    }
}

#[test]
fn mqtt_3_14_2_3_an_explanation_that_does_not_fit_is_left_out() {
    let mut peer = Peer::connected_with(Version::V5, settings(), |connect| {
        connect.properties = list(&[Property::MaximumPacketSize(30)]);
    });
    peer.send(Packet::PingResp);
    assert_eq!(peer.bytes(), b"\xE0\x01\x82"[..]);
}

#[test]
fn mqtt_3_14_2_2_a_server_sends_no_session_expiry() {
    let mut peer = expiring(30);
    peer.send(Packet::PingResp);
    let Packet::Disconnect(disconnect) = peer.packet() else { panic!("no DISCONNECT") };
    assert!(!disconnect.properties.iter().any(|it| matches!(it, Property::SessionExpiry(_))));
}

#[test]
fn mqtt_4_13_1_1_packets_of_servers_are_protocol_errors() {
    let from_server = [
        Packet::ConnAck(ConnAck::default()),
        Packet::SubAck(SubAck {
            packet_id: 1,
            properties: PropertyList::default(),
            reasons: vec![],
        }),
        Packet::UnsubAck(UnsubAck {
            packet_id: 1,
            properties: PropertyList::default(),
            reasons: vec![],
        }),
    ];
    for packet in from_server {
        let mut peer = Peer::connected(Version::V5);
        peer.send(packet);
        peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
        assert!(close(&mut peer).will);
    }
}

#[test]
fn mqtt_4_12_0_auth_without_a_method_is_a_protocol_error() {
    let mut peer = Peer::connected(Version::V5);
    let properties = list(&[Property::AuthenticationMethod(text("M"))]);
    peer.send(Packet::Auth(Auth { reason: ReasonCode::REAUTHENTICATE, properties }));
    peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn mqtt_3_15_before_5_0_there_is_no_auth() {
    let mut peer = Peer::connected(Version::V311);
    peer.send_bytes(b"\xF0\x00");
    peer.assert_closed_silently();
}
