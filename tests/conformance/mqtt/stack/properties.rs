//! §3.3.2.3, §3.1.2.11: what publishers attach and subscribers ask for, between two clients.

use super::*;

fn attached() -> Vec<Property> {
    vec![
        Property::PayloadFormat(true),
        user("b", "2"),
        Property::ResponseTopic(text("answers/here")),
        user("a", "1"),
        Property::CorrelationData(Bytes::from_static(b"\x00\xFF")),
        user("b", "2"),
        Property::ContentType(text("text/plain")),
    ]
}

#[test]
fn mqtt_3_3_2_4_and_15_to_20_properties_reach_subscribers_as_they_were() {
    for qos in [AT_MOST, AT_LEAST, EXACTLY] {
        for retain in [false, true] {
            let mut stack = Stack::new();
            let subscriber = stack.client(Version::V5, "s");
            let publisher = stack.client(Version::V5, "p");
            if !retain {
                stack.subscribe(subscriber, "t/1", EXACTLY);
            }
            stack.publish_with(publisher, |publish| {
                publish.qos = qos;
                publish.retain = retain;
                publish.properties = list(&attached());
            });
            if retain {
                stack.subscribe(subscriber, "t/1", EXACTLY);
            }
            let messages = stack.messages(subscriber);
            let got: Vec<Property> = messages[0].properties.iter().collect();
            let users = |all: &[Property]| -> Vec<Property> {
                all.iter().filter(|it| matches!(it, Property::User(..))).cloned().collect()
            };
            assert_eq!(users(&got), users(&attached()), "the order is theirs");
            for property in attached() {
                assert!(got.contains(&property), "{property:?} at {qos:?}, retained {retain}");
            }
        }
    }
}

#[test]
fn mqtt_3_3_2_5_what_expired_before_its_delivery_began_is_not_delivered() {
    for (away_ms, expected) in [(9_000, 1), (11_000, 0)] {
        let mut stack = Stack::new();
        let (subscriber, _) = stack.lasting(Version::V5, "s");
        stack.subscribe(subscriber, "t/#", AT_LEAST);
        stack.leave(subscriber);
        let publisher = stack.client(Version::V5, "p");
        stack.publish_with(publisher, |publish| {
            publish.qos = AT_LEAST;
            publish.properties = list(&[Property::MessageExpiry(10)]);
        });
        stack.pass(away_ms);
        let (subscriber, _) = stack.lasting(Version::V5, "s");
        assert_eq!(stack.messages(subscriber).len(), expected, "after {away_ms} ms");
    }
}

#[test]
fn mqtt_3_3_2_6_the_time_a_message_waited_is_taken_off_its_expiry() {
    let mut stack = Stack::new();
    let (subscriber, _) = stack.lasting(Version::V5, "s");
    stack.subscribe(subscriber, "t/#", AT_LEAST);
    stack.leave(subscriber);
    let publisher = stack.client(Version::V5, "p");
    stack.publish_with(publisher, |publish| {
        publish.qos = AT_LEAST;
        publish.retain = true;
        publish.properties = list(&[Property::MessageExpiry(100)]);
    });
    stack.pass(40_000);
    let (subscriber, _) = stack.lasting(Version::V5, "s");
    let late = stack.client(Version::V5, "late");
    stack.subscribe(late, "t/1", AT_LEAST);
    for id in [subscriber, late] {
        let messages = stack.messages(id);
        let left = messages[0].properties.find(|property| match property {
            Property::MessageExpiry(s) => Some(s),
            _ => None,
        });
        assert_eq!(left, Some(60));
    }
}

#[test]
fn mqtt_3_1_2_24_and_25_what_a_client_cannot_take_is_not_sent_and_holds_nothing_up() {
    for qos in [AT_MOST, AT_LEAST, EXACTLY] {
        let mut stack = Stack::new();
        let (small, _) = stack.connect(Version::V5, |connect| {
            connect.client_id = text("small");
            connect.properties =
                list(&[Property::MaximumPacketSize(60), Property::ReceiveMaximum(2)]);
        });
        let large = stack.client(Version::V5, "large");
        for id in [small, large] {
            stack.subscribe(id, "t", EXACTLY);
        }
        let publisher = stack.client(Version::V5, "p");
        for _ in 0..5 {
            stack.publish(publisher, "t", &"x".repeat(80), qos);
        }
        stack.publish(publisher, "t", "fits", qos);
        assert_eq!(stack.texts(small), ["fits"], "{qos:?}");
        assert_eq!(stack.messages(large).len(), 6);
    }
}

