//! §3.1.2.4, §3.2.2.1.1, §4.1, §4.5: what a session keeps, how long, and for whom.

use super::*;

#[test]
fn mqtt_3_1_2_4_a_clean_start_discards_what_was_there() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let (old, _) = stack.lasting(version, "c");
        stack.subscribe(old, "t/#", AT_LEAST);
        stack.leave(old);
        let publisher = stack.client(version, "p");
        stack.publish(publisher, "t/1", "missed", AT_LEAST);

        let (new, connack) = stack.connect(version, |connect| connect.client_id = text("c"));
        stack.publish(publisher, "t/1", "later", AT_LEAST);

        assert!(!connack.session_present);
        assert_eq!(stack.texts(new), Vec::<String>::new(), "{version:?}");
    }
}

#[test]
fn mqtt_3_1_2_5_a_session_that_exists_is_gone_on_with() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let (old, _) = stack.lasting(version, "c");
        stack.subscribe(old, "t/#", AT_LEAST);
        stack.leave(old);
        let publisher = stack.client(version, "p");
        stack.publish(publisher, "t/1", "missed", AT_LEAST);

        let (new, connack) = stack.lasting(version, "c");

        assert_eq!(connack.session_present, version != Version::V31);
        assert_eq!(stack.texts(new), ["missed"], "{version:?}");
    }
}

#[test]
fn mqtt_3_1_2_6_without_a_session_a_new_one_begins() {
    for version in STANDARDS {
        let mut stack = Stack::new();
        let (_, connack) = stack.lasting(version, "c");
        assert!(!connack.session_present);
    }
}

#[test]
fn mqtt_3_1_2_23_a_session_with_an_expiry_outlives_connection_and_broker() {
    for version in STANDARDS {
        let mut stack = Stack::new();
        let (old, _) = stack.lasting(version, "c");
        stack.subscribe(old, "t/#", AT_LEAST);
        stack.cut(old);

        let mut stack = stack.crash();
        let publisher = stack.client(version, "p");
        stack.publish(publisher, "t/1", "after", AT_LEAST);
        let (new, connack) = stack.lasting(version, "c");

        assert!(connack.session_present);
        assert_eq!(stack.texts(new), ["after"]);
    }
}

#[test]
fn mqtt_3_1_3_2_the_client_identifier_alone_tells_sessions_apart() {
    let mut stack = Stack::new();
    for (client_id, filter) in [("c", "of/c"), ("C", "of/C"), ("c ", "of/c ")] {
        let (id, connack) = stack.lasting(Version::V5, client_id);
        assert!(!connack.session_present, "'{client_id}' is another's");
        stack.subscribe(id, filter, AT_LEAST);
        stack.leave(id);
    }
    let publisher = stack.client(Version::V5, "p");
    for topic in ["of/c", "of/C", "of/c "] {
        stack.publish(publisher, topic, topic, AT_LEAST);
    }

    // The version is no part of it.
    let (id, connack) = stack.lasting(Version::V311, "C");
    assert!(connack.session_present);
    assert_eq!(stack.texts(id), ["of/C"]);
}

#[test]
fn mqtt_3_1_3_6_clients_without_an_identifier_get_one_each() {
    for version in STANDARDS {
        let mut stack = Stack::new();
        let one = stack.client(version, "");
        let two = stack.client(version, "");
        stack.subscribe(one, "t", AT_LEAST);
        stack.publish(two, "t", "x", AT_LEAST);
        assert!(stack.is_up(one) && stack.is_up(two), "neither took the other's session");
        assert_eq!(stack.texts(one), ["x"]);
    }
}

#[test]
fn mqtt_3_1_4_3_a_newer_connection_ends_the_older_one() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let (old, _) = stack.lasting(version, "c");
        stack.subscribe(old, "t/#", AT_LEAST);
        let other = stack.client(version, "other");

        let (new, _) = stack.lasting(version, "c");

        stack.assert_ended(old, ReasonCode::SESSION_TAKEN_OVER);
        stack.publish(other, "t/1", "x", AT_LEAST);
        assert_eq!(stack.texts(new), ["x"]);
    }
}

