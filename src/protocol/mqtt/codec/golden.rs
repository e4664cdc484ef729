//! Packets written out by hand from the figures of the specification, and what breaks its rules.

use bytes::{Bytes, BytesMut};

use super::*;
use crate::model::QoS;
use crate::model::command::RetainHandling;
use crate::protocol::mqtt::property::{Property, PropertyList};
use crate::protocol::mqtt::types::*;

fn decoded(bytes: &[u8], version: Option<Version>) -> Result<Option<Packet>, DecodeError> {
    decode(&mut BytesMut::from(bytes), version, &Limits::default())
}

fn encoded(packet: &Packet, version: Version) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    out.to_vec()
}

fn both_ways(bytes: &[u8], version: Version, packet: Packet) {
    assert_eq!(decoded(bytes, Some(version)), Ok(Some(packet.clone())));
    assert_eq!(encoded(&packet, version), bytes);
}

fn refused(bytes: &[u8], version: Version) -> ReasonCode {
    decoded(bytes, Some(version)).expect_err("these bytes are wrong").reason()
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn connect_of_figure_3_6_has_the_variable_header_of_the_specification() {
    // §3.1.2.12: MQTT, 5, flags 0xCE, keep alive 10, session expiry interval 10.
    let mut bytes = vec![0x10, 0];
    bytes.extend_from_slice(b"\x00\x04MQTT\x05\xCE\x00\x0A\x05\x11\x00\x00\x00\x0A");
    bytes.extend_from_slice(b"\x00\x02id\x00\x00\x01w\x00\x02hi\x00\x01u\x00\x01p");
    // The figure's flags ask for user name, password, will QoS 1, will and clean start.
    bytes[1] = bytes.len() as u8 - 2;
    let connect = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive_s: 10,
        client_id: text("id"),
        will: Some(Will {
            topic: text("w"),
            payload: text("hi"),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: PropertyList::default(),
        }),
        username: Some(text("u")),
        password: Some(text("p")),
        properties: [Property::SessionExpiry(10)].into_iter().collect(),
    };
    assert_eq!(decoded(&bytes, None), Ok(Some(Packet::Connect(Box::new(connect.clone())))));
    assert_eq!(encoded(&Packet::Connect(Box::new(connect)), Version::V5), bytes);
}

#[test]
fn connect_of_3_1_has_its_own_name() {
    let bytes = b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c";
    let Ok(Some(Packet::Connect(connect))) = decoded(bytes, None) else { panic!("no CONNECT") };
    assert_eq!(connect.version, Version::V31);
    assert_eq!((connect.keep_alive_s, &connect.client_id[..]), (60, &b"c"[..]));
    assert_eq!(encoded(&Packet::Connect(connect), Version::V31), bytes);
}

#[test]
fn other_levels_are_named_and_other_names_are_malformed() {
    let level = |level| decoded(&[0x10, 7, 0, 4, b'M', b'Q', b'T', b'T', level], None);
    assert_eq!(level(6), Err(DecodeError::UnsupportedVersion { level: 6 }));
    assert_eq!(level(3), Err(DecodeError::UnsupportedVersion { level: 3 }));
    let name = decoded(b"\x10\x07\x00\x04AMQP\x05", None);
    assert_eq!(name.unwrap_err().reason(), ReasonCode::MALFORMED_PACKET);
}

#[test]
fn publish_of_figure_3_9_comes_back() {
    // §3.3.2.2: topic a/b, packet identifier 10, no properties.
    both_ways(
        b"\x32\x08\x00\x03a/b\x00\x0A\x00",
        Version::V5,
        Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: text("a/b"),
            packet_id: 10,
            properties: PropertyList::default(),
            payload: Bytes::new(),
        }),
    );
}

#[test]
fn every_property_of_publish_is_carried_in_its_order() {
    let section: &[u8] = b"\x26\x00\x01a\x00\x01b\x01\x01\x02\x00\x00\x00\x09\x23\x00\x05\
        \x08\x00\x01r\x09\x00\x02\x00\xFF\x26\x00\x01a\x00\x01c\x0B\x80\x01\x0B\x07\x03\x00\x01t";
    let mut bytes = vec![0x3B, section.len() as u8 + 7, 0, 1, b't', 0, 1, section.len() as u8];
    bytes.extend_from_slice(section);
    bytes.push(b'!');
    let Ok(Some(Packet::Publish(publish))) = decoded(&bytes, Some(Version::V5)) else {
        panic!("no PUBLISH")
    };
    let list: Vec<_> = publish.properties.iter().collect();
    assert_eq!(
        list,
        [
            Property::User(text("a"), text("b")),
            Property::PayloadFormat(true),
            Property::MessageExpiry(9),
            Property::TopicAlias(5),
            Property::ResponseTopic(text("r")),
            Property::CorrelationData(Bytes::from_static(b"\x00\xFF")),
            Property::User(text("a"), text("c")),
            Property::SubscriptionId(128),
            Property::SubscriptionId(7),
            Property::ContentType(text("t")),
        ]
    );
    assert_eq!(list.into_iter().collect::<PropertyList>(), publish.properties);
    assert_eq!(encoded(&Packet::Publish(publish), Version::V5), bytes);
}

