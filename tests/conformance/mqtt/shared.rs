//! Shared subscriptions (MQTT 5 §4.8.2) as the protocol sees them. What members get is `tests/broker/shared.rs`.

use super::*;
use fluxmq::model::command::Outcome;

fn group(offset: u64) -> DeliveryId {
    delivery_id(DeliverySource::Group(1), offset)
}

#[test]
fn mqtt_4_8_2_1_a_shared_subscription_is_granted_to_every_version() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut peer = Peer::connected(version);
        peer.send(Packet::Subscribe(subscribe(1, &["$share/g/t/#"])));
        let Command::Subscribe { token, subscriptions } = peer.command() else {
            panic!("no Subscribe")
        };
        assert_eq!(subscriptions[0].filter.as_str(), "$share/g/t/#", "as the client wrote it");
        peer.effect(Effect::Subscribed { token, results: vec![Ok(QoS::AtLeastOnce)] });
        let Packet::SubAck(suback) = peer.packet() else { panic!("no SUBACK") };
        assert_eq!(suback.reasons, [ReasonCode::GRANTED_QOS_1]);
    }
}

#[test]
fn mqtt_4_8_2_2_a_share_name_is_one_level_and_a_filter_follows() {
    let bad = [
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//t",
        "$share/g+/t",
        "$share/+/t",
        "$share/#/t",
        "$share/#",
        "$share/g/t#",
        "$share/g/$share/h/t",
        "$share/g/$replay/earliest/t",
    ];
    for filter in bad {
        let mut peer = Peer::connected(Version::V5);
        peer.send(Packet::Subscribe(subscribe(1, &[filter])));
        let Packet::SubAck(suback) = peer.packet() else { panic!("no SUBACK") };
        assert_eq!(suback.reasons, [ReasonCode::TOPIC_FILTER_INVALID], "{filter}");
        assert_eq!(peer.commands(), []);
    }
}

#[test]
fn mqtt_3_8_3_4_no_local_on_any_shared_subscription_is_a_protocol_error() {
    for filter in ["$share/g/t", "$share/g/$queue/q"] {
        let mut peer = Peer::connected(Version::V5);
        let mut packet = subscribe(1, &[filter]);
        packet.filters[0].no_local = true;
        peer.send(Packet::Subscribe(packet));
        peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn mqtt_4_8_2_4_a_qos_2_delivery_is_stored_as_its_clients_before_it_is_sent() {
    // Also for a session that is not stored: nobody else may get it once it has begun.
    for mut peer in [Peer::connected(Version::V5), Peer::persistent(Version::V5)] {
        peer.deliver(Delivery { id: group(1), ..delivery(1, QoS::ExactlyOnce) });
        let Command::Assign { token: Some(token), entries } = peer.command() else {
            panic!("no Assign")
        };
        assert_eq!((entries, peer.packets()), (vec![(1, group(1))], vec![]));
        peer.effect(Effect::Assigned { token });
        assert_eq!(peer.publishes()[0].packet_id, 1);

        peer.send(Packet::PubRec(ack(1)));
        assert_eq!(peer.command(), Command::Received { packet_id: 1 });
        assert_eq!(peer.packets(), []);
        peer.effect(Effect::ReceivedStored { packet_id: 1 });
        assert_eq!(peer.packet(), Packet::PubRel(ack(1)));
        peer.send(Packet::PubComp(ack(1)));
        let settled = Command::Settle { delivery: group(1), outcome: Outcome::Accepted };
        assert_eq!(peer.command(), settled);
    }
}

#[test]
fn a_qos_1_delivery_of_a_group_is_nobodys_to_store() {
    let mut peer = Peer::persistent(Version::V5);
    peer.deliver(Delivery { id: group(1), ..delivery(1, QoS::AtLeastOnce) });
    assert_eq!(peer.commands(), []);
    assert_eq!(peer.publishes()[0].packet_id, 1);
}

#[test]
fn mqtt_4_8_2_6_an_error_from_the_client_rejects_the_message() {
    let mut peer = Peer::connected(Version::V5);
    peer.deliver(Delivery { id: group(1), ..delivery(1, QoS::AtLeastOnce) });
    assert_eq!((peer.commands(), peer.publishes().len()), (vec![], 1));
    peer.send(Packet::PubAck(ack_with(1, ReasonCode::UNSPECIFIED_ERROR)));
    let settled = Command::Settle { delivery: group(1), outcome: Outcome::Rejected };
    assert_eq!(peer.command(), settled);
}
