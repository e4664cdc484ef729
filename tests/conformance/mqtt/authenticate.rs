//! §3.15 AUTH and §4.12 enhanced authentication. The broker's side of the exchange is the test's.

use super::*;

const METHOD: &str = "SCRAM-SHA-256";

fn auth(reason: ReasonCode, method: &str, data: &str) -> Packet {
    let method = Property::AuthenticationMethod(text(method));
    let properties = list(&[method, Property::AuthenticationData(text(data))]);
    Packet::Auth(Auth { reason, properties })
}

/// A client that named the method and is to answer a challenge.
fn challenged() -> Peer {
    let mut peer = Peer::new(Version::V5);
    peer.connect(with_method);
    peer.open();
    peer.effect(Effect::Challenge { message: text("challenge") });
    peer
}

fn with_method(connect: &mut Connect) {
    let method = Property::AuthenticationMethod(text(METHOD));
    connect.properties = list(&[method, Property::AuthenticationData(text("first"))]);
}

/// A client that authenticated by the exchange.
fn authenticated() -> Peer {
    let mut peer = challenged();
    peer.packets();
    peer.send(auth(ReasonCode::CONTINUE_AUTHENTICATION, METHOD, "proof"));
    peer.commands();
    peer.effect(Effect::Authenticated { last: text("last") });
    peer.opened(opened());
    peer
}

#[test]
fn mqtt_4_12_0_2_the_exchange_goes_both_ways_and_ends_in_connack() {
    let mut peer = Peer::new(Version::V5);
    peer.connect(with_method);
    let expected = Credentials::Exchange { method: text(METHOD), first: text("first").into() };
    assert_eq!(peer.open().credentials, expected);
    assert!(!peer.connection.wants_input());

    peer.effect(Effect::Challenge { message: text("challenge") });
    assert_eq!(peer.packet(), auth(ReasonCode::CONTINUE_AUTHENTICATION, METHOD, "challenge"));
    peer.send(auth(ReasonCode::CONTINUE_AUTHENTICATION, METHOD, "proof"));
    let expected = Command::Authenticate { method: text(METHOD), message: text("proof").into() };
    assert_eq!(peer.command(), expected);

    peer.effect(Effect::Authenticated { last: text("last") });
    let connack = peer.opened(opened());
    let found: Vec<Property> = connack
        .properties
        .iter()
        .filter(|it| {
            matches!(it, Property::AuthenticationMethod(_) | Property::AuthenticationData(_))
        })
        .collect();
    let method = Property::AuthenticationMethod(text(METHOD));
    assert_eq!(found, [method, Property::AuthenticationData(text("last"))]);
}

#[test]
fn mqtt_4_12_0_1_an_unknown_method_is_refused_with_0x8c() {
    let mut peer = Peer::new(Version::V5);
    peer.connect(with_method);
    peer.open();
    peer.effect(Effect::OpenRefused(Refusal::AuthenticationMethod));
    assert!(peer.is_closed());
    let Packet::ConnAck(connack) = peer.packet() else { panic!("no CONNACK") };
    assert_eq!(connack.reason, ReasonCode::BAD_AUTHENTICATION_METHOD);
}

