//! Persistent sessions: §4.1, §4.4, and packet identifiers that survive.

use std::sync::Arc;

use super::*;
use fluxmq::model::command::Outcome;
use fluxmq::model::effect::Outbound;

fn session(offset: u64) -> DeliveryId {
    delivery_id(DeliverySource::SESSION, offset)
}

#[test]
fn qos_1_deliveries_of_a_persistent_session_are_assigned_and_sent_at_once() {
    let mut peer = Peer::persistent(Version::V5);
    (1..=2).for_each(|offset| peer.deliver(delivery(offset, QoS::AtLeastOnce)));
    let entries = vec![(1, session(1)), (2, session(2))];
    assert_eq!(peer.command(), Command::Assign { token: None, entries });
    assert_eq!(payloads(&peer.publishes()), [b"1", b"2"]);
}

#[test]
fn mqtt_4_3_3_a_qos_2_delivery_is_sent_when_its_number_is_stored() {
    let mut peer = Peer::persistent(Version::V5);
    peer.deliver(delivery(1, QoS::AtLeastOnce));
    peer.deliver(delivery(2, QoS::ExactlyOnce));
    let Command::Assign { token: Some(token), entries } = peer.command() else {
        panic!("no Assign with a token")
    };
    assert_eq!(entries, [(1, session(1)), (2, session(2))]);
    assert_eq!(peer.packets(), []);
    // What comes meanwhile waits, and goes together.
    peer.deliver(delivery(3, QoS::ExactlyOnce));
    peer.deliver(delivery(4, QoS::AtLeastOnce));
    assert_eq!(peer.commands(), []);
    peer.effect(Effect::Assigned { token });
    assert_eq!(payloads(&peer.publishes()), [b"1", b"2"]);
    let Command::Assign { token: Some(token), entries } = peer.command() else {
        panic!("no Assign with a token")
    };
    assert_eq!(entries, [(3, session(3)), (4, session(4))]);
    peer.effect(Effect::Assigned { token });
    assert_eq!(payloads(&peer.publishes()), [b"3", b"4"]);
}

#[test]
fn an_assignment_that_was_not_asked_for_sends_nothing() {
    let mut peer = Peer::persistent(Version::V5);
    peer.deliver(delivery(1, QoS::ExactlyOnce));
    peer.commands();
    peer.effect(Effect::Assigned { token: Token(u64::MAX) });
    assert_eq!(peer.packets(), []);
}

#[test]
fn mqtt_4_3_3_4_pubrel_of_a_persistent_session_waits_until_pubrec_is_stored() {
    let mut peer = Peer::persistent(Version::V5);
    peer.deliver(delivery(1, QoS::ExactlyOnce));
    let Command::Assign { token: Some(token), .. } = peer.command() else { panic!("no Assign") };
    peer.effect(Effect::Assigned { token });
    peer.packets();
    peer.send(Packet::PubRec(ack(1)));
    assert_eq!(peer.command(), Command::Received { packet_id: 1 });
    peer.send(Packet::PubRec(ack(1)));
    assert_eq!((peer.commands(), peer.packets()), (vec![], vec![]));
    peer.effect(Effect::ReceivedStored { packet_id: 1 });
    assert_eq!(peer.packet(), Packet::PubRel(ack(1)));
    peer.send(Packet::PubComp(ack(1)));
    let settled = Command::Settle { delivery: session(1), outcome: Outcome::Accepted };
    assert_eq!(peer.command(), settled);
}

#[test]
fn mqtt_4_4_0_1_what_was_out_is_sent_again_in_order_with_dup_before_anything_new() {
    for version in [Version::V311, Version::V5] {
        let mut peer = Peer::resumed(version, |opened| {
            opened.session_present = true;
            opened.outbound = vec![
                Outbound::Publish { packet_id: 40, delivery: delivery(1, QoS::ExactlyOnce) },
                Outbound::Release { packet_id: 7, delivery: session(2) },
                Outbound::Publish { packet_id: 3, delivery: delivery(3, QoS::AtLeastOnce) },
            ];
        });
        peer.deliver(delivery(4, QoS::AtLeastOnce));
        assert_eq!(peer.commands(), [], "its turn comes when the others are written");
        let sent: Vec<_> = peer.packets();
        let Command::Assign { token: None, entries } = peer.command() else { panic!("no Assign") };
        // [MQTT-2.2.1-4]: 3, 7 and 40 are in use.
        assert_eq!(entries, [(1, session(4))]);
        assert!(sent.contains(&Packet::PubRel(ack(7))), "{sent:?}");
        let publishes = sent.iter().filter_map(|packet| match packet {
            Packet::Publish(publish) => Some((publish.packet_id, publish.dup)),
            _ => None,
        });
        let publishes: Vec<_> = publishes.collect();
        assert_eq!(publishes, [(40, true), (3, true), (1, false)]);
    }
}

