//! §3.3 PUBLISH from the client, and the receiver's side of §4.3.

use super::*;
use fluxmq::model::AddressError;

fn publish_command(peer: &mut Peer) -> (Token, std::sync::Arc<Message>, Option<u16>) {
    match peer.command() {
        Command::Publish { token, message, packet_id } => (token, message, packet_id),
        other => panic!("no Publish: {other:?}"),
    }
}

fn refuse(peer: &mut Peer, token: Token, refusal: Refusal) {
    peer.effect(Effect::Confirm { token, result: Err(refusal) });
}

#[test]
fn mqtt_3_3_1_2_dup_with_qos_0_is_malformed() {
    let mut peer = Peer::connected(Version::V5);
    peer.send_bytes(b"\x38\x04\x00\x01a\x00");
    peer.assert_disconnected(ReasonCode::MALFORMED_PACKET);
}

#[test]
fn mqtt_3_3_1_4_qos_3_is_malformed() {
    let mut peer = Peer::connected(Version::V5);
    peer.send_bytes(b"\x36\x06\x00\x01a\x00\x01\x00");
    peer.assert_disconnected(ReasonCode::MALFORMED_PACKET);
}

#[test]
fn mqtt_3_3_1_5_retain_qos_and_payload_reach_the_broker() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut peer = Peer::connected(version);
        peer.send(Packet::Publish(Publish { retain: true, ..publish(QoS::AtLeastOnce, 7) }));
        let (_, message, packet_id) = publish_command(&mut peer);
        assert_eq!(message.topic.as_str(), "t/1");
        assert_eq!(message.payload, "hello");
        assert_eq!((message.qos, message.retain, packet_id), (QoS::AtLeastOnce, true, None));
        assert_eq!(message.publisher, fluxmq::model::message::publisher_id(b"c1"));
    }
}

#[test]
fn mqtt_3_3_2_2_a_topic_with_wildcards_is_malformed() {
    for topic in ["a/+", "#"] {
        let mut peer = Peer::connected(Version::V5);
        peer.send(Packet::Publish(Publish { topic: text(topic), ..publish(QoS::AtMostOnce, 0) }));
        peer.assert_disconnected(ReasonCode::MALFORMED_PACKET);
    }
}

#[test]
fn mqtt_4_7_3_1_a_topic_has_at_least_one_character() {
    for version in [Version::V311, Version::V5] {
        let mut peer = Peer::connected(version);
        peer.send(Packet::Publish(Publish { topic: text(""), ..publish(QoS::AtMostOnce, 0) }));
        match version {
            Version::V5 => peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR),
            _ => peer.assert_closed_silently(),
        }
    }
}

#[test]
fn mqtt_3_3_2_4_and_13_to_20_properties_reach_the_broker_in_their_order() {
    let mut peer = Peer::connected(Version::V5);
    let properties = list(&[
        user("b", "2"),
        Property::PayloadFormat(true),
        Property::MessageExpiry(30),
        user("a", "1"),
        Property::ResponseTopic(text("r")),
        Property::CorrelationData(Bytes::from_static(b"\x00\xFF")),
        user("b", "3"),
        Property::ContentType(text("text/plain")),
    ]);
    peer.send(Packet::Publish(Publish { properties, ..publish(QoS::AtMostOnce, 0) }));
    let (_, message, _) = publish_command(&mut peer);
    use fluxmq::model::Property as Neutral;
    assert_eq!(message.expiry_s, Some(30));
    assert_eq!(
        message.properties.iter().collect::<Vec<_>>(),
        [
            Neutral::User(text("b"), text("2")),
            Neutral::PayloadFormat(true),
            Neutral::User(text("a"), text("1")),
            Neutral::ResponseTopic(text("r")),
            Neutral::CorrelationData(Bytes::from_static(b"\x00\xFF")),
            Neutral::User(text("b"), text("3")),
            Neutral::ContentType(text("text/plain")),
        ]
    );
}

#[test]
fn delivery_properties_of_the_broker_are_stripped_from_what_clients_send() {
    let mut peer = Peer::connected(Version::V5);
    let properties = list(&[
        user("_flux.route", "x"),
        user("message-id", "q:1"),
        user("x-death-reason", "forged"),
        user("offset", "9"),
        user("mine", "kept"),
    ]);
    peer.send(Packet::Publish(Publish { properties, ..publish(QoS::AtMostOnce, 0) }));
    let (_, message, _) = publish_command(&mut peer);
    let kept = fluxmq::model::Property::User(text("mine"), text("kept"));
    assert_eq!(message.properties.iter().collect::<Vec<_>>(), [kept]);
}

