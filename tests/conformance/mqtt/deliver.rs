//! PUBLISH to the client: §3.3, and the sender's side of §4.3 and §4.9.

use std::sync::Arc;

use super::*;
use fluxmq::model::Property as Neutral;
use fluxmq::model::command::Outcome;

fn settled(offset: u64, outcome: Outcome) -> Command {
    Command::Settle { delivery: delivery_id(DeliverySource::SESSION, offset), outcome }
}

fn with_client(properties: &[Property]) -> Peer {
    let properties = list(properties);
    Peer::connected_with(Version::V5, settings(), |connect| connect.properties = properties)
}

fn ids(publishes: &[Publish]) -> Vec<u16> {
    publishes.iter().map(|publish| publish.packet_id).collect()
}

#[test]
fn mqtt_2_2_1_2_qos_0_has_no_packet_identifier() {
    let mut peer = Peer::connected(Version::V311);
    peer.deliver(delivery(1, QoS::AtMostOnce));
    assert_eq!(peer.bytes(), b"\x30\x06\x00\x03t/11"[..]);
}

#[test]
fn mqtt_2_2_1_4_packet_identifiers_in_use_are_not_given_again() {
    let mut peer = Peer::connected(Version::V5);
    let mut kept = 0;
    for offset in 0..70_000 {
        peer.deliver(delivery(offset, QoS::AtLeastOnce));
        peer.commands();
        let packet_id = peer.publishes()[0].packet_id;
        assert_ne!(packet_id, 0);
        if offset == 0 {
            kept = packet_id;
        } else {
            assert_ne!(packet_id, kept);
            peer.send(Packet::PubAck(ack(packet_id)));
        }
    }
}

#[test]
fn mqtt_3_3_1_3_a_first_delivery_has_no_dup_even_when_redelivered() {
    let mut peer = Peer::connected(Version::V5);
    peer.deliver(Delivery { redelivered: true, ..delivery(1, QoS::AtLeastOnce) });
    peer.commands();
    assert!(!peer.publishes()[0].dup);
}

#[test]
fn mqtt_3_3_1_12_and_13_the_retain_flag_is_the_deliverys() {
    let mut peer = Peer::connected(Version::V5);
    for retain in [true, false] {
        let message = Message { retain: !retain, ..message("t/1", QoS::AtMostOnce) };
        peer.deliver(Delivery {
            retain,
            message: Arc::new(message),
            ..delivery(1, QoS::AtMostOnce)
        });
        assert_eq!(peer.publishes()[0].retain, retain);
    }
}

#[test]
fn mqtt_3_3_2_15_to_20_properties_arrive_unaltered_and_in_their_order() {
    let mut peer = Peer::connected(Version::V5);
    let properties = Properties::encode(&[
        Neutral::User(text("b"), text("2")),
        Neutral::PayloadFormat(true),
        Neutral::ResponseTopic(text("r")),
        Neutral::CorrelationData(Bytes::from_static(b"\x00\xFF")),
        Neutral::User(text("a"), text("1")),
        Neutral::ContentType(text("text/plain")),
    ]);
    let message = Message { properties, expiry_s: Some(9), ..message("t/1", QoS::AtMostOnce) };
    peer.deliver(Delivery {
        message: Arc::new(message),
        subscription_ids: vec![3, 128],
        annotations: [("message-id", "q:1".to_owned())].into_iter().collect(),
        ..delivery(1, QoS::AtMostOnce)
    });
    let sent: Vec<_> = peer.publishes()[0].properties.iter().collect();
    assert_eq!(
        sent,
        [
            Property::MessageExpiry(9),
            // [MQTT-3.3.4-4]: every identifier of the subscriptions that matched.
            Property::SubscriptionId(3),
            Property::SubscriptionId(128),
            user("b", "2"),
            Property::PayloadFormat(true),
            Property::ResponseTopic(text("r")),
            Property::CorrelationData(Bytes::from_static(b"\x00\xFF")),
            user("a", "1"),
            Property::ContentType(text("text/plain")),
            user("message-id", "q:1"),
        ]
    );
}

#[test]
fn values_of_other_protocols_that_mqtt_cannot_say_are_left_out() {
    let mut peer = Peer::connected(Version::V5);
    let properties = Properties::encode(&[
        Neutral::ContentType(Bytes::from_static(b"\xFF")),
        Neutral::ResponseTopic(text("a/#")),
        Neutral::CorrelationData(Bytes::from(vec![0; 65_536])),
        Neutral::User(text("nul\0"), text("x")),
        Neutral::User(text("kept"), text("x")),
    ]);
    let message = Message { properties, ..message("t/1", QoS::AtMostOnce) };
    peer.deliver(Delivery { message: Arc::new(message), ..delivery(1, QoS::AtMostOnce) });
    assert_eq!(peer.publishes()[0].properties, list(&[user("kept", "x")]));
}

