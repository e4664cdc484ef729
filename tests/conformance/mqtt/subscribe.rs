//! §3.8 to §3.11: SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK; §3.12 PINGREQ.

use super::*;
use fluxmq::model::command::RetainHandling;
use fluxmq::model::{AddressError, Filter};

fn unsubscribe(packet_id: u16, filters: &[&str]) -> Packet {
    Packet::Unsubscribe(Unsubscribe {
        packet_id,
        properties: PropertyList::default(),
        filters: filters.iter().map(|filter| text(filter)).collect(),
    })
}

fn suback(peer: &mut Peer) -> SubAck {
    match peer.packet() {
        Packet::SubAck(suback) => suback,
        other => panic!("no SUBACK: {other:?}"),
    }
}

#[test]
fn mqtt_3_8_1_1_subscribe_has_its_flags() {
    let mut peer = Peer::connected(Version::V5);
    peer.send_bytes(b"\x80\x07\x00\x01\x00\x00\x01a\x00");
    peer.assert_disconnected(ReasonCode::MALFORMED_PACKET);
}

#[test]
fn mqtt_3_8_3_2_subscribe_needs_a_filter() {
    let mut peer = Peer::connected(Version::V5);
    peer.send_bytes(b"\x82\x03\x00\x01\x00");
    peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn mqtt_3_8_3_3_options_and_identifier_reach_the_broker() {
    let mut peer = Peer::connected(Version::V5);
    let filter = SubscribeFilter {
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::SendIfNew,
        ..SubscribeFilter::new(text("a/+/#"), QoS::ExactlyOnce)
    };
    let properties = list(&[Property::SubscriptionId(268_435_455)]);
    peer.send(Packet::Subscribe(Subscribe { packet_id: 1, properties, filters: vec![filter] }));
    let Command::Subscribe { subscriptions, .. } = peer.command() else { panic!("no Subscribe") };
    let [one] = &subscriptions[..] else { panic!("not one") };
    assert_eq!((one.filter.as_str(), one.qos), ("a/+/#", QoS::ExactlyOnce));
    assert!(one.no_local && one.retain_as_published);
    assert_eq!(one.retain_handling, RetainHandling::SendIfNew);
    assert_eq!(one.subscription_id, 268_435_455);
}

#[test]
fn mqtt_3_8_3_5_reserved_option_bits_are_malformed() {
    let mut peer = Peer::connected(Version::V5);
    peer.send_bytes(b"\x82\x07\x00\x01\x00\x00\x01a\x40");
    peer.assert_disconnected(ReasonCode::MALFORMED_PACKET);
    let mut old = Peer::connected(Version::V311);
    old.send_bytes(b"\x82\x06\x00\x01\x00\x01a\x04");
    old.assert_closed_silently();
}

#[test]
fn mqtt_3_8_4_1_suback_follows_the_broker_with_the_same_number() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Subscribe(subscribe(77, &["a"])));
    let Command::Subscribe { token, .. } = peer.command() else { panic!("no Subscribe") };
    assert_eq!(peer.packets(), []);
    peer.effect(Effect::Subscribed { token, results: vec![Ok(QoS::AtMostOnce)] });
    // [MQTT-3.8.4-2], [MQTT-3.8.4-7]
    let suback = suback(&mut peer);
    assert_eq!((suback.packet_id, suback.reasons), (77, vec![ReasonCode::SUCCESS]));
}

