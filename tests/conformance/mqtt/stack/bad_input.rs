//! What every malformed packet gets: its reason code, or the end of the connection; and that nobody else notices.
//!
//! Bytes are written down here, not encoded: our encoder cannot say most of this.

use super::*;

/// What is wrong, the bytes, and the reason code of DISCONNECT in 5.0.
type Row = (&'static str, &'static [u8], ReasonCode);

const MALFORMED: ReasonCode = ReasonCode::MALFORMED_PACKET;
const PROTOCOL: ReasonCode = ReasonCode::PROTOCOL_ERROR;

/// From a client of 5.0 that is connected.
const V5_ROWS: &[Row] = &[
    ("packet type 0", b"\x00\x00", MALFORMED),
    ("a second CONNECT", b"\x10\x0E\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01c", PROTOCOL),
    ("CONNACK from a client", b"\x20\x03\x00\x00\x00", PROTOCOL),
    ("SUBACK from a client", b"\x90\x04\x00\x01\x00\x00", PROTOCOL),
    ("UNSUBACK from a client", b"\xB0\x04\x00\x01\x00\x00", PROTOCOL),
    ("PINGRESP from a client", b"\xD0\x00", PROTOCOL),
    ("a length of five bytes", b"\x30\x80\x80\x80\x80\x01", MALFORMED),
    ("a length longer than needed", b"\xC0\x80\x00", MALFORMED),
    ("a packet larger than announced", b"\x30\x80\x80\x41", ReasonCode::PACKET_TOO_LARGE),
    ("PUBLISH of QoS 3", b"\x36\x06\x00\x01a\x00\x01\x00", MALFORMED),
    ("PUBLISH of QoS 0 with DUP", b"\x38\x04\x00\x01a\x00", MALFORMED),
    ("PUBLISH shorter than its topic", b"\x30\x04\x00\x09ab", MALFORMED),
    ("PUBLISH without a packet identifier", b"\x32\x03\x00\x01a", MALFORMED),
    ("PUBLISH with packet identifier 0", b"\x32\x06\x00\x01a\x00\x00\x00", MALFORMED),
    ("PUBLISH without topic and alias", b"\x30\x03\x00\x00\x00", PROTOCOL),
    ("PUBLISH to '+'", b"\x30\x04\x00\x01+\x00", MALFORMED),
    ("PUBLISH to 'a/#'", b"\x30\x06\x00\x03a/#\x00", MALFORMED),
    ("PUBLISH to bytes that are not UTF-8", b"\x30\x04\x00\x01\xFF\x00", MALFORMED),
    ("PUBLISH to a surrogate", b"\x30\x06\x00\x03\xED\xA0\x80\x00", MALFORMED),
    ("PUBLISH to U+0000", b"\x30\x04\x00\x01\x00\x00", MALFORMED),
    ("a topic spelled longer than needed", b"\x30\x05\x00\x02\xC0\xAF\x00", MALFORMED),
    ("PUBLISH without its properties", b"\x30\x03\x00\x01a", MALFORMED),
    ("properties longer than the packet", b"\x30\x05\x00\x01a\x09\x01", MALFORMED),
    ("an unknown property", b"\x30\x06\x00\x01a\x02\x7F\x00", MALFORMED),
    ("a property of CONNECT in PUBLISH", b"\x30\x07\x00\x01a\x03\x21\x00\x01", MALFORMED),
    ("a property cut short", b"\x30\x06\x00\x01a\x02\x02\x00", MALFORMED),
    ("a payload format of 2", b"\x30\x06\x00\x01a\x02\x01\x02", PROTOCOL),
    ("a payload format twice", b"\x30\x08\x00\x01a\x04\x01\x01\x01\x01", PROTOCOL),
    ("a topic alias of 0", b"\x30\x07\x00\x01a\x03\x23\x00\x00", ReasonCode::TOPIC_ALIAS_INVALID),
    (
        "a topic alias above all",
        b"\x30\x07\x00\x01a\x03\x23\xFF\xFF",
        ReasonCode::TOPIC_ALIAS_INVALID,
    ),
    ("a topic alias of nothing", b"\x30\x06\x00\x00\x03\x23\x00\x01", PROTOCOL),
    ("an expiry twice", b"\x30\x0E\x00\x01a\x0A\x02\x00\x00\x00\x01\x02\x00\x00\x00\x01", PROTOCOL),
    ("correlation data twice", b"\x30\x0C\x00\x01a\x08\x09\x00\x01x\x09\x00\x01x", PROTOCOL),
    ("a user property cut short", b"\x30\x08\x00\x01a\x04\x26\x00\x01k", MALFORMED),
    ("a response topic of U+0000", b"\x30\x08\x00\x01a\x04\x08\x00\x01\x00", MALFORMED),
    ("a topic alias twice", b"\x30\x0A\x00\x01a\x06\x23\x00\x01\x23\x00\x01", PROTOCOL),
    ("a subscription identifier from a client", b"\x30\x06\x00\x01a\x02\x0B\x01", PROTOCOL),
    ("a response topic with '#'", b"\x30\x08\x00\x01a\x04\x08\x00\x01#", PROTOCOL),
    ("a response topic that is not UTF-8", b"\x30\x08\x00\x01a\x04\x08\x00\x01\xFF", MALFORMED),
    ("a content type that is not UTF-8", b"\x30\x08\x00\x01a\x04\x03\x00\x01\xFF", MALFORMED),
    (
        "a user property that is not UTF-8",
        b"\x30\x0A\x00\x01a\x06\x26\x00\x00\x00\x01\xFF",
        MALFORMED,
    ),
    ("PUBACK of one byte", b"\x40\x01\x00", MALFORMED),
    ("PUBACK with flags", b"\x41\x02\x00\x01", MALFORMED),
    ("PUBACK of packet identifier 0", b"\x40\x02\x00\x00", MALFORMED),
    ("PUBACK with a reason code of SUBACK", b"\x40\x03\x00\x01\x01", PROTOCOL),
    ("PUBACK with a property of PUBLISH", b"\x40\x06\x00\x01\x00\x02\x01\x01", MALFORMED),
    (
        "PUBACK with a reason string twice",
        b"\x40\x0C\x00\x01\x00\x08\x1F\x00\x01x\x1F\x00\x01x",
        PROTOCOL,
    ),
    ("PUBACK with more than its properties", b"\x40\x05\x00\x01\x00\x00\x00", MALFORMED),
    ("PUBREC with flags", b"\x52\x02\x00\x01", MALFORMED),
    ("PUBREC with an unknown reason code", b"\x50\x03\x00\x01\x7F", PROTOCOL),
    ("PUBREL without its flags", b"\x60\x02\x00\x01", MALFORMED),
    ("PUBREL with a reason code of PUBACK", b"\x62\x03\x00\x01\x10", PROTOCOL),
    ("PUBCOMP with flags", b"\x72\x02\x00\x01", MALFORMED),
    ("PUBCOMP with a reason code of PUBACK", b"\x70\x03\x00\x01\x10", PROTOCOL),
    ("SUBSCRIBE without its flags", b"\x80\x07\x00\x01\x00\x00\x01a\x00", MALFORMED),
    ("SUBSCRIBE with packet identifier 0", b"\x82\x07\x00\x00\x00\x00\x01a\x00", MALFORMED),
    ("SUBSCRIBE without a filter", b"\x82\x03\x00\x01\x00", PROTOCOL),
    ("SUBSCRIBE without options", b"\x82\x06\x00\x01\x00\x00\x01a", MALFORMED),
    ("SUBSCRIBE to bytes that are not UTF-8", b"\x82\x07\x00\x01\x00\x00\x01\xFF\x00", MALFORMED),
    ("SUBSCRIBE with reserved options", b"\x82\x07\x00\x01\x00\x00\x01a\x40", MALFORMED),
    ("SUBSCRIBE at QoS 3", b"\x82\x07\x00\x01\x00\x00\x01a\x03", PROTOCOL),
    ("SUBSCRIBE with retain handling 3", b"\x82\x07\x00\x01\x00\x00\x01a\x30", PROTOCOL),
    ("SUBSCRIBE shorter than its filter", b"\x82\x07\x00\x01\x00\x00\x09a\x00", MALFORMED),
    ("SUBSCRIBE to U+0000", b"\x82\x07\x00\x01\x00\x00\x01\x00\x00", MALFORMED),
    (
        "a subscription identifier of five bytes",
        b"\x82\x0D\x00\x01\x06\x0B\x80\x80\x80\x80\x01\x00\x01a\x00",
        MALFORMED,
    ),
    ("a subscription identifier of 0", b"\x82\x09\x00\x01\x02\x0B\x00\x00\x01a\x00", PROTOCOL),
    (
        "two subscription identifiers",
        b"\x82\x0B\x00\x01\x04\x0B\x01\x0B\x02\x00\x01a\x00",
        PROTOCOL,
    ),
    ("UNSUBSCRIBE without its flags", b"\xA0\x06\x00\x01\x00\x00\x01a", MALFORMED),
    ("UNSUBSCRIBE with packet identifier 0", b"\xA2\x06\x00\x00\x00\x00\x01a", MALFORMED),
    ("UNSUBSCRIBE without a filter", b"\xA2\x03\x00\x01\x00", PROTOCOL),
    ("UNSUBSCRIBE from bytes that are not UTF-8", b"\xA2\x06\x00\x01\x00\x00\x01\xFF", MALFORMED),
    ("PINGREQ with flags", b"\xC1\x00", MALFORMED),
    ("PINGREQ with a body", b"\xC0\x01\x00", MALFORMED),
    ("DISCONNECT with flags", b"\xE1\x00", MALFORMED),
    ("DISCONNECT with an unknown reason code", b"\xE0\x01\x05", PROTOCOL),
    ("DISCONNECT that begins a session expiry", b"\xE0\x07\x00\x05\x11\x00\x00\x00\x09", PROTOCOL),
    ("DISCONNECT with a property of PUBLISH", b"\xE0\x04\x00\x02\x01\x01", MALFORMED),
    ("AUTH with flags", b"\xF1\x02\x19\x00", MALFORMED),
    ("AUTH without a method before", b"\xF0\x02\x19\x00", PROTOCOL),
    ("AUTH with an unknown reason code", b"\xF0\x02\x01\x00", PROTOCOL),
];

