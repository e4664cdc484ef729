//! Topic aliases towards the client (MQTT 5 §3.3.2.3.4). Those from the client are in `publish.rs`.

use super::*;
use fluxmq::model::effect::Outbound;

fn aliased(alias_max: u16) -> Peer {
    Peer::connected_with(Version::V5, settings(), |connect| {
        connect.properties = list(&[Property::TopicAliasMaximum(alias_max)]);
    })
}

/// Delivers and returns topic and alias of what is sent.
fn sent(peer: &mut Peer, topic: &str, qos: QoS, offset: u64) -> (Bytes, Option<u16>) {
    let message = Arc::new(message(topic, qos));
    peer.deliver(Delivery { message, ..delivery(offset, qos) });
    peer.commands();
    let publishes = peer.publishes();
    let [publish] = &publishes[..] else { panic!("{publishes:?}") };
    let alias = publish.properties.iter().find_map(|property| match property {
        Property::TopicAlias(alias) => Some(alias),
        _ => None,
    });
    (publish.topic.clone(), alias)
}

#[test]
fn mqtt_3_1_2_27_a_client_that_announces_no_aliases_gets_none() {
    for mut peer in [Peer::connected(Version::V5), Peer::connected(Version::V311), aliased(0)] {
        for offset in 0..3 {
            let named = sent(&mut peer, "a/long/topic", QoS::AtLeastOnce, offset);
            assert_eq!(named, (text("a/long/topic"), None));
        }
    }
}

#[test]
fn a_topic_is_sent_once_and_its_alias_from_then_on_whatever_the_qos() {
    let mut peer = aliased(10);
    let first = sent(&mut peer, "a/long/topic", QoS::AtLeastOnce, 0);
    assert_eq!(first, (text("a/long/topic"), Some(1)));
    for (offset, qos) in [(1, QoS::AtMostOnce), (2, QoS::AtLeastOnce), (3, QoS::ExactlyOnce)] {
        assert_eq!(sent(&mut peer, "a/long/topic", qos, offset), (Bytes::new(), Some(1)));
    }
    assert_eq!(sent(&mut peer, "b/long/topic", QoS::AtMostOnce, 4).1, Some(2));
}

#[test]
fn mqtt_3_1_2_26_no_alias_is_above_what_either_side_allows() {
    for (announced, most) in [(3, 3), (1000, 32)] {
        let mut peer = aliased(announced);
        let mut highest = 0;
        for offset in 0..500 {
            let topic = format!("a/long/topic/{}", offset % 100);
            let (_, alias) = sent(&mut peer, &topic, QoS::AtMostOnce, offset);
            highest = highest.max(alias.unwrap_or(0));
        }
        assert_eq!(highest, most);
    }
}

#[test]
fn aliases_save_the_topic_of_every_message_but_the_first() {
    let bytes = |peer: &mut Peer| {
        for offset in 0..100 {
            peer.deliver(Delivery {
                message: Arc::new(message(
                    "building/7/floor/3/room/12/temperature",
                    QoS::AtMostOnce,
                )),
                ..delivery(offset, QoS::AtMostOnce)
            });
        }
        peer.commands();
        peer.bytes().len()
    };
    let (plain, short) = (bytes(&mut Peer::connected(Version::V5)), bytes(&mut aliased(1)));
    let topic = "building/7/floor/3/room/12/temperature".len();
    assert_eq!(plain - short, 99 * topic - 100 * 3);
}

#[test]
fn what_is_sent_again_on_a_new_connection_names_its_topic() {
    let mut peer = aliased(10);
    sent(&mut peer, "t/1", QoS::AtLeastOnce, 0);
    let mut again = Peer::new(Version::V5);
    again.connect(|connect| {
        connect.clean_start = false;
        connect.properties = list(&[Property::SessionExpiry(60), Property::TopicAliasMaximum(10)]);
    });
    again.open();
    let resent = |packet_id, offset| {
        let message = Arc::new(message("a/long/topic", QoS::AtLeastOnce));
        let delivery = Delivery { message, ..delivery(offset, QoS::AtLeastOnce) };
        Outbound::Publish { packet_id, delivery }
    };
    let outbound = vec![resent(1, 0), resent(2, 1)];
    again.opened(Opened { session_present: true, persistent: true, outbound, ..opened() });
    again.commands();
    let publishes = again.publishes();
    let topics: Vec<_> = publishes.iter().map(|publish| publish.topic.clone()).collect();
    assert_eq!(topics, [text("a/long/topic"), Bytes::new()], "defined here, not before");
    assert!(publishes.iter().all(|publish| publish.dup));
}

#[test]
fn mqtt_3_1_2_24_an_alias_never_makes_a_packet_too_large() {
    let topic = "a/long/topic";
    // Fixed header, topic, property length and payload, without a byte to spare.
    let exact = 2 + 2 + topic.len() + 1 + "hello".len();
    let mut peer = Peer::connected_with(Version::V5, settings(), |connect| {
        connect.properties =
            list(&[Property::TopicAliasMaximum(5), Property::MaximumPacketSize(exact as u32)]);
    });
    assert_eq!(sent(&mut peer, topic, QoS::AtMostOnce, 0), (text(topic), None));
}
