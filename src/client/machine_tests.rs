//! A machine against a peer that says exactly what the test says.

use bytes::{Bytes, BytesMut};

use super::scripted::{ack, bytes, connack, packets, publish, sent};
use super::*;
use crate::model::{Millis, QoS};
use crate::protocol::mqtt::property::{Property, PropertyList};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{
    Ack, Auth, ConnAck, Disconnect, Packet, Publish, SubAck, SubscribeFilter, Version,
};

const V5: Version = Version::V5;

#[test]
fn connect_comes_first_and_connack_opens() {
    let mut machine = machine(ConnectOptions::default(), Session::default());

    let first = sent(&mut machine, V5);
    say(
        &mut machine,
        &[connack(
            false,
            [Property::AssignedClientId(Bytes::from_static(b"x"))].into_iter().collect(),
        )],
    );

    assert!(matches!(&first[..], [Packet::Connect(connect)] if connect.keep_alive_s == 60));
    let Some(Event::Connected(connected)) = machine.poll_event() else { panic!("not connected") };
    assert_eq!((connected.client_id.as_str(), connected.inflight_max), ("x", 64));
    assert!(machine.poll_event().is_none() && machine.poll_failure().is_none());
}

#[test]
fn a_refused_connection_says_why_in_the_codes_of_both_versions() {
    for (version, code) in [(V5, 0x87), (Version::V311, 5)] {
        let mut machine =
            machine(ConnectOptions { version, ..ConnectOptions::default() }, Session::default());

        let refusal = Packet::ConnAck(ConnAck { reason: ReasonCode(code), ..ConnAck::default() });
        machine.handle_input(Millis(0), &mut bytes(&[refusal], version));

        let error = machine.poll_failure().unwrap().to_string();
        assert_eq!(error, "the connection was refused: 0x87 not authorized");
    }
}