#[test]
fn acknowledgements_have_three_lengths() {
    let ack = |reason, properties: &[Property]| Ack {
        packet_id: 0x0102,
        reason,
        properties: properties.iter().cloned().collect(),
    };
    let success = ReasonCode::SUCCESS;
    both_ways(b"\x40\x02\x01\x02", Version::V311, Packet::PubAck(ack(success, &[])));
    both_ways(b"\x50\x02\x01\x02", Version::V5, Packet::PubRec(ack(success, &[])));
    both_ways(
        b"\x62\x03\x01\x02\x92",
        Version::V5,
        Packet::PubRel(ack(ReasonCode::PACKET_IDENTIFIER_NOT_FOUND, &[])),
    );
    both_ways(
        b"\x40\x08\x01\x02\x97\x04\x1F\x00\x01x",
        Version::V5,
        Packet::PubAck(ack(ReasonCode::QUOTA_EXCEEDED, &[Property::ReasonString(text("x"))])),
    );
}

#[test]
fn subscribe_of_figure_3_22_comes_back() {
    // §3.8.3: a/b with QoS 1, c/d with QoS 2; packet identifier 10.
    let filters = vec![
        SubscribeFilter::new(text("a/b"), QoS::AtLeastOnce),
        SubscribeFilter::new(text("c/d"), QoS::ExactlyOnce),
    ];
    let packet = Subscribe { packet_id: 10, properties: PropertyList::default(), filters };
    both_ways(
        b"\x82\x0E\x00\x0A\x00\x03a/b\x01\x00\x03c/d\x02",
        Version::V311,
        Packet::Subscribe(packet),
    );
    let options = SubscribeFilter {
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DontSend,
        ..SubscribeFilter::new(text("#"), QoS::AtLeastOnce)
    };
    let properties = [Property::SubscriptionId(300)].into_iter().collect();
    let packet = Subscribe { packet_id: 1, properties, filters: vec![options] };
    both_ways(
        b"\x82\x0A\x00\x01\x03\x0B\xAC\x02\x00\x01#\x2D",
        Version::V5,
        Packet::Subscribe(packet),
    );
}

#[test]
fn the_small_packets_have_the_bytes_of_the_specification() {
    both_ways(b"\xC0\x00", Version::V311, Packet::PingReq);
    both_ways(b"\xD0\x00", Version::V5, Packet::PingResp);
    both_ways(b"\xE0\x00", Version::V311, Packet::Disconnect(Disconnect::default()));
    let takeover = Disconnect { reason: ReasonCode(0x8E), ..Disconnect::default() };
    both_ways(b"\xE0\x01\x8E", Version::V5, Packet::Disconnect(takeover));
    let connack = ConnAck { session_present: true, ..ConnAck::default() };
    both_ways(b"\x20\x02\x01\x00", Version::V311, Packet::ConnAck(connack.clone()));
    both_ways(b"\x20\x03\x01\x00\x00", Version::V5, Packet::ConnAck(connack));
    let properties = [Property::AuthenticationMethod(text("M"))].into_iter().collect();
    let auth = Auth { reason: ReasonCode::CONTINUE_AUTHENTICATION, properties };
    both_ways(b"\xF0\x06\x18\x04\x15\x00\x01M", Version::V5, Packet::Auth(auth));
    let suback = SubAck {
        packet_id: 3,
        properties: PropertyList::default(),
        reasons: vec![ReasonCode(1), ReasonCode(0x80)],
    };
    both_ways(b"\x90\x04\x00\x03\x01\x80", Version::V311, Packet::SubAck(suback));
    let unsuback =
        UnsubAck { packet_id: 3, properties: PropertyList::default(), reasons: Vec::new() };
    both_ways(b"\xB0\x02\x00\x03", Version::V311, Packet::UnsubAck(unsuback));
}