/// From a client of 3.1.1 that is connected: it is closed without a word.
const V311_ROWS: &[(&str, &[u8])] = &[
    ("packet type 0", b"\x00\x00"),
    ("packet type 15", b"\xF0\x00"),
    ("a second CONNECT", b"\x10\x0D\x00\x04MQTT\x04\x02\x00\x00\x00\x01c"),
    ("CONNACK from a client", b"\x20\x02\x00\x00"),
    ("SUBACK from a client", b"\x90\x03\x00\x01\x00"),
    ("UNSUBACK from a client", b"\xB0\x02\x00\x01"),
    ("PINGRESP from a client", b"\xD0\x00"),
    ("a length of five bytes", b"\x30\x80\x80\x80\x80\x01"),
    ("a packet larger than allowed", b"\x30\x80\x80\x41"),
    ("PUBLISH of QoS 3", b"\x36\x05\x00\x01a\x00\x01"),
    ("PUBLISH of QoS 0 with DUP", b"\x38\x03\x00\x01a"),
    ("PUBLISH shorter than its topic", b"\x30\x04\x00\x09ab"),
    ("PUBLISH without a packet identifier", b"\x32\x03\x00\x01a"),
    ("PUBLISH with packet identifier 0", b"\x32\x05\x00\x01a\x00\x00"),
    ("PUBLISH to nothing", b"\x30\x02\x00\x00"),
    ("PUBLISH to '+'", b"\x30\x03\x00\x01+"),
    ("PUBLISH to bytes that are not UTF-8", b"\x30\x03\x00\x01\xFF"),
    ("PUBLISH to a surrogate", b"\x30\x05\x00\x03\xED\xA0\x80"),
    ("PUBLISH to U+0000", b"\x30\x03\x00\x01\x00"),
    ("PUBACK of one byte", b"\x40\x01\x00"),
    ("PUBACK with flags", b"\x41\x02\x00\x01"),
    ("PUBACK with a reason code", b"\x40\x03\x00\x01\x00"),
    ("PUBACK of packet identifier 0", b"\x40\x02\x00\x00"),
    ("PUBREC with flags", b"\x52\x02\x00\x01"),
    ("PUBREC with a reason code", b"\x50\x03\x00\x01\x10"),
    ("PUBREL without its flags", b"\x60\x02\x00\x01"),
    ("PUBREL of one byte", b"\x62\x01\x00"),
    ("PUBCOMP with flags", b"\x72\x02\x00\x01"),
    ("SUBSCRIBE without its flags", b"\x80\x06\x00\x01\x00\x01a\x00"),
    ("SUBSCRIBE with packet identifier 0", b"\x82\x06\x00\x00\x00\x01a\x00"),
    ("SUBSCRIBE without a filter", b"\x82\x02\x00\x01"),
    ("SUBSCRIBE at QoS 3", b"\x82\x06\x00\x01\x00\x01a\x03"),
    ("SUBSCRIBE with options of 5.0", b"\x82\x06\x00\x01\x00\x01a\x04"),
    ("SUBSCRIBE to bytes that are not UTF-8", b"\x82\x06\x00\x01\x00\x01\xFF\x00"),
    ("SUBSCRIBE without a QoS", b"\x82\x05\x00\x01\x00\x01a"),
    ("SUBSCRIBE to U+0000", b"\x82\x06\x00\x01\x00\x01\x00\x00"),
    ("UNSUBSCRIBE without its flags", b"\xA0\x05\x00\x01\x00\x01a"),
    ("UNSUBSCRIBE with packet identifier 0", b"\xA2\x05\x00\x00\x00\x01a"),
    ("UNSUBSCRIBE shorter than its filter", b"\xA2\x05\x00\x01\x00\x09a"),
    ("UNSUBSCRIBE without a filter", b"\xA2\x02\x00\x01"),
    ("UNSUBSCRIBE from bytes that are not UTF-8", b"\xA2\x05\x00\x01\x00\x01\xFF"),
    ("PINGREQ with flags", b"\xC2\x00"),
    ("PINGREQ with a body", b"\xC0\x01\x00"),
    ("DISCONNECT with flags", b"\xE2\x00"),
    ("DISCONNECT with a body", b"\xE0\x01\x00"),
];

