//! §3.8, §3.10, §3.3.4: subscriptions that are made, replaced, overlapping and removed.

use super::*;

/// The identifiers a delivery carries, in ascending order.
fn identifiers(publish: &Publish) -> Vec<u32> {
    let identifier = |property| match property {
        Property::SubscriptionId(id) => Some(id),
        _ => None,
    };
    let mut ids: Vec<u32> = publish.properties.iter().filter_map(identifier).collect();
    ids.sort_unstable();
    ids
}

fn no_local(filter: &str) -> SubscribeFilter {
    SubscribeFilter { no_local: true, ..SubscribeFilter::new(text(filter), EXACTLY) }
}

#[test]
fn mqtt_3_3_4_2_overlapping_subscriptions_give_the_highest_qos() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let subscriber = stack.client(version, "s");
        stack.subscribe(subscriber, "t/#", AT_MOST);
        stack.subscribe(subscriber, "t/+", EXACTLY);
        stack.subscribe(subscriber, "+/1", AT_LEAST);
        let publisher = stack.client(version, "p");
        stack.publish(publisher, "t/1", "x", EXACTLY);
        let messages = stack.messages(subscriber);
        let highest = messages.iter().map(|it| it.qos).max();
        assert_eq!(highest, Some(EXACTLY), "{version:?}");
    }
}

#[test]
fn mqtt_3_3_4_3_and_4_one_delivery_carries_every_identifier_that_matched() {
    for qos in [AT_MOST, AT_LEAST, EXACTLY] {
        let mut stack = Stack::new();
        let subscriber = stack.client(Version::V5, "s");
        for (filter, id) in [("t/#", 7), ("t/1", 268_435_455), ("+/1", 3), ("u", 9)] {
            let filter = SubscribeFilter::new(text(filter), EXACTLY);
            stack.subscribe_with(subscriber, filter, &[Property::SubscriptionId(id)]);
        }
        stack.subscribe(subscriber, "#", AT_LEAST);
        let publisher = stack.client(Version::V5, "p");
        stack.publish(publisher, "t/1", "x", qos);
        let messages = stack.messages(subscriber);
        assert_eq!(messages.len(), 1, "{qos:?}");
        assert_eq!(identifiers(&messages[0]), [3, 7, 268_435_455], "{qos:?}");
    }
}

#[test]
fn mqtt_3_3_4_3_a_retained_message_carries_the_identifier_too() {
    let mut stack = Stack::new();
    let publisher = stack.client(Version::V5, "p");
    stack.publish_with(publisher, |publish| publish.retain = true);
    let subscriber = stack.client(Version::V5, "s");
    let filter = SubscribeFilter::new(text("t/1"), AT_LEAST);
    stack.subscribe_with(subscriber, filter, &[Property::SubscriptionId(5)]);
    assert_eq!(identifiers(&stack.messages(subscriber)[0]), [5]);
}

#[test]
fn mqtt_3_8_3_3_no_local_keeps_a_client_from_its_own_messages() {
    for qos in [AT_MOST, AT_LEAST, EXACTLY] {
        let mut stack = Stack::new();
        let client = stack.client(Version::V5, "c");
        let other = stack.client(Version::V5, "o");
        for id in [client, other] {
            stack.subscribe_with(id, no_local("t"), &[]);
        }
        stack.publish(client, "t", "x", qos);
        assert_eq!(stack.texts(client), Vec::<String>::new(), "{qos:?}");
        assert_eq!(stack.texts(other), ["x"], "{qos:?}");
    }
}

#[test]
fn mqtt_3_8_3_3_no_local_knows_the_client_on_another_connection() {
    let mut stack = Stack::new();
    let (id, _) = stack.lasting(Version::V5, "c");
    stack.subscribe_with(id, no_local("t"), &[]);
    stack.publish(id, "t", "x", AT_LEAST);
    stack.leave(id);
    let (id, _) = stack.lasting(Version::V5, "c");
    stack.publish(id, "t", "y", AT_LEAST);
    assert_eq!(stack.texts(id), Vec::<String>::new());
}