/// The exchange of RFC 7677, as its server says it; what a client says is never the password.
#[test]
fn a_password_is_proved_and_only_a_server_that_knows_it_is_believed() {
    let first =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    let last = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
    let says = |data: &str| -> PropertyList {
        let method = Property::AuthenticationMethod(Bytes::from_static(b"SCRAM-SHA-256"));
        [method, Property::AuthenticationData(Bytes::from(data.to_owned()))].into_iter().collect()
    };
    let auth = |reason, data| Packet::Auth(Auth { reason, properties: says(data) });
    let reason = ReasonCode::CONTINUE_AUTHENTICATION;
    let proof = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    for (last, error) in [
        (last, None),
        (
            "v=AAAA",
            Some(
                "authentication failed: the server does not know the password: it is not who it should be",
            ),
        ),
        (
            "",
            Some(
                "authentication failed: the server does not know the password: it is not who it should be",
            ),
        ),
    ] {
        let options = ConnectOptions {
            username: Some("user".to_owned()),
            password: Some(Bytes::from_static(b"pencil")),
            scram_nonce: Some("rOprNGfwEbeRWgbNEkqO".to_owned()),
            ..ConnectOptions::default()
        };
        let mut machine = machine(options, Session::default());
        let Packet::Connect(connect) = sent(&mut machine, V5).remove(0) else {
            panic!("no CONNECT")
        };
        assert_eq!((&connect.username, &connect.password), (&None, &None));
        let first_of_ours = says("n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert!(first_of_ours.iter().all(|said| connect.properties.iter().any(|it| it == said)));

        say(&mut machine, &[auth(reason, first)]);
        assert_eq!(sent(&mut machine, V5), [auth(reason, proof)]);
        say(&mut machine, &[connack(false, says(last))]);

        let failure = machine.poll_failure().map(|failure| failure.to_string());
        assert_eq!(failure.as_deref(), error);
        assert_eq!(machine.poll_event().is_some(), error.is_none());
    }
}

#[test]
fn an_authentication_that_nobody_asked_for_ends_the_connection() {
    let mut machine = machine(ConnectOptions::default(), Session::default());
    let auth = Auth { reason: ReasonCode::CONTINUE_AUTHENTICATION, ..Auth::default() };
    say(&mut machine, &[Packet::Auth(auth)]);
    let failure = machine.poll_failure().unwrap().to_string();
    assert_eq!(failure, "the server broke the protocol: AUTH came without being asked for");
}

#[test]
fn nothing_can_be_sent_before_connack() {
    let mut machine = machine(ConnectOptions::default(), Session::default());

    assert_eq!(machine.publish(1, &request(QoS::AtMostOnce)), Err(RequestError::NotConnected));
    assert_eq!(machine.window(), 0);
}

#[test]
fn qos_1_and_2_complete_with_their_tokens_in_any_order() {
    let mut machine = open(ConnectOptions::default());
    machine.publish(10, &request(QoS::AtLeastOnce)).unwrap();
    machine.publish(11, &request(QoS::ExactlyOnce)).unwrap();
    machine.publish(12, &request(QoS::AtMostOnce)).unwrap();
    let ids: Vec<u16> = sent(&mut machine, V5).iter().map(packet_id).collect();
    assert_eq!(ids, [1, 2, 0]);

    say(&mut machine, &[Packet::PubRec(ack(2))]);
    assert_eq!(sent(&mut machine, V5), [Packet::PubRel(ack(2))]);
    let nobody = Ack { reason: ReasonCode::NO_MATCHING_SUBSCRIBERS, ..ack(1) };
    say(&mut machine, &[Packet::PubComp(ack(2)), Packet::PubAck(nobody)]);

    assert_eq!(published(&mut machine), [(11, 0x00), (10, 0x10)]);
    assert_eq!(machine.session().unfinished_count(), 0);
}

#[test]
fn the_window_is_the_lower_of_ours_and_the_servers() {
    let options = ConnectOptions { inflight_max: 5, ..ConnectOptions::default() };
    let mut machine = machine(options, Session::default());
    say(&mut machine, &[connack(false, [Property::ReceiveMaximum(2)].into_iter().collect())]);

    machine.publish(1, &request(QoS::AtLeastOnce)).unwrap();
    machine.publish(2, &request(QoS::ExactlyOnce)).unwrap();
    let refused = machine.publish(3, &request(QoS::AtLeastOnce));
    say(&mut machine, &[Packet::PubAck(ack(1))]);

    assert_eq!(refused, Err(RequestError::WindowFull { inflight_max: 2 }));
    assert_eq!(machine.window(), 1);
    assert_eq!(machine.publish(3, &request(QoS::AtLeastOnce)), Ok(()));
}

#[test]
fn what_the_server_does_not_take_is_not_sent() {
    let mut machine = machine(ConnectOptions::default(), Session::default());
    let limits = [
        Property::MaximumPacketSize(20),
        Property::MaximumQoS(true),
        Property::RetainAvailable(false),
    ];
    say(&mut machine, &[connack(false, limits.into_iter().collect())]);
    sent(&mut machine, V5);

    let large = PublishRequest { payload: Bytes::from(vec![0; 30]), ..request(QoS::AtLeastOnce) };
    let retained = PublishRequest { retain: true, ..request(QoS::AtMostOnce) };

    // Fixed header 2, topic 3, packet id 2, property length 1, payload 30.
    let too_large = RequestError::TooLarge { bytes: 38, bytes_max: 20 };
    assert_eq!(machine.publish(1, &large), Err(too_large));
    let qos = RequestError::Qos { qos: QoS::ExactlyOnce, qos_max: QoS::AtLeastOnce };
    assert_eq!(machine.publish(1, &request(QoS::ExactlyOnce)), Err(qos));
    assert_eq!(machine.publish(1, &retained), Err(RequestError::Retain));
    assert_eq!(sent(&mut machine, V5), []);
    assert_eq!(machine.session().unfinished_count(), 0);
}

#[test]
fn mqtt_4_4_0_1_a_resumed_session_sends_again_in_order_with_dup_and_pubrel() {
    let mut machine = open(persistent());
    for (token, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce), (3, QoS::ExactlyOnce)] {
        machine.publish(token, &request(qos)).unwrap();
    }
    say(&mut machine, &[Packet::PubRec(ack(2))]);
    machine.handle_disconnect(None);

    let mut again = self::machine(persistent(), machine.into_session());
    sent(&mut again, V5);
    say(&mut again, &[connack(true, PropertyList::default())]);
    let resent = sent(&mut again, V5);
    say(&mut again, &[Packet::PubAck(ack(1)), Packet::PubRec(ack(3)), Packet::PubComp(ack(2))]);
    say(&mut again, &[Packet::PubComp(ack(3))]);

    let first = Packet::Publish(Publish { dup: true, ..publish(1, QoS::AtLeastOnce, "p") });
    let third = Packet::Publish(Publish { dup: true, ..publish(3, QoS::ExactlyOnce, "p") });
    assert_eq!(resent, [first, Packet::PubRel(ack(2)), third]);
    assert_eq!(published(&mut again), [(1, 0), (2, 0), (3, 0)]);
}