fn with_alias(topic: &str, alias: u16) -> Packet {
    let properties = list(&[Property::TopicAlias(alias)]);
    Packet::Publish(Publish { topic: text(topic), properties, ..publish(QoS::AtMostOnce, 0) })
}

#[test]
fn mqtt_3_3_2_12_aliases_from_1_to_the_maximum_stand_for_their_topics() {
    let mut peer = Peer::connected(Version::V5);
    for packet in [
        with_alias("a", 1),
        with_alias("b", 32),
        with_alias("", 1),
        with_alias("", 32),
        with_alias("c", 1),
        with_alias("", 1),
    ] {
        peer.send(packet);
    }
    let topic = |command| match command {
        Command::Publish { message, .. } => message.topic.to_string(),
        other => panic!("no Publish: {other:?}"),
    };
    let topics: Vec<_> = peer.commands().into_iter().map(topic).collect();
    assert_eq!(topics, ["a", "b", "a", "b", "c", "c"]);
}

#[test]
fn mqtt_3_3_2_8_and_9_alias_0_and_those_above_the_maximum_are_invalid() {
    for alias in [0, 33, u16::MAX] {
        let mut peer = Peer::connected(Version::V5);
        peer.send(with_alias("a", alias));
        peer.assert_disconnected(ReasonCode::TOPIC_ALIAS_INVALID);
    }
}

#[test]
fn mqtt_3_3_2_7_an_alias_of_no_topic_is_a_protocol_error() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(with_alias("", 3));
    peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn topics_of_aliases_are_limited_together() {
    let mut peer = Peer::connected(Version::V5);
    let long = "x".repeat(4_000);
    (1..=16).for_each(|alias| peer.send(with_alias(&long, alias)));
    assert!(!peer.is_closed());
    // Replacing one takes nothing more.
    peer.send(with_alias(&long, 1));
    assert!(!peer.is_closed());
    peer.send(with_alias(&long, 17));
    peer.assert_disconnected(ReasonCode::QUOTA_EXCEEDED);
}

#[test]
fn mqtt_3_3_4_6_clients_do_not_send_subscription_identifiers() {
    let mut peer = Peer::connected(Version::V5);
    let properties = list(&[Property::SubscriptionId(1)]);
    peer.send(Packet::Publish(Publish { properties, ..publish(QoS::AtMostOnce, 0) }));
    peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn mqtt_3_3_4_7_more_than_the_receive_maximum_is_0x93() {
    let mut peer = Peer::connected(Version::V5);
    (1..=64).for_each(|id| peer.send(Packet::Publish(publish(QoS::AtLeastOnce, id))));
    assert!(!peer.is_closed());
    peer.send(Packet::Publish(publish(QoS::AtMostOnce, 0)));
    assert!(!peer.is_closed(), "QoS 0 does not count");
    peer.send(Packet::Publish(publish(QoS::AtLeastOnce, 65)));
    peer.assert_disconnected(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
}

#[test]
fn mqtt_3_3_4_7_qos_2_counts_until_pubcomp_and_acknowledged_ones_do_not() {
    let settings = Settings { receive_max: 2, ..settings() };
    let mut peer = Peer::connected_with(Version::V5, settings, |_| {});
    peer.send(Packet::Publish(publish(QoS::ExactlyOnce, 1)));
    peer.send(Packet::Publish(publish(QoS::AtLeastOnce, 2)));
    let tokens = peer.publish_tokens();
    peer.confirm(tokens[0]);
    peer.confirm(tokens[1]);
    // Repeating one that counts already adds nothing.
    peer.send(Packet::Publish(publish(QoS::ExactlyOnce, 1)));
    peer.send(Packet::Publish(publish(QoS::AtLeastOnce, 2)));
    assert!(!peer.is_closed());
    peer.send(Packet::Publish(publish(QoS::AtLeastOnce, 3)));
    peer.assert_disconnected(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
}

#[test]
fn mqtt_311_without_a_receive_maximum_input_waits() {
    let settings = Settings { publishes_awaiting_max: 2, ..settings() };
    let mut peer = Peer::connected_with(Version::V311, settings, |connect| {
        connect.keep_alive_s = 10;
    });
    (1..=3).for_each(|id| peer.send(Packet::Publish(publish(QoS::AtLeastOnce, id))));
    let tokens = peer.publish_tokens();
    assert_eq!(tokens.len(), 2);
    assert!(!peer.connection.wants_input() && !peer.input.is_empty());
    peer.after(15_000);
    assert!(!peer.is_closed(), "the silence is the broker's");
    peer.confirm(tokens[0]);
    assert!(peer.input.is_empty());
    assert_eq!(peer.publish_tokens().len(), 1);
}

#[test]
fn mqtt_4_3_1_qos_0_is_not_answered() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Publish(publish(QoS::AtMostOnce, 0)));
    let (_, message, packet_id) = publish_command(&mut peer);
    assert_eq!((message.qos, packet_id), (QoS::AtMostOnce, None));
    assert_eq!(peer.packets(), []);
}

#[test]
fn mqtt_4_3_2_4_puback_follows_the_commit_and_nothing_else() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Publish(publish(QoS::AtLeastOnce, 5)));
    let (token, ..) = publish_command(&mut peer);
    assert_eq!(peer.packets(), []);
    peer.confirm(token);
    assert_eq!(peer.packet(), Packet::PubAck(ack(5)));
}

