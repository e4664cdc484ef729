//! §3.2 CONNACK.

use super::*;

fn connack(version: Version, settings: Settings, edit: impl FnOnce(&mut Connect)) -> ConnAck {
    let mut peer = Peer::with(version, settings);
    peer.connect(edit);
    peer.open();
    peer.opened(opened())
}

#[test]
fn mqtt_3_2_0_1_nothing_is_sent_before_connack() {
    let mut peer = Peer::new(Version::V5);
    peer.connect(|_| {});
    peer.open();
    peer.deliver(delivery(1, QoS::AtMostOnce));
    assert!(peer.bytes().is_empty());
    peer.effect(Effect::Opened(opened()));
    let packets = peer.packets();
    assert!(matches!(packets[..], [Packet::ConnAck(_), Packet::Publish(_)]), "{packets:?}");
}

#[test]
fn mqtt_3_2_0_2_there_is_one_connack() {
    let mut peer = Peer::connected(Version::V5);
    peer.effect(Effect::Opened(opened()));
    assert_eq!(peer.packets(), []);
}

#[test]
fn mqtt_3_2_2_3_session_present_says_what_the_broker_found() {
    for version in [Version::V311, Version::V5] {
        for session_present in [true, false] {
            let mut peer = Peer::new(version);
            peer.connect(|connect| connect.clean_start = false);
            peer.open();
            let connack = peer.opened(Opened { session_present, ..opened() });
            assert_eq!(connack.session_present, session_present);
            assert_eq!(connack.reason, ReasonCode::SUCCESS);
        }
    }
}

#[test]
fn mqtt_3_1_has_no_session_present() {
    let mut peer = Peer::new(Version::V31);
    peer.connect(|connect| connect.clean_start = false);
    peer.open();
    let connack = peer.opened(Opened { session_present: true, ..opened() });
    assert!(!connack.session_present);
}

#[test]
fn mqtt_3_2_2_6_a_refused_session_is_not_present() {
    for (version, reason) in [
        (Version::V5, ReasonCode::QUOTA_EXCEEDED),
        (Version::V311, ReasonCode::V3_SERVER_UNAVAILABLE),
    ] {
        let mut peer = Peer::new(version);
        peer.connect(|_| {});
        peer.open();
        peer.effect(Effect::OpenRefused(Refusal::Quota { limit: "connections" }));
        let Packet::ConnAck(connack) = peer.packet() else { panic!("no CONNACK") };
        assert_eq!((connack.session_present, connack.reason), (false, reason));
        // [MQTT-3.2.2-7]
        assert!(peer.is_closed());
        assert_eq!(peer.commands(), [], "what was not opened is not closed");
    }
}

#[test]
fn what_is_announced_is_what_is_delivered() {
    let connack = connack(Version::V5, settings(), |_| {});
    let announced: Vec<_> = connack.properties.iter().collect();
    assert_eq!(
        announced,
        [
            Property::ReceiveMaximum(64),
            Property::MaximumPacketSize(1 << 20),
            Property::TopicAliasMaximum(32),
        ]
    );
}

#[test]
fn mqtt_3_2_2_16_an_assigned_client_id_is_told() {
    let connack = connack(Version::V5, settings(), |connect| connect.client_id = Bytes::new());
    let assigned = Property::AssignedClientId(text("auto-7f"));
    assert!(connack.properties.iter().any(|property| property == assigned));
}

#[test]
fn mqtt_3_2_2_21_an_imposed_keep_alive_is_told_and_kept() {
    let settings = Settings { keep_alive_max_s: 20, ..settings() };
    for asked in [0, 21] {
        let mut peer = Peer::with(Version::V5, settings.clone());
        peer.connect(|connect| connect.keep_alive_s = asked);
        peer.open();
        let connack = peer.opened(opened());
        let told = Property::ServerKeepAlive(20);
        assert!(connack.properties.iter().any(|property| property == told));
        peer.after(30_000);
        peer.assert_disconnected(ReasonCode::KEEP_ALIVE_TIMEOUT);
    }
    let kept = connack(Version::V5, settings, |connect| connect.keep_alive_s = 20);
    assert!(!kept.properties.iter().any(|it| matches!(it, Property::ServerKeepAlive(_))));
}

#[test]
fn a_changed_session_expiry_is_told() {
    let ask = |seconds| {
        let connack = connack(Version::V5, settings(), |connect| {
            connect.properties = list(&[Property::SessionExpiry(seconds)]);
        });
        connack.properties.find(|property| match property {
            Property::SessionExpiry(seconds) => Some(seconds),
            _ => None,
        })
    };
    assert_eq!(ask(u32::MAX), Some(604_800));
    assert_eq!(ask(604_800), None);
}

#[test]
fn mqtt_3_1_2_28_no_response_information_is_returned() {
    let connack = connack(Version::V5, settings(), |connect| {
        connect.properties = list(&[Property::RequestResponseInformation(false)]);
    });
    assert!(!connack.properties.iter().any(|it| matches!(it, Property::ResponseInformation(_))));
}

#[test]
fn mqtt_3_1_2_29_reason_strings_are_for_those_who_want_them() {
    for wanted in [true, false] {
        let mut peer = Peer::new(Version::V5);
        peer.connect(|connect| {
            connect.properties = list(&[Property::RequestProblemInformation(wanted)]);
        });
        peer.open();
        peer.effect(Effect::OpenRefused(Refusal::BadCredentials));
        let Packet::ConnAck(connack) = peer.packet() else { panic!("no CONNACK") };
        let has_text = connack.properties.iter().any(|it| matches!(it, Property::ReasonString(_)));
        assert_eq!(has_text, wanted);
    }
}

#[test]
fn mqtt_3_2_2_19_a_reason_string_that_does_not_fit_is_left_out() {
    let mut peer = Peer::new(Version::V5);
    peer.connect(|connect| {
        connect.properties = list(&[Property::MaximumPacketSize(20)]);
    });
    peer.open();
    peer.effect(Effect::OpenRefused(Refusal::BadCredentials));
    let bytes = peer.bytes();
    assert_eq!(bytes, b"\x20\x03\x00\x86\x00"[..]);
}

#[test]
fn mqtt_311_3_2_2_connack_has_two_bytes() {
    let mut peer = Peer::new(Version::V311);
    peer.connect(|_| {});
    peer.open();
    peer.effect(Effect::Opened(opened()));
    assert_eq!(peer.bytes(), b"\x20\x02\x00\x00"[..]);
}
