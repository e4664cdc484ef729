//! Queue addresses over MQTT: settling verbs and the options of queue subscriptions.

use super::*;
use fluxmq::model::QueueName;
use fluxmq::model::command::Outcome;

fn name(name: &str) -> QueueName {
    QueueName::new(text(name)).expect("it is a name")
}

fn verb(topic: &str, qos: QoS, packet_id: u16, properties: &[Property]) -> Packet {
    Packet::Publish(Publish {
        topic: text(topic),
        properties: list(properties),
        ..publish(qos, packet_id)
    })
}

fn entry() -> [Property; 2] {
    [user("message-id", "q:41"), user("group-id", "g")]
}

#[test]
fn ack_nack_and_reject_settle_an_entry() {
    for (topic, expected) in [
        ("$queue/q/$ack", Outcome::Accepted),
        ("$queue/q/a/b/$nack", Outcome::Released),
        ("$queue/q/$reject", Outcome::Rejected),
    ] {
        let mut peer = Peer::connected(Version::V5);
        peer.send(verb(topic, QoS::AtLeastOnce, 3, &entry()));
        let Command::SettleEntry { token, queue, group, offset, outcome } = peer.command() else {
            panic!("no SettleEntry")
        };
        assert_eq!((queue, group), (name("q"), name("g")));
        assert_eq!((offset, outcome), (41, expected));
        peer.effect(Effect::Confirm { token, result: Ok(false) });
        let nothing_pending = ack_with(3, ReasonCode::NO_MATCHING_SUBSCRIBERS);
        assert_eq!(peer.packet(), Packet::PubAck(nothing_pending));
    }
}

#[test]
fn commit_moves_a_cursor() {
    let mut peer = Peer::connected(Version::V5);
    let properties = [user("x-group-id", "g"), user("x-offset", "7")];
    peer.send(verb("$queue/q/$commit", QoS::AtLeastOnce, 3, &properties));
    let Command::CommitCursor { token, queue, group, offset } = peer.command() else {
        panic!("no CommitCursor")
    };
    assert_eq!((queue, group, offset), (name("q"), name("g"), 7));
    peer.confirm(token);
    assert_eq!(peer.packet(), Packet::PubAck(ack(3)));
}

#[test]
fn a_settling_publish_of_qos_2_ends_without_a_stored_number() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(verb("$queue/q/$ack", QoS::ExactlyOnce, 3, &entry()));
    let Command::SettleEntry { token, .. } = peer.command() else { panic!("no SettleEntry") };
    peer.confirm(token);
    peer.send(Packet::PubRel(ack(3)));
    assert_eq!(peer.commands(), []);
    assert_eq!(peer.packets(), [Packet::PubRec(ack(3)), Packet::PubComp(ack(3))]);
}

#[test]
fn a_settling_publish_of_qos_0_settles_without_an_answer() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(verb("$queue/q/$ack", QoS::AtMostOnce, 0, &entry()));
    let Command::SettleEntry { token, .. } = peer.command() else { panic!("no SettleEntry") };
    peer.confirm(token);
    assert_eq!(peer.packets(), []);
}

#[test]
fn malformed_settling_is_refused_with_what_is_missing() {
    let cases: [(&str, Vec<Property>, &str); 6] = [
        ("$queue/q/$ack", vec![user("message-id", "q:41")], "group-id"),
        ("$queue/q/$ack", vec![user("group-id", "g")], "message-id"),
        ("$queue/q/$ack", vec![user("message-id", "q"), user("group-id", "g")], "message-id"),
        ("$queue/q/$ack", vec![user("message-id", "q:+1"), user("group-id", "g")], "message-id"),
        ("$queue/q/$ack", vec![user("message-id", "other:1"), user("group-id", "g")], "other"),
        ("$queue/q/$commit", vec![user("x-group-id", "g"), user("x-offset", "-1")], "x-offset"),
    ];
    for (topic, properties, named) in cases {
        let mut peer = Peer::connected(Version::V5);
        peer.send(verb(topic, QoS::AtLeastOnce, 3, &properties));
        let Packet::PubAck(puback) = peer.packet() else { panic!("no PUBACK") };
        assert_eq!(puback.reason, ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR);
        let reason = puback.properties.find(|property| match property {
            Property::ReasonString(text) => Some(text),
            _ => None,
        });
        let reason = String::from_utf8(reason.expect("it says why").to_vec()).unwrap();
        assert!(reason.contains(named), "{reason}");
        assert_eq!(peer.commands(), []);
    }
}

#[test]
fn a_queue_publish_is_a_publish() {
    let mut peer = Peer::connected(Version::V5);
    peer.send(verb("$queue/q/a", QoS::AtLeastOnce, 3, &[]));
    let Command::Publish { message, .. } = peer.command() else { panic!("no Publish") };
    assert_eq!(message.topic.as_str(), "$queue/q/a");
}

fn subscriptions(peer: &mut Peer) -> Vec<fluxmq::model::command::Subscribe> {
    match peer.command() {
        Command::Subscribe { subscriptions, .. } => subscriptions,
        other => panic!("no Subscribe: {other:?}"),
    }
}