#[test]
fn a_resumed_session_keeps_to_the_new_receive_maximum_and_to_the_order() {
    let mut machine = open(persistent());
    for token in 1..=3 {
        machine.publish(token, &request(QoS::AtLeastOnce)).unwrap();
    }

    let mut again = self::machine(persistent(), machine.into_session());
    sent(&mut again, V5);
    say(&mut again, &[connack(true, [Property::ReceiveMaximum(1)].into_iter().collect())]);
    let mut order = Vec::new();
    for packet_id in 1..=3 {
        assert_eq!(again.window(), 0);
        order.push(sent(&mut again, V5).iter().map(self::packet_id).collect::<Vec<_>>());
        say(&mut again, &[Packet::PubAck(ack(packet_id))]);
    }

    assert_eq!(order, [[1], [2], [3]]);
    assert_eq!(published(&mut again), [(1, 0), (2, 0), (3, 0)]);
}

#[test]
fn a_session_that_the_server_forgot_is_forgotten_and_reported() {
    let mut machine = open(persistent());
    machine.publish(7, &request(QoS::ExactlyOnce)).unwrap();

    let mut again = self::machine(persistent(), machine.into_session());
    sent(&mut again, V5);
    say(&mut again, &[connack(false, PropertyList::default())]);

    assert!(matches!(again.poll_event(), Some(Event::Connected(_))));
    assert_eq!(again.poll_event(), Some(Event::SessionLost { unfinished: vec![7] }));
    assert_eq!(sent(&mut again, V5), []);
}

#[test]
fn a_kept_session_after_clean_start_is_the_servers_mistake() {
    let mut machine = machine(ConnectOptions::default(), Session::default());

    say(&mut machine, &[connack(true, PropertyList::default())]);

    assert!(matches!(machine.poll_failure(), Some(ClientError::Protocol(_))));
}

#[test]
fn nothing_is_acknowledged_before_the_caller_says_so() {
    let mut machine = open(ConnectOptions::default());
    say(
        &mut machine,
        &[
            Packet::Publish(publish(1, QoS::AtLeastOnce, "a")),
            Packet::Publish(publish(2, QoS::ExactlyOnce, "b")),
            Packet::Publish(publish(0, QoS::AtMostOnce, "c")),
        ],
    );
    let incoming = messages(&mut machine);
    assert_eq!(sent(&mut machine, V5), []);

    let handles: Vec<AckHandle> = incoming.iter().filter_map(|message| message.handle).collect();
    assert_eq!((incoming.len(), handles.len()), (3, 2));
    for handle in [handles[1], handles[0], handles[0]] {
        machine.acknowledge(handle, ReasonCode::SUCCESS);
    }
    assert_eq!(sent(&mut machine, V5), [Packet::PubRec(ack(2)), Packet::PubAck(ack(1))]);

    say(&mut machine, &[Packet::PubRel(ack(2)), Packet::PubRel(ack(2))]);
    let unknown = Ack { reason: ReasonCode::PACKET_IDENTIFIER_NOT_FOUND, ..ack(2) };
    assert_eq!(sent(&mut machine, V5), [Packet::PubComp(ack(2)), Packet::PubComp(unknown)]);
}