#[test]
fn mqtt_4_4_0_1_what_was_out_is_settled_under_its_old_number() {
    let mut peer = Peer::resumed(Version::V5, |opened| {
        opened.outbound = vec![
            Outbound::Publish { packet_id: 40, delivery: delivery(1, QoS::AtLeastOnce) },
            Outbound::Release { packet_id: 7, delivery: session(2) },
        ];
    });
    peer.commands();
    peer.packets();
    peer.send(Packet::PubAck(ack(40)));
    peer.send(Packet::PubComp(ack(7)));
    let settled =
        |offset| Command::Settle { delivery: session(offset), outcome: Outcome::Accepted };
    assert_eq!(peer.commands(), [settled(1), settled(2)]);
}

#[test]
fn mqtt_3_3_4_9_sending_again_keeps_to_the_receive_maximum() {
    let mut peer = Peer::new(Version::V5);
    peer.connect(|connect| {
        connect.clean_start = false;
        connect.properties = list(&[Property::ReceiveMaximum(1), Property::SessionExpiry(9)]);
    });
    peer.open();
    peer.opened(Opened {
        persistent: true,
        outbound: vec![
            Outbound::Publish { packet_id: 1, delivery: delivery(1, QoS::AtLeastOnce) },
            Outbound::Publish { packet_id: 2, delivery: delivery(2, QoS::AtLeastOnce) },
        ],
        ..opened()
    });
    peer.commands();
    assert_eq!(payloads(&peer.publishes()), [b"1"]);
    peer.send(Packet::PubAck(ack(1)));
    peer.commands();
    assert_eq!(payloads(&peer.publishes()), [b"2"]);
}

/// PUBCOMP for a PUBREL of an earlier connection once made room for a publish that the window had already let out.
#[test]
fn mqtt_3_3_4_9_what_only_awaits_pubcomp_makes_no_room_in_the_window() {
    let mut peer = Peer::new(Version::V5);
    peer.connect(|connect| {
        connect.clean_start = false;
        connect.properties = list(&[Property::ReceiveMaximum(1), Property::SessionExpiry(9)]);
    });
    peer.open();
    peer.opened(Opened {
        persistent: true,
        outbound: vec![Outbound::Release { packet_id: 7, delivery: session(1) }],
        ..opened()
    });
    peer.commands();
    assert_eq!(peer.packet(), Packet::PubRel(ack(7)));
    (2..=3).for_each(|offset| peer.deliver(delivery(offset, QoS::AtLeastOnce)));
    peer.commands();
    assert_eq!(payloads(&peer.publishes()), [b"2"]);

    peer.send(Packet::PubComp(ack(7)));
    peer.commands();
    assert_eq!(payloads(&peer.publishes()), Vec::<&[u8]>::new());

    peer.send(Packet::PubAck(ack(1)));
    peer.commands();
    assert_eq!(payloads(&peer.publishes()), [b"3"]);
}

#[test]
fn mqtt_4_3_3_7_what_was_out_does_not_expire() {
    let expired = Message { expiry_s: Some(0), ..message("t/1", QoS::ExactlyOnce) };
    let delivery = Delivery { message: Arc::new(expired), ..delivery(1, QoS::ExactlyOnce) };
    let mut peer = Peer::resumed(Version::V5, |opened| {
        opened.outbound = vec![Outbound::Publish { packet_id: 4, delivery }];
    });
    peer.commands();
    assert_eq!(peer.publishes()[0].packet_id, 4);
}

#[test]
fn mqtt_4_3_3_10_a_publish_of_an_earlier_connection_is_not_published_twice() {
    let mut peer = Peer::resumed(Version::V311, |opened| opened.inbound = vec![5]);
    peer.send(Packet::Publish(Publish { dup: true, ..publish(QoS::ExactlyOnce, 5) }));
    assert_eq!(peer.commands(), []);
    assert_eq!(peer.packet(), Packet::PubRec(ack(5)));
    peer.send(Packet::PubRel(ack(5)));
    assert_eq!(peer.command(), Command::Release { packet_id: 5 });
    peer.effect(Effect::Released { packet_id: 5 });
    assert_eq!(peer.packet(), Packet::PubComp(ack(5)));
}

#[test]
fn mqtt_4_9_0_publishes_of_an_earlier_connection_do_not_count_against_the_receive_maximum() {
    let mut peer = Peer::resumed(Version::V5, |opened| opened.inbound = (101..=164).collect());
    (1..=64).for_each(|id| peer.send(Packet::Publish(publish(QoS::ExactlyOnce, id))));
    assert!(!peer.is_closed());
    peer.send(Packet::Publish(publish(QoS::ExactlyOnce, 65)));
    peer.assert_disconnected(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
}