#[test]
fn mqtt_3_3_2_7_an_alias_ends_with_its_connection() {
    let mut stack = Stack::new();
    let (publisher, _) = stack.lasting(Version::V5, "p");
    let subscriber = stack.client(Version::V5, "s");
    stack.subscribe(subscriber, "t/#", AT_LEAST);
    let alias = list(&[Property::TopicAlias(1)]);
    for topic in ["t/1", ""] {
        let properties = alias.clone();
        stack.publish_with(publisher, |publish| {
            publish.topic = text(topic);
            publish.properties = properties;
        });
    }
    let messages = stack.messages(subscriber);
    assert_eq!(messages.iter().map(|it| &it.topic[..]).collect::<Vec<_>>(), [b"t/1", b"t/1"]);

    stack.leave(publisher);
    let (publisher, _) = stack.lasting(Version::V5, "p");
    stack.send(
        publisher,
        Packet::Publish(Publish { topic: Bytes::new(), properties: alias, ..publish(AT_MOST, 0) }),
    );
    stack.assert_ended(publisher, ReasonCode::PROTOCOL_ERROR);
    assert_eq!(stack.messages(subscriber), []);
}

#[test]
fn mqtt_3_1_2_29_without_problem_information_only_three_packets_say_why() {
    let mut stack = Stack::new();
    let (client, _) = stack.connect(Version::V5, |connect| {
        connect.properties = list(&[Property::RequestProblemInformation(false)]);
    });
    stack.subscribe(client, "t/#", AT_LEAST);
    stack.send(client, Packet::Subscribe(super::subscribe(70, &["a#"])));
    stack.send(client, Packet::Publish(Publish { topic: text("$SYS/x"), ..publish(AT_LEAST, 71) }));
    stack.send(client, Packet::PubRel(ack(72)));
    let explains = |packet: &Packet| {
        let properties = match packet {
            Packet::PubAck(it) | Packet::PubRec(it) | Packet::PubRel(it) | Packet::PubComp(it) => {
                &it.properties
            }
            Packet::SubAck(it) => &it.properties,
            Packet::UnsubAck(it) => &it.properties,
            other => panic!("none of those: {other:?}"),
        };
        !properties.is_empty()
    };
    let packets = stack.packets(client);
    assert_eq!(packets.len(), 3, "{packets:?}");
    assert!(!packets.iter().any(explains), "{packets:?}");
}

#[test]
fn mqtt_3_1_2_26_and_27_no_alias_above_the_clients_maximum_is_sent() {
    for maximum in [None, Some(0), Some(1), Some(3)] {
        let mut stack = Stack::new();
        let (subscriber, _) = stack.connect(Version::V5, |connect| {
            connect.client_id = text("s");
            let maximum = maximum.map(Property::TopicAliasMaximum);
            connect.properties = maximum.into_iter().collect();
        });
        stack.subscribe(subscriber, "t/#", EXACTLY);
        let publisher = stack.client(Version::V5, "p");
        let mut topics = std::collections::BTreeMap::new();
        for number in 0..15 {
            let topic = format!("t/{}", number % 5);
            stack.publish(publisher, &topic, &topic, AT_LEAST);
            let message = stack.messages(subscriber).remove(0);
            let alias = message.properties.find(|property| match property {
                Property::TopicAlias(alias) => Some(alias),
                _ => None,
            });
            let Some(alias) = alias else {
                assert_eq!(message.topic, text(&topic));
                continue;
            };
            assert!((1..=maximum.unwrap_or(0)).contains(&alias), "{alias} of {maximum:?}");
            if !message.topic.is_empty() {
                topics.insert(alias, message.topic.clone());
            }
            assert_eq!(topics[&alias], message.payload, "the alias stands for its topic");
        }
    }
}