#[test]
fn mqtt_3_1_4_4_and_5_an_accepted_connect_gets_connack_once_and_first() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let (old, _) = stack.lasting(version, "c");
        stack.subscribe(old, "t", AT_LEAST);
        stack.leave(old);
        let publisher = stack.client(version, "p");
        stack.publish(publisher, "t", "x", AT_LEAST);

        let id = stack.dial(version);
        stack.send(
            id,
            Packet::Connect(Box::new(Connect {
                client_id: text("c"),
                clean_start: false,
                ..connect(version)
            })),
        );

        let packets = stack.packets(id);
        assert!(matches!(packets[0], Packet::ConnAck(_)), "{packets:?}");
        assert!(!packets[1..].iter().any(|packet| matches!(packet, Packet::ConnAck(_))));
        assert!(packets.len() > 1, "the backlog follows");
    }
}

#[test]
fn mqtt_3_2_2_2_a_clean_start_is_told_that_no_session_is_present() {
    for version in STANDARDS {
        let mut stack = Stack::new();
        let (old, _) = stack.lasting(version, "c");
        stack.leave(old);
        let (_, connack) = stack.connect(version, |connect| connect.client_id = text("c"));
        assert!(!connack.session_present);
    }
}

#[test]
fn mqtt_3_2_2_16_no_two_clients_are_assigned_the_same_identifier() {
    let mut stack = Stack::new();
    let mut assigned = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let (_, connack) = stack.connect(Version::V5, |connect| connect.client_id = Bytes::new());
        let id = connack.properties.find(|property| match property {
            Property::AssignedClientId(id) => Some(id),
            _ => None,
        });
        assert!(assigned.insert(id.expect("it is told")));
    }
}

#[test]
fn mqtt_4_1_0_1_a_session_lives_as_long_as_its_connection_whatever_its_expiry() {
    for version in STANDARDS {
        let mut stack = Stack::new();
        let (id, _) = stack.connect(version, |connect| {
            connect.client_id = text("c");
            if version.is_v5() {
                connect.properties = list(&[Property::SessionExpiry(1)]);
            }
        });
        stack.subscribe(id, "t", AT_LEAST);

        stack.pass(3_600_000);
        let publisher = stack.client(version, "p");
        stack.publish(publisher, "t", "x", AT_LEAST);

        assert_eq!(stack.texts(id), ["x"], "{version:?}");
    }
}

#[test]
fn mqtt_4_1_0_2_a_session_ends_when_its_expiry_has_passed_and_not_before() {
    let mut stack = Stack::new();
    for (ms, is_there) in [(299_000, true), (301_000, false)] {
        let (id, _) = stack.lasting(Version::V5, "c");
        stack.leave(id);
        stack.pass(ms);
        let (id, connack) = stack.lasting(Version::V5, "c");
        assert_eq!(connack.session_present, is_there, "after {ms} ms");
        stack.leave(id);
    }
}

#[test]
fn mqtt_4_1_0_2_the_expiry_of_disconnect_counts() {
    let mut stack = Stack::new();
    let (id, _) = stack.lasting(Version::V5, "c");
    let properties = list(&[Property::SessionExpiry(0)]);
    stack.send(id, Packet::Disconnect(Disconnect { properties, ..Disconnect::default() }));
    let (_, connack) = stack.lasting(Version::V5, "c");
    assert!(!connack.session_present);
}

#[test]
fn mqtt_311_3_1_2_6_a_clean_session_ends_with_its_connection() {
    for version in [Version::V31, Version::V311] {
        let mut stack = Stack::new();
        let clean = stack.client(version, "c");
        stack.subscribe(clean, "t", AT_LEAST);
        stack.leave(clean);
        let publisher = stack.client(version, "p");
        stack.publish(publisher, "t", "x", AT_LEAST);
        let (id, connack) = stack.lasting(version, "c");
        assert!(!connack.session_present);
        assert_eq!(stack.texts(id), Vec::<String>::new());
    }
}

#[test]
fn mqtt_4_5_0_1_a_message_joins_every_session_that_subscribed_connected_or_not() {
    for version in STANDARDS {
        let mut stack = Stack::new();
        let (away, _) = stack.lasting(version, "away");
        stack.subscribe(away, "t/+", AT_LEAST);
        stack.leave(away);
        let here = stack.client(version, "here");
        stack.subscribe(here, "t/#", AT_LEAST);
        let elsewhere = stack.client(version, "elsewhere");
        stack.subscribe(elsewhere, "u/#", AT_LEAST);

        let publisher = stack.client(version, "p");
        for qos in [AT_LEAST, EXACTLY] {
            stack.publish(publisher, "t/1", "x", qos);
        }

        let (back, _) = stack.lasting(version, "away");
        assert_eq!(stack.texts(back), ["x", "x"]);
        assert_eq!(stack.texts(here), ["x", "x"]);
        assert_eq!(stack.texts(elsewhere), Vec::<String>::new());
    }
}
