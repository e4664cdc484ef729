//! §4.6 message ordering, and answers that come out of order from the broker.

use super::*;

#[test]
fn mqtt_4_6_0_2_pubacks_go_out_in_the_order_of_their_publishes() {
    let mut peer = Peer::connected(Version::V5);
    [3, 1, 2].into_iter().for_each(|id| peer.send(Packet::Publish(publish(QoS::AtLeastOnce, id))));
    let tokens = peer.publish_tokens();
    peer.confirm(tokens[2]);
    peer.confirm(tokens[1]);
    assert_eq!(peer.packets(), []);
    peer.confirm(tokens[0]);
    assert_eq!(peer.packets(), [3, 1, 2].map(|id| Packet::PubAck(ack(id))));
}

#[test]
fn mqtt_4_6_0_3_pubrecs_go_out_in_the_order_of_their_publishes() {
    let mut peer = Peer::connected(Version::V311);
    [3, 1].into_iter().for_each(|id| peer.send(Packet::Publish(publish(QoS::ExactlyOnce, id))));
    let tokens = peer.publish_tokens();
    peer.confirm(tokens[1]);
    assert_eq!(peer.packets(), []);
    peer.confirm(tokens[0]);
    assert_eq!(peer.packets(), [3, 1].map(|id| Packet::PubRec(ack(id))));
}

#[test]
fn mqtt_4_6_0_one_qos_does_not_wait_for_the_other() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Publish(publish(QoS::ExactlyOnce, 1)));
    peer.send(Packet::Publish(publish(QoS::AtLeastOnce, 2)));
    let tokens = peer.publish_tokens();
    peer.confirm(tokens[1]);
    assert_eq!(peer.packet(), Packet::PubAck(ack(2)));
}

#[test]
fn mqtt_4_6_0_2_a_publish_refused_here_keeps_its_place() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Publish(publish(QoS::AtLeastOnce, 1)));
    peer.send(Packet::Publish(Publish { topic: text("$SYS/x"), ..publish(QoS::AtLeastOnce, 2) }));
    assert_eq!(peer.packets(), []);
    let tokens = peer.publish_tokens();
    peer.confirm(tokens[0]);
    let numbers = peer.packets().into_iter().map(|packet| match packet {
        Packet::PubAck(ack) => (ack.packet_id, ack.reason),
        other => panic!("no PUBACK: {other:?}"),
    });
    let refused = (2, ReasonCode::TOPIC_NAME_INVALID);
    assert_eq!(numbers.collect::<Vec<_>>(), [(1, ReasonCode::SUCCESS), refused]);
}

#[test]
fn mqtt_4_6_0_4_pubrels_go_out_in_the_order_of_the_pubrecs() {
    let mut peer = Peer::connected(Version::V5);
    (1..=2).for_each(|offset| peer.deliver(delivery(offset, QoS::ExactlyOnce)));
    peer.commands();
    let ids: Vec<_> = peer.publishes().iter().map(|publish| publish.packet_id).collect();
    peer.send(Packet::PubRec(ack(ids[1])));
    peer.send(Packet::PubRec(ack(ids[0])));
    assert_eq!(peer.packets(), [Packet::PubRel(ack(ids[1])), Packet::PubRel(ack(ids[0]))]);
}

#[test]
fn mqtt_4_6_0_5_deliveries_of_a_qos_keep_their_order() {
    let mut peer = Peer::connected(Version::V311);
    for offset in 1..=9 {
        let qos = QoS::from_bits((offset % 3) as u8).expect("below 3");
        peer.deliver(delivery(offset, qos));
    }
    peer.commands();
    let publishes = peer.publishes();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let sent: Vec<_> = publishes.iter().filter(|publish| publish.qos == qos).cloned().collect();
        assert!(payloads(&sent).is_sorted() && sent.len() == 3);
    }
}

#[test]
fn qos_0_and_what_fits_the_window_go_out_in_the_order_of_arrival() {
    let mut peer = Peer::connected(Version::V311);
    peer.deliver(delivery(1, QoS::AtMostOnce));
    peer.deliver(delivery(2, QoS::AtLeastOnce));
    peer.deliver(delivery(3, QoS::AtMostOnce));
    peer.deliver(delivery(4, QoS::AtLeastOnce));
    peer.commands();
    assert_eq!(payloads(&peer.publishes()), [b"1", b"2", b"3", b"4"]);
}

#[test]
fn qos_0_that_nothing_stores_does_not_overtake_what_waits_for_the_socket() {
    let mut peer = Peer::connected(Version::V311);
    let live = |offset| Delivery {
        id: delivery_id(DeliverySource::Live, offset),
        ..delivery(offset, QoS::AtMostOnce)
    };
    peer.deliver(live(1));
    peer.deliver(delivery(2, QoS::AtMostOnce));
    peer.deliver(live(3));
    assert_eq!(payloads(&peer.publishes()), [b"1", b"2", b"3"]);
}
