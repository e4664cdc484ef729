//! What holds for every method, table and frame: it comes back as it was, and nothing that comes in can do harm.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::content;
use super::field::ShortString;
use super::frame::{self, FRAME_BYTES_MIN};
use super::method;
use super::strategies;
use super::table::DEPTH_MAX;
use super::*;

fn method() -> impl Strategy<Value = Method> {
    proptest::strategy::Union::new(method::strategies())
}

fn frame_of(method: &Method, channel: u16) -> BytesMut {
    let mut out = BytesMut::new();
    method.encode(channel, &mut out);
    out
}

proptest! {
    #[test]
    fn every_method_comes_back(methods in method::strategies(), channel: u16) {
        prop_assert_eq!(methods.len(), 66);
        let mut stream = BytesMut::new();
        methods.iter().for_each(|method| method.encode(channel, &mut stream));
        for method in &methods {
            let frame = frame::decode(&mut stream, u32::MAX).unwrap().unwrap();
            prop_assert_eq!((frame.kind, frame.channel), (FrameKind::Method, channel));
            prop_assert_eq!(method::peek_id(&frame), method.id());
            prop_assert_eq!(&Method::decode(frame.payload), &Ok(method.clone()));
        }
        prop_assert!(stream.is_empty());
    }

    #[test]
    fn a_frame_that_is_cut_is_waited_for(method in method(), cut in any::<prop::sample::Index>()) {
        let whole = frame_of(&method, 7);
        let cut = cut.index(whole.len());
        let mut input = BytesMut::from(&whole[..cut]);

        prop_assert_eq!(frame::decode(&mut input, u32::MAX), Ok(None));
        prop_assert_eq!(&input[..], &whole[..cut], "what is not whole is left as it is");
    }

    #[test]
    fn a_method_that_is_cut_inside_its_frame_is_a_syntax_error(
        method in method(), cut in any::<prop::sample::Index>(), more in vec(any::<u8>(), 1..4),
    ) {
        let payload = frame::decode(&mut frame_of(&method, 1), u32::MAX).unwrap().unwrap().payload;

        let short = Method::decode(payload.slice(..cut.index(payload.len())));
        prop_assert_eq!(short.unwrap_err().reply(), ReplyCode::SyntaxError);
        let long = Method::decode(Bytes::from([&payload[..], &more].concat()));
        prop_assert_eq!(long, Err(DecodeError::Trailing { what: "a method", bytes: more.len() }));
    }

    #[test]
    fn a_table_comes_back_in_its_order(entries in strategies::entries()) {
        let table = strategies::table(&entries);

        prop_assert_eq!(&Table::from_contents(table.as_bytes().clone()), &Ok(table.clone()));
        prop_assert_eq!(table.iter().collect::<Vec<_>>(), entries.clone());
        if let Some((name, _)) = entries.first().filter(|(name, _)| name.as_str().is_some()) {
            prop_assert_eq!(table.get(name.as_str().unwrap()), Some(entries[0].1.clone()));
        }
    }

    #[test]
    fn properties_come_back_in_their_order((list, encoded) in strategies::properties(), body_bytes: u64) {
        prop_assert_eq!(encoded.iter().collect::<Vec<_>>(), list);

        let mut out = BytesMut::new();
        content::encode(3, &encoded, &[], FRAME_BYTES_MIN, &mut out);
        let header = frame::decode(&mut out, u32::MAX).unwrap().unwrap();
        prop_assert_eq!((header.kind, header.channel), (FrameKind::Header, 3));
        let mut payload = BytesMut::from(&header.payload[..]);
        payload[4..12].copy_from_slice(&body_bytes.to_be_bytes());
        let read = ContentHeader::decode(payload.freeze());
        prop_assert_eq!(read, Ok(ContentHeader { body_bytes, properties: encoded }));
        prop_assert!(out.is_empty(), "an empty body has no frame");
    }

    #[test]
    fn headers_take_the_place_of_headers(
        (list, encoded) in strategies::properties(), entries in strategies::entries(),
    ) {
        let headers = strategies::table(&entries);
        let others = list.into_iter().filter(|property| !matches!(property, Property::Headers(_)));

        let expected = Properties::encode(others.chain([Property::Headers(headers.clone())]));
        prop_assert_eq!(encoded.with_headers(&headers), expected);
        let added = [("x-stream-offset", Value::I64(7)), ("x-note", "new".into())];
        let more = encoded.headers().unwrap_or_default().with(&added);
        prop_assert_eq!(encoded.with_more_headers(&added), encoded.with_headers(&more));
    }

    #[test]
    fn what_is_added_to_a_table_replaces_what_has_its_name(
        entries in strategies::entries(), added in strategies::entries(),
    ) {
        let is_text = |(name, _): &&(ShortString, Value)| name.as_str().is_some();
        let added: Vec<(&str, Value)> =
            added.iter().filter(is_text).map(|(name, value)| (name.as_str().unwrap(), value.clone())).collect();
        let kept = entries.iter().filter(|(name, _)| !added.iter().any(|(it, _)| it.as_bytes() == name.as_bytes()));
        let kept: Vec<(ShortString, Value)> = kept.cloned().collect();

        let all = strategies::table(&entries).with(&added);

        let written = added.iter().map(|(name, value)| (ShortString::truncated(name), value.clone()));
        prop_assert_eq!(all.iter().collect::<Vec<_>>(), kept.into_iter().chain(written).collect::<Vec<_>>());
    }

    #[test]
    fn a_body_is_cut_into_frames_as_large_as_agreed(body in vec(any::<u8>(), 0..20_000)) {
        let mut out = BytesMut::new();
        content::encode(1, &Properties::default(), &body, FRAME_BYTES_MIN, &mut out);

        let mut parts = Vec::new();
        while let Some(frame) = frame::decode(&mut out, FRAME_BYTES_MIN).unwrap() {
            parts.push(frame);
        }
        let bodies: Vec<u8> = parts[1..].iter().flat_map(|frame| frame.payload.to_vec()).collect();
        prop_assert_eq!(bodies, body);
        prop_assert!(parts[1..].iter().all(|frame| frame.kind == FrameKind::Body && !frame.payload.is_empty()));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_what_is_read_comes_back(
        bytes in vec(any::<u8>(), 0..200), class in 0u16..100, number in 0u16..130,
    ) {
        let mut input = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = frame::decode(&mut input, FRAME_BYTES_MIN) {}
        let _ = Greeting::take(&mut BytesMut::from(&bytes[..]));
        if let Ok(table) = Table::from_contents(Bytes::from(bytes.clone())) {
            prop_assert!(table.iter().count() <= bytes.len());
        }
        let ids = [class.to_be_bytes(), number.to_be_bytes()].concat();
        if let Ok(method) = Method::decode(Bytes::from([&ids[..], &bytes].concat())) {
            let again = frame::decode(&mut frame_of(&method, 1), u32::MAX).unwrap().unwrap();
            prop_assert_eq!(Method::decode(again.payload), Ok(method));
        }
        let header = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..], &bytes].concat();
        if let Ok(header) = ContentHeader::decode(Bytes::from(header)) {
            let list: Vec<Property> = header.properties.iter().collect();
            prop_assert_eq!(Properties::encode(list).iter().count(), header.properties.iter().count());
        }
    }
}