#[test]
fn mqtt_3_8_4_3_an_identical_filter_replaces_the_subscription() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let subscriber = stack.client(version, "s");
        assert_eq!(stack.subscribe(subscriber, "t/1", EXACTLY), ReasonCode::GRANTED_QOS_2);
        assert_eq!(stack.subscribe(subscriber, "t/1", AT_MOST), ReasonCode::SUCCESS);
        let publisher = stack.client(version, "p");
        stack.publish(publisher, "t/1", "x", EXACTLY);
        let messages = stack.messages(subscriber);
        assert_eq!(messages.len(), 1, "{version:?}");
        assert_eq!(messages[0].qos, AT_MOST);
        stack.unsubscribe(subscriber, "t/1");
        stack.publish(publisher, "t/1", "y", EXACTLY);
        assert_eq!(stack.messages(subscriber), [], "one subscription, one UNSUBSCRIBE");
    }
}

#[test]
fn mqtt_3_8_4_4_replacing_a_subscription_loses_nothing() {
    for version in STANDARDS {
        let mut stack = Stack::new();
        let (subscriber, _) = stack.lasting(version, "s");
        stack.subscribe(subscriber, "t/1", AT_LEAST);
        let publisher = stack.client(version, "p");
        // More than the window holds: the rest waits in the session while its subscription is replaced.
        for number in 0..150 {
            stack.publish(publisher, "t/1", &number.to_string(), AT_LEAST);
            if number == 100 {
                stack.subscribe(subscriber, "t/1", EXACTLY);
            }
        }
        let expected: Vec<String> = (0..150).map(|number| number.to_string()).collect();
        assert_eq!(stack.texts(subscriber), expected, "{version:?}");
    }
}

#[test]
fn mqtt_3_8_4_5_several_filters_are_several_subscriptions() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let subscriber = stack.client(version, "s");
        stack.send(subscriber, Packet::Subscribe(super::subscribe(9, &["a", "b", "a/#"])));
        let Packet::SubAck(suback) = stack.packet(subscriber) else { panic!("no SUBACK") };
        assert_eq!((suback.packet_id, suback.reasons.len()), (9, 3));
        stack.unsubscribe(subscriber, "a");
        let publisher = stack.client(version, "p");
        for topic in ["a/x", "b", "c"] {
            stack.publish(publisher, topic, topic, AT_LEAST);
        }
        let mut texts = stack.texts(subscriber);
        texts.sort();
        assert_eq!(texts, ["a/x", "b"], "{version:?}");
    }
}

#[test]
fn mqtt_3_8_4_7_the_qos_asked_for_is_granted() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let subscriber = stack.client(version, "s");
        for (bits, qos) in [AT_MOST, AT_LEAST, EXACTLY].into_iter().enumerate() {
            assert_eq!(stack.subscribe(subscriber, "t", qos), ReasonCode(bits as u8));
        }
    }
}

#[test]
fn mqtt_3_8_4_8_a_delivery_has_the_lower_of_both_qos() {
    for version in VERSIONS {
        for granted in [AT_MOST, AT_LEAST, EXACTLY] {
            let mut stack = Stack::new();
            let subscriber = stack.client(version, "s");
            stack.subscribe(subscriber, "t", granted);
            let publisher = stack.client(version, "p");
            for published in [AT_MOST, AT_LEAST, EXACTLY] {
                stack.publish(publisher, "t", "x", published);
                let messages = stack.messages(subscriber);
                assert_eq!(messages.len(), 1);
                assert_eq!(messages[0].qos, published.min(granted));
            }
        }
    }
}