#[test]
fn mqtt_3_8_4_6_there_is_one_code_for_each_filter_in_order() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Subscribe(subscribe(1, &["a", "b#", "c", "d", "e", ""])));
    let Command::Subscribe { token, subscriptions } = peer.command() else {
        panic!("no Subscribe")
    };
    assert_eq!(subscriptions.len(), 4, "malformed ones are not asked for");
    let results = vec![
        Ok(QoS::ExactlyOnce),
        Err(Refusal::NotAuthorized),
        Err(Refusal::Quota { limit: "subscriptions" }),
        Ok(QoS::AtLeastOnce),
    ];
    peer.effect(Effect::Subscribed { token, results });
    assert_eq!(
        suback(&mut peer).reasons,
        [
            ReasonCode::GRANTED_QOS_2,
            ReasonCode::TOPIC_FILTER_INVALID,
            ReasonCode::NOT_AUTHORIZED,
            ReasonCode::QUOTA_EXCEEDED,
            ReasonCode::GRANTED_QOS_1,
            ReasonCode::TOPIC_FILTER_INVALID,
        ]
    );
}

#[test]
fn mqtt_311_3_9_3_2_every_failure_is_0x80() {
    let mut peer = Peer::connected(Version::V311);
    peer.send(Packet::Subscribe(subscribe(1, &["a", "b#"])));
    let Command::Subscribe { token, .. } = peer.command() else { panic!("no Subscribe") };
    peer.effect(Effect::Subscribed { token, results: vec![Err(Refusal::NotAuthorized)] });
    assert_eq!(peer.bytes(), b"\x90\x04\x00\x01\x80\x80"[..]);
}

#[test]
fn mqtt_3_8_4_5_many_filters_make_one_command_and_one_answer() {
    let mut peer = Peer::connected(Version::V5);
    let names: Vec<_> = (0..1_000).map(|number| format!("t/{number}")).collect();
    let filters: Vec<_> = names.iter().map(String::as_str).collect();
    peer.send(Packet::Subscribe(subscribe(1, &filters)));
    let Command::Subscribe { token, .. } = peer.command() else { panic!("no Subscribe") };
    peer.effect(Effect::Subscribed { token, results: vec![Ok(QoS::AtLeastOnce); 1_000] });
    assert_eq!(suback(&mut peer).reasons.len(), 1_000);
}

#[test]
fn more_than_a_thousand_filters_are_too_many() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Subscribe(subscribe(1, &["t"; 1_001])));
    peer.assert_disconnected(ReasonCode::QUOTA_EXCEEDED);
}

#[test]
fn mqtt_4_7_1_misplaced_wildcards_are_refused() {
    for filter in ["a#", "#/a", "a/b+", "$share", "$share/g"] {
        let mut peer = Peer::connected(Version::V5);
        peer.send(Packet::Subscribe(subscribe(1, &[filter])));
        assert_eq!(suback(&mut peer).reasons, [ReasonCode::TOPIC_FILTER_INVALID], "{filter}");
        assert_eq!(peer.commands(), []);
    }
}

#[test]
fn mqtt_3_9_2_1_the_first_refusal_is_explained() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Subscribe(subscribe(1, &["a", "b"])));
    let Command::Subscribe { token, .. } = peer.command() else { panic!("no Subscribe") };
    let results = vec![Ok(QoS::AtMostOnce), Err(Refusal::Unsupported { what: "this" })];
    peer.effect(Effect::Subscribed { token, results });
    let text = Property::ReasonString(text("this is not supported"));
    assert_eq!(suback(&mut peer).properties, list(&[text]));
}

#[test]
fn mqtt_3_10_3_2_unsubscribe_needs_a_filter() {
    let mut peer = Peer::connected(Version::V311);
    peer.send_bytes(b"\xA2\x02\x00\x01");
    peer.assert_closed_silently();
}

#[test]
fn mqtt_3_10_4_1_filters_reach_the_broker_as_written() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(unsubscribe(1, &["a/+", "$share/g/$queue/q"]));
    let Command::Unsubscribe { filters, .. } = peer.command() else { panic!("no Unsubscribe") };
    let written: Vec<_> = filters.iter().map(Filter::as_str).collect();
    assert_eq!(written, ["a/+", "$share/g/$queue/q"]);
}

