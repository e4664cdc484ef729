//! Reason strings that would make a packet larger than the client takes, packet by packet.

use super::*;

/// A client that takes packets of so many bytes.
fn peer_taking(bytes: u32) -> Peer {
    Peer::connected_with(Version::V5, settings(), |connect| {
        connect.properties = list(&[Property::MaximumPacketSize(bytes)]);
    })
}

/// Sends a packet whose answer explains itself, to a client that takes long answers and to one that does not.
fn assert_left_out_when_too_long(
    send: impl Fn(&mut Peer),
    properties: fn(&Packet) -> &PropertyList,
) {
    let mut roomy = peer_taking(1_000);
    send(&mut roomy);
    let explained = roomy.packet();
    let text = |property| match property {
        Property::ReasonString(text) => Some(text),
        _ => None,
    };
    let told = properties(&explained).find(text).expect("there is something to tell");
    assert!(told.len() > 40, "too short to be left out: {told:?}");

    let mut narrow = peer_taking(40);
    send(&mut narrow);
    let bare = narrow.packet();
    assert_eq!(*properties(&bare), PropertyList::default());
    assert!(!narrow.is_closed());
}

fn refused_publish(qos: QoS) -> impl Fn(&mut Peer) {
    move |peer| {
        peer.send(Packet::Publish(Publish { topic: text("$SYS/x"), ..publish(qos, 5) }));
    }
}

#[test]
fn mqtt_3_4_2_2_puback_fits() {
    assert_left_out_when_too_long(refused_publish(QoS::AtLeastOnce), |packet| match packet {
        Packet::PubAck(puback) => &puback.properties,
        other => panic!("no PUBACK: {other:?}"),
    });
}

#[test]
fn mqtt_3_5_2_2_pubrec_fits() {
    assert_left_out_when_too_long(refused_publish(QoS::ExactlyOnce), |packet| match packet {
        Packet::PubRec(pubrec) => &pubrec.properties,
        other => panic!("no PUBREC: {other:?}"),
    });
}

#[test]
fn mqtt_3_6_2_2_and_3_7_2_2_pubrel_and_pubcomp_are_never_longer_than_four_bytes() {
    let mut peer = peer_taking(1_000);
    peer.send(Packet::PubRel(ack(7)));
    peer.send(Packet::PubRec(ack(8)));
    assert_eq!(peer.bytes(), b"\x70\x03\x00\x07\x92\x62\x03\x00\x08\x92"[..]);
}

#[test]
fn mqtt_3_9_2_1_suback_fits() {
    let send = |peer: &mut Peer| {
        peer.send(Packet::Subscribe(subscribe(1, &["a#"])));
    };
    assert_left_out_when_too_long(send, |packet| match packet {
        Packet::SubAck(suback) => &suback.properties,
        other => panic!("no SUBACK: {other:?}"),
    });
}

#[test]
fn mqtt_3_11_2_1_unsuback_fits() {
    let send = |peer: &mut Peer| {
        let properties = PropertyList::default();
        let filters = vec![text("a#")];
        peer.send(Packet::Unsubscribe(Unsubscribe { packet_id: 1, properties, filters }));
    };
    assert_left_out_when_too_long(send, |packet| match packet {
        Packet::UnsubAck(unsuback) => &unsuback.properties,
        other => panic!("no UNSUBACK: {other:?}"),
    });
}

/// No answer of ours carries a user property: there is none to leave out.
#[test]
fn mqtt_3_4_2_3_and_its_kin_answers_carry_no_user_properties() {
    let mut peer = peer_taking(1_000);
    peer.send(Packet::Publish(Publish { topic: text("$SYS/x"), ..publish(QoS::AtLeastOnce, 1) }));
    peer.send(Packet::Publish(Publish { topic: text("$SYS/x"), ..publish(QoS::ExactlyOnce, 2) }));
    peer.send(Packet::PubRel(ack(3)));
    peer.send(Packet::PubRec(ack(4)));
    peer.send(Packet::Subscribe(subscribe(5, &["a#"])));
    let packets = peer.packets();
    assert_eq!(packets.len(), 5);
    for packet in packets {
        let (Packet::PubAck(Ack { properties, .. })
        | Packet::PubRec(Ack { properties, .. })
        | Packet::PubRel(Ack { properties, .. })
        | Packet::PubComp(Ack { properties, .. })
        | Packet::SubAck(SubAck { properties, .. })) = &packet
        else {
            panic!("none of those: {packet:?}")
        };
        assert!(!properties.iter().any(|it| matches!(it, Property::User(..))), "{packet:?}");
    }
}