#[test]
fn mqtt_4_3_3_10_a_qos_2_delivery_reaches_the_caller_once_over_reconnects() {
    let mut machine = open(persistent());
    let delivery = publish(9, QoS::ExactlyOnce, "once");
    let copy = Publish { dup: true, ..delivery.clone() };
    say(&mut machine, &[Packet::Publish(delivery)]);
    let handle = messages(&mut machine)[0].handle.unwrap();

    // Lost before the caller took it: the copy is not shown, and answered once the caller has.
    let mut second = resumed(machine.into_session());
    say(&mut second, &[Packet::Publish(copy.clone())]);
    assert_eq!(messages(&mut second), []);
    assert_eq!(sent(&mut second, V5), []);
    second.acknowledge(handle, ReasonCode::SUCCESS);
    assert_eq!(sent(&mut second, V5), [Packet::PubRec(ack(9))]);

    // Lost after PUBREC: the copy is answered at once.
    let mut third = resumed(second.into_session());
    say(&mut third, &[Packet::Publish(copy.clone())]);
    assert_eq!(messages(&mut third), []);
    assert_eq!(sent(&mut third, V5), [Packet::PubRec(ack(9))]);
    say(&mut third, &[Packet::PubRel(ack(9))]);
    assert_eq!(sent(&mut third, V5), [Packet::PubComp(ack(9))]);

    // Released: the number means another message.
    say(&mut third, &[Packet::Publish(publish(9, QoS::ExactlyOnce, "two"))]);
    assert_eq!(messages(&mut third).len(), 1);
}

#[test]
fn a_qos_1_delivery_of_an_earlier_connection_is_not_acknowledged_on_this_one() {
    let mut machine = open(persistent());
    say(&mut machine, &[Packet::Publish(publish(9, QoS::AtLeastOnce, "a"))]);
    let stale = messages(&mut machine)[0].handle.unwrap();

    let mut second = resumed(machine.into_session());
    say(&mut second, &[Packet::Publish(publish(9, QoS::AtLeastOnce, "b"))]);
    second.acknowledge(stale, ReasonCode::SUCCESS);
    assert_eq!(sent(&mut second, V5), []);
    let fresh = messages(&mut second)[0].handle.unwrap();
    second.acknowledge(fresh, ReasonCode::SUCCESS);

    assert_eq!(sent(&mut second, V5), [Packet::PubAck(ack(9))]);
}

#[test]
fn an_error_code_settles_as_refused_and_frees_the_number() {
    let mut machine = open(ConnectOptions::default());
    say(&mut machine, &[Packet::Publish(publish(3, QoS::ExactlyOnce, "a"))]);
    let handle = messages(&mut machine)[0].handle.unwrap();

    machine.acknowledge(handle, ReasonCode::QUOTA_EXCEEDED);
    say(&mut machine, &[Packet::Publish(publish(3, QoS::ExactlyOnce, "b"))]);

    let refused = Ack { reason: ReasonCode::QUOTA_EXCEEDED, ..ack(3) };
    assert_eq!(sent(&mut machine, V5), [Packet::PubRec(refused)]);
    assert_eq!(messages(&mut machine)[0].payload, "b");
}

#[test]
fn more_deliveries_than_the_announced_receive_maximum_are_noticed() {
    let options = ConnectOptions { receive_maximum: 2, ..ConnectOptions::default() };
    let mut machine = machine(options, Session::default());
    say(&mut machine, &[connack(false, PropertyList::default())]);
    let deliver = |id| Packet::Publish(publish(id, QoS::AtLeastOnce, "a"));

    say(&mut machine, &[deliver(1), deliver(2)]);
    assert!(machine.poll_failure().is_none());
    say(&mut machine, &[deliver(3)]);

    let failure = machine.poll_failure();
    assert!(matches!(failure, Some(ClientError::ReceiveMaximum { receive_maximum: 2 })));
}

#[test]
fn more_deliveries_than_announced_are_borne_when_asked_to() {
    let options = ConnectOptions {
        receive_maximum: 1,
        receive_maximum_enforced: false,
        ..ConnectOptions::default()
    };
    let mut machine = machine(options, Session::default());
    say(&mut machine, &[connack(false, PropertyList::default())]);

    let deliver = |id| Packet::Publish(publish(id, QoS::AtLeastOnce, "a"));
    say(&mut machine, &[deliver(1), deliver(2)]);

    assert_eq!(messages(&mut machine).len(), 2);
    assert!(machine.poll_failure().is_none());
}

