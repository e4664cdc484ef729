//! §2.4: which reason codes each packet may carry, written down from the specification and asked of the codec one by one.

use super::*;

const PUBACK: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const PUBREL: &[u8] = &[0x00, 0x92];
const CONNACK: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
    0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
];
const SUBACK: &[u8] = &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
const UNSUBACK: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
const DISCONNECT: &[u8] = &[
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95,
    0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];
const AUTH: &[u8] = &[0x00, 0x18, 0x19];

/// A packet, the place of its reason code among the bytes, and the codes that it may have.
const PACKETS: [(&[u8], usize, &[u8]); 9] = [
    (b"\x20\x03\x00\x00\x00", 3, CONNACK),
    (b"\x40\x03\x00\x01\x00", 4, PUBACK),
    (b"\x50\x03\x00\x01\x00", 4, PUBACK),
    (b"\x62\x03\x00\x01\x00", 4, PUBREL),
    (b"\x70\x03\x00\x01\x00", 4, PUBREL),
    (b"\x90\x04\x00\x01\x00\x00", 5, SUBACK),
    (b"\xB0\x04\x00\x01\x00\x00", 5, UNSUBACK),
    (b"\xE0\x01\x00", 2, DISCONNECT),
    (b"\xF0\x02\x00\x00", 2, AUTH),
];

/// Our own packets are read by the same codec in every test of this suite: what it refuses here, we do not send.
#[test]
fn every_code_fits_the_packets_of_its_table() {
    for (packet, place, codes) in PACKETS {
        for code in 0..=0xFF {
            let mut bytes = packet.to_vec();
            bytes[place] = code;
            let mut bytes = BytesMut::from(&bytes[..]);
            let decoded = decode(&mut bytes, Some(Version::V5), &Limits::default());
            match codes.contains(&code) {
                true => assert!(matches!(decoded, Ok(Some(_))), "{code:#x} in {packet:?}"),
                false => {
                    let reason = decoded.expect_err("not a code of this packet").reason();
                    assert_eq!(reason, ReasonCode::PROTOCOL_ERROR, "{code:#x} in {packet:?}");
                }
            }
        }
    }
}

#[test]
fn mqtt_3_2_2_1_the_flags_of_connack_say_one_thing() {
    for version in [Version::V31, Version::V311, Version::V5] {
        for session_present in [false, true] {
            let mut peer = Peer::new(version);
            peer.connect(|connect| connect.clean_start = false);
            peer.open();
            peer.effect(Effect::Opened(Opened { session_present, ..opened() }));
            let flags = peer.bytes()[2];
            assert_eq!(flags, u8::from(session_present && version != Version::V31));
        }
    }
}