/// Instead of a CONNECT: closed without a word.
const STRANGERS: &[(&str, &[u8])] = &[
    ("packet type 0", b"\x00\x00"),
    ("CONNECT with flags", b"\x11\x0E\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01c"),
    ("CONNACK", b"\x20\x02\x00\x00"),
    ("PUBLISH", b"\x30\x04\x00\x01a\x00"),
    ("PUBACK", b"\x40\x02\x00\x01"),
    ("SUBSCRIBE", b"\x82\x06\x00\x01\x00\x01a\x00"),
    ("PINGREQ", b"\xC0\x00"),
    ("DISCONNECT", b"\xE0\x00"),
    ("AUTH", b"\xF0\x00"),
    ("another protocol's name", b"\x10\x0E\x00\x04HTTP\x05\x02\x00\x00\x00\x00\x01c"),
    ("a request of HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("a greeting of TLS", b"\x16\x03\x01\x00\xF4\x01\x00\x00\xF0\x03\x03"),
    ("a CONNECT larger than allowed", b"\x10\xFE\xFF\x7F"),
    ("a CONNECT cut short", b"\x10\x04\x00\x04MQ"),
    ("3.1.1 with the reserved flag", b"\x10\x0D\x00\x04MQTT\x04\x03\x00\x00\x00\x01c"),
    ("3.1.1 with a will QoS and no will", b"\x10\x0D\x00\x04MQTT\x04\x0A\x00\x00\x00\x01c"),
    ("3.1.1 with a will to retain and no will", b"\x10\x0D\x00\x04MQTT\x04\x22\x00\x00\x00\x01c"),
    (
        "3.1.1 with a will of QoS 3",
        b"\x10\x13\x00\x04MQTT\x04\x1E\x00\x00\x00\x01c\x00\x01w\x00\x01m",
    ),
    ("3.1.1 with a will that is missing", b"\x10\x0D\x00\x04MQTT\x04\x06\x00\x00\x00\x01c"),
    (
        "3.1.1 with a password and no user",
        b"\x10\x10\x00\x04MQTT\x04\x42\x00\x00\x00\x01c\x00\x01p",
    ),
    (
        "3.1.1 with a password that is missing",
        b"\x10\x10\x00\x04MQTT\x04\xC2\x00\x00\x00\x01c\x00\x01u",
    ),
    ("3.1.1 with a user that is missing", b"\x10\x0D\x00\x04MQTT\x04\x82\x00\x00\x00\x01c"),
    ("3.1.1 with more than it says", b"\x10\x10\x00\x04MQTT\x04\x02\x00\x00\x00\x01c\x00\x01x"),
    (
        "3.1.1 with an identifier that is not UTF-8",
        b"\x10\x0D\x00\x04MQTT\x04\x02\x00\x00\x00\x01\xFF",
    ),
    (
        "3.1.1 with a will to bytes that are not UTF-8",
        b"\x10\x13\x00\x04MQTT\x04\x06\x00\x00\x00\x01c\x00\x01\xFF\x00\x01m",
    ),
    (
        "3.1.1 with a user that is not UTF-8",
        b"\x10\x10\x00\x04MQTT\x04\x82\x00\x00\x00\x01c\x00\x01\xFF",
    ),
    ("3.1.1 without an identifier", b"\x10\x0A\x00\x04MQTT\x04\x02\x00\x00"),
];

/// CONNECT packets of 5.0 that cannot be accepted, and what is wrong with them. Nothing is said before they are read: they are closed.
const V5_CONNECTS: &[Row] = &[
    ("the reserved flag", b"\x10\x0E\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x01c", MALFORMED),
    ("a will QoS and no will", b"\x10\x0E\x00\x04MQTT\x05\x0A\x00\x00\x00\x00\x01c", MALFORMED),
    (
        "a will to retain and no will",
        b"\x10\x0E\x00\x04MQTT\x05\x22\x00\x00\x00\x00\x01c",
        MALFORMED,
    ),
    (
        "a will of QoS 3",
        b"\x10\x15\x00\x04MQTT\x05\x1E\x00\x00\x00\x00\x01c\x00\x00\x01w\x00\x01m",
        MALFORMED,
    ),
    ("a will that is missing", b"\x10\x0E\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x01c", MALFORMED),
    ("a user that is missing", b"\x10\x0E\x00\x04MQTT\x05\x82\x00\x00\x00\x00\x01c", MALFORMED),
    (
        "a password that is missing",
        b"\x10\x11\x00\x04MQTT\x05\xC2\x00\x00\x00\x00\x01c\x00\x01u",
        MALFORMED,
    ),
    (
        "a password alone that is missing",
        b"\x10\x0E\x00\x04MQTT\x05\x42\x00\x00\x00\x00\x01c",
        MALFORMED,
    ),
    (
        "a user that is not UTF-8",
        b"\x10\x11\x00\x04MQTT\x05\x82\x00\x00\x00\x00\x01c\x00\x01\xFF",
        MALFORMED,
    ),
    (
        "a will to bytes that are not UTF-8",
        b"\x10\x15\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x01c\x00\x00\x01\xFF\x00\x01m",
        MALFORMED,
    ),
    (
        "a will with a topic alias",
        b"\x10\x18\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x01c\x03\x23\x00\x01\x00\x01w\x00\x01m",
        MALFORMED,
    ),
    ("properties that are too long", b"\x10\x0E\x00\x04MQTT\x05\x02\x00\x00\x7F\x00\x01c", MALFORMED),
    (
        "a session expiry twice",
        b"\x10\x18\x00\x04MQTT\x05\x02\x00\x00\x0A\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01\x00\x01c",
        PROTOCOL,
    ),
    ("more than it says", b"\x10\x11\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01c\x00\x01x", MALFORMED),
    (
        "an identifier that is not UTF-8",
        b"\x10\x0E\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01\xFF",
        MALFORMED,
    ),
    ("no identifier", b"\x10\x0B\x00\x04MQTT\x05\x02\x00\x00\x00", MALFORMED),
    (
        "a receive maximum of 0",
        b"\x10\x11\x00\x04MQTT\x05\x02\x00\x00\x03\x21\x00\x00\x00\x01c",
        PROTOCOL,
    ),
    (
        "a maximum packet size of 0",
        b"\x10\x13\x00\x04MQTT\x05\x02\x00\x00\x05\x27\x00\x00\x00\x00\x00\x01c",
        PROTOCOL,
    ),
    (
        "a receive maximum twice",
        b"\x10\x14\x00\x04MQTT\x05\x02\x00\x00\x06\x21\x00\x01\x21\x00\x01\x00\x01c",
        PROTOCOL,
    ),
    (
        "problem information of 2",
        b"\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x02\x17\x02\x00\x01c",
        PROTOCOL,
    ),
    (
        "response information of 2",
        b"\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x02\x19\x02\x00\x01c",
        PROTOCOL,
    ),
    (
        "authentication data without a method",
        b"\x10\x12\x00\x04MQTT\x05\x02\x00\x00\x04\x16\x00\x01x\x00\x01c",
        PROTOCOL,
    ),
    (
        "a property of PUBLISH",
        b"\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x02\x01\x01\x00\x01c",
        MALFORMED,
    ),
];

/// A broker with two clients that know nothing of the third.
struct Bystanders {
    stack: Stack,
    watcher: ConnectionId,
    publisher: ConnectionId,
    count: usize,
}

impl Bystanders {
    fn new() -> Bystanders {
        let mut stack = Stack::new();
        let watcher = stack.client(Version::V5, "watcher");
        let publisher = stack.client(Version::V311, "publisher");
        stack.subscribe(watcher, "peace/#", EXACTLY);
        Bystanders { stack, watcher, publisher, count: 0 }
    }

    /// They go on as if nothing had happened: nothing was published but what they publish.
    fn assert_untouched(&mut self, what: &str) {
        self.count += 1;
        let text = self.count.to_string();
        self.stack.publish(self.publisher, "peace/1", &text, EXACTLY);
        assert_eq!(self.stack.texts(self.watcher), [text], "after {what}");
    }
}

#[test]
fn mqtt_4_13_1_1_every_malformed_packet_of_5_0_is_told_what_it_is() {
    let mut world = Bystanders::new();
    for (what, bytes, reason) in V5_ROWS {
        let victim = world.stack.client(Version::V5, "victim");
        world.stack.send_bytes(victim, bytes);
        let last = world.stack.packets(victim).pop();
        let told = match last {
            Some(Packet::Disconnect(disconnect)) => disconnect.reason,
            other => panic!("{what}: {other:?}"),
        };
        assert_eq!(told, *reason, "{what}");
        assert!(!world.stack.is_up(victim), "{what}");
        world.assert_untouched(what);
    }
}

#[test]
fn mqtt_311_4_8_0_1_every_malformed_packet_of_3_1_1_closes_the_connection() {
    let mut world = Bystanders::new();
    for (what, bytes) in V311_ROWS {
        let victim = world.stack.client(Version::V311, "victim");
        world.stack.send_bytes(victim, bytes);
        assert!(!world.stack.is_up(victim), "{what}");
        assert_eq!(world.stack.packets(victim), [], "{what}");
        world.assert_untouched(what);
    }
}

#[test]
fn mqtt_3_1_0_1_and_3_1_4_1_what_is_no_connect_is_closed_without_a_word() {
    let mut world = Bystanders::new();
    for (what, bytes) in STRANGERS {
        let victim = world.stack.dial(Version::V311);
        world.stack.send_bytes(victim, bytes);
        assert!(!world.stack.is_up(victim), "{what}");
        assert_eq!(world.stack.packets(victim), [], "{what}");
        world.assert_untouched(what);
    }
}

#[test]
fn mqtt_3_1_4_1_a_malformed_connect_of_5_0_opens_nothing() {
    let mut world = Bystanders::new();
    for (what, bytes, reason) in V5_CONNECTS {
        let victim = world.stack.dial(Version::V5);
        world.stack.send_bytes(victim, bytes);
        assert!(!world.stack.is_up(victim), "{what}");
        assert_eq!(world.stack.packets(victim), [], "{what}");
        world.assert_untouched(what);
        let decoded = decode(&mut BytesMut::from(*bytes), None, &Limits::default());
        assert_eq!(decoded.expect_err(what).reason(), *reason, "{what}");
    }
}

/// Every packet above, cut anywhere: the connection waits for the rest and is closed for its silence, or is closed at once.
#[test]
fn a_malformed_packet_cut_anywhere_harms_nobody() {
    let mut world = Bystanders::new();
    for (what, bytes, _) in V5_ROWS {
        let victim = world.stack.client(Version::V5, "victim");
        for byte in &bytes[..bytes.len() - 1] {
            world.stack.send_bytes(victim, &[*byte]);
        }
        world.stack.cut(victim);
        world.assert_untouched(what);
    }
}
