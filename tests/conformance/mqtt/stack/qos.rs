//! §4.3, §4.4, §4.6, §4.9: exchanges between two clients, with connections that break at every half-step.

use super::*;

/// Publishes `count` numbered messages at one QoS to `t`.
fn publish_numbers(stack: &mut Stack, id: ConnectionId, count: usize, qos: QoS) {
    for number in 0..count {
        stack.publish(id, "t", &number.to_string(), qos);
    }
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[test]
fn mqtt_3_3_1_1_and_4_4_0_1_an_unfinished_delivery_comes_again_with_dup_and_its_number() {
    for version in VERSIONS {
        for qos in [AT_LEAST, EXACTLY] {
            let mut stack = Stack::new();
            let (subscriber, _) = stack.lasting(version, "s");
            stack.subscribe(subscriber, "t", qos);
            let publisher = stack.client(version, "p");
            stack.publish(publisher, "t", "x", qos);
            let Packet::Publish(first) = stack.packet(subscriber) else { panic!("no PUBLISH") };
            assert!(!first.dup);
            stack.pass(600_000);
            assert_eq!(stack.packets(subscriber), [], "never again on the same connection");

            stack.cut(subscriber);
            let (subscriber, _) = stack.lasting(version, "s");

            let Packet::Publish(second) = stack.packet(subscriber) else { panic!("no PUBLISH") };
            assert_eq!(second, Publish { dup: true, ..first }, "{version:?} {qos:?}");
        }
    }
}

#[test]
fn mqtt_3_3_1_3_a_publishers_dup_is_its_own() {
    for version in VERSIONS {
        for qos in [AT_LEAST, EXACTLY] {
            let mut stack = Stack::new();
            let (stored, _) = stack.lasting(version, "stored");
            let live = stack.client(version, "live");
            for id in [stored, live] {
                stack.subscribe(id, "t", qos);
            }
            let publisher = stack.client(version, "p");
            stack.publish_with(publisher, |publish| {
                publish.topic = text("t");
                publish.qos = qos;
                publish.dup = true;
            });
            for id in [stored, live] {
                let messages = stack.messages(id);
                assert_eq!((messages.len(), messages[0].dup), (1, false), "{version:?} {qos:?}");
            }
        }
    }
}

#[test]
fn mqtt_4_3_3_5_and_6_after_pubrec_only_pubrel_comes_again() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let (subscriber, _) = stack.lasting(version, "s");
        stack.subscribe(subscriber, "t", EXACTLY);
        let publisher = stack.client(version, "p");
        stack.publish(publisher, "t", "x", EXACTLY);
        let Packet::Publish(publish) = stack.packet(subscriber) else { panic!("no PUBLISH") };
        stack.send(subscriber, Packet::PubRec(ack(publish.packet_id)));
        let pubrel = Packet::PubRel(ack(publish.packet_id));
        assert_eq!(stack.packet(subscriber), pubrel);

        stack.cut(subscriber);
        let (subscriber, _) = stack.lasting(version, "s");

        assert_eq!(stack.packet(subscriber), pubrel, "{version:?}");
        stack.send(subscriber, Packet::PubComp(ack(publish.packet_id)));
        stack.cut(subscriber);
        let (subscriber, _) = stack.lasting(version, "s");
        assert_eq!(stack.packets(subscriber), []);
    }
}

#[test]
fn mqtt_4_3_3_10_a_publish_repeated_before_pubrel_is_delivered_once() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let subscriber = stack.client(version, "s");
        stack.subscribe(subscriber, "t/1", EXACTLY);
        let (publisher, _) = stack.lasting(version, "p");
        stack.send(publisher, Packet::Publish(publish(EXACTLY, 9)));
        assert!(matches!(stack.packet(publisher), Packet::PubRec(_)));

        stack.cut(publisher);
        let (publisher, _) = stack.lasting(version, "p");
        let again = Publish { dup: true, ..publish(EXACTLY, 9) };
        stack.send(publisher, Packet::Publish(again.clone()));
        assert!(matches!(stack.packet(publisher), Packet::PubRec(_)));
        stack.send(publisher, Packet::PubRel(ack(9)));
        assert_eq!(stack.packet(publisher), Packet::PubComp(ack(9)));
        assert_eq!(stack.texts(subscriber), ["hello"], "{version:?}");

        // The number is free: what looks like a repetition is another message.
        stack.send(publisher, Packet::Publish(again));
        assert!(matches!(stack.packet(publisher), Packet::PubRec(_)));
        assert_eq!(stack.texts(subscriber), ["hello"]);
    }
}