/// A table in a table in a table: `count` of them, the outermost one's contents.
fn nested(count: usize) -> Bytes {
    let mut contents: Vec<u8> = Vec::new();
    for _ in 1..count {
        let length = (contents.len() as u32).to_be_bytes();
        contents = [&[1, b'a', b'F'][..], &length, &contents].concat();
    }
    Bytes::from(contents)
}

#[test]
fn tables_are_nested_as_deep_as_allowed_and_no_deeper() {
    assert!(Table::from_contents(nested(DEPTH_MAX)).is_ok());
    let deeper = Table::from_contents(nested(DEPTH_MAX + 1));
    assert_eq!(deeper, Err(DecodeError::TooDeep { depth_max: DEPTH_MAX }));
    // As deep as a frame of 128 KiB can make it: refused before the stack is.
    let bomb = Table::from_contents(nested(18_000)).unwrap_err();
    assert_eq!(bomb.reply(), ReplyCode::SyntaxError);
}

#[test]
fn a_length_that_is_only_claimed_is_not_believed() {
    // Four GiB of text in a table of eleven bytes.
    let table = Bytes::from_static(b"\x01aS\xff\xff\xff\xffbody");
    assert_eq!(Table::from_contents(table), Err(DecodeError::Short { what: "a table" }));
    // A frame of four GiB: refused by its header.
    let mut input = BytesMut::from(&[3, 0, 1, 0xff, 0xff, 0xff, 0xff][..]);
    let error = frame::decode(&mut input, 131_072).unwrap_err();
    assert_eq!(error, DecodeError::FrameTooLarge { bytes: 0x1_0000_0007, bytes_max: 131_072 });
}

