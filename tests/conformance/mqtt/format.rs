//! Chapters 1 and 2: data representation and the fixed header, as the connection answers for them.

use super::*;

fn refused(bytes: &[u8], reason: ReasonCode) {
    let mut peer = Peer::connected(Version::V5);
    peer.send_bytes(bytes);
    peer.assert_disconnected(reason);
}

#[test]
fn mqtt_1_5_4_1_a_surrogate_closes_the_connection() {
    refused(b"\x30\x07\x00\x04a\xED\xA0\x80\x00", ReasonCode::MALFORMED_PACKET);
}

#[test]
fn mqtt_1_5_4_2_a_nul_closes_the_connection() {
    refused(b"\x30\x05\x00\x02a\x00\x00", ReasonCode::MALFORMED_PACKET);
}

#[test]
fn mqtt_1_5_4_3_a_byte_order_mark_stays_in_the_topic() {
    let mut peer = Peer::connected(Version::V311);
    peer.send_bytes(b"\x30\x06\x00\x04\xEF\xBB\xBFa");
    let Command::Publish { message, .. } = peer.command() else { panic!("no Publish") };
    assert_eq!(&message.topic.as_bytes()[..], b"\xEF\xBB\xBFa");
}

#[test]
fn mqtt_1_5_5_1_a_length_longer_than_needed_closes_the_connection() {
    refused(b"\x30\x84\x00\x00\x01a\x00", ReasonCode::MALFORMED_PACKET);
}

#[test]
fn mqtt_1_5_7_1_both_halves_of_a_user_property_are_utf_8() {
    refused(b"\x30\x0A\x00\x01a\x06\x26\x00\x00\x00\x01\xFF", ReasonCode::MALFORMED_PACKET);
}

#[test]
fn mqtt_2_1_3_1_reserved_flags_close_the_connection() {
    refused(b"\xC1\x00", ReasonCode::MALFORMED_PACKET);
}

#[test]
fn mqtt_2_2_1_3_a_packet_identifier_of_0_closes_the_connection() {
    refused(b"\x32\x06\x00\x01a\x00\x00\x00", ReasonCode::MALFORMED_PACKET);
}

#[test]
fn mqtt_2_2_2_properties_not_of_the_packet_close_the_connection() {
    refused(b"\x30\x07\x00\x01a\x03\x21\x00\x01", ReasonCode::MALFORMED_PACKET);
}

#[test]
fn mqtt_4_13_1_1_a_packet_larger_than_announced_is_refused_by_its_length_alone() {
    let mut peer = Peer::connected(Version::V5);
    peer.send_bytes(b"\x30\x80\x80\x41");
    peer.assert_disconnected(ReasonCode::PACKET_TOO_LARGE);
}

#[test]
fn a_packet_in_pieces_is_taken_when_it_is_whole() {
    let mut peer = Peer::connected(Version::V311);
    for byte in b"\x30\x05\x00\x01ahi" {
        assert_eq!(peer.commands(), []);
        peer.send_bytes(&[*byte]);
    }
    assert!(matches!(peer.command(), Command::Publish { .. }));
    assert!(peer.input.is_empty());
}