#[test]
fn what_cannot_be_parsed_is_0x81() {
    let v5: [&[u8]; 14] = [
        b"\x00\x00",                          // type 0
        b"\x36\x05\x00\x01a\x00\x01",         // QoS 3
        b"\x38\x03\x00\x01a",                 // DUP with QoS 0
        b"\x60\x02\x00\x01",                  // PUBREL without its flags
        b"\x42\x02\x00\x01",                  // PUBACK with flags
        b"\x40\x02\x00\x00",                  // packet identifier 0
        b"\x30\xFF\xFF\xFF\xFF\x01",          // five bytes of length
        b"\x30\x84\x00\x00\x01a\x00",         // length longer than needed
        b"\x30\x04\x00\x01\x00\x00",          // U+0000
        b"\x30\x06\x00\x03\xED\xA0\x80\x00",  // a surrogate
        b"\x30\x04\x00\x09a\x00",             // topic past the end
        b"\x30\x06\x00\x01a\x02\x7F\x00",     // unknown property
        b"\x30\x07\x00\x01a\x03\x21\x00\x01", // receive maximum in PUBLISH
        b"\x30\x0B\x00\x01a\x80\x00payload",  // property length longer than needed
    ];
    for bytes in v5 {
        assert_eq!(refused(bytes, Version::V5), ReasonCode::MALFORMED_PACKET, "{bytes:02X?}");
    }
    for bytes in [&b"\xF0\x00"[..], b"\xC0\x01x", b"\x82\x06\x00\x01\x00\x01a\x04"] {
        assert_eq!(refused(bytes, Version::V311), ReasonCode::MALFORMED_PACKET, "{bytes:02X?}");
    }
}

#[test]
fn what_is_not_allowed_is_0x82() {
    let v5: [&[u8]; 9] = [
        b"\x30\x08\x00\x01a\x04\x01\x01\x01\x01", // payload format twice
        b"\x30\x06\x00\x01a\x02\x01\x02",         // payload format 2
        b"\x30\x06\x00\x01a\x02\x0B\x00",         // subscription identifier 0
        b"\x30\x08\x00\x01a\x04\x08\x00\x01#",    // wildcard in the response topic
        b"\x82\x03\x00\x01\x00",                  // no filter
        b"\xA2\x03\x00\x01\x00",                  // no filter
        b"\x82\x07\x00\x01\x00\x00\x01a\x30",     // retain handling 3
        b"\x40\x03\x00\x01\x92",                  // a reason of PUBREL
        b"\xE0\x01\x01",                          // a reason of nobody
    ];
    for bytes in v5 {
        assert_eq!(refused(bytes, Version::V5), ReasonCode::PROTOCOL_ERROR, "{bytes:02X?}");
    }
    let first = decoded(b"\xC0\x00", None).unwrap_err();
    assert_eq!(first.reason(), ReasonCode::PROTOCOL_ERROR);
    let alias = refused(b"\x30\x07\x00\x01a\x03\x23\x00\x00", Version::V5);
    assert_eq!(alias, ReasonCode::TOPIC_ALIAS_INVALID);
}

#[test]
fn connect_flags_that_contradict_each_other_are_malformed() {
    for (level, flags) in [(4, 0x01), (5, 0x08), (5, 0x20), (5, 0x1C), (4, 0x40)] {
        let mut bytes = b"\x10\x10\x00\x04MQTT".to_vec();
        bytes.extend_from_slice(&[level, flags, 0, 0, 0, 0, 0, 0, 0, 0]);
        let error = decoded(&bytes, None).unwrap_err();
        assert_eq!(error.reason(), ReasonCode::MALFORMED_PACKET, "{flags:02X}");
    }
}

#[test]
fn the_declared_length_is_judged_before_the_body_is_there() {
    let limits = Limits { packet_bytes_max: 100, connect_bytes_max: 50, ..Limits::default() };
    let judge = |bytes: &[u8], version| decode(&mut BytesMut::from(bytes), version, &limits);
    assert_eq!(judge(b"\x30\x62", Some(Version::V5)), Ok(None));
    let large = DecodeError::PacketTooLarge { bytes: 101, bytes_max: 100 };
    assert_eq!(judge(b"\x30\x63", Some(Version::V5)), Err(large.clone()));
    assert_eq!(large.reason(), ReasonCode::PACKET_TOO_LARGE);
    let connect = DecodeError::PacketTooLarge { bytes: 51, bytes_max: 50 };
    assert_eq!(judge(b"\x10\x31", None), Err(connect));
}

#[test]
fn small_clients_of_3_1_1_may_write_long_lengths() {
    let long = decoded(b"\x30\x83\x00\x00\x01a", Some(Version::V311));
    assert!(matches!(long, Ok(Some(Packet::Publish(_)))), "{long:?}");
}

#[test]
fn user_properties_are_limited() {
    let with = |count: usize, bytes: usize| -> Result<Option<Packet>, DecodeError> {
        let value = Bytes::from(vec![b'v'; bytes]);
        let user = |_| Property::User(Bytes::new(), value.clone());
        let packet =
            Disconnect { properties: (0..count).map(user).collect(), ..Default::default() };
        decoded(&encoded(&Packet::Disconnect(packet), Version::V5), Some(Version::V5))
    };
    assert!(with(64, 128).is_ok());
    assert_eq!(with(65, 1).unwrap_err().reason(), ReasonCode::QUOTA_EXCEEDED);
    assert_eq!(with(64, 129).unwrap_err().reason(), ReasonCode::QUOTA_EXCEEDED);
}
