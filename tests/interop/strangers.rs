//! Peers that are no MQTT clients, or bad ones, against the real binary: nothing of them stays, and what is said last is heard.
//!
//! Needs nothing installed. Sockets are plain, bytes are written down.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::process::{BrokerProcess, PATIENCE, Start};

/// CONNECT of a clean 3.1.1 session of client `c`.
const CONNECT_3: &[u8] = b"\x10\x0D\x00\x04MQTT\x04\x02\x00\x00\x00\x01c";
/// The same in 5.0.
const CONNECT_5: &[u8] = b"\x10\x0E\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01c";

/// What strangers say, some of it well-formed up to a point.
const SAID: [&[u8]; 8] = [
    b"",
    b"\x00\x00",
    b"\x10",
    b"\x10\xFF\xFF\xFF\x7F",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x00\xF4\x01\x00\x00\xF0\x03\x03",
    b"\x10\x0D\x00\x04MQTT\x04\x03\x00\x00\x00\x01c",
    b"\x10\x0D\x00\x04MQTT\x09\x02\x00\x00\x00\x01c",
];

fn dial(broker: &BrokerProcess) -> TcpStream {
    let stream = TcpStream::connect(broker.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads exactly so many bytes.
fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads until the broker closes.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the broker does not close: {error}"),
    }
    bytes
}

/// Connects until it is accepted: places come free a moment after their peers are gone.
fn connect_in_the_end(broker: &BrokerProcess) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stream = dial(broker);
        let mut answer = [0; 4];
        let sent = stream.write_all(CONNECT_3);
        let answered = sent.and_then(|()| stream.read_exact(&mut answer));
        // A broker without a place for us says so, or closes.
        if answered.is_ok() && answer == *b"\x20\x02\x00\x00" {
            return;
        }
        assert!(Instant::now() < deadline, "nobody is let in any more");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A peer that never completed CONNECT kept its place for ever.
#[test]
fn strangers_give_their_places_back() {
    let data = tempfile::tempdir().unwrap();
    let variables = vec![("FLUXMQ_LIMITS__CONNECTIONS_MAX", "20".to_owned())];
    let broker = BrokerProcess::start_with(data.path(), &Start { variables, ..Start::default() });
    for round in 0..20 {
        for said in SAID {
            let mut stream = dial(&broker);
            // It may be closed already, when all places are taken for a moment.
            let _ = stream.write_all(said);
            if round % 2 == 0 {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
    connect_in_the_end(&broker);
    let ended = broker.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}

#[cfg(target_os = "linux")]
#[test]
fn memory_goes_back_to_where_it_was() {
    let data = tempfile::tempdir().unwrap();
    let broker = BrokerProcess::start(data.path());
    let wave = |count: usize| {
        for number in 0..count {
            let mut stream = dial(&broker);
            let _ = stream.write_all(SAID[number % SAID.len()]);
            let mut stream = dial(&broker);
            stream.write_all(CONNECT_5).unwrap();
            // A publish that claims a megabyte, and sends a little of it.
            let _ = stream.write_all(b"\x30\xFF\xFF\x3F\x00\x01t\x00");
            let _ = stream.write_all(&[b'x'; 4_000]);
        }
        connect_in_the_end(&broker);
    };
    // The allocator keeps some of what a wave needed: the first one does not count.
    wave(3_000);
    let before = broker.resident_bytes();
    for _ in 0..3 {
        wave(3_000);
    }
    // 18,000 connections: two kilobytes of each that stayed would be seen. Those that closed last linger, and the allocator gives
    // back when it is used again.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let after = broker.resident_bytes();
        if after < before + (36 << 20) {
            return;
        }
        assert!(Instant::now() < deadline, "{before} bytes before, {after} after");
        std::thread::sleep(Duration::from_millis(500));
        connect_in_the_end(&broker);
    }
}

#[test]
fn a_client_that_sends_too_much_can_read_why_it_was_closed() {
    let data = tempfile::tempdir().unwrap();
    let broker = BrokerProcess::start(data.path());
    let mut stream = dial(&broker);
    stream.write_all(CONNECT_5).unwrap();
    assert_eq!(read(&mut stream, 1), b"\x20");
    let length = usize::from(read(&mut stream, 1)[0]);
    read(&mut stream, length);
    // One more than its receive maximum of 256, and on: nothing of what follows is read, and it is not to harm what was said.
    let mut flood = Vec::new();
    for packet_id in 1..=2_000_u16 {
        flood.extend_from_slice(b"\x34\x06\x00\x01t");
        flood.extend_from_slice(&packet_id.to_be_bytes());
        flood.push(0);
    }
    stream.write_all(&flood).unwrap();
    // A client that is slow to read, and goes on: a socket that was reset would refuse the second write.
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(60));
        stream.write_all(b"\x62\x02\x00\x01").expect("the socket is open until it was read");
    }
    let said = read_to_end(&mut stream);
    let disconnect = said.windows(3).any(|bytes| bytes[0] == 0xE0 && bytes[2] == 0x93);
    assert!(disconnect, "no DISCONNECT with 0x93 in {} bytes", said.len());
}