#[test]
fn mqtt_311_clients_get_no_properties() {
    let mut peer = Peer::connected(Version::V311);
    let properties = Properties::encode(&[Neutral::User(text("a"), text("1"))]);
    let message = Message { properties, expiry_s: Some(9), ..message("t/1", QoS::AtMostOnce) };
    peer.deliver(Delivery {
        message: Arc::new(message),
        subscription_ids: vec![3],
        annotations: [("queue", "q".to_owned())].into_iter().collect(),
        ..delivery(1, QoS::AtMostOnce)
    });
    assert_eq!(peer.bytes(), b"\x30\x0A\x00\x03t/1hello"[..]);
}

fn expiring(offset: u64, qos: QoS, expiry_s: u32) -> Delivery {
    let plain = delivery(offset, qos);
    Delivery {
        message: Arc::new(Message { expiry_s: Some(expiry_s), ..(*plain.message).clone() }),
        ..plain
    }
}

#[test]
fn mqtt_3_3_2_6_the_wait_in_the_connection_is_taken_off_the_expiry() {
    let mut peer = Peer::connected(Version::V5);
    peer.deliver(expiring(1, QoS::AtMostOnce, 10));
    peer.after(3_999);
    assert_eq!(peer.publishes()[0].properties, list(&[Property::MessageExpiry(7)]));
}

#[test]
fn mqtt_3_3_2_5_what_expires_in_the_connection_is_not_sent_but_settled() {
    for version in [Version::V311, Version::V5] {
        let mut peer = Peer::connected(version);
        peer.deliver(expiring(1, QoS::AtMostOnce, 2));
        peer.after(2_000);
        assert_eq!(peer.packets(), []);
        assert_eq!(peer.connection.poll_timeout(), Some(peer.now), "there is something to ask");
        assert_eq!(peer.command(), settled(1, Outcome::Accepted));
        peer.deliver(expiring(2, QoS::AtLeastOnce, 2));
        peer.after(2_000);
        peer.effect(Effect::Assigned { token: Token(0) });
        assert_eq!(peer.command(), settled(2, Outcome::Accepted));
        assert_eq!(peer.packets(), []);
    }
}

#[test]
fn mqtt_3_1_2_24_and_25_what_is_too_large_is_not_sent_but_settled() {
    let mut peer = with_client(&[Property::MaximumPacketSize(100)]);
    let sized = |offset, bytes| {
        let plain = delivery(offset, QoS::AtLeastOnce);
        let payload = Bytes::from(vec![b'x'; bytes]);
        Delivery { message: Arc::new(Message { payload, ..(*plain.message).clone() }), ..plain }
    };
    // 2 of header, 2 + 3 of topic, 2 of packet identifier, 1 of property length: 10.
    peer.deliver(sized(1, 91));
    peer.deliver(sized(2, 90));
    assert_eq!(peer.command(), settled(1, Outcome::Accepted));
    let bytes = peer.bytes();
    assert_eq!(bytes.len(), 100);
    assert_eq!(peer.connection.counters().deliveries_dropped, 1);
}

#[test]
fn mqtt_3_1_2_24_the_size_counts_properties_too() {
    let mut peer = with_client(&[Property::MaximumPacketSize(30)]);
    let annotated = |value: &str| Delivery {
        annotations: [("k", value.to_owned())].into_iter().collect(),
        ..delivery(1, QoS::AtMostOnce)
    };
    peer.deliver(annotated(&"v".repeat(15)));
    assert_eq!(peer.bytes().len(), 30);
    peer.deliver(annotated(&"v".repeat(16)));
    assert_eq!(peer.packets(), []);
}

#[test]
fn mqtt_3_3_4_9_no_more_than_the_receive_maximum_is_out() {
    let mut peer = with_client(&[Property::ReceiveMaximum(2)]);
    (1..=4).for_each(|offset| peer.deliver(delivery(offset, QoS::AtLeastOnce)));
    peer.commands();
    let out = peer.publishes();
    assert_eq!(payloads(&out), [b"1", b"2"]);
    peer.send(Packet::PubAck(ack(ids(&out)[0])));
    assert_eq!(peer.commands(), [settled(1, Outcome::Accepted)]);
    assert_eq!(payloads(&peer.publishes()), [b"3"]);
}

#[test]
fn mqtt_3_3_4_10_a_full_window_stops_nothing_else() {
    let mut peer = with_client(&[Property::ReceiveMaximum(1)]);
    (1..=2).for_each(|offset| peer.deliver(delivery(offset, QoS::AtLeastOnce)));
    peer.commands();
    assert_eq!(peer.publishes().len(), 1);
    peer.deliver(delivery(3, QoS::AtMostOnce));
    peer.send(Packet::PingReq);
    let packets = peer.packets();
    assert!(matches!(packets[..], [Packet::PingResp, Packet::Publish(_)]), "{packets:?}");
}

