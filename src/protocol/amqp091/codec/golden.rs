//! Frames written down byte by byte after the specification, not by the code.

use bytes::{Bytes, BytesMut};

use super::field::ShortString;
use super::frame::{self, FRAME_BYTES_MIN};
use super::method::*;
use super::table::{Array, Table, Value};
use super::*;

/// Decodes the one frame that `bytes` are, and checks that the same is written again.
fn method(bytes: &[u8]) -> (u16, Method) {
    let mut input = BytesMut::from(bytes);
    let frame = frame::decode(&mut input, FRAME_BYTES_MIN).unwrap().expect("the frame is whole");
    assert!(input.is_empty());
    let method = Method::decode(frame.payload).unwrap();
    let mut written = BytesMut::new();
    method.encode(frame.channel, &mut written);
    assert_eq!(&written[..], bytes);
    (frame.channel, method)
}

fn short(text: &'static str) -> ShortString {
    ShortString::from_static(text)
}

#[test]
fn connection_tune() {
    let bytes = b"\x01\x00\x00\x00\x00\x00\x0c\x00\x0a\x00\x1e\x07\xff\x00\x02\x00\x00\x00\x3c\xce";
    let tune = ConnectionTune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
    assert_eq!(method(bytes), (0, tune.into()));
}

#[test]
fn connection_start_ok_with_capabilities() {
    let bytes = [
        &b"\x01\x00\x00\x00\x00\x00\x57\x00\x0a\x00\x0b"[..],
        b"\x00\x00\x00\x3b\x0ccapabilitiesF\x00\x00\x00\x29",
        b"\x1cauthentication_failure_closet\x01\x07consumet\x00",
        b"\x05PLAIN\x00\x00\x00\x09\x00abc\x00defg\x00\xce",
    ]
    .concat();
    let capabilities = [
        ("authentication_failure_close", Value::Boolean(true)),
        ("consume", Value::Boolean(false)),
    ];
    let capabilities = Value::Table(capabilities.into_iter().collect());
    let expected = ConnectionStartOk {
        client_properties: [("capabilities", capabilities)].into_iter().collect(),
        mechanism: short("PLAIN"),
        response: Bytes::from_static(b"\0abc\0defg"),
        locale: short(""),
    };
    assert_eq!(method(&bytes), (0, expected.into()));
}

#[test]
fn connection_close() {
    let bytes = b"\x01\x00\x00\x00\x00\x00\x0d\x00\x0a\x00\x32\x00\xc8\x02OK\x00\x00\x00\x00\xce";
    let close =
        ConnectionClose { reply_code: 200, reply_text: short("OK"), class_id: 0, method_id: 0 };
    assert_eq!(method(bytes), (0, close.into()));
}

#[test]
fn channel_open_and_its_answer() {
    let open = b"\x01\x00\x01\x00\x00\x00\x05\x00\x14\x00\x0a\x00\xce";
    assert_eq!(method(open), (1, ChannelOpen::default().into()));
    let open_ok = b"\x01\x00\x01\x00\x00\x00\x08\x00\x14\x00\x0b\x00\x00\x00\x00\xce";
    assert_eq!(method(open_ok), (1, ChannelOpenOk::default().into()));
}

#[test]
fn queue_declare_with_an_argument() {
    let bytes = [
        &b"\x01\x00\x01\x00\x00\x00\x21\x00\x32\x00\x0a\x00\x00\x03box\x02"[..],
        b"\x00\x00\x00\x12\x0cx-max-lengthI\x00\x00\x00\x0a\xce",
    ]
    .concat();
    let expected = QueueDeclare {
        queue: short("box"),
        durable: true,
        arguments: [("x-max-length", Value::I32(10))].into_iter().collect(),
        ..QueueDeclare::default()
    };
    assert_eq!(method(&bytes), (1, expected.into()));
}

#[test]
fn exchange_declare_has_five_bits_in_one_octet() {
    let bytes =
        b"\x01\x00\x02\x00\x00\x00\x13\x00\x28\x00\x0a\x00\x00\x01x\x05topic\x1a\x00\x00\x00\x00\xce";
    let expected = ExchangeDeclare {
        exchange: short("x"),
        kind: short("topic"),
        durable: true,
        internal: true,
        no_wait: true,
        ..ExchangeDeclare::default()
    };
    assert_eq!(method(bytes), (2, expected.into()));
}