#[test]
fn a_frame_may_be_as_large_as_agreed() {
    let frame = |bytes: usize| {
        let mut out = BytesMut::new();
        frame::encode(FrameKind::Body, 1, &mut out, |out| out.resize(out.len() + bytes - 8, 0));
        out
    };

    assert!(frame::decode(&mut frame(4096), 4096).unwrap().is_some());
    let error = frame::decode(&mut frame(4097), 4096).unwrap_err();
    assert_eq!(error, DecodeError::FrameTooLarge { bytes: 4097, bytes_max: 4096 });
}

#[test]
fn bytes_that_are_no_frames_are_frame_errors() {
    let cases: [(&[u8], DecodeError); 4] = [
        (b"\x08\0\0\0\0\0\0\xcd", DecodeError::FrameEnd { found: 0xcd }),
        (b"\x04\0\0\0\0\0\0\xce", DecodeError::FrameKind { kind: 4 }),
        (b"\x08\0\x01\0\0\0\0\xce", DecodeError::Heartbeat { channel: 1, bytes: 0 }),
        (b"\x08\0\0\0\0\0\x01\0\xce", DecodeError::Heartbeat { channel: 0, bytes: 1 }),
    ];
    for (bytes, expected) in cases {
        let error = frame::decode(&mut BytesMut::from(bytes), 4096).unwrap_err();
        assert_eq!(error, expected);
        assert_eq!(error.reply(), ReplyCode::FrameError);
    }
}

#[test]
fn what_does_not_exist_has_a_reply_of_its_own() {
    let unknown = Method::decode(Bytes::from_static(b"\0\x3c\0\x63")).unwrap_err();
    assert_eq!(unknown, DecodeError::UnknownMethod { class: 60, method: 99 });
    assert_eq!(unknown.reply(), ReplyCode::NotImplemented);

    let content = ContentHeader::decode(Bytes::from_static(&[0, 50, 0, 0])).unwrap_err();
    assert_eq!(content, DecodeError::ContentClass { class: 50 });
    assert_eq!(content.reply(), ReplyCode::UnexpectedFrame);
}

#[test]
fn flags_go_on_for_as_long_as_they_say_and_name_nothing_unknown() {
    let header = |rest: &[u8]| {
        let bytes = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], rest].concat();
        ContentHeader::decode(Bytes::from(bytes)).map(|header| header.properties)
    };

    let priority = Properties::encode([Property::Priority(5)]);
    assert_eq!(header(&[0x08, 0x00, 5]), Ok(priority.clone()));
    assert_eq!(header(&[0x08, 0x01, 0, 1, 0, 0, 5]), Ok(priority));
    assert_eq!(
        header(&[0x08, 0x01, 0x80, 0, 5]),
        Err(DecodeError::PropertyFlags { flags: 0x8000 })
    );
    assert_eq!(header(&[0x08, 0x02, 5]), Err(DecodeError::PropertyFlags { flags: 0x0802 }));
    let short = Err(DecodeError::Short { what: "a content header" });
    assert_eq!(header(&[0x08, 0x01, 0]), short);
    assert_eq!(header(&[0x08, 0x00]), short);
}

#[test]
fn of_two_properties_of_a_kind_the_later_counts() {
    let properties = Properties::encode([
        Property::Priority(1),
        Property::DeliveryMode(2),
        Property::Priority(3),
    ]);

    let list: Vec<Property> = properties.iter().collect();
    assert_eq!(list, [Property::DeliveryMode(2), Property::Priority(3)]);
}

#[test]
fn a_greeting_is_known_as_soon_as_it_can_be() {
    let take = |bytes: &[u8]| Greeting::take(&mut BytesMut::from(bytes));

    assert_eq!(take(b"AMQP\0\0\x09\x01"), Some(Greeting::Amqp091));
    assert_eq!(take(b"AMQP\x03\x01\0\0"), Some(Greeting::Amqp10 { id: 3 }));
    assert_eq!(take(b"AMQP\x01\x01\x00\x09"), Some(Greeting::Unknown));
    assert_eq!(take(b"GET "), Some(Greeting::Unknown));
    assert_eq!(take(b"AMX"), Some(Greeting::Unknown));
    for cut in 0..8 {
        assert_eq!(take(&b"AMQP\0\0\x09\x01"[..cut]), None);
    }
}

#[test]
fn a_short_string_of_any_length_comes_back() {
    for bytes in [0, 1, 254, 255] {
        let name = ShortString::new(Bytes::from(vec![b'x'; bytes])).unwrap();
        let method = Method::from(method::BasicCancelOk { consumer_tag: name });
        let payload = frame::decode(&mut frame_of(&method, 1), 4096).unwrap().unwrap().payload;
        assert_eq!(Method::decode(payload), Ok(method));
    }
}