#[test]
fn mqtt_4_3_3_10_it_is_delivered_once_across_a_crash_of_the_broker() {
    for version in STANDARDS {
        let mut stack = Stack::new();
        let (subscriber, _) = stack.lasting(version, "s");
        stack.subscribe(subscriber, "t/1", EXACTLY);
        stack.leave(subscriber);
        let (publisher, _) = stack.lasting(version, "p");
        stack.send(publisher, Packet::Publish(publish(EXACTLY, 9)));
        assert!(matches!(stack.packet(publisher), Packet::PubRec(_)));

        let mut stack = stack.crash();
        let (publisher, connack) = stack.lasting(version, "p");
        assert!(connack.session_present);
        stack.send(publisher, Packet::Publish(Publish { dup: true, ..publish(EXACTLY, 9) }));
        assert!(matches!(stack.packet(publisher), Packet::PubRec(_)));
        stack.send(publisher, Packet::PubRel(ack(9)));
        assert_eq!(stack.packet(publisher), Packet::PubComp(ack(9)));

        let (subscriber, _) = stack.lasting(version, "s");
        assert_eq!(stack.texts(subscriber), ["hello"]);
    }
}

#[test]
fn mqtt_4_3_3_13_an_exchange_ends_although_its_message_expired() {
    let mut stack = Stack::new();
    let publisher = stack.client(Version::V5, "p");
    let properties = list(&[Property::MessageExpiry(1)]);
    stack.send(publisher, Packet::Publish(Publish { properties, ..publish(EXACTLY, 3) }));
    assert!(matches!(stack.packet(publisher), Packet::PubRec(_)));
    stack.pass(60_000);
    stack.send(publisher, Packet::PubRel(ack(3)));
    assert_eq!(stack.packet(publisher), Packet::PubComp(ack(3)));
}

#[test]
fn mqtt_4_6_0_5_and_6_each_subscriber_sees_the_order_of_each_publisher() {
    for version in VERSIONS {
        for qos in [AT_MOST, AT_LEAST, EXACTLY] {
            let mut stack = Stack::new();
            let live = stack.client(version, "live");
            stack.subscribe(live, "+", qos);
            let (stored, _) = stack.lasting(version, "stored");
            stack.subscribe(stored, "t", qos);
            let publisher = stack.client(version, "p");
            publish_numbers(&mut stack, publisher, 100, qos);
            assert_eq!(stack.texts(live), numbers(100), "{version:?} {qos:?}");
            assert_eq!(stack.texts(stored), numbers(100), "{version:?} {qos:?}");
        }
    }
}

#[test]
fn mqtt_4_6_0_5_a_retained_message_keeps_its_place_among_the_others() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let watcher = stack.client(version, "w");
        stack.subscribe(watcher, "t", AT_LEAST);
        let publisher = stack.client(version, "p");
        // All in one write of the client: nothing is stored before the last is read.
        let mut bytes = BytesMut::new();
        for number in 0..20u8 {
            let mut packet = publish(AT_MOST, 0);
            packet.topic = text("t");
            packet.payload = Bytes::from(number.to_string());
            packet.retain = number % 3 == 0;
            encode(&Packet::Publish(packet), version, &mut bytes).expect("it is short");
        }
        stack.send_bytes(publisher, &bytes);
        assert_eq!(stack.texts(watcher), numbers(20), "{version:?}");

        let late = stack.client(version, "l");
        stack.subscribe(late, "t", AT_LEAST);
        assert_eq!(stack.texts(late), ["18"], "{version:?}");
    }
}

#[test]
fn mqtt_4_6_0_1_what_comes_again_comes_in_its_order_and_before_the_rest() {
    for version in VERSIONS {
        for qos in [AT_LEAST, EXACTLY] {
            let mut stack = Stack::new();
            let (subscriber, _) = stack.lasting(version, "s");
            stack.subscribe(subscriber, "t", qos);
            let publisher = stack.client(version, "p");
            publish_numbers(&mut stack, publisher, 100, qos);
            stack.cut(subscriber);
            let (subscriber, _) = stack.lasting(version, "s");
            assert_eq!(stack.texts(subscriber), numbers(100), "{version:?} {qos:?}");
        }
    }
}