#[test]
fn basic_publish_with_content() {
    let publish = b"\x01\x00\x01\x00\x00\x00\x0e\x00\x3c\x00\x28\x00\x00\x00\x05hello\x01\xce";
    let header = [
        &b"\x02\x00\x01\x00\x00\x00\x29\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\xb0\x00"[..],
        b"\x0atext/plain\x00\x00\x00\x0b\x01nl\x00\x00\x00\x00\x00\x00\x00\x07\x02\xce",
    ]
    .concat();
    let body = b"\x03\x00\x01\x00\x00\x00\x03abc\xce";

    let expected =
        BasicPublish { routing_key: short("hello"), mandatory: true, ..BasicPublish::default() };
    assert_eq!(method(publish), (1, expected.into()));
    let headers: Table = [("n", Value::I64(7))].into_iter().collect();
    let list = [
        Property::ContentType(short("text/plain")),
        Property::Headers(headers),
        Property::DeliveryMode(2),
    ];
    let properties = Properties::encode(list);
    let mut out = BytesMut::new();
    content::encode(1, &properties, b"abc", FRAME_BYTES_MIN, &mut out);
    assert_eq!(&out[..], [&header[..], body].concat());
    let frame = frame::decode(&mut out, FRAME_BYTES_MIN).unwrap().unwrap();
    let read = ContentHeader::decode(frame.payload).unwrap();
    assert_eq!(read, ContentHeader { body_bytes: 3, properties });
}

#[test]
fn basic_deliver() {
    let bytes = [
        &b"\x01\x00\x01\x00\x00\x00\x15\x00\x3c\x00\x3c\x02c1"[..],
        b"\x00\x00\x00\x00\x00\x00\x01\x02\x01\x00\x03a.b\xce",
    ]
    .concat();
    let expected = BasicDeliver {
        consumer_tag: short("c1"),
        delivery_tag: 258,
        redelivered: true,
        exchange: short(""),
        routing_key: short("a.b"),
    };
    assert_eq!(method(&bytes), (1, expected.into()));
}

#[test]
fn basic_nack_has_two_bits() {
    let bytes =
        b"\x01\x00\x01\x00\x00\x00\x0d\x00\x3c\x00\x78\x00\x00\x00\x00\x00\x00\x00\x09\x03\xce";
    let expected = BasicNack { delivery_tag: 9, multiple: true, requeue: true };
    assert_eq!(method(bytes), (1, expected.into()));
}

#[test]
fn heartbeat() {
    let mut out = BytesMut::new();
    frame::encode_heartbeat(&mut out);
    assert_eq!(&out[..], b"\x08\x00\x00\x00\x00\x00\x00\xce");
    let frame = frame::decode(&mut out, FRAME_BYTES_MIN).unwrap().unwrap();
    assert_eq!((frame.kind, frame.channel, frame.payload), (FrameKind::Heartbeat, 0, Bytes::new()));
}

/// Every type of value with the letter that RabbitMQ gives it.
#[test]
fn a_table_of_every_type() {
    let contents = [
        &b"\x01at\x01\x01bb\xff\x01cB\xff\x01ds\xff\xfe\x01eu\xff\xfe"[..],
        b"\x01fI\xff\xff\xff\xfd\x01gi\xff\xff\xff\xfd",
        b"\x01hl\xff\xff\xff\xff\xff\xff\xff\xfc\x01if\x3f\x80\x00\x00",
        b"\x01jd\x3f\xf0\x00\x00\x00\x00\x00\x00\x01kD\x02\x00\x00\x01\x3a",
        b"\x01lS\x00\x00\x00\x02hi\x01mx\x00\x00\x00\x01\x00",
        b"\x01nA\x00\x00\x00\x03Vt\x00\x01oT\x00\x00\x00\x00\x00\x00\x00\x05",
        b"\x01pF\x00\x00\x00\x03\x01zV\x01qV",
    ]
    .concat();
    let inner: Table = [("z", Value::Void)].into_iter().collect();
    let array = Array::encode(&[Value::Void, Value::Boolean(false)]);
    let expected = [
        ("a", Value::Boolean(true)),
        ("b", Value::I8(-1)),
        ("c", Value::U8(255)),
        ("d", Value::I16(-2)),
        ("e", Value::U16(65534)),
        ("f", Value::I32(-3)),
        ("g", Value::U32(4_294_967_293)),
        ("h", Value::I64(-4)),
        ("i", Value::Float(1.0)),
        ("j", Value::Double(1.0)),
        ("k", Value::Decimal { scale: 2, value: 314 }),
        ("l", "hi".into()),
        ("m", Value::Binary(Bytes::from_static(b"\0"))),
        ("n", Value::Array(array.clone())),
        ("o", Value::Timestamp(5)),
        ("p", Value::Table(inner)),
        ("q", Value::Void),
    ];

    let table = Table::from_contents(Bytes::from(contents)).unwrap();

    assert_eq!(table, expected.clone().into_iter().collect());
    for (name, value) in expected {
        assert_eq!(table.get(name), Some(value), "{name}");
    }
    assert_eq!(array.iter().collect::<Vec<_>>(), [Value::Void, Value::Boolean(false)]);
    assert_eq!(table.get("r"), None);
    // The other letter of a long integer, which some clients write.
    let other = Table::from_contents(Bytes::from_static(b"\x01aL\0\0\0\0\0\0\0\x09")).unwrap();
    assert_eq!(other.get("a"), Some(Value::I64(9)));
}