#[test]
fn mqtt_4_9_0_a_qos_2_place_is_free_after_pubcomp_or_a_failed_pubrec() {
    let mut peer = with_client(&[Property::ReceiveMaximum(1)]);
    (1..=3).for_each(|offset| peer.deliver(delivery(offset, QoS::ExactlyOnce)));
    peer.commands();
    let first = peer.publishes()[0].packet_id;
    peer.send(Packet::PubRec(ack(first)));
    peer.commands();
    assert_eq!(peer.packets(), [Packet::PubRel(ack(first))]);
    peer.send(Packet::PubComp(ack(first)));
    assert_eq!(peer.commands(), [settled(1, Outcome::Accepted)]);
    let second = peer.publishes()[0].packet_id;
    peer.send(Packet::PubRec(ack_with(second, ReasonCode::QUOTA_EXCEEDED)));
    assert_eq!(peer.commands(), [settled(2, Outcome::Rejected)]);
    assert_eq!(payloads(&peer.publishes()), [b"3"]);
}

#[test]
fn mqtt_4_3_1_qos_0_of_a_session_is_settled_when_written() {
    let mut peer = Peer::connected(Version::V311);
    peer.deliver(delivery(1, QoS::AtMostOnce));
    assert_eq!(peer.commands(), []);
    peer.packets();
    assert_eq!(peer.command(), settled(1, Outcome::Accepted));
    let id = delivery_id(DeliverySource::Live, 2);
    peer.deliver(Delivery { id, ..delivery(2, QoS::AtMostOnce) });
    peer.packets();
    assert_eq!(peer.commands(), [], "nobody waits for what is not stored");
}

#[test]
fn mqtt_4_3_2_3_a_qos_1_delivery_is_settled_by_puback() {
    let mut peer = Peer::connected(Version::V5);
    peer.deliver(delivery(1, QoS::AtLeastOnce));
    assert_eq!(peer.commands(), []);
    let publish = peer.publishes().remove(0);
    assert_eq!((publish.qos, publish.dup), (QoS::AtLeastOnce, false));
    peer.send(Packet::PubAck(ack(publish.packet_id)));
    assert_eq!(peer.command(), settled(1, Outcome::Accepted));
    // A second one answers nothing.
    peer.send(Packet::PubAck(ack(publish.packet_id)));
    assert_eq!(peer.commands(), []);
    assert!(!peer.is_closed());
}

#[test]
fn mqtt_4_4_0_2_an_error_ends_a_delivery() {
    let mut peer = Peer::connected(Version::V5);
    peer.deliver(delivery(1, QoS::AtLeastOnce));
    peer.commands();
    let packet_id = peer.publishes()[0].packet_id;
    peer.send(Packet::PubAck(ack_with(packet_id, ReasonCode::NOT_AUTHORIZED)));
    assert_eq!(peer.command(), settled(1, Outcome::Rejected));
}

#[test]
fn mqtt_4_3_3_4_pubrel_follows_pubrec_and_pubcomp_settles() {
    let mut peer = Peer::connected(Version::V311);
    peer.deliver(delivery(1, QoS::ExactlyOnce));
    peer.commands();
    let packet_id = peer.publishes()[0].packet_id;
    for _ in 0..2 {
        peer.send(Packet::PubRec(ack(packet_id)));
        assert_eq!(peer.packet(), Packet::PubRel(ack(packet_id)));
        assert_eq!(peer.commands(), []);
    }
    peer.send(Packet::PubComp(ack(packet_id)));
    assert_eq!(peer.command(), settled(1, Outcome::Accepted));
}

#[test]
fn mqtt_3_6_2_1_a_pubrec_of_nothing_is_answered_with_0x92() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::PubRec(ack(5)));
    let unknown = ack_with(5, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
    assert_eq!(peer.packet(), Packet::PubRel(unknown));
    peer.send(Packet::PubRec(ack_with(5, ReasonCode::UNSPECIFIED_ERROR)));
    assert_eq!(peer.packets(), [], "an error needs no release");
}

#[test]
fn mqtt_4_3_answers_of_the_wrong_qos_are_protocol_errors() {
    type Answer = fn(u16) -> Packet;
    let answers: [(QoS, Answer); 4] = [
        (QoS::AtLeastOnce, |id| Packet::PubRec(ack(id))),
        (QoS::AtLeastOnce, |id| Packet::PubComp(ack(id))),
        (QoS::ExactlyOnce, |id| Packet::PubAck(ack(id))),
        (QoS::ExactlyOnce, |id| Packet::PubComp(ack(id))),
    ];
    for (qos, wrong) in answers {
        let mut peer = Peer::connected(Version::V5);
        peer.deliver(delivery(1, qos));
        peer.commands();
        let packet_id = peer.publishes()[0].packet_id;
        peer.send(wrong(packet_id));
        peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn writing_stops_at_the_limit_and_goes_on_there() {
    let mut peer = Peer::connected(Version::V311);
    (1..=9).for_each(|offset| peer.deliver(delivery(offset, QoS::AtMostOnce)));
    let mut out = BytesMut::new();
    peer.connection.poll_transmit(peer.now, &mut out, 10);
    assert_eq!(out.len(), 16, "whole packets until the limit is reached");
    assert_eq!(peer.publishes().len(), 7);
}
