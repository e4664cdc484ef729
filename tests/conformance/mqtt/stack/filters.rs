//! §4.7: what a filter matches, against a table written from the specification.

use super::*;

/// A filter, and topics that it matches and does not match.
const TABLE: [(&str, &[&str], &[&str]); 14] = [
    ("a/b", &["a/b"], &["a", "a/b/", "/a/b", "A/b", "a/B", "a/b/c"]),
    ("a/#", &["a", "a/", "a/b", "a/b/c", "a//"], &["b", "ab", "/a", "b/a"]),
    ("#", &["a", "/", "a/b", "/a"], &["$x", "$x/a"]),
    ("+", &["a", "é"], &["/a", "a/", "a/b", "/", "$x"]),
    ("+/+", &["a/b", "/a", "a/", "/"], &["a", "a/b/c", "$x/a"]),
    ("/+", &["/a", "/"], &["a", "a/b", "/a/b"]),
    ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/b/c", "a/b/d"]),
    ("a/+", &["a/b", "a/"], &["a", "a/b/c"]),
    ("+/b/#", &["a/b", "a/b/c", "/b"], &["b", "a/c/b", "$x/b"]),
    ("$x/#", &["$x", "$x/a"], &["x", "x/a"]),
    ("$x/+/c", &["$x/b/c"], &["$y/b/c"]),
    ("a b/c", &["a b/c"], &["ab/c", "a  b/c"]),
    // One glyph in two spellings: nothing is normalized.
    ("\u{e9}", &["\u{e9}"], &["e\u{301}"]),
    ("\u{feff}a", &["\u{feff}a"], &["a"]),
];

#[test]
fn mqtt_4_7_2_1_and_4_7_3_4_filters_match_what_the_specification_says() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let publisher = stack.client(version, "p");
        let subscriber = stack.client(version, "s");
        for (filter, matching, other) in TABLE {
            assert!(!stack.subscribe(subscriber, filter, AT_LEAST).is_error(), "{filter}");
            for topic in matching.iter().chain(other) {
                stack.publish(publisher, topic, topic, AT_LEAST);
            }
            assert!(stack.is_up(publisher), "{filter}");
            let mut got = stack.texts(subscriber);
            got.sort();
            let mut expected = matching.to_vec();
            expected.sort_unstable();
            assert_eq!(got, expected, "{filter} in {version:?}");
            stack.unsubscribe(subscriber, filter);
        }
    }
}

/// Retained messages are found by another index than live ones.
#[test]
fn mqtt_4_7_2_1_retained_messages_are_matched_by_the_same_rules() {
    for (filter, matching, other) in TABLE {
        let mut stack = Stack::new();
        let publisher = stack.client(Version::V5, "p");
        for topic in matching.iter().chain(other) {
            stack.publish_with(publisher, |publish| {
                publish.topic = text(topic);
                publish.payload = text(topic);
                publish.retain = true;
            });
        }
        let subscriber = stack.client(Version::V5, "s");
        stack.subscribe(subscriber, filter, AT_LEAST);
        let mut got = stack.texts(subscriber);
        got.sort();
        let mut expected = matching.to_vec();
        expected.sort_unstable();
        assert_eq!(got, expected, "{filter}");
    }
}

#[test]
fn mqtt_4_7_1_1_and_2_misplaced_wildcards_subscribe_to_nothing() {
    for version in STANDARDS {
        for filter in ["a#", "a/#/b", "#/a", "a/b#", "+a", "a+", "a/+b", "a/b+/c", "##", "++"] {
            let mut stack = Stack::new();
            let subscriber = stack.client(version, "s");
            let reason = stack.subscribe(subscriber, filter, AT_LEAST);
            let expected = match version {
                Version::V5 => ReasonCode::TOPIC_FILTER_INVALID,
                Version::V31 | Version::V311 => ReasonCode::UNSPECIFIED_ERROR,
            };
            assert_eq!(reason, expected, "{filter}");
        }
    }
}

#[test]
fn mqtt_3_3_2_3_the_topic_of_a_delivery_is_the_one_published() {
    for version in VERSIONS {
        let mut stack = Stack::new();
        let subscriber = stack.client(version, "s");
        stack.subscribe(subscriber, "a/+/#", AT_LEAST);
        let publisher = stack.client(version, "p");
        for topic in ["a/b", "a/b/c d", "a//"] {
            stack.publish(publisher, topic, "x", AT_LEAST);
            let messages = stack.messages(subscriber);
            assert_eq!(messages[0].topic, text(topic));
        }
    }
}

#[test]
fn mqtt_4_7_3_3_long_topics_are_matched_or_refused_but_never_cut() {
    let longest = "x".repeat(4_096);
    let mut stack = Stack::new();
    let subscriber = stack.client(Version::V5, "s");
    stack.subscribe(subscriber, "+", AT_LEAST);
    let publisher = stack.client(Version::V5, "p");
    let reason = stack.publish(publisher, &longest, "x", AT_LEAST);
    assert_eq!(reason, Some(ReasonCode::SUCCESS));
    assert_eq!(stack.messages(subscriber)[0].topic, text(&longest));
    for bytes in [4_097, 65_535] {
        let reason = stack.publish(publisher, &"x".repeat(bytes), "x", AT_LEAST);
        assert_eq!(reason, Some(ReasonCode::TOPIC_NAME_INVALID));
    }
    assert_eq!(stack.messages(subscriber), []);
}