#[test]
fn mqtt_3_10_4_1_only_the_very_same_filter_is_removed() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let subscriber = stack.client(version, "s");
        stack.subscribe(subscriber, "t/+", AT_LEAST);
        let publisher = stack.client(version, "p");
        for filter in ["t/#", "t/1", "T/+", "t/+/", "#"] {
            stack.unsubscribe(subscriber, filter);
            stack.publish(publisher, "t/1", filter, AT_LEAST);
            assert_eq!(stack.texts(subscriber), [filter]);
        }
        stack.unsubscribe(subscriber, "t/+");
        stack.publish(publisher, "t/1", "x", AT_LEAST);
        assert_eq!(stack.texts(subscriber), Vec::<String>::new());
    }
}

#[test]
fn mqtt_3_10_4_1_unsuback_says_what_was_there() {
    let mut stack = Stack::new();
    let subscriber = stack.client(Version::V5, "s");
    stack.subscribe(subscriber, "a", AT_LEAST);
    let filters = vec![text("b"), text("a"), text("a")];
    let properties = PropertyList::default();
    stack.send(subscriber, Packet::Unsubscribe(Unsubscribe { packet_id: 7, properties, filters }));
    let Packet::UnsubAck(unsuback) = stack.packet(subscriber) else { panic!("no UNSUBACK") };
    let nothing = ReasonCode::NO_SUBSCRIPTION_EXISTED;
    assert_eq!(unsuback.reasons, [nothing, ReasonCode::SUCCESS, nothing]);
}

#[test]
fn mqtt_3_10_4_3_a_delivery_that_began_is_completed() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let subscriber = stack.client(version, "s");
        stack.subscribe(subscriber, "t", EXACTLY);
        let publisher = stack.client(version, "p");
        stack.publish(publisher, "t", "x", EXACTLY);
        let Packet::Publish(publish) = stack.packet(subscriber) else { panic!("no PUBLISH") };

        stack.unsubscribe(subscriber, "t");
        stack.send(subscriber, Packet::PubRec(ack(publish.packet_id)));

        assert_eq!(stack.packet(subscriber), Packet::PubRel(ack(publish.packet_id)));
        stack.send(subscriber, Packet::PubComp(ack(publish.packet_id)));
        assert!(stack.is_up(subscriber));
    }
}

/// A client need not wait for SUBACK: what it asked first is done first.
#[test]
fn mqtt_3_10_4_1_a_subscription_that_was_only_just_asked_for_can_be_removed() {
    for version in VERSIONS {
        for lasting in [false, true] {
            let mut stack = Stack::new();
            let subscriber = match lasting {
                true => stack.lasting(version, "s").0,
                false => stack.client(version, "s"),
            };
            let mut bytes = BytesMut::new();
            let unsubscribe = Packet::Unsubscribe(Unsubscribe {
                packet_id: 2,
                properties: PropertyList::default(),
                filters: vec![text("a")],
            });
            let subscribe = |packet_id, filters: &[&str]| {
                Packet::Subscribe(super::subscribe(packet_id, filters))
            };
            for packet in [subscribe(1, &["a", "b"]), unsubscribe, subscribe(3, &["c"])] {
                encode(&packet, version, &mut bytes).expect("short");
            }
            stack.send_bytes(subscriber, &bytes);

            let answers: Vec<u16> = stack
                .packets(subscriber)
                .into_iter()
                .map(|packet| match packet {
                    Packet::SubAck(suback) => suback.packet_id,
                    Packet::UnsubAck(unsuback) => unsuback.packet_id,
                    other => panic!("neither: {other:?}"),
                })
                .collect();
            assert_eq!(answers, [1, 2, 3], "{version:?}, lasting {lasting}");
            let publisher = stack.client(version, "p");
            for topic in ["a", "b", "c"] {
                stack.publish(publisher, topic, topic, AT_LEAST);
            }
            let mut texts = stack.texts(subscriber);
            texts.sort();
            assert_eq!(texts, ["b", "c"], "{version:?}, lasting {lasting}");
        }
    }
}