#[test]
fn mqtt_4_3_2_5_after_puback_the_same_number_is_another_message() {
    let mut peer = Peer::connected(Version::V5);
    for dup in [false, true] {
        peer.send(Packet::Publish(Publish { dup, ..publish(QoS::AtLeastOnce, 5) }));
        let (token, ..) = publish_command(&mut peer);
        peer.confirm(token);
        assert_eq!(peer.packet(), Packet::PubAck(ack(5)));
    }
}

#[test]
fn mqtt_3_4_2_1_nobody_subscribes_is_0x10() {
    for (version, reason) in
        [(Version::V5, ReasonCode::NO_MATCHING_SUBSCRIBERS), (Version::V311, ReasonCode::SUCCESS)]
    {
        let mut peer = Peer::connected(version);
        peer.send(Packet::Publish(publish(QoS::AtLeastOnce, 5)));
        let (token, ..) = publish_command(&mut peer);
        peer.effect(Effect::Confirm { token, result: Ok(false) });
        assert_eq!(peer.packet(), Packet::PubAck(ack_with(5, reason)));
    }
}

#[test]
fn mqtt_3_4_2_1_refusals_have_their_reason_codes() {
    let cases = [
        (Refusal::NotAuthorized, ReasonCode::NOT_AUTHORIZED),
        (Refusal::Quota { limit: "messages" }, ReasonCode::QUOTA_EXCEEDED),
        (Refusal::DiskFull, ReasonCode::QUOTA_EXCEEDED),
        (Refusal::Unavailable { partition: 3 }, ReasonCode::UNSPECIFIED_ERROR),
        (Refusal::Unsupported { what: "it" }, ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR),
        (Refusal::Address(AddressError::Name), ReasonCode::TOPIC_NAME_INVALID),
    ];
    for (refusal, reason) in cases {
        let mut peer = Peer::connected(Version::V5);
        peer.send(Packet::Publish(publish(QoS::AtLeastOnce, 5)));
        let (token, ..) = publish_command(&mut peer);
        refuse(&mut peer, token, refusal.clone());
        let Packet::PubAck(puback) = peer.packet() else { panic!("no PUBACK") };
        assert_eq!((puback.packet_id, puback.reason), (5, reason));
        let text = Property::ReasonString(text(&refusal.to_string()));
        assert_eq!(puback.properties, list(&[text]));
        assert!(!peer.is_closed());
    }
}

#[test]
fn mqtt_311_a_publish_that_is_refused_closes_without_puback() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut peer = Peer::connected(Version::V311);
        peer.send(Packet::Publish(publish(qos, 5)));
        let (token, ..) = publish_command(&mut peer);
        refuse(&mut peer, token, Refusal::DiskFull);
        peer.assert_closed_silently();
    }
}

#[test]
fn mqtt_4_7_2_topics_reserved_to_the_broker_cannot_be_published() {
    for topic in ["$SYS/broker/version", "$share/g/t", "$queue/q/$ack/x", &"a/".repeat(128)] {
        let mut peer = Peer::connected(Version::V5);
        peer.send(Packet::Publish(Publish { topic: text(topic), ..publish(QoS::AtLeastOnce, 5) }));
        let Packet::PubAck(puback) = peer.packet() else { panic!("no PUBACK") };
        assert_eq!(puback.reason, ReasonCode::TOPIC_NAME_INVALID, "{topic}");
        peer.send(Packet::Publish(Publish { topic: text(topic), ..publish(QoS::AtMostOnce, 0) }));
        assert_eq!(peer.connection.counters().publishes_dropped, 1);
        assert_eq!(peer.commands(), []);
        assert!(!peer.is_closed());
    }
}