#[test]
fn mqtt_4_12_0_4_a_wrong_proof_is_refused_in_connack() {
    let mut peer = challenged();
    peer.packets();
    peer.send(auth(ReasonCode::CONTINUE_AUTHENTICATION, METHOD, "proof"));
    peer.commands();
    peer.effect(Effect::OpenRefused(Refusal::BadCredentials));
    let Packet::ConnAck(connack) = peer.packet() else { panic!("no CONNACK") };
    assert_eq!(connack.reason, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    assert!(peer.is_closed());
    assert_eq!(peer.commands(), []);
}

#[test]
fn mqtt_4_12_0_5_every_auth_names_the_method_of_connect() {
    for wrong in [
        auth(ReasonCode::CONTINUE_AUTHENTICATION, "SCRAM-SHA-1", "proof"),
        Packet::Auth(Auth {
            reason: ReasonCode::CONTINUE_AUTHENTICATION,
            properties: list(&[Property::AuthenticationData(text("proof"))]),
        }),
    ] {
        let mut peer = challenged();
        peer.packets();
        peer.send(wrong);
        let Packet::ConnAck(connack) = peer.packet() else { panic!("no CONNACK") };
        assert_eq!(connack.reason, ReasonCode::PROTOCOL_ERROR);
        assert!(peer.is_closed());
    }
}

#[test]
fn mqtt_4_12_0_6_and_7_auth_without_a_method_in_connect_is_a_protocol_error() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(auth(ReasonCode::REAUTHENTICATE, METHOD, "first"));
    peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn mqtt_3_1_2_30_nothing_but_auth_and_disconnect_comes_before_connack() {
    for early in [Packet::PingReq, Packet::Publish(publish(QoS::AtMostOnce, 0))] {
        let mut peer = challenged();
        peer.packets();
        peer.send(early);
        assert!(peer.is_closed());
        let Packet::ConnAck(connack) = peer.packet() else { panic!("no CONNACK") };
        assert_eq!(connack.reason, ReasonCode::PROTOCOL_ERROR);
        assert!(matches!(peer.command(), Command::Close(_)));
    }
    let mut peer = challenged();
    peer.packets();
    peer.send(Packet::Disconnect(Disconnect::default()));
    assert!(peer.is_closed());
}

#[test]
fn authentication_data_needs_a_method() {
    let mut peer = Peer::new(Version::V5);
    peer.connect(|connect| {
        connect.properties = list(&[Property::AuthenticationData(text("first"))]);
    });
    peer.assert_closed_silently();
}

#[test]
fn mqtt_3_15_2_1_reasons_that_only_servers_send_and_auth_out_of_turn_are_protocol_errors() {
    for reason in [ReasonCode::SUCCESS, ReasonCode::CONTINUE_AUTHENTICATION] {
        let mut peer = authenticated();
        peer.send(auth(reason, METHOD, "x"));
        peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
    }
    let mut peer = authenticated();
    peer.send(auth(ReasonCode::REAUTHENTICATE, METHOD, "first"));
    peer.send(auth(ReasonCode::REAUTHENTICATE, METHOD, "first"));
    peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn an_open_connection_authenticates_again_while_it_works() {
    let mut peer = authenticated();
    peer.send(auth(ReasonCode::REAUTHENTICATE, METHOD, "first"));
    let expected = Command::Authenticate { method: text(METHOD), message: text("first").into() };
    assert_eq!(peer.command(), expected);

    peer.send(Packet::Publish(publish(QoS::AtLeastOnce, 1)));
    assert_eq!(peer.publish_tokens().len(), 1);
    peer.effect(Effect::Challenge { message: text("challenge") });
    assert_eq!(peer.packet(), auth(ReasonCode::CONTINUE_AUTHENTICATION, METHOD, "challenge"));
    peer.send(auth(ReasonCode::CONTINUE_AUTHENTICATION, METHOD, "proof"));
    peer.command();
    peer.effect(Effect::Authenticated { last: text("last") });
    assert_eq!(peer.packet(), auth(ReasonCode::SUCCESS, METHOD, "last"));

    peer.send(auth(ReasonCode::REAUTHENTICATE, METHOD, "first"));
    peer.command();
    assert!(!peer.is_closed());
}

#[test]
fn mqtt_4_12_1_1_authenticating_again_with_another_method_ends_the_connection() {
    let mut peer = authenticated();
    peer.send(auth(ReasonCode::REAUTHENTICATE, "SCRAM-SHA-1", "first"));
    peer.assert_disconnected(ReasonCode::PROTOCOL_ERROR);
    assert!(!peer.commands().iter().any(|it| matches!(it, Command::Authenticate { .. })));
}

/// AUTH must be small enough for a client that takes no more than what has to be said.
#[test]
fn mqtt_3_15_2_2_and_3_auth_has_no_reason_string_and_no_user_properties() {
    let expected = auth(ReasonCode::CONTINUE_AUTHENTICATION, METHOD, "challenge");
    let mut bytes = BytesMut::new();
    encode(&expected, Version::V5, &mut bytes).unwrap();
    for (room, fits) in [(bytes.len(), true), (bytes.len() - 1, false)] {
        let mut peer = Peer::new(Version::V5);
        peer.connect(|connect| {
            let method = Property::AuthenticationMethod(text(METHOD));
            let packet_bytes_max = Property::MaximumPacketSize(room as u32);
            connect.properties = list(&[method, packet_bytes_max]);
        });
        peer.open();
        peer.effect(Effect::Challenge { message: text("challenge") });
        assert_eq!(peer.packets(), if fits { vec![expected.clone()] } else { vec![] });
        assert_eq!(peer.is_closed(), !fits);
    }
}

#[test]
fn mqtt_4_12_1_2_who_fails_to_authenticate_again_is_disconnected() {
    let mut peer = authenticated();
    peer.send(auth(ReasonCode::REAUTHENTICATE, METHOD, "first"));
    peer.command();
    peer.effect(Effect::Expelled(Refusal::NotAuthorized));
    peer.assert_disconnected(ReasonCode::NOT_AUTHORIZED);
}

#[test]
fn an_exchange_that_is_not_finished_in_time_is_closed() {
    let mut peer = challenged();
    peer.after(10_000);
    assert!(peer.is_closed());
}

#[test]
fn mqtt_311_a_publish_that_is_not_allowed_is_acknowledged_and_dropped_or_closes_as_configured() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let denied = |settings: Settings| {
            let mut peer = Peer::connected_with(Version::V311, settings, |_| {});
            peer.send(Packet::Publish(publish(qos, 7)));
            let token = peer.publish_tokens()[0];
            peer.effect(Effect::Confirm { token, result: Err(Refusal::NotAuthorized) });
            peer
        };
        let mut acknowledged = denied(settings());
        let expected = match qos {
            QoS::ExactlyOnce => Packet::PubRec(ack(7)),
            _ => Packet::PubAck(ack(7)),
        };
        assert_eq!(acknowledged.packet(), expected);
        assert!(!acknowledged.is_closed());

        let close = Settings { denied_publish: DeniedPublish::Close, ..settings() };
        denied(close).assert_closed_silently();
    }
    let mut peer = Peer::connected(Version::V5);
    peer.send(Packet::Publish(publish(QoS::ExactlyOnce, 7)));
    let token = peer.publish_tokens()[0];
    peer.effect(Effect::Confirm { token, result: Err(Refusal::NotAuthorized) });
    let Packet::PubRec(answer) = peer.packet() else { panic!("no PUBREC") };
    assert_eq!(answer.reason, ReasonCode::NOT_AUTHORIZED);
}