#[test]
fn queue_subscriptions_carry_cursor_group_and_settling() {
    let mut peer = Peer::connected(Version::V5);
    let properties = list(&[
        user("cursor", "earliest"),
        user("consumer-group", "g"),
        user("settle", "explicit"),
    ]);
    let filters = ["$queue/q/#", "plain", "$share/other/$queue/q"];
    peer.send(Packet::Subscribe(Subscribe { properties, ..subscribe(1, &filters) }));
    let [queue, plain, shared] = &subscriptions(&mut peer)[..] else { panic!("not three") };
    assert_eq!((&queue.position, &queue.group), (&Some(text("earliest")), &Some(text("g"))));
    assert!(queue.settle_explicit);
    assert_eq!((&plain.position, &plain.group, plain.settle_explicit), (&None, &None, false));
    assert_eq!(shared.group, Some(text("other")), "the filter names its group");
    assert_eq!(shared.filter.as_str(), "$share/other/$queue/q", "as the client wrote it");
}

#[test]
fn replays_carry_where_they_begin() {
    let mut peer = Peer::connected(Version::V5);
    let properties = list(&[user("replay-from", "-15m"), user("cursor", "7")]);
    let filters = ["t/#", "$replay/earliest/t", "$queue/q"];
    peer.send(Packet::Subscribe(Subscribe { properties, ..subscribe(1, &filters) }));
    let [plain, replay, queue] = &subscriptions(&mut peer)[..] else { panic!("not three") };
    assert_eq!(plain.position, Some(text("-15m")));
    assert_eq!((replay.filter.as_str(), &replay.position), ("$replay/earliest/t", &None));
    assert_eq!(queue.position, Some(text("7")), "a queue is read by its own");

    // Clients without user properties write it into the filter.
    let mut peer = Peer::connected(Version::V311);
    peer.send(Packet::Subscribe(subscribe(1, &["$replay/last=3/t/+"])));
    assert_eq!(subscriptions(&mut peer)[0].filter.as_str(), "$replay/last=3/t/+");
}

#[test]
fn where_history_ends_is_answered_to_those_who_ask() {
    let said = |ends: Vec<(PartitionId, Offset)>| {
        let mut peer = Peer::connected(Version::V5);
        let properties = list(&[user("replay-from", "earliest"), user("replay-end", "report")]);
        peer.send(Packet::Subscribe(Subscribe { properties, ..subscribe(1, &["t"]) }));
        let Command::Subscribe { token, subscriptions } = peer.command() else { panic!("none") };
        assert!(subscriptions[0].reports_end);
        peer.effect(Effect::ReplayEnds { token, ends });
        peer.effect(Effect::Subscribed { token, results: vec![Ok(QoS::AtMostOnce)] });
        let Packet::SubAck(suback) = peer.packet() else { panic!("no SUBACK") };
        suback.properties.iter().collect::<Vec<_>>()
    };
    let ends = vec![(PartitionId(1), Offset(7)), (PartitionId(4), Offset(0))];
    assert_eq!(said(ends), [user("x-replay-end", "1:7"), user("x-replay-end", "4:0")]);
    assert_eq!(said(Vec::new()), [user("x-replay-end", "none")]);
}

#[test]
fn what_cannot_be_replayed_is_refused_with_the_reason() {
    let filters =
        ["$replay/earliest/$SYS/#", "$replay/earliest/$queue/q", "$share/g/$replay/earliest/t"];
    for filter in filters {
        let mut peer = Peer::connected(Version::V5);
        peer.send(Packet::Subscribe(subscribe(1, &[filter])));
        let Packet::SubAck(suback) = peer.packet() else { panic!("no SUBACK") };
        assert_eq!(suback.reasons, [ReasonCode::TOPIC_FILTER_INVALID], "{filter}");
        let says_why = |it: Property| matches!(it, Property::ReasonString(text) if text.windows(18).any(|it| it == b"cannot be replayed"));
        assert!(suback.properties.iter().any(says_why), "{filter}");
        assert_eq!(peer.commands(), []);
    }
}

#[test]
fn nonsense_in_the_options_is_refused() {
    for property in
        [user("settle", "maybe"), user("consumer-group", "a/b"), user("replay-end", "x")]
    {
        let mut peer = Peer::connected(Version::V5);
        let properties = list(&[property]);
        peer.send(Packet::Subscribe(Subscribe { properties, ..subscribe(1, &["$queue/q"]) }));
        let Packet::SubAck(suback) = peer.packet() else { panic!("no SUBACK") };
        assert_eq!(suback.reasons, [ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR]);
    }
}

#[test]
fn the_protocols_acknowledgement_settles_unless_the_subscription_settles_by_address() {
    for (settle_explicit, count) in [(false, 1), (true, 0)] {
        let mut peer = Peer::connected(Version::V5);
        let id = delivery_id(DeliverySource::Group(2), 8);
        peer.deliver(Delivery { id, settle_explicit, ..delivery(8, QoS::AtLeastOnce) });
        assert_eq!(peer.commands(), []);
        let packet_id = peer.publishes()[0].packet_id;
        peer.send(Packet::PubAck(ack(packet_id)));
        let settled = Command::Settle { delivery: id, outcome: Outcome::Accepted };
        assert_eq!(peer.commands(), vec![settled; count]);
    }
}

#[test]
fn an_error_from_the_receiver_rejects() {
    let mut peer = Peer::connected(Version::V5);
    let id = delivery_id(DeliverySource::Group(2), 8);
    peer.deliver(Delivery { id, ..delivery(8, QoS::AtLeastOnce) });
    peer.commands();
    let packet_id = peer.publishes()[0].packet_id;
    peer.send(Packet::PubAck(ack_with(packet_id, ReasonCode::UNSPECIFIED_ERROR)));
    let rejected = Command::Settle { delivery: id, outcome: Outcome::Rejected };
    assert_eq!(peer.command(), rejected);
}