#[test]
fn a_denied_subscription_is_told_the_reason_or_none_as_configured() {
    for (denied_subscribe, version, reason, tells) in [
        (DeniedSubscribe::Reason, Version::V5, ReasonCode::NOT_AUTHORIZED, true),
        (DeniedSubscribe::Unspecified, Version::V5, ReasonCode::UNSPECIFIED_ERROR, false),
        (DeniedSubscribe::Reason, Version::V311, ReasonCode::UNSPECIFIED_ERROR, false),
    ] {
        let settings = Settings { denied_subscribe, ..settings() };
        let mut peer = Peer::connected_with(version, settings, |_| {});
        peer.send(Packet::Subscribe(subscribe(7, &["a"])));
        let Command::Subscribe { token, .. } = peer.command() else { panic!("no Subscribe") };
        peer.effect(Effect::Subscribed { token, results: vec![Err(Refusal::NotAuthorized)] });

        let suback = suback(&mut peer);

        assert_eq!(suback.reasons, [reason], "{denied_subscribe:?}");
        let text = format!("{:?}", suback.properties);
        assert_eq!(text.contains("authorized"), tells, "{text}");
    }
}

#[test]
fn mqtt_3_10_4_5_unsuback_follows_even_when_nothing_was_subscribed() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(unsubscribe(9, &["a", "b", "c#"]));
    let Command::Unsubscribe { token, .. } = peer.command() else { panic!("no Unsubscribe") };
    peer.effect(Effect::Unsubscribed { token, results: vec![Ok(true), Ok(false)] });
    let Packet::UnsubAck(unsuback) = peer.packet() else { panic!("no UNSUBACK") };
    assert_eq!(unsuback.packet_id, 9);
    // [MQTT-3.11.3-1]
    assert_eq!(
        unsuback.reasons,
        [
            ReasonCode::SUCCESS,
            ReasonCode::NO_SUBSCRIPTION_EXISTED,
            ReasonCode::TOPIC_FILTER_INVALID
        ]
    );
}

#[test]
fn mqtt_311_3_10_4_4_unsuback_has_no_payload() {
    let mut peer = Peer::connected(Version::V311);
    peer.send(unsubscribe(9, &["a", "b"]));
    let Command::Unsubscribe { token, .. } = peer.command() else { panic!("no Unsubscribe") };
    let refused = Err(Refusal::Address(AddressError::Empty));
    peer.effect(Effect::Unsubscribed { token, results: vec![Ok(true), refused] });
    assert_eq!(peer.bytes(), b"\xB0\x02\x00\x09"[..]);
}

#[test]
fn an_answer_shorter_than_the_question_fails_the_rest() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Subscribe(subscribe(1, &["a", "b"])));
    let Command::Subscribe { token, .. } = peer.command() else { panic!("no Subscribe") };
    peer.effect(Effect::Subscribed { token, results: vec![Ok(QoS::AtMostOnce)] });
    let reasons = suback(&mut peer).reasons;
    assert_eq!(reasons, [ReasonCode::SUCCESS, ReasonCode::UNSPECIFIED_ERROR]);
}

#[test]
fn mqtt_3_12_4_1_pingreq_is_answered() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut peer = Peer::connected(version);
        peer.send(Packet::PingReq);
        assert_eq!(peer.packet(), Packet::PingResp);
    }
}

#[test]
fn a_client_that_asks_without_reading_is_not_read_any_more() {
    let mut peer = Peer::connected(Version::V311);
    for _ in 0..40_000 {
        peer.send(Packet::PingReq);
    }
    assert!(!peer.connection.wants_input() && !peer.input.is_empty());
    let bytes = peer.bytes();
    assert!(bytes.len() < (64 << 10) + 100, "{}", bytes.len());
    assert_eq!(peer.connection.poll_timeout(), Some(peer.now), "what was left wants to be read");
    peer.send_bytes(b"");
    assert_eq!(peer.connection.poll_timeout(), None);
    assert!(peer.input.is_empty() && peer.connection.wants_input());
}