/// The window is full: what waits for it is looked at again, and so is what an earlier connection left unfinished.
#[test]
fn what_is_delivered_and_not_sent_is_given_up_when_rights_go() {
    let mut peer = Peer::resumed(Version::V5, |opened| {
        let publish = |packet_id, qos| fluxmq::model::effect::Outbound::Publish {
            packet_id,
            delivery: delivery(u64::from(packet_id), qos),
        };
        opened.outbound = vec![publish(1, QoS::AtLeastOnce), publish(2, QoS::ExactlyOnce)];
    });
    for offset in 10..14 {
        let qos = if offset % 2 == 0 { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        peer.deliver(delivery(offset, qos));
    }
    let other = Delivery {
        message: Arc::new(message("other", QoS::AtLeastOnce)),
        ..delivery(20, QoS::AtLeastOnce)
    };
    peer.deliver(other);

    let recheck = fluxmq::model::effect::Recheck::new(|topic| topic.as_str() == "other");
    peer.effect(Effect::RightsChanged(recheck));
    let settled: Vec<u64> = peer
        .commands()
        .into_iter()
        .filter_map(|command| match command {
            Command::Settle { delivery, .. } => Some(delivery.offset.0),
            _ => None,
        })
        .collect();

    assert_eq!(settled, [11, 13, 10, 12, 1]);
    let packets = peer.packets();
    let topics: Vec<&[u8]> = packets
        .iter()
        .filter_map(|packet| match packet {
            Packet::Publish(publish) => Some(&publish.topic[..]),
            _ => None,
        })
        .collect();
    assert_eq!(topics, [b"other"]);
    assert!(packets.contains(&Packet::PubRel(ack(2))), "{packets:?}");
}
