//! §3.3.1.3, §3.8.3.1: what is retained, for whom, and under which flag.

use super::*;
use fluxmq::model::RetainHandling;

fn retain(stack: &mut Stack, id: ConnectionId, topic: &str, payload: &str, qos: QoS) {
    stack.publish_with(id, |publish| {
        publish.topic = text(topic);
        publish.payload = text(payload);
        publish.qos = qos;
        publish.retain = true;
    });
}

/// What a new subscriber to `filter` gets at once.
fn greeting(stack: &mut Stack, version: Version, filter: &str) -> Vec<Publish> {
    let newcomer = stack.client(version, "newcomer");
    stack.subscribe(newcomer, filter, EXACTLY);
    let messages = stack.messages(newcomer);
    stack.leave(newcomer);
    messages
}

#[test]
fn mqtt_3_3_1_5_the_newest_retained_message_greets_subscribers_with_its_qos() {
    for version in VERSIONS {
        for qos in [AT_MOST, AT_LEAST, EXACTLY] {
            let mut stack = Stack::new();
            let publisher = stack.client(version, "p");
            retain(&mut stack, publisher, "t/1", "old", AT_LEAST);
            retain(&mut stack, publisher, "t/1", "new", qos);
            let messages = greeting(&mut stack, version, "t/+");
            assert_eq!(payloads(&messages), [b"new"]);
            assert_eq!((messages[0].qos, messages[0].retain), (qos, true), "{version:?}");
        }
    }
}

#[test]
fn mqtt_3_3_1_5_a_retained_message_outlives_publisher_and_broker() {
    for version in STANDARDS {
        let mut stack = Stack::new();
        let publisher = stack.client(version, "p");
        retain(&mut stack, publisher, "t/1", "kept", AT_LEAST);
        stack.leave(publisher);
        let mut stack = stack.crash();
        assert_eq!(payloads(&greeting(&mut stack, version, "#")), [b"kept"]);
    }
}

#[test]
fn mqtt_3_3_1_6_an_empty_retained_message_is_delivered_and_removes() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let publisher = stack.client(version, "p");
        let watcher = stack.client(version, "w");
        stack.subscribe(watcher, "t/1", AT_LEAST);
        retain(&mut stack, publisher, "t/1", "kept", AT_LEAST);
        retain(&mut stack, publisher, "t/1", "", AT_LEAST);
        assert_eq!(stack.texts(watcher), ["kept", ""]);
        assert_eq!(greeting(&mut stack, version, "t/1"), []);
    }
}

#[test]
fn mqtt_3_3_1_7_an_empty_message_is_never_retained() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let publisher = stack.client(version, "p");
        retain(&mut stack, publisher, "t/1", "", EXACTLY);
        assert_eq!(greeting(&mut stack, version, "#"), []);
    }
}

#[test]
fn mqtt_3_3_1_8_what_is_not_to_be_retained_changes_nothing() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let publisher = stack.client(version, "p");
        stack.publish(publisher, "t/2", "passing", AT_LEAST);
        retain(&mut stack, publisher, "t/1", "kept", AT_LEAST);
        stack.publish(publisher, "t/1", "passing", AT_LEAST);
        stack.publish(publisher, "t/1", "", AT_LEAST);
        assert_eq!(payloads(&greeting(&mut stack, version, "#")), [b"kept"]);
    }
}

fn options(handling: RetainHandling) -> SubscribeFilter {
    SubscribeFilter { retain_handling: handling, ..SubscribeFilter::new(text("t/#"), AT_LEAST) }
}

#[test]
fn mqtt_3_3_1_9_to_11_retain_handling_says_when_retained_messages_come() {
    // Whether they come with the first subscription, and with the same once more.
    for (handling, first, again) in [
        (RetainHandling::Send, 2, 2),
        (RetainHandling::SendIfNew, 2, 0),
        (RetainHandling::DontSend, 0, 0),
    ] {
        let mut stack = Stack::new();
        let publisher = stack.client(Version::V5, "p");
        retain(&mut stack, publisher, "t/1", "one", AT_LEAST);
        retain(&mut stack, publisher, "t/2", "two", AT_LEAST);
        let subscriber = stack.client(Version::V5, "s");
        stack.subscribe_with(subscriber, options(handling), &[]);
        assert_eq!(stack.messages(subscriber).len(), first, "{handling:?}");
        stack.subscribe_with(subscriber, options(handling), &[]);
        assert_eq!(stack.messages(subscriber).len(), again, "{handling:?}");
    }
}

#[test]
fn mqtt_311_3_8_4_3_an_identical_filter_brings_retained_messages_again() {
    for version in [Version::V31, Version::V311] {
        let mut stack = Stack::new();
        let publisher = stack.client(version, "p");
        retain(&mut stack, publisher, "t/1", "kept", AT_LEAST);
        let subscriber = stack.client(version, "s");
        for _ in 0..2 {
            stack.subscribe(subscriber, "t/1", AT_LEAST);
            assert_eq!(stack.texts(subscriber), ["kept"]);
        }
        stack.publish(publisher, "t/1", "live", AT_LEAST);
        assert_eq!(stack.texts(subscriber), ["live"], "replaced, not added");
    }
}

#[test]
fn mqtt_3_3_1_12_a_forwarded_message_loses_its_retain_flag() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let watcher = stack.client(version, "w");
        stack.subscribe(watcher, "t/1", AT_LEAST);
        let publisher = stack.client(version, "p");
        for qos in [AT_MOST, AT_LEAST] {
            retain(&mut stack, publisher, "t/1", "x", qos);
            let messages = stack.messages(watcher);
            assert_eq!(messages.len(), 1);
            assert!(!messages[0].retain, "{version:?} {qos:?}");
        }
    }
}

#[test]
fn mqtt_3_3_1_13_retain_as_published_keeps_the_flag() {
    let mut stack = Stack::new();
    let watcher = stack.client(Version::V5, "w");
    let filter = SubscribeFilter {
        retain_as_published: true,
        ..SubscribeFilter::new(text("t/1"), AT_LEAST)
    };
    stack.subscribe_with(watcher, filter, &[]);
    let publisher = stack.client(Version::V5, "p");
    for qos in [AT_MOST, AT_LEAST] {
        retain(&mut stack, publisher, "t/1", "x", qos);
        stack.publish(publisher, "t/1", "y", qos);
        let flags: Vec<bool> = stack.messages(watcher).iter().map(|it| it.retain).collect();
        assert_eq!(flags, [true, false], "{qos:?}");
    }
}

#[test]
fn mqtt_311_3_1_2_7_retained_messages_do_not_end_with_a_session() {
    for version in [Version::V31, Version::V311] {
        let mut stack = Stack::new();
        let publisher = stack.client(version, "p");
        retain(&mut stack, publisher, "t/1", "kept", AT_LEAST);
        stack.leave(publisher);
        stack.client(version, "p");
        assert_eq!(payloads(&greeting(&mut stack, version, "t/1")), [b"kept"]);
    }
}
