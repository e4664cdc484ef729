//! §3.1.2.5 to §3.1.2.7, §3.1.3.2 to §3.1.3.4, §3.14.4: wills that are published, and wills that are not.

use super::*;

fn will(topic: &str) -> Will {
    Will {
        topic: text(topic),
        payload: text("gone"),
        qos: AT_LEAST,
        retain: false,
        properties: PropertyList::default(),
    }
}

/// A client with a will, and one that waits for it.
fn mortal_and_watcher(
    stack: &mut Stack,
    version: Version,
    edit: impl FnOnce(&mut Will, &mut Vec<Property>),
) -> (ConnectionId, ConnectionId) {
    let watcher = stack.client(version, "watcher");
    stack.subscribe(watcher, "will/#", EXACTLY);
    let (mut will, mut properties) = (will("will/1"), Vec::new());
    edit(&mut will, &mut properties);
    let (mortal, _) = stack.connect(version, |connect| {
        connect.client_id = text("mortal");
        connect.keep_alive_s = 10;
        connect.will = Some(will);
        connect.properties = list(&properties);
    });
    (mortal, watcher)
}

#[test]
fn mqtt_3_1_2_8_the_will_is_published_when_the_connection_breaks() {
    for version in VERSIONS {
        for qos in [AT_MOST, AT_LEAST, EXACTLY] {
            let mut stack = Stack::new();
            let (mortal, watcher) =
                mortal_and_watcher(&mut stack, version, |will, _| will.qos = qos);
            stack.cut(mortal);
            let messages = stack.messages(watcher);
            assert_eq!(messages.len(), 1);
            assert_eq!((&messages[0].topic[..], messages[0].qos), (&b"will/1"[..], qos));
        }
    }
}

#[test]
fn mqtt_3_1_2_8_the_will_is_published_when_the_client_falls_silent() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let (mortal, watcher) = mortal_and_watcher(&mut stack, version, |_, _| {});
        stack.pass(14_000);
        assert_eq!(stack.texts(watcher), Vec::<String>::new());
        stack.pass(1_000);
        stack.assert_ended(mortal, ReasonCode::KEEP_ALIVE_TIMEOUT);
        assert_eq!(stack.texts(watcher), ["gone"]);
    }
}

#[test]
fn mqtt_3_1_2_8_the_will_is_published_when_the_broker_closes_over_an_error() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let (mortal, watcher) = mortal_and_watcher(&mut stack, version, |_, _| {});
        stack.send_bytes(mortal, b"\x00\x00");
        assert!(!stack.is_up(mortal));
        assert_eq!(stack.texts(watcher), ["gone"]);
    }
}

#[test]
fn mqtt_3_1_2_8_a_delayed_will_waits_and_the_end_of_the_session_does_not() {
    // Delay and expiry in seconds, and when it comes.
    for (delay, expiry, due) in [(5, 100, 5), (100, 5, 5), (5, 0, 0)] {
        let mut stack = Stack::new();
        let (mortal, watcher) = mortal_and_watcher(&mut stack, Version::V5, |will, properties| {
            will.properties = list(&[Property::WillDelay(delay)]);
            properties.push(Property::SessionExpiry(expiry));
        });
        stack.cut(mortal);
        if due > 0 {
            stack.pass(due * 1_000 - 500);
            assert_eq!(stack.texts(watcher), Vec::<String>::new(), "{delay} {expiry}");
            stack.pass(1_000);
        }
        assert_eq!(stack.texts(watcher), ["gone"], "{delay} {expiry}");
    }
}

#[test]
fn mqtt_3_1_2_10_the_will_is_published_once() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let (mortal, watcher) = mortal_and_watcher(&mut stack, version, |_, _| {});
        stack.cut(mortal);
        assert_eq!(stack.texts(watcher), ["gone"]);
        let again = stack.client(version, "mortal");
        stack.cut(again);
        stack.pass(600_000);
        assert_eq!(stack.texts(watcher), Vec::<String>::new());
    }
}

#[test]
fn mqtt_311_3_1_2_12_without_a_will_nothing_is_published() {
    for version in STANDARDS {
        let mut stack = Stack::new();
        let watcher = stack.client(version, "watcher");
        stack.subscribe(watcher, "#", EXACTLY);
        let mortal = stack.client(version, "mortal");
        stack.cut(mortal);
        stack.pass(60_000);
        assert_eq!(stack.packets(watcher), []);
    }
}

#[test]
fn mqtt_3_1_2_14_and_15_a_will_is_retained_when_it_says_so() {
    for version in VERSIONS {
        for retain in [false, true] {
            let mut stack = Stack::new();
            let (mortal, watcher) =
                mortal_and_watcher(&mut stack, version, |will, _| will.retain = retain);
            stack.cut(mortal);
            let messages = stack.messages(watcher);
            assert_eq!(messages.len(), 1);
            assert!(!messages[0].retain, "this subscription was there before");

            let later = stack.client(version, "later");
            stack.subscribe(later, "will/1", AT_LEAST);
            assert_eq!(stack.messages(later).len(), usize::from(retain), "{version:?}");
        }
    }
}

#[test]
fn mqtt_3_1_3_9_a_connection_within_the_delay_takes_the_will_back() {
    let mut stack = Stack::new();
    let (mortal, watcher) = mortal_and_watcher(&mut stack, Version::V5, |will, properties| {
        will.properties = list(&[Property::WillDelay(60)]);
        properties.push(Property::SessionExpiry(300));
    });
    stack.cut(mortal);
    stack.pass(59_000);
    stack.lasting(Version::V5, "mortal");
    stack.pass(600_000);
    assert_eq!(stack.texts(watcher), Vec::<String>::new());
}

#[test]
fn mqtt_3_1_3_10_a_will_is_published_with_its_properties_in_their_order() {
    let mut stack = Stack::new();
    let said = [user("b", "1"), user("a", "2"), user("b", "1"), Property::ContentType(text("t"))];
    let (mortal, watcher) = mortal_and_watcher(&mut stack, Version::V5, |will, _| {
        will.properties = list(&said);
    });
    stack.cut(mortal);
    let messages = stack.messages(watcher);
    let users = |property: &Property| matches!(property, Property::User(..));
    let got: Vec<Property> = messages[0].properties.iter().collect();
    let order: Vec<Property> = got.iter().filter(|it| users(it)).cloned().collect();
    assert_eq!(order, said[..3]);
    assert!(got.contains(&said[3]));
}

#[test]
fn mqtt_3_14_4_3_a_client_that_leaves_takes_its_will_along() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let (mortal, watcher) = mortal_and_watcher(&mut stack, version, |_, _| {});
        stack.leave(mortal);
        stack.pass(600_000);
        assert_eq!(stack.texts(watcher), Vec::<String>::new());
    }
}

#[test]
fn mqtt_3_14_4_3_only_0x00_takes_the_will_along() {
    let mut stack = Stack::new();
    let (mortal, watcher) = mortal_and_watcher(&mut stack, Version::V5, |_, _| {});
    let reason = ReasonCode::DISCONNECT_WITH_WILL;
    stack.send(mortal, Packet::Disconnect(Disconnect { reason, ..Disconnect::default() }));
    assert_eq!(stack.texts(watcher), ["gone"]);
}