#[test]
fn mqtt_4_3_3_8_pubrec_follows_the_commit_with_the_same_number() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Publish(publish(QoS::ExactlyOnce, 5)));
    let (token, _, packet_id) = publish_command(&mut peer);
    assert_eq!(packet_id, Some(5));
    assert_eq!(peer.packets(), []);
    peer.confirm(token);
    assert_eq!(peer.packet(), Packet::PubRec(ack(5)));
}

#[test]
fn mqtt_4_3_3_10_a_repeated_qos_2_publish_is_not_published_twice() {
    let mut peer = Peer::connected(Version::V311);
    peer.send(Packet::Publish(publish(QoS::ExactlyOnce, 5)));
    let (token, ..) = publish_command(&mut peer);
    let again = Publish { dup: true, ..publish(QoS::ExactlyOnce, 5) };
    peer.send(Packet::Publish(again.clone()));
    assert_eq!((peer.commands(), peer.packets()), (vec![], vec![]));
    peer.confirm(token);
    assert_eq!(peer.packet(), Packet::PubRec(ack(5)));
    peer.send(Packet::Publish(again));
    assert_eq!(peer.packet(), Packet::PubRec(ack(5)));
    assert_eq!(peer.commands(), []);
}

#[test]
fn mqtt_4_3_3_9_after_a_refused_pubrec_the_number_is_another_message() {
    let mut peer = Peer::connected(Version::V5);
    for _ in 0..2 {
        peer.send(Packet::Publish(publish(QoS::ExactlyOnce, 5)));
        let (token, ..) = publish_command(&mut peer);
        refuse(&mut peer, token, Refusal::DiskFull);
        let Packet::PubRec(pubrec) = peer.packet() else { panic!("no PUBREC") };
        assert_eq!(pubrec.reason, ReasonCode::QUOTA_EXCEEDED);
    }
}

#[test]
fn mqtt_4_3_3_11_pubcomp_follows_the_release() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Publish(publish(QoS::ExactlyOnce, 5)));
    let (token, ..) = publish_command(&mut peer);
    peer.confirm(token);
    peer.packets();
    peer.send(Packet::PubRel(ack(5)));
    assert_eq!(peer.command(), Command::Release { packet_id: 5 });
    assert_eq!(peer.packets(), []);
    peer.send(Packet::PubRel(ack(5)));
    assert_eq!(peer.commands(), [], "one release is enough");
    peer.effect(Effect::Released { packet_id: 5 });
    assert_eq!(peer.packet(), Packet::PubComp(ack(5)));
}

#[test]
fn mqtt_4_3_3_12_after_pubcomp_the_number_is_another_message() {
    let mut peer = Peer::connected(Version::V5);
    for _ in 0..2 {
        peer.send(Packet::Publish(publish(QoS::ExactlyOnce, 5)));
        let (token, ..) = publish_command(&mut peer);
        peer.confirm(token);
        peer.send(Packet::PubRel(ack(5)));
        assert_eq!(peer.command(), Command::Release { packet_id: 5 });
        peer.effect(Effect::Released { packet_id: 5 });
        assert_eq!(peer.packets(), [Packet::PubRec(ack(5)), Packet::PubComp(ack(5))]);
    }
}

#[test]
fn mqtt_3_7_2_1_a_pubrel_of_nothing_is_0x92() {
    let unknown = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
    for (version, reason) in [(Version::V5, unknown), (Version::V311, ReasonCode::SUCCESS)] {
        let mut peer = Peer::connected(version);
        peer.send(Packet::PubRel(ack(9)));
        assert_eq!(peer.packet(), Packet::PubComp(ack_with(9, reason)));
        assert_eq!(peer.commands(), []);
    }
}

#[test]
fn mqtt_4_3_3_pubrel_before_pubrec_is_a_protocol_error() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Publish(publish(QoS::ExactlyOnce, 5)));
    peer.send(Packet::PubRel(ack(5)));
    peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn mqtt_2_2_1_a_number_in_use_by_qos_2_cannot_be_used_by_qos_1() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Publish(publish(QoS::ExactlyOnce, 5)));
    peer.commands();
    peer.send(Packet::Publish(publish(QoS::AtLeastOnce, 5)));
    let in_use = ack_with(5, ReasonCode::PACKET_IDENTIFIER_IN_USE);
    assert_eq!(peer.packet(), Packet::PubAck(in_use));
    assert_eq!(peer.commands(), []);
}