#[test]
fn topic_aliases_are_resolved_and_unknown_ones_noticed() {
    let options = ConnectOptions { topic_alias_max: 2, ..ConnectOptions::default() };
    let mut machine = machine(options, Session::default());
    say(&mut machine, &[connack(false, PropertyList::default())]);
    let with_alias = |topic: &'static str, alias| {
        let properties = [Property::TopicAlias(alias)].into_iter().collect();
        let topic = Bytes::from_static(topic.as_bytes());
        Packet::Publish(Publish { topic, properties, ..publish(0, QoS::AtMostOnce, "x") })
    };

    say(&mut machine, &[with_alias("long/topic", 2), with_alias("", 2), with_alias("", 1)]);

    let topics: Vec<Bytes> = messages(&mut machine).into_iter().map(|it| it.topic).collect();
    assert_eq!(topics, ["long/topic", "long/topic"]);
    assert!(matches!(machine.poll_failure(), Some(ClientError::Protocol(_))));
}

#[test]
fn subscribing_reports_each_filters_result() {
    let mut machine = open(ConnectOptions::default());
    let filter = |text: &'static str| {
        SubscribeFilter::new(Bytes::from_static(text.as_bytes()), QoS::AtLeastOnce)
    };
    let filters = vec![filter("a"), filter("b")];
    machine.subscribe(5, &SubscribeRequest { filters, ..SubscribeRequest::default() }).unwrap();
    let packet_id = match &sent(&mut machine, V5)[..] {
        [Packet::Subscribe(packet)] => packet.packet_id,
        other => panic!("{other:?}"),
    };

    let reasons = vec![ReasonCode::GRANTED_QOS_1, ReasonCode::NOT_AUTHORIZED];
    let properties: PropertyList =
        [Property::ReasonString(Bytes::from_static(b"no"))].into_iter().collect();
    let answered = properties.clone();
    say(
        &mut machine,
        &[Packet::SubAck(SubAck { packet_id, properties: answered, reasons: reasons.clone() })],
    );

    let expected = Event::Subscribed { token: 5, reasons, text: "no".to_owned(), properties };
    assert_eq!(machine.poll_event(), Some(expected));
}

#[test]
fn silence_is_broken_by_pingreq_and_an_unanswered_one_ends_the_connection() {
    let mut machine = machine(
        ConnectOptions { keep_alive_s: 10, ..ConnectOptions::default() },
        Session::default(),
    );
    say(&mut machine, &[connack(false, PropertyList::default())]);
    sent(&mut machine, V5);

    assert_eq!(machine.poll_timeout(), Some(Millis(10_000)));
    machine.handle_timeout(Millis(9_999));
    assert_eq!(sent(&mut machine, V5), []);
    machine.handle_timeout(Millis(10_000));
    let mut output = BytesMut::new();
    machine.poll_transmit(Millis(10_000), &mut output);
    assert_eq!(packets(&mut output, V5), [Packet::PingReq]);

    machine.handle_input(Millis(11_000), &mut bytes(&[Packet::PingResp], V5));
    assert_eq!(machine.poll_timeout(), Some(Millis(20_000)));
    machine.handle_timeout(Millis(20_000));
    machine.handle_timeout(Millis(30_000));

    assert!(matches!(
        machine.poll_failure(),
        Some(ClientError::NoPingResponse { timeout_ms: 10_000 })
    ));
}

#[test]
fn the_servers_keep_alive_replaces_ours_and_zero_is_none() {
    let mut told = machine(ConnectOptions::default(), Session::default());
    say(&mut told, &[connack(false, [Property::ServerKeepAlive(3)].into_iter().collect())]);
    let mut none = machine(
        ConnectOptions { keep_alive_s: 0, ..ConnectOptions::default() },
        Session::default(),
    );
    say(&mut none, &[connack(false, PropertyList::default())]);

    assert_eq!(told.poll_timeout(), Some(Millis(3_000)));
    assert_eq!(none.poll_timeout(), None);
}

#[test]
fn the_servers_disconnect_is_the_failure_after_the_events_before_it() {
    let mut machine = open(ConnectOptions::default());
    let goodbye = Disconnect { reason: ReasonCode::SESSION_TAKEN_OVER, ..Disconnect::default() };

    say(
        &mut machine,
        &[Packet::Publish(publish(0, QoS::AtMostOnce, "a")), Packet::Disconnect(goodbye)],
    );
    machine.handle_disconnect(None);

    assert_eq!(messages(&mut machine).len(), 1);
    let failure = machine.poll_failure().unwrap().to_string();
    assert_eq!(failure, "the server disconnected: 0x8E session taken over");
}