/// A client that lets 20 messages be out at most.
fn narrow(stack: &mut Stack) -> ConnectionId {
    let (id, _) = stack.connect(Version::V5, |connect| {
        connect.client_id = text("s");
        connect.properties = list(&[Property::ReceiveMaximum(20)]);
    });
    stack.subscribe(id, "t", EXACTLY);
    id
}

#[test]
fn mqtt_4_9_0_1_and_2_no_more_is_out_than_the_client_allows() {
    for qos in [AT_LEAST, EXACTLY] {
        let mut stack = Stack::new();
        let subscriber = narrow(&mut stack);
        let publisher = stack.client(Version::V5, "p");
        publish_numbers(&mut stack, publisher, 50, qos);
        let packets = stack.packets(subscriber);
        assert_eq!(packets.len(), 20);
        let Packet::Publish(first) = &packets[0] else { panic!("no PUBLISH") };
        match qos {
            QoS::ExactlyOnce => {
                stack.send(subscriber, Packet::PubRec(ack(first.packet_id)));
                stack.packet(subscriber);
                stack.send(subscriber, Packet::PubComp(ack(first.packet_id)));
            }
            _ => stack.send(subscriber, Packet::PubAck(ack(first.packet_id))),
        }
        assert!(matches!(stack.packet(subscriber), Packet::Publish(_)), "one ended, one follows");
    }
}

#[test]
fn mqtt_4_9_0_3_with_nothing_left_to_send_everything_else_is_answered() {
    let mut stack = Stack::new();
    let subscriber = narrow(&mut stack);
    let publisher = stack.client(Version::V5, "p");
    publish_numbers(&mut stack, publisher, 50, AT_LEAST);
    stack.packets(subscriber);

    stack.send(subscriber, Packet::PingReq);
    assert_eq!(stack.packet(subscriber), Packet::PingResp);
    stack.subscribe(subscriber, "u", AT_MOST);
    assert!(stack.publish(subscriber, "v", "x", EXACTLY).is_some());
    stack.publish(publisher, "u", "at most once", AT_MOST);
    assert_eq!(stack.texts(subscriber), ["at most once"]);
    stack.unsubscribe(subscriber, "u");
}

#[test]
fn mqtt_2_2_1_4_numbers_in_use_are_not_given_again() {
    let mut stack = Stack::new();
    let subscriber = narrow(&mut stack);
    let publisher = stack.client(Version::V5, "p");
    publish_numbers(&mut stack, publisher, 60, AT_LEAST);
    let mut out = std::collections::VecDeque::new();
    let mut count = 0;
    loop {
        for packet in stack.packets(subscriber) {
            let Packet::Publish(publish) = packet else { panic!("no PUBLISH") };
            assert_ne!(publish.packet_id, 0);
            assert!(!out.contains(&publish.packet_id), "{} is in use", publish.packet_id);
            out.push_back(publish.packet_id);
            count += 1;
        }
        // The newest first: gaps open in the middle.
        let Some(packet_id) = out.pop_back() else { break };
        stack.send(subscriber, Packet::PubAck(ack(packet_id)));
    }
    assert_eq!(count, 60);
}

#[test]
fn mqtt_4_4_0_2_a_client_that_refuses_a_message_does_not_get_it_again() {
    for qos in [AT_LEAST, EXACTLY] {
        let mut stack = Stack::new();
        let (subscriber, _) = stack.lasting(Version::V5, "s");
        stack.subscribe(subscriber, "t", qos);
        let publisher = stack.client(Version::V5, "p");
        stack.publish(publisher, "t", "x", qos);
        let Packet::Publish(publish) = stack.packet(subscriber) else { panic!("no PUBLISH") };
        let refused = ack_with(publish.packet_id, ReasonCode::QUOTA_EXCEEDED);
        stack.send(
            subscriber,
            match qos {
                QoS::ExactlyOnce => Packet::PubRec(refused),
                _ => Packet::PubAck(refused),
            },
        );
        assert_eq!(stack.packets(subscriber), []);
        stack.cut(subscriber);
        let (subscriber, _) = stack.lasting(Version::V5, "s");
        assert_eq!(stack.packets(subscriber), []);
    }
}
