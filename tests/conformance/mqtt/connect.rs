//! §3.1 CONNECT.

use super::*;

fn will() -> Will {
    Will {
        topic: text("gone"),
        payload: text("bye"),
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: PropertyList::default(),
    }
}

/// The CONNACK that refuses, and that nothing was opened.
fn refusal(peer: &mut Peer) -> ConnAck {
    assert!(peer.is_closed());
    let Packet::ConnAck(connack) = peer.packet() else { panic!("no CONNACK") };
    assert_eq!(peer.commands(), []);
    connack
}

#[test]
fn mqtt_3_1_0_1_the_first_packet_must_be_connect() {
    let mut peer = Peer::new(Version::V5);
    peer.send(Packet::PingReq);
    peer.assert_closed_silently();
    assert_eq!(peer.commands(), []);
}

#[test]
fn mqtt_3_1_0_2_a_second_connect_is_a_protocol_error() {
    let mut peer = Peer::connected(Version::V5);
    peer.connect(|_| {});
    peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn mqtt_3_1_0_2_a_second_connect_of_another_version_is_one_too() {
    let mut peer = Peer::connected(Version::V5);
    peer.send_bytes(b"\x10\x07\x00\x04MQTT\x09");
    peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn mqtt_3_1_2_1_another_protocol_name_is_closed_without_an_answer() {
    let mut peer = Peer::new(Version::V5);
    peer.send_bytes(b"\x10\x07\x00\x04HTTP\x05");
    peer.assert_closed_silently();
}

#[test]
fn mqtt_3_1_2_2_a_newer_version_is_answered_with_0x84() {
    let mut peer = Peer::new(Version::V5);
    peer.send_bytes(b"\x10\x07\x00\x04MQTT\x06");
    assert_eq!(refusal(&mut peer).reason, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
}

#[test]
fn mqtt_311_3_1_2_2_another_old_level_is_answered_with_return_code_1() {
    for level in [1, 2, 3, 0x84] {
        let mut peer = Peer::new(Version::V311);
        peer.send_bytes(&[0x10, 7, 0, 4, b'M', b'Q', b'T', b'T', level]);
        assert_eq!(peer.bytes(), b"\x20\x02\x00\x01"[..], "{level}");
        assert!(peer.is_closed());
    }
}

#[test]
fn mqtt_3_1_2_3_the_reserved_flag_closes_the_connection() {
    let mut peer = Peer::new(Version::V311);
    peer.send_bytes(b"\x10\x0D\x00\x04MQTT\x04\x03\x00\x00\x00\x01c");
    peer.assert_closed_silently();
}

#[test]
fn mqtt_3_1_2_4_clean_start_reaches_the_broker() {
    for clean_start in [true, false] {
        let mut peer = Peer::new(Version::V5);
        peer.connect(|connect| connect.clean_start = clean_start);
        let open = peer.open();
        assert_eq!((open.clean_start, open.session_expiry_s), (clean_start, 0));
    }
}

#[test]
fn mqtt_311_3_1_2_4_a_session_that_is_not_clean_lives_as_long_as_allowed() {
    let mut peer = Peer::new(Version::V311);
    peer.connect(|connect| connect.clean_start = false);
    assert_eq!(peer.open().session_expiry_s, settings().session_expiry_max_s);
    let mut peer = Peer::new(Version::V311);
    peer.connect(|_| {});
    assert_eq!(peer.open().session_expiry_s, 0);
}

#[test]
fn mqtt_3_1_2_7_the_will_reaches_the_broker_with_everything_it_has() {
    let mut peer = Peer::new(Version::V5);
    peer.connect(|connect| {
        let properties = list(&[
            Property::WillDelay(5),
            Property::MessageExpiry(60),
            user("a", "1"),
            Property::ContentType(text("text/plain")),
            user("_flux.x", "stripped"),
        ]);
        connect.will = Some(Will { properties, ..will() });
    });
    let will = peer.open().will.expect("there is a will");
    assert_eq!(will.delay_s, 5);
    assert_eq!(will.message.topic.as_str(), "gone");
    assert_eq!((will.message.qos, will.message.retain), (QoS::AtLeastOnce, true));
    assert_eq!(will.message.expiry_s, Some(60));
    let properties: Vec<_> = will.message.properties.iter().collect();
    assert_eq!(
        properties,
        [
            fluxmq::model::Property::User(text("a"), text("1")),
            fluxmq::model::Property::ContentType(text("text/plain")),
        ]
    );
}

#[test]
fn mqtt_3_1_2_11_and_13_will_flags_without_a_will_close_the_connection() {
    for flags in [0x0A, 0x22] {
        let mut peer = Peer::new(Version::V311);
        peer.send_bytes(b"\x10\x0D\x00\x04MQTT\x04");
        peer.send_bytes(&[flags, 0, 0, 0, 1, b'c']);
        peer.assert_closed_silently();
    }
}

#[test]
fn mqtt_311_3_1_2_22_a_password_without_a_user_name_closes_the_connection() {
    let mut peer = Peer::new(Version::V311);
    peer.connect(|connect| connect.password = Some(text("p")));
    peer.assert_closed_silently();
}

#[test]
fn mqtt_3_1_2_22_keep_alive_times_out_at_one_and_a_half() {
    let mut peer = Peer::connected_with(Version::V5, settings(), |connect| {
        connect.keep_alive_s = 10;
    });
    peer.after(14_999);
    assert!(!peer.is_closed());
    peer.after(1);
    peer.assert_disconnected(ReasonCode::KEEP_ALIVE_TIMEOUT);
    let Command::Close(close) = peer.command() else { panic!("no Close") };
    assert!(close.will, "as if the network had failed");
}

#[test]
fn mqtt_3_1_2_22_any_packet_starts_the_keep_alive_again() {
    let mut peer = Peer::connected_with(Version::V311, settings(), |connect| {
        connect.keep_alive_s = 10;
    });
    peer.after(14_000);
    peer.send(Packet::PingReq);
    peer.after(14_999);
    assert!(!peer.is_closed());
    peer.after(1);
    assert!(peer.is_closed());
}

#[test]
fn mqtt_3_1_2_22_drops_of_a_partial_packet_are_no_packet() {
    let mut peer = Peer::connected_with(Version::V311, settings(), |connect| {
        connect.keep_alive_s = 10;
    });
    peer.send_bytes(b"\x30\x64");
    peer.after(10_000);
    peer.send_bytes(b"\x00");
    peer.after(5_000);
    assert!(peer.is_closed());
}

#[test]
fn mqtt_3_1_2_22_a_keep_alive_of_0_never_times_out() {
    let peer = Peer::connected(Version::V5);
    assert_eq!(peer.connection.poll_timeout(), None);
}

#[test]
fn mqtt_3_1_2_23_the_session_expiry_is_capped() {
    let mut peer = Peer::new(Version::V5);
    peer.connect(|connect| connect.properties = list(&[Property::SessionExpiry(u32::MAX)]));
    assert_eq!(peer.open().session_expiry_s, settings().session_expiry_max_s);
    let mut peer = Peer::new(Version::V5);
    peer.connect(|connect| connect.properties = list(&[Property::SessionExpiry(30)]));
    assert_eq!(peer.open().session_expiry_s, 30);
}

#[test]
fn mqtt_3_3_4_9_the_window_is_the_smaller_of_both() {
    for (receive_max, window) in [(3, 3), (1_000, 64)] {
        let mut peer = Peer::new(Version::V5);
        peer.connect(|connect| {
            connect.properties = list(&[Property::ReceiveMaximum(receive_max)]);
        });
        assert_eq!(peer.open().inflight_max, window);
    }
}

#[test]
fn mqtt_3_1_3_5_usual_client_ids_are_accepted() {
    for id in ["a", "0123456789abcdefghijkABCDEF", "ünicode/+#"] {
        let mut peer = Peer::new(Version::V5);
        peer.connect(|connect| connect.client_id = text(id));
        assert_eq!(peer.open().client_id, text(id));
    }
}

#[test]
fn mqtt_3_1_3_6_an_empty_client_id_gets_the_one_prepared() {
    for (version, clean_start) in [(Version::V311, true), (Version::V5, true), (Version::V5, false)]
    {
        let mut peer = Peer::new(version);
        peer.connect(|connect| {
            connect.client_id = Bytes::new();
            connect.clean_start = clean_start;
        });
        assert_eq!(peer.open().client_id, "auto-7f");
    }
}

#[test]
fn mqtt_311_3_1_3_8_an_empty_client_id_needs_a_clean_session() {
    for (version, clean_start) in [(Version::V311, false), (Version::V31, true)] {
        let mut peer = Peer::new(version);
        peer.connect(|connect| {
            connect.client_id = Bytes::new();
            connect.clean_start = clean_start;
        });
        assert_eq!(refusal(&mut peer).reason, ReasonCode::V3_IDENTIFIER_REJECTED);
    }
}

#[test]
fn mqtt_3_1_3_8_a_client_id_that_is_too_long_is_refused() {
    let long = "x".repeat(257);
    let mut peer = Peer::new(Version::V5);
    peer.connect(|connect| connect.client_id = text(&long));
    assert_eq!(refusal(&mut peer).reason, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    // [MQTT-3.1.3-9] of 3.1.1.
    let mut peer = Peer::new(Version::V311);
    peer.connect(|connect| connect.client_id = text(&long));
    assert_eq!(refusal(&mut peer).reason, ReasonCode::V3_IDENTIFIER_REJECTED);
    let mut peer = Peer::new(Version::V311);
    peer.connect(|connect| connect.client_id = text(&long[1..]));
    assert_eq!(peer.open().client_id.len(), 256);
}

#[test]
fn mqtt_3_1_3_11_a_will_topic_must_be_one_that_can_be_published() {
    for (topic, reason) in [
        ("$SYS/x", ReasonCode::TOPIC_NAME_INVALID),
        ("$queue/q/$ack", ReasonCode::TOPIC_NAME_INVALID),
        ("a/#", ReasonCode::MALFORMED_PACKET),
    ] {
        let mut peer = Peer::new(Version::V5);
        peer.connect(|connect| connect.will = Some(Will { topic: text(topic), ..will() }));
        assert_eq!(refusal(&mut peer).reason, reason, "{topic}");
    }
    let mut peer = Peer::new(Version::V311);
    peer.connect(|connect| connect.will = Some(Will { topic: text("$SYS/x"), ..will() }));
    peer.assert_closed_silently();
}

#[test]
fn mqtt_3_1_4_2_a_client_that_is_not_admitted_hears_why_in_its_version() {
    let cases = [
        (Refusal::CredentialsNeeded, ReasonCode::NOT_AUTHORIZED, ReasonCode::V3_NOT_AUTHORIZED),
        (Refusal::NotAuthorized, ReasonCode::NOT_AUTHORIZED, ReasonCode::V3_NOT_AUTHORIZED),
        (Refusal::NotOwner, ReasonCode::NOT_AUTHORIZED, ReasonCode::V3_NOT_AUTHORIZED),
        (
            Refusal::BadCredentials,
            ReasonCode::BAD_USER_NAME_OR_PASSWORD,
            ReasonCode::V3_BAD_USER_NAME_OR_PASSWORD,
        ),
        (
            Refusal::Throttled,
            ReasonCode::CONNECTION_RATE_EXCEEDED,
            ReasonCode::V3_SERVER_UNAVAILABLE,
        ),
        (Refusal::Busy, ReasonCode::SERVER_BUSY, ReasonCode::V3_SERVER_UNAVAILABLE),
    ];
    for (why, reason, return_code) in cases {
        for (version, expected) in [(Version::V5, reason), (Version::V311, return_code)] {
            let mut peer = Peer::new(version);
            peer.connect(|_| {});
            peer.open();
            peer.effect(Effect::OpenRefused(why.clone()));
            assert_eq!(refusal(&mut peer).reason, expected, "{why}");
        }
    }
}

#[test]
fn credentials_go_to_the_broker_as_they_are_and_are_never_printed() {
    let mut peer = Peer::new(Version::V311);
    peer.connect(|connect| {
        connect.username = Some(text("u"));
        connect.password = Some(text("hunter2"));
    });

    let open = peer.open();

    let password = text("hunter2").into();
    assert_eq!(open.credentials, Credentials::Password { user: text("u"), password });
    assert!(!format!("{open:?}").contains("hunter2"));
    let mut anonymous = Peer::new(Version::V5);
    anonymous.connect(|_| {});
    assert_eq!(anonymous.open().credentials, Credentials::None);
}

/// MQTT 5 §3.1.2.9: what 3.1.1 forbids [MQTT-3.1.2-22], 5.0 has for secrets that need no name.
#[test]
fn a_password_without_a_user_name_is_taken_in_5_0() {
    let mut peer = Peer::new(Version::V5);
    peer.connect(|connect| connect.password = Some(text("token")));
    let expected = Credentials::Password { user: Bytes::new(), password: text("token").into() };
    assert_eq!(peer.open().credentials, expected);
}

#[test]
fn mqtt_3_1_4_6_nothing_after_a_refused_connect_is_processed() {
    let mut peer = Peer::new(Version::V5);
    let mut bytes = BytesMut::new();
    encode(&Packet::Connect(Box::new(connect(Version::V5))), Version::V5, &mut bytes).unwrap();
    encode(&Packet::Publish(publish(QoS::AtLeastOnce, 1)), Version::V5, &mut bytes).unwrap();
    peer.send_bytes(&bytes);
    peer.open();
    peer.effect(Effect::OpenRefused(Refusal::BadCredentials));
    assert_eq!(refusal(&mut peer).reason, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    assert!(peer.input.is_empty());
}

#[test]
fn packets_sent_before_connack_wait_for_it() {
    let mut peer = Peer::new(Version::V311);
    let mut bytes = BytesMut::new();
    encode(&Packet::Connect(Box::new(connect(Version::V311))), Version::V311, &mut bytes).unwrap();
    encode(&Packet::Publish(publish(QoS::AtLeastOnce, 1)), Version::V311, &mut bytes).unwrap();
    peer.send_bytes(&bytes);
    peer.open();
    assert!(!peer.connection.wants_input());
    peer.opened(opened());
    assert!(matches!(peer.command(), Command::Publish { .. }));
}

#[test]
fn a_connection_without_connect_is_closed_after_ten_seconds() {
    let mut peer = Peer::new(Version::V5);
    peer.after(9_999);
    assert!(!peer.is_closed());
    peer.after(1);
    peer.assert_closed_silently();
    assert_eq!(peer.commands(), []);
}

#[test]
fn sixteen_kib_are_all_a_connection_may_hold_back_before_connect() {
    let mut peer = Peer::new(Version::V5);
    assert_eq!(peer.connection.input_bytes_max(), 16 << 10);
    peer.send_bytes(b"\x10\xFE\xFF\x00");
    peer.assert_closed_silently();
}