#[test]
fn leaving_sends_disconnect_with_the_new_expiry_and_nothing_after_it() {
    let mut machine = open(ConnectOptions::default());

    machine.disconnect(ReasonCode::DISCONNECT_WITH_WILL, Some(9));
    let refused = machine.publish(1, &request(QoS::AtMostOnce));

    let properties = [Property::SessionExpiry(9)].into_iter().collect();
    let expected = Disconnect { reason: ReasonCode::DISCONNECT_WITH_WILL, properties };
    assert_eq!(sent(&mut machine, V5), [Packet::Disconnect(expected)]);
    assert_eq!(refused, Err(RequestError::NotConnected));
}

#[test]
fn packets_that_only_clients_send_are_noticed() {
    let mut machine = open(ConnectOptions::default());

    say(&mut machine, &[Packet::PingReq]);

    assert!(matches!(machine.poll_failure(), Some(ClientError::Protocol(_))));
}

#[test]
fn version_3_1_1_does_the_same_without_properties() {
    let options = ConnectOptions { version: Version::V311, ..ConnectOptions::default() };
    let mut machine = machine(options, Session::default());
    let first = sent(&mut machine, Version::V311);
    machine.handle_input(
        Millis(0),
        &mut bytes(&[connack(false, PropertyList::default())], Version::V311),
    );
    machine.publish(4, &request(QoS::ExactlyOnce)).unwrap();
    sent(&mut machine, Version::V311);
    for packet in [Packet::PubRec(ack(1)), Packet::PubComp(ack(1))] {
        machine.handle_input(Millis(0), &mut bytes(&[packet], Version::V311));
    }

    assert!(matches!(&first[..], [Packet::Connect(connect)] if connect.version == Version::V311));
    assert_eq!(sent(&mut machine, Version::V311), [Packet::PubRel(ack(1))]);
    assert_eq!(published(&mut machine), [(4, 0)]);
}

fn machine(options: ConnectOptions, session: Session) -> Machine {
    Machine::new(options, session, Millis(0)).unwrap_or_else(|(error, _)| panic!("{error}"))
}

/// A machine after the handshake, its CONNECT already taken.
fn open(options: ConnectOptions) -> Machine {
    let mut machine = machine(options, Session::default());
    sent(&mut machine, V5);
    say(&mut machine, &[connack(false, PropertyList::default())]);
    assert!(matches!(machine.poll_event(), Some(Event::Connected(_))));
    machine
}

fn resumed(session: Session) -> Machine {
    let mut machine = machine(persistent(), session);
    sent(&mut machine, V5);
    say(&mut machine, &[connack(true, PropertyList::default())]);
    machine
}

fn persistent() -> ConnectOptions {
    ConnectOptions {
        client_id: "c".to_owned(),
        clean_start: false,
        session_expiry_s: 60,
        ..ConnectOptions::default()
    }
}

fn request(qos: QoS) -> PublishRequest {
    let (topic, payload) = (Bytes::from_static(b"t"), Bytes::from_static(b"p"));
    PublishRequest { topic, payload, qos, ..PublishRequest::default() }
}

fn say(machine: &mut Machine, packets: &[Packet]) {
    machine.handle_input(Millis(0), &mut bytes(packets, V5));
}

fn packet_id(packet: &Packet) -> u16 {
    match packet {
        Packet::Publish(publish) => publish.packet_id,
        other => panic!("{other:?}"),
    }
}

fn published(machine: &mut Machine) -> Vec<(u64, u8)> {
    std::iter::from_fn(|| machine.poll_event())
        .filter_map(|event| match event {
            Event::Published { token, reason, .. } => Some((token, reason.0)),
            _ => None,
        })
        .collect()
}

fn messages(machine: &mut Machine) -> Vec<Incoming> {
    std::iter::from_fn(|| machine.poll_event())
        .filter_map(|event| match event {
            Event::Message(message) => Some(message),
            _ => None,
        })
        .collect()
}
