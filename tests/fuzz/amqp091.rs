//! Bytes from anywhere, read as a stream of AMQP 0.9.1 after its greeting, or as one table.
//!
//! Nothing panics; what is read can be written, and comes back as it was; what is not whole is left as it is.

use bytes::{Bytes, BytesMut};
use fluxmq::protocol::amqp091::codec::frame::{self, FRAME_BYTES_MIN};
use fluxmq::protocol::amqp091::codec::{
    Array, ContentHeader, Frame, FrameKind, Greeting, Method, Properties, Table, Value, content,
};

/// Checks one input: its first byte chooses between a stream and a table, the others are it.
pub fn check(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    if first % 4 == 3 {
        if let Ok(table) = Table::from_contents(Bytes::copy_from_slice(rest)) {
            check_table(&table);
        }
        return;
    }
    let mut input = BytesMut::from(rest);
    if first % 4 == 2 && Greeting::take(&mut input) != Some(Greeting::Amqp091) {
        return;
    }
    loop {
        let before = input.clone();
        match frame::decode(&mut input, FRAME_BYTES_MIN) {
            Ok(None) => return assert_eq!(input, before, "what is not whole is left as it is"),
            Err(_) => return,
            Ok(Some(frame)) => {
                let taken = before.len() - input.len();
                assert_eq!(taken, frame.payload.len() + frame::FRAME_BYTES);
                assert!(taken <= FRAME_BYTES_MIN as usize, "no frame is longer than agreed");
                check_frame(&frame);
            }
        }
    }
}

fn check_frame(frame: &Frame) {
    let mut out = BytesMut::new();
    match frame.kind {
        FrameKind::Method => {
            let Ok(method) = Method::decode(frame.payload.clone()) else { return };
            method.encode(frame.channel, &mut out);
            assert_eq!(Method::decode(only_frame(out).payload), Ok(method));
        }
        FrameKind::Header => {
            let Ok(header) = ContentHeader::decode(frame.payload.clone()) else { return };
            header.properties.headers().iter().for_each(check_table);
            let list: Vec<_> = header.properties.iter().collect();
            let again = Properties::encode(list);
            assert_eq!(again, header.properties, "properties come back");
            content::encode(frame.channel, &again, &[], FRAME_BYTES_MIN, &mut out);
            let read = ContentHeader::decode(only_frame(out).payload);
            assert_eq!(read.map(|read| read.properties), Ok(again));
        }
        FrameKind::Body => {
            let body = &frame.payload;
            content::encode(1, &Properties::default(), body, FRAME_BYTES_MIN, &mut out);
            assert!(!out.is_empty());
        }
        FrameKind::Heartbeat => assert!(frame.payload.is_empty() && frame.channel == 0),
    }
}

fn only_frame(mut bytes: BytesMut) -> Frame {
    let frame = frame::decode(&mut bytes, u32::MAX);
    assert!(bytes.is_empty(), "one frame was written");
    frame.expect("what is written can be read").expect("it is whole")
}

/// Walks through everything in it: what was checked once can be read to its end.
fn check_table(table: &Table) {
    assert_eq!(Table::from_contents(table.as_bytes().clone()).as_ref(), Ok(table));
    let mut count = 0;
    for (_, value) in table.iter() {
        check_value(&value);
        count += 1;
    }
    assert!(2 * count <= table.as_bytes().len(), "an entry has two bytes or more");
    assert_eq!(table.iter_encoded().count(), count);
}

fn check_value(value: &Value) {
    match value {
        Value::Table(table) => check_table(table),
        Value::Array(array) => check_array(array),
        _ => {}
    }
}

fn check_array(array: &Array) {
    array.iter().for_each(|value| check_value(&value));
}
